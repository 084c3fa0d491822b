//! Images a second from JPEG files to embeddings over HTTP: `occlude-serve` in fp32 and int8, both also on OpenVINO, a Python server of the usual
//! kind, and ONNX Runtime without any serving. All of them run side by side and are measured in turn, so that what else the
//! machine does falls on all.

use anyhow::{Context, Result, ensure};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Instant;

use super::wire::{ask_all, form, form_type, request};
use super::{Better, Figure, peer};
use crate::server::{Server, free_port};
use crate::{files, paths, sh};

/// Clients that post at the same time.
const CLIENTS: usize = 8;
/// Requests of one side in one round.
const REQUESTS: usize = 96;
/// The median of these counts.
const ROUNDS: usize = 7;
/// Fewest photos: one batch of the peer's, twice.
const FEWEST: usize = 16;
/// Most photos that are posted in turn.
const PHOTOS: usize = 64;

/// Our server on OpenVINO, in the arithmetic that suits the machine, with what `occlude-serve tune` finds on two cores.
const OPENVINO: [&str; 6] = ["--provider", "openvino", "--workers", "2", "--intra-threads", "1"];

/// What the usual server is made of.
const PACKAGES: [&str; 16] = [
    "fastapi==0.165.0",
    "starlette==1.10.0",
    "pydantic==2.14.3",
    "pydantic-core==2.50.4",
    "annotated-types==0.8.0",
    "annotated-doc==0.0.7",
    "typing-inspection==0.4.5",
    "anyio==4.16.0",
    "idna==3.20",
    "opentelemetry-api==1.45.2",
    "uvicorn==0.54.0",
    "click==8.5.1",
    "h11==0.16.0",
    "httptools==0.9.0",
    "uvloop==0.23.0",
    "python-multipart==0.0.34",
];

/// The files of the models, and the pictures.
struct Inputs {
    checkpoint: PathBuf,
    single: PathBuf,
    quantised: PathBuf,
    photos: PathBuf,
}

/// Measures with the photos of `data`, or with photos that are generated into `folder`.
pub(super) fn run(folder: &Path, data: Option<&Path>) -> Result<Vec<Figure>> {
    let inputs = inputs(folder, data)?;
    let requests = requests(&inputs.photos, FEWEST)?;
    let threads = std::thread::available_parallelism()?.get();
    let start =
        |model: &Path, name: &str, more: &[&str]| Server::start(model, None, more, &folder.join(name));
    let ours = start(&inputs.single, "serve.log", &[])?;
    let ours_int8 = start(&inputs.quantised, "serve-int8.log", &[])?;
    let openvino = match is_intel() {
        true => Some([
            start(&inputs.single, "serve-openvino.log", &OPENVINO)?,
            start(&inputs.quantised, "serve-openvino-int8.log", &OPENVINO)?,
        ]),
        false => {
            println!("  without OpenVINO, whose provider offers Intel's processors only");
            None
        }
    };
    let usual = usual(folder, &inputs.single, threads)?;
    let mut ready = Ready::start(&inputs, threads)?;
    let mut measure = |side| -> Result<Option<f64>> {
        Ok(Some(match (side, &openvino) {
            (0, _) => rate(&ours.url, &requests)?,
            (1, _) => rate(&usual.url, &requests)?,
            (2, _) => rate(&ours_int8.url, &requests)?,
            (3 | 4, None) => return Ok(None),
            (3 | 4, Some(openvino)) => rate(&openvino[side - 3].url, &requests)?,
            (other, _) => ready.rate(other - 5)?,
        }))
    };
    println!("  sides: ours, FastAPI, ours int8, OpenVINO, OpenVINO int8, ready tensors, ready tensors int8");
    let mut rates: [Vec<f64>; 7] = Default::default();
    // the first round warms everything and does not count
    for round in 0..=ROUNDS {
        for (side, rates) in rates.iter_mut().enumerate() {
            let rate = measure(side)?;
            rates.extend(rate.filter(|_| round > 0));
        }
        if round == 0 {
            continue;
        }
        let row: String = rates.iter().filter_map(|r| r.last()).map(|r| format!(" {r:>7.1}")).collect();
        println!("  round {round}:{row}");
    }
    let measured = openvino.is_some();
    drop(ready);
    [ours, ours_int8].into_iter().chain(openvino.into_iter().flatten()).try_for_each(Server::stop)?;
    let [single, fastapi, int8, fast, fast_int8, alone, alone_int8] = rates.map(median);
    let figure = |what: &str, ours, peer| Figure {
        what: what.into(),
        unit: "images/s",
        ours,
        peer,
        better: Better::Higher,
    };
    let mut figures = vec![
        figure("fp32; peer: ONNX Runtime alone, ready tensors", single, alone),
        figure("fp32; peer: FastAPI, uvicorn, Pillow", single, fastapi),
        figure("int8; peer: ONNX Runtime alone, int8", int8, alone_int8),
        figure("int8; peer: ours in fp32", int8, single),
    ];
    if measured {
        figures.push(figure("OpenVINO; peer: ours in fp32", fast, single));
        figures.push(figure("int8, OpenVINO; peer: ours in int8", fast_int8, int8));
    }
    Ok(figures)
}

