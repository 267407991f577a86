//! One phone's lane: what waits for it, what is on its way, and what may go next. Pure: moments
//! and answers come in, requests and outcomes go out. Must know nothing of other phones, which is
//! why none of them can delay this one.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::action::{Action, ActionId, Lane, Message, Outcome, PhoneId, REPLACED, Urgency};
use crate::alert::AlertId;
use crate::delivery::attempt::{self, Attempt, Next};
use crate::delivery::push::payload::Form;
use crate::delivery::push::{PushRequest, Verdict};
use crate::record::Subscription;

/// Attempts on their way to one phone at once. More would not arrive sooner, and services throttle
/// a phone that gets many at a time.
pub const IN_FLIGHT_MAX: usize = 4;
/// So many of them are for alarms alone: a service that hangs on the ordinary cannot delay them.
pub const IN_FLIGHT_FOR_ALARMS: usize = 1;
/// Messages waiting for one phone. Nobody reads more; and at about 1 kB each a dead phone costs
/// 1 MB at most. Alarms are never dropped: they may exceed it, bounded by their deadlines.
pub const WAITING_MAX: usize = 1000;

/// What stands in the journal for a message that was never attempted.
const NEVER_TRIED: &str = "never attempted: it waited behind a pause or other messages";

/// Who goes first; ordered, first first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Alarm,
    Urgent,
    Ordinary,
}

/// A message's place: its class, then its arrival. It keeps the place through all attempts.
type Place = (Class, u64);

#[derive(Debug)]
struct Job {
    action: ActionId,
    lane: Lane,
    alert: Option<AlertId>,
    message: Arc<Message>,
    deadline: Timestamp,
    form: Form,
    /// Attempts begun.
    attempts: u32,
    /// No attempt before this.
    not_before: Timestamp,
    /// The last fault.
    last: Option<String>,
}

#[derive(Debug)]
struct Flight {
    job: Job,
    place: Place,
    /// Which subscription it went to: [`PhoneLane::generation`].
    generation: u64,
    /// A newer one with its tag has come: it is not tried again.
    replaced: bool,
    /// Cut off, the attempt goes no further.
    cut: CancellationToken,
}

/// An action that has come to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Which.
    pub action: ActionId,
    /// How.
    pub outcome: Outcome,
    /// After how many attempts.
    pub attempts: u32,
}

/// Alerts of which nothing is begun, and for those that are over, why.
pub type Held = HashMap<AlertId, Option<String>>;

/// One attempt to begin now.
#[derive(Debug)]
pub struct Start {
    /// Where to.
    pub to: Arc<Subscription>,
    /// What.
    pub request: PushRequest,
    /// Which attempt it is, counted from 1.
    pub number: u32,
    /// Cancelled when the attempt must go no further.
    pub cut: CancellationToken,
}

/// What an answer led to.
#[derive(Debug, Default)]
pub struct Answered {
    /// Actions that ended with it.
    pub ended: Vec<Ended>,
    /// The subscription ended too, for this reason.
    pub unsubscribed: Option<String>,
}

/// See the module.
#[derive(Debug)]
pub struct PhoneLane {
    phone: PhoneId,
    subscription: Option<Arc<Subscription>>,
    /// Counts subscriptions, so that an answer about an old one does not end the new one.
    generation: u64,
    waiting: BTreeMap<Place, Job>,
    flying: HashMap<ActionId, Flight>,
    /// The service asked for silence until then.
    paused_until: Timestamp,
    /// So long alarms heed it, too.
    alarms_paused_until: Timestamp,
    arrivals: u64,
}

impl PhoneLane {
    /// An empty lane without a subscription.
    pub fn new(phone: PhoneId) -> PhoneLane {
        PhoneLane {
            phone,
            subscription: None,
            generation: 0,
            waiting: BTreeMap::new(),
            flying: HashMap::new(),
            paused_until: Timestamp::MIN,
            alarms_paused_until: Timestamp::MIN,
            arrivals: 0,
        }
    }

    /// Whether it holds nothing at all and may be forgotten.
    pub fn is_empty(&self) -> bool {
        self.subscription.is_none() && self.waiting.is_empty() && self.flying.is_empty()
    }

    /// Messages that have not come to their end.
    pub fn unsettled(&self) -> usize {
        self.waiting.len() + self.flying.len()
    }

    /// From now on the phone is reached here. What waits goes there; a pause is over. The page
    /// tells its subscription at every visit: the same one again changes nothing.
    pub fn subscribe(&mut self, subscription: Subscription) {
        if self.subscription.as_deref() == Some(&subscription) {
            return;
        }
        self.subscription = Some(Arc::new(subscription));
        self.generation += 1;
        self.paused_until = Timestamp::MIN;
        self.alarms_paused_until = Timestamp::MIN;
    }

    /// The phone can no longer be reached: all that waits ends.
    pub fn unsubscribe(&mut self, why: &str) -> Vec<Ended> {
        self.subscription = None;
        self.generation += 1;
        let gone = || Outcome::Gone { why: why.to_owned() };
        std::mem::take(&mut self.waiting).into_values().map(|job| job.end(gone())).collect()
    }

