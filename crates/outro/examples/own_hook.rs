//! A hook of one's own: what would the model say without one attention head?
//! `cargo run -p outro --example own_hook [CHECKPOINT [VIDEO [QUESTION]]]`
#![expect(clippy::print_stdout, reason = "an example shows its result")]

use std::path::PathBuf;

use outro::chat::Part;
use outro::hook::{At, Attention, HeadOutputs, Hook};
use outro::{Engine, EngineOptions, Result};

/// Silences one head, for the prompt and every decoded token. The hook ends with its request.
struct Silence {
    layer: usize,
    head: usize,
}

impl Hook for Silence {
    fn head_outputs(
        &mut self,
        at: At,
        _attention: Attention,
        o: &mut HeadOutputs,
        _applied: bool,
    ) -> Result<()> {
        if at.layer == self.layer {
            o.scale(|_, head| if head == self.head { 0.0 } else { 1.0 });
        }
        Ok(())
    }
}

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
    let ask = || engine.ask(&media, &question).strategy("baseline");
    println!("{:<27} {}", "all heads", ask()?.run()?.text);
    let layer = 1;
    for head in 0..engine.model().config().text.heads {
        let answer = ask()?.hook(move || Box::new(Silence { layer, head })).run()?;
        println!(
            "{:<27} {}",
            format!("without head {head} of layer {layer}"),
            answer.text
        );
    }
    Ok(())
}
