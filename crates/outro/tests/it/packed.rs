//! Checkpoints that quantisers packed (fixtures/packed): values of transformers on the same numbers in f32, the mistakes that
//! loaders make, refusals.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use outro::checkpoint::Audit;
use outro::hook::Hook;
use outro::inputs::Inputs;
use outro::{Dtype, Model, OutRo, OutRoConfig, Session};

use crate::golden::{Golden, LOGITS};

fn all() -> Vec<PathBuf> {
    let mut all: Vec<_> = fs::read_dir(crate::fixtures().join("packed"))
        .unwrap()
        .flatten()
        .map(|e| e.path())
        .collect();
    all.sort();
    assert!(all.len() >= 21, "{all:?}");
    all
}

fn dir(name: &str) -> PathBuf {
    crate::fixtures().join("packed").join(name)
}

/// Logits of the prompt's last rows and of steps that feed the golden tokens, and the sinks.
fn run(model: &Model, case: &Path, mode: &str) -> (Vec<f32>, BTreeMap<usize, Vec<usize>>) {
    let golden = Golden::open(case.into());
    let tokens = golden.get(&format!("{mode}.tokens")).unwrap();
    let rows = golden.get(&format!("{mode}.logits")).unwrap().len() / model.config().text.vocab - tokens.len();
    let inputs = Inputs::load(case).unwrap().fitted(model.config()).unwrap();
    let prompt = model
        .prompt(&inputs, &model.encode(&inputs, &mut |_| {}).unwrap())
        .unwrap();
    let hook = (mode == "outro").then(|| Box::new(OutRo::new(OutRoConfig::default())) as Box<dyn Hook>);
    let mut session = Session::new(model, hook);
    let mut all = session.prefill(&prompt, rows, &mut |_| {}).unwrap().data;
    for token in tokens {
        all.extend(session.decode(token as u32).unwrap());
    }
    let sinks = session.hook::<OutRo>().map(|o| o.sinks().clone()).unwrap_or_default();
    (all, sinks.into_iter().filter(|(_, rows)| !rows.is_empty()).collect())
}

#[test]
fn every_layout_gives_the_values_of_its_numbers_in_f32() {
    for from in all() {
        let (name, case) = (from.display(), from.join("case.safetensors"));
        let golden = Golden::open(case.clone());
        for dtype in [Dtype::Auto, Dtype::F32] {
            let model = Model::load(&from, dtype).unwrap_or_else(|e| panic!("{name}: {e}"));
            for mode in ["baseline", "outro"] {
                let (got, sinks) = run(&model, &case, mode);
                golden.check(&format!("{mode}.logits"), &got, LOGITS);
                if mode == "outro" {
                    let want: BTreeMap<usize, Vec<usize>> =
                        serde_json::from_str(&golden.meta()["sinks"]).unwrap();
                    assert_eq!(sinks, want, "{name}");
                }
            }
        }
        assert_eq!(Model::audit(&from).unwrap(), Audit::default(), "{name}");
    }
}
