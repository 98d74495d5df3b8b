//! Uploads over HTTP, as clients send them and as they should not.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;

use super::*;
use crate::door::{FileLimits, Rules};

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR";

fn server() -> SocketAddr {
    let rules = Rules {
        local: None,
        domains: Vec::new(),
        plain_http: false,
        bytes: 3 << 20,
        request_bytes: 3 << 20,
        count: [None; 3],
        fetch: Duration::from_secs(1),
    };
    let limits = FileLimits {
        bytes: 4 << 20,
        ..FileLimits::default()
    };
    let door = Arc::new(Door::new(rules).with_files(limits));
    let (send, receive) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            send.send(listener.local_addr().unwrap()).unwrap();
            axum::serve(listener, door.routes()).await.unwrap();
        });
    });
    receive.recv().unwrap()
}

/// Status, head and body of an answer.
fn ask(server: SocketAddr, head: &str, body: &[u8]) -> (u16, String, Vec<u8>) {
    let mut stream = TcpStream::connect(server).unwrap();
    let length = body.len();
    let head = format!("{head}\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    // A server that has refused may not read the rest.
    let _ = stream.write_all(body);
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all);
    let end = all.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
    let head = String::from_utf8_lossy(&all[..end]).into_owned();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head, all.split_off(end + 4))
}

fn json_of(server: SocketAddr, head: &str, body: &[u8]) -> (u16, Value) {
    let (status, _, body) = ask(server, head, body);
    let value = serde_json::from_slice(&body)
        .unwrap_or_else(|e| panic!("{head}: {e}: {}", String::from_utf8_lossy(&body)));
    (status, value)
}

/// A form: names and contents; of a file also its name.
fn form(fields: &[(&str, Option<&str>, &[u8])]) -> Vec<u8> {
    let mut all = Vec::new();
    for (name, file, content) in fields {
        let file = file.map(|f| format!("; filename=\"{f}\"")).unwrap_or_default();
        all.extend(format!("--B\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n").bytes());
        all.extend_from_slice(content);
        all.extend(b"\r\n");
    }
    all.extend(b"--B--\r\n");
    all
}

const POST: &str = "POST /v1/files HTTP/1.1\r\nContent-Type: multipart/form-data; boundary=B";

