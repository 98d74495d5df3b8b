//! Small pictures of videos, for the page.

use std::collections::BTreeMap;

use outro_media::{Options, Picks, VideoInfo, write_jpeg};
use rayon::prelude::*;

use crate::clip::Clip;
use crate::error::Result;
use crate::page::base64;
use crate::task::Sample;

/// `data:` addresses of pictures, by task and video.
pub type Pictures = BTreeMap<(String, String), String>;

/// Rows and columns of a picture at most.
const SIDES: (usize, usize) = (84, 128);
const QUALITY: u8 = 70;

/// The frame in the middle of every video that can be read, by the video's name.
pub fn thumbnails(
    samples: &[Sample],
    options: &Options,
    progress: &(dyn Fn() + Sync),
) -> BTreeMap<String, String> {
    let videos: BTreeMap<&String, &Sample> = samples.iter().map(|s| (&s.video_id, s)).collect();
    let thumbnail_of = |(id, sample): (&String, &Sample)| {
        let picture = thumbnail(sample, options).ok();
        progress();
        Some((id.clone(), picture?))
    };
    videos.into_par_iter().filter_map(thumbnail_of).collect()
}

fn thumbnail(sample: &Sample, options: &Options) -> Result<String> {
    let clip = Clip::open(&sample.video, options)?;
    let (height, width) = (clip.video.height.max(1), clip.video.width.max(1));
    let scale = (SIDES.0 as f64 / height as f64).min(SIDES.1 as f64 / width as f64);
    let side = |n: usize| ((n as f64 * scale).round() as usize).max(1);
    let middle = sample
        .clip
        .map_or(0.5, |(a, b)| f64::midpoint(a, b) / clip.video.duration.max(1e-9));
    let mut pick = |video: &VideoInfo| {
        let last = video.frames.saturating_sub(1);
        Ok(Picks {
            indices: vec![(last as f64 * middle.clamp(0.0, 1.0)).round() as usize],
            size: Some((side(height), side(width))),
        })
    };
    let frames = clip.take(&mut pick)?.frames;
    let jpeg = write_jpeg(frames.width, frames.height, &frames.data, QUALITY)?;
    Ok(format!("data:image/jpeg;base64,{}", base64(&jpeg)))
}
