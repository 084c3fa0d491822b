//! What a student says of the cells of a view, towards the teacher's cells at the same places of the picture.

use anyhow::{Context, Result, ensure};
use occlude_encoder::{Mlp as Description, TapId};
use tch::Tensor;

use crate::config;
use crate::data::Placed;
use crate::loss::cells::cell_loss;
use crate::loss::normalize;
use crate::model::{Branch, Encoder, Init, Mlp, Mode, Named};
use crate::teacher::Targets;

/// What the head's names begin with in a checkpoint.
const HEAD: &str = "head_cells_q.";

/// A head for every cell of the last feature map, or for every patch.
pub(super) struct Parts {
    weight: f64,
    tap: [TapId; 1],
    head: Mlp,
}

impl Parts {
    /// A fresh head behind the encoder of `branch`, for what `targets` say of cells.
    ///
    /// # Errors
    /// Where they say nothing.
    pub(super) fn new(
        settings: &config::Distill,
        cells: &config::Cells,
        targets: &Targets,
        branch: &Branch,
    ) -> Result<Self> {
        let there = targets.cells().context("there are no targets of cells; hint: `--teacher MODEL`")?;
        let known = cells.dim.unwrap_or_else(|| there.dim());
        ensure!(
            known == there.dim(),
            "cells of {known} numbers cannot learn targets of {} numbers",
            there.dim()
        );
        let encoder = branch.encoder();
        let inputs = encoder.arch().feature_dim();
        let widths = [inputs, settings.head.hidden.unwrap_or(inputs), known];
        let description = Description::two_layers(widths, settings.head.bn, true);
        let head = Mlp::new(description, Init::Uniform, encoder.device());
        Ok(Self { weight: cells.weight, tap: [encoder.last_map()?], head })
    }

    /// Factor on the loss.
    pub(super) fn weight(&self) -> f64 {
        self.weight
    }

    /// The value of the encoder that has cells.
    pub(super) fn tap(&self) -> &[TapId] {
        &self.tap
    }

    /// What is said of each cell of the views `x`, `(N, h, w, d)`, normalised, by the value at [`Self::tap`].
    pub(super) fn project(&self, encoder: &Encoder, value: &Tensor, x: &Tensor, mode: Mode) -> Tensor {
        let size = x.size();
        let cells = encoder.map(self.tap[0], value, [size[2], size[3]]).permute([0, 2, 3, 1]); // (N, h, w, C)
        let shape = cells.size();
        let said = self.head.forward(&cells.reshape([-1, shape[3]]), mode);
        normalize(&said.view([shape[0], shape[1], shape[2], -1]))
    }

    /// The loss of a view's `cells`, `(B, h, w, d)`, where it is `placed` on its `pictures` `(B)`.
    ///
    /// # Errors
    /// Where nobody knows where it is, or there are no such pictures.
    pub(super) fn loss(
        &self,
        cells: &Tensor,
        targets: &Targets,
        pictures: &Tensor,
        placed: Option<&[Placed]>,
    ) -> Result<Tensor> {
        let there = targets.cells().context("there are no targets of cells")?;
        let placed = placed.context("it is not known where views are on their pictures")?;
        let size = cells.size();
        let (targets, counts) = there.of(pictures, placed, [size[1], size[2]])?;
        Ok(cell_loss(cells, &targets, &counts))
    }

    /// All tensors of the head.
    pub(super) fn named(&self) -> Vec<Named> {
        self.head.named(HEAD)
    }

    /// What the optimiser moves.
    pub(super) fn trainable(&self) -> Vec<Named> {
        self.head.trainable_named(HEAD)
    }
}
