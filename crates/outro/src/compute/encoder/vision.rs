//! The vision tower: attention over the patches of each frame, in windows or whole, with positions that are learned or
//! turn, and a merger of `merge x merge` patches into one token. What a family's tower has is data ([`VisionConfig`]).

use outro_kernels::{AttentionShape, Mask, attend, rotate_half};

use super::arrange::arrange;
use super::block::{Mlp, Norm};
use crate::compute::nn::ops::{self, picture};
use crate::compute::nn::{GatedMlp, Linear, Mat, Scratch, Weights};
use crate::error::{Error, Result};
use crate::spec::anyres::TokenLayout;
use crate::spec::config::{Activation, Merger, Names, VisionConfig, Windows};
use crate::weights::checkpoint::Matrix;

pub(crate) struct VisionTower {
    config: VisionConfig,
    patch: Linear,
    /// Learned positions `[side * side, hidden]`, row by row.
    positions: Option<Matrix>,
    blocks: Vec<Block>,
    /// After the last block.
    norm: Option<Norm>,
    merge: Mlp,
    /// What makes tokens of the rows behind some of the blocks.
    deepstack: Vec<Deep>,
    /// Ends a row of tokens, where pictures go through in parts.
    newline: Vec<f32>,
}

struct Block {
    norm1: Norm,
    qkv: Projections,
    proj: Linear,
    norm2: Norm,
    mlp: BlockMlp,
}

/// A merger whose norm spans the patches of a token.
struct Deep {
    block: usize,
    norm: Norm,
    merge: Mlp,
}

/// Query, key and value projections: one matrix or three, by family.
enum Projections {
    Fused(Linear),
    Separate(Box<[Linear; 3]>),
}

enum BlockMlp {
    Gated(Box<GatedMlp>),
    Plain(Box<Mlp>),
}

/// Patches that go through the tower at once: whole frames, at least one.
pub(crate) const PATCHES: usize = 8192;

impl VisionTower {
    pub(crate) fn load(w: Weights, names: &Names, c: &VisionConfig) -> Result<Self> {
        let (h, prefix, n) = (c.hidden, names.vision, &c.names);
        let norm = |name: &str| Norm::load(w, name, h, c.norm, c.norm_eps);
        let blocks = (0..c.depth)
            .map(|i| {
                let p = format!("{prefix}{}{i}.", n.blocks);
                let one = |n: &str| w.linear(&format!("{p}{n}"), h, h, true);
                let qkv = match n.qkv {
                    [q, k, v] => Projections::Separate(Box::new([one(q)?, one(k)?, one(v)?])),
                    fused => {
                        let name = format!("{p}{}", fused.first().unwrap_or(&""));
                        Projections::Fused(w.linear(&name, 3 * h, h, true)?)
                    }
                };
                let mlp = match n.mlp {
                    [up, down] => BlockMlp::Plain(Box::new(Mlp::new(
                        w.linear(&format!("{p}{up}"), c.intermediate, h, true)?,
                        w.linear(&format!("{p}{down}"), h, c.intermediate, true)?,
                        c.activation,
                    ))),
                    gated => {
                        let name = format!("{p}{}", gated.first().unwrap_or(&""));
                        BlockMlp::Gated(Box::new(GatedMlp::load(w, &name, h, c.intermediate, true)?))
                    }
                };
                Ok(Block {
                    norm1: norm(&format!("{p}{}", n.norms[0]))?,
                    qkv,
                    proj: w.linear(&format!("{p}{}", n.proj), h, h, true)?,
                    norm2: norm(&format!("{p}{}", n.norms[1]))?,
                    mlp,
                })
            })
            .collect::<Result<_>>()?;
        let (from, middle) = match c.merger {
            Merger::Concat => (h * c.merge * c.merge, h * c.merge * c.merge),
            Merger::Mean => (h, c.out),
        };
        let merge = |prefix: &str| -> Result<Mlp> {
            let [up, down] = n.merge.map(|n| format!("{prefix}{n}"));
            let (up, down) = (
                w.linear(&up, middle, from, true)?,
                w.linear(&down, c.out, middle, true)?,
            );
            Ok(Mlp::new(up, down, Activation::Gelu))
        };
        let deepstack = c.deepstack.iter().enumerate().map(|(i, block)| {
            let prefix = format!("{prefix}{}{i}.", n.deepstack[0]);
            let name = format!("{prefix}{}", n.deepstack[1]);
            Ok(Deep {
                block: *block,
                norm: Norm::load(w, &name, from, c.norm, c.norm_eps)?,
                merge: merge(&prefix)?,
            })
        });
        let mut kernel = vec![h, c.channels, c.temporal, c.patch, c.patch];
        if c.temporal == 1 {
            kernel.remove(2);
        }
        let positions = c.positions.map(|side| {
            let name = format!("{prefix}{}.weight", n.positions);
            w.matrix(&name, &[side * side, h])
        });
        Ok(Self {
            patch: w.linear_shaped(&format!("{prefix}{}", n.patch), &kernel, c.patch_bias)?,
            positions: positions.transpose()?,
            blocks,
            norm: (!n.norm.is_empty())
                .then(|| norm(&format!("{prefix}{}", n.norm)))
                .transpose()?,
            newline: match &c.anyres {
                Some(tiles) => w.vector(tiles.newline, c.out)?,
                None => Vec::new(),
            },
            merge: merge(names.merger)?,
            deepstack: deepstack.collect::<Result<_>>()?,
            config: c.clone(),
        })
    }

