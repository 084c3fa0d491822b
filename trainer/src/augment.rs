//! Colour changes of a batch of views, on the device.
//!
//! Geometry happened on the CPU (`data`); here every operation is one tensor operation over the
//! batch, with the parameters that were drawn per sample; on the CPU itself, where that is slow, the
//! same is computed sample by sample (`host`). The operations are torchvision's on
//! float images in 0..1: `adjust_brightness`, `adjust_contrast`, `adjust_saturation`,
//! `adjust_hue`, `rgb_to_grayscale`, `gaussian_blur`, `solarize`, `normalize`.

mod host;

use host::Host;
use occlude_preprocess::{HighPass, Preprocess};
use tch::{Device, IndexOp, Kind, Tensor};

use crate::data::{Photometric, View};
use crate::device::upload;

/// Weights of red, green and blue in grey (ITU-R 601, as torchvision has them).
const GRAY: [f64; 3] = [0.2989, 0.587, 0.114];
/// Reach of a blur: the Gaussian is cut at three times the largest sigma a recipe draws.
const BLUR_REACH: f64 = 3.0;
/// Taps of a blur on the CPU that are left out: a hundredth of what an 8-bit level is.
const BLUR_NEGLIGIBLE: f32 = 3e-7;

/// Turns cropped views into network input.
#[derive(Debug)]
pub struct Augmenter {
    device: Device,
    mean: Tensor,
    std: Tensor,
    blur: Blur,
    host: Host,
}

impl Augmenter {
    /// For views of side `size`, blurred with a sigma of at most `max_sigma` pixels, normalised as
    /// `preprocess` says (its high-pass is the masking's business).
    pub fn new(preprocess: &Preprocess, size: usize, max_sigma: f64, device: Device) -> Self {
        let channel = |values: [f32; 3]| Tensor::from_slice(&values).view([1, 3, 1, 1]).to(device);
        let reach = ((BLUR_REACH * max_sigma).ceil().max(1.0) as i64).min(size as i64 - 1);
        Self {
            device,
            mean: channel(preprocess.mean),
            std: channel(preprocess.std),
            blur: Blur::new(size as i64, reach, device),
            host: Host { mean: preprocess.mean, std: preprocess.std, reach: reach as usize },
        }
    }

    /// The normalised view, `(B, 3, S, S)`.
    pub fn apply(&self, view: &View, size: usize) -> Tensor {
        if self.device == Device::Cpu { self.on_host(view, size) } else { self.batched(view, size) }
    }

    fn on_host(&self, view: &View, size: usize) -> Tensor {
        let (n, s) = (view.photometric.len() as i64, size as i64);
        let out = Tensor::empty([n, 3, s, s], (Kind::Float, Device::Cpu));
        // SAFETY: a new tensor is contiguous and nobody else's; it lives until the end of this function.
        let values = unsafe { std::slice::from_raw_parts_mut(out.data_ptr().cast::<f32>(), out.numel()) };
        let threads = usize::try_from(tch::get_num_threads()).unwrap_or(1);
        self.host.run(&view.pixels, &view.photometric, size, threads, values);
        out
    }

    fn batched(&self, view: &View, size: usize) -> Tensor {
        let (n, s) = (view.photometric.len() as i64, size as i64);
        let pixels = upload(&Tensor::from_slice(&view.pixels).view([n, 3, s, s]), self.device);
        self.on_device(&pixels, &view.photometric)
    }

    /// The normalised view of pixels that are on the device, `(B, 3, S, S)`.
    pub fn on_device(&self, pixels: &Tensor, params: &[Photometric]) -> Tensor {
        let x = pixels.to_kind(Kind::Float) / 255.0; // (B, 3, S, S)
        let x = jitter(x, params);
        let x = grayscale(x, params);
        let x = self.blur.some(x, params);
        let x = solarize(x, params);
        (x - &self.mean) / &self.std
    }
}

/// A `(B, 1, 1, 1)` column of one number a sample.
fn column(params: &[Photometric], device: Device, f: impl Fn(&Photometric) -> f32) -> Tensor {
    let values: Vec<f32> = params.iter().map(f).collect();
    upload(&Tensor::from_slice(&values).view([-1, 1, 1, 1]), device)
}

