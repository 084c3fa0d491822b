//! `occlude-serve duplicates`: pictures of a collection that are nearly the same.

use std::collections::BTreeMap;
use std::fmt;

use clap::Args;
use occlude_retrieval::{Engine, Options, Page, Query, With};
use serde::Serialize;

use super::ToolError;
use crate::config::Data;

/// Points that are read at once.
const PAGE: usize = 1000;

/// Flags of `occlude-serve duplicates`.
#[derive(Debug, Clone, Args)]
pub struct DuplicatesArgs {
    /// Folder or database of collections, as `--data` of the server, which must not be running on a folder
    #[arg(long, value_name = "DIR|URL", value_parser = Data::parser())]
    pub data: Data,
    /// The collection
    #[arg(long, value_name = "NAME")]
    pub collection: String,
    /// Cosine from which on two pictures count as the same
    #[arg(long, default_value_t = 0.98, value_name = "COSINE", value_parser = cosine)]
    pub threshold: f32,
    /// Nearest pictures of each that are looked at
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=500))]
    pub neighbours: u16,
    /// Compare every picture with every other, however many there are
    #[arg(long)]
    pub exact: bool,
    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
}

fn cosine(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(value) if (-1.0..=1.0).contains(&value) => Ok(value),
        _ => Err("expected a cosine, -1 to 1".to_owned()),
    }
}

/// What `occlude-serve duplicates` found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Duplicates {
    /// The collection.
    pub collection: String,
    /// Points in it.
    pub points: usize,
    /// Cosine from which on two pictures count as the same.
    pub threshold: f32,
    /// The largest first.
    pub groups: Vec<Group>,
}

/// Pictures that are connected by pairs that count as the same.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Group {
    /// In order.
    pub ids: Vec<String>,
    /// The pairs, the most alike first.
    pub pairs: Vec<Pair>,
}

/// Two pictures that count as the same.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Pair {
    /// The smaller id first.
    pub ids: [String; 2],
    /// Their cosine.
    pub cosine: f32,
}

impl Duplicates {
    /// Points beyond the first of each group: what could go.
    pub fn surplus(&self) -> usize {
        self.groups.iter().map(|group| group.ids.len() - 1).sum()
    }
}

impl fmt::Display for Duplicates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { collection, points, threshold, groups } = self;
        writeln!(
            f,
            "collection `{collection}`: {points} points, {} groups at a cosine of at least {threshold}, {} points beyond the first of each",
            groups.len(),
            self.surplus()
        )?;
        for Group { ids, pairs } in groups {
            let range = |pick: fn(f32, f32) -> f32| pairs.iter().map(|pair| pair.cosine).reduce(pick);
            let (low, high) = (range(f32::min).unwrap_or(1.0), range(f32::max).unwrap_or(1.0));
            writeln!(f, "\n{} points, cosines {low:.4} to {high:.4}", ids.len())?;
            for id in ids {
                writeln!(f, "  {id}")?;
            }
        }
        Ok(())
    }
}

/// Searches the collection by each of its own points and groups what counts as the same: two pictures are in one group
/// where a chain of such pairs leads from one to the other.
///
/// # Errors
/// Data that cannot be opened, a collection that is not there.
pub fn duplicates(args: &DuplicatesArgs) -> Result<Duplicates, ToolError> {
    let store = args.data.location()?.open(&Options::default())?;
    let (points, pairs) = pairs(&*store, args)?;
    let (collection, threshold) = (args.collection.clone(), args.threshold);
    Ok(Duplicates { collection, points, threshold, groups: groups(pairs) })
}

/// How many points there are, and every pair that counts as the same, once.
fn pairs(store: &dyn Engine, args: &DuplicatesArgs) -> Result<(usize, Vec<Pair>), ToolError> {
    let spec = store.collection(&args.collection)?.spec;
    // The picture itself comes first.
    let k = usize::from(args.neighbours) + 1;
    let mut found: BTreeMap<[String; 2], f32> = BTreeMap::new();
    let mut page =
        Page { after: None, limit: PAGE, filter: None, with: With { vector: true, payload: false } };
    let mut points = 0;
    loop {
        let records = store.scroll(&args.collection, &page)?;
        points += records.len();
        page.after = records.last().map(|record| record.id.clone());
        let full = records.len() == PAGE;
        for record in records {
            let Some(vector) = record.vector else { continue };
            let with = With { vector: false, payload: false };
            let query = Query { exact: args.exact, with, ..Query::vector(vector, k) };
            for hit in store.search(&args.collection, spec.maker(), &query)? {
                if hit.id != record.id && hit.score >= args.threshold {
                    let mut ids = [record.id.clone(), hit.id];
                    ids.sort();
                    found.insert(ids, hit.score);
                }
            }
        }
        if !full {
            let pairs = found.into_iter().map(|(ids, cosine)| Pair { ids, cosine });
            return Ok((points, pairs.collect()));
        }
    }
}

/// Connected pairs together.
fn groups(pairs: Vec<Pair>) -> Vec<Group> {
    let mut roots: BTreeMap<String, String> = BTreeMap::new();
    for Pair { ids: [a, b], .. } in &pairs {
        let (a, b) = (root(&mut roots, a), root(&mut roots, b));
        let (first, second) = if a < b { (a, b) } else { (b, a) };
        roots.insert(second, first);
    }
    let mut groups: BTreeMap<String, Group> = BTreeMap::new();
    for pair in pairs {
        let root = root(&mut roots, &pair.ids[0]);
        let group = groups.entry(root).or_insert_with(|| Group { ids: Vec::new(), pairs: Vec::new() });
        group.ids.extend(pair.ids.clone());
        group.pairs.push(pair);
    }
    let mut groups: Vec<Group> = groups.into_values().collect();
    for group in &mut groups {
        group.ids.sort();
        group.ids.dedup();
        group.pairs.sort_by(|a, b| b.cosine.total_cmp(&a.cosine).then_with(|| a.ids.cmp(&b.ids)));
    }
    groups.sort_by(|a, b| b.ids.len().cmp(&a.ids.len()).then_with(|| a.ids.cmp(&b.ids)));
    groups
}

/// The smallest id that an id is connected with so far; paths to it are shortened on the way.
fn root(roots: &mut BTreeMap<String, String>, id: &str) -> String {
    let mut root = id;
    while let Some(next) = roots.get(root).filter(|next| *next != root) {
        root = next;
    }
    let root = root.to_owned();
    roots.insert(id.to_owned(), root.clone());
    root
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(a: &str, b: &str, cosine: f32) -> Pair {
        Pair { ids: [a.to_owned(), b.to_owned()], cosine }
    }

    #[test]
    fn chains_are_one_group_and_the_largest_comes_first() {
        let all = vec![
            pair("a", "b", 0.99),
            pair("p", "q", 1.0),
            pair("c", "d", 0.98),
            pair("b", "d", 0.985),
            pair("x", "y", 0.99),
        ];
        let found = groups(all);
        let ids: Vec<String> = found.iter().map(|group| group.ids.concat()).collect();
        assert_eq!(ids, ["abcd", "pq", "xy"]);
        let cosines: Vec<f32> = found[0].pairs.iter().map(|pair| pair.cosine).collect();
        assert_eq!(cosines, [0.99, 0.985, 0.98]);
        let report = Duplicates { collection: "c".to_owned(), points: 20, threshold: 0.98, groups: found };
        assert_eq!(report.surplus(), 5);
        assert!(report.to_string().contains("4 points, cosines 0.9800 to 0.9900\n  a\n  b\n"), "{report}");
    }
}
