//! Where the collections are, as it was given.

use std::ffi::OsString;
use std::fmt;

use occlude_retrieval::Location;

/// A folder, or the address of a database. The latter may hold a password: `Debug` shows neither, and nothing can be wrong
/// with the value while flags are read, for what is wrong is told with the value.
#[derive(Clone, PartialEq, Eq)]
pub struct Data(OsString);

impl Data {
    /// What it means.
    pub fn location(&self) -> occlude_retrieval::Result<Location> {
        Location::parse(&self.0)
    }

    /// For clap.
    pub(crate) fn parser() -> impl clap::builder::TypedValueParser<Value = Self> {
        use clap::builder::TypedValueParser;
        clap::builder::OsStringValueParser::new().map(Self::from)
    }
}

impl From<OsString> for Data {
    fn from(given: OsString) -> Self {
        Self(given)
    }
}

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.location() {
            Ok(location) => write!(f, "Data({location})"),
            Err(_) => f.write_str("Data(..)"),
        }
    }
}

/// Whether a text may hold the password of a database.
pub(super) fn is_secret(text: &str) -> bool {
    ["milvus://", "postgres://", "postgresql://"].iter().any(|scheme| text.contains(scheme))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_shown() {
        for scheme in ["postgres", "milvus"] {
            for rest in ["me:s3cret@host/db", "me:s3cret@host:x/db", "me:s3cret"] {
                let text = format!("{scheme}://{rest}");
                assert!(is_secret(&text));
                let told = format!("{:?}", Data::from(OsString::from(text)));
                assert!(told.starts_with("Data(") && !told.contains("s3cret"), "{told}");
            }
        }
        assert_eq!(format!("{:?}", Data::from(OsString::from("a/b"))), "Data(a/b)");
    }
}
