//! Real files against the arithmetic of the reference, and the two decoders against each other.

use outro_media::{
    Decoder, FrameLimits, Options, PatchConfig, Picks, Sampling, VideoInfo, log_mel, patches, probe,
    read_audio, read_frames, read_video, resize, video_size,
};

use crate::support::{ffmpeg_is_there, shared};

fn decoders() -> Vec<Decoder> {
    if ffmpeg_is_there() {
        return vec![Decoder::Builtin, Decoder::Ffmpeg];
    }
    vec![Decoder::Builtin]
}

/// File, frames in it, frames taken, size, grid, samples at 16 kHz, mel frames: from decord, qwen-omni-utils,
/// librosa and the processors.
type File = (
    &'static str,
    usize,
    usize,
    (usize, usize),
    [usize; 3],
    usize,
    usize,
);

const FILES: &[File] = &[
    (
        "clips/bigbuckbunny.mp4",
        132,
        10,
        (560, 1008),
        [5, 40, 72],
        84_992,
        532,
    ),
    ("clips/bikes.mp4", 250, 20, (280, 644), [10, 20, 46], 0, 0),
    (
        "clips/carphone_pristine.mp4",
        120,
        8,
        (308, 364),
        [4, 22, 26],
        0,
        0,
    ),
    (
        "dailyomni/Videos/G_VTkkb34gw/G_VTkkb34gw_video.mp4",
        750,
        60,
        (364, 644),
        [30, 26, 46],
        480_003,
        3001,
    ),
    (
        "dailyomni/Videos/bswbQtOPk6E/bswbQtOPk6E_video.mp4",
        900,
        60,
        (364, 644),
        [30, 26, 46],
        480_003,
        3001,
    ),
    (
        "dailyomni/Videos/d6b4OmUFt7I/d6b4OmUFt7I_video.mp4",
        720,
        60,
        (364, 644),
        [30, 26, 46],
        480_003,
        3001,
    ),
];

#[test]
fn counts_sizes_and_lengths_are_those_of_the_reference() {
    let Some(data) = shared("data") else { return };
    for decoder in decoders() {
        let o = Options {
            decoder,
            ..Options::default()
        };
        for (name, total, taken, size, grid, samples, mel) in FILES {
            let path = data.join(name);
            let info = probe(&path, &o).unwrap();
            let video = info.video.clone().unwrap();
            println!("{name} {decoder}: {video:?} {:?}", info.audio);
            assert_eq!(video.frames, *total, "{name} {decoder}");
            let indices = Sampling::default().indices(&video).unwrap();
            assert_eq!(indices.len(), *taken, "{name} {decoder}");
            assert_eq!(
                video_size(video.height, video.width, indices.len(), &FrameLimits::default()).unwrap(),
                *size,
                "{name}"
            );
            assert_eq!([indices.len() / 2, size.0 / 14, size.1 / 14], *grid, "{name}");
            assert_eq!(info.audio.is_some(), *samples > 0, "{name}");
            if *samples > 0 {
                let pcm = read_audio(&info, None, None, &o).unwrap().samples;
                assert_eq!(
                    (pcm.len(), log_mel(&pcm).frames),
                    (*samples, *mel),
                    "{name} {decoder}"
                );
            }
        }
    }
}

#[test]
fn both_decoders_see_and_hear_the_same() {
    if decoders().len() < 2 {
        return;
    }
    let mut files = vec![crate::fixtures().join("clip.mp4")];
    if let Some(data) = shared("data") {
        files.extend(FILES.iter().take(4).map(|f| data.join(f.0)));
    }
    let [a, b] = [Decoder::Builtin, Decoder::Ffmpeg].map(|decoder| Options {
        decoder,
        ..Options::default()
    });
    for path in files {
        let (ia, ib) = (probe(&path, &a).unwrap(), probe(&path, &b).unwrap());
        let (va, vb) = (ia.video.clone().unwrap(), ib.video.clone().unwrap());
        assert_eq!(
            (va.frames, va.width, va.height),
            (vb.frames, vb.width, vb.height),
            "{}",
            path.display()
        );
        assert!(
            (va.fps - vb.fps).abs() < 0.01 * vb.fps,
            "{}: {} {}",
            path.display(),
            va.fps,
            vb.fps
        );
        let last = va.frames - 1;
        let indices = [0, 1, last / 3, last / 2, last - 1, last];
        let (fa, fb) = (
            read_frames(&ia, &indices, &a).unwrap(),
            read_frames(&ib, &indices, &b).unwrap(),
        );
        let difference: u64 = fa
            .data
            .iter()
            .zip(&fb.data)
            .map(|(x, y)| u64::from(x.abs_diff(*y)))
            .sum();
        let mean = difference as f64 / fa.data.len() as f64;
        println!("{}: {mean:.3} of 255", path.display());
        assert!(
            mean < 1.5,
            "{}: frames differ by {mean} of 255 on average",
            path.display()
        );
        let mut pick = |_: &VideoInfo| -> outro_media::Result<Picks> {
            Ok(Picks {
                indices: indices.to_vec(),
                size: Some((56, 84)),
            })
        };
        let sized = read_video(&ia, &mut pick, resize, &a).unwrap().frames;
        assert_eq!(sized, resize(&fa, 56, 84), "resizing on the way changes nothing");
        assert_eq!(
            patches(&sized, &PatchConfig::default()).unwrap().grid_thw,
            [3, 4, 6]
        );
        if ia.audio.is_some() {
            let (ma, mb) = (
                log_mel(&read_audio(&ia, None, None, &a).unwrap().samples),
                log_mel(&read_audio(&ib, None, None, &b).unwrap().samples),
            );
            assert_eq!(ma.frames, mb.frames, "{}", path.display());
            let mean = ma
                .data
                .iter()
                .zip(&mb.data)
                .map(|(x, y)| (x - y).abs())
                .sum::<f32>()
                / ma.data.len() as f32;
            println!("{}: mel {mean:.5}", path.display());
            assert!(mean < 0.004, "{}: {mean}", path.display());
        }
    }
}
