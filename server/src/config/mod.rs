//! Flags, environment and file, and the validated configuration that they resolve to.
//!
//! A setting is declared once, as a field of a group ([`Served`], [`Limits`], [`Network`], [`Logs`]) or of [`Args`]:
//! its flag, its help, its default and how its text is read. Environment and file take names and values from there, and
//! the configuration holds the same groups, checked.

mod args;
mod check;
mod data;
mod environment;
mod error;
mod file;
mod headings;
pub(crate) mod host;
mod limits;
mod logs;
mod model;
mod network;
mod served;
mod sessions;
mod source;
pub(crate) mod units;

use ipnet::IpNet;

use crate::pictures::fetch::Hosts;

pub use args::{Args, Tool};
pub use data::Data;
pub use environment::ENVIRONMENT;
pub use error::ConfigError;
pub use limits::Limits;
pub(crate) use limits::cores;
pub use logs::{LogFormat, Logs};
pub use model::ModelFile;
pub use network::{Cors, Network};
pub use served::Served;
pub use sessions::{Precision, Provider, Sessions};
pub use source::Sources;
pub use units::Seconds;

/// The validated configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// What is served; the first model answers requests that name none.
    pub served: Served,
    /// Everything that handlers check.
    pub limits: Limits,
    /// Where the server listens.
    pub network: Network,
    /// The log.
    pub logs: Logs,
    /// Which web addresses are fetched; none where nothing is.
    pub fetch: Option<Hosts>,
    /// Web pages that may call.
    pub cors: Cors,
    /// Proxies that are believed who their clients are.
    pub trusted_proxies: Vec<IpNet>,
    /// Collector of traces.
    pub otlp_endpoint: Option<String>,
    /// What messages call the settings.
    pub sources: Sources,
    /// What the environment has that is no setting.
    pub notes: Vec<String>,
}

impl Args {
    /// Checks the flags against each other; touches no socket and no file.
    pub fn resolve(self) -> Result<Config, ConfigError> {
        let sources = &self.sources;
        self.served.check(sources)?;
        self.limits.check(sources)?;
        self.network.check(sources)?;
        let otlp_endpoint = self.otlp_endpoint.as_ref().map(|e| logs::endpoint(e, sources)).transpose()?;
        let trusted_proxies = network::proxies(&self.trusted_proxy, sources)?;
        self.served.check_models()?;
        let cors = Cors::parse(&self.cors_origin, sources)?;
        let fetch = self.fetch()?;
        let Self { served, limits, network, logs, sources, notes, .. } = self;
        Ok(Config {
            served,
            limits,
            network,
            logs,
            fetch,
            cors,
            trusted_proxies,
            otlp_endpoint,
            sources,
            notes,
        })
    }

