//! Opens model checkpoints of any usual format, finds the encoder in them, and writes checkpoints
//! and Detectron2 pickles, without libtorch or Python.
//!
//! [`Checkpoint::open`] decides by content, maps the file and indexes its tensors; a [`Tensor`] is a
//! view that reads bytes only when asked. [`load_encoder`] holds the names and shapes against
//! [`occlude_encoder::Graph`] and is strict. [`save_safetensors`], [`save_torch`] and
//! [`save_detectron2`] stream what they are given and replace the target atomically.
//!
//! ```no_run
//! # fn main() -> Result<(), occlude_checkpoint::Error> {
//! use occlude_checkpoint::{Checkpoint, LoadOptions, load_encoder};
//! let checkpoint = Checkpoint::open("moco_v2_200ep_pretrain.pth.tar")?;
//! let encoder = load_encoder(&checkpoint, &LoadOptions::default())?;
//! eprintln!("{} from {}: {}", encoder.arch, encoder.layout, encoder.report);
//! # Ok(())
//! # }
//! ```

mod array;
mod checkpoint;
mod detectron;
mod dtype;
mod encoder;
mod error;
mod flatten;
mod format;
mod index;
mod matching;
pub mod meta;
mod out;
mod pickled;
mod present;
mod projection;
mod report;
mod safetensors;
mod settings;
mod sniff;
mod stream;
mod tensor;
mod torch;
mod values;
mod variant;
mod view;
mod whitening;
mod zip;

pub use checkpoint::Checkpoint;
pub use detectron::save_detectron2;
pub use dtype::Dtype;
pub use encoder::{Encoder, EncoderData, EncoderTensor, load_encoder, load_encoder_as_is};
pub use error::{BadValue, Error, FormatError, SafetensorsError, SaveError, StateError, ZipError};
pub use format::Format;
pub use index::Skipped;
pub use matching::{EncoderMatch, LoadOptions, match_encoder};
pub use out::TensorOut;
pub use projection::ProjectionHead;
pub use report::{LoadReport, MisShaped};
pub use safetensors::save_safetensors;
pub use tensor::Tensor;
pub use torch::{TorchOuter, TorchValue, save_torch};
pub use values::check_values;
pub use whitening::{Whitening, WhiteningInfo};
