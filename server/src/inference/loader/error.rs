//! Why the server does not start.

use crate::gallery::indexing::GalleryError;
use crate::inference::encoder::LoadError;
use crate::serving::keys::KeyError;

/// Why the server does not run.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum StartError {
    /// The address is taken, or not ours.
    #[error("cannot listen on {address}: {source}; hint: choose another with {host} and {port}")]
    Listen {
        /// As configured.
        address: String,
        source: std::io::Error,
        /// The setting of the host.
        host: String,
        /// Of the port.
        port: String,
    },
    /// Signals cannot be received.
    #[error("cannot receive signals: {0}")]
    Signal(std::io::Error),
    /// The keys cannot be read.
    #[error("{setting}: {source}")]
    Keys { setting: String, source: KeyError },
    /// There can be no TLS.
    #[cfg(feature = "tls")]
    #[error("{setting}: {source}")]
    Tls { setting: String, source: Box<crate::serving::tls::TlsError> },
    /// A model cannot be served.
    #[error(transparent)]
    Model(#[from] LoadError),
    /// The collections cannot be opened.
    #[error("{setting}: {source}")]
    Store { setting: String, source: occlude_retrieval::Error },
    /// The gallery cannot be indexed.
    #[error("{setting}: {source}")]
    Gallery { setting: String, source: GalleryError },
}
