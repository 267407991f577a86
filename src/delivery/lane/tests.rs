//! A lane's promises, with moments and answers by hand.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::action::Task;

/// A lane under test, and the moment it believes in.
struct World {
    lane: PhoneLane,
    now: Timestamp,
    made: u8,
}

impl World {
    fn new() -> World {
        let mut lane = PhoneLane::new(PhoneId("00112233aabbccdd".into()));
        lane.subscribe(subscription("one"));
        World { lane, now: "2026-11-20T10:00:00Z".parse().unwrap(), made: 0 }
    }

    /// Adds a message that lives for a minute; `tag` may be empty.
    fn add(&mut self, lane: Lane, urgency: Urgency, tag: &str) -> (u8, Vec<Ended>) {
        self.made += 1;
        let action = self.action(self.made, lane);
        let tag = (!tag.is_empty()).then(|| tag.to_owned());
        let message = Message { urgency, tag, ..Message::default() };
        (self.made, self.lane.add(&action, &message, self.now))
    }

    fn action(&self, name: u8, lane: Lane) -> Action {
        let id = ActionId([name; 16]);
        let deadline = attempt::later(self.now, Duration::from_secs(60));
        let message = Box::new(Message::default());
        let task = Task::Push { phone: PhoneId("00112233aabbccdd".into()), message };
        Action {
            id,
            rule: "r".into(),
            step: "do[0]".into(),
            deadline,
            not_before: None,
            lane,
            alert: None,
            task,
        }
    }

    fn normal(&mut self) -> u8 {
        self.add(Lane::Normal, Urgency::Normal, "").0
    }

    fn alarm(&mut self) -> u8 {
        self.add(Lane::Alarm, Urgency::Normal, "").0
    }

    fn start(&mut self) -> Vec<u8> {
        self.lane
            .start(self.now, &Held::new())
            .iter()
            .map(|start| start.request.action.0[0])
            .collect()
    }

    fn answer(&mut self, name: u8, verdict: Verdict) -> Answered {
        self.lane.answered(ActionId([name; 16]), verdict, self.now)
    }

    fn pass(&mut self, ms: u64) {
        self.now = attempt::later(self.now, Duration::from_millis(ms));
    }
}

fn subscription(path: &str) -> Subscription {
    let endpoint = format!("https://push.example.org/{path}");
    Subscription { endpoint, p256dh: String::new(), auth: String::new(), vapid: String::new() }
}

fn throttled(s: u64) -> Verdict {
    Verdict::Retry { after: Some(Duration::from_secs(s)), why: "429".into() }
}

fn names(ended: &[Ended]) -> Vec<(u8, String)> {
    let text = |outcome: &Outcome| match outcome {
        Outcome::Expired { last } => format!("expired: {last}"),
        Outcome::Refused { why } => format!("refused: {why}"),
        Outcome::Gone { why } => format!("gone: {why}"),
        other => other.label().to_owned(),
    };
    ended.iter().map(|ended| (ended.action.0[0], text(&ended.outcome))).collect()
}

#[test]
fn alarms_go_first_then_the_urgent_then_by_arrival() {
    let mut world = World::new();
    let (first, second) = (world.normal(), world.normal());
    let (urgent, _) = world.add(Lane::Normal, Urgency::High, "");
    let alarm = world.alarm();
    assert_eq!(world.start(), [alarm, urgent, first]);
    assert_eq!(world.start(), [0u8; 0]);
    world.answer(alarm, Verdict::Done);
    assert_eq!(world.start(), [second]);
}

#[test]
fn hanging_messages_leave_a_slot_for_an_alarm() {
    let mut world = World::new();
    let hanging: Vec<u8> = (0..6).map(|_| world.normal()).collect();
    assert_eq!(world.start(), hanging[..3]);
    let alarm = world.alarm();
    assert_eq!(world.start(), [alarm]);
    let late = world.alarm();
    assert_eq!(world.start(), [0u8; 0]);
    world.answer(hanging[0], Verdict::Done);
    assert_eq!(world.start(), [late]);
}

