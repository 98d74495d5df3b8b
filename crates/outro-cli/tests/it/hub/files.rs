//! Which files are fetched, when, and what a cache says that lacks some.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use outro::checkpoint::files;

use super::*;

const OFFLINE: [(&str, &str); 1] = [("HF_HUB_OFFLINE", "1")];

/// The plan with every small file that there may be.
fn every_file() -> Plan {
    let mut plan = plan();
    for name in files::SMALL {
        let text = match *name {
            files::CHAT_JSON => r#"{"chat_template": "{{ messages }}"}"#,
            files::CHAT => "{{ messages }}",
            files::SETTINGS => r#"{"format": 1}"#,
            files::MERGES => "#version: 0.2\n",
            _ => "{}",
        };
        plan.files.entry((*name).into()).or_insert_with(|| text.into());
    }
    plan
}

/// As an earlier version left the cache that knew fewer names.
fn forget(home: &Home, name: &str) {
    for place in ["snapshots", ".no_exist"] {
        let path = home.repo().join(place).join(COMMIT).join(name);
        // It is in one of the two.
        let _ = fs::remove_file(path);
    }
}

#[track_caller]
fn asked(server: &Server, name: &str) -> bool {
    server.seen().iter().any(|s| s.path.contains(name))
}

#[test]
fn every_file_that_the_engine_reads_is_fetched() {
    let (server, home) = (Server::start(every_file()), Home::new());
    home.run(&server, "tiny/omni", &[]).ok();
    for name in files::SMALL {
        assert!(home.snapshot().join(name).exists(), "{name}");
    }
    assert!(!home.repo().join(".no_exist").exists());
    // What an earlier version did not know is fetched by this one, for a branch and for a commit.
    for model in ["tiny/omni".to_owned(), format!("tiny/omni@{COMMIT}")] {
        forget(&home, files::VIDEO_PREPROCESSOR);
        let ran = home.run(&server, &model, &OFFLINE).ok();
        assert!(ran.stderr.contains(files::VIDEO_PREPROCESSOR), "{}", ran.stderr);
        server.seen();
        home.run(&server, &model, &[]).ok();
        assert!(home.snapshot().join(files::VIDEO_PREPROCESSOR).exists());
        let seen = server.seen();
        assert!(!seen.iter().any(|s| s.path.contains(SHARD)), "{seen:?}");
        let ran = home.run(&server, &model, &OFFLINE).ok();
        assert!(!ran.stderr.contains("note"), "{}", ran.stderr);
    }
}

#[test]
fn what_a_repository_does_not_have_is_asked_once() {
    let (server, home) = (Server::start(plan()), Home::new());
    let pinned = format!("tiny/omni@{COMMIT}");
    home.run(&server, "tiny/omni", &[]).ok();
    assert!(
        home.repo()
            .join(".no_exist")
            .join(COMMIT)
            .join(files::CHAT)
            .exists()
    );
    forget(&home, files::CHAT);
    server.seen();
    home.run(&server, &pinned, &[]).ok();
    assert_eq!(server.seen().len(), 1);
    home.run(&server, &pinned, &[]).ok();
    assert_eq!(server.seen(), []);
    // Without an answer the cache serves as it is.
    forget(&home, files::CHAT);
    let ran = home
        .run(&server, &pinned, &[("HF_ENDPOINT", "http://127.0.0.1:1")])
        .ok();
    assert!(
        ran.stderr.contains("cannot be reached; using the cached"),
        "{}",
        ran.stderr
    );
}

#[test]
fn offline_names_what_is_missing() {
    let (server, home) = (Server::start(every_file()), Home::new());
    home.run(&server, "tiny/omni", &[]).ok();
    // Python's listing says that there is such a file.
    let trees = home.repo().join("trees");
    fs::create_dir(&trees).unwrap();
    let listing = serde_json::json!({"format_version": 1, "files": {files::VIDEO_PREPROCESSOR: {}}});
    fs::write(trees.join(format!("{COMMIT}.json")), listing.to_string()).unwrap();
    forget(&home, files::VIDEO_PREPROCESSOR);
    let parts = ["only in part", files::VIDEO_PREPROCESSOR, "HF_HUB_OFFLINE"];
    home.run(&server, "tiny/omni", &OFFLINE).fails(1, &parts);
    // A shard, and a link whose blob is gone.
    home.run(&server, "tiny/omni", &[]).ok();
    fs::remove_file(home.repo().join("blobs").join(sha256(&plan().files[SHARD]))).unwrap();
    home.run(&server, "tiny/omni", &OFFLINE)
        .fails(1, &["only in part", SHARD]);
    home.run(&server, "tiny/omni", &[]).ok();
    home.run(&server, "tiny/omni", &OFFLINE).ok();
}

