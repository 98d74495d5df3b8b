//! Tokens chosen as transformers chooses them: its processors on random logits, its `generate` on two tiny models.

use std::fs;
use std::path::Path;

use outro::generate::{FILE, GenerationConfig, Sampler};
use outro::inputs::Inputs;
use outro::{Dtype, Model, Session};
use serde_json::Value;

use crate::fixtures;

fn golden(part: &str) -> Vec<Value> {
    let text = fs::read_to_string(fixtures().join("sampling.json")).unwrap();
    let all: Value = serde_json::from_str(&text).unwrap();
    let cases = all[part].as_array().unwrap().clone();
    assert!(!cases.is_empty());
    cases
}

/// As from a checkpoint with this generation_config.json.
fn sampler(file: &Value, prompt: &[u32]) -> Sampler {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(FILE), file.to_string()).unwrap();
    let config = GenerationConfig::load(dir.path()).unwrap();
    Sampler::new(config.sampling(0).unwrap(), prompt)
}

fn numbers(list: &Value) -> Vec<f64> {
    list.as_array()
        .unwrap()
        .iter()
        .map(|x| x.as_f64().unwrap())
        .collect()
}

fn ids(list: &Value) -> Vec<u32> {
    numbers(list).into_iter().map(|x| x as u32).collect()
}

/// 1e-6: transformers' softmax is f32.
#[test]
fn probabilities_are_those_of_transformers_processors() {
    let mut drawn = 0;
    for case in golden("processed") {
        let logits: Vec<f32> = numbers(&case["logits"]).into_iter().map(|l| l as f32).collect();
        let mut sampler = sampler(&case["file"], &ids(&case["prompt"]));
        if let Some(token) = case["token"].as_u64() {
            assert_eq!(u64::from(sampler.choose(&logits)), token, "{}", case["file"]);
            continue;
        }
        let mut got = vec![0.0; logits.len()];
        for (id, p) in sampler.probabilities(&logits) {
            got[id as usize] = p;
        }
        for (id, (want, got)) in numbers(&case["probabilities"]).iter().zip(&got).enumerate() {
            assert!(
                (want - got).abs() < 1e-6,
                "{}: token {id}: {got}, not {want}",
                case["file"]
            );
        }
        let chosen = sampler.choose(&logits);
        assert!(got[chosen as usize] > 0.0, "{}", case["file"]);
        drawn += 1;
    }
    assert!(drawn > 10);
}

#[test]
fn a_penalty_gives_the_tokens_of_transformers_generate() {
    for case in golden("generated") {
        let dir = fixtures().join(case["model"].as_str().unwrap());
        let model = Model::load(&dir, Dtype::F32).unwrap();
        let path = dir.join("cases").join(Path::new(case["case"].as_str().unwrap()));
        let inputs = Inputs::load(&path).unwrap().fitted(model.config()).unwrap();
        let media = model.encode(&inputs, &mut |_| {}).unwrap();
        let prompt = model.prompt(&inputs, &media).unwrap();
        let want = ids(&case["tokens"]);
        let answer = |sampler: &mut Sampler| {
            let mut session = Session::new(&model, None);
            let mut logits = session.prefill(&prompt, 1, &mut |_| {}).unwrap().into_data();
            let mut tokens = Vec::new();
            while tokens.len() < want.len() {
                tokens.push(sampler.choose(&logits));
                logits = session.decode(tokens[tokens.len() - 1]).unwrap();
            }
            tokens
        };
        let penalised = answer(&mut sampler(&case["file"], &inputs.input_ids));
        assert_eq!(penalised, want, "{}", dir.display());
        assert_ne!(
            answer(&mut Sampler::greedy()),
            want,
            "the penalty changes the answer"
        );
    }
}
