//! Models that are loaded and unloaded while the server runs, because clients ask for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::repository::{Done, Listed, Order, Repository, State};
use super::state::AppState;
use crate::config::ModelFile;
use crate::error::{ApiError, Kind};

impl AppState {
    /// Answers about a repository from now on; only the first one counts.
    pub(crate) fn set_repository(&self, repository: Repository) {
        let _ = self.0.repository.set(Arc::new(repository));
    }

    fn repository(&self) -> Result<Arc<Repository>, ApiError> {
        let open = self.0.repository.get().filter(|repository| repository.is_open());
        open.cloned().ok_or_else(|| {
            ApiError::new(Kind::Forbidden, "this server loads no models on demand")
                .hint("its operator can name a folder that models may be loaded from")
        })
    }

    /// Loads a model, or looks whether the file of one that is served has changed; ends when it is served.
    pub(crate) async fn load_model(&self, name: &str) -> Result<(), ApiError> {
        let repository = self.repository()?;
        let file = found(&repository, name).await?;
        let loaded = name.to_owned();
        let done = to_the_end(async move {
            repository.tell(&loaded, Some(State::Loading));
            let done = order(&repository, |done| Order::Load(file, done)).await;
            repository.tell(&loaded, done.clone().err().map(State::Failed));
            done
        });
        done.await?.map_err(|why| {
            let message = format!("the model `{name}` cannot be loaded: {why}");
            ApiError::told(Kind::InvalidRequest, &message)
        })
    }

    /// Serves a model no more; ends when the last request that began with it is answered.
    pub(crate) async fn unload_model(&self, name: &str) -> Result<(), ApiError> {
        let repository = self.repository()?;
        if repository.keeps(name) {
            let message = format!("the server was started with the model `{name}`, which stays");
            return Err(
                ApiError::new(Kind::Forbidden, message).hint("only models that were loaded can be unloaded")
            );
        }
        if !self.models().iter().any(|m| m.info.name == name) {
            found(&repository, name).await?;
        }
        let name = name.to_owned();
        let done = to_the_end(async move {
            repository.tell(&name, Some(State::Unloading));
            let done = order(&repository, |done| Order::Unload(name.clone(), done)).await;
            repository.tell(&name, None);
            done
        });
        done.await?.map_err(|why| ApiError::new(Kind::Internal, why))
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
        let told = repository.map(|r| r.told()).unwrap_or_default();
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

/// Work that goes on when the caller is gone or out of time: the order is carried out all the same, and the index has to
/// hear how it ended.
async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, ApiError> {
    let crashed = |_| ApiError::new(Kind::Internal, "work on a model was aborted");
    tokio::spawn(work).await.map_err(crashed)
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
    if !repository.order(make(done)) {
        return gone();
    }
    heard.await.unwrap_or_else(|_| gone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Limits;
    use crate::serving::state::Expected;
    use crate::tests_support::named_model;
    use std::time::Duration;

    /// What the index says of `a`, once it says so.
    async fn until(state: &AppState, expected: (&str, &str)) {
        let said = async {
            loop {
                let listed = state.model_index(false).await;
                if listed
                    .iter()
                    .any(|l| (l.name.as_str(), l.state, l.reason.as_str()) == ("a", expected.0, expected.1))
                {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(10), said).await;
        assert!(waited.is_ok(), "{expected:?}, but {:?}", state.model_index(false).await);
    }

    #[tokio::test]
    async fn the_index_hears_the_end_when_the_caller_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.onnx"), "x").unwrap();
        let state = AppState::new(Limits::default(), Expected::default());
        let (orders, received) = std::sync::mpsc::channel();
        state.set_repository(Repository::new(vec![dir.path().to_owned()], Vec::new(), orders));
        until(&state, ("UNAVAILABLE", "not loaded")).await;

        let caller = tokio::spawn({
            let state = state.clone();
            async move { state.load_model("a").await }
        });
        until(&state, ("LOADING", "")).await;
        caller.abort();
        assert!(caller.await.unwrap_err().is_cancelled());
        let Ok(Order::Load(_, done)) = received.try_recv() else { panic!("no order to load") };
        done.send(Err("no metadata".to_owned())).unwrap();
        until(&state, ("UNAVAILABLE", "no metadata")).await;

        state.set_model(named_model("a", "1", &state));
        let caller = tokio::spawn({
            let state = state.clone();
            async move { state.unload_model("a").await }
        });
        let order = async {
            loop {
                match received.try_recv() {
                    Ok(order) => return order,
                    Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
                }
            }
        };
        let Order::Unload(name, done) = order.await else { panic!("another order") };
        drop(state.remove_model(&name));
        until(&state, ("UNLOADING", "")).await;
        caller.abort();
        assert!(caller.await.unwrap_err().is_cancelled());
        done.send(Ok(())).unwrap();
        until(&state, ("UNAVAILABLE", "not loaded")).await;
    }
}
