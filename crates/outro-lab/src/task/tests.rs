//! Annotation files of every form, good and bad.

use std::sync::Arc;

use super::*;
use crate::error::Result;

fn load(task: &str, name: &str, text: &str) -> Result<Loaded> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(name);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(file, text).unwrap();
    Task::named(task).unwrap().load(dir.path(), &PROFILES[0])
}

#[test]
fn official_rows_become_samples() {
    let text = r#"[
        {"video_id": "7", "task": "AV Matching", "text": "Same?", "label": "Yes"},
        {"video_id": "7", "task": "AV Captioning", "text": "Describe.", "label": "A dog."},
        {"video_id": "7", "task": "AV Matching", "text": "Same? answer Yes or No", "label": "no"}]"#;
    let loaded = load("avhbench", "QA.json", text).unwrap();
    assert_eq!((loaded.samples.len(), loaded.left_out["AV Captioning"]), (2, 1));
    let prompts: Vec<_> = loaded.samples.iter().map(|s| s.prompt.as_str()).collect();
    assert_eq!(prompts, ["Same? Answer yes or no.", "Same? answer Yes or No"]);
    assert_eq!(loaded.samples[1].gold, Gold::YesNo(false));
    assert!(loaded.samples[0].video.ends_with("videos/7.mp4"));

    let text = r#"[{"Question": "What?", "Choice": ["A. x", "y", "C. z", "D. w"], "Answer": "B", "video_id": "v",
        "Type": "Inference", "video_category": "c", "video_duration": "30s"}]"#;
    let sample = load("daily-omni", "qa.json", text).unwrap().samples.remove(0);
    assert_eq!(
        sample.prompt,
        "What?\nA. x\nB. y\nC. z\nD. w\nAnswer with the letter."
    );
    assert_eq!(
        sample.gold,
        Gold::Letter {
            right: 'B',
            options: 4
        }
    );
    assert!(sample.video.ends_with("Videos/v/v_video.mp4"));
}

#[test]
fn rows_that_cannot_be_meant_are_named() {
    for (task, name, text, part) in [
        ("avhbench", "QA.json", "{}", "list"),
        ("avhbench", "QA.json", "[]", "no question"),
        (
            "avhbench",
            "QA.json",
            r#"[{"video_id": "1", "task": "AV Matching", "text": "x"}]"#,
            "label",
        ),
        (
            "avhbench",
            "QA.json",
            r#"[{"video_id": "1", "task": "AV Matching", "text": "x", "label": "maybe"}]"#,
            "maybe",
        ),
        (
            "avhbench",
            "QA.json",
            r#"[{"video_id": "../1", "task": "T", "text": "x", "label": "Yes"}]"#,
            "video_id",
        ),
        ("avhbench", "other.json", "[]", "QA.json"),
        (
            "daily-omni",
            "qa.json",
            r#"[{"Question": "q", "Choice": ["A. x"], "Answer": "A", "video_id": "v", "Type": "t"}]"#,
            "Choice",
        ),
        (
            "daily-omni",
            "qa.json",
            r#"[{"Question": "q", "Choice": ["x", "y"], "Answer": "C", "video_id": "v", "Type": "t"}]"#,
            "Answer",
        ),
        (
            "daily-omni",
            "qa.json",
            r#"[{"Question": "q", "Choice": ["B. x", "A. y"], "Answer": "A", "video_id": "v", "Type": "t"}]"#,
            "Choice",
        ),
    ] {
        let message = load(task, name, text).unwrap_err().to_string();
        assert!(message.contains(part), "{text}: {message}");
    }
    assert!(Task::named("nope").is_err_and(|e| e.to_string().contains("avhbench")));
}

