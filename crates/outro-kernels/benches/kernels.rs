//! The kernels in which a request's time goes, at the shapes of Qwen2.5-Omni-3B: `cargo bench -p outro-kernels`.
//! Items are operations (multiply and add are two) or bytes of weights that are read.

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use half::{bf16, f16};
use outro_kernels::{
    Activations, AttentionShape, Blocks, Cached, Code, GroupLen, Head, KvBlocks, KvQuant, Mask, Phase,
    QuantType, Rotation, Stored, Weight, attend_rotated, linear_with, quantise, rms_norm, rotate_half,
};

const HIDDEN: usize = 2048;
const WIDE: usize = 11_008;
const SHAPE: AttentionShape = AttentionShape {
    heads: 16,
    kv_heads: 2,
    dim: 128,
};

fn main() {
    divan::main();
}

/// Numbers in -1..1 that do not repeat soon.
fn numbers(n: usize) -> Vec<f32> {
    (0..n as u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0)
        .collect()
}

fn product(bencher: Bencher, phase: Phase, kind: Activations, rows: usize, w: Weight) {
    let (x, mut out) = (numbers(rows * HIDDEN), vec![0.0; rows * WIDE]);
    let run = || linear_with(kind, phase, black_box(&x), rows, HIDDEN, w, WIDE, None, &mut out);
    if phase == Phase::Decode {
        bencher.counter(BytesCount::new(w.size())).bench_local(run);
    } else {
        bencher
            .counter(ItemsCount::new(2 * rows * HIDDEN * WIDE))
            .bench_local(run);
    }
}

/// The MLP's gate in prefill.
#[divan::bench(args = [64, 512])]
fn linear_prefill_bf16(bencher: Bencher, rows: usize) {
    let w: Vec<bf16> = numbers(HIDDEN * WIDE).into_iter().map(bf16::from_f32).collect();
    product(bencher, Phase::Prefill, Activations::F32, rows, Weight::Bf16(&w));
}

/// The same of one request and of several that decode together: weights are read from memory once.
#[divan::bench(args = [1, 4, 8])]
fn linear_decode_bf16(bencher: Bencher, rows: usize) {
    let w: Vec<bf16> = numbers(HIDDEN * WIDE).into_iter().map(bf16::from_f32).collect();
    product(bencher, Phase::Decode, Activations::F32, rows, Weight::Bf16(&w));
}

/// The same with exact activations.
#[divan::bench(args = [1])]
fn linear_decode_q4_k_exact(bencher: Bencher, rows: usize) {
    q4_k(bencher, Activations::F32, rows);
}

#[divan::bench(args = [1, 8])]
fn linear_decode_q4_k(bencher: Bencher, rows: usize) {
    q4_k(bencher, Activations::Reduced, rows);
}

fn q4_k(bencher: Bencher, kind: Activations, rows: usize) {
    let mut bytes = vec![0; HIDDEN * WIDE / 256 * 144];
    quantise(QuantType::Q4K, &numbers(HIDDEN * WIDE), &mut bytes);
    let Some(w) = Blocks::new(QuantType::Q4K, &bytes) else {
        return;
    };
    product(bencher, Phase::Decode, kind, rows, Weight::Quant(w));
}

/// One row with the layouts of other tools' checkpoints, in the arithmetic that runs by default.
#[divan::bench(args = ["awq", "gptq32", "int8", "fp8", "nf4", "mlx4"])]
fn linear_decode_groups(bencher: Bencher, form: &str) {
    let (code, head, len) = match form {
        "awq" => (Code::Int4, Head::Zero, GroupLen::L128),
        "gptq32" => (Code::Int4, Head::F16, GroupLen::L32),
        "int8" => (Code::Int8, Head::F32, GroupLen::L128),
        "fp8" => (Code::E4m3, Head::F32, GroupLen::L128),
        "nf4" => (Code::Nf4, Head::F32, GroupLen::L64),
        _ => (Code::Int4, Head::Bf16Bias, GroupLen::L64),
    };
    let kind = QuantType::Group { code, head, len };
    let pattern = numbers(HIDDEN * 64);
    let mut bytes = vec![0; kind.bytes_of(pattern.len()).unwrap_or(0)];
    quantise(kind, &pattern, &mut bytes);
    let bytes = bytes.repeat(WIDE / 64);
    let Some(w) = Blocks::new(kind, &bytes) else {
        return;
    };
    let kind = Activations::Reduced;
    product(bencher, Phase::Decode, kind, 1, Weight::Quant(w));
}

