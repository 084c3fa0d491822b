//! Where a database is: a URL, of which only what is no secret is ever told.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};

use super::password;
use crate::error::{Error, Result};

/// The schema of the tables, unless the URL names another.
const SCHEMA: &str = "occlude";
const CONNECT: Duration = Duration::from_secs(5);
/// How long a server that is gone without a word is believed to be there.
const SILENCE: Duration = Duration::from_secs(30);

/// Options that are taken as the PostgreSQL client knows them.
const CLIENTS: [&str; 15] = [
    "application_name",
    "channel_binding",
    "connect_timeout",
    "dbname",
    "host",
    "hostaddr",
    "keepalives",
    "keepalives_idle",
    "load_balance_hosts",
    "options",
    "password",
    "port",
    "target_session_attrs",
    "tcp_user_timeout",
    "user",
];

/// A database of PostgreSQL, as `postgres://USER@HOST:PORT/DATABASE`. `Display` and `Debug` leave the password out.
#[derive(Clone)]
pub struct Address {
    pub(super) config: Config,
    pub(super) schema: String,
    /// Certificates that the server's is checked against; those of the public authorities where none are named.
    pub(super) roots: Option<PathBuf>,
    passfile: Option<PathBuf>,
    label: String,
}

impl Address {
    /// The configuration with the password that is known by now: of the URL, of `PGPASSWORD`, or of a password file.
    pub(super) fn with_password(&self) -> Result<Config> {
        let mut config = self.config.clone();
        if config.get_password().is_none()
            && let Some(password) = password::find(&config, self.passfile.as_deref())?
        {
            config.password(password);
        }
        Ok(config)
    }

    fn set_defaults(&mut self, given: &[&str]) {
        let missing = |name: &str| !given.contains(&name);
        if missing("application_name") {
            self.config.application_name("occlude");
        }
        if missing("connect_timeout") {
            self.config.connect_timeout(CONNECT);
        }
        if missing("keepalives_idle") {
            self.config.keepalives_idle(SILENCE);
        }
        if missing("tcp_user_timeout") {
            self.config.tcp_user_timeout(SILENCE);
        }
        // Of several servers, the one that takes writes.
        if missing("target_session_attrs") && self.config.get_hosts().len() > 1 {
            self.config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
    }
}

impl FromStr for Address {
    type Err = Error;

    /// Reads a URL; touches nothing. No error repeats a part of it: any may be the password.
    fn from_str(url: &str) -> Result<Self> {
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let (mut passed, mut names) = (Vec::new(), Vec::new());
        let (mut schema, mut roots, mut passfile, mut mode) =
            (SCHEMA.to_owned(), None, None, SslMode::Prefer);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match name {
                "schema" => schema = schema_name(decoded(value)?)?,
                "sslrootcert" => roots = Some(PathBuf::from(decoded(value)?)),
                "passfile" => passfile = Some(PathBuf::from(decoded(value)?)),
                "sslmode" => mode = ssl_mode(value)?,
                name if CLIENTS.contains(&name) => {
                    names.push(name);
                    passed.push(pair);
                }
                _ => return Err(unknown_option()),
            }
        }
        let plain = format!("{base}?{}", passed.join("&"));
        let mut config: Config = plain.parse().map_err(|_| {
            bad(
                "it cannot be read",
                "write it as `postgres://USER@HOST:PORT/DATABASE`; other characters than letters and \
                 digits as `%` and two hexadecimal digits",
            )
        })?;
        config.ssl_mode(mode);
        let Some(user) = config.get_user().filter(|user| !user.is_empty()).map(str::to_owned) else {
            return Err(bad("it names no user", "write it as `postgres://USER@HOST/DATABASE`"));
        };
        if config.get_hosts().is_empty() {
            return Err(bad("it names no host", "write it as `postgres://USER@HOST/DATABASE`"));
        }
        if config.get_dbname().is_none_or(str::is_empty) {
            config.dbname(&user);
        }
        let label = label(&config, &user);
        let mut address = Self { config, schema, roots, passfile, label };
        address.set_defaults(&names);
        Ok(address)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.label)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({})", self.label)
    }
}

impl PartialEq for Address {
    fn eq(&self, other: &Self) -> bool {
        (&self.config, &self.schema, &self.roots, &self.passfile)
            == (&other.config, &other.schema, &other.roots, &other.passfile)
    }
}

