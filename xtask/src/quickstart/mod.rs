//! `cargo xtask quickstart`: from nothing to a table, a result page and a server that has answered.

mod emoji;
mod html;
mod images;
mod page;
mod serve;
mod teacher;
mod train;

use anyhow::{Context, Result};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::{paths, setup, sh};
use images::Images;

/// The recipe that learns most in a few minutes (docs/recipes.md), and the one that has a teacher.
const RECIPE: &str = "distill";
/// Side of the training crops, and how many images a default run trains on, over all its epochs: some minutes of
/// ResNet-18 on 2 cores. Drawings of emoji need no more than 32 pixels, and many epochs, being few.
const EMOJI: (&str, usize) = ("32", 92_000);
/// The same for images of the user's.
const OWN: (&str, usize) = ("64", 30_000);
/// The same for recipes that have no teacher, whose steps take two views and two networks.
const UNTAUGHT: (&str, usize) = ("64", 24_000);
/// Numbers of a whitened embedding, where there are images enough.
const WHITENED: usize = 128;
/// Validation images that the server is asked about and the page shows.
const QUERIES: usize = 12;

/// Options of `cargo xtask quickstart`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A folder of images instead of the demo's emoji: one folder per class, or `train/` and `val/` (also
    /// `validation`, `test`) with one folder per class in each. Without a split every fifth image of a class is
    /// held back; nothing is copied
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Encoder: resnet18, resnet34, resnet50 or resnet101
    #[arg(long, default_value = "resnet18")]
    arch: String,
    /// Recipe of `occlude-train pretrain`; `distill` learns from a published network, the others from the images alone
    #[arg(long, default_value = RECIPE)]
    recipe: String,
    /// Epochs of pretraining; by default as many as take some minutes on 2 cores
    #[arg(long, value_name = "E")]
    epochs: Option<usize>,
    /// Leave the server running at the end
    #[arg(long)]
    serve: bool,
}

/// Everything that a run leaves behind, below `quickstart/`.
struct Run {
    folder: PathBuf,
    times: Vec<(&'static str, Duration)>,
}

impl Run {
    /// Either a teacher or whitening is one of them.
    const STEPS: usize = 9;

