//! Flags and commands.

mod contract;
mod dataset;
mod evaluate;
mod knn;
mod localise;
mod overrides;
mod profile;
mod refresh;
mod report;
mod together;
mod whiten;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::{Args, Parser, Subcommand};
use occlude_distributed::{Compression, Place, World};
use serde_json::json;

use crate::config::{Config, Recipe};
use crate::data::Speed;
use crate::device::{Choice, Precision};
use crate::engine::{self, Allow, End, OnCollapse, OnlineKnn, Run};
use crate::selftest::Stage;
use crate::{device, doctor, ranks, terminal};
use overrides::Overrides;
use together::RankArgs;

/// Pretrains image encoders without labels by masking.
///
/// Data goes to stdout, everything else to stderr. Exit codes: 0 done; 1 failed; 2 wrong usage; 3 a check found a
/// difference beyond its tolerance; 4 training collapsed and was stopped; 130, 143 or 138 stopped by SIGINT, SIGTERM
/// or SIGUSR1 after saving a checkpoint (a second signal ends it at once).
#[derive(Parser, Debug)]
#[command(name = "occlude-train", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Pretrain an encoder on a folder of pictures
    Pretrain(Box<PretrainArgs>),
    /// Measure where the time of pretraining's steps goes
    Profile(Box<profile::ProfileArgs>),
    /// Re-estimate the running statistics of a run's encoder on unmasked views, as `pretrain --bn-refresh` does at
    /// its end
    BnRefresh(refresh::RefreshArgs),
    /// Classify a validation folder by nearest neighbours, and report what pixels and an untrained encoder reach
    Knn(knn::KnnArgs),
    /// Train a linear classifier on the frozen encoder and report its accuracy on a validation folder
    Linear(Box<evaluate::LinearArgs>),
    /// Train encoder and classifier on labels, report the accuracy on a validation folder, and save the model
    Finetune(Box<evaluate::FinetuneArgs>),
    /// Measure how well saliency maps find what is known to be in pictures, beside maps that need no network
    Localise(Box<localise::LocaliseArgs>),
    /// Fit centring and whitening of a checkpoint's embeddings on unlabelled pictures, and write a checkpoint that
    /// applies them
    Whiten(whiten::WhitenArgs),
    /// Print embeddings of pictures as JSON lines
    Embed(evaluate::EmbedArgs),
    /// Show a run as one HTML page, or compare several
    Report(report::ReportArgs),
    /// Prepare and check data sets
    #[command(subcommand)]
    Dataset(dataset::Command),
    /// Report versions and devices, and what is missing
    Doctor {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Check that training on a device agrees with the CPU: run this first on a new machine
    Selftest {
        /// `cpu`, `cuda` or `cuda:N`
        #[arg(long, default_value_t = Choice::Cpu)]
        device: Choice,
        /// Run only these parts, separated by commas; default: all, and of several processes `collectives`
        #[arg(long, value_enum, value_delimiter = ',', value_name = "STAGE")]
        only: Vec<Stage>,
        #[command(flatten)]
        ranks: RankArgs,
    },
    /// Measure how many samples are loaded per second of processor time
    #[command(hide = true)]
    LoaderSpeed(SpeedArgs),
}

impl Command {
    /// Whether several processes can do it together.
    fn can_be_shared(&self) -> bool {
        matches!(
            self,
            Self::Pretrain(_)
                | Self::Knn(_)
                | Self::Linear(_)
                | Self::Finetune(_)
                | Self::Embed(_)
                | Self::Selftest { .. }
        )
    }
}

#[derive(Args, Debug)]
struct SpeedArgs {
    /// Folder of pictures
    data: PathBuf,
    /// Side of the views, pixels
    #[arg(long, default_value_t = 224)]
    image_size: usize,
    /// Pictures per batch
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u64).range(1..))]
    batch_size: u64,
    /// Decode, crop and resize only
    #[arg(long)]
    no_colours: bool,
    /// Share of the foreground that crops must hold
    #[arg(long, default_value_t = 0.0)]
    crop_foreground: f64,
    /// How long to measure, seconds
    #[arg(long, default_value_t = 8)]
    seconds: u64,
}

/// Where and how fast, never what.
#[derive(Args, Debug, Clone)]
struct Machine {
    /// `auto`, `cpu`, `cuda` or `cuda:N`; `auto` uses CUDA if available
    #[arg(long, default_value_t = Choice::Auto)]
    device: Choice,
    /// Threads that decode pictures; default: the number of processors, divided among the processes of a machine that
    /// work together
    #[arg(long)]
    workers: Option<usize>,
    /// Threads of libtorch on the CPU; default: libtorch's choice
    #[arg(long)]
    threads: Option<i32>,
}

