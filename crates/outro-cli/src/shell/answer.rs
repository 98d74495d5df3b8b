//! What an answer looks like: text beside text, and JSON.

use std::fmt::Write as _;

use outro::Answer;
use outro::PromptTokens;
use outro_media::Note;
use serde::Serialize;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::sampling::Chosen;

/// One line of `--json`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Record<'a> {
    pub(crate) question: &'a str,
    pub(crate) model: String,
    /// True for the program's own demonstration model.
    pub(crate) builtin_model: bool,
    /// How weights, products, keys and values were held.
    pub(crate) weights: String,
    pub(crate) prompt_tokens: PromptTokens,
    /// How the answers' tokens were chosen.
    pub(crate) sampling: &'a Chosen,
    pub(crate) answers: Vec<Answer>,
    /// What is to be known about the media.
    pub(crate) notes: &'a [Note],
    /// Work that questions share.
    pub(crate) shared_seconds: Shared,
}

/// Seconds of the work before the first prefill; 0 where an earlier question has paid for it.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Shared {
    pub(crate) load: f64,
    pub(crate) media: f64,
    pub(crate) encode: f64,
}

/// Two answers in two columns, each as wide as `width` letters.
pub(crate) fn side_by_side(left: &Answer, right: &Answer, width: usize) -> String {
    let (a, b) = (column(left, width), column(right, width));
    let mut out = String::new();
    for i in 0..a.len().max(b.len()) {
        let l = a.get(i).map_or("", String::as_str);
        let r = b.get(i).map_or("", String::as_str);
        let pad = " ".repeat(width.saturating_sub(l.width()));
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{}", format!("{l}{pad} | {r}").trim_end());
    }
    out
}

fn column(a: &Answer, width: usize) -> Vec<String> {
    let mut lines = vec![a.strategy.clone(), "-".repeat(width)];
    lines.extend(wrap(&a.text, width));
    lines.push(String::new());
    lines.push(format!(
        "prefill {:.2} s, decode {:.2} s, {} tokens",
        a.seconds.prefill, a.seconds.decode, a.tokens
    ));
    lines.push("first token:".into());
    lines.extend(
        a.first_token_top5
            .iter()
            .map(|c| format!("  {:6.2} %  {}", c.probability * 100.0, visible(&c.text))),
    );
    lines
        .into_iter()
        .flat_map(|l| {
            if l.width() > width {
                wrap(&l, width)
            } else {
                vec![l]
            }
        })
        .collect()
}

/// A token's text with its white space and control characters shown.
fn visible(text: &str) -> String {
    format!("\"{}\"", text.escape_debug())
}

/// Spaces that a tab stands for.
const TAB: &str = "    ";

/// Breaks at spaces where possible, else at `width` columns. A line's indentation stays and is that of its continuation; lines
/// between fences of code are cut where they are full and otherwise as they are.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let (mut lines, mut code) = (Vec::new(), false);
    for line in text.lines() {
        let line: String = line.replace('\t', TAB).chars().map(shown).collect();
        let fence = ["```", "~~~"].iter().any(|f| line.trim_start().starts_with(f));
        if code || fence {
            cut(&line, width, &mut lines);
        } else {
            flow(&line, width, &mut lines);
        }
        code ^= fence;
    }
    lines
}

fn shown(c: char) -> char {
    if c.is_control() { ' ' } else { c }
}

/// Columns of a character; those of none go with the one before.
fn columns(c: char) -> usize {
    c.width().unwrap_or(0)
}

/// A line in pieces that fit.
fn cut(line: &str, width: usize, out: &mut Vec<String>) {
    let (mut piece, mut used) = (String::new(), 0);
    for c in line.chars() {
        if used + columns(c) > width && !piece.is_empty() {
            out.push(std::mem::take(&mut piece));
            used = 0;
        }
        piece.push(c);
        used += columns(c);
    }
    out.push(piece);
}

/// A line of words.
fn flow(line: &str, width: usize, out: &mut Vec<String>) {
    let words = line.trim_start_matches(' ');
    // Where hardly a word would fit beside it, an indentation is no help.
    let indent = &line[..(line.len() - words.len()).min(width / 2)];
    let mut row = indent.to_owned();
    for word in words.split(' ') {
        let empty = row.len() == indent.len();
        if !empty && row.width() + 1 + word.width() > width {
            out.push(std::mem::replace(&mut row, indent.to_owned()));
        } else if !empty {
            row.push(' ');
        }
        if row.width() + word.width() <= width {
            row.push_str(word);
            continue;
        }
        let mut pieces = Vec::new();
        cut(word, width - indent.len(), &mut pieces);
        let last = pieces.pop().unwrap_or_default();
        for piece in pieces {
            out.push(std::mem::replace(&mut row, indent.to_owned()) + &piece);
        }
        row.push_str(&last);
    }
    out.push(row);
}

#[cfg(test)]
mod tests {
    use super::*;
    use outro::engine::Candidate;

    fn answer(strategy: &str, text: &str) -> Answer {
        Answer {
            strategy: strategy.into(),
            text: text.into(),
            tokens: 3,
            first_token_top5: vec![Candidate {
                token: 1,
                text: "\n".into(),
                probability: 0.5,
            }],
            passes: 1,
            ..Answer::default()
        }
    }

    #[test]
    fn columns_align() {
        let text = side_by_side(
            &answer("baseline", "one two three four"),
            &answer("outro", "éé"),
            9,
        );
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "baseline  | outro");
        assert_eq!(lines[2], "one two   | éé");
        assert_eq!(lines[3], "three     |");
        assert!(
            lines.iter().all(|l| l.chars().position(|c| c == '|') == Some(10)),
            "{text}"
        );
    }

    #[test]
    fn wrapping_keeps_every_word() {
        assert_eq!(wrap("aaaaaaa b", 3), ["aaa", "aaa", "a b"]);
        assert_eq!(wrap("a\n\nb", 5), ["a", "", "b"]);
        for width in 1..20 {
            let text = "the quick  brown fox 🦊 jumped";
            let joined: String = wrap(text, width).concat();
            assert_eq!(joined.replace(' ', ""), text.replace(' ', ""));
            let most = width.max(2);
            assert!(wrap(text, width).iter().all(|l| l.width() <= most), "{width}");
        }
    }

    #[test]
    fn code_keeps_its_shape_and_wide_letters_align() {
        let code = "Here:\n```python\ndef f(x):\n    return  x + 1\n```\n  - a list goes on\n";
        assert_eq!(
            wrap(code, 14),
            [
                "Here:",
                "```python",
                "def f(x):",
                "    return  x ",
                "+ 1",
                "```",
                "  - a list",
                "  goes on"
            ]
        );
        assert_eq!(wrap("\tx", 9), ["    x"]);
        let text = side_by_side(&answer("baseline", "红色的三角形 是"), &answer("outro", "é"), 9);
        let bars: Vec<usize> = text.lines().map(|l| l[..l.find('|').unwrap()].width()).collect();
        assert!(bars.iter().all(|b| *b == 10), "{text}");
        assert!(text.contains("红色的三 "), "{text}");
    }
}
