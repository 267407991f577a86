//! `[doors.*]`, and the doors of `[people.*]`: what opens, and for whom. Everything that they name
//! must be in the config.

use std::collections::{BTreeMap, BTreeSet};

use super::systems::Systems;
use super::{NAME_RULE, is_name};
use crate::door::{Door, Doors, MAX_AGE, MAX_AGE_DEFAULT, Opener, Rate};
use crate::event::Trust;
use crate::node::{Cursor, Table, nearest};

/// The relays of a FIBARO Intercom.
const RELAYS: std::ops::RangeInclusive<i64> = 0..=1;

/// All doors, without anybody's right to them yet.
pub(super) fn doors(at: Option<Cursor<'_>>, systems: &Systems) -> Doors {
    let mut all: BTreeMap<String, Door> = BTreeMap::new();
    for (key, at) in at.and_then(Cursor::named).unwrap_or_default() {
        if !is_name(&key.name) {
            at.reader().wrong(key.range.clone(), NAME_RULE);
        }
        let Some(door) = at.table().and_then(|table| door(&key.name, table, systems)) else {
            continue;
        };
        if let Some(other) = all.values().find(|other| other.by == door.by) {
            let message = format!("`{}` opens the same as `{}`", door.name, other.name);
            at.wrong_help(message, "one door has one name, and one set of rules");
        }
        all.insert(key.name.clone(), door);
    }
    Doors { all, rights: BTreeMap::new() }
}

fn door(name: &str, mut table: Table<'_>, systems: &Systems) -> Option<Door> {
    let at = table.at();
    let title = table.optional("title").and_then(Cursor::text).map(str::to_string);
    let kinds = [
        table.optional("fibaro").map(|at| fibaro(at, systems)),
        table.optional("netatmo").map(|at| netatmo(at, systems)),
        table.optional("vms").map(|at| vms(at, systems)),
    ];
    let requires = table.optional("requires").map(requires);
    let max_age = table.optional("max_age").map(|at| at.duration(MAX_AGE[0], MAX_AGE[1]));
    let max_rate = table
        .optional("max_rate")
        .map(|at| at.parse("a rate such as 6/min: a number from 1 to 1000, and s, min or h"));
    table.done();
    let mut kinds = kinds.into_iter().flatten();
    let by = kinds.next();
    if by.is_none() || kinds.next().is_some() {
        let help = "one of `fibaro = { intercom, relay }`, `netatmo = { home, module }`, \
                    `vms = { intercom }`";
        at.wrong_help(format!("`{name}` must be opened by exactly one system"), help);
        return None;
    }
    Some(Door {
        name: name.to_string(),
        title,
        by: by??,
        requires: requires.unwrap_or(Some(Trust::Fresh))?,
        max_age: max_age.unwrap_or(Some(MAX_AGE_DEFAULT))?,
        max_rate: max_rate.unwrap_or(Some(Rate::default()))?,
    })
}

fn requires(at: Cursor<'_>) -> Option<Trust> {
    if at.loose_text() == Some(Trust::Unverified.as_str()) {
        let help = "the least is `authentic`, and that must be chosen on purpose";
        at.wrong_help("a door never opens for what nobody vouches for", help);
        return None;
    }
    at.one_of(&[Trust::Authentic, Trust::Fresh, Trust::Human].map(|trust| (trust.as_str(), trust)))
}

fn fibaro(at: Cursor<'_>, systems: &Systems) -> Option<Opener> {
    let mut table = at.table()?;
    let intercom = one(&mut table, "intercom", "fibaro", systems.fibaro.keys());
    let relay = table.required("relay").and_then(|at| at.int(RELAYS));
    table.done();
    Some(Opener::Fibaro { intercom: intercom?, relay: u8::try_from(relay?).ok()? })
}

fn netatmo(at: Cursor<'_>, systems: &Systems) -> Option<Opener> {
    let mut table = at.table()?;
    let home = one(&mut table, "home", "netatmo", systems.netatmo.keys());
    let module = table.required("module").and_then(Cursor::text).map(str::to_string);
    let bridge = table.optional("bridge").map(Cursor::text);
    table.done();
    let bridge = match bridge {
        Some(bridge) => Some(bridge?.to_string()),
        None => None,
    };
    Some(Opener::Netatmo { home: home?, module: module?, bridge })
}

