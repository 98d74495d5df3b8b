//! Each strategy against its formula, written down naively.

use super::*;

#[test]
fn farsight_is_softmax_over_keys_and_registers() {
    for name in CASES {
        let case = case(name);
        for sigma in [0.1f32, 0.8] {
            let got = with(
                vec![Box::new(FarSight::new(FarSightConfig { sigma }))],
                &case.prompt,
            );
            let naive = Naive::weighing(move |_, _, scores| {
                let (n, s) = (scores.len(), scores[0].len());
                let row = |i: usize| {
                    let register = |j: usize| -f64::from(sigma) * (j - (s - n + i)) as f64;
                    let with: Vec<f64> = (0..s)
                        .map(|j| if j > s - n + i { register(j) } else { scores[i][j] })
                        .collect();
                    let mut weights = softmax(&with);
                    weights[s - n + i + 1..].fill(0.0);
                    weights
                };
                (0..n).map(row).collect()
            });
            same(&got, &with(vec![naive], &case.prompt));
            assert_ne!(got, plain(&case), "{name}");
        }
    }
}

/// The redistribution as it is done on a map.
fn redistribute(c: &VarConfig, row: &mut [f64], visual: &[usize], sinks: &[usize]) {
    let sinks: Vec<usize> = sinks.iter().copied().filter(|t| *t < row.len()).collect();
    let image: f64 = visual.iter().map(|j| row[*j]).sum();
    let image_sinks: f64 = visual.iter().filter(|j| sinks.contains(j)).map(|j| row[*j]).sum();
    if image < f64::from(c.sum) || image_sinks / image > f64::from(c.rho) {
        return;
    }
    let budget: f64 = sinks.iter().map(|j| row[*j] * (1.0 - f64::from(c.p))).sum();
    let others: Vec<usize> = visual.iter().copied().filter(|j| !sinks.contains(j)).collect();
    let rest: f64 = others.iter().map(|j| row[*j]).sum();
    for j in sinks {
        row[j] *= f64::from(c.p);
    }
    for j in others {
        row[j] += budget * row[j] / rest;
    }
}

#[test]
fn var_moves_attention_from_sinks_to_the_rest_of_the_picture() {
    let mut moved = 0;
    for name in CASES {
        let case = case(name);
        let visual: Vec<usize> = (0..case.prompt.spans.len())
            .filter(|i| matches!(case.prompt.spans[*i], Span::Video { .. } | Span::Image { .. }))
            .collect();
        let given = OutRoConfig {
            sinks: Some([0].into_iter().chain(visual.get(1).copied()).collect()),
            ..OutRoConfig::default()
        };
        let by_dims = VarConfig {
            dims: vec![3, 17],
            tau: 1.7,
            sum: 0.05,
            start: 1,
            ..VarConfig::default()
        };
        for (c, sinks) in [
            (VarConfig::default(), given),
            (by_dims, OutRoConfig::default()),
            (VarConfig::default(), OutRoConfig::default()),
        ] {
            let hook = || Box::new(Var::new(c.clone(), &sinks, &case.prompt.spans));
            let mut session = Session::new(&MODEL, Some(hook()));
            let got = followed(&mut session, &case.prompt);
            moved += session.hook::<Var>().unwrap().moved();
            let inputs = Arc::default();
            let (c, visual, config, seen) = (c, visual.clone(), sinks, Arc::clone(&inputs));
            let mut kept: Vec<Vec<usize>> = Vec::new();
            let naive = Naive::seeing(&inputs, move |at, head, scores| {
                let mut map = map_of(scores);
                if at.prefill && head == 0 {
                    kept.push(naive_sinks(&c, &config, &seen.lock().unwrap()[at.layer]));
                }
                let (n, s) = (map.len(), map[0].len());
                let first = if at.prefill {
                    visual.last().map_or(n, |v| v + 1)
                } else {
                    0
                };
                if !visual.is_empty() && at.layer >= c.start && at.layer + 1 < at.layers {
                    for (i, row) in map.iter_mut().enumerate().skip(first) {
                        redistribute(&c, &mut row[..=s - n + i], &visual, &kept[at.layer]);
                    }
                }
                map
            });
            same(&got, &with(vec![naive], &case.prompt));
        }
    }
    assert!(moved > 100, "{moved}: the test must test something");
}

