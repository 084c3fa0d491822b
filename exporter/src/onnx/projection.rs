//! The projection head: the network behind the encoder that pretraining compares pictures in.

use std::collections::BTreeMap;

use occlude_checkpoint::{Checkpoint, Encoder, ProjectionHead, meta};
use occlude_encoder::{Graph, Mlp, MlpLayer};

use super::builder::Builder;
use crate::Error;
use crate::proto::Attribute;
use crate::reference::{exact_gelu, rectified};

/// A multilayer perceptron behind the pooled features.
#[derive(Clone, Debug, PartialEq)]
pub struct Projection {
    layers: Vec<Layer>,
    dim: usize,
    /// What the projections of single positions are divided by, where the method makes alignment maps of them.
    scale: Option<f32>,
}

/// A head whose projections of single positions are alignment maps.
#[derive(Clone, Copy, Debug)]
pub struct Alignment<'p> {
    /// The head.
    pub head: &'p Projection,
    /// What they are divided by before the softmax.
    pub scale: f32,
}

/// Where LEWEL's repository has its head, whose maps have a scale of 1.
const LEWEL: &str = "neck.proj.mlp.";

#[derive(Clone, Debug, PartialEq)]
enum Layer {
    /// `weight` (outputs, inputs), row-major.
    Linear {
        weight: Vec<f32>,
        bias: Vec<f32>,
        shape: [usize; 2],
    },
    /// A batch normalisation, as factor and summand of each channel.
    Affine {
        factor: Vec<f32>,
        summand: Vec<f32>,
    },
    Relu,
    Gelu,
}

/// The tensors of one position of the head, by leaf name.
type Leaves = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

impl Projection {
    /// The head that belongs to an encoder of a checkpoint: as the metadata describes it, else `head_q.*` as Occlude writes it, `fc.*` beside
    /// the encoder's own parameters as MoCo has it, or `projector.*`, `projection_head.*`.
    ///
    /// Layers are told by position and shape, as `torch.nn.Sequential` numbers them: two sides are a
    /// linear layer, running statistics a batch normalisation, a gap in the numbers a rectifier.
    ///
    /// # Errors
    /// [`Error::Projection`] where there is none, or one of another kind.
    pub fn find(checkpoint: &Checkpoint, encoder: &Encoder<'_>) -> Result<Self, Error> {
        if let Some(head) = Self::stated(checkpoint, encoder)? {
            return Ok(head);
        }
        let places = places(&encoder.layout.prefix);
        let fail = |reason: String| Error::Projection { path: checkpoint.path().to_owned(), reason };
        for place in &places {
            let positions = positions(checkpoint, place)?;
            if !positions.is_empty() {
                let head = Self::of(positions, encoder.arch.feature_dim());
                let scale = place.ends_with(LEWEL).then_some(1.0);
                return head
                    .map(|head| Self { scale, ..head })
                    .map_err(|reason| fail(format!("`{place}*` {reason}")));
            }
        }
        let looked: Vec<String> = places.iter().map(|p| format!("`{p}*`")).collect();
        Err(fail(format!("looked for {}", looked.join(", "))))
    }

    /// The head that the file itself describes, where it is the one of this encoder.
    fn stated(checkpoint: &Checkpoint, encoder: &Encoder<'_>) -> Result<Option<Self>, Error> {
        let metadata = checkpoint.metadata();
        let (Some(text), Some(of)) = (metadata.get(meta::PROJECTION), metadata.get(meta::ENCODER)) else {
            return Ok(None);
        };
        if *of != encoder.layout.prefix {
            return Ok(None);
        }
        let fail = |reason: String| {
            let reason = format!("`{}` in the metadata: {reason}", meta::PROJECTION);
            Error::Projection { path: checkpoint.path().to_owned(), reason }
        };
        let head: ProjectionHead = text.parse().map_err(fail)?;
        let tensors = positions(checkpoint, &head.prefix)?;
        let read = Self::described(&head.mlp, tensors, encoder.arch.feature_dim()).map_err(fail)?;
        let scale = metadata.get(meta::ALIGNMENT).map(|text| match text.parse::<f32>() {
            Ok(scale) if scale > 0.0 && scale.is_finite() => Ok(scale),
            _ => Err(fail(format!("`{}` is `{text}`, expected a number above 0", meta::ALIGNMENT))),
        });
        Ok(Some(Self { scale: scale.transpose()?, ..read }))
    }

