//! The alarms that are active, and what makes one activation the same fact whether it was pushed
//! or found in the list: the push names a message and a moment, the list only a number and a
//! duration, and numbers may be used again. Pure.

use std::collections::{BTreeMap, VecDeque};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use super::notification::{Alarm, filled};

/// Ended activations that are remembered, so that a late copy does not raise them again in our
/// state. A poll brings a handful.
const ENDED_MAX: usize = 256;

/// The list gives whole seconds and takes a moment to travel: an activation that seems to have
/// begun no later than this after we heard of it is the one we heard of.
const LISTED_SLACK: SignedDuration = SignedDuration::from_secs(30);

/// How far the EMM's clock may be ahead of ours when its moments must be compared with ours.
const CLOCK_SLACK: SignedDuration = SignedDuration::from_secs(120);

/// The mirror.
#[derive(Debug, Default)]
pub struct Alarms {
    active: BTreeMap<i64, Episode>,
    ended: VecDeque<Ended>,
}

/// One activation.
#[derive(Debug, Clone, PartialEq)]
struct Episode {
    /// Names it among all there ever were.
    key: String,
    /// When we first heard of it.
    heard: Timestamp,
    msg_id: Option<i64>,
    active_time: Option<i64>,
    data: Map<String, Value>,
}

#[derive(Debug)]
struct Ended {
    id: i64,
    key: String,
    active_time: Option<i64>,
    msg_id: Option<i64>,
}

/// What follows from one alarm.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The alarm's number.
    pub id: i64,
    /// Names the activation.
    pub key: String,
    /// Whether it ended.
    pub is_cleared: bool,
    /// What an event carries.
    pub data: Map<String, Value>,
    /// Whether an event is to be told; a copy of what is known only refreshes the state.
    pub is_news: bool,
    /// What becomes of its state; none leaves it.
    pub state: Option<State>,
    /// It was not reported but concluded.
    pub is_concluded: bool,
}

/// What becomes of an alarm's state.
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    /// This.
    Is(Value),
    /// Not active any more.
    Gone,
}

impl Alarms {
    /// The mirror as it was told before a restart: pairs of number and value.
    pub fn restore(known: impl Iterator<Item = Value>) -> Alarms {
        let active = known.filter_map(|value| {
            let Value::Object(mut data) = value else { return None };
            let id = data.get("id")?.as_i64()?;
            let key = data.remove("key")?.as_str()?.to_string();
            let heard = data.remove("heard")?.as_str()?.parse().ok()?;
            let active_time = data.get("active_time").and_then(Value::as_str);
            let active_time = active_time.and_then(|at| at.parse::<Timestamp>().ok());
            let episode = Episode {
                key,
                heard,
                msg_id: data.get("msg_id").and_then(Value::as_i64).filter(|id| *id > 0),
                active_time: active_time.map(Timestamp::as_second),
                data,
            };
            Some((id, episode))
        });
        Alarms { active: active.collect(), ended: VecDeque::new() }
    }

    /// An alarm was pushed.
    pub fn pushed(&mut self, alarm: &Alarm, now: Timestamp) -> Vec<Change> {
        if alarm.is_cleared { vec![self.cleared(alarm)] } else { self.raised(alarm, now) }
    }

    fn raised(&mut self, alarm: &Alarm, now: Timestamp) -> Vec<Change> {
        if let Some(key) = self.ended_key(alarm) {
            // A late copy of what is over.
            return vec![Change::told(alarm.id, key, false, alarm.data.clone(), None)];
        }
        let mut changes = Vec::new();
        let mut heard = now;
        let mut key = pushed_key(alarm);
        if let Some(known) = self.active.get(&alarm.id) {
            if is_same(known, alarm) {
                (heard, key) = (known.heard, known.key.clone());
            } else {
                changes.extend(self.conclude_end(alarm.id));
            }
        }
        let (msg_id, active_time) = (alarm.msg_id, alarm.active_time);
        let episode = Episode { key, heard, msg_id, active_time, data: alarm.data.clone() };
        changes.push(Change::told(
            alarm.id,
            episode.key.clone(),
            false,
            alarm.data.clone(),
            Some(State::Is(episode.state())),
        ));
        self.active.insert(alarm.id, episode);
        changes
    }

    fn cleared(&mut self, alarm: &Alarm) -> Change {
        let tell = |key, state| Change::told(alarm.id, key, true, alarm.data.clone(), state);
        if let Some(known) = self.active.get(&alarm.id)
            && !is_older(alarm.active_time, known.active_time)
            && let Some(known) = self.active.remove(&alarm.id)
        {
            self.remember_end(known.ended(alarm.id));
            return tell(known.key, Some(State::Gone));
        }
        if let Some(key) = self.ended_key(alarm) {
            return tell(key, None);
        }
        // Its beginning may still come: told late, it raises nothing any more.
        let key = pushed_key(alarm);
        let (active_time, msg_id) = (alarm.active_time, alarm.msg_id);
        self.remember_end(Ended { id: alarm.id, key: key.clone(), active_time, msg_id });
        tell(key, None)
    }

