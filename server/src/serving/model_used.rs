//! Which model answered.

use serde::Serialize;
use utoipa::ToSchema;

use crate::inference::model::ModelInfo;

/// Which model answered; also an extension of the response, from which its headers are made.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = ModelUsed)]
pub(crate) struct ModelName {
    pub(crate) name: String,
    pub(crate) fingerprint: String,
    pub(crate) identity: String,
}

impl From<&ModelInfo> for ModelName {
    fn from(info: &ModelInfo) -> Self {
        let ModelInfo { name, fingerprint, identity, .. } = info;
        Self { name: name.clone(), fingerprint: fingerprint.clone(), identity: identity.clone() }
    }
}
