//! What the first bytes of a file say it is.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::error::{Error, Result};
use crate::info::Kind;

/// Kinds of files, by who reads them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sniffed {
    /// mp4, mov, m4a.
    Mp4,
    /// Matroska and WebM: the built-in decoders read their sound.
    Matroska,
    /// A picture that is decoded here.
    Image,
    /// A picture that may be an animation, which ffmpeg can play.
    Gif,
    /// A picture of a format that only ffmpeg reads, by its name.
    Foreign(&'static str),
    /// Sound that the built-in decoders know.
    Audio,
    /// What only ffmpeg reads, by its name.
    Other(&'static str),
}

pub(crate) fn sniff(path: &Path) -> Result<Sniffed> {
    let kind = std::fs::metadata(path).map_err(Error::io(path))?.file_type();
    // Opening a pipe waits for somebody to write, and no deadline would end that.
    if !kind.is_file() && !kind.is_dir() {
        let problem = "is not a file: a pipe or a device cannot be read";
        return Err(Error::unusable(path, problem, None));
    }
    let mut head = Vec::new();
    File::open(path)
        .map_err(Error::io(path))?
        .take(HEAD)
        .read_to_end(&mut head)
        .map_err(Error::io(path))?;
    if head.is_empty() {
        return Err(Error::damaged(path, "is empty (0 bytes)"));
    }
    if LISTS.iter().any(|magic| head.starts_with(magic)) {
        let problem = "is a list of other files, not a media file; give one of those that it names";
        return Err(Error::unusable(path, problem, None));
    }
    let start = head.iter().take_while(|b| b.is_ascii_whitespace()).count();
    if head[start..]
        .get(..4)
        .is_some_and(|s| s.eq_ignore_ascii_case(b"<svg"))
    {
        let problem = "is an SVG drawing, which is not rendered; give a picture in PNG";
        return Err(Error::unusable(path, problem, None));
    }
    Ok(kind_of(&head))
}

/// What a file may be, by its first bytes, the likeliest first: containers of video may hold sound alone, and a gif may be a
/// video. Nothing is decoded.
///
/// # Errors
/// Files that cannot be read, empty ones, lists of other files, and what begins as no medium does.
pub fn kinds(path: &Path) -> Result<&'static [Kind]> {
    Ok(match sniff(path)? {
        Sniffed::Image | Sniffed::Foreign(_) => &[Kind::Image],
        Sniffed::Gif => &[Kind::Image, Kind::Video],
        Sniffed::Other(name) if SOUNDS.contains(&name) => &[Kind::Audio],
        Sniffed::Audio => &[Kind::Audio, Kind::Video],
        Sniffed::Other(NAMELESS) => {
            let problem = "is in no known format of pictures, video or sound";
            return Err(Error::unusable(path, problem, None));
        }
        Sniffed::Mp4 | Sniffed::Matroska | Sniffed::Other(_) => &[Kind::Video, Kind::Audio],
    })
}

/// What a file is, by its first bytes and, where they leave it open, its ending; `None` of what is no medium. Nothing is decoded.
pub fn guess(path: &Path) -> Option<Kind> {
    let ending = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    let ending = ending.to_ascii_lowercase();
    let is = |all: &[&str]| all.contains(&ending.as_str());
    let sound = is(&[
        "m4a", "m4b", "mka", "wma", "aac", "amr", "mp3", "wav", "flac", "ogg", "opus", "aif", "aiff",
    ]);
    Some(match sniff(path).ok()? {
        Sniffed::Image | Sniffed::Gif | Sniffed::Foreign(_) => Kind::Image,
        Sniffed::Audio => Kind::Audio,
        Sniffed::Other(name) if SOUNDS.contains(&name) => Kind::Audio,
        _ if sound => Kind::Audio,
        Sniffed::Other(NAMELESS) => {
            return is(&[
                "mp4", "mov", "mkv", "webm", "avi", "ts", "mts", "m2ts", "mpg", "mpeg", "m4v", "ogv", "3gp",
            ])
            .then_some(Kind::Video);
        }
        Sniffed::Mp4 | Sniffed::Matroska | Sniffed::Other(_) => Kind::Video,
    })
}

