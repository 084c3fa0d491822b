//! `occlude-serve embed` into a folder or a bucket: one Parquet file for each shard of the input, by any number of
//! processes.
//!
//! A shard is done when its file is there. Files are put whole, and never over one that is there, so processes may be
//! killed, started again or do the same shard at once: no row is lost, and none is there twice. Nothing else is shared.

mod finished;
mod gate;
mod input;
mod pipeline;
mod share;
mod source;

use std::fs;
use std::io::{self, BufWriter, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Instant;

use occlude_contract::table;
use occlude_objects::{Draft, Store, is_url, open, open_input, tar_of};
use tokio::runtime::Handle;

use crate::config::Limits;
use crate::inference::model::Model;
use crate::tools::embed_args::EmbedArgs;
use crate::tools::table::{Kind, Table};
use crate::tools::{ToolError, file_error};
use finished::{Finished, origin};
use gate::Gate;
use input::{Input, Shard};
use pipeline::{Counts, Encoder, Stopped};
use source::Source;

pub use share::{Share, ShareError};

/// Pictures of a list that become one shard, by default.
const PER_SHARD: usize = 10_000;

/// Whether the flags ask for shards rather than for one file.
pub(super) fn wanted(args: &EmbedArgs) -> bool {
    let flags = args.shard.is_some() || args.shards.is_some() || args.list_missing || args.dedup;
    let folder = args.out.to_string_lossy().ends_with('/') || args.out.is_dir();
    flags || args.per_shard.is_some() || folder || is_url(&args.out) || is_url(&args.dir)
}

/// Whether an input can only be embedded by shards.
pub(super) fn is_tar(input: &Path) -> bool {
    tar_of(input).is_some()
}

/// Embeds this process's part of the shards; how many rows there are in its files, and how many of them have a reason in place
/// of an embedding. With `--list-missing`, only tells on stdout which shards are not done.
pub(super) fn embed(args: &EmbedArgs) -> Result<(usize, usize), ToolError> {
    check(args)?;
    let variable = |name: &str| std::env::var(name).ok();
    let share = match args.list_missing && args.shard.is_none() {
        true => Share::WHOLE,
        false => Share::of(args.shard, args.shards.map(NonZeroUsize::get), &variable)?,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(file_error(Path::new("threads")))?;
    let done = with(args, share, runtime.handle());
    // what was read ahead for nobody is not waited for
    runtime.shutdown_background();
    done
}

fn check(args: &EmbedArgs) -> Result<(), ToolError> {
    let refused = |what: &'static str| Err(ToolError::Shards { what });
    let ending =
        args.out.extension().is_some_and(|e| ["npy", "parquet", "jsonl"].iter().any(|known| e == *known));
    if ending && !args.out.is_dir() {
        return refused("with shards, `--out` is a folder or an address; hint: end it in `/`");
    }
    if args.format.is_some_and(|format| format != super::Format::Parquet) {
        return refused("shards are written as Parquet; hint: leave `--format` out");
    }
    if args.force {
        return refused(
            "`--force` replaces one file, and shards that are done stay; hint: delete what is to be done again",
        );
    }
    if inside(&args.out, &args.dir) {
        return refused(
            "`--out` lies in the input, of which it would become a part; hint: name a place beside it",
        );
    }
    Ok(())
}

/// Whether the result would lie where the input is listed.
fn inside(out: &Path, input: &Path) -> bool {
    if tar_of(input).is_some() {
        return false;
    }
    if is_url(out) || is_url(input) {
        let whole = |path: &Path| format!("{}/", path.to_string_lossy().trim_end_matches('/'));
        return whole(out).starts_with(&whole(input));
    }
    // the nearest folder that is there already
    let real = out.ancestors().find_map(|path| match path.as_os_str().is_empty() {
        true => fs::canonicalize(".").ok(),
        false => fs::canonicalize(path).ok(),
    });
    match (real, fs::canonicalize(input)) {
        (Some(real), Ok(input)) => real.starts_with(&input) && (real != input || out.exists() || below(out)),
        _ => false,
    }
}

/// Whether a path does not climb, so that what is missing of it lies below what is there.
fn below(path: &Path) -> bool {
    !path.components().any(|part| part == std::path::Component::ParentDir)
}

fn with(args: &EmbedArgs, share: Share, runtime: &Handle) -> Result<(usize, usize), ToolError> {
    let input = open_input(&args.dir, runtime)?;
    let out = open(&args.out, runtime)?;
    let input = Input::open(input, args.per_shard.map_or(PER_SHARD, NonZeroUsize::get))?;
    let model = args.encoder.open()?;
    let finished = Finished::look(&*out, &model.info, &input.shards)?;
    let own: Vec<&Shard> = share.of_list(&input.shards).collect();
    if args.list_missing {
        list_missing(&own, &finished)?;
        return Ok((0, 0));
    }
    let limits = args.encoder.limits();
    let job = Job {
        input: &input,
        out: &*out,
        model: &model,
        limits: &limits,
        finished: &finished,
        runtime,
        once: args.dedup,
    };
    job.run(share, &own)
}

fn list_missing(own: &[&Shard], finished: &Finished) -> Result<(), ToolError> {
    let missing: Vec<&str> =
        own.iter().filter(|shard| !finished.has(shard)).map(|shard| shard.name.as_str()).collect();
    let text: String = missing.iter().map(|name| format!("{name}\n")).collect();
    io::stdout().write_all(text.as_bytes()).map_err(file_error(Path::new("stdout")))?;
    tracing::info!("{} of {} shards are missing", missing.len(), own.len());
    Ok(())
}

/// How a shard ended.
enum Outcome {
    /// Its file is new.
    Written(Counts),
    /// Its file was there, or another process was faster.
    Kept,
}

/// The work of one process.
struct Job<'a> {
    input: &'a Input,
    out: &'a dyn Store,
    model: &'a Model,
    limits: &'a Limits,
    finished: &'a Finished,
    runtime: &'a Handle,
    once: bool,
}

impl Job<'_> {
    fn run(&self, share: Share, own: &[&Shard]) -> Result<(usize, usize), ToolError> {
        let (mut written, mut kept, mut rows, mut broken) = (0, 0, 0, 0);
        let mut failed: Vec<String> = Vec::new();
        for (i, shard) in own.iter().enumerate() {
            match self.shard(shard, &format!("({} of {})", i + 1, own.len())) {
                Ok(Outcome::Written(counts)) => {
                    written += 1;
                    rows += counts.rows;
                    broken += counts.broken;
                }
                Ok(Outcome::Kept) => kept += 1,
                Err(Stopped::Shard(reason)) => {
                    tracing::error!("shard `{}`: {reason}", shard.name);
                    failed.push(format!("`{}`: {reason}", shard.name));
                }
                Err(Stopped::Everything(error)) => return Err(error),
            }
        }
        tracing::info!(
            "part {share}: {} of {} shards: {written} written with {rows} rows ({broken} broken), {kept} already there, {} \
             failed",
            own.len(),
            self.input.shards.len(),
            failed.len()
        );
        match failed.first() {
            Some(first) => {
                Err(ToolError::FailedShards { count: failed.len(), of: own.len(), first: first.clone() })
            }
            None => Ok((rows, broken)),
        }
    }

    fn shard(&self, shard: &Shard, place: &str) -> Result<Outcome, Stopped> {
        let name = self.finished.name(shard);
        let shown = PathBuf::from(self.out.name(Path::new(&name)));
        let lost = |reason: io::Error| Stopped::Everything(file_error(&shown)(reason));
        let known = self.input.look(shard).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => Stopped::Shard(e.to_string()),
            // a store that does not answer has nothing for the next shard either
            _ => {
                Stopped::Everything(file_error(Path::new(&self.input.store.name(Path::new(&shard.name))))(e))
            }
        })?;
        if self.finished.has(shard) || self.out.stat(Path::new(&name)).map_err(lost)?.is_some() {
            let found = origin(self.out, &name).map_err(lost)?.unwrap_or_default();
            if found == known.identity {
                return Ok(Outcome::Kept);
            }
            return Err(Stopped::Shard(format!(
                "it has changed since `{}` was written (then `{found}`, now `{}`); hint: delete that file to embed it again",
                shown.display(),
                known.identity
            )));
        }
        let start = Instant::now();
        let (draft, counts) = self.fill(shard, &known, &shown)?;
        let new = self.out.put(draft, &name).map_err(lost)?;
        if !new {
            tracing::info!("shard `{}` {place}: another process was faster; its file stays", shard.name);
            return Ok(Outcome::Kept);
        }
        tell(shard, place, &counts, start);
        Ok(Outcome::Written(counts))
    }

    /// Embeds a shard into a file that has no name yet.
    fn fill(&self, shard: &Shard, known: &input::Known, shown: &Path) -> Result<(Draft, Counts), Stopped> {
        let fatal = |reason: io::Error| Stopped::Everything(file_error(shown)(reason));
        let parquet = |reason| ToolError::Parquet { path: shown.to_owned(), reason };
        let draft = self.out.draft().map_err(fatal)?;
        let file = match &draft {
            Draft::Hidden(file) => file.as_file(),
            Draft::Nameless(file) => file,
        };
        let more = [(table::INPUT, known.identity.as_str())];
        let table = Table::new(BufWriter::new(file), &self.model.info, Kind::WithReasons, &more);
        let mut table = table.map_err(|e| Stopped::Everything(parquet(e)))?;
        let gate = Gate::default();
        let (input, runtime) = (self.input, self.runtime);
        let source = Source { input, shard, known, runtime, gate: &gate, remembered: None };
        let encoder = Encoder { model: self.model, limits: self.limits };
        let counts = encoder.embed(source, self.once, &mut |row| table.push(row).map_err(parquet))?;
        let mut out = table.finish().map_err(|e| Stopped::Everything(parquet(e)))?;
        out.flush().map_err(fatal)?;
        drop(out);
        Ok((draft, counts))
    }
}

fn tell(shard: &Shard, place: &str, counts: &Counts, start: Instant) {
    let Counts { rows, broken, copied, first_broken } = counts;
    let seconds = start.elapsed().as_secs_f64();
    let rate = *rows as f64 / seconds.max(1e-3);
    let copies = if *copied > 0 { format!(", {copied} with the bytes of another") } else { String::new() };
    let first = first_broken.as_ref().map_or(String::new(), |first| format!(" (the first: {first})"));
    tracing::info!(
        "shard `{}` {place}: {rows} pictures in {seconds:.1} s ({rate:.0}/s){copies}, {broken} broken{first}",
        shard.name
    );
}
