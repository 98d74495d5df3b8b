//! Other people's programs against the server: OpenAI's Python client, and our own runner of benchmarks.

use std::fs;
use std::process::Command;

use super::client::{Server, clip};
use super::fixture;
use crate::support::{ffmpeg, outro};

const PYTHON: &str = r#"
import sys
from openai import OpenAI, NotFoundError, BadRequestError
base, clip = sys.argv[1], sys.stdin.read()
client = OpenAI(base_url=base + "/v1", api_key="sesame")
assert [m.id for m in client.models.list()] == ["outro-tiny"]
messages = [{"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "video_url", "video_url": {"url": clip}}, {"type": "text", "text": "What do you see and hear?"}]}]
whole = client.chat.completions.create(model="outro-tiny", messages=messages, temperature=0, logprobs=True, top_logprobs=2)
text = whole.choices[0].message.content
assert text and whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
assert "".join(t.token for t in whole.choices[0].logprobs.content) == text, (text, whole)
pieces, usage = [], None
for chunk in client.chat.completions.create(model="outro-tiny", messages=messages, temperature=0, stream=True,
                                            stream_options={"include_usage": True}, extra_body={"outro": {"compare": True}}):
    if chunk.choices and chunk.choices[0].delta.content:
        pieces.append(chunk.choices[0].delta.content)
    usage = chunk.usage or usage
assert "".join(pieces) == text and usage.completion_tokens == whole.usage.completion_tokens
file = client.files.create(file=("clip.mp4", open(sys.argv[2], "rb"), "video/mp4"), purpose="user_data")
named = [{"role": "developer", "content": "Be brief."},
         {"role": "user", "content": [{"type": "file", "file": {"file_id": file.id}}, {"type": "text", "text": "What do you see and hear?"}]}]
assert client.chat.completions.create(model="outro-tiny", messages=named, temperature=0).choices[0].message.content == text
assert [f.id for f in client.files.list()] == [file.id]
assert client.files.delete(file.id).deleted
plain = client.completions.create(model="outro-tiny", prompt="Is it red?", max_tokens=3, logprobs=1)
assert plain.choices[0].finish_reason in ("stop", "length")
for wrong, error in (({"model": "other"}, NotFoundError), ({"model": "outro-tiny", "tools": [{"type": "function", "function": {"name": "f"}}]}, BadRequestError)):
    try:
        client.chat.completions.create(messages=messages, **wrong)
        raise SystemExit("no error")
    except error as e:
        assert e.message
print("fine")
"#;

/// A Python that has `module`: OUTRO_PYTHON, else python3. Where it has not, a test returns early, but not in CI.
fn python(module: &str) -> Option<String> {
    let python = std::env::var("OUTRO_PYTHON").unwrap_or_else(|_| "python3".into());
    let has = Command::new(&python)
        .args(["-c", &format!("import {module}")])
        .output();
    if has.is_ok_and(|o| o.status.success()) {
        return Some(python);
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "{python} has no {module}; set OUTRO_PYTHON to one that has"
    );
    println!("skipped: {python} has no {module}; set OUTRO_PYTHON to one that has");
    None
}

#[test]
fn openai_s_python_client() {
    let Some(python) = python("openai") else { return };
    let server = Server::start(&["--api-key", "sesame"]);
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("clip");
    fs::write(&input, clip()).unwrap();
    let ran = Command::new(python)
        .args([
            "-c",
            PYTHON,
            &format!("http://{}", server.address),
            &fixture("shapes.mp4"),
        ])
        .stdin(fs::File::open(&input).unwrap())
        .env_remove("http_proxy")
        .env_remove("all_proxy")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stderr);
    assert_eq!(String::from_utf8_lossy(&ran.stdout).trim(), "fine", "{said}");
}

/// The page, used by headless Chromium: both answers, the timeline, labels, keyboard, contrast and widths, no request elsewhere.
#[test]
fn the_page_in_a_browser() {
    let Some(python) = python("websocket") else { return };
    let browser = std::env::var("CHROMIUM").unwrap_or_else(|_| "chromium".into());
    if Command::new(&browser).arg("--version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "there is no {browser}");
        println!("skipped: there is no {browser}");
        return;
    }
    let server = Server::start(&[]);
    let head = server.get("/");
    assert!(
        head.head.contains("content-security-policy: default-src 'none'"),
        "{}",
        head.head
    );
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tools/try_page.py");
    let shots = std::env::var("OUTRO_SCREENSHOTS").ok();
    let ran = Command::new(python)
        .arg(script)
        .args([format!("http://{}", server.address), fixture("shapes.mp4")])
        .args(shots)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stderr);
    assert_eq!(String::from_utf8_lossy(&ran.stdout).trim(), "fine", "{said}");
}

/// `eval run --endpoint` on a server gives exactly the answers of `eval run --model`.
#[test]
fn a_benchmark_over_the_server_has_the_answers_of_the_model() {
    if !ffmpeg() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let set = dir.path().join("set");
    let text = |p: &std::path::Path| p.display().to_string();
    outro(["synth", "--out", &text(&set), "--videos", "4", "--seed", "77"]).ok();
    let server = Server::start(&[]);
    let endpoint = format!("http://{}/v1", server.address);
    let answers = |log: &str, more: &[&str]| -> Vec<String> {
        let log = text(&dir.path().join(log));
        let mut args = vec!["eval", "run", "avhbench", "daily-omni", "--model", "outro-tiny"];
        let set = text(&set);
        // What a model says of how it is asked is not known of one behind an endpoint.
        args.extend([
            "--data",
            set.as_str(),
            "--out",
            log.as_str(),
            "--profile",
            "option",
        ]);
        args.extend(more);
        outro(args).ok();
        let both =
            ["avhbench", "daily-omni"].map(|task| fs::read_to_string(format!("{log}/{task}.jsonl")).unwrap());
        let mut rows: Vec<String> = both
            .iter()
            .flat_map(|log| log.lines())
            .filter_map(|l| {
                let row: serde_json::Value = serde_json::from_str(l).ok()?;
                Some(format!("{}: {}", row["id"].as_str()?, row["reply"].as_str()?))
            })
            .collect();
        rows.sort();
        rows
    };
    let over = answers("endpoint", &["--endpoint", &endpoint, "--endpoint-videos"]);
    let own = answers("model", &["--strategy", "outro"]);
    assert!(own.len() > 10, "{own:?}");
    assert_eq!(over, own);
}
