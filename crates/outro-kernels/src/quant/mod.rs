//! Quantised weights: the block layouts of llama.cpp's GGUF files, and those that other tools' checkpoints are laid into
//! at loading.
//!
//! Nearly every layout says the same in other bits: inside a group of 16 or more elements `w = scale * (q - offset) - min`
//! with a small unsigned `q` ([`group`] has codes of floats, too). [`Open`] holds up to 256 elements in that form; one
//! function per layout fills it, and dequantisation and all products start from there.

mod encode;
#[cfg(target_arch = "x86_64")]
mod exact;
mod further;
mod gemm;
mod gemv;
pub(crate) mod group;
#[cfg(target_arch = "x86_64")]
mod group_x86;
#[cfg(target_arch = "x86_64")]
mod heads;
mod int8_rows;
#[cfg(target_arch = "x86_64")]
mod products_256;
#[cfg(target_arch = "x86_64")]
mod tile;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use encode::quantise;
pub(crate) use gemm::{Int8Panel, Int8Tiles};
pub(crate) use gemv::gemv;

use crate::simd::Level;
use group::{Code, GroupLen, Halves, Head, Values};

/// A block layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QuantType {
    /// 32 elements of 4 bits, one scale.
    Q4_0,
    /// 32 elements of 4 bits, a scale and a minimum.
    Q4_1,
    /// 32 elements of 5 bits, one scale.
    Q5_0,
    /// 32 elements of 5 bits, a scale and a minimum.
    Q5_1,
    /// 32 elements of 8 bits, one scale.
    Q8_0,
    /// 256 elements of 4 bits; 8 groups with 6-bit scales and minima.
    Q4K,
    /// 256 elements of 5 bits; 8 groups with 6-bit scales and minima.
    Q5K,
    /// 256 elements of 6 bits; 16 groups with 8-bit scales.
    Q6K,
    /// 256 elements of 2 bits; 16 groups with 4-bit scales and minima.
    Q2K,
    /// 256 elements of 3 bits; 16 groups with 6-bit scales.
    Q3K,
    /// 32 numbers of a table, one scale.
    IQ4NL,
    /// 256 numbers of a table; 8 groups with 6-bit scales.
    IQ4XS,
    /// 32 floats of 4 bits (E2M1), one scale that is a power of two.
    MXFP4,
    /// 32, 64 or 128 elements behind a head; no file has it, loaders make it.
    Group {
        /// What an element is.
        code: Code,
        /// What is said about all of a block.
        head: Head,
        /// Elements of a block.
        len: GroupLen,
    },
}

const fn of(code: Code, head: Head, len: GroupLen) -> QuantType {
    QuantType::Group { code, head, len }
}

impl QuantType {
    /// The layouts of GGUF files.
    pub const ALL: [Self; 13] = [
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::Q2K,
        Self::Q3K,
        Self::IQ4NL,
        Self::IQ4XS,
        Self::MXFP4,
    ];

    /// Layouts behind a head, every code, head and length among them: for tests and measurements.
    pub const GROUPS: [Self; 17] = [
        of(Code::Int4, Head::F32, GroupLen::L64),
        of(Code::Int4, Head::Bf16, GroupLen::L32),
        of(Code::Int4, Head::F16, GroupLen::L128),
        of(Code::Int4, Head::Zero, GroupLen::L32),
        of(Code::Int4, Head::Zero, GroupLen::L64),
        of(Code::Int4, Head::Zero, GroupLen::L128),
        of(Code::Int4, Head::F32Bias, GroupLen::L128),
        of(Code::Int4, Head::Bf16Bias, GroupLen::L64),
        of(Code::Int4, Head::F16Bias, GroupLen::L32),
        of(Code::Int8, Head::F32, GroupLen::L64),
        of(Code::Int8, Head::Bf16, GroupLen::L128),
        of(Code::Int8, Head::Zero, GroupLen::L32),
        of(Code::Int8, Head::F16Bias, GroupLen::L64),
        of(Code::E4m3, Head::F32, GroupLen::L128),
        of(Code::E4m3, Head::Bf16, GroupLen::L32),
        of(Code::Nf4, Head::F32, GroupLen::L64),
        of(Code::Fp4, Head::F32, GroupLen::L64),
    ];

