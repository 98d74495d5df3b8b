//! Whether two headers mean one run, and in what they differ, in words.

use serde_json::{Map, Value};

use super::Header;

/// A run beside the log that is there.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Beside {
    /// The same one.
    Same,
    /// The same one with more questions or strategies: this is its header.
    More(Box<Header>),
    /// Another one, and why.
    Other(String),
}

/// `wanted` beside `there`. A log may grow: a limit may be raised, since the first questions stay the first, and strategies may be
/// added, since none changes another's answers.
pub(super) fn beside(there: &Header, wanted: &Header) -> Beside {
    let mut grown = wanted.clone();
    let lost = |s: &&outro::strategy::Strategy| !wanted.strategies.contains(s);
    if wanted.questions >= there.questions && !there.strategies.iter().any(|s| lost(&s)) {
        // The log's order: its first strategy is what the others are compared with.
        grown.strategies.clone_from(&there.strategies);
        let new = wanted.strategies.iter().filter(|s| !there.strategies.contains(s));
        grown.strategies.extend(new.cloned());
    }
    let rest = Header {
        questions: there.questions,
        strategies: there.strategies.clone(),
        ..grown.clone()
    };
    let grows = grown.questions > there.questions || grown.strategies.len() > there.strategies.len();
    match difference(there, &rest).or_else(|| smaller(there, &grown)) {
        Some(problem) => Beside::Other(problem),
        None if grows => Beside::More(Box::new(grown)),
        None => Beside::Same,
    }
}

/// What the log has and the run lacks.
fn smaller(there: &Header, wanted: &Header) -> Option<String> {
    if wanted.questions < there.questions {
        return Some(format!(
            "it has {} questions, not {}, and a limit can be raised only",
            there.questions, wanted.questions
        ));
    }
    (wanted.strategies.len() < there.strategies.len() || !wanted.strategies.starts_with(&there.strategies))
        .then(|| strategies(there, wanted))
}

/// The first difference, in words; `None` where there is none.
pub(super) fn difference(there: &Header, wanted: &Header) -> Option<String> {
    let (a, b) = (fields(there), fields(wanted));
    // A field may be in one of them only.
    let key = a.keys().chain(b.keys()).find(|k| a.get(*k) != b.get(*k))?;
    let value = |m: &Map<String, Value>| m.get(key).cloned().unwrap_or(Value::Null);
    Some(match key.as_str() {
        "strategies" => strategies(there, wanted),
        "questions" => format!("it has {} questions, not {}", there.questions, wanted.questions),
        "questions_sha256" => "its questions are others: the benchmark's files have changed".into(),
        "profile_sha256" => "the words around its questions are others".into(),
        _ => leaf(key, &value(&a), &value(&b)),
    })
}

fn fields(header: &Header) -> Map<String, Value> {
    match serde_json::to_value(header) {
        Ok(Value::Object(mut map)) => {
            // What older logs do not say, they mean.
            if let Some(Value::Object(media)) = map.get_mut("media") {
                media.insert("exif".into(), header.exif().into());
            }
            map
        }
        _ => Map::new(),
    }
}

/// The innermost field that differs.
fn leaf(name: &str, a: &Value, b: &Value) -> String {
    if let (Value::Object(x), Value::Object(y)) = (a, b)
        && let Some(key) = x.keys().chain(y.keys()).find(|k| x.get(*k) != y.get(*k))
    {
        let value = |m: &Map<String, Value>| m.get(key).cloned().unwrap_or(Value::Null);
        return leaf(&format!("{name}.{key}"), &value(x), &value(y));
    }
    let text = |v: &Value| match v {
        Value::Null => "the default".to_owned(),
        Value::String(s) => s.clone(),
        other => other.to_string(),
    };
    format!("its {name} is {}, not {}", text(a), text(b))
}

fn strategies(there: &Header, wanted: &Header) -> String {
    let of = |h: &Header, name: &str| h.strategies.iter().find(|s| s.name == name).cloned();
    for have in &there.strategies {
        let Some(want) = of(wanted, &have.name) else {
            return format!("it is also answered by {}, which is not asked for now", have.name);
        };
        if want != *have {
            let value = |s| serde_json::to_value(s).unwrap_or_default();
            return leaf(&format!("strategy {}", have.name), &value(have), &value(&want));
        }
    }
    let new = wanted.strategies.iter().find(|s| !there.strategies.contains(s));
    match new {
        Some(new) => format!("it is not answered by {}", new.name),
        None => "its strategies stand in another order".into(),
    }
}

#[cfg(test)]
mod tests {
    use outro::method::OutRoConfig;

    use super::*;
    use outro::strategy::Strategy;

    fn header(names: &[&str], questions: usize) -> Header {
        let base = OutRoConfig::default();
        let strategies = names.iter().map(|n| Strategy::parse(n, &base).unwrap());
        Header {
            questions,
            strategies: strategies.collect(),
            media: serde_json::json!({"fps": 2.0, "frames": null, "exif": true}),
            ..Header::default()
        }
    }

    #[test]
    fn a_log_grows_by_questions_and_strategies_and_by_nothing_else() {
        let there = header(&["baseline", "outro"], 10);
        assert_eq!(beside(&there, &there), Beside::Same);
        assert_eq!(beside(&there, &header(&["outro", "baseline"], 10)), Beside::Same);
        let Beside::More(grown) = beside(&there, &header(&["var", "outro", "baseline"], 20)) else {
            panic!("it does not grow")
        };
        let names: Vec<_> = grown.strategies.iter().map(|s| s.name.as_str()).collect();
        assert_eq!((grown.questions, names), (20, vec!["baseline", "outro", "var"]));

        let mut slower = there.clone();
        slower.media["fps"] = 1.0.into();
        let mut stronger = there.clone();
        stronger.strategies[1] = Strategy {
            name: "outro".into(),
            ..Strategy::parse("outro:gamma=2", &OutRoConfig::default()).unwrap()
        };
        let mut others = header(&["baseline", "outro"], 20);
        others.questions_sha256 = "x".into();
        for (wanted, words) in [
            (header(&["baseline", "outro"], 5), "it has 10 questions, not 5"),
            (header(&["baseline", "var"], 10), "also answered by outro"),
            (slower, "its media.fps is 2.0, not 1.0"),
            (stronger, "its strategy outro.method.gamma is 3.0, not 2.0"),
            (others, "its questions are others"),
        ] {
            let Beside::Other(said) = beside(&there, &wanted) else {
                panic!("{words}")
            };
            assert!(said.contains(words), "{said}");
        }
    }
}
