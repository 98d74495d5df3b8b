//! A reply as tokens: what of it is the reply proper, and what part each word and mark plays in a statement of an answer.

use std::collections::HashMap;
use std::sync::LazyLock;

/// What a word or a mark does in a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// A word that says nothing about answering.
    Other,
    /// One or more answers; only `names` finds them.
    Name,
    /// `answer`, `\boxed`, 答案: what follows is the answer.
    Answer,
    /// `option`, `choice`, 选项.
    Option,
    /// A copula or an auxiliary.
    Be,
    /// The same with a doubt in it.
    May,
    /// `correct`, `best`, `fits`.
    Right,
    /// `wrong`, `unlikely`, `eliminated`.
    Wrong,
    /// Negates what follows, or the name before it.
    Not,
    /// What follows is not asserted.
    If,
    /// What was thought before, or may be thought.
    Past,
    /// Joins alternatives.
    And,
    /// Begins another clause.
    But,
    /// Pronouns, determiners, prepositions, verbs of choosing.
    Fill,
    /// May stand anywhere.
    Adverb,
    /// Takes back what was said.
    Turn,
    /// May take back what was said, if another answer follows.
    Actually,
    Comma,
    /// `.`, `;`, `!`.
    Stop,
    /// `?`.
    Ask,
    Line,
    Colon,
    Dash,
    Open,
    Close,
}

impl Role {
    /// Whether a clause ends here.
    pub(super) fn ends(self) -> bool {
        matches!(self, Self::Stop | Self::Ask | Self::Line)
    }

    /// Whether this is a mark and no word.
    pub(super) fn is_mark(self) -> bool {
        self.ends()
            || matches!(
                self,
                Self::Comma | Self::Colon | Self::Dash | Self::Open | Self::Close
            )
    }
}

/// Words by role; `_` joins words that count together.
const LEXICON: [(Role, &str); 15] = [
    (
        Role::Answer,
        "answer answers ans solution conclusion verdict prediction guess selection boxed 答案 答 正解 正答 答え 정답 답",
    ),
    (
        Role::Option,
        "option options choice choices letter letters statement 选项 選項 選択肢 선택지 보기",
    ),
    (
        Role::Be,
        "is are was were be been being am would should must will shall do does did has have equals = 's 're 'd 'll 'm 've \
         是 为 為 应 應 应该 應該 应为 應為 就是 は が です だ 은 는 이 입니다 이다",
    ),
    (
        Role::May,
        "may might could can seem seems appear appears look looks partly partially 可能",
    ),
    (
        Role::Right,
        "right correct best better true valid accurate appropriate suitable fits fit matches match describes corresponds works \
         holds yes 是的 はい 예 네 ✓ ✔ ✅ 正确 正確 对 對 最佳 正しい 맞습니다 맞다",
    ),
    (
        Role::Wrong,
        "wrong incorrect false invalid inaccurate impossible unlikely improbable eliminated excluded rejected discarded \
         ruled_out out mistaken least irrelevant unsupported ✗ ✘ ❌ × 错 错误 錯 錯誤 错的 不对 不對 不正确 不正確 間違い 틀렸습니다",
    ),
    (
        Role::Not,
        "not no nope never doubt doubtful neither none nothing cannot without except excluding besides than instead_of rather_than \
         other_than unlike exclude eliminate reject discard rule_out ruling_out hardly nowhere anything_but all_but everything_but \
         否 いいえ 아니요 아니오          不 不是 并非 非 没 没有 不能 不会 不选 ない ではない ではありません じゃない 아니다 아닙니다 아니라",
    ),
    (
        Role::If,
        "if whether unless suppose supposing between among either_way determine 如果 是否 若 还不 もし 만약",
    ),
    (
        Role::Past,
        "thought considered assumed initially originally seemed looked appeared tempting plausible possible reasonable at_first going_to may_think might_think would_think could_think",
    ),
    (
        Role::And,
        "and or & / | + vs versus nor plus then 和 或 或者 还是 還是 与 與 及 や か と 또는 그리고",
    ),
    (
        Role::But,
        "but however because since as so therefore thus hence although though while whereas yet given ではなく でなく due when \
         which where who 但 但是 而 而是 因为 因為 所以 因此 故 由于 由於 から ので",
    ),
    (
        Role::Fill,
        "the a an this that these those it its itself he she they i we you my our your their me us there here of to for in \
         on by with from at based question questions video audio clip image picture only final most \
         more very quite both either think believe say choose pick select go vote conclude suggest prefer opt take going selecting picking choosing made \
         one leaving leaves remains left_with 我 我们 认为 認為 觉得 选 選 选择 選擇 选出 的 了 最 这 那 最终 では でしょう 번",
    ),
    (
        Role::Adverb,
        "alone no_doubt clearly definitely certainly probably possibly perhaps maybe surely obviously simply just indeed really also \
         likely sure certain ok okay well hmm rather finally ultimately overall all 都 均 也 肯定 应当",
    ),
    (
        Role::Turn,
        "wait oops sorry correction scratch mistake apologies second_thought second_thoughts 等等 抱歉 更正 待って",
    ),
    (
        Role::Actually,
        "actually instead mean meant 其实 其實 实际上 實際上",
    ),
];