fn naive_sinks(c: &VarConfig, config: &OutRoConfig, x: &[f32]) -> Vec<usize> {
    let rows = x.chunks_exact(MODEL.config().text.hidden).enumerate();
    if let Some(given) = &config.sinks {
        return given.clone();
    }
    let least = config.abs_threshold.max(config.median_multiple * median_abs(x));
    let is_sink = |x: &[f32]| {
        if c.dims.is_empty() {
            return x.iter().any(|v| v.abs() >= least);
        }
        let rms = (x.iter().map(|v| v * v).sum::<f32>() / x.len() as f32).sqrt();
        c.dims.iter().any(|d| x[*d].abs() / rms > c.tau)
    };
    rows.filter(|(_, x)| is_sink(x)).map(|(i, _)| i).collect()
}

/// Attention of the prompt's last row: `[L][H][S]`.
fn last_rows(case: &Case) -> Vec<Vec<Vec<f64>>> {
    let all = Arc::new(Mutex::new(Vec::<Vec<Vec<f64>>>::new()));
    let seen = Arc::clone(&all);
    let naive = Naive::weighing(move |at, head, scores| {
        let map = map_of(scores);
        if at.prefill {
            let mut seen = seen.lock().unwrap();
            seen.resize(at.layer + 1, Vec::new());
            assert_eq!(seen[at.layer].len(), head);
            seen[at.layer].push(map.last().unwrap().clone());
        }
        map
    });
    with(vec![naive], &case.prompt);
    Arc::into_inner(all).map_or_else(Vec::new, |m| m.into_inner().unwrap())
}

/// `sum of factor * logits`, without the tokens that `plain` finds implausible.
pub(super) fn mixed(terms: &[(f32, &[f32])], plain: &[f32], beta: f32) -> Vec<f32> {
    let best = plain.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let token = |i: usize| {
        if plain[i] < best + beta.ln() {
            return f32::NEG_INFINITY;
        }
        terms
            .iter()
            .map(|(f, l)| f64::from(*f) * f64::from(l[i]))
            .sum::<f64>() as f32
    };
    (0..plain.len()).map(token).collect()
}

#[test]
fn vcd_contrasts_with_noise_on_pixels() {
    let noise = Noise {
        steps: 500,
        seed: 3,
        audio: true,
    };
    // Python: the cumulative product of 1 - (sigmoid(linspace(-6, 6, 1000)) * (5e-3 - 1e-5) + 1e-5) at 500.
    assert!(
        (noise.signal() - 0.744_798_526).abs() < 1e-8,
        "{}",
        noise.signal()
    );
    for name in ["audio-in-video", "video", "image"] {
        let case = case(name);
        let distorted = noise.on(&case.inputs, MODEL.config());
        let embeds = MODEL.encode(&distorted, &mut |_| {}).unwrap();
        let noisy = MODEL.prompt(&distorted, &embeds).unwrap();
        let (clean, other) = (plain(&case), followed(&mut Session::new(&MODEL, None), &noisy));
        for (alpha, beta) in [(1.0, 0.1), (0.5, 0.0)] {
            let config = VcdConfig { alpha, beta, noise };
            let (got, passes) = vcd(&case, &none, config);
            let want: Vec<Vec<f32>> = clean
                .iter()
                .zip(&other)
                .map(|(l, n)| mixed(&[(1.0 + alpha, l), (-alpha, n)], l, beta))
                .collect();
            same(&got, &want);
            assert_eq!(passes, 10);
            assert_ne!(got, clean);
        }
        let pixels = |i: &Inputs| {
            [&i.pixel_values, &i.pixel_values_videos]
                .into_iter()
                .flatten()
                .next()
                .unwrap()
                .data
                .clone()
        };
        let (x, y) = (pixels(&case.inputs), pixels(&distorted));
        let signal = noise.signal();
        let eps: Vec<f64> = x
            .iter()
            .zip(&y)
            .map(|(x, y)| (f64::from(*y) - signal.sqrt() * f64::from(*x)) / (1.0 - signal).sqrt())
            .collect();
        let mean = |f: fn(f64) -> f64| eps.iter().map(|e| f(*e)).sum::<f64>() / eps.len() as f64;
        assert!(
            mean(|e| e).abs() < 0.1 && (mean(|e| e * e) - 1.0).abs() < 0.15,
            "{name}"
        );
        assert_eq!(
            distorted,
            noise.on(&case.inputs, MODEL.config()),
            "the seed fixes it"
        );
        let other = Noise { seed: 4, ..noise };
        assert_ne!(distorted, other.on(&case.inputs, MODEL.config()));
        if name == "image" {
            let v = MODEL.config().vision.as_ref().unwrap();
            let area = v.patch * v.patch;
            for channel in eps.chunks_exact(area * v.temporal) {
                let same = channel[..area]
                    .iter()
                    .zip(&channel[area..2 * area])
                    .all(|(a, b)| (a - b).abs() < 1e-5);
                assert!(same, "both copies of an image have the same noise");
            }
        }
    }
}

