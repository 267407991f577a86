//! Orders on their way through the session: waiting for a token or for the list of recipients,
//! sent, tried once more where the EMM has certainly refused, answered.

use jiff::Timestamp;
use serde_json::{Map, Value};
use std::time::Duration;

use super::{Due, Moment, Output, Phase, Session, What};
use crate::command::Command;
use crate::secret::Secret;
use crate::systems::emm::orders::{self, NoPlan, Plan};
use crate::systems::emm::recipients::Recipient;
use crate::systems::emm::wire::{self, Problem};
use crate::systems::http::{Answer, Fault};
use crate::systems::link::Reply;

/// How long the list of recipients is believed: people come and go by the day.
const RECIPIENTS_FRESH: Duration = Duration::from_secs(600);

/// Recipients asked for at once.
const RECIPIENTS_PAGE: i64 = 500;

/// The most recipients that are read: a hospital has a few thousand.
const RECIPIENTS_MAX: usize = 20_000;

/// An order under way.
pub(super) struct Pending {
    command: Command,
    secrets: Map<String, Value>,
    deadline: Timestamp,
    stage: Stage,
    /// What was sent.
    plan: Option<Plan>,
    /// The message's fields are being tried flat.
    is_flat_try: bool,
    /// The list of recipients was read for it.
    has_looked_up: bool,
    /// The EMM has refused the token once.
    was_doubted: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// For its turn.
    Waiting,
    /// For the list of recipients.
    LookingUp,
    /// For its answer.
    Sent,
    /// 403: whether it was the token is being found out.
    Doubted,
}

impl Session {
    pub(super) fn ordered(
        &mut self,
        n: u64,
        command: Command,
        secrets: Map<String, Value>,
        deadline: Timestamp,
    ) {
        if let Phase::Out { why, .. } = &self.phase {
            let why = format!("not connected: {why}");
            return self.out.push(Output::Reply(n, Reply::Unsent(why)));
        }
        if self.is_stopping {
            return self.out.push(Output::Reply(n, Reply::Unsent("Portero stops".into())));
        }
        let pending = Pending {
            command,
            secrets,
            deadline,
            stage: Stage::Waiting,
            plan: None,
            is_flat_try: false,
            has_looked_up: false,
            was_doubted: false,
        };
        self.orders.insert(n, pending);
    }

    /// Sends what waits for its turn, if it can be sent.
    pub(super) fn dispatch(&mut self, now: Moment) {
        if self.phase != Phase::In {
            return;
        }
        let waiting: Vec<u64> = self.of_stage(Stage::Waiting);
        for n in waiting {
            if let Some(reply) = self.send(n, now) {
                self.reply(n, reply);
            }
        }
    }

    /// Sends an order, or says why not.
    fn send(&mut self, n: u64, now: Moment) -> Option<Reply> {
        let is_old = self.recipients_since.is_none_or(|at| at + RECIPIENTS_FRESH < now.since);
        let known: &[Recipient] = if is_old { &[] } else { &self.recipients };
        let pending = self.orders.get_mut(&n)?;
        if pending.deadline < now.wall {
            return Some(Reply::Unsent("its time is over".into()));
        }
        match orders::plan(&pending.command, &pending.secrets, known, self.is_flat) {
            Ok(plan) => {
                let request = plan.request.clone();
                (pending.stage, pending.plan) = (Stage::Sent, Some(plan));
                self.ask(What::Order(n), &request);
                None
            }
            Err(NoPlan::Refused(why)) => Some(Reply::Refused(why)),
            Err(NoPlan::Unknown(why)) if pending.has_looked_up => Some(Reply::Refused(why)),
            Err(NoPlan::Unknown(_)) => {
                pending.stage = Stage::LookingUp;
                self.look_up();
                None
            }
        }
    }

    fn look_up(&mut self) {
        if !self.calls.values().any(|(what, _)| *what == What::Recipients) {
            let offset = self.recipients_next.len() as i64;
            self.ask(What::Recipients, &orders::recipients_page(offset, RECIPIENTS_PAGE));
        }
    }

    pub(super) fn recipients_heard(&mut self, answer: Result<Answer, Fault>, now: Moment) {
        let answer = match answer {
            Ok(answer) => answer,
            Err(fault) => return self.no_recipients(&fault.to_string()),
        };
        let read = match wire::answer(answer.status, &answer.content_type, &answer.body) {
            Ok(read) => read,
            Err(Problem::Token(_)) => {
                self.recipients_next.clear();
                for n in self.of_stage(Stage::LookingUp) {
                    self.doubt(n);
                }
                return;
            }
            Err(problem) => return self.no_recipients(&problem.to_string()),
        };
        let (page, total) = Recipient::page(&read.value);
        let is_empty = page.is_empty();
        self.recipients_next.extend(page);
        let count = self.recipients_next.len();
        if !is_empty && count < RECIPIENTS_MAX && total.is_some_and(|total| total > count as i64) {
            return self.look_up();
        }
        self.recipients = std::mem::take(&mut self.recipients_next);
        self.recipients_since = Some(now.since);
        for pending in self.orders.values_mut().filter(|p| p.stage == Stage::LookingUp) {
            (pending.stage, pending.has_looked_up) = (Stage::Waiting, true);
        }
    }