    pub(crate) fn matrices(&self) -> impl Iterator<Item = &Matrix> {
        let blocks = self.blocks.iter().flat_map(|b| {
            let mut all: Vec<&Linear> = match &b.qkv {
                Projections::Fused(l) => vec![l],
                Projections::Separate(l) => l.iter().collect(),
            };
            all.push(&b.proj);
            match &b.mlp {
                BlockMlp::Gated(m) => all.extend([&m.gate, &m.up, &m.down]),
                BlockMlp::Plain(m) => all.extend([&m.up, &m.down]),
            }
            all
        });
        let mergers = std::iter::once(&self.merge).chain(self.deepstack.iter().map(|d| &d.merge));
        std::iter::once(&self.patch)
            .chain(mergers.flat_map(|m| [&m.up, &m.down]))
            .chain(blocks)
            .map(|l| &l.weight)
            .chain(&self.positions)
    }

    /// Multiplications and additions that an image or video of this grid takes at least.
    pub(crate) fn operations(&self, [t, h, w]: [usize; 3], merge: usize) -> f64 {
        let size = |m: &Matrix| (m.rows() * m.cols()) as f64;
        let mergers = std::iter::once(&self.merge).chain(self.deepstack.iter().map(|d| &d.merge));
        let merge_size: f64 = mergers
            .flat_map(|m| [&m.up, &m.down])
            .map(|l| size(&l.weight))
            .sum();
        let table = self.positions.iter().map(size).sum::<f64>();
        let rest = self.matrices().map(size).sum::<f64>() - merge_size - table;
        let layout = FrameLayout::new(&self.config, merge, h, w);
        let (patches, unit) = ((t * h * w) as f64, layout.unit as f64);
        let starts = std::iter::once(&0).chain(&layout.ends);
        let windows = starts
            .zip(&layout.ends)
            .map(|(a, b)| ((b - a) as f64 * unit).powi(2));
        let windows = windows.sum::<f64>() * t as f64;
        let whole = |i: usize| {
            self.config
                .windows
                .as_ref()
                .is_none_or(|w| w.full_blocks.contains(&i))
        };
        let pairs = (0..self.config.depth).map(|i| {
            if whole(i) {
                patches * (h * w) as f64
            } else {
                windows
            }
        });
        let attention = 4.0 * self.config.hidden as f64 * pairs.sum::<f64>();
        2.0 * (patches * rest + patches / unit * merge_size) + attention
    }

    /// Patches `[t * h * w, channels * temporal * patch^2]` of one image or video to its tokens, where the
    /// `merge x merge` patches of a token follow each other. Frames never attend to each other, so they go through in
    /// groups. Behind the tokens come those of each merger of `VisionConfig::deepstack`. `progress` receives the patches
    /// done.
    pub(crate) fn forward(
        &self,
        pixels: &[f32],
        grid: [usize; 3],
        merge: usize,
        tokens: &TokenLayout,
        progress: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<Vec<Mat>> {
        let [frames, h, w] = grid;
        let frame = h * w * self.patch.weight.cols();
        let group = (PATCHES / (h * w)).max(1);
        let mut run = self.begin([h, w], merge)?;
        for (i, pixels) in pixels.chunks(frame * group).enumerate() {
            run.push(pixels);
            progress(((i + 1) * group).min(frames) * h * w)?;
        }
        run.finish(tokens)
    }

    /// Begins with a picture or video whose frames have this many patches down and across.
    pub(crate) fn begin(&self, [h, w]: [usize; 2], merge: usize) -> Result<TowerRun<'_>> {
        let layout = FrameLayout::new(&self.config, merge, h, w);
        Ok(TowerRun {
            positions: self.positions_of(&layout)?,
            all: vec![Mat::empty(self.config.out); 1 + self.deepstack.len()],
            layout,
            tower: self,
        })
    }

