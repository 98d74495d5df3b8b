//! What happens in a clip: objects that enter, move, change, collide and leave, and sounds, on a timeline of slots.

use serde::{Deserialize, Serialize};

use super::rng::Rng;

/// Seconds of a clip; one event of each kind at most in every slot of a second.
pub const SLOTS: usize = 4;
/// Pixels on a frame's side.
pub const SIDE: usize = 168;
/// Frames a second.
pub const FPS: usize = 24;
/// Cells on a frame's side; objects stand in cells.
const CELLS: usize = 3;
const CELL: f64 = (SIDE / CELLS) as f64;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "lowercase")]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// Its name in questions.
            pub fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }
    };
}

words! {
    /// What an object looks like.
    Shape {
        /// Beeps.
        Circle = "circle",
        /// Knocks.
        Square = "square",
        /// Chirps.
        Triangle = "triangle",
        /// Hisses.
        Star = "star",
    }
}

words! {
    /// An object's colour.
    Colour {
        /// (230, 40, 40)
        Red = "red",
        /// (40, 190, 60)
        Green = "green",
        /// (50, 90, 240)
        Blue = "blue",
        /// (240, 220, 40)
        Yellow = "yellow",
        /// (245, 245, 245)
        White = "white",
        /// (190, 60, 220)
        Purple = "purple",
    }
}

words! {
    /// A kind of sound.
    Sound {
        /// A steady tone.
        Beep = "beep",
        /// Three dull strokes.
        Knock = "knock",
        /// A rising tone.
        Chirp = "chirp",
        /// A burst of noise.
        Hiss = "hiss",
    }
}

impl Shape {
    /// The sound that this shape makes.
    pub fn sound(self) -> Sound {
        match self {
            Self::Circle => Sound::Beep,
            Self::Square => Sound::Knock,
            Self::Triangle => Sound::Chirp,
            Self::Star => Sound::Hiss,
        }
    }
}

/// How much happens in a clip.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Objects appear, some move, some leave.
    #[default]
    Simple,
    /// They also change colour and collide, the background varies and hums, and there are questions about it.
    Rich,
}

/// What an object does after it has appeared.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Deed {
    /// Stands to the end.
    Stays,
    /// Is gone at this time.
    Leaves {
        /// Seconds.
        at: f64,
    },
    /// Has another colour from this time.
    Changes {
        /// Seconds.
        at: f64,
        /// The new colour.
        to: Colour,
    },
    /// Runs into another object at this time.
    Collides {
        /// Seconds.
        at: f64,
        /// Index of the other.
        with: usize,
    },
}

impl Deed {
    /// What a question calls each kind, by [`Deed::kind`].
    pub const SAID: [&str; 4] = [
        "It stays to the end",
        "It leaves",
        "It changes colour",
        "It runs into another shape",
    ];

    /// Its kind, as an index of [`Deed::SAID`].
    pub fn kind(&self) -> usize {
        match self {
            Self::Stays => 0,
            Self::Leaves { .. } => 1,
            Self::Changes { .. } => 2,
            Self::Collides { .. } => 3,
        }
    }
}

/// A thing to be seen.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Object {
    /// Its shape.
    pub shape: Shape,
    /// Its colour when it appears. No two objects of a clip share one.
    pub colour: Colour,
    /// Whether it is half as large again as the others.
    pub big: bool,
    /// The second in which it appears.
    pub slot: usize,
    /// When it appears, in seconds.
    pub enters: f64,
    /// What it does then.
    pub deed: Deed,
    /// Centre when it appears, and where it has moved to a second later; pixels.
    pub path: [(f64, f64); 2],
}

impl Object {
    /// `red circle`.
    pub fn name(&self) -> String {
        format!("{} {}", self.colour.word(), self.shape.word())
    }

    /// Distance from the centre to the outline, in pixels.
    pub fn radius(&self) -> f64 {
        if self.big { 27.0 } else { 18.0 }
    }
}

