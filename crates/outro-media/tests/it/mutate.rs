//! Changed files: an error or a result, never a panic that reaches a message.

use std::path::Path;
use std::time::Duration;

use outro_media::{Options, probe, read_audio, read_frames, read_image};

use crate::support::{builtin, ffmpeg, ffmpeg_is_there, shared};

/// A small generator of numbers that a seed decides (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

/// Changes some bytes, most of them where headers are; or cuts, repeats or inserts.
fn changed(bytes: &[u8], r: &mut Random) -> Vec<u8> {
    let mut out = bytes.to_vec();
    let n = out.len();
    // Headers lie at the start, and an mp4's also at the end.
    let place = |r: &mut Random| match r.below(4) {
        0 => r.below(n),
        1 => n - 1 - r.below(n.min(4_000)),
        _ => r.below(n.min(1_000)),
    };
    for _ in 0..=r.below(8) {
        let at = place(r);
        out[at] = match r.below(3) {
            0 => r.next() as u8,
            1 => [0, 1, 0x7F, 0x80, 0xFF][r.below(5)],
            _ => out[at] ^ (1 << r.below(8)),
        };
    }
    if r.below(3) == 0 {
        let at = place(r).min(n.saturating_sub(4));
        let word = [0u32, 1, 8, 0x7FFF_FFFF, 0x8000_0000, u32::MAX][r.below(6)];
        out[at..at + 4.min(n)].copy_from_slice(&word.to_be_bytes()[..4.min(n)]);
    }
    match r.below(12) {
        0 => out.truncate(1 + r.below(n)),
        1 => {
            let (at, length) = (r.below(n), r.below(200));
            out.drain(at..(at + length).min(n));
        }
        2 => {
            let at = r.below(n);
            let piece = out[at..(at + 64).min(n)].to_vec();
            out.splice(at..at, piece);
        }
        _ => {}
    }
    out
}

/// Files of every kind that is read here.
fn seeds(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut out = Vec::new();
    let mut take = |path: &Path| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        out.push((name, std::fs::read(path).unwrap()));
    };
    take(&crate::fixtures().join("clip.mp4"));
    for name in [
        "exif6.jpg",
        "progressive.jpg",
        "palette.png",
        "moving.gif",
        "lossy.webp",
    ] {
        take(&crate::fixtures().join("pictures").join(name));
    }
    if let Some(cases) = shared("cases") {
        for name in [
            "video/frag.mp4",
            "video/cut.mp4",
            "video/size_change.mp4",
            "video/default_second.mkv",
            "audio/zerosize.wav",
        ] {
            take(&cases.join(name));
        }
    }
    if ffmpeg_is_there() {
        let tone = "-f lavfi -i sine=500:d=0.5";
        for (name, words) in [
            ("a.wav", ""),
            ("b.wav", "-c:a adpcm_ms"),
            ("a.flac", ""),
            ("a.ogg", "-c:a libvorbis"),
            ("a.mp3", "-c:a libmp3lame"),
            ("a.m4a", "-c:a aac"),
            ("b.m4a", "-c:a alac"),
            ("a.mov", "-c:a pcm_s24be"),
            ("a.mka", "-c:a aac"),
            ("a.aac", "-c:a aac"),
            ("low.m4a", "-c:a aac -ar 22050"),
            ("f.m4a", "-c:a aac -movflags frag_keyframe+empty_moov"),
        ] {
            ffmpeg(dir, &format!("{tone} {words} {name}"));
            take(&dir.join(name));
        }
    }
    out
}

/// Opens a file as everything that it can be; what is said must be fit for a person.
fn open(path: &Path, o: &Options) -> Vec<String> {
    let mut said = Vec::new();
    let mut keep = |e: outro_media::Error| said.push(e.to_string());
    match probe(path, o) {
        Err(e) => keep(e),
        Ok(info) => {
            // The video decoder is C++: in this process only the files' structure is read.
            if let (Some(video), true) = (&info.video, o.worker.is_some()) {
                let last = video.frames.clamp(1, 40) - 1;
                let _ = read_frames(&info, &[last], o).map_err(&mut keep);
            }
            if info.audio.is_some() {
                let _ = read_audio(&info, None, None, o).map_err(&mut keep);
            }
            if info.video.is_some() && info.audio.is_none() {
                let _ = read_image(path, o).map_err(&mut keep);
            }
        }
    }
    said
}

/// How many of `count` changed files end in a caught panic; none may end in the words of one.
fn mutate(count: usize, seed: u64, o: &Options) -> usize {
    let dir = tempfile::tempdir().unwrap();
    let seeds = seeds(dir.path());
    let mut caught = 0;
    for i in 0..count {
        let mut r = Random(seed.wrapping_add(i as u64));
        let (name, bytes) = &seeds[i % seeds.len()];
        let path = dir.path().join(format!("changed_{name}"));
        let bytes = changed(bytes, &mut r);
        std::fs::write(&path, &bytes).unwrap();
        for message in open(&path, o) {
            let bad = [
                "RUST_BACKTRACE",
                "panicked",
                "omitted",
                "unwrap",
                "index out of",
                "overflow",
            ];
            if bad.iter().any(|b| message.contains(b)) || !message.contains("changed_") {
                let kept = std::env::temp_dir().join(format!("mutate-{seed}-{i}-{name}"));
                std::fs::write(&kept, &bytes).unwrap();
                panic!("{}: {message}", kept.display());
            }
            if message.contains("failed on this file") || message.contains("crashed") {
                println!("{i}: {message}");
                caught += 1;
            }
        }
    }
    println!(
        "{count} changed files of {} kinds, seed {seed}: {caught} caught",
        seeds.len()
    );
    caught
}

/// 500 files; `OUTRO_MUTATIONS=20000 OUTRO_BINARY=target/debug/outro` is the long form, as the product runs, video decoder included.
#[test]
fn changed_files_end_in_messages() {
    let number = |name: &str, default| {
        std::env::var(name)
            .ok()
            .and_then(|n| n.parse().ok())
            .unwrap_or(default)
    };
    let o = Options {
        deadline: Duration::from_secs(20),
        worker: std::env::var_os("OUTRO_BINARY").map(Into::into),
        ..builtin()
    };
    let count = number("OUTRO_MUTATIONS", 500) as usize;
    mutate(count, number("OUTRO_SEED", 1), &o);
}
