//! A hook of one's own: which next tokens would the model choose without one attention head?
//! `cargo run -p outro --example own_hook [CHECKPOINT [INPUTS]]`; INPUTS as `outro prepare` writes them.
#![expect(clippy::print_stdout, reason = "an example shows its result")]

use std::path::PathBuf;

use outro::generate::top;
use outro::hook::{At, Hook, Qkv};
use outro::inputs::Inputs;
use outro::{Dtype, Model, Prompt, Result, Session};

/// Silences one head, for the prompt and every decoded token. The hook ends with its session.
struct Silence {
    layer: usize,
    head: usize,
}

impl Hook for Silence {
    fn head_outputs(&mut self, at: At, _qkv: Qkv, o: &mut [f32]) -> Result<()> {
        if at.layer == self.layer {
            let dim = at.shape.dim;
            for row in o.chunks_exact_mut(at.shape.heads * dim) {
                row[self.head * dim..(self.head + 1) * dim].fill(0.0);
            }
        }
        Ok(())
    }
}

fn show(what: &str, model: &Model, prompt: &Prompt, hook: Option<Box<dyn Hook>>) -> Result<()> {
    let logits = Session::new(model, hook).prefill(prompt, 1, &mut |_| {})?;
    let best: Vec<_> = top(&logits.data, 3)
        .into_iter()
        .map(|(id, p)| format!("{id} ({p:.3})"))
        .collect();
    println!("{what:<26} {}", best.join("  "));
    Ok(())
}

fn main() -> Result<()> {
    let tiny = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/omni-tiny"));
    let inputs = std::env::args_os()
        .nth(2)
        .map_or(tiny.join("cases/video.inputs.safetensors"), Into::into);
    let model = Model::load(&std::env::args_os().nth(1).map_or(tiny, Into::into), Dtype::Auto)?;
    let inputs = Inputs::load(&inputs)?;
    let prompt = model.prompt(&inputs, &model.encode(&inputs, &mut |_| {})?)?;
    show("all heads", &model, &prompt, None)?;
    for head in 0..model.config().text.heads {
        let hook = Silence { layer: 4, head };
        show(
            &format!("without head {head} of layer 4"),
            &model,
            &prompt,
            Some(Box::new(hook)),
        )?;
    }
    Ok(())
}
