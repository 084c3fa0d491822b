//! Ten times as many requests as the server can answer: it answers what it takes in, refuses the rest at once, and neither
//! grows nor suffers afterwards. Once as it is, and once with a bound on the wait.

use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::wire::{Reply, Wire, ask_all, request};
use super::{Better, Figure, peer, proc};
use crate::server::{Server, free_port};
use crate::{paths, sh};

/// How much too much.
const TIMES: f64 = 10.0;
const SECONDS: f64 = 60.0;
/// The bound on the wait, of the time of a queue at the mean rate: encoding and answering come on top.
const WAIT: f64 = 0.85;
/// The same over gRPC.
const GRPC_SECONDS: f64 = 30.0;
/// After which memory may not grow any more.
const SETTLED: Duration = Duration::from_secs(10);
/// The server's `--max-queue`.
const QUEUE: usize = 128;
/// The server's `--max-batch`.
const BATCH: usize = 8;
/// As many as the queue holds wait; the others go on knocking.
const CONNECTIONS: usize = QUEUE + 64;
/// Connections that measure the rate before and after.
const CLIENTS: usize = 32;
/// Seconds of measuring it, and how often; the median counts.
const MEASURE: (f64, usize) = (3.0, 5);
/// Least share of the rate before that must be there afterwards: other work on the machine takes some.
const BACK: f64 = 0.85;
/// Least share of the requests that must really have been sent.
const OFFERED: f64 = 0.9;
/// Growth of memory that is noise: a share, and MiB.
const GROWTH: (f64, f64) = (1.05, 8.0);

/// A model with the pictures for it.
struct Case {
    name: &'static str,
    checkpoint: &'static str,
    side: &'static str,
    pictures: &'static str,
    /// Whether a client in Python can send ten times the rate.
    over_grpc: bool,
}

const CASES: [Case; 2] = [
    Case {
        name: "ResNet-18 at 64 px",
        checkpoint: "resnet18.safetensors",
        side: "64",
        pictures: "small",
        over_grpc: false,
    },
    Case {
        name: "ResNet-50 at 224 px",
        checkpoint: "resnet50.safetensors",
        side: "224",
        pictures: "large",
        over_grpc: true,
    },
];

pub(super) fn run(folder: &Path) -> Result<Vec<Figure>> {
    peer(include_str!("load_inputs.py"), &[folder])?;
    let mut figures = Vec::new();
    for case in &CASES {
        let mut storm = |name: &str, max_wait: Option<f64>| -> Result<Found> {
            let found = one(folder, case, max_wait).with_context(|| name.to_owned())?;
            let measured = found.figures(name);
            if let Err(broken) = found.check() {
                super::print(&measured);
                return Err(broken.context(name.to_owned()));
            }
            figures.extend(measured);
            Ok(found)
        };
        let free = storm(case.name, None)?;
        let wait = WAIT * QUEUE as f64 / free.storm.rate();
        storm(&format!("{}, --max-wait {wait:.2}", case.name), Some(wait))?;
        if case.over_grpc {
            figures.extend(over_grpc(folder, case, free.before, wait)?);
        }
    }
    Ok(figures)
}

/// The same over HTTP/2, by Triton's messages, from one process with as many calls at once.
fn over_grpc(folder: &Path, case: &Case, rate: f64, wait: f64) -> Result<Vec<Figure>> {
    let name = format!("{}, gRPC, --max-wait {wait:.2}", case.name);
    let model = export(folder, case.checkpoint, case.side)?;
    let port = free_port()?.to_string();
    let (queue, batch, most_wait) = (QUEUE.to_string(), BATCH.to_string(), format!("{wait:.3}s"));
    let flags =
        ["--max-queue", &queue, "--max-batch", &batch, "--max-wait", &most_wait, "--grpc-port", &port];
    let mut server = Server::start(&model, None, &flags, &folder.join("grpc.log"))?;
    let [address, rate, seconds, most] = [
        format!("127.0.0.1:{port}"),
        (rate * TIMES).to_string(),
        GRPC_SECONDS.to_string(),
        CONNECTIONS.to_string(),
    ];
    let pictures = folder.join(case.pictures);
    let served = model.file_stem().unwrap_or_default().to_os_string();
    let arguments = [
        Path::new(&address),
        Path::new(&served),
        &pictures,
        Path::new(&rate),
        Path::new(&seconds),
        Path::new(&most),
    ];
    let answer = peer(include_str!("overload_grpc.py"), &arguments)?;
    server.alive()?;
    server.stop()?;
    let list = |key: &str| answer[key].as_array().cloned().unwrap_or_default();
    let numbers = |key: &str| list(key).iter().filter_map(serde_json::Value::as_f64).collect::<Vec<_>>();
    let (accepted, refused, odd) = (numbers("accepted"), numbers("refused"), list("odd"));
    println!("  {name}: {} accepted, {} refused, {} other answers", accepted.len(), refused.len(), odd.len());
    ensure!(odd.is_empty(), "{name}: {} calls ended otherwise, such as: {}", odd.len(), odd[0]);
    ensure!(!accepted.is_empty() && !refused.is_empty(), "{name}: nothing was accepted or nothing refused");
    let bound = waited(wait, accepted.len() as f64 / super::number(&answer, "seconds")?);
    let p99 = quantile(&accepted, 0.99);
    ensure!(p99 <= bound, "{name}: p99 of the accepted is {p99:.2} s, its bound {bound:.2} s");
    let what = format!("{name}: p99 of the accepted; peer: its bound");
    Ok(vec![Figure { what, unit: "s", ours: p99, peer: bound, better: Better::Lower }])
}

