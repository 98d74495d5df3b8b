//! Errors as a caller sees them: of what kind they are, and what helps.

use std::fs;
use std::path::PathBuf;

use outro::chat::Part;
use outro::config::Config;
use outro::{Cancel, Engine, EngineOptions, Error, ErrorKind, Hint};
use serde_json::{Value, json};

fn engine() -> Engine {
    let dir = crate::fixtures().join("../models/outro-tiny");
    Engine::open(dir, EngineOptions::default()).unwrap()
}

fn clip() -> PathBuf {
    crate::fixtures().join("shapes.mp4")
}

/// Kind and hint.
fn told<T>(made: Result<T, Error>) -> (ErrorKind, Option<Hint>) {
    let Err(error) = made else {
        panic!("it went well");
    };
    (error.kind(), error.hint())
}

#[test]
fn files_and_settings() {
    let (engine, dir) = (engine(), tempfile::tempdir().unwrap());
    let file = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        engine.media(&[Part::Video(path.into())])
    };
    let whole = fs::read(clip()).unwrap();
    let absent = engine.media(&[Part::Video(dir.path().join("none.mp4").into())]);
    assert_eq!(told(absent), (ErrorKind::NotFound, None));
    assert_eq!(told(file("empty.mp4", b"")), (ErrorKind::Damaged, None));
    assert_eq!(told(file("torn.mp4", &whole[..200])), (ErrorKind::Damaged, None));
    let picture = b"\x89PNG\r\n\x1a\n00000000";
    let as_image = Some(Hint::Media(outro_media::Hint::GiveAsImage));
    assert_eq!(told(file("a.png", picture)), (ErrorKind::Invalid, as_image));
    let none = Engine::open(dir.path().join("model"), EngineOptions::default());
    assert_eq!(told(none), (ErrorKind::NotFound, None));
    let media = engine.media(&[]).unwrap();
    for strategy in ["otro", "outro:gamma=loud"] {
        let asked = engine.ask(&media, "hello").strategy(strategy);
        assert_eq!(told(asked), (ErrorKind::Invalid, None), "{strategy}");
    }
    assert_eq!(told(engine.ask(&media, " ").run()), (ErrorKind::Invalid, None));
}

#[test]
fn prompts_and_requests() {
    let engine = engine();
    let media = engine.media(&[Part::Video(clip().into())]).unwrap();
    let long = "hello ".repeat(engine.model().config().text.max_positions);
    let asked = engine.ask(&media, &long).run();
    assert_eq!(told(asked), (ErrorKind::TooLong, Some(Hint::ShorterText)));
    let stop = Cancel::default();
    stop.set();
    let asked = engine.ask(&media, "hello").cancelled_by(&stop).run();
    assert_eq!(told(asked), (ErrorKind::Cancelled, None));
}

#[test]
fn checkpoints_that_ask_for_more() {
    let dir = tempfile::tempdir().unwrap();
    let loaded = |change: &dyn Fn(&mut Value)| {
        let text = fs::read_to_string(crate::fixtures().join("../models/outro-tiny/config.json")).unwrap();
        let mut config: Value = serde_json::from_str(&text).unwrap();
        change(&mut config);
        fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        told(Config::load(dir.path()))
    };
    let rope = |c: &mut Value| {
        let rope = &mut c["thinker_config"]["text_config"]["rope_scaling"];
        (rope["rope_type"], rope["type"]) = (json!("longrope"), json!("longrope"));
    };
    assert_eq!(loaded(&rope), (ErrorKind::Unsupported, None));
    let packed = |c: &mut Value| c["quantization_config"] = json!({"quant_method": "hqq"});
    let hint = Some(Hint::QuantiseHere);
    assert_eq!(loaded(&packed), (ErrorKind::Unsupported, hint));
    let unknown = |c: &mut Value| c["model_type"] = json!("mamba");
    assert_eq!(loaded(&unknown), (ErrorKind::Unsupported, None));
    assert_eq!(loaded(&|c| *c = json!([])).0, ErrorKind::Damaged);
}
