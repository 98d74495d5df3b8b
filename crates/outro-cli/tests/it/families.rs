//! Every command on every family with a tower: none of them knows which it has.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::support::{args, outro};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

const FAMILIES: [&str; 7] = [
    "qwen2-vl-tiny",
    "qwen2-5-vl-tiny",
    "llava-onevision-tiny",
    "videollama3-tiny",
    "video-salmonn2-tiny",
    "qwen3-vl-tiny",
    "qwen3-omni-tiny",
];

#[test]
fn commands_take_every_family() {
    let made = tempfile::tempdir().unwrap();
    let clip = fixtures().join("shapes.mp4");
    for family in FAMILIES {
        let model = fixtures().join(family);
        let out = |name: &str| made.path().join(format!("{family}-{name}"));
        let media = args!["--decoder", "builtin", "--frames", "4", "--max-pixels", "3136"];
        let with = |command: &str, more: &[OsString]| {
            let mut line = args![command, "--model", &model].to_vec();
            line.extend_from_slice(more);
            outro(line).ok()
        };
        let asked = |command: &str, more: &[OsString]| {
            let mut line = args!["--video", &clip].to_vec();
            line.extend_from_slice(&media);
            line.extend_from_slice(more);
            line.extend(args!["What?"]);
            with(command, &line)
        };
        let answer = asked(
            "ask",
            &args!["--strategy", "both", "--max-new-tokens", "3", "--json"],
        );
        assert!(answer.stdout.contains("outro"), "{family}");
        let inputs = out("inputs.safetensors");
        asked("prepare", &args!["--out", &inputs]);
        for (i, golden) in [inputs.as_path(), &model.join("cases/video-2.safetensors")]
            .into_iter()
            .enumerate()
        {
            let trace = out(&format!("trace-{i}.safetensors"));
            with("trace", &args!["--inputs", golden, "--out", &trace]);
            assert!(Path::new(&trace).is_file(), "{family}");
        }
        asked("sinks", &args!["--out", &out("lab")]);
        let every = "vcd+outro avcd:entropy=0 mod farsight var prune:layer=2,keep=0.5";
        let mut all = args!["--max-new-tokens", "2"].to_vec();
        all.extend(
            every
                .split(' ')
                .flat_map(|name| args!["--strategy", name].to_vec()),
        );
        assert!(asked("ask", &all).stdout.contains("vcd+outro"), "{family}");
        let mut run = args![
            "eval",
            "run",
            "daily-omni",
            "--model",
            &model,
            "--limit",
            "2",
            "--out"
        ]
        .to_vec();
        run.extend(args![
            &out("log.jsonl"),
            "--data",
            fixtures().join("world/daily-omni")
        ]);
        run.extend_from_slice(&media);
        outro(run).ok();
        let bench = args![
            "--prompt-tokens",
            "30",
            "--new-tokens",
            "2",
            "--frames",
            "0",
            "--rounds",
            "1",
            "--json"
        ];
        assert!(with("bench", &bench).stdout.contains("prefill"), "{family}");
        assert!(
            outro(args!["inspect", &model]).ok().stdout.contains("vision"),
            "{family}"
        );
        let inspected = outro(args!["inspect", &clip, "--model", &model, "--decoder", "builtin"]).ok();
        assert!(inspected.stdout.contains("tokens"), "{family}");
    }
}
