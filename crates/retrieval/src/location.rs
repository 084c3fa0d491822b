//! Where collections are: what a user writes for `--data`.

use std::ffi::OsStr;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::engine::Engine;
#[cfg(not(feature = "postgres"))]
use crate::error::Error;
use crate::error::Result;
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
}

impl Location {
    /// Reads `postgres://USER@HOST/DATABASE`, or else the path of a folder; touches neither.
    pub fn parse(text: &OsStr) -> Result<Self> {
        match text
            .to_str()
            .filter(|text| text.starts_with("postgres://") || text.starts_with("postgresql://"))
        {
            Some(url) => database(url),
            None => Ok(Self::Folder(PathBuf::from(text))),
        }
    }

    /// Opens it, or makes what is missing.
    pub fn open(&self, options: &Options) -> Result<Arc<dyn Engine>> {
        Ok(match self {
            Self::Folder(path) => Arc::new(Store::open(path, options)?),
            #[cfg(feature = "postgres")]
            Self::Postgres(address) => Arc::new(Postgres::open(address, options)?),
        })
    }
}

#[cfg(feature = "postgres")]
fn database(url: &str) -> Result<Location> {
    Ok(Location::Postgres(Box::new(url.parse()?)))
}

#[cfg(not(feature = "postgres"))]
fn database(_: &str) -> Result<Location> {
    let reason = "this program was built without PostgreSQL".to_owned();
    Err(Error::Address { reason, hint: "build it with the feature `postgres`, or name a folder".to_owned() })
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => path.display().fmt(f),
            #[cfg(feature = "postgres")]
            Self::Postgres(address) => address.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_and_databases_are_told_apart() {
        for folder in ["data", "/a/postgres", "postgres", "C:\\x", "postgres:/x"] {
            assert_eq!(Location::parse(folder.as_ref()).unwrap(), Location::Folder(folder.into()));
        }
        let found = Location::parse("postgres://me:s3cret@host/db".as_ref());
        if cfg!(feature = "postgres") {
            let found = found.unwrap();
            assert_eq!(found.to_string(), "postgres://me@host/db");
            assert!(!format!("{found:?}").contains("s3cret"));
        } else {
            assert!(found.unwrap_err().to_string().contains("without PostgreSQL"));
        }
    }
}
