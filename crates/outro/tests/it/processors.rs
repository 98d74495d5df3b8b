//! Arithmetic of processors against their own (Qwen3-VL, Qwen3-Omni, video-SALMONN 2+), and configurations that cannot be.

use std::fs;

use outro::chat::Part;
use outro::config::Config;
use outro::prepare::Preparer;
use outro::prompt::Chunk;
use outro_media::{Sampling, Spread, VideoInfo, log_mel_in_chunks, log_mel_together, volume_size, write_png};
use safetensors::SafeTensors;
use serde_json::{Value, json};

use crate::families::picture;

fn rows(path: &str, key: &str) -> Vec<Value> {
    let text = fs::read_to_string(crate::fixtures().join(path)).unwrap();
    let all: Value = serde_json::from_str(&text).unwrap();
    let rows = if key.is_empty() { &all } else { &all[key] };
    rows.as_array().unwrap().clone()
}

#[test]
fn frames_and_sizes_are_those_of_transformers() {
    let sampling = Sampling {
        spread: Spread::Even,
        ..Sampling::default()
    };
    let frames = rows("qwen3-vl-tiny/arithmetic.json", "frames");
    let sizes = rows("qwen3-vl-tiny/arithmetic.json", "sizes");
    assert!(frames.len() >= 50 && sizes.len() >= 40);
    for row in frames {
        let (frames, fps, want): (usize, f64, Vec<usize>) = serde_json::from_value(row).unwrap();
        let info = VideoInfo {
            codec: String::new(),
            width: 64,
            height: 64,
            fps,
            frames,
            duration: frames as f64 / fps,
        };
        assert_eq!(
            sampling.indices(&info).unwrap(),
            want,
            "{frames} frames, {fps} a second"
        );
    }
    for row in sizes {
        let n: Vec<Value> = row.as_array().unwrap().clone();
        let [height, width, frames, factor, least, most] =
            [0, 1, 2, 3, 4, 5].map(|i| n[i].as_u64().unwrap() as usize);
        let want: (usize, usize) = serde_json::from_value(n[6].clone()).unwrap();
        let got = volume_size(height, width, (frames, 2), factor, (least, most)).unwrap();
        assert_eq!(got, want, "{row}");
    }
    let made = tempfile::tempdir().unwrap();
    let config = outro::shapes::config("qwen3-omni-30b-a3b").unwrap();
    // The limits of the published file.
    let limits = json!({"min_pixels": 3136, "max_pixels": 12_845_056, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]});
    fs::write(made.path().join("preprocessor_config.json"), limits.to_string()).unwrap();
    let preparer = Preparer::of(config, made.path()).unwrap();
    let mut pictures = 0;
    for row in rows("qwen3-omni-tiny/sizes.json", "") {
        type Size = (usize, usize);
        let (height, width, frames, image, video): (usize, usize, usize, Size, Size) =
            serde_json::from_value(row.clone()).unwrap();
        let mut options = preparer.media_options();
        options.sampling.frames = Some(frames);
        let info = VideoInfo {
            codec: String::new(),
            width,
            height,
            fps: 25.0,
            frames: 3000,
            duration: 120.0,
        };
        let plan = preparer.plan_video(&info, &options).unwrap();
        assert_eq!(plan.size, <[usize; 2]>::from(video), "{row}");
        assert!(plan.first_size.iter().all(|n| n.is_multiple_of(28)), "{row}");
        let mut lower = options.clone();
        lower.max_pixels = Some(200_000);
        let small = preparer.plan_video(&info, &lower).unwrap().size;
        assert!(small[0] * small[1] <= 200_000, "{row}: {small:?}");
        if frames == 4 && height * width < 500_000 {
            let png = made.path().join("picture.png");
            fs::write(
                &png,
                write_png(width, height, &vec![9; height * width * 3]).unwrap(),
            )
            .unwrap();
            let media = preparer
                .load_media(&[Part::Image(png.into())], &options, &mut |_| {})
                .unwrap();
            let grid = [1, image.0 / 16, image.1 / 16];
            assert_eq!(media.inputs.pixel_values.unwrap().grid_thw, [grid], "{row}");
            pictures += 1;
        }
    }
    assert!(pictures >= 4);
    // And what is in it: Pillow's resize, then torchvision's.
    let bytes = fs::read(crate::fixtures().join("qwen3-omni-tiny/picture.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let (picture, png) = (picture(&file, 0), made.path().join("picture.png"));
    fs::write(
        &png,
        write_png(picture.width, picture.height, &picture.data).unwrap(),
    )
    .unwrap();
    let options = preparer.media_options();
    let media = preparer
        .load_media(&[Part::Image(png.into())], &options, &mut |_| {})
        .unwrap();
    let (got, want) = (media.inputs.pixel_values.unwrap(), halves(&file, "pixels"));
    assert_eq!((got.grid_thw, got.data.len()), (vec![[1, 4, 6]], want.len()));
    for (got, want) in got.data.iter().zip(&want) {
        assert!((got - want).abs() < 1e-3, "{got} for {want}");
    }
}

/// LLaVA-OneVision takes 32 frames of a video; their times are their own.
#[test]
fn frames_of_llava_onevision_last_as_long_as_they_do() {
    let made = tempfile::tempdir().unwrap();
    let config = outro::shapes::config("llava-onevision-7b").unwrap();
    let preparer = Preparer::of(config, made.path()).unwrap();
    let mut info = VideoInfo {
        codec: String::new(),
        width: 640,
        height: 360,
        fps: 25.0,
        frames: 3000,
        duration: 120.0,
    };
    let plan = preparer.plan_video(&info, &preparer.media_options()).unwrap();
    assert_eq!((plan.indices.len(), plan.indices[31]), (32, 2999));
    assert!((plan.second_per_grid - 3.75).abs() < 1e-12);
    info.frames = 7;
    let plan = preparer.plan_video(&info, &preparer.media_options()).unwrap();
    assert_eq!(plan.indices, [0, 1, 2, 3, 4, 5, 6]);
}

/// Two files in one request: the extractor fills up the shorter sound.
#[test]
fn sounds_of_a_request_are_heard_together() {
    let bytes = fs::read(crate::fixtures().join("qwen3-omni-tiny/mel.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let made = tempfile::tempdir().unwrap();
    let parts = ["samples.0", "samples.1"].map(|key| {
        let pcm = file.tensor(key).unwrap().data().to_vec();
        let size = |n: usize| u32::try_from(n).unwrap().to_le_bytes();
        let mut wav = b"RIFF".to_vec();
        wav.extend(size(36 + pcm.len()));
        // 16 bytes of format: PCM, one channel, 16,000 samples a second of two bytes.
        wav.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0\x80\x3e\0\0\0\x7d\0\0\x02\0\x10\0data");
        wav.extend(size(pcm.len()));
        wav.extend(pcm);
        let path = made.path().join(format!("{key}.wav"));
        fs::write(&path, wav).unwrap();
        Part::Audio(path.into())
    });
    let preparer = Preparer::open(&crate::fixtures().join("qwen3-omni-tiny")).unwrap();
    let mut options = preparer.media_options();
    options.media.decoder = outro_media::Decoder::Builtin;
    let plan = preparer.plan_media(parts.iter(), &options).unwrap();
    let frames: Vec<usize> = plan.items.iter().map(|i| i.mel_frames).collect();
    assert_eq!((frames, plan.audio_tokens), (vec![17, 31], 3 + 4));
    let media = preparer.load_media(&parts, &options, &mut |_| {}).unwrap();
    assert_eq!(media.items, [3, 4].map(|tokens| Chunk::Audio { tokens }));
    let (heard, want) = (media.inputs.audio.unwrap(), halves(&file, "mel"));
    assert_eq!(heard.lengths, [17, 31]);
    for (at, got) in heard.data[..128 * 17].iter().enumerate() {
        let want = want[at / 17 * 31 + at % 17];
        assert!((got - want).abs() < 1e-3, "{at}: {got} for {want}");
    }
    let alone = preparer.load_media(&parts[..1], &options, &mut |_| {}).unwrap();
    assert_eq!(alone.inputs.audio.unwrap().lengths, [16]);
}

/// The authors' own code for frames of video-SALMONN 2+, which knows no other settings.
#[test]
fn frames_of_video_salmonn_are_those_of_its_authors() {
    let rows = rows("video-salmonn2-tiny/arithmetic.json", "");
    let made = tempfile::tempdir().unwrap();
    let config = outro::shapes::config("video-salmonn2-3b").unwrap();
    let preparer = Preparer::of(config, made.path()).unwrap();
    let options = preparer.media_options();
    let shapes = [(240, 320), (1080, 1920), (4000, 100), (64, 64)];
    for row in rows {
        type Row = (usize, f64, usize, Vec<usize>, Vec<(usize, usize)>, f64);
        let (frames, fps, count, spread, sizes, seconds): Row = serde_json::from_value(row).unwrap();
        for ((height, width), want) in shapes.into_iter().zip(sizes) {
            let info = VideoInfo {
                codec: String::new(),
                width,
                height,
                fps,
                frames,
                duration: frames as f64 / fps,
            };
            let plan = preparer.plan_video(&info, &options).unwrap();
            assert_eq!(plan.indices.len(), count, "{frames} at {fps}");
            let mut some: Vec<usize> = plan
                .indices
                .iter()
                .step_by((count / 40).max(1))
                .copied()
                .collect();
            some.push(plan.indices[count - 1]);
            assert_eq!(some, spread, "{frames} at {fps}");
            assert_eq!(
                (plan.size[0], plan.size[1]),
                want,
                "{height} x {width}, {count} frames"
            );
            assert!(
                (plan.second_per_grid - seconds).abs() < 1e-12,
                "{frames} at {fps}"
            );
        }
    }
}

fn samples(file: &SafeTensors, key: &str) -> Vec<f32> {
    let view = file.tensor(key).unwrap();
    let values = view.data().as_chunks().0.iter();
    values
        .map(|b| f32::from(i16::from_le_bytes(*b)) / 32768.0)
        .collect()
}

fn halves(file: &SafeTensors, key: &str) -> Vec<f32> {
    let view = file.tensor(key).unwrap();
    let values = view.data().as_chunks().0.iter();
    values.map(|b| half::f16::from_le_bytes(*b).to_f32()).collect()
}

/// Qwen3-Omni's spectrograms end where the sound ends.
#[test]
fn spectrograms_are_those_of_the_extractor() {
    for case in ["audio-3", "audio-in-video-1"] {
        let path = crate::fixtures().join(format!("qwen3-omni-tiny/cases/{case}.safetensors"));
        let bytes = fs::read(&path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let samples = samples(&file, "samples");
        let want = outro::inputs::Inputs::load(&path).unwrap().audio.unwrap();
        let got = log_mel_together(&samples, 0);
        assert_eq!(vec![got.frames], want.lengths, "{case}");
        let worst = got
            .data
            .iter()
            .zip(&want.data)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        assert!(worst < 1e-3, "{case}: {worst}; the fixture keeps halves");
    }
    // Whisper's own, which video-SALMONN 2+ takes: segments of one length.
    let bytes = fs::read(crate::fixtures().join("video-salmonn2-tiny/mel.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let got = log_mel_in_chunks(&samples(&file, "samples"), 100);
    let want = halves(&file, "mel");
    assert_eq!((got.frames, got.data.len()), (200, want.len()));
    for (i, want) in want.iter().enumerate() {
        let (segment, bin, t) = (i / 12_800, i / 100 % 128, i % 100);
        let got = got.data[bin * 200 + segment * 100 + t];
        assert!(
            (got - want).abs() < 1e-3,
            "segment {segment}, bin {bin}, frame {t}"
        );
    }
    // Of two sounds the shorter one is filled up to the longer.
    let bytes = fs::read(crate::fixtures().join("qwen3-omni-tiny/mel.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let want = halves(&file, "mel");
    for (i, frames) in [17, 31].into_iter().enumerate() {
        let got = log_mel_together(&samples(&file, &format!("samples.{i}")), 5000);
        assert_eq!(got.frames, frames);
        for (at, got) in got.data.iter().enumerate() {
            let want = want[(i * 128 + at / frames) * 31 + at % frames];
            assert!((got - want).abs() < 1e-3, "sound {i}, {at}: {got} for {want}");
        }
    }
    assert_eq!(log_mel_together(&[0.1; 159], 0).frames, 0);
    assert_eq!(log_mel_together(&[0.1; 160], 0).frames, 1);
}

#[test]
fn a_configuration_names_what_is_wrong() {
    let made = tempfile::tempdir().unwrap();
    for (family, pointer, value, parts) in [
        (
            "vl",
            "/text_config/rope_scaling/mrope_section",
            json!(null),
            &["mrope_section", "missing"][..],
        ),
        (
            "vl",
            "/text_config/rope_scaling/mrope_interleaved",
            json!(false),
            &["mrope_interleaved"],
        ),
        ("vl", "/text_config/head_dim", json!(7), &["text_config.head_dim"]),
        (
            "vl",
            "/vision_config/num_position_embeddings",
            json!(35),
            &["num_position_embeddings", "square"],
        ),
        (
            "vl",
            "/vision_config/deepstack_visual_indexes",
            json!([2, 0]),
            &["deepstack_visual_indexes", "ascend"],
        ),
        (
            "vl",
            "/vision_config/deepstack_visual_indexes",
            json!([0, 4]),
            &["deepstack_visual_indexes", "depth = 4"],
        ),
        (
            "vl",
            "/vision_config/out_hidden_size",
            json!(65),
            &["out_hidden_size", "64"],
        ),
        (
            "vl",
            "/model_type",
            json!("qwen3_vl_next"),
            &["unknown architecture", "nearest is qwen3_vl"],
        ),
        (
            "vl",
            "/vision_config/patch_size",
            json!(1 << 24),
            &["patch_size", "4096"],
        ),
        ("omni", "/thinker_config", json!(null), &["thinker_config"]),
        (
            "omni",
            "/thinker_config/position_id_per_seconds",
            json!(1e39),
            &["position_id_per_seconds", "1000000"],
        ),
        (
            "omni",
            "/thinker_config/text_config/num_experts",
            json!(null),
            &["text_config.num_experts"],
        ),
        (
            "omni",
            "/thinker_config/audio_config/n_window_infer",
            json!(20),
            &["n_window_infer", "100"],
        ),
        (
            "omni",
            "/thinker_config/audio_config/downsample_hidden_size",
            json!(null),
            &["downsample_hidden_size"],
        ),
        (
            "omni",
            "/thinker_config/audio_start_token_id",
            json!(null),
            &["audio_start_token_id"],
        ),
    ] {
        let text =
            fs::read_to_string(crate::fixtures().join(format!("qwen3-{family}-tiny/config.json"))).unwrap();
        let mut config: Value = serde_json::from_str(&text).unwrap();
        *config.pointer_mut(pointer).unwrap() = value;
        fs::write(made.path().join("config.json"), config.to_string()).unwrap();
        let error = Config::load(made.path()).unwrap_err().to_string();
        assert!(parts.iter().all(|p| error.contains(p)), "{pointer}: {error}");
    }
}
