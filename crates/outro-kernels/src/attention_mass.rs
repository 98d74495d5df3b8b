//! Where attention goes, without a map: the logarithm of each row's softmax sum, and from it exact sums over columns.

use rayon::prelude::*;

use crate::cached::Cached;
use crate::linear::linear;
use crate::shape::AttentionShape;
use crate::weight::Weight;

/// Query rows, and keys, whose scores exist at one time.
const ROWS: usize = 64;
const KEYS: usize = 512;

/// `ln(sum over j <= offset + i of exp(q[i, h] . k[j] / sqrt(D)))`, `[n, H]`: the attention of row i to key j is
/// `exp(q . k / sqrt(D) - lse)`. `q` is `[n, H * D]`, `k` `[s, G * D]`.
///
/// # Panics
/// When a slice does not fit the shape.
pub fn row_lse<'a>(q: &[f32], k: impl Into<Cached<'a>>, shape: AttentionShape, offset: usize) -> Vec<f32> {
    let k = k.into();
    let n = q.len() / (shape.heads * shape.dim);
    let heads: Vec<Vec<f32>> = (0..shape.heads)
        .into_par_iter()
        .map(|head| {
            let (mut largest, mut sums) = (vec![f32::NEG_INFINITY; n], vec![0f64; n]);
            scores(q, k, shape, offset, head, &mut |row, _, scores| {
                let max = scores.iter().fold(largest[row], |m, s| m.max(*s));
                sums[row] *= f64::from((largest[row] - max).exp());
                sums[row] += scores.iter().map(|s| f64::from((s - max).exp())).sum::<f64>();
                largest[row] = max;
            });
            let log = largest.iter().zip(&sums).map(|(m, s)| m + s.ln() as f32);
            log.collect()
        })
        .collect();
    (0..n).flat_map(|row| heads.iter().map(move |h| h[row])).collect()
}

/// What the query rows of each group give to each key, summed: `[groups, H, s]`. `lse` is [`row_lse`]'s, `group[i]` the
/// group of row i; rows of group `groups` and above are left out.
///
/// # Panics
/// As [`row_lse`].
pub fn column_sums<'a>(
    q: &[f32],
    k: impl Into<Cached<'a>>,
    shape: AttentionShape,
    offset: usize,
    lse: &[f32],
    group: &[usize],
    groups: usize,
) -> Vec<f32> {
    let k = k.into();
    let s = k.len() / (shape.kv_heads * shape.dim);
    let heads: Vec<Vec<f64>> = (0..shape.heads)
        .into_par_iter()
        .map(|head| {
            let mut sums = vec![0f64; groups * s];
            scores(q, k, shape, offset, head, &mut |row, first, scores| {
                let (log, g) = (lse[row * shape.heads + head], group[row]);
                if g < groups {
                    for (sum, score) in sums[g * s + first..].iter_mut().zip(scores) {
                        *sum += f64::from((score - log).exp());
                    }
                }
            });
            sums
        })
        .collect();
    let of_group = |g: usize| heads.iter().flat_map(move |h| &h[g * s..(g + 1) * s]);
    (0..groups).flat_map(of_group).map(|x| *x as f32).collect()
}

/// Scaled scores of one head, block by block: `see(row, first key, scores of the keys from there on that the row sees)`.
fn scores(
    q: &[f32],
    k: Cached,
    shape: AttentionShape,
    offset: usize,
    head: usize,
    see: &mut dyn FnMut(usize, usize, &[f32]),
) {
    let AttentionShape { heads, kv_heads, dim } = shape;
    let scale = 1.0 / (dim as f32).sqrt();
    let rows = q.chunks_exact(heads * dim);
    let q: Vec<f32> = rows
        .flat_map(|r| r[head * dim..(head + 1) * dim].iter().map(|x| x * scale))
        .collect();
    // One head's keys, whatever they are held in.
    let (width, group) = (kv_heads * dim, head / (heads / kv_heads));
    let mut one = vec![0f32; k.len() / kv_heads];
    for (row, key) in one.chunks_exact_mut(dim).enumerate() {
        k.widen(row * width + group * dim, key);
    }
    let k = one;
    let mut block = vec![0f32; ROWS * KEYS];
    for (b, rows) in q.chunks(ROWS * dim).enumerate() {
        let (start, m) = (b * ROWS, rows.len() / dim);
        let visible = (offset + start + m).min(k.len() / dim);
        for first in (0..visible).step_by(KEYS) {
            let n = KEYS.min(visible - first);
            let keys = Weight::F32(&k[first * dim..(first + n) * dim]);
            linear(rows, m, dim, keys, n, None, &mut block[..m * n]);
            for (i, row) in block[..m * n].chunks_exact(n).enumerate() {
                let sees = (offset + start + i + 1).saturating_sub(first).min(n);
                if sees > 0 {
                    see(start + i, first, &row[..sees]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The plain form: every score of a head at once.
    fn naive(q: &[f32], k: &[f32], shape: AttentionShape, offset: usize, head: usize) -> Vec<Vec<f64>> {
        let AttentionShape { heads, kv_heads, dim } = shape;
        let g = head / (heads / kv_heads);
        let row = |i: usize, q: &[f32]| {
            let keys = k.chunks_exact(kv_heads * dim).take(offset + i + 1);
            let scores: Vec<f64> = keys
                .map(|k| {
                    let k = &k[g * dim..(g + 1) * dim];
                    let q = &q[head * dim..(head + 1) * dim];
                    q.iter().zip(k).map(|(a, b)| f64::from(a * b)).sum::<f64>() / (dim as f64).sqrt()
                })
                .collect();
            let sum: f64 = scores.iter().map(|s| s.exp()).sum();
            scores.iter().map(|s| s.exp() / sum).collect()
        };
        q.chunks_exact(heads * dim)
            .enumerate()
            .map(|(i, q)| row(i, q))
            .collect()
    }

    #[test]
    fn columns_are_those_of_the_whole_map() {
        let shape = AttentionShape {
            heads: 4,
            kv_heads: 2,
            dim: 24,
        };
        let noise = |n: usize, seed: usize| -> Vec<f32> {
            (0..n)
                .map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 700.0 - 1.4)
                .collect()
        };
        for (n, offset) in [(1, 0), (70, 0), (200, 3), (3, 600), (600, 0)] {
            let s = n + offset;
            let (q, k) = (noise(n * 96, 1), noise(s * 48, 2));
            let lse = row_lse(&q, &k, shape, offset);
            let group: Vec<usize> = (0..n).map(|i| i % 3).collect();
            let sums = column_sums(&q, &k, shape, offset, &lse, &group, 2);
            for head in 0..4 {
                let map = naive(&q, &k, shape, offset, head);
                for g in 0..2 {
                    for key in 0..s {
                        let rows = map.iter().enumerate().filter(|(i, _)| i % 3 == g);
                        let want: f64 = rows.filter_map(|(_, r)| r.get(key)).sum();
                        let got = f64::from(sums[(g * 4 + head) * s + key]);
                        assert!(
                            (got - want).abs() < 1e-5 * want.max(1.0),
                            "{n} {key}: {got} {want}"
                        );
                    }
                }
            }
        }
    }
}
