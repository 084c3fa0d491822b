//! `occlude-serve tune`: which settings suit a model, this machine, and what it is to be good at.

mod load;
mod table;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use occlude_preprocess::AllBroken;
use occlude_preprocess::files::list;

use super::{EncoderArgs, ToolError};
use crate::config::{Limits, Provider, Sessions, Sources, cores};
use crate::inference::bulk::tell_left_out;
use crate::inference::encoder::LoadError;
use load::Client;

pub use load::Measured;
pub use table::Tuned;

/// Pictures that are read into memory, of which the clients send one after another.
const PICTURES: usize = 256;
/// Batches that are tried.
const BATCHES: [usize; 6] = [1, 2, 4, 8, 16, 32];
/// Longest waits for company that are tried, milliseconds.
const DELAYS: [u64; 4] = [1, 2, 4, 8];
/// What the first candidates have.
const USUAL: (usize, Duration) = (8, Duration::from_millis(4));

/// What the server is to be good at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Aim {
    /// The time that 99 of 100 pictures stay under.
    Latency,
    /// Pictures per second.
    Throughput,
}

impl Aim {
    /// Clients that send at once, unless told.
    fn clients(self) -> usize {
        match self {
            Self::Latency => 1,
            Self::Throughput => 32,
        }
    }

    /// Whether one measurement is better than another.
    fn better(self, one: &Measured, other: &Measured) -> bool {
        match self {
            Self::Latency => one.p99 < other.p99,
            Self::Throughput => one.rate > other.rate,
        }
    }
}

/// Flags of `occlude-serve tune`.
#[derive(Debug, Clone, Args)]
pub struct TuneArgs {
    /// Folder of pictures like those that will be sent
    pub pictures: PathBuf,
    /// What the server is to be good at
    #[arg(long = "for", value_enum, default_value_t = Aim::Throughput)]
    pub aim: Aim,
    /// Clients that send one picture after another at the same time [default: 1 for latency, 32 for throughput]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub clients: Option<u16>,
    /// Seconds that each candidate is measured
    #[arg(long, default_value_t = 4.0, value_name = "SECONDS", value_parser = seconds)]
    pub seconds: f64,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub encoder: EncoderArgs,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.01..=3600.0).contains(&value) => Ok(value),
        _ => Err("expected seconds, 0.01 to 3600".to_owned()),
    }
}

/// Settings that are tried.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// Provider, precision, sessions and their threads.
    pub sessions: Sessions,
    /// Pictures in one run of the model.
    pub max_batch: usize,
    /// Longest wait for company.
    pub max_delay: Duration,
}

/// Measures candidates one after another, from the picture files in memory to their embeddings; HTTP is left out. First
/// the provider and how threads are divided among sessions, then the batch, then the wait for company, each with the best
/// of what came before.
///
/// # Errors
/// A folder without readable pictures, a model that cannot be loaded or fails.
pub fn tune(args: &TuneArgs) -> Result<Tuned, ToolError> {
    args.encoder.sessions.check(&Sources::default())?;
    let bench = Bench {
        pictures: read(args)?,
        clients: args.clients.map_or(args.aim.clients(), usize::from),
        time: Duration::from_secs_f64(args.seconds),
        args,
    };
    let mut tuned = Tuned::new(args, bench.clients);
    for sessions in bench.divisions() {
        bench.attempt(&mut tuned, Candidate { sessions, max_batch: USUAL.0, max_delay: USUAL.1 })?;
    }
    // A lone client has no company, which a batch could be made of or waited for.
    if bench.clients > 1 {
        for max_batch in BATCHES.into_iter().filter(|n| *n <= bench.clients) {
            bench.vary(&mut tuned, |best| best.max_batch = max_batch)?;
        }
        for delay in DELAYS {
            bench.vary(&mut tuned, |best| best.max_delay = Duration::from_millis(delay))?;
        }
    }
    Ok(tuned)
}

