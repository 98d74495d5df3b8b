//! One module per command. Each takes its validated configuration and the terminal.

mod answer;
pub(crate) mod ask;
pub(crate) mod bench;
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod eval;
pub(crate) mod inspect;
mod media;
mod output;
pub(crate) mod prepare;
mod sampling;
pub(crate) mod sinks;
mod source;
pub(crate) mod synth;
pub(crate) mod trace;
pub(crate) mod tune;

use outro::inputs::Inputs;
use outro::{MediaEmbeds, Model, Progress};

use crate::ui::{Ui, Unit, thousands};

/// Runs the encoders over the media of `inputs`, with a progress bar each.
fn encode(model: &Model, inputs: &Inputs, ui: &Ui) -> anyhow::Result<MediaEmbeds> {
    let bar = ui.bar("encoding", 0, Unit::Count);
    let media = model.encode(inputs, &mut |p| {
        let (label, done, total) = match p {
            Progress::Vision { done, total } => ("encoding patches", done, total),
            Progress::Audio { done, total } => ("encoding sound", done, total),
        };
        bar.label(label);
        bar.total(total as u64);
        bar.set(done as u64);
    })?;
    let seconds = bar.done();
    let tokens = media.image.rows() + media.video.rows() + media.audio.rows();
    if tokens > 0 {
        ui.line(&format!(
            "encoded {} media tokens in {seconds:.1} s",
            thousands(tokens as u64)
        ));
    }
    Ok(media)
}