    fn fetch(&self) -> Result<Option<Hosts>, ConfigError> {
        let name = |flag| self.sources.name(flag);
        if !self.allow_url_fetch && !self.url_host.is_empty() {
            return Err(ConfigError::Without { setting: name("url-host"), other: name("allow-url-fetch") });
        }
        let mut named = Vec::new();
        for given in &self.url_host {
            let reason = "expected a host, like `example.org`, without scheme, port or path";
            let wrong = |_| check::wrong(&self.sources, "url-host", given, reason);
            named.push(host::parse(given).map_err(wrong)?);
        }
        Ok(self.allow_url_fetch.then_some(Hosts { named }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, Parser};
    use std::time::Duration;

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
        let Config { served, limits, network, logs, cors, .. } = parse(&[]).resolve().unwrap();
        assert_eq!(limits, Limits::default());
        let expected = Limits {
            max_batch: 8,
            max_delay: Duration::from_millis(4),
            decode_threads: cores(),
            max_queue: 256,
            max_wait: None,
            max_queue_pixels: 1_000_000_000,
            max_buffered: 256 << 20,
            max_images: 32,
            max_body: 20 << 20,
            max_pixels: 50_000_000,
            timeout: Duration::from_secs(60).into(),
            read_timeout: Duration::from_secs(20).into(),
            min_rate: 2048,
            cache_bytes: 0,
        };
        assert_eq!(limits, expected);
        assert_eq!(served.models, [ModelFile { name: "cat".to_owned(), path: "models/cat.onnx".into() }]);
        assert_eq!((network.host.as_str(), network.port), ("127.0.0.1", 8080));
        assert!(
            network.keep_alive_timeout.time() > Duration::from_secs(60),
            "load balancers keep connections for a minute"
        );
        assert_eq!(
            (served.sessions.provider, served.sessions.workers, &served.gallery),
            (Provider::Auto, 1, &None)
        );
        assert_eq!(
            (served.sessions.intra_threads(), served.watch()),
            (cores(), Some(Duration::from_secs(2)))
        );
        assert_eq!((cors, network.api_keys, logs.log_format), (Cors::None, None, LogFormat::Text));
    }

    #[test]
    fn every_flag_arrives() {
        #[rustfmt::skip]
        let config = parse(&[
            "--model", "n=other.onnx", "--host", "0.0.0.0", "--port", "0", "--gallery", "g", "--provider", "cuda",
            "--workers", "2", "--intra-threads", "3", "--decode-threads", "5", "--max-batch", "6",
            "--max-delay", "7", "--max-wait", "600ms", "--max-queue", "80", "--max-images", "9", "--max-body", "1000",
            "--max-buffered", "1100", "--max-pixels", "12", "--max-connections", "13", "--timeout", "1.5",
            "--read-timeout", "2s", "--min-rate", "1k", "--keep-alive-timeout", "2min", "--drain-timeout", "3", "--shutdown-delay", "4s", "--watch", "0", "--api-keys", "k",
            "--cors-origin", "https://a.example", "--cors-origin", "http://localhost:3000",
            "--log-level", "debug", "--log-format", "json", "--max-queue-pixels", "99", "--data", "d", "--gpu-mem-limit", "14", "--otlp-endpoint", "http://o:1/v1/traces/", "--allow-url-fetch", "--url-host", "h",
            "--trusted-proxy", "10.0.0.0/8", "--trusted-proxy", "::1", "--model-folder", "m", "--cache-bytes", "2kB",
            #[cfg(feature = "grpc")]
            "--grpc-port=14",
            #[cfg(feature = "tls")]
            "--tls-cert=c",
            #[cfg(feature = "tls")]
            "--tls-key=y",
        ])
        .resolve()
        .unwrap();
        let Config { served, limits, network, logs, .. } = config.clone();
        assert_eq!(served.models[1], ModelFile { name: "n".to_owned(), path: "other.onnx".into() });
        assert_eq!((network.host.as_str(), network.port), ("0.0.0.0", 0));
        #[cfg(feature = "grpc")]
        assert_eq!(network.grpc_port, Some(14));
        #[cfg(feature = "tls")]
        assert_eq!((&network.tls_cert, &network.tls_key), (&Some("c".into()), &Some("y".into())));
        assert_eq!(network.keep_alive_timeout.time(), Duration::from_secs(120));
        assert_eq!((&served.gallery, served.sessions.provider), (&Some("g".into()), Provider::Cuda));
        assert_eq!(served.model_folder, [std::path::PathBuf::from("m")]);
        assert_eq!(
            (served.sessions.workers, served.sessions.intra_threads(), network.max_connections),
            (2, 3, 13)
        );
        assert_eq!((network.drain_timeout.time(), served.watch()), (Duration::from_secs(3), None));
        assert_eq!(network.shutdown_delay.time(), Duration::from_secs(4));
        assert_eq!(
            (served.sessions.gpu_mem_limit, config.otlp_endpoint.as_deref()),
            (Some(14), Some("http://o:1"))
        );
        assert_eq!((network.api_keys, logs.log_level), (Some("k".into()), tracing::Level::DEBUG));
        assert_eq!(
            (logs.log_format, served.data),
            (LogFormat::Json, Some(std::ffi::OsString::from("d").into()))
        );
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
            max_wait: Some(Duration::from_millis(600).into()),
            max_queue_pixels: 99,
            max_batch: 6,
            max_delay: Duration::from_millis(7),
            decode_threads: 5,
            timeout: Duration::from_millis(1500).into(),
            read_timeout: Duration::from_secs(2).into(),
            min_rate: 1000,
            cache_bytes: 2000,
        };
        assert_eq!(limits, expected);
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
        assert!(above(&["--max-wait", "100ms", "--max-delay", "200"], "max-delay"));
        assert!(
            matches!(error(&["--max-wait", "0"]), ConfigError::Seconds { setting, .. } if is(setting.clone(), "max-wait"))
        );
        assert!(matches!(error(&["--drain-timeout", "NaN"]), ConfigError::Seconds { .. }));
        assert!(matches!(error(&["--shutdown-delay", "25h"]), ConfigError::Seconds { .. }));
        assert!(matches!(error(&["--watch=-1"]), ConfigError::Seconds { .. }));
        assert!(matches!(error(&["--keep-alive-timeout=0"]), ConfigError::Seconds { .. }));
        let database = error(&["--data", "postgres://me:s3cret@host/db?sslmode=s3cret"]);
        let told = format!("{database} {database:?}");
        assert!(matches!(database, ConfigError::Data { .. }) && !told.contains("s3cret"), "{told}");
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
        #[cfg(feature = "tls")]
        for flag in ["--tls-cert=c", "--tls-key=k"] {
            assert!(matches!(error(&[flag]), ConfigError::Without { .. }), "{flag}");
        }
        for proxy in ["", "10.0.0.0/33", "example.org", "10.0.0"] {
            let error = error(&["--trusted-proxy", proxy]);
            assert!(matches!(error, ConfigError::Setting { .. }), "{proxy}");
        }
        for origin in ["example.org", "https://", "https://a/b", "https://\n"] {
            assert!(matches!(error(&["--cors-origin", origin]), ConfigError::Setting { .. }), "{origin}");
        }
    }
}
