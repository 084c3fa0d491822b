//! Finding an encoder in a state dict and loading it strictly.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use occlude_encoder::layout::{self, Layout};
use occlude_encoder::{Arch, Graph, Param, ParamKind};
use sha2::{Digest, Sha256};

use crate::checkpoint::Checkpoint;
use crate::error::Error;
use crate::meta;
use crate::out::TensorOut;
use crate::tensor::Tensor;

/// What to load, where the checkpoint leaves it open.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// The architecture; default: as the metadata says, else guessed from names and shapes.
    pub arch: Option<Arch>,
    /// What the encoder's keys begin with; default: as [`layout::detect`] finds.
    pub prefix: Option<String>,
    /// Accept missing and mis-shaped parameters as long as one matches; default: an error.
    pub partial: bool,
}

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
    /// Keys below the prefix that are no parameter of the encoder (heads, `fc.*`), as in the file.
    pub unused: Vec<String>,
    /// Parameters of another shape.
    pub mis_shaped: Vec<MisShaped>,
}

/// An encoder found in a checkpoint: which tensor is which parameter. No weight has been read.
#[derive(Clone, Debug)]
pub struct EncoderMatch {
    /// The architecture.
    pub arch: Arch,
    /// Prefix and naming.
    pub layout: Layout,
    /// (parameter, key in the file) for all that matched, in torchvision's order.
    pub found: Vec<(Param, String)>,
    /// The rest.
    pub report: LoadReport,
}

/// The value of a parameter.
#[derive(Clone, Debug)]
pub enum EncoderData<'a> {
    /// Weights and running statistics, row-major, in memory.
    F32(Vec<f32>),
    /// The same, where the checkpoint has them: read when they are asked for.
    Stored(Tensor<'a>),
    /// `num_batches_tracked`.
    I64(i64),
}

/// A parameter.
#[derive(Clone, Debug)]
pub struct EncoderTensor<'a> {
    /// Its shape; empty for a scalar.
    pub shape: Vec<usize>,
    /// Its value.
    pub data: EncoderData<'a>,
}

/// An encoder whose names and shapes are right. Its weights stay in the mapped file: a conversion
/// needs memory for one tensor, not for two copies of the file.
#[derive(Clone, Debug)]
pub struct Encoder<'a> {
    /// The architecture.
    pub arch: Arch,
    /// Where it sat in the checkpoint.
    pub layout: Layout,
    /// Parameters and buffers by torchvision's names.
    pub tensors: BTreeMap<String, EncoderTensor<'a>>,
    /// What matched and what did not.
    pub report: LoadReport,
}

impl EncoderData<'_> {
    /// Weights and statistics as floats, borrowed where the file holds them so; `None` for counters.
    pub fn floats(&self) -> Option<Cow<'_, [f32]>> {
        match self {
            Self::F32(data) => Some(Cow::Borrowed(data)),
            // `load_encoder` has seen that they can be decoded.
            Self::Stored(tensor) => {
                tensor.as_f32().map(Cow::Borrowed).or_else(|| tensor.to_f32().ok().map(Cow::Owned))
            }
            Self::I64(_) => None,
        }
    }
}

impl Encoder<'_> {
    /// A weight or a running statistic by torchvision's name; `None` for counters and unknown names.
    pub fn f32(&self, name: &str) -> Option<Cow<'_, [f32]>> {
        self.tensors.get(name)?.data.floats()
    }

    /// Every parameter and buffer below `prefix`, in the order of torchvision's state dict, as
    /// single-precision floats; borrowed where the file holds them so.
    ///
    /// # Errors
    /// [`Error::Tensor`] for bytes that cannot be decoded.
    pub fn tensors_out(&self, prefix: &str) -> Result<Vec<TensorOut<'_>>, Error> {
        let mut out = Vec::with_capacity(self.tensors.len());
        for param in Graph::new(self.arch).params() {
            let Some(tensor) = self.tensors.get(&param.name) else { continue };
            let name = format!("{prefix}{}", param.name);
            out.push(match &tensor.data {
                EncoderData::F32(data) => TensorOut::f32(name, tensor.shape.as_slice(), data),
                EncoderData::Stored(stored) => stored.f32_out(name)?,
                EncoderData::I64(count) => TensorOut::i64(name, *count),
            });
        }
        Ok(out)
    }

    /// SHA-256 (hexadecimal) that identifies weights and preprocessing together: over every float
    /// parameter in the order of the names, as name, a zero byte and little-endian data, then the
    /// preprocessing contract. Counters are left out: they change no embedding.
    pub fn fingerprint(&self, preprocess_json: &str) -> String {
        let mut hash = Sha256::new();
        for (name, tensor) in &self.tensors {
            let Some(data) = tensor.data.floats() else { continue };
            hash.update(name.as_bytes());
            hash.update([0]);
            if cfg!(target_endian = "little") {
                hash.update(bytemuck::cast_slice::<f32, u8>(&data));
            } else {
                data.iter().for_each(|x| hash.update(x.to_le_bytes()));
            }
        }
        hash.update(preprocess_json.as_bytes());
        hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
    }
}

