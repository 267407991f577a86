//! What systems told about themselves, by path, for rules to read: devices, variables, alarms,
//! intercoms. A fold of [`Known`] records. It is kept apart from the variables that rules set, so
//! that neither can pose as the other.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::memory::StateEntry;
use crate::event::Trust;
use crate::record::{Becomes, Known, KnownChange};

/// The most paths of all systems together. The largest homes have some 2 000 Indigo objects, each
/// with a path by number and one by name.
pub const KNOWN_MAX: usize = 50_000;

/// Paths and what they are.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KnownMap(BTreeMap<String, KnownEntry>);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum KnownEntry {
    Is(StateEntry),
    SameAs(String),
}

impl KnownMap {
    /// What is known of a path; a name leads to what it names.
    pub fn get(&self, path: &str) -> Option<&StateEntry> {
        match self.0.get(path)? {
            KnownEntry::Is(entry) => Some(entry),
            KnownEntry::SameAs(other) => match self.0.get(other)? {
                KnownEntry::Is(entry) => Some(entry),
                KnownEntry::SameAs(_) => None,
            },
        }
    }

    /// Every path below `source` with a value of its own.
    pub fn below(&self, source: &str) -> impl Iterator<Item = (&str, &StateEntry)> {
        let inside = move |path: &str| {
            path.strip_prefix(source).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let from = self.0.range(source.to_string()..);
        let near = from.take_while(move |(path, _)| path.starts_with(source));
        near.filter_map(move |(path, entry)| match entry {
            KnownEntry::Is(entry) if inside(path) => Some((path.as_str(), entry)),
            _ => None,
        })
    }

    /// All paths with a value of their own.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &StateEntry)> {
        self.0.iter().filter_map(|(path, entry)| match entry {
            KnownEntry::Is(entry) => Some((path.as_str(), entry)),
            KnownEntry::SameAs(_) => None,
        })
    }

    /// How many paths there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn apply(&mut self, known: &Known) {
        for change in &known.changes {
            self.change(known, change);
        }
    }

    fn change(&mut self, known: &Known, change: &KnownChange) {
        let path = &change.path;
        if self.0.len() >= KNOWN_MAX && !self.0.contains_key(path) {
            return;
        }
        let trust = if is_link(path) { Trust::Unverified } else { known.trust };
        let entry = |value: Value| StateEntry { value, trust, at: known.at };
        match &change.to {
            Becomes::Is(value) => {
                self.0.insert(path.clone(), KnownEntry::Is(entry(value.clone())));
            }
            Becomes::SameAs(other) => {
                self.0.insert(path.clone(), KnownEntry::SameAs(other.clone()));
            }
            Becomes::Gone => drop(self.0.remove(path)),
            Becomes::Fields { set, gone } => {
                let mut fields = match self.0.remove(path) {
                    Some(KnownEntry::Is(StateEntry { value: Value::Object(fields), .. })) => fields,
                    _ => serde_json::Map::new(),
                };
                fields.extend(set.clone());
                gone.iter().for_each(|name| drop(fields.remove(name)));
                self.0.insert(path.clone(), KnownEntry::Is(entry(Value::Object(fields))));
            }
        }
    }
}

/// Whether it is what Portero itself says of a connection: whoever cuts that can cause it, so nobody
/// vouches for it.
pub(super) fn is_link(path: &str) -> bool {
    path.ends_with("/link")
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::json;

    use super::*;

    fn tell(map: &mut KnownMap, path: &str, to: Becomes) {
        map.apply(&Known {
            source: "indigo/house".into(),
            trust: Trust::Fresh,
            at: Timestamp::UNIX_EPOCH,
            changes: vec![KnownChange { path: path.into(), to }],
        });
    }

    #[test]
    fn fields_change_and_names_follow() {
        let mut map = KnownMap::default();
        tell(&mut map, "indigo/house/device/1", Becomes::Is(json!({ "on": false, "x": 1 })));
        let same = Becomes::SameAs("indigo/house/device/1".into());
        tell(&mut map, "indigo/house/device/Hall", same);
        let Value::Object(set) = json!({ "on": true }) else { unreachable!() };
        let fields = Becomes::Fields { set, gone: vec!["x".into()] };
        tell(&mut map, "indigo/house/device/1", fields);
        let hall = map.get("indigo/house/device/Hall").map(|entry| &entry.value);
        assert_eq!(hall, Some(&json!({ "on": true })));
        assert_eq!(map.below("indigo/house").count(), 1);
        assert_eq!(map.below("indigo/hou").count(), 0);
        tell(&mut map, "indigo/house/device/1", Becomes::Gone);
        assert_eq!(map.get("indigo/house/device/Hall"), None);
    }
}
