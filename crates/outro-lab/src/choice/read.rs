//! `outro-2`: what a reply says, read as statements about answers.
//!
//! 1. The reply proper is taken: behind the thoughts, inside `<answer>`.
//! 2. *Names* of answers are found in its tokens: an option's words (the longest that fit), an option's letter (not the article
//!    `A`, not the pronoun `I`), `yes` and `no` (not `no dog`).
//! 3. Names joined by `or`, `and`, commas or slashes are one *group*; one of three or more answers, or of all, repeats the
//!    question, as do options one after the other with their letters.
//! 4. What stands left and right of a group says how it is stated ([`Certainty`]): marked (`answer: B`, `B is correct`), said (`it is
//!    B`, `B.`), named in passing, or denied (`not B`, `B is wrong`). What is asked, supposed or was thought before is not stated.
//! 5. Behind a correction (`wait`, `no,`, `actually`) only what follows counts. Of the rest the strongest kind decides, and only
//!    if it is of one mind. A name in passing must be in the last sentence: before it, it is on the way to an answer.

use std::collections::{BTreeMap, BTreeSet};

use super::Invalid;
use super::names::{Answers, Form, Item, is_passed_over};
use super::words::{Role, proper, tokens};
use crate::task::{Gold, VOCABULARY};

/// How an answer is stated, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Certainty {
    Denied,
    InPassing,
    Plain,
    Marked,
}

/// Names that stand together.
#[derive(Debug)]
struct Group {
    first: usize,
    last: usize,
    answers: BTreeSet<usize>,
}

/// A statement: where, of which answers, and how.
struct Statement {
    at: usize,
    answers: BTreeSet<usize>,
    certainty: Certainty,
}

/// Of a longer reply only the end is read, in characters.
const LONGEST: usize = 16_384;

/// What a reply says: `Yes`, `No`, a letter, or a word of the vocabulary.
///
/// # Errors
/// Why there is no answer.
pub(super) fn read(reply: &str, gold: &Gold, texts: &[String]) -> Result<String, Invalid> {
    if reply.trim().is_empty() {
        return Err(Invalid::Empty);
    }
    let reply = proper(reply).ok_or(Invalid::NoAnswer)?;
    let start = reply.char_indices().nth_back(LONGEST - 1).map_or(0, |(i, _)| i);
    let tokens = tokens(&reply[start..]);
    let answers = Answers::of(gold, texts);
    let items = answers.items(&tokens);
    let place = decide(&items, &answers)?;
    if place >= answers.count {
        return Err(Invalid::NotAnOption);
    }
    match gold {
        Gold::Letter { .. } => Ok(char::from(b'A' + place as u8).to_string()),
        Gold::YesNo(_) if place == 0 && there_is_no(&items) => Err(Invalid::Ambiguous),
        Gold::YesNo(_) => Ok(["Yes", "No"][place.min(1)].into()),
        Gold::Word(_) => Ok(VOCABULARY[place].into()),
    }
}

/// `there is no`: beside a yes it is a contradiction, alone it may mean either.
fn there_is_no(items: &[Item]) -> bool {
    let texts = |w: &[Item]| w[0].token.text == "there" && w[1].role == Role::Be && w[2].token.text == "no";
    items.windows(3).any(texts)
}

