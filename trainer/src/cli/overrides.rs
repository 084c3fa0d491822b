//! The flags that override a recipe.

mod beginning;
mod distilling;
mod masking;
mod parts;
mod teaching;

use anyhow::{Result, ensure};
use clap::Args;

use crate::config::{ClipBy, Config, Decay, Mix, MixPer, Mixing, Pattern, QueueStart, Recipe, Rule, Shape};
use beginning::BeginningArgs;
use distilling::DistilArgs;
use masking::MaskArgs;
use parts::Parts;
use teaching::TeacherArgs;

/// Flags that override a recipe.
#[derive(Args, Debug, Default)]
pub(super) struct Overrides {
    #[command(flatten)]
    parts: Parts,
    /// Architecture: resnet18, resnet34, resnet50, resnet101, resnet152, resnext50_32x4d, resnext101_32x8d,
    /// resnext101_64x4d, wide_resnet50_2, wide_resnet101_2, or for small pictures resnet18-small, resnet50-small;
    /// vision transformers by timm's names, like vit_small_patch16_224
    #[arg(long)]
    arch: Option<String>,
    /// Side of the training crops, pixels
    #[arg(long)]
    image_size: Option<usize>,
    /// Passes over the data
    #[arg(long)]
    epochs: Option<usize>,
    /// Pictures per step; without `--lr` the learning rate is scaled with it
    #[arg(long)]
    batch_size: Option<usize>,
    /// Batches whose gradients are accumulated for one step of the optimiser; without `--lr` the learning rate is
    /// scaled with it
    #[arg(long)]
    accumulate: Option<usize>,
    /// Peak learning rate
    #[arg(long)]
    lr: Option<f64>,
    /// Seed of weights, order, views and masks
    #[arg(long)]
    seed: Option<u64>,
    /// Optimiser
    #[arg(long, value_enum)]
    optimizer: Option<Rule>,
    /// Weight decay
    #[arg(long)]
    weight_decay: Option<f64>,
    /// Weight decay at the end, along half a cosine; default: the same
    #[arg(long)]
    weight_decay_end: Option<f64>,
    /// Second beta of AdamW
    #[arg(long)]
    beta2: Option<f64>,
    /// Learning rate at the end of `--schedule cosine`
    #[arg(long)]
    lr_end: Option<f64>,
    /// What weight decay (and the layers' rates of LARS) apply to
    #[arg(long, value_enum)]
    decay: Option<Decay>,
    /// Maximum norm of the gradients; larger ones are scaled down to it
    #[arg(long)]
    clip: Option<f64>,
    /// Whose norm `--clip` limits
    #[arg(long, value_enum)]
    clip_by: Option<ClipBy>,
    /// Learning-rate schedule after the warm-up
    #[arg(long, value_enum)]
    schedule: Option<Shape>,
    /// Epochs at which `--schedule step` multiplies the learning rate by `--gamma`
    #[arg(long, value_delimiter = ',')]
    milestones: Option<Vec<f64>>,
    /// Factor of `--schedule step`
    #[arg(long)]
    gamma: Option<f64>,
    /// Epochs of linear learning-rate warm-up
    #[arg(long)]
    warmup_epochs: Option<f64>,
    /// Move the learning rate every step or every epoch
    #[arg(long, value_enum)]
    lr_per: Option<crate::config::Per>,
    /// Length of a projection, and maximum length of a target (distill)
    #[arg(long)]
    dim: Option<usize>,
    /// Width of the projection head's hidden layer
    #[arg(long)]
    hidden: Option<usize>,
    /// Batch normalisation in the projection head
    #[arg(long)]
    head_bn: Option<bool>,
    /// Negatives kept from earlier batches; 0 for none
    #[arg(long)]
    queue: Option<usize>,
    /// What the queue holds at first: random directions that count, or nothing
    #[arg(long, value_enum)]
    queue_start: Option<QueueStart>,
    /// Whether the other keys of the batch are negatives
    #[arg(long)]
    in_batch: Option<bool>,
    /// Whether each view is query once and key once
    #[arg(long)]
    symmetric: Option<bool>,
    /// Momentum of the key encoder
    #[arg(long)]
    momentum: Option<f64>,
    /// Momentum of the key encoder at the first step
    #[arg(long)]
    momentum_start: Option<f64>,
    /// Epochs until `--momentum` is reached
    #[arg(long)]
    momentum_warmup_epochs: Option<f64>,
    /// Temperature of the softmax: of contrast, or of the student (DINO, iBOT)
    #[arg(long)]
    temperature: Option<f64>,
    /// Groups of the batch that are normalised separately, as on that many GPUs
    #[arg(long)]
    bn_splits: Option<usize>,
    /// Smallest share of a picture's area that a crop takes
    #[arg(long)]
    crop_min: Option<f64>,
    /// Minimum share of a picture's foreground that each crop holds, judged by colours and the centre: the first of
    /// ten crops that does, or the best. 0: any crop
    #[arg(long, value_name = "SHARE")]
    crop_foreground: Option<f64>,
    /// Probability of Gaussian blur
    #[arg(long)]
    blur_p: Option<f64>,
    /// Range of the blur's sigma, pixels
    #[arg(long, num_args = 2, value_names = ["LOW", "HIGH"])]
    blur_sigma: Option<Vec<f64>>,
    /// Probability of grey
    #[arg(long)]
    gray_p: Option<f64>,
    /// Probability of solarisation
    #[arg(long)]
    solarize_p: Option<f64>,
    /// Probability of a horizontal flip
    #[arg(long)]
    flip_p: Option<f64>,
    /// Factor on the strength of all colour jitter
    #[arg(long)]
    jitter: Option<f64>,
    #[command(flatten)]
    beginning: BeginningArgs,
    #[command(flatten)]
    distilling: DistilArgs,
    #[command(flatten)]
    teaching: TeacherArgs,
    #[command(flatten)]
    masking: MaskArgs,
    /// Which cells of a mixture come from the other picture
    #[arg(long, value_enum)]
    mix_pattern: Option<Pattern>,
    /// Cells of a mixture along a side
    #[arg(long)]
    mix_grid: Option<usize>,
    /// Share of a mixture's cells that come from the other picture
    #[arg(long)]
    mix_share: Option<f64>,
    /// One mask for all mixtures of a batch, or one for each
    #[arg(long, value_enum)]
    mask_per: Option<MixPer>,
}

