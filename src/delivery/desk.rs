//! All lanes together: who gets an action, which lane must be looked at next, and the records
//! that come out. Pure like the lanes; the task that sends and sleeps is in [`super`].

use std::collections::{BTreeSet, HashMap};

use jiff::Timestamp;

use crate::action::{Action, ActionId, Outcome, PhoneId, Task};
use crate::alert::AlertId;
use crate::delivery::lane::{Ended, Held, PhoneLane, Start};
use crate::delivery::push::Verdict;
use crate::record::{PhoneChange, Record, Settled, Subscription};

/// The answer to one attempt.
#[derive(Debug)]
pub struct Answer {
    /// Which phone's lane it belongs to.
    pub phone: PhoneId,
    /// What was attempted.
    pub action: ActionId,
    /// How it went.
    pub verdict: Verdict,
}

/// What is to be done after the desk was changed.
#[derive(Debug, Default)]
pub struct Turn {
    /// Attempts to begin.
    pub starts: Vec<Start>,
    /// Records to journal.
    pub records: Vec<Record>,
    /// The next moment to come back, unless something else happens before.
    pub wake: Option<Timestamp>,
    /// No attempts will begin any more.
    pub closed: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Desk {
    lanes: HashMap<PhoneId, PhoneLane>,
    /// When each lane must be looked at; lanes that wait for nothing are not in it.
    wakes: BTreeSet<(Timestamp, PhoneId)>,
    /// Where each lane stands in `wakes`.
    wake_of: HashMap<PhoneId, Timestamp>,
    starts: Vec<Start>,
    records: Vec<Record>,
    closed: bool,
    /// Alerts of which nothing is begun: somebody has just acknowledged them.
    held: Held,
}

impl Desk {
    /// Puts each push into its phone's lane.
    pub fn act(&mut self, actions: &[Action], now: Timestamp) {
        for action in actions {
            let Task::Push { phone, message } = &action.task else { continue };
            if let Some(why) = action.alert.and_then(|alert| self.held.get(&alert)?.clone()) {
                let outcome = Outcome::Stopped { why };
                let ended = Ended { action: action.id, outcome, attempts: 0 };
                self.records.push(settled(ended, now));
            } else {
                self.at_lane(phone, now, |lane| lane.add(action, message, now));
            }
        }
    }

    /// From now on nothing of this alert is begun, and what is on its way goes no further.
    pub fn hold(&mut self, alert: AlertId) {
        self.held.entry(alert).or_default();
        self.lanes.values().for_each(|lane| lane.cut(alert));
    }

    /// What is held goes on, unless it has ended meanwhile.
    pub fn release(&mut self, alert: AlertId, now: Timestamp) {
        if self.held.get(&alert) == Some(&None) {
            self.held.remove(&alert);
            let phones: Vec<PhoneId> = self.lanes.keys().cloned().collect();
            phones.iter().for_each(|phone| self.at_lane(phone, now, |_| Vec::new()));
        }
    }

    /// Ends all that this alert still wanted to tell.
    pub fn withdraw(&mut self, alert: AlertId, why: &str, now: Timestamp) {
        self.held.insert(alert, Some(why.to_owned()));
        let phones: Vec<PhoneId> = self.lanes.keys().cloned().collect();
        for phone in phones {
            self.at_lane(&phone, now, |lane| lane.withdraw(alert, why));
        }
    }

    /// Follows what happens to phones.
    pub fn phone(&mut self, change: &PhoneChange, now: Timestamp) {
        match change {
            PhoneChange::Subscribed { id, subscription, .. } => {
                self.subscribe(id, subscription.clone(), now);
            }
            PhoneChange::Unsubscribed { id, why, .. } => {
                self.at_lane(id, now, |lane| lane.unsubscribe(why));
            }
            PhoneChange::Removed { id, .. } => {
                self.at_lane(id, now, |lane| lane.unsubscribe("the phone was removed"));
            }
            PhoneChange::Invited { .. } | PhoneChange::Added { .. } | PhoneChange::Alive { .. } => {
            }
        }
    }

    /// From now on the phone is reached here.
    pub fn subscribe(&mut self, id: &PhoneId, subscription: Subscription, now: Timestamp) {
        self.at_lane(id, now, |lane| {
            lane.subscribe(subscription);
            Vec::new()
        });
    }

    /// Takes the answer to an attempt.
    pub fn answered(&mut self, answer: Answer, now: Timestamp) {
        let Answer { phone, action, verdict } = answer;
        let mut unsubscribed = None;
        self.at_lane(&phone, now, |lane| {
            let answered = lane.answered(action, verdict, now);
            unsubscribed = answered.unsubscribed;
            answered.ended
        });
        if let Some(why) = unsubscribed {
            let change = PhoneChange::Unsubscribed { id: phone, why, at: now };
            self.records.push(Record::Phone(change));
        }
    }

    /// Begins no attempts from now on.
    pub fn close(&mut self) {
        self.closed = true;
        // Those that were about to begin have not: their actions stay owed.
        self.starts.clear();
    }

    /// Actions taken and not settled.
    pub fn unsettled(&self) -> usize {
        self.lanes.values().map(PhoneLane::unsettled).sum()
    }

    /// Looks at every lane whose moment has come, and hands out all that has gathered.
    pub fn turn(&mut self, now: Timestamp) -> Turn {
        while let Some((wake, _)) = self.wakes.first()
            && *wake <= now
            && !self.closed
        {
            let Some((_, id)) = self.wakes.pop_first() else { break };
            self.wake_of.remove(&id);
            self.at_lane(&id, now, |_| Vec::new());
        }
        let wake = self.wakes.first().map(|(wake, _)| *wake).filter(|_| !self.closed);
        Turn {
            starts: std::mem::take(&mut self.starts),
            records: std::mem::take(&mut self.records),
            wake,
            closed: self.closed,
        }
    }

    /// Changes one lane, then does what follows: expire, begin, note when to look again.
    fn at_lane(
        &mut self,
        id: &PhoneId,
        now: Timestamp,
        change: impl FnOnce(&mut PhoneLane) -> Vec<Ended>,
    ) {
        let lane = self.lanes.entry(id.clone()).or_insert_with(|| PhoneLane::new(id.clone()));
        let mut ended = change(lane);
        ended.extend(lane.expire(now));
        if !self.closed {
            self.starts.extend(lane.start(now, &self.held));
        }
        let wake = lane.wake_at(now);
        if lane.is_empty() {
            self.lanes.remove(id);
        }
        self.records.extend(ended.into_iter().map(|ended| settled(ended, now)));
        self.wake(id, wake);
    }

    fn wake(&mut self, id: &PhoneId, at: Option<Timestamp>) {
        if self.wake_of.get(id).copied() == at {
            return;
        }
        if let Some(old) = self.wake_of.remove(id) {
            self.wakes.remove(&(old, id.clone()));
        }
        if let Some(at) = at {
            self.wakes.insert((at, id.clone()));
            self.wake_of.insert(id.clone(), at);
        }
    }
}

fn settled(ended: Ended, at: Timestamp) -> Record {
    let Ended { action, outcome, attempts } = ended;
    Record::Settled(Settled::new(action, outcome, attempts, at))
}
