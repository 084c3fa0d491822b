//! What a run begins with: `start.json`. Runs of one seed are pairs where it is equal, whatever else differs between them.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;
use sha2::{Digest, Sha256};
use tch::{Device, Kind, Tensor};

use crate::model::Encoder;

/// Pictures of the first batch whose views count.
const VIEWED: i64 = 16;

/// Hashes of the encoder's weights, of which pictures come first, and of their views as the augmentation makes them, before
/// anything is masked.
#[derive(Debug, PartialEq)]
pub(super) struct Start {
    encoder: String,
    order: String,
    views: Vec<String>,
}

impl Start {
    /// Of the first batch: `indices` into the data set, `views` `(B, 3, S, S)` each.
    ///
    /// # Errors
    /// Where a tensor cannot be read from the device.
    pub(super) fn of(encoder: &Encoder, indices: &[usize], views: &[Tensor]) -> Result<Self> {
        let mut weights = Sha256::new();
        for named in encoder.named("").iter().filter(|n| n.tensor.kind() == Kind::Float) {
            weights.update(named.name.as_bytes());
            weights.update(bytes(&named.tensor)?);
        }
        let order: Vec<u8> = indices.iter().flat_map(|&i| (i as u64).to_le_bytes()).collect();
        let views = views.iter().map(|view| {
            let seen = view.narrow(0, 0, view.size()[0].min(VIEWED));
            Ok(hex(Sha256::new().chain_update(bytes(&seen)?)))
        });
        Ok(Self {
            encoder: hex(weights),
            order: hex(Sha256::new().chain_update(order)),
            views: views.collect::<Result<_>>()?,
        })
    }

    /// Writes the file.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let value = json!({ "encoder": self.encoder, "order": self.order, "views": self.views });
        occlude_output::write(path, |w| writeln!(w, "{value:#}"))
            .with_context(|| format!("cannot write `{}`", path.display()))
    }
}

fn bytes(tensor: &Tensor) -> Result<Vec<u8>> {
    let flat = tensor.detach().to_device(Device::Cpu).to_kind(Kind::Float).contiguous().flatten(0, -1);
    Ok(Vec::<f32>::try_from(flat)?.iter().flat_map(|v| v.to_le_bytes()).collect())
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