/// The user, the hosts and the database; nothing else of a URL is sure to be no secret.
fn label(config: &Config, user: &str) -> String {
    let ports = config.get_ports();
    let host = |(at, host): (usize, &Host)| {
        let port = ports.get(at).or(ports.first()).filter(|port| **port != 5432);
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        match host {
            Host::Tcp(name) => format!("{name}{port}"),
            Host::Unix(path) => format!("{}{port}", path.display()),
        }
    };
    let hosts: Vec<String> = config.get_hosts().iter().enumerate().map(host).collect();
    format!("postgres://{user}@{}/{}", hosts.join(","), config.get_dbname().unwrap_or_default())
}

fn decoded(value: &str) -> Result<String> {
    let text = percent_decode_str(value).decode_utf8();
    text.map(String::from)
        .map_err(|_| bad("an option's value is not UTF-8", "write other characters as `%` and two digits"))
}

/// What stands between quotes in statements.
fn schema_name(name: String) -> Result<String> {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    if (1..=48).contains(&name.len()) && name.bytes().all(fits) && !name.starts_with("pg_") {
        return Ok(name);
    }
    Err(bad("`schema` is none", "use 1 to 48 of a-z, 0-9 and `_`"))
}

/// TLS always checks the server's certificate and name, as libpq does with `verify-full`.
fn ssl_mode(mode: &str) -> Result<SslMode> {
    match mode {
        "disable" => Ok(SslMode::Disable),
        "prefer" => Ok(SslMode::Prefer),
        "require" | "verify-full" => Ok(SslMode::Require),
        _ => {
            Err(bad("`sslmode` is none that is known", "use `disable`, `prefer`, `require` or `verify-full`"))
        }
    }
}

fn unknown_option() -> Error {
    let known = ["passfile", "schema", "sslmode", "sslrootcert"].iter().chain(&CLIENTS);
    let known: Vec<String> = known.map(|name| format!("`{name}`")).collect();
    bad("it has an unknown option", &format!("known are {}", known.join(", ")))
}

fn bad(reason: &str, hint: &str) -> Error {
    Error::Address { reason: reason.to_owned(), hint: hint.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(url: &str) -> Address {
        url.parse().unwrap_or_else(|e| panic!("{url}: {e}"))
    }

    #[test]
    fn urls_are_read() {
        let found = address(
            "postgres://me@db.example:6000/shop?schema=s_1&sslmode=verify-full&sslrootcert=%2Fa%20b.pem",
        );
        assert_eq!(found.to_string(), "postgres://me@db.example:6000/shop");
        assert_eq!((found.schema.as_str(), found.roots), ("s_1", Some("/a b.pem".into())));
        assert_eq!(found.config.get_ssl_mode(), SslMode::Require);
        assert_eq!(found.config.get_connect_timeout(), Some(&CONNECT));
        let found = address("postgresql://me@a,b:5433/?connect_timeout=9");
        assert_eq!(found.to_string(), "postgres://me@a,b:5433/me", "the database is called as the user");
        assert_eq!(found.config.get_connect_timeout(), Some(&Duration::from_secs(9)));
        assert_eq!(found.config.get_target_session_attrs(), TargetSessionAttrs::ReadWrite);
        assert_eq!(address("postgres://me@%2Frun%2Fpg/db").to_string(), "postgres://me@/run/pg/db");
    }

    #[test]
    fn what_is_none_is_told_without_a_secret() {
        for (url, expected) in [
            ("postgres://", "no user"),
            ("postgres://host/db", "no user"),
            ("postgres://me:s3cret@", "no host"),
            ("postgres://me:s3cret@host:s3cret/db", "cannot be read"),
            ("postgres://me:s3cret?s3cret=s3cret@host/db", "unknown option"),
            ("postgres://me:s3cret@host/db?sslmode=s3cret", "`sslmode`"),
            ("postgres://me:s3cret@host/db?schema=s3cret!", "`schema`"),
            ("postgres://me:s3cret@host/db?schema=pg_s3cret", "`schema`"),
            ("postgres://me:s3cret@host/db?port=s3cret", "cannot be read"),
            ("postgres://me:s3cret@host/db?sslrootcert=%ff", "UTF-8"),
        ] {
            let error = url.parse::<Address>().unwrap_err();
            let told = format!("{error} {error:?}");
            assert!(
                told.contains(expected) && told.contains("hint") && !told.contains("s3cret"),
                "{url}: {told}"
            );
        }
    }

    #[test]
    fn passwords_are_never_shown() {
        for url in [
            "postgres://me:s3cret@host/db",
            "postgres://me@host/db?password=s3cret",
            "postgres://me@host/db?password=s3cret%40x",
            "postgres://me:s3cret%2Fx@host/db?passfile=/s3cret",
        ] {
            let found = address(url);
            let told = format!("{found} {found:?}");
            assert!(!told.contains("s3cret") && told.contains("me@host"), "{told}");
        }
    }
}
