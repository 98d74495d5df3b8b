//! What smaller caches cost, on checkpoints whose heads have 16, 20 and 32 numbers.

use std::path::PathBuf;

use outro::inputs::Inputs;
use outro::{Dtype, KvType, Model, OutRo, OutRoConfig, Prompt, Session};

/// Logits of every row of the prompt and of three tokens after it, and the sinks that OutRo found.
fn run(model: &Model, prompt: &Prompt, kv: KvType) -> (Vec<Vec<f32>>, String) {
    let hook = Box::new(OutRo::new(OutRoConfig::default()));
    let mut session = Session::with_kv(model, Some(hook), kv);
    let logits = session
        .prefill(prompt, prompt.embeds.rows(), &mut |_| {})
        .unwrap();
    let mut rows: Vec<Vec<f32>> = logits
        .data()
        .chunks_exact(logits.cols())
        .map(<[f32]>::to_vec)
        .collect();
    rows.extend((30..33).map(|token| session.decode(token).unwrap()));
    let sinks = format!("{:?}", session.hook::<OutRo>().unwrap().sinks());
    (rows, sinks)
}

fn best(row: &[f32]) -> usize {
    (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        let terms = a.iter().zip(b);
        terms.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Rows, equal first choices, the mean and the smallest cosine of logits, the largest difference as a share of the largest logit.
#[derive(Debug, Default)]
struct Cost {
    rows: usize,
    equal: usize,
    mean: f64,
    worst: f64,
    largest: f32,
}

fn cost(model: &Model, prompts: &[Prompt], kv: KvType, same_sinks: bool) -> Cost {
    let mut cost = Cost {
        worst: 1.0,
        ..Cost::default()
    };
    for prompt in prompts {
        let ((exact, sinks), (small, seen)) = (run(model, prompt, KvType::F32), run(model, prompt, kv));
        assert!(
            !same_sinks || sinks == seen,
            "{kv:?} moves no sink: {seen} for {sinks}"
        );
        for (a, b) in exact.iter().zip(&small) {
            let cosine = cosine(a, b);
            let scale = a.iter().fold(0f32, |m, x| m.max(x.abs()));
            let apart = a.iter().zip(b).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
            cost.rows += 1;
            cost.equal += usize::from(best(a) == best(b));
            cost.mean += cosine;
            cost.worst = cost.worst.min(cosine);
            cost.largest = cost.largest.max(apart / scale);
        }
    }
    cost.mean /= cost.rows as f64;
    cost
}

fn prompts(model: &Model, cases: &[PathBuf]) -> Vec<Prompt> {
    let load = |path: &PathBuf| {
        let inputs = Inputs::load(path).unwrap().fitted(model.config()).unwrap();
        let media = model.encode(&inputs, &mut |_| {}).unwrap();
        model.prompt(&inputs, &media).unwrap()
    };
    cases.iter().map(load).collect()
}

/// Bounds on the mean cosine of logits and on first choices; `--nocapture` prints what docs/generation.md has.
#[test]
fn smaller_caches_cost_little() {
    let bounds = [
        (KvType::F16, 0.999_99, 0.99),
        (KvType::Q8_0, 0.9995, 0.95),
        (KvType::Q4, 0.9, 0.6),
    ];
    // Hidden states of the last, whose heads have 20 numbers, lie close to the threshold of sinks.
    for name in ["omni-tiny", "qwen3-tiny", "qwen3-vl-tiny"] {
        let dir = crate::fixtures().join(name);
        let model = Model::load(&dir, Dtype::F32).unwrap();
        let mut cases: Vec<PathBuf> = std::fs::read_dir(dir.join("cases"))
            .unwrap()
            .map(|e| e.unwrap().path())
            .filter(|p| Inputs::load(p).is_ok_and(|i| i.input_ids.len() > 3))
            .collect();
        cases.sort();
        let prompts = prompts(&model, &cases);
        assert!(!prompts.is_empty(), "{name}");
        for (kv, mean, equal) in bounds {
            let cost = cost(&model, &prompts, kv, name != "qwen3-vl-tiny");
            println!("{name} {}: {cost:?}", kv.name());
            assert!(cost.mean > mean, "{name} {kv:?}: {cost:?}");
            assert!(
                cost.equal as f64 > equal * cost.rows as f64,
                "{name} {kv:?}: {cost:?}"
            );
        }
    }
}
