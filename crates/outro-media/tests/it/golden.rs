//! The arithmetic of the Python processors (fixtures/README.md): sizes exact, pixels and mel within their tolerances.

use outro_media::{
    FrameLimits, Frames, PatchConfig, Sampling, VideoInfo, image_size, log_mel, patches, resize,
    resize_image, smart_resize, video_size,
};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

fn json(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(crate::fixtures().join(name)).unwrap()).unwrap()
}

fn tensors<R>(name: &str, f: impl FnOnce(&SafeTensors) -> R) -> R {
    let bytes = std::fs::read(crate::fixtures().join(name)).unwrap();
    f(&SafeTensors::deserialize(&bytes).unwrap())
}

fn floats(t: &SafeTensors, key: &str) -> Vec<f32> {
    let view = t.tensor(key).unwrap();
    let half = |b: &[u8; 2]| half::f16::from_le_bytes(*b).to_f32();
    match view.dtype() {
        Dtype::F32 => view
            .data()
            .as_chunks()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect(),
        Dtype::F16 => view.data().as_chunks().0.iter().map(half).collect(),
        Dtype::I16 => view
            .data()
            .as_chunks()
            .0
            .iter()
            .map(|b| f32::from(i16::from_le_bytes(*b)) / 32768.0)
            .collect(),
        Dtype::I64 => view
            .data()
            .as_chunks()
            .0
            .iter()
            .map(|b| i64::from_le_bytes(*b) as f32)
            .collect(),
        other => panic!("{key}: {other:?}"),
    }
}

fn frames(t: &SafeTensors, key: &str) -> Frames {
    let view = t.tensor(key).unwrap();
    let s = view.shape();
    let (count, s) = if s.len() == 4 { (s[0], &s[1..]) } else { (1, s) };
    Frames {
        count,
        height: s[0],
        width: s[1],
        data: view.data().to_vec(),
    }
}

fn differ(got: &[f32], want: &[f32]) -> (f32, f32) {
    assert_eq!(got.len(), want.len());
    let d: Vec<f32> = got.iter().zip(want).map(|(a, b)| (a - b).abs()).collect();
    (
        d.iter().copied().fold(0.0, f32::max),
        d.iter().sum::<f32>() / d.len() as f32,
    )
}

/// 1/255 of the input scale, on the normalised scale of the most sensitive channel.
const STEP: f32 = 1.0 / 255.0 / 0.261_302_6;

fn size(v: &Value) -> (usize, usize) {
    (v[0].as_u64().unwrap() as usize, v[1].as_u64().unwrap() as usize)
}

#[test]
fn smart_resize_is_exact() {
    let n = |row: &Value, key: &str| row[key].as_u64().unwrap() as usize;
    for row in json("preprocessing/smart_resize.json").as_array().unwrap() {
        let got = smart_resize(
            n(row, "height"),
            n(row, "width"),
            n(row, "factor"),
            n(row, "min_pixels"),
            n(row, "max_pixels"),
        );
        match row.get("out") {
            Some(out) => assert_eq!(got.unwrap(), size(out), "{row}"),
            None => assert!(got.is_err(), "{row}"),
        }
    }
    let limits = FrameLimits::default();
    for row in json("more/preproc/preproc.json")["smart_resize"]
        .as_array()
        .unwrap()
    {
        let (h, w) = (n(row, "h"), n(row, "w"));
        let check = |key: &str, got: outro_media::Result<(usize, usize)>| {
            if row[key].is_array() {
                assert_eq!(got.unwrap(), size(&row[key]), "{key} {row}");
            } else {
                assert!(got.is_err(), "{key} {row}");
            }
        };
        check("image_hf_default", smart_resize(h, w, 28, 3136, 12_845_056));
        check("omni_utils_image", image_size(h, w, &FrameLimits::image()));
        check("video_128_768", video_size(h, w, 4, &limits));
    }
}

