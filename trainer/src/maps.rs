//! Rules that make a saliency map of a feature map: which cells of a picture are the object.
//!
//! Pure functions over batches; nothing here knows a network. They are few operators each, because the exported model
//! computes the same.

mod border_colour;

use occlude_saliency::prior;
use occlude_saliency::rule::{OPPONENT, TINY};
use tch::{Kind, Tensor};

use crate::device::upload;
use crate::mask::aggregate;

pub use border_colour::BorderColour;
pub use occlude_saliency::MapRule;

/// Shortest vector that a cosine divides by; a cell whose feature is zero is like nothing.
const MIN_LENGTH: f64 = 1e-12;

/// What maps are made of besides features: the pictures, normalised and unfiltered, `(B, 3, H, W)`, and the standard
/// deviations that they were divided by.
#[derive(Clone, Copy, Debug)]
pub struct Pictures<'a> {
    /// `(B, 3, H, W)`.
    pub pixels: &'a Tensor,
    /// Of the contract.
    pub std: [f32; 3],
}

/// The maps of feature maps by a rule. Shape: `(B, C, h, w)` to `(B, h, w)`, float32.
pub fn maps(rule: MapRule, features: &Tensor, pictures: Pictures<'_>) -> Tensor {
    match rule {
        MapRule::Sum => aggregate(features),
        MapRule::Border => border(features),
        MapRule::Object => object(features, pictures),
    }
}

/// The cells of the first and last row and column, a corner twice. Shape: `(B, C, h, w)` to `(B, C, 2w + 2h)`.
fn sides(x: &Tensor) -> Tensor {
    Tensor::cat(&[x.select(2, 0), x.select(2, -1), x.select(3, 0), x.select(3, -1)], 2)
}

/// Each map scaled to 0..1. Shape: `(B, h, w)`.
fn scaled(maps: &Tensor) -> Tensor {
    let (low, high) = (maps.amin([1i64, 2], true), maps.amax([1i64, 2], true));
    (maps - &low) / (high - &low + f64::from(TINY))
}

/// [`MapRule::Object`]. Shape: `(B, C, h, w)` to `(B, h, w)`, float32.
fn object(features: &Tensor, pictures: Pictures<'_>) -> Tensor {
    let features = features.to_kind(Kind::Float);
    let (_, _, h, w) = features.size4().unwrap_or_else(|e| panic!("features are (B, C, h, w): {e}"));
    let centre = prior::centre(h as usize, w as usize);
    let on_device = |values: &[f32]| upload(&Tensor::from_slice(values), features.device()).view([1, h, w]);
    let contrast = on_device(&prior::contrast(&centre));
    let map = scaled(&resemblance(&features, &contrast)) * scaled(&colours(&features, pictures));
    map * on_device(&centre)
}

/// Features along the direction from the picture's surroundings to its middle. Shape: `(B, C, h, w)` to `(B, h, w)`.
fn resemblance(features: &Tensor, contrast: &Tensor) -> Tensor {
    let plane = [2i64, 3];
    let less = features - features.mean_dim(plane.as_slice(), true, Kind::Float);
    let deviation = less.square().mean_dim(plane.as_slice(), true, Kind::Float).sqrt();
    let standard = less / (deviation + f64::from(TINY));
    let length = standard.square().sum_dim_intlist([1i64].as_slice(), true, Kind::Float).sqrt();
    let cells = standard / (length + f64::from(TINY));
    let direction = (&cells * contrast.unsqueeze(1)).sum_dim_intlist(plane.as_slice(), true, Kind::Float);
    (cells * direction).sum_dim_intlist([1i64].as_slice(), false, Kind::Float)
}

/// The distance of each cell's mean colour from the nearest one of the border. Shape: `(B, h, w)`, as `features` have it.
fn colours(features: &Tensor, Pictures { pixels, std }: Pictures<'_>) -> Tensor {
    let (_, _, h, w) = features.size4().unwrap_or_else(|e| panic!("features are (B, C, h, w): {e}"));
    let side = pixels.size()[2];
    let stride = (side + h - 1) / h;
    let pixels = pixels.to_kind(Kind::Float);
    let means = pixels.avg_pool2d([stride; 2], [stride; 2], [0, 0], true, false, None);
    // what was taken from all pixels cancels in distances
    let weights = OPPONENT.iter().flat_map(|row| row.iter().zip(std).map(|(w, s)| (w * f64::from(s)) as f32));
    let weights: Vec<f32> = weights.collect();
    let weights = upload(&Tensor::from_slice(&weights), pixels.device()).view([3, 3, 1, 1]);
    let cells = means.conv2d::<Tensor>(&weights, None, [1, 1], [0, 0], [1, 1], 1); // (B, 3, h, w)
    let apart = cells.flatten(2, 3).unsqueeze(3) - sides(&cells).unsqueeze(2); // (B, 3, hw, 2w + 2h)
    let squares = apart.square().sum_dim_intlist([1i64].as_slice(), false, Kind::Float);
    squares.amin([2i64], false).sqrt().view([-1, h, w])
}

