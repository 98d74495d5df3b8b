//! The benchmarks as a table: which fields of their official files are what. One loader reads them all.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::read::{Row, Shape, table};
use super::{Gold, Loaded, Profile, Sample};
use crate::error::{Error, Result};

/// Where a question's options are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answers {
    /// None: yes or no.
    YesNo,
    /// In this field; the answer is a letter.
    Options(&'static str),
    /// In this field; the answer is the text of one.
    Texts(&'static str),
    /// None: a word of [`VOCABULARY`]; the field fills the question's `<...>`.
    Words(&'static str),
    /// The row is a conversation that says everything.
    Conversation,
}

/// A benchmark. Where a field has several names, the first that a row has counts.
pub struct Task {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it is, in a line.
    pub about: &'static str,
    files: &'static [&'static str],
    shape: Shape,
    /// Field of the video's name.
    video: &'static [&'static str],
    /// Where videos are: `{id}` is the name, `{folder}` MVBench's folder.
    places: &'static [&'static str],
    question: &'static [&'static str],
    answers: Answers,
    answer: &'static [&'static str],
    category: &'static [&'static str],
    /// Other divisions, by their name and field.
    groups: &'static [(&'static str, &'static str)],
    /// Categories that have no one right answer.
    left_out: &'static [&'static str],
}

const PLAIN: Task = Task {
    name: "",
    about: "",
    files: &[],
    shape: Shape::Rows,
    video: &["video", "video_id"],
    places: &["videos/{id}.mp4", "video/{id}.mp4", "{id}.mp4", "{id}"],
    question: &["question"],
    answers: Answers::Options("options"),
    answer: &["answer"],
    category: &["task_type"],
    groups: &[],
    left_out: &[],
};

/// All benchmarks.
pub const TASKS: [Task; 8] = [
    Task {
        name: "avhbench",
        about: "AVHBench: yes/no questions on hallucination across picture and sound (QA.json, videos/ID.mp4)",
        files: &["QA.json", "qa.json", "json/QA.json"],
        video: &["video_id"],
        question: &["text"],
        answers: Answers::YesNo,
        answer: &["label"],
        category: &["task"],
        left_out: &["AV Captioning"],
        ..PLAIN
    },
    Task {
        name: "daily-omni",
        about: "Daily-Omni: four options on events in picture and sound (qa.json, Videos/ID/ID_video.mp4)",
        files: &["qa.json"],
        video: &["video_id"],
        places: &["Videos/{id}/{id}_video.mp4", "videos/{id}.mp4", "{id}.mp4"],
        question: &["Question"],
        answers: Answers::Options("Choice"),
        answer: &["Answer"],
        category: &["Type"],
        groups: &[("duration", "video_duration"), ("subject", "video_category")],
        ..PLAIN
    },
    Task {
        name: "worldsense",
        about: "WorldSense: three or four options on real-world videos (worldsense_qa.json, its parquet or TSV; videos/ID.mp4)",
        files: &[
            "worldsense_qa.json",
            "worldsense.parquet",
            "WorldSense.tsv",
            "worldsense.tsv",
            "test.parquet",
        ],
        shape: Shape::ByVideo,
        answers: Answers::Options("candidates"),
        groups: &[
            ("duration", "duration"),
            ("domain", "domain"),
            ("task domain", "task_domain"),
            ("sound", "audio_class"),
        ],
        ..PLAIN
    },
    Task {
        name: "video-holmes",
        about: "Video-Holmes: up to six options on short films (test_Video-Holmes.json, videos/ID.mp4)",
        files: &[
            "test_Video-Holmes.json",
            "test_Video-Holmes.jsonl",
            "test.parquet",
        ],
        video: &["video ID", "video_id"],
        places: &["videos/{id}.mp4", "Benchmark/videos/{id}.mp4", "{id}.mp4"],
        question: &["Question", "question"],
        answers: Answers::Options("Options"),
        answer: &["Answer", "answer"],
        category: &["Question Type", "question_type"],
        ..PLAIN
    },
    Task {
        name: "video-mme",
        about: "Video-MME: four options on videos of all lengths (videomme parquet, JSON or JSONL; data/ID.mp4)",
        files: &[
            "videomme/test-00000-of-00001.parquet",
            "test-00000-of-00001.parquet",
            "videomme.parquet",
            "videomme.json",
            "videomme.jsonl",
            "videomme.csv",
        ],
        video: &["videoID", "video_id"],
        places: &["data/{id}.mp4", "videos/{id}.mp4", "{id}.mp4"],
        groups: &[
            ("duration", "duration"),
            ("domain", "domain"),
            ("subject", "sub_category"),
        ],
        ..PLAIN
    },
    Task {
        name: "music-avqa",
        about: "MUSIC-AVQA: one-word answers on people making music (avqa-test.json, videos/ID.mp4)",
        files: &[
            "avqa-test.json",
            "avqa-test-real.json",
            "avqa-test-synthetic.json",
            "json/avqa-test.json",
        ],
        video: &["video_id"],
        question: &["question_content"],
        answers: Answers::Words("templ_values"),
        answer: &["anser", "answer"],
        category: &["type"],
        ..PLAIN
    },
    Task {
        name: "mvbench",
        about: "MVBench: twenty kinds of question on short videos (json/NAME.json, video/FOLDER/FILE)",
        files: &["json"],
        shape: Shape::Folder,
        places: &["video/{folder}/{id}", "{folder}/{id}", "video/{id}"],
        answers: Answers::Texts("candidates"),
        category: &["__file"],
        ..PLAIN
    },
    Task {
        name: "conversations",
        about: "any file of conversations as the authors publish them (conversations.json, or a JSON file given as the data; videos beside it)",
        files: &[
            "conversations.json",
            "dailyomni.json",
            "worldsense.json",
            "conversations.jsonl",
        ],
        video: &["video"],
        places: &["{id}", "videos/{id}"],
        answers: Answers::Conversation,
        category: &["category", "task"],
        ..PLAIN
    },
];

