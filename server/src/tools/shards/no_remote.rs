//! Stands for buckets where the program was built without them.

use std::sync::Arc;

use tokio::runtime::Handle;

use super::store::Store;
use crate::tools::ToolError;

/// Says how to get them.
pub(super) fn open(address: &str, _: &Handle) -> Result<Arc<dyn Store>, ToolError> {
    let reason = "this program was built without object stores; hint: build it with the feature `object-store`, which plain `cargo build` does";
    Err(ToolError::Address { address: address.to_owned(), reason: reason.to_owned() })
}
