//! The kit for GPU machines, rehearsed on the CPU in its shortest form: from a bare folder, with a Python that has torch and
//! torchvision and not the project's other packages.

use occlude_tests::pictures::{Random, draw};
use occlude_tests::run::{self, Said};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use xtask::{paths, sh};

/// Steps that a CPU cannot take, or the shortest kit has nothing for.
const SKIPPED: [&str; 4] = ["selftest, TF32 on", "test programs", "compute-sanitizer", "TensorRT"];

/// Two classes as JPEG files.
fn data(folder: &Path) {
    let mut random = Random::new(5);
    for (part, count) in [("train", 8), ("test", 4)] {
        for class in 0..2 {
            let place = folder.join(part).join(class.to_string());
            fs::create_dir_all(&place).expect("a folder");
            for i in 0..count {
                draw(class, &mut random).save(place.join(format!("{i}.jpg"))).expect("a picture");
            }
        }
    }
}

fn xtask(arguments: &[&dyn AsRef<std::ffi::OsStr>]) -> Said {
    let mut cargo = sh::cargo();
    cargo.args(["run", "--quiet", "--release", "-p", "xtask", "--"]);
    Said::of(cargo.args(arguments.iter().map(AsRef::as_ref)))
}

/// An environment with the project's torch and torchvision, and without what the kit may not need.
fn python(folder: &Path) -> PathBuf {
    let own = paths::python();
    sh::capture(Command::new(&own).args(["-m", "venv", "--without-pip"]).arg(folder))
        .expect("an environment");
    let script = "import torch, os; print(os.path.dirname(os.path.dirname(torch.__file__)))";
    let packages = PathBuf::from(sh::capture(Command::new(&own).args(["-c", script])).expect("torch"));
    let lib = fs::read_dir(folder.join("lib")).expect("`lib`").flatten().next().expect("a Python");
    for entry in fs::read_dir(packages).expect("packages").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !["onnx", "safetensors", "openai", "pip"].iter().any(|other| name.starts_with(other)) {
            symlink(entry.path(), lib.path().join("site-packages").join(name)).expect("a link");
        }
    }
    folder.join("bin/python")
}

/// A kit far from the checkout.
struct Kit {
    folder: PathBuf,
    python: PathBuf,
}

impl Kit {
    fn make() -> Self {
        let scratch = run::scratch("gpu-kit");
        data(&scratch.join("shapes"));
        let out = scratch.join("made");
        xtask(&[&"gpu-kit", &"--reduced", &"--data", &scratch.join("shapes"), &"--out", &out]).ok();
        let bare = scratch.join("a bare folder");
        fs::create_dir(&bare).expect("a folder");
        let folder = bare.join("occlude-gpu-kit");
        fs::rename(out.join("occlude-gpu-kit"), &folder).expect("moved");
        Self { folder, python: python(&bare.join("python")) }
    }

    fn run(&self, line: &str) -> Said {
        let mut command = Command::new(self.folder.join("run.sh"));
        command.args(line.split_whitespace()).args(["--device", "cpu", "--tiny"]);
        command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", &self.folder);
        Said::of(command.env("OCCLUDE_PYTHON", &self.python).current_dir("/"))
    }

    fn result(&self) -> Value {
        let text = fs::read_to_string(self.folder.join("results/result.json")).expect("a result");
        serde_json::from_str(&text).expect("whole")
    }

    fn steps(&self) -> BTreeMap<String, Value> {
        serde_json::from_value(self.result()["steps"].clone()).expect("steps")
    }
}

fn status(step: &Value) -> &str {
    step["status"].as_str().unwrap_or_default()
}

fn rate(step: &Value) -> f64 {
    step["figures"]["images_per_second"].as_f64().unwrap_or_default()
}

