//! Strategies against plain forms of themselves (whole attention maps, double precision), and their laws.

use std::sync::{Arc, LazyLock, Mutex};

use outro::hook::{At, Chain, Flow, Hook, Qkv};
use outro::inputs::Inputs;
use outro::method::median_abs;
use outro::positions::{Span, spans};
use outro::strategy::{
    Avcd, AvcdConfig, FarSight, FarSightConfig, Hooks, Mixture, MixtureConfig, Noise, NoisyMedia, Request,
    Var, VarConfig, Vcd, VcdConfig, entropy,
};
use outro::{Dtype, KvType, Model, OutRo, OutRoConfig, Prompt, Session, Stream};

static MODEL: LazyLock<Model> =
    LazyLock::new(|| Model::load(&crate::fixtures().join("omni-tiny"), Dtype::Auto).unwrap());

/// A case of the fixtures.
struct Case {
    inputs: Inputs,
    prompt: Prompt,
    spans: Vec<Span>,
}

fn case(name: &str) -> Case {
    let file = format!("omni-tiny/cases/{name}.inputs.safetensors");
    let inputs = Inputs::load(&crate::fixtures().join(file)).unwrap();
    let embeds = MODEL.encode(&inputs, &mut |_| {}).unwrap();
    Case {
        prompt: MODEL.prompt(&inputs, &embeds).unwrap(),
        spans: spans(MODEL.config(), &inputs).unwrap(),
        inputs,
    }
}

const STEPS: std::ops::Range<u32> = 30..34;

/// Logits of the prompt and of a few tokens.
fn follow(stream: &mut dyn Stream, prompt: &Prompt) -> Vec<Vec<f32>> {
    let mut all = vec![stream.prefill(prompt, &mut |_| {}).unwrap()];
    all.extend(STEPS.map(|token| stream.decode(token).unwrap()));
    all
}

fn with(hooks: Vec<Box<dyn Hook>>, prompt: &Prompt) -> Vec<Vec<f32>> {
    follow(&mut Session::new(&MODEL, Some(Box::new(Chain(hooks)))), prompt)
}

fn plain(case: &Case) -> Vec<Vec<f32>> {
    follow(&mut Session::new(&MODEL, None), &case.prompt)
}

/// Runs what `make` makes of the case: logits, and passes.
fn run(case: &Case, hooks: &Hooks, make: Make) -> (Vec<Vec<f32>>, usize) {
    run_on(case, hooks, KvType::F32, make)
}

/// The case as strategies see it.
fn request<'a>(
    case: &'a Case,
    prefix: Option<&'a Session<'a>>,
    noisy: &'a dyn Fn(&Noise) -> outro::Result<Prompt>,
) -> Request<'a> {
    Request {
        model: &MODEL,
        kv: KvType::F32,
        prompt: &case.prompt,
        spans: &case.spans,
        prefix,
        noisy,
    }
}

type Make<'m> = &'m dyn for<'a> Fn(&Request<'a>, &Hooks) -> Box<dyn Stream + 'a>;

fn run_on(case: &Case, hooks: &Hooks, kv: KvType, make: Make) -> (Vec<Vec<f32>>, usize) {
    let noisy = NoisyMedia::default();
    let noisy = |noise: &Noise| noisy.prompt(&MODEL, &case.inputs, noise);
    let request = Request {
        kv,
        ..request(case, None, &noisy)
    };
    let mut stream = make(&request, hooks);
    (follow(stream.as_mut(), &case.prompt), stream.passes())
}

fn vcd(case: &Case, hooks: &Hooks, c: VcdConfig) -> (Vec<Vec<f32>>, usize) {
    run(case, hooks, &|r, h| Box::new(Vcd::new(c, r, h).unwrap()))
}

fn mixture(case: &Case, hooks: &Hooks, c: MixtureConfig) -> (Vec<Vec<f32>>, usize) {
    run(case, hooks, &|r, h| Box::new(Mixture::new(c, r, h).unwrap()))
}

fn avcd(case: &Case, hooks: &Hooks, c: AvcdConfig) -> (Vec<Vec<f32>>, usize) {
    run(case, hooks, &|r, h| Box::new(Avcd::new(c, r, h).unwrap()))
}

fn none() -> Vec<Box<dyn Hook>> {
    Vec::new()
}

