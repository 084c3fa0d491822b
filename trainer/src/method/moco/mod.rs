//! MoCo v2 (arXiv 1911.05722, 2003.04297) with saliency-guided masking (arXiv 2309.12757) or mixtures
//! (arXiv 2210.11456, 2003.05438).

mod keys;
mod queues;

use anyhow::{Result, bail};
use occlude_torch_ext::Autocast;
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor};

pub use keys::Keys;
use queues::Queues;

use super::occluder::{Occluder, Side};
use super::view::View;
use super::{Health, Method, Preview, Step, StepOutput, Views, mean, show, show_maps};
use crate::config::{self, Config, Mixing};
use crate::device::upload;
use crate::loss::{Logits, Negatives, logits, normalize};
use crate::mask::Purpose;
use crate::mix::{self, Mixed};
use crate::model::{Branch, Follower, Mode, Named, Projected, load_branches};
use crate::phase::{Phase, within};
use crate::rng::{Domain, permutation, stream};

/// MoCo v2: plain, with masking, or with mixtures.
pub struct Moco {
    settings: config::Moco,
    mixing: Option<Mixing>,
    seed: u64,
    bf16: bool,
    query: Branch,
    key: Follower,
    queues: Queues,
    /// Keys of the batches since the last step, which enter the queue when no backward pass needs the old ones.
    fresh: Vec<Vectors>,
    occluder: Occluder,
}

/// Views of a picture.
const VIEWS: usize = 2;

/// Normalised projections of a batch.
struct Vectors {
    /// `(B, D)`.
    global: Tensor,
    /// `(n, B, D)`, where the method aligns: what is compared is of one place of the list.
    aligned: Option<Tensor>,
}

