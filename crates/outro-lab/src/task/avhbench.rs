//! AVHBench: one list of yes/no questions (`QA.json`), `videos/ID.mp4`.

use std::path::Path;

use serde::Deserialize;

use super::{Gold, Loaded, Profile, Sample, rows, video};
use crate::error::{Error, Result};

#[derive(Deserialize)]
struct Row {
    video_id: String,
    task: String,
    text: String,
    label: String,
    needs: Option<String>,
}

pub(super) fn load(dir: &Path, _: &Profile) -> Result<Loaded> {
    let (file, rows, sha256) = rows::<Row>(dir, &["QA.json", "qa.json", "json/QA.json"])?;
    let (mut samples, mut skipped) = (Vec::new(), 0);
    for (i, row) in rows.into_iter().enumerate() {
        let bad = |field: &str, problem: String| Error::file(&file, format!("row {i}: {field} {problem}"));
        let id = row.video_id;
        if id.is_empty() || id.contains(['/', '\\']) {
            return Err(bad("video_id", format!("`{id}` is not a file's name")));
        }
        if row.task == "AV Captioning" {
            skipped += 1;
            continue;
        }
        let gold = match row.label.trim().to_ascii_lowercase().as_str() {
            "yes" => Gold::YesNo(true),
            "no" => Gold::YesNo(false),
            other => return Err(bad("label", format!("is `{other}`, must be Yes or No"))),
        };
        let text = row.text.trim();
        if text.is_empty() {
            return Err(bad("text", "is empty".into()));
        }
        let asks = text.to_ascii_lowercase().contains("answer yes or no");
        samples.push(Sample {
            id: format!("{i:06}"),
            video: video(
                dir,
                &[
                    format!("videos/{id}.mp4"),
                    format!("video/{id}.mp4"),
                    format!("{id}.mp4"),
                ],
            ),
            video_id: id,
            category: row.task,
            needs: row.needs,
            prompt: if asks {
                text.to_owned()
            } else {
                format!("{text} Answer yes or no.")
            },
            options: Vec::new(),
            gold,
        });
    }
    Ok(Loaded {
        samples,
        file,
        sha256,
        skipped,
    })
}
