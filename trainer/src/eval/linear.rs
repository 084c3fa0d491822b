//! Linear evaluation: a classifier on the features of a frozen encoder (arXiv 1911.05722, section 4.1).

use anyhow::{Result, ensure};
use occlude_distributed::World;
use tch::Tensor;

use super::begin::{Begun, Machine, Outcome, Subject, load};
use super::classifier::{Body, Classifier, Learner};
use super::features::{Extractor, FeatureSet};
use super::folder::{self, Folder};
use super::pictures::PerPicture;
use super::protocol::{Lr, Protocol};
use super::report::{Question, Report, changed};
use super::score::Scores;
use super::search::{Features, Search, search};
use super::source::{Fresh, Source};
use super::split::Splits;
use super::training::{End, Plan, train};
use crate::model::Encoder;
use crate::ranks;
use crate::signals::Interrupt;

/// What a classifier is trained on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Views {
    /// Crops and mirror images drawn anew every epoch, through the frozen encoder: the published way
    Fresh,
    /// Features of the contract's crop and of its mirror image, computed once: minutes instead of hours on a CPU
    Cached,
}

impl Views {
    /// The name as flags have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Cached => "cached",
        }
    }
}

/// What a classifier is trained and judged by.
struct Prepared {
    val: FeatureSet,
    val_labels: Vec<i64>,
    /// Of the training pictures, where they are wanted.
    features: Option<Features>,
    search: Option<Search>,
    lr: f64,
    /// Whether a step on features is small.
    small: bool,
    /// Whether the classifier is trained on them.
    cached: bool,
}

impl Prepared {
    fn new(
        extractor: &Extractor<'_>,
        (splits, views): (&Splits, Views),
        protocol: &Protocol,
        (machine, folder): (&Machine, Option<&Folder>),
    ) -> Result<Self> {
        let workers = machine.reading.workers;
        let val = extractor.run_together(&splits.val.data, &splits.val.which, workers, &machine.world)?;
        let val_labels = Vec::<i64>::try_from(&val.labels)?;
        let small = protocol.batch_size as i64 * val.features.size()[1] * splits.classes() < SHARED_STEP;
        let wants_features = views == Views::Cached || matches!(protocol.lr, Lr::Auto(_));
        let features = wants_features.then(|| features(extractor, splits, machine)).transpose()?;
        let search = match (protocol.lr, &features) {
            (Lr::Auto(_), Some(features)) => {
                Some(unshared(small, || searched(folder, features, splits, protocol, machine))?)
            }
            _ => None,
        };
        let lr = match (protocol.lr, &search) {
            (Lr::Value(lr), _) => lr,
            (Lr::Auto(_), found) => found.as_ref().map_or(f64::NAN, |f| f.chosen),
        };
        Ok(Self { val, val_labels, features, search, lr, small, cached: views == Views::Cached })
    }
}

/// Trains a classifier on the frozen encoder, proves that the encoder did not change, and tells the accuracy after the
/// last epoch. Ranks encode together. The one that answers trains, on the features of all: what it finds is what one process
/// finds.
///
/// # Errors
/// Where pictures cannot be read, training diverges, the encoder changed, or a file cannot be written.
pub fn linear(
    subject: &Subject<'_>,
    splits: &Splits,
    views: Views,
    protocol: &Protocol,
    machine: &Machine,
) -> Result<Outcome> {
    let question = Question {
        task: "linear".into(),
        fingerprint: subject.weights.fingerprint(&subject.contract.to_json()),
        data: splits.identity()?,
        views: views.name().into(),
        precision: "fp32".into(),
        protocol: protocol.clone(),
    };
    let folder = match machine.begin(&question)? {
        Begun::Done(outcome) => return Ok(outcome),
        Begun::Folder(folder) => folder,
    };
    let interrupt = Interrupt::register()?;
    let encoder = load(subject, machine.device)?;
    let extractor = Extractor::Encoder(&encoder, subject.contract);
    let ready = Prepared::new(&extractor, (splits, views), protocol, (machine, folder.as_ref()))?;
    if views == Views::Cached && !machine.world.is_main() {
        return Ok(Outcome::Elsewhere);
    }
    let plan = Plan {
        protocol,
        folder: folder.as_ref(),
        interrupt: Some(&interrupt),
        stop_after: machine.stop_after,
        verbose: true,
        // on cached features the others have ended
        world: if views == Views::Cached { &World::single() } else { &machine.world },
    };
    let (learner, train_loss) = match trained(&ready, (subject, &encoder), splits, (&plan, machine))? {
        (learner, End::Finished(loss)) => (learner, loss),
        (_, End::Interrupted(signal)) => return Ok(Outcome::Interrupted(signal)),
    };
    if !machine.world.is_main() {
        return Ok(Outcome::Elsewhere);
    }
    prove_unchanged(&encoder, subject)?;
    let ranks = learner.classifier().ranks(&ready.val.features, &ready.val_labels);
    let mut per_picture = PerPicture::new(&splits.val, &ready.val.samples);
    per_picture.add("checkpoint", None, &ranks);
    let report = Report {
        checkpoint: subject.name.clone(),
        question,
        lr_used: ready.lr,
        train_loss,
        unreadable: splits.val.len() - ready.val_labels.len(),
        scores: Scores::new(&ranks, &ready.val_labels),
        lr_search: ready.search,
        backbone_unchanged: Some(true),
        model: None,
        per_picture: Some(per_picture),
    };
    if let Some(folder) = &folder {
        learner.classifier().save(&folder.file(folder::FC))?;
        folder.finish(&report)?;
    }
    Ok(Outcome::Answer(Box::new(report)))
}

