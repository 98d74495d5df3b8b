//! Ways of answering, by name: `baseline`, `outro:gamma=2,relax=false`, `outro/prune:layer=5,keep=0.2`, `zero-k:top=8`.

use outro::hook::{Chain, Hook};
use outro::method::{OutRo, OutRoConfig, Prune, PruneConfig};
use outro::positions::Span;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::intervene::{Change, Intervention};
use crate::probe::prunable;

const KNOWN: &str = "baseline, outro, outro:KEY=VALUE,..., prune:layer=N,keep=SHARE, heads:off=LAYER.HEAD+..., \
    zero-k:top=N, sink-value:scale=X, sink-attention:scale=X, joined by /";

/// What is done beside OutRo.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Extra {
    /// Media tokens are dropped after a layer.
    Prune(PruneConfig),
    /// An intervention.
    Change(Change),
}

/// A way of answering.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Strategy {
    /// As it was written.
    pub name: String,
    /// The method's settings in full; `None` is the plain model.
    pub method: Option<OutRoConfig>,
    /// What is done besides, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extras: Vec<Extra>,
    /// What a sink is for the extras; `None` where there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sinks: Option<OutRoConfig>,
}

impl Strategy {
    /// Reads a name: parts joined by `/`, each `baseline`, `outro`, `prune` or an intervention, with switches after a
    /// colon. `base` is what `outro` means for the model at hand; switches go on top. Within a switch that is a list,
    /// values are joined by `+`.
    ///
    /// # Errors
    /// An unknown name or switch.
    pub fn parse(name: &str, base: &OutRoConfig) -> Result<Self> {
        let bad = |problem: String| Error::setting("strategy", format!("`{name}`: {problem}"));
        let mut strategy = Self {
            name: name.into(),
            method: None,
            extras: Vec::new(),
            sinks: None,
        };
        for (i, part) in name.split('/').enumerate() {
            let (kind, switches) = part.split_once(':').unwrap_or((part, ""));
            match kind {
                "baseline" if i > 0 => return Err(bad("baseline can only come first".into())),
                "baseline" if switches.is_empty() => {}
                "baseline" => return Err(bad("the plain model has no switches".into())),
                "outro" if strategy.method.is_some() => return Err(bad("outro is there twice".into())),
                "outro" => strategy.method = Some(method(switches, base, &bad)?),
                "prune" => strategy.extras.push(Extra::Prune(switches.parse()?)),
                _ => {
                    let change = Change::parse(kind, switches)?;
                    let unknown = || bad(format!("unknown; known: {KNOWN}"));
                    strategy.extras.push(Extra::Change(change.ok_or_else(unknown)?));
                }
            }
        }
        strategy.sinks = (!strategy.extras.is_empty()).then(|| base.clone());
        Ok(strategy)
    }

    /// The hooks of one request whose rows are `spans`; `None` is the plain model, which no hook can slow.
    pub fn hook(&self, spans: &[Span]) -> Option<Box<dyn Hook>> {
        let sinks = self.sinks.clone().unwrap_or_default();
        let mut hooks: Vec<Box<dyn Hook>> = Vec::new();
        for extra in &self.extras {
            hooks.push(match extra {
                Extra::Prune(p) => Box::new(Prune::new(*p, &sinks, prunable(spans))),
                Extra::Change(c) => Box::new(Intervention::new(c.clone(), &sinks)),
            });
        }
        if let Some(config) = &self.method {
            hooks.push(Box::new(OutRo::new(config.clone())));
        }
        if hooks.len() > 1 {
            Some(Box::new(Chain(hooks)))
        } else {
            hooks.pop()
        }
    }
}

fn method(switches: &str, base: &OutRoConfig, bad: &dyn Fn(String) -> Error) -> Result<OutRoConfig> {
    let mut method = base.clone();
    for switch in switches.split(',').filter(|s| !s.is_empty()) {
        let (key, value) = switch
            .split_once('=')
            .ok_or_else(|| bad(format!("`{switch}` is not KEY=VALUE")))?;
        method.set(key.trim(), &value.trim().replace('+', ","))?;
    }
    Ok(method)
}

