//! `outro synth`: videos of the synthetic world with questions, or their tensors.

use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context;
use outro_lab::synth::{self, Clip};

use super::ask::emit;
use crate::args::synth::Synth;
use crate::shell::source;
use crate::ui::{Ui, Unit, thousands};

/// Writes the set.
pub(crate) fn run(args: &Synth, ui: &Ui) -> anyhow::Result<()> {
    match &args.out {
        Some(out) => files(args, out, ui),
        None => stream(args, ui),
    }
}

fn files(args: &Synth, out: &Path, ui: &Ui) -> anyhow::Result<()> {
    let bar = ui.bar("rendering videos", args.set.videos as u64, Unit::Count);
    let done = AtomicU64::new(0);
    let report = synth::write(out, &args.set, &|| {
        bar.set(done.fetch_add(1, Ordering::Relaxed) + 1);
    })?;
    bar.done();
    let n = |n: usize| thousands(n as u64);
    emit(&format!(
        "{}: {} videos, {} AVHBench questions, {} Daily-Omni questions\n",
        out.display(),
        n(report.videos),
        n(report.avhbench),
        n(report.daily_omni)
    ))
}

fn stream(args: &Synth, ui: &Ui) -> anyhow::Result<()> {
    let source = source::open(&args.model, ui)?;
    let preparer = source.preparer()?;
    let options = preparer.media_options();
    let mut out = BufWriter::with_capacity(1 << 20, io::stdout().lock());
    for i in 0..args.set.videos as u64 {
        let clip = Clip::draw(args.set.seed, args.first + i, args.set.level);
        synth::write_tensors(&mut out, &clip, &preparer, &options)?;
    }
    out.flush().context("stdout")
}
