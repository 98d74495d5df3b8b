//! From a file of any of the published forms to rows of named fields.

use std::fs::File;
use std::path::{Path, PathBuf};

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use serde_json::{Map, Value};

use super::hex;
use crate::error::{Error, Result};

/// A row of an annotation file, with what an error about it has to name.
pub(super) struct Row {
    /// The file, and the row's place in it.
    pub(super) place: String,
    /// Its fields.
    pub(super) fields: Map<String, Value>,
}

/// Rows of one or more files.
pub(super) struct Table {
    /// The file, or the directory of the files.
    pub(super) file: PathBuf,
    /// In the order of the file.
    pub(super) rows: Vec<Row>,
    /// SHA-256 of the bytes.
    pub(super) sha256: String,
}

/// How rows are laid out in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// A list of rows; JSONL, CSV and parquet are that, too.
    Rows,
    /// WorldSense: an object by video, whose `task1`, `task2`, ... are the questions.
    ByVideo,
    /// MVBench: a list per file, the file's name is the category.
    Folder,
}

/// Reads the first of `names` that is in `dir`, whatever its form, or `dir` itself where it is a file.
///
/// # Errors
/// No such file; one that is not what its ending says; no rows.
pub(super) fn table(dir: &Path, names: &[&str], shape: Shape) -> Result<Table> {
    let file = if dir.is_file() {
        dir.to_owned()
    } else {
        let mut there = names.iter().map(|n| dir.join(n)).filter(|p| p.exists());
        there
            .next()
            .ok_or_else(|| Error::file(dir, format!("holds no {}", names.join(" or "))))?
    };
    let mut files = vec![file.clone()];
    if file.is_dir() {
        let entries = std::fs::read_dir(&file).map_err(Error::io(&file))?;
        files = entries
            .flatten()
            .map(|e| e.path())
            .filter(|p| form(p).is_some())
            .collect();
        files.sort();
    }
    let (mut rows, mut bytes) = (Vec::new(), Vec::new());
    for path in &files {
        let data = std::fs::read(path).map_err(Error::io(path))?;
        let stem = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        for (i, value) in values(path, &data, shape)?.into_iter().enumerate() {
            let place = format!("{}: row {i}", path.display());
            let Value::Object(mut fields) = value else {
                return Err(Error::file(path, format!("row {i} is not an object with fields")));
            };
            if shape == Shape::Folder {
                fields.insert("__file".into(), stem.clone().into());
            }
            rows.push(Row { place, fields });
        }
        bytes.extend(data);
    }
    if rows.is_empty() {
        return Err(Error::file(&file, "holds no question"));
    }
    Ok(Table {
        sha256: hex(&bytes),
        file,
        rows,
    })
}

fn form(path: &Path) -> Option<&'static str> {
    let ending = path.extension()?.to_str()?.to_ascii_lowercase();
    ["json", "jsonl", "csv", "tsv", "parquet"]
        .into_iter()
        .find(|f| *f == ending)
}

fn values(path: &Path, data: &[u8], shape: Shape) -> Result<Vec<Value>> {
    let not = |what: &str, e: &dyn std::fmt::Display| Error::file(path, format!("is not {what}: {e}"));
    match form(path) {
        Some("jsonl") => {
            let text = std::str::from_utf8(data).map_err(|e| not("text", &e))?;
            let lines = text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty());
            let line = |(i, l)| {
                serde_json::from_str(l).map_err(|e| Error::file(path, format!("line {}: {e}", i + 1)))
            };
            lines.map(line).collect()
        }
        Some(ending @ ("csv" | "tsv")) => {
            let delimiter = if ending == "csv" { b',' } else { b'\t' };
            let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).from_reader(data);
            let names = reader.headers().map_err(|e| not("a table", &e))?.clone();
            let row = |(i, r): (usize, csv::Result<csv::StringRecord>)| {
                let r = r.map_err(|e| Error::file(path, format!("row {i}: {e}")))?;
                let fields = names
                    .iter()
                    .zip(r.iter())
                    .map(|(k, v)| (k.to_owned(), Value::from(v)));
                Ok(Value::Object(fields.collect()))
            };
            reader.records().enumerate().map(row).collect()
        }
        Some("parquet") => {
            let file = File::open(path).map_err(Error::io(path))?;
            let reader = SerializedFileReader::new(file).map_err(|e| not("a parquet file", &e))?;
            let rows = reader.get_row_iter(None).map_err(|e| not("a parquet file", &e))?;
            let row = |(i, r): (usize, parquet::errors::Result<parquet::record::Row>)| {
                let r = r.map_err(|e| Error::file(path, format!("row {i}: {e}")))?;
                Ok(Value::Object(columns(&r)))
            };
            rows.enumerate().map(row).collect()
        }
        _ => {
            let value: Value = serde_json::from_slice(data).map_err(|e| not("JSON", &e))?;
            match (value, shape) {
                (Value::Array(rows), _) => Ok(rows),
                (Value::Object(videos), Shape::ByVideo) => Ok(by_video(videos)),
                _ => Err(Error::file(path, "is not a list of questions")),
            }
        }
    }
}