#[test]
fn the_shortest_kit_runs_every_step_on_a_cpu() {
    if std::env::var_os("OCCLUDE_REHEARSE").is_none() {
        return occlude_skip::test("rehearsal", "`OCCLUDE_REHEARSE=1` runs it; it takes many minutes");
    }
    let kit = Kit::make();
    let said = kit.run("all --minutes 15").ok();
    let steps = kit.steps();
    for (name, step) in &steps {
        let expected = if SKIPPED.contains(&name.as_str()) { "skipped" } else { "ok" };
        assert_eq!(status(step), expected, "{name}: {step}\n{}", said.stdout);
        assert!(said.stdout.contains(name.as_str()), "{}", said.stdout);
    }
    let speeds: Vec<_> =
        steps.iter().filter(|(name, step)| step["stage"] == "throughput" && *name != "rates").collect();
    assert_eq!(speeds.len(), 11);
    speeds.iter().for_each(|(name, step)| assert!(rate(step) > 0.0, "{name}: {step}"));
    assert!(steps["rates"]["figures"]["floor"]["saliency-moco"].as_f64() > Some(0.0));
    assert!(steps["moco-v2 synthetic"]["figures"]["phases"].as_array().is_some_and(|rows| !rows.is_empty()));
    assert!(steps["serve fp16"]["figures"]["4 clients"]["p99_ms"].as_f64() > Some(0.0));
    let figures = steps["methods"]["figures"].as_object().expect("figures of every recipe");
    assert_eq!(figures.keys().cloned().collect::<BTreeSet<_>>(), recipes());
    let run = &steps["accuracy: shapes 32 px, hp, seed 0"]["figures"];
    assert!(
        run["linear"]["top1"].is_number() && run["knn"].as_array().is_some_and(|rows| rows.len() > 3),
        "{run}"
    );
    let result = kit.result();
    let goals = result["goals"].as_array().expect("goals");
    assert_eq!(goals.iter().filter(|goal| goal["ratio"].is_number()).count(), 9, "{goals:?}");
    later_calls_add_and_failures_stop_nothing(&kit, &steps);
    reported(&kit);
}

