//! A question about a video, with OutRo, from file to answer.
//!
//! `cargo run -p outro --example ask [CHECKPOINT [VIDEO [QUESTION]]]`
#![expect(
    clippy::print_stdout,
    clippy::expect_used,
    reason = "an example shows its result, and may stop"
)]

use std::path::PathBuf;

use outro::chat::{Conversation, Part};
use outro::generate::{Sampler, generate};
use outro::prepare::{MediaOptions, Preparer};
use outro::{Dtype, Model, OutRo, OutRoConfig, Result, Session};

fn main() -> Result<()> {
    let fixtures = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures"));
    let mut args = std::env::args().skip(1);
    let dir = args.next().map_or(fixtures.join("omni-tiny"), PathBuf::from);
    let video = args.next().map_or(fixtures.join("clip.mp4"), PathBuf::from);
    let question = args.next().unwrap_or_else(|| "What do you see and hear?".into());

    let media = [Part::Video(video)];
    let asked = Conversation::new(None, &media, &question);
    let preparer = Preparer::open(&dir)?;
    let options = MediaOptions::default();
    // Counts the tokens from the headers: a video that does not fit is refused before it is decoded.
    let plan = preparer.plan(&asked, &options)?;
    let loaded = preparer.load_planned(&plan, &options, &mut |_| {})?;
    let inputs = preparer.assemble_last(loaded, &asked)?.inputs;

    let model = Model::load(&dir, Dtype::Auto)?;
    let prompt = model.prompt(&inputs, &model.encode(&inputs, &mut |_| {})?)?;
    let mut session = Session::new(&model, Some(Box::new(OutRo::new(OutRoConfig::default()))));
    let logits = session.prefill(&prompt, 1, &mut |_| {})?;
    let mut tokens = Vec::new();
    let tokenizer = preparer.tokenizer().expect("a checkpoint with a tokenizer");
    generate(
        &mut session,
        &logits.data,
        &mut Sampler::greedy(),
        tokenizer.end_tokens(),
        64,
        &mut |token| {
            tokens.push(token);
            true
        },
    )?;
    println!("{}", tokenizer.decode(&tokens)?);
    Ok(())
}
