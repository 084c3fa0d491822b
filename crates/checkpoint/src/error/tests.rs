//! Every variant of every error is reached by some input, and its message can be read.
//!
//! The lists are checked by the compiler: a new variant does not compile until it is listed, and does
//! not pass until something reaches it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use occlude_encoder::{Arch, Graph, ParamKind};

use super::*;
use crate::{
    Checkpoint, Dtype, LoadOptions, TensorOut, TorchOuter, load_encoder, meta, save_detectron2,
    save_safetensors, save_torch,
};

#[path = "../../tests/attacks/wrap.rs"]
#[allow(dead_code, unreachable_pub)]
mod wrap;

use wrap::{Record, end, legacy, tensor, text, torch_zip, zip};

/// The names of an enum's variants, and the name of a value's.
macro_rules! variants {
    ($function:ident, $all:ident, $type:ident: $($variant:ident)*) => {
        const $all: &[&str] = &[$(stringify!($variant)),*];

        fn $function(error: &$type) -> &'static str {
            match error {
                $($type::$variant { .. } => stringify!($variant),)*
            }
        }
    };
}

variants!(error_name, ERRORS, Error: Io Unrecognised Damaged Tensor Value Layout Setting Arch Strict Whitening Save);
variants!(format_name, FORMATS, FormatError: Safetensors Zip Pickle State);
variants!(zip_name, ZIPS, ZipError: NoDirectory Damaged TooManyRecords Duplicate Compressed Overlap Path
    Encrypted Outside NoPickle TwoPickles);
variants!(state_name, STATES, StateError: NoTensors TorchScript ByteOrder Metadata Legacy StorageMissing
    OutsideStorage Expanded BadTensor TooLarge);
variants!(safetensors_name, SAFETENSORS, SafetensorsError: Truncated HeaderTooLarge Header Size Gap DataLength);
variants!(save_name, SAVES, SaveError: Io Duplicate Reserved Length Dtype);

fn open(bytes: Vec<u8>) -> Error {
    Checkpoint::from_bytes("file", bytes).map(drop).expect_err("refused")
}

fn format_error(bytes: Vec<u8>) -> FormatError {
    match open(bytes) {
        Error::Damaged { reason, .. } => reason,
        other => panic!("{other}"),
    }
}

