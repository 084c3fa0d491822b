//! MoCo v2 (arXiv 1911.05722, 2003.04297) with saliency-guided masking (arXiv 2309.12757).

mod keys;

use anyhow::{Result, ensure};
use occlude_torch_ext::Autocast;
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor};

pub use keys::Keys;

use super::localise::Frozen;
use super::{Method, Preview, Step, StepOutput};
use crate::augment::HighPassFilter;
use crate::config::{Branch, Config, Guidance, Masking, Saliency};
use crate::loss::{Negatives, logits, normalize, spread};
use crate::mask::{Masker, Purpose, aggregate, foreground};
use crate::mix::{self, Mixed};
use crate::model::{Encoder, Head, Mode, Named, ema, find, load};
use crate::rng::{Domain, permutation, stream};

/// The masking part of the method.
struct Occluder {
    config: Masking,
    masker: Masker,
    frozen: Option<Frozen>,
    filter: Option<HighPassFilter>,
    grid: i64,
}

/// MoCo v2, plain or with masking.
pub struct Moco {
    config: Config,
    bf16: bool,
    query: Encoder,
    key: Encoder,
    head_q: Head,
    head_k: Head,
    /// (key, query) tensors of the moving average, in one order.
    averaged: (Vec<Tensor>, Vec<Tensor>),
    keys: Keys,
    /// Keys of the step, which enter the queue when the backward pass no longer needs the old ones.
    fresh: Vec<Tensor>,
    occluder: Option<Occluder>,
}

/// A view on its way through a step.
struct View {
    /// Normalised, `(B, 3, S, S)`.
    plain: Tensor,
    /// What encoders see: filtered where the strategy says so.
    input: Tensor,
    /// `(B, h, w)`, once it is known.
    foreground: Option<Tensor>,
    /// Normalised projection by the momentum encoder, `(B, D)`, once it is known.
    key: Option<Tensor>,
}

impl Moco {
    /// Fresh networks. `bf16`: convolutions and matrix products in bfloat16.
    ///
    /// # Errors
    /// Where the configuration names a localisation checkpoint that cannot be used.
    pub fn new(config: &Config, bf16: bool, device: Device) -> Result<Self> {
        let arch = config.architecture()?;
        let occluder = config.masking.as_ref().map(|m| Occluder::new(m, config, device)).transpose()?;
        let query = Encoder::new(arch, config.seed, device);
        let hidden = config.moco.hidden.unwrap_or(arch.feature_dim());
        let head_q = Head::new(arch.feature_dim(), hidden, config.moco.dim, config.moco.head_bn, device);
        let (key, head_k) = (Encoder::frozen_copy(&query), Head::frozen_copy(&head_q));
        let tensors = |named: Vec<Named>| named.into_iter().map(|n| n.tensor);
        let pair = |e: &Encoder, h: &Head| {
            tensors(e.trainable_named("")).chain(tensors(h.trainable_named(""))).collect()
        };
        let averaged = (pair(&key, &head_k), pair(&query, &head_q));
        let keys = Keys::new(config.moco.dim, config.moco.queue, config.moco.queue_start, device);
        let fresh = Vec::new();
        Ok(Self { config: config.clone(), bf16, query, key, head_q, head_k, averaged, keys, fresh, occluder })
    }

    fn splits(&self) -> i64 {
        self.config.moco.bn_splits as i64
    }

    fn rng(&self, domain: Domain, step: Step, of: usize) -> ChaCha8Rng {
        stream(self.config.seed, domain, step.number, of as u64)
    }

    fn view(&self, plain: &Tensor) -> View {
        let filter = self.occluder.as_ref().and_then(|o| o.filter.as_ref());
        let input = filter.map_or_else(|| plain.shallow_clone(), |f| f.apply(plain));
        View { plain: plain.shallow_clone(), input, foreground: None, key: None }
    }

