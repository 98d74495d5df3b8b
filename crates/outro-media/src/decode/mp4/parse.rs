//! Boxes of mp4 and mov to tracks and samples (ISO/IEC 14496-12; Apple's QuickTime file format). Every number is checked:
//! what is missing or does not fit ends a table, never the program.

/// Samples of one track that are believed: a day of sound takes four million.
const MAX_SAMPLES: usize = 1 << 25;

/// Frames of uncompressed sound that are taken at once: as many as ffmpeg takes, whose pieces are kept or left out whole.
const PCM_FRAMES: u32 = 1024;

/// A box: its four letters and what is inside.
pub(super) type Box4<'a> = ([u8; 4], &'a [u8]);

/// The boxes in `data`, up to one that does not fit.
pub(super) fn boxes(mut data: &[u8]) -> impl Iterator<Item = Box4<'_>> {
    std::iter::from_fn(move || {
        let mut r = Cursor(data);
        let size = u64::from(r.u32()?);
        let name = r.name()?;
        let size = match size {
            0 => data.len() as u64,
            1 => r.u64()?,
            n => n,
        };
        let head = data.len() - r.0.len();
        let inside = data.get(head..usize::try_from(size).ok()?)?;
        data = &data[head + inside.len()..];
        Some((name, inside))
    })
}

/// The first box of that name.
pub(super) fn child(data: &[u8], name: [u8; 4]) -> Option<&[u8]> {
    boxes(data).find(|(n, _)| *n == name).map(|(_, inside)| inside)
}

/// Reads big-endian numbers off the front.
pub(super) struct Cursor<'a>(pub(super) &'a [u8]);

impl<'a> Cursor<'a> {
    pub(super) fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    pub(super) fn name(&mut self) -> Option<[u8; 4]> {
        self.array()
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|b| b[0])
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn i32(&mut self) -> Option<i32> {
        self.array().map(i32::from_be_bytes)
    }

    /// Version and flags of a full box.
    fn version(&mut self) -> Option<(u8, u32)> {
        let word = self.u32()?;
        Some(((word >> 24) as u8, word & 0xFF_FFFF))
    }

    /// 64 bits in version 1, else 32.
    fn wide(&mut self, version: u8) -> Option<u64> {
        if version == 1 {
            self.u64()
        } else {
            self.u32().map(u64::from)
        }
    }
}

/// One packet of a track.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    /// Where it is in the file, and its bytes.
    pub(crate) offset: u64,
    pub(crate) size: u32,
    /// When it is shown, in ticks of the track.
    pub(crate) pts: i64,
    /// How long, in ticks.
    pub(crate) ticks: u32,
    /// Which sample entry it belongs to.
    pub(crate) entry: u32,
}

/// A part of a track that is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Edit {
    /// Ticks of the movie; 0 for all that is left.
    pub(crate) duration: u64,
    /// Where it starts in the track's ticks; -1 for a pause.
    pub(crate) start: i64,
    /// Speed in 1/65536.
    pub(crate) rate: i32,
}

/// A track as the file has it.
#[derive(Clone, Debug)]
pub(crate) struct Track {
    pub(super) id: u32,
    /// `vide`, `soun` and others.
    pub(crate) handler: [u8; 4],
    /// Whether it is shown by default.
    pub(crate) enabled: bool,
    /// Ticks a second.
    pub(crate) timescale: u32,
    /// `a, b, c, d` of the display matrix, with the movie's applied.
    pub(crate) matrix: [i64; 4],
    /// Whole sample entries: format and what is inside.
    pub(crate) entries: Vec<([u8; 4], Vec<u8>)>,
    /// Version of the box with the entries: QuickTime's longer sound entries exist in 0 only.
    pub(crate) entries_version: u8,
    /// In decoding order.
    pub(crate) samples: Vec<Sample>,
    pub(crate) edits: Vec<Edit>,
    /// Where the next fragment's first sample is decoded.
    clock: i64,
    /// Numbers that fragments inherit: sample entry, ticks, bytes.
    defaults: [u32; 3],
}

