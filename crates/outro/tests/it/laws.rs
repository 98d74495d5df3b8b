//! Laws that hold for every request: isolation, identity when off, equality of the parts.

use std::sync::LazyLock;

use outro::hook::{At, Attention, Chain, Flow, HeadOutputs, Hidden, Hook, Needs, Recorder};
use outro::inputs::Inputs;
use outro::{Dtype, KvType, MediaEmbeds, Model, OutRo, OutRoConfig, Prefix, Prompt, Session};
use proptest::prelude::*;

static MODEL: LazyLock<Model> =
    LazyLock::new(|| Model::load(&crate::fixtures().join("omni-tiny"), Dtype::Auto).unwrap());

fn prompt(ids: Vec<u32>) -> Prompt {
    let inputs = Inputs {
        input_ids: ids,
        ..Default::default()
    };
    MODEL
        .prompt(&inputs, &MODEL.encode(&inputs, &mut |_| {}).unwrap())
        .unwrap()
}

fn outro() -> Box<dyn Hook> {
    Box::new(OutRo::new(OutRoConfig::default()))
}

/// A request's logits over prefill and a few steps.
fn run(ids: &[u32], hook: Option<Box<dyn Hook>>) -> Vec<Vec<f32>> {
    let mut s = Session::new(&MODEL, hook);
    let mut all = vec![
        s.prefill(&prompt(ids.to_vec()), 1, &mut |_| {})
            .unwrap()
            .into_data(),
    ];
    for step in 0..3 {
        all.push(s.decode(30 + step).unwrap());
    }
    all
}

struct Nothing;
impl Hook for Nothing {}

#[test]
fn off_is_identical_to_no_hook() {
    let ids = [1, 40, 5, 60, 61, 62, 63];
    let off = OutRoConfig {
        rotate: false,
        relax: false,
        ..OutRoConfig::default()
    };
    let plain = run(&ids, None);
    assert_eq!(plain, run(&ids, Some(Box::new(Nothing))));
    assert_eq!(plain, run(&ids, Some(Box::new(OutRo::new(off)))));
    assert_ne!(plain, run(&ids, Some(outro())));
}

/// Alone or first, OutRo's rotation is attention's epilogue; behind another hook it is applied to the tensor, for that hook
/// sees outputs first.
#[test]
fn a_declared_rotation_equals_the_tensor_form_and_keeps_the_order_of_hooks() {
    let ids: Vec<u32> = (0..90).map(|i| 20 + i * 7 % 60).collect();
    let outro = || -> Box<dyn Hook> {
        Box::new(OutRo::new(OutRoConfig {
            sinks: Some(vec![0, 31]),
            ..OutRoConfig::default()
        }))
    };
    let recorder = || -> Box<dyn Hook> {
        Box::new(Recorder {
            wants_head_outputs: true,
            ..Recorder::default()
        })
    };
    let steps = |hook: Option<Box<dyn Hook>>, kv| {
        let mut s = Session::with_kv(&MODEL, hook, kv);
        let mut all = s
            .prefill(&prompt(ids.clone()), 3, &mut |_| {})
            .unwrap()
            .into_data();
        all.extend((0..3).flat_map(|step| s.decode(30 + step).unwrap()));
        let seen = s.hook::<Recorder>().map(|r| r.head_outputs.clone());
        (all, seen.unwrap_or_default())
    };
    let close = |a: &[f32], b: &[f32]| {
        assert_eq!(a.len(), b.len());
        for (a, b) in a.iter().zip(b) {
            assert!((a - b).abs() < 1e-4 * b.abs().max(1.0), "{a} for {b}");
        }
    };
    for kv in KvType::ALL {
        let (fused, _) = steps(Some(outro()), kv);
        let (after, rotated) = steps(Some(Box::new(Chain(vec![outro(), recorder()]))), kv);
        let (before, raw) = steps(Some(Box::new(Chain(vec![recorder(), outro()]))), kv);
        assert_eq!(fused, after, "first in a chain is as alone");
        close(&before, &fused);
        // Up to the first layer with a sink the hidden states are the plain model's, and so are the outputs seen there.
        let (_, plain) = steps(Some(recorder()), kv);
        let first = (0..plain.len()).find(|l| rotated[*l] != plain[*l]).unwrap();
        assert_eq!(
            raw[first], plain[first],
            "a hook before OutRo sees what attention gave"
        );
    }
}

