//! Netatmo's vocabulary: its events and the types they become, the words behind `sub_type`
//! numbers, the spellings of its fields. Only tables; no reading of bodies.
//!
//! The tables are the union of the vendor's document and of what open clients have met on the
//! wire. `docs/events.md` shows them to people; `tests/netatmo.rs` holds the two together.

use std::borrow::Cow;

/// One of Netatmo's events and what Portero makes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// The vendor's name for it; empty for what Portero concludes itself.
    pub vendor: &'static str,
    /// Our event type.
    pub name: &'static str,
    /// What each `sub_type` number means.
    pub words: Words,
    /// How it is treated.
    pub role: Role,
}

/// `sub_type` numbers and their words.
pub type Words = &'static [(i64, &'static str)];

/// How a kind is treated beyond having its fields normalised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Nothing special.
    Plain,
    /// One event for each person.
    Persons,
    /// Somebody rings.
    Ring,
    /// Somebody answered.
    Answered,
    /// Nobody answered.
    Missed,
    /// WebRTC signalling that says neither of these: candidates, answers.
    Rtc,
    /// The ringing or the talk is over.
    Ended,
}

const fn named(vendor: &'static str, name: &'static str, role: Role, words: Words) -> Kind {
    Kind { vendor, name, words, role }
}

macro_rules! plain {
    ($vendor:literal $(, $number:literal $word:literal)*) => {
        named($vendor, concat!("netatmo.", $vendor), Role::Plain, &[$(($number, $word)),*])
    };
}

/// Somebody rings: an incoming call or an offer, whichever comes first.
pub const RING: Kind = named("incoming_call", "netatmo.ring", Role::Ring, &[]);
/// A call is over.
pub const CALL_ENDED: Kind = named("", "netatmo.call_ended", Role::Ended, &[]);
/// Any other WebRTC frame.
pub const RTC: Kind = named("rtc", "netatmo.rtc", Role::Rtc, &[]);
/// An event that no table knows.
pub const UNKNOWN: Kind = named("", "netatmo.unknown", Role::Plain, &[]);
/// A body that is no JSON object.
pub const UNPARSABLE: Kind = named("", "netatmo.unparsable", Role::Plain, &[]);

/// Every kind, in the order of `docs/events.md`.
pub const KINDS: [Kind; 58] = [
    // Doors and calls.
    RING,
    named("accepted_call", "netatmo.accepted_call", Role::Answered, &[]),
    named("missed_call", "netatmo.missed_call", Role::Missed, &[]),
    CALL_ENDED,
    RTC,
    // What cameras see.
    named("person", "netatmo.person", Role::Persons, &[]),
    named("person_away", "netatmo.person_away", Role::Persons, &[]),
    named("person_home", "netatmo.person_home", Role::Persons, &[]),
    plain!("movement"),
    plain!("human"),
    plain!("animal"),
    plain!("vehicle"),
    plain!("outdoor"),
    plain!("cluster"),
    plain!("daily_summary"),
    plain!("end_recording"),
    // Alarms.
    plain!("smoke", 0 "cleared", 1 "detected"),
    plain!("co_detected", 0 "ok", 1 "pre_alarm", 2 "alarm"),
    plain!("siren_sounding", 0 "stopped", 1 "sounding"),
    plain!("siren_tampered", 0 "ready", 1 "tampered"),
    plain!("tampered", 0 "ready", 1 "tampered"),
    plain!("alarm_started"),
    plain!("alert"),
    // Doors and windows.
    plain!("tag_big_move"),
    plain!("tag_small_move"),
    plain!("tag_uninstalled"),
    plain!("tag_open"),
    // Detectors' health. A hushed detector is muted; 0 is not "off" but "listening again".
    plain!("hush", 0 "active", 1 "muted"),
    plain!("detection_chamber_status", 0 "clean", 1 "dusty"),
    plain!("sound_test", 0 "ok", 1 "failed"),
    plain!("wifi_status", 0 "error", 1 "ok"),
    // 0 is already a warning: there is no number for a good battery.
    plain!("battery_status", 0 "low", 1 "very_low"),
    // Cameras' health.
    plain!("connection"),
    plain!("disconnection"),
    plain!("on"),
    plain!("off"),
    plain!("boot"),
    plain!(
        "sd", 1 "missing", 2 "inserted", 3 "formatted", 4 "working", 5 "defective",
        6 "incompatible_speed", 7 "no_space"
    ),
    plain!("alim", 1 "wrong_adapter", 2 "right_adapter"),
    plain!("light_mode"),
    plain!("ftp", 0 "ok", 3 "error"),
    // Modules and the home.
    plain!("new_module"),
    plain!("module_connect"),
    plain!("module_disconnect"),
    plain!("module_low_battery"),
    plain!("module_end_update"),
    plain!("new_device"),
    plain!("new_user"),
    plain!("topology_changed"),
    plain!("device_event"),
    plain!("home_event_changed"),
    plain!("display_change"),
    plain!("set_point"),
    plain!("cancel_set_point"),
    plain!("schedule"),
    // The webhook itself.
    plain!("webhook_activation"),
    UNKNOWN,
    UNPARSABLE,
];

