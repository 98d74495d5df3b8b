//! Hosts that should not be asked, and answers that should not be taken. The host that answers is on the loopback interface, where
//! [`Network`]'s dial leads in place of the public addresses that were checked.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use super::super::*;
use super::{PNG, refuses, rules, take, url};

/// A host on the loopback interface that does what the path says.
fn host() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || answer(stream));
        }
    });
    address
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let mut asked_identity = false;
    for line in lines {
        let line = line?.to_ascii_lowercase();
        asked_identity |= line == "accept-encoding: identity";
        if line.is_empty() {
            break;
        }
    }
    let path = first.split(' ').nth(1).unwrap_or_default();
    let mut png = PNG.to_vec();
    png.resize(30_000, 7);
    let whole = |stream: &mut TcpStream, head: &str, body: &[u8]| {
        write!(
            stream,
            "HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )?;
        stream.write_all(body)
    };
    match path.split_once('?').map_or(path, |(p, _)| p) {
        "/ok" if asked_identity => whole(&mut stream, "200 OK\r\nContent-Type: text/html", &png),
        "/to" => {
            let to = path.split_once('?').map_or("", |(_, to)| to);
            whole(&mut stream, &format!("302 Found\r\nLocation: {to}"), b"")
        }
        "/nowhere" => whole(&mut stream, "302 Found", b""),
        "/endless" => {
            write!(stream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            loop {
                write!(stream, "1000\r\n{}\r\n", "x".repeat(0x1000))?;
            }
        }
        "/endless-plain" => {
            write!(stream, "HTTP/1.1 200 OK\r\n\r\n")?;
            loop {
                stream.write_all(&[0; 4096])?;
            }
        }
        "/drip" => {
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 30000\r\n\r\n")?;
            loop {
                stream.write_all(b"x")?;
                thread::sleep(Duration::from_millis(50));
            }
        }
        "/drip-head" => {
            write!(stream, "HTTP/1.1 200 OK\r\nX-A: ")?;
            loop {
                stream.write_all(b"x")?;
                thread::sleep(Duration::from_millis(50));
            }
        }
        "/silent" => {
            thread::sleep(Duration::from_secs(20));
            Ok(())
        }
        "/short" => {
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 30000\r\n\r\n")?;
            stream.write_all(PNG)
        }
        "/short-chunk" => {
            write!(
                stream,
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1000\r\n"
            )?;
            stream.write_all(PNG)
        }
        "/long" => {
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n")?;
            stream.write_all(&png)
        }
        "/claims" => write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n"),
        "/negative" => write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"),
        "/gzip" => whole(&mut stream, "200 OK\r\nContent-Encoding: gzip", &png),
        "/br" => whole(&mut stream, "200 OK\r\nContent-Encoding: br, gzip", &png),
        "/headers" => {
            write!(stream, "HTTP/1.1 200 OK\r\n")?;
            loop {
                write!(stream, "X-A: {}\r\n", "x".repeat(1000))?;
            }
        }
        "/garbage" => stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n"),
        "/playlist" => whole(
            &mut stream,
            "200 OK\r\nContent-Type: video/mp4",
            b"#EXTM3U\nhttp://127.0.0.1/",
        ),
        "/page" => whole(&mut stream, "200 OK\r\nContent-Type: image/png", b"<html>"),
        "/nothing" => whole(&mut stream, "200 OK\r\nContent-Type: image/png", b""),
        "/part" => whole(&mut stream, "206 Partial Content", &png),
        _ => whole(&mut stream, "404 Not Found", b"secret page"),
    }
}

/// Names that are looked up, and what they are said to be; the third time is another.
struct Names {
    network: Network,
    /// Addresses that were to be connected to.
    dialled: Arc<Mutex<Vec<SocketAddr>>>,
    looked_up: Arc<AtomicUsize>,
}

fn names(host: SocketAddr) -> Names {
    let (dialled, looked_up) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
    let (seen, count) = (Arc::clone(&dialled), Arc::clone(&looked_up));
    let lookup = move |name: &str| {
        let before = count.fetch_add(1, Ordering::SeqCst);
        let all: &[&str] = match name {
            "media.example" | "other.example" | "xn--mnchen-3ya.example" => &["1.1.1.1"],
            // DNS that changes between two questions.
            "rebind.example" if before == 0 => &["1.1.1.1"],
            "rebind.example" | "loopback.example" | "localhost" | "localhost.localdomain" => &["127.0.0.1"],
            "mixed.example" => &["1.1.1.1", "10.0.0.1"],
            "mixed6.example" => &["2606:4700::1", "::1"],
            "metadata.google.internal" => &["169.254.169.254"],
            "mapped.example" => &["::ffff:127.0.0.1"],
            "nat64.example" => &["64:ff9b::a00:1"],
            "sixtofour.example" => &["2002:7f00:1::"],
            "unique.example" => &["fd00::1"],
            "link.example" => &["fe80::1"],
            "zero.example" => &["0.0.0.0"],
            "cgnat.example" => &["100.64.0.1"],
            "slow.example" => {
                thread::sleep(Duration::from_secs(20));
                &["1.1.1.1"]
            }
            _ => return Err(std::io::ErrorKind::NotFound.into()),
        };
        Ok(all.iter().map(|a| a.parse::<IpAddr>().unwrap()).collect())
    };
    let dial = move |address: SocketAddr| {
        seen.lock().unwrap().push(address);
        host
    };
    Names {
        network: Network {
            lookup: Arc::new(lookup),
            dial: Arc::new(dial),
        },
        dialled,
        looked_up,
    }
}

fn remote(domains: &[&str], names: &Names) -> Door {
    let mut door = Door::new(Rules {
        domains: domains.iter().map(|d| (*d).to_owned()).collect(),
        ..rules()
    });
    door.network = names.network.clone();
    door
}

/// Every name and address that a rule could be made to say.
const NAMED: [&str; 34] = [
    "media.example",
    "other.example",
    "media.example:8080",
    "rebind.example",
    "loopback.example",
    "localhost",
    "localhost.localdomain",
    "mixed.example",
    "mixed6.example",
    "metadata.google.internal",
    "mapped.example",
    "nat64.example",
    "sixtofour.example",
    "unique.example",
    "link.example",
    "zero.example",
    "cgnat.example",
    "slow.example",
    "missing.example",
    "127.0.0.1",
    "127.1",
    "2130706433",
    "0x7f000001",
    "017700000001",
    "169.254.169.254",
    "10.0.0.1",
    "0.0.0.0",
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[fd00:ec2::254]",
    "[fe80::1]",
];

#[test]
fn hostile_addresses() {
    let names = names(host());
    let door = remote(&NAMED, &names);
    for (reference, status, says) in [
        ("http://127.0.0.1/x", 403, "without a public address"),
        ("http://127.0.0.1./x", 403, "without a public address"),
        ("http://127.1/x", 422, "neither a name nor an address"),
        ("http://2130706433/x", 422, "neither a name nor an address"),
        ("http://0x7f000001/x", 422, "neither a name nor an address"),
        ("http://0x7F.1/x", 422, "neither a name nor an address"),
        ("http://017700000001/x", 422, "neither a name nor an address"),
        ("http://0177.0.0.1/x", 422, "neither a name nor an address"),
        ("http://127.0.0.1.0x0/x", 422, "neither a name nor an address"),
        ("http://127%2e0%2e0%2e1/x", 422, "neither a name nor an address"),
        ("http://\u{2460}27.0.0.1/x", 422, "characters that no URL has"),
        (
            "http://169.254.169.254/latest/meta-data/",
            403,
            "without a public address",
        ),
        (
            "http://metadata.google.internal/computeMetadata/v1/",
            403,
            "without a public address",
        ),
        ("http://[fd00:ec2::254]/latest/", 403, "without a public address"),
        ("http://10.0.0.1/x", 403, "without a public address"),
        ("http://0.0.0.0/x", 403, "without a public address"),
        ("http://[::1]/x", 403, "without a public address"),
        ("http://[::]/x", 403, "without a public address"),
        ("http://[0:0:0:0:0:0:0:1]/x", 403, "without a public address"),
        ("http://[::ffff:127.0.0.1]/x", 403, "without a public address"),
        ("http://[::ffff:7f00:1]/x", 403, "without a public address"),
        ("http://[::127.0.0.1]/x", 403, "without a public address"),
        ("http://[64:ff9b::127.0.0.1]/x", 403, "without a public address"),
        ("http://[fe80::1]/x", 403, "without a public address"),
        ("http://[fe80::1%25lo]/x", 422, "neither a name nor an address"),
        ("http://[::1%25lo]/x", 422, "neither a name nor an address"),
        ("http://localhost/x", 403, "without a public address"),
        ("http://LOCALHOST/x", 403, "without a public address"),
        ("http://localhost./x", 403, "without a public address"),
        ("http://localhost.localdomain/x", 403, "without a public address"),
        ("http://loopback.example/x", 403, "without a public address"),
        ("http://mixed.example/x", 403, "without a public address"),
        ("http://mixed6.example/x", 403, "without a public address"),
        ("http://mapped.example/x", 403, "without a public address"),
        ("http://nat64.example/x", 403, "without a public address"),
        ("http://sixtofour.example/x", 403, "without a public address"),
        ("http://unique.example/x", 403, "without a public address"),
        ("http://link.example/x", 403, "without a public address"),
        ("http://zero.example/x", 403, "without a public address"),
        ("http://cgnat.example/x", 403, "without a public address"),
        ("http://missing.example/x", 422, "not found"),
        (
            "http://evil.example/x",
            403,
            "evil.example, which is none of the hosts",
        ),
        ("http://media.example.evil.example/x", 403, "none of the hosts"),
        ("http://sub.media.example/x", 403, "none of the hosts"),
        (
            "http://media.example:22/x",
            403,
            "media.example:22, which is none",
        ),
        ("https://media.example:80/x", 403, "none of the hosts"),
        ("http://media.example@127.0.0.1/x", 422, "user name"),
        ("http://media.example:x@127.0.0.1/x", 422, "user name"),
        ("http://user:secret@media.example/x", 422, "user name"),
        (
            "http://media.example\\@127.0.0.1/x",
            422,
            "characters that no URL has",
        ),
        ("http://media.example\t/x", 422, "characters that no URL has"),
        (
            "http://media.example\r\nHost: evil/x",
            422,
            "characters that no URL has",
        ),
        ("http:///x", 422, "neither a name nor an address"),
        ("http:media.example/x", 422, "without `://`"),
        ("http://m\u{fc}nchen.example/x", 422, "Punycode"),
        (
            "http://media.example\u{ff0f}@evil.example/",
            422,
            "characters that no URL has",
        ),
        ("http://media.example:99999/x", 422, "port"),
        ("gopher://media.example/x", 422, "of a scheme that is not fetched"),
        ("dict://media.example/x", 422, "of a scheme that is not fetched"),
    ] {
        refuses(&door, reference, status, says);
    }
    assert!(names.dialled.lock().unwrap().is_empty(), "{:?}", names.dialled);
    let strict = Door::new(Rules {
        plain_http: false,
        domains: vec!["media.example".into()],
        ..rules()
    });
    refuses(&strict, "http://media.example/x", 403, "only https");
}

/// The same against a listener at the addresses themselves, with the system's own names and connections.
#[test]
fn nobody_comes_to_this_machine() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let hosts = [
        "127.0.0.1",
        "localhost",
        "LocalHost",
        "localhost.",
        "127.1",
        "2130706433",
        "0x7f000001",
        "017700000001",
        "0.0.0.0",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "x@127.0.0.1",
        "127.0.0.1%00",
    ];
    let door = Door::new(Rules {
        domains: hosts
            .iter()
            .map(|h| format!("{}:{port}", h.to_lowercase().trim_end_matches('.')))
            .collect(),
        ..rules()
    });
    for host in hosts {
        for path in ["", "/", "/x.png"] {
            let refused = take(&door, url(&format!("http://{host}:{port}{path}"))).unwrap_err();
            assert!([403, 422].contains(&refused.status), "{host}: {refused}");
        }
    }
    assert!(listener.accept().is_err(), "somebody came");
}