#[test]
fn a_message_that_is_tried_again_does_not_block_later_ones() {
    let mut world = World::new();
    let stuck = world.normal();
    world.start();
    world.answer(stuck, Verdict::retry("500"));
    let later = world.normal();
    assert_eq!(world.start(), [later]);
    let wake = world.lane.wake_at(world.now).unwrap();
    let wait = wake.as_millisecond() - world.now.as_millisecond();
    let id = ActionId([stuck; 16]);
    assert_eq!(wait, attempt::backoff(1, attempt::seed_of(&id)).as_millis() as i64);
    world.pass(wait as u64 - 1);
    assert_eq!(world.start(), [0u8; 0]);
    world.pass(1);
    assert_eq!(world.start(), [stuck]);
}

#[test]
fn a_wish_to_wait_silences_the_phone_and_alarms_for_a_moment_only() {
    let mut world = World::new();
    let throttled_one = world.normal();
    world.start();
    world.answer(throttled_one, throttled(20));
    let (other, alarm) = (world.normal(), world.alarm());
    assert_eq!(world.start(), [0u8; 0]);
    world.pass(14_999);
    assert_eq!(world.start(), [0u8; 0]);
    world.pass(1);
    assert_eq!(world.start(), [alarm]);
    world.answer(alarm, Verdict::Done);
    world.pass(4_999);
    assert_eq!(world.start(), [0u8; 0]);
    assert_eq!(
        world.lane.wake_at(world.now),
        Some(attempt::later(world.now, Duration::from_millis(1)))
    );
    world.pass(1);
    assert_eq!(world.start(), [throttled_one, other]);
}

#[test]
fn a_throttling_phone_is_asked_a_few_times_however_many_alarms_wait() {
    let mut world = World::new();
    for _ in 0..200 {
        world.alarm();
    }
    let mut attempts = Vec::new();
    for second in 0..58 {
        let started = world.start();
        attempts.extend(started.iter().map(|_| second));
        started.into_iter().for_each(|name| drop(world.answer(name, throttled(30))));
        world.pass(1000);
    }
    assert!(attempts.len() <= 4 * IN_FLIGHT_MAX, "{attempts:?}");
    assert_eq!(attempts.last(), Some(&45));
}

#[test]
fn no_alarm_ends_untried_because_of_a_pause() {
    let mut world = World::new();
    let first = world.alarm();
    world.start();
    world.answer(first, throttled(30));
    world.made += 1;
    let deadline = attempt::later(world.now, Duration::from_secs(5));
    let short = Action { deadline, ..world.action(world.made, Lane::Alarm) };
    world.lane.add(&short, &Message::default(), world.now);
    world.pass(3_999);
    assert_eq!(world.start(), [0u8; 0]);
    world.pass(1);
    assert_eq!(world.start(), [world.made]);
}

#[test]
fn what_waits_behind_a_pause_expires_on_time() {
    let mut world = World::new();
    let first = world.normal();
    world.start();
    let ended = world.answer(first, throttled(600)).ended;
    assert_eq!(names(&ended), [(first, "expired: 429".into())]);
    let waiting = world.normal();
    let deadline = attempt::later(world.now, Duration::from_secs(60));
    assert_eq!(world.lane.wake_at(world.now), Some(deadline));
    world.pass(59_999);
    assert_eq!(world.lane.expire(world.now), []);
    world.pass(1);
    let ended = world.lane.expire(world.now);
    assert_eq!(names(&ended), [(waiting, format!("expired: {NEVER_TRIED}"))]);
    assert_eq!(world.lane.wake_at(world.now), None);
}

#[test]
fn a_newer_message_replaces_an_older_one_with_its_tag_unless_that_is_an_alarm() {
    let mut world = World::new();
    let (alarm, _) = world.add(Lane::Alarm, Urgency::High, "ring");
    let (old, _) = world.add(Lane::Normal, Urgency::High, "ring");
    let (other, _) = world.add(Lane::Normal, Urgency::High, "else");
    let (new, ended) = world.add(Lane::Normal, Urgency::High, "ring");
    assert_eq!(names(&ended), [(old, "expired: replaced by a newer one".into())]);
    assert_eq!(world.start(), [alarm, other, new]);
}

#[test]
fn an_older_message_on_its_way_is_not_tried_again_after_a_newer_one() {
    let mut world = World::new();
    let (old, _) = world.add(Lane::Normal, Urgency::High, "ring");
    world.start();
    let (new, ended) = world.add(Lane::Normal, Urgency::High, "ring");
    assert_eq!(names(&ended), []);
    assert_eq!(world.start(), [new]);
    let ended = world.answer(old, Verdict::retry("500")).ended;
    assert_eq!(names(&ended), [(old, "expired: replaced by a newer one".into())]);
    assert_eq!(names(&world.answer(new, Verdict::Done).ended), [(new, "delivered".into())]);
}

