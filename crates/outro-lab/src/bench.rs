//! Speed and memory of prefill, decode and towers, of one or several strategies in alternation, beside what the machine
//! can do at most.

mod together;

use std::sync::Arc;
use std::time::Instant;

use outro::inputs::{AudioFeatures, Inputs, Pixels};
use outro::method::OutRo;
use outro::positions::{Positions, Span};
use outro::strategy::{Noise, Request, Strategy};
use outro::{Cancel, Deepstack, EncodeProgress, KvType, Level, Mat, Model, Prefix, Prompt, Session, Stream};
use outro::{f32_operations_per_second, read_bytes_per_second};
use serde::Serialize;

use crate::error::Result;
use crate::probe::{Options, probe};
use crate::synth::rng::Rng;
pub use together::Together;

/// What is run.
#[derive(Clone, Debug, Serialize)]
pub struct Work {
    /// Rows of the prompt.
    pub prompt_tokens: usize,
    /// Decode steps.
    pub new_tokens: usize,
    /// Frames of 448 x 448, or of the one size that the model takes, through the vision tower; none is 0.
    pub frames: usize,
    /// Seconds of sound through the audio tower.
    pub audio_seconds: usize,
    /// Rounds; medians are over them.
    pub rounds: usize,
    /// Requests that decode together, beside those of the strategies alone; below 2 none do.
    pub requests: usize,
    /// Probe the prompt too, as the sink lab does.
    pub probe: bool,
}

/// What the machine can do at most.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Limits {
    /// Bytes read from memory, all threads together.
    pub read_bytes_per_second: f64,
    /// Multiplications and additions of f32 in registers, all threads together.
    pub f32_operations_per_second: f64,
}

impl Limits {
    /// Takes about two seconds.
    pub fn measure() -> Self {
        Self {
            read_bytes_per_second: read_bytes_per_second(),
            f32_operations_per_second: f32_operations_per_second(),
        }
    }

    /// A machine that others use, too, is faster at one time than at another: as for what is timed, the median counts.
    fn median(all: &[Self]) -> Self {
        let of = |what: fn(&Self) -> f64| median(&all.iter().map(what).collect::<Vec<_>>());
        Self {
            read_bytes_per_second: of(|l| l.read_bytes_per_second),
            f32_operations_per_second: of(|l| l.f32_operations_per_second),
        }
    }
}

/// Something that was timed.
#[derive(Clone, Debug, Serialize)]
pub struct Timed {
    /// Median of the rounds, in seconds.
    pub seconds: f64,
    /// Fastest round.
    pub fastest: f64,
    /// Slowest round.
    pub slowest: f64,
    /// Median of the ratios to the first strategy, round by round; 1 for the first.
    pub ratio: f64,
    /// What it processes: tokens, patches or mel frames.
    pub items: usize,
    /// Multiplications and additions that it cannot do without.
    pub operations: f64,
    /// Bytes that it cannot do without reading.
    pub bytes: f64,
}

impl Timed {
    fn new(all: &[f64], first: &[f64], items: usize, operations: f64, bytes: f64) -> Self {
        let ratios: Vec<f64> = all.iter().zip(first).map(|(a, b)| a / b).collect();
        Self {
            seconds: median(all),
            fastest: all.iter().copied().fold(f64::INFINITY, f64::min),
            slowest: all.iter().copied().fold(0.0, f64::max),
            ratio: median(&ratios),
            items,
            operations,
            bytes,
        }
    }

    /// Share of the machine's arithmetic limit.
    pub fn of_arithmetic(&self, limits: &Limits) -> f64 {
        self.operations / self.seconds / limits.f32_operations_per_second
    }

    /// Share of the machine's memory limit.
    pub fn of_memory(&self, limits: &Limits) -> f64 {
        self.bytes / self.seconds / limits.read_bytes_per_second
    }
}

