//! The Qwen2.5 vision tower: window and full attention over the patches of each frame, two-dimensional rotary
//! embedding, and a merger of `merge x merge` patches into one token.

use outro_kernels::{AttentionShape, Mask, attend, gelu, rms_norm, rotate_half};

use super::VISION_NORM_EPS;
use crate::checkpoint::Matrix;
use crate::config::VisionConfig;
use crate::error::{Error, Result};
use crate::nn::{GatedMlp, Linear, Mat, Space, Weights};

pub(crate) struct VisionTower {
    config: VisionConfig,
    patch: Linear,
    blocks: Vec<Block>,
    merge_norm: Vec<f32>,
    merge_in: Linear,
    merge_out: Linear,
}

struct Block {
    norm1: Vec<f32>,
    qkv: Projections,
    proj: Linear,
    norm2: Vec<f32>,
    mlp: GatedMlp,
}

/// Query, key and value projections: one matrix or three, by family.
enum Projections {
    Fused(Linear),
    Separate(Box<[Linear; 3]>),
}

/// Patches that go through the tower at once: whole frames, at least one.
const PATCHES: usize = 8192;

impl VisionTower {
    pub(crate) fn load(w: Weights, prefix: &str, c: &VisionConfig) -> Result<Self> {
        let h = c.hidden;
        let blocks = (0..c.depth)
            .map(|i| {
                let p = format!("{prefix}blocks.{i}.");
                let qkv = if c.fused_qkv {
                    Projections::Fused(w.linear(&format!("{p}attn.qkv"), 3 * h, h, true)?)
                } else {
                    let one = |n: &str| w.linear(&format!("{p}attn.{n}"), h, h, true);
                    Projections::Separate(Box::new([one("q")?, one("k")?, one("v")?]))
                };
                Ok(Block {
                    norm1: w.vector(&format!("{p}norm1.weight"), h)?,
                    qkv,
                    proj: w.linear(&format!("{p}attn.proj"), h, h, true)?,
                    norm2: w.vector(&format!("{p}norm2.weight"), h)?,
                    mlp: GatedMlp::load(w, &format!("{p}mlp"), h, c.intermediate, true)?,
                })
            })
            .collect::<Result<_>>()?;
        let wide = h * c.merge * c.merge;
        Ok(Self {
            patch: w.linear_shaped(
                &format!("{prefix}patch_embed.proj"),
                &[h, c.channels, c.temporal, c.patch, c.patch],
                false,
            )?,
            blocks,
            merge_norm: w.vector(&format!("{prefix}merger.ln_q.weight"), h)?,
            merge_in: w.linear(&format!("{prefix}merger.mlp.0"), wide, wide, true)?,
            merge_out: w.linear(&format!("{prefix}merger.mlp.2"), c.out, wide, true)?,
            config: c.clone(),
        })
    }

    pub(crate) fn matrices(&self) -> impl Iterator<Item = &Matrix> {
        let blocks = self.blocks.iter().flat_map(|b| {
            let qkv: Vec<&Linear> = match &b.qkv {
                Projections::Fused(l) => vec![l],
                Projections::Separate(l) => l.iter().collect(),
            };
            qkv.into_iter()
                .chain([&b.proj, &b.mlp.gate, &b.mlp.up, &b.mlp.down])
        });
        [&self.patch, &self.merge_in, &self.merge_out]
            .into_iter()
            .chain(blocks)
            .map(|l| &l.weight)
    }

    /// Patches `[t * h * w, channels * temporal * patch^2]` of one image or video to tokens
    /// `[t * h * w / merge^2, out]`. Frames never attend to each other, so they go through in groups.
    /// `progress` receives the patches done.
    pub(crate) fn forward(
        &self,
        pixels: &[f32],
        grid: [usize; 3],
        progress: &mut dyn FnMut(usize),
    ) -> Result<Mat> {
        let [frames, h, w] = grid;
        let frame = h * w * self.patch.weight.cols();
        let group = (PATCHES / (h * w)).max(1);
        let layout = FrameLayout::new(&self.config, h, w);
        let mut out = Mat {
            cols: self.config.out,
            data: Vec::new(),
        };
        for (i, pixels) in pixels.chunks(frame * group).enumerate() {
            out.data
                .extend(self.group(pixels, pixels.len() / frame, &layout).data);
            progress(((i + 1) * group).min(frames) * h * w);
        }
        if out.is_finite() {
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
            || "output of the vision tower (or its pixels)".into(),
            |m| format!("tensor `{}`", m.name()),
        )
    }

