//! Colour changes of a batch of views, on the device.
//!
//! Geometry happened on the CPU (`data`); here every operation is one tensor operation over the
//! batch, with the parameters that were drawn per sample (`colours`); on the CPU itself, where that is slow, the
//! same is computed sample by sample (`host`). The operations are torchvision's on
//! float images in 0..1: `adjust_brightness`, `adjust_contrast`, `adjust_saturation`,
//! `adjust_hue`, `rgb_to_grayscale`, `gaussian_blur`, `solarize`, `normalize`.

mod colours;
mod host;

use anyhow::{Result, ensure};
use colours::Colours;
use host::Host;
use occlude_preprocess::{HighPass, Preprocess};
use occlude_torch_ext::Autocast;
use tch::{Device, Kind, Tensor};

use crate::data::{Photometric, View, ViewSpec};
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
    /// Normalisation as a factor and a shift, `(1, 3, 1, 1)`.
    factor: Tensor,
    shift: Tensor,
    colours: Colours,
    blur: Blur,
    host: Host,
    /// Sample by sample on the processor, where that is the device.
    on_host: bool,
}

impl Augmenter {
    /// For views of side `size`, blurred with a sigma of at most `max_sigma` pixels, normalised as
    /// `preprocess` says (its high-pass is the masking's business).
    pub fn new(preprocess: &Preprocess, size: usize, max_sigma: f64, device: Device) -> Self {
        let (mean, std) = (preprocess.mean, preprocess.std);
        let channel = |value: &dyn Fn(usize) -> f32| {
            Tensor::from_slice(&[0, 1, 2].map(value)).view([1, 3, 1, 1]).to(device)
        };
        let reach = ((BLUR_REACH * max_sigma).ceil().max(1.0) as i64).min(size as i64 - 1);
        Self {
            on_host: device == Device::Cpu,
            device,
            factor: channel(&|c| 1.0 / std[c]),
            shift: channel(&|c| -mean[c] / std[c]),
            colours: Colours::new(device),
            blur: Blur::new(size as i64, reach, device),
            host: Host { mean, std, reach: reach as usize },
        }
    }

    /// The normalised view, `(B, 3, S, S)`.
    pub fn apply(&self, view: &View) -> Tensor {
        if self.on_host { self.on_host(view) } else { self.batched(view) }
    }

    fn on_host(&self, view: &View) -> Tensor {
        let (n, s) = (view.photometric.len() as i64, view.size as i64);
        let out = Tensor::empty([n, 3, s, s], (Kind::Float, Device::Cpu));
        // SAFETY: a new tensor is contiguous and nobody else's; it lives until the end of this function.
        let values = unsafe { std::slice::from_raw_parts_mut(out.data_ptr().cast::<f32>(), out.numel()) };
        let threads = usize::try_from(tch::get_num_threads()).unwrap_or(1);
        self.host.run(&view.pixels, &view.photometric, view.size, threads, values);
        out
    }

    fn batched(&self, view: &View) -> Tensor {
        let (n, s) = (view.photometric.len() as i64, view.size as i64); // (B, 3, S, S)
        let pixels = upload(&Tensor::from_slice(&view.pixels).view([n, 3, s, s]), self.device);
        self.on_device(&pixels, &view.photometric)
    }

    /// Several views of one side as one batch.
    fn together(&self, pixels: &[Tensor], views: &[View]) -> Vec<Tensor> {
        let photometric: Vec<Photometric> =
            views.iter().flat_map(|v| v.photometric.iter().copied()).collect();
        let made = self.on_device(&Tensor::cat(pixels, 0), &photometric);
        made.chunk(views.len() as i64, 0)
    }

    /// The normalised view of pixels that are on the device, `(B, 3, S, S)`.
    pub fn on_device(&self, pixels: &Tensor, params: &[Photometric]) -> Tensor {
        self.shift.addcmul(&self.colours.change(pixels, params, &self.blur), &self.factor)
    }
}

/// What augments all views of a picture: one [`Augmenter`] for each stretch of views that are alike in side and reach of
/// the blur, so that these are one batch, which asks for as many operators as one view.
#[derive(Debug)]
pub struct Augmenters(Vec<Stretch>);

#[derive(Debug)]
struct Stretch {
    views: usize,
    size: usize,
    augmenter: Augmenter,
}

impl Augmenters {
    /// For the views of a picture in their order, normalised as `preprocess` says.
    pub fn new(preprocess: &Preprocess, views: &[ViewSpec], device: Device) -> Self {
        let like = |a: &ViewSpec, b: &ViewSpec| {
            a.size == b.size && a.augment.blur_sigma[1] == b.augment.blur_sigma[1]
        };
        let stretch = |views: &[ViewSpec]| {
            let ViewSpec { size, augment } = &views[0];
            let augmenter = Augmenter::new(preprocess, *size, augment.blur_sigma[1], device);
            Stretch { views: views.len(), size: *size, augmenter }
        };
        Self(views.chunk_by(like).map(stretch).collect())
    }

