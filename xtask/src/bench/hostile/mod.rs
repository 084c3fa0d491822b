//! Ten thousand requests, five in a hundred of them hostile: the server does not die, does not leak, and answers every
//! ordinary request exactly as it does alone.

mod attacks;
mod benign;
mod dice;

use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use self::attacks::{Arsenal, Attack};
use self::benign::{Benign, Picture};
use self::dice::Dice;
use super::wire::Wire;
use super::{Better, Figure, overload, peer, proc};
use crate::server::Server;

const REQUESTS: usize = 10_000;
/// One in so many is hostile.
const HOSTILE: usize = 20;
const CLIENTS: usize = 24;
const SEED: u64 = 5;
/// Growth of memory over the second half that is noise: a share, and MiB.
const GROWTH: (f64, f64) = (1.10, 16.0);
/// Longest wait for the server to be at rest again.
const REST: Duration = Duration::from_secs(30);

enum Request {
    Benign(Benign),
    Hostile(Attack),
}

/// What came of a number of requests.
#[derive(Default)]
struct Outcome {
    benign: usize,
    /// Number of attacks, and what came of them, by kind.
    hostile: BTreeMap<&'static str, (usize, BTreeMap<String, usize>)>,
    wrong: Vec<String>,
    /// Largest difference of an embedding.
    off: f64,
}

pub(super) fn run(folder: &Path) -> Result<Vec<Figure>> {
    peer(include_str!("../load_inputs.py"), &[folder])?;
    let model = overload::export(folder, "resnet18.safetensors", "64")?;
    let data = folder.join("collections");
    let flags = ["--read-timeout", "2", "--keep-alive-timeout", "2", "--data", &data.to_string_lossy()];
    let mut server = Server::start(&model, None, &flags, &folder.join("serve.log"))?;
    let pictures = benign::pictures(&folder.join("small"), &server.url)?;
    let arsenal = Arsenal::load(&folder.join("hostile"))?;
    let mut dice = Dice::new(SEED);
    let mut outcome = Outcome::default();

    // Everything once: what the server keeps for good it has then.
    let all = Attack::each(&mut dice, &arsenal, &pictures).into_iter().map(Request::Hostile);
    let all: Vec<_> = all.collect();
    let ordinary = (0..500).map(|_| Request::Benign(Benign::throw(&mut dice, &pictures)));
    send(&server, &pictures, &all.into_iter().chain(ordinary).collect::<Vec<_>>(), &mut outcome)?;
    let mut levels = vec![level(&mut server)?];
    let begun = Instant::now();
    for _ in 0..2 {
        let plan: Vec<_> = (0..REQUESTS / 2).map(|_| throw(&mut dice, &arsenal, &pictures)).collect();
        send(&server, &pictures, &plan, &mut outcome)?;
        levels.push(level(&mut server)?);
    }
    let seconds = begun.elapsed().as_secs_f64();
    server.stop()?;
    outcome.print(seconds);
    let figures = figures(&levels);
    if let Err(broken) = judge(&outcome, &levels) {
        super::print(&figures);
        return Err(broken);
    }
    Ok(figures)
}

/// The next request; every one of them follows from the seed.
fn throw(dice: &mut Dice, arsenal: &Arsenal, pictures: &[Picture]) -> Request {
    match dice.below(HOSTILE) {
        0 => Request::Hostile(Attack::throw(dice, arsenal, pictures)),
        _ => Request::Benign(Benign::throw(dice, pictures)),
    }
}

/// Sends all of them from [`CLIENTS`] threads.
fn send(server: &Server, pictures: &[Picture], plan: &[Request], outcome: &mut Outcome) -> Result<()> {
    let (next, shared) = (AtomicUsize::new(0), Mutex::new(outcome));
    let work = || -> Result<()> {
        let mut wire = Wire::new(&server.url)?;
        while let Some(request) = plan.get(next.fetch_add(1, Ordering::Relaxed)) {
            let index = next.load(Ordering::Relaxed);
            match request {
                Request::Benign(benign) => {
                    let found = wire.ask(&benign.bytes).context("no answer");
                    let found = found.and_then(|reply| benign.check(&reply, pictures));
                    lock(&shared).benign(index, found);
                }
                Request::Hostile(attack) => {
                    let found = attack.send(wire.address());
                    lock(&shared).hostile(attack, &found);
                }
            }
        }
        Ok(())
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(work)).collect();
        clients
            .into_iter()
            .try_for_each(|client| client.join().unwrap_or_else(|e| std::panic::resume_unwind(e)))
    })
}

