//! The decoder's weights, and the output head; what runs rows through its layers is a [`super::Pass`].

use outro_kernels::{Activations, AttentionShape, Phase, linear_with, rms_norm};

use super::rotary::Rotary;
use super::{Linear, Mat, Mlp, Weights, ops};
use crate::error::{Error, Result};
use crate::spec::config::TextConfig;
use crate::weights::checkpoint::Matrix;

/// Immutable weights of a text decoder.
pub(crate) struct Decoder {
    pub(super) config: TextConfig,
    pub(crate) embed: Matrix,
    pub(super) layers: Vec<Layer>,
    norm: Vec<f32>,
    head: Option<Linear>,
    activations: Activations,
    pub(super) rotary: Rotary,
}

pub(super) struct Layer {
    pub(super) input_norm: Vec<f32>,
    pub(super) q: Linear,
    pub(super) k: Linear,
    pub(super) v: Linear,
    pub(super) o: Linear,
    /// Norms of each head's query and key, `[D]`.
    pub(super) qk_norm: Option<[Vec<f32>; 2]>,
    pub(super) mlp_norm: Vec<f32>,
    pub(super) mlp: Mlp,
}

impl Layer {
    /// All matrices, or those that one row is multiplied with.
    fn matrices(&self, all: bool) -> impl Iterator<Item = &Matrix> {
        let attention = [&self.q, &self.k, &self.v, &self.o];
        let mlp = self.mlp.matrices(all);
        attention.into_iter().map(|lin| &lin.weight).chain(mlp)
    }
}

impl Decoder {
    pub(crate) fn load(w: Weights, prefix: &str, lm_head: &str, config: &TextConfig) -> Result<Self> {
        let c = config;
        let (q_out, kv_out) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
        let layers = (0..c.layers)
            .map(|i| {
                let p = format!("{prefix}layers.{i}.");
                let a = format!("{p}self_attn.");
                let rotated = |name: &str, out| -> Result<Linear> {
                    let mut linear = w.linear(&format!("{a}{name}"), out, c.hidden, c.qkv_bias)?;
                    if c.rope_pairs_interleaved {
                        linear.weight = linear.weight.deinterleaved(c.head_dim);
                    }
                    Ok(linear)
                };
                let norms = || -> Result<_> {
                    let norm = |name: &str| w.vector(&format!("{a}{name}.weight"), c.head_dim);
                    Ok([norm("q_norm")?, norm("k_norm")?])
                };
                Ok(Layer {
                    input_norm: w.vector(&format!("{p}input_layernorm.weight"), c.hidden)?,
                    q: rotated("q_proj", q_out)?,
                    k: rotated("k_proj", kv_out)?,
                    v: w.linear(&format!("{a}v_proj"), kv_out, c.hidden, c.qkv_bias)?,
                    o: w.linear(&format!("{a}o_proj"), c.hidden, q_out, false)?,
                    qk_norm: c.qk_norm.then(norms).transpose()?,
                    mlp_norm: w.vector(&format!("{p}post_attention_layernorm.weight"), c.hidden)?,
                    mlp: Mlp::load(w, &format!("{p}mlp"), c, i)?,
                })
            })
            .collect::<Result<_>>()?;
        let embed = w.checkpoint.matrix(
            &format!("{prefix}embed_tokens.weight"),
            &[c.vocab, c.hidden],
            w.dtype,
        )?;
        let head = |name: &str| -> Result<Linear> {
            Ok(Linear {
                weight: w.matrix(name, &[c.vocab, c.hidden])?,
                bias: None,
                activations: w.activations,
            })
        };
        let head = if c.tied && w.quantised.is_none() {
            None
        } else if c.tied {
            // The rows that are looked up stay as they are; the head's products may be with a smaller copy.
            let head = head(&format!("{prefix}embed_tokens.weight"))?;
            (head.weight.stored() != embed.stored()).then_some(head)
        } else {
            Some(head(lm_head)?)
        };
        let norm = w.vector(&format!("{prefix}norm.weight"), c.hidden)?;
        Ok(Self {
            config: c.clone(),
            embed,
            layers,
            norm,
            head,
            activations: w.activations,
            rotary: Rotary::new(c),
        })
    }

    pub(crate) fn shape(&self) -> AttentionShape {
        AttentionShape {
            heads: self.config.heads,
            kv_heads: self.config.kv_heads,
            dim: self.config.head_dim,
        }
    }

    /// All matrices.
    pub(crate) fn matrices(&self) -> impl Iterator<Item = &Matrix> {
        let layers = self.layers.iter().flat_map(|l| l.matrices(true));
        std::iter::once(&self.embed)
            .chain(layers)
            .chain(self.head.as_ref().map(|h| &h.weight))
    }

    /// The matrices that a row is multiplied with: not an embedding that is only looked up, nor experts that are not
    /// chosen (which ones are does not matter here: all are of one size).
    pub(crate) fn product_matrices(&self) -> impl Iterator<Item = &Matrix> {
        let head = self.head.as_ref().map_or(&self.embed, |h| &h.weight);
        let layers = self.layers.iter().flat_map(|l| l.matrices(false));
        layers.chain([head])
    }

    /// Logits `[rows, vocab]` of some rows of the last layer's output: of one row each of requests that go on to decode,
    /// or of many of one prompt. Whether they are finite is for [`Decoder::finite`] to say.
    pub(crate) fn logits(&self, x: &[f32], phase: Phase) -> Mat {
        let c = &self.config;
        let mut h = vec![0.0; x.len()];
        rms_norm(x, &self.norm, c.norm_eps, &mut h);
        let head = self.head.as_ref().map_or(&self.embed, |h| &h.weight);
        let mut out = Mat::zeros(x.len() / c.hidden, c.vocab);
        let rows = out.rows();
        let (activations, weight) = (self.activations, head.weight());
        linear_with(
            activations,
            phase,
            &head.gathered(&h),
            rows,
            c.hidden,
            weight,
            c.vocab,
            None,
            out.data_mut(),
        );
        out
    }

    /// Refuses logits that are no numbers.
    pub(crate) fn finite(&self, logits: &[f32]) -> Result<()> {
        if ops::is_finite(logits) {
            return Ok(());
        }
        let head = self.head.as_ref().map_or(&self.embed, |h| &h.weight);
        Err(Error::NotFinite {
            place: format!("logits (tensor `{}`)", head.name()),
        })
    }

    /// Names the damaged tensor if one is; otherwise the layer in which numbers overflowed.
    pub(super) fn not_finite(&self, layer: usize) -> Error {
        let bad = self.layers[layer].matrices(true).find(|m| !m.is_finite());
        Error::NotFinite {
            place: bad.map_or_else(
                || format!("output of decoder layer {layer}"),
                |m| format!("tensor `{}`", m.name()),
            ),
        }
    }
}
