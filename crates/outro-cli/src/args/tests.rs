use std::path::Path;

use outro::chat::Part;
use outro::method::OutRoConfig;

use super::*;

fn run(line: &[&str]) -> Result<Invocation, String> {
    parse(
        std::iter::once("outro")
            .chain(line.iter().copied())
            .map(OsString::from),
    )
    .map_err(|e| match e {
        Ok(clap) => clap.to_string(),
        Err(e) => format!("{e:#}"),
    })
}

fn ask(line: &[&str]) -> Result<Ask, String> {
    let line: Vec<&str> = std::iter::once("ask").chain(line.iter().copied()).collect();
    match run(&line)?.action {
        Action::Ask(a) => Ok(*a),
        other => Err(format!("{other:?}")),
    }
}

fn touch(dir: &Path, name: &str) -> String {
    let path = dir.join(name);
    std::fs::write(&path, b"x").unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn the_command_is_well_formed() {
    Cli::command().debug_assert();
}

#[test]
fn media_keep_the_order_in_which_they_were_typed() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b, c, d) = (
        touch(dir.path(), "a"),
        touch(dir.path(), "b"),
        touch(dir.path(), "c"),
        touch(dir.path(), "d"),
    );
    let parsed = ask(&[
        "--audio", &a, "--video", &b, "--image", &c, "--video", &d, "what?",
    ])
    .unwrap();
    let names: Vec<String> = parsed
        .media
        .parts
        .iter()
        .map(|p| match p {
            Part::Video(p) => format!("v{}", p.file_name().unwrap().display()),
            Part::Image(p) => format!("i{}", p.file_name().unwrap().display()),
            Part::Audio(p) => format!("a{}", p.file_name().unwrap().display()),
            Part::Text(t) => t.clone(),
        })
        .collect();
    assert_eq!(names, ["aa", "vb", "ic", "vd"]);
    assert_eq!(parsed.questions, ["what?"]);
}

#[test]
fn files_without_a_flag_are_media_of_their_kind() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (clip, picture) = (file("a", b"\0\0\0\x1cftypisom"), file("b", b"\x89PNG\r\n"));
    let (sound, notes) = (
        file("c", b"RIFF\0\0\0\0WAVEfmt "),
        file("notes.txt", b"What is it?"),
    );
    let parsed = ask(&[&clip, "--image", &picture, &sound, "what?"]).unwrap();
    let want = [
        Part::Video(clip.clone().into()),
        Part::Image(picture.clone().into()),
        Part::Audio(sound.clone().into()),
    ];
    assert_eq!(
        (parsed.media.parts, parsed.questions),
        (want.to_vec(), vec!["what?".to_owned()])
    );
    for (line, parts) in [
        (&[clip.as_str()][..], ["no QUESTION", "quotes"]),
        (&[&notes], ["notes.txt is a file", "--questions"]),
        (&["--video", &picture, "q"], ["is a picture", "--image"]),
        (&["--image", &clip, "q"], ["is a video", "--video"]),
        (&["--video", &sound, "q"], ["is sound", "--audio"]),
    ] {
        let error = run_hint(line);
        assert!(parts.iter().all(|p| error.contains(p)), "{line:?}: {error}");
    }
    ask(&["--audio", &clip, "q"]).unwrap();
}

/// What is printed about a command line that is refused.
fn run_hint(line: &[&str]) -> String {
    let all = ["outro", "ask"].iter().chain(line).map(OsString::from);
    match parse(all).unwrap_err() {
        Ok(clap) => clap.to_string(),
        Err(e) => crate::fault::render(&e).0,
    }
}

/// The method on a model without settings of its own.
fn method(ask: &Ask) -> OutRoConfig {
    ask.strategies.outro.on(OutRoConfig::default()).unwrap()
}

#[test]
fn outro_is_on_by_default_and_every_switch_reaches_it() {
    let plain = ask(&["q"]).unwrap();
    assert_eq!(method(&plain), OutRoConfig::default());
    assert!(plain.strategies.names.is_empty(), "the usual one of the model");

    let line = [
        "--gamma",
        "2",
        "--gate-temperature",
        "0.2",
        "--abs-threshold",
        "50",
        "--median-multiple",
        "500",
        "--start-layer",
        "1",
        "--end-layer",
        "9",
        "--interval",
        "3",
        "--always",
        "--no-rotate",
        "--no-relax",
        "--no-rescale",
        "--decode",
        "release",
        "--sinks",
        "0,4",
        "--set",
        "gamma=2",
        "q",
    ];
    let mut want = OutRoConfig::default();
    for (k, v) in [
        ("gamma", "2"),
        ("gate_temperature", "0.2"),
        ("abs_threshold", "50"),
        ("median_multiple", "500"),
        ("start_layer", "1"),
        ("end_layer", "9"),
        ("interval", "3"),
        ("once", "false"),
        ("rotate", "false"),
        ("relax", "false"),
        ("rescale", "false"),
        ("decode", "release"),
        ("sinks", "0,4"),
    ] {
        want.set(k, v).unwrap();
    }
    assert_eq!(method(&ask(&line).unwrap()), want);
    let mut want = OutRoConfig::default();
    want.set("layers", "0,5").unwrap();
    for typed in ["0,5", "0+5"] {
        assert_eq!(method(&ask(&["--layers", typed, "q"]).unwrap()), want);
    }

    let both = ask(&["--strategy", "both", "q"]).unwrap().strategies;
    assert_eq!(both.names, ["baseline", "outro"]);
    let base = ask(&["--strategy", "baseline", "q"]).unwrap().strategies;
    assert_eq!(base.names, ["baseline"]);
}

