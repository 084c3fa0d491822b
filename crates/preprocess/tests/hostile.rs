//! Broken, hostile and odd picture files: a clear error for each, and never a panic.

mod common;

use std::io::Cursor;
use std::path::Path;

use image::codecs::jpeg::JpegEncoder;
use image::{ExtendedColorType, ImageEncoder, ImageFormat};
use occlude_preprocess::{DecodeError, Format, Limits, LoadError, decode, load};

const SIZE: (u32, u32) = (40, 30);

fn encoded(format: Format) -> Vec<u8> {
    let picture = common::picture(SIZE.0, SIZE.1);
    let mut out = Cursor::new(Vec::new());
    let (w, h, rgb) = (SIZE.0, SIZE.1, ExtendedColorType::Rgb8);
    match format {
        Format::Jpeg => JpegEncoder::new(&mut out).write_image(&picture.data, w, h, rgb),
        Format::Png => image::write_buffer_with_format(&mut out, &picture.data, w, h, rgb, ImageFormat::Png),
        Format::WebP => {
            image::write_buffer_with_format(&mut out, &picture.data, w, h, rgb, ImageFormat::WebP)
        }
        Format::Bmp => image::write_buffer_with_format(&mut out, &picture.data, w, h, rgb, ImageFormat::Bmp),
        Format::Gif => image::write_buffer_with_format(&mut out, &picture.data, w, h, rgb, ImageFormat::Gif),
        Format::Tiff => {
            image::write_buffer_with_format(&mut out, &picture.data, w, h, rgb, ImageFormat::Tiff)
        }
    }
    .expect("encodes");
    out.into_inner()
}

fn error(bytes: &[u8]) -> DecodeError {
    decode(bytes, &Limits::default()).expect_err("not a usable picture")
}

/// The file with its declared size replaced; the checksum of a PNG header is made right again.
fn with_size(format: Format, width: u32, height: u32) -> Vec<u8> {
    let mut bytes = encoded(format);
    match format {
        Format::Jpeg => {
            let at = bytes.windows(2).position(|w| w == [0xff, 0xc0]).expect("a frame header");
            bytes[at + 5..at + 7].copy_from_slice(&(height as u16).to_be_bytes());
            bytes[at + 7..at + 9].copy_from_slice(&(width as u16).to_be_bytes());
        }
        Format::Png => {
            bytes[16..20].copy_from_slice(&width.to_be_bytes());
            bytes[20..24].copy_from_slice(&height.to_be_bytes());
            let checksum = crc32(&bytes[12..29]);
            bytes[29..33].copy_from_slice(&checksum.to_be_bytes());
        }
        // VP8L: 14 bits each of width - 1 and height - 1 after the signature byte.
        Format::WebP => {
            let at = bytes.windows(4).position(|w| w == b"VP8L").expect("lossless") + 9;
            let old = u32::from_le_bytes(*bytes[at..].first_chunk().expect("four bytes"));
            let new = (old & 0xf000_0000) | (width - 1) | ((height - 1) << 14);
            bytes[at..at + 4].copy_from_slice(&new.to_le_bytes());
        }
        Format::Bmp => {
            bytes[18..22].copy_from_slice(&width.to_le_bytes());
            bytes[22..26].copy_from_slice(&height.to_le_bytes());
        }
        Format::Gif => {
            bytes[6..8].copy_from_slice(&(width as u16).to_le_bytes());
            bytes[8..10].copy_from_slice(&(height as u16).to_le_bytes());
        }
        // the values of the tags 256 and 257
        Format::Tiff => {
            for (tag, side) in [([0u8, 1], width), ([1, 1], height)] {
                let at = bytes.windows(2).rposition(|w| w == tag).expect("a tag") + 8;
                bytes[at..at + 4].copy_from_slice(&side.to_le_bytes());
            }
        }
    }
    bytes
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &b| {
        (0..8).fold(crc ^ u32::from(b), |c, _| (c >> 1) ^ (0xedb8_8320 & (c & 1).wrapping_neg()))
    })
}

const FORMATS: [Format; 6] = Format::ALL;

