//! Occlude's feature server: an image in, its embedding and saliency out, over HTTP.
//!
//! `routes` (types and handlers) hand pictures to `batch` (a bounded queue and its workers, which know the
//! [`Encode`] trait only), whose workers own `encoder`s (ONNX Runtime, or a fake in tests). `error` maps every kind
//! of failure to a status once. [`app`] makes the router that tests drive in process; [`serve()`] puts it on a socket.

mod admission;
mod auth;
mod batch;
mod bulk;
mod clock;
mod config;
pub mod encoder;
mod error;
mod fetch;
mod gallery;
mod indexing;
mod loader;
mod logs;
mod made;
mod maps;
mod metrics;
mod model;
mod npy;
mod pace;
mod picture;
mod pool;
mod process;
mod render;
mod routes;
mod rule;
mod serve;
mod startup;
mod state;
mod telemetry;
mod tools;
mod window;

pub use auth::{KeyError, Keys, create as create_key};
pub use batch::{Batcher, Crop, Encode, EncodeError, Encoded, Features, Plane, QueueFull, Wants};
pub use bulk::Progress;
pub use config::{
    Args, Config, ConfigError, Cors, ENVIRONMENT, Limits, LogFormat, ModelFile, Provider, Sources, Tool,
};
pub use error::{ApiError, Kind};
pub use fetch::{Fetcher, Hosts};
pub use gallery::{Gallery, Hit};
pub use indexing::GalleryError;
pub use loader::StartError;
pub use logs::start as start_logs;
pub use metrics::{Metrics, ModelMetrics};
pub use model::{Model, ModelInfo};
pub use occlude_contract::InputKind;
pub use routes::{app, cross_origin};
pub use rule::MapRule;
pub use serve::{Timeouts, serve};
pub use startup::run;
pub use state::{AppState, Expected};
pub use telemetry::Telemetry;
pub use tools::{EmbedArgs, EncoderArgs, Format, IndexArgs, Indexed, ToolError, embed, health, index};
