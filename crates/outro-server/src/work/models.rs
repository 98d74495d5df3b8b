//! Several models: loaded when somebody asks, the least recently used unloaded.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};

use outro::Engine;

use super::Metrics;
use super::worker::{self, Work};
use crate::api::ApiError;

/// Opens a model by what was given as `--model`.
pub type Load = dyn Fn(&str) -> Result<Engine, String> + Send + Sync;

/// A model that can be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelSpec {
    /// As requests name it.
    pub name: String,
    /// As the loader knows it.
    pub source: String,
}

/// A model that is there.
#[derive(Clone)]
pub(crate) struct Loaded {
    pub(crate) name: String,
    pub(crate) engine: Engine,
    pub(crate) work: Sender<Work>,
    /// Requests that hold it.
    users: Arc<AtomicUsize>,
}

/// Keeps a model from being unloaded.
pub(crate) struct InUse(Arc<AtomicUsize>);

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Loaded {
    pub(crate) fn in_use(&self) -> InUse {
        self.users.fetch_add(1, Ordering::AcqRel);
        InUse(Arc::clone(&self.users))
    }
}

struct Slot {
    spec: ModelSpec,
    loaded: Mutex<Option<Loaded>>,
    used: AtomicU64,
}

/// All models of a server.
pub(crate) struct Models {
    slots: Vec<Slot>,
    load: Arc<Load>,
    most_loaded: usize,
    most_running: usize,
    clock: AtomicU64,
    metrics: Arc<Metrics>,
}

impl Models {
    pub(crate) fn new(
        specs: Vec<ModelSpec>,
        load: Arc<Load>,
        (most_loaded, most_running): (usize, usize),
        metrics: Arc<Metrics>,
    ) -> Self {
        let slot = |spec| Slot {
            spec,
            loaded: Mutex::new(None),
            used: AtomicU64::new(0),
        };
        Self {
            slots: specs.into_iter().map(slot).collect(),
            load,
            most_loaded,
            most_running,
            clock: AtomicU64::new(1),
            metrics,
        }
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.slots.iter().map(|s| s.spec.name.as_str())
    }

    /// One that is there now.
    pub(crate) fn loaded(&self, name: &str) -> Option<Loaded> {
        let slot = self.slots.iter().find(|s| s.spec.name == name)?;
        slot.loaded.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The model of a request; the first where it names none. Waits while it is loaded: not for threads that must not.
    ///
    /// # Errors
    /// 404 for an unknown name, 500 for a model that cannot be opened.
    pub(crate) fn get(&self, name: Option<&str>) -> Result<Loaded, ApiError> {
        let found = match name {
            None => self.slots.first(),
            Some(name) => self.slots.iter().find(|s| s.spec.name == name),
        };
        let Some(slot) = found else {
            let all: Vec<&str> = self.names().collect();
            let shown: String = name.unwrap_or_default().chars().take(200).collect();
            let text = format!("the model `{shown}` does not exist; there are {}", all.join(", "));
            return Err(ApiError {
                param: Some("model".into()),
                ..ApiError::new(404, text)
            });
        };
        slot.used
            .store(self.clock.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        let mut held = slot.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(loaded) = &*held {
            return Ok(loaded.clone());
        }
        self.unload(slot)?;
        let engine = (self.load)(&slot.spec.source).map_err(|e| ApiError::new(500, e))?;
        let work = worker::start(engine.clone(), self.most_running, Arc::clone(&self.metrics));
        let loaded = Loaded {
            name: slot.spec.name.clone(),
            engine,
            work,
            users: Arc::default(),
        };
        Ok(held.insert(loaded).clone())
    }

    /// Makes room for one more.
    fn unload(&self, wanted: &Slot) -> Result<(), ApiError> {
        let mut there: Vec<_> = Vec::new();
        for slot in self.slots.iter().filter(|s| s.spec != wanted.spec) {
            // One that is being loaded just now is there.
            match slot.loaded.try_lock() {
                Ok(held) if held.is_none() => {}
                Ok(held) => there.push((slot.used.load(Ordering::Relaxed), Some(held))),
                Err(_) => there.push((u64::MAX, None)),
            }
        }
        there.sort_by_key(|t| t.0);
        let mut over = (there.len() + 1).saturating_sub(self.most_loaded);
        for (_, held) in &mut there {
            let Some(held) = held.as_mut().filter(|_| over > 0) else {
                continue;
            };
            if held
                .as_ref()
                .is_some_and(|l| l.users.load(Ordering::Acquire) == 0)
            {
                **held = None;
                over -= 1;
            }
        }
        if over == 0 {
            return Ok(());
        }
        Err(ApiError::busy("all loaded models are answering; try again"))
    }
}