/// The answers of MUSIC-AVQA.
pub const VOCABULARY: [&str; 42] = [
    "yes",
    "no",
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "more than ten",
    "left",
    "middle",
    "right",
    "indoor",
    "outdoor",
    "simultaneously",
    "accordion",
    "acoustic guitar",
    "bagpipe",
    "banjo",
    "bassoon",
    "cello",
    "clarinet",
    "congas",
    "drum",
    "electric bass",
    "erhu",
    "flute",
    "guzheng",
    "piano",
    "pipa",
    "saxophone",
    "suona",
    "trumpet",
    "tuba",
    "ukulele",
    "violin",
    "xylophone",
];

/// Where MVBench keeps the videos of each file.
const FOLDERS: [(&str, &str); 20] = [
    ("action_antonym", "ssv2_video"),
    ("action_count", "perception/videos"),
    ("action_localization", "sta/sta_video"),
    ("action_prediction", "star/Charades_v1_480"),
    ("action_sequence", "star/Charades_v1_480"),
    ("character_order", "perception/videos"),
    ("counterfactual_inference", "clevrer/video_validation"),
    ("egocentric_navigation", "vlnqa"),
    ("episodic_reasoning", "tvqa/frames_fps3_hq"),
    ("fine_grained_action", "Moments_in_Time_Raw/videos"),
    ("fine_grained_pose", "nturgbd"),
    ("moving_attribute", "clevrer/video_validation"),
    ("moving_count", "clevrer/video_validation"),
    ("moving_direction", "clevrer/video_validation"),
    ("object_existence", "clevrer/video_validation"),
    ("object_interaction", "star/Charades_v1_480"),
    ("object_shuffle", "perception/videos"),
    ("scene_transition", "scene_qa/video"),
    ("state_change", "perception/videos"),
    ("unexpected_action", "FunQA_test/test"),
];

