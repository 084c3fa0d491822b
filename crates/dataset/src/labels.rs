//! Classes that lists and shards name sample by sample.

use std::collections::HashMap;
use std::path::Path;

use crate::Error;
use crate::index::NONE;
use crate::limits::MAX_CLASSES;

/// The different labels of a data set, each held once.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Labels {
    texts: Vec<String>,
    known: HashMap<String, u32>,
}

impl Labels {
    /// Number of a label; the same for the same text.
    pub(crate) fn add(&mut self, text: &str) -> u32 {
        if let Some(&number) = self.known.get(text) {
            return number;
        }
        let number = self.texts.len() as u32;
        self.texts.push(text.to_owned());
        self.known.insert(text.to_owned(), number);
        number
    }

    /// Takes over the labels of a part; the number here of each number there.
    pub(crate) fn merge(&mut self, part: &Self) -> Vec<u32> {
        part.texts.iter().map(|text| self.add(text)).collect()
    }

    /// The classes, and the class of each label. Numbers stay numbers where all labels are; otherwise
    /// labels are names, sorted, or found in `given`, which comes from the file beside it.
    ///
    /// # Errors
    /// [`Error::ClassNumber`] and [`Error::UnknownClass`].
    pub(crate) fn resolve(
        &self,
        path: &Path,
        given: Option<(&Path, Vec<String>)>,
    ) -> Result<(Vec<String>, Vec<u32>), Error> {
        let numbers: Option<Vec<u64>> = self.texts.iter().map(|text| number(text)).collect();
        match (given, numbers) {
            (None, _) if self.texts.is_empty() => Ok((Vec::new(), Vec::new())),
            (Some((names, classes)), numbers) => self.look_up(path, names, classes, numbers.as_deref()),
            (None, Some(numbers)) => self.numbered(path, &numbers),
            (None, None) => Ok(self.sorted()),
        }
    }

    fn numbered(&self, path: &Path, numbers: &[u64]) -> Result<(Vec<String>, Vec<u32>), Error> {
        let class = |(&n, text): (&u64, &String)| {
            let class = u32::try_from(n).ok().filter(|&n| n < MAX_CLASSES);
            class.ok_or_else(|| Error::ClassNumber { path: path.to_owned(), label: text.clone() })
        };
        let map: Vec<u32> = numbers.iter().zip(&self.texts).map(class).collect::<Result<_, _>>()?;
        let count = map.iter().max().map_or(0, |&max| max + 1);
        Ok(((0..count).map(|n| n.to_string()).collect(), map))
    }

    /// Labels as names, whatever they look like.
    pub(crate) fn sorted(&self) -> (Vec<String>, Vec<u32>) {
        let mut classes = self.texts.clone();
        classes.sort_unstable();
        let class = |text| classes.binary_search(text).map_or(NONE, |at| at as u32);
        let map = self.texts.iter().map(class).collect();
        (classes, map)
    }

    fn look_up(
        &self,
        path: &Path,
        names: &Path,
        classes: Vec<String>,
        numbers: Option<&[u64]>,
    ) -> Result<(Vec<String>, Vec<u32>), Error> {
        let places: HashMap<&str, u32> = (0u32..).zip(&classes).map(|(i, name)| (name.as_str(), i)).collect();
        let class = |(i, text): (usize, &String)| {
            let numbered = numbers.and_then(|n| n.get(i)).filter(|&&n| n < classes.len() as u64);
            // where every label is a number, shards mean numbers, even if classes are called `0`, `1`
            let class = numbered.map(|&n| n as u32).or_else(|| places.get(text.as_str()).copied());
            class.ok_or_else(|| Error::UnknownClass {
                path: path.to_owned(),
                label: text.clone(),
                names: names.to_owned(),
                classes: classes.len(),
            })
        };
        let map = self.texts.iter().enumerate().map(class).collect::<Result<_, _>>()?;
        drop(places);
        Ok((classes, map))
    }
}

/// A label that is a number and nothing else.
pub(crate) fn number(text: &str) -> Option<u64> {
    (!text.is_empty() && text.len() <= 18 && text.bytes().all(|b| b.is_ascii_digit()))
        .then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(texts: &[&str]) -> (Labels, Vec<u32>) {
        let mut labels = Labels::default();
        let numbers = texts.iter().map(|text| labels.add(text)).collect();
        (labels, numbers)
    }

    #[test]
    fn numbers_stay_numbers_and_names_are_sorted() {
        let path = Path::new("x");
        let (all, numbers) = labels(&["2", "0", "2"]);
        assert_eq!(numbers, [0, 1, 0]);
        let (classes, map) = all.resolve(path, None).expect("classes");
        assert_eq!((classes.join(" "), map), ("0 1 2".to_owned(), vec![2, 0]));
        let (classes, map) = labels(&["dog", "3", "cat"]).0.resolve(path, None).expect("classes");
        assert_eq!((classes.join(" "), map), ("3 cat dog".to_owned(), vec![2, 0, 1]));
        assert_eq!(Labels::default().resolve(path, None).expect("none"), (vec![], vec![]));
    }

    #[test]
    fn given_names_are_looked_up_and_kept_in_their_order() {
        let path = Path::new("x");
        let given = || Some((path, vec!["dog".to_owned(), "cat".to_owned()]));
        assert_eq!(labels(&["cat"]).0.resolve(path, given()).expect("known").1, [1]);
        assert_eq!(labels(&["1", "0"]).0.resolve(path, given()).expect("known").1, [1, 0]);
        for unknown in ["cow", "2"] {
            let error = labels(&[unknown]).0.resolve(path, given()).expect_err("unknown");
            assert!(matches!(&error, Error::UnknownClass { label, .. } if label == unknown), "{error}");
        }
    }

    #[test]
    fn a_number_that_no_data_set_has() {
        let error = labels(&["4294967296"]).0.resolve(Path::new("x"), None).expect_err("too large");
        assert!(matches!(error, Error::ClassNumber { .. }), "{error}");
        assert_eq!([number("007"), number("+1"), number("")], [Some(7), None, None]);
    }
}
