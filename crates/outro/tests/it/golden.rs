//! Every public fixture through the library, stage by stage (tolerances: fixtures/README.md).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use outro::generate::argmax;
use outro::hook::{Chain, Hook, Recorder};
use outro::inputs::Inputs;
use outro::{Dtype, MediaEmbeds, Model, OutRo, OutRoConfig, Prompt, Session};
use safetensors::{Dtype as Stored, SafeTensors};

pub(crate) const LOGITS: f32 = 2e-4;
pub(crate) const EMBEDS: f32 = 1e-4;

/// Golden tensors of one file.
pub(crate) struct Golden {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Golden {
    pub(crate) fn open(path: PathBuf) -> Self {
        let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Self { path, bytes }
    }

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).unwrap()
    }

    pub(crate) fn meta(&self) -> std::collections::HashMap<String, String> {
        SafeTensors::read_metadata(&self.bytes)
            .unwrap()
            .1
            .metadata()
            .clone()
            .unwrap_or_default()
    }

    pub(crate) fn get(&self, key: &str) -> Option<Vec<f32>> {
        let tensors = self.tensors();
        let view = tensors.tensor(key).ok()?;
        Some(match view.dtype() {
            Stored::F32 => view
                .data()
                .as_chunks()
                .0
                .iter()
                .map(|b| f32::from_le_bytes(*b))
                .collect(),
            Stored::I64 => view
                .data()
                .as_chunks()
                .0
                .iter()
                .map(|b| i64::from_le_bytes(*b) as f32)
                .collect(),
            other => panic!("{key}: {other:?}"),
        })
    }

    /// The layers of which the file has a tensor `PREFIX<layer>..`; one at least where there must be `some`.
    #[track_caller]
    fn layers(&self, prefix: &str, some: bool) -> Vec<usize> {
        let tensors = self.tensors();
        let names = tensors.names().into_iter().filter_map(|n| n.strip_prefix(prefix));
        let mut layers: Vec<usize> = names
            .map(|n| n.split('.').next().unwrap().parse().unwrap())
            .collect();
        layers.sort_unstable();
        layers.dedup();
        assert!(
            !(some && layers.is_empty()),
            "{}: has no {prefix}..",
            self.path.display()
        );
        layers
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.tensors().tensor(key).is_ok()
    }

    /// Holds a stage to its golden value, which the file must have; says where the worst element is.
    #[track_caller]
    pub(crate) fn check(&self, key: &str, got: &[f32], tolerance: f32) {
        let want = self
            .get(key)
            .unwrap_or_else(|| panic!("{}: has no {key}", self.path.display()));
        assert_eq!(got.len(), want.len(), "{}: {key}", self.path.display());
        let worst = got
            .iter()
            .zip(&want)
            .enumerate()
            .map(|(i, (a, b))| ((a - b).abs(), i))
            .fold((0.0, 0), |m, x| if x.0 > m.0 { x } else { m });
        assert!(
            worst.0 <= tolerance,
            "{}: {key}: {} at element {}",
            self.path.display(),
            worst.0,
            worst.1
        );
    }

    /// As [`Golden::check`], of the last rows: of as many as the tensor whose name begins with `key` has.
    #[track_caller]
    fn check_end(&self, key: &str, got: &[f32], tolerance: f32) {
        let tensors = self.tensors();
        let name = tensors.names().into_iter().find(|n| n.starts_with(key));
        let name = name.unwrap_or_else(|| panic!("{}: has no {key}..", self.path.display()));
        let n = self.get(name).unwrap().len();
        self.check(name, &got[got.len() - n..], tolerance);
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut all: Vec<_> = entries
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "safetensors"))
        .collect();
    all.sort();
    all
}

fn hooked(config: Option<OutRoConfig>) -> Option<Box<dyn Hook>> {
    let recorder = Recorder {
        wants_head_outputs: true,
        ..Recorder::default()
    };
    Some(Box::new(Chain(vec![
        Box::new(OutRo::new(config?)),
        Box::new(recorder),
    ])))
}

