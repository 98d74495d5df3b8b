//! preprocessor_config.json: how pictures are cut, normalised and limited.

use std::path::Path;

use outro_media::PatchConfig;
use serde_json::Value;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::tokenizer::read_json;

/// Patches, and the fewest and most pixels of an image.
pub(crate) fn load(dir: &Path, config: &Config) -> Result<(PatchConfig, usize, usize)> {
    let path = dir.join("preprocessor_config.json");
    let processor = read_json(&path)?.unwrap_or(Value::Null);
    let mut patches = PatchConfig::default();
    if let Some(v) = &config.vision {
        (patches.patch, patches.temporal, patches.merge) = (v.patch, v.temporal, v.merge);
    }
    let number = |key: &str, default: usize| match processor.get(key) {
        None | Some(Value::Null) => Ok(default),
        Some(v) => v
            .as_u64()
            .filter(|n| (1..=1 << 40).contains(n))
            .map(|n| n as usize)
            .ok_or_else(|| Error::config(&path, key, format!("is {v}, must be a whole number above 0"))),
    };
    for (key, have) in [
        ("patch_size", patches.patch),
        ("temporal_patch_size", patches.temporal),
        ("merge_size", patches.merge),
    ] {
        let given = number(key, have)?;
        if config.vision.is_some() && given != have {
            return Err(Error::config(
                &path,
                key,
                format!("is {given}, config.json says {have}"),
            ));
        }
    }
    for (key, place) in [("image_mean", &mut patches.mean), ("image_std", &mut patches.std)] {
        let Some(value) = processor.get(key).filter(|v| !v.is_null()) else {
            continue;
        };
        let list: Option<Vec<f32>> = value
            .as_array()
            .and_then(|l| l.iter().map(|x| x.as_f64().map(|x| x as f32)).collect());
        let valid = list.and_then(|l| <[f32; 3]>::try_from(l).ok());
        *place = valid
            .filter(|l| {
                l.iter().all(|x| x.is_finite()) && (key == "image_mean" || l.iter().all(|x| *x > 0.0))
            })
            .ok_or_else(|| Error::config(&path, key, format!("is {value}, must be three numbers")))?;
    }
    let (image_min, image_max) = (
        number("min_pixels", 4 * 28 * 28)?,
        number("max_pixels", 16384 * 28 * 28)?,
    );
    Ok((patches, image_min, image_max))
}