    /// Elements of a block. Rows of a matrix are whole blocks.
    pub const fn block_len(self) -> usize {
        match self {
            Self::Q2K | Self::Q3K | Self::Q4K | Self::Q5K | Self::Q6K | Self::IQ4XS => 256,
            Self::Group { len, .. } => len.get(),
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 | Self::IQ4NL | Self::MXFP4 => 32,
        }
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::Q4_0 | Self::IQ4NL => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
            Self::Q2K => 84,
            Self::Q3K => 110,
            Self::IQ4XS => 136,
            Self::MXFP4 => 17,
            Self::Group { code, head, len } => head.bytes() + len.get() * code.bits() / 8,
        }
    }

    /// llama.cpp's name, or that of the numbers behind a head.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
            Self::Q2K => "Q2_K",
            Self::Q3K => "Q3_K",
            Self::IQ4NL => "IQ4_NL",
            Self::IQ4XS => "IQ4_XS",
            Self::MXFP4 => "MXFP4",
            Self::Group { code, .. } => match code {
                Code::Int4 => "INT4",
                Code::Int8 => "INT8",
                Code::E4m3 => "F8_E4M3",
                Code::Nf4 => "NF4",
                Code::Fp4 => "FP4",
            },
        }
    }

    /// Bytes of `n` elements; `None` where they are not whole blocks, or too many.
    pub const fn bytes_of(self, n: usize) -> Option<usize> {
        if n.is_multiple_of(self.block_len()) {
            (n / self.block_len()).checked_mul(self.block_bytes())
        } else {
            None
        }
    }

    /// What is taken from every `q`.
    #[inline(always)]
    const fn offset(self) -> i32 {
        match self {
            Self::Q4_0 => 8,
            Self::Q5_0 => 16,
            Self::Q6K => 32,
            Self::Q3K => 4,
            Self::Q8_0 | Self::IQ4NL | Self::IQ4XS | Self::MXFP4 => 128,
            Self::Q2K | Self::Q4_1 | Self::Q5_1 | Self::Q4K | Self::Q5K => 0,
            Self::Group { head, .. } if head.has_low() => 0,
            Self::Group { code, .. } => code.middle() as i32,
        }
    }

    /// Whether codes are whole numbers, which products with activations of 8 bits need.
    pub const fn is_integer(self) -> bool {
        match self {
            Self::Group { code, .. } => matches!(code, Code::Int4 | Code::Int8),
            _ => true,
        }
    }

    /// The table of a layout whose codes are indices into one, for products with activations of 8 bits.
    fn halves(self) -> Option<Halves> {
        match self.values() {
            Values::Table(table) => Some(Halves::of(table)),
            _ => None,
        }
    }

    /// Whether a code takes all 8 bits, so that two products of it do not fit 16.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    const fn has_bytes(self) -> bool {
        matches!(
            self,
            Self::Q8_0 | Self::IQ4NL | Self::IQ4XS | Self::MXFP4 | Self::Group { code: Code::Int8, .. }
        )
    }

    /// Whether every [`GROUP`] has a scale of its own, and not every two.
    #[inline(always)]
    const fn is_fine(self) -> bool {
        matches!(self, Self::Q2K | Self::Q3K | Self::Q6K)
    }

    /// Whether [`further`] opens it.
    #[inline(always)]
    const fn is_further(self) -> bool {
        matches!(
            self,
            Self::Q2K | Self::Q3K | Self::IQ4NL | Self::IQ4XS | Self::MXFP4
        )
    }

    #[inline(always)]
    const fn values(self) -> Values {
        match self {
            Self::Group { code: Code::E4m3, .. } => Values::E4m3,
            Self::Group { code: Code::Nf4, .. } => Values::Table(&group::NF4),
            Self::Group { code: Code::Fp4, .. } => Values::Table(&group::FP4),
            _ => Values::Offset(self.offset()),
        }
    }
}

