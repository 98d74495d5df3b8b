//! Every setting of the method, of pruning, of the strategies and of interventions: one table, from which names, values, ranges,
//! help and documents (docs/settings.md) come.

use crate::error::{Error, Result, unknown};

/// What a value can be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Form {
    /// A number from the first up to the second.
    Number(f32, f32),
    /// A number above the first, up to the second.
    Above(f32, f32),
    /// A whole number from the first up to the second.
    Whole(u64, u64),
    /// The same, or `default`.
    MaybeWhole(u64, u64),
    /// `true` or `false`.
    Flag,
    /// Whole numbers joined by commas or `+`, or `default`.
    List,
    /// `LAYER.HEAD`, joined by `+`.
    Heads,
    /// One of these words.
    Word(&'static [&'static str]),
}

impl Form {
    /// In words, as a message and a document say it.
    pub fn words(self) -> String {
        match self {
            Self::Number(f32::MIN, _) => "a number".into(),
            Self::Number(from, f32::MAX) => format!("a number from {from} up"),
            Self::Number(from, to) => format!("a number from {from} to {to}"),
            Self::Above(from, f32::MAX) => format!("a number above {from}"),
            Self::Above(from, to) => format!("a number above {from} to {to}"),
            Self::Whole(from, u64::MAX) => format!("a whole number from {from} up"),
            Self::Whole(from, to) => format!("a whole number from {from} to {to}"),
            Self::MaybeWhole(from, _) => format!("a whole number from {from} up, or `default`"),
            Self::Flag => "true or false".into(),
            Self::List => "whole numbers joined by commas or +, or `default`".into(),
            Self::Heads => "LAYER.HEAD, joined by +".into(),
            Self::Word(words) => words.join(" or "),
        }
    }

    /// Reads a value; `None` for one that cannot be.
    fn read(self, text: &str) -> Option<Value> {
        // What is kept in f32 must lie in the range when it is rounded.
        let number = |keep: &dyn Fn(f32) -> bool| {
            let (single, double): (f32, f64) = (text.parse().ok()?, text.parse().ok()?);
            (single.is_finite() && keep(single)).then_some(Value::Number { single, double })
        };
        let whole = |from: u64, to: u64| {
            let n: u64 = text.parse().ok()?;
            (from..=to).contains(&n).then_some(Value::Whole(n))
        };
        match self {
            Self::List | Self::MaybeWhole(..) if text == "default" => Some(Value::Default),
            Self::Number(from, to) => number(&|x| (from..=to).contains(&x)),
            Self::Above(from, to) => number(&|x| x > from && x <= to && x.is_normal()),
            Self::Whole(from, to) | Self::MaybeWhole(from, to) => whole(from, to),
            Self::Flag => text.parse().ok().map(Value::Flag),
            Self::List => {
                let all = text.split(['+', ',']).map(|v| v.trim().parse().ok());
                Some(Value::List(all.collect::<Option<_>>()?))
            }
            Self::Heads => {
                let head = |text: &str| {
                    let (layer, head) = text.split_once('.')?;
                    Some((layer.trim().parse().ok()?, head.trim().parse().ok()?))
                };
                let all = text.split(['+', ',']).map(head).collect::<Option<_>>()?;
                Some(Value::Heads(all))
            }
            Self::Word(words) => words.iter().find(|w| **w == text).map(|w| Value::Word(w)),
        }
    }
}

/// A value that was read.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Of [`Form::Number`] and [`Form::Above`].
    Number {
        /// Rounded to f32.
        single: f32,
        /// Rounded to f64.
        double: f64,
    },
    /// Of [`Form::Whole`] and [`Form::MaybeWhole`].
    Whole(u64),
    /// Of [`Form::Flag`].
    Flag(bool),
    /// Of [`Form::List`], as it was typed.
    List(Vec<usize>),
    /// Of [`Form::Heads`]: `(layer, head)`.
    Heads(Vec<(usize, usize)>),
    /// Of [`Form::Word`].
    Word(&'static str),
    /// The word `default`.
    Default,
}

/// Positions or layers: ascending, each once.
pub(crate) fn ascending(mut list: Vec<usize>) -> Vec<usize> {
    list.sort_unstable();
    list.dedup();
    list
}

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Whose: a part of a strategy's name.
    pub of: &'static str,
    /// Its key.
    pub name: &'static str,
    /// What it can be.
    pub form: Form,
    /// What it is where nobody says; empty where somebody must, or where it is off.
    pub default: &'static str,
    /// The flag of the command line that sets it, if there is one beside `--set`.
    pub flag: &'static str,
    /// What it does.
    pub help: &'static str,
}

const fn row(
    of: &'static str,
    name: &'static str,
    form: Form,
    default: &'static str,
    flag: &'static str,
    help: &'static str,
) -> Setting {
    Setting {
        of,
        name,
        form,
        default,
        flag,
        help,
    }
}