/// A movie's header: tracks, and ticks a second of its edits.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) tracks: Vec<Track>,
    pub(super) timescale: u32,
    pub(super) fragmented: bool,
}

/// The inside of a `moov` box. `length` is the file's: no sample is larger. `bytes` says how many bytes one frame of an
/// uncompressed sound takes, whose samples are pieces of chunks then.
pub(super) fn movie(moov: &[u8], length: u64, bytes: &dyn Fn(&Track) -> Option<u32>) -> Option<Header> {
    let (version, mut r) = full(child(moov, *b"mvhd")?)?;
    r.take(if version == 1 { 16 } else { 8 })?;
    let timescale = r.u32()?;
    r.take(if version == 1 { 8 } else { 4 } + 16)?;
    let whole = matrix(&mut r)?;
    let mut tracks: Vec<Track> = boxes(moov)
        .filter(|(name, _)| name == b"trak")
        .filter_map(|(_, trak)| track(trak, &whole, length, bytes))
        .collect();
    let extends = child(moov, *b"mvex");
    for (_, trex) in boxes(extends.unwrap_or_default()).filter(|(name, _)| name == b"trex") {
        let (_, mut r) = full(trex)?;
        let id = r.u32()?;
        let values = [r.u32()?.saturating_sub(1), r.u32()?, r.u32()?];
        for track in tracks.iter_mut().filter(|t| t.id == id) {
            track.defaults = values;
        }
    }
    Some(Header {
        tracks,
        timescale,
        fragmented: extends.is_some(),
    })
}

/// Version of a full box and what follows its flags.
fn full(data: &[u8]) -> Option<(u8, Cursor<'_>)> {
    let mut r = Cursor(data);
    let (version, _) = r.version()?;
    Some((version, r))
}

/// `a, b, c, d` of nine numbers.
fn matrix(r: &mut Cursor) -> Option<[i64; 4]> {
    let mut m = [0; 9];
    for x in &mut m {
        *x = i64::from(r.i32()?);
    }
    Some([m[0], m[1], m[3], m[4]])
}

fn track(
    trak: &[u8],
    [wa, wb, wc, wd]: &[i64; 4],
    length: u64,
    bytes: &dyn Fn(&Track) -> Option<u32>,
) -> Option<Track> {
    let mut r = Cursor(child(trak, *b"tkhd")?);
    let (version, flags) = r.version()?;
    r.take(if version == 1 { 16 } else { 8 })?;
    let id = r.u32()?;
    r.take(4 + if version == 1 { 8 } else { 4 } + 16)?;
    let [a, b, c, d] = matrix(&mut r)?;
    let by = |x: i64, p: i64, y: i64, q: i64| (x * p).saturating_add(y * q) >> 16;
    let media = child(trak, *b"mdia")?;
    let (version, mut r) = full(child(media, *b"mdhd")?)?;
    r.take(if version == 1 { 16 } else { 8 })?;
    let timescale = r.u32().filter(|n| *n > 0)?;
    let (_, mut r) = full(child(media, *b"hdlr")?)?;
    r.take(4)?;
    let handler = r.name()?;
    let table = child(child(media, *b"minf")?, *b"stbl")?;
    let (entries_version, mut r) = full(child(table, *b"stsd")?)?;
    r.take(4)?;
    let edits = child(trak, *b"edts").and_then(|e| child(e, *b"elst"));
    let mut track = Track {
        id,
        handler,
        enabled: flags & 1 == 1,
        timescale,
        matrix: [
            by(a, *wa, b, *wc),
            by(a, *wb, b, *wd),
            by(c, *wa, d, *wc),
            by(c, *wb, d, *wd),
        ],
        entries: boxes(r.0).map(|(n, inside)| (n, inside.to_vec())).collect(),
        entries_version,
        samples: Vec::new(),
        edits: edits.map(edit_list).unwrap_or_default(),
        clock: 0,
        defaults: [0; 3],
    };
    let frame = bytes(&track);
    track.samples = samples(table, length, frame).unwrap_or_default();
    Some(track)
}

