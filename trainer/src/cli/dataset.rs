//! `occlude-train dataset`: preparing and checking data sets. No tensor is involved.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;

use anyhow::{Result, ensure};
use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use occlude_dataset::prepare::{
    self, Amount, CheckOptions, Link, PackOptions, Report, Selection, Spread, Truth,
};
use occlude_dataset::{Dataset, Progress, size, with_workers};
use occlude_preprocess::files::LeftOut;
use serde_json::json;

/// Something broken was found.
const BROKEN: u8 = 3;
/// Findings of one kind that are printed; `--json` has all.
const SHOWN: usize = 20;

/// Where a data set is expected: a folder (flat, or one sub-folder per class), a list (.txt), a tar
/// shard, or a folder of shards.
#[derive(Subcommand, Debug)]
pub(super) enum Command {
    /// Count the pictures of a data set, and keep its index for later commands
    Index(Index),
    /// Unpack ImageNet's training archive, a tar file of one tar file per class
    ///
    /// Classes whose folder already exists are skipped, so the same command resumes after an interruption.
    ImagenetUnpack(Unpack),
    /// Sort ImageNet's validation pictures into class folders
    ///
    /// Pictures that already exist are skipped, so the same command resumes after an interruption.
    #[command(group = ArgGroup::new("truth").required(true))]
    ImagenetVal(Validation),
    /// Take some classes, or a number or share of every class, as links or as a list
    ///
    /// The choice depends only on the seed and on the pictures' paths in the source; with the same seed, 1 % is part
    /// of 10 %.
    #[command(
        group = ArgGroup::new("amount"),
        group = ArgGroup::new("target").required(true).multiple(true),
        override_usage = "occlude-train dataset subset [OPTIONS] <SOURCE> [OUT] [--list <FILE>]"
    )]
    Subset(Subset),
    /// Pack a data set into tar shards: key.jpg and key.cls for each picture, and classes.txt
    Shards(Shards),
    /// Decode every picture; report broken files, copies, sizes, small classes, and leakage
    ///
    /// Exit code 3 if a file is broken.
    Check(Check),
}

