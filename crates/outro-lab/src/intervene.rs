//! Things done to sinks and heads to see what they were for (paper, question Q2).

use outro::hook::{At, Flow, Hook, Qkv};
use outro::method::{OutRo, OutRoConfig};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// One intervention, as it is written after its name: `heads:off=3.0+3.1`, `zero-k:top=8`, `sink-value:scale=0`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// Outputs of these heads are zero, in the prompt and while decoding: `(layer, head)`.
    Heads {
        /// Which.
        off: Vec<(usize, usize)>,
    },
    /// The largest dimensions of every sink's key are zero, in each key/value head (Zero-K).
    ZeroK {
        /// How many.
        top: usize,
    },
    /// Sinks' values are multiplied: 0 removes what sinks add to head outputs, 2 injects it twice.
    SinkValue {
        /// By what.
        scale: f32,
    },
}

impl Change {
    /// Reads the name and its `key=value`; `None` where the name is no intervention's.
    ///
    /// # Errors
    /// A switch that the intervention does not have, or a value that it cannot have.
    pub fn parse(name: &str, switches: &str) -> Result<Option<Self>> {
        let bad = |problem: String| Error::setting("strategy", format!("`{name}:{switches}`: {problem}"));
        let form = match name {
            "heads" => "off=LAYER.HEAD+LAYER.HEAD",
            "zero-k" => "top=N, from 1 up",
            "sink-value" => "scale=X",
            _ => return Ok(None),
        };
        let wrong = || bad(format!("{name} takes {form}"));
        let (key, value) = switches.split_once('=').ok_or_else(wrong)?;
        let value = value.trim();
        let change = match (name, key.trim()) {
            ("heads", "off") => {
                let head = |text: &str| {
                    let (layer, head) = text.split_once('.')?;
                    Some((layer.trim().parse().ok()?, head.trim().parse().ok()?))
                };
                let off = value.split('+').map(head).collect::<Option<Vec<_>>>();
                Self::Heads {
                    off: off.ok_or_else(wrong)?,
                }
            }
            ("zero-k", "top") => Self::ZeroK {
                top: value.parse().ok().filter(|n| *n > 0).ok_or_else(wrong)?,
            },
            ("sink-value", "scale") => Self::SinkValue {
                scale: value
                    .parse()
                    .ok()
                    .filter(|x: &f32| x.is_finite())
                    .ok_or_else(wrong)?,
            },
            _ => return Err(wrong()),
        };
        Ok(Some(change))
    }
}

/// A [`Change`] on one request; `sinks` says what a sink is.
pub struct Intervention {
    change: Change,
    detector: OutRo,
    /// Prompt position of each row, once rows were dropped.
    rows: Option<Vec<usize>>,
}

impl Intervention {
    /// Before a prefill.
    pub fn new(change: Change, sinks: &OutRoConfig) -> Self {
        Self {
            change,
            detector: OutRo::detector(sinks),
            rows: None,
        }
    }

    /// Rows of this layer's sinks.
    fn sinks(&self, layer: usize) -> Vec<usize> {
        let found = self.detector.sinks().get(&layer).cloned().unwrap_or_default();
        match &self.rows {
            None => found,
            Some(rows) => found.iter().filter_map(|p| rows.binary_search(p).ok()).collect(),
        }
    }
}

impl Hook for Intervention {
    fn layer_input(&mut self, at: At, x: &[f32], hidden: usize) -> outro::Result<Flow> {
        if let Change::Heads { off } = &self.change
            && let Some((layer, head)) = off
                .iter()
                .find(|(layer, head)| *layer >= at.layers || *head >= at.shape.heads)
        {
            return Err(outro::Error::Setting {
                key: "heads".into(),
                problem: format!(
                    "off={layer}.{head}: the model has layers 0 to {} with heads 0 to {}",
                    at.layers - 1,
                    at.shape.heads - 1
                ),
            });
        }
        self.detector.layer_input(at, x, hidden)
    }