/// Equal to 1e-5 of the largest number, and impossible in the same places.
#[track_caller]
fn same(got: &[Vec<f32>], want: &[Vec<f32>]) {
    assert_eq!(got.len(), want.len());
    for (step, (got, want)) in got.iter().zip(want).enumerate() {
        let finite = want.iter().filter(|x| x.is_finite());
        let largest = finite.fold(1f32, |m, x| m.max(x.abs()));
        for (i, (a, b)) in got.iter().zip(want).enumerate() {
            let close = a == b || (a - b).abs() < 1e-5 * largest;
            assert!(close, "step {step}, token {i}: {a} for {b}");
        }
    }
}

/// Scores `[new, all]` of a head, minus infinity where the mask is.
type Scores = Vec<Vec<f64>>;

/// What makes a map of weights of a head's scores: `(at, head, scores)`.
type Weigh = dyn FnMut(At, usize, &Scores) -> Scores + Send;

/// Replaces head outputs by the product of a whole map with the values.
struct Naive {
    inputs: Arc<Mutex<Vec<Vec<f32>>>>,
    weigh: Box<Weigh>,
}

impl Naive {
    fn new(weigh: impl FnMut(At, usize, &Scores) -> Scores + Send + 'static) -> Box<dyn Hook> {
        Self::seeing(&Arc::default(), weigh)
    }

    /// As well, hands out the layers' inputs.
    fn seeing(
        inputs: &Arc<Mutex<Vec<Vec<f32>>>>,
        weigh: impl FnMut(At, usize, &Scores) -> Scores + Send + 'static,
    ) -> Box<dyn Hook> {
        Box::new(Self {
            inputs: inputs.clone(),
            weigh: Box::new(weigh),
        })
    }
}

impl Hook for Naive {
    fn layer_input(&mut self, at: At, x: &[f32], _hidden: usize) -> outro::Result<Flow> {
        if at.prefill {
            self.inputs.lock().unwrap().push(x.to_vec());
        }
        Ok(Flow::Continue)
    }

    fn head_outputs(&mut self, at: At, qkv: Qkv, o: &mut [f32]) -> outro::Result<()> {
        let (heads, groups, dim) = (at.shape.heads, at.shape.kv_heads, at.shape.dim);
        let (n, s) = (o.len() / heads / dim, qkv.k.len() / groups / dim);
        for head in 0..heads {
            let g = head / (heads / groups);
            let q = |i: usize| &qkv.q[(i * heads + head) * dim..][..dim];
            let k = |j: usize| &qkv.k[(j * groups + g) * dim..][..dim];
            let score = |i: usize, j: usize| {
                if j > s - n + i {
                    return f64::NEG_INFINITY;
                }
                let dot: f64 = q(i)
                    .iter()
                    .zip(k(j))
                    .map(|(a, b)| f64::from(*a) * f64::from(*b))
                    .sum();
                dot / (dim as f64).sqrt()
            };
            let scores: Scores = (0..n).map(|i| (0..s).map(|j| score(i, j)).collect()).collect();
            let map = (self.weigh)(at, head, &scores);
            for i in 0..n {
                for d in 0..dim {
                    let terms = (0..s).map(|j| map[i][j] * f64::from(qkv.v[(j * groups + g) * dim + d]));
                    o[(i * heads + head) * dim + d] = terms.sum::<f64>() as f32;
                }
            }
        }
        Ok(())
    }
}

fn softmax(row: &[f64]) -> Vec<f64> {
    let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = row.iter().map(|x| (x - max).exp()).sum();
    row.iter().map(|x| (x - max).exp() / sum).collect()
}

fn map_of(scores: &Scores) -> Scores {
    scores.iter().map(|row| softmax(row)).collect()
}

const CASES: [&str; 4] = ["audio-in-video", "video", "image", "text"];

#[test]
fn farsight_is_softmax_over_keys_and_registers() {
    for name in CASES {
        let case = case(name);
        for sigma in [0.1f32, 0.8] {
            let got = with(
                vec![Box::new(FarSight::new(FarSightConfig { sigma }))],
                &case.prompt,
            );
            let naive = Naive::new(move |_, _, scores| {
                let (n, s) = (scores.len(), scores[0].len());
                let row = |i: usize| {
                    let register = |j: usize| -f64::from(sigma) * (j - (s - n + i)) as f64;
                    let with: Vec<f64> = (0..s)
                        .map(|j| if j > s - n + i { register(j) } else { scores[i][j] })
                        .collect();
                    let mut weights = softmax(&with);
                    weights[s - n + i + 1..].fill(0.0);
                    weights
                };
                (0..n).map(row).collect()
            });
            same(&got, &with(vec![naive], &case.prompt));
            assert_ne!(got, plain(&case), "{name}");
        }
    }
}

