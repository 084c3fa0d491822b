//! `linear`, `finetune` and `knn` as processes, on pictures made here: what they print, that an interrupted one goes on
//! to the same bits, and that the other tools read what they leave.

use occlude_tests::{pictures, run};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Pictures, and a checkpoint of one short epoch of high-pass filtered pretraining.
fn place() -> &'static PathBuf {
    static PLACE: OnceLock<PathBuf> = OnceLock::new();
    PLACE.get_or_init(|| {
        let folder = run::scratch("evaluate");
        pictures::tree(&folder.join("train"), 9, 1);
        pictures::tree(&folder.join("val"), 4, 2);
        pictures::broken(&folder.join("train/disc/broken.jpg"));
        let line = "pretrain @/train --out @/run --recipe saliency-moco-small --strategy hp --arch resnet18 --image-size 32 \
                    --batch-size 12 --epochs 1 --device cpu --precision fp32 --workers 1";
        run::words("occlude-train", &line.replace('@', &folder.display().to_string())).ok();
        folder
    })
}

fn checkpoint() -> PathBuf {
    place().join("run/checkpoint_0000.safetensors")
}

/// Runs `occlude-train TASK CHECKPOINT @/train @/val MORE`, `@` standing for the folder.
fn evaluate(task: &str, more: &str) -> run::Said {
    let line = format!("{task} {} @/train @/val --device cpu {more}", checkpoint().display());
    run::words("occlude-train", &line.replace('@', &place().display().to_string()))
}

/// The run says what its configuration came to, which `--show-config` tells, too.
#[test]
fn a_run_keeps_the_sizes_that_follow_from_its_views() {
    let config: Value = serde_json::from_slice(&fs::read(place().join("run/config.json")).unwrap()).unwrap();
    let filter = &config["resolved"]["masking"]["high_pass"];
    assert_eq!(filter["side"], 3, "{config}");
    let sigma = filter["sigma"].as_f64().expect("a number");
    assert!((sigma - 5.0 * 32.0 / 224.0).abs() < 1e-9, "{config}");
}

/// Accuracies are shares inside of their intervals.
fn check_scores(answer: &Value) {
    for name in ["top1", "top5", "mean_per_class"] {
        let value = answer[name].as_f64().unwrap_or_else(|| panic!("no {name}: {answer}"));
        let end = |i: usize| answer[format!("{name}_ci")][i].as_f64().expect("an interval");
        assert!(0.0 <= end(0) && end(0) <= value && value <= end(1) && end(1) <= 1.0, "{name}: {answer}");
    }
}

fn same_files(a: &Path, b: &Path) {
    assert!(fs::read(a).unwrap() == fs::read(b).unwrap(), "{} and {} differ", a.display(), b.display());
}

#[test]
fn linear_answers_and_proves_that_the_encoder_stayed() {
    for views in ["cached", "fresh"] {
        let answer =
            evaluate("linear", &format!("--views {views} --epochs 3 --batch-size 8 --lr 0.5 --json"))
                .ok()
                .json();
        check_scores(&answer);
        assert_eq!(answer["backbone_unchanged"], true, "{answer}");
        assert_eq!((&answer["views"], &answer["data"]["classes"]), (&views.into(), &3.into()), "{answer}");
    }
    let said = evaluate("linear", "--views cached --epochs 2 --batch-size 8 --lr auto").ok().stdout;
    assert!(said.contains("unchanged, bit for bit") && said.contains("held-out training pictures"), "{said}");
}

#[test]
fn a_finished_evaluation_prints_its_result_again_and_another_is_refused() {
    let line = "--views cached --epochs 3 --batch-size 8 --lr 0.5 --json --out @/again";
    let first = evaluate("linear", line).ok();
    let second = evaluate("linear", line).ok();
    assert_eq!(first.stdout, second.stdout);
    assert!(!second.stderr.contains("epoch"), "nothing is computed again: {}", second.stderr);
    let other = evaluate("linear", &line.replace("0.5", "0.25"));
    assert!(other.code == 1 && other.stderr.contains("another evaluation"), "{}", other.stderr);
}

#[test]
fn resumed_evaluations_end_with_the_same_bits() {
    for (task, flags, file) in [
        ("linear", "--views fresh --epochs 3 --batch-size 8 --lr 0.5", "fc.safetensors"),
        ("finetune", "--epochs 2 --batch-size 8 --lr 0.01", "model.safetensors"),
    ] {
        let out = |name: &str| format!("{flags} --json --out @/{task}-{name}");
        let whole = evaluate(task, &out("whole")).ok().json();
        for stop in [2, 4] {
            let said = evaluate(task, &format!("{} --stop-after {stop}", out("parts"))).ok();
            assert_eq!(said.stdout, "", "an interrupted evaluation has no result");
        }
        let parts = evaluate(task, &out("parts")).ok().json();
        check_scores(&parts);
        assert_eq!((&whole["top1"], &whole["train_loss"]), (&parts["top1"], &parts["train_loss"]));
        let folder = |name: &str| place().join(format!("{task}-{name}")).join(file);
        same_files(&folder("whole"), &folder("parts"));
    }
}

