//! Checkpoints whose weights are packed: what config.json says of it, and the forms that are refused from it alone.

use std::collections::BTreeMap;

use super::Json;
use crate::error::{Error, Hint, Result};
use crate::weights::checkpoint::{CompressedPart, MlxForm, Scheme};

/// Where each quantiser says what it did.
pub(crate) const KEYS: [&str; 4] = [
    "quantization_config",
    "compression_config",
    "quantization",
    "quant_config",
];

/// What the file says, wherever it stands.
pub(super) fn scheme(json: &Json) -> Result<Option<Scheme>> {
    let mut found: Option<Scheme> = None;
    collect(json, &mut found)?;
    Ok(found)
}

fn collect(json: &Json, found: &mut Option<Scheme>) -> Result<()> {
    for (key, value) in json.fields() {
        let inner = json.at(key);
        if KEYS.contains(&key.as_str()) {
            if inner.says(&[0.0]) {
                continue;
            }
            let this = read(&inner)?;
            match found {
                Some(before) if *before != this => {
                    return Err(inner.error(format!(
                        "says {} otherwise than the same file does elsewhere; one of the two is wrong",
                        this.name()
                    )));
                }
                _ => *found = Some(this),
            }
        } else if value.is_object() {
            collect(&inner, found)?;
        }
    }
    Ok(())
}

/// A form that is not read, and what to take instead.
fn refused(place: &Json, problem: impl Into<String>) -> Error {
    let mut error = place.unsupported(problem);
    if let Error::Unsupported { hint, .. } = &mut error {
        *hint = Some(Hint::QuantiseHere);
    }
    error
}

fn read(json: &Json) -> Result<Scheme> {
    let method = json.at("quant_method");
    if !method.present() {
        if json.at("bits").present() && json.at("group_size").present() {
            return mlx(json);
        }
        return Err(refused(
            json,
            format!(
                "is {}; it names no quant_method, and these weights are not read",
                json.shown()
            ),
        ));
    }
    match method.str()? {
        "awq" => awq(json),
        "gptq" => gptq(json),
        "compressed-tensors" => compressed(json),
        "fp8" => fp8(json),
        "bitsandbytes" => bitsandbytes(json),
        other => Err(refused(
            &method,
            format!(
                "is {}; quantised safetensors are read from awq, gptq, compressed-tensors, fp8, bitsandbytes and MLX",
                other.chars().take(40).collect::<String>()
            ),
        )),
    }
}

/// Inputs that share a scale; -1 is all of a row.
fn group(json: &Json, key: &str) -> Result<Option<usize>> {
    let place = json.at(key);
    if place.integer_or(-1)? == -1 {
        return Ok(None);
    }
    place.size().map(Some)
}

/// Bits that are read.
fn bits(place: &Json, read: &[i64]) -> Result<usize> {
    let bits = place.integer_or(4)?;
    if !read.contains(&bits) {
        let read: Vec<_> = read.iter().map(ToString::to_string).collect();
        return Err(refused(
            place,
            format!("is {bits}; weights of {} bits are read", read.join(" and ")),
        ));
    }
    // One of those in the list.
    Ok(bits as usize)
}

/// Lists of layers that stay as they are: tensors say it, so that here they only have to be lists.
fn lists(json: &Json, keys: &[&str]) -> Result<()> {
    for key in keys {
        let place = json.at(key);
        if place.present() {
            place.strings()?;
        }
    }
    Ok(())
}

fn awq(json: &Json) -> Result<Scheme> {
    let version = json.at("version");
    if version.present() && !version.str()?.eq_ignore_ascii_case("gemm") {
        return Err(refused(
            &version,
            format!("is {}; of AWQ's layouts `gemm` is read", version.shown()),
        ));
    }
    bits(&json.at("bits"), &[4])?;
    lists(json, &["modules_to_not_convert"])?;
    Ok(Scheme::Awq {
        group: group(json, "group_size")?,
    })
}

fn gptq(json: &Json) -> Result<Scheme> {
    let mut second = false;
    for key in ["checkpoint_format", "format"] {
        let format = json.at(key);
        if !format.present() {
            continue;
        }
        match format.str()? {
            "gptq" => {}
            "gptq_v2" => second = true,
            _ => {
                return Err(refused(
                    &format,
                    format!(
                        "is {}; of GPTQ's layouts `gptq` and `gptq_v2` are read",
                        format.shown()
                    ),
                ));
            }
        }
    }
    for place in [json.at("pack_dtype"), json.at("meta").at("pack_dtype")] {
        if place.present() && place.str()? != "int32" {
            return Err(refused(
                &place,
                format!("is {}; words of int32 are read", place.shown()),
            ));
        }
    }
    let dynamic = json.at("dynamic");
    for (pattern, _) in dynamic.fields() {
        // Layers that stay as they are begin with a minus.
        if !pattern.starts_with('-') {
            let problem = "gives some layers other bits or groups; one form for all is read";
            return Err(refused(&dynamic.at(pattern), problem));
        }
    }
    Ok(Scheme::Gptq {
        bits: bits(&json.at("bits"), &[4, 8])?,
        group: group(json, "group_size")?,
        second,
    })
}

