//! Sound by the built-in decoders against ffmpeg's samples, and what is said where it is not used.

use std::path::Path;

use outro_media::{NoteKind, log_mel, probe};

use crate::support::{builtin, ffmpeg, ffmpeg_is_there, pitch, shared, sound, sound_of_ffmpeg};

const TONES: &str = "-f lavfi -i aevalsrc=0.4*sin(2*PI*(300+200*t)*t)|0.3*sin(2*PI*700*t):s=44100:d=2.3";

/// Mel frames of a file's sound.
fn mel(path: &Path) -> usize {
    log_mel(&sound(path).unwrap_or_else(|e| panic!("{e}")).samples).frames
}

#[test]
fn inputs_of_the_issue() {
    let Some(dir) = shared("cases") else { return };
    for (name, frames) in [
        ("audio/toolong.wav", 200),
        ("audio/zerosize.wav", 200),
        ("video/piped_sound.mkv", 404),
        ("video/frag.mp4", 405),
        ("video/base.mp4", 402),
    ] {
        assert_eq!(mel(&dir.join(name)), frames, "{name}");
    }
    let message = sound(&dir.join("audio/nan.wav")).unwrap_err().to_string();
    assert!(
        message.contains("NaN") && message.contains("nan.wav"),
        "{message}"
    );
    let two = dir.join("video/default_second.mkv");
    let heard = pitch(&sound(&two).unwrap().samples);
    assert!((heard - 880.0).abs() < 10.0, "{heard}");
    let notes = probe(&two, &builtin()).unwrap().notes;
    assert_eq!(notes[0].kind, NoteKind::TrackTaken);
    let lies = probe(&dir.join("audio/toolong.wav"), &builtin()).unwrap();
    assert_eq!(lies.notes[0].kind, NoteKind::Header);
    // A duration that the header does not know is counted.
    let piped = probe(&dir.join("video/piped_sound.mkv"), &builtin()).unwrap();
    assert!((piped.audio.unwrap().duration - 4.0).abs() < 0.1);
}

/// The same number of samples as ffmpeg's within `slack` packets' worth of them, and the same wave.
fn same_sound(path: &Path, slack: usize, loudest: f32) {
    let info = probe(path, &builtin()).unwrap_or_else(|e| panic!("{e}"));
    let audio = info.audio.unwrap();
    let got = sound(path).unwrap_or_else(|e| panic!("{e}"));
    assert!(got.notes.is_empty(), "{:?}", got.notes);
    let all = sound_of_ffmpeg(path, audio.channels);
    let mono: Vec<f32> = all
        .chunks_exact(audio.channels)
        .map(|f| f.iter().sum::<f32>() / audio.channels as f32)
        .collect();
    let want = outro_media::resample(&mono, audio.sample_rate, 16_000);
    let worst = got
        .samples
        .iter()
        .zip(&want)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    println!(
        "{}: {:?}, {} of {} samples, {worst:.5}",
        path.display(),
        audio,
        got.samples.len(),
        want.len()
    );
    assert!(
        got.samples.len().abs_diff(want.len()) <= slack,
        "{}",
        path.display()
    );
    assert!(worst <= loudest, "{}: {worst}", path.display());
    // A container counts whole packets, and the last may hold less: FLAC's are the longest, 4608 samples.
    let lasts = got.samples.len() as f64 / 16_000.0;
    let packet = 4608.0 / f64::from(audio.sample_rate).max(44_100.0);
    assert!(
        (audio.duration - lasts).abs() < packet,
        "{} {lasts}",
        audio.duration
    );
}

