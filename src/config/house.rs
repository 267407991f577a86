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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Config;
    use crate::node::SourceFile;
    use crate::rules::House;

    fn read(text: &str) -> Result<House, String> {
        let parsed =
            Config::parse(SourceFile::new("portero.toml", text), Path::new("."), &|_| None);
        parsed.map(|(config, _)| config.house).map_err(|wrong| wrong.to_string())
    }

    #[test]
    fn a_place_and_quiet_hours() {
        let house = read(
            "[house]\ntime_zone = \"Europe/Paris\"\nlatitude = -33.87\nlongitude = 151\n\
             [people.ana]\nquiet = \"22:00-07:00\"\n[people.ben]\n",
        );
        let house = house.unwrap();
        let place = house.place.unwrap();
        assert_eq!((place.latitude, place.longitude), (-33.87, 151.0));
        let night = "2026-11-20T22:30:00Z".parse().unwrap();
        let until = house.quiet_until("ana", night).unwrap();
        assert_eq!(until.to_string(), "2026-11-21T06:00:00Z");
        assert_eq!(house.quiet_until("ben", night), None);
    }

    #[test]
    fn what_is_wrong_is_named() {
        insta::assert_snapshot!(read(
            "[house]\nlatitude = 91\nlongitude = \"east\"\n\
             [people.ana]\nquiet = \"at night\"\n[people.ben]\nquiet = \"22:00-22:00\"\n",
        ).unwrap_err(), @r#"
        portero.toml:2:12: `latitude` is 91; it is between -90 and 90
        portero.toml:3:13: `longitude` is a text, not degrees such as 48.86
        portero.toml:5:9: "at night" are no quiet hours (write from when to when: quiet = "22:00-07:00")
        portero.toml:7:9: "22:00-22:00" are no quiet hours (write from when to when: quiet = "22:00-07:00")
        "#);
        insta::assert_snapshot!(read("[house]\nlatitude = 48.86\n").unwrap_err(), @"portero.toml:2:12: `latitude` needs a `longitude` beside it");
    }
}
