//! A closed loop of clients on a server that runs already: how many pictures a second, and how long each waits. Part of the
//! kit for GPU machines, where neither Rust nor a fast HTTP client is at hand.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::overload::quantile;
use super::serve::requests;
use super::wire::Wire;

/// Options of `xtask load`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The server, like `http://127.0.0.1:8080`
    url: String,
    /// Folder of JPEG photos, posted in turn
    photos: PathBuf,
    /// Clients that ask at the same time, each for its next picture when it has its answer; one line for each number
    #[arg(long, value_delimiter = ',', default_value = "1,16,128")]
    clients: Vec<usize>,
    /// Seconds of measuring for each number of clients, after a warm-up of a fifth of it
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
}

/// Prints one line of JSON for each number of clients.
pub(crate) fn run(args: &Args) -> Result<()> {
    ensure!(args.clients.iter().all(|&n| n > 0), "`--clients` must be at least 1");
    let time = Duration::try_from_secs_f64(args.seconds).context("`--seconds` is not a valid time")?;
    let requests = requests(&args.photos, 1)?;
    for &clients in &args.clients {
        ask(&args.url, &requests, clients, time / 5)?;
        let start = Instant::now();
        let seen = ask(&args.url, &requests, clients, time)?;
        println!("{}", seen.figures(clients, start.elapsed()));
    }
    Ok(())
}

/// What the clients saw.
#[derive(Default)]
struct Seen {
    /// Milliseconds from sending to the whole answer.
    waited: Vec<f64>,
    /// Answers of 429.
    refused: usize,
    /// Anything else, and the first of it.
    failed: usize,
    failure: Option<String>,
}

impl Seen {
    fn join(mut self, other: Self) -> Self {
        self.waited.extend(other.waited);
        self.refused += other.refused;
        self.failed += other.failed;
        self.failure = self.failure.or(other.failure);
        self
    }

    fn figures(&self, clients: usize, took: Duration) -> Value {
        // A quantile of nothing is not a number, which JSON writes as null.
        let at = |share| quantile(&self.waited, share);
        json!({
            "clients": clients, "answered": self.waited.len(), "refused": self.refused, "failed": self.failed,
            "failure": self.failure, "images_per_second": self.waited.len() as f64 / took.as_secs_f64(),
            "p50_ms": at(0.5), "p99_ms": at(0.99),
        })
    }
}

fn ask(url: &str, requests: &[Vec<u8>], clients: usize, time: Duration) -> Result<Seen> {
    let (next, end) = (AtomicUsize::new(0), Instant::now() + time);
    let client = || -> Result<Seen> {
        let (mut seen, mut wire) = (Seen::default(), Wire::new(url)?);
        while Instant::now() < end {
            let request = &requests[next.fetch_add(1, Ordering::Relaxed) % requests.len()];
            let sent = Instant::now();
            match wire.ask(request) {
                Ok(reply) if reply.status == 200 => seen.waited.push(sent.elapsed().as_secs_f64() * 1e3),
                Ok(reply) if reply.status == 429 => {
                    seen.refused += 1;
                    thread::sleep(Duration::from_millis(10));
                }
                other => {
                    let text =
                        other.map_or_else(|e| e.to_string(), |r| String::from_utf8_lossy(&r.body).into());
                    seen.failed += 1;
                    seen.failure.get_or_insert(text);
                    thread::sleep(Duration::from_millis(10));
                }
            }
        }
        Ok(seen)
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..clients).map(|_| scope.spawn(client)).collect();
        let seen = clients.into_iter().map(|c| c.join().unwrap_or_else(|e| std::panic::resume_unwind(e)));
        seen.collect::<Result<Vec<_>>>().map(|all| all.into_iter().fold(Seen::default(), Seen::join))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_refusals_and_failures_are_told_apart() {
        let a = Seen { waited: vec![1.0, 3.0], refused: 1, failed: 0, failure: None };
        let b = Seen { waited: vec![2.0], refused: 0, failed: 2, failure: Some("cut off".into()) };
        let figures = a.join(b).figures(4, Duration::from_secs(2));
        let expected = json!({
            "clients": 4, "answered": 3, "refused": 1, "failed": 2, "failure": "cut off",
            "images_per_second": 1.5, "p50_ms": 2.0, "p99_ms": 3.0,
        });
        assert_eq!(figures, expected);
        assert!(Seen::default().figures(1, Duration::from_secs(1))["p50_ms"].is_null());
    }
}
