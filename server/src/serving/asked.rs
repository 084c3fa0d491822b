//! What a request asked, and its line in the log.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request};
use axum::http::{Method, StatusCode, Version, header};
use axum::response::Response;
use hyper::body::Body as _;

use super::client::{Peer, address};
use super::request_id::RequestId;
use super::state::AppState;
use crate::error::Shape;

/// What is known of a request before it is answered.
pub(super) struct Asked {
    pub(super) id: String,
    pub(super) method: Method,
    pub(super) path: String,
    /// The template that matched.
    pub(super) route: String,
    /// Whether requests come side by side on its connection.
    pub(super) multiplexed: bool,
    grpc: bool,
    client: Option<IpAddr>,
    pub(super) start: Instant,
}

impl Asked {
    pub(super) fn new(state: &AppState, request: &Request) -> Self {
        let extensions = request.extensions();
        let peer = extensions.get::<Peer>().map(|p| p.0.ip());
        let multiplexed = request.version() == Version::HTTP_2;
        let kind = request.headers().get(header::CONTENT_TYPE);
        Self {
            // The layer around this one has made it.
            id: extensions.get::<RequestId>().map_or_else(String::new, |id| id.0.clone()),
            method: request.method().clone(),
            path: request.uri().path().to_owned(),
            route: extensions.get::<MatchedPath>().map_or("other", MatchedPath::as_str).to_owned(),
            multiplexed,
            grpc: multiplexed && kind.is_some_and(|k| k.as_bytes().starts_with(b"application/grpc")),
            client: peer.map(|p| address(p, request.headers(), state.trusted_proxies())),
            start: Instant::now(),
        }
    }

    pub(super) fn shape(&self) -> Shape {
        if self.grpc {
            return Shape::Grpc;
        }
        let flat = self.path == "/v2" || self.path.starts_with("/v2/");
        if flat { Shape::Flat } else { Shape::Nested }
    }
}

/// What the log says of a request besides what it asked.
pub(super) struct Line<'a> {
    pub(super) key: Option<&'a str>,
    pub(super) model: Option<&'a str>,
    /// How it ended; answers by gRPC do not show it.
    pub(super) status: StatusCode,
    pub(super) received: u64,
    pub(super) time: Duration,
}

impl Line<'_> {
    /// A line for every request; those that only watch the server are of interest to nobody. The query stays out of it:
    /// it may hold what is nobody else's business.
    pub(super) fn log(&self, asked: &Asked, response: &Response) {
        let status = self.status.as_u16();
        let ms = (self.time.as_secs_f64() * 1e4).round() / 10.0;
        let (key, model) = (self.key.unwrap_or("-"), self.model);
        let (bytes_in, bytes_out) = (self.received, response.body().size_hint().exact());
        let client = asked.client.map(|c| c.to_string());
        let (method, path, id) = (asked.method.as_str(), asked.path.as_str(), asked.id.as_str());
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    request_id = id,
                    method,
                    path,
                    status,
                    model,
                    ms,
                    bytes_in,
                    bytes_out,
                    client,
                    key,
                    "{method} {path}"
                )
            };
        }
        match asked.route.as_str() {
            "/healthz" | "/readyz" | "/metrics" | "/v2/health/live" | "/v2/health/ready" => line!(debug),
            "/inference.GRPCInferenceService/ServerLive"
            | "/inference.GRPCInferenceService/ServerReady"
            | "/grpc.health.v1.Health/Check" => line!(debug),
            _ => line!(info),
        }
    }
}