    fn no_recipients(&mut self, why: &str) {
        self.recipients_next.clear();
        let why = self.without_token(&format!("the recipients cannot be looked up: {why}"));
        for n in self.of_stage(Stage::LookingUp) {
            self.reply(n, Reply::Unsent(why.clone()));
        }
    }

    pub(super) fn done(
        &mut self,
        n: u64,
        generation: u64,
        answer: Result<Answer, Fault>,
        now: Moment,
    ) {
        let answer = match answer {
            Ok(answer) => answer,
            Err(fault) => return self.reply(n, orders::unanswered(&fault)),
        };
        let read = wire::answer(answer.status, &answer.content_type, &answer.body);
        let Some(pending) = self.orders.get_mut(&n) else { return };
        let Some(plan) = pending.plan.clone() else { return };
        match (&read, plan.on_404, &plan.on_400) {
            (Err(Problem::Token(_)), ..) if !pending.was_doubted => {
                if generation == self.generation {
                    self.doubt(n);
                } else {
                    (pending.stage, pending.was_doubted) = (Stage::Waiting, true);
                }
            }
            (Err(Problem::Status(404, _)), Some(path), _) => {
                let mut plan = Plan { on_404: None, ..plan };
                plan.request.path = path.into();
                self.again(n, plan, now);
            }
            (Err(Problem::Status(400, _)), _, Some(flat)) => {
                pending.is_flat_try = true;
                let mut plan = Plan { on_400: None, ..plan.clone() };
                plan.request.form = flat.clone();
                self.again(n, plan, now);
            }
            _ => {
                let reply = orders::reply(plan.reads, read.as_ref().map(|read| &read.value));
                self.follow_up(n, &reply, now);
                self.reply(n, reply);
            }
        }
    }

    /// The EMM has certainly refused; the other way it may be meant.
    fn again(&mut self, n: u64, plan: Plan, now: Moment) {
        let Some(pending) = self.orders.get_mut(&n) else { return };
        if pending.deadline < now.wall || self.phase != Phase::In {
            return self.reply(n, Reply::Unsent("refused once, and its time is over".into()));
        }
        let request = plan.request.clone();
        pending.plan = Some(plan);
        self.ask(What::Order(n), &request);
    }

    /// What a command that was done changes for the session itself.
    fn follow_up(&mut self, n: u64, reply: &Reply, now: Moment) {
        let (Some(pending), Reply::Done(_)) = (self.orders.get(&n), reply) else { return };
        let call = pending.command.call.as_str();
        self.is_flat |= pending.is_flat_try;
        if orders::touches_inbox(call) {
            self.due.look = now.since;
        }
        if orders::touches_push(call) {
            self.due.check = Due::default().check;
        }
        if call == "password" {
            self.password = pending.secrets.get("password").and_then(wire::text).map(Secret::new);
        }
    }

    /// 401 or 403: the token, or is it not allowed? The next answer to a question of our own
    /// tells.
    fn doubt(&mut self, n: u64) {
        if let Some(pending) = self.orders.get_mut(&n) {
            (pending.stage, pending.was_doubted) = (Stage::Doubted, true);
            self.due.check = Due::default().check;
        }
    }

    /// The token is good: it was not allowed.
    pub(super) fn doubts_refused(&mut self) {
        for n in self.of_stage(Stage::Doubted) {
            let why = "Portero's user is not allowed to do it (HTTP 403)";
            self.reply(n, Reply::Refused(why.into()));
        }
    }

    /// Nobody can tell now; another time they may go.
    pub(super) fn doubts_unsent(&mut self, why: &str) {
        for n in self.of_stage(Stage::Doubted) {
            self.reply(n, Reply::Unsent(format!("refused, and why cannot be asked now: {why}")));
        }
    }

    /// There is a new token: what was refused for the old one goes again.
    pub(super) fn doubts_end(&mut self) {
        for pending in self.orders.values_mut().filter(|p| p.stage == Stage::Doubted) {
            pending.stage = Stage::Waiting;
        }
    }

    /// Nothing more is sent: what was not sent is answered.
    pub(super) fn give_up_waiting(&mut self, why: &str) {
        let why = format!("not connected: {why}");
        for n in self.orders.keys().copied().collect::<Vec<_>>() {
            if self.orders.get(&n).is_some_and(|pending| pending.stage != Stage::Sent) {
                self.reply(n, Reply::Unsent(why.clone()));
            }
        }
    }

    fn of_stage(&self, stage: Stage) -> Vec<u64> {
        self.orders.iter().filter(|(_, p)| p.stage == stage).map(|(n, _)| *n).collect()
    }

    fn reply(&mut self, n: u64, reply: Reply) {
        self.orders.remove(&n);
        let reply = match reply {
            Reply::Refused(why) => Reply::Refused(self.without_token(&why)),
            Reply::Unknown(why) => Reply::Unknown(self.without_token(&why)),
            other => other,
        };
        self.out.push(Output::Reply(n, reply));
    }
}
