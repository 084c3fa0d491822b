//! Files with secrets.

use std::path::Path;

use crate::error::{Error, Result};

/// The text of a file that nobody else can read.
pub(crate) fn read(path: &Path) -> Result<String> {
    use std::os::unix::fs::PermissionsExt;

    let io = |reason| Error::Io { path: path.to_owned(), reason };
    if std::fs::metadata(path).map_err(io)?.permissions().mode() & 0o077 != 0 {
        return Err(Error::Address {
            reason: format!("the password file `{}` can be read by others", path.display()),
            hint: format!("`chmod 600 {}`", path.display()),
        });
    }
    std::fs::read_to_string(path).map_err(io)
}
