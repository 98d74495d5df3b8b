//! `outro bench`: how fast a model runs here, and how near that is to what the machine can do.

use std::fmt::Write as _;

use outro::Model;
use outro::settings::Settings;
use outro::strategy::Strategy;
use outro_lab::bench::{Bench as Result, Limits, Timed, bench};

use super::ask::emit;
use crate::args::Switches;
use crate::args::bench::Bench;
use crate::fault::Fault;
use crate::shell::source;
use crate::ui::{Ui, Unit, bytes, thousands};

/// Runs it and prints the table.
pub(crate) fn run(args: &Bench, ui: &Ui) -> anyhow::Result<()> {
    let mut unasked = false;
    let (config, method, source) = if let Some(shape) = &args.shape {
        let mut config = outro::shapes::config(shape)?;
        config.text.layers = args.layers.unwrap_or(config.text.layers);
        (config, outro::OutRoConfig::default(), None)
    } else {
        let source = source::choose(&args.model, ui)?;
        unasked = source.unasked;
        let (own, config) = (Settings::load(&source.dir)?, source.config()?);
        let method = source::method(
            &own,
            &Settings::place(&source.dir),
            &Switches::default(),
            config.text.layers,
        )?;
        (config, method, Some(source))
    };
    let limit = config.text.max_positions;
    let wanted = args.work.prompt_tokens.saturating_add(args.work.new_tokens);
    if wanted > limit {
        let problem = format!("{wanted} tokens of prompt and answer exceed the model's {limit}");
        return Err(Fault::usage(problem)
            .hint("give fewer --prompt-tokens or --new-tokens")
            .into());
    }
    for (flag, n, tower) in [
        ("--frames", args.work.frames, config.vision.is_some()),
        ("--audio-seconds", args.work.audio_seconds, config.audio.is_some()),
    ] {
        if n > 0 && !tower {
            return Err(
                Fault::usage(format!("{flag} {n}: this model has no tower for it"))
                    .hint("leave the flag out, or take another model")
                    .into(),
            );
        }
    }
    let read = |name: &String| Strategy::of_model(name, &method, &config.text);
    let strategies: Vec<Strategy> = args.strategies.iter().map(read).collect::<outro::Result<_>>()?;
    if unasked {
        ui.note(source::TINY_NOTE);
    }
    let bar = ui.bar("loading weights", 0, Unit::Count);
    let load = args.weights.load.clone();
    let model = match source {
        None => Model::random(config, load, 1)?,
        Some(source) => Model::open(config, &source.dir, load)?,
    };
    bar.done();
    let bar = ui.bar("measuring", 0, Unit::Count);
    let result = bench(&model, &strategies, args.weights.kv, &args.work, &mut |label| {
        bar.label(label);
    })?;
    bar.done();
    for (row, by) in result.rows.iter().zip(&strategies) {
        if row.layers_with_sinks == 0 && by.method.is_some() {
            ui.note(&format!(
                "{}: no sink was found, so OutRo did nothing",
                row.strategy
            ));
        }
    }
    if args.json {
        return emit(&format!("{}\n", serde_json::to_string_pretty(&result)?));
    }
    let model = args
        .shape
        .as_deref()
        .or(args.model.model.as_deref())
        .unwrap_or(source::TINY);
    emit(&(table(model, &args.weights.name(), &result) + LEGEND))
}

/// What the figures are.
const LEGEND: &str = "
A line: what was done, the median of all rounds (fastest to slowest), the rate, how near that is to this machine's limit, and
\"x\", the median over rounds of this strategy's seconds over the first's in the same round; a median of ratios is not the ratio
of the medians. The limit of prefill is arithmetic in f32, that of decoding memory, all weights and keys and values read once a
token. \"prefill adds\" is the memory that reading the prompt took above weights.
";

/// `1 pass a token`.
fn passes(of: &str, n: f64) -> String {
    format!("{n} pass{} a {of}", if n > 1.0 { "es" } else { "" })
}

fn table(model: &str, weights: &str, r: &Result) -> String {
    let mut out = format!("{model}, weights {weights}, {} threads, {}\n", r.threads, r.simd);
    let l = &r.limits;
    let _ = writeln!(
        out,
        "machine    reads {:.1} GB/s, multiplies {:.0} Gflop/s in f32",
        l.read_bytes_per_second / 1e9,
        l.f32_operations_per_second / 1e9
    );
    let _ = writeln!(
        out,
        "memory     weights {}, keys and values {}, peak {}",
        bytes(r.weight_bytes as u64),
        bytes(r.cache_bytes as u64),
        r.peak_bytes.map_or_else(|| "unknown".into(), |p| bytes(p as u64))
    );
    for (name, what, tower) in [
        ("vision", "patches", &r.vision),
        ("audio", "mel frames", &r.audio),
    ] {
        if let Some(t) = tower {
            let _ = writeln!(out, "{name:<10} {}", timed(what, t, l, false));
        }
    }
    for row in &r.rows {
        let _ = writeln!(
            out,
            "{}\n  prefill  {}\n  decode   {}\n  first token after {:.2} s; {}, {}; keys and values {}, prefill adds {}",
            row.strategy,
            timed("tokens", &row.prefill, l, false),
            timed("tokens", &row.decode, l, true),
            row.time_to_first_token,
            passes("prompt", row.passes[0]),
            passes("token", row.passes[1]),
            bytes(row.cache_bytes as u64),
            row.prefill_bytes
                .map_or_else(|| "unknown".into(), |p| bytes(p as u64))
        );
        if row.layers_with_sinks > 0 {
            let _ = writeln!(out, "  sinks in {} layers", row.layers_with_sinks);
        }
    }
    for t in &r.together {
        let n = t.strategies.len();
        let same = t.strategies.iter().all(|s| *s == t.strategies[0]);
        let who = if same {
            t.strategies[0].clone()
        } else {
            t.strategies.join(", ")
        };
        let _ = writeln!(
            out,
            "{n} requests in one step ({who}): {:.1} ms, {:.1} tokens/s; one after the other {:.1} ms, gain {:.2}",
            t.seconds * 1e3,
            n as f64 / t.seconds,
            t.alone * 1e3,
            t.gain
        );
    }
    if let Some(l) = &r.probe {
        let peak = |p: Option<usize>| p.map_or_else(|| "unknown".into(), |p| bytes(p as u64));
        let _ = writeln!(
            out,
            "probing    {:.1} s and a peak of {} for {} sinks; a plain prefill {:.1} s and {}",
            l.seconds,
            peak(l.peak_bytes),
            l.watched,
            l.plain_seconds,
            peak(l.plain_peak_bytes)
        );
    }
    out
}

fn timed(what: &str, t: &Timed, limits: &Limits, memory: bool) -> String {
    let of = if memory {
        let (share, least) = (100.0 * t.of_memory(limits), t.bytes / 1e9);
        format!("{share:.0} % of the memory limit ({least:.3} GB)")
    } else {
        let (share, least) = (100.0 * t.of_arithmetic(limits), t.operations / 1e9);
        format!("{share:.0} % of the f32 limit ({least:.1} Gflop)")
    };
    let what = if t.items == 1 {
        what.trim_end_matches('s')
    } else {
        what
    };
    format!(
        "{} {what} in {:.4} s ({:.4} to {:.4}), {:.1} a second, {of}, {:.3} x",
        thousands(t.items as u64),
        t.seconds,
        t.fastest,
        t.slowest,
        t.items as f64 / t.seconds,
        t.ratio
    )
}
