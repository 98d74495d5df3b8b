//! Answerers of which only replies are known: a small OpenAI-compatible server on the loopback interface, and files.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Ran, args, command, finish, outro, tiny};

/// Looks like a key, and must never be seen again.
const KEY: &str = "sk-loopback-0123456789";

/// What to answer: a status, headers, a body.
type Answer = (u16, &'static str, String);
/// Closes the connection without a word.
const NOTHING: Answer = (0, "", String::new());
type Behave = dyn Fn(usize, &Seen) -> Answer + Send + Sync;

#[derive(Clone, Debug)]
struct Seen {
    path: String,
    key: Option<String>,
    body: Value,
}

impl Seen {
    fn parts(&self, kind: &str) -> Vec<&Value> {
        let content = self.body["messages"][0]["content"].as_array().unwrap();
        content.iter().filter(|p| p["type"] == kind).collect()
    }

    fn words(&self) -> &str {
        self.parts("text")[0]["text"].as_str().unwrap()
    }
}

struct Server {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    /// `behave` gets the number of earlier requests for a completion.
    fn start(behave: impl Fn(usize, &Seen) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (behave, all): (Arc<Behave>, _) = (Arc::new(behave), Arc::clone(&seen));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (behave, all) = (Arc::clone(&behave), Arc::clone(&all));
                // A client that goes away is no failure of the server.
                std::thread::spawn(move || serve(stream, &all, &*behave).ok());
            }
        });
        Self { address, seen }
    }

    fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    fn asked(&self) -> Vec<Seen> {
        let seen = self.seen.lock().unwrap();
        seen.iter()
            .filter(|s| s.path == "/v1/chat/completions")
            .cloned()
            .collect()
    }
}

fn serve(mut stream: TcpStream, all: &Mutex<Vec<Seen>>, behave: &Behave) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let (mut key, mut length) = (None, 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim().split_once(": ") else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "authorization" => key = value.strip_prefix("Bearer ").map(str::to_owned),
            "content-length" => length = value.parse().unwrap(),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let seen = Seen {
        path: first.split(' ').nth(1).unwrap_or_default().to_owned(),
        key,
        body: serde_json::from_slice(&body).unwrap_or_default(),
    };
    let answer = {
        let mut all = all.lock().unwrap();
        let before = all.iter().filter(|s| s.path.ends_with("completions")).count();
        all.push(seen.clone());
        behave(before, &seen)
    };
    let (status, headers, body) = answer;
    if status > 0 {
        let head = format!(
            "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n",
            body.len()
        );
        stream.write_all((head + &body).as_bytes())?;
    }
    Ok(())
}

fn says(reply: &str) -> Answer {
    let body = json!({"choices": [{"message": {"role": "assistant", "content": reply}}], "usage": {"prompt_tokens": 77}});
    (200, "Content-Type: application/json\r\n", body.to_string())
}

fn fails(status: u16, message: &str) -> Answer {
    (status, "", json!({"error": {"message": message}}).to_string())
}

fn world(task: &str) -> PathBuf {
    tiny().with_file_name("world").join(task)
}

fn run(server: &str, log: &Path, extra: &[&str]) -> Ran {
    let line = args![
        "eval",
        "run",
        "avhbench",
        "--data",
        world("avhbench"),
        "--out",
        log,
        "--model",
        "some/model",
        "--frames",
        "2",
        "--endpoint",
        server
    ];
    let mut command = command();
    command
        .args(line)
        .args(extra)
        .args(if extra.contains(&"--limit") {
            &[][..]
        } else {
            &["--limit", "4"]
        })
        .args(if extra.contains(&"--attempts") {
            &[][..]
        } else {
            &["--attempts", "3"]
        })
        .env("OUTRO_API_KEY", KEY)
        .env("NO_PROXY", "127.0.0.1")
        .env("no_proxy", "127.0.0.1");
    finish(&mut command)
}