    /// From now on with the operators that other devices get, on the CPU, too: to count them.
    pub fn as_elsewhere(&mut self) {
        self.0.iter_mut().for_each(|s| s.augmenter.on_host = false);
    }

    /// The normalised views, `(B, 3, S, S)` each. `pixels`: those of each view, where they are on the device already.
    ///
    /// # Errors
    /// Where these are not the views that it was made for.
    pub fn apply(&self, views: &[View], pixels: Option<&[Tensor]>) -> Result<Vec<Tensor>> {
        let expected = self.0.iter().flat_map(|s| std::iter::repeat_n(s.size, s.views));
        let found = views.iter().map(|v| v.size);
        ensure!(
            expected.eq(found.clone()),
            "views of {:?} px are not those of the run",
            found.collect::<Vec<_>>()
        );
        let (mut made, mut first) = (Vec::with_capacity(views.len()), 0);
        for Stretch { views: n, augmenter, .. } in &self.0 {
            let part = first..first + n;
            first = part.end;
            let (views, pixels) = (&views[part.clone()], pixels.map(|p| &p[part]));
            made.extend(match pixels {
                Some(pixels) => augmenter.together(pixels, views),
                None if augmenter.on_host => views.iter().map(|view| augmenter.apply(view)).collect(),
                None => {
                    let here: Vec<Tensor> = views.iter().map(View::tensor).collect();
                    augmenter.together(&here, views)
                }
            });
        }
        Ok(made)
    }
}

/// The value from which solarisation inverts: 128 of 255, as BYOL (arXiv 2006.07733) and torchvision have it.
const SOLARIZE: f64 = 128.0 / 255.0;

/// Gaussian blur as two matrix products: a blur along one axis is linear, so it is a matrix
/// `(S, S)`, reflect padding included; a batch of sigmas is a batch of matrices.
#[derive(Debug)]
pub struct Blur {
    size: i64,
    /// Distance of each tap, `(2 * reach + 1)`.
    offsets: Tensor,
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
        Self {
            size,
            offsets: Tensor::arange_start(-reach, reach + 1, (Kind::Float, Device::Cpu)).to(device),
            taps: Tensor::from_slice(&taps).view([n, size * size]).to(device),
        }
    }

    /// The matrices `(B, S, S)` of sigmas `(B)`.
    fn matrices(&self, sigma: &Tensor) -> Tensor {
        let ratio = self.offsets.unsqueeze(0) / sigma.unsqueeze(1); // (B, taps)
        let weight = (ratio.square() * -0.5).exp();
        let weight = &weight / weight.sum_dim_intlist([1i64].as_slice(), true, Kind::Float);
        weight.matmul(&self.taps).view([-1, self.size, self.size])
    }

    /// Blurs every image of `(B, C, S, S)` with its own sigma, `(B)`.
    pub fn apply(&self, x: &Tensor, sigma: &Tensor) -> Tensor {
        let m = self.matrices(sigma).unsqueeze(1); // (B, 1, S, S)
        m.matmul(x).matmul(&m.transpose(2, 3))
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

    /// Filters `(B, C, S, S)`, in the type of `x` whatever networks compute in: evaluation and deployment do.
    pub fn apply(&self, x: &Tensor) -> Tensor {
        let _exact = Autocast::bf16(x.device(), false);
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
        let augment = crate::config::Config::new(crate::config::Recipe::MocoV2).views.remove(0).augment;
        for side in [5usize, 32, 57] {
            let spec = crate::data::ViewSpec { size: side, augment: augment.clone() };
            let mut rng = crate::rng::stream(4, crate::rng::Domain::View, side as u64, 0);
            let photometric: Vec<_> = (0..41).map(|_| spec.draw(50, 60, &mut rng).1).collect();
            let pixels = (0..41 * 3 * side * side).map(|i| (i * i / 7 % 256) as u8).collect();
            let view = View { size: side, pixels, placed: Vec::new(), photometric };
            let augmenter = Augmenter::new(&contract, side, augment.blur_sigma[1], Device::Cpu);
            let (ours, expected) = (augmenter.on_host(&view), augmenter.batched(&view));
            let apart = distance(&ours, &expected);
            assert!(apart < crate::tolerance::COLOURS, "{side}: {apart}");
        }
    }

    #[test]
    fn a_view_without_changes_is_the_normalised_picture() {
        let _alone = crate::rng::alone();
        let contract = Preprocess::imagenet(16);
        let pixels: Vec<u8> = (0..40 * 3 * 16 * 16).map(|i| (i * 31 % 256) as u8).collect();
        let photometric = vec![Photometric::NONE; 40];
        let view = View { size: 16, pixels: pixels.clone(), placed: Vec::new(), photometric };
        let y = Augmenter::new(&contract, 16, 2.0, Device::Cpu).apply(&view);
        assert_eq!(y.size(), [40, 3, 16, 16]);
        let expected =
            (f64::from(pixels[5]) / 255.0 - f64::from(contract.mean[0])) / f64::from(contract.std[0]);
        assert!((y.double_value(&[0, 0, 0, 5]) - expected).abs() < 1e-5);
    }
}