impl Overrides {
    /// The recipe with these flags.
    pub(super) fn resolve(self, recipe: Recipe) -> Result<Config> {
        let mut c = Config::new(recipe);
        let before = c.batch_size * c.accumulate;
        set(&mut c.batch_size, self.batch_size);
        set(&mut c.accumulate, self.accumulate);
        if c.optimizer.scales_with_batch() {
            c.optimizer.lr *= (c.batch_size * c.accumulate) as f64 / before as f64;
        }
        self.parts.apply(&mut c)?;
        ensure!(
            !self.masking.given() || c.masking.is_some(),
            "`--recipe {}` does not mask, but a masking flag was given; hint: `--masks true`",
            recipe.name()
        );
        let mixes = self.mix_pattern.is_some()
            || self.mix_grid.is_some()
            || self.mix_share.is_some()
            || self.mask_per.is_some();
        ensure!(
            !mixes || c.mixing.as_ref().is_some_and(|m| m.mix != Mix::Unmix),
            "`--recipe {}` has no MixMask, but one of its flags was given; hint: `--mix mixmask`",
            recipe.name()
        );
        self.networks(recipe, &mut c)?;
        self.distilling.apply(recipe, &mut c)?;
        self.teaching.apply(recipe, &mut c)?;
        set(&mut c.arch, self.arch.clone());
        set(&mut c.image_size, self.image_size);
        let epochs = self.epochs.unwrap_or(c.epochs);
        if let Some(m) = c.method.moco_mut() {
            set(&mut m.queue, self.queue);
            set(&mut m.queue_start, self.queue_start);
            set(&mut m.in_batch, self.in_batch);
            set(&mut m.symmetric, self.symmetric);
        }
        if let Some(m) = c.method.momentum_mut() {
            // a warm-up over the whole run stays one
            if *m.epochs == c.epochs as f64 {
                *m.epochs = epochs as f64;
            }
            set(m.end, self.momentum);
            set(m.start, self.momentum_start.or(self.momentum));
            set(m.epochs, self.momentum_warmup_epochs);
        }
        c.epochs = epochs;
        self.beginning.apply(&mut c, self.arch.as_deref())?;
        set(&mut c.method.head_mut().dim, self.dim);
        set(&mut c.method.head_mut().hidden, self.hidden.map(Some));
        set(&mut c.method.head_mut().bn, self.head_bn);
        if let Some(temperature) = c.method.temperature_mut() {
            set(temperature, self.temperature);
        }
        if let Some(splits) = c.method.bn_splits_mut() {
            set(splits, self.bn_splits);
        }
        set(&mut c.seed, self.seed);
        if let Some(rule) = self.optimizer.filter(|&rule| rule != c.optimizer.rule) {
            // each rule's own habit
            c.optimizer.decay = if rule == Rule::Sgd { Decay::All } else { Decay::Weights };
            c.optimizer.rule = rule;
        }
        set(&mut c.optimizer.lr, self.lr);
        set(&mut c.optimizer.weight_decay, self.weight_decay);
        set(&mut c.optimizer.weight_decay_end, self.weight_decay_end.map(Some));
        set(&mut c.optimizer.beta2, self.beta2);
        set(&mut c.optimizer.lr_end, self.lr_end);
        set(&mut c.optimizer.clip_by, self.clip_by);
        set(&mut c.optimizer.warmup_epochs, self.warmup_epochs);
        set(&mut c.optimizer.lr_per, self.lr_per);
        set(&mut c.optimizer.decay, self.decay);
        set(&mut c.optimizer.clip, self.clip.map(Some));
        set(&mut c.optimizer.schedule, self.schedule);
        set(&mut c.optimizer.milestones, self.milestones);
        set(&mut c.optimizer.gamma, self.gamma);
        let sigma = pair(self.blur_sigma);
        for augment in c.views.iter_mut().map(|group| &mut group.augment) {
            set(&mut augment.crop_min, self.crop_min);
            set(&mut augment.crop_foreground, self.crop_foreground);
            set(&mut augment.blur_p, self.blur_p);
            set(&mut augment.blur_sigma, sigma);
            set(&mut augment.gray_p, self.gray_p);
            set(&mut augment.solarize_p, self.solarize_p);
            set(&mut augment.flip_p, self.flip_p);
            if let Some(factor) = self.jitter {
                augment.jitter = augment.jitter.map(|j| j * factor);
            }
        }
        let arch = c.architecture()?;
        if let Some(m) = &mut c.masking {
            self.masking.apply(m, arch)?;
        }
        if let Some(Mixing { mask, .. }) = &mut c.mixing {
            set(&mut mask.pattern, self.mix_pattern);
            set(&mut mask.grid, self.mix_grid);
            set(&mut mask.share, self.mix_share);
            set(&mut mask.per, self.mask_per);
        }
        self.parts.finish(&mut c);
        c.validate()?;
        Ok(c)
    }

