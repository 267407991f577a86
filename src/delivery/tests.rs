//! Delivery as a whole in virtual time, against a scripted push service: no phone delays another,
//! and every attempt begins at the very millisecond the policy says.

use std::collections::HashMap;
use std::sync::Mutex;

use futures_util::future::BoxFuture;

use super::attempt::{BACKOFF_FIRST, backoff, later, seed_of};
use super::push::PushRequest;
use super::*;
use crate::action::{ActionId, Lane, Message, Outcome, Task};
use crate::alert::AlertId;
use crate::record::Settled;

/// What a scripted phone's service does, attempt by attempt; the last one goes on for ever.
#[derive(Clone)]
enum Does {
    Answers(Verdict),
    TakesItAfter(Duration),
    Hangs,
    Panics,
}

/// A push service that does as told and keeps a list of attempts.
struct Script {
    clock: Clock,
    does: HashMap<String, Vec<Does>>,
    seen: Mutex<Vec<(i64, String, ActionId)>>,
}

impl Transport for Script {
    fn send<'a>(&'a self, to: &'a Subscription, request: PushRequest) -> BoxFuture<'a, Verdict> {
        let phone = request.phone.0.clone();
        let mut seen = self.seen.lock().unwrap();
        let earlier = seen.iter().filter(|(_, _, id)| *id == request.action).count();
        seen.push((self.clock.now().as_millisecond(), phone.clone(), request.action));
        let script = self.does.get(&to.endpoint).expect("a scripted endpoint");
        let does = script.get(earlier).or(script.last()).cloned().unwrap();
        Box::pin(async move {
            match does {
                Does::Answers(verdict) => verdict,
                Does::TakesItAfter(time) => {
                    tokio::time::sleep(time).await;
                    Verdict::Done
                }
                Does::Hangs => std::future::pending().await,
                Does::Panics => panic!("planted"),
            }
        })
    }
}

struct World {
    clock: Clock,
    script: Arc<Script>,
    handle: Handle,
    records: Arc<Mutex<Vec<Record>>>,
}

fn start_at() -> Timestamp {
    "2026-11-20T10:00:00Z".parse().unwrap()
}

fn subscription(phone: &str) -> Subscription {
    let key = String::new;
    Subscription { endpoint: phone.to_owned(), p256dh: key(), auth: key(), vapid: key() }
}

fn push(phone: &str, name: u8, lane: Lane, ttl_s: u64) -> Action {
    let message = Box::new(Message::default());
    let task = Task::Push { phone: PhoneId(phone.to_owned()), message };
    let deadline = later(start_at(), Duration::from_secs(ttl_s));
    Action {
        id: ActionId([name; 16]),
        rule: "r".into(),
        step: "do[0]".into(),
        deadline,
        not_before: None,
        lane,
        alert: None,
        task,
    }
}

impl World {
    fn new(phones: &[(&str, Vec<Does>)], owed: Vec<Action>) -> World {
        let clock = Clock::manual(start_at());
        let does = phones.iter().map(|(phone, does)| ((*phone).to_owned(), does.to_vec()));
        let (does, seen) = (does.collect(), Mutex::default());
        let script = Arc::new(Script { clock: clock.clone(), does, seen });
        let records = Arc::new(Mutex::new(Vec::new()));
        let sink = records.clone();
        let phones =
            phones.iter().map(|(phone, _)| (PhoneId((*phone).into()), subscription(phone)));
        let handle = start(Setup {
            held: Vec::new(),
            phones: phones.collect(),
            owed,
            push: script.clone(),
            clock: clock.clone(),
            settle: Box::new(move |records| sink.lock().unwrap().extend(records)),
        });
        World { clock, script, handle, records }
    }

    /// Lets virtual time pass, a millisecond at a time: the wall clock first, then the timers.
    async fn pass(&self, ms: u64) {
        settle_down().await;
        for _ in 0..ms {
            self.clock.set(later(self.clock.now(), Duration::from_millis(1)));
            tokio::time::advance(Duration::from_millis(1)).await;
            settle_down().await;
        }
    }

    /// When each attempt of this action began, in milliseconds from the start.
    fn attempts(&self, name: u8) -> Vec<u64> {
        let seen = self.script.seen.lock().unwrap();
        let of = seen.iter().filter(|(_, _, id)| *id == ActionId([name; 16]));
        of.map(|(at, _, _)| (at - start_at().as_millisecond()) as u64).collect()
    }

