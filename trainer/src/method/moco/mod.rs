//! MoCo v2 (arXiv 1911.05722, 2003.04297) with saliency-guided masking (arXiv 2309.12757) or mixtures
//! (arXiv 2210.11456, 2003.05438).

mod keys;

use anyhow::{Result, bail, ensure};
use occlude_torch_ext::Autocast;
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor};

pub use keys::Keys;

use super::occluder::{Occluder, Side, View};
use super::{Method, Preview, Step, StepOutput, contrast, mean, show};
use crate::config::{self, Config, Mixing};
use crate::device::upload;
use crate::loss::{Negatives, logits, normalize};
use crate::mask::Purpose;
use crate::mix::{self, Mixed};
use crate::model::{Encoder, Head, Mode, Named, ema, find, load};
use crate::phase::{Phase, within};
use crate::rng::{Domain, permutation, stream};

/// MoCo v2: plain, with masking, or with mixtures.
pub struct Moco {
    settings: config::Moco,
    mixing: Option<Mixing>,
    seed: u64,
    bf16: bool,
    query: Encoder,
    key: Encoder,
    head_q: Head,
    head_k: Head,
    /// (key, query) tensors of the moving average, in one order.
    averaged: (Vec<Tensor>, Vec<Tensor>),
    keys: Keys,
    /// Keys of the batches since the last step, which enter the queue when no backward pass needs the old ones.
    fresh: Vec<Tensor>,
    occluder: Occluder,
}

/// Views of a picture.
const VIEWS: usize = 2;

/// Another order of a batch and the way back; none where a batch is normalised as a whole.
struct Order(Option<(Tensor, Tensor)>);

impl Order {
    fn new(order: &[i64], device: Device) -> Self {
        let mut back = vec![0; order.len()];
        for (at, &from) in (0i64..).zip(order) {
            back[from as usize] = at;
        }
        let index = |places: &[i64]| upload(&Tensor::from_slice(places), device);
        Self(Some((index(order), index(&back))))
    }

    fn there(&self, x: &Tensor) -> Tensor {
        self.0.as_ref().map_or_else(|| x.shallow_clone(), |(there, _)| x.index_select(0, there))
    }

    fn back(&self, x: &Tensor) -> Tensor {
        self.0.as_ref().map_or_else(|| x.shallow_clone(), |(_, back)| x.index_select(0, back))
    }
}

impl Moco {
    /// Fresh networks. `bf16`: convolutions and matrix products in bfloat16.
    ///
    /// # Errors
    /// Where the configuration is another method's, or names a localisation checkpoint that cannot be used.
    pub fn new(config: &Config, bf16: bool, device: Device) -> Result<Self> {
        let config::Method::Moco(settings) = &config.method else { bail!("the configuration is not MoCo's") };
        let arch = config.architecture()?;
        let occluder = Occluder::new(config, device)?;
        let query = Encoder::new(arch, config.seed, device);
        let head_q = Head::of(&settings.head, arch.feature_dim(), device);
        let (key, head_k) = (Encoder::frozen_copy(&query), Head::frozen_copy(&head_q));
        let tensors = |named: Vec<Named>| named.into_iter().map(|n| n.tensor);
        let pair = |e: &Encoder, h: &Head| {
            tensors(e.trainable_named("")).chain(tensors(h.trainable_named(""))).collect()
        };
        let averaged = (pair(&key, &head_k), pair(&query, &head_q));
        Ok(Self {
            keys: Keys::new(settings.head.dim, settings.queue, settings.queue_start, device),
            settings: settings.clone(),
            mixing: config.mixing.clone(),
            seed: config.seed,
            bf16,
            query,
            key,
            head_q,
            head_k,
            averaged,
            fresh: Vec::new(),
            occluder,
        })
    }

    fn splits(&self) -> i64 {
        self.settings.bn_splits as i64
    }

    fn rng(&self, domain: Domain, step: Step, of: usize) -> ChaCha8Rng {
        stream(self.seed, domain, step.number, of as u64)
    }

