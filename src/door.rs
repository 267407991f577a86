//! Doors as the config names them, and one wish to open one. Words only: whether a door opens is
//! decided in [`crate::doors`], and it is opened in [`crate::delivery::doors`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::action::PhoneId;
use crate::command::{Command, Repeat};
use crate::event::{EventId, Marks, Trust};

/// How old news may be for a door if the config does not say: as long as somebody who has just
/// rung stands there.
pub const MAX_AGE_DEFAULT: Duration = Duration::from_secs(10);
/// Shorter and no message arrives in time; longer and whoever rang has gone.
pub const MAX_AGE: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];
/// The most times of a rate: beyond it, it limits nothing.
pub const RATE_TIMES_MAX: u32 = 1000;
/// The longest span of a rate.
pub const RATE_PER_MAX: Duration = Duration::from_secs(3600);

/// All events about doors begin like this.
pub const EVENTS: &str = "portero.door.";
/// A door's own signal says that it opened.
pub const CONFIRMED: &str = "portero.door.confirmed";
/// A door's own signal did not come.
pub const UNCONFIRMED: &str = "portero.door.unconfirmed";

/// A door.
#[derive(Debug, Clone, PartialEq)]
pub struct Door {
    /// Its name in the config.
    pub name: String,
    /// What people call it.
    pub title: Option<String>,
    /// What opens it.
    pub by: Opener,
    /// The least trust of what may open it.
    pub requires: Trust,
    /// How old the news may be that opens it.
    pub max_age: Duration,
    /// How often it opens at most.
    pub max_rate: Rate,
}

/// What opens a door.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opener {
    /// A relay of a FIBARO Intercom.
    Fibaro {
        /// The intercom's name in the config.
        intercom: String,
        /// 0 or 1.
        relay: u8,
    },
    /// A lock that Netatmo's cloud reaches.
    Netatmo {
        /// The account's name in the config.
        home: String,
        /// The lock's id.
        module: String,
        /// The id of the device that reaches it, if the account has several.
        bridge: Option<String>,
    },
    /// An intercom of a VMS.
    Vms {
        /// The VMS's name in the config.
        site: String,
        /// The intercom's id or title.
        intercom: String,
    },
}

/// So many times in so long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How often at most.
    pub times: u32,
    /// Within this span.
    pub per: Duration,
}

/// All doors of a house, and who may open them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Doors {
    /// By their name.
    pub all: BTreeMap<String, Door>,
    /// The doors of each person who may open any.
    pub rights: BTreeMap<String, BTreeSet<String>>,
}

/// One wish to open one door.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Opening {
    /// Which door.
    pub door: String,
    /// For how long; the system's own time if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_ms: Option<u64>,
    /// The least trust of what led to it.
    pub trust: Trust,
    /// The marks of the event that led to it.
    #[serde(default, skip_serializing_if = "Marks::is_plain")]
    pub marks: Marks,
    /// When that event was received.
    pub received: Timestamp,
    /// When it happened by its source, if the source says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Timestamp>,
    /// Who wants it open.
    pub by: By,
    /// The event that a rule acted on, or that a person saw when pressing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<EventId>,
    /// The hops of the event that led to it ([`crate::event::HOPS_MAX`]).
    #[serde(default)]
    pub hops: u8,
}

/// Who opens a door.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// A rule, by itself.
    Rule,
    /// A person on a paired phone.
    Person {
        /// Who.
        person: String,
        /// On which phone.
        phone: PhoneId,
        /// What that phone is called.
        #[serde(default)]
        device: String,
    },
    /// Somebody at the machine's own terminal.
    Terminal,
}

// === impl Door ===

impl Door {
    /// What people call it: its title, else its name.
    pub fn shown(&self) -> &str {
        self.title.as_deref().unwrap_or(&self.name)
    }

