//! Checkpoints from a hub, end to end: the binary against a hub of our own on the loopback interface.

mod files;
mod forms;
mod python;
mod server;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::support::{Ran, command, finish, tiny};
use server::{COMMIT, Plan, Seen, Server, sha256};

const INDEX: &str = "model.safetensors.index.json";
const SHARD: &str = "model-00001-of-00002.safetensors";
const SPEECH: &str = "model-00002-of-00002.safetensors";

/// The tiny checkpoint as the real ones lie on the hub: an index, a shard for the thinker, one for speech output.
fn plan() -> Plan {
    let mut plan = Plan {
        large: 100_000,
        ..Plan::default()
    };
    for name in [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "preprocessor_config.json",
        "generation_config.json",
    ] {
        plan.files
            .insert(name.into(), fs::read(tiny().join(name)).unwrap());
    }
    let weights = fs::read(tiny().join("model.safetensors")).unwrap();
    let header: serde_json::Value = {
        let n = u64::from_le_bytes(weights[..8].try_into().unwrap()) as usize;
        serde_json::from_slice(&weights[8..8 + n]).unwrap()
    };
    let mut map: serde_json::Map<_, _> = header
        .as_object()
        .unwrap()
        .keys()
        .filter(|k| *k != "__metadata__")
        .map(|k| (k.clone(), SHARD.into()))
        .collect();
    map.insert("talker.codec_head.weight".into(), SPEECH.into());
    map.insert("token2wav.code2wav.x".into(), SPEECH.into());
    let index = serde_json::json!({"metadata": {"total_size": weights.len()}, "weight_map": map});
    plan.files.insert(INDEX.into(), index.to_string().into_bytes());
    plan.files.insert(SHARD.into(), weights);
    plan.files.insert(SPEECH.into(), vec![7; 200_000]);
    plan.files.insert("README.md".into(), b"not for us".to_vec());
    plan.files.insert("spk_dict.pt".into(), vec![1; 1000]);
    plan
}

struct Home {
    dir: TempDir,
}

impl Home {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn repo(&self) -> PathBuf {
        self.dir.path().join("hub/models--tiny--omni")
    }

    fn snapshot(&self) -> PathBuf {
        self.repo().join("snapshots").join(COMMIT)
    }

    fn run(&self, server: &Server, model: &str, env: &[(&str, &str)]) -> Ran {
        finish(&mut self.command(server, model, env))
    }

    fn command(&self, server: &Server, model: &str, env: &[(&str, &str)]) -> Command {
        let mut c = command();
        for name in [
            "HF_TOKEN",
            "HF_TOKEN_PATH",
            "HF_HUB_CACHE",
            "HUGGINGFACE_HUB_CACHE",
            "HF_HUB_OFFLINE",
            "HF_HUB_DISABLE_IMPLICIT_TOKEN",
            "HUGGING_FACE_HUB_TOKEN",
            "TRANSFORMERS_OFFLINE",
        ] {
            c.env_remove(name);
        }
        c.env("HF_HOME", self.dir.path())
            .env("HF_ENDPOINT", server.url())
            .env("NO_PROXY", "127.0.0.1")
            .env("no_proxy", "127.0.0.1");
        c.envs(env.iter().copied());
        c.args(["inspect", model]);
        c
    }

    /// The cache holds exactly the wanted files, whole, in the layout of the Python library, and nothing half-done.
    #[track_caller]
    fn is_complete(&self) {
        let mut names: Vec<_> = fs::read_dir(self.snapshot())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        let wanted = [
            "config.json",
            "generation_config.json",
            SHARD,
            INDEX,
            "preprocessor_config.json",
            "tokenizer.json",
            "tokenizer_config.json",
        ];
        assert_eq!(names, wanted);
        for (name, content) in plan().files.iter().filter(|(n, _)| names.contains(n)) {
            assert!(
                fs::read(self.snapshot().join(name)).unwrap() == *content,
                "{name} differs"
            );
        }
        let link = fs::read_link(self.snapshot().join(SHARD)).unwrap();
        assert_eq!(link, Path::new("../../blobs").join(sha256(&plan().files[SHARD])));
        assert_eq!(
            fs::read_dir(self.repo().join("blobs")).unwrap().count(),
            names.len()
        );
    }
}

