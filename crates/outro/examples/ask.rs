//! A question about a video, with OutRo, from file to answer: what `outro ask` does.
//!
//! `cargo run -p outro --example ask [CHECKPOINT [VIDEO [QUESTION]]]`
#![expect(clippy::print_stdout, reason = "an example shows its result")]

use std::path::PathBuf;

use outro::chat::Part;
use outro::{Engine, EngineOptions, Result};

fn main() -> Result<()> {
    let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    let mut args = std::env::args().skip(1);
    let model = args.next().map_or(root.join("models/outro-tiny"), PathBuf::from);
    let video = args
        .next()
        .map_or(root.join("fixtures/shapes.mp4"), PathBuf::from);
    let question = args.next().unwrap_or_else(|| "What do you see and hear?".into());

    let engine = Engine::open(model, EngineOptions::default())?;
    let media = engine.media(&[Part::Video(video.into())])?;
    let answer = engine.ask(&media, &question).strategy("outro")?.run()?;
    println!("{}", answer.text);
    for (layer, positions) in answer.sinks.iter().flatten().filter(|(_, p)| !p.is_empty()) {
        println!("layer {layer}: sinks at {positions:?}");
    }
    Ok(())
}