impl Task {
    /// By name.
    ///
    /// # Errors
    /// A name that is not in [`TASKS`].
    pub fn named(name: &str) -> Result<&'static Self> {
        TASKS
            .iter()
            .find(|t| t.name == name)
            .ok_or_else(|| Error::setting("task", outro::unknown(name, TASKS.iter().map(|t| t.name))))
    }

    /// Where the questions are, given a directory of several tasks' or their own: `data/NAME`, if that is there, or `data`.
    pub fn dir(&self, data: &Path) -> PathBuf {
        let own = data.join(self.name);
        if own.is_dir() { own } else { data.to_owned() }
    }

    /// Reads the questions in `dir`, or of the annotation file `dir`, whose videos are then looked for beside it.
    ///
    /// # Errors
    /// A missing file; a row with a missing or impossible field, by row and field; ids that are there twice.
    pub fn load(&self, dir: &Path, profile: &Profile) -> Result<Loaded> {
        let table = table(dir, self.files, self.shape)?;
        let root = if dir.is_file() {
            dir.parent().unwrap_or(dir)
        } else {
            dir
        };
        let (mut samples, mut left_out, mut ids) = (Vec::new(), BTreeMap::new(), BTreeSet::new());
        for (i, row) in table.rows.iter().enumerate() {
            let category = match row.text(self.category) {
                Err(_) if self.answers == Answers::Conversation => "all".into(),
                category => category?,
            };
            if self.left_out.contains(&category.as_str()) {
                *left_out.entry(category).or_insert(0) += 1;
                continue;
            }
            let mut sample = self.sample(row, root, category, profile)?;
            sample.id = match row
                .fields
                .get("id")
                .filter(|_| self.answers == Answers::Conversation)
            {
                Some(id) => id.as_str().map_or_else(|| id.to_string(), str::to_owned),
                None => format!("{i:06}"),
            };
            if !ids.insert(sample.id.clone()) {
                return Err(row.bad("id", format!("`{}` is there twice", sample.id)));
            }
            samples.push(sample);
        }
        Ok(Loaded {
            samples,
            file: table.file,
            sha256: table.sha256,
            left_out,
        })
    }

    fn sample(&self, row: &Row, root: &Path, category: String, profile: &Profile) -> Result<Sample> {
        let mut id = row.text(self.video)?;
        // A path is meant only where the file's own layout has one.
        let paths = matches!(self.answers, Answers::Conversation | Answers::Texts(_));
        if !paths && id.contains(['/', '\\']) || Path::new(&id).components().any(|c| c.as_os_str() == "..") {
            return Err(row.bad(self.video[0], format!("`{id}` is not a file's name")));
        }
        if !paths {
            id.truncate(id.strip_suffix(".mp4").unwrap_or(&id).len());
        }
        let (question, options, gold) = self.question(row)?;
        let prompt = match self.answers {
            Answers::Conversation => question,
            _ => profile.prompt(self.name, &question, &options, &gold),
        };
        let folder = FOLDERS.iter().find(|f| f.0 == category).map_or("", |f| f.1);
        let groups = self.groups.iter().filter_map(|(name, field)| {
            let value = row.text(&[*field]).ok()?;
            Some(((*name).to_owned(), value))
        });
        Ok(Sample {
            id: String::new(),
            video: video(root, self.places, &id, folder),
            video_id: id,
            clip: row.number("start").zip(row.number("end")).filter(|(a, b)| a < b),
            category,
            groups: groups.collect(),
            needs: row.text(&["needs"]).ok(),
            prompt,
            options,
            gold,
        })
    }

    fn question(&self, row: &Row) -> Result<(String, Vec<String>, Gold)> {
        if self.answers == Answers::Conversation {
            return conversation(row);
        }
        let mut question = row.text(self.question)?;
        let field = self.answer[0];
        let answer = row.text(self.answer)?;
        match self.answers {
            Answers::YesNo => Ok((
                question,
                Vec::new(),
                yes_no(&answer).ok_or_else(|| row.bad(field, format!("is `{answer}`, must be Yes or No")))?,
            )),
            Answers::Words(values) => {
                for value in row.list(&[values]).unwrap_or_default() {
                    if let Some((from, to)) =
                        question.find('<').zip(question.find('>')).filter(|(a, b)| a < b)
                    {
                        question.replace_range(from..=to, &value.replace('_', " "));
                    }
                }
                let word = answer.to_lowercase().replace('_', " ");
                if !VOCABULARY.contains(&word.as_str()) {
                    return Err(row.bad(
                        field,
                        format!("is `{answer}`, not one of the benchmark's 42 answers"),
                    ));
                }
                Ok((question, Vec::new(), Gold::Word(word)))
            }
            Answers::Options(list) | Answers::Texts(list) => {
                let given = row.list(&[list])?;
                let options = given.len();
                if !(2..=26).contains(&options) {
                    return Err(row.bad(list, format!("has {options} options, must have 2 to 26")));
                }
                let texts = unlettered(&given).map_err(|e| row.bad(list, e))?;
                let letters: Vec<char> = ('A'..='Z').take(options).collect();
                let place = match self.answers {
                    Answers::Texts(_) => given.iter().position(|g| g.trim() == answer),
                    _ => answer
                        .chars()
                        .next()
                        .and_then(|c| letters.iter().position(|l| *l == c.to_ascii_uppercase())),
                };
                let place = place.ok_or_else(|| {
                    row.bad(
                        field,
                        format!("is `{answer}`, must be one of the {options} options"),
                    )
                })?;
                Ok((
                    question,
                    texts,
                    Gold::Letter {
                        right: letters[place],
                        options,
                    },
                ))
            }
            Answers::Conversation => conversation(row),
        }
    }
}

