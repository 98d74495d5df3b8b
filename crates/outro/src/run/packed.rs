//! The law "packed = alone": a request's numbers do not depend on what shares its step, bit for bit.

use std::path::{Path, PathBuf};

use outro_kernels::{Activations, Phase};

use crate::compute::nn::{Deepstack, KvType, LayerCache, Mat, NewRows, Step};
use crate::hook::method::{OutRo, OutRoConfig, Prune, PruneConfig};
use crate::hook::{Chain, Hook};
use crate::prompt::inputs::Inputs;
use crate::run::model::{LoadOptions, Model, Prompt};
use crate::run::strategy::{FarSight, FarSightConfig};
use crate::weights::checkpoint::{Dtype, Quantize};

/// A request on its way: what a session keeps.
struct Request {
    caches: Vec<LayerCache>,
    hook: Option<Box<dyn Hook>>,
    prompt: Prompt,
    next: f32,
    /// What it has computed so far: last rows and logits, pass by pass.
    seen: Vec<Vec<f32>>,
}

/// Strategies that act in one pass: none, the method, pruning beside it, a rival.
const STRATEGIES: usize = 4;

impl Request {
    fn new(model: &Model, prompt: &Prompt, strategy: usize, kv: KvType) -> Self {
        let rows = prompt.embeds.rows();
        let (layers, dim) = (model.config().text.layers, model.config().text.head_dim);
        let hook: Option<Box<dyn Hook>> = match strategy {
            0 => None,
            1 => Some(Box::new(OutRo::new(OutRoConfig::default()))),
            // A model of two layers has none in which pruning saves anything.
            2 if layers > 4 => {
                let (config, sinks) = (PruneConfig { layer: 3, keep: 0.5 }, OutRoConfig::default());
                let media = (0..rows).map(|row| row % 3 == 1).collect();
                Some(Box::new(Chain(vec![
                    Box::new(OutRo::new(sinks.clone())),
                    Box::new(Prune::new(config, &sinks, media)),
                ])))
            }
            _ => Some(Box::new(FarSight::new(FarSightConfig::default()))),
        };
        Self {
            caches: (0..layers).map(|_| LayerCache::new(kv, dim)).collect(),
            hook,
            prompt: prompt.clone(),
            next: prompt.positions.next,
            seen: Vec::new(),
        }
    }

    /// The prompt, or the token after it.
    fn step(&mut self, model: &Model, token: Option<u32>) -> (NewRows, Step<'_>) {
        let (x, positions, deepstack) = match token {
            None => {
                let p = self.prompt.clone();
                (p.embeds, p.positions.ids, p.deepstack)
            }
            Some(token) => {
                self.next += 1.0;
                let x = model.embed(&[token]).unwrap();
                (x, vec![[self.next - 1.0; 3]], Deepstack::default())
            }
        };
        let rows = NewRows {
            x,
            positions,
            deepstack,
            prefill: token.is_none(),
        };
        let step = Step {
            caches: &mut self.caches,
            hook: self.hook.as_deref_mut(),
            cancel: None,
        };
        (rows, step)
    }
}

/// One step of some requests together; those that decode come first.
fn together(model: &Model, requests: &mut [&mut Request], tokens: &[Option<u32>]) {
    let mut order: Vec<usize> = (0..requests.len()).collect();
    order.sort_by_key(|i| tokens[*i].is_none());
    let mut steps: Vec<(usize, (NewRows, Step))> = requests
        .iter_mut()
        .enumerate()
        .map(|(i, r)| {
            (
                order.iter().position(|o| *o == i).unwrap(),
                r.step(model, tokens[i]),
            )
        })
        .collect();
    steps.sort_by_key(|(place, _)| *place);
    let (new, mut steps): (Vec<NewRows>, Vec<Step>) = steps.into_iter().map(|(_, step)| step).unzip();
    let rows = model.decoder().forward(new, &mut steps);
    let rows: Vec<Mat> = rows.into_iter().map(Result::unwrap).collect();
    drop(steps);
    // The output head of all requests in one product.
    let cols = rows[0].cols();
    let last: Vec<f32> = rows.iter().flat_map(|r| r.row(r.rows() - 1).to_vec()).collect();
    let logits = model.decoder().logits(&last, Phase::Decode);
    for (place, i) in order.into_iter().enumerate() {
        requests[i]
            .seen
            .push(last[place * cols..(place + 1) * cols].to_vec());
        requests[i].seen.push(logits.row(place).to_vec());
    }
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fixtures")
        .join(name)
}

