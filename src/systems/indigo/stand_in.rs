//! What stands in the state for an object that is too large to be kept there: who it is, how large
//! it is, and a sum by which a later run sees whether it is still the same. Pure.

use std::io::{self, Write};

use serde_json::{Map, Value};

use super::news::IN_TOUCH;
use crate::secret::hex;
use crate::systems::link::VALUE_BYTES_MAX;

/// Fields of the object that are kept: what events and rules name it by.
const KEPT: [&str; 4] = ["id", "name", "class", "folderId"];
/// A kept field that is longer is left out too.
const KEPT_BYTES_MAX: usize = 1024;
/// How large it is.
const BYTES: &str = "bytes_left_out";
/// What it was, but for when it was last in touch.
const SUM: &str = "sha256";

/// What stands in for this object; nothing if it fits.
pub fn of(object: &Value) -> Option<Value> {
    if bytes(object) <= VALUE_BYTES_MAX {
        return None;
    }
    let mut rest = object.as_object().cloned().unwrap_or_default();
    let kept = KEPT.iter().filter_map(|name| Some((name.to_string(), rest.get(*name)?.clone())));
    let mut stand_in: Map<String, Value> =
        kept.filter(|(_, value)| bytes(value) <= KEPT_BYTES_MAX).collect();
    for name in IN_TOUCH {
        rest.remove(name);
    }
    // Keys are in order, so the same object has the same text.
    let text = Value::Object(rest).to_string();
    let sum = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    stand_in.insert(BYTES.into(), text.len().into());
    stand_in.insert(SUM.into(), hex(sum.as_ref()).into());
    Some(stand_in.into())
}

/// Whether this is all that is known of a large object.
pub fn is(value: &Value) -> bool {
    let Some(fields) = value.as_object() else { return false };
    let is_ours = |name: &String| KEPT.contains(&name.as_str()) || name == BYTES || name == SUM;
    fields.contains_key(BYTES) && fields.contains_key(SUM) && fields.keys().all(is_ours)
}

/// How long it is as JSON, without writing it down.
fn bytes(value: &Value) -> usize {
    struct Count(usize);
    impl Write for Count {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    match serde_json::to_writer(&mut count, value) {
        Ok(()) => count.0,
        // What cannot be written cannot be kept.
        Err(_) => usize::MAX,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_large_object_is_known_by_who_it_is_and_by_its_sum() {
        let large = |text: &str, touched: i64| {
            json!({ "id": 7, "name": "Plan", "class": "c", "folderId": 0, "notes": text,
                "lastChanged": touched, "lastSuccessfulComm": touched })
        };
        let text = "x".repeat(VALUE_BYTES_MAX);
        let first = of(&large(&text, 1)).unwrap();
        assert!(is(&first) && of(&first).is_none() && first.to_string().len() < 300, "{first}");
        assert_eq!(first["name"], "Plan");
        assert_eq!(Some(&first), of(&large(&text, 2)).as_ref(), "in touch is no news");
        assert_ne!(Some(first), of(&large(&text.replacen('x', "y", 1), 1)));
        assert_eq!(of(&large("", 1)), None);
        assert!(!is(&large("", 1)) && !is(&json!({ "id": 7, "sha256": "" })));
    }
}