#[test]
fn what_is_heard_is_what_ffmpeg_hears() {
    if !ffmpeg_is_there() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    for (name, words, slack, loudest) in [
        ("s16.wav", "", 0, 1e-6),
        ("u8.wav", "-c:a pcm_u8", 0, 1e-6),
        ("s24.wav", "-c:a pcm_s24le", 0, 1e-6),
        ("s32.wav", "-c:a pcm_s32le", 0, 1e-6),
        ("f32.wav", "-c:a pcm_f32le", 0, 1e-6),
        ("f64.wav", "-c:a pcm_f64le", 0, 1e-6),
        ("alaw.wav", "-c:a pcm_alaw", 0, 1e-6),
        ("mulaw.wav", "-c:a pcm_mulaw", 0, 1e-6),
        ("adpcm.wav", "-c:a adpcm_ms", 0, 1e-3),
        ("six.wav", "-ac 6", 0, 1e-6),
        ("eight_k.wav", "-ar 8000 -ac 1", 0, 1e-6),
        ("high.wav", "-ar 192000", 0, 1e-6),
        ("big.wav", "-rf64 always", 0, 1e-6),
        ("plain.flac", "", 0, 1e-6),
        ("plain.ogg", "-c:a libvorbis", 0, 0.02),
        ("plain.mp3", "-c:a libmp3lame", 0, 1e-3),
        (
            "tagged.mp3",
            "-c:a libmp3lame -metadata title=Title -id3v2_version 3",
            0,
            1e-3,
        ),
        ("bare.mp3", "-c:a libmp3lame -write_xing 0", 0, 1e-3),
        ("plain.aac", "-c:a aac", 0, 1e-3),
        ("plain.m4a", "-c:a aac", 0, 1e-3),
        ("one.m4a", "-c:a aac -ac 1", 0, 1e-3),
        ("six.m4a", "-c:a aac -ac 6 -ar 48000 -t 0.7", 0, 1e-3),
        ("low.m4a", "-c:a aac -ar 16000", 0, 1e-3),
        ("alac.m4a", "-c:a alac", 0, 1e-6),
        ("flac.mp4", "-c:a flac -strict -2", 0, 1e-6),
        ("mp3.mp4", "-c:a libmp3lame", 0, 1e-3),
        ("twos.mov", "-c:a pcm_s16be", 0, 1e-6),
        ("sowt.mov", "-c:a pcm_s16le", 0, 1e-6),
        ("in24.mov", "-c:a pcm_s24be", 0, 1e-6),
        ("in24le.mov", "-c:a pcm_s24le", 0, 1e-6),
        ("in32.mov", "-c:a pcm_s32le", 0, 1e-6),
        ("fl32.mov", "-c:a pcm_f32be", 0, 1e-6),
        ("fl64.mov", "-c:a pcm_f64le", 0, 1e-6),
        ("lpcm.mov", "-c:a pcm_s16le -ar 96000", 0, 1e-6),
        ("ulaw.mov", "-c:a pcm_mulaw", 0, 1e-6),
        ("raw.mov", "-c:a pcm_u8", 0, 1e-6),
        ("alac.mov", "-c:a alac", 0, 1e-6),
        ("aac.mov", "-c:a aac", 0, 1e-3),
        (
            "fragments.m4a",
            "-c:a aac -movflags frag_keyframe+empty_moov -frag_duration 500000",
            0,
            1e-3,
        ),
        (
            "delayed.m4a",
            "-c:a aac -movflags frag_keyframe+delay_moov -frag_duration 500000",
            0,
            1e-3,
        ),
        ("aac.mka", "-c:a aac", 0, 1e-3),
        ("flac.mka", "-c:a flac", 0, 1e-6),
        ("pcm.mka", "-c:a pcm_s16le", 0, 1e-6),
        ("vorbis.webm", "-c:a libvorbis", 0, 0.02),
        // What Matroska says is to be cut off behind the last packet is left on: a packet of 1152 samples at most.
        ("mp3.mka", "-c:a libmp3lame", 418, 1e-3),
    ] {
        ffmpeg(dir, &format!("{TONES} {words} {name}"));
        same_sound(&dir.join(name), slack, loudest);
    }
    // Cut without decoding.
    for (from, to) in [
        ("plain.m4a", "cut.m4a"),
        ("twos.mov", "cut.mov"),
        ("alac.m4a", "cut_alac.m4a"),
    ] {
        ffmpeg(dir, &format!("-ss 0.41 -i {from} -t 1.13 -c copy {to}"));
        same_sound(&dir.join(to), 0, 1e-3);
    }
}

