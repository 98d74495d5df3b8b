//! A run's log: a header and then one line per sample and strategy, only ever appended to; another header where it has grown.

mod identity;

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use outro_media::Note;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::choice::{Invalid, Parser, is_right};
use crate::error::{Error, Result};
use crate::task::Gold;
use identity::{Beside, beside, difference};
use outro::strategy::{Strategy, canonical_name};

/// Version of the log's form.
pub const FORM: u32 = 2;

/// How a header's line begins.
const HEAD: &str = "{\"outro_eval\"";

/// What a run is: two runs with the same header give the same rows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// Version of the log's form.
    pub outro_eval: u32,
    /// The program's version.
    pub version: String,
    /// The benchmark.
    pub task: String,
    /// Which part of the questions, where the model's settings were tuned on some of them: `tuning`, `held out`, `all`, with
    /// the rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<String>,
    /// Whether only questions about videos that were there are asked.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub present: bool,
    /// SHA-256 of its questions.
    pub questions_sha256: String,
    /// How many questions are asked; all shards together.
    pub questions: usize,
    /// Which part of them this log answers: `2/4`, `None` for all.
    pub shard: Option<String>,
    /// How questions are put.
    pub profile: String,
    /// SHA-256 of the words around a question.
    pub profile_sha256: String,
    /// How replies are read.
    pub parser: String,
    /// What an answer is taken from: `text`, the reply, or `logits`, the options' first tokens.
    pub readout: String,
    /// Who answers, where it is not the engine: `endpoint URL`, `replies SHA-256`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answerer: Option<String>,
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

impl Header {
    /// Whether pictures were turned upright: logs that do not say so are older than the choice.
    pub fn exif(&self) -> bool {
        self.media["exif"].as_bool().unwrap_or(false)
    }
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
    /// The benchmark's other divisions.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub groups: BTreeMap<String, String>,
    /// What the answer takes, where the benchmark says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub needs: Option<String>,
    /// The strategy's name.
    pub strategy: String,
    /// What was put to the model.
    pub question: String,
    /// The options without their letters.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    /// SHA-256 of the prompt's token ids.
    pub prompt_sha256: String,
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
    /// What is to be known about the media; none in older logs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<Note>,
    /// Frames that the model saw.
    pub frames: usize,
    /// Frames a second of the video, as they were taken.
    pub fps: f64,
    /// Rows and columns of a frame.
    pub pixels: [usize; 2],
    /// Seconds of sound that it heard.
    pub audio_seconds: f64,
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
    /// The likeliest option, read from the logits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub readout: Option<Readout>,
    /// Seconds of decoding the media, where this row waited for them.
    pub media_seconds: f64,
    /// Seconds of the encoders, where this row ran them.
    pub encode_seconds: f64,
    /// Seconds of reading the prompt.
    pub prefill_seconds: f64,
    /// Seconds of writing the reply.
    pub decode_seconds: f64,
    /// Bytes of keys and values after the prompt; 0 in older logs.
    #[serde(default)]
    pub cache_bytes: usize,
    /// Passes through the decoder, of the prompt and of each token fed; 0 in older logs.
    pub passes: usize,
    /// Prompt positions that were sinks in any layer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sinks: Vec<usize>,
}

impl Row {
    /// Takes what a reply, or a readout, says.
    pub(crate) fn settle(&mut self, said: std::result::Result<String, Invalid>) {
        self.invalid = said.as_ref().err().copied();
        self.parsed = said.ok();
        let right = self
            .parsed
            .as_ref()
            .zip(self.gold.as_ref())
            .map(|(p, g)| is_right(p, g));
        self.right = right.unwrap_or(false);
    }

    /// Reads its reply; without one, or without a question, nothing changes.
    pub(crate) fn read(&mut self, parser: Parser) {
        if let Some(gold) = self.gold.as_ref().filter(|_| self.error.is_none()) {
            self.settle(parser.read(&self.reply, gold, &self.options));
        }
    }
}

/// The options' first tokens after the prompt, against each other.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Readout {
    /// The likeliest: `Yes`, `No`, a letter.
    pub answer: String,
    /// Its probability among the options, less that of the second.
    pub margin: f32,
    /// Entropy of the options, in nats.
    pub entropy: f32,
}

/// A log on disk. While it is open no other process can open it.
pub struct Log {
    path: PathBuf,
    file: File,
    /// Bytes of whole lines.
    len: u64,
}

impl Log {
    /// Opens or starts the log of a run, and gives the rows that it has. A last line that was cut off is removed.
    ///
    /// # Errors
    /// A file of another run (by what differs), or one that is no log.
    pub fn open(path: &Path, header: &Header) -> Result<(Self, Vec<Row>)> {
        let mut fixed = header.clone();
        let (log, rows) = Self::open_grown(path, &mut fixed, false)?;
        Ok((log, rows))
    }

