//! What the built-in video decoder shows as ffmpeg does, and what it names instead of showing it wrongly.

use std::path::Path;

use outro_media::{NoteKind, probe, read_track};

use crate::support::{
    all_frames, builtin, differ, ffmpeg, ffmpeg_is_there, frames_of_ffmpeg, shared, with_matrix,
};

const PICTURE: &str = "-f lavfi -i testsrc2=s=152x100:r=10:d=1.5";
const X264: &str = "-c:v libx264 -preset veryfast -pix_fmt yuv420p";

/// Frames as ffmpeg gives them: the same number, within `mean` of 255.
fn same_frames(path: &Path, mean: f64) {
    let info = probe(path, &builtin()).unwrap();
    let got = all_frames(&info).unwrap_or_else(|e| panic!("{e}"));
    let want = frames_of_ffmpeg(path);
    assert_eq!(got.data.len(), want.len(), "{}: {:?}", path.display(), info.video);
    let (is, most) = differ(&got.data, &want);
    println!("{}: mean {is:.4}, largest {most}", path.display());
    assert!(is <= mean, "{}: {is}, {most}", path.display());
}

fn named(path: &Path, words: &[&str]) {
    let info = probe(path, &builtin()).unwrap_or_else(|e| panic!("{e}"));
    let message = all_frames(&info).unwrap_err().to_string();
    println!("{message}");
    for word in [&["needs ffmpeg"], words].concat() {
        assert!(message.contains(word), "`{message}` lacks `{word}`");
    }
}

/// The middle one of a frame's values, most of which are a grey background.
fn grey(frame: &[u8]) -> u8 {
    let mut values = frame.to_vec();
    *values.select_nth_unstable(frame.len() / 2).1
}

#[test]
fn inputs_of_the_issue() {
    let Some(dir) = shared("cases/video") else { return };
    let file = |name: &str| dir.join(name);
    let frames = |name: &str| all_frames(&probe(&file(name), &builtin()).unwrap()).unwrap();
    // A lossless cut: 13 frames before the edit list's start are not shown.
    let cut = frames("cut.mp4");
    assert_eq!((cut.count, grey(&cut.data[..160 * 120 * 3])), (27, 72));
    let base = frames("base.mp4");
    assert_eq!(base.count, 40);
    assert_eq!(
        cut.data,
        base.data[base.data.len() / 40 * 13..],
        "the same pictures, later"
    );
    assert_eq!(frames("frag.mp4").count, 40);
    assert_eq!(frames("vfr.mp4").count, 24);
    // Full range, not stretched.
    let full = frames("fullrange.mp4");
    let each: Vec<u8> = full.data.chunks(full.data.len() / full.count).map(grey).collect();
    assert_eq!((each[0], each[full.count - 1]), (20, 176));
    if ffmpeg_is_there() {
        for name in [
            "base.mp4",
            "cut.mp4",
            "frag.mp4",
            "vfr.mp4",
            "fullrange.mp4",
            "opus.mp4",
        ] {
            same_frames(&file(name), 0.01);
        }
    }
    for (name, words) in [
        ("h264_10bit.mp4", &["10 bits"][..]),
        ("interlaced.mp4", &["interlaced"]),
        ("size_change.mp4", &["160 x 120", "size"]),
        ("mjpeg.mov", &["mjpeg"]),
        ("vp8_altref.webm", &["Matroska or WebM"]),
        ("piped_sound.mkv", &["Matroska or WebM"]),
    ] {
        named(&file(name), words);
    }
    // Its sound is of a kind that is not known, and that is a note.
    let opus = probe(&file("opus.mp4"), &builtin()).unwrap();
    assert_eq!(opus.audio.as_ref().unwrap().codec, "opus");
    let heard = read_track(&opus, None, None, &builtin()).unwrap();
    assert!(heard.samples.is_empty() && heard.notes[0].kind == NoteKind::NoSound);
    assert!(heard.notes[0].text.contains("opus") && heard.notes[0].text.contains("ffmpeg"));
}

