//! Every quantity against a naive computation with whole S x S maps, on the tiny checkpoint's fixtures.

use std::path::{Path, PathBuf};

use outro::Dtype;
use outro::hook::{At, Attention, Flow, HeadOutputs, Hidden};
use outro::inputs::Inputs;
use outro::positions::spans;

use super::*;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/omni-tiny")
}

fn open(kind: &str) -> (Model, Prompt, Vec<Span>) {
    let model = Model::load(&root(), Dtype::F32).unwrap();
    let inputs = Inputs::load(&root().join(format!("cases/{kind}.inputs.safetensors"))).unwrap();
    let media = model.encode(&inputs, &mut |_| {}).unwrap();
    let prompt = model.prompt(&inputs, &media).unwrap();
    let spans = spans(model.config(), &inputs).unwrap();
    (model, prompt, spans)
}

/// Keeps everything of a prefill.
#[derive(Default)]
struct Keep {
    x: Vec<Vec<f32>>,
    qkvo: Vec<[Vec<f32>; 4]>,
}

impl Hook for Keep {
    fn layer_input(&mut self, _at: At, x: Hidden) -> outro::Result<Flow> {
        self.x.push(x.host().to_vec());
        Ok(Flow::Continue)
    }

    fn head_outputs(&mut self, _: At, a: Attention, o: &mut HeadOutputs, _: bool) -> outro::Result<()> {
        self.qkvo
            .push([a.q(), a.k(), a.v(), o.host()].map(<[f32]>::to_vec));
        Ok(())
    }
}

