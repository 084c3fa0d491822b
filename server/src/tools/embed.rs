//! `occlude-serve embed`: the embeddings of a folder in a file.

use std::path::{Path, PathBuf};

use occlude_preprocess::AllBroken;
use occlude_preprocess::files::{Listing, Sample, list};
use occlude_preprocess::names::relative;

use super::embed_args::EmbedArgs;
use super::journal::Journal;
use super::shards;
use super::table::Row;
use super::write::{Format, names_of, write};
use super::{ToolError, Version};
use crate::inference::bulk::{Outcome, Report, Run, tell_left_out};
use crate::inference::encode::{Encoded, Wants};

impl Format {
    fn of(args: &EmbedArgs) -> Result<Self, ToolError> {
        let ending = args.out.extension().and_then(|e| e.to_str()).unwrap_or_default();
        let by_name = match ending.to_ascii_lowercase().as_str() {
            "npy" => Some(Self::Npy),
            "parquet" => Some(Self::Parquet),
            "jsonl" => Some(Self::Jsonl),
            _ => None,
        };
        args.format.or(by_name).ok_or_else(|| ToolError::Format { path: args.out.clone() })
    }
}

/// Embeds every picture below a folder; gives how many there are in the result, and how many could not be read. A run
/// that was stopped is gone on with by the same command: what is done lies in `OUT.partial`.
/// Into a folder or a bucket, see `shards`.
pub fn embed(args: &EmbedArgs) -> Result<(usize, usize), ToolError> {
    if shards::wanted(args) {
        return shards::embed(args);
    }
    if shards::is_tar(&args.dir) {
        let what = "tar shards are embedded into a folder; hint: end `--out` in `/`";
        return Err(ToolError::Shards { what });
    }
    let format = Format::of(args)?;
    check_output(args, format, &[])?;
    let listing = list(&args.dir)?;
    tell_left_out(&args.dir, &listing);
    if args.force && args.out.exists() {
        check_output(args, format, &listing.samples)?;
    }
    let model = args.encoder.open()?;
    let mut journal = Journal::open(&partial(&args.out), &model.info.identity, model.info.dim)?;
    let mut outcome = fill(args, &listing, &model, &mut journal)?;
    for _ in 0..AGAIN {
        if !replaced(args, &listing, &journal) {
            break;
        }
        outcome = fill(args, &listing, &model, &mut journal)?;
    }
    let mut rows = rows(args, &listing, &journal)?;
    if rows.is_empty() {
        let (folder, count) = (Some(args.dir.clone()), listing.samples.len());
        return Err(AllBroken { folder, count, first: outcome.first_error.unwrap_or_default() }.into());
    }
    let count = rows.len();
    let mut whole = rows.drain(..).map(|(path, class)| {
        let embedding = journal.vector(&path)?.unwrap_or_default();
        Ok(Row { path, class, embedding, reason: None })
    });
    write(&args.out, format, &model.info, count, &mut whole)?;
    drop(whole);
    journal.remove()?;
    let names = if format == Format::Npy {
        format!(" and `{}`", names_of(&args.out).display())
    } else {
        String::new()
    };
    tracing::info!(
        "wrote {count} embeddings to `{}`{names}, {} skipped",
        args.out.display(),
        outcome.skipped
    );
    Ok((count, outcome.skipped))
}

/// Refuses a result that is there, and one that is the model or one of the pictures.
fn check_output(args: &EmbedArgs, format: Format, pictures: &[Sample]) -> Result<(), ToolError> {
    let mut inputs: Vec<&Path> = pictures.iter().map(|s| s.path.as_path()).collect();
    let model = &args.encoder.model.path;
    // Large models have their weights beside themselves.
    let weights = model.with_added_extension("data");
    inputs.extend([model.as_path(), &weights]);
    occlude_output::check(&[&args.out], &inputs, args.force)?;
    if format == Format::Npy {
        // An interrupted run may have come as far as the names.
        let begun = partial(&args.out).exists();
        occlude_output::check(&[&names_of(&args.out)], &inputs, args.force || begun)?;
    }
    Ok(())
}

/// Where an unfinished run lies.
fn partial(out: &Path) -> PathBuf {
    let mut name = out.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    out.with_file_name(name)
}

/// Rounds for pictures that were replaced while they were read.
const AGAIN: usize = 2;

/// Encodes what the journal does not have yet.
fn fill(
    args: &EmbedArgs,
    listing: &Listing,
    model: &crate::inference::model::Model,
    journal: &mut Journal,
) -> Result<Outcome, ToolError> {
    let with_version = |s: &Sample| (s.clone(), Version::of(&s.path));
    let open = |(s, version): &(Sample, Option<Version>)| {
        !version.is_some_and(|v| journal.has(&relative(&args.dir, &s.path), v))
    };
    // versions of before pictures are read: one that is replaced meanwhile is another the next time
    let (todo, versions): (Vec<Sample>, Vec<Option<Version>>) =
        listing.samples.iter().map(with_version).filter(open).unzip();
    let before = listing.samples.len() - todo.len();
    if before > 0 {
        tracing::info!("resuming: {before} of {} pictures are done", listing.samples.len());
    }
    let report = Report::new("embedding");
    let limits = args.encoder.limits();
    let run = Run { samples: &todo, model, limits: &limits, wants: Wants::default(), progress: &report };
    let outcome = run.encode(&mut |i: usize, encoded: Encoded| {
        let (Some(sample), Some(&version)) = (todo.get(i), versions.get(i)) else { return Ok(()) };
        // a picture that was not there yet will be read again
        let Some(version) = version else { return Ok(()) };
        journal.add(&relative(&args.dir, &sample.path), version, &encoded.embedding)
    })?;
    report.end(&format!("`{}`", args.dir.display()), outcome.done, outcome.skipped);
    Ok(outcome)
}

/// Whether pictures that are done are no longer what they were.
fn replaced(args: &EmbedArgs, listing: &Listing, journal: &Journal) -> bool {
    let other = |Sample { path, .. }: &Sample| {
        let (name, now) = (relative(&args.dir, path), Version::of(path));
        now.is_some_and(|now| !journal.has(&name, now)) && journal.knows(&name)
    };
    listing.samples.iter().any(other)
}

/// Path and class of every picture that is done, in the listing's order.
fn rows(
    args: &EmbedArgs,
    listing: &Listing,
    journal: &Journal,
) -> Result<Vec<(String, Option<String>)>, ToolError> {
    let mut rows = Vec::new();
    for Sample { path, class } in &listing.samples {
        let name = relative(&args.dir, path);
        if Version::of(path).is_some_and(|v| journal.has(&name, v)) {
            let class = class.and_then(|c| listing.classes.get(c as usize)).cloned();
            rows.push((name, class));
        }
    }
    Ok(rows)
}
