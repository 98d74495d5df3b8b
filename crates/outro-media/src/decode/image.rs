//! Pictures: png, jpeg, webp and gif by the image library, as Pillow would show them; other formats through ffmpeg.

use std::io::Cursor;
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader};

use crate::decode::ffmpeg;
use crate::decode::guard::guarded;
use crate::decode::process;
use crate::decode::sniff::{Sniffed, sniff};
use crate::error::{Error, Hint, Result};
use crate::info::{Decoder, Kind, MediaInfo, Options, Streams, VideoInfo};
use crate::note::{Note, NoteKind};
use crate::picture::frames::Frames;

/// Largest picture that is decoded, in pixels.
const MAX_PIXELS: u64 = 100_000_000;

/// A picture's bytes in a format that is decoded here, and the name of the one that the file has.
fn open(path: &Path, o: &Options) -> Result<(Vec<u8>, &'static str)> {
    let name = match sniff(path)? {
        Sniffed::Image | Sniffed::Gif => {
            let bytes = std::fs::read(path).map_err(Error::io(path))?;
            let name = image::guess_format(&bytes).map_or("image", |f| f.extensions_str()[0]);
            return Ok((bytes, name));
        }
        Sniffed::Foreign(name) => name,
        _ => {
            let hint = Hint::GiveAsVideoOrAudio;
            return Err(Error::unusable(path, "is no picture", hint));
        }
    };
    let missing = |reason: &str| Error::needs_ffmpeg(path, format!("a picture in {name}"), reason);
    if o.decoder == Decoder::Builtin {
        return Err(missing(Error::FORBIDDEN));
    }
    if !ffmpeg::found() {
        return Err(missing(Error::NOT_FOUND));
    }
    let mut command = ffmpeg::input(path, &[], o)?;
    // PNG keeps what there is: alpha, 16 bits, and the size.
    command.args(["-frames:v", "1", "-c:v", "png", "-f", "image2pipe", "-"]);
    let mut png = Vec::new();
    process::run(command, path, o, 1 << 16, &mut |piece| {
        png.extend(piece);
        Ok(process::More::Yes)
    })?
    .ok()?;
    Ok((png, name))
}

/// The decoder of a picture, its size checked, and how it is to be turned.
fn decoder(path: &Path, bytes: &[u8], o: &Options) -> Result<(Box<dyn ImageDecoder>, Orientation)> {
    let damaged = |e: image::ImageError| Error::damaged(path, format!("cannot be read as a picture: {e}"));
    let reader = ImageReader::new(Cursor::new(bytes.to_vec()))
        .with_guessed_format()
        .map_err(Error::io(path))?;
    let mut decoder = reader.into_decoder().map_err(damaged)?;
    let (w, h) = decoder.dimensions();
    let most = MAX_PIXELS.min(o.limits.pixels);
    if u64::from(w) * u64::from(h) > most {
        let [megapixels, most] = [u64::from(w) * u64::from(h), most].map(|n| n as f64 / 1e6);
        let problem = format!(
            "is {w} x {h}, {megapixels:.1} megapixels; at most {most:.1} are read, make it smaller first"
        );
        return Err(Error::unusable(path, problem, None));
    }
    // What cannot be read of it does not spoil the picture.
    let turn = match decoder.orientation() {
        Ok(turn) if o.exif => turn,
        _ => Orientation::NoTransforms,
    };
    Ok((Box::new(decoder), turn))
}