/// The place of the one answer that is stated.
fn decide(items: &[Item], answers: &Answers) -> Result<usize, Invalid> {
    let groups = groups(items);
    let mut repeated = listed(items);
    let mut statements = Vec::new();
    let mut consumed = BTreeSet::new();
    for group in &groups {
        let is_question =
            group.answers.len() > 2 || (group.answers.len() > 1 && group.answers.len() == answers.count);
        let certainty = stated(items, group, &mut consumed);
        let in_list = repeated.contains(&group.first)
            && certainty.is_none_or(|s| s < Certainty::Marked && s > Certainty::Denied);
        if is_question {
            repeated.insert(group.first);
        }
        if let Some(certainty) = certainty.filter(|_| !is_question && !in_list) {
            statements.push(Statement {
                at: group.first,
                answers: group.answers.clone(),
                certainty,
            });
        }
    }
    let none = if repeated.is_empty() {
        Invalid::NoAnswer
    } else {
        Invalid::Ambiguous
    };
    // From the last correction on; a weak one counts only if an answer is said behind it.
    let mut turns = turns(items, &consumed, answers.letters);
    turns.insert(0, true);
    let mut end = usize::MAX;
    for (start, strong) in turns.iter().rev() {
        let part: Vec<&Statement> = statements
            .iter()
            .filter(|s| s.at >= *start && s.at < end)
            .collect();
        let certainty = part.iter().map(|s| s.certainty).max();
        if *strong || certainty >= Some(Certainty::Plain) {
            return one(items, &part).ok_or(none)?;
        }
        end = end.max(*start);
    }
    Err(none)
}

/// The answer on which the strongest statements agree.
fn one(items: &[Item], part: &[&Statement]) -> Option<Result<usize, Invalid>> {
    let denied = |s: &Statement| {
        let mut later = part
            .iter()
            .filter(|d| d.certainty == Certainty::Denied && d.at > s.at);
        later.any(|d| s.answers.is_subset(&d.answers))
    };
    let stated: Vec<_> = part
        .iter()
        .filter(|s| s.certainty > Certainty::Denied && !denied(s))
        .collect();
    let certainty = stated.iter().map(|s| s.certainty).max()?;
    let strongest = || stated.iter().filter(|s| s.certainty == certainty);
    let all: BTreeSet<usize> = strongest().flat_map(|s| s.answers.iter().copied()).collect();
    let last = last_sentence(items);
    if certainty == Certainty::InPassing && !strongest().any(|s| s.at >= last) {
        return None;
    }
    let mut all = all.into_iter();
    Some(match (all.next(), all.next()) {
        (Some(place), None) => Ok(place),
        _ => Err(Invalid::Ambiguous),
    })
}

/// Where the last sentence begins that has a word in it.
fn last_sentence(items: &[Item]) -> usize {
    let end = items.iter().rposition(|i| !i.role.is_mark()).unwrap_or(0);
    items[..end]
        .iter()
        .rposition(|i| i.role.ends())
        .map_or(0, |i| i + 1)
}

/// Names that stand together, in their order.
fn groups(items: &[Item]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (at, item) in items.iter().enumerate().filter(|(_, i)| i.role == Role::Name) {
        let joined = groups.last().is_some_and(|g| joined(items, g.last, at));
        match groups.last_mut().filter(|_| joined) {
            Some(group) => {
                group.last = at;
                group.answers.extend(&item.answers);
            }
            None => groups.push(Group {
                first: at,
                last: at,
                answers: item.answers.iter().copied().collect(),
            }),
        }
    }
    groups
}

/// Whether two names, one after the other, stand together.
fn joined(items: &[Item], a: usize, b: usize) -> bool {
    let between = &items[a + 1..b];
    let only = |roles: &[Role]| between.iter().all(|i| roles.contains(&i.role));
    let next = items.get(b + 1).map(|i| (i.role, i.token.text.as_str()));
    let closed = next.is_none_or(|(role, word)| {
        role.is_mark() || matches!(role, Role::And | Role::Name | Role::But) || matches!(word, "are" | "were")
    });
    if only(&[Role::Open, Role::Close, Role::Option]) || is_label(items, a, b) {
        return true;
    }
    let range = |i: &Item| matches!(i.token.text.as_str(), "to" | "through");
    if between.len() == 1 && range(&between[0]) {
        return true;
    }
    if !only(&[
        Role::And,
        Role::Comma,
        Role::Open,
        Role::Close,
        Role::Option,
        Role::Fill,
        Role::Adverb,
    ]) {
        return false;
    }
    let has = |role: Role| between.iter().any(|i| i.role == role);
    if has(Role::And) {
        // `it is B and A is wrong` are two statements.
        let begins = items[..a].last().is_none_or(|i| i.role.is_mark());
        return begins || !matches!(next, Some((_, "is")));
    }
    has(Role::Comma)
        && closed
        && between
            .iter()
            .all(|i| i.role != Role::Fill || is_passed_over(i.token))
}

