//! Flags, environment and file, and the validated configuration that they resolve to.

mod args;
mod environment;
mod error;
mod file;
pub(crate) mod host;
mod limits;
mod model;
mod source;
pub(crate) mod units;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::pictures::fetch::Hosts;

pub use args::{Args, Tool};
pub use environment::ENVIRONMENT;
pub use error::ConfigError;
pub use limits::Limits;
pub(crate) use limits::cores;
pub use model::ModelFile;
pub use source::Sources;

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
    /// One JSON object per line, for log collectors.
    Json,
}

/// The validated configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// What is served; the first answers requests that name none.
    pub models: Vec<ModelFile>,
    /// Address or name to listen on.
    pub host: String,
    /// Port to listen on.
    pub port: u16,
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
    /// For a connection without a request.
    pub keep_alive_timeout: Duration,
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
    /// What messages call the settings.
    pub sources: Sources,
    /// What the environment has that is no setting.
    pub notes: Vec<String>,
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
    fn parse(origins: &[String], sources: &Sources) -> Result<Self, ConfigError> {
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
            parsed.ok_or_else(|| {
                let reason = "expected an origin like `https://example.org`, without a path, or `*`";
                wrong(sources, "cors-origin", value, reason)
            })
        };
        origins.iter().map(origin).collect::<Result<_, _>>().map(Self::Origins)
    }
}

fn wrong(sources: &Sources, flag: &str, value: &str, reason: &str) -> ConfigError {
    let (value, reason) = (value.to_owned(), reason.to_owned());
    ConfigError::Setting { setting: sources.name(flag), value, reason, flag: flag.to_owned() }
}

/// A collector's address; where it ends in the path of traces, that is known already.
fn endpoint(text: &str, sources: &Sources) -> Result<String, ConfigError> {
    let base = text.trim_end_matches('/');
    let base = base.strip_suffix("/v1/traces").unwrap_or(base);
    let uri = base.parse::<axum::http::Uri>().ok();
    let good = uri.is_some_and(|u| matches!(u.scheme_str(), Some("http" | "https")) && u.host().is_some());
    let reason = "expected an address like `http://127.0.0.1:4318`";
    if good { Ok(base.to_owned()) } else { Err(wrong(sources, "otlp-endpoint", text, reason)) }
}

/// An address or network of a proxy.
fn network(value: &str, sources: &Sources) -> Result<IpNet, ConfigError> {
    let one = || Some(IpNet::from(value.parse::<IpAddr>().ok()?));
    let reason = "expected an address, or a network like `10.0.0.0/8` or `fd00::/8`";
    value.parse().ok().or_else(one).ok_or_else(|| wrong(sources, "trusted-proxy", value, reason))
}

