//! Pictures out of a stream of binary PPM files: each says its own size, so that no header has to be believed.

use std::path::Path;

use crate::error::{Error, Result};
use crate::picture::frames::Frames;

/// Largest picture, in pixels.
const MAX_PIXELS: usize = 1 << 28;

/// What has come so far of the current picture.
#[derive(Default)]
pub(super) struct Ppm {
    header: Vec<u8>,
    picture: Option<Frames>,
}

impl Ppm {
    /// Takes the next bytes and hands on every picture that they complete.
    pub(super) fn push(
        &mut self,
        path: &Path,
        mut bytes: &[u8],
        sink: &mut dyn FnMut(Frames) -> Result<()>,
    ) -> Result<()> {
        while let Some((byte, rest)) = bytes.split_first() {
            let Some(mut picture) = self.picture.take() else {
                bytes = rest;
                self.header.push(*byte);
                self.picture = self.begun(path)?;
                continue;
            };
            let size = picture.height * picture.width * 3;
            let (own, rest) = bytes.split_at(bytes.len().min(size - picture.data.len()));
            picture.data.extend_from_slice(own);
            bytes = rest;
            if picture.data.len() == size {
                sink(picture)?;
            } else {
                self.picture = Some(picture);
            }
        }
        Ok(())
    }

    /// `P6 WIDTH HEIGHT 255`, each on a line but the sizes.
    fn begun(&mut self, path: &Path) -> Result<Option<Frames>> {
        let bad = || Error::decoder(path, "ffmpeg gave no pictures of the form asked for (PPM)");
        if self.header.split(|b| *b == b'\n').count() <= 3 {
            return if self.header.len() > 64 {
                Err(bad())
            } else {
                Ok(None)
            };
        }
        let header = std::mem::take(&mut self.header);
        let words: Vec<&str> = std::str::from_utf8(&header)
            .map_err(|_| bad())?
            .split_ascii_whitespace()
            .collect();
        let ["P6", width, height, "255"] = words[..] else {
            return Err(bad());
        };
        let (width, height): (usize, usize) = (
            width.parse().map_err(|_| bad())?,
            height.parse().map_err(|_| bad())?,
        );
        if width.saturating_mul(height) > MAX_PIXELS || width * height == 0 {
            return Err(Error::damaged(path, format!("has frames of {width} x {height}")));
        }
        Ok(Some(Frames {
            count: 1,
            height,
            width,
            data: Vec::with_capacity(height * width * 3),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_come_whole_however_they_are_cut() {
        let stream = b"P6\n2 1\n255\nabcdefP6\n1 1\n255\n\n\n\n";
        for size in [1, 2, 5, 64] {
            let (mut ppm, mut got) = (Ppm::default(), Vec::new());
            for piece in stream.chunks(size) {
                ppm.push(Path::new("x"), piece, &mut |f| {
                    got.push((f.height, f.width, f.data));
                    Ok(())
                })
                .unwrap();
            }
            assert_eq!(got, [(1, 2, b"abcdef".to_vec()), (1, 1, b"\n\n\n".to_vec())]);
        }
        let bad = Ppm::default().push(Path::new("x"), b"P5\n2 1\n255\n", &mut |_| Ok(()));
        assert!(bad.is_err());
    }
}
