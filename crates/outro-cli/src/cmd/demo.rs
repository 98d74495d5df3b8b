//! `outro demo`: a clip of the synthetic world, three questions, baseline and OutRo side by side.

use std::fmt::Write as _;
use std::fs;
use std::ops::ControlFlow;
use std::time::Instant;

use anyhow::Context;
use outro::chat::Part;
use outro::generate::Sampling;
use outro::prepare::{self, MediaOptions, Preparer};
use outro::{Answer, Dtype, Engine, KvType, answer_all};
use outro_lab::synth::{Clip, FPS, Level, Needs, Question, SLOTS, Task};
use outro_lab::task::Profile;
use outro_media::{VideoToWrite, write_mp4};

use super::ask::emit;
use crate::args::Demo;
use crate::shell::{encode, media, source};
use crate::ui::Ui;

/// Shows it.
pub(crate) fn run(args: &Demo, ui: &Ui) -> anyhow::Result<()> {
    let since = Instant::now();
    let mut chosen = args.model.clone();
    chosen.model.get_or_insert_with(|| source::TINY.to_owned());
    let source = source::open(&chosen, ui)?;
    let preparer = source.preparer()?;
    media::tokenizer(&preparer, &source.dir)?;
    let (clip, questions) = draw(args.seed);
    let options = MediaOptions {
        media: outro_media::Options {
            worker: std::env::current_exe().ok(),
            ..outro_media::Options::default()
        },
        ..preparer.media_options()
    };
    let (loaded, place) = load(args, &clip, &preparer, &options)?;
    let model = source.model(Dtype::Auto)?;
    let engine = Engine::of(&source.dir, preparer, model, KvType::F32)?;
    emit(&format!("{place}\n{}\n", story(&clip)))?;
    let profile = Profile::named(engine.preparer().settings().profile.as_deref())?;
    let media = encode(&engine, loaded, ui)?;
    for question in questions {
        let ask = engine.ask(&media, &question.prompt(profile));
        let ask = ask.sampling(Sampling::default()).max_new(8);
        let by = |name: &str| ask.clone().strategy(name);
        let asks = [by("baseline")?, by("outro")?];
        let made = answer_all(&asks, &mut |_| ControlFlow::Continue(()));
        let answers: Vec<Answer> = made.into_iter().collect::<outro::Result<_>>()?;
        let choices: Vec<String> = question.choices().iter().map(|c| format!("    {c}")).collect();
        let mut text = format!(
            "\n{}\n{}\n  truth     {}\n",
            question.text,
            choices.join("\n"),
            question.words()
        );
        for (name, answer) in ["baseline", "OutRo"].into_iter().zip(&answers) {
            let sure = answer
                .first_token_top5
                .first()
                .map_or(0.0, |c| c.probability * 100.0);
            // Writing to a String cannot fail.
            let _ = writeln!(text, "  {name:<8}  {:<16} ({sure:.1} % sure)", answer.text.trim());
        }
        emit(&text)?;
    }
    ui.note(&format!("{:.1} s in all", since.elapsed().as_secs_f64()));
    Ok(())
}

/// The first clip of the seed about which a question on the picture, one on the sound and one on both can be asked.
fn draw(seed: u64) -> (Clip, Vec<Question>) {
    let mut index = 0;
    loop {
        let clip = Clip::draw(seed, index, Level::Simple);
        let find = |task: Task, needs: Needs| {
            clip.questions
                .iter()
                .find(|q| q.task == task && q.needs == needs)
                .cloned()
        };
        let chosen = [
            find(Task::Sequence, Needs::Picture),
            find(Task::Counting, Needs::Sound),
            find(Task::Alignment, Needs::Both),
        ];
        // More than one clip in ten has all three, so this ends.
        if let [Some(a), Some(b), Some(c)] = chosen {
            return (clip, vec![a, b, c]);
        }
        index += 1;
    }
}

/// The clip through a file, as any video; where there is no ffmpeg to write one, straight from memory.
fn load(
    args: &Demo,
    clip: &Clip,
    preparer: &Preparer,
    options: &MediaOptions,
) -> anyhow::Result<(prepare::DecodedMedia, String)> {
    let samples = clip.samples();
    if args.out.is_none() && outro_media::ffmpeg_version().is_none() {
        let loaded = preparer.media_of(
            &Clip::info(),
            |n| clip.frames(n.iter().copied()),
            &samples,
            options,
        )?;
        return Ok((
            loaded,
            "A clip straight from memory, because there is no ffmpeg to write a file with.".into(),
        ));
    }
    let path = args.out.clone().unwrap_or_else(|| {
        std::env::temp_dir().join(format!("outro-demo-{}-{}.mp4", args.seed, std::process::id()))
    });
    let frames = clip.frames(0..SLOTS * FPS);
    write_mp4(
        &path,
        &VideoToWrite {
            frames: &frames,
            fps: FPS,
            samples: &samples,
        },
    )?;
    let loaded = preparer.load_media(&[Part::Video(path.clone().into())], options, &mut |_| {});
    if args.out.is_none() {
        fs::remove_file(&path).with_context(|| path.display().to_string())?;
        return Ok((
            loaded?,
            "A clip of 4 seconds, rendered, coded and read back (--out FILE keeps it).".into(),
        ));
    }
    Ok((loaded?, format!("A clip of 4 seconds: {}", path.display())))
}

/// What happens in it.
fn story(clip: &Clip) -> String {
    let list = |items: Vec<String>| {
        if items.is_empty() {
            "nothing".to_owned()
        } else {
            items.join(", ")
        }
    };
    let seen = clip
        .scene
        .objects
        .iter()
        .map(|o| format!("{} at {:.1} s", o.name(), o.enters))
        .collect();
    let heard = clip
        .scene
        .noises
        .iter()
        .map(|n| format!("{} at {:.1} s", n.sound.word(), n.at))
        .collect();
    format!("  seen:  {}\n  heard: {}", list(seen), list(heard))
}
