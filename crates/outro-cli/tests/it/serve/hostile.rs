//! Requests that mean no good, over HTTP: each has a clear answer or none, and the server goes on. What media may not do is tested
//! beside the door (`outro-server/src/door/tests.rs`).

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;

use super::client::{Server, about_clip};
use super::content;

/// What comes back for bytes that are sent as they are; empty where the connection is closed.
fn raw(server: &Server, bytes: &[u8], cut: bool) -> String {
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(40))).unwrap();
    // A server that has read enough closes the connection.
    let _ = stream.write_all(bytes);
    if cut {
        let _ = stream.shutdown(Shutdown::Write);
    }
    let mut back = Vec::new();
    let _ = stream.read_to_end(&mut back);
    String::from_utf8_lossy(&back).into_owned()
}

#[test]
fn broken_http_stops_nobody() {
    let server = Server::start(&["--max-body-size", "1"]);
    let before = server
        .post("/v1/chat/completions", &about_clip(&json!({"temperature": 0})))
        .ok();
    let many = "x-y: z\r\n".repeat(500);
    let long = "a".repeat(200_000);
    let post = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n";
    for (what, bytes, want) in [
        (
            "many headers",
            format!("GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{many}\r\n"),
            "431",
        ),
        (
            "a long header",
            format!("GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx: {long}\r\n\r\n"),
            "431",
        ),
        (
            "a long path",
            format!("GET /{long} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"),
            "4",
        ),
        ("no HTTP", "\u{0}\u{1}\u{2} nonsense\r\n\r\n".to_owned(), "400"),
        (
            "another version",
            "GET /health HTTP/9.9\r\nhost: x\r\n\r\n".to_owned(),
            "",
        ),
        (
            "a length that is none",
            format!("{post}content-length: -1\r\n\r\n{{}}"),
            "400",
        ),
        (
            "two lengths",
            format!("{post}content-length: 2\r\ncontent-length: 3\r\n\r\n{{}}"),
            "400",
        ),
        (
            "length and pieces",
            format!("{post}content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
            "4",
        ),
        (
            "a broken piece",
            format!("{post}transfer-encoding: chunked\r\n\r\nzz\r\n"),
            "4",
        ),
        (
            "a short body",
            format!("{post}content-length: 5000\r\n\r\n{{"),
            "",
        ),
        (
            "a large body",
            format!("{post}content-length: 2000000\r\n\r\n{}", " ".repeat(2_000_000)),
            "413",
        ),
        (
            "a large one in pieces",
            format!(
                "{post}transfer-encoding: chunked\r\n\r\n{}0\r\n\r\n",
                format!("ffff\r\n{}\r\n", " ".repeat(0xffff)).repeat(20)
            ),
            "413",
        ),
        (
            "a path out of here",
            "GET /../../etc/passwd HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".to_owned(),
            "404",
        ),
        (
            "a path with percent signs",
            "GET /v1/models/%2e%2e%2f%00 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".to_owned(),
            "404",
        ),
        (
            "a body that is no UTF-8",
            format!("{post}content-length: 4\r\n\r\n\u{7f}{{{{\u{1}"),
            "400",
        ),
    ] {
        // Who ends the connection goes away, and gets no answer.
        let back = raw(&server, bytes.as_bytes(), want.is_empty());
        let status = back.split(' ').nth(1).unwrap_or_default();
        assert!(
            status.starts_with(want) && !status.starts_with('2'),
            "{what}: {back}"
        );
    }
    let small = json!({"temperature": 0});
    let after = server.post("/v1/chat/completions", &about_clip(&small)).ok();
    assert_eq!(content(&after), content(&before));
}

#[test]
fn urls_in_requests_reach_nobody() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let visits = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&visits);
    std::thread::spawn(move || {
        for _ in listener.incoming() {
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    // Named hosts make it no better: what they resolve to is looked at.
    let domains = format!("localhost,127.0.0.1,localhost:{port},127.0.0.1:{port}");
    let server = Server::start(&[
        "--allowed-media-domains",
        &domains,
        "--allow-plain-http",
        "--fetch-timeout",
        "5",
    ]);
    for url in [
        format!("http://127.0.0.1:{port}/a.png"),
        format!("http://localhost:{port}/a.png"),
        format!("http://2130706433:{port}/a.png"),
        format!("http://0x7f.1:{port}/a.png"),
        format!("http://[::ffff:127.0.0.1]:{port}/a.png"),
        format!("http://x@127.0.0.1:{port}/a.png"),
        format!("https://127.0.0.1:{port}/a.png"),
        "http://169.254.169.254/latest/meta-data".to_owned(),
        "file:///etc/passwd".to_owned(),
        "/etc/passwd".to_owned(),
        "ftp://localhost/a".to_owned(),
        "gopher://localhost/a".to_owned(),
        "javascript:alert(1)".to_owned(),
        "concat:/etc/passwd".to_owned(),
    ] {
        let part = json!({"type": "image_url", "image_url": {"url": url}});
        let body = json!({"messages": [{"role": "user", "content": [part, {"type": "text", "text": "?"}]}]});
        let reply = server.post("/v1/chat/completions", &body);
        assert!(
            [400, 403, 415, 422].contains(&reply.status),
            "{url}: {}",
            reply.text()
        );
        assert!(!reply.text().contains("root:"), "{url}: {}", reply.text());
    }
    assert_eq!(visits.load(Ordering::SeqCst), 0);
}
