//! Bicubic resizing with antialiasing, as PyTorch and Pillow do it.

use rayon::prelude::*;

use crate::picture::frames::Frames;

/// One of the three ways: frames, height and width.
pub type Resize = fn(&Frames, usize, usize) -> Frames;

/// Weights of the input pixels that make one output pixel.
struct Taps {
    start: usize,
    weights: Vec<f64>,
}

/// The parameter of Keys' cubic.
const A: f64 = -0.5;

/// Keys' cubic, stretched when shrinking.
fn taps(input: usize, output: usize) -> Vec<Taps> {
    let scale = input as f64 / output as f64;
    let stretch = scale.max(1.0);
    let support = 2.0 * stretch;
    let cubic = |x: f64| {
        let x = x.abs();
        if x < 1.0 {
            ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
        } else if x < 2.0 {
            (((x - 5.0) * x + 8.0) * x - 4.0) * A
        } else {
            0.0
        }
    };
    (0..output)
        .map(|i| {
            let center = (i as f64 + 0.5) * scale;
            let start = (center - support + 0.5).max(0.0) as usize;
            let end = ((center + support + 0.5) as usize).min(input);
            let weights: Vec<f64> = (start..end)
                .map(|j| cubic((j as f64 - center + 0.5) / stretch))
                .collect();
            let sum: f64 = weights.iter().sum();
            Taps {
                start,
                weights: weights.iter().map(|w| w / sum).collect(),
            }
        })
        .collect()
}

/// Resizes as torchvision does for u8 tensors: both passes in f32, one rounding at the end.
pub fn resize(f: &Frames, height: usize, width: usize) -> Frames {
    if (f.height, f.width) == (height, width) {
        return f.clone();
    }
    let single = |taps: Vec<Taps>| -> Vec<(usize, Vec<f32>)> {
        let weights = |t: Taps| (t.start, t.weights.iter().map(|w| *w as f32).collect());
        taps.into_iter().map(weights).collect()
    };
    let (across, down) = (single(taps(f.width, width)), single(taps(f.height, height)));
    each(f, height, width, |from, to| {
        let mut middle = vec![0f32; f.height * width * 3];
        // A fourth number beside the colours lets a pixel be one vector.
        let mut pixels = vec![[0f32; 4]; f.width];
        for (row, out) in from
            .chunks_exact(f.width * 3)
            .zip(middle.chunks_exact_mut(width * 3))
        {
            for (pixel, p) in pixels.iter_mut().zip(row.as_chunks::<3>().0) {
                *pixel = [f32::from(p[0]), f32::from(p[1]), f32::from(p[2]), 0.0];
            }
            for ((start, weights), out) in across.iter().zip(out.as_chunks_mut::<3>().0) {
                let mut sum = [0f32; 4];
                for (w, p) in weights.iter().zip(&pixels[*start..]) {
                    for (s, x) in sum.iter_mut().zip(p) {
                        *s += w * x;
                    }
                }
                *out = [sum[0], sum[1], sum[2]];
            }
        }
        let mut sum = vec![0f32; width * 3];
        for ((start, weights), out) in down.iter().zip(to.chunks_exact_mut(width * 3)) {
            sum.fill(0.0);
            for (w, row) in weights
                .iter()
                .zip(middle[start * width * 3..].chunks_exact(width * 3))
            {
                for (s, x) in sum.iter_mut().zip(row) {
                    *s += w * x;
                }
            }
            for (o, s) in out.iter_mut().zip(&sum) {
                *o = to_byte(*s);
            }
        }
    })
}

/// The nearest byte, halves to even. At 2^23 an f32 has no bits behind the point, so the sum is rounded to the byte in its last
/// eight; `round_ties_even` is a call for each number where the processor is not known to have the instruction.
fn to_byte(x: f32) -> u8 {
    const WHOLE: f32 = (1 << 23) as f32;
    (x.clamp(0.0, 255.0) + WHOLE).to_bits() as u8
}

/// Resizes as Pillow does: weights in fixed point, rounded to u8 after each pass.
pub fn resize_image(f: &Frames, height: usize, width: usize) -> Frames {
    // The pass that leaves less to the other comes first (Pillow 12 and later).
    let rows_first = f.height * width <= height * f.width;
    in_fixed_point(f, height, width, rows_first, |_| 22)
}

/// Resizes as transformers 5 does through torchvision's transforms v2: as Pillow, with weights of 16 bits, rows first.
pub fn resize_bytes(f: &Frames, height: usize, width: usize) -> Frames {
    in_fixed_point(f, height, width, true, |largest| {
        let full = |bits: &u32| (0.5 + largest * f64::from(1u32 << (bits + 1))) as i64 >= 1 << 15;
        (0..22).find(full).unwrap_or(22)
    })
}

