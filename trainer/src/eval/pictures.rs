//! Which validation pictures were classified rightly: what a comparison of two encoders picture by picture needs.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::split::Part;

/// The pictures by name, and a mark for each in every row.
#[derive(Clone, Debug, PartialEq)]
pub struct PerPicture {
    pictures: Vec<String>,
    rows: Vec<Value>,
}

impl PerPicture {
    /// Of the pictures of `part` at `samples`, positions in its data set.
    pub fn new(part: &Part, samples: &[usize]) -> Self {
        Self { pictures: samples.iter().map(|&i| part.data.name_below(i)).collect(), rows: Vec::new() }
    }

    /// Adds what was found by `features`, and by the `k` nearest neighbours in them: the rank of each picture's own class
    /// (from 0), in the order of the pictures.
    pub fn add(&mut self, features: &str, k: Option<i64>, ranks: &[i64]) {
        let right: String = ranks.iter().map(|&rank| if rank == 0 { '1' } else { '0' }).collect();
        self.rows.push(json!({ "features": features, "k": k, "right": right }));
    }

    /// Writes all of it as one JSON object.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let value = json!({ "pictures": self.pictures, "rows": self.rows });
        occlude_output::write(path, |w| writeln!(w, "{value}"))
            .with_context(|| format!("cannot write `{}`", path.display()))
    }
}
