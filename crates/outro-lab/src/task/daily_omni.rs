//! Daily-Omni: one list of multiple-choice questions (`qa.json`), `Videos/ID/ID_video.mp4`.

use std::path::Path;

use serde::Deserialize;

use super::{Gold, Loaded, Profile, Sample, rows, video};
use crate::error::{Error, Result};

#[derive(Deserialize)]
struct Row {
    #[serde(rename = "Question")]
    question: String,
    #[serde(rename = "Choice")]
    choice: Vec<String>,
    #[serde(rename = "Answer")]
    answer: String,
    video_id: String,
    #[serde(rename = "Type")]
    kind: String,
    needs: Option<String>,
}

pub(super) fn load(dir: &Path, profile: &Profile) -> Result<Loaded> {
    let (file, rows, sha256) = rows::<Row>(dir, &["qa.json"])?;
    let mut samples = Vec::new();
    for (i, row) in rows.into_iter().enumerate() {
        let bad = |field: &str, problem: String| Error::file(&file, format!("row {i}: {field} {problem}"));
        let id = row.video_id;
        if id.is_empty() || id.contains(['/', '\\']) {
            return Err(bad("video_id", format!("`{id}` is not a file's name")));
        }
        let options = row.choice.len();
        if !(2..=26).contains(&options) {
            return Err(bad("Choice", format!("has {options} options, must have 2 to 26")));
        }
        let mut texts = Vec::new();
        let mut lines = vec![row.question.trim().to_owned()];
        for (choice, letter) in row.choice.iter().zip('A'..='Z') {
            let text = match choice.trim().split_once('.') {
                Some((own, text)) if own.len() == 1 && own.as_bytes()[0].is_ascii_uppercase() => {
                    if own.as_bytes()[0] != letter as u8 {
                        return Err(bad(
                            "Choice",
                            format!("has the letter {own} where {letter} belongs"),
                        ));
                    }
                    text.trim()
                }
                _ => choice.trim(),
            };
            lines.push(format!("{letter}. {text}"));
            texts.push(text.to_owned());
        }
        lines.push(profile.request.to_owned());
        let right = row.answer.trim().chars().next().map(|c| c.to_ascii_uppercase());
        let right = right
            .filter(|c| ('A'..='Z').take(options).any(|l| l == *c))
            .ok_or_else(|| {
                bad(
                    "Answer",
                    format!("is `{}`, must be one of the {options} letters", row.answer),
                )
            })?;
        samples.push(Sample {
            id: format!("{i:06}"),
            video: video(
                dir,
                &[
                    format!("Videos/{id}/{id}_video.mp4"),
                    format!("videos/{id}.mp4"),
                    format!("{id}.mp4"),
                ],
            ),
            video_id: id,
            category: row.kind,
            needs: row.needs,
            prompt: lines.join("\n"),
            options: texts,
            gold: Gold::Letter { right, options },
        });
    }
    Ok(Loaded {
        samples,
        file,
        sha256,
        skipped: 0,
    })
}
