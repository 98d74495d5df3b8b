//! VideoLLaMA3's processor against transformers' on the fixture's pictures, its two layouts, and configurations that
//! cannot be.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use outro::chat::{Conversation, Part};
use outro::config::Config;
use outro::inputs::{Inputs, Pixels};
use outro::positions::{Span, spans};
use outro::prepare::{Media, MediaOptions, Preparer};
use outro::{Dtype, Model, Session};
use outro_media::{Frames, Sampling, Spread, VideoInfo, resize_bytes, shared_size, write_png};
use safetensors::SafeTensors;
use serde_json::{Value, json};

use crate::golden::{Golden, LOGITS};

fn root() -> PathBuf {
    crate::fixtures().join("videollama3-tiny")
}

/// Bytes of a picture `[.., height, width, 3]` of a case.
fn picture(file: &SafeTensors, i: usize) -> Frames {
    let t = file.tensor(&format!("picture.{i}")).unwrap();
    let (count, s) = match t.shape() {
        [n, s @ ..] if s.len() == 3 => (*n, s),
        s => (1, s),
    };
    Frames {
        count,
        height: s[0],
        width: s[1],
        data: t.data().to_vec(),
    }
}

/// The case's media as this crate prepares them, from the same bytes.
fn media(preparer: &Preparer, file: &SafeTensors, kinds: &[String], rate: f64, made: &Path) -> Media {
    let mut all = Media::default();
    for (i, kind) in kinds.iter().enumerate() {
        let frames = picture(file, i);
        let mut options = MediaOptions {
            ..preparer.media_options()
        };
        let part = if kind == "image" {
            let path = made.join(format!("{i}.png"));
            fs::write(
                &path,
                write_png(frames.width, frames.height, &frames.data).unwrap(),
            )
            .unwrap();
            preparer
                .load_media(&[Part::Image(path)], &options, &mut |_| {})
                .unwrap()
        } else {
            options.sampling.frames = Some(frames.count);
            let info = VideoInfo {
                codec: String::new(),
                width: frames.width,
                height: frames.height,
                fps: rate,
                frames: 9 * frames.count,
                duration: 9.0 * frames.count as f64 / rate,
            };
            let given = |at: &[usize]| {
                assert_eq!(at, (0..frames.count).map(|i| 9 * i).collect::<Vec<_>>());
                frames.clone()
            };
            preparer.media_of(&info, given, &[], &options).unwrap()
        };
        all.parts.extend(part.parts);
        all.items.extend(part.items);
        let (to, from) = (&mut all.inputs, part.inputs);
        to.kept.extend(from.kept);
        to.second_per_grid.extend(from.second_per_grid);
        for (to, from) in [
            (&mut to.pixel_values, from.pixel_values),
            (&mut to.pixel_values_videos, from.pixel_values_videos),
        ] {
            let Some(from) = from else { continue };
            let to = to.get_or_insert_with(Pixels::default);
            to.grid_thw.extend(from.grid_thw);
            to.data.extend(from.data);
            to.cols = from.cols;
        }
    }
    all
}

/// Ids, grids and kept tokens equal; pixels to the half precision in which the fixture keeps them.
#[test]
fn the_processor_makes_what_transformers_makes() {
    let preparer = Preparer::open(&root()).unwrap();
    let made = tempfile::tempdir().unwrap();
    let mut cases = 0;
    for kind in ["text", "image", "video"] {
        for i in 0..5 {
            let path = root().join(format!("cases/{kind}-{i}.safetensors"));
            let meta = Golden::open(path.clone()).meta();
            let kinds: Vec<String> = serde_json::from_str(&meta["kinds"]).unwrap();
            let bytes = fs::read(&path).unwrap();
            let file = SafeTensors::deserialize(&bytes).unwrap();
            let media = media(
                &preparer,
                &file,
                &kinds,
                meta["rate"].parse().unwrap(),
                made.path(),
            );
            let asked = Conversation::new(None, &media.parts, &meta["question"]);
            let got = preparer.assemble(&media, &asked).unwrap();
            let want = Inputs::load(&path).unwrap();
            let name = path.display();
            assert_eq!(got.inputs.input_ids, want.input_ids, "{name}");
            assert_eq!(got.inputs.kept, want.kept, "{name}");
            for (a, b) in [
                (&got.inputs.pixel_values, &want.pixel_values),
                (&got.inputs.pixel_values_videos, &want.pixel_values_videos),
            ] {
                assert_eq!(
                    a.as_ref().map(|p| &p.grid_thw),
                    b.as_ref().map(|p| &p.grid_thw),
                    "{name}"
                );
                let (Some(a), Some(b)) = (a, b) else { continue };
                for (a, b) in a.data.iter().zip(&b.data) {
                    assert!((a - b).abs() < 5e-4, "{name}: {a} for {b}");
                }
            }
            cases += 1;
        }
    }
    assert_eq!(cases, 15);
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
    let stayed = inputs.kept.iter().enumerate().filter(|(_, k)| **k);
    assert_eq!(found, stayed.map(|(i, _)| i).collect::<Vec<_>>());
    assert!(found.len() < inputs.kept.len(), "nothing stood still");
    let error = |change: &dyn Fn(&mut Inputs)| {
        let mut other = inputs.clone();
        change(&mut other);
        other.validate(&config).unwrap_err().to_string()
    };
    let short = error(&|i| i.kept.truncate(3));
    assert!(
        short.contains("video_compression_mask") && short.contains("3 values"),
        "{short}"
    );
    let more = error(&|i| i.kept.fill(true));
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
                .data
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
        preparer.assemble(&media, &asked).unwrap().inputs.input_ids
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
        (
            &whole,
            "/vision_config",
            Value::Null,
            "vision_config.hidden_size: missing",
        ),
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