fn bodies(seen: &[Seen]) -> Vec<(&str, Option<&str>)> {
    seen.iter()
        .filter(|s| s.cdn && s.method == "GET")
        .map(|s| (s.path.as_str(), s.range.as_deref()))
        .collect()
}

#[test]
fn a_model_is_fetched_once_and_then_needs_no_network() {
    let (server, home) = (Server::start(plan()), Home::new());
    home.run(&server, "tiny/omni", &[]).ok();
    home.is_complete();
    assert_eq!(fs::read_to_string(home.repo().join("refs/main")).unwrap(), COMMIT);
    let seen = server.seen();
    for unread in [SPEECH, "README.md", "spk_dict.pt"] {
        assert!(
            !seen.iter().any(|s| s.path.contains(unread)),
            "{unread} was asked for"
        );
    }
    assert_eq!(bodies(&seen).len(), 1);

    home.run(&server, "tiny/omni", &[]).ok();
    let again = server.seen();
    assert_eq!(again.len(), 1, "only the commit is asked: {again:?}");

    home.run(&server, "tiny/omni", &[("HF_HUB_OFFLINE", "1")]).ok();
    home.run(&server, &format!("tiny/omni@{COMMIT}"), &[]).ok();
    assert_eq!(server.seen(), []);

    let nowhere = [("HF_ENDPOINT", "http://127.0.0.1:1")];
    let ran = home.run(&server, "tiny/omni", &nowhere).ok();
    assert!(
        ran.stderr
            .contains("cannot be reached; using the cached tiny/omni at 01234567"),
        "{}",
        ran.stderr
    );
}

#[test]
fn a_broken_transfer_goes_on_where_it_stopped() {
    let size = plan().files[SHARD].len();
    let server = Server::start(Plan {
        breaks: vec![1_000_000, 0, 500_000],
        ..plan()
    });
    let home = Home::new();
    home.run(&server, "tiny/omni", &[]).ok();
    home.is_complete();
    let seen = server.seen();
    let ranges: Vec<_> = bodies(&seen)
        .into_iter()
        .map(|(_, r)| r.map(str::to_owned))
        .collect();
    let from = |n: usize| Some(format!("bytes={n}-{}", size - 1));
    assert_eq!(ranges, [None, from(1_000_000), from(1_000_000), from(1_500_000)]);
}

#[test]
fn a_later_run_goes_on_where_an_earlier_one_stopped() {
    let server = Server::start(Plan {
        breaks: [vec![1_200_000], vec![0; 5]].concat(),
        ..plan()
    });
    let home = Home::new();
    home.run(&server, "tiny/omni", &[]).fails(
        1,
        &[
            "tiny/omni",
            SHARD,
            "broke off after 1.1 MiB of 2.8 MiB",
            "hint: run the command again",
        ],
    );
    assert!(!home.repo().join("refs/main").exists());
    assert!(!home.snapshot().join(SHARD).exists());
    home.run(&server, "tiny/omni", &[("HF_HUB_OFFLINE", "1")])
        .fails(1, &["not in the cache", "HF_HUB_OFFLINE"]);
    server.seen();
    home.run(&server, "tiny/omni", &[]).ok();
    home.is_complete();
    let seen = server.seen();
    assert_eq!(bodies(&seen).len(), 1);
    assert!(
        bodies(&seen)[0].1.unwrap().starts_with("bytes=1200000-"),
        "{seen:?}"
    );
}

#[test]
fn servers_without_ranges_and_damaged_bytes() {
    let server = Server::start(Plan {
        no_ranges: true,
        breaks: vec![900_000],
        ..plan()
    });
    let home = Home::new();
    home.run(&server, "tiny/omni", &[]).ok();
    home.is_complete();

    let server = Server::start(Plan {
        damage: true,
        ..plan()
    });
    let home = Home::new();
    let ran = home.run(&server, "tiny/omni", &[]).ok();
    assert!(
        ran.stderr.contains(SHARD) && ran.stderr.contains("damaged"),
        "{}",
        ran.stderr
    );
    home.is_complete();

    // An error page is never kept as a file.
    let server = Server::start(Plan {
        small_status: Some(403),
        ..plan()
    });
    let home = Home::new();
    home.run(&server, "tiny/omni", &[])
        .fails(1, &["config.json", "instead of"]);
    assert!(!home.snapshot().join("config.json").exists());
    server.change(|plan| plan.small_status = None);
    home.run(&server, "tiny/omni", &[]).ok();
    home.is_complete();
}