/// Names of strategies worth comparing on a model of `layers` layers and head size `dim`: OutRo and its halves, sweeps of
/// gamma and of the enhancement layer, Zero-K, sinks removed and doubled, each of the first `sinks` removed alone, pruning,
/// and heads switched off from both ends of `heads`, which is ordered by sink score.
pub fn sweeps(heads: &[(usize, usize)], sinks: &[usize], layers: usize, dim: usize) -> Vec<String> {
    let mut all: Vec<String> = ["baseline", "outro", "outro:relax=false", "outro:rotate=false"]
        .map(str::to_owned)
        .to_vec();
    all.extend(["0.5", "1", "2", "3", "4"].map(|gamma| format!("outro:gamma={gamma}")));
    let end = layers.saturating_sub(2).max(1);
    all.extend(
        (0..end)
            .step_by(end.div_ceil(8))
            .map(|l| format!("outro:layers={l}")),
    );
    let powers = |most: usize| (0..).map(|e| 1usize << e).take_while(move |n| *n <= most);
    all.extend(powers((dim / 2).min(32)).map(|n| format!("zero-k:top={n}")));
    for what in ["sink-value", "sink-attention"] {
        all.extend(["0", "2"].map(|scale| format!("{what}:scale={scale}")));
    }
    let alone = sinks.iter().take(4).filter(|_| sinks.len() > 1);
    all.extend(alone.map(|position| format!("sink-attention:scale=0,sinks={position}")));
    all.extend((layers > 2).then(|| format!("prune:layer={},keep=0.2", (layers / 7).max(1))));
    for n in powers((heads.len() / 4).min(32)) {
        let off = |list: &mut dyn Iterator<Item = &(usize, usize)>| {
            let names: Vec<String> = list.take(n).map(|(l, h)| format!("{l}.{h}")).collect();
            format!("heads:off={}", names.join("+"))
        };
        all.push(off(&mut heads.iter()));
        all.push(off(&mut heads.iter().rev()));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read() {
        let base = OutRoConfig {
            gamma: 1.5,
            ..OutRoConfig::default()
        };
        let plain = Strategy::parse("baseline", &base).unwrap();
        assert!(plain.method.is_none() && plain.hook(&[]).is_none());
        assert_eq!(
            Strategy::parse("outro", &base).unwrap().method,
            Some(base.clone())
        );
        let s = Strategy::parse("outro:relax=false,layers=3+1", &base).unwrap();
        let want = OutRoConfig {
            relax: false,
            layers: Some(vec![1, 3]),
            ..base.clone()
        };
        assert_eq!(
            (s.name.as_str(), s.method),
            ("outro:relax=false,layers=3+1", Some(want))
        );
        let s = Strategy::parse("outro:gamma=2/prune:layer=5,keep=0.2/zero-k:top=3", &base).unwrap();
        let prune = PruneConfig { layer: 5, keep: 0.2 };
        assert_eq!(
            s.extras,
            [
                Extra::Prune(prune),
                Extra::Change(Change::ZeroK { top: 3, sinks: None })
            ]
        );
        let json = serde_json::to_string(&s).unwrap();
        assert_eq!(serde_json::from_str::<Strategy>(&json).unwrap(), s);
        let all = sweeps(&[(0, 1), (0, 0), (1, 1), (1, 0)], &[0, 7], 4, 16);
        assert!(all.contains(&"heads:off=0.1".to_owned()) && all.contains(&"heads:off=1.0".to_owned()));
        assert!(all.contains(&"sink-attention:scale=0,sinks=7".to_owned()));
        assert!(all.iter().all(|name| Strategy::parse(name, &base).is_ok()));
        for bad in [
            "",
            "vcd",
            "baseline:gamma=1",
            "outro:gamma",
            "outro:gama=1",
            "outro:gamma=x",
            "outro/outro",
            "outro/baseline",
            "prune",
            "prune:layer=1,keep=0",
            "heads:off=1",
        ] {
            assert!(Strategy::parse(bad, &base).is_err(), "{bad}");
        }
    }
}
