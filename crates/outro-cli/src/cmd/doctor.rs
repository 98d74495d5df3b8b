//! `outro doctor`: what this machine offers, and whether the parts that can fail by themselves work here.

mod fits;

use std::ffi::OsString;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use outro_media::{Decoder, Limits, Options};
use serde_json::{Value, json};

use crate::fault::Fault;
use crate::memory::total_and_free;
use crate::ui::bytes;

/// H.264 with B-frames in mp4: what the builtin decoder is for.
const CLIP: &[u8] = include_bytes!("../../../../fixtures/clip.mp4");
/// First, middle and last frame of the clip.
const FRAMES: [usize; 3] = [0, 20, 39];
/// Its samples at 16 kHz.
const SAMPLES: usize = 64_273;
/// A program that has not told its version by then hangs.
const LIMIT: Duration = Duration::from_secs(10);
/// A hub that has not answered by then counts as away.
const HUB: Duration = Duration::from_secs(3);

/// One line of the report.
struct Line {
    key: &'static str,
    /// For a reader.
    text: String,
    /// For a program.
    value: Value,
    /// Without this, `outro ask` does not work.
    broken: bool,
}

impl Line {
    fn new(key: &'static str, text: impl Into<String>, value: Value) -> Self {
        Self {
            key,
            text: text.into(),
            value,
            broken: false,
        }
    }
}

/// Prints the report on stdout. It fails where something is broken that the main command needs.
pub(crate) fn run(as_json: bool) -> anyhow::Result<()> {
    let (memory, available) = memory();
    let mut lines = vec![
        version(),
        cpu(),
        threads(),
        memory,
        fits::models(available)?,
        ffmpeg(),
        builtin(),
        isolation(),
        cache(),
        own_cache(),
        hub(),
    ];
    lines.push(verdict(&lines));
    let mut out = std::io::stdout().lock();
    if as_json {
        let all: serde_json::Map<String, Value> = lines
            .iter()
            .map(|l| (l.key.to_owned(), l.value.clone()))
            .collect();
        writeln!(out, "{:#}", Value::Object(all))?;
    } else {
        for line in &lines {
            writeln!(out, "{:<10} {}", line.key, line.text)?;
        }
    }
    out.flush()?;
    match lines.iter().find(|l| l.broken) {
        Some(line) => Err(Fault::failure(format!("{}: {}", line.key, line.text)).into()),
        None => Ok(()),
    }
}

/// Whether `outro ask` works here, in one line.
fn verdict(lines: &[Line]) -> Line {
    let broken: Vec<&str> = lines.iter().filter(|l| l.broken).map(|l| l.key).collect();
    let ready = broken.is_empty();
    let text = if ready {
        let ffmpeg = lines
            .iter()
            .any(|l| l.key == "ffmpeg" && l.value["works"] == true);
        let formats = if ffmpeg {
            "all formats that ffmpeg reads"
        } else {
            "mp4 and mov with H.264 and AAC, usual sounds and images"
        };
        format!("ready: {formats}; try `outro demo`")
    } else {
        format!("not ready: {} must be mended", broken.join(", "))
    };
    Line::new("verdict", text, json!({"ready": ready, "broken": broken}))
}

/// Where the program's own model and quantised weights are kept, and what they take.
fn own_cache() -> Line {
    let Some(dir) = crate::cache::dir() else {
        return Line::new(
            "own cache",
            "no place for one; set OUTRO_CACHE to a directory",
            Value::Null,
        );
    };
    let size = size_of(&dir);
    let text = format!(
        "{}: {} (OUTRO_CACHE chooses the place)",
        dir.display(),
        bytes(size)
    );
    Line::new("own cache", text, json!({"path": dir, "bytes": size}))
}

/// Bytes of all files below a directory; links are not followed.
fn size_of(dir: &Path) -> u64 {
    let mut total = 0;
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(meta) = entry.metadata() else { continue };
        total += if meta.is_dir() {
            size_of(&entry.path())
        } else {
            meta.len()
        };
    }
    total
}