#[test]
fn tokens_go_to_the_hub_and_nowhere_else() {
    let server = Server::start(Plan {
        token: Some("hf_secret".into()),
        ..plan()
    });
    let home = Home::new();
    home.run(&server, "tiny/omni", &[])
        .fails(1, &["tiny/omni", "401", "HF_TOKEN"]);
    home.run(&server, "tiny/omni", &[("HF_TOKEN", "wrong")])
        .fails(1, &["401"]);
    server.seen();
    home.run(&server, "tiny/omni", &[("HF_TOKEN", "hf_secret")]).ok();
    home.is_complete();
    let seen = server.seen();
    assert!(seen.iter().filter(|s| s.cdn).count() > 0);
    for s in seen {
        assert_eq!(s.token.as_deref(), (!s.cdn).then_some("hf_secret"), "{s:?}");
    }
    let other = Home::new();
    fs::write(other.dir.path().join("token"), "hf_secret\n").unwrap();
    other.run(&server, "tiny/omni", &[]).ok();
    other.is_complete();
}

#[test]
fn names_that_lead_nowhere() {
    let (server, home) = (Server::start(plan()), Home::new());
    home.run(&server, "tiny/other", &[]).fails(
        1,
        &[
            "tiny/other",
            "no such model",
            "no directory of that name",
            "hint:",
        ],
    );
    home.run(&server, "tiny/omni@v9", &[])
        .fails(1, &["tiny/omni", "v9", "no branch, tag or commit"]);
    home.run(&server, "tiny/omni", &[("HF_HUB_OFFLINE", "true")])
        .fails(
            1,
            &["tiny/omni is not in the cache", "hint: unset HF_HUB_OFFLINE"],
        );
    home.run(&server, "tiny/omni", &[("HF_ENDPOINT", "http://127.0.0.1:1")])
        .fails(1, &["cannot be reached", "HF_ENDPOINT"]);
    home.run(&server, "tiny/omni", &[("HF_ENDPOINT", "no url")])
        .fails(1, &["HF_ENDPOINT"]);
    home.run(&server, "./tiny/omni", &[])
        .fails(2, &["./tiny/omni", "no such file or directory"]);

    server.change(|plan| drop(plan.files.remove(SHARD)));
    home.run(&server, "tiny/omni", &[])
        .fails(1, &[INDEX, SHARD, "does not have"]);
    server.change(|plan| drop(plan.files.remove("config.json")));
    home.run(&server, "tiny/omni", &[]).fails(1, &["no config.json"]);
}

#[test]
fn other_places_and_spellings() {
    let (server, home) = (Server::start(plan()), Home::new());
    let cache = home.dir.path().join("elsewhere");
    home.run(&server, "tiny/omni", &[("HF_HUB_CACHE", cache.to_str().unwrap())])
        .ok();
    assert!(
        cache
            .join("models--tiny--omni/snapshots")
            .join(COMMIT)
            .join(SHARD)
            .exists()
    );
    assert!(!home.repo().exists());
    // The hub answers for another case with relative redirects.
    home.run(&server, "TINY/omni", &[]).ok();
    assert!(
        home.dir
            .path()
            .join("hub/models--TINY--omni/snapshots")
            .join(COMMIT)
            .join(SHARD)
            .exists()
    );
}

#[test]
fn two_runs_at_once_share_one_transfer() {
    let (server, home) = (Server::start(plan()), Home::new());
    std::thread::scope(|s| {
        let runs: Vec<_> = (0..2)
            .map(|_| s.spawn(|| home.run(&server, "tiny/omni", &[]).ok()))
            .collect();
        for run in runs {
            run.join().unwrap();
        }
    });
    home.is_complete();
    assert_eq!(bodies(&server.seen()).len(), 1);
}
