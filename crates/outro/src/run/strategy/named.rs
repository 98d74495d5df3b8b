//! Ways of answering, by name: `baseline`, `outro:gamma=2,relax=false`, `vcd+outro`, `outro/prune:layer=5,keep=0.2`,
//! `zero-k:top=8`. The one parser of such names.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::avcd::{Avcd, AvcdConfig};
use super::mixture::{Mixture, MixtureConfig};
use super::request::{Hooks, Request, Single};
use super::vcd::{Vcd, VcdConfig};
use crate::error::{Error, Result, unknown};
use crate::hook::Hook;
use crate::hook::farsight::{FarSight, FarSightConfig};
use crate::hook::intervene::{Change, Intervention};
use crate::hook::method::{OutRo, OutRoConfig, Prune, PruneConfig, prunable};
use crate::hook::settings::{Settings, settings_of, switches};
use crate::hook::var::{Var, VarConfig};
use crate::prompt::positions::Span;
use crate::run::stream::Stream;
use crate::spec::config::{Config, TextConfig};

/// What a strategy's name is made of.
pub struct StrategyKind {
    /// Its name.
    pub name: &'static str,
    /// What of its switches to show, where that is not each one that has a default: those of `outro` have a page of their own,
    /// and of others one must be given.
    shown: Option<&'static str>,
    /// What it does.
    pub about: &'static str,
    /// From the switches; `None` for the plain model and OutRo, which [`Strategy::parse`] reads itself.
    read: Option<fn(&str) -> Result<Part>>,
}

/// What a part of a name adds.
enum Part {
    Extra(Extra),
    Contrast(Contrast),
}

/// All kinds.
pub const KINDS: [StrategyKind; 12] = [
    StrategyKind {
        name: "baseline",
        shown: None,
        about: "the plain model",
        read: None,
    },
    StrategyKind {
        name: "outro",
        shown: Some("gamma=3,gate_temperature=0.1"),
        about: "OutRo; all switches are in docs/settings.md",
        read: None,
    },
    StrategyKind {
        name: "vcd",
        shown: None,
        about: "contrast with noise on frames; two passes",
        read: Some(|s| Ok(Part::Contrast(Contrast::Vcd(VcdConfig::read(s)?)))),
    },
    StrategyKind {
        name: "mod",
        shown: None,
        about: "contrast with, or complement by, what is attended to; two passes",
        read: Some(|s| Ok(Part::Contrast(Contrast::Mod(MixtureConfig::read(s)?)))),
    },
    StrategyKind {
        name: "avcd",
        shown: None,
        about: "contrast with modalities silenced; one pass where the model is sure, else four",
        read: Some(|s| Ok(Part::Contrast(Contrast::Avcd(AvcdConfig::read(s)?)))),
    },
    StrategyKind {
        name: "farsight",
        shown: None,
        about: "attention registers in the prompt",
        read: Some(|s| Ok(Part::Extra(Extra::FarSight(FarSightConfig::read(s)?)))),
    },
    StrategyKind {
        name: "var",
        shown: None,
        about: "attention from sinks to the rest of the picture; dims=D+D for its own sinks",
        read: Some(|s| Ok(Part::Extra(Extra::Var(VarConfig::read(s)?)))),
    },
    StrategyKind {
        name: "prune",
        shown: Some("layer=5,keep=0.2"),
        about: "video and audio tokens dropped by the sinks' queries",
        read: Some(|s| Ok(Part::Extra(Extra::Prune(s.parse()?)))),
    },
    StrategyKind {
        name: "heads",
        shown: Some("off=3.0+3.1"),
        about: "heads switched off: LAYER.HEAD",
        read: Some(|s| change("heads", s)),
    },
    StrategyKind {
        name: "zero-k",
        shown: Some("top=8"),
        about: "largest dimensions of the sinks' keys zeroed",
        read: Some(|s| change("zero-k", s)),
    },
    StrategyKind {
        name: "sink-value",
        shown: Some("scale=0"),
        about: "the sinks' values multiplied",
        read: Some(|s| change("sink-value", s)),
    },
    StrategyKind {
        name: "sink-attention",
        shown: Some("scale=0"),
        about: "attention on the sinks multiplied, the rest made up for",
        read: Some(|s| change("sink-attention", s)),
    },
];

