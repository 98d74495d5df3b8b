//! `outro chat`: a conversation in the terminal.

use std::io::{self, BufRead, IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;

use outro::chat::{Conversation, Part, Role, Turn};
use outro::prepare::MediaOptions;
use outro::strategy::Strategy;
use outro::{Answer, Engine, MediaSet, OutRoConfig};

use super::ask::{emit, run, spent};
use crate::args::Chat;
use crate::shell::sampling::{self, Chosen};
use crate::shell::{media, source, weights};
use crate::ui::Ui;

const HELP: &str = "\
/video FILE, /image FILE, /audio FILE   shown with your next line
/strategy NAME                          how to answer from now on: baseline, outro:gamma=2, ...
/media                                  what was shown so far
/reset                                  forget the conversation
/quit                                   leave (so does the end of input)
";

/// Talks until the end of input.
pub(crate) fn chat(args: &Chat, ui: &Ui) -> anyhow::Result<()> {
    let source = source::choose(&args.model, ui)?;
    let preparer = source.preparer()?;
    media::tokenizer(&preparer, &source.dir)?;
    let chosen = sampling::settle(&args.sampled, &preparer, ui)?;
    let by = source::strategies(&args.strategies, &preparer, &source, ui)?.remove(0);
    let method = source::method_of(&preparer, &source, &args.strategies.outro)?;
    let options = media::options(&args.media.reading, &preparer);
    source::introduce(&source, None, ui);
    let model = weights(&source, &args.weights, ui)?;
    let engine = Engine::of(&source.dir, preparer, model, args.weights.kv)?;
    let none = engine.media(&[])?;
    let mut talk = Talk {
        engine,
        chosen,
        by,
        method,
        options,
        conversation: Conversation {
            system: args.system.clone(),
            ..Conversation::default()
        },
        seen: none,
        next: args.media.parts.clone(),
        ui,
    };
    let asks = io::stdin().is_terminal();
    if asks {
        ui.note("/help lists commands, /quit leaves");
    }
    let mut lines = io::stdin().lock().lines();
    if let Some(first) = &args.first
        && talk.line(first)?.is_break()
    {
        return Ok(());
    }
    loop {
        if asks {
            prompt()?;
        }
        let Some(line) = lines.next() else { break };
        match talk.line(line?.trim()) {
            Ok(ControlFlow::Continue(())) => {}
            Ok(ControlFlow::Break(())) => break,
            // At a terminal there is somebody to try again.
            Err(e) if asks && !crate::fault::is_broken_pipe(&e) => ui.note(&crate::fault::line(&e)),
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn prompt() -> io::Result<()> {
    let mut out = io::stderr().lock();
    out.write_all(b"> ").and_then(|()| out.flush())
}

struct Talk<'a> {
    engine: Engine,
    chosen: Chosen,
    by: Strategy,
    /// What `outro` means here: the checkpoint's settings, and what was typed.
    method: OutRoConfig,
    options: MediaOptions,
    /// What was said; `user` is empty between turns.
    conversation: Conversation,
    /// Media of all turns so far.
    seen: MediaSet,
    /// Media of the next turn.
    next: Vec<Part>,
    ui: &'a Ui,
}

impl Talk<'_> {
    fn line(&mut self, line: &str) -> anyhow::Result<ControlFlow<()>> {
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        let file = || -> anyhow::Result<PathBuf> {
            if rest.is_empty() {
                anyhow::bail!("{word} wants a file");
            }
            Ok(PathBuf::from(rest))
        };
        match word {
            "" => {}
            "/help" => emit(HELP)?,
            "/quit" | "/exit" => return Ok(ControlFlow::Break(())),
            "/reset" => {
                self.conversation.history.clear();
                self.next.clear();
                self.seen = self.engine.media(&[])?;
            }
            "/video" => self.show(Part::Video(file()?.into()))?,
            "/image" => self.show(Part::Image(file()?.into()))?,
            "/audio" => self.show(Part::Audio(file()?.into()))?,
            "/media" => {
                for part in self.seen.parts().iter().chain(&self.next) {
                    let (Part::Video(p) | Part::Image(p) | Part::Audio(p)) = part else {
                        continue;
                    };
                    emit(&format!("{}\n", p.display()))?;
                }
            }
            "/strategy" => {
                let model = &self.engine.model().config().text;
                self.by = Strategy::of_model(rest, &self.method, model)?;
            }
            command if command.starts_with('/') => anyhow::bail!("{command} is no command; /help lists them"),
            _ => self.say(line)?,
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Refuses a file that cannot be shown at once, not with the next line.
    fn show(&mut self, part: Part) -> anyhow::Result<()> {
        let plan = self
            .engine
            .preparer()
            .plan_media(std::iter::once(&part), &self.options)?;
        plan.check()?;
        self.next.push(part);
        Ok(())
    }

    fn say(&mut self, words: &str) -> anyhow::Result<()> {
        let mut turn = self.next.clone();
        turn.push(Part::Text(words.to_owned()));
        let asked = Conversation {
            user: turn.clone(),
            ..self.conversation.clone()
        };
        // Whether a picture is alone, and how long the longest sound is, change how media are looked at: all of them anew.
        let media = if self.next.is_empty() {
            self.seen.clone()
        } else {
            let plan = media::plan(
                self.engine.preparer(),
                std::slice::from_ref(&asked),
                &self.options,
            )?;
            media::read(&self.engine, plan, &self.options, self.ui)?
        };
        let answer = self.answer(&media, asked)?;
        emit("\n")?;
        spent(&answer, self.ui);
        // The turn counts once it was answered.
        let turns = [
            (Role::User, turn),
            (Role::Assistant, vec![Part::Text(answer.text)]),
        ];
        let turns = turns.into_iter().map(|(role, content)| Turn { role, content });
        self.conversation.history.extend(turns);
        self.seen = media;
        self.next.clear();
        Ok(())
    }

    fn answer(&self, media: &MediaSet, asked: Conversation) -> anyhow::Result<Answer> {
        let ask = self
            .engine
            .chat(media, asked)
            .sampling(self.chosen.sampling.clone())
            .max_new(self.chosen.max_new_tokens);
        Ok(run(&ask, std::slice::from_ref(&self.by), &mut emit, self.ui)?.remove(0))
    }
}
