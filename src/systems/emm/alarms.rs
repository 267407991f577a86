//! The alarms that are active, and what makes one activation the same fact whether it was pushed
//! or found in the list: the push names a message and a moment, the list only a number and a
//! duration, and numbers may be used again. An alarm that is said to be active is never taken for
//! over, and one that is missing only where the list proves it. Pure.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use super::notification::{Alarm, filled};
use super::session::Moment;

/// Ended activations that are remembered, so that a late copy does not raise them again in our
/// state. A poll brings a handful.
const ENDED_MAX: usize = 256;

/// The list gives whole seconds and takes a moment to travel: an activation that seems to have
/// begun no later than this after we heard of it is the one we heard of.
const LISTED_SLACK_S: i64 = 30;

/// Two looks this far apart are two: the second confirms what the first made likely.
const APART_S: i64 = 8;

/// A duration that grew by as much as time went by, give or take the travel of two answers, is a
/// clock; any other is a number that an EMM prints.
const TICK_SLACK_S: i64 = 3;

/// No alarm lasts for ten years; such a duration is none.
const DURATION_S_MAX: i64 = 10 * 365 * 86_400;

/// How far the EMM's clock may be ahead of ours when its moments must be compared with ours.
const CLOCK_SLACK: SignedDuration = SignedDuration::from_secs(120);

/// The mirror.
#[derive(Debug, Default)]
pub struct Alarms {
    active: BTreeMap<i64, Episode>,
    ended: VecDeque<Ended>,
    /// How many activations are behind us, over restarts too: what is found in a list after an end
    /// that was told is never named as what has ended.
    ends: u64,
}

/// What a list proves about the alarms that are not in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cover {
    /// They are over.
    Whole,
    /// They are, if another list says so some seconds later.
    Likely,
    /// Nothing.
    Partial,
}

/// One activation.
#[derive(Debug, Clone, PartialEq)]
struct Episode {
    /// Names it among all there ever were.
    key: String,
    /// When we first heard of it, by the wall clock of then.
    heard: Timestamp,
    /// The same on the clock that nobody turns back, in seconds; before this run it is negative.
    /// None: heard by an earlier run.
    heard_since: Option<i64>,
    /// The duration that a list gave it, and when that was on the same clock.
    listed: Option<(i64, i64)>,
    /// A second look was asked for, to see whether its duration is a clock.
    is_doubted: bool,
    /// Since when lists that are no proof lack it.
    missed: Option<i64>,
    msg_id: Option<i64>,
    active_time: Option<i64>,
    data: Map<String, Value>,
}

