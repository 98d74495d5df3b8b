//! Media whose videos are encoded while they are decoded.

use std::cell::RefCell;
use std::time::Instant;

use outro_media::Cancel;

use super::{Engine, Update};
use crate::compute::nn::Mat;
use crate::error::{Error, Result};
use crate::prompt::Chunk;
use crate::prompt::inputs::{Inputs, one_kind};
use crate::prompt::prepare::{DecodedMedia, MediaOptions, Plan};
use crate::run::model::{EncodeProgress, MediaEmbeds};
use crate::run::strategy::Noise;
use crate::run::videos::Videos;

/// What was read once and can be read again.
pub(super) struct Source {
    plan: Plan,
    options: MediaOptions,
}

/// Decodes and encodes planned media. Beside them: the seconds in which the towers ran, and where videos came from.
pub(super) fn read(
    engine: &Engine,
    plan: Plan,
    options: &MediaOptions,
    on: &mut dyn FnMut(Update<'_>),
) -> Result<(DecodedMedia, MediaEmbeds, f64, Option<Source>)> {
    plan.check()?;
    let [mut images, mut videos] = [0; 2];
    for item in &plan.items {
        let patches: usize = item.view.grid.iter().product();
        match item.chunk {
            Chunk::Image { .. } => images += patches,
            Chunk::Video { .. } | Chunk::Frames { .. } => videos += patches,
            Chunk::Audio { .. } => {}
        }
    }
    let (model, total) = (engine.model(), images + videos);
    one_kind(&model.config().tokens, images > 0, videos > 0)?;
    let (media, made, mut seconds) = decode(engine, &plan, options, None, total, on)?;
    let since = Instant::now();
    let mut behind = |progress| {
        on(Update::Encode(match progress {
            EncodeProgress::Vision { done, .. } => EncodeProgress::Vision {
                done: videos + done,
                total,
            },
            sound @ EncodeProgress::Audio { .. } => sound,
        }));
    };
    let rest = model.encode_until(&media.inputs, &options.media.cancel, &mut behind)?;
    seconds += since.elapsed().as_secs_f64();
    let source = (videos > 0).then(|| Source {
        plan,
        options: options.clone(),
    });
    Ok((media, rest.with_videos(made), seconds, source))
}

/// The media with noise on them. Videos are decoded once more.
pub(super) fn distorted(
    engine: &Engine,
    source: &Source,
    inputs: &Inputs,
    noise: &Noise,
    cancel: &Cancel,
) -> Result<MediaEmbeds> {
    let mut options = source.options.clone();
    options.media.cancel = cancel.clone();
    let mut plan = source.plan.clone();
    plan.items
        .retain(|item| matches!(item.chunk, Chunk::Video { .. } | Chunk::Frames { .. }));
    for item in &mut plan.items {
        // Its sound is there already.
        item.uses_audio = false;
    }
    let (_, videos, _) = decode(engine, &plan, &options, Some(noise), 0, &mut |_| {})?;
    let model = engine.model();
    let rest = model.encode_until(&noise.on(inputs, model.config()), cancel, &mut |_| {})?;
    Ok(rest.with_videos(videos))
}

/// Decodes media; videos go through the tower. Beside what is left of the media: the videos' tokens, and the seconds in which
/// the tower ran. `total` is the patches of all media.
fn decode(
    engine: &Engine,
    plan: &Plan,
    options: &MediaOptions,
    noise: Option<&Noise>,
    total: usize,
    on: &mut dyn FnMut(Update<'_>),
) -> Result<(DecodedMedia, Vec<Mat>, f64)> {
    let on = RefCell::new(on);
    let cancel = &options.media.cancel;
    let mut encoded = |done| {
        (on.borrow_mut())(Update::Encode(EncodeProgress::Vision { done, total }));
        if cancel.is_set() {
            Err(Error::Cancelled)
        } else {
            Ok(())
        }
    };
    let mut videos = Videos::new(engine.model(), noise, &mut encoded);
    let read = &mut |p| (on.borrow_mut())(Update::Media(p));
    let media = engine
        .preparer()
        .load_into(plan, options, Some(&mut videos), read)?;
    let (made, seconds) = videos.finish();
    Ok((media, made, seconds))
}
