//! Views straight from JPEG data against the plain way: decode everything, crop, resize.

#[path = "../../preprocess/tests/common/mod.rs"]
mod common;

use std::path::Path;

use common::differences;
use image::ImageEncoder;
use image::codecs::jpeg::JpegEncoder;
use occlude_preprocess::{CropBox, DecodeError, Interpolation, Limits, Rgb, decode, resize_crop};
use occlude_views::{Cut, ViewDecoder, ViewSize};
use proptest::prelude::*;

/// Mean absolute difference from the plain way, in steps of 1/255: that rounds to bytes four times on the way (after
/// the transform, the interpolation of chroma, the colours, the first pass), a view twice.
const MEAN: f64 = 0.75;
/// The same where the picture was decoded at a reduced size.
const REDUCED_MEAN: f64 = 1.5;

const FILES: [&str; 7] = ["444", "422", "420", "grey", "restart", "optimised", "progressive"];

fn file(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pictures");
    std::fs::read(folder.join(name).with_extension("jpg")).expect("a file of this checkout")
}

fn views(bytes: &[u8], size: &ViewSize, cuts: &[Cut]) -> Result<Vec<Vec<u8>>, DecodeError> {
    let mut decoder = ViewDecoder::new(Limits::default());
    let opened = decoder.open(bytes)?;
    let mut outs = vec![vec![1; 3 * size.side * size.side]; cuts.len()];
    let mut slices: Vec<_> = outs.iter_mut().map(Vec::as_mut_slice).collect();
    decoder.views(&opened, &vec![*size; cuts.len()], cuts, &mut slices)?;
    Ok(outs)
}

/// `(3, side, side)` by decoding everything.
fn plain(image: &Rgb, side: usize, cut: &Cut) -> Vec<u8> {
    let view = resize_crop(image, cut.crop, side as u32, side as u32, Interpolation::Bilinear);
    let at = |c: usize, y: usize, x: usize| view.data[(y * side + x) * 3 + c];
    let column = |x| if cut.flip { side - 1 - x } else { x };
    (0..3 * side * side).map(|i| at(i / (side * side), i / side % side, column(i % side))).collect()
}

fn mean(a: &[u8], b: &[u8]) -> f64 {
    differences(a.iter().map(|&v| f64::from(v)), b.iter().map(|&v| f64::from(v))).0
}

fn cut(left: f64, top: f64, width: f64, height: f64) -> Cut {
    Cut { crop: CropBox { left, top, width, height }, flip: false }
}

fn crops() -> [Cut; 6] {
    [
        cut(0.0, 0.0, 131.0, 83.0),
        cut(17.0, 9.0, 61.0, 50.0),
        cut(90.0, 40.0, 41.0, 43.0),
        cut(33.0, 17.0, 16.0, 16.0),
        cut(5.5, 7.25, 100.5, 60.0),
        cut(60.0, 30.0, 1.0, 1.0),
    ]
}

#[test]
fn views_are_crops_of_the_decoded_picture() {
    for name in FILES {
        let bytes = file(name);
        let image = decode(&bytes, &Limits::default()).expect("decodes").image;
        for side in [7, 40, 64, 150] {
            for (i, mut cut) in crops().into_iter().enumerate() {
                cut.flip = i % 2 == 1;
                let size = ViewSize { side, least_area: 0.0 };
                let ours = views(&bytes, &size, &[cut]).expect("decodes");
                let apart = mean(&ours[0], &plain(&image, side, &cut));
                // a single pixel has no mean over which rounding evens out
                let most = if cut.crop.width > 1.0 { MEAN } else { 2.0 };
                assert!(apart < most, "{name} {side} {cut:?}: {apart}");
            }
        }
    }
}

/// The EXIF block that says `orientation`, behind the start-of-image marker.
fn turned(bytes: &[u8], orientation: u8) -> Vec<u8> {
    let mut exif = b"\xff\xe1\x00\x22Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
    exif.extend([orientation, 0, 0, 0, 0, 0, 0]);
    [&bytes[..2], &exif, &bytes[2..]].concat()
}

#[test]
fn every_orientation() {
    for orientation in 1..=8 {
        let bytes = turned(&file("420"), orientation);
        let image = decode(&bytes, &Limits::default()).expect("decodes").image;
        let size = ViewSize { side: 48, least_area: 0.0 };
        let opened = ViewDecoder::new(Limits::default()).open(&bytes).expect("opens").size();
        assert_eq!(opened, (image.width, image.height), "{orientation}");
        assert_eq!(opened.0 == 83, orientation > 4, "the block is read");
        for flip in [false, true] {
            let cut = Cut { flip, ..cut(11.0, 20.0, 60.0, 45.0) };
            let ours = views(&bytes, &size, &[cut]).expect("decodes");
            let apart = mean(&ours[0], &plain(&image, 48, &cut));
            assert!(apart < MEAN, "{orientation} {flip}: {apart}");
        }
    }
}

