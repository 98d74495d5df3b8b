//! JSON whose complaints name the file and the field.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::LazyLock;

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// Fields of transformers' configuration classes and their defaults, by class; `tools/class_defaults.py` writes it.
static CLASSES: LazyLock<Map<String, Value>> =
    LazyLock::new(|| serde_json::from_str(include_str!("classes.json")).unwrap_or_default());

/// Fields that change nothing at inference, or nothing but what is never computed here.
const IDLE: [&str; 14] = [
    "activation_dropout",
    "attention_dropout",
    "bos_token_id",
    "conv_chunksize",
    "dropout",
    "eos_token_id",
    "initializer_range",
    "output_router_logits",
    "pad_token_id",
    "pretraining_tp",
    "router_aux_loss_coef",
    "use_cache",
    "user_token_id",
    "vision_use_head",
];

/// The text of a file, without the byte order mark that some editors put before it.
///
/// # Errors
/// A file that cannot be read.
pub(crate) fn read_text(path: &Path) -> std::io::Result<String> {
    let mut text = std::fs::read_to_string(path)?;
    if text.starts_with('\u{feff}') {
        text.remove(0);
    }
    Ok(text)
}

/// A JSON file, `None` where it is not there.
///
/// # Errors
/// A file that cannot be read, or is no JSON.
pub(crate) fn read_json(path: &Path) -> Result<Option<Value>> {
    match read_text(path) {
        Ok(text) => {
            let value = serde_json::from_str(&text);
            value
                .map(Some)
                .map_err(|e| Error::config(path, "", format!("not JSON: {e}")))
        }
        Err(e) if absent(&e) => Ok(None),
        Err(e) => Err(Error::io(path)(e)),
    }
}

/// No such file, also where the model is one file and has none beside it.
pub(crate) fn absent(e: &std::io::Error) -> bool {
    matches!(
        e.kind(),
        std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
    )
}

/// A place in a JSON file that knows its path, so that every complaint names it.
#[derive(Clone, Debug)]
pub struct Json<'a> {
    file: PathBuf,
    field: String,
    value: Option<&'a Value>,
    /// What holds where the file does not say.
    default: Option<&'a Value>,
    /// The object's class: a number of `sections`.
    section: Option<usize>,
    /// Of all places in this file; `None` where classes have no say.
    sections: Option<Rc<RefCell<Vec<Section<'a>>>>>,
}

/// An object whose fields transformers knows, and which of them were looked at.
#[derive(Debug)]
struct Section<'a> {
    place: Json<'a>,
    fields: &'static Map<String, Value>,
    read: BTreeSet<String>,
}

impl<'a> Json<'a> {
    /// A file's whole content.
    pub fn new(file: &Path, value: &'a Value) -> Self {
        Self {
            file: file.into(),
            field: String::new(),
            value: Some(value),
            default: None,
            section: None,
            sections: None,
        }
    }

    /// The content of a config.json as transformers writes it: [`Json::of_class`] has an effect.
    pub(crate) fn of_transformers(file: &Path, value: &'a Value) -> Self {
        Self {
            sections: Some(Rc::default()),
            ..Self::new(file, value)
        }
    }

    /// This object as one of a configuration class of transformers (`Qwen2Config`): defaults of the class hold for fields that
    /// the file lacks, and [`Json::unread`] looks at those that nobody does.
    #[must_use]
    pub(crate) fn of_class(&self, class: &str) -> Self {
        let mut this = self.clone();
        if let (Some(all), Some(fields)) = (&self.sections, CLASSES.get(class).and_then(Value::as_object)) {
            let mut all = all.borrow_mut();
            this.section = Some(all.len());
            // Not a part of itself.
            let place = Self {
                sections: None,
                ..self.clone()
            };
            all.push(Section {
                place,
                fields,
                read: BTreeSet::new(),
            });
        }
        this
    }

    /// Complains about a field that its class knows, that says something else than the class's default, and that was not
    /// looked at: results would depend on it.
    ///
    /// # Errors
    /// Such a field, by name.
    pub(crate) fn unread(&self) -> Result<()> {
        let Some(all) = &self.sections else { return Ok(()) };
        for section in all.borrow().iter() {
            for (key, default) in section.fields {
                let field = section.place.at(key);
                let Some(value) = field.value else { continue };
                if section.read.contains(key) || IDLE.contains(&key.as_str()) || alike(value, default) {
                    continue;
                }
                let only = if default.is_null() {
                    "it is not supported".to_owned()
                } else {
                    format!("only {} is supported", brief(default))
                };
                return Err(field.unsupported(format!("is {}, {only}", brief(value))));
            }
        }
        Ok(())
    }

