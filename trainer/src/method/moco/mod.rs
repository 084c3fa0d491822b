//! MoCo v2 (arXiv 1911.05722, 2003.04297) with saliency-guided masking (arXiv 2309.12757) or mixtures
//! (arXiv 2210.11456, 2003.05438).

mod keys;
mod queues;

use anyhow::{Result, bail};
use occlude_distributed::World;
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
    world: World,
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
    fn of(projected: &Projected, order: &Order) -> Result<Self> {
        let ordered = |x: &Tensor| order.back(x).map(|x| normalize(&x));
        let aligned = projected.aligned.as_ref().map(|a| ordered(&a.vectors)).transpose()?;
        Ok(Self { global: ordered(&projected.global)?, aligned: aligned.map(|a| a.transpose(0, 1)) })
    }

    /// Those of all ranks.
    fn gather(&self, world: &World) -> Result<Self> {
        let aligned = self.aligned.as_ref().map(|a| world.gather(&a.transpose(0, 1), "aligned keys"));
        let aligned = aligned.transpose()?.map(|a| a.transpose(0, 1));
        Ok(Self { global: world.gather(&self.global, "keys")?, aligned })
    }
}

/// Another order of the batch of all ranks and the way back; none where a batch is normalised as a whole.
struct Order(Option<Places>);

/// Where each row of this rank comes from, there and back.
struct Places {
    there: Tensor,
    back: Tensor,
    world: World,
}

impl Order {
    fn new(order: &[i64], world: &World, device: Device) -> Self {
        let mut back = vec![0; order.len()];
        for (at, &from) in (0i64..).zip(order) {
            back[from as usize] = at;
        }
        let index = |places: &[i64]| world.own(&upload(&Tensor::from_slice(places), device));
        Self(Some(Places { there: index(order), back: index(&back), world: world.clone() }))
    }

    fn there(&self, x: &Tensor) -> Result<Tensor> {
        let Some(Places { there, world, .. }) = &self.0 else { return Ok(x.shallow_clone()) };
        Ok(world.gather(x, "shuffled views")?.index_select(0, there))
    }

    fn back(&self, x: &Tensor) -> Result<Tensor> {
        let Some(Places { back, world, .. }) = &self.0 else { return Ok(x.shallow_clone()) };
        Ok(world.gather(x, "shuffled keys")?.index_select(0, back))
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
            world: World::single(),
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
        let n = input.size()[0] as usize * self.world.size();
        let order = permutation(n, &mut self.rng(Domain::Shuffle, step, pass));
        Order::new(&order, &self.world, input.device())
    }