    /// Takes one message. A repeat of one that is not settled changes nothing.
    pub fn add(&mut self, action: &Action, message: &Message, now: Timestamp) -> Vec<Ended> {
        if self.knows(action.id) {
            return Vec::new();
        }
        let job = Job::new(action, message, now);
        if self.subscription.is_none() {
            return vec![job.end(Outcome::Gone { why: "the phone has no subscription".into() })];
        }
        let mut ended = self.replace_older(message.tag.as_deref());
        ended.extend(self.make_room(&job));
        if job.lane == Lane::Normal && self.waiting.len() >= WAITING_MAX {
            ended.push(job.end(queue_full()));
            return ended;
        }
        self.arrivals += 1;
        self.waiting.insert((job.class(), self.arrivals), job);
        ended
    }

    fn knows(&self, action: ActionId) -> bool {
        self.flying.contains_key(&action) || self.waiting.values().any(|job| job.action == action)
    }

    /// A newer message with the same tag would replace the older on the phone, so the older is not
    /// worth sending any more, and must not arrive after it. Alarms are sent all the same.
    fn replace_older(&mut self, tag: Option<&str>) -> Vec<Ended> {
        let Some(tag) = tag else { return Vec::new() };
        let replaces =
            |job: &Job| job.lane == Lane::Normal && job.message.tag.as_deref() == Some(tag);
        for flight in self.flying.values_mut().filter(|flight| replaces(&flight.job)) {
            flight.replaced = true;
        }
        let replaced = self.waiting.extract_if(.., |_, job| replaces(job));
        replaced.map(|(_, job)| job.end(Outcome::Expired { last: REPLACED.into() })).collect()
    }

    /// Drops the oldest of the least urgent, never an alarm, if the lane is full.
    fn make_room(&mut self, newcomer: &Job) -> Option<Ended> {
        if self.waiting.len() < WAITING_MAX {
            return None;
        }
        let worst = self.waiting.last_key_value().map(|((class, _), _)| *class)?;
        if worst == Class::Alarm || worst < newcomer.class() {
            return None;
        }
        let (oldest, _) = self.waiting.range((worst, 0)..).next()?;
        let oldest = *oldest;
        self.waiting.remove(&oldest).map(|job| job.end(queue_full()))
    }

    /// Ends what has passed its deadline while waiting.
    pub fn expire(&mut self, now: Timestamp) -> Vec<Ended> {
        let expired = self.waiting.extract_if(.., |_, job| job.deadline <= now);
        let end = |mut job: Job| {
            let last = job.last.take().unwrap_or_else(|| NEVER_TRIED.into());
            job.end(Outcome::Expired { last })
        };
        expired.map(|(_, job)| end(job)).collect()
    }

    /// Cuts off every attempt for an alert that is on its way.
    pub fn cut(&self, alert: AlertId) {
        let flights = self.flying.values().filter(|flight| flight.job.alert == Some(alert));
        flights.for_each(|flight| flight.cut.cancel());
    }

    /// Ends all that an alert still wanted to tell.
    pub fn withdraw(&mut self, alert: AlertId, why: &str) -> Vec<Ended> {
        let stopped = || Outcome::Stopped { why: why.to_owned() };
        let flying = self.flying.extract_if(|_, flight| flight.job.alert == Some(alert));
        let mut ended: Vec<Ended> = flying
            .map(|(_, flight)| {
                flight.cut.cancel();
                flight.job.end(stopped())
            })
            .collect();
        let waiting = self.waiting.extract_if(.., |_, job| job.alert == Some(alert));
        ended.extend(waiting.map(|(_, job)| job.end(stopped())));
        ended
    }

    /// Begins every attempt that is due and has a slot, in order of class and arrival; none for an
    /// alert that is held.
    pub fn start(&mut self, now: Timestamp, held: &Held) -> Vec<Start> {
        let Some(to) = self.subscription.clone() else { return Vec::new() };
        let mut starts = Vec::new();
        while let Some(place) = self.next_due(now, held) {
            let Some(mut job) = self.waiting.remove(&place) else { break };
            job.attempts += 1;
            let request = job.request(self.phone.clone());
            let cut = CancellationToken::new();
            starts.push(Start { to: to.clone(), request, number: job.attempts, cut: cut.clone() });
            let (generation, action) = (self.generation, job.action);
            self.flying.insert(action, Flight { job, place, generation, replaced: false, cut });
        }
        starts
    }

    fn next_due(&self, now: Timestamp, held: &Held) -> Option<Place> {
        let is_held = |job: &Job| job.alert.is_some_and(|alert| held.contains_key(&alert));
        let mut waiting = self.waiting.iter().filter(|(_, job)| !is_held(job));
        let due = waiting.find(|(_, job)| self.ready_at(job) <= now);
        let (place, job) = due?;
        // Alarms come first in the order, so if the first due is none there is no alarm due.
        let slots = match job.lane {
            Lane::Alarm => IN_FLIGHT_MAX,
            Lane::Normal => IN_FLIGHT_MAX - IN_FLIGHT_FOR_ALARMS,
        };
        (self.flying.len() < slots).then_some(*place)
    }