/// What the list says of an alarm that we know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sight {
    Same,
    /// It may be another activation; a second look tells.
    Doubtful,
    /// Another activation under the same number.
    Other,
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
    /// The mirror as it was told before a restart: the values, and the count of ends.
    pub fn restore(known: impl Iterator<Item = Value>, ends: u64) -> Alarms {
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
                heard_since: None,
                listed: None,
                is_doubted: false,
                missed: None,
                msg_id: data.get("msg_id").and_then(Value::as_i64).filter(|id| *id > 0),
                active_time: active_time.map(Timestamp::as_second),
                data,
            };
            Some((id, episode))
        });
        Alarms { active: active.collect(), ended: VecDeque::new(), ends }
    }

    /// How many activations are behind us; to be kept for [`Alarms::restore`].
    pub fn ends(&self) -> u64 {
        self.ends
    }

    /// An alarm was pushed, and heard at that moment, which may lie in an earlier run.
    pub fn pushed(&mut self, alarm: &Alarm, heard: Timestamp, now: Moment) -> Vec<Change> {
        if alarm.is_cleared { vec![self.cleared(alarm)] } else { self.raised(alarm, heard, now) }
    }

    fn raised(&mut self, alarm: &Alarm, heard: Timestamp, now: Moment) -> Vec<Change> {
        if let Some(key) = self.ended_key(alarm) {
            // A late copy of what is over.
            return vec![Change::told(alarm.id, key, false, alarm.data.clone(), None)];
        }
        let mut changes = Vec::new();
        if self.active.get_mut(&alarm.id).is_some_and(|known| !known.is_of(alarm, now)) {
            changes.extend(self.conclude_end(alarm.id));
        }
        let mut episode = Episode::new(self.pushed_key(alarm), alarm, heard, now);
        if let Some(known) = self.active.remove(&alarm.id) {
            (episode.key, episode.heard) = (known.key, known.heard);
            (episode.heard_since, episode.listed) = (known.heard_since, known.listed);
            episode.is_doubted = known.is_doubted;
        }
        changes.push(episode.told(alarm.id));
        self.active.insert(alarm.id, episode);
        changes
    }

    fn cleared(&mut self, alarm: &Alarm) -> Change {
        let tell = |key, state| Change::told(alarm.id, key, true, alarm.data.clone(), state);
        let is_over = self.active.get(&alarm.id).is_some_and(|known| {
            let is_another = known.msg_id.zip(alarm.msg_id).is_some_and(|(a, b)| a != b);
            let is_late = is_another && self.ended.iter().any(|ended| ended.is_of(alarm));
            !is_late && !is_older(alarm.active_time, known.active_time)
        });
        if is_over && let Some(known) = self.active.remove(&alarm.id) {
            self.remember_end(known.ended(alarm.id));
            return tell(known.key, Some(State::Gone));
        }
        if let Some(key) = self.ended_key(alarm) {
            return tell(key, None);
        }
        // Its beginning may still come: told late, it raises nothing any more.
        let key = self.pushed_key(alarm);
        let (active_time, msg_id) = (alarm.active_time, alarm.msg_id);
        self.remember_end(Ended { id: alarm.id, key: key.clone(), active_time, msg_id });
        tell(key, None)
    }

    /// The list of active alarms: what follows, and whether a second look is needed. What is in it
    /// is active, whatever else it says.
    pub fn listed(&mut self, list: &[Alarm], cover: Cover, now: Moment) -> (Vec<Change>, bool) {
        let (over, mut is_doubtful) = self.missing(list, cover, now);
        let mut changes: Vec<Change> =
            over.into_iter().filter_map(|id| self.conclude_end(id)).collect();
        for alarm in list {
            let Some(known) = self.active.get_mut(&alarm.id) else {
                changes.push(self.found(alarm, now));
                continue;
            };
            match known.sight(alarm, now) {
                Sight::Other => {
                    // The end of the one before was not heard, and the alarm is active: told is
                    // only that it began anew.
                    let known = known.ended(alarm.id);
                    self.remember_end(known);
                    changes.push(self.found(alarm, now));
                }
                sight => {
                    is_doubtful |= sight == Sight::Doubtful;
                    changes.extend(refresh(known, alarm));
                }
            }
        }
        (changes, is_doubtful)
    }

    /// The known alarms that are over since the list lacks them, and whether there may be more.
    fn missing(&mut self, list: &[Alarm], cover: Cover, now: Moment) -> (Vec<i64>, bool) {
        let there: BTreeSet<i64> = list.iter().map(|alarm| alarm.id).collect();
        let (mut over, mut is_doubtful) = (Vec::new(), false);
        for (id, known) in &mut self.active {
            if there.contains(id) {
                known.missed = None;
            } else if cover == Cover::Whole {
                over.push(*id);
            } else if cover == Cover::Likely {
                let missed = *known.missed.get_or_insert(seconds(now));
                let is_over = missed + APART_S <= seconds(now);
                over.extend(is_over.then_some(*id));
                is_doubtful |= !is_over;
            }
        }
        (over, is_doubtful)
    }

    fn found(&mut self, alarm: &Alarm, now: Moment) -> Change {
        let duration = duration(alarm).unwrap_or_default();
        let since = now.wall.as_second() - duration;
        let key = format!("{}:listed:{since}:{}", alarm.id, self.ends);
        let mut episode = Episode::new(key, alarm, now.wall, now);
        episode.listed = self::duration(alarm).map(|duration| (duration, seconds(now)));
        let change = episode.told(alarm.id);
        self.active.insert(alarm.id, episode);
        change
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
        self.ends += 1;
        if self.ended.len() == ENDED_MAX {
            self.ended.pop_front();
        }
        self.ended.push_back(ended);
    }

    /// The key of the ended activation that this is a copy of. Without a moment or a message in
    /// both nobody can tell, and an alarm twice is better than none; so is one that has the moment
    /// of what has ended, and another message.
    fn ended_key(&self, alarm: &Alarm) -> Option<String> {
        let newest = || self.ended.iter().rev().filter(|ended| ended.id == alarm.id);
        let near = |ended: &&Ended| {
            alarm.is_cleared && same_moment(ended.active_time, ended.msg_id, alarm).unwrap_or(true)
        };
        let found = newest().find(|ended| ended.is_of(alarm)).or_else(|| newest().find(near));
        found.map(|ended| ended.key.clone())
    }

    fn pushed_key(&self, alarm: &Alarm) -> String {
        let shown = |number: Option<i64>| number.map_or(String::new(), |n| n.to_string());
        let key = format!("{}:{}:{}", alarm.id, shown(alarm.msg_id), shown(alarm.active_time));
        let says_which = alarm.msg_id.or(alarm.active_time).is_some();
        if says_which { key } else { format!("{key}:{}", self.ends) }
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
    fn new(key: String, alarm: &Alarm, heard: Timestamp, now: Moment) -> Episode {
        Episode {
            key,
            heard,
            heard_since: Some(seconds(now) - age(heard, now)),
            listed: None,
            is_doubted: false,
            missed: None,
            msg_id: alarm.msg_id,
            active_time: alarm.active_time,
            data: alarm.data.clone(),
        }
    }

    fn ended(&self, id: i64) -> Ended {
        let (active_time, msg_id) = (self.active_time, self.msg_id);
        Ended { id, key: self.key.clone(), active_time, msg_id }
    }

    fn told(&self, id: i64) -> Change {
        let state = State::Is(self.state());
        Change::told(id, self.key.clone(), false, self.data.clone(), Some(state))
    }

    fn state(&self) -> Value {
        let mut value = filled(self.data.clone());
        value.insert("key".into(), self.key.clone().into());
        value.insert("heard".into(), json!(self.heard));
        Value::Object(value)
    }

    /// What an earlier run heard is placed once by the wall clock, which may be turned later on.
    fn heard_since(&mut self, now: Moment) -> i64 {
        let age = age(self.heard, now);
        *self.heard_since.get_or_insert(seconds(now) - age)
    }

    /// Whether a push tells of this activation.
    fn is_of(&mut self, alarm: &Alarm, now: Moment) -> bool {
        let age = SignedDuration::from_secs(seconds(now) - self.heard_since(now));
        let heard = now.wall.saturating_sub(age).unwrap_or(self.heard);
        same_moment(self.active_time, self.msg_id, alarm).unwrap_or_else(|| {
            let since = alarm.active_time.and_then(|s| Timestamp::from_second(s).ok());
            since.is_none_or(|since| since <= heard.saturating_add(CLOCK_SLACK).unwrap_or(since))
        })
    }

    /// Whether the listed alarm is this activation. Where the list gives no moment, only a duration
    /// that grows as time goes by, and began after we heard of it, is another one.
    fn sight(&mut self, alarm: &Alarm, now: Moment) -> Sight {
        if let Some((known, listed)) = self.active_time.zip(alarm.active_time) {
            return if listed > known { Sight::Other } else { Sight::Same };
        }
        let Some(duration) = duration(alarm) else { return Sight::Same };
        let (at, heard) = (seconds(now), self.heard_since(now));
        let is_later = at - duration > heard + LISTED_SLACK_S;
        if let Some((before, then)) = self.listed {
            if at - then < APART_S {
                return if is_later { Sight::Doubtful } else { Sight::Same };
            }
            let is_clock = (duration - before - (at - then)).abs() <= TICK_SLACK_S;
            if is_later && is_clock {
                return Sight::Other;
            }
        }
        self.listed = Some((duration, at));
        if is_later && !std::mem::replace(&mut self.is_doubted, true) {
            return Sight::Doubtful;
        }
        Sight::Same
    }
}

