//! Rules of reading replies as earlier versions and the authors' release had them, kept so that their logs can be read and
//! gone on with. Nothing here changes any more.

use super::Invalid;
use crate::task::{Gold, VOCABULARY};

/// What a reply says: `Yes`, `No`, or a letter.
///
/// Yes/no: the first whole word `yes` or `no`. Letters, in this order: the whole reply, or its first word, is a letter
/// (`B`, `B.`, `(B)`, `B: text`); `Answer: B` or `answer is B`; a single letter in brackets anywhere; the whole reply is one
/// of the options' `texts`. `A` followed by more words is an article.
///
/// # Errors
/// Why there is no answer.
pub(super) fn parse(reply: &str, gold: &Gold, texts: &[String]) -> Result<String, Invalid> {
    let reply = reply.trim();
    if reply.is_empty() {
        return Err(Invalid::Empty);
    }
    match gold {
        Gold::YesNo(_) => yes_no(reply),
        Gold::Word(_) => word(reply),
        Gold::Letter { options, .. } => {
            let letter = letter(reply).or_else(|why| option(reply, texts).ok_or(why))?;
            let place = (letter as u8).wrapping_sub(b'A') as usize;
            if place < *options {
                Ok(letter.to_string())
            } else {
                Err(Invalid::NotAnOption)
            }
        }
    }
}

/// The authors' `parse_choice`: the first of A, B, C, D with which the reply begins or that is in brackets in it, else
/// `ANSWER: X`.
pub(super) fn release(reply: &str) -> Result<String, Invalid> {
    let reply = reply.trim().to_uppercase();
    if reply.is_empty() {
        return Err(Invalid::Empty);
    }
    let said = |c: &char| {
        reply.starts_with(*c) || reply.contains(&format!("({c})")) || reply.contains(&format!("[{c}]"))
    };
    let named = || {
        let mut after = reply
            .match_indices("ANSWER:")
            .map(|(i, m)| reply[i + m.len()..].trim_start());
        after.find_map(|a| a.chars().next().filter(|c| ('A'..='D').contains(c)))
    };
    let letter = ('A'..='D').find(said).or_else(named);
    letter.map(String::from).ok_or(Invalid::NoAnswer)
}

/// The only word of the vocabulary that the reply is or holds; digits count as words, articles do not.
fn word(reply: &str) -> Result<String, Invalid> {
    let lower = reply.to_lowercase();
    let said: Vec<&str> = lower
        .split(|c: char| !c.is_alphanumeric())
        .filter(|w| !matches!(*w, "" | "a" | "an" | "the"))
        .map(|w| {
            w.parse()
                .ok()
                .and_then(|n: usize| VOCABULARY[2..13].get(n))
                .copied()
                .unwrap_or(w)
        })
        .collect();
    let known = |words: &[&str]| VOCABULARY.iter().find(|v| v.split(' ').eq(words.iter().copied()));
    let (mut found, mut at) = (Vec::new(), 0);
    while at < said.len() {
        // The longest first: `more than ten` is not ten.
        match (1..=3)
            .rev()
            .find_map(|n| Some((n, known(said.get(at..at + n)?)?)))
        {
            Some((n, word)) => {
                found.push(*word);
                at += n;
            }
            None => at += 1,
        }
    }
    found.sort_unstable();
    found.dedup();
    match found[..] {
        [one] => Ok(one.to_owned()),
        [] => Err(Invalid::NoAnswer),
        _ => Err(Invalid::Ambiguous),
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

    use super::super::Parser;
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
            assert_eq!(parse(reply, &FOUR, &texts), want.map(str::to_owned), "{reply:?}");
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
                parse(reply, &Gold::YesNo(true), &[]),
                want.map(str::to_owned),
                "{reply:?}"
            );
        }
    }

    /// The cases of the comparison of parsers, by our rules and by the release's.
    #[test]
    fn the_releases_mistakes() {
        use Invalid::{Ambiguous, Empty, NoAnswer};
        for (reply, ours, theirs) in [
            ("Because of the dog", Err(NoAnswer), Ok("B")),
            ("According to the sound", Err(NoAnswer), Ok("A")),
            ("(B)", Ok("B"), Ok("B")),
            ("b.", Ok("B"), Ok("B")),
            ("Answer: C", Ok("C"), Ok("A")),
            ("The answer: C", Ok("C"), Ok("C")),
            ("The answer is C", Ok("C"), Err(NoAnswer)),
            ("Dogs bark", Err(NoAnswer), Ok("D")),
            ("the cab", Err(NoAnswer), Err(NoAnswer)),
            ("", Err(Empty), Err(Empty)),
            ("I cannot answer that.", Err(NoAnswer), Err(NoAnswer)),
            ("It is [D]", Err(NoAnswer), Ok("D")),
            ("either (C) or (B)", Err(Ambiguous), Ok("B")),
        ] {
            for (parser, want) in [(Parser::Outro1, ours), (Parser::Release, theirs)] {
                assert_eq!(
                    parser.read(reply, &FOUR, &[]),
                    want.map(str::to_owned),
                    "{reply:?} by {}",
                    parser.name()
                );
            }
        }
        let yes = Gold::YesNo(true);
        for (reply, want) in [
            ("Well, yes", Ok("Yes")),
            ("nobody", Err(NoAnswer)),
            ("NO!", Ok("No")),
        ] {
            assert_eq!(Parser::Release.read(reply, &yes, &[]), want.map(str::to_owned));
        }
    }

    #[test]
    fn words_of_the_vocabulary() {
        for (reply, want) in [
            ("Two", Ok("two")),
            ("2.", Ok("two")),
            ("The acoustic_guitar", Ok("acoustic guitar")),
            ("more than ten", Ok("more than ten")),
            ("There are 3 violins", Ok("three")),
            ("a violin and a cello", Err(Invalid::Ambiguous)),
            ("none", Err(Invalid::NoAnswer)),
            ("99", Err(Invalid::NoAnswer)),
            ("", Err(Invalid::Empty)),
        ] {
            let gold = Gold::Word("two".into());
            assert_eq!(parse(reply, &gold, &[]), want.map(str::to_owned), "{reply:?}");
        }
    }

    proptest! {
        #[test]
        fn no_reply_breaks_it(reply in "\\PC*", options in 2usize..6) {
            let _ = parse(&reply, &Gold::YesNo(true), &[]);
            let _ = parse(&reply, &Gold::Word("two".into()), &[]);
            let _ = Parser::Release.read(&reply, &FOUR, &[]);
            if let Ok(letter) = parse(&reply, &Gold::Letter { right: 'A', options }, &[]) {
                prop_assert!(letter.len() == 1 && ((letter.as_bytes()[0] - b'A') as usize) < options);
            }
        }
    }
}
