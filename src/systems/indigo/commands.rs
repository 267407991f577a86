//! What an Indigo server can be told: the table, and each command as Indigo's message. Pure.

use serde_json::{Map, Value, json};

use super::Feed;
use crate::command::{Arg, Kind, Repeat, Spec};

/// The longest delay or duration, in seconds: a day.
const SECONDS_MAX: i64 = 86_400;
/// Far above the zones, outputs and fan steps of any device.
const INDEX_MAX: i64 = 999;

const fn arg(name: &'static str, kind: Kind, required: bool, about: &'static str) -> Arg {
    Arg { name, kind, required, about }
}

const DEVICE: Arg = arg("object", Kind::Text, true, "the device, by name or id");
const VARIABLE: Arg = arg("object", Kind::Text, true, "the variable, by name or id");
const ACTION: Arg = arg("object", Kind::Text, true, "the action group, by name or id");
const SCHEDULE: Arg = arg("object", Kind::Text, true, "the schedule, by name or id");
const TRIGGER: Arg = arg("object", Kind::Text, true, "the trigger, by name or id");
const DELAY: Arg = arg("delay", Kind::Int(0, SECONDS_MAX), false, "seconds to wait first");
const DURATION: Arg =
    arg("duration", Kind::Int(0, SECONDS_MAX), false, "seconds until it is undone");
const ON: Arg = arg("value", Kind::Flag, true, "true or false");
const ENABLED: Arg = arg("value", Kind::Flag, true, "true enables, false disables");
const PERCENT: Arg = arg("value", Kind::Int(0, 100), true, "percent");
const BY_PERCENT: Arg = arg("by", Kind::Int(0, 100), false, "percent");
const BY_STEPS: Arg = arg("by", Kind::Int(1, INDEX_MAX), false, "steps");
const STEP: Arg = arg("value", Kind::Int(0, INDEX_MAX), true, "which step, 0 is off");
const OUTPUT: Arg = arg("index", Kind::Int(0, INDEX_MAX), true, "which output, the first is 0");
const ZONE: Arg = arg("index", Kind::Int(0, INDEX_MAX), true, "which zone");
const MINUTES: Arg = arg("schedule", Kind::Json, true, "minutes for each zone, as a list");
const DEGREES: Arg = arg("value", Kind::Number, true, "degrees, in the server's unit");
const BY_DEGREES: Arg = arg("delta", Kind::Number, false, "degrees, in the server's unit");
const HVAC_MODE: Arg = arg("value", Kind::Word(HVAC_MODES), true, "the mode");
const FAN_MODE: Arg = arg("value", Kind::Word(FAN_MODES), true, "the mode");
const TEXT: Arg = arg("value", Kind::Text, true, "the new value, always a text; \"\" clears it");
const PLUGIN: Arg = arg("pluginId", Kind::Text, true, "the plugin's bundle id");

const HVAC_MODES: &[&str] =
    &["Off", "Heat", "Cool", "HeatCool", "ProgramHeat", "ProgramCool", "ProgramHeatCool"];
const FAN_MODES: &[&str] = &["Auto", "AlwaysOn"];

const fn spec(
    name: &'static str,
    about: &'static str,
    args: &'static [Arg],
    repeat: Repeat,
) -> Spec {
    Spec { name, about, args, repeat, opens: false }
}

use Repeat::{Harmless, Never};