    /// The list of active alarms. Only if it is the whole one, what is missing in it is over.
    pub fn listed(&mut self, list: &[Alarm], is_whole: bool, now: Timestamp) -> Vec<Change> {
        let mut changes = Vec::new();
        let is_over = |id: i64, known: &Episode| match list.iter().find(|alarm| alarm.id == id) {
            Some(alarm) => !lasts(known, alarm, now),
            None => is_whole,
        };
        let over = self.active.iter().filter(|(id, known)| is_over(**id, known));
        let over: Vec<i64> = over.map(|(id, _)| *id).collect();
        changes.extend(over.into_iter().filter_map(|id| self.conclude_end(id)));
        for alarm in list {
            if let Some(known) = self.active.get_mut(&alarm.id) {
                changes.extend(refresh(known, alarm));
            } else {
                changes.push(self.found(alarm, now));
            }
        }
        changes
    }

    fn found(&mut self, alarm: &Alarm, now: Timestamp) -> Change {
        let since = alarm.duration.map_or(now, |s| now - SignedDuration::from_secs(s.min(1 << 32)));
        let key = format!("{}:listed:{}", alarm.id, since.as_second());
        let (msg_id, active_time) = (alarm.msg_id, alarm.active_time);
        let data = alarm.data.clone();
        let episode = Episode { key: key.clone(), heard: now, msg_id, active_time, data };
        let state = State::Is(episode.state());
        self.active.insert(alarm.id, episode);
        Change::told(alarm.id, key, false, alarm.data.clone(), Some(state))
    }

    fn conclude_end(&mut self, id: i64) -> Option<Change> {
        let known = self.active.remove(&id)?;
        self.remember_end(known.ended(id));
        let mut data = known.data;
        data.insert("cleared".into(), true.into());
        let mut change = Change::told(id, known.key, true, data, Some(State::Gone));
        change.is_concluded = true;
        Some(change)
    }

    fn remember_end(&mut self, ended: Ended) {
        if self.ended.len() == ENDED_MAX {
            self.ended.pop_front();
        }
        self.ended.push_back(ended);
    }

    /// The key of the ended activation that this is a copy of. Without a moment or a message in
    /// both nobody can tell, and an alarm twice is better than none.
    fn ended_key(&self, alarm: &Alarm) -> Option<String> {
        let same = |ended: &&Ended| {
            ended.id == alarm.id
                && same_moment(ended.active_time, ended.msg_id, alarm).unwrap_or(alarm.is_cleared)
        };
        self.ended.iter().rev().find(same).map(|ended| ended.key.clone())
    }
}

// === impl Change ===

impl Change {
    fn told(
        id: i64,
        key: String,
        is_cleared: bool,
        data: Map<String, Value>,
        state: Option<State>,
    ) -> Change {
        let data = filled(data);
        Change { id, key, is_cleared, data, is_news: true, state, is_concluded: false }
    }
}

// === impl Episode ===

impl Episode {
    fn ended(&self, id: i64) -> Ended {
        let (active_time, msg_id) = (self.active_time, self.msg_id);
        Ended { id, key: self.key.clone(), active_time, msg_id }
    }

    fn state(&self) -> Value {
        let mut value = filled(self.data.clone());
        value.insert("key".into(), self.key.clone().into());
        value.insert("heard".into(), json!(self.heard));
        Value::Object(value)
    }
}

fn pushed_key(alarm: &Alarm) -> String {
    let shown = |number: Option<i64>| number.map_or(String::new(), |n| n.to_string());
    format!("{}:{}:{}", alarm.id, shown(alarm.msg_id), shown(alarm.active_time))
}

/// Whether two activations of one number are the same, where both say when or by which message.
fn same_moment(active_time: Option<i64>, msg_id: Option<i64>, alarm: &Alarm) -> Option<bool> {
    let by_time = active_time.zip(alarm.active_time).map(|(a, b)| a == b);
    by_time.or_else(|| msg_id.zip(alarm.msg_id).map(|(a, b)| a == b))
}

/// Whether a push tells of the activation that we know.
fn is_same(known: &Episode, alarm: &Alarm) -> bool {
    same_moment(known.active_time, known.msg_id, alarm).unwrap_or_else(|| {
        let since = alarm.active_time.and_then(|s| Timestamp::from_second(s).ok());
        since.is_none_or(|since| since <= known.heard.saturating_add(CLOCK_SLACK).unwrap_or(since))
    })
}

fn is_older(this: Option<i64>, known: Option<i64>) -> bool {
    this.zip(known).is_some_and(|(this, known)| this < known)
}

/// Whether the listed alarm is the activation that we know: it began before we heard of it.
fn lasts(known: &Episode, alarm: &Alarm, now: Timestamp) -> bool {
    let began = alarm.duration.map(|s| now - SignedDuration::from_secs(s.min(1 << 32)));
    began.is_none_or(|began| began.duration_since(known.heard) <= LISTED_SLACK)
}