    fn culprit(&self) -> String {
        let bad = self.matrices().find(|m| !m.is_finite());
        bad.map_or_else(
            || "output of the vision tower (or its pixels)".into(),
            |m| format!("tensor `{}`", m.name()),
        )
    }

    /// Each patch's learned position, in the order in which the tower gets patches; empty where there are none.
    fn positions_of(&self, layout: &FrameLayout) -> Result<Vec<f32>> {
        let (Some(table), Some(side)) = (&self.positions, self.config.positions) else {
            return Ok(Vec::new());
        };
        let [h, w] = layout.grid;
        if self.config.anyres.is_some() && [h, w] != [side; 2] {
            let problem = format!("holds pictures of {h} x {w} patches, this model takes {side} x {side}");
            return Err(Error::input("pixel_values", problem));
        }
        let mut all = vec![0.0; side * side * self.config.hidden];
        table.all(&mut all);
        let merge = layout.unit.isqrt();
        if [h, w] != [side; 2] || merge > 1 {
            all = picture::resampled(&all, side, layout.grid, merge);
        }
        Ok(all)
    }

    fn group(&self, pixels: &[f32], frames: usize, layout: &FrameLayout, positions: &[f32]) -> Vec<Mat> {
        let c = &self.config;
        let (unit, patches) = (layout.unit, layout.order.len() * layout.unit);
        let mut embedded = self.patch.forward(pixels);
        if !positions.is_empty() {
            ops::add_to_each(positions, embedded.data_mut());
        }
        // Tokens in window order, each with its merge x merge patches.
        let mut x = picture::to_order(&embedded, frames, &layout.order, unit);
        drop(embedded);
        let (cos, sin) = (
            ops::repeated(&layout.cos, frames),
            ops::repeated(&layout.sin, frames),
        );
        let windows: Vec<usize> = std::iter::once(0)
            .chain((0..frames).flat_map(|f| layout.ends.iter().map(move |e| f * patches + e * unit)))
            .collect();
        let whole: Vec<usize> = (0..=frames).map(|f| f * patches).collect();
        let shape = AttentionShape {
            heads: c.heads,
            kv_heads: c.heads,
            dim: c.hidden / c.heads,
        };
        let in_order = |merged: &Mat| picture::from_order(merged, frames, &layout.order);
        let mut deep = Vec::new();
        let mut scratch = Scratch::default();
        for (i, block) in self.blocks.iter().enumerate() {
            scratch.h.reshape(x.rows(), c.hidden);
            block.norm1.forward_into(x.data(), scratch.h.data_mut());
            block.qkv.forward_into(&mut scratch);
            let Scratch { h, q, k, v, o, .. } = &mut scratch;
            if c.rotary {
                rotate_half(q.data_mut(), c.heads, shape.dim, &cos, &sin);
                rotate_half(k.data_mut(), c.heads, shape.dim, &cos, &sin);
            }
            let bounds = if c.windows.as_ref().is_none_or(|w| w.full_blocks.contains(&i)) {
                &whole
            } else {
                &windows
            };
            let mask = Mask::Segments(bounds);
            attend(q.data(), k.data(), v.data(), shape, mask, h.data_mut());
            block.proj.forward_into(h.data(), o);
            outro_kernels::add(x.data_mut(), o.data());
            match &block.mlp {
                BlockMlp::Gated(mlp) => {
                    mlp.add_to(
                        x.data_mut(),
                        0,
                        &block.norm2.weight,
                        block.norm2.eps,
                        &mut scratch,
                    );
                }
                BlockMlp::Plain(mlp) => mlp.add_to(&mut x, &block.norm2, &mut scratch),
            }
            for d in self.deepstack.iter().filter(|d| d.block == i) {
                deep.push(in_order(&d.merge.forward(&d.norm.forward(x.data()))));
            }
        }
        let h = match &self.norm {
            Some(norm) => norm.forward(x.data()),
            None => x.into_data(),
        };
        let merged = match c.merger {
            Merger::Concat => self.merge.forward(&h),
            Merger::Mean => self.merge.forward(&picture::means(&h, c.hidden, unit)),
        };
        std::iter::once(in_order(&merged)).chain(deep).collect()
    }
}

