//! The house that the simulator plays: every kind of object, shaped as Indigo documents them.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::systems::indigo::Feed;

/// Objects or folders of each feed, by id.
pub type ById = BTreeMap<Feed, BTreeMap<i64, Value>>;

/// Its objects and folders.
pub fn furnish() -> (ById, ById) {
    let mut objects: ById = BTreeMap::new();
    let all = [
        (Feed::Device, devices()),
        (Feed::Variable, variables()),
        (
            Feed::Action,
            vec![
                plain(94_914_463, "indigo.ActionGroup", "Movie Night", 532_526_508),
                plain(94_914_464, "indigo.ActionGroup", "All Off", 532_526_508),
            ],
        ),
        (Feed::Schedule, vec![schedule()]),
        (Feed::Trigger, vec![trigger()]),
        (Feed::Page, vec![page()]),
    ];
    for (feed, list) in all {
        let by_id =
            list.into_iter().filter_map(|object| Some((object.get("id")?.as_i64()?, object)));
        objects.insert(feed, by_id.collect());
    }
    let folders = [
        (Feed::Device, vec![folder(1_552_926_800, "Insteon"), folder(1_552_926_801, "Hall")]),
        (Feed::Variable, vec![folder(345_000_001, "House")]),
        (Feed::Action, vec![folder(532_526_508, "Mood Scenes")]),
    ];
    let by_id = |list: Vec<Value>| {
        list.into_iter().filter_map(|folder| Some((folder.get("id")?.as_i64()?, folder))).collect()
    };
    (objects, folders.into_iter().map(|(feed, list)| (feed, by_id(list))).collect())
}

fn folder(id: i64, name: &str) -> Value {
    json!({ "id": id, "class": "indigo.Folder", "name": name, "remoteDisplay": true })
}

/// What every object has.
fn plain(id: i64, class: &str, name: &str, folder: i64) -> Value {
    json!({
        "class": class, "description": "", "folderId": folder,
        "globalProps": { "com.indigodomo.indigoserver": {} },
        "id": id, "name": name, "pluginProps": {}, "remoteDisplay": true, "sharedProps": {},
    })
}

fn with(mut object: Value, more: Value) -> Value {
    if let (Some(fields), Value::Object(more)) = (object.as_object_mut(), more) {
        fields.extend(more);
    }
    object
}

fn device(id: i64, class: &str, name: &str, more: Value) -> Value {
    let device = plain(id, class, name, 1_552_926_801);
    let common = json!({
        "address": "", "batteryLevel": null, "configured": true, "enabled": true, "errorState": "",
        "lastChanged": "2026-11-21T08:00:00", "lastSuccessfulComm": "2026-11-21T08:00:00",
        "model": "", "ownerProps": {}, "pluginId": "", "protocol": "indigo.kProtocol.Plugin",
        "states": {}, "subModel": "", "subType": "", "supportsStatusRequest": true, "version": 0,
    });
    with(with(device, common), more)
}

fn devices() -> Vec<Value> {
    vec![
        device(
            1_508_839_119,
            "indigo.DimmerDevice",
            "Insteon Dimmer",
            json!({
                "address": "3B.04.7A", "brightness": 100, "defaultBrightness": 100, "onState": true,
                "folderId": 1_552_926_800, "model": "LampLinc (dual-band)", "subType": "Plug-In",
                "globalProps": { "com.indigodomo.indigoserver": {}, "emptyDict": {} }, "ledStates": [],
                "displayStateId": "brightnessLevel", "displayStateValRaw": 100, "displayStateValUi": "100",
                "protocol": "indigo.kProtocol.Insteon",
                "states": { "brightnessLevel": 100, "onOffState": true },
            }),
        ),
        device(
            1_508_839_120,
            "indigo.RelayDevice",
            "Front Door Lock",
            json!({
                "onState": true, "subType": "Lock", "ownerProps": { "IsLockSubType": true },
                "states": { "onOffState": true, "onOffState.ui": "locked" },
            }),
        ),
        device(
            1_508_839_121,
            "indigo.RelayDevice",
            "Porch Light",
            json!({
                "onState": false, "states": { "onOffState": false, "onOffState.ui": "off" },
            }),
        ),
        device(
            1_508_839_122,
            "indigo.SensorDevice",
            "Hall Motion",
            json!({
                "onState": false, "sensorValue": null, "batteryLevel": 90,
                "states": { "onOffState": false, "onOffState.ui": "off" },
            }),
        ),
        device(
            1_508_839_123,
            "indigo.SensorDevice",
            "Kitchen Light Level",
            json!({
                "onState": null, "sensorValue": 57,
                "states": { "sensorValue": 57, "sensorValue.ui": "57 lux" },
            }),
        ),
        device(
            1_508_839_124,
            "indigo.ThermostatDevice",
            "Living Room",
            json!({
                "coolSetpoint": 25.0, "heatSetpoint": 20.0, "hvacMode": "indigo.kHvacMode.Heat",
                "fanMode": "indigo.kFanMode.Auto", "temperatures": [20.5],
                "states": { "setpointHeat": 20.0, "temperatureInput1": 20.5, "hvacOperationMode.ui": "Heat" },
            }),
        ),
    ]
}

