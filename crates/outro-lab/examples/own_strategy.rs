//! A strategy of one's own, scored through the lab beside the known ones: a pass over the prompt against a pass that hardly
//! hears and sees. It has a hook and a stream, and no line of the crates knows it.
//! `cargo run -p outro-lab --example own_strategy [MODEL DATA]`; DATA in the form of AVHBench, as `outro synth` writes it.
#![expect(clippy::print_stdout, reason = "an example shows its result")]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use outro::hook::{At, Hook, Needs, NewQkv};
use outro::positions::Span;
use outro::strategy::{Hooks, Request, Strategy, keep_plausible, mix};
use outro::{EngineOptions, Event, Feed, Next, Prompt, Session, Stream};
use outro_lab::log::{FORM, Header, Log};
use outro_lab::report::{Report, report};
use outro_lab::run::{Ablation, Answerer, Engine, Runner, run};
use outro_lab::task::{Profile, Task};
use serde_json::json;

/// The hook: values of media tokens shrink, so that they are attended to and say little.
struct Faint {
    media: Vec<bool>,
    scale: f32,
}

impl Hook for Faint {
    fn needs(&self, at: At) -> Needs {
        Needs {
            qkv: at.prefill,
            ..Needs::default()
        }
    }

    fn qkv(&mut self, at: At, new: &mut NewQkv) -> outro::Result<()> {
        let rows = new.v.chunks_exact_mut(at.shape.kv_heads * at.shape.dim);
        for (row, values) in rows.enumerate() {
            if self.media[at.position(row)] {
                for x in values {
                    *x *= self.scale;
                }
            }
        }
        Ok(())
    }
}

/// The stream: two sessions, and how their logits are mixed. It says what is to be run; the engine runs it.
struct Against {
    prompt: Arc<Prompt>,
    clear: Session,
    faint: Session,
    alpha: f32,
}

impl Against {
    fn new(alpha: f32, scale: f32, request: &Request, hooks: &Hooks) -> Self {
        let media = request.prompt.spans.iter().map(|s| *s != Span::Text).collect();
        let mut more = hooks();
        more.push(Box::new(Faint { media, scale }));
        Self {
            prompt: Arc::clone(&request.prompt),
            clear: request.session(hooks()),
            faint: request.session(more),
            alpha,
        }
    }
}

impl Stream for Against {
    fn next(&mut self, event: Event) -> outro::Result<Next> {
        Ok(match event {
            Event::Begin => Next::each(0..2, &Feed::Prompt(Arc::clone(&self.prompt))),
            Event::Token(token) => Next::each(0..2, &Feed::Token(token)),
            Event::Logits(made) => {
                let mut mixed = mix(&[(1.0 + self.alpha, &made[0]), (-self.alpha, &made[1])]);
                keep_plausible(&mut mixed, &made[0], 0.1);
                Next::Logits(mixed)
            }
        })
    }

    fn session(&self) -> &Session {
        &self.clear
    }

    fn sessions(&self) -> Vec<&Session> {
        vec![&self.clear, &self.faint]
    }

    fn sessions_mut(&mut self) -> Vec<&mut Session> {
        vec![&mut self.clear, &mut self.faint]
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let given: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let scores = match given.as_slice() {
        [model, data] => scores(model, data)?,
        _ => scores(
            &root().join("models/outro-tiny"),
            &root().join("fixtures/world/avhbench"),
        )?,
    };
    println!("{}", scores.markdown());
    Ok(())
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The plain model, the strategy, and the strategy with OutRo in both passes, on the questions of a directory.
fn scores(dir: &Path, data: &Path) -> Result<Report, Box<dyn Error>> {
    let engine = outro::Engine::open(dir, EngineOptions::default())?;
    let (preparer, base) = (engine.preparer(), engine.method());
    let own = |name: &str, hooks: &str| -> outro::Result<Strategy> {
        let settings = json!({"faint": {"alpha": 0.5, "scale": 0.1}});
        let hooks = Strategy::parse(hooks, base)?;
        Ok(hooks.with_custom(name, settings, |request, hooks| {
            Ok(Box::new(Against::new(0.5, 0.1, request, hooks)))
        }))
    };
    let strategies = vec![
        Strategy::parse("baseline", base)?,
        own("faint", "baseline")?,
        own("faint+outro", "outro")?,
    ];

    let profile = Profile::named(preparer.settings().profile.as_deref())?;
    let loaded = Task::named("avhbench")?.load(data, profile)?;
    let header = Header {
        outro_eval: FORM,
        version: "example".into(),
        task: "avhbench".into(),
        split: None,
        present: false,
        questions_sha256: loaded.sha256.clone(),
        questions: loaded.samples.len(),
        shard: None,
        profile: profile.name.into(),
        profile_sha256: profile.sha256("avhbench"),
        parser: profile.parser.name().into(),
        readout: "text".into(),
        answerer: None,
        model: dir.display().to_string(),
        weights: "auto".into(),
        strategies: strategies.clone(),
        ablation: "none".into(),
        media: json!(null),
        max_new_tokens: 4,
    };
    let file = std::env::temp_dir().join(format!("own-strategy-{}.jsonl", std::process::id()));
    let (mut log, mut rows) = Log::open(&file, &header)?;
    let runner = Runner {
        answerer: Answerer::Engine(Engine {
            engine: engine.clone(),
            max_new_tokens: 4,
        }),
        options: preparer.media_options(),
        ablation: Ablation::None,
        told: ToString::to_string,
        parser: profile.parser,
        by_logits: false,
    };
    let wanted = &mut |_: &_| strategies.clone();
    run(&runner, &loaded.samples, wanted, &mut log, &mut rows, &mut |_| {})?;
    drop(log);
    std::fs::remove_file(&file)?;
    Ok(report(&header, &rows))
}

#[cfg(test)]
#[test]
fn it_is_scored_beside_the_plain_model() {
    let report = scores(
        &root().join("models/outro-tiny"),
        &root().join("fixtures/world/avhbench"),
    )
    .unwrap();
    let [plain, faint, both] = report.results.as_slice() else {
        panic!("three strategies")
    };
    for result in [plain, faint, both] {
        let all = &result.all;
        assert!(
            all.total > 0 && all.failed == 0 && result.unanswered == 0,
            "{}",
            result.strategy
        );
    }
    assert!(faint.paired.is_some() && both.paired.is_some());
}
