//! Videos that are encoded while their frames are decoded: the same bits as when all patches are there first.

use std::fs;
use std::path::PathBuf;

use outro::chat::Part;
use outro::engine::MediaSet;
use outro::prepare::MediaOptions;
use outro::{Cancel, Engine, EngineOptions, Error, MediaEmbeds, Update};
use outro_media::{Decoder, Frames, VideoToWrite, write_mp4};
use serde_json::Value;

use crate::families::with_towers;

/// A square that moves now and then over a still ground, with sound.
fn clip(dir: &tempfile::TempDir, count: usize) -> PathBuf {
    let (height, width) = (64, 80);
    let mut data = Vec::with_capacity(count * height * width * 3);
    for frame in 0..count {
        let at = frame / 3 * 5 % 60;
        for y in 0..height {
            for x in 0..width {
                let inside = (20..36).contains(&y) && (at..at + 16).contains(&x);
                data.extend(if inside {
                    [250, 20, 20]
                } else {
                    [(x * 3) as u8, (y * 3) as u8, 90]
                });
            }
        }
    }
    let frames = Frames {
        count,
        height,
        width,
        data,
    };
    let samples: Vec<f32> = (0..32_000).map(|i| (i as f32 / 20.0).sin() / 3.0).collect();
    let path = dir.path().join(format!("{count}.mp4"));
    write_mp4(
        &path,
        &VideoToWrite {
            frames: &frames,
            fps: 10,
            samples: &samples,
        },
    )
    .unwrap();
    path
}

/// A fixture with a context and limits on videos that are wide enough for several groups of patches.
fn wide(dir: &tempfile::TempDir, family: &str) -> Engine {
    let (from, to) = (crate::fixtures().join(family), dir.path().join(family));
    fs::create_dir_all(&to).unwrap();
    for file in fs::read_dir(from)
        .unwrap()
        .flatten()
        .filter(|f| f.path().is_file())
    {
        let name = file.file_name().into_string().unwrap();
        if !name.ends_with("config.json") {
            fs::copy(file.path(), to.join(name)).unwrap();
            continue;
        }
        let text = fs::read_to_string(file.path()).unwrap();
        let mut text = text.replace(
            "\"max_position_embeddings\": 4096",
            "\"max_position_embeddings\": 65536",
        );
        if name.ends_with("preprocessor_config.json") {
            let mut value: Value = serde_json::from_str(&text).unwrap();
            for most in ["/size/longest_edge", "/max_pixels"] {
                if let Some(n) = value.pointer_mut(most) {
                    *n = 1_000_000.into();
                }
            }
            text = value.to_string();
        }
        fs::write(to.join(name), text).unwrap();
    }
    Engine::open(to, EngineOptions::default()).unwrap()
}

fn options(engine: &Engine) -> MediaOptions {
    let mut options = engine.preparer().media_options();
    options.media.decoder = Decoder::Builtin;
    options.sampling.frames = Some(62);
    options.max_pixels = Some(64 * 80);
    options
}

fn whole(engine: &Engine, parts: &[Part], options: &MediaOptions) -> MediaSet {
    let media = engine.preparer().load_media(parts, options, &mut |_| {}).unwrap();
    assert!(media.inputs.pixel_values_videos.is_some());
    engine.encode(media, &Cancel::default(), &mut |_| {}).unwrap()
}

fn same(a: &MediaEmbeds, b: &MediaEmbeds, what: &str) {
    let bits = |e: &MediaEmbeds| -> Vec<Vec<u32>> {
        [&e.image, &e.video, &e.audio]
            .into_iter()
            .chain(e.deepstack.iter())
            .map(|m| m.data().iter().map(|x| x.to_bits()).collect())
            .collect()
    };
    assert!(bits(a) == bits(b), "{what}");
}

#[test]
fn streamed_is_whole() {
    let made = tempfile::tempdir().unwrap();
    let (long, short) = (clip(&made, 66), clip(&made, 62));
    for family in with_towers() {
        let engine = wide(&made, family);
        let options = options(&engine);
        let parts = &[
            Part::Video(long.clone().into()),
            Part::Video(short.clone().into()),
        ];
        let (mut groups, mut last) = (0, 0);
        let streamed = engine
            .media_with(parts, &options, &mut |update| {
                if let Update::Encode(outro::EncodeProgress::Vision { done, total }) = update {
                    assert!(done > last && done <= total, "{family}: {done} of {total}");
                    (groups, last) = (groups + 1, done);
                }
            })
            .unwrap();
        let all = whole(&engine, parts, &options);
        assert!(streamed.media().inputs.pixel_values_videos.is_none(), "{family}");
        same(streamed.embeds(), all.embeds(), family);
        assert_eq!(streamed.media().items, all.media().items, "{family}");
        assert_eq!(streamed.notes(), all.notes(), "{family}");
        // Patches or sides of 14 pixels, and pictures of a fixed small size, are too few for a second group.
        let few = ["omni-tiny", "llava-onevision-tiny", "qwen3-omni-tiny"].contains(&family);
        assert!(groups > 2 || few, "{family}: {groups} groups");
        if family == "videollama3-tiny" {
            let planned: usize = all.media().taken.iter().map(|t| t.visual_tokens).sum();
            assert!(streamed.embeds().video.rows() < planned, "no token stands still");
        }
        // With noise, for which the files are read once more: as on the patches that were kept.
        if !["omni-tiny", "videollama3-tiny", "qwen3-vl-tiny"].contains(&family) {
            continue;
        }
        let ask = |media: &MediaSet| {
            let ask = engine.ask(media, "What is it?").max_new(2);
            let answer = ask.strategy("vcd").unwrap().run().unwrap();
            answer
                .first_logits
                .iter()
                .map(|x| x.to_bits())
                .collect::<Vec<u32>>()
        };
        assert_eq!(ask(&streamed), ask(&all), "{family}");
    }
}

#[test]
fn a_stream_ends_where_it_is_cancelled_or_refused() {
    let made = tempfile::tempdir().unwrap();
    let path = clip(&made, 66);
    let parts = [Part::Video(path.clone().into())];
    let engine = wide(&made, "qwen3-vl-tiny");
    let mut options = options(&engine);
    let cancel = Cancel::default();
    options.media.cancel = cancel.clone();
    let error = engine.media_with(&parts, &options, &mut |update| {
        if matches!(update, Update::Encode(_)) {
            cancel.set();
        }
    });
    assert!(matches!(error.err(), Some(Error::Cancelled)));
    // A file that ends early fails as it does when it is decoded apart.
    let bytes = fs::read(&path).unwrap();
    let cut = made.path().join("cut.mp4");
    let moov = bytes.windows(4).position(|w| w == b"moov").unwrap();
    let mut damaged = bytes.clone();
    let mdat = bytes.windows(4).position(|w| w == b"mdat").unwrap() + 4;
    let end = if moov > mdat { moov - 8 } else { bytes.len() };
    damaged[mdat + (end - mdat) / 3..end].fill(0xff);
    fs::write(&cut, damaged).unwrap();
    options.media.cancel = Cancel::default();
    let parts = [Part::Video(cut.into())];
    let told = |r: outro::Result<()>| r.err().map(|e| e.to_string());
    let apart = engine.preparer().load_media(&parts, &options, &mut |_| {});
    let apart = told(apart.map(|_| ()));
    let streamed = engine.media_with(&parts, &options, &mut |_| {});
    assert_eq!(told(streamed.map(|_| ())), apart);
    assert!(apart.is_some(), "the damage does not show");
}