#[derive(Args, Debug)]
pub(super) struct Index {
    /// The data set
    source: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
pub(super) struct Unpack {
    /// ILSVRC2012_img_train.tar
    archive: PathBuf,
    /// Folder that gets a sub-folder per class
    out: PathBuf,
    #[command(flatten)]
    threads: Threads,
}

#[derive(Args, Debug)]
pub(super) struct Validation {
    /// ILSVRC2012_img_val.tar, or a folder of its pictures
    source: PathBuf,
    /// Folder that gets a sub-folder per class
    out: PathBuf,
    /// Text file with the class of each picture in the order of their numbers, one name or number per line; or lines
    /// `PICTURE CLASS`
    #[arg(long, group = "truth", value_name = "FILE")]
    ground_truth: Option<PathBuf>,
    /// Names of the numbers in `--ground-truth`: lines `NUMBER NAME`, or names in that order
    #[arg(long, requires = "ground_truth", value_name = "FILE")]
    synsets: Option<PathBuf>,
    /// Folder with an XML annotation for each picture
    #[arg(long, group = "truth", value_name = "DIR")]
    annotations: Option<PathBuf>,
    /// Kind of links to the pictures of a folder
    #[arg(long, value_enum, default_value = "auto")]
    link: LinkKind,
}

#[derive(Args, Debug)]
pub(super) struct Subset {
    /// A folder or a list
    source: PathBuf,
    /// Folder that gets the links
    #[arg(group = "target")]
    out: Option<PathBuf>,
    /// File with the names of the classes to take, one per line; default: all
    #[arg(long, value_name = "FILE")]
    classes: Option<PathBuf>,
    /// Pictures of each class; default: all
    #[arg(long, group = "amount", value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    per_class: Option<u64>,
    /// Per cent of each class, rounded, and at least one picture
    #[arg(long, group = "amount", value_name = "P", value_parser = percent)]
    percent: Option<f64>,
    /// Take the first pictures of each class by name instead of random ones
    #[arg(long, requires = "amount")]
    first: bool,
    /// Seed of the choice
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Write a list (.txt) of the chosen pictures, in addition to links or instead of them
    #[arg(long, group = "target", value_name = "FILE")]
    list: Option<PathBuf>,
    /// Kind of links
    #[arg(long, value_enum, default_value = "auto")]
    link: LinkKind,
    /// Replace the file of `--list` if it exists; never the source
    #[arg(long, requires = "list")]
    force: bool,
}

#[derive(Args, Debug)]
pub(super) struct Shards {
    /// The data set
    source: PathBuf,
    /// Folder that gets the shards
    out: PathBuf,
    /// Maximum size of a shard, like `256MiB` or `1GB`
    #[arg(long, default_value = "256MiB", value_parser = size)]
    size: u64,
    /// Shuffle the pictures with this seed; without it, they keep their order
    #[arg(long, value_name = "SEED", num_args = 0..=1, default_missing_value = "0")]
    shuffle: Option<u64>,
    #[command(flatten)]
    threads: Threads,
}

#[derive(Args, Debug)]
pub(super) struct Check {
    /// The data set
    source: PathBuf,
    /// Another data set, whose pictures must not be in this one
    #[arg(long, value_name = "OTHER")]
    against: Option<PathBuf>,
    /// Report pictures whose shorter side is below this, pixels
    #[arg(long, default_value_t = CheckOptions::default().min_side)]
    min_side: u32,
    /// Report classes with fewer pictures than this
    #[arg(long, default_value_t = CheckOptions::default().min_per_class)]
    min_per_class: usize,
    /// Print everything as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    threads: Threads,
}

#[derive(Args, Debug)]
struct Threads {
    /// Threads; default: the number of processors
    #[arg(long)]
    workers: Option<usize>,
}

impl Threads {
    fn run<T: Send>(&self, job: impl FnOnce() -> Result<T, occlude_dataset::Error> + Send) -> Result<T> {
        let all = || std::thread::available_parallelism().map_or(1, usize::from);
        Ok(with_workers(self.workers.unwrap_or_else(all), job)?)
    }
}

/// `--link`.
#[derive(ValueEnum, Clone, Copy, Debug)]
enum LinkKind {
    /// Hard if both ends are on one file system, else symbolic
    Auto,
    /// Hard
    Hard,
    /// Symbolic, with absolute paths
    Symbolic,
}

impl From<LinkKind> for Link {
    fn from(kind: LinkKind) -> Self {
        match kind {
            LinkKind::Auto => Self::Auto,
            LinkKind::Hard => Self::Hard,
            LinkKind::Symbolic => Self::Symbolic,
        }
    }
}

/// A share above 0 and at most 100.
fn percent(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| format!("`{text}` is not a number"))?;
    if value > 0.0 && value <= 100.0 { Ok(value) } else { Err("expected more than 0 and at most 100".into()) }
}

/// A bar on a terminal, nothing elsewhere.
#[derive(Default)]
struct Bar(Mutex<Option<ProgressBar>>);

impl Progress for Bar {
    fn begin(&self, total: u64, unit: &'static str) {
        let template = match unit {
            "bytes" => "{bar:30} {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left",
            _ => "{bar:30} {human_pos}/{human_len} {msg}  {per_sec}  {eta} left",
        };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        if let Ok(mut bar) = self.0.lock() {
            *bar = Some(ProgressBar::new(total).with_style(style).with_message(unit));
        }
    }