fn vms(at: Cursor<'_>, systems: &Systems) -> Option<Opener> {
    let mut table = at.table()?;
    let site = one(&mut table, "site", "vms", systems.vms.keys());
    let intercom = table.required("intercom").and_then(Cursor::loose_text).map(str::to_string);
    table.done();
    Some(Opener::Vms { site: site?, intercom: intercom? })
}

/// Which system of a kind is meant; it may be left out where there is only one.
fn one<'n>(
    table: &mut Table<'_>,
    key: &'static str,
    kind: &str,
    names: impl Iterator<Item = &'n String>,
) -> Option<String> {
    let names: Vec<&str> = names.map(String::as_str).collect();
    let whole = table.at();
    let given = table.optional(key);
    if names.is_empty() {
        let more = if kind == "netatmo" { " with a `client_id`" } else { "" };
        let help = format!("add `[{kind}.<name>]`{more}");
        whole.wrong_help(format!("the config has no {kind} that could open it"), help);
        return None;
    }
    let Some(at) = given else {
        if let [only] = names[..] {
            return Some(only.to_string());
        }
        let help = format!("the config's {kind}: {}", names.join(", "));
        whole.wrong_help(format!("`{key}` is missing"), help);
        return None;
    };
    let name = at.text()?;
    if names.contains(&name) {
        return Some(name.to_string());
    }
    let help = match nearest(name, names.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("the config's {kind}: {}", names.join(", ")),
    };
    at.wrong_help(format!("no {kind} is called `{name}`"), help);
    None
}

