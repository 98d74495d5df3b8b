//! Rotary positions of a decoder, and how they are stretched for contexts longer than those of training; the arithmetic of
//! `modeling_rope_utils` of transformers (4.57 and 5.24, which agree).

use std::f64::consts::TAU;

use crate::error::Result;
use crate::weights::json::Json;

/// How positions turn queries and keys.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// The base (`rope_theta`).
    pub theta: f64,
    /// Frequencies that follow time, height and width (`mrope_section`); `None` is plain rotary.
    pub sections: Option<[usize; 3]>,
    /// Whether the axes take turns among the frequencies (`mrope_interleaved`) instead of one section after the other.
    pub mrope_interleaved: bool,
    /// What is done for long contexts.
    pub scaling: Scaling,
}

/// What `rope_scaling` (`rope_parameters`) makes of the frequencies.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Scaling {
    /// Nothing.
    #[default]
    None,
    /// Each is divided by its own number (`rope_freqs.weight` of a GGUF file), `[D / 2]`.
    Divided(Vec<f64>),
    /// All are divided by a factor.
    Linear {
        /// The factor.
        factor: f64,
    },
    /// Slow ones are divided, fast ones are kept, between them it goes smoothly (Llama 3.1).
    Llama3 {
        /// What slow ones are divided by.
        factor: f64,
        /// Turns within the original context below which a frequency is slow.
        low: f64,
        /// Turns above which it is fast.
        high: f64,
        /// Context of the training.
        original: f64,
    },
    /// The same with a straight ramp over the number of a frequency, and longer queries and keys (YaRN, arXiv 2309.00071).
    Yarn {
        /// What slow ones are divided by.
        factor: f64,
        /// What queries and keys are multiplied with, each.
        attention: f64,
        /// Turns within the original context above which a frequency is fast (`beta_fast`), and below which it is slow
        /// (`beta_slow`).
        turns: [f64; 2],
        /// Whether the ramp begins and ends at whole numbers.
        truncate: bool,
        /// Context of the training.
        original: f64,
    },
    /// The base grows with a sequence that is longer than the original context (dynamic NTK).
    Dynamic {
        /// How many times the original context a base grown by this factor is for.
        factor: f64,
        /// Context of the training (`max_position_embeddings`).
        original: f64,
    },
}

impl Rope {
    /// Rotary frequencies `[D / 2]` of heads of `dim`, for a pass whose last position is `length - 1`. The length matters to
    /// [`Scaling::Dynamic`] alone: as in transformers, keys in cache keep the base of the pass that made them.
    pub fn frequencies(&self, dim: usize, length: f64) -> Vec<f32> {
        let theta = match self.scaling {
            Scaling::Dynamic { factor, original } => {
                let longer = factor * length.max(original) / original - (factor - 1.0);
                self.theta * longer.powf(dim as f64 / (dim as f64 - 2.0))
            }
            _ => self.theta,
        };
        let period = |i: usize| (theta as f32).powf((2 * i) as f32 / dim as f32);
        let scaled = |i: usize| {
            let frequency = 1.0 / period(i);
            match &self.scaling {
                Scaling::None | Scaling::Dynamic { .. } => frequency,
                Scaling::Divided(by) => frequency / by[i] as f32,
                Scaling::Linear { factor } => frequency / *factor as f32,
                Scaling::Llama3 {
                    factor,
                    low,
                    high,
                    original,
                } => {
                    let turns = original * f64::from(frequency) / TAU;
                    let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    (f64::from(frequency) * ((1.0 - kept) / factor + kept)) as f32
                }
                Scaling::Yarn { factor, .. } => {
                    let divided = self.ramp(dim, i);
                    1.0 / (*factor as f32 * period(i)) * divided + frequency * (1.0 - divided)
                }
            }
        };
        (0..dim / 2).map(scaled).collect()
    }

    /// How much of YaRN's frequency `i` is divided, from 0 to 1.
    fn ramp(&self, dim: usize, i: usize) -> f32 {
        let Scaling::Yarn {
            turns,
            truncate,
            original,
            ..
        } = self.scaling
        else {
            return 0.0;
        };
        // The frequency that turns so often within the original context.
        let number = |turns: f64| dim as f64 * (original / (turns * TAU)).ln() / (2.0 * self.theta.ln());
        let [mut low, mut high] = turns.map(number);
        if truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(dim as f64 - 1.0));
        if low == high {
            high += 0.001;
        }
        ((i as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0)
    }

    /// What cosines and sines are multiplied with.
    pub fn attention_factor(&self) -> f32 {
        match self.scaling {
            Scaling::Yarn { attention, .. } => attention as f32,
            _ => 1.0,
        }
    }

    /// The longest sequence of a model whose `max_position_embeddings` is `written`.
    pub(crate) fn context(&self, written: usize) -> usize {
        let stretched = match self.scaling {
            Scaling::Linear { factor } => factor * written as f64,
            Scaling::Yarn { factor, original, .. } | Scaling::Dynamic { factor, original } => {
                factor * original
            }
            _ => 0.0,
        };
        written.max(stretched.min(f64::from(1 << 24)) as usize)
    }

