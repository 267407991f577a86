//! The vendor's times: four ways to write a moment in one document. UTC unless an offset is
//! printed. Pure.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde_json::Value;

/// Numbers above this are milliseconds: as seconds they would lie beyond the year 5000.
const SECONDS_MAX: i64 = 100_000_000_000;

/// The moment a field names; nothing if it is null, empty or not understood.
pub fn moment(value: &Value) -> Option<Timestamp> {
    match value {
        Value::String(text) => written(text.trim()),
        Value::Number(number) => counted(number.as_i64()?),
        _ => None,
    }
}

/// `2022-04-20T12:34:32.000000Z`, `2022-04-19 16:43:15`, either with an offset; `""` is nothing.
/// What travels in a push is a text, even if it counts seconds.
fn written(text: &str) -> Option<Timestamp> {
    if text.is_empty() {
        return None;
    }
    if let Ok(seconds) = text.parse() {
        return counted(seconds);
    }
    let with_offset = text.parse::<Timestamp>().ok();
    with_offset.or_else(|| {
        let local: DateTime = text.parse().ok()?;
        Some(local.to_zoned(TimeZone::UTC).ok()?.timestamp())
    })
}

fn counted(number: i64) -> Option<Timestamp> {
    if number > SECONDS_MAX {
        return Timestamp::from_millisecond(number).ok();
    }
    Timestamp::from_second(number).ok().filter(|_| number > 0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn all_the_ways_to_write_a_moment() {
        for (written, meant) in [
            (json!("2022-04-20T12:34:32.000000Z"), "2022-04-20T12:34:32Z"),
            (json!("2022-04-19 16:43:15"), "2022-04-19T16:43:15Z"),
            (json!("2022-04-19T16:43:15"), "2022-04-19T16:43:15Z"),
            (json!("2022-04-19 16:43:15+05:00"), "2022-04-19T11:43:15Z"),
            (json!("2022-04-19T16:43:15-0330"), "2022-04-19T20:13:15Z"),
            (json!(1_650_386_595), "2022-04-19T16:43:15Z"),
            (json!("1650386595"), "2022-04-19T16:43:15Z"),
            (json!(1_650_386_595_000_i64), "2022-04-19T16:43:15Z"),
        ] {
            assert_eq!(moment(&written), Some(meant.parse().unwrap()), "{written}");
        }
        for nothing in [json!(null), json!(""), json!("  "), json!("soon"), json!(0), json!([])] {
            assert_eq!(moment(&nothing), None, "{nothing}");
        }
    }
}