/// Whether a letter labels the option's words behind it, `B. dog`; or, which contradicts itself, another option's.
fn is_label(items: &[Item], letter: usize, words: usize) -> bool {
    let marks = &items[letter + 1..words];
    let label = items[letter].form == Form::Letter && items[words].form == Form::Words;
    let marked = marks
        .iter()
        .all(|i| i.role != Role::Line && is_passed_over(i.token));
    let own = items[words].answers.contains(&items[letter].answers[0]);
    let next = items.get(words + 1).map(|i| i.role);
    let denied = items[..letter]
        .iter()
        .rev()
        .find(|i| i.role != Role::Option)
        .is_some_and(|i| i.role == Role::Not);
    label && marked && !denied && marks.len() < 4 && (own || next.is_none_or(|r| r.ends() || r == Role::Name))
}

/// Letters of options that are repeated one after the other, `A. cat B. dog`.
fn listed(items: &[Item]) -> BTreeSet<usize> {
    let names: Vec<usize> = (0..items.len())
        .filter(|i| items[*i].role == Role::Name)
        .collect();
    let labels = names.windows(2).filter(|w| is_label(items, w[0], w[1]));
    let labels: Vec<(usize, usize)> = labels.map(|w| (w[0], w[1])).collect();
    let follows = |a: &(usize, usize), b: &(usize, usize)| {
        let between = a.1 + 1..b.0;
        items[b.0].answers[0] == items[a.0].answers[0] + 1 && items[between].iter().all(|i| i.role.is_mark())
    };
    let pairs = labels.windows(2).filter(|w| follows(&w[0], &w[1]));
    pairs.flat_map(|w| [w[0].0, w[1].0]).collect()
}

/// How a group is stated; `None` where it is not. Verdicts on it are `consumed`: they correct nothing.
fn stated(items: &[Item], group: &Group, consumed: &mut BTreeSet<usize>) -> Option<Certainty> {
    let first = &items[group.first];
    let letters = first.form == Form::Letter;
    let left = left(items, group.first);
    let verdict = verdict(items, group.last + 1, consumed);
    let ends = items[group.last..].iter().find(|i| i.role.ends());
    if left.denied || verdict == Some(Certainty::Denied) {
        return Some(Certainty::Denied);
    }
    if left.supposed || ends.is_some_and(|i| i.role == Role::Ask) {
        return None;
    }
    let next = |at: usize| items.get(at).map(|i| i.role);
    let labelled = group.last > group.first && next(group.first + 1).is_some_and(Role::is_mark);
    let closed = match first.form {
        Form::Letter => labelled || !goes_on(items, group.last + 1),
        Form::Words => {
            next(group.last + 1).is_none_or(|r| r.is_mark() || matches!(r, Role::But | Role::Right))
        }
        Form::Reply => true,
    };
    if left.marked && closed {
        return Some(Certainty::Marked);
    }
    match verdict {
        Some(certainty) => return Some(certainty),
        None if left.begins && closed => return Some(Certainty::Plain),
        None => {}
    }
    let bracketed = group.first > 0
        && next(group.first - 1) == Some(Role::Open)
        && next(group.first + 1) == Some(Role::Close);
    let shown = !letters || bracketed || first.token.quoted || ((left.option || left.be) && closed);
    (shown && is_plain(items, group)).then_some(Certainty::InPassing)
}

