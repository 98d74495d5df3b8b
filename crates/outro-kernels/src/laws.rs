//! Laws of the kernels on random shapes, at every level that the processor has.

use half::{bf16, f16};
use proptest::prelude::*;

use crate::linear::linear_at;
use crate::math::tests::random;
use crate::quant::tests::random_blocks;
use crate::simd::Level;
use crate::{
    Activations, AttentionShape, Blocks, Mask, Phase, QuantType, Weight, attend, layer_norm, rms_norm,
    rotate_half,
};

/// A weight of one type, with its numbers widened.
struct Stored {
    f32: Vec<f32>,
    bf16: Vec<bf16>,
    f16: Vec<f16>,
    blocks: Vec<(QuantType, Vec<u8>)>,
}

impl Stored {
    fn random(seed: u64, n: usize, k: usize) -> Self {
        let f32 = random(seed, n * k);
        let fitting = QuantType::ALL
            .into_iter()
            // One of each code.
            .chain([2, 5, 8, 11, 13, 15].map(|i| QuantType::GROUPS[i]))
            .filter(|kind| k.is_multiple_of(kind.block_len()));
        Self {
            bf16: f32.iter().map(|v| bf16::from_f32(*v)).collect(),
            f16: f32.iter().map(|v| f16::from_f32(*v)).collect(),
            blocks: fitting
                .map(|kind| (kind, random_blocks(kind, seed, n * k / kind.block_len())))
                .collect(),
            f32,
        }
    }

    fn weights(&self) -> Vec<Weight<'_>> {
        let mut all = vec![
            Weight::F32(&self.f32),
            Weight::Bf16(&self.bf16),
            Weight::F16(&self.f16),
        ];
        let blocks = self
            .blocks
            .iter()
            .map(|(kind, bytes)| Blocks::new(*kind, bytes).unwrap());
        all.extend(blocks.map(Weight::Quant));
        all
    }
}

