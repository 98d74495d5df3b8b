//! Running the binary, and reading and writing the files it takes.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize_to_file};

/// What a run left behind.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// Exit code 0, or the test fails with what stderr says.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        self
    }

    /// The exit code, and every one of `parts` in an `error:` on stderr; nothing on stdout.
    #[track_caller]
    pub(crate) fn fails(self, code: i32, parts: &[&str]) -> Self {
        assert_eq!(
            self.code,
            Some(code),
            "stdout: {}\nstderr: {}",
            self.stdout,
            self.stderr
        );
        assert!(self.stderr.contains("error: "), "{}", self.stderr);
        for part in parts {
            assert!(
                self.stderr.to_lowercase().contains(&part.to_lowercase()),
                "`{part}` is not in: {}",
                self.stderr
            );
        }
        assert_eq!(self.stdout, "");
        self
    }
}

/// Set where the tests are to run without ffmpeg, with OUTRO_FFMPEG=none (.ci/run).
const WITHOUT_FFMPEG: &str = "OUTRO_WITHOUT_FFMPEG";

/// The binary, in a clean environment: no ffmpeg by accident of the caller's variables, no default model.
pub(crate) fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outro"));
    command.env_remove("OUTRO_MODEL").stdin(Stdio::null());
    if std::env::var_os(WITHOUT_FFMPEG).is_none() {
        command.env_remove("OUTRO_FFMPEG");
    }
    command
}

/// Whether ffmpeg is there, with which tests write videos. Where it is not, a test returns early, but in CI only on purpose.
pub(crate) fn ffmpeg() -> bool {
    // Nobody's network is asked.
    let ran = finish(command().env("HF_HUB_OFFLINE", "1").args(["doctor", "--json"])).ok();
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let there = report["ffmpeg"]["works"] == true;
    if !there {
        assert!(
            std::env::var_os("CI").is_none() || std::env::var_os(WITHOUT_FFMPEG).is_some(),
            "ffmpeg is missing"
        );
        println!("skipped: there is no ffmpeg");
    }
    there
}

/// Runs `outro` with these arguments; no run may ever show a panic.
#[track_caller]
pub(crate) fn outro<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Ran {
    finish(command().args(args))
}

/// Runs a prepared command.
#[track_caller]
pub(crate) fn finish(command: &mut Command) -> Ran {
    let output = command.output().unwrap();
    let ran = Ran {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    };
    for word in ["panicked", "internal error"] {
        assert!(!ran.stderr.contains(word), "{}", ran.stderr);
    }
    ran
}

/// Arguments of different kinds in one list.
macro_rules! args {
    ($($x:expr),* $(,)?) => { [$(std::ffi::OsString::from($x)),*] };
}
pub(crate) use args;

/// The repository's own tiny checkpoint, with a tokenizer.
pub(crate) fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/omni-tiny")
}

/// A copy of it in `dir`.
pub(crate) fn tiny_in(dir: &Path) -> PathBuf {
    let model = dir.join("model");
    fs::create_dir(&model).unwrap();
    copy_tiny(&model);
    model
}

/// Its files, without its cases, to an empty directory.
pub(crate) fn copy_tiny(to: &Path) {
    for file in fs::read_dir(tiny())
        .unwrap()
        .flatten()
        .filter(|f| f.path().is_file())
    {
        fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

/// The shared fixtures. Absent outside the project's machines: then a test returns early, but never in CI.
pub(crate) fn shared(what: &str) -> Option<PathBuf> {
    let root = std::env::var_os("OUTRO_SHARED").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
        PathBuf::from,
    );
    let path = root.join(what);
    if path.exists() {
        return Some(path);
    }
    assert!(
        std::env::var("CI").as_deref() != Ok("true"),
        "{} is missing; set OUTRO_SHARED",
        path.display()
    );
    println!("skipped: {} is missing; set OUTRO_SHARED", path.display());
    None
}

/// A tensor, widened to f32.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tensor {
    pub(crate) shape: Vec<usize>,
    pub(crate) data: Vec<f32>,
}

