//! A prompt's layout from its chunks is the one that the walk over its ids finds, bit for bit.

use std::sync::OnceLock;

use outro::chat::{Conversation, Part, Role, Turn};
use outro::config::{Config, PositionRule};
use outro::inputs::{AudioFeatures, Inputs, Pixels};
use outro::positions::{Layout, Span, layout};
use outro::prepare::Preparer;
use outro::prompt::Chunk;
use proptest::prelude::*;

use crate::families::with_towers;

fn preparers() -> &'static [Preparer] {
    static ALL: OnceLock<Vec<Preparer>> = OnceLock::new();
    ALL.get_or_init(|| {
        let open = |name| Preparer::open(&crate::fixtures().join(name)).unwrap();
        with_towers().map(open).collect()
    })
}

/// Numbers from which a medium of any family is made.
#[derive(Clone, Debug)]
struct Seed {
    kind: u8,
    grid: [usize; 3],
    seconds: f64,
    mel: usize,
    sounds: bool,
    kept: Vec<bool>,
}

fn seed() -> impl Strategy<Value = Seed> {
    let grid = (1_usize..6, 1_usize..4, 1_usize..4).prop_map(|(t, h, w)| [t, h, w]);
    // Processors' own numbers of seconds, and any.
    let seconds = prop_oneof![
        Just(1.0),
        Just(0.5),
        Just(2.0 / 3.0),
        Just(0.08),
        Just(0.0),
        0.01_f64..4.0
    ];
    let kept = prop::collection::vec(any::<bool>(), 64);
    (0_u8..3, grid, seconds, 1_usize..400, any::<bool>(), kept).prop_map(
        |(kind, grid, seconds, mel, sounds, kept)| Seed {
            kind,
            grid,
            seconds,
            mel,
            sounds,
            kept,
        },
    )
}

/// Chunks of a family with the tensors' shapes that belong to them. `None` of media that it does not take.
fn add(c: &Config, seed: &Seed, sounding: bool, inputs: &mut Inputs) -> Option<(Part, Chunk)> {
    let v = c.vision.as_ref()?;
    let one_kind = c.tokens.image == c.tokens.video;
    let mut hear = || {
        let tower = c.audio.as_ref()?;
        let mel = tower.mel_frames(160 * seed.mel, 160 * seed.mel);
        let tokens = Some(tower.tokens(mel)).filter(|n| *n > 0)?;
        let audio = inputs.audio.get_or_insert_with(AudioFeatures::default);
        audio.lengths.push(mel);
        Some(tokens)
    };
    match seed.kind {
        0 if !one_kind => {
            let size = [200 * seed.grid[1], 300 * seed.grid[2]];
            let side = v.positions.unwrap_or(1);
            // Beside others, pictures that could go in parts go whole.
            let grid = match v.anyres {
                Some(_) => [1 + usize::from(seed.sounds), side, side],
                None => [1, v.image_merge * seed.grid[1], v.image_merge * seed.grid[2]],
            };
            let pixels = inputs.pixel_values.get_or_insert_with(Pixels::default);
            pixels.grid_thw.push(grid);
            if v.anyres.is_some() {
                inputs.image_sizes.push(size);
            }
            Some((Part::Image("a".into()), Chunk::Image { grid, size }))
        }
        1 => Some((Part::Audio("a".into()), Chunk::Audio { tokens: hear()? })),
        _ => {
            let side = v.positions.unwrap_or(1);
            let grid = match v.anyres {
                Some(_) => [seed.grid[0], side, side],
                None => [seed.grid[0], v.merge * seed.grid[1], v.merge * seed.grid[2]],
            };
            let sound = if sounding { hear() } else { None };
            inputs.use_audio_in_video |= sound.is_some();
            inputs.second_per_grid.push(seed.seconds as f32);
            let pixels = inputs.pixel_values_videos.get_or_insert_with(Pixels::default);
            pixels.grid_thw.push(grid);
            let chunk = if c.frames.timestamps.is_some() {
                let tokens = v.video_tokens(grid);
                let mask = seed.kept.iter().cycle().take(tokens).copied();
                let kept: Vec<bool> = if c.frames.drops_static_patches {
                    mask.collect()
                } else {
                    Vec::new()
                };
                inputs.token_mask.extend(&kept);
                Chunk::Frames {
                    grid,
                    seconds: (0..grid[0]).map(|t| t as f64 * seed.seconds).collect(),
                    kept,
                }
            } else {
                Chunk::Video {
                    grid,
                    second_per_grid: seed.seconds,
                    sound,
                }
            };
            Some((Part::Video("a".into()), chunk))
        }
    }
}

