//! What an expression sees: the event, the state, the moment and the house's clock, all lazily;
//! and the functions that rules may call. Nothing is converted before it is asked for.

use std::cmp::Ordering as Order;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use minijinja::value::{DynObject, Enumerator, Object, ObjectRepr};
use minijinja::{Environment, Error, ErrorKind, State, UndefinedBehavior, Value};

use super::known::KnownMap;
use super::memory::{Memory, StateEntry};
use crate::event::{Event, Trust};

/// Steps one evaluation may take. The longest sensible template takes a few hundred.
const FUEL_MAX: u64 = 20_000;
/// How deep macros and the like may call each other.
const RECURSION_MAX: usize = 50;
/// The name under which functions find the scene; no rule can spell it, the lint refuses unknown
/// names.
const SCENE: &str = "__scene";

/// What `event.` may be followed by.
pub(super) const EVENT_FIELDS: [&str; 9] =
    ["id", "source", "type", "subject", "time", "received", "trust", "caught_up", "data"];
/// Functions that rules may call, besides minijinja's own.
pub(super) const FUNCTIONS: [&str; 11] = [
    "state",
    "states",
    "is_state",
    "state_age",
    "state_trust",
    "between",
    "now",
    "timed_out",
    "range",
    "dict",
    "namespace",
];

/// Conditions: what is undefined is simply not true, however deep it is asked for.
pub(super) static CONDITIONS: LazyLock<Environment<'static>> =
    LazyLock::new(|| environment(UndefinedBehavior::Chainable));
/// Texts: what is undefined must not quietly become an empty word.
pub(super) static TEXTS: LazyLock<Environment<'static>> =
    LazyLock::new(|| environment(UndefinedBehavior::Strict));

fn environment(undefined: UndefinedBehavior) -> Environment<'static> {
    let mut env = Environment::new();
    env.set_undefined_behavior(undefined);
    env.set_fuel(Some(FUEL_MAX));
    env.set_recursion_limit(RECURSION_MAX);
    env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    env.remove_global("debug");
    env.add_function("state", |state: &State, path: &str| Ok(scene(state)?.state(path)));
    env.add_function("states", |state: &State, path: &str| {
        let value = scene(state)?.state(path);
        Ok::<_, Error>(if value.is_undefined() { "unknown".into() } else { value.to_string() })
    });
    env.add_function("is_state", |state: &State, path: &str, wanted: Value| {
        let value = scene(state)?.state(path);
        let same = !value.is_undefined()
            && (value == wanted || wanted.as_str().is_some_and(|text| text == value.to_string()));
        Ok::<_, Error>(same)
    });
    env.add_function("state_age", |state: &State, path: &str| Ok(scene(state)?.state_age(path)));
    env.add_function(
        "state_trust",
        |state: &State, path: &str| Ok(scene(state)?.state_trust(path)),
    );
    env.add_function("between", |state: &State, from: &str, to: &str| {
        let (from, to) = (clock_time(from)?, clock_time(to)?);
        Ok::<_, Error>(is_between(scene(state)?.local_now().time(), from, to))
    });
    env.add_function("timed_out", |state: &State| {
        Ok::<_, Error>(scene(state)?.timed_out.load(Ordering::Relaxed))
    });
    env.add_function("now", |state: &State| {
        Ok::<_, Error>(Value::from_object(Moment(scene(state)?.local_now())))
    });
    env
}

fn scene(state: &State) -> Result<Arc<Scene>, Error> {
    let found = state.lookup(SCENE).and_then(|value| value.downcast_object::<Scene>());
    found.ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "there is no event here"))
}

fn clock_time(text: &str) -> Result<jiff::civil::Time, Error> {
    parse_clock_time(text).ok_or_else(|| {
        let message = format!("\"{text}\" is no time of day such as \"23:00\"");
        Error::new(ErrorKind::InvalidOperation, message)
    })
}

/// `23:00` or `23:00:30`.
pub(super) fn parse_clock_time(text: &str) -> Option<jiff::civil::Time> {
    let plain = text.len() <= 8 && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b':');
    let padded = if text.find(':') == Some(1) { format!("0{text}") } else { text.to_string() };
    padded.parse().ok().filter(|_| plain && text.contains(':'))
}

/// From `from` up to but not including `to`, over midnight if `to` comes first.
fn is_between(now: jiff::civil::Time, from: jiff::civil::Time, to: jiff::civil::Time) -> bool {
    if from <= to { from <= now && now < to } else { now >= from || now < to }
}

