//! Clips as the tensors that a model would be given, for training without files.

use std::io::Write;
use std::path::Path;

use outro::prepare::{MediaOptions, Preparer};
use serde_json::json;

use super::{Clip, Question};
use crate::error::{Error, Result};
use crate::task::Profile;

/// Writes one clip: a little-endian u32, that many bytes of JSON (`index`, `scene`, `grid`, `patch_cols`, `mel_bins`,
/// `mel_frames`, `frames` (numbers of the frames taken), `questions` with `task`, `needs`, `prompt`, `answer`), then `f32` patches `[t * h * w, patch_cols]`
/// and `f32` mel `[mel_bins, mel_frames]`. They are what [`Preparer::load_media`] would read from the clip's file, but
/// for the losses of its coding.
///
/// # Errors
/// A model that takes no video, and a reader that went away.
pub fn write_tensors(
    out: &mut dyn Write,
    clip: &Clip,
    preparer: &Preparer,
    options: &MediaOptions,
) -> Result<()> {
    let mut taken = Vec::new();
    let pictures = |numbers: &[usize]| {
        taken = numbers.to_vec();
        clip.frames(numbers.iter().copied())
    };
    let mut samples = clip.samples();
    // AAC comes in blocks of 1,024 samples, the last filled with silence.
    samples.resize(samples.len().next_multiple_of(1024), 0.0);
    let inputs = preparer
        .media_of(&Clip::info(), pictures, &samples, options)?
        .inputs;
    let pixels = inputs.pixel_values_videos.unwrap_or_default();
    let audio = inputs.audio.unwrap_or_default();
    let profile = Profile::named(preparer.settings().profile.as_deref())?;
    // A model that is asked for an option learns to say it.
    let answer = |q: &Question| {
        if profile.name == "option" {
            q.words().to_owned()
        } else {
            q.answer.clone()
        }
    };
    let questions: Vec<_> = clip
        .questions
        .iter()
        .map(|q| json!({"task": q.task, "needs": q.needs, "prompt": q.prompt(profile), "answer": answer(q)}))
        .collect();
    let header = json!({
        "index": clip.index, "scene": clip.scene, "frames": taken, "grid": pixels.grid_thw.first(),
        "patch_cols": pixels.cols, "mel_bins": audio.mel_bins,
        "mel_frames": audio.lengths.first().copied().unwrap_or(0), "questions": questions,
    })
    .to_string();
    let mut record = (header.len() as u32).to_le_bytes().to_vec();
    record.extend(header.as_bytes());
    record.extend(
        pixels
            .data
            .iter()
            .chain(&audio.data)
            .flat_map(|x| x.to_le_bytes()),
    );
    out.write_all(&record).map_err(Error::io(Path::new("stdout")))
}
