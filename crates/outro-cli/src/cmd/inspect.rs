//! `outro inspect`: what a checkpoint or a media file is, before anything heavy starts.

mod checkpoint;
mod file;

pub(crate) use checkpoint::need;

use std::path::{Path, PathBuf};

use super::ask::emit;
use crate::args::Inspect;
use crate::fault::Fault;
use crate::hub;
use crate::shell::source;
use crate::ui::Ui;

/// Looks at one thing.
pub(crate) fn run(args: &Inspect, ui: &Ui) -> anyhow::Result<()> {
    let target = PathBuf::from(&args.target);
    let (json, text, fault) = if target.is_file() && !outro::checkpoint::is_gguf(&target) {
        let model = match &args.model {
            Some(model) => Some(source::open(Some(model), ui)?.dir),
            None => None,
        };
        let report = file::read(&target, &args.reading, model.as_deref())?;
        (report.json(), report.text(), None)
    } else {
        let report = checkpoint::read(&directory(&target, &args.target, ui)?)?;
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

fn directory(path: &Path, name: &str, ui: &Ui) -> anyhow::Result<PathBuf> {
    if path.exists() {
        Ok(path.to_path_buf())
    } else if name == source::TINY {
        Ok(source::choose(Some(name), ui)?.dir)
    } else {
        hub::resolve(name, ui)
    }
}
