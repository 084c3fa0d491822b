//! Models that clients load and unload, from folders that the operator names.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::state::AppState;
use crate::config::ModelFile;
use crate::error::{ApiError, Kind};

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
enum State {
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
    fn find(&self, name: &str) -> Option<ModelFile> {
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
    fn names(&self) -> Vec<String> {
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

    fn tell(&self, name: &str, state: Option<State>) {
        let mut told = self.told.lock();
        match state {
            Some(state) => drop(told.insert(name.to_owned(), state)),
            None => drop(told.remove(name)),
        }
    }

    fn refused(&self, what: &str) -> Result<(), ApiError> {
        if !self.folders.is_empty() {
            return Ok(());
        }
        let message = format!("this server {what} no models on demand");
        Err(ApiError::new(Kind::Forbidden, message)
            .hint("its operator can name a folder that models may be loaded from"))
    }
}

impl AppState {
    /// Answers about a repository from now on; only the first one counts.
    pub(crate) fn set_repository(&self, repository: Repository) {
        let _ = self.0.repository.set(Arc::new(repository));
    }

    fn repository(&self) -> Result<Arc<Repository>, ApiError> {
        self.0.repository.get().cloned().ok_or_else(|| {
            ApiError::new(Kind::Forbidden, "this server loads no models on demand")
                .hint("its operator can name a folder that models may be loaded from")
        })
    }

    /// Loads a model, or looks whether the file of one that is served has changed; ends when it is served.
    pub(crate) async fn load_model(&self, name: &str) -> Result<(), ApiError> {
        let repository = self.repository()?;
        repository.refused("loads")?;
        let file = found(&repository, name).await?;
        repository.tell(name, Some(State::Loading));
        let done = order(&repository, |done| Order::Load(file, done)).await;
        let failed = done.as_ref().err().cloned();
        repository.tell(name, failed.clone().map(State::Failed));
        failed.map_or(Ok(()), |why| {
            let message = format!("the model `{name}` cannot be loaded: {why}");
            Err(ApiError::told(Kind::InvalidRequest, &message))
        })
    }

    /// Serves a model no more; ends when the last request that began with it is answered.
    pub(crate) async fn unload_model(&self, name: &str) -> Result<(), ApiError> {
        let repository = self.repository()?;
        repository.refused("unloads")?;
        if repository.kept.iter().any(|m| m.name == name) {
            let message = format!("the server was started with the model `{name}`, which stays");
            return Err(
                ApiError::new(Kind::Forbidden, message).hint("only models that were loaded can be unloaded")
            );
        }
        if !self.models().iter().any(|m| m.info.name == name) {
            found(&repository, name).await?;
        }
        repository.tell(name, Some(State::Unloading));
        let done = order(&repository, |done| Order::Unload(name.to_owned(), done)).await;
        repository.tell(name, None);
        done.map_err(|why| ApiError::new(Kind::Internal, why))
    }

    /// All models that are served or can be loaded, by name; with `ready` only the former.
    pub(crate) async fn model_index(&self, ready: bool) -> Vec<Listed> {
        let repository = self.repository().ok();
        let in_folders = match repository.clone().filter(|_| !ready) {
            Some(repository) => {
                tokio::task::spawn_blocking(move || repository.names()).await.unwrap_or_default()
            }
            None => Vec::new(),
        };
        let told = repository.map(|r| r.told.lock().clone()).unwrap_or_default();
        let mut listed: BTreeMap<String, Listed> = BTreeMap::new();
        for name in in_folders {
            let (state, reason) = match told.get(&name) {
                None => ("UNAVAILABLE", "not loaded".to_owned()),
                Some(State::Loading) => ("LOADING", String::new()),
                Some(State::Unloading) => ("UNLOADING", String::new()),
                Some(State::Failed(why)) => ("UNAVAILABLE", why.clone()),
            };
            listed.insert(name.clone(), Listed { name, state, reason });
        }
        for model in self.models() {
            let name = model.info.name.clone();
            listed.insert(name.clone(), Listed { name, state: "READY", reason: String::new() });
        }
        listed.into_values().collect()
    }
}

/// The file of a model; 404 where there is none.
async fn found(repository: &Arc<Repository>, name: &str) -> Result<ModelFile, ApiError> {
    let (asked, wanted) = (Arc::clone(repository), name.to_owned());
    let found = tokio::task::spawn_blocking(move || asked.find(&wanted)).await.unwrap_or_default();
    found.ok_or_else(|| {
        ApiError::new(Kind::ModelNotFound, format!("there is no model `{name}` to load"))
            .hint("POST /v2/repository/index lists the models that can be loaded")
    })
}

/// Has the loading thread do something, and waits until it has.
async fn order(repository: &Repository, make: impl FnOnce(Done) -> Order) -> Result<(), String> {
    let (done, heard) = oneshot::channel();
    let gone = || Err("the server is shutting down".to_owned());
    if repository.orders.lock().send(make(done)).is_err() {
        return gone();
    }
    heard.await.unwrap_or_else(|_| gone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(repository: &Repository) -> Vec<String> {
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