/// What the list says otherwise about a known alarm; its duration grows by itself.
fn refresh(known: &mut Episode, alarm: &Alarm) -> Option<Change> {
    let mut changed = false;
    for (name, value) in &alarm.data {
        if name != "active_duration" && known.data.get(name) != Some(value) {
            known.data.insert(name.clone(), value.clone());
            changed = true;
        }
    }
    let state = State::Is(known.state());
    let mut change =
        Change::told(alarm.id, known.key.clone(), false, known.data.clone(), Some(state));
    change.is_news = false;
    changed.then_some(change)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn pushed(id: i64, since: i64, is_cleared: bool) -> Alarm {
        let active_time = 1_800_000_000 + since;
        let fields = json!({ "id": id, "active_time": active_time, "msg_id": 10 * since,
            "cleared": is_cleared, "name": "Lift" });
        super::super::notification::alarm(fields.as_object().unwrap().clone()).unwrap()
    }

    fn listed(id: i64, duration: i64) -> Alarm {
        let fields = json!({ "id": id, "alarm_name": "Lift", "duration": duration });
        super::super::notification::alarm(fields.as_object().unwrap().clone()).unwrap()
    }

    fn keys(changes: &[Change]) -> Vec<(String, bool)> {
        changes.iter().filter(|c| c.is_news).map(|c| (c.key.clone(), c.is_cleared)).collect()
    }

    #[test]
    fn pushed_and_listed_are_one_fact_in_either_order() {
        let mut alarms = Alarms::default();
        let raised = alarms.pushed(&pushed(1, 5, false), at(20));
        assert_eq!(keys(&raised), [("1:50:1800000005".to_string(), false)]);
        assert_eq!(keys(&alarms.listed(&[listed(1, 95)], true, at(100))), []);
        let gone = alarms.listed(&[], true, at(130));
        assert_eq!(keys(&gone), [("1:50:1800000005".to_string(), true)]);
        assert!(gone[0].is_concluded);
        // The push of the end comes late.
        let late = alarms.pushed(&pushed(1, 5, true), at(131));
        assert_eq!(keys(&late), [("1:50:1800000005".to_string(), true)]);
        assert_eq!(late[0].state, None);

        let found = alarms.listed(&[listed(2, 10)], true, at(200));
        assert_eq!(keys(&found), [("2:listed:1800000190".to_string(), false)]);
        let pushed_late = alarms.pushed(&pushed(2, 190, false), at(230));
        assert_eq!(keys(&pushed_late), [("2:listed:1800000190".to_string(), false)]);
    }

    #[test]
    fn a_number_that_is_used_again_is_another_alarm() {
        let mut alarms = Alarms::default();
        alarms.pushed(&pushed(1, 5, false), at(20));
        alarms.pushed(&pushed(1, 5, true), at(50));
        let again = alarms.pushed(&pushed(1, 60, false), at(80));
        assert_eq!(keys(&again), [("1:600:1800000060".to_string(), false)]);
        // The end and the next beginning were both missed.
        let missed = alarms.listed(&[listed(1, 100)], true, at(400));
        let [end, begin] = keys(&missed).try_into().unwrap();
        assert_eq!(end, ("1:600:1800000060".to_string(), true));
        assert_eq!(begin, ("1:listed:1800000300".to_string(), false));
        let third = alarms.pushed(&pushed(1, 700, false), at(720));
        assert_eq!(keys(&third).len(), 2, "the lost end is concluded");
    }

    #[test]
    fn a_late_copy_raises_nothing_again_and_an_old_end_ends_nothing_new() {
        let mut alarms = Alarms::default();
        alarms.pushed(&pushed(1, 5, false), at(20));
        alarms.pushed(&pushed(1, 5, true), at(50));
        assert_eq!(alarms.pushed(&pushed(1, 5, false), at(51))[0].state, None);
        assert_eq!(alarms.active.len(), 0);
        alarms.pushed(&pushed(1, 60, false), at(80));
        assert_eq!(alarms.pushed(&pushed(1, 5, true), at(81))[0].state, None);
        assert_eq!(alarms.active.len(), 1);
        // The end before the beginning, as a reordered batch tells them.
        let end = alarms.pushed(&pushed(2, 90, true), at(95));
        let begin = alarms.pushed(&pushed(2, 90, false), at(95));
        assert_eq!((end[0].key.clone(), begin[0].state.clone()), (begin[0].key.clone(), None));
    }

    #[test]
    fn a_restart_forgets_nothing() {
        let mut alarms = Alarms::default();
        let raised = alarms.pushed(&pushed(1, 5, false), at(20));
        let Some(State::Is(value)) = raised[0].state.clone() else { panic!("a state") };
        let mut again = Alarms::restore([value].into_iter());
        assert_eq!(keys(&again.pushed(&pushed(1, 5, false), at(90))), keys(&raised));
        assert_eq!(keys(&again.listed(&[], true, at(91))), [("1:50:1800000005".to_string(), true)]);
    }
}
