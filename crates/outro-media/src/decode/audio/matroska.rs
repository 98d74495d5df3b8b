//! Which tracks of a Matroska file are played by default: those that do not say otherwise. The demuxer takes a flag that is
//! absent for one that is off (RFC 9559, 5.1.4.1.5).

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Tracks lie before the first sound; headers longer than this carry attachments in front, and are then not searched.
const HEAD: u64 = 4 << 20;

const SEGMENT: u64 = 0x1853_8067;
const TRACKS: u64 = 0x1654_AE6B;
const ENTRY: u64 = 0xAE;
const NUMBER: u64 = 0xD7;
const DEFAULT: u64 = 0x88;

/// Numbers of the tracks that are not played by default.
pub(super) fn not_default(path: &Path) -> Vec<u32> {
    let mut head = Vec::new();
    let read = File::open(path).and_then(|f| f.take(HEAD).read_to_end(&mut head));
    if read.is_err() {
        return Vec::new();
    }
    let Some(tracks) = child(&head, SEGMENT).and_then(|segment| child(segment, TRACKS)) else {
        return Vec::new();
    };
    let number = |entry, id| child(entry, id).map(|b| b.iter().fold(0u64, |n, b| n << 8 | u64::from(*b)));
    elements(tracks)
        .filter(|(id, entry)| *id == ENTRY && number(entry, DEFAULT) == Some(0))
        .filter_map(|(_, entry)| u32::try_from(number(entry, NUMBER)?).ok())
        .collect()
}

fn child(data: &[u8], id: u64) -> Option<&[u8]> {
    elements(data).find(|(i, _)| *i == id).map(|(_, inside)| inside)
}

/// The elements in `data`. One of unknown or too great a size holds all that is left.
fn elements(mut data: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    std::iter::from_fn(move || {
        let (id, _) = number(&mut data, false)?;
        let (size, unknown) = number(&mut data, true)?;
        let size = usize::try_from(size)
            .ok()
            .filter(|n| !unknown && *n <= data.len());
        let (inside, rest) = data.split_at(size.unwrap_or(data.len()));
        data = rest;
        Some((id, inside))
    })
}

/// A number whose first byte tells its length, with or without that mark; whether all its bits are set.
fn number(data: &mut &[u8], bare: bool) -> Option<(u64, bool)> {
    let first = *data.first()?;
    let length = first.leading_zeros() as usize + 1;
    let (bytes, rest) = data.split_at_checked(length)?;
    *data = rest;
    let whole = bytes.iter().fold(0u64, |n, b| n << 8 | u64::from(*b));
    let mask = u64::MAX >> (64 - 7 * length.min(9));
    Some((if bare { whole & mask } else { whole }, whole & mask == mask))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_that_are_absent_are_on() {
        let entry = |number: u8, flag: &[u8]| {
            let inside = [&[0xD7, 0x81, number], flag].concat();
            [&[0xAE, 0x80 | inside.len() as u8], &inside[..]].concat()
        };
        let tracks = [
            entry(1, &[]),
            entry(2, &[0x88, 0x81, 0]),
            entry(3, &[0x88, 0x81, 1]),
        ]
        .concat();
        let tracks = [&[0x16, 0x54, 0xAE, 0x6B, 0x80 | tracks.len() as u8], &tracks[..]].concat();
        // A segment of unknown size, as a live recording has it.
        let file = [
            &[0x1A, 0x45, 0xDF, 0xA3, 0x81, 0, 0x18, 0x53, 0x80, 0x67, 0xFF][..],
            &tracks,
        ]
        .concat();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("live.mka");
        std::fs::write(&path, &file).unwrap();
        assert_eq!(not_default(&path), [2]);
        for n in 0..file.len() {
            std::fs::write(&path, &file[..n]).unwrap();
            let _ = not_default(&path);
        }
    }
}
