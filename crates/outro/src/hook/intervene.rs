//! Things done to sinks and heads to see what they were for (paper, question Q2).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::hook::method::{OutRo, OutRoConfig};
use crate::hook::seam::{At, AttentionShape, Flow, Hook, Mask, Needs, attend, row_lse};
use crate::hook::settings::{Value, ascending, setting, settings_of, switches};
use crate::hook::views::{Attention, HeadOutputs, Hidden, NewQkv};

/// One intervention, as it is written after its name: `heads:off=3.0+3.1`, `zero-k:top=8`,
/// `sink-attention:scale=0,sinks=0+7`.
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
        /// These prompt positions instead of the sinks.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sinks: Option<Vec<usize>>,
    },
    /// Sinks' values are multiplied: 0 removes what sinks add to head outputs, 2 injects it twice.
    SinkValue {
        /// By what.
        scale: f32,
        /// These prompt positions instead of the sinks.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sinks: Option<Vec<usize>>,
    },
    /// Attention on sinks is multiplied and all attention normalised again: 0 masks sinks out, 2 injects them. The sinks'
    /// own rows, of which the first sees nothing else, stay as they are.
    SinkAttention {
        /// By what, at least 0.
        scale: f32,
        /// These prompt positions instead of the sinks.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sinks: Option<Vec<usize>>,
    },
}

impl Change {
    /// Reads the name and its `key=value,...`; `None` where the name is no intervention's.
    ///
    /// # Errors
    /// A switch that the intervention does not have, or a value that it cannot have.
    pub fn parse(name: &str, text: &str) -> Result<Option<Self>> {
        if !["heads", "zero-k", "sink-value", "sink-attention"].contains(&name) {
            return Ok(None);
        }
        let (mut off, mut number, mut top, mut sinks) = (None, None, None, None);
        for (key, value) in &switches(name, text)? {
            match setting(name, key)?.read(value)? {
                Value::Heads(heads) => off = Some(heads),
                Value::Number { single, .. } => number = Some(single),
                Value::Whole(n) => top = Some(n as usize),
                Value::List(positions) => sinks = Some(ascending(positions)),
                Value::Default | Value::Flag(_) | Value::Word(_) => {}
            }
        }
        let missing = || {
            let needed = settings_of(name).next().map_or("", |s| s.name);
            Error::setting("strategy", format!("`{name}:{text}`: has no {needed}"))
        };
        let number = number.ok_or_else(missing);
        Ok(Some(match name {
            "heads" => Self::Heads {
                off: off.ok_or_else(missing)?,
            },
            "zero-k" => Self::ZeroK {
                top: top.ok_or_else(missing)?,
                sinks,
            },
            "sink-value" => Self::SinkValue {
                scale: number?,
                sinks,
            },
            _ => Self::SinkAttention {
                scale: number?,
                sinks,
            },
        }))
    }

    /// The positions that were given by hand.
    fn given(&self) -> Option<&Vec<usize>> {
        match self {
            Self::Heads { .. } => None,
            Self::ZeroK { sinks, .. } | Self::SinkValue { sinks, .. } | Self::SinkAttention { sinks, .. } => {
                sinks.as_ref()
            }
        }
    }
}

/// A [`Change`] on one request; `sinks` says what a sink is.
pub struct Intervention {
    change: Change,
    detector: OutRo,
    /// The sinks among each layer's keys: later layers may have lost rows.
    keys: BTreeMap<usize, Vec<usize>>,
}

impl Intervention {
    /// Before a prefill.
    pub fn new(change: Change, sinks: &OutRoConfig) -> Self {
        let by_hand = change.given().cloned().or_else(|| sinks.sinks.clone());
        let sinks = OutRoConfig {
            sinks: by_hand,
            ..sinks.clone()
        };
        Self {
            change,
            detector: OutRo::detector(&sinks),
            keys: BTreeMap::new(),
        }
    }
}

