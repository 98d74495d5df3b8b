//! A video's frames and sound: patches are cut as frames come, and are kept or handed on.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, ScopedJoinHandle};

use outro_media::{PatchCutter, Patches, Picks, Pictures, Sound, VideoInfo};

use super::{DecodedMedia, MediaOptions, MediaPlan, MediaProgress, Preparer, VideoPlan};
use crate::error::Result;
use crate::prompt::inputs::Pixels;
use crate::prompt::plan::silent;
use crate::prompt::preprocessor::TokenMask;

/// Takes the patches of videos in groups of whole grid steps, as they come.
pub(crate) trait TakePatches {
    /// Patches of a group: as many steps as they hold, at least one.
    fn at_once(&self) -> usize;

    /// A video of this grid begins. Where its file turns out to hold another number of frames than was expected, it begins
    /// once more.
    ///
    /// # Errors
    /// What makes it unusable.
    fn begin(&mut self, grid: [usize; 3]) -> Result<()>;

    /// Its next steps.
    ///
    /// # Errors
    /// What ends the reading.
    fn take(&mut self, patches: Patches) -> Result<()>;

    /// It is over; `mask` says which of its tokens stay, where some do not.
    ///
    /// # Errors
    /// What makes it unusable.
    fn end(&mut self, mask: &[bool]) -> Result<()>;
}

/// What a decoding thread says.
enum Step {
    Begin([usize; 3]),
    Patches(Patches),
}

/// Where patches go, and how many at once.
struct To {
    send: SyncSender<Step>,
    at_once: usize,
}

/// A video while its frames come.
struct Cut {
    cutter: PatchCutter,
    plan: VideoPlan,
    /// Grid steps that are handed on together.
    group: usize,
    begun: bool,
}

impl Cut {
    fn hand_on(&mut self, patches: Patches, to: &To) -> outro_media::Result<()> {
        let gone = |_| outro_media::Error::Cancelled;
        // Only now is it sure that these frames are the ones that are taken.
        if !std::mem::replace(&mut self.begun, true) {
            to.send.send(Step::Begin(self.plan.grid)).map_err(gone)?;
        }
        to.send.send(Step::Patches(patches)).map_err(gone)
    }
}

