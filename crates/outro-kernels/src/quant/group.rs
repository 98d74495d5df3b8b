//! Blocks of 32, 64 or 128 elements behind a head, row after row: what checkpoints of other tools are laid into at loading.
//!
//! A block says `scale * (q - offset)`, `scale * (q - zero)`, `scale * q + bias` or `scale * table[q]`. Heads keep the
//! numbers of the file exactly, in as few bytes as they allow; codes of 4 bits lie as in Q4_0, 32 elements in 16 bytes.

use half::{bf16, f16};

use super::{CHUNK, Open, QuantType, half, nibbles};

/// What an element's bits mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Code {
    /// 0 to 15.
    Int4,
    /// 0 to 255.
    Int8,
    /// A float of 8 bits, e4m3fn. Its two NaN are read as 480 and -480: whoever fills blocks refuses them.
    E4m3,
    /// An index into bitsandbytes' NF4 table.
    Nf4,
    /// An index into bitsandbytes' FP4 table.
    Fp4,
}

impl Code {
    /// Bits of an element.
    pub const fn bits(self) -> usize {
        match self {
            Self::Int4 | Self::Nf4 | Self::Fp4 => 4,
            Self::Int8 | Self::E4m3 => 8,
        }
    }

    /// What opened codes are multiplied with, for a scale in the head: bytes of e4m3 are opened as halves of less.
    #[inline(always)]
    pub(super) fn scaled(self, scale: f32) -> f32 {
        match self {
            Self::E4m3 => scale * E4M3_SCALE,
            _ => scale,
        }
    }

    /// Half of the range of an integer, which is zero where the head says nothing else.
    pub const fn middle(self) -> u8 {
        match self {
            Self::Int4 => 8,
            Self::Int8 => 128,
            Self::E4m3 | Self::Nf4 | Self::Fp4 => 0,
        }
    }

    /// The values of the codes of 4 bits that are no integers.
    pub const fn table(self) -> Option<&'static [f32; 16]> {
        match self {
            Self::Nf4 => Some(&NF4),
            Self::Fp4 => Some(&FP4),
            Self::Int4 | Self::Int8 | Self::E4m3 => None,
        }
    }
}

/// What stands before a block's codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Head {
    /// A scale.
    F32,
    /// A scale.
    Bf16,
    /// A scale.
    F16,
    /// A scale of at most 11 significant bits (every bf16 and every f16 is one) and a zero point from 0 to 255, in one word.
    Zero,
    /// A scale and what is added.
    F32Bias,
    /// A scale and what is added.
    Bf16Bias,
    /// A scale and what is added.
    F16Bias,
}

/// Bits of an f32 that a scale beside a zero point does not have.
pub(super) const BELOW: u32 = 0x1FFF;

impl Head {
    /// Bytes.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Bf16 | Self::F16 => 2,
            Self::F32 | Self::Zero | Self::Bf16Bias | Self::F16Bias => 4,
            Self::F32Bias => 8,
        }
    }

    /// Whether codes are counted from zero.
    pub const fn has_low(self) -> bool {
        !matches!(self, Self::F32 | Self::Bf16 | Self::F16)
    }

    /// Whether a scale can stand before a zero point without loss.
    pub fn holds(scale: f32) -> bool {
        scale.to_bits() & BELOW == 0
    }

    /// Scale, and what is taken away.
    #[inline(always)]
    pub(super) fn read(self, b: &[u8]) -> (f32, f32) {
        let word = |at: usize| u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
        let brain = |at: usize| f32::from_bits(u32::from(u16::from_le_bytes([b[at], b[at + 1]])) << 16);
        match self {
            Self::F32 => (f32::from_bits(word(0)), 0.0),
            Self::Bf16 => (brain(0), 0.0),
            Self::F16 => (half(b, 0), 0.0),
            Self::Zero => {
                let scale = f32::from_bits(word(0) & !BELOW);
                (scale, scale * f32::from(b[0]))
            }
            Self::F32Bias => (f32::from_bits(word(0)), -f32::from_bits(word(4))),
            Self::Bf16Bias => (brain(0), -brain(2)),
            Self::F16Bias => (half(b, 0), -half(b, 2)),
        }
    }

    /// `low` is the zero point, or what is added.
    fn write(self, scale: f32, low: f32, out: &mut [u8]) {
        match self {
            Self::F32 => out.copy_from_slice(&scale.to_le_bytes()),
            Self::Bf16 => out.copy_from_slice(&bf16::from_f32(scale).to_le_bytes()),
            Self::F16 => out.copy_from_slice(&f16::from_f32(scale).to_le_bytes()),
            Self::Zero => out.copy_from_slice(&(scale.to_bits() & !BELOW | low as u32 & 0xFF).to_le_bytes()),
            Self::F32Bias => {
                out[..4].copy_from_slice(&scale.to_le_bytes());
                out[4..].copy_from_slice(&low.to_le_bytes());
            }
            Self::Bf16Bias => {
                out[..2].copy_from_slice(&bf16::from_f32(scale).to_le_bytes());
                out[2..].copy_from_slice(&bf16::from_f32(low).to_le_bytes());
            }
            Self::F16Bias => {
                out[..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
                out[2..].copy_from_slice(&f16::from_f32(low).to_le_bytes());
            }
        }
    }
}

