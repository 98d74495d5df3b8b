//! What a media file is and what it becomes.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use outro::chat::{Conversation, Part};
use outro::config::Config;
use outro::prepare::{Plan, Preparer};
use outro_media::{Kind, MediaInfo, Note, NoteKind, SAMPLE_RATE, VideoInfo, probe, read_audio, read_track};
use serde::Serialize;
use serde_json::{Value, json};

use super::checkpoint::{Need, need};
use crate::args::Reading;
use crate::hints;
use crate::shell::media;
use crate::shell::source::Source;
use crate::ui::{bytes, thousands};

/// Sound longer than this is not decoded to count its samples: its stated duration is taken.
const LONG_SOUND: f64 = 1200.0;

/// The published model whose rules count tokens where no model is named, and how that is said.
const RULE: (&str, &str) = ("qwen2.5-omni-7b", "by the rules of Qwen2.5-Omni");

/// What a model gets.
#[derive(Debug, Default, Serialize)]
struct Becomes {
    frames: Option<usize>,
    height: Option<usize>,
    width: Option<usize>,
    grid: Option<[usize; 3]>,
    image_tokens: usize,
    video_tokens: usize,
    samples: usize,
    mel_frames: usize,
    audio_tokens: usize,
    /// With a question of no words; absent without a checkpoint that has a tokenizer.
    prompt_tokens: Option<usize>,
}

/// All that `outro inspect` says about a media file.
pub(crate) struct Report {
    info: MediaInfo,
    becomes: Becomes,
    model: Option<(PathBuf, Config)>,
    weights: u64,
    limit: Option<usize>,
    notes: Vec<Note>,
}

/// Probes `path`, and counts what it becomes for the checkpoint in `model`, by the plan with which the engine would read it.
pub(crate) fn read(path: &Path, reading: &Reading, model: Option<&Source>) -> anyhow::Result<Report> {
    let info = probe(path, &reading.options)?;
    let preparer = match model {
        Some(source) => source.preparer()?,
        None => Preparer::published(RULE.0)?,
    };
    let plan = preparer
        .plan_probed(info.clone(), &media::options(reading, &preparer))
        .map_err(|e| {
            // Arithmetic on sizes and times does not know the file that it is about.
            let named = e.to_string().contains(&path.display().to_string());
            let e = anyhow::Error::new(e);
            if named {
                e
            } else {
                e.context(path.display().to_string())
            }
        })?;
    let mut report = Report {
        notes: info.notes.clone(),
        info,
        becomes: Becomes::default(),
        model: None,
        weights: 0,
        limit: None,
    };
    report.count_picture(&plan);
    report.count_sound(reading, preparer.config())?;
    if let Some(source) = model {
        report.weights = super::checkpoint::read(source)?.weight_bytes();
        report.model = Some((source.dir.clone(), preparer.config().clone()));
        report.count_prompt(&plan, &preparer)?;
    }
    Ok(report)
}

impl Report {
    fn count_picture(&mut self, plan: &Plan) {
        let Some(item) = plan.items.first().filter(|i| i.visual_tokens > 0) else {
            return;
        };
        let reduced = plan.notes.iter().filter(|n| n.kind == NoteKind::Reduced);
        self.notes.extend(reduced.cloned());
        let (b, view) = (&mut self.becomes, &item.view);
        (b.height, b.width, b.grid) = (Some(view.size[0]), Some(view.size[1]), Some(view.grid));
        b.frames = Some(view.indices.len().max(1));
        (b.image_tokens, b.video_tokens) = (plan.image_tokens, plan.video_tokens);
    }

    /// Counts its samples, which headers do not tell exactly.
    fn count_sound(&mut self, reading: &Reading, config: &Config) -> anyhow::Result<()> {
        let Some(audio) = &self.info.audio else {
            if self.info.kind == Kind::Video && reading.audio_in_video {
                self.note(NoteKind::NoSound, "it has no sound: its frames are used alone");
            }
            return Ok(());
        };
        if self.info.kind == Kind::Video && !reading.audio_in_video {
            return Ok(());
        }
        let (start, end) = (reading.start, reading.end);
        let samples = if audio.duration <= LONG_SOUND {
            let read = if self.info.kind == Kind::Video {
                read_track
            } else {
                read_audio
            };
            let sound = read(&self.info, start, end, &reading.options)?;
            self.notes.extend(sound.notes);
            sound.samples.len()
        } else {
            let text = "its sound is long: samples are estimated from the stated duration";
            let seconds = end.unwrap_or(audio.duration).min(audio.duration) - start.unwrap_or(0.0);
            self.note(NoteKind::Other, text);
            (seconds.max(0.0) * f64::from(SAMPLE_RATE)) as usize
        };
        match &config.audio {
            Some(tower) => {
                let b = &mut self.becomes;
                b.samples = samples;
                b.mel_frames = tower.mel_frames(samples, samples);
                b.audio_tokens = tower.tokens(b.mel_frames);
            }
            None if samples > 0 => {
                let text = "the model does not listen: its sound is not used";
                self.note(NoteKind::NoSound, text);
            }
            None => {}
        }
        Ok(())
    }

