//! Frames and samples to an mp4 file, through ffmpeg.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};

use crate::decode::ffmpeg::{self, url};
use crate::decode::process::{More, run};
use crate::error::{Error, Result};
use crate::info::Options;
use crate::picture::frames::Frames;
use crate::sound::resample::SAMPLE_RATE;

/// What goes into a file.
#[derive(Clone, Copy, Debug)]
pub struct VideoToWrite<'a> {
    /// The pictures; even sides.
    pub frames: &'a Frames,
    /// Pictures a second.
    pub fps: usize,
    /// Mono sound at 16,000 samples a second; empty for a file without a track.
    pub samples: &'a [f32],
}

/// The bytes of a PNG picture; `rgb` is `[height, width, 3]`.
///
/// # Errors
/// A size that is 0 or does not fit the bytes.
pub fn write_png(width: usize, height: usize, rgb: &[u8]) -> Result<Vec<u8>> {
    encode(width, height, rgb, |out, w, h| {
        PngEncoder::new(out).write_image(rgb, w, h, ExtendedColorType::Rgb8)
    })
}

/// The bytes of a JPEG picture of a quality from 1 to 100; `rgb` is `[height, width, 3]`.
///
/// # Errors
/// A size that is 0 or does not fit the bytes.
pub fn write_jpeg(width: usize, height: usize, rgb: &[u8], quality: u8) -> Result<Vec<u8>> {
    encode(width, height, rgb, |out, w, h| {
        JpegEncoder::new_with_quality(out, quality.clamp(1, 100)).write_image(
            rgb,
            w,
            h,
            ExtendedColorType::Rgb8,
        )
    })
}

/// Checks the size, then lets `write` encode the picture.
fn encode(
    width: usize,
    height: usize,
    rgb: &[u8],
    write: impl FnOnce(&mut Vec<u8>, u32, u32) -> image::ImageResult<()>,
) -> Result<Vec<u8>> {
    let bad = |why: String| Error::range("picture", why);
    let side = |n: usize| u32::try_from(n).ok().filter(|n| *n > 0);
    let (Some(w), Some(h)) = (side(width), side(height)) else {
        return Err(bad(format!("{width} x {height} has no pixels, or too many")));
    };
    if rgb.len() != width * height * 3 {
        return Err(bad(format!("{width} x {height} with {} bytes", rgb.len())));
    }
    let mut out = Vec::new();
    write(&mut out, w, h).map_err(|e| bad(e.to_string()))?;
    Ok(out)
}

/// Writes H.264 and AAC in mp4. The file appears whole or not at all. One ffmpeg gives the same bytes every time.
///
/// # Errors
/// No ffmpeg with libx264, or a place that cannot be written.
pub fn write_mp4(path: &Path, video: &VideoToWrite) -> Result<()> {
    if !ffmpeg::found() {
        let problem =
            "writing videos takes the ffmpeg program, which was not found; install it or set OUTRO_FFMPEG";
        return Err(Error::decoder(path, problem));
    }
    let beside = |extension: &str| path.with_extension(extension);
    let (pictures, sound, whole) = (beside("rgb.part"), beside("f32.part"), beside("part.mp4"));
    let io = |e: io::Error| Error::decoder(path, format!("cannot be written: {e}"));
    let f = video.frames;
    let mut command = Command::new(ffmpeg::program());
    command.args([
        "-v", "error", "-nostdin", "-y", "-threads", "1", "-f", "rawvideo", "-pix_fmt", "rgb24",
    ]);
    command
        .args([
            "-s",
            &format!("{}x{}", f.width, f.height),
            "-r",
            &video.fps.to_string(),
            "-i",
        ])
        .arg(url(&pictures));
    if !video.samples.is_empty() {
        command
            .args(["-f", "f32le", "-ar", &SAMPLE_RATE.to_string(), "-ac", "1", "-i"])
            .arg(url(&sound));
        command.args(["-c:a", "aac", "-b:a", "64k"]);
    }
    command.args([
        "-c:v", "libx264", "-preset", "veryfast", "-crf", "18", "-pix_fmt", "yuv420p", "-threads", "1",
    ]);
    command.args([
        "-fflags",
        "+bitexact",
        "-flags:v",
        "+bitexact",
        "-flags:a",
        "+bitexact",
        "-movflags",
        "+faststart",
    ]);
    command.arg(url(&whole));
    let written = fs::write(&pictures, &f.data)
        .and_then(|()| {
            fs::write(
                &sound,
                video
                    .samples
                    .iter()
                    .flat_map(|x| x.to_le_bytes())
                    .collect::<Vec<u8>>(),
            )
        })
        .map_err(io);
    let made = written
        .and_then(|()| {
            run(command, path, &Options::default(), 1 << 16, &mut |_| {
                Ok(More::Yes)
            })?
            .ok()
        })
        .and_then(|_| fs::rename(&whole, path).map_err(io));
    for part in [&pictures, &sound, &whole] {
        let _ = fs::remove_file(part);
    }
    made
}
