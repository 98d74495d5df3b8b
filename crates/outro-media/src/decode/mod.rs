//! From files to frames and samples: ffmpeg, and the built-in decoders.

pub(crate) mod audio;
pub(crate) mod builtin;
pub(crate) mod colour;
pub(crate) mod ffmpeg;
pub(crate) mod format;
pub(crate) mod guard;
pub(crate) mod h264;
pub(crate) mod image;
pub(crate) mod mp4;
pub(crate) mod process;
pub(crate) mod sandbox;
pub(crate) mod sniff;
pub(crate) mod wave;
pub mod worker;
