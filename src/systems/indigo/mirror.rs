//! What one kind of Indigo objects is, as far as we heard: by id and by name, and what of it
//! becomes Portero's state. Knows nothing of messages. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::{Feed, stand_in, wire};
use crate::record::{Becomes, KnownChange};

/// The objects of one kind.
#[derive(Debug, Clone)]
pub struct Mirror {
    /// `indigo/house/device`.
    prefix: String,
    feed: Feed,
    objects: BTreeMap<i64, Value>,
    /// Who has a name. Indigo keeps names unique; between two patches of a swap they are not.
    names: BTreeMap<String, BTreeSet<i64>>,
}

// === impl Mirror ===

impl Mirror {
    /// The mirror of a feed, as it was when Portero stopped.
    pub fn new(source: &str, feed: Feed, known: &[(String, Value)]) -> Mirror {
        let prefix = format!("{source}/{}", feed.as_str());
        let (objects, names) = (BTreeMap::new(), BTreeMap::new());
        let mut mirror = Mirror { prefix, feed, objects, names };
        for (path, value) in known {
            let id = path.strip_prefix(&mirror.prefix).and_then(|rest| rest.strip_prefix('/'));
            if let Some(id) = id.and_then(|id| id.parse().ok())
                && wire::id_of(value) == Some(id)
            {
                mirror.put(id, value.clone(), &mut Vec::new());
            }
        }
        mirror
    }

    /// An object.
    pub fn get(&self, id: i64) -> Option<&Value> {
        self.objects.get(&id)
    }

    /// The object of this name.
    pub fn named(&self, name: &str) -> Option<i64> {
        self.names.get(name)?.first().copied()
    }

    /// All names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.keys().map(String::as_str)
    }

    /// All objects.
    pub fn objects(&self) -> &BTreeMap<i64, Value> {
        &self.objects
    }

    /// An object, if more is known of it than its stand-in.
    pub fn whole(&self, id: i64) -> Option<&Value> {
        self.get(id).filter(|object| !stand_in::is(object))
    }

    /// An object is this from now on. Returns what it was; `known` gets what differs. One that is
    /// known from before by its stand-in and is still the same was this already.
    pub fn put(&mut self, id: i64, new: Value, known: &mut Vec<KnownChange>) -> Option<Value> {
        let old = self.objects.insert(id, new.clone());
        let instead = stand_in::of(&new);
        if let Some(old) = &old
            && (*old == new || instead.as_ref() == Some(old))
        {
            return Some(new);
        }
        let path = format!("{}/{id}", self.prefix);
        known.extend(becomes(old.as_ref(), &new, instead).map(|to| KnownChange { path, to }));
        let (before, after) = (old.as_ref().and_then(name_of), name_of(&new));
        if before != after {
            self.rename(id, before, after, known);
        } else if let Some(name) = after
            && self.value_of(old.as_ref()) != self.value_of(Some(&new))
        {
            self.tell_name(name, known);
        }
        old
    }

    /// An object is no more. Returns what it was.
    pub fn remove(&mut self, id: i64, known: &mut Vec<KnownChange>) -> Option<Value> {
        let old = self.objects.remove(&id)?;
        known.push(KnownChange { path: format!("{}/{id}", self.prefix), to: Becomes::Gone });
        self.rename(id, name_of(&old), None, known);
        Some(old)
    }

    fn rename(
        &mut self,
        id: i64,
        before: Option<&str>,
        after: Option<&str>,
        known: &mut Vec<KnownChange>,
    ) {
        if let Some(before) = before
            && let Some(owners) = self.names.get_mut(before)
        {
            owners.remove(&id);
            if owners.is_empty() {
                self.names.remove(before);
            }
            self.tell_name(before, known);
        }
        if let Some(after) = after {
            self.names.entry(after.to_string()).or_default().insert(id);
            self.tell_name(after, known);
        }
    }

    /// The path by name: a variable's value, any other object itself or what stands in for it. A name of digits could be
    /// taken for an id, so it has none.
    fn tell_name(&self, name: &str, known: &mut Vec<KnownChange>) {
        if name.is_empty() || name.bytes().all(|byte| byte.is_ascii_digit()) {
            return;
        }
        let to = match self.named(name) {
            None => Becomes::Gone,
            Some(id) => match self.value_of(self.get(id)) {
                Some(value) => Becomes::Is(value),
                None => Becomes::SameAs(format!("{}/{id}", self.prefix)),
            },
        };
        known.push(KnownChange { path: format!("{}/{name}", self.prefix), to });
    }

    /// A variable's value, as a text, unless it is too large for that.
    fn value_of(&self, object: Option<&Value>) -> Option<Value> {
        let fits = |object: &&Value| !stand_in::is(object) && stand_in::of(object).is_none();
        let object = object.filter(|_| self.feed == Feed::Variable).filter(fits)?;
        Some(variable_value(object).into())
    }
}

