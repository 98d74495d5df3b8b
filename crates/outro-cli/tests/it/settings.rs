//! The table of settings in documents and help.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use outro::strategy::{Form, KINDS, SETTINGS, settings_of};
use outro_lab::task::PROFILES;

use crate::support::{args, outro, tiny, tiny_in};

const MARKS: [&str; 2] = ["<!-- settings -->\n", "<!-- /settings -->"];

fn table() -> String {
    let mut out = "| of | key | value | default | flag | what |\n|---|---|---|---|---|---|\n".to_owned();
    for s in SETTINGS {
        let code = |text: &str| {
            if text.is_empty() {
                String::new()
            } else {
                format!("`{text}`")
            }
        };
        let flag = if s.flag.is_empty() {
            String::new()
        } else {
            format!("`--{}`", s.flag)
        };
        let (form, default) = (s.form.words(), code(s.default));
        writeln!(
            out,
            "| `{}` | `{}` | {form} | {default} | {flag} | {} |",
            s.of, s.name, s.help
        )
        .unwrap();
    }
    out
}

/// The file's two rows of names: the method's settings, and the ways to ask.
fn row_of_names(key: &str) -> Option<String> {
    let code = |name: &str| format!("`{name}`");
    match key {
        "method" => {
            let list = |form| if form == Form::List { " (a list)" } else { "" };
            let names: Vec<String> = settings_of("outro")
                .map(|s| code(s.name) + list(s.form))
                .collect();
            let what = format!("settings of the method by their names: {}", names.join(", "));
            Some(format!(
                "| `method` | {what} | `--gamma` ... and `--set KEY=VALUE` |"
            ))
        }
        "profile" => {
            let mut names: Vec<String> = PROFILES.iter().map(|p| code(p.name)).collect();
            names[0] += " (the default)";
            let what = format!(
                "how questions with options ask for the answer: {}",
                names.join(", ")
            );
            Some(format!("| `profile` | {what} | `eval run --profile` |"))
        }
        _ => None,
    }
}

/// A kind's row of docs/strategies.md with the defaults of the table.
fn row_of_defaults(line: &str) -> Option<String> {
    let mut cells: Vec<String> = line.split(" | ").map(str::to_owned).collect();
    let name = cells[0].trim_start_matches("| ").trim_matches('`');
    let kind = KINDS.iter().find(|k| k.name == name)?;
    assert_eq!(cells.len(), 5, "{line}");
    cells[2] = kind.switches().replace('=', " ").replace(',', ", ");
    Some(cells.join(" | "))
}

/// Documents with what the table says in them; with OUTRO_UPDATE_DOCS=1 they are written anew.
#[test]
fn documents_have_the_table() {
    let key = |line: &str| {
        line.strip_prefix("| `")?
            .split_once('`')
            .map(|(key, _)| key.to_owned())
    };
    let settings = |text: &str| {
        let (before, rest) = text.split_once(MARKS[0]).unwrap();
        let (_, after) = rest.split_once(MARKS[1]).unwrap();
        let mut names = 0;
        let lines: Vec<String> = before
            .lines()
            .map(|line| match key(line).and_then(|key| row_of_names(&key)) {
                Some(row) => {
                    names += 1;
                    row
                }
                None => line.into(),
            })
            .collect();
        assert_eq!(names, 2);
        let [begin, end] = MARKS;
        format!("{}\n{begin}{}{end}{after}", lines.join("\n"), table())
    };
    let strategies = |text: &str| {
        let mut kinds = 0;
        let lines: Vec<String> = text
            .lines()
            .map(|line| match key(line).and_then(|_| row_of_defaults(line)) {
                Some(row) => {
                    kinds += 1;
                    row
                }
                None => line.into(),
            })
            .collect();
        assert_eq!(kinds, 6);
        lines.join("\n") + "\n"
    };
    document("settings.md", settings);
    document("strategies.md", strategies);
}

/// Holds a document to what is made of it, or writes that.
fn document(name: &str, generate: impl Fn(&str) -> String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../docs")
        .join(name);
    let text = fs::read_to_string(&path).unwrap();
    let made = generate(&text);
    if std::env::var_os("OUTRO_UPDATE_DOCS").is_some() {
        fs::write(&path, made).unwrap();
    } else {
        assert_eq!(text, made, "{name}: run this test with OUTRO_UPDATE_DOCS=1");
    }
}

/// `trace --help` has each setting with what it can be.
#[test]
fn help_of_trace_has_the_table() {
    let help = outro(["trace", "--help"]).ok().stdout;
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let help = words(help.split_once("KEY of --set").unwrap().1);
    for s in settings_of("outro") {
        let row = words(&format!("{} {}; {}", s.name, s.form.words(), s.help));
        assert!(help.contains(&row), "{row}");
    }
}

