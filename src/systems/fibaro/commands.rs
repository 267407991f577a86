//! What an intercom can be told: every method of the vendor's page, with the limits it gives, and
//! how arguments become parameters on the wire. Pure.

use serde_json::{Map, Value};

use super::wire;
use crate::command::{Arg, Kind, Repeat, Spec};

/// The command that a driver does itself: take the intercom's new certificate.
pub const TRUST_CERTIFICATE: &str = "trust_certificate";

/// A relay may be held open from a quarter of a second to half a minute, says the vendor.
const OPEN_MS: Kind = Kind::Millis(250, 30_000);

/// For numbers to which the vendor sets no limit: what a 32-bit integer holds.
const COUNT: Kind = Kind::Int(0, i32::MAX as i64);

/// The same for spans.
const SPAN_MS: Kind = Kind::Millis(0, i32::MAX as u64);

/// Limits of a user's texts, in characters, by the vendor's page.
const USER_CHARS_MAX: usize = 64;
const PASS_CHARS_MAX: usize = 255;
const UUID_CHARS_MAX: usize = 36;
const PIN_DIGITS: usize = 4;

const MODES: &[&str] = &["day", "night", "night IR ext", "auto", "auto IR ext"];

const fn must(name: &'static str, kind: Kind, about: &'static str) -> Arg {
    Arg { name, kind, required: true, about }
}

const fn may(name: &'static str, kind: Kind, about: &'static str) -> Arg {
    Arg { name, kind, required: false, about }
}

const RELAY: Arg = must("relay", Kind::Int(0, 1), "which relay: 0 or 1");
const USER: Arg = must("user", Kind::Text, "the user's name, at most 64 characters");
const UUID: Arg = may("uuid", Kind::Text, "a unique id, at most 36 characters");

/// A command that only asks.
const fn asks(name: &'static str, about: &'static str, args: &'static [Arg]) -> Spec {
    Spec { name, about, args, repeat: Repeat::Harmless, opens: false }
}

/// A command that sets something to a value: twice is once.
const fn sets(name: &'static str, about: &'static str, args: &'static [Arg]) -> Spec {
    Spec { name, about, args, repeat: Repeat::Harmless, opens: false }
}

/// A command that must not be done twice.
const fn once(name: &'static str, about: &'static str, args: &'static [Arg]) -> Spec {
    Spec { name, about, args, repeat: Repeat::Never, opens: false }
}

/// What an intercom can be told.
pub static COMMANDS: &[Spec] = &[
    Spec {
        name: "relay.open",
        about: "Opens a relay: the door or the gate behind it",
        args: &[RELAY, may("timeout", OPEN_MS, "how long; else the relay's own time")],
        repeat: Repeat::Never,
        opens: true,
    },
    asks("relay.state", "Says whether a relay is open", &[RELAY]),
    asks("relay.timeout", "Says how long a relay stays open", &[RELAY]),
    sets(
        "relay.set_timeout",
        "Sets how long a relay stays open unless a command says otherwise",
        &[RELAY, must("timeout", OPEN_MS, "how long")],
    ),
    asks("users.list", "Lists the users; without their PINs", &[]),
    // A user with a PIN or a password can let himself in, later and from elsewhere.
    Spec {
        name: "users.add",
        about: "Adds a user, who can then open by PIN",
        args: &[
            USER,
            must("pass", Kind::Secret, "password for access by network; empty for none"),
            must("pin", Kind::Secret, "PIN of four digits"),
            may("is_admin", Kind::Flag, "whether an administrator; else not"),
            UUID,
        ],
        repeat: Repeat::Never,
        opens: true,
    },
    Spec {
        name: "users.change",
        about: "Changes a user: only what is given",
        args: &[
            USER,
            may("pass", Kind::Secret, "new password for access by network"),
            may("pin", Kind::Secret, "new PIN of four digits"),
            may("is_admin", Kind::Flag, "whether an administrator"),
            UUID,
        ],
        repeat: Repeat::Never,
        opens: true,
    },
    once("users.remove", "Removes a user", &[USER]),
    sets(
        "video.set",
        "Sets the camera's options, all three",
        &[
            must("hdr", Kind::Flag, "high dynamic range; the vendor's default is on"),
            must("dewarping", Kind::Flag, "straightens lines; the vendor's default is off"),
            must("framerate", Kind::Word(&["50", "60"]), "in Hz; the vendor's default is 50"),
        ],
    ),
    asks("day_night.mode", "Says the camera's day and night setting", &[]),
    sets(
        "day_night.set_mode",
        "Sets the camera's day and night setting",
        &[must("mode", Kind::Word(MODES), "which")],
    ),
    asks("day_night.high_threshold", "Says above how much light it is day", &[]),
    sets(
        "day_night.set_high_threshold",
        "Sets above how much light it is day",
        &[must("high_threshold", COUNT, "in lux")],
    ),
    asks("day_night.low_threshold", "Says below how much light it is night", &[]),
    sets(
        "day_night.set_low_threshold",
        "Sets below how much light it is night",
        &[must("low_threshold", COUNT, "in lux")],
    ),
    asks("day_night.luminosity", "Says how much light there is, in lux", &[]),
    asks("proximity.sensitivity", "Says how sensitive the proximity sensor is", &[]),
    sets(
        "proximity.set_sensitivity",
        "Sets how sensitive the proximity sensor is",
        &[must("sensitivity", Kind::Word(&["LOW", "MEDIUM", "HIGH"]), "how much")],
    ),
    asks("proximity.timeout", "Says the proximity sensor's timeout", &[]),
    sets(
        "proximity.set_timeout",
        "Sets the proximity sensor's timeout",
        &[must("timeout", SPAN_MS, "how long")],
    ),
    // Who takes a stranger's certificate may talk to a stranger's intercom ever after.
    Spec {
        name: TRUST_CERTIFICATE,
        about: "Takes the new certificate that the intercom shows since it was refused",
        args: &[may("fingerprint", Kind::Text, "its SHA-256, to take this one and no other")],
        repeat: Repeat::Never,
        opens: true,
    },
];