static ROLES: LazyLock<HashMap<&str, Role>> = LazyLock::new(|| {
    let words = LEXICON
        .iter()
        .flat_map(|(role, words)| words.split_whitespace().map(|w| (w, *role)));
    words.collect()
});

/// Most characters of a word that is written without spaces around it.
const LONGEST: usize = 8;

const NUMBERS: [&str; 13] = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
];

/// Words behind which `one` is no number.
const PRONOUN: &str = " the this that which left right middle first second last other correct each every any some same no best \
                       only wrong ";

/// Tags of thoughts, which are not the reply.
const THOUGHTS: [&str; 6] = [
    "think",
    "thinking",
    "thought",
    "reasoning",
    "analysis",
    "scratchpad",
];

/// LaTeX commands that only change how something looks.
const LATEX: [&str; 14] = [
    "text",
    "textbf",
    "textit",
    "textrm",
    "mathrm",
    "mathbf",
    "mathsf",
    "mathit",
    "mathtt",
    "boldsymbol",
    "rm",
    "bf",
    "left",
    "quad",
];

/// A word or a mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    /// In lower case, number words as digits.
    pub(super) text: String,
    pub(super) role: Role,
    /// Whether it begins with a capital letter.
    pub(super) capital: bool,
    /// Whether a hyphen joins it to the token before.
    pub(super) hyphen: bool,
    /// Whether marks of quotation or emphasis stand on both sides.
    pub(super) quoted: bool,
}

/// What of a reply is the reply: behind the thoughts, inside the only `<answer>`, without what is struck out. `None` where
/// thoughts do not end.
pub(super) fn proper(reply: &str) -> Option<String> {
    let plain: String = reply.chars().map(plain).collect();
    let lower = plain.to_ascii_lowercase();
    let mut from = 0;
    for tag in THOUGHTS {
        let close = format!("</{tag}>");
        if let Some(i) = lower.rfind(&close) {
            from = from.max(i + close.len());
        }
    }
    if THOUGHTS
        .iter()
        .any(|tag| lower[from..].contains(&format!("<{tag}>")))
    {
        return None;
    }
    let (mut said, lower) = (&plain[from..], &lower[from..]);
    if lower.matches("<answer>").count() == 1 {
        let inside = lower.find("<answer>").map_or(0, |i| i + "<answer>".len());
        let end = lower[inside..]
            .find("</answer>")
            .map_or(lower.len(), |i| inside + i);
        said = &said[inside..end];
    }
    let mut parts = said.split("~~");
    let mut kept = parts.next().unwrap_or_default().to_owned();
    // Odd parts are struck out, if they end.
    let rest: Vec<&str> = parts.collect();
    for (i, part) in rest.iter().enumerate() {
        if i % 2 == 1 || i + 1 == rest.len() {
            kept.push_str(part);
        }
    }
    Some(tagless(&kept))
}

