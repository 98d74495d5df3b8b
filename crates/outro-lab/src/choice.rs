//! THE answer parser. It never guesses: a reply that does not say which answer it means is invalid, with the reason.

use serde::{Deserialize, Serialize};

use crate::task::Gold;

/// Name and version of the rules below; part of a run's identity.
pub const PARSER: &str = "outro-1";

/// Why a reply is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Invalid {
    /// Nothing but white space.
    Empty,
    /// No answer is in it.
    NoAnswer,
    /// It names more than one answer.
    Ambiguous,
    /// The letter is not one of the options.
    NotAnOption,
}

/// What a reply says: `Yes`, `No`, or a letter.
///
/// Yes/no: the first whole word `yes` or `no`. Letters, in this order: the whole reply, or its first word, is a letter
/// (`B`, `B.`, `(B)`, `B: text`); `Answer: B` or `answer is B`; a single letter in brackets anywhere; the whole reply is one
/// of the options' `texts`. `A` followed by more words is an article.
///
/// # Errors
/// Why there is no answer.
pub fn parse(reply: &str, gold: Gold, texts: &[String]) -> Result<String, Invalid> {
    let reply = reply.trim();
    if reply.is_empty() {
        return Err(Invalid::Empty);
    }
    match gold {
        Gold::YesNo(_) => yes_no(reply),
        Gold::Letter { options, .. } => {
            let letter = letter(reply).or_else(|why| option(reply, texts).ok_or(why))?;
            let place = (letter as u8).wrapping_sub(b'A') as usize;
            if place < options {
                Ok(letter.to_string())
            } else {
                Err(Invalid::NotAnOption)
            }
        }
    }
}

/// Whether a parsed answer is the right one.
pub fn is_right(parsed: &str, gold: Gold) -> bool {
    match gold {
        Gold::YesNo(yes) => parsed == if yes { "Yes" } else { "No" },
        Gold::Letter { right, .. } => parsed.starts_with(right),
    }
}

fn yes_no(reply: &str) -> Result<String, Invalid> {
    let words = reply.split(|c: char| !c.is_alphanumeric());
    for word in words {
        if word.eq_ignore_ascii_case("yes") {
            return Ok("Yes".into());
        }
        if word.eq_ignore_ascii_case("no") {
            return Ok("No".into());
        }
    }
    Err(Invalid::NoAnswer)
}

fn letter(reply: &str) -> Result<char, Invalid> {
    let single = |word: &str| -> Option<char> {
        let bare = word.trim_matches(|c: char| !c.is_alphanumeric());
        let mut chars = bare.chars();
        let c = chars.next().filter(char::is_ascii_alphabetic)?;
        chars.next().is_none().then(|| c.to_ascii_uppercase())
    };
    let mut words = reply.split_whitespace();
    let first = words.next().unwrap_or_default();
    let rest = words.next();
    // A bare lower-case or capital word `a` before others is an article; `A.` and `(A)` are not.
    let marked = first.chars().any(|c| !c.is_alphanumeric());
    if let Some(c) = single(first).filter(|c| marked || rest.is_none() || !matches!(c, 'A' | 'I')) {
        return Ok(c);
    }
    if let Some((letter, text)) = first.split_once(['.', ')', ':']).filter(|(l, _)| l.len() <= 2)
        && let Some(c) = single(letter).filter(|_| !text.is_empty())
    {
        return Ok(c);
    }
    let lower = reply.to_ascii_lowercase();
    for phrase in ["answer:", "answer is", "option"] {
        // ASCII lower-casing keeps byte positions.
        let after = lower.find(phrase).map(|i| &reply[i + phrase.len()..]);
        if let Some(c) = after.and_then(|a| single(a.split_whitespace().next()?)) {
            return Ok(c);
        }
    }
    let mut bracketed: Vec<char> = reply
        .match_indices('(')
        .filter_map(|(i, _)| {
            let inner = reply[i + 1..].split(')').next()?;
            single(inner).filter(|_| inner.trim().len() == 1)
        })
        .collect();
    bracketed.sort_unstable();
    bracketed.dedup();
    match bracketed[..] {
        [c] => Ok(c),
        [] => Err(Invalid::NoAnswer),
        _ => Err(Invalid::Ambiguous),
    }
}

/// The letter of the only option whose text the reply is, but for case and marks around it.
fn option(reply: &str, texts: &[String]) -> Option<char> {
    let bare = |s: &str| s.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase();
    let said = bare(reply);
    let mut same = texts.iter().zip('A'..='Z').filter(|(t, _)| bare(t) == said);
    let (_, letter) = same.next().filter(|_| !said.is_empty())?;
    same.next().is_none().then_some(letter)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FOUR: Gold = Gold::Letter {
        right: 'A',
        options: 4,
    };

    #[test]
    fn replies() {
        let texts = ["red circle", "Blue square.", "a dog", "a dog"].map(str::to_owned);
        for (reply, want) in [
            ("B", Ok("B")),
            (" b\n", Ok("B")),
            ("B.", Ok("B")),
            ("(C) the dog", Ok("C")),
            ("D: a red circle", Ok("D")),
            ("B. red", Ok("B")),
            ("B.red", Ok("B")),
            ("A", Ok("A")),
            ("A. dog", Ok("A")),
            ("A dog barks", Err(Invalid::NoAnswer)),
            ("a", Ok("A")),
            ("I think (B) is right", Ok("B")),
            ("I think (B) or (C)", Err(Invalid::Ambiguous)),
            ("Answer: D", Ok("D")),
            ("The correct answer is C.", Ok("C")),
            ("Because it is late", Err(Invalid::NoAnswer)),
            ("According to the sound", Err(Invalid::NoAnswer)),
            ("E", Err(Invalid::NotAnOption)),
            ("", Err(Invalid::Empty)),
            (" \n ", Err(Invalid::Empty)),
            ("3", Err(Invalid::NoAnswer)),
            ("red circle", Ok("A")),
            ("The red circle", Err(Invalid::NoAnswer)),
            (" blue square ", Ok("B")),
            ("a dog", Err(Invalid::NoAnswer)),
            ("...", Err(Invalid::NoAnswer)),
            ("Réponse", Err(Invalid::NoAnswer)),
        ] {
            assert_eq!(parse(reply, FOUR, &texts), want.map(str::to_owned), "{reply:?}");
        }
        for (reply, want) in [
            ("Yes", Ok("Yes")),
            ("no.", Ok("No")),
            ("Yes, there is no dog", Ok("Yes")),
            ("Nothing is known", Err(Invalid::NoAnswer)),
            ("YES", Ok("Yes")),
            ("eyes", Err(Invalid::NoAnswer)),
        ] {
            assert_eq!(
                parse(reply, Gold::YesNo(true), &[]),
                want.map(str::to_owned),
                "{reply:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_reply_breaks_it(reply in "\\PC*", options in 2usize..6) {
            let _ = parse(&reply, Gold::YesNo(true), &[]);
            if let Ok(letter) = parse(&reply, Gold::Letter { right: 'A', options }, &[]) {
                prop_assert!(letter.len() == 1 && ((letter.as_bytes()[0] - b'A') as usize) < options);
            }
        }
    }
}
