//! What a listing leaves out, so that it can be told.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::path::Path;

use serde::Serialize;

use crate::names;

/// Longest ending that is told; what is longer is part of a name.
const MAX_ENDING: usize = 12;
/// Most different endings, and names of folders, that are told apart.
const MAX_KINDS: usize = 1000;
/// How many of them, and of empty classes, the text names.
const SHOWN: usize = 10;

/// What lies below a folder and is not listed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// Files that are no pictures by their names: how many of which ending, as `.heic`; the empty one stands for none.
    pub endings: BTreeMap<String, usize>,
    /// Files whose names begin with a dot.
    pub hidden: usize,
    /// Pictures by their names that are no regular files: pipes, sockets, devices.
    pub special: usize,
    /// Folders that are hidden, or belong to a system or to an archive: how many of which name.
    pub folders: BTreeMap<String, usize>,
    /// Links to folders that are on the way to them, or were listed in the same class before.
    pub links: usize,
    /// Classes without a picture, by name.
    pub classes: Vec<String>,
}

impl LeftOut {
    /// Whether everything was listed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// How many files.
    pub fn files(&self) -> usize {
        self.endings.values().sum::<usize>() + self.hidden + self.special
    }

    /// Counts a file by the ending of its name.
    pub fn add_file(&mut self, name: &OsStr) {
        let ending = Path::new(name).extension().unwrap_or_default();
        self.add_ending(ending.as_encoded_bytes());
    }

    /// Counts a file by its ending, without the dot.
    pub fn add_ending(&mut self, ending: &[u8]) {
        let ending = match ending {
            [] => String::new(),
            long if long.len() > MAX_ENDING => String::new(),
            ending => format!(".{}", names::escape(&ending.to_ascii_lowercase())),
        };
        count(&mut self.endings, ending);
    }

    /// Counts a folder by its name.
    pub(super) fn add_folder(&mut self, name: &OsStr) {
        count(&mut self.folders, names::escape(name.as_encoded_bytes()).into_owned());
    }

    /// Adds what another part of the same tree left out.
    pub fn add(&mut self, other: Self) {
        for (into, from) in [(&mut self.endings, other.endings), (&mut self.folders, other.folders)] {
            for (kind, n) in from {
                *into.entry(kind).or_default() += n;
            }
        }
        self.hidden += other.hidden;
        self.special += other.special;
        self.links += other.links;
        self.classes.extend(other.classes);
    }

    /// `12 files: 9 .heic, 3 .txt`; `None` for none.
    fn files_text(&self) -> Option<String> {
        let total = self.files();
        let mut kinds: Vec<(usize, String)> =
            self.endings.iter().map(|(e, &n)| (n, or(e, "without an extension"))).collect();
        kinds.push((self.hidden, "hidden".to_owned()));
        kinds.push((self.special, "not a regular file".to_owned()));
        (total > 0).then(|| format!("{}: {}", number(total, "file"), counted(kinds)))
    }

    /// `2 folders: 1 .git, 1 __MACOSX`; `None` for none.
    fn folders_text(&self) -> Option<String> {
        let total = self.folders.values().sum();
        let kinds = self.folders.iter().map(|(name, &n)| (n, or(name, "others"))).collect();
        (total > 0).then(|| format!("{}: {}", number(total, "folder"), counted(kinds)))
    }
}

/// `left out: 12 files: 9 .heic, 3 .txt; 1 folder: 1 __MACOSX; classes without a picture: a, b`; nothing for nothing.
impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let links = (self.links > 0)
            .then(|| format!("{} to folders that are listed already", number(self.links, "link")));
        let parts: Vec<String> =
            [self.files_text(), self.folders_text(), links].into_iter().flatten().collect();
        if !parts.is_empty() {
            write!(f, "left out: {}", parts.join("; "))?;
        }
        if !self.classes.is_empty() {
            let named: Vec<&str> = self.classes.iter().take(SHOWN).map(String::as_str).collect();
            let more = match self.classes.len().saturating_sub(SHOWN) {
                0 => String::new(),
                n => format!(" and {n} more"),
            };
            let joint = if parts.is_empty() { "" } else { "; " };
            write!(f, "{joint}classes without a picture: {}{more}", named.join(", "))?;
        }
        Ok(())
    }
}

fn count(kinds: &mut BTreeMap<String, usize>, kind: String) {
    let full = kinds.len() >= MAX_KINDS && !kinds.contains_key(&kind);
    *kinds.entry(if full { String::new() } else { kind }).or_default() += 1;
}

fn or(text: &str, empty: &str) -> String {
    if text.is_empty() { empty.to_owned() } else { text.to_owned() }
}

fn number(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// The most frequent first.
fn counted(mut kinds: Vec<(usize, String)>) -> String {
    kinds.retain(|(n, _)| *n > 0);
    kinds.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    let rest: usize = kinds.iter().skip(SHOWN).map(|(n, _)| n).sum();
    let mut texts: Vec<String> = kinds.iter().take(SHOWN).map(|(n, kind)| format!("{n} {kind}")).collect();
    if rest > 0 {
        texts.push(format!("{rest} others"));
    }
    texts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_by_ending_the_most_frequent_first() {
        let mut left = LeftOut::default();
        assert!(left.is_empty() && left.to_string().is_empty());
        for name in ["a.HEIC", "b.heic", "c.txt", "README", "x.a-rather-long-ending"] {
            left.add_file(name.as_ref());
        }
        assert_eq!(left.to_string(), "left out: 5 files: 2 .heic, 2 without an extension, 1 .txt");
        left.add(LeftOut {
            hidden: 1,
            special: 1,
            links: 1,
            classes: vec!["e".into()],
            ..LeftOut::default()
        });
        left.add_folder("__MACOSX".as_ref());
        assert_eq!(
            left.to_string(),
            "left out: 7 files: 2 .heic, 2 without an extension, 1 .txt, 1 hidden, 1 not a regular file; 1 \
             folder: 1 __MACOSX; 1 link to folders that are listed already; classes without a picture: e"
        );
    }

    #[test]
    fn many_kinds_and_classes_are_cut_short() {
        let mut left = LeftOut::default();
        for i in 0..2000 {
            left.add_file(format!("a.x{i}").as_ref());
        }
        assert_eq!((left.endings.len(), left.files()), (MAX_KINDS + 1, 2000));
        left.classes = (0..25).map(|i| i.to_string()).collect();
        let text = left.to_string();
        assert!(
            text.contains("2000 files: 1000 without an extension, 1 .x0") && text.contains("991 others"),
            "{text}"
        );
        assert!(text.ends_with("8, 9 and 15 more"), "{text}");
    }
}
