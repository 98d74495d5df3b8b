//! Tensors whose elements lie in another order than they are used in.

/// How a tensor lies in the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Row after row.
    Rows,
    /// A patch embedding of two times of which the file has one tensor each: shard and place of the second.
    Pair(usize, usize, usize),
    /// Column after column: elements of so many bytes, those of a row so many elements apart.
    Columns { width: usize, stride: usize },
}

impl Form {
    /// Bytes of a tensor that spans so many in the file.
    pub(super) fn bytes(self, span: usize, shape: &[usize]) -> usize {
        match self {
            Self::Rows => span,
            Self::Pair(..) => 2 * span,
            Self::Columns { width, .. } => shape.iter().product::<usize>() * width,
        }
    }

    /// The elements row after row, where they do not lie so; `second` is the second of a pair.
    pub(super) fn rows(self, bytes: &[u8], second: &[u8], shape: &[usize]) -> Option<Vec<u8>> {
        match self {
            Self::Rows => None,
            Self::Pair(..) => Some(both(bytes, second, shape)),
            Self::Columns { width, stride } => Some(columns(bytes, shape, width, stride)),
        }
    }
}

/// Both times of a kernel `[out, channels, 2, patch, patch]`, of which each is whole in a tensor of its own.
fn both(first: &[u8], second: &[u8], shape: &[usize]) -> Vec<u8> {
    let planes = shape[..2].iter().product::<usize>().max(1);
    let plane = (first.len() / planes).max(1);
    let pairs = first.chunks(plane).zip(second.chunks(plane));
    pairs.flat_map(|(a, b)| [a, b].concat()).collect()
}

/// A matrix `shape` that is stored column after column.
fn columns(bytes: &[u8], shape: &[usize], width: usize, stride: usize) -> Vec<u8> {
    let (rows, cols) = (shape[0], shape[1]);
    let mut out = vec![0; rows * cols * width];
    for (c, column) in bytes.chunks(stride * width).take(cols).enumerate() {
        for (r, element) in column.chunks_exact(width).take(rows).enumerate() {
            let at = (r * cols + c) * width;
            out[at..at + width].copy_from_slice(element);
        }
    }
    out
}

/// A kernel `[out, ..., channels]` (MLX) as `[out, channels, ...]`, which is `shape`.
pub(super) fn channels_first(bytes: &[u8], shape: &[usize]) -> Vec<u8> {
    let size = bytes.len() / shape.iter().product::<usize>().max(1);
    let (channels, places) = (shape[1], shape[2..].iter().product::<usize>());
    let mut out = Vec::with_capacity(bytes.len());
    for kernel in bytes.chunks_exact((channels * places * size).max(1)) {
        for channel in 0..channels {
            for place in 0..places {
                let at = (place * channels + channel) * size;
                out.extend_from_slice(&kernel[at..at + size]);
            }
        }
    }
    out
}