#[test]
fn every_form_of_every_task() {
    let of = |task: &str, name: &str, text: &str| load(task, name, text).unwrap();
    let letter = |right, options| Gold::Letter { right, options };

    let rows = r#"{"vid": {"duration": "<1min", "domain": "Music", "audio_class": ["Speech", "Music"], "video_caption": "c",
        "task1": {"question": "What?", "candidates": ["A. x", "B. U.S. y", "C. z"], "answer": "C", "task_domain": "Reasoning",
        "task_type": "Causal Reasoning"}, "task2": {"question": "Why?", "candidates": ["A. x", "B. y"], "answer": "A",
        "task_domain": "Recognition", "task_type": "Anomaly Recognition"}}}"#;
    let loaded = of("worldsense", "worldsense_qa.json", rows);
    let sample = &loaded.samples[0];
    assert_eq!((loaded.samples.len(), &sample.gold), (2, &letter('C', 3)));
    assert_eq!(
        (sample.groups["sound"].as_str(), sample.options[1].as_str()),
        ("Speech Music", "U.S. y")
    );
    let table = "index\tvideo\tquestion\tcandidates\tanswer\ttask_type\tdomain\n0\tvid\tWhat?\t\"['A. x', \"\"B. it's\"\", 'C. z']\"\tB\tEvent\tGames\n";
    let flat = of("worldsense", "worldsense.tsv", table).samples.remove(0);
    assert_eq!(
        (flat.options, flat.gold),
        (vec!["x".into(), "it's".into(), "z".into()], letter('B', 3))
    );

    let rows = r#"[{"video ID": "h", "Question Type": "TCI", "Question": "Who?", "Answer": "F",
        "Options": {"A": "a", "B": "b", "C": "c", "D": "d", "E": "e", "F": "f"}}]"#;
    let sample = of("video-holmes", "test_Video-Holmes.json", rows)
        .samples
        .remove(0);
    assert_eq!((sample.gold, sample.category.as_str()), (letter('F', 6), "TCI"));

    let rows = "{\"videoID\": \"y\", \"question\": \"Q?\", \"options\": [\"A. a\", \"B. b\", \"C. c\", \"D. d\"], \"answer\": \"D\", \
        \"task_type\": \"OCR\", \"duration\": \"long\", \"domain\": \"Sports\"}\n\n";
    let sample = of("video-mme", "videomme.jsonl", rows).samples.remove(0);
    assert!(sample.video.ends_with("data/y.mp4") && sample.groups["duration"] == "long");

    let rows = r#"[{"video_id": "00000093", "question_id": 1, "type": "[\"Audio-Visual\", \"Counting\"]", "anser": "acoustic_guitar",
        "question_content": "How many <Object> and <Object>?", "templ_values": "[\"acoustic_guitar\", \"cello\"]"}]"#;
    let sample = of("music-avqa", "avqa-test.json", rows).samples.remove(0);
    assert!(
        sample.prompt.starts_with("How many acoustic guitar and cello?"),
        "{}",
        sample.prompt
    );
    assert_eq!(
        (sample.gold, sample.category.as_str()),
        (Gold::Word("acoustic guitar".into()), "Audio-Visual Counting")
    );

    let rows = r#"[{"video": "x.mp4", "question": "q", "candidates": ["run", "sit"], "answer": "sit", "start": 1.5, "end": 4}]"#;
    let sample = of("mvbench", "json/action_sequence.json", rows).samples.remove(0);
    assert!(
        sample.video.ends_with("video/star/Charades_v1_480/x.mp4"),
        "{}",
        sample.video.display()
    );
    assert_eq!(
        (sample.clip, sample.gold, sample.category.as_str()),
        (Some((1.5, 4.0)), letter('B', 2), "action_sequence")
    );

    let rows = r#"[{"id": 3, "video": "Videos/v.mp4", "conversations": [{"from": "human", "value": "<image>\nPick (A, B, C, or D).\nQ\nx\ny"},
        {"from": "gpt", "value": "C. z"}]}, {"id": 4, "video": "w.mp4", "conversations": [{"from": "human", "value": "Q\nA. x\nB. y\nC. z\nE"},
        {"from": "gpt", "value": "b"}]}]"#;
    let loaded = of("conversations", "conversations.json", rows);
    assert_eq!(
        (&loaded.samples[0].gold, &loaded.samples[1].gold),
        (&letter('C', 4), &letter('B', 3))
    );
    assert_eq!(loaded.samples[0].prompt, "Pick (A, B, C, or D).\nQ\nx\ny");
    let twice = rows.replace("\"id\": 4", "\"id\": 3");
    assert!(
        load("conversations", "conversations.json", &twice)
            .is_err_and(|e| e.to_string().contains("there twice"))
    );
}

/// A parquet file as the published ones are: lists of texts beside texts.
/// A parquet column: texts, definition levels, repetition levels.
type Column<'a> = (&'a [&'a str], Option<&'a [i16]>, Option<&'a [i16]>);

#[test]
fn parquet_is_read() {
    use parquet::data_type::{ByteArray, ByteArrayType};
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;

    let schema = "message m { required binary videoID (UTF8); required binary question (UTF8); required binary answer (UTF8);
        required binary task_type (UTF8); required group options (LIST) { repeated group list { required binary element (UTF8); } } }";
    let dir = tempfile::tempdir().unwrap();
    let file = std::fs::File::create(dir.path().join("videomme.parquet")).unwrap();
    let schema = std::sync::Arc::new(parse_message_type(schema).unwrap());
    let mut writer = SerializedFileWriter::new(file, schema, Arc::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let columns: [Column; 5] = [
        (&["v", "w"], None, None),
        (&["Who?", "Where?"], None, None),
        (&["B", "A"], None, None),
        (&["OCR", "OCR"], None, None),
        (
            &["A. x", "B. y", "A. here", "B. there"],
            Some(&[1; 4]),
            Some(&[0, 1, 0, 1]),
        ),
    ];
    for (texts, definitions, repetitions) in columns {
        let texts: Vec<ByteArray> = texts.iter().map(|t| ByteArray::from(*t)).collect();
        let mut column = group.next_column().unwrap().unwrap();
        column
            .typed::<ByteArrayType>()
            .write_batch(&texts, definitions, repetitions)
            .unwrap();
        column.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
    let loaded = Task::named("video-mme")
        .unwrap()
        .load(dir.path(), &PROFILES[0])
        .unwrap();
    let sample = &loaded.samples[1];
    assert_eq!(
        (sample.options.as_slice(), &sample.gold),
        (
            &["here".to_owned(), "there".to_owned()][..],
            &Gold::Letter {
                right: 'A',
                options: 2
            }
        )
    );
    std::fs::write(dir.path().join("videomme.parquet"), "PAR1").unwrap();
    let broken = Task::named("video-mme").unwrap().load(dir.path(), &PROFILES[0]);
    assert!(broken.is_err_and(|e| e.to_string().contains("parquet")));
}