/// Attention of `rows` new rows behind a cache of 2,000, with OutRo's rotation or without it.
fn attention(bencher: Bencher, rows: usize, rotated: bool) {
    let (q_width, kv_width) = (SHAPE.heads * SHAPE.dim, SHAPE.kv_heads * SHAPE.dim);
    let seen = 2000 + rows;
    let (q, k, v) = (
        numbers(rows * q_width),
        numbers(seen * kv_width),
        numbers(seen * kv_width),
    );
    let rotation = rotated.then(|| Rotation {
        vbar: numbers(kv_width),
        gamma: 3.0,
        temperature: 0.1,
        rescale: true,
        skip: Vec::new(),
    });
    let mut out = vec![0.0; q.len()];
    let mask = Mask::Causal { offset: 2000 };
    let phase = if rows == 1 { Phase::Decode } else { Phase::Prefill };
    bencher
        .counter(ItemsCount::new(4 * rows * seen * q_width))
        .bench_local(|| {
            attend_rotated(
                black_box(&q),
                &k,
                &v,
                SHAPE,
                mask,
                phase,
                rotation.as_ref(),
                &mut out,
            );
        });
}

#[divan::bench(args = [false, true])]
fn attention_prefill(bencher: Bencher, rotated: bool) {
    attention(bencher, 256, rotated);
}

#[divan::bench(args = [false, true])]
fn attention_decode(bencher: Bencher, rotated: bool) {
    attention(bencher, 1, rotated);
}

/// One row, or those of a prompt, behind a cache of 8,000 in each of its types. Bytes are those of keys and values.
fn cached(bencher: Bencher, rows: usize, kv: &str) {
    let (q_width, kv_width) = (SHAPE.heads * SHAPE.dim, SHAPE.kv_heads * SHAPE.dim);
    let seen = 8000 + rows;
    let q = numbers(rows * q_width);
    let all = numbers(2 * seen * kv_width);
    let halves: Vec<f16> = all.iter().map(|x| f16::from_f32(*x)).collect();
    let kind = if kv == "q4" { KvQuant::Q4 } else { KvQuant::Q8_0 };
    let mut codes = Vec::new();
    kind.push(SHAPE.dim, &all, &mut codes);
    // Keys lie before values.
    let of = |i: usize| -> Cached {
        let part = i * seen * kv_width..(i + 1) * seen * kv_width;
        match kv {
            "f32" => Stored::F32(&all[part]).into(),
            "f16" => Stored::F16(&halves[part]).into(),
            _ => {
                let half = codes.len() / 2;
                Stored::Quantised(KvBlocks::new(kind, SHAPE.dim, &codes[i * half..(i + 1) * half])).into()
            }
        }
    };
    let (k, v) = (of(0), of(1));
    let mut out = vec![0.0; q.len()];
    let phase = if rows == 1 { Phase::Decode } else { Phase::Prefill };
    let mask = Mask::Causal { offset: 8000 };
    bencher
        .counter(BytesCount::new(k.bytes() + v.bytes()))
        .bench_local(|| attend_rotated(black_box(&q), k, v, SHAPE, mask, phase, None, &mut out));
}

#[divan::bench(args = ["f32", "f16", "q8_0", "q4"])]
fn attention_decode_cached(bencher: Bencher, kv: &str) {
    cached(bencher, 1, kv);
}

#[divan::bench(args = ["f32", "f16", "q8_0", "q4"])]
fn attention_prefill_cached(bencher: Bencher, kv: &str) {
    cached(bencher, 128, kv);
}

/// Writing a prompt's rows into the cache, by token.
#[divan::bench(args = ["q8_0", "q4"])]
fn cache_rows(bencher: Bencher, kv: &str) {
    let rows = numbers(1000 * SHAPE.kv_heads * SHAPE.dim);
    let kind = if kv == "q4" { KvQuant::Q4 } else { KvQuant::Q8_0 };
    let mut out = Vec::new();
    bencher.counter(ItemsCount::new(1000usize)).bench_local(|| {
        out.clear();
        kind.push(SHAPE.dim, black_box(&rows), &mut out);
    });
}

/// What is done to each row beside products and attention.
#[divan::bench]
fn norm_and_rotary(bencher: Bencher) {
    let rows = 512;
    let (x, weight) = (numbers(rows * HIDDEN), numbers(HIDDEN));
    let angles = numbers(rows * SHAPE.dim / 2);
    let mut out = vec![0.0; x.len()];
    bencher.counter(BytesCount::of_slice(&x)).bench_local(|| {
        rms_norm(black_box(&x), &weight, 1e-6, &mut out);
        rotate_half(&mut out, SHAPE.heads, SHAPE.dim, &angles, &angles);
    });
}
