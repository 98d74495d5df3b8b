use super::*;
use crate::math::tests::random;

/// The plain form: a row through its definition, in f64.
fn plain(kind: KvQuant, row: &[f32]) -> Vec<f32> {
    let half = |x: f64| f64::from(f16::from_f32(x as f32).to_f32());
    let mut out = Vec::new();
    for x in row.chunks(GROUP) {
        let x: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
        let low = x.iter().copied().fold(f64::INFINITY, f64::min);
        let high = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        out.extend(x.iter().map(|x| match kind {
            KvQuant::Q8_0 => {
                let scale = half(high.max(-low) / 127.0);
                ((x / scale).round_ties_even().clamp(-127.0, 127.0) * scale) as f32
            }
            KvQuant::Q4 => {
                let min = half(low);
                let scale = half((high - min) / 15.0);
                (((x - min) / scale).round_ties_even().clamp(0.0, 15.0) * scale + min) as f32
            }
        }));
    }
    out
}

/// Every length of a row and every level: close to the definition, codes that the level does not change, rows that do not
/// notice each other.
#[test]
fn rows_are_rounded_as_defined() {
    for kind in [KvQuant::Q8_0, KvQuant::Q4] {
        for dim in 1..140 {
            let rows = random(dim as u64, 3 * dim);
            let mut bytes = Vec::new();
            kind.push(dim, &rows, &mut bytes);
            assert_eq!(bytes.len(), 3 * kind.row_bytes(dim));
            let mut alone = Vec::new();
            kind.push(dim, &rows[dim..2 * dim], &mut alone);
            assert_eq!(alone, bytes[kind.row_bytes(dim)..2 * kind.row_bytes(dim)]);
            let blocks = KvBlocks::new(kind, dim, &bytes);
            assert_eq!(blocks.len(), rows.len());
            for (i, row) in rows.chunks_exact(dim).enumerate() {
                let mut want = Vec::new();
                for level in Level::all() {
                    let mut turned = row.to_vec();
                    if kind.turns() {
                        turn(level, &mut turned);
                    }
                    let mut same = vec![0; kind.row_bytes(dim)];
                    close(level, &turned, kind, &mut same);
                    assert_eq!(
                        same,
                        bytes[i * same.len()..(i + 1) * same.len()],
                        "{level:?} {dim}"
                    );
                    let mut open = vec![f32::NAN; dim];
                    blocks.open(level, i * dim, dim, &mut open);
                    if want.is_empty() {
                        want.clone_from(&open);
                    }
                    assert_eq!(open, want, "{level:?} {dim}");
                    let range = if kind == KvQuant::Q8_0 {
                        2.0 / 254.0
                    } else {
                        6.0 / 15.0
                    };
                    for ((x, o), p) in turned.iter().zip(&open).zip(plain(kind, &turned)) {
                        // A tie may fall to either side.
                        assert!(
                            (o - p).abs() <= range * 1.01 && (x - o).abs() < range,
                            "{level:?} {dim}: {x} {o} {p}"
                        );
                    }
                }
                let mut wide = vec![f32::NAN; dim];
                blocks.widen(i * dim, &mut wide);
                let norm = |x: &[f32]| x.iter().map(|x| x * x).sum::<f32>().sqrt();
                let error: Vec<f32> = wide.iter().zip(row).map(|(a, b)| a - b).collect();
                let most = if kind == KvQuant::Q8_0 { 0.01 } else { 0.12 };
                assert!(
                    norm(&error) <= most * norm(row),
                    "{kind:?} {dim}: {} of {}",
                    norm(&error),
                    norm(row)
                );
            }
        }
    }
}

