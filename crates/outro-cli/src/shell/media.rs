//! From what was asked for to what the engine's preparation takes.

use std::path::Path;

use outro::chat::{Conversation, Part};
use outro::inputs::Inputs;
use outro::prepare::{self, MediaOptions, MediaProgress, Plan, Preparer};
use outro::tokenizer::Tokenizer;
use outro::{Engine, MediaSet, Update};
use outro_media::{Note, Sampling};

use crate::args::{Media, Reading};
use crate::fault::Fault;
use crate::hints;
use crate::shell::source::Source;
use crate::shell::{encoded, show};
use crate::ui::{Bar, Ui, Unit};

/// How the preparation reads media: what was typed, else what the model's outro.json says, else the defaults.
pub(crate) fn options(reading: &Reading, preparer: &Preparer) -> MediaOptions {
    options_over(reading, preparer.media_options())
}

/// How files are decoded where no flag says.
pub(crate) fn decoding() -> outro_media::Options {
    outro_media::Options {
        // As where there are flags: a child process for hostile bytes.
        worker: std::env::current_exe().ok(),
        ..outro_media::Options::default()
    }
}

/// What was typed over another base.
pub(crate) fn options_over(reading: &Reading, mut options: MediaOptions) -> MediaOptions {
    options.sampling = sampling(reading, &options.sampling);
    options.max_pixels = reading.max_pixels.or(options.max_pixels);
    options.max_video_tokens = reading.max_video_tokens.or(options.max_video_tokens);
    options.audio_in_video = reading.audio_in_video;
    options.media = reading.options.clone();
    options
}

/// Which frames are taken, where `own` is what happens when nothing was typed.
fn sampling(reading: &Reading, own: &Sampling) -> Sampling {
    let typed = reading.fps.is_some() || reading.frames.is_some();
    Sampling {
        fps: reading.fps.unwrap_or(own.fps),
        frames: if typed { reading.frames } else { own.frames },
        start: reading.start,
        end: reading.end,
        ..own.clone()
    }
}

/// A question about the media.
pub(crate) fn conversation(media: &Media, system: Option<&str>, question: &str) -> Conversation {
    Conversation::new(system.map(str::to_owned), &media.parts, question)
}

/// Counts the prompts of questions about the same media, each file probed once, and refuses one that is too long. An error
/// says which medium it is about.
pub(crate) fn plan(
    preparer: &Preparer,
    asked: &[Conversation],
    options: &MediaOptions,
) -> anyhow::Result<Plan> {
    let Some(first) = asked.first() else {
        return Ok(preparer.plan_media(std::iter::empty(), options)?);
    };
    let plan = match preparer.plan_media(first.media(), options) {
        Ok(plan) => plan,
        Err(error) => return Err(blame(preparer, first, options, error)),
    };
    for conversation in asked {
        preparer.plan_words(&plan, conversation)?.check()?;
    }
    Ok(plan)
}

/// Arithmetic on sizes and times does not know the file that it is about.
fn blame(
    preparer: &Preparer,
    asked: &Conversation,
    options: &MediaOptions,
    error: outro::Error,
) -> anyhow::Error {
    let text = error.to_string();
    for part in asked.media() {
        let (Part::Video(path) | Part::Image(path) | Part::Audio(path)) = part else {
            continue;
        };
        let name = path.display().to_string();
        if !text.contains(&name)
            && preparer
                .plan_media(std::iter::once(part), options)
                .is_err_and(|e| e.to_string() == text)
        {
            return anyhow::Error::new(error).context(name);
        }
    }
    error.into()
}

/// The checkpoint's tokenizer; asking in words needs one.
pub(crate) fn tokenizer<'a>(preparer: &'a Preparer, dir: &Path) -> anyhow::Result<&'a Tokenizer> {
    preparer.tokenizer().ok_or_else(|| {
        Fault::failure(format!("{}: the checkpoint has no tokenizer", dir.display()))
            .hint("put its tokenizer.json beside config.json, or use `outro trace` with prepared inputs")
            .into()
    })
}

/// Decodes the planned media, with progress and notes.
pub(crate) fn load(
    preparer: &Preparer,
    plan: &Plan,
    options: &MediaOptions,
    ui: &Ui,
) -> anyhow::Result<prepare::DecodedMedia> {
    if plan.items.is_empty() {
        return Ok(prepare::DecodedMedia::default());
    }
    let bar = ui.bar("reading media", 0, Unit::Count);
    let loaded = preparer.load_planned(plan, options, &mut |p| reads(&bar, &p))?;
    let seconds = bar.done();
    told(plan.items.len(), &loaded.notes, seconds, ui);
    Ok(loaded)
}

/// Decodes and encodes the planned media, videos frame by frame, with progress and notes.
pub(crate) fn read(engine: &Engine, plan: Plan, options: &MediaOptions, ui: &Ui) -> anyhow::Result<MediaSet> {
    let count = plan.items.len();
    let bar = ui.bar("reading media", 0, Unit::Count);
    let media = engine.media_planned(plan, options, &mut |update| match update {
        Update::Media(p) => reads(&bar, &p),
        Update::Encode(p) => show(&bar, p),
        Update::Prefill { .. } | Update::Text { .. } => {}
    })?;
    let seconds = bar.done();
    if count > 0 {
        told(
            count,
            media.notes(),
            (seconds - media.encode_seconds()).max(0.0),
            ui,
        );
        encoded(media.embeds(), media.encode_seconds(), ui);
    }
    Ok(media)
}

fn reads(bar: &Bar, progress: &MediaProgress) {
    bar.label(&match progress {
        MediaProgress::Frames { path, frames } => {
            format!("decoding {frames} frames of {}", path.display())
        }
        MediaProgress::Image { path } => format!("decoding {}", path.display()),
        MediaProgress::Audio { path } => format!("decoding the sound of {}", path.display()),
    });
}

/// What is to be known of media that were read.
fn told(count: usize, notes: &[Note], seconds: f64, ui: &Ui) {
    for note in notes {
        ui.note(&format!("{note}{}", hints::of_note(note)));
    }
    ui.line(&format!("read {count} media in {seconds:.1} s"));
}

/// All of the preparation; without a tokenizer the media's part of it, with a note.
pub(crate) fn whole(
    source: &Source,
    media: &Media,
    system: Option<&str>,
    question: &str,
    ui: &Ui,
) -> anyhow::Result<Inputs> {
    let preparer = source.preparer()?;
    let asked = conversation(media, system, question);
    let options = options(&media.reading, &preparer);
    let plan = plan(&preparer, std::slice::from_ref(&asked), &options)?;
    let loaded = load(&preparer, &plan, &options, ui)?;
    if preparer.tokenizer().is_some() {
        return Ok(preparer.assemble(loaded, &asked)?.inputs);
    }
    if media.parts.is_empty() {
        return Err(Fault::failure(format!(
            "{}: no tokenizer and no media: nothing to write",
            source.dir.display()
        ))
        .hint("give media, or a checkpoint with a tokenizer")
        .into());
    }
    ui.note("the checkpoint has no tokenizer: only the media's tensors are written");
    Ok(loaded.inputs)
}