/// An object's name.
pub fn name_of(object: &Value) -> Option<&str> {
    object.get("name").and_then(Value::as_str)
}

/// A variable's value, always a text.
pub fn variable_value(object: &Value) -> String {
    match object.get("value") {
        Some(Value::String(text)) => text.clone(),
        None | Some(Value::Null) => String::new(),
        Some(other) => other.to_string(),
    }
}

/// What is known of an object now; nothing if that is the same. `instead` stands in for a large
/// one.
fn becomes(old: Option<&Value>, new: &Value, instead: Option<Value>) -> Option<Becomes> {
    let was = |old: &Value| if stand_in::is(old) { Some(old.clone()) } else { stand_in::of(old) };
    match (old.map(|old| (old, was(old))), instead) {
        (None | Some((_, Some(_))), None) => Some(Becomes::Is(new.clone())),
        (Some((old, None)), None) => fields(old, new),
        (Some((_, was)), Some(instead)) if was.as_ref() == Some(&instead) => None,
        (_, Some(instead)) => Some(Becomes::Is(instead)),
    }
}

/// What an object's fields become.
fn fields(old: &Value, new: &Value) -> Option<Becomes> {
    let (Value::Object(old), Value::Object(fields)) = (old, new) else {
        return Some(Becomes::Is(new.clone()));
    };
    let differs = |(key, value): &(&String, &Value)| old.get(*key) != Some(*value);
    let set: Map<String, Value> =
        fields.iter().filter(differs).map(|(key, value)| (key.clone(), value.clone())).collect();
    let gone: Vec<String> = old.keys().filter(|key| !fields.contains_key(*key)).cloned().collect();
    (!set.is_empty() || !gone.is_empty()).then_some(Becomes::Fields { set, gone })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(known: &[KnownChange]) -> Vec<String> {
        let line = |change: &KnownChange| {
            let path = change.path.trim_start_matches("indigo/house/");
            let to = serde_json::to_value(&change.to).unwrap();
            format!("{path} {to}")
        };
        known.iter().map(line).collect()
    }

    #[test]
    fn a_variable_is_known_by_number_whole_and_by_name_as_its_value() {
        let mut mirror = Mirror::new("indigo/house", Feed::Variable, &[]);
        let mut known = Vec::new();
        mirror.put(7, json!({"id": 7, "name": "mode", "value": "home"}), &mut known);
        let whole = r#"variable/7 {"is":{"id":7,"name":"mode","value":"home"}}"#;
        assert_eq!(told(&known), [whole, r#"variable/mode {"is":"home"}"#]);
        known.clear();
        mirror.put(7, json!({"id": 7, "name": "mode", "value": "away"}), &mut known);
        let set = r#"variable/7 {"fields":{"set":{"value":"away"}}}"#;
        assert_eq!(told(&known), [set, r#"variable/mode {"is":"away"}"#]);
        known.clear();
        mirror.put(7, json!({"id": 7, "name": "house", "value": "away"}), &mut known);
        let names = [r#"variable/mode "gone""#, r#"variable/house {"is":"away"}"#];
        assert_eq!(told(&known)[1..], names);
        known.clear();
        mirror.remove(7, &mut known);
        assert_eq!(told(&known), [r#"variable/7 "gone""#, r#"variable/house "gone""#]);
    }

    #[test]
    fn a_large_object_has_a_stand_in_and_is_not_told_again_after_a_restart() {
        let text = |c: &str| c.repeat(crate::systems::link::VALUE_BYTES_MAX);
        let plan = |value: &str| json!({"id": 7, "name": "plan", "value": value});
        let mut mirror = Mirror::new("indigo/house", Feed::Variable, &[]);
        let mut known = Vec::new();
        mirror.put(7, plan(&text("x")), &mut known);
        let lines = told;
        let Becomes::Is(told) = known[0].to.clone() else { panic!("{known:?}") };
        assert_eq!((&told["name"], &told["bytes_left_out"]), (&json!("plan"), &json!(262_177)));
        let same = Becomes::SameAs("indigo/house/variable/7".into());
        assert_eq!(
            known[1..],
            [KnownChange { path: "indigo/house/variable/plan".into(), to: same }]
        );
        // In memory it is exact, and a change of it changes the stand-in.
        assert_eq!(mirror.whole(7), Some(&plan(&text("x"))));
        known.clear();
        mirror.put(7, plan(&text("y")), &mut known);
        assert!(matches!(&known[..], [KnownChange { to: Becomes::Is(now), .. }] if *now != told));
        // The next run knows it by its stand-in.
        let mut again =
            Mirror::new("indigo/house", Feed::Variable, &[(known[0].path.clone(), told)]);
        assert_eq!((again.named("plan"), again.whole(7)), (Some(7), None));
        known.clear();
        let was = again.put(7, plan(&text("x")), &mut known);
        assert_eq!((was, known.len()), (Some(plan(&text("x"))), 0), "nothing is new");
        assert!(again.whole(7).is_some());
        // It shrinks, and is there whole with its value by name.
        again.put(7, plan("z"), &mut known);
        let whole = r#"variable/7 {"is":{"id":7,"name":"plan","value":"z"}}"#;
        assert_eq!(lines(&known), [whole, r#"variable/plan {"is":"z"}"#]);
    }

    #[test]
    fn swapped_names_end_where_they_belong() {
        let mut mirror = Mirror::new("indigo/house", Feed::Device, &[]);
        let mut known = Vec::new();
        for (id, name) in [(1, "a"), (2, "b"), (1, "b"), (2, "a"), (3, "9")] {
            mirror.put(id, json!({"id": id, "name": name}), &mut known);
        }
        assert_eq!((mirror.named("a"), mirror.named("b")), (Some(2), Some(1)));
        let last = |path: &str| known.iter().rfind(|change| change.path == path).map(|c| &c.to);
        let same = |id| Some(Becomes::SameAs(format!("indigo/house/device/{id}")));
        assert_eq!(last("indigo/house/device/a").cloned(), same(2));
        assert_eq!(last("indigo/house/device/b").cloned(), same(1));
        assert_eq!(last("indigo/house/device/9"), None);
    }

    #[test]
    fn it_starts_from_what_was_known() {
        let known = [
            ("indigo/house/device/1".to_string(), json!({"id": 1, "name": "a"})),
            ("indigo/house/device/a".to_string(), json!({"id": 1, "name": "a"})),
            ("indigo/house/variable/2".to_string(), json!({"id": 2, "name": "b"})),
        ];
        let mirror = Mirror::new("indigo/house", Feed::Device, &known);
        assert_eq!(mirror.objects().keys().collect::<Vec<_>>(), [&1]);
        assert_eq!(mirror.named("a"), Some(1));
    }
}