/// Whether the hub answers, within a few seconds.
fn hub() -> Line {
    let settings = outro_hub::Settings::from_env();
    let url = settings.endpoint;
    if settings.offline {
        let text = "not asked: HF_HUB_OFFLINE forbids the network";
        return Line::new("hub", text, json!({"endpoint": url, "reachable": null}));
    }
    let asked = || -> anyhow::Result<u16> {
        let client = outro_hub::http::client(&url)?.timeout_global(Some(HUB));
        let agent: ureq::Agent = client.build().into();
        Ok(agent.head(&url).call()?.status().as_u16())
    };
    match asked() {
        Ok(status) => Line::new(
            "hub",
            format!("{url} answers"),
            json!({"endpoint": url, "reachable": true, "status": status}),
        ),
        Err(e) => Line::new(
            "hub",
            format!(
                "{url} does not answer ({e:#}); models that are in the cache, or directories, work without it"
            ),
            json!({"endpoint": url, "reachable": false, "error": format!("{e:#}")}),
        ),
    }
}

fn version() -> Line {
    let (version, os, arch) = (
        env!("CARGO_PKG_VERSION"),
        std::env::consts::OS,
        std::env::consts::ARCH,
    );
    let build = if cfg!(debug_assertions) { "dev" } else { "release" };
    let value = json!({"version": version, "os": os, "arch": arch, "build": build});
    Line::new(
        "outro",
        format!("{version}, {build} build for {os} {arch}"),
        value,
    )
}

#[cfg(target_arch = "x86_64")]
fn features() -> Vec<&'static str> {
    macro_rules! detected {
        ($($name:tt),*) => { [$(($name, std::arch::is_x86_feature_detected!($name))),*] };
    }
    let all = detected!(
        "avx2",
        "fma",
        "f16c",
        "avx512f",
        "avx512bw",
        "avx512vnni",
        "avx512bf16",
        "avx512fp16"
    );
    all.into_iter()
        .filter(|(_, there)| *there)
        .map(|(name, _)| name)
        .collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn features() -> Vec<&'static str> {
    Vec::new()
}

fn cpu() -> Line {
    let features = features();
    let text = if features.is_empty() {
        "no SIMD features that the kernels use".into()
    } else {
        features.join(" ")
    };
    Line::new("cpu", text, json!({"features": features}))
}

fn threads() -> Line {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let used = rayon::current_num_threads();
    Line::new(
        "threads",
        format!("{used} used, {cores} available"),
        json!({"used": used, "available": cores}),
    )
}

/// The line, and bytes that are free to use.
fn memory() -> (Line, Option<u64>) {
    let (total, available) = total_and_free();
    let text = match (total, available) {
        (Some(t), Some(a)) => format!("{}, {} available", bytes(t), bytes(a)),
        _ => "unknown on this system".into(),
    };
    let value = json!({"total": total, "available": available});
    (Line::new("memory", text, value), available)
}

/// The program's name, as the variable has it or by default.
fn ffmpeg_name() -> OsString {
    std::env::var_os("OUTRO_FFMPEG")
        .filter(|v| !v.is_empty())
        .unwrap_or_else(|| OsString::from("ffmpeg"))
}

/// What OUTRO_FFMPEG names, if it is not there; `none` names nothing on purpose.
pub(crate) fn ffmpeg_that_is_not_there() -> Option<String> {
    let name = ffmpeg_name();
    let meant = name != "ffmpeg" && name != NONE;
    (meant && program(&name).is_none()).then(|| Path::new(&name).display().to_string())
}

/// The value of OUTRO_FFMPEG that says that there shall be none.
const NONE: &str = "none";

