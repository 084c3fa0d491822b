//! The flags that change what a recipe is made of: its views, whether it masks or mixes, networks that follow.

use std::str::FromStr;

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};

use super::set;
use crate::config::{Config, Mix, Recipe, TargetNorm};

/// Flags that change what a recipe is made of.
#[derive(Args, Debug, Default)]
pub(super) struct Parts {
    /// Views of a picture, in groups: COUNT, COUNTxSIZE or COUNTxSIZE:LEAST-MOST, where SIZE is their side in pixels
    /// and LEAST to MOST the share of the picture that a crop takes; each group is drawn like the recipe's group in
    /// the same place, or its last one. The first two views have the run's size: `2,6x32:0.05-0.2` adds six small
    /// ones
    #[arg(long, value_delimiter = ',', value_name = "GROUPS")]
    views: Option<Vec<Views>>,
    /// Mask views in a recipe that does not, or do not mask them in one that does; further flags say how
    #[arg(long)]
    masks: Option<bool>,
    /// Mix each picture with another of the batch in a recipe that does not; `none` turns mixing off in one that does
    #[arg(long, value_enum)]
    mix: Option<Mixture>,
    /// Width of the predictor's hidden layer (BYOL, LEWEL)
    #[arg(long)]
    predictor_hidden: Option<usize>,
    /// How the target normalises (BYOL, LEWEL)
    #[arg(long, value_enum)]
    target: Option<TargetNorm>,
    /// Groups of channels with alignment maps of their own (LEWEL)
    #[arg(long)]
    align_heads: Option<usize>,
    /// What the values of alignment maps are divided by before the softmax (LEWEL)
    #[arg(long)]
    align_scale: Option<f64>,
    /// Share of the global embedding's loss (LEWEL)
    #[arg(long)]
    align_weight: Option<f64>,
    /// Batch normalisation of projections, as published SimCLR heads have it
    #[arg(long)]
    head_output_bn: Option<bool>,
    /// Whether evaluation, export and serving trim the border of pictures (resize to 8/7 of the side, then crop);
    /// default: only if views are larger than 32 px, since pictures of that size have no border to lose
    #[arg(long)]
    trim: Option<bool>,
    /// Side of the pictures that evaluation, export and serving give the encoder, pixels; default: that of the training
    /// crops. Crops enlarge objects, so that an encoder may do better at a quarter or half as much again (docs/recipes.md)
    #[arg(long)]
    test_size: Option<usize>,
}

/// Side of views at which pictures have no border to lose.
const WHOLE: usize = 32;

/// `--mix`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mixture {
    /// Pictures stay as they are
    None,
    /// Cells of one and of the other
    Mixmask,
    /// Blended, or a box swapped
    Unmix,
    /// A mixture of each kind
    Both,
}

/// A group of `--views`.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Views {
    count: usize,
    size: Option<usize>,
    area: Option<(f64, f64)>,
}

impl FromStr for Views {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected =
            || format!("`{text}`: expected COUNT, COUNTxSIZE or COUNTxSIZE:LEAST-MOST, like `6x32:0.05-0.2`");
        let (views, area) = text.split_once(':').map_or((text, None), |(v, a)| (v, Some(a)));
        let (count, size) = views.split_once('x').map_or((views, None), |(c, s)| (c, Some(s)));
        let number = |text: &str| text.parse::<usize>().map_err(|_| expected());
        let area = area.map(|area| {
            let (least, most) = area.split_once('-').ok_or_else(expected)?;
            let share = |text: &str| text.parse::<f64>().map_err(|_| expected());
            Ok::<_, String>((share(least)?, share(most)?))
        });
        Ok(Self { count: number(count)?, size: size.map(number).transpose()?, area: area.transpose()? })
    }
}

impl Parts {
    /// Applies what depends on other flags.
    pub(super) fn finish(&self, c: &mut Config) {
        c.trim = self.trim.unwrap_or(c.trim && c.image_size > WHOLE);
    }