#[test]
fn media_are_fetched() {
    let names = names(host());
    let door = remote(
        &[
            "media.example",
            "media.example:8080",
            "[2606:4700::1]",
            "xn--mnchen-3ya.example",
        ],
        &names,
    );
    for (reference, address) in [
        ("http://media.example/ok", "1.1.1.1:80"),
        ("HTTP://MEDIA.example./ok?a=b#c", "1.1.1.1:80"),
        ("http://media.example:8080/ok", "1.1.1.1:8080"),
        ("http://[2606:4700:0::1]/ok", "[2606:4700::1]:80"),
        ("http://xn--mnchen-3ya.example/ok", "1.1.1.1:80"),
        ("http://media.example/to?/ok", "1.1.1.1:80"),
        ("http://media.example/to?ok", "1.1.1.1:80"),
        ("http://media.example/to?//media.example:8080/ok", "1.1.1.1:8080"),
    ] {
        let medium = take(&door, url(reference)).unwrap_or_else(|e| panic!("{reference}: {e}"));
        assert_eq!((medium.kind, medium.bytes), (Kind::Image, 30_000), "{reference}");
        assert_eq!(
            names.dialled.lock().unwrap().pop(),
            Some(address.parse().unwrap())
        );
    }
    // One look-up, and the address that it gave.
    let once = self::names(host());
    let door = remote(&["rebind.example"], &once);
    take(&door, url("http://rebind.example/ok")).unwrap();
    assert_eq!(once.looked_up.load(Ordering::SeqCst), 1);
    assert_eq!(once.dialled.lock().unwrap()[..], ["1.1.1.1:80".parse().unwrap()]);
}

