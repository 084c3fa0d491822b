//! What goes into a session and what comes out of it: through ordinary memory, or through buffers that are bound to the
//! session for good.
//!
//! Bound buffers are for GPUs: they are pinned, so that copies to and from the device run at full speed and nothing is
//! allocated for a batch. Everything but the memory is the same for both.

use std::collections::BTreeMap;

use occlude_contract::InputKind;
use occlude_preprocess::{Preprocess, Rgb};
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{IoBinding, Session, SessionOutputs};
use ort::value::{Tensor, TensorRef};

use super::outputs::{Selected, tensor};
use crate::inference::encode::{Crop, EncodeError, Wants};

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
        self.input.shape(n, self.contract.crop as usize)
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
        let (n, name, options) = (images.len(), format.input.name(), selected.options(wants));
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

/// Bound buffers for each batch size and set of outputs that was seen.
pub(super) struct Bound {
    input: Allocator,
    output: Allocator,
    /// Sides of each output behind the batch.
    sides: BTreeMap<&'static str, Vec<i64>>,
    /// Most pictures that all buffers together are for.
    room: usize,
    buffers: BTreeMap<(usize, Wants), Buffers>,
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
        let wants = selected.all();
        let sides = |outputs: &SessionOutputs<'_>| {
            let sides = |name: &'static str| {
                let (shape, _) = tensor(outputs, name)?;
                Ok::<_, EncodeError>((name, shape.get(1..).unwrap_or(&[]).to_vec()))
            };
            selected.names(wants).map(sides).collect::<Result<_, EncodeError>>()
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
        let buffers = self.of(session, selected, format, (images.len(), selected.possible(wants)))?;
        let name = format.input.name();
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
        selected: &Selected,
        format: &Format,
        key: (usize, Wants),
    ) -> ort::Result<&mut Buffers> {
        if !self.buffers.contains_key(&key) {
            // A server sees few sizes again and again; starting over bounds what the others leave behind.
            if self.buffers.keys().map(|(n, _)| n).sum::<usize>() + key.0 > self.room {
                self.buffers.clear();
            }
            let made = self.make(session, selected, format, key)?;
            self.buffers.insert(key, made);
        }
        self.buffers.get_mut(&key).ok_or_else(|| ort::Error::new("no buffers"))
    }

    fn make(
        &self,
        session: &Session,
        selected: &Selected,
        format: &Format,
        (n, wants): (usize, Wants),
    ) -> ort::Result<Buffers> {
        let mut binding = session.create_binding()?;
        for name in selected.names(wants) {
            let sides = self.sides.get(name).map_or(&[][..], Vec::as_slice);
            let shape: Vec<i64> = std::iter::once(n as i64).chain(sides.iter().copied()).collect();
            binding.bind_output(name, Tensor::<f32>::new(&self.output, shape)?)?;
        }
        let input = match format.input {
            InputKind::Float => Input::Float(Tensor::new(&self.input, format.shape(n))?),
            InputKind::Uint8 => Input::Uint8(Tensor::new(&self.input, format.shape(n))?),
        };
        Ok(Buffers { binding, input })
    }
}
