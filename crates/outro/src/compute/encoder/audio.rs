//! The audio tower: a Whisper-style encoder that works in chunks of `2 * n_window` mel frames, what makes its rows of the
//! frames, and what makes tokens of its rows.

use std::ops::Range;

use outro_kernels::{AttentionShape, Mask, attend, gelu};

use super::AUDIO_NORM_EPS;
use super::block::{Mlp, Norm};
use super::conv2d::Conv2dStem;
use super::qformer::QFormer;
use crate::compute::nn::ops::{self, sound};
use crate::compute::nn::{Linear, Mat, Scratch, Weights};
use crate::error::{Error, Result};
use crate::spec::config::{Activation, AudioConfig, AudioProjector, Norm as Kind};
use crate::weights::checkpoint::Matrix;

pub(crate) struct AudioTower {
    config: AudioConfig,
    stem: Stem,
    layers: Vec<Layer>,
    norm: Norm,
    head: Projector,
    /// Sinusoids `[rows of a chunk, d_model]`, or what the checkpoint has.
    positions: Vec<f32>,
}

/// What makes rows of mel frames.
enum Stem {
    /// Convolutions over time, the second of stride 2.
    Conv1d(Box<[Linear; 2]>),
    Conv2d(Box<Conv2dStem>),
}

/// What makes tokens of the encoder's rows.
enum Projector {
    /// Means of pairs, projected.
    AvgPool2(Linear),
    QFormer(Box<QFormer>),
    /// A token a row.
    Linear(Box<Mlp>),
}

struct Layer {
    norm1: Norm,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    norm2: Norm,
    mlp: Mlp,
}

/// Chunks that go through the tower at once, or as many more as attention sees together.
const CHUNKS: usize = 16;

impl Layer {
    fn linears(&self) -> [&Linear; 6] {
        [&self.q, &self.k, &self.v, &self.o, &self.mlp.up, &self.mlp.down]
    }
}