/// What the recorder of [`hooked`] kept, by layer.
fn head_outputs(session: &Session) -> BTreeMap<usize, &[f32]> {
    let recorder = session.hook::<Recorder>().unwrap();
    recorder
        .head_outputs
        .iter()
        .map(|(layer, o)| (*layer, &o[..]))
        .collect()
}

/// Feeds the golden tokens; returns the logits of each step.
fn decode(session: &mut Session, first: &[f32], tokens: &[f32]) -> Vec<f32> {
    let mut last = first.to_vec();
    let mut all = Vec::new();
    for token in tokens {
        assert_eq!(argmax(&last), *token as u32, "greedy token");
        last = session.decode(*token as u32).unwrap();
        all.extend_from_slice(&last);
    }
    all
}

pub(crate) fn positions_by_axis(prompt: &Prompt) -> Vec<f32> {
    (0..3)
        .flat_map(|axis| prompt.positions.ids.iter().map(move |p| p[axis]))
        .collect()
}

/// Holds what the towers made to the golden values: all that was made, and nothing else is stored.
pub(crate) fn check_media(golden: &Golden, media: &MediaEmbeds) {
    let deepstack = (0..).map(|layer| format!("deepstack.{layer}"));
    let deepstack: Vec<_> = deepstack.zip(media.deepstack.iter()).collect();
    let further = format!("deepstack.{}", media.deepstack.len());
    assert!(!golden.has(&further), "{}: {further}", golden.path.display());
    let kinds = [
        ("image_embeds", &media.image),
        ("video_embeds", &media.video),
        ("audio_embeds", &media.audio),
    ];
    for (key, rows) in deepstack
        .iter()
        .map(|(key, rows)| (key.as_str(), *rows))
        .chain(kinds)
    {
        if rows.rows() > 0 {
            golden.check(key, rows.data(), EMBEDS);
        } else {
            assert!(!golden.has(key), "{}: {key} was not made", golden.path.display());
        }
    }
}

/// Fixture checkpoints, the directories of their cases, and how many there are.
const TINY: &[(&str, &[&str], usize)] = &[
    (
        "omni-tiny",
        &["cases", "cases-no-sink", "cases-below-median-rule"],
        26,
    ),
    ("qwen3-tiny", &["cases"], 15),
    ("qwen3-moe-tiny", &["cases"], 15),
];

#[test]
fn every_family() {
    for (name, dirs, count) in TINY {
        let root = crate::fixtures().join(name);
        let model = Model::load(&root, Dtype::F32).unwrap();
        let cases: usize = dirs.iter().map(|dir| cases(&model, &root.join(dir))).sum();
        assert_eq!(cases, *count, "{name}: a fixture is missing");
    }
}

pub(crate) fn cases(model: &Model, dir: &Path) -> usize {
    let mut cases = 0;
    for path in files(dir) {
        let name = path.file_name().unwrap().to_str().unwrap().to_string();
        let (kind, rest) = name.split_once('.').unwrap();
        if rest.starts_with("inputs") {
            continue;
        }
        let inputs = Inputs::load(&dir.join(format!("{kind}.inputs.safetensors"))).unwrap();
        // Embeddings of media stand beside the plain model's values alone.
        let plain = Golden::open(dir.join(format!("{kind}.baseline.safetensors")));
        case(model, &Golden::open(path), &plain, &inputs);
        cases += 1;
    }
    cases
}