fn edit_list(elst: &[u8]) -> Vec<Edit> {
    let Some((version, mut r)) = full(elst) else {
        return Vec::new();
    };
    let count = r.u32().unwrap_or(0);
    let next = |_| {
        let duration = r.wide(version)?;
        let start = if version == 1 {
            r.u64()?.cast_signed()
        } else {
            i64::from(r.i32()?)
        };
        let rate = r.i32()?;
        Some(Edit {
            duration,
            start,
            rate,
        })
    };
    (0..count).map_while(next).collect()
}

/// Pairs of a count and a value, drawn one by one; the last value goes on.
struct Runs<'a> {
    table: Cursor<'a>,
    left: u32,
    value: u32,
}

impl<'a> Runs<'a> {
    fn new(table: Option<&'a [u8]>) -> Option<Self> {
        let (_, mut table) = full(table?)?;
        table.u32()?;
        Some(Self {
            table,
            left: 0,
            value: 0,
        })
    }

    fn draw(&mut self) -> u32 {
        while self.left == 0 {
            let (Some(count), Some(value)) = (self.table.u32(), self.table.u32()) else {
                return self.value;
            };
            (self.left, self.value) = (count, value);
        }
        self.left -= 1;
        self.value
    }
}

/// Sizes of samples: one for all, a table of 32 bits, or one of 4, 8 or 16.
fn sizes(table: &[u8], length: u64) -> Option<Vec<u32>> {
    if let Some(stsz) = child(table, *b"stsz") {
        let (_, mut r) = full(stsz)?;
        let (one, count) = (r.u32()?, r.u32()? as usize);
        if one == 0 {
            return Some((0..count).map_while(|_| r.u32()).collect());
        }
        let most = (length / u64::from(one)) as usize;
        return Some(vec![one; count.min(most).min(MAX_SAMPLES)]);
    }
    let (_, mut r) = full(child(table, *b"stz2")?)?;
    let (bits, count) = (r.u32()? & 255, r.u32()? as usize);
    let all: Vec<u32> = match bits {
        4 => {
            r.0.iter()
                .flat_map(|b| [u32::from(b >> 4), u32::from(b & 15)])
                .collect()
        }
        8 => r.0.iter().map(|b| u32::from(*b)).collect(),
        16 => std::iter::from_fn(|| r.u16().map(u32::from)).collect(),
        _ => return None,
    };
    Some(all.into_iter().take(count).collect())
}

/// The samples of a track's tables. `frame` is the size of a frame of uncompressed sound: a sample is a piece of a chunk then.
fn samples(table: &[u8], length: u64, frame: Option<u32>) -> Option<Vec<Sample>> {
    let chunks: Vec<u64> = if let Some(stco) = child(table, *b"stco") {
        let (_, mut r) = full(stco)?;
        let count = r.u32()? as usize;
        (0..count).map_while(|_| r.u32().map(u64::from)).collect()
    } else {
        let (_, mut r) = full(child(table, *b"co64")?)?;
        let count = r.u32()? as usize;
        (0..count).map_while(|_| r.u64()).collect()
    };
    let (_, mut r) = full(child(table, *b"stsc")?)?;
    let count = r.u32()? as usize;
    let runs: Vec<[u32; 3]> = (0..count)
        .map_while(|_| Some([r.u32()?, r.u32()?, r.u32()?]))
        .collect();
    let sizes = if frame.is_some() {
        Vec::new()
    } else {
        sizes(table, length)?
    };
    let mut ticks = Runs::new(child(table, *b"stts"))?;
    let mut shifts = Runs::new(child(table, *b"ctts"));
    let (mut out, mut run, mut clock, mut left) = (Vec::new(), 0, 0i64, sizes.iter());
    for (i, &chunk) in chunks.iter().enumerate() {
        while runs.get(run + 1).is_some_and(|next| i + 1 >= next[0] as usize) {
            run += 1;
        }
        let Some(&[_, many, entry]) = runs.get(run) else {
            break;
        };
        let entry = entry.saturating_sub(1);
        let mut offset = chunk;
        if let Some(frame) = frame {
            let mut left = many;
            while left > 0 && offset < length && out.len() < MAX_SAMPLES {
                let frames = left.min(PCM_FRAMES);
                let size = frames.saturating_mul(frame);
                out.push(Sample {
                    offset,
                    size,
                    pts: clock,
                    ticks: frames,
                    entry,
                });
                offset = offset.saturating_add(u64::from(size));
                clock = clock.saturating_add(i64::from(frames));
                left -= frames;
            }
            continue;
        }
        for _ in 0..many {
            let (Some(&size), true) = (left.next(), out.len() < MAX_SAMPLES) else {
                return Some(out);
            };
            let ticks = ticks.draw();
            let shift = shifts.as_mut().map_or(0, |s| s.draw().cast_signed());
            out.push(Sample {
                offset,
                size,
                pts: clock + i64::from(shift),
                ticks,
                entry,
            });
            offset = offset.saturating_add(u64::from(size));
            clock += i64::from(ticks);
        }
    }
    Some(out)
}