/// Forms of compressed-tensors that are read.
const FORMATS: [&str; 5] = [
    "pack-quantized",
    "float-quantized",
    "int-quantized",
    "naive-quantized",
    "mixed-precision",
];

fn compressed(json: &Json) -> Result<Scheme> {
    format(&json.at("format"))?;
    let sparsity = json.at("sparsity_config").at("format");
    if sparsity.present() && sparsity.str()? != "dense" {
        return Err(refused(
            &sparsity,
            format!("is {}; sparse weights are not read", sparsity.shown()),
        ));
    }
    lists(json, &["ignore"])?;
    let groups = json.at("config_groups");
    let mut parts = Vec::new();
    for (name, _) in groups.fields() {
        let this = groups.at(name);
        format(&this.at("format"))?;
        let weights = this.at("weights");
        if !weights.present() {
            continue;
        }
        parts.push(part(&weights)?);
    }
    if parts.is_empty() {
        return Err(groups.error("names no weights; it is needed to read packed ones"));
    }
    Ok(Scheme::Compressed(parts))
}

fn format(place: &Json) -> Result<()> {
    if place.present() && !FORMATS.contains(&place.str()?) {
        return Err(refused(
            place,
            format!(
                "is {}; of compressed-tensors' formats {} are read",
                place.shown(),
                FORMATS[..4].join(", ")
            ),
        ));
    }
    Ok(())
}

fn part(weights: &Json) -> Result<CompressedPart> {
    let kind = weights.at("type");
    let float = match if kind.present() { kind.str()? } else { "int" } {
        "int" => false,
        "float" => true,
        _ => {
            return Err(refused(
                &kind,
                format!("is {}; int and float are read", kind.shown()),
            ));
        }
    };
    let num_bits = weights.at("num_bits");
    let bits = if float {
        bits(&num_bits, &[8])?
    } else {
        bits(&num_bits, &[4, 8])?
    };
    let strategy = weights.at("strategy");
    let group_size = group(weights, "group_size")?;
    let block = weights.at("block_structure");
    let block = if block.present() {
        Some(pair(&block)?)
    } else {
        None
    };
    let name = if strategy.present() { strategy.str()? } else { "" };
    let group = match name {
        "group" => Some(group_size.ok_or_else(|| {
            weights
                .at("group_size")
                .error("missing; the strategy `group` needs it")
        })?),
        "" => group_size,
        "channel" | "tensor" => None,
        "block" if block.is_some() => None,
        "block" => {
            return Err(weights
                .at("block_structure")
                .error("missing; the strategy `block` needs it"));
        }
        _ => {
            return Err(refused(
                &strategy,
                format!(
                    "is {}; group, channel, tensor and block are read",
                    strategy.shown()
                ),
            ));
        }
    };
    Ok(CompressedPart {
        bits,
        float,
        group,
        block,
        symmetric: weights.at("symmetric").bool_or(true)?,
    })
}

fn pair(place: &Json) -> Result<[usize; 2]> {
    match place.list()?.as_slice() {
        [a, b] if *a > 0 && *b > 0 => Ok([*a, *b]),
        _ => Err(place.error("must be two sizes, outputs and inputs of a block")),
    }
}

fn fp8(json: &Json) -> Result<Scheme> {
    let fmt = json.at("fmt");
    if fmt.present() && fmt.str()? != "e4m3" {
        return Err(refused(
            &fmt,
            format!("is {}; of FP8's formats e4m3 is read", fmt.shown()),
        ));
    }
    lists(json, &["ignored_layers", "modules_to_not_convert"])?;
    let block = json.at("weight_block_size");
    let block = if block.present() {
        Some(pair(&block)?)
    } else {
        None
    };
    Ok(Scheme::Fp8 { block })
}

fn bitsandbytes(json: &Json) -> Result<Scheme> {
    let kind = json.at("bnb_4bit_quant_type");
    if kind.present() && !["nf4", "fp4"].contains(&kind.str()?) {
        return Err(refused(
            &kind,
            format!("is {}; nf4 and fp4 are read", kind.shown()),
        ));
    }
    lists(json, &["llm_int8_skip_modules"])?;
    Ok(Scheme::Bitsandbytes)
}

fn mlx(json: &Json) -> Result<Scheme> {
    let mode = json.at("mode");
    if mode.present() && mode.str()? != "affine" {
        return Err(refused(
            &mode,
            format!("is {}; of MLX's modes affine is read", mode.shown()),
        ));
    }
    let of_all = mlx_form(json)?;
    let mut of_layers = BTreeMap::new();
    for (name, value) in json.fields() {
        if value.is_object() {
            let inner = json.at(name);
            inner.at("mode").only(&["affine"])?;
            of_layers.insert(name.clone(), mlx_form(&inner)?);
        }
    }
    Ok(Scheme::Mlx { of_all, of_layers })
}

fn mlx_form(json: &Json) -> Result<MlxForm> {
    let size = json.at("group_size");
    let group = size.size()?;
    if ![32, 64, 128].contains(&group) {
        return Err(refused(
            &size,
            format!("is {group}; groups of 32, 64 and 128 are read"),
        ));
    }
    Ok(MlxForm {
        bits: bits(&json.at("bits"), &[4, 8])?,
        group,
    })
}
