//! Models that clients load and unload, from folders that the operator names.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::Sender;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::config::ModelFile;

/// What the loading thread is told to do.
pub(crate) enum Order {
    /// Load again what has changed.
    Look,
    /// Serve this file, in place of what has its name.
    Load(ModelFile, Done),
    /// Serve the model of this name no more.
    Unload(String, Done),
}

/// Hears how it went; a reason is for clients.
pub(crate) type Done = oneshot::Sender<Result<(), String>>;

/// Where the models come from that clients ask for.
pub(crate) struct Repository {
    folders: Vec<PathBuf>,
    /// Those that the server was started with; they stay.
    kept: Vec<ModelFile>,
    orders: Mutex<Sender<Order>>,
    /// What became of those that are not served.
    told: Mutex<BTreeMap<String, State>>,
}

/// A model of a folder that is not served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    Loading,
    Unloading,
    Failed(String),
}

/// A model as the index shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) name: String,
    /// `READY`, `LOADING`, `UNLOADING` or `UNAVAILABLE`.
    pub(crate) state: &'static str,
    pub(crate) reason: String,
}

impl Repository {
    /// The files below `folders`, beside the models that the server was started with.
    pub(crate) fn new(folders: Vec<PathBuf>, kept: Vec<ModelFile>, orders: Sender<Order>) -> Self {
        Self { folders, kept, orders: Mutex::new(orders), told: Mutex::default() }
    }

    /// The file of a model: `NAME.onnx`, or `NAME/1/model.onnx` as Triton has it. Asks the disk.
    pub(super) fn find(&self, name: &str) -> Option<ModelFile> {
        if let Some(kept) = self.kept.iter().find(|m| m.name == name) {
            return Some(kept.clone());
        }
        // A plain word leads into no other folder.
        if !ModelFile::is_name(name) || name.starts_with('.') {
            return None;
        }
        let places = |folder: &PathBuf| {
            [folder.join(format!("{name}.onnx")), folder.join(name).join("1").join("model.onnx")]
        };
        let path = self.folders.iter().flat_map(places).find(|path| path.is_file())?;
        Some(ModelFile { name: name.to_owned(), path })
    }

    /// Names of all models that can be loaded. Asks the disk.
    pub(super) fn names(&self) -> Vec<String> {
        let entries =
            self.folders.iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten().flatten();
        let name = |entry: std::fs::DirEntry| {
            let name = entry.file_name().into_string().ok()?;
            let name = name.strip_suffix(".onnx").unwrap_or(&name).to_owned();
            self.find(&name).map(|found| found.name)
        };
        let mut names: Vec<String> = entries.filter_map(name).collect();
        names.sort();
        names.dedup();
        names
    }

    pub(super) fn tell(&self, name: &str, state: Option<State>) {
        let mut told = self.told.lock();
        match state {
            Some(state) => drop(told.insert(name.to_owned(), state)),
            None => drop(told.remove(name)),
        }
    }

    /// Whether there is a folder to load models from.
    pub(super) fn is_open(&self) -> bool {
        !self.folders.is_empty()
    }

    /// Whether the server was started with a model of this name.
    pub(super) fn keeps(&self, name: &str) -> bool {
        self.kept.iter().any(|m| m.name == name)
    }

    /// What became of the models that are not served, by their names.
    pub(super) fn told(&self) -> BTreeMap<String, State> {
        self.told.lock().clone()
    }

    /// Tells the loading thread something; whether it is there.
    pub(super) fn order(&self, order: Order) -> bool {
        self.orders.lock().send(order).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn names(repository: &Repository) -> Vec<String> {
        repository.names()
    }

    #[test]
    fn only_files_of_the_folders_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("models");
        std::fs::create_dir_all(folder.join("b/1")).unwrap();
        for file in
            ["models/a.onnx", "models/b/1/model.onnx", "models/c.txt", "models/.d.onnx", "secret.onnx"]
        {
            std::fs::write(dir.path().join(file), "x").unwrap();
        }
        let kept = ModelFile { name: "k".to_owned(), path: "elsewhere.onnx".into() };
        let (orders, _received) = std::sync::mpsc::channel();
        let repository = Repository::new(vec![folder.clone()], vec![kept.clone()], orders);
        assert_eq!(names(&repository), ["a", "b"]);
        let find = |name: &str| repository.find(name).map(|m| m.path);
        assert_eq!(find("a"), Some(folder.join("a.onnx")));
        assert_eq!(find("b"), Some(folder.join("b/1/model.onnx")));
        assert_eq!(find("k"), Some(kept.path));
        for none in
            ["", ".", "..", "c", "d", ".d", "../secret", "a.onnx", "/etc/passwd", "a/../../secret", "a\0"]
        {
            assert_eq!(find(none), None, "{none:?}");
        }
    }
}