fn rows(log: &Path) -> Vec<Value> {
    let text = fs::read_to_string(log).unwrap();
    assert!(!text.contains(KEY), "the key is in the log");
    text.lines()
        .skip(1)
        .map(|l| serde_json::from_str(l).unwrap())
        .collect()
}

#[test]
fn a_server_is_asked_by_the_same_rules() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log.jsonl");
    let server = Server::start(|before, _| says(["Yes", " no.", "Perhaps", ""][before]));
    let ran = run(&server.url(), &log, &[]).ok();
    assert!(ran.stdout.contains("baseline"), "{}", ran.stdout);
    let asked = server.asked();
    assert_eq!(asked.len(), 4);
    let own = dir.path().join("own.jsonl");
    let line = args![
        "eval",
        "run",
        "avhbench",
        "--data",
        world("avhbench"),
        "--out",
        &own,
        "--model",
        "outro-tiny",
        "--limit",
        "4",
        "--strategy",
        "baseline",
        "--profile",
        "letter"
    ];
    outro(line).ok();
    for ((seen, row), own) in asked.iter().zip(rows(&log)).zip(rows(&own)) {
        assert_eq!(seen.key.as_deref(), Some(KEY));
        assert_eq!(
            (&seen.body["model"], &seen.body["temperature"]),
            (&json!("some/model"), &json!(0))
        );
        assert_eq!(
            (seen.words(), &row["question"], &row["gold"]),
            (own["question"].as_str().unwrap(), &own["question"], &own["gold"])
        );
        let pictures = seen.parts("image_url");
        assert_eq!((pictures.len(), &row["frames"]), (2, &json!(2)));
        let url = pictures[0]["image_url"]["url"].as_str().unwrap();
        assert!(url.starts_with("data:image/jpeg;base64,/9j/"), "{}", &url[..40]);
        let sound = seen.parts("input_audio");
        let heard = row["audio_seconds"].as_f64().unwrap() > 0.0;
        assert_eq!(sound.len(), usize::from(heard));
        assert!(sound.iter().all(|s| s["input_audio"]["format"] == "wav"
            && s["input_audio"]["data"].as_str().unwrap().starts_with("UklGR")));
        assert_eq!(row["prompt_tokens"], 77);
    }
    assert!(asked.iter().any(|s| !s.parts("input_audio").is_empty()));
    let rows = rows(&log);
    let parsed: Vec<_> = rows
        .iter()
        .map(|r| (r["parsed"].as_str(), r["invalid"].as_str()))
        .collect();
    assert_eq!(
        parsed,
        [
            (Some("Yes"), None),
            (Some("No"), None),
            (None, Some("no_answer")),
            (None, Some("empty"))
        ]
    );
    // The server and the model's name are the run's identity, and without sound none is sent.
    run(&Server::start(|_, _| says("Yes")).url(), &log, &[]).fails(1, &["answerer"]);
    let mute = Server::start(|_, _| says("Yes"));
    run(
        &mute.url(),
        &dir.path().join("mute.jsonl"),
        &["--ablate", "sound"],
    )
    .ok();
    assert!(mute.asked().iter().all(|s| s.parts("input_audio").is_empty()));
}

#[test]
fn a_server_that_stumbles_is_asked_again() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log.jsonl");
    let server = Server::start(|before, seen| match before {
        0 => (429, "Retry-After: 0\r\n", "slow down".into()),
        1 => fails(503, "loading"),
        3 => NOTHING,
        // The third question itself is refused, the others are answered.
        5 => fails(
            400,
            &format!("audio is not understood, says {}", seen.key.as_deref().unwrap()),
        ),
        _ => says("Yes"),
    });
    let ran = run(&server.url(), &log, &[]).ok();
    let rows = rows(&log);
    assert_eq!(server.asked().len(), 7);
    let failed: Vec<_> = rows.iter().filter_map(|r| r["error"].as_str()).collect();
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert!(
        failed[0].contains("400") && failed[0].contains("not understood") && failed[0].contains("***"),
        "{failed:?}"
    );
    assert!(
        ran.stderr.contains("1 answers failed") && !ran.stderr.contains(KEY),
        "{}",
        ran.stderr
    );
    // What failed is asked again when that is wanted, and only that.
    run(&server.url(), &log, &[]).ok();
    assert_eq!(server.asked().len(), 7);
    run(&server.url(), &log, &["--retry-failed"]).ok();
    assert_eq!(server.asked().len(), 8);
    let report = outro(args!["eval", "report", &log, "--format", "json"]).ok();
    let report: Value = serde_json::from_str(&report.stdout).unwrap();
    let all = &report[0]["results"][0]["all"];
    assert_eq!(
        (&all["total"], &all["failed"]),
        (&json!(4), &json!(0)),
        "the new answer stands"
    );
}

