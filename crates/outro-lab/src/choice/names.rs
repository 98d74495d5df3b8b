//! Names of answers in a reply's tokens: an option's letter, an option's words, yes and no.

use super::words::{Role, Token, tokens};
use crate::task::{Gold, VOCABULARY};

/// What a name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Letter,
    Words,
    /// Yes or no.
    Reply,
}

/// A token that is no name, or all tokens of a name.
#[derive(Clone, Debug)]
pub(super) struct Item<'a> {
    pub(super) token: &'a Token,
    pub(super) role: Role,
    /// Places of the answers that it names; several where options have the same words.
    pub(super) answers: Vec<usize>,
    pub(super) form: Form,
}

/// The possible answers.
pub(super) struct Answers {
    pub(super) count: usize,
    pub(super) letters: bool,
    /// Words of an answer, with its place.
    words: Vec<(Vec<String>, usize)>,
}

const YES: &str = " yes yeah yep yup 是的 是 对 對 はい 예 네 ";
const NO: &str = " no nope nah 否 不 不是 没有 いいえ 아니요 아니오 ";

impl Answers {
    pub(super) fn of(gold: &Gold, texts: &[String]) -> Self {
        let words = |text: &str| -> Vec<String> {
            let all = tokens(text);
            let some: Vec<String> = all
                .iter()
                .filter(|t| !is_passed_over(t))
                .map(|t| t.text.clone())
                .collect();
            // An option may be `A`.
            if some.is_empty() {
                all.into_iter().map(|t| t.text).collect()
            } else {
                some
            }
        };
        let listed = |texts: &mut dyn Iterator<Item = &str>| -> Vec<(Vec<String>, usize)> {
            let all = texts.enumerate().map(|(i, t)| (words(t), i));
            all.filter(|(w, _)| !w.is_empty()).collect()
        };
        match gold {
            Gold::Letter { options, .. } => {
                let words = listed(&mut texts.iter().take(*options).map(String::as_str));
                Self {
                    count: *options,
                    letters: true,
                    words,
                }
            }
            Gold::YesNo(_) => Self {
                count: 2,
                letters: false,
                words: Vec::new(),
            },
            Gold::Word(_) => {
                let mut words = listed(&mut VOCABULARY.into_iter());
                words.retain(|(_, i)| *i > 1);
                Self {
                    count: VOCABULARY.len(),
                    letters: false,
                    words,
                }
            }
        }
    }

