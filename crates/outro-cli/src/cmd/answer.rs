//! What an answer looks like: text beside text, and JSON.

use std::fmt::Write as _;

use outro::Answer;
use outro::engine::PromptTokens;
use outro_media::Note;
use serde::Serialize;

use super::sampling::Chosen;

/// One line of `--json`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Record<'a> {
    pub(crate) question: &'a str,
    pub(crate) model: String,
    /// True for the program's own demonstration model.
    pub(crate) builtin_model: bool,
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

/// Two answers in two columns of `width` characters each.
pub(crate) fn side_by_side(left: &Answer, right: &Answer, width: usize) -> String {
    let (a, b) = (column(left, width), column(right, width));
    let mut out = String::new();
    for i in 0..a.len().max(b.len()) {
        let l = a.get(i).map_or("", String::as_str);
        let r = b.get(i).map_or("", String::as_str);
        let pad = " ".repeat(width.saturating_sub(l.chars().count()));
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
            if l.chars().count() > width {
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

/// Breaks at spaces where possible, at `width` characters otherwise.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let mut lines = Vec::new();
    for paragraph in text.lines() {
        let mut line = String::new();
        let mut used = 0;
        for word in paragraph.split(' ') {
            let mut word: Vec<char> = word
                .chars()
                .map(|c| if c.is_control() { ' ' } else { c })
                .collect();
            if used > 0 && used + 1 + word.len() > width {
                lines.push(std::mem::take(&mut line));
                used = 0;
            }
            if used > 0 {
                line.push(' ');
                used += 1;
            }
            while used + word.len() > width {
                let rest = word.split_off(width - used);
                line.extend(word);
                lines.push(std::mem::take(&mut line));
                (used, word) = (0, rest);
            }
            used += word.len();
            line.extend(word);
        }
        lines.push(line);
    }
    lines
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
            assert!(wrap(text, width).iter().all(|l| l.chars().count() <= width));
        }
    }
}