fn lock<'a, T>(shared: &'a Mutex<T>) -> std::sync::MutexGuard<'a, T> {
    shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Outcome {
    fn benign(&mut self, index: usize, found: Result<f64>) {
        self.benign += 1;
        match found {
            Ok(off) => self.off = self.off.max(off),
            Err(error) => self.wrong.push(format!("ordinary request near {index}: {error:#}")),
        }
    }

    fn hostile(&mut self, attack: &Attack, found: &std::io::Result<Vec<u16>>) {
        let (text, wrong) = match found {
            Ok(statuses) if statuses.is_empty() => ("closed".to_owned(), attack.wrong(statuses)),
            Ok(statuses) => {
                let last = statuses.last().map_or(String::new(), u16::to_string);
                (last, attack.wrong(statuses))
            }
            Err(error) => ("no end".to_owned(), Some(error.to_string())),
        };
        let row = self.hostile.entry(attack.kind).or_default();
        row.0 += 1;
        *row.1.entry(text).or_default() += 1;
        if let Some(wrong) = wrong {
            let start = attack.bytes.get(..attack.bytes.len().min(160)).unwrap_or_default();
            self.wrong.push(format!("{}: {wrong}; it began `{}`", attack.kind, start.escape_ascii()));
        }
    }

    fn attacks(&self) -> usize {
        self.hostile.values().map(|row| row.0).sum()
    }

    fn print(&self, seconds: f64) {
        println!("  {} ordinary and {} hostile requests in {seconds:.0} s", self.benign, self.attacks());
        println!("  largest difference of an embedding from that of the picture alone: {:e}", self.off);
        for (kind, (count, found)) in &self.hostile {
            let found: Vec<_> = found.iter().map(|(what, n)| format!("{what} x{n}")).collect();
            println!("    {kind:<36} {count:>4}: {}", found.join(", "));
        }
    }
}

/// What the server holds at rest.
struct Level {
    bytes: u64,
    files: usize,
}

/// Waits until nothing is in the server any more.
fn level(server: &mut Server) -> Result<Level> {
    // One connection for all of it: it is among the open files.
    let (begun, client) = (Instant::now(), server.client());
    loop {
        server.alive()?;
        let metrics = client.text("/metrics")?;
        let gauge = |name: &str| {
            let row = metrics.lines().find_map(|row| row.strip_prefix(name)).map(str::trim);
            row.and_then(|value| value.parse::<f64>().ok())
                .with_context(|| format!("no `{name}` in the metrics"))
        };
        let inside = gauge("occlude_in_flight_images ")? + gauge("occlude_in_flight_pixels ")?;
        // Longer than an idle connection is kept.
        if inside == 0.0 && begun.elapsed() > Duration::from_secs(4) {
            return Ok(Level { bytes: proc::resident(server.id())?, files: proc::open_files(server.id())? });
        }
        if begun.elapsed() > REST {
            bail!(
                "{inside} pictures and pixels are in the server {} s after the last request",
                REST.as_secs()
            );
        }
        thread::sleep(Duration::from_millis(200));
    }
}

fn mib(level: &Level) -> f64 {
    level.bytes as f64 / f64::from(1 << 20)
}

fn judge(outcome: &Outcome, levels: &[Level]) -> Result<()> {
    let some: Vec<_> = outcome.wrong.iter().take(20).map(|wrong| format!("\n  {wrong}")).collect();
    ensure!(outcome.wrong.is_empty(), "{} answers are wrong:{}", outcome.wrong.len(), some.concat());
    let [first, middle, last] = levels else { bail!("three levels were measured") };
    let (a, b) = (mib(middle), mib(last));
    ensure!(b <= a * GROWTH.0 + GROWTH.1, "memory grew from {a:.0} to {b:.0} MiB in the second half");
    ensure!(last.files <= first.files, "{} files are open, {} before", last.files, first.files);
    Ok(())
}

fn figures(levels: &[Level]) -> Vec<Figure> {
    let figure =
        |what: &str, unit, ours, peer| Figure { what: what.into(), unit, ours, peer, better: Better::Lower };
    let mut figures = Vec::new();
    if let [first, middle, last] = levels {
        figures.push(figure("memory after the first half; peer: before", "MiB", mib(middle), mib(first)));
        figures.push(figure("memory at the end; peer: before", "MiB", mib(last), mib(first)));
        figures.push(figure("open files; peer: before", "1", last.files as f64, first.files as f64));
    }
    figures
}

#[cfg(test)]
mod tests {
    use super::*;

    fn levels(mib: [u64; 3], files: [usize; 3]) -> Vec<Level> {
        mib.into_iter().zip(files).map(|(mib, files)| Level { bytes: mib << 20, files }).collect()
    }

    #[test]
    fn every_condition_can_fail() {
        let fine = Outcome::default();
        judge(&fine, &levels([100, 140, 150], [20, 24, 20])).unwrap();
        assert!(judge(&fine, &levels([100, 140, 180], [20, 20, 20])).is_err());
        assert!(judge(&fine, &levels([100, 140, 140], [20, 20, 21])).is_err());
        let mut wrong = Outcome::default();
        wrong.benign(3, Err(anyhow::anyhow!("answered 500")));
        let message = judge(&wrong, &levels([100, 140, 150], [20, 24, 20])).unwrap_err().to_string();
        assert!(message.contains("answered 500"), "{message}");
    }
}
