//! Preparation without a model: positions, tokenizer, prompts, plans. Numbers come from the Python processors.

use std::path::{Path, PathBuf};

use outro::Hint;
use outro::chat::{Conversation, Part};
use outro::config::{Config, PositionRule, SpecialTokens};
use outro::inputs::{AudioFeatures, Inputs, Pixels};
use outro::positions::{Span, positions, spans};
use outro::prepare::{MediaOptions, Preparer};
use outro::prompt::{Chunk, expand};
use outro::tokenizer::{TextStream, Tokenizer};
use safetensors::SafeTensors;

fn tiny() -> PathBuf {
    crate::fixtures().join("omni-tiny")
}

fn ints(file: &SafeTensors, key: &str) -> Vec<i64> {
    let t = file.tensor(key).unwrap();
    let chunks = t.data().as_chunks().0.iter();
    chunks.map(|c| i64::from(i32::from_le_bytes(*c))).collect()
}

/// Media of the given shapes, without contents: positions need no more.
fn shapes(case: &serde_json::Value, ids: Vec<u32>) -> Inputs {
    let grids = |key: &str| {
        let list: Option<Vec<[usize; 3]>> = serde_json::from_value(case[key].clone()).ok();
        list.map(|grid_thw| Pixels {
            whole: false,
            grid_thw,
            ..Pixels::default()
        })
    };
    let lengths: Option<Vec<usize>> = serde_json::from_value(case["audio_feature_lengths"].clone()).ok();
    Inputs {
        input_ids: ids,
        pixel_values: grids("image_grid_thw"),
        pixel_values_videos: grids("video_grid_thw"),
        image_sizes: Vec::new(),
        second_per_grid: serde_json::from_value(case["second_per_grid"].clone()).unwrap_or_default(),
        token_mask: Vec::new(),
        audio: lengths.map(|lengths| AudioFeatures {
            lengths,
            ..AudioFeatures::default()
        }),
        use_audio_in_video: case["use_audio_in_video"].as_bool().unwrap_or(false),
    }
}

