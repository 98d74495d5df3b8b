//! What the towers made of recent media, by their content and by how they were looked at.

use std::sync::{Mutex, PoisonError};

use outro::MediaSet;

/// Which media of which model, looked at how.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Key {
    pub(crate) model: String,
    /// Kind and SHA-256 of each, in order.
    pub(crate) media: Vec<(crate::door::Kind, [u8; 32])>,
    /// Every setting that changes what is taken of them.
    pub(crate) looking: String,
}

struct Entry {
    key: Key,
    media: MediaSet,
    bytes: u64,
    used: u64,
    prompts: Prompts,
}

/// Prompts about cached media so far.
enum Prompts {
    None,
    /// The ids of the first.
    One(Vec<u32>),
    /// Two: which rows they share was said.
    Shared,
}

/// At most so many bytes of them; the least recently used goes first.
pub(crate) struct Cache {
    most: u64,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    entries: Vec<Entry>,
    clock: u64,
}

impl Cache {
    pub(crate) fn new(most: u64) -> Self {
        Self {
            most,
            inner: Mutex::default(),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, key: &Key) -> Option<MediaSet> {
        let mut inner = self.lock();
        inner.clock += 1;
        let now = inner.clock;
        let entry = inner.entries.iter_mut().find(|e| e.key == *key)?;
        entry.used = now;
        Some(entry.media.clone())
    }

    /// Keeps what was made; what is larger than all of the memory is not kept.
    pub(crate) fn put(&self, key: Key, media: &MediaSet) {
        let bytes = bytes(media);
        if bytes > self.most {
            return;
        }
        let mut inner = self.lock();
        inner.entries.retain(|e| e.key != key);
        while inner.entries.iter().map(|e| e.bytes).sum::<u64>() + bytes > self.most {
            let oldest = (0..inner.entries.len()).min_by_key(|i| inner.entries[*i].used);
            let Some(oldest) = oldest else { break };
            inner.entries.swap_remove(oldest);
        }
        inner.clock += 1;
        let used = inner.clock;
        inner.entries.push(Entry {
            key,
            media: media.clone(),
            bytes,
            used,
            prompts: Prompts::None,
        });
    }

    /// Tells of a prompt about cached media. With the second one it is known which rows questions about them share: these are
    /// run once for strategies without hooks, and take memory as the rows of a prompt do.
    pub(crate) fn asked(&self, key: &Key, ids: &[u32], bytes_a_row: u64) {
        let mut inner = self.lock();
        let Some(entry) = inner.entries.iter_mut().find(|e| e.key == *key) else {
            return;
        };
        match &entry.prompts {
            Prompts::None => entry.prompts = Prompts::One(ids.to_vec()),
            Prompts::One(first) => {
                let same = first.iter().zip(ids).take_while(|(a, b)| a == b).count();
                entry.media.share([first.as_slice(), ids].into_iter());
                entry.bytes += same as u64 * bytes_a_row;
                entry.prompts = Prompts::Shared;
            }
            Prompts::Shared => {}
        }
    }

    /// Bytes that are held.
    pub(crate) fn bytes(&self) -> u64 {
        self.lock().entries.iter().map(|e| e.bytes).sum()
    }
}

fn bytes(media: &MediaSet) -> u64 {
    let (embeds, inputs) = (media.embeds(), &media.media().inputs);
    let of_towers: usize = [&embeds.image, &embeds.video, &embeds.audio]
        .iter()
        .map(|m| m.data().len() * 4)
        .sum();
    let pixels = [&inputs.pixel_values, &inputs.pixel_values_videos];
    let of_pixels: usize = pixels.into_iter().flatten().map(|p| p.data.len() * 4).sum();
    let of_sound = inputs.audio.as_ref().map_or(0, |a| a.data.len() * 4);
    (of_towers + of_pixels + of_sound + 4096) as u64
}
