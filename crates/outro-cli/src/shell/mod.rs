//! What the commands share: where a model comes from, media with progress bars, sampling, answers, output files.

pub(crate) mod answer;
pub(crate) mod media;
pub(crate) mod output;
pub(crate) mod sampling;
pub(crate) mod source;

use outro::inputs::Inputs;
use outro::{Cancel, EncodeProgress, Engine, MediaEmbeds, MediaSet, Model, Update};

use self::source::Source;
use crate::args::Weights;
use crate::ui::{Bar, Ui, Unit, thousands};

/// Loads weights, with a progress bar; what is to be known of them is a note.
pub(crate) fn weights(source: &Source, held: &Weights, ui: &Ui) -> anyhow::Result<Model> {
    let bar = ui.bar("loading weights", 0, Unit::Count);
    let model = source.model(held.load.clone())?;
    bar.done();
    for note in model.notes() {
        ui.note(note);
    }
    Ok(model)
}

/// Runs the encoders over the media of `inputs`, with a progress bar.
pub(crate) fn encode_inputs(model: &Model, inputs: &Inputs, ui: &Ui) -> anyhow::Result<MediaEmbeds> {
    let bar = ui.bar("encoding", 0, Unit::Count);
    let media = model.encode(inputs, &mut |p| show(&bar, p))?;
    encoded(&media, bar.done(), ui);
    Ok(media)
}

/// Runs the encoders over decoded media, with a progress bar.
pub(crate) fn encode(
    engine: &Engine,
    media: outro::prepare::DecodedMedia,
    ui: &Ui,
) -> anyhow::Result<MediaSet> {
    let bar = ui.bar("encoding", 0, Unit::Count);
    let media = engine.encode(media, &Cancel::default(), &mut |update| {
        if let Update::Encode(p) = update {
            show(&bar, p);
        }
    })?;
    encoded(media.embeds(), bar.done(), ui);
    Ok(media)
}

fn show(bar: &Bar, progress: EncodeProgress) {
    let (label, done, total) = match progress {
        EncodeProgress::Vision { done, total } => ("encoding patches", done, total),
        EncodeProgress::Audio { done, total } => ("encoding sound", done, total),
    };
    bar.label(label);
    bar.total(total as u64);
    bar.set(done as u64);
}

fn encoded(media: &MediaEmbeds, seconds: f64, ui: &Ui) {
    let tokens = media.image.rows() + media.video.rows() + media.audio.rows();
    if tokens > 0 {
        ui.line(&format!(
            "encoded {} media tokens in {seconds:.1} s",
            thousands(tokens as u64)
        ));
    }
}
