//! Rule files as people write them: the shipped samples pass their own tests, good fixtures load
//! without a word, and every bad one gets exactly the problems that its snapshot shows.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::tz::TimeZone;
use portero::command::{Arg, Kind, Repeat, Spec};
use portero::door::{self, Door, Doors, Opener};
use portero::event::{Event, Trust};
use portero::node::SourceFile;
use portero::rules::{House, Place, Quiet, RuleSet, System, selftest, types};
use portero::systems::netatmo::{self, names, session::Session};
use portero::systems::{emm, fibaro, indigo, vms, webhook};

const fn must(name: &'static str, kind: Kind) -> Arg {
    Arg { name, kind, required: true, about: "as the vendor says" }
}

const fn may(name: &'static str, kind: Kind) -> Arg {
    Arg { required: false, ..must(name, kind) }
}

const fn spec(name: &'static str, args: &'static [Arg], repeat: Repeat, opens: bool) -> Spec {
    Spec { name, about: "", args, repeat, opens }
}

const RELAY: Arg = must("relay", Kind::Int(0, 1));

/// A few commands as the systems have them, so that the language is tested by itself.
static EMM: [Spec; 1] = [spec(
    "send",
    &[must("to", Kind::Texts), must("text", Kind::Text), may("priority", Kind::Flag)],
    Repeat::Better,
    false,
)];
static INDIGO: [Spec; 1] = [spec(
    "device.turnOn",
    &[must("object", Kind::Text), may("duration", Kind::Number)],
    Repeat::Harmless,
    false,
)];
static FIBARO: [Spec; 4] = [
    spec("relay.open", &[RELAY, may("timeout", Kind::Millis(250, 30_000))], Repeat::Never, true),
    spec("relay.state", &[RELAY], Repeat::Harmless, false),
    spec("users.add", &[must("user", Kind::Text), must("pin", Kind::Secret)], Repeat::Never, true),
    spec(
        "users.change",
        &[must("user", Kind::Text), may("pin", Kind::Secret)],
        Repeat::Never,
        true,
    ),
];

fn house() -> House {
    House {
        people: ["ana", "ben"].map(String::from).into(),
        groups: [("family".to_string(), vec!["ana".to_string(), "ben".to_string()])].into(),
        sources: ["netatmo/home", "fibaro/gate"].map(String::from).into(),
        systems: System::group([
            ("emm/block".to_string(), EMM.as_slice()),
            ("indigo/house".to_string(), &INDIGO),
            ("fibaro/gate".to_string(), &FIBARO),
            ("fibaro/garage".to_string(), &FIBARO),
        ]),
        doors: Arc::new(doors()),
        trust: Default::default(),
        time_zone: TimeZone::get("Europe/Paris").unwrap(),
        place: Some(Place { latitude: 48.86, longitude: 2.35 }),
        quiet: [("ben".to_string(), Quiet::parse("22:00-07:00").unwrap())].into(),
    }
}

