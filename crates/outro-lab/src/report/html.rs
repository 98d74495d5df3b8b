//! The report as one page that needs nothing else.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{Pictures, Report, Score, report};
use crate::log::{Header, Row};

/// One self-contained page about runs: tables, figures, and all answers with filters.
pub fn page(runs: &[(Header, Vec<Row>)], pictures: &Pictures) -> String {
    let (mut sections, mut data) = (String::new(), Vec::new());
    for (header, rows) in runs {
        section(&mut sections, &report(header, rows));
        data.extend(questions(header, rows));
    }
    // `<` inside a script could end it.
    let data = Value::Array(data).to_string().replace('<', "\\u003c");
    let page = include_str!("page.html").replacen("{{sections}}", &sections, 1);
    page.replacen("{{data}}", &data, 1)
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
        "<h2>{}</h2><p>{} questions{}, model {}, profile {}, parser {}, read from {}, ablation {}</p>",
        escape(&run.task),
        run.questions,
        run.shard
            .as_ref()
            .map_or(String::new(), |s| format!(" (shard {s})")),
        escape(&run.model),
        escape(&run.profile),
        escape(&run.parser),
        escape(&run.readout),
        escape(&run.ablation),
    );
    tables(out, &report.markdown());
    for division in report.divisions() {
        let mut bars: BTreeMap<&str, Vec<(&str, &Score)>> = BTreeMap::new();
        for result in &report.results {
            for (part, score) in result.division(&division).into_iter().flatten() {
                bars.entry(part).or_default().push((&result.strategy, score));
            }
        }
        figure(out, &division, &bars);
    }
}

/// The tables of the Markdown form, which has no other bars than its own.
fn tables(out: &mut String, markdown: &str) {
    for table in markdown.split("\n\n").filter(|t| !t.trim().is_empty()) {
        out.push_str("<table>");
        for (i, line) in table.lines().enumerate().filter(|(i, _)| *i != 1) {
            let tag = if i == 0 { "th" } else { "td" };
            out.push_str("<tr>");
            for cell in line.trim_matches('|').split('|') {
                let _ = write!(out, "<{tag}>{}</{tag}>", escape(cell.trim()));
            }
            out.push_str("</tr>");
        }
        out.push_str("</table>");
    }
}

/// Accuracies with Wilson's intervals, a bar per part and strategy.
fn figure(out: &mut String, title: &str, bars: &BTreeMap<&str, Vec<(&str, &Score)>>) {
    const COLOURS: [&str; 6] = ["#8899aa", "#d9822b", "#3f7fbf", "#5a9e6f", "#a05195", "#b5a642"];
    const LEFT: f64 = 330.0;
    const WIDTH: f64 = 420.0;
    let lines: usize = bars.values().map(Vec::len).sum();
    let height = 20 * lines + 14 * bars.len() + 30;
    let _ = write!(
        out,
        "<svg width=\"900\" height=\"{height}\" role=\"img\"><title>accuracy by {}</title>",
        escape(title)
    );
    let mut y = 14.0;
    for (part, scores) in bars {
        let _ = write!(out, "<text x=\"0\" y=\"{:.0}\">{}</text>", y + 12.0, escape(part));
        for (i, (strategy, s)) in scores.iter().enumerate() {
            let at = |share: f64| LEFT + WIDTH * share;
            let middle = y + 8.0;
            let _ = write!(
                out,
                "<rect x=\"{LEFT}\" y=\"{y:.0}\" width=\"{:.1}\" height=\"16\" fill=\"{}\"/>\
                 <line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{middle:.0}\" y2=\"{middle:.0}\" stroke=\"currentColor\"/>\
                 <text x=\"{:.0}\" y=\"{:.0}\">{} {:.1} % of {}</text>",
                WIDTH * s.accuracy,
                COLOURS[i % COLOURS.len()],
                at(s.interval.0),
                at(s.interval.1),
                LEFT + WIDTH + 8.0,
                y + 12.0,
                escape(strategy),
                100.0 * s.accuracy,
                s.total,
            );
            y += 20.0;
        }
        y += 14.0;
    }
    out.push_str("</svg>");
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
        let answer = |r: &&Row| json!({"strategy": r.strategy, "reply": r.reply, "right": r.right, "invalid": r.invalid, "error": r.error});
        json!({
            "task": header.task, "id": first.id, "video": first.video, "category": first.category, "question": first.question,
            "gold": first.gold.as_ref().map(crate::task::Gold::text), "answers": answers.iter().map(answer).collect::<Vec<_>>(),
        })
    };
    by_id.into_values().map(question).collect()
}