impl Tensor {
    /// Rows `from..to` of the first axis.
    pub(crate) fn rows(&self, from: usize, to: usize) -> Self {
        let width: usize = self.shape[1..].iter().product();
        let mut shape = self.shape.clone();
        shape[0] = to - from;
        Self {
            shape,
            data: self.data[from * width..to * width].to_vec(),
        }
    }

    pub(crate) fn last(&self, n: usize) -> Self {
        self.rows(self.shape[0] - n, self.shape[0])
    }

    /// The same values in another shape.
    pub(crate) fn reshape(mut self, shape: &[usize]) -> Self {
        assert_eq!(self.data.len(), shape.iter().product::<usize>());
        self.shape = shape.to_vec();
        self
    }
}

/// A safetensors file in memory.
#[derive(Debug)]
pub(crate) struct File {
    pub(crate) tensors: BTreeMap<String, Tensor>,
    pub(crate) metadata: BTreeMap<String, String>,
}

impl File {
    #[track_caller]
    pub(crate) fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let tensors = file
            .iter()
            .map(|(name, t)| (name.to_owned(), widen(&t)))
            .collect();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let metadata = header
            .metadata()
            .iter()
            .flatten()
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        Self { tensors, metadata }
    }

    #[track_caller]
    pub(crate) fn get(&self, name: &str) -> &Tensor {
        self.tensors
            .get(name)
            .unwrap_or_else(|| panic!("no tensor {name}; there are {:?}", self.tensors.keys()))
    }

    /// A JSON value in the metadata.
    #[track_caller]
    pub(crate) fn json(&self, key: &str) -> serde_json::Value {
        serde_json::from_str(
            self.metadata
                .get(key)
                .unwrap_or_else(|| panic!("no metadata {key}")),
        )
        .unwrap()
    }
}

fn widen(t: &TensorView) -> Tensor {
    let bytes = t.data();
    let data = match t.dtype() {
        Dtype::F32 => bytes
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect(),
        Dtype::I64 => bytes
            .chunks_exact(8)
            .map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f32)
            .collect(),
        Dtype::BF16 => bytes
            .chunks_exact(2)
            .map(|b| f32::from_bits(u32::from(u16::from_le_bytes(b.try_into().unwrap())) << 16))
            .collect(),
        other => panic!("dtype {other:?}"),
    };
    Tensor {
        shape: t.shape().to_vec(),
        data,
    }
}

/// Fails with the largest difference and where it is.
#[track_caller]
pub(crate) fn close(what: &str, got: &Tensor, want: &Tensor, tolerance: f32) {
    assert_eq!(got.shape, want.shape, "{what}: shape");
    let mut worst = (0, 0.0_f32);
    for (i, (a, b)) in got.data.iter().zip(&want.data).enumerate() {
        let d = (a - b).abs();
        if d > worst.1 || d.is_nan() {
            worst = (i, d);
        }
    }
    let (i, d) = worst;
    assert!(
        d <= tolerance,
        "{what}: off by {d} at {i}: {} for {}",
        got.data[i],
        want.data[i]
    );
}

/// One tensor of a checkpoint, as raw bytes.
pub(crate) type Raw = (Dtype, Vec<usize>, Vec<u8>);

/// A checkpoint's tensors, for damaging them.
pub(crate) fn weights(path: &Path) -> BTreeMap<String, Raw> {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    file.iter()
        .map(|(name, t)| {
            (
                name.to_owned(),
                (t.dtype(), t.shape().to_vec(), t.data().to_vec()),
            )
        })
        .collect()
}

/// Writes tensors to a safetensors file.
pub(crate) fn write_weights(path: &Path, tensors: &BTreeMap<String, Raw>) {
    let views: Vec<(&str, TensorView)> = tensors
        .iter()
        .map(|(n, (d, s, b))| (n.as_str(), TensorView::new(*d, s.clone(), b).unwrap()))
        .collect();
    serialize_to_file(views, None, path).unwrap();
}
