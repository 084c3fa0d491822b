//! Pretraining methods behind one trait: the engine knows nothing else of them.

mod byol;
mod dino;
mod distill;
#[cfg(test)]
mod fixture;
mod health;
mod localise;
mod moco;
mod occluder;
mod simclr;
mod view;

use anyhow::{Context, Result, bail, ensure};
use occlude_distributed::World;
use tch::{Device, Kind, Tensor};

pub use byol::Byol;
pub use dino::Dino;
pub use distill::Distill;
pub use health::{Contrast, Health};
pub use moco::{Keys, Moco};
pub use simclr::Simclr;

use crate::config::{self, Config};
use crate::data::Placed;
use crate::model::{Branch, Encoder, Named, Projected};
use crate::teacher::Targets;

/// The views of a batch, `(B, 3, S, S)` each and normalised, in the order of the configuration's groups: the first two, where
/// there are two, are of one size.
#[derive(Debug)]
pub struct Views {
    views: Vec<Tensor>,
    pictures: Vec<i64>,
    placed: Vec<Vec<Placed>>,
}

impl Views {
    /// Of at least one view; `pictures` has for every row the index of its picture in the data.
    ///
    /// # Errors
    /// Where there is none, or a view has not a row for every picture.
    pub fn new(views: Vec<Tensor>, pictures: &[usize]) -> Result<Self> {
        ensure!(!views.is_empty(), "no views");
        for view in &views {
            let (rows, expected) = (view.size()[0], pictures.len());
            ensure!(rows == expected as i64, "a view of {rows} pictures, expected {expected}");
        }
        let pictures = pictures.iter().map(|&i| i as i64).collect();
        Ok(Self { views, pictures, placed: Vec::new() })
    }

    /// The same, whose places on the pictures are known: of every view those of all rows.
    ///
    /// # Errors
    /// Where these are not as many.
    pub fn placed_at(self, placed: Vec<Vec<Placed>>) -> Result<Self> {
        let rows = self.pictures.len();
        let fits = placed.len() == self.views.len() && placed.iter().all(|view| view.len() == rows);
        ensure!(fits, "{} views of {rows} pictures do not have a place each", self.views.len());
        Ok(Self { placed, ..self })
    }

    /// All of them.
    pub fn all(&self) -> &[Tensor] {
        &self.views
    }

    /// The first two.
    ///
    /// # Errors
    /// Where there is one.
    pub fn pair(&self) -> Result<[&Tensor; 2]> {
        match &self.views[..] {
            [first, second, ..] => Ok([first, second]),
            _ => bail!("one view of each picture, expected at least two"),
        }
    }

    /// Those behind the first two.
    pub fn more(&self) -> &[Tensor] {
        self.views.get(2..).unwrap_or_default()
    }

    /// Of every row the index of its picture in the data.
    pub fn pictures(&self) -> &[i64] {
        &self.pictures
    }

    /// Of every view and row the place on the picture; empty where nobody told.
    pub fn placed(&self) -> &[Vec<Placed>] {
        &self.placed
    }
}

/// Of the first pictures of the data.
impl From<[Tensor; 2]> for Views {
    fn from(pair: [Tensor; 2]) -> Self {
        let pictures = (0..pair[0].size()[0]).collect();
        Self { views: pair.into(), pictures, placed: Vec::new() }
    }
}

/// What a method is told about the batch.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Batches worked on before this one, over all epochs.
    pub number: u64,
    /// The same in epochs, with a fraction.
    pub epoch: f64,
    /// Whether to keep the pictures that the step worked on.
    pub preview: bool,
    /// Whether to compute the metrics, of which most steps need none.
    pub measure: bool,
}

