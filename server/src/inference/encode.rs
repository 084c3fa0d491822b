//! What a model is given and what it answers: the seam between the queue and ONNX Runtime.

use occlude_preprocess::Rgb;

/// What the model says about one picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Encoded {
    /// Feature vector, (D).
    pub embedding: Vec<f32>,
    /// Saliency, (h, w) row-major.
    pub saliency: Vec<f32>,
    /// Rows and columns of the saliency.
    pub grid: (usize, usize),
    /// The last feature map, where it was asked for and the model gives it.
    pub features: Option<Features>,
    /// The sum of its channels, likewise.
    pub sum: Option<Plane>,
}

/// What is wrong with an answer that has NaN or infinities: it would be kept, and found near to nothing or everything.
pub(crate) const NOT_FINITE: &str = "the model returned values that are not finite";

/// A grid of numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Plane {
    /// Rows, h.
    pub height: usize,
    /// Columns, w.
    pub width: usize,
    /// Values, (h, w) row-major.
    pub values: Vec<f32>,
}

/// The last feature map of a picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Features {
    /// Channels, C.
    pub channels: usize,
    /// Rows, h.
    pub height: usize,
    /// Columns, w.
    pub width: usize,
    /// Values, (C, h, w) row-major.
    pub values: Vec<f32>,
}

/// What is wanted of a batch besides embedding and saliency.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wants {
    /// The last feature map, where the model has an output for it. For a ResNet-50 at 224 pixels it is 392 KiB a
    /// picture: 3.1 MiB for a batch of 8 in the runtime, and as much again where the rows are handed out.
    pub features: bool,
    /// The sum of its channels, where the model has an output for that beside its saliency.
    pub sum: bool,
}

impl Wants {
    /// What either wants.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self { features: self.features || other.features, sum: self.sum || other.sum }
    }
}

/// A picture in the contract's size.
#[derive(Debug, Clone, PartialEq)]
pub enum Crop {
    /// Pixels, which are normalised on their way into the graph, or inside it.
    Pixels(Rgb),
    /// What [`occlude_preprocess::Preprocess::normalized_into`] makes of pixels, (3, H, W) row-major; for graphs that
    /// take floats.
    Normalised(Vec<f32>),
}

impl From<Rgb> for Crop {
    fn from(pixels: Rgb) -> Self {
        Self::Pixels(pixels)
    }
}

/// Runs the model on a batch: the seam between the queue and ONNX Runtime.
pub trait Encode: Send + 'static {
    /// Encodes pictures; one result each, in order. What is not wanted is not computed.
    fn encode(&mut self, images: &[Crop], wants: Wants) -> Result<Vec<Encoded>, EncodeError>;
}

/// Why a batch was not encoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The runtime refused or failed.
    #[error("the model did not run: {0}")]
    Runtime(String),
    /// The model answered in a shape that its header does not announce.
    #[error("output `{output}` has shape {got:?}, expected {expected}")]
    Output {
        /// Name of the output.
        output: &'static str,
        /// What came.
        got: Vec<i64>,
        /// What was expected, in words.
        expected: String,
    },
    /// It waited longer than it may, and was not encoded.
    #[error("it waited too long")]
    Late,
    /// The encoder panicked; the worker goes on.
    #[error("the encoder panicked")]
    Panicked,
}
