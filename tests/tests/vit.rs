//! A vision transformer from a published checkpoint to embeddings, accuracies, maps and models.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use occlude_tests::tolerance::{self, cosine};
use occlude_tests::{pictures, processor, run};
use serde_json::Value;
use xtask::server::Server;

const ARCH: &str = "vit_16x2x2_patch4_16";

const SCRIPT: &str = include_str!("vit.py");

/// What timm gave its weights to.
fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/encoder/golden/timm.safetensors")
}

/// A folder with a checkpoint that Occlude wrote of timm's, and pictures of three classes.
fn place() -> &'static Path {
    static PLACE: OnceLock<PathBuf> = OnceLock::new();
    PLACE.get_or_init(|| {
        let folder = run::scratch("vit");
        pictures::tree(&folder.join("train"), 4, 3);
        pictures::tree(&folder.join("val"), 2, 5);
        let golden = golden();
        let flags = ["--arch", ARCH, "--image-size", "32"];
        let out = folder.join("vit.safetensors");
        run::run(
            "occlude-export",
            &[&"safetensors", &golden, &out, &flags[0], &flags[1], &flags[2], &flags[3]],
        )
        .ok();
        folder
    })
}

fn at(name: &str) -> String {
    place().join(name).to_string_lossy().into_owned()
}

/// Runs a tool; `@/` is the folder.
fn tool(name: &str, line: &str) -> run::Said {
    run::words(name, &line.replace("@/", &format!("{}/", place().display())))
}

fn numbers(row: &Value) -> Vec<f64> {
    row["embedding"].as_array().expect("a list").iter().filter_map(Value::as_f64).collect()
}

#[test]
fn what_is_written_is_read_as_the_same_network() {
    let of = |file: &str| tool("occlude-export", &format!("inspect @/{file} --json")).ok().json();
    let first = of("vit.safetensors");
    assert_eq!(first["encoder"]["arch"], ARCH);
    assert_eq!((&first["contract_assumed"], &first["contract"]["crop"]), (&false.into(), &32.into()));
    tool("occlude-export", "torch @/vit.safetensors @/vit.pth").ok();
    assert_eq!(of("vit.pth")["encoder"]["fingerprint"], first["encoder"]["fingerprint"]);
}

#[test]
fn models_verify_and_embed_as_the_trainer() {
    for (name, flags) in [
        ("cls", "--outputs embedding,saliency,tokens"),
        ("both", "--pool cls+mean --saliency object --saliency-tap block0 --input uint8"),
    ] {
        tool("occlude-export", &format!("onnx @/vit.safetensors @/{name}.onnx {flags}")).ok();
        let said = tool("occlude-export", &format!("verify @/{name}.onnx @/vit.safetensors @/val --json"));
        assert_eq!(said.code, 0, "{}", said.stderr);
    }
    tool("occlude-export", "onnx @/vit.safetensors @/half.onnx --precision fp16").ok();
    let said = tool("occlude-export", "verify @/half.onnx @/vit.safetensors @/val --json");
    assert_eq!(said.code, 0, "{}", said.stderr);
    let model = tool("occlude-export", "inspect @/both.onnx --json").ok().json();
    assert_eq!(
        (&model["metadata"]["pool"], &model["metadata"]["encoder"]),
        (&"cls+mean".into(), &ARCH.into())
    );
    let saliency: Value =
        serde_json::from_str(model["metadata"]["saliency"].as_str().expect("text")).expect("JSON");
    assert_eq!((&saliency["rule"], &saliency["block"]), (&"object".into(), &0.into()));
}

/// Integers in ONNX Runtime's own kernels: four products of each block, whose answers do not depend on what lies beside a
/// picture, and come near those of the checkpoint.
#[test]
fn integers_are_integers_and_near_floats() {
    for (name, flags, integers) in [
        ("int8", "", 8),
        ("int8_kept", "--keep-float first", 4),
        ("int8_cut", "--calibration percentile:99.99", 8),
    ] {
        let flags = format!("--precision int8 --calibrate @/train {flags}{}", processor::weight_bits());
        tool("occlude-export", &format!("onnx @/vit.safetensors @/{name}.onnx {flags}")).ok();
        let said = tool("occlude-export", &format!("verify @/{name}.onnx @/vit.safetensors @/val --json"));
        assert_eq!(said.code, 0, "{name}: {}", said.stderr);
        let found = run::python(SCRIPT, &[Path::new("kernels"), Path::new(&at(&format!("{name}.onnx")))]);
        assert_eq!(
            (&found["integers"], &found["dynamic"], &found["left"]),
            (&integers.into(), &0.into(), &0.into()),
            "{name}: {found}"
        );
        assert!(found["apart"].as_f64().is_some_and(|apart| apart < 1e-6), "{name}: {found}");
    }
}

