//! TLS: the server's certificate and name are always checked.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::address::Address;
use crate::error::{Error, Result};

/// Makes connections encrypted, where the address asks for it.
pub(super) fn connector(address: &Address) -> Result<MakeRustlsConnect> {
    let roots = match &address.roots {
        Some(path) => read(path)?,
        None => RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() },
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(|e| Error::Server { server: address.to_string(), reason: e.to_string() })?;
    Ok(MakeRustlsConnect::new(config.with_root_certificates(roots).with_no_client_auth()))
}

/// The certificates of a PEM file, one at least.
fn read(path: &Path) -> Result<RootCertStore> {
    let bad = |reason: String| Error::Address {
        reason: format!("`sslrootcert` names `{}`: {reason}", path.display()),
        hint: "it is to be a PEM file with the certificate of the authority that signed the server's"
            .to_owned(),
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|e| bad(e.to_string()))? {
        let certificate = certificate.map_err(|e| bad(e.to_string()))?;
        roots.add(certificate).map_err(|e| bad(e.to_string()))?;
    }
    if roots.is_empty() { Err(bad("there is no certificate in it".to_owned())) } else { Ok(roots) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_are_read_or_the_file_is_named() {
        let with = |path: &Path| {
            let url = format!("postgres://u@h/d?sslrootcert={}", path.display());
            connector(&url.parse().unwrap()).map(drop)
        };
        let file = tempfile::NamedTempFile::new().unwrap();
        for (text, expected) in [
            ("", "there is no certificate"),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "`sslrootcert` names"),
        ] {
            std::fs::write(file.path(), text).unwrap();
            let error = with(file.path()).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("hint:"), "{error}");
        }
        assert!(with(Path::new("/gone.pem")).unwrap_err().to_string().contains("`/gone.pem`"));
        connector(&"postgres://u@h/d".parse().unwrap()).map(drop).unwrap();
    }
}
