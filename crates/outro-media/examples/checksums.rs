//! Checksums of what is read of a file, as JSON, to be compared with another reader's (`tools/media_matrix.py` does):
//!
//!     cargo run --release -p outro-media --example checksums -- FILE [FRAMES]...
//!
//! For each number of frames (0: two a second, 768 at most) the numbers of the frames and the Adler-32 of each one's RGB bytes; of
//! the sound, mono at its own rate, the Adler-32 of its f32 bytes.
#![expect(clippy::print_stdout, reason = "an example prints")]

use std::path::PathBuf;

use outro_media::{
    Error, Options, Picks, Sampling, VideoInfo, probe_video, read_samples, read_video, resize,
};
use serde_json::{Value, json};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args_os().skip(1);
    let path = PathBuf::from(args.next().ok_or("give a file")?);
    let options = Options::default();
    let file = probe_video(&path, &options)?;
    let (mut notes, mut pictures) = (file.notes.clone(), Vec::new());
    for count in args {
        let count: usize = count
            .to_str()
            .and_then(|c| c.parse().ok())
            .ok_or("FRAMES is no number")?;
        let sampling = Sampling {
            frames: Some(count).filter(|n| *n > 0),
            ..Sampling::default()
        };
        let mut indices = Vec::new();
        let mut pick = |video: &VideoInfo| -> Result<Picks, Error> {
            indices = sampling.indices(video)?;
            Ok(Picks {
                indices: indices.clone(),
                size: None,
            })
        };
        let read = read_video(&file, &mut pick, resize, &options)?;
        notes.extend(read.notes);
        let f = read.frames;
        let sums: Vec<u32> = f.data.chunks_exact(f.height * f.width * 3).map(adler32).collect();
        pictures.push(json!({
            "total": read.video.frames, "height": f.height, "width": f.width, "indices": indices, "sums": sums,
        }));
    }
    let mut sound = Value::Null;
    if file.audio.is_some() {
        let (samples, rate, more) = read_samples(&file, None, &options)?;
        notes.extend(more);
        let bytes: Vec<u8> = samples.iter().flat_map(|x| x.to_le_bytes()).collect();
        sound = json!({"samples": samples.len(), "rate": rate, "sum": adler32(&bytes)});
    }
    let report = json!({"file": file, "pictures": pictures, "sound": sound, "notes": notes});
    println!("{report}");
    Ok(())
}

fn adler32(bytes: &[u8]) -> u32 {
    let (mut a, mut b) = (1u32, 0u32);
    // So many additions fit 32 bits before the remainder must be taken.
    for part in bytes.chunks(5552) {
        for byte in part {
            a += u32::from(*byte);
            b += a;
        }
        (a, b) = (a % 65_521, b % 65_521);
    }
    b << 16 | a
}
