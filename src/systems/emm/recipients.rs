//! Whom messages can be sent to: names made into the numbers that the EMM wants. Pure.

use serde_json::Value;

use super::wire;
use crate::node::nearest;

/// One recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient {
    /// Its number.
    pub id: i64,
    /// What people call it.
    pub name: String,
}

/// Why names cannot be made into numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unclear {
    /// Nobody of this name is in the list; it may be an old list.
    Nobody(String),
    /// Several have it.
    Several(String),
}

impl Recipient {
    /// The recipients of one page, and how many there are in all if it says so.
    pub fn page(value: &Value) -> (Vec<Recipient>, Option<i64>) {
        let list = value.get("recipients").unwrap_or(value).as_array();
        let one = |entry: &Value| {
            let id = wire::int(entry.get("id")?)?;
            Some(Recipient { id, name: wire::text(entry.get("name")?)? })
        };
        let found = list.into_iter().flatten().filter_map(one).collect();
        (found, value.get("total").and_then(wire::int))
    }
}

/// Names and numbers as numbers, each once, in their order. A text of digits is a number.
pub fn resolve(wanted: &[String], known: &[Recipient]) -> Result<Vec<i64>, Unclear> {
    let mut ids = Vec::new();
    for name in wanted {
        let name = name.trim();
        let id = match name.parse() {
            Ok(id) => id,
            Err(_) => of_name(name, known)?,
        };
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    Ok(ids)
}

fn of_name(name: &str, known: &[Recipient]) -> Result<i64, Unclear> {
    let exact: Vec<&Recipient> = known.iter().filter(|r| r.name.trim() == name).collect();
    let found = if exact.is_empty() {
        let lower = name.to_lowercase();
        known.iter().filter(|r| r.name.trim().to_lowercase() == lower).collect()
    } else {
        exact
    };
    match found.as_slice() {
        [one] => Ok(one.id),
        [] => {
            let near = nearest(name, known.iter().map(|r| r.name.as_str()));
            let near = near.map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
            Err(Unclear::Nobody(format!("the EMM has no recipient `{name}`{near}")))
        }
        several => {
            let ids: Vec<String> = several.iter().map(|r| r.id.to_string()).collect();
            let ids = ids.join(", ");
            Err(Unclear::Several(format!(
                "the EMM has several recipients `{name}`: give one of the numbers {ids}"
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_become_numbers() {
        let (known, total) = Recipient::page(&json!({ "total": 4, "recipients": [
            { "id": 12, "name": "Night guard", "type": 1 }, { "id": "15", "name": "Nurses" },
            { "id": 16, "name": "Ana" }, { "id": 17, "name": "ana" }, { "name": "broken" },
        ] }));
        assert_eq!((known.len(), total), (4, Some(4)));
        let resolve = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
            super::resolve(&names, &known)
        };
        assert_eq!(resolve(&["night GUARD", "15", "Nurses", "99"]), Ok(vec![12, 15, 99]));
        assert_eq!(resolve(&["Ana"]), Ok(vec![16]));
        let several = "the EMM has several recipients `ANA`: give one of the numbers 16, 17";
        assert_eq!(resolve(&["ANA"]), Err(Unclear::Several(several.into())));
        let nobody = "the EMM has no recipient `Nurse`; did you mean `Nurses`?";
        assert_eq!(resolve(&["Nurse"]), Err(Unclear::Nobody(nobody.into())));
    }
}
