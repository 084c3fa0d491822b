//! Flags of command lines.

use anyhow::{Context, Result};
use std::fmt;

/// Flags of a command line, in order, each once.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Flags(Vec<(String, Vec<String>)>);

impl Flags {
    /// Of words, the first of which is a flag.
    pub(super) fn parse(words: &str) -> Result<Self> {
        let mut flags = Self::default();
        for word in words.split_whitespace() {
            if word.starts_with("--") {
                flags.set(word, Vec::new());
            } else {
                let (_, values) =
                    flags.0.last_mut().with_context(|| format!("`{word}` stands before any flag"))?;
                values.push(word.to_owned());
            }
        }
        Ok(flags)
    }

    /// Gives a flag its values, in place of those that it had; a new flag comes last.
    pub(super) fn set(&mut self, name: &str, values: Vec<String>) {
        self.0.retain(|(known, _)| known != name);
        self.0.push((name.to_owned(), values));
    }

    /// The same, unless the flag is there.
    pub(super) fn or(&mut self, name: &str, value: &impl ToString) {
        if self.get(name).is_none() {
            self.set(name, vec![value.to_string()]);
        }
    }

    /// The first value of a flag, empty where it has none.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let (_, values) = self.0.iter().find(|(known, _)| known == name)?;
        Some(values.first().map_or("", String::as_str))
    }

    /// A flag that counts something.
    pub(super) fn number(&self, name: &str) -> Option<u32> {
        self.get(name)?.parse().ok()
    }

    /// These, and those of `other` in place of any of the same name.
    pub(super) fn with(mut self, other: &Self) -> Self {
        other.0.iter().for_each(|(name, values)| self.set(name, values.clone()));
        self
    }

    /// As words of a command line.
    pub(super) fn words(&self) -> Vec<String> {
        self.0.iter().flat_map(|(name, values)| std::iter::once(name).chain(values)).cloned().collect()
    }
}

impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words().join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_come_once_and_the_last_one_wins() {
        let flags = Flags::parse("--a 1 2 --b --a 3").expect("flags");
        assert_eq!(
            (flags.to_string().as_str(), flags.get("--b"), flags.get("--c")),
            ("--b --a 3", Some(""), None)
        );
        let mut more = flags.with(&Flags::parse("--b x").expect("flags"));
        more.or("--a", &9);
        more.or("--d", &4);
        assert_eq!((more.to_string().as_str(), more.number("--d")), ("--a 3 --b x --d 4", Some(4)));
        assert!(Flags::parse("1 --a").is_err());
    }
}
