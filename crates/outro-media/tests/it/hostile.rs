//! Files that lie, and decoders that misbehave: an error that names the file, never a panic or a hang.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use outro_media::{Decoder, Error, Options, Sampling, VideoInfo, probe, read_audio, read_frames, read_image};
use proptest::prelude::*;

fn builtin() -> Options {
    Options {
        decoder: Decoder::Builtin,
        ..Options::default()
    }
}

fn clip() -> Vec<u8> {
    std::fs::read(crate::fixtures().join("clip.mp4")).unwrap()
}

fn place(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn wav(channels: u16, rate: u32, claimed: u32, samples: &[i16]) -> Vec<u8> {
    let mut b = b"RIFF".to_vec();
    b.extend((36 + claimed).to_le_bytes());
    b.extend(b"WAVEfmt ");
    b.extend(16u32.to_le_bytes());
    b.extend(1u16.to_le_bytes());
    b.extend(channels.to_le_bytes());
    b.extend(rate.to_le_bytes());
    b.extend(rate.wrapping_mul(u32::from(channels) * 2).to_le_bytes());
    b.extend((channels * 2).to_le_bytes());
    b.extend(16u16.to_le_bytes());
    b.extend(b"data");
    b.extend(claimed.to_le_bytes());
    b.extend(samples.iter().flat_map(|s| s.to_le_bytes()));
    b
}

fn names_it<T: std::fmt::Debug>(path: &Path, r: Result<T, Error>) {
    let message = r.expect_err("must be refused").to_string();
    assert!(
        message.contains(&path.display().to_string()),
        "`{message}` does not name {}",
        path.display()
    );
}

fn sound(path: &Path, o: &Options) -> outro_media::Result<Vec<f32>> {
    Ok(read_audio(&probe(path, o)?, None, None, o)?.samples)
}

#[test]
fn damaged_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let whole = clip();
    let mut cases = vec![
        place(dir.path(), "empty.mp4", b""),
        place(dir.path(), "text.mp4", b"this is no video at all, only text"),
    ];
    for (i, keep) in [9, 40, 500, whole.len() / 2].into_iter().enumerate() {
        cases.push(place(dir.path(), &format!("cut{i}.mp4"), &whole[..keep]));
    }
    cases.push(dir.path().join("missing.mp4"));
    for path in &cases {
        for o in [builtin(), Options::default()] {
            let frames = probe(path, &o).and_then(|file| read_frames(&file, &[0, 38], &o));
            names_it(path, frames.map(|f| f.count));
            names_it(
                path,
                sound(path, &o).map(|s| s.len()).and_then(|n| {
                    if n < 60_000 {
                        Err(Error::NoStream {
                            path: path.clone(),
                            what: "audio stream",
                        })
                    } else {
                        Ok(n)
                    }
                }),
            );
        }
    }
}

#[test]
fn lying_wav_headers() {
    let dir = tempfile::tempdir().unwrap();
    let samples = vec![1000i16; 8000];
    let honest = place(dir.path(), "ok.wav", &wav(1, 8000, 16_000, &samples));
    assert_eq!(sound(&honest, &builtin()).unwrap().len(), 16_000);
    for (name, bytes) in [
        ("channels", wav(0, 8000, 16_000, &samples)),
        ("rate", wav(1, 0, 16_000, &samples)),
        ("nothing", wav(1, 8000, 0, &[])),
    ] {
        let path = place(dir.path(), &format!("{name}.wav"), &bytes);
        names_it(&path, sound(&path, &builtin()).map(|s| s.len()));
    }
    // A size that promises more than there is: what is there is read.
    let path = place(dir.path(), "more.wav", &wav(1, 8000, u32::MAX - 40, &samples));
    let seconds = probe(&path, &builtin()).unwrap().audio.unwrap().duration;
    assert!(seconds < 1.1, "{seconds} seconds of 8,000 samples at 8 kHz");
    if let Ok(s) = sound(&path, &builtin()) {
        assert!(s.len() <= 16_000, "{}", s.len());
    }
}

#[test]
fn pictures() {
    let dir = tempfile::tempdir().unwrap();
    // A png header that claims 30,000 x 30,000 pixels.
    let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
    png.extend(30_000u32.to_be_bytes());
    png.extend(30_000u32.to_be_bytes());
    png.extend([8, 2, 0, 0, 0, 0, 0, 0, 0]);
    let path = place(dir.path(), "huge.png", &png);
    names_it(&path, read_image(&path, &builtin()).map(|f| f.count));
    let path = place(dir.path(), "not.png", b"GIF89a..");
    names_it(&path, read_image(&path, &builtin()).map(|f| f.count));
    // Alpha is put on white.
    let path = dir.path().join("alpha.png");
    image::RgbaImage::from_pixel(2, 2, image::Rgba([0, 0, 0, 51]))
        .save(&path)
        .unwrap();
    assert_eq!(read_image(&path, &builtin()).unwrap().data, [204; 12]);
}

#[test]
fn formats_that_need_ffmpeg_say_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = place(dir.path(), "film.mkv", b"\x1A\x45\xDF\xA3 and so on and so on");
    let message = probe(&path, &builtin()).unwrap_err().to_string();
    assert!(
        message.contains("ffmpeg") && message.contains("Matroska") && message.contains("film.mkv"),
        "{message}"
    );
}

#[test]
fn times_and_counts() {
    let v = |frames| VideoInfo {
        codec: String::new(),
        width: 64,
        height: 64,
        fps: 10.0,
        frames,
        duration: 1.0,
    };
    assert!(
        Sampling::default()
            .indices(&v(1))
            .unwrap_err()
            .to_string()
            .contains("one frame")
    );
    assert!(Sampling::default().indices(&v(0)).is_err());
    let s = Sampling {
        start: Some(5.0),
        ..Sampling::default()
    };
    assert!(
        s.indices(&v(20))
            .unwrap_err()
            .to_string()
            .contains("behind the end of the video, which lasts 2.00 s")
    );
    let s = Sampling {
        frames: Some(50),
        ..Sampling::default()
    };
    assert!(s.indices(&v(20)).unwrap_err().to_string().contains("50"));
    assert!(
        Sampling {
            fps: f64::NAN,
            ..Sampling::default()
        }
        .indices(&v(20))
        .is_err()
    );
}

#[cfg(unix)]
#[test]
fn a_worker_that_hangs_or_crashes_is_an_error() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = place(dir.path(), "clip.mp4", &clip());
    for (name, script, says) in [
        ("hang", "exec sleep 600", "produced nothing for 1 s"),
        ("crash", "kill -SEGV $$", "crashed"),
        ("fail", "echo broken >&2; exit 1", "broken"),
    ] {
        let program = place(dir.path(), name, format!("#!/bin/sh\n{script}\n").as_bytes());
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let o = Options {
            decoder: Decoder::Builtin,
            worker: Some(program),
            deadline: Duration::from_secs(1),
            ..Options::default()
        };
        let began = Instant::now();
        let message = probe(&path, &o).unwrap_err().to_string();
        assert!(
            message.contains(says) && message.contains("clip.mp4"),
            "{message}"
        );
        assert!(began.elapsed() < Duration::from_secs(20));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn changed_bytes_never_panic(at in prop::collection::vec((0usize..16_000, any::<u8>()), 1..20)) {
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = clip();
        let n = bytes.len();
        for (i, b) in at {
            bytes[i % n] = b;
        }
        let path = place(dir.path(), "mutated.mp4", &bytes);
        // Sound and structure only: the video decoder is C++ and runs in a child process in the product.
        let _ = probe(&path, &builtin());
        let _ = sound(&path, &builtin());
    }
}
