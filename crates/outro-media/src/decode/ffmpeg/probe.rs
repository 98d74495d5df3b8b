//! What a file is: from ffprobe's JSON, or from what ffmpeg itself prints where there is no ffprobe; counts and times from the
//! packets.

use std::path::Path;

use serde_json::Value;

use super::packets::{self, Packets};
use super::{input, names_others, prober, url};
use crate::decode::process::{More, run};
use crate::decode::sandbox;
use crate::error::{Error, Result};
use crate::info::{AudioInfo, Decoder, Kind, MediaInfo, Options, Streams, VideoInfo};
use crate::note::{Note, NoteKind};

/// A file by its header.
#[derive(Debug, Default, PartialEq)]
struct Header {
    container: String,
    duration: Option<f64>,
    streams: Vec<Stream>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Stream {
    /// Its number in the file.
    index: usize,
    video: bool,
    /// `None` where nobody knows it.
    codec: Option<String>,
    /// Marked as the one to take.
    default: bool,
    /// A cover picture is no video.
    cover: bool,
    /// As stored.
    width: usize,
    height: usize,
    /// Whether it is shown turned by 90 degrees.
    turned: bool,
    fps: Option<f64>,
    channels: usize,
    rate: u32,
    duration: Option<f64>,
}

pub(crate) fn probe(path: &Path, o: &Options) -> Result<MediaInfo> {
    let (header, exact) = match prober() {
        Some(program) => (by_ffprobe(&program, path, o)?, true),
        None => (by_ffmpeg(path, o)?, false),
    };
    names_others(path, &header.container)?;
    // Best first: known codecs, then the default one, then the larger or the one of more channels, then the first.
    let order = |video: bool| {
        let mut all: Vec<&Stream> = header
            .streams
            .iter()
            .filter(|s| s.video == video && !s.cover)
            .collect();
        all.sort_by_key(|s| {
            let size = if video { s.width * s.height } else { s.channels };
            std::cmp::Reverse((s.codec.is_some(), s.default, size))
        });
        all
    };
    let (picture, tracks) = (order(true).first().copied(), order(false));
    let sound = tracks.first().copied();
    let wanted: Vec<usize> = picture.iter().chain(&sound).map(|s| s.index).collect();
    if wanted.is_empty() {
        return Err(Error::damaged(path, "holds neither video nor sound"));
    }
    let mut listed = packets::list(path, &wanted, o)?.into_iter();
    let (of_picture, of_sound) = (
        picture.and_then(|_| listed.next()),
        sound.and_then(|_| listed.next()),
    );
    let lasts = |stream: &Stream, packets: &Option<Packets>| {
        let span = packets
            .as_ref()
            .and_then(|p| p.span().map(|(a, b)| p.seconds(b.saturating_sub(a))));
        let known = |d: &f64| d.is_finite() && *d > 0.0;
        stream
            .duration
            .filter(known)
            .or(span.filter(known))
            .or(header.duration)
    };
    let mut notes = notes(path, &tracks);
    let starts = |p: &Option<Packets>| p.as_ref().and_then(|p| Some(p.seconds(p.span()?.0)));
    if let (Some(a), Some(b)) = (starts(&of_picture), starts(&of_sound)) {
        notes.extend(Note::late(path, b - a));
    }
    let video = match (picture, &of_picture) {
        (Some(stream), Some(packets)) => {
            let fps = rate(stream, packets, exact || !header.container.contains("mov"));
            Some(video(path, stream, packets, fps, lasts(stream, &of_picture))?)
        }
        _ => None,
    };
    // Of sound the packets know more than a header: MPEG-TS has none, and holes are not heard.
    let even = sound
        .and_then(|s| s.codec.as_deref())
        .is_some_and(|c| EVEN.contains(&c));
    let audible = of_sound
        .as_ref()
        .and_then(|p| Some(p.seconds(p.audible(even)?)))
        .filter(|h| *h > 0.0);
    let audio = sound.map(|stream| AudioInfo {
        codec: stream.codec.clone().unwrap_or_else(|| "unknown".into()),
        channels: stream.channels,
        sample_rate: stream.rate,
        duration: audible.or(lasts(stream, &of_sound)).unwrap_or(0.0),
    });
    Ok(MediaInfo {
        path: path.into(),
        kind: if video.is_some() { Kind::Video } else { Kind::Audio },
        container: header.container.clone(),
        video,
        audio,
        decoder: Decoder::Ffmpeg,
        notes,
        streams: Streams {
            video: picture.map_or(0, |s| s.index),
            audio: tracks.iter().map(|s| s.index).collect(),
        },
    })
}

/// Sound codecs whose packets all hold as many samples.
const EVEN: [&str; 5] = ["aac", "ac3", "eac3", "mp2", "mp3"];

fn video(path: &Path, s: &Stream, packets: &Packets, fps: f64, lasts: Option<f64>) -> Result<VideoInfo> {
    if s.width == 0 || s.height == 0 {
        return Err(Error::damaged(path, "its video stream has no size"));
    }
    let frames = packets.presented.len();
    Ok(VideoInfo {
        codec: s.codec.clone().unwrap_or_else(|| "unknown".into()),
        width: if s.turned { s.height } else { s.width },
        height: if s.turned { s.width } else { s.height },
        fps,
        frames,
        duration: lasts.unwrap_or(frames as f64 / fps.max(1e-6)),
    })
}

/// Frames a second. What ffmpeg prints has two decimals: `29.97` is 30000/1001, and in mp4 and mov, where every packet's
/// duration is exact, it is the average.
fn rate(stream: &Stream, packets: &Packets, stated: bool) -> f64 {
    let average = Some(packets.rate()).filter(|r| r.is_finite() && *r > 0.0);
    match (stream.fps, average) {
        (Some(printed), Some(average)) if !stated && (average - printed).abs() < 0.0051 => average,
        (Some(fps), _) => fps,
        (None, average) => average.unwrap_or(0.0),
    }
}

/// Which of several sound tracks is taken, and which cannot be.
fn notes(path: &Path, tracks: &[&Stream]) -> Vec<Note> {
    let mut notes = Vec::new();
    let Some((taken, others)) = tracks.split_first() else {
        return notes;
    };
    for s in others
        .iter()
        .filter(|s| s.codec.is_none() && taken.codec.is_some())
    {
        let text = format!(
            "the sound in its stream {} is of an unknown kind and passed over",
            s.index
        );
        notes.push(Note::new(NoteKind::TrackLeftOut, path, text));
    }
    if !others.is_empty() {
        let why = if taken.default {
            " (marked as the default one)"
        } else {
            ""
        };
        let text = format!(
            "of its {} sound tracks the one in stream {}{why} is used",
            tracks.len(),
            taken.index
        );
        notes.push(Note::new(NoteKind::TrackTaken, path, text));
    }
    notes
}

fn by_ffprobe(program: &Path, path: &Path, o: &Options) -> Result<Header> {
    let mut command = sandbox::program(program, path, o)?;
    command
        .args(["-v", "error", "-protocol_whitelist", super::PROTOCOLS])
        .args(["-show_streams", "-show_format", "-of", "json", "-i"])
        .arg(url(path));
    let mut out = Vec::new();
    run(command, path, o, 1 << 16, &mut |piece| {
        out.extend(piece);
        Ok(More::Yes)
    })?
    .ok()?;
    let info: Value = serde_json::from_slice(&out)
        .map_err(|e| Error::decoder(path, format!("ffprobe gave no JSON: {e}")))?;
    let streams = info["streams"].as_array().map_or(&[][..], Vec::as_slice);
    Ok(Header {
        container: info["format"]["format_name"]
            .as_str()
            .unwrap_or("unknown")
            .to_string(),
        duration: number(&info["format"]["duration"]),
        streams: streams.iter().filter_map(of_json).collect(),
    })
}

fn of_json(s: &Value) -> Option<Stream> {
    let video = match s["codec_type"].as_str()? {
        "video" => true,
        "audio" => false,
        _ => return None,
    };
    let size = |key: &str| s[key].as_u64().unwrap_or(0) as usize;
    let turn = s["side_data_list"]
        .as_array()
        .and_then(|l| l.iter().find_map(|d| d["rotation"].as_f64()));
    Some(Stream {
        index: s["index"].as_u64()? as usize,
        video,
        codec: s["codec_name"].as_str().and_then(known),
        default: s["disposition"]["default"] == 1,
        cover: s["disposition"]["attached_pic"] == 1,
        width: size("width"),
        height: size("height"),
        turned: is_turned(turn.unwrap_or(0.0)),
        fps: ratio(&s["avg_frame_rate"]).or_else(|| ratio(&s["r_frame_rate"])),
        channels: size("channels"),
        rate: number(&s["sample_rate"]).unwrap_or(0.0) as u32,
        duration: number(&s["duration"]),
    })
}

fn known(codec: &str) -> Option<String> {
    (!["none", "unknown", ""].contains(&codec)).then(|| codec.to_string())
}

fn is_turned(degrees: f64) -> bool {
    degrees.rem_euclid(180.0).round() == 90.0
}

fn number(v: &Value) -> Option<f64> {
    v.as_f64()
        .or_else(|| v.as_str()?.parse().ok())
        .filter(|x| x.is_finite() && *x >= 0.0)
}

/// `30000/1001`.
fn ratio(v: &Value) -> Option<f64> {
    let (a, b) = v.as_str()?.split_once('/')?;
    let x = a.parse::<f64>().ok()? / b.parse::<f64>().ok()?;
    (x.is_finite() && x > 0.0).then_some(x)
}

/// ffmpeg asked for no output prints what it was given, and fails.
fn by_ffmpeg(path: &Path, o: &Options) -> Result<Header> {
    let command = input(path, &["-hide_banner", "-v", "info"], o)?;
    let ended = run(command, path, o, 1 << 16, &mut |_| Ok(More::Yes))?;
    if !ended.lines.iter().any(|l| l.starts_with("Input #0, ")) {
        ended.ok()?;
        return Err(Error::decoder(path, "ffmpeg does not say what this file is"));
    }
    Ok(of_text(&ended.lines))
}

fn of_text(lines: &[String]) -> Header {
    let mut header = Header::default();
    for line in lines {
        if let Some((name, _)) = line
            .strip_prefix("Input #0, ")
            .and_then(|l| l.split_once(", from "))
        {
            header.container = name.to_string();
        }
        let line = line.trim();
        if let Some(duration) = line.strip_prefix("Duration: ") {
            header.duration = duration.split(',').next().and_then(clock);
        }
        if let Some(stream) = line.strip_prefix("Stream #0:").and_then(of_line) {
            header.streams.push(stream);
        } else if let (Some(turn), Some(stream)) = (
            line.strip_prefix("displaymatrix: rotation of "),
            header.streams.last_mut(),
        ) {
            let degrees = turn.split(' ').next().and_then(|d| d.parse().ok());
            stream.turned = degrees.is_some_and(is_turned);
        }
    }
    header
}

/// `1[0x2](eng): Audio: aac (LC) (mp4a / 0x6134706D), 44100 Hz, 5.1(side), fltp, 70 kb/s (default)`.
fn of_line(line: &str) -> Option<Stream> {
    let index = line.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()?;
    let (video, what) = match (line.split_once(": Video: "), line.split_once(": Audio: ")) {
        (Some((_, what)), _) => (true, what),
        (_, Some((_, what))) => (false, what),
        _ => return None,
    };
    let mut stream = Stream {
        index,
        video,
        codec: what.split([' ', ',']).next().and_then(known),
        default: what.contains("(default)"),
        cover: what.contains("(attached pic)"),
        ..Stream::default()
    };
    let mut parts = split(what).into_iter();
    while let Some(part) = parts.next() {
        let first = part.split(' ').next().unwrap_or_default();
        let size = first
            .split_once('x')
            .and_then(|(w, h)| Some((w.parse().ok()?, h.parse().ok()?)));
        if let (true, Some((w, h))) = (video, size) {
            (stream.width, stream.height) = (w, h);
        } else if let Some(fps) = part.strip_suffix(" fps") {
            stream.fps = printed(fps);
        } else if let Some(rate) = part.strip_suffix(" Hz") {
            stream.rate = rate.parse().unwrap_or(0);
            stream.channels = parts.next().map_or(0, channels);
        }
    }
    Some(stream)
}

/// At commas that stand in no brackets.
fn split(text: &str) -> Vec<&str> {
    let (mut depth, mut parts, mut from) = (0_i32, Vec::new(), 0);
    for (i, c) in text.char_indices() {
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(text[from..i].trim());
                from = i + 1;
            }
            _ => {}
        }
    }
    parts.push(text[from..].trim());
    parts
}

