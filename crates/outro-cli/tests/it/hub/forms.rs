//! Repositories that hold no config.json: GGUF files with their towers, and adapters.

use super::*;

const OFFLINE: [(&str, &str); 1] = [("HF_HUB_OFFLINE", "1")];

/// A repository with two quantisations of Qwen2-VL, which are the same file here, and towers in two types.
fn quantised() -> Plan {
    let mut plan = Plan {
        large: 50_000,
        ..Plan::default()
    };
    let from = fixtures_dir().join("mmproj/qwen2-vl");
    let read = |name: &str| fs::read(from.join(name)).unwrap();
    for (name, file) in [
        ("Tiny-Q4_K_M.gguf", "Qwen2-VL-tiny-BF16.gguf"),
        ("Tiny-Q8_0.gguf", "Qwen2-VL-tiny-BF16.gguf"),
        ("mmproj-Tiny-bf16.gguf", "mmproj-Qwen2-VL-tiny-BF16.gguf"),
        ("mmproj-Tiny-Q8_0.gguf", "mmproj-Qwen2-VL-tiny-Q8_0.gguf"),
    ] {
        plan.files.insert(name.into(), read(file));
    }
    plan.files.insert("README.md".into(), b"not for us".to_vec());
    plan
}

fn fixtures_dir() -> PathBuf {
    tiny().join("..")
}

fn held(home: &Home) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(home.snapshot())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_quantisation_and_its_towers_are_fetched() {
    let (server, home) = (Server::start(quantised()), Home::new());
    let ran = home.run(&server, "tiny/omni", &[]).ok();
    assert!(ran.stdout.contains("family       qwen2_vl"), "{}", ran.stdout);
    for said in [
        "Q4_K_M (430.3 KiB)",
        "Q8_0 (430.3 KiB)",
        "Q4_K_M is taken",
        "mmproj-Tiny-bf16.gguf",
    ] {
        assert!(ran.stderr.contains(said), "{said}: {}", ran.stderr);
    }
    assert_eq!(held(&home), ["Tiny-Q4_K_M.gguf", "mmproj-Tiny-bf16.gguf"]);
    // The cache is enough, by the same name.
    let ran = home.run(&server, "tiny/omni", &OFFLINE).ok();
    assert!(ran.stdout.contains("Tiny-Q4_K_M.gguf"), "{}", ran.stdout);
    let ran = home.run(&server, "tiny/omni:Q8_0", &OFFLINE);
    assert_ne!(ran.code, Some(0));
    let ran = home.run(&server, "tiny/omni:q8_0", &[]).ok();
    assert!(ran.stdout.contains("Tiny-Q8_0.gguf"), "{}", ran.stdout);
    assert!(!ran.stderr.contains("is taken"), "{}", ran.stderr);
    let pinned = format!("tiny/omni:Q8_0@{COMMIT}");
    server.seen();
    home.run(&server, &pinned, &[]).ok();
    assert_eq!(
        server.seen(),
        [],
        "a commit whose files are there needs no network"
    );
    let ran = home.run(&server, "tiny/omni:Q2_K", &[]);
    assert_ne!(ran.code, Some(0));
    assert!(
        ran.stderr
            .contains("tiny/omni holds no Q2_K; it holds Q4_K_M, Q8_0"),
        "{}",
        ran.stderr
    );
}

#[test]
fn an_adapter_is_loaded_with_its_base() {
    let mut plan = Plan {
        large: 1000,
        ..Plan::default()
    };
    let from = fixtures_dir().join("adapters/vision");
    let mut config: serde_json::Value =
        serde_json::from_slice(&fs::read(from.join("adapter_config.json")).unwrap()).unwrap();
    config["base_model_name_or_path"] = fixtures_dir()
        .join("qwen2-5-vl-tiny")
        .display()
        .to_string()
        .into();
    plan.files
        .insert("adapter_config.json".into(), config.to_string().into_bytes());
    let weights = fs::read(from.join("adapter_model.safetensors")).unwrap();
    plan.files.insert("adapter_model.safetensors".into(), weights);
    let (server, home) = (Server::start(plan), Home::new());
    let ran = home.run(&server, "tiny/omni", &[]).ok();
    assert!(ran.stdout.contains("family       qwen2_5_vl"), "{}", ran.stdout);
    assert!(ran.stderr.contains("is an adapter of"), "{}", ran.stderr);
    let ran = home.run(&server, "tiny/omni", &OFFLINE).ok();
    assert!(ran.stdout.contains("family       qwen2_5_vl"), "{}", ran.stdout);
}
