//! Finding an encoder in a state dict and holding it against an architecture.

use std::cmp::Reverse;
use std::collections::HashSet;

use occlude_encoder::layout::{self, Layout, LayoutError, Naming};
use occlude_encoder::{Arch, Graph, Param, ParamKind, Stem, Vit};

use crate::checkpoint::Checkpoint;
use crate::error::Error;
use crate::flatten::BESIDE;
use crate::index::Skipped;
use crate::meta;
use crate::present::{Found, Present, present};
use crate::report::{LoadReport, MisShaped};
use crate::settings::{self, VitSettings};
use crate::tensor::Tensor;
use crate::variant::{variant, vit_variant};

/// What to load, where the checkpoint leaves it open.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// The architecture; default: as the metadata says, else guessed from names and shapes.
    pub arch: Option<Arch>,
    /// What the encoder's keys begin with; default: as the metadata says, else as [`layout::detect`] finds.
    pub prefix: Option<String>,
    /// Accept missing and mis-shaped parameters as long as one matches; default: an error.
    pub partial: bool,
}

/// An encoder found in a checkpoint: which tensor is which parameter. No weight has been read.
#[derive(Clone, Debug)]
pub struct EncoderMatch {
    /// The architecture.
    pub arch: Arch,
    /// Prefix and naming.
    pub layout: Layout,
    /// (parameter, keys in the file) for all that matched, in torchvision's order. Several keys are one parameter, one
    /// below the other: queries, keys and values.
    pub found: Vec<(Param, Vec<String>)>,
    /// The rest.
    pub report: LoadReport,
}

/// Finds the encoder of a checkpoint and holds it against its architecture, without reading weights.
///
/// # Errors
/// [`Error::Layout`] where no or several encoders are found, [`Error::Setting`] where a configuration beside the file
/// tells of another network, [`Error::Arch`] for metadata that names
/// an unknown architecture, [`Error::Strict`] where parameters are missing or mis-shaped or the file
/// has more of a body than the architecture (with `partial`: where nothing matches).
pub fn match_encoder(checkpoint: &Checkpoint, options: &LoadOptions) -> Result<EncoderMatch, Error> {
    let path = || checkpoint.path().to_owned();
    let keys = Keys::of(checkpoint, options.prefix.as_deref());
    let layout = find_layout(&keys, options.prefix.as_deref().or(stated(checkpoint, &keys)))
        .map_err(|reason| Error::Layout { path: path(), reason })?;
    let settings = settings::check(checkpoint, &layout)?;
    let present = present(checkpoint.tensors().filter(|t| keys.takes(t.name)), &layout);
    let arch = match (options.arch, checkpoint.metadata().get(meta::ARCH)) {
        (Some(arch), _) => arch,
        (None, Some(name)) => name.parse().map_err(|reason| Error::Arch { path: path(), reason })?,
        (None, None) => guess(&present, &layout, settings),
    };
    let small = arch.resnet().is_some_and(|row| row.stem == Stem::Small);
    if layout.naming == Naming::Unpooled && !small {
        let reason = LayoutError::NoPooling { prefix: layout.prefix };
        return Err(Error::Layout { path: path(), reason });
    }
    let (found, mut report) = compare(arch, &present);
    let own = checkpoint.metadata().contains_key(meta::ARCH);
    report.assumed = (small && layout.naming != Naming::Unpooled && !own).then(|| {
        "a stem of stride 1 without pooling, as for small pictures, which the file does not specify"
            .to_owned()
    });
    (report.surplus, report.unused) = left_over(keys.read(), &layout, arch, &found);
    report.skipped = skipped(checkpoint, &layout, &report.missing);
    if !(report.is_complete() || options.partial) || report.matched == 0 {
        let mut report = Box::new(report);
        let left_over = [report.surplus.as_slice(), &report.unused].concat();
        report.variant = match layout.naming.is_vit() {
            true => vit_variant(&present, &left_over),
            false => variant(&present, &left_over),
        };
        return Err(Error::Strict { path: path(), arch, prefix: layout.prefix, report });
    }
    Ok(EncoderMatch { arch, layout, found, report })
}

/// The prefix that the file itself says, where an encoder is there: whoever copies metadata may have renamed tensors.
fn stated<'c>(checkpoint: &'c Checkpoint, keys: &Keys<'c>) -> Option<&'c str> {
    let prefix = checkpoint.metadata().get(meta::ENCODER)?;
    layout::candidates(keys.all()).iter().any(|l| l.prefix == *prefix).then_some(prefix)
}

/// The names that may be a model's.
struct Keys<'c> {
    checkpoint: &'c Checkpoint,
    /// Also those of what usually is no model: it was asked for, or nothing else holds an encoder.
    everything: bool,
}

impl<'c> Keys<'c> {
    fn of(checkpoint: &'c Checkpoint, prefix: Option<&str>) -> Self {
        let usual = Self { checkpoint, everything: false };
        let asked = prefix.is_some_and(|prefix| is_training_state(&format!("{prefix}.")));
        let everything = asked || layout::candidates(usual.all()).is_empty();
        Self { everything, ..usual }
    }

    fn takes(&self, name: &str) -> bool {
        self.everything || !is_training_state(name)
    }

    /// Of tensors that can be read.
    fn read(&self) -> impl Iterator<Item = &'c str> {
        self.checkpoint.names().filter(|name| self.takes(name))
    }

    /// Of the others as well: an encoder of which a tensor cannot be read is one nevertheless.
    fn all(&self) -> impl Iterator<Item = &'c str> {
        let skipped = self.checkpoint.skipped().iter().map(|s| s.name.as_str());
        self.read().chain(skipped.filter(|name| self.takes(name)))
    }
}