#[test]
fn mod_masks_what_the_last_row_does_not_look_at() {
    for (name, audio) in [
        ("audio-in-video", true),
        ("audio-in-video", false),
        ("video", false),
        ("image", false),
    ] {
        let case = case(name);
        let ranked: Vec<usize> = (0..case.prompt.spans.len())
            .filter(|i| match case.prompt.spans[*i] {
                Span::Text => false,
                Span::Audio { .. } => audio,
                _ => true,
            })
            .collect();
        let seen = last_rows(&case);
        let attention = |row: &usize| -> f64 {
            let by_layer = seen
                .iter()
                .map(|heads| heads.iter().map(|a| a[*row]).sum::<f64>() / heads.len() as f64);
            by_layer.sum()
        };
        let mut order = ranked.clone();
        order.sort_by(|a, b| attention(a).total_cmp(&attention(b)));
        let mut without = Prompt::clone(&case.prompt);
        for row in &order[..(ranked.len() as f64 * 0.8) as usize] {
            without.embeds.row_mut(*row).fill(0.0);
        }
        let (clean, other) = (plain(&case), followed(&mut Session::new(&MODEL, None), &without));
        let js = divergence(&clean[0], &other[0]);
        assert!(js > 1e-6 && js < 2f64.ln(), "{js}");
        for (threshold, alike) in [(js * 0.999, false), (js * 1.001, true)] {
            let config = MixtureConfig {
                threshold,
                audio,
                ..MixtureConfig::default()
            };
            let (got, passes) = mixture(&case, &none, config);
            let mix = |(l, f): (&Vec<f32>, &Vec<f32>)| {
                let terms = if alike {
                    [(1.0, &l[..]), (4.0, &f[..])]
                } else {
                    [(2.0, &l[..]), (-1.0, &f[..])]
                };
                mixed(&terms, l, 0.5)
            };
            let want: Vec<Vec<f32>> = clean.iter().zip(&other).map(mix).collect();
            same(&got, &want);
            assert_eq!(passes, 10);
        }
    }
}

/// Jensen-Shannon by its definition with entropies: `H(m) - (H(p) + H(q)) / 2`.
fn divergence(a: &[f32], b: &[f32]) -> f64 {
    let p = |l: &[f32]| softmax(&l.iter().map(|x| f64::from(*x)).collect::<Vec<_>>());
    let h = |p: &[f64]| -> f64 { p.iter().map(|p| -p * p.ln()).sum() };
    let (p, q) = (p(a), p(b));
    let m: Vec<f64> = p.iter().zip(&q).map(|(p, q)| (p + q) / 2.0).collect();
    h(&m) - f64::midpoint(h(&p), h(&q))
}

/// 0 what is seen, 1 what is heard, 2 words.
fn kind(span: &Span) -> usize {
    match span {
        Span::Image { .. } | Span::Video { .. } => 0,
        Span::Audio { .. } => 1,
        Span::Text => 2,
    }
}