/// A gate by its relay, a lock that takes a signature for enough, and a door for people only.
fn doors() -> Doors {
    let door = |name: &str, by, requires| {
        let (max_age, max_rate) = (door::MAX_AGE_DEFAULT, Default::default());
        let door = Door { name: name.into(), title: None, by, requires, max_age, max_rate };
        (name.to_string(), door)
    };
    let relay = Opener::Fibaro { intercom: "garage".into(), relay: 1 };
    let lock = Opener::Netatmo { home: "home".into(), module: "lock".into(), bridge: None };
    let hut = Opener::Fibaro { intercom: "gate".into(), relay: 1 };
    let lobby = Opener::Vms { site: "block".into(), intercom: "Vault".into() };
    let all = [
        door("front", relay, Trust::Fresh),
        door("side", lock, Trust::Authentic),
        door("hut", hut, Trust::Authentic),
        door("vault", lobby, Trust::Human),
    ];
    let rights = [("ana".to_string(), ["front".to_string()].into())];
    Doors { all: all.into(), rights: rights.into() }
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

/// The samples must load whatever systems a house has.
#[test]
fn the_shipped_rules_need_no_system() {
    let files = files("rules").iter().map(|path| read(path)).collect();
    let bare = House { systems: Default::default(), sources: Default::default(), ..house() };
    let rules = RuleSet::load(files, &bare).unwrap_or_else(|wrong| panic!("{}", wrong.render()));
    let report = selftest::run(&rules, &fixture);
    assert!(report.is_ok(), "{report}");
}

/// The webhooks' types are the normaliser's own list; a type that only the cloud API brings is in
/// the other one.
#[test]
fn the_known_types_are_those_that_netatmo_makes() {
    let made = names::TYPES;
    let lost: Vec<_> = types::NETATMO.iter().filter(|kind| !made.contains(kind)).collect();
    assert!(lost.is_empty(), "nobody makes {lost:?}");
    let known = |kind: &&str| types::NETATMO.contains(kind) || types::NETATMO_API.contains(kind);
    let unknown: Vec<_> = made.iter().filter(|kind| !known(kind)).collect();
    assert!(unknown.is_empty(), "rules do not know {unknown:?}");
    let twice = types::NETATMO_API.iter().find(|kind| types::NETATMO.contains(kind));
    assert_eq!(twice, None);
}

/// Every type that the documentation promises can be waited for.
#[test]
fn documented_types_are_known() {
    let text = std::fs::read_to_string("docs/events.md").unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let system = |kind: &&str| types::RESERVED.iter().any(|begin| kind.starts_with(begin));
    let plain = |kind: &&str| !kind.contains(['<', '*', ' ', '/']);
    let kinds: Vec<&str> = rows.filter(system).filter(plain).collect();
    assert!(kinds.len() > types::NETATMO.len());
    let unknown: Vec<_> = kinds.iter().filter(|kind| !types::is_known(kind, false)).collect();
    assert!(unknown.is_empty(), "rules do not know {unknown:?}");
}

/// What rules take for a system's types is what the system makes.
#[test]
fn every_systems_types_are_known_to_rules() {
    let same = |listed: &[&str], made: &[&str]| {
        let [listed, made] = [listed, made].map(|all| all.iter().copied().collect::<BTreeSet<_>>());
        assert_eq!(listed, made);
    };
    same(types::FIBARO, fibaro::TYPES);
    let made = indigo::types();
    same(types::INDIGO, &made.iter().map(String::as_str).collect::<Vec<_>>());
    same(types::EMM, emm::TYPES);
    same(types::VMS, vms::TYPES);
}

/// What `docs/rules.md` and the README show can be written, with the systems' own commands.
#[test]
fn the_documented_rules_load() {
    let systems = System::group([
        ("netatmo/home".to_string(), netatmo::api::COMMANDS),
        ("emm/block".to_string(), emm::COMMANDS),
        ("fibaro/gate".to_string(), fibaro::COMMANDS),
        ("indigo/house".to_string(), indigo::COMMANDS),
        ("vms/block".to_string(), vms::COMMANDS),
        ("webhook/ops".to_string(), webhook::COMMANDS),
    ]);
    let house = House { systems, ..house() };
    let read = |path| std::fs::read_to_string(path).unwrap();
    let text = read("docs/rules.md") + &read("README.md");
    let blocks = text.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let begin = "rules:\n  - name: x\n    when: { type: fibaro.button }\n";
    let whole = |block: &str| {
        let inner: String = block.lines().map(|line| format!("    {line}\n")).collect();
        match block.split(':').next() {
            Some("rules") => Some(block.to_string()),
            Some("  - name") => Some(format!("rules:\n{block}")),
            Some("    lane") => Some(format!("{begin}{block}")),
            Some("when") => {
                let lines = block.lines().map(|line| line.split('#').next().unwrap_or_default());
                let rule = |(i, when): (usize, &str)| {
                    format!("  - name: \"{i}\"\n    {when}\n    do: [ stop ]\n")
                };
                Some(format!("rules:\n{}", lines.enumerate().map(rule).collect::<String>()))
            }
            Some("do") => Some(format!("{begin}{inner}")),
            Some("if") => Some(format!("{begin}{inner}    do: [ stop ]\n")),
            _ => None,
        }
    };
    let files: Vec<String> = blocks.filter_map(whole).collect();
    assert_eq!(files.len(), 10);
    for file in files {
        let loaded = RuleSet::load(vec![SourceFile::new("an example", file)], &house);
        loaded.unwrap_or_else(|wrong| panic!("{}", wrong.render()));
    }
}

/// A step's own keys stand beside the command's arguments.
#[test]
fn no_argument_is_called_like_a_steps_own_key() {
    let tables = [
        (fibaro::COMMANDS, "intercom"),
        (indigo::COMMANDS, "server"),
        (emm::COMMANDS, "site"),
        (vms::COMMANDS, "site"),
        (webhook::COMMANDS, "to"),
        (netatmo::api::COMMANDS, "account"),
    ];
    for (table, which) in tables {
        for spec in table {
            let own = ["call", "ttl", "times", which];
            let taken = spec.args.iter().find(|arg| own.contains(&arg.name));
            assert!(taken.is_none(), "{} has an argument `{}`", spec.name, taken.unwrap().name);
        }
    }
}