/// What one event's rules see. One per decision, shared by all of its expressions.
pub(super) struct Scene {
    event: Arc<Event>,
    /// Made when first asked for: most rules name single fields, which need none.
    event_view: OnceLock<Value>,
    state: Arc<BTreeMap<String, StateEntry>>,
    known: Arc<KnownMap>,
    now: Timestamp,
    zone: TimeZone,
    /// The least trust of the event and the state read since [`Scene::begin`].
    trust: AtomicU8,
    /// Whether the last `wait` ended because its time was over.
    timed_out: AtomicBool,
}

impl Scene {
    pub fn new(event: &Arc<Event>, memory: &Memory, now: Timestamp, zone: &TimeZone) -> Arc<Scene> {
        Arc::new(Scene {
            event: Arc::clone(event),
            event_view: OnceLock::new(),
            state: memory.shared_state(),
            known: memory.shared_known(),
            now,
            zone: zone.clone(),
            trust: AtomicU8::new(event.trust as u8),
            timed_out: AtomicBool::new(false),
        })
    }

    fn event_view(&self) -> &Value {
        self.event_view.get_or_init(|| {
            let event = Arc::clone(&self.event);
            let data = Value::from_object(DataView(Arc::clone(&event)));
            Value::from_object(EventView { event, data, zone: self.zone.clone() })
        })
    }

    /// The context of an evaluation.
    pub fn context(self: &Arc<Scene>) -> Value {
        Value::from_dyn_object(Arc::clone(self))
    }

    pub fn event(&self) -> &Arc<Event> {
        &self.event
    }

    pub fn now(&self) -> Timestamp {
        self.now
    }

    pub fn local_now(&self) -> Zoned {
        self.now.to_zoned(self.zone.clone())
    }

    pub fn zone(&self) -> &TimeZone {
        &self.zone
    }

    /// Forgets what was read before: the next rule answers for its own reading only.
    pub fn begin(&self) {
        self.trust.store(self.event.trust as u8, Ordering::Relaxed);
    }

    /// What follows can be vouched for no further than this.
    pub fn lower(&self, trust: Trust) {
        self.trust.fetch_min(trust as u8, Ordering::Relaxed);
    }

    /// Says how the last `wait` ended.
    pub fn set_timed_out(&self, timed_out: bool) {
        self.timed_out.store(timed_out, Ordering::Relaxed);
    }

    /// The least trust of the event and of all state read since [`Scene::begin`].
    pub fn trust(&self) -> Trust {
        let least = self.trust.load(Ordering::Relaxed);
        [Trust::Unverified, Trust::Authentic, Trust::Fresh, Trust::Human]
            .into_iter()
            .find(|trust| *trust as u8 == least)
            .unwrap_or(Trust::Unverified)
    }

    /// What a system told of itself or a state variable; reading it lowers the trust of what
    /// follows.
    fn entry(&self, path: &str) -> Option<&StateEntry> {
        let entry = self.known.get(path).or_else(|| self.state.get(path))?;
        self.trust.fetch_min(entry.trust as u8, Ordering::Relaxed);
        Some(entry)
    }

    /// The value of a state, or undefined.
    pub fn state(&self, path: &str) -> Value {
        self.entry(path).map_or(Value::UNDEFINED, |entry| json_value(&entry.value))
    }

    /// A field inside a state, without a copy of all the others.
    pub fn state_field(&self, path: &str, names: &[Box<str>]) -> Value {
        let mut found = self.entry(path).map(|entry| &entry.value);
        for name in names {
            found = found.and_then(|value| value.get(&**name));
        }
        found.map_or(Value::UNDEFINED, json_value)
    }

    /// How far a state can be vouched for, or undefined.
    pub fn state_trust(&self, path: &str) -> Value {
        let trust = self.entry(path).map(|entry| Value::from(entry.trust.as_str()));
        trust.unwrap_or(Value::UNDEFINED)
    }

    /// Seconds since a state was set, or undefined. A clock that went back makes no negative age.
    pub fn state_age(&self, path: &str) -> Value {
        let Some(entry) = self.entry(path) else { return Value::UNDEFINED };
        Value::from(self.now.duration_since(entry.at).as_secs().max(0))
    }

    /// `event.` followed by these names.
    pub fn path(&self, names: &[Box<str>]) -> Value {
        let Some((first, rest)) = names.split_first() else { return self.event_view().clone() };
        if &**first != "data" {
            let value = self.event_view().get_attr(first).unwrap_or_default();
            return rest.iter().fold(value, |value, name| value.get_attr(name).unwrap_or_default());
        }
        let Some((field, deeper)) = rest.split_first() else {
            return self.event_view().get_attr("data").unwrap_or_default();
        };
        let mut found = self.event.data.get(&**field);
        for name in deeper {
            found = found.and_then(|value| value.get(&**name));
        }
        found.map_or(Value::UNDEFINED, json_value)
    }
}