impl Machine {
    fn workers(&self) -> usize {
        self.workers_beside(1)
    }

    /// Of one of so many processes on this machine.
    fn workers_beside(&self, processes: usize) -> usize {
        let all = || std::thread::available_parallelism().map_or(1, usize::from) / processes.max(1);
        self.workers.unwrap_or_else(all).max(1)
    }

    fn apply(&self) {
        if let Some(n) = self.threads {
            tch::set_num_threads(n.max(1));
        }
    }
}

#[derive(Args, Debug)]
struct PretrainArgs {
    /// Folder of pictures, flat or with sub-folders; list of paths (.txt); or tar shards, also in a bucket, like
    /// `s3://photos/train` (labels are not used)
    data: PathBuf,
    /// Named hyper-parameters; the flags below override them
    #[arg(long, value_enum)]
    recipe: Recipe,
    /// Folder of the run: checkpoints, `config.json`, `metrics.jsonl`, pictures
    #[arg(long, default_value = "runs/pretrain")]
    out: PathBuf,
    /// Print the resolved configuration as JSON and stop
    #[arg(long)]
    show_config: bool,
    /// Continue the run in `--out`, or from this checkpoint
    #[arg(long, num_args = 0..=1, value_name = "CHECKPOINT")]
    resume: Option<Option<PathBuf>>,
    /// With `--resume`: continue with the next epoch even if the pictures are not those that the checkpoint was
    /// trained on
    #[arg(long, requires = "resume")]
    allow_changed_data: bool,
    /// With `--resume` and a larger `--epochs`: continue on the learning-rate schedule of that many epochs
    #[arg(long, requires = "resume")]
    allow_more_epochs: bool,
    /// Epochs between checkpoints that are kept; the last epoch always has one
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    save_every: u64,
    /// Maximum minutes between checkpoints to resume from (each replaces the one before); every epoch ends with one
    #[arg(long, default_value_t = 10.0)]
    save_minutes: f64,
    /// What to do when training has collapsed or diverged, or the accuracy fell by more than `--max-drop`
    #[arg(long, value_enum, default_value = "rollback")]
    on_collapse: OnCollapse,
    /// Points of nearest-neighbour accuracy that the encoder may fall below its best; default: 1 with `--init`, else
    /// any number
    #[arg(long, value_name = "POINTS", requires = "knn_val", value_parser = points)]
    max_drop: Option<f64>,
    /// Held-out folder with one sub-folder per class, for nearest-neighbour accuracy during training
    #[arg(long, value_name = "DIR")]
    knn_val: Option<PathBuf>,
    /// Folder with the same classes, whose pictures are the neighbours; default: the training data
    #[arg(long, value_name = "DIR", requires = "knn_val")]
    knn_train: Option<PathBuf>,
    /// Epochs between measurements of this accuracy
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    knn_every: u64,
    /// Maximum number of pictures of each folder for this accuracy
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    knn_limit: u64,
    /// Batches of unmasked views, at most an epoch of them, over which the running statistics of the finished encoder
    /// are re-estimated; 0: they stay. Default: 100 if the encoder that is trained sees masked views, else 0.
    /// `--resume` continues with those of training
    #[arg(long, value_name = "N")]
    bn_refresh: Option<usize>,
    /// Folder that caches the teacher's embeddings, so that it sees each picture once; default: `teacher` beside the
    /// indices of data sets (docs/data.md)
    #[arg(long, value_name = "DIR")]
    teacher_cache: Option<PathBuf>,
    /// Use deterministic algorithms only, also on CUDA, where they are slower
    #[arg(long)]
    deterministic: bool,
    /// Steps between metric lines
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    log_every: u64,
    /// Decoded pictures to keep in memory, MiB; 0 decodes every picture every epoch
    #[arg(long, default_value_t = 2048)]
    cache: u64,
    /// Number format of convolutions and matrix products
    #[arg(long, value_enum, default_value = "auto")]
    precision: Precision,
    #[command(flatten)]
    ranks: RankArgs,
    /// Number format in which gradients travel between processes that train together; half precision halves the
    /// bytes (docs/cluster.md)
    #[arg(long, value_enum, default_value = "none", value_name = "FORMAT")]
    comm_hook: CommHook,
    /// Stop after that many steps with a checkpoint, as a signal would (to test resuming)
    #[arg(long, hide = true)]
    stop_after: Option<u64>,
    #[command(flatten)]
    machine: Machine,
    #[command(flatten)]
    overrides: Overrides,
}