    /// As [`Log::open`], of a run that may ask more questions, or by more strategies, than the log that is there: it gets a new
    /// header below its rows, and `header` the strategies in the log's order.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub fn grow(path: &Path, header: &mut Header) -> Result<(Self, Vec<Row>)> {
        Self::open_grown(path, header, true)
    }

    fn open_grown(path: &Path, header: &mut Header, may_grow: bool) -> Result<(Self, Vec<Row>)> {
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(path)
            .map_err(Error::io(path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::OtherRun {
                    path: path.into(),
                    problem: "another process is writing this run; wait for it".into(),
                });
            }
            Err(TryLockError::Error(e)) => return Err(Error::io(path)(e)),
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(Error::io(path))?;
        let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
        let text =
            std::str::from_utf8(&bytes[..whole]).map_err(|_| Error::file(path, "is not a log: not UTF-8"))?;
        let (there, rows) = parse(path, text)?;
        let torn = &bytes[whole..];
        if there.is_none() && !torn.is_empty() && !torn.starts_with(HEAD.as_bytes()) {
            return Err(Error::file(path, "is not a log of a run; give another file"));
        }
        let mut grows = false;
        match &there {
            Some(there) if may_grow => match beside(there, header) {
                Beside::Same => header.strategies.clone_from(&there.strategies),
                Beside::More(grown) => (*header, grows) = (*grown, true),
                Beside::Other(problem) => return Err(other(path, &problem)),
            },
            Some(there) => same(path, there, header)?,
            None => {}
        }
        if !torn.is_empty() {
            file.set_len(whole as u64).map_err(Error::io(path))?;
            file.seek(SeekFrom::End(0)).map_err(Error::io(path))?;
        }
        let mut log = Self {
            path: path.into(),
            file,
            len: whole as u64,
        };
        if there.is_none() || grows {
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
        let written = self
            .file
            .write_all(text.as_bytes())
            .and_then(|()| self.file.sync_data());
        if let Err(e) = written {
            // Half a line on a full disk: whole lines are kept, and the same command goes on from there.
            let _ = self.file.set_len(self.len);
            return Err(Error::io(&self.path)(e));
        }
        self.len += text.len() as u64;
        Ok(())
    }
}

/// Puts the logs of all shards of a run together: the header without a shard, rows by question and strategy.
///
/// # Errors
/// Logs of different runs, shards that are missing or there twice, answers that are there twice.
pub fn merge(paths: &[PathBuf]) -> Result<(Header, Vec<Row>)> {
    let mut whole: Option<(Header, usize)> = None;
    let (mut shards, mut rows) = (BTreeMap::new(), Vec::new());
    for path in paths {
        let (mut header, part) = read(path)?;
        let shard = header.shard.take().and_then(|s| Shard::parse(&s).ok());
        let shard = shard.ok_or_else(|| Error::file(path, "is not the log of a shard"))?;
        match &whole {
            None => whole = Some((header, shard.of)),
            Some((first, of)) => {
                same(path, first, &header)?;
                if *of != shard.of {
                    let problem = format!("is a shard of {}, the first is one of {of}", shard.of);
                    return Err(Error::file(path, problem));
                }
            }
        }
        if let Some(other) = shards.insert(shard.index, path) {
            let problem = format!("is shard {shard}, as {} is", other.display());
            return Err(Error::file(path, problem));
        }
        rows.extend(part);
    }
    let (header, of) = whole.ok_or_else(|| Error::setting("logs", "none is given"))?;
    let missing: Vec<String> = (1..=of)
        .filter(|i| !shards.contains_key(i))
        .map(|i| i.to_string())
        .collect();
    if !missing.is_empty() {
        let problem = format!("of {of} shards, {} are not given", missing.join(", "));
        return Err(Error::setting("logs", problem));
    }
    let place = |r: &Row| header.strategies.iter().position(|s| s.name == r.strategy);
    rows.sort_by(|a, b| a.id.cmp(&b.id).then(place(a).cmp(&place(b))));
    if let Some(twice) = rows
        .windows(2)
        .find(|w| w[0].id == w[1].id && w[0].strategy == w[1].strategy)
    {
        let problem = format!("question {} is answered in two shards", twice[0].id);
        return Err(Error::setting("logs", problem));
    }
    Ok((header, rows))
}

