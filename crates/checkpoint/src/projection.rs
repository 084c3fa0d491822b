//! Where the projection head is in one of Occlude's own checkpoints.

use std::fmt;
use std::str::FromStr;

use occlude_encoder::Mlp;

/// A projection head. As text: `head_q.: linear 512 1024, relu, linear 1024 128`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProjectionHead {
    /// What its tensors' names begin with, final dot included; the number of the layer follows.
    pub prefix: String,
    /// Its layers.
    pub mlp: Mlp,
}

impl fmt::Display for ProjectionHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.prefix, self.mlp)
    }
}

impl FromStr for ProjectionHead {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (prefix, layers) = text.split_once(": ").ok_or_else(|| format!("`{text}` has no prefix"))?;
        Ok(Self { prefix: prefix.to_owned(), mlp: layers.parse()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        let text = "head_q.: linear 4 2 no-bias, batch-norm 2 plain";
        let read: ProjectionHead = text.parse().expect("readable");
        assert_eq!((read.prefix.as_str(), read.to_string().as_str()), ("head_q.", text));
        for (text, part) in [("head_q.", "no prefix"), ("head_q.: tanh", "tanh")] {
            assert!(text.parse::<ProjectionHead>().expect_err("refused").contains(part));
        }
    }
}