/// Prompts that begin alike share their first rows, whatever the place of the cut.
#[test]
fn a_forked_prefix_equals_the_whole() {
    let ids: Vec<u32> = (0..150).map(|i| 20 + i * 7 % 60).collect();
    let all = prompt(ids.clone());
    for kv in KvType::ALL {
        let mut whole = Session::with_kv(&MODEL, None, kv);
        let want = whole.prefill(&all, 5, &mut |_| {}).unwrap().into_data();
        let next = whole.decode(30).unwrap();
        for cut in [1, 64, 149] {
            let prefix = Prefix::run(&MODEL, kv, &all, cut).unwrap();
            for _ in 0..2 {
                let mut s = prefix.session();
                let got = s.prefill(&all, 5, &mut |_| {}).unwrap().into_data();
                let last = want.len() - got.len();
                assert!(got == want[last..], "{kv:?} cut at {cut}");
                assert!(s.decode(30).unwrap() == next, "{kv:?} cut at {cut}");
            }
            let mut other = ids.clone();
            other[0] += 1;
            let refused = prefix.session().prefill(&prompt(other), 1, &mut |_| {});
            assert!(refused.unwrap_err().to_string().contains("does not begin"));
        }
    }
    for rows in [0, all.embeds.rows()] {
        assert!(Prefix::run(&MODEL, KvType::F32, &all, rows).is_err());
    }
}

#[test]
fn a_single_token_has_no_sinks() {
    let mut s = Session::new(&MODEL, Some(outro()));
    s.prefill(&prompt(vec![1]), 1, &mut |_| {}).unwrap();
    assert!(s.hook::<OutRo>().unwrap().sinks().is_empty());
}

#[test]
fn given_sinks_replace_detection() {
    let with = |sinks: &[usize]| {
        let config = OutRoConfig {
            sinks: Some(sinks.to_vec()),
            ..OutRoConfig::default()
        };
        Session::new(&MODEL, Some(Box::new(OutRo::new(config))))
    };
    let six = prompt(vec![20, 21, 22, 23, 24, 25]);
    let refused = with(&[2, 4, 99]).prefill(&six, 1, &mut |_| {});
    let problem = refused.err().map(|e| e.to_string()).unwrap_or_default();
    assert!(
        problem.contains("99: the prompt's tokens are 0 to 5"),
        "{problem}"
    );
    let mut s = with(&[2, 4]);
    s.prefill(&six, 1, &mut |_| {}).unwrap();
    let found = s.hook::<OutRo>().unwrap();
    assert!(found.sinks().values().all(|s| *s == [2, 4]));
    assert_eq!(
        found.relaxed_at().keys().copied().collect::<Vec<_>>(),
        [0],
        "once, at the first enhancement layer"
    );
}

/// Drops some rows at a layer and writes down what it is told.
struct Prune {
    layer: usize,
    every: usize,
    /// Prompt positions of the keys that it saw last.
    told: Vec<usize>,
    rows_after: usize,
}

impl Hook for Prune {
    fn layer_input(&mut self, at: At, x: Hidden) -> outro::Result<Flow> {
        if at.prefill && at.layer == self.layer {
            return Ok(Flow::Keep((0..x.rows()).step_by(self.every).collect()));
        }
        Ok(Flow::Continue)
    }

    fn head_outputs(
        &mut self,
        at: At,
        a: Attention,
        o: &mut HeadOutputs,
        _applied: bool,
    ) -> outro::Result<()> {
        if at.layer >= self.layer {
            self.told = (0..a.keys()).map(|key| at.rows.position(key)).collect();
            if at.prefill {
                self.rows_after = o.rows();
            }
        }
        Ok(())
    }
}