const ANY: Form = Form::Number(0.0, f32::MAX);
const SHARE: Form = Form::Number(0.0, 1.0);
const COUNT: Form = Form::Whole(0, u64::MAX);

/// All settings.
pub const SETTINGS: &[Setting] = &[
    row("outro", "gamma", ANY, "3", "gamma", "strength of the rotation"),
    row(
        "outro",
        "gate_temperature",
        Form::Above(0.0, f32::MAX),
        "0.1",
        "gate-temperature",
        "temperature of the rotation's gate",
    ),
    row(
        "outro",
        "abs_threshold",
        ANY,
        "100",
        "abs-threshold",
        "a sink's largest activation is at least this",
    ),
    row(
        "outro",
        "median_multiple",
        ANY,
        "1000",
        "median-multiple",
        "... and at least this many times the layer's median",
    ),
    row(
        "outro",
        "start_layer",
        COUNT,
        "0",
        "start-layer",
        "first layer in which sinks are looked for",
    ),
    row(
        "outro",
        "end_layer",
        Form::MaybeWhole(0, u64::MAX),
        "default",
        "end-layer",
        "layer before which the search for sinks ends; by default number of layers - 2",
    ),
    row(
        "outro",
        "interval",
        Form::MaybeWhole(1, u64::MAX),
        "default",
        "interval",
        "the mask is relaxed at every N-th layer; by default layers / 7",
    ),
    row(
        "outro",
        "layers",
        Form::List,
        "default",
        "layers",
        "the mask is relaxed at these layers instead of an interval",
    ),
    row(
        "outro",
        "once",
        Form::Flag,
        "true",
        "once",
        "each sink is relaxed once, or at every such layer",
    ),
    row(
        "outro",
        "rotate",
        Form::Flag,
        "true",
        "no-rotate",
        "head outputs are rotated",
    ),
    row(
        "outro",
        "relax",
        Form::Flag,
        "true",
        "no-relax",
        "the causal mask is relaxed for sinks",
    ),
    row(
        "outro",
        "rescale",
        Form::Flag,
        "true",
        "no-rescale",
        "rotated outputs keep their length",
    ),
    row(
        "outro",
        "decode",
        Form::Word(&["paper", "release"]),
        "paper",
        "decode",
        "which decoded tokens are rotated: all (paper), or none where prompt token 0 is a sink (release)",
    ),
    row(
        "outro",
        "sinks",
        Form::List,
        "default",
        "sinks",
        "prompt positions that are taken for sinks instead of detecting them",
    ),
    row(
        "prune",
        "layer",
        COUNT,
        "",
        "prune",
        "the layer whose attention ranks the media tokens; those that go leave after it",
    ),
    row(
        "prune",
        "keep",
        Form::Above(0.0, 1.0),
        "",
        "prune",
        "share of the media tokens that stays",
    ),
    row("vcd", "alpha", ANY, "1", "", "strength of the contrast"),
    row(
        "vcd",
        "beta",
        SHARE,
        "0.1",
        "",
        "tokens below this share of the likeliest one's probability are left out",
    ),
    row(
        "vcd",
        "steps",
        Form::Whole(0, 999),
        "500",
        "",
        "steps of noise on the frames",
    ),
    row("vcd", "seed", COUNT, "0", "", "seed of the noise"),
    row("vcd", "audio", Form::Flag, "false", "", "noise on the sound, too"),
    row(
        "mod",
        "keep",
        SHARE,
        "0.2",
        "",
        "share of the visual tokens that is attended to",
    ),
    row(
        "mod",
        "threshold",
        SHARE,
        "0.05",
        "",
        "divergence up to which the passes complement each other",
    ),
    row("mod", "complement", ANY, "4", "", "weight where they do"),
    row("mod", "contrast", ANY, "1", "", "weight where they contrast"),
    row(
        "mod",
        "beta",
        SHARE,
        "0.5",
        "",
        "tokens below this share of the likeliest one's probability are left out",
    ),
    row(
        "mod",
        "audio",
        Form::Flag,
        "false",
        "",
        "sound counts among the visual tokens",
    ),
    row("avcd", "alpha", ANY, "0.5", "", "strength of the contrast"),
    row(
        "avcd",
        "beta",
        SHARE,
        "0.2",
        "",
        "tokens below this share of the likeliest one's probability are left out",
    ),
    row(
        "avcd",
        "entropy",
        ANY,
        "0.6",
        "",
        "entropy from which a token is unsure and the other passes run",
    ),
    row(
        "farsight",
        "sigma",
        ANY,
        "0.8",
        "",
        "how fast attention registers fall with distance",
    ),
    row(
        "var",
        "p",
        SHARE,
        "0.6",
        "",
        "what sinks keep of the attention that they get",
    ),
    row(
        "var",
        "rho",
        SHARE,
        "0.5",
        "",
        "a head acts where sinks get at most this share of its attention to the picture",
    ),
    row(
        "var",
        "sum",
        SHARE,
        "0.2",
        "",
        "... and the picture at least this share of its attention",
    ),
    row("var", "start", COUNT, "2", "", "first layer"),
    row(
        "var",
        "dims",
        Form::List,
        "",
        "",
        "sink dimensions of Phi_VLM; without them sinks are those of massive activations",
    ),
    row(
        "var",
        "tau",
        ANY,
        "20",
        "",
        "with dims: what a sink reaches over its root mean square",
    ),
    row(
        "heads",
        "off",
        Form::Heads,
        "",
        "",
        "heads whose outputs are zero",
    ),
    row(
        "zero-k",
        "top",
        Form::Whole(1, u64::MAX),
        "",
        "",
        "how many of the largest dimensions of a sink's key are zero",
    ),
    row(
        "zero-k",
        "sinks",
        Form::List,
        "",
        "",
        "these prompt positions instead of the sinks",
    ),
    row(
        "sink-value",
        "scale",
        Form::Number(f32::MIN, f32::MAX),
        "",
        "",
        "what the sinks' values are multiplied with",
    ),
    row(
        "sink-value",
        "sinks",
        Form::List,
        "",
        "",
        "these prompt positions instead of the sinks",
    ),
    row(
        "sink-attention",
        "scale",
        ANY,
        "",
        "",
        "what attention on the sinks is multiplied with",
    ),
    row(
        "sink-attention",
        "sinks",
        Form::List,
        "",
        "",
        "these prompt positions instead of the sinks",
    ),
];

