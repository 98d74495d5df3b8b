//! Questions about a scene. Drawn so that the words alone say nothing: in every kind the answer is independent of the
//! names that occur, because colours, shapes and sounds are interchangeable in the world.

use serde::{Deserialize, Serialize};

use super::rng::Rng;
use super::world::{Colour, Deed, Level, Object, Scene, Shape, Sound, Track};
use crate::task::{Gold, Profile};

/// What a question is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Task {
    /// AVHBench: is something visible, where a sound may suggest it.
    #[serde(rename = "Audio-driven Video Hallucination")]
    AudioDriven,
    /// AVHBench: is something audible, where a picture may suggest it.
    #[serde(rename = "Video-driven Audio Hallucination")]
    VideoDriven,
    /// AVHBench: do picture and sound belong together.
    #[serde(rename = "AV Matching")]
    Matching,
    /// Daily-Omni form: what comes first, last or next.
    #[serde(rename = "Event Sequence")]
    Sequence,
    /// Daily-Omni form: what is seen while something is heard, and the reverse.
    #[serde(rename = "AV Event Alignment")]
    Alignment,
    /// Daily-Omni form: how many.
    #[serde(rename = "Counting")]
    Counting,
    /// Daily-Omni form: biggest, loudest.
    #[serde(rename = "Comparative")]
    Comparative,
    /// Daily-Omni form, rich level only: what an object does.
    #[serde(rename = "Action")]
    Action,
    /// A free question with a free answer. Only trained on, never scored.
    #[serde(rename = "Open")]
    Open,
}

impl Task {
    /// Whether it is answered with yes or no.
    pub fn is_yes_no(self) -> bool {
        matches!(self, Self::AudioDriven | Self::VideoDriven | Self::Matching)
    }
}

/// Which part of the file holds the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Needs {
    /// The frames.
    Picture,
    /// The track.
    Sound,
    /// Both.
    Both,
}

/// A question with its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Question {
    /// Its kind.
    pub task: Task,
    /// What it takes to answer it.
    pub needs: Needs,
    /// The words.
    pub text: String,
    /// Four options without letters; none for the other forms.
    pub options: Vec<String>,
    /// `Yes`, `No`, a letter, or a sentence.
    pub answer: String,
}

impl Question {
    /// The options with their letters: `A. Red`.
    pub fn choices(&self) -> Vec<String> {
        let lettered = |(option, letter): (&String, char)| format!("{letter}. {option}");
        self.options.iter().zip('A'..).map(lettered).collect()
    }

    /// What is put to the model: AVHBench's question with its request, or question, choices and the profile's request.
    pub fn prompt(&self, profile: &Profile) -> String {
        match self.task {
            Task::Open => self.text.clone(),
            t if t.is_yes_no() => profile.prompt("avhbench", &self.text, &[], &Gold::YesNo(true)),
            _ => profile.letters("daily-omni", &self.text, &self.options),
        }
    }

    /// The answer in words: the right option's, where there are options.
    pub fn words(&self) -> &str {
        let right = self
            .answer
            .bytes()
            .next()
            .map_or(0, |b| b.wrapping_sub(b'A') as usize);
        self.options.get(right).unwrap_or(&self.answer)
    }
}

/// All questions about a scene.
pub(super) fn questions(scene: &Scene, rng: &mut Rng, level: Level) -> Vec<Question> {
    let mut asker = Asker {
        scene,
        rng,
        out: Vec::new(),
    };
    asker.hallucination();
    asker.sequence();
    asker.alignment();
    asker.counting();
    asker.comparative();
    if level == Level::Rich {
        asker.action();
    }
    asker.open();
    asker.out
}

struct Asker<'a> {
    scene: &'a Scene,
    rng: &'a mut Rng,
    out: Vec<Question>,
}

