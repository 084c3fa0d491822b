//! Augmented views straight from the bytes of a file, as fast as they can be had.
//!
//! A training view is a random crop, resized. For most JPEG files nothing else is computed here: only the blocks that
//! some crop of the picture touches are transformed, chroma is resampled once from its own resolution to the view's
//! (the interpolation that a decoder would do first is folded into the weights), and colours are converted at the
//! view's size. Pictures much larger than any view are decoded at 1/2, 1/4 or 1/8. Everything else (progressive
//! JPEG, CMYK, PNG, WebP, a file with something broken in it) goes through [`occlude_preprocess::decode()`].
//!
//! Evaluation and serving do not use this: their contract is [`occlude_preprocess::Preprocess`].

mod header;
mod idct;
mod kernel;
mod planes;
mod resample;
mod scan;
mod window;

use occlude_preprocess::{CropBox, DecodeError, Limits, Rgb, decode};

use header::Header;
use image::metadata::Orientation;
use kernel::Axis;
use planes::Plane;
use resample::{Colour, Resampler};
use scan::Scanner;
use window::Window;

/// Memory that a decoder keeps from file to file; what a giant needed more is given back.
const KEEP: usize = 32 << 20;

/// Where a view is cut out of the upright picture, and whether it is mirrored left to right.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cut {
    /// In pixels of the whole upright picture; cut to it.
    pub crop: CropBox,
    /// Mirrored.
    pub flip: bool,
}

/// How a view is made; the same for all pictures of a run, so that a picture always comes out the same.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ViewSize {
    /// Side in pixels.
    pub side: usize,
    /// The least share of the picture's area that a crop has: pictures of which even such crops have at least twice
    /// `side` pixels along both sides are decoded at a reduced size, never below `side`. 0 for always at full size.
    pub least_area: f64,
}

impl ViewSize {
    /// The side that a block of 8 samples is decoded to: 8, 4, 2 or 1.
    fn block(&self, width: usize, height: usize) -> usize {
        // the narrow side of a crop with the least area, at an aspect ratio of 3/4
        let least = (self.least_area.max(0.0) * (width * height) as f64 * 0.75).sqrt();
        let least = least.min(width.min(height) as f64);
        [1, 2, 4].into_iter().find(|&b| least * b as f64 / 8.0 >= self.side as f64).unwrap_or(8)
    }
}

/// Samples of a picture, or of the part that some views need.
#[derive(Clone, Debug)]
struct Samples {
    planes: Vec<Plane>,
    colour: Colour,
    orientation: Orientation,
    /// Size of the whole picture as it is stored.
    whole: (usize, usize),
    /// The same in samples.
    decoded: (usize, usize),
    /// Decoded samples a pixel, along a side.
    reduction: f64,
    /// Whether the second and third plane have half the columns, half the rows.
    half: (bool, bool),
}

impl Samples {
    fn empty() -> Self {
        Self {
            planes: Vec::new(),
            colour: Colour::Rgb,
            orientation: Orientation::NoTransforms,
            whole: (0, 0),
            decoded: (0, 0),
            reduction: 1.0,
            half: (false, false),
        }
    }

    fn of(image: &Rgb) -> Self {
        let size = (image.width as usize, image.height as usize);
        let planes = (0..3).map(|c| Plane::channel(image, c)).collect();
        Self { planes, whole: size, decoded: size, ..Self::empty() }
    }

    /// Sets everything but the samples.
    fn describe(&mut self, header: &Header, block: usize) {
        let n = header.components.len();
        self.planes.resize_with(n, Plane::default);
        self.colour = if n == 1 { Colour::Grey } else { Colour::YCbCr };
        self.orientation = header.orientation.unwrap_or(Orientation::NoTransforms);
        self.whole = (header.width, header.height);
        self.decoded = ((header.width * block).div_ceil(8), (header.height * block).div_ceil(8));
        self.reduction = block as f64 / 8.0;
        let (h, v) = header.sampling();
        self.half = (h == 2, v == 2);
    }
}

/// A picture decoded as a whole, to cut views from again and again ([`ViewDecoder::cut`]). JPEG files are kept as
/// luma and chroma, which for photographs is half of what RGB takes.
#[derive(Clone, Debug)]
pub struct Picture(Samples);

impl Picture {
    /// Width and height, upright.
    pub fn size(&self) -> (u32, u32) {
        upright(self.0.whole, self.0.orientation)
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        self.0.planes.iter().map(Plane::bytes).sum()
    }
}

