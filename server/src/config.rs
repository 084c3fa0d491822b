//! Flags, and the validated configuration that they resolve to.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// Serves an ONNX encoder written by `occlude-export` over HTTP: embeddings, saliency masks and the nearest
/// pictures of a folder.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "occlude-serve", version)]
pub struct Args {
    /// ONNX file written by `occlude-export onnx`; its preprocessing contract is obeyed
    #[arg(long, value_name = "FILE")]
    pub model: PathBuf,
    /// Name of the model in answers and metrics [default: the file's name without extension]
    #[arg(long)]
    pub name: Option<String>,
    /// Address to listen on; 0.0.0.0 opens the server to the network
    #[arg(long, default_value = "127.0.0.1")]
    pub host: IpAddr,
    /// Port to listen on; 0 takes a free one, printed at start
    #[arg(long, default_value_t = 8080)]
    pub port: u16,
    /// Folder of pictures (flat, or one sub-folder per class) that is indexed at start for `/v1/search`
    #[arg(long, value_name = "DIR")]
    pub gallery: Option<PathBuf>,
    /// Where the model runs: `cuda` fails at start where it cannot run, `auto` takes CUDA if it works, else the CPU,
    /// and says so
    #[arg(long, value_enum, default_value_t = Provider::Auto)]
    pub provider: Provider,
    /// Sessions that encode side by side, each with its own copy of the weights
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub workers: usize,
    /// Threads within one session, on the CPU [default: cores divided by workers]
    #[arg(long, value_name = "N")]
    pub intra_threads: Option<usize>,
    /// Most bytes of GPU memory that one session takes for weights and activations [default: as needed]
    #[arg(long, value_name = "BYTES")]
    pub gpu_mem_limit: Option<usize>,
    /// Pictures that are decoded at the same time [default: cores]
    #[arg(long, value_name = "N")]
    pub decode_threads: Option<usize>,
    /// Most pictures in one run of the model
    #[arg(long, default_value_t = 8, value_name = "N")]
    pub max_batch: usize,
    /// Longest time in milliseconds that a picture waits for others to share its batch; it waits only while others
    /// are being decoded
    #[arg(long, default_value_t = 4, value_name = "MS")]
    pub max_delay: u64,
    /// Most pictures in the server at once, decoding or waiting; above it, requests are answered 429
    #[arg(long, default_value_t = 256, value_name = "N")]
    pub max_queue: usize,
    /// Most pictures in one request
    #[arg(long, default_value_t = 32, value_name = "N")]
    pub max_images: usize,
    /// Largest request body in bytes
    #[arg(long, default_value_t = 20 << 20, value_name = "BYTES")]
    pub max_body: usize,
    /// Most bytes of request bodies held at once, all requests together; above it, requests are answered 429
    #[arg(long, default_value_t = 256 << 20, value_name = "BYTES")]
    pub max_buffered: usize,
    /// Most pixels (width times height) of one picture
    #[arg(long, default_value_t = 50_000_000, value_name = "N")]
    pub max_pixels: u64,
    /// Most connections at once; further ones wait to be accepted
    #[arg(long, default_value_t = 1024, value_name = "N")]
    pub max_connections: usize,
    /// Seconds that a request may take from its first byte of body to its answer, 504 after that
    #[arg(long, default_value_t = 60.0, value_name = "SECONDS")]
    pub timeout: f64,
    /// Seconds that a client has for sending its headers, and again for its body, 408 after that
    #[arg(long, default_value_t = 20.0, value_name = "SECONDS")]
    pub read_timeout: f64,
    /// Seconds for answering accepted requests after SIGTERM or SIGINT, before connections are cut
    #[arg(long, default_value_t = 30.0, value_name = "SECONDS")]
    pub drain_timeout: f64,
}

/// Execution provider asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Provider {
    /// CUDA if it works, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// CUDA or an error.
    Cuda,
}

