//! A body's fields in a plain list: names are mostly borrowed and bodies short, so a list is
//! faster than a map until the event's own map is made from it, once.

use std::borrow::Cow;

use serde_json::{Map, Value};

/// The most fields a body may have. Known bodies have up to twenty; every look-up walks the list,
/// so this also bounds what a hostile body can cost.
pub const FIELDS_MAX: usize = 128;

/// Fields by their normalised names, each name once.
#[derive(Debug, Clone, Default)]
pub struct Fields<'a>(Vec<(Cow<'a, str>, Value)>);

impl<'a> Fields<'a> {
    /// No fields yet, and room for those of a common body and what is added to them.
    pub fn new() -> Fields<'a> {
        Fields(Vec::with_capacity(24))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A field's value.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    /// A field's text, if it is one.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(Value::as_str)
    }

    /// Sets a field, new or known.
    pub fn put(&mut self, name: impl Into<Cow<'a, str>>, value: impl Into<Value>) {
        let (name, value) = (name.into(), value.into());
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name, value)),
        }
    }

    /// Sets a field that is not there yet, if there is a value for it.
    pub fn put_new(&mut self, name: impl Into<Cow<'a, str>>, value: Option<Value>) {
        let name = name.into();
        if let Some(value) = value.filter(|value| !value.is_null() && self.get(&name).is_none()) {
            self.0.push((name, value));
        }
    }

    /// Takes a field out.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        let at = self.0.iter().position(|(known, _)| known == name)?;
        Some(self.0.swap_remove(at).1)
    }

    /// Keeps the fields that `keep` says to keep; it may change their values.
    pub fn retain(&mut self, mut keep: impl FnMut(&str, &mut Value) -> bool) {
        self.0.retain_mut(|(name, value)| keep(name, value));
    }

    /// Sets all fields of `others`.
    pub fn put_all(&mut self, others: impl IntoIterator<Item = (String, Value)>) {
        others.into_iter().for_each(|(name, value)| self.put(name, value));
    }

    /// All fields in the order of their names.
    pub fn sorted(&self) -> Vec<(&str, &Value)> {
        let mut all: Vec<_> = self.0.iter().map(|(name, value)| (&**name, value)).collect();
        all.sort_unstable_by_key(|(name, _)| *name);
        all
    }

    /// The same, with all names its own.
    pub fn into_owned(self) -> Fields<'static> {
        let owned = self.0.into_iter().map(|(name, value)| (name.into_owned().into(), value));
        Fields(owned.collect())
    }

    /// The event's own map.
    pub fn into_map(self) -> Map<String, Value> {
        self.0.into_iter().map(|(name, value)| (name.into_owned(), value)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stands_once() {
        let mut fields = Fields::new();
        fields.put("b", 1);
        fields.put("a", 2);
        fields.put(String::from("b"), 3);
        fields.put_new("b", Some(4.into()));
        fields.put_new("c", None);
        fields.put_new("d", Some(Value::Null));
        assert_eq!((fields.len(), fields.sorted()[0].0), (2, "a"));
        assert_eq!(fields.take("a"), Some(2.into()));
        assert_eq!(fields.get("a"), None);
        assert_eq!(Value::Object(fields.into_map()).to_string(), r#"{"b":3}"#);
    }
}
