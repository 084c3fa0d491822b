//! Flags that reach their fields, and those that are refused.

use super::*;
use crate::cli::{Cli, Command};
use crate::config::{
    Branch, Choice, ClipBy, Decay, FillScale, Guidance, MixPer, Pattern, QueueStart, Rule, Saliency, Shape,
    Strategy,
};
use clap::Parser;
use occlude_saliency::MapRule;

fn resolve(flags: &[&str]) -> Result<Config> {
    let line = ["occlude-train", "pretrain", "data"].iter().chain(flags);
    match Cli::try_parse_from(line)?.command {
        Command::Pretrain(args) => args.overrides.resolve(args.recipe),
        _ => anyhow::bail!("another command"),
    }
}

fn moco(c: &Config) -> crate::config::Moco {
    c.clone().method.moco_mut().expect("MoCo").clone()
}

#[test]
fn a_momentum_warm_up_over_the_whole_run_stays_one() {
    let c = resolve(&["--recipe", "saliency-moco-small", "--epochs", "40"]).expect("valid");
    assert_eq!(moco(&c).momentum_warmup_epochs, 40.0);
    let c = resolve(&["--recipe", "moco-v2", "--epochs", "40"]).expect("valid");
    assert_eq!(moco(&c).momentum_warmup_epochs, 0.0);
}

#[test]
fn every_override_reaches_its_field() {
    let flags = "--recipe saliency-moco --arch resnet34 --image-size 96 --epochs 7 --batch-size 64 --lr 0.5 --seed 3 \
        --optimizer adamw --weight-decay 0.1 --warmup-epochs 2 --lr-per epoch --dim 64 --hidden 512 --head-bn true \
        --queue 300 --queue-start empty --in-batch true --symmetric true --momentum 0.99 --momentum-start 0.5 \
        --momentum-warmup-epochs 3 --temperature 0.1 --bn-splits 4 --crop-min 0.3 --blur-p 0.1 --jitter 0.5 \
        --blur-sigma 0.2 0.3 --gray-p 0.4 --flip-p 0.6 --solarize-p 0.7 \
        --saliency some.safetensors --saliency-stage 4 --saliency-rule border --strategy blur --fills published --guidance random --branch both \
        --accumulate 2 --decay weights --clip 3 --clip-by tensor --beta2 0.95 --weight-decay-end 0.3 --schedule step --milestones 4,6 --gamma 0.2 \
        --mask-ratio 0.1 0.2 --negative-ratio 0.3 0.4 --num-nonsem 2 --alpha 1.5 --choice background \
        --cell-probability 0.1 0.4 --mask-share 0.7 --mask-grid 12 --mask-course 0.1 0.5 0.8 --prior-until 0.3 \
        --crop-foreground 0.25";
    let c = resolve(&flags.split_whitespace().collect::<Vec<_>>()).expect("valid");
    assert_eq!((c.arch.as_str(), c.image_size, c.epochs, c.batch_size, c.seed), ("resnet34", 96, 7, 64, 3));
    let o = &c.optimizer;
    assert_eq!((o.rule, o.lr, o.weight_decay, o.warmup_epochs), (Rule::Adamw, 0.5, 0.1, 2.0));
    assert_eq!(o.lr_per, crate::config::Per::Epoch);
    assert_eq!((c.accumulate, o.decay, o.clip, o.schedule), (2, Decay::Weights, Some(3.0), Shape::Step));
    assert_eq!((o.clip_by, o.beta2, o.weight_decay_end), (ClipBy::Tensor, 0.95, Some(0.3)));
    assert_eq!((o.milestones.as_slice(), o.gamma), ([4.0, 6.0].as_slice(), 0.2));
    let m = moco(&c);
    assert_eq!((m.head.dim, m.head.hidden, m.head.bn, m.queue), (64, Some(512), true, 300));
    assert_eq!((m.queue_start, m.in_batch, m.symmetric), (QueueStart::Empty, true, true));
    assert_eq!((m.momentum, m.momentum_start, m.momentum_warmup_epochs), (0.99, 0.5, 3.0));
    assert_eq!((m.temperature, m.bn_splits), (0.1, 4));
    assert_eq!(
        (c.views[0].augment.crop_min, c.views[0].augment.blur_p, c.views[0].augment.jitter),
        (0.3, 0.1, [0.2, 0.2, 0.2, 0.05])
    );
    assert_eq!(
        (c.views[0].augment.blur_sigma, c.views[0].augment.gray_p, c.views[0].augment.flip_p),
        ([0.2, 0.3], 0.4, 0.6)
    );
    assert_eq!(c.views[0].augment.solarize_p, 0.7);
    let k = c.masking.expect("masked");
    assert_eq!(
        (k.saliency, k.stage, k.rule),
        (Saliency::Checkpoint("some.safetensors".into()), 4, MapRule::Border)
    );
    assert_eq!((k.strategy, k.guidance, k.branch), (Strategy::Blur, Guidance::Random, Branch::Both));
    assert_eq!(k.fills, FillScale::Published);
    assert_eq!((k.ratio, k.negative_ratio, k.num_nonsem, k.alpha), ([0.1, 0.2], [0.3, 0.4], 2, 1.5));
    assert_eq!((k.choice, k.cell_probability, k.share), (Choice::Background, [0.1, 0.4], 0.7));
    assert_eq!((k.grid, k.course, k.prior_until), (Some(12), Some([0.1, 0.5, 0.8]), 0.3));
    assert_eq!(c.views[0].augment.crop_foreground, 0.25);
}

