//! Products of many rows with a weight matrix (prefill, encoders): weights are packed panel by panel in cache, in the form
//! in which they are multiplied, and shared by a block of rows.

use std::cell::RefCell;

use rayon::prelude::*;

use super::pack;
use crate::arithmetic::Activations;
use crate::quant::{self, Int8Panel, Int8Tiles};
use crate::shared::Shared;
use crate::simd::{Level, MR, NR, bf16_tile, f32_tile};
use crate::weight::Weight;

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
            (Activations::Reduced, Weight::Bf16(_)) if level.bf16_is_faster() => Self::Bf16,
            (Activations::Reduced, Weight::Quant(w)) if level.has_vnni() && w.kind().is_integer() => {
                Self::Int8
            }
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

    /// Most tiles of rows that share one packing of a panel.
    const fn tiles(self) -> usize {
        match self {
            Self::F32 | Self::Bf16 => 48,
            Self::Int8 => 64,
        }
    }
}

/// Panels that a block of rows is multiplied with before it goes on along k: rows are read from memory so many times less
/// often, and the products still stay in the second-level cache.
const PANELS: usize = 2;

/// Rows of activations in tiles of MR; those of a block along k lie together, or they would compete for the same lines of
/// the cache.
enum Tiles {
    /// `[k / depth][tile][depth][MR]`.
    F32(Vec<f32>),
    /// Pairs, `[k / depth][tile][depth / 2][MR]`.
    Bf16(Vec<u32>),
    Int8(Int8Tiles),
}

thread_local! {
    /// Memory of the last tiles, for fresh pages are cleared before they are used.
    static SPARE: RefCell<Spare> = RefCell::default();
}

#[derive(Default)]
struct Spare {
    f32: Vec<f32>,
    bf16: Vec<u32>,
    int8: Int8Tiles,
}

/// The longest tiles that are kept, in elements: 64 MiB.
const SPARE_LEN: usize = 16 << 20;

impl Drop for Tiles {
    fn drop(&mut self) {
        SPARE.with_borrow_mut(|kept| match self {
            Self::F32(tiles) if tiles.len() <= SPARE_LEN => kept.f32 = std::mem::take(tiles),
            Self::Bf16(tiles) if tiles.len() <= SPARE_LEN => kept.bf16 = std::mem::take(tiles),
            Self::Int8(tiles) if tiles.len() <= SPARE_LEN => kept.int8 = std::mem::take(tiles),
            _ => {}
        });
    }
}

impl Tiles {
    fn pack(level: Level, form: Form, x: &[f32], m: usize, k: usize) -> Self {
        let (rows, depth) = (m.next_multiple_of(MR), form.depth());
        match form {
            Form::F32 => {
                let mut floats = SPARE.with_borrow_mut(|s| std::mem::take(&mut s.f32));
                floats.resize(rows * k, 0.0);
                floats
                    .par_chunks_mut(rows * depth)
                    .enumerate()
                    .for_each(|(i, block)| {
                        let part = (i * depth, depth.min(k - i * depth));
                        for (tile, x) in block.chunks_mut(MR * part.1).zip(x.chunks(MR * k)) {
                            pack::rows_f32(level, x, k, part, tile);
                        }
                    });
                Self::F32(floats)
            }
            Form::Bf16 => {
                let mut pairs = SPARE.with_borrow_mut(|s| std::mem::take(&mut s.bf16));
                pairs.resize(rows * k.div_ceil(2), 0);
                pairs
                    .par_chunks_mut(rows * depth / 2)
                    .enumerate()
                    .for_each(|(i, block)| {
                        let part = (i * depth, depth.min(k - i * depth));
                        for (tile, x) in block.chunks_mut(MR * part.1.div_ceil(2)).zip(x.chunks(MR * k)) {
                            pack::rows_bf16(level, x, k, part, tile);
                        }
                    });
                Self::Bf16(pairs)
            }
            Form::Int8 => {
                let tiles = SPARE.with_borrow_mut(|s| std::mem::take(&mut s.int8));
                Self::Int8(tiles.fill(x, m, k))
            }
        }
    }
}

/// Buffers of one thread: a packed block of the weight, and the products of a block of rows with a panel.
struct Scratch {
    /// Rows of a weight that is widened before it is packed.
    wide: Vec<f32>,
    f32: Vec<f32>,
    bf16: Vec<u32>,
    int8: Int8Panel,
    c: Vec<f32>,
}

impl Scratch {
    fn new(form: Form, rows: usize) -> Self {
        let depth = form.depth();
        let block = |wanted: Form| if form == wanted { depth * NR } else { 0 };
        Self {
            wide: vec![0.0; block(Form::F32)],
            f32: vec![0.0; block(Form::F32)],
            bf16: vec![0; block(Form::Bf16) / 2],
            int8: Int8Panel::new(),
            c: vec![0.0; PANELS * rows * NR],
        }
    }
}

/// `out[m, n] = x[m, k] w[n, k]^T + bias[n]`.
pub(super) fn gemm(
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
    let tiles = Tiles::pack(level, form, x, m, k);
    let groups = n.div_ceil(PANELS * NR);
    // Blocks of about the same size.
    let blocks = m.div_ceil(form.tiles() * MR);
    let rows_of_block = m.div_ceil(blocks).next_multiple_of(MR);
    let shared = Shared::new(out);
    (0..blocks * groups).into_par_iter().for_each_init(
        || Scratch::new(form, rows_of_block),
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
            pack::panel_f32(level, w, (n0, cols), k, (k0, depth), &mut s.wide, &mut s.f32);
            for (c, tile, rows) in of_rows {
                let a = &a[a.len() / k * k0 + tile * depth * MR..][..depth * MR];
                f32_tile(level, a, rows, depth, &s.f32, c, add);
            }
        }
        Tiles::Bf16(a) => {
            let Weight::Bf16(w) = w else { return };
            let pairs = depth.div_ceil(2);
            pack::panel_bf16(level, w, (n0, cols), k, (k0, depth), &mut s.bf16);
            for (c, tile, rows) in of_rows {
                let a = &a[a.len() / k.div_ceil(2) * (k0 / 2) + tile * pairs * MR..][..pairs * MR];
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
