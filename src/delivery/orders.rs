//! The commands that wait for one system: in which order they go, when one is sent again and when
//! it is given up. Pure: no clock, no I/O. One command is on its way at a time, so that "on" and
//! "off" arrive in the order in which rules said them; beside it one message of the alarm lane may be,
//! which needs no order and must not wait for a system that is slow with something else.

use std::collections::VecDeque;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use crate::action::{Action, ActionId, Lane, Outcome, Task};
use crate::alert::{AlertId, message_number};
use crate::command::Repeat;
use crate::delivery::attempt;
use crate::record::Settled;
use crate::systems::link::Reply;

/// Commands that wait for one system, at most; a system that is away for a day must not fill the
/// memory. Alarms may always wait.
pub const WAITING_MAX: usize = 1000;
/// The first wait before a command is sent again, doubling up to [`AGAIN_AFTER_MAX`].
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// The longest such wait.
const AGAIN_AFTER_MAX: Duration = Duration::from_secs(30);
/// How long a system's wish to be left alone is heeded: a mistaken header of days must not silence
/// it for good.
const HEED_MAX: Duration = Duration::from_secs(3600);
/// The waits before a message is sent again that may have arrived: there are so many further
/// attempts and no more. A lost answer costs a person two copies at most, a short failure nothing.
const MAYBE_AGAIN_AFTER: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(60)];

/// Commands for one system.
#[derive(Debug, Default)]
pub struct Queue {
    alarm: VecDeque<Job>,
    normal: VecDeque<Job>,
    on_way: Option<Job>,
    /// A message of the alarm lane, beside what else is on its way.
    alarm_on_way: Option<Job>,
    /// The system asked to be left alone until then.
    paused_until: Option<Timestamp>,
    /// So long alarms heed it, too.
    alarms_paused_until: Option<Timestamp>,
    closed: bool,
}

#[derive(Debug)]
struct Job {
    action: Action,
    repeat: Repeat,
    attempts: u32,
    not_before: Timestamp,
    /// Attempts of which nobody knows whether they arrived.
    unanswered: usize,
    last: String,
}

/// What is to be done now.
#[derive(Debug, PartialEq)]
pub enum Turn {
    /// Send this one.
    Send(Box<Action>),
    /// Nothing before this moment.
    Wait(Timestamp),
    /// Nothing until something comes.
    Idle,
}

// === impl Queue ===

impl Queue {
    /// A command that waits from now on; how it ended, if it may not.
    pub fn push(&mut self, action: Action, now: Timestamp) -> Option<Settled> {
        let Task::Command(command) = &action.task else { return None };
        let repeat = command.repeat;
        let job = Job {
            repeat,
            attempts: 0,
            not_before: now,
            unanswered: 0,
            last: "not sent yet".into(),
            action,
        };
        if self.closed {
            return job.closed(now);
        }
        if job.action.lane != Lane::Alarm && self.normal.len() >= WAITING_MAX {
            return Some(job.ended(Outcome::Refused { why: "too many commands wait".into() }, now));
        }
        self.lane(job.action.lane).push_back(job);
        None
    }

    /// After a restart: nobody knows what became of a command that may be sent only once.
    pub fn push_owed(&mut self, action: Action, now: Timestamp) -> Option<Settled> {
        let Task::Command(command) = &action.task else { return None };
        if command.repeat == Repeat::Never {
            let why = "Portero was stopped before the answer came; it is not sent again".into();
            return Some(settled(action.id, Outcome::Unknown { why }, 0, now));
        }
        self.push(action, now)
    }

    /// What has ended by itself, and what to do now.
    pub fn turn(&mut self, now: Timestamp) -> (Vec<Settled>, Turn) {
        let mut ended = Vec::new();
        for lane in [&mut self.alarm, &mut self.normal] {
            let (late, rest) =
                std::mem::take(lane).into_iter().partition(|job: &Job| job.action.deadline <= now);
            *lane = rest;
            ended.extend(late.into_iter().map(|job: Job| job.too_late(now)));
        }
        if self.closed {
            return (ended, Turn::Idle);
        }
        if let Some(job) = self.next(now) {
            let action = Box::new(job.action.clone());
            match job.is_alarm_message() {
                true => self.alarm_on_way = Some(job),
                false => self.on_way = Some(job),
            }
            return (ended, Turn::Send(action));
        }
        // What could go now and has not waits for an answer, or behind what keeps its place.
        let wake = |job: &Job| match self.ready_at(job) {
            ready if ready > now => ready.min(job.action.deadline),
            _ => job.action.deadline,
        };
        let wake = self.alarm.iter().chain(&self.normal).map(wake).min();
        (ended, wake.map_or(Turn::Idle, Turn::Wait))
    }

