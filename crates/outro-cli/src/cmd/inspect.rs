//! `outro inspect`: what a checkpoint or a media file is, before anything heavy starts.

mod checkpoint;
mod file;

pub(crate) use checkpoint::need;

use std::path::PathBuf;

use super::ask::emit;
use crate::args::Inspect;
use crate::args::flags::ModelFlags;
use crate::fault::Fault;
use crate::shell::source::{self, Source};
use crate::ui::Ui;

/// Looks at one thing.
pub(crate) fn run(args: &Inspect, ui: &Ui) -> anyhow::Result<()> {
    let target = PathBuf::from(&args.target);
    let (json, text, fault) = if target.is_file() && !outro::checkpoint::is_gguf(&target) {
        let model = match &args.model.model {
            Some(_) => Some(source::open(&args.model, ui)?),
            None => None,
        };
        let report = file::read(&target, &args.reading, model.as_ref())?;
        (report.json(), report.text(), None)
    } else {
        let report = checkpoint::read(&checkpoint(args, ui)?)?;
        (report.json(), report.text(), report.fault())
    };
    if args.json {
        emit(&format!("{}\n", serde_json::to_string_pretty(&json)?))?;
    } else {
        emit(&text)?;
    }
    match fault {
        None => Ok(()),
        Some(fault) => Err(Fault::failure(format!("{}: would not run: {fault}", args.target))
            .hint("config.json and weights are of different models, or files are incomplete; fetch the checkpoint again")
            .into()),
    }
}

/// The target as a checkpoint.
fn checkpoint(args: &Inspect, ui: &Ui) -> anyhow::Result<Source> {
    let flags = ModelFlags {
        model: Some(args.target.clone()),
        ..args.model.clone()
    };
    source::choose(&flags, ui)
}
