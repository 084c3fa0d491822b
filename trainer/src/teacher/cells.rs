//! Targets of cells: what the teacher's grid says of parts of a picture, and where the cells of a view are on that grid.

use std::fmt;
use std::ops::Range;

use anyhow::{Context, Result, ensure};
use occlude_preprocess::Preprocess;
use tch::{Device, Kind, Tensor};

use crate::config::{self, Config};
use crate::data::Placed;
use crate::device::upload;
use crate::eval::{How, Moments};
use crate::loss::normalize;
use crate::model::Named;

/// Pictures whose grids are in memory at a time; a multiple of what the networks take at once.
pub(super) const PIECE: usize = 512;
/// About how many cells whitening is fitted on.
const SAMPLE: usize = 32_768;
/// The names of a projection in a checkpoint.
pub(super) const NAMES: [&str; 2] = ["targets.cells.weight", "targets.cells.bias"];

/// What a student is to say of each part of each picture, and how that was made of the teacher's grids.
#[derive(Debug)]
pub struct Cells {
    /// `(N, d, h, w)` in half precision: vectors of length one, zeros for a picture that cannot be read. Those of one picture
    /// are every picture's.
    values: Tensor,
    /// `(d, C)` and `(d)`.
    projection: [Tensor; 2],
    /// What of a picture the grid shows.
    contract: Preprocess,
}

impl Cells {
    /// Numbers of a target.
    pub fn dim(&self) -> usize {
        self.projection[0].size()[0] as usize
    }

    /// Given ones, `(N, d, h, w)`.
    #[cfg(test)]
    pub(crate) fn fixed(values: &Tensor, contract: Preprocess) -> Self {
        let (options, d) = ((Kind::Float, Device::Cpu), values.size()[1]);
        let projection = [Tensor::zeros([d, d], options), Tensor::zeros([d], options)];
        Self { values: values.to_kind(Kind::Half), projection, contract }
    }

    /// Channels of the teacher's grid.
    pub fn channels(&self) -> usize {
        self.projection[0].size()[1] as usize
    }

    /// All of them, `(N, d, h, w)`.
    pub fn values(&self) -> &Tensor {
        &self.values
    }

    /// The same on a device.
    pub(super) fn to(&self, device: Device) -> Self {
        let [weight, bias] = &self.projection;
        Self {
            values: self.values.to(device),
            // what a state is loaded into must not be another's
            projection: [weight.to(device).copy(), bias.to(device).copy()],
            contract: self.contract.clone(),
        }
    }

    /// What they are made by, for a checkpoint.
    pub(super) fn named(&self) -> Vec<Named> {
        NAMES.iter().zip(&self.projection).map(|(name, tensor)| Named::new(*name, tensor)).collect()
    }

    /// Those at the middles of a view's `h` x `w` cells, interpolated bilinearly between the middles of the teacher's and scaled
    /// to length one, `(B, h, w, d)`; and ones where the teacher saw that part of the picture, else zeros, `(B, h, w)`.
    /// `pictures` are indices `(B)`, `placed` tells where the view is on each of them.
    ///
    /// # Errors
    /// Where there are no such pictures, or not a place for each.
    pub fn of(&self, pictures: &Tensor, placed: &[Placed], [h, w]: [i64; 2]) -> Result<(Tensor, Tensor)> {
        let b = pictures.size()[0];
        ensure!(placed.len() as i64 == b, "{} places of {b} pictures", placed.len());
        let device = self.values.device();
        let lines: Vec<f32> = placed.iter().flat_map(|p| line(&self.contract, p)).collect();
        let lines = upload(&Tensor::from_slice(&lines).view([b, 4]), device);
        let grid = places(&lines, [h, w]); // (B, h, w, 2)
        let values = match self.values.size()[0] {
            1 => self.values.expand([b, -1, -1, -1], false),
            _ => self.values.f_index_select(0, pictures)?,
        };
        let (bilinear, border) = (0, 1);
        let found = values.to_kind(Kind::Float).f_grid_sampler(&grid, bilinear, border, false)?;
        let inside = grid.abs().le(1.0).all_dim(3, false).to_kind(Kind::Float);
        Ok((normalize(&found.permute([0, 2, 3, 1])), inside))
    }

