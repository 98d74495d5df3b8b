//! Answers, whole and as streams of events.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_core::Stream;
use outro::Answer;
use serde_json::{Value, json};
use tokio::sync::mpsc::{Receiver, Sender, UnboundedReceiver, channel, unbounded_channel};
use tokio::time::{MissedTickBehavior, interval};

use super::{App, Gone, Place, Reply, body, now};
use crate::api::reply::{Told, chat_logprobs, finish, logprobs};
use crate::api::{ApiError, ChatRequest, CompletionRequest};
use crate::work::{Asked, Event, Work, explained};

/// How often an idle stream says that it is there.
const IDLE: Duration = Duration::from_secs(10);

/// Which of the two forms a reply has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Chat,
    Text,
}

impl Form {
    fn object(self, chunk: bool) -> &'static str {
        match (self, chunk) {
            (Self::Chat, false) => "chat.completion",
            (Self::Chat, true) => "chat.completion.chunk",
            (Self::Text, _) => "text_completion",
        }
    }
}

/// A request whose answers run.
struct Running {
    app: Arc<App>,
    form: Form,
    id: String,
    created: u64,
    model: String,
    asked: Asked,
    /// How many of the asks are choices; one more is the plain answer beside them.
    choices: usize,
    events: UnboundedReceiver<Event>,
    usage: bool,
    usage_with_each: bool,
    logprobs: bool,
    gone: Gone,
    _place: Place,
}

/// Sends what is to be asked to the model's thread.
fn begin(
    app: &Arc<App>,
    form: Form,
    (asked, work, model): (Asked, std::sync::mpsc::Sender<Work>, String),
    (place, gone): (Place, Gone),
    choices: usize,
    common: (bool, bool, bool),
) -> Result<Running, ApiError> {
    let (send, events) = unbounded_channel();
    let sent = work.send(Work {
        asks: asked.asks.clone(),
        cancel: gone.cancel.clone(),
        events: send,
        since: Instant::now(),
    });
    sent.map_err(|_| ApiError::busy("the model was unloaded; try again"))?;
    let prefix = if form == Form::Chat { "chatcmpl" } else { "cmpl" };
    Ok(Running {
        app: Arc::clone(app),
        form,
        id: format!("{prefix}-{}", crate::id()),
        created: now(),
        model,
        asked,
        choices,
        events,
        usage: common.0,
        usage_with_each: common.1,
        logprobs: common.2,
        gone,
        _place: place,
    })
}

/// `POST /v1/chat/completions`.
pub(super) async fn chat(State(app): State<Arc<App>>, body: Body) -> Reply {
    let value = body::json(body, &app).await?;
    let request = ChatRequest::read(&value)?;
    drop(value);
    let held = app.admit()?;
    let (cancel, common) = (held.1.cancel.clone(), request.common.clone());
    let ready = app
        .blocking(move |app| {
            let model = app.models.get(request.common.model.as_deref())?;
            let used = model.in_use();
            let asked = app.preparing.chat(&model, &request, &cancel)?;
            Ok((asked, model.work.clone(), model.name.clone(), used))
        })
        .await;
    let (asked, work, name, used) = over(ready, held)?;
    let flags = (
        common.usage,
        common.usage_with_each,
        common.choosing.logprobs.is_some(),
    );
    let running = begin(
        &app,
        Form::Chat,
        (asked, work, name),
        used,
        common.choosing.n,
        flags,
    )?;
    answer(running, common.stream).await
}

/// `POST /v1/completions`.
pub(super) async fn completion(State(app): State<Arc<App>>, body: Body) -> Reply {
    let value = body::json(body, &app).await?;
    let request = CompletionRequest::read(&value)?;
    let held = app.admit()?;
    let common = request.common.clone();
    let ready = app
        .blocking(move |app| {
            let model = app.models.get(request.common.model.as_deref())?;
            let used = model.in_use();
            let asked = app.preparing.completion(&model, &request)?;
            Ok((asked, model.work.clone(), model.name.clone(), used))
        })
        .await;
    let (asked, work, name, held) = over(ready, held)?;
    let choices = asked.asks.len();
    let flags = (
        common.usage,
        common.usage_with_each,
        common.choosing.logprobs.is_some(),
    );
    let running = begin(&app, Form::Text, (asked, work, name), held, choices, flags)?;
    answer(running, common.stream).await
}

/// What is to be asked, whom, what the model is called, and the request's place.
type Held = (Asked, std::sync::mpsc::Sender<Work>, String, (Place, Gone));
/// The same with the model kept loaded.
type Ready = (Asked, std::sync::mpsc::Sender<Work>, String, crate::work::InUse);

/// A request that failed on the way is over, and nobody went away.
fn over(ready: Result<Ready, ApiError>, (place, mut gone): (Place, Gone)) -> Result<Held, ApiError> {
    match ready {
        Ok((asked, work, name, used)) => Ok((asked, work, name, (place.with(used), gone))),
        Err(e) => {
            gone.over();
            Err(e)
        }
    }
}