#[test]
fn a_question_that_a_well_server_cannot_bear_is_a_row() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log.jsonl");
    let hard: Arc<Mutex<Option<String>>> = Arc::default();
    let server = Server::start(move |before, seen| {
        if seen.path.ends_with("/models") {
            return says("");
        }
        let mut hard = hard.lock().unwrap();
        if before == 1 {
            *hard = Some(seen.words().to_owned());
        }
        if hard.as_deref() == Some(seen.words()) {
            fails(500, "out of memory")
        } else {
            says("No")
        }
    });
    run(&server.url(), &log, &[]).ok();
    let rows = rows(&log);
    let failed: Vec<_> = rows
        .iter()
        .filter(|r| r["error"].as_str().is_some_and(|e| e.contains("out of memory")))
        .collect();
    assert_eq!((rows.len(), failed.len()), (4, 1));
}

#[test]
fn a_server_that_is_down_stops_the_run_which_goes_on_later() {
    let dir = tempfile::tempdir().unwrap();
    for (name, behave, part) in [
        (
            "ill",
            Box::new(|_: usize, _: &Seen| fails(500, "broken")) as Box<Behave>,
            "broken",
        ),
        (
            "busy",
            Box::new(|_, _| (429, "Retry-After: 0\r\n", String::new())),
            "429",
        ),
        (
            "locked",
            Box::new(|_, _| fails(401, "who are you?")),
            "who are you",
        ),
        ("another", Box::new(|_, _| (200, "", "<html>".into())), "not JSON"),
        (
            "strange",
            Box::new(|_, _| (200, "", "{}".into())),
            "not a chat completion",
        ),
        // After the second answer everything but the list of models breaks: three in a row are too many.
        (
            "late",
            Box::new(|before, s| {
                if s.path.ends_with("/models") || before < 2 {
                    says("Yes")
                } else {
                    fails(500, "gone")
                }
            }),
            "gone",
        ),
    ] {
        let log = dir.path().join(format!("{name}.jsonl"));
        let server = Server::start(behave);
        let ran = run(&server.url(), &log, &["--limit", "12"]);
        assert!(!ran.stderr.contains(KEY), "{}", ran.stderr);
        ran.fails(1, &[part, "start the same command again"]);
        let failed = rows(&log).iter().filter(|r| r["error"].is_string()).count();
        assert_eq!(
            (rows(&log).len(), failed),
            if name == "late" { (4, 2) } else { (0, 0) },
            "{name}"
        );
    }
    // Nobody there: a port that was just given back.
    let log = dir.path().join("log.jsonl");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    run(&format!("http://{address}/v1"), &log, &[]).fails(1, &["cannot be reached"]);
    // A server that never answers meets the deadline.
    let server = Server::start(|_, _| {
        std::thread::sleep(Duration::from_secs(5));
        NOTHING
    });
    run(
        &server.url(),
        &dir.path().join("slow.jsonl"),
        &["--request-timeout", "0.3", "--attempts", "1"],
    )
    .fails(1, &["no answer within 0.3 s"]);
    // The same command goes on: two questions are answered, the third stops the run, the next start asks two.
    let log = dir.path().join("resumed.jsonl");
    let down = Arc::new(Mutex::new(false));
    let switch = Arc::clone(&down);
    let server = Server::start(move |before, _| {
        let mut down = switch.lock().unwrap();
        *down |= before == 2;
        if *down { fails(401, "expired") } else { says("Yes") }
    });
    run(&server.url(), &log, &[]).fails(1, &["expired"]);
    assert_eq!(rows(&log).len(), 2);
    let before = server.asked().len();
    // Requests are counted on, so the switch stays off from here on.
    *down.lock().unwrap() = false;
    run(&server.url(), &log, &[]).ok();
    assert_eq!((rows(&log).len(), server.asked().len() - before), (4, 2));
}