/// One model for all sizes, beside PyTorch and as a server takes it.
#[test]
fn a_model_of_any_size_is_pytorchs_and_is_served() {
    let flags = "--outputs embedding,saliency,tokens --dynamic-size";
    tool("occlude-export", &format!("onnx @/vit.safetensors @/any.onnx {flags}")).ok();
    let said = tool("occlude-export", "verify @/any.onnx @/vit.safetensors @/val --json");
    assert_eq!(said.code, 0, "{}", said.stderr);
    let found = run::python(SCRIPT, &[Path::new("sizes"), &golden(), Path::new(&at("any.onnx"))]);
    let errors = found.as_object().expect("errors");
    assert_eq!(errors.len(), 10);
    for (what, error) in errors {
        assert!(error.as_f64().is_some_and(|error| error < tolerance::ONNX_ERROR), "{what}: {error}");
    }
    tool("occlude-export", "onnx @/vit.safetensors @/one.onnx").ok();
    let rows = |name: &str| {
        tool("occlude-serve", &format!("embed @/val --model @/{name}.onnx --out @/{name}.jsonl")).ok();
        let text = std::fs::read_to_string(at(&format!("{name}.jsonl"))).expect("written");
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect::<Vec<Value>>()
    };
    let (any, one) = (rows("any"), rows("one"));
    assert_eq!((any.len(), one.len()), (6, 6));
    for (any, one) in any.iter().zip(&one) {
        assert!(cosine(&numbers(any), &numbers(one)) >= tolerance::SERVED_COSINE, "{any} {one}");
    }
}

#[test]
fn evaluations_take_it() {
    let rows = tool("occlude-train", "embed @/vit.safetensors @/val --device cpu").ok().json_lines();
    assert!(rows.len() == 6 && rows[0]["embedding"].as_array().is_some_and(|e| e.len() == 16), "{rows:?}");
    let again = tool("occlude-train", "embed @/vit.safetensors @/val --device cpu").ok().json_lines();
    assert!(cosine(&numbers(&rows[0]), &numbers(&again[0])) >= tolerance::RESUMED_COSINE);
    let knn =
        tool("occlude-train", "knn @/vit.safetensors @/train @/val --k 1 --json --device cpu").ok().json();
    assert_eq!(knn["classes"], 3);
}

/// The weights for transformers, which have another shape, and the models beside them are the same network.
#[test]
fn a_folder_for_hubs_gives_the_same_embeddings() {
    tool("occlude-export", "hub @/vit.safetensors @/hub --licence MIT --calibrate @/train --reduce-range")
        .ok();
    let rows =
        |file: &str| tool("occlude-train", &format!("embed @/{file} @/val --device cpu")).ok().json_lines();
    let (first, again) = (rows("vit.safetensors"), rows("hub/model.safetensors"));
    assert_eq!((first.len(), again.len()), (6, 6));
    for (row, again) in first.iter().zip(&again) {
        assert!(cosine(&numbers(row), &numbers(again)) >= tolerance::RESUMED_COSINE, "{row} {again}");
    }
    for (model, flags) in [("model", ""), ("model_fp16", ""), ("model_quantized", "--tolerance 0.01")] {
        let verify = format!("verify @/hub/onnx/{model}.onnx @/vit.safetensors @/val {flags}");
        let said = tool("occlude-export", &verify);
        assert_eq!(said.code, 0, "{model}: {}", said.stderr);
    }
    let twice = tool("occlude-export", "hub @/vit.safetensors @/hub");
    assert!(twice.code == 1 && twice.stderr.contains("--force"), "{}", twice.stderr);
}

#[test]
fn what_does_not_go_is_refused_with_what_does() {
    let detectron = tool("occlude-detectron", "convert @/vit.safetensors @/vit.pkl");
    assert!(detectron.code == 1 && detectron.stderr.contains("pseudo-boxes"), "{}", detectron.stderr);
    let size = tool("occlude-export", "onnx @/vit.safetensors @/x.onnx --image-size 30");
    assert!(size.code == 1 && size.stderr.contains("not a multiple of the patch"), "{}", size.stderr);
    let stage = tool("occlude-export", "onnx @/vit.safetensors @/x.onnx --saliency-stage 3");
    assert!(stage.code == 1 && stage.stderr.contains("--saliency-tap"), "{}", stage.stderr);
    assert!(!Path::new(&at("x.onnx")).exists());
    let masked = "pretrain @/train --out @/run --recipe saliency-moco --arch vit_tiny_patch16_224";
    for (flags, part) in [
        ("--saliency-stage 4", "hint: `--saliency-block`"),
        ("--saliency-block 12", "has blocks 0 to 11"),
        ("--bn-refresh 5", "hint: leave it out"),
    ] {
        let said = tool("occlude-train", &format!("{masked} {flags}"));
        assert!(said.code == 2 && said.stderr.contains(part), "{}", said.stderr);
    }
    let frozen =
        "pretrain @/train --out @/run --recipe saliency-moco --saliency @/vit.safetensors --saliency-stage 4";
    for arch in [ARCH, "resnet18"] {
        let said = tool("occlude-train", &format!("{frozen} --arch {arch} --image-size 32"));
        let part = format!("{ARCH} has no stages; hint: `--saliency-block`");
        assert!(said.code == 2 && said.stderr.contains(&part), "{}", said.stderr);
    }
    assert!(!Path::new(&at("run")).exists());
}

