//! Templates against jinja2, set up as transformers does (fixtures/templates, tools/templates.py).

use std::fs;
use std::path::Path;

use minijinja::Value as Jinja;
use serde_json::Value;

use super::render;
use crate::prompt::chat::python::{clock, python_float};

fn jinja(json: &Value) -> Jinja {
    match json {
        Value::Null => Jinja::from(()),
        Value::Bool(b) => Jinja::from(*b),
        Value::Number(n) => n
            .as_i64()
            .map_or_else(|| Jinja::from(n.as_f64().unwrap()), Jinja::from),
        Value::String(s) => Jinja::from(s.as_str()),
        Value::Array(list) => list.iter().map(jinja).collect(),
        Value::Object(map) => Jinja::from_pairs(map.iter().map(|(k, v)| (k.clone(), jinja(v)))),
    }
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn check(template: &Path, context: &Value, want: &Value) {
    let source = fs::read_to_string(template).unwrap();
    let got = render(&source, jinja(context));
    assert_eq!(
        got.as_deref().ok(),
        want.as_str(),
        "{}, {context}: {got:?}",
        template.display()
    );
}

#[test]
fn templates_equal_jinja2() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/templates");
    let (inputs, expected) = (json(&dir.join("inputs.json")), json(&dir.join("expected.json")));
    let expected = expected.as_object().unwrap();
    assert!(expected.len() >= 60, "{} templates", expected.len());
    for (name, rows) in expected {
        for (input, want) in rows.as_object().unwrap() {
            check(&dir.join(format!("{name}.jinja")), &inputs[input], want);
        }
    }
}

/// Templates after public bug reports, kept outside.
#[test]
fn templates_of_the_wild_equal_jinja2() {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let shared = std::env::var_os("OUTRO_SHARED").map_or_else(default, Into::into);
    let dir = shared.join("cases/tpl");
    if !dir.is_dir() {
        assert!(
            std::env::var_os("CI").is_none(),
            "{} is missing; set OUTRO_SHARED",
            dir.display()
        );
        println!("note: {} is not here, its cases were not run", dir.display());
        return;
    }
    let all = json(&dir.join("expected.json"));
    let context = serde_json::json!({
        "messages": [{"role": "user", "content": all["question"]}], "tools": null, "documents": null,
        "add_generation_prompt": true, "eos_token": "<|im_end|>",
    });
    let expected = all["expected"].as_object().unwrap();
    assert!(expected.len() >= 30);
    for (name, want) in expected {
        // The year in which the expectations were written down.
        let year = render("{{ strftime_now('%Y') }}", Jinja::from(())).unwrap();
        let want = want.as_str().unwrap();
        let want = if name == "strftime" {
            year + &want[4..]
        } else {
            want.to_owned()
        };
        check(&dir.join(format!("{name}.jinja")), &context, &want.into());
    }
}

#[test]
fn floats_and_times_as_python_writes_them() {
    for (x, text) in [
        (0.0, "0.0"),
        (-0.0, "-0.0"),
        (0.1, "0.1"),
        (1e-4, "0.0001"),
        (1e-5, "1e-05"),
        (1.5e-7, "1.5e-07"),
        (123_456_789.0, "123456789.0"),
        (1e15, "1000000000000000.0"),
        (1e16, "1e+16"),
        (-2.5e100, "-2.5e+100"),
        (f64::NAN, "nan"),
        (f64::INFINITY, "inf"),
    ] {
        assert_eq!(python_float(x), text);
    }
    // Noon, so that every zone's day is near.
    let noon = std::time::Duration::from_micros(951_825_600_000_000 + 42);
    let text = clock::at(noon, "%Y %f|%z|%%").unwrap();
    assert_eq!(text, "2000 000042||%");
    assert_eq!(clock::at(noon, "").unwrap(), "");
    let day: u32 = clock::at(noon, "%d").unwrap().parse().unwrap();
    assert!([28, 29, 30].contains(&day) || day == 1, "{day}");
    assert!(clock::at(noon, "%").is_err());
    assert!(clock::at(noon, "a\0b").is_err());
}