fn yes_no(answer: &str) -> Option<Gold> {
    match answer.to_ascii_lowercase().as_str() {
        "yes" => Some(Gold::YesNo(true)),
        "no" => Some(Gold::YesNo(false)),
        _ => None,
    }
}

/// The letter that an option begins with, and what follows: `A. text`, `(A) text`, `A) text`, `A: text`.
fn lettered(option: &str) -> Option<(char, &str)> {
    let bare = option.strip_prefix('(').unwrap_or(option);
    let letter = bare.chars().next().filter(char::is_ascii_uppercase)?;
    let text = bare[1..].strip_prefix(['.', ')', ':'])?;
    // `U.S. troops` has no letter.
    (text.is_empty() || text.starts_with(char::is_whitespace)).then(|| (letter, text.trim()))
}

fn unlettered(options: &[String]) -> std::result::Result<Vec<String>, String> {
    let found: Vec<_> = options.iter().map(|o| lettered(o.trim())).collect();
    let all = found.iter().all(Option::is_some);
    let mut texts = Vec::new();
    for ((option, found), place) in options.iter().zip(found).zip('A'..) {
        match found {
            Some((letter, text)) if letter == place => texts.push(text.to_owned()),
            Some((letter, _)) if all => return Err(format!("has the letter {letter} where {place} belongs")),
            _ => texts.push(option.trim().to_owned()),
        }
    }
    Ok(texts)
}

/// `conversations: [{from: human, value: <image>...}, {from: gpt, value: B. text}]`, put as it stands.
fn conversation(row: &Row) -> Result<(String, Vec<String>, Gold)> {
    let turn = |i: usize| {
        let text = row
            .fields
            .get("conversations")
            .and_then(|c| c.get(i)?.get("value")?.as_str());
        text.map(|t| t.replace("<image>", "").trim().to_owned())
            .filter(|t| !t.is_empty())
            .ok_or_else(|| row.bad("conversations", format!("has no value in turn {i}")))
    };
    let (question, answer) = (turn(0)?, turn(1)?);
    if let Some(gold) = yes_no(answer.trim_end_matches('.')) {
        return Ok((question, Vec::new(), gold));
    }
    // Options are lines with letters, or else the letters that the request names: `(A, B, C, or D)`.
    let listed = question
        .lines()
        .filter_map(|l| lettered(l.trim()))
        .map(|(l, _)| l);
    let listed = listed.zip('A'..).take_while(|(l, place)| l == place).count();
    let named = ('A'..='Z')
        .take_while(|l| question.contains(&format!("{l},")) || question.contains(&format!("or {l})")));
    let options = if listed >= 2 { listed } else { named.count().max(2) };
    let right = answer.chars().next().map(|c| c.to_ascii_uppercase());
    let right = right
        .filter(|c| ('A'..='Z').take(options).any(|l| l == *c))
        .ok_or_else(|| {
            row.bad(
                "conversations",
                format!("answers `{answer}`, must begin with one of the {options} letters"),
            )
        })?;
    Ok((question, Vec::new(), Gold::Letter { right, options }))
}

/// The first of `places` that exists, else the first: a missing video is its samples' failure, not the task's.
fn video(root: &Path, places: &[&str], id: &str, folder: &str) -> PathBuf {
    let path = |p: &&str| root.join(p.replace("{folder}", folder).replace("{id}", id));
    let there = places.iter().map(path).find(|p| p.exists());
    there.unwrap_or_else(|| places.first().map(path).unwrap_or_default())
}
