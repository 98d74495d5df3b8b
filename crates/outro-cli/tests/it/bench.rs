//! `outro bench` as a user types it; its figures are not judged here, only that they are there and add up.

use serde_json::Value;

use crate::support::{args, outro};

#[test]
fn strategies_alternate_and_say_what_they_cost() {
    let ran = outro(args![
        "bench",
        "--prompt-tokens",
        "100",
        "--new-tokens",
        "3",
        "--frames",
        "2",
        "--audio-seconds",
        "1",
        "--rounds",
        "2",
        "--weights",
        "f32",
        "--threads",
        "1",
        "--strategy",
        "baseline",
        "--strategy",
        "outro:abs_threshold=1,median_multiple=1",
        "--strategy",
        "vcd+outro",
        "--json"
    ])
    .ok();
    let v: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(v["threads"], 1);
    let above = |x: &Value| x.as_f64().is_some_and(|x| x > 0.0);
    assert!(above(&v["limits"]["read_bytes_per_second"]) && above(&v["limits"]["f32_operations_per_second"]));
    assert!(above(&v["weight_bytes"]) && above(&v["cache_bytes"]));
    assert!(above(&v["vision"]["seconds"]) && above(&v["audio"]["seconds"]));
    let rows = v["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 3);
    let two = Value::from(vec![2.0, 2.0]);
    assert_eq!(rows[2]["passes"], two, "{v}");
    let bytes = |row: &Value| row["cache_bytes"].as_u64().unwrap();
    assert_eq!(bytes(&rows[2]), 2 * bytes(&rows[0]));
    assert_eq!(rows[0]["layers_with_sinks"], 0);
    assert!(above(&rows[1]["layers_with_sinks"]), "{v}");
    for row in rows {
        assert_eq!(
            (&row["prefill"]["items"], &row["decode"]["items"]),
            (&100.into(), &1.into())
        );
        assert!(above(&row["time_to_first_token"]) && above(&row["decode"]["bytes"]));
    }
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let refused = |line: &[&str], parts: &[&str]| {
        let line: Vec<&str> = [&["bench"], line].concat();
        outro(line).fails(2, parts)
    };
    refused(&["--weights", "q3_k"], &["--weights", "q4_k"]);
    refused(
        &["--weights", "f32", "--dtype", "bf16"],
        &["--weights", "--dtype"],
    );
    refused(&["--rounds", "0"], &["--rounds"]);
    refused(&["--layers", "1"], &["--shape"]);
    refused(
        &[
            "--shape",
            "qwen2.5-3b",
            "--layers",
            "1",
            "--prompt-tokens",
            "99999999",
        ],
        &["100000031", "--prompt-tokens"],
    );
    refused(&["--shape", "gpt-17"], &["gpt-17", "qwen2.5-omni-3b"]);
}
