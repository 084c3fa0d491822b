//! `occlude-serve copy`: collections from one place to another.

use std::collections::BTreeMap;

use clap::Args;
use occlude_retrieval::{Engine, Options, Page, Point, Record, With};

use super::ToolError;
use crate::config::Data;

/// Points of one transaction.
const PAGE: usize = 1000;
const ALL: With = With { vector: true, payload: true };

/// Flags of `occlude-serve copy`.
#[derive(Debug, Clone, Args)]
pub struct CopyArgs {
    /// Folder or database to copy from, as `--data` of the server, which must not be running on a folder
    #[arg(long, value_name = "DIR|URL", value_parser = Data::parser())]
    pub from: Data,
    /// Folder or database to copy to
    #[arg(long, value_name = "DIR|URL", value_parser = Data::parser())]
    pub to: Data,
    /// Copy this collection alone; may be given several times [default: all]
    #[arg(long, value_name = "NAME")]
    pub collection: Vec<String>,
}

/// What a run did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Copied {
    /// Points that were written.
    pub written: usize,
    /// Points that were there already, the same.
    pub kept: usize,
}

/// Copies collections, then compares them: models, ids, vectors to the bit, payloads. A run that was stopped is gone on with by
/// the same command.
pub fn copy(args: &CopyArgs) -> Result<Copied, ToolError> {
    let (from, to) = (args.from.location()?, args.to.location()?);
    let (from, to) = (from.open(&Options::default())?, to.open(&Options::default())?);
    let names = match args.collection.as_slice() {
        [] => from.collections()?.into_iter().map(|info| info.name).collect(),
        named => named.to_vec(),
    };
    let mut all = Copied::default();
    for name in &names {
        let copied = one(&*from, &*to, name)?;
        check(&*from, &*to, name)?;
        tracing::info!("collection `{name}`: {} copied, {} already present", copied.written, copied.kept);
        all.written += copied.written;
        all.kept += copied.kept;
    }
    to.maintain(&|| true)?;
    Ok(all)
}

fn one(from: &dyn Engine, to: &dyn Engine, name: &str) -> Result<Copied, ToolError> {
    let spec = from.collection(name)?.spec;
    to.ensure_collection(name, &spec)?;
    let mut copied = Copied::default();
    pages(from, to, name, |records, there| {
        let new: Vec<Point> = records.iter().filter(|r| !is_there(r, there)).filter_map(point).collect();
        copied.written += new.len();
        copied.kept += records.len() - new.len();
        to.upsert(name, spec.maker(), &new)?;
        Ok(())
    })?;
    Ok(copied)
}

/// Both hold the same.
fn check(from: &dyn Engine, to: &dyn Engine, name: &str) -> Result<(), ToolError> {
    let mut differ = 0;
    pages(from, to, name, |records, there| {
        differ += records.iter().filter(|record| !is_there(record, there)).count();
        Ok(())
    })?;
    let (expected, found) = (from.count(name, None)?, to.count(name, None)?);
    if differ == 0 && expected == found {
        return Ok(());
    }
    Err(ToolError::Copy { name: name.to_owned(), differ, expected, found })
}

/// Shows all points in the order of ids, with those of their ids in the target.
fn pages(
    from: &dyn Engine,
    to: &dyn Engine,
    name: &str,
    mut see: impl FnMut(&[Record], &BTreeMap<String, Record>) -> Result<(), ToolError>,
) -> Result<(), ToolError> {
    let mut page = Page { after: None, limit: PAGE, filter: None, with: ALL };
    loop {
        let records = from.scroll(name, &page)?;
        let ids: Vec<String> = records.iter().map(|record| record.id.clone()).collect();
        let there = to.get(name, &ids, ALL)?.into_iter().map(|record| (record.id.clone(), record)).collect();
        see(&records, &there)?;
        if records.len() < PAGE {
            return Ok(());
        }
        page.after = ids.last().cloned();
    }
}

/// Whether the target has the point as it is, with its payload in the same order.
fn is_there(record: &Record, there: &BTreeMap<String, Record>) -> bool {
    let text = |record: &Record| serde_json::to_string(&record.payload).unwrap_or_default();
    there.get(&record.id).is_some_and(|found| found == record && text(found) == text(record))
}

fn point(record: &Record) -> Option<Point> {
    let Record { id, vector, payload } = record.clone();
    Some(Point { id, vector: vector?, payload: payload? })
}