    fn qkv(&mut self, at: At, _q: &mut [f32], k: &mut [f32], v: &mut [f32]) -> outro::Result<()> {
        if !at.prefill {
            return Ok(());
        }
        let (dim, width) = (at.shape.dim, at.shape.kv_heads * at.shape.dim);
        for row in self.sinks(at.layer) {
            let place = row * width..(row + 1) * width;
            match self.change {
                Change::Heads { .. } => {}
                Change::ZeroK { top } => {
                    for key in k[place].chunks_exact_mut(dim) {
                        let mut dims: Vec<usize> = (0..dim).collect();
                        dims.sort_by(|a, b| key[*b].abs().total_cmp(&key[*a].abs()));
                        dims.iter().take(top).for_each(|d| key[*d] = 0.0);
                    }
                }
                Change::SinkValue { scale } => v[place].iter_mut().for_each(|x| *x *= scale),
            }
        }
        Ok(())
    }

    fn reads_cache(&self, _at: At) -> bool {
        false
    }

    fn head_outputs(&mut self, at: At, _qkv: Qkv, o: &mut [f32]) -> outro::Result<()> {
        if let Change::Heads { off } = &self.change {
            let dim = at.shape.dim;
            for (_, head) in off.iter().filter(|(layer, _)| *layer == at.layer) {
                for row in o.chunks_exact_mut(at.shape.heads * dim) {
                    row[head * dim..(head + 1) * dim].fill(0.0);
                }
            }
        }
        Ok(())
    }

    fn rows_kept(&mut self, at: At, rows: &[usize]) {
        let old = self.rows.take();
        let position = |row: &usize| old.as_ref().map_or(*row, |old| old[*row]);
        self.rows = Some(rows.iter().map(position).collect());
        self.detector.rows_kept(at, rows);
    }
}

#[cfg(test)]
mod tests {
    use outro::hook::AttentionShape;

    use super::*;

    #[test]
    fn names_are_read() {
        let read = |name, switches| Change::parse(name, switches);
        let want = Change::Heads {
            off: vec![(3, 0), (3, 11)],
        };
        assert_eq!(read("heads", "off=3.0+3.11").unwrap(), Some(want));
        assert_eq!(read("zero-k", "top=2").unwrap(), Some(Change::ZeroK { top: 2 }));
        assert_eq!(
            read("sink-value", "scale=0").unwrap(),
            Some(Change::SinkValue { scale: 0.0 })
        );
        assert_eq!(read("vcd", "").unwrap(), None);
        for (name, switches) in [
            ("heads", ""),
            ("heads", "off=3"),
            ("zero-k", "top=0"),
            ("zero-k", "n=1"),
            ("sink-value", "scale=nan"),
        ] {
            assert!(read(name, switches).is_err(), "{name}:{switches}");
        }
    }

    #[test]
    fn only_sinks_and_named_heads_change() {
        let at = At {
            layer: 0,
            layers: 4,
            prefill: true,
            shape: AttentionShape {
                heads: 2,
                kv_heads: 1,
                dim: 2,
            },
        };
        let sinks = OutRoConfig {
            sinks: Some(vec![1]),
            ..OutRoConfig::default()
        };
        let run = |change: Change| {
            let mut hook = Intervention::new(change, &sinks);
            hook.layer_input(at, &[0.0; 6], 2).unwrap();
            let (mut q, mut k, mut v) = ([1.0; 12], [1.0, 2.0, 3.0, -4.0, 5.0, 6.0], [1.0; 6]);
            hook.qkv(at, &mut q, &mut k, &mut v).unwrap();
            let mut o = [1.0; 12];
            let qkv = Qkv { q: &q, k: &k, v: &v };
            hook.head_outputs(at, qkv, &mut o).unwrap();
            (k, v, o)
        };
        assert_eq!(run(Change::ZeroK { top: 1 }).0, [1.0, 2.0, 3.0, 0.0, 5.0, 6.0]);
        assert_eq!(
            run(Change::SinkValue { scale: 0.5 }).1,
            [1.0, 1.0, 0.5, 0.5, 1.0, 1.0]
        );
        let o = run(Change::Heads { off: vec![(0, 1)] }).2;
        assert!(o.chunks(4).all(|row| row == [1.0, 1.0, 0.0, 0.0]));
        let mut hook = Intervention::new(Change::Heads { off: vec![(9, 0)] }, &sinks);
        assert!(hook.layer_input(at, &[0.0; 6], 2).is_err());
    }
}