#[test]
fn config_json_is_judged_before_weights_are_fetched() {
    let tiny = fs::read_to_string(tiny().join("config.json")).unwrap();
    for (config, why) in [
        (
            tiny.replace("qwen2_5_omni\"", "qwen9_moe\""),
            "unknown architecture `qwen9_moe",
        ),
        (
            tiny.replace("\"num_hidden_layers\": ", "\"num_hidden_layers\": -"),
            "num_hidden_layers",
        ),
        ("{".to_owned(), "not JSON"),
    ] {
        let (server, home) = (Server::start(plan()), Home::new());
        server.change(|plan| drop(plan.files.insert("config.json".into(), config.into_bytes())));
        let parts = ["tiny/omni", "config.json", why, "none of the weights was fetched"];
        home.run(&server, "tiny/omni", &[]).fails(1, &parts);
        let seen = server.seen();
        assert!(
            !seen
                .iter()
                .any(|s| s.path.contains(".safetensors?") || s.path.ends_with(".safetensors")),
            "{seen:?}"
        );
    }
}

#[test]
fn repositories_that_hold_something_else() {
    let (server, home) = (Server::start(plan()), Home::new());
    server.change(|plan| {
        plan.files.clear();
        let adapter = br#"{"base_model_name_or_path": "Qwen/Qwen2.5-VL-3B-Instruct"}"#;
        plan.files.insert(files::ADAPTER.into(), adapter.to_vec());
        plan.files
            .insert("adapter_model.safetensors".into(), vec![0; 200_000]);
    });
    // The adapter is fetched, and its base is looked for.
    home.run(&server, "tiny/omni", &[]).fails(
        1,
        &[
            "is an adapter of Qwen/Qwen2.5-VL-3B-Instruct",
            "cannot be opened",
            "hint: give the model and the adapter",
        ],
    );
    assert!(asked(&server, "adapter_model"));
    server.change(|plan| {
        plan.files.clear();
        plan.files.insert("m-q4_k_m.gguf".into(), vec![0; 200_000]);
    });
    home.run(&server, "tiny/omni", &[])
        .fails(1, &["m-q4_k_m.gguf", "is not a GGUF file"]);
}

/// A relative path with a slip in it looks like a hub id; nothing is asked without a word.
#[test]
fn a_name_that_may_be_a_path_is_told_so() {
    let (server, home) = (Server::start(plan()), Home::new());
    let here = tempfile::tempdir().unwrap();
    fs::create_dir_all(here.path().join("tiny/omnia")).unwrap();
    let run = |model: &str, env: &[(&str, &str)]| {
        finish(home.command(&server, model, env).current_dir(here.path()))
    };
    let beside = "the directory tiny here has no";
    run("tiny/omnib", &[]).fails(
        1,
        &[
            &format!("note: {beside} omnib (it holds omnia)"),
            "no such model, and the directory",
        ],
    );
    run("tiny/omni", &OFFLINE).fails(1, &["not in the cache", beside]);
    for file in ["tiny/model.gguf", "tiny/model.safetensors", "tiny/config.json"] {
        server.seen();
        run(file, &[]).fails(2, &[file, "no such file or directory"]);
        assert_eq!(server.seen(), [], "{file}");
    }
    let ran = run("tiny/omni", &[]).ok();
    assert!(ran.stderr.contains(beside), "{}", ran.stderr);
    let ran = run("tiny/omni", &[]).ok();
    assert!(!ran.stderr.contains(beside), "it is in the cache: {}", ran.stderr);
}

#[test]
fn listings_in_pages_and_without_hashes() {
    for (page, no_hashes) in [(3, false), (0, true)] {
        let server = Server::start(Plan {
            no_hashes,
            page,
            ..plan()
        });
        let home = Home::new();
        home.run(&server, "tiny/omni", &[]).ok();
        home.is_complete();
        let config = fs::read_link(home.snapshot().join("config.json")).unwrap();
        let hash = server::git_hash(&plan().files["config.json"]);
        assert_eq!(config, Path::new("../../blobs").join(hash));
    }
}