    /// Meaningless ones, where `config` learns cells.
    pub(super) fn made_up(config: &Config) -> Option<Self> {
        let config::Method::Distill(settings) = &config.method else { return None };
        let cells = settings.cells.as_ref()?;
        let (d, side) = (cells.dim.unwrap_or(settings.head.dim) as i64, cells.grid as i64);
        let options = (Kind::Float, Device::Cpu);
        // no draw of anybody's generator
        let angles = Tensor::arange(d * side * side, options) * 12.9898;
        let teacher = settings.teacher.as_ref().and_then(|t| t.preprocess().ok().flatten());
        let channels = cells.channels.map_or(d, |channels| channels as i64);
        Some(Self {
            values: angles.sin().view([1, d, side, side]).to_kind(Kind::Half),
            projection: [Tensor::zeros([d, channels], options), Tensor::zeros([d], options)],
            contract: teacher.unwrap_or_else(|| config.preprocess()),
        })
    }
}

/// How many they are, and how much memory they take.
impl fmt::Display for Cells {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = self.values.size();
        let bytes = 2 * size.iter().product::<i64>();
        write!(f, "targets of {} x {} cells a picture: {} MiB in memory", size[2], size[3], bytes >> 20)
    }
}

/// Where a view is on what the teacher saw of its picture, whose edges are at -1 and 1: x and y of the corner that the view
/// shows upper left, and what its width and its height are there.
fn line(contract: &Preprocess, placed: &Placed) -> [f32; 4] {
    let shown = contract.shown(placed.picture.0, placed.picture.1);
    let (crop, flip) = (placed.geometry.crop, placed.geometry.flip);
    let along = |begin: f64, length: f64, from: f64, side: f64| {
        (2.0 * (begin - from) / side - 1.0, 2.0 * length / side)
    };
    let (x, width) = along(crop.left, crop.width, shown.left, shown.width);
    let (y, height) = along(crop.top, crop.height, shown.top, shown.height);
    let (x, width) = if flip { (x + width, -width) } else { (x, width) };
    [x, y, width, height].map(|v| v as f32)
}

/// The middles of a view's `h` x `w` cells by the lines `(B, 4)` of [`line()`]: `(B, h, w, 2)`, x before y.
fn places(lines: &Tensor, [h, w]: [i64; 2]) -> Tensor {
    let b = lines.size()[0];
    let middles = |n: i64| (Tensor::arange(n, (Kind::Float, lines.device())) + 0.5) / n as f64;
    let at = |i: i64, n: i64| lines.narrow(1, i, 1) + lines.narrow(1, i + 2, 1) * middles(n).unsqueeze(0);
    let x = at(0, w).unsqueeze(1).expand([b, h, w], false);
    let y = at(1, h).unsqueeze(2).expand([b, h, w], false);
    Tensor::stack(&[x, y], -1)
}

/// A feature map `(n, C, h, w)` with at most `most` cells along a side, as means of equal parts where that can be, each cell of
/// length one.
pub(super) fn reduced(map: &Tensor, most: usize) -> Tensor {
    let map = map.to_kind(Kind::Float);
    let most = most.max(1) as u64;
    let less = |side: i64| {
        let side = side.max(1) as u64;
        side.div_ceil(side.div_ceil(most)) as i64
    };
    let size = map.size();
    let sides = [less(size[2]), less(size[3])];
    let map = if sides[..] == size[2..] { map } else { map.adaptive_avg_pool2d(sides) };
    normalize(&map.permute([0, 2, 3, 1])).permute([0, 3, 1, 2])
}