/// The classifier after training, and how that ended.
fn trained<'a>(
    ready: &Prepared,
    (subject, encoder): (&Subject<'_>, &'a Encoder),
    splits: &Splits,
    (plan, machine): (&Plan<'_>, &Machine),
) -> Result<(Learner<'a>, End)> {
    let Plan { protocol, world, .. } = *plan;
    let dim = ready.val.features.size()[1];
    // features for a search of the learning rate are there with fresh views, too
    let cached = ready.features.as_ref().filter(|_| ready.cached);
    let (source, body): (Box<dyn Source>, _) = match cached {
        Some(features) => (Box::new(features.source(protocol, machine.device)), Body::Done),
        None => {
            let contract = subject.contract;
            let fresh = Fresh::new(&splits.train, contract, protocol, machine.reading, machine.device);
            let fresh = match plan.interrupt.filter(|_| world.is_single()) {
                Some(interrupt) => fresh.heeding(interrupt.flag()),
                None => fresh,
            };
            let fresh = ranks::agreed(world, fresh.shared(world), "the batches")?;
            (Box::new(fresh), Body::Frozen(encoder))
        }
    };
    let fc = Classifier::new(dim, splits.classes(), protocol.seed, machine.device);
    let mut learner = Learner::new(body, fc, protocol, ready.lr).joined(world)?;
    let validate =
        |fc: &Classifier| world.is_main().then(|| fc.scores(&ready.val.features, &ready.val_labels).top1);
    let alone = ready.small && ready.cached;
    let end = unshared(alone, || train(&mut learner, source.as_ref(), plan, validate))?;
    Ok((learner, end))
}

/// Multiplications of a step on cached features below which threads wait for each other longer than they work.
const SHARED_STEP: i64 = 1 << 28;

/// Runs `f` on one thread where a step of it is small; a busy machine is then many times faster. Where a step is
/// large, the number of threads is left alone.
fn unshared<T>(small: bool, f: impl FnOnce() -> T) -> T {
    let threads = tch::get_num_threads();
    if small {
        tch::set_num_threads(1);
    }
    let out = f();
    tch::set_num_threads(threads);
    out
}

/// # Errors
/// With the names of what changed.
fn prove_unchanged(encoder: &Encoder, subject: &Subject<'_>) -> Result<()> {
    let changed = changed(encoder, subject.weights);
    ensure!(
        changed.is_empty(),
        "the encoder changed during linear evaluation, so the result is meaningless: {} of its tensors differ from `{}`, first `{}`",
        changed.len(),
        subject.name,
        changed[0]
    );
    Ok(())
}

fn features(extractor: &Extractor<'_>, splits: &Splits, machine: &Machine) -> Result<Features> {
    tell!("features of {} training pictures and their mirror images", splits.train.len());
    let (data, which) = (&splits.train.data, &splits.train.which);
    let (set, mirrored) = extractor.run_mirrored(data, which, machine.reading.workers, &machine.world)?;
    Ok(Features { plain: set.features, mirrored, labels: Vec::try_from(&set.labels)? })
}

