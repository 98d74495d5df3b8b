//! The sink value direction and the gated rotation towards it (method.md sections 2 and 4).

use outro_kernels::AttentionShape;
use rayon::prelude::*;

use super::OutRoConfig;
use crate::hook::dot;

/// `vbar[g] = mean over sinks of v[g]`; `v` is `[all, G * D]`, the result `[G * D]`.
pub(super) fn mean_value(v: &[f32], sinks: &[usize], shape: AttentionShape) -> Vec<f32> {
    let width = shape.kv_heads * shape.dim;
    let mut mean = vec![0.0; width];
    for t in sinks {
        for (m, x) in mean.iter_mut().zip(&v[t * width..(t + 1) * width]) {
            *m += x;
        }
    }
    for m in &mut mean {
        *m /= sinks.len() as f32;
    }
    mean
}

/// Rotates every head output of the rows of `o [new, H * D]` that are not skipped.
pub(super) fn rotate(
    o: &mut [f32],
    vbar: &[f32],
    shape: AttentionShape,
    c: &OutRoConfig,
    skip: impl Fn(usize) -> bool + Sync,
) {
    let AttentionShape { heads, kv_heads, dim } = shape;
    let squares: Vec<f32> = vbar.chunks_exact(dim).map(|v| dot(v, v)).collect();
    o.par_chunks_mut(heads * dim)
        .enumerate()
        .filter(|(t, _)| !skip(*t))
        .for_each(|(_, row)| {
            for (h, o) in row.chunks_exact_mut(dim).enumerate() {
                let g = h / (heads / kv_heads);
                rotate_head(o, &vbar[g * dim..(g + 1) * dim], squares[g], c);
            }
        });
}

/// One head output `o [D]` towards `v [D]`, `|v|^2 = square`.
fn rotate_head(o: &mut [f32], v: &[f32], square: f32, c: &OutRoConfig) {
    let length = dot(o, o).sqrt();
    let along = dot(o, v);
    let cos = along / (length.max(1e-12) * square.sqrt().max(1e-12));
    let gate = (cos.max(0.0) / c.temperature).tanh();
    let step = gate * c.gamma * along.abs() / (square + 1e-8);
    for (o, v) in o.iter_mut().zip(v) {
        *o += step * v;
    }
    if c.rescale {
        let scale = length / (dot(o, o).sqrt() + 1e-8);
        for o in o {
            *o *= scale;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn length_is_kept_and_a_closed_gate_changes_nothing(
            o in prop::collection::vec(-2f32..2., 16), v in prop::collection::vec(-2f32..2., 16), gamma in 0f32..8.
        ) {
            let c = OutRoConfig { gamma, ..OutRoConfig::default() };
            let mut r = o.clone();
            rotate_head(&mut r, &v, dot(&v, &v), &c);
            let (a, b) = (dot(&o, &o).sqrt(), dot(&r, &r).sqrt());
            prop_assert!((a - b).abs() < 1e-5 * a.max(1.0), "{} {}", a, b);
            if dot(&o, &v) <= 0.0 {
                prop_assert!(o.iter().zip(&r).all(|(a, b)| (a - b).abs() < 1e-5));
            } else {
                prop_assert!(dot(&r, &v) >= dot(&o, &v) - 1e-4, "never away from the sink");
            }
        }
    }
}