fn case(model: &Model, golden: &Golden, plain: &Golden, inputs: &Inputs) {
    let media = model.encode(inputs, &mut |_| {}).unwrap();
    check_media(plain, &media);
    let prompt = model.prompt(inputs, &media).unwrap();
    golden.check("position_ids", &positions_by_axis(&prompt), 0.0);
    let meta = golden.meta();
    let settings: Option<BTreeMap<String, serde_json::Value>> =
        serde_json::from_str(&meta["settings"]).unwrap();
    let config = settings.map(|settings| {
        let mut config = OutRoConfig::default();
        for (key, value) in settings {
            config.set(&key, value.to_string().trim_matches('"')).unwrap();
        }
        config
    });
    let mut session = Session::new(model, hooked(config));
    let logits = session.prefill(&prompt, usize::MAX, &mut |_| {}).unwrap();
    golden.check_end("prefill_logits_last", logits.data(), LOGITS);
    if let Some(first) = golden.get("prefill_logits_first4") {
        golden.check("prefill_logits_first4", &logits.data()[..first.len()], LOGITS);
    }
    let tokens = golden.get("tokens").unwrap();
    let steps = decode(&mut session, logits.row(logits.rows() - 1), &tokens);
    golden.check("decode_logits", &steps, LOGITS);
    if let Some(outro) = session.hook::<OutRo>() {
        check_findings(golden, outro, &meta);
        let recorded = head_outputs(&session);
        for layer in golden.layers("head_outputs.", !outro.sinks().is_empty()) {
            let o = recorded[&layer];
            if let Some(first) = golden.get(&format!("head_outputs.{layer}.first4")) {
                golden.check(&format!("head_outputs.{layer}.first4"), &o[..first.len()], EMBEDS);
            }
            golden.check_end(&format!("head_outputs.{layer}.last"), o, EMBEDS);
        }
    }
}

fn check_findings(golden: &Golden, outro: &OutRo, meta: &std::collections::HashMap<String, String>) {
    let list = |key: &str| -> BTreeMap<usize, Vec<usize>> { serde_json::from_str(&meta[key]).unwrap() };
    assert_eq!(outro.sinks(), &list("sinks"), "{}", golden.path.display());
    assert_eq!(
        outro.relaxed_at(),
        &list("relaxed_at"),
        "{}",
        golden.path.display()
    );
    for (layer, v) in outro.vbar() {
        golden.check(&format!("vbar.{layer}"), v, EMBEDS);
    }
}

#[test]
fn more_shapes_and_qwen2_5_vl() {
    let Some(shared) = crate::shared() else { return };
    let mut cases = 0;
    for name in ["omni_a", "omni_b", "vl_a", "vl_b"] {
        let root = shared.join("fixtures/more").join(name);
        let model = Model::load(&root, Dtype::F32).unwrap();
        for path in files(&root)
            .into_iter()
            .filter(|p| p.file_name().unwrap().to_str().unwrap().starts_with("case_"))
        {
            second_oracle(&model, path);
            cases += 1;
        }
    }
    assert_eq!(cases, 20, "a fixture is missing");
}

