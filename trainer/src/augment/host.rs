//! The colour changes of [`super`] on the CPU: sample by sample, every pixel as often as it must be touched, in
//! blocks that stay in the first-level cache. Batched tensor operations read and write the whole batch for every
//! step of a formula, and blur a picture by multiplying it with a matrix of its own size.

use super::{BLUR_NEGLIGIBLE, GRAY, SOLARIZE, reflect};
use crate::data::Photometric;

/// Pixels that are worked on at a time.
const BLOCK: usize = 256;

/// What does not change from sample to sample.
#[derive(Clone, Debug)]
pub(super) struct Host {
    pub(super) mean: [f32; 3],
    pub(super) std: [f32; 3],
    /// Reach of a blur in pixels, below the side.
    pub(super) reach: usize,
}

/// Red, green and blue of a block.
type Pixels = [[f32; BLOCK]; 3];

impl Host {
    /// Changes the colours of views `(n, 3, side, side)`, 0 to 255, into normalised ones, on `threads` threads.
    ///
    /// # Panics
    /// When the lengths do not fit.
    pub(super) fn run(
        &self,
        pixels: &[u8],
        params: &[Photometric],
        side: usize,
        threads: usize,
        out: &mut [f32],
    ) {
        let view = 3 * side * side;
        assert!(pixels.len() == params.len() * view && out.len() == pixels.len());
        let share = params.len().div_ceil(threads.max(1)).max(1);
        let work = |pixels: &[u8], params: &[Photometric], out: &mut [f32]| {
            let mut scratch = vec![0.0; side * side];
            let views = pixels.chunks_exact(view).zip(out.chunks_exact_mut(view));
            for ((pixels, out), p) in views.zip(params) {
                self.view(pixels, p, side, &mut scratch, out);
            }
        };
        std::thread::scope(|scope| {
            let shares =
                pixels.chunks(share * view).zip(out.chunks_mut(share * view)).zip(params.chunks(share));
            let mut shares = shares.peekable();
            while let Some(((pixels, out), params)) = shares.next() {
                // the last share is this thread's own
                if shares.peek().is_some() {
                    scope.spawn(move || work(pixels, params, out));
                } else {
                    work(pixels, params, out);
                }
            }
        });
    }

    fn view(&self, pixels: &[u8], p: &Photometric, side: usize, scratch: &mut [f32], out: &mut [f32]) {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the instructions were found.
            return unsafe { self.view_avx2(pixels, p, side, scratch, out) };
        }
        self.body::<false>(pixels, p, side, scratch, out);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn view_avx2(&self, pixels: &[u8], p: &Photometric, side: usize, scratch: &mut [f32], out: &mut [f32]) {
        self.body::<true>(pixels, p, side, scratch, out);
    }

    #[inline(always)]
    fn body<const FMA: bool>(
        &self,
        pixels: &[u8],
        p: &Photometric,
        side: usize,
        scratch: &mut [f32],
        out: &mut [f32],
    ) {
        let area = side * side;
        let order: &[u8] = if p.jittered { &p.order } else { &[] };
        // contrast needs the mean of what it changes, so what comes before it is a pass of its own
        let split = order.iter().position(|&op| op == CONTRAST);
        let (before, after) = order.split_at(split.unwrap_or(0));
        let mut mean = 0.0f64;
        if split.is_some() {
            for start in (0..area).step_by(BLOCK) {
                let n = BLOCK.min(area - start);
                let mut block = load(pixels, area, start, n);
                for &op in before {
                    change(&mut block, op, p, 0.0);
                }
                let grey = grey(&block);
                mean += grey[..n].iter().map(|&v| f64::from(v)).sum::<f64>();
                store(&block, area, start, n, out, |_, v| v);
            }
        }
        let mean = (mean / area as f64) as f32;
        let blur = p.blur > 0.0;
        let scale = self.std.map(|s| 1.0 / s);
        let last = |c: usize, v: f32| {
            let v = if p.solarize && v >= SOLARIZE as f32 { 1.0 - v } else { v };
            (v - self.mean[c]) * scale[c]
        };
        for start in (0..area).step_by(BLOCK) {
            let n = BLOCK.min(area - start);
            let mut block =
                if split.is_some() { reload(out, area, start, n) } else { load(pixels, area, start, n) };
            for &op in after {
                change(&mut block, op, p, mean);
            }
            if p.gray {
                block = [grey(&block); 3];
            }
            if blur {
                store(&block, area, start, n, out, |_, v| v);
            } else {
                store(&block, area, start, n, out, last);
            }
        }
        if blur {
            let weights = gauss(p.blur, self.reach);
            for (c, plane) in out.chunks_exact_mut(area).enumerate() {
                soften::<FMA>(plane, side, &weights, scratch, |v| last(c, v));
            }
        }
    }
}

const BRIGHTNESS: u8 = 0;
const CONTRAST: u8 = 1;
const SATURATION: u8 = 2;

#[inline(always)]
fn load(pixels: &[u8], area: usize, start: usize, n: usize) -> Pixels {
    let mut block = [[0.0; BLOCK]; 3];
    for (c, channel) in block.iter_mut().enumerate() {
        for (out, &v) in channel.iter_mut().zip(&pixels[c * area + start..][..n]) {
            *out = f32::from(v) / 255.0;
        }
    }
    block
}

