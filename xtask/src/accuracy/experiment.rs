//! An experiment: what a call asks for, made whole; its folder; its runs.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Args;
use super::arms::{self, Arm};
use super::flags::Flags;
use super::rows::Budget;
use crate::{files, paths, sh};

/// Endings of the files that count as pictures when steps become epochs.
const ENDINGS: [&str; 8] = ["jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff"];
/// Runs side by side on a GPU, which a small encoder does not fill.
const JOBS_ON_CUDA: usize = 4;

/// Pictures with classes, in two parts.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Data {
    /// The folder's name.
    pub(super) name: String,
    folder: PathBuf,
    /// Pictures to train on.
    pub(super) pictures: u32,
    /// A hash of the names and sizes of all its pictures, wherever it lies.
    pub(super) identity: String,
}

impl Data {
    fn open(folder: &Path) -> Result<Self> {
        for part in ["train", "test"] {
            let part = folder.join(part);
            ensure!(
                part.is_dir(),
                "`{}` is not a folder\nhint: DATA has `train` and `test`, each with one sub-folder per class",
                part.display()
            );
        }
        let folder = folder.canonicalize().with_context(|| format!("no folder `{}`", folder.display()))?;
        let name = folder.file_name().and_then(|name| name.to_str());
        let name =
            name.with_context(|| format!("the name of `{}` is not text", folder.display()))?.to_owned();
        let [train, test] = [folder.join("train"), folder.join("test")];
        let [(pictures, of_train), (_, of_test)] = [listed(&train)?, listed(&test)?];
        ensure!(pictures > 0, "`{}` has no pictures", train.display());
        Ok(Self { name, folder, pictures, identity: format!("{of_train}{of_test}") })
    }

    pub(super) fn part(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// How many pictures a folder has, and a hash of their names and sizes.
fn listed(folder: &Path) -> Result<(u32, String)> {
    let mut named = Vec::new();
    for path in files::below(folder, &ENDINGS)? {
        let size = fs::metadata(&path).with_context(|| format!("cannot read `{}`", path.display()))?.len();
        let name = path.strip_prefix(folder).unwrap_or(&path).as_os_str().as_encoded_bytes().to_owned();
        named.push((name, size));
    }
    named.sort();
    let mut hash = Sha256::new();
    for (name, size) in &named {
        hash.update((name.len() as u64).to_le_bytes());
        hash.update(name);
        hash.update(size.to_le_bytes());
    }
    let hash = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    Ok((named.len() as u32, hash))
}

/// What a call asks for.
pub(super) struct Experiment {
    pub(super) out: PathBuf,
    pub(super) data: Vec<Data>,
    pub(super) arms: Vec<Arm>,
    pub(super) seeds: u32,
    pub(super) jobs: usize,
    /// The trainer that all runs of the folder have.
    program: PathBuf,
    /// Numbers that whitened features have; none where the program cannot whiten.
    pub(super) whiten: Option<u32>,
    /// Whether the program says of every picture whether it was right.
    pub(super) per_picture: bool,
    device: String,
    threads: Option<u32>,
    length: Length,
    saliency_stage: u32,
    /// Of every arm that says nothing else.
    shared: Flags,
}

/// How long a run is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Length {
    Epochs(u32),
    /// As many epochs as have at least these steps.
    Steps(u32),
}

impl Experiment {
    /// Makes sense of the options, before anything is written.
    pub(super) fn open(args: &Args) -> Result<Self> {
        let data = args.data.iter().map(|folder| Data::open(folder)).collect::<Result<Vec<_>>>()?;
        for (i, set) in data.iter().enumerate() {
            ensure!(
                data[..i].iter().all(|d| d.name != set.name),
                "two data sets are called `{}`\nhint: their runs are named after the folder; rename one, or link to it by another name",
                set.name
            );
        }
        let length = args.epochs.map_or(Length::Steps(args.steps), Length::Epochs);
        ensure!(args.seeds > 0, "`--seeds` must be at least 1");
        ensure!(
            !matches!(length, Length::Epochs(0) | Length::Steps(0)),
            "`--epochs` and `--steps` must be at least 1"
        );
        ensure!(args.minutes.is_none_or(|m| m > 0.0), "`--minutes` must be above 0");
        let mut shared = Flags::parse(&args.shared).context("`--shared`")?;
        for kept in ["--seed", "--out", "--resume", "--device", "--epochs"] {
            ensure!(
                shared.get(kept).is_none(),
                "`--shared {}`: `{kept}` cannot be shared that way",
                args.shared
            );
        }
        shared.or("--arch", &args.arch);
        shared.or("--image-size", &args.image_size);
        shared.or("--batch-size", &args.batch_size);
        Ok(Self {
            out: std::path::absolute(&args.out)?,
            data,
            arms: arms::choose(&args.arms, args.set, &args.own)?,
            seeds: args.seeds,
            jobs: args.jobs.unwrap_or(1).max(1),
            program: PathBuf::new(),
            whiten: Some(args.whiten),
            per_picture: false,
            device: args.device.clone(),
            threads: args.threads,
            length,
            saliency_stage: args.saliency_stage,
            shared,
        })
    }

