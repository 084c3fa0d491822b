//! The pinned Python packages.

use sha2::{Digest, Sha256};

const PINNED: &str = include_str!("requirements.txt");

/// `name==version` rows of `requirements.txt`.
#[derive(Clone)]
pub(crate) struct Requirements(Vec<(String, String)>);

impl Requirements {
    /// Every row of the file.
    pub(crate) fn pinned() -> Self {
        let rows = PINNED.lines().filter(|line| !line.starts_with('#'));
        Self(rows.filter_map(|row| row.split_once("==")).map(|(n, v)| (n.to_owned(), v.to_owned())).collect())
    }

    /// The rows whose name is not dropped.
    pub(crate) fn without(mut self, drop: impl Fn(&str) -> bool) -> Self {
        self.0.retain(|(name, _)| !drop(name));
        self
    }

    /// Names and versions.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, version)| (name.as_str(), version.as_str()))
    }

    /// The version that a package is pinned to.
    pub(crate) fn version(&self, name: &str) -> Option<&str> {
        self.rows().find(|(n, _)| *n == name).map(|(_, version)| version)
    }

    /// As pip reads it.
    pub(crate) fn text(&self) -> String {
        self.rows().map(|(name, version)| format!("{name}=={version}\n")).collect()
    }

    /// SHA-256 of the text: the stamp of a finished set-up.
    pub(crate) fn hash(&self) -> String {
        Sha256::digest(self.text()).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_file_is_pinned() {
        let rows = PINNED.lines().filter(|l| !l.is_empty() && !l.starts_with('#')).count();
        assert_eq!(Requirements::pinned().rows().count(), rows);
        assert!(Requirements::pinned().version("torch").is_some());
    }

    #[test]
    fn the_stamp_changes_with_the_packages() {
        let all = Requirements::pinned();
        let fewer = all.clone().without(|name| name == "torch");
        assert_ne!(all.hash(), fewer.hash());
        assert!(fewer.version("torch").is_none() && !fewer.text().contains("torch==2"));
    }
}
