//! One run: pretraining, nearest neighbours, a linear classifier; each goes on, or is done again, where a call before
//! this one ended.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use super::background::{End, wait_until_left, work};
use super::experiment::{Experiment, Run, read, write};

/// What every run leaves.
pub(super) const KNN: &str = "knn.json";
pub(super) const LINEAR: &str = "linear.json";
/// Flags and seconds.
pub(super) const ABOUT: &str = "run.json";

/// A run on its way.
pub(super) struct Job<'a> {
    experiment: &'a Experiment,
    run: Run<'a>,
    folder: PathBuf,
    deadline: Option<Instant>,
}

impl<'a> Job<'a> {
    pub(super) fn new(experiment: &'a Experiment, run: Run<'a>, deadline: Option<Instant>) -> Self {
        Self { experiment, run, folder: run.folder(&experiment.out), deadline }
    }

    /// Whether nothing is left to do.
    pub(super) fn done(&self) -> bool {
        [KNN, LINEAR].iter().all(|name| self.folder.join(name).exists())
    }

    /// Trains and measures, as far as that has not been done.
    pub(super) fn work(&self, delete_checkpoints: bool) -> Result<End> {
        fs::create_dir_all(&self.folder)
            .with_context(|| format!("cannot create `{}`", self.folder.display()))?;
        if !self.begun()? {
            let mut about = self.about()?;
            about["seconds"] = json!(0.0);
            write(&self.folder.join(ABOUT), &about)?;
        }
        wait_until_left(&self.folder)?;
        for step in [Self::pretrain, Self::knn, Self::linear] {
            let began = Instant::now();
            let end = step(self)?;
            self.spent(began.elapsed().as_secs_f64())?;
            if end == End::Stopped {
                return Ok(end);
            }
        }
        if delete_checkpoints {
            self.delete()?;
        }
        Ok(End::Done)
    }

    /// What a run is, for calls after this one.
    pub(super) fn about(&self) -> Result<Value> {
        let flags = self.experiment.flags(self.run)?.words();
        let (data, whiten) = (&self.run.data.identity, self.experiment.whiten);
        Ok(json!({ "flags": flags, "data": data, "whiten": whiten }))
    }

    /// Whether an earlier call began it.
    ///
    /// # Errors
    /// Where that one had other flags, other pictures, or another whitening. Folders of earlier versions say nothing of the
    /// latter two.
    pub(super) fn begun(&self) -> Result<bool> {
        let flags = self.experiment.flags(self.run)?.words();
        let Some(about) = read(&self.folder.join(ABOUT))? else { return Ok(false) };
        let known: Vec<&str> =
            about["flags"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        ensure!(
            known == flags,
            "`{}` was begun with other flags\nthere: {}\nhere:  {}\nhint: use another `--out`, or give the arm another name",
            self.folder.display(),
            known.join(" "),
            flags.join(" ")
        );
        let now = self.about()?;
        for (key, what) in [("data", "pictures"), ("whiten", "numbers for `--whiten`")] {
            ensure!(
                about.get(key).is_none_or(|was| *was == now[key]),
                "`{}` was begun with other {what}: {} there, {} here\nhint: use another `--out`",
                self.folder.display(),
                about[key],
                now[key]
            );
        }
        Ok(true)
    }

    /// Adds up the time that the run took, over all calls.
    fn spent(&self, seconds: f64) -> Result<()> {
        let path = self.folder.join(ABOUT);
        let mut about = read(&path)?.unwrap_or_default();
        about["seconds"] = json!(about["seconds"].as_f64().unwrap_or(0.0) + seconds);
        write(&path, &about)
    }

    fn checkpoint(&self) -> Result<PathBuf> {
        let epochs = self.experiment.flags(self.run)?.number("--epochs").unwrap_or(1);
        Ok(self.folder.join(format!("checkpoint_{:04}.safetensors", epochs.saturating_sub(1))))
    }

    fn pretrain(&self) -> Result<End> {
        if self.checkpoint()?.exists() || self.done() {
            return Ok(End::Done);
        }
        let mut command = self.experiment.tool("pretrain");
        command.arg(self.run.data.part("train")).arg("--out").arg(&self.folder);
        command.args(self.experiment.flags(self.run)?.words());
        // one checkpoint at the end is enough; the one to resume from is written all along
        command.args(["--on-collapse", "warn", "--save-every", "1000000"]);
        if self.folder.join("last").exists() {
            command.arg("--resume");
        }
        work(&mut command, &self.log(), None, self.deadline)
    }

    fn knn(&self) -> Result<End> {
        let mut command = self.evaluation("knn")?;
        if !(self.run.seed == 0 && self.run.arm.has_floors()) {
            command.arg("--no-floors");
        }
        if let Some(dim) = self.experiment.whiten {
            command.args(["--whiten", &dim.to_string()]);
        }
        self.measure(command, "knn", KNN)
    }

    fn linear(&self) -> Result<End> {
        let mut command = self.evaluation("linear")?;
        command.args(["--views", "cached", "--lr", "auto"]);
        self.measure(command, "linear", LINEAR)
    }

    fn evaluation(&self, task: &str) -> Result<Command> {
        let mut command = self.experiment.tool(task);
        command.arg(self.checkpoint()?).arg(self.run.data.part("train")).arg(self.run.data.part("test"));
        command.arg("--json");
        if self.experiment.per_picture {
            command.arg("--per-picture").arg(self.per_picture(task));
        }
        Ok(command)
    }

    fn per_picture(&self, task: &str) -> PathBuf {
        self.folder.join(format!("{task}-pictures.json"))
    }

    /// Runs an evaluation whose answer gets its name once it is whole.
    fn measure(&self, mut command: Command, task: &str, name: &str) -> Result<End> {
        let (path, part) = (self.folder.join(name), self.folder.join(name).with_extension("part"));
        if path.exists() {
            return Ok(End::Done);
        }
        // of a call that was killed before its answer was whole; the trainer replaces nothing
        let left = self.per_picture(task);
        if left.exists() {
            remove(&left)?;
        }
        let end = work(&mut command, &self.log(), Some(&part), self.deadline)?;
        if end == End::Done {
            ensure!(
                read(&part)?.is_some_and(|answer| answer.is_object()),
                "`{}` holds no answer",
                part.display()
            );
            occlude_output::place(&part, &path)
                .with_context(|| format!("cannot write `{}`", path.display()))?;
        }
        Ok(end)
    }

    fn log(&self) -> PathBuf {
        self.folder.join("log.txt")
    }

    /// Removes what only going on with the training would need, and the encoder.
    fn delete(&self) -> Result<()> {
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let last = path.file_name().is_some_and(|name| name == "last");
            if last || path.extension().is_some_and(|e| e == "safetensors") {
                remove(&path)?;
            }
        }
        Ok(())
    }
}

fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    removed.with_context(|| format!("cannot remove `{}`", path.display()))
}
