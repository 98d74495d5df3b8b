//! Experts that a checkpoint keeps together, as if each had matrices of its own.

use std::collections::BTreeMap;

use super::{Form, Stored, TensorInfo};

const FUSED: [&str; 2] = [".experts.gate_up_proj", ".experts.down_proj"];

/// What stands between a layer and its experts' part in names of llama.cpp's tensors, as we call them, and of MLX's.
pub(super) const LLAMA: &str = ".experts.";
pub(super) const MLX: &str = ".switch_mlp.";

/// Replaces tensors `[E, rows, columns]` of all experts of a layer (MLX's are codes, scales and biases) by one of each.
pub(super) fn stacked(tensors: &mut BTreeMap<String, TensorInfo>, mark: &str) {
    let all: Vec<String> = tensors
        .iter()
        .filter(|(name, info)| name.contains(mark) && info.shape.len() == 3 && info.form == Form::Rows)
        .map(|(name, _)| name.clone())
        .collect();
    for name in all {
        let Some((layer, part)) = name.split_once(mark).map(|(a, b)| (a.to_owned(), b.to_owned())) else {
            continue;
        };
        let Some(info) = tensors.remove(&name) else {
            continue;
        };
        let (n, size) = (info.shape[0], (info.end - info.start) / info.shape[0].max(1));
        for expert in 0..n {
            let start = info.start + expert * size;
            let one = TensorInfo {
                shape: info.shape[1..].to_vec(),
                start,
                end: start + size,
                ..info.clone()
            };
            tensors.insert(format!("{layer}.experts.{expert}.{part}"), one);
        }
    }
}

/// Replaces the tensors of all experts of a layer, `gate_up_proj [E, hidden, 2 I]` and `down_proj [E, I, hidden]` (Qwen3-VL-MoE as
/// published), or both with the last two dimensions the other way round (transformers 5 in memory), by `gate_proj [I, hidden]`,
/// `up_proj [I, hidden]` and `down_proj [hidden, I]` of each. What does not fit is left as it is: nobody asks for it.
pub(super) fn apart(tensors: &mut BTreeMap<String, TensorInfo>) {
    let layers: Vec<String> = tensors
        .keys()
        .filter_map(|name| Some(name.strip_suffix(FUSED[0])?.to_owned()))
        .collect();
    for layer in layers {
        let [gate_up, down] = FUSED.map(|part| format!("{layer}{part}"));
        let Some(parts) = tensors
            .get(&gate_up)
            .zip(tensors.get(&down))
            .and_then(|(gate_up, down)| split(gate_up, down))
        else {
            continue;
        };
        tensors.remove(&gate_up);
        tensors.remove(&down);
        for (expert, part, info) in parts {
            tensors.insert(format!("{layer}.experts.{expert}.{part}.weight"), info);
        }
    }
}

/// The matrices of each expert.
fn split(gate_up: &TensorInfo, down: &TensorInfo) -> Option<Vec<(usize, &'static str, TensorInfo)>> {
    let (&[n, a, b], &[m, c, d]) = (gate_up.shape.as_slice(), down.shape.as_slice()) else {
        return None;
    };
    let (by_columns, hidden, inner) = if a == d && b == 2 * c {
        (true, a, c)
    } else if b == c && a == 2 * d {
        (false, b, d)
    } else {
        return None;
    };
    let width = |info: &TensorInfo| match Stored::of_name(&info.dtype)? {
        stored @ (Stored::F32 | Stored::Bf16 | Stored::F16) => stored.bytes_of(1),
        Stored::Quant(_) => None,
    };
    let (wide, narrow) = (width(gate_up)?, width(down)?);
    let whole = |info: &TensorInfo, width: usize| {
        let elements = info.shape.iter().try_fold(width, |n, d| n.checked_mul(*d));
        elements == Some(info.end - info.start)
    };
    if n != m || inner == 0 || hidden == 0 || !whole(gate_up, wide) || !whole(down, narrow) {
        return None;
    }
    let mut parts = Vec::new();
    for expert in 0..n {
        // In the fused matrix of an expert: where a part begins, and the numbers of its rows and columns.
        let part = |all: &TensorInfo, width: usize, first: usize, rows: usize, cols: usize, stride: usize| {
            let begin = all.start + expert * (all.end - all.start) / n + first * width;
            let (form, span) = if by_columns {
                (Form::Columns { width, stride }, (cols - 1) * stride + rows)
            } else {
                (Form::Rows, rows * cols)
            };
            TensorInfo {
                shape: vec![rows, cols],
                start: begin,
                end: begin + span * width,
                form,
                ..all.clone()
            }
        };
        let up = if by_columns { inner } else { inner * hidden };
        parts.push((
            expert,
            "gate_proj",
            part(gate_up, wide, 0, inner, hidden, 2 * inner),
        ));
        parts.push((
            expert,
            "up_proj",
            part(gate_up, wide, up, inner, hidden, 2 * inner),
        ));
        parts.push((expert, "down_proj", part(down, narrow, 0, hidden, inner, hidden)));
    }
    Some(parts)
}