/// `--comm-hook`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum CommHook {
    /// float32
    None,
    /// float16: as PyTorch's `fp16_compress_hook`
    Fp16,
    /// bfloat16: less precise, never infinite
    Bf16,
}

impl From<CommHook> for Compression {
    fn from(hook: CommHook) -> Self {
        match hook {
            CommHook::None => Self::None,
            CommHook::Fp16 => Self::Fp16,
            CommHook::Bf16 => Self::Bf16,
        }
    }
}

/// Runs a command.
///
/// # Errors
/// What went wrong, for people.
pub fn run(cli: Cli) -> Result<ExitCode> {
    let place = Place::from_env().ok().flatten();
    if place.as_ref().is_some_and(|place| place.rank > 0) {
        terminal::be_quiet();
    }
    if !cli.command.can_be_shared()
        && let Some(place) = place
    {
        // they would all do the same, and write the same files
        ensure!(
            place.rank > 0,
            "this command works in one process, and this is one of {}; hint: start it once, without `torchrun` or with `srun --ntasks 1` (`pretrain`, `knn`, `linear`, `finetune`, `embed` and `selftest` work in several)",
            place.size
        );
        return Ok(ExitCode::FAILURE);
    }
    match cli.command {
        Command::Pretrain(args) => pretrain(*args),
        Command::Profile(args) => profile::run(*args),
        Command::BnRefresh(args) => refresh::run(args),
        Command::Knn(args) => knn::knn(&args),
        Command::Linear(args) => evaluate::linear(&args),
        Command::Finetune(args) => evaluate::finetune(&args),
        Command::Localise(args) => localise::localise(&args),
        Command::Whiten(args) => whiten::whiten(&args),
        Command::Embed(args) => evaluate::embed(&args),
        Command::Report(args) => report::run(&args),
        Command::Dataset(command) => dataset::run(command),
        Command::Doctor { json } => Ok(doctor::run(json)),
        Command::Selftest { device, only, ranks } => together::selftest(device, &ranks, &only),
        Command::LoaderSpeed(args) => loader_speed(&args),
    }
}

/// Points that an encoder which another run learnt may lose, where nothing is said: about one standard error of
/// half-right answers on two thousand pictures.
const MAX_DROP: f64 = 1.0;

/// How far accuracy may fall, from 0 to 1: what was asked for, or the default of a run from another encoder.
fn max_drop(asked: Option<f64>, config: &Config, measured: bool) -> Option<f64> {
    let usual = (config.beginning.is_some() && measured).then_some(MAX_DROP);
    asked.or(usual).map(|points| points / 100.0)
}

fn points(text: &str) -> std::result::Result<f64, String> {
    match text.parse() {
        Ok(points) if (0.0..=100.0).contains(&points) => Ok(points),
        _ => Err("expected points of accuracy from 0 to 100".into()),
    }
}

/// A file that flags name and that cannot be used: the flags make sense, and the job has failed.
#[derive(Debug)]
struct Unusable(anyhow::Error);

impl std::fmt::Display for Unusable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#}", self.0)
    }
}

impl std::error::Error for Unusable {}

/// The exit code of flags that give no configuration: a wrong combination of them is wrong usage, like a wrong flag.
fn refused(error: &anyhow::Error) -> Result<ExitCode> {
    tell!("error: {error:#}");
    Ok(ExitCode::from(if error.is::<Unusable>() { 1 } else { 2 }))
}

