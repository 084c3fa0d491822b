//! `occlude-serve index`: the pictures of a folder in a collection.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use occlude_preprocess::AllBroken;
use occlude_preprocess::files::{Listing, Sample, list};
use occlude_preprocess::names::relative;
use occlude_retrieval::{Engine, MAX_ID_BYTES, MAX_PAYLOAD_BYTES, Options, Page, Point, With};
use serde_json::{Map, Value, json};

use super::{EncoderArgs, ToolError, Version};
use crate::config::Data;
use crate::gallery::thumbnail;
use crate::inference::bulk::{Report, Run, tell_left_out};
use crate::inference::encode::{Encoded, Wants};
use crate::inference::model::Model;

/// Points of one transaction.
const BATCH: usize = 256;
/// Points read at once when looking for what is there.
const PAGE: usize = 1000;

/// Flags of `occlude-serve index`.
#[derive(Debug, Clone, Args)]
pub struct IndexArgs {
    /// Folder of pictures, flat or with one sub-folder for each class
    pub dir: PathBuf,
    /// Folder or database of the collections, as `--data` of the server, which must not be running on a folder
    #[arg(long, value_name = "DIR|URL", value_parser = Data::parser())]
    pub data: Data,
    /// Collection to fill; created if it does not exist
    #[arg(long, value_name = "NAME")]
    pub collection: String,
    /// Keep a small JPEG of each picture in its payload, as the data URL `thumbnail`
    #[arg(long)]
    pub thumbnails: bool,
    /// Delete the points of pictures that are no longer in the folder
    #[arg(long)]
    pub prune: bool,
    /// Declare that a collection from an older release, which does not record its model's precision, belongs to this
    /// model
    #[arg(long)]
    pub adopt: bool,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub encoder: EncoderArgs,
}

/// What a run did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Indexed {
    /// Pictures that were encoded: new ones, and those that have changed.
    pub encoded: usize,
    /// Pictures that were there already.
    pub kept: usize,
    /// Pictures that could not be read, or whose paths are too long for ids.
    pub skipped: usize,
    /// Points that were deleted.
    pub pruned: usize,
}

/// Encodes what is new or has changed below a folder, and puts it into the collection; a run that was stopped is gone
/// on with by the same command. Ids are paths below the folder; payloads have `path`, `class`, `bytes` and
/// `modified` (nanoseconds since 1970).
pub fn index(args: &IndexArgs) -> Result<Indexed, ToolError> {
    let location = args.data.location()?;
    let listing = list(&args.dir)?;
    tell_left_out(&args.dir, &listing);
    let model = args.encoder.open()?;
    let store = location.open(&Options::default())?;
    let store = &*store;
    // Before any work is done: a collection of another model takes nothing.
    let spec = model.info.spec();
    if args.adopt && store.collection(&args.collection).is_ok() {
        store.adopt(&args.collection, &spec)?;
    }
    store.ensure_collection(&args.collection, &spec)?;
    let there = versions(store, &args.collection)?;
    let names: Vec<String> = listing.samples.iter().map(|s| relative(&args.dir, &s.path)).collect();
    let mut indexed = fill(args, &listing, &names, &model, store, &there)?;
    if args.prune {
        let kept: BTreeSet<&String> = names.iter().collect();
        let gone: Vec<String> = there.into_keys().filter(|id| !kept.contains(id)).collect();
        for ids in gone.chunks(PAGE) {
            indexed.pruned += store.delete(&args.collection, ids)?;
        }
    }
    store.maintain(&|| true)?;
    tracing::info!(
        "collection `{}`: {} encoded, {} already present, {} skipped, {} deleted",
        args.collection,
        indexed.encoded,
        indexed.kept,
        indexed.skipped,
        indexed.pruned
    );
    Ok(indexed)
}

