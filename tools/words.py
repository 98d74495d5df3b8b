"""Writes fixtures/words.json: where the expressions of crates/outro/src/tokenizer/words.rs cut hard texts, by the tokenizers
library's own engine (Oniguruma) where the engine of the project is another.

    pip install tokenizers && python tools/words.py

Expressions are written out here as the models' tokenizer.json files have them.
"""

import json
from pathlib import Path

from tokenizers import Regex, pre_tokenizers

TEXTS = [
    "I'll say it's 1234567 o'clock, THEY'RE here; we'd've gone!",
    "a  b   c\t\td \n\n  e\r\nf   ",
    "Ünïcödé naïve café cafe\u0301 \u00e6sir ΑΒΓ αβγ Привет мир ЖЁЛТЫЙ",
    "你好，世界！日本語テスト、ひらがな 한국어 문장 ภาษาไทย हिन्दी",
    "x=1.5e-3; y += 42 # comment\nif (a[i] != b->c) { return `t`; } $5 <tag>^~|",
    "😀👍🏽 e\u0300\u0301 \u200b\u00a0nbsp ½ Ⅷ ٣٤٥ १२३",
    "camelCaseWord HTTPServer2 snake_case_name A1b2C3 iPhone",
    "...!!!??? -- --- //path/to/file.txt\\n 'quoted' \"double\" @user #tag",
    "\n\n\nleading and trailing\n\n",
    " ",
    "",
    "1 12 123 1234 12345 123456 3.14159 1,000,000",
    "ǅ ǆ ª º ƻ ᾈ ﬁ 𝐀𝐛 Ｆｕｌｌ　ｗｉｄｔｈ ～。、",
]
CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
QWEN2 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|" + REST
LLAMA3 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|" + REST
CJK = "[一-龥぀-ゟ゠-ヿ]+"
MARKS = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"


def cased(after, digits):
    upper, lower = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
    first = rf"[^\r\n\p{{L}}\p{{N}}]?{upper}*{lower}+{after}|[^\r\n\p{{L}}\p{{N}}]?{upper}+{lower}*{after}"
    return rf"{first}|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"


GPT4O = cased(CONTRACTIONS + "?", r"\p{N}{1,3}")
KINDS = {
    "default": [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
    "qwen2": [QWEN2],
    "deepseek-r1-qwen": [QWEN2],
    "qwen35": [CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"],
    "llama-bpe": [LLAMA3],
    "dbrx": [LLAMA3],
    "minicpm5": [r"\p{N}{1,3}", CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+|" + REST],
    "gpt-2": [GPT2],
    "olmo": [GPT2],
    "starcoder": [r"\p{N}", GPT2],
    "refact": [r"\p{N}", GPT2],
    "smollm": [r"\p{N}", GPT2],
    "falcon": [r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"],
    "deepseek-llm": ["[\r\n]", rf"\s?(?:(?![𝐀-𝟿])[\p{{Lu}}\p{{Ll}}\p{{Lt}}])+", "\\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", "[一-龥ࠀ-一가-퟿]+", r"\p{N}+"],
    "deepseek-coder": ["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}"],
    "deepseek-v3": [r"\p{N}{1,3}", CJK, MARKS + r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"],
    "tekken": [cased("", r"\p{N}")],
    "gpt-4o": [GPT4O],
    "tiny_aya": [r"\d{1,3}(?=(?:\d{3})*\b)", GPT4O],
    "bloom": [BLOOM],
    "viking": [BLOOM, r"\p{N}"],
    "chameleon": ["<sentinel:[0-9]+>", "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z", "([\\t\\n]|    |  )", r"\p{N}",
                  r"[\p{P}!-/:-@\[-`{-~]", GPT2],
    "bailingmoe": [r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"],
    "seed-coder": [CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"],
    "ufakzeka": [r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|" + REST],
    "exaone-moe": [CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?"
                   r"|\s*[\r\n]|\s+(?!\S)|\s+"],
    "jais-2": [CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
               + "".join(rf"|\s{{{n}}}(?!\S)" for n in [512, 256, 128, 64, 32, 16, 8, 4]) + r"|\s{1,2}(?!\S)|\s{1}"],
    "laguna": [r"[^\n]+|[\n]+", QWEN2],
    "spark2_5": [r"\p{N}{1,3}", CJK, MARKS + r"| ?[\p{P}\p{S}]+|[\r\n]|\s+(?!\S)|\s+", r"\p{N}"],
    "youtu": ["[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+", cased(CONTRACTIONS + "?", r"\p{N}")],
}

def pieces(expressions, text):
    steps = [pre_tokenizers.Split(Regex(e), "isolated") for e in expressions]
    return [piece for piece, _ in pre_tokenizers.Sequence(steps).pre_tokenize_str(text)]


made = {"texts": TEXTS, "pieces": {name: [pieces(e, t) for t in TEXTS] for name, e in KINDS.items()}}
lines = ",\n  ".join(f"{json.dumps(n)}: {json.dumps(rows, ensure_ascii=False)}" for n, rows in made["pieces"].items())
texts = ",\n  ".join(json.dumps(t, ensure_ascii=False) for t in TEXTS)
path = Path(__file__).parent.parent / "fixtures/words.json"
path.write_text(f'{{\n "texts": [\n  {texts}\n ],\n "pieces": {{\n  {lines}\n }}\n}}\n')
print(len(KINDS), "kinds,", len(TEXTS), "texts")
