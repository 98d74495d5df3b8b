use super::*;
use half::f16;

/// Blocks of random bits with scales of a sensible size.
pub(crate) fn random_blocks(kind: QuantType, seed: u64, blocks: usize) -> Vec<u8> {
    let mut s = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes: Vec<u8> = (0..blocks * kind.block_bytes())
        .map(|_| {
            s ^= s << 13;
            s ^= s >> 7;
            s ^= s << 17;
            (s >> 32) as u8
        })
        .collect();
    if let QuantType::Group { .. } = kind {
        let x: Vec<f32> = bytes.iter().map(|b| (f32::from(*b) - 100.0) / 3000.0).collect();
        for (i, b) in bytes.chunks_exact_mut(kind.block_bytes()).enumerate() {
            let x = x.iter().cycle().skip(i * 31 % x.len());
            let x: Vec<f32> = x.take(kind.block_len()).copied().collect();
            group::quantise(kind, &x, b);
        }
        return bytes;
    }
    for (i, b) in bytes.chunks_exact_mut(kind.block_bytes()).enumerate() {
        let d = f16::from_f32(0.001 + (i % 7) as f32 * 0.0004).to_le_bytes();
        match kind {
            QuantType::Q6K => b[208..].copy_from_slice(&d),
            QuantType::Q3K => b[108..].copy_from_slice(&d),
            QuantType::Q2K => {
                b[80..82].copy_from_slice(&d);
                b[82..].copy_from_slice(&f16::from_f32(-0.01 + 0.004 * (i % 5) as f32).to_le_bytes());
            }
            // Some power of two.
            QuantType::MXFP4 => b[0] = 116 + (i % 5) as u8,
            QuantType::Q4_1 | QuantType::Q5_1 | QuantType::Q4K | QuantType::Q5K => {
                b[..2].copy_from_slice(&d);
                b[2..4].copy_from_slice(&f16::from_f32(-0.01 + 0.004 * (i % 5) as f32).to_le_bytes());
            }
            _ => b[..2].copy_from_slice(&d),
        }
    }
    bytes
}

#[test]
fn halves_are_widened_exactly() {
    for bits in 0..=u16::MAX {
        let (ours, theirs) = (half(&bits.to_le_bytes(), 0), f16::from_bits(bits).to_f32());
        assert!(
            ours.to_bits() == theirs.to_bits() || ours.is_nan() && theirs.is_nan(),
            "{bits:#x}: {ours} for {theirs}"
        );
    }
}

/// `fixtures/quant/blocks.bin`: for every layout, 8 rows of 256 elements as bytes, then as the f32 that the Python
/// package `gguf` makes of them (tools/make_quant_fixture.py).
#[test]
fn dequantised_blocks_equal_the_python_package() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/quant/blocks.bin");
    let file = std::fs::read(path).unwrap();
    let mut rest = &file[..];
    for kind in QuantType::ALL {
        let n = 8 * CHUNK;
        let (bytes, tail) = rest.split_at(kind.bytes_of(n).unwrap());
        let (floats, tail) = tail.split_at(4 * n);
        rest = tail;
        let want: Vec<f32> = floats
            .as_chunks()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect();
        let blocks = Blocks::new(kind, bytes).unwrap();
        for level in Level::all() {
            let mut got = vec![f32::NAN; n];
            dequantise(level, blocks, 0, &mut got);
            assert_eq!(got, want, "{kind:?} {level:?}");
            let mut part = vec![f32::NAN; 300];
            dequantise(level, blocks, 77, &mut part);
            assert_eq!(part, want[77..377], "{kind:?} {level:?}, from the middle");
        }
    }
    assert!(rest.is_empty());
}

#[test]
fn blocks_are_whole() {
    assert!(Blocks::new(QuantType::Q8_0, &[0; 33]).is_none());
    let b = Blocks::new(QuantType::Q8_0, &[0; 68]).unwrap();
    assert_eq!((b.len(), b.size(), b.is_empty()), (64, 68, false));
    assert_eq!(QuantType::Q6K.bytes_of(100), None);
    assert_eq!(QuantType::Q6K.bytes_of(512), Some(420));
}