/// What a step gives.
#[derive(Debug)]
pub struct StepOutput {
    /// Scalar, with its graph.
    pub loss: Tensor,
    /// What tells whether training goes well, where asked for.
    pub health: Option<Health>,
    /// Further named scalars, where asked for, that nothing but a reader looks at; on the device, so that reading them is
    /// the engine's choice.
    pub metrics: Vec<(&'static str, Tensor)>,
    /// Where asked for.
    pub preview: Option<Preview>,
}

/// The pictures of a step, for the first batch's picture file. All normalised as network input.
#[derive(Debug, Default)]
pub struct Preview {
    /// Column title and `(B, 3, S, S)`.
    pub columns: Vec<(&'static str, Tensor)>,
    /// Column title and foreground `(B, h, w)` of the view in the column of that index.
    pub foreground: Vec<(usize, Tensor)>,
    /// The same of maps `(B, h, w)` of where something is high, with the title of the column that shows them.
    pub maps: Vec<(usize, &'static str, Tensor)>,
}

/// A pretraining method: owns its networks, turns views into a loss, is told when a step ended.
pub trait Method {
    /// From now on views are those of this rank, of batches that all ranks have together. The mean over the ranks of the gradients
    /// of their losses is then what one process would find with all views.
    ///
    /// # Errors
    /// Where the method, as it is configured, does not train on several ranks.
    fn join(&mut self, world: &World) -> Result<()>;

    /// The loss of a batch.
    ///
    /// # Errors
    /// What libtorch refuses.
    fn step(&mut self, views: &Views, step: Step) -> Result<StepOutput>;

    /// Called when the optimiser has moved, after one batch or several: moving averages, queues.
    ///
    /// # Errors
    /// What libtorch refuses.
    fn after_step(&mut self, step: Step) -> Result<()>;

    /// What the optimiser moves.
    fn trainable(&self) -> Vec<Named>;

    /// Everything that a resumed run needs besides the optimiser.
    fn state(&self) -> Vec<Named>;

    /// Takes back a [`Self::state`].
    ///
    /// # Errors
    /// Where names or shapes differ.
    fn load_state(&mut self, state: &[Named]) -> Result<()>;

    /// The branch whose encoder is evaluated and exported; its tensors are part of [`Self::state`].
    fn branch(&self) -> &Branch;

    /// That encoder.
    fn encoder(&self) -> &Encoder {
        self.branch().encoder()
    }
}

/// The method that `config` asks for, with fresh networks on `device`. `targets` are what distillation learns, and nothing to
/// others. `bf16`: convolutions and matrix products in bfloat16.
///
/// # Errors
/// Where the configuration names a localisation checkpoint that cannot be used, or distils and there are no targets.
pub fn build(
    config: &Config,
    targets: Option<&Targets>,
    bf16: bool,
    device: Device,
) -> Result<Box<dyn Method>> {
    Ok(match &config.method {
        config::Method::Moco(_) => Box::new(Moco::new(config, bf16, device)?),
        config::Method::Simclr(_) => Box::new(Simclr::new(config, bf16, device)?),
        config::Method::Byol(_) => Box::new(Byol::new(config, bf16, device)?),
        config::Method::Dino(_) => Box::new(Dino::new(config, bf16, device)?),
        config::Method::Distill(_) => {
            let targets = targets.context("nothing to learn from; hint: `--teacher` or `--targets`")?;
            Box::new(Distill::new(config, targets, bf16, device)?)
        }
    })
}

fn show(preview: &mut Option<Preview>, title: &'static str, x: &Tensor) {
    if let Some(p) = preview {
        p.columns.push((title, x.shallow_clone()));
    }
}

/// Adds where the alignment maps of a view are high, on average, to the pictures; `view` is its column.
fn show_maps(preview: &mut Option<Preview>, view: usize, projected: &Projected) {
    if let (Some(p), Some(aligned)) = (preview, &projected.aligned) {
        p.maps.push((view, "its alignment", aligned.mean_map().detach()));
    }
}

/// The mean of named scalars over several of a kind, which have the same names.
fn mean(mut parts: Vec<Vec<(&'static str, Tensor)>>) -> Vec<(&'static str, Tensor)> {
    if parts.len() <= 1 {
        return parts.pop().unwrap_or_default();
    }
    let names: Vec<&'static str> = parts.first().map_or_else(Vec::new, |p| p.iter().map(|m| m.0).collect());
    let of = |i: usize| parts.iter().map(|p| p[i].1.shallow_clone()).collect::<Vec<_>>();
    names.into_iter().enumerate().map(|(i, n)| (n, Tensor::stack(&of(i), 0).mean(Kind::Float))).collect()
}
