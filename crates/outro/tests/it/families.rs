//! Every family with a tower, by table: golden values of its tiny checkpoint, and the laws that hold for each.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use outro::chat::{Conversation, Part};
use outro::config::Config;
use outro::generate::argmax;
use outro::hook::Hook;
use outro::inputs::{Inputs, Pixels};
use outro::positions::spans;
use outro::prepare::{DecodedMedia, MediaOptions, Preparer};
use outro::prompt::Chunk;
use outro::{Dtype, KvType, Mat, Model, OutRo, OutRoConfig, Prefix, Prompt, Session};
use outro_media::{Frames, Spread, VideoInfo, write_png};
use safetensors::SafeTensors;
use serde_json::{Value, json};

#[path = "../../examples/own_family.rs"]
mod own_family;

use crate::golden::{Golden, LOGITS, check_media, positions_by_axis};

/// Checkpoints under fixtures/, each with `cases/KIND-N.safetensors`: five of each kind.
const FAMILIES: [&str; 8] = [
    "qwen2-vl-tiny",
    "qwen2-5-vl-tiny",
    "videollama3-tiny",
    "llava-onevision-tiny",
    "video-salmonn2-tiny",
    "qwen3-vl-tiny",
    "qwen3-vl-moe-tiny",
    "qwen3-omni-tiny",
];
/// These and the one whose golden values are in golden.rs.
pub(crate) fn with_towers() -> impl Iterator<Item = &'static str> {
    std::iter::once("omni-tiny").chain(FAMILIES)
}

/// Those that listen.
const HEAR: [&str; 2] = ["video-salmonn2-tiny", "qwen3-omni-tiny"];
const KINDS: [&str; 5] = ["text", "image", "video", "audio", "audio-in-video"];
/// Those whose golden values are in golden.rs, and some of their prompts.
const MORE: [(&str, [&str; 2]); 2] = [
    ("qwen3-tiny", ["text-1.inputs", "text-4.inputs"]),
    ("qwen3-moe-tiny", ["text-0.inputs", "text-3.inputs"]),
];

fn dir(name: &str) -> PathBuf {
    crate::fixtures().join(name)
}

/// Five of each kind that the family takes.
pub(crate) fn cases(name: &str) -> impl Iterator<Item = PathBuf> {
    let cases = dir(name).join("cases");
    let kinds = if HEAR.contains(&name) { 5 } else { 3 };
    KINDS[..kinds]
        .iter()
        .flat_map(|kind| (0..5).map(move |i| format!("{kind}-{i}.safetensors")))
        .map(move |name| cases.join(name))
}

pub(crate) fn hook(on: bool) -> Option<Box<dyn Hook>> {
    on.then(|| Box::new(OutRo::new(OutRoConfig::default())) as Box<dyn Hook>)
}

fn load(name: &str) -> Model {
    Model::load(&dir(name), Dtype::F32).unwrap()
}

pub(crate) fn prompt(model: &Model, path: &Path) -> (Inputs, Prompt) {
    let inputs = Inputs::load(path).unwrap().fitted(model.config()).unwrap();
    let media = model.encode(&inputs, &mut |_| {}).unwrap();
    let prompt = model.prompt(&inputs, &media).unwrap();
    (inputs, prompt)
}

/// Last `rows` of the prefill's logits and those of each step; feeds the golden tokens.
fn run(session: &mut Session, prompt: &Prompt, rows: usize, tokens: &[f32]) -> Vec<f32> {
    let first: Mat = session.prefill(prompt, rows, &mut |_| {}).unwrap();
    let mut all = first.data().to_vec();
    let mut last = first.row(first.rows() - 1).to_vec();
    for token in tokens {
        assert_eq!(argmax(&last), *token as u32, "greedy token");
        last = session.decode(*token as u32).unwrap();
        all.extend(&last);
    }
    all
}

#[test]
fn golden_values() {
    for name in FAMILIES {
        golden(name, &load(name));
    }
}

/// Holds a model that has the weights of a fixture to its golden values.
pub(crate) fn golden(name: &str, model: &Model) {
    for path in cases(name) {
        let golden = Golden::open(path.clone());
        let (inputs, prompt) = prompt(model, &path);
        let media = model.encode(&inputs, &mut |_| {}).unwrap();
        check_media(&golden, &media);
        golden.check("position_ids", &positions_by_axis(&prompt), 0.0);
        let spans = spans(model.config(), &inputs).unwrap();
        assert_eq!(spans.len(), inputs.input_ids.len());
        answers(model, &path, LOGITS);
    }
}

