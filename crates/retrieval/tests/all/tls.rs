//! Encrypted connections: the server's certificate and name are checked wherever there is one.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::time::{Duration, Instant};

use occlude_retrieval::{Address, Engine, Error, Kind, Options, Postgres};

use crate::database::Cluster;
use crate::tools::spec;

/// What `make.sh` beside them made.
fn file(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls").join(name)
}

fn open(cluster: &Cluster, host: &str, options: &str) -> Result<Postgres, Error> {
    let url = format!("postgres://postgres@{host}:{}/postgres?{options}", cluster.port);
    let address: Address = url.parse().unwrap();
    Postgres::open(&address, &Options::default())
}

#[test]
fn certificates_and_names_are_checked() {
    let Some(cluster) = Cluster::own(&["fsync=off"]) else { return };
    let authority = format!("sslrootcert={}", file("ca.pem").display());
    let error = open(&cluster, "127.0.0.1", &format!("sslmode=require&{authority}")).err().unwrap();
    assert!(error.kind() == Kind::Refused && error.to_string().contains("TLS"), "it offers none: {error}");

    for name in ["server.key", "server.crt"] {
        let copy = cluster.data().join(name);
        std::fs::copy(file(name), &copy).unwrap();
        std::fs::set_permissions(&copy, PermissionsExt::from_mode(0o600)).unwrap();
        use std::os::unix::fs::MetadataExt;
        let owner = std::fs::metadata(cluster.data()).unwrap();
        chown(&copy, Some(owner.uid()), Some(owner.gid())).unwrap();
    }
    cluster.sql("ALTER SYSTEM SET ssl = on; SELECT pg_reload_conf()");
    let began = Instant::now();
    while cluster.sql("SELECT setting FROM pg_settings WHERE name = 'ssl'") != "on" {
        assert!(began.elapsed() < Duration::from_secs(20), "TLS is not switched on");
    }

    let engine = open(&cluster, "127.0.0.1", &format!("sslmode=verify-full&{authority}")).unwrap();
    engine.create_collection("c", &spec(2)).unwrap();
    let ours = "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = 'occlude'";
    assert_eq!(cluster.sql(ours), "t");
    // An authority that is not known, also where TLS is only preferred; a certificate for another name.
    for (host, options, expected) in [
        ("127.0.0.1", "sslmode=require", "UnknownIssuer"),
        ("127.0.0.1", "", "UnknownIssuer"),
        ("localhost", &authority, "not valid for name"),
    ] {
        let error = open(&cluster, host, options).err().unwrap();
        assert!(error.kind() == Kind::Refused && error.to_string().contains(expected), "{error}");
        assert!(error.to_string().contains("hint: "), "{error}");
    }
    drop(open(&cluster, "127.0.0.1", "sslmode=disable").unwrap());
}