/// One strategy's figures.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Its name.
    pub strategy: String,
    /// The whole prompt.
    pub prefill: Timed,
    /// One decode step.
    pub decode: Timed,
    /// Encoders, also where the strategy runs them again, and prefill.
    pub time_to_first_token: f64,
    /// Passes through the decoder for the prompt, and for a decode step.
    pub passes: [f64; 2],
    /// Keys and values after the last step, of all passes.
    pub cache_bytes: usize,
    /// What the prompt added to the resident size at most, keys and values included, where the system tells.
    pub prefill_bytes: Option<usize>,
    /// Layers in which the method found sinks.
    pub layers_with_sinks: usize,
}

/// What probing a prompt costs beside reading it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ProbeCost {
    /// Seconds of a plain prefill.
    pub plain_seconds: f64,
    /// Largest resident size during it, where the system tells.
    pub plain_peak_bytes: Option<usize>,
    /// Seconds of both passes of [`probe`].
    pub seconds: f64,
    /// Largest resident size during them.
    pub peak_bytes: Option<usize>,
    /// Tokens that were followed.
    pub watched: usize,
}

fn probe_cost(model: &Model, prompt: &Prompt, kv: KvType) -> Result<ProbeCost> {
    reset_peak();
    let since = Instant::now();
    Session::with_kv(model, None, kv).prefill(prompt, 1, &mut |_| {})?;
    let plain_seconds = since.elapsed().as_secs_f64();
    let plain_peak_bytes = peak_bytes();
    reset_peak();
    let options = Options {
        kv,
        ..Options::default()
    };
    let profile = probe(model, prompt, &prompt.spans, &options, &mut |_| {})?;
    Ok(ProbeCost {
        plain_seconds,
        plain_peak_bytes,
        seconds: profile.seconds,
        peak_bytes: peak_bytes(),
        watched: profile.watched.len(),
    })
}

/// A run's result.
#[derive(Clone, Debug, Serialize)]
pub struct Bench {
    /// What was run.
    pub work: Work,
    /// Threads.
    pub threads: usize,
    /// SIMD level.
    pub simd: String,
    /// Medians of what was measured before the run and after each round.
    pub limits: Limits,
    /// All matrices.
    pub weight_bytes: usize,
    /// Keys and values after the last step, of the strategy that has most.
    pub cache_bytes: usize,
    /// Largest resident size of the process during the run, weights included, where the system tells.
    pub peak_bytes: Option<usize>,
    /// The vision tower, if it was run.
    pub vision: Option<Timed>,
    /// The audio tower, if it was run.
    pub audio: Option<Timed>,
    /// By strategy.
    pub rows: Vec<Row>,
    /// Several requests in one step: so many of each strategy, then one of each.
    pub together: Vec<Together>,
    /// The sink lab, if it was run.
    pub probe: Option<ProbeCost>,
}