/// Parameters that are missing because the file's tensor is not read here: (torchvision's name, why).
fn skipped(checkpoint: &Checkpoint, layout: &Layout, missing: &[String]) -> Vec<(String, String)> {
    let missing: HashSet<&str> = missing.iter().map(String::as_str).collect();
    let of = |s: &Skipped| {
        let name = layout.to_torchvision(&s.name)?;
        missing.contains(name.as_str()).then(|| (name, s.reason.clone()))
    };
    checkpoint.skipped().iter().filter_map(of).collect()
}

/// The encoder that is meant. Repositories that keep one module under two names (`backbone` and
/// `encoder_q.0`) save its tensors once, and then there is nothing to choose.
fn find_layout(keys: &Keys<'_>, prefix: Option<&str>) -> Result<Layout, LayoutError> {
    let checkpoint = keys.checkpoint;
    let ambiguous = match layout::detect(keys.all(), prefix) {
        Err(error @ LayoutError::Ambiguous { .. }) => error,
        other => return other,
    };
    let candidates = layout::candidates(keys.all());
    if candidates.len() > layout::MAX_CANDIDATES {
        return Err(ambiguous);
    }
    let mut distinct: Vec<Layout> = Vec::new();
    for layout in candidates {
        let same = |other: &Layout| match (stem(checkpoint, other), stem(checkpoint, &layout)) {
            (Some(a), Some(b)) => a.is_same_data(&b),
            _ => false,
        };
        if !distinct.iter().any(same) {
            distinct.push(layout);
        }
    }
    layout::choose(&distinct, None).map_err(|_| ambiguous)
}

/// The weight of an encoder's first convolution.
fn stem<'c>(checkpoint: &'c Checkpoint, layout: &Layout) -> Option<Tensor<'c>> {
    checkpoint.tensors().find(|tensor| layout.is_stem(tensor.name))
}

/// Optimiser state repeats the parameters' names, hyper-parameters may hold the module before training, and a trainer
/// the one in training: they would pass for further encoders.
fn is_training_state(key: &str) -> bool {
    key.split_once('.').is_some_and(|(first, _)| BESIDE.contains(&first))
}

/// Splits the parameters of `arch` into found and not.
fn compare(arch: Arch, present: &Present) -> (Vec<(Param, Vec<String>)>, LoadReport) {
    let mut report = LoadReport::default();
    let mut found = Vec::new();
    for param in Graph::new(arch).params() {
        match present.get(&param.name) {
            Some(Found { keys, shape }) if *shape == param.shape || is_count(&param, shape) => {
                found.push((param, keys.clone()));
            }
            Some(Found { shape, .. }) => report.mis_shaped.push(MisShaped {
                name: param.name,
                expected: param.shape,
                got: shape.clone(),
            }),
            None if param.kind == ParamKind::BnCount => {}
            None => report.missing.push(param.name),
        }
    }
    report.matched = found.len();
    (found, report)
}

/// A counter may also be stored as one element instead of a scalar.
fn is_count(param: &Param, shape: &[usize]) -> bool {
    param.kind == ParamKind::BnCount && shape == [1]
}

/// Keys below the prefix that no parameter took: (parts of the body that `arch` lacks, the rest).
fn left_over<'a>(
    keys: impl Iterator<Item = &'a str>,
    layout: &Layout,
    arch: Arch,
    found: &[(Param, Vec<String>)],
) -> (Vec<String>, Vec<String>) {
    let taken: HashSet<&str> = found.iter().flat_map(|(_, keys)| keys).map(String::as_str).collect();
    let own = names(arch);
    // A parameter of the wrong shape has been reported as such.
    let is_own = |key: &str| layout.to_torchvision(key).is_some_and(|name| own.contains(&name));
    let rest = keys.filter(|key| layout.contains(key) && !taken.contains(key) && !is_own(key));
    rest.map(str::to_owned).partition(|key| layout.is_body(key))
}

fn names(arch: Arch) -> HashSet<String> {
    Graph::new(arch).params().into_iter().map(|p| p.name).collect()
}

/// The architecture that explains the file best: fewest contradictions (other shapes, blocks left
/// over), then most parameters found for those that are absent.
fn guess(present: &Present, layout: &Layout, settings: Option<VitSettings>) -> Arch {
    if layout.naming.is_vit() {
        return Arch::Vit(guess_vit(present, layout, settings.unwrap_or_default()));
    }
    let score = |arch: Arch| {
        let (found, report) = compare(arch, present);
        let own = names(arch);
        let extra = present.keys().filter(|name| name.starts_with("layer") && !own.contains(*name)).count();
        let fits = 2 * found.len() as i64 - report.missing.len() as i64;
        (Reverse(report.mis_shaped.len() + extra), fits)
    };
    // Ties go to the smaller one, which can only be one of an empty file.
    Arch::ALL.into_iter().rev().max_by_key(|&arch| score(arch)).unwrap_or(Arch::ResNet50)
}

/// The vision transformer of these shapes. What shapes do not show is as the file beside the weights says, or usual.
fn guess_vit(present: &Present, layout: &Layout, settings: VitSettings) -> Vit {
    let shape = |name: &str| present.get(name).map(|found| found.shape.as_slice());
    let mut vit = Vit::of_shapes(shape).unwrap_or(Vit::new(384, 12, 6, 16));
    if layout.naming == Naming::TransformersVit {
        // the default there, but not DINOv2's, which has layer scale
        let usual = if vit.layer_scale { vit.eps } else { 12 };
        vit.eps = settings.eps.unwrap_or(usual);
    }
    let heads = settings.heads.filter(|heads| *heads > 0 && vit.width.is_multiple_of(*heads));
    vit.heads = heads.unwrap_or(vit.heads);
    vit
}
