//! Checkpoints whose weights are packed: refused from config.json alone, before a weight is looked for.

use super::Json;
use crate::error::Result;

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
            return Err(place.error(format!(
                "{is}; quantised safetensors are not read. Take the unquantised checkpoint, with --quantize q4_k if memory is short"
            )));
        }
        if value.is_object() {
            refuse(&inner)?;
        }
    }
    Ok(())
}
