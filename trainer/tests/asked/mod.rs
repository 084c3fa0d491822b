//! What Python is asked about a whole method, and its answers.

use std::path::Path;
use std::process::Command;

use occlude_checkpoint::Checkpoint;
use occlude_train::model::Named;
use serde_json::Value;
use tch::Tensor;

fn saved(path: &Path, named: &[(String, Tensor)]) {
    let all: Vec<_> = named.iter().map(|(name, t)| (name.as_str(), t.contiguous())).collect();
    Tensor::write_safetensors(&all, path).expect("written");
}

/// What the script in this folder answers to the settings, the weights and the views of each step.
pub(crate) fn reference(
    script: &str,
    folder: &Path,
    question: &Value,
    state: &[Named],
    batches: &[impl AsRef<[Tensor]>],
) -> Checkpoint {
    let interpreter = std::env::var_os("OCCLUDE_PYTHON").unwrap_or_default();
    assert!(Path::new(&interpreter).exists(), "no Python environment; hint: run `cargo xtask setup`");
    let paths = ["question.json", "weights.safetensors", "batches.safetensors", "answers.safetensors"];
    let paths = paths.map(|name| folder.join(name));
    std::fs::write(&paths[0], question.to_string()).expect("written");
    saved(&paths[1], &state.iter().map(|n| (n.name.clone(), n.tensor.detach())).collect::<Vec<_>>());
    let views = batches.iter().enumerate().flat_map(|(i, views)| {
        views.as_ref().iter().enumerate().map(move |(v, x)| (format!("{i}.{v}"), x.shallow_clone()))
    });
    saved(&paths[2], &views.collect::<Vec<_>>());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(script);
    let out = Command::new(interpreter).arg(script).args(&paths).output().expect("Python starts");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    Checkpoint::open(&paths[3]).expect("answers")
}

/// One of the answers, as one row of numbers.
pub(crate) fn answer(file: &Checkpoint, name: &str) -> Tensor {
    let found = file.tensor(name).unwrap_or_else(|| panic!("no `{name}`"));
    Tensor::from_slice(&found.to_f32().expect("numbers"))
}