    /// The layers of a description with the tensors of their places.
    fn described(mlp: &Mlp, mut tensors: BTreeMap<usize, Leaves>, inputs: usize) -> Result<Self, String> {
        let (mut layers, mut dim) = (Vec::new(), inputs);
        for (position, described) in mlp.layers.iter().enumerate() {
            let plain = match described {
                MlpLayer::Relu => Some(Layer::Relu),
                MlpLayer::Gelu => Some(Layer::Gelu),
                MlpLayer::Linear { .. } | MlpLayer::BatchNorm { .. } => None,
            };
            if let Some(layer) = plain {
                layers.push(layer);
                continue;
            }
            let leaves = tensors.remove(&position).unwrap_or_default();
            let of_description: BTreeMap<_, _> = described.leaves().into_iter().collect();
            let found = leaves.iter().map(|(leaf, (shape, _))| (leaf.as_str(), shape.clone())).collect();
            if of_description != found {
                return Err(format!("at {position}: `{described}` has tensors of shapes {found:?}"));
            }
            let layer = layer(leaves, dim).map_err(|reason| format!("at {position}: {reason}"))?;
            if let Layer::Linear { shape, .. } = layer {
                dim = shape[0];
            }
            layers.push(layer);
        }
        Ok(Self { layers, dim, scale: None })
    }

    fn of(positions: BTreeMap<usize, Leaves>, inputs: usize) -> Result<Self, String> {
        let mut layers = Vec::new();
        let (mut next, mut dim) = (0, inputs);
        for (position, leaves) in positions {
            if position > next && next > 0 {
                layers.push(Layer::Relu);
            }
            next = position + 1;
            let layer = layer(leaves, dim).map_err(|reason| format!("at {position}: {reason}"))?;
            if let Layer::Linear { shape, .. } = layer {
                dim = shape[0];
            }
            layers.push(layer);
        }
        Ok(Self { layers, dim, scale: None })
    }

    /// Length of its output.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Adds its operations behind `features` (N, inputs); gives the value (N, dim).
    pub(super) fn add(&self, builder: &mut Builder<'_>, features: String) -> String {
        let mut value = features;
        for (i, layer) in self.layers.iter().enumerate() {
            let name = format!("projection.{i}");
            value = match layer {
                Layer::Relu => builder.node("Relu", &name, &[&value], vec![]),
                Layer::Gelu => gelu(builder, &name, &value, &[1, 1]),
                Layer::Linear { weight, bias, shape } => {
                    let weight = builder.floats(&format!("{name}.weight"), shape, weight.clone());
                    let bias = builder.floats(&format!("{name}.bias"), &shape[..1], bias.clone());
                    builder.node("Gemm", &name, &[&value, &weight, &bias], vec![Attribute::Int("transB", 1)])
                }
                Layer::Affine { factor, summand } => {
                    let dims = [1, factor.len()];
                    let factor = builder.floats(&format!("{name}.factor"), &dims, factor.clone());
                    let summand = builder.floats(&format!("{name}.summand"), &dims, summand.clone());
                    let scaled = builder.node("Mul", &format!("{name}.mul"), &[&value, &factor], vec![]);
                    builder.node("Add", &name, &[&scaled, &summand], vec![])
                }
            };
        }
        value
    }