/// Targets of `there.len()` pictures, of at most `dim` numbers each, of the grids `(n, C, h, w)` that `said` has of a range of
/// them: vectors of length one, or NaN where a picture cannot be read. Whitened as a sample of the cells asks for, or by `known`;
/// `encoder` is the fingerprint of what made them. `there` says which pictures could be read: where none of a piece could,
/// nobody is asked.
///
/// # Errors
/// Where grids do not come, do not fit, or there is nothing to whiten.
pub(super) fn make(
    there: &[bool],
    dim: usize,
    known: Option<[Tensor; 2]>,
    (encoder, contract): (&str, &Preprocess),
    said: &mut dyn FnMut(Range<usize>) -> Result<Tensor>,
) -> Result<Cells> {
    let pictures = there.len();
    let all = (0..pictures).step_by(PIECE).map(|start| start..(start + PIECE).min(pictures));
    let pieces: Vec<Range<usize>> = all.filter(|piece| there[piece.clone()].contains(&true)).collect();
    let projection = match known {
        Some(known) => known,
        None => fit(pictures, &pieces, dim, encoder, said)?,
    };
    let [weight, bias] = &projection;
    let (d, channels) = weight.size2()?;
    let mut values: Option<Tensor> = None;
    for piece in pieces {
        let start = piece.start as i64;
        let cells = said(piece)?;
        let (n, c, h, w) = cells.size4()?;
        ensure!(c == channels, "cells of {c} numbers, but targets are made of {channels}");
        let rows = rows(&cells);
        let made = normalize(&rows.linear(weight, Some(bias)));
        let unreadable = rows.isnan().any_dim(1, true);
        let made = made.masked_fill(&unreadable, 0.0).view([n, h, w, d]).permute([0, 3, 1, 2]);
        let values = values
            .get_or_insert_with(|| Tensor::zeros([pictures as i64, d, h, w], (Kind::Half, Device::Cpu)));
        ensure!(values.size()[2..] == [h, w], "grids of {:?} and {:?} cells", &values.size()[2..], [h, w]);
        values.narrow(0, start, n).copy_(&made);
    }
    let values = values.context("no pictures")?;
    Ok(Cells { values, projection, contract: contract.clone() })
}

/// `(n, C, h, w)` as `(n h w, C)` float32.
fn rows(cells: &Tensor) -> Tensor {
    cells.to_kind(Kind::Float).permute([0, 2, 3, 1]).flatten(0, 2)
}

/// What whitens about [`SAMPLE`] cells, evenly from all pictures and places.
fn fit(
    pictures: usize,
    pieces: &[Range<usize>],
    dim: usize,
    encoder: &str,
    said: &mut dyn FnMut(Range<usize>) -> Result<Tensor>,
) -> Result<[Tensor; 2]> {
    let mut moments: Option<Moments> = None;
    for piece in pieces {
        let cells = said(piece.clone())?;
        let (n, channels, h, w) = cells.size4()?;
        let step = stride(pictures, (h * w) as usize);
        // the first of a piece goes on behind the last of the one before
        let first = (step - (piece.start * (h * w) as usize) % step) % step;
        let which = (first as i64..n * h * w).step_by(step).collect::<Vec<_>>();
        let rows = rows(&cells).index_select(0, &Tensor::from_slice(&which));
        let readable = rows.isnan().any_dim(1, false).logical_not();
        let rows = rows.index_select(0, &readable.nonzero().squeeze_dim(1));
        moments.get_or_insert_with(|| Moments::new(channels as usize)).add(&rows);
    }
    let moments = moments.context("no pictures")?;
    let dim = dim.min(moments.components());
    let fitted = moments.fit(How::Pca(dim), encoder)?;
    let weight = Tensor::from_slice(fitted.weight().context("no weights")?);
    Ok([weight.view([dim as i64, -1]), Tensor::from_slice(fitted.bias())])
}

/// Every how manieth of all cells is in the sample: a number that shares no factor with those of a picture, so that every place
/// of the grid has its turn.
fn stride(pictures: usize, cells: usize) -> usize {
    let shares = |step: usize| (2..=cells).any(|f| cells.is_multiple_of(f) && step.is_multiple_of(f));
    let least = (pictures * cells / SAMPLE).max(1);
    (least..).find(|&step| !shares(step)).unwrap_or(least)
}

#[cfg(test)]
mod tests;
