//! A run's log: a header and then one line per sample and strategy, only ever appended to.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::choice::Invalid;
use crate::error::{Error, Result};
use crate::strategy::Strategy;
use crate::task::Gold;

/// What a run is: two runs with the same header give the same rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// Version of the log's form.
    pub outro_eval: u32,
    /// The program's version.
    pub version: String,
    /// The benchmark.
    pub task: String,
    /// SHA-256 of its questions.
    pub questions_sha256: String,
    /// How questions are put.
    pub profile: String,
    /// How replies are read.
    pub parser: String,
    /// The model, as it was named.
    pub model: String,
    /// How weights are held.
    pub weights: String,
    /// Ways of answering, with all settings.
    pub strategies: Vec<Strategy>,
    /// What was taken away from the inputs: `none`, `sound`, `picture`.
    pub ablation: String,
    /// How media are read.
    pub media: Value,
    /// Most tokens of a reply.
    pub max_new_tokens: usize,
}

/// One answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Row {
    /// The sample.
    pub id: String,
    /// Its video's name.
    pub video: String,
    /// The benchmark's category.
    pub category: String,
    /// What the answer takes, where the benchmark says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub needs: Option<String>,
    /// The strategy's name.
    pub strategy: String,
    /// What was put to the model.
    pub question: String,
    /// The right answer.
    pub gold: Option<Gold>,
    /// What the model said.
    pub reply: String,
    /// What the parser made of it.
    pub parsed: Option<String>,
    /// Whether it is right; an invalid reply is wrong.
    pub right: bool,
    /// Why the reply is no answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub invalid: Option<Invalid>,
    /// Why there is no reply.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Of them, a video's.
    pub video_tokens: usize,
    /// Of them, sound's.
    pub audio_tokens: usize,
    /// Probability of the likeliest first token, and how far the next one is behind.
    pub confidence: f32,
    /// ... less that of the second.
    pub margin: f32,
    /// Seconds of reading the prompt.
    pub prefill_seconds: f64,
    /// Seconds of writing the reply.
    pub decode_seconds: f64,
    /// Bytes of keys and values after the prompt; 0 in older logs.
    #[serde(default)]
    pub cache_bytes: usize,
    /// Prompt positions that were sinks in any layer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sinks: Vec<usize>,
}

/// A log on disk.
pub struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    /// Opens or starts the log of a run, and gives the rows that it has. A last line that was cut off is removed.
    ///
    /// # Errors
    /// A file of another run (by the field that differs), or one that is no log.
    pub fn open(path: &Path, header: &Header) -> Result<(Self, Vec<Row>)> {
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(path)
            .map_err(Error::io(path))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(Error::io(path))?;
        let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
        let text =
            std::str::from_utf8(&bytes[..whole]).map_err(|_| Error::file(path, "is not a log: not UTF-8"))?;
        let (there, rows) = parse(path, text)?;
        let torn = &bytes[whole..];
        if there.is_none() && !torn.is_empty() && !torn.starts_with(b"{\"outro_eval\"") {
            return Err(Error::file(path, "is not a log of a run; give another file"));
        }
        if let Some(there) = &there {
            same(path, there, header)?;
        }
        if !torn.is_empty() {
            file.set_len(whole as u64).map_err(Error::io(path))?;
            file.seek(SeekFrom::End(0)).map_err(Error::io(path))?;
        }
        let mut log = Self {
            path: path.into(),
            file,
        };
        if there.is_none() {
            log.line(header)?;
        }
        Ok((log, rows))
    }

    /// Appends a row; it is on disk when this returns.
    ///
    /// # Errors
    /// A full disk.
    pub fn append(&mut self, row: &Row) -> Result<()> {
        self.line(row)
    }

    fn line(&mut self, value: &impl Serialize) -> Result<()> {
        let mut text = serde_json::to_string(value).map_err(|e| Error::file(&self.path, e.to_string()))?;
        text.push('\n');
        self.file
            .write_all(text.as_bytes())
            .map_err(Error::io(&self.path))?;
        self.file.sync_data().map_err(Error::io(&self.path))
    }
}

/// Reads a log.
///
/// # Errors
/// A file that is no log.
pub fn read(path: &Path) -> Result<(Header, Vec<Row>)> {
    let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
    let whole = text.rfind('\n').map_or(0, |i| i + 1);
    match parse(path, &text[..whole])? {
        (Some(header), rows) => Ok((header, rows)),
        (None, _) => Err(Error::file(path, "is empty; it is not a log of a run")),
    }
}

fn parse(path: &Path, text: &str) -> Result<(Option<Header>, Vec<Row>)> {
    let mut lines = text.lines().enumerate();
    let Some((_, first)) = lines.next() else {
        return Ok((None, Vec::new()));
    };
    let header: Header = serde_json::from_str(first)
        .map_err(|e| Error::file(path, format!("is not a log of a run: line 1: {e}")))?;
    if header.outro_eval != 1 {
        return Err(Error::file(
            path,
            format!("is a log of form {}; this version reads 1", header.outro_eval),
        ));
    }
    let row = |(i, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|e| Error::file(path, format!("line {}: {e}", i + 1)))
    };
    // The same sample may be there twice after two runs at once; the first stands.
    let mut rows: Vec<Row> = Vec::new();
    let mut seen = BTreeSet::new();
    for line in lines {
        let row: Row = row(line)?;
        if seen.insert((row.id.clone(), row.strategy.clone())) {
            rows.push(row);
        }
    }
    Ok((Some(header), rows))
}

fn same(path: &Path, there: &Header, wanted: &Header) -> Result<()> {
    let fields = |h: &Header| match serde_json::to_value(h) {
        Ok(Value::Object(map)) => map,
        _ => serde_json::Map::new(),
    };
    let (a, b) = (fields(there), fields(wanted));
    match a.iter().find(|(k, v)| b.get(*k) != Some(v)) {
        None => Ok(()),
        Some((key, have)) => {
            let want = b.get(key).cloned().unwrap_or(Value::Null);
            let problem = format!("belongs to a run with {key} = {have}, not {want}; give another file");
            Err(Error::file(path, problem))
        }
    }
}
