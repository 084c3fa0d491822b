//! The keys of published checkpoints, in files that PyTorch writes; `layouts.py` makes them.

mod common;

use std::path::Path;
use std::sync::OnceLock;

use common::python;
use occlude_checkpoint::{Checkpoint, Encoder, Error, LoadOptions, load_encoder, match_encoder};
use occlude_encoder::layout::Naming;
use occlude_encoder::{Arch, Graph};
use tempfile::TempDir;

/// The folder of the files, written once.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().expect("folder");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/layouts.py");
        let output = python().arg(script).arg(folder.path()).output().expect("runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        folder
    });
    folder.path()
}

fn open(name: &str) -> Checkpoint {
    Checkpoint::open(folder().join(name)).unwrap_or_else(|e| panic!("{e}"))
}

/// Every parameter holds its position in torchvision's state dict.
fn assert_in_place(encoder: &Encoder<'_>, name: &str) {
    for (i, param) in Graph::new(encoder.arch).params().iter().enumerate() {
        if let Some(values) = encoder.f32(&param.name) {
            assert!(values.iter().all(|&v| v == i as f32), "{name}: {} is not number {i}", param.name);
        }
    }
}

/// (file, prefix, how many keys below it are no part of the encoder)
const LAYOUTS: [(&str, &str, usize); 29] = [
    ("bare", "", 0),
    ("classifier", "", 2),
    ("reference", "", 0),
    ("nested", "", 0),
    ("moco", "module.encoder_q.", 2),
    ("mixmask", "module.encoder_q.", 2),
    ("moco_v3", "module.base_encoder.", 0),
    ("lewel", "module.online_net.backbone.", 0),
    ("dino", "teacher.backbone.", 0),
    ("simclr", "backbone.", 2),
    ("simsiam", "module.encoder.", 0),
    ("swav", "module.", 3),
    ("barlow", "module.backbone.", 0),
    ("bolts", "online_network.encoder.", 0),
    ("solo", "backbone.", 0),
    ("lightly", "backbone.", 0),
    ("byol", "online_network_state_dict.encoder.", 0),
    ("openselfsup", "backbone.", 0),
    ("byol_pytorch", "net.", 0),
    ("compiled", "_orig_mod.", 0),
    ("wrapped", "module.encoder_q.", 0),
    ("engine", "module._forward_module.model.model.", 0),
    ("transformers", "resnet.", 0),
    ("cycles", "backbone.", 0),
    ("hyper_module", "backbone.", 0),
    ("trainer", "", 0),
    ("no_wrapper", "", 0),
    ("fpn", "backbone.bottom_up.", 0),
    ("bare.legacy", "", 0),
];

