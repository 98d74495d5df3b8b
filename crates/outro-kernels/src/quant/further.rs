//! Further layouts of GGUF files: 2 and 3 bits, and codes that are numbers of a table.

use super::{CHUNK, GROUPS, Open, QuantType, half};

/// Whole numbers that the 4-bit codes of IQ4_NL and IQ4_XS stand for.
const IQ4: [i8; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];

/// Twice the numbers of 4 bits (E2M1) that those of MXFP4 stand for.
const E2M1: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// Numbers of a table as codes that count from 128.
const fn shifted(table: [i8; 16]) -> [u8; 16] {
    let mut out = [0; 16];
    let mut i = 0;
    while i < 16 {
        out[i] = (table[i] as i16 + 128) as u8;
        i += 1;
    }
    out
}

const IQ4_CODES: [u8; 16] = shifted(IQ4);
const E2M1_CODES: [u8; 16] = shifted(E2M1);

/// Half of two to the power that E8M0 says: numbers of [`E2M1`] are twice what they stand for.
#[inline(always)]
fn half_of_e8m0(e: u8) -> f32 {
    match e {
        // The smallest are no normal numbers.
        0 => f32::from_bits(0x0020_0000),
        1 => f32::from_bits(0x0040_0000),
        _ => f32::from_bits(u32::from(e - 1) << 23),
    }
}

/// 32 codes, low halves first, as numbers of a table.
#[inline(always)]
fn looked_up(table: &[u8; 16], packed: &[u8], q: &mut [u8]) {
    let (low, high) = q.split_at_mut(16);
    for ((low, high), x) in low.iter_mut().zip(high).zip(packed) {
        *low = table[usize::from(x & 15)];
        *high = table[usize::from(x >> 4)];
    }
}

/// [`Open::read`] of one of these layouts.
#[inline(always)]
pub(super) fn read(open: &mut Open, kind: QuantType, blocks: &[u8]) {
    match kind {
        QuantType::IQ4NL => open.small(blocks.as_chunks().0, |b: &[u8; 18], q| {
            looked_up(&IQ4_CODES, &b[2..], q);
            (half(b, 0), 0.0)
        }),
        QuantType::MXFP4 => open.small(blocks.as_chunks().0, |b: &[u8; 17], q| {
            looked_up(&E2M1_CODES, &b[1..], q);
            (half_of_e8m0(b[0]), 0.0)
        }),
        QuantType::IQ4XS => {
            if let [b, ..] = blocks.as_chunks::<136>().0 {
                iq4_xs(open, b);
            }
        }
        QuantType::Q2K => {
            if let [b, ..] = blocks.as_chunks::<84>().0 {
                q2_k(open, b);
            }
        }
        _ => {
            if let [b, ..] = blocks.as_chunks::<110>().0 {
                q3_k(open, b);
            }
        }
    }
}

/// A scale, 8 times two high bits of a scale, 8 times four low bits, 256 codes.
#[inline(always)]
fn iq4_xs(open: &mut Open, b: &[u8; 136]) {
    let (d, high) = (half(b, 0), u16::from_le_bytes([b[2], b[3]]));
    for part in 0..8 {
        let low = (b[4 + part / 2] >> (4 * (part % 2))) & 15;
        let scale = i16::from(low) | ((high >> (2 * part) & 3) << 4) as i16;
        open.scale[2 * part..2 * part + 2].fill(d * f32::from(scale - 32));
        open.min[2 * part..2 * part + 2].fill(0.0);
        let packed = &b[8 + 16 * part..24 + 16 * part];
        looked_up(&IQ4_CODES, packed, &mut open.q[32 * part..32 * part + 32]);
    }
}

/// Codes of two bits: in 32 bytes the first, then the second, ... pairs of 128 elements.
#[inline(always)]
fn two_bits(packed: &[u8], q: &mut [u8; CHUNK]) {
    for (half, packed) in packed.chunks_exact(32).enumerate() {
        for pair in 0..4 {
            let at = 128 * half + 32 * pair;
            for (q, x) in q[at..at + 32].iter_mut().zip(packed) {
                *q = (x >> (2 * pair)) & 3;
            }
        }
    }
}

/// 16 scales and minima of four bits, 256 codes of two, the scales' scale and the minima's.
#[inline(always)]
fn q2_k(open: &mut Open, b: &[u8; 84]) {
    let (d, min) = (half(b, 80), half(b, 82));
    for (group, x) in b[..16].iter().enumerate() {
        open.scale[group] = d * f32::from(x & 15);
        open.min[group] = min * f32::from(x >> 4);
    }
    two_bits(&b[16..80], &mut open.q);
}

/// The third bits of 256 codes, the first two, 16 scales of six bits, their scale.
#[inline(always)]
fn q3_k(open: &mut Open, b: &[u8; 110]) {
    let d = half(b, 108);
    let packed = &b[96..108];
    for group in 0..GROUPS {
        let low = (packed[group % 8] >> (4 * (group / 8))) & 15;
        let high = (packed[8 + group % 4] >> (2 * (group / 4))) & 3;
        let scale = i16::from(low | high << 4);
        open.scale[group] = d * f32::from(scale - 32);
    }
    open.min = [0.0; GROUPS];
    two_bits(&b[32..96], &mut open.q);
    for (i, q) in open.q.chunks_exact_mut(32).enumerate() {
        for (q, x) in q.iter_mut().zip(&b[..32]) {
            *q |= (x >> i & 1) << 2;
        }
    }
}