#[test]
fn replies_come_from_files() {
    let dir = tempfile::tempdir().unwrap();
    let (own, log) = (dir.path().join("own.jsonl"), dir.path().join("log.jsonl"));
    let base = |out: &Path| {
        args![
            "eval",
            "run",
            "avhbench",
            "--data",
            world("avhbench"),
            "--limit",
            "4",
            "--out",
            out
        ]
        .to_vec()
    };
    outro([base(&own), args!["--model", "outro-tiny"].to_vec()].concat()).ok();
    // A log is such a file, and scores as the run did.
    outro([base(&log), args!["--replies", &own].to_vec()].concat()).ok();
    let plain: Vec<Value> = rows(&own)
        .into_iter()
        .filter(|r| r["strategy"] == "baseline")
        .collect();
    for (a, b) in rows(&log).iter().zip(&plain) {
        assert_eq!(
            (&a["id"], &a["reply"], &a["right"]),
            (&b["id"], &b["reply"], &b["right"])
        );
    }
    let file = dir.path().join("replies.json");
    fs::write(
        &file,
        json!([{"id": "000000", "reply": "Yes"}, {"id": "000001", "reply": "hm"}]).to_string(),
    )
    .unwrap();
    let other = dir.path().join("other.jsonl");
    let line = [base(&other), args!["--replies", &file].to_vec()].concat();
    outro(&line).ok();
    let got = rows(&other);
    assert_eq!(
        (got.len(), &got[0]["parsed"], &got[1]["invalid"]),
        (4, &json!("Yes"), &json!("no_answer"))
    );
    assert!(
        got[2]["error"]
            .as_str()
            .unwrap()
            .contains("no reply to question 000002")
    );
    fs::write(&file, "{\"id\": 1, \"reply\": \"a\"}\n{\"id\": 2}\n").unwrap();
    outro(&line).fails(1, &["replies.json", "row 2", "no reply"]);
    fs::write(&file, "{\"id\": \"000000\", \"reply\": \"a\"}\n").unwrap();
    outro(&line).fails(1, &["answerer"]);
}

#[test]
fn what_only_a_model_can_do_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log.jsonl");
    let url = "http://127.0.0.1:9/v1";
    run(url, &log, &["--strategy", "outro"]).fails(2, &["--strategy outro", "--endpoint"]);
    run(
        url,
        &log,
        &["--strategy", "baseline", "--strategy", "prune:layer=1,keep=0.5"],
    )
    .fails(2, &["prune"]);
    run(url, &log, &["--readout", "logits"]).fails(2, &["--readout"]);
    run(url, &log, &["--quantize", "q8_0"]).fails(2, &["--quantize"]);
    run(url, &log, &["--held-out"]).fails(2, &["--held-out"]);
    run("localhost:8000", &log, &[]).fails(2, &["--endpoint", "http://localhost"]);
    let ran = run(&format!("http://me:{KEY}@host/v1"), &log, &[]);
    assert!(!ran.stderr.contains(KEY), "{}", ran.stderr);
    ran.fails(2, &["OUTRO_API_KEY"]);
    run(url, &log, &["--request-timeout", "0"]).fails(2, &["--request-timeout"]);
    assert!(!log.exists());
    let line = args![
        "eval",
        "run",
        "avhbench",
        "--data",
        world("avhbench"),
        "--out",
        &log,
        "--endpoint",
        url
    ];
    outro(line).fails(2, &["--model"]);
}