/// Elements of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GroupLen {
    /// 32.
    L32,
    /// 64.
    L64,
    /// 128.
    L128,
}

impl GroupLen {
    /// From the longest down.
    pub const ALL: [Self; 3] = [Self::L128, Self::L64, Self::L32];

    /// As a number.
    pub const fn get(self) -> usize {
        match self {
            Self::L32 => 32,
            Self::L64 => 64,
            Self::L128 => 128,
        }
    }
}

/// A table of values from -1 to 1 as whole numbers of 14 bits around [`Halves::OFFSET`], in two halves of 7 bits: two products of such
/// a half with 8-bit activations fit 16 bits. The rounding is 1/66 of theirs.
#[derive(Clone, Copy)]
pub(super) struct Halves {
    pub(super) high: [u8; 16],
    pub(super) low: [u8; 16],
}

impl Halves {
    /// What is taken from every number.
    pub(super) const OFFSET: i32 = 8192;
    /// The number, less the offset, that stands for 1.
    pub(super) const ONE: f32 = 8191.0;

    pub(super) fn of(table: &[f32; 16]) -> Self {
        let whole = table.map(|x| (x * Self::ONE).round() as i32 + Self::OFFSET);
        Self {
            high: whole.map(|n| (n >> 7) as u8),
            low: whole.map(|n| (n & 127) as u8),
        }
    }
}

