//! `KEY=VALUE` settings of strategies.

use std::ops::RangeInclusive;
use std::str::FromStr;

use crate::error::{Error, Result, unknown};

/// Settings that have names.
pub trait Settings: Default {
    /// The strategy's name.
    const NAME: &'static str;

    /// Changes one setting.
    ///
    /// # Errors
    /// An unknown key, or a value that it cannot have.
    fn set(&mut self, switch: Switch) -> Result<()>;

    /// The defaults with `KEY=VALUE,...` on top. Values that are lists are joined by `+`.
    ///
    /// # Errors
    /// As [`Settings::set`], and what is not `KEY=VALUE`.
    fn read(text: &str) -> Result<Self> {
        let mut settings = Self::default();
        for (key, value) in &switches(Self::NAME, text)? {
            settings.set(Switch {
                of: Self::NAME,
                key,
                value,
            })?;
        }
        Ok(settings)
    }
}

/// `KEY=VALUE,...`, split. Numbers of a list are joined by `+`; where they are joined by commas, as in `layers=0,5`, what has
/// no key belongs to the list before it.
///
/// # Errors
/// What is not `KEY=VALUE`; a key that is there twice.
pub fn switches(of: &str, text: &str) -> Result<Vec<(String, String)>> {
    let bad = |problem: String| Error::Setting {
        key: of.into(),
        problem,
    };
    let mut all: Vec<(String, String)> = Vec::new();
    for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let Some((key, value)) = part.split_once('=') else {
            let is_number = |p: &str| p.bytes().all(|b| b.is_ascii_digit() || b == b'.' || b == b'+');
            match all.last_mut().filter(|_| is_number(part)) {
                Some((_, list)) => *list = format!("{list}+{part}"),
                None => return Err(bad(format!("`{part}` is not KEY=VALUE"))),
            }
            continue;
        };
        let (key, value) = (key.trim().to_owned(), value.trim().to_owned());
        if all.iter().any(|(k, _)| *k == key) {
            return Err(bad(format!("`{key}` is there twice; leave one out")));
        }
        all.push((key, value));
    }
    Ok(all)
}

/// One `KEY=VALUE` of a strategy, as it was typed.
#[derive(Clone, Copy, Debug)]
pub struct Switch<'a> {
    /// The strategy.
    pub of: &'a str,
    /// The setting.
    pub key: &'a str,
    /// Its value.
    pub value: &'a str,
}

impl Switch<'_> {
    /// A finite number from `low` up.
    ///
    /// # Errors
    /// Anything else.
    pub fn at_least(self, low: f32) -> Result<f32> {
        let number = self
            .value
            .parse()
            .ok()
            .filter(|x: &f32| x.is_finite() && *x >= low);
        number.ok_or_else(|| self.must_be(&format!("a number from {low} up")))
    }

    /// A number in this range.
    ///
    /// # Errors
    /// Anything else.
    pub fn number<T: FromStr + PartialOrd + std::fmt::Display>(self, range: RangeInclusive<T>) -> Result<T> {
        let number = self.value.parse().ok().filter(|x| range.contains(x));
        number.ok_or_else(|| self.must_be(&format!("a number from {} to {}", range.start(), range.end())))
    }

    /// `true` or `false`.
    ///
    /// # Errors
    /// Anything else.
    pub fn flag(self) -> Result<bool> {
        self.value.parse().map_err(|_| self.must_be("true or false"))
    }

    /// Whole numbers joined by `+` or commas.
    ///
    /// # Errors
    /// Anything else.
    pub fn list(self) -> Result<Vec<usize>> {
        let all = self.value.split(['+', ',']).map(|v| v.trim().parse().ok());
        all.collect::<Option<_>>()
            .ok_or_else(|| self.must_be("whole numbers joined by +"))
    }

    /// The error for a key that none of `known` is.
    pub fn unknown(self, known: &[&str]) -> Error {
        self.error(unknown(self.key, known.iter().copied()))
    }

    fn must_be(self, what: &str) -> Error {
        self.error(format!("is `{}`, must be {what}", self.value))
    }

    fn error(self, problem: String) -> Error {
        let key = format!("{}:{}", self.of, self.key);
        Error::Setting { key, problem }
    }
}
