//! A log's replies read anew by another parser.

use crate::choice::Parser;
use crate::error::{Error, Result};
use crate::log::{Header, Row};
use crate::report::table;

/// What changed among the answers of one strategy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Its name.
    pub strategy: String,
    /// Its answers.
    pub replies: usize,
    /// Answers that are now others, or now are some, or none.
    pub changed: usize,
    /// Right answers before and now.
    pub right: [usize; 2],
    /// Replies that are no answer, before and now.
    pub invalid: [usize; 2],
    /// Now right and before not.
    pub gained: usize,
    /// Before right and now not.
    pub lost: usize,
}

/// A run with its replies read by `parser`, and what that changed, in the order of the run's strategies.
///
/// # Errors
/// A run whose answers were not taken from replies.
pub fn rescore(header: &Header, rows: &[Row], parser: Parser) -> Result<(Header, Vec<Row>, Vec<Changes>)> {
    if header.readout != "text" {
        let problem = format!(
            "the answers of {} were read from {}, not from replies",
            header.task, header.readout
        );
        return Err(Error::setting("parser", problem));
    }
    let header = Header {
        parser: parser.name().into(),
        ..header.clone()
    };
    let mut read = rows.to_vec();
    for row in &mut read {
        row.read(parser);
    }
    let of = |name: &String| {
        let mut c = Changes {
            strategy: name.clone(),
            ..Changes::default()
        };
        for (a, b) in rows.iter().zip(&read).filter(|(a, _)| a.strategy == *name) {
            c.replies += 1;
            c.changed += usize::from(a.parsed != b.parsed);
            c.gained += usize::from(b.right && !a.right);
            c.lost += usize::from(a.right && !b.right);
            for (i, row) in [a, b].into_iter().enumerate() {
                c.right[i] += usize::from(row.right);
                c.invalid[i] += usize::from(row.invalid.is_some());
            }
        }
        c
    };
    let changes = header.strategies.iter().map(|s| of(&s.name)).collect();
    Ok((header, read, changes))
}

/// As a table in Markdown.
pub fn markdown(changes: &[Changes]) -> String {
    let mut out = String::new();
    let headings = [
        "strategy",
        "replies",
        "changed",
        "gained",
        "lost",
        "right before",
        "right now",
        "invalid before",
        "invalid now",
    ];
    let rows = changes.iter().map(|c| {
        let numbers = [
            c.replies,
            c.changed,
            c.gained,
            c.lost,
            c.right[0],
            c.right[1],
            c.invalid[0],
            c.invalid[1],
        ];
        let mut row = vec![c.strategy.clone()];
        row.extend(numbers.map(|n| n.to_string()));
        row
    });
    table(&mut out, &headings, rows);
    out
}
