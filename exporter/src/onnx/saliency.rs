//! The output `saliency`: a map of one stage's features, by one of the rules of [`MapRule`].
//!
//! Means and extremes over a map are global pools, which need no axes: those of most reductions moved from an attribute to
//! an input in opset 18, those of `ReduceSum` in 13.

use occlude_preprocess::Preprocess;
use occlude_saliency::MapRule;
use occlude_saliency::prior::{self, SIGMA};
use occlude_saliency::rule::{self, ALIKE, OPPONENT, SEGMENT, TINY};

use super::builder::Builder;
use crate::proto::Attribute;

/// The opset from which on the axes of `ReduceMin` are an input.
const AXES_AS_INPUT: u32 = 18;

/// What a map is made of.
pub(super) struct Source<'s> {
    /// The feature map, single precision (N, C, h, w).
    pub(super) features: &'s str,
    /// The normalised picture, unfiltered, (N, 3, H, W).
    pub(super) pixels: &'s str,
    pub(super) contract: &'s Preprocess,
    pub(super) opset: u32,
    /// Pixels along a side of a cell.
    pub(super) stride: usize,
    /// Pixels along the sides of the pictures; `None` where they have any size.
    pub(super) side: Option<usize>,
}

/// Adds the map `name`, (N, h, w).
pub(super) fn map(builder: &mut Builder<'_>, name: &str, rule: MapRule, source: &Source<'_>) {
    let mut part = Part { builder, name, opset: source.opset };
    let map = match rule {
        MapRule::Sum | MapRule::Attention => {
            let axes = part.builder.ints(&[1]);
            let keep = Attribute::Int("keepdims", 0);
            part.builder.node("ReduceSum", name, &[source.features, &axes], vec![keep]);
            return;
        }
        MapRule::Border => part.border(source.features),
        MapRule::Object => part.object(source),
        MapRule::Alignment => unreachable!("alignment is made of the projection head"),
    };
    let axes = builder.ints(&[1]);
    builder.node("Squeeze", name, &[&map, &axes], vec![]);
}

/// Nodes named below one output.
struct Part<'b, 'a> {
    builder: &'b mut Builder<'a>,
    name: &'b str,
    opset: u32,
}

impl Part<'_, '_> {
    fn full(&self, leaf: &str) -> String {
        format!("{}.{leaf}", self.name)
    }

    fn with(&mut self, op: &'static str, leaf: &str, inputs: &[&str], attributes: Vec<Attribute>) -> String {
        let name = self.full(leaf);
        self.builder.node(op, &name, inputs, attributes)
    }

    fn node(&mut self, op: &'static str, leaf: &str, inputs: &[&str]) -> String {
        self.with(op, leaf, inputs, vec![])
    }

    /// A constant; its shape is a scalar's where `dims` is empty.
    fn constant(&mut self, leaf: &str, dims: &[usize], values: Vec<f32>) -> String {
        let name = self.full(leaf);
        self.builder.floats(&name, dims, values)
    }

    fn tiny(&mut self) -> String {
        let name = self.full("tiny");
        if self.builder.has_initializer(&name) { name } else { self.constant("tiny", &[], vec![TINY]) }
    }

    fn one(&mut self) -> String {
        let name = self.full("one");
        if self.builder.has_initializer(&name) { name } else { self.constant("one", &[], vec![1.0]) }
    }

    /// Sum over some axes, which stay as ones.
    fn sum(&mut self, leaf: &str, x: &str, axes: &[i64]) -> String {
        let axes = self.builder.ints(axes);
        self.with("ReduceSum", leaf, &[x, &axes], vec![Attribute::Int("keepdims", 1)])
    }

    /// `x` over `by`, and a little.
    fn over(&mut self, leaf: &str, x: &str, by: &str) -> String {
        let tiny = self.tiny();
        let by = self.node("Add", &format!("{leaf}.by"), &[by, &tiny]);
        self.node("Div", leaf, &[x, &by])
    }

    /// Each cell's vector (axis 1) scaled to length one.
    fn unit(&mut self, leaf: &str, x: &str) -> String {
        let square = self.node("Mul", &format!("{leaf}.square"), &[x, x]);
        let sum = self.sum(&format!("{leaf}.sum"), &square, &[1]);
        let length = self.node("Sqrt", &format!("{leaf}.length"), &[&sum]);
        self.over(leaf, x, &length)
    }