/// Positions of the samples that fulfil `f`, or `None` where there are none.
fn positions(params: &[Photometric], device: Device, f: impl Fn(&Photometric) -> bool) -> Option<Tensor> {
    let at: Vec<i64> = (0i64..).zip(params).filter(|(_, p)| f(p)).map(|(i, _)| i).collect();
    (!at.is_empty()).then(|| upload(&Tensor::from_slice(&at), device))
}

/// Grey of `(B, 3, S, S)` as `(B, 1, S, S)`.
fn gray(x: &Tensor) -> Tensor {
    x.i((.., 0..1)) * GRAY[0] + x.i((.., 1..2)) * GRAY[1] + x.i((.., 2..3)) * GRAY[2]
}

/// Brightness (0), contrast (1), saturation (2) and hue (3), in each sample's own order.
///
/// The first three blend the image with black, with its mean grey or with its grey, so one pass
/// serves a batch in which every sample is at another of them; hue is applied to its subset.
fn jitter(mut x: Tensor, params: &[Photometric]) -> Tensor {
    if !params.iter().any(|p| p.jittered) {
        return x;
    }
    let device = x.device();
    for slot in 0..4 {
        let at = |p: &Photometric, op: u8| p.jittered && p.order[slot] == op;
        let factor = column(params, device, |p| {
            let op = p.order[slot];
            if p.jittered && op < 3 { p.jitter[usize::from(op)] } else { 1.0 }
        });
        let contrast = column(params, device, |p| f32::from(at(p, 1)));
        let saturation = column(params, device, |p| f32::from(at(p, 2)));
        let grey = gray(&x);
        let mean = grey.mean_dim([2i64, 3].as_slice(), true, Kind::Float);
        let other = (mean * contrast + grey * saturation) * (1.0 - &factor);
        let blended: Tensor = x * factor + other;
        x = blended.clamp(0.0, 1.0);
        if let Some(index) = positions(params, device, |p| at(p, 3)) {
            let shift: Vec<f32> = params.iter().filter(|p| at(p, 3)).map(|p| p.jitter[3]).collect();
            let shift = upload(&Tensor::from_slice(&shift).view([-1, 1, 1]), device);
            let turned = hue(&x.index_select(0, &index), &shift);
            let _ = x.index_copy_(0, &index, &turned);
        }
    }
    x
}

/// Shifts the hue of `(B, 3, S, S)` in 0..1 by `shift` `(B, 1, 1)` turns, value and saturation kept.
///
/// Back from HSV by the closed form `f(n) = v - v s max(0, min(k, 4 - k, 1))`, `k = (n + 6 h) mod 6`
/// with n = 5, 3, 1 for red, green and blue.
fn hue(x: &Tensor, shift: &Tensor) -> Tensor {
    let (r, g, b) = (x.select(1, 0), x.select(1, 1), x.select(1, 2)); // (B, S, S) each
    let value = x.amax([1i64].as_slice(), false);
    let chroma = &value - x.amin([1i64].as_slice(), false);
    let safe = chroma.clamp_min(1e-12);
    let sixth = ((&g - &b) / &safe).where_self(
        &value.eq_tensor(&r),
        &((&b - &r) / &safe + 2.0).where_self(&value.eq_tensor(&g), &((&r - &g) / &safe + 4.0)),
    );
    // grey pixels have no hue; their chroma is 0, so any will do
    let turned = sixth + shift * 6.0;
    let channel = |n: f64| {
        let k = (&turned + n).remainder(6.0);
        let low = k.minimum(&(4.0 - &k)).clamp(0.0, 1.0);
        &value - low * &chroma
    };
    Tensor::stack(&[channel(5.0), channel(3.0), channel(1.0)], 1)
}

fn grayscale(mut x: Tensor, params: &[Photometric]) -> Tensor {
    if let Some(index) = positions(params, x.device(), |p| p.gray) {
        let grey = gray(&x.index_select(0, &index)).expand_as(&x.index_select(0, &index));
        let _ = x.index_copy_(0, &index, &grey);
    }
    x
}

/// The value from which solarisation inverts: 128 of 255, as BYOL (arXiv 2006.07733) and torchvision have it.
const SOLARIZE: f64 = 128.0 / 255.0;

