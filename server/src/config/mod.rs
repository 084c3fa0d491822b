//! Flags, environment and file, and the validated configuration that they resolve to.

mod args;
mod file;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::fetch::Hosts;

pub use args::{Args, ENVIRONMENT, Tool};

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

/// How messages are written to stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// An object a line, for log collectors.
    Json,
}

/// A flag whose value makes no sense, alone or beside another.
#[derive(Debug, thiserror::Error)]
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
    /// Two models of one name.
    #[error("two models are called `{name}`; hint: `--model NAME=FILE` gives one another name")]
    SameName {
        /// The name.
        name: String,
    },
    /// No origin of a web page.
    #[error("`--cors-origin {value}` is no origin; hint: `https://example.org` without a path, or `*`")]
    Origin {
        /// What was given.
        value: String,
    },
    /// No address or network of a proxy.
    #[error(
        "`--trusted-proxy {value}` is no network; hint: an address, or a network like `10.0.0.0/8` or `fd00::/8`"
    )]
    Proxy {
        /// What was given.
        value: String,
    },
    /// The configuration file cannot be read.
    #[error("cannot read the configuration `{}`: {source}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The configuration file is no TOML.
    #[error("`{}` is no TOML: {reason}", .path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// The parser's words.
        reason: String,
    },
    /// The configuration file sets what does not exist.
    #[error("`{}` sets `{key}`, which is no flag; hint: did you mean `{near}`? `occlude-serve --help` lists them", .path.display())]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The flag that begins most alike.
        near: String,
    },
    /// The configuration file sets a flag to what it cannot be.
    #[error("`{}` sets `{key}` to {value}, expected {expected}", .path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What is there.
        value: String,
        /// What could be.
        expected: &'static str,
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
    /// Pixels of the pictures in the server.
    pub max_queue_pixels: u64,
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
            max_queue_pixels: 1_000_000_000,
            max_batch: 8,
            max_delay: Duration::from_millis(4),
            decode_threads: cores(),
            timeout: Duration::from_secs(60),
            read_timeout: Duration::from_secs(20),
        }
    }
}

/// A model to be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFile {
    /// Its name in requests and answers.
    pub name: String,
    /// The ONNX file.
    pub path: PathBuf,
}

impl From<&str> for ModelFile {
    /// `NAME=FILE` or `FILE`, whose name without extension is the model's. What stands before `=` is a name where it
    /// is a plain word; `./a=b.onnx` is a file.
    fn from(text: &str) -> Self {
        let plain =
            |n: &str| !n.is_empty() && n.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        if let Some((name, path)) = text.split_once('=').filter(|(n, _)| plain(n)) {
            return Self { name: name.to_owned(), path: path.into() };
        }
        let path = PathBuf::from(text);
        let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned());
        Self { name: stem.unwrap_or_else(|| "model".to_owned()), path }
    }
}

/// The validated configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// What is served; the first answers requests that name none.
    pub models: Vec<ModelFile>,
    /// Where to listen.
    pub address: SocketAddr,
    /// Folder to index.
    pub gallery: Option<PathBuf>,
    /// Folder of the collections.
    pub data: Option<PathBuf>,
    /// Provider asked for.
    pub provider: Provider,
    /// Sessions of each model.
    pub workers: usize,
    /// Threads of each session.
    pub intra_threads: usize,
    /// Bytes of GPU memory of each session.
    pub gpu_mem_limit: Option<usize>,
    /// Time between looks at the model files.
    pub watch: Option<Duration>,
    /// Connections at once.
    pub max_connections: usize,
    /// For answering what was accepted, at shutdown.
    pub drain_timeout: Duration,
    /// File of hashed keys.
    pub api_keys: Option<PathBuf>,
    /// Which web addresses are fetched; none where nothing is.
    pub fetch: Option<Hosts>,
    /// Web pages that may call.
    pub cors: Cors,
    /// Proxies that are believed who their clients are.
    pub trusted_proxies: Vec<IpNet>,
    /// Collector of traces.
    pub otlp_endpoint: Option<String>,
    /// Least severe messages.
    pub log_level: tracing::Level,
    /// How they are written.
    pub log_format: LogFormat,
    /// Everything that handlers check.
    pub limits: Limits,
}

/// Web pages of other origins that may call the server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Cors {
    /// None.
    #[default]
    None,
    /// All.
    Any,
    /// Those of these origins.
    Origins(Vec<axum::http::HeaderValue>),
}

