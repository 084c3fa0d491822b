//! Targets: whitened embeddings of length one, a row for every picture.

use std::ops::Range;

use anyhow::{Context, Result, ensure};
use occlude_checkpoint::{Checkpoint, Whitening, WhiteningInfo};
use tch::{Device, Kind, Tensor};

use super::cells::Cells;
use crate::config::{self, Config};
use crate::eval::{How, Moments, Whitener};
use crate::loss::normalize;
use crate::model::Named;

/// Pictures whose embeddings are in memory at a time.
pub(super) const PIECE: usize = 16_384;

/// The names of a projection in a checkpoint.
pub(super) const NAMES: [&str; 2] = ["targets.weight", "targets.bias"];

/// What a student is to say of each picture, and how that was made of the teacher's embeddings.
#[derive(Debug)]
pub struct Targets {
    /// `(N, d)`, of length one; zeros for a picture that cannot be read.
    values: Tensor,
    /// `(d, D)` and `(d)`.
    projection: [Tensor; 2],
    /// What parts of each picture are to say, where they are learnt.
    cells: Option<Cells>,
}

impl Targets {
    /// Numbers of a target.
    pub fn dim(&self) -> usize {
        self.projection[0].size()[0] as usize
    }

    /// Numbers of an embedding of the teacher.
    pub fn of_dim(&self) -> usize {
        self.projection[0].size()[1] as usize
    }

