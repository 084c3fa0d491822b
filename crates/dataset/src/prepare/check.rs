//! Decoding everything, and telling what is wrong with it.

use std::collections::{BTreeMap, HashMap};

use occlude_preprocess::files::LeftOut;
use occlude_preprocess::{Limits, Note};
use rayon::prelude::*;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::dataset::Dataset;
use crate::{Error, Progress};

/// What counts as worth telling.
#[derive(Clone, Copy, Debug)]
pub struct CheckOptions {
    /// Pictures with a shorter side are named, pixels.
    pub min_side: u32,
    /// Classes with fewer pictures are named.
    pub min_per_class: usize,
}

impl Default for CheckOptions {
    fn default() -> Self {
        Self { min_side: 16, min_per_class: 5 }
    }
}

/// What [`check`] found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Pictures, the broken ones included.
    pub pictures: usize,
    /// Size of all files.
    pub bytes: u64,
    /// Classes.
    pub classes: usize,
    /// Pictures of no class.
    pub unlabelled: usize,
    /// What lies there besides.
    pub left_out: LeftOut,
    /// Files that cannot be read or decoded.
    pub broken: Vec<BrokenPicture>,
    /// Groups of files with the same bytes.
    pub duplicates: Vec<Duplicates>,
    /// Pictures with a very short side.
    pub small: Vec<SmallPicture>,
    /// Classes with very few pictures that can be decoded.
    pub few: Vec<ClassCount>,
    /// Widths of the pictures, pixels.
    pub width: Option<Spread>,
    /// Heights of the pictures, pixels.
    pub height: Option<Spread>,
    /// Sizes of the files, bytes.
    pub file_bytes: Option<Spread>,
    /// How many files are of which format.
    pub formats: BTreeMap<&'static str, usize>,
    /// How many needed what on the way to RGB.
    pub conversions: BTreeMap<&'static str, usize>,
    /// What is in the other data set, too.
    pub against: Option<Against>,
}

/// A file that cannot be read or decoded.
#[derive(Clone, Debug, Serialize)]
pub struct BrokenPicture {
    /// Its number in the data set.
    pub index: usize,
    /// Its path.
    pub name: String,
    /// Why, with the path.
    pub reason: String,
}

/// Files with the same bytes.
#[derive(Clone, Debug, Serialize)]
pub struct Duplicates {
    /// Their paths.
    pub names: Vec<String>,
    /// Whether they are of different classes.
    pub conflicting: bool,
}

/// A picture with a very short side.
#[derive(Clone, Debug, Serialize)]
pub struct SmallPicture {
    /// Its path.
    pub name: String,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
}

/// A class with very few pictures.
#[derive(Clone, Debug, Serialize)]
pub struct ClassCount {
    /// Its name.
    pub class: String,
    /// Pictures that can be decoded.
    pub pictures: usize,
}

/// How numbers are spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Spread {
    /// Smallest.
    pub min: u64,
    /// Half are at most this.
    pub median: u64,
    /// Largest.
    pub max: u64,
    /// Their mean, rounded.
    pub mean: u64,
}

impl Spread {
    fn of(values: impl Iterator<Item = u64>) -> Option<Self> {
        let mut values: Vec<u64> = values.collect();
        values.sort_unstable();
        let sum: u128 = values.iter().map(|&v| u128::from(v)).sum();
        Some(Self {
            min: *values.first()?,
            median: *values.get((values.len() - 1) / 2)?,
            max: *values.last()?,
            mean: ((sum + values.len() as u128 / 2) / values.len() as u128) as u64,
        })
    }
}

/// What two data sets share.
#[derive(Clone, Debug, Serialize)]
pub struct Against {
    /// Pictures of the other one.
    pub pictures: usize,
    /// Pictures of this one that are there, too, byte by byte.
    pub shared: Vec<Shared>,
    /// Files of the other one that cannot be read.
    pub unreadable: usize,
}

/// A picture that is in both.
#[derive(Clone, Debug, Serialize)]
pub struct Shared {
    /// Its path here.
    pub here: String,
    /// Its path in the other data set, or one of them.
    pub there: String,
}

/// What is kept of a file: the first half of its SHA-256, which is plenty to tell files apart.
struct Seen {
    hash: u128,
    bytes: u64,
    /// Nothing where it cannot be decoded.
    picture: Result<Picture, String>,
}

struct Picture {
    width: u32,
    height: u32,
    format: &'static str,
    notes: Vec<Note>,
}

fn hash(bytes: &[u8]) -> u128 {
    let digest = Sha256::digest(bytes);
    u128::from_le_bytes(digest.first_chunk().copied().unwrap_or_default())
}

/// Reads and decodes every picture, on all threads; holds the bytes against each other and, where it is
/// given, against those of another data set, whose pictures are read but not decoded.
///
/// # Errors
/// [`Error::Store`] where a bucket is out of reach: that says nothing of its pictures.
pub fn check(
    data: &Dataset,
    against: Option<&Dataset>,
    options: CheckOptions,
    progress: &dyn Progress,
) -> Result<Report, Error> {
    progress.begin((data.len() + against.map_or(0, Dataset::len)) as u64, "pictures");
    let look = |buf: &mut Vec<u8>, i: usize| {
        let seen = look(data, i, buf);
        progress.advance(1);
        seen
    };
    let seen =
        (0..data.len()).into_par_iter().map_init(Vec::new, look).collect::<Result<Vec<Seen>, Error>>()?;
    let mut report = report(data, &seen, options);
    report.against = against.map(|other| compare(data, &seen, other, progress)).transpose()?;
    Ok(report)
}