fn solarize(mut x: Tensor, params: &[Photometric]) -> Tensor {
    if let Some(index) = positions(params, x.device(), |p| p.solarize) {
        let chosen = x.index_select(0, &index);
        let inverted: Tensor = 1.0 - &chosen;
        let inverted = inverted.where_self(&chosen.ge(SOLARIZE), &chosen);
        let _ = x.index_copy_(0, &index, &inverted);
    }
    x
}

/// Gaussian blur as two matrix products: a blur along one axis is linear, so it is a matrix
/// `(S, S)`, reflect padding included; a batch of sigmas is a batch of matrices.
#[derive(Debug)]
pub struct Blur {
    size: i64,
    reach: i64,
    /// `(2 * reach + 1, S * S)`: row t has a one at `(i, j)` where output i reads input j at offset t - reach.
    taps: Tensor,
}

impl Blur {
    /// For images of side `size` and kernels of `2 * reach + 1` taps, `reach < size`.
    pub fn new(size: i64, reach: i64, device: Device) -> Self {
        let n = 2 * reach + 1;
        let mut taps = vec![0f32; (n * size * size) as usize];
        for t in 0..n {
            for i in 0..size {
                let j = reflect(i + t - reach, size);
                taps[(t * size * size + i * size + j) as usize] += 1.0;
            }
        }
        Self { size, reach, taps: Tensor::from_slice(&taps).view([n, size * size]).to(device) }
    }

    /// The matrices `(B, S, S)` of sigmas `(B)`.
    fn matrices(&self, sigma: &Tensor) -> Tensor {
        let offset = Tensor::arange_start(-self.reach, self.reach + 1, (Kind::Float, sigma.device()));
        let ratio = offset.unsqueeze(0) / sigma.unsqueeze(1); // (B, taps)
        let weight = (ratio.square() * -0.5).exp();
        let weight = &weight / weight.sum_dim_intlist([1i64].as_slice(), true, Kind::Float);
        weight.matmul(&self.taps).view([-1, self.size, self.size])
    }

    /// Blurs every image of `(B, C, S, S)` with its own sigma, `(B)`.
    pub fn apply(&self, x: &Tensor, sigma: &Tensor) -> Tensor {
        let m = self.matrices(sigma).unsqueeze(1); // (B, 1, S, S)
        m.matmul(x).matmul(&m.transpose(2, 3))
    }

    /// Blurs the samples that drew a blur.
    fn some(&self, mut x: Tensor, params: &[Photometric]) -> Tensor {
        if let Some(index) = positions(params, x.device(), |p| p.blur > 0.0) {
            let sigma: Vec<f32> = params.iter().map(|p| p.blur).filter(|&s| s > 0.0).collect();
            let sigma = upload(&Tensor::from_slice(&sigma), x.device());
            let blurred = self.apply(&x.index_select(0, &index), &sigma);
            let _ = x.index_copy_(0, &index, &blurred);
        }
        x
    }
}

/// A blur with one kernel for every image: torchvision's `gaussian_blur(kernel, sigma)`.
#[derive(Debug)]
pub struct FixedBlur {
    /// `(S, S)`
    matrix: Tensor,
}

impl FixedBlur {
    /// For images of side `size`; `kernel` is odd and at most `2 * size - 1`.
    pub fn new(size: usize, kernel: u32, sigma: f64, device: Device) -> Self {
        let blur = Blur::new(size as i64, i64::from(kernel / 2), device);
        let sigma = Tensor::from_slice(&[sigma as f32]).to(device);
        Self { matrix: blur.matrices(&sigma).squeeze_dim(0) }
    }

    /// Blurs `(B, C, S, S)`.
    pub fn apply(&self, x: &Tensor) -> Tensor {
        self.matrix.matmul(x).matmul(&self.matrix.transpose(0, 1))
    }
}

/// The high-pass filter of the preprocessing contract on a device: `x - blur(x)`.
#[derive(Debug)]
pub struct HighPassFilter(FixedBlur);

impl HighPassFilter {
    /// For images of side `size`.
    pub fn new(size: usize, filter: &HighPass, device: Device) -> Self {
        Self(FixedBlur::new(size, filter.kernel, f64::from(filter.sigma), device))
    }