/// Whether a letter is the beginning of something else: `C major`, `B is for bird`.
fn goes_on(items: &[Item], at: usize) -> bool {
    let small = |i: &&Item| matches!(i.role, Role::Be | Role::May | Role::Fill | Role::Adverb);
    let is = items
        .get(at)
        .is_some_and(|i| matches!(i.role, Role::Be | Role::May));
    let skipped = if is {
        items[at..].iter().take_while(small).count()
    } else {
        0
    };
    items
        .get(at + skipped)
        .is_some_and(|i| matches!(i.role, Role::Other | Role::Name))
}

/// What stands left of a name.
#[derive(Default)]
struct Left {
    /// The word for an answer.
    marked: bool,
    /// Nothing, from the beginning of a statement on.
    begins: bool,
    option: bool,
    be: bool,
    denied: bool,
    supposed: bool,
}

fn left(items: &[Item], at: usize) -> Left {
    let mut left = Left::default();
    let mut i = at;
    while i > 0 {
        i -= 1;
        match items[i].role {
            Role::Answer => left.marked = true,
            Role::Option => left.option = true,
            Role::Be | Role::May => left.be = true,
            Role::Fill | Role::Adverb | Role::Right | Role::Open | Role::Close => {}
            // Behind these only the word for an answer matters.
            Role::Colon | Role::Dash | Role::Line if !left.marked => left.begins = true,
            // `A) no B) yes`: the verdict on the option before.
            Role::Not if i > 0 && items[i - 1].role == Role::Colon && labels(items, at) => left.begins = true,
            Role::Not if left.begins && !left.marked => return left,
            Role::Not => {
                left.denied = true;
                return left;
            }
            Role::If | Role::Past => {
                left.supposed = !left.begins || left.marked;
                return left;
            }
            // `the answer, therefore, is B`
            Role::Comma if !left.begins && aside(items, i).is_some() => i = aside(items, i).unwrap_or(i),
            Role::And if items[i].token.text == "nor" => {
                left.denied = true;
                return left;
            }
            Role::Wrong => {
                // `Wrong: A`
                left.denied = items[i + 1..at].iter().any(|i| i.role == Role::Colon);
                return left;
            }
            Role::Other | Role::Name => return left,
            _ => break,
        }
    }
    left.begins = true;
    left
}

/// The comma before this one, if only a few small words are between them.
fn aside(items: &[Item], comma: usize) -> Option<usize> {
    let small = |r: Role| matches!(r, Role::Fill | Role::Adverb | Role::But);
    let before = items[..comma].iter().rposition(|i| !small(i.role))?;
    (before + 1 < comma && items[before].role == Role::Comma).then_some(before)
}

/// What is said of the names before: that they are right, or wrong.
fn verdict(items: &[Item], from: usize, consumed: &mut BTreeSet<usize>) -> Option<Certainty> {
    let (mut be, mut may, mut right, mut wrong, mut not) = (false, false, false, false, Vec::new());
    let mut at = from;
    while let Some(item) = items.get(at) {
        match item.role {
            Role::Be => be = true,
            Role::May => (be, may) = (true, true),
            Role::Right => right = true,
            Role::Answer if be => right = true,
            Role::Wrong => {
                wrong = true;
                consumed.insert(at);
            }
            Role::Fill if be => {}
            Role::Adverb | Role::Close | Role::Option => {}
            // `A - no`, `B: correct`
            Role::Colon | Role::Dash if !be && is_short_verdict(items, at + 1) => {}
            Role::Not if names_next(items, at + 1) => break,
            Role::Not => not.push(at),
            // `A is possible`, and so it is not said.
            Role::Past if be => return Some(Certainty::InPassing),
            _ => break,
        }
        at += 1;
    }
    let denied = wrong != (not.len() % 2 == 1);
    consumed.extend(not);
    match (denied, right) {
        (true, _) => Some(Certainty::Denied),
        (false, true) if !wrong => Some(if may { Certainty::Plain } else { Certainty::Marked }),
        _ => None,
    }
}

