//! Patches as Python's `dictdiffer` makes them, applied exactly. A patch is applied to a copy, and
//! only a whole success counts: the caller fetches the object anew after anything else. Pure.
//!
//! Stricter than `dictdiffer.patch` where that would hide that the copy has drifted: a list grows
//! and shrinks at its end only, and a change needs something to change.

use serde_json::{Map, Value};

/// The most entries of one patch. A large device has some hundred fields; a patch that touches
/// more than this is cheaper to fetch whole.
const OPS_MAX: usize = 10_000;
/// The deepest that a path leads, and the deepest object that a patch may build. Real objects are
/// four deep; the JSON parser stops at 128, and what patches build must not grow beyond that.
pub const DEPTH_MAX: usize = 100;

/// One part of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// A key; in a list a number as text.
    Name(String),
    /// A place in a list; in an object a key of digits.
    Index(usize),
}

/// One entry of a patch.
#[derive(Debug, Clone, PartialEq)]
pub struct Op {
    /// The container for additions and removals, the leaf for a change.
    pub path: Vec<Part>,
    /// What happens there.
    pub what: What,
}

/// What an entry does.
#[derive(Debug, Clone, PartialEq)]
pub enum What {
    /// Puts these into the container.
    Add(Vec<(Part, Value)>),
    /// Takes these out of the container; with the values they had.
    Remove(Vec<(Part, Value)>),
    /// Replaces the leaf.
    Change {
        /// What it was.
        old: Value,
        /// What it is.
        new: Value,
    },
}

/// What turns one object into another.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Patch(pub Vec<Op>);

/// An object after a patch.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    /// The new object.
    pub object: Value,
    /// Whether the patch expected something else than was there: one before it was missed.
    pub surprised: bool,
}

/// Why a patch does not apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// Not the form that dictdiffer writes.
    #[error("it is not a list of [operation, path, change]")]
    Form,
    /// More than a patch may hold.
    #[error("it is too long or too deep")]
    TooMuch,
    /// The path leads nowhere.
    #[error("its path leads nowhere in the object")]
    Nowhere,
    /// What is to be changed or removed is not there.
    #[error("what it changes or removes is not there")]
    Missing,
    /// A list is not as long as the patch expects.
    #[error("a list has another length than it expects")]
    Length,
    /// The root has a key `""`, which dictdiffer writes like the root itself.
    #[error("its path may mean the root or the key \"\"")]
    Ambiguous,
    /// It would make something else of the object.
    #[error("it would leave no object with its id")]
    NoObject,
}

// === impl Patch ===

impl Patch {
    /// Reads dictdiffer's form.
    pub fn read(json: &Value) -> Result<Patch, Misfit> {
        let entries = json.as_array().ok_or(Misfit::Form)?;
        if entries.len() > OPS_MAX {
            return Err(Misfit::TooMuch);
        }
        entries.iter().map(op).collect::<Result<_, _>>().map(Patch)
    }

    /// The object after this patch.
    pub fn apply(&self, object: &Value) -> Result<Applied, Misfit> {
        let mut applied = Applied { object: object.clone(), surprised: false };
        for op in &self.0 {
            op.apply(&mut applied)?;
        }
        if applied.object.is_object() { Ok(applied) } else { Err(Misfit::NoObject) }
    }

    /// Whether the object already is what this patch makes, as far as the patch says.
    pub fn is_contained(&self, object: &Value) -> bool {
        self.0.iter().all(|op| op.is_contained(object))
    }
}

fn op(entry: &Value) -> Result<Op, Misfit> {
    let [op, node, change] = entry.as_array().ok_or(Misfit::Form)?.as_slice() else {
        return Err(Misfit::Form);
    };
    let path = path(node)?;
    let what = match op.as_str() {
        Some("add") => What::Add(pairs(change, path.len())?),
        Some("remove") => What::Remove(pairs(change, path.len())?),
        Some("change") => {
            let [old, new] = change.as_array().ok_or(Misfit::Form)?.as_slice() else {
                return Err(Misfit::Form);
            };
            check_depth(new, path.len())?;
            What::Change { old: old.clone(), new: new.clone() }
        }
        _ => return Err(Misfit::Form),
    };
    Ok(Op { path, what })
}