fn columns(row: &parquet::record::Row) -> Map<String, Value> {
    row.get_column_iter()
        .map(|(name, f)| (name.clone(), field(f)))
        .collect()
}

/// A parquet value; what is no text, list or group is written out.
fn field(field: &Field) -> Value {
    match field {
        Field::Null => Value::Null,
        Field::Str(text) => text.clone().into(),
        Field::Int(n) => (*n).into(),
        Field::Long(n) => (*n).into(),
        Field::Double(x) => (*x).into(),
        Field::Bytes(bytes) => String::from_utf8_lossy(bytes.data()).into_owned().into(),
        Field::ListInternal(list) => list.elements().iter().map(self::field).collect(),
        Field::Group(row) => Value::Object(columns(row)),
        other => other.to_string().into(),
    }
}

/// Questions with the fields of their video beside their own.
fn by_video(videos: Map<String, Value>) -> Vec<Value> {
    let mut rows = Vec::new();
    for (id, video) in videos {
        let Value::Object(video) = video else { continue };
        let is_task = |k: &str| k.starts_with("task");
        for (_, task) in video.iter().filter(|(k, v)| is_task(k) && v.is_object()) {
            let mut row = Map::new();
            row.insert("video".into(), id.clone().into());
            row.extend(
                video
                    .iter()
                    .filter(|(k, _)| !is_task(k))
                    .map(|(k, v)| (k.clone(), v.clone())),
            );
            row.extend(
                task.as_object()
                    .into_iter()
                    .flatten()
                    .map(|(k, v)| (k.clone(), v.clone())),
            );
            rows.push(Value::Object(row));
        }
    }
    rows
}

impl Row {
    /// An error about a field.
    pub(super) fn bad(&self, field: &str, problem: impl std::fmt::Display) -> Error {
        Error::file(&self.place, format!("{field} {problem}"))
    }

    /// The first of these fields that is there, with its name.
    fn get(&self, names: &[&'static str]) -> Option<(&'static str, &Value)> {
        names
            .iter()
            .find_map(|n| Some((*n, self.fields.get(*n).filter(|v| !v.is_null())?)))
    }

    /// A field as trimmed text; numbers are written out and lists joined.
    ///
    /// # Errors
    /// A field that is missing or empty.
    pub(super) fn text(&self, names: &[&'static str]) -> Result<String> {
        let name = names.first().copied().unwrap_or_default();
        let (name, value) = self.get(names).ok_or_else(|| self.bad(name, "is missing"))?;
        let text = plain(value).trim().to_owned();
        if text.is_empty() {
            Err(self.bad(name, "is empty"))
        } else {
            Ok(text)
        }
    }

    /// A field as a number.
    pub(super) fn number(&self, name: &str) -> Option<f64> {
        let value = self.fields.get(name)?;
        value.as_f64().or_else(|| value.as_str()?.trim().parse().ok())
    }

    /// A field as a list of texts: a list, an object by letter, or either of them written out, as tables do.
    ///
    /// # Errors
    /// A field that is missing or none of these.
    pub(super) fn list(&self, names: &[&'static str]) -> Result<Vec<String>> {
        let name = names.first().copied().unwrap_or_default();
        let (name, value) = self.get(names).ok_or_else(|| self.bad(name, "is missing"))?;
        match value {
            Value::Array(items) => Ok(items.iter().map(plain).collect()),
            Value::Object(by_letter) => {
                let mut options: Vec<(&String, &Value)> =
                    by_letter.iter().filter(|(_, v)| !v.is_null()).collect();
                options.sort_by_key(|(k, _)| *k);
                if let Some(wrong) = options.iter().zip('A'..).find(|((k, _), l)| **k != l.to_string()) {
                    return Err(self.bad(name, format!("has `{}` where {} belongs", wrong.0.0, wrong.1)));
                }
                Ok(options.iter().map(|(_, v)| plain(v)).collect())
            }
            Value::String(text) => {
                if let Ok(list) = serde_json::from_str::<Vec<String>>(text) {
                    return Ok(list);
                }
                python_list(text).ok_or_else(|| self.bad(name, "is not a list"))
            }
            _ => Err(self.bad(name, "is not a list")),
        }
    }
}

/// A value as a reader would write it; a list written as JSON inside a string is a list.
fn plain(value: &Value) -> String {
    match value {
        Value::String(s) => match serde_json::from_str::<Vec<String>>(s) {
            Ok(list) => list.join(" "),
            Err(_) => s.clone(),
        },
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

/// `['a', "b's"]` as Python prints it, with numpy's missing commas.
fn python_list(text: &str) -> Option<Vec<String>> {
    let inner = text.trim().strip_prefix('[')?.strip_suffix(']')?;
    let (mut out, mut chars) = (Vec::new(), inner.chars());
    while let Some(c) = chars.next() {
        match c {
            '\'' | '"' => {
                let mut item = String::new();
                loop {
                    match chars.next()? {
                        '\\' => match chars.next()? {
                            'n' => item.push('\n'),
                            other => item.push(other),
                        },
                        end if end == c => break,
                        other => item.push(other),
                    }
                }
                out.push(item);
            }
            ',' | ' ' | '\n' => {}
            _ => return None,
        }
    }
    Some(out)
}