/// What an Indigo server can be told. With a `delay` or a `duration` even setting something is not
/// the same twice, but the second time only moves what was asked for anyway.
pub static COMMANDS: &[Spec] = &[
    spec("device.statusRequest", "Asks a device for its state", &[DEVICE], Harmless),
    spec(
        "device.toggle",
        "Turns on what is off, and off what is on",
        &[DEVICE, DELAY, DURATION],
        Never,
    ),
    spec("device.turnOn", "Turns on", &[DEVICE, DELAY, DURATION], Harmless),
    spec("device.turnOff", "Turns off; refused for locks", &[DEVICE, DELAY, DURATION], Harmless),
    spec("device.lock", "Locks", &[DEVICE, DELAY, DURATION], Harmless),
    Spec {
        name: "device.unlock",
        about: "Unlocks",
        args: &[DEVICE, DELAY, DURATION],
        repeat: Never,
        opens: true,
    },
    spec("device.enable", "Enables or disables a device", &[DEVICE, ENABLED], Harmless),
    spec("dimmer.brighten", "Brightens", &[DEVICE, BY_PERCENT, DELAY], Never),
    spec("dimmer.dim", "Dims", &[DEVICE, BY_PERCENT, DELAY], Never),
    spec("dimmer.setBrightness", "Sets the brightness", &[DEVICE, PERCENT, DELAY], Harmless),
    spec("iodevice.setBinaryOutput", "Sets an output", &[DEVICE, OUTPUT, ON], Harmless),
    spec("sensor.setOnState", "Sets a sensor's state", &[DEVICE, ON], Harmless),
    spec("speedcontrol.increaseSpeedIndex", "Faster", &[DEVICE, BY_STEPS, DELAY], Never),
    spec("speedcontrol.decreaseSpeedIndex", "Slower", &[DEVICE, BY_STEPS, DELAY], Never),
    spec("speedcontrol.setSpeedIndex", "Sets the speed's step", &[DEVICE, STEP, DELAY], Harmless),
    spec("speedcontrol.setSpeedLevel", "Sets the speed", &[DEVICE, PERCENT, DELAY], Harmless),
    spec("sprinkler.run", "Waters by a schedule", &[DEVICE, MINUTES], Never),
    spec("sprinkler.pause", "Pauses the schedule", &[DEVICE], Harmless),
    spec("sprinkler.resume", "Resumes the schedule", &[DEVICE], Never),
    spec("sprinkler.stop", "Stops the schedule", &[DEVICE], Harmless),
    spec("sprinkler.nextZone", "Goes on to the next zone", &[DEVICE], Never),
    spec("sprinkler.previousZone", "Goes back to the zone before", &[DEVICE], Never),
    spec("sprinkler.setActiveZone", "Waters this zone", &[DEVICE, ZONE], Harmless),
    spec("thermostat.increaseHeatSetpoint", "Heats more", &[DEVICE, BY_DEGREES], Never),
    spec("thermostat.decreaseHeatSetpoint", "Heats less", &[DEVICE, BY_DEGREES], Never),
    spec("thermostat.increaseCoolSetpoint", "Cools less", &[DEVICE, BY_DEGREES], Never),
    spec("thermostat.decreaseCoolSetpoint", "Cools more", &[DEVICE, BY_DEGREES], Never),
    spec("thermostat.setHeatSetpoint", "Sets up to where it heats", &[DEVICE, DEGREES], Harmless),
    spec("thermostat.setCoolSetpoint", "Sets down to where it cools", &[DEVICE, DEGREES], Harmless),
    spec("thermostat.setHvacMode", "Sets what it does", &[DEVICE, HVAC_MODE], Harmless),
    spec("thermostat.setFanMode", "Sets when the fan runs", &[DEVICE, FAN_MODE], Harmless),
    spec("variable.updateValue", "Sets a variable", &[VARIABLE, TEXT], Harmless),
    spec("actionGroup.execute", "Executes an action group", &[ACTION], Never),
    spec("schedule.execute", "Executes a schedule now", &[SCHEDULE], Never),
    spec("schedule.enable", "Enables or disables a schedule", &[SCHEDULE, ENABLED], Harmless),
    spec("trigger.execute", "Executes a trigger now", &[TRIGGER], Never),
    spec("trigger.enable", "Enables or disables a trigger", &[TRIGGER, ENABLED], Harmless),
    spec(
        "log",
        "Writes into Indigo's event log",
        &[arg("text", Kind::Text, true, "what to write")],
        Never,
    ),
    spec("plugin.restart", "Restarts a plugin", &[PLUGIN], Never),
    spec("plugin.executeAction", "Executes an action of a plugin", PLUGIN_ACTION, Never),
];