/// Whether what follows is no more than `correct` or `not right`.
fn is_short_verdict(items: &[Item], at: usize) -> bool {
    let verdict = |i: &&Item| matches!(i.role, Role::Right | Role::Wrong | Role::Not);
    let len = items[at..].iter().take_while(verdict).count();
    let ends = |i: &Item| i.role.is_mark() || i.role == Role::But;
    len > 0 && (items.get(at + len).is_none_or(ends) || labels(items, at + len))
}

/// Whether this is a letter with a colon or bracket behind it.
fn labels(items: &[Item], at: usize) -> bool {
    items[at].form == Form::Letter && items.get(at + 1).is_some_and(|i| i.role == Role::Colon)
}

/// Whether a negation here is of a name behind it.
fn names_next(items: &[Item], at: usize) -> bool {
    let small = |i: &&Item| {
        matches!(
            i.role,
            Role::Fill | Role::Option | Role::Open | Role::Right | Role::Answer
        )
    };
    let next = items[at..].iter().position(|i| !small(&i)).map(|i| at + i);
    next.is_some_and(|i| items[i].role == Role::Name && !(i == at && labels(items, i)))
}

/// Whether a clause has no word that could turn a name in it into something else.
fn is_plain(items: &[Item], group: &Group) -> bool {
    let ends =
        |i: &Item| i.role.ends() || matches!(i.role, Role::Comma | Role::But | Role::Colon | Role::And);
    let from = items[..group.first].iter().rposition(ends).map_or(0, |i| i + 1);
    let to = items[group.last..]
        .iter()
        .position(ends)
        .map_or(items.len(), |i| group.last + i);
    let sentence = items[..from]
        .iter()
        .rposition(|i| i.role.ends())
        .map_or(0, |i| i + 1);
    let bad = |i: &Item| matches!(i.role, Role::Not | Role::Wrong | Role::Past);
    // `A is a dog`
    let other = |i: &Item| i.form == Form::Letter && !i.answers.iter().all(|a| group.answers.contains(a));
    !items[from..to].iter().any(|i| bad(i) || other(i))
        && items[sentence..to].iter().all(|i| i.role != Role::If)
}

/// Where corrections are, and whether they take back what was said even if nothing follows.
fn turns(items: &[Item], consumed: &BTreeSet<usize>, letters: bool) -> BTreeMap<usize, bool> {
    let mut turns = BTreeMap::new();
    let mut start = 0;
    for end in 0..=items.len() {
        let ends = |i: &Item| i.role.is_mark() || i.role == Role::But;
        if items.get(end).is_none_or(ends) {
            let part = &items[start..end];
            if !(start..end).any(|i| consumed.contains(&i)) && takes_back(part, letters) {
                turns.insert(start, true);
            }
            start = end + 1;
        }
        let Some(item) = items.get(end) else { break };
        let last_word = matches!(item.token.text.as_str(), "final" | "最终")
            && items.get(end + 1).is_some_and(|i| i.role == Role::Answer);
        if item.role == Role::Actually || last_word {
            turns.entry(end).or_insert(false);
        }
    }
    turns
}

/// `wait`, `no`, `that is wrong`: a clause that does nothing but take back.
fn takes_back(part: &[Item], letters: bool) -> bool {
    let has = |role: Role| part.iter().filter(|i| i.role == role).count();
    let small = |i: &Item| {
        let verdict = matches!(
            i.role,
            Role::Not | Role::Wrong | Role::Right | Role::Option | Role::Answer | Role::Turn
        );
        verdict || matches!(i.role, Role::Fill | Role::Be | Role::May)
    };
    let Some(first) = part.first().filter(|_| part.iter().all(small)) else {
        return false;
    };
    let negative = (has(Role::Wrong) > 0) != (has(Role::Not) % 2 == 1);
    let about = has(Role::Wrong) + has(Role::Right) + has(Role::Answer) > 0;
    has(Role::Turn) > 0 || (negative && (about || (letters && first.role == Role::Not)))
}
