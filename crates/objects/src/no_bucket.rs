//! Stands for buckets where the program was built without them.

use std::sync::Arc;

use tokio::runtime::Handle;

use crate::{Error, Store};

/// Says how to get them.
pub(crate) fn open(address: &str, _: &Handle) -> Result<Arc<dyn Store>, Error> {
    let reason = "this program was built without object stores; hint: build it with the feature `object-store`, which plain `cargo build` does";
    Err(Error::Address { address: address.to_owned(), reason: reason.to_owned() })
}