/// What cannot be told by its first bytes.
const NAMELESS: &str = "this format";

/// Formats of sound that only ffmpeg reads.
const SOUNDS: [&str; 6] = ["AIFF", "AMR", "CAF", "AU", "WavPack", "Monkey's Audio"];

/// Bytes that are looked at: three packets of a transport stream.
const HEAD: u64 = 400;

/// How lists begin: what these name would be opened, wherever it is.
const LISTS: [&[u8]; 7] = [
    b"#EXTM3U",
    b"ffconcat version",
    b"[playlist]",
    b"<?xml",
    b"<MPD",
    b"v=0\r\n",
    b"v=0\n",
];

/// Letters at the start, letters at another place, and what they say; the first that fits.
const MAGIC: &[(&[u8], usize, &[u8], Sniffed)] = &[
    (b"\x89PNG", 0, b"", Sniffed::Image),
    (b"\xFF\xD8\xFF", 0, b"", Sniffed::Image),
    (b"GIF8", 0, b"", Sniffed::Gif),
    (b"RIFF", 8, b"WEBP", Sniffed::Image),
    (b"", 4, b"ftypavi", Sniffed::Foreign("AVIF")),
    (b"", 4, b"ftyphei", Sniffed::Foreign("HEIC")),
    (b"", 4, b"ftyphev", Sniffed::Foreign("HEIC")),
    (b"", 4, b"ftypmif1", Sniffed::Foreign("HEIF")),
    (b"BM", 0, b"", Sniffed::Foreign("BMP")),
    (b"II*\0", 0, b"", Sniffed::Foreign("TIFF")),
    (b"MM\0*", 0, b"", Sniffed::Foreign("TIFF")),
    (b"\0\0\x01\0", 0, b"", Sniffed::Foreign("ICO")),
    (b"8BPS", 0, b"", Sniffed::Foreign("PSD")),
    (b"qoif", 0, b"", Sniffed::Foreign("QOI")),
    (b"\xFF\x0A", 0, b"", Sniffed::Foreign("JPEG XL")),
    (b"\0\0\0\x0CJXL ", 0, b"", Sniffed::Foreign("JPEG XL")),
    (b"\0\0\0\x0CjP  ", 0, b"", Sniffed::Foreign("JPEG 2000")),
    (b"v/1\x01", 0, b"", Sniffed::Foreign("OpenEXR")),
    (b"DDS ", 0, b"", Sniffed::Foreign("DDS")),
    (b"", 4, b"ftyp", Sniffed::Mp4),
    (b"", 4, b"moov", Sniffed::Mp4),
    (b"", 4, b"mdat", Sniffed::Mp4),
    (b"", 4, b"wide", Sniffed::Mp4),
    (b"", 4, b"free", Sniffed::Mp4),
    (b"", 4, b"skip", Sniffed::Mp4),
    (b"RIFF", 8, b"WAVE", Sniffed::Audio),
    (b"RF64", 8, b"WAVE", Sniffed::Audio),
    (b"BW64", 8, b"WAVE", Sniffed::Audio),
    (b"fLaC", 0, b"", Sniffed::Audio),
    (b"OggS", 0, b"", Sniffed::Audio),
    (b"ID3", 0, b"", Sniffed::Audio),
    (b"\x1A\x45\xDF\xA3", 0, b"", Sniffed::Matroska),
    (b"RIFF", 8, b"AVI ", Sniffed::Other("AVI")),
    (b"FORM", 8, b"AIF", Sniffed::Other("AIFF")),
    (b"FLV", 0, b"", Sniffed::Other("Flash video")),
    (b"\x30\x26\xB2\x75", 0, b"", Sniffed::Other("Windows Media")),
    (b"\0\0\x01\xBA", 0, b"", Sniffed::Other("MPEG")),
    (b"\0\0\x01\xB3", 0, b"", Sniffed::Other("MPEG")),
    (b"DKIF", 0, b"", Sniffed::Other("IVF")),
    (b"YUV4MPEG2 ", 0, b"", Sniffed::Other("YUV4MPEG2")),
    (b"\x06\x0E\x2B\x34", 0, b"", Sniffed::Other("MXF")),
    (b"#!AMR", 0, b"", Sniffed::Other("AMR")),
    (b"caff", 0, b"", Sniffed::Other("CAF")),
    (b".snd", 0, b"", Sniffed::Other("AU")),
    (b"wvpk", 0, b"", Sniffed::Other("WavPack")),
    (b"MAC ", 0, b"", Sniffed::Other("Monkey's Audio")),
];

