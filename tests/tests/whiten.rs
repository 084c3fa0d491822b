//! Whitening from end to end: fitted by the trainer, held against numpy, and obeyed by every tool.

use occlude_tests::{pictures, run, tolerance};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use xtask::server::Server;

const SCRIPT: &str = include_str!("whiten.py");
/// Numbers of a whitened embedding, of 512.
const DIM: &str = "40";

/// Pictures, a checkpoint of one short epoch, the same whitened and centred, and the embeddings of all three.
fn place() -> &'static Path {
    static PLACE: OnceLock<PathBuf> = OnceLock::new();
    PLACE.get_or_init(|| {
        let folder = run::scratch("whiten");
        pictures::tree(&folder.join("train"), 30, 1);
        pictures::tree(&folder.join("val"), 10, 2);
        let line = "pretrain @/train --out @/run --recipe saliency-moco-small --arch resnet18 --image-size 32 \
                    --batch-size 12 --epochs 1 --device cpu --precision fp32 --workers 1";
        run::words("occlude-train", &line.replace('@', &folder.display().to_string())).ok();
        fs::rename(folder.join("run/checkpoint_0000.safetensors"), folder.join("raw.safetensors")).unwrap();
        for flags in [format!("--dim {DIM}"), "--center".to_owned()] {
            let line = format!("whiten @/raw.safetensors @/train --device cpu {flags}");
            run::words("occlude-train", &line.replace('@', &folder.display().to_string())).ok();
        }
        folder
    })
}

/// Runs `line` with `@` standing for the folder.
fn said(tool: &str, line: &str) -> run::Said {
    run::words(tool, &line.replace('@', &place().display().to_string()))
}

fn file(name: &str) -> PathBuf {
    place().join(name)
}

/// The embeddings of a folder by a checkpoint, in a file.
fn embedded(checkpoint: &str, part: &str, flags: &str) -> PathBuf {
    let lines = said("occlude-train", &format!("embed @/{checkpoint} @/{part} --device cpu {flags}")).ok();
    let path = file(&format!("{checkpoint}-{part}{}.jsonl", flags.trim()));
    fs::write(&path, lines.stdout).unwrap();
    path
}

fn figure(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("no number: {value}"))
}

#[test]
fn components_are_numpys() {
    for (name, dim) in [("raw.whitened.safetensors", DIM), ("raw.centered.safetensors", "0")] {
        let (raw, after) = (embedded("raw.safetensors", "train", ""), embedded(name, "train", ""));
        let (checkpoint, what) = (file(name), Path::new("whiten"));
        let found = run::python(SCRIPT, &[what, &raw, &after, &checkpoint, Path::new(dim)]);
        println!("{name}: {found}");
        for (key, limit) in [
            ("cosines", tolerance::WHITENED),
            ("weight", tolerance::WHITENED),
            ("embedding", tolerance::ONNX_ERROR),
            ("bias", tolerance::ONNX_ERROR),
        ] {
            assert!(found[key].is_null() || figure(&found[key]) < limit, "{key}: {found}");
        }
        assert!(found["largest"] != false, "the largest number of each component is positive: {found}");
        let [before, after] = [0, 1].map(|i| figure(&found["spread"][i]));
        assert!(before > 0.3 && after.abs() < 0.1, "{found}");
    }
}