#[test]
fn damaged_small_files_are_seen_too() {
    let (server, home) = (
        Server::start(Plan {
            damage_small: 1,
            ..plan()
        }),
        Home::new(),
    );
    let ran = home.run(&server, "tiny/omni", &[]).ok();
    assert!(ran.stderr.contains("config.json came damaged"), "{}", ran.stderr);
    home.is_complete();
    let (server, home) = (
        Server::start(Plan {
            damage_small: 2,
            ..plan()
        }),
        Home::new(),
    );
    home.run(&server, "tiny/omni", &[])
        .fails(1, &["config.json came damaged twice"]);
    assert!(!home.snapshot().exists());
    home.run(&server, "tiny/omni", &[]).ok();
    home.is_complete();
}

#[test]
fn tokens_in_all_their_places() {
    let server = Server::start(Plan {
        token: Some("hf_secret".into()),
        ..plan()
    });
    let home = Home::new();
    let file = home.dir.path().join("elsewhere");
    fs::write(&file, "hf_secret").unwrap();
    fs::write(home.dir.path().join("token"), "hf_secret").unwrap();
    home.run(&server, "tiny/omni", &[("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")])
        .fails(1, &["401"]);
    let ran = home.run(&server, "tiny/omni", &[("HF_TOKEN", "hf_sec\u{e9}ret")]);
    assert!(!ran.stderr.contains("hf_sec"), "{}", ran.stderr);
    ran.fails(1, &["HF_TOKEN", "characters"]);
    fs::remove_file(home.dir.path().join("token")).unwrap();
    home.run(&server, "tiny/omni", &[]).fails(1, &["401"]);
    home.run(&server, "tiny/omni", &[("HF_TOKEN_PATH", file.to_str().unwrap())])
        .ok();
    home.is_complete();
    let other = Home::new();
    other
        .run(&server, "tiny/omni", &[("HUGGING_FACE_HUB_TOKEN", "hf_secret")])
        .ok();
}

/// A proxy that connects to where it is told, and counts.
fn proxy() -> (String, Arc<AtomicUsize>) {
    fn tunnel(mut client: TcpStream, count: &AtomicUsize) -> std::io::Result<()> {
        let mut lines = BufReader::new(client.try_clone()?).lines();
        let first = lines.next().unwrap_or(Ok(String::new()))?;
        let host = first
            .strip_prefix("CONNECT ")
            .and_then(|l| l.split(' ').next())
            .unwrap_or_default();
        while lines.next().is_some_and(|l| l.is_ok_and(|l| !l.is_empty())) {}
        let mut server = TcpStream::connect(host)?;
        count.fetch_add(1, Ordering::Relaxed);
        client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
        let (mut up_from, mut up_to) = (client.try_clone()?, server.try_clone()?);
        let up = std::thread::spawn(move || std::io::copy(&mut up_from, &mut up_to));
        std::io::copy(&mut server, &mut client)?;
        client.shutdown(std::net::Shutdown::Both)?;
        let _ = up.join();
        Ok(())
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, count) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&count);
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let counted = Arc::clone(&counted);
            // A client that goes away is no failure of the proxy.
            std::thread::spawn(move || tunnel(client, &counted).ok());
        }
    });
    (format!("http://{address}"), count)
}

#[test]
fn proxies_are_used_where_they_are_asked_for() {
    let (server, (url, count)) = (Server::start(plan()), proxy());
    let none = [("NO_PROXY", ""), ("no_proxy", "")];
    let set = [&none[..], &[("http_proxy", url.as_str())]].concat();
    let home = Home::new();
    home.run(&server, "tiny/omni", &set).ok();
    home.is_complete();
    let used = count.load(Ordering::Relaxed);
    assert!(used > 0);
    // Spared hosts, another scheme.
    for env in [
        vec![("HTTP_PROXY", url.as_str())],
        [&none[..], &[("https_proxy", url.as_str())]].concat(),
    ] {
        Home::new().run(&server, "tiny/omni", &env).ok();
    }
    assert_eq!(count.load(Ordering::Relaxed), used);
    let socks = [&none[..], &[("ALL_PROXY", "socks5://127.0.0.1:1")]].concat();
    Home::new()
        .run(&server, "tiny/omni", &socks)
        .fails(1, &["ALL_PROXY", "SOCKS"]);
}
