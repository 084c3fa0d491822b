//! What goes into a session and what comes out of it: through ordinary memory, or through buffers that are bound to the
//! session for good.
//!
//! Bound buffers are for GPUs: they are pinned, so that copies to and from the device run at full speed and nothing is
//! allocated for a batch. Everything but the memory is the same for both.

use std::collections::BTreeMap;

use occlude_preprocess::{Preprocess, Rgb};
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{HasSelectedOutputs, IoBinding, OutputSelector, RunOptions, Session, SessionOutputs};
use ort::value::{Tensor, TensorRef};

use crate::batch::{Crop, EncodeError, Encoded, Features, Wants};
use crate::model::InputKind;

/// The output that features come from.
pub(super) const FEATURES: &str = "res5";

/// Every output that is read, the features last.
const OUTPUTS: [&str; 3] = ["embedding", "saliency", FEATURES];

/// Bound buffers hold at most this many times the pictures of the largest batch, all batch sizes together.
const KEPT: usize = 4;

impl From<ort::Error> for EncodeError {
    fn from(error: ort::Error) -> Self {
        Self::Runtime(error.to_string())
    }
}

/// How pictures become the input of a graph.
pub(super) struct Format {
    pub(super) contract: Preprocess,
    pub(super) input: InputKind,
}

impl Format {
    /// Values of one picture.
    fn row(&self) -> usize {
        3 * self.contract.crop as usize * self.contract.crop as usize
    }

    fn shape(&self, n: usize) -> [usize; 4] {
        let side = self.contract.crop as usize;
        match self.input {
            InputKind::Float => [n, 3, side, side],
            InputKind::Uint8 => [n, side, side, 3],
        }
    }

    /// Whether the graph can take a picture.
    pub(super) fn check(&self, image: &Crop) -> Result<(), EncodeError> {
        let crop = self.contract.crop;
        let odd = match image {
            Crop::Pixels(p) if (p.width, p.height) == (crop, crop) => return Ok(()),
            Crop::Pixels(p) => format!("a picture of {}x{}", p.width, p.height),
            Crop::Normalised(_) if self.input == InputKind::Uint8 => "floats for a graph of bytes".to_owned(),
            Crop::Normalised(v) if v.len() == self.row() => return Ok(()),
            Crop::Normalised(v) => format!("a picture of {} values", v.len()),
        };
        Err(EncodeError::Runtime(odd))
    }

    /// Writes pictures that were checked.
    fn floats(&self, images: &[Crop], out: &mut [f32]) {
        for (image, out) in images.iter().zip(out.chunks_exact_mut(self.row())) {
            match image {
                Crop::Pixels(pixels) => self.contract.normalized_into(pixels, out),
                Crop::Normalised(values) => out.copy_from_slice(values),
            }
        }
    }

    /// Likewise; a graph of bytes has been given no floats.
    fn bytes(&self, images: &[Crop], out: &mut [u8]) {
        for (image, out) in images.iter().zip(out.chunks_exact_mut(self.row())) {
            if let Crop::Pixels(pixels) = image {
                out.copy_from_slice(&pixels.data);
            }
        }
    }
}

/// The outputs that are asked for, without and with features.
pub(super) struct Selected {
    plain: RunOptions<HasSelectedOutputs>,
    features: Option<RunOptions<HasSelectedOutputs>>,
}

impl Selected {
    /// Those of a session that has been checked; features only where it has them.
    pub(super) fn new(session: &Session) -> ort::Result<Self> {
        let select = |names: &[&str]| {
            let all = names.iter().fold(OutputSelector::no_default(), |all, name| all.with(*name));
            Ok::<_, ort::Error>(RunOptions::new()?.with_outputs(all))
        };
        let has = session.outputs().iter().any(|o| o.name() == FEATURES);
        Ok(Self { plain: select(&OUTPUTS[..2])?, features: has.then(|| select(&OUTPUTS)).transpose()? })
    }

    /// Whether features can be had.
    pub(super) fn has_features(&self) -> bool {
        self.features.is_some()
    }

    fn options(&self, wants: Wants) -> &RunOptions<HasSelectedOutputs> {
        self.features.as_ref().filter(|_| wants.features).unwrap_or(&self.plain)
    }

    fn names(&self, wants: Wants) -> &'static [&'static str] {
        if wants.features && self.has_features() { &OUTPUTS } else { &OUTPUTS[..2] }
    }
}

/// Memory of the process, used again for every batch.
#[derive(Default)]
pub(super) struct Host {
    floats: Vec<f32>,
    bytes: Vec<u8>,
}

