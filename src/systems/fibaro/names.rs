//! What the intercom calls its methods and signals. Few of these names are public: the vendor's
//! page prints two. The others are guesses, which the config can correct; a guess that is wrong
//! costs that one command, never the connection. Pure.

use std::collections::BTreeMap;

/// One name.
#[derive(Debug)]
pub struct Name {
    /// Ours: for a method, the command's name in [`super::COMMANDS`].
    pub key: &'static str,
    /// The intercom's, unless the config says otherwise.
    pub wire: &'static str,
    /// Whether nobody has published it.
    pub guess: bool,
}

macro_rules! names {
    ($($key:literal = $guess:ident $wire:literal;)*) => {
        &[$(Name {
            key: $key,
            wire: concat!("com.fibaro.intercom.", $wire),
            guess: names!($guess),
        }),*]
    };
    (public) => { false };
    (guess) => { true };
}

/// All names, with their defaults.
pub static NAMES: &[Name] = names! {
    "account.login" = public "account.login";
    "account.logout" = public "account.logout";
    "account.refresh" = public "account.refreshToken";
    "users.add" = guess "account.addUser";
    "users.list" = guess "account.getUsers";
    "users.remove" = guess "account.removeUser";
    "users.change" = guess "account.modifyUser";
    "relay.open" = public "relay.open";
    "relay.state" = guess "relay.getState";
    "relay.timeout" = guess "relay.getTimeout";
    "relay.set_timeout" = guess "relay.setTimeout";
    "video.set" = guess "sensor.camera.setOptions";
    "day_night.mode" = guess "sensor.dayNight.getMode";
    "day_night.set_mode" = guess "sensor.dayNight.setMode";
    "day_night.high_threshold" = guess "sensor.dayNight.getHighThreshold";
    "day_night.set_high_threshold" = guess "sensor.dayNight.setHighThreshold";
    "day_night.low_threshold" = guess "sensor.dayNight.getLowThreshold";
    "day_night.set_low_threshold" = guess "sensor.dayNight.setLowThreshold";
    "day_night.luminosity" = guess "sensor.dayNight.getLuminosity";
    "proximity.sensitivity" = guess "sensor.proximity.getSensitivity";
    "proximity.set_sensitivity" = guess "sensor.proximity.setSensitivity";
    "proximity.timeout" = guess "sensor.proximity.getTimeout";
    "proximity.set_timeout" = guess "sensor.proximity.setTimeout";
    "signal.relay" = public "relay.stateChanged";
    "signal.button" = public "device.buttonStateChanged";
    "signal.day_night" = guess "sensor.dayNight.modeChanged";
    "signal.proximity" = guess "sensor.proximity.stateChanged";
};

/// A signal that is understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// A relay opened or closed.
    Relay,
    /// A button was pressed or released.
    Button,
    /// The camera went to another day or night mode.
    DayNight,
    /// Something came near, or left.
    Proximity,
}

/// The names that one intercom uses.
#[derive(Debug, Clone)]
pub struct Names(BTreeMap<&'static str, String>);

impl Names {
    /// The defaults, corrected by the config: our key to the name on the wire.
    pub fn new(corrections: &BTreeMap<String, String>) -> Names {
        let name = |name: &'static Name| {
            let wire = corrections.get(name.key).map_or(name.wire, String::as_str);
            (name.key, wire.to_string())
        };
        Names(NAMES.iter().map(name).collect())
    }

    /// The method of this key on the wire.
    pub fn method(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// Which signal this name on the wire is.
    pub fn signal(&self, method: &str) -> Option<Signal> {
        let is = |key: &str| self.method(key) == Some(method);
        [
            ("signal.relay", Signal::Relay),
            ("signal.button", Signal::Button),
            ("signal.day_night", Signal::DayNight),
            ("signal.proximity", Signal::Proximity),
        ]
        .into_iter()
        .find_map(|(key, signal)| is(key).then_some(signal))
    }

    /// Our key for a name on the wire.
    pub fn key(&self, method: &str) -> Option<&'static str> {
        self.0.iter().find_map(|(key, wire)| (wire == method).then_some(*key))
    }
}

/// The keys of the config's corrections that correct nothing: slips of the pen.
pub fn unknown_keys(corrections: &BTreeMap<String, String>) -> Vec<&str> {
    let known = |key: &str| NAMES.iter().any(|name| name.key == key);
    corrections.keys().map(String::as_str).filter(|key| !known(key)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::systems::fibaro::COMMANDS;

    #[test]
    fn the_config_corrects_names() {
        let corrected = [("relay.state", "x.y"), ("signal.button", "bell"), ("rely", "z")];
        let corrected = corrected.map(|(k, v)| (k.to_string(), v.to_string())).into();
        let names = Names::new(&corrected);
        assert_eq!(names.method("relay.state"), Some("x.y"));
        assert_eq!(names.method("relay.open"), Some("com.fibaro.intercom.relay.open"));
        assert_eq!(names.signal("bell"), Some(Signal::Button));
        assert_eq!(names.signal("com.fibaro.intercom.device.buttonStateChanged"), None);
        assert_eq!(names.key("x.y"), Some("relay.state"));
        assert_eq!(unknown_keys(&corrected), ["rely"]);
    }

    #[test]
    fn every_command_has_a_name_on_the_wire() {
        let names = Names::new(&BTreeMap::new());
        for command in COMMANDS.iter().filter(|c| c.name != super::super::TRUST_CERTIFICATE) {
            assert!(names.method(command.name).is_some(), "{}", command.name);
        }
    }
}
