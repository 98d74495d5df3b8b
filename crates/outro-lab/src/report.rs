//! Reports: pure functions of a run's rows.

mod html;
mod pictures;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::Serialize;

use crate::log::{Header, Row};
use crate::stats::{Paired, bootstrap, clustered_error, wilson};
pub use html::page;
pub use pictures::{Pictures, thumbnails};

/// Right answers of one strategy, over all questions or some.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Score {
    /// Answers.
    pub total: usize,
    /// Right ones.
    pub right: usize,
    /// Replies that are no answer; counted as wrong.
    pub invalid: usize,
    /// ... by the reason.
    pub reasons: BTreeMap<&'static str, usize>,
    /// Questions without a reply; counted as wrong.
    pub failed: usize,
    /// Share of right ones.
    pub accuracy: f64,
    /// Share of right ones among the valid answers.
    pub valid_accuracy: f64,
    /// Wilson's 95 % interval.
    pub interval: (f64, f64),
    /// Standard error with questions clustered by video.
    pub clustered_error: f64,
}

/// A strategy's results.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Result {
    /// Its name.
    pub strategy: String,
    /// Over all.
    pub all: Score,
    /// By the benchmark's category.
    pub by_category: BTreeMap<String, Score>,
    /// By the benchmark's other divisions, and by what the answer takes where it says so.
    pub by: BTreeMap<String, BTreeMap<String, Score>>,
    /// Questions without an answer yet.
    pub unanswered: usize,
    /// Against the first strategy, on questions that both have answered.
    pub paired: Option<Versus>,
    /// 95 % interval of the accuracy, by samples of whole videos.
    pub bootstrap: (f64, f64),
    /// Mean seconds of reading a prompt.
    pub prefill_seconds: f64,
    /// Mean seconds of writing a reply.
    pub decode_seconds: f64,
}

/// A comparison.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Versus {
    /// With what.
    pub against: String,
    /// The counts.
    #[serde(flatten)]
    pub counts: Paired,
    /// Exact McNemar, two-sided.
    pub p: f64,
    /// Difference of the accuracies.
    pub difference: f64,
    /// Its 95 % interval, by samples of whole videos.
    pub interval: (f64, f64),
    /// Mean seconds of prefill and decoding, as a multiple of the first strategy's.
    pub overhead: f64,
}

/// A whole report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// What was run.
    pub run: Header,
    /// In the run's order.
    pub results: Vec<Result>,
}

fn score(rows: &[&Row]) -> Score {
    let count = |f: &dyn Fn(&Row) -> bool| rows.iter().filter(|r| f(r)).count();
    let (total, right) = (rows.len(), count(&|r| r.right));
    let mut reasons = BTreeMap::new();
    for why in rows.iter().filter_map(|r| r.invalid) {
        *reasons.entry(why.name()).or_default() += 1;
    }
    Score {
        total,
        right,
        invalid: count(&|r| r.invalid.is_some()),
        reasons,
        failed: count(&|r| r.error.is_some()),
        accuracy: right as f64 / total.max(1) as f64,
        valid_accuracy: right as f64 / count(&|r| r.parsed.is_some()).max(1) as f64,
        interval: wilson(right, total),
        clustered_error: clustered_error(rows.iter().map(|r| (r.video.as_str(), r.right))),
    }
}

