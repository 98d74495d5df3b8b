//! The decoders that need nothing installed: openh264 for video; sound and pictures have modules of their own.

use std::fs::File;
use std::iter::Peekable;
use std::path::Path;

use openh264::OpenH264API;
use openh264::decoder::{DecodeOptions, Decoder as Openh264, DecoderConfig, Flush};
use openh264::formats::YUVSource;

use crate::decode::audio;
use crate::decode::colour::{oriented, to_rgb};
use crate::decode::mp4::Movie;
use crate::decode::sniff::{Sniffed, sniff};
use crate::error::{Error, Result};
use crate::info::{Decoded, Decoder, Kind, MediaInfo};
use crate::picture::frames::Frames;

/// Most pictures that a decoder holds back to bring them in order (H.264, A.3.1), and one that is being decoded.
const MAX_HELD: usize = 17;

/// Streams of a file that is no picture.
pub(crate) fn probe(path: &Path) -> Result<MediaInfo> {
    if sniff(path)? != Sniffed::Mp4 {
        return audio::probe(path);
    }
    let movie = Movie::open(path)?;
    let mut info = movie.info()?;
    let (audio, notes) = audio::of_movie(path, &movie);
    info.audio = audio;
    info.notes.extend(notes);
    if info.video.is_none() && info.audio.is_none() {
        return Err(Error::damaged(path, "holds neither video nor sound"));
    }
    Ok(MediaInfo {
        kind: if info.video.is_some() {
            Kind::Video
        } else {
            Kind::Audio
        },
        decoder: Decoder::Builtin,
        ..info
    })
}

/// Decodes frames by presentation number. The decoder brings pictures in order, so the n-th that leaves it is number n;
/// those before what the edit list shows are passed over.
pub(crate) fn frames(
    path: &Path,
    indices: &[usize],
    sink: &mut dyn FnMut(Frames) -> Result<()>,
) -> Result<Decoded> {
    if sniff(path)? == Sniffed::Matroska {
        let reason = "the built-in decoder reads its sound only";
        return Err(Error::needs_ffmpeg(path, "video in Matroska or WebM", reason));
    }
    let mut stream = Movie::open(path)?.h264()?;
    let bad = |e: openh264::Error| Error::damaged(path, format!("its H.264 video cannot be decoded: {e}"));
    let mut decoder =
        Openh264::with_api_config(OpenH264API::from_source(), DecoderConfig::new()).map_err(bad)?;
    let options = DecodeOptions::new().flush_after_decode(Flush::NoFlush);
    let (first, all, mut number) = (stream.first, stream.samples.len(), 0);
    let mut wanted = indices.iter().map(|i| i + first).peekable();
    let (format, orientation) = (stream.format.clone(), stream.orientation);
    let mut take = |yuv: &dyn YUVSource, number: usize, wanted: &mut Peekable<_>| -> Result<()> {
        if yuv.dimensions() != (format.width, format.height) {
            return Err(Error::damaged(
                path,
                "its H.264 video decodes to another size than it says",
            ));
        }
        if wanted.next_if_eq(&number).is_some() {
            sink(oriented(to_rgb(yuv, &format), orientation))?;
        }
        Ok(())
    };
    // A picture that does not come would give all later ones the wrong number.
    let lost = |n: usize, of: usize| {
        let problem =
            format!("{n} of {of} pictures of its H.264 video were decoded; ffmpeg may read more of it");
        Error::damaged(path, problem)
    };
    for i in 0..all {
        let packet = stream.packet(i)?;
        if let Some(yuv) = decoder
            .decode_with_options(&packet, options.clone())
            .map_err(bad)?
        {
            take(&yuv, number, &mut wanted)?;
            number += 1;
        }
        if i + 1 > number + MAX_HELD {
            return Err(lost(number, i + 1));
        }
        if wanted.peek().is_none() {
            return Ok(Decoded::default());
        }
    }
    for yuv in decoder.flush_remaining().map_err(bad)? {
        take(&yuv, number, &mut wanted)?;
        number += 1;
    }
    if number != all {
        return Err(lost(number, all));
    }
    Ok(Decoded::default())
}

/// Opens a file only to see that it can be read; keeps the error's path.
pub(crate) fn readable(path: &Path) -> Result<()> {
    File::open(path).map(drop).map_err(Error::io(path))
}
