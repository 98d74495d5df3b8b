//! A small hub on the loopback interface: the API, the redirects of large files to a second host, ranges, broken transfers.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use sha1::Sha1;
use sha2::{Digest, Sha256};

pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What the hub has, and how it misbehaves.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Repository `tiny/omni`: name, content.
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    /// Files from this size on are large: redirected, named by their SHA-256.
    pub(crate) large: usize,
    /// Without this token everything answers 401.
    pub(crate) token: Option<String>,
    /// For each large transfer in turn, the number of bytes after which the connection closes.
    pub(crate) breaks: Vec<usize>,
    /// The second host ignores Range.
    pub(crate) no_ranges: bool,
    /// The first large transfer has a wrong byte.
    pub(crate) damage: bool,
    /// The hub answers a GET of a small file with this status and a text, though HEAD was fine.
    pub(crate) small_status: Option<u16>,
    /// Small files come with a wrong byte, so often.
    pub(crate) damage_small: usize,
    /// The listing has no hashes of small files.
    pub(crate) no_hashes: bool,
    /// The listing comes in pages of so many files, where it is not 0.
    pub(crate) page: usize,
}

/// One request as it came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) range: Option<String>,
    pub(crate) token: Option<String>,
    /// Asked of the second host.
    pub(crate) cdn: bool,
}

struct State {
    plan: Mutex<Plan>,
    seen: Mutex<Vec<Seen>>,
    hub: SocketAddr,
    cdn: SocketAddr,
}

/// A running hub. Its threads end with the test process.
pub(crate) struct Server {
    state: Arc<State>,
}

impl Server {
    pub(crate) fn start(plan: Plan) -> Self {
        let (hub, cdn) = (
            TcpListener::bind("127.0.0.1:0").unwrap(),
            TcpListener::bind("127.0.0.1:0").unwrap(),
        );
        let address = hub.local_addr().unwrap();
        let state = Arc::new(State {
            plan: Mutex::new(plan),
            seen: Mutex::default(),
            hub: address,
            cdn: cdn.local_addr().unwrap(),
        });
        for (listener, is_cdn) in [(hub, false), (cdn, true)] {
            let state = Arc::clone(&state);
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let state = Arc::clone(&state);
                    // A client that goes away is no failure of the server.
                    std::thread::spawn(move || state.serve(stream, is_cdn).ok());
                }
            });
        }
        Self { state }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.state.hub)
    }

    /// The requests since the last call.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.state.seen.lock().unwrap())
    }

    pub(crate) fn change(&self, f: impl FnOnce(&mut Plan)) {
        f(&mut self.state.plan.lock().unwrap());
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// What git calls a file of this content.
pub(crate) fn git_hash(bytes: &[u8]) -> String {
    hex(&Sha1::digest(
        [format!("blob {}\0", bytes.len()).as_bytes(), bytes].concat(),
    ))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |s, b| s + &format!("{b:02x}"))
}

