//! `occlude-train localise` as a process: bright discs on textured ground, whose masks and boxes are known.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use image::{GrayImage, Luma, Rgb, RgbImage};
use occlude_checkpoint::{TensorOut, meta, save_safetensors};
use occlude_encoder::Arch;
use occlude_preprocess::Preprocess;
use occlude_train::model::Encoder;
use serde_json::{Value, json};
use tch::{Device, Kind};

struct Said {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// Runs `localise LINE` with `@` standing for the folder.
fn run(dir: &Path, line: &str) -> Said {
    let line = line.replace('@', &dir.display().to_string());
    let output = Command::new(env!("CARGO_BIN_EXE_occlude-train"))
        .arg("localise")
        .args(line.split_whitespace())
        .args(["--device", "cpu", "--threads", "1"])
        .output()
        .expect("started");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Said { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

/// The JSON of a command that works.
fn figures(dir: &Path, line: &str) -> Value {
    let said = run(dir, &format!("@/net.safetensors @/data {line} --json @/out.json --force"));
    assert_eq!(said.code, Some(0), "`{line}`: {}", said.stderr);
    serde_json::from_str(&fs::read_to_string(dir.join("out.json")).expect("written")).expect("JSON")
}

fn figure(answer: &Value, map: &str, name: &str) -> f64 {
    let rows = answer["results"].as_array().expect("rows");
    let row = rows.iter().find(|row| row["map"] == map).unwrap_or_else(|| panic!("no {map}: {answer}"));
    row[name].as_f64().unwrap_or_else(|| panic!("no {name}: {row}"))
}

const SIZE: (u32, u32) = (120, 90);
const RADIUS: i64 = 20;

/// The middle of the disc of a picture.
fn middle(i: u32) -> (i64, i64) {
    (i64::from(30 + i * 11 % 60), i64::from(30 + i * 7 % 30))
}

fn inside(i: u32, x: u32, y: u32) -> bool {
    let (cx, cy) = middle(i);
    (i64::from(x) - cx).pow(2) + (i64::from(y) - cy).pow(2) <= RADIUS * RADIUS
}

/// Six pictures with masks, one file that is no picture, COCO's boxes, and an encoder with random weights.
fn place() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    for folder in ["data", "masks"] {
        fs::create_dir(dir.path().join(folder)).expect("made");
    }
    let (mut images, mut boxes) = (Vec::new(), Vec::new());
    for i in 0..6 {
        let mut noise: u32 = 77 + i;
        let picture = RgbImage::from_fn(SIZE.0, SIZE.1, |x, y| {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let grain = (noise >> 24) as u8 / 6;
            if inside(i, x, y) { Rgb([240 - grain / 4, 210, 40]) } else { Rgb([40 + grain, 70 + grain, 90]) }
        });
        picture.save(dir.path().join(format!("data/{i}.png"))).expect("written");
        let mask = GrayImage::from_fn(SIZE.0, SIZE.1, |x, y| Luma([u8::from(inside(i, x, y))]));
        mask.save(dir.path().join(format!("masks/{i}.png"))).expect("written");
        let (cx, cy) = middle(i);
        images.push(json!({ "id": i, "file_name": format!("{i}.png"), "width": SIZE.0, "height": SIZE.1 }));
        let side = 2 * RADIUS + 1;
        boxes.push(json!({ "id": i, "image_id": i, "bbox": [cx - RADIUS, cy - RADIUS, side, side] }));
    }
    let coco = json!({ "images": images, "annotations": boxes }).to_string();
    fs::write(dir.path().join("boxes.json"), coco).expect("written");
    checkpoint(&dir.path().join("net.safetensors"));
    dir
}

fn checkpoint(path: &Path) {
    let encoder = Encoder::new(Arch::ResNet18, 3, Device::Cpu);
    let named = encoder.named("");
    let floats: Vec<(Vec<usize>, Vec<f32>)> = named
        .iter()
        .map(|n| {
            let flat = n.tensor.detach().to_kind(Kind::Float).contiguous().flatten(0, -1);
            (n.tensor.size().iter().map(|&d| d as usize).collect(), Vec::try_from(flat).expect("numbers"))
        })
        .collect();
    let out =
        named.iter().zip(&floats).map(|(n, (shape, data))| match n.name.ends_with("num_batches_tracked") {
            true => TensorOut::i64(n.name.clone(), 0),
            false => TensorOut::f32(n.name.clone(), shape.clone(), data),
        });
    let contract = Preprocess::imagenet(64).to_json();
    let metadata = BTreeMap::from([(meta::PREPROCESS.to_owned(), contract)]);
    save_safetensors(path, &out.collect::<Vec<_>>(), &metadata).expect("saved");
}

#[test]
fn discs_are_found_and_every_map_is_judged() {
    let dir = place();
    fs::write(dir.path().join("data/broken.jpg"), b"\xff\xd8\xff\xe0 cut off").expect("written");
    fs::copy(dir.path().join("masks/0.png"), dir.path().join("masks/broken.png")).expect("copied");
    let line =
        "@/net.safetensors @/data --masks @/masks --stage 2 --size 128 --json @/out.json --pictures @/sheets";
    let said = run(dir.path(), line);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    for words in
        ["object, stage 2 ", "object, stage 2, untrained", "centre prior", "border-colour prior", "AUROC"]
    {
        assert!(said.stdout.contains(words), "no {words}:\n{}", said.stdout);
    }
    assert!(said.stdout.contains("not judged: 1 pictures that could not be read"), "{}", said.stdout);
    assert!(said.stderr.contains("skipped: ") && said.stderr.contains("broken.jpg"), "{}", said.stderr);
    let answer: Value =
        serde_json::from_str(&fs::read_to_string(dir.path().join("out.json")).expect("there")).expect("JSON");
    assert_eq!(
        (&answer["pictures"], &answer["unreadable"], &answer["truth"]),
        (&6.into(), &1.into(), &"masks".into())
    );
    assert_eq!(answer["each"].as_array().map(Vec::len), Some(6));
    // one colour on another: nothing is easier
    assert!(figure(&answer, "border-colour", "auroc") > 0.99, "{answer}");
    assert!(figure(&answer, "border-colour", "iou_mean") > 0.8);
    assert!(figure(&answer, "border-colour", "corloc") == 1.0);
    // random filters tell bright from dark, too; the blob does not know where the disc is
    for map in ["encoder", "untrained"] {
        assert!(figure(&answer, map, "auroc") > 0.9, "{map}: {answer}");
    }
    assert!(figure(&answer, "centre", "auroc") < figure(&answer, "encoder-x-border-colour", "auroc"));
    let ahead = figure(&answer, "encoder", "iou_mean") - figure(&answer, "border-colour", "iou_mean");
    assert!((figure(&answer, "encoder", "iou_mean_ahead") - ahead).abs() < 1e-9);
    for name in ["best.png", "worst.png"] {
        let sheet = image::open(dir.path().join("sheets").join(name)).expect("a picture").to_rgb8();
        assert_eq!(sheet.dimensions(), (4 * (SIZE.0 + 6) - 6, 6 * (SIZE.1 + 6) - 6));
    }
    let again = run(dir.path(), line);
    assert!(again.code == Some(1) && again.stderr.contains("--force"), "{}", again.stderr);
}

#[test]
fn rules_stages_sizes_and_windows_are_what_is_asked_for() {
    let dir = place();
    let base = figures(dir.path(), "--masks @/masks --no-untrained");
    assert_eq!((&base["rule"], &base["stage"], &base["sizes"]), (&"object".into(), &3.into(), &json!([64])));
    assert_eq!(base["results"].as_array().map(Vec::len), Some(4), "without the untrained encoder");
    let mut seen = vec![figure(&base, "encoder", "auroc")];
    for (more, key, value) in [
        ("--rule sum", "rule", json!("sum")),
        ("--rule border", "stage", json!(4)),
        ("--stage 2", "stage", json!(2)),
        ("--size 128", "sizes", json!([128])),
        ("--scales 64,128", "sizes", json!([64, 128])),
        ("--mirror", "mirror", json!(true)),
        ("--window crop", "window", json!("crop")),
    ] {
        let answer = figures(dir.path(), &format!("--masks @/masks --no-untrained {more}"));
        assert_eq!(answer[key], value, "{more}");
        let auroc = figure(&answer, "encoder", "auroc");
        assert!(!seen.contains(&auroc), "{more} changes nothing");
        seen.push(auroc);
        let same = figure(&answer, "centre", "auroc") == figure(&base, "centre", "auroc");
        assert_eq!(same, more != "--window crop", "{more}: what is judged changes with the window alone");
    }
    let limited = figures(dir.path(), "--masks @/masks --no-untrained --limit 2");
    let names: Vec<&Value> =
        limited["each"].as_array().expect("rows").iter().map(|p| &p["picture"]).collect();
    assert_eq!(names, ["0.png", "3.png"]);
}

/// A state dict as torchvision saves it, classifier and all, is the encoder that it is in safetensors, number for number.
#[test]
fn a_file_of_torchvision_gives_what_the_same_weights_give_elsewhere() {
    let dir = place();
    let at = |name: &str| dir.path().join(name);
    let script = "import sys, torch, torchvision\n\
                  from safetensors.torch import load_file\n\
                  net = torchvision.models.resnet18()\n\
                  keys = net.load_state_dict(load_file(sys.argv[1]), strict=False)\n\
                  assert sorted(keys.missing_keys) == ['fc.bias', 'fc.weight'] and not keys.unexpected_keys, keys\n\
                  torch.save(net.state_dict(), sys.argv[2])";
    let interpreter = std::env::var_os("OCCLUDE_PYTHON").unwrap_or_default();
    assert!(Path::new(&interpreter).exists(), "no Python environment; hint: run `cargo xtask setup`");
    let files = [at("net.safetensors"), at("resnet18.pth")];
    let output = Command::new(interpreter).args(["-c", script]).args(&files).output().expect("started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let ours = figures(dir.path(), "--masks @/masks --no-untrained");
    // The file says nothing of preprocessing.
    let line = "@/resnet18.pth @/data --masks @/masks --no-untrained --image-size 64 --json @/theirs.json";
    let said = run(dir.path(), line);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert!(said.stderr.contains("states no preprocessing"), "{}", said.stderr);
    let theirs: Value =
        serde_json::from_str(&fs::read_to_string(at("theirs.json")).expect("written")).expect("JSON");
    assert!(figure(&theirs, "encoder", "auroc") > 0.0 && theirs["each"].as_array().map(Vec::len) == Some(6));
    for key in ["fingerprint", "rule", "stage", "sizes", "results", "each"] {
        assert!(!ours[key].is_null() && ours[key] == theirs[key], "{key}: {} {}", ours[key], theirs[key]);
    }
}

#[test]
fn boxes_serve_as_truth() {
    let dir = place();
    let (masks, boxes) =
        (figures(dir.path(), "--masks @/masks"), figures(dir.path(), "--boxes @/boxes.json"));
    assert_eq!(boxes["truth"], "boxes");
    for map in ["encoder", "centre", "border-colour"] {
        assert_eq!(
            figure(&masks, map, "corloc"),
            figure(&boxes, map, "corloc"),
            "the boxes are those of the masks"
        );
    }
    // a disc fills pi / 4 of its box
    assert!((figure(&boxes, "border-colour", "iou_best") - 0.785).abs() < 0.06, "{boxes}");
}

#[test]
fn pictures_with_nothing_to_find_are_counted() {
    let dir = place();
    for i in 0..6 {
        let path = dir.path().join(format!("masks/{i}.png"));
        GrayImage::new(SIZE.0, SIZE.1).save(path).expect("written");
        if i == 1 {
            let answer = figures(dir.path(), "--masks @/masks --no-untrained");
            assert_eq!((&answer["pictures"], &answer["without_object"]), (&4.into(), &2.into()));
        }
    }
    let said = run(dir.path(), "@/net.safetensors @/data --masks @/masks");
    assert!(said.code == Some(1) && said.stderr.contains("every mask is empty"), "{}", said.stderr);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let dir = place();
    let at = |name: &str| dir.path().join(name);
    let refused = |line: &str, code: i32, names: &[&str]| {
        let said = run(dir.path(), line);
        assert_eq!(said.code, Some(code), "{line}: {}", said.stderr);
        assert!(names.iter().all(|name| said.stderr.contains(name)), "{line}: {}", said.stderr);
        assert_eq!(said.stdout, "", "{line}");
    };
    refused("@/net.safetensors @/data", 2, &["--masks", "--boxes"]);
    refused("@/net.safetensors @/data --masks @/masks --boxes @/boxes.json", 2, &["--boxes"]);
    refused("@/net.safetensors @/data --masks @/masks --stage 6", 2, &["--stage"]);
    refused("@/net.safetensors @/data --masks @/masks --size 64 --scales 64", 2, &["--scales"]);
    refused("@/net.safetensors @/data --masks @/masks --stage 5 --size 32", 2, &["single cell", "hint: "]);
    refused("@/net.safetensors @/data --masks @/masks --rule best", 2, &["border"]);
    refused("@/net.safetensors @/data --masks @/nowhere", 1, &["nowhere"]);
    refused("@/gone.safetensors @/data --masks @/masks", 1, &["gone.safetensors"]);
    refused("@/net.safetensors @/data --boxes @/net.safetensors", 1, &["net.safetensors"]);
    refused(
        "@/net.safetensors @/data --masks @/masks --json @/net.safetensors --force",
        1,
        &["would be lost"],
    );
    GrayImage::new(90, 120).save(at("masks/2.png")).expect("written");
    refused("@/net.safetensors @/data --masks @/masks", 1, &["masks/2.png", "90x120", "120x90"]);
    fs::write(at("masks/2.png"), b"\x89PNG\r\n\x1a\n").expect("written");
    refused("@/net.safetensors @/data --masks @/masks", 1, &["masks/2.png", "broken"]);
    fs::remove_file(at("masks/2.png")).expect("removed");
    refused("@/net.safetensors @/data --masks @/masks", 1, &["1 of 6 pictures", "data/2.png", "masks/2.png"]);
    for i in 0..6 {
        fs::write(at(&format!("data/{i}.png")), b"no picture").expect("written");
    }
    fs::copy(at("masks/1.png"), at("masks/2.png")).expect("copied");
    refused("@/net.safetensors @/data --masks @/masks", 1, &["none of the 6 pictures"]);
}

/// A photo that its EXIF turns is compared with its mask after turning.
#[test]
fn turned_pictures_have_upright_masks() {
    let dir = place();
    for i in 0..6 {
        fs::remove_file(dir.path().join(format!("data/{i}.png"))).expect("removed");
    }
    let lying = RgbImage::from_fn(SIZE.1, SIZE.0, |x, y| {
        if inside(0, SIZE.0 - 1 - y, x) { Rgb([240, 210, 40]) } else { Rgb([40, 70, 90]) }
    });
    let mut bytes = std::io::Cursor::new(Vec::new());
    lying.write_to(&mut bytes, image::ImageFormat::Jpeg).expect("encoded");
    // an APP1 segment with one entry, orientation 6: turn by 90 degrees to the right
    let exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    let mut turned = b"\xff\xd8\xff\xe1".to_vec();
    turned.extend(((exif.len() + 2) as u16).to_be_bytes());
    turned.extend(exif);
    turned.extend(&bytes.into_inner()[2..]);
    fs::write(dir.path().join("data/0.jpg"), turned).expect("written");
    let answer = figures(dir.path(), "--masks @/masks --no-untrained");
    assert!(figure(&answer, "border-colour", "iou_mean") > 0.7, "{answer}");
}