    /// Scaled to 0..1 in each picture, (N, 1, h, w).
    fn scaled(&mut self, leaf: &str, x: &str) -> String {
        let high = self.node("GlobalMaxPool", &format!("{leaf}.high"), &[x]);
        let negative = self.node("Neg", &format!("{leaf}.negative"), &[x]);
        let low = self.node("GlobalMaxPool", &format!("{leaf}.minus_low"), &[&negative]);
        let span = self.node("Add", &format!("{leaf}.span"), &[&high, &low]);
        let above = self.node("Add", &format!("{leaf}.above"), &[x, &low]);
        self.over(leaf, &above, &span)
    }

    /// The border's cells of (N, C, h, w) in a row, (N, C, 1, 2w + 2h); of `segment` cells along it the mean.
    fn sides(&mut self, leaf: &str, x: &str, segment: usize) -> String {
        let cut = |part: &mut Self, side: &str, axis: i64, range: [i64; 2]| {
            let [from, to] = range.map(|at| part.builder.ints(&[at]));
            let axes = part.builder.ints(&[axis]);
            let cells = part.node("Slice", &format!("{leaf}.{side}"), &[x, &from, &to, &axes]);
            let window = if axis == 2 { [1, segment] } else { [segment, 1] };
            if segment == 1 { cells } else { part.means(&format!("{leaf}.{side}.segments"), &cells, window) }
        };
        let first = [0, 1];
        let last = [-1, i64::MAX];
        let (top, bottom) = (cut(self, "top", 2, first), cut(self, "bottom", 2, last));
        let columns =
            [("left", first), ("right", last)].map(|(side, range)| (side, cut(self, side, 3, range)));
        let order = Attribute::Ints("perm", vec![0, 1, 3, 2]);
        let [left, right] = columns.map(|(side, column)| {
            self.with("Transpose", &format!("{leaf}.{side}.row"), &[&column], vec![order.clone()])
        });
        let all = [top.as_str(), &bottom, &left, &right];
        self.with("Concat", leaf, &all, vec![Attribute::Int("axis", 3)])
    }

    /// Means of windows side by side, of which the last ones may be smaller.
    fn means(&mut self, leaf: &str, x: &str, window: [usize; 2]) -> String {
        let window = window.map(|side| side as i64).to_vec();
        let attributes = vec![
            Attribute::Ints("kernel_shape", window.clone()),
            Attribute::Ints("strides", window),
            Attribute::Int("ceil_mode", 1),
        ];
        self.with("AveragePool", leaf, &[x], attributes)
    }

    /// (N, 1, h, w).
    fn border(&mut self, features: &str) -> String {
        let sides = self.sides("sides", features, 1);
        let mean = self.node("GlobalAveragePool", "mean", &[&sides]);
        let mean = self.unit("direction", &mean);
        let cells = self.unit("cells", features);
        let along = self.node("Mul", "products", &[&cells, &mean]);
        let cosine = self.sum("cosine", &along, &[1]);
        let one = self.one();
        self.node("Sub", "unlike", &[&one, &cosine])
    }

    /// (N, 1, H, W), fine cells.
    fn object(&mut self, source: &Source<'_>) -> String {
        let colours = self.colours(source);
        let grids = match source.side {
            Some(side) => Grids::fixed(self, side, source.stride),
            None => {
                // a channel of each, whatever is in it
                let [from, to] = [0, 1].map(|at| self.builder.ints(&[at]));
                let coarse = self.node("Slice", "like", &[source.features, &from, &to, &to]);
                let fine = self.node("Slice", "fine.like", &[&colours.cells, &from, &to, &to]);
                Grids::any(self, &coarse, &fine, source.stride)
            }
        };
        let along = self.resemblance(source.features, &grids.contrast);
        let features = self.scaled("features.scaled", &along);
        let rows = self.node("MatMul", "features.rows", &[&grids.rows, &features]);
        let features = self.node("MatMul", "features.fine", &[&rows, &grids.columns]);
        // f + u (1 - f)
        let uniform = self.uniform(&colours.border);
        let one = self.one();
        let rest = self.node("Sub", "features.rest", &[&one, &features]);
        let rest = self.node("Mul", "features.uniform", &[&uniform, &rest]);
        let features = self.node("Add", "features.trusted", &[&features, &rest]);
        let distances = self.distances(&colours);
        let colours = self.scaled("colours.scaled", &distances);
        let both = self.node("Mul", "both", &[&features, &colours]);
        self.node("Mul", "map", &[&both, &grids.centre])
    }

