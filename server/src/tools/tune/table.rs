//! What was tried, as a table, and the best of it as a configuration.

use std::fmt::{self, Write};

use clap::ValueEnum;

use super::{Aim, Candidate, Measured, TuneArgs};
use crate::config::{Limits, ModelFile, Provider};

/// What `occlude-serve tune` found.
#[derive(Debug, Clone)]
pub struct Tuned {
    aim: Aim,
    clients: usize,
    model: ModelFile,
    /// As given: what is measured with it is served with it.
    decode_threads: Option<usize>,
    tried: Vec<(Candidate, Measured)>,
    /// What ran each.
    ran_on: Vec<String>,
    /// Providers that are not there, and why.
    absent: Vec<(&'static str, String)>,
}

impl Tuned {
    pub(super) fn new(args: &TuneArgs, clients: usize) -> Self {
        Self {
            aim: args.aim,
            clients,
            model: args.encoder.model.clone(),
            decode_threads: args.encoder.decode_threads,
            tried: Vec::new(),
            ran_on: Vec::new(),
            absent: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, candidate: Candidate, ran_on: String, measured: Measured) {
        tracing::info!("{}", row(&candidate, &ran_on, &measured));
        self.tried.push((candidate, measured));
        self.ran_on.push(ran_on);
    }

    pub(super) fn has(&self, candidate: &Candidate) -> bool {
        self.tried.iter().any(|(tried, _)| tried == candidate)
    }

    /// A provider that is not there.
    pub(super) fn left_out(&mut self, provider: &'static str, reason: String) {
        if !self.absent.iter().any(|(name, _)| *name == provider) {
            tracing::info!("`{provider}` is left out: {reason}");
            self.absent.push((provider, reason));
        }
    }

    /// The best candidate; the first of several that are as good.
    pub fn best(&self) -> Option<&(Candidate, Measured)> {
        self.tried.iter().reduce(|best, next| if self.aim.better(&next.1, &best.1) { next } else { best })
    }

    /// Everything that was tried, in order.
    pub fn tried(&self) -> &[(Candidate, Measured)] {
        &self.tried
    }

    /// The best candidate as a file for `--config`; empty where nothing was tried.
    pub fn toml(&self) -> String {
        let Some((candidate, measured)) = self.best() else { return String::new() };
        let Candidate { sessions, max_batch, max_delay } = candidate;
        let mut text = format!(
            "# {:.1} pictures/s, p50 {:.1} ms, p99 {:.1} ms with {} client{}, without HTTP\n",
            measured.rate,
            measured.p50,
            measured.p99,
            self.clients,
            if self.clients == 1 { "" } else { "s" },
        );
        let model = format!("{}={}", self.model.name, self.model.path.display());
        let _ = writeln!(text, "model = [{}]", toml::Value::String(model));
        let _ = writeln!(text, "provider = \"{}\"", spelt(&sessions.provider));
        if matches!(sessions.provider, Provider::Openvino | Provider::Tensorrt) {
            let _ = writeln!(text, "precision = \"{}\"", spelt(&sessions.precision));
        }
        if !sessions.devices.is_empty() {
            let _ = writeln!(text, "devices = {:?}", sessions.devices);
        }
        let _ = writeln!(text, "workers = {}", sessions.workers);
        if !matches!(sessions.provider, Provider::Cuda | Provider::Tensorrt) {
            let _ = writeln!(text, "intra-threads = {}", sessions.intra_threads());
        }
        if let Some(bytes) = sessions.gpu_mem_limit {
            let _ = writeln!(text, "gpu-mem-limit = {bytes}");
        }
        let _ = writeln!(text, "max-batch = {max_batch}\nmax-delay = {}", max_delay.as_millis());
        if let Some(threads) = self.decode_threads {
            let _ = writeln!(text, "decode-threads = {threads}");
        }
        // Else the server would refuse some of so many clients.
        if self.clients > Limits::default().max_queue {
            let _ = writeln!(text, "max-queue = {}", self.clients);
        }
        text
    }
}

impl fmt::Display for Tuned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:16}{:>8}{:>8}{:>7}{:>9}{:>13}{:>10}{:>10}",
            "provider", "workers", "threads", "batch", "delay ms", "pictures/s", "p50 ms", "p99 ms"
        )?;
        for ((candidate, measured), ran_on) in self.tried.iter().zip(&self.ran_on) {
            writeln!(f, "{}", row(candidate, ran_on, measured))?;
        }
        for (provider, reason) in &self.absent {
            writeln!(f, "{provider:16}left out: {reason}")?;
        }
        Ok(())
    }
}

/// A value as its flag takes it.
fn spelt(value: &impl ValueEnum) -> String {
    value.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default()
}

fn row(candidate: &Candidate, ran_on: &str, measured: &Measured) -> String {
    let Candidate { sessions, max_batch, max_delay } = candidate;
    format!(
        "{ran_on:16}{:>8}{:>8}{max_batch:>7}{:>9}{:>13.1}{:>10.1}{:>10.1}",
        sessions.workers,
        sessions.intra_threads(),
        max_delay.as_millis(),
        measured.rate,
        measured.p50,
        measured.p99
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Args, Sessions};
    use std::ffi::OsString;
    use std::time::Duration;

    fn tuned(clients: usize, decode_threads: Option<usize>, gpu_mem_limit: Option<usize>) -> Tuned {
        let sessions = Sessions { gpu_mem_limit, ..Sessions::on_cpu(1) };
        let candidate = Candidate { sessions, max_batch: 8, max_delay: Duration::from_millis(4) };
        let measured = Measured { rate: 1.0, p50: 2.0, p99: 3.0, pictures: 4 };
        Tuned {
            aim: Aim::Throughput,
            clients,
            model: ModelFile { name: "m".to_owned(), path: "m.onnx".into() },
            decode_threads,
            tried: vec![(candidate, measured)],
            ran_on: vec!["CPU".to_owned()],
            absent: Vec::new(),
        }
    }

    #[test]
    fn what_was_given_while_measuring_is_part_of_the_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tuned.toml");
        let limits = |tuned: &Tuned| {
            std::fs::write(&file, tuned.toml()).unwrap();
            let words = ["occlude-serve", "--config", file.to_str().unwrap()].map(OsString::from);
            let config = Args::read_with(words, []).unwrap().resolve().unwrap();
            let Limits { decode_threads, max_queue, .. } = config.limits;
            (decode_threads, max_queue, config.served.sessions.gpu_mem_limit)
        };
        assert_eq!(limits(&tuned(300, Some(3), Some(1 << 30))), (3, 300, Some(1 << 30)));
        let usual = Limits::default();
        assert_eq!(limits(&tuned(32, None, None)), (usual.decode_threads, usual.max_queue, None));
    }
}