/// Finds the encoder of a checkpoint and holds it against its architecture, without reading weights.
///
/// # Errors
/// [`Error::Layout`] where no or several encoders are found, [`Error::Arch`] for metadata that names
/// an unknown architecture, [`Error::Strict`] where parameters are missing or mis-shaped (with
/// `partial`: where none matches).
pub fn match_encoder(checkpoint: &Checkpoint, options: &LoadOptions) -> Result<EncoderMatch, Error> {
    let path = || checkpoint.path().to_owned();
    let keys = || checkpoint.names().filter(|name| !is_training_state(name));
    let layout = layout::detect(keys(), options.prefix.as_deref())
        .map_err(|reason| Error::Layout { path: path(), reason })?;
    // torchvision's name -> (key of the file, shape)
    let present: HashMap<String, (&str, &[usize])> = checkpoint
        .tensors()
        .filter(|t| !is_training_state(t.name))
        .filter_map(|t| Some((layout.to_torchvision(t.name)?, (t.name, t.shape))))
        .collect();
    let arch = match (options.arch, checkpoint.metadata().get(meta::ARCH)) {
        (Some(arch), _) => arch,
        (None, Some(name)) => name.parse().map_err(|reason| Error::Arch { path: path(), reason })?,
        (None, None) => guess(&present),
    };
    let (found, mut report) = compare(arch, &present);
    report.unused = unused(keys(), &layout, &found);
    let complete = report.missing.is_empty() && report.mis_shaped.is_empty();
    if !(complete || options.partial) || report.matched == 0 {
        let report = Box::new(report);
        return Err(Error::Strict { path: path(), arch, prefix: layout.prefix, report });
    }
    Ok(EncoderMatch { arch, layout, found, report })
}

/// Loads the encoder of a checkpoint: strict, by torchvision's names, as single-precision floats that
/// are read when they are needed.
///
/// # Errors
/// As [`match_encoder`], and [`Error::Tensor`] for bytes that cannot be decoded.
pub fn load_encoder<'a>(checkpoint: &'a Checkpoint, options: &LoadOptions) -> Result<Encoder<'a>, Error> {
    let EncoderMatch { arch, layout, found, report } = match_encoder(checkpoint, options)?;
    let mut tensors = BTreeMap::new();
    for (param, key) in found {
        let Some(tensor) = checkpoint.tensor(&key) else { continue };
        let data = match param.kind {
            ParamKind::BnCount => EncoderData::I64(tensor.to_i64()?.first().copied().unwrap_or(0)),
            _ => {
                tensor.check()?;
                EncoderData::Stored(tensor)
            }
        };
        tensors.insert(param.name, EncoderTensor { shape: param.shape, data });
    }
    for param in Graph::new(arch).params() {
        if param.kind == ParamKind::BnCount {
            tensors.entry(param.name).or_insert(EncoderTensor { shape: vec![], data: EncoderData::I64(0) });
        }
    }
    Ok(Encoder { arch, layout, tensors, report })
}

/// Optimiser state repeats the parameters' names, and would pass for further encoders.
fn is_training_state(key: &str) -> bool {
    ["optim.", "optimizer.", "optimizers.", "rng.", "scheduler.", "lr_scheduler."]
        .iter()
        .any(|p| key.starts_with(p))
}

type Present<'a> = HashMap<String, (&'a str, &'a [usize])>;

/// Splits the parameters of `arch` into found and not.
fn compare(arch: Arch, present: &Present<'_>) -> (Vec<(Param, String)>, LoadReport) {
    let mut report = LoadReport::default();
    let mut found = Vec::new();
    for param in Graph::new(arch).params() {
        match present.get(&param.name) {
            Some((key, shape)) if *shape == param.shape || is_count(&param, shape) => {
                found.push((param, (*key).to_owned()));
            }
            Some((_, shape)) => report.mis_shaped.push(MisShaped {
                name: param.name,
                expected: param.shape,
                got: shape.to_vec(),
            }),
            None if param.kind == ParamKind::BnCount => {}
            None => report.missing.push(param.name),
        }
    }
    report.matched = found.len();
    (found, report)
}

/// A counter may also be stored as one element instead of a scalar.
fn is_count(param: &Param, shape: &[usize]) -> bool {
    param.kind == ParamKind::BnCount && shape == [1]
}

/// Keys below the prefix that no parameter took.
fn unused<'a>(
    keys: impl Iterator<Item = &'a str>,
    layout: &Layout,
    found: &[(Param, String)],
) -> Vec<String> {
    let taken: std::collections::HashSet<&str> = found.iter().map(|(_, key)| key.as_str()).collect();
    keys.filter(|key| key.starts_with(&layout.prefix) && !taken.contains(key)).map(str::to_owned).collect()
}

/// The architecture that explains the file best: most parameters of the right shape, fewest that are
/// absent, fewest blocks of the file left over.
fn guess(present: &Present<'_>) -> Arch {
    let score = |arch: Arch| {
        let (found, report) = compare(arch, present);
        let own: std::collections::HashSet<String> =
            Graph::new(arch).params().into_iter().map(|p| p.name).collect();
        let extra = present.keys().filter(|name| name.starts_with("layer") && !own.contains(*name)).count();
        2 * found.len() as i64 - (report.missing.len() + report.mis_shaped.len() + extra) as i64
    };
    // Ties go to the smaller one, which can only be one of an empty file.
    Arch::ALL.into_iter().rev().max_by_key(|&arch| score(arch)).unwrap_or(Arch::ResNet50)
}

/// The first names of a list, quoted, and how many more there are.
pub(crate) fn join(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let mut text = names.iter().take(SHOWN).map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    text
}