/// The parameters of a command as they go over the wire, without the token; or why the intercom
/// would not take them. No text of it holds a secret.
pub fn params(
    call: &str,
    args: &Map<String, Value>,
    secrets: &Map<String, Value>,
) -> Result<Map<String, Value>, String> {
    let mut params = args.clone();
    params.extend(secrets.clone());
    let length = |name: &str| params.get(name).map_or(0, |v| wire::text(Some(v)).chars().count());
    for (name, most) in [("user", USER_CHARS_MAX), ("uuid", UUID_CHARS_MAX)] {
        if length(name) > most {
            return Err(format!("`{name}` has more than {most} characters"));
        }
    }
    let pass = params.get("pass").and_then(Value::as_str).unwrap_or("");
    if pass.chars().count() > PASS_CHARS_MAX {
        return Err(format!("`pass` has more than {PASS_CHARS_MAX} characters"));
    }
    if let Some(pin) = params.get("pin").map(|pin| wire::text(Some(pin))) {
        if pin.len() != PIN_DIGITS || !pin.bytes().all(|digit| digit.is_ascii_digit()) {
            return Err(format!("`pin` must be {PIN_DIGITS} digits"));
        }
        params.insert("pin".into(), pin.into());
    }
    if params.get("user").is_some_and(|user| wire::text(Some(user)).trim().is_empty()) {
        return Err("`user` is empty".into());
    }
    if call == "users.add" {
        for needed in ["pass", "pin"] {
            if !params.contains_key(needed) {
                return Err(format!("`users.add` needs `{needed}`"));
            }
        }
        params.entry("is_admin").or_insert(false.into());
    }
    if call == "users.change" && params.len() < 2 {
        return Err("`users.change` was given nothing to change".into());
    }
    if let Some(framerate) = params.get("framerate").and_then(wire::whole) {
        params.insert("framerate".into(), framerate.into());
    }
    Ok(params)
}

/// What may be shown of a command's result: a list of users without their PINs.
pub fn shown(mut result: Value) -> Value {
    hide(&mut result);
    result
}

fn hide(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(hide),
        Value::Object(fields) => {
            for (name, value) in fields.iter_mut() {
                match name.as_str() {
                    "pin" | "pass" | "token" => *value = "(hidden)".into(),
                    _ => hide(value),
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::command::find;

    fn object(value: Value) -> Map<String, Value> {
        let Value::Object(object) = value else { panic!("an object") };
        object
    }

    fn sent(call: &str, args: Value, secrets: Value) -> Result<Value, String> {
        params(call, &object(args), &object(secrets)).map(Value::Object)
    }

    #[test]
    fn the_vendors_limits_hold() {
        let open = find(COMMANDS, "relay.open").unwrap();
        let checked = |args| open.check(object(args)).map(Value::Object);
        assert_eq!(checked(json!({ "relay": 1, "timeout": "3s" })).unwrap()["timeout"], 3000);
        for wrong in [json!({}), json!({"relay": 2}), json!({"relay": 0, "timeout": 249})] {
            assert!(checked(wrong).is_err());
        }
        assert!(checked(json!({ "relay": 0, "timeout": 30_001 })).is_err());
        let long = "x".repeat(65);
        assert!(sent("users.remove", json!({ "user": long }), json!({})).is_err());
        assert!(sent("users.remove", json!({ "user": " " }), json!({})).is_err());
        let pin = |pin: &str| sent("users.change", json!({"user": "a"}), json!({ "pin": pin }));
        assert_eq!(pin("0123").unwrap()["pin"], "0123");
        let error = pin("12345").unwrap_err();
        assert!(!error.contains("12345"), "{error}");
        assert!(pin("12a4").is_err());
    }

    #[test]
    fn parameters_have_the_vendors_types() {
        let args = json!({ "hdr": true, "dewarping": false, "framerate": "60" });
        assert_eq!(sent("video.set", args, json!({})).unwrap()["framerate"], 60);
        let user = json!({ "user": "ana" });
        let added = sent("users.add", user.clone(), json!({ "pass": "", "pin": "1234" })).unwrap();
        assert_eq!(added, json!({"user": "ana", "pass": "", "pin": "1234", "is_admin": false}));
        assert!(sent("users.add", user.clone(), json!({ "pin": "1234" })).is_err());
        assert!(sent("users.change", user, json!({})).is_err());
    }

    #[test]
    fn a_list_of_users_is_shown_without_pins() {
        let list = json!([{ "user": "ana", "pin": "1234", "is_admin": true }]);
        assert_eq!(shown(list), json!([{ "user": "ana", "pin": "(hidden)", "is_admin": true }]));
        assert_eq!(shown(json!(0)), json!(0));
    }
}
