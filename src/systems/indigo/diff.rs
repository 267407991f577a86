//! How two objects differ, in dictdiffer's order and form: what events tell, and what the
//! simulator sends. Pure.

use serde_json::{Map, Value, json};

use super::patch::{Op, Part, Patch, What};

/// What turns `old` into `new`; values for which `is_same` holds are left alone.
pub fn diff(old: &Value, new: &Value, is_same: fn(&Value, &Value) -> bool) -> Patch {
    let mut found = Found { ops: Vec::new(), path: Vec::new(), is_same };
    found.values(old, new);
    Patch(found.ops)
}

struct Found {
    ops: Vec<Op>,
    path: Vec<Part>,
    is_same: fn(&Value, &Value) -> bool,
}

impl Found {
    /// Goes as deep as the objects, which the parser has limited.
    fn values(&mut self, old: &Value, new: &Value) {
        match (old, new) {
            (Value::Object(old), Value::Object(new)) => self.objects(old, new),
            (Value::Array(old), Value::Array(new)) => self.lists(old, new),
            _ if (self.is_same)(old, new) => {}
            _ => self.push(What::Change { old: old.clone(), new: new.clone() }),
        }
    }

    fn objects(&mut self, old: &Map<String, Value>, new: &Map<String, Value>) {
        for (key, before) in old {
            if let Some(after) = new.get(key) {
                self.below(Part::Name(key.clone()), before, after);
            }
        }
        let only = |from: &Map<String, Value>, other: &Map<String, Value>| {
            let only = from.iter().filter(|(key, _)| !other.contains_key(*key));
            only.map(|(key, value)| (Part::Name(key.clone()), value.clone())).collect()
        };
        self.push(What::Add(only(new, old)));
        self.push(What::Remove(only(old, new)));
    }

    fn lists(&mut self, old: &[Value], new: &[Value]) {
        for (at, (before, after)) in old.iter().zip(new).enumerate() {
            self.below(Part::Index(at), before, after);
        }
        let indexed = |list: &[Value], from: usize| -> Vec<(Part, Value)> {
            let tail = list.iter().enumerate().skip(from);
            tail.map(|(at, value)| (Part::Index(at), value.clone())).collect()
        };
        self.push(What::Add(indexed(new, old.len())));
        let mut gone = indexed(old, new.len());
        gone.reverse();
        self.push(What::Remove(gone));
    }

    fn below(&mut self, part: Part, old: &Value, new: &Value) {
        self.path.push(part);
        self.values(old, new);
        self.path.pop();
    }

    fn push(&mut self, what: What) {
        let is_empty = match &what {
            What::Add(pairs) | What::Remove(pairs) => pairs.is_empty(),
            What::Change { .. } => false,
        };
        if !is_empty {
            self.ops.push(Op { path: self.path.clone(), what });
        }
    }
}

/// One value that changed.
#[derive(Debug, Clone, PartialEq)]
pub struct Changed {
    /// Where.
    pub path: Vec<String>,
    /// What it was; `null` if it was not there.
    pub old: Value,
    /// What it is; `null` if it is no more.
    pub new: Value,
}

/// Every value that changed, one by one.
pub fn changed(old: &Value, new: &Value) -> Vec<Changed> {
    let mut all = Vec::new();
    for Op { path, what } in diff(old, new, PartialEq::eq).0 {
        let path: Vec<String> = path.into_iter().map(text).collect();
        let below = |key: Part| path.iter().cloned().chain([text(key)]).collect();
        match what {
            What::Change { old, new } => all.push(Changed { path, old, new }),
            What::Add(pairs) => all.extend(pairs.into_iter().map(|(key, new)| Changed {
                path: below(key),
                old: Value::Null,
                new,
            })),
            What::Remove(pairs) => all.extend(pairs.into_iter().map(|(key, old)| Changed {
                path: below(key),
                old,
                new: Value::Null,
            })),
        }
    }
    all
}

fn text(part: Part) -> String {
    match part {
        Part::Name(name) => name,
        Part::Index(index) => index.to_string(),
    }
}

/// A patch as dictdiffer writes it.
pub fn to_json(patch: &Patch) -> Value {
    patch.0.iter().map(op).collect()
}

fn op(op: &Op) -> Value {
    let node = node(&op.path);
    let pairs = |pairs: &[(Part, Value)]| -> Value {
        pairs.iter().map(|(key, value)| json!([part(key), value])).collect()
    };
    match &op.what {
        What::Add(added) => json!(["add", node, pairs(added)]),
        What::Remove(removed) => json!(["remove", node, pairs(removed)]),
        What::Change { old, new } => json!(["change", node, [old, new]]),
    }
}

/// A text where every part is one without a dot, else a list.
fn node(path: &[Part]) -> Value {
    let plain = |part: &Part| match part {
        Part::Name(name) if !name.contains('.') => Some(name.clone()),
        _ => None,
    };
    match path.iter().map(plain).collect::<Option<Vec<String>>>() {
        Some(names) => names.join(".").into(),
        None => path.iter().map(part).collect(),
    }
}

fn part(part: &Part) -> Value {
    match part {
        Part::Name(name) => name.as_str().into(),
        Part::Index(index) => (*index).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::patch::same;
    use super::*;

    #[test]
    fn differences_are_written_as_dictdiffer_writes_them() {
        let old = json!({"a": {"x.y": 1, "z": [1, 2, 3]}, "gone": 0, "b": 1, "t": [1]});
        let new = json!({"a": {"x.y": 2, "z": [1, 5]}, "new": 0, "b": true, "t": {"k": 1}});
        let patch = diff(&old, &new, same);
        let expect = json!([
            ["change", ["a", "x.y"], [1, 2]],
            ["change", ["a", "z", 1], [2, 5]],
            ["remove", "a.z", [[2, 3]]],
            ["change", "t", [[1], {"k": 1}]],
            ["add", "", [["new", 0]]],
            ["remove", "", [["gone", 0]]]
        ]);
        assert_eq!(to_json(&patch), expect);
        assert!(same(&patch.apply(&old).unwrap().object, &new));
        assert_eq!(Patch::read(&expect).unwrap(), patch);
    }

    #[test]
    fn every_changed_value_has_its_path() {
        let old = json!({"s": {"v.ui": "1"}, "l": [1]});
        let new = json!({"s": {"v.ui": "2", "n": 3}, "l": []});
        let paths: Vec<_> = changed(&old, &new).into_iter().map(|c| c.path.join(".")).collect();
        assert_eq!(paths, ["l.0", "s.v.ui", "s.n"]);
    }
}
