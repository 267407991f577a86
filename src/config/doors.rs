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