/// The redistribution as it is done on a map.
fn redistribute(c: &VarConfig, row: &mut [f64], visual: &[usize], sinks: &[usize]) {
    let sinks: Vec<usize> = sinks.iter().copied().filter(|t| *t < row.len()).collect();
    let image: f64 = visual.iter().map(|j| row[*j]).sum();
    let image_sinks: f64 = visual.iter().filter(|j| sinks.contains(j)).map(|j| row[*j]).sum();
    if image < f64::from(c.sum) || image_sinks / image > f64::from(c.rho) {
        return;
    }
    let budget: f64 = sinks.iter().map(|j| row[*j] * (1.0 - f64::from(c.p))).sum();
    let others: Vec<usize> = visual.iter().copied().filter(|j| !sinks.contains(j)).collect();
    let rest: f64 = others.iter().map(|j| row[*j]).sum();
    sinks.iter().for_each(|j| row[*j] *= f64::from(c.p));
    others.iter().for_each(|j| row[*j] += budget * row[*j] / rest);
}

#[test]
fn var_moves_attention_from_sinks_to_the_rest_of_the_picture() {
    let mut moved = 0;
    for name in CASES {
        let case = case(name);
        let visual: Vec<usize> = (0..case.spans.len())
            .filter(|i| matches!(case.spans[*i], Span::Video { .. } | Span::Image { .. }))
            .collect();
        let given = OutRoConfig {
            sinks: Some([0].into_iter().chain(visual.get(1).copied()).collect()),
            ..OutRoConfig::default()
        };
        let by_dims = VarConfig {
            dims: vec![3, 17],
            tau: 1.7,
            sum: 0.05,
            start: 1,
            ..VarConfig::default()
        };
        for (c, sinks) in [
            (VarConfig::default(), given),
            (by_dims, OutRoConfig::default()),
            (VarConfig::default(), OutRoConfig::default()),
        ] {
            let hook = || Box::new(Var::new(c.clone(), &sinks, &case.spans));
            let mut session = Session::new(&MODEL, Some(hook()));
            let got = follow(&mut session, &case.prompt);
            moved += session.hook::<Var>().unwrap().moved();
            let inputs = Arc::default();
            let (c, visual, config, seen) = (c, visual.clone(), sinks, Arc::clone(&inputs));
            let mut kept: Vec<Vec<usize>> = Vec::new();
            let naive = Naive::seeing(&inputs, move |at, head, scores| {
                let mut map = map_of(scores);
                if at.prefill && head == 0 {
                    kept.push(naive_sinks(&c, &config, &seen.lock().unwrap()[at.layer]));
                }
                let (n, s) = (map.len(), map[0].len());
                let first = if at.prefill {
                    visual.last().map_or(n, |v| v + 1)
                } else {
                    0
                };
                if !visual.is_empty() && at.layer >= c.start && at.layer + 1 < at.layers {
                    for (i, row) in map.iter_mut().enumerate().skip(first) {
                        redistribute(&c, &mut row[..=s - n + i], &visual, &kept[at.layer]);
                    }
                }
                map
            });
            same(&got, &with(vec![naive], &case.prompt));
        }
    }
    assert!(moved > 100, "{moved}: the test must test something");
}

fn naive_sinks(c: &VarConfig, config: &OutRoConfig, x: &[f32]) -> Vec<usize> {
    let rows = x.chunks_exact(MODEL.config().text.hidden).enumerate();
    if let Some(given) = &config.sinks {
        return given.clone();
    }
    let least = config.abs_threshold.max(config.median_multiple * median_abs(x));
    let is_sink = |x: &[f32]| {
        if c.dims.is_empty() {
            return x.iter().any(|v| v.abs() >= least);
        }
        let rms = (x.iter().map(|v| v * v).sum::<f32>() / x.len() as f32).sqrt();
        c.dims.iter().any(|d| x[*d].abs() / rms > c.tau)
    };
    rows.filter(|(_, x)| is_sink(x)).map(|(i, _)| i).collect()
}

