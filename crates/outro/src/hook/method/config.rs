//! The method's settings (docs/settings.md).

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::hook::settings::{Value, ascending, setting};

/// Which decoded tokens are rotated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DecodeRule {
    /// Every decoded token, at every layer that has a sink value direction.
    #[default]
    Paper,
    /// As the authors' release: not where prompt token 0 is a sink.
    Release,
}

/// Settings of the method. The defaults are the released values for Qwen2.5-Omni.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "independent switches of the method")]
pub struct OutRoConfig {
    /// Strength of the rotation.
    pub gamma: f32,
    /// Temperature of the gate: `gate_temperature` where it is typed, for sampling has one too. Logs have it by this name.
    pub temperature: f32,
    /// A sink's largest |activation| is at least this.
    pub abs_threshold: f32,
    /// ... and at least this many times the median |activation| of the layer's input.
    pub median_multiple: f32,
    /// First layer in which sinks are looked for.
    pub start_layer: usize,
    /// Layer before which the search ends; `None` is L - 2.
    pub end_layer: Option<usize>,
    /// Sinks are relaxed at layers that are multiples of this; `None` is max(1, L / 7).
    pub interval: Option<usize>,
    /// The layers at which sinks are relaxed, instead of an interval.
    pub layers: Option<Vec<usize>>,
    /// Relax each sink once, or at every enhancement layer.
    pub once: bool,
    /// Rotate head outputs (section 4).
    pub rotate: bool,
    /// Relax the causal mask for sinks (section 3).
    pub relax: bool,
    /// Keep the length of head outputs.
    pub rescale: bool,
    /// Which decoded tokens are rotated.
    pub decode: DecodeRule,
    /// Prompt rows to take for sinks, instead of detection.
    pub sinks: Option<Vec<usize>>,
}

impl Default for OutRoConfig {
    fn default() -> Self {
        Self {
            gamma: 3.0,
            temperature: 0.1,
            abs_threshold: 100.0,
            median_multiple: 1000.0,
            start_layer: 0,
            end_layer: None,
            interval: None,
            layers: None,
            once: true,
            rotate: true,
            relax: true,
            rescale: true,
            decode: DecodeRule::Paper,
            sinks: None,
        }
    }
}

impl OutRoConfig {
    /// A key's name today: `temperature` was that of `gate_temperature`.
    pub fn canonical(key: &str) -> &str {
        match key {
            "temperature" => "gate_temperature",
            key => key,
        }
    }

    /// Whether the second of two keys would leave nothing of the first.
    pub fn decide_the_same(a: &str, b: &str) -> bool {
        let (a, b) = (Self::canonical(a), Self::canonical(b));
        a == b || [a, b] == ["layers", "interval"] || [a, b] == ["interval", "layers"]
    }

    /// Changes one setting by its name; `temperature` is an older name of `gate_temperature`. Optional ones take `default`
    /// too; lists are joined by commas or `+`. Of `interval` and `layers` the last one that is set decides.
    ///
    /// # Errors
    /// An unknown key or a value that it cannot have.
    pub fn set(&mut self, key: &str, value: &str) -> Result<()> {
        let key = Self::canonical(key);
        match (key, setting("outro", key)?.read(value)?) {
            ("gamma", Value::Number { single, .. }) => self.gamma = single,
            ("gate_temperature", Value::Number { single, .. }) => self.temperature = single,
            ("abs_threshold", Value::Number { single, .. }) => self.abs_threshold = single,
            ("median_multiple", Value::Number { single, .. }) => self.median_multiple = single,
            ("start_layer", Value::Whole(n)) => self.start_layer = n as usize,
            ("end_layer", Value::Whole(n)) => self.end_layer = Some(n as usize),
            ("end_layer", _) => self.end_layer = None,
            ("interval", Value::Whole(n)) => {
                self.interval = Some(n as usize);
                self.layers = None;
            }
            ("interval", _) => self.interval = None,
            ("layers", Value::List(list)) => self.layers = Some(ascending(list)),
            ("layers", _) => self.layers = None,
            ("sinks", Value::List(list)) => self.sinks = Some(ascending(list)),
            ("sinks", _) => self.sinks = None,
            ("once", Value::Flag(on)) => self.once = on,
            ("rotate", Value::Flag(on)) => self.rotate = on,
            ("relax", Value::Flag(on)) => self.relax = on,
            ("rescale", Value::Flag(on)) => self.rescale = on,
            ("decode", Value::Word("release")) => self.decode = DecodeRule::Release,
            ("decode", _) => self.decode = DecodeRule::Paper,
            _ => return Err(Error::setting(key, "is in the table alone")),
        }
        Ok(())
    }

