//! Ways of answering, by name: `baseline`, `outro`, `outro:gamma=2,relax=false`.

use outro::method::OutRoConfig;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A way of answering.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Strategy {
    /// As it was written.
    pub name: String,
    /// The method's settings in full; `None` is the plain model.
    pub method: Option<OutRoConfig>,
}

impl Strategy {
    /// Reads a name. `base` is what `outro` means for the model at hand; switches go on top. Within a switch that is a
    /// list, values are joined by `+`.
    ///
    /// # Errors
    /// An unknown name or switch.
    pub fn parse(name: &str, base: &OutRoConfig) -> Result<Self> {
        let bad = |problem: String| Error::setting("strategy", format!("`{name}`: {problem}"));
        let (kind, switches) = name.split_once(':').unwrap_or((name, ""));
        let method = match kind {
            "baseline" if switches.is_empty() => None,
            "baseline" => return Err(bad("the plain model has no switches".into())),
            "outro" => Some(base.clone()),
            _ => return Err(bad("unknown; known: baseline, outro, outro:KEY=VALUE,...".into())),
        };
        let mut strategy = Self {
            name: name.into(),
            method,
        };
        for switch in switches.split(',').filter(|s| !s.is_empty()) {
            let (key, value) = switch
                .split_once('=')
                .ok_or_else(|| bad(format!("`{switch}` is not KEY=VALUE")))?;
            if let Some(method) = &mut strategy.method {
                method.set(key.trim(), &value.trim().replace('+', ","))?;
            }
        }
        Ok(strategy)
    }
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
        assert_eq!(Strategy::parse("baseline", &base).unwrap().method, None);
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
        for bad in [
            "",
            "vcd",
            "baseline:gamma=1",
            "outro:gamma",
            "outro:gama=1",
            "outro:gamma=x",
        ] {
            assert!(Strategy::parse(bad, &base).is_err(), "{bad}");
        }
    }
}
