//! Where a Milvus is: a URL, of which only what is no secret is ever told.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use tonic::codegen::http::Uri;

use crate::error::{Error, Result};
use crate::secret;

const PORT: u16 = 19_530;
const PREFIX: &str = "occlude";
const HINT: &str = "write it as `milvus://USER@HOST:19530/DATABASE`; other characters than letters and digits as `%` and two \
                    hexadecimal digits";

/// How fresh an answer is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Consistency {
    /// All that any server has written: each answer waits for the cluster's clock, some tenths of a second.
    #[default]
    Strong,
    /// All that this process has written, and what others wrote some tenths of a second ago.
    Session,
}

/// What new collections are searched by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Index {
    /// An approximate index.
    #[default]
    Hnsw,
    /// None: every row is compared.
    Flat,
}

/// A database of Milvus, as `milvus://USER@HOST:PORT/DATABASE`. `Display` and `Debug` leave the password out.
#[derive(Clone, PartialEq)]
pub struct MilvusAddress {
    host: String,
    port: u16,
    user: Option<String>,
    password: Option<String>,
    passfile: Option<PathBuf>,
    /// Empty: the default one.
    pub(super) database: String,
    /// What names of collections begin with, so that others may live beside them.
    pub(super) prefix: String,
    pub(super) consistency: Consistency,
    pub(super) index: Index,
    pub(super) tls: bool,
    /// Certificates that the server's is checked against; those of the public authorities where none are named.
    pub(super) roots: Option<PathBuf>,
}

impl MilvusAddress {
    pub(super) fn endpoint(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}:{}", self.host, self.port)
    }

    /// What the server is to know this client by: user and password, or a token; none where none is known. Passwords come from
    /// the URL, from the file that it names, or from `MILVUS_PASSWORD`; the file is read anew each time.
    pub(super) fn credentials(&self) -> Result<Option<String>> {
        let of_file = self.passfile.as_deref().map(secret::read).transpose()?;
        let of_file = of_file.map(|text| text.trim_end_matches(['\n', '\r']).to_owned());
        let variable = || std::env::var("MILVUS_PASSWORD").ok().filter(|value| !value.is_empty());
        let password = of_file.or_else(|| self.password.clone()).or_else(variable);
        Ok(match (&self.user, password) {
            (Some(user), password) => Some(format!("{user}:{}", password.unwrap_or_default())),
            // A token.
            (None, password) => password,
        })
    }
}

impl FromStr for MilvusAddress {
    type Err = Error;

    /// Reads a URL; touches nothing. No error repeats a part of it: any may be the password.
    fn from_str(url: &str) -> Result<Self> {
        // What is behind it would be left out without a word.
        if url.contains('#') {
            return Err(bad("it has a `#` in it", HINT));
        }
        let uri: Uri = url.parse().map_err(|_| bad("it cannot be read", HINT))?;
        let authority = uri.authority().ok_or_else(|| bad("it names no host", HINT))?;
        let host = authority.host().to_owned();
        if host.is_empty() {
            return Err(bad("it names no host", HINT));
        }
        let port = match authority.as_str().rsplit_once(&host) {
            Some((_, port)) if !port.is_empty() => {
                authority.port_u16().ok_or_else(|| bad("its port is none", HINT))?
            }
            _ => PORT,
        };
        let login = authority.as_str().rsplit_once('@').map(|(login, _)| login);
        let (user, password) = match login.map(|login| login.split_once(':').unwrap_or((login, ""))) {
            Some((user, password)) => (Some(decoded(user)?), Some(decoded(password)?)),
            None => (None, None),
        };
        let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
        let mut address = Self {
            host,
            port,
            user: filled(user),
            password: filled(password),
            passfile: None,
            database: database(uri.path().trim_matches('/'))?,
            prefix: PREFIX.to_owned(),
            consistency: Consistency::default(),
            index: Index::default(),
            tls: false,
            roots: None,
        };
        for pair in uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            address.set(pair)?;
        }
        if !address.tls && address.roots.is_some() {
            return Err(bad("it has `cafile` without `tls=true`", "say `tls=true`"));
        }
        if address.user.is_none() && address.password.is_some() {
            return Err(bad("it has a password and no user", HINT));
        }
        Ok(address)
    }
}

impl MilvusAddress {
    fn set(&mut self, pair: &str) -> Result<()> {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = decoded(value)?;
        match (name, value.as_str()) {
            ("passfile", _) => self.passfile = Some(value.into()),
            ("cafile", _) => self.roots = Some(value.into()),
            ("prefix", _) => self.prefix = prefix(value)?,
            ("tls", "true") => self.tls = true,
            ("tls", "false") => self.tls = false,
            ("tls", _) => return Err(bad("`tls` is none that is known", "use `true` or `false`")),
            ("consistency", "strong") => self.consistency = Consistency::Strong,
            ("consistency", "session") => self.consistency = Consistency::Session,
            ("consistency", _) => {
                return Err(bad("`consistency` is none that is known", "use `strong` or `session`"));
            }
            ("index", "hnsw") => self.index = Index::Hnsw,
            ("index", "flat") => self.index = Index::Flat,
            ("index", _) => return Err(bad("`index` is none that is known", "use `hnsw` or `flat`")),
            _ => {
                let known = "known are `cafile`, `consistency`, `index`, `passfile`, `prefix` and `tls`";
                return Err(bad("it has an unknown option", known));
            }
        }
        Ok(())
    }
}

