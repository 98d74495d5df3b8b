//! What a model asks of a checkpoint, noted instead of read: the code that loads it says itself which tensors it needs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use super::packed::{IDLE, Packed};
use super::{Checkpoint, Matrix, Stored};
use crate::error::{Error, Result};

/// What is wrong with a checkpoint's tensors, by their headers alone. Names are those in the files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Needed and in no shard.
    pub missing: Vec<Tensor>,
    /// There, of another shape than config.json asks for.
    pub misshaped: Vec<Misshaped>,
    /// Needed and of an element type that is not read.
    pub unreadable: Vec<Unreadable>,
    /// There, and nothing that the model, or the part of it that makes speech, has.
    pub unexpected: Vec<Tensor>,
    /// What [`crate::Model::notes`] would say.
    pub notes: Vec<String>,
}

/// A tensor's name and shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// Its dimensions.
    pub shape: Vec<usize>,
}

/// A tensor of the wrong shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misshaped {
    /// Its name.
    pub name: String,
    /// As it is.
    pub shape: Vec<usize>,
    /// As it should be.
    pub wanted: Vec<usize>,
}

/// A tensor of a type that is not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// Its name.
    pub name: String,
    /// The format's name of its element type.
    pub dtype: String,
}

impl Audit {
    /// Whether the model would load. Unexpected tensors are left alone.
    pub fn loads(&self) -> bool {
        self.missing.is_empty() && self.misshaped.is_empty() && self.unreadable.is_empty()
    }
}

/// More missing tensors than any model has: sizes in config.json that cannot be.
const MOST: usize = 1 << 18;

/// Buffers that older releases of transformers and llama.cpp store, and that follow from the configuration or are read
/// elsewhere.
const BUFFERS: [&str; 4] = [
    "rotary_emb.inv_freq",
    ".position_ids",
    "rope_freqs.weight",
    "a.position_embd.weight",
];

/// Shapes that were asked for, by name.
#[derive(Default)]
pub(super) struct Asked(Mutex<Shapes>);

#[derive(Default)]
struct Shapes {
    all: BTreeMap<String, Vec<usize>>,
    missing: usize,
}

impl Checkpoint {
    /// The same, from which nothing is read any more: whatever is asked for is noted.
    pub(crate) fn noting(self) -> Self {
        Self {
            asked: Some(Asked::default()),
            ..self
        }
    }

    /// Whether requests are only noted; notes this one.
    pub(super) fn notes(&self, name: &str, shape: &[usize]) -> Result<bool> {
        let Some(Asked(asked)) = &self.asked else {
            return Ok(false);
        };
        let mut asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.missing += usize::from(!self.holds(name));
        if asked.missing > MOST {
            let problem =
                format!("asks for more than {MOST} tensors that no shard holds, `{name}` among them");
            return Err(Error::checkpoint(self.dir.join("config.json"), problem));
        }
        asked.all.insert(name.to_owned(), shape.to_vec());
        Ok(true)
    }

    /// Names and shapes of all that was asked for.
    pub(crate) fn asked(&self) -> Vec<(String, Vec<usize>)> {
        let Some(Asked(asked)) = &self.asked else {
            return Vec::new();
        };
        let asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked
            .all
            .iter()
            .map(|(name, shape)| (name.clone(), shape.clone()))
            .collect()
    }

    /// What was asked for beside what is there; `unused` are beginnings of names of the model's tensors that it never needs.
    pub(crate) fn audit(&self, unused: &[&str]) -> Audit {
        let mut audit = Audit::default();
        let Some(Asked(asked)) = &self.asked else {
            return audit;
        };
        let asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
        let mut parts = BTreeSet::new();
        for (name, wanted) in &asked.all {
            match self.packed(name, wanted) {
                Ok(Some(packed)) => {
                    self.audit_parts(&packed, &mut audit);
                    parts.extend(packed.parts.into_iter().map(|p| p.key));
                    continue;
                }
                Ok(None) => {}
                Err(e) => {
                    let (name, dtype) = (name.clone(), e.to_string());
                    audit.unreadable.push(Unreadable { name, dtype });
                    continue;
                }
            }
            let Some(info) = self.tensors.get(name) else {
                let name = self.stored_name(name);
                let shape = wanted.clone();
                audit.missing.push(Tensor { name, shape });
                continue;
            };
            let (key, name) = (name, info.name.clone());
            if Stored::of_name(&info.dtype).is_none() {
                let dtype = info.dtype.clone();
                audit.unreadable.push(Unreadable { name, dtype });
            } else if !self.fits(&info.shape, wanted) && self.turned(key, wanted).is_none() {
                let (shape, wanted) = (info.shape.clone(), wanted.clone());
                audit.misshaped.push(Misshaped { name, shape, wanted });
            }
        }
        for (key, info) in &self.tensors {
            let known = unused.iter().any(|u| key.starts_with(u))
                || BUFFERS.iter().chain(&IDLE).any(|b| key.ends_with(b))
                || parts.contains(key);
            if !known && !asked.all.contains_key(key) {
                let (name, shape) = (info.name.clone(), info.shape.clone());
                audit.unexpected.push(Tensor { name, shape });
            }
        }
        audit
    }

    fn audit_parts(&self, packed: &Packed, audit: &mut Audit) {
        for part in &packed.parts {
            let Some(info) = self.tensors.get(&part.key) else {
                let (name, shape) = (part.key.clone(), part.wanted());
                audit.missing.push(Tensor { name, shape });
                continue;
            };
            let name = info.name.clone();
            if !part.readable(info) {
                let dtype = info.dtype.clone();
                audit.unreadable.push(Unreadable { name, dtype });
            } else if let Some(wanted) = part.bent(info) {
                let shape = info.shape.clone();
                audit.misshaped.push(Misshaped { name, shape, wanted });
            }
        }
    }
}

impl Matrix {
    /// One that stands for a tensor that was not read.
    pub(super) fn hollow(name: &str, rows: usize, cols: usize) -> Self {
        Self {
            name: name.into(),
            rows,
            cols,
            data: super::own(&[], Stored::F32),
            order: None,
        }
    }
}