/// A sound.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Noise {
    /// Its kind.
    pub sound: Sound,
    /// The second in which it is heard.
    pub slot: usize,
    /// When it starts, in seconds.
    pub at: f64,
    /// How long it lasts, in seconds.
    pub seconds: f64,
    /// Whether it is 12 dB louder than the others.
    pub loud: bool,
    /// Pitch within its kind, 0 to 1.
    pub pitch: f64,
}

/// How the sound track belongs to the picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Track {
    /// Every object makes its shape's sound when it appears, and nothing else sounds.
    Matched,
    /// The right sounds in the wrong seconds.
    Shifted,
    /// The sounds of another clip.
    Swapped,
    /// A track with nothing on it but the room.
    Quiet,
    /// No audio stream in the file.
    None,
}

/// Everything about a clip.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Scene {
    /// In the order of their appearance.
    pub objects: Vec<Object>,
    /// In the order of time.
    pub noises: Vec<Noise>,
    /// How the two belong together.
    pub track: Track,
    /// Grey level of the background, 0 to 255.
    pub background: u8,
    /// Amplitude of a 100 Hz hum.
    pub hum: f64,
    /// In a rich scene, the object whose deed is asked about.
    pub featured: Option<usize>,
}

/// What is heard in every second of a track.
type Score = [Option<Sound>; SLOTS];

impl Scene {
    /// Draws a clip.
    pub(super) fn draw(rng: &mut Rng, level: Level) -> Self {
        let rich = level == Level::Rich;
        let count = 1 + rng.below(SLOTS);
        let mut objects_now = objects(rng, count, rich);
        let mut featured = None;
        if rich && count > 1 {
            // All deeds are asked about equally often, so the deed comes first and the scene is drawn until it has one.
            let wanted = rng.below(4);
            featured = loop {
                let doers: Vec<usize> = (0..count)
                    .filter(|i| objects_now[*i].deed.kind() == wanted)
                    .collect();
                if let Some(i) = rng.pick(&doers) {
                    break Some(i);
                }
                objects_now = objects(rng, count, rich);
            };
        }
        let objects = objects_now;
        let starts: [f64; SLOTS] = std::array::from_fn(|slot| {
            let there = objects.iter().find(|o| o.slot == slot);
            there.map_or_else(|| slot as f64 + rng.range(0.0, 0.1), |o| o.enters)
        });
        let (track, score) = track(rng, &objects);
        let mut noises: Vec<Noise> = Vec::new();
        for (slot, sound) in score.iter().enumerate() {
            let Some(sound) = *sound else { continue };
            let (seconds, pitch) = (rng.range(0.35, 0.55), rng.unit());
            noises.push(Noise {
                sound,
                slot,
                at: starts[slot],
                seconds,
                loud: false,
                pitch,
            });
        }
        if rng.chance(0.6) {
            let n = rng.below(noises.len());
            // Loudness is compared between kinds, so the loud one must be the only one of its kind.
            let alone = noises.len() > 1
                && noises
                    .get(n)
                    .is_some_and(|a| noises.iter().filter(|b| b.sound == a.sound).count() == 1);
            if alone {
                noises[n].loud = true;
            }
        }
        let background = if rich { 10 + rng.below(60) as u8 } else { 25 };
        let hum = if rich && rng.chance(0.5) { 0.02 } else { 0.0 };
        Self {
            objects,
            noises,
            track,
            background,
            hum,
            featured,
        }
    }

    /// Whether the sounds are those of the objects, each in its second; `None` where there is nothing to compare.
    pub fn matches(&self) -> Option<bool> {
        match self.track {
            Track::Matched => Some(true),
            Track::Shifted | Track::Swapped => Some(false),
            Track::Quiet | Track::None => None,
        }
    }
}