/// Makes views; one per thread. Buffers are kept, so that decoding another file of a usual size allocates next to
/// nothing.
#[derive(Debug)]
pub struct ViewDecoder {
    limits: Limits,
    scanner: Scanner,
    samples: Samples,
    resampler: Resampler,
}

/// A file whose header was read.
#[derive(Debug)]
pub struct Opened<'a> {
    bytes: &'a [u8],
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Fast(Box<Header>),
    /// Already decoded, upright.
    Other(Rgb),
}

impl Opened<'_> {
    /// Width and height, upright.
    pub fn size(&self) -> (u32, u32) {
        match &self.kind {
            Kind::Fast(header) => upright(
                (header.width, header.height),
                header.orientation.unwrap_or(Orientation::NoTransforms),
            ),
            Kind::Other(image) => (image.width, image.height),
        }
    }
}

impl ViewDecoder {
    /// A decoder that refuses pictures past `limits`.
    pub fn new(limits: Limits) -> Self {
        Self { limits, scanner: Scanner::new(), samples: Samples::empty(), resampler: Resampler::default() }
    }

    /// Reads the header of a file. One that is not decoded the fast way is decoded here.
    ///
    /// # Errors
    /// [`DecodeError`], as [`occlude_preprocess::decode()`].
    pub fn open<'a>(&self, bytes: &'a [u8]) -> Result<Opened<'a>, DecodeError> {
        let kind = match bytes.starts_with(&[0xff, 0xd8, 0xff]).then(|| Header::read(bytes)).flatten() {
            Some(header) => {
                self.limits.check(header.width as u32, header.height as u32)?;
                Kind::Fast(Box::new(header))
            }
            None => Kind::Other(decode(bytes, &self.limits)?.image),
        };
        Ok(Opened { bytes, kind })
    }

    /// Makes one view for every element of `cuts`, into `(3, side, side)` bytes of `outs`, as that element of `sizes` says.
    /// The picture is decoded once, at the least reduction that one of them asks for.
    ///
    /// # Errors
    /// [`DecodeError`]. Of a sequential JPEG only what the crops need is looked at: something broken behind that
    /// is not found.
    ///
    /// # Panics
    /// When an element of `outs` has another length, or there are fewer of them or of `sizes` than `cuts`.
    pub fn views(
        &mut self,
        opened: &Opened<'_>,
        sizes: &[ViewSize],
        cuts: &[Cut],
        outs: &mut [&mut [u8]],
    ) -> Result<(), DecodeError> {
        let mut samples = std::mem::replace(&mut self.samples, Samples::empty());
        let result = match &opened.kind {
            Kind::Other(image) => Ok(Samples::of(image)),
            Kind::Fast(header) => match self.fast(header, opened.bytes, sizes, Some(cuts), &mut samples) {
                Some(()) => Ok(samples),
                None => decode(opened.bytes, &self.limits).map(|d| Samples::of(&d.image)),
            },
        };
        let samples = result?;
        for (i, cut) in cuts.iter().enumerate() {
            self.cut_from(&samples, sizes[i].side, cut, outs[i]);
        }
        if samples.planes.iter().map(Plane::bytes).sum::<usize>() <= KEEP {
            self.samples = samples;
        }
        Ok(())
    }

    /// Decodes the whole picture. Views cut from it equal those of [`ViewDecoder::views`] to the bit. `None` where
    /// something in the file is broken: views that do not need the broken part can still be had from there.
    pub fn picture(&mut self, opened: &Opened<'_>, sizes: &[ViewSize]) -> Option<Picture> {
        match &opened.kind {
            Kind::Other(image) => Some(Picture(Samples::of(image))),
            Kind::Fast(header) => {
                let mut samples = Samples::empty();
                self.fast(header, opened.bytes, sizes, None, &mut samples)?;
                samples.planes.iter_mut().for_each(Plane::shrink);
                Some(Picture(samples))
            }
        }
    }

    /// Cuts a view out of a whole picture.
    ///
    /// # Panics
    /// When `out` has not `3 * side * side` bytes.
    pub fn cut(&mut self, picture: &Picture, side: usize, cut: &Cut, out: &mut [u8]) {
        self.cut_from(&picture.0, side, cut, out);
    }

    /// Decodes what `cuts` need, or everything.
    fn fast(
        &mut self,
        header: &Header,
        bytes: &[u8],
        sizes: &[ViewSize],
        cuts: Option<&[Cut]>,
        samples: &mut Samples,
    ) -> Option<()> {
        let block = sizes.iter().map(|size| size.block(header.width, header.height)).max().unwrap_or(8);
        samples.describe(header, block);
        let (h, v) = header.sampling();
        let units = (header.width.div_ceil(8 * h), header.height.div_ceil(8 * v));
        let mut window = Window { x: 0..units.0, y: 0..units.1, side: block };
        if let Some(cuts) = cuts {
            let axes = cuts.iter().zip(sizes).filter_map(|(cut, size)| axes(samples, cut, size.side));
            let (mut x, mut y) = ((usize::MAX, 0), (usize::MAX, 0));
            for [across, down] in axes {
                x = (x.0.min(touched(&across).0), x.1.max(touched(&across).1));
                y = (y.0.min(touched(&down).0), y.1.max(touched(&down).1));
            }
            // interpolated chroma reaches one sample further
            let unit = |(low, high): (usize, usize), sampling: usize, units: usize| {
                let (side, margin) = (sampling * block, if sampling == 2 { 2 } else { 0 });
                let end = (high + margin).div_ceil(side).min(units);
                (low.saturating_sub(margin) / side).min(end)..end
            };
            (window.x, window.y) = (unit(x, h, units.0), unit(y, v, units.1));
        }
        self.scanner.decode(header, bytes, &window, &mut samples.planes)
    }

    fn cut_from(&mut self, samples: &Samples, side: usize, cut: &Cut, out: &mut [u8]) {
        assert_eq!(out.len(), 3 * side * side, "a view of side {side}");
        let Some([across, down]) = axes(samples, cut, side) else {
            return out.fill(0);
        };
        for (c, [x, y]) in self.resampler.kernels.iter_mut().take(samples.planes.len()).enumerate() {
            let half = (c > 0 && samples.half.0, c > 0 && samples.half.1);
            let sampled = |size: usize, half: bool| if half { size.div_ceil(2) } else { size };
            x.set(&across, sampled(samples.decoded.0, half.0), half.0);
            y.set(&down, sampled(samples.decoded.1, half.1), half.1);
        }
        self.resampler.run(&samples.planes, samples.colour, side, out);
        if turns(samples.orientation).0 {
            out.chunks_exact_mut(side * side).for_each(|plane| transpose(plane, side));
        }
    }
}