#[test]
fn empty() {
    assert!(matches!(error(b""), DecodeError::Empty));
}

#[test]
fn not_a_picture() {
    let err = error(b"<html>not found</html>");
    assert!(matches!(err, DecodeError::UnknownFormat { .. }));
    assert!(err.to_string().contains("`<html>no`"), "{err}");
}

#[test]
fn other_formats_are_named() {
    for (bytes, name) in [
        (&b"\0\0\0\x1cftypavif...."[..], "AVIF"),
        (b"\0\0\0\x1cftypheic....", "HEIC"),
        (b"8BPS....", "Photoshop"),
    ] {
        assert!(matches!(error(bytes), DecodeError::OtherFormat { name: found } if found == name));
    }
}

#[test]
fn huge_declared_sizes_cost_no_memory() {
    let before = peak_memory();
    for (format, w, h) in [
        (Format::Jpeg, 60_000, 60_000),
        (Format::Png, 2_000_000_000, 2_000_000_000),
        (Format::WebP, 16_000, 16_000),
        (Format::Bmp, 30_000, 30_000),
        (Format::Gif, 60_000, 60_000),
    ] {
        let err = error(&with_size(format, w, h));
        assert!(
            matches!(err, DecodeError::TooLarge { width, height, .. } if (width, height) == (w, h)),
            "{format:?}: {err}"
        );
    }
    assert!(peak_memory() - before < 64 << 10, "in KiB");
}

/// Peak resident memory of this process in KiB, as Linux counts it; zero elsewhere.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

#[test]
fn limits_are_the_callers() {
    for format in FORMATS {
        let bytes = encoded(format);
        for limits in [Limits { max_pixels: 1199, max_side: 100 }, Limits { max_pixels: 9999, max_side: 39 }]
        {
            let err = decode(&bytes, &limits).expect_err("too large");
            assert!(matches!(err, DecodeError::TooLarge { width: 40, height: 30, .. }), "{format:?}: {err}");
        }
        assert!(decode(&bytes, &Limits { max_pixels: 1200, max_side: 40 }).is_ok());
    }
}

#[test]
fn zero_sizes() {
    assert!(matches!(error(&with_size(Format::Png, 0, 30)), DecodeError::ZeroSize { width: 0, .. }));
    assert!(matches!(error(&with_size(Format::Jpeg, 0, 30)), DecodeError::ZeroSize { .. }));
}

#[test]
fn truncated() {
    for format in FORMATS {
        let bytes = encoded(format);
        let half = error(&bytes[..bytes.len() / 2]);
        // a TIFF's directory may lie behind its pixels
        let told = matches!(half, DecodeError::Truncated { format: found } if found == format);
        assert!(told || (format == Format::Tiff && half.to_string().contains("TIFF")), "{format:?}: {half}");
    }
}

fn view_file(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../views/tests/pictures");
    std::fs::read(folder.join(name).with_extension("jpg")).expect("a file of this checkout")
}

/// Cut anywhere behind its header, and given an end again: decoders fill up with grey what is missing.
#[test]
fn half_a_jpeg_with_an_end_is_never_a_picture() {
    for name in ["444", "422", "420", "grey", "restart", "optimised", "progressive"] {
        let whole = view_file(name);
        assert!(decode(&whole, &Limits::default()).is_ok(), "{name}");
        let start = whole.windows(2).position(|w| w == [0xff, 0xda]).expect("a scan") + 14;
        for cut in start..whole.len() - 2 {
            let bytes = [&whole[..cut], &[0xff, 0xd9]].concat();
            let error = decode(&bytes, &Limits::default()).expect_err("half a picture");
            let told = matches!(error, DecodeError::Incomplete { .. } | DecodeError::Truncated { .. });
            assert!(told, "{name}, {cut} of {}: {error}", whole.len());
        }
    }
}

