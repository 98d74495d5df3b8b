//! Sample entries: what a track's packets are.

use super::parse::{Cursor, Track, child};

/// A video track's sample entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct VideoEntry {
    pub(super) format: [u8; 4],
    /// Coded size, as the container says it.
    pub(super) width: usize,
    pub(super) height: usize,
    /// Parameter sets of H.264.
    pub(super) sets: Vec<Vec<u8>>,
    /// Bytes before each NAL unit.
    pub(super) length_size: usize,
    /// What the container says of colours.
    pub(super) matrix: Option<u8>,
    pub(super) full_range: Option<bool>,
}

impl VideoEntry {
    pub(super) fn of(track: &Track, i: usize) -> Option<Self> {
        let (format, inside) = track.entries.get(i)?;
        let mut r = Cursor(inside);
        r.take(24)?;
        let (width, height) = (usize::from(r.u16()?), usize::from(r.u16()?));
        r.take(50)?;
        let mut entry = Self {
            format: *format,
            width,
            height,
            length_size: 4,
            ..Self::default()
        };
        if let Some(avcc) = child(r.0, *b"avcC") {
            entry.sets(avcc)?;
        }
        if let Some(colr) = child(r.0, *b"colr") {
            let mut r = Cursor(colr);
            let kind = r.name()?;
            if kind == *b"nclx" || kind == *b"nclc" {
                r.take(4)?;
                entry.matrix = Some(r.u16()? as u8);
                entry.full_range = (kind == *b"nclx").then(|| r.u8().is_some_and(|b| b & 128 != 0));
            }
        }
        Some(entry)
    }

    fn sets(&mut self, avcc: &[u8]) -> Option<()> {
        let mut r = Cursor(avcc);
        r.take(4)?;
        self.length_size = usize::from(r.u8()? & 3) + 1;
        for mask in [31, 255] {
            for _ in 0..r.u8()? & mask {
                let length = usize::from(r.u16()?);
                self.sets.push(r.take(length)?.to_vec());
            }
        }
        Some(())
    }
}

/// The codec of a video track, by ffmpeg's name where that is known.
pub(super) fn video_codec(track: &Track) -> String {
    let Some((format, inside)) = track.entries.first() else {
        return "unknown".into();
    };
    let name = match format {
        b"avc1" | b"avc3" => "h264",
        b"hvc1" | b"hev1" | b"dvh1" | b"dvhe" => "hevc",
        b"vvc1" | b"vvi1" => "vvc",
        b"av01" => "av1",
        b"vp08" => "vp8",
        b"vp09" => "vp9",
        b"jpeg" | b"mjpa" | b"mjpb" => "mjpeg",
        b"apch" | b"apcn" | b"apcs" | b"apco" | b"ap4h" | b"ap4x" => "prores",
        b"encv" => "encrypted",
        b"mp4v" => match inside
            .get(78..)
            .and_then(|i| child(i, *b"esds"))
            .and_then(descriptor)
        {
            Some((0x60..=0x65, _)) => "mpeg2video",
            Some((0x6A, _)) => "mpeg1video",
            Some((0x6C, _)) => "mjpeg",
            _ => "mpeg4",
        },
        other => return letters(other),
    };
    name.into()
}

fn letters(name: &[u8]) -> String {
    String::from_utf8_lossy(name).trim().to_string()
}

/// The type of the object in an `esds` box, and its configuration.
fn descriptor(esds: &[u8]) -> Option<(u8, Vec<u8>)> {
    let mut r = Cursor(esds.get(4..)?);
    let mut object = None;
    loop {
        let Some(tag) = r.u8() else {
            return object.map(|o| (o, Vec::new()));
        };
        let mut size = 0usize;
        for _ in 0..4 {
            let byte = r.u8()?;
            size = size << 7 | usize::from(byte & 127);
            if byte & 128 == 0 {
                break;
            }
        }
        match tag {
            3 => {
                r.u16()?;
                let flags = r.u8()?;
                if flags & 128 != 0 {
                    r.u16()?;
                }
                if flags & 64 != 0 {
                    let n = usize::from(r.u8()?);
                    r.take(n)?;
                }
                if flags & 32 != 0 {
                    r.u16()?;
                }
            }
            4 => {
                object = Some(r.u8()?);
                r.take(12)?;
            }
            5 => {
                let inside = r.0.get(..size).unwrap_or(r.0);
                return object.map(|o| (o, inside.to_vec()));
            }
            _ => {
                r.take(size)?;
            }
        }
    }
}