#[inline(always)]
fn reload(pixels: &[f32], area: usize, start: usize, n: usize) -> Pixels {
    let mut block = [[0.0; BLOCK]; 3];
    for (c, channel) in block.iter_mut().enumerate() {
        channel[..n].copy_from_slice(&pixels[c * area + start..][..n]);
    }
    block
}

#[inline(always)]
fn store(
    block: &Pixels,
    area: usize,
    start: usize,
    n: usize,
    out: &mut [f32],
    f: impl Fn(usize, f32) -> f32,
) {
    for (c, channel) in block.iter().enumerate() {
        for (out, &v) in out[c * area + start..][..n].iter_mut().zip(channel) {
            *out = f(c, v);
        }
    }
}

#[inline(always)]
fn grey(block: &Pixels) -> [f32; BLOCK] {
    let [r, g, b] = GRAY.map(|w| w as f32);
    std::array::from_fn(|i| block[0][i] * r + block[1][i] * g + block[2][i] * b)
}

/// One operation of the jitter.
#[inline(always)]
fn change(block: &mut Pixels, op: u8, p: &Photometric, mean: f32) {
    let Some(&factor) = p.jitter.get(usize::from(op)) else { return };
    match op {
        BRIGHTNESS => blend(block, factor, |_| 0.0),
        CONTRAST => blend(block, factor, |_| mean),
        SATURATION => {
            let grey = grey(block);
            blend(block, factor, |i| grey[i]);
        }
        _ => hue(block, factor),
    }
}

#[inline(always)]
fn blend(block: &mut Pixels, factor: f32, other: impl Fn(usize) -> f32) {
    for channel in block {
        for (i, v) in channel.iter_mut().enumerate() {
            *v = (*v * factor + other(i) * (1.0 - factor)).clamp(0.0, 1.0);
        }
    }
}

/// As the hue of the tensor operators.
#[inline(always)]
fn hue(block: &mut Pixels, shift: f32) {
    let [red, green, blue] = block;
    for i in 0..BLOCK {
        let (r, g, b) = (red[i], green[i], blue[i]);
        let value = r.max(g).max(b);
        let chroma = value - r.min(g).min(b);
        let per = 1.0 / chroma.max(1e-12);
        let others = if value == g { (b - r) * per + 2.0 } else { (r - g) * per + 4.0 };
        let turned = (if value == r { (g - b) * per } else { others }) + shift * 6.0;
        let channel = |n: f32| {
            let k = turned + n;
            let k = k - (k * (1.0 / 6.0)).floor() * 6.0;
            value - k.min(4.0 - k).clamp(0.0, 1.0) * chroma
        };
        (red[i], green[i], blue[i]) = (channel(5.0), channel(3.0), channel(1.0));
    }
}

/// The middle of a Gaussian of `2 * reach + 1` taps that sum to 1, and one side of it as far as it matters.
fn gauss(sigma: f32, reach: usize) -> Vec<f32> {
    let mut taps: Vec<f32> = (0..=reach).map(|t| (-0.5 * (t as f32 / sigma).powi(2)).exp()).collect();
    let sum: f32 = taps[0] + 2.0 * taps[1..].iter().sum::<f32>();
    taps.iter_mut().for_each(|w| *w /= sum);
    taps.truncate(taps.iter().rposition(|&w| w > BLUR_NEGLIGIBLE).unwrap_or(0) + 1);
    taps
}

#[inline(always)]
fn add<const FMA: bool>(sum: f32, v: f32, w: f32) -> f32 {
    if FMA { v.mul_add(w, sum) } else { sum + v * w }
}

/// Blurs a plane along both axes and maps the result by `f`.
#[inline(always)]
fn soften<const FMA: bool>(
    plane: &mut [f32],
    side: usize,
    weights: &[f32],
    scratch: &mut [f32],
    f: impl Fn(f32) -> f32,
) {
    let (middle, weights) = (weights[0], &weights[1..]);
    let at = |i: usize, offset: isize| reflect(i as i64 + offset as i64, side as i64) as usize;
    for (y, out) in scratch.chunks_exact_mut(side).enumerate() {
        let row = |offset: isize| &plane[at(y, offset) * side..][..side];
        out.iter_mut().zip(row(0)).for_each(|(out, &v)| *out = v * middle);
        for (t, &w) in (1isize..).zip(weights) {
            for ((out, &a), &b) in out.iter_mut().zip(row(-t)).zip(row(t)) {
                *out = add::<FMA>(*out, a + b, w);
            }
        }
    }
    let reach = weights.len();
    let mut padded = vec![0.0; side + 2 * reach];
    for (row, out) in scratch.chunks_exact(side).zip(plane.chunks_exact_mut(side)) {
        padded[reach..reach + side].copy_from_slice(row);
        for t in 1..=reach {
            padded[reach - t] = row[at(0, -(t as isize))];
            padded[reach + side - 1 + t] = row[at(side - 1, t as isize)];
        }
        out.iter_mut().zip(row).for_each(|(out, &v)| *out = v * middle);
        for (t, &w) in (1..).zip(weights) {
            let (left, right) = (&padded[reach - t..][..side], &padded[reach + t..][..side]);
            for ((out, &a), &b) in out.iter_mut().zip(left).zip(right) {
                *out = add::<FMA>(*out, a + b, w);
            }
        }
        out.iter_mut().for_each(|v| *v = f(*v));
    }
}
