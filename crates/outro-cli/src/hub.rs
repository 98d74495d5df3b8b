//! From `--model` to a directory, with what the user sees meanwhile.

use std::path::PathBuf;

use outro_hub::{Cause, Event, Settings};

use crate::fault::Fault;
use crate::memory::total_and_free;
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
        Event::Chosen { all, taken, towers } => ui.note(&chosen(model, all, taken, towers)),
        Event::Note(text) => ui.note(&text),
    };
    outro_hub::resolve(model, &Settings::from_env(), &mut events).map_err(|e| fault(&e).into())
}

/// Which of several quantisations is taken, with the size of each and whether it fits into memory.
fn chosen(model: &str, all: &[(String, u64)], taken: usize, towers: Option<(&str, u64)>) -> String {
    let (_, available) = total_and_free();
    let beside = towers.map_or(0, |(_, size)| size);
    let list = all.iter().map(|(label, size)| {
        let fits = match available {
            Some(there) if size + beside > there => ", more than the free memory",
            _ => "",
        };
        format!("{label} ({}{fits})", bytes(*size))
    });
    let list: Vec<String> = list.collect();
    let (label, _) = &all[taken.min(all.len().saturating_sub(1))];
    let towers = towers.map_or(String::new(), |(name, size)| {
        format!(", with {name} ({})", bytes(size))
    });
    format!(
        "{model} holds {}; {label} is taken{towers}; {model}:{label} says so, and other names take the others",
        list.join(", ")
    )
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