fn prompt(model: &Model, path: &Path) -> Prompt {
    let inputs = Inputs::load(path).unwrap().fitted(model.config()).unwrap();
    let media = model.encode(&inputs, &mut |_| {}).unwrap();
    model.prompt(&inputs, &media).unwrap()
}

/// Five requests of different lengths and strategies, two of which begin while the others decode.
fn law(name: &str, model: &Model, prompts: &[Prompt], kv: KvType) {
    let make = |i: usize| Request::new(model, &prompts[i % prompts.len()], i % STRATEGIES, kv);
    let token = |i: usize, t: usize| Some((40 + 7 * i + 3 * t) as u32);
    let mut alone: Vec<Request> = (0..5).map(make).collect();
    for (i, request) in alone.iter_mut().enumerate() {
        for t in 0..4 {
            together(model, &mut [request], &[if t == 0 { None } else { token(i, t) }]);
        }
    }
    let mut packed: Vec<Request> = (0..5).map(make).collect();
    // Request i begins in round `[0, 0, 1, 2, 2][i]`.
    let begins = [0, 0, 1, 2, 2];
    for round in 0..6 {
        let live = packed
            .iter_mut()
            .enumerate()
            .filter(|(i, _)| (begins[*i]..begins[*i] + 4).contains(&round));
        let (tokens, mut live): (Vec<_>, Vec<_>) = live
            .map(|(i, request)| match round - begins[i] {
                0 => (None, request),
                t => (token(i, t), request),
            })
            .unzip();
        together(model, &mut live, &tokens);
    }
    for (i, (packed, alone)) in packed.iter().zip(&alone).enumerate() {
        assert_eq!(packed.seen.len(), 8, "{name}");
        assert!(
            packed.seen == alone.seen,
            "{name}: request {i} is not what it is alone"
        );
    }
}

#[test]
fn packed_is_alone() {
    let cases = [
        (
            "omni-tiny",
            [
                "cases/text.inputs",
                "cases/video.inputs",
                "cases/audio-in-video.inputs",
            ],
        ),
        (
            "qwen3-vl-tiny",
            ["cases/text-0", "cases/image-1", "cases/video-2"],
        ),
        (
            "qwen3-moe-tiny",
            [
                "cases/text-0.inputs",
                "cases/text-2.inputs",
                "cases/text-4.inputs",
            ],
        ),
        (
            "video-salmonn2-tiny",
            ["cases/image-0", "cases/audio-1", "cases/audio-in-video-2"],
        ),
    ];
    for (name, files) in cases {
        for (dtype, quantize) in [
            (Dtype::F32, None),
            (Dtype::Auto, None),
            (Dtype::Auto, Some(Quantize::Q8_0)),
        ] {
            for activations in [Activations::F32, Activations::Reduced] {
                let options = LoadOptions {
                    dtype,
                    quantize,
                    activations,
                    ..LoadOptions::default()
                };
                let model = Model::load(&fixture(name), options).unwrap();
                let files = files.map(|f| fixture(name).join(format!("{f}.safetensors")));
                let prompts = files.map(|f| prompt(&model, &f));
                for kv in KvType::ALL {
                    law(
                        &format!("{name} {dtype:?} {quantize:?} {activations:?} {kv:?}"),
                        &model,
                        &prompts,
                        kv,
                    );
                }
            }
        }
    }
    for name in ["llama-tiny", "qwen2-tiny", "qwen3-tiny", "qwen3moe-tiny"] {
        for activations in [Activations::F32, Activations::Reduced] {
            let options = LoadOptions {
                activations,
                ..LoadOptions::default()
            };
            let model = Model::load(&fixture(&format!("gguf/{name}.gguf")), options).unwrap();
            let prompts = [2usize, 9, 30].map(|n| {
                let ids = (0..n as u32).map(|i| (1 + 5 * i) % 60).collect();
                let inputs = Inputs {
                    input_ids: ids,
                    ..Inputs::default()
                };
                model
                    .prompt(&inputs, &crate::run::model::MediaEmbeds::default())
                    .unwrap()
            });
            law(name, &model, &prompts, KvType::F32);
        }
    }
}