fn variables() -> Vec<Value> {
    let variable = |id: i64, name: &str, value: &str| {
        let variable = plain(id, "indigo.Variable", name, 345_000_001);
        with(variable, json!({ "value": value, "readOnly": false }))
    };
    vec![
        variable(345_633_244, "house_status", "home"),
        variable(345_633_245, "speech_string", ""),
        variable(345_633_246, "guests", "0"),
    ]
}

fn schedule() -> Value {
    with(
        plain(12_345_678, "indigo.Schedule", "Porch at dusk", 0),
        json!({
            "absoluteTime": null, "autoDelete": false, "configured": true, "enabled": true,
            "nextExecution": "2026-11-21T17:02:00", "sunDelta": 0, "timeType": 3,
        }),
    )
}

fn trigger() -> Value {
    with(
        plain(12_345_679, "indigo.Trigger", "Webhook", 0),
        json!({
            "configured": true, "enabled": true, "suppressLogging": false,
            "globalProps": { "com.indigodomo.webserver": { "httpMethod": "GET", "postProcessing": "JSON" } },
        }),
    )
}

fn page() -> Value {
    let page = plain(963_336_187, "indigo.ControlPage", "Weather Images", 0);
    with(page, json!({ "backgroundImage": "", "hideTabBar": true }))
}

/// A relay, dimmer or sensor turned on or off, with everything that Indigo changes along.
pub fn turn(device: &mut Value, on: bool) {
    let words = match device.get("subType").and_then(Value::as_str) {
        Some("Lock") => ["unlocked", "locked"],
        _ => ["off", "on"],
    };
    let word = words[usize::from(on)];
    set(device, &["onState"], on.into());
    set(device, &["states", "onOffState"], on.into());
    let has_ui = device.get("states").is_some_and(|states| states.get("onOffState.ui").is_some());
    if has_ui {
        set(device, &["states", "onOffState.ui"], word.into());
    }
    if device.get("brightness").is_some() {
        dim(device, if on { 100 } else { 0 });
    }
}

/// A dimmer set to a brightness.
pub fn dim(device: &mut Value, brightness: i64) {
    set(device, &["brightness"], brightness.into());
    set(device, &["states", "brightnessLevel"], brightness.into());
    set(device, &["displayStateValRaw"], brightness.into());
    set(device, &["displayStateValUi"], brightness.to_string().into());
    set(device, &["onState"], (brightness > 0).into());
    set(device, &["states", "onOffState"], (brightness > 0).into());
}

/// A sensor that measures.
pub fn measure(device: &mut Value, value: i64) {
    set(device, &["sensorValue"], value.into());
    set(device, &["states", "sensorValue"], value.into());
    set(device, &["states", "sensorValue.ui"], format!("{value} lux").into());
}

/// Sets a field; what is on the way there is made if it is missing.
pub fn set(object: &mut Value, path: &[&str], value: Value) {
    let Some((last, way)) = path.split_last() else { return };
    let mut here = object;
    for key in way {
        if !here.get(key).is_some_and(Value::is_object) {
            set(here, &[key], Value::Object(Map::new()));
        }
        match here.get_mut(key) {
            Some(next) => here = next,
            None => return,
        }
    }
    if let Some(fields) = here.as_object_mut() {
        fields.insert((*last).to_string(), value);
    }
}
