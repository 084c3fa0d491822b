//! The store from outside: what it does, what it refuses, what survives.

mod approximate;
mod full_disk;
mod hostile;
mod killed;
mod model;
mod operations;
mod threads;
mod tools;
