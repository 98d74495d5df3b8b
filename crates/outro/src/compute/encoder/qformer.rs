//! A windowed Q-Former: in every window of the encoder's rows learned queries attend to each other, then to the window.

use outro_kernels::gelu;

use super::block::Norm;
use crate::compute::nn::ops::attention::{Groups, in_groups};
use crate::compute::nn::ops::{self, sound};
use crate::compute::nn::{Linear, Mat, Weights};
use crate::error::Result;
use crate::spec::config::{AudioConfig, Norm as Kind, QFormerConfig};
use crate::weights::checkpoint::Matrix;

pub(super) struct QFormer {
    config: QFormerConfig,
    /// The learned queries `[count, hidden]`, behind their norm.
    start: Vec<f32>,
    layers: Vec<Layer>,
    proj: Linear,
}

struct Layer {
    own: Attention,
    window: Attention,
    up: Linear,
    down: Linear,
    norm: Norm,
}

/// Attention whose result is added to the queries before a norm.
struct Attention {
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    norm: Norm,
}

impl QFormer {
    pub(super) fn load(w: Weights, prefix: &str, audio: &AudioConfig, c: &QFormerConfig) -> Result<Self> {
        let (h, bert) = (c.hidden, format!("{prefix}qformer.bert."));
        let norm = |name: &str| Norm::load(w, name, h, Kind::Layer, c.norm_eps);
        let attention = |p: &str, inner: usize| -> Result<Attention> {
            Ok(Attention {
                q: w.linear(&format!("{p}.self.query"), h, h, true)?,
                k: w.linear(&format!("{p}.self.key"), h, inner, true)?,
                v: w.linear(&format!("{p}.self.value"), h, inner, true)?,
                o: w.linear(&format!("{p}.output.dense"), h, h, true)?,
                norm: norm(&format!("{p}.output.LayerNorm"))?,
            })
        };
        let layers = (0..c.layers)
            .map(|i| {
                let p = format!("{bert}encoder.layer.{i}.");
                Ok(Layer {
                    own: attention(&format!("{p}attention"), h)?,
                    window: attention(&format!("{p}crossattention"), audio.hidden)?,
                    up: w.linear(&format!("{p}intermediate_query.dense"), c.intermediate, h, true)?,
                    down: w.linear(&format!("{p}output_query.dense"), h, c.intermediate, true)?,
                    norm: norm(&format!("{p}output_query.LayerNorm"))?,
                })
            })
            .collect::<Result<_>>()?;
        let start = w.table(&format!("{prefix}q_tokens"), &[1, c.count, h])?;
        Ok(Self {
            config: c.clone(),
            start: norm(&format!("{bert}embeddings.LayerNorm"))?.forward(&start),
            layers,
            proj: w.linear(&format!("{prefix}audio_proj"), audio.out, h, true)?,
        })
    }

    pub(super) fn matrices(&self) -> impl Iterator<Item = &Matrix> {
        self.layers
            .iter()
            .flat_map(|l| {
                [&l.own, &l.window]
                    .into_iter()
                    .flat_map(|a| [&a.q, &a.k, &a.v, &a.o])
                    .chain([&l.up, &l.down])
            })
            .chain([&self.proj])
            .map(|l| &l.weight)
    }

    /// Rows `[chunks * rows, width]` to tokens `[chunks * windows * count, out]`.
    pub(super) fn forward(&self, x: &[f32], width: usize, rows: usize) -> Mat {
        let c = &self.config;
        let windows = sound::windows(x, width, rows, (c.windows(rows), c.window, c.stride));
        let n = windows.len() / (c.window * width);
        let mut x = ops::repeated(&self.start, n);
        for layer in &self.layers {
            let own = x.clone();
            x = layer.own.forward(&x, &own, c.count, c);
            x = layer.window.forward(&x, &windows, c.window, c);
            let mut wide = layer.up.forward(&x);
            gelu(wide.data_mut());
            let mut sum = layer.down.forward(wide.data()).into_data();
            outro_kernels::add(&mut sum, &x);
            x = layer.norm.forward(&sum);
        }
        self.proj.forward(&x)
    }
}

impl Attention {
    /// `x` has `count` rows a group and `y` `keys`; a group's rows attend to its keys.
    fn forward(&self, x: &[f32], y: &[f32], keys: usize, c: &QFormerConfig) -> Vec<f32> {
        let (q, k, v) = (self.q.forward(x), self.k.forward(y), self.v.forward(y));
        let groups = Groups {
            queries: c.count,
            keys,
            heads: c.heads,
        };
        let out = in_groups(&q, &k, &v, groups);
        let mut sum = self.o.forward(out.data()).into_data();
        outro_kernels::add(&mut sum, x);
        self.norm.forward(&sum)
    }
}
