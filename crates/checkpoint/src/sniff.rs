//! What a file is, by its first bytes.

use occlude_pickle::{Error, Limits, decode};

use crate::format::Format;
use crate::zip::Archive;
use crate::{safetensors, torch};

/// The format, or `None` for something else.
pub(crate) fn format(file: &[u8]) -> Option<Format> {
    if safetensors::looks_like(file) {
        Some(Format::Safetensors)
    } else if Archive::looks_like(file) {
        Some(Format::TorchZip)
    } else if torch::looks_legacy(file) {
        Some(Format::TorchLegacy)
    } else {
        looks_like_pickle(file).then_some(Format::NumpyPickle)
    }
}

/// Protocols 2 and later say so. Older ones begin with a dictionary, a list or a class; text may
/// begin with the same letters, so those have to run for a while first.
fn looks_like_pickle(file: &[u8]) -> bool {
    match file {
        [0x80, 0..=5, ..] => true,
        [b'(' | b'}' | b']' | b'c', ..] => {
            let few = Limits { ops: 64, ..Limits::default() };
            matches!(decode(file, &few), Ok(_) | Err(Error::Limit { .. } | Error::Dangerous { .. }))
        }
        _ => false,
    }
}

/// (first bytes, what it is): what people hand over by mistake.
const OTHERS: [(&[u8], &str); 9] = [
    (
        b"version https://git-lfs",
        "it is a git-lfs pointer, not the file itself; hint: run `git lfs pull` where it came from",
    ),
    (b"<!DOCTYPE", "it is a web page; hint: the download needs another address or a login"),
    (b"<!doctype", "it is a web page; hint: the download needs another address or a login"),
    (b"<html", "it is a web page; hint: the download needs another address or a login"),
    (b"\x1f\x8b", "it is compressed with gzip; hint: unpack it first"),
    (b"7z\xbc\xaf", "it is a 7-Zip archive; hint: unpack it first"),
    (b"\x89HDF", "it is an HDF5 file, as Keras writes them"),
    (b"\x93NUMPY", "it is a single numpy array"),
    (b"{", "it is JSON; hint: name the weights, not their configuration"),
];

/// What a foreign file looks like.
pub(crate) fn looks(file: &[u8]) -> &'static str {
    if file.is_empty() {
        return "it is empty";
    }
    if file.get(257..262) == Some(b"ustar") {
        return "it is a tar archive; hint: unpack it first, or, if PyTorch before 0.2 wrote it, load and save it with PyTorch 1.x";
    }
    if is_onnx(file) {
        return "it is an ONNX model, which has no separate weights; hint: name the checkpoint it was exported from";
    }
    OTHERS
        .iter()
        .find(|(magic, _)| file.starts_with(magic))
        .map_or("it has no known signature (safetensors, torch zip, torch legacy, pickle)", |(_, text)| text)
}

/// A protobuf whose first fields are the IR version and the producer's name.
fn is_onnx(file: &[u8]) -> bool {
    matches!(file, [0x08, 1..=20, 0x12, ..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_files_are_named() {
        for (bytes, word) in [
            (b"".as_slice(), "empty"),
            (b"version https://git-lfs.github.com/spec/v1", "git-lfs"),
            (b"<html>", "web page"),
            (b"\x1f\x8b\x08", "gzip"),
            (b"{\"architectures\": []}", "JSON"),
            (b"\x08\x07\x12\x07pytorch", "ONNX"),
            (b"(hello)", "no known signature"),
            (b"checkpoints are nice\n", "no known signature"),
        ] {
            assert_eq!(format(bytes), None);
            assert!(looks(bytes).contains(word), "{}", looks(bytes));
        }
    }

    #[test]
    fn formats_are_told_by_content() {
        assert_eq!(format(b"\x02\0\0\0\0\0\0\0{}"), Some(Format::Safetensors));
        assert_eq!(format(b"PK\x03\x04"), Some(Format::TorchZip));
        assert_eq!(
            format(b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."),
            Some(Format::TorchLegacy)
        );
        assert_eq!(format(b"L119547037146038801333356L\n."), Some(Format::TorchLegacy));
        assert_eq!(format(b"\x80\x02}."), Some(Format::NumpyPickle));
        assert_eq!(format(b"(dp0\n."), Some(Format::NumpyPickle));
        assert_eq!(format(b"cos\nsystem\n."), Some(Format::NumpyPickle));
    }
}
