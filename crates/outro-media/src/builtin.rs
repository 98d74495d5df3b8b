//! The decoders that need nothing installed: openh264 and image; sound has a module of its own.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use image::{DynamicImage, ImageDecoder, ImageReader};
use openh264::OpenH264API;
use openh264::decoder::{DecodeOptions, Decoder as Openh264, DecoderConfig, Flush};
use openh264::formats::YUVSource;

use crate::error::{Error, Result};
use crate::frames::Frames;
use crate::mp4::Movie;
use crate::sound;
use crate::source::{Decoder, Kind, MediaInfo, VideoInfo};

/// Largest picture that is decoded, in pixels.
const MAX_PIXELS: u64 = 100_000_000;

fn image_decoder(path: &Path) -> Result<impl ImageDecoder + use<>> {
    let damaged = |e: image::ImageError| Error::damaged(path, format!("cannot be read as a picture: {e}"));
    let reader = ImageReader::open(path)
        .map_err(Error::io(path))?
        .with_guessed_format()
        .map_err(Error::io(path))?;
    let decoder = reader.into_decoder().map_err(damaged)?;
    let (w, h) = decoder.dimensions();
    if u64::from(w) * u64::from(h) > MAX_PIXELS {
        let megapixels = u64::from(w) * u64::from(h) / 1_000_000;
        return Err(Error::damaged(
            path,
            format!(
                "is {w} x {h}, {megapixels} megapixels; at most {} are read, make it smaller first",
                MAX_PIXELS / 1_000_000
            ),
        ));
    }
    Ok(decoder)
}

pub(crate) fn probe_image(path: &Path) -> Result<MediaInfo> {
    let (w, h) = image_decoder(path)?.dimensions();
    let format = ImageReader::open(path)
        .map_err(Error::io(path))?
        .with_guessed_format()
        .map_err(Error::io(path))?
        .format();
    let name = format
        .and_then(|f| f.extensions_str().first().copied())
        .unwrap_or("image");
    let video = VideoInfo {
        codec: name.into(),
        width: w as usize,
        height: h as usize,
        fps: 0.0,
        frames: 1,
        duration: 0.0,
    };
    Ok(MediaInfo {
        path: path.into(),
        kind: Kind::Image,
        container: name.into(),
        video: Some(video),
        audio: None,
        decoder: Decoder::Builtin,
    })
}

pub(crate) fn read_image(path: &Path) -> Result<Frames> {
    let decoder = image_decoder(path)?;
    // EXIF orientation is left alone, as the reference's loader does.
    let picture = DynamicImage::from_decoder(decoder)
        .map_err(|e| Error::damaged(path, format!("cannot be decoded: {e}")))?;
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let data = if picture.color().has_alpha() {
        let rgba = picture.into_rgba8().into_raw();
        let over = |p: &[u8; 4]| {
            let alpha = u32::from(p[3]);
            [0, 1, 2].map(|c| ((u32::from(p[c]) * alpha + 255 * (255 - alpha) + 127) / 255) as u8)
        };
        rgba.as_chunks().0.iter().flat_map(over).collect()
    } else {
        picture.into_rgb8().into_raw()
    };
    Ok(Frames {
        count: 1,
        height,
        width,
        data,
    })
}

/// Streams of an mp4 or an audio file.
pub(crate) fn probe(path: &Path, mp4: bool) -> Result<MediaInfo> {
    let movie = if mp4 {
        Some(Movie::open(path)?.info()?)
    } else {
        None
    };
    let audio = match &movie {
        Some(m) if m.audio.is_none() => None,
        _ => Some(sound::open(path)?.1),
    };
    Ok(match movie {
        Some(m) => MediaInfo { audio, ..m },
        None => MediaInfo {
            path: path.into(),
            kind: Kind::Audio,
            container: "audio".into(),
            video: None,
            audio,
            decoder: Decoder::Builtin,
        },
    })
}

/// Decodes frames by presentation number. The decoder reorders, so the n-th picture that leaves it is number n.
pub(crate) fn frames(
    path: &Path,
    indices: &[usize],
    sink: &mut dyn FnMut(Frames) -> Result<()>,
) -> Result<()> {
    let mut stream = Movie::open(path)?.h264()?;
    let bad = |e: openh264::Error| Error::damaged(path, format!("its H.264 video cannot be decoded: {e}"));
    let mut decoder =
        Openh264::with_api_config(OpenH264API::from_source(), DecoderConfig::new()).map_err(bad)?;
    let options = DecodeOptions::new().flush_after_decode(Flush::NoFlush);
    let (mut number, mut wanted) = (0, indices.iter().copied().peekable());
    let turns = stream.turns;
    let mut take = |yuv: &dyn YUVSource, wanted: &mut std::iter::Peekable<_>| -> Result<()> {
        if wanted.next_if_eq(&number).is_some() {
            sink(turned(&to_rgb(yuv), turns))?;
        }
        number += 1;
        Ok(())
    };
    let header = stream.header.clone();
    for i in 0..stream.samples.len() {
        let mut packet = stream.sample(i)?;
        if i == 0 {
            packet.splice(0..0, header.iter().copied());
        }
        if let Some(yuv) = decoder
            .decode_with_options(&packet, options.clone())
            .map_err(bad)?
        {
            take(&yuv, &mut wanted)?;
        }
        if wanted.peek().is_none() {
            return Ok(());
        }
    }
    for yuv in decoder.flush_remaining().map_err(bad)? {
        take(&yuv, &mut wanted)?;
    }
    Ok(())
}

/// BT.601 with limited range, nearest chroma, and each product cut to a whole number before the sum: what swscale's
/// vector code does by default, and so what the reference's frames look like.
fn to_rgb(yuv: &dyn YUVSource) -> Frames {
    let (width, height) = yuv.dimensions();
    let (sy, su, sv) = yuv.strides();
    let (y, u, v) = (yuv.y(), yuv.u(), yuv.v());
    let times = |x: i32, coefficient: i32| (8 * x * coefficient) >> 16;
    let clip = |x: i32| x.clamp(0, 255) as u8;
    let mut data = Vec::with_capacity(width * height * 3);
    for row in 0..height {
        for col in 0..width {
            let luma = times(i32::from(y[row * sy + col]) - 16, 9_539);
            let cb = i32::from(u[row / 2 * su + col / 2]) - 128;
            let cr = i32::from(v[row / 2 * sv + col / 2]) - 128;
            data.extend([
                clip(luma + times(cr, 13_075)),
                clip(luma + times(cb, -3_209) + times(cr, -6_660)),
                clip(luma + times(cb, 16_525)),
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

/// Turns a picture clockwise by quarter turns.
fn turned(f: &Frames, turns: usize) -> Frames {
    let (h, w) = (f.height, f.width);
    let (height, width) = if turns % 2 == 1 { (w, h) } else { (h, w) };
    let mut data = Vec::with_capacity(f.data.len());
    for row in 0..height {
        for col in 0..width {
            let (r, c) = match turns % 4 {
                0 => (row, col),
                1 => (h - 1 - col, row),
                2 => (h - 1 - row, w - 1 - col),
                _ => (col, w - 1 - row),
            };
            data.extend_from_slice(&f.data[(r * w + c) * 3..][..3]);
        }
    }
    Frames {
        count: 1,
        height,
        width,
        data,
    }
}

/// Opens a file only to see that it can be read; keeps the error's path.
pub(crate) fn readable(path: &Path) -> Result<()> {
    File::open(path)
        .map(BufReader::new)
        .map(drop)
        .map_err(Error::io(path))
}