    fn advance(&self, n: u64) {
        if let Ok(bar) = self.0.lock() {
            bar.iter().for_each(|bar| bar.inc(n));
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Ok(bar) = self.0.lock() {
            bar.iter().for_each(ProgressBar::finish_and_clear);
        }
    }
}

/// Runs a command.
///
/// # Errors
/// What went wrong, for people.
pub(super) fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Index(args) => index(&args),
        Command::ImagenetUnpack(args) => unpack(&args),
        Command::ImagenetVal(args) => validation(args),
        Command::Subset(args) => subset(&args),
        Command::Shards(args) => shards(&args),
        Command::Check(args) => check(&args),
    }
}

fn index(args: &Index) -> Result<ExitCode> {
    let data = Dataset::open(&args.source, &crate::data::options())?;
    let unlabelled = data.iter().filter(|sample| sample.class().is_none()).count();
    if args.json {
        let classes = data.classes();
        let left_out = data.left_out();
        answer!(
            "{}",
            json!({ "pictures": data.len(), "unlabelled": unlabelled, "classes": classes, "left_out": left_out })
        );
    } else {
        answer!("{} pictures, {} classes, {unlabelled} without a class", data.len(), data.classes().len());
        print_left_out(data.left_out());
    }
    Ok(ExitCode::SUCCESS)
}

fn unpack(args: &Unpack) -> Result<ExitCode> {
    let bar = Bar::default();
    let done = args.threads.run(|| prepare::imagenet_train(&args.archive, &args.out, &bar))?;
    drop(bar);
    tell!(
        "{} pictures of {} classes in `{}`; {} classes were already there",
        done.pictures,
        done.classes - done.skipped,
        args.out.display(),
        done.skipped
    );
    Ok(ExitCode::SUCCESS)
}

fn validation(args: Validation) -> Result<ExitCode> {
    let truth = match (args.ground_truth, args.annotations) {
        (Some(file), _) => Truth::List { file, synsets: args.synsets },
        (None, Some(folder)) => Truth::Annotations(folder),
        (None, None) => anyhow::bail!("no ground truth; hint: `--ground-truth` or `--annotations`"),
    };
    let bar = Bar::default();
    let done = prepare::imagenet_val(&args.source, &args.out, &truth, args.link.into(), &bar)?;
    drop(bar);
    tell!(
        "{} pictures of {} classes in `{}`; {} were already there",
        done.pictures - done.skipped,
        done.classes,
        args.out.display(),
        done.skipped
    );
    Ok(ExitCode::SUCCESS)
}

fn subset(args: &Subset) -> Result<ExitCode> {
    if let Some(list) = &args.list {
        let named = list.extension().is_some_and(|ext| ext.eq_ignore_ascii_case("txt"));
        ensure!(
            named,
            "`{}` would not be read as a list; hint: use a name that ends in .txt",
            list.display()
        );
        let inputs: Vec<&Path> =
            [Some(&args.source), args.classes.as_ref()].into_iter().flatten().map(PathBuf::as_path).collect();
        occlude_output::check(&[list], &inputs, args.force)?;
    }
    let data = crate::data::open(&args.source)?;
    let selection = Selection {
        classes: args.classes.as_deref().map(prepare::read_classes).transpose()?,
        amount: match (args.per_class, args.percent) {
            (Some(n), _) => Amount::PerClass(usize::try_from(n)?),
            (None, Some(share)) => Amount::Percent(share),
            (None, None) => Amount::All,
        },
        first: args.first,
        seed: args.seed,
    };
    let chosen = prepare::select(&data, &selection)?;
    if let Some(out) = &args.out {
        let bar = Bar::default();
        prepare::link_subset(&data, &chosen, out, args.link.into(), &bar)?;
    }
    if let Some(list) = &args.list {
        prepare::write_list(&data, &chosen, list)?;
    }
    tell!("{} of {} pictures", chosen.len(), data.len());
    Ok(ExitCode::SUCCESS)
}