impl Preparer {
    /// Decodes a video and its sound, which also goes to `sounds`. Its patches go to `taker`, else to `media`.
    pub(super) fn load_video(
        &self,
        place: usize,
        options: &MediaOptions,
        media: &mut DecodedMedia,
        sounds: &mut Vec<Vec<f32>>,
        taker: Option<&mut (dyn TakePatches + '_)>,
        progress: &mut dyn FnMut(MediaProgress),
    ) -> Result<()> {
        let item = &mut media.taken[place];
        let path = item.info.path.clone();
        progress(MediaProgress::Frames {
            path: path.clone(),
            frames: item.view.indices.len(),
        });
        if item.uses_audio {
            progress(MediaProgress::Audio { path: path.clone() });
        }
        // Pictures and sound are decoded by programs of their own, so at the same time. Patches are cut as frames come: what a
        // long video's decoder leaves idle is enough for it.
        let shared: &MediaPlan = item;
        let (pictures, samples, mask) = thread::scope(|scope| {
            let samples = shared
                .uses_audio
                .then(|| scope.spawn(|| self.read_sound(outro_media::read_track, &shared.info, options)));
            let (pictures, mask) = match taker {
                None => (self.read_pictures(shared, options, None), Ok(None)),
                Some(taker) => {
                    // Two groups at most: one is taken while the next is cut.
                    let (send, receive) = sync_channel(0);
                    let to = To {
                        send,
                        at_once: taker.at_once(),
                    };
                    let decoder = scope.spawn(move || self.read_pictures(shared, options, Some(&to)));
                    let mask = self.hand_over(receive, taker);
                    let pictures = decoder
                        .join()
                        .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                    let ended = |mask: Vec<bool>| {
                        pictures.is_ok().then(|| taker.end(&mask)).transpose()?;
                        Ok(Some(mask))
                    };
                    let mask = mask.and_then(ended);
                    (pictures, mask)
                }
            };
            (pictures, samples.map(ScopedJoinHandle::join), mask)
        });
        // Who takes no more has stopped the decoding.
        let mask = mask?;
        let pictures = pictures?;
        // As it was planned unless another number of frames came than was expected.
        let Cut { cutter, plan, .. } = pictures.frames;
        item.view.clone_from(&plan);
        item.info.video = Some(pictures.video);
        media.notes.extend(pictures.notes);
        let mut tokens = 0;
        if let Some(sound) = samples {
            let sound = sound.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            let Sound { samples, notes } = sound?;
            item.seconds = samples.len() as f64 / f64::from(outro_media::SAMPLE_RATE);
            tokens = self.tokens_of(&samples);
            if tokens == 0 && notes.is_empty() {
                media.notes.push(silent(&path));
            }
            media.notes.extend(notes);
            if tokens > 0 {
                sounds.push(samples);
            }
        }
        match mask {
            Some(mask) => self.place_video(&plan, mask, tokens, media),
            None => self.push_video(cutter.finish()?, plan, tokens, media),
        }
        Ok(())
    }

    /// Patches of a video and how it stands in the prompt; `sound` is the tokens of its track.
    pub(super) fn push_video(
        &self,
        patches: Patches,
        plan: VideoPlan,
        sound: usize,
        media: &mut DecodedMedia,
    ) {
        let mut mask = TokenMask::default();
        if self.processor.drops_static_patches {
            self.processor.mark(&patches, &mut mask);
        }
        let inputs = &mut media.inputs;
        inputs.second_per_grid.push(plan.second_per_grid as f32);
        inputs.token_mask.extend(&mask.kept);
        let plan = VideoPlan {
            grid: patches.grid_thw,
            ..plan
        };
        let place = inputs.pixel_values_videos.get_or_insert_with(Pixels::default);
        place.push(patches.grid_thw, patches.cols, patches.data);
        self.place_video(&plan, mask.kept, sound, media);
    }

    /// How a video stands in the prompt.
    fn place_video(&self, plan: &VideoPlan, mask: Vec<bool>, sound: usize, media: &mut DecodedMedia) {
        media.inputs.use_audio_in_video |= sound > 0;
        let sound = Some(sound).filter(|n| *n > 0);
        media.items.push(plan.chunk(&self.config, sound, mask));
    }

    /// Decodes, resizes and cuts a video's frames; the patches stay in the cutter, or go to `to`.
    fn read_pictures(
        &self,
        item: &MediaPlan,
        options: &MediaOptions,
        to: Option<&To>,
    ) -> Result<Pictures<Cut>> {
        let processor = &self.processor;
        let mut pick = |video: &VideoInfo| -> Result<(Picks, _)> {
            let plan = self.plan_video(video, options)?;
            let picks = Picks {
                indices: plan.indices.clone(),
                size: Some(plan.first_size.into()),
            };
            let (group, mut expected) = match to {
                Some(to) => {
                    let group = (to.at_once / (plan.grid[1] * plan.grid[2]).max(1)).max(1);
                    (group, group.saturating_mul(processor.patches.temporal))
                }
                None => (usize::MAX, usize::MAX),
            };
            expected = expected.min(plan.indices.len());
            let cut = Cut {
                cutter: PatchCutter::new(&processor.patches, expected),
                plan,
                group,
                begun: false,
            };
            Ok((picks, cut))
        };
        let mut take = |cut: &mut Cut, frame| {
            cut.cutter.push(&processor.fitted(frame, cut.plan.size))?;
            let Some(to) = to else { return Ok(()) };
            while let Some(patches) = cut.cutter.drain(cut.group) {
                cut.hand_on(patches, to)?;
            }
            Ok(())
        };
        let mut pictures =
            outro_media::fold_video(&item.info, &mut pick, &mut take, processor.resize, &options.media)?;
        if let Some(to) = to {
            let cut = &mut pictures.frames;
            let rest =
                std::mem::replace(&mut cut.cutter, PatchCutter::new(&processor.patches, 0)).finish()?;
            if rest.grid_thw[0] > 0 {
                cut.hand_on(rest, to)?;
            }
        }
        Ok(pictures)
    }

    /// Passes on what a decoding thread says until it has no more; which tokens stay, where some do not.
    fn hand_over(&self, from: Receiver<Step>, taker: &mut (dyn TakePatches + '_)) -> Result<Vec<bool>> {
        let mut mask = TokenMask::default();
        for step in from {
            match step {
                Step::Begin(grid) => {
                    mask = TokenMask::default();
                    taker.begin(grid)?;
                }
                Step::Patches(patches) => {
                    if self.processor.drops_static_patches {
                        self.processor.mark(&patches, &mut mask);
                    }
                    taker.take(patches)?;
                }
            }
        }
        Ok(mask.kept)
    }
}