/// What a picture is, as it is turned.
pub(crate) fn probe(path: &Path, o: &Options) -> Result<MediaInfo> {
    guarded(path, "picture decoder", || {
        let (bytes, name) = open(path, o)?;
        let (decoder, turn) = decoder(path, &bytes, o)?;
        let (w, h) = decoder.dimensions();
        let aside = matches!(
            turn,
            Orientation::Rotate90
                | Orientation::Rotate270
                | Orientation::Rotate90FlipH
                | Orientation::Rotate270FlipH
        );
        let (w, h) = if aside { (h, w) } else { (w, h) };
        let video = VideoInfo {
            codec: name.into(),
            width: w as usize,
            height: h as usize,
            fps: 0.0,
            frames: 1,
            duration: 0.0,
        };
        let mut notes = Vec::new();
        if turn != Orientation::NoTransforms {
            let text = format!("turned upright by its EXIF orientation ({})", turn.to_exif());
            notes.push(Note::new(NoteKind::Turned, path, text));
        }
        Ok(MediaInfo {
            path: path.into(),
            kind: Kind::Image,
            container: name.into(),
            video: Some(video),
            audio: None,
            decoder: Decoder::Builtin,
            notes,
            streams: Streams::default(),
        })
    })
}

/// One picture, upright unless [`Options::exif`] is off: alpha on white, the first frame of an animation.
pub(crate) fn read(path: &Path, o: &Options) -> Result<Frames> {
    guarded(path, "picture decoder", || {
        let (bytes, _) = open(path, o)?;
        if image::guess_format(&bytes).is_ok_and(|f| f == ImageFormat::Jpeg) && !jpeg_ends(&bytes) {
            return Err(Error::damaged(path, "ends inside the picture: it is truncated"));
        }
        let (decoder, turn) = decoder(path, &bytes, o)?;
        let mut picture = DynamicImage::from_decoder(decoder)
            .map_err(|e| Error::damaged(path, format!("cannot be decoded: {e}")))?;
        picture.apply_orientation(turn);
        Ok(rgb(picture))
    })
}

/// Bytes as Pillow's: of 16 bits the higher ones.
fn rgb(picture: DynamicImage) -> Frames {
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let high = |x: &u16| (x >> 8) as u8;
    let grey = |x: u8| [x; 3];
    let data = match picture {
        DynamicImage::ImageRgb8(p) => p.into_raw(),
        DynamicImage::ImageRgb16(p) => p.into_raw().iter().map(high).collect(),
        DynamicImage::ImageLuma16(p) => p.into_raw().iter().map(high).flat_map(grey).collect(),
        DynamicImage::ImageLumaA16(p) => {
            let eight: Vec<u8> = p.into_raw().iter().map(high).collect();
            let pairs = eight.as_chunks().0.iter();
            pairs.flat_map(|&[l, a]| on_white([l, l, l, a])).collect()
        }
        DynamicImage::ImageRgba16(p) => {
            let eight: Vec<u8> = p.into_raw().iter().map(high).collect();
            eight.as_chunks().0.iter().flat_map(|p| on_white(*p)).collect()
        }
        p if p.color().has_alpha() => p
            .into_rgba8()
            .into_raw()
            .as_chunks()
            .0
            .iter()
            .flat_map(|p| on_white(*p))
            .collect(),
        p => p.into_rgb8().into_raw(),
    };
    Frames {
        count: 1,
        height,
        width,
        data,
    }
}

fn on_white(p: [u8; 4]) -> [u8; 3] {
    let alpha = u32::from(p[3]);
    [0, 1, 2].map(|c| ((u32::from(p[c]) * alpha + 255 * (255 - alpha) + 127) / 255) as u8)
}

/// Whether a JPEG reaches its end mark. The decoder fills what is missing with grey, and says nothing.
fn jpeg_ends(bytes: &[u8]) -> bool {
    let mut at = 2;
    loop {
        // In a scan every 0xFF of the picture is followed by 0 or by a restart mark; outside, segments have lengths.
        let Some(mark) = bytes
            .get(at..)
            .and_then(|rest| rest.windows(2).position(|w| w[0] == 0xFF && w[1] != 0xFF))
        else {
            return false;
        };
        at += mark + 2;
        match bytes[at - 1] {
            0xD9 => return true,
            0 | 1 | 0xD0..=0xD8 => {}
            _ => {
                let Some([a, b]) = bytes.get(at..at + 2) else {
                    return false;
                };
                at += usize::from(u16::from_be_bytes([*a, *b])).max(2);
            }
        }
    }
}