impl Cors {
    fn parse(origins: &[String]) -> Result<Self, ConfigError> {
        if origins.is_empty() {
            return Ok(Self::None);
        }
        if origins.iter().any(|o| o == "*") {
            return Ok(Self::Any);
        }
        let origin = |value: &String| {
            let host = value.strip_prefix("https://").or_else(|| value.strip_prefix("http://"));
            let good = host.is_some_and(|h| !h.is_empty() && !h.contains('/'));
            let parsed = value.parse().ok().filter(|_| good);
            parsed.ok_or_else(|| ConfigError::Origin { value: value.clone() })
        };
        origins.iter().map(origin).collect::<Result<_, _>>().map(Self::Origins)
    }
}

pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn seconds(flag: &'static str, value: f64) -> Result<Duration, ConfigError> {
    if value > 0.0 && value <= 86_400.0 {
        Ok(Duration::from_secs_f64(value))
    } else {
        Err(ConfigError::Seconds { flag, value })
    }
}

fn network(value: &str) -> Result<IpNet, ConfigError> {
    let one = || Some(IpNet::from(value.parse::<IpAddr>().ok()?));
    value.parse().ok().or_else(one).ok_or_else(|| ConfigError::Proxy { value: value.to_owned() })
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
            max_queue_pixels: self.max_queue_pixels,
            max_batch: self.max_batch,
            max_delay: Duration::from_millis(self.max_delay),
            decode_threads: self.decode_threads.unwrap_or_else(cores),
            timeout: seconds("timeout", self.timeout)?,
            read_timeout: seconds("read-timeout", self.read_timeout)?,
        };
        let models: Vec<ModelFile> = self.model.iter().map(|m| ModelFile::from(m.as_str())).collect();
        for (i, ModelFile { name, .. }) in models.iter().enumerate() {
            if models.iter().take(i).any(|m| m.name == *name) {
                return Err(ConfigError::SameName { name: name.clone() });
            }
        }
        let watch = (self.watch != 0.0).then(|| seconds("watch", self.watch)).transpose()?;
        Ok(Config {
            models,
            address: SocketAddr::new(self.host, self.port),
            provider: self.provider,
            workers: self.workers,
            intra_threads: self.intra_threads.unwrap_or_else(|| (cores() / self.workers).max(1)),
            gpu_mem_limit: self.gpu_mem_limit,
            watch,
            max_connections: self.max_connections,
            drain_timeout: seconds("drain-timeout", self.drain_timeout)?,
            cors: Cors::parse(&self.cors_origin)?,
            api_keys: self.api_keys,
            trusted_proxies: self.trusted_proxy.iter().map(|p| network(p)).collect::<Result<_, _>>()?,
            otlp_endpoint: self.otlp_endpoint,
            log_level: self.log_level,
            log_format: self.log_format,
            limits,
            gallery: self.gallery,
            data: self.data,
            fetch: self.allow_url_fetch.then_some(Hosts { named: self.url_host }),
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
            ("max-queue-pixels", usize::from(self.max_queue_pixels > 0)),
            ("max-body", self.max_body),
            ("max-buffered", self.max_buffered),
            ("max-pixels", usize::from(self.max_pixels > 0)),
            ("gpu-mem-limit", self.gpu_mem_limit.unwrap_or(1)),
            ("max-connections", self.max_connections),
        ];
        if let Some((flag, _)) = counts.into_iter().find(|(_, n)| *n == 0) {
            return Err(ConfigError::Zero { flag });
        }
        if self.max_pixels > self.max_queue_pixels {
            let limit = usize::try_from(self.max_queue_pixels).unwrap_or(usize::MAX);
            return Err(ConfigError::Above { flag: "max-pixels", other: "max-queue-pixels", limit });
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
    use clap::Parser;

    fn parse(flags: &[&str]) -> Args {
        let all = ["occlude-serve", "--model", "models/cat.onnx"].iter().chain(flags);
        Args::try_parse_from(all).unwrap()
    }

    #[test]
    fn the_command_is_well_formed() {
        Args::described().debug_assert();
    }

    #[test]
    fn defaults_are_those_of_limits() {
        let config = parse(&[]).resolve().unwrap();
        assert_eq!(config.limits, Limits::default());
        assert_eq!(config.models, [ModelFile { name: "cat".to_owned(), path: "models/cat.onnx".into() }]);
        assert_eq!(config.address.to_string(), "127.0.0.1:8080");
        assert_eq!((config.provider, config.workers, config.gallery), (Provider::Auto, 1, None));
        assert_eq!((config.intra_threads, config.watch), (cores(), Some(Duration::from_secs(2))));
        assert_eq!((config.cors, config.api_keys, config.log_format), (Cors::None, None, LogFormat::Text));
    }

    #[test]
    fn every_flag_arrives() {
        #[rustfmt::skip]
        let config = parse(&[
            "--model", "n=other.onnx", "--host", "0.0.0.0", "--port", "0", "--gallery", "g", "--provider", "cuda",
            "--workers", "2", "--intra-threads", "3", "--decode-threads", "5", "--max-batch", "6",
            "--max-delay", "7", "--max-queue", "80", "--max-images", "9", "--max-body", "1000",
            "--max-buffered", "1100", "--max-pixels", "12", "--max-connections", "13", "--timeout", "1.5",
            "--read-timeout", "2", "--drain-timeout", "3", "--watch", "0", "--api-keys", "k",
            "--cors-origin", "https://a.example", "--cors-origin", "http://localhost:3000",
            "--log-level", "debug", "--log-format", "json", "--max-queue-pixels", "99", "--data", "d", "--gpu-mem-limit", "14", "--otlp-endpoint", "o", "--allow-url-fetch", "--url-host", "h",
            "--trusted-proxy", "10.0.0.0/8", "--trusted-proxy", "::1",
        ])
        .resolve()
        .unwrap();
        assert_eq!(config.models[1], ModelFile { name: "n".to_owned(), path: "other.onnx".into() });
        assert_eq!(config.address.to_string(), "0.0.0.0:0");
        assert_eq!((config.gallery, config.provider), (Some("g".into()), Provider::Cuda));
        assert_eq!((config.workers, config.intra_threads, config.max_connections), (2, 3, 13));
        assert_eq!((config.drain_timeout, config.watch), (Duration::from_secs(3), None));
        assert_eq!((config.gpu_mem_limit, config.otlp_endpoint.as_deref()), (Some(14), Some("o")));
        assert_eq!((config.api_keys, config.log_level), (Some("k".into()), tracing::Level::DEBUG));
        assert_eq!((config.log_format, config.data), (LogFormat::Json, Some("d".into())));
        assert!(
            matches!(config.cors, Cors::Origins(o) if o == ["https://a.example", "http://localhost:3000"])
        );
        assert_eq!(config.fetch, Some(Hosts { named: vec!["h".to_owned()] }));
        let proxies = ["10.0.0.0/8", "::1/128"].map(|n| n.parse().unwrap());
        assert_eq!(config.trusted_proxies, proxies);
        let expected = Limits {
            max_body: 1000,
            max_buffered: 1100,
            max_pixels: 12,
            max_images: 9,
            max_queue: 80,
            max_queue_pixels: 99,
            max_batch: 6,
            max_delay: Duration::from_millis(7),
            decode_threads: 5,
            timeout: Duration::from_millis(1500),
            read_timeout: Duration::from_secs(2),
        };
        assert_eq!(config.limits, expected);
    }

    #[test]
    fn a_model_has_a_name_of_its_own_or_that_of_its_file() {
        let parse = |text| {
            let ModelFile { name, path } = ModelFile::from(text);
            (name, path.to_string_lossy().into_owned())
        };
        assert_eq!(parse("a=x/y.onnx"), ("a".to_owned(), "x/y.onnx".to_owned()));
        assert_eq!(parse("x/y.v2.onnx"), ("y.v2".to_owned(), "x/y.v2.onnx".to_owned()));
        assert_eq!(parse("./a=b.onnx"), ("a=b".to_owned(), "./a=b.onnx".to_owned()));
    }

    #[test]
    fn contradictions_are_errors() {
        let error = |flags: &[&str]| parse(flags).resolve().unwrap_err();
        let zero =
            |flags: &[&str], name: &str| matches!(error(flags), ConfigError::Zero { flag } if flag == name);
        let above = |flags: &[&str], name: &str| matches!(error(flags), ConfigError::Above { flag, .. } if flag == name);
        assert!(zero(&["--workers", "0"], "workers"));
        assert!(zero(&["--max-pixels", "0"], "max-pixels"));
        assert!(matches!(error(&["--timeout", "0"]), ConfigError::Seconds { flag: "timeout", .. }));
        assert!(matches!(error(&["--drain-timeout", "NaN"]), ConfigError::Seconds { .. }));
        assert!(matches!(error(&["--watch=-1"]), ConfigError::Seconds { flag: "watch", .. }));
        assert!(above(&["--max-queue", "4", "--max-images", "2"], "max-batch"));
        assert!(above(&["--max-queue", "16"], "max-images"));
        assert!(above(&["--max-body", "999999999"], "max-body"));
        assert!(above(&["--max-queue-pixels", "9"], "max-pixels"));
        assert!(matches!(error(&["--model", "cat=b.onnx"]), ConfigError::SameName { name } if name == "cat"));
        for proxy in ["", "10.0.0.0/33", "example.org", "10.0.0"] {
            let error = error(&["--trusted-proxy", proxy]);
            assert!(
                matches!(error, ConfigError::Proxy { .. }) && error.to_string().contains("hint: "),
                "{proxy}"
            );
        }
        for origin in ["example.org", "https://", "https://a/b", "https://\n"] {
            assert!(matches!(error(&["--cors-origin", origin]), ConfigError::Origin { .. }), "{origin}");
        }
    }
}
