//! Which tensors each layout has, and of which types and shapes they are.

use super::scheme::{MlxForm, Scheme};
use super::{CompressedPart, FLOATS, Form, Part, Place, Shape};
use crate::error::{Error, Result};

const WORDS: &[&str] = &["I32", "U32"];
/// Before the name of the table's type in bitsandbytes' files.
pub(super) const STATE: &str = "weight.quant_state.bitsandbytes__";

impl Place<'_> {
    fn key(&self, part: &str) -> String {
        format!("{}.{part}", self.stem)
    }

    fn holds(&self, part: &str) -> bool {
        self.checkpoint.tensors.contains_key(&self.key(part))
    }

    fn part(&self, part: &str, types: &'static [&'static str], shape: &[usize]) -> Part {
        Part::of(self.key(part), types, shape)
    }

    /// A layout that config.json does not speak of.
    fn unspoken(&self, part: &str, wanted: &str) -> Error {
        let says = self
            .checkpoint
            .scheme
            .as_ref()
            .map_or("does not speak of quantisation", Scheme::name);
        self.checkpoint.wrong(
            &self.key(part),
            &format!("is of {wanted}, and config.json says otherwise ({says}); fetch the config.json of these weights"),
        )
    }

    /// Which layout it is, and its tensors, that with the codes first.
    pub(super) fn form(&self) -> Result<Option<(Form, Vec<Part>)>> {
        let (rows, cols) = (self.rows, self.cols);
        let scheme = self.checkpoint.scheme.as_ref();
        if self.holds("qweight") {
            return match scheme {
                Some(Scheme::Awq { group }) => Ok(Some(self.awq(group.unwrap_or(cols)))),
                Some(Scheme::Gptq { bits, group, second }) => {
                    Ok(Some(self.gptq(*bits, group.unwrap_or(cols), *second)))
                }
                _ => Err(self.unspoken("qweight", "AWQ or GPTQ")),
            };
        }
        if self.holds("weight_packed") {
            let Some(Scheme::Compressed(parts)) = scheme else {
                return Err(self.unspoken("weight_packed", "compressed-tensors"));
            };
            return Ok(Some(self.words(parts)));
        }
        let Some(info) = self.checkpoint.tensors.get(&self.key("weight")) else {
            return Ok(None);
        };
        if self.holds("weight.absmax") {
            return Ok(Some(self.four()));
        }
        match info.dtype.as_str() {
            "I8" if self.holds("SCB") => {
                let parts = vec![
                    self.part("weight", &["I8"], &[rows, cols]),
                    self.part("SCB", FLOATS, &[rows]),
                ];
                Ok(Some((Form::Eight, parts)))
            }
            "U32" if self.holds("scales") => {
                let Some(Scheme::Mlx { of_all, of_layers }) = scheme else {
                    return Err(self.unspoken("weight", "MLX"));
                };
                let stem = info.name.strip_suffix(".weight").unwrap_or(&info.name);
                let MlxForm { bits, group } = *of_layers.get(stem).unwrap_or(of_all);
                let shape = [rows, cols.div_ceil(group)];
                let parts = vec![
                    self.part("weight", &["U32"], &[rows, (cols * bits).div_ceil(32)]),
                    self.part("scales", FLOATS, &shape),
                    self.part("biases", FLOATS, &shape),
                ];
                Ok(Some((Form::Mlx { bits, group }, parts)))
            }
            "F8_E4M3" | "I8" => Ok(self.eight(&info.dtype, scheme)),
            _ => Ok(None),
        }
    }

    fn awq(&self, group: usize) -> (Form, Vec<Part>) {
        let (n, k, groups) = (self.rows, self.cols, self.cols.div_ceil(group));
        let parts = vec![
            self.part("qweight", WORDS, &[k, n.div_ceil(8)]),
            self.part("qzeros", WORDS, &[groups, n.div_ceil(8)]),
            self.part("scales", FLOATS, &[groups, n]),
        ];
        (Form::Awq { group }, parts)
    }

    fn gptq(&self, bits: usize, group: usize, second: bool) -> (Form, Vec<Part>) {
        let (n, k, groups) = (self.rows, self.cols, self.cols.div_ceil(group));
        let words = |n: usize| (n * bits).div_ceil(32);
        let mut parts = vec![
            self.part("qweight", WORDS, &[words(k), n]),
            self.part("qzeros", WORDS, &[groups, words(n)]),
            self.part("scales", FLOATS, &[groups, n]),
        ];
        if self.holds("g_idx") {
            parts.push(self.part("g_idx", &["I32"], &[k]));
        }
        (Form::Gptq { bits, group, second }, parts)
    }

    /// `weight_packed`: of the configuration's groups the one whose shapes are those of the file.
    fn words(&self, of: &[CompressedPart]) -> (Form, Vec<Part>) {
        let (n, k) = (self.rows, self.cols);
        let layouts = of.iter().filter(|p| !p.float).map(|p| {
            let group = p.group.unwrap_or(k);
            let groups = k.div_ceil(group);
            let words = |n: usize| (n * p.bits).div_ceil(32);
            let mut parts = vec![
                self.part("weight_packed", WORDS, &[n, words(k)]),
                self.part("weight_scale", FLOATS, &[n, groups]),
            ];
            if self.holds("weight_zero_point") || !p.symmetric {
                parts.push(self.part("weight_zero_point", WORDS, &[words(n), groups]));
            }
            if self.holds("weight_g_idx") {
                parts.push(self.part("weight_g_idx", &["I32"], &[k]));
            }
            if self.holds("weight_shape") {
                parts.push(self.part("weight_shape", &["I64", "I32"], &[2]));
            }
            (Form::Words { bits: p.bits, group }, parts)
        });
        let fits = |(_, parts): &(Form, Vec<Part>)| {
            parts.iter().all(|p| {
                self.checkpoint
                    .tensors
                    .get(&p.key)
                    .is_some_and(|info| p.bent(info).is_none())
            })
        };
        let mut all: Vec<_> = layouts.collect();
        let first = all.iter().position(fits).unwrap_or(0);
        if all.is_empty() {
            // The configuration speaks of floats alone: the tensor is not what it says.
            let parts = vec![self.part("weight_packed", &["F8_E4M3"], &[n, k])];
            return (Form::Words { bits: 4, group: k }, parts);
        }
        all.swap_remove(first)
    }

    /// Floats and integers of 8 bits with scales beside them.
    fn eight(&self, dtype: &str, scheme: Option<&Scheme>) -> Option<(Form, Vec<Part>)> {
        let (n, k) = (self.rows, self.cols);
        let scale = ["weight_scale_inv", "weight_scale"]
            .into_iter()
            .find(|s| self.holds(s))?;
        let float = dtype == "F8_E4M3";
        let mut shapes = vec![vec![n, 1], vec![1], vec![], vec![1, 1], vec![n]];
        let mut block = None;
        let mut blocks = |size: [usize; 2], first: bool| {
            let shape = vec![n.div_ceil(size[0]), k.div_ceil(size[1])];
            let there = self.checkpoint.tensors.get(&self.key(scale));
            if there.is_some_and(|info| info.shape == shape) {
                block = Some(size);
            }
            if first {
                shapes.insert(0, shape);
            } else {
                shapes.push(shape);
            }
        };
        match scheme {
            Some(Scheme::Fp8 { block: Some(size) }) => blocks(*size, true),
            Some(Scheme::Compressed(parts)) => {
                for part in parts.iter().filter(|p| p.float == float) {
                    if let Some(size) = part.block.or(part.group.map(|g| [1, g])) {
                        blocks(size, true);
                    }
                }
            }
            _ => {}
        }
        let mut parts = vec![
            self.part("weight", if float { &["F8_E4M3"] } else { &["I8"] }, &[n, k]),
            Part {
                key: self.key(scale),
                types: FLOATS,
                shape: Shape::Of(shapes),
            },
        ];
        if self.holds("weight_zero_point") {
            let scales = self.checkpoint.tensors.get(&self.key(scale));
            let shape = scales.map(|info| info.shape.clone()).unwrap_or_default();
            parts.push(self.part("weight_zero_point", if float { &[] } else { &["I8"] }, &shape));
        }
        Some((Form::Bytes { float, scale, block }, parts))
    }

    fn four(&self) -> (Form, Vec<Part>) {
        let elements = self.rows * self.cols;
        let state = |kind: &str| format!("{STATE}{kind}");
        let fp4 = self.holds(&state("fp4"));
        let nested = self.holds("weight.nested_absmax");
        let any = |part: &str, types| Part {
            key: self.key(part),
            types,
            shape: Shape::Any,
        };
        let codes = Shape::Bytes(elements.div_ceil(2));
        let mut parts = vec![
            Part {
                key: self.key("weight"),
                types: &[],
                shape: codes,
            },
            any("weight.absmax", if nested { &["U8"] } else { &["F32"] }),
            self.part("weight.quant_map", &["F32"], &[16]),
            any(&state(if fp4 { "fp4" } else { "nf4" }), &["U8"]),
        ];
        if nested {
            parts.push(any("weight.nested_absmax", &["F32"]));
            parts.push(self.part("weight.nested_quant_map", &["F32"], &[256]));
        }
        (Form::Four { nested, fp4 }, parts)
    }
}
