//! A model family of one's own, without a change in OutRo: a checkpoint whose trainer gave everything other names.
//! `cargo run -p outro --example own_family [CHECKPOINT]`; without one it is made from a fixture.
#![cfg_attr(
    not(test),
    expect(clippy::print_stdout, reason = "an example shows its result")
)]

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use outro::config::{Config, Held, Json};
use outro::family::{Family, Names, find};
use outro::generate::top;
use outro::inputs::Inputs;
use outro::prepare::Preparer;
use outro::{Dtype, Error, Model, OutRo, OutRoConfig, Result, Session};

/// A Qwen2-VL by other names. A family with another architecture fills [`Config`] field by field, as
/// `family/qwen2_vl.rs` does.
pub(crate) const VISOR: Family = Family {
    model_type: "visor",
    names: Names {
        text: "mind.",
        lm_head: "mouth.weight",
        vision: "eye.",
        merger: "eye.merger.",
        // Older releases of the trainer wrote this.
        renamed: &[("brain.", "mind.")],
        skipped: &["optimizer."],
        unused: &[],
        audio: "",
    },
    parse,
};

fn parse(json: &Json) -> Result<Config> {
    let near = find("qwen2_vl").ok_or_else(|| json.error("this OutRo has no Qwen2-VL"))?;
    // Its configuration lies under a key of its own.
    let config = (near.parse)(&json.at("network"))?;
    Ok(Config {
        model_type: VISOR.model_type.into(),
        names: VISOR.names,
        system: "You see.",
        held: Held::default(),
        ..config
    })
}

/// Loads a checkpoint of the family and runs one prompt, without OutRo and with it. Logits of the last row.
pub(crate) fn ask(dir: &Path, inputs: &Path) -> Result<[Vec<f32>; 2]> {
    let config = Config::load_among(dir, &[&VISOR])?;
    // What `ask`, `eval` and the others prepare prompts with; here they are ready.
    let preparer = Preparer::of(config.clone(), dir)?;
    let model = Model::open(config, dir, Dtype::Auto)?;
    let inputs = Inputs::load(inputs)?;
    inputs.validate(preparer.config())?;
    let prompt = model.prompt(&inputs, &model.encode(&inputs, &mut |_| {})?)?;
    let outro = Box::new(OutRo::new(OutRoConfig::default()));
    Ok([
        Session::new(&model, None)
            .prefill(&prompt, 1, &mut |_| {})?
            .into_data(),
        Session::new(&model, Some(outro))
            .prefill(&prompt, 1, &mut |_| {})?
            .into_data(),
    ])
}

/// The tiny Qwen2-VL of the fixtures as this family's trainer would have saved it.
pub(crate) fn make(from: &Path, to: &Path) -> Result<()> {
    let broken = |e: String| Error::checkpoint(from, e);
    let bytes = std::fs::read(from.join("model.safetensors")).map_err(Error::io(from))?;
    let tensors = safetensors::SafeTensors::deserialize(&bytes).map_err(|e| broken(e.to_string()))?;
    let names = [("model.", "brain."), ("visual.", "eye."), ("lm_head.", "mouth.")];
    let renamed: HashMap<String, _> = tensors
        .tensors()
        .into_iter()
        .map(|(name, tensor)| {
            let new = names
                .iter()
                .find_map(|(old, new)| Some((*new).to_owned() + name.strip_prefix(old)?));
            (new.unwrap_or(name), tensor)
        })
        .collect();
    safetensors::serialize_to_file(renamed, None, &to.join("model.safetensors"))
        .map_err(|e| broken(e.to_string()))?;
    let text = std::fs::read_to_string(from.join("config.json")).map_err(Error::io(from))?;
    let config = format!("{{\"model_type\": \"visor\", \"network\": {text}}}");
    std::fs::write(to.join("config.json"), config).map_err(Error::io(to))
}

/// The fixture that the default checkpoint is made from.
pub(crate) fn fixture() -> PathBuf {
    PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../fixtures/qwen2-vl-tiny"
    ))
}

#[cfg_attr(test, expect(dead_code, reason = "the tests call its parts"))]
fn main() -> Result<()> {
    let made = tempfile::tempdir().map_err(Error::io("a temporary directory"))?;
    let dir = if let Some(dir) = std::env::args_os().nth(1) {
        dir.into()
    } else {
        make(&fixture(), made.path())?;
        made.path().to_path_buf()
    };
    let logits = ask(&dir, &fixture().join("cases/video-0.safetensors"))?;
    for (what, logits) in ["without OutRo", "with OutRo"].iter().zip(&logits) {
        println!("{what:<14} {:?}", top(logits, 3));
    }
    Ok(())
}