#[test]
fn sampling_is_exact() {
    for row in json("more/preproc/preproc.json")["smart_nframes"]
        .as_array()
        .unwrap()
    {
        let frames = row["total"].as_u64().unwrap() as usize;
        let fps = row["fps"].as_f64().unwrap();
        let video = VideoInfo {
            codec: String::new(),
            width: 1280,
            height: 720,
            fps,
            frames,
            duration: frames as f64 / fps,
        };
        let mut s = Sampling::default();
        for (key, value) in row["ele"].as_object().unwrap() {
            match key.as_str() {
                "fps" => s.fps = value.as_f64().unwrap(),
                "nframes" => s.frames = value.as_u64().map(|n| n as usize),
                "min_frames" => s.min_frames = value.as_u64().unwrap() as usize,
                "max_frames" => s.max_frames = value.as_u64().unwrap() as usize,
                other => panic!("{other}"),
            }
        }
        let got = s.indices(&video);
        let Some(count) = row["nframes"].as_u64() else {
            assert!(got.is_err(), "{row}");
            continue;
        };
        let got = got.unwrap();
        assert_eq!(got.len(), count as usize, "{row}");
        let want: Vec<usize> = serde_json::from_value(row["idx"].clone()).unwrap();
        if row["idx_full"] == true {
            assert_eq!(got, want, "{row}");
        } else {
            assert!(want.iter().all(|i| got.contains(i)), "{row}");
        }
        assert_eq!(
            video_size(720, 1280, got.len(), &FrameLimits::default()).unwrap(),
            size(&row["resize_720x1280"]),
            "{row}"
        );
    }
}

#[test]
fn pictures_resize_as_in_python() {
    tensors("more/preproc/images.safetensors", |t| {
        for name in ["up_50x64", "down_150x101", "noop_56x84"] {
            let (rgb, want) = (
                frames(t, &format!("{name}.rgb")),
                frames(t, &format!("{name}.pil_bicubic")),
            );
            assert_eq!(
                resize_image(&rgb, want.height, want.width),
                want,
                "{name}: Pillow, to the byte"
            );
        }
        let up = resize_image(&frames(t, "up_50x64.rgb"), 56, 56);
        let got = patches(&up, &PatchConfig::default()).unwrap();
        let (worst, _) = differ(&got.data, &floats(t, "up_50x64.pixel_values"));
        assert!(worst < 1e-5, "{worst}");
    });
    tensors("more/preproc/video.safetensors", |t| {
        let got = resize(&frames(t, "frames_rgb"), 28, 56);
        let view = t.tensor("fetch_video_resized_u8_tchw").unwrap();
        let planes = view.data();
        let mut worst = 0;
        for (i, byte) in got.data.iter().enumerate() {
            let (frame, pixel, channel) = (i / (28 * 56 * 3), i / 3 % (28 * 56), i % 3);
            worst = worst.max(byte.abs_diff(planes[(frame * 3 + channel) * 28 * 56 + pixel]));
        }
        assert_eq!(worst, 0, "torchvision, to the byte");
        let (worst, mean) = differ(
            &patches(&got, &PatchConfig::default()).unwrap().data,
            &floats(t, "pixel_values_videos"),
        );
        assert!(worst < 1e-5 && mean < 1e-6, "{worst} {mean}");
    });
}

#[test]
fn patches_of_the_processor() {
    tensors("preprocessing/vision.safetensors", |t| {
        for (source, pixels, grid) in [
            ("image", "pixel_values", "image_grid_thw"),
            ("frames", "pixel_values_videos", "video_grid_thw"),
        ] {
            let f = frames(t, source);
            let (h, w) = smart_resize(f.height, f.width, 28, 3136, 12_845_056).unwrap();
            let got = patches(&resize_image(&f, h, w), &PatchConfig::default()).unwrap();
            assert_eq!(got.grid_thw.map(|n| n as f32).to_vec(), floats(t, grid));
            let (worst, mean) = differ(&got.data, &floats(t, pixels));
            println!(
                "{source}: worst {:.3}/255, mean {:.4}/255",
                worst / STEP,
                mean / STEP
            );
            assert!(
                worst <= 2.0 * STEP && mean <= 0.2 * STEP,
                "{source}: {} {}",
                worst / STEP,
                mean / STEP
            );
        }
    });
}

#[test]
fn mel_of_the_feature_extractor() {
    let check = |samples: &[f32], want: &[f32]| {
        let mel = log_mel(samples);
        assert_eq!(mel.data.len(), 128 * mel.frames);
        let (worst, mean) = differ(&mel.data, want);
        println!("mel of {} frames: worst {worst:.1e}, mean {mean:.1e}", mel.frames);
        assert!(worst < 1e-3, "{worst}");
    };
    tensors("preprocessing/audio.safetensors", |t| {
        check(&floats(t, "waveform"), &floats(t, "mel"));
    });
    tensors("more/preproc/audio.safetensors", |t| {
        check(&floats(t, "s3.wave_i16"), &floats(t, "s3.log_mel"));
        check(&floats(t, "tiny.wave_i16"), &floats(t, "tiny.log_mel"));
    });
    assert_eq!(log_mel(&[]).frames, 0);
    assert_eq!(
        log_mel(&vec![0.1; 301 * 16_000]).frames,
        30_000,
        "what is past 300 seconds is cut"
    );
}
