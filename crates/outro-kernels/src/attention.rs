//! Softmax attention over blocks of keys with a running maximum: exact, and nothing of size S x S is stored.

use std::ops::Range;

use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

use crate::arithmetic::Phase;
use crate::cached::{Cached, Stored};
use crate::rotation::{Directions, Rotation};
use crate::shape::AttentionShape;
use crate::shared::Shared;
use crate::simd::{Level, NR, dot, exp_negative, fma, gemm_panel, multiversion};

/// Which keys a query sees.
#[derive(Clone, Copy, Debug)]
pub enum Mask<'a> {
    /// All of them.
    Full,
    /// Query row `i` sees keys `0..=offset + i`.
    Causal {
        /// Position of the first query row.
        offset: usize,
    },
    /// Boundaries `0 = b0 < b1 < ..`: rows of one segment see the keys of that segment.
    Segments(&'a [usize]),
}

/// Keys of one block.
const KEYS: usize = 4 * NR;
/// About so many query rows (over all heads of a group) share one packed block of keys.
const QUERIES: usize = 96;

/// `out = softmax(q k^T / sqrt(D) + mask) v`. `q` and `out` are `[n, H * D]`, `k` and `v` `[s, G * D]`.
///
/// # Panics
/// When a slice does not fit the shape.
pub fn attend<'a>(
    q: &[f32],
    k: impl Into<Cached<'a>>,
    v: impl Into<Cached<'a>>,
    shape: AttentionShape,
    mask: Mask,
    out: &mut [f32],
) {
    attend_rotated(q, k, v, shape, mask, Phase::Prefill, None, out);
}

/// [`attend`], in the arithmetic of a phase and with every finished head output rotated while it is in cache. A row's bits
/// depend on the phase and on what it sees, never on where queries or keys are cut.
///
/// # Panics
/// As [`attend`], and when the rotation's direction is not `[G * D]`.
pub fn attend_rotated<'a>(
    q: &[f32],
    k: impl Into<Cached<'a>>,
    v: impl Into<Cached<'a>>,
    shape: AttentionShape,
    mask: Mask,
    phase: Phase,
    rotation: Option<&Rotation>,
    out: &mut [f32],
) {
    attend_at(
        Level::detect(),
        q,
        k.into(),
        v.into(),
        shape,
        mask,
        phase,
        rotation,
        out,
    );
}

/// One piece of work: some query rows of one key/value head against a range of keys.
struct Task {
    head: usize,
    rows: Range<usize>,
    keys: Range<usize>,
}

fn attend_at(
    level: Level,
    q: &[f32],
    k: Cached,
    v: Cached,
    shape: AttentionShape,
    mask: Mask,
    phase: Phase,
    rotation: Option<&Rotation>,
    out: &mut [f32],
) {
    let AttentionShape { heads, kv_heads, dim } = shape;
    assert!(
        heads > 0 && dim > 0 && kv_heads > 0 && heads.is_multiple_of(kv_heads),
        "{shape:?}"
    );
    let (n, s) = (q.len() / (heads * dim), k.len() / (kv_heads * dim));
    assert!(
        q.len() == n * heads * dim && out.len() == q.len(),
        "queries and outputs of attention"
    );
    assert!(
        k.len() == s * kv_heads * dim && v.len() == k.len(),
        "keys and values of attention"
    );
    let block = (QUERIES / (heads / kv_heads)).max(1);
    let whole = [0, n];
    let (bounds, causal) = match mask {
        Mask::Full => (&whole[..], None),
        Mask::Causal { offset } => {
            assert!(offset + n <= s, "causal mask: {n} rows from {offset}, {s} keys");
            (&whole[..], Some(offset))
        }
        Mask::Segments(bounds) => {
            assert!(
                n == s && bounds.first() == Some(&0) && bounds.last() == Some(&n),
                "segments of attention"
            );
            (bounds, None)
        }
    };
    let mut tasks = Vec::new();
    for w in bounds.windows(2) {
        let keys = if let Mask::Segments(_) = mask {
            w[0]..w[1]
        } else {
            0..s
        };
        for start in (w[0]..w[1]).step_by(block) {
            let rows = start..(start + block).min(w[1]);
            let end = causal.map_or(keys.end, |offset| offset + rows.end);
            tasks.extend((0..kv_heads).map(|head| Task {
                head,
                rows: rows.clone(),
                keys: keys.start..end,
            }));
        }
    }
    // Later causal rows see more keys: starting with them keeps the threads evenly busy to the end.
    if causal.is_some() {
        tasks.reverse();
    }
    let shared = Shared::new(out);
    let groups = heads / kv_heads;
    let streamed = phase == Phase::Decode || matches!(mask, Mask::Full);
    let directions = rotation.map(|r| Directions::new(r, shape));
    tasks
        .into_par_iter()
        .for_each_init(Scratch::default, |scratch, task| {
            if streamed && task.rows.len() * groups <= 2 * groups.min(8) {
                few(level, q, k, v, shape, &task, causal, scratch);
            } else {
                many(level, q, k, v, shape, &task, causal, scratch);
            }
            let outputs = &mut scratch.o[..task.rows.len() * groups * dim];
            v.turn_back(level, dim, outputs);
            for (i, row) in outputs.chunks_exact_mut(dim).enumerate() {
                let (t, h) = (task.rows.start + i / groups, task.head * groups + i % groups);
                if let Some(directions) = &directions {
                    directions.rotate(level, t, task.head, row);
                }
                // SAFETY: row t, head h belong to this task alone, and lie inside `out` by the assertion on its length.
                unsafe { shared.write((t * heads + h) * dim, row) };
            }
        });
}