/// Every name is reached; every message is one line in lower case that ends without a period.
fn assert_all(all: &[&str], reached: &[(&'static str, String)]) {
    let names: BTreeSet<&str> = reached.iter().map(|r| r.0).collect();
    assert_eq!(names, all.iter().copied().collect());
    for (name, message) in reached {
        assert!(
            !message.is_empty() && !message.ends_with('.') && !message.contains('\n'),
            "{name}: {message}"
        );
        assert!(!message.starts_with(char::is_uppercase), "{name}: {message}");
    }
}

fn storage() -> Record<'static> {
    Record::new("a/data/0", &[0; 64])
}

fn state() -> Vec<u8> {
    with_tensor(&tensor("FloatStorage", b"K\x10", b"K\x10\x85", b"K\x01\x85"))
}

fn with_tensor(tensor: &[u8]) -> Vec<u8> {
    [b"\x80\x02}", text("w").as_slice(), tensor, b"s."].concat()
}

/// A sound archive with one more record.
fn archive(record: Record<'_>) -> Vec<u8> {
    zip(&[Record::new("a/data.pkl", &state()), storage(), record])
}

#[test]
fn zip_errors() {
    let sound = zip(&[Record::new("a/data.pkl", &state()), storage()]);
    assert!(Checkpoint::from_bytes("sound", sound.clone()).is_ok());
    let body = &sound[..sound.len() - 22];
    let mut end64 = [b"PK\x06\x06".as_slice(), &44u64.to_le_bytes(), &[0; 12]].concat();
    end64.extend([1 << 40, 1 << 40, 1, 0u64].iter().flat_map(|v| v.to_le_bytes()));
    let locator =
        [b"PK\x06\x07".as_slice(), &[0; 4], &(body.len() as u64).to_le_bytes(), &[1, 0, 0, 0]].concat();
    let other = || Record { name: "a/data/1", ..storage() };
    let files = [
        body.to_vec(),
        [body, &end(2, 0, 0)].concat(),
        [body, &end64, &locator, &end(0xffff, u32::MAX, u32::MAX)].concat(),
        archive(storage()),
        zip(&[Record::new("a/data.pkl", &state()), Record { method: 8, ..storage() }]),
        archive(Record { offset: Some(0), ..other() }),
        archive(Record { name: "../x", ..other() }),
        zip(&[Record::new("a/data.pkl", &state()), Record { flags: 1, ..storage() }]),
        archive(Record { claims: Some(1 << 40), ..other() }),
        zip(&[Record::new("x", b"x")]),
        archive(Record::new("b/data.pkl", b"N.")),
    ];
    let reached = files.map(|file| match format_error(file) {
        FormatError::Zip(error) => (zip_name(&error), error.to_string()),
        other => panic!("{other}"),
    });
    assert_all(ZIPS, &reached);
}

#[test]
fn state_errors() {
    let of = |numel: &[u8], size: &[u8], stride: &[u8]| {
        torch_zip(&with_tensor(&tensor("FloatStorage", numel, size, stride)))
    };
    let scalar = tensor("FloatStorage", b"K\x10", b")", b")");
    let files = [
        torch_zip(b"\x80\x02}."),
        archive(Record::new("a/constants.pkl", b"N.")),
        archive(Record::new("a/byteorder", b"middle")),
        archive(Record::new("a/extra/occlude.json", b"[]")),
        [&legacy(b"N.")[..15], b"\x80\x02K\x01."].concat(),
        zip(&[Record::new("a/data.pkl", &state())]),
        of(b"K\x10", b"K\x02\x85", b"K\x20\x85"),
        of(b"K\x10", b"J\xff\xff\xff\x7f\x85", b"K\0\x85"),
        of(b"K\x10", b"K\x02\x85", b")"),
        torch_zip(&[b"\x80\x02", b"]".repeat(70).as_slice(), &scalar, &b"a".repeat(70), b"."].concat()),
    ];
    let reached = files.map(|file| match format_error(file) {
        FormatError::State(error) => (state_name(&error), error.to_string()),
        other => panic!("{other}"),
    });
    assert_all(STATES, &reached);
}

#[test]
fn safetensors_errors() {
    let file = |len: u64, rest: &str| [&len.to_le_bytes(), rest.as_bytes()].concat();
    let header = |shape: &str, begin: u64, end: u64, data: &str| {
        let json =
            format!("{{\"a\":{{\"dtype\":\"U8\",\"shape\":{shape},\"data_offsets\":[{begin},{end}]}}}}");
        file(json.len() as u64, &(json + data))
    };
    let files = [
        file(9, "{}"),
        file(1 << 30, "{}"),
        file(3, "{x}"),
        header("[3]", 0, 2, "xx"),
        header("[2]", 1, 3, "xxx"),
        header("[2]", 0, 2, "xxx"),
    ];
    let reached = files.map(|file| match format_error(file) {
        FormatError::Safetensors(error) => (safetensors_name(&error), error.to_string()),
        other => panic!("{other}"),
    });
    assert_all(SAFETENSORS, &reached);
}

#[test]
fn format_errors() {
    let files =
        [b"\x02\0\0\0\0\0\0\0{x".to_vec(), b"PK\x03\x04".to_vec(), b"\x80\x02}".to_vec(), legacy(b"N.")];
    let reached = files.map(format_error).map(|error| (format_name(&error), error.to_string()));
    assert_all(FORMATS, &reached);
}

fn save_reason(error: Error) -> (&'static str, String) {
    let message = error.to_string();
    let Error::Save { reason, .. } = error else { panic!("{message}") };
    (save_name(&reason), message)
}

#[test]
fn save_errors() {
    let dir = tempfile::tempdir().expect("folder");
    let path = dir.path().join("x");
    let named = |name: &str| TensorOut::i64(name, 1);
    let bf16 = TensorOut { name: "b".into(), dtype: Dtype::BF16, shape: vec![], data: vec![0; 2].into() };
    let short = TensorOut { data: vec![0; 1].into(), ..bf16.clone() };
    let safe = |path: &Path, tensors: &[TensorOut<'_>]| save_safetensors(path, tensors, &BTreeMap::new());
    let torch = |path: &Path, tensors: &[TensorOut<'_>]| save_torch(path, tensors, &TorchOuter::default());
    let absent = dir.path().join("absent/x");
    let errors = [
        safe(&absent, &[named("a")]),
        torch(&absent, &[named("a")]),
        save_detectron2(&absent, &[named("a")], "me"),
        safe(&path, &[named("a"), named("a")]),
        torch(&path, &[named("a"), named("a")]),
        save_detectron2(&path, &[named("a"), named("a")], "me"),
        safe(&path, &[named("__metadata__")]),
        safe(&path, std::slice::from_ref(&short)),
        torch(&path, &[short]),
        save_detectron2(&path, &[bf16], "me"),
    ];
    let reached = errors.map(|error| save_reason(error.expect_err("refused")));
    assert_all(SAVES, &reached);
    assert!(!path.exists() && std::fs::read_dir(dir.path()).expect("reads").count() == 0);
}

/// A file of one number per parameter of a ResNet-18.
fn encoder(skip: &str, metadata: &[(&str, &str)]) -> (tempfile::TempDir, Checkpoint) {
    let dir = tempfile::tempdir().expect("folder");
    let path = dir.path().join("x.safetensors");
    let params = Graph::new(Arch::ResNet18).params();
    let tensors: Vec<_> = params
        .iter()
        .filter(|p| p.name != skip)
        .map(|p| {
            let dtype = if p.kind == ParamKind::BnCount { Dtype::I64 } else { Dtype::F16 };
            let data = vec![0; dtype.bytes_of(&p.shape).expect("small")];
            TensorOut { name: p.name.clone(), dtype, shape: p.shape.clone(), data: data.into() }
        })
        .collect();
    let metadata = metadata.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    save_safetensors(&path, &tensors, &metadata).expect("saves");
    let checkpoint = Checkpoint::open(&path).expect("opens");
    (dir, checkpoint)
}

#[test]
fn errors() {
    let load = |checkpoint: &Checkpoint| load_encoder(checkpoint, &LoadOptions::default()).map(drop);
    let (_a, unknown) = encoder("", &[(meta::ARCH, "resnet9")]);
    let (_b, incomplete) = encoder("bn1.bias", &[]);
    let (_c, unwhitened) = encoder("", &[(meta::WHITENING, "{}")]);
    let no_encoder = Checkpoint::from_bytes("x.pth", torch_zip(&state())).expect("opens");
    let errors = [
        Checkpoint::open("no/such/file").map(drop),
        Checkpoint::open(std::env::temp_dir()).map(drop),
        Checkpoint::from_bytes("x", b"hello".to_vec()).map(drop),
        Checkpoint::from_bytes("x", b"PK\x03\x04".to_vec()).map(drop),
        load(&no_encoder),
        load(&unknown),
        load(&incomplete),
        load(&unwhitened),
        save_detectron2(Path::new("no/such/file"), &[], "me"),
        // `values.rs` has files with such values.
        Err(Error::Value {
            path: "x.pth".into(),
            name: "w".into(),
            value: f32::NAN,
            at: 0,
            count: 1,
            reason: BadValue::NotFinite,
        }),
        // `layouts.rs` has such a file beside a checkpoint.
        Err(Error::Setting { path: "config.json".into(), setting: "a: 1".into(), what: "it differs" }),
        // A tensor that does not decode: `tensor.rs` has the only ways to make one.
        Err(Error::Tensor { name: "w".into(), reason: "its storage cannot be decoded" }),
    ];
    let reached = errors.map(|result| {
        let error = result.expect_err("refused");
        (error_name(&error), error.to_string())
    });
    assert_all(ERRORS, &reached);
}
