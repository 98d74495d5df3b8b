//! Every loop over activations that is not a kernel: what another backend has to bring beside those of `outro-kernels`. Weights
//! and configurations are not seen here, only rows and numbers.

pub(crate) mod attention;
pub(crate) mod picture;
pub(crate) mod sound;

use outro_kernels::add;

use super::Mat;

/// Whether all elements are finite.
pub(crate) fn is_finite(x: &[f32]) -> bool {
    // A sum is one pass without branches; it is not finite if any element is not, or if the sum overflows.
    x.iter().sum::<f32>().is_finite() || x.iter().all(|x| x.is_finite())
}

/// Copies the rows `from[places[i]]` to row i.
pub(crate) fn gather(from: &Mat, places: impl ExactSizeIterator<Item = usize>, to: &mut Mat) {
    to.reshape(places.len(), from.cols());
    for (row, place) in places.enumerate() {
        to.row_mut(row).copy_from_slice(from.row(place));
    }
}

/// Copies row i to `to[places[i]]`.
pub(crate) fn scatter(from: &Mat, places: &[usize], to: &mut Mat) {
    for (row, place) in places.iter().enumerate() {
        to.row_mut(*place).copy_from_slice(from.row(row));
    }
}

/// Adds row i, times its share, to the row that it belongs to: `(row, share)`.
pub(crate) fn add_shares(from: &Mat, shares: &[(usize, f32)], to: &mut Mat) {
    for (i, (row, share)) in shares.iter().enumerate() {
        for (to, from) in to.row_mut(*row).iter_mut().zip(from.row(i)) {
            *to += share * from;
        }
    }
}

/// Adds `features[from]` to the row `row` of `x`, for each `(row, from)`.
pub(crate) fn add_to_rows(features: &Mat, places: &[(usize, usize)], x: &mut [f32]) {
    let n = features.cols();
    for (row, from) in places {
        add(&mut x[row * n..(row + 1) * n], features.row(*from));
    }
}

/// Adds `table` to each stretch of `x` that is as long; to the last, which may be shorter, its beginning.
pub(crate) fn add_to_each(table: &[f32], x: &mut [f32]) {
    for part in x.chunks_mut(table.len()) {
        let n = part.len();
        add(part, &table[..n]);
    }
}

/// Sets all elements to zero.
pub(crate) fn clear(x: &mut Mat) {
    x.data_mut().fill(0.0);
}

/// The rows for which `kept` is true.
pub(crate) fn masked(x: &Mat, kept: &[bool]) -> Mat {
    let rows = (0..x.rows()).zip(kept).filter(|(_, kept)| **kept);
    let places: Vec<usize> = rows.map(|(row, _)| row).collect();
    let mut out = Mat::empty(x.cols());
    gather(x, places.into_iter(), &mut out);
    out
}

/// Cuts rows of three parts into a matrix each.
pub(crate) fn split_in_three(from: &Mat, to: [&mut Mat; 3]) {
    let cols = from.cols() / 3;
    for (i, to) in to.into_iter().enumerate() {
        to.reshape(from.rows(), cols);
        let rows = from.data().chunks_exact(3 * cols);
        for (to, from) in to.data_mut().chunks_exact_mut(cols).zip(rows) {
            to.copy_from_slice(&from[i * cols..(i + 1) * cols]);
        }
    }
}

/// The most likely of a row's options with their shares, by the softmax over all; the first of equals. Leaves the softmax in
/// `logits`.
pub(crate) fn most_likely(logits: &mut [f32], top_k: usize, normalised: bool) -> Vec<(usize, f32)> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut total = 0.0;
    for x in logits.iter_mut() {
        *x = (*x - max).exp();
        total += *x;
    }
    for x in logits.iter_mut() {
        *x /= total;
    }
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
    order.truncate(top_k);
    let kept: f32 = order.iter().map(|e| logits[*e]).sum();
    let scale = if normalised { kept } else { 1.0 };
    order.into_iter().map(|e| (e, logits[e] / scale)).collect()
}

/// Appends cosines and sines of the angles of positions on three axes, times `factor`: one of each frequency, which follows
/// the axis beside it.
pub(crate) fn push_angles(
    positions: &[[f32; 3]],
    (frequencies, axes): (&[f32], &[usize]),
    factor: f32,
    cos: &mut Vec<f32>,
    sin: &mut Vec<f32>,
) {
    for position in positions {
        for (frequency, axis) in frequencies.iter().zip(axes) {
            let angle = position[*axis] * frequency;
            cos.push(angle.cos() * factor);
            sin.push(angle.sin() * factor);
        }
    }
}

/// `x` so many times.
pub(crate) fn repeated(x: &[f32], times: usize) -> Vec<f32> {
    x.repeat(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_a_softmax_and_ties_go_to_the_first() {
        let mut logits = [0.0, 2f32.ln(), 5f32.ln(), 2f32.ln()];
        let shares = most_likely(&mut logits.clone(), 2, false);
        assert_eq!(shares.iter().map(|s| s.0).collect::<Vec<_>>(), [2, 1]);
        assert!((shares[0].1 - 0.5).abs() < 1e-6 && (shares[1].1 - 0.2).abs() < 1e-6);
        let shares = most_likely(&mut logits, 2, true);
        assert!((shares[0].1 - 5.0 / 7.0).abs() < 1e-6 && (shares[1].1 - 2.0 / 7.0).abs() < 1e-6);
    }

    #[test]
    fn rows_go_where_they_belong() {
        let x = Mat::new(3, (0..12).map(|x| x as f32).collect());
        let mut some = Mat::default();
        gather(&x, [2, 0].into_iter(), &mut some);
        assert_eq!(some.data(), [6.0, 7.0, 8.0, 0.0, 1.0, 2.0]);
        assert_eq!(masked(&x, &[false, true, false, false]).data(), [3.0, 4.0, 5.0]);
        let mut to = Mat::zeros(3, 3);
        scatter(&some, &[1, 2], &mut to);
        assert_eq!(to.row(1), some.row(0));
        add_shares(&some, &[(0, 0.5), (0, 2.0)], &mut to);
        assert_eq!(to.row(0), [3.0, 5.5, 8.0]);
        let [mut a, mut b, mut c] = [const { Vec::new() }; 3].map(|v| Mat::new(1, v));
        split_in_three(&x, [&mut a, &mut b, &mut c]);
        assert_eq!(b.data(), [1.0, 4.0, 7.0, 10.0]);
        let mut long = [1.0; 5];
        add_to_each(&[1.0, 2.0], &mut long);
        assert_eq!(long, [2.0, 3.0, 2.0, 3.0, 2.0]);
        assert!(is_finite(&[f32::MAX, f32::MAX]) && !is_finite(&[1.0, f32::NAN]));
    }
}
