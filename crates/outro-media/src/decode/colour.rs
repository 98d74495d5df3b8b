//! Pictures of H.264, in YUV 4:2:0, to RGB as ffmpeg's default conversion makes them, and turned for display.

use openh264::formats::YUVSource;

use crate::decode::format::{Orientation, VideoFormat};
use crate::picture::frames::Frames;

/// What swscale takes for each `matrix_coefficients` (ITU-T H.273, table 4): parts of Cr in red, Cb in blue, Cb and Cr in
/// green, in 1/65536. BT.601 stands for what says nothing.
fn coefficients(matrix: u8) -> Option<[i64; 4]> {
    Some(match matrix {
        1 => [117_489, 138_438, 13_975, 34_925],
        2 | 3 | 5 | 6 => [104_597, 132_201, 25_675, 53_279],
        4 => [104_448, 132_798, 24_759, 53_109],
        7 => [117_579, 136_230, 16_907, 35_559],
        9 | 10 => [110_013, 140_363, 12_277, 42_626],
        _ => return None,
    })
}

/// Whether pictures of this `matrix_coefficients` can be converted.
pub(crate) fn known(matrix: u8) -> bool {
    coefficients(matrix).is_some()
}

/// Nearest chroma, and each product cut to a whole number before the sum: what swscale's vector code does by default, and so
/// what the reference's frames look like.
pub(crate) fn to_rgb(yuv: &dyn YUVSource, format: &VideoFormat) -> Frames {
    let (width, height) = yuv.dimensions();
    let (sy, su, sv) = yuv.strides();
    let (y, u, v) = (yuv.y(), yuv.u(), yuv.v());
    let own = coefficients(format.matrix).unwrap_or([0; 4]);
    // In 1/8192, rounded; full range stretches the colours instead of the luma.
    let rounded = |x: i64| ((x * (1 << 13) + (1 << 15)) >> 16) as i32;
    let [red, blue, green_b, green_r] =
        own.map(|x| rounded(if format.full_range { x * 224 / 255 } else { x }));
    let (scale, black) = if format.full_range {
        (rounded(1 << 16), 0)
    } else {
        (rounded((1 << 16) * 255 / 219), 16)
    };
    let times = |x: i32, coefficient: i32| (8 * x * coefficient) >> 16;
    let clip = |x: i32| x.clamp(0, 255) as u8;
    let mut data = Vec::with_capacity(width * height * 3);
    for row in 0..height {
        for col in 0..width {
            let luma = times(i32::from(y[row * sy + col]) - black, scale);
            let cb = i32::from(u[row / 2 * su + col / 2]) - 128;
            let cr = i32::from(v[row / 2 * sv + col / 2]) - 128;
            data.extend([
                clip(luma + times(cr, red)),
                clip(luma + times(cb, -green_b) + times(cr, -green_r)),
                clip(luma + times(cb, blue)),
            ]);
        }
    }
    Frames {
        count: 1,
        height,
        width,
        data,
    }
}

/// The picture as it is displayed.
pub(crate) fn oriented(f: Frames, orientation: Orientation) -> Frames {
    if orientation == Orientation::default() {
        return f;
    }
    let (width, height) = orientation.size(f.width, f.height);
    let mut data = Vec::with_capacity(f.data.len());
    for row in 0..height {
        for col in 0..width {
            let x = if orientation.flip_x { width - 1 - col } else { col };
            let y = if orientation.flip_y { height - 1 - row } else { row };
            let (r, c) = if orientation.transpose { (x, y) } else { (y, x) };
            data.extend_from_slice(&f.data[(r * f.width + c) * 3..][..3]);
        }
    }
    Frames {
        count: 1,
        height,
        width,
        data,
    }
}