    /// Projections of the momentum encoder for `view`, from a batch in another order, so that no group of the
    /// split normalisation holds the same pictures as the query's (shuffling BN).
    fn encode_key(&self, view: &mut View, step: Step, of: usize, preview: &mut Option<Preview>) {
        let masked = self.occluder.as_ref().filter(|o| matches!(o.config.branch, Branch::Key | Branch::Both));
        let input = match masked {
            Some(o) => {
                let fg = self.foreground(view);
                let rng = &mut self.rng(Domain::Mask, step, 2 + of);
                let (x, _) = o.masker.apply(&view.input, &fg, o.config.ratio, Purpose::Positive, rng);
                show(preview, "masked key", &x);
                x
            }
            None => view.input.shallow_clone(),
        };
        let b = input.size()[0];
        let order = (self.splits() > 1).then(|| {
            let order = permutation(b as usize, &mut self.rng(Domain::Shuffle, step, of));
            let mut back = vec![0; order.len()];
            for (at, &from) in (0i64..).zip(&order) {
                back[from as usize] = at;
            }
            (Tensor::from_slice(&order).to(input.device()), Tensor::from_slice(&back).to(input.device()))
        });
        let pick = |x: &Tensor, index: Option<&Tensor>| {
            index.map_or_else(|| x.shallow_clone(), |i| x.index_select(0, i))
        };
        let mode = Mode::Train { splits: self.splits() };
        let stage = self.occluder.as_ref().map_or(5, |o| o.config.stage);
        let out = self.key.forward(&pick(&input, order.as_ref().map(|o| &o.0)), mode, stage);
        let back = order.as_ref().map(|o| &o.1);
        view.key = Some(normalize(&pick(&self.head_k.forward(&out.embedding, mode), back)));
        // the features of an unmasked key tell where its foreground is, for nothing
        let free = self.occluder.as_ref().is_some_and(Occluder::by_momentum) && masked.is_none();
        if free && view.foreground.is_none() {
            view.foreground = Some(foreground(&pick(&aggregate(&out.map), back)));
        }
    }

    /// The foreground of a view, computed once.
    fn foreground(&self, view: &mut View) -> Tensor {
        if let Some(known) = &view.foreground {
            return known.shallow_clone();
        }
        let found = self.localise(view);
        view.foreground = Some(found.shallow_clone());
        found
    }

    fn localise(&self, view: &View) -> Tensor {
        let Some(o) = &self.occluder else { unreachable!("only masking asks for a foreground") };
        if o.config.guidance == Guidance::Random {
            let b = view.input.size()[0];
            return Tensor::ones([b, o.grid, o.grid], (Kind::Float, view.input.device()));
        }
        match &o.frozen {
            Some(frozen) => frozen.foreground(&view.plain),
            None => {
                let mode = Mode::Peek { splits: self.splits() };
                foreground(&aggregate(&self.key.forward(&view.input, mode, o.config.stage).map))
            }
        }
    }

    /// Each key view's own hard negatives, `(B, n, D)`, normalised.
    fn hard_negatives(
        &self,
        view: &mut View,
        step: Step,
        of: usize,
        preview: &mut Option<Preview>,
    ) -> Option<Tensor> {
        let o = self.occluder.as_ref().filter(|o| o.config.num_nonsem > 0)?;
        let fg = self.foreground(view);
        let rng = &mut self.rng(Domain::Mask, step, 4 + of);
        let mode = Mode::Peek { splits: self.splits() };
        let encoded: Vec<Tensor> = (0..o.config.num_nonsem)
            .map(|_| {
                let (x, _) =
                    o.masker.apply(&view.input, &fg, o.config.negative_ratio, Purpose::HardNegative, rng);
                show(preview, "hard negative", &x);
                normalize(&self.head_k.forward(&self.key.forward(&x, mode, 5).embedding, mode))
            })
            .collect();
        Some(Tensor::stack(&encoded, 1))
    }

    /// What the query encoder sees of a view.
    fn query_input(&self, view: &mut View, step: Step, of: usize, preview: &mut Option<Preview>) -> Tensor {
        let masked =
            self.occluder.as_ref().filter(|o| matches!(o.config.branch, Branch::Query | Branch::Both));
        let Some(o) = masked else { return view.input.shallow_clone() };
        let fg = self.foreground(view);
        let rng = &mut self.rng(Domain::Mask, step, of);
        let (x, _) = o.masker.apply(&view.input, &fg, o.config.ratio, Purpose::Positive, rng);
        show(preview, "masked query", &x);
        x
    }