#[test]
fn values_that_cannot_be_meant_are_refused_by_name() {
    for (line, part) in [
        (&["--fps", "0", "q"][..], "--fps"),
        (&["--fps", "-2", "q"], "--fps"),
        (&["--fps", "nan", "q"], "--fps"),
        (&["--frames", "1", "q"], "--frames"),
        (&["--start", "-1", "q"], "--start"),
        (&["--start", "5", "--end", "5", "q"], "--end"),
        (&["--max-pixels", "10", "q"], "--max-pixels"),
        (&["--max-tokens-per-video", "0", "q"], "--max-tokens-per-video"),
        (&["--deadline", "0", "q"], "--deadline"),
        (&["--deadline", "inf", "q"], "--deadline"),
        (&["--temperature", "-1", "q"], "--temperature"),
        (&["--top-p", "0", "q"], "--top-p"),
        (&["--top-p", "1.1", "q"], "--top-p"),
        (&["--min-p", "1.5", "q"], "--min-p"),
        (&["--repetition-penalty", "0", "q"], "--repetition-penalty"),
        (&["--top-k", "-1", "q"], "-1"),
        (&["--greedy", "--top-k", "5", "q"], "--greedy"),
        (&["--max-new-tokens", "0", "q"], "--max-new-tokens"),
        (&["--decoder", "magic", "q"], "magic"),
        (&["--strategy", "nothing", "q"], "nothing"),
        (&["--dtype", "int3", "q"], "int3"),
        (&["--quantize", "q5", "q"], "q8_0, q6_k, q4_k"),
        (&["--no-quantize-cache", "q"], "--quantize"),
        (&["--activations", "int3", "q"], "int3"),
        (&["--kv", "f8", "q"], "f32, f16, q8_0, q4"),
        (&["--threads", "99999", "q"], "--threads"),
        (&["--set", "gamma", "q"], "KEY=VALUE"),
        (&["--set", "gama=2", "q"], "gama"),
        (&["--gamma", "x", "q"], "gamma"),
        (&["--decode", "both", "q"], "decode"),
        (&["--once", "--always", "q"], "--always"),
        (&["--strategy", "baseline", "--gamma", "2", "q"], "baseline"),
        (
            &["--strategy", "outro:gamma=2", "--gamma", "4", "q"],
            "gamma=4 contradict",
        ),
        (
            &[
                "--strategy",
                "vcd+outro:temperature=1",
                "--gate-temperature",
                "2",
                "q",
            ],
            "contradict",
        ),
        (
            &["--strategy", "outro:interval=2", "--layers", "0", "q"],
            "contradict",
        ),
        (
            &["--gamma", "2", "--set", "gamma=2.5", "q"],
            "gamma=2 and gamma=2.5",
        ),
        (&["--interval", "2", "--layers", "0", "q"], "--layers"),
        (&["--interval", "2", "--set", "layers=0", "q"], "contradict"),
        (&["--strategy", "otro", "q"], "mean `outro`"),
        (&["no-such.mp4", "q"], "no-such.mp4"),
        (&["one", "two"], "two questions"),
        (&["--video", "no/such/file.mp4", "q"], "no/such/file.mp4"),
        (&["  "], "empty"),
        (&[""], "empty"),
        (&[], "QUESTION"),
        (&["--questions", "no/such/file", "q"], "--questions"),
        (&["--questions", "no/such/file"], "no/such/file"),
        (&["--nonsense", "q"], "--nonsense"),
    ] {
        let error = ask(line).unwrap_err();
        assert!(error.contains(part), "{line:?}: {error}");
    }
}

#[test]
fn strategies_are_names_of_the_lab() {
    let names = |line: &[&str]| ask(line).map(|a| a.strategies.names);
    assert_eq!(
        names(&["--strategy", "both", "q"]).unwrap(),
        ["baseline", "outro"]
    );
    let several = [
        "--strategy",
        "vcd:alpha=0.5+outro",
        "--strategy",
        "mod",
        "--gamma",
        "2",
        "q",
    ];
    assert_eq!(names(&several).unwrap(), ["vcd:alpha=0.5+outro", "mod"]);
    for (line, part) in [
        (&["--strategy", "vcd:alpha=x", "q"][..], "vcd:alpha"),
        (&["--strategy", "vcd+avcd", "q"], "only one"),
        (&["--strategy", "both", "--strategy", "outro", "q"], "twice"),
        (
            &["--strategy", "vcd", "--gamma", "2", "q"],
            "vcd, which has no use",
        ),
    ] {
        let error = names(line).unwrap_err();
        assert!(error.contains(part), "{line:?}: {error}");
    }
}