/// Attention of the prompt's last row: `[L][H][S]`.
fn last_rows(case: &Case) -> Vec<Vec<Vec<f64>>> {
    let all = Arc::new(Mutex::new(Vec::<Vec<Vec<f64>>>::new()));
    let seen = Arc::clone(&all);
    let naive = Naive::new(move |at, head, scores| {
        let map = map_of(scores);
        if at.prefill {
            let mut seen = seen.lock().unwrap();
            seen.resize(at.layer + 1, Vec::new());
            assert_eq!(seen[at.layer].len(), head);
            seen[at.layer].push(map.last().unwrap().clone());
        }
        map
    });
    with(vec![naive], &case.prompt);
    Arc::into_inner(all).map_or_else(Vec::new, |m| m.into_inner().unwrap())
}

/// `sum of factor * logits`, without the tokens that `plain` finds implausible.
fn mixed(terms: &[(f32, &[f32])], plain: &[f32], beta: f32) -> Vec<f32> {
    let best = plain.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let token = |i: usize| {
        if plain[i] < best + beta.ln() {
            return f32::NEG_INFINITY;
        }
        terms
            .iter()
            .map(|(f, l)| f64::from(*f) * f64::from(l[i]))
            .sum::<f64>() as f32
    };
    (0..plain.len()).map(token).collect()
}

#[test]
fn vcd_contrasts_with_noise_on_pixels() {
    let noise = Noise {
        steps: 500,
        seed: 3,
        audio: true,
    };
    // Python: the cumulative product of 1 - (sigmoid(linspace(-6, 6, 1000)) * (5e-3 - 1e-5) + 1e-5) at 500.
    assert!(
        (noise.signal() - 0.744_798_526).abs() < 1e-8,
        "{}",
        noise.signal()
    );
    for name in ["audio-in-video", "video", "image"] {
        let case = case(name);
        let distorted = noise.on(&case.inputs, MODEL.config());
        let embeds = MODEL.encode(&distorted, &mut |_| {}).unwrap();
        let noisy = MODEL.prompt(&distorted, &embeds).unwrap();
        let (clean, other) = (plain(&case), follow(&mut Session::new(&MODEL, None), &noisy));
        for (alpha, beta) in [(1.0, 0.1), (0.5, 0.0)] {
            let config = VcdConfig { alpha, beta, noise };
            let (got, passes) = vcd(&case, &none, config);
            let want: Vec<Vec<f32>> = clean
                .iter()
                .zip(&other)
                .map(|(l, n)| mixed(&[(1.0 + alpha, l), (-alpha, n)], l, beta))
                .collect();
            same(&got, &want);
            assert_eq!(passes, 10);
            assert_ne!(got, clean);
        }
        let pixels = |i: &Inputs| {
            [&i.pixel_values, &i.pixel_values_videos]
                .into_iter()
                .flatten()
                .next()
                .unwrap()
                .data
                .clone()
        };
        let (x, y) = (pixels(&case.inputs), pixels(&distorted));
        let signal = noise.signal();
        let eps: Vec<f64> = x
            .iter()
            .zip(&y)
            .map(|(x, y)| (f64::from(*y) - signal.sqrt() * f64::from(*x)) / (1.0 - signal).sqrt())
            .collect();
        let mean = |f: fn(f64) -> f64| eps.iter().map(|e| f(*e)).sum::<f64>() / eps.len() as f64;
        assert!(
            mean(|e| e).abs() < 0.1 && (mean(|e| e * e) - 1.0).abs() < 0.15,
            "{name}"
        );
        assert_eq!(
            distorted,
            noise.on(&case.inputs, MODEL.config()),
            "the seed fixes it"
        );
        let other = Noise { seed: 4, ..noise };
        assert_ne!(distorted, other.on(&case.inputs, MODEL.config()));
        if name == "image" {
            let v = MODEL.config().vision.as_ref().unwrap();
            let area = v.patch * v.patch;
            for channel in eps.chunks_exact(area * v.temporal) {
                let same = channel[..area]
                    .iter()
                    .zip(&channel[area..2 * area])
                    .all(|(a, b)| (a - b).abs() < 1e-5);
                assert!(same, "both copies of an image have the same noise");
            }
        }
    }
}