    /// Takes out what goes now: a message of the alarm lane first, which waits for nothing but
    /// another one.
    fn next(&mut self, now: Timestamp) -> Option<Job> {
        if self.alarm_on_way.is_none() {
            let ready = |job: &Job| job.is_alarm_message() && self.ready_at(job) <= now;
            let at = self.alarm.iter().position(ready);
            if let Some(job) = at.and_then(|at| self.alarm.remove(at)) {
                return Some(job);
            }
        }
        if self.on_way.is_some() {
            return None;
        }
        for lane in [Lane::Alarm, Lane::Normal] {
            let at = self.ready_in(lane, now);
            if let Some(job) = at.and_then(|at| self.lane(lane).remove(at)) {
                return Some(job);
            }
        }
        None
    }

    /// Which command of a lane may go now, apart from messages of the alarm lane.
    fn ready_in(&self, lane: Lane, now: Timestamp) -> Option<usize> {
        let jobs = match lane {
            Lane::Alarm => &self.alarm,
            Lane::Normal => &self.normal,
        };
        // A command that sets something keeps its place: what waits behind it may undo it.
        let blocked =
            jobs.iter().position(|job| self.ready_at(job) > now && job.repeat != Repeat::Better);
        let mut within = jobs.iter().take(blocked.unwrap_or(jobs.len()));
        within.position(|job| !job.is_alarm_message() && self.ready_at(job) <= now)
    }

    fn ready_at(&self, job: &Job) -> Timestamp {
        let pause = match job.action.lane {
            Lane::Normal => self.paused_until,
            Lane::Alarm => self
                .alarms_paused_until
                .map(|until| attempt::alarm_heeds(until, job.action.deadline)),
        };
        pause.map_or(job.not_before, |pause| pause.max(job.not_before))
    }

    /// How one on its way went; its end and what the system answered, unless it is sent again.
    pub fn answered(
        &mut self,
        action: ActionId,
        reply: Reply,
        now: Timestamp,
    ) -> Option<(Settled, Value)> {
        let mut job = self.take_on_way(action)?;
        job.attempts += 1;
        let outcome = match reply {
            Reply::Done(value) => return Some((job.done(&value, now), value)),
            Reply::Refused(why) => Outcome::Refused { why },
            Reply::Unknown(why) if job.repeat == Repeat::Never => Outcome::Unknown { why },
            Reply::Unknown(why) => {
                job.unanswered += 1;
                match job.maybe_again_after() {
                    Some(wait) => return self.again(job, why, wait, now),
                    None => Outcome::Unknown { why: format!("{} times: {why}", job.unanswered) },
                }
            }
            Reply::Unsent(why) => {
                let wait = job.again_after();
                return self.again(job, why, wait, now);
            }
            Reply::Later { why, after } => {
                self.heed(after, now);
                let wait = job.again_after();
                return self.again(job, why, wait, now);
            }
        };
        Some((job.ended(outcome, now), Value::Null))
    }

    /// A system that names a time to wait means all that it is told. Alarms heed it, too, but not
    /// for long.
    fn heed(&mut self, after: Duration, now: Timestamp) {
        let until = attempt::later(now, after.min(HEED_MAX));
        self.paused_until = self.paused_until.max(Some(until));
        let alarms = attempt::later(now, after.min(attempt::ALARM_HEEDS_MAX));
        self.alarms_paused_until = self.alarms_paused_until.max(Some(alarms));
    }

    fn take_on_way(&mut self, action: ActionId) -> Option<Job> {
        let is_it = |job: &mut Job| job.action.id == action;
        self.on_way.take_if(is_it).or_else(|| self.alarm_on_way.take_if(is_it))
    }

    /// One that was about to be sent is not: somebody has its alert in hand.
    pub fn stopped(&mut self, action: ActionId, why: &str, now: Timestamp) -> Option<Settled> {
        let job = self.take_on_way(action)?;
        Some(job.ended(Outcome::Stopped { why: why.to_owned() }, now))
    }