#[test]
fn hostile_answers() {
    let names = names(host());
    let door = remote(&NAMED, &names);
    let first = names.dialled.lock().unwrap().len();
    for (to, status, says) in [
        ("http://127.0.0.1/x", 403, "without a public address"),
        ("http://localhost/ok", 403, "without a public address"),
        ("http://169.254.169.254/latest/", 403, "without a public address"),
        ("http://[::1]/ok", 403, "without a public address"),
        ("http://[::ffff:10.0.0.1]/ok", 403, "none of the hosts"),
        ("http://2130706433/ok", 422, "neither a name nor an address"),
        ("//loopback.example/ok", 403, "without a public address"),
        ("http://evil.example/ok", 403, "none of the hosts"),
        ("http://media.example:22/ok", 403, "none of the hosts"),
        ("http://x@media.example/ok", 422, "user name"),
        ("file:///etc/passwd", 422, "of a scheme that is not fetched"),
        ("file:/etc/passwd", 422, "without `://`"),
        ("data:image/png;base64,iVBORw0KGgo=", 422, "without `://`"),
        ("ftp://media.example/ok", 422, "of a scheme that is not fetched"),
        (
            "gopher://127.0.0.1:6379/_x",
            422,
            "of a scheme that is not fetched",
        ),
        ("/to?http://127.0.0.1/x", 403, "without a public address"),
    ] {
        refuses(&door, &format!("http://media.example/to?{to}"), status, says);
    }
    // Each asked the first host alone, the last one twice.
    let dialled = names.dialled.lock().unwrap()[first..].to_vec();
    assert!(
        dialled.len() == 17 && dialled.iter().all(|a| a.ip() == IpAddr::from([1, 1, 1, 1])),
        "{dialled:?}"
    );
    // A host whose address is another behind its own redirect.
    let rebound = self::names(host());
    refuses(
        &remote(&NAMED, &rebound),
        "http://rebind.example/to?/ok",
        403,
        "without a public address",
    );
    assert_eq!(rebound.dialled.lock().unwrap().len(), 1);
    let began = Instant::now();
    for (path, status, says) in [
        ("/endless", 413, "larger than a medium may be"),
        ("/endless-plain", 413, "larger than a medium may be"),
        ("/claims", 413, "larger than a medium may be"),
        ("/drip", 504, "within 2 s"),
        ("/drip-head", 504, "within 2 s"),
        ("/silent", 504, "within 2 s"),
        ("/short", 422, "ends before the medium does"),
        ("/short-chunk", 422, "ends before the medium does"),
        ("/long", 422, "no known format"),
        ("/negative", 422, "cannot be fetched"),
        ("/gzip", 422, "compressed"),
        ("/br", 422, "compressed"),
        ("/headers", 422, "does not answer as HTTP"),
        ("/garbage", 422, "cannot be fetched"),
        ("/playlist", 422, "list of other files"),
        ("/page", 422, "no known format"),
        ("/nothing", 422, "empty"),
        ("/part", 422, "answers 206"),
        ("/nowhere", 422, "answers 302"),
        ("/missing", 422, "answers 404"),
        ("/to?/to?/to?/to?/to?/ok", 422, "more than 4 times"),
    ] {
        refuses(&door, &format!("http://media.example{path}"), status, says);
    }
    refuses(&door, "http://slow.example/ok", 504, "within 2 s");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[test]
fn who_is_gone_is_not_waited_for() {
    let names = names(host());
    let mut door = remote(&NAMED, &names);
    door.rules.fetch = Duration::from_mins(1);
    for path in ["media.example/drip", "media.example/silent", "slow.example/ok"] {
        let cancel = Cancel::default();
        let later = cancel.clone();
        let soon = thread::spawn(move || {
            thread::sleep(Duration::from_millis(300));
            later.set();
        });
        let began = Instant::now();
        let refused = door
            .take(&[(None, url(&format!("http://{path}")))], &cancel)
            .unwrap_err();
        assert_eq!(refused.status, 499, "{path}: {refused}");
        assert!(began.elapsed() < Duration::from_secs(5), "{path}");
        soon.join().unwrap();
    }
}

#[test]
fn proxies_of_the_environment_are_not_asked() {
    // The client's configuration is the one that is used: a proxy would get the name, and look it up again.
    let agent = remote::agent_for_tests(&rules());
    assert!(agent.config().proxy().is_none());
    assert_eq!(agent.config().max_redirects(), 0);
}
