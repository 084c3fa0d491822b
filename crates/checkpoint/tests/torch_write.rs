//! What `save_torch` writes: read back here, by PyTorch, and strictly by torchvision.

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::{encoder_tensors, python};
use occlude_checkpoint::{
    Checkpoint, Dtype, Error, Format, LoadOptions, SaveError, TensorOut, TorchOuter, TorchValue,
    load_encoder, meta, save_safetensors, save_torch,
};
use occlude_encoder::Arch;

/// One tensor of every type, a scalar and an empty one.
fn every_type() -> Vec<TensorOut<'static>> {
    let mut tensors: Vec<_> = Dtype::ALL
        .into_iter()
        .map(|dtype| {
            let modulus = if dtype == Dtype::Bool { 2 } else { 120 };
            let data: Vec<u8> = (0..6 * dtype.size()).map(|i| (i % modulus) as u8).collect();
            TensorOut { name: format!("x.{dtype}"), dtype, shape: vec![2, 3], data: data.into() }
        })
        .collect();
    tensors.push(TensorOut::i64("count", -7));
    tensors.push(TensorOut {
        name: "none".into(),
        dtype: Dtype::F32,
        shape: vec![0, 3],
        data: vec![].into(),
    });
    tensors
}

fn moco(epoch: i64, arch: &str) -> TorchOuter {
    let beside = vec![
        ("epoch".to_owned(), TorchValue::Int(epoch)),
        ("arch".to_owned(), TorchValue::Str(arch.to_owned())),
        ("best".to_owned(), TorchValue::Float(0.5)),
    ];
    TorchOuter { beside: Some(beside), metadata: BTreeMap::from([(meta::ARCH.to_owned(), arch.to_owned())]) }
}

fn assert_same(got: &Checkpoint, tensors: &[TensorOut<'_>]) {
    assert_eq!(got.names().collect::<Vec<_>>(), tensors.iter().map(|t| t.name.as_str()).collect::<Vec<_>>());
    for expected in tensors {
        let tensor = got.tensor(&expected.name).expect("present");
        assert_eq!((tensor.dtype, tensor.shape), (expected.dtype, expected.shape.as_slice()));
        assert_eq!(tensor.to_bytes().expect("reads"), expected.data);
    }
}

/// Runs a Python program on `arguments`; its last line must be `ok`.
fn check_in_python(program: &str, arguments: &[&Path]) {
    let output =
        python().arg("-W").arg("error").arg("-c").arg(program).args(arguments).output().expect("runs");
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.trim().ends_with("ok"), "{text}");
}

#[test]
fn comes_back_with_its_metadata() {
    let dir = tempfile::tempdir().expect("folder");
    let path = dir.path().join("x.pth");
    save_torch(&path, &every_type(), &moco(200, "resnet50")).expect("saves");
    let got = Checkpoint::open(&path).expect("opens");
    assert_eq!(got.format(), Format::TorchZip);
    assert_same(&got, &every_type());
    for (key, value) in [("epoch", "200"), ("arch", "resnet50"), ("best", "0.5"), (meta::ARCH, "resnet50")] {
        assert_eq!(got.metadata().get(key).map(String::as_str), Some(value));
    }
    assert!(got.damaged_records().is_empty() && got.skipped().is_empty());
}

#[test]
fn the_same_tensors_give_the_same_bytes() {
    let dir = tempfile::tempdir().expect("folder");
    let [a, b] = ["a.pth", "b.pth"].map(|name| {
        let path = dir.path().join(name);
        save_torch(&path, &every_type(), &moco(1, "resnet18")).expect("saves");
        std::fs::read(path).expect("reads")
    });
    assert!(a == b);
}

/// Every way in which people load a file; the safetensors library reads the expected values.
const LOADS: &str = "
import sys, zipfile, torch, safetensors.torch
path, expected = sys.argv[1], safetensors.torch.load_file(sys.argv[2])
for options in [dict(weights_only=True), dict(weights_only=False), dict(weights_only=True, mmap=True)]:
    loaded = torch.load(path, **options)
    assert loaded['epoch'] == 200 and loaded['arch'] == 'resnet50' and loaded['best'] == 0.5
    state = loaded['state_dict']
    assert type(state).__name__ == 'OrderedDict' and sorted(state) == sorted(expected)
    for name, tensor in state.items():
        other = expected[name]
        assert tensor.dtype == other.dtype and tensor.shape == other.shape and tensor.is_contiguous(), name
        assert tensor.flatten().view(torch.uint8).equal(other.flatten().view(torch.uint8)), name
archive = zipfile.ZipFile(path)
assert archive.testzip() is None
assert torch.serialization.get_unsafe_globals_in_checkpoint(path) == []
reader = torch._C.PyTorchFileReader(path)
assert len(reader.serialization_id()) == 40
assert all(reader.get_record_offset(f'data/{i}') % 64 == 0 for i in range(len(state)))
torch.save(loaded, path + '.again')
print('ok')
";

#[test]
fn torch_loads_it_in_every_way() {
    let dir = tempfile::tempdir().expect("folder");
    let (path, expected) = (dir.path().join("x.pth"), dir.path().join("x.safetensors"));
    save_torch(&path, &every_type(), &moco(200, "resnet50")).expect("saves");
    save_safetensors(&expected, &every_type(), &BTreeMap::new()).expect("saves");
    check_in_python(LOADS, &[&path, &expected]);
    assert_same(&Checkpoint::open(dir.path().join("x.pth.again")).expect("opens"), &every_type());
}