    /// The map that localises, where the momentum encoder does.
    fn own_map(&self) -> impl Fn(&Tensor) -> Tensor + '_ {
        |x| self.key.forward(x, Mode::Peek { splits: self.splits() }, self.occluder.tap()).tap()
    }

    /// An order of its own for the batch of every pass through the momentum encoder; `pass` counts them within a step.
    fn shuffle(&self, input: &Tensor, step: Step, pass: usize) -> Order {
        if self.splits() == 1 {
            return Order(None);
        }
        let n = input.size()[0] as usize;
        Order::new(&permutation(n, &mut self.rng(Domain::Shuffle, step, pass)), input.device())
    }

    /// Normalised projections of the momentum encoder for `view`, `(B, D)`, from a batch in another order, so that no
    /// group of the split normalisation holds the same pictures as the query's (shuffling BN).
    fn encode_key(&self, view: &mut View, step: Step, of: usize, preview: &mut Option<Preview>) -> Tensor {
        let masked = self.occluder.masks(Side::Key, step);
        let input = if masked {
            let rng = &mut self.rng(Domain::Mask, step, 2 + of);
            let x = self.occluder.hide(view, Purpose::Positive, self.own_map(), rng);
            show(preview, "masked key", &x);
            x
        } else {
            view.input.shallow_clone()
        };
        let _key = within(Phase::Key);
        let order = self.shuffle(&input, step, of);
        let mode = Mode::Train { splits: self.splits() };
        let out = self.key.forward(&order.there(&input), mode, self.occluder.tap());
        // the features of an unmasked key tell where its foreground is, for nothing
        if self.occluder.by_method() && !masked && view.foreground.is_none() {
            let map = out.taps.first().map(|map| order.back(map));
            view.foreground = map.and_then(|map| self.occluder.foreground(&map, view));
        }
        normalize(&order.back(&self.head_k.forward(&out.embedding, mode)))
    }

    /// Each key view's own hard negatives, `(B, n, D)`, normalised; encoded in another order, as keys are, or their
    /// group would tell them from keys.
    fn hard_negatives(
        &self,
        view: &mut View,
        step: Step,
        of: usize,
        preview: &mut Option<Preview>,
    ) -> Option<Tensor> {
        let n = self.occluder.nonsem();
        let rng = &mut self.rng(Domain::Mask, step, 4 + of);
        let mode = Mode::Peek { splits: self.splits() };
        let encoded: Vec<Tensor> = (0..n)
            .map(|i| {
                let x = self.occluder.hide(view, Purpose::HardNegative, self.own_map(), rng);
                show(preview, "hard negative", &x);
                let _key = within(Phase::Key);
                let order = self.shuffle(&x, step, VIEWS * (i + 1) + of);
                let embedding = self.key.forward(&order.there(&x), mode, &[]).embedding;
                normalize(&order.back(&self.head_k.forward(&embedding, mode)))
            })
            .collect();
        (n > 0).then(|| Tensor::stack(&encoded, 1))
    }

    /// What the query encoder sees of a view.
    fn query_input(&self, view: &mut View, step: Step, of: usize, preview: &mut Option<Preview>) -> Tensor {
        if !self.occluder.masks(Side::Query, step) {
            return view.input.shallow_clone();
        }
        let rng = &mut self.rng(Domain::Mask, step, of);
        let x = self.occluder.hide(view, Purpose::Positive, self.own_map(), rng);
        show(preview, "masked query", &x);
        x
    }

    /// Features and normalised projections of the query encoder, with their graph.
    fn encode_query(&self, input: &Tensor) -> (Tensor, Tensor) {
        let _query = within(Phase::Query);
        let mode = Mode::Train { splits: self.splits() };
        let _guard = Autocast::bf16(input.device(), self.bf16);
        let out = self.query.forward(input, mode, &[]);
        let q = self.head_q.forward(&out.embedding, mode);
        (out.embedding, normalize(&q))
    }

    /// The mixtures of a query view; none where the method does not mix.
    fn mixtures(&self, input: &Tensor, step: Step, of: usize, preview: &mut Option<Preview>) -> Vec<Mixed> {
        let Some(config) = &self.mixing else { return Vec::new() };
        let _mask = within(Phase::Mask);
        let rng = &mut self.rng(Domain::Mix, step, of);
        let mixed = tch::no_grad(|| mix::mixtures(input, config, rng));
        mixed.iter().for_each(|m| show(preview, "mixture", &m.images));
        mixed
    }

    /// A mixture belongs to both of its pictures, to each by its share (arXiv 2210.11456, equation 6).
    fn mixed_loss(&self, mixed: &Mixed, key: &Tensor, negatives: &Negatives<'_>) -> Tensor {
        let (_, q) = self.encode_query(&mixed.images);
        let _loss = within(Phase::Loss);
        let losses = |key: &Tensor| logits(&q, key, negatives, self.settings.temperature).losses();
        let other = losses(&key.index_select(0, &mixed.partner));
        let both: Tensor = losses(key) * &mixed.share + other * (1.0 - &mixed.share);
        both.mean(Kind::Float)
    }

    fn momentum(&self, epoch: f64) -> f64 {
        let m = &self.settings;
        if epoch >= m.momentum_warmup_epochs {
            return m.momentum;
        }
        let t = epoch / m.momentum_warmup_epochs;
        m.momentum_start + (m.momentum - m.momentum_start) * (1.0 - (std::f64::consts::PI * t).cos()) / 2.0
    }
}