struct Bench<'a> {
    pictures: Vec<Vec<u8>>,
    clients: usize,
    time: Duration,
    args: &'a TuneArgs,
}

impl Bench<'_> {
    /// Providers that may be there, and ways to divide the cores among sessions; given ones only where given.
    fn divisions(&self) -> Vec<Sessions> {
        let given = &self.args.encoder.sessions;
        let providers = match given.provider {
            Provider::Auto => vec![Provider::Cpu, Provider::Openvino, Provider::Cuda],
            other => vec![other],
        };
        let powers = std::iter::successors(Some(1usize), |n| n.checked_mul(2));
        let mut workers: Vec<usize> = powers.take_while(|n| *n < cores()).chain([cores()]).collect();
        workers.truncate(self.clients.max(1));
        if given.workers > 1 {
            workers = vec![given.workers];
        }
        let mut all = Vec::new();
        for provider in providers {
            // The server refuses GPUs for what runs on the CPU, and GPUs without a session.
            let on_gpus = matches!(provider, Provider::Cuda | Provider::Tensorrt);
            let devices = if on_gpus { given.devices.clone() } else { Vec::new() };
            let enough = workers.iter().copied().filter(|&workers| workers >= devices.len());
            all.extend(enough.map(|workers| Sessions {
                provider,
                workers,
                devices: devices.clone(),
                ..given.clone()
            }));
        }
        all
    }

    /// The best candidate so far with something changed, unless that was tried.
    fn vary(&self, tuned: &mut Tuned, change: impl FnOnce(&mut Candidate)) -> Result<(), ToolError> {
        let Some((mut candidate, _)) = tuned.best().cloned() else { return Ok(()) };
        change(&mut candidate);
        self.attempt(tuned, candidate)
    }

    fn attempt(&self, tuned: &mut Tuned, candidate: Candidate) -> Result<(), ToolError> {
        if tuned.has(&candidate) {
            return Ok(());
        }
        let limits = self.limits(&candidate);
        let model = match self.args.encoder.start(&candidate.sessions, &limits) {
            Ok(model) => model,
            // Nobody asked for it by name.
            Err(LoadError::Provider { provider, reason, .. })
                if self.args.encoder.sessions.provider == Provider::Auto =>
            {
                tuned.left_out(provider, reason);
                return Ok(());
            }
            Err(other) => return Err(other.into()),
        };
        let client = Client { model: &model, pictures: &self.pictures, limits: &limits };
        let measured = client.measure(self.clients, self.time)?;
        tuned.add(candidate, model.info.provider.clone(), measured);
        Ok(())
    }

    fn limits(&self, candidate: &Candidate) -> Limits {
        Limits {
            max_batch: candidate.max_batch,
            max_delay: candidate.max_delay,
            max_queue: self.clients.max(candidate.max_batch),
            ..self.args.encoder.limits()
        }
    }
}

/// The bytes of pictures that can be decoded, evenly from the folder.
fn read(args: &TuneArgs) -> Result<Vec<Vec<u8>>, ToolError> {
    let listing = list(&args.pictures)?;
    tell_left_out(&args.pictures, &listing);
    let limits = args.encoder.limits().decode();
    let all = &listing.samples;
    let wanted = all.len().min(PICTURES);
    let (mut pictures, mut first) = (Vec::with_capacity(wanted), None);
    for sample in (0..wanted).filter_map(|i| all.get(i * all.len() / wanted)) {
        match occlude_preprocess::load(&sample.path, &limits) {
            // It was read a moment ago.
            Ok(_) => pictures.extend(std::fs::read(&sample.path).ok()),
            Err(error) => {
                tracing::warn!("{error}");
                first.get_or_insert_with(|| error.to_string());
            }
        }
    }
    if pictures.is_empty() {
        let (folder, first) = (Some(args.pictures.clone()), first.unwrap_or_default());
        return Err(AllBroken { folder, count: wanted, first }.into());
    }
    Ok(pictures)
}
