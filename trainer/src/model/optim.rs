//! Optimisers: all parameters in one call, their state as named tensors.

use anyhow::Result;
use occlude_torch_ext::{AdamW, Lars, Moments, Sgd};
use tch::{Kind, Tensor};

use super::named::Named;
use crate::config::{ClipBy, Decay, Optimizer as Settings, Rule};

/// Trust coefficient of LARS.
///
/// The momentum of LARS, like that of SGD, holds updates, and the learning rate is applied to their average: `v = m v + r u`,
/// `p -= lr v`, with r a layer's rate. The paper's algorithm and some codes, LEWEL's among them, have the rate inside:
/// `v = m v + lr r u`, `p -= v`. At a constant rate both are the same; where it changes, the average of the last 1 / (1 - m)
/// steps (ten, of the 0.9 of all recipes) is taken at the rate of now in place of that of then, which over a warm-up of
/// thousands of steps is a shift by ten of them. Outside, a rate that the watchdog lowers holds from the next step on.
const ETA: f64 = 0.001;

/// A rule with its state over a list of parameters.
pub struct Optimizer {
    settings: Settings,
    groups: Vec<Group>,
}

/// How fast a parameter learns, beside others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Factor on the learning rate.
    pub scale: f64,
    /// Whether it is of an encoder that may have to wait.
    pub encoder: bool,
}

impl Default for Rate {
    fn default() -> Self {
        Self { scale: 1.0, encoder: false }
    }
}

/// Parameters that decay, or do not, and learn as fast.
struct Group {
    rate: Rate,
    params: Vec<Tensor>,
    /// Whether they do; LARS then gives each of them its own rate, too.
    decays: bool,
    /// SGD, LARS: momenta. AdamW: first moments, second moments, counters.
    state: Vec<Vec<Named>>,
}

impl Optimizer {
    /// State starts at zero, which makes the first step PyTorch's first step.
    pub fn new(params: Vec<Named>, settings: &Settings) -> Self {
        Self::with_rates(params, settings, |_| Rate::default())
    }

    /// The same with rates of their own for parameters, by their names.
    pub fn with_rates(params: Vec<Named>, settings: &Settings, rate: impl Fn(&str) -> Rate) -> Self {
        let (plain, decayed): (Vec<_>, Vec<_>) = match settings.decay {
            Decay::All => (Vec::new(), params),
            // vectors are biases, and scales and shifts of normalisations
            Decay::Weights => params.into_iter().partition(|p| p.tensor.dim() <= 1),
        };
        let mut groups = Vec::new();
        for (params, decays) in [(decayed, true), (plain, false)] {
            let mut of_rate: Vec<(Rate, Vec<Named>)> = Vec::new();
            for param in params {
                let rate = rate(&param.name);
                match of_rate.iter_mut().find(|(r, _)| *r == rate) {
                    Some((_, params)) => params.push(param),
                    None => of_rate.push((rate, vec![param])),
                }
            }
            let all = of_rate.into_iter();
            groups.extend(all.map(|(rate, params)| Group::new(params, (decays, rate), settings.rule)));
        }
        Self { settings: settings.clone(), groups }
    }

    /// Forgets the gradients of the last step.
    pub fn zero_grad(&mut self) {
        for group in &self.groups {
            occlude_torch_ext::forget_grads(&group.params);
        }
    }

    /// One step at the learning rate `lr` and the weight decay of the settings. A parameter without a gradient is left alone.
    ///
    /// # Errors
    /// What libtorch refuses.
    pub fn step(&mut self, lr: f64) -> Result<()> {
        self.step_with(lr, self.settings.weight_decay)
    }

    /// The same at another weight decay.
    ///
    /// # Errors
    /// What libtorch refuses.
    pub fn step_with(&mut self, lr: f64, weight_decay: f64) -> Result<()> {
        self.step_of(lr, weight_decay, 1.0)
    }

