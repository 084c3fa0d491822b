//! The folder of an evaluation: what was asked, where it stands, what came out. Every file is written whole or not at all.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use occlude_checkpoint::{Checkpoint, meta, save_safetensors};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::engine::snapshot::{compare, from_checkpoint, to_out};
use crate::lock::Lock;
use crate::model::Named;

const CONFIG: &str = "config.json";
const RESULT: &str = "result.json";
const STATE: &str = "state.safetensors";
/// The classifier of a linear evaluation.
pub(super) const FC: &str = "fc.safetensors";
/// The network of a fine-tuning.
pub(super) const MODEL: &str = "model.safetensors";

/// The folder of one evaluation.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    config: String,
    _lock: Lock,
}

/// Where a training stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Position {
    /// Steps done.
    pub step: u64,
    /// What is known of the epochs that are done, JSON.
    pub history: Vec<Value>,
}

impl Folder {
    /// Makes the folder, or goes on with one that was made for the same `config`.
    ///
    /// # Errors
    /// Where it belongs to something else, or cannot be written.
    pub fn open(path: &Path, config: &impl Serialize) -> Result<Self> {
        let config = serde_json::to_string(config)?;
        std::fs::create_dir_all(path).with_context(|| format!("cannot create `{}`", path.display()))?;
        let folder = Self { path: path.to_owned(), config, _lock: Lock::take(path)? };
        match folder.read::<Value>(CONFIG)? {
            None => {
                folder.unused()?;
                folder.write_text(CONFIG, &folder.config)?;
            }
            Some(saved) => folder.same(&saved)?,
        }
        Ok(folder)
    }

    /// What an evaluation writes is not to be there before its first one: it may be the checkpoint itself.
    fn unused(&self) -> Result<()> {
        let asked: Value = serde_json::from_str(&self.config)?;
        let written: &[&str] = match asked["task"].as_str() {
            Some("linear") => &[RESULT, STATE, FC],
            Some("finetune") => &[RESULT, STATE, MODEL],
            _ => &[RESULT],
        };
        let taken = written.iter().map(|name| self.file(name)).find(|file| file.exists());
        match taken {
            None => Ok(()),
            Some(file) => bail!(
                "`{}` is there and is not of an evaluation, which would write over it; hint: use another `--out`",
                file.display()
            ),
        }
    }

    fn same(&self, saved: &Value) -> Result<()> {
        let path = self.path.display();
        let now: Value = serde_json::from_str(&self.config)?;
        ensure!(
            saved.get("task").is_some(),
            "`{path}` holds something other than an evaluation; hint: use another `--out`"
        );
        let mut differences = Vec::new();
        compare("", saved, &now, &mut differences);
        ensure!(
            differences.is_empty() && saved == &now,
            "`{path}` holds another evaluation: {}; hint: use another `--out`, or the flags of the first call (`{CONFIG}` has them)",
            differences.join(", ")
        );
        Ok(())
    }

