//! Where the hub and its cache are: the variables of Python's `huggingface_hub`.

use std::fmt;
use std::path::{Path, PathBuf};

/// A token of the hub. It is shown nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(pub String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(***)")
    }
}

/// Which hub, which cache, who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The hub's URL, without a slash at its end.
    pub endpoint: String,
    /// The cache's directory.
    pub cache: PathBuf,
    /// Sent to the endpoint, and to no other host.
    pub token: Option<Token>,
    /// Whether the network is forbidden.
    pub offline: bool,
}

impl Settings {
    /// Reads HF_ENDPOINT, HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME, HF_TOKEN, the token file (HF_TOKEN_PATH),
    /// HF_HUB_DISABLE_IMPLICIT_TOKEN and HF_HUB_OFFLINE as `huggingface_hub` does, and the older names of each.
    pub fn from_env() -> Self {
        Self::from_vars(&|name| std::env::var(name).ok(), std::env::home_dir().as_deref())
    }

    fn from_vars(var: &dyn Fn(&str) -> Option<String>, home: Option<&Path>) -> Self {
        let first = |names: &[&str]| names.iter().find_map(|n| var(n).filter(|v| !v.is_empty()));
        let path = |names: &[&str]| first(names).map(|v| expand(&v, home));
        let holds = |names: &[&str]| {
            let value = first(names).unwrap_or_default().to_ascii_uppercase();
            matches!(value.as_str(), "1" | "ON" | "YES" | "TRUE")
        };
        let base = path(&["XDG_CACHE_HOME"])
            .unwrap_or_else(|| home.unwrap_or(Path::new(".")).join(".cache"))
            .join("huggingface");
        let home = path(&["HF_HOME"]).unwrap_or(base);
        let clean = |text: String| Some(text.trim().to_owned()).filter(|t| !t.is_empty());
        let token = if holds(&["HF_HUB_DISABLE_IMPLICIT_TOKEN"]) {
            None
        } else {
            first(&["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"])
                .and_then(clean)
                .or_else(|| {
                    let file = path(&["HF_TOKEN_PATH"]).unwrap_or_else(|| home.join("token"));
                    std::fs::read_to_string(file).ok().and_then(clean)
                })
        };
        let endpoint = first(&["HF_ENDPOINT"]).unwrap_or_else(|| "https://huggingface.co".into());
        Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            cache: path(&["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"]).unwrap_or_else(|| home.join("hub")),
            token: token.map(Token),
            offline: holds(&["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"]),
        }
    }
}

/// A path in which `~` is the user's directory.
fn expand(path: &str, home: Option<&Path>) -> PathBuf {
    match (path.strip_prefix('~'), home) {
        (Some(rest), Some(home)) if rest.is_empty() || rest.starts_with('/') => {
            home.join(rest.trim_start_matches('/'))
        }
        _ => path.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(vars: &[(&str, &str)], home: &str) -> Settings {
        let var = |name: &str| {
            vars.iter()
                .find(|(n, _)| *n == name)
                .map(|(_, v)| (*v).to_owned())
        };
        Settings::from_vars(&var, Some(Path::new(home)))
    }

    #[test]
    fn places() {
        let cache = |vars: &[(&str, &str)]| of(vars, "/u").cache.display().to_string();
        assert_eq!(cache(&[]), "/u/.cache/huggingface/hub");
        assert_eq!(cache(&[("XDG_CACHE_HOME", "/x")]), "/x/huggingface/hub");
        assert_eq!(
            cache(&[("XDG_CACHE_HOME", "/x"), ("HF_HOME", "~/hf")]),
            "/u/hf/hub"
        );
        assert_eq!(
            cache(&[("HF_HOME", "/h"), ("HUGGINGFACE_HUB_CACHE", "/old")]),
            "/old"
        );
        assert_eq!(
            cache(&[("HF_HUB_CACHE", "/new"), ("HUGGINGFACE_HUB_CACHE", "/old")]),
            "/new"
        );
        assert_eq!(of(&[], "/u").endpoint, "https://huggingface.co");
        assert_eq!(of(&[("HF_ENDPOINT", "http://h:1/")], "/u").endpoint, "http://h:1");
    }

    #[test]
    fn tokens() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().to_str().unwrap();
        let token = |vars: &[(&str, &str)]| {
            of(&[&[("HF_HOME", home)][..], vars].concat(), "/u")
                .token
                .map(|t| t.0)
        };
        assert_eq!(token(&[]), None);
        assert_eq!(
            token(&[("HUGGING_FACE_HUB_TOKEN", " old\r\n")]).as_deref(),
            Some("old")
        );
        std::fs::write(dir.path().join("token"), "filed\n").unwrap();
        std::fs::write(dir.path().join("other"), "other").unwrap();
        assert_eq!(token(&[]).as_deref(), Some("filed"));
        assert_eq!(token(&[("HF_TOKEN", "env")]).as_deref(), Some("env"));
        assert_eq!(token(&[("HF_TOKEN", "")]).as_deref(), Some("filed"));
        let other = dir.path().join("other");
        assert_eq!(
            token(&[("HF_TOKEN_PATH", other.to_str().unwrap())]).as_deref(),
            Some("other")
        );
        assert_eq!(token(&[("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]), None);
        assert_eq!(format!("{:?}", Token("secret".into())), "Token(***)");
    }

    #[test]
    fn the_network_is_forbidden_in_the_spellings_of_python() {
        for (value, offline) in [
            ("1", true),
            ("true", true),
            ("Yes", true),
            ("0", false),
            ("", false),
        ] {
            assert_eq!(of(&[("HF_HUB_OFFLINE", value)], "/u").offline, offline, "{value}");
        }
        assert!(of(&[("TRANSFORMERS_OFFLINE", "1")], "/u").offline);
    }
}