    /// Takes the trainer as it is now, or as the folder began with; finds out what it can do, and whether it knows every
    /// arm's flags.
    pub(super) fn prepare(&mut self, jobs: Option<usize>) -> Result<Vec<String>> {
        let mut notes = Vec::new();
        self.program = program(&self.out, &mut notes)?;
        let help = |task: &str| sh::capture(sh::command(&self.program).args([task, "--help"]));
        let (knn, linear) = (help("knn")?, help("linear")?);
        self.per_picture = knn.contains("--per-picture") && linear.contains("--per-picture");
        if !knn.contains("--whiten") {
            self.whiten = None;
            notes.push("the trainer cannot whiten: the whitened columns are left out".into());
        }
        // one data set is enough: between them flags differ by the number of epochs alone
        if let Some(data) = self.data.first() {
            self.arms.iter().try_for_each(|arm| self.known(arm, data))?;
        }
        if jobs.is_none() && self.on_cuda()? {
            self.jobs = JOBS_ON_CUDA;
            notes.push(format!("a GPU: {JOBS_ON_CUDA} runs side by side (`--jobs` changes that)"));
        }
        Ok(notes)
    }

    /// # Errors
    /// Where the trainer does not take an arm's flags.
    fn known(&self, arm: &Arm, data: &Data) -> Result<()> {
        let run = Run { arm, data, seed: 0 };
        if run.folder(&self.out).exists() {
            // the trainer of this folder took them
            return Ok(());
        }
        let flags = self.flags(run)?;
        let mut command = sh::command(&self.program);
        command.arg("pretrain").arg(data.part("train")).args(flags.words()).arg("--show-config");
        sh::capture(&mut command).with_context(|| {
            format!(
                "the trainer does not accept the flags of the arm `{}`\nhint: `--arms` names the arms to run",
                arm.name
            )
        })?;
        Ok(())
    }

    fn on_cuda(&self) -> Result<bool> {
        if self.device != "auto" {
            return Ok(self.device.starts_with("cuda"));
        }
        let said = sh::capture(sh::command(&self.program).args(["doctor", "--json"]))?;
        let said: Value =
            serde_json::from_str(&said).context("`occlude-train doctor --json` printed no JSON")?;
        Ok(said["cuda"] == true)
    }

    /// All runs, in order: every arm of a seed before the next seed, so that what is there is paired whenever it stops.
    pub(super) fn runs(&self) -> Vec<Run<'_>> {
        let mut runs = Vec::new();
        for seed in 0..self.seeds {
            for data in &self.data {
                runs.extend(self.arms.iter().map(|arm| Run { arm, data, seed }));
            }
        }
        runs
    }

