//! Ways of answering and switches of the method, as they were typed.

use outro::method::{OutRoConfig, PruneConfig};
use outro::strategy::{Strategy, canonical_name, outro_switches};

use super::flags::MethodFlags;
use crate::fault::Fault;

/// Which ways of answering were asked for.
#[derive(Clone, Debug)]
pub(crate) struct Strategies {
    /// Names that can be read, each once.
    pub(crate) names: Vec<String>,
    /// What `outro` means in them.
    pub(crate) outro: Switches,
    /// Tokens to drop, with each of them.
    pub(crate) prune: Option<PruneConfig>,
}

/// Switches of the method as they were typed, checked; they go on top of what the model's outro.json says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Switches(Vec<(String, String)>);

impl Switches {
    /// Checks them against the defaults and each other: whether a switch can be meant does not depend on the model.
    pub(super) fn new(pairs: Vec<(String, String)>) -> anyhow::Result<Self> {
        for (i, (key, value)) in pairs.iter().enumerate() {
            let others = pairs[..i].iter().map(|(k, v)| (k.as_str(), v));
            for (other, before) in others {
                if OutRoConfig::decide_the_same(other, key)
                    && (OutRoConfig::canonical(other) != OutRoConfig::canonical(key) || before != value)
                {
                    return Err(contradiction(
                        &format!("{other}={before}"),
                        &format!("{key}={value}"),
                    ));
                }
            }
        }
        let switches = Self(pairs);
        switches.on(OutRoConfig::default())?;
        Ok(switches)
    }

    /// `base` with these switches.
    pub(crate) fn on(&self, mut base: OutRoConfig) -> outro::Result<OutRoConfig> {
        for (key, value) in &self.0 {
            base.set(key, value)?;
        }
        Ok(base)
    }

    /// What was typed.
    pub(crate) fn pairs(&self) -> &[(String, String)] {
        &self.0
    }
}

fn contradiction(one: &str, other: &str) -> anyhow::Error {
    Fault::usage(format!("{one} and {other} contradict each other"))
        .hint("leave one out")
        .into()
}

/// Names of strategies as they were typed, `both` as the two that it stands for.
///
/// # Errors
/// One that is there twice.
pub(crate) fn spelled_out(typed: &[String]) -> anyhow::Result<Vec<String>> {
    let of = |name: &String| match name.as_str() {
        "both" => vec!["baseline".to_owned(), "outro".to_owned()],
        _ => vec![canonical_name(name)],
    };
    let names: Vec<String> = typed.iter().flat_map(of).collect();
    if let Some(twice) = (1..names.len()).find(|i| names[..*i].contains(&names[*i])) {
        return Err(
            Fault::usage(format!("--strategy {} is given twice", names[twice]))
                .hint("leave one out")
                .into(),
        );
    }
    Ok(names)
}

/// A strategy's name with what `--prune` adds to it, so that a run is called the same wherever it is made.
pub(crate) fn pruned(name: &str, prune: Option<PruneConfig>) -> String {
    prune.map_or_else(|| name.to_owned(), |prune| format!("{name}/{prune}"))
}

pub(super) fn strategies(typed: &[String], outro: Switches) -> anyhow::Result<Strategies> {
    let names = spelled_out(typed)?;
    let base = outro.on(OutRoConfig::default())?;
    let mut used = outro.pairs().is_empty() || names.is_empty();
    for name in &names {
        let by = Strategy::parse(name, &base).map_err(|e| match e {
            outro::Error::Setting { key, problem } => {
                anyhow::Error::from(Fault::usage(format!("--{key}: {problem}")))
            }
            e => e.into(),
        })?;
        used |= by.method.is_some();
        for (key, value) in outro_switches(name)? {
            if let Some((typed, other)) = outro
                .pairs()
                .iter()
                .find(|(k, _)| OutRoConfig::decide_the_same(k, &key))
            {
                let one = format!("--strategy {name} ({key}={value})");
                return Err(contradiction(&one, &format!("the switch {typed}={other}")));
            }
        }
    }
    if !used {
        return Err(unused_switches("a switch of OutRo", &names.join(", ")));
    }
    Ok(Strategies {
        names,
        outro,
        prune: None,
    })
}

pub(super) fn unused_switches(what: &str, strategy: &str) -> anyhow::Error {
    Fault::usage(format!(
        "{what} was given with --strategy {strategy}, which has no use for it"
    ))
    .hint("use --strategy outro, or leave the switch out")
    .into()
}

/// `KEY=VALUE`, split.
pub(super) fn pairs(set: &[String]) -> anyhow::Result<Vec<(String, String)>> {
    set.iter()
        .map(|s| match s.split_once('=') {
            Some((k, v)) if !k.trim().is_empty() => Ok((k.trim().to_owned(), v.trim().to_owned())),
            _ => Err(Fault::usage(format!("--set {s}: not KEY=VALUE"))
                .hint("for example --set gamma=2.5")
                .into()),
        })
        .collect()
}

/// Every switch that was typed, as the engine's keys.
pub(super) fn switches(f: &MethodFlags) -> anyhow::Result<Vec<(String, String)>> {
    let values = [
        ("gamma", &f.gamma),
        ("gate_temperature", &f.gate_temperature),
        ("abs_threshold", &f.abs_threshold),
        ("median_multiple", &f.median_multiple),
        ("start_layer", &f.start_layer),
        ("end_layer", &f.end_layer),
        ("interval", &f.interval),
        ("layers", &f.layers),
        ("decode", &f.decode),
        ("sinks", &f.sinks),
    ];
    let booleans = [
        (f.once, "once", "true"),
        (f.always, "once", "false"),
        (f.no_rotate, "rotate", "false"),
        (f.no_relax, "relax", "false"),
        (f.no_rescale, "rescale", "false"),
    ];
    let mut out: Vec<(String, String)> = values
        .iter()
        .filter_map(|(k, v)| v.as_ref().map(|v| ((*k).to_owned(), v.clone())))
        .collect();
    out.extend(
        booleans
            .iter()
            .filter(|(on, ..)| *on)
            .map(|(_, k, v)| ((*k).to_owned(), (*v).to_owned())),
    );
    out.extend(pairs(&f.set)?);
    Ok(out)
}