/// What the command prints is what it did; neither the batches nor the order of the pictures matter.
#[test]
fn the_command_tells_what_it_did_and_order_does_not_matter() {
    let list = file("shuffled.txt");
    let train = file("train");
    let mut names: Vec<String> = pictures::CLASSES
        .iter()
        .flat_map(|class| fs::read_dir(train.join(class)).unwrap())
        .map(|entry| entry.unwrap().path().display().to_string())
        .collect();
    names.sort_by_key(|name| name.bytes().rev().map(u32::from).fold(7, |a: u32, b| a.wrapping_mul(31) ^ b));
    fs::write(&list, names.join("\n")).unwrap();
    let line = format!(
        "whiten @/raw.safetensors @/shuffled.txt --dim {DIM} --device cpu --out @/shuffled.safetensors --json"
    );
    let answer = said("occlude-train", &line).ok().json();
    assert_eq!((&answer["dim"], &answer["of"], &answer["pictures"]), (&40.into(), &512.into(), &90.into()));
    let cosine = |when: &str| figure(&answer["mean_cosine"][when]);
    assert!(cosine("before") > 0.3 && cosine("after").abs() < 0.1, "{answer}");
    let (a, b) = (
        embedded("raw.whitened.safetensors", "val", "--normalize"),
        embedded("shuffled.safetensors", "val", "--normalize"),
    );
    let vectors = |path: &Path| -> Vec<Vec<f64>> {
        let text = fs::read_to_string(path).unwrap();
        let line = |line: &str| serde_json::from_str::<Value>(line).unwrap()["embedding"].clone();
        text.lines().map(|l| line(l).as_array().unwrap().iter().map(figure).collect()).collect()
    };
    let (a, b) = (vectors(&a), vectors(&b));
    let cosines = |v: &[Vec<f64>]| -> Vec<f64> {
        v.iter().flat_map(|x| v.iter().map(move |y| tolerance::cosine(x, y))).collect()
    };
    let apart = cosines(&a).iter().zip(cosines(&b)).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(a.len() == 30 && apart < tolerance::WHITENED, "{apart}");
    let told =
        said("occlude-train", "whiten @/raw.safetensors @/train --center --device cpu --force").ok().stdout;
    assert!(told.contains("centred on the mean of 90 pictures") && told.contains("mean cosine"), "{told}");
}

#[test]
fn knn_is_numpys_and_treats_the_floors_alike() {
    let (train, val) = (embedded("raw.safetensors", "train", ""), embedded("raw.safetensors", "val", ""));
    let numpy = run::python(SCRIPT, &[Path::new("knn"), &train, &val, Path::new(DIM), Path::new("5")]);
    let asked = said(
        "occlude-train",
        &format!("knn @/raw.safetensors @/train @/val --k 5 --whiten {DIM} --json --out @/knn"),
    )
    .ok();
    let carried = said("occlude-train", "knn @/raw.whitened.safetensors @/train @/val --k 5 --json").ok();
    let (asked_json, carried_json) = (asked.json(), carried.json());
    let kinds =
        ["checkpoint", "untrained", "pixels", "checkpoint-whitened", "untrained-whitened", "pixels-whitened"];
    for (answer, on) in [(&asked_json, "train"), (&carried_json, "checkpoint")] {
        let rows = answer["results"].as_array().unwrap();
        let names: Vec<&str> = rows.iter().map(|row| row["features"].as_str().unwrap()).collect();
        assert_eq!(names, kinds);
        assert_eq!(answer["whitening"], json!({"dim": 40, "center_only": false, "fitted_on": on}));
        for (row, name) in rows.iter().zip(kinds) {
            if let Some(expected) = numpy.get(name) {
                assert_eq!(figure(&row["top1"]), figure(&expected[0]), "{name}: {numpy}");
                assert!(
                    (figure(&row["mean_cosine"]) - figure(&expected[1])).abs() < tolerance::WHITENED,
                    "{row}, {numpy}"
                );
            }
        }
        assert!(rows[3..].iter().all(|row| figure(&row["mean_cosine"]).abs() < 0.2), "{answer}");
    }
    assert_ne!(asked_json["fingerprint"], carried_json["fingerprint"]);
    let again = said(
        "occlude-train",
        &format!("knn @/raw.safetensors @/train @/val --k 5 --whiten {DIM} --json --out @/knn"),
    )
    .ok();
    assert_eq!(again.stdout, asked.stdout, "the folder has all rows");
    assert_ne!(said("occlude-train", "knn @/raw.safetensors @/train @/val --k 5 --json --out @/knn").code, 0);
    let table =
        said("occlude-train", "knn @/raw.centered.safetensors @/train @/val --k 5 --no-floors").ok().stdout;
    assert!(
        table.contains("checkpoint-whitened") && table.contains("mean cosine") && !table.contains("pixels"),
        "{table}"
    );
    let plain =
        said("occlude-train", "knn @/raw.safetensors @/train @/val --k 5 --no-floors --json").ok().json();
    assert!(plain["whitening"].is_null() && plain["results"].as_array().unwrap().len() == 1, "{plain}");
}

