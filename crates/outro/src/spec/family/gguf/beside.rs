//! Which file of towers belongs to a language model's file.

use std::path::{Path, PathBuf};

use super::{TOWERS, file_name};
use crate::error::{Error, Result};
use crate::weights::checkpoint::gguf::Gguf;
use crate::weights::checkpoint::is_gguf;

/// A file of towers, and what is to be said of the choice.
pub(super) struct Found {
    pub(super) file: Gguf,
    pub(super) note: Option<String>,
}

/// The file that is `given`, or the best of those in the directory of the model's: one whose tokens have the decoder's width, and of
/// several the one whose name is most like the model's, then the most exact.
pub(super) fn find(model: &Gguf, given: Option<&Path>) -> Result<Option<Found>> {
    if let Some(path) = given {
        let file = Gguf::open(path)?;
        let key = "general.architecture";
        let architecture = file.text(key)?.unwrap_or("nothing");
        if architecture != TOWERS {
            let problem = format!("is `{architecture}`; a file of towers (mmproj) says `{TOWERS}`");
            return Err(file.error(key, &problem));
        }
        return Ok(Some(Found { file, note: None }));
    }
    let mut fitting = Vec::new();
    let mut others = Vec::new();
    for path in candidates(model.path())? {
        let file = Gguf::open(&path)?;
        if file.text("general.architecture")? != Some(TOWERS) {
            continue;
        }
        if width(&file) == model.shape("token_embd.weight").and_then(|s| s.get(1).copied()) {
            fitting.push(file);
        } else {
            others.push(file_name(&path));
        }
    }
    if fitting.is_empty() && !others.is_empty() {
        let problem = format!(
            "of the towers beside it, {}, none makes tokens of this model's width ({}); fetch the mmproj file of its repository",
            others.join(", "),
            model
                .shape("token_embd.weight")
                .and_then(|s| s.get(1))
                .unwrap_or(&0)
        );
        return Err(Error::missing(model.path(), problem));
    }
    let name = file_name(model.path());
    fitting.sort_by_cached_key(|f| {
        let path = f.path();
        (
            alike(&name, &file_name(path)),
            f.exactness().0,
            std::cmp::Reverse(path.to_path_buf()),
        )
    });
    let number = fitting.len();
    let Some(file) = fitting.pop() else {
        return Ok(None);
    };
    let note = (number > 1).then(|| {
        let others = fitting
            .iter()
            .map(|f| file_name(f.path()))
            .collect::<Vec<_>>()
            .join(", ");
        format!(
            "towers are those of {} ({}); beside it lie {others}",
            file_name(file.path()),
            file.exactness().1
        )
    });
    Ok(Some(Found { file, note }))
}

/// Files beside the model's that have `mmproj` in their names.
fn candidates(model: &Path) -> Result<Vec<PathBuf>> {
    let dir = match model.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(Error::io(dir))? {
        let path = entry.map_err(Error::io(dir))?.path();
        let name = file_name(&path).to_lowercase();
        if name.contains("mmproj") && is_gguf(&path) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Width of the tokens that the towers make.
fn width(file: &Gguf) -> Option<usize> {
    let last = ["mm.2.weight", "mm.a.fc.weight", "mm.a.mlp.2.weight"];
    last.iter().find_map(|name| file.shape(name)?.first().copied())
}

/// How many words two names have in common.
fn alike(a: &str, b: &str) -> usize {
    let words = |name: &str| -> Vec<String> {
        let lower = name.to_lowercase();
        let words = lower
            .trim_end_matches(".gguf")
            .split(|c: char| !c.is_alphanumeric() && c != '.');
        words.filter(|w| !w.is_empty()).map(str::to_owned).collect()
    };
    let (a, b) = (words(a), words(b));
    a.iter()
        .filter(|w| b.contains(w) && !PRECISIONS.contains(&w.as_str()))
        .count()
}

/// Words of a name that say how numbers are kept, not which model it is.
const PRECISIONS: [&str; 4] = ["f16", "bf16", "f32", "q8_0"];
