//! Search of the method's settings: which questions are for it, when a setting is hopeless, which one is best.
//!
//! Questions are drawn by whole videos, so that no video is on both sides. Settings are compared video by video: of two
//! settings one wins a video if it answers more of its questions rightly. A setting is hopeless when the evidence that
//! another one wins more videos reaches `settings / RISK`; that evidence ([`evidence`]) may be looked at after every video
//! without losing its meaning, so with probability 1 - [`RISK`] no look drops a setting that is at least as good as all others.

use std::collections::{BTreeSet, HashMap};

use outro::settings::Tuned;
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::log::{Header, Row};
use crate::report::{Versus, report};
use crate::run::groups;
use crate::stats::evidence;
use crate::task::{Loaded, Sample};
use outro::strategy::Strategy;

/// How a log's `split` begins when its questions were used to choose settings.
pub const TUNING: &str = "tuning";
/// Probability with which the best setting may be dropped early.
pub const RISK: f64 = 0.05;

/// Which questions are for tuning.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Split {
    /// Share of the videos.
    pub share: f64,
    /// Another seed is another draw.
    pub seed: u64,
}

impl Split {
    /// Where a video lies, in 0..1; this depends on its name and the seed alone.
    fn place(&self, video: &str) -> f64 {
        let hash = Sha256::digest(format!("outro-tune {} {}", self.seed, key(video)));
        let bytes = hash.iter().take(8).fold(0_u64, |n, b| n << 8 | u64::from(*b));
        bytes as f64 / 2_f64.powi(64)
    }

    /// Questions for tuning, in an order that has nothing to do with the file's: early stopping would else see one
    /// category first. Whole videos, until `most` questions are reached.
    pub fn tuning(&self, samples: &[Sample], most: usize) -> Vec<Sample> {
        let mut drawn: Vec<(f64, Vec<&Sample>)> = groups(samples.iter())
            .into_iter()
            .map(|g| (self.place(&g[0].video_id), g))
            .filter(|(place, _)| *place < self.share)
            .collect();
        drawn.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut out = Vec::new();
        for (_, group) in drawn {
            if out.len() >= most {
                break;
            }
            out.extend(group.into_iter().cloned());
        }
        out
    }

    /// As it stands in a log.
    pub fn name(&self) -> String {
        format!("{TUNING} share={} seed={}", self.share, self.seed)
    }
}

/// A video's name without what the forms of one benchmark differ in: `Videos/a/a_video.mp4` is `a`.
fn key(video: &str) -> &str {
    let name = video.rsplit(['/', '\\']).next().unwrap_or(video);
    let name = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    name.strip_suffix("_video").unwrap_or(name)
}

/// The record of what was used, for the settings file.
pub fn tuned(task: &str, loaded: &Loaded, used: &[Sample]) -> Tuned {
    let videos: BTreeSet<&String> = used.iter().map(|s| &s.video_id).collect();
    Tuned {
        task: task.into(),
        questions_sha256: loaded.sha256.clone(),
        questions: used.len(),
        videos: videos.into_iter().cloned().collect(),
    }
}

/// Takes away the questions about videos on which settings were tuned, and says how many they are and how a log names
/// what is left; `None` where there are none. `conversations` holds other benchmarks' videos, so names alone count there.
pub fn hold_out(task: &str, samples: &mut Vec<Sample>, tuned: &[Tuned]) -> Option<(usize, String)> {
    const ANY: &str = "conversations";
    let alike = |t: &&Tuned| t.task == task || t.task == ANY || task == ANY;
    let used: BTreeSet<&str> = tuned
        .iter()
        .filter(alike)
        .flat_map(|t| &t.videos)
        .map(|v| key(v))
        .collect();
    let before = samples.len();
    samples.retain(|s| !used.contains(key(&s.video_id)));
    let gone = before - samples.len();
    let names: Vec<&str> = used.into_iter().collect();
    let hash = crate::task::hex(names.join("\n").as_bytes());
    (gone > 0).then(|| {
        (
            gone,
            format!("held out: without {gone} questions of tuning, {}", &hash[..16]),
        )
    })
}