/// Both sides are resized to the contract's, whether the model takes one size or any: what Pillow and ONNX Runtime's own package
/// make of the picture.
#[test]
fn whole_pictures_are_served() {
    const EXPECTED: &str = include_str!("../../server/tests/http/maps.py");
    let drawn = pictures::draw(1, &mut pictures::Random::new(7));
    let wide = image::imageops::crop_imm(&drawn, 0, 0, drawn.width(), drawn.height() * 2 / 3).to_image();
    let picture = at("wide.png");
    wide.save(&picture).expect("a picture");
    let bytes = std::fs::read(&picture).expect("the picture");
    for (name, flags) in [("whole_one", ""), ("whole_any", "--dynamic-size")] {
        let model = at(&format!("{name}.onnx"));
        tool("occlude-export", &format!("onnx @/vit.safetensors {model} {flags}")).ok();
        let expected = run::python(EXPECTED, &[Path::new(&model), Path::new(&picture)]);
        let log = at(&format!("{name}.log"));
        let server = Server::start(Path::new(&model), None, &["--provider", "cpu"], Path::new(&log));
        let server = server.unwrap_or_else(|error| panic!("{error:#}"));
        let mut embeddings = Vec::new();
        for window in ["crop", "whole"] {
            let expected = &expected[format!("window={window}&map=default&mirror=false&refine=false")];
            let said =
                server.client().post(&format!("/v1/analyze?window={window}"), &bytes).expect("an answer");
            near(&said["embedding"], &expected["embedding"]);
            near(&said["saliency"]["grid"]["values"], &expected["grid"]);
            let alone =
                server.client().post(&format!("/v1/embed?window={window}"), &bytes).expect("an answer");
            near(&alone["embedding"], &expected["embedding"]);
            embeddings.push(numbers(&said));
        }
        assert!(cosine(&embeddings[0], &embeddings[1]) < tolerance::SERVED_COSINE, "two windows");
        server.stop().unwrap_or_else(|error| panic!("{error:#}"));
    }
}

/// Two lists of numbers, within the bound of models.
fn near(found: &Value, expected: &Value) {
    let list = |value: &Value| value.as_array().expect("a list").iter().filter_map(Value::as_f64).collect();
    let (found, expected): (Vec<f64>, Vec<f64>) = (list(found), list(expected));
    assert!(found.len() == expected.len() && !found.is_empty(), "{found:?} {expected:?}");
    for (a, b) in found.iter().zip(&expected) {
        assert!((a - b).abs() <= tolerance::ONNX_ERROR * b.abs().max(1.0), "{a} {b}");
    }
}

/// Operations after ONNX Runtime's own optimisation: normalisations and GELUs are one each, the scale and the turned keys are
/// within the product; and the class token alone goes on behind the last attention, to the same embedding.
#[test]
fn operations_are_fused() {
    tool("occlude-export", "onnx @/vit.safetensors @/fused.onnx").ok();
    tool("occlude-export", "onnx @/vit.safetensors @/wide.onnx --outputs embedding,saliency,tokens").ok();
    let found =
        run::python(SCRIPT, &[Path::new("fused"), Path::new(&at("fused.onnx")), Path::new(&at("wide.onnx"))]);
    let count = |ops: &[&str]| ops.iter().filter_map(|op| found["nodes"][op].as_u64()).sum::<u64>();
    assert_eq!(count(&["LayerNormalization", "SkipLayerNormalization"]), 5, "{found}");
    assert_eq!((count(&["BiasGelu"]), count(&["Erf", "Gelu"])), (2, 0), "{found}");
    assert_eq!((count(&["FusedMatMul"]), count(&["Softmax"])), (2, 2), "{found}");
    assert!(found["all"].as_u64().is_some_and(|all| all <= 75), "{found}");
    for output in ["embedding", "saliency"] {
        assert!(found[output].as_f64().is_some_and(|error| error < 1e-6), "{output}: {found}");
    }
    let rows = found["rows"].as_object().expect("rows of products");
    assert_eq!((&rows["blocks.1.mlp.fc1"], &rows["blocks.0.mlp.fc1"]), (&1.into(), &65.into()), "{found}");
}