#[test]
fn dropped_rows_are_gone_from_that_layer_on() {
    let ids: Vec<u32> = (20..31).collect();
    let prune = |layer, every| -> Option<Box<dyn Hook>> {
        Some(Box::new(Prune {
            layer,
            every,
            told: Vec::new(),
            rows_after: 0,
        }))
    };
    let mut s = Session::new(&MODEL, prune(3, 2));
    s.prefill(&prompt(ids.clone()), 1, &mut |_| {}).unwrap();
    let p = s.hook::<Prune>().unwrap();
    assert_eq!((p.told.clone(), p.rows_after), (vec![0, 2, 4, 6, 8, 10], 6));
    s.decode(30).unwrap();
    let p = s.hook::<Prune>().unwrap();
    assert_eq!(
        p.told,
        [0, 2, 4, 6, 8, 10, 11],
        "a decoded token follows the prompt"
    );
    assert_eq!(
        run(&ids, prune(3, 1)),
        run(&ids, None),
        "keeping every row changes nothing"
    );
    assert_ne!(run(&ids, prune(3, 2)), run(&ids, None));
}

/// One request in progress of the interleaving test.
struct Live {
    session: Session,
    seen: Vec<Vec<f32>>,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    /// Requests that run in any order, between each other's steps, give what each gives alone.
    #[test]
    fn a_request_does_not_depend_on_what_runs_beside_it(
        seeds in prop::collection::vec((0u32..300, 2usize..24, any::<bool>()), 2..4),
        order in prop::collection::vec(0usize..4, 12..40),
    ) {
        let requests: Vec<(Vec<u32>, bool)> = seeds
            .iter()
            .map(|(seed, n, on)| {
                let mut ids: Vec<u32> = (0..*n as u32).map(|i| 10 + (seed * 31 + i * 17) % 360).collect();
                ids[0] = if seed % 2 == 0 { 1 } else { ids[0] };
                ids[n / 2] = if seed % 3 == 0 { 5 } else { ids[n / 2] };
                (ids, *on)
            })
            .collect();
        let hook = |on: bool| on.then(outro);
        let mut live: Vec<Option<Live>> = requests.iter().map(|_| None).collect();
        let step = |live: &mut Option<Live>, (ids, on): &(Vec<u32>, bool)| {
            let l = live.get_or_insert_with(|| Live { session: Session::new(&MODEL, hook(*on)), seen: Vec::new() });
            match l.seen.len() {
                0 => l.seen.push(l.session.prefill(&prompt(ids.clone()), 1, &mut |_| {}).unwrap().into_data()),
                n @ 1..4 => l.seen.push(l.session.decode(29 + n as u32).unwrap()),
                _ => {}
            }
        };
        for at in order {
            let at = at % requests.len();
            step(&mut live[at], &requests[at]);
        }
        for (live, request) in live.iter_mut().zip(&requests) {
            while live.as_ref().is_none_or(|l| l.seen.len() < 4) {
                step(live, request);
            }
            prop_assert_eq!(&live.as_ref().unwrap().seen, &run(&request.0, hook(request.1)));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    /// A prefill in units of any number of rows, with other requests' tokens between the units, is the prefill in one piece: with
    /// OutRo, with rows that are dropped on the way, and with every type of cache.
    #[test]
    fn units_are_the_whole(
        n in 2usize..150, units in prop::collection::vec(0usize..40, 1..6), on: bool, prunes: bool, kv in 0usize..4, seed in 0u32..300,
    ) {
        let ids: Vec<u32> = (0..n as u32).map(|i| if i % 50 == 7 { 5 } else { 10 + (seed * 31 + i * 17) % 360 }).collect();
        let prompt = prompt(ids);
        let session = || {
            let mut hooks: Vec<Box<dyn Hook>> = Vec::new();
            hooks.extend(on.then(outro));
            if prunes {
                hooks.push(Box::new(Prune { layer: 3, every: 2, told: Vec::new(), rows_after: 0 }));
            }
            let hook: Option<Box<dyn Hook>> = (!hooks.is_empty()).then(|| Box::new(Chain(hooks)) as _);
            Session::with_kv(&MODEL, hook, KvType::ALL[kv])
        };
        let mut whole = session();
        let want = whole.prefill(&prompt, 1, &mut |_| {}).unwrap();
        let mut other = Session::new(&MODEL, Some(outro()));
        other.prefill(&prompt, 1, &mut |_| {}).unwrap();
        let mut cut = session();
        prop_assert!(cut.finish(1).is_err(), "nothing was begun");
        cut.begin(&prompt).unwrap();
        prop_assert!(cut.decode(3).is_err(), "it is not there yet");
        let mut sizes = units.iter().cycle();
        while cut.advance(*sizes.next().unwrap()) {
            other.decode(30).unwrap();
        }
        prop_assert!(cut.finish(1).unwrap() == want);
        for token in 30..33 {
            prop_assert!(cut.decode(token).unwrap() == whole.decode(token).unwrap());
        }
    }
}

#[test]
fn requests_in_threads_share_one_model() {
    let ids: Vec<Vec<u32>> = (0..4).map(|i| vec![1, 20 + i, 5, 40 + i, 60]).collect();
    let alone: Vec<_> = ids.iter().map(|i| run(i, Some(outro()))).collect();
    let threads: Vec<_> = ids
        .into_iter()
        .map(|i| std::thread::spawn(move || run(&i, Some(outro()))))
        .collect();
    for (thread, alone) in threads.into_iter().zip(alone) {
        assert_eq!(thread.join().unwrap(), alone);
    }
}

/// A smaller cache is close and as small as it should be, and hooks that ask for keys and values get them.
#[test]
fn a_smaller_cache() {
    /// Checks what it is shown.
    struct Sees {
        asks: bool,
        rows: usize,
    }
    impl Hook for Sees {
        fn needs(&self, _at: At) -> Needs {
            Needs {
                cache: self.asks,
                ..Needs::ALL
            }
        }
        fn head_outputs(&mut self, _: At, a: Attention, _: &mut HeadOutputs, _: bool) -> outro::Result<()> {
            assert_eq!(a.k().len(), a.v().len());
            self.rows = a.keys();
            Ok(())
        }
    }
    let ids: Vec<u32> = [1, 40, 5].into_iter().chain(60..120).collect();
    let run = |kv, hook| {
        let mut s = Session::with_kv(&MODEL, hook, kv);
        let mut all = s
            .prefill(&prompt(ids.clone()), 1, &mut |_| {})
            .unwrap()
            .into_data();
        for step in 0..3 {
            all.extend(s.decode(30 + step).unwrap());
        }
        (all, s.cache_bytes())
    };
    // A row of 16 numbers of f32 is 64 bytes; its only group has a scale of two bytes, and a minimum of two.
    for (kv, of_64, tolerance) in [
        (KvType::F16, 32, 5e-3),
        (KvType::Q8_0, 18, 2e-2),
        (KvType::Q4, 12, 0.4),
    ] {
        assert_eq!(kv.head_bytes(16), of_64);
        for hook in [|| None, || Some(outro())] {
            let ((wide, bytes), (small, small_bytes)) = (run(KvType::F32, hook()), run(kv, hook()));
            assert_eq!(bytes / 64 * of_64, small_bytes);
            assert_ne!(wide, small);
            let largest = wide.iter().fold(0f32, |a, b| a.max(b.abs()));
            for (w, h) in wide.iter().zip(&small) {
                assert!((w - h).abs() < tolerance * largest, "{kv:?}: {h} for {w}");
            }
        }
    }
    for (asks, kv) in KvType::ALL.into_iter().flat_map(|kv| [(true, kv), (false, kv)]) {
        let (plain, rows) = (run(kv, None).0, if asks { ids.len() + 1 } else { 0 });
        let mut s = Session::with_kv(&MODEL, Some(Box::new(Sees { asks, rows: 0 })), kv);
        let mut all = s
            .prefill(&prompt(ids.clone()), 1, &mut |_| {})
            .unwrap()
            .into_data();
        all.extend(s.decode(30).unwrap());
        assert_eq!(s.hook::<Sees>().unwrap().rows, rows);
        assert_eq!(all, plain[..all.len()], "a hook that changes nothing");
    }
}

#[test]
fn misuse_is_an_error() {
    let mut s = Session::new(&MODEL, None);
    assert!(s.decode(3).unwrap_err().to_string().contains("prefill"));
    let p = prompt(vec![20, 21]);
    s.prefill(&p, 1, &mut |_| {}).unwrap();
    assert!(
        s.prefill(&p, 1, &mut |_| {})
            .unwrap_err()
            .to_string()
            .contains("one request")
    );
    assert!(s.decode(4000).unwrap_err().to_string().contains("4000"));
    let empty = Inputs::default();
    assert!(
        MODEL
            .prompt(&empty, &MediaEmbeds::default())
            .and_then(|p| Session::new(&MODEL, None).prefill(&p, 1, &mut |_| {}))
            .is_err()
    );
}
