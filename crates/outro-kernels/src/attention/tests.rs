use half::f16;

use super::*;
use crate::attention_mass::row_lse;
use crate::kv_quant::{KvBlocks, KvQuant};
use crate::math::tests::random;
use proptest::prelude::*;

/// A row that is alone is taken for one that decodes.
fn phase_of(n: usize) -> Phase {
    if n == 1 { Phase::Decode } else { Phase::Prefill }
}

fn naive(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    shape: AttentionShape,
    sees: impl Fn(usize, usize) -> bool,
) -> Vec<f32> {
    let AttentionShape { heads, kv_heads, dim } = shape;
    let (n, s, group) = (q.len() / heads / dim, k.len() / kv_heads / dim, heads / kv_heads);
    let mut out = vec![0f32; q.len()];
    for t in 0..n {
        for h in 0..heads {
            let g = h / group;
            let score = |j: usize| -> f64 {
                (0..dim)
                    .map(|d| {
                        f64::from(q[(t * heads + h) * dim + d]) * f64::from(k[(j * kv_heads + g) * dim + d])
                    })
                    .sum::<f64>()
                    / (dim as f64).sqrt()
            };
            let w: Vec<f64> = (0..s)
                .map(|j| if sees(t, j) { score(j).exp() } else { 0.0 })
                .collect();
            let total: f64 = w.iter().sum();
            for d in 0..dim {
                let o: f64 = (0..s)
                    .map(|j| w[j] * f64::from(v[(j * kv_heads + g) * dim + d]))
                    .sum();
                out[(t * heads + h) * dim + d] = (o / total) as f32;
            }
        }
    }
    out
}

fn attended(level: Level, q: &[f32], k: Cached, v: Cached, shape: AttentionShape, mask: Mask) -> Vec<f32> {
    let mut out = vec![f32::NAN; q.len()];
    let n = q.len() / (shape.heads * shape.dim);
    attend_at(level, q, k, v, shape, mask, phase_of(n), None, &mut out);
    out
}

#[test]
fn every_level_equals_the_definition() {
    for (heads, kv_heads, dim, n, s) in [
        (4, 2, 16, 300, 300),
        (6, 1, 80, 50, 70),
        (2, 2, 8, 1, 260),
        (14, 2, 64, 3, 131),
        (1, 1, 33, 129, 129),
    ] {
        let shape = AttentionShape { heads, kv_heads, dim };
        let (q, k, v) = (
            random(1, n * heads * dim),
            random(2, s * kv_heads * dim),
            random(3, s * kv_heads * dim),
        );
        let q: Vec<f32> = q.iter().map(|x| x * 6.0).collect();
        let bounds = [0, 5.min(n), n.max(6).min(n)];
        let bounds = if bounds[1] == n {
            vec![0, n]
        } else {
            bounds.to_vec()
        };
        let mut masks = vec![Mask::Full, Mask::Causal { offset: s - n }];
        if n == s {
            masks.push(Mask::Segments(&bounds));
        }
        for level in Level::all() {
            for mask in &masks {
                let want = naive(&q, &k, &v, shape, |t, j| match mask {
                    Mask::Full => true,
                    Mask::Causal { offset } => j <= t + offset,
                    Mask::Segments(b) => b
                        .windows(2)
                        .any(|w| (w[0]..w[1]).contains(&t) && (w[0]..w[1]).contains(&j)),
                });
                let mut got = vec![f32::NAN; q.len()];
                attend_at(
                    level,
                    &q,
                    (&k).into(),
                    (&v).into(),
                    shape,
                    *mask,
                    phase_of(q.len() / (shape.heads * shape.dim)),
                    None,
                    &mut got,
                );
                let worst = got
                    .iter()
                    .zip(&want)
                    .map(|(a, b)| (a - b).abs())
                    .fold(0.0, f32::max);
                assert!(worst < 5e-6, "{level:?} {shape:?} {mask:?}: {worst}");
            }
        }
    }
}

/// Half-precision keys and values are widened, nothing else: the same bits come out.
#[test]
fn half_precision_equals_its_widened_values() {
    for (heads, kv_heads, dim, n, s) in [(4, 2, 16, 200, 300), (14, 2, 64, 1, 411), (2, 2, 8, 2, 260)] {
        let shape = AttentionShape { heads, kv_heads, dim };
        let half = |seed| -> Vec<f16> {
            random(seed, s * kv_heads * dim)
                .into_iter()
                .map(f16::from_f32)
                .collect()
        };
        let (q, k, v) = (random(1, n * heads * dim), half(2), half(3));
        let wide = |x: &[f16]| -> Vec<f32> { x.iter().map(|x| x.to_f32()).collect() };
        let (k32, v32) = (wide(&k), wide(&v));
        for level in Level::all() {
            for mask in [Mask::Full, Mask::Causal { offset: s - n }] {
                let run = |k, v| attended(level, &q, k, v, shape, mask);
                let want = run((&k32).into(), (&v32).into());
                let got = run(k.as_slice().into(), v.as_slice().into());
                assert_eq!(got, want, "{level:?} {shape:?} {mask:?}");
            }
        }
    }
}