#[test]
fn published_checkpoints_load_as_they_are() {
    for (name, prefix, unused) in LAYOUTS {
        let checkpoint = open(&format!("{name}.pth"));
        let encoder = load_encoder(&checkpoint, &LoadOptions::default()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((encoder.arch, encoder.layout.prefix.as_str()), (Arch::ResNet18, prefix), "{name}");
        assert_eq!(encoder.report.matched, 120, "{name}: {}", encoder.report);
        assert_eq!(encoder.report.unused.len(), unused, "{name}: {}", encoder.report);
        assert_in_place(&encoder, name);
    }
}

/// Where a ResNet strides is not in its weights: transformers' configuration beside them tells.
#[test]
fn the_configuration_of_transformers_counts() {
    let dir = tempfile::tempdir().expect("folder");
    let file = dir.path().join("pytorch_model.bin");
    std::fs::copy(folder().join("transformers.pth"), &file).expect("copied");
    let other = dir.path().join("torchvision.pth");
    std::fs::copy(folder().join("bare.pth"), &other).expect("copied");
    let load = |file: &Path| {
        let checkpoint = Checkpoint::open(file).unwrap_or_else(|e| panic!("{e}"));
        load_encoder(&checkpoint, &LoadOptions::default()).map(drop)
    };
    let resnet = |more: &str| format!("{{\"model_type\": \"resnet\", \"hidden_act\": \"relu\"{more}}}");
    for (config, refused) in [
        (resnet(""), None),
        (resnet(", \"downsample_in_bottleneck\": false, \"downsample_in_first_stage\": false"), None),
        (
            resnet(", \"downsample_in_bottleneck\": true"),
            Some("`downsample_in_bottleneck: true`: its bottleneck"),
        ),
        (resnet(", \"downsample_in_first_stage\": true"), Some("`downsample_in_first_stage: true`")),
        (
            format!(
                "{{\"model_type\": \"detr\", \"backbone_config\": {}}}",
                resnet(", \"downsample_in_bottleneck\": true")
            ),
            Some("downsample_in_bottleneck"),
        ),
        ("{\"model_type\": \"other\", \"downsample_in_bottleneck\": true}".to_owned(), None),
        ("no json".to_owned(), None),
    ] {
        std::fs::write(dir.path().join("config.json"), &config).expect("written");
        assert!(load(&other).is_ok(), "only transformers' names are transformers' files: {config}");
        match (load(&file), refused) {
            (Ok(()), None) => {}
            (Err(error @ Error::Setting { .. }), Some(words)) => {
                let told = error.to_string();
                assert!(told.contains(words) && told.contains("config.json`"), "{told}");
            }
            (other, _) => panic!("{config}: {other:?}"),
        }
    }
}

/// Every architecture of torchvision that ours is, by names and shapes alone.
#[test]
fn every_resnet_of_torchvision() {
    for arch in Arch::ALL.into_iter().filter(|arch| folder().join(format!("{arch}.pth")).exists()) {
        let checkpoint = open(&format!("{arch}.pth"));
        let encoder = load_encoder(&checkpoint, &LoadOptions::default()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(encoder.arch, arch);
        assert!(encoder.report.is_complete() && encoder.report.unused.is_empty(), "{}", encoder.report);
        for (i, param) in Graph::new(arch).params().iter().enumerate() {
            if let Some(values) = encoder.f32(&param.name) {
                assert!(
                    values.iter().all(|&v| v == (i % 251) as f32),
                    "{arch}: {} is not number {i}",
                    param.name
                );
            }
        }
    }
    assert!(folder().join("wide_resnet101_2.pth").exists() && folder().join("resnext101_64x4d.pth").exists());
}

/// `pickle.dump` of tensors, parameters and arrays, in every protocol.
#[test]
fn plain_pickles_of_tensors() {
    for protocol in 0..=5 {
        let checkpoint = open(&format!("plain_p{protocol}.pkl"));
        assert!(checkpoint.skipped().is_empty(), "{protocol}: {:?}", checkpoint.skipped());
        let values = |name: &str| {
            let tensor = checkpoint.tensor(name).unwrap_or_else(|| panic!("{protocol}: no `{name}`"));
            (tensor.shape.to_vec(), tensor.to_f32().expect("decodes"))
        };
        let counting: Vec<f32> = (0..12u8).map(f32::from).collect();
        let plus = |n: f32| counting.iter().map(|v| v + n).collect::<Vec<_>>();
        assert_eq!(values("a"), (vec![3, 4], plus(0.0)));
        assert_eq!(values("b.c"), (vec![3, 4], plus(1.0)));
        assert_eq!(values("half"), (vec![3, 4], plus(0.0)));
        assert_eq!(values("array"), (vec![3, 4], plus(100.0)));
        assert_eq!(values("parameter"), (vec![2, 4], counting[4..].to_vec()));
        let transposed = [0u8, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11].map(f32::from).to_vec();
        assert_eq!(values("transposed"), (vec![4, 3], transposed));
        assert_eq!(values("count"), (vec![], vec![7.0]));
        assert_eq!(values("none"), (vec![0, 3], vec![]));
        assert_eq!(checkpoint.metadata().get("epoch").map(String::as_str), Some("3"));
    }
    for name in ["plain_resnet18.pkl", "plain_resnet18_p2.pkl"] {
        let checkpoint = open(name);
        let encoder = load_encoder(&checkpoint, &LoadOptions::default()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((encoder.arch, encoder.report.matched), (Arch::ResNet18, 120), "{name}");
        assert_in_place(&encoder, name);
    }
}

#[test]
fn tensors_that_are_not_read_are_named_where_they_are_missed() {
    for (name, parts) in [
        ("eighth", ["118 matched, 2 missing", "`layer1.0.conv1.weight`: ", "float8_e4m3fn"]),
        ("eighth_stem", ["119 matched, 1 missing", "`conv1.weight`: ", "float8_e4m3fn"]),
        ("meta", ["100 of the missing ones", "_rebuild_meta_tensor_no_storage", "which has no values"]),
        (
            "xla",
            ["118 matched, 2 missing", "_rebuild_device_tensor_from_cpu_tensor", "hint: move it to the CPU"],
        ),
        ("xla", ["118 matched, 2 missing", "_rebuild_device_tensor_from_numpy", "a tensor on XLA"]),
    ] {
        let message = refused(name).to_string();
        for part in parts {
            assert!(message.contains(part), "{name}: expected `{part}` in: {message}");
        }
    }
}

/// What is too large beside the weights is left out and named; the weights are there.
#[test]
fn a_trainer_is_walked_as_far_as_it_makes_sense() {
    let checkpoint = open("trainer.pth");
    let left_out: Vec<_> = checkpoint.skipped().iter().filter(|s| s.reason.contains("was skipped")).collect();
    assert!(left_out.iter().any(|s| s.name == "trainer" && s.reason.contains("64 levels")), "{left_out:?}");
    assert_eq!(checkpoint.names().filter(|name| !name.starts_with("trainer.")).count(), 120);
    // No tensors, no trace.
    assert!(open("cycles.pth").skipped().is_empty());
    let asked = LoadOptions { prefix: Some("hyper_parameters.backbone".into()), ..LoadOptions::default() };
    let found = match_encoder(&open("hyper_module.pth"), &asked).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(found.layout.prefix, "hyper_parameters.backbone.");
}

#[test]
fn the_legacy_stream_gives_the_same() {
    for (name, prefix, _) in LAYOUTS.into_iter().filter(|(name, ..)| !name.ends_with(".legacy")) {
        let checkpoint = open(&format!("{name}.legacy.pth"));
        let found = match_encoder(&checkpoint, &LoadOptions::default()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((found.layout.prefix.as_str(), found.report.matched), (prefix, 120), "{name}");
    }
}

#[test]
fn a_c4_detector_is_put_together() {
    let checkpoint = open("c4.pkl");
    let encoder = load_encoder(&checkpoint, &LoadOptions::default()).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((encoder.arch, encoder.layout.naming), (Arch::ResNet50, Naming::Detectron2));
    assert_eq!(encoder.report.matched, 265, "{}", encoder.report);
    assert_in_place(&encoder, "c4");
}

/// The reason why a file is refused.
fn refused(name: &str) -> Error {
    let result = match_encoder(&open(&format!("{name}.pth")), &LoadOptions::default());
    result.map(|found| panic!("{name} loads: {} {}", found.arch, found.report)).unwrap_err()
}

#[test]
fn other_networks_are_not_taken_for_one_of_ours() {
    for (name, reasons) in [
        ("ema", ["several encoders", "`state_dict_ema.`"]),
        ("deep_stem", ["a deep stem of several convolutions (ResNet-C, -D or -S", "`conv1.0.weight`"]),
        ("deeper", ["another depth (3, 8, 37, 3 blocks)", "which is not supported"]),
        ("narrow", ["another width (1 groups of 32 channels in `layer1`)", "of the wrong shape"]),
        (
            "attention",
            ["squeeze-and-excitation (SE-ResNet), which is not supported", "`layer1.0.se.fc1.weight`"],
        ),
        ("small_wide", ["a 3x3 first convolution, as for CIFAR", "neither `resnet18-small` nor"]),
        ("no_pool", ["a ResNet without pooling after a stem", "`f.`"]),
        ("blurred", ["anti-aliased", "which is not supported"]),
        ("pooled", ["a ResNet-D: its shortcuts are pooled", "which is not supported"]),
        ("clip", ["CLIP's ResNet", "which is not supported"]),
        ("folded", ["convolutions have biases", "which is not supported"]),
        ("groups", ["without batch statistics", "which is not supported"]),
        ("five_channels", ["for pictures of 5 channels", "which is not supported"]),
        ("transformer", ["no encoder found", "`patch_embed.proj.weight`"]),
    ] {
        let message = refused(name).to_string();
        for reason in reasons {
            assert!(message.contains(reason), "{name}: expected `{reason}` in: {message}");
        }
        assert!(message.len() < 2000, "{name}: {} bytes", message.len());
    }
}

/// What the files of networks for small pictures leave open is said, and what they show is not.
#[test]
fn networks_for_small_pictures_are_read() {
    for (name, prefix, assumed) in [("small_stem", "", true), ("small_unpooled", "f.", false)] {
        let found = match_encoder(&open(&format!("{name}.pth")), &LoadOptions::default())
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!((found.arch, found.layout.prefix.as_str()), (Arch::ResNet18Small, prefix), "{name}");
        assert_eq!((found.report.matched, found.report.assumed.is_some()), (120, assumed), "{name}");
        assert_eq!(found.report.to_string().contains("without pooling"), assumed, "{}", found.report);
    }
    let asked = LoadOptions { arch: Some(Arch::ResNet18), ..LoadOptions::default() };
    let error = match_encoder(&open("small_stem.pth"), &asked).expect_err("another stem").to_string();
    assert!(error.contains("got [64, 3, 3, 3]"), "{error}");
}

#[test]
fn a_prefix_or_an_architecture_settles_it() {
    let prefix = |prefix: &str| LoadOptions { prefix: Some(prefix.into()), ..LoadOptions::default() };
    for (name, asked) in [
        ("ema", ""),
        ("ema", "state_dict_ema"),
        ("moco", "module.encoder_k"),
        ("dino", "student.module.backbone."),
    ] {
        let found =
            match_encoder(&open(&format!("{name}.pth")), &prefix(asked)).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(found.layout.prefix.trim_end_matches('.'), asked.trim_end_matches('.'), "{name}");
    }
    // Aliases can be asked for by either name.
    for asked in ["backbone", "encoder_q.0", "encoder_k.0"] {
        assert!(match_encoder(&open("openselfsup.pth"), &prefix(asked)).is_ok(), "{asked}");
    }
    let partial = LoadOptions { arch: Some(Arch::ResNet101), partial: true, ..LoadOptions::default() };
    let found = match_encoder(&open("deeper.pth"), &partial).expect("asked for");
    assert!(!found.report.surplus.is_empty() && !found.report.is_complete());
}

#[test]
fn the_arch_of_scripts_is_metadata_only() {
    let checkpoint = open("moco.pth");
    assert_eq!(checkpoint.metadata().get("arch").map(String::as_str), Some("resnet18"));
    assert_eq!(checkpoint.metadata().get("epoch").map(String::as_str), Some("200"));
}
