//! An answerer of which only replies are known: another program's endpoint, or replies that are there already.

use std::collections::HashMap;
use std::path::Path;
use std::time::Instant;

use outro::prepare::{MediaOptions, Preparer};
use outro_media::{Frames, Note, Picks, SAMPLE_RATE, Sound, write_jpeg};
use serde_json::Value;

use super::{Ablation, Refusal};
use crate::clip::{Clip, rate};
use crate::error::{Error, Result};
use crate::log::Row;
use crate::page::base64;
use crate::task::{Sample, hex};
use outro::strategy::Strategy;

/// The published model whose rules say what is looked at.
const RULE: &str = "qwen2.5-omni-7b";

/// Quality of the JPEG pictures that are sent.
const QUALITY: u8 = 90;

/// A video as others take it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RemoteMedia {
    /// `data:image/jpeg;base64,...` of every frame, in their order.
    pub frames: Vec<String>,
    /// A WAV file in base64: mono, 16 bits, 16,000 samples a second. Empty without sound.
    pub wav: String,
    fps: f64,
    pixels: [usize; 2],
    audio_seconds: f64,
    notes: Vec<Note>,
}

/// What came back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// The words.
    pub reply: String,
    /// Tokens of the prompt, as the other side counted them; 0 where it did not.
    pub prompt_tokens: usize,
}

/// Sends a question about a video to a remote model and waits for its reply.
pub type Send<'a> =
    dyn Fn(&Sample, &Strategy, &RemoteMedia) -> std::result::Result<Reply, Refusal> + Sync + 'a;

/// A remote model; only its replies are available.
pub struct Remote<'a> {
    /// Whether pictures and sound are shown; what is not shown is not decoded either.
    pub shows: bool,
    /// The question put.
    pub send: &'a Send<'a>,
}

/// Replies that are there already, by question.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replies {
    by_id: HashMap<String, String>,
    /// SHA-256 of the file.
    pub sha256: String,
}

impl Replies {
    /// Reads rows with `id` and `reply`, as a JSON list or JSON lines. A log will do: its header, rows of other strategies
    /// than `baseline` and rows without a reply are passed over.
    ///
    /// # Errors
    /// A row without these fields, or with an id that is there twice, by its number.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        let bad = |i: usize, problem: &str| Error::file(path, format!("row {}: {problem}", i + 1));
        let rows: Vec<Value> = if text.trim_start().starts_with('[') {
            serde_json::from_str(&text).map_err(|e| Error::file(path, e.to_string()))?
        } else {
            let lines = text.lines().filter(|l| !l.trim().is_empty()).enumerate();
            let row = |(i, l): (usize, &str)| serde_json::from_str(l).map_err(|e| bad(i, &e.to_string()));
            lines.map(row).collect::<Result<_>>()?
        };
        let mut by_id = HashMap::new();
        for (i, row) in rows.iter().enumerate() {
            let other = row["strategy"].as_str().is_some_and(|s| s != "baseline");
            if other || row["outro_eval"].is_number() || row["error"].is_string() {
                continue;
            }
            let id = match &row["id"] {
                Value::String(id) => id.clone(),
                Value::Number(id) => id.to_string(),
                _ => return Err(bad(i, "has no id")),
            };
            let reply = row["reply"].as_str().ok_or_else(|| bad(i, "has no reply"))?;
            if by_id.insert(id, reply.to_owned()).is_some() {
                return Err(bad(i, "answers a question that is answered before"));
            }
        }
        let sha256 = hex(text.as_bytes());
        Ok(Self { by_id, sha256 })
    }

    /// The reply to a question.
    ///
    /// # Errors
    /// There is none.
    pub fn send(&self, sample: &Sample) -> std::result::Result<Reply, Refusal> {
        let reply = self.by_id.get(&sample.id);
        let none = || Refusal::Question(format!("there is no reply to question {}", sample.id));
        Ok(Reply {
            reply: reply.ok_or_else(none)?.clone(),
            prompt_tokens: 0,
        })
    }
}

