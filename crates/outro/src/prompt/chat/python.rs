//! Values as Python writes them: floats, JSON, the time.

use std::fmt::Write as _;

use minijinja::value::{Kwargs, Rest, Value, ValueKind};

use super::arguments::{Result, named, wrong};

/// A number that Python has as a float.
pub(super) fn float(value: &Value) -> Option<f64> {
    if value.kind() == ValueKind::Number && !value.is_integer() {
        return f64::try_from(value.clone()).ok();
    }
    None
}

/// `repr` of a float: the shortest digits, with an exponent below 1e-4 and from 1e16 on.
pub(super) fn python_float(x: f64) -> String {
    if x.is_nan() {
        return "nan".into();
    }
    if x.is_infinite() {
        return if x > 0.0 { "inf" } else { "-inf" }.into();
    }
    let text = format!("{x:e}");
    let Some((digits, exponent)) = text.split_once('e') else {
        return text;
    };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if x != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    let plain = x.to_string();
    if plain.contains('.') { plain } else { plain + ".0" }
}

/// How `json.dumps` is asked to write.
struct Json {
    ascii: bool,
    sorted: bool,
    /// What a level is indented by; `None` is one line.
    indent: Option<String>,
    /// Between items, and between a key and its value.
    between: [String; 2],
}

/// transformers' filter: `json.dumps`, without escapes for HTML.
#[expect(
    clippy::needless_pass_by_value,
    reason = "minijinja calls filters with values"
)]
pub(super) fn tojson(value: Value, args: Rest<Value>, own: Kwargs) -> Result<String> {
    let args = named(&args, own, &["ensure_ascii", "indent", "separators", "sort_keys"])?;
    let given = |key: &str| -> Result<_> { Ok(args.get::<Option<Value>>(key)?.filter(|v| !v.is_none())) };
    let flag = |key: &str| -> Result<_> { Ok(given(key)?.is_some_and(|v| v.is_true())) };
    let (ascii, sorted) = (flag("ensure_ascii")?, flag("sort_keys")?);
    let indent = match given("indent")? {
        None => None,
        Some(text) if text.as_str().is_some() => Some(text.to_string()),
        Some(n) => Some(" ".repeat(i64::try_from(n)?.clamp(0, 64) as usize)),
    };
    let between = match given("separators")? {
        Some(pair) => {
            let both: Vec<String> = pair.try_iter()?.map(|v| v.to_string()).collect();
            <[String; 2]>::try_from(both).map_err(|_| wrong("tojson: separators must be two strings"))?
        }
        None if indent.is_some() => [",".into(), ": ".into()],
        None => [", ".into(), ": ".into()],
    };
    args.assert_all_used()?;
    let mut out = String::new();
    let json = Json {
        ascii,
        sorted,
        indent,
        between,
    };
    json.write(&mut out, &value, 0)?;
    Ok(out)
}

impl Json {
    fn write(&self, out: &mut String, value: &Value, depth: usize) -> Result<()> {
        if depth > 64 {
            return Err(wrong("tojson: the value is nested more than 64 deep"));
        }
        match value.kind() {
            ValueKind::None => *out += "null",
            ValueKind::Bool => *out += if value.is_true() { "true" } else { "false" },
            ValueKind::Number => *out += &Self::number(value),
            ValueKind::String => self.text(out, value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<(Option<String>, Value)> = value.try_iter()?.map(|v| (None, v)).collect();
                self.list(out, ['[', ']'], &items, depth)?;
            }
            ValueKind::Map => {
                let mut items = Vec::new();
                for key in value.try_iter()? {
                    let name = match key.kind() {
                        ValueKind::String => key.to_string(),
                        ValueKind::Number => Self::number(&key),
                        ValueKind::None => "null".into(),
                        ValueKind::Bool => if key.is_true() { "true" } else { "false" }.into(),
                        kind => return Err(wrong(format!("tojson: a key is of the kind {kind}"))),
                    };
                    items.push((Some(name), value.get_item(&key)?));
                }
                if self.sorted {
                    items.sort_by(|a, b| a.0.cmp(&b.0));
                }
                self.list(out, ['{', '}'], &items, depth)?;
            }
            kind => {
                return Err(wrong(format!(
                    "tojson: a value of the kind {kind} is not JSON serializable"
                )));
            }
        }
        Ok(())
    }