    /// Pictures.
    pub fn len(&self) -> usize {
        self.values.size()[0] as usize
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them, `(N, d)`.
    pub fn values(&self) -> &Tensor {
        &self.values
    }

    /// Those of parts of the pictures, where these are learnt.
    pub fn cells(&self) -> Option<&Cells> {
        self.cells.as_ref()
    }

    /// The same with targets of parts of the pictures.
    pub(crate) fn with(self, cells: Cells) -> Self {
        Self { cells: Some(cells), ..self }
    }

    /// Of which pictures there are any: the others cannot be read.
    pub(super) fn there(&self) -> Result<Vec<bool>> {
        Ok(Vec::<bool>::try_from(self.values.any_dim(1, false))?)
    }

    /// Why they are no longer.
    pub(super) fn why(&self) -> String {
        if self.dim() == self.of_dim() {
            "so many has an embedding of the teacher".into()
        } else {
            format!("{} pictures show no more directions", self.len())
        }
    }

    /// Those of the pictures at the indices `(B)`: `(B, d)`.
    ///
    /// # Errors
    /// Where there are no such pictures.
    pub fn of(&self, pictures: &Tensor) -> Result<Tensor> {
        Ok(self.values.f_index_select(0, pictures)?)
    }

    /// The same on a device.
    #[must_use]
    pub fn to(&self, device: Device) -> Self {
        let [weight, bias] = &self.projection;
        Self {
            values: self.values.to(device),
            // what a state is loaded into must not be another's
            projection: [weight.to(device).copy(), bias.to(device).copy()],
            cells: self.cells.as_ref().map(|cells| cells.to(device)),
        }
    }

    /// What they are made by, for a checkpoint.
    pub fn named(&self) -> Vec<Named> {
        let own = NAMES.iter().zip(&self.projection).map(|(name, tensor)| Named::new(*name, tensor));
        own.chain(self.cells.iter().flat_map(Cells::named)).collect()
    }

    /// Meaningless ones for as many pictures, where `config` distils: for measuring steps that nobody learns from.
    pub fn made_up(config: &Config, pictures: usize) -> Option<Self> {
        let config::Method::Distill(settings) = &config.method else { return None };
        let d = settings.head.dim as i64;
        let of = settings.teacher.as_ref().and_then(|t| t.dim).map_or(d, |dim| dim as i64);
        let options = (Kind::Float, Device::Cpu);
        // no draw of anybody's generator
        let angles = Tensor::arange(pictures as i64 * d, options) * 12.9898;
        let values = normalize(&angles.sin().view([-1, d]));
        let projection = [Tensor::zeros([d, of], options), Tensor::zeros([d], options)];
        Some(Self { values, projection, cells: Cells::made_up(config) })
    }
}

/// What targets were made by in the run of a checkpoint, which calls it so.
///
/// # Errors
/// Where it has nothing of the kind.
pub(super) fn projection_of(checkpoint: &Checkpoint, names: [&str; 2]) -> Result<[Tensor; 2]> {
    let [weight, bias] = names.map(|name| {
        let tensor = checkpoint.tensor(name).with_context(|| {
            format!(
                "`{}` has no `{name}`; hint: is it from `--recipe distill`, with the same flags?",
                checkpoint.path().display()
            )
        })?;
        let shape: Vec<i64> = tensor.shape.iter().map(|&d| d as i64).collect();
        Ok::<_, anyhow::Error>(Tensor::from_slice(&tensor.to_f32()?).view(shape.as_slice()))
    });
    Ok([weight?, bias?])
}

/// Targets of `pictures` pictures, of at most `dim` numbers each, of what `embed` says of a range of them, piece by piece:
/// rows of float32, of NaN where there is nothing to say. Their length is left out, which some files have given up already. Whitened as the training pictures' embeddings ask for, or by
/// `known`; `encoder` is the fingerprint of what made them.
///
/// # Errors
/// Where pieces do not come, do not fit, or there is nothing to whiten.
pub(super) fn make(
    pictures: usize,
    dim: usize,
    known: Option<[Tensor; 2]>,
    encoder: &str,
    embed: &mut dyn FnMut(Range<usize>) -> Result<Option<Tensor>>,
) -> Result<Targets> {
    let pieces = || (0..pictures).step_by(PIECE).map(|start| start..(start + PIECE).min(pictures));
    let projection = match known {
        Some(known) => known,
        None => {
            let mut moments: Option<Moments> = None;
            for piece in pieces() {
                let Some(rows) = embed(piece)? else { continue };
                let rows = normalize(&rows);
                let there = rows.index_select(0, &readable(&rows).nonzero().squeeze_dim(1));
                moments.get_or_insert_with(|| Moments::new(rows.size()[1] as usize)).add(&there);
            }
            let moments = moments.with_context(|| format!("none of {pictures} pictures can be read"))?;
            let dim = dim.min(moments.components());
            let fitted = moments.fit(How::Pca(dim), encoder)?;
            let weight = Tensor::from_slice(fitted.weight().context("no weights")?);
            [weight.view([dim as i64, -1]), Tensor::from_slice(fitted.bias())]
        }
    };
    let whitener = Whitener::new(&whitening(&projection, encoder)?);
    let size = projection[0].size();
    let values = Tensor::zeros([pictures as i64, size[0]], (Kind::Float, Device::Cpu));
    for piece in pieces() {
        let start = piece.start as i64;
        let Some(rows) = embed(piece)? else { continue };
        let rows = normalize(&rows);
        ensure!(
            rows.size()[1] == size[1],
            "embeddings of {} numbers, but targets are made of {}",
            rows.size()[1],
            size[1]
        );
        let made = normalize(&whitener.apply(&rows));
        let made = made.masked_fill(&readable(&rows).logical_not().unsqueeze(1), 0.0);
        values.narrow(0, start, made.size()[0]).copy_(&made);
    }
    Ok(Targets { values, projection, cells: None })
}

/// Which rows are numbers, `(n)`.
fn readable(rows: &Tensor) -> Tensor {
    rows.isnan().any_dim(1, false).logical_not()
}

fn whitening([weight, bias]: &[Tensor; 2], encoder: &str) -> Result<Whitening> {
    let inputs = weight.size()[1] as usize;
    let floats = |t: &Tensor| Vec::<f32>::try_from(t.flatten(0, -1));
    // only the numbers are used; what is told of their origin is told elsewhere
    let info = WhiteningInfo { pictures: 0, shrinkage: 0.0, variance: 1.0, encoder: encoder.to_owned() };
    Whitening::new(Some(floats(weight)?), floats(bias)?, inputs, info).map_err(anyhow::Error::msg)
}