/// Buffers of one thread. `o` is `[rows * group, D]` when a task is done.
#[derive(Default)]
struct Scratch {
    q: Vec<f32>,
    /// Keys or values, widened.
    wide: Vec<f32>,
    kt: Vec<f32>,
    vp: Vec<f32>,
    scores: Vec<f32>,
    p: Vec<f32>,
    acc: Vec<f32>,
    max: Vec<f32>,
    sum: Vec<f32>,
    o: Vec<f32>,
}

fn reset(v: &mut Vec<f32>, n: usize, x: f32) {
    v.clear();
    v.resize(n, x);
}

/// Copies the task's queries, scaled, as `[rows * group, D]`.
fn gather(q: &[f32], shape: AttentionShape, task: &Task, out: &mut Vec<f32>) {
    let AttentionShape { heads, kv_heads, dim } = shape;
    let group = heads / kv_heads;
    let scale = 1.0 / (dim as f32).sqrt();
    out.clear();
    for t in task.rows.clone() {
        let start = (t * heads + task.head * group) * dim;
        out.extend(q[start..start + group * dim].iter().map(|x| x * scale));
    }
}

fn many(
    level: Level,
    q: &[f32],
    k: Cached,
    v: Cached,
    shape: AttentionShape,
    task: &Task,
    causal: Option<usize>,
    s: &mut Scratch,
) {
    let AttentionShape { heads, kv_heads, dim } = shape;
    let group = heads / kv_heads;
    let m = task.rows.len() * group;
    let panels = dim.div_ceil(NR);
    gather(q, shape, task, &mut s.q);
    k.turn(level, dim, &mut s.q);
    reset(&mut s.kt, dim * NR, 0.0);
    reset(&mut s.wide, dim, 0.0);
    reset(&mut s.vp, panels * KEYS * NR, 0.0);
    reset(&mut s.scores, m * NR, 0.0);
    reset(&mut s.p, m * KEYS, 0.0);
    reset(&mut s.acc, panels * m * NR, 0.0);
    reset(&mut s.max, m, f32::NEG_INFINITY);
    reset(&mut s.sum, m, 0.0);
    for start in task.keys.clone().step_by(KEYS) {
        let keys = (task.keys.end - start).min(KEYS);
        for p in 0..keys.div_ceil(NR) {
            let n = (keys - p * NR).min(NR);
            if n < NR {
                s.kt.fill(0.0);
            }
            for j in 0..n {
                let at = ((start + p * NR + j) * kv_heads + task.head) * dim;
                let row = k.row(level, at, dim, &mut s.wide);
                for (kt, x) in s.kt[j..].iter_mut().step_by(NR).zip(row) {
                    *kt = *x;
                }
            }
            gemm_panel(level, &s.q, dim, m, dim, &s.kt, &mut s.scores, false);
            for (p_row, row) in s.p.chunks_exact_mut(KEYS).zip(s.scores.chunks_exact(NR)) {
                p_row[p * NR..p * NR + NR].copy_from_slice(row);
            }
        }
        for j in 0..keys {
            let at = ((start + j) * kv_heads + task.head) * dim;
            for (p, x) in v.row(level, at, dim, &mut s.wide).chunks(NR).enumerate() {
                s.vp[(p * KEYS + j) * NR..][..x.len()].copy_from_slice(x);
            }
        }
        for (i, row) in s.p.chunks_exact_mut(KEYS).enumerate() {
            let visible = causal.map_or(keys, |offset| {
                (offset + task.rows.start + i / group + 1)
                    .saturating_sub(start)
                    .min(keys)
            });
            let scale = softmax_step(level, row, visible, &mut s.max[i], &mut s.sum[i]);
            if scale != 1.0 {
                for p in 0..panels {
                    for x in &mut s.acc[(p * m + i) * NR..][..NR] {
                        *x *= scale;
                    }
                }
            }
        }
        for p in 0..panels {
            gemm_panel(
                level,
                &s.p,
                KEYS,
                m,
                keys,
                &s.vp[p * KEYS * NR..],
                &mut s.acc[p * m * NR..(p + 1) * m * NR],
                true,
            );
        }
    }
    s.o.clear();
    for i in 0..m {
        let inv = 1.0 / s.sum[i];
        for p in 0..panels {
            let n = (dim - p * NR).min(NR);
            s.o.extend(s.acc[(p * m + i) * NR..][..n].iter().map(|x| x * inv));
        }
    }
}

