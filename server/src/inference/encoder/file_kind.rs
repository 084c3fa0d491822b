//! What a file is that was given for a model and is none.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::error::LoadError;

/// Endings of checkpoints, which have to be exported first.
const CHECKPOINTS: [&str; 7] = ["pth", "pt", "ckpt", "safetensors", "pkl", "bin", "tar"];

/// Whether a file can be a model, before anything is loaded.
pub(crate) fn check(path: &Path, name: &str) -> Result<(), LoadError> {
    let path = path.to_owned();
    let Ok(data) = std::fs::metadata(&path) else {
        let given = format!("{name}={}", path.display());
        let stem = path.file_stem().is_some_and(|s| s.to_string_lossy() == name);
        let read = if stem { String::new() } else { format!(" (`{given}` was read as NAME=FILE)") };
        return Err(LoadError::Missing { path, read });
    };
    if data.is_dir() {
        let hint = in_folder(&path);
        return Err(LoadError::NoModel { path, what: "a folder", hint });
    }
    let mut start = Vec::new();
    let read = File::open(&path).and_then(|file| file.take(64).read_to_end(&mut start));
    if let Err(error) = read {
        return Err(LoadError::Session { path, reason: error.to_string() });
    }
    if start.is_empty() {
        let hint = "copy it again, or export it again with `occlude-export onnx`".to_owned();
        return Err(LoadError::NoModel { path, what: "empty", hint });
    }
    if start.starts_with(b"version https://git-lfs") {
        let hint = "`git lfs pull` fetches the file itself".to_owned();
        return Err(LoadError::NoModel { path, what: "a Git LFS pointer", hint });
    }
    if is_checkpoint(&path, &start) {
        let out = path.with_extension("onnx");
        let hint =
            format!("`occlude-export onnx {} {}` turns it into a model", path.display(), out.display());
        return Err(LoadError::NoModel { path, what: "a checkpoint", hint });
    }
    Ok(())
}

/// By its first bytes (a zip archive or pickle of torch, the JSON of safetensors), or by its ending where they are not
/// those of a protobuf message that begins with `ir_version`.
fn is_checkpoint(path: &Path, start: &[u8]) -> bool {
    let ending = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    let pickle = start.first() == Some(&0x80) && start.get(1).is_some_and(|v| (2..=5).contains(v));
    let safetensors = start.get(8) == Some(&b'{') && start.get(4..8) == Some(&[0u8; 4][..]);
    let onnx = start.first() == Some(&8);
    start.starts_with(b"PK\x03\x04")
        || pickle
        || safetensors
        || (!onnx && CHECKPOINTS.contains(&ending.as_str()))
}

/// What of a folder's files is meant, perhaps.
fn in_folder(path: &Path) -> String {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten().map(|e| e.path());
    let mut files: Vec<PathBuf> = entries.collect();
    files.sort();
    let ends = |p: &&PathBuf, endings: &[&str]| {
        p.extension().is_some_and(|e| endings.contains(&e.to_string_lossy().to_ascii_lowercase().as_str()))
    };
    if let Some(model) = files.iter().find(|p| ends(p, &["onnx"])) {
        return format!("name the file, like `{}`", model.display());
    }
    match files.iter().find(|p| ends(p, &CHECKPOINTS)) {
        Some(checkpoint) => {
            format!(
                "`occlude-export onnx {} model.onnx` turns a checkpoint in it into a model",
                checkpoint.display()
            )
        }
        None => "name a file that `occlude-export onnx` wrote".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_model_is_called_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let told = |name: &str| check(&path(name), "m").unwrap_err().to_string();
        let cases: [(&str, &[u8], &str, &str); 7] = [
            ("a.pth", b"PK\x03\x04....", "a checkpoint", "occlude-export onnx"),
            ("b.onnx", b"\x80\x02}q\x00", "a checkpoint", "occlude-export onnx"),
            ("c.safetensors", b"\x40\0\0\0\0\0\0\0{\"a\"", "a checkpoint", "c.onnx"),
            ("d.weights", b"\x40\0\0\0\0\0\0\0{\"a\"", "a checkpoint", "occlude-export onnx"),
            ("e.ckpt", b"whatever it is", "a checkpoint", "occlude-export onnx"),
            ("f.onnx", b"", "empty", "export"),
            ("g.onnx", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS", "git lfs pull"),
        ];
        for (name, bytes, what, hint) in cases {
            std::fs::write(path(name), bytes).unwrap();
            let told = told(name);
            let (message, advice) = told.split_once("; hint: ").unwrap();
            assert!(message.contains(name) && message.contains(what) && advice.contains(hint), "{told}");
        }
        assert!(told("").contains("a folder") && told("").contains("b.onnx"), "{}", told(""));
        std::fs::create_dir(path("run")).unwrap();
        assert!(told("run").contains("hint: name a file"));
        std::fs::write(path("run/last.safetensors"), "x").unwrap();
        assert!(told("run").contains("occlude-export onnx") && told("run").contains("last.safetensors"));
        assert!(told("gone.onnx").contains("=") && told("gone.onnx").contains("NAME=FILE"));
        for fine in ["h.onnx", "i.bin"] {
            std::fs::write(path(fine), b"\x08\x09more").unwrap();
            assert!(check(&path(fine), "m").is_ok(), "{fine}");
        }
    }
}
