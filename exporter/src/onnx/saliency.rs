//! The output `saliency`: a map of one stage's features, by one of the rules of [`MapRule`].
//!
//! Means and extremes over a map are global pools, which need no axes: those of most reductions moved from an attribute to
//! an input in opset 18, those of `ReduceSum` in 13.

use occlude_preprocess::Preprocess;
use occlude_saliency::MapRule;
use occlude_saliency::prior::{self, SIGMA};
use occlude_saliency::rule::{OPPONENT, TINY};

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
    /// Rows and columns of the map; `None` where pictures have any size.
    pub(super) grid: Option<(usize, usize)>,
}

/// Adds the map `name`, (N, h, w).
pub(super) fn map(builder: &mut Builder<'_>, name: &str, rule: MapRule, source: &Source<'_>) {
    let mut part = Part { builder, name, opset: source.opset };
    let map = match rule {
        MapRule::Sum => {
            let axes = part.builder.ints(&[1]);
            let keep = Attribute::Int("keepdims", 0);
            part.builder.node("ReduceSum", name, &[source.features, &axes], vec![keep]);
            return;
        }
        MapRule::Border => part.border(source.features),
        MapRule::Object => part.object(source),
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

    /// The border's cells of (N, C, h, w) in a row, (N, C, 1, 2w + 2h).
    fn sides(&mut self, leaf: &str, x: &str) -> String {
        let cut = |part: &mut Self, side: &str, axis: i64, range: [i64; 2]| {
            let [from, to] = range.map(|at| part.builder.ints(&[at]));
            let axes = part.builder.ints(&[axis]);
            part.node("Slice", &format!("{leaf}.{side}"), &[x, &from, &to, &axes])
        };
        let first = [0, 1];
        let last = [-1, i64::MAX];
        let (top, bottom) = (cut(self, "top", 2, first), cut(self, "bottom", 2, last));
        let columns = [cut(self, "left", 3, first), cut(self, "right", 3, last)];
        let order = Attribute::Ints("perm", vec![0, 1, 3, 2]);
        let [left, right] = columns.map(|column| {
            let side = column.rsplit('.').next().unwrap_or_default();
            let name = format!("{leaf}.{side}.row");
            self.with("Transpose", &name, &[&column], vec![order.clone()])
        });
        let all = [top.as_str(), &bottom, &left, &right];
        self.with("Concat", leaf, &all, vec![Attribute::Int("axis", 3)])
    }

    /// (N, 1, h, w).
    fn border(&mut self, features: &str) -> String {
        let sides = self.sides("sides", features);
        let mean = self.node("GlobalAveragePool", "mean", &[&sides]);
        let mean = self.unit("direction", &mean);
        let cells = self.unit("cells", features);
        let along = self.node("Mul", "products", &[&cells, &mean]);
        let cosine = self.sum("cosine", &along, &[1]);
        let one = self.constant("one", &[], vec![1.0]);
        self.node("Sub", "unlike", &[&one, &cosine])
    }

    /// (N, 1, h, w).
    fn object(&mut self, source: &Source<'_>) -> String {
        let blob = match source.grid {
            Some(grid) => Blob::fixed(self, grid),
            None => {
                // a channel, whatever is in it
                let [from, to] = [0, 1].map(|at| self.builder.ints(&[at]));
                let like = self.node("Slice", "like", &[source.features, &from, &to, &to]);
                Blob::any(self, &like)
            }
        };
        let along = self.resemblance(source.features, &blob.contrast);
        let features = self.scaled("features.scaled", &along);
        let distances = self.colours(source);
        let colours = self.scaled("colours.scaled", &distances);
        let both = self.node("Mul", "both", &[&features, &colours]);
        self.node("Mul", "map", &[&both, &blob.centre])
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

    /// How far the mean colour of each cell is from the nearest one of the border, (N, 1, h, w).
    fn colours(&mut self, source: &Source<'_>) -> String {
        let side = source.stride as i64;
        let window = vec![
            Attribute::Ints("kernel_shape", vec![side; 2]),
            Attribute::Ints("strides", vec![side; 2]),
            Attribute::Int("ceil_mode", 1),
        ];
        let cells = self.with("AveragePool", "colours.mean", &[source.pixels], window);
        // From normalised values; what is added to all of them cancels in distances.
        let std = source.contract.std;
        let row = |row: [f64; 3]| row.into_iter().zip(std).map(|(w, s)| (w * f64::from(s)) as f32);
        let weights = OPPONENT.into_iter().flat_map(row).collect();
        let weights = self.constant("colours.weight", &[3, 3, 1, 1], weights);
        let cells = self.node("Conv", "colours.opponent", &[&cells, &weights]);
        let sides = self.sides("colours.sides", &cells);
        // (N, 3, h, w, 1) and (N, 3, 1, 1, 2w + 2h)
        let [last, second] = [4, 2].map(|axis| self.builder.ints(&[axis]));
        let cells = self.node("Unsqueeze", "colours.cells", &[&cells, &last]);
        let sides = self.node("Unsqueeze", "colours.border", &[&sides, &second]);
        let apart = self.node("Sub", "colours.apart", &[&cells, &sides]);
        let square = self.node("Mul", "colours.square", &[&apart, &apart]);
        let squares = self.sum("colours.sum", &square, &[1]);
        let nearest = self.nearest("colours.nearest", &squares);
        let nearest = self.node("Squeeze", "colours.squares", &[&nearest, &last]);
        self.node("Sqrt", "colours.distance", &[&nearest])
    }

    /// The smallest value along the last of five axes, which stays.
    fn nearest(&mut self, leaf: &str, x: &str) -> String {
        let mut attributes = vec![Attribute::Int("keepdims", 1)];
        if self.opset < AXES_AS_INPUT {
            attributes.push(Attribute::Ints("axes", vec![4]));
            return self.with("ReduceMin", leaf, &[x], attributes);
        }
        let axes = self.builder.ints(&[4]);
        self.with("ReduceMin", leaf, &[x, &axes], attributes)
    }
}

/// The Gaussian in the middle, and the weights that take the mean under it less the mean outside; (1, 1, h, w) both.
struct Blob {
    centre: String,
    contrast: String,
}

impl Blob {
    fn fixed(part: &mut Part<'_, '_>, (h, w): (usize, usize)) -> Self {
        let centre = prior::centre(h, w);
        let contrast = prior::contrast(&centre);
        let dims = [1, 1, h, w];
        Self {
            centre: part.constant("centre", &dims, centre),
            contrast: part.constant("contrast", &dims, contrast),
        }
    }

    /// For maps whose size shows when they are made. Positions are counted by running sums, because runtimes compute with
    /// shapes on the CPU, which a session on another device has to leave for it. `like` is (N, 1, h, w).
    fn any(part: &mut Part<'_, '_>, like: &str) -> Self {
        let zero = part.constant("zero", &[], vec![0.0]);
        let one = part.constant("one", &[], vec![1.0]);
        let none = part.node("Mul", "none", &[like, &zero]);
        let ones = part.node("Add", "ones", &[&none, &one]);
        let [rows, columns] =
            [("rows", 2), ("columns", 3)].map(|(leaf, axis)| Self::axis(part, &ones, leaf, axis));
        let exponent = part.node("Add", "centre.exponent", &[&rows, &columns]);
        let centre = part.node("Exp", "centre", &[&exponent]);
        let outside = part.node("Sub", "outside", &[&one, &centre]);
        let [inner, outer] = [("inner", &centre), ("outer", &outside)].map(|(leaf, weights)| {
            let sum = part.sum(&format!("{leaf}.sum"), weights, &[2, 3]);
            part.node("Div", leaf, &[weights, &sum])
        });
        let contrast = part.node("Sub", "contrast", &[&inner, &outer]);
        Self { centre, contrast }
    }

    /// The Gaussian's exponent along one axis, (N, 1, h, w).
    fn axis(part: &mut Part<'_, '_>, ones: &str, leaf: &str, axis: i64) -> String {
        let name = |step: &str| format!("{leaf}.{step}");
        let at = part.builder.int(axis);
        let count = part.node("CumSum", &name("count"), &[ones, &at]);
        let size = part.node("GlobalMaxPool", &name("size"), &[&count]);
        let half = part.constant(&name("half"), &[], vec![0.5]);
        let middle = part.node("Sub", &name("middle"), &[&count, &half]);
        let share = part.node("Div", &name("share"), &[&middle, &size]);
        let offset = part.node("Sub", &name("offset"), &[&share, &half]);
        let square = part.node("Mul", &name("square"), &[&offset, &offset]);
        let factor = part.constant(&name("factor"), &[], vec![(-0.5 / (SIGMA * SIGMA)) as f32]);
        part.node("Mul", leaf, &[&square, &factor])
    }
}
