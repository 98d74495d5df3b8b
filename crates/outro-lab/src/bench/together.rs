//! Decoding several requests in one step, against one after the other.

use std::time::Instant;

use outro::strategy::{Request, Strategy};
use outro::{Event, Stream, step};
use serde::Serialize;

use super::median;
use crate::error::Result;

/// Requests whose tokens share each pass over the weights.
#[derive(Clone, Debug, Serialize)]
pub struct Together {
    /// The strategy of each.
    pub strategies: Vec<String>,
    /// Median seconds of a step of all of them in one pass.
    pub seconds: f64,
    /// Median seconds of the same step, one request after the other.
    pub alone: f64,
    /// Median of the ratios `alone / seconds`, step by step.
    pub gain: f64,
}

/// Prefills the requests and decodes `steps` tokens each way, in alternation.
pub(super) fn together(
    strategies: &[&Strategy],
    request: &Request,
    steps: usize,
    vocab: usize,
) -> Result<Together> {
    let mut streams: Vec<Box<dyn Stream>> = Vec::new();
    for by in strategies {
        let mut stream = by.stream(request)?;
        stream.prefill(&mut |_| {})?;
        streams.push(stream);
    }
    let (mut packed, mut alone) = (Vec::new(), Vec::new());
    for n in 0..steps {
        let token = |i: usize| ((31 * n + 7 * i) % vocab.clamp(1, 1000)) as u32;
        let since = Instant::now();
        let mut fed: Vec<(&mut dyn Stream, Event)> = Vec::new();
        for (i, stream) in streams.iter_mut().enumerate() {
            fed.push((stream.as_mut(), Event::Token(token(i))));
        }
        step(&mut fed, &mut |_| {})
            .into_iter()
            .collect::<outro::Result<Vec<_>>>()?;
        packed.push(since.elapsed().as_secs_f64());
        let since = Instant::now();
        for (i, stream) in streams.iter_mut().enumerate() {
            stream.decode(token(i))?;
        }
        alone.push(since.elapsed().as_secs_f64());
    }
    let ratios: Vec<f64> = alone.iter().zip(&packed).map(|(a, p)| a / p).collect();
    Ok(Together {
        strategies: strategies.iter().map(|by| by.name.clone()).collect(),
        seconds: median(&packed),
        alone: median(&alone),
        gain: median(&ratios),
    })
}