/// Holds a model's logits, tokens, sinks and relaxed rows to those of a case, with the method and without.
pub(crate) fn answers(model: &Model, path: &Path, tolerance: f32) {
    let golden = Golden::open(path.to_path_buf());
    let meta = golden.meta();
    let (_, prompt) = prompt(model, path);
    for mode in ["baseline", "outro"] {
        let mut session = Session::new(model, hook(mode == "outro"));
        let tokens = golden.get(&format!("{mode}.tokens")).unwrap();
        let want = golden.get(&format!("{mode}.logits")).unwrap();
        let rows = want.len() / model.config().text.vocab - tokens.len();
        let got = run(&mut session, &prompt, rows, &tokens);
        golden.check(&format!("{mode}.logits"), &got, tolerance);
        if let Some(outro) = session.hook::<OutRo>() {
            let list =
                |key: &str| -> BTreeMap<usize, Vec<usize>> { serde_json::from_str(&meta[key]).unwrap() };
            let found: BTreeMap<_, _> = outro
                .sinks()
                .iter()
                .filter(|(_, rows)| !rows.is_empty())
                .map(|(layer, rows)| (*layer, rows.clone()))
                .collect();
            assert_eq!(found, list("sinks"), "{}", path.display());
            assert_eq!(outro.relaxed_at(), &list("relaxed"), "{}", path.display());
        }
    }
}

/// Logits of the prompt's last row and of three steps.
pub(crate) fn answer(model: &Model, prompt: &Prompt, hook: Option<Box<dyn Hook>>) -> Vec<f32> {
    let mut session = Session::new(model, hook);
    let mut all = session.prefill(prompt, 1, &mut |_| {}).unwrap().into_data();
    for token in [40, 50, 60] {
        all.extend(session.decode(token).unwrap());
    }
    all
}

#[test]
fn laws() {
    struct Nothing;
    impl Hook for Nothing {}
    let own = FAMILIES.map(|name| (name, &["text-1", "image-3", "video-4"][..]));
    let heard = HEAR.map(|name| (name, &["audio-1", "audio-in-video-2"][..]));
    let more = MORE.iter().map(|(name, cases)| (*name, &cases[..]));
    for (name, cases) in own.into_iter().chain(heard).chain(more) {
        let model = load(name);
        let prompts: Vec<Prompt> = cases
            .iter()
            .map(|case| prompt(&model, &dir(name).join(format!("cases/{case}.safetensors"))).1)
            .collect();
        let off = OutRoConfig {
            rotate: false,
            relax: false,
            ..OutRoConfig::default()
        };
        for prompt in &prompts {
            let plain = answer(&model, prompt, None);
            assert_eq!(plain, answer(&model, prompt, Some(Box::new(Nothing))), "{name}");
            let switched_off = answer(&model, prompt, Some(Box::new(OutRo::new(off.clone()))));
            assert_eq!(plain, switched_off, "{name}");
            assert_ne!(plain, answer(&model, prompt, hook(true)), "{name}");
        }
        // Side by side, step by step, each hears only itself.
        let alone: Vec<_> = prompts.iter().map(|p| answer(&model, p, hook(true))).collect();
        let mut live: Vec<_> = prompts
            .iter()
            .map(|p| {
                let mut s = Session::new(&model, hook(true));
                let first = s.prefill(p, 1, &mut |_| {}).unwrap().into_data();
                (s, first)
            })
            .collect();
        for token in [40, 50, 60] {
            for (session, seen) in live.iter_mut().rev() {
                seen.extend(session.decode(token).unwrap());
            }
        }
        for ((_, seen), alone) in live.iter().zip(&alone) {
            assert_eq!(seen, alone, "{name}");
        }
        // A prefix that is run first and forked gives what the whole gives.
        for prompt in &prompts {
            let mut whole = Session::new(&model, None);
            let want = whole.prefill(prompt, 1, &mut |_| {}).unwrap().into_data();
            for cut in [1, prompt.embeds.rows() / 2, prompt.embeds.rows() - 1] {
                let first = Prefix::run(&model, KvType::F32, prompt, cut).unwrap();
                let got = first
                    .session()
                    .prefill(prompt, 1, &mut |_| {})
                    .unwrap()
                    .into_data();
                let worst = got
                    .iter()
                    .zip(&want)
                    .map(|(a, b)| (a - b).abs())
                    .fold(0.0, f32::max);
                assert!(worst <= LOGITS, "{name}, cut at {cut}: {worst}");
            }
        }
    }
}

