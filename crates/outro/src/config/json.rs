//! JSON whose complaints name the file and the field.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{Error, Result};

/// A place in a JSON file that knows its path, so that every complaint names it.
#[derive(Clone, Debug)]
pub struct Json<'a> {
    file: PathBuf,
    field: String,
    value: Option<&'a Value>,
}

impl<'a> Json<'a> {
    /// A file's whole content.
    pub fn new(file: &Path, value: &'a Value) -> Self {
        Self {
            file: file.into(),
            field: String::new(),
            value: Some(value),
        }
    }

    /// The field below this one; absent and `null` are the same.
    #[must_use]
    pub fn at(&self, key: &str) -> Self {
        let field = if self.field.is_empty() {
            key.into()
        } else {
            format!("{}.{key}", self.field)
        };
        Self {
            file: self.file.clone(),
            field,
            value: self.value.and_then(|v| v.get(key)).filter(|v| !v.is_null()),
        }
    }

    /// Whether it is there.
    pub fn present(&self) -> bool {
        self.value.is_some()
    }

    /// A complaint about this place.
    pub fn error(&self, problem: impl Into<String>) -> Error {
        Error::config(&self.file, &self.field, problem)
    }

    fn get<T>(&self, what: &str, f: impl Fn(&'a Value) -> Option<T>) -> Result<T> {
        match self.value {
            None => Err(self.error(format!("missing; {what} is needed"))),
            Some(v) => f(v).ok_or_else(|| self.error(format!("is {}, must be {what}", brief(v)))),
        }
    }

    /// A size: an integer from 1 to 2^24, which no real dimension exceeds.
    ///
    /// # Errors
    /// Anything else there, by field.
    pub fn size(&self) -> Result<usize> {
        self.get("a whole number from 1 to 16777216", |v| {
            v.as_u64()
                .filter(|n| (1..=1 << 24).contains(n))
                .map(|n| n as usize)
        })
    }

    /// A size, or what holds where it is absent.
    ///
    /// # Errors
    /// Anything else there, by field.
    pub fn size_or(&self, default: usize) -> Result<usize> {
        if self.present() { self.size() } else { Ok(default) }
    }

    /// A whole number, or what holds where it is absent.
    ///
    /// # Errors
    /// Anything else there, by field.
    pub fn integer_or(&self, default: i64) -> Result<i64> {
        if self.present() {
            self.get("a whole number", Value::as_i64)
        } else {
            Ok(default)
        }
    }

    /// Pairs of sizes, zero allowed.
    ///
    /// # Errors
    /// Anything else there, by field.
    pub fn pairs(&self) -> Result<Vec<[usize; 2]>> {
        let number = |v: &Value| v.as_u64().filter(|n| *n <= 1 << 20).map(|n| n as usize);
        self.get("a list of pairs of whole numbers", |v| {
            v.as_array()?
                .iter()
                .map(|pair| match pair.as_array()?.as_slice() {
                    [a, b] => Some([number(a)?, number(b)?]),
                    _ => None,
                })
                .collect()
        })
    }

    /// A token id.
    ///
    /// # Errors
    /// Anything else there, by field.
    pub fn id(&self) -> Result<u32> {
        self.get("a token id", |v| v.as_u64().and_then(|n| u32::try_from(n).ok()))
    }

    /// A finite number above zero.
    ///
    /// # Errors
    /// Anything else there, by field.
    pub fn positive(&self) -> Result<f64> {
        self.get("a number above 0", |v| {
            v.as_f64().filter(|x| x.is_finite() && *x > 0.0)
        })
    }

    /// A number above zero, or what holds where it is absent.
    ///
    /// # Errors
    /// Anything else there, by field.
    pub fn positive_or(&self, default: f64) -> Result<f64> {
        if self.present() {
            self.positive()
        } else {
            Ok(default)
        }
    }

    /// A switch, or what holds where it is absent.
    ///
    /// # Errors
    /// Anything else there, by field.
    pub fn bool_or(&self, default: bool) -> Result<bool> {
        if self.present() {
            self.get("true or false", Value::as_bool)
        } else {
            Ok(default)
        }
    }

    /// A string.
    ///
    /// # Errors
    /// Anything else there, by field.
    pub fn str(&self) -> Result<&'a str> {
        self.get("a string", Value::as_str)
    }

    /// Indices or sizes, zero allowed.
    ///
    /// # Errors
    /// Anything else there, by field.
    pub fn list(&self) -> Result<Vec<usize>> {
        self.get("a list of whole numbers", |v| {
            v.as_array()?
                .iter()
                .map(|x| x.as_u64().filter(|n| *n <= 1 << 24).map(|n| n as usize))
                .collect()
        })
    }
}

fn brief(v: &Value) -> String {
    let s = v.to_string();
    if s.chars().count() > 40 {
        format!("{}...", s.chars().take(40).collect::<String>())
    } else {
        s
    }
}
