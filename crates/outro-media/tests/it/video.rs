//! What people have, through ffmpeg: each file of `cases/video` against ffmpeg's own frames and samples, and files that this test
//! makes. Without ffmpeg nothing is tested here, which CI does not allow.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use outro_media::{
    Decoder, Error, Frames, Hint, MediaInfo, Note, NoteKind, Options, Picks, Sampling, VideoInfo, log_mel,
    probe, probe_video, read_audio, read_frames, read_samples, read_track, read_video, resize,
};

use crate::support::{ffmpeg_is_there, pitch, shared, with_matrix};

/// The folder of the videos, where they and an ffmpeg are there.
fn cases() -> Option<PathBuf> {
    shared("cases/video").filter(|_| ffmpeg_is_there())
}

fn o() -> Options {
    Options {
        decoder: Decoder::Ffmpeg,
        ..Options::default()
    }
}

/// The ffmpeg that is tested, as the library finds it.
fn ffmpeg() -> Command {
    let program = std::env::var_os("OUTRO_FFMPEG").unwrap_or_else(|| OsString::from("ffmpeg"));
    let mut command = Command::new(program);
    command.args(["-v", "error", "-nostdin", "-y"]);
    command
}

/// Makes a file with Debian's or whatever ffmpeg is on the PATH: the one that is tested may only read.
fn make(path: &Path, args: &str) {
    let mut command = Command::new("ffmpeg");
    command.args(["-v", "error", "-nostdin", "-y"]);
    let made = command
        .args(args.split_whitespace())
        .arg(format!("file:{}", path.display()))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "{}: {said}", path.display());
}