    /// The field below this one; absent and `null` are the same, but that a class's default holds only where it is absent.
    #[must_use]
    pub fn at(&self, key: &str) -> Self {
        let field = if self.field.is_empty() {
            key.into()
        } else {
            format!("{}.{key}", self.field)
        };
        let mut default = self.default.and_then(|d| d.get(key));
        if let (Some(all), Some(n)) = (&self.sections, self.section)
            && let Some(section) = all.borrow_mut().get_mut(n)
        {
            section.read.insert(key.to_owned());
            default = section.fields.get(key);
        }
        let value = self.value.and_then(|v| v.get(key));
        Self {
            file: self.file.clone(),
            field,
            value: value.filter(|v| !v.is_null()),
            default: default.filter(|d| value.is_none() && !d.is_null()),
            section: None,
            sections: self.sections.clone(),
        }
    }

    /// An object below this one, which must be there, as one of a class.
    ///
    /// # Errors
    /// None there.
    pub(crate) fn object(&self, key: &str, class: &str) -> Result<Self> {
        let object = self.at(key);
        object.get("an object", |v| v.as_object().map(|_| ()))?;
        Ok(object.of_class(class))
    }

    /// Whether there is an object with fields in it.
    ///
    /// # Errors
    /// Anything else there.
    pub(crate) fn has_fields(&self) -> Result<bool> {
        if self.present() {
            self.get("an object", |v| v.as_object().map(|o| !o.is_empty()))
        } else {
            Ok(false)
        }
    }

    /// Names and values of an object's fields; none of anything else.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (&'a String, &'a Value)> + use<'a> {
        self.value.and_then(Value::as_object).into_iter().flatten()
    }

    /// Whether the file has it.
    pub fn present(&self) -> bool {
        self.value.is_some()
    }

    /// Whether the file has it, or its class has a default.
    pub(crate) fn known(&self) -> bool {
        self.present() || self.default.is_some()
    }

    /// A complaint about this place.
    pub fn error(&self, problem: impl Into<String>) -> Error {
        Error::config(&self.file, &self.field, problem)
    }

    /// An [`Error::Unsupported`] about this field.
    pub fn unsupported(&self, problem: impl Into<String>) -> Error {
        Error::unsupported(&self.file, &self.field, problem)
    }

    fn get<T>(&self, what: &str, f: impl Fn(&'a Value) -> Option<T>) -> Result<T> {
        match self.value.or(self.default) {
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
        if self.known() { self.size() } else { Ok(default) }
    }

    /// A whole number, or what holds where it is absent.
    ///
    /// # Errors
    /// Anything else there, by field.
    pub fn integer_or(&self, default: i64) -> Result<i64> {
        if self.known() {
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

    /// A whole number from 0 up.
    ///
    /// # Errors
    /// Anything else there, by field.
    pub fn count(&self) -> Result<usize> {
        self.get("a whole number from 0 up", |v| {
            v.as_u64().and_then(|n| usize::try_from(n).ok())
        })
    }

    /// A finite number.
    ///
    /// # Errors
    /// Anything else there, by field.
    pub fn number(&self) -> Result<f64> {
        self.get("a number", |v| v.as_f64().filter(|x| x.is_finite()))
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
        if self.known() {
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
        if self.known() {
            self.get("true or false", Value::as_bool)
        } else {
            Ok(default)
        }
    }

    /// Whether it is absent, or one of these numbers: `false` and what is empty are 0, `true` is 1.
    pub(crate) fn says(&self, numbers: &[f64]) -> bool {
        let number = match self.value {
            None => return true,
            Some(Value::Bool(yes)) => f64::from(u8::from(*yes)),
            Some(Value::Number(n)) => n.as_f64().unwrap_or(f64::NAN),
            Some(Value::Array(list)) if list.is_empty() => 0.0,
            Some(Value::Object(fields)) if fields.is_empty() => 0.0,
            Some(_) => f64::NAN,
        };
        numbers.contains(&number)
    }

    /// The file's value, for a complaint: strings without quotes, long ones cut.
    pub(crate) fn shown(&self) -> String {
        match self.value {
            None => "absent".to_owned(),
            Some(Value::String(s)) => s.chars().take(40).collect(),
            Some(v) => brief(v),
        }
    }

    /// Strings.
    ///
    /// # Errors
    /// Anything else there, by field.
    pub(crate) fn strings(&self) -> Result<Vec<&'a str>> {
        self.get("a list of strings", |v| {
            v.as_array()?.iter().map(Value::as_str).collect()
        })
    }

    /// That it says one of `values`, where it says anything.
    ///
    /// # Errors
    /// Anything else there, by field.
    pub fn only(&self, values: &[&str]) -> Result<()> {
        if !self.known() || values.contains(&self.str()?) {
            return Ok(());
        }
        let (is, only) = (self.str()?, values.join(", "));
        Err(self.unsupported(format!("is {is}, only {only} is supported")))
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

/// Equal, 1 and 1.0 being so.
fn alike(a: &Value, b: &Value) -> bool {
    a == b || a.as_f64().is_some_and(|a| b.as_f64() == Some(a))
}

fn brief(v: &Value) -> String {
    let s = v.to_string();
    if s.chars().count() > 40 {
        format!("{}...", s.chars().take(40).collect::<String>())
    } else {
        s
    }
}
