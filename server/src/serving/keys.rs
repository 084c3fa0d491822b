//! API keys: only their hashes are kept, and comparing takes the same time whatever differs.

use std::path::{Path, PathBuf};

use axum::http::{HeaderMap, header};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use occlude_preprocess::files::utf8;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

/// Bytes of a new key: as many as its hash has.
const KEY_BYTES: usize = 32;

/// What a key begins with, so that tools which look for leaked secrets find it.
const PREFIX: &str = "ock_";

type Hash = [u8; 32];

/// The keys that are accepted; none at all means that everybody is.
#[derive(Debug, Clone, Default)]
pub struct Keys {
    rows: Vec<(String, Hash)>,
}

/// Why a file of keys cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum KeyError {
    /// It cannot be read or written.
    #[error("cannot {verb} the keys in `{}`: {source}; hint: `occlude-serve key NAME --file FILE` makes one", .path.display())]
    File {
        /// `read` or `write`.
        verb: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    /// A line is no key.
    #[error("`{}`, line {line}: expected `NAME sha256:` and 64 hexadecimal digits, as `occlude-serve key` writes them", .path.display())]
    Line {
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// A name that is there already, or none that can be written in a line.
    #[error("`{name}` cannot name a new key: {why}")]
    Name { name: String, why: &'static str },
    /// No keys: with a file of keys nobody could ask anything.
    #[error("`{}` has no keys; hint: `occlude-serve key NAME --file {}` adds one", .path.display(), .path.display())]
    Empty { path: PathBuf },
    /// The system gave no random bytes.
    #[error("cannot get random bytes for a key: {0}")]
    Random(getrandom::Error),
}

impl Keys {
    /// Reads `NAME sha256:HEX` lines; empty lines, those that begin with `#` and a byte order mark are skipped.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let file = |source| KeyError::File { verb: "read", path: path.to_owned(), source };
        let text = std::fs::read(path).and_then(utf8).map_err(file)?;
        let lines = text.lines().enumerate().map(|(i, l)| (i + 1, l.trim()));
        let lines = lines.filter(|(_, l)| !l.is_empty() && !l.starts_with('#'));
        let parse = |(line, text)| row(text).ok_or_else(|| KeyError::Line { path: path.to_owned(), line });
        let rows = lines.map(parse).collect::<Result<Vec<_>, _>>()?;
        if rows.is_empty() {
            return Err(KeyError::Empty { path: path.to_owned() });
        }
        Ok(Self { rows })
    }

    /// Whether requests need a key.
    pub fn required(&self) -> bool {
        !self.rows.is_empty()
    }

    /// The name of the key that a request carries: `Authorization: Bearer KEY` or `x-api-key: KEY`.
    pub(crate) fn holder(&self, headers: &HeaderMap) -> Option<&str> {
        let hash: Hash = Sha256::digest(presented(headers)?).into();
        // Every row is compared, so that the time does not tell which one came close.
        let mut found = u64::MAX;
        for (i, (_, known)) in (0u64..).zip(&self.rows) {
            let same: Choice = known.ct_eq(&hash);
            found.conditional_assign(&i, same);
        }
        usize::try_from(found).ok().and_then(|i| self.rows.get(i)).map(|(name, _)| name.as_str())
    }
}

fn presented(headers: &HeaderMap) -> Option<&[u8]> {
    if let Some(value) = headers.get("x-api-key") {
        return Some(value.as_bytes());
    }
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, key) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| key.trim_ascii())
}

fn row(line: &str) -> Option<(String, Hash)> {
    let (name, rest) = line.split_once(char::is_whitespace)?;
    let hex = rest.trim().strip_prefix("sha256:")?;
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    let mut hash = Hash::default();
    for (byte, pair) in hash.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some((name.to_owned(), hash))
}

/// Makes a key, adds its hash to the file, and gives the key: it is kept nowhere.
pub fn create(name: &str, path: &Path) -> Result<String, KeyError> {
    use std::io::Write;

    let wrong = |why| KeyError::Name { name: name.to_owned(), why };
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
    if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
        return Err(wrong("expected 1 to 64 letters, digits and `-_.@`"));
    }
    match Keys::read(path) {
        Ok(keys) if keys.rows.iter().any(|(known, _)| known == name) => {
            return Err(wrong("the file already has a key of this name; delete its line to replace it"));
        }
        Ok(_) | Err(KeyError::Empty { .. }) => {}
        // A line more would spoil what is somebody else's file, a model for example.
        Err(error) if path.is_file() => return Err(error),
        Err(_) => {}
    }
    let mut bytes = [0u8; KEY_BYTES];
    getrandom::fill(&mut bytes).map_err(KeyError::Random)?;
    let key = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes));
    let hash: String = Sha256::digest(&key).iter().map(|b| format!("{b:02x}")).collect();
    let file = |source| KeyError::File { verb: "write", path: path.to_owned(), source };
    let mut out =
        std::fs::OpenOptions::new().create(true).append(true).read(true).open(path).map_err(file)?;
    // In one write: two who add keys at the same time do not mix theirs.
    let line =
        ends_in_a_line(&out).map(|ends| format!("{}{name} sha256:{hash}\n", if ends { "" } else { "\n" }));
    line.and_then(|line| out.write_all(line.as_bytes())).and_then(|()| out.sync_all()).map_err(file)?;
    Ok(key)
}

