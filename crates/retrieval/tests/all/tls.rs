//! Encrypted connections: the server's certificate and name are checked wherever there is one. The PostgreSQL of the tests is
//! built without TLS, so the beginning of a connection is played by the test.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;

use occlude_retrieval::{Address, Error, Kind, Options, Postgres};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection};

/// What `make.sh` beside them made.
fn file(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls").join(name)
}

fn error(host: &str, port: u16, options: &str) -> Error {
    let address: Address = format!("postgres://me:s3cret@{host}:{port}/db?{options}").parse().unwrap();
    Postgres::open(&address, &Options::default()).err().expect("no database is behind it")
}

/// A server that agrees to TLS, shows its certificate for 127.0.0.1, and ends; tells whether the client took it.
fn server() -> (u16, std::thread::JoinHandle<bool>) {
    let certificate = CertificateDer::from_pem_file(file("server.crt")).unwrap();
    let key = PrivateKeyDer::from_pem_file(file("server.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = Arc::new(config.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let taken = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut request = [0; 8];
        socket.read_exact(&mut request).unwrap();
        assert_eq!(request, [0, 0, 0, 8, 4, 210, 22, 47], "SSLRequest of PostgreSQL's protocol");
        socket.write_all(b"S").unwrap();
        let mut connection = ServerConnection::new(config).unwrap();
        let mut stream = rustls::Stream::new(&mut connection, &mut socket);
        // The first that the client says is who it is: it trusts the connection.
        let mut first = [0; 8];
        stream.read_exact(&mut first).is_ok()
    });
    (port, taken)
}

#[test]
fn certificates_and_names_are_checked() {
    let authority = format!("sslrootcert={}", file("ca.pem").display());
    // An authority that is not known, also where TLS is only preferred; a certificate for another name.
    for (host, options, expected) in [
        ("127.0.0.1", "sslmode=require", "UnknownIssuer"),
        ("127.0.0.1", "", "UnknownIssuer"),
        ("localhost", &authority, "not valid for name"),
    ] {
        let (port, taken) = server();
        let error = error(host, port, options);
        let told = error.to_string();
        assert!(
            error.kind() == Kind::Refused && told.contains(expected) && told.contains("hint: "),
            "{told}"
        );
        assert!(!taken.join().unwrap(), "nothing is said to a server that is not the one: {told}");
    }
    let (port, taken) = server();
    let error = error("127.0.0.1", port, &format!("sslmode=verify-full&{authority}"));
    assert!(taken.join().unwrap() && error.kind() == Kind::Unavailable, "{error}");
}

#[test]
fn a_server_without_tls_is_refused_where_it_is_required() {
    let Some(cluster) = crate::database::shared() else { return };
    let error = error("127.0.0.1", cluster.port, "sslmode=require");
    assert!(error.kind() == Kind::Refused && error.to_string().contains("TLS"), "{error}");
}