impl StrategyKind {
    /// Its switches with their defaults, or with an example where there is none, as a name has them.
    pub fn switches(&self) -> String {
        if let Some(shown) = self.shown {
            return shown.into();
        }
        let with_default = settings_of(self.name).filter(|s| !s.default.is_empty());
        let all: Vec<String> = with_default
            .map(|s| format!("{}={}", s.name, s.default))
            .collect();
        all.join(",")
    }
}

fn change(name: &str, switches: &str) -> Result<Part> {
    let change = Change::parse(name, switches)?;
    let change = change.ok_or_else(|| Error::setting("strategy", format!("`{name}`: no intervention")))?;
    Ok(Part::Extra(Extra::Change(change)))
}

/// What is done beside OutRo, in the same pass.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Extra {
    /// Media tokens are dropped after a layer.
    Prune(PruneConfig),
    /// An intervention.
    Change(Change),
    /// Attention registers.
    #[serde(rename = "farsight")]
    FarSight(FarSightConfig),
    /// Attention goes from sinks to the picture.
    Var(VarConfig),
}

/// What mixes the logits of several passes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Contrast {
    /// Noise on media.
    Vcd(VcdConfig),
    /// Mixture of decoding.
    Mod(MixtureConfig),
    /// Silenced modalities.
    Avcd(AvcdConfig),
    /// Somebody's own.
    Custom(Custom),
}

/// Makes the stream of one request; every pass carries the hooks.
pub(super) type Make = dyn Fn(&Request, &Hooks) -> Result<Box<dyn Stream>> + Send + Sync;

/// A stream that is not one of the engine's. A log keeps its settings, not its code.
#[derive(Clone, Serialize, Deserialize)]
pub struct Custom {
    /// What the log says about it.
    pub settings: Value,
    #[serde(skip)]
    make: Option<Arc<Make>>,
}

impl fmt::Debug for Custom {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_tuple("Custom").field(&self.settings).finish()
    }
}

impl PartialEq for Custom {
    fn eq(&self, other: &Self) -> bool {
        self.settings == other.settings
    }
}

/// A way of answering.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Strategy {
    /// As it was written, keys by their names of today ([`canonical_name`]).
    pub name: String,
    /// The method's settings in full; `None` is without OutRo.
    pub method: Option<OutRoConfig>,
    /// What is done besides, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extras: Vec<Extra>,
    /// What a sink is for the extras; `None` where there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sinks: Option<OutRoConfig>,
    /// What mixes several passes; `None` is one pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contrast: Option<Contrast>,
}

