//! How questions are put and replies are read: data, whose hash is part of a run's identity.

use serde_json::json;

use super::parser::Parser;
use super::{Gold, hex};
use crate::error::{Error, Result};

/// How the options of a question are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Options {
    /// A line each: `{l}` is the letter, `{t}` the text.
    Lines(&'static str),
    /// As Python prints the list of `A. text`.
    PythonList,
}

/// Words around a question. `{q}` is the question, `{o}` its options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Template {
    /// The task that this is for; empty for all that have no own.
    pub task: &'static str,
    /// The words.
    pub text: &'static str,
    /// How options are written.
    pub options: Options,
}

/// A way of putting questions. A change of words is a new name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Its name on the command line and in `outro.json`.
    pub name: &'static str,
    /// Questions with options; the first that fits the task.
    pub letters: &'static [Template],
    /// Questions answered by a word of a fixed list.
    pub words: &'static str,
    /// How replies are read, unless it is said otherwise.
    pub parser: Parser,
}

const LETTERED: Options = Options::Lines("{l}. {t}");
const ONE_WORD: &str = "{q}\nAnswer with one word.";

/// The authors' wrapper of questions with options (kaistmm/OutRo, `json/dailyomni.json`).
const AUTHORS: &str = "Select the best answer to the following multiple-choice question based on the video and audio. \
Respond with only the letter (A, B, C, or D) of the correct option.\n{q}\n{o}\nAnswer with the option's letter from the \
given choices directly and only give the best option. The best answer is:";

/// Daily-Omni's own (Lliar-liar/Daily-Omni, `test_model`).
const DAILY: &str = "Your task is to accurately answer multiple-choice questions based on the given video.\nSelect the single \
most accurate answer from the given choices.\nQuestion: {q}\nChoices: {o}\nYour answer should be a capital letter \
representing your choice: A, B, C, or D. Don't generate any other text.";

/// WorldSense's own, with sound; lmms-eval asks the same.
const WORLDSENSE: &str = "Carefully watch this video and pay attention to every detail. Based on your observations, select \
the best option that accurately addresses the question.\nThese are the frames of a video and the corresponding audio. \
Select the best answer to the following multiple-choice question based on the video. Respond with only the letter (A, B, \
C, or D) of the correct option.\n{q}\n{o}";

/// Video-MME's own.
const VIDEO_MME: &str = "Select the best answer to the following multiple-choice question based on the video. Respond with \
only the letter (A, B, C, or D) of the correct option.\n{q}\n{o}\nThe best answer is:";

/// MVBench's own.
const MVBENCH: Template = Template {
    task: "mvbench",
    text: "Question: {q}\nOptions:\n{o}\nOnly give the best option.",
    options: Options::Lines("({l}) {t}"),
};

const fn lettered(task: &'static str, text: &'static str) -> Template {
    Template {
        task,
        text,
        options: LETTERED,
    }
}

/// All of them; the first is the default.
pub const PROFILES: [Profile; 5] = [
    Profile {
        name: "letter",
        letters: &[lettered("", "{q}\n{o}\nAnswer with the letter.")],
        words: ONE_WORD,
        parser: Parser::Outro2,
    },
    Profile {
        name: "option",
        letters: &[lettered("", "{q}\n{o}\nAnswer with an option.")],
        words: ONE_WORD,
        parser: Parser::Outro2,
    },
    // The authors' files leave the letters of Daily-Omni's options out.
    Profile {
        name: "outro",
        letters: &[
            Template {
                task: "daily-omni",
                text: AUTHORS,
                options: Options::Lines("{t}"),
            },
            lettered("", AUTHORS),
        ],
        words: ONE_WORD,
        parser: Parser::Outro2,
    },
    Profile {
        name: "official",
        letters: &[
            Template {
                task: "daily-omni",
                text: DAILY,
                options: Options::PythonList,
            },
            lettered("worldsense", WORLDSENSE),
            lettered("video-mme", VIDEO_MME),
            MVBENCH,
            lettered("", AUTHORS),
        ],
        words: "{q}",
        parser: Parser::Release,
    },
    Profile {
        name: "lmms-eval",
        letters: &[
            lettered("worldsense", WORLDSENSE),
            MVBENCH,
            lettered(
                "video-holmes",
                "Question: {q}\n{o}\nAnswer with the option's letter from the given choices directly.",
            ),
            lettered(
                "",
                "{q}\n{o}\nAnswer with the option's letter from the given choices directly.",
            ),
        ],
        words: "{q}\nAnswer the question using a single word or phrase.",
        parser: Parser::Outro2,
    },
];

