//! The report as one page that needs nothing else.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{Pictures, Report, Score, legend, report};
use crate::log::{Header, Row};

const PAGE: &str = include_str!("page.html");

/// One self-contained page about runs: tables, figures, and all answers with filters; a function of the
/// logs, and of the pictures where there are some.
pub fn page(runs: &[(Header, Vec<Row>)], pictures: &Pictures) -> String {
    let (mut sections, mut data) = (String::new(), Vec::new());
    for (header, rows) in runs {
        section(&mut sections, &report(header, rows));
        data.extend(questions(header, rows));
    }
    // `<` inside a script could end it.
    let data = Value::Array(data).to_string().replace('<', "\\u003c");
    // A video of several tasks, or of many questions, has its picture once.
    let mut by_task: BTreeMap<&str, BTreeMap<&str, &str>> = BTreeMap::new();
    for ((task, video), picture) in pictures {
        by_task.entry(task).or_default().insert(video, picture);
    }
    let pictures = json!(by_task).to_string().replace('<', "\\u003c");
    // In one pass, so that no answer can stand for a part of the page.
    let (head, rest) = PAGE.split_once("{{sections}}").unwrap_or((PAGE, ""));
    let (middle, rest) = rest.split_once("{{data}}").unwrap_or((rest, ""));
    let (between, tail) = rest.split_once("{{pictures}}").unwrap_or((rest, ""));
    [head, &sections, middle, &data, between, &pictures, tail].concat()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

fn section(out: &mut String, report: &Report) {
    let run = &report.run;
    // Writing to a String cannot fail, here and below.
    let _ = write!(
        out,
        "<h2>{}</h2><p class=\"run\">{} questions{}, model {}{}, profile {}, parser {}, read from {}, ablation {}</p>",
        escape(&run.task),
        run.questions,
        [("shard ", &run.shard), ("", &run.split)]
            .map(|(name, value)| value
                .as_ref()
                .map_or(String::new(), |v| format!(" ({name}{})", escape(v))))
            .concat(),
        escape(&run.model),
        run.answerer
            .as_ref()
            .map_or(String::new(), |a| format!(" by {}", escape(a))),
        escape(&run.profile),
        escape(&run.parser),
        escape(&run.readout),
        escape(&run.ablation),
    );
    tables(out, &report.tables());
    let paired = report.results.iter().any(|r| r.paired.is_some());
    let _ = write!(
        out,
        "<details><summary>What the columns mean</summary><ul>{}</ul></details>",
        legend(paired, "<li>", "</li>")
    );
    differences(out, report);
    for division in report.divisions() {
        let mut bars: BTreeMap<&str, Vec<(&str, &Score)>> = BTreeMap::new();
        for result in &report.results {
            for (part, score) in result.division(&division).into_iter().flatten() {
                bars.entry(part).or_default().push((&result.strategy, score));
            }
        }
        // One part is the whole.
        if bars.len() > 1 || division == "category" {
            figure(out, &division, &bars);
        }
    }
}

/// The tables of the Markdown form, which has no other bars than its own.
fn tables(out: &mut String, markdown: &str) {
    for table in markdown.split("\n\n").filter(|t| !t.trim().is_empty()) {
        out.push_str("<div class=\"wide\"><table class=\"numbers\">");
        for (i, line) in table.lines().enumerate().filter(|(i, _)| *i != 1) {
            let tag = if i == 0 { "th" } else { "td" };
            out.push_str(if i == 0 { "<thead><tr>" } else { "<tr>" });
            for cell in line.trim_matches('|').split('|') {
                let _ = write!(out, "<{tag}>{}</{tag}>", escape(cell.trim()));
            }
            out.push_str(if i == 0 { "</tr></thead>" } else { "</tr>" });
        }
        out.push_str("</table></div>");
    }
}

const COLOURS: [&str; 6] = ["#8494a5", "#d9822b", "#3f7fbf", "#5a9e6f", "#a05195", "#b5a642"];
/// Columns of a figure, in pixels: labels, the scale, values.
const LEFT: f64 = 230.0;
const SCALE: f64 = 480.0;
const TOTAL: f64 = 920.0;

fn svg(out: &mut String, title: &str, height: f64, content: &str) {
    let _ = write!(
        out,
        "<figure><figcaption>{0}</figcaption><svg viewBox=\"0 0 {TOTAL} {height}\" width=\"{TOTAL}\" height=\"{height}\" \
         role=\"img\"><title>{0}</title>{content}</svg></figure>",
        escape(title)
    );
}

/// Thin lines over a figure's height, each with its value.
fn grid(out: &mut String, height: f64, lines: &[(f64, String)]) {
    for (at, label) in lines {
        let _ = write!(
            out,
            "<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"16\" y2=\"{height:.0}\"/>\
             <text class=\"axis\" x=\"{at:.1}\" y=\"11\">{label}</text>"
        );
    }
}

/// An interval with ends, and the value's text behind the scale.
fn interval(out: &mut String, (low, high): (f64, f64), middle: f64, value: &str) {
    let _ = write!(
        out,
        "<path class=\"interval\" d=\"M{low:.1} {a:.0}V{b:.0}M{low:.1} {middle:.0}H{high:.1}M{high:.1} {a:.0}V{b:.0}\"/>\
         <text x=\"{:.0}\" y=\"{:.0}\">{value}</text>",
        LEFT + SCALE + 12.0,
        middle + 4.0,
        a = middle - 4.0,
        b = middle + 4.0,
    );
}

/// Accuracies with Wilson's intervals, a bar per part and strategy.
fn figure(out: &mut String, title: &str, bars: &BTreeMap<&str, Vec<(&str, &Score)>>) {
    let at = |share: f64| LEFT + SCALE * share;
    let (mut y, mut inner) = (24.0, String::new());
    for (part, scores) in bars {
        let _ = write!(
            inner,
            "<text class=\"part\" x=\"0\" y=\"{:.0}\">{}</text>",
            y + 12.0,
            escape(part)
        );
        y += 18.0;
        for (i, (strategy, s)) in scores.iter().enumerate() {
            let _ = write!(
                inner,
                "<text x=\"12\" y=\"{:.0}\">{}</text><rect x=\"{LEFT}\" y=\"{:.0}\" width=\"{:.1}\" height=\"14\" fill=\"{}\"/>",
                y + 12.0,
                escape(&shortened(strategy)),
                y + 1.0,
                SCALE * s.accuracy,
                COLOURS[i % COLOURS.len()],
            );
            let value = format!("{:.1} % ({} of {})", 100.0 * s.accuracy, s.right, s.total);
            interval(&mut inner, (at(s.interval.0), at(s.interval.1)), y + 8.0, &value);
            y += 20.0;
        }
        y += 10.0;
    }
    let lines: Vec<_> = (0..=4)
        .map(|i| (at(f64::from(i) / 4.0), format!("{} %", 25 * i)))
        .collect();
    let mut content = String::new();
    grid(&mut content, y, &lines);
    svg(
        out,
        &format!("Accuracy by {title}, Wilson's 95 % intervals"),
        y,
        &(content + &inner),
    );
}

/// What each strategy gained and lost against the first, and the difference with its interval.
fn differences(out: &mut String, report: &Report) {
    let versus = report
        .results
        .iter()
        .filter_map(|r| Some((&r.strategy, r.paired.as_ref()?)));
    let versus: Vec<_> = versus.collect();
    let Some((_, first)) = versus.first() else { return };
    let ends = versus
        .iter()
        .flat_map(|(_, v)| [v.interval.0.abs(), v.interval.1.abs()]);
    // Whole percents, at least two, so that a scale of noise looks like one.
    let most = ends.fold(0.02_f64, f64::max).mul_add(100.0, 0.5).ceil() / 100.0;
    let at = |d: f64| LEFT + SCALE * (0.5 + d / most / 2.0);
    let lines: Vec<_> = [-1.0, -0.5, 0.0, 0.5, 1.0]
        .map(|s| (at(s * most), format!("{:+.1}", 100.0 * s * most)))
        .to_vec();
    let (mut y, mut inner) = (24.0, String::new());
    for (i, (strategy, v)) in versus.iter().enumerate() {
        let _ = write!(
            inner,
            "<text x=\"0\" y=\"{:.0}\">{}</text><circle cx=\"{:.1}\" cy=\"{:.0}\" r=\"5\" fill=\"{}\"/>",
            y + 12.0,
            escape(&shortened(strategy)),
            at(v.difference),
            y + 8.0,
            COLOURS[(i + 1) % COLOURS.len()],
        );
        let value = format!("{} gained, {} lost, p {:.3}", v.counts.gained, v.counts.lost, v.p);
        interval(&mut inner, (at(v.interval.0), at(v.interval.1)), y + 8.0, &value);
        y += 24.0;
    }
    let mut content = String::new();
    grid(&mut content, y, &lines);
    let title = format!(
        "Difference from {} in points of accuracy, 95 % intervals by samples of whole videos",
        first.against
    );
    svg(out, &title, y, &(content + &inner));
}

/// A strategy's name as far as it fits before the scale.
fn shortened(name: &str) -> String {
    const MOST: usize = 34;
    if name.chars().count() <= MOST {
        return name.into();
    }
    name.chars().take(MOST - 1).chain(['…']).collect()
}

/// Every question with the answers of all strategies, in the run's order of strategies.
fn questions(header: &Header, rows: &[Row]) -> Vec<Value> {
    let mut by_id: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
    for row in rows {
        by_id.entry(&row.id).or_default().push(row);
    }
    let place = |r: &Row| header.strategies.iter().position(|s| s.name == r.strategy);
    let question = |mut answers: Vec<&Row>| {
        answers.sort_by_key(|r| place(r));
        let first = answers[0];
        let answer = |r: &&Row| {
            json!({
                "strategy": r.strategy, "reply": r.reply, "parsed": r.parsed, "right": r.right, "invalid": r.invalid, "error": r.error,
            })
        };
        json!({
            "task": header.task, "id": first.id, "video": first.video, "category": first.category, "question": first.question,
            "options": first.options,
            "gold": first.gold.as_ref().map(crate::task::Gold::text), "answers": answers.iter().map(answer).collect::<Vec<_>>(),
        })
    };
    by_id.into_values().map(question).collect()
}
