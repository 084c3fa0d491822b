//! What works, and hardly ever is what was meant.

use super::masking::BACKGROUND_BIASED;
use super::{Branch, Choice, Config, Guidance, Masking, Method, Saliency, Strategy};

/// Cosine from which hard negatives push the two views of a picture apart, `s*`: with a positive and a hard negative at cosine
/// s, the gradient of -ln(e^(s/T) / (e^(s/T) + N + n e^(alpha s/T))) changes its sign where N = n (alpha - 1) e^(alpha s/T).
/// `negatives` (N) counts the other negatives as orthogonal to the query, `hard` (n) its own hard ones. Infinite where they
/// never do (`alpha` at most 1).
pub(super) fn turning_point(alpha: f64, temperature: f64, negatives: usize, hard: usize) -> f64 {
    if alpha <= 1.0 || hard == 0 {
        return f64::INFINITY;
    }
    temperature / alpha * (negatives as f64 / (hard as f64 * (alpha - 1.0))).ln()
}

impl Config {
    /// Negatives of a query besides hard ones.
    fn negatives(&self) -> usize {
        match &self.method {
            Method::Moco(m) => m.queue + if m.in_batch { self.batch_size - 1 } else { 0 },
            Method::Simclr(_) => 2 * self.batch_size - 2,
            Method::Byol(_) | Method::Dino(_) | Method::Distill(_) => 0,
        }
    }

    /// What is likely not meant, a sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let hard = self.masking.as_ref().and_then(|m| self.repelling(m));
        let without_effect = self.masking.as_ref().map(Masking::contradictions).unwrap_or_default();
        hard.into_iter().chain(without_effect).chain(self.never_begins()).collect()
    }

    /// A momentum that is said to begin elsewhere, and has no time to.
    fn never_begins(&self) -> Option<String> {
        let momentum = match &self.method {
            Method::Moco(m) => m.follow(),
            Method::Byol(b) => b.follow(),
            Method::Dino(d) => d.follow(),
            Method::Simclr(_) | Method::Distill(_) => return None,
        };
        let unheard = momentum.start != momentum.end && momentum.epochs <= 0.0;
        unheard.then(|| format!(
            "`--momentum-start {}` has no effect: with `--momentum-warmup-epochs 0` every step has the momentum {}; hint: `--momentum-warmup-epochs {}`",
            momentum.start, momentum.end, self.epochs
        ))
    }

    fn repelling(&self, masking: &Masking) -> Option<String> {
        let (alpha, n) = (masking.alpha, masking.num_nonsem);
        let (Method::Moco(super::Moco { temperature, .. })
        | Method::Simclr(super::Simclr { temperature, .. })) = self.method
        else {
            return None;
        };
        let others = self.negatives();
        let turn = turning_point(alpha, temperature, others, n);
        if turn >= 1.0 {
            return None;
        }
        let needed = n as f64 * (alpha - 1.0) * (alpha / temperature).exp();
        let more = if needed < 1e7 {
            format!(", or {:.0} negatives and more", needed.ceil())
        } else {
            String::new()
        };
        Some(format!(
            "`--alpha {alpha}` with {others} negatives at temperature {temperature}: hard negatives pull the two views of a picture together only up to a cosine of s* = {turn:.2}, and push them apart above it, which ruins the encoder (docs/recipes.md); hint: `--alpha 1`{more}"
        ))
    }
}

