//! Chat templates as transformers runs them: Jinja in a sandbox, with Python's methods, numbers and JSON.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Rest, Tuple, Value, ValueKind, from_args};
use minijinja::{Environment, Error, State, filters};
use minijinja_contrib::{filters as more, globals, pycompat};

use super::arguments::{Result, named, wrong};
use super::python::{float, python_float, tojson};

mod rewrite;

/// Instructions that a template may run; a conversation of a thousand turns needs a tenth.
const STEPS: u64 = 10_000_000;

/// Bytes of a prompt that are still tokenized.
const LONGEST: usize = 16 << 20;

/// The text of a template in a context (`messages`, `tools`, names of special tokens, ...).
pub(super) fn render(source: &str, context: Value) -> Result<String> {
    let mut env = Environment::new();
    let syntax = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build();
    env.set_syntax(syntax?);
    // A template from a file may loop or call itself; a conversation needs far fewer steps than this.
    env.set_recursion_limit(64);
    env.set_fuel(Some(STEPS));
    env.set_formatter(|out, state, value| match float(value) {
        Some(x) => Ok(out.write_str(&python_float(x))?),
        None => minijinja::escape_formatter(out, state, value),
    });
    minijinja_contrib::add_to_environment(&mut env);
    env.set_unknown_method_callback(method);
    add_filters(&mut env);
    env.add_test("sequence", |v: Value| {
        v.is_undefined()
            || matches!(
                v.kind(),
                ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Iterable
            )
    });
    env.add_test("iterable", |v: Value| !v.is_none() && v.try_iter().is_ok());
    env.add_test("callable", |v: Value| v.kind() == ValueKind::Plain);
    env.add_function("cycler", |items: Rest<Value>| globals::cycler(items.0));
    env.add_function("raise_exception", |text: String| -> Result<Value> {
        Err(wrong(text))
    });
    #[cfg(unix)]
    env.add_function("strftime_now", |format: String| {
        super::python::clock::now(&format)
    });
    let source = rewrite::all(source);
    env.add_template("chat", &source)?;
    let text = env.get_template("chat")?.render(context)?;
    if text.len() > LONGEST {
        let problem = format!("it makes a prompt of {} bytes, more than {LONGEST}", text.len());
        return Err(wrong(problem));
    }
    Ok(text)
}

/// Jinja's filters where minijinja has others, none, or only some of their arguments.
fn add_filters(env: &mut Environment) {
    type Args = Rest<Value>;
    const SORT: [&str; 3] = ["reverse", "case_sensitive", "attribute"];
    env.add_filter("tojson", tojson);
    env.add_filter("title", |text: String| title(&text));
    env.add_filter("wordcount", |text: String| {
        let words = text.split(|c: char| !(c.is_alphanumeric() || c == '_'));
        words.filter(|w| !w.is_empty()).count()
    });
    for name in ["e", "escape", "forceescape"] {
        env.add_filter(name, escape);
    }
    for name in ["d", "default"] {
        env.add_filter(name, |value: Value, args: Args, own: Kwargs| {
            let args = named(&args, own, &["default_value", "boolean"])?;
            let other = args
                .get::<Option<Value>>("default_value")?
                .unwrap_or_else(|| Value::from(""));
            let falsy = args.get::<Option<Value>>("boolean")?.is_some_and(|v| v.is_true());
            Ok::<_, Error>(if value.is_undefined() || falsy && !value.is_true() {
                other
            } else {
                value
            })
        });
    }
    env.add_filter("dictsort", |value: &Value, args: Args, own: Kwargs| {
        filters::dictsort(value, named(&args, own, &["case_sensitive", "by", "reverse"])?)
    });
    env.add_filter("sort", |state: &State, value: Value, args: Args, own: Kwargs| {
        filters::sort(state, value, named(&args, own, &SORT)?)
    });
    env.add_filter(
        "unique",
        |state: &State, value: Value, args: Args, own: Kwargs| {
            filters::unique(state, value, named(&args, own, &SORT[1..])?)
        },
    );
    env.add_filter("min", |state: &State, value: Value, args: Args, own: Kwargs| {
        filters::min(state, value, named(&args, own, &SORT[1..])?)
    });
    env.add_filter("max", |state: &State, value: Value, args: Args, own: Kwargs| {
        filters::max(state, value, named(&args, own, &SORT[1..])?)
    });
    env.add_filter(
        "truncate",
        |state: &mut State, value: &Value, args: Args, own: Kwargs| {
            more::truncate(
                state,
                value,
                named(&args, own, &["length", "killwords", "end", "leeway"])?,
            )
        },
    );
    // What is no number is 0 where the template has no other.
    env.add_filter("int", |state: &State, value: Value, args: Args, own: Kwargs| {
        let args = named(&args, own, &["default", "base"])?;
        let or = args
            .get::<Option<Value>>("default")?
            .unwrap_or_else(|| Value::from(0));
        let base = args.get("base")?;
        let value = value.as_str().map(|t| Value::from(t.trim())).unwrap_or(value);
        Ok::<_, Error>(filters::int(state, &value, None, base, none()).unwrap_or(or))
    });
    env.add_filter("float", |state: &State, value: Value, args: Args, own: Kwargs| {
        let args = named(&args, own, &["default"])?;
        let or = args
            .get::<Option<Value>>("default")?
            .unwrap_or_else(|| Value::from(0.0));
        let value = value.as_str().map(|t| Value::from(t.trim())).unwrap_or(value);
        Ok::<_, Error>(filters::float(state, &value, None, none()).unwrap_or(or))
    });
    env.add_filter("center", |text: String, width: Option<usize>| {
        of_text(&text, "center", &[Value::from(width.unwrap_or(80))])
    });
    env.add_filter("indent", |text: String, args: Args, own: Kwargs| {
        indent(&text, &named(&args, own, &["width", "first", "blank"])?)
    });
}

