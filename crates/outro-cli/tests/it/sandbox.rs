//! Decoders in children that have given up all but their file: the same bits, and nothing else in reach.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use outro_media::{Decoder, Limits, Options, isolation, probe, read_audio, read_frames, read_image};

use crate::support::ffmpeg;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

fn options(decoder: Decoder, isolate: bool) -> Options {
    Options {
        decoder,
        worker: Some(env!("CARGO_BIN_EXE_outro").into()),
        limits: Limits {
            isolate,
            ..Limits::default()
        },
        ..Options::default()
    }
}

/// Everything that is read of a file, or what is said about it.
fn all(path: &Path, o: &Options) -> Result<String, String> {
    let said = |e: outro_media::Error| e.to_string();
    let info = probe(path, o).map_err(said)?;
    let mut told = vec![format!("{info:?}")];
    if info.kind == outro_media::Kind::Image {
        let f = read_image(path, o).map_err(said)?;
        told.push(format!("{:?}", (f.height, f.width, f.data)));
        return Ok(told.concat());
    }
    if let Some(video) = &info.video {
        let f = read_frames(&info, &(0..video.frames).collect::<Vec<_>>(), o).map_err(said)?;
        told.push(format!("{:?}", (f.count, f.height, f.width, f.data)));
    }
    if info.audio.is_some() {
        let sound = read_audio(&info, None, None, o).map_err(said)?;
        let bits: Vec<u32> = sound.samples.iter().map(|x| x.to_bits()).collect();
        told.push(format!("{bits:?} {:?}", sound.notes));
    }
    Ok(told.concat())
}

#[test]
fn isolated_decoders_give_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let clip = fixtures().join("clip.mp4");
    let whole = fs::read(&clip).unwrap();
    let cut = dir.path().join("cut.mp4");
    fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    let mut files = vec![clip, fixtures().join("shapes.mp4"), cut];
    files.extend(
        fs::read_dir(fixtures().join("pictures"))
            .unwrap()
            .map(|e| e.unwrap().path()),
    );
    let mut decoders = vec![Decoder::Builtin];
    if ffmpeg() {
        decoders.push(Decoder::Ffmpeg);
        for (name, words) in [
            ("a.wav", "-f lavfi -i sine=d=1"),
            ("a.flac", "-f lavfi -i sine=d=1"),
            ("a.mp3", "-f lavfi -i sine=d=1"),
            (
                "a.png",
                "-f lavfi -i testsrc2=s=64x48 -frames:v 1 -pix_fmt rgba64be",
            ),
            ("a.bmp", "-f lavfi -i testsrc2=s=64x48 -frames:v 1"),
            ("a.webm", "-f lavfi -i testsrc2=s=64x48:r=10:d=1"),
        ] {
            let path = dir.path().join(name);
            let made = Command::new("ffmpeg")
                .args(["-v", "error", "-nostdin"])
                .args(words.split(' '))
                .arg(&path)
                .status();
            assert!(made.unwrap().success(), "{name}");
            files.push(path);
        }
    }
    let mut read = 0;
    for file in files {
        for decoder in &decoders {
            let [plain, apart] = [false, true].map(|isolate| all(&file, &options(*decoder, isolate)));
            let same = plain == apart;
            assert!(
                same,
                "{} {decoder}: {:?} {:?}",
                file.display(),
                plain.err(),
                apart.err()
            );
            read += usize::from(plain.is_ok());
        }
    }
    assert!(read >= 5, "{read}");
}

/// A shell in place of ffmpeg, confined for `file`.
fn shell(file: &Path, script: &str, env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outro"));
    let confined = r#"{"memory": 1073741824, "processor": 5}"#;
    command
        .args([outro_media::worker::ARG, confined, "exec"])
        .arg(file);
    command.args(["/bin/sh", "-c", script]).envs(env.iter().copied());
    command.output().unwrap()
}

#[cfg(target_os = "linux")]
#[test]
fn a_confined_program_reads_its_file_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let (own, other) = (dir.path().join("own"), dir.path().join("other"));
    fs::write(&own, "mine").unwrap();
    fs::write(&other, "secret").unwrap();
    let ran = shell(&own, &format!("cat {}", own.display()), &[]);
    assert_eq!(ran.stdout, b"mine", "{}", String::from_utf8_lossy(&ran.stderr));
    let made = dir.path().join("made");
    // Files: by Landlock; one that is written also by its size.
    let ran = shell(&own, &format!("echo x > {}", made.display()), &[]);
    assert!(!ran.status.success());
    assert_eq!(fs::read(&made).unwrap_or_default(), b"");
    if isolation().landlock.is_none() {
        println!("note: this kernel has no Landlock, what it refuses was not tried");
    } else {
        let all = [
            other.as_path(),
            Path::new("/etc/passwd"),
            Path::new("/proc/1/environ"),
            dir.path(),
        ];
        for path in all {
            let ran = shell(&own, &format!("cat {0} {0}/*", path.display()), &[]);
            assert!(
                !ran.status.success() && ran.stdout.is_empty(),
                "{}",
                path.display()
            );
        }
    }
    // The network: somebody listens, and nobody comes.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let bash = format!("bash -c 'exec 3<>/dev/tcp/127.0.0.1/{port}' 2>&1");
    let ran = shell(&own, &bash, &[]);
    assert!(!ran.status.success());
    assert!(listener.accept().is_err(), "somebody came");
    // Limits, and who goes beyond one.
    let ran = shell(&own, "ulimit -v; ulimit -t; ulimit -n; ulimit -f; ulimit -c", &[]);
    let told = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert_eq!(
        told.split_whitespace().collect::<Vec<_>>(),
        ["1048576", "5", "64", "0", "0"]
    );
}

