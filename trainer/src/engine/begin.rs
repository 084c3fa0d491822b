//! Weights of another encoder as the start of a run.

use anyhow::{Result, ensure};
use occlude_checkpoint::{Checkpoint, LoadOptions, load_encoder};
use tch::Device;

use crate::config::Beginning;
use crate::method::Method;
use crate::model::{ENCODERS, Encoder, find};

/// Gives the method's encoder, and those that follow it, the weights of the file.
///
/// # Errors
/// Where the file is not the one that the configuration was made from, or holds another architecture.
pub(super) fn load(method: &dyn Method, beginning: &Beginning) -> Result<()> {
    let path = &beginning.checkpoint;
    let checkpoint = Checkpoint::open(path)?;
    let weights = load_encoder(&checkpoint, &LoadOptions::default())?;
    let own = method.encoder().arch();
    ensure!(weights.arch == own, "`{}`: expected {own}, found {}", path.display(), weights.arch);
    let source = Encoder::from_checkpoint(&weights, Device::Cpu)?.named("");
    for target in method.state() {
        let inner = ENCODERS.iter().find_map(|prefix| target.name.strip_prefix(prefix));
        let Some(name) = inner.filter(|name| !name.ends_with("num_batches_tracked")) else { continue };
        let from = find(&source, name)?;
        ensure!(
            from.size() == target.tensor.size(),
            "`{}`, tensor `{name}`: expected shape {:?}, found {:?}",
            path.display(),
            target.tensor.size(),
            from.size()
        );
        tch::no_grad(|| target.tensor.shallow_clone().copy_(from));
    }
    tell!("beginning with {own} of `{}`", path.display());
    Ok(())
}
