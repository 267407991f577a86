//! How far news can be vouched for at best, by their source and type: what rules are held against
//! before anything was heard. Pure.

use super::House;
use super::types;
use crate::event::Trust;

/// How far live events of a type from a source can be vouched for at best.
pub(super) fn best(house: &House, source: &str, kind: &str) -> Trust {
    if kind.ends_with(".certificate_changed") || kind.starts_with("hook.") {
        return Trust::Unverified;
    }
    if source == "portero" {
        return own(house, kind);
    }
    let system = source.split('/').next().unwrap_or(source);
    let promised = match system {
        // Whoever cuts the connection can cause them.
        "netatmo" if types::NETATMO_OWN.contains(&kind) => return Trust::Unverified,
        // A signature that covers no time.
        "netatmo" if !types::NETATMO_API.contains(&kind) => Trust::Authentic,
        "netatmo" => return Trust::Fresh,
        _ => Trust::Fresh,
    };
    house.trust.get(source).map_or(promised, |given| promised.min(*given))
}

/// An event of our own: a person and the clock are vouched for, what a door did is as far as what
/// led to it, and the rest can be caused by anybody.
fn own(house: &House, kind: &str) -> Trust {
    match kind {
        "portero.door.pressed" | "portero.ack" | "portero.command" => Trust::Human,
        "portero.schedule" | "portero.door.opened_elsewhere" => Trust::Fresh,
        "portero.door.denied" | "portero.door.refused" => Trust::Unverified,
        _ if kind.starts_with("portero.door.") => {
            let doors = house.doors.all.values().map(|door| door.requires);
            doors.min().unwrap_or(Trust::Fresh).min(Trust::Fresh)
        }
        _ => Trust::Unverified,
    }
}

/// How far a system's own state can be vouched for: it is asked over our own connection.
pub(super) fn state_trust(house: &House, source: &str) -> Trust {
    if source.starts_with("netatmo/") {
        return Trust::Fresh;
    }
    house.trust.get(source).map_or(Trust::Fresh, |given| Trust::Fresh.min(*given))
}