#[test]
fn questions_come_one_per_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("q.txt");
    std::fs::write(&path, "first?\r\n\n  second?  \n").unwrap();
    assert_eq!(
        ask(&["--questions", path.to_str().unwrap()]).unwrap().questions,
        ["first?", "second?"]
    );
    std::fs::write(&path, "\n\n").unwrap();
    assert!(
        ask(&["--questions", path.to_str().unwrap()])
            .unwrap_err()
            .contains("no question")
    );
}

#[test]
fn trace_takes_settings_and_captures() {
    let line = [
        "trace",
        "--model",
        "m",
        "--inputs",
        "i",
        "--out",
        "o",
        "--set",
        "decode=release",
        "--capture",
        "vbar,hidden",
    ];
    let Action::Trace(t) = run(&line).unwrap().action else {
        panic!("not trace")
    };
    let mut want = OutRoConfig::default();
    want.set("decode", "release").unwrap();
    assert_eq!(t.outro.unwrap().on(OutRoConfig::default()).unwrap(), want);
    assert_eq!(t.capture, [CaptureFlag::Vbar, CaptureFlag::Hidden]);
    assert_eq!((t.steps, t.last), (8, 8));
    for (extra, part) in [
        (["--set", "nope=1"], "nope"),
        (["--capture", "all"], "all"),
        (["--last", "0"], "--last"),
        (["--steps", "-1"], "-1"),
    ] {
        let error = run(&[&line[..7], &extra[..]].concat()).unwrap_err();
        assert!(error.contains(part), "{extra:?}: {error}");
    }
    assert!(
        run(&[&line[..7], &["--strategy", "baseline", "--set", "gamma=1"][..]].concat())
            .unwrap_err()
            .contains("baseline")
    );
}

#[test]
fn global_flags_may_follow_the_command() {
    assert_eq!(
        run(&["ask", "q", "--threads", "3", "--quiet"]).unwrap().threads,
        3
    );
    assert_eq!(run(&["--threads", "3", "doctor"]).unwrap().threads, 3);
}

/// Every flag stands under the heading of its kind, whatever is flattened before it.
#[test]
fn help_has_every_flag_under_its_heading() {
    const HEADINGS: [(&str, &[&str]); 5] = [
        (
            "Media",
            &[
                "video",
                "image",
                "audio",
                "fps",
                "frames",
                "start",
                "end",
                "max_pixels",
                "max_tokens_per_video",
                "no_audio_in_video",
                "no_exif",
                "decoder",
                "deadline",
                "allowed_local_media_path",
                "allowed_media_domains",
                "allow_plain_http",
                "limit_mm_per_prompt",
                "max_media_size",
                "max_body_size",
                "max_media_seconds",
                "fetch_timeout",
                "decode_timeout",
            ],
        ),
        (
            "Limits",
            &[
                "max_model_len",
                "max_num_seqs",
                "max_queue",
                "max_loaded_models",
                "cache_memory",
                "shutdown_timeout",
            ],
        ),
        (
            "OutRo",
            &[
                "gamma",
                "gate_temperature",
                "abs_threshold",
                "median_multiple",
                "start_layer",
                "end_layer",
                "interval",
                "layers",
                "once",
                "always",
                "no_rotate",
                "no_relax",
                "no_rescale",
                "decode",
                "sinks",
                "set",
                "prune",
            ],
        ),
        (
            "Sampling",
            &[
                "max_new_tokens",
                "greedy",
                "temperature",
                "top_k",
                "top_p",
                "min_p",
                "repetition_penalty",
                "seed",
            ],
        ),
        (
            "Memory",
            &["dtype", "quantize", "no_quantize_cache", "activations", "kv"],
        ),
    ];
    // What a command has for itself under such a name has no heading.
    const OWN: [(&str, &str); 10] = [
        ("bench", "frames"),
        ("bench", "layers"),
        ("demo", "seed"),
        ("run", "max_new_tokens"),
        ("synth", "seed"),
        ("trace", "set"),
        ("tune", "gamma"),
        ("tune", "gate_temperature"),
        ("tune", "layers"),
        ("tune", "max_new_tokens"),
    ];
    let mut commands = vec![Cli::command()];
    let mut seen = 0;
    while let Some(command) = commands.pop() {
        commands.extend(command.get_subcommands().cloned());
        for arg in command.get_arguments() {
            let id = arg.get_id().as_str();
            let own = OWN.contains(&(command.get_name(), id)) || (command.get_name(), id) == ("tune", "seed");
            let want = HEADINGS
                .iter()
                .find(|(_, ids)| ids.contains(&id) && !own)
                .map(|(h, _)| *h);
            assert_eq!(arg.get_help_heading(), want, "{} {id}", command.get_name());
            seen += usize::from(want.is_some());
        }
    }
    assert!(seen > 60, "{seen}");
}