#[test]
fn mod_masks_what_the_last_row_does_not_look_at() {
    for (name, audio) in [
        ("audio-in-video", true),
        ("audio-in-video", false),
        ("video", false),
        ("image", false),
    ] {
        let case = case(name);
        let ranked: Vec<usize> = (0..case.spans.len())
            .filter(|i| match case.spans[*i] {
                Span::Text => false,
                Span::Audio { .. } => audio,
                _ => true,
            })
            .collect();
        let seen = last_rows(&case);
        let attention = |row: &usize| -> f64 {
            let by_layer = seen
                .iter()
                .map(|heads| heads.iter().map(|a| a[*row]).sum::<f64>() / heads.len() as f64);
            by_layer.sum()
        };
        let mut order = ranked.clone();
        order.sort_by(|a, b| attention(a).total_cmp(&attention(b)));
        let mut without = case.prompt.clone();
        for row in &order[..(ranked.len() as f64 * 0.8) as usize] {
            without.embeds.row_mut(*row).fill(0.0);
        }
        let (clean, other) = (plain(&case), follow(&mut Session::new(&MODEL, None), &without));
        let js = divergence(&clean[0], &other[0]);
        assert!(js > 1e-6 && js < 2f64.ln(), "{js}");
        for (threshold, alike) in [(js * 0.999, false), (js * 1.001, true)] {
            let config = MixtureConfig {
                threshold,
                audio,
                ..MixtureConfig::default()
            };
            let (got, passes) = mixture(&case, &none, config);
            let mix = |(l, f): (&Vec<f32>, &Vec<f32>)| {
                let terms = if alike {
                    [(1.0, &l[..]), (4.0, &f[..])]
                } else {
                    [(2.0, &l[..]), (-1.0, &f[..])]
                };
                mixed(&terms, l, 0.5)
            };
            let want: Vec<Vec<f32>> = clean.iter().zip(&other).map(mix).collect();
            same(&got, &want);
            assert_eq!(passes, 10);
        }
    }
}

/// Jensen-Shannon by its definition with entropies: `H(m) - (H(p) + H(q)) / 2`.
fn divergence(a: &[f32], b: &[f32]) -> f64 {
    let p = |l: &[f32]| softmax(&l.iter().map(|x| f64::from(*x)).collect::<Vec<_>>());
    let h = |p: &[f64]| -> f64 { p.iter().map(|p| -p * p.ln()).sum() };
    let (p, q) = (p(a), p(b));
    let m: Vec<f64> = p.iter().zip(&q).map(|(p, q)| (p + q) / 2.0).collect();
    h(&m) - (h(&p) + h(&q)) / 2.0
}

/// 0 what is seen, 1 what is heard, 2 words.
fn kind(span: &Span) -> usize {
    match span {
        Span::Image { .. } | Span::Video { .. } => 0,
        Span::Audio { .. } => 1,
        Span::Text => 2,
    }
}

/// A pass with rows of maps zeroed.
fn silenced(case: &Case, kinds: Vec<usize>, threshold: f64) -> Vec<Vec<f32>> {
    let rows: Vec<usize> = case.spans.iter().map(kind).collect();
    let naive = Naive::new(move |at, _, scores| {
        let mut map = map_of(scores);
        if at.layer + 1 == at.layers {
            return map;
        }
        let (n, s) = (map.len(), map[0].len());
        let last = map[n - 1].clone();
        for (i, row) in map.iter_mut().enumerate() {
            let kind = if at.prefill { rows[i] } else { 2 };
            if kinds.contains(&kind) && last[s - n + i] > threshold {
                row.fill(0.0);
            }
        }
        map
    });
    with(vec![naive], &case.prompt)
}