multiversion! {
    /// Turns a row of scores into `e^(score - max)`, zero past `visible`; updates the running maximum and sum.
    /// Returns what earlier sums must be multiplied by.
    fn softmax_step(row: &mut [f32], visible: usize, max: &mut f32, sum: &mut f32) -> f32 = softmax_body
}

#[inline(always)]
fn softmax_body<const FMA: bool>(row: &mut [f32], visible: usize, max: &mut f32, sum: &mut f32) -> f32 {
    let (seen, hidden) = row.split_at_mut(visible);
    hidden.fill(0.0);
    if seen.is_empty() {
        return 1.0;
    }
    let mut lanes = [f32::NEG_INFINITY; 16];
    let chunks = seen.chunks_exact(16);
    let mut top = chunks.remainder().iter().fold(*max, |a, b| a.max(*b));
    for c in chunks {
        for l in 0..16 {
            lanes[l] = if c[l] > lanes[l] { c[l] } else { lanes[l] };
        }
    }
    top = lanes.iter().fold(top, |a, b| a.max(*b));
    let scale = exp_negative::<FMA>(*max - top);
    let mut sums = [0f32; 16];
    let mut chunks = seen.chunks_exact_mut(16);
    for c in &mut chunks {
        for l in 0..16 {
            c[l] = exp_negative::<FMA>(c[l] - top);
            sums[l] += c[l];
        }
    }
    let mut total = crate::simd::sum_lanes(sums);
    for x in chunks.into_remainder() {
        *x = exp_negative::<FMA>(*x - top);
        total += *x;
    }
    *sum = *sum * scale + total;
    *max = top;
    scale
}