fn look(data: &Dataset, i: usize, buf: &mut Vec<u8>) -> Result<Seen, Error> {
    let decoded = match data.decode(i, &Limits::default(), buf) {
        // says nothing about the picture
        Err(error @ Error::Store { .. }) => return Err(error),
        decoded => decoded,
    };
    let picture = decoded.map_err(|e| e.to_string()).map(|decoded| Picture {
        width: decoded.image.width,
        height: decoded.image.height,
        format: decoded.format.name(),
        notes: decoded.notes,
    });
    Ok(Seen { hash: hash(buf), bytes: buf.len() as u64, picture })
}

fn report(data: &Dataset, seen: &[Seen], options: CheckOptions) -> Report {
    let good = || seen.iter().enumerate().filter_map(|(i, s)| s.picture.as_ref().ok().map(|p| (i, p)));
    let broken = |(i, s): (usize, &Seen)| {
        let reason = s.picture.as_ref().err()?.clone();
        Some(BrokenPicture { index: i, name: data.name(i), reason })
    };
    let is_small = |p: &Picture| p.width.min(p.height) < options.min_side;
    let small =
        |(i, p): (usize, &Picture)| SmallPicture { name: data.name(i), width: p.width, height: p.height };
    let mut formats = BTreeMap::new();
    let mut conversions = BTreeMap::new();
    for (_, picture) in good() {
        *formats.entry(picture.format).or_default() += 1;
        for note in &picture.notes {
            *conversions.entry(note.name()).or_default() += 1;
        }
    }
    Report {
        pictures: seen.len(),
        bytes: seen.iter().map(|s| s.bytes).sum(),
        classes: data.classes().len(),
        unlabelled: (0..data.len()).filter(|&i| data.class(i).is_none()).count(),
        left_out: data.left_out().clone(),
        broken: seen.iter().enumerate().filter_map(broken).collect(),
        duplicates: duplicates(data, seen),
        small: good().filter(|(_, p)| is_small(p)).map(small).collect(),
        few: few(data, good().map(|(i, _)| i), options.min_per_class),
        width: Spread::of(good().map(|(_, p)| u64::from(p.width))),
        height: Spread::of(good().map(|(_, p)| u64::from(p.height))),
        file_bytes: Spread::of(seen.iter().map(|s| s.bytes)),
        formats,
        conversions,
        against: None,
    }
}

/// Groups of files with the same bytes, in the order of their first. Files that could not be read have
/// none, and are no group.
fn duplicates(data: &Dataset, seen: &[Seen]) -> Vec<Duplicates> {
    let mut groups: HashMap<u128, Vec<usize>> = HashMap::with_capacity(seen.len());
    for (i, s) in seen.iter().enumerate().filter(|(_, s)| s.bytes > 0) {
        groups.entry(s.hash).or_default().push(i);
    }
    let mut groups: Vec<Vec<usize>> = groups.into_values().filter(|group| group.len() > 1).collect();
    groups.sort_unstable();
    let named = |group: Vec<usize>| Duplicates {
        conflicting: group.windows(2).any(|pair| {
            let class = |i: Option<&usize>| i.and_then(|&i| data.class(i));
            class(pair.first()) != class(pair.last())
        }),
        names: group.into_iter().map(|i| data.name(i)).collect(),
    };
    groups.into_iter().map(named).collect()
}

fn few(data: &Dataset, good: impl Iterator<Item = usize>, least: usize) -> Vec<ClassCount> {
    let mut counts = vec![0; data.classes().len()];
    for class in good.filter_map(|i| data.class(i)) {
        if let Some(count) = counts.get_mut(class as usize) {
            *count += 1;
        }
    }
    let rows = data.classes().iter().zip(counts).filter(|(_, pictures)| *pictures < least);
    rows.map(|(class, pictures)| ClassCount { class: class.clone(), pictures }).collect()
}

fn compare(
    data: &Dataset,
    seen: &[Seen],
    other: &Dataset,
    progress: &dyn Progress,
) -> Result<Against, Error> {
    let look = |buf: &mut Vec<u8>, i: usize| {
        let read = match other.read(i, buf) {
            Err(error @ Error::Store { .. }) => return Err(error),
            read => read.is_ok(),
        };
        progress.advance(1);
        Ok(read.then(|| (hash(buf), i)))
    };
    let found =
        (0..other.len()).into_par_iter().map_init(Vec::new, look).collect::<Result<Vec<_>, Error>>()?;
    // the first of several, so that the answer does not depend on threads
    let there: HashMap<u128, usize> = found.iter().rev().flatten().copied().collect();
    let shared = seen.iter().enumerate().filter(|(_, s)| s.bytes > 0).filter_map(|(i, s)| {
        let at = *there.get(&s.hash)?;
        Some(Shared { here: data.name(i), there: other.name(at) })
    });
    let unreadable = found.iter().filter(|f| f.is_none()).count();
    Ok(Against { pictures: other.len(), shared: shared.collect(), unreadable })
}
