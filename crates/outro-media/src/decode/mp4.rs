//! mp4 and mov: tracks, the parts of them that are presented, and where their packets are.
//!
//! The tables are read by code of our own ([`parse`]): the demuxers that there are panic on damaged tables, know one sample
//! entry a track, or no fragments, and none applies edit lists.

mod entry;
mod parse;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

pub(crate) use entry::SoundEntry;
use entry::{VideoEntry, video_codec};
use parse::Edit;
pub(crate) use parse::{Sample, Track};

use crate::decode::format::{Orientation, VideoFormat};
use crate::decode::h264::{IDR, SPS, Sps, unit_type};
use crate::error::{Error, Result};
use crate::info::{Decoder, Kind, MediaInfo, Streams, VideoInfo};
use crate::note::{Note, NoteKind};

/// Largest packet that is believed: an intra frame of 8K video at the highest level stays below.
const MAX_SAMPLE: u32 = 64 << 20;

/// Boxes at the top of a file that are looked at; a long fragmented film has some tens of thousands.
const MAX_BOXES: usize = 1_000_000;

/// An opened mp4.
pub(crate) struct Movie {
    path: PathBuf,
    header: parse::Header,
    pub(crate) notes: Vec<Note>,
}

impl Movie {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let io = Error::io;
        let mut file = File::open(path).map_err(io(path))?;
        let length = file.metadata().map_err(io(path))?.len();
        let broken = |what: &str| {
            Error::damaged(
                path,
                format!("is no whole mp4 ({what}); it is truncated or damaged"),
            )
        };
        let (mut at, mut header): (u64, Option<parse::Header>) = (0, None);
        for _ in 0..MAX_BOXES {
            let mut head = [0; 16];
            let there = length.saturating_sub(at).min(16) as usize;
            file.seek(SeekFrom::Start(at)).map_err(io(path))?;
            file.read_exact(&mut head[..there]).map_err(io(path))?;
            if there < 8 {
                break;
            }
            let word = |i: usize| {
                u64::from(u32::from_be_bytes([
                    head[i],
                    head[i + 1],
                    head[i + 2],
                    head[i + 3],
                ]))
            };
            let (size, start) = match word(0) {
                0 => (length - at, 8),
                1 => (word(8) << 32 | word(12), 16),
                n => (n, 8),
            };
            let Some(end) = at.checked_add(size).filter(|_| size >= start) else {
                break;
            };
            let name = &head[4..8];
            if name == b"moov" && header.is_none() || name == b"moof" && header.is_some() {
                if end > length {
                    if name == b"moof" {
                        break;
                    }
                    return Err(broken("its header is cut off"));
                }
                let mut inside = vec![0; (size - start) as usize];
                file.seek(SeekFrom::Start(at + start)).map_err(io(path))?;
                file.read_exact(&mut inside).map_err(io(path))?;
                match &mut header {
                    None => {
                        let frame = |t: &Track| {
                            let sound = (t.handler == *b"soun").then(|| SoundEntry::of(t)).flatten();
                            sound.and_then(|e| e.frame_bytes())
                        };
                        let read = parse::movie(&inside, length, &frame);
                        header = Some(read.ok_or_else(|| broken("its header cannot be read"))?);
                    }
                    Some(h) => parse::fragment(&inside, at, length, &mut h.tracks),
                }
            }
            at = end;
        }
        let mut header = header.ok_or_else(|| broken("it has no header `moov`"))?;
        let mut notes = Vec::new();
        for track in &mut header.tracks {
            let all = track.samples.len();
            let whole = |s: &Sample| s.offset.saturating_add(u64::from(s.size)) <= length;
            let there = track.samples.iter().position(|s| !whole(s)).unwrap_or(all);
            track.samples.truncate(there);
            if there < all {
                let what = match &track.handler {
                    b"vide" => "picture",
                    b"soun" => "sound",
                    _ => continue,
                };
                let text =
                    format!("the file ends after {there} of {all} packets of its {what}: it is truncated");
                notes.push(Note::new(NoteKind::Damaged, path, text));
            }
        }
        Ok(Self {
            path: path.into(),
            header,
            notes,
        })
    }

    /// Tracks of a kind, the one that ffmpeg takes first: shown by default, then by `size`, then as they stand.
    fn ranked(&self, handler: [u8; 4], size: impl Fn(&Track) -> usize) -> Vec<&Track> {
        let mut all: Vec<&Track> = self
            .header
            .tracks
            .iter()
            .filter(|t| t.handler == handler)
            .collect();
        all.sort_by_key(|t| std::cmp::Reverse((t.enabled, size(t))));
        all
    }

    fn video(&self) -> Option<&Track> {
        let area = |t: &Track| VideoEntry::of(t, 0).map_or(0, |e| e.width * e.height);
        let with = |t: &&Track| !t.samples.is_empty() && !t.entries.is_empty();
        self.ranked(*b"vide", area).into_iter().find(with)
    }

    /// Sound tracks with their first entries, the one that ffmpeg takes first.
    pub(crate) fn sounds(&self) -> Vec<(&Track, SoundEntry)> {
        let channels = |t: &Track| SoundEntry::of(t).map_or(0, |e| e.channels);
        let tracks = self.ranked(*b"soun", channels);
        tracks
            .into_iter()
            .filter(|t| !t.samples.is_empty())
            .filter_map(|t| Some((t, SoundEntry::of(t)?)))
            .collect()
    }

    /// Ticks at which what is presented of a track starts and ends, and seconds of nothing before it. The error is a name for
    /// what edit lists can say besides.
    pub(crate) fn presentation(&self, track: &Track) -> std::result::Result<Presentation, String> {
        let (pauses, parts): (Vec<&Edit>, Vec<&Edit>) = track.edits.iter().partition(|e| e.start < 0);
        let leading = track.edits.iter().take_while(|e| e.start < 0).count();
        let movie = self.header.timescale.max(1);
        let mut presentation = Presentation {
            start: i64::MIN,
            end: i64::MAX,
            pause: pauses.iter().map(|e| e.duration as f64).sum::<f64>() / f64::from(movie),
        };
        // In a fragmented file the list says where the clock starts, and no more.
        let Some(first) = parts.first().filter(|_| !self.header.fragmented) else {
            return Ok(presentation);
        };
        if parts.len() > 1 || leading < pauses.len() {
            return Err(format!("an edit list of {} parts", track.edits.len()));
        }
        if first.rate != 1 << 16 {
            return Err("an edit list that changes the speed".into());
        }
        presentation.start = first.start;
        if first.duration > 0 {
            let ticks = (u128::from(first.duration) * u128::from(track.timescale) + u128::from(movie / 2))
                / u128::from(movie);
            presentation.end = first
                .start
                .saturating_add(i64::try_from(ticks).unwrap_or(i64::MAX));
        }
        Ok(presentation)
    }

    /// All but the sound.
    pub(crate) fn info(&self) -> Result<MediaInfo> {
        let video = self.video().map(|t| self.video_info(t)).transpose()?;
        Ok(MediaInfo {
            path: self.path.clone(),
            kind: if video.is_some() { Kind::Video } else { Kind::Audio },
            container: "mp4".into(),
            video,
            audio: None,
            decoder: Decoder::Builtin,
            notes: self.notes.clone(),
            streams: Streams::default(),
        })
    }

    fn video_info(&self, track: &Track) -> Result<VideoInfo> {
        let codec = video_codec(track);
        // What cannot be decoded is told by its name when frames are asked for.
        let (width, height) = if let Ok(stream) = self.h264() {
            stream.orientation.size(stream.format.width, stream.format.height)
        } else {
            let orientation = Orientation::of(track.matrix).unwrap_or_default();
            VideoEntry::of(track, 0).map_or((0, 0), |e| orientation.size(e.width, e.height))
        };
        let presentation = self.presentation(track).unwrap_or_default();
        let frames = track.samples.iter().filter(|s| presentation.holds(s.pts)).count();
        if width == 0 || height == 0 || frames == 0 {
            return Err(Error::damaged(
                &self.path,
                format!("its video has {frames} frames of {width} x {height}"),
            ));
        }
        let scale = f64::from(track.timescale);
        let ticks: f64 = track.samples.iter().map(|s| f64::from(s.ticks)).sum();
        let fps = track.samples.len() as f64 * scale / ticks.max(1.0);
        let kept: f64 = track
            .samples
            .iter()
            .filter(|s| presentation.holds(s.pts))
            .map(|s| f64::from(s.ticks))
            .sum();
        Ok(VideoInfo {
            codec,
            width,
            height,
            fps,
            frames,
            duration: kept / scale,
        })
    }

    /// Seconds by which the sound of `track` starts later than the picture; 0 without a picture.
    pub(crate) fn lateness(&self, track: &Track) -> f64 {
        let begin = |t: &Track| {
            let presentation = self.presentation(t).unwrap_or_default();
            let first = t
                .samples
                .iter()
                .map(|s| s.pts)
                .filter(|p| presentation.holds(*p))
                .min();
            let from = if presentation.start == i64::MIN {
                0
            } else {
                presentation.start
            };
            let at = (first.unwrap_or(0).saturating_sub(from)).max(0);
            presentation.pause + at as f64 / f64::from(t.timescale)
        };
        self.video().map_or(0.0, |picture| begin(track) - begin(picture))
    }

    /// The H.264 stream.
    ///
    /// # Errors
    /// What the built-in decoder cannot show, by its name.
    pub(crate) fn h264(&self) -> Result<H264> {
        let path = &self.path;
        let track = self.video().ok_or_else(|| Error::NoStream {
            path: path.clone(),
            what: "video stream",
        })?;
        let beyond = |format: String| needs_ffmpeg(path, format);
        let codec = video_codec(track);
        if codec != "h264" {
            return Err(beyond(format!("{codec} video")));
        }
        let presentation = self
            .presentation(track)
            .map_err(|what| beyond(format!("video with {what}")))?;
        let orientation = Orientation::of(track.matrix)
            .ok_or_else(|| beyond("video turned by other than quarter turns".into()))?;
        let mut stream = H264 {
            path: path.clone(),
            file: File::open(path).map_err(Error::io(path))?,
            orientation,
            format: VideoFormat::default(),
            entries: Vec::new(),
            samples: track.samples.clone(),
            first: 0,
            fed: None,
        };
        let used = track.samples.iter().map(|s| s.entry as usize).max().unwrap_or(0);
        for i in 0..=used {
            let entry = VideoEntry::of(track, i).filter(|e| e.format == *b"avc1" || e.format == *b"avc3");
            let entry = entry.ok_or_else(|| beyond("video that changes its codec".into()))?;
            stream.entries.push(entry);
        }
        let units = stream.units(0)?;
        // Streams that begin inside a group show what has no reference.
        if !units.iter().any(|u| unit_type(u) == IDR) {
            return Err(beyond("H.264 video that does not begin with a key frame".into()));
        }
        let entry = stream.entries[0].clone();
        let set = entry
            .sets
            .iter()
            .chain(&units)
            .find(|u| unit_type(u) == SPS)
            .ok_or_else(|| Error::damaged(path, "its H.264 video has no parameter set"))?;
        stream.format = stream.format_of(set, &entry)?;
        stream.first = track
            .samples
            .iter()
            .filter(|s| s.pts < presentation.start)
            .count();
        Ok(stream)
    }
}

