//! From logits to a token, as transformers' processors do it and in their order: repetition penalty, temperature, top-k,
//! top-p, min-p; behind the first of these the penalties and biases of OpenAI's API.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use crate::run::random::Random;
use crate::spec::generation::Sampling;

/// Chooses the tokens of one answer.
#[derive(Clone, Debug)]
pub struct Sampler {
    settings: Sampling,
    /// Ids of the prompt and of the answer so far, where a penalty wants to know them.
    seen: BTreeSet<u32>,
    /// How often the answer has each token, where a penalty wants to know it.
    said: BTreeMap<u32, u32>,
    random: Random,
}

impl Sampler {
    /// The most likely token, always.
    pub fn greedy() -> Self {
        Self::new(Sampling::default(), &[])
    }

    /// Chooses by `settings` after the ids of a prompt, placeholders of media included. Where a strategy mixes the logits of
    /// several passes, they are those that [`Sampler::choose`] is given.
    pub fn new(settings: Sampling, prompt: &[u32]) -> Self {
        let penalty = settings.repetition_penalty != 1.0;
        let seen = prompt.iter().copied().filter(|_| penalty).collect();
        let random = Random(settings.seed);
        Self {
            settings,
            seen,
            said: BTreeMap::new(),
            random,
        }
    }

    /// Chooses a token id, and remembers it.
    pub fn choose(&mut self, logits: &[f32]) -> u32 {
        let token = if self.settings.do_sample {
            let mut at = f64::from(self.random.uniform());
            let candidates = self.probabilities(logits);
            let found = candidates.iter().find(|(_, p)| {
                at -= p;
                at < 0.0
            });
            found.or(candidates.last()).map_or(0, |c| c.0)
        } else {
            argmax(&self.penalised(logits))
        };
        if self.settings.repetition_penalty != 1.0 {
            self.seen.insert(token);
        }
        if self.settings.presence_penalty != 0.0 || self.settings.frequency_penalty != 0.0 {
            *self.said.entry(token).or_default() += 1;
        }
        token
    }

    /// The ids that can be drawn and their probabilities, likeliest first.
    pub fn probabilities(&self, logits: &[f32]) -> Vec<(u32, f64)> {
        let s = &self.settings;
        let scores: Vec<f32> = self.penalised(logits).iter().map(|l| l / s.temperature).collect();
        let mut ids: Vec<u32> = (0..scores.len() as u32).collect();
        let score = |id: &u32| scores[*id as usize];
        if s.top_k > 0 && s.top_k < ids.len() {
            let mut order = scores.clone();
            let (_, least, _) = order.select_nth_unstable_by(s.top_k - 1, |a, b| b.total_cmp(a));
            // Equals of the last one stay.
            ids.retain(|id| score(id) >= *least);
        }
        ids.sort_unstable_by(|a, b| score(b).total_cmp(&score(a)).then(a.cmp(b)));
        let most = ids.first().map_or(0.0, score);
        let mut kept: Vec<(u32, f64)> = ids
            .into_iter()
            .map(|id| (id, f64::from(score(&id) - most).exp()))
            .collect();
        if s.top_p < 1.0 {
            let enough = f64::from(s.top_p) * kept.iter().map(|c| c.1).sum::<f64>();
            let mut before = 0.0;
            let of_set = kept.iter().take_while(|(_, weight)| {
                let wanted = before < enough;
                before += weight;
                wanted
            });
            kept.truncate(of_set.count());
        }
        // The likeliest has the weight 1.
        kept.retain(|(_, weight)| *weight >= f64::from(s.min_p));
        let sum: f64 = kept.iter().map(|c| c.1).sum();
        for c in &mut kept {
            c.1 /= sum;
        }
        kept
    }

    fn penalised<'a>(&self, logits: &'a [f32]) -> Cow<'a, [f32]> {
        let s = &self.settings;
        if self.seen.is_empty() && self.said.is_empty() && s.logit_bias.is_empty() {
            return logits.into();
        }
        let (mut logits, penalty) = (logits.to_vec(), s.repetition_penalty);
        for id in &self.seen {
            if let Some(l) = logits.get_mut(*id as usize) {
                *l = if *l < 0.0 { *l * penalty } else { *l / penalty };
            }
        }
        let said = self.said.iter().map(|(id, times)| {
            let penalty = s.presence_penalty + s.frequency_penalty * *times as f32;
            (*id, -penalty)
        });
        for (id, more) in said.chain(s.logit_bias.iter().copied()) {
            if let Some(l) = logits.get_mut(id as usize) {
                *l += more;
            }
        }
        logits.into()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(temperature: f32, top_p: f32, seed: u64) -> Sampler {
        let settings = Sampling {
            do_sample: true,
            temperature,
            top_p,
            seed,
            ..Sampling::default()
        };
        Sampler::new(settings, &[])
    }

    #[test]
    fn sampling_follows_the_distribution_and_the_seed() {
        let logits = [0.0, 3f32.ln(), -50.0];
        let mut s = drawn(1.0, 1.0, 7);
        let ones = (0..4000).filter(|_| s.choose(&logits) == 1).count();
        assert!((2900..3100).contains(&ones), "{ones} of 4000 for 3/4");
        let mut nucleus = drawn(1.0, 0.7, 7);
        assert!(
            (0..100).all(|_| nucleus.choose(&logits) == 1),
            "one token already has 0.7"
        );
        let run = |seed| {
            let mut s = drawn(2.0, 0.9, seed);
            (0..50).map(|_| s.choose(&logits)).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn a_penalty_counts_the_prompt_and_what_was_chosen() {
        let settings = Sampling {
            repetition_penalty: 2.0,
            ..Sampling::default()
        };
        // Ids beyond the vocabulary are nobody's.
        let mut s = Sampler::new(settings, &[0, 9]);
        let logits = [5.0, 4.0, 3.0, -1.0];
        assert_eq!([0; 4].map(|_| s.choose(&logits)), [1, 2, 0, 0]);
        assert_eq!(Sampler::greedy().choose(&logits), 0);
    }

    #[test]
    fn impossible_tokens_are_never_drawn() {
        let mut s = drawn(1.0, 1.0, 3);
        let none = f32::NEG_INFINITY;
        assert!((0..200).all(|_| [1, 3].contains(&s.choose(&[none, 1.0, none, 1.0]))));
    }
}
