//! Published model sizes by name, for measurements without a checkpoint.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::spec::config::{Config, Json};
use crate::spec::family;

/// Fields of the published `config.json` files that say sizes.
const SHAPES: &str = include_str!("shapes.json");

fn all() -> Result<Map<String, Value>> {
    serde_json::from_str(SHAPES).map_err(|e| Error::config("shapes.json", "", format!("not JSON: {e}")))
}

/// The names that [`config`] knows.
///
/// # Errors
/// None in a build that passed its tests.
pub fn names() -> Result<Vec<String>> {
    Ok(all()?.into_iter().map(|(name, _)| name).collect())
}

/// The configuration of a published model: `qwen2.5-omni-3b`, for example.
///
/// # Errors
/// An unknown name.
pub fn config(name: &str) -> Result<Config> {
    let shapes = all()?;
    let value = shapes.get(name).ok_or_else(|| Error::Setting {
        key: "shape".into(),
        problem: format!(
            "is `{name}`; possible: {}",
            shapes.keys().cloned().collect::<Vec<_>>().join(", ")
        ),
    })?;
    family::parse(&Json::new(Path::new(name), value), &[])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_is_a_configuration() {
        for name in names().unwrap() {
            assert!(config(&name).unwrap().text.layers > 0, "{name}");
        }
        assert!(
            config("none")
                .unwrap_err()
                .to_string()
                .contains("qwen2.5-omni-3b")
        );
    }
}
