//! One thread a model: whatever requests there are share each pass over its weights.

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use outro::engine::Candidate;
use outro::{Answer, Ask, Batch, Cancel, Engine, Update};
use tokio::sync::mpsc::UnboundedSender;

use super::metrics::Metrics;
use crate::api::ApiError;
use crate::api::reply::Told;

/// What happens to a request.
#[derive(Debug)]
pub(crate) enum Event {
    /// Answer `ask` has begun to run: its prompt, after so long in the queue.
    Begun,
    /// Text of answer `ask`, whole characters, and its tokens where log-probabilities were asked for.
    Text {
        ask: usize,
        piece: String,
        tokens: usize,
        told: Vec<Told>,
    },
    /// Answer `ask` is complete.
    Done(usize, Result<Box<Answer>, ApiError>),
}

/// Answers that begin in the same step.
pub(crate) struct Work {
    pub(crate) asks: Vec<Ask>,
    /// Set when nobody waits any more.
    pub(crate) cancel: Cancel,
    pub(crate) events: UnboundedSender<Event>,
    pub(crate) since: Instant,
}

/// Starts the thread of an engine; it ends when nobody can send any more.
pub(crate) fn start(engine: Engine, most: usize, metrics: Arc<Metrics>) -> Sender<Work> {
    let (send, receive) = channel();
    thread::spawn(move || Worker::new(engine, most, metrics).run(&receive));
    send
}

/// Where the events of a running answer go.
struct Route {
    ask: usize,
    events: UnboundedSender<Event>,
    cancel: Cancel,
    last: Option<Instant>,
    begun: Instant,
}

struct Worker {
    engine: Engine,
    most: usize,
    metrics: Arc<Metrics>,
    batch: Batch,
    routes: BTreeMap<usize, Route>,
    waiting: VecDeque<Work>,
}

impl Worker {
    fn new(engine: Engine, most: usize, metrics: Arc<Metrics>) -> Self {
        Self {
            engine,
            most,
            metrics,
            batch: Batch::default(),
            routes: BTreeMap::new(),
            waiting: VecDeque::new(),
        }
    }

    fn run(mut self, receive: &Receiver<Work>) {
        loop {
            if self.routes.is_empty() && self.waiting.is_empty() {
                match receive.recv() {
                    Ok(work) => self.waiting.push_back(work),
                    Err(_) => return,
                }
            }
            while let Ok(work) = receive.try_recv() {
                self.waiting.push_back(work);
            }
            self.waiting.retain(|work| !work.cancel.is_set());
            self.join();
            self.tick();
        }
    }

    /// Takes in what there is room for; answers of one request begin together.
    fn join(&mut self) {
        while let Some(work) = self.waiting.front() {
            let room = self.most.saturating_sub(self.routes.len());
            if work.asks.len() > room && !self.routes.is_empty() {
                return;
            }
            let Some(work) = self.waiting.pop_front() else {
                return;
            };
            let now = Instant::now();
            self.metrics.queue_time.observe((now - work.since).as_secs_f64());
            // Nobody listening is told by `cancel`.
            let _ = work.events.send(Event::Begun);
            for (i, ask) in work.asks.into_iter().enumerate() {
                let number = self.batch.add(ask.cancelled_by(&work.cancel));
                let route = Route {
                    ask: i,
                    events: work.events.clone(),
                    cancel: work.cancel.clone(),
                    last: None,
                    begun: now,
                };
                self.routes.insert(number, route);
            }
        }
    }

    fn tick(&mut self) {
        let (routes, engine, metrics) = (&mut self.routes, &self.engine, &self.metrics);
        let batch = &mut self.batch;
        let mut on = |update: Update<'_>| {
            if let Update::Text {
                ask,
                piece,
                ids,
                logprobs,
            } = update
                && let Some(route) = routes.get_mut(&ask)
            {
                let now = Instant::now();
                match route.last.replace(now) {
                    None => metrics.first_token.observe((now - route.begun).as_secs_f64()),
                    Some(before) => metrics.between_tokens.observe((now - before).as_secs_f64()),
                }
                let text = Event::Text {
                    ask: route.ask,
                    piece: piece.to_owned(),
                    tokens: ids.len(),
                    told: told(engine, ids, logprobs),
                };
                if route.events.send(text).is_err() {
                    route.cancel.set();
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        };
        // A defect must not take the other requests' server with it.
        let over = catch_unwind(AssertUnwindSafe(|| batch.tick(&mut on)));
        let Ok(over) = over else {
            self.batch = Batch::default();
            for (_, route) in std::mem::take(&mut self.routes) {
                let defect = ApiError::new(500, "internal error: a defect of the server; please report it");
                let _ = route.events.send(Event::Done(route.ask, Err(defect)));
            }
            return;
        };
        for (number, answer) in over {
            let Some(route) = self.routes.remove(&number) else {
                continue;
            };
            let answer = answer.map(Box::new).map_err(ApiError::from);
            if let Ok(answer) = &answer {
                self.metrics.answered(answer, route.begun.elapsed());
            }
            let _ = route.events.send(Event::Done(route.ask, answer));
        }
        self.metrics.running.set(self.routes.len());
        self.metrics.waiting.set(self.waiting.len());
        if self.routes.is_empty() && !self.waiting.is_empty() {
            // Only what was cancelled is left.
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Tokens with their log-probabilities.
pub(crate) fn told(engine: &Engine, ids: &[u32], logprobs: &[(f64, Vec<Candidate>)]) -> Vec<Told> {
    let Ok(tokenizer) = engine.tokenizer() else {
        return Vec::new();
    };
    let pairs = ids.iter().zip(logprobs);
    pairs
        .map(|(id, (logprob, top))| Told {
            token: tokenizer.token(*id),
            logprob: *logprob,
            top: top.clone(),
        })
        .collect()
}
