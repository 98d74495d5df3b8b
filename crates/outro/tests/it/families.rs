//! Every family with a tower, by table: golden values of its tiny checkpoint, and the laws that hold for each.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use outro::chat::Conversation;
use outro::generate::argmax;
use outro::hook::Hook;
use outro::inputs::Inputs;
use outro::positions::spans;
use outro::prepare::Preparer;
use outro::{Dtype, Mat, Model, OutRo, OutRoConfig, Prompt, Session};
use outro_media::{Frames, VideoInfo};

#[path = "../../examples/own_family.rs"]
mod own_family;

use crate::golden::{EMBEDS, Golden, LOGITS, positions_by_axis};

/// Checkpoints under fixtures/, each with `cases/KIND-N.safetensors`: five of each kind.
const FAMILIES: [&str; 4] = [
    "qwen2-vl-tiny",
    "qwen2-5-vl-tiny",
    "videollama3-tiny",
    "video-salmonn2-tiny",
];
const KINDS: [&str; 5] = ["text", "image", "video", "audio", "audio-in-video"];

fn dir(name: &str) -> PathBuf {
    crate::fixtures().join(name)
}

/// Five of each kind that the family takes.
fn cases(name: &str) -> impl Iterator<Item = PathBuf> {
    let cases = dir(name).join("cases");
    let kinds = if name.contains("salmonn") { 5 } else { 3 };
    KINDS[..kinds]
        .iter()
        .flat_map(|kind| (0..5).map(move |i| format!("{kind}-{i}.safetensors")))
        .map(move |name| cases.join(name))
}

fn hook(on: bool) -> Option<Box<dyn Hook>> {
    on.then(|| Box::new(OutRo::new(OutRoConfig::default())) as Box<dyn Hook>)
}

fn load(name: &str) -> Model {
    Model::load(&dir(name), Dtype::F32).unwrap()
}

fn prompt(model: &Model, path: &Path) -> (Inputs, Prompt) {
    let inputs = Inputs::load(path).unwrap();
    let media = model.encode(&inputs, &mut |_| {}).unwrap();
    let prompt = model.prompt(&inputs, &media).unwrap();
    (inputs, prompt)
}

/// Last `rows` of the prefill's logits and those of each step; feeds the golden tokens.
fn run(session: &mut Session, prompt: &Prompt, rows: usize, tokens: &[f32]) -> Vec<f32> {
    let first: Mat = session.prefill(prompt, rows, &mut |_| {}).unwrap();
    let mut all = first.data.clone();
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
        let model = load(name);
        for path in cases(name) {
            let golden = Golden::open(path.clone());
            let meta = golden.meta();
            let (inputs, prompt) = prompt(&model, &path);
            let media = model.encode(&inputs, &mut |_| {}).unwrap();
            for (key, rows) in [
                ("image_embeds", &media.image),
                ("video_embeds", &media.video),
                ("audio_embeds", &media.audio),
            ] {
                assert_eq!(
                    golden.check(key, &rows.data, EMBEDS),
                    rows.rows() > 0,
                    "{key} of {}",
                    path.display()
                );
            }
            golden.check("position_ids", &positions_by_axis(&prompt), 0.0);
            let spans = spans(model.config(), &inputs).unwrap();
            assert_eq!(spans.len(), inputs.input_ids.len());
            for mode in ["baseline", "outro"] {
                let mut session = Session::new(&model, hook(mode == "outro"));
                let tokens = golden.get(&format!("{mode}.tokens")).unwrap();
                let want = golden.get(&format!("{mode}.logits")).unwrap();
                let rows = want.len() / model.config().text.vocab - tokens.len();
                let got = run(&mut session, &prompt, rows, &tokens);
                assert!(golden.check(&format!("{mode}.logits"), &got, LOGITS));
                if let Some(outro) = session.hook::<OutRo>() {
                    let list = |key: &str| -> BTreeMap<usize, Vec<usize>> {
                        serde_json::from_str(&meta[key]).unwrap()
                    };
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
    }
}

/// Logits of the prompt's last row and of three steps.
fn answer(model: &Model, prompt: &Prompt, hook: Option<Box<dyn Hook>>) -> Vec<f32> {
    let mut session = Session::new(model, hook);
    let mut all = session.prefill(prompt, 1, &mut |_| {}).unwrap().data;
    for token in [40, 50, 60] {
        all.extend(session.decode(token).unwrap());
    }
    all
}

#[test]
fn laws() {
    struct Nothing;
    impl Hook for Nothing {}
    for name in FAMILIES {
        let model = load(name);
        let prompts: Vec<Prompt> = ["text-1", "image-3", "video-4"]
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
                let first = s.prefill(p, 1, &mut |_| {}).unwrap().data;
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
            let want = whole.prefill(prompt, 1, &mut |_| {}).unwrap().data;
            for cut in [1, prompt.embeds.rows() / 2, prompt.embeds.rows() - 1] {
                let mut first = Session::new(&model, None);
                first.prefill_prefix(prompt, cut, &mut |_| {}).unwrap();
                let got = first
                    .fork()
                    .unwrap()
                    .prefill(prompt, 1, &mut |_| {})
                    .unwrap()
                    .data;
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
        let want = session.prefill(&prompt, 1, &mut |_| {}).unwrap().data;
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
    let made = preparer.assemble(&media, &asked).unwrap().inputs;
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
