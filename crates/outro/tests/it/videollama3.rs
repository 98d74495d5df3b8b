//! VideoLLaMA3's processor against transformers' on the fixture's pictures, its two layouts, and configurations that
//! cannot be.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use outro::chat::Conversation;
use outro::config::Config;
use outro::inputs::Inputs;
use outro::positions::{Span, spans};
use outro::prepare::Preparer;
use outro::{Dtype, Model, Session};
use outro_media::{Sampling, Spread, VideoInfo, resize_bytes, shared_size};
use safetensors::SafeTensors;
use serde_json::{Value, json};

use crate::families::{media, picture};
use crate::golden::{Golden, LOGITS};

fn root() -> PathBuf {
    crate::fixtures().join("videollama3-tiny")
}

#[test]
fn frames_and_sizes_are_those_of_transformers() {
    let text = fs::read_to_string(root().join("arithmetic.json")).unwrap();
    let all: Value = serde_json::from_str(&text).unwrap();
    let sampling = Sampling {
        spread: Spread::Starts,
        fps: 1.0,
        max_frames: 180,
        ..Sampling::default()
    };
    let rows = all["frames"].as_array().unwrap();
    assert!(rows.len() >= 100);
    for row in rows {
        let (total, fps): (usize, f64) = serde_json::from_value(json!([row[0], row[1]])).unwrap();
        let mut want: Vec<usize> = serde_json::from_value(row[2].clone()).unwrap();
        // The reference's rounding may give one more, past the end, which no decoder has.
        want.retain(|i| *i < total);
        let info = VideoInfo {
            codec: String::new(),
            width: 64,
            height: 64,
            fps,
            frames: total,
            duration: total as f64 / fps,
        };
        assert_eq!(
            sampling.indices(&info).unwrap(),
            want,
            "{total} frames, {fps} a second"
        );
    }
    for row in all["sizes"].as_array().unwrap() {
        let (height, width, frames, factor, least, most, want): (
            usize,
            usize,
            usize,
            usize,
            usize,
            usize,
            (usize, usize),
        ) = serde_json::from_value(row.clone()).unwrap();
        let got = shared_size(height, width, frames, factor, (least, most)).unwrap();
        assert_eq!(got, want, "{row}");
    }
    let bytes = fs::read(root().join("resize.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    for i in 0..3 {
        let want = file.tensor(&format!("resized.{i}")).unwrap();
        let got = resize_bytes(&picture(&file, i), want.shape()[0], want.shape()[1]);
        assert_eq!(got.data, want.data(), "picture {i}");
    }
}

/// Kept tokens' rows say where they are: those that were left out are gaps.
#[test]
fn spans_name_the_tokens_that_stayed() {
    let config = Config::load(&root()).unwrap();
    let inputs = Inputs::load(&root().join("cases/video-0.safetensors")).unwrap();
    let grid = inputs.pixel_values_videos.as_ref().unwrap().grid_thw[0];
    let size = grid[1] * grid[2] / 4;
    let found: Vec<usize> = spans(&config, &inputs)
        .unwrap()
        .into_iter()
        .filter_map(|s| match s {
            Span::Video { item: 0, t, y, x } => Some(t * size + y * (grid[2] / 2) + x),
            _ => None,
        })
        .collect();
    let stayed = inputs.token_mask.iter().enumerate().filter(|(_, k)| **k);
    assert_eq!(found, stayed.map(|(i, _)| i).collect::<Vec<_>>());
    assert!(found.len() < inputs.token_mask.len(), "nothing stood still");
    let error = |change: &dyn Fn(&mut Inputs)| {
        let mut other = inputs.clone();
        change(&mut other);
        other.validate(&config).unwrap_err().to_string()
    };
    let short = error(&|i| i.token_mask.truncate(3));
    assert!(
        short.contains("video_compression_mask") && short.contains("3 values"),
        "{short}"
    );
    let more = error(&|i| i.token_mask.fill(true));
    assert!(more.contains("placeholders"), "{more}");
}

/// The fixture as its authors' code would keep it: other names, one placeholder.
fn authors(to: &Path) -> u32 {
    let mut config: Value = serde_json::from_slice(&fs::read(root().join("config.json")).unwrap()).unwrap();
    let mut other = config["text_config"].take();
    let image = config["image_token_id"].clone();
    for (key, value) in [
        ("model_type", json!("videollama3_qwen2")),
        ("rope_theta", json!(1e6)),
        ("image_token_index", image.clone()),
        ("mm_projector_type", json!("mlp2x_gelu")),
        ("use_token_compression", json!(true)),
        ("vision_encoder_config", config["vision_config"].take()),
    ] {
        other[key] = value;
    }
    fs::write(to.join("config.json"), other.to_string()).unwrap();
    let bytes = fs::read(root().join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let renamed = file.tensors().into_iter().map(|(name, tensor)| {
        let name = name
            .replace("model.language_model.", "model.")
            .replace("model.vision_model.", "model.vision_encoder.")
            .replace("model.projector.", "model.mm_projector.");
        (name, tensor)
    });
    safetensors::serialize_to_file(
        renamed,
        None::<HashMap<String, String>>,
        &to.join("model.safetensors"),
    )
    .unwrap();
    u32::try_from(image.as_u64().unwrap()).unwrap()
}

#[test]
fn the_authors_layout_is_the_same_model() {
    let made = tempfile::tempdir().unwrap();
    let image = authors(made.path());
    let video = Config::load(&root()).unwrap().tokens.video.unwrap();
    let model = Model::load(made.path(), Dtype::F32).unwrap();
    let original = Model::load(&root(), Dtype::F32).unwrap();
    for case in ["text-1", "image-3", "video-2"] {
        let path = root().join(format!("cases/{case}.safetensors"));
        let inputs = Inputs::load(&path).unwrap();
        let mut shared = inputs.clone();
        for id in shared.input_ids.iter_mut().filter(|id| **id == video) {
            *id = image;
        }
        let run = |model: &Model, inputs: &Inputs| {
            let media = model.encode(inputs, &mut |_| {}).unwrap();
            let prompt = model.prompt(inputs, &media).unwrap();
            Session::new(model, None)
                .prefill(&prompt, 2, &mut |_| {})
                .unwrap()
                .into_data()
        };
        let got = run(&model, &shared);
        assert_eq!(got, run(&original, &inputs), "{case}");
        let want = Golden::open(path).get("baseline.logits").unwrap();
        assert!(
            got.iter().zip(&want).all(|(a, b)| (a - b).abs() < LOGITS),
            "{case}"
        );
    }
    let mut both = Inputs::load(&root().join("cases/video-4.safetensors")).unwrap();
    for id in both.input_ids.iter_mut().filter(|id| **id == video) {
        *id = image;
    }
    let error = both.validate(model.config()).unwrap_err().to_string();
    assert!(error.contains("same placeholder"), "{error}");
}

/// The authors' chat template writes a placeholder a frame, given their number; the prompt is the same.
#[test]
fn a_template_of_frames_gives_the_same_prompt() {
    let made = tempfile::tempdir().unwrap();
    for file in [
        "config.json",
        "tokenizer.json",
        "preprocessor_config.json",
        "video_preprocessor_config.json",
    ] {
        fs::copy(root().join(file), made.path().join(file)).unwrap();
    }
    let path = root().join("cases/video-2.safetensors");
    let meta = Golden::open(path.clone()).meta();
    let bytes = fs::read(&path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let ids = |preparer: &Preparer| {
        let kinds = ["video".to_owned()];
        let media = media(
            preparer,
            &file,
            &kinds,
            meta["rate"].parse().unwrap(),
            made.path(),
        );
        let asked = Conversation::new(None, &media.parts, &meta["question"]);
        preparer.assemble(media, &asked).unwrap().inputs.input_ids
    };
    let want = Inputs::load(&path).unwrap().input_ids;
    assert_eq!(ids(&Preparer::open(made.path()).unwrap()), want, "built in");
    let template = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}\
        {% for content in message['content'] %}{% if content['type'] == 'video' %}\
        {% for i in range(content['num_frames']) %}{% if 'timestamps' in content %}\
        {{ 'Time ' + content['timestamps'][i] | round(1) | string + 's:' }}{% endif %}\
        {{ '<|video_pad|>' }}{{ ',' if i < content['num_frames'] - 1 else '\\n' }}{% endfor %}\
        {% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}{% endfor %}\
        {{ '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
    fs::write(made.path().join("chat_template.jinja"), template).unwrap();
    assert_eq!(ids(&Preparer::open(made.path()).unwrap()), want, "the template's");
}

#[test]
fn what_is_missing_or_contradictory_is_named() {
    let made = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(root().join("config.json")).unwrap();
    let whole: Value = serde_json::from_str(&text).unwrap();
    authors(made.path());
    let other: Value = serde_json::from_slice(&fs::read(made.path().join("config.json")).unwrap()).unwrap();
    let error = |config: &Value, pointer: &str, value: Value| {
        let mut changed = config.clone();
        *changed.pointer_mut(pointer).unwrap() = value;
        fs::write(made.path().join("config.json"), changed.to_string()).unwrap();
        Config::load(made.path()).unwrap_err().to_string()
    };
    for (config, pointer, value, names) in [
        (
            &whole,
            "/text_config/hidden_size",
            Value::Null,
            "text_config.hidden_size: missing",
        ),
        (
            &whole,
            "/text_config/num_key_value_heads",
            json!(3),
            "text_config.num_key_value_heads",
        ),
        (
            &whole,
            "/vision_config/hidden_size",
            json!(30),
            "vision_config.hidden_size",
        ),
        (
            &whole,
            "/vision_config/patch_size",
            json!([4, 4]),
            "vision_config.patch_size",
        ),
        (
            &whole,
            "/vision_config/num_channels",
            json!(1),
            "vision_config.num_channels",
        ),
        (
            &whole,
            "/vision_config/hidden_act",
            json!("tanh"),
            "vision_config.hidden_act",
        ),
        (&whole, "/vision_config", Value::Null, "vision_config: missing"),
        (&whole, "/video_token_id", Value::Null, "video_token_id: missing"),
        (&other, "/image_token_index", json!(-1), "image_token_index"),
        (&other, "/mm_projector_type", json!("linear"), "mm_projector_type"),
        (
            &other,
            "/vision_encoder_config/num_hidden_layers",
            json!(0),
            "vision_encoder_config.num_hidden_layers",
        ),
    ] {
        let error = error(config, pointer, value);
        let (field, problem) = names.split_once(": ").unwrap_or((names, ""));
        let whole = error.contains(&format!("`{field}`")) && error.contains(problem);
        assert!(whole, "{names}: {error}");
    }
    fs::write(made.path().join("config.json"), text).unwrap();
    for (file, content, names) in [
        (
            "preprocessor_config.json",
            json!({"merge_size": 2}),
            "merge_size: is 2",
        ),
        (
            "preprocessor_config.json",
            json!({"size": {"shortest_edge": -1}}),
            "size.shortest_edge",
        ),
        (
            "video_preprocessor_config.json",
            json!({"merge_size": 1}),
            "merge_size: is 1",
        ),
        (
            "processor_config.json",
            json!({"video_merge_size": 3}),
            "video_merge_size: is 3",
        ),
    ] {
        let path = made.path().join(file);
        fs::write(&path, content.to_string()).unwrap();
        let error = Preparer::open(made.path()).err().unwrap().to_string();
        let (field, problem) = names.split_once(": ").unwrap_or((names, ""));
        let whole = error.contains(file) && error.contains(field) && error.contains(problem);
        assert!(whole, "{names}: {error}");
        fs::remove_file(path).unwrap();
    }
}
