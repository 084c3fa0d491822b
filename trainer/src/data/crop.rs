//! What is drawn at random for one view of one picture.

use occlude_preprocess::CropBox;
use rand::Rng;

use super::foreground::Foreground;
use crate::config::{Augment, Config};

/// Crops that are drawn, at most, for one that holds its share of the foreground.
const TRIES: usize = 10;

/// Side of the views and the distribution they are drawn from.
#[derive(Clone, Debug, PartialEq)]
pub struct ViewSpec {
    /// Side in pixels.
    pub size: usize,
    /// Distribution.
    pub augment: Augment,
}

/// Where a view is cut out, and whether it is mirrored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Geometry {
    /// Whole pixels of the decoded picture.
    pub crop: CropBox,
    /// Mirrored left to right.
    pub flip: bool,
}

/// Where a view is on its picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Placed {
    /// Of the upright picture.
    pub geometry: Geometry,
    /// Width and height of that, in pixels.
    pub picture: (u32, u32),
}

/// Colour changes of one view; applied on the device, batched ([`crate::augment`]).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Photometric {
    /// Factors of brightness, contrast and saturation, and the shift of hue; 1, 1, 1, 0 where not jittered.
    pub jitter: [f32; 4],
    /// The order in which the four are applied.
    pub order: [u8; 4],
    /// Whether the four are applied at all.
    pub jittered: bool,
    /// Whether colour is dropped.
    pub gray: bool,
    /// Sigma of the Gaussian blur in pixels; 0 for none.
    pub blur: f32,
    /// Whether bright values are inverted.
    pub solarize: bool,
}

impl Photometric {
    /// No change at all.
    pub const NONE: Self = Self {
        jitter: [1.0, 1.0, 1.0, 0.0],
        order: [0, 1, 2, 3],
        jittered: false,
        gray: false,
        blur: 0.0,
        solarize: false,
    };
}

impl ViewSpec {
    /// Every view of a picture that `config` asks for, group after group.
    pub fn of(config: &Config) -> Vec<Self> {
        let groups = config.views.iter().flat_map(|group| std::iter::repeat_n(group, group.count));
        groups
            .map(|group| Self {
                size: group.size.unwrap_or(config.image_size),
                augment: group.augment.clone(),
            })
            .collect()
    }

    /// Draws a view of a picture of the given size: torchvision's RandomResizedCrop (ten tries at
    /// an area and an aspect ratio, then a central crop), flip, jitter, grey, blur and solarisation.
    pub fn draw(&self, width: u32, height: u32, rng: &mut impl Rng) -> (Geometry, Photometric) {
        let a = &self.augment;
        let crop = random_resized_crop(width, height, a.crop_min..=a.crop_max, rng);
        let flip = rng.random_bool(a.flip_p);
        let jittered = rng.random_bool(a.jitter_p);
        let factor =
            |strength: f64, rng: &mut _| uniform((1.0 - strength).max(0.0), 1.0 + strength, rng) as f32;
        let jitter = [
            factor(a.jitter[0], rng),
            factor(a.jitter[1], rng),
            factor(a.jitter[2], rng),
            uniform(-a.jitter[3], a.jitter[3], rng) as f32,
        ];
        let mut order = [0, 1, 2, 3];
        for i in (1..4).rev() {
            order.swap(i, rng.random_range(0..=i));
        }
        let gray = rng.random_bool(a.gray_p);
        let sigma = uniform(a.blur_sigma[0], a.blur_sigma[1], rng) as f32;
        let blur = if rng.random_bool(a.blur_p) { sigma } else { 0.0 };
        let solarize = rng.random_bool(a.solarize_p);
        let jitter = if jittered { jitter } else { Photometric::NONE.jitter };
        (Geometry { crop, flip }, Photometric { jitter, order, jittered, gray, blur, solarize })
    }
}

impl ViewSpec {
    /// Whether crops have to hold a share of the foreground.
    pub fn holds_foreground(&self) -> bool {
        self.augment.crop_foreground > 0.0
    }

    /// The first crop that holds the share of the foreground that is asked for: this one, or one of nine more; the one that
    /// holds most where none does. After the constraint of CAST (arXiv 2012.04630), as crops that know where the object is
    /// ([2202.03278](https://arxiv.org/abs/2202.03278)) are meant to keep both views on it.
    pub fn constrain(
        &self,
        first: CropBox,
        (width, height): (u32, u32),
        foreground: &Foreground,
        rng: &mut impl Rng,
    ) -> CropBox {
        let a = &self.augment;
        let (mut best, mut held) = (first, foreground.held(&first, (width, height)));
        for _ in 1..TRIES {
            if held >= a.crop_foreground {
                break;
            }
            let crop = random_resized_crop(width, height, a.crop_min..=a.crop_max, rng);
            let now = foreground.held(&crop, (width, height));
            if now > held {
                (best, held) = (crop, now);
            }
        }
        best
    }
}

fn uniform(low: f64, high: f64, rng: &mut impl Rng) -> f64 {
    low + (high - low) * rng.random::<f64>()
}

/// Aspect ratios that torchvision draws from, log-uniformly.
const RATIO: (f64, f64) = (3.0 / 4.0, 4.0 / 3.0);

