//! What can go wrong with a store.

use std::io;
use std::path::PathBuf;

/// Of this library.
pub type Result<T> = std::result::Result<T, Error>;

/// What an [`Error`] means to who asked, for a server to map to statuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// There is no such collection or point.
    NotFound,
    /// There is a collection of this name.
    AlreadyExists,
    /// The request makes no sense.
    Invalid,
    /// What the request sends is nested too deep.
    TooDeep,
    /// The vectors come from another model.
    WrongFingerprint,
    /// A limit of the store's, or the disk, is reached; nothing was lost or changed.
    Full,
    /// Another process uses the store.
    Locked,
    /// The disk failed; nothing that was acknowledged is lost.
    Io,
    /// The database cannot be reached at present; nothing that was acknowledged is lost.
    Unavailable,
    /// The database refuses what it is asked; nothing that was acknowledged is lost.
    Refused,
    /// The files are not what this library wrote.
    Corrupt,
}

/// Why a store cannot be opened, or an operation was refused. No operation that fails changes anything.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum Error {
    /// A name that no collection has.
    #[error("no collection `{name}`")]
    NoCollection { name: String },
    /// A search by the id of a point that is not there.
    #[error("no point `{id}` in collection `{collection}`")]
    NoPoint { collection: String, id: String },
    /// A name that is taken.
    #[error("collection `{name}` already exists")]
    Exists { name: String },
    /// A name that no collection can have.
    #[error("`{name}` is not a valid collection name; hint: use 1 to 64 of a-z, 0-9, `_` and `-`")]
    Name {
        /// As asked, shortened.
        name: String,
    },
    /// A value out of bounds.
    #[error("{what}: expected {expected}, found {found}")]
    Value {
        /// Which, and of which point.
        what: String,
        /// What can be.
        expected: String,
        /// What is.
        found: String,
    },
    /// A payload or filter whose parts lie too deep in each other.
    #[error("{what}: nested deeper than {limit} levels")]
    Deep {
        /// Which.
        what: String,
        /// How deep it may be.
        limit: usize,
    },
    /// A filter that is none.
    #[error("filter, at `{at}`: {reason}")]
    Filter {
        /// Path inside the filter.
        at: String,
        reason: String,
    },
    /// Vectors of another model than the collection's.
    #[error(
        "collection `{collection}` holds vectors of the model `{expected}`, these are of `{found}`; \
         hint: embed with the model that filled the collection, or make a new collection"
    )]
    Fingerprint {
        collection: String,
        /// Identity of its model.
        expected: String,
        /// The identity that came.
        found: String,
    },
    /// A collection of a release without identities, whose vectors may be of any precision.
    #[error(
        "collection `{collection}` was made by a release that recorded weights and preprocessing of its model \
         (fingerprint `{fingerprint}`), but not its precision; hint: declare once which model filled it, by PUT with \
         `\"adopt\": true` or by `occlude-serve index --adopt`, or fill a new collection"
    )]
    Unidentified {
        collection: String,
        /// Fingerprint of its model.
        fingerprint: String,
    },
    /// No room on the disk, or a limit of [`Options`](crate::Options) reached.
    #[error("the store is full: {reason}")]
    Full {
        /// Of what.
        reason: String,
    },
    /// A store that is open already.
    #[error("`{}` is open in another process, or twice in this one", .path.display())]
    Locked {
        /// The store's folder.
        path: PathBuf,
    },
    /// A file that cannot be read or written.
    #[error("`{}`: {reason}", .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        reason: io::Error,
    },
    /// The database failed.
    #[error("`{}`: {reason}", .path.display())]
    Database {
        path: PathBuf,
        /// What SQLite says.
        reason: rusqlite::Error,
    },
    /// An address of a database that is none, or what it names cannot be used.
    #[error("the address of the database: {reason}; hint: {hint}")]
    Address {
        /// Without a part of the address: it may be the password.
        reason: String,
        hint: String,
    },
    /// A database that cannot be reached, or broke the connection.
    #[error(
        "`{server}` cannot be reached: {reason}; hint: it is tried again at each request; once the database runs, it works"
    )]
    Unavailable {
        /// Its address, without a password.
        server: String,
        reason: String,
    },
    /// A database that answered with an error.
    #[error("`{server}`: {reason}")]
    Server {
        /// Its address, without a password.
        server: String,
        /// In its words.
        reason: String,
    },
    /// A file of another program in the database's place.
    #[error("`{}` is not a vector store: {reason}", .path.display())]
    Foreign { path: PathBuf, reason: String },
    /// A database of a later release.
    #[error(
        "`{}` has schema version {found}, this release knows {known}; hint: open it with the release that wrote it",
        .path.display()
    )]
    Newer {
        path: PathBuf,
        /// Its version.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// A database that is damaged.
    #[error("`{}` is damaged: {reason}; hint: restore a copy, or salvage it with sqlite3's `.recover`", .path.display())]
    Corrupt {
        path: PathBuf,
        /// What is wrong, and where.
        reason: String,
    },
}

impl Error {
    /// What it means to who asked.
    pub fn kind(&self) -> Kind {
        match self {
            Self::NoCollection { .. } | Self::NoPoint { .. } => Kind::NotFound,
            Self::Exists { .. } => Kind::AlreadyExists,
            Self::Name { .. } | Self::Value { .. } | Self::Filter { .. } | Self::Address { .. } => {
                Kind::Invalid
            }
            Self::Deep { .. } => Kind::TooDeep,
            Self::Fingerprint { .. } | Self::Unidentified { .. } => Kind::WrongFingerprint,
            Self::Full { .. } => Kind::Full,
            Self::Locked { .. } => Kind::Locked,
            Self::Io { .. } | Self::Database { .. } => Kind::Io,
            Self::Unavailable { .. } => Kind::Unavailable,
            Self::Server { .. } => Kind::Refused,
            Self::Foreign { .. } | Self::Newer { .. } | Self::Corrupt { .. } => Kind::Corrupt,
        }
    }

    #[cfg(any(feature = "milvus", feature = "postgres"))]
    pub(crate) fn no_collection(name: &str) -> Self {
        Self::NoCollection { name: name.chars().take(80).collect() }
    }

    pub(crate) fn value(
        what: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self::Value { what: what.into(), expected: expected.into(), found: found.into() }
    }
}

/// A message with its causes, each said once.
#[cfg(any(feature = "milvus", feature = "postgres"))]
pub(crate) fn with_causes(message: &str, mut cause: Option<&dyn std::error::Error>) -> String {
    let mut told = message.to_owned();
    while let Some(error) = cause {
        let text = error.to_string();
        if !told.contains(&text) {
            told = format!("{told}: {text}");
        }
        cause = error.source();
    }
    told
}
