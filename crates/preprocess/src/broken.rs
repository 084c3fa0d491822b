//! Pictures that cannot be used: one rule, and the words for it, in every tool.
//!
//! A broken picture is told once, skipped and counted; the first [`NAMED`] are named. Where not one picture of a job
//! can be used, that is an error.

use std::fmt::Display;
use std::path::PathBuf;

use crate::names;

/// Broken pictures that are named; further ones are only counted.
pub const NAMED: usize = 50;

/// The broken pictures of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Broken {
    count: usize,
    first: String,
}

/// Not one picture of a job could be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("none of the {count} pictures{} could be read; the first: {first}", within(.folder.as_ref()))]
pub struct AllBroken {
    /// Where they lie, if in one place.
    pub folder: Option<PathBuf>,
    /// How many there are.
    pub count: usize,
    /// What is wrong with the first one, with its name.
    pub first: String,
}

fn within(folder: Option<&PathBuf>) -> String {
    folder.map_or(String::new(), |folder| format!(" in `{}`", names::of_path(folder)))
}

impl Broken {
    /// Counts a picture; what to tell about it, if anything. `error` names the picture.
    pub fn add(&mut self, error: &dyn Display) -> Option<String> {
        self.count += 1;
        if self.count == 1 {
            self.first = error.to_string();
        }
        match self.count {
            n if n < NAMED => Some(format!("skipped: {error}")),
            NAMED => Some(format!(
                "skipped: {error}; further ones are not named; hint: `occlude-train dataset check` names all"
            )),
            _ => None,
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// What is wrong with the first one; empty where there is none.
    pub fn first(&self) -> &str {
        &self.first
    }

    /// The error, where all of `count` pictures are broken.
    ///
    /// # Errors
    /// [`AllBroken`].
    pub fn not_all(&self, count: usize, folder: Option<PathBuf>) -> Result<(), AllBroken> {
        if self.count == 0 || self.count < count {
            return Ok(());
        }
        Err(AllBroken { folder, count, first: self.first.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_told_until_there_are_many() {
        let mut broken = Broken::default();
        assert!(broken.not_all(0, None).is_ok());
        let told: Vec<_> = (0..60).map(|i| broken.add(&format!("`{i}.jpg`: broken"))).collect();
        assert_eq!(told[0].as_deref(), Some("skipped: `0.jpg`: broken"));
        assert_eq!(told.iter().flatten().count(), NAMED);
        assert!(told[NAMED - 1].as_ref().is_some_and(|line| line.contains("further ones")));
        assert_eq!((broken.count(), broken.first()), (60, "`0.jpg`: broken"));
        assert!(broken.not_all(61, None).is_ok());
        let error = broken.not_all(60, Some("d".into())).expect_err("all");
        assert_eq!(
            error.to_string(),
            "none of the 60 pictures in `d` could be read; the first: `0.jpg`: broken"
        );
    }
}
