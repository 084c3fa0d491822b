//! Multilayer perceptrons behind an encoder, as data: projectors, predictors, the neck of alignment maps.

use std::fmt;
use std::str::FromStr;

/// A layer. Its place in [`Mlp::layers`] is its number in `torch.nn.Sequential`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MlpLayer {
    /// `weight` `(outputs, inputs)` and, with `bias`, `bias` `(outputs)`.
    Linear {
        /// Numbers that it reads.
        inputs: usize,
        /// Numbers that it gives.
        outputs: usize,
        /// Whether it adds some of its own.
        bias: bool,
    },
    /// Batch normalisation: `running_mean`, `running_var` and, with `affine`, `weight`, `bias`, `(features)` each.
    BatchNorm {
        /// Numbers that it reads and gives.
        features: usize,
        /// Whether it scales and shifts.
        affine: bool,
    },
    /// `max(x, 0)`.
    Relu,
    /// The exact Gaussian error linear unit, `x (1 + erf(x / sqrt(2))) / 2`.
    Gelu,
}

/// A multilayer perceptron. As text, which files hold: `linear 512 1024, batch-norm 1024, relu, linear 1024 128 no-bias`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mlp {
    /// In order.
    pub layers: Vec<MlpLayer>,
}

/// Longest of all that are read from a file.
const MAX_LAYERS: usize = 64;

impl Mlp {
    /// `Linear -> [BatchNorm] -> ReLU -> Linear`; `bias`: of both linear layers.
    pub fn two_layers([inputs, hidden, outputs]: [usize; 3], bn: bool, bias: bool) -> Self {
        let linear = |inputs, outputs| MlpLayer::Linear { inputs, outputs, bias };
        let norm = bn.then_some(MlpLayer::BatchNorm { features: hidden, affine: true });
        let layers = [linear(inputs, hidden)].into_iter().chain(norm);
        Self { layers: layers.chain([MlpLayer::Relu, linear(hidden, outputs)]).collect() }
    }

    /// Linear layers with biases from each width to the next, GELU between them.
    pub fn with_gelu(widths: &[usize]) -> Self {
        let mut layers = Vec::new();
        for pair in widths.windows(2) {
            if !layers.is_empty() {
                layers.push(MlpLayer::Gelu);
            }
            layers.push(MlpLayer::Linear { inputs: pair[0], outputs: pair[1], bias: true });
        }
        Self { layers }
    }

    /// With a normalisation of the output, without a scale and a shift of its own.
    #[must_use]
    pub fn normalised(mut self) -> Self {
        if let Some(features) = self.outputs() {
            self.layers.push(MlpLayer::BatchNorm { features, affine: false });
        }
        self
    }

    /// Numbers that it gives; `None` where no layer says it.
    pub fn outputs(&self) -> Option<usize> {
        self.layers.iter().rev().find_map(|layer| match *layer {
            MlpLayer::Linear { outputs, .. } => Some(outputs),
            MlpLayer::BatchNorm { features, .. } => Some(features),
            MlpLayer::Relu | MlpLayer::Gelu => None,
        })
    }
}

impl MlpLayer {
    /// Leaf name and shape of each tensor, in the order of PyTorch's state dict; [`Self::is_buffer`] tells what is not learnt.
    pub fn leaves(&self) -> Vec<(&'static str, Vec<usize>)> {
        match *self {
            Self::Linear { inputs, outputs, bias } => {
                let bias = bias.then(|| ("bias", vec![outputs]));
                std::iter::once(("weight", vec![outputs, inputs])).chain(bias).collect()
            }
            Self::BatchNorm { features, affine } => {
                let affine: &[_] = if affine { &["weight", "bias"] } else { &[] };
                affine
                    .iter()
                    .chain(&["running_mean", "running_var"])
                    .map(|leaf| (*leaf, vec![features]))
                    .collect()
            }
            Self::Relu | Self::Gelu => Vec::new(),
        }
    }