fn ffmpeg() -> Line {
    let name = ffmpeg_name();
    if name == NONE {
        return Line::new("ffmpeg", "not used: OUTRO_FFMPEG=none", Value::Null);
    }
    match (program(&name), name == "ffmpeg") {
        (Some(path), _) => match first_line(&path) {
            Ok(line) => {
                let version = line
                    .strip_prefix("ffmpeg version ")
                    .and_then(|r| r.split(' ').next())
                    .unwrap_or(&line);
                works(&path, version)
            }
            Err(e) => Line::new(
                "ffmpeg",
                format!("{} does not run: {e}", path.display()),
                json!({"path": path, "error": e.to_string()}),
            ),
        },
        (None, true) => Line::new(
            "ffmpeg",
            "not installed; mp4 and mov with H.264 and AAC, wav, mp3, flac, ogg, png, jpeg, webp and gif work without it",
            Value::Null,
        ),
        (None, false) => {
            let text = format!("OUTRO_FFMPEG={} is not there", Path::new(&name).display());
            Line::new("ffmpeg", text.clone(), json!({"error": text}))
        }
    }
}

/// Whether an ffmpeg that runs can also decode: versions differ in what they understand.
fn works(path: &Path, version: &str) -> Line {
    let probes = outro_media::ffprobe_found();
    let beside = if probes { "" } else { ", without ffprobe" };
    let what = format!("{version} at {}{beside}", path.display());
    let mut value = json!({"path": path.display().to_string(), "version": version, "ffprobe": probes});
    let decoded = decode(Decoder::Ffmpeg, false);
    value["works"] = decoded.is_ok().into();
    match decoded {
        Ok(_) => Line::new("ffmpeg", format!("works: {what}"), value),
        Err(e) => {
            value["error"] = format!("{e:#}").into();
            let text = format!(
                "does not work: {what}: {e:#}; set OUTRO_FFMPEG to another one, or use --decoder builtin"
            );
            Line {
                broken: true,
                ..Line::new("ffmpeg", text, value)
            }
        }
    }
}

/// A program by path, or by name along PATH.
fn program(name: &OsString) -> Option<PathBuf> {
    let path = Path::new(name);
    if path.components().count() > 1 {
        return path.is_file().then(|| path.to_path_buf());
    }
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|dir| dir.join(path))
        .find(|p| p.is_file())
}

fn first_line(program: &Path) -> anyhow::Result<String> {
    let mut child = Command::new(program)
        .arg("-version")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut pipe = child.stdout.take().context("no output")?;
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        // A program that prints without end is cut off here.
        pipe.by_ref().take(1 << 16).read_to_end(&mut text).map(|_| text)
    });
    let since = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if since.elapsed() > LIMIT {
            child.kill()?;
            child.wait()?;
            anyhow::bail!("no answer within {} s", LIMIT.as_secs());
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    anyhow::ensure!(status.success(), "{status}");
    let text = reader
        .join()
        .map_err(|_| anyhow::anyhow!("its output cannot be read"))??;
    Ok(String::from_utf8_lossy(&text)
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned())
}

/// Decodes a clip that this binary carries, in a child process as `outro ask` does.
fn builtin() -> Line {
    let since = Instant::now();
    match decode(Decoder::Builtin, false) {
        Ok((w, h)) => {
            let seconds = since.elapsed().as_secs_f64();
            let text = format!(
                "works: {} frames of {w} x {h} in {seconds:.2} s, in a process of its own",
                FRAMES.len()
            );
            Line::new("decoder", text, json!({"works": true, "seconds": seconds}))
        }
        Err(e) => {
            let text = format!("does not work: {e:#}");
            Line {
                broken: true,
                ..Line::new(
                    "decoder",
                    text,
                    json!({"works": false, "error": format!("{e:#}")}),
                )
            }
        }
    }
}