    /// The masks of a recipe that has none, once size and architecture of the run are final: they are made for these.
    pub(super) fn masks(&self, c: &mut Config) -> Result<()> {
        if self.masks == Some(true) && Config::new(c.recipe).masking.is_none() {
            c.masking = Some(c.usual_masking()?);
        }
        Ok(())
    }

    /// Applies what other flags may change further.
    pub(super) fn apply(&self, c: &mut Config) -> Result<()> {
        let recipe = c.recipe;
        self.networks(recipe, c)?;
        c.test_size = self.test_size.or(c.test_size);
        if let Some(groups) = &self.views {
            let old = std::mem::take(&mut c.views);
            for (i, views) in groups.iter().enumerate() {
                let Some(mut group) = old.get(i).or(old.last()).cloned() else { continue };
                (group.count, group.size) = (views.count, views.size);
                if let Some((least, most)) = views.area {
                    (group.augment.crop_min, group.augment.crop_max) = (least, most);
                }
                c.views.push(group);
            }
        }
        match self.masks {
            Some(false) => c.masking = None,
            Some(true) if c.masking.is_none() => c.masking = Some(c.usual_masking()?),
            _ => {}
        }
        match self.mix {
            Some(Mixture::None) => c.mixing = None,
            Some(mixture) => {
                let mix = match mixture {
                    Mixture::Mixmask => Mix::Mixmask,
                    Mixture::Unmix => Mix::Unmix,
                    _ => Mix::Both,
                };
                let mask = c.mixing.take().map(|m| m.mask);
                c.mixing = Some(Config::usual_mixing(mix, mask));
            }
            None => {}
        }
        Ok(())
    }