    /// The alignment maps of the method that it belongs to, where that makes some.
    pub fn alignment(&self) -> Option<Alignment<'_>> {
        self.scale.map(|scale| Alignment { head: self, scale })
    }

    /// Adds its operations at every position of `features` (N, inputs, h, w); gives the value (N, dim, h, w).
    pub(super) fn at_positions(&self, builder: &mut Builder<'_>, name: &str, features: String) -> String {
        let mut value = features;
        for (i, layer) in self.layers.iter().enumerate() {
            let name = format!("{name}.{i}");
            value = match layer {
                Layer::Relu => builder.node("Relu", &name, &[&value], vec![]),
                Layer::Gelu => gelu(builder, &name, &value, &[1; 4]),
                Layer::Linear { weight, bias, shape: [outputs, inputs] } => {
                    let dims = [*outputs, *inputs, 1, 1];
                    let weight = builder.floats(&format!("{name}.weight"), &dims, weight.clone());
                    let bias = builder.floats(&format!("{name}.bias"), &[*outputs], bias.clone());
                    let attributes = vec![
                        Attribute::Ints("kernel_shape", vec![1; 2]),
                        Attribute::Ints("pads", vec![0; 4]),
                        Attribute::Ints("strides", vec![1; 2]),
                    ];
                    builder.node("Conv", &name, &[&value, &weight, &bias], attributes)
                }
                Layer::Affine { factor, summand } => {
                    let dims = [1, factor.len(), 1, 1];
                    let factor = builder.floats(&format!("{name}.factor"), &dims, factor.clone());
                    let summand = builder.floats(&format!("{name}.summand"), &dims, summand.clone());
                    let scaled = builder.node("Mul", &format!("{name}.mul"), &[&value, &factor], vec![]);
                    builder.node("Add", &name, &[&scaled, &summand], vec![])
                }
            };
        }
        value
    }

    /// The plain computation, for checking: (inputs) -> (dim).
    pub fn forward(&self, features: &[f32]) -> Vec<f32> {
        self.layers.iter().fold(features.to_vec(), |x, layer| match layer {
            Layer::Relu => x.iter().map(|&v| rectified(v)).collect(),
            Layer::Gelu => x.iter().map(|&v| exact_gelu(f64::from(v))).collect(),
            Layer::Affine { factor, summand } => {
                x.iter().zip(factor).zip(summand).map(|((x, f), s)| x * f + s).collect()
            }
            Layer::Linear { weight, bias, shape } => {
                let dot = |row: &[f32]| row.iter().zip(&x).map(|(w, x)| f64::from(w * x)).sum::<f64>() as f32;
                weight.chunks(shape[1].max(1)).zip(bias).map(|(row, b)| dot(row) + b).collect()
            }
        })
    }
}

/// `x (1 + erf(x / sqrt(2))) / 2`, its constants of shape `ones`, in the form that runtimes know.
fn gelu(builder: &mut Builder<'_>, name: &str, x: &str, ones: &[usize]) -> String {
    let mut constant = |leaf: &str, value: f32| builder.floats(&format!("{name}.{leaf}"), ones, vec![value]);
    let (root, one, half) =
        (constant("sqrt2", std::f32::consts::SQRT_2), constant("one", 1.0), constant("half", 0.5));
    let mut node = |op: &'static str, leaf: &str, inputs: &[&str]| {
        builder.node(op, &format!("{name}.{leaf}"), inputs, vec![])
    };
    let scaled = node("Div", "scaled", &[x, &root]);
    let erf = node("Erf", "erf", &[&scaled]);
    let above = node("Add", "above", &[&erf, &one]);
    let product = node("Mul", "product", &[x, &above]);
    node("Mul", "gelu", &[&product, &half])
}

/// Where the head of the encoder below `prefix` may be, most specific first.
fn places(prefix: &str) -> Vec<String> {
    let stem = |from: &str| prefix.strip_suffix(from).map(str::to_owned);
    let mut places: Vec<String> = [("encoder_q.", "head_q."), ("encoder_k.", "head_k.")]
        .iter()
        .filter_map(|(encoder, head)| Some(stem(encoder)? + head))
        .collect();
    places.push(format!("{prefix}fc."));
    let parent = stem("backbone.").or_else(|| stem("encoder.")).unwrap_or_default();
    for head in [
        "projector.",
        "projection_head.layers.",
        "projection_head.",
        "neck.proj.mlp.",
        "projection.net.",
        "projector.net.",
    ] {
        places.push(format!("{parent}{head}"));
    }
    places
}