/// Sums up a run.
pub fn report(header: &Header, rows: &[Row]) -> Report {
    let of = |name: &str| -> Vec<&Row> { rows.iter().filter(|r| r.strategy == name).collect() };
    let first = header
        .strategies
        .first()
        .map(|s| s.name.clone())
        .unwrap_or_default();
    let base: BTreeMap<&str, &Row> = of(&first).iter().map(|r| (r.id.as_str(), *r)).collect();
    let results = header.strategies.iter().map(|strategy| {
        let mine = of(&strategy.name);
        let groups = |key: &dyn Fn(&Row) -> Option<String>| -> BTreeMap<String, Score> {
            let names: BTreeSet<String> = mine.iter().filter_map(|r| key(r)).collect();
            let part = |n: &String| {
                let group: Vec<&Row> = mine
                    .iter()
                    .copied()
                    .filter(|r| key(r).as_ref() == Some(n))
                    .collect();
                score(&group)
            };
            names.iter().map(|n| (n.clone(), part(n))).collect()
        };
        let mean =
            |f: &dyn Fn(&Row) -> f64| mine.iter().map(|r| f(r)).sum::<f64>() / mine.len().max(1) as f64;
        let paired = (strategy.name != first).then(|| {
            let pairs: Vec<(&Row, &Row)> = mine
                .iter()
                .filter_map(|r| Some((*base.get(r.id.as_str())?, *r)))
                .collect();
            let counts = Paired::count(pairs.iter().map(|(a, b)| (a.right, b.right)));
            let difference = |(a, b): &(&Row, &Row)| f64::from(i8::from(b.right) - i8::from(a.right));
            let seconds = |r: &Row| r.prefill_seconds + r.decode_seconds;
            Versus {
                against: first.clone(),
                counts,
                p: counts.mcnemar(),
                difference: pairs.iter().map(difference).sum::<f64>() / pairs.len().max(1) as f64,
                interval: bootstrap(pairs.iter().map(|p| (p.1.video.as_str(), difference(p)))),
                overhead: pairs.iter().map(|p| seconds(p.1)).sum::<f64>()
                    / pairs.iter().map(|p| seconds(p.0)).sum::<f64>().max(1e-9),
            }
        });
        let mut by = BTreeMap::new();
        let names: BTreeSet<&String> = mine.iter().flat_map(|r| r.groups.keys()).collect();
        for name in names {
            by.insert(name.clone(), groups(&|r| r.groups.get(name).cloned()));
        }
        if mine.iter().any(|r| r.needs.is_some()) {
            by.insert("needs".into(), groups(&|r| r.needs.clone()));
        }
        Result {
            strategy: strategy.name.clone(),
            all: score(&mine),
            by_category: groups(&|r| Some(r.category.clone())),
            by,
            unanswered: header.questions.saturating_sub(mine.len()),
            bootstrap: bootstrap(
                mine.iter()
                    .map(|r| (r.video.as_str(), f64::from(u8::from(r.right)))),
            ),
            paired,
            prefill_seconds: mean(&|r| r.prefill_seconds),
            decode_seconds: mean(&|r| r.decode_seconds),
        }
    });
    Report {
        run: header.clone(),
        results: results.collect(),
    }
}

impl Result {
    /// Scores of one division: `category`, or a name in [`Result::by`].
    pub fn division(&self, name: &str) -> Option<&BTreeMap<String, Score>> {
        if name == "category" {
            Some(&self.by_category)
        } else {
            self.by.get(name)
        }
    }
}

impl Report {
    /// Names of all divisions.
    pub fn divisions(&self) -> Vec<String> {
        let others: BTreeSet<&String> = self.results.iter().flat_map(|r| r.by.keys()).collect();
        std::iter::once("category".to_owned())
            .chain(others.into_iter().cloned())
            .collect()
    }

