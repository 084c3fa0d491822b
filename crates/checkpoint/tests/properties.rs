//! Round trips of every writer, and strided views against the plain definition.

#[path = "attacks/wrap.rs"]
#[allow(dead_code, unreachable_pub)]
mod wrap;

use std::collections::BTreeMap;
use std::path::PathBuf;

use occlude_checkpoint::{
    Checkpoint, Dtype, TensorOut, TorchOuter, save_detectron2, save_safetensors, save_torch,
};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use tempfile::TempDir;

/// Tensors of any type with distinct names, at least one.
fn tensors() -> impl Strategy<Value = Vec<TensorOut<'static>>> {
    let one = (0..Dtype::ALL.len(), vec(0usize..5, 0..5), any::<u8>());
    btree_map("\\PC{1,24}", one, 1..9).prop_map(|all| {
        let tensor = |(name, (dtype, shape, seed)): (String, (usize, Vec<usize>, u8))| {
            let dtype: Dtype = Dtype::ALL[dtype];
            let len = dtype.bytes_of(&shape).expect("small");
            let data: Vec<u8> = (0..len).map(|k| (k as u8).wrapping_mul(37).wrapping_add(seed)).collect();
            TensorOut { name, dtype, shape, data: data.into() }
        };
        all.into_iter().map(tensor).collect()
    })
}

fn place(name: &str) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("folder");
    let path = dir.path().join(name);
    (dir, path)
}

fn assert_same(got: &Checkpoint, tensors: &[TensorOut<'_>]) {
    assert_eq!(got.names().count(), tensors.len());
    assert!(got.skipped().is_empty());
    for expected in tensors {
        let tensor = got.tensor(&expected.name).expect("present");
        assert_eq!((tensor.dtype, tensor.shape), (expected.dtype, expected.shape.as_slice()));
        assert_eq!(tensor.to_bytes().expect("reads"), expected.data, "{}", expected.name);
    }
}

/// An integer as a pickle has it.
fn int(value: usize) -> Vec<u8> {
    [b"J".as_slice(), &(value as u32).to_le_bytes()].concat()
}

fn tuple(values: &[usize]) -> Vec<u8> {
    [b"(".to_vec(), values.iter().flat_map(|&v| int(v)).collect(), b"t".to_vec()].concat()
}

/// A file with one view, `x`, of one storage.
fn view(legacy: bool, swapped: bool, storage: &[u8], view: (&[usize], usize, &[usize])) -> Vec<u8> {
    let (shape, offset, strides) = view;
    let call = wrap::tensor("FloatStorage", &int(storage.len() / 4), &tuple(shape), &tuple(strides));
    // `wrap::tensor` has no offset: its instruction `K\0` stands behind the persistent id.
    let at = call.windows(4).position(|w| w == b"tQK\0").expect("the offset") + 2;
    let call = [&call[..at], &int(offset), &call[at + 2..]].concat();
    let pickle = [b"\x80\x02}", wrap::text("x").as_slice(), &call, b"s."].concat();
    if legacy {
        let file = wrap::legacy(&pickle);
        let body = &file[..file.len() - b"\x80\x02].".len()];
        let keys = [b"\x80\x02]", wrap::text("0").as_slice(), b"a."].concat();
        return [body, &keys, &(storage.len() as u64 / 4).to_le_bytes(), storage].concat();
    }
    let order: &[u8] = if swapped { b"big" } else { b"little" };
    wrap::zip(&[
        wrap::Record::new("a/data.pkl", &pickle),
        wrap::Record::new("a/byteorder", order),
        wrap::Record::new("a/data/0", storage),
    ])
}

/// Element by element: what strides mean.
fn naive(storage: &[f32], shape: &[usize], offset: usize, strides: &[usize]) -> Option<Vec<f32>> {
    let count: usize = shape.iter().product();
    let element = |mut flat: usize| {
        let mut at = offset;
        for (len, stride) in shape.iter().zip(strides).rev() {
            at += flat % len * stride;
            flat /= len;
        }
        storage.get(at).copied()
    };
    (0..count).map(element).collect()
}

/// Python 2 gives an `OrderedDict` its entries as an argument, and its strings may be of either kind.
#[test]
fn dictionaries_of_python_2_are_unwrapped() {
    let tensor = wrap::tensor("FloatStorage", &int(16), &tuple(&[16]), &tuple(&[1]));
    let pairs = [b"](](U\x01w".as_slice(), &tensor, b"ee"].concat();
    let ordered = [b"ccollections\nOrderedDict\n".as_slice(), &pairs, b"\x85R"].concat();
    let pickle = [b"\x80\x02}U\x0astate_dict".as_slice(), &ordered, b"s."].concat();
    let checkpoint = Checkpoint::from_bytes("x", wrap::torch_zip(&pickle)).expect("opens");
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["w"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn safetensors_come_back(
        tensors in tensors(),
        metadata in btree_map("\\PC{0,20}", ".{0,60}", 0..5),
    ) {
        let (_dir, path) = place("x.safetensors");
        let metadata: BTreeMap<String, String> = metadata;
        save_safetensors(&path, &tensors, &metadata).expect("saves");
        let got = Checkpoint::open(&path).expect("opens");
        assert_same(&got, &tensors);
        prop_assert_eq!(got.metadata(), &metadata);
    }

    #[test]
    fn torch_files_come_back(tensors in tensors()) {
        let (_dir, path) = place("x.pth");
        let outer = TorchOuter { beside: Some(vec![]), ..TorchOuter::default() };
        save_torch(&path, &tensors, &outer).expect("saves");
        let got = Checkpoint::open(&path).expect("opens");
        assert_same(&got, &tensors);
        prop_assert!(got.damaged_records().is_empty());
    }

    #[test]
    fn detectron2_pickles_come_back(tensors in tensors(), author in ".{0,40}") {
        let (_dir, path) = place("x.pkl");
        let tensors: Vec<_> = tensors.into_iter().filter(|t| t.dtype != Dtype::BF16).collect();
        prop_assume!(!tensors.is_empty());
        save_detectron2(&path, &tensors, &author).expect("saves");
        let got = Checkpoint::open(&path).expect("opens");
        assert_same(&got, &tensors);
        prop_assert_eq!(got.metadata().get("__author__"), Some(&author));
        prop_assert_eq!(got.metadata().get("matching_heuristics").map(String::as_str), Some("true"));
    }

    #[test]
    fn views_are_what_their_strides_say(
        dims in vec((0usize..5, 0usize..9), 0..5),
        offset in 0usize..12,
        len in 1usize..90,
        legacy in any::<bool>(),
        swapped in any::<bool>(),
    ) {
        let (shape, strides): (Vec<_>, Vec<_>) = dims.into_iter().unzip();
        let values: Vec<f32> = (0..len).map(|i| i as f32 - 7.5).collect();
        let swapped = swapped && !legacy;
        let bytes = |x: &f32| if swapped { x.to_be_bytes() } else { x.to_le_bytes() };
        let storage: Vec<u8> = values.iter().flat_map(bytes).collect();
        let file = view(legacy, swapped, &storage, (&shape, offset, &strides));
        let opened = Checkpoint::from_bytes("x", file);
        match naive(&values, &shape, offset, &strides) {
            Some(expected) => {
                let checkpoint = opened.expect("in bounds");
                let tensor = checkpoint.tensor("x").expect("present");
                prop_assert_eq!(tensor.to_f32().expect("reads"), expected);
                prop_assert_eq!(tensor.shape, shape);
            }
            None => prop_assert!(opened.is_err()),
        }
    }
}