/// Writes a whole log; it appears at once or not at all.
///
/// # Errors
/// A file that is there already; a full disk.
pub fn write(path: &Path, header: &Header, rows: &[Row]) -> Result<()> {
    if path.exists() {
        return Err(Error::file(path, "is there already; give another file"));
    }
    let part = path.with_extension("part");
    let _ = std::fs::remove_file(&part);
    let (mut log, _) = Log::open(&part, header)?;
    let lines = rows
        .iter()
        .map(serde_json::to_string)
        .collect::<std::result::Result<Vec<_>, _>>();
    let lines = lines.map_err(|e| Error::file(path, e.to_string()))?;
    let text: String = lines.into_iter().map(|l| l + "\n").collect();
    log.file
        .write_all(text.as_bytes())
        .and_then(|()| log.file.sync_data())
        .map_err(Error::io(&part))?;
    std::fs::rename(&part, path).map_err(Error::io(path))
}

/// Writes a whole log, or appends to one of the same run the answers that it lacks. Says how many were written.
///
/// # Errors
/// A file of another run; a full disk.
pub fn complete(path: &Path, header: &Header, rows: &[Row]) -> Result<usize> {
    if !path.exists() {
        write(path, header, rows)?;
        return Ok(rows.len());
    }
    let (mut log, there) = Log::grow(path, &mut header.clone())?;
    let key = |r: &Row| (r.id.clone(), r.strategy.clone());
    let there: BTreeSet<_> = there.iter().filter(|r| r.error.is_none()).map(key).collect();
    let lacking = rows.iter().filter(|r| !there.contains(&key(r)));
    lacking
        .map(|row| log.append(row))
        .try_fold(0, |n, written| written.map(|()| n + 1))
}

/// The first header of the log that a run was begun with; `None` where there is none yet.
///
/// # Errors
/// A file that is no log.
pub fn begun(path: &Path) -> Result<Option<Header>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io(path)(e)),
    };
    let mut line = Vec::new();
    BufReader::new(file)
        .read_until(b'\n', &mut line)
        .map_err(Error::io(path))?;
    // A first line that was cut is written again.
    let whole = if line.ends_with(b"\n") { line } else { Vec::new() };
    let line = std::str::from_utf8(&whole).map_err(|_| Error::file(path, "is not a log: not UTF-8"))?;
    Ok(parse(path, line)?.0)
}

/// A part of a run's videos: `index` of `of`, from 1 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Which part.
    pub index: usize,
    /// Of how many.
    pub of: usize,
}

impl Shard {
    /// Reads `2/4`.
    ///
    /// # Errors
    /// Anything else, and parts that do not exist.
    pub fn parse(text: &str) -> Result<Self> {
        let numbers = text
            .split_once('/')
            .and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        match numbers {
            Some((index, of)) if (1..=of).contains(&index) => Ok(Self { index, of }),
            _ => Err(Error::setting(
                "shard",
                format!("is `{text}`, must be I/N with I from 1 to N"),
            )),
        }
    }
}

impl std::fmt::Display for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.index, self.of)
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
    let head = |number: usize, line: &str| -> Result<Header> {
        let mut header: Header = serde_json::from_str(line)
            .map_err(|e| Error::file(path, format!("is not a log of a run: line {number}: {e}")))?;
        if header.outro_eval != FORM {
            let problem = format!(
                "is a log of form {}; this version reads {FORM}",
                header.outro_eval
            );
            return Err(Error::file(path, problem));
        }
        for by in &mut header.strategies {
            by.name = canonical_name(&by.name);
        }
        Ok(header)
    };
    let mut header = head(1, first)?;
    let row = |(i, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|e| Error::file(path, format!("line {}: {e}", i + 1)))
    };
    // What failed may have been asked again; of two answers the first stands.
    let mut rows: Vec<Row> = Vec::new();
    let mut places = HashMap::new();
    for line in lines {
        // Where it has grown, the last header is the run's.
        if line.1.starts_with(HEAD) {
            header = head(line.0 + 1, line.1)?;
            continue;
        }
        let mut row: Row = row(line)?;
        row.strategy = canonical_name(&row.strategy);
        match places.entry((row.id.clone(), row.strategy.clone())) {
            Entry::Vacant(e) => {
                e.insert(rows.len());
                rows.push(row);
            }
            Entry::Occupied(e) if rows[*e.get()].error.is_some() => rows[*e.get()] = row,
            Entry::Occupied(_) => {}
        }
    }
    Ok((Some(header), rows))
}

fn other(path: &Path, problem: &str) -> Error {
    Error::OtherRun {
        path: path.into(),
        problem: format!("belongs to another run: {problem}"),
    }
}

fn same(path: &Path, there: &Header, wanted: &Header) -> Result<()> {
    difference(there, wanted).map_or(Ok(()), |problem| Err(other(path, &problem)))
}