/// Names of all settings of a grid, `baseline` first. Each key has its values as they are typed (lists with `+`); a key
/// without values stays as the model has it.
///
/// # Errors
/// A grid without settings; a setting that is there twice.
pub fn grid(keys: &[(&str, &[String])]) -> Result<Vec<String>> {
    let mut all = vec![Vec::new()];
    for (key, values) in keys.iter().filter(|(_, v)| !v.is_empty()) {
        let with = |start: &Vec<String>| -> Vec<Vec<String>> {
            let one = |v: &String| [start.clone(), vec![format!("{key}={v}")]].concat();
            values.iter().map(one).collect()
        };
        all = all.iter().flat_map(with).collect();
    }
    let mut names = vec!["baseline".to_owned()];
    for switches in all {
        let name = format!("outro:{}", switches.join(","));
        if switches.is_empty() || names.contains(&name) {
            return Err(Error::setting(
                "grid",
                format!("`{name}` is there twice, or nothing is varied"),
            ));
        }
        names.push(name);
    }
    Ok(names)
}

/// A search: settings and the questions to choose among them.
pub struct Search<'a> {
    strategies: &'a [Strategy],
    groups: Vec<Vec<&'a Sample>>,
}

/// Why a setting is asked no more.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Dropped {
    /// After how many questions.
    pub after: usize,
    /// The strategy that is better.
    pub than: String,
    /// Videos on which the other one was better, and worse.
    pub videos: (usize, usize),
    /// `evidence`, or `out of reach`: not even all questions that are left would bring it level.
    pub why: String,
}

/// Where a search stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// Why each strategy was dropped; `None` while it is in. The plain model stays.
    pub dropped: Vec<Option<Dropped>>,
    /// Whether every question has been answered by all that are in, or no setting is left.
    pub done: bool,
}

impl<'a> Search<'a> {
    /// `strategies` begin with the plain model; `samples` are in the order in which they are asked.
    pub fn new(strategies: &'a [Strategy], samples: &'a [Sample]) -> Self {
        Self {
            strategies,
            groups: groups(samples.iter()),
        }
    }

    /// Strategies that are to answer the next video's questions; none when the search is over.
    pub fn wanted(&self, rows: &[Row]) -> Vec<Strategy> {
        let standing = self.standing(rows);
        if standing.done {
            return Vec::new();
        }
        let alive = self.strategies.iter().zip(&standing.dropped);
        alive
            .filter(|(_, d)| d.is_none())
            .map(|(s, _)| s.clone())
            .collect()
    }

    /// What the rows say. Videos are gone through in order up to the first that is not answered in full, so that a run that
    /// was cut anywhere decides as one that was not.
    pub fn standing(&self, rows: &[Row]) -> Standing {
        let n = self.strategies.len();
        let right: HashMap<(&str, &str), bool> = rows
            .iter()
            .map(|r| ((r.id.as_str(), r.strategy.as_str()), r.right))
            .collect();
        let total: usize = self.groups.iter().map(Vec::len).sum();
        // Right answers; videos won by the first over the second.
        let (mut sums, mut wins) = (vec![0; n], vec![vec![0_usize; n]; n]);
        let mut dropped: Vec<Option<Dropped>> = vec![None; n];
        let mut asked = 0;
        for group in &self.groups {
            let mut counts = vec![None; n];
            for i in (0..n).filter(|i| dropped[*i].is_none()) {
                let name = self.strategies[i].name.as_str();
                let mut count = 0;
                for sample in group {
                    let Some(right) = right.get(&(sample.id.as_str(), name)) else {
                        return Standing { dropped, done: false };
                    };
                    count += usize::from(*right);
                }
                counts[i] = Some(count);
                sums[i] += count;
            }
            for i in 0..n {
                for j in 0..n {
                    wins[i][j] += usize::from(counts[i].zip(counts[j]).is_some_and(|(a, b)| a > b));
                }
            }
            asked += group.len();
            self.drop_hopeless(&mut dropped, &sums, &wins, asked, total - asked);
            if dropped[1..].iter().all(Option::is_some) {
                break;
            }
        }
        Standing { dropped, done: true }
    }

