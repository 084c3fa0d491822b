//! TLS by two files: the chain of certificates, and the key.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::{Error as PemError, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{Error as RustlsError, ServerConfig};

/// What is offered to clients, the first that they know is spoken.
#[cfg(feature = "http2")]
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];
#[cfg(not(feature = "http2"))]
const PROTOCOLS: [&[u8]; 1] = [b"http/1.1"];

/// Why there can be no TLS.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read `{}`: {source}", .path.display())]
    File { path: PathBuf, source: std::io::Error },
    /// A file is not in PEM.
    #[error("`{}` has no {what}: {reason}; hint: it is PEM, as tools like certbot and openssl write it", .path.display())]
    Pem {
        path: PathBuf,
        /// `certificate` or `private key`.
        what: &'static str,
        reason: String,
    },
    /// The certificate cannot be used, or the key is not its own.
    #[error("the certificate `{}` cannot be used with the key `{}`: {source}", .cert.display(), .key.display())]
    Unusable { cert: PathBuf, key: PathBuf, source: RustlsError },
}

/// The certificate that clients are shown; it can be changed while they come.
#[derive(Clone)]
pub struct Tls {
    cert: PathBuf,
    key: PathBuf,
    config: Arc<RwLock<Arc<ServerConfig>>>,
}

impl Tls {
    /// Reads the files.
    pub fn read(cert: &Path, key: &Path) -> Result<Self, TlsError> {
        let config = Arc::new(RwLock::new(read(cert, key)?));
        Ok(Self { cert: cert.to_owned(), key: key.to_owned(), config })
    }

    /// Reads the files again. Connections that are there keep what they were made with; where the files cannot be
    /// used, everything stays as it is.
    pub(crate) fn reload(&self) -> Result<(), TlsError> {
        let config = read(&self.cert, &self.key)?;
        *self.config.write() = config;
        Ok(())
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.config.read()))
    }
}

fn read(cert: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let bytes =
        |path: &Path| std::fs::read(path).map_err(|source| TlsError::File { path: path.to_owned(), source });
    let pem = |path: &Path, what, error: PemError| {
        let reason = match error {
            PemError::NoItemsFound => "there is none in it".to_owned(),
            other => other.to_string(),
        };
        TlsError::Pem { path: path.to_owned(), what, reason }
    };
    let text = bytes(cert)?;
    let chain = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|e| pem(cert, "certificate", e))?;
    if chain.is_empty() {
        return Err(pem(cert, "certificate", PemError::NoItemsFound));
    }
    let private = PrivateKeyDer::from_pem_slice(&bytes(key)?).map_err(|e| pem(key, "private key", e))?;
    let unusable = |source| TlsError::Unusable { cert: cert.to_owned(), key: key.to_owned(), source };
    let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(unusable)?;
    let mut config = builder.with_no_client_auth().with_single_cert(chain, private).map_err(unusable)?;
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tls").join(name)
    }

    fn told(cert: &Path, key: &Path) -> String {
        Tls::read(cert, key).err().map_or_else(|| panic!("it can be used"), |e| e.to_string())
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let text = dir.path().join("text");
        std::fs::write(&text, "nothing").unwrap();
        let (cert, key) = (fixture("one.pem"), fixture("one.key"));
        assert!(Tls::read(&cert, &key).is_ok());
        assert!(told(&dir.path().join("gone"), &key).contains("cannot read `"));
        assert!(told(&text, &key).contains("has no certificate: there is none in it; hint: "));
        assert!(told(&cert, &text).contains("has no private key: there is none in it"));
        assert!(told(&key, &key).contains("has no certificate"), "a key in its place");
        let other = told(&cert, &fixture("two.key"));
        assert!(other.contains("cannot be used with the key"), "{other}");
    }

    #[test]
    fn files_are_read_again_and_broken_ones_change_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = (dir.path().join("cert"), dir.path().join("key"));
        let install = |name: &str| {
            std::fs::copy(fixture(&format!("{name}.pem")), &cert).unwrap();
            std::fs::copy(fixture(&format!("{name}.key")), &key).unwrap();
        };
        install("one");
        let tls = Tls::read(&cert, &key).unwrap();
        let before = Arc::as_ptr(&tls.config.read());
        std::fs::copy(fixture("two.pem"), &cert).unwrap();
        assert!(tls.reload().is_err(), "the key is not there yet");
        assert_eq!(Arc::as_ptr(&tls.config.read()), before);
        install("two");
        tls.reload().unwrap();
        assert_ne!(Arc::as_ptr(&tls.config.read()), before);
    }
}
