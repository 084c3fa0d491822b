//! What Milvus' errors mean here.

use std::error::Error as _;

use tonic::Code;

use super::message::Status;
use crate::error::{Error, with_causes};

/// Of a piece of work.
pub(super) type Attempt<T> = Result<T, Failure>;

/// Why a call ended.
#[derive(Debug)]
pub(super) enum Failure {
    /// It is not to be.
    Ours(Error),
    /// The server could not be asked.
    Call(tonic::Status),
    /// It answered that it will not.
    Answer(Status),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Ours(error)
    }
}

impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Self {
        Self::Call(status)
    }
}

/// Codes of Milvus 2.3 and later (`pkg/merr`).
mod code {
    pub(super) const NOT_READY: i32 = 1;
    pub(super) const UNAVAILABLE: i32 = 2;
    pub(super) const MEMORY: i32 = 3;
    pub(super) const REQUESTS: i32 = 4;
    pub(super) const DISK: i32 = 7;
    pub(super) const RATE: i32 = 8;
    pub(super) const QUOTA: i32 = 9;
    pub(super) const TIME_TICK: i32 = 11;
    pub(super) const RESOURCES: i32 = 12;
    pub(super) const NO_COLLECTION: i32 = 100;
    pub(super) const NOT_LOADED: i32 = 101;
    pub(super) const NOT_FULLY_LOADED: i32 = 103;
    pub(super) const LOADING: i32 = 106;
}

impl Failure {
    pub(super) fn is_of_a_missing_collection(&self) -> bool {
        matches!(self, Self::Answer(status) if status.code == code::NO_COLLECTION || status.reason.contains("collection not found"))
    }

    /// The collection is there, but not in the memory of the servers that search.
    pub(super) fn is_of_what_is_not_loaded(&self) -> bool {
        matches!(self, Self::Answer(status) if status.code == code::NOT_LOADED || status.reason.contains("collection not loaded"))
    }

    pub(super) fn is_of_too_many_requests(&self) -> bool {
        matches!(self, Self::Answer(status) if status.code == code::RATE)
    }

    pub(super) fn is_of_a_taken_name(&self) -> bool {
        matches!(self, Self::Answer(status) if status.reason.contains("duplicate collection"))
    }

    /// In this library's words.
    pub(super) fn told(self, server: &str) -> Error {
        let server = server.to_owned();
        match self {
            Self::Ours(error) => error,
            Self::Call(status) => of_a_call(&status, server),
            Self::Answer(status) => of_an_answer(&status, server),
        }
    }
}

fn of_a_call(status: &tonic::Status, server: String) -> Error {
    let reason = with_causes(status.message(), status.source());
    match status.code() {
        Code::Unauthenticated => {
            let hint = "the password comes from the URL, from the file that `passfile` in it names, or from `MILVUS_PASSWORD`";
            Error::Server { server, reason: format!("{reason}; hint: {hint}") }
        }
        _ if reason.contains("certificate") => {
            let hint = "`cafile` in the URL names the authority's certificate, `tls=true` has TLS used";
            Error::Server { server, reason: format!("{reason}; hint: {hint}") }
        }
        Code::ResourceExhausted => Error::Full { reason: format!("`{server}`: {reason}") },
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Aborted => {
            Error::Unavailable { server, reason }
        }
        // A connection that broke under a call.
        Code::Unknown | Code::Internal if status.source().is_some() => Error::Unavailable { server, reason },
        _ => Error::Server { server, reason },
    }
}

fn of_an_answer(status: &Status, server: String) -> Error {
    let reason = status.reason.clone();
    match status.code {
        code::NOT_READY
        | code::UNAVAILABLE
        | code::REQUESTS
        | code::RATE
        | code::TIME_TICK
        | code::RESOURCES
        | code::NOT_LOADED
        | code::NOT_FULLY_LOADED
        | code::LOADING => Error::Unavailable { server, reason },
        code::MEMORY | code::DISK | code::QUOTA => Error::Full { reason: format!("`{server}`: {reason}") },
        _ if passing(&reason) => Error::Unavailable { server, reason },
        _ => Error::Server { server, reason },
    }
}

/// What a cluster says while parts of it start or change their places; releases number it differently.
fn passing(reason: &str) -> bool {
    [
        "not ready",
        "not fully loaded",
        "channel not available",
        "no available",
        "node offline",
        "not healthy",
        "unhealthy",
    ]
    .iter()
    .any(|part| reason.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn errors_mean_what_can_be_done_about_them() {
        let answer = |code: i32, reason: &str| {
            let failure = Failure::Answer(Status { error_code: 1, code, reason: reason.to_owned() });
            failure.told("milvus://host").kind()
        };
        assert_eq!(answer(code::RATE, "request is rejected by limiter"), Kind::Unavailable);
        assert_eq!(answer(code::NOT_FULLY_LOADED, ""), Kind::Unavailable);
        assert_eq!(answer(65_535, "channel not available"), Kind::Unavailable);
        assert_eq!(answer(code::DISK, "disk quota exhausted"), Kind::Full);
        assert_eq!(answer(1100, "invalid parameter"), Kind::Refused);
        let call = |status: tonic::Status| Failure::Call(status).told("milvus://host");
        assert_eq!(call(tonic::Status::unavailable("tcp connect error")).kind(), Kind::Unavailable);
        assert_eq!(call(tonic::Status::permission_denied("no")).kind(), Kind::Refused);
        let error = call(tonic::Status::unauthenticated("auth check failure"));
        assert!(error.kind() == Kind::Refused && error.to_string().contains("`passfile`"), "{error}");
        let error = call(tonic::Status::unavailable("invalid peer certificate: UnknownIssuer"));
        assert!(error.kind() == Kind::Refused && error.to_string().contains("`cafile`"), "{error}");
    }
}
