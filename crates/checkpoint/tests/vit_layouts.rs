//! Vision transformers as projects publish them: prefixes, joined attention, and what is none of ours.

mod common;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use common::encoder_tensors;
use occlude_checkpoint::{
    Checkpoint, Dtype, EncoderData, LoadOptions, TensorOut, load_encoder, match_encoder, save_safetensors,
};
use occlude_encoder::Arch;

/// A network whose number of heads is the usual one.
const NAME: &str = "vit_64x2x1_patch4_16";

fn arch() -> Arch {
    NAME.parse().expect("a network")
}

fn saved(folder: &Path, tensors: &[TensorOut<'_>]) -> Checkpoint {
    let path = folder.join("x.safetensors");
    save_safetensors(&path, tensors, &BTreeMap::new()).expect("saves");
    Checkpoint::open(&path).expect("opens")
}

fn zeros(name: &str, shape: &[usize]) -> TensorOut<'static> {
    let bytes = 4 * shape.iter().product::<usize>();
    TensorOut { name: name.to_owned(), dtype: Dtype::F32, shape: shape.to_vec(), data: vec![0; bytes].into() }
}

#[test]
fn shapes_tell_the_network_below_every_prefix() {
    let folder = tempfile::tempdir().expect("a folder");
    for prefixes in [
        &[""] as &[&str],
        &["module."],
        &["teacher.backbone.", "student.backbone."],
        &["teacher.backbone.", "student.module.backbone."],
    ] {
        let mut tensors: Vec<_> = prefixes.iter().flat_map(|p| encoder_tensors(arch(), p)).collect();
        tensors.push(zeros("mask_token", &[1, 64]));
        tensors.push(zeros("decoder_blocks.0.norm1.weight", &[8]));
        let checkpoint = saved(folder.path(), &tensors);
        let found = match_encoder(&checkpoint, &LoadOptions::default()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((found.arch.name().as_str(), found.layout.prefix.as_str()), (NAME, prefixes[0]));
        assert!(found.report.is_complete() && found.report.assumed.is_none());
        let asked =
            LoadOptions { prefix: Some(prefixes[prefixes.len() - 1].into()), ..LoadOptions::default() };
        assert_eq!(match_encoder(&checkpoint, &asked).map(|f| f.found.len()).ok(), Some(found.found.len()));
    }
}

/// transformers' names of the same parameters, with queries, keys and values apart.
fn transformers(tensors: Vec<TensorOut<'static>>) -> Vec<TensorOut<'static>> {
    let mut all = Vec::new();
    for tensor in tensors {
        let name = tensor
            .name
            .replace("patch_embed.proj", "embeddings.patch_embeddings.projection")
            .replace("cls_token", "embeddings.cls_token")
            .replace("pos_embed", "embeddings.position_embeddings")
            .replace("blocks.", "encoder.layer.")
            .replace("attn.proj", "attention.output.dense")
            .replace("mlp.fc1", "intermediate.dense")
            .replace("mlp.fc2", "output.dense");
        let name = match name.strip_prefix("norm.") {
            Some(leaf) => format!("layernorm.{leaf}"),
            None => name.replace(".norm1.", ".layernorm_before.").replace(".norm2.", ".layernorm_after."),
        };
        if !name.contains("attn.qkv") {
            all.push(TensorOut { name, ..tensor });
            continue;
        }
        let third = tensor.data.len() / 3;
        let mut shape = tensor.shape.clone();
        shape[0] /= 3;
        for (i, part) in ["query", "key", "value"].into_iter().enumerate() {
            let data = Cow::Owned(tensor.data[i * third..(i + 1) * third].to_vec());
            let name = name.replace("attn.qkv", &format!("attention.attention.{part}"));
            all.push(TensorOut { name, dtype: tensor.dtype, shape: shape.clone(), data });
        }
    }
    all
}

#[test]
fn queries_keys_and_values_are_joined() {
    let folder = tempfile::tempdir().expect("a folder");
    let ours = encoder_tensors(arch(), "");
    let checkpoint = saved(folder.path(), &transformers(encoder_tensors(arch(), "")));
    let loaded = load_encoder(&checkpoint, &LoadOptions::default()).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(loaded.arch.name(), "vit_64x2x1_patch4_eps12_16", "transformers' ViT adds 1e-12");
    assert!(matches!(loaded.tensors["blocks.1.attn.qkv.weight"].data, EncoderData::F32(_)));
    for tensor in &ours {
        let found = loaded.f32(&tensor.name).unwrap_or_else(|| panic!("no `{}`", tensor.name));
        let bytes: Vec<u8> = found.iter().flat_map(|v| v.to_le_bytes()).collect();
        assert!(bytes == *tensor.data, "`{}`", tensor.name);
    }
    // of two of the three there is no parameter
    let mut tensors = transformers(encoder_tensors(arch(), ""));
    tensors.retain(|t| t.name != "encoder.layer.1.attention.attention.key.weight");
    let error =
        match_encoder(&saved(folder.path(), &tensors), &LoadOptions::default()).expect_err("incomplete");
    assert!(error.to_string().contains("1 missing (`blocks.1.attn.qkv.weight`)"), "{error}");
    // and of other widths neither
    let mut tensors = transformers(encoder_tensors(arch(), ""));
    let key = tensors.iter_mut().find(|t| t.name == "encoder.layer.0.attention.attention.key.weight");
    *key.expect("there") = zeros("encoder.layer.0.attention.attention.key.weight", &[64, 32]);
    let error =
        match_encoder(&saved(folder.path(), &tensors), &LoadOptions::default()).expect_err("misshaped");
    assert!(error.to_string().contains("`blocks.0.attn.qkv.weight`: expected [192, 64]"), "{error}");
}

#[test]
fn the_file_beside_the_weights_says_what_they_do_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |text: &str| std::fs::write(folder.path().join("config.json"), text).expect("written");
    let checkpoint = saved(folder.path(), &transformers(encoder_tensors(arch(), "")));
    write(r#"{"model_type": "vit", "num_attention_heads": 4, "layer_norm_eps": 1e-6, "hidden_act": "gelu"}"#);
    let found = match_encoder(&checkpoint, &LoadOptions::default()).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(found.arch.name(), "vit_64x2x4_patch4_16");
    write(r#"{"model_type": "vit", "hidden_act": "quick_gelu"}"#);
    let error = match_encoder(&checkpoint, &LoadOptions::default()).expect_err("another activation");
    assert!(error.to_string().contains("its activation is not the exact GELU"), "{error}");
}

/// (what is added or taken away, what the message says)
#[test]
fn other_transformers_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let with = |more: TensorOut<'static>| [encoder_tensors(arch(), ""), vec![more]].concat();
    let without = |name: &str| -> Vec<TensorOut<'static>> {
        encoder_tensors(arch(), "").into_iter().filter(|t| t.name != name).collect()
    };
    for (tensors, reason) in [
        (with(zeros("dist_token", &[1, 1, 64])), "a distilled DeiT"),
        (with(zeros("norm_pre.weight", &[64])), "CLIP's transformer"),
        (with(zeros("blocks.0.attn.q_norm.weight", &[64])), "normalises queries and keys"),
        (without("cls_token"), "without a class token"),
        (without("pos_embed"), "without learnt positions"),
        (without("blocks.0.attn.qkv.bias"), "whose attention has no biases"),
        (without("norm.weight"), "1 missing (`norm.weight`)"),
    ] {
        let error =
            match_encoder(&saved(folder.path(), &tensors), &LoadOptions::default()).expect_err(reason);
        assert!(error.to_string().contains(reason), "`{reason}` not in: {error}");
    }
}
