//! From a socket to an answer: the state that handlers share, who is let in, and the layers around all routes.

pub(crate) mod admission;
pub(crate) mod app;
mod asked;
pub(crate) mod client;
pub(crate) mod clock;
mod compressed;
pub(crate) mod gate;
pub(crate) mod keys;
mod leftover;
pub(crate) mod model_used;
mod models;
mod on_demand;
mod pace;
pub(crate) mod parameters;
mod protocols;
pub(crate) mod repository;
pub(crate) mod request_id;
mod room;
pub(crate) mod socket;
pub(crate) mod startup;
pub(crate) mod state;
mod store;
mod surround;
pub(crate) mod timeout;
#[cfg(feature = "tls")]
pub(crate) mod tls;
