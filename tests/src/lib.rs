//! What the end-to-end tests share: the tools as processes, images made on the spot, Python, tolerances.

pub mod licence;
pub mod map;
pub mod modules;
pub mod pictures;
pub mod processor;
pub mod run;
pub mod tolerance;
pub mod venv;
