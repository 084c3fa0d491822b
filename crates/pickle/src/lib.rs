//! Occlude.