/// A quantised matrix: whole blocks, row after row.
#[derive(Clone, Copy, Debug)]
pub struct Blocks<'a> {
    kind: QuantType,
    bytes: &'a [u8],
}

impl<'a> Blocks<'a> {
    /// `None` where `bytes` are not whole blocks.
    pub fn new(kind: QuantType, bytes: &'a [u8]) -> Option<Self> {
        bytes
            .len()
            .is_multiple_of(kind.block_bytes())
            .then_some(Self { kind, bytes })
    }

    /// The layout.
    pub fn kind(&self) -> QuantType {
        self.kind
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.bytes.len() / self.kind.block_bytes() * self.kind.block_len()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Number of bytes.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Row `row` of rows of `k` elements.
    #[inline(always)]
    fn row(&self, row: usize, k: usize) -> &'a [u8] {
        let bytes = k / self.kind.block_len() * self.kind.block_bytes();
        &self.bytes[row * bytes..(row + 1) * bytes]
    }

    /// Dequantises `out.len()` elements from `start`.
    ///
    /// # Panics
    /// When they do not exist.
    pub fn dequantise(&self, start: usize, out: &mut [f32]) {
        dequantise(Level::detect(), *self, start, out);
    }
}

fn dequantise(level: Level, blocks: Blocks, start: usize, out: &mut [f32]) {
    let (len, bytes) = (blocks.kind.block_len(), blocks.kind.block_bytes());
    assert!(
        start + out.len() <= blocks.len(),
        "elements of a quantised matrix"
    );
    let (mut open, mut wide) = (Open::new(), [0f32; CHUNK]);
    let (mut at, mut out) = (start, out);
    while !out.is_empty() {
        let (block, skip) = (at / len, at % len);
        let rest = &blocks.bytes[block * bytes..];
        open_wide(
            level,
            blocks.kind,
            &rest[..rest.len().min(CHUNK / len * bytes)],
            &mut open,
            &mut wide,
        );
        let n = (CHUNK - skip).min(out.len());
        let (now, later) = out.split_at_mut(n);
        now.copy_from_slice(&wide[skip..skip + n]);
        out = later;
        at += n;
    }
}

/// Opens and widens at most a chunk.
fn open_wide(level: Level, kind: QuantType, blocks: &[u8], open: &mut Open, wide: &mut [f32; CHUNK]) {
    #[cfg(target_arch = "x86_64")]
    if level > Level::Portable {
        // SAFETY: a level above Portable is only ever made from what the processor reports; all have AVX2, FMA and F16C.
        return unsafe { exact::open_wide(kind, blocks, open, wide) };
    }
    let _ = level;
    open.read(kind, blocks);
    open.widen(kind, wide);
}

/// Opens at most a chunk.
fn open_read(level: Level, kind: QuantType, blocks: &[u8], open: &mut Open) {
    #[cfg(target_arch = "x86_64")]
    if level > Level::Portable {
        // SAFETY: as in [`open_wide`].
        return unsafe { x86::read(open, kind, blocks) };
    }
    let _ = level;
    open.read(kind, blocks);
}

/// A row's blocks, a chunk at a time.
#[inline(always)]
fn chunks<'a>(w: Blocks, row: &'a [u8]) -> std::slice::Chunks<'a, u8> {
    row.chunks(CHUNK / w.kind.block_len() * w.kind.block_bytes())
}

/// Elements that are opened at once.
pub(crate) const CHUNK: usize = 256;
/// Elements that share a scale and a minimum.
const GROUP: usize = 16;
/// Groups of a chunk.
const GROUPS: usize = CHUNK / GROUP;

/// Up to [`CHUNK`] elements: element `i` is `scale[i / 16] * value(q[i]) - min[i / 16]`, where the value is `q - offset` but
/// for floats. What is missing is zero.
#[repr(align(64))]
struct Open {
    q: [u8; CHUNK],
    scale: [f32; GROUPS],
    min: [f32; GROUPS],
}