    /// Features and normalised projections of the query encoder, with their graph.
    fn encode_query(&self, input: &Tensor) -> (Tensor, Tensor) {
        let mode = Mode::Train { splits: self.splits() };
        let _guard = Autocast::bf16(input.device(), self.bf16);
        let out = self.query.forward(input, mode, 5);
        let q = self.head_q.forward(&out.embedding, mode);
        (out.embedding, normalize(&q))
    }

    /// The mixtures of a query view; none where the method does not mix.
    fn mixtures(&self, input: &Tensor, step: Step, of: usize, preview: &mut Option<Preview>) -> Vec<Mixed> {
        let Some(config) = &self.config.mixing else { return Vec::new() };
        let rng = &mut self.rng(Domain::Mix, step, of);
        let mixed = tch::no_grad(|| mix::mixtures(input, config, rng));
        mixed.iter().for_each(|m| show(preview, "mixture", &m.images));
        mixed
    }

    /// A mixture belongs to both of its pictures, to each by its share (arXiv 2210.11456, equation 6).
    fn mixed_loss(&self, mixed: &Mixed, key: &Tensor, negatives: &Negatives<'_>) -> Tensor {
        let (_, q) = self.encode_query(&mixed.images);
        let losses = |key: &Tensor| logits(&q, key, negatives, self.config.moco.temperature).losses();
        let other = losses(&key.index_select(0, &mixed.partner));
        let both: Tensor = losses(key) * &mixed.share + other * (1.0 - &mixed.share);
        both.mean(Kind::Float)
    }

    fn momentum(&self, epoch: f64) -> f64 {
        let m = &self.config.moco;
        if epoch >= m.momentum_warmup_epochs {
            return m.momentum;
        }
        let t = epoch / m.momentum_warmup_epochs;
        m.momentum_start + (m.momentum - m.momentum_start) * (1.0 - (std::f64::consts::PI * t).cos()) / 2.0
    }
}

impl Occluder {
    fn new(masking: &Masking, config: &Config, device: Device) -> Result<Self> {
        let (size, contract) = (config.image_size, config.preprocess());
        let frozen = match &masking.saliency {
            Saliency::Checkpoint(path) if masking.guidance == Guidance::Saliency => {
                Some(Frozen::open(path, masking.stage, &contract, size, device)?)
            }
            _ => None,
        };
        Ok(Self {
            masker: Masker::new(masking.strategy, masking.guidance, size, device),
            filter: contract.high_pass.as_ref().map(|f| HighPassFilter::new(size, f, device)),
            grid: config.architecture()?.feature_side(masking.stage, size) as i64,
            frozen,
            config: masking.clone(),
        })
    }

    fn by_momentum(&self) -> bool {
        self.frozen.is_none() && self.config.guidance == Guidance::Saliency
    }
}

fn show(preview: &mut Option<Preview>, title: &'static str, x: &Tensor) {
    if let Some(p) = preview {
        p.columns.push((title, x.shallow_clone()));
    }
}