/// Ids that are there, with the version of the picture that each was made from.
fn versions(store: &dyn Engine, name: &str) -> Result<BTreeMap<String, Option<Version>>, ToolError> {
    let mut found = BTreeMap::new();
    let mut page =
        Page { after: None, limit: PAGE, filter: None, with: With { vector: false, payload: true } };
    loop {
        let points = store.scroll(name, &page)?;
        page.after = points.last().map(|p| p.id.clone());
        let full = points.len() == PAGE;
        found.extend(points.into_iter().map(|p| (p.id, p.payload.as_ref().and_then(version))));
        if !full {
            return Ok(found);
        }
    }
}

fn version(payload: &Map<String, Value>) -> Option<Version> {
    Some(Version { bytes: payload.get("bytes")?.as_u64()?, modified: payload.get("modified")?.as_i64()? })
}

fn fill(
    args: &IndexArgs,
    listing: &Listing,
    names: &[String],
    model: &Model,
    store: &dyn Engine,
    there: &BTreeMap<String, Option<Version>>,
) -> Result<Indexed, ToolError> {
    let (mut todo, mut long) = (Vec::new(), 0);
    for (sample, name) in listing.samples.iter().zip(names) {
        if name.len() > MAX_ID_BYTES {
            tracing::warn!(
                "skipped `{name}`: its path has {} bytes, an id at most {MAX_ID_BYTES}",
                name.len()
            );
            long += 1;
            continue;
        }
        let now = Version::of(&sample.path);
        if now.is_none() || there.get(name).copied().flatten() != now {
            todo.push((sample.clone(), name, now));
        }
    }
    let samples: Vec<Sample> = todo.iter().map(|(s, ..)| s.clone()).collect();
    let report = Report::new("indexing");
    let limits = args.encoder.limits();
    let mut waiting = Vec::new();
    let run = Run { samples: &samples, model, limits: &limits, wants: Wants::default(), progress: &report };
    let outcome = run.encode(&mut |i: usize, encoded: Encoded| -> Result<(), ToolError> {
        let Some((sample, name, version)) = todo.get(i) else { return Ok(()) };
        let class = sample.class.and_then(|c| listing.classes.get(c as usize));
        let payload = payload(args, (&sample.path, *version), name, class.map(String::as_str));
        waiting.push(Point { id: (*name).clone(), vector: encoded.embedding, payload });
        if waiting.len() >= BATCH {
            store.upsert(&args.collection, &model.info.identity, &waiting)?;
            waiting.clear();
        }
        Ok(())
    })?;
    if !waiting.is_empty() {
        store.upsert(&args.collection, &model.info.identity, &waiting)?;
    }
    report.end(&format!("`{}`", args.dir.display()), outcome.done, outcome.skipped);
    if outcome.done == 0 && outcome.skipped == names.len() {
        let (folder, first) = (Some(args.dir.clone()), outcome.first_error.unwrap_or_default());
        return Err(AllBroken { folder, count: names.len(), first }.into());
    }
    let kept = names.len() - samples.len() - long;
    Ok(Indexed { encoded: outcome.done, kept, skipped: outcome.skipped + long, pruned: 0 })
}

/// `version`: that of the file before it was read; one that is replaced meanwhile is another the next time.
fn payload(
    args: &IndexArgs,
    (path, version): (&Path, Option<Version>),
    name: &str,
    class: Option<&str>,
) -> Map<String, Value> {
    let mut payload = Map::new();
    payload.insert("path".to_owned(), json!(name));
    payload.insert("class".to_owned(), json!(class));
    if let Some(Version { bytes, modified }) = version {
        payload.insert("bytes".to_owned(), json!(bytes));
        payload.insert("modified".to_owned(), json!(modified));
    }
    // The picture could be read a moment ago; one that has gone has no thumbnail.
    if args.thumbnails
        && let Ok(jpeg) = thumbnail(path, &args.encoder.limits())
    {
        let url = format!("data:image/jpeg;base64,{}", STANDARD.encode(jpeg));
        payload.insert("thumbnail".to_owned(), json!(url));
        if serde_json::to_string(&payload).map_or(0, |text| text.len()) > MAX_PAYLOAD_BYTES {
            // the point is worth more without it than none
            tracing::warn!("`{name}` has no thumbnail: it is too large for a payload");
            payload.remove("thumbnail");
        }
    }
    payload
}