/// The model of a checkpoint for pictures of this side.
pub(super) fn export(folder: &Path, checkpoint: &str, side: &str) -> Result<PathBuf> {
    let model = folder.join(checkpoint).with_extension("onnx");
    let mut command = sh::command(paths::tool("occlude-export"));
    command.arg("onnx").arg(folder.join(checkpoint)).arg(&model).args(["--force", "--image-size", side]);
    sh::capture(&mut command)?;
    Ok(model)
}

fn one(folder: &Path, case: &Case, max_wait: Option<f64>) -> Result<Found> {
    let model = export(folder, case.checkpoint, case.side)?;
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(folder.join(case.pictures))? {
        files.push(entry?.path());
    }
    files.sort();
    let kind = [("content-type", "application/octet-stream")];
    let requests: Vec<Vec<u8>> = files
        .iter()
        .map(|path| Ok(request("/v1/embed", &kind, &std::fs::read(path)?)))
        .collect::<Result<_>>()?;
    let (queue, batch) = (QUEUE.to_string(), BATCH.to_string());
    let wait = max_wait.map(|seconds| format!("{seconds:.3}s"));
    let mut flags = vec!["--max-queue", &queue, "--max-batch", &batch];
    flags.extend(wait.iter().flat_map(|wait| ["--max-wait", wait]));
    let mut server = Server::start(&model, None, &flags, &folder.join(format!("{}.log", case.pictures)))?;
    let before = rate(&server.url, &requests)?;
    let (storm, memory) = storm(&server, &requests, before)?;
    server.alive()?;
    let after = rate(&server.url, &requests)?;
    server.stop()?;
    Ok(Found { before, after, storm, memory, max_wait })
}

/// Images/s of a full server.
fn rate(url: &str, requests: &[Vec<u8>]) -> Result<f64> {
    let timed = |count: usize| -> Result<f64> {
        let start = Instant::now();
        ask_all(url, requests, CLIENTS, count)?;
        Ok(count as f64 / start.elapsed().as_secs_f64())
    };
    let about = timed(2 * CLIENTS)?;
    let count = ((about * MEASURE.0) as usize).max(2 * CLIENTS);
    let mut rates = (0..MEASURE.1).map(|_| timed(count)).collect::<Result<Vec<_>>>()?;
    rates.sort_by(f64::total_cmp);
    Ok(rates[MEASURE.1 / 2])
}

/// What one connection saw.
#[derive(Default)]
struct Storm {
    /// Seconds from sending to the whole answer of those that were taken in.
    accepted: Vec<f64>,
    /// Likewise, of those that were refused.
    refused: Vec<f64>,
    /// When the former were answered.
    answered: Vec<Instant>,
    /// What must not be: other statuses, refusals without `Retry-After`, connections that ended without an answer.
    odd: Vec<String>,
    /// Until the last answer.
    seconds: f64,
}

impl Storm {
    fn add(&mut self, sent: Instant, answer: std::io::Result<Reply>) {
        let seconds = sent.elapsed().as_secs_f64();
        match answer {
            Ok(reply) if reply.status == 200 => {
                self.accepted.push(seconds);
                self.answered.push(Instant::now());
            }
            Ok(reply) if reply.status == 429 && reply.header("retry-after").is_some_and(positive) => {
                self.refused.push(seconds);
            }
            Ok(reply) => self.odd.push(format!("{} {}", reply.status, String::from_utf8_lossy(&reply.body))),
            Err(error) => self.odd.push(error.to_string()),
        }
    }

    fn join(mut self, other: Self) -> Self {
        self.accepted.extend(other.accepted);
        self.refused.extend(other.refused);
        self.answered.extend(other.answered);
        self.odd.extend(other.odd);
        self
    }

