//! Writes encoders as ONNX in three precisions, proves that the result computes what the checkpoint says, and shows
//! what is inside checkpoints and ONNX files.
//!
//! [`onnx::model`] turns [`occlude_encoder::Graph`] and the weights of a checkpoint into an ONNX
//! graph, without libtorch or Python; [`verify()`] runs it in ONNX Runtime and in tract on real
//! pictures and holds both against a third, plain computation from the checkpoint itself
//! ([`reference`](mod@reference)); [`inspect()`] reads either kind of file.

pub mod adopt;
pub mod calibrate;
pub mod cli;
mod contract;
mod error;
pub mod golden;
pub mod hub;
mod inspect;
pub mod onnx;
mod onnx_file;
mod pictures;
mod plain;
mod positions;
mod proto;
mod ranges;
pub mod reference;
mod refusal;
mod runtime;
mod safetensors;
mod saliency;
mod torch;
mod verify;

pub use contract::{ContractOverrides, contract_of};
pub use error::Error;
pub use inspect::{Inspection, inspect};
pub use occlude_onnxruntime::LibraryError;
pub use onnx_file::{OnnxFile, Port};
pub use refusal::Refusal;
pub use safetensors::write_safetensors;
pub use torch::{TorchLayout, TorchOptions, write_torch};
pub use verify::{Agreement, Comparison, Difference, PictureResult, VerifyOptions, verify};