#[test]
fn files_come_and_go() {
    let server = server();
    let body = form(&[("purpose", None, b"vision"), ("file", Some("a b.png"), PNG)]);
    let (status, file) = json_of(server, POST, &body);
    assert_eq!(status, 200, "{file}");
    let id = file["id"].as_str().unwrap();
    assert_eq!(
        (file["object"].as_str(), file["bytes"].as_u64()),
        (Some("file"), Some(PNG.len() as u64))
    );
    assert_eq!(
        (file["filename"].as_str(), file["purpose"].as_str()),
        (Some("a b.png"), Some("vision"))
    );
    assert_eq!(
        file["expires_at"].as_u64().unwrap() - file["created_at"].as_u64().unwrap(),
        24 * 3600
    );
    let short = form(&[
        ("file", Some("b"), PNG),
        ("expires_after[anchor]", None, b"created_at"),
        ("expires_after[seconds]", None, b"3600"),
    ]);
    let (_, second) = json_of(server, POST, &short);
    assert_eq!(
        second["expires_at"].as_u64().unwrap() - second["created_at"].as_u64().unwrap(),
        3600
    );
    let get = |path: &str| json_of(server, &format!("GET /v1/files{path} HTTP/1.1"), b"");
    assert_eq!(get(&format!("/{id}")), (200, file.clone()));
    let ids = |path: &str| -> Vec<Value> {
        let (status, list) = get(path);
        assert_eq!((status, list["object"].as_str()), (200, Some("list")), "{list}");
        list["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|f| f["id"].clone())
            .collect()
    };
    assert_eq!(ids("").len(), 2);
    assert_eq!(ids("?purpose=vision"), [file["id"].clone()]);
    let first = ids("?limit=1&order=asc");
    let rest = ids(&format!("?order=asc&after={}", first[0].as_str().unwrap()));
    assert_eq!([first, rest].concat(), ids("?order=asc"));
    assert_eq!(get("?limit=1").1["has_more"], true);
    let (status, head, content) = ask(server, &format!("GET /v1/files/{id}/content HTTP/1.1"), b"");
    assert_eq!((status, content.as_slice()), (200, PNG));
    assert!(
        head.to_lowercase().contains("x-content-type-options: nosniff"),
        "{head}"
    );
    let gone = json_of(server, &format!("DELETE /v1/files/{id} HTTP/1.1"), b"");
    assert_eq!(gone, (200, json!({"id": id, "object": "file", "deleted": true})));
    for path in [
        format!("/{id}"),
        format!("/{id}/content"),
        "/..%2f..%2fetc%2fpasswd".into(),
        "/%00".into(),
    ] {
        let (status, error) = get(&path);
        assert_eq!(
            (status, error["error"]["code"].as_u64()),
            (404, Some(404)),
            "{path} {error}"
        );
    }
}

#[test]
fn hostile_uploads() {
    let server = server();
    let large = vec![0; (3 << 20) + 1];
    for (head, body, status, says) in [
        (
            POST,
            form(&[("purpose", None, b"vision")]),
            400,
            "`file` is missing",
        ),
        (
            POST,
            form(&[("file", Some("a"), PNG), ("file", Some("b"), PNG)]),
            400,
            "twice",
        ),
        (
            POST,
            form(&[("file", Some("a"), &large)]),
            413,
            "larger than a medium may be",
        ),
        (
            POST,
            form(&[("url", None, b"http://127.0.0.1/")]),
            400,
            "`url` is no field",
        ),
        (
            POST,
            form(&[("purpose", None, &[b'x'; 5000])]),
            400,
            "more than 1024 bytes",
        ),
        (POST, form(&[("purpose", None, b"\xff")]), 400, "no text"),
        (
            POST,
            form(&[("expires_after[seconds]", None, b"-1")]),
            400,
            "whole number",
        ),
        (
            POST,
            form(&[("expires_after[anchor]", None, b"x")]),
            400,
            "created_at",
        ),
        (
            POST,
            b"--B\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\nabc".to_vec(),
            400,
            "cannot be read",
        ),
        (POST, b"no form".to_vec(), 400, "cannot be read"),
        (POST, Vec::new(), 400, "cannot be read"),
        (
            "POST /v1/files HTTP/1.1\r\nContent-Type: application/json",
            b"{}".to_vec(),
            400,
            "no form",
        ),
        (
            "POST /v1/files HTTP/1.1\r\nContent-Type: multipart/form-data",
            b"x".to_vec(),
            400,
            "no form",
        ),
        ("GET /v1/files?limit=0 HTTP/1.1", Vec::new(), 400, "`limit`"),
        ("GET /v1/files?limit=x HTTP/1.1", Vec::new(), 400, "limit"),
        ("GET /v1/files?order=x HTTP/1.1", Vec::new(), 400, "`order`"),
        ("GET /v1/files?after=x HTTP/1.1", Vec::new(), 400, "`after`"),
        ("GET /v1/files?nonsense=1 HTTP/1.1", Vec::new(), 400, "nonsense"),
    ] {
        let (got, error) = json_of(server, head, &body);
        let message = error["error"]["message"].as_str().unwrap_or_default();
        assert!(got == status && message.contains(says), "{head}: {got} {error}");
    }
    // What was refused takes no room.
    for _ in 0..3 {
        let (status, file) = json_of(server, POST, &form(&[("file", Some("a"), &large[..2 << 20])]));
        assert_eq!(status, 200, "{file}");
    }
    // Two of those are the most that fit; the first went.
    let (_, list) = json_of(server, "GET /v1/files HTTP/1.1", b"");
    assert_eq!(list["data"].as_array().unwrap().len(), 2);
    // Who goes away in the middle leaves nothing.
    let mut stream = TcpStream::connect(server).unwrap();
    let body = form(&[("file", Some("a"), PNG)]);
    write!(stream, "{POST}\r\nHost: x\r\nContent-Length: 100000\r\n\r\n").unwrap();
    stream.write_all(&body[..body.len() - 10]).unwrap();
    drop(stream);
    thread::sleep(Duration::from_millis(200));
    let (_, after) = json_of(server, "GET /v1/files HTTP/1.1", b"");
    let [before, after] = [&list, &after].map(|l| l["data"].as_array().unwrap());
    assert!(after.iter().all(|f| before.contains(f)), "{after:?}");
}
