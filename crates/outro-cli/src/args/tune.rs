//! `outro tune` as it is typed.

use std::path::PathBuf;

use clap::Args;
use outro::method::OutRoConfig;
use outro::strategy::Strategy;
use outro_lab::tune::{Split, grid};

use super::eval::{Asking, AskingFlags, asking};
use super::flags::ModelFlags;
use crate::fault::Fault;

#[derive(Debug, Args)]
pub(crate) struct TuneFlags {
    /// The benchmark; `outro eval list` names them.
    #[arg(value_name = "TASK")]
    task: String,
    /// Its questions and videos, as `outro eval run --data` takes them.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Directory for the log, TASK.tuning.jsonl, and for outro.json; the same command goes on where it stopped.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    model: ModelFlags,
    /// Strengths of the rotation to try.
    #[arg(long, value_name = "X,X,...", value_delimiter = ',', default_values = ["0.5", "1", "2", "3", "4"])]
    gamma: Vec<String>,
    /// Temperatures of the gate to try [default: the model's own].
    #[arg(long, value_name = "X,X,...", value_delimiter = ',', alias = "temperature")]
    gate_temperature: Vec<String>,
    /// Lists of enhancement layers to try; commas are between lists, + within one, as in 0+5+10, or `default` for those of
    /// the interval [default: the model's own].
    #[arg(long, value_name = "L+L,...", value_delimiter = ',')]
    layers: Vec<String>,
    /// Share of the videos whose questions are used; the others are held out, to measure what was found. Each video is drawn
    /// with this probability, by its name and --seed, so that of few videos it can be another share. 1 for a validation set
    /// of its own.
    #[arg(long, value_name = "X", default_value_t = 0.3, allow_negative_numbers = true)]
    share: f64,
    /// Another seed is another draw of videos.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Put the result beside the checkpoint even if an outro.json is there; that one is kept as outro.json.1 or the next free
    /// number.
    #[arg(long, conflicts_with = "settings")]
    install: bool,
    /// JSON on stdout.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    asking: AskingFlags,
}

/// `outro tune`.
#[derive(Debug)]
pub(crate) struct Tune {
    pub(crate) task: String,
    pub(crate) data: PathBuf,
    pub(crate) out: PathBuf,
    pub(crate) model: ModelFlags,
    /// Names of the strategies, `baseline` first.
    pub(crate) grid: Vec<String>,
    pub(crate) split: Split,
    pub(crate) install: bool,
    pub(crate) json: bool,
    pub(crate) asking: Asking,
}

pub(super) fn tune(f: TuneFlags) -> anyhow::Result<Tune> {
    if !(f.share > 0.0 && f.share <= 1.0) {
        return Err(Fault::usage(format!("--share is {}", f.share))
            .hint("give a share of the videos above 0 and up to 1")
            .into());
    }
    let keys = [
        ("gamma", &f.gamma[..]),
        ("gate_temperature", &f.gate_temperature),
        ("layers", &f.layers),
    ];
    let grid = grid(&keys).map_err(|e| {
        Fault::usage(e.to_string()).hint("give each value of --gamma, --gate-temperature and --layers once")
    })?;
    // Whether a value can be meant does not depend on the model.
    for name in &grid {
        Strategy::parse(name, &OutRoConfig::default()).map_err(|e| {
            Fault::usage(e.to_string())
                .hint("numbers, comma-separated; of --layers lists with + or `default`")
        })?;
    }
    Ok(Tune {
        task: f.task,
        data: f.data,
        out: f.out,
        model: f.model,
        grid,
        split: Split {
            share: f.share,
            seed: f.seed,
        },
        install: f.install,
        json: f.json,
        asking: asking(f.asking)?,
    })
}