    /// What a decoder's configuration says: `rope_theta` and `rope_scaling`, or `rope_parameters` of transformers 5.
    /// `sections` hold where a model with three axes does not say its own.
    pub(crate) fn read(
        json: &Json,
        dim: usize,
        written: usize,
        sections: Option<[usize; 3]>,
    ) -> Result<Self> {
        let (older, newer) = (json.at("rope_scaling"), json.at("rope_parameters"));
        let rope = if older.has_fields()? || !newer.has_fields()? {
            &older
        } else {
            &newer
        };
        if let Some((key, _)) = rope.fields().find(|(_, v)| v.is_object()) {
            return Err(rope
                .at(key)
                .unsupported("rotary settings of one kind of layer are not supported; one for all is"));
        }
        let part = rope.at("partial_rotary_factor");
        if part.positive_or(1.0)? != 1.0 {
            return Err(part.unsupported(format!(
                "is {}, only 1 is supported: heads are rotated whole",
                part.positive()?
            )));
        }
        let own = json.at("rope_theta");
        let places = [rope.at("rope_theta"), own.clone(), newer.at("rope_theta")];
        let theta = places
            .iter()
            .find(|t| t.present())
            .unwrap_or(&own)
            .positive_or(10_000.0)?;
        Ok(Self {
            theta,
            sections: axes(rope, dim, sections)?,
            mrope_interleaved: rope.at("mrope_interleaved").bool_or(false)?,
            scaling: scaling(json, rope, dim, written, theta)?,
        })
    }
}

fn axes(rope: &Json, dim: usize, default: Option<[usize; 3]>) -> Result<Option<[usize; 3]>> {
    let given = rope.at("mrope_section");
    let half = dim / 2;
    let fits = |s: &[usize; 3]| s.iter().sum::<usize>() == half;
    match default {
        None if !given.present() => return Ok(None),
        Some(default) if !given.present() && fits(&default) => return Ok(Some(default)),
        _ => {}
    }
    if !given.present() {
        return Err(given.error("missing: how many frequencies follow time, height and width"));
    }
    let list = given.list()?;
    match <[usize; 3]>::try_from(list.clone()) {
        Ok(s) if fits(&s) => Ok(Some(s)),
        _ => Err(given.error(format!(
            "is {list:?}, must be three numbers with the sum head_dim / 2 = {half}"
        ))),
    }
}

/// Kinds that change no frequency; `mrope` only says that there are three axes.
const PLAIN: [&str; 2] = ["default", "mrope"];

fn scaling<'a>(json: &Json<'a>, rope: &Json<'a>, dim: usize, written: usize, theta: f64) -> Result<Scaling> {
    let (newer, older) = (rope.at("rope_type"), rope.at("type"));
    let kind = if newer.present() { &newer } else { &older };
    if !kind.present() {
        if rope.at("factor").present() {
            return Err(kind.error("missing beside a factor; yarn, for example"));
        }
        return Ok(Scaling::None);
    }
    let name = kind.str()?;
    let plain = |name: &str| PLAIN.contains(&name);
    if older.present() && older.str()? != name && !(plain(name) && plain(older.str()?)) {
        return Err(kind.error(format!(
            "is {name}, and `type` beside it is {}; one of them must go",
            older.str()?
        )));
    }
    let factor = || rope.at("factor").positive();
    // Some models write it outside; transformers prefers that.
    let original = || -> Result<f64> {
        let outside = json.at("original_max_position_embeddings");
        let inside = rope.at("original_max_position_embeddings");
        let given = if outside.present() { outside } else { inside };
        Ok(given.size_or(written)? as f64)
    };
    match name {
        _ if plain(name) => Ok(Scaling::None),
        "linear" => Ok(Scaling::Linear { factor: factor()? }),
        "dynamic" if dim <= 2 => Err(kind.error(format!("is dynamic, which needs heads of more than {dim}"))),
        "dynamic" => Ok(Scaling::Dynamic {
            factor: at_least_1(rope)?,
            original: written as f64,
        }),
        "llama3" => {
            let [low, high] = ["low_freq_factor", "high_freq_factor"].map(|key| rope.at(key).positive());
            let (low, high) = (low?, high?);
            if high <= low {
                return Err(rope.at("high_freq_factor").error("must be above low_freq_factor"));
            }
            Ok(Scaling::Llama3 {
                factor: factor()?,
                low,
                high,
                original: original()?,
            })
        }
        "yarn" => {
            if theta <= 1.0 {
                return Err(json
                    .at("rope_theta")
                    .error(format!("is {theta}, yarn needs one above 1")));
            }
            yarn(rope, written, original()?)
        }
        other => Err(kind.unsupported(format!(
            "is {other}; default, mrope, linear, dynamic, yarn and llama3 are supported"
        ))),
    }
}

fn at_least_1(rope: &Json) -> Result<f64> {
    let (field, factor) = (rope.at("factor"), rope.at("factor").positive()?);
    if factor >= 1.0 {
        return Ok(factor);
    }
    Err(field.error(format!("is {factor}, must be at least 1")))
}

fn yarn(rope: &Json, written: usize, original: f64) -> Result<Scaling> {
    let given = rope.at("factor");
    let factor = if given.present() || !rope.at("original_max_position_embeddings").present() {
        given.positive()?
    } else {
        written as f64 / original
    };
    let optional = |key: &str| -> Result<Option<f64>> {
        let field = rope.at(key);
        // Zero is as good as none.
        if field.present() && field.number()? != 0.0 {
            return field.positive().map(Some);
        }
        Ok(None)
    };
    let grown = |by: f64| {
        if factor <= 1.0 {
            1.0
        } else {
            0.1 * by * factor.ln() + 1.0
        }
    };
    let attention = rope.at("attention_factor");
    let attention = if attention.present() {
        attention.positive()?
    } else if let (Some(above), Some(below)) = (optional("mscale")?, optional("mscale_all_dim")?) {
        grown(above) / grown(below)
    } else {
        grown(1.0)
    };
    Ok(Scaling::Yarn {
        factor,
        attention,
        turns: [
            optional("beta_fast")?.unwrap_or(32.0),
            optional("beta_slow")?.unwrap_or(1.0),
        ],
        truncate: rope.at("truncate").bool_or(true)?,
        original,
    })
}