#[cfg(unix)]
#[test]
fn a_signal_saves_and_leaves_with_its_number() {
    use std::process::{Command, Stdio};
    let out = place().join("signal");
    let line = "--views cached --epochs 20000 --batch-size 8 --lr 0.1 --device cpu";
    let mut child = Command::new(run::tool("occlude-train"))
        .arg("linear")
        .args([&checkpoint(), &place().join("train"), &place().join("val")])
        .args(line.split_whitespace())
        .arg("--out")
        .arg(&out)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let state = out.join("state.safetensors");
    while !state.exists() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before an epoch was saved");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(128 + 15));
    assert!(state.exists() && !out.join("result.json").exists());
}

#[test]
fn a_fine_tuned_model_is_a_checkpoint_for_every_tool() {
    let list = place().join("list.txt");
    fs::write(
        &list,
        "disc/000.png\ndisc/001.jpg\nsquare/000.png\nsquare/001.jpg\nstripes/000.png\nstripes/001.jpg\n",
    )
    .unwrap();
    let line = "--protocol semi-10 --list @/list.txt --epochs 2 --batch-size 4 --json --out @/tuned";
    let answer = evaluate("finetune", line).ok().json();
    check_scores(&answer);
    assert_eq!((&answer["data"]["train"], &answer["protocol"]["lr_backbone"]), (&6.into(), &0.01.into()));
    let model = place().join("tuned/model.safetensors");
    assert_eq!(answer["model"], model.to_string_lossy().as_ref());
    let onnx = place().join("tuned.onnx");
    run::run("occlude-export", &[&"onnx", &model, &onnx]).ok();
    run::run("occlude-export", &[&"verify", &onnx, &model, &place().join("val")]).ok();
    let script = "import json, sys, torch, torchvision\n\
                  from safetensors.torch import load_file\n\
                  from safetensors import safe_open\n\
                  net = torchvision.models.resnet18(num_classes=3)\n\
                  net.load_state_dict(load_file(sys.argv[1]))\n\
                  with safe_open(sys.argv[1], 'pt') as f: meta = f.metadata()\n\
                  old = safe_open(sys.argv[2], 'pt')\n\
                  moved = (net.conv1.weight - old.get_tensor('encoder_q.conv1.weight')).abs().max().item()\n\
                  same = meta['occlude.preprocess'] == old.metadata()['occlude.preprocess']\n\
                  print(json.dumps([moved > 0, same, meta['occlude.classes']]))";
    let told = run::python(script, &[&model, &checkpoint()]);
    assert_eq!(told, serde_json::json!([true, true, r#"["disc","square","stripes"]"#]));
}

#[test]
fn knn_votes_either_way_and_keeps_its_rows() {
    let weighted = evaluate("knn", "--json --out @/knn").ok();
    let answer = weighted.json();
    let rows = answer["results"].as_array().unwrap();
    let ks: Vec<_> =
        rows.iter().filter(|r| r["features"] == "checkpoint").map(|r| r["k"].as_i64().unwrap()).collect();
    assert_eq!(ks, [1, 10, 20], "as many as 27 pictures allow");
    rows.iter().for_each(check_scores);
    assert_eq!(evaluate("knn", "--json --out @/knn").ok().stdout, weighted.stdout);
    let equal = evaluate("knn", "--json --unweighted --k 3 --no-floors").ok().json();
    assert_eq!((&equal["votes"], equal["results"].as_array().unwrap().len()), (&"equal".into(), 1));
    assert_ne!(evaluate("knn", "--unweighted --out @/knn").code, 0, "the folder holds weighted votes");
}

/// A run's test size changes its contract and nothing else, and what it says can be asked of any checkpoint.
#[test]
fn an_encoder_is_tested_at_another_size_than_its_crops_have() {
    let line = "pretrain @/train --out @/larger --recipe saliency-moco-small --strategy hp --arch resnet18 --image-size 32 \
                --test-size 48 --batch-size 12 --epochs 1 --device cpu --precision fp32 --workers 1";
    run::words("occlude-train", &line.replace('@', &place().display().to_string())).ok();
    let larger = place().join("larger/checkpoint_0000.safetensors");
    let script = "import json, sys\nfrom safetensors import safe_open\n\
                  a, b = (safe_open(p, 'np') for p in sys.argv[1:])\n\
                  same = all((a.get_tensor(k) == b.get_tensor(k)).all() for k in a.keys())\n\
                  sides = [json.loads(f.metadata()['occlude.preprocess']) for f in (a, b)]\n\
                  print(json.dumps([same, [[s['resize'], s['crop']] for s in sides]]))";
    let told = run::python(script, &[&checkpoint(), &larger]);
    assert_eq!(told, serde_json::json!([true, [[32, 32], [48, 48]]]), "of 32 px nothing is trimmed");

    let asked = evaluate("knn", "--json --image-size 48").ok();
    assert!(asked.stderr.contains("the contract differs from the one"), "{}", asked.stderr);
    let line = format!("knn {} @/train @/val --device cpu --json", larger.display());
    let own = run::words("occlude-train", &line.replace('@', &place().display().to_string())).ok();
    assert!(!own.stderr.contains("differs"), "{}", own.stderr);
    let scores = |said: &run::Said| {
        let mut answer = said.json();
        answer.as_object_mut().expect("an object").remove("checkpoint");
        answer
    };
    assert_eq!(scores(&asked), scores(&own), "the fingerprint too");
    assert_ne!(scores(&asked), scores(&evaluate("knn", "--json").ok()));
    let none = evaluate("knn", "--image-size 0");
    assert!(none.code == 1 && none.stderr.contains("`--image-size 0`"), "{}", none.stderr);
}

/// A file that is there, or is read, is told before the data are looked at, which are nowhere.
#[test]
fn files_are_not_replaced_and_that_is_said_before_the_work() {
    let at = |line: &str| line.replace('@', &place().display().to_string());
    let (checkpoint, weights) = (checkpoint(), fs::read(checkpoint()).unwrap());
    let list = place().join("profiled.txt");
    fs::write(&list, "train/disc/000.png\n").unwrap();
    let (found, lost) = ("exists; hint: `--force` replaces it", "the input would be lost");
    let profile =
        "--recipe saliency-moco-small --arch resnet18 --image-size 32 --batch-size 12 --warmup 0 --steps 1";
    for (task, flags, input, works) in [
        (
            "knn",
            format!("{} @/nowhere @/nowhere --per-picture", checkpoint.display()),
            &checkpoint,
            "--k 1 --no-floors",
        ),
        (
            "linear",
            format!("{} @/nowhere @/nowhere --per-picture", checkpoint.display()),
            &checkpoint,
            "--views cached --epochs 1 --batch-size 8 --lr 0.5",
        ),
        ("profile", format!("@/profiled.txt {profile} --json"), &list, "--workers 1"),
    ] {
        let precious = place().join(format!("precious-{task}.json"));
        fs::write(&precious, "precious").unwrap();
        let line = at(&format!("{task} {flags}"));
        for (out, force, part) in [
            (&precious, "", found),
            (input, "", lost),
            (input, " --force", lost),
            (&place().join("no/where"), "", "create the folder first"),
        ] {
            let said = run::words("occlude-train", &format!("{line} {}{force}", out.display()));
            assert_eq!((said.code, said.stdout.as_str()), (1, ""), "{task}: {}", said.stderr);
            assert!(said.stderr.contains(part), "{task}: {}", said.stderr);
        }
        assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
        let line = line.replace(&at("@/nowhere @/nowhere"), &at("@/train @/val"));
        let line = line.replace(&at("@/profiled.txt"), &at("@/train"));
        run::words("occlude-train", &format!("{line} {} --force --device cpu {works}", precious.display()))
            .ok();
        serde_json::from_slice::<Value>(&fs::read(&precious).unwrap()).expect("JSON where it was asked for");
    }
    assert!(fs::read(&checkpoint).unwrap() == weights, "the checkpoint is as it was");
}

#[test]
fn wrong_use_is_refused_before_anything_is_computed() {
    for (task, more, code, names) in [
        ("linear", "--epochs 0", 2, "--epochs"),
        ("linear", "--epochs 10 --steps 12", 2, "--steps"),
        ("linear", "--lr fast", 2, "--lr"),
        ("linear", "--views some", 2, "--views"),
        ("finetune", "--lr 0", 2, "--lr"),
        ("finetune", "--weight-decay=-1", 2, "--weight-decay"),
        ("finetune", "--list @/nowhere.txt", 1, "nowhere.txt"),
        ("finetune", "--out @/run", 1, "something other"),
    ] {
        let said = evaluate(task, more);
        assert_eq!(said.code, code, "{task} {more}: {}", said.stderr);
        assert!(said.stderr.contains(names), "{task} {more}: {}", said.stderr);
        assert_eq!(said.stdout, "");
    }
    let flat = place().join("train/disc");
    let said = run::run("occlude-train", &[&"linear", &checkpoint(), &flat, &place().join("val")]);
    assert!(said.code == 1 && said.stderr.contains("no class folders"), "{}", said.stderr);
}
