//! What tests of decoders share: the inputs of the issue, files that ffmpeg makes, and what ffmpeg makes of them.

use std::path::{Path, PathBuf};
use std::process::Command;

use outro_media::{Decoder, MediaInfo, Options, ffmpeg_version, probe, read_audio, read_frames};

/// A folder of the material that is not ours to commit; says so where it is not there.
pub(crate) fn shared(part: &str) -> Option<PathBuf> {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let dir = std::env::var_os("OUTRO_SHARED")
        .map_or_else(default, PathBuf::from)
        .join(part);
    if dir.is_dir() {
        return Some(dir);
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "{} is missing; set OUTRO_SHARED",
        dir.display()
    );
    println!("note: {} is not here, its files were not read", dir.display());
    None
}

/// Whether ffmpeg is there to make files and to compare with. Where it is not, a test returns early, but in CI only on purpose
/// (`OUTRO_WITHOUT_FFMPEG`, as .ci/run sets it).
pub(crate) fn ffmpeg_is_there() -> bool {
    let there = ffmpeg_version().is_some();
    if !there {
        assert!(
            std::env::var_os("CI").is_none() || std::env::var_os("OUTRO_WITHOUT_FFMPEG").is_some(),
            "ffmpeg is missing"
        );
        println!("note: ffmpeg is not installed, what it makes was not compared");
    }
    there
}

/// Runs ffmpeg with these words, in `dir`; its output.
pub(crate) fn ffmpeg(dir: &Path, words: &str) -> Vec<u8> {
    let program = std::env::var_os("OUTRO_FFMPEG").map_or_else(|| "ffmpeg".into(), PathBuf::from);
    let out = Command::new(program)
        .args(["-v", "error", "-nostdin", "-y"])
        .args(words.split_whitespace())
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(
        out.status.success(),
        "ffmpeg {words}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    out.stdout
}

pub(crate) fn builtin() -> Options {
    Options {
        decoder: Decoder::Builtin,
        ..Options::default()
    }
}

/// All frames that ffmpeg gives of a file, RGB.
pub(crate) fn frames_of_ffmpeg(path: &Path) -> Vec<u8> {
    let dir = path.parent().unwrap();
    let name = path.file_name().unwrap().to_string_lossy();
    ffmpeg(
        dir,
        &format!("-i {name} -map 0:v:0 -fps_mode passthrough -f rawvideo -pix_fmt rgb24 -"),
    )
}

/// Samples that ffmpeg gives of the sound that it takes, interleaved.
pub(crate) fn sound_of_ffmpeg(path: &Path, channels: usize) -> Vec<f32> {
    let dir = path.parent().unwrap();
    let name = path.file_name().unwrap().to_string_lossy();
    let bytes = ffmpeg(dir, &format!("-i {name} -vn -ac {channels} -f f32le -"));
    bytes
        .as_chunks()
        .0
        .iter()
        .map(|b| f32::from_le_bytes(*b))
        .collect()
}

/// All frames that the built-in decoder gives.
pub(crate) fn all_frames(info: &MediaInfo) -> outro_media::Result<outro_media::Frames> {
    let count = info.video.as_ref().unwrap().frames;
    read_frames(info, &(0..count).collect::<Vec<_>>(), &builtin())
}

/// The sound that the built-in decoder gives, at 16 kHz.
pub(crate) fn sound(path: &Path) -> outro_media::Result<outro_media::Sound> {
    read_audio(&probe(path, &builtin())?, None, None, &builtin())
}

/// The frequency of a tone at 16 kHz, from its zero crossings: of the first second, for encoders pad the last packet with
/// silence.
pub(crate) fn pitch(samples: &[f32]) -> f64 {
    let second = &samples[..samples.len().min(16_000)];
    let crossings = second.windows(2).filter(|w| w[0] < 0.0 && w[1] >= 0.0).count();
    crossings as f64 * 16_000.0 / second.len() as f64
}

/// Mean and largest difference of bytes.
pub(crate) fn differ(a: &[u8], b: &[u8]) -> (f64, u8) {
    assert_eq!(a.len(), b.len());
    let each = a.iter().zip(b).map(|(x, y)| x.abs_diff(*y));
    let sum: u64 = each.clone().map(u64::from).sum();
    (sum as f64 / a.len().max(1) as f64, each.max().unwrap_or(0))
}

/// Overwrites the display matrix of the first track with these `a, b, c, d`.
pub(crate) fn with_matrix(mp4: &[u8], matrix: [i32; 4]) -> Vec<u8> {
    let mut out = mp4.to_vec();
    let at = out.windows(4).position(|w| w == b"tkhd").unwrap() + 4 + 40;
    for (place, value) in [0, 1, 3, 4].into_iter().zip(matrix) {
        out[at + 4 * place..][..4].copy_from_slice(&(value << 16).to_be_bytes());
    }
    out
}