    /// Requests a second while they were sent.
    fn offered(&self) -> f64 {
        (self.accepted.len() + self.refused.len() + self.odd.len()) as f64 / SECONDS
    }

    /// Images/s while it lasted.
    fn rate(&self) -> f64 {
        self.accepted.len() as f64 / self.seconds
    }
}

fn positive(text: &str) -> bool {
    text.parse::<u64>().is_ok_and(|n| n > 0)
}

/// Sends at [`TIMES`] the rate, whatever the answers say, for [`SECONDS`]; and the server's memory meanwhile.
fn storm(server: &Server, requests: &[Vec<u8>], rate: f64) -> Result<(Storm, Vec<(Duration, u64)>)> {
    let (next, ended) = (AtomicUsize::new(0), AtomicBool::new(false));
    let pause = 1.0 / (rate * TIMES);
    let start = Instant::now();
    let knock = || -> Result<Storm> {
        let (mut storm, mut wire) = (Storm::default(), Wire::new(&server.url)?);
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let due = i as f64 * pause;
            if due >= SECONDS || start.elapsed().as_secs_f64() >= SECONDS {
                return Ok(storm);
            }
            thread::sleep(Duration::from_secs_f64(due).saturating_sub(start.elapsed()));
            let sent = Instant::now();
            let answer = wire.ask(&requests[i % requests.len()]);
            storm.add(sent, answer);
        }
    };
    let watch = || -> Result<Vec<(Duration, u64)>> {
        let mut memory = Vec::new();
        while !ended.load(Ordering::Relaxed) {
            memory.push((start.elapsed(), proc::resident(server.id())?));
            thread::sleep(Duration::from_millis(250));
        }
        Ok(memory)
    };
    thread::scope(|scope| {
        let watching = scope.spawn(watch);
        let knocking: Vec<_> = (0..CONNECTIONS).map(|_| scope.spawn(knock)).collect();
        let seen = knocking.into_iter().map(|k| k.join().unwrap_or_else(|e| std::panic::resume_unwind(e)));
        let seen = seen.collect::<Result<Vec<Storm>>>();
        ended.store(true, Ordering::Relaxed);
        let memory = watching.join().unwrap_or_else(|e| std::panic::resume_unwind(e))?;
        let mut storm = seen?.into_iter().fold(Storm::default(), Storm::join);
        storm.seconds = start.elapsed().as_secs_f64();
        Ok((storm, memory))
    })
}

/// All that was measured of one model.
struct Found {
    before: f64,
    after: f64,
    storm: Storm,
    /// When, and the bytes in memory then.
    memory: Vec<(Duration, u64)>,
    /// The server's `--max-wait`.
    max_wait: Option<f64>,
}

impl Found {
    /// Seconds that the last picture of a full queue waits at the mean rate: the queue, and the batch that it is in.
    fn bound(&self) -> f64 {
        (QUEUE + BATCH) as f64 / self.storm.rate()
    }

    /// Likewise at the rates that there really were: in 99 of 100 cases, so many pictures were answered in this time.
    fn bound99(&self) -> f64 {
        let mut answered = self.storm.answered.clone();
        answered.sort();
        let spans = answered.iter().zip(answered.iter().skip(QUEUE + BATCH));
        let spans: Vec<f64> = spans.map(|(first, last)| (*last - *first).as_secs_f64()).collect();
        quantile(&spans, 0.99)
    }

    /// What the p99 of the accepted must not exceed.
    fn limit(&self) -> f64 {
        self.max_wait.map_or_else(|| self.bound99(), |wait| waited(wait, self.storm.rate()))
    }

    /// Largest MiB in memory while the storm settled, and afterwards.
    fn megabytes(&self) -> (f64, f64) {
        let most = |late: bool| {
            let some = self.memory.iter().filter(|(at, _)| (*at > SETTLED) == late);
            some.map(|(_, bytes)| *bytes).max().unwrap_or(0) as f64 / f64::from(1 << 20)
        };
        (most(false), most(true))
    }

