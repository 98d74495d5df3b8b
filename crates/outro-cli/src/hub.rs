//! From `--model` to a directory, with what the user sees meanwhile.

use std::path::PathBuf;

use outro_hub::{Cause, Event, Settings};

use crate::fault::Fault;
use crate::ui::{Bar, Ui, Unit, bytes};

/// The directory (or file) that holds the checkpoint `model`.
pub(crate) fn resolve(model: &str, ui: &Ui) -> anyhow::Result<PathBuf> {
    let mut bar: Option<Bar> = None;
    let mut events = |event: Event<'_>| match event {
        Event::Weights { bytes: n, into } => {
            ui.line(&format!("{model}: {} to fetch into {}", bytes(n), into.display()));
            bar = Some(ui.bar(model, n, Unit::Bytes));
        }
        Event::Arrived(n) => {
            if let Some(bar) = &bar {
                bar.set(n);
            }
        }
        Event::Note(text) => ui.note(&text),
    };
    outro_hub::resolve(model, &Settings::from_env(), &mut events).map_err(|e| fault(&e).into())
}

/// As it is shown, with its hint.
pub(crate) fn fault(error: &outro_hub::Error) -> Fault {
    let fault = if error.cause == Cause::Name {
        Fault::usage(error.to_string())
    } else {
        Fault::failure(error.to_string())
    };
    match error.way_out() {
        Some(hint) => fault.hint(hint),
        None => fault,
    }
}