    /// As rows of comma-separated values: a line per strategy, division and part of it.
    ///
    /// # Errors
    /// Never for values that this type can hold.
    pub fn csv(&self) -> csv::Result<String> {
        let mut out = csv::Writer::from_writer(Vec::new());
        out.write_record([
            "task",
            "parser",
            "strategy",
            "division",
            "part",
            "questions",
            "right",
            "accuracy",
            "low",
            "high",
            "valid_accuracy",
            "clustered_error",
            "invalid",
            "reasons",
            "failed",
            "unanswered",
            "prefill_seconds",
            "decode_seconds",
            "against",
            "both_right",
            "gained",
            "lost",
            "both_wrong",
            "mcnemar_p",
            "difference",
            "difference_low",
            "difference_high",
            "time_ratio",
        ])?;
        for result in &self.results {
            let all = [("all".to_owned(), String::new(), &result.all)];
            let parts = self.divisions().into_iter().flat_map(|d| {
                let parts = result.division(&d).into_iter().flatten();
                parts.map(|(n, s)| (d.clone(), n.clone(), s)).collect::<Vec<_>>()
            });
            for (division, part, s) in all.into_iter().chain(parts) {
                let numbers = [
                    s.accuracy,
                    s.interval.0,
                    s.interval.1,
                    s.valid_accuracy,
                    s.clustered_error,
                ];
                let mut line = vec![self.run.task.clone(), self.run.parser.clone()];
                line.extend([result.strategy.clone(), division.clone(), part]);
                line.extend([s.total, s.right].map(|n| n.to_string()));
                line.extend(numbers.map(|n| format!("{n:.6}")));
                line.extend([s.invalid.to_string(), reasons(s), s.failed.to_string()]);
                // What is of the whole stands in its line alone.
                let whole = division == "all";
                line.extend(of_whole(result).map(|text| if whole { text } else { String::new() }));
                out.write_record(&line)?;
            }
        }
        let bytes = out.into_inner().map_err(csv::IntoInnerError::into_error)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// As tables in Markdown, aligned so that they also read well as plain text.
    pub fn markdown(&self) -> String {
        let run = &self.run;
        format!(
            "Profile {}, parser {}, read from {}.\n\n{}{}",
            run.profile,
            run.parser,
            run.readout,
            self.tables(),
            legend(self.results.iter().any(|r| r.paired.is_some()), "- ", "")
        )
    }

    /// The tables alone.
    fn tables(&self) -> String {
        let percent = |x: f64| format!("{:.1}", x * 100.0);
        let mut out = String::new();
        let headings = [
            "strategy",
            "questions",
            "right",
            "accuracy %",
            "95 % interval",
            "of valid %",
            "unanswered",
            "invalid",
            "failed",
            "prefill ms",
        ];
        let rows = self.results.iter().map(|r| {
            let s = &r.all;
            [
                r.strategy.clone(),
                s.total.to_string(),
                s.right.to_string(),
                percent(s.accuracy),
                format!("{} to {}", percent(s.interval.0), percent(s.interval.1)),
                percent(s.valid_accuracy),
                r.unanswered.to_string(),
                invalid(s),
                s.failed.to_string(),
                format!("{:.1}", r.prefill_seconds * 1e3),
            ]
        });
        table(&mut out, &headings, rows);
        for title in self.divisions() {
            let empty = BTreeMap::new();
            let groups =
                |r: &'_ Result| -> BTreeMap<String, Score> { r.division(&title).unwrap_or(&empty).clone() };
            let names: BTreeSet<String> = self.results.iter().flat_map(|r| groups(r).into_keys()).collect();
            if names.len() < 2 {
                continue;
            }
            let mut headings = vec![title.as_str()];
            headings.extend(self.results.iter().map(|r| r.strategy.as_str()));
            let rows = names.iter().map(|n| {
                let cell = |r: &Result| {
                    groups(r).get(n).map_or("-".into(), |s| {
                        format!("{}/{} = {}", s.right, s.total, percent(s.accuracy))
                    })
                };
                let mut row = vec![n.clone()];
                row.extend(self.results.iter().map(cell));
                row
            });
            table(&mut out, &headings, rows);
        }
        let paired: Vec<(&str, &Versus)> = self
            .results
            .iter()
            .filter_map(|r| Some((r.strategy.as_str(), r.paired.as_ref()?)))
            .collect();
        if !paired.is_empty() {
            let rows = paired.iter().map(|(name, v)| {
                let c = v.counts;
                let number = |n: usize| n.to_string();
                [
                    (*name).to_owned(),
                    v.against.clone(),
                    number(c.both),
                    number(c.gained),
                    number(c.lost),
                    number(c.neither),
                    format!("{:.4}", v.p),
                    format!("{:+.1}", v.difference * 100.0),
                    format!("{:+.1} to {:+.1}", v.interval.0 * 100.0, v.interval.1 * 100.0),
                    format!("{:.2}", v.overhead),
                ]
            });
            table(
                &mut out,
                &[
                    "strategy",
                    "against",
                    "both right",
                    "gained",
                    "lost",
                    "both wrong",
                    "McNemar p",
                    "difference %",
                    "95 % interval",
                    "time x",
                ],
                rows,
            );
        }
        out
    }
}

/// What the columns mean: a line each, the last of them only where strategies are compared.
const LEGEND: [&str; 6] = [
    "questions: answered so far; unanswered: still to be asked. accuracy: right over questions, with Wilson's 95 % interval",
    "invalid: a reply that is no answer, by the reason (no_answer: none is in it; ambiguous: more than one; not_an_option: a letter \
     that is not there; empty); it counts as wrong",
    "failed: no reply, the reason is in the log's `error`; it counts as wrong. of valid: right over replies that are answers",
    "prefill: mean time of reading a prompt",
    "gained, lost: questions that the first strategy has wrong and this one right, and the other way round; p: exact McNemar test of \
     the two numbers; difference: in points of accuracy, with an interval by samples of whole videos",
    "time: prefill and decoding as a multiple of the first strategy's",
];

fn legend(paired: bool, before: &str, after: &str) -> String {
    let lines = LEGEND.iter().take(if paired { LEGEND.len() } else { 4 });
    lines.flat_map(|l| [before, l, after, "\n"]).collect()
}

/// Reasons with their numbers: `no_answer 9, empty 1`.
fn reasons(s: &Score) -> String {
    let all: Vec<_> = s.reasons.iter().map(|(why, n)| format!("{why} {n}")).collect();
    all.join(", ")
}

fn invalid(s: &Score) -> String {
    if s.reasons.is_empty() {
        return s.invalid.to_string();
    }
    format!("{} ({})", s.invalid, reasons(s))
}

/// The last columns of the comma-separated form.
fn of_whole(r: &Result) -> [String; 13] {
    let number = |x: f64| format!("{x:.6}");
    let paired = |f: &dyn Fn(&Versus) -> String| r.paired.as_ref().map(f).unwrap_or_default();
    [
        r.unanswered.to_string(),
        number(r.prefill_seconds),
        number(r.decode_seconds),
        paired(&|v| v.against.clone()),
        paired(&|v| v.counts.both.to_string()),
        paired(&|v| v.counts.gained.to_string()),
        paired(&|v| v.counts.lost.to_string()),
        paired(&|v| v.counts.neither.to_string()),
        paired(&|v| number(v.p)),
        paired(&|v| number(v.difference)),
        paired(&|v| number(v.interval.0)),
        paired(&|v| number(v.interval.1)),
        paired(&|v| number(v.overhead)),
    ]
}

/// Adds a table in Markdown, aligned.
pub(crate) fn table<R: AsRef<[String]>>(out: &mut String, headings: &[&str], rows: impl Iterator<Item = R>) {
    let rows: Vec<R> = rows.collect();
    let width = |i: usize| {
        let cells = rows.iter().map(|r| r.as_ref()[i].chars().count());
        cells.chain([headings[i].len(), 3]).max().unwrap_or(3)
    };
    let mut line = |cells: &mut dyn Iterator<Item = &str>, fill: char| {
        for (i, cell) in cells.enumerate() {
            let pad: String =
                std::iter::repeat_n(fill, width(i).saturating_sub(cell.chars().count())).collect();
            // Writing to a String cannot fail.
            let _ = write!(out, "| {cell}{pad} ");
        }
        out.push_str("|\n");
    };
    line(&mut headings.iter().copied(), ' ');
    line(&mut headings.iter().map(|_| "---"), '-');
    for row in &rows {
        line(&mut row.as_ref().iter().map(String::as_str), ' ');
    }
    out.push('\n');
}
