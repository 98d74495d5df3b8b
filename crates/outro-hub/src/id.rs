//! Names of models: what is a hub id, and what is a path with a slip in it.

use std::fmt;
use std::path::Path;

use crate::error::{Cause, Error, Result};

/// Files that are given by their path; the hub names repositories.
const FILES: [&str; 8] = ["gguf", "safetensors", "json", "bin", "pt", "pth", "zip", "txt"];

/// `ORG/NAME` at a branch, tag, commit or `refs/pr/N`, and there a quantisation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Id {
    /// The user or organisation.
    pub org: String,
    /// The repository.
    pub name: String,
    /// Which of several GGUF files (`Q4_K_M`).
    pub quant: Option<String>,
    /// `main` unless given.
    pub revision: String,
}

impl Id {
    /// Reads `ORG/NAME[:QUANTISATION][@REVISION]`.
    pub fn parse(text: &str) -> Option<Self> {
        let (path, revision) = text.split_once('@').unwrap_or((text, "main"));
        let (org, name) = path.split_once('/')?;
        let (name, quant) = match name.split_once(':') {
            Some((name, quant)) => (name, Some(quant)),
            None => (name, None),
        };
        let plain = |s: &str| {
            !s.is_empty()
                && !s.starts_with('.')
                && !s.starts_with('-')
                && s.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
        };
        // The revision names a file under refs/, so it must not lead out of there.
        let safe = revision.split('/').all(plain);
        (plain(org) && plain(name) && quant.is_none_or(plain) && safe).then(|| Self {
            org: org.into(),
            name: name.into(),
            quant: quant.map(Into::into),
            revision: revision.into(),
        })
    }

    /// The id of a model that is no path here.
    pub(crate) fn of_model(text: &str) -> Result<Self> {
        let file = Path::new(text).extension().and_then(|e| e.to_str());
        let file = file.is_some_and(|e| FILES.contains(&e));
        Self::parse(text).filter(|_| !file).ok_or_else(|| {
            Error::new(Cause::Name, format!("{text}: no such file or directory")).hint(
                "give the directory of a checkpoint, a GGUF file, or a hub id such as Qwen/Qwen2.5-Omni-3B",
            )
        })
    }

    /// The repository's directory in the cache.
    pub(crate) fn folder(&self) -> String {
        format!("models--{}--{}", self.org, self.name)
    }

    /// What to know where the id may be meant as a relative path: a directory `ORG` is here and holds no `NAME`.
    pub(crate) fn beside(&self) -> Option<String> {
        beside(Path::new("."), &self.org, &self.name)
    }
}

fn beside(dir: &Path, org: &str, name: &str) -> Option<String> {
    let mut there: Vec<String> = std::fs::read_dir(dir.join(org))
        .ok()?
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok())
        .filter(|n| !n.starts_with('.'))
        .collect();
    there.sort();
    let rest = there.len().saturating_sub(5);
    there.truncate(5);
    let holds = match (there.is_empty(), rest) {
        (true, _) => "is empty".to_owned(),
        (_, 0) => format!("holds {}", there.join(", ")),
        _ => format!("holds {} and {rest} more", there.join(", ")),
    };
    Some(format!("the directory {org} here has no {name} (it {holds})"))
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.org, self.name)?;
        if let Some(quant) = &self.quant {
            write!(f, ":{quant}")?;
        }
        if self.revision == "main" {
            Ok(())
        } else {
            write!(f, "@{}", self.revision)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids() {
        let id = Id::parse("Qwen/Qwen2.5-Omni-3B").unwrap();
        assert_eq!(
            (id.org.as_str(), id.name.as_str(), id.revision.as_str()),
            ("Qwen", "Qwen2.5-Omni-3B", "main")
        );
        assert_eq!(id.to_string(), "Qwen/Qwen2.5-Omni-3B");
        let id = Id::parse("a/b:Q4_K_M@dev").unwrap();
        assert_eq!(
            (id.quant.as_deref(), id.revision.as_str()),
            (Some("Q4_K_M"), "dev")
        );
        assert_eq!(id.to_string(), "a/b:Q4_K_M@dev");
        assert_eq!(Id::parse("a/b@refs/pr/1").unwrap().to_string(), "a/b@refs/pr/1");
        for path in [
            "", "b", "a/", "/b", "./b", "../b", "a/b/c", "/a/b", "~/b", "a/..", "a/b@", "a/b@../x", "a/b@/x",
            "a b/c", "-a/b", "a/b:", "a/b:../c",
        ] {
            assert_eq!(Id::parse(path), None, "{path:?}");
        }
    }

    #[test]
    fn a_file_is_no_id() {
        for path in ["models/a.gguf", "a/model.safetensors", "b"] {
            assert_eq!(Id::of_model(path).unwrap_err().cause, Cause::Name, "{path}");
        }
        assert!(Id::of_model("org/Model-7B-GGUF").is_ok());
        assert!(Id::of_model("org/model-v1.5").is_ok());
    }

    #[test]
    fn a_directory_of_that_name_is_told() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(beside(dir.path(), "models", "tiny"), None);
        std::fs::create_dir_all(dir.path().join("models/outro-tiny")).unwrap();
        assert_eq!(
            beside(dir.path(), "models", "tiny").unwrap(),
            "the directory models here has no tiny (it holds outro-tiny)"
        );
        for i in 0..9 {
            std::fs::create_dir(dir.path().join(format!("models/a{i}"))).unwrap();
        }
        let text = beside(dir.path(), "models", "tiny").unwrap();
        assert!(text.ends_with("a3, a4 and 5 more)"), "{text}");
    }
}