fn kind_of(head: &[u8]) -> Sniffed {
    let at = |start: usize, magic: &[u8]| head.get(start..start + magic.len()) == Some(magic);
    let row = MAGIC
        .iter()
        .find(|(first, place, more, _)| at(0, first) && at(*place, more));
    if let Some((.., kind)) = row {
        return *kind;
    }
    match head {
        // Portable maps: a number from 1 to 7 and white space.
        [b'P', b'1'..=b'7', b' ' | b'\t' | b'\n' | b'\r', ..] => Sniffed::Foreign("PNM"),
        [0xFF, b, ..] if b & 0xE0 == 0xE0 => Sniffed::Audio,
        // Packets of 188 bytes, on Blu-ray behind 4 more.
        _ if [(0, 188), (4, 192)].iter().any(|(from, step)| {
            let all = [0, 1, 2].map(|i| head.get(from + i * step));
            all == [Some(&0x47); 3]
        }) =>
        {
            Sniffed::Other("an MPEG transport stream")
        }
        _ => Sniffed::Other(NAMELESS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_guessed() {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes, kind) in [
            ("a.bin", &b"\0\0\0\x1cftypisom"[..], Some(Kind::Video)),
            ("a.m4a", b"\0\0\0\x1cftypM4A ", Some(Kind::Audio)),
            ("a", b"\x89PNG\r\n", Some(Kind::Image)),
            ("a.wav", b"RIFF\0\0\0\0WAVEfmt ", Some(Kind::Audio)),
            ("a.ts", b"G@\0\x10", Some(Kind::Video)),
            ("notes.txt", b"What is it?", None),
            ("empty.mp4", b"", None),
        ] {
            let path = dir.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(guess(&path), kind, "{name}");
        }
        assert_eq!(guess(dir.path()), None);
    }

    #[test]
    fn kinds_are_told_apart() {
        for (head, kind) in [
            (&b"\0\0\0\x1cftypisom"[..], Sniffed::Mp4),
            (b"\0\0\0\x1cftypM4A ", Sniffed::Mp4),
            (b"\0\0\0\x1cftypavif", Sniffed::Foreign("AVIF")),
            (b"\0\0\0\x18ftypheic", Sniffed::Foreign("HEIC")),
            (b"RIFF\0\0\0\0WAVEfmt ", Sniffed::Audio),
            (b"RIFF\0\0\0\0AVI LIST", Sniffed::Other("AVI")),
            (b"P6\n2 2\n255\n", Sniffed::Foreign("PNM")),
            (b"Please", Sniffed::Other("this format")),
            (b"\xFF\xFB\x90\0", Sniffed::Audio),
            (b"\xFF\x0A\0\0", Sniffed::Foreign("JPEG XL")),
            (b"B", Sniffed::Other("this format")),
            (&[0x47; 400], Sniffed::Other("an MPEG transport stream")),
            (&[0x47; 300], Sniffed::Other("this format")),
            (b"#!AMR\n", Sniffed::Other("AMR")),
        ] {
            assert_eq!(kind_of(head), kind, "{head:?}");
        }
    }
}