    /// The system that opens it: `fibaro/gate`.
    pub fn system(&self) -> String {
        match &self.by {
            Opener::Fibaro { intercom, .. } => format!("fibaro/{intercom}"),
            Opener::Netatmo { home, .. } => format!("netatmo/{home}"),
            Opener::Vms { site, .. } => format!("vms/{site}"),
        }
    }

    /// Whether it can be told for how long to open.
    pub fn takes_time(&self) -> bool {
        matches!(self.by, Opener::Fibaro { .. })
    }

    /// The path of the state that says whether it is open, if the system tells.
    pub fn state_path(&self) -> Option<String> {
        match &self.by {
            Opener::Fibaro { intercom, relay } => Some(format!("fibaro/{intercom}/relay/{relay}")),
            Opener::Netatmo { .. } | Opener::Vms { .. } => None,
        }
    }

    /// The system's own command that opens it.
    pub fn command(&self, for_ms: Option<u64>, trust: Trust) -> Command {
        let (call, args) = self.call();
        let mut args: Map<String, Value> =
            args.into_iter().map(|(name, value)| (name.to_string(), value)).collect();
        if let Some(ms) = for_ms.filter(|_| self.takes_time()) {
            args.insert("timeout".into(), ms.into());
        }
        let (to, call) = (self.system(), call.to_string());
        Command { to, call, args, repeat: Repeat::Never, trust }
    }

    /// The name of that command, and what tells this door from the system's others.
    pub fn call(&self) -> (&'static str, Vec<(&'static str, Value)>) {
        match &self.by {
            Opener::Fibaro { relay, .. } => ("relay.open", vec![("relay", (*relay).into())]),
            Opener::Netatmo { module, bridge, .. } => {
                let bridge = bridge.iter().map(|bridge| ("bridge", bridge.as_str().into()));
                let module = ("module", module.as_str().into());
                ("unlock", std::iter::once(module).chain(bridge).collect())
            }
            Opener::Vms { intercom, .. } => {
                ("open_door", vec![("intercom", intercom.as_str().into())])
            }
        }
    }

    /// Whether a command to a system would open this door past its rules. `None` where an
    /// argument is not known yet.
    pub fn is_opened_by(
        &self,
        to: &str,
        call: &str,
        arg: impl Fn(&str) -> Option<Value>,
    ) -> Option<bool> {
        let (own, args) = self.call();
        if self.system() != to || own != call {
            return Some(false);
        }
        let mut certain = true;
        for (name, value) in args.iter().filter(|(name, _)| *name != "bridge") {
            let (given, own) = (arg(name).map(|given| plain(&given)), plain(value));
            match given {
                Some(given) if given == own => {}
                // A name and an id may mean the same thing.
                Some(given) if is_id(&given) == is_id(&own) => return Some(false),
                Some(_) | None => certain = false,
            }
        }
        certain.then_some(true)
    }
}

/// Whether a text is an id, as systems give them, and no name.
fn is_id(text: &str) -> bool {
    text.contains(':') || text.bytes().all(|byte| byte.is_ascii_digit())
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_string)
}

// === impl Doors ===

impl Doors {
    /// The door of this name.
    pub fn get(&self, name: &str) -> Option<&Door> {
        self.all.get(name)
    }

    /// Whether a person may open a door.
    pub fn may(&self, person: &str, door: &str) -> bool {
        self.rights.get(person).is_some_and(|doors| doors.contains(door))
    }

    /// The people who may open a door.
    pub fn people_of<'d>(&'d self, door: &'d str) -> impl Iterator<Item = &'d str> {
        let may = move |(person, doors): (&'d String, &'d BTreeSet<String>)| {
            doors.contains(door).then_some(person.as_str())
        };
        self.rights.iter().filter_map(may)
    }

    /// The door that a command would open past the door's own rules, or might open.
    pub fn opened_by(
        &self,
        to: &str,
        call: &str,
        arg: impl Fn(&str) -> Option<Value>,
    ) -> Option<&Door> {
        self.all.values().find(|door| door.is_opened_by(to, call, &arg) != Some(false))
    }
}

// === impl Rate ===