fn path(node: &Value) -> Result<Vec<Part>, Misfit> {
    let parts: Vec<Part> = match node {
        Value::Null => Vec::new(),
        Value::String(text) if text.is_empty() => Vec::new(),
        Value::String(text) => text.split('.').map(|part| Part::Name(part.into())).collect(),
        Value::Array(parts) => parts.iter().map(part).collect::<Result<_, _>>()?,
        _ => return Err(Misfit::Form),
    };
    if parts.len() > DEPTH_MAX { Err(Misfit::TooMuch) } else { Ok(parts) }
}

fn part(json: &Value) -> Result<Part, Misfit> {
    match json {
        Value::String(name) => Ok(Part::Name(name.clone())),
        Value::Number(number) => {
            let index = number.as_u64().and_then(|n| usize::try_from(n).ok());
            index.map(Part::Index).ok_or(Misfit::Form)
        }
        _ => Err(Misfit::Form),
    }
}

fn pairs(change: &Value, above: usize) -> Result<Vec<(Part, Value)>, Misfit> {
    let pair = |pair: &Value| {
        let [key, value] = pair.as_array().ok_or(Misfit::Form)?.as_slice() else {
            return Err(Misfit::Form);
        };
        check_depth(value, above + 1)?;
        Ok((part(key)?, value.clone()))
    };
    change.as_array().ok_or(Misfit::Form)?.iter().map(pair).collect()
}

fn check_depth(value: &Value, above: usize) -> Result<(), Misfit> {
    if above + depth(value) > DEPTH_MAX { Err(Misfit::TooMuch) } else { Ok(()) }
}

/// How deep a value is. The parser has limited it, so recursion is safe.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

// === impl Op ===

impl Op {
    fn apply(&self, to: &mut Applied) -> Result<(), Misfit> {
        match &self.what {
            What::Add(pairs) => {
                check_root(&self.path, &to.object)?;
                let container = find_mut(&mut to.object, &self.path).ok_or(Misfit::Nowhere)?;
                pairs.iter().try_for_each(|(key, value)| add(container, key, value))
            }
            What::Remove(pairs) => {
                check_root(&self.path, &to.object)?;
                let container = find_mut(&mut to.object, &self.path).ok_or(Misfit::Nowhere)?;
                for (key, old) in pairs {
                    to.surprised |= !same(&remove(container, key)?, old);
                }
                Ok(())
            }
            What::Change { old, new } => {
                let leaf = self.leaf(&mut to.object, new)?;
                to.surprised |= !same(leaf, old);
                *leaf = new.clone();
                Ok(())
            }
        }
    }

    /// What a change replaces. The root, unless it has a key `""`, which is written the same.
    fn leaf<'a>(&self, root: &'a mut Value, new: &Value) -> Result<&'a mut Value, Misfit> {
        if !self.path.is_empty() {
            return find_mut(root, &self.path).ok_or(Misfit::Missing);
        }
        if root.get("").is_some() {
            return root.get_mut("").ok_or(Misfit::Missing);
        }
        if new.is_object() { Ok(root) } else { Err(Misfit::NoObject) }
    }

    fn is_contained(&self, object: &Value) -> bool {
        let Some(here) = find(object, &self.path) else { return false };
        match &self.what {
            What::Change { new, .. } => same(here, new),
            What::Add(pairs) => match here {
                Value::Array(items) => {
                    let end = pairs.last().and_then(|(key, _)| index(key)).map_or(0, |at| at + 1);
                    let is_there = |(key, value): &(Part, Value)| {
                        index(key).and_then(|at| items.get(at)).is_some_and(|v| same(v, value))
                    };
                    items.len() == end && pairs.iter().all(is_there)
                }
                Value::Object(fields) => pairs
                    .iter()
                    .all(|(key, value)| fields.get(&name(key)).is_some_and(|v| same(v, value))),
                _ => false,
            },
            What::Remove(pairs) => match here {
                Value::Array(items) => {
                    pairs.last().and_then(|(key, _)| index(key)) == Some(items.len())
                }
                Value::Object(fields) => {
                    pairs.iter().all(|(key, _)| !fields.contains_key(&name(key)))
                }
                _ => false,
            },
        }
    }
}

