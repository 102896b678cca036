//! Replays the corpora of the fuzz targets with the same functions, so that an input which once
//! found a fault is tried on every run.

#![allow(clippy::unwrap_used, reason = "a test's helpers may fail it")]

use std::path::{Path, PathBuf};

#[path = "../fuzz/src/lib.rs"]
#[allow(unreachable_pub, reason = "a library for the fuzz targets, a module here")]
mod targets;

/// What a target does with an input.
type Run = fn(&[u8]);

/// The targets by the names of their corpora.
const TARGETS: [(&str, Run); 3] =
    [("message", targets::message), ("server", targets::server), ("stream", targets::stream)];

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

#[test]
fn every_corpus_is_survived() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    for (target, run) in TARGETS {
        let inputs = entries(&fuzz.join("corpus").join(target));
        assert!(inputs.len() >= 3, "the corpus of {target} is nearly empty");
        for input in inputs {
            let bytes = std::fs::read(&input).unwrap();
            if std::panic::catch_unwind(|| run(&bytes)).is_err() {
                panic!("{} makes {target} panic", input.display());
            }
        }
    }
}

#[test]
fn every_target_has_a_program_and_a_corpus() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let names = |folder: &str| -> Vec<String> {
        let stem = |path: PathBuf| path.file_stem().unwrap().to_string_lossy().into_owned();
        entries(&fuzz.join(folder)).into_iter().map(stem).collect()
    };
    let known: Vec<&str> = TARGETS.iter().map(|(target, _)| *target).collect();
    assert_eq!(names("fuzz_targets"), known);
    assert_eq!(names("corpus"), known);
}