    fn settled(&self) -> Vec<(u8, Outcome, u32, u64)> {
        let records = self.records.lock().unwrap();
        let settled = records.iter().filter_map(|record| match record {
            Record::Settled(Settled { action, outcome, attempts, at, .. }) => {
                let ms = at.as_millisecond() - start_at().as_millisecond();
                Some((action.0[0], outcome.clone(), *attempts, ms as u64))
            }
            _ => None,
        });
        settled.collect()
    }
}

/// Everything that can run without time passing has run.
async fn settle_down() {
    for _ in 0..8 {
        tokio::task::yield_now().await;
    }
}

fn throttled(after_s: u64) -> Does {
    Does::Answers(Verdict::Retry { after: Some(Duration::from_secs(after_s)), why: "429".into() })
}

fn fails(why: &str) -> Does {
    Does::Answers(Verdict::retry(why))
}

fn done() -> Does {
    Does::Answers(Verdict::Done)
}

#[tokio::test(start_paused = true)]
async fn no_phone_delays_another() {
    let bad: [(&str, Vec<Does>); 6] = [
        ("hangs", vec![Does::Hangs]),
        ("500", vec![fails("500")]),
        ("429", vec![throttled(30)]),
        ("406", vec![fails("406")]),
        ("tls", vec![fails("no connection: invalid peer certificate")]),
        ("bug", vec![Does::Panics]),
    ];
    let mut phones = bad.to_vec();
    phones.push(("good", vec![done()]));
    let world = World::new(&phones, Vec::new());
    let to_bad = bad.iter().flat_map(|(phone, _)| (0..50).map(move |n| (*phone, n)));
    let mut actions: Vec<Action> = to_bad
        .enumerate()
        .map(|(at, (phone, _))| {
            let id = ActionId((at as u128 + 1).to_be_bytes());
            Action { id, ..push(phone, 0, Lane::Normal, 3600) }
        })
        .collect();
    actions.push(push("good", 1, Lane::Normal, 60));
    world.handle.act(actions);
    settle_down().await;
    assert_eq!(world.settled(), [(1, Outcome::Delivered, 1, 0)]);
    world.pass(5000).await;
    world.handle.act(vec![push("good", 2, Lane::Normal, 60)]);
    settle_down().await;
    assert_eq!(world.settled()[1..], [(2, Outcome::Delivered, 1, 5000)]);
}

#[tokio::test(start_paused = true)]
async fn retries_begin_exactly_when_the_policy_says_and_end_with_the_deadline() {
    let world = World::new(&[("p", vec![fails("500")])], vec![push("p", 7, Lane::Normal, 60)]);
    world.pass(61_000).await;
    let seed = seed_of(&ActionId([7; 16]));
    let mut want = vec![0];
    for number in 1.. {
        let next = want.last().unwrap() + backoff(number, seed).as_millis() as u64;
        if next >= 60_000 {
            break;
        }
        want.push(next);
    }
    // The last call, a second before the deadline.
    let late = want.last().unwrap() + BACKOFF_FIRST.as_millis() as u64 > 59_000;
    want.extend((!late).then_some(59_000));
    assert!(want.len() >= 6, "{want:?}");
    assert_eq!(world.attempts(7), want);
    let last = *want.last().unwrap();
    let expired = Outcome::Expired { last: "500".into() };
    assert_eq!(world.settled(), [(7, expired, want.len() as u32, last)]);
}

#[tokio::test(start_paused = true)]
async fn a_wish_to_wait_is_kept_to_the_millisecond_and_by_an_alarm_for_a_moment() {
    let does = vec![throttled(20), done()];
    let world = World::new(&[("p", does)], vec![push("p", 1, Lane::Normal, 60)]);
    world.pass(1000).await;
    world.handle.act(vec![push("p", 2, Lane::Normal, 60), push("p", 3, Lane::Alarm, 60)]);
    world.pass(39_000).await;
    // The alarm heeds no more than a part of the wish, each time.
    assert_eq!(world.attempts(3), [15_000, 30_000]);
    // It was told to wait as well: that is the phone's pause for the others now.
    assert_eq!(world.attempts(1), [0, 35_000]);
    // Throttled in its turn, it is not done by the end.
    assert_eq!(world.attempts(2), [35_000]);
    let labels: Vec<_> =
        world.settled().into_iter().map(|(id, outcome, ..)| (id, outcome)).collect();
    assert_eq!(labels, [(3, Outcome::Delivered), (1, Outcome::Delivered)]);
}

