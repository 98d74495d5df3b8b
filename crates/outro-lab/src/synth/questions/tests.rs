use std::collections::BTreeMap;

use super::*;

fn drawn(seed: u64, count: u64, level: Level) -> Vec<Question> {
    let one = |i| {
        let mut rng = Rng::new(seed, i);
        let scene = Scene::draw(&mut rng, level);
        questions(&scene, &mut rng, level)
    };
    (0..count)
        .flat_map(one)
        .filter(|q| q.task != Task::Open)
        .collect()
}

/// What a guesser sees: the question, and one option of it. Words, pairs of words and the whole text are features.
fn features(q: &Question, option: &str) -> Vec<String> {
    let words: Vec<&str> = option.split(' ').collect();
    let mut all = vec![q.text.clone()];
    all.extend(words.iter().map(|w| format!("{:?} {w}", q.task)));
    all.extend(q.text.split(' ').map(|w| format!("{option}|{w}")));
    all.extend(q.options.iter().map(|o| format!("{option}/{o}")));
    all.push(format!("{}|{option}", q.text));
    all
}

/// The best guess of naive Bayes over those features, learnt on one set and tried on another.
fn text_only(level: Level) -> BTreeMap<Task, (usize, usize)> {
    let candidates = |q: &Question| -> Vec<(String, bool)> {
        if q.task.is_yes_no() {
            return ["Yes", "No"].map(|a| (a.to_owned(), q.answer == a)).to_vec();
        }
        let right = (q.answer.as_bytes()[0] - b'A') as usize;
        q.options
            .iter()
            .enumerate()
            .map(|(i, o)| (o.clone(), i == right))
            .collect()
    };
    let mut seen: BTreeMap<String, [f64; 2]> = BTreeMap::new();
    for q in drawn(1, 12_000, level) {
        for (option, right) in candidates(&q) {
            for f in features(&q, &option) {
                seen.entry(format!("{f}~{}", if q.task.is_yes_no() { &option } else { "" }))
                    .or_insert([1.0; 2])[usize::from(right)] += 1.0;
            }
        }
    }
    let mut score: BTreeMap<Task, (usize, usize)> = BTreeMap::new();
    for q in drawn(2, 4_000, level) {
        let odds = |option: &str| -> f64 {
            let key = |f: &String| format!("{f}~{}", if q.task.is_yes_no() { option } else { "" });
            features(&q, option)
                .iter()
                .filter_map(|f| seen.get(&key(f)))
                .map(|[no, yes]| (yes / no).ln())
                .sum()
        };
        let best = candidates(&q)
            .into_iter()
            .max_by(|a, b| odds(&a.0).total_cmp(&odds(&b.0)));
        let entry = score.entry(q.task).or_default();
        entry.1 += 1;
        entry.0 += usize::from(best.is_some_and(|(_, right)| right));
    }
    score
}

#[test]
fn words_alone_say_nothing() {
    for level in [Level::Simple, Level::Rich] {
        for (task, (right, total)) in text_only(level) {
            let chance = if task.is_yes_no() { 0.5 } else { 0.25 };
            let share = right as f64 / total as f64;
            println!("{level:?} {task:?}: {right} of {total} = {share:.3}");
            // AV matching has one text and is balanced when a set is written, not when it is drawn.
            let slack = if task == Task::Matching { 0.09 } else { 0.0 };
            let bound = chance + slack + 4.0 * (chance * (1.0 - chance) / total as f64).sqrt() + 0.01;
            assert!(
                total > 500 && share < bound,
                "{level:?} {task:?}: {right} of {total} from the text alone"
            );
        }
    }
}

#[test]
fn options_differ_and_hold_the_answer() {
    for q in drawn(3, 2_000, Level::Rich) {
        if q.task.is_yes_no() {
            assert!(q.options.is_empty() && (q.answer == "Yes" || q.answer == "No"));
            continue;
        }
        let mut options = q.options.clone();
        options.sort();
        options.dedup();
        assert_eq!(options.len(), 4, "{q:?}");
        assert!(("A".."E").contains(&q.answer.as_str()), "{q:?}");
    }
}