/// Background-biased masks are for half of the pictures, unless another share is given; others for all.
#[test]
fn the_share_of_pictures_goes_with_the_choice() {
    let share = |flags: &[&str]| {
        let masking =
            resolve(&[&["--recipe", "saliency-moco-small"][..], flags].concat()).expect("valid").masking;
        let masking = masking.expect("masked");
        (masking.share, masking.cell_probability)
    };
    assert_eq!(share(&[]).0, 1.0);
    assert_eq!(share(&["--choice", "background"]), (0.5, [0.05, 0.5]));
    assert_eq!(share(&["--choice", "background", "--mask-share", "1"]).0, 1.0);
    assert_eq!(share(&["--mask-share", "0.25"]).0, 0.25);
    assert_eq!(share(&["--choice", "spread"]).0, 1.0);
}

/// Of a transformer the last block's attention localises, unless another rule is given, and stages are a ResNet's.
#[test]
fn what_localises_goes_with_the_network() {
    let vit = ["--recipe", "saliency-moco", "--arch", "vit_tiny_patch16_224"];
    let with = |flags: &[&str]| resolve(&[&vit[..], flags].concat());
    let masking = |flags: &[&str]| with(flags).expect("valid").masking.expect("masked");
    let usual = masking(&[]);
    assert_eq!((usual.rule, usual.block), (MapRule::Attention, None));
    let other = masking(&["--saliency-rule", "object", "--saliency-block", "8", "--mask-grid", "7"]);
    assert_eq!((other.rule, other.block, other.grid), (MapRule::Object, Some(8), Some(7)));
    let frozen = masking(&["--saliency", "resnet.pth", "--saliency-stage", "4", "--saliency-rule", "border"]);
    assert_eq!((frozen.rule, frozen.stage), (MapRule::Border, 4));
    let byol = ["--recipe", "byol", "--masks", "true", "--arch", "vit_tiny_patch16_224"];
    assert_eq!(resolve(&byol).expect("valid").masking.expect("masked").rule, MapRule::Attention);
    let message = |flags: &[&str]| format!("{:#}", with(flags).expect_err("refused"));
    for (flags, part) in [
        (&["--saliency-stage", "4"][..], "no stages; hint: `--saliency-block`"),
        (&["--saliency-block", "12"], "has blocks 0 to 11"),
        (&["--mask-grid", "1"], "--mask-grid 1"),
        (&["--saliency-block", "3", "--saliency-stage", "4"], "cannot be used with"),
    ] {
        assert!(message(flags).contains(part), "{}", message(flags));
    }
    let resnet = |flags: &[&str]| {
        let error = resolve(&[&["--recipe", "saliency-moco"][..], flags].concat()).expect_err("refused");
        format!("{error:#}")
    };
    assert!(resnet(&["--saliency-block", "3"]).contains("hint: `--saliency-stage`"));
    assert!(resnet(&["--saliency-rule", "attention"]).contains("only vision transformers"));
    let frozen = ["--recipe", "saliency-moco", "--saliency", "vit.pth", "--saliency-rule", "attention"];
    assert!(resolve(&frozen).is_ok(), "what the file holds is seen when it is opened");
}

#[test]
fn flags_of_mixmask_reach_its_recipes_only() {
    let flags = "--mix-pattern discrete --mix-grid 4 --mix-share 0.3 --mask-per image";
    let with =
        |recipe| resolve(&["--recipe", recipe].into_iter().chain(flags.split(' ')).collect::<Vec<_>>());
    for recipe in ["mixmask", "unmix+mixmask"] {
        let mask = with(recipe).expect("valid").mixing.expect("mixed").mask;
        assert_eq!(
            (mask.pattern, mask.grid, mask.share, mask.per),
            (Pattern::Discrete, 4, 0.3, MixPer::Image)
        );
    }
    for recipe in ["unmix", "moco-v2", "saliency-moco"] {
        assert!(with(recipe).expect_err("refused").to_string().contains("no MixMask"), "{recipe}");
    }
}

#[test]
fn the_learning_rate_scales_with_the_batch_unless_given() {
    let lr = |flags: &[&str]| resolve(flags).expect("valid").optimizer.lr;
    assert!((lr(&["--recipe", "moco-v2", "--batch-size", "128"]) - 0.015).abs() < 1e-12);
    assert_eq!(lr(&["--recipe", "moco-v2", "--batch-size", "128", "--lr", "0.03"]), 0.03);
    assert_eq!(lr(&["--recipe", "moco-v2"]), 0.03);
    assert!((lr(&["--recipe", "moco-v2", "--accumulate", "4"]) - 0.12).abs() < 1e-12);
    assert!((lr(&["--recipe", "simclr", "--batch-size", "256"]) - 0.3).abs() < 1e-12);
}

#[test]
fn wrong_combinations_are_refused() {
    let message = |flags: &[&str]| format!("{:#}", resolve(flags).expect_err("refused"));
    assert!(message(&["--recipe", "moco-v2", "--strategy", "hp"]).contains("does not mask"));
    assert!(
        message(&["--recipe", "saliency-moco", "--branch", "none", "--num-nonsem", "0"])
            .contains("--branch none")
    );
    assert!(message(&["--recipe", "simclr", "--queue", "5"]).contains("no momentum encoder"));
    assert!(message(&["--recipe", "nothing"]).contains("nothing"));
    assert!(message(&["--recipe", "moco-v2", "--device", "tpu"]).contains("tpu"));
}

#[test]
fn one_momentum_flag_means_no_warm_up() {
    let c = resolve(&["--recipe", "moco-v2", "--momentum", "0.99"]).expect("valid");
    assert_eq!((moco(&c).momentum, moco(&c).momentum_start), (0.99, 0.99));
}