/// torchvision without its classifier, then as MoCo's linear evaluation takes a checkpoint apart.
const SCRIPTS: &str = "
import sys, torch, torchvision
bare, moco = sys.argv[1:]
model = torchvision.models.resnet18()
model.fc = torch.nn.Identity()
model.load_state_dict(torch.load(bare, weights_only=True), strict=True)
embedding = model.eval()(torch.ones(1, 3, 64, 64))

checkpoint = torch.load(moco, map_location='cpu')
state = checkpoint['state_dict']
for key in list(state):
    if key.startswith('module.encoder_q') and not key.startswith('module.encoder_q.fc'):
        state[key[len('module.encoder_q.'):]] = state[key]
    del state[key]
linear = torchvision.models.__dict__[checkpoint['arch']]()
message = linear.load_state_dict(state, strict=False)
assert set(message.missing_keys) == {'fc.weight', 'fc.bias'} and not message.unexpected_keys
linear.fc = torch.nn.Identity()
assert linear.eval()(torch.ones(1, 3, 64, 64)).equal(embedding)
print('ok')
";

#[test]
fn torchvision_and_mocos_scripts_take_it() {
    let dir = tempfile::tempdir().expect("folder");
    let source = dir.path().join("x.safetensors");
    save_safetensors(&source, &encoder_tensors(Arch::ResNet18, "backbone."), &BTreeMap::new())
        .expect("saves");
    let checkpoint = Checkpoint::open(&source).expect("opens");
    let encoder = load_encoder(&checkpoint, &LoadOptions::default()).expect("loads");
    let [bare, moco_path] = ["bare.pth", "moco.pth"].map(|name| dir.path().join(name));
    let tensors = encoder.tensors_out("").expect("reads");
    save_torch(&bare, &tensors, &TorchOuter::default()).expect("saves");
    assert_same(&Checkpoint::open(&bare).expect("opens"), &encoder_tensors(Arch::ResNet18, ""));
    let tensors = encoder.tensors_out("module.encoder_q.").expect("reads");
    save_torch(&moco_path, &tensors, &moco(200, "resnet18")).expect("saves");
    check_in_python(SCRIPTS, &[&bare, &moco_path]);
}

#[test]
fn half_precision_becomes_single() {
    let dir = tempfile::tempdir().expect("folder");
    let path = dir.path().join("x.pth");
    let mut tensors = encoder_tensors(Arch::ResNet18, "");
    for tensor in tensors.iter_mut().filter(|t| t.dtype == Dtype::F32) {
        // The upper half of a single is a bfloat16.
        let data: Vec<u8> = tensor.data.chunks(4).flat_map(|b| [b[2], b[3]]).collect();
        (tensor.dtype, tensor.data) = (Dtype::BF16, data.into());
    }
    save_torch(&path, &tensors, &TorchOuter::default()).expect("saves");
    let checkpoint = Checkpoint::open(&path).expect("opens");
    let encoder = load_encoder(&checkpoint, &LoadOptions::default()).expect("loads");
    let out = encoder.tensors_out("").expect("reads");
    assert!(out.iter().all(|t| matches!(t.dtype, Dtype::F32 | Dtype::I64)));
    let expected: Vec<u8> = tensors[0].data.chunks(2).flat_map(|b| [0, 0, b[0], b[1]]).collect();
    assert_eq!(out[0].data, expected);
}

#[test]
fn bad_input_is_refused_and_nothing_is_written() {
    let dir = tempfile::tempdir().expect("folder");
    let path = dir.path().join("x.pth");
    let twice = [TensorOut::i64("a", 1), TensorOut::i64("a", 2)];
    let err = save_torch(&path, &twice, &TorchOuter::default()).expect_err("refused");
    assert!(matches!(err, Error::Save { reason: SaveError::Duplicate(_), .. }), "{err}");
    let short = [TensorOut { name: "a".into(), dtype: Dtype::F32, shape: vec![2], data: vec![0; 7].into() }];
    let err = save_torch(&path, &short, &TorchOuter::default()).expect_err("refused");
    assert!(matches!(err, Error::Save { reason: SaveError::Length { .. }, .. }), "{err}");
    assert!(!path.exists());
}

/// Offsets and sizes in the archive need more than 32 bits.
#[test]
fn beyond_four_gibibytes() {
    const LENGTH: usize = (4 << 30) + 4096;
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("folder");
    let path = dir.path().join("x.pth");
    // A file that is nothing but a hole takes neither memory nor disk.
    let hole = std::fs::File::options().read(true).write(true).create_new(true).open(dir.path().join("hole"));
    let hole = hole.expect("a file");
    hole.set_len(LENGTH as u64).expect("a hole");
    // SAFETY: nobody else has this folder, so that nothing changes the file while it is mapped.
    let mut large = unsafe { memmap2::MmapOptions::new().map_copy(&hole) }.expect("mapped");
    large[LENGTH - 1] = 7;
    let tensors = [
        TensorOut { name: "large".into(), dtype: Dtype::U8, shape: vec![LENGTH], data: (&large[..]).into() },
        TensorOut::i64("behind", 42),
    ];
    save_torch(&path, &tensors, &TorchOuter::default()).expect("saves");
    let got = Checkpoint::open(&path).expect("opens");
    assert_eq!(got.tensor("behind").expect("present").to_i64().expect("reads"), [42]);
    assert!(got.damaged_records().is_empty());
    check_in_python(
        "import sys, torch
x = torch.load(sys.argv[1], weights_only=True, mmap=True)
assert x['behind'] == 42 and x['large'].shape == ((4 << 30) + 4096,) and x['large'][-1] == 7
print('ok')",
        &[&path],
    );
}