impl Host {
    /// Runs a batch and hands its outputs to `read`.
    pub(super) fn run<T>(
        &mut self,
        session: &mut Session,
        selected: &Selected,
        format: &Format,
        (images, wants): (&[Crop], Wants),
        read: impl FnOnce(&SessionOutputs<'_>) -> Result<T, EncodeError>,
    ) -> Result<T, EncodeError> {
        let (n, name, options) = (images.len(), format.input.input(), selected.options(wants));
        let outputs = match format.input {
            InputKind::Float => {
                self.floats.resize(n * format.row(), 0.0);
                format.floats(images, &mut self.floats);
                let tensor = TensorRef::from_array_view((format.shape(n), &*self.floats))?;
                session.run_with_options(ort::inputs![name => tensor], options)
            }
            InputKind::Uint8 => {
                self.bytes.resize(n * format.row(), 0);
                format.bytes(images, &mut self.bytes);
                let tensor = TensorRef::from_array_view((format.shape(n), &*self.bytes))?;
                session.run_with_options(ort::inputs![name => tensor], options)
            }
        };
        read(&outputs?)
    }
}

/// The input of one batch size.
enum Input {
    Float(Tensor<f32>),
    Uint8(Tensor<u8>),
}

/// Buffers of one batch size, bound to a session.
struct Buffers {
    binding: IoBinding,
    input: Input,
}

/// Bound buffers for each batch size that was seen, with and without features.
pub(super) struct Bound {
    input: Allocator,
    output: Allocator,
    /// Sides of each output behind the batch, in the order of [`OUTPUTS`].
    sides: Vec<Vec<i64>>,
    /// Most pictures that all buffers together are for.
    room: usize,
    buffers: BTreeMap<(usize, bool), Buffers>,
}

impl Bound {
    /// Takes buffers from `device`: pinned memory for CUDA. One ordinary run tells the shapes of the outputs.
    pub(super) fn new(
        session: &mut Session,
        selected: &Selected,
        format: &Format,
        device: &AllocationDevice<'static>,
        max_batch: usize,
    ) -> Result<Self, EncodeError> {
        let grey = Rgb::filled(format.contract.crop, format.contract.crop, [128; 3]).into();
        let wants = Wants { features: true };
        let sides = |outputs: &SessionOutputs<'_>| {
            let sides =
                |name: &&str| tensor(outputs, name).map(|(shape, _)| shape.get(1..).unwrap_or(&[]).to_vec());
            selected.names(wants).iter().map(sides).collect::<Result<Vec<_>, _>>()
        };
        let sides = Host::default().run(session, selected, format, (&[grey], wants), sides)?;
        let allocator = |kind| {
            let info = MemoryInfo::new(device.clone(), 0, AllocatorType::Device, kind)?;
            Allocator::new(session, info)
        };
        let (input, output) = (allocator(MemoryType::CPUInput)?, allocator(MemoryType::CPUOutput)?);
        Ok(Self { input, output, sides, room: KEPT * max_batch, buffers: BTreeMap::new() })
    }