// === impl Ended ===

impl Ended {
    /// Whether it is the same activation in all that both say, and they say something.
    fn is_of(&self, alarm: &Alarm) -> bool {
        let both = [self.active_time.zip(alarm.active_time), self.msg_id.zip(alarm.msg_id)];
        let mut both = both.into_iter().flatten().peekable();
        self.id == alarm.id && both.peek().is_some() && both.all(|(a, b)| a == b)
    }
}

fn seconds(now: Moment) -> i64 {
    now.since.as_secs() as i64
}

/// How long ago by the wall clock; never in the future.
fn age(heard: Timestamp, now: Moment) -> i64 {
    now.wall.duration_since(heard).as_secs().max(0)
}

fn duration(alarm: &Alarm) -> Option<i64> {
    alarm.duration.filter(|duration| *duration <= DURATION_S_MAX)
}

/// Whether two activations of one number are the same, where both say when or by which message.
fn same_moment(active_time: Option<i64>, msg_id: Option<i64>, alarm: &Alarm) -> Option<bool> {
    let by_time = active_time.zip(alarm.active_time).map(|(a, b)| a == b);
    by_time.or_else(|| msg_id.zip(alarm.msg_id).map(|(a, b)| a == b))
}

fn is_older(this: Option<i64>, known: Option<i64>) -> bool {
    this.zip(known).is_some_and(|(this, known)| this < known)
}

/// What the list says otherwise about a known alarm; its duration grows by itself.
fn refresh(known: &mut Episode, alarm: &Alarm) -> Option<Change> {
    let mut changed = false;
    known.active_time = known.active_time.or(alarm.active_time);
    known.msg_id = known.msg_id.or(alarm.msg_id);
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
mod tests;
