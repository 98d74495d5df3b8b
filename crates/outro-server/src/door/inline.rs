//! Media that are in the request itself: base64, in data URLs or without a head.

use std::io::Read;

use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::read::DecoderReader;
use outro_media::Cancel;

use super::spool::{Room, Spool};
use super::{Kind, Refused, Said};

/// Padding may be missing.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Longest head of a data URL.
const HEAD: usize = 256;

/// The data of a data URL behind `data:`, and what its head says of it.
///
/// # Errors
/// Heads that are none, data that is not base64, MIME types of what is no medium, frames.
pub(super) fn data_url(rest: &str) -> Result<(&str, Option<Said>), Refused> {
    let bad = |text: &str| Refused::new(422, text);
    let head = rest.get(..rest.len().min(HEAD)).unwrap_or_default();
    let comma = head.find(',').ok_or_else(|| {
        bad("is no data URL: give it the form `data:video/mp4;base64,DATA`, with at most 256 characters before the comma")
    })?;
    let (head, data) = (&rest[..comma], &rest[comma + 1..]);
    let mut words = head.split(';').map(str::trim);
    let mime = words.next().unwrap_or_default().to_ascii_lowercase();
    if !words
        .next_back()
        .is_some_and(|w| w.eq_ignore_ascii_case("base64"))
    {
        return Err(bad(
            "is a data URL without `;base64` before the comma: only base64 is taken",
        ));
    }
    if mime == "video/jpeg" || data.contains(',') {
        return Err(bad(
            "is a list of frames, of which no video is made here: send them as images, or the video as mp4",
        ));
    }
    let kind = match mime.split_once('/') {
        _ if mime.starts_with("image/svg") => return Err(bad("is an SVG drawing, which is not rendered")),
        Some(("image", _)) => Some(Kind::Image),
        Some(("video", _)) => Some(Kind::Video),
        Some(("audio", _)) => Some(Kind::Audio),
        // What is in it says what it is.
        None if mime.is_empty() => None,
        Some(("application", "octet-stream" | "binary" | "ogg" | "mp4")) => None,
        _ => {
            return Err(bad(
                "is a data URL of a MIME type that is neither image, video nor audio",
            ));
        }
    };
    let said = kind.map(|kind| Said {
        kind,
        words: Some(mime),
        first: true,
    });
    Ok((data, said))
}

/// Decodes base64 into the spool. What is too large is refused before a byte is decoded.
pub(super) fn decode(data: &str, room: Room, cancel: &Cancel, spool: &mut Spool) -> Result<(), Refused> {
    let data = data.trim_ascii();
    room.check((data.len() as u64 / 4).saturating_mul(3).saturating_sub(2))?;
    let mut reader = DecoderReader::new(data.as_bytes(), &BASE64);
    let mut piece = vec![0; 1 << 16];
    loop {
        Refused::if_set(cancel)?;
        match reader.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(n) => spool.write(&piece[..n])?,
            // Its own words quote the data.
            Err(_) => {
                let text = "is not base64: only A-Z, a-z, 0-9, + and / are, and = at the end";
                return Err(Refused::new(422, text));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads() {
        let kind = |url: &str| data_url(url).map(|(data, said)| (data.to_owned(), said.map(|s| s.kind)));
        for (url, want) in [
            ("video/mp4;base64,AAAA", Some(Kind::Video)),
            ("IMAGE/PNG;Base64,AAAA", Some(Kind::Image)),
            ("audio/wav;codecs=1;charset=utf-8; base64,AAAA", Some(Kind::Audio)),
            ("application/octet-stream;base64,AAAA", None),
            (";base64,AAAA", None),
            ("image/x-unheard-of;base64,AAAA", Some(Kind::Image)),
        ] {
            assert_eq!(kind(url).unwrap(), ("AAAA".to_owned(), want), "{url}");
        }
        let long = format!("video/mp4;x={};base64,AAAA", "y".repeat(300));
        for (url, says) in [
            ("", "is no data URL"),
            ("video/mp4;base64", "is no data URL"),
            (&long, "is no data URL"),
            ("video/mp4,AAAA", "without `;base64`"),
            ("video/mp4;base64;x=1,AAAA", "without `;base64`"),
            ("base64,AAAA", "without `;base64`"),
            ("text/html;base64,AAAA", "neither image, video nor audio"),
            ("text;base64,AAAA", "neither image, video nor audio"),
            ("image/svg+xml;base64,AAAA", "SVG"),
            ("video/jpeg;base64,AAAA,BBBB", "list of frames"),
            ("image/jpeg;base64,AAAA,BBBB", "list of frames"),
            ("\u{e9}\u{e9};base64,AAAA", "neither image, video nor audio"),
        ] {
            let refused = kind(url).unwrap_err();
            assert!(
                refused.status == 422 && refused.message.contains(says),
                "{url}: {refused}"
            );
            assert!(!refused.message.contains("AAAA"));
        }
    }
}
