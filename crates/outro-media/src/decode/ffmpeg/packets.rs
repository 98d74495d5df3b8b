//! Packets of a file, by demuxing alone: how many frames it promises, when they are presented, where decoding can begin.

use std::collections::BTreeMap;
use std::path::Path;

use crate::decode::process::{More, run};
use crate::error::Result;
use crate::info::Options;

/// A packet that is presented: those that an edit list hides are left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    /// When, in the stream's units; `None` where the file does not say.
    pub(super) pts: Option<i64>,
    /// When, or else when it is decoded.
    at: Option<i64>,
    duration: i64,
    /// Whether decoding can begin here.
    pub(super) key: bool,
}

/// The packets of a stream, in decoding order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Packets {
    /// Those that are presented.
    pub(super) presented: Vec<Packet>,
    /// How many are discarded.
    pub(super) discarded: usize,
    /// Seconds of a unit, as a fraction: rates and times must come out as exactly as a header has them.
    unit: (i64, i64),
    /// Units that all last, discarded ones included.
    lasts: i64,
}

impl Packets {
    /// When the first is presented, and when the last has been.
    pub(super) fn span(&self) -> Option<(i64, i64)> {
        let times = self.presented.iter().filter_map(|p| Some((p.at?, p.duration)));
        let first = times.clone().map(|t| t.0).min()?;
        let last = times.map(|(at, lasts)| at.saturating_add(lasts)).max()?;
        Some((first, last))
    }

    /// Units that decoding makes sound of. Where packets are missing, ffmpeg puts nothing in their place: what is behind such a
    /// hole is heard earlier. `even` says that all packets of the codec last as long: what a longer one has more is a hole, which
    /// ffmpeg 9 counts to the packet before it.
    pub(super) fn audible(&self, even: bool) -> Option<i64> {
        let (first, last) = self.span()?;
        let usual = if even { self.usual() } else { i64::MAX };
        let mut times: Vec<(i64, i64)> = self
            .presented
            .iter()
            .filter_map(|p| Some((p.at?, p.duration.min(usual))))
            .collect();
        times.sort_unstable();
        // A hole is at least a packet long: times of Matroska are rounded.
        let (mut end, mut holes) = (first, 0_i64);
        for (at, lasts) in times {
            let hole = at.saturating_sub(end);
            if hole > lasts.max(1) {
                holes = holes.saturating_add(hole);
            }
            end = end.max(at.saturating_add(lasts));
        }
        // Packets that come in bursts with one time leave holes that the sum of their lengths fills.
        let lasts = self.presented.iter().map(|p| p.duration.min(usual));
        let sum = lasts.fold(0_i64, i64::saturating_add);
        let span = last.saturating_sub(first);
        Some(span.saturating_sub(holes).max(sum.min(span)))
    }

    /// How long most packets last.
    fn usual(&self) -> i64 {
        let mut count = BTreeMap::new();
        for p in &self.presented {
            *count.entry(p.duration).or_insert(0_usize) += 1;
        }
        let most = count.into_iter().max_by_key(|(_, n)| *n);
        most.map_or(i64::MAX, |(duration, _)| duration)
    }

    /// Seconds of so many units.
    pub(super) fn seconds(&self, units: i64) -> f64 {
        (i128::from(units) * i128::from(self.unit.0)) as f64 / self.unit.1 as f64
    }

    /// Packets a second, discarded ones included; no number where they do not say how long they last.
    pub(super) fn rate(&self) -> f64 {
        let count = (self.presented.len() + self.discarded) as i128;
        (count * i128::from(self.unit.1)) as f64 / (i128::from(self.lasts) * i128::from(self.unit.0)) as f64
    }
}

/// ffmpeg's flags of packets.
const KEY: u32 = 1;
const DISCARD: u32 = 4;

/// The packets of these streams, in their order.
///
/// # Errors
/// Files that cannot be read to their end.
pub(super) fn list(path: &Path, streams: &[usize], o: &Options) -> Result<Vec<Packets>> {
    let mut command = super::input(path, &["-copyts"], o)?;
    for stream in streams {
        command.args(["-map", &format!("0:{stream}")]);
    }
    // Streams that begin without a key frame are listed from their first packet on.
    command.args(["-c", "copy", "-copyinkf", "-f", "framecrc"]);
    // Many lines a write: an hour has a quarter of a million packets.
    command.args(["-flush_packets", "0", "-"]);
    let mut all = vec![Packets::default(); streams.len()];
    let mut rest = Vec::new();
    let ended = run(command, path, o, 1 << 16, &mut |piece| {
        rest.extend(piece);
        let whole = rest.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
        for line in String::from_utf8_lossy(&rest[..whole]).lines() {
            read(line, &mut all);
        }
        rest.drain(..whole);
        Ok(More::Yes)
    })?;
    // What cannot be demuxed to its end is still worth decoding to there.
    if all.iter().all(|p| p.presented.is_empty()) {
        ended.ok()?;
    }
    Ok(all)
}

