//! A few frames of a long file, each decoded from the key frame before it, where that gives the same pictures as decoding from
//! the beginning.

use crate::decode::process::{More, run};
use crate::error::Result;
use crate::info::{MediaInfo, Options};
use crate::picture::frames::Frames;

use super::packets::{self, Packet, Packets};
use super::ppm::Ppm;
use super::{every_frame, input};

/// Starting ffmpeg once takes about as long as decoding so many frames.
const START: usize = 100;
/// Frames that a decoder holds back before it shows the first.
const DELAY: usize = 32;
/// By how much seeking must be cheaper, in frames to decode.
const GAIN: usize = 3;

/// A frame to seek to.
struct Target {
    pts: i64,
    /// Packets from the key frame to it, in decoding order.
    cost: usize,
}

/// Decodes frames by seeking and says how many of them, from the first on, it gave. None where seeking gains little, or where
/// a frame's number does not follow from the packets.
pub(super) fn frames(
    file: &MediaInfo,
    indices: &[usize],
    o: &Options,
    sink: &mut dyn FnMut(Frames) -> Result<()>,
) -> Result<usize> {
    let Some(video) = &file.video else { return Ok(0) };
    let last = indices.last().copied().unwrap_or(0);
    // One picture a packet, and none that needs what is before a key frame if it is presented after it.
    let known = ["h264", "hevc", "av1"].contains(&video.codec.as_str())
        && ["mov", "matroska"].iter().any(|c| file.container.contains(c));
    if !known || indices.len().saturating_mul((START + DELAY) * GAIN) > last {
        return Ok(0);
    }
    let listed = packets::list(&file.path, &[file.streams.video], o)?;
    let Some(packets) = listed.first() else {
        return Ok(0);
    };
    let Some(targets) = targets(packets, video.frames, indices) else {
        return Ok(0);
    };
    let cost: usize = targets.iter().map(|t| t.cost + START + DELAY).sum();
    if cost.saturating_mul(GAIN) > last {
        return Ok(0);
    }
    for (done, target) in targets.iter().enumerate() {
        match one(file, target.pts, packets.seconds(target.pts), o)? {
            Some(frame) => sink(frame)?,
            None => return Ok(done),
        }
    }
    Ok(targets.len())
}

/// Where frames with these numbers are; `None` where the packets leave a doubt.
fn targets(packets: &Packets, frames: usize, indices: &[usize]) -> Option<Vec<Target>> {
    let presented = &packets.presented;
    if packets.discarded > 0 || presented.len() != frames || !presented.first()?.key {
        return None;
    }
    // In the order in which they are presented, with their place in the order of decoding.
    let mut times = presented
        .iter()
        .enumerate()
        .map(|(place, p)| Some((p.pts?, place)))
        .collect::<Option<Vec<_>>>()?;
    times.sort_unstable();
    let doubles = times.windows(2).any(|w| w[0].0 == w[1].0);
    // What is presented before the first key frame may not be decoded at all.
    if doubles || times.first()?.1 != 0 {
        return None;
    }
    let target = |index: &usize| {
        let (pts, place) = *times.get(*index)?;
        let begins = |p: &Packet| p.key && p.pts.is_some_and(|at| at <= pts);
        let from = presented[..=place].iter().rposition(begins)?;
        Some(Target {
            pts,
            cost: place - from,
        })
    };
    indices.iter().map(target).collect()
}

/// The frame that is presented at `pts`, which is `at` in seconds; `None` where there is none.
fn one(file: &MediaInfo, pts: i64, at: f64, o: &Options) -> Result<Option<Frames>> {
    // Times stay those of the file, and nothing is cut off before the filter, which ends behind the frame whether or not it
    // was there.
    let seconds = format!("{at:.6}");
    let mut options = vec!["-copyts", "-noaccurate_seek", "-seek_timestamp", "1"];
    if at > 0.0 {
        options.extend(["-ss", &seconds]);
    }
    let mut command = input(&file.path, &options, o)?;
    command
        .args(["-map", &format!("0:{}", file.streams.video)])
        .args(["-vf", &format!("trim=start_pts={pts}:end_pts={}", pts + 1)])
        .args(every_frame())
        .args(["-f", "image2pipe", "-c:v", "ppm", "-pix_fmt", "rgb24", "-"]);
    let (mut ppm, mut got) = (Ppm::default(), None);
    let path = &file.path;
    let ended = run(command, path, o, 1 << 20, &mut |piece| {
        ppm.push(path, &piece, &mut |frame| {
            got.get_or_insert(frame);
            Ok(())
        })?;
        Ok(More::Yes)
    })?;
    Ok(got.filter(|_| ended.failed.is_none()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::ffmpeg::packets::read_all;

    #[test]
    fn a_doubt_forbids_seeking() {
        let of = |lines: &str| read_all(lines);
        let good = "#tb 0: 1/10\n0,0,0,1,9,0x0\n0,1,3,1,9,0x0,F=0x0\n0,2,2,1,9,0x0,F=0x0\n0,3,4,1,9,0x0\n0,4,5,1,9,0x0,F=0x0";
        let found = targets(&of(good), 5, &[1, 4]).unwrap();
        let found: Vec<(i64, usize)> = found.iter().map(|t| (t.pts, t.cost)).collect();
        assert_eq!(found, [(2, 2), (5, 1)]);
        for bad in [
            "0,0,0,1,9,0x0\n0,1,0,1,9,0x0,F=0x0",
            "0,0,0,1,9,0x0,F=0x0\n0,1,1,1,9,0x0,F=0x0",
            "0,0,1,1,9,0x0\n0,1,0,1,9,0x0,F=0x0",
            "0,0,0,1,9,0x0\n0,1,NOPTS,1,9,0x0,F=0x0",
            "0,0,0,1,9,0x0\n0,1,1,1,9,0x0,F=0x4",
        ] {
            assert!(targets(&of(bad), 2, &[1]).is_none(), "{bad}");
        }
    }
}