#[test]
fn a_full_lane_drops_its_oldest_ordinary_message_and_never_an_alarm() {
    let mut world = World::new();
    world.lane.paused_until = Timestamp::MAX;
    let id = |n: usize| ActionId((n as u128 + 1000).to_be_bytes());
    let mut add = |n: usize, lane: Lane, urgency: Urgency| {
        let action = Action { id: id(n), ..world.action(0, lane) };
        let message = Message { urgency, ..Message::default() };
        let ended = world.lane.add(&action, &message, world.now);
        ended.into_iter().map(|ended| ended.action).collect::<Vec<_>>()
    };
    add(0, Lane::Alarm, Urgency::Normal);
    add(1, Lane::Normal, Urgency::High);
    for n in 2..WAITING_MAX {
        assert_eq!(add(n, Lane::Normal, Urgency::Normal), []);
    }
    assert_eq!(add(WAITING_MAX, Lane::Normal, Urgency::Normal), [id(2)]);
    for n in 1..WAITING_MAX - 1 {
        assert_eq!(add(WAITING_MAX + n, Lane::Alarm, Urgency::Normal), [id(n + 2)]);
    }
    assert_eq!(add(5000, Lane::Alarm, Urgency::Normal), [id(1)]);
    assert_eq!(add(5001, Lane::Normal, Urgency::High), [id(5001)]);
    assert_eq!(add(5002, Lane::Alarm, Urgency::Normal), []);
    assert_eq!(world.lane.unsettled(), WAITING_MAX + 1);
}

#[test]
fn a_dead_subscription_ends_all_that_waits() {
    let mut world = World::new();
    let sent: Vec<u8> = (0..4).map(|_| world.normal()).collect();
    world.start();
    let gone = || Verdict::Gone { why: "410".into() };
    let answered = world.answer(sent[0], gone());
    assert_eq!(answered.unsubscribed.as_deref(), Some("410"));
    assert_eq!(
        names(&answered.ended),
        [(sent[0], "gone: 410".into()), (sent[3], "gone: 410".into())]
    );
    let again = world.answer(sent[1], gone());
    assert_eq!(
        (names(&again.ended), again.unsubscribed),
        (vec![(sent[1], "gone: 410".into())], None)
    );
    let last = world.answer(sent[2], Verdict::retry("500")).ended;
    assert_eq!(names(&last), [(sent[2], "gone: the phone unsubscribed".into())]);
    assert!(world.lane.is_empty());
    let (late, ended) = world.add(Lane::Alarm, Urgency::High, "");
    assert_eq!(names(&ended), [(late, "gone: the phone has no subscription".into())]);
}

#[test]
fn an_answer_about_an_old_subscription_does_not_end_the_new_one() {
    let mut world = World::new();
    let message = world.normal();
    world.start();
    world.lane.subscribe(subscription("two"));
    let answered = world.answer(message, Verdict::Gone { why: "410".into() });
    assert_eq!((answered.ended, answered.unsubscribed), (vec![], None));
    let starts = world.lane.start(world.now, &Held::new());
    assert_eq!(starts[0].to.endpoint, "https://push.example.org/two");
    assert_eq!(starts[0].number, 2);
}

#[test]
fn a_new_subscription_ends_a_pause_and_the_same_again_does_not() {
    let mut world = World::new();
    let message = world.normal();
    world.start();
    world.answer(message, throttled(30));
    let waiting = world.normal();
    world.lane.subscribe(subscription("one"));
    assert_eq!(world.start(), [0u8; 0]);
    world.lane.subscribe(subscription("two"));
    assert_eq!(world.start(), [waiting]);
}

#[test]
fn too_big_is_sent_once_more_in_short_form() {
    let mut world = World::new();
    let message = world.normal();
    world.start();
    assert_eq!(world.answer(message, Verdict::TooBig).ended, []);
    let starts = world.lane.start(world.now, &Held::new());
    assert_eq!(starts[0].request.form, Form::Short);
    let ended = world.answer(message, Verdict::TooBig).ended;
    assert_eq!(ended[0].outcome.label(), "refused");
    assert_eq!(ended[0].attempts, 2);
}

