//! Occlude's feature server: an image in, its embedding and saliency out, over HTTP.
//!
//! `routes` (types and handlers) hand pictures to `batch` (a bounded queue and its workers, which know the
//! [`Encode`] trait only), whose workers own `encoder`s (ONNX Runtime, or a fake in tests). `error` maps every kind
//! of failure to a status once. [`app`] makes the router that tests drive in process; [`serve()`] puts it on a socket.

mod admission;
mod batch;
mod config;
pub mod encoder;
mod error;
mod gallery;
mod geometry;
mod metrics;
mod model;
mod picture;
mod render;
mod routes;
mod serve;
mod startup;
mod state;

pub use batch::{Batcher, Encode, EncodeError, Encoded, Features, QueueFull, Wants};
pub use config::{Args, Config, ConfigError, Limits, Provider};
pub use error::{ApiError, Kind};
pub use gallery::{Gallery, GalleryError, Hit, Progress};
pub use metrics::Metrics;
pub use model::{InputKind, Model, ModelInfo};
pub use routes::app;
pub use serve::{Timeouts, serve};
pub use startup::{StartError, run};
pub use state::AppState;
