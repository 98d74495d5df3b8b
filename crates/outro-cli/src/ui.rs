//! What a person sees on stderr: progress when it is a terminal, notes unless `--quiet`. Answers never pass here.

use std::io::{IsTerminal, Write};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
pub(crate) use outro_hub::human_bytes as bytes;

/// The terminal, as far as the commands may use it.
#[derive(Clone, Debug)]
pub(crate) struct Ui {
    progress: bool,
    notes: bool,
}

/// What a progress bar counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Things: layers, frames, tokens.
    Count,
    /// Answers of a run, whose label has the rate: a run that goes on begins with many.
    Answers,
    /// Bytes of a transfer.
    Bytes,
}

/// A progress line. It disappears when dropped; [`Bar::done`] leaves one line behind.
#[derive(Debug)]
pub(crate) struct Bar {
    bar: ProgressBar,
    since: Instant,
}

impl Ui {
    /// Progress appears only on a terminal; `quiet` silences notes as well.
    pub(crate) fn new(quiet: bool) -> Self {
        Self {
            progress: !quiet && std::io::stderr().is_terminal(),
            notes: !quiet,
        }
    }

    /// Something that the user should know and that is not an error: one line, `note: ...`.
    pub(crate) fn note(&self, text: &str) {
        if self.notes {
            // A closed stderr is no reason to fail.
            let _ = writeln!(std::io::stderr().lock(), "note: {text}");
        }
    }

    /// Whether notes are seen.
    pub(crate) fn shows_notes(&self) -> bool {
        self.notes
    }

    /// Whether bars are seen.
    pub(crate) fn shows_progress(&self) -> bool {
        self.progress
    }

    /// A bar with a known total, or a spinner where `total` is 0.
    pub(crate) fn bar(&self, label: &str, total: u64, unit: Unit) -> Bar {
        let target = if self.progress {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = if total == 0 {
            ProgressBar::no_length()
        } else {
            ProgressBar::new(total)
        };
        bar.set_draw_target(target);
        let template = match (total, unit) {
            (0, Unit::Count | Unit::Answers) => "{msg} {spinner} {elapsed}",
            (0, Unit::Bytes) => "{msg} {spinner} {bytes} {bytes_per_sec} {elapsed}",
            (_, Unit::Count) => "{msg} {wide_bar} {pos}/{len} {per_sec} {elapsed}",
            (_, Unit::Answers) => "{msg} {wide_bar} {pos}/{len} {elapsed}",
            (_, Unit::Bytes) => "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {elapsed}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(label.to_owned());
        if self.progress {
            bar.enable_steady_tick(std::time::Duration::from_millis(200));
        }
        Bar {
            bar,
            since: Instant::now(),
        }
    }

    /// A line that stays, shown only where progress is shown.
    pub(crate) fn line(&self, text: &str) {
        if self.progress {
            let _ = writeln!(std::io::stderr().lock(), "{text}");
        }
    }
}

impl Bar {
    /// How far it is.
    pub(crate) fn set(&self, position: u64) {
        self.bar.set_position(position);
    }

    /// One more is done; any thread may say so.
    pub(crate) fn more(&self) {
        self.bar.inc(1);
    }

    /// A total that became known later.
    pub(crate) fn total(&self, total: u64) {
        self.bar.set_length(total);
    }

    /// Replaces the label.
    pub(crate) fn label(&self, label: &str) {
        self.bar.set_message(label.to_owned());
    }

    /// Lets something be written while the bar is away.
    pub(crate) fn aside(&self, say: impl FnOnce()) {
        self.bar.suspend(say);
    }

    /// Clears the bar for good.
    pub(crate) fn hide(&self) {
        self.bar.finish_and_clear();
    }

    /// Clears the bar and returns the seconds since it appeared.
    pub(crate) fn done(self) -> f64 {
        self.bar.finish_and_clear();
        self.since.elapsed().as_secs_f64()
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// `1234567` as `1,234,567`.
pub(crate) fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// Seconds for a reader: `12 s`, `3 min 05 s`, `2 h 10 min`.
pub(crate) fn duration(seconds: f64) -> String {
    let s = seconds.round().clamp(0.0, 1e9) as u64;
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min {:02} s", s / 60, s % 60),
        _ => format!("{} h {:02} min", s / 3600, s / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(
            [59.4, 185.0, 7800.0].map(duration),
            ["59 s", "3 min 05 s", "2 h 10 min"]
        );
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(6 << 30), "6.0 GiB");
    }
}