async fn answer(running: Running, stream: bool) -> Reply {
    if !stream {
        return running.whole().await;
    }
    let (send, receive) = channel(64);
    tokio::spawn(async move {
        let mut running = running;
        // Whoever listens is gone: dropping the request says so to its work.
        let _ = running.stream(&send).await;
    });
    let mut response = Response::new(Body::from_stream(Events(receive)));
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream; charset=utf-8"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

/// Bytes of a stream.
struct Events(Receiver<Bytes>);

impl Stream for Events {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx).map(|piece| piece.map(Ok))
    }
}

/// Nobody reads the stream any more.
struct Closed;

impl Running {
    /// Everything in one reply.
    async fn whole(mut self) -> Reply {
        let n = self.asked.asks.len();
        let mut answers: Vec<Option<Box<Answer>>> = (0..n).map(|_| None).collect();
        let mut told: Vec<Vec<Told>> = vec![Vec::new(); n];
        while answers.iter().any(Option::is_none) {
            match self.events.recv().await {
                Some(Event::Begun) => {}
                Some(Event::Text { ask, told: more, .. }) => told[ask].extend(more),
                Some(Event::Done(ask, Ok(answer))) => answers[ask] = Some(answer),
                Some(Event::Done(_, Err(e))) => {
                    // The others of the request are of no use any more.
                    self.gone.over();
                    return Err(e);
                }
                None => return Err(ApiError::busy("the model was unloaded; try again")),
            }
        }
        self.gone.over();
        let answers: Vec<Answer> = answers.into_iter().flatten().map(|a| *a).collect();
        let choices: Vec<Value> = answers[..self.choices]
            .iter()
            .enumerate()
            .map(|(i, answer)| {
                let rest = self.rest(answer, told[i].len());
                told[i].extend(rest);
                self.choice(i, answer, &told[i])
            })
            .collect();
        let mut usage = self.asked.usage;
        usage.completion = answers[..self.choices].iter().map(|a| a.tokens).sum();
        let reply = json!({
            "id": self.id,
            "object": self.form.object(false),
            "created": self.created,
            "model": self.model,
            "choices": choices,
            "usage": usage.json(),
            "outro": self.own(&answers),
            "warnings": self.asked.warnings,
            "system_fingerprint": null,
        });
        Ok(Json(reply).into_response())
    }

    /// Tokens whose text came with the end.
    fn rest(&self, answer: &Answer, from: usize) -> Vec<Told> {
        let (Some(ids), Some(logprobs)) = (answer.ids.get(from..), answer.logprobs.get(from..)) else {
            return Vec::new();
        };
        let tokenizer = self.asked.asks.first().and_then(|a| a.engine().tokenizer().ok());
        let pairs = ids.iter().zip(logprobs);
        pairs
            .map(|(id, (logprob, top))| Told {
                token: tokenizer.map(|t| t.token(*id)).unwrap_or_default(),
                logprob: *logprob,
                top: top.clone(),
            })
            .collect()
    }

    fn choice(&self, i: usize, answer: &Answer, told: &[Told]) -> Value {
        let finish = finish(answer.finish);
        match self.form {
            Form::Chat => json!({
                "index": i,
                "message": {"role": "assistant", "content": answer.text, "refusal": null},
                "logprobs": if self.logprobs { chat_logprobs(told) } else { Value::Null },
                "finish_reason": finish,
            }),
            Form::Text => json!({
                "index": i,
                "text": answer.text,
                "logprobs": if self.logprobs { logprobs(told) } else { Value::Null },
                "finish_reason": finish,
            }),
        }
    }

    /// `outro` of a reply: what acted, the plain answer beside it, why.
    fn own(&self, answers: &[Answer]) -> Value {
        let why = |i: usize| -> Value {
            let (Some(watch), Some(answer)) = (self.asked.watches.get(i), answers.get(i)) else {
                return Value::Null;
            };
            explained(answer, watch, self.asked.spans(), &self.asked.media)
        };
        let mut own = json!({"strategy": self.asked.names.first()});
        if !self.asked.watches.is_empty() {
            own["explain"] = why(0);
        }
        if let Some(plain) = answers.get(self.choices) {
            own["compare"] = json!({
                "strategy": self.asked.names.get(self.choices),
                "text": plain.text,
                "finish_reason": finish(plain.finish),
                "completion_tokens": plain.tokens,
            });
            if !self.asked.watches.is_empty() {
                own["compare"]["explain"] = why(self.choices);
            }
        }
        own
    }

    fn chunk(&self, choices: &Value) -> Value {
        json!({
            "id": self.id,
            "object": self.form.object(true),
            "created": self.created,
            "model": self.model,
            "choices": choices,
            "system_fingerprint": null,
        })
    }