/// Full-width and circled letters, brackets and quotation marks of other scripts as their plain forms.
fn plain(c: char) -> char {
    let shifted = |from: u32, to: char| char::from_u32(c as u32 - from + to as u32).unwrap_or(c);
    match c {
        '\u{ff01}'..='\u{ff5e}' => shifted(0xff01, '!'),
        '\u{24b6}'..='\u{24cf}' => shifted(0x24b6, 'A'),
        '\u{3000}' | '\u{a0}' => ' ',
        '。' | '｡' | '…' => '.',
        '、' => ',',
        '’' | '‘' => '\'',
        '“' | '”' | '«' | '»' => '"',
        '【' | '「' | '『' | '〔' => '(',
        '】' | '」' | '』' | '〕' => ')',
        '◁' => '<',
        '▷' => '>',
        c => c,
    }
}

/// `<answer>` becomes the word, an end of a text ends a line, and other tags go.
fn tagless(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('<') {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        let end = tag
            .char_indices()
            .take(24)
            .find(|(_, c)| *c == '>')
            .map(|(i, _)| i);
        match end.map(|end| (&tag[1..end], &tag[end + 1..])) {
            Some((name, after))
                if name.starts_with(|c: char| c.is_ascii_alphabetic() || "/|".contains(c)) =>
            {
                out.push_str(match name {
                    "answer" => " answer: ",
                    "b" | "/b" | "i" | "/i" | "em" | "/em" | "strong" | "/strong" => "*",
                    _ => "\n",
                });
                rest = after;
            }
            _ => {
                out.push('<');
                rest = &tag[1..];
            }
        }
    }
    out + rest
}

fn is_spaceless(c: char) -> bool {
    matches!(c, '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}' | '\u{ac00}'..='\u{d7af}')
}

fn is_quote(c: char) -> bool {
    matches!(
        c,
        '"' | '\'' | '*' | '`' | '_' | '#' | '$' | '{' | '}' | '\\' | '>' | '<'
    )
}

fn mark(c: char) -> Option<Role> {
    Some(match c {
        '.' | ';' | '!' => Role::Stop,
        '?' => Role::Ask,
        ',' => Role::Comma,
        ':' | '→' | '⇒' | '⟹' => Role::Colon,
        '-' | '–' | '—' => Role::Dash,
        '(' | '[' => Role::Open,
        ')' | ']' => Role::Close,
        '\n' => Role::Line,
        _ => return None,
    })
}

/// The words and marks of a text. Marks of quotation and emphasis, and symbols without a role, are left out.
pub(super) fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let mut out: Vec<Token> = Vec::new();
    let (mut at, mut hyphen, mut open) = (0, false, 0_usize);
    while at < chars.len() {
        let c = chars[at];
        let before = at.checked_sub(1).map(|i| chars[i]);
        let next = chars.get(at + 1).copied();
        let inside = before.is_some_and(char::is_alphanumeric) && next.is_some_and(char::is_alphanumeric);
        let arrow = matches!(c, '-' | '=') && next == Some('>');
        if c == '\\' {
            at += 1 + latex(&chars[at + 1..], &mut out);
        } else if arrow {
            push(&mut out, "->", Role::Colon, false);
            at += 2;
        } else if matches!(c, '-' | '–' | '_') && inside {
            // Between two letters it is a range or an alternative, else a compound word.
            let alone = |i: Option<usize>| i.and_then(|i| chars.get(i)).is_none_or(|c| !c.is_alphanumeric());
            if c != '_' && alone(at.checked_sub(2)) && alone(Some(at + 2)) {
                push(&mut out, "-", Role::And, false);
            } else {
                hyphen = true;
            }
            at += 1;
        } else if is_spaceless(c) {
            let word = |n: usize| chars[at..(at + n).min(chars.len())].iter().collect::<String>();
            let known = (1..=LONGEST)
                .rev()
                .map(word)
                .find(|w| ROLES.contains_key(w.as_str()));
            let word = known.unwrap_or_else(|| c.to_string());
            at += word.chars().count();
            push(&mut out, &word, role(&word), false);
        } else if c.is_alphanumeric() {
            let len = word_len(&chars[at..]);
            let word: String = chars[at..at + len].iter().collect();
            let quoted = before.is_some_and(is_quote) && chars.get(at + len).copied().is_some_and(is_quote);
            push_word(&mut out, &word, hyphen, quoted);
            hyphen = false;
            at += len;
        } else {
            let sign = c.to_string();
            let mut role = mark(c).or_else(|| ROLES.get(sign.as_str()).copied());
            match role {
                Some(Role::Open) => open += 1,
                // `B) dog` is `B: dog`.
                Some(Role::Close) if open == 0 => role = Some(Role::Colon),
                Some(Role::Close) => open -= 1,
                _ => {}
            }
            match role {
                // `...` is one stop, an empty line one line.
                Some(role) if !(role.ends() && out.last().is_some_and(|t| t.role == role)) => {
                    push(&mut out, &sign, role, false);
                }
                _ => {}
            }
            at += 1;
        }
    }
    out
}