/// Preprocessing of a file that does not say it, by name and by file, and what is neither.
#[test]
fn evaluations_take_a_contract() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/encoder/golden/timm.safetensors");
    std::fs::copy(golden, at("bare.safetensors")).expect("copied");
    let contract =
        tool("occlude-export", "inspect @/vit.safetensors --json").ok().json()["contract"].to_string();
    std::fs::write(at("contract.json"), contract).expect("written");
    let embed = |line: &str| tool("occlude-train", &format!("embed {line} @/val --device cpu"));
    let rows = |line: &str| embed(line).ok().json_lines();
    let first = rows("@/vit.safetensors");
    let bare = format!("@/bare.safetensors --arch {ARCH} --contract");
    for same in ["imagenet --image-size 32", "@/contract.json"] {
        for (row, again) in first.iter().zip(&rows(&format!("{bare} {same}"))) {
            assert_eq!(numbers(row), numbers(again), "{same}");
        }
    }
    let other = rows(&format!("{bare} augreg --image-size 32"));
    assert!(numbers(&first[0]) != numbers(&other[0]));
    let wrong = embed(&format!("{bare} no-such-name"));
    assert!(
        wrong.code == 1 && wrong.stderr.contains("no-such-name") && wrong.stderr.contains("augreg"),
        "{}",
        wrong.stderr
    );
    let told = embed("@/vit.safetensors --contract dinov2 --image-size 32");
    assert!(told.code == 0 && told.stderr.contains("differs from the one"), "{}", told.stderr);
    for task in ["knn", "linear --epochs 1 --lr 1", "finetune --epochs 1"] {
        let (name, flags) = task.split_once(' ').unwrap_or((task, ""));
        let line = |file: &str| format!("{name} {file} @/train @/val --json --device cpu {flags}");
        let [ours, theirs] = ["@/vit.safetensors".to_owned(), format!("{bare} @/contract.json")]
            .map(|file| tool("occlude-train", &line(&file)).ok().json());
        assert_eq!(ours["results"], theirs["results"], "{name}");
    }
}

/// Short runs with masks by its own attention and patches, of views and of patches.
#[test]
fn its_own_map_says_what_is_masked() {
    let small = "--arch vit_32x2x2_patch8_32 --image-size 32 --batch-size 6 --epochs 1 --warmup-epochs 0 --device cpu --workers 1 \
                 --precision fp32";
    for (i, flags) in [
        "--recipe saliency-moco --queue 12 --bn-splits 1 --choice background --mask-grid 2",
        "--recipe saliency-simclr --saliency-rule object --saliency-block 0 --guidance other",
        "--recipe byol --hidden 64 --predictor-hidden 64 --masks true --saliency-rule border --prior-until 0.5",
        "--recipe ibot --hidden 64 --prototypes 64 --views 1,1,2x32 --patch-choice spread --patch-ratio 0.3-0.5",
        "--recipe ibot --hidden 64 --prototypes 64 --views 1,1,2x32 --patch-choice background --patch-score object",
        "--recipe ibot-dense --hidden 64 --prototypes 64 --views 1,1,2x32 --dense-weight 0.5",
    ]
    .into_iter()
    .enumerate()
    {
        tool("occlude-train", &format!("pretrain @/train --out @/masked{i} {small} {flags}")).ok();
        let lines = std::fs::read_to_string(at(&format!("masked{i}/metrics.jsonl"))).expect("metrics");
        assert_eq!(lines.contains("dense_loss"), flags.contains("dense"), "{lines}");
    }
}

/// A short run with contrast, and its checkpoint as a model.
#[test]
fn contrast_trains_it() {
    let flags = "--recipe moco-v2 --arch vit_32x2x2_patch8_32 --image-size 32 --batch-size 6 --queue 12 --bn-splits 1 \
                 --epochs 1 --warmup-epochs 0 --device cpu --workers 1 --precision fp32";
    tool("occlude-train", &format!("pretrain @/train --out @/contrast {flags}")).ok();
    tool("occlude-export", "onnx @/contrast/checkpoint_0000.safetensors @/contrast.onnx").ok();
    let said =
        tool("occlude-export", "verify @/contrast.onnx @/contrast/checkpoint_0000.safetensors @/val --json");
    assert_eq!(said.code, 0, "{}", said.stderr);
}
