//! The names of a checkpoint's files: the engine reads no other, and these are fetched from a hub.

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident = $file:literal,)*) => {
        $($(#[$doc])* pub const $name: &str = $file;)*

        /// Every small file that the engine may read, in the order in which they are fetched. A repository has some of them.
        pub const SMALL: &[&str] = &[$($name),*];
    };
}

names! {
    /// Architecture and sizes; without it nothing can be read.
    CONFIG = "config.json",
    /// End tokens and sampling.
    GENERATION = "generation_config.json",
    /// Sizes and normalisation of pictures, and in most families of frames.
    PREPROCESSOR = "preprocessor_config.json",
    /// The same for videos, where they differ.
    VIDEO_PREPROCESSOR = "video_preprocessor_config.json",
    /// What belongs to neither; since transformers 5 all of them in one file.
    PROCESSOR = "processor_config.json",
    /// Special tokens, and in many checkpoints the chat template.
    TOKENIZER_CONFIG = "tokenizer_config.json",
    /// The tokenizer in one file.
    TOKENIZER = "tokenizer.json",
    /// The tokenizer in several: tokens.
    VOCAB = "vocab.json",
    /// Pairs that are merged, in order.
    MERGES = "merges.txt",
    /// Tokens that training added.
    ADDED_TOKENS = "added_tokens.json",
    /// Roles of special tokens.
    SPECIAL_TOKENS = "special_tokens_map.json",
    /// The chat template, as processors keep it.
    CHAT_JSON = "chat_template.json",
    /// The chat template alone.
    CHAT = "chat_template.jinja",
    /// A model's own settings for OutRo.
    SETTINGS = "outro.json",
    /// Which tensor is in which shard.
    INDEX = "model.safetensors.index.json",
}

/// All weights in one file.
pub const SINGLE: &str = "model.safetensors";

/// The weights of an adapter.
pub const ADAPTER_WEIGHTS: &str = "adapter_model.safetensors";

/// In the place of config.json where a repository holds a LoRA adapter; read to name the model that it changes.
pub const ADAPTER: &str = "adapter_config.json";

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Literals that look like files of a checkpoint and are none, or are named in messages only.
    const OTHERS: [&str; 4] = [
        "shapes.json",
        "classes.json",
        "tokenizer.ggml.model",
        "pytorch_model.bin.index.json",
    ];

    /// Names of JSON, Jinja, text and SentencePiece files in string literals outside tests.
    fn names(dir: &Path, found: &mut Vec<(String, String)>) {
        for entry in std::fs::read_dir(dir).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                names(&path, found);
                continue;
            }
            if path.extension().is_none_or(|e| e != "rs") || path.ends_with("tests.rs") {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            let lines = code.lines().map(|l| l.split("//").next().unwrap_or_default());
            let literals = lines.flat_map(|l| l.split('"').skip(1).step_by(2));
            let looks = |l: &&str| {
                let mut parts = l.rsplitn(2, '.');
                parts
                    .next()
                    .is_some_and(|e| ["json", "jinja", "txt", "model"].contains(&e))
                    && parts.next().is_some_and(|stem| {
                        !stem.is_empty()
                            && stem
                                .chars()
                                .all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c))
                    })
            };
            found.extend(
                literals
                    .filter(looks)
                    .map(|l| (l.to_owned(), path.display().to_string())),
            );
        }
    }

    #[test]
    fn every_name_that_the_engine_opens_is_on_the_list() {
        let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut found = Vec::new();
        names(&src, &mut found);
        for own in ["weights/checkpoint/files.rs", "spec/shapes.rs"] {
            let path = src.join(own).display().to_string();
            assert!(found.iter().any(|(_, p)| *p == path), "{own} was not read");
        }
        found.retain(|(name, _)| ![SMALL, &OTHERS, &[ADAPTER]].concat().contains(&name.as_str()));
        assert!(
            found.is_empty(),
            "the hub does not fetch {found:?}; add the names above"
        );
    }
}