    /// The flags of networks, where the recipe has these.
    fn networks(&self, recipe: Recipe, c: &mut Config) -> Result<()> {
        let aligns = self.align_heads.is_some() || self.align_scale.is_some() || self.align_weight.is_some();
        ensure!(
            !aligns || c.method.align().is_some(),
            "`--recipe {}` has no alignment maps, but one of their flags was given; hint: `--recipe lewel-b-eman`",
            recipe.name()
        );
        let predicts = self.predictor_hidden.is_some() || self.target.is_some();
        ensure!(
            !predicts || c.method.byol_mut().is_some(),
            "`--recipe {}` has no predictor and no target, but one of their flags was given; hint: `--recipe byol`",
            recipe.name()
        );
        if let Some(align) = c.method.align_mut() {
            set(&mut align.heads, self.align_heads);
            set(&mut align.scale, self.align_scale);
            set(&mut align.weight, self.align_weight);
        }
        if let Some(byol) = c.method.byol_mut() {
            set(&mut byol.predictor, self.predictor_hidden);
            set(&mut byol.target, self.target);
        }
        set(&mut c.method.head_mut().output_bn, self.head_output_bn);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::resolved as resolve;
    use crate::config::Method;

    fn refused(flags: &str) -> String {
        format!("{:#}", resolve(flags).expect_err("refused"))
    }

    #[test]
    fn flags_of_networks_reach_their_fields() {
        let c = resolve(
            "--recipe lewel-b --predictor-hidden 512 --target eman --align-heads 8 --align-scale 0.5 --align-weight 0.3 \
             --hidden 1024 --dim 128 --momentum-start 0.9 --bn-splits 2 --epochs 7 --warmup-epochs 1 --head-output-bn true",
        )
        .expect("valid");
        let Method::Byol(b) = c.method else { panic!("another method") };
        let align = b.align.expect("aligned");
        assert_eq!((align.heads, align.scale, align.weight), (8, 0.5, 0.3));
        assert_eq!((b.predictor, b.target, b.bn_splits), (512, TargetNorm::Eman, 2));
        assert_eq!((b.head.dim, b.head.hidden, b.head.output_bn), (128, Some(1024), true));
        // a momentum that rises over the whole run goes on doing so
        assert_eq!((b.momentum_start, b.momentum, b.momentum_warmup_epochs), (0.9, 1.0, 7.0));
    }

    #[test]
    fn groups_of_views_are_drawn_as_the_recipes_and_a_wrong_one_is_named() {
        let c = resolve("--recipe byol --views 1,1,6x96:0.05-0.2").expect("valid");
        let of = |i: usize| (c.views[i].count, c.views[i].size, c.views[i].augment.crop_min);
        assert_eq!([of(0), of(1), of(2)], [(1, None, 0.08), (1, None, 0.08), (6, Some(96), 0.05)]);
        assert_eq!((c.views[0].augment.blur_p, c.views[2].augment.blur_p), (1.0, 0.1));
        for (views, part) in
            [("1", "has to come first"), ("2,x", "`x`"), ("2,6x32:0.2", "6x32:0.2"), ("0,2", "0 views")]
        {
            let message = refused(&format!("--recipe byol --views {views}"));
            assert!(message.contains(part), "{views}: {message}");
        }
        assert!(refused("--recipe moco-v2 --views 2,4x96").contains("compares two"));
    }

    #[test]
    fn masks_and_mixtures_are_added_and_taken_away() {
        let masked = resolve("--recipe byol-small --masks true --strategy mean").expect("valid");
        let m = masked.masking.expect("masked");
        assert_eq!((m.num_nonsem, m.strategy), (0, crate::config::Strategy::Mean));
        assert!(resolve("--recipe saliency-moco-small --masks false").expect("valid").masking.is_none());
        let mixed =
            resolve("--recipe byol --mix mixmask --mix-grid 4").expect("valid").mixing.expect("mixed");
        assert_eq!((mixed.mix, mixed.mask.grid), (Mix::Mixmask, 4));
        assert!(resolve("--recipe mixmask --mix none").expect("valid").mixing.is_none());
        assert!(refused("--recipe lewel-small --mix unmix").contains("with LEWEL"));
        assert!(refused("--recipe byol --mix both --masks true").contains("masked or mixed"));
        assert!(refused("--recipe byol --strategy hp").contains("--masks true"));
        resolve("--recipe lewel-m --masks true").expect("valid");
    }

    /// Not for those of the recipe, which may have been written for others.
    #[test]
    fn masks_that_are_added_are_made_for_the_run_s_views_and_network() {
        let masks = |flags: &str| {
            let c = resolve(&format!("{flags} --masks true")).expect("valid");
            c.masking.map(|m| (m.strategy, m.stage)).expect("masked")
        };
        let (hp, blur) = (crate::config::Strategy::Hp, crate::config::Strategy::Blur);
        assert_eq!(masks("--recipe byol"), (hp, 5));
        assert_eq!(masks("--recipe byol --arch resnet18 --image-size 64"), (blur, 4));
        assert_eq!(masks("--recipe byol-small --image-size 224"), (hp, 5));
        assert_eq!(masks("--recipe saliency-moco-small"), (blur, 4), "its own");
    }

    #[test]
    fn small_pictures_are_not_trimmed_unless_they_are_to_be() {
        let trim = |flags: &str| resolve(&format!("--recipe byol-small {flags}")).expect("valid").trim;
        assert!(
            trim("")
                && !trim("--image-size 32")
                && trim("--image-size 32 --trim true")
                && !trim("--trim false")
        );
    }

    #[test]
    fn flags_of_what_a_recipe_lacks_are_refused_with_what_has_it() {
        for (flags, part) in [
            ("--recipe byol --queue 5", "has no queue"),
            ("--recipe byol --symmetric true", "has no queue"),
            ("--recipe byol --temperature 0.1", "no softmax"),
            ("--recipe byol --drop-path 0.1", "has no teacher"),
            ("--recipe dino --patch-choice block", "hides no patches"),
            ("--recipe dino --bn-splits 2", "all views of one size together"),
            ("--recipe ibot --queue 5", "has no queue"),
            ("--recipe ibot --masks true", "has no masks of pixels"),
            ("--recipe ibot --mix mixmask", "MoCo and BYOL only"),
            ("--recipe byol --align-heads 2", "no alignment maps"),
            ("--recipe moco-v2 --target eman", "no predictor"),
            ("--recipe simclr --momentum 0.9", "no momentum encoder"),
        ] {
            assert!(refused(flags).contains(part), "{flags}: {}", refused(flags));
        }
    }
}