    /// Features along the direction from the surroundings to the middle, (N, 1, h, w).
    fn resemblance(&mut self, features: &str, contrast: &str) -> String {
        let mean = self.node("GlobalAveragePool", "mean", &[features]);
        let less = self.node("Sub", "less", &[features, &mean]);
        let square = self.node("Mul", "variance.square", &[&less, &less]);
        let variance = self.node("GlobalAveragePool", "variance", &[&square]);
        let deviation = self.node("Sqrt", "deviation", &[&variance]);
        let standard = self.over("standard", &less, &deviation);
        let cells = self.unit("cells", &standard);
        let weighted = self.node("Mul", "weighted", &[&cells, contrast]);
        let direction = self.sum("direction", &weighted, &[2, 3]);
        let products = self.node("Mul", "products", &[&cells, &direction]);
        self.sum("along", &products, &[1])
    }

    fn colours(&mut self, source: &Source<'_>) -> Colours {
        let cells = self.means("colours.mean", source.pixels, [rule::fine(source.stride); 2]);
        // From normalised values; what is added to all of them cancels in distances.
        let std = source.contract.std;
        let row = |row: [f64; 3]| row.into_iter().zip(std).map(|(w, s)| (w * f64::from(s)) as f32);
        let weights = OPPONENT.into_iter().flat_map(row).collect();
        let weights = self.constant("colours.weight", &[3, 3, 1, 1], weights);
        let cells = self.node("Conv", "colours.opponent", &[&cells, &weights]);
        let border = self.sides("colours.sides", &cells, SEGMENT);
        let mean = self.node("GlobalAveragePool", "colours.border.mean", &[&border]);
        let cells = self.node("Sub", "colours.cells", &[&cells, &mean]);
        let border = self.node("Sub", "colours.border", &[&border, &mean]);
        Colours { cells, border }
    }

    /// How uniform the border is, 0..1, (N, 1, 1, 1).
    fn uniform(&mut self, border: &str) -> String {
        let order = Attribute::Ints("perm", vec![0, 1, 3, 2]);
        let down = self.with("Transpose", "uniform.down", &[border], vec![order]);
        let apart = self.node("Sub", "uniform.apart", &[&down, border]);
        let square = self.node("Mul", "uniform.square", &[&apart, &apart]);
        let squares = self.sum("uniform.squares", &square, &[1]);
        let factor = self.constant("uniform.factor", &[], vec![(-0.5 / (ALIKE * ALIKE)) as f32]);
        let exponent = self.node("Mul", "uniform.exponent", &[&squares, &factor]);
        let alike = self.node("Exp", "uniform.alike", &[&exponent]);
        self.node("GlobalAveragePool", "uniform", &[&alike])
    }

    /// How far the colour of each fine cell is from the border's nearest, (N, 1, H, W): |c - b|^2 as |c|^2 + (|b|^2 - 2 c b),
    /// because differences of all pairs would take three times the memory.
    fn distances(&mut self, colours: &Colours) -> String {
        let order = |axes: [i64; 4]| vec![Attribute::Ints("perm", axes.to_vec())];
        let minus_two = self.constant("colours.minus_two", &[], vec![-2.0]);
        let length = |part: &mut Self, leaf: &str, x: &str| {
            let square = part.node("Mul", &format!("{leaf}.square"), &[x, x]);
            part.sum(leaf, &square, &[1])
        };
        let of_cells = length(self, "colours.cells.length", &colours.cells);
        let of_border = length(self, "colours.border.length", &colours.border); // (N, 1, 1, n)
        let cells = self.with("Transpose", "colours.cells.last", &[&colours.cells], order([0, 2, 3, 1]));
        let border = self.with("Transpose", "colours.border.first", &[&colours.border], order([0, 2, 1, 3]));
        let border = self.node("Mul", "colours.border.scaled", &[&border, &minus_two]); // (N, 1, 3, n)
        let products = self.node("MatMul", "colours.products", &[&cells, &border]); // (N, H, W, n)
        let pairs = self.node("Add", "colours.pairs", &[&products, &of_border]);
        let nearest = self.nearest("colours.nearest", &pairs);
        let nearest = self.with("Transpose", "colours.nearest.first", &[&nearest], order([0, 3, 1, 2]));
        let square = self.node("Add", "colours.squares", &[&nearest, &of_cells]);
        let square = self.node("Relu", "colours.squares.rounded", &[&square]);
        self.node("Sqrt", "colours.distance", &[&square])
    }