impl Profile {
    /// By name; the default for `None`.
    ///
    /// # Errors
    /// A name that is not in [`PROFILES`].
    pub fn named(name: Option<&str>) -> Result<&'static Self> {
        let Some(name) = name else {
            return Ok(&PROFILES[0]);
        };
        PROFILES
            .iter()
            .find(|p| p.name == name)
            .ok_or_else(|| Error::setting("profile", outro::unknown(name, PROFILES.iter().map(|p| p.name))))
    }

    fn template(&self, task: &str) -> &'static Template {
        let own = self.letters.iter().find(|t| t.task == task || t.task.is_empty());
        // Every profile has a template for all tasks; a test reads them.
        own.unwrap_or(&PROFILES[0].letters[0])
    }

    /// SHA-256 of everything that this profile says about a task.
    pub fn sha256(&self, task: &str) -> String {
        let t = self.template(task);
        let options = match t.options {
            Options::Lines(line) => line,
            Options::PythonList => "python list",
        };
        hex(json!([t.text, options, self.words, YES_NO])
            .to_string()
            .as_bytes())
    }

    /// What is put to the model.
    pub fn prompt(&self, task: &str, question: &str, options: &[String], gold: &Gold) -> String {
        match gold {
            Gold::YesNo(_) if asks_yes_no(question) => question.to_owned(),
            Gold::YesNo(_) => YES_NO.replace("{q}", question),
            Gold::Word(_) => self.words.replace("{q}", question),
            Gold::Letter { .. } => self.letters(task, question, options),
        }
    }

    /// A question with options.
    pub fn letters(&self, task: &str, question: &str, options: &[String]) -> String {
        let t = self.template(task);
        let options = match t.options {
            Options::Lines(form) => {
                let line = |(o, l): (&String, char)| form.replace("{l}", &l.to_string()).replace("{t}", o);
                options.iter().zip('A'..).map(line).collect::<Vec<_>>().join("\n")
            }
            Options::PythonList => {
                let item = |(o, l): (&String, char)| python(&format!("{l}. {o}"));
                format!(
                    "[{}]",
                    options.iter().zip('A'..).map(item).collect::<Vec<_>>().join(", ")
                )
            }
        };
        // The question may hold braces; the options go in first.
        let mut parts = t.text.splitn(2, "{q}");
        let (before, after) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        format!("{before}{question}{}", after.replacen("{o}", &options, 1))
    }
}

/// The authors' addition to a yes/no question that does not say how to answer.
const YES_NO: &str = "{q} Answer yes or no.";

fn asks_yes_no(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    let words: Vec<&str> = lower
        .split(|c: char| !c.is_alphanumeric())
        .filter(|w| !w.is_empty())
        .collect();
    words.windows(4).any(|w| w == ["answer", "yes", "or", "no"])
}

/// A text as Python prints it in a list.
fn python(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('\n', "\\n");
    if escaped.contains('\'') && !escaped.contains('"') {
        format!("\"{escaped}\"")
    } else {
        format!("'{}'", escaped.replace('\'', "\\'"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_profile_serves_every_task() {
        for profile in &PROFILES {
            assert!(
                profile.letters.iter().any(|t| t.task.is_empty()),
                "{}",
                profile.name
            );
            for t in profile.letters {
                assert!(t.text.contains("{q}") && t.text.contains("{o}"), "{}", t.text);
            }
        }
    }

    #[test]
    fn prompts() {
        let options = ["x".to_owned(), "it's".to_owned()];
        let of = |name, task| {
            Profile::named(Some(name))
                .unwrap()
                .letters(task, "What {o}?", &options)
        };
        assert_eq!(
            of("letter", ""),
            "What {o}?\nA. x\nB. it's\nAnswer with the letter."
        );
        assert!(of("official", "daily-omni").contains("Choices: ['A. x', \"B. it's\"]\n"));
        assert!(
            of("outro", "daily-omni").contains("\nx\nit's\n")
                && of("outro", "worldsense").contains("\nA. x\n")
        );
        assert!(of("official", "mvbench").contains("\n(A) x\n(B) it's\n"));
        let letter = &PROFILES[0];
        let ask = |q| letter.prompt("avhbench", q, &[], &Gold::YesNo(true));
        assert_eq!(ask("Same?"), "Same? Answer yes or no.");
        assert_eq!(ask("Same? ANSWER yes  or no!"), "Same? ANSWER yes  or no!");
        assert_ne!(letter.sha256(""), PROFILES[1].sha256(""));
    }
}
