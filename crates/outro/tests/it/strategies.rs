//! Strategies against plain forms of themselves (whole attention maps, double precision), and their laws.

mod formulas;

use std::sync::{Arc, LazyLock, Mutex};

use formulas::mixed;
use outro::hook::{At, Attention, Chain, Flow, HeadOutputs, Hidden, Hook};
use outro::inputs::Inputs;
use outro::method::median_abs;
use outro::positions::Span;
use outro::strategy::{
    Avcd, AvcdConfig, FarSight, FarSightConfig, Hooks, Mixture, MixtureConfig, Noise, NoisyMedia, Request,
    Single, Var, VarConfig, Vcd, VcdConfig, entropy,
};
use outro::{Cancel, Dtype, Event, KvType, Model, OutRo, OutRoConfig, Prefix, Prompt, Session, Stream, step};

static MODEL: LazyLock<Model> =
    LazyLock::new(|| Model::load(&crate::fixtures().join("omni-tiny"), Dtype::Auto).unwrap());

/// A case of the fixtures.
struct Case {
    inputs: Inputs,
    prompt: Arc<Prompt>,
}

fn case(name: &str) -> Case {
    let file = format!("omni-tiny/cases/{name}.inputs.safetensors");
    let inputs = Inputs::load(&crate::fixtures().join(file)).unwrap();
    let embeds = MODEL.encode(&inputs, &mut |_| {}).unwrap();
    Case {
        prompt: Arc::new(MODEL.prompt(&inputs, &embeds).unwrap()),
        inputs,
    }
}

const STEPS: std::ops::Range<u32> = 30..34;

/// Logits of the prompt and of a few tokens.
fn follow(stream: &mut dyn Stream) -> Vec<Vec<f32>> {
    let mut all = vec![stream.prefill(&mut |_| {}).unwrap()];
    all.extend(STEPS.map(|token| stream.decode(token).unwrap()));
    all
}

/// The same of a session.
fn followed(session: &mut Session, prompt: &Prompt) -> Vec<Vec<f32>> {
    let mut all = vec![session.prefill(prompt, 1, &mut |_| {}).unwrap().into_data()];
    all.extend(STEPS.map(|token| session.decode(token).unwrap()));
    all
}

fn with(hooks: Vec<Box<dyn Hook>>, prompt: &Prompt) -> Vec<Vec<f32>> {
    followed(&mut Session::new(&MODEL, Some(Box::new(Chain(hooks)))), prompt)
}

fn plain(case: &Case) -> Vec<Vec<f32>> {
    followed(&mut Session::new(&MODEL, None), &case.prompt)
}

/// Runs what `make` makes of the case: logits, and passes.
fn run(case: &Case, hooks: &Hooks, make: Make) -> (Vec<Vec<f32>>, usize) {
    run_on(case, hooks, KvType::F32, make)
}

/// The case as strategies see it.
fn request(case: &Case, prefix: Option<Prefix>) -> Request {
    let (noisy, inputs) = (NoisyMedia::default(), case.inputs.clone());
    Request {
        model: MODEL.clone(),
        kv: KvType::F32,
        prompt: Arc::clone(&case.prompt),
        prefix: prefix.map(Arc::new),
        noisy: Arc::new(move |noise| MODEL.prompt(&inputs, &*noisy.encode(&MODEL, &inputs, noise)?)),
        cancel: Cancel::default(),
    }
}

type Make<'m> = &'m dyn Fn(&Request, &Hooks) -> Box<dyn Stream>;

fn run_on(case: &Case, hooks: &Hooks, kv: KvType, make: Make) -> (Vec<Vec<f32>>, usize) {
    let request = Request {
        kv,
        ..request(case, None)
    };
    let mut stream = make(&request, hooks);
    (follow(stream.as_mut()), stream.passes())
}

fn vcd(case: &Case, hooks: &Hooks, c: VcdConfig) -> (Vec<Vec<f32>>, usize) {
    run(case, hooks, &|r, h| Box::new(Vcd::new(c, r, h).unwrap()))
}

fn mixture(case: &Case, hooks: &Hooks, c: MixtureConfig) -> (Vec<Vec<f32>>, usize) {
    run(case, hooks, &|r, h| Box::new(Mixture::new(c, r, h)))
}