/// Every level, phase and kind of activations.
fn ways() -> Vec<(Level, Phase, Activations)> {
    let mut all = Vec::new();
    for level in Level::all() {
        for phase in [Phase::Prefill, Phase::Decode] {
            all.extend([Activations::F32, Activations::Reduced].map(|kind| (level, phase, kind)));
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// What a row becomes does not depend on the rows beside it, bit for bit, for every type of weight: so requests can
    /// share a step, and a prompt can be cut anywhere.
    #[test]
    fn a_row_is_alone_in_a_linear_layer(
        m in 2usize..60, n in 1usize..70, blocks in 1usize..5, odd in 0usize..40, seed in 1u64..1000,
    ) {
        // Rows of whole blocks, so that all types take part, and others.
        for k in [blocks * 256, blocks * 32 + odd, 1024 * blocks + 64] {
            let (stored, bias) = (Stored::random(seed, n, k), random(seed + 1, n));
            let x = random(seed + 2, m * k);
            for ((level, phase, kind), w) in ways().into_iter().flat_map(|way| stored.weights().into_iter().map(move |w| (way, w))) {
                let run = |x: &[f32]| {
                    let rows = x.len() / k;
                    let mut out = vec![f32::NAN; rows * n];
                    linear_at(level, kind, phase, x, rows, k, w, n, Some(&bias), &mut out);
                    out
                };
                let whole = run(&x);
                for (start, end) in [(0, 1), (m - 1, m), (m / 2, m / 2 + 1), (m / 3, m)] {
                    let part = run(&x[start * k..end * k]);
                    prop_assert_eq!(&part, &whole[start * n..end * n], "{:?} {:?} {:?} {:?} {} x {} x {}", level, phase, kind, w, m, k, n);
                }
            }
        }
    }

    /// Sums of products are linear: scaled rows give scaled results, exactly where the scale is a power of two.
    #[test]
    fn a_linear_layer_scales(m in 1usize..20, n in 1usize..40, k in 1usize..300, seed in 1u64..1000, power in -8i32..8) {
        let (stored, scale) = (Stored::random(seed, n, k), 2f32.powi(power));
        let x = random(seed, m * k);
        let scaled: Vec<f32> = x.iter().map(|v| v * scale).collect();
        for ((level, phase, kind), w) in ways().into_iter().flat_map(|way| stored.weights().into_iter().map(move |w| (way, w))) {
            let run = |x: &[f32]| {
                let mut out = vec![f32::NAN; m * n];
                linear_at(level, kind, phase, x, m, k, w, n, None, &mut out);
                out
            };
            for (a, b) in run(&x).iter().zip(run(&scaled)) {
                prop_assert!((a * scale - b).abs() <= 1e-5 * scale * (k as f32).sqrt(), "{:?} {:?} {:?}: {} {}", level, phase, kind, a * scale, b);
            }
        }
    }

    /// Norms: against their definitions in f64; a row is alone; the RMS norm does not see a row's scale, the layer norm
    /// neither scale nor shift.
    #[test]
    fn norms(rows in 1usize..80, width in 2usize..300, seed in 1u64..1000) {
        let x = random(seed, rows * width);
        let (weight, bias) = (random(seed + 1, width), random(seed + 2, width));
        let (mut rms, mut layer) = (vec![f32::NAN; x.len()], vec![f32::NAN; x.len()]);
        rms_norm(&x, &weight, 1e-6, &mut rms);
        layer_norm(&x, &weight, &bias, 1e-6, &mut layer);
        for (i, row) in x.chunks_exact(width).enumerate() {
            let row: Vec<f64> = row.iter().map(|v| f64::from(*v)).collect();
            let mean = row.iter().sum::<f64>() / width as f64;
            let square = row.iter().map(|v| v * v).sum::<f64>() / width as f64;
            let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / width as f64;
            for j in 0..width {
                let (w, b) = (f64::from(weight[j]), f64::from(bias[j]));
                let want = row[j] / (square + 1e-6).sqrt() * w;
                prop_assert!((f64::from(rms[i * width + j]) - want).abs() < 1e-5, "rms: {want}");
                let want = (row[j] - mean) / (variance + 1e-6).sqrt() * w + b;
                prop_assert!((f64::from(layer[i * width + j]) - want).abs() < 2e-4, "layer: {want}");
            }
        }
        let last = (rows - 1) * width;
        let mut alone = vec![f32::NAN; width];
        rms_norm(&x[last..], &weight, 1e-6, &mut alone);
        prop_assert_eq!(&alone, &rms[last..]);
        layer_norm(&x[last..], &weight, &bias, 1e-6, &mut alone);
        prop_assert_eq!(&alone, &layer[last..]);
    }

    /// The rotary embedding keeps lengths, and a product of two rotated vectors depends on the distance of their positions
    /// alone.
    #[test]
    fn rotary_is_relative(heads in 1usize..4, half in 1usize..40, m in 0usize..500, n in 0usize..500, shift in 0usize..500, seed in 1u64..1000) {
        let dim = 2 * half;
        let (q, k) = (random(seed, heads * dim), random(seed + 1, heads * dim));
        let turned = |x: &[f32], position: usize| {
            let angle = |i: usize| position as f64 / 1e4f64.powf(i as f64 / half as f64);
            let (cos, sin): (Vec<f32>, Vec<f32>) = (0..half).map(|i| (angle(i).cos() as f32, angle(i).sin() as f32)).unzip();
            let mut x = x.to_vec();
            rotate_half(&mut x, heads, dim, &cos, &sin);
            x
        };
        let dots = |a: &[f32], b: &[f32]| -> Vec<f32> {
            a.chunks_exact(dim).zip(b.chunks_exact(dim)).map(|(a, b)| a.iter().zip(b).map(|(a, b)| a * b).sum()).collect()
        };
        let (here, there) = (turned(&q, m), turned(&q, m + shift));
        for (a, b) in dots(&q, &q).iter().zip(dots(&here, &here)) {
            prop_assert!((a - b).abs() < 1e-4, "length: {a} {b}");
        }
        for (a, b) in dots(&here, &turned(&k, n)).iter().zip(dots(&there, &turned(&k, n + shift))) {
            prop_assert!((a - b).abs() < 1e-3, "distance: {a} {b}");
        }
    }

    /// A prompt that is cut attends as the whole does, bit for bit: rows see the same keys whoever runs beside them. One row
    /// alone is decoding, which sums in another order.
    #[test]
    fn attention_of_a_part_is_part_of_attention(
        kv_heads in 1usize..3, group in 1usize..5, dim in 1usize..100, s in 2usize..200, seed in 0u64..1000, share in 0f64..1.0,
    ) {
        let shape = AttentionShape { heads: kv_heads * group, kv_heads, dim };
        let q = random(seed, s * shape.heads * dim);
        let (k, v) = (random(seed + 1, s * kv_heads * dim), random(seed + 2, s * kv_heads * dim));
        let mut whole = vec![f32::NAN; q.len()];
        attend(&q, &k, &v, shape, Mask::Causal { offset: 0 }, &mut whole);
        let cut = ((s as f64 * share) as usize).clamp(1, s - 1);
        for (start, end) in [(0, cut), (cut, s), (s - 1, s)] {
            let rows = start * shape.heads * dim..end * shape.heads * dim;
            let seen = ..end * kv_heads * dim;
            let mut part = vec![f32::NAN; rows.len()];
            attend(&q[rows.clone()], &k[seen], &v[seen], shape, Mask::Causal { offset: start }, &mut part);
            let whole = &whole[rows];
            if end - start > 1 {
                prop_assert_eq!(&part[..], whole, "{:?}, rows {} to {} of {}", shape, start, end, s);
            }
            for (a, b) in part.iter().zip(whole) {
                prop_assert!((a - b).abs() < 5e-6, "{:?}, rows {} to {} of {}: {} {}", shape, start, end, s, a, b);
            }
        }
    }
}