fn check_root(path: &[Part], root: &Value) -> Result<(), Misfit> {
    let holder = root.get("").is_some_and(|value| value.is_object() || value.is_array());
    if path.is_empty() && holder { Err(Misfit::Ambiguous) } else { Ok(()) }
}

fn find_mut<'a>(root: &'a mut Value, path: &[Part]) -> Option<&'a mut Value> {
    path.iter().try_fold(root, |here, part| match here {
        Value::Array(items) => items.get_mut(index(part)?),
        Value::Object(fields) => fields.get_mut(&name(part)),
        _ => None,
    })
}

fn find<'a>(root: &'a Value, path: &[Part]) -> Option<&'a Value> {
    path.iter().try_fold(root, |here, part| match here {
        Value::Array(items) => items.get(index(part)?),
        Value::Object(fields) => fields.get(&name(part)),
        _ => None,
    })
}

fn add(container: &mut Value, key: &Part, value: &Value) -> Result<(), Misfit> {
    match container {
        Value::Array(items) if index(key) == Some(items.len()) => items.push(value.clone()),
        Value::Array(_) => return Err(Misfit::Length),
        Value::Object(fields) => drop(fields.insert(name(key), value.clone())),
        _ => return Err(Misfit::Nowhere),
    }
    Ok(())
}

fn remove(container: &mut Value, key: &Part) -> Result<Value, Misfit> {
    match container {
        Value::Array(items) => {
            let is_last = index(key).is_some_and(|at| at + 1 == items.len());
            items.pop().filter(|_| is_last).ok_or(Misfit::Length)
        }
        Value::Object(fields) => fields.remove(&name(key)).ok_or(Misfit::Missing),
        _ => Err(Misfit::Nowhere),
    }
}

fn index(part: &Part) -> Option<usize> {
    match part {
        Part::Name(text) => text.parse().ok(),
        Part::Index(index) => Some(*index),
    }
}

fn name(part: &Part) -> String {
    match part {
        Part::Name(text) => text.clone(),
        Part::Index(index) => index.to_string(),
    }
}

/// Whether dictdiffer sees no difference: to Python `1`, `1.0` and `True` are equal, and floats
/// that differ by rounding only are too.
pub fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Value::Object(a), Value::Object(b)) => same_fields(a, b),
        (Value::Number(a), Value::Number(b)) if a == b => true,
        (Value::Bool(_) | Value::Number(_), Value::Bool(_) | Value::Number(_)) => {
            match (number(a), number(b)) {
                (Some(a), Some(b)) => (a - b).abs() <= f64::EPSILON * a.abs().max(b.abs()),
                _ => false,
            }
        }
        _ => a == b,
    }
}