/// A sound track's first sample entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SoundEntry {
    /// The codec, by ffmpeg's name where that is known.
    pub(crate) codec: String,
    pub(crate) channels: usize,
    pub(crate) rate: u32,
    /// What the codec needs to know.
    pub(crate) config: Option<Vec<u8>>,
}

impl SoundEntry {
    pub(super) fn of(track: &Track) -> Option<Self> {
        let (format, inside) = track.entries.first()?;
        let mut r = Cursor(inside);
        r.take(8)?;
        let version = r.u16()?;
        r.take(6)?;
        let (mut channels, mut bits) = (u32::from(r.u16()?), u32::from(r.u16()?));
        r.take(4)?;
        let mut rate = r.u32()? >> 16;
        let mut flags = 0;
        match version {
            1 if track.entries_version == 0 => {
                r.take(16)?;
            }
            2 if track.entries_version == 0 => {
                r.take(4)?;
                rate = f64::from_bits(r.u64()?) as u32;
                channels = r.u32()?;
                r.take(4)?;
                bits = r.u32()?;
                flags = r.u32()?;
                r.take(8)?;
            }
            _ => {}
        }
        // QuickTime keeps what describes the sound one level down.
        let wave = child(r.0, *b"wave");
        let find = |name: [u8; 4]| child(r.0, name).or_else(|| child(wave?, name));
        let little = find(*b"enda").is_some_and(|b| b.ends_with(&[1]));
        let pcm = |float: bool, little: bool, bits: u32| {
            let (kind, order) = (if float { "f" } else { "s" }, if little { "le" } else { "be" });
            match (float, bits) {
                (false, 8) => "pcm_s8".into(),
                (false, 16 | 24 | 32) | (true, 32 | 64) => format!("pcm_{kind}{bits}{order}"),
                _ => format!("sound of {bits} bits"),
            }
        };
        let mut config = None;
        let codec = match format {
            b"mp4a" | b"ms\0\x55" | b".mp3" => match find(*b"esds").and_then(descriptor) {
                Some((0x40 | 0x66..=0x68, own)) => {
                    config = Some(own);
                    "aac".into()
                }
                Some((0x69 | 0x6B, _)) => "mp3".into(),
                Some((0xA5, _)) => "ac3".into(),
                Some((0xA6, _)) => "eac3".into(),
                Some((0xA9, _)) => "dts".into(),
                Some((0xAD, _)) => "opus".into(),
                Some((0xDD, _)) => "vorbis".into(),
                Some((other, _)) => format!("sound of object type {other:#x}"),
                None if format == b"mp4a" => "aac without its description".into(),
                None => "mp3".into(),
            },
            b"alac" => {
                config = find(*b"alac").and_then(|b| b.get(4..)).map(<[u8]>::to_vec);
                "alac".into()
            }
            b"fLaC" => {
                // After version and flags, a block's header of four bytes: the first describes the stream.
                config = find(*b"dfLa").and_then(|b| b.get(8..42)).map(<[u8]>::to_vec);
                "flac".into()
            }
            b"Opus" => "opus".into(),
            b"ac-3" => "ac3".into(),
            b"ec-3" => "eac3".into(),
            b"twos" => pcm(false, false, bits),
            b"sowt" => pcm(false, true, bits),
            b"in24" => pcm(false, little, 24),
            b"in32" => pcm(false, little, 32),
            b"fl32" => pcm(true, little, 32),
            b"fl64" => pcm(true, little, 64),
            b"lpcm" if flags & 5 == 0 && bits == 8 => "pcm_u8".into(),
            b"lpcm" => pcm(flags & 1 != 0, flags & 2 == 0, bits),
            b"ipcm" | b"fpcm" => {
                let own = find(*b"pcmC").and_then(|b| b.get(4..6))?;
                pcm(format == b"fpcm", own[0] & 1 == 1, u32::from(own[1]))
            }
            b"raw " => "pcm_u8".into(),
            b"ulaw" => "pcm_mulaw".into(),
            b"alaw" => "pcm_alaw".into(),
            b"enca" => "encrypted".into(),
            other => letters(other),
        };
        Some(Self {
            codec,
            channels: channels as usize,
            rate,
            config,
        })
    }

    /// Bytes of a frame of all channels, where the sound is not compressed.
    pub(super) fn frame_bytes(&self) -> Option<u32> {
        let bits = match self.codec.as_str() {
            "pcm_mulaw" | "pcm_alaw" => 8,
            name => name
                .strip_prefix("pcm_")?
                .trim_matches(|c: char| !c.is_ascii_digit())
                .parse::<u32>()
                .ok()?,
        };
        let channels = u32::try_from(self.channels)
            .ok()
            .filter(|n| (1..=64).contains(n))?;
        Some(bits / 8 * channels)
    }
}