/// Turned back is the row again, and products stay.
#[test]
fn a_turn_keeps_products() {
    for dim in [1, 2, 3, 16, 20, 64, 80, 96, 128, 139] {
        let (a, b) = (random(1, dim), random(2, dim));
        let dot = |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum() };
        for level in Level::all() {
            let (mut x, mut y) = (a.clone(), b.clone());
            turn(level, &mut x);
            turn(level, &mut y);
            assert!((dot(&x, &y) - dot(&a, &b)).abs() < 1e-5 * dim as f64, "{dim}");
            turn_back(level, &mut x);
            assert!(x.iter().zip(&a).all(|(x, a)| (x - a).abs() < 1e-6), "{dim}");
        }
    }
    let mut one = [0.0, 0.0, 8.0, 0.0];
    turn(Level::Portable, &mut one);
    assert!(
        one.iter().all(|x| x.abs() == 4.0),
        "one large channel is spread over all"
    );
}

/// Keys as Qwen2.5's biases make them, with two channels that are thirty times as large: what 4 bits cost with the turn and
/// without it. (Norm of the error over the norm of the other channels.)
#[test]
fn a_turn_pays_where_channels_are_large() {
    let (dim, rows) = (128, 64);
    let keys = random(5, dim * rows);
    let (mut turned_error, mut plain_error) = (0.0, 0.0);
    for row in keys.chunks_exact(dim) {
        let mut row = row.to_vec();
        row[17] += 30.0;
        row[81] -= 25.0;
        let mut bytes = Vec::new();
        KvQuant::Q4.push(dim, &row, &mut bytes);
        let mut wide = vec![0.0; dim];
        KvBlocks::new(KvQuant::Q4, dim, &bytes).widen(0, &mut wide);
        close(Level::Portable, &row, KvQuant::Q4, &mut bytes);
        let mut plain = vec![0.0; dim];
        KvBlocks::new(KvQuant::Q4, dim, &bytes).open(Level::Portable, 0, dim, &mut plain);
        let error = |x: &[f32]| {
            x.iter()
                .zip(&row)
                .map(|(a, b)| f64::from(a - b).powi(2))
                .sum::<f64>()
        };
        turned_error += error(&wide);
        plain_error += error(&plain);
    }
    assert!(2.0 * turned_error < plain_error, "{turned_error} {plain_error}");
}

/// Codes lie where llama.cpp's blocks have them.
#[test]
fn groups_are_blocks_of_llama_cpp() {
    let row: Vec<f32> = (0..32).map(|i| i as f32 - 16.0).collect();
    let mut bytes = vec![0; 34];
    close(Level::Portable, &row, KvQuant::Q8_0, &mut bytes);
    let scale = f16::from_f32(16.0 / 127.0);
    assert_eq!(bytes[..2], scale.to_le_bytes());
    assert_eq!([bytes[2], bytes[17], bytes[18]].map(|b| b as i8), [-127, -8, 0]);
    let row: Vec<f32> = (0..32).map(|i| 1.0 + (i % 16) as f32).collect();
    let mut bytes = vec![0; 20];
    close(Level::Portable, &row, KvQuant::Q4, &mut bytes);
    assert_eq!(bytes[..4], [0, 0x3c, 0, 0x3c], "scale 1, minimum 1");
    let codes: Vec<u8> = (0..16).map(|i| i | i << 4).collect();
    assert_eq!(bytes[4..], codes);
}

/// Numbers that are not finite, or beyond f16, are seen; very small and equal ones are no matter.
#[test]
fn odd_numbers() {
    for kind in [KvQuant::Q8_0, KvQuant::Q4] {
        for dim in [16, 20, 64] {
            let open = |row: &[f32]| {
                let mut bytes = Vec::new();
                kind.push(dim, row, &mut bytes);
                let mut out = vec![0.0; dim];
                KvBlocks::new(kind, dim, &bytes).widen(0, &mut out);
                out
            };
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e9, f32::MAX] {
                for at in [0, dim - 1] {
                    let mut row = random(3, dim);
                    row[at] = bad;
                    assert!(!open(&row)[at].is_finite(), "{kind:?} {dim} {bad} at {at}");
                }
            }
            for same in [0.0, -0.0, 1e-30, 3.0, -250.0] {
                for x in open(&vec![same; dim]) {
                    assert!(
                        (x - same).abs() <= 0.2 * same.abs() + 1e-7,
                        "{kind:?} {dim}: {x} for {same}"
                    );
                }
            }
        }
    }
}
