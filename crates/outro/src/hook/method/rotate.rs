//! The gated rotation of head outputs towards the sink value direction (method.md section 4).

use outro_kernels::{AttentionShape, Rotation};
use rayon::prelude::*;

use crate::hook::reduce::dot;

/// The tensor form: rotates every head output of the rows of `o [new, H * D]` that are not skipped. Attention's epilogue
/// does the same to a row that it has just made.
pub(super) fn rotate(o: &mut [f32], r: &Rotation, shape: AttentionShape) {
    let AttentionShape { heads, kv_heads, dim } = shape;
    let squares: Vec<f32> = r.vbar.chunks_exact(dim).map(|v| dot(v, v)).collect();
    o.par_chunks_mut(heads * dim)
        .enumerate()
        .filter(|(t, _)| r.skip.binary_search(t).is_err())
        .for_each(|(_, row)| {
            for (h, o) in row.chunks_exact_mut(dim).enumerate() {
                let g = h / (heads / kv_heads);
                rotate_head(o, &r.vbar[g * dim..(g + 1) * dim], squares[g], r);
            }
        });
}

/// One head output `o [D]` towards `v [D]`, `|v|^2 = square`.
fn rotate_head(o: &mut [f32], v: &[f32], square: f32, r: &Rotation) {
    let length = dot(o, o).sqrt();
    let along = dot(o, v);
    let cos = along / (length.max(1e-12) * square.sqrt().max(1e-12));
    let gate = (cos.max(0.0) / r.temperature).tanh();
    let step = gate * r.gamma * along.abs() / (square + 1e-8);
    for (o, v) in o.iter_mut().zip(v) {
        *o += step * v;
    }
    if r.rescale {
        let scale = length / (dot(o, o).sqrt() + 1e-8);
        for o in o {
            *o *= scale;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::f16;
    use outro_kernels::{Cached, Mask, Phase, attend_rotated};
    use proptest::prelude::*;

    fn to(gamma: f32) -> Rotation {
        Rotation {
            vbar: Vec::new(),
            gamma,
            temperature: 0.1,
            rescale: true,
            skip: Vec::new(),
        }
    }

    fn noise(n: usize, seed: u64) -> Vec<f32> {
        let number = |i: u64| ((i * 7919 + seed * 104_729) % 2003) as f32 / 700.0 - 1.4;
        (0..n as u64).map(number).collect()
    }

    proptest! {
        #[test]
        fn length_is_kept_and_a_closed_gate_changes_nothing(
            o in prop::collection::vec(-2f32..2., 16), v in prop::collection::vec(-2f32..2., 16), gamma in 0f32..8.
        ) {
            let c = to(gamma);
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

        /// A prompt's rows, a decoded row and a few at a time; heads that share keys; caches of both types.
        #[test]
        fn the_epilogue_equals_the_tensor_form(
            kv_heads in 1usize..4, group in 1usize..5, dim in prop::sample::select(vec![7usize, 16, 64, 72, 80, 96, 128]),
            new in prop::sample::select(vec![1usize, 2, 3, 17, 130]), before in 0usize..150, gamma in 0f32..8., rescale: bool,
            temperature in 0.05f32..2.0, skip in prop::collection::btree_set(0usize..140, 0..6), seed in 1u64..1000,
        ) {
            let shape = AttentionShape { heads: kv_heads * group, kv_heads, dim };
            let s = new + before;
            let q = noise(new * shape.heads * dim, seed);
            let (k, v) = (noise(s * kv_heads * dim, seed + 1), noise(s * kv_heads * dim, seed + 2));
            let r = Rotation { vbar: noise(kv_heads * dim, seed + 3), temperature, rescale, skip: skip.into_iter().collect(), ..to(gamma) };
            let narrow = |x: &[f32]| -> Vec<f16> { x.iter().map(|x| f16::from_f32(*x)).collect() };
            let (k16, v16) = (narrow(&k), narrow(&v));
            let caches: [(Cached, Cached); 2] = [((&k).into(), (&v).into()), (k16.as_slice().into(), v16.as_slice().into())];
            for (k, v) in caches {
                for mask in [Mask::Causal { offset: before }, Mask::Full] {
                    let (mut want, mut got) = (vec![f32::NAN; q.len()], vec![f32::NAN; q.len()]);
                    let phase = if new == 1 { Phase::Decode } else { Phase::Prefill };
                    attend_rotated(&q, k, v, shape, mask, phase, None, &mut want);
                    let plain = want.clone();
                    rotate(&mut want, &r, shape);
                    attend_rotated(&q, k, v, shape, mask, phase, Some(&r), &mut got);
                    for (i, (a, b)) in got.iter().zip(&want).enumerate() {
                        prop_assert!((a - b).abs() < 2e-5 * b.abs().max(1.0), "{}: {} for {}", i, a, b);
                        let skipped = r.skip.contains(&(i / (shape.heads * dim)));
                        prop_assert!(!skipped || a.to_bits() == plain[i].to_bits(), "a skipped row stays");
                    }
                }
            }
        }
    }
}
