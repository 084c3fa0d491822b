//! Where the server listens, and whom it trusts.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;

use super::headings::NETWORK;
use super::units::Seconds;
use super::{ConfigError, Sources, check, host, units};

/// The socket and its connections.
#[derive(Debug, Clone, PartialEq, clap::Args)]
pub struct Network {
    /// Address or name to listen on; 0.0.0.0 opens the server to the network. Of a name's addresses the first IPv4 one
    /// is used, else the first
    #[arg(long, default_value = "127.0.0.1", value_parser = host::parse, help_heading = NETWORK)]
    pub host: String,
    /// Port to listen on; 0 takes a free one, printed at start
    #[arg(long, default_value_t = 8080, help_heading = NETWORK)]
    pub port: u16,
    /// Port for the Open Inference Protocol over gRPC; 0 takes a free one, printed at start [default: none]
    #[cfg(feature = "grpc")]
    #[arg(long, value_name = "PORT", help_heading = NETWORK)]
    pub grpc_port: Option<u16>,
    /// File of the certificate, and of those that lead to its root, in PEM: every port then speaks TLS. Reloaded on SIGHUP
    #[cfg(feature = "tls")]
    #[arg(long, value_name = "FILE", help_heading = NETWORK)]
    pub tls_cert: Option<PathBuf>,
    /// File of the certificate's private key, in PEM
    #[cfg(feature = "tls")]
    #[arg(long, value_name = "FILE", help_heading = NETWORK)]
    pub tls_key: Option<PathBuf>,
    /// Maximum number of connections at once, at each port; further ones wait to be accepted
    #[arg(long, default_value_t = 1024, value_name = "N", help_heading = NETWORK)]
    pub max_connections: usize,
    /// Seconds that a connection is kept open between requests; longer than a load balancer in front keeps its own,
    /// which is usually 60
    #[arg(long, default_value = "75", value_name = "SECONDS", value_parser = units::seconds, help_heading = NETWORK)]
    pub keep_alive_timeout: Seconds,
    /// Seconds for answering accepted requests after SIGTERM or SIGINT, before connections are cut
    #[arg(long, default_value = "30", value_name = "SECONDS", value_parser = units::seconds, help_heading = NETWORK)]
    pub drain_timeout: Seconds,
    /// Seconds after SIGTERM or SIGINT in which `/readyz` says 503 and requests are answered as before, so that load
    /// balancers find out before anything is refused; a second signal ends them
    #[arg(long, default_value = "0", value_name = "SECONDS", value_parser = units::seconds, help_heading = NETWORK)]
    pub shutdown_delay: Seconds,
    /// File of hashed API keys, written by `occlude-serve key`; without it no key is required. Reloaded on SIGHUP
    #[arg(long, value_name = "FILE", help_heading = NETWORK)]
    pub api_keys: Option<PathBuf>,
}

impl Network {
    /// Checks the numbers.
    pub(super) fn check(&self, sources: &Sources) -> Result<(), ConfigError> {
        check::counts(sources, &[("max-connections", self.max_connections as u64)])?;
        let times = [("keep-alive-timeout", self.keep_alive_timeout), ("drain-timeout", self.drain_timeout)];
        check::times(sources, &times)?;
        if !self.shutdown_delay.is_zero() {
            check::times(sources, &[("shutdown-delay", self.shutdown_delay)])?;
        }
        #[cfg(feature = "tls")]
        match (&self.tls_cert, &self.tls_key) {
            (Some(_), None) => return Err(check::without(sources, "tls-cert", "tls-key")),
            (None, Some(_)) => return Err(check::without(sources, "tls-key", "tls-cert")),
            _ => {}
        }
        Ok(())
    }

    /// Whether the ports speak TLS.
    pub fn is_tls(&self) -> bool {
        #[cfg(feature = "tls")]
        let tls = self.tls_cert.is_some();
        #[cfg(not(feature = "tls"))]
        let tls = false;
        tls
    }
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
    /// What `--cors-origin` names.
    pub(super) fn parse(origins: &[String], sources: &Sources) -> Result<Self, ConfigError> {
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
                check::wrong(sources, "cors-origin", value, reason)
            })
        };
        origins.iter().map(origin).collect::<Result<_, _>>().map(Self::Origins)
    }
}

/// The addresses or networks of proxies that `--trusted-proxy` names.
pub(super) fn proxies(given: &[String], sources: &Sources) -> Result<Vec<IpNet>, ConfigError> {
    let network = |value: &String| {
        let one = || Some(IpNet::from(value.parse::<IpAddr>().ok()?));
        let reason = "expected an address, or a network like `10.0.0.0/8` or `fd00::/8`";
        let parsed = value.parse().ok().or_else(one);
        parsed.ok_or_else(|| check::wrong(sources, "trusted-proxy", value, reason))
    };
    given.iter().map(network).collect()
}
