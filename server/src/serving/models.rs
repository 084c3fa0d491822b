//! The models that are served, and the gallery that is searched.

use std::sync::Arc;

use super::state::AppState;
use crate::error::{ApiError, Kind};
use crate::gallery::Gallery;
use crate::inference::model::Model;

impl AppState {
    /// Serves a model from now on, in place of the one of the same name. Requests under way keep the model that
    /// they began with; the old one ends with the last of them.
    pub fn set_model(&self, model: Model) {
        let model = Arc::new(model);
        if let Some(gallery) = self.indexed().filter(|g| g.identity() == model.info.identity) {
            model.attach(&gallery);
        }
        let mut models = self.0.models.write();
        let old = match models.iter_mut().find(|m| m.info.name == model.info.name) {
            Some(place) => Some(std::mem::replace(place, model)),
            None => {
                models.push(model);
                None
            }
        };
        let rank = |m: &Arc<Model>| self.0.expected.models.iter().position(|n| *n == m.info.name);
        models.sort_by_key(|m| rank(m).unwrap_or(usize::MAX));
        // Every request needs the lock, and the end of a model takes as long as the batch that it is at.
        drop(models);
        drop(old);
    }

    /// Serves the model of this name no more, and gives it back: it ends with the last request that began with it.
    pub(crate) fn remove_model(&self, name: &str) -> Option<Arc<Model>> {
        let mut models = self.0.models.write();
        let at = models.iter().position(|m| m.info.name == name)?;
        Some(models.remove(at))
    }

    /// Answers searches from this gallery from now on.
    pub fn set_gallery(&self, gallery: Gallery) {
        let gallery = Arc::new(gallery);
        for model in self.models().iter().filter(|m| m.info.identity == gallery.identity()) {
            model.attach(&gallery);
        }
        *self.0.gallery.write() = Some(gallery);
    }

    /// Serves a model and the gallery that it indexed, in place of the model of the same name and its gallery: no
    /// request sees the one without the other.
    pub fn set_model_with_gallery(&self, model: Model, gallery: Gallery) {
        let gallery = Arc::new(gallery);
        model.attach(&gallery);
        *self.0.gallery.write() = Some(gallery);
        self.set_model(model);
    }

    /// The models that are loaded, the one for requests that name none first.
    pub fn models(&self) -> Vec<Arc<Model>> {
        self.0.models.read().clone()
    }

    /// The model of this name, or the first one; 503 while it is being loaded, 404 when there is none.
    pub(crate) fn model(&self, name: Option<&str>) -> Result<Arc<Model>, ApiError> {
        let models = self.0.models.read();
        let expected = &self.0.expected.models;
        let Some(name) = name.or(expected.first().map(String::as_str)) else {
            return models.first().cloned().ok_or_else(|| ApiError::loading("the model is being loaded"));
        };
        match models.iter().find(|m| m.info.name == name) {
            Some(model) => Ok(Arc::clone(model)),
            None if expected.iter().any(|n| n == name) => Err(ApiError::loading("the model is being loaded")),
            None => {
                let known = models.iter().map(|m| format!("`{}`", m.info.name)).collect::<Vec<_>>();
                Err(ApiError::new(Kind::ModelNotFound, format!("there is no model `{name}`"))
                    .hint(format!("this server has {}; GET /v1/models lists them", known.join(", "))))
            }
        }
    }

    pub(crate) fn indexed(&self) -> Option<Arc<Gallery>> {
        self.0.gallery.read().clone()
    }

    /// The gallery for a query by `model`: 503 while it is indexed, 404 when there is none, 409 where its vectors
    /// are another model's.
    pub(crate) fn gallery(&self, model: &Model) -> Result<Arc<Gallery>, ApiError> {
        if let Some(own) = model.gallery() {
            return Ok(Arc::clone(own));
        }
        match self.indexed() {
            Some(gallery) if gallery.identity() == model.info.identity => Ok(gallery),
            Some(gallery) => {
                let message = format!(
                    "the gallery was indexed by the model {}, the query was embedded by {} (`{}`)",
                    gallery.identity(),
                    model.info.identity,
                    model.info.name
                );
                Err(ApiError::new(Kind::WrongModel, message).hint("leave out `model`"))
            }
            None if self.0.expected.gallery => Err(ApiError::loading("the gallery is being indexed")),
            None => Err(ApiError::new(Kind::NotFound, "this server has no gallery")
                .hint("its operator can give it a folder of pictures to search")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Limits;
    use crate::fake::{Fake, Gate};
    use crate::serving::state::{Expected, Phase};
    use crate::tests_support::{fake_model, named_model};
    use occlude_preprocess::Rgb;
    use std::time::Duration;

    #[test]
    fn models_are_found_by_name_and_the_first_expected_is_the_default() {
        let expected = Expected { models: vec!["b".to_owned(), "a".to_owned()], ..Expected::default() };
        let state = AppState::new(Limits::default(), expected);
        let kind = |name| state.model(name).err().map(|e| e.kind);
        assert_eq!((kind(None), kind(Some("a"))), (Some(Kind::Loading), Some(Kind::Loading)));
        state.set_model(named_model("a", "1", &state));
        assert_eq!(state.phase(), Phase::LoadingModel, "one of two");
        assert_eq!((kind(None), kind(Some("a"))), (Some(Kind::Loading), None));
        state.set_model(named_model("b", "2", &state));
        assert_eq!(state.phase(), Phase::Ready);
        assert_eq!(state.model(None).unwrap().info.name, "b");
        assert_eq!(kind(Some("c")), Some(Kind::ModelNotFound));
    }

    #[test]
    fn a_replaced_model_lives_as_long_as_its_requests() {
        let state = AppState::new(Limits::default(), Expected::default());
        state.set_model(named_model("a", "1", &state));
        let old = state.model(None).unwrap();
        state.set_model(named_model("a", "2", &state));
        assert_eq!(state.model(Some("a")).unwrap().info.fingerprint, "2");
        assert_eq!((old.info.fingerprint.as_str(), Arc::strong_count(&old)), ("1", 1));
        let _ = fake_model(vec![Fake::default()], &state);
    }

    #[test]
    fn nobody_waits_for_the_end_of_a_replaced_model() {
        let (state, gate) = (AppState::new(Limits::default(), Expected::default()), Gate::default());
        state.set_model(fake_model(vec![Fake::gated(&gate)], &state));
        let picture = Rgb::filled(2, 2, [1; 3]);
        let reply = state.model(None).unwrap().batcher.announce().submit(picture).unwrap();
        let replacing = std::thread::spawn({
            let state = state.clone();
            move || state.set_model(named_model("fake", "new", &state))
        });
        let (seen, told) = std::sync::mpsc::channel();
        std::thread::spawn({
            let state = state.clone();
            move || {
                // Without a copy of the old model, which would end with it.
                while !state.0.models.read().iter().any(|m| m.info.fingerprint == "new") {
                    std::thread::sleep(Duration::from_millis(1));
                }
                let _ = seen.send(());
            }
        });
        assert_eq!(told.recv_timeout(Duration::from_secs(10)), Ok(()), "the lock is taken");
        assert!(!replacing.is_finished(), "the old model still has a picture");
        gate.open();
        replacing.join().unwrap();
        assert!(reply.blocking_recv().unwrap().is_ok());
    }
}