/// The search of an earlier call, which the process that writes knows of, or a new one.
fn searched(
    folder: Option<&Folder>,
    features: &Features,
    splits: &Splits,
    protocol: &Protocol,
    machine: &Machine,
) -> Result<Search> {
    const FILE: &str = "search.json";
    let world = &machine.world;
    let known = folder.map(|f| f.read::<Search>(FILE)).transpose();
    let known = ranks::agreed(world, known, "the search of an earlier call")?.flatten();
    let chosen = known.as_ref().map_or(-1.0, |found| found.chosen);
    let chosen = world.gather(&Tensor::from_slice(&[chosen]), "the learning rate of an earlier call")?;
    let chosen = chosen.double_value(&[0]);
    if chosen > 0.0 {
        let elsewhere = Search { views: "cached".into(), held_out: 0, grid: Vec::new(), chosen };
        return Ok(known.unwrap_or(elsewhere));
    }
    let found = search(features, splits.classes(), protocol, (machine.device, world));
    let found = ranks::agreed(world, found, "the search for a learning rate")?;
    if let Some(folder) = folder {
        folder.write(FILE, &found)?;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::protocol::{LinearPreset, Overrides};
    use crate::eval::source::{Cached, Examples};
    use occlude_checkpoint::{EncoderData, EncoderTensor, LoadReport};
    use occlude_encoder::Arch;
    use occlude_encoder::layout::{Layout, Naming};
    use occlude_preprocess::Preprocess;
    use tch::{Device, Kind};

    fn protocol(epochs: usize, batch_size: usize) -> Protocol {
        let flags = Overrides { epochs: Some(epochs), batch_size: Some(batch_size), ..Overrides::default() };
        LinearPreset::Moco.resolve(&flags).expect("valid")
    }

    /// `n` points around one of five far corners.
    fn separable(n: i64) -> (Tensor, Vec<i64>) {
        let labels: Vec<i64> = (0..n).map(|i| i % 5).collect();
        let corner = Tensor::eye(5, (Kind::Float, Device::Cpu)).index_select(0, &Tensor::from_slice(&labels));
        (corner + Tensor::randn([n, 5], (Kind::Float, Device::Cpu)) * 0.05, labels)
    }

    fn plan<'a>(
        (protocol, world): (&'a Protocol, &'a World),
        folder: Option<&'a Folder>,
        stop_after: Option<u64>,
    ) -> Plan<'a> {
        Plan { protocol, folder, interrupt: None, stop_after, verbose: false, world }
    }

    #[test]
    fn separable_features_are_classified_perfectly() {
        let _alone = crate::rng::alone();
        tch::manual_seed(1);
        let ((train_x, labels), (val_x, val_labels)) = (separable(200), separable(50));
        let protocol = protocol(20, 32);
        let source = Cached::new(&train_x, &train_x, &Tensor::from_slice(&labels), &protocol, Device::Cpu);
        let fc = Classifier::new(5, 5, 0, Device::Cpu);
        let before = fc.scores(&val_x, &val_labels).top1;
        let mut learner = Learner::new(Body::Done, fc, &protocol, 1.0);
        let end = train(&mut learner, &source, &plan((&protocol, &World::single()), None, None), |_| None)
            .expect("trained");
        let scores = learner.classifier().scores(&val_x, &val_labels);
        assert_eq!((scores.top1, scores.mean_per_class), (1.0, 1.0));
        assert!(before < 1.0 && matches!(end, End::Finished(loss) if loss < 0.1), "{before}, {end:?}");
    }

    /// Softmax regression by hand: dL/dW = (p - y) x / B, v = 0.9 v + g + d W, W = W - lr v.
    #[test]
    fn steps_equal_the_formulas() {
        let _alone = crate::rng::alone();
        tch::manual_seed(2);
        let (x, labels) = separable(16);
        let protocol = Protocol { weight_decay: 0.01, ..protocol(3, 16) };
        let fc = Classifier::new(5, 5, 4, Device::Cpu);
        let [w0, b0] = [0, 1].map(|i| fc.named()[i].tensor.detach().copy());
        assert!(
            (w0.std(true).double_value(&[]) - 0.01).abs() < 0.005 && b0.abs().max().double_value(&[]) == 0.0
        );
        let mut learner = Learner::new(Body::Done, fc, &protocol, 0.5);
        let (mut w, mut b) = (w0.to_kind(Kind::Double), b0.to_kind(Kind::Double));
        let (mut vw, mut vb) = (w.zeros_like(), b.zeros_like());
        let labels = Tensor::from_slice(&labels);
        let (xd, y) = (x.to_kind(Kind::Double), labels.onehot(5).to_kind(Kind::Double));
        for factor in [1.0, 1.0, 0.1, 0.1] {
            let examples = Examples { x: x.shallow_clone(), labels: labels.shallow_clone(), total: 16 };
            let loss = learner.step(&examples, factor).expect("a step").double_value(&[]);
            let p = (xd.matmul(&w.transpose(0, 1)) + &b).softmax(1, Kind::Double);
            let expected =
                -((&p * &y).sum_dim_intlist([1i64].as_slice(), false, Kind::Double).log()).mean(Kind::Double);
            assert!((loss - expected.double_value(&[])).abs() < 1e-5);
            let error = (p - &y) / 16.0;
            vw = vw * 0.9 + error.transpose(0, 1).matmul(&xd) + &w * 0.01;
            vb = vb * 0.9 + error.sum_dim_intlist([0i64].as_slice(), false, Kind::Double) + &b * 0.01;
            w -= &vw * (0.5 * factor);
            b -= &vb * (0.5 * factor);
        }
        for (ours, theirs) in learner.classifier().named().iter().zip([w, b]) {
            let distance = (ours.tensor.to_kind(Kind::Double) - theirs).abs().max().double_value(&[]);
            assert!(distance < 1e-5, "{}: {distance}", ours.name);
        }
    }

    /// Stopped inside an epoch, at its end, and killed after a save.
    #[test]
    fn a_resumed_training_ends_with_the_same_bits() {
        let _alone = crate::rng::alone();
        tch::manual_seed(3);
        let (x, labels) = separable(50);
        let protocol = protocol(5, 16);
        let source = Cached::new(&x, &(&x * 0.9), &Tensor::from_slice(&labels), &protocol, Device::Cpu);
        let run = |folder: Option<&Folder>, stop_after| {
            let fc = Classifier::new(5, 5, 0, Device::Cpu);
            let mut learner = Learner::new(Body::Done, fc, &protocol, 1.0);
            let end = train(
                &mut learner,
                &source,
                &plan((&protocol, &World::single()), folder, stop_after),
                |_| Some(0.5),
            );
            (end.expect("trained"), learner.state())
        };
        let (whole, expected) = run(None, None);
        for stops in [vec![6], vec![8], vec![1, 2, 3, 4, 5, 11]] {
            let dir = tempfile::tempdir().expect("a folder");
            let folder = Folder::open(dir.path(), &serde_json::json!({"task": "linear"})).expect("new");
            for &stop in &stops {
                assert_eq!(run(Some(&folder), Some(stop)).0, End::Interrupted(0));
            }
            let (end, found) = run(Some(&folder), None);
            assert_eq!(end, whole);
            for (a, b) in expected.iter().zip(&found) {
                assert_eq!((&a.name, &a.tensor), (&b.name, &b.tensor), "after {stops:?}");
            }
            assert_eq!(folder.load().expect("read").expect("saved").1.history.len(), 5);
        }
    }

    /// What a checkpoint with these weights would be.
    fn saved(encoder: &Encoder) -> occlude_checkpoint::Encoder<'static> {
        let tensors = encoder.named("").into_iter().map(|n| {
            let shape: Vec<usize> = n.tensor.size().into_iter().map(|d| d as usize).collect();
            let data = if n.name.ends_with("num_batches_tracked") {
                EncoderData::I64(n.tensor.int64_value(&[]))
            } else {
                EncoderData::F32(
                    Vec::try_from(n.tensor.detach().contiguous().flatten(0, -1)).expect("floats"),
                )
            };
            (n.name, EncoderTensor { shape, data })
        });
        occlude_checkpoint::Encoder {
            arch: encoder.arch(),
            layout: Layout { prefix: String::new(), naming: Naming::Torchvision },
            tensors: tensors.collect(),
            whitening: None,
            report: LoadReport::default(),
        }
    }

    #[test]
    fn a_changed_backbone_is_found_in_every_kind_of_tensor() {
        let _alone = crate::rng::alone();
        let encoder = Encoder::new(Arch::ResNet18, 0, Device::Cpu);
        let weights = saved(&encoder);
        let contract = Preprocess::imagenet(32);
        let subject = Subject { name: "x".into(), weights: &weights, contract: &contract };
        assert!(prove_unchanged(&encoder, &subject).is_ok());
        let x = Tensor::randn([2, 3, 32, 32], (Kind::Float, Device::Cpu));
        let _ = Body::Frozen(&encoder).features(&x);
        assert!(changed(&encoder, &weights).is_empty(), "a frozen body changes nothing");
        for name in ["layer3.1.conv2.weight", "layer2.0.bn1.running_var", "bn1.bias"] {
            let all = encoder.named("");
            let tensor = crate::model::find(&all, name).expect("there").detach();
            let mut first = (0..tensor.dim()).fold(tensor, |t, _| t.get(0));
            let old = first.copy();
            // the smallest change there is
            let next = f32::from_bits((old.double_value(&[]) as f32).to_bits() + 1);
            let _ = tch::no_grad(|| first.fill_(f64::from(next)));
            assert_eq!(changed(&encoder, &weights), [name]);
            let message = prove_unchanged(&encoder, &subject).expect_err("found").to_string();
            assert!(message.contains(name), "{message}");
            tch::no_grad(|| first.copy_(&old));
        }
        // what training does to it: statistics and the counter
        let _ = tch::no_grad(|| Body::Trained(&encoder, false).features(&x));
        let all = changed(&encoder, &weights);
        assert!(
            all.iter().any(|n| n.ends_with("running_mean"))
                && all.iter().any(|n| n == "bn1.num_batches_tracked")
        );
        assert!(!all.iter().any(|n| n.ends_with("weight")));
    }
}
