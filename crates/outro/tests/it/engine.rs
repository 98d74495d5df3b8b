//! The engine: requests together and alone, conversations, stop strings, cancellation.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::LazyLock;

use outro::chat::{Conversation, MediaFile, Part, Role, Turn};
use outro::engine::{Ends, Finish};
use outro::generate::Sampling;
use outro::prepare::MediaOptions;
use outro::{Answer, Ask, Batch, Cancel, Engine, EngineOptions, Error, MediaSet, Update, answer_all};

const QUESTION: &str = "What do you see and hear?";

fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

static ENGINE: LazyLock<Engine> =
    LazyLock::new(|| Engine::open(root().join("models/outro-tiny"), EngineOptions::default()).unwrap());

static MEDIA: LazyLock<MediaSet> = LazyLock::new(|| ENGINE.media(&[clip()]).unwrap());

fn clip() -> Part {
    Part::Video(root().join("fixtures/shapes.mp4").into())
}

fn go_on(_: Update<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// What must not depend on anything else.
fn bits(answer: &Answer) -> (Vec<u32>, Vec<u32>, String) {
    let logits = answer.first_logits.iter().map(|x| x.to_bits()).collect();
    (logits, answer.ids.clone(), answer.text.clone())
}

#[test]
fn together_is_alone() {
    let questions = [
        (QUESTION, "baseline"),
        ("How many shapes are there?", "outro"),
        (QUESTION, "vcd+outro"),
        ("hello", "outro:gamma=2"),
        (QUESTION, "avcd"),
    ];
    let ask = |(question, by): (&str, &str)| ENGINE.ask(&MEDIA, question).max_new(12).strategy(by).unwrap();
    let alone = questions.map(|q| ask(q).run().unwrap());
    let mut asks: Vec<Ask> = questions.map(ask).into();
    // One that cannot be answered stands between the others.
    asks.insert(2, ENGINE.ask(&MEDIA, " "));
    let mut pieces = vec![String::new(); asks.len()];
    let mut made = answer_all(&asks, &mut |update| {
        if let Update::Text { ask, piece, .. } = update {
            pieces[ask] += piece;
        }
        ControlFlow::Continue(())
    });
    let refused = made.remove(2).unwrap_err().to_string();
    assert!(refused.contains("ask something"), "{refused}");
    pieces.remove(2);
    for ((made, alone), pieces) in made.iter().zip(&alone).zip(&pieces) {
        let made = made.as_ref().unwrap();
        assert_eq!(bits(made), bits(alone), "{}", alone.strategy);
        assert_eq!(*pieces, alone.text, "{}", alone.strategy);
    }
    assert!(alone[0].sinks.is_none() && alone[1].sinks.is_some());
}

#[test]
fn bytes_are_a_file() {
    let path = root().join("fixtures/shapes.mp4");
    let bytes = std::fs::read(&path).unwrap();
    let part = Part::Video(MediaFile::from_bytes(&bytes).unwrap());
    let media = ENGINE.media(&[part]).unwrap();
    let ask = |media: &MediaSet| {
        let ask = ENGINE.ask(media, QUESTION).max_new(4).strategy("vcd");
        bits(&ask.unwrap().run().unwrap())
    };
    assert_eq!(ask(&media), ask(&MEDIA));
    let wrong = Part::Video(MediaFile::from_bytes(b"no video").unwrap());
    assert!(ENGINE.media(&[wrong]).is_err());
}

/// Requests that join while others are on their way, in a prompt or in an answer.
#[test]
fn a_batch_takes_requests_at_any_time() {
    let questions = [
        (QUESTION, "outro"),
        ("How many shapes are there?", "vcd"),
        (QUESTION, "baseline"),
    ];
    let ask = |(question, by): (&str, &str)| ENGINE.ask(&MEDIA, question).max_new(12).strategy(by).unwrap();
    let mut batch = Batch::default();
    let (mut ticks, mut made) = (0, Vec::new());
    while made.len() < questions.len() {
        // The second joins in the middle of the first one's prompt, the third while tokens come.
        if let Some(at) = [0, 4, 40].iter().position(|t| *t == ticks) {
            assert_eq!(batch.add(ask(questions[at])), at);
        }
        made.extend(batch.tick(&mut go_on));
        ticks += 1;
        assert!(ticks < 10_000, "it goes on");
    }
    assert!(batch.is_empty());
    for (number, answer) in made {
        let alone = ask(questions[number]).run().unwrap();
        assert_eq!(bits(&answer.unwrap()), bits(&alone), "{}", alone.strategy);
    }
}

/// One whose caller goes away leaves; the others do not notice.
#[test]
fn a_request_leaves_a_batch_in_its_prompt() {
    let (cancel, by) = (Cancel::default(), |by| {
        ENGINE.ask(&MEDIA, QUESTION).max_new(6).strategy(by).unwrap()
    });
    let mut batch = Batch::default();
    batch.add(by("outro"));
    batch.add(by("baseline").cancelled_by(&cancel));
    let mut made = batch.tick(&mut go_on);
    cancel.set();
    while made.len() < 2 {
        made.extend(batch.tick(&mut go_on));
    }
    made.sort_by_key(|(number, _)| *number);
    assert!(matches!(made[1].1, Err(Error::Cancelled)));
    let alone = by("outro").run().unwrap();
    assert_eq!(bits(made[0].1.as_ref().unwrap()), bits(&alone));
}

#[test]
fn shared_rows_change_nothing() {
    let media = ENGINE.media(&[clip()]).unwrap();
    let questions = [QUESTION, "How many shapes are there?"];
    let ids: Vec<Vec<u32>> = questions
        .iter()
        .map(|q| ENGINE.ask(&media, q).ids().unwrap())
        .collect();
    media.share(ids.iter().map(Vec::as_slice));
    for question in questions {
        let of = |media: &MediaSet, by: &str| {
            let ask = ENGINE.ask(media, question).max_new(8);
            ask.strategy(by).unwrap().run().unwrap()
        };
        let (shared, whole) = (of(&media, "baseline"), of(&MEDIA, "baseline"));
        assert_eq!(bits(&shared), bits(&whole));
        assert_eq!(
            bits(&of(&media, "outro")),
            bits(&of(&MEDIA, "outro")),
            "a hook sees it whole"
        );
    }
}

#[test]
fn answers_end_where_they_are_told_to() {
    let ask = || ENGINE.ask(&MEDIA, QUESTION).strategy("baseline").unwrap();
    let whole = ask().run().unwrap();
    assert_eq!(whole.finish, Finish::Stop);
    let short = ask().max_new(5).run().unwrap();
    assert_eq!((short.tokens, short.finish), (5, Finish::Length));
    assert!(whole.text.starts_with(&short.text));
    // A stop string over several tokens is no part of the answer, nor is it shown for a moment.
    let stop = ["triangle, then".to_owned(), "never".to_owned()];
    let mut shown = String::new();
    let stopped = ask().stop(stop).stream(&mut |update| {
        if let Update::Text { piece, .. } = update {
            shown += piece;
        }
        ControlFlow::Continue(())
    });
    let stopped = stopped.unwrap();
    assert_eq!(stopped.text, whole.text.split("triangle, then").next().unwrap());
    assert_eq!(shown, stopped.text);
    // So it is where the caller wants no more.
    let mut seen = 0;
    let first = ask().stream(&mut |update| {
        seen += usize::from(matches!(update, Update::Text { .. }));
        if seen == 2 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    assert!(whole.text.starts_with(&first.unwrap().text) && seen == 2);
    // Nor is given what was held back, here the last letter of every piece.
    let held = ('a'..='z').map(|letter| format!("{letter}\0"));
    let (mut shown, mut over) = (String::new(), false);
    let cut = ask().stop(held).stream(&mut |update| {
        if let Update::Text { piece, .. } = update {
            assert!(!over, "{piece:?} behind the end");
            shown += piece;
            over = shown.len() > 4;
        }
        if over {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    assert_eq!(cut.unwrap().text, shown);
    assert!(over && whole.text.starts_with(&shown) && shown.len() < whole.text.len());
}

/// A prompt that was laid out for its ids is the one that is answered, and another sentence is another prompt.
#[test]
fn a_prompt_is_laid_out_once() {
    let ask = || ENGINE.ask(&MEDIA, QUESTION).max_new(3).strategy("outro").unwrap();
    let first = ask();
    let ids = first.ids().unwrap();
    assert_eq!(first.ids().unwrap(), ids);
    assert_eq!(bits(&first.clone().run().unwrap()), bits(&ask().run().unwrap()));
    let other = first.system("Be short.");
    assert_ne!(other.ids().unwrap(), ids);
    assert_eq!(other.ids().unwrap(), ask().system("Be short.").ids().unwrap());
}

#[test]
fn sampling_is_the_checkpoints_or_the_callers() {
    let ask = || {
        ENGINE
            .ask(&MEDIA, QUESTION)
            .strategy("baseline")
            .unwrap()
            .max_new(10)
    };
    let greedy = ask().sampling(Sampling::default()).run().unwrap();
    assert_eq!(
        greedy.text,
        ask().run().unwrap().text,
        "its file says nothing of sampling"
    );
    let banned = greedy.ids[0];
    let biased = Sampling {
        logit_bias: vec![(banned, -1e4)],
        ..Sampling::default()
    };
    assert!(!ask().sampling(biased).run().unwrap().ids.contains(&banned));
    let shy = Sampling {
        presence_penalty: 1e4,
        ..Sampling::default()
    };
    let once = ask().sampling(shy).run().unwrap().ids;
    let kinds: std::collections::BTreeSet<_> = once.iter().collect();
    assert_eq!(kinds.len(), once.len(), "no token comes twice: {once:?}");
    let told = ask().logprobs(3).run().unwrap();
    assert_eq!(told.logprobs.len(), told.tokens);
    for ((own, likeliest), id) in told.logprobs.iter().zip(&told.ids) {
        assert_eq!(likeliest.len(), 3);
        assert_eq!(likeliest[0].token, *id, "greedy");
        assert!((own.exp() - likeliest[0].probability).abs() < 1e-6);
    }
}

#[test]
fn a_conversation_has_media_in_any_turn() {
    let first = Turn {
        role: Role::User,
        content: vec![Part::Text("hello".into())],
    };
    let reply = Turn {
        role: Role::Assistant,
        content: vec![Part::Text("Hello.".into())],
    };
    let later = Conversation {
        history: vec![first, reply],
        ..Conversation::new(None, &[clip()], QUESTION)
    };
    let ids = ENGINE.chat(&MEDIA, later.clone()).ids().unwrap();
    let alone = ENGINE.ask(&MEDIA, QUESTION).ids().unwrap();
    let text = ENGINE.tokenizer().unwrap().decode(&ids).unwrap();
    assert!(
        text.contains("Hello.") && ids.ends_with(&alone[alone.len() - 20..]),
        "{text}"
    );
    let answer = ENGINE.chat(&MEDIA, later.clone()).max_new(4).run().unwrap();
    assert_eq!(answer.prompt_tokens.total, ids.len());
    assert_eq!(answer.prompt_tokens.video, MEDIA.embeds().video.rows());
    // Media of another turn than those that were loaded.
    let none = ENGINE.media(&[]).unwrap();
    let refused = ENGINE.chat(&none, later).run().unwrap_err().to_string();
    assert!(refused.contains("not about the media"), "{refused}");
}

/// Bytes of this process that are in memory (Linux; else 0).
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: Option<usize> = statm.split_whitespace().nth(1).and_then(|n| n.parse().ok());
    pages.unwrap_or(0) * 4096
}

/// Work that is cancelled at any moment ends with that error and leaves nothing behind. `OUTRO_CANCELLATIONS` makes it
/// longer (the number is 1,000).
#[test]
fn cancelled_at_any_moment() {
    let rounds = std::env::var("OUTRO_CANCELLATIONS")
        .ok()
        .and_then(|n| n.parse().ok());
    let rounds: u64 = rounds.unwrap_or(40);
    let options = |cancel: &Cancel| {
        let mut options: MediaOptions = ENGINE.preparer().media_options();
        options.media.cancel = cancel.clone();
        options
    };
    let whole = |cancel: &Cancel| -> outro::Result<Answer> {
        let media = ENGINE.media_with(&[clip()], &options(cancel), &mut |_| {})?;
        let ask = ENGINE.ask(&media, QUESTION).strategy("vcd+outro")?;
        ask.cancelled_by(cancel).run()
    };
    let since = std::time::Instant::now();
    let want = bits(&whole(&Cancel::default()).unwrap());
    let lasts = since.elapsed();
    let (mut cancelled, mut before) = (0, 0);
    for round in 0..rounds {
        // Warm caches and the allocator's own first.
        if round == rounds / 4 {
            before = resident();
        }
        let cancel = Cancel::default();
        let (later, wait) = (cancel.clone(), lasts.mul_f64((round * 37 % 100) as f64 / 100.0));
        let timer = std::thread::spawn(move || {
            std::thread::sleep(wait);
            later.set();
        });
        match whole(&cancel) {
            Ok(answer) => assert_eq!(bits(&answer), want),
            Err(Error::Cancelled) => cancelled += 1,
            Err(e) => panic!("{e}"),
        }
        timer.join().unwrap();
    }
    assert!(cancelled > rounds / 4, "{cancelled} of {rounds}");
    let after = resident();
    let grown = after.saturating_sub(before) as f64 / before.max(1) as f64;
    println!("{cancelled} of {rounds} cancelled, resident {before} to {after}");
    // Of short runs a page more or less is the allocator's.
    assert!(rounds < 400 || grown < 0.02, "{before} bytes grew to {after}");
    assert_eq!(bits(&whole(&Cancel::default()).unwrap()), want);
    let set = Cancel::default();
    set.set();
    assert!(matches!(whole(&set), Err(Error::Cancelled)));
    let asked = ENGINE.ask(&MEDIA, QUESTION).cancelled_by(&set).stream(&mut go_on);
    assert!(matches!(asked, Err(Error::Cancelled)));
}

/// One of several texts, however unlikely; the longer of two where one begins with the other only if the model goes on.
#[test]
fn answers_that_are_one_of_several_texts() {
    let one = |texts: &[&str]| {
        let ask = ENGINE.ask(&MEDIA, QUESTION).choices(texts.iter().copied());
        ask.unwrap().run().unwrap().text
    };
    assert_eq!(one(&["purple elephants"]), "purple elephants");
    let two = ["I see", "I see a blue"];
    assert!(two.contains(&one(&two).as_str()));
    assert!(ENGINE.ask(&MEDIA, QUESTION).choices([]).is_err());
    assert!(ENGINE.ask(&MEDIA, QUESTION).choices([""]).is_err());
}

#[test]
fn other_ends() {
    let usual = ENGINE.ask(&MEDIA, QUESTION).max_new(60).run().unwrap();
    let with = |ends: Ends| ENGINE.ask(&MEDIA, QUESTION).max_new(60).ends(ends).run().unwrap();
    let on = with(Ends {
        ignore: true,
        ..Ends::default()
    });
    assert_eq!((on.tokens, on.finish), (60, Finish::Length));
    assert_eq!(on.ids[..usual.tokens], usual.ids);
    let longer = with(Ends {
        min_tokens: usual.tokens + 3,
        ..Ends::default()
    });
    assert!(longer.tokens >= usual.tokens + 3);
    let third = usual.ids[2];
    let short = with(Ends {
        tokens: vec![third],
        ..Ends::default()
    });
    let before = usual.ids.iter().take_while(|id| **id != third).count();
    assert_eq!(short.ids, usual.ids[..before]);
}

/// A prompt without a template: the ids that a template would have made give the same answer.
#[test]
fn prompts_by_their_ids() {
    let media = ENGINE.media(&[]).unwrap();
    let asked = ENGINE.ask(&media, "hello").max_new(5);
    let ids = asked.ids().unwrap();
    let plain = ENGINE.complete(ids).unwrap().max_new(5);
    assert_eq!(bits(&plain.run().unwrap()), bits(&asked.run().unwrap()));
    assert!(ENGINE.complete(Vec::new()).unwrap().run().is_err());
}
