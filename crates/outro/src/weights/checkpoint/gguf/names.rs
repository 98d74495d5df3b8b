//! Tensors of GGUF files under the names that they have in the original checkpoint.

use super::super::{Checkpoint, Form, TensorInfo};
use super::Gguf;
use crate::error::{Error, Result};

/// Names of tensors in GGUF files beside those of the original checkpoint, `.weight` and `.bias` left out. `*` is a number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Renames(pub(crate) Vec<[String; 2]>);

impl Renames {
    /// The original name of a tensor of the file.
    fn original(&self, name: &str) -> Option<String> {
        self.other(name, 0)
    }

    /// The name in the file of a tensor of the original.
    pub(in super::super) fn stored(&self, name: &str) -> Option<String> {
        self.other(name, 1)
    }

    fn other(&self, name: &str, from: usize) -> Option<String> {
        let (stem, suffix) = name.rsplit_once('.')?;
        let renamed = self.0.iter().find_map(|row| match row[from].split_once('*') {
            None => (row[from] == stem).then(|| row[1 - from].clone()),
            Some((head, tail)) => {
                let number = stem.strip_prefix(head)?.strip_suffix(tail)?;
                let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
                digits.then(|| row[1 - from].replace('*', number))
            }
        });
        Some(format!("{}.{suffix}", renamed?))
    }
}

impl Checkpoint {
    /// Adds the tensors of a file under their original names. The two times of a patch embedding (Conv3d), which are two tensors
    /// there, `NAME.weight` and `NAME.weight.1`, are one here.
    pub(in super::super) fn add_gguf(&mut self, file: Gguf) -> Result<()> {
        let first = self.shards.len();
        self.shards.extend(file.shards);
        for (name, info) in &file.tensors {
            if let Some(whole) = name.strip_suffix(".1")
                && file.tensors.contains_key(whole)
            {
                continue;
            }
            let mut info = TensorInfo {
                shard: first + info.shard,
                ..info.clone()
            };
            if let Some(second) = file.tensors.get(&format!("{name}.1")) {
                if second.shape != info.shape || second.dtype != info.dtype || info.shape.len() != 4 {
                    let problem = format!(
                        "tensors `{name}` and `{name}.1` are {} {:?} and {} {:?}, must be of one type and one shape of four \
                         dimensions",
                        info.dtype, info.shape, second.dtype, second.shape
                    );
                    return Err(Error::checkpoint(file.path, problem));
                }
                info.shape.insert(2, 2);
                info.form = Form::Pair(first + second.shard, second.start, second.end);
            }
            let key = self.names.original(name).unwrap_or_else(|| name.clone());
            self.tensors.insert(key, info);
        }
        Ok(())
    }
}