impl fmt::Debug for Scene {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scene").field("event", &self.event.id).finish_non_exhaustive()
    }
}

impl Object for Scene {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        match key {
            "event" => Some(self.event_view().clone()),
            SCENE => Some(self.context()),
            _ => None,
        }
    }
}

#[derive(Debug)]
struct EventView {
    event: Arc<Event>,
    data: Value,
    zone: TimeZone,
}

impl Object for EventView {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        let event = &self.event;
        let moment = |at: Timestamp| Value::from_object(Moment(at.to_zoned(self.zone.clone())));
        match key {
            "data" => Some(self.data.clone()),
            "type" => Some(Value::from(event.kind.as_str())),
            "source" => Some(Value::from(event.source.as_str())),
            "subject" => event.subject.as_deref().map(Value::from),
            "id" => Some(Value::from(event.id.to_string())),
            "time" => Some(moment(event.time.unwrap_or(event.received))),
            "received" => Some(moment(event.received)),
            "trust" => Some(Value::from(event.trust.as_str())),
            "caught_up" => Some(Value::from(event.marks.caught_up)),
            _ => None,
        }
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Str(&EVENT_FIELDS)
    }
}

#[derive(Debug)]
struct DataView(Arc<Event>);

impl Object for DataView {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        self.0.data.get(key).map(json_value)
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.0.data.keys().map(|key| Value::from(key.as_str())).collect())
    }
}

/// A moment on the house's clock: `now().hour`, `event.time.strftime("%H:%M")`.
#[derive(Debug)]
pub(super) struct Moment(Zoned);

impl Object for Moment {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let at = &self.0;
        Some(match key.as_str()? {
            "year" => Value::from(at.year()),
            "month" => Value::from(at.month()),
            "day" => Value::from(at.day()),
            "hour" => Value::from(at.hour()),
            "minute" => Value::from(at.minute()),
            "second" => Value::from(at.second()),
            "weekday" => Value::from(at.strftime("%A").to_string().to_lowercase()),
            _ => return None,
        })
    }

    fn call_method(
        self: &Arc<Self>,
        _: &mut State<'_, '_>,
        method: &str,
        args: &[Value],
    ) -> Result<Value, Error> {
        let monday_first = i64::from(self.0.weekday().to_monday_zero_offset());
        match (method, args) {
            ("isoformat", []) => Ok(Value::from(self.to_string())),
            ("timestamp", []) => Ok(Value::from(self.0.timestamp().as_second())),
            ("weekday", []) => Ok(Value::from(monday_first)),
            ("isoweekday", []) => Ok(Value::from(monday_first + 1)),
            ("strftime", [format]) => {
                let format = format.as_str().unwrap_or_default();
                let text = jiff::fmt::strtime::format(format, &self.0);
                let wrong = |error| Error::new(ErrorKind::InvalidOperation, format!("{error}"));
                text.map(Value::from).map_err(wrong)
            }
            _ => Err(Error::from(ErrorKind::UnknownMethod)),
        }
    }

    fn custom_cmp(self: &Arc<Self>, other: &DynObject) -> Option<Order> {
        Some(self.0.timestamp().cmp(&other.downcast_ref::<Moment>()?.0.timestamp()))
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.strftime("%Y-%m-%dT%H:%M:%S%:z"))
    }
}

/// A JSON value as expressions see it.
pub(super) fn json_value(json: &serde_json::Value) -> Value {
    use serde_json::Value as Json;
    match json {
        Json::Null => Value::from(()),
        Json::Bool(flag) => Value::from(*flag),
        Json::String(text) => Value::from(text.as_str()),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => Value::from(whole),
            (None, Some(float)) => Value::from(float),
            (None, None) => Value::UNDEFINED,
        },
        Json::Array(items) => Value::from(items.iter().map(json_value).collect::<Vec<_>>()),
        Json::Object(fields) => {
            Value::from_pairs(fields.iter().map(|(name, value)| (name.as_str(), json_value(value))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn between_wraps_midnight() {
        let at = |text: &str| parse_clock_time(text).unwrap();
        let night = |now: &str| is_between(at(now), at("23:00"), at("06:30"));
        assert!(night("23:00") && night("0:00") && night("06:29:59"));
        assert!(!night("06:30") && !night("22:59"));
        assert!(is_between(at("12:00"), at("9:00"), at("17:00")));
        assert!(!is_between(at("17:00"), at("9:00"), at("17:00")));
        for wrong in ["", "25:00", "12", "12:00Z", "noon", "1:2:3:4", "T12:00"] {
            assert!(parse_clock_time(wrong).is_none(), "{wrong}");
        }
    }
}
