//! Vision transformers against timm's and transformers', with the same weights and images: tokens, attention, every
//! gradient, and what drop path leaves. `crates/encoder/golden/make.py` makes the files.

mod close;

use std::path::{Path, PathBuf};

use close::{relative, tensor};
use occlude_checkpoint::{Checkpoint, LoadOptions, load_encoder};
use occlude_encoder::layout::Naming;
use occlude_train::model::{Encoder, Mode};
use tch::{Device, Kind, Tensor};

/// Relative error in the Euclidean norm, float32: the figure that the README promises.
const RELATIVE: f64 = 1e-4;
/// Largest difference of tokens where positions are resized.
const RESIZED: f64 = 1e-5;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/encoder/golden").join(name)
}

fn open(name: &str) -> Checkpoint {
    Checkpoint::open(golden(name)).unwrap_or_else(|e| panic!("{e}"))
}

fn apart(ours: &Tensor, theirs: &Tensor) -> f64 {
    (ours - theirs).abs().max().double_value(&[])
}

/// The encoder of a file, whose architecture has to be the one of that name.
fn encoder(file: &str, asked: Option<&str>, arch: &str) -> Encoder {
    let asked = asked.map(|arch| arch.parse().expect("a network"));
    let checkpoint = open(file);
    let loaded = load_encoder(&checkpoint, &LoadOptions { arch: asked, ..LoadOptions::default() });
    let loaded = loaded.unwrap_or_else(|e| panic!("{file}: {e}"));
    assert_eq!(loaded.arch.name(), arch, "{file}");
    Encoder::from_checkpoint(&loaded, Device::Cpu).expect("strict")
}

/// The normalised tokens.
fn tokens(encoder: &Encoder, images: &Tensor) -> Tensor {
    let want = encoder.graph().tap("tokens").expect("a tap");
    tch::no_grad(|| encoder.forward(images, Mode::Eval, &[want])).tap()
}

fn compare(name: &str, arch: &str) {
    let answers = open(&format!("{name}.answers.safetensors"));
    let encoder = encoder(&format!("{name}.safetensors"), Some(arch), arch);
    let answer = |name: &str| tensor(&answers, name);
    let images = answer("images");
    let error = relative(&tokens(&encoder, &images), &answer("tokens"));
    assert!(error < RELATIVE, "{name}: tokens {error:.2e}");
    for side in [24, 12] {
        let found = tokens(&encoder, &answer(&format!("images.{side}")));
        let error = apart(&found, &answer(&format!("tokens.{side}")));
        assert!(error < RESIZED, "{name}: tokens at {side} px differ by {error:.2e}");
    }
    // the last block's attention, and the embedding where attention is seen
    let want = ["attention1", "attention0", "block0"].map(|tap| encoder.graph().tap(tap).expect("a tap"));
    let seen = tch::no_grad(|| encoder.forward(&images, Mode::Eval, &want));
    let error = relative(&seen.taps[0], &answer("attention"));
    assert!(error < RELATIVE, "{name}: attention {error:.2e}");
    let class = answer("tokens").select(1, 0);
    assert!(relative(&seen.embedding, &class) < RELATIVE, "{name}: the class token is the embedding");
    let map = encoder.map(want[0], &seen.taps[0], [16, 16]);
    let before = encoder.graph().prefix() as i64;
    let expected = answer("attention").select(2, 0).narrow(2, before, 16);
    let expected = expected.mean_dim([1i64].as_slice(), true, Kind::Float).view([2, 1, 4, 4]);
    assert!(relative(&map, &expected) < RELATIVE, "{name}: the map of attention");
    let patches = encoder.map(want[2], &seen.taps[2], [16, 16]);
    assert_eq!(patches.size(), [2, 16, 4, 4]);
    assert!(apart(&patches.select(2, 1).select(2, 2), &seen.taps[2].select(1, before + 6)) == 0.0);
    let embedding = encoder.forward(&images, Mode::Train { splits: 1 }, &[]).embedding;
    (&embedding * &answer("towards")).sum(Kind::Float).backward();
    let trainable = encoder.trainable_named("");
    assert_eq!(trainable.len(), encoder.graph().params().len());
    for named in trainable {
        let error = relative(&named.tensor.grad(), &answer(&format!("grad.{}", named.name)));
        assert!(error < RELATIVE, "{name}: gradient of `{}` {error:.2e}", named.name);
    }
    encoder.set_drop_path(0.5);
    let train = |mode| {
        tch::manual_seed(7);
        tch::no_grad(|| encoder.forward(&images, mode, &[]).embedding)
    };
    let dropped = train(Mode::Train { splits: 1 });
    assert!(relative(&dropped, &answer("dropped")) < RELATIVE, "{name}: drop path");
    assert!(relative(&train(Mode::Eval), &class) < RELATIVE, "{name}: nothing is dropped in evaluation");
}

/// One test: libtorch has one generator.
#[test]
fn everything_equals_timm() {
    compare("timm", "vit_16x2x2_patch4_16");
    compare("timm_dinov2", "vit_16x2x2_patch4_reg3_ls_swiglu_patchpos_16");
}

#[test]
fn tokens_equal_those_of_transformers_and_the_hub() {
    for (file, arch) in [
        ("transformers_vit", "vit_16x2x2_patch4_eps12_16"),
        ("transformers_dinov2", "vit_16x2x2_patch4_ls_swiglu_16"),
        ("transformers_registers", "vit_16x2x2_patch4_reg4_ls_16"),
    ] {
        let answers = open(&format!("{file}.answers.safetensors"));
        let encoder = encoder(&format!("{file}/model.safetensors"), None, arch);
        let error = relative(&tokens(&encoder, &tensor(&answers, "images")), &tensor(&answers, "tokens"));
        assert!(error < RELATIVE, "{file}: {error:.2e}");
    }
    let arch = "vit_16x2x2_patch4_reg4_ls_16";
    let answers = open("dinov2_hub.answers.safetensors");
    let hub = encoder("dinov2_hub.safetensors", Some(arch), arch);
    let error = relative(&tokens(&hub, &tensor(&answers, "images")), &tensor(&answers, "tokens"));
    assert!(error < RELATIVE, "the hub's: {error:.2e}");
    let found = load_encoder(&open("transformers_vit/model.safetensors"), &LoadOptions::default())
        .expect("read")
        .layout;
    assert_eq!(found.naming, Naming::TransformersVit);
}
