//! Rule files as people write them: the shipped samples pass their own tests, good fixtures load
//! without a word, and every bad one gets exactly the problems that its snapshot shows.

use std::path::{Path, PathBuf};

use jiff::tz::TimeZone;
use portero::event::{Event, Trust};
use portero::node::SourceFile;
use portero::rules::{House, RuleSet, selftest, types};
use portero::systems::netatmo::{self, names, session::Session};

fn house() -> House {
    House {
        people: ["ana", "ben"].map(String::from).into(),
        groups: [("family".to_string(), vec!["ana".to_string(), "ben".to_string()])].into(),
        sources: ["netatmo/home".to_string()].into(),
        systems: Default::default(),
        time_zone: TimeZone::get("Europe/Paris").unwrap(),
    }
}

fn files(folder: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{folder}: {error}"));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|end| end == "yaml"));
    files.sort();
    assert!(!files.is_empty(), "{folder} is empty");
    files
}

fn read(path: &Path) -> SourceFile {
    let bytes = std::fs::read(path).unwrap();
    let name = path.display().to_string();
    SourceFile::from_bytes(name, &bytes).unwrap_or_else(|problem| panic!("{problem}"))
}

fn fixture(name: &str) -> Result<Vec<Event>, String> {
    let body = std::fs::read(format!("fixtures/{name}")).map_err(|error| error.to_string())?;
    let session = Session::new("home", &netatmo::Config::default());
    let now = "2026-01-15T11:00:00Z".parse().unwrap();
    let heard = session.webhook(&body, Trust::Authentic, now);
    Ok(heard.into_iter().map(|heard| heard.event).collect())
}

#[test]
fn the_shipped_rules_pass_their_own_tests() {
    let files = files("rules").iter().map(|path| read(path)).collect();
    let rules = RuleSet::load(files, &house()).unwrap_or_else(|wrong| panic!("{}", wrong.render()));
    assert!(rules.warnings().is_empty(), "{}", rules.warnings());
    let report = selftest::run(&rules, &fixture);
    assert!(report.is_ok(), "{report}");
    assert_eq!(report.passed, rules.tests());
    let untested: Vec<&str> = rules.names().filter(|name| !report.fired.contains(*name)).collect();
    assert!(untested.is_empty(), "no test makes these fire: {untested:?}");
}

#[test]
fn good_files_load_and_pass() {
    for path in files("fixtures/rules/good") {
        let rules = RuleSet::load(vec![read(&path)], &house());
        let rules = rules.unwrap_or_else(|wrong| panic!("{}", wrong.render()));
        assert!(rules.warnings().is_empty(), "{}", rules.warnings());
        let report = selftest::run(&rules, &fixture);
        assert!(report.is_ok(), "{}: {report}", path.display());
    }
}

#[test]
fn bad_files_are_explained() {
    for path in files("fixtures/rules/bad") {
        let name = path.file_stem().unwrap().to_str().unwrap().to_string();
        let wrong = match RuleSet::load(vec![read(&path)], &house()) {
            Ok(rules) if rules.warnings().is_empty() => panic!("{}: no problem", path.display()),
            Ok(rules) => rules.warnings().render(),
            Err(wrong) => wrong.render(),
        };
        insta::with_settings!({ omit_expression => true, snapshot_path => "snapshots/rules" }, {
            insta::assert_snapshot!(name, wrong);
        });
    }
}

#[test]
fn the_known_types_are_those_that_netatmo_makes() {
    let mut made: Vec<&str> = names::TYPES.to_vec();
    let mut known = types::NETATMO.to_vec();
    made.sort_unstable();
    known.sort_unstable();
    assert_eq!(made, known);
}