#[test]
fn avcd_silences_what_is_not_dominant() {
    for name in ["audio-in-video", "video", "audio", "image"] {
        let case = case(name);
        let seen = last_rows(&case);
        let (layers, s) = (seen.len() - 1, case.spans.len());
        let mut dominance = Vec::new();
        for which in 0..3 {
            let rows: Vec<usize> = (0..s).filter(|i| kind(&case.spans[*i]) == which).collect();
            if !rows.is_empty() {
                let mass = |heads: &Vec<Vec<f64>>| -> f64 {
                    heads
                        .iter()
                        .map(|a| rows.iter().map(|r| a[*r]).sum::<f64>())
                        .sum::<f64>()
                        / heads.len() as f64
                };
                let mean = seen[..layers].iter().map(mass).sum::<f64>() / layers as f64;
                dominance.push((mean / rows.len() as f64, which));
            }
        }
        dominance.sort_by(|a, b| b.0.total_cmp(&a.0));
        let others: Vec<usize> = dominance[1..].iter().map(|d| d.1).collect();
        let medians = (0..seen[0].len()).map(|head| {
            let mut sums: Vec<f64> = (0..s)
                .map(|k| seen[..layers].iter().map(|l| l[head][k]).sum())
                .collect();
            sums.sort_by(f64::total_cmp);
            sums[(s - 1) / 2] / layers as f64
        });
        let threshold = medians.sum::<f64>() / seen[0].len() as f64;
        let clean = plain(&case);
        let passes: Vec<Vec<Vec<f32>>> = match others[..] {
            [m] => vec![silenced(&case, vec![m], threshold)],
            [a, b] => [vec![a, b], vec![a], vec![b]]
                .into_iter()
                .map(|kinds| silenced(&case, kinds, threshold))
                .collect(),
            _ => unreachable!("two or three kinds"),
        };
        // The gate as published (here it is always open), and one that first opens within the answer.
        let entropies: Vec<f32> = clean.iter().map(|l| entropy(l)).collect();
        let late = entropies[1..].iter().copied().fold(0.0, f32::max).next_down();
        for gate in [0.6, late.max(entropies[0].next_up())] {
            let config = AvcdConfig {
                entropy: gate,
                ..AvcdConfig::default()
            };
            let (got, run) = avcd(&case, &none, config);
            let want: Vec<Vec<f32>> = (0..clean.len())
                .map(|step| {
                    let l = &clean[step];
                    if entropies[step] < gate {
                        return l.clone();
                    }
                    let p: Vec<&[f32]> = passes.iter().map(|p| p[step].as_slice()).collect();
                    match p[..] {
                        [m] => mixed(&[(1.5, l), (-0.5, m)], l, 0.2),
                        [ab, a, b] => mixed(&[(3.0, l), (-1.0, ab), (1.0, a), (1.0, b)], l, 0.2),
                        _ => unreachable!("one or three passes"),
                    }
                })
                .collect();
            same(&got, &want);
            let opened = (0..clean.len()).rfind(|step| entropies[*step] >= gate);
            let fed = opened.map_or(0, |last| last + 1);
            assert_eq!(run, 5 + passes.len() * fed, "{name}, gate {gate}: {entropies:?}");
        }
    }
}

#[test]
fn no_strength_is_the_plain_model() {
    for name in CASES {
        let case = case(name);
        let want = plain(&case);
        let farsight = FarSight::new(FarSightConfig { sigma: 1e30 });
        assert_eq!(with(vec![Box::new(farsight)], &case.prompt), want);
        let var = VarConfig {
            p: 1.0,
            ..VarConfig::default()
        };
        let sinks = OutRoConfig {
            sinks: Some(vec![0, 9]),
            ..OutRoConfig::default()
        };
        let hook = Var::new(var, &sinks, &case.spans);
        assert_eq!(with(vec![Box::new(hook)], &case.prompt), want);
        let c = VcdConfig {
            alpha: 0.0,
            beta: 0.0,
            ..VcdConfig::default()
        };
        assert_eq!(vcd(&case, &none, c).0, want);
        for threshold in [0.0, 1.0] {
            let c = MixtureConfig {
                threshold,
                complement: 0.0,
                contrast: 0.0,
                beta: 0.0,
                ..MixtureConfig::default()
            };
            assert_eq!(mixture(&case, &none, c).0, want);
        }
        let c = AvcdConfig {
            entropy: 1e30,
            ..AvcdConfig::default()
        };
        assert_eq!(avcd(&case, &none, c), (want, 5));
    }
}

#[test]
fn text_alone_has_nothing_to_contrast_with() {
    let case = case("text");
    let want = (plain(&case), 5);
    assert_eq!(vcd(&case, &none, VcdConfig::default()), want);
    assert_eq!(mixture(&case, &none, MixtureConfig::default()), want);
    assert_eq!(avcd(&case, &none, AvcdConfig::default()), want);
}