/// ffmpeg's own frames, all of them.
fn own(path: &Path, f: &VideoInfo) -> Vec<Vec<u8>> {
    let run = |passing: [&str; 2]| {
        let mut url = OsString::from("file:");
        url.push(path);
        ffmpeg()
            .arg("-i")
            .arg(url)
            .args(["-map", "0:v:0"])
            .args(passing)
            .args(["-f", "rawvideo", "-pix_fmt", "rgb24", "-"])
            .output()
            .unwrap()
    };
    let mut out = run(["-fps_mode", "passthrough"]);
    if !out.status.success() {
        out = run(["-vsync", "0"]);
    }
    let frames: Vec<Vec<u8>> = out
        .stdout
        .chunks(f.width * f.height * 3)
        .map(<[u8]>::to_vec)
        .collect();
    assert!(!frames.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
    frames
}

struct Seen {
    frames: Frames,
    indices: Vec<usize>,
    video: VideoInfo,
    notes: Vec<Note>,
}

fn see(file: &MediaInfo, sampling: &Sampling) -> Seen {
    let mut indices = Vec::new();
    let mut pick = |v: &VideoInfo| -> Result<Picks, Error> {
        indices = sampling.indices(v)?;
        Ok(Picks {
            indices: indices.clone(),
            size: None,
        })
    };
    let read = read_video(file, &mut pick, resize, &o()).unwrap();
    Seen {
        frames: read.frames,
        indices,
        video: read.video,
        notes: read.notes,
    }
}

/// The file's frames are ffmpeg's own, of which there are so many.
#[track_caller]
fn equal(path: &Path, sampling: &Sampling) -> Seen {
    let file = probe_video(path, &o()).unwrap();
    let seen = see(&file, sampling);
    let own = own(path, &seen.video);
    assert_eq!(seen.video.frames, own.len(), "{}", path.display());
    let size = seen.frames.data.len() / seen.frames.count;
    for (got, i) in seen.frames.data.chunks(size).zip(&seen.indices) {
        assert!(got == own[*i], "{}: frame {i}", path.display());
    }
    seen
}

fn kinds(notes: &[Note]) -> Vec<NoteKind> {
    notes.iter().map(|n| n.kind).collect()
}

#[test]
fn the_cases_are_read_as_ffmpeg_reads_them() {
    let Some(dir) = cases() else { return };
    for (name, total, taken) in [
        ("anim.gif", 20, 4),
        ("base.mp4", 40, 8),
        ("bits0.mp4", 40, 8),
        ("cut.mp4", 27, 4),
        ("default_second.mkv", 40, 8),
        ("frag.mp4", 40, 8),
        ("fullrange.mp4", 40, 8),
        ("h264_10bit.mp4", 40, 8),
        ("interlaced.mp4", 40, 8),
        ("mjpeg.mov", 40, 8),
        ("opus.mp4", 40, 8),
        ("piped_sound.mkv", 40, 8),
        ("sixty_seconds.mp4", 600, 120),
        ("size_change.mp4", 38, 6),
        ("vfr.mp4", 24, 8),
        ("vp8_altref.webm", 60, 12),
    ] {
        let path = dir.join(name);
        let seen = equal(&path, &Sampling::default());
        assert_eq!((seen.video.frames, seen.indices.len()), (total, taken), "{name}");
    }
}

#[test]
fn a_cut_file_begins_where_its_edit_list_says() {
    let Some(dir) = cases() else { return };
    let file = probe(&dir.join("cut.mp4"), &o()).unwrap();
    assert_eq!(file.video.as_ref().unwrap().frames, 27, "by the packets alone");
    let first = read_frames(&file, &[0], &o()).unwrap();
    // All of it is grey but for a disc and a corner.
    let grey = first.data.iter().filter(|x| x.abs_diff(72) <= 1).count();
    assert!(grey * 10 > first.data.len() * 9, "{grey} of {}", first.data.len());
}

/// Two-pass VP8 has packets that are never shown.
#[test]
fn frames_that_do_not_come_are_picked_anew_with_a_note() {
    let Some(dir) = cases() else { return };
    let seen = equal(&dir.join("vp8_altref.webm"), &Sampling::default());
    assert_eq!(kinds(&seen.notes), [NoteKind::Recounted]);
    let text = seen.notes[0].to_string();
    assert!(text.contains("60 frames") && text.contains("64"), "{text}");
    // What is asked for does not reach the end, so nothing is said about it.
    let early = Sampling {
        end: Some(2.0),
        ..Sampling::default()
    };
    assert!(equal_early(&dir.join("vp8_altref.webm"), &early).notes.is_empty());
}

fn equal_early(path: &Path, sampling: &Sampling) -> Seen {
    let seen = see(&probe(path, &o()).unwrap(), sampling);
    let own = own(path, &seen.video);
    let size = seen.frames.data.len() / seen.frames.count;
    for (got, i) in seen.frames.data.chunks(size).zip(&seen.indices) {
        assert!(got == own[*i], "{}: frame {i}", path.display());
    }
    seen
}

#[test]
fn what_is_no_video_says_what_to_give_instead() {
    let Some(dir) = cases() else { return };
    let still = probe_video(&dir.join("still_sound.mp4"), &o()).unwrap();
    let said = Sampling::default()
        .indices(still.video.as_ref().unwrap())
        .unwrap_err();
    assert_eq!(said.hint(), Some(Hint::GiveAsImageAndAudio), "{said}");
    // One with sound is of use as sound.
    let dir_made = tempfile::tempdir().unwrap();
    let path = dir_made.path().join("still.mp4");
    make(
        &path,
        "-f lavfi -i testsrc2=s=64x48:r=10:d=0.1 -f lavfi -i sine=f=880:d=2 -c:v mpeg4 -c:a aac",
    );
    let with_sound = probe_video(&path, &o()).unwrap();
    assert!(
        Sampling::default()
            .indices(with_sound.video.as_ref().unwrap())
            .is_err()
    );
    let sound = read_audio(&with_sound, None, None, &o()).unwrap();
    assert!(sound.notes.is_empty() && (pitch(&sound.samples) - 880.0).abs() < 10.0);
    let png = dir.join("../image/plain.png");
    let said = probe_video(&png, &o()).unwrap_err();
    assert_eq!(said.hint(), Some(Hint::GiveAsImage));
    assert!(said.to_string().contains("plain.png"), "{said}");
}

fn mel_frames(file: &MediaInfo) -> usize {
    log_mel(&read_audio(file, None, None, &o()).unwrap().samples).frames
}

#[test]
fn sound_of_the_cases() {
    let Some(dir) = cases() else { return };
    for (name, mel) in [
        ("piped_sound.mkv", 404),
        ("frag.mp4", 405),
        ("base.mp4", 405),
        ("opus.mp4", 402),
    ] {
        let file = probe(&dir.join(name), &o()).unwrap();
        let audio = file.audio.clone().unwrap();
        let found = mel_frames(&file);
        assert!(found.abs_diff(mel) <= 3, "{name}: {found}");
        let planned = audio.duration * 100.0;
        assert!(
            (planned - found as f64).abs() < 12.0,
            "{name}: {planned} planned, {found} heard"
        );
    }
    let sounds = dir.join("../audio");
    for name in ["toolong.wav", "zerosize.wav"] {
        assert_eq!(
            mel_frames(&probe(&sounds.join(name), &o()).unwrap()),
            200,
            "{name}"
        );
    }
    let nan = probe(&sounds.join("nan.wav"), &o()).unwrap();
    let said = read_audio(&nan, None, None, &o()).unwrap_err().to_string();
    assert!(said.contains("nan.wav") && said.contains("NaN"), "{said}");
}

#[test]
fn the_default_track_is_taken() {
    let Some(dir) = cases() else { return };
    let file = probe(&dir.join("default_second.mkv"), &o()).unwrap();
    assert_eq!(kinds(&file.notes), [NoteKind::TrackTaken]);
    assert!(file.notes[0].text.contains("default"), "{}", file.notes[0]);
    let sound = read_audio(&file, None, None, &o()).unwrap();
    let heard = pitch(&sound.samples);
    assert!((heard - 880.0).abs() < 10.0, "{heard}");
}

#[test]
fn an_undecodable_track_is_passed_over_with_a_note() {
    if !ffmpeg_is_there() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tracks.mkv");
    make(
        &path,
        "-f lavfi -i testsrc2=s=64x48:r=10:d=2 -f lavfi -i sine=f=440:d=2 -f lavfi -i sine=f=880:d=2 -map 0 -map 1 -map 2 \
         -c:v mpeg4 -c:a:0 flac -c:a:1 aac",
    );
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(6).position(|w| w == b"A_FLAC").unwrap();
    bytes[at..at + 6].copy_from_slice(b"A_NONE");
    fs::write(&path, &bytes).unwrap();
    let file = probe(&path, &o()).unwrap();
    let sound = read_track(&file, None, None, &o()).unwrap();
    let notes = [file.notes.clone(), sound.notes].concat();
    assert!(kinds(&notes).contains(&NoteKind::TrackLeftOut), "{notes:?}");
    let heard = pitch(&sound.samples);
    assert!((heard - 880.0).abs() < 10.0, "{heard}");
    // Where no track can be decoded, pictures go on alone.
    let at = bytes.windows(5).position(|w| w == b"A_AAC").unwrap();
    bytes[at..at + 5].copy_from_slice(b"A_NON");
    fs::write(&path, &bytes).unwrap();
    let file = probe(&path, &o()).unwrap();
    let sound = read_track(&file, None, None, &o()).unwrap();
    assert_eq!(
        (sound.samples.len(), kinds(&sound.notes)),
        (0, vec![NoteKind::NoSound])
    );
    assert!(read_audio(&file, None, None, &o()).is_err());
}

#[test]
fn late_sound_is_told_and_lengths_are_those_of_ffmpeg() {
    if !ffmpeg_is_there() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("late.mp4");
    make(
        &path,
        "-f lavfi -i testsrc2=s=64x48:r=10:d=3 -itsoffset 1.5 -f lavfi -i sine=f=440:d=4 -c:v mpeg4 -c:a aac",
    );
    let file = probe(&path, &o()).unwrap();
    assert_eq!(kinds(&file.notes), [NoteKind::SoundOffset]);
    assert!(
        file.notes[0].text.contains("after its picture"),
        "{}",
        file.notes[0]
    );
    let sound = read_audio(&file, None, None, &o()).unwrap();
    assert!(
        sound.samples.len().abs_diff(64_000) < 1600,
        "{}",
        sound.samples.len()
    );
}

#[test]
fn rates_and_channels() {
    if !ffmpeg_is_there() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for (rate, channels) in [(8000, 1), (11_025, 3), (44_100, 6), (96_000, 8), (192_000, 2)] {
        let path = dir.path().join("a.wav");
        let tones = vec!["0.3*sin(2765*t)"; channels].join("|");
        make(
            &path,
            &format!("-f lavfi -i aevalsrc={tones}:s={rate}:d=1 -c:a pcm_f32le"),
        );
        let file = probe(&path, &o()).unwrap();
        let audio = file.audio.clone().unwrap();
        assert_eq!((audio.channels, audio.sample_rate), (channels, rate));
        let (samples, own, notes) = read_samples(&file, None, &o()).unwrap();
        assert_eq!((samples.len(), own, notes), (rate as usize, rate, Vec::new()));
        let peak = samples.iter().fold(0f32, |a, x| a.max(x.abs()));
        assert!((peak - 0.3).abs() < 1e-3, "an average and no mix: {peak}");
    }
}

#[test]
fn damage_is_noted_and_what_is_left_is_used() {
    if !ffmpeg_is_there() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("damaged.ts");
    make(
        &path,
        "-f lavfi -i testsrc2=s=96x64:r=10:d=6 -f lavfi -i sine=d=6 -c:v libx264 -g 10 -c:a aac",
    );
    let mut bytes = fs::read(&path).unwrap();
    let (from, to) = (bytes.len() / 3, bytes.len() / 2);
    for (i, byte) in bytes[from..to].iter_mut().enumerate() {
        if i % 97 == 0 {
            *byte ^= 0x5a;
        }
    }
    fs::write(&path, &bytes).unwrap();
    let seen = equal(&path, &Sampling::default());
    let file = probe(&path, &o()).unwrap();
    let sound = read_audio(&file, None, None, &o()).unwrap();
    let notes = [seen.notes, sound.notes].concat();
    assert!(kinds(&notes).contains(&NoteKind::Damaged), "{notes:?}");
    // Cut off in the middle, it is a shorter file.
    fs::write(&path, &bytes[..bytes.len() / 3]).unwrap();
    let seen = equal(&path, &Sampling::default());
    assert!((10..30).contains(&seen.video.frames), "{}", seen.video.frames);
}

/// A group without its key frame, numbers without a container, turned pictures, packed B-frames: what ffmpeg makes of them.
#[test]
fn streams_of_every_kind() {
    if !ffmpeg_is_there() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, args: &str| {
        let path = dir.path().join(name);
        make(&path, args);
        path
    };
    let source = "-f lavfi -i testsrc2=s=96x64:r=25:d=4";
    let whole = file("whole.ts", &format!("{source} -c:v libx264 -bf 2 -g 40"));
    let bytes = fs::read(&whole).unwrap();
    let middle = dir.path().join("middle.ts");
    fs::write(&middle, &bytes[bytes.len() / 4 / 188 * 188..]).unwrap();
    equal(&middle, &Sampling::default());
    equal(
        &file("bare.h264", &format!("{source} -c:v libx264 -bf 2")),
        &Sampling::default(),
    );
    let wide = file("wide.mp4", &format!("{source} -c:v libx264"));
    let turned = dir.path().join("turned.mp4");
    fs::write(&turned, with_matrix(&fs::read(&wide).unwrap(), [0, 1, -1, 0])).unwrap();
    let seen = equal(&turned, &Sampling::default());
    assert_eq!((seen.frames.height, seen.frames.width), (96, 64));
    assert_eq!(
        (seen.video.height, seen.video.width),
        (96, 64),
        "as the header says"
    );
    let vfr = file(
        "vfr.mkv",
        &format!("{source} -vf select='not(between(mod(n,7),2,4))' -vsync vfr -c:v libx264"),
    );
    equal(&vfr, &Sampling::default());
}

#[test]
fn more_frames_than_a_filter_has_terms() {
    if !ffmpeg_is_there() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("long.mp4");
    make(
        &path,
        "-f lavfi -i testsrc2=s=32x32:r=30:d=400 -c:v libx264 -preset ultrafast -g 300",
    );
    let seen = equal(&path, &Sampling::default());
    assert_eq!((seen.video.frames, seen.indices.len()), (12_000, 768));
    // A few of many are sought; they are the same.
    let few = Sampling {
        frames: Some(6),
        ..Sampling::default()
    };
    assert_eq!(equal(&path, &few).indices.len(), 6);
    let part = Sampling {
        start: Some(100.0),
        end: Some(200.0),
        ..Sampling::default()
    };
    assert_eq!(equal_early(&path, &part).indices.len(), 200);
}

/// Seeking gives what decoding from the beginning gives, also behind open groups and where times are not those of a rate.
#[test]
fn sought_frames_are_the_same() {
    if !ffmpeg_is_there() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for (name, codec) in [
        (
            "open.mp4",
            "-c:v libx264 -preset superfast -bf 3 -x264-params open-gop=1:keyint=50",
        ),
        (
            "open.mkv",
            "-c:v libx264 -preset superfast -bf 3 -x264-params open-gop=1:keyint=50",
        ),
        (
            "hevc.mp4",
            "-c:v libx265 -preset ultrafast -x265-params log-level=none:keyint=50",
        ),
        (
            "vfr.mp4",
            "-vf select='not(between(mod(n,7),2,4))' -vsync vfr -c:v libx264 -preset ultrafast -g 40",
        ),
    ] {
        let path = dir.path().join(name);
        make(&path, &format!("-f lavfi -i testsrc2=s=32x32:r=25:d=240 {codec}"));
        let file = probe(&path, &o()).unwrap();
        let total = file.video.as_ref().unwrap().frames;
        let own = own(&path, file.video.as_ref().unwrap());
        assert_eq!(own.len(), total, "{name}");
        let indices = [0, total / 3, total / 3 + 1, total / 2, total - 1];
        let got = read_frames(&file, &indices, &o()).unwrap();
        let size = got.data.len() / got.count;
        for (frame, i) in got.data.chunks(size).zip(indices) {
            assert!(frame == own[i], "{name}: frame {i}");
        }
    }
}

#[test]
fn names_of_every_kind() {
    if !ffmpeg_is_there() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let clip = fs::read(crate::fixtures().join("clip.mp4")).unwrap();
    let mut names: Vec<OsString> = [
        "Title: part 1.mp4",
        "100%.mp4",
        "%03d.mp4",
        "it's \"quoted\".mp4",
        "-v.mp4",
        "a\nb.mp4",
        "file:x.mp4",
        "ünï ✓.mp4",
        "[a]{b}*?.mp4",
        "list.m3u8",
        "concat:a|b.mp4",
        " space .mp4",
        "back\\slash.mp4",
        "noending",
    ]
    .map(OsString::from)
    .to_vec();
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStringExt;
        names.push(OsString::from_vec(b"not utf-8 \xff\xfe.mp4".to_vec()));
    }
    let plain = dir.path().join("plain.mp4");
    fs::write(&plain, &clip).unwrap();
    let want = read_frames(&probe(&plain, &o()).unwrap(), &[0, 20, 39], &o()).unwrap();
    for name in names {
        let path = dir.path().join(&name);
        fs::write(&path, &clip).unwrap();
        for decoder in [Decoder::Ffmpeg, Decoder::Builtin] {
            let o = Options {
                decoder,
                ..Options::default()
            };
            let file = probe(&path, &o).unwrap_or_else(|e| panic!("{e}"));
            let got = read_frames(&file, &[0, 20, 39], &o).unwrap();
            assert_eq!(got.count, 3, "{}", path.display());
            assert!(decoder == Decoder::Builtin || got == want, "{}", path.display());
            assert!(!read_audio(&file, None, None, &o).unwrap().samples.is_empty());
        }
    }
}

#[test]
fn lists_of_other_files_are_not_opened() {
    if !ffmpeg_is_there() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let clip = crate::fixtures().join("clip.mp4");
    fs::copy(&clip, dir.path().join("clip.mp4")).unwrap();
    let here = clip.canonicalize().unwrap();
    for (name, text) in [
        (
            "a.m3u8",
            format!("#EXTM3U\n#EXTINF:4,\n{}\n#EXT-X-ENDLIST\n", here.display()),
        ),
        (
            "a.mp4",
            "#EXTM3U\n#EXTINF:4,\nhttp://127.0.0.1:9/clip.mp4\n#EXT-X-ENDLIST\n".into(),
        ),
        ("list.ffconcat", "ffconcat version 1.0\nfile clip.mp4\n".into()),
        ("list.mp4", "ffconcat version 1.0\nfile 'clip.mp4'\n".into()),
        (
            "a.sdp",
            "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n".into(),
        ),
        (
            "notes.txt",
            "Dear diary, this is only text and no video at all.\n".repeat(20),
        ),
    ] {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        let said = probe(&path, &o()).unwrap_err().to_string();
        assert!(said.contains(name), "{said}");
    }
}