/// ONNX in every precision, in two runtimes and plainly; the server's own tool against the trainer.
#[test]
fn models_whiten_as_the_trainer_does() {
    for (name, checkpoint, flags) in [
        ("bytes", "raw.whitened.safetensors", "--input uint8"),
        ("dynamic", "raw.whitened.safetensors", "--input uint8 --dynamic-size --opset 22"),
        ("external", "raw.whitened.safetensors", "--external-data --opset 20"),
        ("half", "raw.whitened.safetensors", "--input uint8 --precision fp16"),
        ("int8", "raw.whitened.safetensors", "--precision int8 --calibrate @/train --reduce-range"),
        ("centred", "raw.centered.safetensors", "--input uint8"),
        ("rough", "raw.whitened.safetensors", "--no-normalize --outputs embedding,projection"),
    ] {
        said("occlude-export", &format!("onnx @/{checkpoint} @/{name}.onnx --force {flags}")).ok();
        let verified = said("occlude-export", &format!("verify @/{name}.onnx @/{checkpoint} @/val --json"));
        println!("{name}: {}", verified.stdout.split("\"pictures\"").next().unwrap_or_default());
        verified.ok();
        let found = said("occlude-export", &format!("inspect @/{name}.onnx --json")).ok().json();
        let whitening: Value =
            serde_json::from_str(found["metadata"]["whitening"].as_str().unwrap()).unwrap();
        let dim = if name == "centred" { 512 } else { 40 };
        assert_eq!((&whitening["from"], &whitening["to"]), (&512.into(), &dim.into()), "{whitening}");
        assert_eq!(found["outputs"][0]["shape"][1], dim.to_string(), "{}", found["outputs"]);
    }
    for (name, checkpoint) in [("bytes", "raw.whitened.safetensors"), ("centred", "raw.centered.safetensors")]
    {
        let served = file(&format!("{name}-served.jsonl"));
        said(
            "occlude-serve",
            &format!("embed @/val --out {} --model @/{name}.onnx --provider cpu", served.display()),
        )
        .ok();
        let ours = fs::read_to_string(embedded(checkpoint, "val", "--normalize")).unwrap();
        let served = fs::read_to_string(served).unwrap();
        let rows: Vec<Value> = served.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(rows.len(), 30);
        for line in ours.lines() {
            let ours: Value = serde_json::from_str(line).unwrap();
            let row = rows
                .iter()
                .find(|row| ours["path"].as_str().unwrap().ends_with(row["path"].as_str().unwrap()));
            let pairs = ours["embedding"]
                .as_array()
                .unwrap()
                .iter()
                .zip(row.unwrap()["embedding"].as_array().unwrap());
            let apart = pairs.map(|(a, b)| (figure(a) - figure(b)).abs()).fold(0.0, f64::max);
            assert!(apart < tolerance::ONNX_ERROR, "{name}: {apart} at {}", ours["path"]);
        }
    }
}

#[test]
fn a_collection_tells_the_whitened_model_from_the_other() {
    for (name, checkpoint) in [
        ("c-raw", "raw.safetensors"),
        ("c-white", "raw.whitened.safetensors"),
        ("c-centre", "raw.centered.safetensors"),
    ] {
        said("occlude-export", &format!("onnx @/{checkpoint} @/{name}.onnx --force --input uint8")).ok();
    }
    let index = |model: &str| {
        said(
            "occlude-serve",
            &format!(
                "index @/train --collection photos --data @/collections --model @/{model}.onnx --provider cpu"
            ),
        )
    };
    index("c-raw").ok();
    for other in ["c-white", "c-centre"] {
        let said = index(other);
        assert!(said.code != 0 && said.stderr.contains("photos"), "{other}: {}", said.stderr);
    }
    run::tool("occlude-serve");
    let server = Server::start(
        &file("c-white.onnx"),
        Some(&file("train")),
        &["--provider", "cpu"],
        &file("serve.log"),
    )
    .unwrap();
    let picture = fs::read(file("train/square/001.jpg")).unwrap();
    let embedding = server.client().post("/v1/embed", &picture).unwrap();
    assert_eq!(embedding["embedding"].as_array().unwrap().len(), 40);
    let found = server.client().post("/v1/search?k=3", &picture).unwrap();
    assert!(found["neighbours"][0]["path"].as_str().unwrap().ends_with("square/001.jpg"), "{found}");
    assert!(figure(&found["neighbours"][0]["cosine"]) > 1.0 - tolerance::SELF_SIMILARITY, "{found}");
    assert!(figure(&found["neighbours"][2]["cosine"]) < 0.9, "neighbours are spread: {found}");
    server.stop().unwrap();
}