/// Weights of one pass in fixed point.
struct Fixed {
    /// Bits after the binary point.
    bits: u32,
    /// Of each output pixel: the first input pixel, and weights from there on.
    taps: Vec<(usize, Vec<i64>)>,
}

impl Fixed {
    /// `bits` is chosen by the largest weight.
    fn new(input: usize, output: usize, bits: impl Fn(f64) -> u32) -> Self {
        let taps = taps(input, output);
        let largest = taps.iter().flat_map(|t| &t.weights).copied().fold(0.0, f64::max);
        let bits = bits(largest);
        let round = |w: &f64| (w * f64::from(1u32 << bits) + 0.5f64.copysign(*w)) as i64;
        let taps = taps
            .iter()
            .map(|t| (t.start, t.weights.iter().map(round).collect()))
            .collect();
        Self { bits, taps }
    }

    fn clip(&self, sum: i64) -> u8 {
        ((sum + (1 << self.bits >> 1)) >> self.bits).clamp(0, 255) as u8
    }

    fn across(&self, from: &[u8], width: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(from.len() / width * self.taps.len());
        for row in from.chunks_exact(width * 3) {
            for (start, weights) in &self.taps {
                for c in 0..3 {
                    let pixels = row[start * 3 + c..].iter().step_by(3);
                    out.push(self.clip(weights.iter().zip(pixels).map(|(w, x)| w * i64::from(*x)).sum()));
                }
            }
        }
        out
    }

    fn down(&self, from: &[u8], width: usize) -> Vec<u8> {
        let row = width * 3;
        let mut out = Vec::with_capacity(row * self.taps.len());
        for (start, weights) in &self.taps {
            for x in 0..row {
                let pixels = from[start * row + x..].iter().step_by(row);
                out.push(self.clip(weights.iter().zip(pixels).map(|(w, x)| w * i64::from(*x)).sum()));
            }
        }
        out
    }
}

/// Two passes in fixed point, each rounded to u8; one that changes nothing is left out.
fn in_fixed_point(
    f: &Frames,
    height: usize,
    width: usize,
    rows_first: bool,
    bits: impl Fn(f64) -> u32,
) -> Frames {
    let (across, down) = (
        Fixed::new(f.width, width, &bits),
        Fixed::new(f.height, height, &bits),
    );
    each(f, height, width, |from, to| {
        let horizontal = |from: &[u8]| {
            if f.width == width {
                from.to_vec()
            } else {
                across.across(from, f.width)
            }
        };
        let vertical = |from: &[u8], width: usize| {
            if f.height == height {
                from.to_vec()
            } else {
                down.down(from, width)
            }
        };
        let done = if rows_first {
            vertical(&horizontal(from), width)
        } else {
            horizontal(&vertical(from, f.width))
        };
        to.copy_from_slice(&done);
    })
}

/// Fills pictures up to `[height, width]` around them with one colour; where that is uneven, below and to the right is
/// one more. A picture that is larger stays.
pub fn pad(f: &Frames, [height, width]: [usize; 2], colour: [u8; 3]) -> Frames {
    let (height, width) = (height.max(f.height), width.max(f.width));
    let (top, left) = ((height - f.height) / 2, (width - f.width) / 2);
    each(f, height, width, |from, to| {
        for pixel in to.chunks_exact_mut(3) {
            pixel.copy_from_slice(&colour);
        }
        for (y, row) in from.chunks_exact(f.width * 3).enumerate() {
            let start = ((top + y) * width + left) * 3;
            to[start..start + row.len()].copy_from_slice(row);
        }
    })
}

/// The `[height, width]` pixels of each picture from a row and a column on.
///
/// # Panics
/// When they reach out of the picture.
pub fn crop(f: &Frames, [top, left]: [usize; 2], [height, width]: [usize; 2]) -> Frames {
    assert!(
        top + height <= f.height && left + width <= f.width,
        "a part of a picture"
    );
    each(f, height, width, |from, to| {
        for (y, row) in to.chunks_exact_mut(width * 3).enumerate() {
            let start = ((top + y) * f.width + left) * 3;
            row.copy_from_slice(&from[start..start + row.len()]);
        }
    })
}

fn each(f: &Frames, height: usize, width: usize, one: impl Fn(&[u8], &mut [u8]) + Sync) -> Frames {
    let mut data = vec![0; f.count * height * width * 3];
    let sizes = (f.height * f.width * 3, height * width * 3);
    f.data
        .par_chunks_exact(sizes.0)
        .zip(data.par_chunks_exact_mut(sizes.1))
        .for_each(|(from, to)| one(from, to));
    Frames {
        count: f.count,
        height,
        width,
        data,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_rounded_as_the_language_rounds() {
        for i in -2000..70_000 {
            let x = i as f32 / 256.0;
            for x in [x, x.next_up(), x.next_down()] {
                assert_eq!(to_byte(x), x.clamp(0.0, 255.0).round_ties_even() as u8, "{x}");
            }
        }
    }
}
