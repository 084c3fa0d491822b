//! Where collections are: what a user writes for `--data`.

use std::ffi::OsStr;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::engine::Engine;
#[cfg(not(all(feature = "milvus", feature = "postgres")))]
use crate::error::Error;
use crate::error::Result;
#[cfg(feature = "milvus")]
use crate::milvus::{Milvus, MilvusAddress};
#[cfg(feature = "postgres")]
use crate::postgres::{Address, Postgres};
use crate::store::{Options, Store};

/// A folder of this machine, or a database. `Display` and `Debug` leave passwords out.
#[derive(Debug, Clone, PartialEq)]
pub enum Location {
    /// A folder with SQLite's file, for one process at a time.
    Folder(PathBuf),
    /// A database of PostgreSQL, for any number of processes.
    #[cfg(feature = "postgres")]
    Postgres(Box<Address>),
    /// A database of Milvus, for any number of processes.
    #[cfg(feature = "milvus")]
    Milvus(Box<MilvusAddress>),
}

impl Location {
    /// Reads `postgres://USER@HOST/DATABASE`, `milvus://USER@HOST/DATABASE`, or else the path of a folder; touches none.
    pub fn parse(text: &OsStr) -> Result<Self> {
        let scheme = text.to_str().and_then(|url| Some((url.split_once("://")?.0, url)));
        match scheme {
            Some(("postgres" | "postgresql", url)) => postgres(url),
            Some(("milvus", url)) => milvus(url),
            _ => Ok(Self::Folder(PathBuf::from(text))),
        }
    }

    /// Opens it, or makes what is missing.
    pub fn open(&self, options: &Options) -> Result<Arc<dyn Engine>> {
        Ok(match self {
            Self::Folder(path) => Arc::new(Store::open(path, options)?),
            #[cfg(feature = "postgres")]
            Self::Postgres(address) => Arc::new(Postgres::open(address, options)?),
            #[cfg(feature = "milvus")]
            Self::Milvus(address) => Arc::new(Milvus::open(address)?),
        })
    }
}

#[cfg(feature = "postgres")]
fn postgres(url: &str) -> Result<Location> {
    Ok(Location::Postgres(Box::new(url.parse()?)))
}

#[cfg(not(feature = "postgres"))]
fn postgres(_: &str) -> Result<Location> {
    Err(without("PostgreSQL", "postgres"))
}

#[cfg(feature = "milvus")]
fn milvus(url: &str) -> Result<Location> {
    Ok(Location::Milvus(Box::new(url.parse()?)))
}

#[cfg(not(feature = "milvus"))]
fn milvus(_: &str) -> Result<Location> {
    Err(without("Milvus", "milvus"))
}

#[cfg(not(all(feature = "milvus", feature = "postgres")))]
fn without(what: &str, feature: &str) -> Error {
    let reason = format!("this program was built without {what}");
    Error::Address { reason, hint: format!("build it with the feature `{feature}`, or name a folder") }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => path.display().fmt(f),
            #[cfg(feature = "postgres")]
            Self::Postgres(address) => address.fmt(f),
            #[cfg(feature = "milvus")]
            Self::Milvus(address) => address.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_and_databases_are_told_apart() {
        for folder in ["data", "/a/postgres", "postgres", "C:\\x", "postgres:/x", "milvus", "./milvus://x"] {
            assert_eq!(Location::parse(folder.as_ref()).unwrap(), Location::Folder(folder.into()));
        }
        for (url, shown, name, there) in [
            (
                "postgres://me:s3cret@host/db",
                "postgres://me@host/db",
                "PostgreSQL",
                cfg!(feature = "postgres"),
            ),
            ("milvus://me:s3cret@host/db", "milvus://me@host/db", "Milvus", cfg!(feature = "milvus")),
        ] {
            let found = Location::parse(url.as_ref());
            if there {
                let found = found.unwrap();
                assert_eq!(found.to_string(), shown);
                assert!(!format!("{found:?}").contains("s3cret"));
            } else {
                assert!(found.unwrap_err().to_string().contains(&format!("without {name}")));
            }
        }
    }
}
