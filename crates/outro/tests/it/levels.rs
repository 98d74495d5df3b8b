//! The golden values of every family and of quantised models at each instruction set that the processor has.

use std::process::Command;

use outro::Level;

/// Whole-model tests: the first oracle's, those of the families, and GGUF files.
const GOLDEN: [&str; 4] = [
    "golden::every_family",
    "golden::more_shapes_and_qwen2_5_vl",
    "families::golden_values",
    "gguf::",
];

/// This binary calls itself, for a process chooses its level once. The best level is what the other tests run at.
#[test]
fn golden_values_at_lower_levels() {
    if std::env::var_os("OUTRO_SIMD").is_some() {
        return;
    }
    let lower = [(Level::Portable, "portable"), (Level::Avx2, "avx2")];
    for (_, name) in lower.into_iter().filter(|(level, _)| *level < Level::detect()) {
        let run = Command::new(std::env::current_exe().unwrap())
            .args(GOLDEN)
            .env("OUTRO_SIMD", name)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&run.stdout);
        assert!(run.status.success(), "{name}: {said}");
        let passed = |part: &&str| said.lines().any(|l| l.contains(part) && l.ends_with("ok"));
        assert!(GOLDEN.iter().all(passed), "{name}: {said}");
    }
}