    fn group(&self, pixels: &[f32], frames: usize, layout: &FrameLayout) -> Mat {
        let c = &self.config;
        let (unit, patches) = (c.merge * c.merge, layout.order.len() * c.merge * c.merge);
        let embedded = self.patch.forward(pixels);
        // Tokens in window order, each with its merge x merge patches.
        let mut x = Mat::zeros(frames * patches, c.hidden);
        let width = unit * c.hidden;
        for f in 0..frames {
            let (to, from) = (
                &mut x.data[f * patches * c.hidden..],
                &embedded.data[f * patches * c.hidden..],
            );
            for (to, token) in to.chunks_exact_mut(width).zip(&layout.order) {
                to.copy_from_slice(&from[token * width..(token + 1) * width]);
            }
        }
        drop(embedded);
        let repeat = |v: &[f32]| -> Vec<f32> { (0..frames).flat_map(|_| v).copied().collect() };
        let (cos, sin) = (repeat(&layout.cos), repeat(&layout.sin));
        let windows: Vec<usize> = std::iter::once(0)
            .chain((0..frames).flat_map(|f| layout.ends.iter().map(move |e| f * patches + e * unit)))
            .collect();
        let whole: Vec<usize> = (0..=frames).map(|f| f * patches).collect();
        let shape = AttentionShape {
            heads: c.heads,
            kv_heads: c.heads,
            dim: c.hidden / c.heads,
        };
        let mut space = Space::default();
        for (i, block) in self.blocks.iter().enumerate() {
            let mut h = vec![0.0; x.data.len()];
            rms_norm(&x.data, &block.norm1, VISION_NORM_EPS, &mut h);
            let (mut q, mut k, v) = block.qkv.forward(&h, c.hidden);
            rotate_half(&mut q.data, c.heads, shape.dim, &cos, &sin);
            rotate_half(&mut k.data, c.heads, shape.dim, &cos, &sin);
            let bounds = if c.full_blocks.contains(&i) {
                &whole
            } else {
                &windows
            };
            attend(&q.data, &k.data, &v.data, shape, Mask::Segments(bounds), &mut h);
            outro_kernels::add(&mut x.data, &block.proj.forward(&h).data);
            block
                .mlp
                .add_to(&mut x, &block.norm2, VISION_NORM_EPS, &mut space);
        }
        let mut h = vec![0.0; x.data.len()];
        rms_norm(&x.data, &self.merge_norm, VISION_NORM_EPS, &mut h);
        let mut wide = self.merge_in.forward(&h);
        gelu(&mut wide.data);
        let merged = self.merge_out.forward(&wide.data);
        let mut out = Mat::zeros(merged.rows(), c.out);
        let tokens = layout.order.len();
        for f in 0..frames {
            for (i, token) in layout.order.iter().enumerate() {
                out.row_mut(f * tokens + token)
                    .copy_from_slice(merged.row(f * tokens + i));
            }
        }
        out
    }
}

impl Projections {
    fn forward(&self, x: &[f32], hidden: usize) -> (Mat, Mat, Mat) {
        match self {
            Self::Separate(l) => (l[0].forward(x), l[1].forward(x), l[2].forward(x)),
            Self::Fused(l) => {
                let all = l.forward(x);
                let part = |i: usize| Mat {
                    cols: hidden,
                    data: all
                        .data
                        .chunks_exact(3 * hidden)
                        .flat_map(|r| &r[i * hidden..(i + 1) * hidden])
                        .copied()
                        .collect(),
                };
                (part(0), part(1), part(2))
            }
        }
    }
}

/// The order of a frame's tokens by attention window, and the rotary angles of its patches in that order.
struct FrameLayout {
    /// Token (in grid order) at each place of the window order.
    order: Vec<usize>,
    /// Where each window ends, in tokens.
    ends: Vec<usize>,
    /// `[patches, D / 2]`: half the frequencies follow the row, half the column.
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl FrameLayout {
    fn new(c: &VisionConfig, h: usize, w: usize) -> Self {
        let (rows, cols) = (h / c.merge, w / c.merge);
        let window = c.window / c.merge / c.patch;
        let (mut order, mut ends) = (Vec::with_capacity(rows * cols), Vec::new());
        for r0 in (0..rows).step_by(window) {
            for c0 in (0..cols).step_by(window) {
                for r in r0..(r0 + window).min(rows) {
                    order.extend((c0..(c0 + window).min(cols)).map(|col| r * cols + col));
                }
                ends.push(order.len());
            }
        }
        let quarter = c.hidden / c.heads / 4;
        let inverse: Vec<f32> = (0..quarter)
            .map(|i| 1.0 / 10000f32.powf(i as f32 / quarter as f32))
            .collect();
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        for token in &order {
            for patch in 0..c.merge * c.merge {
                let row = token / cols * c.merge + patch / c.merge;
                let col = token % cols * c.merge + patch % c.merge;
                for at in [row, col] {
                    cos.extend(inverse.iter().map(|f| (at as f32 * f).cos()));
                    sin.extend(inverse.iter().map(|f| (at as f32 * f).sin()));
                }
            }
        }
        Self {
            order,
            ends,
            cos,
            sin,
        }
    }
}
