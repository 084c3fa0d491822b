//! Loading an encoder strictly.

use std::borrow::Cow;
use std::collections::BTreeMap;

use occlude_encoder::layout::Layout;
use occlude_encoder::{Arch, Graph, ParamKind};
use sha2::{Digest, Sha256};

use crate::checkpoint::Checkpoint;
use crate::error::Error;
use crate::matching::{EncoderMatch, LoadOptions, match_encoder};
use crate::out::TensorOut;
use crate::report::LoadReport;
use crate::tensor::Tensor;
use crate::values::check_values;
use crate::whitening::{self, Whitening};

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
    /// What its embeddings go through afterwards, where the checkpoint says so.
    pub whitening: Option<Whitening>,
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

    /// Numbers of an embedding.
    pub fn embedding_dim(&self) -> usize {
        self.whitening.as_ref().map_or(self.arch.feature_dim(), Whitening::outputs)
    }

    /// SHA-256 (hexadecimal) that identifies weights and preprocessing together: over every float
    /// parameter in the order of the names, as name, a zero byte and little-endian data, then the same of
    /// the whitening where there is one, then the preprocessing contract. Counters are left out: they change
    /// no embedding.
    pub fn fingerprint(&self, preprocess_json: &str) -> String {
        let mut hash = Sha256::new();
        let mut add = |name: &str, data: &[f32]| {
            hash.update(name.as_bytes());
            hash.update([0]);
            if cfg!(target_endian = "little") {
                hash.update(bytemuck::cast_slice::<f32, u8>(data));
            } else {
                data.iter().for_each(|x| hash.update(x.to_le_bytes()));
            }
        };
        for (name, tensor) in &self.tensors {
            let Some(data) = tensor.data.floats() else { continue };
            add(name, &data);
        }
        if let Some(whitening) = &self.whitening {
            whitening.weight().iter().for_each(|weight| add(whitening::WEIGHT, weight));
            add(whitening::BIAS, whitening.bias());
        }
        hash.update(preprocess_json.as_bytes());
        hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
    }
}

/// Loads the encoder of a checkpoint: strict, by torchvision's names, as single-precision floats that
/// are read when they are needed. Every value is looked at once.
///
/// # Errors
/// As [`match_encoder`], [`Error::Tensor`] for bytes that cannot be decoded, and [`Error::Value`] for
/// values that no network can compute with.
pub fn load_encoder<'a>(checkpoint: &'a Checkpoint, options: &LoadOptions) -> Result<Encoder<'a>, Error> {
    let matched = match_encoder(checkpoint, options)?;
    for (param, keys) in &matched.found {
        for tensor in keys.iter().filter_map(|key| checkpoint.tensor(key)) {
            check_values(checkpoint.path(), param.kind, &tensor)?;
        }
    }
    of_match(checkpoint, matched)
}

/// [`load_encoder`] whatever the values are: for those who show what is in a file.
///
/// # Errors
/// As [`match_encoder`], and [`Error::Tensor`] for bytes that cannot be decoded.
pub fn load_encoder_as_is<'a>(
    checkpoint: &'a Checkpoint,
    options: &LoadOptions,
) -> Result<Encoder<'a>, Error> {
    of_match(checkpoint, match_encoder(checkpoint, options)?)
}

fn of_match(checkpoint: &Checkpoint, matched: EncoderMatch) -> Result<Encoder<'_>, Error> {
    let EncoderMatch { arch, layout, found, mut report } = matched;
    let whitening = Whitening::of(checkpoint, arch.feature_dim())?;
    if whitening.is_some() {
        report.unused.retain(|name| name != whitening::WEIGHT && name != whitening::BIAS);
    }
    let mut tensors = BTreeMap::new();
    for (param, keys) in found {
        let all: Vec<Tensor<'_>> = keys.iter().filter_map(|key| checkpoint.tensor(key)).collect();
        let data = match (param.kind, all.as_slice()) {
            (_, []) => continue,
            (ParamKind::BnCount, [tensor, ..]) => {
                EncoderData::I64(tensor.to_i64()?.first().copied().unwrap_or(0))
            }
            (_, [tensor]) => {
                tensor.check()?;
                EncoderData::Stored(*tensor)
            }
            (_, several) => {
                let parts = several.iter().map(Tensor::to_f32).collect::<Result<Vec<_>, _>>()?;
                EncoderData::F32(parts.concat())
            }
        };
        tensors.insert(param.name, EncoderTensor { shape: param.shape, data });
    }
    for param in Graph::new(arch).params() {
        if param.kind == ParamKind::BnCount {
            tensors.entry(param.name).or_insert(EncoderTensor { shape: vec![], data: EncoderData::I64(0) });
        }
    }
    Ok(Encoder { arch, layout, tensors, whitening, report })
}