/// The names of [`KINDS`].
pub const TYPES: [&str; KINDS.len()] = {
    let mut names = [""; KINDS.len()];
    let mut i = 0;
    while i < KINDS.len() {
        names[i] = KINDS[i].name;
        i += 1;
    }
    names
};

/// The kind that the vendor calls `event`.
pub fn kind(event: &str) -> Option<Kind> {
    let event = match event {
        // Two names on the wire for one thing.
        "setpoint_event" => "set_point",
        "therm_mode" => "home_event_changed",
        "" => return None,
        other => other,
    };
    KINDS.iter().find(|kind| kind.vendor == event).copied()
}

/// Longest known field name with its underscores dropped; a longer one is not known.
const FOLDED_BYTES_MAX: usize = 24;

/// The name a field goes by here. Bodies have been seen as `user_id`, `userid` and, in
/// documents, `userId`; fields that nobody knows are written with underscores.
pub fn field(spelt: Cow<'_, str>) -> Cow<'_, str> {
    if is_snake(&spelt) && spelt.contains('_') {
        return spelt; // Nearly every field of nearly every body.
    }
    let mut folded = [0; FOLDED_BYTES_MAX];
    let mut len = 0;
    for byte in spelt.bytes().filter(|byte| !matches!(byte, b'_' | b'-')) {
        if len == FOLDED_BYTES_MAX {
            return snake(spelt);
        }
        folded[len] = byte.to_ascii_lowercase();
        len += 1;
    }
    known_field(&folded[..len]).map_or_else(|| snake(spelt), Cow::Borrowed)
}

/// Fields of more than one word, by their letters alone.
fn known_field(folded: &[u8]) -> Option<&'static str> {
    Some(match folded {
        b"userid" => "user_id",
        b"eventtype" => "event_type",
        b"pushtype" => "push_type",
        b"eventid" => "event_id",
        b"subeventid" => "subevent_id",
        b"sessionid" => "session_id",
        b"subtype" => "sub_type",
        b"homeid" => "home_id",
        b"homename" => "home_name",
        b"deviceid" => "device_id",
        b"devicename" => "device_name",
        b"cameraid" => "camera_id",
        b"cameraname" => "camera_name",
        b"moduleid" => "module_id",
        b"modulename" => "module_name",
        b"roomid" => "room_id",
        b"roomname" => "room_name",
        b"personid" => "person_id",
        b"isknown" => "is_known",
        b"faceid" => "face_id",
        b"facekey" => "face_key",
        b"faceurl" => "face_url",
        b"snapshotid" => "snapshot_id",
        b"snapshotkey" => "snapshot_key",
        b"snapshoturl" => "snapshot_url",
        b"vignetteid" => "vignette_id",
        b"vignettekey" => "vignette_key",
        b"vignetteurl" => "vignette_url",
        b"videoid" => "video_id",
        b"videostatus" => "video_status",
        b"scheduleid" => "schedule_id",
        b"previousmode" => "previous_mode",
        b"extraparams" => "extra_params",
        b"sessiondescription" => "session_description",
        _ => return None,
    })
}

fn is_snake(name: &str) -> bool {
    name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'))
}

/// `camelCase` and `Odd-Words` as `camel_case` and `odd_words`.
fn snake(spelt: Cow<'_, str>) -> Cow<'_, str> {
    if is_snake(&spelt) {
        return spelt;
    }
    let mut name = String::with_capacity(spelt.len() + 4);
    for letter in spelt.chars() {
        if letter.is_ascii_uppercase() && name.ends_with(|last: char| last.is_ascii_lowercase()) {
            name.push('_');
        }
        name.push(if letter.is_alphanumeric() { letter.to_ascii_lowercase() } else { '_' });
    }
    Cow::Owned(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_kind_is_listed_twice() {
        for (i, kind) in KINDS.iter().enumerate() {
            for other in &KINDS[..i] {
                assert_ne!(kind.name, other.name);
                assert!(kind.vendor.is_empty() || kind.vendor != other.vendor, "{}", kind.vendor);
            }
        }
        assert_eq!(kind(""), None);
        assert_eq!(kind("smoke").unwrap().name, "netatmo.smoke");
        assert_eq!(kind("therm_mode").unwrap().name, "netatmo.home_event_changed");
    }

    #[test]
    fn every_spelling_of_a_field_is_one_field() {
        for spelt in ["user_id", "userid", "userId", "UserID", "USER_ID", "user-id"] {
            assert_eq!(field(spelt.into()), "user_id", "{spelt}");
        }
        for (spelt, name) in [
            ("message", "message"),
            ("Message", "message"),
            ("therm_setpoint_end_time", "therm_setpoint_end_time"),
            ("thermSetpointEndTimeWithZone", "therm_setpoint_end_time_with_zone"),
            ("a b.c", "a_b_c"),
            ("", ""),
            ("größe", "größe"),
        ] {
            assert_eq!(field(spelt.into()), name, "{spelt}");
        }
    }
}
