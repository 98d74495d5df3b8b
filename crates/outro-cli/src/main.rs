//! The `outro` command: parses, dispatches, prints. Everything else is in the libraries.

mod args;
mod cache;
mod cmd;
mod fault;
mod hints;
mod hub;
mod interrupt;
mod memory;
mod shell;
mod ui;

use std::any::Any;
use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;

use args::{Action, Invocation};
use fault::Fault;

/// Weights and activations in huge pages: a decode step reads all weights and waits for little else.
#[global_allocator]
static ALLOCATOR: outro::HugePages = outro::HugePages;

/// Where the last panic happened; read when it arrives in [`guarded`].
static PANIC: Mutex<Option<String>> = Mutex::new(None);

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    if args.get(1).is_some_and(|a| a == outro_media::worker::ARG) {
        return outro_media::worker::run(args.get(2..).unwrap_or_default());
    }
    std::panic::set_hook(Box::new(remember_panic));
    let invocation = match args::parse(args) {
        Ok(invocation) => invocation,
        Err(Ok(clap)) => {
            // clap knows which of its messages belong on stdout; a closed pipe is no failure.
            let _ = clap.print();
            return ExitCode::from(u8::try_from(clap.exit_code()).unwrap_or(2));
        }
        Err(Err(error)) => return fault::report(&error),
    };
    match guarded(|| run(&invocation)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fault::report(&error),
    }
}

fn run(invocation: &Invocation) -> anyhow::Result<()> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(invocation.threads)
        .build_global()
        .map_err(|e| {
            Fault::failure(format!("--threads {}: {e}", invocation.threads)).hint("give a smaller number")
        })?;
    let ui = &invocation.ui;
    if invocation.action.decodes()
        && let Some(name) = cmd::doctor::ffmpeg_that_is_not_there()
    {
        ui.note(&format!(
            "OUTRO_FFMPEG = {name} is not there: the built-in decoders are used; OUTRO_FFMPEG=none says that on purpose"
        ));
    }
    match &invocation.action {
        Action::Ask(a) => cmd::ask::ask(a, ui),
        Action::Chat(a) => cmd::chat::chat(a, ui),
        Action::Serve(a) => cmd::serve::run(a, ui),
        Action::Trace(a) => cmd::trace::run(a, ui),
        Action::Prepare(a) => cmd::prepare::run(a, ui),
        Action::Inspect(a) => cmd::inspect::run(a, ui),
        Action::Synth(a) => cmd::synth::run(a, ui),
        Action::Eval(a) => cmd::eval::run(a, ui),
        Action::Tune(a) => cmd::tune::run(a, ui),
        Action::Bench(a) => cmd::bench::run(a, ui),
        Action::Sinks(a) => cmd::sinks::run(a, ui),
        Action::Convert(a) => cmd::convert::run(a, ui),
        Action::Demo(a) => cmd::demo::run(a, ui),
        Action::Doctor(json) => cmd::doctor::run(*json),
    }
}

/// Turns a panic, of this thread or handed on by a worker thread, into an error: it is our defect, but the user should
/// still get a sentence and an exit code.
fn guarded(f: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|payload| {
        let place = PANIC.lock().ok().and_then(|mut p| p.take()).unwrap_or_default();
        Err(Fault::failure(format!(
            "internal error{place}: {}",
            panic_message(payload.as_ref())
        ))
        .hint("this is a defect of outro; please report it with the command line")
        .into())
    })
}

fn remember_panic(info: &PanicHookInfo) {
    if let Ok(mut slot) = PANIC.lock() {
        *slot = info.location().map(|l| format!(" at {}:{}", l.file(), l.line()));
    }
}

fn panic_message(payload: &(dyn Any + Send)) -> String {
    payload
        .downcast_ref::<&str>()
        .map(|s| (*s).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_in_a_worker_thread_becomes_an_error() {
        let error = guarded(|| {
            rayon::join(|| (), || panic!("bang"));
            Ok(())
        })
        .unwrap_err();
        assert!(error.to_string().contains("bang"), "{error}");
    }
}