    /// Ends all that this alert still wanted to tell.
    pub fn withdraw(&mut self, alert: AlertId, why: &str, now: Timestamp) -> Vec<Settled> {
        let mut ended = Vec::new();
        for lane in [&mut self.alarm, &mut self.normal] {
            let (gone, rest): (VecDeque<Job>, VecDeque<Job>) =
                std::mem::take(lane).into_iter().partition(|job| job.action.alert == Some(alert));
            *lane = rest;
            let stopped = || Outcome::Stopped { why: why.to_owned() };
            ended.extend(gone.into_iter().map(|job| job.ended(stopped(), now)));
        }
        ended
    }

    /// Sends nothing more. What may be sent only once has ended with that; the rest is owed.
    pub fn close(&mut self, now: Timestamp) -> Vec<Settled> {
        self.closed = true;
        let waiting = self.alarm.drain(..).chain(self.normal.drain(..));
        waiting.filter_map(|job| job.closed(now)).collect()
    }

    /// Whether any is on its way.
    pub fn is_busy(&self) -> bool {
        self.on_way.is_some() || self.alarm_on_way.is_some()
    }

    fn again(
        &mut self,
        mut job: Job,
        why: String,
        wait: Duration,
        now: Timestamp,
    ) -> Option<(Settled, Value)> {
        (job.last, job.not_before) = (why, now + wait);
        if self.closed {
            return Some((job.closed(now)?, Value::Null));
        }
        if job.action.deadline <= job.not_before {
            return Some((job.too_late(now), Value::Null));
        }
        let lane = self.lane(job.action.lane);
        match job.repeat {
            // Messages need no order among each other, and one must not hold up the rest.
            Repeat::Better => lane.push_back(job),
            Repeat::Never | Repeat::Harmless => lane.push_front(job),
        }
        None
    }

    fn lane(&mut self, lane: Lane) -> &mut VecDeque<Job> {
        match lane {
            Lane::Alarm => &mut self.alarm,
            Lane::Normal => &mut self.normal,
        }
    }
}

impl Job {
    /// Whether it needs no order and waits for nothing else.
    fn is_alarm_message(&self) -> bool {
        self.action.lane == Lane::Alarm && self.repeat == Repeat::Better
    }

    fn again_after(&self) -> Duration {
        let doublings = self.attempts.saturating_sub(1).min(10);
        AGAIN_AFTER.saturating_mul(1 << doublings).min(AGAIN_AFTER_MAX)
    }

    /// The wait after an attempt that may have arrived; none if it was the last one. What sets
    /// something or only asks may go as often as it takes.
    fn maybe_again_after(&self) -> Option<Duration> {
        match self.repeat {
            Repeat::Better => MAYBE_AGAIN_AFTER.get(self.unanswered.checked_sub(1)?).copied(),
            Repeat::Never | Repeat::Harmless => Some(self.again_after()),
        }
    }

    /// Done; a message's number is kept, since somebody may read it there.
    fn done(&self, value: &Value, now: Timestamp) -> Settled {
        let number = value.get("message_id").filter(|_| self.repeat == Repeat::Better);
        Settled { message: number.and_then(message_number), ..self.ended(Outcome::Done, now) }
    }

    fn ended(&self, outcome: Outcome, now: Timestamp) -> Settled {
        settled(self.action.id, outcome, self.attempts, now)
    }

    fn too_late(self, now: Timestamp) -> Settled {
        let outcome = match self.unanswered > 0 {
            true => Outcome::Unknown { why: self.last.clone() },
            false => Outcome::Expired { last: self.last.clone() },
        };
        self.ended(outcome, now)
    }

    /// Its end when Portero stops before it was sent, if it must not wait for the next start.
    fn closed(&self, now: Timestamp) -> Option<Settled> {
        let why = "Portero stopped before it was sent".into();
        (self.repeat == Repeat::Never).then(|| self.ended(Outcome::Refused { why }, now))
    }
}

