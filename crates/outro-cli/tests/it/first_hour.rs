//! What a person meets in a first hour: files without flags, settings that do nothing, runs that grow or are stopped.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use crate::support::{args, command, finish, outro, tiny};

fn shapes() -> std::path::PathBuf {
    tiny().with_file_name("shapes.mp4")
}

#[test]
fn files_need_no_flag_and_questions_come_from_stdin() {
    let line = ["ask", "--model", "outro-tiny"];
    let by_flag = outro(
        [
            &line.map(Into::into)[..],
            &args!["--video", shapes(), "What do you see?"],
        ]
        .concat(),
    )
    .ok();
    let ask = |rest: &[std::ffi::OsString], stdin: &str| {
        let mut child = command()
            .args(line)
            .args(rest)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
        String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
    };
    assert_eq!(ask(&args![shapes(), "What do you see?"], ""), by_flag.stdout);
    assert_eq!(ask(&args![shapes(), "-"], "What do you see?\n"), by_flag.stdout);
    assert_eq!(
        ask(&args![shapes(), "--questions", "-"], "What do you see?\n"),
        by_flag.stdout
    );
    outro([&line.map(Into::into)[..], &args![shapes()]].concat()).fails(2, &["no QUESTION"]);
}

/// Before weights: the checkpoint has none.
#[test]
fn numbers_that_the_model_does_not_have_are_refused_before_weights() {
    let dir = tempfile::tempdir().unwrap();
    let model = crate::support::tiny_in(dir.path());
    fs::write(model.join("model.safetensors"), "no weights").unwrap();
    let base = args!["ask", "--model", &model, "what?"];
    for (extra, part) in [
        (["--layers", "99"], "layers are 0 to"),
        (["--set", "layers=0+99"], "layers are 0 to"),
        (["--strategy", "outro:layers=99"], "layers are 0 to"),
        (["--strategy", "heads:off=99.0"], "layers 0 to"),
        (["--strategy", "prune:layer=99,keep=0.5"], "layers are 0 to"),
        (["--prune", "layer=99,keep=0.5"], "layers are 0 to"),
        (["--interval", "99"], "layers"),
        (["--start-layer", "99"], "layers are 0 to"),
        (["--end-layer", "99"], "at most"),
    ] {
        let extra = extra.map(Into::into);
        outro([&base[..], &extra].concat()).fails(2, &[part]);
    }
    outro(&base).fails(1, &["model.safetensors"]);
    let sinks = args!["ask", "--model", tiny(), "--sinks", "0,99999", "what?"];
    outro(sinks).fails(2, &["99999", "the prompt's tokens are 0 to"]);
}

#[test]
fn an_ffmpeg_that_is_not_there_is_a_note() {
    let run = |program: &str| {
        let mut line = command();
        line.env("OUTRO_FFMPEG", program).args(["inspect"]).arg(shapes());
        finish(&mut line).ok().stderr
    };
    assert!(run("/no/such/ffmpeg").contains("OUTRO_FFMPEG = /no/such/ffmpeg is not there"));
    assert_eq!(run("none"), "", "said on purpose");
}

#[test]
fn inspect_knows_the_model_inside_the_program_and_names_its_rule() {
    assert!(
        outro(["inspect", "outro-tiny"])
            .ok()
            .stdout
            .contains("qwen2_5_omni")
    );
    let text = outro(args!["inspect", shapes()]).ok().stdout;
    assert!(text.contains("by the rules of Qwen2.5-Omni"), "{text}");
}

fn rows(log: &Path) -> Vec<Value> {
    let text = fs::read_to_string(log).unwrap();
    let all = text.lines().map(|l| serde_json::from_str::<Value>(l).unwrap());
    all.filter(|v| v["outro_eval"].is_null()).collect()
}