    /// Filters `(B, C, S, S)`.
    pub fn apply(&self, x: &Tensor) -> Tensor {
        x - self.0.apply(x)
    }
}

/// Index of a signal of length `n` continued by reflection without repeating its ends; `i` may
/// lie up to `n - 1` outside.
fn reflect(i: i64, n: i64) -> i64 {
    let i = i.abs();
    if i < n { i } else { 2 * (n - 1) - i }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(n: i64, s: i64) -> Tensor {
        tch::manual_seed(1);
        Tensor::rand([n, 3, s, s], (Kind::Float, Device::Cpu))
    }

    fn distance(a: &Tensor, b: &Tensor) -> f64 {
        (a - b).abs().max().double_value(&[])
    }

    /// The same formulas, one pixel at a time.
    fn naive_hue(rgb: [f64; 3], shift: f64) -> [f64; 3] {
        let [r, g, b] = rgb;
        let (max, min) = (r.max(g).max(b), r.min(g).min(b));
        let c = max - min;
        if c == 0.0 {
            return rgb;
        }
        let h = if max == r {
            (g - b) / c
        } else if max == g {
            2.0 + (b - r) / c
        } else {
            4.0 + (r - g) / c
        };
        let h = (h / 6.0 + shift).rem_euclid(1.0) * 6.0;
        let (i, f) = (h.floor(), h.fract());
        let s = c / max;
        let (p, q, t) = (max * (1.0 - s), max * (1.0 - s * f), max * (1.0 - s * (1.0 - f)));
        match i as i64 % 6 {
            0 => [max, t, p],
            1 => [q, max, p],
            2 => [p, max, t],
            3 => [p, q, max],
            4 => [t, p, max],
            _ => [max, p, q],
        }
    }

    #[test]
    fn hue_equals_the_sector_formula() {
        let _alone = crate::rng::alone();
        let x = image(2, 8);
        for shift in [-0.1f32, 0.0, 0.07, 0.5] {
            let y = hue(&x, &Tensor::from_slice(&[shift, shift]).view([2, 1, 1]));
            for (n, i, j) in [(0, 0, 0), (1, 3, 5), (1, 7, 7), (0, 4, 2)] {
                let pixel = |t: &Tensor| [0, 1, 2].map(|c| t.double_value(&[n, c, i, j]));
                let expected = naive_hue(pixel(&x), f64::from(shift));
                for (a, b) in pixel(&y).into_iter().zip(expected) {
                    assert!((a - b).abs() < 1e-5, "{a} {b}");
                }
            }
        }
    }

    #[test]
    fn jitter_applies_each_samples_own_order() {
        let _alone = crate::rng::alone();
        let x = image(3, 6);
        let with =
            |order| Photometric { jitter: [1.3, 0.7, 1.4, 0.05], order, jittered: true, ..Photometric::NONE };
        let params = [with([0, 1, 2, 3]), with([3, 2, 1, 0]), Photometric::NONE];
        let batch = jitter(x.copy(), &params);
        for (i, p) in params.iter().enumerate() {
            let single = jitter(x.i(i as i64..i as i64 + 1).copy(), &[*p]);
            assert!(distance(&batch.i(i as i64), &single.squeeze_dim(0)) < 1e-6);
        }
        assert!(distance(&batch.i(2), &x.i(2)) < 1e-6, "unjittered samples stay");
        let swapped = jitter(x.i(0..1).copy(), &[with([3, 2, 1, 0])]);
        assert!(distance(&batch.i(0), &swapped.squeeze_dim(0)) > 1e-3, "the order matters");
        // brightness alone: a factor and a clamp
        let bright = Photometric { jitter: [1.3, 1.0, 1.0, 0.0], jittered: true, ..Photometric::NONE };
        assert!(distance(&jitter(x.i(0..1).copy(), &[bright]), &(x.i(0..1) * 1.3).clamp(0.0, 1.0)) < 1e-5);
    }

    #[test]
    fn grey_has_equal_channels_only_where_drawn() {
        let _alone = crate::rng::alone();
        let x = image(2, 4);
        let y = grayscale(x.copy(), &[Photometric { gray: true, ..Photometric::NONE }, Photometric::NONE]);
        assert!(distance(&y.i((0, 0)), &y.i((0, 2))) < 1e-7);
        assert!(distance(&y.i(1), &x.i(1)) < 1e-7);
    }

    #[test]
    fn blur_equals_a_convolution_with_reflection() {
        let _alone = crate::rng::alone();
        let x = image(2, 16);
        let blur = Blur::new(16, 6, Device::Cpu);
        let y = blur.apply(&x, &Tensor::from_slice(&[0.5f32, 2.0]));
        for (n, sigma) in [(0, 0.5f64), (1, 2.0)] {
            let taps: Vec<f64> = (-6..=6).map(|t| (-0.5 * (f64::from(t) / sigma).powi(2)).exp()).collect();
            let sum: f64 = taps.iter().sum();
            let taps: Vec<f64> = taps.iter().map(|t| t / sum).collect();
            for (i, j) in [(0, 0), (5, 15), (8, 8)] {
                let mut value = 0.0;
                for (a, wa) in (-6..=6i64).zip(&taps) {
                    for (b, wb) in (-6..=6i64).zip(&taps) {
                        value += wa * wb * x.double_value(&[n, 1, reflect(i + a, 16), reflect(j + b, 16)]);
                    }
                }
                assert!((y.double_value(&[n, 1, i, j]) - value).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn the_high_pass_equals_the_contracts() {
        let _alone = crate::rng::alone();
        let filter = HighPass { kernel: 11, sigma: 5.0 };
        let contract = Preprocess { high_pass: Some(filter), ..Preprocess::imagenet(32) };
        let pixels: Vec<u8> = (0..3 * 32 * 32).map(|i| (i * 37 % 251) as u8).collect();
        let rgb = occlude_preprocess::Rgb { width: 32, height: 32, data: pixels };
        let expected = Tensor::from_slice(&contract.tensor(&rgb)).view([1, 3, 32, 32]);
        let plain = Preprocess { high_pass: None, ..contract }.tensor(&rgb);
        let plain = Tensor::from_slice(&plain).view([1, 3, 32, 32]);
        let ours = HighPassFilter::new(32, &filter, Device::Cpu).apply(&plain);
        assert!(distance(&ours, &expected) < 1e-4);
    }

    /// The same parameters by tensor operations and by the loops of the CPU, for sides that do and do not fill blocks.
    #[test]
    fn the_cpus_loops_equal_the_tensor_operations() {
        let _alone = crate::rng::alone();
        let contract = Preprocess::imagenet(40);
        let augment = crate::config::Config::new(crate::config::Recipe::MocoV2).augment;
        for side in [5usize, 32, 57] {
            let spec = crate::data::ViewSpec { size: side, augment: augment.clone() };
            let mut rng = crate::rng::stream(4, crate::rng::Domain::View, side as u64, 0);
            let photometric: Vec<_> = (0..41).map(|_| spec.draw(50, 60, &mut rng).1).collect();
            let pixels = (0..41 * 3 * side * side).map(|i| (i * i / 7 % 256) as u8).collect();
            let view = View { pixels, photometric };
            let augmenter = Augmenter::new(&contract, side, augment.blur_sigma[1], Device::Cpu);
            let (ours, expected) = (augmenter.on_host(&view, side), augmenter.batched(&view, side));
            let apart = distance(&ours, &expected);
            assert!(apart < 1e-5, "{side}: {apart}");
        }
    }

    #[test]
    fn a_view_without_changes_is_the_normalised_picture() {
        let _alone = crate::rng::alone();
        let contract = Preprocess::imagenet(16);
        let pixels: Vec<u8> = (0..40 * 3 * 16 * 16).map(|i| (i * 31 % 256) as u8).collect();
        let view = View { pixels: pixels.clone(), photometric: vec![Photometric::NONE; 40] };
        let y = Augmenter::new(&contract, 16, 2.0, Device::Cpu).apply(&view, 16);
        assert_eq!(y.size(), [40, 3, 16, 16]);
        let expected =
            (f64::from(pixels[5]) / 255.0 - f64::from(contract.mean[0])) / f64::from(contract.std[0]);
        assert!((y.double_value(&[0, 0, 0, 5]) - expected).abs() < 1e-5);
    }
}
