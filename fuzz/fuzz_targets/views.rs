//! Any bytes as a picture of which a training view is wanted.
#![no_main]

use libfuzzer_sys::fuzz_target;
use occlude_preprocess::{CropBox, Limits};
use occlude_views::{Cut, ViewDecoder, ViewSize};

const SIDE: usize = 16;

fuzz_target!(|data: &[u8]| {
    let mut decoder = ViewDecoder::new(Limits { max_pixels: 1 << 18, max_side: 4096 });
    let Ok(opened) = decoder.open(data) else { return };
    let (width, height) = opened.size();
    let (w, h) = (f64::from(width), f64::from(height));
    let part = CropBox { left: w * 0.25, top: h * 0.125, width: w * 0.5, height: h * 0.25 };
    let cut = Cut { crop: part, flip: true };
    for least_area in [0.0, 0.5] {
        let size = ViewSize { side: SIDE, least_area };
        let mut out = [vec![0; 3 * SIDE * SIDE], vec![0; 3 * SIDE * SIDE]];
        let seen = decoder.views(&opened, &[size], &[cut], &mut [&mut out[0]]);
        // of a sound picture the part is what it is in the whole
        let Some(picture) = decoder.picture(&opened, &[size]) else { continue };
        assert!(seen.is_ok() && picture.size() == (width, height));
        decoder.cut(&picture, SIDE, &cut, &mut out[1]);
        assert!(out[0] == out[1]);
    }
});