/// Whether a row can be this and have this id. Newlines of pictures in parts have the placeholder's id.
fn fits(c: &Config, id: u32, span: Span) -> bool {
    let t = &c.tokens;
    let media = [t.image, t.video, t.audio].contains(&Some(id));
    match span {
        Span::Text => !media || c.vision.as_ref().is_some_and(|v| v.anyres.is_some()),
        Span::Image { .. } => Some(id) == t.image,
        Span::Video { .. } => Some(id) == t.video,
        Span::Audio { .. } => Some(id) == t.audio,
    }
}

fn bits(layout: &Layout) -> Vec<[u32; 3]> {
    let next = [layout.positions.next; 3];
    let all = layout.positions.ids.iter().chain([&next]);
    all.map(|p| p.map(f32::to_bits)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Every family, its media in several turns, with and without sound in the videos.
    #[test]
    fn chunks_and_the_walk_agree(
        turns in prop::collection::vec(prop::collection::vec(seed(), 0..3), 1..4),
        sounding in any::<bool>(),
    ) {
        for (preparer, name) in preparers().iter().zip(with_towers()) {
            let c = preparer.config();
            let mut inputs = Inputs::default();
            let (mut chunks, mut history) = (Vec::new(), Vec::new());
            for (i, turn) in turns.iter().enumerate() {
                let mut content = Vec::new();
                for seed in turn {
                    // In a file, one switch says for all videos whether video-SALMONN's have sound.
                    let all = matches!(c.positions, PositionRule::Salmonn { .. });
                    let sounds = sounding && (all || seed.sounds);
                    let mut seed = seed.clone();
                    seed.mel = if all { seed.mel.max(40) } else { seed.mel };
                    if let Some((part, chunk)) = add(c, &seed, sounds, &mut inputs) {
                        content.push(part);
                        chunks.push(chunk);
                    }
                }
                content.push(Part::Text(format!("What of {i}?")));
                history.push(Turn { role: Role::User, content });
                history.push(Turn { role: Role::Assistant, content: vec![Part::Text("It is.".into())] });
            }
            history.pop();
            let user = history.pop().map(|t| t.content).unwrap_or_default();
            let asked = Conversation { system: None, history, user };
            let made = preparer.layout(&asked, &chunks);
            prop_assert!(made.is_ok(), "{name}: {made:?} of {chunks:?}");
            let made = made.unwrap();
            prop_assert_eq!(&made.ids, &preparer.ids(&asked, &chunks).unwrap());
            inputs.input_ids.clone_from(&made.ids);
            let walked = layout(c, &inputs);
            prop_assert!(walked.is_ok(), "{name}: {walked:?} of {chunks:?}");
            let walked = walked.unwrap();
            prop_assert_eq!(&made.spans, &walked.spans, "{}: {:?}", name, &chunks);
            prop_assert_eq!(bits(&made), bits(&walked), "{}: {:?}", name, &chunks);
            prop_assert_eq!(made.spans.len(), made.ids.len(), "{}", name);
            for (row, (id, span)) in made.ids.iter().zip(&made.spans).enumerate() {
                prop_assert!(fits(c, *id, *span), "{name}: row {row} is {id} and {span:?} of {chunks:?}");
            }
        }
    }
}