/// A handful of rows (a decode step, a sink's row): packing keys would cost more than the products.
fn few(
    level: Level,
    q: &[f32],
    k: Cached,
    v: Cached,
    shape: AttentionShape,
    task: &Task,
    causal: Option<usize>,
    s: &mut Scratch,
) {
    let AttentionShape { heads, kv_heads, dim } = shape;
    let group = heads / kv_heads;
    let m = task.rows.len() * group;
    gather(q, shape, task, &mut s.q);
    k.turn(level, dim, &mut s.q);
    let n = task.keys.len();
    reset(&mut s.p, m * n, 0.0);
    reset(&mut s.o, m * dim, 0.0);
    if n == 0 {
        return;
    }
    let end = |i: usize| {
        causal.map_or(task.keys.end, |offset| {
            (offset + task.rows.start + i / group + 1).min(task.keys.end)
        })
    };
    for_blocks(level, k, shape, task, &mut s.wide, |from, rows, stride| {
        for i in 0..m {
            let seen = end(i)
                .saturating_sub(task.keys.start + from)
                .min(rows.len().div_ceil(stride));
            let p = &mut s.p[i * n + from..i * n + from + seen];
            scores(level, &s.q[i * dim..(i + 1) * dim], rows, stride, p);
        }
    });
    reset(&mut s.sum, m, 0.0);
    for i in 0..m {
        let mut max = f32::NEG_INFINITY;
        let seen = end(i) - task.keys.start;
        softmax_step(level, &mut s.p[i * n..][..seen], seen, &mut max, &mut s.sum[i]);
    }
    for_blocks(level, v, shape, task, &mut s.wide, |from, rows, stride| {
        for i in 0..m {
            let seen = end(i)
                .saturating_sub(task.keys.start + from)
                .min(rows.len().div_ceil(stride));
            let p = &s.p[i * n + from..i * n + from + seen];
            weighted_sum(level, p, rows, stride, &mut s.o[i * dim..(i + 1) * dim]);
        }
    });
    for (o, sum) in s.o.chunks_exact_mut(dim).zip(&s.sum) {
        for x in o {
            *x /= sum;
        }
    }
}

/// Calls `f` with the task's keys or values: piece by piece where they are f32, else block by block, widened (and turned where
/// they are turned). `f` gets the
/// first key's place in the task, elements that begin with that key, and the stride from key to key.
fn for_blocks(
    level: Level,
    x: Cached,
    shape: AttentionShape,
    task: &Task,
    wide: &mut Vec<f32>,
    mut f: impl FnMut(usize, &[f32], usize),
) {
    let AttentionShape { kv_heads, dim, .. } = shape;
    let width = kv_heads * dim;
    for (begin, piece) in x.pieces() {
        let begin = begin / width;
        let keys = task.keys.start.max(begin)..task.keys.end.min(begin + piece.len() / width);
        if keys.is_empty() {
            continue;
        }
        let place = |key: usize| (key - begin) * width + task.head * dim;
        match piece {
            Stored::F32(x) => f(
                keys.start - task.keys.start,
                &x[place(keys.start)..place(keys.end - 1) + dim],
                width,
            ),
            Stored::F16(x) => {
                for start in keys.clone().step_by(KEYS) {
                    let some = start..(start + KEYS).min(keys.end);
                    reset(wide, some.len() * dim, 0.0);
                    for (key, row) in some.zip(wide.chunks_exact_mut(dim)) {
                        x[place(key)..place(key) + dim].convert_to_f32_slice(row);
                    }
                    f(start - task.keys.start, wide, dim);
                }
            }
            Stored::Quantised(x) => {
                for start in keys.clone().step_by(KEYS) {
                    let some = (start + KEYS).min(keys.end) - start;
                    // All of it is written.
                    wide.resize(some * dim, 0.0);
                    x.open(level, place(start), width, wide);
                    f(start - task.keys.start, wide, dim);
                }
            }
        }
    }
}

multiversion! { fn scores(q: &[f32], k: &[f32], stride: usize, out: &mut [f32]) = scores_body }

#[inline(always)]
fn scores_body<const FMA: bool>(q: &[f32], k: &[f32], stride: usize, out: &mut [f32]) {
    for (j, o) in out.iter_mut().enumerate() {
        *o = dot::<FMA, _>(q, &k[j * stride..j * stride + q.len()], |x| x);
    }
}

multiversion! { fn weighted_sum(p: &[f32], v: &[f32], stride: usize, out: &mut [f32]) = weighted_sum_body }

#[inline(always)]
fn weighted_sum_body<const FMA: bool>(p: &[f32], v: &[f32], stride: usize, out: &mut [f32]) {
    for (j, p) in p.iter().enumerate() {
        for (o, x) in out.iter_mut().zip(&v[j * stride..]) {
            *o = fma::<FMA>(*p, *x, *o);
        }
    }
}

#[cfg(test)]
mod tests;