#[test]
fn a_mirrored_view_is_the_view_mirrored() {
    let size = ViewSize { side: 30, least_area: 0.0 };
    let cut = cut(20.0, 3.0, 77.0, 64.0);
    let both = views(&file("420"), &size, &[cut, Cut { flip: true, ..cut }]).expect("decodes");
    let mirrored: Vec<u8> = both[0].chunks(30).flat_map(|row| row.iter().rev().copied()).collect();
    assert_eq!(both[1], mirrored);
}

fn scene(width: u32, height: u32) -> Vec<u8> {
    let mut out = Vec::new();
    let data: Vec<u8> = (0..height)
        .flat_map(|y| (0..width).map(move |x| (f64::from(x), f64::from(y))))
        .flat_map(|(x, y)| {
            let disc = if (x - 300.0).hypot(y - 200.0) < 120.0 { 60.0 } else { 0.0 };
            [128.0 + 60.0 * (x / 40.0).sin() + disc, 128.0 + 90.0 * (y / 55.0).cos(), 90.0 + disc + x / 20.0]
        })
        .map(|v| v as u8)
        .collect();
    let rgb = image::ExtendedColorType::Rgb8;
    JpegEncoder::new_with_quality(&mut out, 90).write_image(&data, width, height, rgb).expect("encodes");
    out
}

#[test]
fn large_pictures_are_decoded_at_a_reduced_size() {
    let bytes = scene(1203, 901);
    let image = decode(&bytes, &Limits::default()).expect("decodes").image;
    let decoder = || ViewDecoder::new(Limits::default());
    let kept = |size: &ViewSize| {
        let opened = decoder().open(&bytes).expect("opens");
        decoder().picture(&opened, &[*size]).expect("sound").bytes()
    };
    let whole = kept(&ViewSize { side: 32, least_area: 0.0 });
    for (side, reduction) in [(32, 8), (100, 4), (200, 2), (300, 1)] {
        let size = ViewSize { side, least_area: 0.2 };
        let share = whole as f64 / kept(&size) as f64;
        let expected = (reduction * reduction) as f64;
        assert!((share / expected - 1.0).abs() < 0.05, "{side}: {share}");
        for cut in [cut(0.0, 0.0, 1203.0, 901.0), cut(151.0, 77.0, 480.0, 460.0)] {
            let ours = views(&bytes, &size, &[cut]).expect("decodes");
            let apart = mean(&ours[0], &plain(&image, side, &cut));
            assert!(apart < REDUCED_MEAN, "{side}: {apart}");
        }
    }
}

#[test]
fn other_formats_go_the_plain_way() {
    let picture = common::picture(61, 47);
    let mut png = std::io::Cursor::new(Vec::new());
    let rgb = image::ExtendedColorType::Rgb8;
    image::write_buffer_with_format(&mut png, &picture.data, 61, 47, rgb, image::ImageFormat::Png)
        .expect("encodes");
    let cut = cut(4.0, 5.0, 50.0, 40.0);
    let ours = views(png.get_ref(), &ViewSize { side: 33, least_area: 0.2 }, &[cut]).expect("decodes");
    assert!(mean(&ours[0], &plain(&picture, 33, &cut)) < MEAN);
}

#[test]
fn crops_outside_the_picture_are_black() {
    let size = ViewSize { side: 9, least_area: 0.0 };
    for crop in [
        cut(131.0, 0.0, 5.0, 5.0),
        cut(0.0, -9.0, 5.0, 9.0),
        cut(f64::NAN, 0.0, 5.0, 5.0),
        cut(1.0, 1.0, 0.0, 4.0),
    ] {
        for name in ["420", "progressive"] {
            assert_eq!(views(&file(name), &size, &[crop]).expect("decodes")[0], [0; 3 * 81], "{crop:?}");
        }
    }
}

/// As decoding does: never half a picture, whatever the crop needs.
#[test]
fn a_cut_file_is_refused() {
    let size = ViewSize { side: 8, least_area: 0.0 };
    for name in ["420", "restart", "grey"] {
        let bytes = file(name);
        for length in 0..bytes.len() {
            let top = cut(0.0, 0.0, 20.0, 8.0);
            assert!(views(&bytes[..length], &size, &[top]).is_err(), "{name}: {length} of {}", bytes.len());
        }
    }
}

/// Cut anywhere behind its header, and given an end again: a crop that needs what is missing is refused, one that does
/// not is what it was. Grey never stands in for pixels.
#[test]
fn half_a_jpeg_with_an_end_has_no_views_of_what_is_missing() {
    let size = ViewSize { side: 8, least_area: 0.0 };
    let (top, bottom) = (cut(0.0, 0.0, 20.0, 8.0), cut(0.0, 60.0, 131.0, 23.0));
    for name in FILES {
        let whole = file(name);
        let sound = views(&whole, &size, &[top]).expect("sound");
        views(&whole, &size, &[bottom]).expect("sound");
        let start = whole.windows(2).position(|w| w == [0xff, 0xda]).expect("a scan") + 14;
        let mut refused = 0;
        for length in start..whole.len() - 2 {
            let bytes = [&whole[..length], &[0xff, 0xd9]].concat();
            let error = views(&bytes, &size, &[bottom]).expect_err("half a picture");
            let told = matches!(error, DecodeError::Incomplete { .. } | DecodeError::Truncated { .. });
            assert!(told, "{name}, {length} of {}: {error}", whole.len());
            match views(&bytes, &size, &[top]) {
                Ok(found) => assert!(found == sound, "{name}, {length} of {}", whole.len()),
                Err(_) => refused += 1,
            }
        }
        assert!(refused > 0, "{name}: what the crop needs was cut, too");
    }
}

