//! The session against the simulated intercom's mind, over a network that chance rules: whatever
//! happens, every order gets one answer, and the door opens at most once for each.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use portero::event::Trust;
use portero::secret::Secret;
use portero::systems::fibaro::names::Names;
use portero::systems::fibaro::session::{Ask, Input, Moment, Output, Session, Setup};
use portero::systems::fibaro::sim::house::{House, TokenError};
use portero::systems::link::Reply;
use proptest::prelude::*;
use serde_json::{Map, json};
use tokio::time::Instant;

/// What chance does next.
#[derive(Debug, Clone)]
enum Chance {
    Open,
    Ask,
    /// The intercom reads one frame.
    Read,
    /// The session hears one frame; maybe twice, maybe the newest first.
    Hear {
        twice: bool,
        newest: bool,
    },
    Wait(u64),
    Expire(bool),
    Garbage,
    /// The socket is cut; the intercom may have read what was on its way.
    Cut {
        read: bool,
    },
    Mute(bool),
}

fn chance() -> impl Strategy<Value = Chance> {
    prop_oneof![
        3 => Just(Chance::Open),
        1 => Just(Chance::Ask),
        8 => Just(Chance::Read),
        8 => (any::<bool>(), any::<bool>())
            .prop_map(|(twice, newest)| Chance::Hear { twice, newest }),
        4 => prop_oneof![1..200u64, 500..3_000u64, 9_000..60_000u64].prop_map(Chance::Wait),
        2 => any::<bool>().prop_map(Chance::Expire),
        1 => Just(Chance::Garbage),
        1 => any::<bool>().prop_map(|read| Chance::Cut { read }),
        1 => any::<bool>().prop_map(Chance::Mute),
    ]
}

struct World {
    session: Session,
    house: House,
    now: Moment,
    began: Instant,
    is_open: bool,
    /// On the way to the intercom, and from it.
    out: VecDeque<String>,
    back: VecDeque<String>,
    opens: u64,
    tickets: u64,
    answers: BTreeMap<u64, Reply>,
}

impl World {
    fn new() -> World {
        let names = Names::new(&BTreeMap::new());
        let setup = Setup {
            source: "fibaro/gate".into(),
            trust: Trust::Fresh,
            user: "portero".into(),
            pass: Secret::new("open sesame"),
            names: names.clone(),
            boot: 1,
        };
        let at = "2026-11-21T10:00:00Z".parse().unwrap();
        World {
            session: Session::new(setup, &[]),
            house: House::new("portero", "open sesame", names),
            now: Moment { at, up: Duration::ZERO },
            began: Instant::now(),
            is_open: false,
            out: VecDeque::new(),
            back: VecDeque::new(),
            opens: 0,
            tickets: 0,
            answers: BTreeMap::new(),
        }
    }

    fn input(&mut self, input: Input<'_>) {
        for output in self.session.handle(input, self.now) {
            match output {
                Output::Send(text) => {
                    assert!(self.is_open, "sent without a socket");
                    self.out.push_back(text.expose().into());
                }
                Output::Answer(ticket, reply) => {
                    let before = self.answers.insert(ticket, reply);
                    assert_eq!(before, None, "answered twice");
                }
                Output::Down { .. } => self.is_open = false,
                Output::News(_) | Output::Bad(..) | Output::Up => {}
            }
        }
    }

    fn order(&mut self, call: &str) {
        self.tickets += 1;
        let args = Map::from_iter([("relay".to_string(), json!(0))]);
        let deadline = self.now.at + jiff::SignedDuration::from_secs(10);
        let (ticket, call, secrets) = (self.tickets, call.to_string(), Map::new());
        self.input(Input::Order(Ask { ticket, call, args, secrets, deadline }));
    }

    fn read(&mut self) {
        let Some(frame) = self.out.pop_front() else { return };
        let answer = self.house.answer(&frame, self.now.at, self.began + self.now.up);
        let signals = answer.signals.iter().map(ToString::to_string);
        self.back.extend(signals.chain(answer.reply.map(|reply| reply.to_string())));
    }

    fn step(&mut self, chance: &Chance) {
        if !self.is_open {
            self.is_open = true;
            (self.out, self.back) = Default::default();
            self.input(Input::Connected);
        }
        match chance {
            Chance::Open => {
                self.opens += 1;
                self.order("relay.open");
            }
            Chance::Ask => self.order("relay.state"),
            Chance::Read => self.read(),
            Chance::Hear { twice, newest } => {
                let frame = if *newest { self.back.pop_back() } else { self.back.pop_front() };
                for _ in 0..=u8::from(*twice) {
                    if let Some(frame) = frame.as_ref().filter(|_| self.is_open) {
                        self.input(Input::Frame(frame.as_bytes()));
                    }
                }
            }
            Chance::Wait(ms) => {
                self.now.up += Duration::from_millis(*ms);
                self.now.at += jiff::SignedDuration::from_millis(i64::try_from(*ms).unwrap());
                self.input(Input::Tick);
            }
            Chance::Expire(by_name) => {
                let form = if *by_name { TokenError::InvalidToken } else { TokenError::Expired };
                self.house.manners.token_error = form;
                self.house.expire_tokens();
            }
            Chance::Garbage => self.input(Input::Frame(b"{\"id\":")),
            Chance::Cut { read } => {
                while *read && !self.out.is_empty() {
                    self.read();
                }
                self.input(Input::Closed("cut"));
            }
            Chance::Mute(mute) => {
                let muted = ["relay.open"].into_iter().filter(|_| *mute);
                self.house.manners.mute = muted.collect();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_door_opens_at_most_once_for_each_order(chances in proptest::collection::vec(chance(), 1..120)) {
        let mut world = World::new();
        chances.iter().for_each(|chance| world.step(chance));
        while !world.out.is_empty() {
            world.read();
        }
        world.input(Input::Closed("the end"));
        prop_assert_eq!(world.answers.len() as u64, world.tickets, "an order without an answer");
        // How often the door opened, by its own count.
        let openings = world.house.relays[0].openings;
        prop_assert!(openings <= world.opens);
        let unsure = world.answers.values().filter(|r| matches!(r, Reply::Unknown(_))).count();
        let done = world.answers.values().filter(|r| **r == Reply::Done(json!(0))).count();
        prop_assert!(done as u64 <= openings && openings <= (done + unsure) as u64);
    }
}
