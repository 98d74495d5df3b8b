//! `outro convert`: any form of a checkpoint as a plain one.

use outro::convert;

use crate::args::Convert;
use crate::shell::source;
use crate::ui::{Ui, Unit, bytes, thousands};

/// Writes it.
pub(crate) fn run(args: &Convert, ui: &Ui) -> anyhow::Result<()> {
    let source = source::open(&args.model, ui)?;
    let config = source.config()?;
    let bar = ui.bar("writing weights", 0, Unit::Bytes);
    let made = convert::convert(&config, &source.dir, &args.out, args.dtype, &mut |done, total| {
        bar.total(total);
        bar.set(done);
    })?;
    bar.done();
    for note in config.held.notes.iter().chain(&made.notes) {
        ui.note(note);
    }
    ui.line(&format!(
        "{}: {} tensors, {}, in {} file{}",
        args.out.display(),
        thousands(made.tensors as u64),
        bytes(made.bytes),
        made.shards,
        if made.shards == 1 { "" } else { "s" }
    ));
    Ok(())
}
