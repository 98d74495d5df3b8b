//! How tokenizers of a byte-level BPE cut text into words before they merge bytes: expressions, by the names that
//! `tokenizer.ggml.pre` has in llama.cpp.

use tokenizers::SplitDelimiterBehavior;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};

/// English contractions, in any case.
macro_rules! contractions {
    () => {
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
    };
}

/// Signs, ends of lines and spaces, as most expressions since GPT-4 end.
macro_rules! rest {
    () => {
        r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    };
}

/// Words that change from capitals to small letters once (GPT-4o, Mistral's Tekken), with what may follow them.
macro_rules! cased {
    ($after:expr, $digits:expr) => {
        concat!(
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
            $after,
            r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
            $after,
            "|",
            $digits,
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        )
    };
}

/// Digits one by one.
pub(super) const QWEN2: &str = concat!(contractions!(), r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|", rest!());
/// Up to three digits together.
const LLAMA3: &str = concat!(contractions!(), r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|", rest!());
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const GPT4O: &str = cased!("(?i:'s|'t|'re|'ve|'m|'ll|'d)?", r"\p{N}{1,3}");
const TEKKEN: &str = cased!("", r"\p{N}");
/// Chinese characters and Japanese syllables.
const CJK: &str = "[一-龥\u{3040}-\u{309f}\u{30a0}-\u{30ff}]+";
const DEEPSEEK3: &str = concat!(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"##,
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const BLOOM: &str = r" ?[^(\s|.,!?…。，、।۔،)]+";

/// How one kind of tokenizer cuts text.
pub(super) struct Words {
    names: &'static [&'static str],
    /// Each cuts what the one before left.
    pub(super) expressions: &'static [&'static str],
    /// Whether a word that is a token is one, whatever its bytes would be merged to.
    pub(super) whole: bool,
    /// Whether text begins with a token for beginnings, where the file does not say.
    pub(super) begins: bool,
    /// Whether accents are put together with their letters first (NFC).
    pub(super) composed: bool,
}

const PLAIN: Words = Words {
    names: &[],
    expressions: &[],
    whole: false,
    begins: false,
    composed: false,
};

/// llama.cpp's table, without kinds that are not byte-level or need code of their own.
const TABLE: &[Words] = &[
    Words {
        names: &["default", ""],
        expressions: &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
        ..PLAIN
    },
    Words {
        names: &["qwen2"],
        expressions: &[QWEN2],
        composed: true,
        ..PLAIN
    },
    Words {
        names: &[
            "deepseek-r1-qwen",
            "kormo",
            "f2llmv2",
            "megrez",
            "stablelm2",
            "hunyuan",
            "solar-open",
            "grok-2",
        ],
        expressions: &[QWEN2],
        ..PLAIN
    },
    Words {
        names: &["qwen35"],
        expressions: &[concat!(
            contractions!(),
            r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        )],
        composed: true,
        ..PLAIN
    },
    Words {
        names: &[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "jina-v5-nano",
        ],
        expressions: &[LLAMA3],
        whole: true,
        begins: true,
        ..PLAIN
    },
    Words {
        names: &["dbrx", "smaug-bpe", "glm4", "chatglm-bpe"],
        expressions: &[LLAMA3],
        ..PLAIN
    },
    Words {
        names: &["minicpm5"],
        expressions: &[
            r"\p{N}{1,3}",
            concat!(contractions!(), r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+|", rest!()),
        ],
        whole: true,
        ..PLAIN
    },
    Words {
        names: &[
            "gpt-2",
            "gpt2",
            "phi-2",
            "jina-es",
            "jina-de",
            "jina-v2-es",
            "jina-v2-de",
            "jina-v1-en",
            "jina-v2-code",
            "roberta-bpe",
            "gigachat",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "exaone4",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
        ],
        expressions: &[GPT2],
        ..PLAIN
    },
    Words {
        names: &[
            "starcoder",
            "refact",
            "command-r",
            "smollm",
            "codeshell",
            "exaone",
            "minerva-7b",
            "mellum2",
        ],
        expressions: &[r"\p{N}", GPT2],
        ..PLAIN
    },
    Words {
        names: &["falcon"],
        expressions: &[r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"],
        ..PLAIN
    },
    Words {
        names: &["deepseek-llm"],
        expressions: &[
            "[\r\n]",
            // Its files list the letters of alphabets with cases one after the other, and those of formulas are not there.
            r"\s?(?:(?![\x{1d400}-\x{1d7ff}])[\p{Lu}\p{Ll}\p{Lt}])+",
            "\\s?[!-/:-~！-／：-～‘-‟\u{3000}-。]+",
            r"\s+$",
            "[一-龥\u{800}-一가-\u{d7ff}]+",
            r"\p{N}+",
        ],
        ..PLAIN
    },
    Words {
        names: &["deepseek-coder"],
        expressions: &[
            "[\r\n]",
            r"\s?\p{L}+",
            r"\s?\p{P}+",
            "[一-龥\u{800}-一가-\u{d7ff}]+",
            r"\p{N}",
        ],
        ..PLAIN
    },
    Words {
        names: &["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"],
        expressions: &[r"\p{N}{1,3}", CJK, DEEPSEEK3],
        ..PLAIN
    },
    Words {
        names: &["tekken"],
        expressions: &[TEKKEN],
        whole: true,
        begins: true,
        ..PLAIN
    },
    Words {
        names: &["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"],
        expressions: &[GPT4O],
        ..PLAIN
    },
    Words {
        names: &["tiny_aya", "cohere2moe"],
        expressions: &[r"\d{1,3}(?=(?:\d{3})*\b)", GPT4O],
        ..PLAIN
    },
    Words {
        names: &["poro-chat", "bloom", "gpt3-finnish"],
        expressions: &[BLOOM],
        ..PLAIN
    },
    Words {
        names: &["viking"],
        expressions: &[BLOOM, r"\p{N}"],
        ..PLAIN
    },
    Words {
        names: &["chameleon"],
        expressions: &[
            "<sentinel:[0-9]+>",
            "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
            "([\\t\\n]|    |  )",
            r"\p{N}",
            r"[\p{P}!-/:-@\[-`{-~]",
            GPT2,
        ],
        begins: true,
        ..PLAIN
    },
    Words {
        names: &["bailingmoe", "bailingmoe2", "llada-moe"],
        expressions: &[concat!(
            r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*",
            r"|\s*[\r\n]|\s+(?!\S)|\s+"
        )],
        ..PLAIN
    },
    Words {
        names: &["seed-coder"],
        expressions: &[concat!(
            contractions!(),
            r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"
        )],
        ..PLAIN
    },
    Words {
        names: &["ufakzeka"],
        expressions: &[concat!(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|", rest!())],
        ..PLAIN
    },
    Words {
        names: &["exaone-moe"],
        expressions: &[concat!(
            contractions!(),
            r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?",
            r"|\s*[\r\n]|\s+(?!\S)|\s+"
        )],
        ..PLAIN
    },
    Words {
        names: &["jais-2"],
        expressions: &[concat!(
            contractions!(),
            r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+",
            r"|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)",
            r"|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}"
        )],
        ..PLAIN
    },
    Words {
        names: &["laguna"],
        expressions: &[r"[^\n]+|[\n]+", QWEN2],
        ..PLAIN
    },
    Words {
        names: &["spark2_5"],
        expressions: &[
            r"\p{N}{1,3}",
            CJK,
            concat!(
                r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"##,
                r"| ?[\p{P}\p{S}]+|[\r\n]|\s+(?!\S)|\s+"
            ),
            r"\p{N}",
        ],
        ..PLAIN
    },
    Words {
        names: &["youtu"],
        expressions: &[
            "[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥\u{3040}-\u{309f}\u{30a0}-\u{30ff}]+",
            cased!("(?i:'s|'t|'re|'ve|'m|'ll|'d)?", r"\p{N}"),
        ],
        whole: true,
        ..PLAIN
    },
];

impl Words {
    /// By the name that llama.cpp has for them.
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        TABLE.iter().find(|w| w.names.contains(&name))
    }

    /// All names.
    pub(super) fn names() -> Vec<&'static str> {
        let names = TABLE.iter().flat_map(|w| w.names).copied();
        names.filter(|n| !n.is_empty()).collect()
    }
}

/// Cuts text by each expression in turn, then turns bytes into the letters of a byte-level vocabulary; `space` is whether
/// text that does not begin with a space gets one.
pub(super) fn cut(expressions: &[&str], space: bool) -> tokenizers::Result<Sequence> {
    let mut steps: Vec<PreTokenizerWrapper> = Vec::new();
    for e in expressions {
        let pattern = SplitPattern::Regex((*e).into());
        steps.push(Split::new(pattern, SplitDelimiterBehavior::Isolated, false)?.into());
    }
    steps.push(ByteLevel::new(space, false, false).into());
    Ok(Sequence::new(steps))
}

#[cfg(test)]
mod tests;
