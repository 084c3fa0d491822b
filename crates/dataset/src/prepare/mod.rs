//! Preparing data sets.