/// Runs the work. `progress` gets what is being done.
///
/// # Errors
/// Whatever the engine fails with.
pub fn bench(
    model: &Model,
    strategies: &[Strategy],
    kv: KvType,
    work: &Work,
    progress: &mut dyn FnMut(&str),
) -> Result<Bench> {
    progress("measuring the machine");
    let mut limits = vec![Limits::measure()];
    reset_peak();
    let towers = Towers::new(model, work);
    let prompt = Arc::new(prompt(model, work));
    let media = [towers.vision.clone(), towers.audio.clone()];
    let (of, plain) = (model.clone(), Arc::clone(&prompt));
    let noisy = move |noise: &Noise| {
        for inputs in media.iter().flatten() {
            of.encode(&noise.on(inputs, of.config()), &mut |_| {})?;
        }
        Ok(distorted(&plain))
    };
    let request = Request {
        model: model.clone(),
        kv,
        prompt: Arc::clone(&prompt),
        prefix: None,
        noisy: Arc::new(noisy),
        cancel: Cancel::default(),
    };
    // Touch mapped weights before timing, so that page faults count neither as time nor as memory.
    let first = prompt.embeds.rows().min(8) - 1;
    if first > 0 && model.shares_rows() {
        Prefix::run(model, kv, &prompt, first)?;
    }
    let n = strategies.len();
    let mut found: Vec<Found> = (0..n).map(|_| Found::default()).collect();
    let (mut vision, mut audio) = (Vec::new(), Vec::new());
    let mut highest = None;
    for round in 0..work.rounds {
        let label = format!("round {} of {}", round + 1, work.rounds);
        progress(&format!("{label}: towers"));
        vision.extend(encode(model, towers.vision.as_ref())?);
        audio.extend(encode(model, towers.audio.as_ref())?);
        highest = highest.max(peak_bytes());
        // Each goes first in turn: whoever is first may find other caches and clocks.
        let order: Vec<usize> = (0..n).map(|i| (i + round) % n).collect();
        let mut streams: Vec<Option<Box<dyn Stream>>> = (0..n).map(|_| None).collect();
        for &i in &order {
            progress(&format!("{label}: prefill, {}", strategies[i].name));
            let since = Instant::now();
            let mut stream = strategies[i].stream(&request)?;
            found[i].encode.push(since.elapsed().as_secs_f64());
            highest = highest.max(peak_bytes());
            let before = reset_peak().then(peak_bytes).flatten();
            let since = Instant::now();
            stream.prefill(&mut |_| {})?;
            found[i].prefill.push(since.elapsed().as_secs_f64());
            highest = highest.max(peak_bytes());
            let added = before.zip(peak_bytes()).map(|(from, to)| to.saturating_sub(from));
            found[i].prefill_bytes = found[i].prefill_bytes.max(added);
            found[i].passes[0] = stream.passes();
            let outro = stream.session().hook::<OutRo>();
            found[i].layers_with_sinks =
                outro.map_or(0, |o| o.sinks().values().filter(|s| !s.is_empty()).count());
            streams[i] = Some(stream);
        }
        progress(&format!("{label}: decode"));
        let mut rng = Rng::new(0, round as u64);
        for step in 0..work.new_tokens {
            let token = rng.below(model.config().text.vocab.min(1000)) as u32;
            for at in 0..n {
                let i = order[(at + step) % n];
                let Some(stream) = &mut streams[i] else { continue };
                let since = Instant::now();
                stream.decode(token)?;
                found[i].decode.push(since.elapsed().as_secs_f64());
            }
        }
        for (found, stream) in found.iter_mut().zip(streams.iter().flatten()) {
            found.passes[1] = stream.passes();
            found.cache_bytes = stream.cache_bytes();
        }
        drop(streams);
        highest = highest.max(peak_bytes());
        limits.push(Limits::measure());
        // The yardstick's buffer is no part of the run.
        reset_peak();
    }
    let mut together = Vec::new();
    if work.requests > 1 {
        let many = strategies.iter().map(|by| vec![by; work.requests]);
        let one_each = (n > 1).then(|| strategies.iter().collect());
        for group in many.chain(one_each) {
            progress(&format!("{} requests in one step", group.len()));
            let vocab = model.config().text.vocab;
            together.push(together::together(&group, &request, work.new_tokens, vocab)?);
        }
    }
    let cost = if work.probe {
        progress("probing");
        Some(probe_cost(model, &prompt, kv)?)
    } else {
        None
    };
    let need = Need::of(model, work, kv);
    let towers_seconds: f64 = [&vision, &audio].into_iter().map(|t| median(t)).sum();
    let row = |(by, f): (&Strategy, &Found)| {
        let (tokens, first) = (work.prompt_tokens, &found[0]);
        let prefill = Timed::new(&f.prefill, &first.prefill, tokens, need.prefill.0, need.prefill.1);
        let steps = (f.passes[1] - f.passes[0]) as f64 / work.new_tokens.max(1) as f64;
        Row {
            strategy: by.name.clone(),
            time_to_first_token: prefill.seconds + towers_seconds + median(&f.encode),
            prefill,
            decode: Timed::new(&f.decode, &first.decode, 1, need.decode.0, need.decode.1),
            passes: [f.passes[0] as f64, steps],
            cache_bytes: f.cache_bytes,
            prefill_bytes: f.prefill_bytes,
            layers_with_sinks: f.layers_with_sinks,
        }
    };
    let rows: Vec<Row> = strategies.iter().zip(&found).map(row).collect();
    let (patches, frames) = towers.items();
    let tower = |all: &[f64], items: usize, inputs: &Option<Inputs>| {
        let operations = inputs.as_ref().map_or((0.0, 0.0), |i| model.tower_operations(i));
        (!all.is_empty()).then(|| Timed::new(all, all, items, operations.0 + operations.1, 0.0))
    };
    Ok(Bench {
        work: work.clone(),
        threads: rayon::current_num_threads(),
        simd: format!("{:?}", Level::detect()),
        limits: Limits::median(&limits),
        weight_bytes: model.weight_bytes(),
        cache_bytes: rows.iter().map(|r| r.cache_bytes).max().unwrap_or(0),
        peak_bytes: highest,
        vision: tower(&vision, patches, &towers.vision),
        audio: tower(&audio, frames, &towers.audio),
        rows,
        together,
        probe: cost,
    })
}