    fn number(value: &Value) -> String {
        match float(value) {
            Some(x) if x.is_nan() => "NaN".into(),
            Some(x) if x.is_infinite() => if x > 0.0 { "Infinity" } else { "-Infinity" }.into(),
            Some(x) => python_float(x),
            None => value.to_string(),
        }
    }

    fn list(
        &self,
        out: &mut String,
        [open, close]: [char; 2],
        items: &[(Option<String>, Value)],
        depth: usize,
    ) -> Result<()> {
        let line = |out: &mut String, depth: usize| {
            if let Some(indent) = &self.indent {
                out.push('\n');
                *out += &indent.repeat(depth);
            }
        };
        out.push(open);
        for (i, (key, value)) in items.iter().enumerate() {
            if i > 0 {
                *out += &self.between[0];
            }
            line(out, depth + 1);
            if let Some(key) = key {
                self.text(out, key);
                *out += &self.between[1];
            }
            self.write(out, value, depth + 1)?;
        }
        if !items.is_empty() {
            line(out, depth);
        }
        out.push(close);
        Ok(())
    }

    fn text(&self, out: &mut String, text: &str) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => *out += "\\\"",
                '\\' => *out += "\\\\",
                '\n' => *out += "\\n",
                '\r' => *out += "\\r",
                '\t' => *out += "\\t",
                '\u{8}' => *out += "\\b",
                '\u{c}' => *out += "\\f",
                c if c < ' ' || self.ascii && !(' '..='~').contains(&c) && c != '\u{7f}' => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        // Writing to a String cannot fail.
                        let _ = write!(out, "\\u{unit:04x}");
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

#[cfg(unix)]
pub(super) mod clock {
    //! `datetime.now().strftime(format)`.

    use std::ffi::CString;
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use crate::prompt::chat::arguments::{Result, wrong};

    pub(in crate::prompt::chat) fn now(format: &str) -> Result<String> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        at(since, format)
    }

    /// The local time so long after 1970.
    pub(in crate::prompt::chat) fn at(since: Duration, format: &str) -> Result<String> {
        let refused = || wrong(format!("strftime_now: `{format}` is not a format"));
        // What Python writes itself; a time without a zone has an empty one.
        let micros = format!("{:06}", since.subsec_micros());
        let mut own = String::new();
        let mut rest = format;
        while let Some((before, after)) = rest.split_once('%') {
            own += before;
            let directive = after.chars().next().ok_or_else(refused)?;
            match directive {
                'f' => own += &micros,
                'z' | 'Z' => {}
                c => own.extend(['%', c]),
            }
            rest = &after[directive.len_utf8()..];
        }
        own += rest;
        let text = CString::new(own).map_err(|_| refused())?;
        // `time_t`, a name that libc deprecates on musl.
        let seconds = since.as_secs().try_into().map_err(|_| refused())?;
        let mut out = vec![0u8; 16 * format.len() + 64];
        #[expect(unsafe_code, reason = "the C library knows the local time zone")]
        // SAFETY: all zeros is a `tm`; pointers are to live values, and `strftime` is told the buffer's length.
        let length = unsafe {
            let mut tm: libc::tm = std::mem::zeroed();
            if libc::localtime_r(&raw const seconds, &raw mut tm).is_null() {
                return Err(refused());
            }
            libc::strftime(out.as_mut_ptr().cast(), out.len(), text.as_ptr(), &raw const tm)
        };
        out.truncate(length);
        String::from_utf8(out).map_err(|_| refused())
    }
}
