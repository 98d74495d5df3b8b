//! An object of a request, field by field: whoever reads one says what it must be, and what nobody reads is named.

use std::cell::RefCell;
use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::ApiError;

/// An object's fields by name.
pub(crate) struct Fields<'a> {
    /// Before the names in messages: `messages[0].`.
    place: String,
    map: &'a Map<String, Value>,
    read: RefCell<BTreeSet<&'static str>>,
}

type Result<T> = std::result::Result<T, ApiError>;

impl<'a> Fields<'a> {
    /// # Errors
    /// What is no object.
    pub(crate) fn new(place: &str, value: &'a Value) -> Result<Self> {
        let Value::Object(map) = value else {
            let name = if place.is_empty() { "the body" } else { place };
            return Err(ApiError::field(name, "must be an object"));
        };
        Ok(Self {
            place: if place.is_empty() {
                String::new()
            } else {
                format!("{place}.")
            },
            map,
            read: RefCell::default(),
        })
    }

    /// The field as messages call it.
    pub(crate) fn name(&self, key: &str) -> String {
        format!("{}{key}", self.place)
    }

    pub(crate) fn wrong(&self, key: &str, problem: impl AsRef<str>) -> ApiError {
        ApiError::field(&self.name(key), problem)
    }

    /// A field that is there and not null.
    pub(crate) fn get(&self, key: &'static str) -> Option<&'a Value> {
        self.read.borrow_mut().insert(key);
        self.map.get(key).filter(|v| !v.is_null())
    }

    fn of<T>(
        &self,
        key: &'static str,
        must: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        self.get(key)
            .map(|v| read(v).ok_or_else(|| self.wrong(key, format!("must be {must}"))))
            .transpose()
    }

    pub(crate) fn text(&self, key: &'static str) -> Result<Option<&'a str>> {
        self.of(key, "a string", Value::as_str)
    }

    pub(crate) fn flag(&self, key: &'static str) -> Result<Option<bool>> {
        self.of(key, "true or false", Value::as_bool)
    }

    pub(crate) fn count(&self, key: &'static str) -> Result<Option<usize>> {
        self.of(key, "a whole number from 0", |v| {
            usize::try_from(v.as_u64()?).ok()
        })
    }

    /// A number within bounds.
    pub(crate) fn number(&self, key: &'static str, low: f64, high: f64) -> Result<Option<f32>> {
        let must = format!("a number from {low} to {high}");
        self.of(key, &must, |v| {
            v.as_f64().filter(|x| (low..=high).contains(x)).map(|x| x as f32)
        })
    }

    pub(crate) fn object(&self, key: &'static str) -> Result<Option<Self>> {
        self.get(key).map(|v| Fields::new(&self.name(key), v)).transpose()
    }

    pub(crate) fn list(&self, key: &'static str) -> Result<Option<&'a [Value]>> {
        self.of(key, "a list", |v| v.as_array().map(Vec::as_slice))
    }

    /// A string, or several.
    pub(crate) fn texts(&self, key: &'static str) -> Result<Vec<String>> {
        let must = "a string or a list of strings";
        let read = |v: &Value| match v {
            Value::String(s) => Some(vec![s.clone()]),
            Value::Array(list) => list.iter().map(|s| s.as_str().map(str::to_owned)).collect(),
            _ => None,
        };
        Ok(self.of(key, must, read)?.unwrap_or_default())
    }

    /// Ids of tokens.
    pub(crate) fn ids(&self, key: &'static str) -> Result<Vec<u32>> {
        let read = |v: &Value| -> Option<Vec<u32>> {
            v.as_array()?
                .iter()
                .map(|n| u32::try_from(n.as_u64()?).ok())
                .collect()
        };
        Ok(self.of(key, "a list of token ids", read)?.unwrap_or_default())
    }

    /// Fields that change nothing here.
    pub(crate) fn idle(&self, keys: &'static [&'static str]) {
        self.read.borrow_mut().extend(keys);
    }

    /// Fields that would change the reply and are not done, unless they say nothing.
    pub(crate) fn refuse(&self, keys: &'static [&'static str], instead: &str) -> Result<()> {
        for key in keys {
            match self.get(key) {
                None | Some(Value::Bool(false)) => {}
                Some(Value::Array(list)) if list.is_empty() => {}
                Some(Value::String(s)) if s == "none" => {}
                Some(_) => return Err(self.wrong(key, format!("is not supported{instead}"))),
            }
        }
        Ok(())
    }

    /// That every field was read.
    pub(crate) fn end(self) -> Result<()> {
        let read = self.read.borrow();
        match self.map.keys().find(|k| !read.contains(k.as_str())) {
            None => Ok(()),
            Some(key) => {
                let known: Vec<&str> = read.iter().copied().collect();
                let shown: String = key.chars().take(60).collect();
                Err(self.wrong(
                    &shown,
                    format!("is not known here; known are {}", known.join(", ")),
                ))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_wrong_field_is_named() {
        let value = json!({"a": 1.5, "b": "x", "c": null, "stop": ["x", 2]});
        let f = Fields::new("messages[2]", &value).unwrap();
        let text = |e: ApiError| e.message;
        assert_eq!(
            text(f.count("a").unwrap_err()),
            "`messages[2].a` must be a whole number from 0"
        );
        assert_eq!(f.number("a", 0.0, 2.0).unwrap(), Some(1.5));
        assert!(text(f.number("a", 0.0, 1.0).unwrap_err()).contains("from 0 to 1"));
        assert_eq!((f.flag("c").unwrap(), f.text("b").unwrap()), (None, Some("x")));
        assert!(f.texts("stop").is_err());
        assert!(f.end().is_ok());
        let f = Fields::new("", &value).unwrap();
        let _ = f.get("a");
        let error = f.end().unwrap_err();
        assert!(
            error.param.as_deref() == Some("b") && error.message.contains("known are a"),
            "{error:?}"
        );
    }
}
