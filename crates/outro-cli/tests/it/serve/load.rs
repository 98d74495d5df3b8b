//! Many at once, clients that go away, and an orderly end.

use std::io::Read;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use super::client::{Server, about_clip};
use super::content;

/// A client that goes away at any moment frees its place; the next answer is that of a fresh server.
#[test]
fn clients_that_go_away_leave_nothing_behind() {
    let rounds: u64 = std::env::var("OUTRO_DISCONNECTS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(30);
    let server = Server::start(&["--cache-memory", "0"]);
    let fresh = server
        .post("/v1/chat/completions", &about_clip(&json!({"temperature": 0})))
        .ok();
    let bodies = [
        about_clip(&json!({"stream": true, "ignore_eos": true, "max_tokens": 400})).to_string(),
        about_clip(
            &json!({"ignore_eos": true, "max_tokens": 400, "outro": {"strategy": "vcd", "compare": true}}),
        )
        .to_string(),
    ];
    let go = |round: u64| {
        let body = &bodies[(round % 2) as usize];
        let stream = server.open("POST", "/v1/chat/completions", &[], body.as_bytes());
        // In the queue, while its media are decoded or encoded, in prefill, in decode.
        thread::sleep(Duration::from_millis(round * 37 % 700));
        drop(stream);
    };
    (0..rounds.min(20)).for_each(go);
    quiet(&server);
    #[cfg(target_os = "linux")]
    let before = server.resident();
    (20..rounds.max(20)).for_each(go);
    quiet(&server);
    let after = server
        .post("/v1/chat/completions", &about_clip(&json!({"temperature": 0})))
        .ok();
    assert_eq!(after["choices"], fresh["choices"]);
    let metrics = server.get("/metrics").text();
    let gone = metrics
        .lines()
        .find_map(|l| l.strip_prefix("outro:request_cancelled_total "))
        .unwrap();
    assert!(gone.parse::<u64>().unwrap() > rounds / 2, "{metrics}");
    #[cfg(target_os = "linux")]
    {
        let now = server.resident();
        println!("{rounds} disconnects: {before} KiB before, {now} KiB after");
        assert!(now < before + before / 4 + 20_000, "{before} KiB, then {now}");
    }
}

/// Waits until nothing runs.
fn quiet(server: &Server) {
    let since = Instant::now();
    loop {
        let metrics = server.get("/metrics").text();
        let idle = ["outro:num_requests_running 0", "outro:num_requests_waiting 0"];
        if idle.iter().all(|line| metrics.lines().any(|l| l == *line)) {
            return;
        }
        assert!(
            since.elapsed() < Duration::from_mins(1),
            "work of nobody goes on: {metrics}"
        );
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn beyond_the_queue_is_503_and_answers_beside_others_are_what_they_are_alone() {
    let server = Server::start(&["--max-num-seqs", "2", "--max-queue", "2"]);
    let body = about_clip(&json!({"temperature": 0, "ignore_eos": true, "max_tokens": 60}));
    let alone = server.post("/v1/chat/completions", &body).ok();
    let replies: Vec<_> = thread::scope(|scope| {
        let all: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| server.post("/v1/chat/completions", &body)))
            .collect();
        all.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let busy: Vec<_> = replies.iter().filter(|r| r.status == 503).collect();
    assert!(!busy.is_empty() && busy.len() <= 4, "{}", busy.len());
    for reply in &replies {
        if reply.status == 503 {
            assert!(reply.head.contains("retry-after: "), "{}", reply.head);
            reply.fails(503, &["try again"]);
        } else {
            assert_eq!(content(&reply.ok()), content(&alone));
        }
    }
}

#[cfg(unix)]
#[test]
fn a_signal_lets_running_answers_end() {
    let mut server = Server::start(&[]);
    let body = about_clip(&json!({"temperature": 0, "ignore_eos": true, "max_tokens": 200, "stream": true}))
        .to_string();
    let mut stream = server.open("POST", "/v1/chat/completions", &[], body.as_bytes());
    let mut first = [0u8; 300];
    stream.read_exact(&mut first).unwrap();
    let id = server.child.id().to_string();
    assert!(
        std::process::Command::new("kill")
            .args(["-TERM", &id])
            .status()
            .unwrap()
            .success()
    );
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("data: [DONE]"), "{rest}");
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
    assert!(std::net::TcpStream::connect(server.address).is_err());
}