    /// The path of a file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A JSON file, `None` where it is not there.
    ///
    /// # Errors
    /// Where it cannot be read or is something else.
    pub fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let path = self.file(name);
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                let value = serde_json::from_str(&text);
                value.map(Some).with_context(|| format!("`{}` is damaged; hint: delete it", path.display()))
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).with_context(|| format!("cannot read `{}`", path.display())),
        }
    }

    /// Writes a JSON file.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn write(&self, name: &str, value: &impl Serialize) -> Result<()> {
        self.write_text(name, &serde_json::to_string(value)?)
    }

    fn write_text(&self, name: &str, text: &str) -> Result<()> {
        let path = self.file(name);
        occlude_output::write(&path, |w| writeln!(w, "{text}"))
            .with_context(|| format!("cannot write `{}`; hint: is the disk full?", path.display()))
    }

    /// The result, where the evaluation is finished.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn result<T: DeserializeOwned>(&self) -> Result<Option<T>> {
        self.read(RESULT)
    }

    /// Writes the result; the state is then no longer needed.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn finish(&self, result: &impl Serialize) -> Result<()> {
        self.write(RESULT, result)?;
        match std::fs::remove_file(self.file(STATE)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(e).with_context(|| format!("cannot remove `{}`", self.file(STATE).display()))
            }
            _ => Ok(()),
        }
    }

    /// Saves where a training stands.
    ///
    /// # Errors
    /// Where the file cannot be written; the one before is then untouched.
    pub fn save(&self, tensors: &[Named], at: &Position) -> Result<()> {
        let out = tensors.iter().map(to_out).collect::<Result<Vec<_>>>()?;
        let metadata = BTreeMap::from([
            (meta::CONFIG.into(), self.config.clone()),
            (meta::STEP.into(), at.step.to_string()),
            (meta::METRICS.into(), serde_json::to_string(&at.history)?),
        ]);
        let path = self.file(STATE);
        save_safetensors(&path, &out, &metadata)
            .with_context(|| format!("cannot save `{}`; hint: is the disk full?", path.display()))
    }

    /// Reads what [`Self::save`] wrote; `None` where nothing was.
    ///
    /// # Errors
    /// Where the file is damaged.
    pub fn load(&self) -> Result<Option<(Vec<Named>, Position)>> {
        let path = self.file(STATE);
        if !path.exists() {
            return Ok(None);
        }
        let checkpoint = Checkpoint::open(&path)?;
        let get = |key: &str| {
            let value = checkpoint.metadata().get(key);
            value.with_context(|| {
                format!("`{}` is not the state of an evaluation: it lacks `{key}`", path.display())
            })
        };
        let damaged = || format!("`{}` is damaged; hint: delete it to start again", path.display());
        let step = get(meta::STEP)?.parse().with_context(damaged)?;
        let history = serde_json::from_str(get(meta::METRICS)?).with_context(damaged)?;
        let tensors = checkpoint.tensors().map(|t| from_checkpoint(&t)).collect::<Result<Vec<_>>>();
        Ok(Some((tensors.with_context(damaged)?, Position { step, history })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use tch::Tensor;

    #[test]
    fn a_folder_belongs_to_one_configuration() {
        let dir = tempfile::tempdir().expect("a folder");
        let open = |config: Value| Folder::open(&dir.path().join("out"), &config);
        let config = json!({"task": "linear", "lr": 0.1, "steps": [1, 2]});
        open(config.clone()).expect("new").finish(&json!({"top1": 0.5})).expect("written");
        assert_eq!(open(config).expect("again").result::<Value>().expect("read"), Some(json!({"top1": 0.5})));
        let error =
            open(json!({"task": "linear", "lr": 0.2, "steps": [1, 2]})).expect_err("other").to_string();
        assert!(error.contains("`lr` was 0.1, is 0.2") && error.contains("--out"), "{error}");
        std::fs::write(dir.path().join("out/config.json"), r#"{"recipe": "moco-v2"}"#).expect("written");
        assert!(open(json!({"task": "linear"})).expect_err("a run").to_string().contains("something other"));
        std::fs::write(dir.path().join("out/config.json"), "{").expect("written");
        assert!(format!("{:#}", open(json!({})).expect_err("damaged")).contains("damaged"));
    }

    /// Of a checkpoint in the same folder, with the name that the evaluation would give to its own.
    #[test]
    fn nothing_that_is_no_evaluation_s_is_written_over() {
        let dir = tempfile::tempdir().expect("a folder");
        let open = |task: &str| Folder::open(dir.path(), &json!({ "task": task }));
        let written =
            [("finetune", MODEL), ("linear", FC), ("linear", STATE), ("finetune", STATE), ("knn", RESULT)];
        for (task, name) in written {
            let file = dir.path().join(name);
            std::fs::write(&file, "weights").expect("written");
            let error = open(task).expect_err("taken").to_string();
            assert!(error.contains(name) && error.contains("--out"), "{error}");
            assert_eq!(std::fs::read(&file).expect("read"), b"weights");
            std::fs::remove_file(&file).expect("removed");
        }
        // of others nothing is written
        std::fs::write(dir.path().join(MODEL), "weights").expect("written");
        open("knn").expect("free").write(RESULT, &json!({})).expect("written");
        open("knn").expect("its own");
    }

    #[test]
    fn states_come_back_and_damage_is_named() {
        let _alone = crate::rng::alone();
        let dir = tempfile::tempdir().expect("a folder");
        let folder = Folder::open(dir.path(), &json!({"task": "linear"})).expect("new");
        assert!(folder.load().expect("nothing yet").is_none());
        let tensor = Tensor::from_slice(&[1.5f32, -2.0]);
        let at = Position { step: 7, history: vec![json!({"epoch": 0})] };
        folder.save(&[Named::new("fc.weight", &tensor)], &at).expect("saved");
        let (tensors, back) = folder.load().expect("read").expect("there");
        assert_eq!((tensors[0].name.as_str(), &tensors[0].tensor, back), ("fc.weight", &tensor, at));
        save_safetensors(&folder.file(STATE), &[], &BTreeMap::new()).expect("written");
        assert!(folder.load().expect_err("foreign").to_string().contains("not the state of an evaluation"));
        folder.finish(&json!({})).expect("finished");
        assert!(!folder.file(STATE).exists());
    }
}
