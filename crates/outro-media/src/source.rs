//! Opening a media file: what it is, which decoder reads it, and its frames or samples.

use std::path::Path;

use crate::decode::sniff::{Sniffed, sniff};
use crate::decode::{ffmpeg, worker};
use crate::error::{Error, Hint, Result};
use crate::info::{Decoded, Decoder, MediaInfo, Options, VideoInfo};
use crate::note::{Note, NoteKind};
use crate::picture::frames::Frames;
use crate::picture::resize::Resize;
use crate::sound::resample::{SAMPLE_RATE, resample};

/// Reads streams and sizes. No picture or sound is decoded.
///
/// # Errors
/// Empty, damaged and unreadable files, and formats that need ffmpeg while it is missing.
pub fn probe(path: &Path, o: &Options) -> Result<MediaInfo> {
    by_kind(path, sniff(path)?, o)
}

/// [`probe`] of a file that is given as a video: an animated gif is one.
///
/// # Errors
/// As [`probe`], and pictures.
pub fn probe_video(path: &Path, o: &Options) -> Result<MediaInfo> {
    let kind = match sniff(path)? {
        Sniffed::Gif => Sniffed::Other("a gif as a video"),
        Sniffed::Image | Sniffed::Foreign(_) => {
            return Err(Error::unusable(
                path,
                "is a picture, not a video",
                Hint::GiveAsImage,
            ));
        }
        kind => kind,
    };
    by_kind(path, kind, o)
}

fn by_kind(path: &Path, kind: Sniffed, o: &Options) -> Result<MediaInfo> {
    if matches!(kind, Sniffed::Image | Sniffed::Gif | Sniffed::Foreign(_)) {
        let info = worker::picture_info(path, o)?;
        o.limits.allow(&info)?;
        return Ok(info);
    }
    let info = if use_ffmpeg(path, o, &kind)? {
        ffmpeg::probe(path, o)?
    } else {
        worker::probe(path, o)?
    };
    o.limits.allow(&info)?;
    Ok(info)
}

fn use_ffmpeg(path: &Path, o: &Options, kind: &Sniffed) -> Result<bool> {
    let missing = |format: &str, reason: &str| Error::needs_ffmpeg(path, format, reason);
    match (o.decoder, kind) {
        (Decoder::Ffmpeg, _) if !ffmpeg::found() => Err(missing("the decoder asked for", Error::NOT_FOUND)),
        (Decoder::Ffmpeg, _) => Ok(true),
        (Decoder::Auto, _) if ffmpeg::found() => Ok(true),
        (Decoder::Auto, Sniffed::Other(format)) => Err(missing(format, Error::NOT_FOUND)),
        (Decoder::Builtin, Sniffed::Other(format)) => Err(missing(format, Error::FORBIDDEN)),
        _ => Ok(false),
    }
}

/// Decodes the frames with these numbers (presentation order, ascending) of a file that was probed, at the file's own size.
///
/// # Errors
/// Files without pictures, damaged streams, decoders that hang or crash, numbers that the file does not hold.
pub fn read_frames(file: &MediaInfo, indices: &[usize], o: &Options) -> Result<Frames> {
    let picks = Picks {
        indices: indices.to_vec(),
        size: None,
    };
    let mut frames = Frames::default();
    let (got, decoded) = decode(file, &picks, crate::picture::resize::resize, o, &mut |f| {
        frames.append(f, indices.len());
        Ok(())
    })?;
    if got == indices.len() {
        Ok(frames)
    } else {
        Err(short(file, got, indices.len(), &decoded))
    }
}

/// Which frames of a video are taken, and how large.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picks {
    /// Numbers in presentation order, ascending.
    pub indices: Vec<usize>,
    /// Height and width to which each is resized as it comes; `None` keeps the file's own.
    pub size: Option<(usize, usize)>,
}

/// Says which frames of a video are taken.
pub type Pick<'a, T, E> = dyn FnMut(&VideoInfo) -> std::result::Result<T, E> + 'a;

