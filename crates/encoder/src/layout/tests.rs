//! The layouts of published checkpoints.

use super::*;

/// The keys of a small encoder, named in a way, below each prefix.
fn keys(naming: Naming, prefixes: &[&str]) -> Vec<String> {
    let names = ["conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "layer4.0.bn1.bias"];
    let named = |name: &str| match naming {
        Naming::Torchvision => name.to_owned(),
        Naming::Detectron2 => detectron::from_torchvision(name).expect("an encoder's name"),
        Naming::Sequential | Naming::Unpooled => {
            let name = name.replacen("conv1", "0", usize::from(name.starts_with('c')));
            let name = name.replacen("bn1", "1", usize::from(name.starts_with('b')));
            let [first, last] = if naming == Naming::Sequential { ["4", "7"] } else { ["3", "6"] };
            name.replacen("layer1", first, 1).replacen("layer4", last, 1)
        }
        Naming::Transformers => match name {
            "conv1.weight" => "embedder.embedder.convolution.weight".to_owned(),
            "bn1.weight" => "embedder.embedder.normalization.weight".to_owned(),
            "layer1.0.conv1.weight" => "encoder.stages.0.layers.0.layer.0.convolution.weight".to_owned(),
            _ => "encoder.stages.3.layers.0.layer.0.normalization.bias".to_owned(),
        },
        Naming::Vit => match name {
            "conv1.weight" => "patch_embed.proj.weight".to_owned(),
            "layer1.0.conv1.weight" => "blocks.0.norm1.weight".to_owned(),
            "bn1.weight" => "cls_token".to_owned(),
            _ => "blocks.1.attn.qkv.bias".to_owned(),
        },
        Naming::TransformersVit => match name {
            "conv1.weight" => "embeddings.patch_embeddings.projection.weight".to_owned(),
            "layer1.0.conv1.weight" => "encoder.layer.0.attention.attention.query.weight".to_owned(),
            "bn1.weight" => "embeddings.cls_token".to_owned(),
            _ => "encoder.layer.1.attention.attention.key.bias".to_owned(),
        },
    };
    prefixes.iter().flat_map(|p| names.map(|n| format!("{p}{}", named(n)))).collect()
}

fn found(prefixes: &[&str], asked: Option<&str>) -> Result<String, LayoutError> {
    let mut keys = keys(Naming::Torchvision, prefixes);
    // What stands beside encoders.
    keys.extend(prefixes.iter().flat_map(|p| [format!("{p}fc.0.weight"), format!("{p}projector.0.weight")]));
    keys.extend(["queue", "queue_ptr", "predictor.0.weight", "prototypes.weight"].map(str::to_owned));
    detect(keys.iter().map(String::as_str), asked).map(|l| l.prefix)
}

#[test]
fn one_row_per_naming() {
    for naming in [
        Naming::Torchvision,
        Naming::Detectron2,
        Naming::Sequential,
        Naming::Unpooled,
        Naming::Transformers,
        Naming::Vit,
        Naming::TransformersVit,
    ] {
        assert_eq!(naming.anchors().naming, naming);
    }
}

/// (prefixes in the file, the one that is meant, whose it is)
const PUBLISHED: &[(&[&str], &str, &str)] = &[
    // torchvision, timm, the published DINO, VICReg and Barlow Twins backbones.
    (&[""], "", "torchvision"),
    // SwAV.
    (&["module."], "module.", "torchvision"),
    // MoCo v1 and v2, MixMask, the saliency repository, with and without DataParallel.
    (&["module.encoder_q.", "module.encoder_k."], "module.encoder_q.", "MoCo"),
    (&["encoder_q.", "encoder_k."], "encoder_q.", "MoCo"),
    (&["module.encoder_q."], "module.encoder_q.", "MoCo"),
    (&["module.encoder_k."], "module.encoder_k.", "MoCo"),
    // MoCo v3.
    (&["module.base_encoder.", "module.momentum_encoder."], "module.base_encoder.", "MoCo v3"),
    // Dense variants of OpenSelfSup.
    (&["encoder_q.0.", "encoder_k.0."], "encoder_q.0.", "OpenSelfSup"),
    // mmselfsup.
    (&["backbone.", "encoder_k.0."], "backbone.", "SimCLR"),
    (&["backbone.", "target_net.module.0."], "backbone.", "SimCLR"),
    // LEWEL.
    (&["online_net.backbone.", "target_net.backbone."], "online_net.backbone.", "LEWEL"),
    (&["module.online_net.backbone.", "module.target_net.backbone."], "module.online_net.backbone.", "LEWEL"),
    // BYOL: Lightning Bolts, and the plain PyTorch ones.
    (&["online_network.encoder.", "target_network.encoder."], "online_network.encoder.", "BYOL"),
    (&["online_encoder.net.", "target_encoder.net."], "online_encoder.net.", "BYOL"),
    // SimCLR and SimSiam forks, PixPro, Barlow Twins, VICReg.
    (&["encoder."], "encoder.", "SimCLR"),
    (&["module.encoder."], "module.encoder.", "SimCLR"),
    (&["module.encoder.", "module.encoder_k."], "module.encoder.", "SimCLR"),
    (&["backbone."], "backbone.", "SimCLR"),
    (&["module.backbone."], "module.backbone.", "Barlow Twins"),
    // solo-learn and lightly.
    (&["backbone.", "momentum_backbone."], "backbone.", "solo-learn"),
    (&["backbone.", "backbone_momentum."], "backbone.", "solo-learn"),
    (&["encoder.", "momentum_encoder."], "encoder.", "SimCLR"),
    // DINO and iBOT: the student is wrapped, the teacher sometimes.
    (&["student.backbone.", "teacher.backbone."], "teacher.backbone.", "DINO"),
    (&["student.module.backbone.", "teacher.backbone."], "teacher.backbone.", "DINO"),
    (&["student.module.backbone.", "teacher.module.backbone."], "teacher.module.backbone.", "DINO"),
    (&["student.module.backbone."], "student.module.backbone.", "DINO"),
    (&["student_backbone.", "teacher_backbone."], "teacher_backbone.", "unknown"),
    // torch.compile, and wrappers of wrappers.
    (&["_orig_mod.encoder_q.", "_orig_mod.encoder_k."], "_orig_mod.encoder_q.", "MoCo"),
    (&["module._orig_mod.backbone."], "module._orig_mod.backbone.", "SimCLR"),
    // VISSL.
    (
        &["classy_state_dict.base_model.model.trunk._feature_blocks."],
        "classy_state_dict.base_model.model.trunk._feature_blocks.",
        "unknown",
    ),
];

#[test]
fn published_layouts() {
    for (prefixes, meant, project) in PUBLISHED {
        assert_eq!(found(prefixes, None).as_deref(), Ok(*meant), "{prefixes:?}");
        let layout = Layout { prefix: (*meant).to_owned(), naming: Naming::Torchvision };
        assert!(layout.project().contains(project), "{meant}: {}", layout.project());
        // The others are there for whoever asks.
        for prefix in *prefixes {
            assert_eq!(found(prefixes, Some(prefix)).as_deref(), Ok(*prefix));
        }
    }
}

#[test]
fn sequential_backbones() {
    for (prefixes, meant) in [
        (&["backbone."] as &[&str], "backbone."),
        (&["backbone.", "backbone_momentum."], "backbone."),
        (&["f."], "f."),
        (
            &["online_network_state_dict.encoder.", "target_network_state_dict.encoder."],
            "online_network_state_dict.encoder.",
        ),
    ] {
        let keys = keys(Naming::Sequential, prefixes);
        let layout = detect(keys.iter().map(String::as_str), None).expect("one encoder");
        assert_eq!((layout.prefix.as_str(), layout.naming), (meant, Naming::Sequential));
        let to = |key: &str| layout.to_torchvision(&format!("{meant}{key}"));
        assert_eq!(to("0.weight").as_deref(), Some("conv1.weight"));
        assert_eq!(to("1.running_mean").as_deref(), Some("bn1.running_mean"));
        assert_eq!(to("7.2.downsample.0.weight").as_deref(), Some("layer4.2.downsample.0.weight"));
        assert_eq!(to("2.weight"), None);
        assert_eq!(to("fc.weight"), None);
    }
}

#[test]
fn detectron_names_are_recognised() {
    for prefix in ["", "backbone.", "backbone.bottom_up.", "model.backbone.bottom_up."] {
        let mut keys = keys(Naming::Detectron2, &[prefix]);
        keys.push("backbone.fpn_lateral2.weight".to_owned());
        let layout = detect(keys.iter().map(String::as_str), None).expect("one encoder");
        assert_eq!((layout.prefix.as_str(), layout.naming), (prefix, Naming::Detectron2));
        let bias = layout.to_torchvision(&format!("{prefix}stem.conv1.norm.bias"));
        assert_eq!(bias.as_deref(), Some("bn1.bias"));
        assert_eq!(layout.project(), "Detectron2");
    }
}

#[test]
fn the_names_of_transformers() {
    for prefix in ["", "resnet.", "module.resnet.", "model.encoder."] {
        let keys = keys(Naming::Transformers, &[prefix]);
        let layout = detect(keys.iter().map(String::as_str), None).expect("one encoder");
        assert_eq!((layout.prefix.as_str(), layout.naming), (prefix, Naming::Transformers));
        let to = |key: &str| layout.to_torchvision(&format!("{prefix}{key}"));
        for (theirs, ours) in [
            ("embedder.embedder.convolution.weight", "conv1.weight"),
            ("embedder.embedder.normalization.running_var", "bn1.running_var"),
            ("encoder.stages.0.layers.2.layer.1.convolution.weight", "layer1.2.conv2.weight"),
            ("encoder.stages.3.layers.0.layer.2.normalization.bias", "layer4.0.bn3.bias"),
            ("encoder.stages.1.layers.0.shortcut.convolution.weight", "layer2.0.downsample.0.weight"),
            ("encoder.stages.1.layers.0.shortcut.normalization.weight", "layer2.0.downsample.1.weight"),
        ] {
            assert_eq!(to(theirs).as_deref(), Some(ours));
        }
        for other in
            ["embedder.embedder.activation.weight", "encoder.stages.0.layers.0.attention.weight", "pooler.x"]
        {
            assert_eq!(to(other), None, "{other}");
        }
        assert!(layout.is_body(&format!("{prefix}encoder.stages.4.layers.0.layer.0.convolution.weight")));
        assert_eq!(layout.project(), "transformers");
    }
}

#[test]
fn vision_transformers_of_every_project() {
    for (prefixes, meant, project) in [
        (&[""] as &[&str], "", "timm"),
        (&["module."], "module.", "timm"),
        (&["backbone."], "backbone.", "DINO"),
        (&["teacher.backbone.", "student.backbone."], "teacher.backbone.", "iBOT"),
        (&["teacher.backbone.", "student.module.backbone."], "teacher.backbone.", "iBOT"),
        (&["module.base_encoder.", "module.momentum_encoder."], "module.base_encoder.", "MoCo v3"),
    ] {
        let mut all = keys(Naming::Vit, prefixes);
        // MAE's decoder and the heads of DINO are no encoders.
        all.extend(["decoder_blocks.0.norm1.weight", "mask_token", "head.mlp.0.weight"].map(str::to_owned));
        let layout = detect(all.iter().map(String::as_str), None).expect("one encoder");
        assert_eq!((layout.prefix.as_str(), layout.naming), (meant, Naming::Vit));
        assert!(layout.project().contains(project), "{meant}: {}", layout.project());
        let key = format!("{meant}blocks.1.attn.qkv.bias");
        assert_eq!(layout.to_torchvision(&key).as_deref(), Some("blocks.1.attn.qkv.bias"));
        assert_eq!(layout.part(&key), None);
    }
    for prefix in ["", "vit.", "dinov2."] {
        let keys = keys(Naming::TransformersVit, &[prefix]);
        let layout = detect(keys.iter().map(String::as_str), None).expect("one encoder");
        assert_eq!((layout.prefix.as_str(), layout.naming), (prefix, Naming::TransformersVit));
        let key = format!("{prefix}encoder.layer.1.attention.attention.key.bias");
        assert_eq!(layout.to_torchvision(&key).as_deref(), Some("blocks.1.attn.qkv.bias"));
        assert_eq!((layout.part(&key), layout.project()), (Some(1), "transformers"));
    }
}

#[test]
fn parts_of_other_transformers_are_told_from_heads() {
    let layout = Layout { prefix: "x.".into(), naming: Naming::Vit };
    for key in ["x.dist_token", "x.norm_pre.weight", "x.blocks.0.attn.rel.weight", "x.norm.other"] {
        assert!(layout.is_body(key), "{key}");
    }
    for key in
        ["x.mask_token", "x.head.weight", "x.fc_norm.weight", "x.decoder_blocks.0.norm1.weight", "x.normal.a"]
    {
        assert!(!layout.is_body(key), "{key}");
    }
}

/// Wrappers may sit at every level, of one encoder and not of the other.
#[test]
fn wrappers_inside_of_paths() {
    let all = |stem: &str, rest: &[&str]| -> Vec<String> {
        [stem].iter().chain(rest).map(|s| (*s).to_owned()).collect()
    };
    for (keys, prefix) in [
        (all("conv1.weight", &["layer1._orig_mod.0.conv1.weight", "layer4.0.bn1.bias"]), ""),
        (
            all("conv1.module.weight", &["layer1.0.module.conv1.module.weight", "layer4.module.0.bn1.bias"]),
            "",
        ),
        (
            all(
                "module.encoder_q.conv1.weight",
                &[
                    "module.encoder_q.layer1.0._checkpoint_wrapped_module.conv1.weight",
                    "module.encoder_q.layer4._fsdp_wrapped_module.0.bn1.bias",
                ],
            ),
            "module.encoder_q.",
        ),
        (
            all(
                "_forward_module.model.model.conv1.weight",
                &[
                    "_forward_module.model.model.layer1.0.conv1.weight",
                    "_forward_module.model.model.layer4.0._module._orig_mod.bn1.bias",
                ],
            ),
            "_forward_module.model.model.",
        ),
        (all("x.0.weight", &["x.4.module.0.conv1.weight", "x.7._orig_mod.0.bn1.bias"]), "x."),
    ] {
        let layout =
            detect(keys.iter().map(String::as_str), None).unwrap_or_else(|e| panic!("{prefix}: {e}"));
        assert_eq!(layout.prefix, prefix);
        let names: Vec<_> = keys.iter().filter_map(|key| layout.to_torchvision(key)).collect();
        assert_eq!(names, ["conv1.weight", "layer1.0.conv1.weight", "layer4.0.bn1.bias"]);
        assert!(keys.iter().all(|key| layout.is_body(key)));
        assert_eq!(keys.iter().filter(|key| layout.is_stem(key)).count(), 1);
    }
    // Wrappers in front belong to the prefix: two encoders stay two.
    let both = keys(Naming::Torchvision, &["backbone.", "module.backbone.", "_orig_mod.backbone."]);
    let found: Vec<_> = candidates(both.iter().map(String::as_str)).into_iter().map(|l| l.prefix).collect();
    assert_eq!(found, ["_orig_mod.backbone.", "backbone.", "module.backbone."]);
    let plain = Layout { prefix: String::new(), naming: Naming::Torchvision };
    assert_eq!(plain.to_torchvision("module.conv1.weight"), None);
    assert_eq!(plain.to_torchvision("conv1.weight.module"), Some("conv1.weight".to_owned()));
}

#[test]
fn a_c4_detector_keeps_the_last_stage_in_its_head() {
    for outer in ["", "model."] {
        let layout = Layout { prefix: format!("{outer}backbone."), naming: Naming::Detectron2 };
        let to = |key: &str| layout.to_torchvision(&format!("{outer}{key}"));
        assert_eq!(to("roi_heads.res5.0.conv1.weight").as_deref(), Some("layer4.0.conv1.weight"));
        assert_eq!(to("roi_heads.res5.norm.weight"), None);
        assert_eq!(to("roi_heads.box_predictor.cls_score.weight"), None);
        assert!(!layout.is_body(&format!("{outer}roi_heads.res5.norm.weight")));
    }
    let fpn = Layout { prefix: "backbone.bottom_up.".into(), naming: Naming::Detectron2 };
    assert_eq!(fpn.to_torchvision("roi_heads.res5.0.conv1.weight"), None);
}

#[test]
fn parts_of_the_body_are_told_from_heads() {
    let layout = |naming| Layout { prefix: "x.".into(), naming };
    for (naming, body, heads) in [
        (
            Naming::Torchvision,
            ["x.conv1.bias", "x.layer3.35.conv1.weight", "x.layer1.0.se.fc1.weight", "x.bn1.extra"],
            ["x.fc.weight", "x.layernorm.weight", "y.layer1.0.conv1.weight", "x.conv10.weight"],
        ),
        (
            Naming::Detectron2,
            ["x.stem.conv1.bias", "x.res2.0.conv1.bias", "x.res4.35.conv1.weight", "x.res5.0.a"],
            ["x.stem.fc.weight", "x.residual.weight", "x.fpn.weight", "res2.0.conv1.weight"],
        ),
        (
            Naming::Sequential,
            ["x.0.bias", "x.1.extra", "x.4.0.conv1.weight", "x.7.9.conv1.weight"],
            ["x.8.weight", "x.9.0.weight", "x.fc.weight", "0.weight"],
        ),
    ] {
        for key in body {
            assert!(layout(naming).is_body(key), "{key}");
        }
        for key in heads {
            assert!(!layout(naming).is_body(key), "{key}");
        }
    }
}

#[test]
fn a_prefix_settles_it() {
    assert_eq!(found(&["encoder_q.", "encoder_k."], Some("encoder_k")).as_deref(), Ok("encoder_k."));
    let err = found(&["encoder_q."], Some("nope")).expect_err("no such prefix");
    assert!(err.to_string().contains("`encoder_q.`"), "{err}");
    let err = found(&[], Some("nope")).expect_err("no encoder at all");
    assert!(err.to_string().contains("nor below any other"), "{err}");
}

#[test]
fn ambiguity_lists_candidates() {
    let err = found(&["left.", "right."], None).expect_err("two encoders");
    assert_eq!(err, LayoutError::Ambiguous { candidates: vec!["left.".into(), "right.".into()] });
    assert!(err.to_string().contains("--prefix"), "{err}");
    // timm keeps a moving average beside the weights, torchvision's scripts too.
    for other in ["state_dict_ema.", "model_ema.module."] {
        let err = found(&["", other], None).expect_err("two encoders").to_string();
        assert!(err.contains(other) && err.contains("--prefix \"\""), "{err}");
    }
    let many: Vec<String> = (0..40).map(|i| format!("net{i}.")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let err = found(&many, None).expect_err("many encoders").to_string();
    assert!(err.contains("and 28 more"), "{err}");
    let thousands: Vec<String> = (0..20_000).map(|i| format!("net{i}.")).collect();
    let thousands: Vec<&str> = thousands.iter().map(String::as_str).collect();
    assert!(matches!(found(&thousands, None), Err(LayoutError::Ambiguous { .. })));
    // Only followers: none of them is preferred.
    assert!(found(&["encoder_k.", "target_net."], None).is_err());
}

#[test]
fn other_stems_are_named() {
    let deep = ["conv1.0.weight", "conv1.3.weight", "conv1.6.weight", "bn1.weight", "layer1.0.conv1.weight"];
    let err = detect(deep, None).expect_err("timm's resnet50d");
    assert!(matches!(&err, LayoutError::OtherStem { found, .. } if found.len() == 3), "{err:?}");
    assert!(err.to_string().contains("`conv1.0.weight`") && err.to_string().contains("resnet50d"), "{err}");
    let other = detect(["x.stem.0.weight", "x.layer1.0.conv1.weight"], None).expect_err("another stem");
    assert!(other.to_string().contains("`x.stem.0.weight`"), "{other}");
    let none = detect(["x.layer1.0.conv1.weight"], None).expect_err("no stem");
    assert!(none.to_string().contains("nothing"), "{none}");
}

#[test]
fn children_without_a_pooling() {
    let keys = ["f.0.weight", "f.1.weight", "f.3.0.conv1.weight", "f.4.0.conv1.weight", "f.6.0.bn1.bias"];
    let layout = detect(keys, None).expect("one encoder");
    assert_eq!((layout.prefix.as_str(), layout.naming), ("f.", Naming::Unpooled));
    let names: Vec<_> = keys.iter().filter_map(|key| layout.to_torchvision(key)).collect();
    assert_eq!(
        names,
        ["conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "layer2.0.conv1.weight", "layer4.0.bn1.bias"]
    );
    assert_eq!(layout.to_torchvision("f.7.0.conv1.weight"), None);
    assert!(keys.iter().all(|key| layout.is_body(key)) && !layout.is_body("f.7.0.conv1.weight"));
    let message = LayoutError::NoPooling { prefix: "f.".into() }.to_string();
    assert!(message.contains("`f.`") && message.contains("`resnet18-small`"), "{message}");
}

#[test]
fn nothing_is_an_error() {
    assert_eq!(found(&[], None), Err(LayoutError::NoEncoder));
    assert!(LayoutError::NoEncoder.to_string().contains("`conv1.weight`"));
}