/// A rate as ffmpeg prints it: `29.97`, `25`, `1k`; rates of television are fractions of 1001.
fn printed(fps: &str) -> Option<f64> {
    let x: f64 = match fps.strip_suffix('k') {
        Some(thousands) => thousands.parse::<f64>().ok()? * 1000.0,
        None => fps.parse().ok()?,
    };
    let television = x.ceil() * 1000.0 / 1001.0;
    let is = x.fract() != 0.0 && (television - x).abs() < 0.0051;
    Some(if is { television } else { x }).filter(|x| *x > 0.0)
}

/// Channels of a layout as ffmpeg prints it.
fn channels(layout: &str) -> usize {
    let name = layout.split(['(', ' ']).next().unwrap_or_default();
    let parts: Option<usize> = name.split('.').map(|n| n.parse::<usize>().ok()).sum();
    match name {
        "mono" => 1,
        "stereo" | "downmix" | "binaural" => 2,
        "quad" => 4,
        "hexagonal" => 6,
        "octagonal" | "cube" => 8,
        "hexadecagonal" => 16,
        _ => parts.unwrap_or(0),
    }
}

/// `00:01:02.50`.
fn clock(text: &str) -> Option<f64> {
    let mut seconds = 0.0;
    for part in text.trim().split(':') {
        seconds = seconds * 60.0 + part.parse::<f64>().ok()?;
    }
    Some(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ffmpeg_prints() {
        let text = "\
Input #0, mov,mp4,m4a,3gp,3g2,mj2, from 'file:a, from b.mp4':
  Metadata:
    title           : Stream #0:9: Video: no
  Duration: 00:01:02.50, start: 0.000000, bitrate: 100 kb/s
  Stream #0:0[0x1](und): Video: h264 (High) (avc1 / 0x31637661), yuv420p(tv, bt709, progressive), 320x240 [SAR 1:1 DAR 4:3], 63 kb/s, 29.97 fps, 29.97 tbr, 30k tbn (default)
    Side data:
      displaymatrix: rotation of -90.00 degrees
  Stream #0:1(eng): Audio: aac (LC) (mp4a / 0x6134706D), 44100 Hz, 5.1(side), fltp, 70 kb/s
  Stream #0:2: Audio: none (mp4a / 0x6134706D), 8000 Hz, 3 channels (default)
  Stream #0:3: Video: mjpeg (Baseline), yuvj444p(pc), 600x600, 90k tbr, 90k tbn (attached pic)
At least one output file must be specified";
        let lines: Vec<String> = text.lines().map(str::to_string).collect();
        let header = of_text(&lines);
        assert_eq!(header.container, "mov,mp4,m4a,3gp,3g2,mj2");
        assert_eq!(header.duration, Some(62.5));
        let [video, first, second, cover] = &header.streams[..] else {
            panic!("{header:?}")
        };
        assert_eq!(
            (video.width, video.height, video.turned, video.default),
            (320, 240, true, true)
        );
        assert_eq!(video.fps, Some(30_000.0 / 1001.0));
        assert_eq!((first.channels, first.rate, first.default), (6, 44_100, false));
        assert_eq!((&second.codec, second.channels), (&None, 3));
        assert!(cover.cover && cover.index == 3);
    }
}