    fn ready_at(&self, job: &Job) -> Timestamp {
        match job.lane {
            Lane::Alarm => {
                let pause = attempt::alarm_heeds(self.alarms_paused_until, job.deadline);
                job.not_before.max(pause)
            }
            Lane::Normal => job.not_before.max(self.paused_until),
        }
    }

    /// The next moment at which something changes by itself; an answer may come before. To be
    /// asked after [`PhoneLane::start`]: what is due by now waits for a slot, not for a moment.
    pub fn wake_at(&self, now: Timestamp) -> Option<Timestamp> {
        let wake = |job: &Job| match self.ready_at(job) {
            ready if ready > now => ready.min(job.deadline),
            _ => job.deadline,
        };
        self.waiting.values().map(wake).min()
    }

    /// Takes the answer to an attempt that [`PhoneLane::start`] began.
    pub fn answered(&mut self, action: ActionId, verdict: Verdict, now: Timestamp) -> Answered {
        let Some(flight) = self.flying.remove(&action) else { return Answered::default() };
        match verdict {
            Verdict::Gone { why } => self.gone(flight, why, now),
            verdict => {
                self.heed(&verdict, now);
                let ended = self.proceed(flight, &verdict, now);
                Answered { ended: Vec::from_iter(ended), unsubscribed: None }
            }
        }
    }

    /// A service that names a time to wait means the phone, not the message. Alarms heed it, too,
    /// or a throttled phone would be asked hundreds of times; but not for long.
    fn heed(&mut self, verdict: &Verdict, now: Timestamp) {
        if let Verdict::Retry { after: Some(after), .. } = verdict {
            self.paused_until = self.paused_until.max(attempt::later(now, *after));
            let alarms = attempt::later(now, (*after).min(attempt::ALARM_HEEDS_MAX));
            self.alarms_paused_until = self.alarms_paused_until.max(alarms);
        }
    }

    fn proceed(&mut self, flight: Flight, verdict: &Verdict, now: Timestamp) -> Option<Ended> {
        let Flight { mut job, place, replaced, .. } = flight;
        match attempt::next(&job.attempt(), verdict, now) {
            Next::Settle(outcome) => return Some(job.end(outcome)),
            _ if replaced => return Some(job.end(Outcome::Expired { last: REPLACED.into() })),
            _ if self.subscription.is_none() => {
                return Some(job.end(Outcome::Gone { why: "the phone unsubscribed".into() }));
            }
            Next::Wait(until) => job.not_before = until,
            Next::Shorten => job.form = Form::Short,
        }
        if let Verdict::Retry { why, .. } = verdict {
            job.last = Some(why.clone());
        }
        self.waiting.insert(place, job);
        None
    }

    /// The service says that the subscription is no more; if that was an older one, the message is
    /// sent to the one in force.
    fn gone(&mut self, flight: Flight, why: String, now: Timestamp) -> Answered {
        let Flight { mut job, place, generation, .. } = flight;
        if generation == self.generation {
            let mut ended = vec![job.end(Outcome::Gone { why: why.clone() })];
            ended.extend(self.unsubscribe(&why));
            return Answered { ended, unsubscribed: Some(why) };
        }
        if self.subscription.is_none() {
            let ended = vec![job.end(Outcome::Gone { why })];
            return Answered { ended, unsubscribed: None };
        }
        job.not_before = now;
        job.last = Some(why);
        self.waiting.insert(place, job);
        Answered::default()
    }
}

impl Job {
    fn new(action: &Action, message: &Message, now: Timestamp) -> Job {
        Job {
            action: action.id,
            lane: action.lane,
            alert: action.alert,
            message: Arc::new(message.clone()),
            deadline: action.deadline,
            form: Form::Full,
            attempts: 0,
            not_before: action.not_before.unwrap_or(now).max(now),
            last: None,
        }
    }

    fn class(&self) -> Class {
        match (self.lane, self.message.urgency) {
            (Lane::Alarm, _) => Class::Alarm,
            (Lane::Normal, Urgency::High) => Class::Urgent,
            (Lane::Normal, _) => Class::Ordinary,
        }
    }

    fn attempt(&self) -> Attempt {
        Attempt {
            number: self.attempts,
            form: self.form,
            lane: self.lane,
            deadline: self.deadline,
            seed: attempt::seed_of(&self.action),
        }
    }

    fn request(&self, phone: PhoneId) -> PushRequest {
        // An alarm wakes the phone whatever the rule says about urgency.
        let urgency = match self.lane {
            Lane::Alarm => Urgency::High,
            Lane::Normal => self.message.urgency,
        };
        PushRequest {
            action: self.action,
            phone,
            message: self.message.clone(),
            urgency,
            deadline: self.deadline,
            form: self.form,
        }
    }

    fn end(self, outcome: Outcome) -> Ended {
        Ended { action: self.action, outcome, attempts: self.attempts }
    }
}

fn queue_full() -> Outcome {
    Outcome::Refused { why: "queue full".into() }
}

#[cfg(test)]
mod tests;
