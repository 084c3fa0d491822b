//! Hostile files, through the same door as all others: each costs a clear error, little memory and
//! little time. Memory is asserted; times are printed (`-- --nocapture`), since they depend on the
//! machine.

mod archives;
mod bombs;
mod commands;
mod damage;
mod headers;
mod measure;
mod wrap;
