//! How a checkpoint and an architecture agree.

use std::fmt;

/// A parameter whose shape is not what the architecture asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MisShaped {
    /// torchvision's name.
    pub name: String,
    /// The architecture's shape.
    pub expected: Vec<usize>,
    /// The file's shape.
    pub got: Vec<usize>,
}

/// How a checkpoint and an architecture agree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Parameters and buffers that were found with the right shape.
    pub matched: usize,
    /// Parameters that the file lacks, by torchvision's names. `num_batches_tracked` is never one:
    /// files of PyTorch before 0.4.1 have none, and nothing depends on it.
    pub missing: Vec<String>,
    /// Keys below the prefix that are no part of the encoder (heads, `fc.*`), as in the file.
    pub unused: Vec<String>,
    /// Keys of the encoder's body that the architecture lacks, as in the file: deeper stages, attention
    /// modules, biases. Ignoring them would compute something else.
    pub surplus: Vec<String>,
    /// Parameters of another shape.
    pub mis_shaped: Vec<MisShaped>,
    /// Missing parameters that the file has in a form that is not read here: torchvision's name, and why.
    pub skipped: Vec<(String, String)>,
    /// What was taken for granted, because names and shapes do not show it.
    pub assumed: Option<String>,
    /// What the network is instead, where names and shapes show it.
    pub variant: Option<String>,
}

impl LoadReport {
    /// Whether nothing is missing, mis-shaped or beyond the architecture.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty() && self.mis_shaped.is_empty() && self.surplus.is_empty()
    }
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(variant) = &self.variant {
            write!(f, "it is {variant}, which is not supported; ")?;
        }
        write!(f, "{} matched", self.matched)?;
        if let Some(assumed) = &self.assumed {
            write!(f, ", assuming {assumed}")?;
        }
        let shapes: Vec<String> = self.mis_shaped.iter().map(ToString::to_string).collect();
        for (names, what) in [
            (quoted(&self.missing), "missing"),
            (shapes, "of the wrong shape"),
            (quoted(&self.surplus), "that the architecture lacks"),
            (quoted(&self.unused), "unused"),
        ] {
            if !names.is_empty() {
                write!(f, ", {} {what} ({})", names.len(), first(&names))?;
            }
        }
        let skipped: Vec<String> =
            self.skipped.iter().map(|(name, why)| format!("`{name}`: {why}")).collect();
        if !skipped.is_empty() {
            write!(
                f,
                "; {} of the missing ones are in the file and cannot be read ({})",
                skipped.len(),
                first(&skipped)
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for MisShaped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: expected {:?}, got {:?}", self.name, self.expected, self.got)
    }
}

/// Names for a message; long ones are cut.
fn quoted(names: &[String]) -> Vec<String> {
    const LENGTH: usize = 120;
    let cut = |name: &String| match name.char_indices().nth(LENGTH) {
        Some((end, _)) => format!("`{}...`", name.get(..end).unwrap_or_default()),
        None => format!("`{name}`"),
    };
    names.iter().map(cut).collect()
}

/// The first of a list, and how many more there are.
fn first(texts: &[String]) -> String {
    const SHOWN: usize = 8;
    let mut text = texts.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if texts.len() > SHOWN {
        text.push_str(&format!(" and {} more", texts.len() - SHOWN));
    }
    text
}

/// The first names of a list, quoted, and how many more there are.
pub(crate) fn join(names: &[String]) -> String {
    first(&quoted(names))
}