    /// The smallest value along the last of four axes, which stays.
    fn nearest(&mut self, leaf: &str, x: &str) -> String {
        let mut attributes = vec![Attribute::Int("keepdims", 1)];
        if self.opset < AXES_AS_INPUT {
            attributes.push(Attribute::Ints("axes", vec![3]));
            return self.with("ReduceMin", leaf, &[x], attributes);
        }
        let axes = self.builder.ints(&[3]);
        self.with("ReduceMin", leaf, &[x, &axes], attributes)
    }
}

/// Colours of fine cells (N, 3, H, W), and those of the border (N, 3, 1, n), both less the mean of the latter.
struct Colours {
    cells: String,
    border: String,
}

/// What depends on the sizes of the grids alone.
struct Grids {
    /// The Gaussian in the middle, (1, 1, H, W), fine cells.
    centre: String,
    /// Weights that take the mean under the Gaussian less the mean outside, (1, 1, h, w).
    contrast: String,
    /// Weights that make fine rows of rows, (1, 1, H, h), and fine columns of columns, (1, 1, w, W).
    rows: String,
    columns: String,
}

impl Grids {
    fn fixed(part: &mut Part<'_, '_>, side: usize, stride: usize) -> Self {
        let (cells, fine) = (side.div_ceil(stride), side.div_ceil(rule::fine(stride)));
        let rows = rule::between(cells, stride, fine);
        let columns = (0..cells * fine).map(|i| rows[i % fine * cells + i / fine]).collect();
        let contrast = prior::contrast(&prior::centre(cells, cells));
        Self {
            centre: part.constant("centre", &[1, 1, fine, fine], prior::centre(fine, fine)),
            contrast: part.constant("contrast", &[1, 1, cells, cells], contrast),
            rows: part.constant("between.rows", &[1, 1, fine, cells], rows),
            columns: part.constant("between.columns", &[1, 1, cells, fine], columns),
        }
    }

    /// For maps whose size shows when they are made. Positions are counted by running sums, because runtimes compute with
    /// shapes on the CPU, which a session on another device has to leave for it. `coarse` is (N, 1, h, w), `fine` (N, 1, H, W).
    fn any(part: &mut Part<'_, '_>, coarse: &str, fine: &str, stride: usize) -> Self {
        let zero = part.constant("zero", &[], vec![0.0]);
        let one = part.one();
        let mut counted = |prefix: &str, like: &str| {
            let none = part.node("Mul", &format!("{prefix}none"), &[like, &zero]);
            let ones = part.node("Add", &format!("{prefix}ones"), &[&none, &one]);
            [("rows", 2), ("columns", 3)]
                .map(|(leaf, axis)| Count::along(part, &ones, &format!("{prefix}{leaf}"), axis))
        };
        let (coarse, fine) = (counted("", coarse), counted("fine.", fine));
        let inside = Self::gaussian(part, "", &coarse);
        let outside = part.node("Sub", "outside", &[&one, &inside]);
        let [inner, outer] = [("inner", &inside), ("outer", &outside)].map(|(leaf, weights)| {
            let sum = part.sum(&format!("{leaf}.sum"), weights, &[2, 3]);
            part.node("Div", leaf, &[weights, &sum])
        });
        let contrast = part.node("Sub", "contrast", &[&inner, &outer]);
        let centre = Self::gaussian(part, "fine.", &fine);
        let scale = (rule::fine(stride) as f64 / stride as f64) as f32;
        let rows = Self::between(part, "between.rows", 2, (&coarse[0], &fine[0]), scale);
        let columns = Self::between(part, "between.columns", 3, (&coarse[1], &fine[1]), scale);
        Self { centre, contrast, rows, columns }
    }