    /// The defaults with these fields changed, as `outro.json` has them under `method`.
    ///
    /// # Errors
    /// An unknown field or a value that it cannot have.
    pub fn from_fields(fields: &serde_json::Map<String, serde_json::Value>) -> Result<Self> {
        use serde_json::Value;
        let mut config = Self::default();
        // An interval first: layers win over it wherever they stand.
        let (intervals, others): (Vec<_>, Vec<_>) = fields.iter().partition(|(key, _)| *key == "interval");
        for (key, value) in intervals.into_iter().chain(others) {
            let text = match value {
                Value::Null => "default".to_owned(),
                Value::String(s) => s.clone(),
                Value::Array(list) => list.iter().map(Value::to_string).collect::<Vec<_>>().join(","),
                other => other.to_string(),
            };
            config.set(key, &text)?;
        }
        Ok(config)
    }

    /// Whether every number of a layer means one in a model of `layers` layers, and something can come of it.
    ///
    /// # Errors
    /// A layer that the model does not have, or layers in which no sink is looked for.
    pub fn check(&self, layers: usize) -> Result<()> {
        let wrong = |key: &str, problem: String| -> Result<()> {
            Err(Error::Setting {
                key: key.into(),
                problem,
            })
        };
        let last = layers.saturating_sub(1);
        if let Some(n) = self.interval.filter(|n| *n > layers) {
            return wrong("interval", format!("is {n}, the model has {layers} layers"));
        }
        if let Some(n) = self.end_layer.filter(|n| *n > layers) {
            return wrong(
                "end_layer",
                format!("is {n}, the model has {layers} layers; give {layers} at most"),
            );
        }
        if self.start_layer >= layers {
            return wrong(
                "start_layer",
                format!("is {}, the model's layers are 0 to {last}", self.start_layer),
            );
        }
        let (start, end) = (
            self.start_layer,
            self.end_layer.unwrap_or(layers.saturating_sub(2)),
        );
        if start >= end && (start > 0 || self.end_layer.is_some()) {
            return wrong(
                "start_layer",
                format!("is {start}, and sinks are looked for in layers before {end}: nothing would be done"),
            );
        }
        let Some(list) = &self.layers else { return Ok(()) };
        if let Some(n) = list.iter().find(|n| **n >= layers) {
            return wrong("layers", format!("{n}: the model's layers are 0 to {last}"));
        }
        if start < end && !list.iter().any(|n| (start..end).contains(n)) {
            let to = end - 1;
            return wrong(
                "layers",
                format!("sinks are looked for in layers {start} to {to} only: nothing would be done"),
            );
        }
        Ok(())
    }

    /// Whether the sinks that were given are positions of a prompt of `tokens` tokens.
    ///
    /// # Errors
    /// One that is not.
    pub fn check_prompt(&self, tokens: usize) -> Result<()> {
        let outside = self.sinks.iter().flatten().find(|t| **t >= tokens);
        outside.map_or(Ok(()), |t| {
            Err(Error::Setting {
                key: "sinks".into(),
                problem: format!("{t}: the prompt's tokens are 0 to {}", tokens.saturating_sub(1)),
            })
        })
    }

    /// Whether sinks are looked for at this layer.
    pub(super) fn detects(&self, layer: usize, layers: usize) -> bool {
        (self.start_layer..self.end_layer.unwrap_or(layers.saturating_sub(2))).contains(&layer)
    }