/// Head outputs `o [new, H * D]` as they would be if attention on the rows `sinks` (ascending) were `scale` times as large
/// before it is normalised. Exact also where next to nothing is left for the others: their attention is computed anew,
/// between two sinks as that of a prompt without them.
fn reweigh(attention: Attention, shape: AttentionShape, sinks: &[usize], scale: f32, o: &mut [f32]) {
    let (queries, keys, values) = (attention.q(), attention.k(), attention.v());
    let AttentionShape { heads, kv_heads, dim } = shape;
    let (wide, narrow) = (heads * dim, kv_heads * dim);
    let (new, all) = (attention.rows(), attention.keys());
    let offset = all - new;
    let without = |x: &[f32]| -> Vec<f32> {
        let rows = x.chunks_exact(narrow).enumerate();
        let kept = rows.filter(|(row, _)| sinks.binary_search(row).is_err());
        kept.flat_map(|(_, x)| x).copied().collect()
    };
    let (k, v) = (without(keys), without(values));
    for (before, start, end) in between(sinks, offset, all) {
        let rows = (start - offset) * wide..(end - offset) * wide;
        let (q, o) = (&queries[rows.clone()], &mut o[rows]);
        let mut rest = vec![0.0; q.len()];
        let first = start - before;
        attend(q, &k, &v, shape, Mask::Causal { offset: first }, &mut rest);
        if scale == 0.0 || before == 0 {
            o.copy_from_slice(&rest);
            continue;
        }
        let lse = row_lse(q, &k, shape, first);
        for (i, (out, rest)) in o.chunks_exact_mut(dim).zip(rest.chunks_exact(dim)).enumerate() {
            let g = i % heads / (heads / kv_heads);
            let q = &q[i * dim..(i + 1) * dim];
            let scores: Vec<f32> = sinks[..before]
                .iter()
                .map(|s| {
                    let k = &keys[s * narrow + g * dim..][..dim];
                    let dot: f32 = q.iter().zip(k).map(|(a, b)| a * b).sum();
                    dot / (dim as f32).sqrt() + scale.ln()
                })
                .collect();
            let most = scores.iter().fold(lse[i], |m, s| m.max(*s));
            let others = (lse[i] - most).exp();
            let mut total = others;
            out.iter_mut().zip(rest).for_each(|(o, r)| *o = others * r);
            for (s, score) in sinks.iter().zip(&scores) {
                let weight = (score - most).exp();
                total += weight;
                let v = &values[s * narrow + g * dim..][..dim];
                out.iter_mut().zip(v).for_each(|(o, v)| *o += weight * v);
            }
            for o in out {
                *o /= total;
            }
        }
    }
}

/// Runs of rows from `offset` to `all` that are no sinks: `(sinks before, first row, end)`.
fn between(sinks: &[usize], offset: usize, all: usize) -> Vec<(usize, usize, usize)> {
    let starts = [0].into_iter().chain(sinks.iter().map(|s| s + 1));
    let ends = sinks.iter().copied().chain([all]);
    let runs = starts.zip(ends).enumerate();
    runs.map(|(before, (start, end))| (before, start.max(offset), end))
        .filter(|(_, start, end)| start < end)
        .collect()
}

impl Hook for Intervention {
    fn needs(&self, at: At) -> Needs {
        let acts = match &self.change {
            Change::Heads { off } => off.iter().any(|(layer, _)| *layer == at.layer),
            Change::SinkAttention { .. } => self.keys.get(&at.layer).is_some_and(|s| !s.is_empty()),
            Change::ZeroK { .. } | Change::SinkValue { .. } => false,
        };
        Needs {
            input: at.prefill,
            qkv: at.prefill,
            rotation: false,
            outputs: acts,
            cache: acts && matches!(self.change, Change::SinkAttention { .. }),
        }
    }

    fn layer_input(&mut self, at: At, x: Hidden) -> Result<Flow> {
        if let Change::Heads { off } = &self.change
            && let Some((layer, head)) = off
                .iter()
                .find(|(layer, head)| *layer >= at.layers || *head >= at.shape.heads)
        {
            return Err(Error::Setting {
                key: "heads".into(),
                problem: format!(
                    "off={layer}.{head}: the model has layers 0 to {} with heads 0 to {}",
                    at.layers - 1,
                    at.shape.heads - 1
                ),
            });
        }
        self.detector.layer_input(at, x)
    }

    fn qkv(&mut self, at: At, new: &mut NewQkv) -> Result<()> {
        let (dim, width) = (at.shape.dim, at.shape.kv_heads * at.shape.dim);
        let found = self.detector.sinks().get(&at.layer);
        let keys: Vec<usize> = found.into_iter().flatten().filter_map(|t| at.key(*t)).collect();
        for key in &keys {
            let place = key * width..(key + 1) * width;
            match self.change {
                Change::Heads { .. } | Change::SinkAttention { .. } => {}
                Change::ZeroK { top, .. } => {
                    for key in new.k[place].chunks_exact_mut(dim) {
                        let mut dims: Vec<usize> = (0..dim).collect();
                        dims.sort_by(|a, b| key[*b].abs().total_cmp(&key[*a].abs()));
                        dims.iter().take(top).for_each(|d| key[*d] = 0.0);
                    }
                }
                Change::SinkValue { scale, .. } => new.v[place].iter_mut().for_each(|x| *x *= scale),
            }
        }
        self.keys.insert(at.layer, keys);
        Ok(())
    }