    fn log(&self, name: &str) -> PathBuf {
        self.folder.join("logs").join(format!("{name}.log"))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Runs one step under a numbered heading; an error says which step it was.
    fn step<T>(
        &mut self,
        name: &'static str,
        about: &str,
        work: impl FnOnce(&Self) -> Result<T>,
    ) -> Result<T> {
        println!("[{}/{}] {name:<10} {about}", self.times.len() + 1, Self::STEPS);
        let start = Instant::now();
        let value = work(self).with_context(|| format!("the step `{name}` of the quick start failed"))?;
        self.times.push((name, start.elapsed()));
        println!("{:17}{}", "", sh::seconds(start.elapsed()));
        Ok(value)
    }
}

/// What the result page shows.
struct Results {
    origin: String,
    /// Whether a published network taught the encoder.
    taught: bool,
    trained: train::Trained,
    knn: Value,
    verify: String,
    served: serve::Served,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let start = Instant::now();
    let mut run = Run { folder: paths::root().join("quickstart"), times: Vec::new() };
    run.step("set-up", "libtorch, ONNX Runtime, Python packages", |_| setup::run(&setup::Args::default()))?;
    run.step("build", "the four tools", |_| build())?;
    clear(&run.folder)?;
    let images = run.step("images", "a validation split", |run| images(args, run))?;
    let teacher = if args.recipe == RECIPE {
        Some(run.step("teacher", &format!("{}, a published network", teacher::NAME), |run| {
            teacher::model(&run.log("teacher"))
        })?)
    } else {
        None
    };
    let trained = pretrain(args, &mut run, &images, teacher.as_deref())?;
    // A teacher's answers are whitened before the student learns them: nothing is left to do.
    let checkpoint = if teacher.is_some() {
        trained.checkpoint.clone()
    } else {
        run.step("whiten", "by the training images, without labels", |run| {
            whiten(run, &trained.checkpoint, &images)
        })?
    };
    let whitened = teacher.is_none();
    let knn =
        run.step("kNN", "beside an untrained encoder and raw pixels", |run| knn(run, &checkpoint, &images))?;
    println!("{}\n{:17}{}", html::knn_text(&knn), "", html::verdict(&knn, whitened));
    let verify =
        run.step("export", "ONNX, checked on images; Detectron2", |run| export(run, &checkpoint, &images))?;
    let (server, served) = run.step("serve", "index, then real requests", |run| {
        serve::ask(&run.file("encoder.onnx"), &images, QUERIES, &run.log("serve"))
    })?;
    println!("{}", served.summary());
    let results =
        Results { origin: images.origin.clone(), taught: teacher.is_some(), trained, knn, verify, served };
    let page = run.step("page", "quickstart/index.html", |run| page::write(run, &results))?;
    println!("\ndone in {}: open {}", sh::seconds(start.elapsed()), page.display());
    if args.serve {
        println!("serving at {} (Ctrl-C stops it)", server.url);
        return server.wait();
    }
    server.stop()
}

/// The release binaries. Of what plain cargo would build, the second runtime of `occlude-export verify` is left out, unless it
/// is there already: it takes minutes, and nothing but that command uses it. With it go gRPC, HTTP/2 and TLS of the server.
fn build() -> Result<()> {
    let packages = paths::TOOLS.iter().flat_map(|tool| ["-p", *tool]);
    let mut cargo = sh::cargo();
    cargo.args(["build", "--release"]).args(packages);
    let built = fs::read_dir(paths::release().join("deps")).into_iter().flatten().flatten();
    if !built.map(|entry| entry.file_name()).any(|name| name.to_string_lossy().starts_with("libtract_core-"))
    {
        cargo.arg("--no-default-features");
    }
    sh::show(&mut cargo).map(|_| ())
}

/// A new run starts in an empty folder: nothing of an earlier one can be taken for its result.
fn clear(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("could not clear `{}`", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("could not make `{}`", folder.display()))
}

fn images(args: &Args, run: &Run) -> Result<Images> {
    let split = run.file("images");
    match &args.data {
        Some(data) => Images::of(data, &split),
        None => {
            let mut images = Images::of(&emoji::tree()?, &split)?;
            images.origin =
                "Noto Emoji at 64 px (Apache-2.0), npm package `emoji-datasource-google`".to_owned();
            Ok(images)
        }
    }
}

fn pretrain(args: &Args, run: &mut Run, images: &Images, teacher: Option<&Path>) -> Result<train::Trained> {
    let count = images.training()?;
    let (image_size, seen) = match (teacher, &args.data) {
        (None, _) => UNTAUGHT,
        (Some(_), None) => EMOJI,
        (Some(_), Some(_)) => OWN,
    };
    let epochs = args.epochs.unwrap_or_else(|| (seen / count).max(2));
    let about = format!("{}, {}, {epochs} epochs of {count} images", args.arch, args.recipe);
    let plan =
        train::Plan { recipe: &args.recipe, teacher, arch: &args.arch, image_size, epochs, images: count };
    run.step("pretrain", &about, |run| {
        train::pretrain(&plan, &images.train, &run.file("run"), &run.log("pretrain"))
    })
}

/// The checkpoint whose embeddings are whitened, which all that follows is about.
fn whiten(run: &Run, checkpoint: &Path, images: &Images) -> Result<PathBuf> {
    let out = run.file("encoder.safetensors");
    let dim = whitened_dim(images)?;
    let mut command = sh::command(paths::tool("occlude-train"));
    command.arg("whiten").arg(checkpoint).arg(&images.train).arg("--out").arg(&out);
    let said = sh::logged(command.args(["--dim", &dim.to_string()]), &run.log("whiten"))?;
    said.lines().filter(|line| line.starts_with("mean cosine")).for_each(|line| println!("{:17}{line}", ""));
    Ok(out)
}

/// Fewer directions than images, so that each is seen in several.
fn whitened_dim(images: &Images) -> Result<usize> {
    Ok((images.training()? / 2).clamp(1, WHITENED))
}

fn knn(run: &Run, checkpoint: &Path, images: &Images) -> Result<Value> {
    let mut command = sh::command(paths::tool("occlude-train"));
    command.arg("knn").arg(checkpoint).arg(&images.train).arg(&images.val).arg("--json");
    command.args(["--whiten", &whitened_dim(images)?.to_string()]);
    let text = sh::logged(&mut command, &run.log("knn"))?;
    fs::write(run.file("knn.json"), &text)?;
    serde_json::from_str(&text).context("`occlude-train knn --json` printed no JSON")
}

/// Writes both artefacts; returns what `verify` printed.
fn export(run: &Run, checkpoint: &Path, images: &Images) -> Result<String> {
    let log = run.log("export");
    let (onnx, pickle) = (run.file("encoder.onnx"), run.file("encoder.pkl"));
    let tool = |name: &str| sh::command(paths::tool(name));
    sh::logged(
        tool("occlude-export").arg("onnx").arg(checkpoint).arg(&onnx).args(["--input", "uint8"]),
        &log,
    )?;
    let mut verify = tool("occlude-export");
    verify.arg("verify").arg(&onnx).arg(checkpoint).args(images.samples(4)?);
    let verified = sh::logged(&mut verify, &log)?;
    sh::logged(tool("occlude-detectron").arg("convert").arg(checkpoint).arg(&pickle), &log)?;
    Ok(verified)
}