    /// With a checkpoint the prompt's length, too.
    fn count_prompt(&mut self, plan: &Plan, preparer: &Preparer) -> anyhow::Result<()> {
        if preparer.config().frames.drops_static_patches && self.becomes.video_tokens > 0 {
            let text = "parts that stand still are left out, so the tokens are the most that there can be";
            self.note(NoteKind::Other, text);
        }
        // A question of one token, which is taken off again.
        let part = match self.info.kind {
            Kind::Video => Part::Video(self.info.path.clone().into()),
            Kind::Image => Part::Image(self.info.path.clone().into()),
            Kind::Audio => Part::Audio(self.info.path.clone().into()),
        };
        let plan = preparer.plan_words(plan, &Conversation::new(None, &[part], "?"))?;
        if plan.text_tokens.is_some() {
            let others = plan.prompt_tokens.saturating_sub(plan.audio_tokens + 1);
            self.becomes.prompt_tokens = Some(others + self.becomes.audio_tokens);
        } else {
            let text = "the checkpoint has no tokenizer: the prompt's length is not known";
            self.note(NoteKind::Other, text);
        }
        self.limit = Some(plan.limit);
        if self.tokens() > plan.limit as u64 {
            let text = format!(
                "too long for the model, which takes {} tokens: use less with --max-tokens-per-video, --frames, --fps, --max-pixels, --start, --end",
                thousands(plan.limit as u64),
            );
            self.note(NoteKind::Other, &text);
        }
        Ok(())
    }

    fn note(&mut self, kind: NoteKind, text: &str) {
        self.notes.push(Note::new(kind, &self.info.path, text));
    }

    /// Prompt tokens, or at least the media's.
    fn tokens(&self) -> u64 {
        let b = &self.becomes;
        b.prompt_tokens
            .unwrap_or(b.image_tokens + b.video_tokens + b.audio_tokens) as u64
    }

    fn memory(&self) -> Option<(u64, u64, u64)> {
        let (_, config) = self.model.as_ref()?;
        let Need {
            cache_per_token,
            work_per_token,
        } = need(config);
        let (cache, work) = (self.tokens() * cache_per_token, self.tokens() * work_per_token);
        Some((
            cache,
            work,
            self.weights.saturating_add(cache).saturating_add(work),
        ))
    }

    /// For `--json`.
    pub(crate) fn json(&self) -> Value {
        let i = &self.info;
        json!({
            "kind": kind(i.kind),
            "path": i.path.display().to_string(),
            "container": i.container,
            "decoder": i.decoder.to_string(),
            "video": i.video.as_ref().map(|v| json!({
                "codec": v.codec, "width": v.width, "height": v.height, "fps": v.fps, "frames": v.frames, "duration": v.duration,
            })),
            "audio": i.audio.as_ref().map(|a| json!({
                "codec": a.codec, "channels": a.channels, "sample_rate": a.sample_rate, "duration": a.duration,
            })),
            "becomes": json!(self.becomes),
            "limit": self.limit,
            "rule": self.model.is_none().then_some(RULE.1),
            "model": self.model.as_ref().map(|(dir, _)| dir.display().to_string()),
            "memory": self.memory().map(|(cache, work, total)| json!({
                "weights": self.weights, "cache": cache, "prefill": work, "total": total,
            })),
            "notes": self.notes,
        })
    }

    /// For a reader.
    pub(crate) fn text(&self) -> String {
        let (i, b) = (&self.info, &self.becomes);
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "{:<12} {} ({}, decoder {})",
            kind(i.kind),
            i.path.display(),
            i.container,
            i.decoder
        );
        if let Some(v) = &i.video {
            let _ = writeln!(out, "{:<12} {}", "pictures", pictures(i.kind, v));
        }
        if let Some(a) = &i.audio {
            let _ = writeln!(
                out,
                "{:<12} {}, {} channels, {} Hz, {:.2} s",
                "sound", a.codec, a.channels, a.sample_rate, a.duration
            );
        }
        let _ = match &self.model {
            None => writeln!(
                out,
                "{:<12} {}; --model counts by another model's, and memory",
                "counted", RULE.1
            ),
            Some((dir, _)) => writeln!(out, "{:<12} as {} takes it", "counted", dir.display()),
        };
        if let (Some(n), Some(h), Some(w), Some([t, gh, gw])) = (b.frames, b.height, b.width, b.grid) {
            let tokens = thousands((b.video_tokens + b.image_tokens) as u64);
            let _ = writeln!(
                out,
                "{:<12} {n} frames of {h} x {w} (height x width), grid {t} x {gh} x {gw}, {tokens} tokens",
                "becomes"
            );
        }
        if b.samples > 0 {
            let (samples, mel) = (thousands(b.samples as u64), thousands(b.mel_frames as u64));
            let _ = writeln!(
                out,
                "{:<12} {samples} samples at 16 kHz, {mel} mel frames, {} tokens",
                "becomes",
                thousands(b.audio_tokens as u64)
            );
        }
        if let Some(n) = b.prompt_tokens {
            let _ = writeln!(
                out,
                "{:<12} {} tokens and the words of the question",
                "prompt",
                thousands(n as u64)
            );
        }
        if let Some((cache, work, total)) = self.memory() {
            let (w, c, a) = (bytes(self.weights), bytes(cache), bytes(work));
            let _ = writeln!(
                out,
                "{:<12} about {}: weights {w}, cache {c}, work {a}",
                "memory",
                bytes(total)
            );
        }
        for note in &self.notes {
            let _ = writeln!(out, "{:<12} {}{}", "note", note.text, hints::of_note(note));
        }
        out
    }
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Video => "video",
        Kind::Image => "image",
        Kind::Audio => "audio",
    }
}

/// Sizes are given as people say them: width first.
fn pictures(kind: Kind, v: &VideoInfo) -> String {
    if kind == Kind::Image {
        return format!("{}, {} x {}", v.codec, v.width, v.height);
    }
    format!(
        "{}, {} x {}, {:.3} frames/s, {} frames, {:.2} s",
        v.codec,
        v.width,
        v.height,
        v.fps,
        thousands(v.frames as u64),
        v.duration
    )
}