impl Default for Rate {
    fn default() -> Rate {
        Rate { times: 6, per: Duration::from_secs(60) }
    }
}

impl FromStr for Rate {
    type Err = ();

    /// `6/min`.
    fn from_str(text: &str) -> Result<Rate, ()> {
        let (times, per) = text.split_once('/').ok_or(())?;
        let times = times.trim().parse().map_err(|_| ())?;
        let per = match per.trim() {
            "s" => 1,
            "min" => 60,
            "h" => RATE_PER_MAX.as_secs(),
            _ => return Err(()),
        };
        if !(1..=RATE_TIMES_MAX).contains(&times) {
            return Err(());
        }
        Ok(Rate { times, per: Duration::from_secs(per) })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per = match self.per.as_secs() {
            1 => "s",
            60 => "min",
            _ => "h",
        };
        write!(f, "{}/{per}", self.times)
    }
}

// === impl By ===

impl By {
    /// The person, if it is one on a phone.
    pub fn person(&self) -> Option<&str> {
        match self {
            By::Person { person, .. } => Some(person),
            By::Rule | By::Terminal => None,
        }
    }

    /// The word in events and on the page.
    pub fn as_str(&self) -> &'static str {
        match self {
            By::Rule => "rule",
            By::Person { .. } => "person",
            By::Terminal => "terminal",
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn gate() -> Door {
        Door {
            name: "gate".into(),
            title: None,
            by: Opener::Fibaro { intercom: "gate".into(), relay: 1 },
            requires: Trust::Fresh,
            max_age: MAX_AGE_DEFAULT,
            max_rate: Rate::default(),
        }
    }

    #[test]
    fn a_rate_is_a_number_and_a_span() {
        for text in ["6/min", "1/s", "30/h"] {
            assert_eq!(text.parse::<Rate>().unwrap().to_string(), text);
        }
        for wrong in ["", "6", "6/day", "0/min", "-1/min", "1001/h", "x/min", "6/min/h"] {
            assert_eq!(wrong.parse::<Rate>(), Err(()), "{wrong}");
        }
    }

    #[test]
    fn a_door_knows_its_command_and_who_would_go_past_it() {
        let door = gate();
        let command = door.command(Some(3000), Trust::Fresh);
        assert_eq!((command.to.as_str(), command.call.as_str()), ("fibaro/gate", "relay.open"));
        assert_eq!(Value::Object(command.args), json!({ "relay": 1, "timeout": 3000 }));
        let with = |relay: Option<Value>| move |_: &str| relay.clone();
        let opened = |relay| door.is_opened_by("fibaro/gate", "relay.open", with(relay));
        assert_eq!(opened(Some(json!(1))), Some(true));
        assert_eq!(opened(Some(json!("1"))), Some(true));
        assert_eq!(opened(Some(json!(0))), Some(false));
        assert_eq!(opened(None), None);
        // A name may mean the same as an id.
        let by = Opener::Vms { site: "block".into(), intercom: "180".into() };
        let lobby = Door { by, ..door.clone() };
        let opened =
            |which: &str| lobby.is_opened_by("vms/block", "open_door", with(Some(json!(which))));
        assert_eq!(["180", "181", "Lobby"].map(opened), [Some(true), Some(false), None]);
        let other = door.is_opened_by("fibaro/gate", "relay.state", with(Some(json!(1))));
        assert_eq!(other, Some(false));
    }

    #[test]
    fn an_opening_survives_the_journal() {
        let opening = Opening {
            door: "gate".into(),
            for_ms: Some(3000),
            trust: Trust::Human,
            marks: Marks::default(),
            received: Timestamp::UNIX_EPOCH,
            time: None,
            by: By::Person { person: "ana".into(), phone: PhoneId("p".into()), device: "x".into() },
            event: Some(EventId([7; 16])),
            hops: 1,
        };
        let json = serde_json::to_string(&opening).unwrap();
        assert_eq!(serde_json::from_str::<Opening>(&json).unwrap(), opening);
    }
}