/// How long the word is that begins here: `isn't`, `1.5`, `1,000`, `U.S` are one.
fn word_len(chars: &[char]) -> usize {
    let mut len = 1;
    while let Some(c) = chars.get(len) {
        let pair = chars.get(len + 1).map(|next| (chars[len - 1], *next));
        let digits = pair.is_some_and(|(a, b)| a.is_ascii_digit() && b.is_ascii_digit());
        let letters = pair.is_some_and(|(a, b)| a.is_alphabetic() && b.is_alphabetic());
        let single = |i: usize| chars.get(i).is_none_or(|c| !c.is_alphanumeric());
        let thousands =
            (1..4).all(|i| chars.get(len + i).is_some_and(char::is_ascii_digit)) && single(len + 4);
        let joins = match c {
            '\'' => letters,
            '.' => digits || (letters && single(len + 2) && (len == 1 || chars[len - 2] == '.')),
            ':' => digits,
            ',' => digits && thousands,
            c => c.is_alphanumeric() && !is_spaceless(*c),
        };
        if !joins {
            break;
        }
        len += 1;
    }
    len
}

/// A LaTeX command behind its backslash: how many characters it takes.
fn latex(rest: &[char], out: &mut Vec<Token>) -> usize {
    let name: String = rest.iter().take_while(|c| c.is_ascii_alphabetic()).collect();
    match name.as_str() {
        "boxed" | "fbox" => push(out, "boxed", Role::Answer, false),
        _ if LATEX.contains(&name.as_str()) => {}
        // A line end as programs write it, `\nB`.
        _ if name.starts_with('n') => {
            push(out, "\n", Role::Line, false);
            return 1;
        }
        _ => return 0,
    }
    name.len()
}

fn role(word: &str) -> Role {
    ROLES.get(word).copied().unwrap_or(Role::Other)
}

fn push(out: &mut Vec<Token>, text: &str, role: Role, capital: bool) {
    out.push(Token {
        text: text.into(),
        role,
        capital,
        hyphen: false,
        quoted: false,
    });
}

fn push_word(out: &mut Vec<Token>, word: &str, hyphen: bool, quoted: bool) {
    let lower = word.to_lowercase();
    let capital = word.starts_with(char::is_uppercase);
    let tails = ["'s", "'re", "'d", "'ll", "'m", "'ve"];
    if let Some((stem, tail)) = tails.iter().find_map(|t| Some((lower.strip_suffix(t)?, t))) {
        let stem_len = stem.chars().count();
        let stem: String = word.chars().take(stem_len).collect();
        push_word(out, &stem, hyphen, quoted);
        push(out, tail, Role::Be, false);
        return;
    }
    let last = out.last().map_or("", |t| t.text.as_str());
    let pair = format!("{last}_{lower}");
    if let Some(role) = ROLES.get(pair.as_str()) {
        if let Some(t) = out.last_mut() {
            (t.text, t.role) = (pair, *role);
        }
        return;
    }
    let digits: String = lower.chars().filter(|c| *c != ',').collect();
    let number = NUMBERS.iter().position(|n| *n == lower);
    let text = match number {
        Some(1) if PRONOUN.contains(&format!(" {last} ")) => lower.clone(),
        Some(n) => n.to_string(),
        None if digits.parse::<f64>().is_ok() && digits.starts_with(|c: char| c.is_ascii_digit()) => digits,
        None => lower.clone(),
    };
    let role = if lower.ends_with("n't") {
        Role::Not
    } else {
        role(&lower)
    };
    out.push(Token {
        text,
        role,
        capital,
        hyphen,
        quoted,
    });
}