#[tokio::test(start_paused = true)]
async fn a_dead_subscription_is_reported_once_and_only_by_404_and_410() {
    let gone = Does::Answers(Verdict::Gone { why: "410".into() });
    let owed = vec![push("p", 1, Lane::Normal, 60), push("p", 2, Lane::Normal, 60)];
    let world = World::new(&[("p", vec![gone])], owed);
    world.pass(1).await;
    world.handle.act(vec![push("p", 3, Lane::Alarm, 60)]);
    settle_down().await;
    let changes = world.records.lock().unwrap().iter().filter(|record| {
        matches!(record, Record::Phone(PhoneChange::Unsubscribed { id, .. }) if id.0 == "p")
    }).count();
    assert_eq!(changes, 1);
    let labels: Vec<_> =
        world.settled().iter().map(|(id, outcome, ..)| (*id, outcome.label())).collect();
    assert_eq!(labels, [(1, "gone"), (2, "gone"), (3, "gone")]);
    let at = world.clock.now();
    let id = PhoneId("p".into());
    let subscription = subscription("p");
    world.handle.phone(&PhoneChange::Subscribed { id, subscription, at });
    world.handle.act(vec![push("p", 4, Lane::Alarm, 60)]);
    settle_down().await;
    assert_eq!(world.attempts(4).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn owed_actions_go_out_at_once_and_late_ones_expire() {
    let owed = vec![push("p", 1, Lane::Normal, 0), push("p", 2, Lane::Normal, 60)];
    let world = World::new(&[("p", vec![done()])], owed);
    settle_down().await;
    assert_eq!(world.attempts(1), [0u64; 0]);
    let settled = world.settled();
    assert_eq!((settled[0].0, settled[0].1.label(), settled[0].2), (1, "expired", 0));
    assert_eq!(settled[1], (2, Outcome::Delivered, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn nothing_of_an_alert_leaves_after_it_is_held_and_all_of_it_ends_when_withdrawn() {
    let alert = AlertId([9; 16]);
    let of = |name| Action { alert: Some(alert), ..push("p", name, Lane::Alarm, 600) };
    let world = World::new(&[("p", vec![Does::Hangs]), ("q", vec![fails("500")])], Vec::new());
    // One hangs, one waits for its next attempt, one has nothing to do with it.
    let second = Action { alert: Some(alert), ..push("q", 2, Lane::Alarm, 600) };
    world.handle.act(vec![of(1), second, push("q", 3, Lane::Alarm, 600)]);
    world.pass(10).await;
    world.handle.hold(alert);
    world.handle.act(vec![of(4)]);
    world.pass(5000).await;
    let tries = |name| world.attempts(name).len();
    assert_eq!((tries(1), tries(2), tries(4)), (1, 1, 0));
    assert!(tries(3) > 1);
    assert_eq!(world.settled(), []);
    // It could not be taken in, so it goes on; then somebody else has it in hand.
    world.handle.release(alert);
    world.pass(30_000).await;
    assert!(tries(4) > 0 && tries(2) > 1, "{} {} {}", tries(1), tries(2), tries(4));
    world.handle.hold(alert);
    world.pass(10).await;
    let told = (tries(1), tries(2), tries(4));
    world.pass(5000).await;
    assert_eq!((tries(1), tries(2), tries(4)), told);
    world.handle.withdraw(alert, "ana has it");
    world.handle.release(alert);
    world.handle.act(vec![of(5)]);
    world.pass(1000).await;
    let mut ended: Vec<_> =
        world.settled().into_iter().map(|(id, outcome, ..)| (id, outcome.label())).collect();
    ended.sort_unstable();
    assert_eq!(ended, [(1, "stopped"), (2, "stopped"), (4, "stopped"), (5, "stopped")]);
    assert_eq!(tries(5), 0);
}

#[tokio::test(start_paused = true)]
async fn a_drain_lets_answers_come_in_begins_nothing_and_counts_what_stays_owed() {
    let phones: [(&str, Vec<Does>); 3] = [
        ("slow", vec![Does::TakesItAfter(Duration::from_secs(3))]),
        ("hangs", vec![Does::Hangs]),
        ("500", vec![fails("500")]),
    ];
    let owed = vec![push("hangs", 1, Lane::Normal, 60), push("500", 2, Lane::Normal, 60)];
    let world = World::new(&phones, owed);
    world.handle.act(vec![push("slow", 3, Lane::Normal, 60)]);
    settle_down().await;
    let drained = tokio::time::Instant::now();
    let left = world.handle.drain(Duration::from_secs(5)).await;
    assert_eq!(drained.elapsed(), Duration::from_secs(5));
    assert_eq!(left, 2);
    world.handle.act(vec![push("slow", 4, Lane::Normal, 60)]);
    settle_down().await;
    assert_eq!(world.attempts(4), [0u64; 0]);
    assert_eq!(world.settled(), [(3, Outcome::Delivered, 1, 0)]);
}

#[tokio::test(start_paused = true)]
async fn a_drain_without_attempts_on_their_way_takes_no_time() {
    let world = World::new(&[("500", vec![fails("500")])], vec![push("500", 1, Lane::Alarm, 60)]);
    settle_down().await;
    let begun = tokio::time::Instant::now();
    assert_eq!(world.handle.drain(Duration::from_secs(5)).await, 1);
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn dropping_every_handle_stops_delivery() {
    let World { handle, script, .. } =
        World::new(&[("p", vec![fails("500")])], vec![push("p", 1, Lane::Alarm, 3600)]);
    settle_down().await;
    drop(handle);
    settle_down().await;
    assert_eq!(Arc::strong_count(&script), 1);
}

#[tokio::test(start_paused = true)]
async fn a_clock_set_forward_is_noticed() {
    let world =
        World::new(&[("p", vec![throttled(600), done()])], vec![push("p", 1, Lane::Normal, 3600)]);
    settle_down().await;
    world.clock.set(later(start_at(), Duration::from_secs(601)));
    tokio::time::advance(LOOK_EVERY).await;
    settle_down().await;
    assert_eq!(world.attempts(1).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_is_held_leaves_when_its_time_has_come_also_after_a_restart() {
    let held = |name, tag: Option<&str>| {
        let mut action = push("p", name, Lane::Normal, 7);
        action.not_before = Some(later(start_at(), Duration::from_secs(5)));
        if let Task::Push { message, .. } = &mut action.task {
            message.tag = tag.map(str::to_owned);
        }
        action
    };
    // As decided, and as found owed at a start.
    let world = World::new(&[("p", vec![done()])], vec![held(1, None)]);
    world.handle.act(vec![held(2, None), held(3, Some("t")), held(4, Some("t"))]);
    world.handle.act(vec![push("p", 5, Lane::Normal, 60)]);
    world.pass(4_999).await;
    assert_eq!([1, 2, 3, 4, 5].map(|name| world.attempts(name).len()), [0, 0, 0, 0, 1]);
    world.pass(1_000).await;
    assert_eq!(
        [1, 2, 3, 4].map(|name| world.attempts(name)),
        [vec![5000], vec![5000], vec![], vec![5000]]
    );
    let replaced = world.settled().into_iter().find(|(name, ..)| *name == 3).unwrap();
    assert_eq!(replaced.1, Outcome::Expired { last: "replaced by a newer one".into() });
}

#[tokio::test(start_paused = true)]
async fn what_is_held_beyond_a_long_stop_is_sent_or_too_late_by_its_deadline() {
    let with = |name, held_s, ttl_s| {
        let not_before = Some(start_at() - jiff::SignedDuration::from_secs(held_s));
        Action { not_before, ..push("p", name, Lane::Normal, ttl_s) }
    };
    let world = World::new(&[("p", vec![done()])], vec![with(1, 60, 60), with(2, 60, 0)]);
    settle_down().await;
    let labels: Vec<_> = world.settled().iter().map(|(name, o, ..)| (*name, o.label())).collect();
    assert_eq!(labels.len(), 2);
    assert!(labels.contains(&(1, "delivered")) && labels.contains(&(2, "expired")), "{labels:?}");
}
