//! WAVE files with uncompressed sound: RIFF and RF64. Their sizes often lie (recordings that were cut off, streams), and the
//! sound then goes on to the end of the file, as ffmpeg takes it.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use crate::error::{Error, Result};

/// Where the sound of a file is, and how.
#[derive(Debug)]
pub(crate) struct Wave {
    pub(crate) reader: BufReader<File>,
    /// Its name, as `pcm_s16le`.
    pub(crate) codec: &'static str,
    pub(crate) channels: u16,
    pub(crate) rate: u32,
    /// Bytes of one frame of all channels.
    pub(crate) block: u16,
    /// Bytes of sound from here on.
    pub(crate) bytes: u64,
    /// Whether the header promises another number.
    pub(crate) lies: bool,
}

/// Chunks that are looked at.
const MAX_CHUNKS: usize = 10_000;

impl Wave {
    /// Reads the header; `None` for a file that is no WAVE of uncompressed sound.
    ///
    /// # Errors
    /// Headers that cannot be: no channels, no rate.
    pub(crate) fn open(path: &Path) -> Result<Option<Self>> {
        let file = File::open(path).map_err(Error::io(path))?;
        let length = file.metadata().map_err(Error::io(path))?.len();
        let mut reader = BufReader::new(file);
        let mut head = [0; 12];
        if reader.read_exact(&mut head).is_err()
            || ![b"RIFF", b"RF64", b"BW64"].iter().any(|m| head.starts_with(*m))
            || &head[8..] != b"WAVE"
        {
            return Ok(None);
        }
        let (mut long, mut format, mut at) = (None, None, 12u64);
        for _ in 0..MAX_CHUNKS {
            let mut head = [0; 8];
            if reader.seek(SeekFrom::Start(at)).is_err() || reader.read_exact(&mut head).is_err() {
                break;
            }
            let size = u64::from(u32::from_le_bytes([head[4], head[5], head[6], head[7]]));
            at += 8;
            match &head[..4] {
                b"ds64" | b"fmt " => {
                    let mut inside = vec![0; size.min(64) as usize];
                    if reader.read_exact(&mut inside).is_err() {
                        break;
                    }
                    if head.starts_with(b"fmt ") {
                        format = Some(inside);
                    } else {
                        long = inside
                            .get(8..16)
                            .and_then(|b| b.try_into().ok())
                            .map(u64::from_le_bytes);
                    }
                }
                b"data" => {
                    let Some((codec, channels, rate, block)) = format.as_deref().and_then(of_format) else {
                        return Ok(None);
                    };
                    if channels == 0 || rate == 0 || block == 0 {
                        let problem = format!("its sound has {channels} channels at {rate} Hz");
                        return Err(Error::damaged(path, problem));
                    }
                    let promised = if size == u64::from(u32::MAX) {
                        long.unwrap_or(size)
                    } else {
                        size
                    };
                    let there = length - at.min(length);
                    // 0 and the largest number say that the length was not known.
                    let unknown = size == 0 || promised == u64::from(u32::MAX);
                    let bytes = if unknown { there } else { promised.min(there) };
                    return Ok(Some(Self {
                        reader,
                        codec,
                        channels,
                        rate,
                        block,
                        bytes,
                        lies: promised != bytes && there > 0,
                    }));
                }
                _ => {}
            }
            at = at.saturating_add(size).saturating_add(size & 1);
        }
        Ok(None)
    }

    /// Seconds of sound.
    pub(crate) fn duration(&self) -> f64 {
        (self.bytes / u64::from(self.block)) as f64 / f64::from(self.rate)
    }

    /// The next whole frames, at most some thousands; `None` at the end.
    pub(crate) fn next(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        let block = u64::from(self.block);
        let frames = (self.bytes / block).min(16_384);
        let mut out = Vec::new();
        self.reader.by_ref().take(frames * block).read_to_end(&mut out)?;
        self.bytes -= (out.len() as u64).min(self.bytes);
        out.truncate(out.len() / usize::from(self.block) * usize::from(self.block));
        Ok(Some(out).filter(|b| !b.is_empty()))
    }
}

/// Codec, channels, rate and bytes of a frame from a format chunk; `None` where the sound is compressed.
fn of_format(b: &[u8]) -> Option<(&'static str, u16, u32, u16)> {
    let word = |i: usize| b.get(i..i + 2).map(|b| u16::from_le_bytes([b[0], b[1]]));
    let (mut tag, channels) = (word(0)?, word(2)?);
    let rate = u32::from(word(4)?) | u32::from(word(6)?) << 16;
    // The extensible form has the tag at the start of a longer name.
    if tag == 0xFFFE {
        tag = word(24)?;
    }
    let (block, bits) = (word(12)?, word(14)?);
    // Twenty bits lie in three bytes: what a frame takes decides.
    let width = if channels > 0 && block % channels == 0 && block > 0 {
        block / channels * 8
    } else {
        bits.div_ceil(8) * 8
    };
    let codec = match (tag, width) {
        (1, 8) => "pcm_u8",
        (1, 16) => "pcm_s16le",
        (1, 24) => "pcm_s24le",
        (1, 32) => "pcm_s32le",
        (3, 32) => "pcm_f32le",
        (3, 64) => "pcm_f64le",
        (6, 8) => "pcm_alaw",
        (7, 8) => "pcm_mulaw",
        // A header without channels or bits is uncompressed all the same, and refused by name.
        (1 | 3, _) if channels == 0 || width == 0 => "pcm_s16le",
        _ => return None,
    };
    Some((codec, channels, rate, channels.checked_mul(width / 8)?))
}