/// `#tb 0: 1/1000`, or `0, DTS, PTS, DURATION, SIZE, 0xCRC, F=0xFLAGS, ...`, where flags that are those of a key frame are left
/// out.
fn read(line: &str, all: &mut [Packets]) {
    if let Some((stream, unit)) = line.strip_prefix("#tb ").and_then(|l| l.split_once(": ")) {
        let of = stream.parse().ok().and_then(|i: usize| all.get_mut(i));
        let unit = unit
            .split_once('/')
            .and_then(|(a, b)| Some((a.trim().parse().ok()?, b.trim().parse().ok()?)));
        if let (Some(packets), Some(unit)) = (of, unit) {
            packets.unit = unit;
        }
        return;
    }
    let mut fields = line.split(',').map(str::trim);
    let stream = fields.next().and_then(|f| f.parse::<usize>().ok());
    let Some(packets) = stream.and_then(|i| all.get_mut(i)) else {
        return;
    };
    // The smallest number stands for none: avi and MPEG-PS leave times of presentation out.
    let mut time = || {
        let field = fields.next()?.parse::<i64>().ok();
        field.filter(|t| *t != i64::MIN)
    };
    let (dts, pts) = (time(), time());
    let duration = fields.next().and_then(|f| f.parse().ok()).unwrap_or(0);
    let flags = fields
        .find_map(|f| f.strip_prefix("F=0x"))
        .map_or(KEY, |f| u32::from_str_radix(f, 16).unwrap_or(0));
    packets.lasts = packets.lasts.saturating_add(duration);
    if flags & DISCARD != 0 {
        packets.discarded += 1;
        return;
    }
    packets.presented.push(Packet {
        pts,
        at: pts.or(dts),
        duration,
        key: flags & KEY != 0,
    });
}

/// The packets of one stream, out of lines.
#[cfg(test)]
pub(super) fn read_all(lines: &str) -> Packets {
    let mut all = [Packets::default()];
    for line in lines.lines() {
        read(line, &mut all);
    }
    let [packets] = all;
    packets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_framecrc() {
        let mut all = vec![Packets::default(); 2];
        for line in [
            "#software: Lavf59.27.100",
            "#tb 0: 1/10240",
            "#tb 1: 1/44100",
            "0,     -15360,     -13312,     1024,      776, 0x01991490, F=0x5",
            "0,     -14336,     -10240,     1024,       20, 0x29d10534, F=0x4",
            "0,      -2048,       2048,     1024,       21, 0x3d1306cd, F=0x0, S=1,       8, 0x1",
            "0,      -1024,       1024,     1024,       15, 0x15ff038e",
            "1,          0,          0,     1024,      100, 0x15ff038e",
            "7, 1, 2, 3",
        ] {
            read(line, &mut all);
        }
        let [video, audio] = &all[..] else { unreachable!() };
        assert_eq!(
            (video.discarded, video.presented.len(), video.lasts),
            (2, 2, 4096)
        );
        assert_eq!((video.rate(), video.seconds(1024)), (10.0, 0.1));
        assert_eq!([video.presented[0].key, video.presented[1].key], [false, true]);
        assert_eq!(video.span(), Some((1024, 3072)));
        assert_eq!(audio.presented.len(), 1);
    }

    #[test]
    fn holes_are_not_heard() {
        let audible = |lines: &str| read_all(lines).audible(false);
        // A packet, a hole as a fragmented file has it, two packets.
        assert_eq!(
            audible("0,0,0,1024,9,0x0\n0,8820,8820,1024,9,0x0\n0,9844,9844,1024,9,0x0"),
            Some(3072)
        );
        // As ffmpeg 9 has the same file.
        let late = read_all("0,0,0,8820,9,0x0\n0,8820,8820,1024,9,0x0\n0,9844,9844,1024,9,0x0");
        assert_eq!(
            (late.audible(true), late.audible(false)),
            (Some(3072), Some(10_868))
        );
        // Rounded times, and packets that share theirs, leave none.
        assert_eq!(
            audible("0,0,0,23,9,0x0\n0,24,24,23,9,0x0\n0,47,47,23,9,0x0"),
            Some(70)
        );
        let bursts = "0,0,0,46,9,0x0\n0,0,0,46,9,0x0\n0,0,0,46,9,0x0\n0,138,138,46,9,0x0";
        assert_eq!(audible(bursts), Some(184));
        assert_eq!(audible("0,NOPTS,NOPTS,23,9,0x0"), None);
    }

    #[test]
    fn a_packet_without_a_time_is_shown_when_it_is_decoded() {
        let avi =
            read_all("0,0,-9223372036854775808,1,9,0x0\n0,1,-9223372036854775808,1,9,0x0\n0,2,2,1,9,0x0");
        assert_eq!(avi.presented[0].pts, None);
        assert_eq!((avi.span(), avi.audible(false)), (Some((0, 3)), Some(3)));
        let none = read_all("0,-9223372036854775808,-9223372036854775808,1,9,0x0");
        assert_eq!(none.span(), None);
    }
}
