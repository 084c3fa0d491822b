//! Checkpoints that Python wrote, in every format; `golden/make.py` made them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use occlude_checkpoint::{Checkpoint, Dtype, Error, Format, LoadOptions, match_encoder};
use occlude_encoder::Arch;

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn open(name: &str) -> Checkpoint {
    Checkpoint::open(path(name)).unwrap_or_else(|e| panic!("{e}"))
}

/// Same names, types, shapes and bytes.
fn assert_same(got: &Checkpoint, expected: &Checkpoint) {
    let names = |c: &Checkpoint| c.names().map(str::to_owned).collect::<BTreeSet<_>>();
    assert_eq!(names(got), names(expected), "{}", got.path().display());
    for expected in expected.tensors() {
        let got = got.tensor(expected.name).expect("present");
        assert_eq!((got.dtype, got.shape), (expected.dtype, expected.shape), "{}", expected.name);
        let (a, b) = (got.to_bytes().expect("decodes"), expected.to_bytes().expect("decodes"));
        assert_eq!(a, b, "{}", expected.name);
        let (a, b) = (got.to_f32().expect("decodes"), expected.to_f32().expect("decodes"));
        assert_eq!(a, b, "{}", expected.name);
    }
}

#[test]
fn torch_files_of_both_formats_and_byte_orders() {
    let expected = open("expected_state.safetensors");
    assert_eq!(expected.metadata().get("source").map(String::as_str), Some("make.py"));
    for (name, format) in [
        ("state_zip.pth", Format::TorchZip),
        ("state_big.pth", Format::TorchZip),
        ("state_legacy.pth", Format::TorchLegacy),
    ] {
        let got = open(name);
        assert_eq!(got.format(), format);
        assert_same(&got, &expected);
        let metadata = |key: &str| got.metadata().get(key).map(String::as_str);
        assert_eq!(metadata("epoch"), Some("3"));
        assert_eq!(metadata("arch"), Some("resnet18"));
        assert_eq!(metadata("best"), Some("0.5"));
        assert_eq!(metadata("args.lr"), Some("0.03"));
        assert_eq!(got.skipped().iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["complex"]);
        assert!(got.skipped()[0].reason.contains("ComplexFloatStorage"));
        assert!(got.damaged_records().is_empty());
    }
}

#[test]
fn every_type_is_in_the_golden_files() {
    let types: BTreeSet<Dtype> = open("state_zip.pth").tensors().map(|t| t.dtype).collect();
    assert_eq!(types, Dtype::ALL.into_iter().collect());
}

#[test]
fn names_keep_the_order_of_the_file() {
    let names: Vec<String> = open("state_zip.pth").names().take(3).map(str::to_owned).collect();
    assert_eq!(names, ["module.base", "module.transposed", "module.offset"]);
}

/// Parameters with attributes, subclasses, buffers, overlapping views, and what real runs save beside
/// their tensors.
#[test]
fn other_kinds_of_tensors_are_read_or_named() {
    let expected = open("expected_kinds.safetensors");
    for name in ["kinds_zip.pth", "kinds_legacy.pth"] {
        let got = open(name);
        assert_same(&got, &expected);
        let mut skipped: Vec<_> =
            got.skipped().iter().map(|s| (s.name.as_str(), s.reason.as_str())).collect();
        skipped.sort_unstable();
        let reasons = [
            ("conjugated", "conjugated"),
            ("eighth", "`float8_e4m3fn`"),
            ("imaginary", "ComplexDoubleStorage"),
            ("quantised", "_rebuild_qtensor"),
            ("sparse", "_rebuild_sparse_tensor"),
            ("wide", "`uint16`"),
        ];
        assert_eq!(skipped.iter().map(|s| s.0).collect::<Vec<_>>(), reasons.map(|r| r.0), "{name}");
        for ((_, reason), (_, word)) in skipped.iter().zip(reasons) {
            assert!(reason.contains(word), "{name}: {reason}");
        }
    }
}

#[test]
fn whole_modules_have_the_names_of_their_state_dict() {
    assert_same(&open("module_zip.pth"), &open("expected_module.safetensors"));
    let parallel = open("parallel_zip.pth");
    let names: Vec<&str> = parallel.names().collect();
    assert!(names.iter().all(|name| name.starts_with("module.")), "{names:?}");
    assert_eq!(names.len(), open("module_zip.pth").names().count());
}

/// A part of MoCo's checkpoint is not taken for the whole.
#[test]
fn a_part_of_an_encoder_is_reported() {
    let checkpoint = open("part_moco.pth");
    let err = match_encoder(&checkpoint, &LoadOptions::default()).expect_err("a part").to_string();
    for text in ["resnet50", "`module.encoder_q.`", "5 matched, 261 missing", "and 253 more", "1 unused"] {
        assert!(err.contains(text), "`{text}` not in: {err}");
    }
    let partial = LoadOptions { partial: true, ..LoadOptions::default() };
    let found = match_encoder(&checkpoint, &partial).expect("asked for");
    assert_eq!((found.arch, found.report.matched), (Arch::ResNet50, 5));
}

#[test]
fn numpy_pickles_of_every_protocol() {
    let expected = open("expected_numpy.safetensors");
    for protocol in 0..=5 {
        let got = open(&format!("numpy_p{protocol}.pkl"));
        assert_eq!(got.format(), Format::NumpyPickle);
        assert_same(&got, &expected);
        assert_eq!(got.metadata().get("__author__").map(String::as_str), Some("make.py"));
        assert!(got.skipped().is_empty(), "{:?}", got.skipped());
    }
}

#[test]
fn python_2_pickles() {
    let got = open("caffe2.pkl");
    let tensor = got.tensor("stem.weight").expect("present");
    assert_eq!(tensor.to_f32().expect("decodes"), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
}

#[test]
fn attacks_are_named_and_not_run() {
    for name in ["attack_zip.pth", "attack_legacy.pth"] {
        let err = Checkpoint::open(path(name)).expect_err("refused");
        assert!(matches!(err, Error::Damaged { .. }), "{err}");
        let text = err.to_string();
        assert!(text.contains("`posix.system`") && text.contains("nothing was executed"), "{text}");
    }
}

#[test]
fn a_flipped_bit_in_a_storage_is_reported() {
    let mut bytes = std::fs::read(path("state_zip.pth")).expect("reads");
    // The doubles lie in a storage of their own.
    let needle: Vec<u8> = (0..24).flat_map(|i| ((f64::from(i) - 12.0) / 7.0).to_le_bytes()).collect();
    let at = bytes.windows(needle.len()).position(|w| w == needle).expect("the doubles");
    bytes[at] ^= 1;
    let checkpoint = Checkpoint::from_bytes("flipped.pth", bytes).expect("opens");
    let damaged = checkpoint.damaged_records();
    assert!(damaged.len() == 1 && damaged[0].contains("/data/"), "{damaged:?}");
}
