//! `outro sinks` and pruning, as a user runs them.

use std::fs;
use std::path::PathBuf;

use crate::support::outro;

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

fn files(dir: &std::path::Path) -> Vec<String> {
    let mut all: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    all.sort();
    all
}

#[test]
fn a_report_is_whole_and_needs_nothing_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("new/lab");
    let clip = fixtures().join("shapes.mp4");
    let run = |more: &[&str]| {
        let mut args: Vec<PathBuf> = vec!["-q".into(), "sinks".into(), "--video".into(), clip.clone()];
        args.extend(["--out".into(), out.clone()]);
        args.extend(more.iter().map(PathBuf::from));
        outro(args).ok()
    };
    let said = run(&["--tau", "2", "--prune", "layer=4,keep=0.5", "<b>What?</b>"]).stdout;
    assert!(said.contains("report.html") && said.contains("pruned"), "{said}");
    let want = [
        "cosines.csv",
        "heads.csv",
        "layers.csv",
        "profile.json",
        "report.html",
        "strategies.txt",
    ];
    assert_eq!(files(&out), want);
    let page = fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.len() < 3 << 20, "{} bytes", page.len());
    assert!(page.contains("&lt;b&gt;What?&lt;/b&gt;") && !page.contains("<b>What?"));
    assert!(page.contains("prefers-color-scheme: dark") && page.contains("data:image/png;base64,"));
    for outside in ["<script", "src=\"http", "href=\"http", "@import", "url("] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    let record: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(out.join("profile.json")).unwrap()).unwrap();
    assert_eq!(record["strategy"], "baseline/prune:layer=4,keep=0.5");
    let profile = &record["one"]["profile"];
    let layers = profile["layers"].as_array().unwrap();
    let tokens = profile["kinds"].as_array().unwrap().len() as u64;
    assert_eq!(layers[4]["tokens"].as_u64(), Some(tokens));
    assert!(layers[5]["tokens"].as_u64().unwrap() < tokens);
    let rows = fs::read_to_string(out.join("layers.csv")).unwrap();
    assert_eq!(rows.lines().count(), layers.len() + 1);

    // Each figure is a picture too; those of an earlier report go.
    let figures = out.join("figures");
    fs::create_dir(&figures).unwrap();
    fs::write(figures.join("old.png"), "x").unwrap();
    run(&["--png", "--tau", "2", "What?"]);
    let names = files(&figures);
    assert!(
        names.contains(&"tokens-that-each-detector-marks.png".to_owned()),
        "{names:?}"
    );
    assert!(
        names.iter().any(|n| n.starts_with("frame-of-video-0")) && !names.contains(&"old.png".to_owned())
    );
    let page = fs::read_to_string(out.join("report.html")).unwrap();
    assert_eq!(names.len(), page.matches("<figure>").count());
    for name in &names {
        let bytes = fs::read(figures.join(name)).unwrap();
        assert!(
            bytes.starts_with(b"\x89PNG") && bytes.len() > 2000,
            "{name}: {} bytes",
            bytes.len()
        );
    }

    // Sinks by hand are what is watched.
    run(&["--sinks", "0,5", "What?"]);
    let record: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(out.join("profile.json")).unwrap()).unwrap();
    assert_eq!(record["one"]["profile"]["watched"], serde_json::json!([0, 5]));
}

#[test]
fn a_set_gives_means_with_intervals() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["-q", "sinks", "--task", "avhbench", "--limit", "3", "--data"].map(PathBuf::from);
    let more = [
        fixtures().join("world/avhbench"),
        "--out".into(),
        dir.path().into(),
    ];
    outro(args.into_iter().chain(more)).ok();
    let heads = fs::read_to_string(dir.path().join("heads.csv")).unwrap();
    assert!(
        heads.starts_with("layer,head,sink_mass,sink_mass_half"),
        "{heads}"
    );
    let page = fs::read_to_string(dir.path().join("report.html")).unwrap();
    assert!(page.contains("3 questions of avhbench") && page.contains("class=\"band"));
}

#[test]
fn prepared_inputs_are_looked_at_too() {
    let dir = tempfile::tempdir().unwrap();
    let tiny = fixtures().join("omni-tiny");
    let inputs = tiny.join("cases/audio-in-video.inputs.safetensors");
    let args = [
        "-q".into(),
        "sinks".into(),
        "--model".into(),
        tiny,
        "--inputs".into(),
        inputs,
    ];
    let said = outro(args.into_iter().chain(["--out".into(), dir.path().into()]))
        .ok()
        .stdout;
    assert!(said.starts_with("layers 0 to "), "{said}");
}

