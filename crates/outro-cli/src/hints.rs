//! What helps, in flags: libraries say it as data.

use outro::Hint;
use outro_media::{Note, NoteKind};

/// The flags that a hint stands for.
fn flags(hint: Hint) -> &'static str {
    use outro_media::Hint as Media;
    match hint {
        Hint::ShorterVideo => {
            "lower it with --max-tokens-per-video, --fps, --frames, --max-pixels or --start/--end"
        }
        Hint::SmallerImages => "lower it with --max-pixels, or give fewer images",
        Hint::ShorterAudio => "lower it with --start/--end",
        Hint::ShorterText => "ask a shorter question",
        Hint::WiderDtype => "hold the weights wider, with --dtype bf16 or --dtype f32",
        Hint::QuantiseHere => "take the unquantised checkpoint, with --quantize q4_k if memory is short",
        Hint::Media(Media::GiveAsImage) => "give it with --image",
        Hint::Media(Media::GiveAsVideoOrAudio) => "give videos with --video and sound with --audio",
        Hint::Media(Media::GiveAsImageAndAudio) => {
            "give that with --image, and the video's sound, if it has any, with --audio"
        }
        Hint::Media(Media::NeedsFfmpeg) => {
            "install ffmpeg, or set OUTRO_FFMPEG to the program; --decoder auto uses it"
        }
        Hint::Media(Media::LongerDeadline) => "--deadline gives it longer",
        // A hint without words is left out.
        _ => "",
    }
}

/// What helps with a library's error.
pub(crate) fn of(error: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    let lab = error.downcast_ref::<outro_lab::Error>();
    if let Some(outro_lab::Error::OtherRun { .. }) = lab {
        return Some("give another --out, or the strategies and settings that it was begun with");
    }
    let engine = || error.downcast_ref::<outro::Error>()?.hint();
    let media = || Some(Hint::Media(error.downcast_ref::<outro_media::Error>()?.hint()?));
    let hint = lab
        .and_then(outro_lab::Error::hint)
        .or_else(engine)
        .or_else(media)?;
    Some(flags(hint)).filter(|words| !words.is_empty())
}

/// A failure of the lab in one line, with what helps.
pub(crate) fn told(error: &outro_lab::Error) -> String {
    match of(error) {
        Some(hint) => format!("{error}; {hint}"),
        None => error.to_string(),
    }
}

/// What follows a note: the flag that changes what it says.
pub(crate) fn of_note(note: &Note) -> &'static str {
    match note.kind {
        NoteKind::Turned => "; --no-exif leaves it as it is stored",
        NoteKind::Reduced => "; --max-tokens-per-video says how many",
        NoteKind::Cut => "; --start/--end take another part",
        _ => "",
    }
}
