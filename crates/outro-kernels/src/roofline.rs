//! What this machine can do at most, measured with loops that do nothing else: the yardsticks of `outro bench`.

use std::hint::black_box;
use std::time::Instant;

use rayon::prelude::*;

use crate::simd::dot;
use crate::simd::{Level, fma, multiversion};

/// Bytes that all threads together read from memory in a second: the best of some passes over a buffer that no cache
/// holds.
pub fn read_bytes_per_second() -> f64 {
    const FLOATS: usize = 1 << 28;
    let level = Level::detect();
    let part = FLOATS / rayon::current_num_threads().max(1) / 64;
    // Written by every thread before it is timed: pages that were never touched would not be read from memory.
    let mut floats = vec![0f32; FLOATS];
    floats.par_chunks_mut(part).for_each(|x| x.fill(1.0));
    let passes = (0..5).map(|_| {
        let since = Instant::now();
        let sum: f32 = floats.par_chunks(part).map(|x| sum(level, x)).sum();
        black_box(sum);
        size_of_val(floats.as_slice()) as f64 / since.elapsed().as_secs_f64()
    });
    passes.fold(0.0, f64::max)
}

multiversion! { fn sum(x: &[f32]) -> f32 = sum_body }

/// The loop with which decoding reads weights; the other operand stays in the first-level cache.
#[inline(always)]
fn sum_body<const FMA: bool>(x: &[f32]) -> f32 {
    let ones = [1f32; 1024];
    let mut sum = 0.0;
    // No closure around the call: one would be compiled without the level's instructions.
    for x in x.chunks(1024) {
        sum += dot::<FMA, _>(&ones[..x.len()], x, |v| v);
    }
    sum
}

/// Operations (a multiplication and an addition count as two) that all threads together do in a second on f32 in
/// registers.
pub fn f32_operations_per_second() -> f64 {
    const ROUNDS: usize = 1 << 21;
    let level = Level::detect();
    let threads = rayon::current_num_threads().max(1);
    let passes = (0..5).map(|_| {
        let since = Instant::now();
        let sums: Vec<f32> = (0..threads)
            .into_par_iter()
            .with_max_len(1)
            .map(|_| multiply(level, black_box(0.999), ROUNDS))
            .collect();
        black_box(sums);
        (2 * LANES * ROUNDS * threads) as f64 / since.elapsed().as_secs_f64()
    });
    passes.fold(0.0, f64::max)
}

/// Independent sums: enough to hide the latency of a multiply-add, few enough to stay in registers.
const LANES: usize = 16 * 12;

multiversion! { fn multiply(x: f32, rounds: usize) -> f32 = multiply_body }

#[inline(always)]
fn multiply_body<const FMA: bool>(x: f32, rounds: usize) -> f32 {
    let mut lanes = [1f32; LANES];
    for _ in 0..rounds {
        for lane in &mut lanes {
            *lane = fma::<FMA>(*lane, x, x);
        }
    }
    lanes.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loops_give_what_they_should() {
        for level in Level::all() {
            assert_eq!(sum(level, &[2.0; 1100]), 2200.0);
            assert!(
                (multiply(level, 0.5, 40) - LANES as f32).abs() < 1e-3,
                "{level:?}"
            );
        }
    }
}