/// What went well is not run again; a broken model fails its steps alone, and with exit status 1.
fn later_calls_add_and_failures_stop_nothing(kit: &Kit, before: &BTreeMap<String, Value>) {
    kit.run("all --minutes 1").ok();
    // what was skipped is tried again, and says when
    let well = |steps: &BTreeMap<String, Value>| {
        steps.iter().filter(|(_, step)| status(step) == "ok").map(|(k, v)| (k.clone(), v.clone())).collect()
    };
    let (again, first): (BTreeMap<_, _>, BTreeMap<_, _>) = (well(&kit.steps()), well(before));
    assert!(
        again == first,
        "{:?}",
        again.iter().filter(|(name, step)| first.get(*name) != Some(step)).collect::<Vec<_>>()
    );
    assert_eq!(kit.result()["calls"].as_array().map(Vec::len), Some(2));
    fs::write(kit.folder.join("models/fp16.onnx"), "no model").expect("written");
    let said = kit.run("serve --minutes 3 --again --only fp16 --only fp32");
    assert_eq!(said.code, 1, "{}", said.stdout);
    let after = kit.steps();
    let fate = |name: &str| (status(&after[name]), after[name]["began"] != before[name]["began"]);
    assert_eq!(fate("serve fp16"), ("failed", true));
    assert_eq!(fate("alone fp32"), ("ok", true));
    assert_eq!(fate("cold shapes"), ("ok", false));
    let reason = after["serve fp16"]["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("fp16.onnx"), "{reason}");
    // a part that is not here is no failure, and takes away no figure
    for name in ["fp16", "fp32"] {
        fs::remove_file(kit.folder.join(format!("models/{name}.onnx"))).expect("removed");
    }
    kit.run("serve --minutes 3 --again --only fp16 --only fp32").ok();
    let without = kit.steps();
    assert_eq!((status(&without["serve fp16"]), &without["alone fp32"]), ("skipped", &after["alone fp32"]));
}

/// The report says what is missing, and has no speed of a rehearsal.
fn reported(kit: &Kit) {
    let said = xtask(&[&"gpu-report", &kit.folder.join("results/result.json")]).ok();
    assert!(said.stdout.starts_with("## Rehearsal of the GPU kit on a CPU"), "{}", said.stdout);
    assert!(
        said.stdout.contains("- serve fp16: skipped")
            && said.stdout.contains("| moco-v2 files | throughput | ok |")
    );
    assert!(!said.stdout.contains("images/s"), "{}", said.stdout);
}

/// Runs a script of the kit's making with the project's Python.
fn script(name: &str, arguments: &[&dyn AsRef<std::ffi::OsStr>]) -> Said {
    let path = paths::root().join("xtask/src/gpu").join(name);
    Said::of(Command::new(paths::python()).arg(path).args(arguments.iter().map(AsRef::as_ref)))
}

#[test]
fn parts_are_small_unpack_by_themselves_and_are_joined() {
    const LIMIT: u64 = 1 << 20;
    let scratch = run::scratch("gpu-parts");
    let (folder, out) = (scratch.join("occlude-gpu-kit"), scratch.join("parts"));
    let mut random = Random::new(1);
    let mut noise = |bytes: usize| (0..bytes).map(|_| random.below(256) as u8).collect::<Vec<u8>>();
    let mut files: Vec<(String, Vec<u8>)> = vec![("run.sh".into(), b"#!/bin/sh\n".to_vec())];
    files.push(("lib/large.so".into(), [noise(1 << 20), vec![7; 3 << 20]].concat()));
    files.extend((0..6).map(|i| (format!("data/photos/{i}.jpg"), noise(200_000))));
    for name in ["runner.py", "unpack.py"] {
        let text = fs::read(paths::root().join("xtask/src/gpu/kit").join(name)).expect("a script");
        files.push((format!("kit/{name}"), text));
    }
    for (name, bytes) in &files {
        fs::create_dir_all(folder.join(name).parent().expect("a folder")).expect("made");
        fs::write(folder.join(name), bytes).expect("written");
    }
    fs::create_dir_all(&out).expect("made");
    script("pack.py", &[&folder, &out, &scratch, &LIMIT.to_string()]).ok();
    let mut parts: Vec<PathBuf> = fs::read_dir(&out).expect("parts").flatten().map(|e| e.path()).collect();
    parts.sort();
    assert!(parts.len() >= 3, "{parts:?}");
    let away = scratch.join("away");
    fs::create_dir(&away).expect("made");
    let join = || {
        let line = "import sys; sys.path.insert(0, sys.argv[1]); import unpack; unpack.join()";
        let kit = away.join("occlude-gpu-kit/kit");
        Said::of(Command::new(paths::python()).args(["-c", line]).arg(kit)).ok().stdout
    };
    for (number, part) in parts.iter().enumerate() {
        assert!(fs::metadata(part).expect("a file").len() <= LIMIT, "{}", part.display());
        sh::capture(Command::new("tar").arg("xf").arg(part).arg("-C").arg(&away)).expect("unpacked");
        if number == 0 {
            assert!(away.join("occlude-gpu-kit/data/photos/0.jpg").is_file(), "the first part trains");
        }
    }
    let piece = away.join("occlude-gpu-kit/lib/large.so.xz.01");
    let whole = fs::read(&piece).expect("a second piece");
    fs::remove_file(&piece).expect("removed");
    assert!(join().contains("`large.so` is not whole: large.so.xz.01"));
    fs::write(&piece, &whole).expect("written");
    assert_eq!(join(), "");
    for (name, bytes) in &files {
        assert!(fs::read(away.join("occlude-gpu-kit").join(name)).is_ok_and(|read| read == *bytes), "{name}");
    }
}

/// The recipes that the trainer's help lists.
fn recipes() -> BTreeSet<String> {
    let help = run::words("occlude-train", "pretrain --help").ok().stdout;
    let (_, after) = help.split_once("\n      --recipe <").expect("the option");
    let (values, _) = after.split_once("\n      --").expect("another option");
    let names = values.lines().filter_map(|line| line.trim().strip_prefix("- ")?.split_once(':'));
    names.map(|(name, _)| name.to_owned()).collect()
}

#[test]
fn the_kit_checks_every_recipe_of_the_trainer() {
    const SCRIPT: &str = "import json, sys; sys.dont_write_bytecode = True; sys.path.insert(0, sys.argv[1]); import training; \
                          print(json.dumps(training.RECIPES))";
    let named = run::python(SCRIPT, &[&paths::root().join("xtask/src/gpu/kit")]);
    let named: BTreeSet<String> = serde_json::from_value(named).expect("a list of names");
    assert_eq!(named, recipes());
    assert!(named.contains("byol") && named.len() > 10, "{named:?}");
}

#[test]
fn what_cannot_be_packed_is_refused() {
    let scratch = run::scratch("gpu-refused");
    fs::write(scratch.join("precious"), "x").expect("written");
    let said = xtask(&[&"gpu-kit", &"--data", &scratch.join("nothing")]);
    assert!(said.code == 1 && said.stderr.contains("is not a folder; hint: "), "{}", said.stderr);
    let said = script("data.py", &[&scratch.join("data"), &"128", &"8", &scratch]);
    assert!(said.code == 1 && said.stderr.contains("no JPEG files\nhint: "), "{}", said.stderr);
    let said = xtask(&[&"gpu-report", &scratch.join("precious")]);
    assert!(said.code == 1 && said.stderr.contains("this is not JSON"), "{}", said.stderr);
}