/// A flag whose value makes no sense, alone or beside another.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// A count of nothing.
    #[error("`--{flag}` must be at least 1")]
    Zero {
        /// The flag.
        flag: &'static str,
    },
    /// Not a usable number of seconds.
    #[error("`--{flag} {value}` is no time; hint: seconds above 0, at most 86400")]
    Seconds {
        /// The flag.
        flag: &'static str,
        /// What was given.
        value: f64,
    },
    /// One flag contradicts another.
    #[error("`--{flag}` must be at most `--{other}` ({limit})")]
    Above {
        /// The flag that is too large.
        flag: &'static str,
        /// The one that bounds it.
        other: &'static str,
        /// The bound.
        limit: usize,
    },
}

/// What the server accepts and how much of it at once.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Bytes of one body.
    pub max_body: usize,
    /// Bytes of all bodies.
    pub max_buffered: usize,
    /// Pixels of one picture.
    pub max_pixels: u64,
    /// Pictures of one request.
    pub max_images: usize,
    /// Pictures in the server.
    pub max_queue: usize,
    /// Pictures of one batch.
    pub max_batch: usize,
    /// Longest wait for a batch to fill.
    pub max_delay: Duration,
    /// Pictures decoded at once.
    pub decode_threads: usize,
    /// From the first byte of body to the answer.
    pub timeout: Duration,
    /// For receiving a body.
    pub read_timeout: Duration,
}

impl Default for Limits {
    /// The defaults of the flags, for tests and for embedding the server elsewhere.
    fn default() -> Self {
        Self {
            max_body: 20 << 20,
            max_buffered: 256 << 20,
            max_pixels: 50_000_000,
            max_images: 32,
            max_queue: 256,
            max_batch: 8,
            max_delay: Duration::from_millis(4),
            decode_threads: cores(),
            timeout: Duration::from_secs(60),
            read_timeout: Duration::from_secs(20),
        }
    }
}

/// The validated configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// The ONNX file.
    pub model: PathBuf,
    /// Its name in answers.
    pub name: String,
    /// Where to listen.
    pub address: SocketAddr,
    /// Folder to index.
    pub gallery: Option<PathBuf>,
    /// Provider asked for.
    pub provider: Provider,
    /// Sessions.
    pub workers: usize,
    /// Threads of each session.
    pub intra_threads: usize,
    /// Bytes of GPU memory of each session.
    pub gpu_mem_limit: Option<usize>,
    /// Connections at once.
    pub max_connections: usize,
    /// For answering what was accepted, at shutdown.
    pub drain_timeout: Duration,
    /// Everything that handlers check.
    pub limits: Limits,
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn seconds(flag: &'static str, value: f64) -> Result<Duration, ConfigError> {
    if value > 0.0 && value <= 86_400.0 {
        Ok(Duration::from_secs_f64(value))
    } else {
        Err(ConfigError::Seconds { flag, value })
    }
}

impl Args {
    /// Checks the flags against each other; touches no file and no socket.
    pub fn resolve(self) -> Result<Config, ConfigError> {
        self.check_counts()?;
        let limits = Limits {
            max_body: self.max_body,
            max_buffered: self.max_buffered,
            max_pixels: self.max_pixels,
            max_images: self.max_images,
            max_queue: self.max_queue,
            max_batch: self.max_batch,
            max_delay: Duration::from_millis(self.max_delay),
            decode_threads: self.decode_threads.unwrap_or_else(cores),
            timeout: seconds("timeout", self.timeout)?,
            read_timeout: seconds("read-timeout", self.read_timeout)?,
        };
        let stem = || self.model.file_stem().map(|s| s.to_string_lossy().into_owned());
        Ok(Config {
            name: self.name.clone().or_else(stem).unwrap_or_else(|| "model".to_owned()),
            address: SocketAddr::new(self.host, self.port),
            provider: self.provider,
            workers: self.workers,
            intra_threads: self.intra_threads.unwrap_or_else(|| (cores() / self.workers).max(1)),
            gpu_mem_limit: self.gpu_mem_limit,
            max_connections: self.max_connections,
            drain_timeout: seconds("drain-timeout", self.drain_timeout)?,
            limits,
            model: self.model,
            gallery: self.gallery,
        })
    }

