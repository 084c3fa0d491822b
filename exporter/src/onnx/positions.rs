//! Positions of a vision transformer for pictures whose size shows when a model runs: [`crate::positions`] as operations.
//!
//! `Resize` has antialiasing since opset 18 alone. Cells are counted by running sums, because runtimes compute with shapes
//! on the CPU, which a session on another device has to leave for it.

use occlude_encoder::Vit;

use super::builder::Builder;
use crate::positions::A;
use crate::proto::{Attribute, Element};

/// Adds the positions of patches, (1, h w, D), in single precision. `maps` is (N, D, h, w), `learnt` the row-major
/// positions of the grid.
pub(super) fn any_size(builder: &mut Builder<'_>, vit: Vit, maps: &str, learnt: Vec<f32>) -> String {
    let Vit { grid, width, .. } = vit;
    let mut part = Part { builder, grid };
    let ones = part.ones(maps);
    let rows = part.windows("rows", &ones, 2);
    let columns = part.windows("columns", &ones, 3);
    let learnt = part.builder.floats("positions.learnt", &[1, 1, grid, grid * width], learnt);
    let across = part.node("MatMul", "across", &[&rows, &learnt]); // (1, 1, h, grid D)
    let shape = part.builder.ints(&[-1, grid as i64, width as i64]);
    let across = part.node("Reshape", "across.rows", &[&across, &shape]); // (h, grid, D)
    let both = part.node("MatMul", "both", &[&columns, &across]); // (1, h, w, D)
    let shape = part.builder.ints(&[1, -1, width as i64]);
    part.node("Reshape", "patches", &[&both, &shape])
}

struct Part<'b, 'a> {
    builder: &'b mut Builder<'a>,
    /// Cells along a side that there are positions for.
    grid: usize,
}

impl Part<'_, '_> {
    fn with(&mut self, op: &'static str, leaf: &str, inputs: &[&str], attributes: Vec<Attribute>) -> String {
        self.builder.node(op, &format!("positions.{leaf}"), inputs, attributes)
    }

    fn node(&mut self, op: &'static str, leaf: &str, inputs: &[&str]) -> String {
        self.with(op, leaf, inputs, vec![])
    }

    /// A scalar.
    fn constant(&mut self, value: f32) -> String {
        let name = format!("positions.{value}");
        match self.builder.has_initializer(&name) {
            true => name,
            false => self.builder.floats(&name, &[], vec![value]),
        }
    }

    /// A one for each patch of the first picture, (1, 1, h, w), whatever is in it.
    fn ones(&mut self, maps: &str) -> String {
        let [from, to, axes] = [[0, 0], [1, 1], [0, 1]].map(|list| self.builder.ints(&list));
        let like = self.node("Slice", "like", &[maps, &from, &to, &axes]);
        let less = self.node("Less", "less", &[&like, &like]);
        let not = self.node("Not", "not", &[&less]);
        let either = self.node("Or", "either", &[&less, &not]);
        self.with("Cast", "ones", &[&either], vec![Attribute::Int("to", Element::Float as i64)])
    }

    /// How much each of the learnt cells counts for each along an axis, (1, 1, h, grid).
    fn windows(&mut self, leaf: &str, ones: &str, axis: i64) -> String {
        let name = |step: &str| format!("{leaf}.{step}");
        let grid = self.grid;
        let (half, one, two) = (self.constant(0.5), self.constant(1.0), self.constant(2.0));
        let along = self.builder.int(axis);
        let count = self.node("CumSum", &name("count"), &[ones, &along]);
        let size = self.node("GlobalMaxPool", &name("size"), &[&count]);
        let [from, to] = [0, 1].map(|at| self.builder.ints(&[at]));
        let others = self.builder.ints(&[5 - axis]);
        let mut line = self.node("Slice", &name("line"), &[&count, &from, &to, &others]);
        if axis == 3 {
            let order = Attribute::Ints("perm", vec![0, 1, 3, 2]);
            line = self.with("Transpose", &name("turned"), &[&line], vec![order]);
        }
        let cells = self.constant(grid as f32);
        let scale = self.node("Div", &name("scale"), &[&cells, &size]);
        let wide = self.node("Max", &name("wide"), &[&scale, &one]);
        let middle = self.node("Sub", &name("middle"), &[&line, &half]);
        let centre = self.node("Mul", &name("centre"), &[&middle, &scale]);
        let middles = (0..grid).map(|i| i as f32 + 0.5).collect();
        let middles = self.builder.floats(&format!("positions.{}", name("cells")), &[1, 1, 1, grid], middles);
        let apart = self.node("Sub", &name("apart"), &[&middles, &centre]);
        let apart = self.node("Abs", &name("distance"), &[&apart]);
        let x = self.node("Div", &name("steps"), &[&apart, &wide]);
        let weight = self.cubic(leaf, &x, [&one, &two]);
        let axes = self.builder.ints(&[3]);
        let keep = vec![Attribute::Int("keepdims", 1)];
        let sum = self.with("ReduceSum", &name("sum"), &[&weight, &axes], keep);
        self.node("Div", leaf, &[&weight, &sum])
    }

    /// The cubic of a distance: one piece up to 1, one up to 2. Each is zero at its ends but for the middle, so that they
    /// are added, each held within its own.
    fn cubic(&mut self, leaf: &str, x: &str, [one, two]: [&str; 2]) -> String {
        let name = |step: &str| format!("{leaf}.{step}");
        let a = A as f32;
        let near = self.node("Min", &name("near.x"), &[x, one]);
        // ((a + 2) x - (a + 3)) x x + 1
        let near = self.polynomial(&name("near"), &near, &[a + 2.0, -(a + 3.0), 0.0, 1.0]);
        let far = self.node("Max", &name("far.from"), &[x, one]);
        let far = self.node("Min", &name("far.x"), &[&far, two]);
        let far = self.polynomial(&name("far"), &far, &[a, -5.0 * a, 8.0 * a, -4.0 * a]);
        self.node("Add", &name("weight"), &[&near, &far])
    }

    /// By Horner's rule; the first coefficient is that of the highest power.
    fn polynomial(&mut self, leaf: &str, x: &str, coefficients: &[f32]) -> String {
        let mut value = self.constant(coefficients[0]);
        for (i, &coefficient) in coefficients.iter().enumerate().skip(1) {
            value = self.node("Mul", &format!("{leaf}.{i}.times"), &[&value, x]);
            let coefficient = self.constant(coefficient);
            value = self.node("Add", &format!("{leaf}.{i}"), &[&value, &coefficient]);
        }
        value
    }
}
