//! Products of many rows with a weight matrix (prefill, encoders): weights are packed panel by panel in cache, in the form
//! in which they are multiplied, and shared by a block of rows.

use half::bf16;
use rayon::prelude::*;

use crate::gemm::{Activations, Shared, Weight};
use crate::quant::{self, Int8Panel, Int8Tiles};
use crate::simd::{Level, MR, NR, bf16_tile, f32_tile};

/// In what form rows and panels are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Weights widened to f32.
    F32,
    /// Pairs of bf16.
    Bf16,
    /// Four activations of 8 bits with four small integers of a quantised weight.
    Int8,
}

impl Form {
    fn of(level: Level, activations: Activations, w: Weight) -> Self {
        match (activations, w) {
            (Activations::Reduced, Weight::Bf16(_)) if level.has_bf16() => Self::Bf16,
            (Activations::Reduced, Weight::Quant(_)) if level.has_vnni() => Self::Int8,
            _ => Self::F32,
        }
    }

    /// Inner dimension of a packed block: one of NR columns is half of the first-level cache, 16 KiB (f32 and bf16), or
    /// 8 KiB.
    const fn depth(self) -> usize {
        match self {
            Self::F32 => 128,
            Self::Bf16 | Self::Int8 => 256,
        }
    }

    /// Tiles of rows that share one packing of a panel.
    const fn tiles(self) -> usize {
        match self {
            Self::F32 => 32,
            Self::Bf16 => 48,
            Self::Int8 => 64,
        }
    }
}

/// Panels that a block of rows is multiplied with before it goes on along k: rows are read from memory so many times less
/// often, and the products still stay in the second-level cache.
const PANELS: usize = 2;

/// Rows of activations in tiles of MR.
enum Tiles {
    /// `[tile][k][MR]`.
    F32(Vec<f32>),
    /// Pairs, `[tile][k / 2][MR]`.
    Bf16(Vec<u32>),
    Int8(Int8Tiles),
}

impl Tiles {
    fn pack(form: Form, x: &[f32], m: usize, k: usize) -> Self {
        match form {
            Form::F32 => {
                let mut tiles = vec![0f32; m.div_ceil(MR) * MR * k];
                tiles
                    .par_chunks_mut(MR * k)
                    .zip(x.par_chunks(MR * k))
                    .for_each(|(tile, x)| {
                        // Some columns at a time, so that what is written stays in the first-level cache.
                        for k0 in (0..k).step_by(64) {
                            let n = (k - k0).min(64);
                            for (i, row) in x.chunks_exact(k).enumerate() {
                                let to = tile[k0 * MR + i..].iter_mut().step_by(MR);
                                to.zip(&row[k0..k0 + n]).for_each(|(t, x)| *t = *x);
                            }
                        }
                    });
                Self::F32(tiles)
            }
            Form::Bf16 => {
                let pairs = k.div_ceil(2);
                let mut tiles = vec![0u32; m.div_ceil(MR) * MR * pairs];
                tiles
                    .par_chunks_mut(MR * pairs)
                    .zip(x.par_chunks(MR * k))
                    .for_each(|(tile, x)| {
                        for (i, row) in x.chunks_exact(k).enumerate() {
                            let to = tile[i..].iter_mut().step_by(MR);
                            to.zip(row.chunks(2)).for_each(|(t, x)| *t = pair(x[0], x.get(1)));
                        }
                    });
                Self::Bf16(tiles)
            }
            Form::Int8 => Self::Int8(Int8Tiles::new(x, m, k)),
        }
    }
}

/// Two numbers rounded to bf16, the first in the low half.
fn pair(a: f32, b: Option<&f32>) -> u32 {
    let bits = |x: f32| u32::from(bf16::from_f32(x).to_bits());
    bits(a) | bits(b.copied().unwrap_or(0.0)) << 16
}

/// Buffers of one thread: a packed block of the weight, and the products of a block of rows with a panel.
struct Scratch {
    row: Vec<f32>,
    f32: Vec<f32>,
    bf16: Vec<u32>,
    int8: Int8Panel,
    c: Vec<f32>,
}

impl Scratch {
    fn new(form: Form) -> Self {
        let (depth, rows) = (form.depth(), form.tiles() * MR);
        let block = |wanted: Form| if form == wanted { depth * NR } else { 0 };
        Self {
            row: vec![0.0; if form == Form::F32 { depth } else { 0 }],
            f32: vec![0.0; block(Form::F32)],
            bf16: vec![0; block(Form::Bf16) / 2],
            int8: Int8Panel::new(),
            c: vec![0.0; PANELS * rows * NR],
        }
    }
}

