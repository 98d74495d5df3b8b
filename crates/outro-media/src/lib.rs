//! Video, audio and image files to what a model's towers take: frames, patches, samples, log-mel. Knows no model.
//!
//! H.264 and AAC in mp4 or mov, the common audio formats and images are decoded with nothing installed; every other
//! format goes to the `ffmpeg` program, which is also preferred where it is found ([`Decoder::Auto`]).

mod decode;
mod error;
mod info;
mod note;
mod picture;
mod sound;
mod source;
mod write;

pub use decode::ffmpeg::{prober_found as ffprobe_found, version as ffmpeg_version};
pub use decode::sandbox::{Isolation, isolation};
pub use decode::sniff::{guess, kinds};
pub use decode::worker;
pub use error::{Error, ErrorKind, Hint, Result};
pub use info::{AudioInfo, Cancel, Decoder, Kind, Limits, MediaInfo, Options, VideoInfo};
pub use note::{Note, NoteKind};
pub use picture::frames::{
    FrameLimits, Frames, Sampling, Spread, image_size, shared_size, smart_resize, video_size, volume_size,
};
pub use picture::patch::{PatchConfig, PatchCutter, Patches, patches};
pub use picture::resize::{Resize, crop, pad, resize, resize_bytes, resize_image};
pub use sound::mel::{HOP, MAX_SECONDS, MEL_BINS, Mel, log_mel, log_mel_in_chunks, log_mel_together};
pub use sound::resample::{SAMPLE_RATE, resample};
pub use source::{
    Pick, Picks, Pictures, Sound, fold_video, probe, probe_video, read_audio, read_frames, read_image,
    read_samples, read_track, read_video,
};
pub use write::{VideoToWrite, write_jpeg, write_mp4, write_png};