impl State {
    fn serve(&self, stream: TcpStream, cdn: bool) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        let first = lines.next().unwrap_or(Ok(String::new()))?;
        let mut words = first.split(' ');
        let (method, path) = (
            words.next().unwrap_or_default().to_owned(),
            words.next().unwrap_or_default().to_owned(),
        );
        let mut seen = Seen {
            method,
            path,
            range: None,
            token: None,
            cdn,
        };
        for line in lines {
            let line = line?;
            let Some((name, value)) = line.split_once(": ") else {
                break;
            };
            match name.to_ascii_lowercase().as_str() {
                "range" => seen.range = Some(value.to_owned()),
                "authorization" => seen.token = value.strip_prefix("Bearer ").map(str::to_owned),
                _ => {}
            }
        }
        self.seen.lock().unwrap().push(seen.clone());
        if cdn {
            self.cdn(stream, &seen)
        } else {
            self.hub(stream, &seen)
        }
    }

    fn hub(&self, out: TcpStream, seen: &Seen) -> std::io::Result<()> {
        let mut plan = self.plan.lock().unwrap();
        if plan.token.is_some() && plan.token != seen.token {
            return reply(
                out,
                seen,
                401,
                &[("X-Error-Message", "Invalid username or password.")],
                b"",
            );
        }
        let path = seen.path.split('?').next().unwrap_or_default();
        // A name in another case is sent to the proper one, relative to this host.
        if path.contains("TINY/omni") {
            return reply(
                out,
                seen,
                307,
                &[("Location", &path.replace("TINY/omni", "tiny/omni"))],
                b"",
            );
        }
        let (main, pinned) = (
            "/api/models/tiny/omni/revision/main",
            format!("/api/models/tiny/omni/revision/{COMMIT}"),
        );
        if path == main || path == pinned {
            let siblings: Vec<_> = plan
                .files
                .keys()
                .map(|f| serde_json::json!({"rfilename": f}))
                .collect();
            let body = serde_json::json!({"id": "tiny/omni", "sha": COMMIT, "siblings": siblings});
            return reply(out, seen, 200, &[], body.to_string().as_bytes());
        }
        if path.starts_with("/api/models/tiny/omni/revision/") {
            return reply(out, seen, 404, &[("X-Error-Code", "RevisionNotFound")], b"");
        }
        if path == format!("/api/models/tiny/omni/tree/{COMMIT}") {
            let entry = |(name, content): (&String, &Vec<u8>)| {
                let oid = if plan.no_hashes {
                    "0".into()
                } else {
                    git_hash(content)
                };
                let mut e =
                    serde_json::json!({"type": "file", "oid": oid, "size": content.len(), "path": name});
                if content.len() >= plan.large {
                    e["lfs"] = serde_json::json!({"oid": sha256(content), "size": content.len(), "pointerSize": 134});
                }
                e
            };
            let cursor = seen
                .path
                .split_once("cursor=")
                .map_or(0, |(_, c)| c.parse().unwrap());
            let (size, all) = (plan.files.len(), plan.files.iter().skip(cursor));
            let end = if plan.page == 0 { size } else { cursor + plan.page };
            let body: Vec<_> = all.take(end - cursor).map(entry).collect();
            let next = format!("<http://{}{path}?cursor={end}>; rel=\"next\"", self.hub);
            let headers: &[_] = if end < size {
                &[("Link", next.as_str())]
            } else {
                &[]
            };
            return reply(out, seen, 200, headers, serde_json::to_string(&body)?.as_bytes());
        }
        // Python asks for files of a branch, too.
        let file = ["main", COMMIT]
            .iter()
            .find_map(|at| path.strip_prefix(&format!("/tiny/omni/resolve/{at}/")));
        let Some((name, content)) = file.and_then(|f| plan.files.get_key_value(f)) else {
            return reply(out, seen, 404, &[("X-Error-Code", "RepoNotFound")], b"");
        };
        if content.len() < plan.large {
            let etag = format!("\"{}\"", git_hash(content));
            if let Some(status) = plan.small_status.filter(|_| seen.method == "GET") {
                return reply(out, seen, status, &[], b"try later");
            }
            let (mut content, headers) = (
                content.clone(),
                [("ETag", etag.as_str()), ("X-Repo-Commit", COMMIT)],
            );
            if plan.damage_small > 0 && seen.method == "GET" {
                plan.damage_small -= 1;
                content[0] ^= 1;
            }
            return reply(out, seen, 200, &headers, &content);
        }
        let etag = format!("\"{}\"", sha256(content));
        let headers = [
            ("Location", format!("http://{}/{name}?signature=1", self.cdn)),
            ("X-Linked-ETag", etag),
            ("X-Linked-Size", content.len().to_string()),
            ("X-Repo-Commit", COMMIT.to_owned()),
        ];
        reply(
            out,
            seen,
            302,
            &headers.each_ref().map(|(k, v)| (*k, v.as_str())),
            b"",
        )
    }

    fn cdn(&self, mut out: TcpStream, seen: &Seen) -> std::io::Result<()> {
        let mut plan = self.plan.lock().unwrap();
        let name = seen
            .path
            .trim_start_matches('/')
            .split('?')
            .next()
            .unwrap_or_default();
        let Some(mut content) = plan.files.get(name).cloned() else {
            return reply(out, seen, 404, &[], b"");
        };
        let size = content.len();
        let range = seen
            .range
            .as_deref()
            .filter(|_| !plan.no_ranges)
            .and_then(|r| r.strip_prefix("bytes=")?.split_once('-'));
        let (mut status, mut headers) = (200, vec![("ETag", "\"of the second host\"".to_owned())]);
        if let Some((from, to)) = range {
            let (from, to) = (from.parse().unwrap(), to.parse::<usize>().unwrap());
            content = content[from..=to].to_vec();
            headers.push(("Content-Range", format!("bytes {from}-{to}/{size}")));
            status = 206;
        }
        let headers: Vec<_> = headers.iter().map(|(k, v)| (*k, v.as_str())).collect();
        if seen.method == "GET" {
            if std::mem::take(&mut plan.damage) {
                content[7] ^= 1;
            }
            if !plan.breaks.is_empty() {
                let cut = plan.breaks.remove(0).min(content.len());
                head(&mut out, status, &headers, content.len())?;
                return out.write_all(&content[..cut]);
            }
        }
        reply(out, seen, status, &headers, &content)
    }
}

fn reply(
    mut out: TcpStream,
    seen: &Seen,
    status: u16,
    headers: &[(&str, &str)],
    body: &[u8],
) -> std::io::Result<()> {
    head(&mut out, status, headers, body.len())?;
    if seen.method == "HEAD" {
        Ok(())
    } else {
        out.write_all(body)
    }
}

fn head(out: &mut TcpStream, status: u16, headers: &[(&str, &str)], length: usize) -> std::io::Result<()> {
    let mut text = format!("HTTP/1.1 {status} Status\r\nContent-Length: {length}\r\nConnection: close\r\n");
    for (name, value) in headers {
        text = text + name + ": " + value + "\r\n";
    }
    text.push_str("\r\n");
    out.write_all(text.as_bytes())
}
