//! What is wrong with a benchmark's files, found before any weight is loaded.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use outro::chat::{Conversation, Part};
use outro::prepare::{MediaOptions, Preparer};
use outro_media::{NoteKind, Picks, VideoInfo, read_video, resize};
use rayon::prelude::*;
use serde::Serialize;

use crate::clip::Clip;
use crate::task::{Loaded, Sample};

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Check {
    /// Questions that would be asked.
    pub questions: usize,
    /// Rows that would not, by what they are.
    pub left_out: BTreeMap<String, usize>,
    /// Questions by category and right answer.
    pub answers: BTreeMap<String, BTreeMap<String, usize>>,
    /// Questions by the benchmark's other divisions.
    pub groups: BTreeMap<String, BTreeMap<String, usize>>,
    /// Different videos.
    pub videos: usize,
    /// Videos that are not there.
    pub missing: Vec<PathBuf>,
    /// Videos that are there and cannot be used, or not whole, and why.
    pub unusable: Vec<(PathBuf, String)>,
    /// Questions that are there twice about the same video, by their ids.
    pub twice: Vec<(String, String)>,
    /// Tokens of the shortest and of the longest prompt; zeros where no video is there.
    pub tokens: [usize; 2],
    /// The most that the model takes.
    pub token_limit: usize,
    /// Questions whose prompt is longer than that.
    pub too_long: usize,
}

impl Check {
    /// Whether a run would have no failing sample for a reason that is known now.
    pub fn is_good(&self) -> bool {
        self.missing.is_empty() && self.unusable.is_empty() && self.too_long == 0 && self.twice.is_empty()
    }
}

enum Found {
    Missing,
    Unusable(String),
    Tokens(Vec<usize>),
}

/// Counts questions, reads every video's header and decodes its first and its last sampled frame, and counts the tokens of every prompt.
pub fn check(
    loaded: &Loaded,
    preparer: &Preparer,
    options: &MediaOptions,
    progress: &(dyn Fn() + Sync),
) -> Check {
    let mut check = Check {
        questions: loaded.samples.len(),
        left_out: loaded.left_out.clone(),
        token_limit: preparer.config().text.max_positions,
        ..Check::default()
    };
    let (mut asked, mut videos) = (HashMap::new(), BTreeMap::<&PathBuf, Vec<&Sample>>::new());
    for sample in &loaded.samples {
        let by = check.answers.entry(sample.category.clone()).or_default();
        *by.entry(sample.gold.text()).or_default() += 1;
        for (name, value) in &sample.groups {
            *check
                .groups
                .entry(name.clone())
                .or_default()
                .entry(value.clone())
                .or_default() += 1;
        }
        let clip = sample.clip.map(|(a, b)| (a.to_bits(), b.to_bits()));
        if let Some(first) = asked.insert((&sample.video, clip, &sample.prompt), &sample.id) {
            check.twice.push((first.clone(), sample.id.clone()));
        }
        videos.entry(&sample.video).or_default().push(sample);
    }
    check.videos = videos.len();
    let look = |(path, samples): (&PathBuf, Vec<&Sample>)| {
        let found = look(path, &samples, preparer, options);
        progress();
        (path.clone(), found)
    };
    let found: Vec<(PathBuf, Found)> = videos.into_par_iter().map(look).collect();
    let mut tokens = Vec::new();
    for (path, found) in found {
        match found {
            Found::Missing => check.missing.push(path),
            Found::Unusable(why) => check.unusable.push((path, why)),
            Found::Tokens(mut of) => tokens.append(&mut of),
        }
    }
    check.too_long = tokens.iter().filter(|n| **n > check.token_limit).count();
    check.tokens = [tokens.iter().min(), tokens.iter().max()].map(|n| n.copied().unwrap_or(0));
    check
}

fn look(path: &Path, samples: &[&Sample], preparer: &Preparer, options: &MediaOptions) -> Found {
    if !path.exists() {
        return Found::Missing;
    }
    if path.is_dir() {
        // Loose frames have no header that a prompt could be counted from.
        return match Clip::open(path, &options.media) {
            Ok(_) => Found::Tokens(Vec::new()),
            Err(e) => Found::Unusable(e.to_string()),
        };
    }
    let part = Part::Video(path.into());
    let (mut tokens, mut planned) = (Vec::new(), None);
    for sample in samples {
        let mut options = options.clone();
        if let Some((start, end)) = sample.clip {
            (options.sampling.start, options.sampling.end) = (Some(start), Some(end));
        }
        // Questions about the same seconds share what the file's header says.
        let media = match planned.take().filter(|(clip, _)| *clip == sample.clip) {
            Some((_, media)) => Ok(media),
            None => preparer.plan_media(std::iter::once(&part), &options),
        };
        let asked = Conversation::new(None, std::slice::from_ref(&part), &sample.prompt);
        let both = media.and_then(|media| {
            preparer
                .plan_words(&media, &asked)
                .map(|plan| (plan, &planned.insert((sample.clip, media)).1))
        });
        let (plan, media) = match both {
            Ok(both) => both,
            Err(e) => return Found::Unusable(e.to_string()),
        };
        // Once a video; a header that can be read says little about what follows it.
        if tokens.is_empty() {
            for item in &media.items {
                let mut ends = |video: &VideoInfo| -> outro_media::Result<Picks> {
                    let all = options.sampling.indices(video)?;
                    let mut indices: Vec<usize> =
                        all.first().into_iter().chain(all.last()).copied().collect();
                    indices.dedup();
                    Ok(Picks { indices, size: None })
                };
                let read = match read_video(&item.info, &mut ends, resize, &options.media) {
                    Ok(read) => read,
                    Err(e) => return Found::Unusable(e.to_string()),
                };
                // A run would take what is left of it, and its answers would count.
                let mut notes = item.info.notes.iter().chain(&read.notes);
                if let Some(damage) = notes.find(|n| n.kind == NoteKind::Damaged) {
                    return Found::Unusable(damage.text.clone());
                }
            }
        }
        tokens.push(plan.prompt_tokens);
    }
    Found::Tokens(tokens)
}