/// Every pass carries the hooks, and none that does nothing is noticed.
#[test]
fn hooks_act_in_every_pass() {
    let case = case("audio-in-video");
    let hooks =
        |config: OutRoConfig| move || -> Vec<Box<dyn Hook>> { vec![Box::new(OutRo::new(config.clone()))] };
    let (on, off) = (
        hooks(OutRoConfig::default()),
        hooks(OutRoConfig {
            rotate: false,
            relax: false,
            ..OutRoConfig::default()
        }),
    );
    let c = VcdConfig {
        beta: 0.0,
        ..VcdConfig::default()
    };
    let noisy = NoisyMedia::default();
    let noisy = noisy.prompt(&MODEL, &case.inputs, &c.noise).unwrap();
    let (clean, other) = (with(on(), &case.prompt), with(on(), &noisy));
    let mix = |(l, n): (&Vec<f32>, &Vec<f32>)| mixed(&[(2.0, l), (-1.0, n)], l, 0.0);
    let want: Vec<Vec<f32>> = clean.iter().zip(&other).map(mix).collect();
    same(&vcd(&case, &on, c).0, &want);
    let all = |hooks: &Hooks| {
        let (m, a) = (MixtureConfig::default(), AvcdConfig::default());
        [
            vcd(&case, hooks, c),
            mixture(&case, hooks, m),
            avcd(&case, hooks, a),
        ]
    };
    let (without, with, idle) = (all(&none), all(&on), all(&off));
    assert_eq!(without, idle);
    assert!(without.iter().zip(&with).all(|(a, b)| a.0 != b.0));
}

/// Streams that take turns on one model give what each gives alone; so do those whose plain pass goes on from a prefix.
#[test]
fn streams_do_not_notice_each_other() {
    let (a, b) = (case("audio-in-video"), case("video"));
    let noisy = NoisyMedia::default();
    let to_noise = |noise: &Noise| noisy.prompt(&MODEL, &b.inputs, noise);
    let mut prefix = Session::new(&MODEL, None);
    prefix.prefill_prefix(&b.prompt, 5, &mut |_| {}).unwrap();
    let mut one = Avcd::new(AvcdConfig::default(), &request(&a, None, &to_noise), &none).unwrap();
    let mut two = Vcd::new(VcdConfig::default(), &request(&b, None, &to_noise), &none).unwrap();
    let mut first = vec![one.prefill(&a.prompt, &mut |_| {}).unwrap()];
    let mut second = vec![two.prefill(&b.prompt, &mut |_| {}).unwrap()];
    for token in STEPS {
        first.push(one.decode(token).unwrap());
        second.push(two.decode(token).unwrap());
    }
    assert_eq!(first, avcd(&a, &none, AvcdConfig::default()).0);
    assert_eq!(second, vcd(&b, &none, VcdConfig::default()).0);
    let mut goes_on = Vcd::new(
        VcdConfig::default(),
        &request(&b, Some(&prefix), &to_noise),
        &none,
    )
    .unwrap();
    assert!(goes_on.session().has_prefix());
    same(&follow(&mut goes_on, &b.prompt), &second);
}

/// Rows that another hook drops, and a cache of half precision, are no trouble.
#[test]
fn strategies_stand_pruning_and_small_caches() {
    struct Half;
    impl Hook for Half {
        fn layer_input(&mut self, at: At, x: &[f32], hidden: usize) -> outro::Result<Flow> {
            let n = x.len() / hidden;
            let keep = (0..n).filter(|r| r % 2 == 0 || r + 1 == n).collect();
            let now = at.prefill && at.layer == 4;
            Ok(if now { Flow::Keep(keep) } else { Flow::Continue })
        }
    }
    let case = case("audio-in-video");
    let sinks = OutRoConfig {
        sinks: Some(vec![0, 20]),
        ..OutRoConfig::default()
    };
    let all = || -> Vec<Box<dyn Hook>> {
        vec![
            Box::new(FarSight::new(FarSightConfig::default())),
            Box::new(Half),
            Box::new(Var::new(VarConfig::default(), &sinks, &case.spans)),
        ]
    };
    let (a, m) = (
        AvcdConfig {
            beta: 0.0,
            ..AvcdConfig::default()
        },
        MixtureConfig {
            beta: 0.0,
            ..MixtureConfig::default()
        },
    );
    let makes: [Make; 2] = [&|r, h| Box::new(Avcd::new(a, r, h).unwrap()), &|r, h| {
        Box::new(Mixture::new(m, r, h).unwrap())
    }];
    for make in makes {
        let (wide, narrow) = (run(&case, &all, make).0, run_on(&case, &all, KvType::F16, make).0);
        assert_ne!(wide, run(&case, &none, make).0);
        let largest = wide[0].iter().fold(0f32, |m, x| m.max(x.abs()));
        for (a, b) in narrow.iter().flatten().zip(wide.iter().flatten()) {
            assert!((a - b).abs() < 2e-2 * largest, "{a} for {b}");
        }
    }
}
