//! `outro synth` as it is typed.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use outro_lab::synth::{Level, Set};

use super::flags::ModelFlags;
use crate::fault::Fault;

#[derive(Debug, Args)]
pub(crate) struct SynthFlags {
    /// Where to write; a new or empty directory, or the same set again.
    #[arg(
        long,
        value_name = "DIR",
        required_unless_present = "stream",
        conflicts_with = "stream"
    )]
    pub(crate) out: Option<PathBuf>,
    /// Number of videos.
    #[arg(long, value_name = "N")]
    pub(crate) videos: usize,
    /// Seed: the same seed gives the same videos and questions.
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub(crate) seed: u64,
    /// How much happens in a video.
    #[arg(long, value_enum, default_value = "simple")]
    pub(crate) level: LevelFlag,
    /// Write no files but, to stdout, the tensors that the model of --model would be given, for training (the form is
    /// described in docs/synth.md).
    #[arg(long)]
    pub(crate) stream: bool,
    /// With --stream: number of the first video.
    #[arg(long, value_name = "N", default_value_t = 0, requires = "stream")]
    pub(crate) first: u64,
    #[command(flatten)]
    pub(crate) model: ModelFlags,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LevelFlag {
    /// Shapes appear, move and leave.
    Simple,
    /// They also change colour and collide; backgrounds vary and hum.
    Rich,
}

/// `outro synth`.
#[derive(Debug)]
pub(crate) struct Synth {
    pub(crate) set: Set,
    /// Where to; `None` streams tensors.
    pub(crate) out: Option<PathBuf>,
    /// First video of a stream.
    pub(crate) first: u64,
    pub(crate) model: ModelFlags,
}

pub(super) fn synth(f: SynthFlags) -> anyhow::Result<Synth> {
    if !(1..=1_000_000).contains(&f.videos) {
        return Err(Fault::usage(format!("--videos is {}", f.videos))
            .hint("give a number from 1 to 1000000")
            .into());
    }
    let level = match f.level {
        LevelFlag::Simple => Level::Simple,
        LevelFlag::Rich => Level::Rich,
    };
    Ok(Synth {
        set: Set {
            videos: f.videos,
            seed: f.seed,
            level,
        },
        out: f.out,
        first: f.first,
        model: f.model,
    })
}