    /// Flags of networks that the recipe does not have.
    fn networks(&self, recipe: Recipe, c: &mut Config) -> Result<()> {
        let follows =
            self.momentum.is_some() || self.momentum_start.is_some() || self.momentum_warmup_epochs.is_some();
        let keys = self.queue.is_some()
            || self.queue_start.is_some()
            || self.in_batch.is_some()
            || self.symmetric.is_some();
        let name = recipe.name();
        ensure!(
            !(follows || keys) || c.method.momentum_mut().is_some(),
            "`--recipe {name}` has no momentum encoder, but one of its flags was given; hint: `--recipe moco-v2`"
        );
        ensure!(
            !keys || c.method.moco_mut().is_some(),
            "`--recipe {name}` has no queue and no other negatives, and is always symmetric, but one of the flags for these was given; hint: `--recipe moco-v2`"
        );
        ensure!(
            self.bn_splits.is_none() || c.method.bn_splits_mut().is_some(),
            "`--recipe {name}` normalises all views of one size together, if its network normalises batches at all, but `--bn-splits` was given; hint: leave it out"
        );
        ensure!(
            self.temperature.is_none() || c.method.temperature_mut().is_some(),
            "`--recipe {name}` has no softmax for `--temperature` to apply to; hint: leave it out"
        );
        Ok(())
    }
}

pub(super) fn set<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

/// Both ends of a range; clap holds the number of values to two.
fn pair(values: Option<Vec<f64>>) -> Option<[f64; 2]> {
    values.and_then(|v| v.try_into().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use crate::config::{Branch, Choice, FillScale, Guidance, Saliency, Strategy};
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
        assert_eq!(
            (c.arch.as_str(), c.image_size, c.epochs, c.batch_size, c.seed),
            ("resnet34", 96, 7, 64, 3)
        );
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
        let frozen =
            masking(&["--saliency", "resnet.pth", "--saliency-stage", "4", "--saliency-rule", "border"]);
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
}