fn needs_ffmpeg(path: &Path, format: String) -> Error {
    Error::needs_ffmpeg(path, format, Error::UNKNOWN)
}

/// What an edit list presents of a track.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Presentation {
    /// First tick, and the one after the last.
    pub(crate) start: i64,
    pub(crate) end: i64,
    /// Seconds of nothing before it.
    pub(crate) pause: f64,
}

impl Default for Presentation {
    fn default() -> Self {
        Self {
            start: i64::MIN,
            end: i64::MAX,
            pause: 0.0,
        }
    }
}

impl Presentation {
    fn holds(&self, pts: i64) -> bool {
        (self.start..self.end).contains(&pts)
    }
}

/// An H.264 stream in an mp4.
pub(crate) struct H264 {
    path: PathBuf,
    file: File,
    pub(crate) orientation: Orientation,
    pub(crate) format: VideoFormat,
    entries: Vec<VideoEntry>,
    /// Packets in decoding order.
    pub(crate) samples: Vec<Sample>,
    /// How many pictures come before the first that is presented.
    pub(crate) first: usize,
    /// The entry of the packet before.
    fed: Option<u32>,
}

impl H264 {
    fn format_of(&self, set: &[u8], entry: &VideoEntry) -> Result<VideoFormat> {
        let sps = Sps::parse(set)
            .ok_or_else(|| Error::damaged(&self.path, "its H.264 parameter set is damaged"))?;
        if let Some(what) = sps.beyond() {
            return Err(needs_ffmpeg(&self.path, what));
        }
        let matrix = sps.matrix.or(entry.matrix).unwrap_or(2);
        if !crate::decode::colour::known(matrix) {
            return Err(needs_ffmpeg(
                &self.path,
                format!("H.264 video with colour matrix {matrix}"),
            ));
        }
        Ok(VideoFormat {
            width: sps.width,
            height: sps.height,
            full_range: sps.full_range.or(entry.full_range).unwrap_or(false),
            matrix,
        })
    }

