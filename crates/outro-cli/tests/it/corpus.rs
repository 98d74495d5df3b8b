//! The corpora of the fuzz targets (`fuzz/`), as plain tests: no file may panic, hang or take gigabytes.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

#[path = "../../../../fuzz/targets.rs"]
mod targets;

#[test]
fn every_file_of_the_corpora_is_read_or_refused() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    for (name, run) in targets::TARGETS {
        let files: Vec<_> = fs::read_dir(corpora.join(name)).unwrap().flatten().collect();
        assert!(files.len() >= 4, "{name}: tools/fuzz_corpus.py writes more");
        for file in files {
            let since = Instant::now();
            run(&fs::read(file.path()).unwrap());
            let spent = since.elapsed();
            assert!(
                spent < Duration::from_mins(1),
                "{}: {spent:?}",
                file.path().display()
            );
        }
    }
}