/// What was measured of one strategy.
#[derive(Default)]
struct Found {
    encode: Vec<f64>,
    prefill: Vec<f64>,
    decode: Vec<f64>,
    /// Passes after the prompt, and after the last step.
    passes: [usize; 2],
    cache_bytes: usize,
    prefill_bytes: Option<usize>,
    layers_with_sinks: usize,
}

/// (operations, bytes) that cannot be avoided.
struct Need {
    prefill: (f64, f64),
    decode: (f64, f64),
}

impl Need {
    fn of(model: &Model, work: &Work, kv: KvType) -> Self {
        let t = &model.config().text;
        let (bytes, elements) = model.decode_weights();
        let (s, wide) = (work.prompt_tokens as f64, (t.heads * t.head_dim) as f64);
        let head = (t.vocab * t.hidden) as f64;
        // Only the last row goes through the output head; a row sees half of the others on average.
        let layers = elements as f64 - head;
        let attention = 4.0 * wide * t.layers as f64;
        let steps = s + work.new_tokens as f64 / 2.0;
        let row = (2 * t.layers * t.kv_heads * kv.head_bytes(t.head_dim)) as f64;
        Self {
            prefill: (2.0 * (s * layers + head) + attention * s * s / 2.0, bytes as f64),
            decode: (
                2.0 * elements as f64 + attention * steps,
                bytes as f64 + row * steps,
            ),
        }
    }
}

/// Inputs of the towers.
struct Towers {
    vision: Option<Inputs>,
    audio: Option<Inputs>,
}

impl Towers {
    fn new(model: &Model, work: &Work) -> Self {
        let (config, mut rng) = (model.config(), Rng::new(5, 0));
        let mut noise = |n: usize| -> Vec<f32> { (0..n).map(|_| rng.unit() as f32 * 2.0 - 1.0).collect() };
        let vision = config.vision.as_ref().filter(|_| work.frames > 0).map(|v| {
            let whole = 448 / v.patch / v.merge * v.merge;
            let side = v.positions.filter(|_| v.anyres.is_some()).unwrap_or(whole);
            let grid = [work.frames.div_ceil(v.temporal), side, side];
            let cols = v.channels * v.temporal * v.patch * v.patch;
            let tokens = v.video_tokens(grid);
            Inputs {
                input_ids: vec![config.tokens.video.unwrap_or_default(); tokens],
                pixel_values_videos: Some(Pixels {
                    whole: false,
                    data: noise(grid.iter().product::<usize>() * cols),
                    cols,
                    grid_thw: vec![grid],
                }),
                second_per_grid: vec![1.0],
                ..Inputs::default()
            }
        });
        let audio = config.audio.as_ref().filter(|_| work.audio_seconds > 0).map(|a| {
            let samples = work.audio_seconds * outro_media::SAMPLE_RATE as usize;
            let frames = a.mel_frames(samples, samples);
            Inputs {
                input_ids: vec![config.tokens.audio.unwrap_or_default(); a.tokens(frames)],
                audio: Some(AudioFeatures {
                    data: noise(frames * a.mel_bins),
                    mel_bins: a.mel_bins,
                    lengths: vec![frames],
                }),
                ..Inputs::default()
            }
        });
        Self { vision, audio }
    }

