//! Replays every fuzz target's corpus, so that what fuzzing once found stays fixed in every
//! `cargo test`. See `tests/fuzz/Cargo.toml` for fuzzing itself.

use std::fs;
use std::path::Path;

#[path = "fuzz/checks/webhook.rs"]
mod webhook;

#[path = "fuzz/checks/rules.rs"]
mod rules;

#[path = "fuzz/checks/fibaro_wire.rs"]
mod fibaro_wire;
#[path = "fuzz/checks/vms_wire.rs"]
mod vms_wire;
#[path = "fuzz/checks/indigo_wire.rs"]
mod indigo_wire;
#[path = "fuzz/checks/emm_wire.rs"]
mod emm_wire;
#[path = "fuzz/checks/netatmo_api_wire.rs"]
mod netatmo_api_wire;

/// Runs `check` on every file of a folder below the package.
fn replay(folder: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let files: Vec<_> = fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path()).collect();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    for file in files {
        println!("{}", file.display()); // Shown if the check fails.
        check(&fs::read(&file).unwrap());
    }
}

#[test]
fn webhook() {
    replay("tests/fuzz/corpus/webhook", webhook::check);
    replay("fixtures/netatmo", webhook::check);
}

#[test]
fn rules() {
    replay("tests/fuzz/corpus/rules", rules::check);
    replay("rules", rules::check);
    replay("fixtures/rules/good", rules::check);
    replay("fixtures/rules/bad", rules::check);
}

#[test]
fn fibaro_wire() {
    replay("tests/fuzz/corpus/fibaro_wire", fibaro_wire::check);
    replay("fixtures/fibaro", fibaro_wire::check);
}

#[test]
fn vms_wire() {
    replay("tests/fuzz/corpus/vms_wire", vms_wire::check);
    replay("fixtures/vms", vms_wire::check);
}

#[test]
fn indigo_wire() {
    replay("tests/fuzz/corpus/indigo_wire", indigo_wire::check);
    replay("fixtures/indigo/transcripts", indigo_wire::check);
}

#[test]
fn emm_wire() {
    replay("tests/fuzz/corpus/emm_wire", emm_wire::check);
    replay("fixtures/emm", emm_wire::check);
}

#[test]
fn netatmo_api_wire() {
    replay("tests/fuzz/corpus/netatmo_api_wire", netatmo_api_wire::check);
    replay("fixtures/netatmo_api", netatmo_api_wire::check);
}
