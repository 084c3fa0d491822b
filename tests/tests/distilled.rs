//! Distillation from end to end: one network teaches as a checkpoint, as an ONNX file and by embeddings that the server wrote;
//! what it says is kept, and its student is exported like any other.

use occlude_checkpoint::Checkpoint;
use occlude_tests::{pictures, run, tolerance};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// How far the first loss may differ between the ways in which a teacher says the same: whitening divides by small
/// deviations, of which float sums in another order make a little more.
const LOSS: f64 = 1e-3;

/// Pictures, and a network of one short epoch: a checkpoint, an ONNX file, embeddings in a Parquet file.
fn place() -> &'static Path {
    static PLACE: OnceLock<PathBuf> = OnceLock::new();
    PLACE.get_or_init(|| {
        let folder = run::scratch("distilled");
        pictures::tree(&folder.join("train"), 10, 1);
        for (tool, line) in [
            (
                "occlude-train",
                "pretrain @/train --out @/run --recipe saliency-moco-small --arch resnet18 --image-size 32 --batch-size 10 \
                 --epochs 1 --warmup-epochs 0 --device cpu --precision fp32 --workers 1",
            ),
            ("occlude-export", "onnx @/run/checkpoint_0000.safetensors @/teacher.onnx"),
            ("occlude-serve", "embed @/train --model @/teacher.onnx --out @/teacher.parquet --provider cpu"),
        ] {
            run::words(tool, &line.replace('@', &folder.display().to_string())).ok();
        }
        folder
    })
}

fn file(name: &str) -> PathBuf {
    place().join(name)
}

/// Runs `line` with `@` standing for the folder.
fn said(tool: &str, line: &str) -> run::Said {
    run::words(tool, &line.replace('@', &place().display().to_string()))
}

/// One epoch of a student; what the run said.
fn student(out: &str, data: &str, flags: &str) -> run::Said {
    let line = format!(
        "pretrain @/{data} --out @/{out} --recipe distill --image-size 32 --batch-size 10 --epochs 1 --warmup-epochs 0 \
         --hidden 64 --dim 8 --device cpu --precision fp32 --threads 1 --workers 1 --log-every 1 {flags}"
    );
    said("occlude-train", &line)
}

fn first_loss(out: &str) -> f64 {
    let text = fs::read_to_string(file(out).join("metrics.jsonl")).unwrap();
    let first: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    first["loss"].as_f64().unwrap()
}

fn checkpoint(out: &str) -> Checkpoint {
    Checkpoint::open(file(out).join("checkpoint_0000.safetensors")).unwrap()
}

/// What teachers said so far, row by row.
fn kept() -> Vec<Vec<Vec<f64>>> {
    let folders = fs::read_dir(file("cache")).into_iter().flatten().flatten().map(|e| e.path());
    let rows = |folder: PathBuf| {
        let rows = Checkpoint::open(folder.join("00000000.safetensors")).unwrap();
        let rows = rows.tensor("embeddings").unwrap();
        let values: Vec<f64> = rows.to_f32().unwrap().into_iter().map(f64::from).collect();
        values.chunks(rows.shape[1]).map(<[f64]>::to_vec).collect()
    };
    folders.map(rows).collect()
}

#[test]
fn a_teacher_says_the_same_in_every_form_and_is_asked_once() {
    let teachers = [
        ("by-onnx", "--teacher @/teacher.onnx", "embeds 30 pictures"),
        ("by-checkpoint", "--teacher @/run/checkpoint_0000.safetensors", "embeds 30 pictures"),
        ("by-embeddings", "--targets @/teacher.parquet", "distill on Cpu"),
        ("again", "--teacher @/teacher.onnx", "are cached in"),
    ];
    for (out, flags, told) in teachers {
        let log = student(out, "train", &format!("{flags} --teacher-cache @/cache")).ok().stderr;
        assert!(log.contains(told), "{out}: {log}");
    }
    let kept = kept();
    assert_eq!(kept.len(), 2, "embeddings of a file are kept there alone");
    let [a, b] = &kept[..] else { panic!("two") };
    // exported embeddings have length one
    let apart = a.iter().zip(b).map(|(a, b)| 1.0 - tolerance::cosine(a, b)).fold(0.0, f64::max);
    assert!(a.len() == 30 && b[0].len() == 512 && apart < tolerance::ONNX_ERROR, "{apart}");
    let of = |out: &str| (first_loss(out), checkpoint(out));
    let (loss, first) = of("by-onnx");
    let teacher = Checkpoint::open(file("run/checkpoint_0000.safetensors")).unwrap();
    for (out, ..) in teachers {
        let (found, checkpoint) = of(out);
        assert!((found - loss).abs() < LOSS, "{out}: {found} {loss}");
        // weights and contract are the same, whatever the file
        assert_eq!(
            checkpoint.metadata()["occlude.teacher"],
            teacher.metadata()["occlude.fingerprint"],
            "{out}"
        );
    }
    let again = checkpoint("again");
    for tensor in first.tensors().filter(|t| !t.name.starts_with("optim.")) {
        let same = again.tensor(tensor.name).unwrap().to_bytes().unwrap() == tensor.to_bytes().unwrap();
        assert!(same, "`{}` differs where embeddings came from the cache", tensor.name);
    }
    let line =
        "onnx @/by-onnx/checkpoint_0000.safetensors @/student.onnx --outputs embedding,saliency,projection";
    said("occlude-export", line).ok();
    said("occlude-export", "verify @/student.onnx @/by-onnx/checkpoint_0000.safetensors @/train").ok();
}