/// Frames of a video, or what was made of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Pictures<T = Frames> {
    /// The frames.
    pub frames: T,
    /// What the video turned out to be: as it was probed, but for the number of its frames.
    pub video: VideoInfo,
    /// What the user should know about the decoding.
    pub notes: Vec<Note>,
}

/// Decodes the frames that `pick` takes of a video, each resized as it comes, so that large frames never pile up. How many
/// frames there are is a prediction until they are decoded: where it was wrong, `pick` is asked again with the true number,
/// and a note says so.
///
/// # Errors
/// As [`read_frames`]; what `pick` refuses.
pub fn read_video<E: From<Error>>(
    file: &MediaInfo,
    pick: &mut Pick<'_, Picks, E>,
    resize: Resize,
    o: &Options,
) -> std::result::Result<Pictures, E> {
    let mut pick = |video: &VideoInfo| -> std::result::Result<_, E> {
        let picks = pick(video)?;
        let expected = picks.indices.len();
        Ok((picks, (Frames::default(), expected)))
    };
    let mut take = |(frames, expected): &mut (Frames, usize), f| {
        frames.append(f, *expected);
        Ok(())
    };
    let read = fold_video(file, &mut pick, &mut take, resize, o)?;
    Ok(Pictures {
        frames: read.frames.0,
        video: read.video,
        notes: read.notes,
    })
}

/// [`read_video`] without keeping the frames: `take` gets each as it comes, and what `pick` gave beside the picks to put it in.
///
/// # Errors
/// As [`read_video`]; what `take` refuses.
pub fn fold_video<T, E: From<Error>>(
    file: &MediaInfo,
    pick: &mut Pick<'_, (Picks, T), E>,
    take: &mut dyn FnMut(&mut T, Frames) -> Result<()>,
    resize: Resize,
    o: &Options,
) -> std::result::Result<Pictures<T>, E> {
    let mut video = file.video.clone().ok_or_else(|| Error::NoStream {
        path: file.path.clone(),
        what: "video stream",
    })?;
    let (mut picks, mut all) = pick(&video)?;
    let mut recounted = None;
    loop {
        let (got, mut decoded) = decode(file, &picks, resize, o, &mut |f| take(&mut all, f))?;
        match decoded.total.filter(|n| *n != video.frames) {
            Some(total) if recounted.is_none() && total > 0 => {
                let text = format!(
                    "{total} frames come out of it, where {} were expected: picked from those",
                    video.frames
                );
                recounted = Some(Note::new(NoteKind::Recounted, &file.path, text));
                video.frames = total;
                let again = pick(&video)?;
                if again.0 != picks || got != picks.indices.len() {
                    (picks, all) = again;
                    continue;
                }
            }
            _ => {}
        }
        if got != picks.indices.len() {
            return Err(short(file, got, picks.indices.len(), &decoded).into());
        }
        decoded.notes.extend(recounted);
        return Ok(Pictures {
            frames: all,
            video,
            notes: decoded.notes,
        });
    }
}

fn short(file: &MediaInfo, got: usize, wanted: usize, decoded: &Decoded) -> Error {
    let why = decoded.notes.first().map_or_else(
        || "it is truncated or damaged".to_string(),
        |note| note.text.clone(),
    );
    Error::damaged(&file.path, format!("gave {got} of {wanted} frames: {why}"))
}

/// Hands the picked frames to `take`, resized, one at a time and all of one size. Says how many that were.
fn decode(
    file: &MediaInfo,
    picks: &Picks,
    resize: Resize,
    o: &Options,
    take: &mut dyn FnMut(Frames) -> Result<()>,
) -> Result<(usize, Decoded)> {
    let (path, indices) = (&file.path, &picks.indices);
    if indices.is_empty() || indices.windows(2).any(|w| w[0] >= w[1]) {
        return Err(Error::range("frames", "numbers must be ascending, and not none"));
    }
    let (mut got, mut size) = (0, None);
    let mut sink = |f: Frames| -> Result<()> {
        let f = match picks.size {
            Some((h, w)) => resize(&f, h, w),
            None => f,
        };
        if *size.get_or_insert((f.height, f.width)) != (f.height, f.width) {
            let problem = "changes its size between frames; re-encode it";
            return Err(Error::damaged(path, problem));
        }
        got += f.count;
        take(f)
    };
    let decoded = if file.decoder == Decoder::Ffmpeg {
        ffmpeg::frames(file, indices, o, &mut sink)?
    } else {
        worker::frames(path, indices, o, &mut sink)?
    };
    Ok((got, decoded))
}