    fn drop_hopeless(
        &self,
        dropped: &mut [Option<Dropped>],
        sums: &[usize],
        wins: &[Vec<usize>],
        asked: usize,
        left: usize,
    ) {
        let alive: Vec<usize> = (0..dropped.len()).filter(|i| dropped[*i].is_none()).collect();
        let threshold = ((dropped.len() - 1) as f64 / RISK).ln();
        for i in alive.iter().copied().filter(|i| *i > 0) {
            let beaten = alive.iter().copied().find_map(|j| {
                let why = if left > 0 && sums[i] + left < sums[j] {
                    "out of reach"
                } else if j != i && evidence(wins[j][i], wins[i][j]) >= threshold {
                    "evidence"
                } else {
                    return None;
                };
                Some((j, why))
            });
            dropped[i] = beaten.map(|(j, why)| Dropped {
                after: asked,
                than: self.strategies[j].name.clone(),
                videos: (wins[j][i], wins[i][j]),
                why: why.into(),
            });
        }
    }
}

/// A setting's result.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Tried {
    /// The strategy.
    pub strategy: String,
    /// Questions that it was asked.
    pub questions: usize,
    /// Right answers.
    pub right: usize,
    /// Against the plain model, on the same questions; `None` for the plain model itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paired: Option<Versus>,
    /// The exact McNemar p times the number of settings that were tried, at most 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p_times_settings: Option<f64>,
    /// Why it was not asked everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dropped: Option<Dropped>,
}

/// A search's result.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// The plain model, then all settings in the order of the grid.
    pub tried: Vec<Tried>,
    /// The setting with the most right answers among those that were asked everything; `None` where the plain model has as
    /// many. Of equals the first of the grid.
    pub best: Option<String>,
}

/// Sums a search up.
pub fn outcome(header: &Header, rows: &[Row], standing: &Standing) -> Outcome {
    let results = report(header, rows).results;
    let settings = results.len().saturating_sub(1).max(1) as f64;
    let tried: Vec<Tried> = results
        .into_iter()
        .zip(&standing.dropped)
        .map(|(r, dropped)| Tried {
            strategy: r.strategy,
            questions: r.all.total,
            right: r.all.right,
            p_times_settings: r.paired.as_ref().map(|p| (p.p * settings).min(1.0)),
            paired: r.paired,
            dropped: dropped.clone(),
        })
        .collect();
    let mut best: Option<&Tried> = None;
    for t in tried.iter().filter(|t| t.dropped.is_none()) {
        if best.is_none_or(|b| t.right > b.right) {
            best = Some(t);
        }
    }
    let best = best.filter(|b| b.paired.is_some()).map(|b| b.strategy.clone());
    Outcome { tried, best }
}