    fn check_counts(&self) -> Result<(), ConfigError> {
        let counts = [
            ("workers", self.workers),
            ("intra-threads", self.intra_threads.unwrap_or(1)),
            ("decode-threads", self.decode_threads.unwrap_or(1)),
            ("max-batch", self.max_batch),
            ("max-queue", self.max_queue),
            ("max-images", self.max_images),
            ("max-body", self.max_body),
            ("max-buffered", self.max_buffered),
            ("max-pixels", usize::from(self.max_pixels > 0)),
            ("gpu-mem-limit", self.gpu_mem_limit.unwrap_or(1)),
            ("max-connections", self.max_connections),
        ];
        if let Some((flag, _)) = counts.into_iter().find(|(_, n)| *n == 0) {
            return Err(ConfigError::Zero { flag });
        }
        let above = |flag, value, other, limit| match value > limit {
            true => Err(ConfigError::Above { flag, other, limit }),
            false => Ok(()),
        };
        above("max-batch", self.max_batch, "max-queue", self.max_queue)?;
        above("max-images", self.max_images, "max-queue", self.max_queue)?;
        above("max-body", self.max_body, "max-buffered", self.max_buffered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, Parser};

    fn parse(flags: &[&str]) -> Args {
        let all = ["occlude-serve", "--model", "models/cat.onnx"].iter().chain(flags);
        Args::try_parse_from(all).unwrap()
    }

    #[test]
    fn the_command_is_well_formed() {
        Args::command().debug_assert();
    }

    #[test]
    fn defaults_are_those_of_limits() {
        let config = parse(&[]).resolve().unwrap();
        assert_eq!(config.limits, Limits::default());
        assert_eq!((config.name.as_str(), config.address.to_string().as_str()), ("cat", "127.0.0.1:8080"));
        assert_eq!((config.provider, config.workers, config.gallery), (Provider::Auto, 1, None));
        assert_eq!(config.intra_threads, cores());
    }

    #[test]
    fn every_flag_arrives() {
        #[rustfmt::skip]
        let config = parse(&[
            "--name", "n", "--host", "0.0.0.0", "--port", "0", "--gallery", "g", "--provider", "cuda",
            "--workers", "2", "--intra-threads", "3", "--decode-threads", "5", "--max-batch", "6",
            "--max-delay", "7", "--max-queue", "80", "--max-images", "9", "--max-body", "1000",
            "--max-buffered", "1100", "--max-pixels", "12", "--max-connections", "13", "--timeout", "1.5",
            "--read-timeout", "2", "--drain-timeout", "3", "--gpu-mem-limit", "14",
        ])
        .resolve()
        .unwrap();
        assert_eq!((config.name.as_str(), config.address.to_string().as_str()), ("n", "0.0.0.0:0"));
        assert_eq!((config.gallery, config.provider), (Some("g".into()), Provider::Cuda));
        assert_eq!((config.workers, config.intra_threads, config.max_connections), (2, 3, 13));
        assert_eq!((config.drain_timeout, config.gpu_mem_limit), (Duration::from_secs(3), Some(14)));
        let expected = Limits {
            max_body: 1000,
            max_buffered: 1100,
            max_pixels: 12,
            max_images: 9,
            max_queue: 80,
            max_batch: 6,
            max_delay: Duration::from_millis(7),
            decode_threads: 5,
            timeout: Duration::from_millis(1500),
            read_timeout: Duration::from_secs(2),
        };
        assert_eq!(config.limits, expected);
    }

    #[test]
    fn contradictions_are_errors() {
        let error = |flags: &[&str]| parse(flags).resolve().unwrap_err();
        assert_eq!(error(&["--workers", "0"]), ConfigError::Zero { flag: "workers" });
        assert_eq!(error(&["--max-pixels", "0"]), ConfigError::Zero { flag: "max-pixels" });
        assert_eq!(error(&["--timeout", "0"]), ConfigError::Seconds { flag: "timeout", value: 0.0 });
        assert!(matches!(error(&["--drain-timeout", "NaN"]), ConfigError::Seconds { .. }));
        assert_eq!(
            error(&["--max-queue", "4", "--max-images", "2"]),
            ConfigError::Above { flag: "max-batch", other: "max-queue", limit: 4 }
        );
        assert_eq!(
            error(&["--max-queue", "16"]),
            ConfigError::Above { flag: "max-images", other: "max-queue", limit: 16 }
        );
        assert!(matches!(error(&["--max-body", "999999999"]), ConfigError::Above { flag: "max-body", .. }));
    }
}