    /// Runs a batch and hands its outputs to `read`.
    pub(super) fn run<T>(
        &mut self,
        session: &mut Session,
        selected: &Selected,
        format: &Format,
        (images, wants): (&[Crop], Wants),
        read: impl FnOnce(&SessionOutputs<'_>) -> Result<T, EncodeError>,
    ) -> Result<T, EncodeError> {
        let names = selected.names(wants);
        let buffers = self.of(session, format, images.len(), names)?;
        let name = format.input.input();
        // Binding is what copies the input to the device, so it is done for every batch.
        match &mut buffers.input {
            Input::Float(tensor) => {
                format.floats(images, tensor.extract_tensor_mut().1);
                buffers.binding.bind_input(name, tensor)
            }
            Input::Uint8(tensor) => {
                format.bytes(images, tensor.extract_tensor_mut().1);
                buffers.binding.bind_input(name, tensor)
            }
        }?;
        buffers.binding.synchronize_inputs()?;
        let outputs = session.run_binding(&buffers.binding)?;
        buffers.binding.synchronize_outputs()?;
        read(&outputs)
    }

    /// The buffers of a batch size, made where they are not there.
    fn of(
        &mut self,
        session: &Session,
        format: &Format,
        n: usize,
        names: &[&'static str],
    ) -> ort::Result<&mut Buffers> {
        let key = (n, names.len() == OUTPUTS.len());
        if !self.buffers.contains_key(&key) {
            // A server sees few sizes again and again; starting over bounds what the others leave behind.
            if self.buffers.keys().map(|(n, _)| n).sum::<usize>() + n > self.room {
                self.buffers.clear();
            }
            let made = self.make(session, format, n, names)?;
            self.buffers.insert(key, made);
        }
        self.buffers.get_mut(&key).ok_or_else(|| ort::Error::new("no buffers"))
    }

    fn make(
        &self,
        session: &Session,
        format: &Format,
        n: usize,
        names: &[&'static str],
    ) -> ort::Result<Buffers> {
        let mut binding = session.create_binding()?;
        for (name, sides) in names.iter().zip(&self.sides) {
            let shape: Vec<i64> = std::iter::once(n as i64).chain(sides.iter().copied()).collect();
            binding.bind_output(*name, Tensor::<f32>::new(&self.output, shape)?)?;
        }
        let input = match format.input {
            InputKind::Float => Input::Float(Tensor::new(&self.input, format.shape(n))?),
            InputKind::Uint8 => Input::Uint8(Tensor::new(&self.input, format.shape(n))?),
        };
        Ok(Buffers { binding, input })
    }
}

fn tensor<'o>(outputs: &'o SessionOutputs<'_>, name: &str) -> Result<(&'o [i64], &'o [f32]), EncodeError> {
    let output = OUTPUTS.iter().find(|known| **known == name).copied().unwrap_or("output");
    let missing = EncodeError::Output { output, got: vec![], expected: "an output".to_owned() };
    let (shape, values) = outputs.get(name).ok_or(missing)?.try_extract_tensor::<f32>()?;
    Ok((shape, values))
}

/// One result for each of `n` pictures.
pub(super) fn read(outputs: &SessionOutputs<'_>, n: usize) -> Result<Vec<Encoded>, EncodeError> {
    let mut rows = rows(n, tensor(outputs, "embedding")?, tensor(outputs, "saliency")?)?;
    if outputs.get(FEATURES).is_some() {
        let (shape, values) = tensor(outputs, FEATURES)?;
        for (row, features) in rows.iter_mut().zip(features(n, shape, values)?) {
            row.features = Some(features);
        }
    }
    Ok(rows)
}

fn wrong(n: usize, output: &'static str, got: &[i64], expected: &str) -> EncodeError {
    EncodeError::Output { output, got: got.to_vec(), expected: format!("{expected} for {n} pictures") }
}

fn size(side: i64) -> usize {
    usize::try_from(side).unwrap_or(0)
}

/// Splits the outputs into one result for each picture.
fn rows(
    n: usize,
    embedding: (&[i64], &[f32]),
    saliency: (&[i64], &[f32]),
) -> Result<Vec<Encoded>, EncodeError> {
    let (&[a, dim], &[b, h, w]) = (embedding.0, saliency.0) else {
        return Err(wrong(n, "embedding", embedding.0, "(n, d) beside a saliency of (n, h, w)"));
    };
    let (dim, grid) = (size(dim), (size(h), size(w)));
    if size(a) != n || dim == 0 {
        return Err(wrong(n, "embedding", embedding.0, "(n, d)"));
    }
    if size(b) != n || grid.0 * grid.1 == 0 {
        return Err(wrong(n, "saliency", saliency.0, "(n, h, w)"));
    }
    let pairs = embedding.1.chunks_exact(dim).zip(saliency.1.chunks_exact(grid.0 * grid.1));
    let row = |(e, s): (&[f32], &[f32])| Encoded {
        embedding: e.to_vec(),
        saliency: s.to_vec(),
        grid,
        features: None,
    };
    Ok(pairs.map(row).collect())
}

/// Splits the feature maps.
fn features(n: usize, shape: &[i64], values: &[f32]) -> Result<Vec<Features>, EncodeError> {
    let sides: Vec<usize> = shape.iter().map(|&s| size(s)).collect();
    let [rows, channels, height, width] = sides[..] else {
        return Err(wrong(n, FEATURES, shape, "(n, c, h, w)"));
    };
    if rows != n || channels * height * width == 0 {
        return Err(wrong(n, FEATURES, shape, "(n, c, h, w)"));
    }
    let row = |values: &[f32]| Features { channels, height, width, values: values.to_vec() };
    Ok(values.chunks_exact(channels * height * width).map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(embedding: &[f32], saliency: &[f32]) -> Encoded {
        Encoded { embedding: embedding.to_vec(), saliency: saliency.to_vec(), grid: (1, 3), features: None }
    }

    #[test]
    fn outputs_are_split_by_rows() {
        let made = rows(2, (&[2, 2], &[1., 2., 3., 4.]), (&[2, 1, 3], &[5., 6., 7., 8., 9., 10.])).unwrap();
        assert_eq!(made[0], encoded(&[1., 2.], &[5., 6., 7.]));
        assert_eq!(made[1], encoded(&[3., 4.], &[8., 9., 10.]));
        let maps = features(2, &[2, 2, 1, 1], &[1., 2., 3., 4.]).unwrap();
        assert_eq!(maps[1], Features { channels: 2, height: 1, width: 1, values: vec![3., 4.] });
    }

    #[test]
    fn outputs_of_other_shapes_are_errors() {
        let name = |error| match error {
            EncodeError::Output { output, .. } => output,
            other => panic!("{other:?}"),
        };
        let fails = |e: &[i64], s: &[i64]| name(rows(2, (e, &[0.0; 8]), (s, &[0.0; 8])).unwrap_err());
        assert_eq!(fails(&[2, 2, 1], &[2, 1, 1]), "embedding");
        assert_eq!(fails(&[1, 2], &[2, 1, 1]), "embedding");
        assert_eq!(fails(&[2, 0], &[2, 1, 1]), "embedding");
        assert_eq!(fails(&[2, 2], &[1, 1, 1]), "saliency");
        assert_eq!(fails(&[2, 2], &[2, 0, 1]), "saliency");
        for shape in [&[2i64, 2, 2][..], &[1, 2, 2, 1], &[2, 0, 2, 1]] {
            assert_eq!(name(features(2, shape, &[0.0; 8]).unwrap_err()), FEATURES);
        }
    }
}