    /// The NAL units of packet `i`.
    fn units(&mut self, i: usize) -> Result<Vec<Vec<u8>>> {
        let Sample {
            offset, size, entry, ..
        } = self.samples[i];
        let bad = |what: &str| {
            Error::damaged(
                &self.path,
                format!("frame {i} {what}; the file is truncated or damaged"),
            )
        };
        if size > MAX_SAMPLE {
            return Err(bad("claims more than 64 MiB"));
        }
        let width = self.entries[entry as usize].length_size;
        let mut raw = vec![0; size as usize];
        self.file
            .seek(SeekFrom::Start(offset))
            .map_err(Error::io(&self.path))?;
        self.file
            .read_exact(&mut raw)
            .map_err(|_| bad("lies beyond the end"))?;
        let (mut out, mut rest) = (Vec::new(), &raw[..]);
        while rest.len() > width {
            let (length, after) = rest.split_at(width);
            let n = length.iter().fold(0usize, |n, b| n << 8 | usize::from(*b));
            let unit = after.get(..n).ok_or_else(|| bad("is longer than its sample"))?;
            out.push(unit.to_vec());
            rest = &after[n..];
        }
        Ok(out)
    }

    /// Packet `i` with start codes in place of lengths, behind the parameter sets where they change. Packets must be asked
    /// for in order.
    ///
    /// # Errors
    /// Damage; pictures of another size or other colours than those before.
    pub(crate) fn packet(&mut self, i: usize) -> Result<Vec<u8>> {
        let units = self.units(i)?;
        let entry = self.samples[i].entry;
        let mut sets = Vec::new();
        if self.fed.replace(entry) != Some(entry) {
            sets.clone_from(&self.entries[entry as usize].sets);
        }
        let mut out = Vec::new();
        for unit in sets.iter().chain(&units) {
            match unit_type(unit) {
                SPS => {
                    let format = self.format_of(unit, &self.entries[entry as usize])?;
                    if format != self.format {
                        let [old, new] =
                            [&self.format, &format].map(|l| format!("{} x {}", l.width, l.height));
                        let what = if old == new {
                            "H.264 video that changes its colours".into()
                        } else {
                            format!("H.264 video that changes its size ({old} to {new})")
                        };
                        return Err(needs_ffmpeg(&self.path, what));
                    }
                }
                // Layers and views beside the base that every decoder shows.
                14 | 15 | 20 | 21 => continue,
                _ => {}
            }
            out.extend_from_slice(&[0, 0, 0, 1]);
            out.extend_from_slice(unit);
        }
        Ok(out)
    }
}