fn shards(args: &Shards) -> Result<ExitCode> {
    let data = crate::data::open(&args.source)?;
    let options = PackOptions { size: args.size, shuffle: args.shuffle };
    let bar = Bar::default();
    let packed = args.threads.run(|| prepare::pack(&data, &args.out, &options, &bar))?;
    drop(bar);
    tell!(
        "{} pictures in {} shards, {:.1} MiB, in `{}`",
        packed.pictures,
        packed.shards,
        packed.bytes as f64 / f64::from(1 << 20),
        args.out.display()
    );
    Ok(ExitCode::SUCCESS)
}

fn check(args: &Check) -> Result<ExitCode> {
    let data = Dataset::open(&args.source, &crate::data::options())?;
    let other =
        args.against.as_deref().map(|path| Dataset::open(path, &crate::data::options())).transpose()?;
    let options = CheckOptions { min_side: args.min_side, min_per_class: args.min_per_class };
    let bar = Bar::default();
    let report = args.threads.run(|| prepare::check(&data, other.as_ref(), options, &bar))?;
    drop(bar);
    if args.json {
        answer!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print(&report);
    }
    Ok(if report.broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(BROKEN) })
}

fn print_left_out(left_out: &LeftOut) {
    if !left_out.is_empty() {
        answer!("{left_out}");
    }
}

/// A report for people.
fn print(report: &Report) {
    let mib = report.bytes as f64 / f64::from(1 << 20);
    answer!("{} pictures, {} classes, {mib:.1} MiB", report.pictures, report.classes);
    if report.classes > 0 && report.unlabelled > 0 {
        answer!("{} without a class", report.unlabelled);
    }
    print_left_out(&report.left_out);
    let counted = |counts: &std::collections::BTreeMap<&str, usize>| {
        counts.iter().map(|(name, n)| format!("{n} {name}")).collect::<Vec<_>>().join(", ")
    };
    answer!("formats: {}", counted(&report.formats));
    if !report.conversions.is_empty() {
        answer!("converted: {}", counted(&report.conversions));
    }
    answer!("{:<12} {:>10} {:>10} {:>10} {:>10}", "", "least", "median", "mean", "most");
    let rows = [("width", report.width), ("height", report.height), ("file bytes", report.file_bytes)];
    for (name, Spread { min, median, mean, max }) in rows.into_iter().filter_map(|(n, s)| Some((n, s?))) {
        answer!("{name:<12} {min:>10} {median:>10} {mean:>10} {max:>10}");
    }
    findings("broken", &report.broken, |b| b.reason.clone());
    findings("the same bytes", &report.duplicates, |d| {
        format!("{}{}", if d.conflicting { "in different classes: " } else { "" }, d.names.join(" = "))
    });
    findings("small", &report.small, |s| format!("{} is {}x{}", s.name, s.width, s.height));
    findings("classes with few pictures", &report.few, |f| format!("{}: {}", f.class, f.pictures));
    if let Some(against) = &report.against {
        answer!("the other data set: {} pictures, {} unreadable", against.pictures, against.unreadable);
        findings("in both", &against.shared, |s| format!("{} = {}", s.here, s.there));
    }
}

fn findings<T>(what: &str, found: &[T], line: impl Fn(&T) -> String) {
    answer!("{what}: {}", found.len());
    found.iter().take(SHOWN).for_each(|f| answer!("  {}", line(f)));
    if found.len() > SHOWN {
        answer!("  ... and {} more; `--json` has all", found.len() - SHOWN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_shares() {
        assert_eq!(size("256MiB"), Ok(256 << 20));
        assert_eq!([size("10"), size("1 kB"), size("2gb")], [Ok(10), Ok(1000), Ok(2_000_000_000)]);
        assert!(["", "MiB", "0", "1XB", "99999999999GiB", "1.5GiB"].iter().all(|text| size(text).is_err()));
        assert_eq!((percent("0.5"), percent("100")), (Ok(0.5), Ok(100.0)));
        assert!(["0", "101", "x", "NaN", "-1"].iter().all(|text| percent(text).is_err()));
    }
}