/// Files that promise more than they are, or lead elsewhere: an error about them, soon.
#[test]
fn hostile_files_are_refused_in_isolation() {
    let dir = tempfile::tempdir().unwrap();
    let u32s = |all: [u32; 2]| all.map(u32::to_be_bytes).concat();
    let png = |w, h| {
        [
            &b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"[..],
            &u32s([w, h]),
            &[8, 2, 0, 0, 0, 0, 0, 0, 0],
        ]
        .concat()
    };
    let gif = |w: u16, h: u16| {
        [
            &b"GIF89a"[..],
            &w.to_le_bytes(),
            &h.to_le_bytes(),
            &[0x80, 0, 0],
            &[0; 6],
        ]
        .concat()
    };
    let webp = |side: u32| {
        let side = &(side - 1).to_le_bytes()[..3];
        [&b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0"[..], side, side].concat()
    };
    let jpeg = fs::read(fixtures().join("pictures/jpeg_420.jpg")).unwrap();
    let mut tall = jpeg.clone();
    let frame = tall.windows(2).position(|w| w == [0xFF, 0xC0]).unwrap();
    tall[frame + 5..frame + 9].copy_from_slice(&[0xFF; 4]);
    // Frames of eleven minutes each.
    let frames = [
        &b"!\xf9\x04\0\xff\xff\0\0"[..],
        b",\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0",
    ]
    .concat()
    .repeat(2000);
    let long = [gif(1, 1), frames, b";".to_vec()].concat();
    let listener = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let session =
        format!("s=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\na=rtpmap:96 H264/90000\n");
    let clip = fs::read(fixtures().join("clip.mp4")).unwrap();
    let limits = Limits {
        isolate: true,
        length: Duration::from_hours(1),
        decode: Duration::from_secs(20),
        ..Limits::default()
    };
    for (name, bytes) in [
        ("huge.png", png(30_000, 30_000)),
        ("most.png", png(u32::MAX, u32::MAX)),
        ("none.png", png(0, 0)),
        ("cut.png", png(1000, 1000)),
        ("huge.gif", gif(65_535, 65_535)),
        ("cut.gif", gif(100, 100)),
        ("huge.webp", webp(16_384)),
        ("most.webp", webp(1 << 24)),
        ("cut.webp", webp(10)),
        ("tall.jpg", tall),
        ("cut.jpg", jpeg[..jpeg.len() / 2].to_vec()),
        ("cut.mp4", clip[..500].to_vec()),
        ("head.mp4", clip[..40].to_vec()),
        ("nothing.mp4", Vec::new()),
        ("text.mp4", b"this is no video".to_vec()),
        ("hls.mp4", b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n".to_vec()),
        (
            "late.mp4",
            b"\n#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n".to_vec(),
        ),
        (
            "concat.mp4",
            b"ffconcat version 1.0\nfile '/etc/passwd'\n".to_vec(),
        ),
        ("concat.txt", b"file '/etc/passwd'\n".to_vec()),
        ("session.mp4", session.into_bytes()),
        (
            "dash.mp4",
            b"<MPD xmlns=\"urn:mpeg:dash:schema:mpd:2011\">".to_vec(),
        ),
        (
            "drawing.png",
            b"<svg xmlns=\"http://www.w3.org/2000/svg\"/>".to_vec(),
        ),
    ] {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        for decoder in [Decoder::Builtin, Decoder::Auto] {
            let began = std::time::Instant::now();
            let o = Options {
                limits,
                ..options(decoder, true)
            };
            let told = all(&path, &o).err().unwrap_or_else(|| panic!("{name} was read"));
            assert!(told.contains(name), "{told}");
            assert!(!told.contains("root:"), "{told}");
            assert!(began.elapsed() < Duration::from_secs(30), "{name}");
        }
    }
    let mut byte = [0];
    assert!(listener.recv(&mut byte).is_err(), "somebody asked");
    if ffmpeg() {
        let path = dir.path().join("long.gif");
        fs::write(&path, long).unwrap();
        let o = Options {
            limits,
            ..options(Decoder::Ffmpeg, true)
        };
        let told = outro_media::probe_video(&path, &o).unwrap_err().to_string();
        assert!(told.contains("at most 3600 s are read"), "{told}");
    }
}

#[test]
fn what_goes_beyond_its_limits_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let clip = fixtures().join("clip.mp4");
    let limited = |limits| Options {
        limits,
        ..options(Decoder::Builtin, true)
    };
    let base = options(Decoder::Builtin, true).limits;
    for (limits, says) in [
        (Limits { pixels: 1000, ..base }, "at most 1000 are read"),
        (
            Limits {
                length: Duration::from_secs(1),
                ..base
            },
            "at most 1 s are read",
        ),
        (
            Limits {
                decode: Duration::ZERO,
                ..base
            },
            "takes more than 0 s to decode",
        ),
    ] {
        let told = probe(&clip, &limited(limits)).unwrap_err().to_string();
        assert!(told.contains(says) && told.contains("clip.mp4"), "{told}");
    }
    // A picture that needs more memory than there may be.
    let path = dir.path().join("large.png");
    let rgb = vec![7; 6000 * 6000 * 3];
    fs::write(&path, outro_media::write_png(6000, 6000, &rgb).unwrap()).unwrap();
    let small = Limits {
        memory: 96 << 20,
        ..base
    };
    let told = read_image(&path, &limited(small)).unwrap_err().to_string();
    assert!(told.contains("large.png"), "{told}");
    assert!(read_image(&path, &options(Decoder::Builtin, true)).is_ok());
    // Nobody to be the child.
    let o = Options {
        worker: None,
        ..options(Decoder::Builtin, true)
    };
    assert!(
        read_image(&path, &o)
            .unwrap_err()
            .to_string()
            .contains("isolated")
    );
}