/// Without one of its scans a progressive picture is a blurred one, or has no colours.
#[test]
fn a_jpeg_without_one_of_its_scans_is_told() {
    let whole = view_file("progressive");
    let scans: Vec<usize> = (0..whole.len() - 1).filter(|&i| whole[i..i + 2] == [0xff, 0xda]).collect();
    assert!(scans.len() > 4);
    for pair in scans.windows(2) {
        let bytes = [&whole[..pair[0]], &whole[pair[1]..]].concat();
        let error = error(&bytes);
        assert!(matches!(error, DecodeError::Incomplete { .. }), "{error}");
    }
    let first = error(&[&whole[..scans[1]], &[0xff, 0xd9]].concat());
    assert!(first.to_string().contains("incomplete JPEG: its 1 scans do not have all"), "{first}");
}

/// A JPEG cut anywhere is refused: the decoder itself would fill the rest with grey.
#[test]
fn a_cut_jpeg_is_never_half_a_picture() {
    let bytes = encoded(Format::Jpeg);
    for cut in 0..bytes.len() {
        assert!(decode(&bytes[..cut], &Limits::default()).is_err(), "{cut} of {}", bytes.len());
    }
}

#[test]
fn unsupported_kinds() {
    let mut bytes = encoded(Format::Jpeg);
    let at = bytes.windows(2).position(|w| w == [0xff, 0xc0]).expect("a frame header");
    // Arithmetic coding.
    bytes[at + 1] = 0xc9;
    let err = error(&bytes);
    assert!(matches!(err, DecodeError::Unsupported { format: Format::Jpeg, .. }), "{err}");
}

#[test]
fn corrupt() {
    let mut png = encoded(Format::Png);
    let last = png.len() - 30;
    png[last] ^= 0x55;
    assert!(matches!(error(&png), DecodeError::Corrupt { format: Format::Png, .. }));
    let mut webp = encoded(Format::WebP);
    webp[20] ^= 0xff;
    assert!(matches!(error(&webp), DecodeError::Corrupt { format: Format::WebP, .. }));
}

/// Each scan costs a pass over all pixels.
#[test]
fn a_jpeg_of_a_thousand_scans_is_refused() {
    let mut bytes = encoded(Format::Jpeg);
    let end = bytes.len() - 2;
    bytes.truncate(end);
    bytes.extend([0xff, 0xda, 0, 8, 1, 1, 0, 0, 63, 0].repeat(1000));
    bytes.extend([0xff, 0xd9]);
    let err = error(&bytes);
    assert!(err.to_string().contains("1001 scans"), "{err}");
}

/// Flipped bytes anywhere: an error or some picture of the declared size, never a panic that the
/// guard around the decoders had to catch.
#[test]
fn flipped_bytes_never_panic() {
    let limits = Limits { max_pixels: 1 << 20, max_side: 4096 };
    let mut random = 7u64;
    let mut next = move || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize
    };
    for format in FORMATS {
        let whole = encoded(format);
        for _ in 0..4000 {
            let mut bytes = whole.clone();
            for _ in 0..1 + next() % 4 {
                let at = next() % bytes.len();
                bytes[at] = next() as u8;
            }
            match decode(&bytes, &limits) {
                Ok(out) => {
                    assert_eq!(out.image.data.len(), (out.image.width * out.image.height * 3) as usize);
                }
                Err(err) => assert!(!err.to_string().contains("gave up"), "{format:?}"),
            }
        }
    }
}

#[test]
fn loading_names_the_file() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let missing = folder.path().join("missing.jpg");
    let err = load(&missing, &Limits::default()).expect_err("no such file");
    assert!(matches!(&err, LoadError::Read { path, .. } if *path == missing));
    let text = folder.path().join("text.jpg");
    std::fs::write(&text, "hello").expect("writes");
    let err = load(&text, &Limits::default()).expect_err("not a picture");
    assert!(matches!(&err, LoadError::Decode { path, .. } if *path == text));
    assert!(err.to_string().contains("text.jpg"), "{err}");
    let broken = folder.path().join("ok.jpg");
    std::fs::write(&broken, encoded(Format::Png)).expect("writes");
    let decoded = load(Path::new(&broken), &Limits::default()).expect("content decides, not the name");
    assert_eq!(decoded.format, Format::Png);
    assert_eq!(decoded.image, common::picture(SIZE.0, SIZE.1));
}