fn settled(action: ActionId, outcome: Outcome, attempts: u32, at: Timestamp) -> Settled {
    Settled::new(action, outcome, attempts, at)
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;
    use crate::command::Command;
    use crate::event::{EventId, Trust};

    fn at(seconds: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds)
    }

    fn action(name: &str, repeat: Repeat, lane: Lane) -> Action {
        let command = Command {
            to: "emm/block".into(),
            call: name.into(),
            args: Default::default(),
            repeat,
            trust: Trust::Fresh,
        };
        Action {
            id: ActionId::derive(EventId([0; 16]), name, "do[0]", "emm/block"),
            rule: name.into(),
            step: "do[0]".into(),
            deadline: at(60),
            not_before: None,
            lane,
            alert: None,
            task: Task::Command(Box::new(command)),
        }
    }

    fn sent(queue: &mut Queue, now: i64) -> Option<String> {
        match queue.turn(at(now)).1 {
            Turn::Send(action) => Some(action.rule),
            Turn::Wait(_) | Turn::Idle => None,
        }
    }

    /// The answer to what was sent last under this name.
    fn answered(queue: &mut Queue, name: &str, reply: Reply, now: i64) -> Option<(Settled, Value)> {
        let id = action(name, Repeat::Better, Lane::Normal).id;
        queue.answered(id, reply, at(now))
    }

    #[test]
    fn alarms_go_first_and_wait_for_nothing_else() {
        let mut queue = Queue::default();
        queue.push(action("light", Repeat::Harmless, Lane::Normal), at(0));
        queue.push(action("off", Repeat::Harmless, Lane::Normal), at(0));
        queue.push(action("shutters", Repeat::Harmless, Lane::Alarm), at(0));
        queue.push(action("smoke", Repeat::Better, Lane::Alarm), at(0));
        assert_eq!(sent(&mut queue, 0).as_deref(), Some("smoke"));
        assert_eq!(sent(&mut queue, 0).as_deref(), Some("shutters"));
        assert_eq!(sent(&mut queue, 0), None);
        answered(&mut queue, "shutters", Reply::Done(Value::Null), 1).unwrap();
        assert_eq!(sent(&mut queue, 1).as_deref(), Some("light"));
        let (end, value) = answered(&mut queue, "smoke", Reply::Done(Value::from(1)), 1).unwrap();
        assert_eq!((end.outcome, value), (Outcome::Done, Value::from(1)));
        // One beside the ordinary one, and another after it.
        queue.push(action("fire", Repeat::Better, Lane::Alarm), at(1));
        queue.push(action("water", Repeat::Better, Lane::Alarm), at(1));
        assert_eq!(sent(&mut queue, 1).as_deref(), Some("fire"));
        assert_eq!(queue.turn(at(1)).1, Turn::Wait(at(60)));
        answered(&mut queue, "fire", Reply::Done(Value::Null), 2).unwrap();
        assert_eq!(sent(&mut queue, 2).as_deref(), Some("water"));
        // Settings keep their order whatever goes beside them.
        assert_eq!(sent(&mut queue, 2), None);
        answered(&mut queue, "light", Reply::Done(Value::Null), 3).unwrap();
        assert_eq!(sent(&mut queue, 3).as_deref(), Some("off"));
        assert!(queue.is_busy());
    }

    #[test]
    fn a_systems_wish_to_wait_is_heeded_and_by_alarms_for_a_moment() {
        let mut queue = Queue::default();
        for name in ["one", "two"] {
            queue.push(action(name, Repeat::Better, Lane::Normal), at(0));
        }
        assert_eq!(sent(&mut queue, 0).as_deref(), Some("one"));
        let later = |after| Reply::Later { why: "429".into(), after: Duration::from_secs(after) };
        assert!(answered(&mut queue, "one", later(30), 0).is_none());
        assert_eq!(queue.turn(at(0)).1, Turn::Wait(at(30)));
        queue.push(action("smoke", Repeat::Better, Lane::Alarm), at(1));
        assert_eq!(queue.turn(at(1)).1, Turn::Wait(at(15)));
        assert_eq!(sent(&mut queue, 15).as_deref(), Some("smoke"));
        answered(&mut queue, "smoke", Reply::Done(Value::Null), 15).unwrap();
        assert_eq!(sent(&mut queue, 29), None);
        assert_eq!(sent(&mut queue, 30).as_deref(), Some("two"));
    }

    #[test]
    fn what_may_be_sent_once_is_never_sent_twice() {
        let mut queue = Queue::default();
        queue.push(action("open", Repeat::Never, Lane::Normal), at(0));
        assert!(sent(&mut queue, 0).is_some());
        let (end, _) = answered(&mut queue, "open", Reply::Unknown("cut".into()), 1).unwrap();
        assert_eq!(end.outcome, Outcome::Unknown { why: "cut".into() });
        assert_eq!(queue.turn(at(5)).1, Turn::Idle);
        // Nor after a restart, whatever became of it.
        let owed = queue.push_owed(action("open", Repeat::Never, Lane::Normal), at(6)).unwrap();
        assert!(matches!(owed.outcome, Outcome::Unknown { .. }));
        assert_eq!(queue.turn(at(6)).1, Turn::Idle);
    }

    #[test]
    fn what_never_left_is_sent_when_it_can_be_and_ends_in_time() {
        let mut queue = Queue::default();
        queue.push(action("open", Repeat::Never, Lane::Normal), at(0));
        sent(&mut queue, 0);
        assert!(answered(&mut queue, "open", Reply::Unsent("not connected".into()), 0).is_none());
        assert_eq!(queue.turn(at(0)).1, Turn::Wait(at(1)));
        assert!(sent(&mut queue, 1).is_some());
        answered(&mut queue, "open", Reply::Unsent("not connected".into()), 1);
        let (ended, turn) = queue.turn(at(60));
        assert_eq!(ended[0].outcome, Outcome::Expired { last: "not connected".into() });
        assert_eq!(turn, Turn::Idle);
    }

    #[test]
    fn a_setting_keeps_its_place_and_a_message_does_not() {
        let mut queue = Queue::default();
        queue.push(action("on", Repeat::Harmless, Lane::Normal), at(0));
        queue.push(action("off", Repeat::Harmless, Lane::Normal), at(0));
        sent(&mut queue, 0);
        answered(&mut queue, "on", Reply::Unknown("cut".into()), 0);
        assert_eq!(sent(&mut queue, 0), None);
        assert_eq!(sent(&mut queue, 1).as_deref(), Some("on"));
        answered(&mut queue, "on", Reply::Done(Value::Null), 1);
        assert_eq!(sent(&mut queue, 1).as_deref(), Some("off"));
        answered(&mut queue, "off", Reply::Done(Value::Null), 1);
        queue.push(action("first", Repeat::Better, Lane::Alarm), at(2));
        queue.push(action("second", Repeat::Better, Lane::Alarm), at(2));
        sent(&mut queue, 2);
        answered(&mut queue, "first", Reply::Unknown("cut".into()), 2);
        assert_eq!(sent(&mut queue, 2).as_deref(), Some("second"));
    }

    #[test]
    fn a_message_that_may_have_arrived_is_sent_twice_more_at_most() {
        let mut queue = Queue::default();
        let mut message = action("smoke", Repeat::Better, Lane::Alarm);
        message.deadline = at(3600);
        queue.push(message, at(0));
        let mut sent_at = Vec::new();
        for now in 0..3600 {
            if sent(&mut queue, now).is_none() {
                continue;
            }
            sent_at.push(now);
            // Ten attempts between them certainly never left, and count for nothing.
            let reply = match (6..=80).contains(&now) {
                true => Reply::Unsent("not connected".into()),
                false => Reply::Unknown("cut".into()),
            };
            if let Some((end, _)) = answered(&mut queue, "smoke", reply, now) {
                assert_eq!(end.outcome, Outcome::Unknown { why: "3 times: cut".into() });
                assert_eq!(end.attempts as usize, sent_at.len());
            }
        }
        sent_at.retain(|at| !(6..=80).contains(at));
        assert_eq!(sent_at.len(), 3, "{sent_at:?}");
        assert_eq!(sent_at[..2], [0, 5]);
        assert!(sent_at[2] > 80);
        assert_eq!(queue.turn(at(3600)), (vec![], Turn::Idle));
    }

    #[test]
    fn what_changes_nothing_a_second_time_is_sent_as_often_as_it_takes() {
        let mut queue = Queue::default();
        queue.push(action("on", Repeat::Harmless, Lane::Normal), at(0));
        let mut attempts = 0;
        for now in 0..60 {
            if sent(&mut queue, now).is_some() {
                attempts += 1;
                answered(&mut queue, "on", Reply::Unknown("cut".into()), now);
            }
        }
        assert!(attempts > 3, "{attempts}");
    }

    #[test]
    fn closing_ends_what_may_be_sent_only_once_and_leaves_the_rest_owed() {
        let mut queue = Queue::default();
        queue.push(action("open", Repeat::Never, Lane::Normal), at(0));
        queue.push(action("smoke", Repeat::Better, Lane::Alarm), at(0));
        let ended = queue.close(at(1));
        assert_eq!(ended.len(), 1);
        assert!(matches!(ended[0].outcome, Outcome::Refused { .. }));
        assert!(queue.push(action("late", Repeat::Never, Lane::Normal), at(1)).is_some());
        assert!(queue.push(action("late", Repeat::Better, Lane::Normal), at(1)).is_none());
    }
}