fn is_intel() -> bool {
    std::fs::read_to_string("/proc/cpuinfo").is_ok_and(|said| said.contains("GenuineIntel"))
}

fn inputs(folder: &Path, data: Option<&Path>) -> Result<Inputs> {
    let [checkpoint, single, quantised, generated] =
        ["resnet50.safetensors", "fp32.onnx", "int8.onnx", "images"].map(|name| folder.join(name));
    peer(include_str!("serve_inputs.py"), &[&checkpoint, &generated])?;
    let photos = match data {
        // the tools run in the checkout's root
        Some(data) => data.canonicalize().with_context(|| format!("no folder `{}`", data.display()))?,
        None => generated,
    };
    let inputs = Inputs { checkpoint, single, quantised, photos };
    export(&inputs, &inputs.single, &[])?;
    export(&inputs, &inputs.quantised, &["--precision", "int8", "--calibrate"])?;
    Ok(inputs)
}

/// Writes a model; options that end in `--calibrate` get the photos.
fn export(inputs: &Inputs, model: &Path, options: &[&str]) -> Result<()> {
    let mut command = sh::command(paths::tool("occlude-export"));
    command.arg("onnx").arg(&inputs.checkpoint).arg(model).arg("--force").args(options);
    if !options.is_empty() {
        command.arg(&inputs.photos);
    }
    sh::capture(&mut command).map(drop)
}

/// A request for each photo: the form that both servers take.
pub(super) fn requests(photos: &Path, fewest: usize) -> Result<Vec<Vec<u8>>> {
    let mut files = files::below(photos, &["jpg", "jpeg"])?;
    files.sort();
    let step = files.len().div_ceil(PHOTOS).max(1);
    let kind = form_type();
    let one = |path: &PathBuf| -> Result<Vec<u8>> {
        let body = form(&[("photo.jpg", &fs::read(path)?)]);
        Ok(request("/v1/embed", &[("content-type", &kind)], &body))
    };
    let requests: Vec<Vec<u8>> = files.iter().step_by(step).map(one).collect::<Result<_>>()?;
    ensure!(requests.len() >= fewest, "`{}` has fewer than {fewest} JPEG files", photos.display());
    Ok(requests)
}

fn rate(url: &str, requests: &[Vec<u8>]) -> Result<f64> {
    // The first ones do not count: the threads of the side before still spin for a while.
    ask_all(url, requests, CLIENTS, CLIENTS)?;
    let start = Instant::now();
    ask_all(url, requests, CLIENTS, REQUESTS)?;
    Ok(REQUESTS as f64 / start.elapsed().as_secs_f64())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The Python server.
fn usual(folder: &Path, model: &Path, threads: usize) -> Result<Server> {
    let packages = folder.join("packages");
    super::install(&packages, &PACKAGES)?;
    let port = free_port()?;
    let mut command = sh::command(paths::python());
    command.args(["-c", include_str!("serve_fastapi.py")]).arg(&packages).arg(model);
    command.args([port.to_string(), threads.to_string()]);
    Server::launch(command, port, &folder.join("fastapi.log"))
}

/// ONNX Runtime without serving: a process that measures a block whenever it is asked.
struct Ready {
    child: Child,
    ask: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Ready {
    fn start(inputs: &Inputs, threads: usize) -> Result<Self> {
        let mut command = sh::command(paths::python());
        command.args(["-c", include_str!("serve_ready.py")]).arg(&inputs.photos).arg(threads.to_string());
        command.arg(&inputs.single).arg(&inputs.quantised).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("could not start Python")?;
        let ask = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().context("no output of Python")?);
        let mut ready = Self { child, ask, answers };
        ensure!(ready.line()? == "ready", "ONNX Runtime in Python did not start");
        Ok(ready)
    }

    /// Images/s of one of the two models.
    fn rate(&mut self, model: usize) -> Result<f64> {
        writeln!(self.ask.as_mut().context("no input of Python")?, "{model}")?;
        self.line()?.parse().context("ONNX Runtime in Python printed no figure")
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }
}

impl Drop for Ready {
    /// It ends with its input.
    fn drop(&mut self) {
        drop(self.ask.take());
        let _ = self.child.wait();
    }
}