/// Decodes one picture: upright unless [`Options::exif`] is off, alpha on white, first frame of an animation. What is
/// neither png, jpeg, webp nor gif goes through ffmpeg.
///
/// # Errors
/// Damaged, truncated or enormous pictures; other formats without ffmpeg.
pub fn read_image(path: &Path, o: &Options) -> Result<Frames> {
    worker::picture(path, o)
}

/// Sound of a file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sound {
    /// Mono, 16,000 a second.
    pub samples: Vec<f32>,
    /// What the user should know about the decoding.
    pub notes: Vec<Note>,
}

/// Decodes sound of a file that was probed: mono, 16 kHz, channels averaged before resampling, between two times in seconds.
///
/// # Errors
/// As [`read_frames`], and files without sound.
pub fn read_audio(file: &MediaInfo, start: Option<f64>, end: Option<f64>, o: &Options) -> Result<Sound> {
    for (what, time) in [("start", start), ("end", end)] {
        if time.is_some_and(|t| !t.is_finite() || t < 0.0) {
            return Err(Error::range(what, "must be 0 seconds or later"));
        }
    }
    let path = &file.path;
    let (samples, rate, notes) = read_samples(file, end, o)?;
    let at = |t: f64| ((t * f64::from(rate)).round() as usize).min(samples.len());
    let range = start.map_or(0, at)..end.map_or(samples.len(), at);
    if range.is_empty() {
        let seconds = samples.len() as f64 / f64::from(rate.max(1));
        let problem = format!("has no sound between start and end; it lasts {seconds:.2} seconds");
        return Err(Error::unusable(path, problem, None));
    }
    let samples = resample(&samples[range], rate, SAMPLE_RATE);
    Ok(Sound { samples, notes })
}

/// The samples of [`read_audio`] before they are resampled, with their rate: channels averaged, from the beginning to `end` or
/// a little later.
///
/// # Errors
/// As [`read_audio`].
pub fn read_samples(file: &MediaInfo, end: Option<f64>, o: &Options) -> Result<(Vec<f32>, u32, Vec<Note>)> {
    let path = &file.path;
    let (samples, rate, notes) = if file.decoder == Decoder::Ffmpeg {
        ffmpeg::audio(file, end, o)?
    } else {
        worker::audio(path, o)?
    };
    if let Some(i) = samples.iter().position(|x| !x.is_finite()) {
        let problem = format!(
            "its sound holds samples that are no numbers (NaN or infinite), the first at {:.3} s; make it anew",
            i as f64 / f64::from(rate.max(1))
        );
        return Err(Error::damaged(path, problem));
    }
    Ok((samples, rate, notes))
}

/// [`read_audio`] of a video, whose pictures are there in any case: sound that cannot be decoded is left out, and a note
/// says so.
///
/// # Errors
/// Files that cannot be read, decoders that hang or crash, times below 0.
pub fn read_track(file: &MediaInfo, start: Option<f64>, end: Option<f64>, o: &Options) -> Result<Sound> {
    let why = match read_audio(file, start, end, o) {
        Err(Error::Damaged { problem, .. } | Error::Unusable { problem, .. }) => problem,
        Err(Error::NoStream { .. }) => "there is none".into(),
        Err(Error::NeedsFfmpeg { format, reason, .. }) => format!("{format} needs ffmpeg, {reason}"),
        read => return read,
    };
    let text = format!("its sound is left out, only its frames are used: {why}");
    Ok(Sound {
        samples: Vec::new(),
        notes: vec![Note::new(NoteKind::NoSound, &file.path, text)],
    })
}