impl fmt::Display for MilvusAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("milvus://")?;
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        write!(f, "{}", self.host)?;
        if self.port != PORT {
            write!(f, ":{}", self.port)?;
        }
        if self.database.is_empty() { Ok(()) } else { write!(f, "/{}", self.database) }
    }
}

impl fmt::Debug for MilvusAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MilvusAddress({self})")
    }
}

fn decoded(value: &str) -> Result<String> {
    let text = percent_decode_str(value).decode_utf8();
    text.map(String::from).map_err(|_| bad("a part of it is not UTF-8", HINT))
}

/// A name of a database has no other characters: what has may be the rest of a password with a `/` in it.
fn database(name: &str) -> Result<String> {
    if name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return Ok(name.to_owned());
    }
    Err(bad("the name of its database is none", HINT))
}

/// What names of Milvus may begin with.
fn prefix(name: String) -> Result<String> {
    let fits = |b: u8| b.is_ascii_alphanumeric();
    if (1..=48).contains(&name.len()) && name.bytes().all(fits) && !name.as_bytes()[0].is_ascii_digit() {
        return Ok(name);
    }
    Err(bad("`prefix` is none", "use 1 to 48 letters and digits, first a letter"))
}

fn bad(reason: &str, hint: &str) -> Error {
    Error::Address { reason: reason.to_owned(), hint: hint.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read() {
        let of = |url: &str| url.parse::<MilvusAddress>().unwrap_or_else(|e| panic!("{url}: {e}"));
        let found = of(
            "milvus://me:s3cret%3A%2F@db.example:6000/shop?prefix=a1&tls=true&cafile=%2Fa%20b.pem&consistency=session",
        );
        assert_eq!(found.to_string(), "milvus://me@db.example:6000/shop");
        assert_eq!(found.endpoint(), "https://db.example:6000");
        assert_eq!((found.prefix.as_str(), &found.roots), ("a1", &Some("/a b.pem".into())));
        assert_eq!(found.consistency, Consistency::Session);
        assert_eq!(found.credentials().unwrap().as_deref(), Some("me:s3cret:/"));
        assert!(!format!("{found:?}").contains("s3cret"));
        let found = of("milvus://localhost");
        assert_eq!((found.endpoint().as_str(), found.database.as_str()), ("http://localhost:19530", ""));
        assert_eq!(of("milvus://[::1]:7/").endpoint(), "http://[::1]:7");
        assert_eq!(of("milvus://me@localhost").to_string(), "milvus://me@localhost");
    }

    #[test]
    fn what_is_none_is_told_without_a_secret() {
        for (url, expected) in [
            ("milvus://", "cannot be read"),
            ("milvus:///db", "cannot be read"),
            ("milvus://me:s3cret@", "cannot be read"),
            ("milvus://me:s3cret@host:s3cret/db", "port"),
            ("milvus://me:s3cret@host:99999/db", "port"),
            ("milvus://:s3cret@host/db", "no user"),
            ("milvus://te/am:s3cret@host/db", "name of its database"),
            ("milvus://me:12/s3cret@host", "name of its database"),
            ("milvus://me:12#s3cret@host", "`#`"),
            ("milvus://me:s3cret@host/db?s3cret=s3cret", "unknown option"),
            ("milvus://me:s3cret@host/db?tls=s3cret", "`tls`"),
            ("milvus://me:s3cret@host/db?cafile=s3cret", "`tls=true`"),
            ("milvus://me:s3cret@host/db?consistency=s3cret", "`consistency`"),
            ("milvus://me:s3cret@host/db?prefix=s3cret!", "`prefix`"),
            ("milvus://me:s3cret@host/db?index=s3cret", "`index`"),
            ("milvus://me:s3cret@host/db?passfile=%ff", "UTF-8"),
        ] {
            let error = url.parse::<MilvusAddress>().unwrap_err();
            let told = format!("{error} {error:?}");
            assert!(
                told.contains(expected) && told.contains("hint") && !told.contains("s3cret"),
                "{url}: {told}"
            );
        }
    }

    #[test]
    fn passwords_and_tokens_come_from_files() {
        use std::os::unix::fs::PermissionsExt;

        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "t0ken\n").unwrap();
        let with = |start: &str| {
            let url = format!("{start}?passfile={}", file.path().display());
            url.parse::<MilvusAddress>().unwrap().credentials()
        };
        assert_eq!(with("milvus://host").unwrap().as_deref(), Some("t0ken"));
        assert_eq!(with("milvus://me@host").unwrap().as_deref(), Some("me:t0ken"));
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o644)).unwrap();
        let told = with("milvus://me@host").unwrap_err().to_string();
        assert!(told.contains("can be read by others") && told.contains("chmod 600"), "{told}");
    }
}
