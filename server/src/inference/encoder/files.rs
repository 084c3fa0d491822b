//! A hash over the files of a model.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use sha2::{Digest, Sha256};

/// SHA-256 over the contents of files, one after the other, in lower-case hexadecimal digits: of one file what
/// `sha256sum` prints.
pub(crate) fn digest(files: &[PathBuf]) -> io::Result<String> {
    let (mut hasher, mut buffer) = (Sha256::new(), vec![0u8; 1 << 20]);
    for path in files {
        let mut file = File::open(path)?;
        loop {
            let read = file.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            hasher.update(buffer.get(..read).unwrap_or_default());
        }
    }
    Ok(hasher.finalize().iter().map(|b| format!("{b:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_files_are_part_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let all = ["m.onnx", "m.onnx_data"].map(|name| dir.path().join(name));
        std::fs::write(&all[0], "abc").unwrap();
        let known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest(&all[..1]).unwrap(), known, "as FIPS 180 has it");
        std::fs::write(&all[1], "1").unwrap();
        let before = digest(&all).unwrap();
        std::fs::write(&all[1], "2").unwrap();
        assert_ne!(digest(&all).unwrap(), before, "the weights are part of it");
        assert!(digest(&["gone".into()]).is_err());
    }
}
