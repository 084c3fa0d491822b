//! Occlude's trainer: pretrains image encoders without labels by masking.
//!
//! `cli` parses flags, `config` validates them, `data` and `augment` make views, `mask` hides parts of them, `mix` joins
//! two, `method` turns them into a loss, `teacher` says what another network does, `engine` runs the loop, `eval` measures
//! the result.
//! `loss`, `augment`, `mask` and `mix` are pure functions; a new method touches `method` and its recipe.

#![allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap)]

#[macro_use]
pub mod terminal;

pub mod augment;
pub mod cli;
pub mod config;
pub mod data;
pub mod device;
pub mod doctor;
pub mod engine;
pub mod eval;
pub mod lock;
pub mod loss;
pub mod maps;
pub mod mask;
pub mod method;
pub mod mix;
pub mod model;
mod parallel;
pub mod phase;
pub mod ranks;
pub mod rng;
pub mod selftest;
pub mod share;
pub mod signals;
pub mod teacher;
pub mod tolerance;