    fn gaussian(part: &mut Part<'_, '_>, prefix: &str, counts: &[Count; 2]) -> String {
        let [rows, columns] = counts.each_ref().map(|count| count.exponent(part));
        let exponent = part.node("Add", &format!("{prefix}centre.exponent"), &[&rows, &columns]);
        part.node("Exp", &format!("{prefix}centre"), &[&exponent])
    }

    /// Weights of cells for fine cells along an axis: of the middles' distance in cells, 1 less it, where that is
    /// positive. (N, 1, H, h) for rows, (N, 1, w, W) for columns.
    fn between(
        part: &mut Part<'_, '_>,
        leaf: &str,
        axis: i64,
        (coarse, fine): (&Count, &Count),
        scale: f32,
    ) -> String {
        let name = |step: &str| format!("{leaf}.{step}");
        let half = part.constant(&name("half"), &[], vec![0.5]);
        let zero = part.constant(&name("zero"), &[], vec![0.0]);
        let one = part.one();
        let scale = part.constant(&name("scale"), &[], vec![scale]);
        let last = part.node("Sub", &name("last"), &[&coarse.size, &one]);
        let [coarse, fine] =
            [(coarse, "coarse"), (fine, "fine")].map(|(count, of)| count.line(part, &name(of), axis));
        // middles of fine cells, in cells from the first cell's middle
        let fine = part.node("Sub", &name("middle"), &[&fine, &half]);
        let fine = part.node("Mul", &name("scaled"), &[&fine, &scale]);
        let fine = part.node("Sub", &name("position"), &[&fine, &half]);
        let fine = part.node("Max", &name("from"), &[&fine, &zero]);
        let fine = part.node("Min", &name("to"), &[&fine, &last]);
        let coarse = part.node("Sub", &name("cell"), &[&coarse, &one]);
        let order = Attribute::Ints("perm", vec![0, 1, 3, 2]);
        let coarse = part.with("Transpose", &name("cells"), &[&coarse], vec![order]);
        let apart = part.node("Sub", &name("apart"), &[&fine, &coarse]);
        let apart = part.node("Abs", &name("distance"), &[&apart]);
        let weight = part.node("Sub", &name("weight"), &[&one, &apart]);
        part.node("Relu", leaf, &[&weight])
    }
}

/// The places of a grid's cells along one axis, from 1.
struct Count {
    leaf: String,
    /// (N, 1, h, w).
    count: String,
    /// How many there are, (N, 1, 1, 1).
    size: String,
}

impl Count {
    fn along(part: &mut Part<'_, '_>, ones: &str, leaf: &str, axis: i64) -> Self {
        let at = part.builder.int(axis);
        let count = part.node("CumSum", &format!("{leaf}.count"), &[ones, &at]);
        let size = part.node("GlobalMaxPool", &format!("{leaf}.size"), &[&count]);
        Self { leaf: leaf.to_owned(), count, size }
    }

    /// Those of one line of the grid: (N, 1, h, 1) along rows, (N, 1, 1, w) along columns.
    fn line(&self, part: &mut Part<'_, '_>, leaf: &str, axis: i64) -> String {
        let [from, to] = [0, 1].map(|at| part.builder.ints(&[at]));
        let across = part.builder.ints(&[5 - axis]);
        part.node("Slice", leaf, &[&self.count, &from, &to, &across])
    }

    /// The Gaussian's exponent along the axis, (N, 1, h, w).
    fn exponent(&self, part: &mut Part<'_, '_>) -> String {
        let name = |step: &str| format!("{}.{step}", self.leaf);
        let half = part.constant(&name("half"), &[], vec![0.5]);
        let middle = part.node("Sub", &name("middle"), &[&self.count, &half]);
        let share = part.node("Div", &name("share"), &[&middle, &self.size]);
        let offset = part.node("Sub", &name("offset"), &[&share, &half]);
        let square = part.node("Mul", &name("square"), &[&offset, &offset]);
        let factor = part.constant(&name("factor"), &[], vec![(-0.5 / (SIGMA * SIGMA)) as f32]);
        part.node("Mul", &self.leaf, &[&square, &factor])
    }
}
