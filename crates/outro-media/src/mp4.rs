//! mp4 and mov: where the H.264 samples are, and how the picture is turned.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use re_mp4::{Mp4, StsdBoxContent, Track, TrackKind};

use crate::error::{Error, Result};
use crate::source::{AudioInfo, Decoder, Kind, MediaInfo, VideoInfo};

/// Largest sample that is believed: an intra frame of 8K video at the highest level stays below.
const MAX_SAMPLE: u64 = 64 << 20;

/// Seeks that a file's boxes may take; a long fragmented film takes some tens of thousands.
const MAX_SEEKS: usize = 1_000_000;

/// A reader that loses patience: a box that claims zero bytes would keep the demuxer in place for ever.
struct Patient {
    inner: BufReader<File>,
    seeks: usize,
}

impl Patient {
    fn count(&mut self) -> std::io::Result<()> {
        self.seeks += 1;
        if self.seeks > MAX_SEEKS {
            return Err(std::io::Error::other("its boxes lead nowhere"));
        }
        Ok(())
    }
}

impl Read for Patient {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        self.inner.read(out)
    }
}

impl Seek for Patient {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.count()?;
        self.inner.seek(to)
    }

    fn stream_position(&mut self) -> std::io::Result<u64> {
        self.count()?;
        self.inner.stream_position()
    }
}

/// An opened mp4.
pub(crate) struct Movie {
    path: PathBuf,
    mp4: Mp4,
}

impl Movie {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path))?;
        let size = file.metadata().map_err(Error::io(path))?.len();
        let mp4 = Mp4::read(
            Patient {
                inner: BufReader::new(file),
                seeks: 0,
            },
            size,
        )
        .map_err(|e| Error::damaged(path, format!("is no whole mp4 ({e}); it is truncated or damaged")))?;
        Ok(Self {
            path: path.into(),
            mp4,
        })
    }

    fn track(&self, kind: TrackKind) -> Option<&Track> {
        self.mp4.tracks().values().find(|t| t.kind == Some(kind))
    }

    pub(crate) fn info(&self) -> Result<MediaInfo> {
        let video = self.track(TrackKind::Video).map(|t| self.video(t)).transpose()?;
        let audio = self.track(TrackKind::Audio).map(|t| AudioInfo {
            codec: self.codec(t),
            channels: 0,
            sample_rate: 0,
            duration: t.duration as f64 / t.timescale.max(1) as f64,
        });
        Ok(MediaInfo {
            path: self.path.clone(),
            kind: if video.is_some() { Kind::Video } else { Kind::Audio },
            container: "mp4".into(),
            video,
            audio,
            decoder: Decoder::Builtin,
        })
    }

    fn codec(&self, track: &Track) -> String {
        match &track.trak(&self.mp4).mdia.minf.stbl.stsd.contents {
            StsdBoxContent::Avc1(_) => "h264".into(),
            StsdBoxContent::Mp4a(_) => "aac".into(),
            StsdBoxContent::Hvc1(_) | StsdBoxContent::Hev1(_) => "hevc".into(),
            StsdBoxContent::Av01(_) => "av1".into(),
            StsdBoxContent::Vp08(_) => "vp8".into(),
            StsdBoxContent::Vp09(_) => "vp9".into(),
            _ => track.codec_string(&self.mp4).unwrap_or_else(|| "unknown".into()),
        }
    }

    fn video(&self, track: &Track) -> Result<VideoInfo> {
        // The sample entry has the coded size; the track's own is stretched by the pixels' aspect ratio.
        let (width, height) = match &track.trak(&self.mp4).mdia.minf.stbl.stsd.contents {
            StsdBoxContent::Avc1(avc) => (usize::from(avc.width), usize::from(avc.height)),
            _ => (usize::from(track.width), usize::from(track.height)),
        };
        let frames = track.samples.len();
        if width == 0 || height == 0 || frames == 0 {
            return Err(Error::damaged(
                &self.path,
                format!("its video has {frames} frames of {width} x {height}"),
            ));
        }
        let ticks: u64 = track
            .samples
            .iter()
            .map(|s| s.duration)
            .fold(0, u64::saturating_add);
        let duration = ticks as f64 / track.timescale.max(1) as f64;
        let (width, height) = if self.quarter_turns(track) % 2 == 1 {
            (height, width)
        } else {
            (width, height)
        };
        Ok(VideoInfo {
            codec: self.codec(track),
            width,
            height,
            fps: frames as f64 / duration.max(1e-9),
            frames,
            duration,
        })
    }

    /// Clockwise quarter turns from the stored to the displayed picture, from the track's matrix.
    fn quarter_turns(&self, track: &Track) -> usize {
        let m = &track.trak(&self.mp4).tkhd.matrix;
        match (m.a.signum(), m.b.signum(), m.c.signum(), m.d.signum()) {
            (0, 1, -1, 0) => 1,
            (-1, 0, 0, -1) => 2,
            (0, -1, 1, 0) => 3,
            _ => 0,
        }
    }

    /// Seconds of encoder delay before the sound begins, from the track's edit list. What an edit list cuts at the
    /// end is kept, as ffmpeg does.
    pub(crate) fn audio_delay(&self) -> f64 {
        let Some(track) = self.track(TrackKind::Audio) else {
            return 0.0;
        };
        let list = track.trak(&self.mp4).edts.as_ref().and_then(|e| e.elst.as_ref());
        // An empty edit has the media time -1, in 32 or 64 bits.
        let starts = list.and_then(|l| {
            l.entries
                .iter()
                .map(|e| e.media_time)
                .find(|t| *t < u64::from(u32::MAX))
        });
        starts.unwrap_or(0) as f64 / track.timescale.max(1) as f64
    }

    /// The H.264 stream: quarter turns, parameter sets, and the samples in decoding order.
    pub(crate) fn h264(&self) -> Result<H264> {
        let none = || Error::NoStream {
            path: self.path.clone(),
            what: "video stream",
        };
        let track = self.track(TrackKind::Video).ok_or_else(none)?;
        let StsdBoxContent::Avc1(avc) = &track.trak(&self.mp4).mdia.minf.stbl.stsd.contents else {
            let reason = "and only H.264 is decoded without it".to_string();
            return Err(Error::NeedsFfmpeg {
                path: self.path.clone(),
                format: format!("{} video", self.codec(track)),
                reason,
            });
        };
        let sets = avc
            .avcc
            .sequence_parameter_sets
            .iter()
            .chain(&avc.avcc.picture_parameter_sets);
        let mut header = Vec::new();
        for set in sets {
            header.extend_from_slice(&[0, 0, 0, 1]);
            header.extend_from_slice(&set.bytes);
        }
        Ok(H264 {
            path: self.path.clone(),
            file: File::open(&self.path).map_err(Error::io(&self.path))?,
            turns: self.quarter_turns(track),
            header,
            length_size: usize::from(avc.avcc.length_size_minus_one & 3) + 1,
            samples: track.samples.iter().map(|s| (s.offset, s.size)).collect(),
        })
    }
}