#[test]
fn what_cannot_be_meant_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "x").unwrap();
    let here = dir.path().to_str().unwrap();
    let clip = fixtures().join("shapes.mp4");
    let clip = clip.to_str().unwrap();
    outro(["-q", "sinks", "--out", here, "--tau", "0", "x"]).fails(2, &["--tau"]);
    outro(["-q", "sinks", "--out", file.to_str().unwrap(), "x"]).fails(1, &["--out"]);
    outro(["-q", "sinks", "--out", here, "--dims", "9999", "x"]).fails(2, &["sink dimensions", "9999"]);
    // Said where it would be misread: outro-tiny is too narrow for the usual value.
    let said = outro(["sinks", "--out", here, "--tau", "20", "x"]).ok().stderr;
    assert!(
        said.contains("Phi_VLM marks nothing") && said.contains("--tau"),
        "{said}"
    );
    outro(["-q", "ask", "--video", clip, "--prune", "layer=99,keep=0.2", "x"]).fails(2, &["prune", "99"]);
    assert_eq!(outro(["ask", "--prune", "layer=1", "x"]).code, Some(2));
    let lab = tempfile::tempdir().unwrap();
    let out = lab.path().to_str().unwrap();
    outro(["-q", "sinks", "--out", out, "--prune", "layer=99,keep=0.2", "x"])
        .fails(2, &["prune", "99", "layers are 0 to"]);
}

#[test]
fn interventions_are_scored_and_shown() {
    let dir = tempfile::tempdir().unwrap();
    let (log, out) = (dir.path().join("q2.jsonl"), dir.path().join("lab"));
    let data = fixtures().join("world/avhbench");
    let names = [
        "baseline",
        "zero-k:top=1",
        "zero-k:top=8",
        "sink-attention:scale=0",
        "sink-attention:scale=0,sinks=1",
        "sink-value:scale=2",
        "heads:off=2.0+2.2",
    ];
    let mut args: Vec<PathBuf> = ["-q", "eval", "run", "avhbench", "--data"]
        .map(PathBuf::from)
        .to_vec();
    args.extend([data, "--limit".into(), "4".into(), "--out".into(), log.clone()]);
    args.extend(names.iter().flat_map(|n| ["--strategy".into(), PathBuf::from(n)]));
    outro(args).ok();
    let rows = fs::read_to_string(&log).unwrap();
    assert_eq!(rows.lines().count(), 1 + 4 * names.len());
    let args: [PathBuf; 7] = [
        "-q".into(),
        "sinks".into(),
        "x".into(),
        "--scores".into(),
        log,
        "--out".into(),
        out.clone(),
    ];
    outro(args).ok();
    let page = fs::read_to_string(out.join("report.html")).unwrap();
    assert!(
        page.contains("sink-attention:scale=0,sinks=1") && page.contains("Accuracy by zeroed dimensions")
    );
    let all = fs::read_to_string(out.join("strategies.txt")).unwrap();
    assert!(
        all.lines().any(|l| l.starts_with("sink-attention:scale=0")),
        "{all}"
    );
    let bad: Vec<PathBuf> = [
        "-q",
        "eval",
        "run",
        "avhbench",
        "--strategy",
        "sink-attention:scale=-1",
        "--data",
    ]
    .map(PathBuf::from)
    .into_iter()
    .chain([
        fixtures().join("world/avhbench"),
        "--out".into(),
        dir.path().join("bad.jsonl"),
    ])
    .collect();
    outro(bad).fails(2, &["sink-attention", "from 0 up"]);
}

#[test]
fn pruning_is_seen_in_the_record_and_in_the_cache() {
    let clip = fixtures().join("shapes.mp4");
    let ask = |more: &[&str]| -> serde_json::Value {
        let mut args = vec![
            "-q",
            "ask",
            "--json",
            "--strategy",
            "baseline",
            "--video",
            clip.to_str().unwrap(),
        ];
        args.extend(more);
        args.push("What do you see?");
        serde_json::from_str(&outro(args).ok().stdout).unwrap()
    };
    let (all, few) = (ask(&[]), ask(&["--prune", "layer=2,keep=0.2"]));
    let bytes = |a: &serde_json::Value| a["answers"][0]["cache_bytes"].as_u64().unwrap();
    assert!(bytes(&few) < bytes(&all));
    assert!(few["answers"][0]["pruned"].as_u64().unwrap() > 0 && all["answers"][0]["pruned"].is_null());
}