/// [`named`] arguments of a method.
fn method_args(args: &[Value], names: &[&str]) -> Result<Kwargs> {
    let (plain, own): (Rest<Value>, Kwargs) = from_args(args)?;
    named(&plain, own, names)
}

fn none() -> Kwargs {
    std::iter::empty::<(String, Value)>().collect()
}

/// Jinja's `indent`: every line but the first, and no empty ones.
fn indent(text: &str, args: &Kwargs) -> Result<String> {
    let flag = |key: &str| {
        args.get::<Option<Value>>(key)
            .map(|v| v.is_some_and(|v| v.is_true()))
    };
    let (first, blank) = (flag("first")?, flag("blank")?);
    let width = match args.get::<Option<Value>>("width")? {
        Some(own) if own.as_str().is_some() => own.to_string(),
        Some(n) => " ".repeat(i64::try_from(n)?.clamp(0, 256) as usize),
        None => " ".repeat(4),
    };
    let mut out = String::new();
    for (i, line) in lines(&format!("{text}\n"), false).into_iter().enumerate() {
        if i > 0 {
            out.push('\n');
        }
        if if i == 0 { first } else { blank || !line.is_empty() } {
            out += &width;
        }
        out += line;
    }
    Ok(out)
}

/// Methods of Python's strings, lists and dictionaries that minijinja-contrib leaves out or takes otherwise.
fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value> {
    match (value.as_str(), value.kind()) {
        (Some(text), _) => match of_text(text, name, args)? {
            Some(result) => Ok(result),
            None => pycompat::unknown_method_callback(state, value, name, args),
        },
        (_, ValueKind::Map | ValueKind::Seq) if name == "copy" && args.is_empty() => Ok(value.clone()),
        (_, ValueKind::Seq | ValueKind::Iterable) if name == "index" => {
            let (what,): (Value,) = from_args(args)?;
            let at = value.try_iter()?.position(|x| x == what);
            at.map(Value::from)
                .ok_or_else(|| wrong("the value is not in the list"))
        }
        (_, ValueKind::Iterable) if name == "count" => {
            let (what,): (Value,) = from_args(args)?;
            Ok(Value::from(value.try_iter()?.filter(|x| *x == what).count()))
        }
        _ => pycompat::unknown_method_callback(state, value, name, args),
    }
}