impl Strategy {
    /// The name of what answers where nobody says: OutRo, but on models of text alone, for which the paper has no evidence.
    pub fn usual(config: &Config) -> &'static str {
        if config.vision.is_none() && config.audio.is_none() {
            "baseline"
        } else {
            "outro"
        }
    }

    /// Reads a name: parts joined by `/` or `+`, each a name of [`KINDS`] with switches after a colon. `base` is what `outro`
    /// means for the model at hand; switches go on top. Within a switch that is a list, numbers are joined by `+`, which
    /// is why a `+` begins a new part only before a letter.
    ///
    /// # Errors
    /// An unknown name or switch; two of what there can be one of.
    pub fn parse(name: &str, base: &OutRoConfig) -> Result<Self> {
        let bad = |problem: String| Error::setting("strategy", format!("`{name}`: {problem}"));
        let mut strategy = Self {
            name: canonical_name(name),
            method: None,
            extras: Vec::new(),
            sinks: None,
            contrast: None,
        };
        for (i, part) in parts(name).into_iter().enumerate() {
            let (kind, text) = part.split_once(':').unwrap_or((part, ""));
            let given = switches(kind, text)?;
            match kind {
                "baseline" if i > 0 => return Err(bad("baseline can only come first".into())),
                "baseline" if text.is_empty() => {}
                "baseline" => return Err(bad("the plain model has no switches".into())),
                "outro" if strategy.method.is_some() => return Err(bad("outro is there twice".into())),
                "outro" => strategy.method = Some(method(&given, base)?),
                _ => {
                    let found = KINDS.iter().find(|k| k.name == kind).and_then(|k| k.read);
                    let read = found.ok_or_else(|| {
                        let kinds = unknown(kind, KINDS.iter().map(|k| k.name));
                        let problem = format!("{kinds}; several are joined by + or /");
                        if kind == name {
                            return Error::setting("strategy", problem);
                        }
                        bad(problem)
                    })?;
                    let given: Vec<String> = given.iter().map(|(k, v)| format!("{k}={v}")).collect();
                    match read(&given.join(","))? {
                        Part::Extra(Extra::Prune(_))
                            if strategy.extras.iter().any(|e| matches!(e, Extra::Prune(_))) =>
                        {
                            return Err(bad("prune is there twice; leave one out".into()));
                        }
                        Part::Extra(extra) => strategy.extras.push(extra),
                        Part::Contrast(_) if strategy.contrast.is_some() => {
                            return Err(bad("only one of vcd, mod and avcd can mix passes".into()));
                        }
                        Part::Contrast(contrast) => strategy.contrast = Some(contrast),
                    }
                }
            }
        }
        strategy.sinks = (!strategy.extras.is_empty()).then(|| base.clone());
        Ok(strategy)
    }

    /// [`Strategy::parse`], held against the model at hand ([`Strategy::check`]).
    ///
    /// # Errors
    /// As both.
    pub fn of_model(name: &str, base: &OutRoConfig, model: &TextConfig) -> Result<Self> {
        let strategy = Self::parse(name, base)?;
        strategy.check(model)?;
        Ok(strategy)
    }

    /// Whether numbers of layers, heads and dimensions in it mean some in this model, before its weights are there.
    ///
    /// # Errors
    /// One that does not, with the model's range.
    pub fn check(&self, model: &TextConfig) -> Result<()> {
        let wrong = |problem: String| Err(Error::setting("strategy", format!("`{}`: {problem}", self.name)));
        let last = model.layers.saturating_sub(1);
        for method in self.method.iter().chain(&self.sinks) {
            method.check(model.layers)?;
        }
        for extra in &self.extras {
            match extra {
                Extra::Prune(p) if p.layer >= last => {
                    return wrong(format!(
                        "prune layer={}: the model's layers are 0 to {last}, and tokens that leave after the last save nothing",
                        p.layer
                    ));
                }
                Extra::Change(Change::Heads { off }) => {
                    let outside = off.iter().find(|(l, h)| *l > last || *h >= model.heads);
                    if let Some((l, h)) = outside {
                        let heads = model.heads - 1;
                        return wrong(format!(
                            "off={l}.{h}: the model has layers 0 to {last} with heads 0 to {heads}"
                        ));
                    }
                }
                Extra::Change(Change::ZeroK { top, .. }) if *top > model.head_dim => {
                    return wrong(format!(
                        "top={top}: the model's keys have {} dimensions",
                        model.head_dim
                    ));
                }
                Extra::Var(v) if v.start > last => {
                    return wrong(format!("start={}: the model's layers are 0 to {last}", v.start));
                }
                Extra::Var(v) if v.dims.iter().any(|d| *d >= model.hidden) => {
                    return wrong(format!("dims: the model's are 0 to {}", model.hidden - 1));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The same hooks under another name, and passes mixed by somebody's own stream.
    #[must_use]
    pub fn with_custom<F>(self, name: &str, settings: Value, make: F) -> Self
    where
        F: Fn(&Request, &Hooks) -> Result<Box<dyn Stream>> + Send + Sync + 'static,
    {
        Self {
            name: name.into(),
            contrast: Some(Contrast::Custom(Custom {
                settings,
                make: Some(Arc::new(make)),
            })),
            ..self
        }
    }

    /// Whether its first pass has no hooks, so that it can go on from rows that the plain model has run.
    pub fn uses_prefix(&self) -> bool {
        let reads_rows = matches!(self.contrast, Some(Contrast::Mod(_) | Contrast::Avcd(_)));
        self.method.is_none() && self.extras.is_empty() && !reads_rows
    }

    /// What drops media tokens, if anything does.
    pub fn pruning(&self) -> Option<PruneConfig> {
        self.extras.iter().find_map(|extra| match extra {
            Extra::Prune(p) => Some(*p),
            _ => None,
        })
    }

    /// The hooks of one pass of a request whose rows are `spans`, OutRo last.
    pub fn hooks(&self, spans: &[Span]) -> Vec<Box<dyn Hook>> {
        let sinks = self.sinks.clone().unwrap_or_default();
        let extra = |extra: &Extra| -> Box<dyn Hook> {
            match extra {
                Extra::Prune(p) => Box::new(Prune::new(*p, &sinks, prunable(spans))),
                Extra::Change(c) => Box::new(Intervention::new(c.clone(), &sinks)),
                Extra::FarSight(c) => Box::new(FarSight::new(*c)),
                Extra::Var(c) => Box::new(Var::new(c.clone(), &sinks, spans)),
            }
        };
        let mut hooks: Vec<_> = self.extras.iter().map(extra).collect();
        if let Some(config) = &self.method {
            hooks.push(Box::new(OutRo::new(config.clone())));
        }
        hooks
    }

    /// The stream that answers a request, whose prompt's spans the hooks see; every pass carries them.
    ///
    /// # Errors
    /// As encoding media, where a pass sees them otherwise; a strategy of somebody's own that was read from a log.
    pub fn stream(&self, request: &Request) -> Result<Box<dyn Stream>> {
        self.stream_with(request, &|| self.hooks(&request.prompt.spans))
    }

    /// [`Strategy::stream`] whose passes carry these hooks.
    ///
    /// # Errors
    /// As [`Strategy::stream`].
    pub fn stream_with(&self, request: &Request, hooks: &Hooks) -> Result<Box<dyn Stream>> {
        Ok(match &self.contrast {
            None => Box::new(Single::new(request, hooks)),
            Some(Contrast::Vcd(c)) => Box::new(Vcd::new(*c, request, hooks)?),
            Some(Contrast::Mod(c)) => Box::new(Mixture::new(*c, request, hooks)),
            Some(Contrast::Avcd(c)) => Box::new(Avcd::new(*c, request, hooks)),
            Some(Contrast::Custom(own)) => {
                let missing = || {
                    let problem = format!(
                        "`{}` is not among the program's own and cannot be run from a log",
                        self.name
                    );
                    Error::setting("strategy", problem)
                };
                own.make.as_ref().ok_or_else(missing)?(request, hooks)?
            }
        })
    }
}

/// A name's parts: cut at every `/`, and at a `+` before a letter.
fn parts(name: &str) -> Vec<&str> {
    let bytes = name.as_bytes();
    let mut parts = Vec::new();
    let mut start = 0;
    for i in 0..bytes.len() {
        let before_letter = || bytes.get(i + 1).is_some_and(u8::is_ascii_alphabetic);
        if bytes[i] == b'/' || bytes[i] == b'+' && before_letter() {
            parts.push(&name[start..i]);
            start = i + 1;
        }
    }
    parts.push(&name[start..]);
    parts
}

/// A name with the keys of its `outro` part as they are called today: what was begun under an older key is the same run.
pub fn canonical_name(name: &str) -> String {
    let today = |switch: &str| match switch.split_once('=') {
        Some((key, value)) => format!("{}={value}", OutRoConfig::canonical(key.trim())),
        None => switch.to_owned(),
    };
    let mut out = String::with_capacity(name.len());
    let mut at = 0;
    for part in parts(name) {
        // One byte is between two parts.
        out.push_str(&name[at..at + usize::from(at > 0)]);
        at += usize::from(at > 0) + part.len();
        match part.strip_prefix("outro:") {
            Some(switches) => {
                let switches: Vec<String> = switches.split(',').map(today).collect();
                out.push_str("outro:");
                out.push_str(&switches.join(","));
            }
            None => out.push_str(part),
        }
    }
    out
}

/// What a name says about OutRo itself: keys and values of its `outro` part.
///
/// # Errors
/// As [`Strategy::parse`], as far as switches are concerned.
pub fn outro_switches(name: &str) -> Result<Vec<(String, String)>> {
    let text = |part: &str| part.strip_prefix("outro:").map(str::to_owned);
    let own = parts(name).into_iter().find_map(text).unwrap_or_default();
    switches("outro", &own)
}

fn method(given: &[(String, String)], base: &OutRoConfig) -> Result<OutRoConfig> {
    let mut method = base.clone();
    for (i, (key, value)) in given.iter().enumerate() {
        let before = given[..i].iter().map(|(k, _)| k);
        if let Some(other) = before.clone().find(|k| OutRoConfig::decide_the_same(k, key)) {
            let problem = format!("`{other}` and `{key}` decide the same; leave one out");
            return Err(Error::setting("outro", problem));
        }
        method.set(key, value)?;
    }
    Ok(method)
}

#[cfg(test)]
mod tests;