#[test]
fn what_is_not_heard_is_named() {
    if !ffmpeg_is_there() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    for (name, words) in [
        ("opus.mp4", "-c:a libopus"),
        ("opus.webm", "-c:a libopus"),
        ("opus.ogg", "-c:a libopus"),
        ("ac3.mp4", "-c:a ac3"),
        ("eac3.mov", "-c:a eac3"),
        ("ima4.mov", "-c:a adpcm_ima_qt"),
        ("ac3.mka", "-c:a ac3"),
    ] {
        ffmpeg(dir, &format!("{TONES} {words} {name}"));
        let message = sound(&dir.join(name)).unwrap_err().to_string();
        println!("{message}");
        assert!(
            message.contains("needs ffmpeg") && message.contains(name),
            "{message}"
        );
    }
    // A first track that is not known is passed over, and that is said.
    let tracks = "-map 0 -map 0 -c:a:0 libopus -c:a:1 aac -disposition:a:0 default -disposition:a:1 0";
    for name in ["two.mp4", "two.mkv"] {
        ffmpeg(dir, &format!("{TONES} {tracks} {name}"));
        let info = probe(&dir.join(name), &builtin()).unwrap();
        assert_eq!(info.audio.as_ref().unwrap().codec, "aac", "{name}");
        let note = &info.notes[0];
        assert_eq!(note.kind, NoteKind::TrackLeftOut);
        assert!(note.text.contains("opus"), "{note}");
        assert!(sound(&dir.join(name)).unwrap().samples.len() > 36_000);
    }
    // The default of two tracks is taken.
    let other = "-f lavfi -i sine=880:d=2";
    let tracks = "-map 0 -map 1 -c:a aac -disposition:a:0 0 -disposition:a:1 default";
    ffmpeg(
        dir,
        &format!("-f lavfi -i sine=440:d=2 {other} {tracks} second.mp4"),
    );
    let heard = pitch(&sound(&dir.join("second.mp4")).unwrap().samples);
    assert!((heard - 880.0).abs() < 10.0, "{heard}");
    // Sound that starts later than the picture.
    ffmpeg(
        dir,
        &format!(
            "-f lavfi -i testsrc2=s=64x64:r=10:d=2 -itsoffset 0.8 {other} -c:v libx264 -pix_fmt yuv420p -c:a aac late.mp4"
        ),
    );
    let info = probe(&dir.join("late.mp4"), &builtin()).unwrap();
    assert_eq!(info.notes[0].kind, NoteKind::SoundOffset, "{:?}", info.notes);
    assert!(info.notes[0].text.contains("0.78 s after"), "{}", info.notes[0]);
}

#[test]
fn damaged_packets_are_counted() {
    if !ffmpeg_is_there() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    ffmpeg(dir.path(), &format!("{TONES} -c:a aac whole.m4a"));
    let path = dir.path().join("whole.m4a");
    let mut bytes = std::fs::read(&path).unwrap();
    let data = bytes.windows(4).position(|w| w == b"mdat").unwrap();
    let whole = sound(&path).unwrap().samples.len();
    bytes[data + 6_000..data + 6_900].fill(0xFF);
    std::fs::write(&path, &bytes).unwrap();
    let heard = sound(&path).unwrap();
    assert!(heard.samples.len() < whole);
    assert_eq!(heard.notes[0].kind, NoteKind::Damaged);
    assert!(heard.notes[0].text.contains("packets"), "{}", heard.notes[0]);
}

/// HE-AAC by an encoder in Rust, in mp4 by ffmpeg, decoded by both.
#[test]
fn he_aac_is_whole() {
    use oxideav_aac::he_aac_encoder::{HeAacConfig, HeAacEncoder};
    if !ffmpeg_is_there() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let pcm: Vec<i16> = (0..88_200)
        .map(|i| {
            let t = f64::from(i) / 44_100.0;
            let high = (t * 7_000.0 * std::f64::consts::TAU).sin() * 0.1;
            (((t * 500.0 * std::f64::consts::TAU).sin() * 0.3 + high) * 32_767.0) as i16
        })
        .collect();
    let adts = HeAacEncoder::new(HeAacConfig::new(44_100, 1, 32_000))
        .unwrap()
        .encode_all(&pcm)
        .unwrap();
    std::fs::write(dir.join("he.aac"), adts).unwrap();
    ffmpeg(dir, "-i he.aac -c copy he.m4a");
    for name in ["he.aac", "he.m4a"] {
        let path = dir.join(name);
        let info = probe(&path, &builtin()).unwrap().audio.unwrap();
        assert_eq!((info.codec.as_str(), info.sample_rate), ("aac", 44_100), "{name}");
        // The upper half is made up by the decoder, and two do not agree on its phases: the spectrum is what is heard.
        let got = sound(&path).unwrap().samples;
        let want = outro_media::resample(&sound_of_ffmpeg(&path, 1), 44_100, 16_000);
        assert_eq!(got.len(), want.len(), "{name}");
        let (a, b) = (log_mel(&got), log_mel(&want));
        let each = a.data.iter().zip(&b.data).map(|(x, y)| (x - y).abs());
        let mean = each.clone().sum::<f32>() / a.data.len() as f32;
        println!("{name}: mel {mean:.4}, largest {:.3}", each.fold(0.0, f32::max));
        assert!(mean < 0.1, "{name}: {mean}");
    }
}
