//! Which checkpoint a command works with, and the model that comes with the program.

use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use outro::checkpoint::{Adapter, adapter_base};
use outro::config::Config;
use outro::method::OutRoConfig;
use outro::prepare::Preparer;
use outro::settings::Settings;
use outro::strategy::Strategy;
use outro::{LoadOptions, Model};

use crate::args::flags::ModelFlags;
use crate::args::{Strategies, Switches, pruned};
use crate::cache;
use crate::fault::Fault;
use crate::hub;
use crate::ui::Ui;

/// The name of the program's own model, as `--model` takes it.
pub(crate) const TINY: &str = "outro-tiny";

macro_rules! tiny {
    ($($name:literal),+) => {
        [$(($name, include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/outro-tiny/", $name)) as &[u8])),+]
    };
}

/// Its files, in the program itself, so that an installed binary needs nothing beside it.
const FILES: [(&str, &[u8]); 8] = tiny![
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "outro.json",
    "domain.safetensors",
    "model.safetensors"
];

/// What to do about media that the program's own model does not know.
const REAL: &str = "a model of real videos: --model Qwen/Qwen2.5-Omni-3B (downloads 12 GB, takes 10 GB of memory); smaller, for \
pictures without sound: --model llava-hf/llava-onevision-qwen2-0.5b-ov-hf (1.8 GB)";

pub(crate) const TINY_NOTE: &str = "no --model was given: using outro-tiny, a small demonstration model of a synthetic world of \
coloured shapes and sounds (outro demo shows it)";

/// A checkpoint directory or a GGUF file.
#[derive(Debug)]
pub(crate) struct Source {
    /// The directory, or the file.
    pub(crate) dir: PathBuf,
    /// The file of a GGUF file's towers, where it was named.
    pub(crate) towers: Option<PathBuf>,
    /// Adapters that are merged into its weights.
    pub(crate) adapters: Vec<Adapter>,
    /// Its configuration, once it was read.
    read: OnceLock<Config>,
    /// Whether it is the program's own demonstration model.
    pub(crate) tiny: bool,
    /// Whether it is that because no other was named.
    pub(crate) unasked: bool,
}

impl Source {
    /// As logs and replies call it.
    pub(crate) fn name(&self) -> String {
        let mut name = self.dir.display().to_string();
        // Writing to a String cannot fail.
        if let Some(towers) = &self.towers {
            let _ = write!(name, " with {}", towers.display());
        }
        for adapter in &self.adapters {
            let _ = write!(name, " + {}", adapter.dir.display());
            if adapter.weight != 1.0 {
                let _ = write!(name, " times {}", adapter.weight);
            }
        }
        name
    }

    /// Its configuration.
    pub(crate) fn config(&self) -> outro::Result<Config> {
        if let Some(config) = self.read.get() {
            return Ok(config.clone());
        }
        let mut config = Config::load_held(&self.dir, self.towers.as_deref())?;
        config.held.adapters.clone_from(&self.adapters);
        Ok(self.read.get_or_init(|| config).clone())
    }

    /// What makes its prompts.
    pub(crate) fn preparer(&self) -> outro::Result<Preparer> {
        Preparer::of(self.config()?, &self.dir)
    }

    /// Its weights.
    pub(crate) fn model(&self, load: impl Into<LoadOptions>) -> outro::Result<Model> {
        Model::open(self.config()?, &self.dir, load)
    }
}

/// `--model`, else `OUTRO_MODEL`, else the program's own model, with a note.
pub(crate) fn open(model: &ModelFlags, ui: &Ui) -> anyhow::Result<Source> {
    let source = choose(model, ui)?;
    if source.unasked {
        ui.note(TINY_NOTE);
    }
    Ok(source)
}

/// Says in one line that the program's own model is used unasked, or, which says that too, what `unfamiliar` media mean.
pub(crate) fn introduce(source: &Source, unfamiliar: Option<&str>, ui: &Ui) {
    match unfamiliar {
        Some(text) => warn(text, ui),
        None if source.unasked => ui.note(TINY_NOTE),
        None => {}
    }
}

/// What unfamiliar media mean, and which model knows them.
pub(crate) fn warn(unfamiliar: &str, ui: &Ui) {
    ui.note(&format!("{unfamiliar}; {REAL}"));
}

/// As [`open`], with no note about the program's own model.
pub(crate) fn choose(flags: &ModelFlags, ui: &Ui) -> anyhow::Result<Source> {
    if let Some(towers) = flags.mmproj.as_deref().filter(|t| !t.is_file()) {
        return Err(
            Fault::failure(format!("--mmproj {}: no such file", towers.display()))
                .hint("give the mmproj file of the model's repository")
                .into(),
        );
    }
    let mut source = with_base(chosen(flags.model.as_deref(), ui)?, ui)?;
    source.towers.clone_from(&flags.mmproj);
    for typed in &flags.adapter {
        source.adapters.push(adapter(typed, ui)?);
    }
    Ok(source)
}

/// `DIR` or `ID`, and a weight behind `=`.
fn adapter(typed: &str, ui: &Ui) -> anyhow::Result<Adapter> {
    let (name, weight) = match typed.rsplit_once('=') {
        Some((name, weight)) if !Path::new(typed).exists() => {
            let weight: Option<f32> = weight.parse().ok().filter(|w: &f32| w.is_finite());
            let weight = weight.ok_or_else(|| {
                Fault::usage(format!("--adapter {typed}: what is behind = is no number"))
                    .hint("give the adapter, or the adapter and a weight: --adapter DIR=0.5")
            })?;
            (name, weight)
        }
        _ => (typed, 1.0),
    };
    let dir = hub::resolve(name, ui)?;
    if !dir.is_dir() {
        return Err(Fault::failure(format!("--adapter {name}: is a file"))
            .hint("give the directory that holds adapter_config.json")
            .into());
    }
    Ok(Adapter { dir, weight })
}

/// Where only an adapter is named: the model that it changes, with it.
fn with_base(source: Source, ui: &Ui) -> anyhow::Result<Source> {
    let Some(base) = adapter_base(&source.dir)? else {
        return Ok(source);
    };
    let adapter = source.dir;
    ui.note(&format!(
        "{} is an adapter of {base}, which is loaded with it",
        adapter.display()
    ));
    let beside = adapter.join(&base);
    let dir = if beside.is_dir() {
        Ok(beside)
    } else {
        hub::resolve(&base, ui)
    };
    let dir = dir.map_err(|e| {
        let problem = format!(
            "{}: the model that this adapter changes, {base}, cannot be opened: {e}",
            adapter.display()
        );
        Fault::failure(problem).hint(format!(
            "give the model and the adapter: --model DIR --adapter {}",
            adapter.display()
        ))
    })?;
    Ok(Source {
        dir,
        adapters: vec![Adapter::new(adapter)],
        ..source
    })
}

fn chosen(model: Option<&str>, ui: &Ui) -> anyhow::Result<Source> {
    if let Some(model) = model {
        return named(model, ui);
    }
    if let Some(model) = std::env::var("OUTRO_MODEL").ok().filter(|m| !m.is_empty()) {
        let source = named(&model, ui)?;
        ui.note(&format!("no --model was given: using OUTRO_MODEL = {model}"));
        return Ok(source);
    }
    Ok(Source {
        unasked: true,
        ..tiny()?
    })
}

fn named(model: &str, ui: &Ui) -> anyhow::Result<Source> {
    if model == TINY && !Path::new(model).exists() {
        return tiny();
    }
    let dir = hub::resolve(model, ui)?;
    Ok(Source {
        dir,
        towers: None,
        adapters: Vec::new(),
        read: OnceLock::new(),
        tiny: false,
        unasked: false,
    })
}

/// The method's settings for a model: the defaults, then its outro.json (read from `file`), then what was typed.
pub(crate) fn method(
    own: &Settings,
    file: &Path,
    typed: &Switches,
    layers: usize,
) -> anyhow::Result<OutRoConfig> {
    let read = OutRoConfig::from_fields(&own.method);
    // A file can be of another model, with other layers.
    let fits = read.and_then(|base| base.check(layers).map(|()| base));
    let base = fits.map_err(|e| {
        Fault::failure(format!("{}: method: {e}", file.display()))
            .hint("mend the file, or take its `method` out to use the defaults")
    })?;
    let method = typed.on(base)?;
    method.check(layers)?;
    Ok(method)
}

/// [`method`] of a checkpoint that is open.
pub(crate) fn method_of(
    preparer: &Preparer,
    source: &Source,
    typed: &Switches,
) -> anyhow::Result<OutRoConfig> {
    let file = Settings::place(&source.dir);
    method(preparer.settings(), &file, typed, preparer.config().text.layers)
}

/// The strategies that were named, as they are for a model; the usual one where none was.
pub(crate) fn strategies(
    typed: &Strategies,
    preparer: &Preparer,
    source: &Source,
    ui: &Ui,
) -> anyhow::Result<Vec<Strategy>> {
    let (config, own) = (preparer.config(), preparer.settings());
    let method = method_of(preparer, source, &typed.outro)?;
    let usual = [Strategy::usual(config).to_owned()];
    let names = if typed.names.is_empty() && typed.outro.pairs().is_empty() {
        if usual[0] == "baseline" {
            ui.note("OutRo is off on models of text alone, where nobody measured it; --strategy outro turns it on");
        }
        usual.as_slice()
    } else if typed.names.is_empty() {
        // Settings of OutRo were given.
        &["outro".to_owned()]
    } else {
        typed.names.as_slice()
    };
    let read = names.iter().map(|name| {
        let name = pruned(name, typed.prune);
        Strategy::of_model(&name, &method, &config.text)
    });
    let all = read.collect::<outro::Result<Vec<_>>>()?;
    let published = PUBLISHED.contains(&config.model_type.as_str()) || own.method.contains_key("gamma");
    let default = OutRoConfig::default().gamma;
    if !published
        && all
            .iter()
            .any(|by| by.method.as_ref().is_some_and(|m| m.gamma == default))
    {
        ui.note(&format!(
            "gamma {default} was published for Qwen2.5-Omni, and none for this model ({}); `outro tune` looks for one",
            config.model_type
        ));
    }
    Ok(all)
}

/// Models for which the authors released a gamma, by `model_type`.
const PUBLISHED: [&str; 2] = ["qwen2_5_omni", "qwen2_5_omni_thinker"];

/// The directory of the program's own model: weights are memory-mapped, so they are laid down once in the user's cache,
/// and again whenever they differ from what the program carries.
fn tiny() -> anyhow::Result<Source> {
    let name = format!("{TINY}-{}", env!("CARGO_PKG_VERSION"));
    let mut failed = None;
    for place in cache::places() {
        let dir = place.join(&name);
        match lay_down(&dir) {
            Ok(()) => {
                return Ok(Source {
                    dir,
                    towers: None,
                    adapters: Vec::new(),
                    read: OnceLock::new(),
                    tiny: true,
                    unasked: false,
                });
            }
            Err(e) => failed = Some((dir, e)),
        }
    }
    let why = failed.map_or_else(String::new, |(dir, e)| format!("{}: {e}", dir.display()));
    Err(
        Fault::failure(format!("the program's own model cannot be unpacked: {why}"))
            .hint("set OUTRO_CACHE to a directory that can be written, or give --model")
            .into(),
    )
}

fn lay_down(dir: &Path) -> std::io::Result<()> {
    fs::create_dir_all(dir)?;
    for (name, bytes) in FILES {
        let path = dir.join(name);
        match fs::read(&path) {
            Ok(there) if there == bytes => continue,
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        // Another process may be doing the same; a rename shows each file whole.
        let part = dir.join(format!(".{name}.{}", std::process::id()));
        fs::write(&part, bytes)?;
        fs::rename(&part, &path)?;
    }
    Ok(())
}