impl Method for Moco {
    fn step(&mut self, views: &[Tensor; 2], step: Step) -> Result<StepOutput> {
        let device = self.query.device();
        let mut preview = step.preview.then(Preview::default);
        let mut views = tch::no_grad(|| views.each_ref().map(|v| self.occluder.view(v, step)));
        for (title, v) in ["view 1", "view 2"].into_iter().zip(&views) {
            show(&mut preview, title, &v.input);
        }
        // (query, key)
        let pairs: &[(usize, usize)] = if self.settings.symmetric { &[(0, 1), (1, 0)] } else { &[(0, 1)] };
        let mut hard = [None, None];
        let mut inputs = Vec::with_capacity(2);
        let mut keys = Vec::with_capacity(2);
        {
            let _guard = Autocast::bf16(device, self.bf16);
            tch::no_grad(|| {
                for &(_, k) in pairs {
                    keys.push(self.encode_key(&mut views[k], step, k, &mut preview));
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
        let (mut losses, mut metrics) = (vec![], vec![]);
        for (of, (&(_, k), (input, key))) in pairs.iter().zip(inputs.iter().zip(&keys)).enumerate() {
            let (embedding, q) = self.encode_query(input);
            let _loss = within(Phase::Loss);
            let negatives = Negatives {
                queue: queue.as_ref(),
                in_batch: self.settings.in_batch,
                hard: hard[k].as_ref().map(|h| (h, self.occluder.alpha())),
            };
            let l = logits(&q, key, &negatives, self.settings.temperature);
            let mut loss = l.loss();
            for mixed in mixtures[of].drain(..) {
                loss += self.mixed_loss(&mixed, key, &negatives);
            }
            losses.push(loss);
            if step.measure {
                let _metrics = within(Phase::Metrics);
                metrics.push(tch::no_grad(|| contrast(&l, &q, key, &embedding)));
            }
        }
        self.fresh.extend(keys);
        tch::no_grad(|| {
            let rng = &mut self.rng(Domain::Preview, step, 0);
            self.occluder.complete(&mut preview, &mut views, self.own_map(), rng);
        });
        let loss = match losses.as_slice() {
            [one] => one.shallow_clone(),
            several => Tensor::stack(several, 0).mean(Kind::Float),
        };
        Ok(StepOutput { loss, metrics: mean(metrics), preview })
    }

    fn after_step(&mut self, step: Step) -> Result<()> {
        {
            let _queue = within(Phase::Queue);
            for keys in self.fresh.drain(..) {
                self.keys.push(&keys);
            }
        }
        let _ema = within(Phase::Ema);
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
        self.query.load_batches(state, "encoder_q.")?;
        self.key.load_batches(state, "encoder_k.")?;
        let len = self.keys.columns.size()[1];
        let (next, filled) = (number("queue_ptr")?, number("queue_filled")?);
        ensure!(
            (0..len.max(1)).contains(&next) && (0..=len).contains(&filled),
            "`queue_ptr` {next} or `queue_filled` {filled} lies outside a queue of {len}"
        );
        (self.keys.next, self.keys.filled) = (next, filled);
        self.fresh.clear();
        Ok(())
    }

    fn encoder(&self) -> &Encoder {
        &self.query
    }
}

#[cfg(test)]
mod tests;