impl Args {
    /// Checks the flags against each other; touches no socket, and of files only whether a model's name is one.
    pub fn resolve(self) -> Result<Config, ConfigError> {
        self.check_counts()?;
        let seconds = |flag: &str, value: f64| self.seconds(flag, value);
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
            min_rate: self.min_rate,
        };
        let watch = (self.watch != 0.0).then(|| seconds("watch", self.watch)).transpose()?;
        let otlp_endpoint = self.otlp_endpoint.as_ref().map(|e| endpoint(e, &self.sources)).transpose()?;
        let trusted_proxies =
            self.trusted_proxy.iter().map(|p| network(p, &self.sources)).collect::<Result<_, _>>()?;
        Ok(Config {
            models: self.models()?,
            provider: self.provider,
            workers: self.workers,
            intra_threads: self.intra_threads.unwrap_or_else(|| (cores() / self.workers).max(1)),
            gpu_mem_limit: self.gpu_mem_limit,
            watch,
            max_connections: self.max_connections,
            keep_alive_timeout: seconds("keep-alive-timeout", self.keep_alive_timeout)?,
            drain_timeout: seconds("drain-timeout", self.drain_timeout)?,
            cors: Cors::parse(&self.cors_origin, &self.sources)?,
            fetch: self.fetch()?,
            otlp_endpoint,
            limits,
            host: self.host,
            port: self.port,
            api_keys: self.api_keys,
            trusted_proxies,
            log_level: self.log_level,
            log_format: self.log_format,
            gallery: self.gallery,
            data: self.data,
            sources: self.sources,
            notes: self.notes,
        })
    }

    fn seconds(&self, flag: &str, value: f64) -> Result<Duration, ConfigError> {
        if value > 0.0 && value <= 86_400.0 {
            Ok(Duration::from_secs_f64(value))
        } else {
            Err(ConfigError::Seconds { setting: self.sources.name(flag), value })
        }
    }

    fn models(&self) -> Result<Vec<ModelFile>, ConfigError> {
        let models: Vec<ModelFile> = self.model.iter().map(|m| ModelFile::from(m.as_str())).collect();
        for (i, ModelFile { name, .. }) in models.iter().enumerate() {
            if models.iter().take(i).any(|m| m.name == *name) {
                return Err(ConfigError::SameName { name: name.clone() });
            }
        }
        if models.is_empty() { Err(ConfigError::NoModel) } else { Ok(models) }
    }

    fn fetch(&self) -> Result<Option<Hosts>, ConfigError> {
        let name = |flag| self.sources.name(flag);
        if !self.allow_url_fetch && !self.url_host.is_empty() {
            return Err(ConfigError::Without { setting: name("url-host"), other: name("allow-url-fetch") });
        }
        let mut named = Vec::new();
        for given in &self.url_host {
            let reason = "expected a host, like `example.org`, without scheme, port or path";
            named.push(host::parse(given).map_err(|_| wrong(&self.sources, "url-host", given, reason))?);
        }
        Ok(self.allow_url_fetch.then_some(Hosts { named }))
    }

    fn check_counts(&self) -> Result<(), ConfigError> {
        let counts = [
            ("workers", self.workers as u64),
            ("intra-threads", self.intra_threads.unwrap_or(1) as u64),
            ("decode-threads", self.decode_threads.unwrap_or(1) as u64),
            ("max-batch", self.max_batch as u64),
            ("max-queue", self.max_queue as u64),
            ("max-images", self.max_images as u64),
            ("max-queue-pixels", self.max_queue_pixels),
            ("max-body", self.max_body as u64),
            ("max-buffered", self.max_buffered as u64),
            ("max-pixels", self.max_pixels),
            ("gpu-mem-limit", self.gpu_mem_limit.unwrap_or(1) as u64),
            ("max-connections", self.max_connections as u64),
        ];
        let name = |flag| self.sources.name(flag);
        if let Some((flag, _)) = counts.into_iter().find(|(_, n)| *n == 0) {
            return Err(ConfigError::Zero { setting: name(flag) });
        }
        let bounds = [
            ("max-pixels", self.max_pixels, "max-queue-pixels", self.max_queue_pixels),
            ("max-batch", self.max_batch as u64, "max-queue", self.max_queue as u64),
            ("max-images", self.max_images as u64, "max-queue", self.max_queue as u64),
            ("max-body", self.max_body as u64, "max-buffered", self.max_buffered as u64),
        ];
        match bounds.into_iter().find(|(_, value, _, limit)| value > limit) {
            Some((flag, _, other, limit)) => {
                Err(ConfigError::Above { setting: name(flag), other: name(other), limit })
            }
            None => Ok(()),
        }
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
        assert_eq!(config.models, [ModelFile { name: "cat".to_owned(), path: "models/cat.onnx".into() }]);
        assert_eq!((config.host.as_str(), config.port), ("127.0.0.1", 8080));
        assert!(
            config.keep_alive_timeout > Duration::from_secs(60),
            "load balancers keep connections for a minute"
        );
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
            "--read-timeout", "2s", "--min-rate", "1k", "--keep-alive-timeout", "2min", "--drain-timeout", "3", "--watch", "0", "--api-keys", "k",
            "--cors-origin", "https://a.example", "--cors-origin", "http://localhost:3000",
            "--log-level", "debug", "--log-format", "json", "--max-queue-pixels", "99", "--data", "d", "--gpu-mem-limit", "14", "--otlp-endpoint", "http://o:1/v1/traces/", "--allow-url-fetch", "--url-host", "h",
            "--trusted-proxy", "10.0.0.0/8", "--trusted-proxy", "::1",
        ])
        .resolve()
        .unwrap();
        assert_eq!(config.models[1], ModelFile { name: "n".to_owned(), path: "other.onnx".into() });
        assert_eq!((config.host.as_str(), config.port), ("0.0.0.0", 0));
        assert_eq!(config.keep_alive_timeout, Duration::from_secs(120));
        assert_eq!((config.gallery, config.provider), (Some("g".into()), Provider::Cuda));
        assert_eq!((config.workers, config.intra_threads, config.max_connections), (2, 3, 13));
        assert_eq!((config.drain_timeout, config.watch), (Duration::from_secs(3), None));
        assert_eq!((config.gpu_mem_limit, config.otlp_endpoint.as_deref()), (Some(14), Some("http://o:1")));
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
            min_rate: 1000,
        };
        assert_eq!(config.limits, expected);
    }

    #[test]
    fn contradictions_are_errors() {
        let error = |flags: &[&str]| parse(flags).resolve().unwrap_err();
        let is = |setting: String, name: &str| setting == format!("`--{name}`");
        let zero = |flags: &[&str], name: &str| matches!(error(flags), ConfigError::Zero { setting } if is(setting.clone(), name));
        let above = |flags: &[&str], name: &str| matches!(error(flags), ConfigError::Above { setting, .. } if is(setting.clone(), name));
        assert!(zero(&["--workers", "0"], "workers"));
        assert!(zero(&["--max-pixels", "0"], "max-pixels"));
        assert!(
            matches!(error(&["--timeout", "0"]), ConfigError::Seconds { setting, .. } if is(setting.clone(), "timeout"))
        );
        assert!(matches!(error(&["--drain-timeout", "NaN"]), ConfigError::Seconds { .. }));
        assert!(matches!(error(&["--watch=-1"]), ConfigError::Seconds { .. }));
        assert!(matches!(error(&["--keep-alive-timeout=0"]), ConfigError::Seconds { .. }));
        assert!(matches!(error(&["--url-host", "a"]), ConfigError::Without { .. }));
        assert!(matches!(
            error(&["--allow-url-fetch", "--url-host", "https://a"]),
            ConfigError::Setting { .. }
        ));
        assert!(matches!(Args::parse_from(["occlude-serve"]).resolve(), Err(ConfigError::NoModel)));
        assert!(above(&["--max-queue", "4", "--max-images", "2"], "max-batch"));
        assert!(above(&["--max-queue", "16"], "max-images"));
        assert!(above(&["--max-body", "999999999"], "max-body"));
        assert!(above(&["--max-queue-pixels", "9"], "max-pixels"));
        assert!(matches!(error(&["--model", "cat=b.onnx"]), ConfigError::SameName { name } if name == "cat"));
        for proxy in ["", "10.0.0.0/33", "example.org", "10.0.0"] {
            let error = error(&["--trusted-proxy", proxy]);
            assert!(matches!(error, ConfigError::Setting { .. }), "{proxy}");
        }
        for origin in ["example.org", "https://", "https://a/b", "https://\n"] {
            assert!(matches!(error(&["--cors-origin", origin]), ConfigError::Setting { .. }), "{origin}");
        }
    }
}