    fn figures(&self, name: &str) -> Vec<Figure> {
        let storm = &self.storm;
        let figure = |what: &str, unit, ours, peer, better| Figure {
            what: format!("{name}: {what}"),
            unit,
            ours,
            peer,
            better,
        };
        let (first, late) = self.megabytes();
        println!(
            "  {name}: {} accepted, {} refused with a `Retry-After`, {} other answers",
            storm.accepted.len(),
            storm.refused.len(),
            storm.odd.len()
        );
        vec![
            figure("offered; peer: the rate before", "1/s", storm.offered(), self.before, Better::Higher),
            figure(
                "p50 of the accepted; peer: queue's bound",
                "s",
                quantile(&storm.accepted, 0.5),
                self.bound(),
                Better::Lower,
            ),
            figure(
                "p99 of the accepted; peer: queue's bound",
                "s",
                quantile(&storm.accepted, 0.99),
                self.limit(),
                Better::Lower,
            ),
            figure(
                "p99 of the refused; peer: of the accepted",
                "s",
                quantile(&storm.refused, 0.99),
                quantile(&storm.accepted, 0.99),
                Better::Lower,
            ),
            figure("rate meanwhile; peer: before", "1/s", storm.rate(), self.before, Better::Higher),
            figure("rate afterwards; peer: before", "1/s", self.after, self.before, Better::Higher),
            figure("memory; peer: in the first 10 s", "MiB", late, first, Better::Lower),
        ]
    }

    fn check(&self) -> Result<()> {
        let storm = &self.storm;
        let odd = storm.odd.first().map_or("", String::as_str);
        ensure!(storm.odd.is_empty(), "{} answers were neither 200 nor 429, such as: {odd}", storm.odd.len());
        ensure!(
            !storm.accepted.is_empty() && !storm.refused.is_empty(),
            "nothing was accepted or nothing refused"
        );
        let (offered, meant) = (storm.offered(), self.before * TIMES);
        ensure!(offered >= OFFERED * meant, "only {offered:.0} of {meant:.0} requests a second were sent");
        let (p99, bound) = (quantile(&storm.accepted, 0.99), self.limit());
        ensure!(p99 <= bound, "p99 of the accepted is {p99:.2} s, the queue's bound {bound:.2} s");
        let (first, late) = self.megabytes();
        ensure!(late <= first * GROWTH.0 + GROWTH.1, "memory grew from {first:.0} to {late:.0} MiB");
        let (before, after) = (self.before, self.after);
        ensure!(after >= BACK * before, "{after:.1} images/s afterwards, {before:.1} before");
        Ok(())
    }
}

/// Seconds until an answer at most, of what waits no longer than `wait`: the batch that is being encoded when it is taken, and
/// its own, come on top.
fn waited(wait: f64, rate: f64) -> f64 {
    wait + (2 * BATCH) as f64 / rate
}

/// The value below which this share of them lies.
pub(super) fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * share).ceil() as usize).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles() {
        let values: Vec<f64> = (0..=100).rev().map(f64::from).collect();
        assert_eq!([0.0, 0.5, 0.99, 1.0].map(|q| quantile(&values, q)), [0.0, 50.0, 99.0, 100.0]);
        assert!(quantile(&[], 0.5).is_nan());
    }

    fn found() -> Found {
        let start = Instant::now();
        let answered = (0..600).map(|i| start + Duration::from_millis(100 * i)).collect();
        let (accepted, refused) = (vec![0.1; 600], vec![0.001; 5400]);
        let storm = Storm { accepted, refused, answered, odd: vec![], seconds: 60.0 };
        let at = |seconds, mib: u64| (Duration::from_secs(seconds), mib << 20);
        Found {
            before: 10.0,
            after: 10.0,
            storm,
            memory: vec![at(1, 100), at(5, 120), at(20, 121)],
            max_wait: None,
        }
    }

    #[test]
    fn every_condition_can_fail() {
        found().check().unwrap();
        let fails = |change: fn(&mut Found)| {
            let mut found = found();
            change(&mut found);
            assert!(found.check().is_err());
        };
        fails(|f| f.storm.odd.push("500".into()));
        fails(|f| f.storm.refused.clear());
        fails(|f| f.storm.refused.truncate(4000));
        fails(|f| f.storm.accepted.extend([14.0; 10]));
        fails(|f| (f.max_wait, f.storm.accepted) = (Some(1.0), vec![2.7; 600]));
        fails(|f| f.memory.push((Duration::from_secs(30), 140 << 20)));
        fails(|f| f.after = 8.0);
    }

    #[test]
    fn a_refusal_has_to_say_when_to_come_back() {
        let reply = |status, head: &str| Ok(Reply { status, head: head.into(), body: vec![] });
        let mut storm = Storm::default();
        storm.add(Instant::now(), reply(429, "retry-after: 3"));
        storm.add(Instant::now(), reply(429, ""));
        storm.add(Instant::now(), reply(429, "retry-after: 0"));
        storm.add(Instant::now(), reply(200, ""));
        storm.add(Instant::now(), reply(503, ""));
        assert_eq!((storm.accepted.len(), storm.refused.len(), storm.odd.len()), (1, 1, 3));
    }
}