/// The tensors below a place, by position; a single layer has none and gets 0.
fn positions(checkpoint: &Checkpoint, place: &str) -> Result<BTreeMap<usize, Leaves>, Error> {
    let mut positions: BTreeMap<usize, Leaves> = BTreeMap::new();
    for tensor in checkpoint.tensors() {
        let Some(rest) = tensor.name.strip_prefix(place) else { continue };
        let (position, leaf) = match rest.split_once('.') {
            Some((number, leaf)) => match number.parse() {
                Ok(number) => (number, leaf),
                Err(_) => continue,
            },
            None => (0, rest),
        };
        let value = (tensor.shape.to_vec(), tensor.to_f32()?);
        positions.entry(position).or_default().insert(leaf.to_owned(), value);
    }
    Ok(positions)
}

/// The layer with these tensors, reading `inputs` values.
fn layer(mut leaves: Leaves, inputs: usize) -> Result<Layer, String> {
    let plain = leaves.get("running_mean").filter(|_| !leaves.contains_key("weight"));
    // a normalisation that neither scales nor shifts
    let ones = plain.map(|(shape, mean)| (shape.clone(), vec![1.0; mean.len()]));
    let (mut shape, weight) = ones.or_else(|| leaves.remove("weight")).ok_or("it has no `weight`")?;
    // a convolution of one position, as LEWEL's necks have it
    if let [_, _, 1] = *shape.as_slice() {
        shape.pop();
    }
    let mut take = |leaf: &str, len: usize| match leaves.remove(leaf) {
        Some((_, values)) if values.len() == len => Ok(Some(values)),
        Some((shape, _)) => Err(format!("`{leaf}` has shape {shape:?} where {len} values were expected")),
        None => Ok(None),
    };
    match *shape.as_slice() {
        [outputs, columns] if columns == inputs && outputs > 0 => {
            let bias = take("bias", outputs)?.unwrap_or_else(|| vec![0.0; outputs]);
            Ok(Layer::Linear { weight, bias, shape: [outputs, columns] })
        }
        [channels] if channels == inputs => {
            let (mean, var) = (take("running_mean", channels)?, take("running_var", channels)?);
            let (Some(mean), Some(var)) = (mean, var) else {
                return Err("a normalisation without running statistics is not supported".to_owned());
            };
            let bias = take("bias", channels)?.unwrap_or_else(|| vec![0.0; channels]);
            let factor =
                |(w, v): (&f32, &f32)| (f64::from(*w) / (f64::from(*v) + Graph::BN_EPS).sqrt()) as f32;
            let factor: Vec<f32> = weight.iter().zip(&var).map(factor).collect();
            let summand = bias.iter().zip(&mean).zip(&factor).map(|((b, m), f)| b - m * f).collect();
            Ok(Layer::Affine { factor, summand })
        }
        _ => Err(format!("a weight of shape {shape:?} does not fit {inputs} inputs")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(parts: &[(&str, &[usize], &[f32])]) -> Leaves {
        parts.iter().map(|(n, s, v)| ((*n).to_owned(), (s.to_vec(), v.to_vec()))).collect()
    }

    #[test]
    fn a_head_with_normalisation_is_read_and_computed() {
        let positions = BTreeMap::from([
            (0, leaves(&[("weight", &[2, 3], &[1.0, 0.0, 0.0, 0.0, 1.0, 0.0]), ("bias", &[2], &[0.5, 0.0])])),
            (
                1,
                leaves(&[
                    ("weight", &[2], &[2.0, 1.0]),
                    ("bias", &[2], &[0.0, -1.0]),
                    ("running_mean", &[2], &[0.5, 0.0]),
                    ("running_var", &[2], &[1.0 - 1e-5, 1.0 - 1e-5]),
                ]),
            ),
            (3, leaves(&[("weight", &[1, 2], &[1.0, 10.0])])),
        ]);
        let head = Projection::of(positions, 3).expect("a head");
        assert_eq!((head.dim(), head.layers.len()), (1, 4));
        assert!(head.layers[2] == Layer::Relu);
        // (1.5, 3) -> (2 (1.5 - 0.5), 3 - 1) -> (2, 2) -> 22
        assert!((head.forward(&[1.0, 3.0, 9.0])[0] - 22.0).abs() < 1e-4);
    }

    /// The same tensors by description and by position; what a description says is held against them.
    #[test]
    fn a_described_head_is_that_of_its_positions() {
        let tensors = || {
            BTreeMap::from([
                (0, leaves(&[("weight", &[2, 3], &[1.0, 0.0, 0.0, 0.0, 1.0, 0.0])])),
                (2, leaves(&[("weight", &[1, 2], &[1.0, 10.0]), ("bias", &[1], &[0.5])])),
                (3, leaves(&[("running_mean", &[1], &[2.0]), ("running_var", &[1], &[4.0 - 1e-5])])),
            ])
        };
        let mlp: Mlp = "linear 3 2 no-bias, relu, linear 2 1, batch-norm 1 plain".parse().expect("readable");
        let head = Projection::described(&mlp, tensors(), 3).expect("a head");
        assert_eq!(head, Projection::of(tensors(), 3).expect("a head"));
        // (2, -1) -> (2, 0) -> 2.5 -> (2.5 - 2) / 2
        assert!((head.forward(&[2.0, -1.0, 9.0])[0] - 0.25).abs() < 1e-6);
        let smooth: Mlp =
            "linear 3 2 no-bias, gelu, linear 2 1, batch-norm 1 plain".parse().expect("readable");
        let head = Projection::described(&smooth, tensors(), 3).expect("a head");
        // (2, -1) -> (1.9545, -0.15866) -> 0.86794 -> (0.86794 - 2) / 2
        assert!((head.forward(&[2.0, -1.0, 9.0])[0] + 0.56603).abs() < 1e-4);
        for (text, part) in [
            ("linear 3 2, relu, linear 2 1, batch-norm 1 plain", "at 0: `linear 3 2`"),
            ("linear 3 2 no-bias, relu, linear 2 1, batch-norm 1", "at 3"),
            ("linear 3 2 no-bias, relu, linear 2 1, relu, linear 1 1", "at 4"),
        ] {
            let mlp: Mlp = text.parse().expect("readable");
            let error = Projection::described(&mlp, tensors(), 3).expect_err("refused");
            assert!(error.contains(part), "{error}");
        }
    }

    /// Weights of three sides, the last of them 1.
    #[test]
    fn a_convolution_of_one_position_is_a_linear_layer() {
        let neck = BTreeMap::from([
            (0, leaves(&[("weight", &[2, 3, 1], &[1.0, 0.0, 0.0, 0.0, 1.0, 0.0])])),
            (3, leaves(&[("weight", &[1, 2, 1], &[1.0, 10.0])])),
        ]);
        let head = Projection::of(neck, 3).expect("a head");
        assert_eq!(head.forward(&[1.0, -3.0, 9.0]), [1.0]);
    }

    #[test]
    fn heads_of_other_kinds_are_refused() {
        let refused = |parts: &[(&str, &[usize], &[f32])]| {
            Projection::of(BTreeMap::from([(0, leaves(parts))]), 2).expect_err("refused")
        };
        assert!(refused(&[("bias", &[1], &[0.0])]).contains("no `weight`"));
        assert!(refused(&[("weight", &[1, 3], &[0.0; 3])]).contains("does not fit 2 inputs"));
        assert!(refused(&[("weight", &[2], &[0.0; 2])]).contains("running statistics"));
        assert!(refused(&[("weight", &[1, 2], &[0.0; 2]), ("bias", &[3], &[0.0; 3])]).contains("`bias`"));
    }

    #[test]
    fn places_follow_the_encoder() {
        assert_eq!(places("encoder_q.")[..2], ["head_q.".to_owned(), "encoder_q.fc.".to_owned()]);
        assert!(places("module.encoder_q.").contains(&"module.encoder_q.fc.".to_owned()));
        assert!(places("online_net.backbone.").contains(&"online_net.projector.".to_owned()));
        assert!(
            places("module.online_net.backbone.").contains(&"module.online_net.neck.proj.mlp.".to_owned())
        );
    }
}