/// One less the cosine of each cell's feature with the mean over the first and last row and column, as four strips laid
/// end to end: a corner counts twice. Values lie in 0..2, and in 0..1 for features that are not negative. Shape:
/// `(B, C, h, w)` to `(B, h, w)`, float32.
///
/// After the background prior of Wei et al., ECCV 2012, doi 10.1007/978-3-642-33712-3_3, with features for colours.
pub fn border(features: &Tensor) -> Tensor {
    let features = features.to_kind(Kind::Float);
    let mean = sides(&features).mean_dim([2i64].as_slice(), true, Kind::Float); // (B, C, 1)
    let length = |x: &Tensor| {
        x.square().sum_dim_intlist([1i64].as_slice(), true, Kind::Float).sqrt().clamp_min(MIN_LENGTH)
    };
    let mean = (&mean / length(&mean)).unsqueeze(3); // (B, C, 1, 1)
    let along = (&features * mean).sum_dim_intlist([1i64].as_slice(), true, Kind::Float); // (B, 1, h, w)
    let unlike: Tensor = 1.0 - along / length(&features);
    unlike.squeeze_dim(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    fn features() -> Tensor {
        tch::manual_seed(9);
        Tensor::randn([3, 5, 4, 6], (Kind::Float, Device::Cpu))
    }

    #[test]
    fn rules_equal_naive_loops() {
        let _alone = crate::rng::alone();
        let features = features();
        let (sum, border) = (maps(MapRule::Sum, &features, none(&features)), border(&features));
        assert_eq!((sum.size(), border.size()), (vec![3, 4, 6], vec![3, 4, 6]));
        for b in 0..3 {
            let cell = |y: i64, x: i64| -> Vec<f64> {
                (0..5).map(|c| features.double_value(&[b, c, y, x])).collect()
            };
            let mut strip: Vec<Vec<f64>> = (0..6).flat_map(|x| [cell(0, x), cell(3, x)]).collect();
            strip.extend((0..4).flat_map(|y| [cell(y, 0), cell(y, 5)]));
            let mean: Vec<f64> = (0..5).map(|c| strip.iter().map(|f| f[c]).sum::<f64>() / 20.0).collect();
            let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
            for (y, x) in (0..4).flat_map(|y| (0..6).map(move |x| (y, x))) {
                let f = cell(y, x);
                let cosine = dot(&f, &mean) / (dot(&f, &f) * dot(&mean, &mean)).sqrt();
                assert!(
                    (border.double_value(&[b, y, x]) - (1.0 - cosine)).abs() < crate::tolerance::SAME_MATH
                );
                let total: f64 = f.iter().sum();
                assert!((sum.double_value(&[b, y, x]) - total).abs() < crate::tolerance::SAME_MATH);
            }
        }
    }

    /// The length of features plays no part, and neither does that of the border's mean.
    #[test]
    fn the_border_rule_knows_directions_only() {
        let _alone = crate::rng::alone();
        let features = features();
        let scaled = border(&(&features * 1e4));
        assert!((border(&features) - scaled).abs().max().double_value(&[]) < crate::tolerance::SAME_MATH);
        let dead = border(&features.zeros_like());
        assert_eq!(dead.min().double_value(&[]), 1.0, "zero is like nothing, and is no NaN");
        let half = border(&features.to_kind(Kind::BFloat16));
        assert_eq!(half.kind(), Kind::Float, "whatever the network computes in");
    }

    #[test]
    fn an_object_among_the_same_stands_out_whatever_excites_more() {
        let _alone = crate::rng::alone();
        // the background excites ten channels, the object one
        let features = Tensor::ones([1, 11, 6, 6], (Kind::Float, Device::Cpu));
        let _ = features.narrow(1, 10, 1).fill_(0.0);
        let object = features.narrow(2, 2, 2).narrow(3, 2, 2);
        let _ = object.narrow(1, 0, 10).fill_(0.0);
        let _ = object.narrow(1, 10, 1).fill_(3.0);
        let inside = |map: Tensor| map.double_value(&[0, 2, 3]) - map.double_value(&[0, 1, 1]);
        assert_eq!(inside(maps(MapRule::Sum, &features, none(&features))), -7.0, "inverted");
        assert!((inside(border(&features)) - 1.0).abs() < 1e-6);
    }

    fn none(features: &Tensor) -> Pictures<'_> {
        Pictures { pixels: features, std: [1.0; 3] }
    }

    /// A square in the middle with a feature and a colour of its own, in pictures whose sides are no multiple of the
    /// cells', found behind any brightness of the other channels.
    #[test]
    fn an_object_in_the_middle_is_found() {
        let _alone = crate::rng::alone();
        let features = features().repeat([1, 1, 2, 2]).narrow(3, 0, 8).contiguous(); // (3, 5, 8, 8)
        let _ = features.narrow(2, 3, 2).narrow(3, 3, 2).narrow(1, 0, 1).fill_(9.0);
        let pixels = Tensor::zeros([3, 3, 61, 61], (Kind::Float, Device::Cpu));
        let _ = pixels.narrow(2, 24, 16).narrow(3, 24, 16).narrow(1, 0, 1).fill_(2.0);
        let map = maps(MapRule::Object, &features, Pictures { pixels: &pixels, std: [0.2; 3] });
        assert_eq!(map.size(), [3, 8, 8]);
        let inside = map.narrow(1, 3, 2).narrow(2, 3, 2);
        assert!(inside.min().double_value(&[]) > 0.3, "{inside:?}");
        let outside = map.sum(Kind::Double) - inside.sum(Kind::Double);
        assert!(outside.double_value(&[]).abs() < 1e-6, "colours of the border are background");
    }

    #[test]
    fn a_picture_of_one_colour_has_a_map_of_numbers() {
        let _alone = crate::rng::alone();
        let (features, pixels) = (
            Tensor::zeros([1, 4, 4, 4], (Kind::Float, Device::Cpu)),
            Tensor::zeros([1, 3, 32, 32], (Kind::Float, Device::Cpu)),
        );
        for rule in MapRule::ALL {
            let map = maps(rule, &features, Pictures { pixels: &pixels, std: [0.2; 3] });
            assert!(map.isfinite().all().int64_value(&[]) == 1, "{rule}");
        }
    }
}