impl Masking {
    /// What one part of it says that another takes back, a sentence each.
    fn contradictions(&self) -> Vec<String> {
        let [inside, outside] = self.cell_probability;
        let background = self.choice == Choice::Background;
        let views = self.branch != Branch::None;
        let spared = self.share < 1.0 || self.course.is_some() || background;
        let (everything, random) = (self.negative_ratio[0] >= 1.0, self.guidance == Guidance::Random);
        let negatives = self.num_nonsem > 0 && everything;
        let all = [
            (!background && self.cell_probability != BACKGROUND_BIASED, format!(
                "`--cell-probability {inside} {outside}` has no effect with `--choice spread`; hint: `--choice background`"
            )),
            (background && inside > outside, format!(
                "`--cell-probability {inside} {outside}` masks the foreground more than the background; hint: the foreground's number comes first"
            )),
            (!views && spared,
                "`--branch none` masks no views: `--choice`, `--mask-share` and `--mask-course` have no effect on hard negatives".into()
            ),
            (self.prior_until > 0.0 && !self.localises(), format!(
                "`--prior-until {}` has no effect with `--guidance random`, which looks at no map", self.prior_until
            )),
            (self.prior_until > 0.0 && matches!(self.saliency, Saliency::Checkpoint(_)), format!(
                "`--prior-until {}` fades out although the encoder of `--saliency` does not learn", self.prior_until
            )),
            (negatives && random,
                "`--negative-ratio 1 1` with `--guidance random` masks whole pictures: hard negatives that show nothing".into()
            ),
            (negatives && self.strategy == Strategy::Hp,
                "`--negative-ratio 1 1` with `--strategy hp` leaves parts of large foregrounds, since it masks at most 55 % of the cells; hint: another strategy".into()
            ),
        ];
        all.into_iter().filter(|(wrong, _)| *wrong).map(|(_, sentence)| sentence).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Recipe;
    use super::*;

    #[test]
    fn a_momentum_that_never_begins_is_told() {
        let told = |recipe, start, epochs| {
            let mut c = Config::new(recipe);
            let m = c.method.momentum_mut().expect("a moving average");
            (*m.start, *m.epochs) = (start, epochs);
            c.warnings()
                .into_iter()
                .any(|w| w.contains("--momentum-start") && w.contains("--momentum-warmup-epochs"))
        };
        assert!(told(Recipe::MocoV2, 0.9, 0.0) && told(Recipe::Byol, 0.9, 0.0));
        assert!(!told(Recipe::MocoV2, 0.9, 5.0) && !told(Recipe::MocoV2, 0.999, 0.0));
    }

    /// Where the loss of the definition has its least value, by looking.
    fn searched(alpha: f64, t: f64, negatives: usize, hard: usize) -> f64 {
        let loss = |s: f64| {
            let all = (s / t).exp() + negatives as f64 + hard as f64 * (alpha * s / t).exp();
            all.ln() - s / t
        };
        let at = |i: i32| f64::from(i) / 1000.0;
        at((-1000..=2000).min_by(|&a, &b| loss(at(a)).total_cmp(&loss(at(b)))).expect("some"))
    }

    #[test]
    fn the_turning_point_is_where_the_loss_is_least() {
        for (alpha, t, negatives, hard, known) in [
            (2.0, 0.2, 65_536, 1, 1.11),
            (2.0, 0.2, 4096, 1, 0.83),
            (2.0, 0.1, 127, 1, 0.24),
            (1.5, 0.2, 500, 3, 0.77),
            (2.0, 0.1, 127, 4, 0.17),
        ] {
            let found = turning_point(alpha, t, negatives, hard);
            assert!((found - known).abs() < 0.01, "{found} {known}");
            assert!((found - searched(alpha, t, negatives, hard)).abs() < 2e-3, "{found}");
        }
        assert_eq!(turning_point(1.0, 0.1, 1, 1), f64::INFINITY);
        assert_eq!(turning_point(2.0, 0.1, 1, 0), f64::INFINITY);
        assert_eq!(turning_point(2.0, 0.1, 0, 1), f64::NEG_INFINITY, "nothing but hard negatives");
    }

    #[test]
    fn a_recipe_as_it_is_warns_of_nothing_and_one_with_few_negatives_names_its_turning_point() {
        for &recipe in <Recipe as clap::ValueEnum>::value_variants() {
            assert_eq!(Config::new(recipe).warnings(), Vec::<String>::new(), "{recipe:?}");
        }
        let mut config = Config::new(Recipe::SaliencyMoco);
        config.method.moco_mut().expect("MoCo").queue = 4096;
        let warning = config.warnings().remove(0);
        assert!(
            warning.contains("s* = 0.83") && warning.contains("`--alpha 1`, or 22027 negatives"),
            "{warning}"
        );
        config.masking.as_mut().expect("masked").alpha = 1.0;
        assert!(config.warnings().is_empty());
        let mut simclr = Config::new(Recipe::SaliencySimclr);
        (simclr.batch_size, simclr.masking.as_mut().expect("masked").alpha) = (64, 2.0);
        assert!(simclr.warnings().remove(0).contains("s* = 0.24"));
        simclr.masking.as_mut().expect("masked").num_nonsem = 0;
        assert!(simclr.warnings().is_empty());
        let mut small = Config::new(Recipe::SaliencyMocoSmall);
        small.masking.as_mut().expect("masked").num_nonsem = 1;
        assert!(small.warnings().is_empty(), "what it ships with does not repel");
        small.masking.as_mut().expect("masked").alpha = 2.0;
        assert!(
            small.warnings().remove(0).contains("s* = 0.24"),
            "its own negatives are the other keys of the batch"
        );
    }

    #[test]
    fn what_takes_itself_back_is_said() {
        let warned = |change: fn(&mut Masking)| {
            let mut config = Config::new(Recipe::SaliencyMoco);
            change(config.masking.as_mut().expect("masked"));
            config.validate().expect("valid");
            let mut all = config.warnings();
            assert_eq!(all.len(), 1, "{all:?}");
            all.remove(0)
        };
        for (warning, part) in [
            (warned(|m| m.cell_probability = [0.1, 0.5]), "--choice background"),
            (warned(|m| (m.choice, m.cell_probability) = (Choice::Background, [0.5, 0.1])), "comes first"),
            (warned(|m| (m.branch, m.share) = (Branch::None, 0.5)), "--branch none"),
            (warned(|m| (m.branch, m.course) = (Branch::None, Some([0.1, 0.2, 0.3]))), "--mask-course"),
            (warned(|m| (m.guidance, m.prior_until) = (Guidance::Random, 0.2)), "looks at no map"),
            (
                warned(|m| (m.saliency, m.prior_until) = (Saliency::Checkpoint("a".into()), 0.2)),
                "does not learn",
            ),
            (
                warned(|m| {
                    (m.strategy, m.guidance, m.negative_ratio) = (Strategy::Mean, Guidance::Random, [1.0; 2]);
                }),
                "show nothing",
            ),
            (warned(|m| m.negative_ratio = [1.0; 2]), "55 %"),
        ] {
            assert!(warning.contains(part), "{warning}");
        }
        let mut config = Config::new(Recipe::SaliencyMoco);
        let m = config.masking.as_mut().expect("masked");
        (m.choice, m.share, m.course, m.prior_until) = (Choice::Background, 0.5, Some([0.2, 0.6, 0.9]), 0.3);
        (m.strategy, m.negative_ratio) = (Strategy::OtherPicture, [1.0; 2]);
        assert_eq!(config.warnings(), Vec::<String>::new());
    }
}