/// A picture or video on its way through the tower.
pub(crate) struct TowerRun<'a> {
    tower: &'a VisionTower,
    layout: FrameLayout,
    positions: Vec<f32>,
    all: Vec<Mat>,
}

impl TowerRun<'_> {
    /// Runs further whole frames; those of a group of at most [`PATCHES`] come together.
    pub(crate) fn push(&mut self, pixels: &[f32]) {
        let [h, w] = self.layout.grid;
        let frame = h * w * self.tower.patch.weight.cols();
        let made = self
            .tower
            .group(pixels, pixels.len() / frame, &self.layout, &self.positions);
        for (out, made) in self.all.iter_mut().zip(made) {
            out.append(made);
        }
    }

    /// What [`VisionTower::forward`] gives of all frames.
    pub(crate) fn finish(self, tokens: &TokenLayout) -> Result<Vec<Mat>> {
        let tower = self.tower;
        if !self.all.iter().all(|m| ops::is_finite(m.data())) {
            return Err(Error::NotFinite {
                place: tower.culprit(),
            });
        }
        let side = self.layout.grid[0];
        let arranged = self.all.into_iter();
        Ok(arranged
            .map(|m| arrange(m, tokens, side, &tower.newline))
            .collect())
    }
}

impl Projections {
    /// Queries, keys and values of `scratch.h`.
    fn forward_into(&self, scratch: &mut Scratch) {
        let Scratch { h, q, k, v, gate, .. } = scratch;
        match self {
            Self::Separate(l) => {
                for (l, to) in l.iter().zip([q, k, v]) {
                    l.forward_into(h.data(), to);
                }
            }
            Self::Fused(l) => {
                l.forward_into(h.data(), gate);
                ops::split_in_three(gate, [q, k, v]);
            }
        }
    }
}

/// The order of a frame's tokens by attention window, and the rotary angles of its patches in that order.
struct FrameLayout {
    /// Patches down and across.
    grid: [usize; 2],
    /// Patches of a token.
    unit: usize,
    /// Token (in grid order) at each place of the window order.
    order: Vec<usize>,
    /// Where each window ends, in tokens.
    ends: Vec<usize>,
    /// `[patches, D / 2]`: half the frequencies follow the row, half the column. Empty where nothing turns.
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl FrameLayout {
    fn new(c: &VisionConfig, merge: usize, h: usize, w: usize) -> Self {
        let (rows, cols) = (h / merge, w / merge);
        let window = match &c.windows {
            Some(Windows { side, .. }) => side / merge / c.patch,
            None => rows.max(cols),
        };
        let (mut order, mut ends) = (Vec::with_capacity(rows * cols), Vec::new());
        for r0 in (0..rows).step_by(window) {
            for c0 in (0..cols).step_by(window) {
                for r in r0..(r0 + window).min(rows) {
                    order.extend((c0..(c0 + window).min(cols)).map(|col| r * cols + col));
                }
                ends.push(order.len());
            }
        }
        let mut this = Self {
            grid: [h, w],
            unit: merge * merge,
            order,
            ends,
            cos: Vec::new(),
            sin: Vec::new(),
        };
        if c.rotary {
            this.angles(c.hidden / c.heads / 4, merge, cols);
        }
        this
    }

    fn angles(&mut self, quarter: usize, merge: usize, cols: usize) {
        let inverse: Vec<f32> = (0..quarter)
            .map(|i| 1.0 / 10000f32.powf(i as f32 / quarter as f32))
            .collect();
        for token in &self.order {
            for patch in 0..merge * merge {
                let row = token / cols * merge + patch / merge;
                let col = token % cols * merge + patch % merge;
                for at in [row, col] {
                    self.cos.extend(inverse.iter().map(|f| (at as f32 * f).cos()));
                    self.sin.extend(inverse.iter().map(|f| (at as f32 * f).sin()));
                }
            }
        }
    }
}