#[test]
fn weights_for_other_programs_keep_it_only_when_asked() {
    let fingerprint = |name: &str| {
        said("occlude-export", &format!("inspect @/{name} --json")).ok().json()["encoder"].clone()
    };
    let (raw, white) = (fingerprint("raw.safetensors"), fingerprint("raw.whitened.safetensors"));
    assert_ne!(raw["fingerprint"], white["fingerprint"]);
    assert_eq!(
        (&white["embedding"], &white["whitening"]["info"]["encoder"]),
        (&40.into(), &raw["fingerprint"]),
        "{white}"
    );
    for (command, ending) in [("torch", "pth"), ("safetensors", "st.safetensors")] {
        let line = format!("{command} @/raw.whitened.safetensors @/bare.{ending} --force");
        let told = said("occlude-export", &line).ok().stderr;
        assert!(told.contains("--keep-whitening"), "{told}");
        said("occlude-export", &line.replace("bare", "kept").replace("--force", "--keep-whitening --force"))
            .ok();
        let (bare, kept) = (fingerprint(&format!("bare.{ending}")), fingerprint(&format!("kept.{ending}")));
        assert_eq!((&bare["fingerprint"], &bare["embedding"]), (&raw["fingerprint"], &512.into()));
        assert_eq!((&kept["fingerprint"], &kept["embedding"]), (&white["fingerprint"], &40.into()));
        assert_eq!(kept["unused"], json!([]), "{kept}");
    }
    let found = run::python(SCRIPT, &[Path::new("load"), &file("bare.pth"), &file("kept.pth")]);
    assert_eq!(found, json!([[[], []], [[], ["whiten.weight", "whiten.bias"]]]));
    let text = said("occlude-export", "inspect @/raw.whitened.safetensors").ok().stdout;
    assert!(text.contains("512 numbers whitened to 40"), "{text}");
    let told =
        said("occlude-detectron", "convert @/raw.whitened.safetensors @/white.pkl --force").ok().stderr;
    assert!(told.contains("whitening is left out"), "{told}");
}

#[test]
fn classifiers_are_trained_on_the_encoder_itself() {
    let line =
        "linear @/CKPT @/train @/val --views cached --epochs 2 --batch-size 8 --lr 0.5 --device cpu --json";
    let of = |checkpoint: &str| said("occlude-train", &line.replace("CKPT", checkpoint)).ok();
    let (raw, white) = (of("raw.safetensors"), of("raw.whitened.safetensors"));
    assert!(white.stderr.contains("is ignored") && !raw.stderr.contains("is ignored"), "{}", white.stderr);
    for key in ["fingerprint", "top1", "train_loss", "backbone_unchanged"] {
        assert_eq!(raw.json()[key], white.json()[key], "{key}");
    }
}

#[test]
fn what_cannot_be_whitened_is_named() {
    for (line, part) in [
        ("whiten @/raw.safetensors @/train --dim 513 --out @/no.safetensors", "more than the 512 numbers"),
        ("whiten @/raw.safetensors @/train --dim 90 --out @/no.safetensors", "and there are 90; hint"),
        ("whiten @/raw.whitened.safetensors @/train --out @/no.safetensors", "already whitened"),
        ("whiten @/raw.safetensors @/train --out @/raw.whitened.safetensors", "--force"),
        ("whiten @/raw.safetensors @/train --out @/raw.safetensors --force", "the input would be lost"),
        ("knn @/raw.whitened.safetensors @/train @/val --whiten 8", "already whitened"),
        ("knn @/raw.safetensors @/train @/val --whiten 513", "more than the 512 numbers"),
        ("knn @/raw.safetensors @/train @/val --whiten 90", "`checkpoint`"),
        (
            "pretrain @/train --recipe saliency-moco-small --arch resnet18 --image-size 32 --batch-size 12 --epochs 2 --out @/again --resume @/raw.whitened.safetensors",
            "was whitened for use",
        ),
    ] {
        let said = said("occlude-train", &format!("{line} --device cpu"));
        assert!(
            said.code == 1 && said.stderr.contains(part),
            "`{line}` does not say `{part}`: {}",
            said.stderr
        );
        assert!(said.stdout.is_empty() && !file("no.safetensors").exists(), "{line}");
    }
    assert_eq!(said("occlude-train", "whiten @/raw.safetensors @/train --dim 0").code, 2);
    assert_eq!(said("occlude-train", "whiten @/raw.safetensors @/train --dim 8 --center").code, 2);
}
