//! What of a template's source minijinja reads otherwise than jinja2, in words that it reads the same.

/// The source with everything below.
pub(super) fn all(source: &str) -> String {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(source.len());
    let mut rest = source.as_str();
    while let Some(at) = rest
        .find("{%")
        .into_iter()
        .chain(rest.find("{{"))
        .chain(rest.find("{#"))
        .min()
    {
        let (before, tag) = rest.split_at(at);
        out += before;
        let end = match &tag[..2] {
            "{%" => "%}",
            "{{" => "}}",
            _ => "#}",
        };
        let Some(length) = length(tag, end) else {
            rest = tag;
            break;
        };
        let (whole, after) = tag.split_at(length);
        let inner = &whole[2..length - 2];
        let name = inner.trim_matches(['-', '+', ' ', '\t', '\n']);
        rest = after;
        match (end, name) {
            ("%}", "generation" | "endgeneration") => out += &whole.replacen(name, marked(name), 1),
            ("%}", "raw") => {
                out += &raw(whole);
                // Nothing up to its end is a tag.
                let closing = after.match_indices("{%").find(|(at, _)| {
                    let tag = after[at + 2..].trim_start_matches(['-', '+', ' ', '\t', '\n']);
                    tag.starts_with("endraw")
                });
                let (text, next) = after.split_at(closing.map_or(after.len(), |c| c.0));
                out += text;
                rest = next;
            }
            ("#}", _) => out += whole,
            _ => {
                out += &whole[..2];
                out += &percent(inner);
                out += end;
            }
        }
    }
    out + rest
}

/// Blocks that only training marks become ones that do nothing but keep their variables.
fn marked(name: &str) -> &'static str {
    if name == "generation" { "with" } else { "endwith" }
}

/// A newline behind `{% raw %}` stays, whatever is set for other blocks.
fn raw(tag: &str) -> String {
    match tag.strip_suffix("%}") {
        Some(open) if !open.ends_with(['-', '+']) => format!("{open}+%}}"),
        _ => tag.to_owned(),
    }
}

/// Bytes of the tag at the beginning of `text`, its end included; strings in it may spell the end.
fn length(text: &str, end: &str) -> Option<usize> {
    let mut at = 2;
    if end == "#}" {
        return text[at..].find(end).map(|n| at + n + 2);
    }
    while at < text.len() {
        let rest = &text[at..];
        at += match rest.chars().next()? {
            _ if rest.starts_with(end) => return Some(at + 2),
            '\'' | '"' => string(rest)?,
            c => c.len_utf8(),
        };
    }
    None
}

/// Bytes of the string literal at the beginning of `text`.
fn string(text: &str) -> Option<usize> {
    let quote = text.chars().next()?;
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// `'%s, %s' % (a, b)` becomes `'%s, %s'|format(a, b)`: a string has no remainder.
fn percent(code: &str) -> String {
    let mut out = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find(['\'', '"']) {
        let (before, text) = rest.split_at(at);
        out += before;
        let Some(length) = string(text) else {
            rest = text;
            break;
        };
        let (literal, after) = text.split_at(length);
        out += literal;
        rest = after;
        let Some(right) = after.trim_start().strip_prefix('%') else {
            continue;
        };
        let right = right.trim_start();
        let operand = operand(right);
        if operand > 0 {
            let value = &right[..operand];
            let tuple = value.strip_prefix('(').and_then(|v| v.strip_suffix(')'));
            let whole = tuple.filter(|_| brackets(value) == Some(value.len()));
            out += "|format(";
            out += whole.unwrap_or(value).trim_end().trim_end_matches(',');
            out += ")";
            rest = &right[operand..];
        }
    }
    out + rest
}

/// Bytes of the operand at the beginning of `code`: a name, number, string or bracket, with what hangs on it.
fn operand(code: &str) -> usize {
    let word = |c: char| c.is_alphanumeric() || c == '_' || c == '.';
    let mut at = 0;
    loop {
        let rest = &code[at..];
        let next = match rest.chars().next() {
            Some('\'' | '"') if at == 0 => string(rest),
            Some('(' | '[' | '{') => brackets(rest),
            Some('|') => Some(1),
            Some(c) if word(c) => Some(rest.find(|c| !word(c)).unwrap_or(rest.len())),
            _ => None,
        };
        match next {
            Some(n) => at += n,
            None => return at,
        }
    }
}

/// Bytes from a bracket to the one that closes it.
fn brackets(code: &str) -> Option<usize> {
    let (mut depth, mut at) = (0, 0);
    while at < code.len() {
        let rest = &code[at..];
        let c = rest.chars().next()?;
        at += match c {
            '\'' | '"' => string(rest)?,
            c => c.len_utf8(),
        };
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(at);
        }
    }
    None
}
