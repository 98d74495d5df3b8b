//! `outro inspect`: what it says agrees with arithmetic done by hand.

use std::path::Path;

use serde_json::Value;

use crate::support::{args, outro, shared, tiny, weights};

fn json(target: &Path, extra: &[&str]) -> Value {
    let mut line = args!["inspect", target, "--json"].to_vec();
    line.extend(extra.iter().map(Into::into));
    serde_json::from_str(&outro(line).ok().stdout).unwrap()
}

#[test]
fn a_checkpoint() {
    let report = json(&tiny(), &[]);
    assert_eq!(report["kind"], "checkpoint");
    assert_eq!(report["family"], "qwen2_5_omni");
    assert_eq!(report["decoder"]["layers"], 15);
    let tensors = weights(&tiny().join("model.safetensors"));
    let count: usize = tensors
        .values()
        .map(|(_, shape, _)| shape.iter().product::<usize>())
        .sum();
    assert_eq!(report["parameters"], count);
    assert_eq!(report["dtypes"]["F32"], count);
    assert_eq!(report["shards"][0]["tensors"], tensors.len());
    let parts: u64 = report["parts"]
        .as_object()
        .unwrap()
        .values()
        .map(|p| p["parameters"].as_u64().unwrap())
        .sum();
    assert_eq!(parts, count as u64);
    assert!(report["parts"].get("other").is_none(), "{report}");
    assert_eq!(report["special_tokens"]["video"], 392);
    // 15 layers x 2 x 2 heads x 16 values of 4 bytes.
    assert_eq!(report["memory"]["cache_per_token"], 15 * 2 * 2 * 16 * 4);
    let by = &report["memory"]["cache_per_token_by"];
    for (kv, head) in [("f32", 64), ("f16", 32), ("q8_0", 18), ("q4", 12)] {
        assert_eq!(by[kv], 15 * 2 * 2 * head, "{kv}");
    }
    let text = outro(args!["inspect", tiny()]).ok().stdout;
    for part in [
        "qwen2_5_omni",
        "15 layers",
        "vision tower",
        "audio tower",
        "decoder",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
}

#[test]
fn experts_are_told_apart_from_an_mlp() {
    let model = tiny().with_file_name("qwen3-omni-tiny");
    let experts = json(&model, &[])["decoder"]["experts"].clone();
    assert_eq!(
        (&experts["count"], &experts["top_k"], &experts["layers"]),
        (&6.into(), &2.into(), &6.into())
    );
    let text = outro(args!["inspect", &model]).ok().stdout;
    assert!(
        text.contains("2 of 6 experts of 16 in 6 layers, MLP 48 in the others"),
        "{text}"
    );
}

#[test]
fn speech_output_is_counted_and_never_read() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(tiny().join("config.json"), dir.path().join("config.json")).unwrap();
    let mut tensors = weights(&tiny().join("model.safetensors"));
    let whole = tensors.len();
    tensors.insert(
        "talker.model.norm.weight".into(),
        (safetensors::tensor::Dtype::BF16, vec![4], vec![0xff; 8]),
    );
    tensors.insert(
        "token2wav.x".into(),
        (safetensors::tensor::Dtype::F32, vec![1], vec![0xff; 4]),
    );
    crate::support::write_weights(&dir.path().join("model.safetensors"), &tensors);
    let report = json(dir.path(), &[]);
    assert_eq!(report["skipped_tensors"], 2);
    assert_eq!(report["shards"][0]["tensors"], whole);
}

/// What a video must become: frames, height, width, grid, video tokens; mel frames and audio tokens.
#[track_caller]
fn check_video(
    path: &Path,
    extra: &[&str],
    frames: u64,
    size: [u64; 2],
    grid: [u64; 3],
    tokens: u64,
) -> Value {
    let report = json(path, extra);
    let b = &report["becomes"];
    assert_eq!(b["frames"], frames, "{report}");
    assert_eq!(
        [b["height"].as_u64().unwrap(), b["width"].as_u64().unwrap()],
        size,
        "{report}"
    );
    assert_eq!(b["grid"], serde_json::json!(grid), "{report}");
    assert_eq!(b["video_tokens"], tokens, "{report}");
    report
}

#[test]
fn our_clip() {
    let clip = tiny().with_file_name("clip.mp4");
    // 40 frames at 10 fps: 4 s x 2 fps = 8. 240 x 320 is below 128 x 784 pixels: scaled by sqrt(100352 / 76800) = 1.143 and
    // rounded up to 10 x 14 tokens of 28. Four frame pairs of 20 x 28 patches, four patches a token.
    let report = check_video(&clip, &[], 8, [280, 392], [4, 20, 28], 560);
    assert_eq!(report["kind"], "video");
    assert_eq!(
        (&report["video"]["width"], &report["video"]["height"]),
        (&320.into(), &240.into())
    );
    assert_eq!(report["video"]["frames"], 40);
    assert_eq!(report["audio"]["channels"], 2);
    let audio = report["becomes"]["audio_tokens"].as_u64().unwrap();
    assert!((98..=102).contains(&audio), "4 s at 25 a second: {audio}");
    check_video(&clip, &["--frames", "4"], 4, [280, 392], [2, 20, 28], 280);
    check_video(&clip, &["--fps", "10"], 40, [280, 392], [20, 20, 28], 2800);
    let silent = json(&clip, &["--no-audio-in-video"]);
    assert_eq!(silent["becomes"]["audio_tokens"], 0);

    let with_model = json(&clip, &["--model", tiny().to_str().unwrap()]);
    let prompt = with_model["becomes"]["prompt_tokens"].as_u64().unwrap();
    assert!(prompt > 560 + audio, "{with_model}");
    let text = outro(args!["inspect", &clip, "--model", tiny()]).ok().stdout;
    for part in ["320 x 240", "280 x 392", "560", "prompt", "memory"] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
}

#[test]
fn real_videos_become_what_the_reference_says() {
    if let Some(path) = shared("data/clips/bigbuckbunny.mp4") {
        let report = check_video(&path, &[], 10, [560, 1008], [5, 40, 72], 3600);
        assert_eq!(report["becomes"]["audio_tokens"], 133, "{report}");
        assert_eq!(report["becomes"]["mel_frames"], 532, "{report}");
    }
    for name in ["G_VTkkb34gw", "bswbQtOPk6E", "d6b4OmUFt7I"] {
        let Some(path) = shared(&format!("data/dailyomni/Videos/{name}/{name}_video.mp4")) else {
            continue;
        };
        let report = json(&path, &[]);
        if report["video"]["width"] == 640 && report["video"]["height"] == 360 {
            check_video(&path, &[], 60, [364, 644], [30, 26, 46], 8970);
        }
        let mel = report["becomes"]["mel_frames"].as_u64().unwrap();
        assert!(
            (2990..=3012).contains(&mel),
            "{name}: half a minute at 100 a second: {mel}"
        );
        let tokens = report["becomes"]["audio_tokens"].as_u64().unwrap();
        assert_eq!(tokens, ((mel - 1) / 2 + 1 - 2) / 2 + 1, "{name}");
    }
}