/// The settings of a part of a strategy's name.
pub fn settings_of(of: &str) -> impl Iterator<Item = &'static Setting> + Clone {
    SETTINGS.iter().filter(move |s| s.of == of)
}

/// A setting by its key.
///
/// # Errors
/// A key that is none's; the message names what may have been meant.
pub fn setting(of: &str, key: &str) -> Result<&'static Setting> {
    settings_of(of)
        .find(|s| s.name == key)
        .ok_or_else(|| Error::Setting {
            key: place(of, key),
            problem: unknown(key, settings_of(of).map(|s| s.name)),
        })
}

/// As messages name a setting: the method's by their key alone.
fn place(of: &str, key: &str) -> String {
    if of == "outro" {
        key.into()
    } else {
        format!("{of}:{key}")
    }
}

impl Setting {
    /// Reads a value.
    ///
    /// # Errors
    /// One that it cannot have.
    pub fn read(&self, text: &str) -> Result<Value> {
        self.form.read(text).ok_or_else(|| Error::Setting {
            key: place(self.of, self.name),
            problem: format!("is `{text}`, must be {}", self.form.words()),
        })
    }
}

/// Settings that have names.
pub trait Settings: Default {
    /// Whose in the table.
    const NAME: &'static str;

    /// Changes one setting, to a value of the form that the table has for it; whether there is such a setting.
    fn set(&mut self, key: &str, value: Value) -> bool;

    /// The defaults with `KEY=VALUE,...` on top.
    ///
    /// # Errors
    /// What is not `KEY=VALUE`, an unknown key, a value that it cannot have.
    fn read(text: &str) -> Result<Self> {
        let mut settings = Self::default();
        for (key, value) in &switches(Self::NAME, text)? {
            let setting = setting(Self::NAME, key)?;
            if !settings.set(key, setting.read(value)?) {
                return Err(Error::setting(place(Self::NAME, key), "is in the table alone"));
            }
        }
        Ok(settings)
    }
}

/// `KEY=VALUE,...`, split. Numbers of a list are joined by `+`; where they are joined by commas, as in `layers=0,5`, what has
/// no key belongs to the list before it.
///
/// # Errors
/// What is not `KEY=VALUE`; a key that is there twice.
pub fn switches(of: &str, text: &str) -> Result<Vec<(String, String)>> {
    let bad = |problem: String| Error::Setting {
        key: of.into(),
        problem,
    };
    let mut all: Vec<(String, String)> = Vec::new();
    for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let Some((key, value)) = part.split_once('=') else {
            let is_number = |p: &str| p.bytes().all(|b| b.is_ascii_digit() || b == b'.' || b == b'+');
            match all.last_mut().filter(|_| is_number(part)) {
                Some((_, list)) => *list = format!("{list}+{part}"),
                None => return Err(bad(format!("`{part}` is not KEY=VALUE"))),
            }
            continue;
        };
        let (key, value) = (key.trim().to_owned(), value.trim().to_owned());
        if all.iter().any(|(k, _)| *k == key) {
            return Err(bad(format!("`{key}` is there twice; leave one out")));
        }
        all.push((key, value));
    }
    Ok(all)
}