const PLUGIN_ACTION: &[Arg] = &[
    PLUGIN,
    arg("actionId", Kind::Text, true, "the action's id in the plugin"),
    arg("deviceId", Kind::Text, false, "the device it is for, by name or id"),
    arg("props", Kind::Json, false, "the action's settings, as the plugin wants them"),
    arg("waitUntilDone", Kind::Flag, false, "whether to answer only when it is done"),
];

/// The feed whose objects a command is about.
pub fn feed_of(call: &str) -> Option<Feed> {
    let (space, _) = call.split_once('.')?;
    Some(match space {
        "device" | "dimmer" | "iodevice" | "sensor" | "speedcontrol" | "sprinkler"
        | "thermostat" => Feed::Device,
        "variable" => Feed::Variable,
        "actionGroup" => Feed::Action,
        "schedule" => Feed::Schedule,
        "trigger" => Feed::Trigger,
        _ => return None,
    })
}

/// Indigo's message for a command whose arguments were checked. `find` gives an object's id.
pub fn message(
    call: &str,
    args: &Map<String, Value>,
    id: &str,
    find: impl Fn(Feed, &str) -> Result<i64, String>,
) -> Result<Map<String, Value>, String> {
    let mut message = Map::new();
    message.insert("id".into(), id.into());
    let named = match call {
        "log" => "indigo.server.log".to_string(),
        plugin if plugin.starts_with("plugin.") => plugin.to_string(),
        other => format!("indigo.{other}"),
    };
    message.insert("message".into(), named.into());
    let mut parameters = Map::new();
    for (name, value) in args {
        match (name.as_str(), feed_of(call)) {
            ("object", Some(feed)) => {
                let object = find(feed, value.as_str().unwrap_or_default())?;
                message.insert("objectId".into(), object.into());
            }
            ("text", None) => drop(message.insert("messageText".into(), value.clone())),
            ("deviceId", None) => {
                let device = find(Feed::Device, value.as_str().unwrap_or_default())?;
                message.insert("deviceId".into(), device.into());
            }
            (_, None) => drop(message.insert(name.clone(), value.clone())),
            (_, Some(_)) => drop(parameters.insert(name.clone(), parameter(call, name, value)?)),
        }
    }
    if !parameters.is_empty() {
        message.insert("parameters".into(), parameters.into());
    }
    Ok(message)
}

fn parameter(call: &str, name: &str, value: &Value) -> Result<Value, String> {
    let word = value.as_str().unwrap_or_default();
    match call {
        "thermostat.setHvacMode" => Ok(format!("indigo.kHvacMode.{word}").into()),
        "thermostat.setFanMode" => Ok(format!("indigo.kFanMode.{word}").into()),
        "sprinkler.run" if name == "schedule" => minutes(value),
        _ => Ok(value.clone()),
    }
}

/// A list of minutes, also where a template made a text of it.
fn minutes(value: &Value) -> Result<Value, String> {
    let read = value.as_str().and_then(|text| serde_json::from_str(text).ok());
    let list = read.unwrap_or_else(|| value.clone());
    match list.as_array() {
        Some(minutes) if minutes.iter().all(Value::is_number) => Ok(json!(minutes)),
        _ => Err("`schedule` must be a list of minutes, one for each zone".into()),
    }
}

