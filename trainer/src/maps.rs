//! Rules that make a saliency map of a feature map: which cells of a picture are the object.
//!
//! Pure functions over batches; nothing here knows a network. They are few operators each, because the exported model
//! computes the same.

mod border_colour;

use occlude_saliency::prior;
use occlude_saliency::rule::{self, OPPONENT, TINY};
use occlude_torch_ext::Autocast;
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

/// The maps of feature maps by a rule, on the grid of the features. Shape: `(B, C, h, w)` to `(B, h, w)`, float32.
pub fn maps(rule: MapRule, features: &Tensor, pictures: Pictures<'_>) -> Tensor {
    let (_, _, h, w) = features.size4().unwrap_or_else(|e| panic!("features are (B, C, h, w): {e}"));
    let fine = fine_maps(rule, features, pictures);
    match rule {
        MapRule::Sum | MapRule::Border | MapRule::Alignment | MapRule::Attention => fine,
        MapRule::Object => fine.unsqueeze(1).adaptive_avg_pool2d([h, w]).squeeze_dim(1),
    }
}

/// The same as fine as the rule makes them. Shape: `(B, C, h, w)` to `(B, H, W)`, float32, whatever networks compute in.
pub fn fine_maps(rule: MapRule, features: &Tensor, pictures: Pictures<'_>) -> Tensor {
    // colours that are nearly alike differ by less than half precision can say
    let _exact = Autocast::bf16(features.device(), false);
    match rule {
        // of attention there is one channel, which is the map
        MapRule::Sum | MapRule::Attention => aggregate(features),
        MapRule::Border => border(features),
        MapRule::Object => object(features, pictures),
        MapRule::Alignment => unreachable!("flags and configurations name rules of features"),
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

/// [`MapRule::Object`]. Shape: `(B, C, h, w)` to `(B, H, W)`, fine cells, float32.
fn object(features: &Tensor, pictures: Pictures<'_>) -> Tensor {
    let features = features.to_kind(Kind::Float);
    let (_, _, h, w) = features.size4().unwrap_or_else(|e| panic!("features are (B, C, h, w): {e}"));
    let (stride, device) = (rule::stride(pictures.pixels.size()[2] as usize, h as usize), features.device());
    let constant = |values: &[f32], shape: [i64; 3]| upload(&Tensor::from_slice(values), device).view(shape);
    let contrast = prior::contrast(&prior::centre(h as usize, w as usize));
    let alike = scaled(&resemblance(&features, &constant(&contrast, [1, h, w])));
    let colours = Colours::of(pictures, rule::fine(stride) as i64);
    let (rows, columns) = colours.size();
    let between = |cells: i64, fine: i64| {
        constant(&rule::between(cells as usize, stride, fine as usize), [1, fine, cells])
    };
    let alike = between(h, rows).matmul(&alike).matmul(&between(w, columns).transpose(1, 2));
    let uniform = colours.uniform();
    let alike = &alike + uniform * (1.0 - &alike);
    let centre = prior::centre(rows as usize, columns as usize);
    scaled(&colours.distances()) * alike * constant(&centre, [1, rows, columns])
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

/// Colours of fine cells, and those of the border, both less the mean of the latter.
struct Colours {
    /// `(B, 3, H, W)`.
    cells: Tensor,
    /// `(B, 3, n)`.
    border: Tensor,
}

impl Colours {
    /// Of cells of `side` pixels.
    fn of(Pictures { pixels, std }: Pictures<'_>, side: i64) -> Self {
        let pixels = pixels.to_kind(Kind::Float);
        let means = |x: &Tensor, window: [i64; 2]| x.avg_pool2d(window, window, [0, 0], true, false, None);
        // what was taken from all pixels cancels in distances
        let weights =
            OPPONENT.iter().flat_map(|row| row.iter().zip(std).map(|(w, s)| (w * f64::from(s)) as f32));
        let weights: Vec<f32> = weights.collect();
        let weights = upload(&Tensor::from_slice(&weights), pixels.device()).view([3, 3, 1, 1]);
        let cells = means(&pixels, [side; 2]).conv2d::<Tensor>(&weights, None, [1, 1], [0, 0], [1, 1], 1);
        let segment = rule::SEGMENT as i64;
        let row = |at: i64| means(&cells.select(2, at).unsqueeze(2), [1, segment]).squeeze_dim(2);
        let column = |at: i64| means(&cells.select(3, at).unsqueeze(3), [segment, 1]).squeeze_dim(3);
        let border = Tensor::cat(&[row(0), row(-1), column(0), column(-1)], 2);
        let mean = border.mean_dim([2i64].as_slice(), true, Kind::Float);
        Self { cells: cells - mean.unsqueeze(3), border: border - mean }
    }

    fn size(&self) -> (i64, i64) {
        let size = self.cells.size();
        (size[2], size[3])
    }

    /// How uniform the border is, 0..1. Shape: `(B, 1, 1)`.
    fn uniform(&self) -> Tensor {
        let apart = self.border.unsqueeze(3) - self.border.unsqueeze(2); // (B, 3, n, n)
        let squares = apart.square().sum_dim_intlist([1i64].as_slice(), false, Kind::Float);
        (squares * (-0.5 / (rule::ALIKE * rule::ALIKE))).exp().mean_dim(
            [1i64, 2].as_slice(),
            true,
            Kind::Float,
        )
    }

    /// Of each fine cell from the border's nearest colour. Shape: `(B, H, W)`.
    fn distances(&self) -> Tensor {
        let length = |x: &Tensor| x.square().sum_dim_intlist([1i64].as_slice(), false, Kind::Float);
        // |c - b|^2 of all pairs at once; with c and b themselves it would take three times the memory
        let products = self.cells.flatten(2, 3).transpose(1, 2).matmul(&(&self.border * -2.0)); // (B, HW, n)
        let nearest = (products + length(&self.border).unsqueeze(1)).amin([2i64], false);
        let (rows, columns) = self.size();
        (nearest.view([-1, rows, columns]) + length(&self.cells)).clamp_min(0.0).sqrt()
    }
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

    /// Methods ask for maps where their networks compute in half precision.
    #[test]
    fn maps_are_in_single_precision_where_networks_are_not() {
        let _alone = crate::rng::alone();
        tch::manual_seed(3);
        let features = Tensor::randn([2, 6, 8, 8], (Kind::Float, Device::Cpu));
        let pixels = Tensor::randn([2, 3, 64, 64], (Kind::Float, Device::Cpu));
        let prior = BorderColour::new(&occlude_preprocess::Preprocess::imagenet(64), Device::Cpu);
        let filter = occlude_preprocess::HighPass { kernel: 3, sigma: 1.0 };
        let filter = crate::augment::HighPassFilter::new(64, &filter, Device::Cpu);
        let all = |half: bool| {
            let _half = Autocast::bf16(Device::Cpu, half);
            let object = maps(MapRule::Object, &features, Pictures { pixels: &pixels, std: [0.2; 3] });
            [object, prior.maps(&pixels, 8), filter.apply(&pixels)]
        };
        assert_eq!(all(true), all(false));
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
        let fine = fine_maps(MapRule::Object, &features, Pictures { pixels: &pixels, std: [0.2; 3] });
        assert_eq!(fine.size(), [3, 31, 31]);
        let inside = map.narrow(1, 3, 2).narrow(2, 3, 2);
        assert!(inside.min().double_value(&[]) > 0.3, "{inside:?}");
        let square = fine.narrow(1, 12, 8).narrow(2, 12, 8);
        assert!(square.min().double_value(&[]) > 0.3, "{square:?}");
        let outside = fine.sum(Kind::Double) - square.sum(Kind::Double);
        assert!(outside.double_value(&[]).abs() < 1e-6, "colours of the border are background");
    }

    /// On a ground of one colour colours decide, whatever the features are; on a ground of many the features do, too.
    #[test]
    fn features_count_as_far_as_the_border_varies() {
        let _alone = crate::rng::alone();
        let plain = Tensor::zeros([1, 3, 64, 64], (Kind::Float, Device::Cpu));
        let _ = plain.narrow(2, 20, 24).narrow(3, 20, 24).narrow(1, 0, 1).fill_(2.0);
        let varied = &plain + Tensor::linspace(-9.0, 9.0, 64, (Kind::Float, Device::Cpu)).view([1, 1, 64, 1]);
        let map = |pixels: &Tensor, seed| {
            tch::manual_seed(seed);
            let features = Tensor::randn([1, 6, 8, 8], (Kind::Float, Device::Cpu));
            fine_maps(MapRule::Object, &features, Pictures { pixels, std: [0.2; 3] })
        };
        let apart = |pixels: &Tensor| (map(pixels, 1) - map(pixels, 2)).abs().max().double_value(&[]);
        assert!(apart(&plain) < 1e-6);
        assert!(apart(&varied) > 0.01);
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