    /// A chunk with one choice.
    fn piece(&self, i: usize, text: Option<&str>, told: &[Told], end: Option<&str>) -> Value {
        let logs = |shown: Value| {
            if self.logprobs && !told.is_empty() {
                shown
            } else {
                Value::Null
            }
        };
        let choice = match self.form {
            Form::Chat => {
                let delta = text.map_or_else(|| json!({}), |t| json!({"content": t}));
                json!({"index": i, "delta": delta, "logprobs": logs(chat_logprobs(told)), "finish_reason": end})
            }
            Form::Text => {
                json!({"index": i, "text": text.unwrap_or_default(), "logprobs": logs(logprobs(told)), "finish_reason": end})
            }
        };
        self.chunk(&json!([choice]))
    }

    /// As server-sent events.
    async fn stream(&mut self, to: &Sender<Bytes>) -> Result<(), Closed> {
        if self.form == Form::Chat {
            for i in 0..self.choices {
                let first = json!([{
                    "index": i,
                    "delta": {"role": "assistant", "content": ""},
                    "logprobs": null,
                    "finish_reason": null,
                }]);
                send(to, &self.chunk(&first)).await?;
            }
        }
        let n = self.asked.asks.len();
        let mut answers: Vec<Option<Answer>> = (0..n).map(|_| None).collect();
        let (mut sent, mut tokens) = (vec![0; n], vec![0; n]);
        let mut idle = interval(IDLE);
        idle.set_missed_tick_behavior(MissedTickBehavior::Delay);
        idle.reset();
        while answers.iter().any(Option::is_none) {
            let event = tokio::select! {
                event = self.events.recv() => event,
                () = to.closed() => return Err(Closed),
                _ = idle.tick() => {
                    to.send(Bytes::from_static(b": still here\n\n")).await.map_err(|_| Closed)?;
                    continue;
                }
            };
            idle.reset();
            match event {
                Some(Event::Begun) => {}
                Some(Event::Text {
                    ask,
                    piece,
                    tokens: more,
                    told,
                }) => {
                    sent[ask] += told.len();
                    tokens[ask] += more;
                    let mut chunk = if ask < self.choices {
                        self.piece(ask, Some(&piece), &told, None)
                    } else {
                        // Whoever knows only OpenAI's fields sees a chunk without text.
                        let mut chunk = self.piece(0, None, &[], None);
                        chunk["outro"] = json!({"compare": {"delta": piece}});
                        chunk
                    };
                    if self.usage_with_each {
                        let mut usage = self.asked.usage;
                        usage.completion = tokens[..self.choices].iter().sum();
                        chunk["usage"] = usage.json();
                    }
                    send(to, &chunk).await?;
                }
                Some(Event::Done(ask, Ok(answer))) => {
                    let answer = *answer;
                    if ask < self.choices {
                        let rest = self.rest(&answer, sent[ask]);
                        if self.logprobs && !rest.is_empty() {
                            send(to, &self.piece(ask, Some(""), &rest, None)).await?;
                        }
                        // The first one's end tells what acted, and waits for the plain answer.
                        if ask > 0 || n == self.choices {
                            let mut end = self.piece(ask, None, &[], Some(finish(answer.finish)));
                            if ask == 0 && n == 1 {
                                end["outro"] = self.own(std::slice::from_ref(&answer));
                                end["warnings"] = json!(self.asked.warnings);
                            }
                            send(to, &end).await?;
                        }
                    }
                    answers[ask] = Some(answer);
                }
                Some(Event::Done(_, Err(e))) => {
                    self.gone.over();
                    return self.failed(to, &e).await;
                }
                None => {
                    self.gone.over();
                    return self
                        .failed(to, &ApiError::busy("the model was unloaded; try again"))
                        .await;
                }
            }
        }
        self.gone.over();
        let answers: Vec<Answer> = answers.into_iter().flatten().collect();
        if n > 1 {
            let end = (n > self.choices).then(|| finish(answers[0].finish));
            let mut last = self.piece(0, None, &[], end);
            last["outro"] = self.own(&answers);
            last["warnings"] = json!(self.asked.warnings);
            send(to, &last).await?;
        }
        if self.usage {
            let mut usage = self.asked.usage;
            usage.completion = answers[..self.choices].iter().map(|a| a.tokens).sum();
            let mut chunk = self.chunk(&json!([]));
            chunk["usage"] = usage.json();
            send(to, &chunk).await?;
        }
        to.send(Bytes::from_static(b"data: [DONE]\n\n"))
            .await
            .map_err(|_| Closed)
    }

    /// An error behind the headers.
    async fn failed(&self, to: &Sender<Bytes>, error: &ApiError) -> Result<(), Closed> {
        self.app.metrics.errors.add(1);
        send(to, &error.json()).await?;
        to.send(Bytes::from_static(b"data: [DONE]\n\n"))
            .await
            .map_err(|_| Closed)
    }
}

async fn send(to: &Sender<Bytes>, value: &Value) -> Result<(), Closed> {
    to.send(Bytes::from(format!("data: {value}\n\n")))
        .await
        .map_err(|_| Closed)
}