impl Open {
    #[inline(always)]
    fn new() -> Self {
        Self {
            q: [0; CHUNK],
            scale: [0.0; GROUPS],
            min: [0.0; GROUPS],
        }
    }

    /// Opens blocks of at most [`CHUNK`] elements in all.
    #[inline(always)]
    fn read(&mut self, kind: QuantType, blocks: &[u8]) {
        match kind {
            QuantType::Group { code, head, len } => group::read(self, code, head, len, blocks),
            QuantType::Q2K | QuantType::Q3K | QuantType::IQ4NL | QuantType::IQ4XS | QuantType::MXFP4 => {
                further::read(self, kind, blocks);
            }
            QuantType::Q4_0 => self.small(blocks.as_chunks().0, |b: &[u8; 18], q| {
                nibbles(&b[2..], q);
                (half(b, 0), 0.0)
            }),
            QuantType::Q4_1 => self.small(blocks.as_chunks().0, |b: &[u8; 20], q| {
                nibbles(&b[4..], q);
                (half(b, 0), -half(b, 2))
            }),
            QuantType::Q5_0 => self.small(blocks.as_chunks().0, |b: &[u8; 22], q| {
                nibbles(&b[6..], q);
                fifth_bits(&b[2..6], q);
                (half(b, 0), 0.0)
            }),
            QuantType::Q5_1 => self.small(blocks.as_chunks().0, |b: &[u8; 24], q| {
                nibbles(&b[8..], q);
                fifth_bits(&b[4..8], q);
                (half(b, 0), -half(b, 2))
            }),
            QuantType::Q8_0 => self.small(blocks.as_chunks().0, |b: &[u8; 34], q| {
                if let ([x], _) = b[2..].as_chunks::<32>() {
                    for l in 0..32 {
                        q[l] = x[l] ^ 0x80;
                    }
                }
                (half(b, 0), 0.0)
            }),
            QuantType::Q4K => {
                let (blocks, _) = blocks.as_chunks::<144>();
                if let [b, ..] = blocks {
                    self.scales_and_minima(b);
                    let (packed, _) = b[16..].as_chunks::<32>();
                    let (q, _) = self.q.as_chunks_mut::<32>();
                    for (x, q) in packed.iter().zip(q.chunks_exact_mut(2)) {
                        for l in 0..32 {
                            q[0][l] = x[l] & 15;
                        }
                        for l in 0..32 {
                            q[1][l] = x[l] >> 4;
                        }
                    }
                }
            }
            QuantType::Q5K => {
                let (blocks, _) = blocks.as_chunks::<176>();
                if let [b, ..] = blocks {
                    self.scales_and_minima(b);
                    for piece in 0..4 {
                        let q = &mut self.q[piece * 64..(piece + 1) * 64];
                        for l in 0..32 {
                            let (x, high) = (b[48 + piece * 32 + l], b[16 + l] >> (2 * piece));
                            q[l] = (x & 15) | ((high & 1) << 4);
                            q[l + 32] = (x >> 4) | ((high & 2) << 3);
                        }
                    }
                }
            }
            QuantType::Q6K => {
                let (blocks, _) = blocks.as_chunks::<210>();
                if let [b, ..] = blocks {
                    let d = half(b, 208);
                    for (s, x) in self.scale.iter_mut().zip(&b[192..208]) {
                        *s = d * f32::from(*x as i8);
                    }
                    for part in 0..2 {
                        let q = &mut self.q[part * 128..(part + 1) * 128];
                        for l in 0..32 {
                            let (x, y) = (b[part * 64 + l], b[part * 64 + 32 + l]);
                            let high = b[128 + part * 32 + l];
                            q[l] = (x & 15) | ((high & 0b11) << 4);
                            q[l + 32] = (y & 15) | ((high & 0b1100) << 2);
                            q[l + 64] = (x >> 4) | (high & 0b11_0000);
                            q[l + 96] = (y >> 4) | ((high & 0b1100_0000) >> 2);
                        }
                    }
                }
            }
        }
    }