/// `out[m, n] = x[m, k] w[n, k]^T + bias[n]`.
pub(crate) fn many_rows(
    level: Level,
    activations: Activations,
    x: &[f32],
    m: usize,
    k: usize,
    w: Weight,
    n: usize,
    bias: Option<&[f32]>,
    out: &mut [f32],
) {
    let form = Form::of(level, activations, w);
    let tiles = Tiles::pack(form, x, m, k);
    let (groups, rows_of_block) = (n.div_ceil(PANELS * NR), form.tiles() * MR);
    let shared = Shared::new(out);
    (0..m.div_ceil(rows_of_block) * groups)
        .into_par_iter()
        .for_each_init(
            || Scratch::new(form),
            |s, task| {
                let (m0, n0) = (task / groups * rows_of_block, task % groups * PANELS * NR);
                let (rows, cols) = ((m - m0).min(rows_of_block), (n - n0).min(PANELS * NR));
                for k0 in (0..k).step_by(form.depth()) {
                    let depth = (k - k0).min(form.depth());
                    for p in 0..cols.div_ceil(NR) {
                        let of_panel = (n0 + p * NR, (cols - p * NR).min(NR));
                        block(level, &tiles, w, s, p, (m0, rows), of_panel, k, (k0, depth));
                    }
                }
                for (p, c) in
                    s.c.chunks_exact(rows_of_block * NR)
                        .take(cols.div_ceil(NR))
                        .enumerate()
                {
                    let (n0, cols) = (n0 + p * NR, (cols - p * NR).min(NR));
                    for (i, c) in c.chunks_exact(NR).take(rows).enumerate() {
                        let mut row = [0f32; NR];
                        for (j, (row, c)) in row.iter_mut().zip(&c[..cols]).enumerate() {
                            *row = c + bias.map_or(0.0, |b| b[n0 + j]);
                        }
                        // SAFETY: rows m0.. and columns n0.. belong to this task alone.
                        unsafe { shared.write((m0 + i) * n + n0, &row[..cols]) };
                    }
                }
            },
        );
}

/// Packs a block of the weight and multiplies all tiles of the rows with it; panel `p` of `s.c` is set by the first block
/// along k and added to by the others. Ranges are (start, length).
fn block(
    level: Level,
    tiles: &Tiles,
    w: Weight,
    s: &mut Scratch,
    p: usize,
    (m0, rows): (usize, usize),
    (n0, cols): (usize, usize),
    k: usize,
    (k0, depth): (usize, usize),
) {
    let add = k0 > 0;
    let panel = s.c.len() / PANELS;
    let c = &mut s.c[p * panel..(p + 1) * panel];
    let of_rows = c.chunks_mut(MR * NR).zip((0..rows).step_by(MR)).map(|(c, row)| {
        let first = (m0 + row) / MR;
        (c, first, (rows - row).min(MR))
    });
    match tiles {
        Tiles::F32(a) => {
            pack_f32(w, (n0, cols), k, (k0, depth), &mut s.row, &mut s.f32);
            for (c, tile, rows) in of_rows {
                let a = &a[(tile * k + k0) * MR..][..depth * MR];
                f32_tile(level, a, rows, depth, &s.f32, c, add);
            }
        }
        Tiles::Bf16(a) => {
            let pairs = depth.div_ceil(2);
            pack_bf16(w, (n0, cols), k, (k0, depth), &mut s.bf16);
            for (c, tile, rows) in of_rows {
                let a = &a[(tile * k.div_ceil(2) + k0 / 2) * MR..][..pairs * MR];
                bf16_tile(a, rows, pairs, &s.bf16, c, add);
            }
        }
        Tiles::Int8(a) => {
            let Weight::Quant(w) = w else { return };
            s.int8.pack(level, w, (n0, cols), k, k0 / quant::CHUNK);
            for (c, tile, rows) in of_rows {
                s.int8.multiply(a, tile, rows, c, add);
            }
        }
    }
}

/// Rows `n0..`, columns `k0..` of `w` as `[depth, NR]`; missing rows are zero.
fn pack_f32(
    w: Weight,
    (n0, cols): (usize, usize),
    k: usize,
    (k0, depth): (usize, usize),
    row: &mut [f32],
    b: &mut [f32],
) {
    if cols < NR {
        b[..depth * NR].fill(0.0);
    }
    for j in 0..cols {
        w.widen((n0 + j) * k + k0, &mut row[..depth]);
        for (b, x) in b[j..].iter_mut().step_by(NR).zip(&row[..depth]) {
            *b = *x;
        }
    }
}

/// As [`pack_f32`], pairs of bf16 `[depth / 2, NR]`.
fn pack_bf16(w: Weight, (n0, cols): (usize, usize), k: usize, (k0, depth): (usize, usize), b: &mut [u32]) {
    let Weight::Bf16(w) = w else { return };
    if cols < NR {
        b.fill(0);
    }
    for j in 0..cols {
        let row = &w[(n0 + j) * k + k0..][..depth];
        for (b, x) in b[j..].iter_mut().step_by(NR).zip(row.chunks(2)) {
            let high = x.get(1).map_or(0, |x| u32::from(x.to_bits()));
            *b = u32::from(x[0].to_bits()) | high << 16;
        }
    }
}