fn pretrain(args: PretrainArgs) -> Result<ExitCode> {
    let place = Place::from_env()?;
    let config = match args.overrides.resolve(args.recipe) {
        Ok(config) => config,
        Err(error) => return refused(&error),
    };
    if let (Some(batches @ 1..), Err(error)) = (args.bn_refresh, config.can_refresh()) {
        tell!("error: `--bn-refresh {batches}`: {error}; hint: leave it out");
        return Ok(ExitCode::from(2));
    }
    config.warnings().iter().for_each(|warning| tell!("warning: {warning}"));
    if args.show_config {
        if !terminal::is_quiet() {
            answer!("{}", serde_json::to_string_pretty(&config.resolved()?)?);
        }
        return Ok(ExitCode::SUCCESS);
    }
    if config.method.lacks_teacher() {
        tell!(
            "error: `--recipe {}` has nothing to learn from; hint: `--teacher MODEL` or `--targets EMBEDDINGS.parquet`",
            config.recipe.name()
        );
        return Ok(ExitCode::from(2));
    }
    if args.deterministic {
        device::be_deterministic();
    }
    let choice = args.machine.device;
    let device = place.as_ref().map_or(choice, |place| choice.of_rank(place.local_rank)).resolve()?;
    args.machine.apply();
    if !args.deterministic {
        device::prepare(device);
    }
    let beside = place.as_ref().map_or(1, |place| place.local_size);
    // Before the ranks meet: none has written anything yet, so all decide alike.
    let resume = args.resume.map(|path| path.unwrap_or_else(|| args.out.clone()));
    let resume = resume.or_else(|| place.as_ref().and_then(|place| restarted(place, &args.out)));
    let timeout = args.ranks.timeout();
    let world = place.map_or_else(|| Ok(World::single()), |place| World::join(place, timeout, device))?;
    let (every, limit) = (args.knn_every as usize, args.knn_limit as usize);
    let run = Run {
        data: args.data,
        device,
        bf16: args.precision.bf16(device),
        workers: args.machine.workers_beside(beside),
        save_every: args.save_every as usize,
        save_interval: Duration::from_secs_f64((args.save_minutes * 60.0).clamp(0.0, 1e9)),
        on_collapse: args.on_collapse,
        max_drop: max_drop(args.max_drop, &config, args.knn_val.is_some()),
        online: args.knn_val.map(|val| OnlineKnn { val, train: args.knn_train, every, limit }),
        log_every: args.log_every as usize,
        cache_bytes: args.cache << 20,
        teacher_cache: args.teacher_cache,
        resume,
        allow: Allow { changed_data: args.allow_changed_data, more_epochs: args.allow_more_epochs },
        bn_refresh: args.bn_refresh.unwrap_or_else(|| {
            if config.masks_queries() && config.can_refresh().is_ok() { engine::BATCHES } else { 0 }
        }),
        world,
        compression: args.comm_hook.into(),
        stop_after: args.stop_after,
        out: args.out,
    };
    tell!(
        "{} on {device:?}{}, {}, {} at {} px",
        config.recipe.name(),
        processes(&run.world),
        if run.bf16 { "bfloat16" } else { "float32" },
        config.arch,
        config.image_size
    );
    let ended = match engine::pretrain(&config, &run) {
        Err(error) if !run.world.is_single() => ranks::end(&run.world, &error),
        ended => ended?,
    };
    match ended {
        End::Finished => Ok(ExitCode::SUCCESS),
        End::Interrupted(0) => Ok(ExitCode::SUCCESS),
        End::Collapsed => Ok(ExitCode::from(4)),
        End::Interrupted(signal) => Ok(ExitCode::from(128 + signal as u8)),
    }
}

/// How many processes there are, where there are several.
fn processes(world: &World) -> String {
    if world.size() == 1 { String::new() } else { format!(", {} processes", world.size()) }
}

/// What a run that torchrun has started again goes on with, without being told to.
fn restarted(place: &Place, out: &Path) -> Option<PathBuf> {
    (place.attempt > 0 && out.join("last").exists()).then(|| {
        tell!("torchrun restarted the processes (attempt {}): resuming `{}`", place.attempt, out.display());
        out.to_owned()
    })
}

fn loader_speed(args: &SpeedArgs) -> Result<ExitCode> {
    // threads that wait for each other would count
    tch::set_num_threads(1);
    let speed = Speed {
        size: args.image_size,
        batch_size: args.batch_size as usize,
        colours: !args.no_colours,
        crop_foreground: args.crop_foreground,
        time: Duration::from_secs(args.seconds),
    };
    answer!("{}", json!({ "samples_per_s": speed.measure(&args.data)? }));
    Ok(ExitCode::SUCCESS)
}

/// The configuration that flags of `pretrain` give, for tests.
#[cfg(test)]
fn resolved(flags: &str) -> Result<Config> {
    let line = ["occlude-train", "pretrain", "data"].into_iter().chain(flags.split_whitespace());
    match Cli::try_parse_from(line)?.command {
        Command::Pretrain(args) => args.overrides.resolve(args.recipe),
        _ => anyhow::bail!("another command"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_may_have_changed_belongs_to_resuming() {
        for flag in ["--allow-changed-data", "--allow-more-epochs"] {
            let parse = |more: &[&str]| {
                let line = ["occlude-train", "pretrain", "x", "--recipe", "moco-v2", flag];
                Cli::try_parse_from(line.iter().chain(more))
            };
            assert!(parse(&[]).expect_err("refused").to_string().contains("--resume"));
            let Command::Pretrain(args) = parse(&["--resume"]).expect("valid").command else {
                panic!("another command")
            };
            assert_ne!(args.allow_changed_data, args.allow_more_epochs);
        }
    }
}
