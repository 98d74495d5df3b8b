//! Published layouts of at most 3B answer: files, tensors, picture and prompt fit together at their true sizes.

use std::fs;
use std::time::Instant;

use outro::chat::{Conversation, Part};
use outro::prepare::Preparer;
use outro::{Dtype, Model, Session};
use outro_media::write_png;

use crate::sparse::{checkpoint, settings, tensors};

/// Every layout of at most 3B that is read; the first two in every run, the others where OUTRO_PUBLISHED is set
/// (.ci/full/published): each is gigabytes of zeros.
const SMALL: &[&str] = &[
    "videollama3-2b",
    "videollama3-2b-hf",
    "llava-ov-0.5b",
    "qwen2.5-vl-3b",
    "qwen2.5-omni-3b",
    "salmonn2p-3b",
];

#[test]
fn published_layouts_answer_with_a_token() {
    let Some(root) = crate::shared().map(|s| s.join("published")) else {
        return;
    };
    let all = std::env::var_os("OUTRO_PUBLISHED").is_some();
    for name in &SMALL[..if all { SMALL.len() } else { 2 }] {
        let begun = Instant::now();
        let from = root.join(name);
        let dir = checkpoint(&from, &tensors(&from));
        settings(&from, dir.path());
        let png = dir.path().join("picture.png");
        let grey: Vec<u8> = (0..64 * 64 * 3).map(|i| (i % 251) as u8).collect();
        fs::write(&png, write_png(64, 64, &grey).unwrap()).unwrap();
        let preparer = Preparer::open(dir.path()).unwrap_or_else(|e| panic!("{name}: {e}"));
        let parts = [Part::Image(png.into())];
        let media = preparer
            .load_media(&parts, &preparer.media_options(), &mut |_| {})
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        let mut inputs = media.inputs;
        inputs.input_ids = preparer
            .ids(&Conversation::new(None, &parts, "What is this?"), &media.items)
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        let model = Model::load(dir.path(), Dtype::Auto).unwrap_or_else(|e| panic!("{name}: {e}"));
        let encoded = model.encode(&inputs, &mut |_| {}).unwrap();
        let prompt = model.prompt(&inputs, &encoded).unwrap();
        let logits = Session::new(&model, None)
            .prefill(&prompt, 1, &mut |_| {})
            .unwrap()
            .into_data();
        assert_eq!(logits.len(), model.config().text.vocab, "{name}");
        // Of zeros comes nothing but zeros.
        assert!(logits.iter().all(|x| *x == 0.0), "{name}");
        println!(
            "{name}: {} tokens, {:.1} s",
            inputs.input_ids.len(),
            begun.elapsed().as_secs_f64()
        );
    }
}