/// How an element's code becomes the number that is scaled.
#[derive(Clone, Copy)]
pub(super) enum Values {
    /// Less an offset.
    Offset(i32),
    /// By a table.
    Table(&'static [f32; 16]),
    /// As e4m3; the scale is 256 times that of the block.
    E4m3,
}

/// A float of 8 bits as the f16 that is 256 times smaller. Sign and exponent move one place apart.
#[inline(always)]
pub(super) fn e4m3_as_half(q: u8) -> u16 {
    ((i16::from(q as i8) as u16) << 7) & 0xBFFF
}

/// What [`e4m3_as_half`] makes smaller.
pub(super) const E4M3_SCALE: f32 = 256.0;

/// The value of a float of 8 bits, e4m3fn. NaN is read as 480.
pub fn e4m3(q: u8) -> f32 {
    half(&e4m3_as_half(q).to_le_bytes(), 0) * E4M3_SCALE
}

/// Opens at most [`CHUNK`] elements.
#[inline(always)]
pub(super) fn read(open: &mut Open, code: Code, head: Head, len: GroupLen, blocks: &[u8]) {
    let (len, h) = (len.get(), head.bytes());
    let size = h + len * code.bits() / 8;
    for (i, q) in open.q.chunks_exact_mut(len).enumerate() {
        let groups = i * len / super::GROUP..(i + 1) * len / super::GROUP;
        let Some(b) = blocks.get(i * size..(i + 1) * size) else {
            q.fill(0);
            open.scale[groups.clone()].fill(0.0);
            open.min[groups].fill(0.0);
            continue;
        };
        if code.bits() == 4 {
            for (b, q) in b[h..].chunks_exact(16).zip(q.as_chunks_mut::<32>().0) {
                nibbles(b, q);
            }
        } else {
            q.copy_from_slice(&b[h..]);
        }
        let (scale, min) = head.read(b);
        open.scale[groups.clone()].fill(code.scaled(scale));
        open.min[groups].fill(min);
    }
    debug_assert!(CHUNK.is_multiple_of(len), "blocks of a chunk");
}

/// Writes one block of a [`QuantType::Group`]: codes one a byte; `low` is the zero point, or what is added, or nothing where
/// the head has neither.
///
/// # Panics
/// For other layouts, or when `codes` and `out` are not one block.
pub fn put_group(kind: QuantType, scale: f32, low: f32, codes: &[u8], out: &mut [u8]) {
    assert!(
        codes.len() == kind.block_len() && out.len() == kind.block_bytes(),
        "one block"
    );
    let QuantType::Group { code, head, .. } = kind else {
        return without_head(kind);
    };
    let (start, packed) = out.split_at_mut(head.bytes());
    head.write(scale, low, start);
    if code.bits() == 8 {
        packed.copy_from_slice(codes);
        return;
    }
    for (out, q) in packed.chunks_exact_mut(16).zip(codes.as_chunks::<32>().0) {
        for (l, out) in out.iter_mut().enumerate() {
            *out = q[l] & 15 | q[l + 16] << 4;
        }
    }
}

#[expect(clippy::panic, reason = "documented: only blocks behind a head are put")]
fn without_head(kind: QuantType) {
    panic!("{} has no head", kind.name());
}

/// Scale, zero point or bias, and codes that are near `x`: not the best, for measurements and tests.
pub(super) fn quantise(kind: QuantType, x: &[f32], out: &mut [u8]) {
    let QuantType::Group { code, head, .. } = kind else {
        return without_head(kind);
    };
    let largest = x.iter().fold(0f32, |a, b| a.max(b.abs()));
    let (low, high) = x.iter().fold((0f32, 0f32), |(l, h), x| (l.min(*x), h.max(*x)));
    let most = f32::from(if code.bits() == 4 { 15u8 } else { 255 });
    let scale = match code {
        Code::Nf4 | Code::Fp4 => largest,
        Code::E4m3 => largest / 448.0,
        Code::Int4 | Code::Int8 if head.has_low() => (high - low) / most,
        Code::Int4 | Code::Int8 => largest / f32::from(code.middle() - 1),
    };
    let scale = match head {
        Head::F32 | Head::F32Bias => scale,
        Head::Bf16 | Head::Bf16Bias => bf16::from_f32(scale).to_f32(),
        Head::F16 | Head::F16Bias | Head::Zero => f16::from_f32(scale).to_f32(),
    };
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    let integer = |x: f32, zero: f32| (x * inverse + zero).round_ties_even().clamp(0.0, most) as u8;
    let (low, zero) = match head {
        Head::Zero => {
            let zero = f32::from(integer(-low, 0.0));
            (zero, zero)
        }
        _ if head.has_low() => (low, -low * inverse),
        _ => (0.0, f32::from(code.middle())),
    };
    let codes: Vec<u8> = x
        .iter()
        .map(|x| match code {
            Code::Int4 | Code::Int8 => integer(*x, zero),
            Code::Nf4 | Code::Fp4 => nearest(0..16, x * inverse, |q| {
                code.table().map_or(0.0, |t| t[usize::from(q)])
            }),
            Code::E4m3 => nearest(0..127, x.abs() * inverse, e4m3) | u8::from(*x < 0.0) << 7,
        })
        .collect();
    let scale = if x.iter().all(|x| x.is_finite()) {
        scale
    } else {
        f32::NAN
    };
    put_group(kind, scale, low, &codes, out);
}

fn nearest(codes: std::ops::Range<u8>, x: f32, value: impl Fn(u8) -> f32) -> u8 {
    let far = |q: &u8| (value(*q) - x).abs();
    codes.min_by(|a, b| far(a).total_cmp(&far(b))).unwrap_or_default()
}

/// bitsandbytes' table of 4-bit floats whose steps follow a normal distribution.
pub const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// bitsandbytes' table of floats with a sign, two bits of exponent and one of mantissa.
pub const FP4: [f32; 16] = [
    0.0,
    0.005_208_333_5,
    0.666_666_7,
    1.0,
    0.333_333_34,
    0.5,
    0.166_666_67,
    0.25,
    0.0,
    -0.005_208_333_5,
    -0.666_666_7,
    -1.0,
    -0.333_333_34,
    -0.5,
    -0.166_666_67,
    -0.25,
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::tests::random;
    use crate::quant::{Blocks, dequantise};
    use crate::simd::Level;

    #[test]
    fn floats_of_8_bits_are_sign_exponent_and_mantissa() {
        for q in 0..=255u8 {
            let (exponent, mantissa) = (i32::from(q >> 3 & 15), f32::from(q & 7));
            let size = if exponent == 0 {
                mantissa / 8.0 * 2f32.powi(-6)
            } else {
                (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7)
            };
            assert_eq!(e4m3(q), if q > 127 { -size } else { size }, "{q:#x}");
        }
    }

    /// Every form holds what was put there: the plain formula, bit for bit where the product needs no rounding.
    #[test]
    fn blocks_say_what_was_put() {
        let heads = [
            Head::F32,
            Head::Bf16,
            Head::F16,
            Head::Zero,
            Head::F32Bias,
            Head::Bf16Bias,
            Head::F16Bias,
        ];
        let codes = [Code::Int4, Code::Int8, Code::E4m3, Code::Nf4, Code::Fp4];
        let (scales, lows) = (random(1, 4), random(2, 4));
        for (code, head, len) in codes
            .into_iter()
            .flat_map(|c| heads.map(|h| (c, h)))
            .flat_map(|(c, h)| GroupLen::ALL.map(|l| (c, h, l)))
        {
            if head.has_low() && !matches!(code, Code::Int4 | Code::Int8) {
                continue;
            }
            let kind = QuantType::Group { code, head, len };
            let n = len.get();
            let q: Vec<u8> = (0..4 * n)
                .map(|i| (i * 37 % 251) as u8 & if code.bits() == 4 { 15 } else { 255 })
                .collect();
            let mut bytes = vec![0xEE; kind.bytes_of(4 * n).unwrap()];
            let mut want = Vec::new();
            for (b, out) in bytes.chunks_exact_mut(kind.block_bytes()).enumerate() {
                // As a file's type has them.
                let narrow = |x: f32| match head {
                    Head::Bf16 | Head::Bf16Bias => bf16::from_f32(x).to_f32(),
                    Head::F16 | Head::F16Bias | Head::Zero => f16::from_f32(x).to_f32(),
                    Head::F32 | Head::F32Bias => x,
                };
                let scale = narrow(scales[b]);
                let low = if head == Head::Zero {
                    5.0 + b as f32
                } else {
                    narrow(lows[b])
                };
                put_group(kind, scale, low, &q[b * n..(b + 1) * n], out);
                want.extend(q[b * n..(b + 1) * n].iter().map(|q| match code {
                    Code::E4m3 => e4m3(*q) * scale,
                    Code::Nf4 | Code::Fp4 => code.table().unwrap()[usize::from(*q)] * scale,
                    _ if head == Head::Zero => scale * (f32::from(*q) - low),
                    _ if head.has_low() => scale.mul_add(f32::from(*q), low),
                    _ => scale * (f32::from(*q) - f32::from(code.middle())),
                }));
            }
            let blocks = Blocks::new(kind, &bytes).unwrap();
            for level in Level::all() {
                let mut got = vec![f32::NAN; 4 * n];
                dequantise(level, blocks, 0, &mut got);
                for (got, want) in got.iter().zip(&want) {
                    let same = if head.has_low() && head != Head::Zero {
                        (got - want).abs() <= 1e-5 * (1.0 + want.abs())
                    } else {
                        got == want
                    };
                    assert!(same, "{kind:?} {level:?}: {got} for {want}");
                }
            }
        }
    }

    #[test]
    fn rounding_is_to_near_codes() {
        let x = random(3, 512);
        for kind in QuantType::GROUPS {
            let QuantType::Group { code, .. } = kind else {
                continue;
            };
            let mut bytes = vec![0; kind.bytes_of(x.len()).unwrap()];
            crate::quantise(kind, &x, &mut bytes);
            let mut y = vec![0f32; x.len()];
            Blocks::new(kind, &bytes).unwrap().dequantise(0, &mut y);
            let step = match code {
                Code::Int4 | Code::Nf4 => 0.16,
                Code::Fp4 => 0.18,
                Code::Int8 => 0.01,
                Code::E4m3 => 0.04,
            };
            for (x, y) in x.iter().zip(&y) {
                assert!((x - y).abs() < step, "{kind:?}: {y} for {x}");
            }
        }
    }
}
