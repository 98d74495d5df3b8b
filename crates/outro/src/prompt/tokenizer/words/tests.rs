//! Cuts against the tokenizers library's own expressions (fixtures/words.json, tools/words.py).

use serde_json::Value;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

use super::{Words, cut};

/// Where text is cut, without the bytes' letters.
fn pieces(words: &Words, text: &str) -> Vec<String> {
    let mut pre = PreTokenizedString::from(text);
    for step in cut(words.expressions, false).unwrap().as_ref() {
        if !matches!(step, PreTokenizerWrapper::ByteLevel(_)) {
            step.pre_tokenize(&mut pre).unwrap();
        }
    }
    let splits = pre.get_splits(OffsetReferential::Original, OffsetType::Byte);
    splits.into_iter().map(|(piece, _, _)| piece.to_owned()).collect()
}

#[test]
fn text_is_cut_as_the_library_cuts_it() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/words.json");
    let all: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let texts: Vec<String> = serde_json::from_value(all["texts"].clone()).unwrap();
    let kinds = all["pieces"].as_object().unwrap();
    assert!(
        texts.len() >= 8 && kinds.len() >= 25,
        "{} texts, {} kinds",
        texts.len(),
        kinds.len()
    );
    for (name, rows) in kinds {
        let words = Words::named(name).unwrap_or_else(|| panic!("{name} is not known"));
        for (text, want) in texts.iter().zip(rows.as_array().unwrap()) {
            let want: Vec<String> = serde_json::from_value(want.clone()).unwrap();
            assert_eq!(pieces(words, text), want, "{name}: {text:?}");
        }
    }
}

#[test]
fn names_are_there_once() {
    let mut names = Words::names();
    assert!(names.len() > 70, "{}", names.len());
    names.sort_unstable();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
    for name in [
        "deepseek-r1-qwen",
        "llama-bpe",
        "tekken",
        "default",
        "deepseek-coder",
        "dbrx",
        "olmo",
    ] {
        assert!(names.contains(&name), "{name}");
    }
    assert!(Words::named("kimi-k2").is_none());
}
