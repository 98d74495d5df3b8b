//! From logits to tokens: sampling, stop rules, the loop.

use crate::error::{Error, Result};
use crate::random::Random;
use crate::session::Stream;

/// How the next token is chosen.
#[derive(Clone, Debug)]
pub struct Sampler {
    temperature: f32,
    top_p: f32,
    random: Random,
}

impl Sampler {
    /// The most likely token, always.
    pub fn greedy() -> Self {
        Self {
            temperature: 0.0,
            top_p: 1.0,
            random: Random(0),
        }
    }

    /// Samples from the smallest set of tokens whose probability reaches `top_p`, at `temperature`; 0 is greedy.
    /// The same seed gives the same choices.
    ///
    /// # Errors
    /// A negative temperature; `top_p` outside (0, 1].
    pub fn new(temperature: f32, top_p: f32, seed: u64) -> Result<Self> {
        let bad = |key: &str, problem: String| {
            Err(Error::Setting {
                key: key.into(),
                problem,
            })
        };
        if !(temperature.is_finite() && temperature >= 0.0) {
            return bad("temperature", format!("is {temperature}, must be 0 or above"));
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            return bad("top-p", format!("is {top_p}, must be above 0 and at most 1"));
        }
        Ok(Self {
            temperature,
            top_p,
            random: Random(seed),
        })
    }

    /// Chooses a token id.
    pub fn choose(&mut self, logits: &[f32]) -> u32 {
        if self.temperature == 0.0 {
            return argmax(logits);
        }
        let scaled: Vec<f32> = logits.iter().map(|l| l / self.temperature).collect();
        let candidates = top(&scaled, scaled.len());
        let mut kept = 0.0;
        let n = candidates.iter().take_while(|(_, p)| {
            let more = kept < self.top_p;
            kept += p;
            more
        });
        let kept: Vec<_> = n.copied().collect();
        let total: f32 = kept.iter().map(|(_, p)| p).sum();
        let mut at = self.random.uniform() * total;
        for (id, p) in &kept {
            at -= p;
            if at < 0.0 {
                return *id;
            }
        }
        kept.last().map_or(0, |(id, _)| *id)
    }
}

/// The id of the largest logit; the first of equals.
pub fn argmax(logits: &[f32]) -> u32 {
    let best = logits.iter().enumerate().fold(
        (0, f32::NEG_INFINITY),
        |b, (i, l)| if *l > b.1 { (i, *l) } else { b },
    );
    best.0 as u32
}

/// The `n` most likely ids with their probabilities, most likely first.
pub fn top(logits: &[f32], n: usize) -> Vec<(u32, f32)> {
    let max = logits.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
    let sum: f64 = logits.iter().map(|l| f64::from(l - max).exp()).sum();
    let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
    let order = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    let n = n.min(ids.len());
    if n < ids.len() {
        ids.select_nth_unstable_by(n, order);
        ids.truncate(n);
    }
    ids.sort_unstable_by(order);
    ids.into_iter()
        .map(|id| (id, (f64::from(logits[id as usize] - max).exp() / sum) as f32))
        .collect()
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The model ended it.
    EndOfText,
    /// The asked number of tokens was reached.
    Length,
    /// The caller asked for no more.
    Caller,
}

/// Decodes up to `max_new` tokens after a prefill whose last logits are given. `on_token` sees each token that is
/// not an end token, and says whether to go on.
///
/// # Errors
/// As [`Stream::decode`].
pub fn generate(
    stream: &mut dyn Stream,
    logits: &[f32],
    sampler: &mut Sampler,
    end_tokens: &[u32],
    max_new: usize,
    on_token: &mut dyn FnMut(u32) -> bool,
) -> Result<Stop> {
    let mut logits = logits.to_vec();
    for made in 1..=max_new {
        let token = sampler.choose(&logits);
        if end_tokens.contains(&token) {
            return Ok(Stop::EndOfText);
        }
        if !on_token(token) {
            return Ok(Stop::Caller);
        }
        if made < max_new {
            logits = stream.decode(token)?;
        }
    }
    Ok(Stop::Length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sampling_follows_the_distribution_and_the_seed() {
        let logits = [0.0, 3f32.ln(), -50.0];
        let mut s = Sampler::new(1.0, 1.0, 7).unwrap();
        let ones = (0..4000).filter(|_| s.choose(&logits) == 1).count();
        assert!((2900..3100).contains(&ones), "{ones} of 4000 for 3/4");
        let mut nucleus = Sampler::new(1.0, 0.7, 7).unwrap();
        assert!(
            (0..100).all(|_| nucleus.choose(&logits) == 1),
            "one token already has 0.7"
        );
        let run = |seed| {
            let mut s = Sampler::new(2.0, 0.9, seed).unwrap();
            (0..50).map(|_| s.choose(&logits)).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
        assert!(Sampler::new(-1.0, 1.0, 0).is_err() && Sampler::new(1.0, 0.0, 0).is_err());
    }

    #[test]
    fn top_is_sorted_and_sums_to_one() {
        let t = top(&[1.0, 5.0, 5.0, -2.0], 3);
        assert_eq!(t.iter().map(|x| x.0).collect::<Vec<_>>(), [1, 2, 0]);
        assert!((top(&[1.0, 5.0, 5.0, -2.0], 9).iter().map(|x| x.1).sum::<f32>() - 1.0).abs() < 1e-6);
        assert_eq!(argmax(&[1.0, 5.0, 5.0]), 1);
    }
}
