//! `outro trace`: what the model computes from prepared inputs, as tensors. The format is documented in `args/flags.rs`.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use anyhow::Context;
use outro::Prompt;
use outro::Session;
use outro::checkpoint::Dtype as WeightType;
use outro::config::SpecialTokens;
use outro::generate::argmax;
use outro::hook::{Chain, Hook, Recorder};
use outro::inputs::Inputs;
use outro::method::{OutRo, OutRoConfig};
use outro::settings::Settings;
use safetensors::tensor::{Dtype, TensorView};

use crate::args::cli::CaptureFlag;
use crate::args::{Switches, Trace};
use crate::fault::Fault;
use crate::shell::encode_inputs;
use crate::shell::output::Target;
use crate::shell::source;
use crate::ui::{Ui, Unit};

/// Traces one set of inputs.
pub(crate) fn run(args: &Trace, ui: &Ui) -> anyhow::Result<()> {
    let target = Target::claim(&args.out)?;
    let source = source::open(&args.model, ui)?;
    let dir = source.dir.as_path();
    let config = source.config()?;
    let mut inputs = Inputs::load(&args.inputs)?.fitted(&config)?;
    // Files of other tools carry no metadata; the order of the delimiters tells.
    inputs.use_audio_in_video |= is_interleaved(&inputs.input_ids, &config.tokens);
    inputs.validate(&config)?;
    let limit = config.text.max_positions;
    if inputs.input_ids.len().saturating_add(args.steps) > limit {
        let problem = format!(
            "{} prompt tokens and --steps {} exceed the model's {limit}",
            inputs.input_ids.len(),
            args.steps
        );
        return Err(Fault::failure(problem)
            .hint("give fewer --steps or a shorter prompt")
            .into());
    }

    let bar = ui.bar("loading weights", 0, Unit::Count);
    let method = match &args.outro {
        Some(switches) => Some(source::method(
            &Settings::load(dir)?,
            &Settings::place(dir),
            switches,
            config.text.layers,
        )?),
        None => None,
    };
    // A GGUF file's blocks stay as they are: the products with them are f32 as well, and exact.
    let dtype = if dir.is_file() {
        WeightType::Auto
    } else {
        WeightType::F32
    };
    let model = source.model(dtype)?;
    bar.done();
    let media = encode_inputs(&model, &inputs, ui)?;
    let prompt = model.prompt(&inputs, &media)?;

    let mut file = Tensors::default();
    let wants = |c: CaptureFlag| args.capture.contains(&c);
    if wants(CaptureFlag::Embeds) {
        for (name, rows) in [
            ("image_embeds", &media.image),
            ("video_embeds", &media.video),
            ("audio_embeds", &media.audio),
        ] {
            if rows.rows() > 0 {
                file.f32(name, &[rows.rows(), rows.cols()], rows.data().to_vec());
            }
        }
    }
    positions(&mut file, &prompt);
    let mut session = Session::new(&model, hooks(args, method.as_ref()));
    let layers = config.text.layers;
    let bar = ui.bar("prefill", layers as u64, Unit::Count);
    let logits = session.prefill(&prompt, args.last, &mut |done| bar.set(done as u64))?;
    bar.done();
    let vocab = logits.cols();
    let mut next = argmax(
        logits
            .data()
            .get(logits.data().len().saturating_sub(vocab)..)
            .unwrap_or_default(),
    );
    file.f32("prefill_logits", &[logits.rows(), vocab], logits.into_data());

    let bar = ui.bar("decoding", args.steps as u64, Unit::Count);
    let (mut tokens, mut rows) = (Vec::with_capacity(args.steps), Vec::new());
    for step in 0..args.steps {
        tokens.push(i64::from(next));
        let row = session.decode(next)?;
        next = argmax(&row);
        rows.extend(row);
        bar.set(step as u64 + 1);
    }
    bar.done();
    file.i64("tokens", &tokens);
    file.f32("decode_logits", &[tokens.len(), vocab], rows);

    let t = &config.text;
    let len = inputs.input_ids.len();
    if let Some(recorder) = session.hook::<Recorder>() {
        for (layer, o) in &recorder.head_outputs {
            file.f32(
                &format!("head_outputs.{layer}"),
                &[len, t.heads, t.head_dim],
                o.clone(),
            );
        }
        for (layer, x) in &recorder.hidden {
            file.f32(&format!("hidden.{layer}"), &[len, t.hidden], x.clone());
        }
    }
    let typed: BTreeMap<_, _> = args
        .outro
        .iter()
        .flat_map(Switches::pairs)
        .map(|(k, v)| (k.as_str(), v.as_str()))
        .collect();
    let mut metadata = HashMap::from([
        ("outro".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        (
            "strategy".to_owned(),
            if args.outro.is_some() { "outro" } else { "baseline" }.to_owned(),
        ),
        ("settings".to_owned(), serde_json::to_string(&typed)?),
    ]);
    if let Some(outro) = session.hook::<OutRo>() {
        if wants(CaptureFlag::Vbar) {
            for (layer, v) in outro.vbar() {
                file.f32(&format!("vbar.{layer}"), &[t.kv_heads, t.head_dim], v.clone());
            }
        }
        metadata.insert("sinks".into(), serde_json::to_string(outro.sinks())?);
        metadata.insert("relaxed_at".into(), serde_json::to_string(outro.relaxed_at())?);
    }
    file.write(metadata, target.temp())
        .with_context(|| format!("--out {}", args.out.display()))?;
    target.commit()
}

/// The method, then the recorder, which so sees what the output projection sees.
fn hooks(args: &Trace, method: Option<&OutRoConfig>) -> Option<Box<dyn Hook>> {
    let mut hooks: Vec<Box<dyn Hook>> = Vec::new();
    if let Some(config) = method {
        hooks.push(Box::new(OutRo::new(config.clone())));
    }
    let recorder = Recorder {
        wants_hidden: args.capture.contains(&CaptureFlag::Hidden),
        wants_head_outputs: args.capture.contains(&CaptureFlag::HeadOutputs),
        ..Recorder::default()
    };
    if recorder.wants_hidden || recorder.wants_head_outputs {
        hooks.push(Box::new(recorder));
    }
    if hooks.len() > 1 {
        Some(Box::new(Chain(hooks)))
    } else {
        hooks.pop()
    }
}

/// Whether a video's sound is interleaved with it: then, and only then, vision starts with audio.
pub(super) fn is_interleaved(ids: &[u32], tokens: &SpecialTokens) -> bool {
    match (tokens.vision_start, tokens.audio_start) {
        (Some(vision), Some(audio)) => ids.array_windows().any(|w| *w == [vision, audio]),
        _ => false,
    }
}

fn positions(file: &mut Tensors, prompt: &Prompt) {
    let ids = &prompt.positions.ids;
    let data = (0..3).flat_map(|axis| ids.iter().map(move |p| p[axis])).collect();
    file.f32("position_ids", &[3, ids.len()], data);
}

/// A safetensors file that is being put together.
#[derive(Default)]
struct Tensors(BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>);

impl Tensors {
    fn f32(&mut self, name: &str, shape: &[usize], data: Vec<f32>) {
        let bytes = data.into_iter().flat_map(f32::to_le_bytes).collect();
        self.0
            .insert(name.to_owned(), (Dtype::F32, shape.to_vec(), bytes));
    }

    fn i64(&mut self, name: &str, data: &[i64]) {
        let bytes = data.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.0
            .insert(name.to_owned(), (Dtype::I64, vec![data.len()], bytes));
    }

    fn write(&self, metadata: HashMap<String, String>, path: &Path) -> anyhow::Result<()> {
        let views = self
            .0
            .iter()
            .map(|(name, (dtype, shape, bytes))| Ok((name, TensorView::new(*dtype, shape.clone(), bytes)?)))
            .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
        safetensors::serialize_to_file(views, Some(metadata), path)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interleaving_shows_in_the_delimiters() {
        let tokens = SpecialTokens {
            vision_start: Some(5),
            audio_start: Some(6),
            ..SpecialTokens::default()
        };
        assert!(is_interleaved(&[1, 5, 6, 2], &tokens));
        assert!(!is_interleaved(&[1, 6, 5, 2], &tokens));
        assert!(!is_interleaved(&[], &tokens));
        assert!(!is_interleaved(&[5, 6], &SpecialTokens::default()));
    }
}