    /// The same, the encoder's rate being the share `encoder` of what it would be. Where that is 0, the encoder is left
    /// alone, its momenta too.
    ///
    /// # Errors
    /// What libtorch refuses.
    pub fn step_of(&mut self, lr: f64, weight_decay: f64, encoder: f64) -> Result<()> {
        if let Some(norm) = self.settings.clip {
            let params = self.groups.iter().flat_map(|g| &g.params);
            let grads: Vec<Tensor> = params.map(Tensor::grad).filter(Tensor::defined).collect();
            match self.settings.clip_by {
                ClipBy::All => occlude_torch_ext::clip_grad_norm(&grads, norm)?,
                ClipBy::Tensor => occlude_torch_ext::clip_each_grad(&grads, norm)?,
            }
        }
        for group in &self.groups {
            let share = group.rate.scale * if group.rate.encoder { encoder } else { 1.0 };
            if share > 0.0 {
                group.step(&self.settings, lr * share, if group.decays { weight_decay } else { 0.0 })?;
            }
        }
        Ok(())
    }

    /// The state.
    pub fn state(&self) -> Vec<Named> {
        let all = self.groups.iter().flat_map(|g| g.state.iter().flatten());
        all.map(|n| Named::new(n.name.clone(), &n.tensor)).collect()
    }
}

impl Group {
    fn new(params: Vec<Named>, (decays, rate): (bool, Rate), rule: Rule) -> Self {
        let like = |what: &str, zero: &dyn Fn(&Tensor) -> Tensor| -> Vec<Named> {
            let named =
                |p: &Named| Named { name: format!("optim.{what}.{}", p.name), tensor: zero(&p.tensor) };
            params.iter().map(named).collect()
        };
        let same = |p: &Tensor| p.detach().zeros_like();
        let state = match rule {
            Rule::Sgd | Rule::Lars => vec![like("momentum", &same)],
            Rule::Adamw => {
                let counter = |p: &Tensor| Tensor::zeros([0i64; 0], (Kind::Float, p.device()));
                vec![like("mean", &same), like("square", &same), like("step", &counter)]
            }
        };
        Self { rate, params: params.into_iter().map(|p| p.tensor).collect(), decays, state }
    }

