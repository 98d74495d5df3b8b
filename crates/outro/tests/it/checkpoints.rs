//! Files of checkpoints as releases of transformers write them: limits of pictures, processors in one file, forms of
//! tokenizers; and the settings of published checkpoints against their processors.

use std::fs;
use std::path::{Path, PathBuf};

use outro::chat::{Conversation, Part};
use outro::config::Config;
use outro::prepare::Preparer;
use outro::tokenizer::Tokenizer;
use outro_media::{Frames, VideoInfo, write_png};
use serde_json::{Map, Value, json};

use crate::sparse::settings;

fn rows(name: &str) -> Vec<Value> {
    let text = fs::read_to_string(crate::fixtures().join(name)).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn put(dir: &Path, file: &str, content: &Value) {
    fs::write(dir.join(file), content.to_string()).unwrap();
}

fn video(height: usize, width: usize, frames: usize, fps: f64) -> VideoInfo {
    VideoInfo {
        codec: String::new(),
        width,
        height,
        fps,
        frames,
        duration: frames as f64 / fps,
    }
}

/// tools/limits.py writes the same files.
fn layout(dir: &Path, name: &str, least: u64, most: u64) {
    let with = |more: Value| -> Value {
        let mut all = json!({"patch_size": 14, "temporal_patch_size": 2, "merge_size": 2});
        all.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        all
    };
    let pixels = with(json!({"min_pixels": least, "max_pixels": most}));
    let size = with(json!({"size": {"shortest_edge": least, "longest_edge": most}}));
    let wide = with(json!({"min_pixels": 3136, "max_pixels": 12_845_056}));
    match name {
        "image" => put(dir, "preprocessor_config.json", &pixels),
        "video" | "size" => {
            put(dir, "preprocessor_config.json", &wide);
            let own = if name == "size" { &size } else { &pixels };
            put(dir, "video_preprocessor_config.json", own);
        }
        _ => put(
            dir,
            "processor_config.json",
            &json!({"image_processor": wide, "video_processor": size}),
        ),
    }
}

/// Against three releases of transformers, after qwen-vl-utils.
#[test]
fn limits_of_a_checkpoint_bound_frames_as_in_transformers() {
    let all = rows("limits.json");
    let mut bound = 0;
    for row in &all {
        type Row = (String, String, [u64; 2], usize, usize, usize, [usize; 2]);
        let (family, name, [least, most], height, width, frames, want): Row =
            serde_json::from_value(row.clone()).unwrap();
        let made = tempfile::tempdir().unwrap();
        layout(made.path(), &name, least, most);
        let shape = if family == "qwen2_5_omni" {
            "qwen2.5-omni-7b"
        } else {
            "qwen2.5-vl-7b"
        };
        let preparer = Preparer::of(outro::shapes::config(shape).unwrap(), made.path()).unwrap();
        let mut options = preparer.media_options();
        options.sampling.frames = Some(frames);
        let plan = preparer
            .plan_video(&video(height, width, 3000, 25.0), &options)
            .unwrap();
        assert_eq!(plan.grid, [frames / 2, want[0], want[1]], "{row}");
        bound += usize::from(plan.size != plan.first_size);
    }
    assert!(all.len() >= 200 && bound >= 40, "{bound} of {}", all.len());
}

#[test]
fn one_file_is_read_as_the_files_are() {
    let config = || outro::shapes::config("qwen2.5-vl-7b").unwrap();
    let image = json!({"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "max_pixels": 200_704, "patch_size": 14});
    let frames = json!({"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25],
        "size": {"shortest_edge": 3136, "longest_edge": 100_352}, "merge_size": 2});
    let apart = tempfile::tempdir().unwrap();
    put(apart.path(), "preprocessor_config.json", &image);
    put(apart.path(), "video_preprocessor_config.json", &frames);
    let nested = tempfile::tempdir().unwrap();
    put(
        nested.path(),
        "processor_config.json",
        &json!({"image_processor": image, "video_processor": frames}),
    );
    // What is nested comes first: it is of the newer release.
    put(
        nested.path(),
        "preprocessor_config.json",
        &json!({"max_pixels": 3136, "image_mean": [0.9, 0.9, 0.9]}),
    );
    let png = apart.path().join("picture.png");
    let bytes: Vec<u8> = (0..400 * 600 * 3).map(|i| (i / 7 % 256) as u8).collect();
    fs::write(&png, write_png(600, 400, &bytes).unwrap()).unwrap();
    let made = [apart.path(), nested.path()].map(|dir| {
        let p = Preparer::of(config(), dir).unwrap();
        assert_eq!((p.patches().mean, p.patches().std), ([0.5; 3], [0.25; 3]));
        let image = p
            .load_media(
                &[Part::Image(png.clone().into())],
                &p.media_options(),
                &mut |_| {},
            )
            .unwrap();
        let plan = p
            .plan_video(&video(720, 1280, 300, 30.0), &p.media_options())
            .unwrap();
        (image.inputs.pixel_values.unwrap(), plan)
    });
    assert_eq!(made[0].0.grid_thw, made[1].0.grid_thw);
    assert_eq!(made[0].0.data, made[1].0.data);
    assert_eq!(made[0].1, made[1].1);
    assert!(made[0].1.size[0] * made[0].1.size[1] <= 100_352);
    // Errors name the field where it stands.
    for (part, key, value, problem) in [
        (
            "image_processor",
            "patch_size",
            json!(16),
            "is 16, the model has 14",
        ),
        (
            "video_processor",
            "image_std",
            json!([0, 1, 1]),
            "must be three numbers",
        ),
        (
            "video_processor",
            "do_resize",
            json!(false),
            "false is not supported",
        ),
        ("image_processor", "rescale_factor", json!(1.0), "is 1; only"),
        ("image_processor", "resample", json!(2), "is 2; only 3"),
        (
            "video_processor",
            "cap_pixels_per_frame",
            json!(true),
            "true is not supported",
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), "processor_config.json", &json!({part: {key: value}}));
        let error = Preparer::of(config(), dir.path())
            .map(|_| ())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(&format!("`{part}.{key}`")) && error.contains(problem),
            "{error}"
        );
    }
    let hears = outro::shapes::config("qwen2.5-omni-7b").unwrap();
    for (key, value) in [
        ("feature_size", json!(80)),
        ("sampling_rate", json!(24_000)),
        ("dither", json!(0.1)),
        ("chunk_length", json!(30)),
    ] {
        let dir = tempfile::tempdir().unwrap();
        put(
            dir.path(),
            "processor_config.json",
            &json!({"feature_extractor": {key: value}}),
        );
        let error = Preparer::of(hears.clone(), dir.path())
            .map(|_| ())
            .unwrap_err()
            .to_string();
        assert!(error.contains(&format!("`feature_extractor.{key}`")), "{error}");
    }
}

/// Without video_preprocessor_config.json, what all published sizes have.
#[test]
fn videos_of_qwen3_vl_have_the_published_budget() {
    let config = outro::shapes::config("qwen3-vl-8b").unwrap();
    let made = tempfile::tempdir().unwrap();
    let preparer = Preparer::of(config, made.path()).unwrap();
    let plan = preparer
        .plan_video(&video(720, 1280, 3600, 30.0), &preparer.media_options())
        .unwrap();
    assert_eq!((plan.indices.len(), plan.size), (240, [224, 416]));
}

const TINY: &str = "omni-tiny";

/// A copy of the tiny tokenizer as older releases save it.
fn slow(dir: &Path, in_vocabulary: &[&str]) -> Map<String, Value> {
    let text = fs::read_to_string(crate::fixtures().join(TINY).join("tokenizer.json")).unwrap();
    let whole: Value = serde_json::from_str(&text).unwrap();
    let mut vocab = whole["model"]["vocab"].as_object().unwrap().clone();
    let added: Map<String, Value> = whole["added_tokens"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| (t["content"].as_str().unwrap().to_owned(), t["id"].clone()))
        .collect();
    vocab.retain(|token, _| !added.contains_key(token) || in_vocabulary.contains(&token.as_str()));
    for token in in_vocabulary {
        vocab.insert((*token).to_owned(), added[*token].clone());
    }
    put(dir, "vocab.json", &Value::Object(vocab));
    let merges: Vec<String> = whole["model"]["merges"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| {
            m.as_str().map_or_else(
                || format!("{} {}", m[0].as_str().unwrap(), m[1].as_str().unwrap()),
                str::to_owned,
            )
        })
        .collect();
    let mut lines = vec!["#version: 0.2".to_owned()];
    lines.extend(merges);
    fs::write(dir.join("merges.txt"), lines.join("\n") + "\n").unwrap();
    added
}

#[test]
fn tokenizers_in_older_forms_give_the_same_ids() {
    let tiny = Tokenizer::open(&crate::fixtures().join(TINY)).unwrap().unwrap();
    assert_eq!(tiny.form(), "tokenizer.json");
    let texts = [
        "Hello <|im_end|> world",
        "<|im_start|>user\nwhat?<|vision_bos|><|IMAGE|><|vision_eos|>",
        "é <|AUDIO|>x",
        "",
    ];
    let entry = |token: &str| json!({"content": token, "special": true, "normalized": false});
    // added_tokens.json alone; in tokenizer_config.json; both, with some of them in the vocabulary, too.
    for form in 0..4 {
        let made = tempfile::tempdir().unwrap();
        let dir = made.path();
        let added = slow(
            dir,
            if form == 2 {
                &["<|im_start|>", "<|IMAGE|>"]
            } else {
                &[]
            },
        );
        let decoder: Map<String, Value> = added.iter().map(|(t, id)| (id.to_string(), entry(t))).collect();
        if form != 1 {
            put(dir, "added_tokens.json", &Value::Object(added.clone()));
        }
        if form == 1 || form == 2 {
            put(
                dir,
                "tokenizer_config.json",
                &json!({"added_tokens_decoder": decoder}),
            );
        }
        if form == 0 {
            put(
                dir,
                "special_tokens_map.json",
                &json!({"eos_token": {"content": "<|im_end|>"}, "unk_token": "<nothing>"}),
            );
        }
        if form == 3 {
            // A whole tokenizer that lacks them.
            let text = fs::read_to_string(crate::fixtures().join(TINY).join("tokenizer.json")).unwrap();
            let mut whole: Value = serde_json::from_str(&text).unwrap();
            whole["added_tokens"] = json!([]);
            whole["model"]["vocab"]
                .as_object_mut()
                .unwrap()
                .retain(|token, _| !added.contains_key(token));
            put(dir, "tokenizer.json", &whole);
        }
        let old = Tokenizer::open(dir).unwrap().unwrap();
        assert_eq!(
            old.form(),
            if form == 3 {
                "tokenizer.json"
            } else {
                "vocab.json and merges.txt"
            }
        );
        for text in texts {
            assert_eq!(
                old.encode(text).unwrap(),
                tiny.encode(text).unwrap(),
                "form {form}: {text}"
            );
        }
        for token in added.keys() {
            assert_eq!(old.id(token), tiny.id(token), "form {form}");
        }
        if form == 1 {
            let ids = old.encode("a<|im_end|>b").unwrap();
            assert_eq!(old.decode(&ids).unwrap(), "ab");
        }
    }
}

#[test]
fn flags_of_added_tokens_hold() {
    let made = tempfile::tempdir().unwrap();
    let added = slow(made.path(), &[]);
    let last = added.values().map(|v| v.as_u64().unwrap()).max().unwrap();
    let token = |content: &str, flag: &str| json!({"content": content, "special": false, flag: true});
    let entries = [
        ("<l>", "lstrip"),
        ("<r>", "rstrip"),
        ("<w>", "single_word"),
        ("<plain>", "special"),
    ];
    let mut decoder = Map::new();
    for (i, (content, flag)) in entries.iter().enumerate() {
        // With gaps between ids.
        decoder.insert((last + 10 + 3 * i as u64).to_string(), token(content, flag));
    }
    put(
        made.path(),
        "tokenizer_config.json",
        &json!({"added_tokens_decoder": decoder}),
    );
    let tokenizer = Tokenizer::open(made.path()).unwrap().unwrap();
    let ids = |text: &str| tokenizer.encode(text).unwrap();
    let id = |name: &str| tokenizer.id(name).unwrap();
    assert_eq!(id("<r>") as u64, last + 13);
    let a = ids("a");
    assert_eq!(ids("a  <l>"), [a.clone(), vec![id("<l>")]].concat());
    assert_eq!(ids("<r>  a"), [vec![id("<r>")], a.clone()].concat());
    assert_ne!(ids("<plain>  a"), [vec![id("<plain>")], a.clone()].concat());
    assert!(ids("a <w> a").contains(&id("<w>")));
    assert!(!ids("a<w>a").contains(&id("<w>")));
    // Contradictions are named.
    for (file, content, part) in [
        ("added_tokens.json", json!({"<l>": 5}), "`<l>` has the id 5, in"),
        ("added_tokens.json", json!({"<new>": last + 10}), "has the id of"),
        (
            "added_tokens.json",
            json!({"<new>": 5}),
            "`<new>` has the id 5, which",
        ),
        ("added_tokens.json", json!({"<new>": "x"}), "must be a token id"),
    ] {
        put(made.path(), file, &content);
        let error = Tokenizer::open(made.path()).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

fn shared(path: &str) -> Option<PathBuf> {
    Some(crate::shared()?.join(path))
}

#[test]
fn checkpoints_after_public_bug_reports() {
    let Some(slow) = shared("cases/ckpt/k07_slow_added_file") else {
        return;
    };
    let whole = crate::shared().unwrap().join("cases/ckpt/k07_slow_added_file");
    let preparer = Preparer::open(&whole).unwrap();
    let tokenizer = preparer.tokenizer().unwrap();
    let listed: Map<String, Value> =
        serde_json::from_str(&fs::read_to_string(slow.join("added_tokens.json")).unwrap()).unwrap();
    for (token, id) in &listed {
        let id = id.as_u64().unwrap() as u32;
        assert_eq!(
            tokenizer.encode(&format!("a{token}b")).unwrap()[1..2],
            [id],
            "{token}"
        );
    }
    assert_eq!(preparer.template_file().as_deref(), Some("tokenizer_config.json"));
    // Limits in one file: 128 to 512 pixels.
    let nested = shared("cases/ckpt/k05_v5_processor").unwrap();
    let one = Preparer::open(&nested).unwrap();
    let picture = [Part::Image(slow.join("../../image/plain.png").into())];
    let count = |preparer: &Preparer| {
        let media = preparer
            .load_media(&picture, &preparer.media_options(), &mut |_| {})
            .unwrap();
        let asked = Conversation::new(None, &picture, "Hi");
        preparer.ids(&asked, &media.items).unwrap().len()
    };
    assert_eq!(count(&one), 115);
    // The same settings in the files that earlier releases write.
    let flat = tempfile::tempdir().unwrap();
    for file in fs::read_dir(&nested).unwrap().flatten().map(|e| e.path()) {
        let name = file.file_name().unwrap();
        if name != "processor_config.json" {
            fs::copy(&file, flat.path().join(name)).unwrap();
        }
    }
    let both: Value =
        serde_json::from_slice(&fs::read(nested.join("processor_config.json")).unwrap()).unwrap();
    put(flat.path(), "preprocessor_config.json", &both["image_processor"]);
    put(
        flat.path(),
        "video_preprocessor_config.json",
        &both["video_processor"],
    );
    assert_eq!(count(&Preparer::open(flat.path()).unwrap()), 115);
    let plan = one
        .plan_video(&video(240, 320, 8, 2.0), &one.media_options())
        .unwrap();
    assert!(plan.size[0] * plan.size[1] <= 512, "{:?}", plan.size);
}

fn picture(height: usize, width: usize, step: usize) -> Vec<u8> {
    let at = |y: usize, x: usize, c: usize| ((x / 7 * 31 + y / 5 * 17 + c * 60 + step * 13) % 256) as u8;
    let pixels = (0..height).flat_map(|y| (0..width).map(move |x| (y, x)));
    pixels
        .flat_map(|(y, x)| (0..3).map(move |c| at(y, x, c)))
        .collect()
}

fn fnv(ids: &[u32]) -> String {
    let bytes = ids.iter().flat_map(|id| id.to_le_bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)
    });
    format!("{hash:016x}")
}

/// What the processors of transformers 4.57.1 make under published settings (tools/published.py). The tokenizer has the
/// published special tokens and no merges.
#[test]
fn published_settings_prepare_what_the_processors_do() {
    let Some(published) = shared("published") else {
        return;
    };
    let all = rows("published.json");
    assert!(all.len() >= 30, "{} rows", all.len());
    let mut open: Option<(String, tempfile::TempDir, Preparer)> = None;
    for row in &all {
        let name = row["checkpoint"].as_str().unwrap();
        if open.as_ref().is_none_or(|o| o.0 != name) {
            let made = tempfile::tempdir().unwrap();
            settings(&published.join(name), made.path());
            let config = Config::load(made.path()).unwrap_or_else(|e| panic!("{name}: {e}"));
            let preparer = Preparer::of(config, made.path()).unwrap_or_else(|e| panic!("{name}: {e}"));
            open = Some((name.to_owned(), made, preparer));
        }
        let (_, made, preparer) = open.as_ref().unwrap();
        check(row, preparer, made.path());
    }
}

/// Two minutes of 1280 x 720 where the number of frames, not their size, is what the family limits.
#[test]
fn two_minutes_of_families_that_take_few_frames() {
    let Some(published) = shared("published") else {
        return;
    };
    for (name, grid) in [
        // 32 frames whatever the length, all of 384 x 384.
        ("llava-ov-0.5b", [32, 27, 27]),
        ("llava-ov-7b", [32, 27, 27]),
        // A frame a second, 128 at most; together 16,384 tokens of 28 x 28 pixels at most.
        ("videollama3-2b", [120, 16, 30]),
        ("videollama3-7b", [120, 16, 30]),
    ] {
        let made = tempfile::tempdir().unwrap();
        settings(&published.join(name), made.path());
        let preparer = Preparer::of(Config::load(made.path()).unwrap(), made.path()).unwrap();
        let plan = preparer
            .plan_video(&video(720, 1280, 3600, 30.0), &preparer.media_options())
            .unwrap();
        assert_eq!(plan.grid, grid, "{name}");
    }
}

fn check(row: &Value, preparer: &Preparer, dir: &Path) {
    let want: [usize; 3] = serde_json::from_value(row["grid"].clone()).unwrap();
    let options = preparer.media_options();
    let authors = preparer.config().model_type == "videollama3_qwen2";
    let (media, part, grid) = match row["kind"].as_str().unwrap() {
        "image" => {
            let png = dir.join("picture.png");
            fs::write(&png, write_png(800, 600, &picture(600, 800, 0)).unwrap()).unwrap();
            let part = Part::Image(png.into());
            let media = preparer
                .load_media(std::slice::from_ref(&part), &options, &mut |_| {})
                .unwrap();
            let pixels = media.inputs.pixel_values.as_ref().unwrap();
            let grid = pixels.grid_thw[0];
            (media, part, grid)
        }
        "video" => {
            let take = |indices: &[usize]| Frames {
                count: indices.len(),
                height: 360,
                width: 640,
                data: indices.iter().flat_map(|i| picture(360, 640, *i)).collect(),
            };
            let media = preparer
                .media_of(&video(360, 640, 120, 30.0), take, &[], &options)
                .unwrap();
            let grid = media.inputs.pixel_values_videos.as_ref().unwrap().grid_thw[0];
            (media, Part::Video(PathBuf::new().into()), grid)
        }
        _ => {
            let plan = preparer
                .plan_video(&video(720, 1280, 3600, 30.0), &options)
                .unwrap();
            assert_eq!(plan.grid, want, "{row}");
            return;
        }
    };
    if preparer.config().vision.as_ref().unwrap().anyres.is_some() {
        assert_eq!(grid[0], want[0], "{row}");
    } else {
        assert_eq!(grid, want, "{row}");
    }
    let system = (preparer.config().model_type == "qwen3_omni_moe").then(String::new);
    let conversation = Conversation::new(system, &[part], "What is this?");
    let ids = preparer
        .ids(&conversation, &media.items)
        .unwrap_or_else(|e| panic!("{row}: {e}"));
    assert_eq!(
        ids.len(),
        row["prompt"].as_u64().unwrap() as usize,
        "{row}: {:?}",
        &ids[..60]
    );
    assert_eq!(fnv(&ids), row["fnv"].as_str().unwrap(), "{row}");
    if authors {
        return;
    }
    let inputs = &media.inputs;
    let data = &inputs
        .pixel_values
        .as_ref()
        .or(inputs.pixel_values_videos.as_ref())
        .unwrap()
        .data;
    let mean =
        |f: &dyn Fn(f64) -> f64| data.iter().map(|x| f(f64::from(*x))).sum::<f64>() / data.len() as f64;
    let got = [mean(&|x| x), mean(&|x| x * x)];
    let twice = preparer.config().model_type == "qwen3_omni_moe";
    for (got, key) in got.iter().zip(["mean", "square"]) {
        let want = row[key].as_f64().unwrap();
        // A step of 255 in one pixel of forty; frames that are resized twice are bytes in between here and floats there.
        let tolerance = if twice { 3e-3 } else { 5e-4 };
        assert!((got - want).abs() < tolerance, "{row}: {key} is {got}");
    }
}
