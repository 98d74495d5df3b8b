//! One cache for OutRo and Python's huggingface_hub: what either leaves there the other reads.

use super::*;

/// A Python that has huggingface_hub: OUTRO_PYTHON, else python3. Where it has not, a test returns early, but not in CI.
fn python() -> Option<String> {
    let python = std::env::var("OUTRO_PYTHON").unwrap_or_else(|_| "python3".into());
    let run = Command::new(&python)
        .args(["-c", "import huggingface_hub"])
        .output();
    if run.is_ok_and(|r| r.status.success()) {
        return Some(python);
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "{python} has no huggingface_hub; set OUTRO_PYTHON to one that has"
    );
    println!("skipped: {python} has no huggingface_hub; set OUTRO_PYTHON to one that has");
    None
}

/// Runs a script with the home's cache; what it prints.
#[track_caller]
fn script(python: &str, home: &Home, server: &Server, text: &str) -> String {
    let output = Command::new(python)
        .args(["-c", text])
        .env("HF_HOME", home.dir.path())
        .env("HF_ENDPOINT", server.url())
        .env("HF_HUB_DISABLE_XET", "1")
        .env("HF_HUB_DISABLE_TELEMETRY", "1")
        .env("NO_PROXY", "127.0.0.1")
        .env("no_proxy", "127.0.0.1")
        .env_remove("HF_HUB_CACHE")
        .env_remove("HF_HUB_OFFLINE")
        .env_remove("HF_TOKEN")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn python_reads_a_cache_that_outro_made() {
    let Some(python) = python() else { return };
    let (server, home) = (Server::start(plan()), Home::new());
    home.run(&server, "tiny/omni", &[]).ok();
    let said = script(
        &python,
        &home,
        &server,
        r#"
import json
from huggingface_hub import hf_hub_download, scan_cache_dir, snapshot_download, try_to_load_from_cache
from huggingface_hub.file_download import _CACHED_NO_EXIST
found = scan_cache_dir()
[repo] = found.repos
[revision] = repo.revisions
print(json.dumps({
    "warnings": [str(w) for w in found.warnings],
    "repo": [repo.repo_id, repo.repo_type, repo.nb_files, repo.size_on_disk],
    "revision": [revision.commit_hash, sorted(revision.refs)],
    "config": try_to_load_from_cache("tiny/omni", "config.json"),
    "absent": try_to_load_from_cache("tiny/omni", "chat_template.jinja") is _CACHED_NO_EXIST,
    "unknown": try_to_load_from_cache("tiny/omni", "README.md"),
    "snapshot": snapshot_download("tiny/omni", local_files_only=True),
    "file": hf_hub_download("tiny/omni", "tokenizer.json", local_files_only=True),
}))
"#,
    );
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    let sizes: Vec<_> = fs::read_dir(home.repo().join("blobs"))
        .unwrap()
        .map(|b| b.unwrap().metadata().unwrap().len())
        .collect();
    let snapshot = home.snapshot();
    assert_eq!(
        said,
        serde_json::json!({
            "warnings": [],
            "repo": ["tiny/omni", "model", sizes.len(), sizes.iter().sum::<u64>()],
            "revision": [COMMIT, ["main"]],
            "config": snapshot.join("config.json"),
            "absent": true,
            "unknown": null,
            "snapshot": snapshot,
            "file": snapshot.join("tokenizer.json"),
        })
    );
    // The rest comes from the network; nothing that is there comes again.
    server.seen();
    script(
        &python,
        &home,
        &server,
        "from huggingface_hub import snapshot_download\nsnapshot_download('tiny/omni')",
    );
    assert!(
        !server
            .seen()
            .iter()
            .any(|s| s.cdn && s.method == "GET" && s.path.contains(SHARD))
    );
    home.run(&server, "tiny/omni", &[("HF_HUB_OFFLINE", "1")]).ok();
}

#[test]
fn outro_reads_a_cache_that_python_made() {
    let Some(python) = python() else { return };
    let (server, home) = (Server::start(plan()), Home::new());
    script(
        &python,
        &home,
        &server,
        "from huggingface_hub import snapshot_download\nsnapshot_download('tiny/omni')",
    );
    server.seen();
    home.run(&server, "tiny/omni", &[("HF_HUB_OFFLINE", "1")]).ok();
    assert_eq!(server.seen(), []);
    home.run(&server, "tiny/omni", &[]).ok();
    assert_eq!(server.seen().len(), 1, "only the commit is asked");
    // Some of it, as transformers fetches it.
    let home = Home::new();
    script(
        &python,
        &home,
        &server,
        "from huggingface_hub import hf_hub_download\nhf_hub_download('tiny/omni', 'config.json')",
    );
    home.run(&server, "tiny/omni", &[("HF_HUB_OFFLINE", "1")])
        .fails(1, &["only in part", "model.safetensors"]);
    home.run(&server, "tiny/omni", &[]).ok();
    home.is_complete();
}
