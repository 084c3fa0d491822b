//! What works, and hardly ever is what was meant.

use super::{Config, Masking, Method};

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
            Method::Byol(_) => 0,
        }
    }

    /// What is likely not meant, a sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let hard = self.masking.as_ref().and_then(|m| self.repelling(m));
        hard.into_iter().collect()
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

#[cfg(test)]
mod tests {
    use super::super::Recipe;
    use super::*;

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
}