/// What keeps decoders of strangers' files apart: tried, where a kernel may know a call and still refuse it.
fn isolation() -> Line {
    let has = outro_media::isolation();
    let mut parts = Vec::new();
    parts.extend(has.limits.then(|| "limits of memory, time and files".to_owned()));
    parts.extend(has.network.then(|| "no network (seccomp)".to_owned()));
    parts.push(match has.landlock {
        Some(version) => format!("one file only (Landlock {version})"),
        None => "no Landlock here, so all files that this user may read".into(),
    });
    let tried = decode(Decoder::Builtin, true);
    let text = match &tried {
        Ok(_) => format!("decoders of a server: {}", parts.join(", ")),
        Err(e) => format!("decoders of a server cannot be kept apart: {e:#}"),
    };
    let value = json!({
        "works": tried.is_ok(),
        "limits": has.limits,
        "network": has.network,
        "landlock": has.landlock,
    });
    Line::new("isolation", text, value)
}

fn decode(decoder: Decoder, isolate: bool) -> anyhow::Result<(usize, usize)> {
    let path = std::env::temp_dir().join(format!(
        "outro-doctor-{}-{decoder}-{isolate}.mp4",
        std::process::id()
    ));
    let _gone_after = Remove(&path);
    fs::write(&path, CLIP).with_context(|| format!("{}: cannot be written", path.display()))?;
    let worker = std::env::current_exe().context("this program's own path")?;
    let options = Options {
        decoder,
        deadline: LIMIT * 3,
        worker: Some(worker),
        limits: Limits {
            isolate,
            ..Limits::default()
        },
        ..Options::default()
    };
    let file = outro_media::probe(&path, &options)?;
    let frames = outro_media::read_frames(&file, &FRAMES, &options)?;
    let samples = outro_media::read_audio(&file, None, None, &options)?
        .samples
        .len();
    anyhow::ensure!(
        samples.abs_diff(SAMPLES) < 1000,
        "{samples} samples instead of {SAMPLES}"
    );
    anyhow::ensure!(
        frames.count == FRAMES.len(),
        "{} frames instead of {}",
        frames.count,
        FRAMES.len()
    );
    // The orange square starts at the left and ends at the right.
    let orange = |t: usize, x: usize, y: usize| {
        let at = ((t * frames.height + y) * frames.width + x) * 3;
        frames
            .data
            .get(at)
            .zip(frames.data.get(at + 2))
            .is_some_and(|(r, b)| *r > 180 && *b < 80)
    };
    anyhow::ensure!(
        orange(0, 50, 120) && !orange(2, 50, 120),
        "the frames do not show what the clip shows"
    );
    Ok((frames.width, frames.height))
}

struct Remove<'a>(&'a Path);

impl Drop for Remove<'_> {
    fn drop(&mut self) {
        // It may never have been written.
        let _ = fs::remove_file(self.0);
    }
}

fn cache() -> Line {
    let settings = outro_hub::Settings::from_env();
    let dir = settings.cache;
    let (mut models, mut size) = (0, 0);
    for repo in fs::read_dir(&dir).into_iter().flatten().flatten() {
        if !repo.file_name().to_string_lossy().starts_with("models--") {
            continue;
        }
        models += 1;
        let blobs = fs::read_dir(repo.path().join("blobs"))
            .into_iter()
            .flatten()
            .flatten();
        size += blobs
            .filter_map(|b| b.metadata().ok())
            .map(|m| m.len())
            .sum::<u64>();
    }
    let offline = settings.offline;
    let note = if offline {
        "; HF_HUB_OFFLINE forbids the network"
    } else {
        ""
    };
    let text = format!("{}: {models} models, {}{note}", dir.display(), bytes(size));
    Line::new(
        "hub cache",
        text,
        json!({"path": dir, "models": models, "bytes": size, "offline": offline}),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_hangs_or_fails_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let script = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            #[cfg(unix)]
            {
                use std::os::unix::fs::PermissionsExt;
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            }
            path
        };
        assert!(
            first_line(&script("bad", "#!/bin/sh\nexit 3\n"))
                .unwrap_err()
                .to_string()
                .contains('3')
        );
        assert_eq!(
            first_line(&script("good", "#!/bin/sh\necho ffmpeg version 9 x\n")).unwrap(),
            "ffmpeg version 9 x"
        );
        assert!(first_line(&dir.path().join("none")).is_err());
    }
}
