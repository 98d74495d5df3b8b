//! Runs the built `outro` as a user would.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests fail by panicking and say what they skip"
)]

mod answerers;
mod ask;
mod bench;
mod chat;
mod corpus;
mod deployed;
mod doctor;
mod exif;
mod familiar;
mod families;
mod first_hour;
mod gguf;
mod hostile;
mod hub;
mod inspect;
mod inspect_checkpoint;
mod lab;
mod parsers;
mod published;
mod sampling;
mod sandbox;
mod serve;
mod settings;
mod sinks;
mod support;
mod tidy;
mod trace;
mod tune;
mod video;
mod weight;
mod world;