/// Whether what is appended begins a line of its own; editors may leave the last one open.
fn ends_in_a_line(file: &std::fs::File) -> std::io::Result<bool> {
    use std::os::unix::fs::FileExt;

    let Some(last) = file.metadata()?.len().checked_sub(1) else { return Ok(true) };
    let mut byte = [0];
    file.read_exact_at(&mut byte, last)?;
    Ok(byte == *b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::{HeaderName, HeaderValue};

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn keys_open_by_either_header_and_are_not_in_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        let (alice, bob) = (create("alice", &path).unwrap(), create("bob", &path).unwrap());
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains(&alice) && !text.contains(&bob) && text.lines().count() == 2);
        let keys = Keys::read(&path).unwrap();
        assert!(keys.required());
        assert_eq!(keys.holder(&headers("authorization", &format!("Bearer {alice}"))), Some("alice"));
        assert_eq!(keys.holder(&headers("authorization", &format!("bearer  {bob} "))), Some("bob"));
        assert_eq!(keys.holder(&headers("x-api-key", &bob)), Some("bob"));
        for wrong in ["Bearer ", "Bearer x", "Basic eDp5", "B", &alice] {
            assert_eq!(keys.holder(&headers("authorization", wrong)), None, "{wrong}");
        }
        assert_eq!(keys.holder(&HeaderMap::new()), None);
        assert!(matches!(create("bob", &path), Err(KeyError::Name { .. })), "a second bob");
        assert!(matches!(create("a b", &path), Err(KeyError::Name { .. })));
    }

    #[test]
    fn files_of_other_editors_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        let key = create("alice", &path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap().replace('\n', "\r\n");
        let wide: Vec<u8> = text.encode_utf16().flat_map(u16::to_be_bytes).collect();
        for bytes in [[b"\xef\xbb\xbf", text.as_bytes()].concat(), [b"\xfe\xff".as_slice(), &wide].concat()] {
            std::fs::write(&path, bytes).unwrap();
            let keys = Keys::read(&path).unwrap();
            assert_eq!(keys.holder(&headers("x-api-key", &key)), Some("alice"));
        }
        std::fs::write(&path, b"caf\xe9 sha256:").unwrap();
        let told = Keys::read(&path).unwrap_err().to_string();
        assert!(told.contains("line 1 is not UTF-8"), "{told}");
    }

    #[test]
    fn a_last_line_without_its_end_stays_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        let alice = create("alice", &path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.trim_end()).unwrap();
        let bob = create("bob", &path).unwrap();
        let keys = Keys::read(&path).unwrap();
        assert_eq!(keys.holder(&headers("x-api-key", &alice)), Some("alice"));
        assert_eq!(keys.holder(&headers("x-api-key", &bob)), Some("bob"));
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 2);
    }

    #[test]
    fn files_that_hold_no_keys_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        assert!(matches!(Keys::read(&path), Err(KeyError::File { verb: "read", .. })));
        std::fs::write(&path, "# nobody\n\n").unwrap();
        assert!(matches!(Keys::read(&path), Err(KeyError::Empty { .. })));
        for line in ["alice", "alice secret", "alice sha256:12", &format!("alice sha256:{}", "é".repeat(32))]
        {
            std::fs::write(&path, format!("# keys\n{line}\n")).unwrap();
            assert!(matches!(Keys::read(&path), Err(KeyError::Line { line: 2, .. })), "{line}");
        }
        assert!(matches!(create("a", dir.path()), Err(KeyError::File { verb: "write", .. })));
        for bytes in [b"\x08\x09 a model".as_slice(), b"\xff\xd8\xff\xe0 a photo", b"host = \"::\"\n"] {
            std::fs::write(&path, bytes).unwrap();
            let told = create("a", &path).unwrap_err().to_string();
            assert!(told.contains(&path.display().to_string()), "{told}");
            assert_eq!(std::fs::read(&path).unwrap(), bytes, "somebody else's file stays as it is");
        }
        std::fs::write(&path, "# nobody yet\n").unwrap();
        create("a", &path).unwrap();
        assert!(!Keys::default().required());
    }
}