#[test]
fn a_repeat_changes_nothing_and_an_alarm_wakes_the_phone() {
    let mut world = World::new();
    let alarm = world.alarm();
    world.made -= 1;
    world.alarm();
    let starts = world.lane.start(world.now, &Held::new());
    assert_eq!(starts.len(), 1);
    assert_eq!(starts[0].request.urgency, Urgency::High);
    world.made -= 1;
    assert_eq!(world.alarm(), alarm);
    assert_eq!(world.start(), [0u8; 0]);
}

/// One thing that may happen to a lane.
#[derive(Debug, Clone)]
enum Happens {
    Comes { alarm: bool, urgent: bool, tagged: bool },
    Answers { which: usize, verdict: Verdict },
    Passes { ms: u64 },
    Subscribes,
    Unsubscribes,
}

fn happens() -> impl Strategy<Value = Happens> {
    let why = || "why".to_owned();
    let verdict = prop_oneof![
        3 => Just(Verdict::Done),
        4 => proptest::option::of(0u64..40).prop_map(move |after| {
            Verdict::Retry { after: after.map(Duration::from_secs), why: why() }
        }),
        1 => Just(Verdict::Refused { why: why() }),
        1 => Just(Verdict::Gone { why: why() }),
        1 => Just(Verdict::TooBig),
    ];
    prop_oneof![
        8 => any::<(bool, bool, bool)>().prop_map(|(alarm, urgent, tagged)| {
            Happens::Comes { alarm, urgent, tagged }
        }),
        8 => (any::<usize>(), verdict).prop_map(|(which, verdict)| {
            Happens::Answers { which, verdict }
        }),
        8 => (0u64..20_000).prop_map(|ms| Happens::Passes { ms }),
        1 => Just(Happens::Subscribes),
        1 => Just(Happens::Unsubscribes),
    ]
}

proptest! {
    /// Whatever happens: every message ends exactly once, none is begun twice at a time or after
    /// its deadline, the slots are kept to, and the lane asks to be woken whenever it should be.
    #[test]
    fn every_message_ends_exactly_once(story in proptest::collection::vec(happens(), 1..120)) {
        let mut world = World::new();
        let (mut alarms, mut flying) = (Vec::new(), Vec::new());
        let mut ended: Vec<Ended> = Vec::new();
        let tail = std::iter::once(Happens::Passes { ms: 60_000 });
        for step in story.into_iter().chain(tail) {
            match step {
                Happens::Comes { alarm, urgent, tagged } => {
                    let lane = if alarm { Lane::Alarm } else { Lane::Normal };
                    let urgency = if urgent { Urgency::High } else { Urgency::Low };
                    let tag = if tagged { "tag" } else { "" };
                    let (name, by_this) = world.add(lane, urgency, tag);
                    alarms.extend(alarm.then_some(name));
                    ended.extend(by_this);
                }
                Happens::Answers { which, verdict } if !flying.is_empty() => {
                    let name = flying.swap_remove(which % flying.len());
                    ended.extend(world.answer(name, verdict).ended);
                }
                Happens::Answers { .. } => {}
                Happens::Passes { ms } => world.pass(ms),
                Happens::Subscribes => world.lane.subscribe(subscription("new")),
                Happens::Unsubscribes => ended.extend(world.lane.unsubscribe("left")),
            }
            ended.extend(world.lane.expire(world.now));
            for start in world.lane.start(world.now, &Held::new()) {
                prop_assert!(start.request.deadline > world.now);
                prop_assert!(!flying.contains(&start.request.action.0[0]));
                flying.push(start.request.action.0[0]);
            }
            let ordinary = flying.iter().filter(|name| !alarms.contains(name)).count();
            prop_assert!(flying.len() <= IN_FLIGHT_MAX);
            prop_assert!(ordinary <= IN_FLIGHT_MAX - IN_FLIGHT_FOR_ALARMS);
            let wake = world.lane.wake_at(world.now);
            prop_assert!(wake.is_none_or(|wake| wake > world.now));
            prop_assert_eq!(wake.is_some(), !world.lane.waiting.is_empty());
        }
        for name in flying {
            ended.extend(world.answer(name, Verdict::retry("late")).ended);
        }
        ended.extend(world.lane.expire(world.now));
        prop_assert_eq!(world.lane.unsettled(), 0);
        let mut names: Vec<u8> = ended.iter().map(|ended| ended.action.0[0]).collect();
        names.sort_unstable();
        prop_assert_eq!(names, (1..=world.made).collect::<Vec<_>>());
    }
}