fn objects(rng: &mut Rng, count: usize, rich: bool) -> Vec<Object> {
    let slots = rng.choose(SLOTS, count);
    let mut colours = Colour::ALL.to_vec();
    rng.shuffle(&mut colours);
    let mut cells: Vec<usize> = (0..CELLS * CELLS).collect();
    rng.shuffle(&mut cells);
    let (homes, mut free) = (cells[..count].to_vec(), cells[count..].to_vec());
    let big = (count > 1 && rng.chance(0.6)).then(|| rng.below(count));
    let mut objects: Vec<Object> = Vec::new();
    for (i, slot) in slots.into_iter().enumerate() {
        let shape = Shape::ALL[rng.below(Shape::ALL.len())];
        let from = homes[i];
        let next_door = free.iter().position(|c| touching(*c, from));
        // A free cell beside it is kept for an object that moves, so that nothing runs into anything by accident.
        let to = if rng.chance(0.5) {
            next_door.map_or(from, |n| free.swap_remove(n))
        } else {
            from
        };
        let deed = if rng.chance(0.5) {
            Deed::Leaves {
                at: slot as f64 + 0.96,
            }
        } else {
            Deed::Stays
        };
        let enters = slot as f64 + rng.range(0.0, 0.1);
        let path = [centre(from), centre(to)];
        objects.push(Object {
            shape,
            colour: colours[i],
            big: big == Some(i),
            slot,
            enters,
            deed,
            path,
        });
    }
    if rich {
        enrich(rng, &mut objects, &colours[count..]);
    }
    objects
}

/// Some objects change colour or run into one that is already there.
fn enrich(rng: &mut Rng, objects: &mut [Object], unused: &[Colour]) {
    for i in 0..objects.len() {
        let slot = objects[i].slot;
        if slot + 1 < SLOTS && rng.chance(0.35) {
            let at = (slot + 1) as f64 + rng.range(0.0, 0.1);
            if let Some(to) = rng.pick(unused) {
                objects[i].deed = Deed::Changes { at, to };
            }
            continue;
        }
        let standing = |o: &Object| matches!(o.deed, Deed::Stays) && o.slot < slot;
        let others: Vec<usize> = (0..i).filter(|j| standing(&objects[*j])).collect();
        if let (true, Some(with)) = (rng.chance(0.35), rng.pick(&others)) {
            let (from, target) = (objects[i].path[0], objects[with].path[1]);
            let (dx, dy) = (target.0 - from.0, target.1 - from.1);
            let distance = (dx * dx + dy * dy).sqrt();
            let keep = (objects[i].radius() + objects[with].radius()) * 0.9 / distance.max(1.0);
            objects[i].path[1] = (target.0 - dx * keep, target.1 - dy * keep);
            objects[i].deed = Deed::Collides {
                at: objects[i].enters + 0.8,
                with,
            };
        }
    }
}

fn touching(a: usize, b: usize) -> bool {
    let apart = |a: usize, b: usize| a.abs_diff(b);
    apart(a % CELLS, b % CELLS) + apart(a / CELLS, b / CELLS) == 1
}

fn centre(cell: usize) -> (f64, f64) {
    (
        ((cell % CELLS) as f64 + 0.5) * CELL,
        ((cell / CELLS) as f64 + 0.5) * CELL,
    )
}

fn track(rng: &mut Rng, objects: &[Object]) -> (Track, Score) {
    let mut own: Score = [None; SLOTS];
    for o in objects {
        own[o.slot] = Some(o.shape.sound());
    }
    let differs = |s: &Score| s.iter().zip(&own).filter(|(a, b)| a != b).count() >= 2;
    let x = rng.unit();
    if x < 0.40 {
        return (Track::Matched, own);
    }
    if x < 0.45 {
        return (Track::Quiet, [None; SLOTS]);
    }
    if x < 0.50 {
        return (Track::None, [None; SLOTS]);
    }
    if x < 0.65 {
        let mut shifted = own;
        shifted.rotate_right(1 + rng.below(SLOTS - 1));
        if differs(&shifted) {
            return (Track::Shifted, shifted);
        }
    }
    let count = 1 + rng.below(SLOTS);
    loop {
        let mut other: Score = [None; SLOTS];
        for slot in rng.choose(SLOTS, count) {
            other[slot] = rng.pick(Sound::ALL);
        }
        if differs(&other) {
            return (Track::Swapped, other);
        }
    }
}
