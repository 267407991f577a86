//! Steps that tell systems something: what is refused at load, what a firing comes to, and what a
//! test in a rule file can expect of it.

use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value as Json, json};

use crate::action::{Action, ActionId, Lane, Outcome, Task};
use crate::command::{Arg, Command, Kind, Repeat, Spec};
use crate::event::{Event, Marks, Trust};
use crate::node::SourceFile;
use crate::record::{Becomes, Decided, Known, KnownChange, NotSent, NotSentReason, Verdict};
use crate::rules::tests::{decide, event, house, memory, noon, settle};
use crate::rules::{House, Memory, RuleSet, StateEntry, System, explain, selftest};

const fn arg(name: &'static str, kind: Kind, required: bool) -> Arg {
    Arg { name, kind, required, about: "what it says" }
}

static EMM: [Spec; 2] = [
    Spec {
        name: "send",
        about: "Sends a message",
        args: &[
            arg("to", Kind::Texts, true),
            arg("text", Kind::Text, true),
            arg("priority", Kind::Flag, false),
            arg("tone", Kind::Text, false),
        ],
        repeat: Repeat::Better,
        opens: false,
    },
    Spec {
        name: "password",
        about: "Changes the password",
        args: &[arg("password", Kind::Secret, true)],
        repeat: Repeat::Never,
        opens: false,
    },
];

static FIBARO: [Spec; 2] = [
    Spec {
        name: "relay.open",
        about: "Opens",
        args: &[
            arg("relay", Kind::Int(0, 1), true),
            arg("time", Kind::Millis(250, 30_000), false),
            arg("pin", Kind::Secret, false),
        ],
        repeat: Repeat::Never,
        opens: true,
    },
    Spec { name: "relay.list", about: "", args: &[], repeat: Repeat::Harmless, opens: false },
];

static INDIGO: [Spec; 2] = [
    Spec {
        name: "device.turnOn",
        about: "Turns on",
        args: &[arg("object", Kind::Text, true), arg("duration", Kind::Number, false)],
        repeat: Repeat::Harmless,
        opens: false,
    },
    Spec {
        name: "raw",
        about: "Anything",
        args: &[arg("message", Kind::Json, true), arg("mode", Kind::Word(&["a", "b"]), false)],
        repeat: Repeat::Never,
        opens: false,
    },
];

/// A house with three kinds of systems.
pub(in crate::rules) fn estate() -> House {
    let system = |names: &[&str], commands| System {
        names: names.iter().map(ToString::to_string).collect(),
        commands,
    };
    let systems = [
        ("emm".to_string(), system(&["block"], &EMM)),
        ("fibaro".to_string(), system(&["gate", "garage"], &FIBARO)),
        ("indigo".to_string(), system(&["house"], &INDIGO)),
    ];
    House { systems: systems.into(), ..house() }
}

fn file(text: &str) -> Vec<SourceFile> {
    vec![SourceFile::new("rules/a.yaml", text)]
}

/// One rule with these steps.
fn steps(steps: &str) -> String {
    format!("rules:\n  - name: a\n    when: {{ type: \"*\" }}\n    do:\n{steps}")
}

fn rules(text: &str) -> RuleSet {
    RuleSet::load(file(text), &estate()).unwrap_or_else(|wrong| panic!("{}", wrong.render()))
}

fn problems(text: &str) -> String {
    match RuleSet::load(file(text), &estate()) {
        Ok(rules) => panic!("no problem; warnings: {}", rules.warnings()),
        Err(problems) => problems.to_string(),
    }
}

fn commands(decided: &Decided) -> Vec<(&Action, &Command)> {
    let told = decided.actions.iter().filter_map(|action| match &action.task {
        Task::Command(command) => Some((action, &**command)),
        _ => None,
    });
    told.collect()
}