/// The switches of a strategy's name as `outro.json` has them: numbers as they were typed, lists as lists.
pub fn fields(name: &str) -> Vec<(String, Value)> {
    let switches = name.split_once(':').map_or("", |(_, s)| s);
    let pairs = switches.split(',').filter_map(|s| s.split_once('='));
    let value = |key: &str, text: &str| match serde_json::from_str(text) {
        _ if text == "default" => Value::Null,
        Ok(value) if key != "layers" => value,
        _ if key == "layers" => text.split('+').filter_map(|n| n.parse::<usize>().ok()).collect(),
        _ => text.into(),
    };
    pairs
        .map(|(k, v)| (k.trim().to_owned(), value(k.trim(), v.trim())))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use outro::method::OutRoConfig;

    use super::*;
    use crate::stats::Paired;
    use crate::synth::Rng;
    use crate::task::Gold;

    fn samples(videos: usize, each: usize) -> Vec<Sample> {
        let sample = |v: usize, q: usize| Sample {
            id: format!("{v:04}-{q}"),
            video_id: format!("v{v}"),
            video: format!("v{v}.mp4").into(),
            clip: None,
            category: "c".into(),
            groups: BTreeMap::new(),
            needs: None,
            prompt: format!("question {q}"),
            options: Vec::new(),
            gold: Gold::YesNo(true),
        };
        (0..videos)
            .flat_map(|v| (0..each).map(move |q| sample(v, q)))
            .collect()
    }

    fn strategies(names: &[&str]) -> Vec<Strategy> {
        let base = OutRoConfig::default();
        names.iter().map(|n| Strategy::parse(n, &base).unwrap()).collect()
    }

    /// Answers whatever is wanted, video by video, as a run does; `rights` says whether strategy i answers a sample rightly.
    fn run(
        search: &Search,
        samples: &[Sample],
        rows: &mut Vec<Row>,
        most: usize,
        rights: &dyn Fn(usize, &Sample) -> bool,
    ) {
        for group in groups(samples.iter()) {
            let wanted = search.wanted(rows);
            for sample in group {
                for (i, s) in search.strategies.iter().enumerate() {
                    let there = rows.iter().any(|r| r.id == sample.id && r.strategy == s.name);
                    if !wanted.contains(s) || there {
                        continue;
                    }
                    if rows.len() >= most {
                        return;
                    }
                    rows.push(Row {
                        id: sample.id.clone(),
                        video: sample.video_id.clone(),
                        strategy: s.name.clone(),
                        right: rights(i, sample),
                        ..Row::default()
                    });
                }
            }
        }
    }

    #[test]
    fn a_split_is_by_videos_and_the_rest_is_what_is_held_out() {
        let all = samples(400, 3);
        let split = Split { share: 0.3, seed: 0 };
        let used = split.tuning(&all, usize::MAX);
        let videos: BTreeSet<_> = used.iter().map(|s| &s.video_id).collect();
        assert_eq!(used.len(), 3 * videos.len(), "whole videos");
        assert!((90..150).contains(&videos.len()), "{}", videos.len());
        assert_ne!(used, Split { share: 0.3, seed: 1 }.tuning(&all, usize::MAX));
        // The order of the file is not that of the questions, and a file in another order gives the same ones.
        assert!(!used.is_sorted_by_key(|s| s.id.clone()));
        let mut other = all.clone();
        other.reverse();
        let mut again = split.tuning(&other, usize::MAX);
        let mut sorted = used.clone();
        again.sort_by_key(|s| s.id.clone());
        sorted.sort_by_key(|s| s.id.clone());
        assert_eq!(again, sorted);
        assert_eq!(split.tuning(&all, 10).len(), 12, "whole videos");
        let loaded = Loaded {
            samples: all.clone(),
            file: "qa.json".into(),
            sha256: "x".into(),
            left_out: BTreeMap::new(),
        };
        let record = tuned("daily-omni", &loaded, &used);
        let mut rest = all.clone();
        let (gone, _) = hold_out("daily-omni", &mut rest, std::slice::from_ref(&record)).unwrap();
        assert_eq!((gone, rest.len()), (used.len(), all.len() - used.len()));
        assert!(rest.iter().all(|s| !videos.contains(&s.video_id)));
        // Another benchmark has other videos; the authors' files name the same ones by their paths.
        assert_eq!(
            hold_out("avhbench", &mut all.clone(), std::slice::from_ref(&record)),
            None
        );
        let mut paths = all.clone();
        for s in &mut paths {
            s.video_id = format!("Videos/{0}/{0}_video.mp4", s.video_id);
        }
        assert_eq!(
            hold_out("conversations", &mut paths, &[record]).unwrap().0,
            used.len()
        );
    }

    #[test]
    fn hopeless_settings_are_dropped_and_a_cut_run_decides_alike() {
        let all = samples(60, 2);
        let strategies = strategies(&["baseline", "outro:gamma=1", "outro:gamma=2", "outro:gamma=9"]);
        let search = Search::new(&strategies, &all);
        // The second is a little better than the plain model, the third equal to it, the last one always wrong.
        let rights = |i: usize, s: &Sample| {
            let number: usize = s.id.replace('-', "").parse().unwrap();
            match i {
                1 => number % 10 < 7 || number % 50 == 9,
                3 => false,
                _ => number % 10 < 7,
            }
        };
        let mut whole = Vec::new();
        run(&search, &all, &mut whole, usize::MAX, &rights);
        let standing = search.standing(&whole);
        assert!(standing.done && search.wanted(&whole).is_empty());
        let last = standing.dropped[3].as_ref().unwrap();
        assert!(last.after < 60 && last.videos.1 == 0, "{last:?}");
        assert_eq!(standing.dropped[..3], [None, None, None]);
        for most in [0, 1, 7, 8, 31, 100, 333] {
            let mut rows = Vec::new();
            run(&search, &all, &mut rows, most, &rights);
            run(&search, &all, &mut rows, usize::MAX, &rights);
            let key = |r: &Row| (r.id.clone(), r.strategy.clone());
            rows.sort_by_key(key);
            whole.sort_by_key(key);
            assert_eq!(rows, whole, "cut after {most} rows");
        }
        // A setting that can no longer reach another one is dropped at the latest then.
        let few = &all[..6];
        let search = Search::new(&strategies, few);
        let mut rows = Vec::new();
        run(&search, few, &mut rows, usize::MAX, &|i, _| i != 3);
        assert_eq!(
            search.standing(&rows).dropped[3].as_ref().unwrap().why,
            "out of reach"
        );
    }

    /// What the module promises: the best setting is dropped in at most 5 % of the searches. Here all are equally good, so
    /// that any of them being dropped by evidence against any other would be a mistake; the promise holds for each.
    #[test]
    fn the_best_is_rarely_dropped() {
        let all = samples(120, 1);
        let strategies = strategies(&["baseline", "outro:gamma=1", "outro:gamma=2", "outro:gamma=3"]);
        let search = Search::new(&strategies, &all);
        let mut mistakes = 0;
        for seed in 0..60 {
            let mut rng = Rng::new(seed, 0);
            let answers = all.iter().flat_map(|s| strategies.iter().map(move |by| (s, by)));
            let rows: Vec<Row> = answers
                .map(|(s, by)| Row {
                    id: s.id.clone(),
                    video: s.video_id.clone(),
                    strategy: by.name.clone(),
                    right: rng.below(2) == 0,
                    ..Row::default()
                })
                .collect();
            let dropped = search.standing(&rows).dropped;
            mistakes += usize::from(dropped[1].as_ref().is_some_and(|d| d.why == "evidence"));
        }
        assert!(mistakes <= 3, "{mistakes} of 60");
    }

    #[test]
    fn the_best_is_named_and_equals_are_not_better() {
        let all = samples(10, 1);
        let strategies = strategies(&["baseline", "outro:gamma=1", "outro:gamma=2"]);
        let search = Search::new(&strategies, &all);
        let of = |rights: [usize; 3]| {
            let mut rows = Vec::new();
            run(&search, &all, &mut rows, usize::MAX, &|i, s| {
                s.id[..4].parse::<usize>().unwrap() < rights[i]
            });
            let header = Header {
                strategies: strategies.clone(),
                ..Header::default()
            };
            outcome(&header, &rows, &search.standing(&rows))
        };
        assert_eq!(of([5, 5, 4]).best, None);
        assert_eq!(of([5, 6, 6]).best.as_deref(), Some("outro:gamma=1"));
        let found = of([5, 6, 8]);
        assert_eq!(found.best.as_deref(), Some("outro:gamma=2"));
        let counts = Paired {
            both: 5,
            gained: 3,
            lost: 0,
            neither: 2,
        };
        assert_eq!(found.tried[2].paired.as_ref().unwrap().counts, counts);
        let p = found.tried[2].p_times_settings.unwrap();
        assert!((p - 0.5).abs() < 1e-12, "{p}");
    }

    #[test]
    fn grids_and_fields() {
        let list = |all: &[&str]| all.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let (gamma, layers) = (list(&["1", "2"]), list(&["default", "0+5"]));
        let names = grid(&[("gamma", &gamma), ("gate_temperature", &[]), ("layers", &layers)]).unwrap();
        assert_eq!(names.len(), 5);
        assert_eq!(names[4], "outro:gamma=2,layers=0+5");
        assert_eq!(
            fields("outro:gamma=0.1,layers=0+5,decode=release"),
            [
                ("gamma".to_owned(), 0.1.into()),
                ("layers".into(), serde_json::json!([0, 5])),
                ("decode".into(), "release".into())
            ]
        );
        assert_eq!(fields("outro:layers=default")[0].1, Value::Null);
        assert!(grid(&[("gamma", &[])]).is_err() && grid(&[("gamma", &list(&["1", "1"]))]).is_err());
    }
}
