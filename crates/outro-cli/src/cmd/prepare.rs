//! `outro prepare`: everything up to the model, as tensors. The format is documented in `args/flags.rs`.

use anyhow::Context;

use crate::args::Prepare;
use crate::shell::output::Target;
use crate::shell::{media, source};
use crate::ui::Ui;

/// Prepares one question.
pub(crate) fn run(args: &Prepare, ui: &Ui) -> anyhow::Result<()> {
    let target = Target::claim(&args.out)?;
    let source = source::open(&args.model, ui)?;
    let inputs = media::whole(&source, &args.media, args.system.as_deref(), &args.question, ui)?;
    inputs
        .save(target.temp())
        .with_context(|| format!("--out {}", args.out.display()))?;
    target.commit()
}