/// A pass with rows of maps zeroed.
fn silenced(case: &Case, kinds: Vec<usize>, threshold: f64) -> Vec<Vec<f32>> {
    let rows: Vec<usize> = case.prompt.spans.iter().map(kind).collect();
    let naive = Naive::weighing(move |at, _, scores| {
        let mut map = map_of(scores);
        if at.layer + 1 == at.layers {
            return map;
        }
        let (n, s) = (map.len(), map[0].len());
        let last = map[n - 1].clone();
        for (i, row) in map.iter_mut().enumerate() {
            let kind = if at.prefill { rows[i] } else { 2 };
            if kinds.contains(&kind) && last[s - n + i] > threshold {
                row.fill(0.0);
            }
        }
        map
    });
    with(vec![naive], &case.prompt)
}

#[test]
fn avcd_silences_what_is_not_dominant() {
    let mut late = 0;
    for name in ["audio-in-video", "video", "audio", "image"] {
        let case = case(name);
        let seen = last_rows(&case);
        let (layers, s) = (seen.len() - 1, case.prompt.spans.len());
        let mut dominance = Vec::new();
        for which in 0..3 {
            let rows: Vec<usize> = (0..s).filter(|i| kind(&case.prompt.spans[*i]) == which).collect();
            if !rows.is_empty() {
                let mass = |heads: &Vec<Vec<f64>>| -> f64 {
                    heads
                        .iter()
                        .map(|a| rows.iter().map(|r| a[*r]).sum::<f64>())
                        .sum::<f64>()
                        / heads.len() as f64
                };
                let mean = seen[..layers].iter().map(mass).sum::<f64>() / layers as f64;
                dominance.push((mean / rows.len() as f64, which));
            }
        }
        dominance.sort_by(|a, b| b.0.total_cmp(&a.0));
        let others: Vec<usize> = dominance[1..].iter().map(|d| d.1).collect();
        let medians = (0..seen[0].len()).map(|head| {
            let mut sums: Vec<f64> = (0..s)
                .map(|k| seen[..layers].iter().map(|l| l[head][k]).sum())
                .collect();
            sums.sort_by(f64::total_cmp);
            sums[(s - 1) / 2] / layers as f64
        });
        let threshold = medians.sum::<f64>() / seen[0].len() as f64;
        let clean = plain(&case);
        let passes: Vec<Vec<Vec<f32>>> = match others[..] {
            [m] => vec![silenced(&case, vec![m], threshold)],
            [a, b] => [vec![a, b], vec![a], vec![b]]
                .into_iter()
                .map(|kinds| silenced(&case, kinds, threshold))
                .collect(),
            _ => unreachable!("two or three kinds"),
        };
        // The gate as published (here it is always open), and one that first opens within the answer.
        let entropies: Vec<f32> = clean.iter().map(|l| entropy(l)).collect();
        let within = entropies[1..].iter().copied().fold(0.0, f32::max).next_down();
        for gate in [0.6, within.max(entropies[0].next_up())] {
            let config = AvcdConfig {
                entropy: gate,
                ..AvcdConfig::default()
            };
            let (got, run) = avcd(&case, &none, config);
            let want: Vec<Vec<f32>> = (0..clean.len())
                .map(|step| {
                    let l = &clean[step];
                    if entropies[step] < gate {
                        return l.clone();
                    }
                    let p: Vec<&[f32]> = passes.iter().map(|p| p[step].as_slice()).collect();
                    match p[..] {
                        [m] => mixed(&[(1.5, l), (-0.5, m)], l, 0.2),
                        [ab, a, b] => mixed(&[(3.0, l), (-1.0, ab), (1.0, a), (1.0, b)], l, 0.2),
                        _ => unreachable!("one or three passes"),
                    }
                })
                .collect();
            same(&got, &want);
            let opened = (0..clean.len()).rfind(|step| entropies[*step] >= gate);
            let fed = opened.map_or(0, |last| last + 1);
            late += usize::from(entropies[0] < gate && fed > 0);
            assert!(
                fed == 0 || passes.iter().all(|p| p[0] != clean[0]),
                "{name}: nothing was silenced"
            );
            assert_eq!(run, 5 + passes.len() * fed, "{name}, gate {gate}: {entropies:?}");
        }
    }
    assert!(late > 0, "no gate opened within an answer");
}