    /// Normalised projections of the momentum encoder for `view`, from a batch in another order, so that no
    /// group of the split normalisation holds the same pictures as the query's (shuffling BN).
    fn encode_key(
        &self,
        view: &mut View,
        step: Step,
        of: usize,
        preview: &mut Option<Preview>,
    ) -> Result<Vectors> {
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
            branch.project(&order.there(&input)?, self.key.mode(self.splits()), self.occluder.tap());
        // the features of an unmasked key tell where its foreground is, for nothing
        if self.occluder.by_method() && !masked && view.foreground.is_none() {
            let map = projected.output.taps.first().map(|map| order.back(map)).transpose()?;
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
    ) -> Result<Option<Tensor>> {
        let n = self.occluder.nonsem();
        let rng = &mut self.rng(Domain::Mask, step, 4 + of);
        let (branch, mode) = (self.key.branch(), self.key.peek(self.splits()));
        let encoded = (0..n)
            .map(|i| -> Result<Tensor> {
                let x = self.occluder.hide(view, Purpose::HardNegative, self.own_map(), rng);
                show(preview, "hard negative", &x);
                let _key = within(Phase::Key);
                let order = self.shuffle(&x, step, VIEWS * (i + 1) + of);
                let embedding = branch.encode(&order.there(&x)?, mode, &[]).embedding;
                Ok(normalize(&order.back(&branch.head(&embedding, mode))?))
            })
            .collect::<Result<Vec<_>>>()?;
        Ok((n > 0).then(|| Tensor::stack(&encoded, 1)))
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
    fn encode_query(&self, input: &Tensor) -> Result<(Projected, Vectors)> {
        let _query = within(Phase::Query);
        let mode = Mode::Train { splits: self.splits() };
        let _guard = Autocast::bf16(input.device(), self.bf16);
        let projected = self.query.project(input, mode, &[]);
        let vectors = Vectors::of(&projected, &Order(None))?;
        Ok((projected, vectors))
    }

    /// The mixtures of a query view; none where the method does not mix.
    fn mixtures(
        &self,
        input: &Tensor,
        step: Step,
        of: usize,
        preview: &mut Option<Preview>,
    ) -> Result<Vec<Mixed>> {
        let Some(config) = &self.mixing else { return Ok(Vec::new()) };
        let _mask = within(Phase::Mask);
        let rng = &mut self.rng(Domain::Mix, step, of);
        let mixed = tch::no_grad(|| mix::mixtures(input, config, &self.world, rng))?;
        mixed.iter().for_each(|m| show(preview, "mixture", &m.images));
        Ok(mixed)
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
    fn mixed_loss(&self, mixed: &Mixed, key: &Tensor, negatives: &Negatives<'_>) -> Result<Tensor> {
        let (_, Vectors { global: q, .. }) = self.encode_query(&mixed.images)?;
        let _loss = within(Phase::Loss);
        let losses = |key: &Tensor, negatives: &Negatives<'_>| {
            logits(&q, key, negatives, self.settings.temperature).losses()
        };
        // of the batch of all ranks
        let partners = self.world.gather(key, "keys of mixtures")?.index_select(0, &mixed.partner);
        let against = Negatives { all: negatives.all.map(|(_, first)| (&partners, first)), ..*negatives };
        let other = losses(&self.world.own(&partners), &against);
        let both: Tensor = losses(key, negatives) * &mixed.share + other * (1.0 - &mixed.share);
        Ok(both.mean(Kind::Float))
    }

    /// Of the batches of all ranks.
    fn health(&self, q: &Vectors, key: &Vectors, embedding: &Tensor) -> Result<Health> {
        let all = |x: &Tensor, what| self.world.gather(x, what);
        let (q, key) = (all(&q.global, "queries")?, all(&key.global, "keys")?);
        Ok(Health::of(&q, &key, &all(embedding, "features")?))
    }
}

impl Method for Moco {
    fn join(&mut self, world: &World) -> Result<()> {
        self.query.join(world);
        self.key.join(world);
        self.occluder.join(world)?;
        self.world = world.clone();
        Ok(())
    }

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
                    keys.push(self.encode_key(&mut views[k], step, k, &mut preview)?);
                }
                for &(q, k) in pairs {
                    inputs.push(self.query_input(&mut views[q], step, q, &mut preview));
                    hard[k] = self.hard_negatives(&mut views[k], step, k, &mut preview)?;
                }
                Ok::<(), anyhow::Error>(())
            })?;
        }
        let mut mixtures: Vec<Vec<Mixed>> = (0..)
            .zip(&inputs)
            .map(|(of, x)| self.mixtures(x, step, of, &mut preview))
            .collect::<Result<_>>()?;
        let queues = self.queues.get();
        let (mut losses, mut health, mut metrics) = (vec![], vec![], vec![]);
        for (of, (&(_, k), (input, key))) in pairs.iter().zip(inputs.iter().zip(&keys)).enumerate() {
            let (projected, q) = self.encode_query(input)?;
            let _loss = within(Phase::Loss);
            let all = (self.settings.in_batch && !self.world.is_single()).then(|| key.gather(&self.world));
            let all = all.transpose()?;
            let first = self.world.rank() as i64 * key.global.size()[0];
            let keys_of = |of: usize| all.as_ref().and_then(|a| [Some(&a.global), a.aligned.as_ref()][of]);
            let negatives = |of: usize| Negatives {
                queue: queues[of].as_ref(),
                in_batch: self.settings.in_batch,
                all: keys_of(of).map(|keys| (keys, first)),
                hard: hard[k].as_ref().filter(|_| of == 0).map(|h| (h, self.occluder.alpha())),
            };
            let (l, mut loss) = self.contrasted(&q, key, &[negatives(0), negatives(1)]);
            for mixed in mixtures[of].drain(..) {
                loss += self.mixed_loss(&mixed, &key.global, &negatives(0))?;
            }
            losses.push(loss);
            show_maps(&mut preview, of, &projected);
            if step.measure {
                let _metrics = within(Phase::Metrics);
                tch::no_grad(|| {
                    health.push(self.health(&q, key, &projected.output.embedding)?);
                    metrics.push(vec![("acc1", l.accuracy())]);
                    Ok::<(), anyhow::Error>(())
                })?;
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
                self.queues.push(&keys.gather(&self.world)?);
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