    fn step(&self, settings: &Settings, lr: f64, weight_decay: f64) -> Result<()> {
        let grads: Vec<Tensor> = self.params.iter().map(Tensor::grad).collect();
        let active: Vec<usize> = (0..grads.len()).filter(|&i| grads[i].defined()).collect();
        let pick = |of: &dyn Fn(usize) -> Tensor| active.iter().map(|&i| of(i)).collect::<Vec<_>>();
        let (params, grads) =
            (pick(&|i| self.params[i].shallow_clone()), pick(&|i| grads[i].shallow_clone()));
        let state: Vec<Vec<Tensor>> =
            self.state.iter().map(|s| pick(&|i| s[i].tensor.shallow_clone())).collect();
        match state.as_slice() {
            [momenta] if settings.rule == Rule::Lars => {
                let eta = self.decays.then_some(ETA);
                let step = Lars { lr, momentum: settings.momentum, weight_decay, eta };
                occlude_torch_ext::lars(&params, &grads, momenta, step)?;
            }
            [momenta] => {
                let step = Sgd { lr, momentum: settings.momentum, weight_decay, first: false };
                occlude_torch_ext::sgd(&params, &grads, momenta, step)?;
            }
            [means, squares, steps] => {
                let step = AdamW { lr, betas: (settings.momentum, settings.beta2), weight_decay, eps: 1e-8 };
                occlude_torch_ext::adamw(&params, &grads, Moments { means, squares, steps }, step)?;
            }
            _ => unreachable!("a rule has one or three kinds of state"),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Recipe};
    use tch::Device;

    /// Of all recipes for small data.
    const BETA2: f64 = 0.99;

    fn settings(rule: Rule) -> Settings {
        let base = Config::new(Recipe::MocoV2).optimizer;
        Settings { rule, momentum: 0.9, weight_decay: 0.01, decay: Decay::Weights, ..base }
    }

    /// Minimises the sum of squares of one matrix; after each step calls `check` with (step, value).
    fn run(rule: Rule, lrs: &[f64], mut check: impl FnMut(usize, &Tensor)) {
        let p = Tensor::from_slice(&[1.0f32, -2.0]).view([1, 2]).set_requires_grad(true);
        let mut optimizer = Optimizer::new(vec![Named::new("p", &p)], &settings(rule));
        for (i, &lr) in lrs.iter().enumerate() {
            optimizer.zero_grad();
            (&p * &p).sum(Kind::Float).backward();
            optimizer.step(lr).expect("a step");
            check(i, &p);
        }
    }

    /// `v = m v + (g + wd p)`, `p -= lr v`.
    #[test]
    fn sgd_equals_the_formula() {
        let _alone = crate::rng::alone();
        let (mut value, mut v) = ([1.0f64, -2.0], [0.0f64; 2]);
        let lrs = [0.1, 0.2, 0.05];
        run(Rule::Sgd, &lrs, |step, p| {
            for i in 0..2 {
                v[i] = 0.9 * v[i] + 2.0 * value[i] + 0.01 * value[i];
                value[i] -= lrs[step] * v[i];
                assert!((p.double_value(&[0, i as i64]) - value[i]).abs() < 1e-5);
            }
        });
    }

    /// Section 4 of arXiv 1708.03888, with the decay inside the norm of the update and the rate outside of the momentum.
    #[test]
    fn lars_equals_the_formula() {
        let _alone = crate::rng::alone();
        let (mut value, mut v) = ([1.0f64, -2.0], [0.0f64; 2]);
        let lrs = [100.0, 200.0, 50.0];
        let norm = |x: [f64; 2]| (x[0] * x[0] + x[1] * x[1]).sqrt();
        run(Rule::Lars, &lrs, |step, p| {
            let update = value.map(|x| 2.0 * x + 0.01 * x);
            let rate = ETA * norm(value) / norm(update);
            for i in 0..2 {
                v[i] = 0.9 * v[i] + rate * update[i];
                value[i] -= lrs[step] * v[i];
                assert!((p.double_value(&[0, i as i64]) - value[i]).abs() < 1e-5);
            }
        });
    }

    #[test]
    fn lars_leaves_vectors_at_the_common_rate_and_survives_zeros() {
        let _alone = crate::rng::alone();
        let [a, b] = [[2, 2].as_slice(), [2].as_slice()]
            .map(|shape| Tensor::zeros(shape, (Kind::Float, Device::Cpu)).set_requires_grad(true));
        let mut optimizer =
            Optimizer::new(vec![Named::new("a", &a), Named::new("b", &b)], &settings(Rule::Lars));
        ((&a * 0.0).sum(Kind::Float) + (&b * 3.0).sum(Kind::Float)).backward();
        optimizer.step(0.1).expect("a step");
        assert_eq!(a.abs().max().double_value(&[]), 0.0, "a zero matrix with a zero gradient stays");
        assert!((b.double_value(&[0]) + 0.3).abs() < 1e-6, "a vector moves by lr times its gradient");
    }

    #[test]
    fn clipping_scales_all_gradients_to_one_norm() {
        let _alone = crate::rng::alone();
        for (limit, expected) in [(1.0, 1.0), (100.0, 5.0)] {
            let [a, b] = [3.0, 4.0].map(|g| {
                let p = Tensor::zeros([1], (Kind::Float, Device::Cpu)).set_requires_grad(true);
                (&p * g).sum(Kind::Float).backward();
                p
            });
            let settings = Settings { clip: Some(limit), weight_decay: 0.0, ..settings(Rule::Sgd) };
            let named = vec![Named::new("a", &a), Named::new("b", &b)];
            Optimizer::new(named, &settings).step(1.0).expect("a step");
            let (x, y) = (a.double_value(&[0]), b.double_value(&[0]));
            assert!((x.hypot(y) - expected).abs() < 1e-4 && (x / y - 0.75).abs() < 1e-4, "{x} {y}");
        }
    }

    /// The same gradients, 3 and 4 and a tensor of (6, 8), each by itself.
    #[test]
    fn clipping_each_tensor_leaves_the_short_ones() {
        let _alone = crate::rng::alone();
        let gradients: [&[f32]; 3] = [&[3.0], &[4.0], &[6.0, 8.0]];
        let params = gradients.map(|g| {
            let g = Tensor::from_slice(g);
            let p = g.zeros_like().set_requires_grad(true);
            (&p * g).sum(Kind::Float).backward();
            p
        });
        let settings =
            Settings { clip: Some(3.5), clip_by: ClipBy::Tensor, weight_decay: 0.0, ..settings(Rule::Sgd) };
        let named = ["a", "b", "c"].iter().zip(&params).map(|(name, p)| Named::new(*name, p)).collect();
        Optimizer::new(named, &settings).step(1.0).expect("a step");
        for (p, expected) in params.iter().zip([&[3.0][..], &[3.5], &[2.1, 2.8]]) {
            for (i, e) in (0..).zip(expected) {
                assert!((p.double_value(&[i]) + e).abs() < 1e-5, "{p:?}");
            }
        }
    }

    #[test]
    fn an_encoder_waits_and_its_layers_have_their_own_rates() {
        let _alone = crate::rng::alone();
        let params = [1.0f32; 3].map(|v| Tensor::from_slice(&[v]).set_requires_grad(true));
        let names = ["head", "encoder.first", "encoder.last"];
        let named = names.iter().zip(&params).map(|(name, p)| Named::new(*name, p)).collect();
        let settings = Settings { weight_decay: 0.0, momentum: 0.0, ..settings(Rule::Sgd) };
        let rate = |name: &str| Rate {
            scale: if name == "encoder.first" { 0.25 } else { 1.0 },
            encoder: name.starts_with("encoder."),
        };
        let mut optimizer = Optimizer::with_rates(named, &settings, rate);
        let values = || params.each_ref().map(|p| p.double_value(&[0]));
        for (share, expected) in
            [(0.0, [0.5, 1.0, 1.0]), (0.5, [0.0, 0.9375, 0.75]), (1.0, [-0.5, 0.8125, 0.25])]
        {
            optimizer.zero_grad();
            Tensor::stack(&params, 0).sum(Kind::Float).backward();
            optimizer.step_of(0.5, 0.0, share).expect("a step");
            assert_eq!(values(), expected, "{share}");
        }
    }

    #[test]
    fn a_step_may_have_a_decay_of_its_own() {
        let _alone = crate::rng::alone();
        let [a, b] = [[2, 2].as_slice(), [2].as_slice()]
            .map(|shape| Tensor::ones(shape, (Kind::Float, Device::Cpu)).set_requires_grad(true));
        let named = vec![Named::new("a", &a), Named::new("b", &b)];
        let mut optimizer = Optimizer::new(named, &settings(Rule::Adamw));
        ((&a * 0.0).sum(Kind::Float) + (&b * 0.0).sum(Kind::Float)).backward();
        optimizer.step_with(0.5, 0.4).expect("a step");
        assert!((a.double_value(&[1, 1]) - 0.8).abs() < 1e-6 && b.double_value(&[1]) == 1.0);
    }

    /// Algorithm 2 of arXiv 1711.05101.
    #[test]
    fn adamw_equals_the_formula() {
        let _alone = crate::rng::alone();
        let (mut value, mut m, mut s) = ([1.0f64, -2.0], [0.0f64; 2], [0.0f64; 2]);
        let lrs = [0.1, 0.2, 0.05];
        run(Rule::Adamw, &lrs, |step, p| {
            let t = step as i32 + 1;
            for i in 0..2 {
                let g = 2.0 * value[i];
                m[i] = 0.9 * m[i] + 0.1 * g;
                s[i] = BETA2 * s[i] + (1.0 - BETA2) * g * g;
                let (mean, square) = (m[i] / (1.0 - 0.9f64.powi(t)), s[i] / (1.0 - BETA2.powi(t)));
                value[i] -= lrs[step] * (mean / (square.sqrt() + 1e-8) + 0.01 * value[i]);
                assert!((p.double_value(&[0, i as i64]) - value[i]).abs() < 1e-4);
            }
        });
    }

    #[test]
    fn a_parameter_without_gradient_stays_and_vectors_do_not_decay() {
        let _alone = crate::rng::alone();
        let [a, b] = [[2, 2].as_slice(), [2].as_slice()]
            .map(|shape| Tensor::ones(shape, (Kind::Float, Device::Cpu)).set_requires_grad(true));
        let named = || vec![Named::new("a", &a), Named::new("b", &b)];
        let mut optimizer = Optimizer::new(named(), &settings(Rule::Adamw));
        optimizer.step(1.0).expect("nothing to do");
        assert_eq!(a.sum(Kind::Float).double_value(&[]), 4.0);
        // a zero gradient leaves only the decay
        ((&a * 0.0).sum(Kind::Float) + (&b * 0.0).sum(Kind::Float)).backward();
        optimizer.step(1.0).expect("a step");
        assert!((a.double_value(&[0, 0]) - 0.99).abs() < 1e-6);
        assert_eq!(b.double_value(&[0]), 1.0);
        let names: Vec<_> = optimizer.state().into_iter().map(|n| n.name).collect();
        assert!(
            names.contains(&"optim.mean.a".to_owned()) && names.contains(&"optim.step.b".to_owned()),
            "{names:?}"
        );
    }
}
