//! Bounded reader and writer of Python pickles.
//!
//! A pickle is a program for a small stack machine that may call any importable Python function.
//! [`decode()`] runs the stack machine but never a call: a call becomes a [`Value::Call`] that says
//! what would have been called with what, and the reader of the result decides what it understands.
//! Globals that no checkpoint needs and that attacks do (`os.system` and its like) are refused by
//! name. Sizes are capped by [`Limits`], so that a hostile file costs an error and little memory.
//!
//! [`Encoder`] writes the other way: dictionaries, strings, numbers and numpy arrays, streamed
//! without a second copy of the data.
//!
//! The format: <https://docs.python.org/3/library/pickletools.html> (the opcodes of protocols 0 to 5).

mod decode;
mod encode;
mod error;
mod globals;
mod limits;
mod node;
mod op;
mod reach;
mod reader;
mod stack;
mod text;
mod value;

pub use decode::decode;
pub use encode::{ArrayType, Encoder};
pub use error::Error;
pub use globals::is_dangerous;
pub use limits::Limits;
pub use node::{CallNode, Node};
pub use reach::Leading;
pub use value::{Call, Global, Id, Pickle, Value};
