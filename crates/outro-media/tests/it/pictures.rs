//! Pictures in the forms that people have against Pillow (tools/make_picture_fixture.py).

use std::path::PathBuf;

use outro_media::{Decoder, Hint, Kind, NoteKind, Options, probe, read_image};
use safetensors::SafeTensors;

use crate::support::{builtin, differ, ffmpeg, ffmpeg_is_there, shared};

fn dir() -> PathBuf {
    crate::fixtures().join("pictures")
}

fn refused() -> Vec<String> {
    serde_json::from_slice(&std::fs::read(dir().join("refused.json")).unwrap()).unwrap()
}

/// Files whose pixels differ from Pillow's, with the largest mean and single difference of 255: JPEG's inverse transform is
/// rounded otherwise, and colours of a lower resolution are brought up with other rounding.
fn may_differ(name: &str) -> (f64, u8) {
    match name {
        "jpeg_422.jpg" => (0.4, 8),
        "jpeg_420.jpg" => (0.6, 8),
        _ if name.contains(".jpg") => (0.03, 2),
        _ => (0.0, 0),
    }
}

#[test]
fn every_form_is_pillows() {
    let bytes = std::fs::read(dir().join("pillow.safetensors")).unwrap();
    let values = SafeTensors::deserialize(&bytes).unwrap();
    let stored = Options {
        exif: false,
        ..builtin()
    };
    let (mut seen, mut wrong) = (0, Vec::new());
    for (key, view) in values.tensors() {
        let (name, o) = match key.strip_suffix(".stored") {
            Some(name) => (name, &stored),
            None => (key.as_str(), &builtin()),
        };
        let path = dir().join(name);
        let got = read_image(&path, o).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!([got.height, got.width, 3], view.shape(), "{key}");
        let (mean, most) = differ(&got.data, view.data());
        let (mean_may, most_may) = may_differ(name);
        println!("{key}: mean {mean:.3}, largest {most}");
        if mean > mean_may || most > most_may {
            wrong.push(format!("{key}: mean {mean:.3}, largest {most}"));
        }
        // The header says the size that comes out.
        let info = probe(&path, o).unwrap();
        let video = info.video.unwrap();
        assert_eq!(
            (info.kind, video.height, video.width),
            (Kind::Image, got.height, got.width)
        );
        seen += 1;
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(seen > 40);
}

#[test]
fn orientation_is_told() {
    for ending in ["jpg", "png", "webp"] {
        for n in 1..=8 {
            let info = probe(&dir().join(format!("exif{n}.{ending}")), &builtin()).unwrap();
            let kinds: Vec<NoteKind> = info.notes.iter().map(|n| n.kind).collect();
            assert_eq!(
                kinds,
                if n == 1 { vec![] } else { vec![NoteKind::Turned] },
                "{n} {ending}"
            );
        }
    }
}

#[test]
fn truncated_pictures_are_refused_as_by_pillow() {
    for name in refused() {
        let message = read_image(&dir().join(&name), &builtin())
            .unwrap_err()
            .to_string();
        assert!(message.contains(&name), "{message}");
        println!("{message}");
    }
}

#[test]
fn inputs_of_the_issue() {
    let Some(cases) = shared("cases/image") else {
        return;
    };
    let message = read_image(&cases.join("cut.jpg"), &builtin())
        .unwrap_err()
        .to_string();
    assert!(message.contains("truncated"), "{message}");
    let plain = read_image(&cases.join("plain.png"), &builtin()).unwrap();
    let turned = read_image(&cases.join("exif6.jpg"), &builtin()).unwrap();
    let (h, w) = (plain.height, plain.width);
    assert_eq!((turned.height, turned.width), (w, h));
    let o = Options {
        exif: false,
        ..builtin()
    };
    let stored = read_image(&cases.join("exif6.jpg"), &o).unwrap();
    assert_eq!((stored.height, stored.width), (h, w));
    // Orientation 6: the first row as displayed is the first column as stored, from below.
    let pixel = |f: &outro_media::Frames, r: usize, c: usize| f.data[(r * f.width + c) * 3..][..3].to_vec();
    for (r, c) in [(0, 0), (7, 11), (w - 1, h - 1)] {
        assert_eq!(pixel(&turned, r, c), pixel(&stored, h - 1 - c, r));
    }
}

#[test]
fn other_formats_go_through_ffmpeg() {
    let dir = tempfile::tempdir().unwrap();
    let plain = crate::fixtures().join("pictures/rgb.png");
    let want = read_image(&plain, &builtin()).unwrap();
    let bmp = dir.path().join("made.bmp");
    std::fs::write(&bmp, b"BM and no more than that").unwrap();
    let message = read_image(&bmp, &builtin()).unwrap_err().to_string();
    assert!(message.contains("BMP") && message.contains("ffmpeg"), "{message}");
    if !ffmpeg_is_there() {
        return;
    }
    std::fs::copy(&plain, dir.path().join("rgb.png")).unwrap();
    for name in ["made.bmp", "made.tiff", "made.ppm"] {
        ffmpeg(dir.path(), &format!("-i rgb.png {name}"));
        let path = dir.path().join(name);
        let o = Options::default();
        assert_eq!(read_image(&path, &o).unwrap(), want, "{name}");
        let info = probe(&path, &o).unwrap();
        assert_eq!((info.kind, info.video.unwrap().width), (Kind::Image, want.width));
    }
    // A video is none, and the message says where it belongs.
    let o = Options {
        decoder: Decoder::Auto,
        ..Options::default()
    };
    let error = read_image(&crate::fixtures().join("clip.mp4"), &o).unwrap_err();
    assert_eq!(error.hint(), Some(Hint::GiveAsVideoOrAudio), "{error}");
}
