//! What a video track says of its pictures.

/// How a stored picture becomes the displayed one: transposed or not, then mirrored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Orientation {
    pub(crate) transpose: bool,
    pub(crate) flip_x: bool,
    pub(crate) flip_y: bool,
}

impl Orientation {
    /// From `a, b, c, d` of a display matrix: x' = ax + cy, y' = bx + dy. `None` for other than quarter turns and mirrors.
    pub(crate) fn of([a, b, c, d]: [i64; 4]) -> Option<Self> {
        let (transpose, x, y) = match [a, b, c, d].map(|n| n == 0) {
            [false, true, true, false] => (false, a, d),
            [true, false, false, true] => (true, c, b),
            // No matrix at all.
            [true, true, true, true] => (false, 1, 1),
            _ => return None,
        };
        Some(Self {
            transpose,
            flip_x: x < 0,
            flip_y: y < 0,
        })
    }

    /// Width and height as displayed.
    pub(crate) fn size(self, width: usize, height: usize) -> (usize, usize) {
        if self.transpose {
            (height, width)
        } else {
            (width, height)
        }
    }
}

/// What all pictures of a stream have in common.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct VideoFormat {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) full_range: bool,
    /// `matrix_coefficients`.
    pub(crate) matrix: u8,
}