#[test]
fn a_log_grows_by_questions_and_strategies() {
    let dir = tempfile::tempdir().unwrap();
    // A directory that is not there is made.
    let log = dir.path().join("new/deep/log.jsonl");
    let data = tiny().with_file_name("world/daily-omni");
    let run = |extra: &[&str]| {
        let base = args![
            "eval",
            "run",
            "daily-omni",
            "--model",
            "outro-tiny",
            "--data",
            &data,
            "--out",
            &log
        ];
        let extra: Vec<_> = extra.iter().map(Into::into).collect();
        outro([&base[..], &extra].concat())
    };
    run(&["--limit", "2", "--strategy", "both"]).ok();
    let begun = rows(&log);
    assert_eq!(begun.len(), 4);
    let grown = run(&["--limit", "4", "--strategy", "var", "--strategy", "both"])
        .ok()
        .stdout;
    let all = rows(&log);
    assert_eq!(
        (all.len(), &all[..4]),
        (12, &begun[..]),
        "what was there stays as it was"
    );
    // The log's first strategy stays the one that others are compared with.
    assert!(grown.contains("| var      | baseline |"), "{grown}");
    assert_eq!(
        run(&["--limit", "4", "--strategy", "both", "--strategy", "var"])
            .ok()
            .stdout,
        grown
    );
    assert_eq!(rows(&log).len(), 12, "nothing was left to do");
    let report = outro(args!["eval", "report", &log, "--format", "csv"])
        .ok()
        .stdout;
    let heading: Vec<&str> = report.lines().next().unwrap().split(',').collect();
    for column in [
        "unanswered",
        "gained",
        "lost",
        "mcnemar_p",
        "reasons",
        "time_ratio",
    ] {
        assert!(heading.contains(&column), "{heading:?}");
    }
    run(&["--limit", "2", "--strategy", "both", "--strategy", "var"])
        .fails(1, &["4 questions, not 2", "another --out"]);
    run(&["--limit", "4"]).fails(1, &["also answered by var"]);
    let fps = [
        "--limit",
        "4",
        "--strategy",
        "both",
        "--strategy",
        "var",
        "--fps",
        "1",
    ];
    let said = run(&fps).fails(1, &["media.fps is 2.0, not 1.0"]).stderr;
    assert!(said.len() < 300, "{said}");
}

#[test]
fn a_benchmark_of_which_little_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let world = tiny().with_file_name("world/daily-omni");
    fs::copy(world.join("qa.json"), dir.path().join("qa.json")).unwrap();
    let log = dir.path().join("log.jsonl");
    let run = |extra: &[&str]| {
        let base = args![
            "eval",
            "run",
            "daily-omni",
            "--model",
            "outro-tiny",
            "--data",
            dir.path(),
            "--out",
            &log
        ];
        let extra: Vec<_> = extra.iter().map(Into::into).collect();
        outro([&base[..], &extra].concat())
    };
    run(&["--present"]).fails(1, &["none of the videos"]);
    let video = "Videos/00001/00001_video.mp4";
    fs::create_dir_all(dir.path().join("Videos/00001")).unwrap();
    fs::copy(world.join(video), dir.path().join(video)).unwrap();
    run(&[]).fails(1, &["are not there, the first", "--present"]);
    assert!(!log.exists(), "nothing was begun");
    let text = run(&["--present", "--strategy", "baseline"]).ok().stdout;
    assert!(text.contains("unanswered: still to be asked"), "{text}");
    let all = rows(&log);
    assert!(
        !all.is_empty() && all.iter().all(|r| r["video"] == "00001" && r["error"].is_null()),
        "{all:?}"
    );
}

#[cfg(unix)]
#[test]
fn a_stopped_run_says_that_the_same_command_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log.jsonl");
    let mut child = command()
        .args(["eval", "run", "daily-omni", "--model", "outro-tiny", "--data"])
        .arg(tiny().with_file_name("world/daily-omni"))
        .arg("--out")
        .arg(&log)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = || fs::read_to_string(&log).map_or(0, |t| t.lines().count());
    while lines() < 3 {
        std::thread::sleep(std::time::Duration::from_millis(5));
        assert!(
            child.try_wait().unwrap().is_none(),
            "it ended before it was stopped"
        );
    }
    let id = child.id().to_string();
    let sent = std::process::Command::new("kill")
        .args(["-INT", &id])
        .status()
        .unwrap();
    assert!(sent.success());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("the same command goes on"), "{said}");
}

#[test]
fn a_report_says_what_was_found_before_its_figures() {
    let dir = tempfile::tempdir().unwrap();
    let sinks = |rest: &[std::ffi::OsString]| {
        let base = args!["sinks", "--model", "outro-tiny", "--out", dir.path()];
        let ran = outro([&base[..], rest].concat()).ok();
        assert!(!ran.stderr.contains("Phi_VLM marks nothing"), "{}", ran.stderr);
        let page = fs::read_to_string(dir.path().join("report.html")).unwrap();
        let first = page.find("<figure>").unwrap();
        let strategies = fs::read_to_string(dir.path().join("strategies.txt")).unwrap();
        (page[..first].to_owned(), page, strategies)
    };
    let (intro, page, strategies) = sinks(&args![shapes(), "What do you see?"]);
    for part in [
        "far more attention than its content explains",
        "tokens are sinks, in layers",
        "not of the paper's kind",
    ] {
        assert!(intro.contains(part), "{part} is not in {intro}");
    }
    assert!(page.contains("nothing is drawn where neither marks one") && strategies.contains("prune"));
    let (_, page, strategies) = sinks(&args!["hello"]);
    assert!(!strategies.contains("prune"), "{strategies}");
    // Nobody looks from a video that is not there.
    assert!(
        page.contains("<td class=\"n\">-</td><td class=\"n\">-</td>"),
        "by video and by sound"
    );
}
