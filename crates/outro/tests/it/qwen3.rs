//! What Qwen3's decoder has that others have not: features added behind the first layers, experts, its own fields.

use std::fs;
use std::sync::Arc;

use outro::config::Config;
use outro::hook::{At, Flow, Hidden, Hook};
use outro::inputs::Inputs;
use outro::{Deepstack, Dtype, KvType, Mat, Model, Prefix, Prompt, Quantize, Session};
use serde_json::{Value, json};

fn model(name: &str) -> Model {
    Model::load(&crate::fixtures().join(name), Dtype::F32).unwrap()
}

/// A text prompt whose rows 2, 3 and 6 get something after the first two layers, as visual rows do.
fn prompt(model: &Model, last: f32) -> Prompt {
    let inputs = Inputs {
        input_ids: vec![20, 31, 42, 53, 64, 75, 86, 97, 108],
        ..Inputs::default()
    };
    let mut prompt = model
        .prompt(&inputs, &model.encode(&inputs, &mut |_| {}).unwrap())
        .unwrap();
    let features = |scale: f32| {
        let cols = prompt.embeds.cols();
        let number = |i: usize| scale * ((i * 7 % 11) as f32 - 5.0);
        let mut mat = Mat::new(cols, (0..3 * cols).map(number).collect());
        mat.row_mut(2)[0] = last;
        mat
    };
    prompt.deepstack = Deepstack {
        rows: vec![(2, 0), (3, 1), (6, 2)],
        layers: Arc::new(vec![features(0.1), features(0.05)]),
    };
    prompt
}

/// Keeps some rows at a layer.
struct Keep(usize, Vec<usize>);

impl Hook for Keep {
    fn layer_input(&mut self, at: At, _x: Hidden) -> outro::Result<Flow> {
        if at.prefill && at.layer == self.0 {
            return Ok(Flow::Keep(self.1.clone()));
        }
        Ok(Flow::Continue)
    }
}

fn logits(model: &Model, prompt: &Prompt, hook: Option<Box<dyn Hook>>) -> Vec<f32> {
    Session::new(model, hook)
        .prefill(prompt, 1, &mut |_| {})
        .unwrap()
        .into_data()
}

#[test]
fn features_of_vision_blocks_go_with_their_rows() {
    let model = model("qwen3-tiny");
    let whole = prompt(&model, 0.3);
    let plain = Prompt {
        deepstack: Deepstack::default(),
        ..whole.clone()
    };
    let keep =
        |layer, rows: &[usize]| -> Option<Box<dyn Hook>> { Some(Box::new(Keep(layer, rows.to_vec()))) };
    let want = logits(&model, &whole, None);
    assert_ne!(want, logits(&model, &plain, None));
    let all: Vec<usize> = (0..9).collect();
    assert_eq!(want, logits(&model, &whole, keep(1, &all)));
    // Dropped at the first layer is never there: as a prompt of the rest at the same positions.
    let kept = [0, 1, 3, 4, 6, 8];
    let cols = whole.embeds.cols();
    let mut rest = whole.clone();
    let rows = kept.iter().flat_map(|r| whole.embeds.row(*r)).copied();
    rest.embeds = Mat::new(cols, rows.collect());
    assert_eq!(rest.embeds.rows(), kept.len());
    rest.positions.ids = kept.iter().map(|r| whole.positions.ids[*r]).collect();
    rest.deepstack.rows = vec![(2, 1), (4, 2)];
    assert_eq!(
        logits(&model, &whole, keep(0, &kept)),
        logits(&model, &rest, None)
    );
    assert_eq!(whole.deepstack.kept(&kept).rows, rest.deepstack.rows);
    // Between the two layers, whoever is left gets the second share.
    let late = logits(&model, &whole, keep(1, &kept));
    assert!(late.iter().all(|x| x.is_finite()) && late != logits(&model, &rest, None));
    for cut in [1, 3, 5, 8] {
        let prefix = Prefix::run(&model, KvType::F32, &whole, cut).unwrap();
        let got = prefix
            .session()
            .prefill(&whole, 1, &mut |_| {})
            .unwrap()
            .into_data();
        for (a, b) in got.iter().zip(&want) {
            assert!((a - b).abs() < 2e-5, "cut at {cut}: {a} for {b}");
        }
        let other = prompt(&model, 0.4);
        let refused = prefix.session().prefill(&other, 1, &mut |_| {});
        assert!(refused.unwrap_err().to_string().contains("does not begin"));
    }
}

#[test]
fn experts_are_quantised_and_counted_by_choice() {
    let dir = crate::fixtures().join("qwen3-moe-tiny");
    let plain = model("qwen3-moe-tiny");
    let options = outro::LoadOptions {
        quantize: Some(Quantize::Q8_0),
        ..outro::LoadOptions::from(Dtype::F32)
    };
    let small = Model::load(&dir, options).unwrap();
    let moe = plain.config().text.moe.clone().unwrap();
    let (c, (_, used)) = (&plain.config().text, plain.decode_weights());
    let attention = c.hidden * c.head_dim * (2 * c.heads + 2 * c.kv_heads);
    let sparse = (0..c.layers).filter(|l| moe.at(*l)).count();
    let expected = c.layers * attention
        + sparse * c.hidden * (moe.experts + 3 * moe.top_k * moe.intermediate)
        + (c.layers - sparse) * 3 * c.hidden * c.intermediate
        + c.vocab * c.hidden;
    assert_eq!((sparse, used), (c.layers - 2, expected));
    assert!(small.weight_bytes() < plain.weight_bytes() / 2);
    let (a, b) = (prompt(&plain, 0.0), prompt(&small, 0.0));
    let (a, b) = (logits(&plain, &a, None), logits(&small, &b, None));
    let scale = a.iter().fold(0f32, |m, x| m.max(x.abs()));
    let worst = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst > 0.0 && worst < 0.1 * scale, "{worst} of {scale}");
}

/// Missing and contradictory fields, by name; the published layout beside that of newer releases.
#[test]
fn a_configuration_names_what_is_wrong() {
    let text = fs::read_to_string(crate::fixtures().join("qwen3-moe-tiny/config.json")).unwrap();
    let newer: Value = serde_json::from_str(&text).unwrap();
    let read = |value: &Value| {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("config.json"), value.to_string()).unwrap();
        Config::load(dir.path())
    };
    let mut published = newer.clone();
    let fields = published.as_object_mut().unwrap();
    fields.remove("rope_parameters");
    fields.remove("num_local_experts");
    fields.insert("rope_theta".into(), json!(1e6));
    fields.insert("num_experts".into(), json!(6));
    fields.insert("rope_scaling".into(), Value::Null);
    assert_eq!(read(&published).unwrap(), read(&newer).unwrap());
    for (key, value, words) in [
        ("head_dim", json!(7), "head_dim"),
        ("num_local_experts", json!(0), "num_local_experts"),
        ("num_experts", json!(5), "num_experts"),
        ("num_experts_per_tok", json!(7), "num_experts_per_tok"),
        ("num_experts_per_tok", Value::Null, "num_experts_per_tok"),
        ("moe_intermediate_size", Value::Null, "moe_intermediate_size"),
        ("mlp_only_layers", json!([14]), "mlp_only_layers"),
        ("attention_bias", json!(true), "attention_bias"),
        ("rope_parameters", json!({"rope_type": "longrope"}), "longrope"),
    ] {
        let mut broken = newer.clone();
        broken[key] = value;
        let error = read(&broken).unwrap_err().to_string();
        assert!(error.contains(words), "{key}: {error}");
    }
}