impl Method for Moco {
    fn step(&mut self, views: &[Tensor; 2], step: Step) -> Result<StepOutput> {
        let device = self.query.device();
        let mut preview = step.preview.then(Preview::default);
        let mut views = tch::no_grad(|| views.each_ref().map(|v| self.view(v)));
        for (title, v) in ["view 1", "view 2"].into_iter().zip(&views) {
            show(&mut preview, title, &v.input);
        }
        // (query, key)
        let pairs: &[(usize, usize)] = if self.config.moco.symmetric { &[(0, 1), (1, 0)] } else { &[(0, 1)] };
        let mut hard = [None, None];
        let mut inputs = Vec::with_capacity(2);
        {
            let _guard = Autocast::bf16(device, self.bf16);
            tch::no_grad(|| {
                for &(_, k) in pairs {
                    self.encode_key(&mut views[k], step, k, &mut preview);
                }
                for &(q, k) in pairs {
                    inputs.push(self.query_input(&mut views[q], step, q, &mut preview));
                    hard[k] = self.hard_negatives(&mut views[k], step, k, &mut preview);
                }
            });
        }
        let mut mixtures: Vec<Vec<Mixed>> =
            (0..).zip(&inputs).map(|(of, x)| self.mixtures(x, step, of, &mut preview)).collect();
        let queue = self.keys.get();
        let alpha = self.occluder.as_ref().map_or(1.0, |o| o.config.alpha);
        let (mut losses, mut accuracies, mut similarities, mut spreads) = (vec![], vec![], vec![], vec![]);
        for (of, (&(_, k), input)) in pairs.iter().zip(&inputs).enumerate() {
            let (embedding, q) = self.encode_query(input);
            let Some(key) = &views[k].key else { unreachable!("every pair's key was encoded") };
            let negatives = Negatives {
                queue: queue.as_ref(),
                in_batch: self.config.moco.in_batch,
                hard: hard[k].as_ref().map(|h| (h, alpha)),
            };
            let l = logits(&q, key, &negatives, self.config.moco.temperature);
            let mut loss = l.loss();
            for mixed in mixtures[of].drain(..) {
                loss += self.mixed_loss(&mixed, key, &negatives);
            }
            losses.push(loss);
            tch::no_grad(|| {
                accuracies.push(l.accuracy());
                similarities.push(
                    (&q * key).sum_dim_intlist([1i64].as_slice(), false, Kind::Float).mean(Kind::Float),
                );
                spreads.push(spread(&embedding));
            });
        }
        self.fresh = pairs.iter().filter_map(|&(_, k)| views[k].key.take()).collect();
        if let Some(p) = &mut preview {
            p.foreground = views
                .iter()
                .enumerate()
                .filter_map(|(i, v)| Some((i, v.foreground.as_ref()?.shallow_clone())))
                .collect();
        }
        let mean = |parts: &[Tensor]| Tensor::stack(parts, 0).mean(Kind::Float);
        let metrics = vec![
            ("acc1", mean(&accuracies)),
            ("positive_similarity", mean(&similarities)),
            ("feature_std", mean(&spreads)),
        ];
        Ok(StepOutput { loss: mean(&losses), metrics, preview })
    }

    fn after_step(&mut self, step: Step) -> Result<()> {
        for keys in self.fresh.drain(..) {
            self.keys.push(&keys);
        }
        ema(&self.averaged.0, &self.averaged.1, self.momentum(step.epoch))
    }

    fn trainable(&self) -> Vec<Named> {
        let mut all = self.query.trainable_named("encoder_q.");
        all.extend(self.head_q.trainable_named("head_q."));
        all
    }

    fn state(&self) -> Vec<Named> {
        let mut all = self.query.named("encoder_q.");
        all.extend(self.key.named("encoder_k."));
        all.extend(self.head_q.named("head_q."));
        all.extend(self.head_k.named("head_k."));
        all.push(Named::new("queue", &self.keys.columns));
        all.push(Named::new("queue_ptr", &Tensor::from(self.keys.next)));
        all.push(Named::new("queue_filled", &Tensor::from(self.keys.filled)));
        all
    }

    fn load_state(&mut self, state: &[Named]) -> Result<()> {
        load(&self.state(), state)?;
        let number = |name: &str| find(state, name).map(|t| t.int64_value(&[]));
        self.query.set_batches(number("encoder_q.bn1.num_batches_tracked")?);
        self.key.set_batches(number("encoder_k.bn1.num_batches_tracked")?);
        let len = self.keys.columns.size()[1];
        let (next, filled) = (number("queue_ptr")?, number("queue_filled")?);
        ensure!(
            (0..len.max(1)).contains(&next) && (0..=len).contains(&filled),
            "`queue_ptr` {next} or `queue_filled` {filled} lies outside a queue of {len}"
        );
        (self.keys.next, self.keys.filled) = (next, filled);
        Ok(())
    }

    fn encoder(&self) -> &Encoder {
        &self.query
    }
}

#[cfg(test)]
mod tests;
