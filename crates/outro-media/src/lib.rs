//! Video, audio and image files to what a model's towers take: frames, patches, samples, log-mel. Knows no model.
//!
//! H.264 and AAC in mp4 or mov, the common audio formats and images are decoded with nothing installed; every other
//! format goes to the `ffmpeg` program, which is also preferred where it is found ([`Decoder::Auto`]).

mod audio;
mod builtin;
mod colour;
mod error;
mod ffmpeg;
mod frames;
mod guard;
mod h264;
mod info;
mod look;
mod mel;
mod mp4;
mod note;
mod patch;
mod picture;
mod process;
mod resize;
mod sniff;
mod sound;
mod source;
mod wave;
pub mod worker;
mod write;

pub use audio::{SAMPLE_RATE, resample};
pub use error::{Error, Result};
pub use ffmpeg::{prober_found as ffprobe_found, version as ffmpeg_version};
pub use frames::{
    FrameLimits, Frames, Sampling, Spread, image_size, shared_size, smart_resize, video_size, volume_size,
};
pub use info::{AudioInfo, Cancel, Decoder, Kind, MediaInfo, Options, VideoInfo};
pub use mel::{MAX_SECONDS, MEL_BINS, Mel, log_mel, log_mel_in_chunks, log_mel_together};
pub use note::{Note, NoteKind};
pub use patch::{PatchConfig, PatchCutter, Patches, patches};
pub use resize::{Resize, crop, pad, resize, resize_bytes, resize_image};
pub use sniff::guess;
pub use source::{
    Picks, Pictures, Sound, fold_video, probe, probe_video, read_audio, read_frames, read_image,
    read_samples, read_track, read_video,
};
pub use write::{VideoToWrite, write_jpeg, write_mp4, write_png};