fn random_resized_crop(
    width: u32,
    height: u32,
    scale: std::ops::RangeInclusive<f64>,
    rng: &mut impl Rng,
) -> CropBox {
    let (w, h) = (f64::from(width), f64::from(height));
    for _ in 0..10 {
        let area = w * h * uniform(*scale.start(), *scale.end(), rng);
        let ratio = uniform(RATIO.0.ln(), RATIO.1.ln(), rng).exp();
        let (cw, ch) = ((area * ratio).sqrt().round_ties_even(), (area / ratio).sqrt().round_ties_even());
        if cw >= 1.0 && ch >= 1.0 && cw <= w && ch <= h {
            let top = rng.random_range(0..=(h - ch) as u32);
            let left = rng.random_range(0..=(w - cw) as u32);
            return CropBox { left: f64::from(left), top: f64::from(top), width: cw, height: ch };
        }
    }
    // the whole picture, or the widest central part whose ratio is allowed
    let ratio = w / h;
    let (cw, ch) = if ratio < RATIO.0 {
        (w, (w / RATIO.0).round_ties_even().min(h))
    } else if ratio > RATIO.1 {
        ((h * RATIO.1).round_ties_even().min(w), h)
    } else {
        (w, h)
    };
    CropBox { left: ((w - cw) / 2.0).floor(), top: ((h - ch) / 2.0).floor(), width: cw, height: ch }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Recipe};
    use crate::rng::{Domain, stream};

    fn spec() -> ViewSpec {
        ViewSpec { size: 64, augment: Config::new(Recipe::MocoV2).views.remove(0).augment }
    }

    #[test]
    fn crops_lie_inside_and_have_the_drawn_area() {
        let spec = spec();
        for (w, h) in [(1, 1), (500, 375), (3, 900), (900, 3), (128, 128)] {
            let mut rng = stream(0, Domain::View, u64::from(w), u64::from(h));
            for _ in 0..500 {
                let c = spec.draw(w, h, &mut rng).0.crop;
                assert!(c.left >= 0.0 && c.top >= 0.0 && c.width >= 1.0 && c.height >= 1.0);
                assert!(
                    c.left + c.width <= f64::from(w) && c.top + c.height <= f64::from(h),
                    "{c:?} in {w}x{h}"
                );
                if w == h && w > 1 {
                    let share = c.width * c.height / f64::from(w * h);
                    assert!((0.19..=1.0).contains(&share), "{share}");
                }
            }
        }
    }

    /// Two thousand crops of a picture whose foreground is one corner of it: as many as a loop over the same draws says
    /// hold their share, the others the most that ten draws gave.
    #[test]
    fn a_constrained_crop_is_the_first_that_holds_its_share_or_the_best() {
        let mut spec = spec();
        let size = (96, 96);
        let inside = |i: usize| i % 96 < 42 && (i / 96) > 48;
        let plane =
            |a: u8, b: u8| (0..96 * 96).map(move |i| if inside(i) { a } else { b }).collect::<Vec<u8>>();
        let planes = [plane(250, 20), plane(20, 140), plane(10, 200)].concat();
        let foreground = Foreground::of_planes(&planes, 96);
        let draw = |spec: &ViewSpec, i: u64| spec.draw(96, 96, &mut stream(2, Domain::View, i, 0)).0.crop;
        let free: Vec<CropBox> = (0..2000).map(|i| draw(&spec, i)).collect();
        let mut good = Vec::new();
        for least in [0.0, 0.3, 0.6, 1.0] {
            spec.augment.crop_foreground = least;
            let mut enough = 0;
            for (i, &first) in (0..).zip(&free) {
                let rng = || stream(2, Domain::Crop, i, 0);
                let found = spec.constrain(first, size, &foreground, &mut rng());
                let mut again = rng();
                let mut tries = vec![first];
                tries.resize_with(10, || random_resized_crop(96, 96, 0.2..=1.0, &mut again));
                let held = |c: &CropBox| foreground.held(c, size);
                let expected = tries
                    .iter()
                    .find(|c| held(c) >= least)
                    .unwrap_or_else(|| tries.iter().max_by(|a, b| held(a).total_cmp(&held(b))).expect("ten"));
                assert_eq!(held(&found), held(expected), "{least} {i}");
                enough += usize::from(held(&found) >= least);
                assert!(least > 0.0 || found == first);
            }
            good.push(enough);
        }
        let without = free.iter().filter(|c| foreground.held(c, size) >= 0.3).count();
        assert!(good[0] == 2000 && good[1] > 1990 && without < 1800, "{good:?} {without}");
        assert!(good.is_sorted_by(|a, b| a >= b), "{good:?}");
    }

    /// Shares over 10,000 draws, within four standard errors.
    #[test]
    fn probabilities_are_the_recipes() {
        let spec = spec();
        let mut rng = stream(1, Domain::View, 0, 0);
        let n = 10_000;
        let draws: Vec<_> = (0..n).map(|_| spec.draw(500, 375, &mut rng)).collect();
        let share = |f: &dyn Fn(&(Geometry, Photometric)) -> bool| {
            draws.iter().filter(|d| f(d)).count() as f64 / f64::from(n)
        };
        for (observed, p) in [
            (share(&|d| d.0.flip), 0.5),
            (share(&|d| d.1.jittered), 0.8),
            (share(&|d| d.1.gray), 0.2),
            (share(&|d| d.1.blur > 0.0), 0.5),
            (share(&|d| d.1.order[0] == 2), 0.25),
        ] {
            let error = (p * (1.0 - p) / f64::from(n)).sqrt();
            assert!((observed - p).abs() < 4.0 * error, "{observed} for {p}");
        }
        let area: f64 =
            draws.iter().map(|d| d.0.crop.width * d.0.crop.height / 187_500.0).sum::<f64>() / f64::from(n);
        assert!((area - 0.496).abs() < 0.008, "mean area {area}: torchvision's is 0.496 on a 4:3 picture");
    }
}
