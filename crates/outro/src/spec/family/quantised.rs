//! Checkpoints whose weights are packed: refused from config.json alone, before a weight is looked for.

use super::Json;
use crate::error::{Error, Hint, Result};

/// Where each quantiser says what it did.
const KEYS: [&str; 4] = [
    "quantization_config",
    "compression_config",
    "quantization",
    "quant_config",
];

/// Refuses them, wherever in the file it stands.
pub(super) fn refuse(json: &Json) -> Result<()> {
    for (key, value) in json.fields() {
        let inner = json.at(key);
        if KEYS.contains(&key.as_str()) && !inner.says(&[0.0]) {
            let method = inner.at("quant_method");
            let (place, is) = if method.present() {
                let is = format!("is {}", method.shown());
                (method, is)
            } else {
                let is = format!("is {}", inner.shown());
                (inner, is)
            };
            let mut error = place.unsupported(format!("{is}; quantised safetensors are not read"));
            if let Error::Unsupported { hint, .. } = &mut error {
                *hint = Some(Hint::QuantiseHere);
            }
            return Err(error);
        }
        if value.is_object() {
            refuse(&inner)?;
        }
    }
    Ok(())
}