    pub(super) fn items<'a>(&self, tokens: &'a [Token]) -> Vec<Item<'a>> {
        let mut items = Vec::new();
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            let (len, answers, form) = self
                .in_words(tokens, at)
                .map(|(len, answers)| (len, answers, Form::Words))
                .or_else(|| Some((1, vec![self.letter(tokens, at, true)?], Form::Letter)))
                .or_else(|| Some((1, vec![self.reply(tokens, at)?], Form::Reply)))
                .unwrap_or((1, Vec::new(), Form::Words));
            items.push(Item {
                token,
                role: if answers.is_empty() {
                    token.role
                } else {
                    Role::Name
                },
                answers,
                form,
            });
            at += len;
        }
        items
    }

    /// The answers whose words begin here, the longest of all, and how many tokens they take.
    fn in_words(&self, tokens: &[Token], at: usize) -> Option<(usize, Vec<usize>)> {
        if tokens[at].hyphen && !at.checked_sub(1).is_some_and(|i| is_letter(&tokens[i])) {
            return None;
        }
        let mut best: (usize, Vec<usize>) = (0, Vec::new());
        for (words, place) in &self.words {
            let Some(len) = begins(&tokens[at..], words) else {
                continue;
            };
            // A letter is an option's letter, even where options are letters: `(C) A` names C, whose words are `A`.
            let letter = self.letters && len == 1 && is_letter(&tokens[at]);
            // Words that say how something is stated are an answer only where they are all that is said.
            let grammar = !letter && tokens[at..at + len].iter().all(|t| t.role != Role::Other);
            let compound = tokens[at + len..]
                .iter()
                .find(|t| t.text != "'s")
                .is_some_and(|t| t.hyphen);
            let unfit = (letter && !labelled(tokens, at, *place))
                || (grammar && !(stands_alone(tokens, at) && ends_at(tokens, at + len)));
            if unfit || compound {
                continue;
            }
            if len > best.0 {
                best = (len, Vec::new());
            }
            if len == best.0 {
                best.1.push(*place);
            }
        }
        (best.0 > 0).then_some(best)
    }

    /// The place of the option whose letter this is; `A` before `and` is one where `joins` and a letter follows.
    fn letter(&self, tokens: &[Token], at: usize, joins: bool) -> Option<usize> {
        let t = &tokens[at];
        let next = tokens.get(at + 1);
        let joined = next.is_some_and(|n| n.hyphen) && self.in_words(tokens, at + 1).is_none();
        if !self.letters || !is_letter(t) || t.hyphen || joined {
            return None;
        }
        let place = (t.text.as_bytes()[0] - b'a') as usize;
        let bracketed = next.is_some_and(|n| n.role == Role::Close)
            && at.checked_sub(1).is_some_and(|i| tokens[i].role == Role::Open);
        let alone = tokens
            .iter()
            .enumerate()
            .all(|(i, t)| i == at || t.role.is_mark());
        let is_letter = match t.text.as_str() {
            _ if bracketed || t.quoted || alone => true,
            "i" => self.count > place && ends_at(tokens, at + 1),
            // Before a word it is the article, unless that word can only follow a name.
            "a" => match next.map(|n| n.role) {
                None => t.capital,
                _ if t.capital && next.is_some_and(|n| !n.text.is_ascii()) => true,
                Some(
                    Role::Be | Role::May | Role::Not | Role::Right | Role::Wrong | Role::Option | Role::But,
                ) => t.capital,
                Some(_) if next.is_some_and(|n| n.role == Role::And || n.text == "to") => {
                    let passed = tokens[at + 2..]
                        .iter()
                        .take_while(|t| matches!(t.role, Role::Option | Role::Open))
                        .count();
                    let other = at + 2 + passed;
                    joins && other < tokens.len() && self.letter(tokens, other, false).is_some()
                }
                Some(role) => role.is_mark(),
            },
            _ => true,
        };
        is_letter.then_some(place)
    }

    /// Yes is 0 and no 1, where they are answers and no part of a statement.
    fn reply(&self, tokens: &[Token], at: usize) -> Option<usize> {
        let t = &tokens[at];
        let is = |list: &str| list.contains(&format!(" {} ", t.text));
        let open = t.hyphen || tokens.get(at + 1).is_some_and(|n| n.hyphen);
        if self.letters || open {
            return None;
        }
        let whole = ends_at(tokens, at + 1) && (t.text.is_ascii() || stands_alone(tokens, at));
        if is(YES) && (t.text.is_ascii() || whole) {
            Some(0)
        } else {
            (is(NO) && whole).then_some(1)
        }
    }
}

fn is_letter(t: &Token) -> bool {
    t.text.len() == 1 && t.text.as_bytes()[0].is_ascii_alphabetic()
}

/// Articles and marks do not count in an option's words.
pub(super) fn is_passed_over(t: &Token) -> bool {
    t.role.is_mark() || matches!(t.text.as_str(), "a" | "an" | "the")
}

/// How many tokens these words take, if the tokens begin with them.
fn begins(tokens: &[Token], words: &[String]) -> Option<usize> {
    let (mut at, mut found) = (0, 0);
    while found < words.len() {
        let t = tokens.get(at)?;
        if t.text == words[found] {
            found += 1;
        } else if found == 0 || !is_passed_over(t) || t.role == Role::Line {
            return None;
        }
        at += 1;
    }
    Some(at)
}

/// Whether the letter of this answer stands before a token, with a mark between them.
fn labelled(tokens: &[Token], at: usize, place: usize) -> bool {
    let marks = tokens[..at].iter().rev().take_while(|t| t.role.is_mark()).count();
    let label = (at - marks).checked_sub(1).map(|i| &tokens[i]);
    marks > 0 && label.is_some_and(|t| is_letter(t) && (t.text.as_bytes()[0] - b'a') as usize == place)
}

/// Whether nothing stands before a token in its statement, or only `the answer is`.
fn stands_alone(tokens: &[Token], at: usize) -> bool {
    let mut before = tokens[..at]
        .iter()
        .rev()
        .skip_while(|t| is_passed_over(t) && !t.role.is_mark());
    match before.next().map(|t| t.role) {
        None | Some(Role::But | Role::And) => true,
        Some(Role::Be) => before.next().is_some_and(|t| t.role == Role::Answer),
        Some(role) => role.is_mark(),
    }
}

/// Whether a statement, or a part of it, ends before this token.
fn ends_at(tokens: &[Token], at: usize) -> bool {
    tokens
        .get(at)
        .is_none_or(|t| t.role.is_mark() || matches!(t.role, Role::But | Role::And))
}