/// The doors that a person may open: `[people.ana] doors = ["front"]`.
pub(super) fn rights(at: Cursor<'_>, doors: &Doors) -> BTreeSet<String> {
    let mut rights = BTreeSet::new();
    for at in at.list().unwrap_or_default() {
        let Some(name) = at.text() else { continue };
        if doors.get(name).is_none() {
            let near = nearest(name, doors.all.keys().map(String::as_str));
            let help = near.map_or_else(
                || format!("add [doors.{name}] to the config"),
                |near| format!("did you mean `{near}`?"),
            );
            at.wrong_help(format!("no door is called `{name}`"), help);
            continue;
        }
        rights.insert(name.to_string());
    }
    rights
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;
    use crate::node::SourceFile;
    use crate::systems::{fibaro, netatmo, vms};

    const SYSTEMS: &str = r#"
[netatmo.home]
client_id = "c"
client_secret = "s"
[fibaro.gate]
url = "wss://127.0.0.1/wsock"
user = "u"
pass = "p"
[vms.block]
url = "https://127.0.0.1"
login = "l"
password = "p"
[vms.annex]
url = "https://127.0.0.2"
login = "l"
password = "p"
"#;

    fn read(doors: &str) -> Result<Doors, String> {
        let file = SourceFile::new("portero.toml", format!("{doors}{SYSTEMS}"));
        let parsed = Config::parse(file, Path::new("."), &|_| None);
        parsed.map(|(config, _)| (*config.house.doors).clone()).map_err(|wrong| wrong.to_string())
    }

    #[test]
    fn a_door_of_each_kind_and_who_may_open_it() {
        let doors = read(
            r#"[doors.front]
title = "Front gate"
fibaro = { relay = 1 }
requires = "human"
max_age = "5s"
max_rate = "30/h"
[doors.side]
netatmo = { home = "home", module = "aa:bb", bridge = "cc:dd" }
requires = "authentic"
[doors.lobby]
vms = { site = "block", intercom = 180 }
[people.ana]
doors = ["front", "lobby"]
[people.ben]
"#,
        );
        let doors = doors.unwrap();
        let front = doors.get("front").unwrap();
        assert_eq!((front.shown(), front.system()), ("Front gate", "fibaro/gate".to_string()));
        assert_eq!((front.requires, front.max_age.as_secs()), (Trust::Human, 5));
        assert_eq!(front.max_rate.to_string(), "30/h");
        let lobby = doors.get("lobby").unwrap();
        assert_eq!((lobby.requires, lobby.max_age), (Trust::Fresh, MAX_AGE_DEFAULT));
        assert!(doors.may("ana", "lobby") && !doors.may("ana", "side"));
        assert!(!doors.may("ben", "front"));
        assert_eq!(doors.people_of("front").collect::<Vec<_>>(), ["ana"]);
    }

    /// What opens a door is a command that its system knows, and that lets somebody in.
    #[test]
    fn the_systems_know_the_commands_of_doors() {
        let openers = [
            (Opener::Fibaro { intercom: "gate".into(), relay: 1 }, fibaro::COMMANDS),
            (Opener::Vms { site: "block".into(), intercom: "180".into() }, vms::COMMANDS),
            (
                Opener::Netatmo {
                    home: "home".into(),
                    module: "aa:bb".into(),
                    bridge: Some("cc:dd".into()),
                },
                netatmo::api::COMMANDS,
            ),
        ];
        for (by, table) in openers.into_iter().filter(|(_, table)| !table.is_empty()) {
            let door = Door {
                name: "front".into(),
                title: None,
                by,
                requires: Trust::Fresh,
                max_age: MAX_AGE_DEFAULT,
                max_rate: Rate::default(),
            };
            let command = door.command(Some(3000), Trust::Fresh);
            let spec = crate::command::find(table, &command.call).unwrap();
            assert!(spec.opens, "{}", spec.name);
            assert_eq!(spec.repeat, command.repeat, "{}", spec.name);
            spec.check(command.args).unwrap_or_else(|mistake| panic!("{mistake}"));
        }
    }

    #[test]
    fn every_mistake_has_its_place() {
        let wrong = read(
            r#"[doors.a]
fibaro = { intercom = "gat", relay = 0 }
[doors.b]
fibaro = { relay = 2 }
[doors.c]
vms = { intercom = 180 }
[doors.d]
netatmo = { home = "hme", module = "x" }
requires = "unverified"
[doors.e]
fibaro = { relay = 0 }
vms = { site = "block", intercom = 1 }
max_age = "2m"
max_rate = "6/day"
[doors.f]
[doors.g]
fibaro = { relay = 0 }
[doors.h]
fibaro = { intercom = "gate", relay = 0 }
requires = "humna"
[doors.i]
fibaro = { intercom = "gate", relay = 0 }
[people.ana]
doors = ["gg", "nowhere at all"]
"#,
        );
        insta::assert_snapshot!(wrong.unwrap_err(), @r#"
        portero.toml:2:23: no fibaro is called `gat` (did you mean `gate`?)
        portero.toml:4:20: `relay` is 2; it is between 0 and 1
        portero.toml:6:9: `site` is missing (the config's vms: annex, block)
        portero.toml:8:20: no netatmo is called `hme` (did you mean `home`?)
        portero.toml:9:12: a door never opens for what nobody vouches for (the least is `authentic`, and that must be chosen on purpose)
        portero.toml:11:1: `e` must be opened by exactly one system (one of `fibaro = { intercom, relay }`, `netatmo = { home, module }`, `vms = { intercom }`)
        portero.toml:13:11: `max_age` is 2m; it is between 1s and 1m
        portero.toml:14:12: "6/day" is not a rate such as 6/min: a number from 1 to 1000, and s, min or h
        portero.toml:15:1: `f` must be opened by exactly one system (one of `fibaro = { intercom, relay }`, `netatmo = { home, module }`, `vms = { intercom }`)
        portero.toml:20:12: `humna` is not one of authentic, fresh, human (did you mean `human`?)
        portero.toml:22:1: `i` opens the same as `g` (one door has one name, and one set of rules)
        portero.toml:24:10: no door is called `gg` (did you mean `g`?)
        portero.toml:24:16: no door is called `nowhere at all` (add [doors.nowhere at all] to the config)
        "#);
    }
}