/// The pixels that an axis touches.
fn touched(axis: &Axis) -> (usize, usize) {
    let low = axis.start.floor() as usize;
    (low, ((axis.start + axis.length).ceil() as usize).max(low + 1))
}

/// A cut in terms of the decoded samples, x and y; `None` where nothing of it lies in the picture.
fn axes(samples: &Samples, cut: &Cut, side: usize) -> Option<[Axis; 2]> {
    let (swap, back_x, back_y) = turns(samples.orientation);
    let CropBox { left, top, width, height } = cut.crop;
    if [left, top, width, height].iter().any(|v| v.is_nan()) {
        return None;
    }
    let across = (left, width, cut.flip);
    let down = (top, height, false);
    let (across, down) = if swap { (down, across) } else { (across, down) };
    let reduction = samples.reduction;
    let axis = |(start, length, flip): (f64, f64, bool), whole: usize, back: bool| {
        let end = (start + length).min(whole as f64);
        let begin = start.max(0.0);
        let (begin, end) = if back { (whole as f64 - end, whole as f64 - begin) } else { (begin, end) };
        let length = (end - begin) * reduction;
        (length > 0.0 && side > 0).then_some(Axis {
            start: begin * reduction,
            length,
            n: side,
            reverse: flip != back,
        })
    };
    Some([axis(across, samples.whole.0, back_x)?, axis(down, samples.whole.1, back_y)?])
}

/// How an upright picture is read from the stored one: sides swapped; then x, y of the stored one counted from the
/// other end.
fn turns(orientation: Orientation) -> (bool, bool, bool) {
    use Orientation as O;
    match orientation {
        O::NoTransforms => (false, false, false),
        O::FlipHorizontal => (false, true, false),
        O::Rotate180 => (false, true, true),
        O::FlipVertical => (false, false, true),
        O::Rotate90 => (true, false, true),
        O::Rotate270 => (true, true, false),
        O::Rotate90FlipH => (true, false, false),
        O::Rotate270FlipH => (true, true, true),
    }
}

fn upright((width, height): (usize, usize), orientation: Orientation) -> (u32, u32) {
    let (w, h) = (width as u32, height as u32);
    if turns(orientation).0 { (h, w) } else { (w, h) }
}

fn transpose(plane: &mut [u8], side: usize) {
    for y in 0..side {
        for x in 0..y {
            plane.swap(y * side + x, x * side + y);
        }
    }
}

/// Whether the machine has the instructions of the wide code paths.
#[cfg(target_arch = "x86_64")]
fn wide() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("lzcnt")
}