fn avcd(case: &Case, hooks: &Hooks, c: AvcdConfig) -> (Vec<Vec<f32>>, usize) {
    run(case, hooks, &|r, h| Box::new(Avcd::new(c, r, h)))
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
    fn weighing(weigh: impl FnMut(At, usize, &Scores) -> Scores + Send + 'static) -> Box<dyn Hook> {
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
    fn layer_input(&mut self, at: At, x: Hidden) -> outro::Result<Flow> {
        if at.prefill {
            self.inputs.lock().unwrap().push(x.host().to_vec());
        }
        Ok(Flow::Continue)
    }

    fn head_outputs(
        &mut self,
        at: At,
        a: Attention,
        o: &mut HeadOutputs,
        _applied: bool,
    ) -> outro::Result<()> {
        let (heads, groups, dim) = (at.shape.heads, at.shape.kv_heads, at.shape.dim);
        let (n, s) = (a.rows(), a.keys());
        let o = o.host_mut();
        for head in 0..heads {
            let g = head / (heads / groups);
            let q = |i: usize| &a.q()[(i * heads + head) * dim..][..dim];
            let k = |j: usize| &a.k()[(j * groups + g) * dim..][..dim];
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
                    let terms = (0..s).map(|j| map[i][j] * f64::from(a.v()[(j * groups + g) * dim + d]));
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
        let hook = Var::new(var, &sinks, &case.prompt.spans);
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
    let noisy = (request(&case, None).noisy)(&c.noise).unwrap();
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

/// Streams that share steps, or take turns, on one model give what each gives alone, bit for bit; one that fails fails
/// alone; a plain pass goes on from a prefix.
#[test]
fn streams_do_not_notice_each_other() {
    let (a, b) = (case("audio-in-video"), case("video"));
    let (avcd_alone, vcd_alone) = (
        avcd(&a, &none, AvcdConfig::default()).0,
        vcd(&b, &none, VcdConfig::default()).0,
    );
    let mut one = Avcd::new(AvcdConfig::default(), &request(&a, None), &none);
    let mut two = Vcd::new(VcdConfig::default(), &request(&b, None), &none).unwrap();
    let mut ends = Single::new(&request(&b, None), &none);
    let (mut first, mut second) = (Vec::new(), Vec::new());
    let events = std::iter::once(Event::Begin).chain(STEPS.map(Event::Token));
    for (n, event) in events.enumerate() {
        // The third asks for a token that is none, in its second step.
        let third = if n == 1 {
            Event::Token(u32::MAX)
        } else {
            event.clone()
        };
        let mut streams: Vec<(&mut dyn Stream, Event)> =
            vec![(&mut one, event.clone()), (&mut ends, third), (&mut two, event)];
        let mut made = step(&mut streams, &mut |_| {}).into_iter();
        first.push(made.next().unwrap().unwrap());
        assert_eq!(made.next().unwrap().is_err(), n == 1);
        second.push(made.next().unwrap().unwrap());
    }
    assert!(first == avcd_alone && second == vcd_alone);
    let mut one = Avcd::new(AvcdConfig::default(), &request(&a, None), &none);
    let mut two = Vcd::new(VcdConfig::default(), &request(&b, None), &none).unwrap();
    let mut first = vec![one.prefill(&mut |_| {}).unwrap()];
    let mut second = vec![two.prefill(&mut |_| {}).unwrap()];
    for token in STEPS {
        first.push(one.decode(token).unwrap());
        second.push(two.decode(token).unwrap());
    }
    assert!(first == avcd_alone && second == vcd_alone);
    let prefix = Prefix::run(&MODEL, KvType::F32, &b.prompt, 5).unwrap();
    let mut goes_on = Vcd::new(VcdConfig::default(), &request(&b, Some(prefix)), &none).unwrap();
    assert!(goes_on.session().has_prefix());
    same(&follow(&mut goes_on), &second);
}

/// Rows that another hook drops, and a cache of half precision, are no trouble.
#[test]
fn strategies_stand_pruning_and_small_caches() {
    struct Half;
    impl Hook for Half {
        fn layer_input(&mut self, at: At, x: Hidden) -> outro::Result<Flow> {
            let n = x.rows();
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
            Box::new(Var::new(VarConfig::default(), &sinks, &case.prompt.spans)),
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
    let makes: [Make; 2] = [&|r, h| Box::new(Avcd::new(a, r, h)), &|r, h| {
        Box::new(Mixture::new(m, r, h))
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