    /// Whether a leaf follows the data instead of the optimiser.
    pub fn is_buffer(leaf: &str) -> bool {
        leaf.starts_with("running_")
    }
}

impl fmt::Display for MlpLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Linear { inputs, outputs, bias } => {
                write!(f, "linear {inputs} {outputs}{}", if bias { "" } else { " no-bias" })
            }
            Self::BatchNorm { features, affine } => {
                write!(f, "batch-norm {features}{}", if affine { "" } else { " plain" })
            }
            Self::Relu => f.write_str("relu"),
            Self::Gelu => f.write_str("gelu"),
        }
    }
}

impl fmt::Display for Mlp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, layer) in self.layers.iter().enumerate() {
            write!(f, "{}{layer}", if i > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

impl FromStr for MlpLayer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unknown = || format!("unknown layer `{text}`");
        let words: Vec<&str> = text.split_whitespace().collect();
        let number = |text: &str| text.parse::<usize>().ok().filter(|&n| n > 0).ok_or_else(unknown);
        match words.as_slice() {
            ["relu"] => Ok(Self::Relu),
            ["gelu"] => Ok(Self::Gelu),
            ["linear", inputs, outputs] => {
                Ok(Self::Linear { inputs: number(inputs)?, outputs: number(outputs)?, bias: true })
            }
            ["linear", inputs, outputs, "no-bias"] => {
                Ok(Self::Linear { inputs: number(inputs)?, outputs: number(outputs)?, bias: false })
            }
            ["batch-norm", features] => Ok(Self::BatchNorm { features: number(features)?, affine: true }),
            ["batch-norm", features, "plain"] => {
                Ok(Self::BatchNorm { features: number(features)?, affine: false })
            }
            _ => Err(unknown()),
        }
    }
}

impl FromStr for Mlp {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let layers: Vec<MlpLayer> =
            text.split(',').take(MAX_LAYERS + 1).map(str::parse).collect::<Result<_, _>>()?;
        if layers.len() > MAX_LAYERS {
            return Err(format!("more than {MAX_LAYERS} layers"));
        }
        Ok(Self { layers })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        for text in [
            "linear 512 512, relu, linear 512 128",
            "linear 512 1024 no-bias, batch-norm 1024, relu, linear 1024 128 no-bias, batch-norm 128 plain",
            "linear 3 2",
            "linear 8 16, gelu, linear 16 16, gelu, linear 16 4",
        ] {
            let mlp: Mlp = text.parse().expect("readable");
            assert_eq!(mlp.to_string(), text);
        }
        for (text, part) in
            [("", "``"), ("linear 3", "`linear 3`"), ("linear 0 3", "`linear 0 3`"), ("tanh", "tanh")]
        {
            assert!(text.parse::<Mlp>().expect_err("refused").contains(part), "{text}");
        }
        let long = vec!["relu"; MAX_LAYERS + 1].join(",");
        assert!(long.parse::<Mlp>().expect_err("refused").contains("64 layers"));
    }

    #[test]
    fn names_and_shapes_are_those_of_a_sequential() {
        let mlp = Mlp::two_layers([4, 8, 2], true, false).normalised();
        assert_eq!((mlp.layers.len(), mlp.outputs()), (5, Some(2)));
        assert_eq!(mlp.layers[0].leaves(), [("weight", vec![8, 4])]);
        let names: Vec<_> = mlp.layers[1].leaves().into_iter().map(|l| l.0).collect();
        assert_eq!(names, ["weight", "bias", "running_mean", "running_var"]);
        assert_eq!(mlp.layers[4].leaves(), [("running_mean", vec![2]), ("running_var", vec![2])]);
        assert!(MlpLayer::is_buffer("running_mean") && !MlpLayer::is_buffer("weight"));
        assert_eq!(Mlp { layers: vec![MlpLayer::Relu, MlpLayer::Gelu] }.outputs(), None);
        let head = Mlp::with_gelu(&[8, 16, 16, 4]);
        assert_eq!(head.to_string(), "linear 8 16, gelu, linear 16 16, gelu, linear 16 4");
    }
}