/// The last feature map of the same weights, by libtorch and by ONNX Runtime: the same first loss, beside the embeddings'.
#[test]
fn parts_of_pictures_are_learnt_from_a_checkpoint_and_from_an_onnx_file() {
    let outputs = "onnx @/run/checkpoint_0000.safetensors @/parts.onnx --outputs embedding,res5";
    said("occlude-export", outputs).ok();
    let runs = [
        ("parts-onnx", "--teacher @/parts.onnx"),
        ("parts-checkpoint", "--teacher @/run/checkpoint_0000.safetensors"),
        ("parts-again", "--teacher @/parts.onnx"),
        ("parts-none", "--teacher @/parts.onnx --dense-weight 0"),
    ];
    let first = |out: &str| {
        let text = fs::read_to_string(file(out).join("metrics.jsonl")).unwrap();
        serde_json::from_str::<Value>(text.lines().next().unwrap()).unwrap()
    };
    for (out, flags) in runs {
        let weight = if flags.contains("dense") { "" } else { "--dense-weight 0.5" };
        let log =
            student(out, "train", &format!("{flags} {weight} --teacher-cache @/parts-cache")).ok().stderr;
        assert_eq!(
            log.contains("targets of 1 x 1 cells a picture"),
            !flags.contains("dense"),
            "{out}: {log}"
        );
        assert_eq!(
            log.contains("are cached in"),
            matches!(out, "parts-again" | "parts-none"),
            "{out}: {log}"
        );
    }
    let number = |out: &str, key: &str| first(out)[key].as_f64().unwrap();
    let parts = ["cosine_loss", "relation_loss", "dense_loss"].map(|key| number("parts-onnx", key));
    let total = parts[0] + parts[1] + 0.5 * parts[2];
    assert!((number("parts-onnx", "loss") - total).abs() < 1e-5 && parts[2] > 0.0, "{parts:?}");
    let apart = number("parts-checkpoint", "dense_loss") - parts[2];
    assert!(apart.abs() < LOSS, "{apart}");
    assert_eq!(first("parts-again")["dense_loss"], first("parts-onnx")["dense_loss"]);
    assert!(first("parts-none").get("dense_loss").is_none());
    let names = |out: &str| {
        let names = checkpoint(out).tensors().map(|t| t.name.to_owned()).collect::<Vec<_>>();
        names.into_iter().filter(|name| name.contains("cells") && !name.starts_with("optim.")).count()
    };
    // two linear layers, a normalisation with its statistics, and how targets are made
    assert!(names("parts-onnx") > 8 && names("parts-none") == 0, "{}", names("parts-onnx"));
    said("occlude-export", "onnx @/parts-onnx/checkpoint_0000.safetensors @/parts-student.onnx").ok();
}

#[test]
fn what_no_teacher_can_answer_is_said_with_a_way_out() {
    let train = file("train");
    let more = file("more");
    for class in pictures::CLASSES {
        fs::create_dir_all(more.join(class)).unwrap();
        for entry in fs::read_dir(train.join(class)).unwrap().flatten() {
            fs::copy(entry.path(), more.join(class).join(entry.file_name())).unwrap();
        }
    }
    fs::copy(train.join("disc/000.png"), more.join("disc/new.png")).unwrap();
    let names = run::python(
        include_str!("distilled.py"),
        &[&file("teacher.onnx"), &file("plain.onnx"), &file("nameless.onnx")],
    );
    assert!(names.to_string().contains("vector"), "{names}");
    let contract = file("contract.json");
    let teacher = Checkpoint::open(file("run/checkpoint_0000.safetensors")).unwrap();
    fs::write(&contract, &teacher.metadata()["occlude.preprocess"]).unwrap();
    for (data, flags, code, part) in [
        ("more", "--targets @/teacher.parquet", 1, "lacks 1 of 31 pictures, like `disc/new.png`"),
        ("train", "--teacher @/plain.onnx", 1, "hint: `--teacher-contract FILE`"),
        (
            "train",
            "--teacher @/nameless.onnx --teacher-contract @/contract.json",
            1,
            "`embedding` is missing (there are `vector`, ",
        ),
        ("train", "--teacher @/plain.onnx --teacher-contract imagenet", 1, "as the contract's crop has it"),
        ("train", "--teacher @/teacher.onnx --dense-weight 1", 1, "says nothing of the parts of a picture"),
        ("train", "--targets @/teacher.parquet --dense-weight 1", 2, "one embedding of each picture"),
        ("train", "--teacher @/gone.onnx", 1, "gone.onnx"),
        ("train", "--teacher @/teacher.parquet", 1, "hint: `--targets"),
        ("train", "", 2, "hint: `--teacher MODEL`"),
    ] {
        let said = student("refused", data, &format!("{flags} --teacher-cache @/elsewhere"));
        assert_eq!(said.code, code, "{flags}: {}", said.stderr);
        assert!(said.stderr.contains(part), "{flags}: {}", said.stderr);
        assert!(!file("refused").exists(), "{flags} left a folder");
    }
    // with a contract it is as good as any
    let teacher_flags =
        "--teacher @/plain.onnx --teacher-contract @/contract.json --teacher-cache @/elsewhere";
    student("foreign", "train", teacher_flags).ok();
    let fingerprint = checkpoint("foreign").metadata()["occlude.teacher"].clone();
    assert!(fingerprint.len() == 64 && fingerprint != teacher.metadata()["occlude.fingerprint"]);
}
