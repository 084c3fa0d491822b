//! Masks as PNG files.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use occlude_preprocess::{Limits, files, names};
use occlude_saliency::Mask;
use png::{BitDepth, ColorType, Decoder, Transformations};

/// The mask in the file at `path`, of a picture of `width` x `height` pixels that is called `picture`.
///
/// Foreground is what is not zero: a bit, a grey value, an index into the palette, any of three colours. Of a file with an
/// alpha channel that is not opaque everywhere, it is what is at least half opaque.
///
/// # Errors
/// Where the file cannot be read, is no PNG, is broken, or has another size, which is told before memory is taken.
pub(super) fn read(path: &Path, picture: &str, (width, height): (u32, u32)) -> Result<Mask> {
    let name = || format!("mask `{}`", names::of_path(path));
    let mut bytes = Vec::new();
    let file = files::open(path).with_context(|| format!("cannot read {}", name()))?;
    let most = Limits::default().max_pixels * 8;
    std::io::Read::read_to_end(&mut std::io::Read::take(file, most), &mut bytes)
        .with_context(|| format!("cannot read {}", name()))?;
    ensure!(
        bytes.starts_with(b"\x89PNG\r\n\x1a\n"),
        "{} is not a PNG file; hint: masks are PNG files with 1 or 8 bits per pixel or a palette",
        name()
    );
    let mut decoder = Decoder::new(std::io::Cursor::new(bytes));
    decoder.set_transformations(Transformations::IDENTITY);
    let mut reader = decoder.read_info().with_context(|| format!("{} is broken", name()))?;
    let size = reader.info().size();
    if size != (width, height) {
        bail!(
            "{} is {}x{} pixels, and its picture `{picture}` is {width}x{height} upright; hint: a mask must have the size of its picture",
            name(),
            size.0,
            size.1
        );
    }
    let len = reader.output_buffer_size().with_context(|| format!("{} is too large", name()))?;
    let mut data = vec![0; len];
    let frame = reader.next_frame(&mut data).with_context(|| format!("{} is broken", name()))?;
    let row = |line: &[u8]| samples(line, frame.bit_depth, width as usize * frame.color_type.samples());
    let values: Vec<u16> = data.chunks_exact(frame.line_size.max(1)).flat_map(row).collect();
    let cells = foreground(&values, frame.color_type, frame.bit_depth);
    Mask::new(height as usize, width as usize, cells).with_context(name)
}

/// The first `n` samples of a line.
fn samples(line: &[u8], depth: BitDepth, n: usize) -> Vec<u16> {
    let bits = depth as usize;
    match depth {
        BitDepth::Sixteen => line.as_chunks::<2>().0.iter().map(|&pair| u16::from_be_bytes(pair)).collect(),
        BitDepth::Eight => line.iter().map(|&v| u16::from(v)).collect(),
        _ => {
            let mask = (1u8 << bits) - 1;
            let of = |&byte: &u8| (0..8 / bits).map(move |i| u16::from(byte >> (8 - bits * (i + 1)) & mask));
            line.iter().flat_map(of).take(n).collect()
        }
    }
}

fn foreground(values: &[u16], colour: ColorType, depth: BitDepth) -> Vec<bool> {
    let channels = colour.samples();
    let opaque = if depth == BitDepth::Sixteen { u16::MAX } else { 255 };
    let pixels = || values.chunks_exact(channels);
    let alpha = |pixel: &[u16]| pixel.last().copied().unwrap_or(opaque);
    if matches!(colour, ColorType::GrayscaleAlpha | ColorType::Rgba) {
        if pixels().any(|pixel| alpha(pixel) < opaque) {
            return pixels().map(|pixel| alpha(pixel) > opaque / 2).collect();
        }
        return pixels().map(|pixel| pixel[..channels - 1].iter().any(|&v| v > 0)).collect();
    }
    pixels().map(|pixel| pixel.iter().any(|&v| v > 0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    /// A picture of 3 x 2 pixels in packed lines.
    fn write(dir: &Path, colour: ColorType, depth: BitDepth, data: &[u8]) -> PathBuf {
        let path = dir.join("m.png");
        let file = std::fs::File::create(&path).expect("created");
        let mut encoder = png::Encoder::new(file, 3, 2);
        encoder.set_color(colour);
        encoder.set_depth(depth);
        if colour == ColorType::Indexed {
            // the colour of the background is not black, that of an object is
            encoder.set_palette([200, 10, 10, 0, 0, 0, 9, 9, 9, 8, 8, 8].as_slice());
        }
        encoder.write_header().expect("header").write_image_data(data).expect("written");
        path
    }

    #[test]
    fn every_kind_of_mask_is_read() {
        let dir = tempfile::tempdir().expect("a folder");
        use BitDepth as D;
        use ColorType as C;
        let expected = [false, true, false, true, true, false];
        let rgba = |alpha: [u8; 6], red: [u8; 6]| -> Vec<u8> {
            alpha.into_iter().zip(red).flat_map(|(a, r)| [r, 0, 0, a]).collect()
        };
        for (colour, depth, data) in [
            (C::Grayscale, D::One, vec![0b0100_0000, 0b1100_0000]),
            (C::Grayscale, D::Two, vec![0b0001_0000, 0b1110_0000]),
            (C::Grayscale, D::Four, vec![0x01, 0x00, 0xf2, 0x00]),
            (C::Grayscale, D::Eight, vec![0, 1, 0, 255, 7, 0]),
            (C::Grayscale, D::Sixteen, vec![0, 0, 0, 1, 0, 0, 255, 0, 7, 7, 0, 0]),
            (C::Indexed, D::Two, vec![0b0001_0000, 0b1110_0000]),
            (C::Indexed, D::Eight, vec![0, 1, 0, 3, 2, 0]),
            (C::Rgb, D::Eight, vec![0, 0, 0, 0, 9, 0, 0, 0, 0, 1, 0, 0, 0, 0, 5, 0, 0, 0]),
            (C::GrayscaleAlpha, D::Eight, vec![9, 0, 9, 255, 9, 127, 0, 128, 9, 200, 9, 1]),
            (C::Rgba, D::Eight, rgba([0, 255, 10, 128, 200, 127], [50; 6])),
            (C::Rgba, D::Eight, rgba([255; 6], [0, 3, 0, 255, 1, 0])),
        ] {
            let path = write(dir.path(), colour, depth, &data);
            let mask = read(&path, "p.jpg", (3, 2)).expect("a mask");
            assert_eq!(mask.cells(), expected, "{colour:?} {depth:?}");
        }
    }

    #[test]
    fn what_is_no_mask_is_told() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = write(dir.path(), ColorType::Grayscale, BitDepth::Eight, &[0, 1, 0, 255, 7, 0]);
        let error = |size| format!("{:#}", read(&path, "p.jpg", size).expect_err("refused"));
        let told = error((2, 3));
        assert!(told.contains("3x2") && told.contains("2x3") && told.contains("p.jpg"), "{told}");
        let whole = std::fs::read(&path).expect("read");
        for cut in [20, 45] {
            std::fs::write(&path, &whole[..cut]).expect("written");
            let told = error((3, 2));
            assert!(told.contains("m.png") && told.contains("broken"), "{cut}: {told}");
        }
        std::fs::write(&path, b"\xff\xd8\xff\xe0 a photo").expect("written");
        assert!(error((3, 2)).contains("is not a PNG file"), "{}", error((3, 2)));
        std::fs::remove_file(&path).expect("removed");
        assert!(error((3, 2)).contains("cannot read mask"));
    }
}