impl Vectors {
    /// Of a batch that was encoded in another order.
    fn of(projected: &Projected, order: &Order) -> Self {
        let ordered = |x: &Tensor| normalize(&order.back(x));
        let aligned = projected.aligned.as_ref().map(|a| ordered(&a.vectors).transpose(0, 1));
        Self { global: ordered(&projected.global), aligned }
    }
}

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
        let query = Branch::new(arch, config.seed, (&settings.head, settings.align.as_ref()), device)?;
        let key = Follower::new(&query, settings.follow(), false);
        Ok(Self {
            queues: Queues::new(settings, device),
            settings: settings.clone(),
            mixing: config.mixing.clone(),
            seed: config.seed,
            bf16,
            query,
            key,
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
        |x| self.key.branch().encode(x, self.key.peek(self.splits()), self.occluder.tap()).tap()
    }

    /// An order of its own for the batch of every pass through the momentum encoder; `pass` counts them within a step.
    fn shuffle(&self, input: &Tensor, step: Step, pass: usize) -> Order {
        if self.splits() == 1 {
            return Order(None);
        }
        let n = input.size()[0] as usize;
        Order::new(&permutation(n, &mut self.rng(Domain::Shuffle, step, pass)), input.device())
    }

    /// Normalised projections of the momentum encoder for `view`, from a batch in another order, so that no
    /// group of the split normalisation holds the same pictures as the query's (shuffling BN).
    fn encode_key(&self, view: &mut View, step: Step, of: usize, preview: &mut Option<Preview>) -> Vectors {
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
        let branch = self.key.branch();
        let projected =
            branch.project(&order.there(&input), self.key.mode(self.splits()), self.occluder.tap());
        // the features of an unmasked key tell where its foreground is, for nothing
        if self.occluder.by_method() && !masked && view.foreground.is_none() {
            let map = projected.output.taps.first().map(|map| order.back(map));
            view.foreground = map.and_then(|map| self.occluder.foreground(&map, view));
        }
        Vectors::of(&projected, &order)
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
        let (branch, mode) = (self.key.branch(), self.key.peek(self.splits()));
        let encoded: Vec<Tensor> = (0..n)
            .map(|i| {
                let x = self.occluder.hide(view, Purpose::HardNegative, self.own_map(), rng);
                show(preview, "hard negative", &x);
                let _key = within(Phase::Key);
                let order = self.shuffle(&x, step, VIEWS * (i + 1) + of);
                let embedding = branch.encode(&order.there(&x), mode, &[]).embedding;
                normalize(&order.back(&branch.head(&embedding, mode)))
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
    fn encode_query(&self, input: &Tensor) -> (Projected, Vectors) {
        let _query = within(Phase::Query);
        let mode = Mode::Train { splits: self.splits() };
        let _guard = Autocast::bf16(input.device(), self.bf16);
        let projected = self.query.project(input, mode, &[]);
        let vectors = Vectors::of(&projected, &Order(None));
        (projected, vectors)
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

    /// The logits of global embeddings, and the loss of all of them.
    fn contrasted(
        &self,
        q: &Vectors,
        k: &Vectors,
        [queue, aligned]: &[Negatives<'_>; 2],
    ) -> (Logits, Tensor) {
        let l = logits(&q.global, &k.global, queue, self.settings.temperature);
        let loss = l.loss();
        let (Some(align), Some(q), Some(k)) = (&self.settings.align, &q.aligned, &k.aligned) else {
            return (l, loss);
        };
        let parts = logits(q, k, aligned, self.settings.temperature).loss();
        let loss = loss * align.weight + parts * (1.0 - align.weight);
        (l, loss)
    }

    /// A mixture belongs to both of its pictures, to each by its share (arXiv 2210.11456, equation 6).
    fn mixed_loss(&self, mixed: &Mixed, key: &Tensor, negatives: &Negatives<'_>) -> Tensor {
        let (_, Vectors { global: q, .. }) = self.encode_query(&mixed.images);
        let _loss = within(Phase::Loss);
        let losses = |key: &Tensor| logits(&q, key, negatives, self.settings.temperature).losses();
        let other = losses(&key.index_select(0, &mixed.partner));
        let both: Tensor = losses(key) * &mixed.share + other * (1.0 - &mixed.share);
        both.mean(Kind::Float)
    }
}

impl Method for Moco {
    fn step(&mut self, views: &Views, step: Step) -> Result<StepOutput> {
        let device = self.query.encoder().device();
        let mut preview = step.preview.then(Preview::default);
        let pair = views.pair()?;
        let mut views = tch::no_grad(|| pair.map(|v| self.occluder.view(v, step)));
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
        let queues = self.queues.get();
        let (mut losses, mut health, mut metrics) = (vec![], vec![], vec![]);
        for (of, (&(_, k), (input, key))) in pairs.iter().zip(inputs.iter().zip(&keys)).enumerate() {
            let (projected, q) = self.encode_query(input);
            let _loss = within(Phase::Loss);
            let negatives = |of: usize| Negatives {
                queue: queues[of].as_ref(),
                in_batch: self.settings.in_batch,
                hard: hard[k].as_ref().filter(|_| of == 0).map(|h| (h, self.occluder.alpha())),
            };
            let (l, mut loss) = self.contrasted(&q, key, &[negatives(0), negatives(1)]);
            for mixed in mixtures[of].drain(..) {
                loss += self.mixed_loss(&mixed, &key.global, &negatives(0));
            }
            losses.push(loss);
            show_maps(&mut preview, of, &projected);
            if step.measure {
                let _metrics = within(Phase::Metrics);
                tch::no_grad(|| {
                    health.push(Health::of(&q.global, &key.global, &projected.output.embedding));
                    metrics.push(vec![("acc1", l.accuracy())]);
                });
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
        Ok(StepOutput { loss, health: Health::mean(health), metrics: mean(metrics), preview })
    }

    fn after_step(&mut self, step: Step) -> Result<()> {
        {
            let _queue = within(Phase::Queue);
            for keys in self.fresh.drain(..) {
                self.queues.push(&keys);
            }
        }
        let _ema = within(Phase::Ema);
        self.key.follow(&self.query, step.epoch)
    }

    fn trainable(&self) -> Vec<Named> {
        self.query.trainable()
    }

    fn state(&self) -> Vec<Named> {
        let mut all = self.query.named();
        all.extend(self.key.branch().named());
        all.extend(self.queues.state());
        all
    }

    fn load_state(&mut self, state: &[Named]) -> Result<()> {
        load_branches(&self.state(), &[&self.query, self.key.branch()], state)?;
        self.queues.resume(state)?;
        self.fresh.clear();
        Ok(())
    }

    fn branch(&self) -> &Branch {
        &self.query
    }
}

#[cfg(test)]
mod tests;
