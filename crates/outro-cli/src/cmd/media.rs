//! From what was asked for to what the engine's preparation takes, and back.

use std::path::Path;

use outro::chat::{Conversation, Part};
use outro::inputs::Inputs;

use crate::args::{Media, Reading};
use crate::fault::Fault;
use crate::ui::Ui;

pub(crate) struct Preparer;
pub(crate) struct Options;
pub(crate) struct Prepared;
pub(crate) struct TextSide;
pub(crate) struct Stream;

fn missing() -> anyhow::Error {
    Fault::failure("media preparation is not built in yet").into()
}

impl Preparer {
    pub(crate) fn plan(&self, _c: &Conversation, _o: &Options) -> anyhow::Result<()> {
        Err(missing())
    }
}
impl TextSide {
    pub(crate) fn stream(&self) -> Stream {
        Stream
    }
    pub(crate) fn end_tokens(&self) -> &[u32] {
        &[]
    }
    pub(crate) fn token(&self, _id: u32) -> String {
        String::new()
    }
}
impl Stream {
    pub(crate) fn push(&mut self, _t: u32) -> String {
        String::new()
    }
    pub(crate) fn finish(self) -> String {
        String::new()
    }
}
pub(crate) fn open(_dir: &Path) -> anyhow::Result<Preparer> {
    Err(missing())
}
pub(crate) fn text_side(_p: &Preparer, _dir: &Path) -> anyhow::Result<TextSide> {
    Err(missing())
}
pub(crate) fn conversation(media: &Media, system: Option<&str>, question: &str) -> Conversation {
    let user = media
        .parts
        .iter()
        .cloned()
        .chain([Part::Text(question.to_owned())])
        .collect();
    Conversation {
        system: system.map(str::to_owned),
        user,
    }
}
pub(crate) fn options(_r: &Reading) -> Options {
    Options
}
pub(crate) fn read(_p: &Preparer, _m: &Media, _o: &Options, _ui: &Ui) -> anyhow::Result<Prepared> {
    Err(missing())
}
pub(crate) fn inputs(_p: &Preparer, _c: &Conversation, _m: &Prepared) -> anyhow::Result<Inputs> {
    Err(missing())
}
pub(crate) fn whole(_dir: &Path, _m: &Media, _s: Option<&str>, _q: &str, _ui: &Ui) -> anyhow::Result<Inputs> {
    Err(missing())
}
pub(crate) fn prompt_tokens(_dir: &Path, _m: &Media, _audio: usize) -> anyhow::Result<Option<usize>> {
    Ok(None)
}
/// Audio tokens of `n` mel frames: two strided steps of the encoder.
pub(crate) fn audio_tokens(n: usize) -> usize {
    if n == 0 {
        0
    } else {
        (((n - 1) / 2 + 1).saturating_sub(2)) / 2 + 1
    }
}
/// The size that an image gets.
pub(crate) fn image_limits(
    height: usize,
    width: usize,
    max_pixels: Option<usize>,
    size: fn(usize, usize, usize, usize, usize) -> outro_media::Result<(usize, usize)>,
) -> anyhow::Result<(usize, usize)> {
    Ok(size(
        height,
        width,
        28,
        4 * 28 * 28,
        max_pixels.unwrap_or(16384 * 28 * 28),
    )?)
}