/// An H.264 stream in an mp4.
pub(crate) struct H264 {
    path: PathBuf,
    file: File,
    /// Clockwise quarter turns to display it.
    pub(crate) turns: usize,
    /// Sequence and picture parameter sets with start codes.
    pub(crate) header: Vec<u8>,
    length_size: usize,
    /// Offset and size of each sample.
    pub(crate) samples: Vec<(u64, u64)>,
}

impl H264 {
    /// Sample `i` with start codes in place of lengths.
    pub(crate) fn sample(&mut self, i: usize) -> Result<Vec<u8>> {
        let (offset, size) = self.samples[i];
        let bad = |what: &str| {
            Error::damaged(
                &self.path,
                format!("frame {i} {what}; the file is truncated or damaged"),
            )
        };
        if size > MAX_SAMPLE {
            return Err(bad("claims more than 64 MiB"));
        }
        let mut raw = vec![0; size as usize];
        self.file
            .seek(SeekFrom::Start(offset))
            .map_err(Error::io(&self.path))?;
        self.file
            .read_exact(&mut raw)
            .map_err(|_| bad("lies beyond the end"))?;
        let mut out = Vec::with_capacity(raw.len() + 16);
        let mut rest = &raw[..];
        while rest.len() > self.length_size {
            let (length, after) = rest.split_at(self.length_size);
            let n = length.iter().fold(0usize, |n, b| n << 8 | usize::from(*b));
            let unit = after.get(..n).ok_or_else(|| bad("is longer than its sample"))?;
            out.extend_from_slice(&[0, 0, 0, 1]);
            out.extend_from_slice(unit);
            rest = &after[n..];
        }
        Ok(out)
    }
}