fn same_fields(a: &Map<String, Value>, b: &Map<String, Value>) -> bool {
    a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Bool(flag) => Some(f64::from(u8::from(*flag))),
        Value::Number(number) => number.as_f64(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(object: Value, patch: Value, expect: Result<Value, Misfit>) {
        let applied = Patch::read(&patch).and_then(|patch| patch.apply(&object));
        assert_eq!(applied.map(|applied| applied.object), expect, "{patch} on {object}");
    }

    #[test]
    fn dotted_and_list_paths_lead_to_the_same_kind_of_place() {
        check(
            json!({"a": {"b": 1}}),
            json!([["change", "a.b", [1, 2]]]),
            Ok(json!({"a": {"b": 2}})),
        );
        check(
            json!({"states": {"sensorValue.ui": "57 lux"}}),
            json!([["change", ["states", "sensorValue.ui"], ["57 lux", "58 lux"]]]),
            Ok(json!({"states": {"sensorValue.ui": "58 lux"}})),
        );
        check(
            json!({"g": {"com.x": {"k": [1]}}}),
            json!([
                ["change", ["g", "com.x", "k", 0], [1, 2]],
                ["add", ["g", "com.x"], [["a.b", 3]]]
            ]),
            Ok(json!({"g": {"com.x": {"k": [2], "a.b": 3}}})),
        );
        check(json!({"l": [[1]]}), json!([["change", "l.0.0", [1, 5]]]), Ok(json!({"l": [[5]]})));
        check(
            json!({"o": {"1": 2}}),
            json!([["change", ["o", 1], [2, 3]]]),
            Ok(json!({"o": {"1": 3}})),
        );
    }

    #[test]
    fn lists_grow_and_shrink_at_their_end() {
        let grow = json!([["add", "l", [[1, "b"], [2, "c"]]]]);
        check(json!({"l": ["a"]}), grow.clone(), Ok(json!({"l": ["a", "b", "c"]})));
        check(json!({"l": ["a", "b", "c"]}), grow, Err(Misfit::Length));
        let shrink = json!([["remove", "l", [[2, "c"], [1, "b"]]]]);
        check(json!({"l": ["a", "b", "c"]}), shrink.clone(), Ok(json!({"l": ["a"]})));
        check(json!({"l": ["a", "b"]}), shrink, Err(Misfit::Length));
    }

    #[test]
    fn the_root_is_a_container_or_is_replaced() {
        check(json!({"a": 1}), json!([["add", "", [["b", 2]]]]), Ok(json!({"a": 1, "b": 2})));
        check(json!({"a": 1}), json!([["remove", [], [["a", 1]]]]), Ok(json!({})));
        check(json!({"a": 1}), json!([["change", "", [{}, {"c": 1}]]]), Ok(json!({"c": 1})));
        check(json!({"a": 1}), json!([["change", "", [{}, 7]]]), Err(Misfit::NoObject));
        check(json!({"": 1}), json!([["change", "", [1, 7]]]), Ok(json!({"": 7})));
        check(json!({"": {}}), json!([["add", "", [["b", 2]]]]), Err(Misfit::Ambiguous));
    }

    #[test]
    fn what_does_not_fit_says_so() {
        check(json!({}), json!([["remove", "", [["a", 1]]]]), Err(Misfit::Missing));
        check(json!({}), json!([["change", "a.b", [1, 2]]]), Err(Misfit::Missing));
        check(json!({"a": 1}), json!([["add", "a", [["b", 2]]]]), Err(Misfit::Nowhere));
        for odd in [json!({}), json!([1]), json!([["add", "a"]]), json!([["mul", "a", []]])] {
            check(json!({}), odd, Err(Misfit::Form));
        }
        check(json!({}), json!([["add", [true], []]]), Err(Misfit::Form));
        check(json!({}), json!([["add", [-1], []]]), Err(Misfit::Form));
    }

    #[test]
    fn hostile_nesting_is_refused() {
        let deep = (0..120).fold(json!(1), |inner, _| json!([inner]));
        check(json!({}), json!([["add", "", [["a", deep]]]]), Err(Misfit::TooMuch));
        let long = Value::from(vec!["a"; DEPTH_MAX + 1]);
        check(json!({}), json!([["change", long, [1, 2]]]), Err(Misfit::TooMuch));
    }

    #[test]
    fn a_missed_patch_is_noticed() {
        let patch = Patch::read(&json!([["change", "a", [1, 2]]])).unwrap();
        assert!(!patch.apply(&json!({"a": true})).unwrap().surprised);
        assert!(patch.apply(&json!({"a": 0})).unwrap().surprised);
        assert!(patch.is_contained(&json!({"a": 2.0})));
        assert!(!patch.is_contained(&json!({"a": 1})));
    }
}