/// Whether a device is a lock. Indigo's locks are relays that are on when locked, so turning one
/// off opens a door.
pub fn is_lock(device: &Value) -> bool {
    let says = |field: &str| device.get(field).and_then(Value::as_str).unwrap_or_default();
    let owner = |field: &str| {
        device.get(field).and_then(|props| props.get("IsLockSubType")).is_some_and(|is| {
            is.as_bool()
                .unwrap_or_else(|| is.as_str().is_some_and(|s| s.eq_ignore_ascii_case("true")))
        })
    };
    says("subType").to_ascii_lowercase().contains("lock")
        || owner("ownerProps")
        || owner("pluginProps")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::find;

    fn check(call: &str, args: Value, expect: Value) {
        let Value::Object(args) = args else { panic!("an object") };
        let args = find(COMMANDS, call).unwrap().check(args).unwrap();
        let known = |feed: Feed, name: &str| match (feed, name) {
            (Feed::Device, "Lamp") | (Feed::Variable, "mode") => Ok(7),
            (_, id) => id.parse().map_err(|_| "no such object".to_string()),
        };
        let made = message(call, &args, "c1", known).map_or_else(Value::from, Value::Object);
        assert_eq!(made, expect, "{call}");
    }

    #[test]
    fn commands_become_indigos_messages() {
        check(
            "device.turnOn",
            json!({"object": "Lamp", "delay": "5", "duration": 10}),
            json!({"id": "c1", "message": "indigo.device.turnOn", "objectId": 7,
                "parameters": {"delay": 5, "duration": 10}}),
        );
        check(
            "variable.updateValue",
            json!({"object": "mode", "value": 12.5}),
            json!({"id": "c1", "message": "indigo.variable.updateValue", "objectId": 7,
                "parameters": {"value": "12.5"}}),
        );
        check(
            "actionGroup.execute",
            json!({"object": 94914463}),
            json!({"id": "c1", "message": "indigo.actionGroup.execute", "objectId": 94914463}),
        );
        check("actionGroup.execute", json!({"object": "x"}), json!("no such object"));
        check(
            "log",
            json!({"text": "hello"}),
            json!({"id": "c1", "message": "indigo.server.log", "messageText": "hello"}),
        );
        check(
            "thermostat.setHvacMode",
            json!({"object": 1, "value": "Heat"}),
            json!({"id": "c1", "message": "indigo.thermostat.setHvacMode", "objectId": 1,
                "parameters": {"value": "indigo.kHvacMode.Heat"}}),
        );
        check(
            "plugin.executeAction",
            json!({"pluginId": "p", "actionId": "a", "deviceId": "Lamp", "props": {"x": 1}, "waitUntilDone": "yes"}),
            json!({"id": "c1", "message": "plugin.executeAction", "pluginId": "p", "actionId": "a",
                "deviceId": 7, "props": {"x": 1}, "waitUntilDone": true}),
        );
        let run = json!({"id": "c1", "message": "indigo.sprinkler.run", "objectId": 1, "parameters": {"schedule": [10, 0]}});
        check("sprinkler.run", json!({"object": 1, "schedule": "[10, 0]"}), run);
        let wrong = json!("`schedule` must be a list of minutes, one for each zone");
        check("sprinkler.run", json!({"object": 1, "schedule": "soon"}), wrong);
    }

    #[test]
    fn only_unlocking_opens_and_only_values_are_repeated() {
        let opening: Vec<_> = COMMANDS.iter().filter(|s| s.opens).map(|s| s.name).collect();
        assert_eq!(opening, ["device.unlock"]);
        let relative =
            ["toggle", "brighten", "dimmer.dim", "increase", "decrease", "execute", "nextZone"];
        for spec in COMMANDS.iter().filter(|s| relative.iter().any(|word| s.name.contains(word))) {
            assert_eq!(spec.repeat, Never, "{}", spec.name);
        }
        assert_eq!(COMMANDS.len(), 40);
    }

    #[test]
    fn locks_are_known() {
        assert!(is_lock(&json!({"subType": "Lock"})));
        assert!(is_lock(&json!({"ownerProps": {"IsLockSubType": true}})));
        assert!(!is_lock(&json!({"subType": "Plug-In", "ownerProps": {}})));
    }
}