#[test]
fn a_broken_end_hurts_only_the_crops_that_need_it() {
    let mut bytes = file("420");
    let end = bytes.len();
    bytes[end - 40..end - 10].fill(0xfe);
    let size = ViewSize { side: 24, least_area: 0.0 };
    let top = cut(0.0, 0.0, 131.0, 40.0);
    assert_eq!(
        views(&bytes, &size, &[top]).expect("sound there"),
        views(&file("420"), &size, &[top]).expect("sound")
    );
    let mut decoder = ViewDecoder::new(Limits::default());
    let opened = decoder.open(&bytes).expect("the header is sound");
    assert!(decoder.picture(&opened, &[size]).is_none());
}

#[test]
fn huge_declared_sizes_are_refused_by_the_header() {
    let mut bytes = file("420");
    let at = bytes.windows(2).position(|w| w == [0xff, 0xc0]).expect("a frame header");
    bytes[at + 5..at + 9].fill(0xff);
    let error = ViewDecoder::new(Limits::default()).open(&bytes).expect_err("too large");
    assert!(matches!(error, DecodeError::TooLarge { width: 65_535, height: 65_535, .. }), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Decoding a part gives what decoding everything gives, to the bit, and a decoder that has seen other files the
    /// same as a new one.
    #[test]
    fn parts_equal_the_whole(
        names in (0usize..7, 0usize..7),
        left in 0.0..140.0f64, top in 0.0..90.0f64, width in 0.0..140.0f64, height in 0.0..90.0f64,
        whole in any::<bool>(), flip in any::<bool>(), side in 1usize..50, other in 1usize..50, least_area in 0.0..1.0f64,
        orientation in 1u8..=8,
    ) {
        let round = |v: f64| if whole { v.round() } else { v };
        let cuts = [
            Cut { flip, ..cut(round(left), round(top), round(width), round(height)) },
            cut(round(top), round(left / 2.0), round(height), round(width)),
        ];
        // of two sizes: both come from one decoding, at the reduction that the more demanding one allows
        let sizes = [ViewSize { side, least_area }, ViewSize { side: other, least_area: least_area / 2.0 }];
        let mut decoder = ViewDecoder::new(Limits::default());
        for name in [names.0, names.1] {
            let bytes = turned(&file(FILES[name]), orientation);
            let opened = decoder.open(&bytes).expect("opens");
            let picture = decoder.picture(&opened, &sizes).expect("sound");
            prop_assert_eq!(picture.size(), opened.size());
            let mut seen = sizes.map(|size| vec![0; 3 * size.side * size.side]);
            let [a, b] = &mut seen;
            decoder.views(&opened, &sizes, &cuts, &mut [&mut a[..], &mut b[..]]).expect("decodes");
            let mut fresh = sizes.map(|size| vec![0; 3 * size.side * size.side]);
            let [a, b] = &mut fresh;
            let mut new = ViewDecoder::new(Limits::default());
            new.views(&new.open(&bytes).expect("opens"), &sizes, &cuts, &mut [&mut a[..], &mut b[..]]).expect("decodes");
            for (((cut, size), seen), fresh) in cuts.iter().zip(sizes).zip(&seen).zip(&fresh) {
                let mut from_whole = vec![0; seen.len()];
                decoder.cut(&picture, size.side, cut, &mut from_whole);
                prop_assert!(*seen == from_whole && seen == fresh);
            }
        }
    }

    /// Flipped bytes anywhere: an error or some view, never a panic; and no view of what is no picture to `decode`,
    /// unless the broken part was not needed.
    #[test]
    fn flipped_bytes_never_panic(
        name in 0usize..7,
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = file(FILES[name]);
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let limits = Limits { max_pixels: 1 << 20, max_side: 4096 };
        let mut decoder = ViewDecoder::new(limits);
        let size = ViewSize { side: 20, least_area: 0.1 };
        if let Ok(opened) = decoder.open(&bytes) {
            let mut out = vec![0; 3 * 20 * 20];
            let cuts = [cut(10.0, 10.0, 80.0, 60.0)];
            let seen = decoder.views(&opened, &[size], &cuts, &mut [&mut out[..]]);
            if let (Some(picture), Ok(())) = (decoder.picture(&opened, &[size]), seen) {
                let mut from_whole = vec![0; out.len()];
                decoder.cut(&picture, 20, &cuts[0], &mut from_whole);
                prop_assert_eq!(out, from_whole);
            }
        }
    }
}