impl RemoteMedia {
    /// Decodes what a sample is about. Frames are sampled and sized as the engine does it for [`RULE`]: what the model behind
    /// an endpoint would do is not known.
    pub(super) fn of(sample: &Sample, options: &MediaOptions, ablation: Ablation) -> Result<Self> {
        let clip = Clip::open(&sample.video, &options.media)?;
        let sampling = &options.sampling;
        let planner = Preparer::published(RULE)?;
        let mut indices = Vec::new();
        let taken = clip.take(&mut |video| {
            let plan = planner.plan_video(video, options)?;
            indices.clone_from(&plan.indices);
            Ok(Picks {
                indices: plan.indices,
                size: Some(plan.size.into()),
            })
        })?;
        let mut frames = taken.frames;
        if ablation == Ablation::Picture {
            frames.data.fill(0);
        }
        let mut sound = Sound::default();
        if options.audio_in_video {
            sound = clip.sound(sampling.start, sampling.end)?;
        }
        let samples = sound.samples;
        let notes = [clip.notes(), taken.notes, sound.notes].concat();
        Ok(Self {
            frames: pictures(&frames)?,
            wav: if samples.is_empty() {
                String::new()
            } else {
                base64(&wav(&samples))
            },
            fps: rate(&indices, &taken.video),
            pixels: [frames.height, frames.width],
            audio_seconds: samples.len() as f64 / f64::from(SAMPLE_RATE),
            notes,
        })
    }
}

impl Remote<'_> {
    /// Answers one question.
    pub(super) fn answer(
        &self,
        sample: &Sample,
        by: &Strategy,
        shown: &RemoteMedia,
        row: &mut Row,
    ) -> std::result::Result<(), Refusal> {
        (row.frames, row.fps, row.pixels, row.audio_seconds) =
            (shown.frames.len(), shown.fps, shown.pixels, shown.audio_seconds);
        row.notes.clone_from(&shown.notes);
        row.prompt_sha256 = hex(sample.prompt.as_bytes());
        let since = Instant::now();
        let said = (self.send)(sample, by, shown)?;
        row.decode_seconds = since.elapsed().as_secs_f64();
        (row.reply, row.prompt_tokens) = (said.reply, said.prompt_tokens);
        Ok(())
    }
}

fn pictures(frames: &Frames) -> Result<Vec<String>> {
    let size = frames.height * frames.width * 3;
    let picture = |rgb: &[u8]| {
        let jpeg = write_jpeg(frames.width, frames.height, rgb, QUALITY)?;
        Ok(format!("data:image/jpeg;base64,{}", base64(&jpeg)))
    };
    frames.data.chunks_exact(size.max(1)).map(picture).collect()
}

/// A WAV file of mono samples in -1..1.
fn wav(samples: &[f32]) -> Vec<u8> {
    let bytes = u32::try_from(samples.len() * 2).unwrap_or(u32::MAX - 36);
    let mut out = Vec::with_capacity(44 + samples.len() * 2);
    out.extend(b"RIFF");
    out.extend((36 + bytes).to_le_bytes());
    out.extend(b"WAVEfmt ");
    out.extend(16_u32.to_le_bytes());
    // PCM, one channel.
    out.extend([1_u16, 1].iter().flat_map(|n| n.to_le_bytes()));
    out.extend(
        [SAMPLE_RATE, SAMPLE_RATE * 2]
            .iter()
            .flat_map(|n| n.to_le_bytes()),
    );
    // Bytes of a sample, bits of a sample.
    out.extend([2_u16, 16].iter().flat_map(|n| n.to_le_bytes()));
    out.extend(b"data");
    out.extend(bytes.to_le_bytes());
    out.extend(
        samples
            .iter()
            .flat_map(|s| ((s.clamp(-1.0, 1.0) * 32767.0).round() as i16).to_le_bytes()),
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wav_file_can_be_read_again() {
        let samples: Vec<f32> = (0..1600).map(|i| (i as f32 * 0.05).sin() * 0.5).collect();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.wav");
        std::fs::write(&path, wav(&samples)).unwrap();
        let options = outro_media::Options {
            decoder: outro_media::Decoder::Builtin,
            ..outro_media::Options::default()
        };
        let file = outro_media::probe(&path, &options).unwrap();
        let read = outro_media::read_audio(&file, None, None, &options)
            .unwrap()
            .samples;
        assert_eq!(read.len(), samples.len());
        for (a, b) in samples.iter().zip(&read) {
            assert!((a - b).abs() < 1e-3, "{a} {b}");
        }
    }
}