    fn head_outputs(
        &mut self,
        at: At,
        attention: Attention,
        o: &mut HeadOutputs,
        _applied: bool,
    ) -> Result<()> {
        match &self.change {
            Change::Heads { off } => {
                o.scale(|_, head| if off.contains(&(at.layer, head)) { 0.0 } else { 1.0 });
            }
            Change::SinkAttention { scale, .. } => {
                reweigh(attention, at.shape, &self.keys[&at.layer], *scale, o.host_mut());
            }
            Change::ZeroK { .. } | Change::SinkValue { .. } => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::hook::row_map::RowMap;
    use crate::hook::seam::AttentionShape;

    use super::*;

    #[test]
    fn names_are_read() {
        let read = |name, switches| Change::parse(name, switches);
        let want = Change::Heads {
            off: vec![(3, 0), (3, 11)],
        };
        assert_eq!(read("heads", "off=3.0+3.11").unwrap(), Some(want));
        let zero_k = |top, sinks| Some(Change::ZeroK { top, sinks });
        assert_eq!(read("zero-k", "top=2").unwrap(), zero_k(2, None));
        assert_eq!(
            read("zero-k", "sinks=7+0, top=2").unwrap(),
            zero_k(2, Some(vec![0, 7]))
        );
        let want = Change::SinkValue {
            scale: 0.0,
            sinks: None,
        };
        assert_eq!(read("sink-value", "scale=0").unwrap(), Some(want));
        let want = Change::SinkAttention {
            scale: 2.0,
            sinks: Some(vec![4]),
        };
        assert_eq!(read("sink-attention", "scale=2,sinks=4").unwrap(), Some(want));
        assert_eq!(read("vcd", "").unwrap(), None);
        for (name, switches) in [
            ("heads", ""),
            ("heads", "off=3"),
            ("heads", "off=3.0,sinks=1"),
            ("zero-k", "top=0"),
            ("zero-k", "n=1"),
            ("zero-k", "sinks=1"),
            ("sink-value", "scale=nan"),
            ("sink-value", "scale=1,sinks=x"),
            ("sink-attention", "scale=-1"),
        ] {
            assert!(read(name, switches).is_err(), "{name}:{switches}");
        }
    }

    #[test]
    fn attention_on_sinks_is_scaled_exactly() {
        let shape = AttentionShape {
            heads: 4,
            kv_heads: 2,
            dim: 8,
        };
        let noise = |n: usize, seed: usize| -> Vec<f32> {
            (0..n)
                .map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 700.0 - 1.4)
                .collect()
        };
        for (new, all) in [(40, 40), (1, 40), (7, 40)] {
            let offset = all - new;
            let (q, mut k, v) = (noise(new * 32, 1), noise(all * 16, 2), noise(all * 16, 3));
            // Queries that leave next to nothing for other keys.
            k[5 * 16..6 * 16].copy_from_slice(&q[..16].iter().map(|x| x * 9.0).collect::<Vec<_>>());
            for sinks in [vec![0], vec![0, 1, 5], vec![39], vec![3, 36]] {
                for scale in [0.0, 0.5, 1.0, 3.0] {
                    let attention = Attention::new(shape, &q, &k, &v);
                    let mut plain = vec![0.0; q.len()];
                    attend(&q, &k, &v, shape, Mask::Causal { offset }, &mut plain);
                    let mut got = plain.clone();
                    reweigh(attention, shape, &sinks, scale, &mut got);
                    for (i, got) in got.chunks(8).enumerate() {
                        let (row, h) = (offset + i / 4, i % 4);
                        let weights: Vec<f64> = (0..=row)
                            .map(|j| {
                                let k = &k[j * 16 + h / 2 * 8..][..8];
                                let q = q[i * 8..(i + 1) * 8].iter();
                                let dot: f64 = q.zip(k).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                                let own = sinks.contains(&row) || !sinks.contains(&j);
                                (dot / 8f64.sqrt()).exp() * if own { 1.0 } else { f64::from(scale) }
                            })
                            .collect();
                        let total: f64 = weights.iter().sum();
                        for (d, got) in got.iter().enumerate() {
                            let v = weights
                                .iter()
                                .enumerate()
                                .map(|(j, w)| w * f64::from(v[j * 16 + h / 2 * 8 + d]));
                            let want = v.sum::<f64>() / total;
                            assert!(
                                (f64::from(*got) - want).abs() < 1e-5,
                                "{sinks:?} {scale} row {row}: {got} {want}"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn only_sinks_and_named_heads_change() {
        let rows = RowMap::whole(3);
        let at = At {
            rows: &rows,
            past: 0,
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
            hook.layer_input(at, Hidden::new(&[0.0; 6], 2)).unwrap();
            let (mut q, mut k, mut v) = ([1.0; 12], [1.0, 2.0, 3.0, -4.0, 5.0, 6.0], [1.0; 6]);
            let mut new = NewQkv {
                q: &mut q,
                k: &mut k,
                v: &mut v,
            };
            hook.qkv(at, &mut new).unwrap();
            let mut o = [1.0; 12];
            let attention = Attention::new(at.shape, &q, &k, &v);
            let mut outputs = HeadOutputs::new(at.shape, &mut o);
            hook.head_outputs(at, attention, &mut outputs, false).unwrap();
            (k, v, o)
        };
        assert_eq!(
            run(Change::ZeroK { top: 1, sinks: None }).0,
            [1.0, 2.0, 3.0, 0.0, 5.0, 6.0]
        );
        assert_eq!(
            run(Change::SinkValue {
                scale: 0.5,
                sinks: None
            })
            .1,
            [1.0, 1.0, 0.5, 0.5, 1.0, 1.0]
        );
        let o = run(Change::Heads { off: vec![(0, 1)] }).2;
        assert!(o.chunks(4).all(|row| row == [1.0, 1.0, 0.0, 0.0]));
        let mut hook = Intervention::new(Change::Heads { off: vec![(9, 0)] }, &sinks);
        assert!(hook.layer_input(at, Hidden::new(&[0.0; 6], 2)).is_err());
    }
}
