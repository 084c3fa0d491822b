//! Occlude's feature server: an image in, its embedding and saliency out, over HTTP.
//!
//! - `config`: flags, environment and file, and the validated configuration that they resolve to.
//! - `serving`: the socket, the layers around all routes, and the state that handlers share.
//! - `routes`: the handlers, one file for each family of routes, and the OpenAPI document.
//! - `pictures`: from uploaded bytes to the model's input, and from its answer to maps, masks and drawings.
//! - `inference`: models, loaded and replaced while requests run; a queue for each, whose workers know the [`Encode`]
//!   trait only.
//! - `gallery`: a folder of pictures, indexed for search.
//! - `observe`: metrics, traces and logs.
//! - `tools`: what the program does besides serving, with the same model code.
//! - `error`: every kind of failure, and its status, once.
//!
//! [`app`] makes the application that tests drive in process; [`serve()`] puts it on a socket; [`run`] does everything
//! from a configuration.

mod config;
mod error;
mod gallery;
mod inference;
mod observe;
mod pictures;
mod routes;
mod serving;
mod tools;

// The encoder of the tests knows the crate from outside alone, so that both kinds of tests share it.
#[cfg(test)]
extern crate self as occlude_serve;
#[cfg(test)]
#[allow(dead_code, reason = "the tests of the binary use the rest")]
#[path = "../tests/http/fake.rs"]
mod fake;
#[cfg(test)]
mod tests_support;

pub use config::{
    Args, Config, ConfigError, Cors, Data, ENVIRONMENT, Limits, LogFormat, Logs, ModelFile, Network,
    Precision, Provider, Seconds, Served, Sessions, Sources, Tool,
};
pub use error::{ApiError, Kind};
pub use gallery::indexing::GalleryError;
pub use gallery::{Gallery, Hit};
pub use inference::bulk::Progress;
pub use inference::encode::{Crop, Encode, EncodeError, Encoded, Features, Plane, Wants};
pub use inference::encoder;
pub use inference::loader::StartError;
pub use inference::model::{Model, ModelInfo};
pub use inference::rule::MapRule;
pub use observe::logs::start as start_logs;
pub use observe::metrics::{Metrics, ModelMetrics};
pub use observe::telemetry::Telemetry;
pub use occlude_contract::InputKind;
pub use pictures::fetch::{Fetcher, Hosts};
#[cfg(feature = "grpc")]
pub use serving::app::grpc_app;
pub use serving::app::{app, cross_origin};
pub use serving::keys::{KeyError, Keys, create as create_key};
pub use serving::socket::{Door, Timeouts, serve};
pub use serving::startup::run;
pub use serving::state::{AppState, Expected};
#[cfg(feature = "tls")]
pub use serving::tls::{Tls, TlsError};
pub use tools::{
    Aim, Candidate, Copied, CopyArgs, Duplicates, DuplicatesArgs, EmbedArgs, EncoderArgs, EvaluateArgs,
    Evaluation, Format, Group, IndexArgs, Indexed, Measured, Pair, Share, ShareError, ToolError, TruthError,
    TuneArgs, Tuned, copy, duplicates, embed, evaluate, health, index, tune,
};