/// The example's checkpoint is the fixture's by other names, so its logits are the fixture's.
#[test]
fn a_family_of_ones_own() {
    let made = tempfile::tempdir().unwrap();
    own_family::make(&own_family::fixture(), made.path()).unwrap();
    let case = dir("qwen2-vl-tiny").join("cases/video-0.safetensors");
    let got = own_family::ask(made.path(), &case).unwrap();
    let model = load("qwen2-vl-tiny");
    let (_, prompt) = prompt(&model, &case);
    for (on, got) in [false, true].into_iter().zip(got) {
        let mut session = Session::new(&model, hook(on));
        let want = session.prefill(&prompt, 1, &mut |_| {}).unwrap().into_data();
        let worst = got
            .iter()
            .zip(&want)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        assert!(worst < 1e-5, "{worst}: the same weights, kept as bf16");
    }
    let unknown = Model::load(made.path(), Dtype::Auto).err().unwrap().to_string();
    assert!(unknown.contains("unknown architecture `visor`"), "{unknown}");
}

/// Bytes of a picture `[.., height, width, 3]` of a case.
pub(crate) fn picture(file: &SafeTensors, i: usize) -> Frames {
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
pub(crate) fn media(
    preparer: &Preparer,
    file: &SafeTensors,
    kinds: &[String],
    rate: f64,
    made: &Path,
) -> DecodedMedia {
    let mut all = DecodedMedia::default();
    let png = |i: usize| {
        let (path, f) = (made.join(format!("{i}.png")), picture(file, i));
        fs::write(&path, write_png(f.width, f.height, &f.data).unwrap()).unwrap();
        Part::Image(path.into())
    };
    if kinds.len() > 1 && kinds.iter().all(|k| k == "image") {
        // Some families look at an image otherwise where there are others.
        let parts: Vec<Part> = (0..kinds.len()).map(png).collect();
        return preparer
            .load_media(&parts, &preparer.media_options(), &mut |_| {})
            .unwrap();
    }
    for (i, kind) in kinds.iter().enumerate() {
        let frames = picture(file, i);
        let mut options = MediaOptions {
            ..preparer.media_options()
        };
        let part = if kind == "image" {
            preparer.load_media(&[png(i)], &options, &mut |_| {}).unwrap()
        } else {
            options.sampling.frames = Some(frames.count);
            // The last frame is taken, or the last part's first.
            let gap = 8 * usize::from(options.sampling.spread != Spread::Starts);
            let info = VideoInfo {
                codec: String::new(),
                width: frames.width,
                height: frames.height,
                fps: rate,
                frames: 9 * frames.count - gap,
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
        to.token_mask.extend(from.token_mask);
        to.image_sizes.extend(from.image_sizes);
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

/// Families whose processors' bytes are in their fixtures.
const PROCESSORS: [&str; 4] = [
    "videollama3-tiny",
    "llava-onevision-tiny",
    "qwen3-vl-tiny",
    "qwen3-vl-moe-tiny",
];

/// Ids, grids and kept tokens equal; pixels to the half precision in which the fixture keeps them.
#[test]
fn processors_make_what_transformers_makes() {
    let made = tempfile::tempdir().unwrap();
    for family in PROCESSORS {
        let preparer = Preparer::open(&dir(family)).unwrap();
        for path in cases(family) {
            let meta = Golden::open(path.clone()).meta();
            let kinds: Vec<String> = serde_json::from_str(&meta["kinds"]).unwrap();
            let bytes = fs::read(&path).unwrap();
            let file = SafeTensors::deserialize(&bytes).unwrap();
            let rate = meta.get("rate").map_or(25.0, |r| r.parse().unwrap());
            let media = media(&preparer, &file, &kinds, rate, made.path());
            let asked = Conversation::new(None, &media.parts, &meta["question"]);
            let got = preparer.assemble(media, &asked).unwrap().inputs;
            let want = Inputs::load(&path).unwrap().fitted(preparer.config()).unwrap();
            let name = path.display();
            assert_eq!(got.input_ids, want.input_ids, "{name}");
            assert_eq!(got.token_mask, want.token_mask, "{name}");
            assert_eq!(got.image_sizes, want.image_sizes, "{name}");
            for (a, b) in [
                (&got.pixel_values, &want.pixel_values),
                (&got.pixel_values_videos, &want.pixel_values_videos),
            ] {
                let grid = |p: &Option<Pixels>| p.as_ref().map(|p| p.grid_thw.clone());
                assert_eq!(grid(a), grid(b), "{name}");
                let (Some(a), Some(b)) = (a, b) else { continue };
                assert_eq!(a.data.len(), b.data.len(), "{name}");
                for (a, b) in a.data.iter().zip(&b.data) {
                    assert!((a - b).abs() < 1e-3, "{name}: {a} for {b}");
                }
            }
        }
    }
}

/// Placeholders of the Qwen families, whose frames' sizes another library chooses: ids from the goldens' grids.
#[test]
fn placeholders_become_as_many_as_transformers_makes() {
    for family in ["qwen2-vl-tiny", "qwen2-5-vl-tiny", "qwen3-omni-tiny"] {
        let preparer = Preparer::open(&dir(family)).unwrap();
        for path in cases(family) {
            let meta = Golden::open(path.clone()).meta();
            let kinds: Vec<String> = serde_json::from_str(&meta["kinds"]).unwrap();
            let want = Inputs::load(&path).unwrap();
            let grids = |p: &Option<Pixels>| p.as_ref().map_or(Vec::new(), |p| p.grid_thw.clone());
            let (mut images, mut videos) = (
                grids(&want.pixel_values).into_iter(),
                grids(&want.pixel_values_videos).into_iter(),
            );
            let heard = want.audio.as_ref().map_or(&[][..], |a| &a.lengths);
            let tower = preparer.config().audio.as_ref();
            let mut sounds = heard.iter().filter_map(|n| Some(tower?.tokens(*n)));
            let (parts, media): (Vec<_>, Vec<_>) = kinds
                .iter()
                .map(|kind| match kind.as_str() {
                    "image" => {
                        let grid = images.next().unwrap();
                        (Part::Image("a".into()), Chunk::Image { grid, size: [0; 2] })
                    }
                    "audio" => {
                        let tokens = sounds.next().unwrap();
                        (Part::Audio("a".into()), Chunk::Audio { tokens })
                    }
                    _ => {
                        let medium = Chunk::Video {
                            grid: videos.next().unwrap(),
                            second_per_grid: want.second_per_grid.first().map_or(1.0, |s| f64::from(*s)),
                            sound: want.use_audio_in_video.then(|| sounds.next().unwrap()),
                        };
                        (Part::Video("a".into()), medium)
                    }
                })
                .unzip();
            let asked = Conversation::new(None, &parts, &meta["question"]);
            let got = preparer.ids(&asked, &media).unwrap();
            assert_eq!(got, want.input_ids, "{}", path.display());
        }
    }
}

/// Fields that are missing or contradict each other, by name.
#[test]
fn configurations_that_cannot_be() {
    let made = tempfile::tempdir().unwrap();
    for (family, pointer, value, parts) in [
        (
            "qwen2-vl-tiny",
            "/vision_config/embed_dim",
            json!(null),
            &["vision_config.embed_dim", "missing"][..],
        ),
        (
            "qwen2-vl-tiny",
            "/vision_config/hidden_size",
            json!(63),
            &["vision_config.hidden_size", "64"],
        ),
        (
            "qwen2-vl-tiny",
            "/vision_config/hidden_act",
            json!("relu"),
            &["vision_config.hidden_act", "quick_gelu"],
        ),
        (
            "qwen2-vl-tiny",
            "/vision_config/in_channels",
            json!(4),
            &["vision_config.in_channels", "must be 3"],
        ),
        (
            "qwen2-vl-tiny",
            "/video_token_id",
            json!(null),
            &["video_token_id", "missing"],
        ),
        (
            "qwen2-5-vl-tiny",
            "/audio_config",
            json!({}),
            &["audio_config.d_model", "missing"],
        ),
        (
            "video-salmonn2-tiny",
            "/audio_config/d_model",
            json!(33),
            &["audio_config.d_model", "encoder_attention_heads"],
        ),
        (
            "video-salmonn2-tiny",
            "/audio_config/second_per_window",
            json!(30.0),
            &["audio_config.second_per_window", "max_source_positions"],
        ),
        (
            "video-salmonn2-tiny",
            "/audio_config/qformer_config/cross_attention_freq",
            json!(2),
            &["audio_config.qformer_config.cross_attention_freq", "only 1"],
        ),
        (
            "qwen2-5-vl-tiny",
            "/model_type",
            json!("qwen2_5_vll"),
            &["unknown architecture", "nearest is qwen2_5_vl"],
        ),
        (
            "qwen2-5-vl-tiny",
            "/model_type",
            json!("llava_next"),
            &["nearest is llava_onevision"],
        ),
        (
            "qwen2-5-vl-tiny",
            "/model_type",
            json!("Qwen2-VL"),
            &["nearest is qwen2_vl"],
        ),
        (
            "llava-onevision-tiny",
            "/vision_config/image_size",
            json!(2),
            &["vision_config.image_size", "patch_size"],
        ),
        (
            "llava-onevision-tiny",
            "/vision_feature_layer",
            json!(-5),
            &["vision_feature_layer", "num_hidden_layers"],
        ),
        (
            "llava-onevision-tiny",
            "/vision_feature_select_strategy",
            json!("default"),
            &["select_strategy", "full"],
        ),
        (
            "llava-onevision-tiny",
            "/vision_aspect_ratio",
            json!("anyres"),
            &["vision_aspect_ratio", "anyres_max_"],
        ),
        (
            "llava-onevision-tiny",
            "/image_grid_pinpoints",
            json!([[20, 30]]),
            &["image_grid_pinpoints", "image_size"],
        ),
        (
            "llava-onevision-tiny",
            "/image_grid_pinpoints",
            json!([20]),
            &["image_grid_pinpoints", "pairs"],
        ),
        (
            "llava-onevision-tiny",
            "/text_config/model_type",
            json!("llama"),
            &["text_config.model_type", "qwen2"],
        ),
    ] {
        let text = fs::read_to_string(dir(family).join("config.json")).unwrap();
        let mut config: Value = serde_json::from_str(&text).unwrap();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        config.pointer_mut(parent).unwrap()[key] = value;
        fs::write(made.path().join("config.json"), config.to_string()).unwrap();
        let message = Config::load(made.path()).unwrap_err().to_string();
        for part in parts {
            assert!(
                message.contains(part),
                "{pointer}: `{message}` does not say `{part}`"
            );
        }
    }
}

/// Inputs that do not fit the parts of a picture.
#[test]
fn parts_that_do_not_fit_their_picture() {
    let root = dir("llava-onevision-tiny");
    let config = Config::load(&root).unwrap();
    let good = Inputs::load(&root.join("cases/image-1.safetensors")).unwrap();
    let message = |change: &dyn Fn(&mut Inputs)| {
        let mut inputs = good.clone();
        change(&mut inputs);
        let checked = inputs.fitted(&config).and_then(|i| i.validate(&config));
        checked.unwrap_err().to_string()
    };
    assert!(message(&|i| i.image_sizes.clear()).contains("image_sizes"));
    assert!(message(&|i| i.image_sizes = vec![[20, 20]]).contains("placeholders"));
    assert!(message(&|i| i.image_sizes = vec![[900, 900]]).contains("image_sizes"));
    assert!(message(&|i| i.pixel_values.as_mut().unwrap().grid_thw[0] = [7, 20, 21]).contains("20 x 21"));
    let other = Config::load(&dir("qwen2-vl-tiny")).unwrap();
    let refused = good.clone().fitted(&other).unwrap_err().to_string();
    assert!(refused.contains("whole pictures"), "{refused}");
    assert!(good.validate(&config).is_err(), "not cut yet");
}

/// Sound of a video stands after each step, the larger shares first; sound alone stands between the vision delimiters; what
/// was prepared passes the model.
#[test]
fn sound_stands_beside_frames_in_video_salmonn() {
    let preparer = Preparer::open(&dir("video-salmonn2-tiny")).unwrap();
    let video = VideoInfo {
        codec: String::new(),
        width: 24,
        height: 16,
        fps: 2.0,
        frames: 6,
        duration: 3.0,
    };
    let pictures = |at: &[usize]| Frames {
        count: at.len(),
        height: 16,
        width: 24,
        data: (0..at.len() * 16 * 24 * 3).map(|i| (i % 251) as u8).collect(),
    };
    let samples: Vec<f32> = (0..7000).map(|i| (i as f32 / 7.0).sin()).collect();
    let mut options = preparer.media_options();
    options.max_pixels = Some(16 * 24);
    let media = preparer.media_of(&video, pictures, &samples, &options).unwrap();
    let asked = Conversation::new(None, &media.parts, "What?");
    let made = preparer.assemble(media, &asked).unwrap().inputs;
    // 7000 samples are two chunks of 40 frames: 8 windows of 2 queries over 3 steps.
    let runs: Vec<usize> = made
        .input_ids
        .chunk_by(|a, b| a == b)
        .filter(|r| r[0] == 295)
        .map(<[u32]>::len)
        .collect();
    assert_eq!(runs, [6, 5, 5]);
    let model = load("video-salmonn2-tiny");
    let media = model.encode(&made, &mut |_| {}).unwrap();
    assert_eq!(media.audio.rows(), 16);
    model.prompt(&made, &media).unwrap();
    let mut cut = made.clone();
    let audio = cut.audio.as_mut().unwrap();
    audio.lengths[0] -= 1;
    audio.data.truncate(audio.lengths[0] * audio.mel_bins);
    let error = cut.validate(model.config()).unwrap_err().to_string();
    assert!(error.contains("multiples of 40"), "{error}");
}