fn head(x: &[f32], row: usize, width: usize, h: usize, dim: usize) -> &[f32] {
    &x[(row * width + h) * dim..][..dim]
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[track_caller]
fn near(got: f32, want: f64, what: &str) {
    assert!(
        (f64::from(got) - want).abs() <= 1e-5 * want.abs().max(1.0),
        "{what}: {got} {want}"
    );
}

#[test]
fn every_quantity_is_that_of_the_whole_map() {
    for kind in ["text", "audio-in-video"] {
        let (model, prompt, spans) = open(kind);
        let options = Options::default();
        let profile = probe(&model, &prompt, &spans, &options, &mut |_| {}).unwrap();
        let mut session = Session::new(&model, Some(Box::new(Keep::default())));
        session.prefill(&prompt, 1, &mut |_| {}).unwrap();
        let seen = session.hook::<Keep>().unwrap();
        let t = &model.config().text;
        let (heads, groups, dim, n) = (t.heads, t.kv_heads, t.head_dim, spans.len());
        assert!(!profile.fallback && !profile.watched.is_empty());
        let watched = |i: &usize| profile.watched.contains(i);
        let others: Vec<usize> = (0..n).filter(|i| !watched(i)).collect();
        for (layer, [q, k, v, o]) in profile.layers.iter().zip(&seen.qkvo) {
            let at = format!("{kind}, layer {}", layer.layer);
            let mut attention_of = vec![0f64; n];
            let (mut all_gates, mut angles) = (Vec::new(), Vec::new());
            let (mut by_video, mut by_audio) = (vec![0f64; n], vec![0f64; n]);
            for h in 0..heads {
                let g = h / (heads / groups);
                let map: Vec<Vec<f64>> = (0..n)
                    .map(|i| {
                        let scores: Vec<f64> = (0..=i)
                            .map(|j| {
                                dot(head(q, i, heads, h, dim), head(k, j, groups, g, dim))
                                    / (dim as f64).sqrt()
                            })
                            .collect();
                        let max = scores.iter().copied().fold(f64::MIN, f64::max);
                        let sum: f64 = scores.iter().map(|s| (s - max).exp()).sum();
                        scores.iter().map(|s| (s - max).exp() / sum).collect()
                    })
                    .collect();
                let on = |i: usize| -> f64 { profile.watched.iter().filter_map(|s| map[i].get(*s)).sum() };
                let mean = |rows: &[usize], f: &dyn Fn(usize) -> f64| {
                    rows.iter().map(|i| f(*i)).sum::<f64>() / rows.len().max(1) as f64
                };
                for kind in Kind::ALL {
                    let rows: Vec<usize> = others
                        .iter()
                        .copied()
                        .filter(|i| profile.kinds[*i] == kind)
                        .collect();
                    near(
                        layer.mass[h][kind as usize],
                        mean(&rows, &on),
                        &format!("{at}: mass by {}", kind.name()),
                    );
                }
                let gate = 1.0 - mean(&others, &on);
                near(layer.gate[h], gate, &format!("{at}: gate"));
                all_gates.push(gate);
                let part = |i: usize| -> Vec<f32> {
                    let mut sum = vec![0f64; dim];
                    for s in profile.watched.iter().filter(|s| **s <= i) {
                        let v = head(v, *s, groups, g, dim);
                        sum.iter_mut()
                            .zip(v)
                            .for_each(|(a, v)| *a += map[i][*s] * f64::from(*v));
                    }
                    sum.iter().map(|x| *x as f32).collect()
                };
                let share = |i: usize| {
                    let (p, o) = (part(i), head(o, i, heads, h, dim));
                    (dot(&p, &p) / dot(o, o)).sqrt()
                };
                near(layer.share[h], mean(&others, &share), &format!("{at}: share"));
                let key: Vec<f32> = (0..dim)
                    .map(|d| {
                        let all = profile.watched.iter().map(|s| head(k, *s, groups, g, dim)[d]);
                        all.sum::<f32>() / profile.watched.len() as f32
                    })
                    .collect();
                let angle = |i: usize| cosine(head(q, i, heads, h, dim), &key);
                near(
                    layer.q_sink_key.mean[h],
                    mean(&others, &angle),
                    &format!("{at}: cos(q, k)"),
                );
                if let Some(vbar) = profile.vbar.get(&layer.layer) {
                    let angle = |i: usize| cosine(head(o, i, heads, h, dim), &vbar[g * dim..(g + 1) * dim]);
                    near(
                        layer.o_before.mean[h],
                        mean(&others, &angle),
                        &format!("{at}: cos(o, v)"),
                    );
                    let vbar = &vbar[g * dim..(g + 1) * dim];
                    let angle =
                        |i: usize| cosine(&rotated(head(o, i, heads, h, dim), vbar, &options.method), vbar);
                    near(
                        layer.o_after.mean[h],
                        mean(&others, &angle),
                        &format!("{at}: cos(o, v) after OutRo"),
                    );
                }
                for i in &others {
                    angles.push(cosine(head(q, *i, heads, h, dim), &key));
                }
                for (i, row) in map.iter().enumerate() {
                    for (j, a) in row.iter().enumerate() {
                        attention_of[j] += a / heads as f64;
                        if !watched(&i) {
                            match profile.kinds[i] {
                                Kind::Video => by_video[j] += a / heads as f64,
                                Kind::Audio => by_audio[j] += a / heads as f64,
                                _ => {}
                            }
                        }
                    }
                }
            }
            let marked: Vec<usize> = (0..n)
                .filter(|j| attention_of[*j] / (n - j) as f64 > f64::from(options.epsilon))
                .collect();
            assert_eq!(layer.attended, marked, "{at}");
            for s in &layer.seen {
                let later = |kind| {
                    let rows = others
                        .iter()
                        .filter(|i| **i >= s.position && profile.kinds[**i] == kind);
                    rows.count().max(1) as f64
                };
                let (video, audio) = (
                    by_video[s.position] / later(Kind::Video),
                    by_audio[s.position] / later(Kind::Audio),
                );
                near(s.mass, attention_of[s.position] / (n - s.position) as f64, &at);
                near(s.video, video, &at);
                near(s.audio, audio, &at);
                if video + audio > 0.0 {
                    near(s.modality, (video - audio) / (video + audio), &at);
                }
            }
            let mean = all_gates.iter().sum::<f64>() / heads as f64;
            let deviation = (all_gates.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / heads as f64).sqrt();
            near(layer.balance.variation, deviation / mean, &at);
            let shares = all_gates.iter().map(|g| g / (mean * heads as f64));
            let entropy = -shares.map(|p| p * p.ln()).sum::<f64>() / (heads as f64).ln();
            near(layer.balance.entropy, entropy, &at);
            let closed = all_gates.iter().filter(|g| **g < 0.05).count() as f64 / heads as f64;
            near(layer.balance.closed, closed, &at);
            let mut bins = [0u32; Cosines::BINS];
            for c in &angles {
                bins[((c + 1.0) / 2.0 * Cosines::BINS as f64) as usize] += 1;
            }
            let apart = bins
                .iter()
                .zip(&layer.q_sink_key.histogram)
                .map(|(a, b)| a.abs_diff(*b));
            assert!(
                apart.sum::<u32>() <= 2,
                "{at}: only a cosine at an edge may fall into the other part"
            );
            let length = |x: &[f32], rows: &[usize]| {
                let all = rows
                    .iter()
                    .flat_map(|i| (0..groups).map(move |g| head(x, *i, groups, g, dim)));
                all.map(|x| dot(x, x).sqrt()).sum::<f64>() / (rows.len() * groups) as f64
            };
            near(layer.norms.k_sinks, length(k, &profile.watched), &at);
            near(layer.norms.k_others, length(k, &others), &at);
            near(layer.norms.v_sinks, length(v, &profile.watched), &at);
            near(layer.norms.v_others, length(v, &others), &at);
            let column = |rows: &[usize], g: usize, d: usize| {
                let all = rows.iter().map(|i| f64::from(head(k, *i, groups, g, dim)[d]));
                all.sum::<f64>() / rows.len() as f64
            };
            let mut sizes: Vec<f64> = (0..groups * dim)
                .map(|i| column(&profile.watched, i / dim, i % dim).abs())
                .collect();
            sizes.sort_by(|a, b| b.total_cmp(a));
            assert_eq!(layer.key_dims.len(), 4);
            for (d, size) in layer.key_dims.iter().zip(sizes) {
                near(d.sinks, column(&profile.watched, d.head, d.dim), &at);
                near(d.others, column(&others, d.head, d.dim), &at);
                near(d.sinks.abs(), size, &at);
            }
        }
        for (layer, x) in profile.layers.iter().zip(&seen.x) {
            let mut all: Vec<f32> = x.iter().map(|v| v.abs()).collect();
            all.sort_by(f32::total_cmp);
            assert_eq!(layer.median, all[(all.len() - 1) / 2]);
            let mut largest: Vec<f32> = x
                .chunks(t.hidden)
                .map(|row| row.iter().fold(0.0, |m: f32, v| m.max(v.abs())))
                .collect();
            let c = &options.method;
            let threshold = c.abs_threshold.max(c.median_multiple * layer.median);
            let massive: Vec<usize> = (0..n).filter(|i| largest[*i] >= threshold).collect();
            assert_eq!(layer.massive, massive);
            largest.sort_by(|a, b| b.total_cmp(a));
            assert_eq!(layer.top[..], largest[..3]);
            let visual: Vec<usize> = (0..n)
                .filter(|i| {
                    let row = &x[i * t.hidden..(i + 1) * t.hidden];
                    let rms = (dot(row, row) / t.hidden as f64 + 1e-6).sqrt();
                    profile
                        .dims
                        .iter()
                        .any(|d| f64::from(row[*d].abs()) >= 20.0 * rms)
                })
                .collect();
            assert_eq!(layer.visual, visual);
        }
        // The sink dimensions: the largest |x| / RMS(x) at a sink of the layer, token 0 where it has none.
        let mut standing = vec![0f64; t.hidden];
        let middle = t.layers / 4..(3 * t.layers).div_ceil(4);
        for (layer, x) in profile
            .layers
            .iter()
            .zip(&seen.x)
            .filter(|(l, _)| middle.contains(&l.layer))
        {
            let here = if layer.sinks.is_empty() {
                &[0][..]
            } else {
                &layer.sinks
            };
            for i in here {
                let row = &x[i * t.hidden..(i + 1) * t.hidden];
                let rms = (dot(row, row) / t.hidden as f64 + 1e-6).sqrt();
                for (s, v) in standing.iter_mut().zip(row) {
                    *s = s.max(f64::from(v.abs()) / rms);
                }
            }
        }
        let mut dims: Vec<usize> = (0..t.hidden).collect();
        dims.sort_by(|a, b| standing[*b].total_cmp(&standing[*a]));
        dims.truncate(2);
        dims.sort_unstable();
        assert_eq!(profile.dims, dims, "{kind}");
        let order = profile.heads_by_score();
        assert!(order.len() == t.layers * heads && order.windows(2).all(|w| w[0].2 >= w[1].2));
    }
}

/// One head output after the rotation, as method.md has it.
fn rotated(o: &[f32], vbar: &[f32], c: &OutRoConfig) -> Vec<f32> {
    let gate = (cosine(o, vbar).max(0.0) / f64::from(c.temperature)).tanh();
    let step = gate * f64::from(c.gamma) * dot(o, vbar).abs() / (dot(vbar, vbar) + 1e-8);
    let turned: Vec<f64> = o
        .iter()
        .zip(vbar)
        .map(|(o, v)| f64::from(*o) + step * f64::from(*v))
        .collect();
    let scale = dot(o, o).sqrt() / turned.iter().map(|x| x * x).sum::<f64>().sqrt();
    turned.iter().map(|x| (x * scale) as f32).collect()
}

#[test]
fn agreement_is_shared_marks_over_all_marks() {
    assert!(
        Profile::agreement(&[], &[]).is_nan(),
        "nothing agrees with nothing"
    );
    assert_eq!(Profile::agreement(&[1], &[]), 0.0);
    assert_eq!(Profile::agreement(&[0, 1, 2], &[1, 2, 3]), 0.5);
}

#[test]
fn sinks_are_the_fixtures_and_looking_changes_nothing() {
    use safetensors::SafeTensors;
    for kind in ["text", "video", "audio", "audio-in-video"] {
        let (model, prompt, spans) = open(kind);
        let bytes = std::fs::read(root().join(format!("cases/{kind}.outro.safetensors"))).unwrap();
        let meta = SafeTensors::read_metadata(&bytes)
            .unwrap()
            .1
            .metadata()
            .clone()
            .unwrap();
        let profile = probe(&model, &prompt, &spans, &Options::default(), &mut |_| {}).unwrap();
        // The fixture was run with OutRo acting; so is this.
        let acting = Options {
            act: true,
            ..Options::default()
        };
        let acted = probe(&model, &prompt, &spans, &acting, &mut |_| {}).unwrap();
        let read = |key: &str| -> BTreeMap<usize, Vec<usize>> { serde_json::from_str(&meta[key]).unwrap() };
        assert_eq!(acted.sinks, read("sinks"), "{kind}");
        assert_eq!(acted.relaxed_at, read("relaxed_at"), "{kind}");
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        for (layer, vbar) in &acted.vbar {
            let Ok(view) = tensors.tensor(&format!("vbar.{layer}")) else {
                continue;
            };
            for (bytes, got) in view.data().as_chunks().0.iter().zip(vbar) {
                near(*got, f64::from(f32::from_le_bytes(*bytes)), kind);
            }
        }
        assert!(profile.layers.iter().all(|l| l.tokens == spans.len()));
        assert!(
            acted
                .layers
                .iter()
                .zip(&profile.layers)
                .any(|(a, b)| a.share != b.share),
            "{kind}: OutRo changes later layers"
        );
    }
}

#[test]
fn looking_changes_no_bit_and_neither_does_keeping_everything() {
    let (model, prompt, spans) = open("audio-in-video");
    let run = |hook: Option<Box<dyn Hook>>| {
        let mut session = Session::new(&model, hook);
        let mut logits = session.prefill(&prompt, 4, &mut |_| {}).unwrap().into_data();
        logits.extend(session.decode(20).unwrap());
        logits
    };
    let plain = run(None);
    let kinds: Vec<Kind> = spans.iter().map(Kind::from).collect();
    let watch = watch::Watch::new(Options::default(), kinds, vec![0], vec![1, 2]);
    assert_eq!(run(Some(Box::new(watch))), plain);
    let method = OutRoConfig::default();
    let prune = |keep| -> Option<Box<dyn Hook>> {
        let config = PruneConfig { layer: 4, keep };
        Some(Box::new(Prune::new(config, &method, prunable(&spans))))
    };
    assert_eq!(run(prune(1.0)), plain);
    assert_ne!(run(prune(0.2)), plain);
}

#[test]
fn pruned_tokens_are_gone_and_positions_stay_the_prompts() {
    let (model, prompt, spans) = open("audio-in-video");
    let pruned = Options {
        prune: Some(PruneConfig { layer: 4, keep: 0.25 }),
        ..Options::default()
    };
    let all = probe(&model, &prompt, &spans, &Options::default(), &mut |_| {}).unwrap();
    let few = probe(&model, &prompt, &spans, &pruned, &mut |_| {}).unwrap();
    let media = prunable(&spans).iter().filter(|m| **m).count();
    assert!(
        few.pruned > media / 2 && few.pruned <= media - media.div_ceil(4),
        "{} of {media}",
        few.pruned
    );
    assert_eq!(few.layers[..5].iter().map(|l| l.tokens).max(), Some(spans.len()));
    assert!(
        few.layers[5..]
            .iter()
            .all(|l| l.tokens == spans.len() - few.pruned)
    );
    assert_eq!(
        few.sinks, all.sinks,
        "the planted sinks are found where they were"
    );
    assert!(few.cache_bytes < all.cache_bytes);
}

/// On request: the two trained models whose sinks an independent implementation has listed. `OUTRO_QWEN_GGUF` is
/// Qwen2.5-Coder-0.5B-Instruct (Q4_K_M), `OUTRO_SMOLLM_GGUF` SmolLM2-135M-Instruct (Q4_1).
#[test]
fn massive_activations_of_trained_models_appear_where_they_do() {
    let open = |variable: &str| {
        let Some(path) = std::env::var_os(variable) else {
            println!("note: {variable} is not set, its model was not looked at");
            return None;
        };
        let tokenizer = outro::tokenizer::Tokenizer::open(Path::new(&path))
            .unwrap()
            .unwrap();
        Some((Model::load(Path::new(&path), Dtype::Auto).unwrap(), tokenizer))
    };
    let profile_of = |model: &Model, ids: Vec<u32>| {
        let inputs = Inputs {
            input_ids: ids,
            ..Inputs::default()
        };
        let prompt = model.prompt(&inputs, &outro::MediaEmbeds::default()).unwrap();
        let rows = spans(model.config(), &inputs).unwrap();
        probe(model, &prompt, &rows, &Options::default(), &mut |_| {}).unwrap()
    };
    let text = "The sky is blue because air scatters short waves more than long ones. ".repeat(12);
    if let Some((model, tokenizer)) = open("OUTRO_QWEN_GGUF") {
        let chat = format!(
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
        );
        let p = profile_of(&model, tokenizer.encode(&chat).unwrap());
        let with = p.sinks.iter().filter(|(_, sinks)| sinks.contains(&0));
        let with: Vec<usize> = with.map(|(layer, _)| *layer).collect();
        assert_eq!(with, (3..=21).collect::<Vec<_>>());
        assert!((p.layers[3].top[0] - 1573.0).abs() < 2.0 && (p.layers[6].top[0] - 2182.0).abs() < 5.0);
        for layer in (3..6).chain(18..22) {
            assert_eq!(p.sinks[&layer], [0], "layer {layer}");
        }
        for layer in 6..15 {
            assert_eq!(p.sinks[&layer], [0, 2, 3, 8, 10, 13], "layer {layer}");
        }
        let want = BTreeMap::from([(3, vec![0]), (6, vec![2, 3, 8, 10, 13])]);
        assert_eq!(p.relaxed_at, want);
    }
    if let Some((model, tokenizer)) = open("OUTRO_SMOLLM_GGUF") {
        let p = profile_of(
            &model,
            tokenizer
                .encode(&format!("<|im_start|><|im_start|>user\n{text}"))
                .unwrap(),
        );
        for l in &p.layers[..28] {
            let want: &[usize] = if l.layer < 12 { &[] } else { &[0, 1] };
            assert_eq!(l.massive, want, "layer {}", l.layer);
        }
        assert!((p.layers[12].top[0] - 24_926.0).abs() < 30.0);
        assert_eq!(p.relaxed_at.into_iter().collect::<Vec<_>>(), [(12, vec![0, 1])]);
    }
}