    /// Blocks of 32 elements, each read by `f`, which returns scale and minimum.
    #[inline(always)]
    fn small<const B: usize>(
        &mut self,
        blocks: &[[u8; B]],
        f: impl Fn(&[u8; B], &mut [u8; 32]) -> (f32, f32),
    ) {
        let (q, _) = self.q.as_chunks_mut::<32>();
        for (i, q) in q.iter_mut().enumerate() {
            let (scale, min) = if let Some(b) = blocks.get(i) {
                f(b, q)
            } else {
                q.fill(0);
                (0.0, 0.0)
            };
            self.scale[2 * i..2 * i + 2].fill(scale);
            self.min[2 * i..2 * i + 2].fill(min);
        }
    }

    /// Scales and minima of Q4_K and Q5_K: two halves, then eight and eight numbers of 6 bits in 12 bytes.
    #[inline(always)]
    fn scales_and_minima(&mut self, b: &[u8]) {
        let (d, dmin) = (half(b, 0), half(b, 2));
        let s = &b[4..16];
        for j in 0..8 {
            let (scale, min) = if j < 4 {
                (s[j] & 63, s[j + 4] & 63)
            } else {
                (
                    (s[j + 4] & 15) | ((s[j - 4] >> 6) << 4),
                    (s[j + 4] >> 4) | ((s[j] >> 6) << 4),
                )
            };
            self.scale[2 * j..2 * j + 2].fill(d * f32::from(scale));
            self.min[2 * j..2 * j + 2].fill(dmin * f32::from(min));
        }
    }

    #[inline(always)]
    fn widen(&self, kind: QuantType, out: &mut [f32; CHUNK]) {
        match kind.values() {
            Values::Offset(offset) => self.widen_by(out, |q| (i32::from(q) - offset) as f32),
            Values::Table(table) => self.widen_by(out, |q| table[usize::from(q & 15)]),
            Values::E4m3 => self.widen_by(out, |q| half(&group::e4m3_as_half(q).to_le_bytes(), 0)),
        }
    }

    #[inline(always)]
    fn widen_by(&self, out: &mut [f32; CHUNK], value: impl Fn(u8) -> f32) {
        let (q, _) = self.q.as_chunks::<GROUP>();
        let (out, _) = out.as_chunks_mut::<GROUP>();
        for (((out, q), scale), min) in out.iter_mut().zip(q).zip(&self.scale).zip(&self.min) {
            for (out, q) in out.iter_mut().zip(q) {
                *out = scale * value(*q) - min;
            }
        }
    }
}

/// 16 bytes: low halves are the first 16 elements, high halves the others.
#[inline(always)]
fn nibbles(b: &[u8], q: &mut [u8; 32]) {
    for l in 0..16 {
        q[l] = b[l] & 15;
        q[l + 16] = b[l] >> 4;
    }
}

/// Bit `i` of the word is the fifth bit of element `i`.
#[inline(always)]
fn fifth_bits(b: &[u8], q: &mut [u8; 32]) {
    let bits = u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
    for (i, q) in q.iter_mut().enumerate() {
        *q |= (((bits >> i) & 1) as u8) << 4;
    }
}

/// The half-precision number at `at`, widened exactly. `half`'s own conversion is a call with a feature test.
#[inline(always)]
pub(crate) fn half(b: &[u8], at: usize) -> f32 {
    let h = u32::from(u16::from_le_bytes([b[at], b[at + 1]]));
    let magnitude = f32::from_bits((h & 0x7FFF) << 13) * f32::from_bits(0x7780_0000);
    let bits = magnitude.to_bits() | ((h & 0x8000) << 16);
    f32::from_bits(if h & 0x7C00 == 0x7C00 {
        bits | 0x7F80_0000
    } else {
        bits
    })
}

#[cfg(test)]
pub(crate) mod tests;