#[test]
fn positions_of_many_layouts() {
    let Some(root) = crate::shared() else { return };
    let dir = root.join("fixtures/more/preproc");
    let bytes = std::fs::read(dir.join("rope.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(dir.join("preproc.json")).unwrap()).unwrap();
    let cases = json["rope"].as_object().unwrap();
    assert!(cases.len() >= 15, "{} cases", cases.len());
    for (name, case) in cases {
        let model = if case["family"] == "vl" { "vl_a" } else { "omni_a" };
        let mut config = Config::load(&root.join("fixtures/more").join(model)).unwrap();
        if let PositionRule::Tmrope {
            seconds_per_chunk, ..
        } = &mut config.positions
        {
            *seconds_per_chunk = case["seconds_per_chunk"].as_f64().unwrap();
        }
        if let PositionRule::QwenVl { tokens_per_second } = &mut config.positions {
            *tokens_per_second = case["tokens_per_second"].as_f64().unwrap();
        }
        // The cases use the real models' ids.
        config.tokens = SpecialTokens {
            audio: Some(151_646),
            audio_start: Some(151_647),
            audio_end: Some(151_648),
            vision_start: Some(151_652),
            vision_end: Some(151_653),
            image: Some(151_655),
            video: Some(151_656),
        };
        let ids: Vec<u32> = ints(&file, &format!("{name}.input_ids"))
            .iter()
            .map(|i| *i as u32)
            .collect();
        let inputs = shapes(case, ids);
        let got = positions(&config, &inputs).unwrap_or_else(|e| panic!("{name}: {e}"));
        let flat: Vec<i64> = (0..3)
            .flat_map(|a| got.ids.iter().map(move |p| p[a] as i64))
            .collect();
        assert_eq!(flat, ints(&file, &format!("{name}.position_ids")), "{name}");
        let next = case["rope_delta"].as_i64().unwrap() + inputs.input_ids.len() as i64;
        assert_eq!(got.next as i64, next, "{name}: first decoded position");
    }
}

#[test]
fn a_placeholder_without_its_medium_is_named() {
    let config = Config::load(&tiny()).unwrap();
    let image = |grid_thw: Vec<[usize; 3]>| Inputs {
        input_ids: vec![1, 393, 391, 391, 394],
        pixel_values: Some(Pixels {
            whole: false,
            grid_thw,
            cols: 1176,
            data: Vec::new(),
        }),
        ..Inputs::default()
    };
    let error = |i: &Inputs| positions(&config, i).unwrap_err().to_string();
    assert!(positions(&config, &image(vec![[1, 2, 4]])).is_ok());
    assert!(error(&image(vec![])).contains("image 0, which is not given"));
    assert!(error(&image(vec![[1, 4, 4]])).contains("4 placeholders of image 0"));
    let huge = error(&image(vec![[usize::MAX, usize::MAX, usize::MAX]]));
    assert!(huge.contains("placeholders of image 0"), "{huge}");
    let mut bare = image(vec![[1, 2, 4]]);
    bare.input_ids[1] = 20;
    assert!(error(&bare).contains("does not follow its start token"));
}

/// A silent video, then a sounding one, then an image and a sound, in one prompt.
#[test]
fn mixed_media_expand_and_walk_alike() {
    let config = Config::load(&tiny()).unwrap();
    let ids = [1, 393, 392, 394, 393, 392, 394, 393, 391, 394, 395, 390, 396, 50];
    let media = [
        Chunk::Video {
            grid: [2, 4, 4],
            second_per_grid: 1.0,
            sound: None,
        },
        // Three steps of one second and 80 audio tokens: chunks of 2 seconds hold 2 steps and 50 tokens.
        Chunk::Video {
            grid: [3, 2, 4],
            second_per_grid: 1.0,
            sound: Some(80),
        },
        Chunk::Image {
            grid: [1, 4, 6],
            size: [0; 2],
        },
        Chunk::Audio { tokens: 5 },
    ];
    let ids = expand(&config, &ids, &media).unwrap();
    let mut runs: Vec<(u32, usize)> = Vec::new();
    for id in &ids {
        match runs.last_mut() {
            Some((last, n)) if last == id => *n += 1,
            _ => runs.push((*id, 1)),
        }
    }
    let one = |ids: &[u32]| ids.iter().map(|i| (*i, 1)).collect::<Vec<_>>();
    let want = [
        one(&[1, 393]),
        vec![(392, 8)],
        one(&[394, 393, 395]),
        vec![(392, 4), (390, 50), (392, 2), (390, 30)],
        one(&[396, 394, 393]),
        vec![(391, 6)],
        one(&[394, 395]),
        vec![(390, 5)],
        one(&[396, 50]),
    ]
    .concat();
    assert_eq!(runs, want);
    let inputs = Inputs {
        input_ids: ids,
        pixel_values: Some(Pixels {
            whole: false,
            grid_thw: vec![[1, 4, 6]],
            cols: 1176,
            data: vec![0.0; 24 * 1176],
        }),
        pixel_values_videos: Some(Pixels {
            whole: false,
            grid_thw: vec![[2, 4, 4], [3, 2, 4]],
            cols: 1176,
            data: vec![0.0; 56 * 1176],
        }),
        image_sizes: Vec::new(),
        second_per_grid: vec![1.0, 1.0],
        token_mask: Vec::new(),
        audio: Some(AudioFeatures {
            mel_bins: 128,
            lengths: vec![320, 20],
            data: vec![0.0; 340 * 128],
        }),
        use_audio_in_video: true,
    };
    inputs.validate(&config).unwrap();
    let (p, s) = (
        positions(&config, &inputs).unwrap(),
        spans(&config, &inputs).unwrap(),
    );
    assert_eq!(p.ids.len(), inputs.input_ids.len());
    // Silent video from 2 on, its second step 25 later; the delimiters of the next one share a position.
    assert_eq!(
        (p.ids[2], p.ids[6], p.ids[10]),
        ([2.0; 3], [27.0, 2.0, 2.0], [28.0; 3])
    );
    assert_eq!((p.ids[11], p.ids[12]), ([29.0; 3], [29.0; 3]));
    assert_eq!((p.ids[13], p.ids[17]), ([30.0; 3], [30.0; 3]));
    assert_eq!(
        s[2],
        Span::Video {
            item: 0,
            t: 0,
            y: 0,
            x: 0
        }
    );
    assert_eq!(
        s[13 + 4 + 50 + 1],
        Span::Video {
            item: 1,
            t: 2,
            y: 0,
            x: 1
        }
    );
    assert_eq!(s[13 + 4 + 50 + 2], Span::Audio { item: 0, index: 50 });
    assert_eq!(s[s.len() - 3], Span::Audio { item: 1, index: 4 });
    // The file format keeps all of it.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("inputs.safetensors");
    inputs.save(&path).unwrap();
    assert_eq!(Inputs::load(&path).unwrap(), inputs);
}

#[test]
fn questions_that_spell_placeholders_are_refused() {
    let preparer = Preparer::open(&tiny()).unwrap();
    let ask = |q: &str| preparer.ids(&Conversation::new(None, &[], q), &[]);
    assert!(ask("what is it?").is_ok());
    assert!(
        ask("what is <|VIDEO|>?")
            .unwrap_err()
            .to_string()
            .contains("spell the name of a placeholder")
    );
    assert!(ask(" \n").unwrap_err().to_string().contains("question: empty"));
}

#[test]
fn chat_templates_and_the_built_in_one_agree() {
    let dir = tempfile::tempdir().unwrap();
    for file in ["config.json", "tokenizer.json", "generation_config.json"] {
        std::fs::copy(tiny().join(file), dir.path().join(file)).unwrap();
    }
    let media = [
        Part::Video("v.mp4".into()),
        Part::Audio("a.wav".into()),
        Part::Image("i.png".into()),
    ];
    let shapes = [
        Chunk::Video {
            grid: [2, 4, 4],
            second_per_grid: 1.0,
            sound: None,
        },
        Chunk::Audio { tokens: 7 },
        Chunk::Image {
            grid: [1, 2, 2],
            size: [0; 2],
        },
    ];
    for system in [None, Some(String::new()), Some("Be brief.".to_owned())] {
        let asked = Conversation::new(system.clone(), &media, "Who speaks?\n");
        let built_in = Preparer::open(dir.path()).unwrap().ids(&asked, &shapes).unwrap();
        let own = Preparer::open(&tiny()).unwrap().ids(&asked, &shapes).unwrap();
        if system.as_deref() == Some("") {
            assert!(
                own.len() > built_in.len(),
                "the checkpoint's template puts its own sentence"
            );
        } else {
            assert_eq!(own, built_in);
        }
    }
    std::fs::write(
        dir.path().join("chat_template.jinja"),
        "{{ raise_exception('not so') }}",
    )
    .unwrap();
    let asked = Conversation::new(None, &[], "hello");
    let error = Preparer::open(dir.path())
        .unwrap()
        .ids(&asked, &[])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("chat_template.jinja") && error.contains("not so"),
        "{error}"
    );
}

#[test]
fn streams_never_split_a_character() {
    let tokenizer = Tokenizer::open(&tiny()).unwrap().unwrap();
    assert_eq!(tokenizer.end_tokens(), [381, 380]);
    let text = "Où? 日本 🙂👩\u{200d}👧 end".repeat(20);
    let ids = tokenizer.encode(&text).unwrap();
    assert_eq!(ids.len(), text.len(), "one token a byte");
    let mut stream = TextStream::default();
    let mut out = String::new();
    for id in &ids {
        let piece = stream.push(&tokenizer, *id).unwrap();
        assert!(!piece.contains('\u{fffd}'), "{piece:?} after {out:?}");
        out += &piece;
    }
    out += &stream.finish(&tokenizer).unwrap();
    assert_eq!(out, text);
    let mut cut = TextStream::default();
    assert_eq!(
        cut.push(&tokenizer, tokenizer.encode("é").unwrap()[0]).unwrap(),
        ""
    );
    assert_eq!(cut.finish(&tokenizer).unwrap(), "\u{fffd}");
}

type Real = (&'static str, usize, [usize; 2], [usize; 3], usize, usize);

/// Frames, height, width, grid, audio tokens, prompt tokens: printed by the whole Qwen2_5OmniProcessor of transformers
/// 4.52.3 with qwen-omni-utils 0.0.8 for the release's system sentence and the question below.
const REAL: &[Real] = &[
    ("clips/bigbuckbunny.mp4", 10, [560, 1008], [5, 40, 72], 133, 3791),
    ("clips/bikes.mp4", 20, [280, 644], [10, 20, 46], 0, 2356),
    ("clips/carphone_pristine.mp4", 8, [308, 364], [4, 22, 26], 0, 628),
    (
        "dailyomni/Videos/G_VTkkb34gw/G_VTkkb34gw_video.mp4",
        60,
        [364, 644],
        [30, 26, 46],
        750,
        9778,
    ),
    (
        "dailyomni/Videos/d6b4OmUFt7I/d6b4OmUFt7I_video.mp4",
        60,
        [364, 644],
        [30, 26, 46],
        750,
        9778,
    ),
    (
        "dailyomni/Videos/bswbQtOPk6E/bswbQtOPk6E_video.mp4",
        60,
        [364, 644],
        [30, 26, 46],
        750,
        9778,
    ),
];
const QUESTION: &str = "What happens in this video?";

/// Headers may be a token off the decoded sound.
#[test]
fn plans_of_real_files() {
    let Some(root) = crate::shared() else { return };
    let dir = std::env::var_os("OUTRO_REAL_TOKENIZER").map(PathBuf::from);
    let preparer = Preparer::open(&dir.clone().unwrap_or_else(tiny)).unwrap();
    for (file, frames, size, grid, audio, prompt) in REAL {
        let asked = Conversation::new(
            None,
            &[Part::Video(root.join("data").join(file).into())],
            QUESTION,
        );
        let plan = preparer.plan(&asked, &MediaOptions::default()).unwrap();
        let item = &plan.items[0];
        assert_eq!(
            (item.view.indices.len(), item.view.size, item.view.grid),
            (*frames, *size, *grid),
            "{file}"
        );
        assert!(
            item.audio_tokens.abs_diff(*audio) <= 1,
            "{file}: {} audio tokens",
            item.audio_tokens
        );
        assert_eq!(item.visual_tokens, grid.iter().product::<usize>() / 4, "{file}");
        assert_eq!(
            plan.notes.len(),
            usize::from(*audio == 0),
            "{file}: {:?}",
            plan.notes
        );
        if dir.is_some() {
            assert!(
                plan.prompt_tokens.abs_diff(*prompt) <= 1,
                "{file}: {}",
                plan.prompt_tokens
            );
        }
        if *prompt > 4096 && dir.is_none() {
            let error = plan.check().unwrap_err();
            assert_eq!(error.hint(), Some(Hint::ShorterVideo));
            assert!(error.to_string().contains("8970 video"), "{error}");
        }
    }
}

/// The checkpoint that tools/make_real_tokenizer.py makes; a download of 490 MB, so only where it is given.
fn real() -> Option<Preparer> {
    let Some(dir) = std::env::var_os("OUTRO_REAL_TOKENIZER") else {
        println!("note: OUTRO_REAL_TOKENIZER is not set, the real tokenizer was not compared");
        return None;
    };
    Some(Preparer::open(Path::new(&dir)).unwrap())
}

#[test]
fn real_tokenizer_on_tricky_strings() {
    let Some(preparer) = real() else { return };
    let tokenizer = preparer.tokenizer().unwrap();
    let cases: &[(&str, &[u32])] = &[
        ("", &[]),
        ("Hello world", &[9707, 1879]),
        (
            "  two  spaces \n\n\n end ",
            &[220, 1378, 220, 12621, 14731, 835, 220],
        ),
        (
            "What's he'll WE'RE I'd",
            &[3838, 594, 566, 3278, 19677, 94153, 358, 4172],
        ),
        ("éàü ñ café", &[963, 6362, 2391, 1683, 109, 51950]),
        (
            "日本語のテキスト。中文",
            &[101_059, 102_819, 15767, 56833, 61803, 70534, 1773, 104_811],
        ),
        (
            "🙂👩\u{200d}👩\u{200d}👧 emoji",
            &[145_080, 145_233, 378, 235, 145_233, 378, 235, 145_665, 42365],
        ),
        (
            "12345 3.14 1,000",
            &[16, 17, 18, 19, 20, 220, 18, 13, 16, 19, 220, 16, 11, 15, 15, 15],
        ),
        (
            "def f(x):\n\treturn x**2\r\n",
            &[750, 282, 2075, 982, 853, 856, 334, 17, 319],
        ),
        (
            "<|im_start|>user\nhi<|im_end|>",
            &[151_644, 872, 198, 6023, 151_645],
        ),
        ("a<|VIDEO|>b", &[64, 151_656, 65]),
        ("\u{a0}nbsp\u{2003}em", &[4102, 5674, 378, 225, 336]),
        ("e\u{301} combining", &[963, 34171]),
        ("مرحبا بالعالم", &[124_122, 29825, 124_671, 124_476, 129_634]),
        ("end with space ", &[408, 448, 3550, 220]),
        (
            "if (a&&b) {...} // ok",
            &[333, 320, 64, 7672, 65, 8, 14916, 92, 442, 5394],
        ),
    ];
    for (text, ids) in cases {
        assert_eq!(&tokenizer.encode(text).unwrap(), ids, "{text:?}");
    }
    assert_eq!(tokenizer.end_tokens(), [151_645, 151_643]);
}

#[test]
fn real_prompts_whole() {
    let (Some(preparer), Some(root)) = (real(), crate::shared()) else {
        return;
    };
    let reference = std::env::var_os("OUTRO_REFERENCE_IDS").map(PathBuf::from);
    for (file, frames, _, grid, audio, prompt) in REAL {
        let path = root.join("data").join(file);
        let asked = Conversation::new(None, &[Part::Video(path.clone().into())], QUESTION);
        let prepared = preparer
            .prepare(&asked, &MediaOptions::default(), &mut |_| {})
            .unwrap();
        let ids = &prepared.inputs.input_ids;
        let count = |id: u32| ids.iter().filter(|i| **i == id).count();
        assert_eq!(ids.len(), *prompt, "{file}");
        assert_eq!(
            (count(151_656), count(151_646)),
            (frames / 2 * grid[1] * grid[2] / 4, *audio),
            "{file}"
        );
        assert_eq!(prepared.inputs.second_per_grid, [1.0]);
        assert_eq!(
            spans(preparer.config(), &prepared.inputs).unwrap().len(),
            ids.len()
        );
        // One id a word: what the Python processor made of the same file.
        if let Some(dir) = &reference {
            let name = format!("{}.ids", path.file_stem().unwrap().to_str().unwrap());
            let text = std::fs::read_to_string(dir.join(name)).unwrap();
            let want: Vec<u32> = text.split_whitespace().map(|i| i.parse().unwrap()).collect();
            assert_eq!(ids, &want, "{file}");
        }
    }
}