    /// Whether this is an enhancement layer.
    pub(super) fn enhances(&self, layer: usize, layers: usize) -> bool {
        match &self.layers {
            Some(list) => list.contains(&layer),
            None => layer.is_multiple_of(self.interval.unwrap_or(layers / 7).max(1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hook::settings::settings_of;

    #[test]
    fn layers_follow_the_paper() {
        let c = OutRoConfig::default();
        let at = |n: usize| (0..n).filter(|l| c.enhances(*l, n)).collect::<Vec<_>>();
        assert_eq!(at(36), [0, 5, 10, 15, 20, 25, 30, 35]);
        assert_eq!(at(28)[..3], [0, 4, 8]);
        assert_eq!(at(3), [0, 1, 2], "an interval is at least 1");
        assert_eq!((0..36).filter(|l| c.detects(*l, 36)).count(), 34);
        assert!(!c.detects(0, 1));
    }

    #[test]
    fn numbers_of_layers_are_held_against_the_model() {
        let check = |pairs: &[(&str, &str)], layers: usize| {
            let mut c = OutRoConfig::default();
            for (key, value) in pairs {
                c.set(key, value).unwrap();
            }
            c.check(layers).map_err(|e| e.to_string())
        };
        for good in [
            &[][..],
            &[("layers", "0,7")],
            &[("start_layer", "1"), ("end_layer", "8")],
            &[("interval", "8")],
        ] {
            assert_eq!(check(good, 8), Ok(()), "{good:?}");
        }
        // A model of one layer is never looked at, which no setting has asked for.
        assert_eq!(check(&[], 1), Ok(()));
        for (bad, part) in [
            (&[("layers", "0,99")][..], "layers are 0 to 7"),
            (&[("layers", "6,7")], "0 to 5 only"),
            (&[("start_layer", "8")], "0 to 7"),
            (&[("start_layer", "6")], "before 6"),
            (&[("end_layer", "9")], "8 at most"),
            (&[("end_layer", "0")], "before 0"),
            (&[("interval", "9")], "8 layers"),
        ] {
            let error = check(bad, 8).unwrap_err();
            assert!(
                error.contains(bad[0].0) || error.contains("start_layer"),
                "{error}"
            );
            assert!(error.contains(part), "{error}");
        }
        let mut c = OutRoConfig::default();
        c.set("sinks", "0,99999").unwrap();
        let error = c.check_prompt(152).unwrap_err().to_string();
        assert!(error.contains("99999") && error.contains("0 to 151"), "{error}");
        assert!(c.check_prompt(100_000).is_ok());
    }

    #[test]
    fn fields_are_the_settings() {
        let json =
            r#"{"gamma": 0.5, "layers": [2, 1], "once": false, "end_layer": null, "decode": "release"}"#;
        let c = OutRoConfig::from_fields(&serde_json::from_str(json).unwrap()).unwrap();
        let want = OutRoConfig {
            gamma: 0.5,
            layers: Some(vec![1, 2]),
            once: false,
            decode: DecodeRule::Release,
            ..OutRoConfig::default()
        };
        assert_eq!(c, want);
        for bad in [
            r#"{"gama": 1}"#,
            r#"{"gamma": "x"}"#,
            r#"{"layers": {}}"#,
            r#"{"once": 1}"#,
        ] {
            assert!(
                OutRoConfig::from_fields(&serde_json::from_str(bad).unwrap()).is_err(),
                "{bad}"
            );
        }
    }

    #[test]
    fn every_key_can_be_set_and_bad_values_are_named() {
        let mut c = OutRoConfig::default();
        for key in settings_of("outro").map(|s| s.name) {
            let good = match key {
                "once" | "rotate" | "relax" | "rescale" => "false",
                "decode" => "release",
                "layers" | "sinks" => "3,1",
                _ => "2",
            };
            c.set(key, good).unwrap();
            let message = c.set(key, "x").unwrap_err().to_string();
            assert!(message.contains(key), "{message}");
        }
        assert_eq!(c.layers, Some(vec![1, 3]));
        c.set("interval", "2").unwrap();
        assert_eq!(c.layers, None, "the last of layers and interval decides");
        c.set("layers", "5+0").unwrap();
        assert_eq!(c.layers, Some(vec![0, 5]));
        c.set("temperature", "0.5").unwrap();
        assert_eq!(c.temperature.to_bits(), 0.5f32.to_bits(), "the older name");
        assert!(
            c.set("gama", "1")
                .unwrap_err()
                .to_string()
                .contains("mean `gamma`")
        );
        assert!(
            c.set("gamma", "nan").is_err()
                && c.set("temperature", "0").is_err()
                && c.set("interval", "0").is_err()
        );
    }
}
