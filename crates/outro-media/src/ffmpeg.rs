//! The ffmpeg and ffprobe programs: every format there is, over pipes.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

use crate::audio::mono;
use crate::error::{Error, Result};
use crate::frames::Frames;
use crate::process::run;
use crate::source::{AudioInfo, Decoder, Kind, MediaInfo, Options, VideoInfo};

/// `OUTRO_FFMPEG`, or `ffmpeg` on the PATH.
pub(crate) fn program() -> PathBuf {
    std::env::var_os("OUTRO_FFMPEG").map_or_else(|| PathBuf::from("ffmpeg"), PathBuf::from)
}

/// ffprobe lies beside ffmpeg.
fn prober() -> PathBuf {
    let ffmpeg = program();
    let name = ffmpeg
        .file_name()
        .map(OsStr::to_string_lossy)
        .unwrap_or_default()
        .replace("ffmpeg", "ffprobe");
    ffmpeg.with_file_name(name)
}

/// The first line of `ffmpeg -version`, if ffmpeg can be run.
pub fn version() -> Option<String> {
    let out = Command::new(program())
        .arg("-version")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    out.status
        .success()
        .then(|| text.lines().next().unwrap_or_default().to_string())
}

/// Whether ffmpeg is there: looked up in the file system, without running it.
pub(crate) fn found() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let program = program();
        if program.components().count() > 1 {
            return program.is_file();
        }
        std::env::var_os("PATH")
            .is_some_and(|paths| std::env::split_paths(&paths).any(|dir| dir.join(&program).is_file()))
    })
}

pub(crate) fn probe(path: &Path, o: &Options) -> Result<MediaInfo> {
    let info = show(path, o, &[])?;
    let stream = |kind: &str| {
        let streams = info["streams"].as_array()?;
        // A cover picture is no video.
        streams
            .iter()
            .find(|s| s["codec_type"] == kind && s["disposition"]["attached_pic"] != 1)
            .cloned()
    };
    let total = number(&info["format"]["duration"]).unwrap_or(0.0);
    let video = stream("video").map(|s| video(path, o, &s, total)).transpose()?;
    let audio = stream("audio").map(|s| AudioInfo {
        codec: text(&s["codec_name"]),
        channels: s["channels"].as_u64().unwrap_or(0) as usize,
        sample_rate: number(&s["sample_rate"]).unwrap_or(0.0) as u32,
        duration: number(&s["duration"]).unwrap_or(total),
    });
    if video.is_none() && audio.is_none() {
        return Err(Error::damaged(path, "holds neither video nor sound"));
    }
    Ok(MediaInfo {
        path: path.into(),
        kind: if video.is_some() { Kind::Video } else { Kind::Audio },
        container: text(&info["format"]["format_name"]),
        video,
        audio,
        decoder: Decoder::Ffmpeg,
    })
}

fn video(path: &Path, o: &Options, s: &Value, total: f64) -> Result<VideoInfo> {
    let (width, height) = (
        s["width"].as_u64().unwrap_or(0) as usize,
        s["height"].as_u64().unwrap_or(0) as usize,
    );
    if width == 0 || height == 0 {
        return Err(Error::damaged(path, "its video stream has no size"));
    }
    let side = s["side_data_list"]
        .as_array()
        .and_then(|l| l.iter().find_map(|d| d["rotation"].as_f64()));
    let turned = side.unwrap_or(0.0).rem_euclid(180.0).round() == 90.0;
    let mut frames = number(&s["nb_frames"]).unwrap_or(0.0) as usize;
    if frames == 0 {
        let counted = show(path, o, &["-count_packets", "-select_streams", "v:0"])?;
        frames = number(&counted["streams"][0]["nb_read_packets"]).unwrap_or(0.0) as usize;
    }
    let fps = ratio(&s["avg_frame_rate"])
        .or_else(|| ratio(&s["r_frame_rate"]))
        .unwrap_or(0.0);
    let duration = number(&s["duration"]).unwrap_or(if total > 0.0 {
        total
    } else {
        frames as f64 / fps.max(1e-6)
    });
    Ok(VideoInfo {
        codec: text(&s["codec_name"]),
        width: if turned { height } else { width },
        height: if turned { width } else { height },
        fps,
        frames,
        duration,
    })
}

fn show(path: &Path, o: &Options, more: &[&str]) -> Result<Value> {
    let mut command = Command::new(prober());
    command
        .args(["-v", "error", "-show_streams", "-show_format", "-of", "json"])
        .args(more)
        .arg("-i")
        .arg(path);
    let mut out = Vec::new();
    run(command, path, o.deadline, 1 << 16, &mut |piece| {
        out.extend(piece);
        Ok(())
    })?;
    serde_json::from_slice(&out).map_err(|e| Error::decoder(path, format!("ffprobe gave no JSON: {e}")))
}

fn text(v: &Value) -> String {
    v.as_str().unwrap_or("unknown").to_string()
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

fn decode(path: &Path) -> Command {
    let mut command = Command::new(program());
    command.args(["-v", "error", "-nostdin", "-i"]).arg(path);
    command
}

/// Frames by number. The default conversion to rgb24 is the one whose bytes equal the reference reader's.
pub(crate) fn frames(
    file: &MediaInfo,
    indices: &[usize],
    o: &Options,
    sink: &mut dyn FnMut(Frames) -> Result<()>,
) -> Result<()> {
    let path = &file.path;
    let info = file.video.as_ref().ok_or_else(|| Error::NoStream {
        path: path.clone(),
        what: "video stream",
    })?;
    let picks: Vec<String> = indices.iter().map(|i| format!("eq(n,{i})")).collect();
    let mut command = decode(path);
    command.args([
        "-map",
        "0:v:0",
        "-vf",
        &format!("select='{}'", picks.join("+")),
        "-vsync",
        "0",
    ]);
    command.args([
        "-frames:v",
        &indices.len().to_string(),
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-",
    ]);
    let (height, width) = (info.height, info.width);
    let size = height * width * 3;
    run(command, path, o.deadline, size, &mut |data| {
        if data.len() != size {
            return Err(Error::damaged(path, "ends inside a frame"));
        }
        sink(Frames {
            count: 1,
            height,
            width,
            data,
        })
    })
}

/// Mono samples at the file's own rate. The program's own mixing weights and scales channels, so it is not used.
pub(crate) fn audio(file: &MediaInfo, o: &Options) -> Result<(Vec<f32>, u32)> {
    let path = &file.path;
    let info = file.audio.as_ref().ok_or_else(|| Error::NoStream {
        path: path.clone(),
        what: "audio stream",
    })?;
    if info.channels == 0 || info.sample_rate == 0 {
        return Err(Error::damaged(
            path,
            format!(
                "its sound has {} channels at {} Hz",
                info.channels, info.sample_rate
            ),
        ));
    }
    let mut command = decode(path);
    command.args([
        "-map",
        "0:a:0",
        "-vn",
        "-ac",
        &info.channels.to_string(),
        "-ar",
        &info.sample_rate.to_string(),
        "-f",
        "f32le",
        "-",
    ]);
    let frame = 4 * info.channels;
    let mut samples = Vec::new();
    run(command, path, o.deadline, frame << 14, &mut |piece| {
        let values: Vec<f32> = piece
            .as_chunks()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect();
        samples.extend(mono(&values, info.channels));
        Ok(())
    })?;
    Ok((samples, info.sample_rate))
}
