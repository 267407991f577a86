//! `[house]` and the quiet hours of `[people]`: where the house is, by which clock it lives, and
//! when its people are left alone.

use jiff::tz::TimeZone;

use crate::node::{Cursor, Table, Value};
use crate::rules::{Place, Quiet};

/// `[house]`.
pub(super) fn house(table: Option<Table<'_>>) -> (TimeZone, Option<Place>) {
    let Some(mut table) = table else { return (TimeZone::system(), None) };
    let found = table.optional("time_zone").and_then(zone);
    let latitude = table.optional("latitude");
    let longitude = table.optional("longitude");
    table.done();
    (found.unwrap_or_else(TimeZone::system), place(latitude, longitude))
}

/// A time zone by its name.
pub(super) fn zone(at: Cursor<'_>) -> Option<TimeZone> {
    let name = at.text()?;
    let zone = TimeZone::get(name).ok();
    if zone.is_none() {
        at.wrong_help(format!("`{name}` is no time zone"), "they look like Europe/Paris");
    }
    zone
}

fn place(latitude: Option<Cursor<'_>>, longitude: Option<Cursor<'_>>) -> Option<Place> {
    if let (Some(at), None) = (latitude, longitude) {
        at.wrong("`latitude` needs a `longitude` beside it");
    }
    if let (None, Some(at)) = (latitude, longitude) {
        at.wrong("`longitude` needs a `latitude` beside it");
    }
    let latitude = latitude.and_then(|at| degrees(at, "latitude", 90.0));
    let longitude = longitude.and_then(|at| degrees(at, "longitude", 180.0));
    Some(Place { latitude: latitude?, longitude: longitude? })
}

fn degrees(at: Cursor<'_>, name: &str, most: f64) -> Option<f64> {
    let given = match &at.node().value {
        Value::Float(degrees) => *degrees,
        #[allow(clippy::cast_precision_loss)] // Far below what a float can hold, or refused.
        Value::Int(degrees) => *degrees as f64,
        _ => return at.mismatch("degrees such as 48.86"),
    };
    if !(-most..=most).contains(&given) {
        at.wrong(format!("`{name}` is {given}; it is between -{most} and {most}"));
        return None;
    }
    Some(given)
}

/// `quiet = "22:00-07:00"`.
pub(super) fn quiet(at: Cursor<'_>) -> Option<Quiet> {
    let text = at.text()?;
    let quiet = Quiet::parse(text);
    if quiet.is_none() {
        let help = "write from when to when: quiet = \"22:00-07:00\"";
        at.wrong_help(format!("\"{text}\" are no quiet hours"), help);
    }
    quiet
}
