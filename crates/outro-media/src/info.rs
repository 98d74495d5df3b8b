//! What is known of a media file, and how one is opened.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};

use crate::error::{Error, Result};
use crate::note::Note;

/// Who decodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decoder {
    /// ffmpeg where it is found, otherwise the built-in decoders.
    #[default]
    Auto,
    /// The built-in decoders.
    Builtin,
    /// The ffmpeg program.
    Ffmpeg,
}

impl FromStr for Decoder {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        match s {
            "auto" => Ok(Self::Auto),
            "builtin" => Ok(Self::Builtin),
            "ffmpeg" => Ok(Self::Ffmpeg),
            _ => Err(Error::range(
                "decoder",
                format!("is `{s}`; possible: auto, builtin, ffmpeg"),
            )),
        }
    }
}

impl std::fmt::Display for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Builtin => "builtin",
            Self::Ffmpeg => "ffmpeg",
        })
    }
}

/// How files are opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Who decodes.
    pub decoder: Decoder,
    /// How long a decoder may go without producing anything.
    pub deadline: Duration,
    /// A program that hands its arguments to [`crate::worker::run`] when the first is [`crate::worker::ARG`]: built-in decoders
    /// then run in a child process, so that a crash or a hang is an error.
    pub worker: Option<PathBuf>,
    /// Whether pictures are turned as their EXIF orientation says.
    pub exif: bool,
    /// What a file may cost, and whether its decoders are confined.
    pub limits: Limits,
    /// Ends decoding when it is set.
    pub cancel: Cancel,
}

/// What a file may cost. The defaults let everything pass that can be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Every decoder runs in a child process that has given up all but its file ([`crate::isolation`]), for files of strangers.
    /// [`Options::worker`] must name a program.
    pub isolate: bool,
    /// Most bytes of address space of such a child.
    pub memory: u64,
    /// Longest time that decoders may work on one reading of a file. Time in which nobody takes what they give is not counted.
    pub decode: Duration,
    /// Most pixels of a picture or a frame.
    pub pixels: u64,
    /// Longest video or sound.
    pub length: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            isolate: false,
            memory: 8 << 30,
            decode: Duration::MAX,
            pixels: u64::MAX,
            length: Duration::MAX,
        }
    }
}

impl Limits {
    /// # Errors
    /// A file that is larger or longer than may be.
    pub(crate) fn allow(&self, info: &MediaInfo) -> Result<()> {
        let pixels = info
            .video
            .as_ref()
            .map_or(0, |v| v.width as u64 * v.height as u64);
        if pixels > self.pixels {
            let problem = format!("has {pixels} pixels a picture; at most {} are read", self.pixels);
            return Err(Error::unusable(&info.path, problem, None));
        }
        let (video, audio) = (&info.video, &info.audio);
        let (video, audio) = (
            video.as_ref().map(|v| v.duration),
            audio.as_ref().map(|a| a.duration),
        );
        self.lasting(&info.path, video.unwrap_or(0.0).max(audio.unwrap_or(0.0)))
    }

    /// # Errors
    /// A video or sound that lasts longer than may be.
    pub(crate) fn lasting(&self, path: &Path, seconds: f64) -> Result<()> {
        let most = self.length.as_secs_f64();
        if seconds > most {
            let problem = format!("lasts {seconds:.1} s or more; at most {most} s are read");
            return Err(Error::unusable(path, problem, None));
        }
        Ok(())
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            decoder: Decoder::Auto,
            deadline: Duration::from_mins(2),
            worker: None,
            exif: true,
            limits: Limits::default(),
            cancel: Cancel::default(),
        }
    }
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Moving pictures, with or without sound.
    Video,
    /// One picture.
    Image,
    /// Sound alone.
    Audio,
}

/// What is known of a file without decoding it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MediaInfo {
    /// The file.
    #[serde(serialize_with = "lossy")]
    pub path: PathBuf,
    /// What it is.
    pub kind: Kind,
    /// The container's name.
    pub container: String,
    /// Its first video stream, or the image.
    pub video: Option<VideoInfo>,
    /// Its first audio stream.
    pub audio: Option<AudioInfo>,
    /// Who will decode it.
    pub decoder: Decoder,
    /// What the user should know about it.
    #[serde(default)]
    pub notes: Vec<Note>,
    #[serde(skip)]
    pub(crate) streams: Streams,
}

/// Which streams of a file ffmpeg decodes, by their numbers in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Streams {
    pub(crate) video: usize,
    /// Sound tracks, the best first.
    pub(crate) audio: Vec<usize>,
}

/// JSON has no place for names that are not UTF-8.
fn lossy<S: Serializer>(path: &Path, s: S) -> std::result::Result<S::Ok, S::Error> {
    s.serialize_str(&path.to_string_lossy())
}

/// A video stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VideoInfo {
    /// Codec name, such as `h264`.
    pub codec: String,
    /// Columns of pixels as displayed.
    pub width: usize,
    /// Rows of pixels as displayed.
    pub height: usize,
    /// Average frames a second.
    pub fps: f64,
    /// Number of frames.
    pub frames: usize,
    /// Seconds.
    pub duration: f64,
}

/// An audio stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AudioInfo {
    /// Codec name, such as `aac`.
    pub codec: String,
    /// Channels.
    pub channels: usize,
    /// Samples a second.
    pub sample_rate: u32,
    /// Seconds.
    pub duration: f64,
}

/// What a decoder knows when it is through.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Decoded {
    /// How many frames there are, where it has seen all of them.
    pub(crate) total: Option<usize>,
    /// What the user should know.
    pub(crate) notes: Vec<Note>,
}

/// A request to stop that can be made from anywhere: clones are one. Long work asks for it between its steps and ends with
/// an error.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Asks everything that has a clone to stop.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether somebody asked.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// It is no part of what options say.
impl PartialEq for Cancel {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Cancel {}
