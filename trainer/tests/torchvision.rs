//! The encoder against torchvision's, with the same weights and images: features in both modes, every gradient,
//! and the running statistics that training leaves.

mod close;

use std::path::Path;
use std::process::Command;

use close::{relative, tensor};
use occlude_checkpoint::{Checkpoint, LoadOptions, load_encoder};
use occlude_train::model::{Encoder, Mode, Statistics};
use tch::{Device, Kind, Tensor};

/// Relative error in the Euclidean norm, float32: the figure that the README promises.
const RELATIVE: f64 = 1e-4;

/// Runs torchvision; the files with its weights and its answers.
fn torchvision(arch: &str, folder: &Path) -> (Checkpoint, Checkpoint) {
    run("reference.py", arch, folder)
}

fn run(script: &str, arch: &str, folder: &Path) -> (Checkpoint, Checkpoint) {
    let interpreter = std::env::var_os("OCCLUDE_PYTHON").unwrap_or_default();
    assert!(Path::new(&interpreter).exists(), "no Python environment; hint: run `cargo xtask setup`");
    let (weights, answers) = (folder.join("weights.safetensors"), folder.join("answers.safetensors"));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(script);
    let out = Command::new(interpreter).arg(script).arg(arch).args([&weights, &answers]).output();
    let out = out.expect("Python starts");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let open = |path| Checkpoint::open(path).expect("a checkpoint");
    (open(&weights), open(&answers))
}

fn compare(arch: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let (weights, answers) = torchvision(arch, folder.path());
    let loaded = load_encoder(&weights, &LoadOptions::default()).expect("torchvision's names are known");
    assert_eq!(loaded.arch.name(), arch, "the architecture is told by its shapes");
    let encoder = Encoder::from_checkpoint(&loaded, Device::Cpu).expect("strict");
    let (images, towards) = (tensor(&answers, "images"), tensor(&answers, "towards"));
    let check = |name: &str, ours: &Tensor| {
        let error = relative(ours, &tensor(&answers, name));
        assert!(error < RELATIVE, "{arch}, `{name}`: relative error {error:.2e}");
        error
    };
    let eval = tch::no_grad(|| encoder.forward(&images, Mode::Eval, &[]).embedding);
    let eval = check("eval", &eval);
    let features = encoder.forward(&images, Mode::Train { splits: 1 }, &[]).embedding;
    let train = check("train", &features);
    (&features * &towards).sum(Kind::Float).backward();
    let trainable = encoder.trainable_named("");
    let gradients = trainable.iter().map(|n| check(&format!("grad.{}", n.name), &n.tensor.grad()));
    let worst = gradients.fold(0.0, f64::max);
    let statistics: Vec<_> = encoder.named("").into_iter().filter(|n| n.name.contains("running")).collect();
    assert!(trainable.len() > 50 && statistics.len() > 30);
    for named in statistics {
        check(&format!("after.{}", named.name), &named.tensor);
    }
    println!("{arch}: eval {eval:.1e}, train {train:.1e}, worst gradient {worst:.1e}");
}

#[test]
fn resnet50_equals_torchvisions() {
    compare("resnet50");
}

#[test]
fn resnet18_equals_torchvisions() {
    compare("resnet18");
}

/// A 3x3 first convolution without stride and pooling.
#[test]
fn networks_for_small_pictures_equal_torchvisions() {
    compare("resnet18-small");
}

/// Grouped convolutions.
#[test]
fn resnext50_equals_torchvisions() {
    compare("resnext50_32x4d");
}

/// Running statistics over three batches of two sizes, whatever they were before.
#[test]
fn refreshed_statistics_equal_cumulative_ones() {
    let folder = tempfile::tempdir().expect("a folder");
    let (weights, answers) = run("refreshed.py", "resnet18", folder.path());
    let loaded = load_encoder(&weights, &LoadOptions::default()).expect("torchvision's names are known");
    let encoder = Encoder::from_checkpoint(&loaded, Device::Cpu).expect("strict");
    let batches = (0..3).map(|i| Ok(tensor(&answers, &format!("batch.{i}"))));
    let found = Statistics::estimate(&encoder, batches).expect("estimated");
    assert_eq!((found.batches, found.named.len()), (3, 40));
    for named in &found.named {
        let error = relative(&named.tensor, &tensor(&answers, &named.name));
        assert!(error < RELATIVE, "`{}`: relative error {error:.2e}", named.name);
    }
}