impl Asker<'_> {
    fn yes_no(&mut self, task: Task, needs: Needs, text: String, yes: bool) {
        let answer = if yes { "Yes" } else { "No" }.to_owned();
        self.out.push(Question {
            task,
            needs,
            text,
            options: Vec::new(),
            answer,
        });
    }

    /// `right` among three of `wrong`; no question where there are fewer.
    fn choice(&mut self, task: Task, needs: Needs, text: String, right: &str, mut wrong: Vec<String>) {
        self.rng.shuffle(&mut wrong);
        wrong.truncate(3);
        if wrong.len() < 3 {
            return;
        }
        let place = self.rng.below(4);
        wrong.insert(place, right.to_owned());
        let answer = char::from(b'A' + place as u8).to_string();
        self.out.push(Question {
            task,
            needs,
            text,
            options: wrong,
            answer,
        });
    }

    fn free(&mut self, needs: Needs, text: &str, answer: String) {
        let text = text.to_owned();
        self.out.push(Question {
            task: Task::Open,
            needs,
            text,
            options: Vec::new(),
            answer,
        });
    }

    /// One yes and one no about the picture, the same about the sound, and whether they match.
    fn hallucination(&mut self) {
        let scene = self.scene;
        if let Some(o) = self.rng.pick(&scene.objects.iter().collect::<Vec<_>>()) {
            let text = self.visible(o.shape, o.colour);
            self.yes_no(Task::AudioDriven, Needs::Picture, text, true);
        }
        let seen = |s: Shape, c: Option<Colour>| {
            let of_colour = |o: &Object| c.is_none_or(|c| o.colour == c);
            scene.objects.iter().any(|o| o.shape == s && of_colour(o))
        };
        // Half of the absent shapes are those whose sound is heard: the trap that the task is named after.
        let heard: Vec<Shape> = Shape::ALL
            .iter()
            .copied()
            .filter(|s| self.hears(s.sound()))
            .collect();
        let trap = self.rng.chance(0.5) && heard.iter().any(|s| !seen(*s, None));
        let from = if trap { heard } else { Shape::ALL.to_vec() };
        let absent: Vec<Shape> = from.into_iter().filter(|s| !seen(*s, None)).collect();
        if self.rng.chance(0.5) {
            if let Some(shape) = self.rng.pick(&absent) {
                self.yes_no(Task::AudioDriven, Needs::Picture, bare_visible(shape), false);
            }
        } else {
            let pairs: Vec<(Shape, Colour)> = Shape::ALL
                .iter()
                .flat_map(|s| Colour::ALL.iter().map(move |c| (*s, *c)))
                .filter(|(s, c)| !seen(*s, Some(*c)))
                .collect();
            if let Some((shape, colour)) = self.rng.pick(&pairs) {
                let text = coloured_visible(shape, colour);
                self.yes_no(Task::AudioDriven, Needs::Picture, text, false);
            }
        }
        for yes in [true, false] {
            let sounds: Vec<Sound> = Sound::ALL
                .iter()
                .copied()
                .filter(|s| self.hears(*s) == yes)
                .collect();
            // Half of the absent sounds are those of shapes that are seen.
            let tempting: Vec<Sound> = sounds
                .iter()
                .copied()
                .filter(|x| scene.objects.iter().any(|o| o.shape.sound() == *x))
                .collect();
            let from = if !yes && !tempting.is_empty() && self.rng.chance(0.5) {
                tempting
            } else {
                sounds
            };
            if let Some(sound) = self.rng.pick(&from) {
                let text = self.audible(sound);
                self.yes_no(Task::VideoDriven, Needs::Sound, text, yes);
            }
        }
        if let Some(matches) = scene.matches() {
            let texts = [
                "Do the audio and the video match?",
                "Does the sound belong to the picture?",
            ];
            let text = texts[self.rng.below(2)].to_owned();
            self.yes_no(Task::Matching, Needs::Both, text, matches);
        }
    }

    fn hears(&self, sound: Sound) -> bool {
        self.scene.noises.iter().any(|n| n.sound == sound)
    }

    fn visible(&mut self, shape: Shape, colour: Colour) -> String {
        if self.rng.chance(0.5) {
            bare_visible(shape)
        } else {
            coloured_visible(shape, colour)
        }
    }

    fn audible(&mut self, sound: Sound) -> String {
        let maker = Shape::ALL
            .iter()
            .find(|s| s.sound() == sound)
            .filter(|_| self.rng.chance(0.3));
        match maker {
            Some(shape) => format!("Is the {} making sound in the audio?", shape.word()),
            None => format!("Is a {} heard in the audio?", sound.word()),
        }
    }

    /// Colours that no object has, in random order.
    fn absent(&mut self) -> Vec<Colour> {
        let objects = &self.scene.objects;
        let mut absent: Vec<Colour> = Colour::ALL
            .iter()
            .copied()
            .filter(|c| objects.iter().all(|o| o.colour != *c))
            .collect();
        self.rng.shuffle(&mut absent);
        absent
    }

    /// Names of objects for the wrong options: the clip's own, then absent ones, all of different colours.
    fn others(&mut self, but: &[&Object]) -> Vec<String> {
        let scene = self.scene;
        let own = scene
            .objects
            .iter()
            .filter(|o| !but.iter().any(|b| b.colour == o.colour));
        let mut names: Vec<String> = own.map(Object::name).collect();
        let absent = self.absent();
        for colour in absent.into_iter().take(3_usize.saturating_sub(names.len())) {
            let shape = Shape::ALL[self.rng.below(Shape::ALL.len())];
            names.push(format!("{} {}", colour.word(), shape.word()));
        }
        names
    }

    fn sequence(&mut self) {
        let scene = self.scene;
        if let [first, .., last] = scene.objects.as_slice() {
            let (end, text) = if self.rng.chance(0.5) {
                (first, "Which shape appears first?")
            } else {
                (last, "Which shape appears last?")
            };
            let wrong = self.others(&[end]);
            self.choice(Task::Sequence, Needs::Picture, text.into(), &end.name(), wrong);
        }
        if scene.objects.len() > 2 {
            let i = self.rng.below(scene.objects.len() - 1);
            let (before, after) = (&scene.objects[i], &scene.objects[i + 1]);
            let text = format!("Which shape appears right after the {}?", before.name());
            let wrong = self.others(&[before, after]);
            self.choice(Task::Sequence, Needs::Picture, text, &after.name(), wrong);
        }
        if let [first, .., last] = scene.noises.as_slice() {
            let (end, text) = if self.rng.chance(0.5) {
                (first, "Which sound is heard first?")
            } else {
                (last, "Which sound is heard last?")
            };
            self.choice(
                Task::Sequence,
                Needs::Sound,
                text.into(),
                end.sound.word(),
                sounds_but(end.sound),
            );
        }
    }

    /// Only where the track is not the clip's own: else the shape tells the sound. Colours are asked for, because a
    /// wrong track makes a shape less likely beside its own sound.
    fn alignment(&mut self) {
        let scene = self.scene;
        if scene.matches() != Some(false) {
            return;
        }
        let together: Vec<(&Object, Sound)> = scene
            .noises
            .iter()
            .filter(|n| scene.noises.iter().filter(|m| m.sound == n.sound).count() == 1)
            .filter_map(|n| Some((scene.objects.iter().find(|o| o.slot == n.slot)?, n.sound)))
            .collect();
        if let Some((object, sound)) = self.rng.pick(&together) {
            let text = format!(
                "What colour is the shape that appears when the {} is heard?",
                sound.word()
            );
            let own = scene
                .objects
                .iter()
                .map(|o| o.colour)
                .filter(|c| *c != object.colour);
            let mut wrong: Vec<String> = own.map(|c| c.word().to_owned()).collect();
            let absent = self.absent();
            let missing = 3_usize.saturating_sub(wrong.len());
            wrong.extend(absent.into_iter().take(missing).map(|c| c.word().to_owned()));
            self.choice(Task::Alignment, Needs::Both, text, object.colour.word(), wrong);
        }
        let pairs: Vec<(&Object, Sound)> = scene
            .objects
            .iter()
            .filter_map(|o| Some((o, scene.noises.iter().find(|n| n.slot == o.slot)?.sound)))
            .collect();
        if let Some((object, sound)) = self.rng.pick(&pairs) {
            let text = format!(
                "Which sound is heard when the {} shape appears?",
                object.colour.word()
            );
            self.choice(
                Task::Alignment,
                Needs::Both,
                text,
                sound.word(),
                sounds_but(sound),
            );
        }
    }

    fn counting(&mut self) {
        let counts = [
            (
                self.scene.objects.len(),
                Needs::Picture,
                "How many shapes appear?",
            ),
            (
                self.scene.noises.len(),
                Needs::Sound,
                "How many sounds are heard?",
            ),
        ];
        for (count, needs, text) in counts {
            if (1..=4).contains(&count) {
                let wrong = (1..=4).filter(|n| *n != count).map(|n| n.to_string()).collect();
                self.choice(Task::Counting, needs, text.into(), &count.to_string(), wrong);
            }
        }
    }

    fn comparative(&mut self) {
        let scene = self.scene;
        if let Some(biggest) = scene.objects.iter().find(|o| o.big) {
            let wrong = self.others(&[biggest]);
            self.choice(
                Task::Comparative,
                Needs::Picture,
                "Which shape is the biggest?".into(),
                &biggest.name(),
                wrong,
            );
        }
        if let Some(loud) = scene.noises.iter().find(|n| n.loud) {
            let text = "Which sound is the loudest?".to_owned();
            self.choice(
                Task::Comparative,
                Needs::Sound,
                text,
                loud.sound.word(),
                sounds_but(loud.sound),
            );
        }
    }

    fn action(&mut self) {
        let Some(object) = self.scene.featured.and_then(|i| self.scene.objects.get(i)) else {
            return;
        };
        let kind = object.deed.kind();
        let text = format!("What does the {} do after it has appeared?", object.name());
        let wrong = (0..4)
            .filter(|k| *k != kind)
            .map(|k| Deed::SAID[k].to_owned())
            .collect();
        self.choice(Task::Action, Needs::Picture, text, Deed::SAID[kind], wrong);
    }

    fn open(&mut self) {
        let scene = self.scene;
        let shapes = list(scene.objects.iter().map(|o| format!("a {}", o.name())));
        let sounds = list(scene.noises.iter().map(|n| format!("a {}", n.sound.word())));
        let (see, hear) = (format!("I see {shapes}."), format!("I hear {sounds}."));
        let n = self.rng.below(2);
        self.free(
            Needs::Both,
            ["What do you see and hear?", "Describe the video."][n],
            format!("{see} {hear}"),
        );
        self.free(
            Needs::Sound,
            ["What do you hear?", "Which sounds are heard?"][n],
            hear,
        );
        self.free(
            Needs::Picture,
            ["What do you see?", "Which shapes appear?"][n],
            see,
        );
        if let Some(first) = scene.noises.first().filter(|_| scene.track != Track::None) {
            self.free(
                Needs::Sound,
                "Which sound is heard first?",
                format!("A {}.", first.sound.word()),
            );
        }
        if let Some(object) = self.rng.pick(&scene.objects.iter().collect::<Vec<_>>()) {
            let alone = scene.objects.iter().filter(|o| o.shape == object.shape).count() == 1;
            if alone {
                let text = format!("What colour is the {}?", object.shape.word());
                self.free(
                    Needs::Picture,
                    &text,
                    format!("The {} is {}.", object.shape.word(), object.colour.word()),
                );
            }
        }
    }
}

fn bare_visible(shape: Shape) -> String {
    format!("Is a {} visible in the video?", shape.word())
}

fn coloured_visible(shape: Shape, colour: Colour) -> String {
    format!("Is a {} {} visible in the video?", colour.word(), shape.word())
}

fn sounds_but(but: Sound) -> Vec<String> {
    Sound::ALL
        .iter()
        .filter(|s| **s != but)
        .map(|s| s.word().to_owned())
        .collect()
}

/// `a, then b, then c`; `nothing`.
fn list(items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.collect();
    if items.is_empty() {
        "nothing".to_owned()
    } else {
        items.join(", then ")
    }
}

#[cfg(test)]
mod tests;