    /// Patches and mel frames.
    fn items(&self) -> (usize, usize) {
        let pixels = self.vision.as_ref().and_then(|i| i.pixel_values_videos.as_ref());
        let patches = pixels.map_or(0, |p| p.grid_thw.iter().flatten().product());
        let mel = self.audio.as_ref().and_then(|i| i.audio.as_ref());
        (patches, mel.map_or(0, |a| a.lengths.iter().sum()))
    }
}

fn encode(model: &Model, inputs: Option<&Inputs>) -> Result<Option<f64>> {
    let Some(inputs) = inputs else { return Ok(None) };
    let since = Instant::now();
    model.encode(inputs, &mut |_: EncodeProgress| {})?;
    Ok(Some(since.elapsed().as_secs_f64()))
}

/// Random rows, three of them with a massive channel as real models have in their sinks.
fn prompt(model: &Model, work: &Work) -> Prompt {
    let (s, hidden) = (work.prompt_tokens, model.config().text.hidden);
    let mut rng = Rng::new(3, 0);
    let numbers = (0..s * hidden).map(|_| rng.unit() as f32 * 3.4 - 1.7);
    let mut embeds = Mat::new(hidden, numbers.collect());
    for sink in [0, s / 3, 2 * s / 3] {
        embeds.row_mut(sink)[hidden / 3] = 30_000.0;
    }
    Prompt {
        embeds,
        positions: Positions {
            ids: (0..s).map(|p| [p as f32; 3]).collect(),
            next: s as f32,
        },
        deepstack: Deepstack::default(),
        spans: spans(work, model.config().audio.is_some()),
    }
}

/// The prompt as a strategy gets it that distorts media.
fn distorted(prompt: &Prompt) -> Prompt {
    let spans = &prompt.spans;
    let (mut out, mut rng) = (prompt.clone(), Rng::new(4, 0));
    for row in (0..spans.len()).filter(|row| matches!(spans[*row], Span::Video { .. })) {
        for x in out.embeds.row_mut(row) {
            *x = 0.7 * *x + (rng.unit() as f32 * 2.0 - 1.0);
        }
    }
    out
}

/// A few words before and after, between them a video, and sound in the last fifth where the model listens; for strategies
/// that ask what a row is.
fn spans(work: &Work, hears: bool) -> Vec<Span> {
    let sound = |row: usize| hears && row >= work.prompt_tokens / 5 * 4;
    let words = |row: usize| row < 16 || row + 32 >= work.prompt_tokens;
    let video = |row: usize| Span::Video {
        item: 0,
        t: row / 256,
        y: row % 256 / 16,
        x: row % 16,
    };
    let of = |row| match row {
        row if words(row) => Span::Text,
        row if sound(row) => Span::Audio { item: 0, index: row },
        row => video(row),
    };
    (0..work.prompt_tokens).map(of).collect()
}

fn median(all: &[f64]) -> f64 {
    let mut sorted = all.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// From here on the largest resident size counts anew (Linux: 5 sets it to what is resident now).
fn reset_peak() -> bool {
    std::fs::write("/proc/self/clear_refs", "5").is_ok()
}

/// The process's largest resident size (Linux).
fn peak_bytes() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    let kib: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}
