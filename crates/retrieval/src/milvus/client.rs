//! Calls over gRPC.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost::Message;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use super::address::{Consistency, MilvusAddress};
use super::failure::{Attempt, Failure};
use super::message::{Answered, consistency};
use crate::error::{Error, Result};

const CONNECT: Duration = Duration::from_secs(5);
/// How long a server that is gone without a word is believed to be there.
const SILENCE: Duration = Duration::from_secs(20);
/// Longest that a call may take: deletions and searches that look at everything are slow.
const CALL: Duration = Duration::from_secs(120);
/// Largest answer: ten thousand hits with their vectors.
const ANSWER: usize = 1 << 30;

/// A connection that is made when it is needed, and again when it broke.
pub(super) struct Client {
    channel: Channel,
    pub(super) address: MilvusAddress,
    /// Time of the last change that was made here, by the cluster's clock.
    last: AtomicU64,
}

/// What an answer is to have seen.
#[derive(Clone, Copy)]
pub(super) struct Freshness {
    pub(super) guarantee_timestamp: u64,
    pub(super) consistency_level: i32,
}

impl Freshness {
    /// All that was written until it is asked.
    pub(super) const STRONG: Self = Self { guarantee_timestamp: 0, consistency_level: consistency::STRONG };
    /// Whatever there is: behind an answer that waited.
    pub(super) const ANY: Self = Self { guarantee_timestamp: 1, consistency_level: consistency::CUSTOMIZED };
}

impl Client {
    /// Touches no network; within a runtime.
    pub(super) fn new(address: &MilvusAddress) -> Result<Self> {
        let bad = |e: tonic::transport::Error| Error::Address {
            reason: e.to_string(),
            hint: "write it as `milvus://USER@HOST:19530/DATABASE`".to_owned(),
        };
        let mut endpoint = Endpoint::from_shared(address.endpoint())
            .map_err(bad)?
            .connect_timeout(CONNECT)
            .http2_keep_alive_interval(SILENCE)
            .keep_alive_timeout(SILENCE)
            .keep_alive_while_idle(true);
        if address.tls {
            endpoint = endpoint.tls_config(tls(address)?).map_err(bad)?;
        }
        Ok(Self { channel: endpoint.connect_lazy(), address: address.clone(), last: AtomicU64::new(0) })
    }

    /// Calls a method of `MilvusService`; an answer that says no is a failure.
    pub(super) async fn call<Q, A>(&self, method: &'static str, request: Q) -> Attempt<A>
    where
        Q: Message + 'static,
        A: Answered,
    {
        let mut request = Request::new(request);
        request.set_timeout(CALL);
        if let Some(credentials) = self.address.credentials()? {
            let value = STANDARD.encode(credentials).parse().map_err(|_| Status::internal("credentials"))?;
            request.metadata_mut().insert("authorization", value);
        }
        let mut grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(ANSWER);
        grpc.ready().await.map_err(|e| Status::from_error(Box::new(e)))?;
        let path = format!("/milvus.proto.milvus.MilvusService/{method}");
        let path = PathAndQuery::try_from(path).map_err(|_| Status::internal("path"))?;
        let answer: A = grpc.unary(request, path, ProstCodec::<Q, A>::default()).await?.into_inner();
        match answer.status() {
            Some(status) if status.error_code != 0 || status.code != 0 => {
                Err(Failure::Answer(status.clone()))
            }
            _ => Ok(answer),
        }
    }

    /// Notes the time of a change.
    pub(super) fn changed(&self, timestamp: u64) {
        self.last.fetch_max(timestamp, Ordering::Relaxed);
    }

    pub(super) fn freshness(&self) -> Freshness {
        match self.address.consistency {
            Consistency::Strong => Freshness::STRONG,
            Consistency::Session => Freshness {
                guarantee_timestamp: self
                    .last
                    .load(Ordering::Relaxed)
                    .max(Freshness::ANY.guarantee_timestamp),
                ..Freshness::ANY
            },
        }
    }

    pub(super) fn database(&self) -> String {
        self.address.database.clone()
    }
}

/// The server's certificate and name are always checked.
fn tls(address: &MilvusAddress) -> Result<ClientTlsConfig> {
    let Some(path) = &address.roots else { return Ok(ClientTlsConfig::new().with_webpki_roots()) };
    let text = std::fs::read(path).map_err(|e| Error::Address {
        reason: format!("`cafile` names `{}`: {e}", path.display()),
        hint: "it is to be a PEM file with the certificate of the authority that signed the server's"
            .to_owned(),
    })?;
    Ok(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(text)))
}