/// Adds what is in a `moof` box, which starts at `start`, to its tracks.
pub(super) fn fragment(moof: &[u8], start: u64, length: u64, tracks: &mut [Track]) {
    let mut end = start;
    for (_, traf) in boxes(moof).filter(|(name, _)| name == b"traf") {
        // A damaged part is left out; the others stand on their own.
        if let Some(at) = track_fragment(traf, start, end, length, tracks) {
            end = at;
        }
    }
}

/// `start` is the fragment's first byte, `end` where the data of the part before ended. Returns where this one's end.
fn track_fragment(traf: &[u8], start: u64, end: u64, length: u64, tracks: &mut [Track]) -> Option<u64> {
    let mut r = Cursor(child(traf, *b"tfhd")?);
    let (_, flags) = r.version()?;
    let id = r.u32()?;
    let track = tracks.iter_mut().find(|t| t.id == id)?;
    let mut base = if flags & 0x02_0000 != 0 { start } else { end };
    if flags & 1 != 0 {
        base = r.u64()?;
    }
    let mut defaults = track.defaults;
    for (bit, value) in [2, 8, 16].into_iter().zip(&mut defaults) {
        if flags & bit != 0 {
            *value = r.u32()?;
            if bit == 2 {
                *value = value.saturating_sub(1);
            }
        }
    }
    if let Some(tfdt) = child(traf, *b"tfdt") {
        let (version, mut r) = full(tfdt)?;
        track.clock = i64::try_from(r.wide(version)?).ok()?;
    }
    let mut at = base;
    for (_, trun) in boxes(traf).filter(|(name, _)| name == b"trun") {
        let mut r = Cursor(trun);
        let (_, flags) = r.version()?;
        let count = r.u32()?;
        if flags & 1 != 0 {
            at = base.checked_add_signed(i64::from(r.i32()?))?;
        }
        if flags & 4 != 0 {
            r.u32()?;
        }
        let fields = (flags >> 8 & 15).count_ones();
        // Samples that take no bytes of the table take some of the file.
        let most = if fields == 0 {
            length / u64::from(defaults[2]).max(1)
        } else {
            u64::MAX
        };
        for _ in 0..u64::from(count).min(most) {
            let [entry, mut ticks, mut size] = defaults;
            let mut shift = 0;
            if flags & 0x100 != 0 {
                ticks = r.u32()?;
            }
            if flags & 0x200 != 0 {
                size = r.u32()?;
            }
            if flags & 0x400 != 0 {
                r.u32()?;
            }
            if flags & 0x800 != 0 {
                shift = r.i32()?;
            }
            if track.samples.len() >= MAX_SAMPLES {
                return None;
            }
            track.samples.push(Sample {
                offset: at,
                size,
                pts: track.clock.checked_add(i64::from(shift))?,
                ticks,
                entry,
            });
            at = at.checked_add(u64::from(size))?;
            track.clock = track.clock.checked_add(i64::from(ticks))?;
        }
    }
    Some(at)
}