fn of_text(text: &str, name: &str, args: &[Value]) -> Result<Option<Value>> {
    let tuple = |parts: [&str; 3]| Value::from(Tuple::from(parts.map(Value::from)));
    let width = || -> Result<(usize, char)> {
        let (width, fill): (usize, Option<char>) = from_args(args)?;
        Ok((
            width.saturating_sub(text.chars().count()).min(1 << 20),
            fill.unwrap_or(' '),
        ))
    };
    let fill = |n: usize, c: char| std::iter::repeat_n(c, n).collect::<String>();
    Ok(Some(match name {
        "split" | "rsplit" => {
            let args = method_args(args, &["sep", "maxsplit"])?;
            let sep: Option<String> = args.get("sep")?;
            // Below 0 is no limit.
            let most = args
                .get::<Option<i64>>("maxsplit")?
                .and_then(|n| usize::try_from(n).ok());
            split(text, sep.as_deref(), most.unwrap_or(usize::MAX), name == "rsplit")?
        }
        "splitlines" => {
            let keep = method_args(args, &["keepends"])?.get::<Option<bool>>("keepends")?;
            lines(text, keep.unwrap_or(false))
                .into_iter()
                .map(Value::from)
                .collect()
        }
        "partition" | "rpartition" => {
            let (sep,): (&str,) = from_args(args)?;
            let found = if name == "partition" {
                text.split_once(sep)
            } else {
                text.rsplit_once(sep)
            };
            match found {
                Some((before, after)) => tuple([before, sep, after]),
                None if name == "partition" => tuple([text, "", ""]),
                None => tuple(["", "", text]),
            }
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        "index" | "rindex" => {
            let (what,): (&str,) = from_args(args)?;
            let at = if name == "index" {
                text.find(what)
            } else {
                text.rfind(what)
            };
            let at = at.ok_or_else(|| wrong("substring not found"))?;
            Value::from(text[..at].chars().count())
        }
        "title" => Value::from(title(text)),
        "swapcase" => Value::from(text.chars().fold(String::new(), |mut out, c| {
            if c.is_uppercase() {
                out.extend(c.to_lowercase());
            } else {
                out.extend(c.to_uppercase());
            }
            out
        })),
        "casefold" => Value::from(text.to_lowercase().replace('ß', "ss")),
        "isdecimal" => Value::from(!text.is_empty() && text.chars().all(|c| c.is_ascii_digit())),
        "zfill" => {
            let (n, _) = width()?;
            let signed = text.starts_with(['-', '+']);
            let (sign, digits) = text.split_at(usize::from(signed));
            Value::from(format!("{sign}{}{digits}", fill(n, '0')))
        }
        "ljust" => {
            let (n, c) = width()?;
            Value::from(format!("{text}{}", fill(n, c)))
        }
        "rjust" => {
            let (n, c) = width()?;
            Value::from(format!("{}{text}", fill(n, c)))
        }
        "center" => {
            let (n, c) = width()?;
            // As CPython: the odd one goes left where the width is odd.
            let left = n / 2 + (n & (n + text.chars().count()) & 1);
            Value::from(format!("{}{text}{}", fill(left, c), fill(n - left, c)))
        }
        _ => return Ok(None),
    }))
}

/// `str.split` and `str.rsplit`.
fn split(text: &str, sep: Option<&str>, most: usize, from_right: bool) -> Result<Value> {
    let parts: Vec<&str> = match sep {
        Some("") => return Err(wrong("empty separator")),
        Some(sep) if from_right => {
            let mut parts: Vec<&str> = text.rsplitn(most.saturating_add(1), sep).collect();
            parts.reverse();
            parts
        }
        Some(sep) => text.splitn(most.saturating_add(1), sep).collect(),
        None => {
            let mut parts = Vec::new();
            let mut rest = text.trim();
            while !rest.is_empty() {
                let cut = if from_right {
                    rest.rfind(char::is_whitespace)
                } else {
                    rest.find(char::is_whitespace)
                };
                let Some(at) = cut.filter(|_| parts.len() < most) else {
                    parts.push(rest);
                    break;
                };
                let (before, after) = rest.split_at(at);
                if from_right {
                    parts.push(after.trim_start());
                    rest = before.trim_end();
                } else {
                    parts.push(before);
                    rest = after.trim_start();
                }
            }
            if from_right {
                parts.reverse();
            }
            parts
        }
    };
    Ok(parts.into_iter().map(Value::from).collect())
}

/// `str.splitlines`, at all of Python's ends of lines.
fn lines(text: &str, keep: bool) -> Vec<&str> {
    const ENDS: [char; 10] = [
        '\n', '\r', '\u{b}', '\u{c}', '\u{1c}', '\u{1d}', '\u{1e}', '\u{85}', '\u{2028}', '\u{2029}',
    ];
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(ENDS) {
        let (line, end) = rest.split_at(at);
        let length = match end.strip_prefix("\r\n") {
            Some(_) => 2,
            None => end.chars().next().map_or(0, char::len_utf8),
        };
        out.push(if keep { &rest[..at + length] } else { line });
        rest = &end[length..];
    }
    if !rest.is_empty() {
        out.push(rest);
    }
    out
}

/// `str.title`: a letter behind anything but a letter is large, all others are small.
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for c in text.chars() {
        if inside {
            out.extend(c.to_lowercase());
        } else {
            out.extend(c.to_uppercase());
        }
        inside = c.is_alphabetic();
    }
    out
}

/// HTML escapes as markupsafe writes them.
fn escape(value: Value) -> Value {
    if value.is_safe() {
        return value;
    }
    let mut out = String::new();
    for c in value.to_string().chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '\'' => out += "&#39;",
            '"' => out += "&#34;",
            _ => out.push(c),
        }
    }
    Value::from_safe_string(out)
}

#[cfg(test)]
mod tests;