impl AudioTower {
    pub(crate) fn load(w: Weights, prefix: &str, c: &AudioConfig) -> Result<Self> {
        let d = c.hidden;
        let layer_norm = |prefix: &str, width| Norm::load(w, prefix, width, Kind::Layer, AUDIO_NORM_EPS);
        let planes = match c.projector {
            AudioProjector::Linear { channels, .. } => Some(channels),
            _ => None,
        };
        let layers = (0..c.layers)
            .map(|i| {
                let p = format!("{prefix}layers.{i}.");
                let a = format!("{p}self_attn.");
                Ok(Layer {
                    norm1: layer_norm(&format!("{p}self_attn_layer_norm"), d)?,
                    q: w.linear(&format!("{a}q_proj"), d, d, true)?,
                    k: w.linear(&format!("{a}k_proj"), d, d, planes.is_some())?,
                    v: w.linear(&format!("{a}v_proj"), d, d, true)?,
                    o: w.linear(&format!("{a}out_proj"), d, d, true)?,
                    norm2: layer_norm(&format!("{p}final_layer_norm"), d)?,
                    mlp: Mlp::new(
                        w.linear(&format!("{p}fc1"), c.intermediate, d, true)?,
                        w.linear(&format!("{p}fc2"), d, c.intermediate, true)?,
                        Activation::Gelu,
                    ),
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            stem: match planes {
                Some(channels) => {
                    Stem::Conv2d(Box::new(Conv2dStem::load(w, prefix, channels, c.mel_bins, d)?))
                }
                None => Stem::Conv1d(Box::new([
                    w.linear_shaped(&format!("{prefix}conv1"), &[d, c.mel_bins, 3], true)?,
                    w.linear_shaped(&format!("{prefix}conv2"), &[d, d, 3], true)?,
                ])),
            },
            layers,
            norm: match c.projector {
                AudioProjector::QFormer(_) => layer_norm(&format!("{prefix}layer_norm"), d)?,
                _ => layer_norm(&format!("{prefix}ln_post"), d)?,
            },
            head: match &c.projector {
                AudioProjector::AvgPool2 => {
                    Projector::AvgPool2(w.linear(&format!("{prefix}proj"), c.out, d, true)?)
                }
                AudioProjector::QFormer(q) => Projector::QFormer(Box::new(QFormer::load(w, prefix, c, q)?)),
                AudioProjector::Linear { .. } => Projector::Linear(Box::new(Mlp::new(
                    w.linear(&format!("{prefix}proj1"), d, d, true)?,
                    w.linear(&format!("{prefix}proj2"), c.out, d, true)?,
                    Activation::Gelu,
                ))),
            },
            positions: if let AudioProjector::QFormer(_) = c.projector {
                w.table(&format!("{prefix}embed_positions.weight"), &[c.n_window, d])?
            } else {
                sound::sinusoids(c.rows(2 * c.n_window), d)
            },
            config: c.clone(),
        })
    }

    pub(crate) fn matrices(&self) -> impl Iterator<Item = &Matrix> {
        let layers = self.layers.iter().flat_map(Layer::linears);
        let (lines, planes) = match &self.stem {
            Stem::Conv1d(l) => (l.as_slice(), None),
            Stem::Conv2d(p) => (&[][..], Some(p)),
        };
        let (last, queries) = match &self.head {
            Projector::AvgPool2(proj) => (vec![proj], None),
            Projector::QFormer(queries) => (Vec::new(), Some(queries)),
            Projector::Linear(mlp) => (vec![&mlp.up, &mlp.down], None),
        };
        lines
            .iter()
            .chain(last)
            .chain(layers)
            .map(|l| &l.weight)
            .chain(planes.into_iter().flat_map(|p| p.matrices()))
            .chain(queries.into_iter().flat_map(|q| q.matrices()))
    }

    /// Multiplications and additions that an audio of so many mel frames takes at least.
    pub(crate) fn operations(&self, frames: usize) -> f64 {
        let c = &self.config;
        let size = |l: &Linear| (l.weight.rows() * l.weight.cols()) as f64;
        let whole = frames / (2 * c.n_window);
        let rows = (whole * c.rows(2 * c.n_window) + c.rows(frames % (2 * c.n_window))) as f64;
        let stem = match &self.stem {
            Stem::Conv1d(l) => frames as f64 * size(&l[0]) + rows * size(&l[1]),
            Stem::Conv2d(p) => p.products(frames, c.mel_bins),
        };
        let head = match &self.head {
            Projector::AvgPool2(proj) => rows / 2.0 * size(proj),
            Projector::QFormer(q) => {
                let sizes = q.matrices().map(|m| (m.rows() * m.cols()) as f64);
                c.tokens(frames) as f64 * sizes.sum::<f64>()
            }
            Projector::Linear(mlp) => rows * (size(&mlp.up) + size(&mlp.down)),
        };
        let layers = self.layers.iter().flat_map(Layer::linears);
        let seen = (c.rows(2 * c.n_window) * self.together()) as f64;
        let pairs = (rows / seen).floor() * seen * seen + (rows % seen).powi(2);
        let attention = 4.0 * (c.hidden * c.layers) as f64 * pairs;
        2.0 * (stem + head + rows * layers.map(size).sum::<f64>()) + attention
    }

    /// Log-mel `[mel_bins, frames]` of one audio to tokens `[tokens(frames), out]`. `longest` is the frames of the longest
    /// audio of the request; `progress` receives the frames done.
    pub(crate) fn forward(
        &self,
        mel: &[f32],
        longest: usize,
        progress: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<Mat> {
        let c = &self.config;
        let frames = mel.len() / c.mel_bins;
        let chunk = 2 * c.n_window;
        let group = chunk * CHUNKS.next_multiple_of(self.together());
        let mut x = Mat::empty(c.hidden);
        for start in (0..frames).step_by(group) {
            let range = start..frames.min(start + group);
            let end = range.end;
            let rows = match &self.stem {
                Stem::Conv1d(lines) => self.lines(lines, mel, frames, range),
                Stem::Conv2d(planes) => {
                    // The reference fills all chunks of a request up to the longest, and their ends see that.
                    let length = longest.min(chunk);
                    let mut made = Mat::empty(c.hidden);
                    for start in range.step_by(chunk) {
                        let part = start..end.min(start + chunk);
                        made.append(planes.forward(mel, frames, part, length));
                    }
                    made
                }
            };
            x.append(self.layers(rows));
            progress(end)?;
        }
        let out = match &self.head {
            Projector::QFormer(queries) => {
                queries.forward(&self.norm.forward(x.data()), c.hidden, c.n_window)
            }
            Projector::Linear(mlp) => mlp.forward(&self.norm.forward(x.data())),
            Projector::AvgPool2(proj) => {
                let pooled = sound::means_of_pairs(&x, c.tokens(frames));
                proj.forward(&self.norm.forward(pooled.data()))
            }
        };
        if ops::is_finite(out.data()) {
            Ok(out)
        } else {
            Err(Error::NotFinite {
                place: self.culprit(),
            })
        }
    }

    fn culprit(&self) -> String {
        let bad = self.matrices().find(|m| !m.is_finite());
        bad.map_or_else(
            || "output of the audio tower (or its mel)".into(),
            |m| format!("tensor `{}`", m.name()),
        )
    }

    /// Chunks that attention sees together.
    fn together(&self) -> usize {
        match self.config.projector {
            AudioProjector::Linear { chunks, .. } => chunks,
            _ => 1,
        }
    }

    /// Convolutions over time, of chunks of `2 * n_window` frames: nothing crosses a chunk's ends.
    fn lines(&self, [conv1, conv2]: &[Linear; 2], mel: &[f32], frames: usize, range: Range<usize>) -> Mat {
        let chunk = 2 * self.config.n_window;
        // Each convolution is a product with its unfolded input; columns are (channel, tap) as in its kernel.
        let mut wide = conv1.forward(&sound::unfolded_mel(mel, frames, range, chunk));
        gelu(wide.data_mut());
        let mut x = conv2.forward(&sound::unfolded_rows(&wide, chunk));
        gelu(x.data_mut());
        x
    }

    /// Positions and attention layers over the rows of whole chunks, of which the last may be cut off.
    fn layers(&self, mut x: Mat) -> Mat {
        let c = &self.config;
        let rows = c.rows(2 * c.n_window);
        ops::add_to_each(&self.positions[..rows * c.hidden], x.data_mut());
        let bounds: Vec<usize> = (0..x.rows())
            .step_by(rows * self.together())
            .chain([x.rows()])
            .collect();
        let shape = AttentionShape {
            heads: c.heads,
            kv_heads: c.heads,
            dim: c.hidden / c.heads,
        };
        let mut scratch = Scratch::default();
        for layer in &self.layers {
            let Scratch { h, q, k, v, o, .. } = &mut scratch;
            h.reshape(x.rows(), c.hidden);
            layer.norm1.forward_into(x.data(), h.data_mut());
            for (l, to) in [(&layer.q, &mut *q), (&layer.k, &mut *k), (&layer.v, &mut *v)] {
                l.forward_into(h.data(), to);
            }
            let mask = Mask::Segments(&bounds);
            attend(q.data(), k.data(), v.data(), shape, mask, h.data_mut());
            layer.o.forward_into(h.data(), o);
            outro_kernels::add(x.data_mut(), o.data());
            layer.mlp.add_to(&mut x, &layer.norm2, &mut scratch);
        }
        x
    }
}