/// Codes are opened, nothing else: in 8 bits the bits are those of the widened rows, in 4 bits sums over turned rows are those over
/// rows up to their order.
#[test]
fn quantised_rows_equal_their_widened_values() {
    for (heads, kv_heads, dim, n, s) in [
        (4, 2, 16, 200, 300),
        (14, 2, 64, 1, 411),
        (2, 2, 20, 2, 260),
        (6, 1, 80, 70, 90),
        (1, 1, 31, 1, 65),
    ] {
        let shape = AttentionShape { heads, kv_heads, dim };
        let q = random(1, n * heads * dim);
        for kind in [KvQuant::Q8_0, KvQuant::Q4] {
            let coded = |seed| -> (Vec<u8>, Vec<f32>) {
                let (mut bytes, mut wide) = (Vec::new(), vec![0.0; s * kv_heads * dim]);
                kind.push(dim, &random(seed, wide.len()), &mut bytes);
                KvBlocks::new(kind, dim, &bytes).widen(0, &mut wide);
                (bytes, wide)
            };
            let ((k, k32), (v, v32)) = (coded(2), coded(3));
            let stored = |x| Cached::from(Stored::Quantised(KvBlocks::new(kind, dim, x)));
            for level in Level::all() {
                for mask in [Mask::Full, Mask::Causal { offset: s - n }] {
                    let run = |k, v| attended(level, &q, k, v, shape, mask);
                    let want = run((&k32).into(), (&v32).into());
                    let got = run(stored(&k), stored(&v));
                    for (a, b) in got.iter().zip(&want) {
                        let close = if kind == KvQuant::Q8_0 {
                            a == b
                        } else {
                            (a - b).abs() < 5e-6
                        };
                        assert!(close, "{kind:?} {level:?} {shape:?} {mask:?}: {a} for {b}");
                    }
                }
            }
            let (lse, want) = (
                row_lse(&q, stored(&k), shape, s - n),
                row_lse(&q, &k32, shape, s - n),
            );
            assert_eq!(lse, want, "{kind:?} {shape:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Shapes that are no multiples of any tile: every level against the portable one.
    #[test]
    fn every_level_equals_the_portable_one(
        kv_heads in 1usize..4, group in 1usize..8, dim in 1usize..140, n in 1usize..70, before in 0usize..90, seed in 0u64..1000,
    ) {
        let shape = AttentionShape { heads: kv_heads * group, kv_heads, dim };
        let s = n + before;
        let q = random(seed, n * shape.heads * dim);
        let (k, v) = (random(seed + 1, s * kv_heads * dim), random(seed + 2, s * kv_heads * dim));
        for mask in [Mask::Full, Mask::Causal { offset: before }] {
            let run = |level| {
                let mut out = vec![f32::NAN; q.len()];
                attend_at(level, &q, (&k).into(), (&v).into(), shape, mask, phase_of(n), None, &mut out);
                out
            };
            let want = run(Level::Portable);
            for level in Level::all() {
                for (a, b) in run(level).iter().zip(&want) {
                    prop_assert!((a - b).abs() < 5e-6, "{:?} {:?} {:?}: {} for {}", level, shape, mask, a, b);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// A row's bits depend neither on where its queries are cut nor on where keys are cut in two.
    #[test]
    fn cuts_change_no_bit(
        kv_heads in 1usize..3, group in 1usize..5, dim in 1usize..80, n in 2usize..150, before in 0usize..90, key_cut in 0usize..240,
        query_cut in 0usize..150, form in 0usize..4, seed in 0u64..1000,
    ) {
        let shape = AttentionShape { heads: kv_heads * group, kv_heads, dim };
        let (s, width) = (n + before, kv_heads * dim);
        let q = random(seed, n * shape.heads * dim);
        let rows = [random(seed + 1, s * width), random(seed + 2, s * width)];
        let halves = rows.each_ref().map(|x| -> Vec<f16> { x.iter().map(|x| f16::from_f32(*x)).collect() });
        let kind = if form == 2 { KvQuant::Q8_0 } else { KvQuant::Q4 };
        let coded = rows.each_ref().map(|x| {
            let mut bytes = Vec::new();
            kind.push(dim, x, &mut bytes);
            bytes
        });
        // Keys or values of some rows.
        let some = |i: usize, from: usize, to: usize| match form {
            0 => Stored::F32(&rows[i][from * width..to * width]),
            1 => Stored::F16(&halves[i][from * width..to * width]),
            _ => {
                let row = kv_heads * kind.row_bytes(dim);
                Stored::Quantised(KvBlocks::new(kind, dim, &coded[i][from * row..to * row]))
            }
        };
        let at = key_cut.min(s);
        let whole = |i: usize| Cached::from(some(i, 0, s));
        let two = |i: usize| Cached::two(some(i, 0, at), some(i, at, s));
        for level in Level::all() {
            let mut want = vec![f32::NAN; q.len()];
            attend_at(level, &q, whole(0), whole(1), shape, Mask::Causal { offset: before }, Phase::Prefill, None, &mut want);
            let mut got = vec![f32::NAN; q.len()];
            let row = shape.heads * dim;
            let cut = query_cut.min(n);
            for rows in [0..cut, cut..n] {
                if !rows.is_empty() {
                    let (q, mask) = (&q[rows.start * row..rows.end * row], Mask::Causal { offset: before + rows.start });
                    attend_at(level, q, two(0), two(1), shape, mask, Phase::Prefill, None, &mut got[rows.start * row..rows.end * row]);
                }
            }
            prop_assert!(got == want, "{:?} {:?}", level, shape);
            for (q, mask) in [(&q[..row], Mask::Full), (&q[(n - 1) * row..], Mask::Causal { offset: s - 1 })] {
                let run = |k: Cached, v: Cached| {
                    let mut out = vec![f32::NAN; row];
                    attend_at(level, q, k, v, shape, mask, Phase::Decode, None, &mut out);
                    out
                };
                prop_assert!(run(whole(0), whole(1)) == run(two(0), two(1)), "one row, {:?} {:?}", level, shape);
            }
        }
    }
}
