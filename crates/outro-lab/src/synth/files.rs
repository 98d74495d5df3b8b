//! A set on disk: mp4 files, AVHBench's `QA.json`, Daily-Omni's `qa.json`, and a manifest.

use std::fs;
use std::path::Path;

use outro_media::{Frames, VideoToWrite, write_mp4};
use rayon::prelude::*;
use serde_json::{Value, json};

use super::{Clip, FPS, Level, Question, SLOTS, Task};
use crate::error::{Error, Result};
use crate::task::hex;

/// What to write.
#[derive(Clone, Debug)]
pub struct Set {
    /// Number of clips.
    pub videos: usize,
    /// The set's seed.
    pub seed: u64,
    /// How much happens.
    pub level: Level,
}

/// What was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Number of clips.
    pub videos: usize,
    /// Rows of `avhbench/QA.json`.
    pub avhbench: usize,
    /// Rows of `daily-omni/qa.json`.
    pub daily_omni: usize,
}

/// Renders a set into `dir`: `avhbench/{QA.json,videos/}`, `daily-omni/{qa.json,Videos/}` (the same files, linked where
/// the file system can) and `manifest.json`, which is written last.
///
/// # Errors
/// A directory that holds something else, or no ffmpeg.
pub fn write(dir: &Path, set: &Set, progress: &(dyn Fn() + Sync)) -> Result<Report> {
    let manifest = dir.join("manifest.json");
    let header = json!({
        "made_by": concat!("outro synth ", env!("CARGO_PKG_VERSION")),
        "videos": set.videos, "seed": set.seed, "level": set.level,
    });
    refuse_others(dir, &manifest, &header)?;
    let (av, daily) = (dir.join("avhbench"), dir.join("daily-omni"));
    fs::create_dir_all(av.join("videos")).map_err(Error::io(&av))?;
    let clips: Vec<(Clip, Value)> = (0..set.videos as u64)
        .into_par_iter()
        .map(|index| {
            let clip = Clip::draw(set.seed, index, set.level);
            let id = id(index);
            let frames = clip.frames(0..SLOTS * FPS);
            let samples = clip.samples();
            let path = av.join("videos").join(format!("{id}.mp4"));
            write_mp4(
                &path,
                &VideoToWrite {
                    frames: &frames,
                    fps: FPS,
                    samples: &samples,
                },
            )?;
            let bytes = fs::read(&path).map_err(Error::io(&path))?;
            let place = daily.join("Videos").join(&id);
            fs::create_dir_all(&place).map_err(Error::io(&place))?;
            let second = place.join(format!("{id}_video.mp4"));
            // A link saves space; where there are none, a copy does.
            let _ = fs::remove_file(&second);
            if fs::hard_link(&path, &second).is_err() {
                fs::copy(&path, &second).map_err(Error::io(&second))?;
            }
            progress();
            let entry = json!({
                "video_id": id, "file_sha256": hex(&bytes), "frames_sha256": frames_hash(&frames),
                "samples_sha256": samples_hash(&samples), "scene": clip.scene,
            });
            Ok((clip, entry))
        })
        .collect::<Result<_>>()?;
    let (rows, questions) = (avhbench(&clips, set.seed), daily_omni(&clips));
    let report = Report {
        videos: clips.len(),
        avhbench: rows.len(),
        daily_omni: questions.len(),
    };
    let files = [(av.join("QA.json"), rows), (daily.join("qa.json"), questions)];
    let mut hashes = serde_json::Map::new();
    for (path, rows) in files {
        let text = pretty(&Value::Array(rows));
        let name = path
            .strip_prefix(dir)
            .unwrap_or(&path)
            .to_string_lossy()
            .into_owned();
        hashes.insert(name, hex(text.as_bytes()).into());
        fs::write(&path, text).map_err(Error::io(&path))?;
    }
    let mut whole = header;
    whole["sha256"] = Value::Object(hashes);
    whole["clips"] = clips.into_iter().map(|(_, entry)| entry).collect();
    fs::write(&manifest, pretty(&whole)).map_err(Error::io(&manifest))?;
    Ok(report)
}

/// A directory that holds another set, or anything else, is left as it is.
fn refuse_others(dir: &Path, manifest: &Path, header: &Value) -> Result<()> {
    match fs::read_dir(dir) {
        Ok(mut entries) => {
            if !manifest.is_file() {
                // A run that was cut leaves these two and no manifest.
                let foreign = entries.find_map(|e| {
                    let name = e.ok()?.file_name();
                    (name != "avhbench" && name != "daily-omni").then_some(name)
                });
                return match foreign {
                    Some(name) => Err(Error::file(
                        dir,
                        format!("holds {}; give a new or empty directory", name.to_string_lossy()),
                    )),
                    None => Ok(()),
                };
            }
            let text = fs::read_to_string(manifest).map_err(Error::io(manifest))?;
            let have: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
            for key in ["videos", "seed", "level"] {
                if have[key] != header[key] {
                    let problem = format!(
                        "belongs to a set with {key} = {}, not {}; give another directory",
                        have[key], header[key]
                    );
                    return Err(Error::file(manifest, problem));
                }
            }
            Ok(())
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::io(dir)(e)),
    }
}

fn id(index: u64) -> String {
    format!("{index:05}")
}

fn asked(clips: &[(Clip, Value)]) -> impl Iterator<Item = (String, &Question)> {
    clips
        .iter()
        .flat_map(|(clip, _)| clip.questions.iter().map(|q| (id(clip.index), q)))
}

/// AVHBench's rows, as many yes as no in every task: what is too much is left out, spread over the set.
fn avhbench(clips: &[(Clip, Value)], seed: u64) -> Vec<Value> {
    let all: Vec<(String, &Question)> = asked(clips).filter(|(_, q)| q.task.is_yes_no()).collect();
    let mut keep = vec![true; all.len()];
    let mut rng = super::Rng::new(seed, u64::MAX);
    for task in [Task::AudioDriven, Task::VideoDriven, Task::Matching] {
        let with = |answer: &str| -> Vec<usize> {
            let mine = |i: &usize| all[*i].1.task == task && all[*i].1.answer == answer;
            (0..all.len()).filter(mine).collect()
        };
        let (yes, no) = (with("Yes"), with("No"));
        let (mut more, fewer) = if yes.len() > no.len() {
            (yes, no.len())
        } else {
            (no, yes.len())
        };
        rng.shuffle(&mut more);
        for i in more.into_iter().skip(fewer) {
            keep[i] = false;
        }
    }
    let row = |(id, q): &(String, &Question)| json!({"video_id": id, "task": q.task, "text": q.text, "label": q.answer, "needs": q.needs});
    all.iter()
        .zip(keep)
        .filter(|(_, keep)| *keep)
        .map(|(asked, _)| row(asked))
        .collect()
}

fn daily_omni(clips: &[(Clip, Value)]) -> Vec<Value> {
    let row = |(id, q): (String, &Question)| {
        json!({
            "Question": q.text, "Choice": q.choices(), "Answer": q.answer, "video_id": id, "Type": q.task,
            "content_parent_category": "Synthetic", "content_fine_category": "Shapes and sounds",
            "video_category": "Synthetic", "video_duration": format!("{SLOTS}s"), "needs": q.needs,
        })
    };
    asked(clips)
        .filter(|(_, q)| !q.options.is_empty())
        .map(row)
        .collect()
}

fn pretty(value: &Value) -> String {
    // Values made here have string keys only, which is all that can fail.
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}

fn frames_hash(frames: &Frames) -> String {
    hex(&frames.data)
}

fn samples_hash(samples: &[f32]) -> String {
    hex(&samples.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())
}
