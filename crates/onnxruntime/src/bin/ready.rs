//! `ready MODEL PROVIDER BATCH SECONDS`: how many pictures a second ONNX Runtime alone encodes, from tensors that lie ready
//! in (pinned) memory, without files, decoding or HTTP. Prints one JSON object. The peer of a served model on a machine
//! that has no ONNX Runtime for Python.

use std::error::Error;
use std::time::{Duration, Instant};

use occlude_onnxruntime::environment;
use ort::ep::{CUDA, ExecutionProviderDispatch, TensorRT};
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{IoBinding, Session};
use ort::value::{DynTensor, TensorElementType, ValueType};

type Failure = Box<dyn Error>;

/// Runs before the clock starts: the first ones choose algorithms and take memory.
const WARM: usize = 3;

struct Job {
    model: String,
    provider: String,
    batch: i64,
    time: Duration,
}

impl Job {
    fn parse(words: &[String]) -> Result<Self, Failure> {
        let [model, provider, batch, seconds] = words else {
            return Err("usage: ready MODEL cpu|cuda|tensorrt BATCH SECONDS".into());
        };
        let (batch, seconds): (i64, f64) = (batch.parse()?, seconds.parse()?);
        if batch < 1 {
            return Err(format!("a batch of {batch} pictures; hint: at least 1").into());
        }
        let time = Duration::try_from_secs_f64(seconds)?;
        Ok(Self { model: model.clone(), provider: provider.clone(), batch, time })
    }

    /// No provider falls back to another in silence.
    fn providers(&self) -> Result<Vec<ExecutionProviderDispatch>, Failure> {
        match self.provider.as_str() {
            "cpu" => Ok(Vec::new()),
            "cuda" => Ok(vec![CUDA::default().build().error_on_failure()]),
            "tensorrt" => Ok(vec![
                TensorRT::default().with_fp16(true).build().error_on_failure(),
                CUDA::default().build().error_on_failure(),
            ]),
            other => Err(format!("unknown provider `{other}`; hint: use `cpu`, `cuda` or `tensorrt`").into()),
        }
    }
}

/// The shape of the model's input for a batch: free sides but the first are taken from the contract's crop.
fn shape(session: &Session, batch: i64) -> Result<(String, TensorElementType, Vec<i64>), Failure> {
    let input = session.inputs().first().ok_or("the model has no input")?;
    let ValueType::Tensor { ty, shape, .. } = input.dtype() else {
        return Err(format!("the input `{}` is not a tensor", input.name()).into());
    };
    let mut sides: Vec<i64> = shape.iter().copied().collect();
    if let Some(first) = sides.first_mut() {
        *first = batch;
    }
    if sides.iter().any(|&side| side < 1) {
        return Err(format!("the input `{}` has dynamic sides: {sides:?}", input.name()).into());
    }
    Ok((input.name().to_owned(), *ty, sides))
}

/// Memory for inputs and outputs: pinned for a GPU, so that copies run at full speed.
fn memory(session: &Session, job: &Job) -> Result<[Allocator; 2], Failure> {
    if job.provider == "cpu" {
        return Ok([Allocator::default(), Allocator::default()]);
    }
    let pinned = |kind| {
        let info = MemoryInfo::new(AllocationDevice::CUDA, 0, AllocatorType::Device, kind)?;
        Allocator::new(session, info)
    };
    Ok([pinned(MemoryType::CPUInput)?, pinned(MemoryType::CPUOutput)?])
}

/// A binding of all outputs, and the input, which is copied to the device each time it is bound.
fn bind(session: &Session, job: &Job) -> Result<(IoBinding, String, DynTensor), Failure> {
    let (name, kind, sides) = shape(session, job.batch)?;
    let [inputs, outputs] = memory(session, job)?;
    let mut binding = session.create_binding()?;
    for output in session.outputs() {
        binding.bind_output_to_device(output.name(), outputs.memory_info())?;
    }
    Ok((binding, name, DynTensor::new(&inputs, kind, sides)?))
}

/// Numbers that are neither all alike nor out of range, from one seed.
fn fill(input: &mut DynTensor) -> Result<(), Failure> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    if let Ok((_, values)) = input.try_extract_tensor_mut::<f32>() {
        values.iter_mut().for_each(|v| *v = f32::from(next()) / 64.0 - 2.0);
        return Ok(());
    }
    let (_, values) = input.try_extract_tensor_mut::<u8>()?;
    values.iter_mut().for_each(|v| *v = next());
    Ok(())
}

fn measure(job: &Job) -> Result<f64, Failure> {
    let builder = Session::builder(environment()?)?.with_execution_providers(job.providers()?);
    let mut session = builder.map_err(|e| e.to_string())?.commit_from_file(&job.model)?;
    let (mut binding, name, mut input) = bind(&session, job)?;
    fill(&mut input)?;
    let mut once = || -> Result<(), Failure> {
        binding.bind_input(&name, &input)?;
        binding.synchronize_inputs()?;
        let _outputs = session.run_binding(&binding)?;
        binding.synchronize_outputs()?;
        Ok(())
    };
    (0..WARM).try_for_each(|_| once())?;
    let (start, mut runs) = (Instant::now(), 0);
    while runs == 0 || start.elapsed() < job.time {
        once()?;
        runs += 1;
    }
    Ok((runs * job.batch) as f64 / start.elapsed().as_secs_f64())
}

fn run() -> Result<(), Failure> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let job = Job::parse(&words)?;
    println!("{{\"images_per_second\": {:.3}, \"batch\": {}}}", measure(&job)?, job.batch);
    Ok(())
}

fn main() {
    if let Err(error) = run() {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}
