//! What PostgreSQL's errors mean here.

use tokio_postgres::error::SqlState;

use crate::error::{Error, with_causes};

/// Of a piece of work on a connection.
pub(super) type Attempt<T> = Result<T, Failure>;

/// Why a piece of work on a connection ended.
pub(super) enum Failure {
    /// It is not to be.
    Ours(Error),
    /// The server or the connection failed, before anything was to last.
    Sql(tokio_postgres::Error),
    /// It failed while a change was made to last: whether it does, nobody knows if the connection broke.
    Commit(tokio_postgres::Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Ours(error)
    }
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Sql(error)
    }
}

impl Failure {
    /// Whether the same work may succeed if it is done once more, and has left nothing behind.
    pub(super) fn passes(&self) -> bool {
        match self {
            Self::Ours(_) => false,
            Self::Sql(error) => lost_against_another(error) || is_gone(error),
            Self::Commit(error) => lost_against_another(error),
        }
    }

    /// Whether a table was asked that is not there any more.
    pub(super) fn is_of_a_dropped_table(&self) -> bool {
        matches!(self, Self::Sql(e) if e.code() == Some(&SqlState::UNDEFINED_TABLE))
    }

    pub(super) fn told(self, server: &str) -> Error {
        match self {
            Self::Ours(error) => error,
            Self::Sql(error) => told(&error, server),
            Self::Commit(error) if is_gone(&error) => {
                let reason =
                    "the connection broke while a change was made to last, and whether it does is not known";
                Error::Unavailable { server: server.to_owned(), reason: reason.to_owned() }
            }
            Self::Commit(error) => told(&error, server),
        }
    }
}

/// Two transactions waited for each other, and this one was given up.
fn lost_against_another(error: &tokio_postgres::Error) -> bool {
    matches!(error.code(), Some(&SqlState::T_R_DEADLOCK_DETECTED | &SqlState::T_R_SERIALIZATION_FAILURE))
}

/// Whether the connection is of no use any more, or there is none.
pub(super) fn is_gone(error: &tokio_postgres::Error) -> bool {
    let Some(code) = error.code() else {
        use std::error::Error;
        // What is wrong with a certificate is wrong data.
        let broken = |cause: &std::io::Error| cause.kind() != std::io::ErrorKind::InvalidData;
        let cause = error.source().and_then(|cause| cause.downcast_ref());
        return error.is_closed() || cause.is_some_and(broken);
    };
    [
        SqlState::ADMIN_SHUTDOWN,
        SqlState::CRASH_SHUTDOWN,
        SqlState::CANNOT_CONNECT_NOW,
        SqlState::TOO_MANY_CONNECTIONS,
        SqlState::CONNECTION_EXCEPTION,
        SqlState::CONNECTION_FAILURE,
        // A standby: the server that takes writes is another one by now.
        SqlState::READ_ONLY_SQL_TRANSACTION,
    ]
    .contains(code)
}

/// In this library's words.
pub(super) fn told(error: &tokio_postgres::Error, server: &str) -> Error {
    let (server, reason) = (server.to_owned(), chain(error));
    match error.code() {
        Some(&SqlState::DISK_FULL) => Error::Full { reason: format!("`{server}`: {reason}") },
        Some(&(SqlState::INVALID_PASSWORD | SqlState::INVALID_AUTHORIZATION_SPECIFICATION)) => {
            let hint = "the password comes from the URL, from `PGPASSWORD`, or from the file that `passfile` in the URL or \
                        `PGPASSFILE` names";
            Error::Server { server, reason: format!("{reason}; hint: {hint}") }
        }
        _ if is_gone(error) => Error::Unavailable { server, reason },
        None if reason.contains("TLS") => {
            let hint =
                "`sslrootcert` in the URL names the authority's certificate, `sslmode` whether TLS is used";
            Error::Server { server, reason: format!("{reason}; hint: {hint}") }
        }
        _ => Error::Server { server, reason },
    }
}

/// The message with its causes. A server never sends a password back.
fn chain(error: &tokio_postgres::Error) -> String {
    use std::error::Error;

    with_causes(&error.to_string(), error.source())
}