fn notes(decided: &Decided) -> String {
    let line = |note: &NotSent| format!("{} {}: {}", note.step, note.reason.as_str(), note.detail);
    decided.looked[0].not_sent.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_command_is_one_action_for_one_system() {
    let rules = rules(
        r#"
rules:
  - name: smoke
    when: { type: netatmo.smoke }
    lane: alarm
    do:
      - emm: { site: block, to: ["12", 007], text: "Smoke at {{ event.data.home_name }}", priority: true, tone: 1 }
      - indigo: { call: device.turnOn, object: Hall lamp, duration: "{{ event.data.n }}", ttl: 5m }
      - fibaro: { intercom: gate, call: relay.list }
"#,
    );
    let smoke = event("netatmo.smoke", json!({ "home_name": "Home", "n": 10 }));
    let decided = decide(&rules, &smoke, &memory(), noon());
    let told = commands(&decided);
    let all: Vec<_> = told.iter().map(|(_, c)| (&*c.to, &*c.call, c.repeat)).collect();
    let wanted = [
        ("emm/block", "send", Repeat::Better),
        ("indigo/house", "device.turnOn", Repeat::Harmless),
        ("fibaro/gate", "relay.list", Repeat::Harmless),
    ];
    assert_eq!(all, wanted);
    // Numbers that are texts stay as they are written.
    let args =
        json!({ "to": ["12", "007"], "text": "Smoke at Home", "priority": true, "tone": "1" });
    assert_eq!(Json::Object(told[0].1.args.clone()), args);
    assert_eq!(
        Json::Object(told[1].1.args.clone()),
        json!({ "object": "Hall lamp", "duration": 10 })
    );
    let (action, command) = told[0];
    assert_eq!(action.id, ActionId::derive(smoke.id, "smoke", "do[0]", "emm/block"));
    assert_eq!((action.lane, command.trust), (Lane::Alarm, Trust::Authentic));
    let lives: Vec<i64> =
        told.iter().map(|(action, _)| action.deadline.duration_since(noon()).as_secs()).collect();
    assert_eq!(lives, [3600, 300, 60]);
    insta::assert_snapshot!(explain(&decided, &TimeZone::UTC), @r#"
    smoke: fired
        do[0]: tells emm/block to send {"priority":true,"text":"Smoke at Home","to":["12","007"],"tone":"1"} (until 12:00:00)
        do[1]: tells indigo/house to device.turnOn {"duration":10,"object":"Hall lamp"} (until 11:05:00)
        do[2]: tells fibaro/gate to relay.list {} (until 11:01:00)
    "#);
}

#[test]
fn mistakes_are_found_at_load() {
    insta::assert_snapshot!(problems(&steps(
        r#"      - emm: { sight: block, text: x }
      - emm: { site: blok, call: sned, to: "12", text: x }
      - emm: { call: send, to: [], text: x, priority: perhaps, ttl: soon }
      - emm: { to: [[1], { a: 1 }], text: { a: b } }
      - emm: { to: "12", text: [a] }
      - emm: { call: password, password: x }
      - emm: hello
      - fibaro: { call: relay.list }
      - fibaro: { intercom: gate }
      - fibaro: { intercom: gate, call: dance }
      - fibaro: { intercom: gate, call: relay.open, relay: 2, time: "31s", pin: 1234 }
      - fibaro: { intercom: "{{ event.subject }}", call: relay.list }
      - indigo: { call: raw, message: ~, mode: c, objekt: 1 }
      - indigo: { call: device.turnOn, object: "{{ evnt.x }}", duration: [1] }
      - netatmo: { call: light }
      - { emm: { to: "12", text: x }, indigo: { call: raw, message: 1 } }
"#
    )), @r#"
    rules/a.yaml:5:16: `send` needs `to`: what it says
    rules/a.yaml:5:16: `send` takes no `sight` (known here: to, text, priority, tone, site, call, ttl)
    rules/a.yaml:6:22: no emm is called `blok` (did you mean `block`?)
    rules/a.yaml:6:34: there is no command `sned` (did you mean `send`?)
    rules/a.yaml:7:32: `to` is empty
    rules/a.yaml:7:55: `priority` must be true or false
    rules/a.yaml:7:69: `ttl` is "soon", which is no duration (a duration is a number with a unit: 500ms, 30s, 10m, 24h, 7d)
    rules/a.yaml:8:21: this is a list, not a text
    rules/a.yaml:8:28: this is a map, not a text
    rules/a.yaml:8:45: `text` must be a text
    rules/a.yaml:9:32: `text` must be a text
    rules/a.yaml:10:22: `password` is a secret, and secrets do not belong into rule files (use the command line)
    rules/a.yaml:11:14: `emm` is a text, not a map
    rules/a.yaml:12:19: `intercom` is missing (the config's fibaro: garage, gate)
    rules/a.yaml:13:19: `call` is missing (commands: relay.open, relay.list)
    rules/a.yaml:14:41: there is no command `dance` (commands: relay.open, relay.list)
    rules/a.yaml:15:60: `relay` must be a whole number from 0 to 1
    rules/a.yaml:15:69: `time` must be a time from 250 ms to 30000 ms, such as `3s`
    rules/a.yaml:15:81: `pin` is a secret, and secrets do not belong into rule files (use the command line)
    rules/a.yaml:16:29: a template cannot say which one (write one step for each, behind an `if`)
    rules/a.yaml:17:19: `raw` needs `message`: what it says
    rules/a.yaml:17:48: `mode` must be one of a, b
    rules/a.yaml:17:51: `raw` takes no `objekt` (known here: message, mode, server, call, ttl)
    rules/a.yaml:18:52: the variable `evnt` is not known (did you mean `event`?)
    rules/a.yaml:18:74: `duration` must be a number
    rules/a.yaml:19:20: the config has no netatmo to tell (add `[netatmo.<name>]` to portero.toml)
    rules/a.yaml:20:11: one step does one thing (begin each with its own `-`)
    "#);
}

#[test]
fn the_systems_own_state_is_not_set_by_rules() {
    insta::assert_snapshot!(problems(&steps(
        "      - set: { indigo/house/variable/x: 1, \"emm/{{ event.subject }}\": 2, emm: 3 }\n"
    )), @r"
    rules/a.yaml:5:16: only the system itself sets `indigo/house/variable/x` (choose a path of your own: `house/mode`)
    rules/a.yaml:5:44: only the system itself sets `emm/{{ event.subject }}` (choose a path of your own: `house/mode`)
    ");
    let rules = rules(&steps("      - set: { \"{{ event.data.path }}\": 1 }\n"));
    let decided =
        decide(&rules, &event("netatmo.ring", json!({ "path": "vms/a/x" })), &memory(), noon());
    assert!(decided.sets.is_empty());
    insta::assert_snapshot!(notes(&decided), @"do[0].set bad_argument: only the system itself sets `vms/a/x`");
}

#[test]
fn a_message_is_told_in_part_rather_than_not_at_all() {
    let rules = rules(&steps(
        r#"      - emm: { to: ["12", "{{ event.data.who }}"], text: "{{ event.data.x }}", tone: "{{ event.data.x }}", priority: "{{ event.data.p }}" }
      - emm: { to: "{{ event.data.who }}", text: x }
      - emm: { to: "{{ event.data.list }}", text: "{{ none }}" }
      - emm: { to: ["{{ event.data.who }}"], text: x }
"#,
    ));
    let data = json!({ "list": ["1", 2], "p": "perhaps" });
    let decided = decide(&rules, &event("netatmo.ring", data), &memory(), noon());
    let told: Vec<_> =
        commands(&decided).iter().map(|(_, c)| Json::Object(c.args.clone())).collect();
    assert_eq!(
        told,
        [json!({ "to": ["12"], "text": "a" }), json!({ "to": ["1", "2"], "text": "a" })]
    );
    insta::assert_snapshot!(notes(&decided), @r"
    do[0].emm.to template_error: `event.data.who` is undefined, rules/a.yaml:5:31; sent without it
    do[0].emm.text template_error: `event.data.x` is undefined, rules/a.yaml:5:62; sent without it
    do[0].emm.tone template_error: `event.data.x` is undefined, rules/a.yaml:5:90; sent without it
    do[0].emm.priority bad_argument: `priority` must be true or false; sent without it
    do[0].emm.text bad_argument: `text` is missing; the rule's name is sent instead
    do[1].emm.to template_error: `event.data.who` is undefined, rules/a.yaml:6:24; not sent
    do[2].emm.text bad_argument: `text` is missing; the rule's name is sent instead
    do[3].emm.to template_error: `event.data.who` is undefined, rules/a.yaml:8:25; sent without it
    do[3].emm.to bad_argument: `to` is empty; not sent
    ");
}

#[test]
fn any_other_command_is_told_exactly_or_not() {
    let rules = rules(&steps(
        r#"      - indigo: { call: device.turnOn, object: Hall, duration: "{{ event.data.x }}" }
      - indigo: { call: device.turnOn, object: Hall, duration: "{{ event.data.word }}" }
      - indigo: { call: device.turnOn, object: "{{ none }}" }
      - indigo: { call: device.turnOn, object: Hall, duration: "{{ none }}" }
      - indigo: { call: raw, message: { a: ["{{ event.data.word }}"] }, mode: "{{ event.data.word }}" }
"#,
    ));
    let decided =
        decide(&rules, &event("netatmo.ring", json!({ "word": "soon" })), &memory(), noon());
    let told: Vec<_> =
        commands(&decided).iter().map(|(_, c)| Json::Object(c.args.clone())).collect();
    assert_eq!(told, [json!({ "object": "Hall" })]);
    insta::assert_snapshot!(notes(&decided), @r"
    do[0].indigo.duration template_error: `event.data.x` is undefined, rules/a.yaml:5:68; not sent
    do[1].indigo.duration bad_argument: `duration` must be a number; not sent
    do[2] bad_argument: `device.turnOn` needs `object`: what it says
    do[4].indigo.mode bad_argument: `mode` must be one of a, b; not sent
    ");
}

#[test]
fn arguments_that_grow_are_refused() {
    let rules = rules(&steps(
        "      - indigo: { call: raw, message: [\"{{ event.data }}\", \"{{ event.data }}\"] }\n",
    ));
    let data = json!({ "x": "é".repeat(40_000) });
    let decided = decide(&rules, &event("netatmo.ring", data), &memory(), noon());
    assert!(decided.actions.is_empty());
    insta::assert_snapshot!(notes(&decided), @"do[0] bad_argument: the value takes 160031 bytes, more than 131072");
}

const OPENS: &str = r#"      - fibaro: { intercom: gate, call: relay.open, relay: 0, time: 3s }
"#;

fn button(trust: Trust, caught_up: bool, received: Timestamp) -> Arc<Event> {
    let mut button = (*event("fibaro.button", json!({}))).clone();
    button.source = "fibaro/gate".into();
    (button.trust, button.received) = (trust, received);
    button.marks = Marks { caught_up, ..Marks::default() };
    Arc::new(button)
}

#[test]
fn what_opens_follows_only_from_fresh_news() {
    let rules = rules(&steps(OPENS));
    let told = |event: Arc<Event>, memory: &Memory| {
        let decided = decide(&rules, &event, memory, noon());
        let deadline = commands(&decided).first().map(|(action, _)| action.deadline);
        deadline.ok_or_else(|| notes(&decided))
    };
    let ago = |seconds| noon() - SignedDuration::from_secs(seconds);
    let fresh = told(button(Trust::Fresh, false, ago(3)), &memory());
    assert_eq!(fresh, Ok(noon() + SignedDuration::from_secs(7)));
    let old = told(button(Trust::Fresh, false, ago(11)), &memory()).unwrap_err();
    insta::assert_snapshot!(old, @"do[0] not_trusted: it opens something, and the news is 11 s old, at most 10 s");
    let doubtful = told(button(Trust::Authentic, false, noon()), &memory()).unwrap_err();
    insta::assert_snapshot!(doubtful, @"do[0] not_trusted: it opens something, and what led to it is only authentic, not fresh");
    let caught_up = told(button(Trust::Fresh, true, noon()), &memory()).unwrap_err();
    insta::assert_snapshot!(caught_up, @"do[0] not_trusted: the event is caught up, replayed or a test");
}

#[test]
fn state_that_a_command_reads_lowers_its_trust() {
    let rules = rules(&steps(
        "      - fibaro: { intercom: gate, call: relay.open, relay: \"{{ state('which') }}\" }\n",
    ));
    let mut memory = memory();
    let mut told = |trust| {
        memory.set_state("which", StateEntry { value: json!(1), trust, at: noon() });
        decide(&rules, &button(Trust::Fresh, false, noon()), &memory, noon()).actions.len()
    };
    assert_eq!((told(Trust::Fresh), told(Trust::Authentic)), (1, 0));
}

#[test]
fn a_message_that_nobody_got_lifts_the_cooldown() {
    let text = steps("      - emm: { to: \"12\", text: x }\n")
        .replace("    do:", "    cooldown: 1h\n    do:");
    let rules = rules(&text);
    let verdict = |memory: &Memory, n: i64| {
        let later = noon() + Duration::from_secs(60);
        decide(&rules, &event("netatmo.ring", json!({ "n": n })), memory, later).looked[0].verdict
    };
    for (outcome, wanted) in [
        (Outcome::Done, Verdict::Cooldown),
        (Outcome::Refused { why: "no such recipient".into() }, Verdict::Fired),
    ] {
        let mut memory = memory();
        let first = decide(&rules, &event("netatmo.ring", json!({ "n": 0 })), &memory, noon());
        memory.apply_decided(&first, noon());
        assert_eq!(verdict(&memory, 1), Verdict::Cooldown);
        settle(&mut memory, &first.actions[0], outcome, noon());
        assert_eq!(verdict(&memory, 2), wanted);
    }
}

#[test]
fn state_has_an_age_and_a_trust() {
    let rules = rules(
        r#"
rules:
  - name: old
    when: { type: netatmo.ring }
    if: state_age("indigo/house/variable/mode") > 60
    do: [ { set: { age: "{{ state_age('indigo/house/variable/mode') }}", trust: "{{ state_trust('indigo/house/variable/mode') }}" } } ]
  - name: young
    when: { type: netatmo.ring }
    if: state_age("indigo/house/variable/mode") <= 60 and state("indigo/house/variable/mode").value == "away"
    do: [ stop ]
  - name: never
    when: { type: netatmo.ring }
    if: state_age("nowhere") is defined or state_trust("nowhere") is defined
    do: [ stop ]
  - name: no age is not young
    when: { type: netatmo.ring }
    if: state_age("nowhere") < 60
    do: [ stop ]
  - name: nor old
    when: { type: netatmo.ring }
    if: state_age("nowhere") > 60
    do: [ stop ]
"#,
    );
    let mut memory = memory();
    memory.apply_known(&Known {
        source: "indigo/house".into(),
        trust: Trust::Unverified,
        at: noon(),
        changes: vec![KnownChange {
            path: "indigo/house/variable/mode".into(),
            to: Becomes::Is(json!({ "value": "home" })),
        }],
    });
    let ring = event("netatmo.ring", json!({}));
    let decided = decide(&rules, &ring, &memory, noon() + Duration::from_secs(61));
    let sets: Vec<_> = decided.sets.iter().map(|set| (set.value.clone(), set.trust)).collect();
    assert_eq!(sets, [(json!(61), Trust::Unverified), (json!("unverified"), Trust::Unverified)]);
    insta::assert_snapshot!(explain(&decided, &TimeZone::UTC), @r#"
    old: fired
    young: did not fire: its `if` is false
        state_age("indigo/house/variable/mode") <= 60 — state_age("indigo/house/variable/mode") is 61
    never: did not fire: its `if` is false
        state_age("nowhere") is defined or state_trust("nowhere") is defined — state_age("nowhere") is undefined, state_trust("nowhere") is undefined
    no age is not young: did not fire: its `if` is false
        state_age("nowhere") < 60 — state_age("nowhere") is undefined
    nor old: did not fire: its `if` is false
        state_age("nowhere") > 60 — state_age("nowhere") is undefined
    set age to 61 (unverified)
    set trust to "unverified" (unverified)
    "#);
    let soon = decide(&rules, &ring, &memory, noon());
    insta::assert_snapshot!(explain(&soon, &TimeZone::UTC), @r#"
    old: did not fire: its `if` is false
        state_age("indigo/house/variable/mode") > 60 — state_age("indigo/house/variable/mode") is 0
    young: did not fire: its `if` is false
        state("indigo/house/variable/mode").value == "away" — state("indigo/house/variable/mode").value is "home"
    never: did not fire: its `if` is false
        state_age("nowhere") is defined or state_trust("nowhere") is defined — state_age("nowhere") is undefined, state_trust("nowhere") is undefined
    no age is not young: did not fire: its `if` is false
        state_age("nowhere") < 60 — state_age("nowhere") is undefined
    nor old: did not fire: its `if` is false
        state_age("nowhere") > 60 — state_age("nowhere") is undefined
    "#);
}

#[test]
fn tests_expect_what_systems_are_told() {
    let rules = rules(
        r#"
rules:
  - name: smoke
    when: { type: netatmo.smoke }
    do:
      - emm: { to: ["12", "15"], text: "Smoke at {{ event.data.home_name }}", priority: true }
  - name: button
    when: { type: fibaro.button }
    if: not event.caught_up
    do: [ { fibaro: { intercom: gate, call: relay.open, relay: 0, time: 3s } } ]
tests:
  - name: smoke
    events: [ { type: netatmo.smoke, data: { home_name: Home } } ]
    expect:
      - emm: { site: block, call: send, to: 12, text: "Smoke*", priority: "yes", times: 1 }
      - emm: { to: [15, "1*"] }
      - no: fibaro
      - no: { emm: { to: "13" } }
  - name: the button opens while it is news
    events: [ { type: fibaro.button }, { type: fibaro.button, caught_up: true }, { type: fibaro.button, trust: authentic } ]
    expect: [ { fibaro: { intercom: gate, time: 3000, relay: 0, times: 1 } }, { no: emm } ]
  - name: wrong
    events: [ { type: netatmo.smoke, data: { home_name: Home } } ]
    expect:
      - emm: { text: Fire, to: [12, 13] }
      - no: { emm: { call: send } }
      - fibaro: { intercom: garage }
      - emm: { priority: false }
"#,
    );
    let report = selftest::run(&rules, &|_| Err("no fixtures".into()));
    assert_eq!(report.passed, 2);
    insta::assert_snapshot!(report, @r#"
    FAILED wrong (rules/a.yaml:22:5)
      expected command to emm with text "Fire" with to [12,13], but there was none
      expected no command to emm to send, but there was 1
      expected command to fibaro/garage, but there was none
      expected command to emm with priority false, but there was none
      | 12:00:00 netatmo.smoke {"home_name":"Home"}
      |     smoke: fired
      |         do[0]: tells emm/block to send {"priority":true,"text":"Smoke at Home","to":["12","15"]} (until 13:00:00)

    2 passed, 1 failed
    "#);
    insta::assert_snapshot!(problems(&format!("{}{}", steps("      - stop\n"), r#"tests:
  - name: x
    events: [ { type: netatmo.smoke } ]
    expect: [ { emm: { sight: x } }, { emm: { site: blok } }, { emm: { call: sned } }, { netatmo: { call: x } }, { fibaro: { call: relay.list, relay: 1 } }, { no: [] }, { no: { push: {}, emm: {} } }, { no: emmm } ]
"#)), @r"
    rules/a.yaml:9:24: `emm` takes no `sight`
    rules/a.yaml:9:53: no emm is called `blok` (did you mean `block`?)
    rules/a.yaml:9:78: there is no command `sned` (did you mean `send`?)
    rules/a.yaml:9:101: the config has no netatmo to tell (add `[netatmo.<name>]` to portero.toml)
    rules/a.yaml:9:144: `relay.list` takes no `relay`
    rules/a.yaml:9:164: `no` is a list, not a map
    rules/a.yaml:9:178: `no` takes one thing that must not happen
    rules/a.yaml:9:207: `emmm` is not one of push, set, emit, open, held, fibaro, indigo, emm, netatmo, vms, webhook (did you mean `emm`?)
    ");
}

#[test]
fn nothing_that_was_noted_is_lost_in_json() {
    let note = NotSent {
        letter: None,
        step: "do[0].emm.text".into(),
        reason: NotSentReason::NotTrusted,
        detail: "x".into(),
    };
    let json = json!({ "step": "do[0].emm.text", "reason": "not_trusted", "detail": "x" });
    assert_eq!(serde_json::to_value(&note).unwrap(), json);
    let bad = NotSent { reason: NotSentReason::BadArgument, ..note };
    assert_eq!(serde_json::to_value(bad).unwrap()["reason"], "bad_argument");
}