fn second_oracle(model: &Model, path: PathBuf) {
    let json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(path.with_extension("json")).unwrap()).unwrap();
    let mut inputs = Inputs::load(&path).unwrap();
    inputs.use_audio_in_video = json
        .pointer("/flags/use_audio_in_video")
        .and_then(serde_json::Value::as_bool)
        .unwrap_or(false);
    let golden = Golden::open(path);
    let media = model.encode(&inputs, &mut |_| {}).unwrap();
    let visual: Vec<f32> = [media.image.data(), media.video.data()].concat();
    let want: Vec<f32> = ["expect.visual_embeds.0", "expect.visual_embeds.1"]
        .iter()
        .filter_map(|k| golden.get(k))
        .flatten()
        .collect();
    assert_eq!(
        visual.len(),
        want.len(),
        "{}: visual embeddings",
        golden.path.display()
    );
    let worst = visual
        .iter()
        .zip(&want)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    assert!(
        worst < EMBEDS,
        "{}: visual embeddings: {worst}",
        golden.path.display()
    );
    if media.audio.rows() > 0 {
        golden.check("expect.audio_embeds.0", media.audio.data(), EMBEDS);
    }
    let prompt = model.prompt(&inputs, &media).unwrap();
    golden.check("expect.position_ids", &positions_by_axis(&prompt), 0.0);
    for (mode, settings) in [
        ("baseline", None),
        ("outro", Some(&[("decode", "release")][..])),
        ("outro_absolute", Some(&[])),
        ("rotation_only", Some(&[("relax", "false")])),
        ("relaxation_only", Some(&[("rotate", "false")])),
    ] {
        let config = settings.map(|s| {
            let mut config = from_json(&json["outro_config"]);
            for (k, v) in s {
                config.set(k, v).unwrap();
            }
            config
        });
        let mut session = Session::new(model, hooked(config));
        let logits = session.prefill(&prompt, 1, &mut |_| {}).unwrap().into_data();
        if mode.ends_with("_only") {
            golden.check(&format!("{mode}.prefill_logits"), &logits, LOGITS);
            continue;
        }
        let ids = golden.get(&format!("{mode}.ids")).unwrap();
        let mut all = logits.clone();
        all.extend(decode(&mut session, &logits, &ids[..ids.len() - 1]));
        // Where both decode rules agree, the oracle stored the logits once.
        let stored = [format!("{mode}.logits"), "outro.logits".into()]
            .into_iter()
            .find(|key| golden.get(key).is_some());
        golden.check(&stored.unwrap(), &all, LOGITS);
        if mode == "outro" {
            let outro = session.hook::<OutRo>().unwrap();
            for layer in json["layers"].as_array().unwrap() {
                let list = |key: &str| -> Vec<usize> {
                    serde_json::from_value::<Option<_>>(layer[key].clone())
                        .unwrap()
                        .unwrap_or_default()
                };
                let index: usize = serde_json::from_value(layer["layer"].clone()).unwrap();
                assert_eq!(
                    outro.sinks().get(&index).cloned().unwrap_or_default(),
                    list("sinks"),
                    "{} layer {index}",
                    golden.path.display()
                );
                assert_eq!(
                    outro.relaxed_at().get(&index).cloned().unwrap_or_default(),
                    list("relaxed"),
                    "{} layer {index}",
                    golden.path.display()
                );
            }
            let acts = !outro.vbar().is_empty();
            for layer in golden.layers("outro.v_sink.", acts) {
                golden.check(&format!("outro.v_sink.{layer}"), &outro.vbar()[&layer], EMBEDS);
            }
            let recorded = head_outputs(&session);
            for layer in golden.layers("outro.pre_o.", acts) {
                golden.check(&format!("outro.pre_o.{layer}"), recorded[&layer], EMBEDS);
            }
        }
    }
}

/// The second oracle's names for the settings.
fn from_json(json: &serde_json::Value) -> OutRoConfig {
    let mut config = OutRoConfig::default();
    for (theirs, ours) in [
        ("gamma", "gamma"),
        ("temperature", "temperature"),
        ("abs_threshold", "abs_threshold"),
        ("median_multiplier", "median_multiple"),
        ("start_layer", "start_layer"),
        ("end_layer", "end_layer"),
        ("interval", "interval"),
        ("apply_once", "once"),
        ("rescale", "rescale"),
    ] {
        if !json[theirs].is_null() {
            config.set(ours, &json[theirs].to_string()).unwrap();
        }
    }
    config
}

#[test]
fn towers_do_not_depend_on_what_else_is_encoded() {
    let root = crate::fixtures().join("omni-tiny");
    let model = Model::load(&root, Dtype::F32).unwrap();
    let one = Inputs::load(&root.join("cases/image.inputs.safetensors")).unwrap();
    let alone: MediaEmbeds = model.encode(&one, &mut |_| {}).unwrap();
    let mut two = one.clone();
    let pixels = two.pixel_values.as_mut().unwrap();
    pixels.data.extend_from_within(..);
    pixels.grid_thw.extend_from_within(..);
    let start = two.input_ids.iter().position(|id| *id == 393).unwrap();
    let end = two.input_ids.iter().position(|id| *id == 394).unwrap();
    let block = two.input_ids[start..=end].to_vec();
    two.input_ids.splice(start..start, block);
    let both = model.encode(&two, &mut |_| {}).unwrap();
    assert_eq!(
        both.image.data(),
        [alone.image.data(), alone.image.data()].concat()
    );
}
