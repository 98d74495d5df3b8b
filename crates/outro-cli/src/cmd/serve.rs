//! `outro serve`: the OpenAI-compatible server.

use std::io::Write;
use std::sync::Arc;

use outro::Engine;
use outro::strategy::Strategy;
use outro_server::Load;

use crate::args::flags::ModelFlags;
use crate::args::serve::Serve;
use crate::fault::Fault;
use crate::shell::{media, source, weights};
use crate::ui::Ui;

/// Serves until SIGTERM or Ctrl-C.
pub(crate) fn run(args: &Serve, ui: &Ui) -> anyhow::Result<()> {
    if args.options.keys.is_empty() && !args.address.ip().is_loopback() {
        ui.note("whoever reaches this address can ask: no --api-key was given");
    }
    let mut options = args.options.clone();
    options.worker = std::env::current_exe().ok();
    if let Some(name) = &options.strategy {
        Strategy::parse(name, &outro::OutRoConfig::default())?;
    }
    if let Some(dir) = options.rules.local.as_deref().filter(|d| !d.is_dir()) {
        return Err(Fault::failure(format!(
            "--allowed-local-media-path {}: no such directory",
            dir.display()
        ))
        .hint("give the directory whose files requests may name")
        .into());
    }
    let (flags, held, told, named) = (args.model.clone(), args.weights.clone(), ui.clone(), args.named);
    let load = move |name: &str| -> anyhow::Result<Engine> {
        let flags = ModelFlags {
            model: named.then(|| name.to_owned()),
            ..flags.clone()
        };
        let source = source::open(&flags, &told)?;
        let preparer = source.preparer()?;
        media::tokenizer(&preparer, &source.dir)?;
        let model = weights(&source, &held, &told)?;
        Ok(Engine::of(&source.dir, preparer, model, held.kv)?)
    };
    let load: Arc<Load> = Arc::new(move |name| load(name).map_err(|e| format!("{e:#}")));
    // Who closed stderr reads no log.
    let line = |text: &str| _ = std::io::stderr().lock().write_all(format!("{text}\n").as_bytes());
    let quiet = !ui.shows_notes();
    let log = Arc::new(move |text: &str| {
        if !quiet {
            line(text);
        }
    });
    // Scripts wait for it.
    let ready = |address| {
        line(&format!(
            "listening on http://{address} (POST http://{address}/v1/chat/completions)"
        ));
    };
    Ok(outro_server::serve(args.address, options, load, log, ready)?)
}