#[test]
fn what_is_shown_is_what_ffmpeg_shows() {
    if !ffmpeg_is_there() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let meta = "-bsf:v h264_metadata";
    for (name, words) in [
        ("plain.mp4", String::new()),
        ("odd.mp4", "-vf scale=150:98".into()),
        ("baseline.mp4", "-profile:v baseline".into()),
        ("deep.mp4", "-x264-params bframes=5:b-pyramid=normal:ref=5".into()),
        ("open.mp4", "-x264-params open-gop=1:keyint=5:bframes=3".into()),
        ("intra.mov", "-g 1".into()),
        ("full.mp4", format!("{meta}=video_full_range_flag=1")),
        ("bt709.mp4", format!("{meta}=matrix_coefficients=1")),
        ("fcc.mp4", format!("{meta}=matrix_coefficients=4")),
        ("bt470.mp4", format!("{meta}=matrix_coefficients=5")),
        ("smpte240.mp4", format!("{meta}=matrix_coefficients=7")),
        ("bt2020.mp4", format!("{meta}=matrix_coefficients=9")),
        (
            "bt709_full.mp4",
            format!("{meta}=matrix_coefficients=1:video_full_range_flag=1"),
        ),
        (
            "colr.mp4",
            "-colorspace bt709 -color_range tv -movflags +write_colr".into(),
        ),
        (
            "crop.mp4",
            format!("{meta}=crop_top=6:crop_right=4:crop_bottom=2"),
        ),
        ("aspect.mp4", "-aspect 2:1".into()),
        ("fragments.mp4", "-g 5 -movflags frag_keyframe+empty_moov".into()),
        (
            "based.mp4",
            "-g 5 -movflags frag_keyframe+empty_moov+default_base_moof".into(),
        ),
        ("early.mp4", "-movflags +faststart".into()),
        ("avc3.mp4", "-g 5 -bsf:v dump_extra -tag:v avc3".into()),
        ("late.mp4", "-output_ts_offset 0.7".into()),
        ("negative.mp4", "-movflags negative_cts_offsets".into()),
    ] {
        ffmpeg(dir, &format!("{PICTURE} {X264} {words} {name}"));
        same_frames(&dir.join(name), 0.01);
    }
    // Cut without decoding, in the middle of a group.
    ffmpeg(dir, &format!("{PICTURE} {X264} -g 8 -bf 2 whole.mp4"));
    for (name, from, length) in [("cut1.mp4", 0.35, 0.62), ("cut2.mp4", 0.95, 9.0)] {
        ffmpeg(
            dir,
            &format!("-ss {from} -i whole.mp4 -t {length} -c copy {name}"),
        );
        same_frames(&dir.join(name), 0.01);
    }
}

#[test]
fn every_quarter_turn_and_mirror() {
    if !ffmpeg_is_there() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    ffmpeg(dir.path(), &format!("{PICTURE} {X264} plain.mp4"));
    let plain = std::fs::read(dir.path().join("plain.mp4")).unwrap();
    for (i, matrix) in [
        [1, 0, 0, 1],
        [-1, 0, 0, 1],
        [1, 0, 0, -1],
        [-1, 0, 0, -1],
        [0, 1, -1, 0],
        [0, -1, 1, 0],
        [0, 1, 1, 0],
        [0, -1, -1, 0],
    ]
    .into_iter()
    .enumerate()
    {
        let path = dir.path().join(format!("turn{i}.mp4"));
        std::fs::write(&path, with_matrix(&plain, matrix)).unwrap();
        same_frames(&path, 0.01);
    }
    let path = dir.path().join("askew.mp4");
    std::fs::write(&path, with_matrix(&plain, [2, 1, -1, 2])).unwrap();
    named(&path, &["quarter turns"]);
}

#[test]
fn what_is_not_shown_is_named() {
    if !ffmpeg_is_there() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    for (name, words, says) in [
        ("ten.mp4", "-c:v libx264 -pix_fmt yuv420p10le", "10 bits"),
        ("c422.mp4", "-c:v libx264 -pix_fmt yuv422p", "4:2:2"),
        ("c444.mp4", "-c:v libx264 -pix_fmt yuv444p", "4:4:4"),
        ("grey.mp4", "-c:v libx264 -pix_fmt gray", "monochrome"),
        (
            "fields.mp4",
            "-c:v libx264 -pix_fmt yuv420p -flags +ildct+ilme",
            "interlaced",
        ),
        (
            "left.mp4",
            "-c:v libx264 -pix_fmt yuv420p -bsf:v h264_metadata=crop_left=8",
            "cropped",
        ),
        (
            "ycgco.mp4",
            "-c:v libx264 -pix_fmt yuv420p -bsf:v h264_metadata=matrix_coefficients=8",
            "colour matrix 8",
        ),
        ("part4.mp4", "-c:v mpeg4", "mpeg4"),
        ("part2.mp4", "-c:v mpeg2video", "mpeg2video"),
        ("photos.mov", "-c:v mjpeg -pix_fmt yuvj420p", "mjpeg"),
        ("studio.mov", "-c:v prores", "prores"),
        ("vp9.mp4", "-c:v libvpx-vp9 -cpu-used 8", "vp9"),
        ("hevc.mp4", "-c:v libx265 -x265-params log-level=none", "hevc"),
        ("still.mov", "-c:v png", "png"),
    ] {
        let Ok(()) = std::panic::catch_unwind(|| {
            ffmpeg(dir, &format!("{PICTURE} {words} {name}"));
        }) else {
            println!("note: this ffmpeg cannot make {name}");
            continue;
        };
        named(&dir.join(name), &[says]);
    }
    // Several parts, and another speed, in an edit list.
    ffmpeg(dir, &format!("{PICTURE} {X264} plain.mp4"));
    let plain = std::fs::read(dir.join("plain.mp4")).unwrap();
    let at = plain.windows(4).position(|w| w == b"elst").unwrap() + 4;
    let mut fast = plain.clone();
    fast[at + 16..at + 18].copy_from_slice(&2u16.to_be_bytes());
    std::fs::write(dir.join("fast.mp4"), fast).unwrap();
    named(&dir.join("fast.mp4"), &["speed"]);
}