    /// Flags of `pretrain` for a run, all of them but where and on what it computes.
    pub(super) fn flags(&self, run: Run<'_>) -> Result<Flags> {
        let own = run.arm.own();
        let batch = own.number("--batch-size").or(self.shared.number("--batch-size")).unwrap_or(1).max(1);
        let steps = run.data.pictures / batch;
        ensure!(
            steps > 0,
            "`{}` has {} pictures to train on, fewer than the {batch} of a batch\nhint: a smaller `--batch-size`",
            run.data.name,
            run.data.pictures
        );
        let epochs = own.number("--epochs").unwrap_or(match self.length {
            Length::Epochs(epochs) => epochs,
            Length::Steps(wanted) => wanted.div_ceil(steps),
        });
        let mut shared = self.shared.clone();
        shared.or("--epochs", &epochs);
        let budget = Budget { saliency_stage: self.saliency_stage, epochs };
        let mut flags = shared.with(&run.arm.flags(budget));
        flags.or("--seed", &run.seed);
        Ok(flags)
    }

    /// The trainer, to do `task`.
    pub(super) fn tool(&self, task: &str) -> Command {
        let mut command = sh::command(&self.program);
        command.arg(task).args(["--device", &self.device]);
        let threads = self.threads.or((self.jobs > 1 && !self.device.starts_with("cuda")).then_some(1));
        if let Some(threads) = threads.map(|n| n.to_string()) {
            command.args(["--threads", &threads, "--workers", &threads]);
        }
        command
    }

    /// What is the same for all runs, for the table's reader.
    pub(super) fn describe(&self) -> Value {
        let data: Vec<Value> =
            self.data.iter().map(|d| json!({ "name": d.name, "pictures": d.pictures })).collect();
        let (unit, length) = match self.length {
            Length::Epochs(n) => ("epochs", n),
            Length::Steps(n) => ("steps", n),
        };
        json!({ "data": data, "seeds": self.seeds, unit: length, "shared": self.shared.to_string(), "whiten": self.whiten })
    }
}

/// One arm with one seed on one data set.
#[derive(Clone, Copy)]
pub(super) struct Run<'a> {
    pub(super) arm: &'a Arm,
    pub(super) data: &'a Data,
    pub(super) seed: u32,
}

impl Run<'_> {
    /// Its folder in that of the experiment.
    pub(super) fn folder(&self, out: &Path) -> PathBuf {
        out.join(&self.data.name).join(format!("{}-{}", self.arm.name, self.seed))
    }

    /// For people.
    pub(super) fn name(&self) -> String {
        format!("{}, {}, seed {}", self.data.name, self.arm.name, self.seed)
    }
}

/// The copy of the trainer in the experiment's folder: days of runs are to be those of one program, whatever is built
/// meanwhile.
fn program(out: &Path, notes: &mut Vec<String>) -> Result<PathBuf> {
    let (now, kept) = (paths::tool("occlude-train"), out.join("occlude-train"));
    if !kept.exists() {
        let part = out.join("occlude-train.part");
        fs::copy(&now, &part)
            .with_context(|| format!("cannot copy `{}` to `{}`", now.display(), part.display()))?;
        occlude_output::place(&part, &kept).with_context(|| format!("cannot write `{}`", kept.display()))?;
    } else if now.exists() && hash(&now)? != hash(&kept)? {
        notes.push(format!(
            "continuing with the trainer that the folder began with, which is not the one that is built now\nhint: another `--out` begins with that one; `{}` can be removed if both compute the same",
            kept.display()
        ));
    }
    Ok(kept)
}

fn hash(file: &Path) -> Result<Vec<u8>> {
    let bytes = fs::read(file).with_context(|| format!("cannot read `{}`", file.display()))?;
    Ok(Sha256::digest(bytes).to_vec())
}

/// The JSON of a file; none where the file is not there.
///
/// # Errors
/// Where it cannot be read, or is something else.
pub(super) fn read(path: &Path) -> Result<Option<Value>> {
    match fs::read_to_string(path) {
        Ok(text) => match serde_json::from_str(&text) {
            Ok(value) => Ok(Some(value)),
            Err(error) => {
                bail!("`{}` is not JSON ({error})\nhint: remove it, and it is made again", path.display())
            }
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read `{}`", path.display())),
    }
}

/// Writes JSON that is whole or absent.
pub(super) fn write(path: &Path, value: &Value) -> Result<()> {
    occlude_output::write(path, |out| writeln!(out, "{value:#}"))
        .with_context(|| format!("cannot write `{}`", path.display()))
}