/// `ask --help` has each flag of the method, and where it names a default it is the table's.
#[test]
fn help_has_the_table() {
    let help = outro(["ask", "--help"]).ok().stdout;
    for s in settings_of("outro") {
        let (_, after) = help
            .split_once(&format!("\n      --{}", s.flag))
            .unwrap_or_else(|| panic!("no --{}", s.flag));
        let own: String = after
            .split("\n      --")
            .next()
            .unwrap()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        // Switches that are on or off, and lists, have no default in words.
        let told = own.contains("[default: the model's own, else ");
        assert!(
            told || [
                "layers",
                "once",
                "no-rotate",
                "no-relax",
                "no-rescale",
                "decode",
                "sinks"
            ]
            .contains(&s.flag),
            "--{}",
            s.flag
        );
        if let Some((_, said)) = own.split_once("[default: the model's own, else ") {
            let said = said.split(']').next().unwrap();
            let other = ["number of layers - 2", "layers / 7"].contains(&said) && s.default == "default";
            assert!(said == s.default || other, "--{}: {said}", s.flag);
        }
    }
    let (_, keys) = help.split_once("Any switch by its name:").unwrap();
    let keys = keys
        .split(['.', '-'])
        .next()
        .unwrap()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    let all: Vec<&str> = settings_of("outro").map(|s| s.name).collect();
    assert_eq!(keys, all.join(", "));
}

/// Dropping tokens is a part of a run's name, however it was asked for.
#[test]
fn pruning_has_one_name() {
    let clip = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/shapes.mp4");
    let name = |more: &[&str]| -> (String, u64) {
        let clip = clip.to_str().unwrap();
        let common = [
            "ask",
            "--json",
            "--max-new-tokens",
            "1",
            "--video",
            clip,
            "What is it?",
        ];
        let made = outro(common.iter().chain(more)).ok().stdout;
        let made: serde_json::Value = serde_json::from_str(&made).unwrap();
        let answer = &made["answers"][0];
        (
            answer["strategy"].as_str().unwrap().to_owned(),
            answer["pruned"].as_u64().unwrap(),
        )
    };
    let (flag, pruned) = name(&["--prune", "layer=3,keep=0.5"]);
    assert_eq!(flag, "outro/prune:layer=3,keep=0.5");
    assert_eq!(name(&["--strategy", &flag]), (flag, pruned));
    assert!(pruned > 0);
}

/// The log of `eval run` has the name of `ask`; the flag and the name in full are one run.
#[test]
fn a_log_has_the_name_of_pruning() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("run.jsonl");
    let run = |more: &[&str]| {
        let base = args![
            "-q",
            "eval",
            "run",
            "avhbench",
            "--data",
            tiny().with_file_name("world"),
            "--model",
            "outro-tiny",
            "--out",
            &log,
            "--limit",
            "2"
        ];
        outro(base.into_iter().chain(more.iter().map(Into::into)))
    };
    run(&["--prune", "layer=3,keep=0.5"]).ok();
    let text = fs::read_to_string(&log).unwrap();
    let lines: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let names = ["baseline/prune:layer=3,keep=0.5", "outro/prune:layer=3,keep=0.5"];
    let strategies = lines[0]["strategies"].as_array().unwrap();
    for (by, name) in strategies.iter().zip(names) {
        assert_eq!(
            (&by["name"], &by["extras"][0]["prune"]["layer"]),
            (&name.into(), &3.into())
        );
        assert_eq!(lines[1..].iter().filter(|row| row["strategy"] == name).count(), 2);
    }
    assert_eq!((strategies.len(), lines.len()), (2, 5));
    run(&["--strategy", names[0], "--strategy", names[1]]).ok();
    assert_eq!(fs::read_to_string(&log).unwrap(), text, "it is the same run");
    run(&["--prune", "layer=3,keep=0.25"]).fails(1, &["run.jsonl", "also answered by baseline/prune"]);
}

/// A layer that the model does not have is the fault of the file that says so.
#[test]
fn a_file_with_layers_of_another_model_is_named() {
    const OTHER: &str = r#"{"format": 1, "method": {"layers": [0, 99]}}"#;
    let dir = tempfile::tempdir().unwrap();
    let gguf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/gguf/qwen2-tiny.gguf");
    let model = dir.path().join("small.gguf");
    fs::copy(gguf, &model).unwrap();
    fs::write(dir.path().join("small.outro.json"), OTHER).unwrap();
    // Of a directory the name is another one, which must not be looked for beside a file.
    fs::write(dir.path().join("outro.json"), "{").unwrap();
    for more in [&[][..], &["--strategy", "outro"]] {
        let base = args!["ask", "--model", &model, "q"];
        outro(base.into_iter().chain(more.iter().map(Into::into))).fails(
            1,
            &[
                "small.outro.json: method: ",
                "layers",
                "the model's layers are 0 to 0",
            ],
        );
    }
    let own = dir.path().join("given.json");
    fs::write(&own, OTHER).unwrap();
    let checkpoint = tiny_in(dir.path());
    for command in [&["eval", "run"][..], &["tune"]] {
        let mut line: Vec<_> = command.iter().map(Into::into).collect();
        line.extend(args![
            "avhbench",
            "--data",
            tiny().with_file_name("world"),
            "--model",
            &checkpoint,
            "--settings",
            &own,
            "--out",
            dir.path().join("out")
        ]);
        outro(line).fails(1, &["given.json: method: ", "layers", "99"]);
    }
}
