//! Orders in a session: when they may leave, when they may leave once more, and what is answered.
//! An opening command leaves at most once, but for a token that the intercom refused: then it has
//! certainly not opened, and a young command is sent once more.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::super::commands::{self, COMMANDS, TRUST_CERTIFICATE};
use super::super::names::Signal;
use super::super::wire::{self, RpcError};
use super::{Moment, Output, Purpose, Session, Stage};
use crate::command;
use crate::systems::link::Reply;

/// An opening command older than this is not sent, be it again or after a login: who asked may
/// stand elsewhere by now.
const OPENING_WITHIN: Duration = Duration::from_secs(2);

/// An opening command leaves only if the intercom has answered something this lately; else it is
/// asked for a sign of life first. Into a half-open socket nothing is written that might open the
/// door when the network comes back.
const PROVEN_WITHIN: Duration = Duration::from_secs(5);

/// How long any other command waits for a login.
const HELD_WITHIN: Duration = Duration::from_secs(10);

/// Orders waiting and under way, at most: an intercom does a few a second, and more than this is
/// a rule gone wild.
const ORDERS_MAX: usize = 64;

/// An order as a session sees it.
#[derive(Debug, Clone)]
pub struct Ask {
    /// Names it, for the answer.
    pub ticket: u64,
    /// The command's name.
    pub call: String,
    /// Its arguments.
    pub args: Map<String, Value>,
    /// Those that must not be seen.
    pub secrets: Map<String, Value>,
    /// It must not be sent after this.
    pub deadline: Timestamp,
}

/// An order that waits: to be sent, or to be answered.
pub(super) struct Waiting {
    ticket: u64,
    call: &'static str,
    opens: bool,
    /// On the wire, but for the token.
    params: Map<String, Value>,
    deadline: Timestamp,
    /// When it came.
    came: Duration,
    /// Whether it was sent and refused for its token.
    refused: bool,
    /// Which token it was sent with.
    generation: u64,
    /// Whether the relay was heard to open while it was under way.
    opened: bool,
}

impl std::fmt::Debug for Waiting {
    /// Without its parameters, which may be secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waiting").field("ticket", &self.ticket).field("call", &self.call).finish()
    }
}

impl Waiting {
    /// When waiting for a login is of no more use.
    pub(super) fn held_until(&self) -> Duration {
        self.came + if self.opens { OPENING_WITHIN } else { HELD_WITHIN }
    }
}

impl Session {
    pub(super) fn order(&mut self, ask: Ask, now: Moment) {
        let ticket = ask.ticket;
        let waiting = match waiting(ask, now) {
            Ok(waiting) => waiting,
            Err(why) => return self.out.push(Output::Answer(ticket, Reply::Refused(why))),
        };
        let orders = self.pending.values().filter(|p| matches!(p.what, Purpose::Order(_))).count();
        if orders + self.held.len() >= ORDERS_MAX {
            return self.not_sent(waiting, "too many commands are under way");
        }
        match &self.stage {
            Stage::Off(why) => {
                let why = format!("not connected: {why}");
                self.not_sent(waiting, &why);
            }
            Stage::LoggingIn => self.held.push_back(waiting),
            Stage::Ready { .. } if waiting.opens && self.is_doubtful(now) => {
                self.held.push_back(waiting);
                self.renew(now);
            }
            Stage::Ready { .. } => self.send_order(waiting, now),
            Stage::Stopping => self.not_sent(waiting, "Portero stops"),
        }
    }

    /// Whether it is too long ago that the intercom has shown that it hears us.
    fn is_doubtful(&self, now: Moment) -> bool {
        now.up.saturating_sub(self.answered_at) > PROVEN_WITHIN
    }

    /// Sends it, unless its time is over.
    fn send_order(&mut self, mut waiting: Waiting, now: Moment) {
        let too_old = waiting.opens && now.up.saturating_sub(waiting.came) >= OPENING_WITHIN;
        if now.at > waiting.deadline || too_old {
            return self.not_sent(waiting, "its time was over before it could be sent");
        }
        waiting.generation = self.generation;
        let params = waiting.params.clone();
        self.send(waiting.call, params, Purpose::Order(waiting), now);
    }

    /// After a login or another answer.
    pub(super) fn send_held(&mut self, now: Moment) {
        for waiting in std::mem::take(&mut self.held) {
            self.send_order(waiting, now);
        }
    }

    /// Whoever waited for a login long enough is told so.
    pub(super) fn let_go_of_held(&mut self, now: Moment) {
        let (over, held): (Vec<_>, Vec<_>) =
            self.held.drain(..).partition(|waiting| waiting.held_until() <= now.up);
        self.held = held.into();
        for waiting in over {
            self.not_sent(waiting, "the intercom did not answer in time");
        }
    }

    /// The intercom answered.
    pub(super) fn answered(
        &mut self,
        mut waiting: Waiting,
        result: Result<Value, RpcError>,
        now: Moment,
    ) {
        let error = match result {
            Ok(result) => {
                let shown = commands::shown(result);
                return self.out.push(Output::Answer(waiting.ticket, Reply::Done(shown)));
            }
            Err(error) => error,
        };
        if error.is_silent {
            // Nobody can say whether it did it.
            return self.unknown(waiting, &error.message);
        }
        if error.is_missing_method() {
            let why = format!("this intercom lacks it ({})", waiting.call);
            return self.out.push(Output::Answer(waiting.ticket, Reply::Refused(why)));
        }
        let again = error.is_token_trouble()
            && !waiting.refused
            // A relay that opened meanwhile makes the refusal doubtful.
            && !waiting.opened
            && !matches!(self.stage, Stage::Stopping);
        if !again {
            let why = self.scrubbed_text(&error.to_string());
            return self.out.push(Output::Answer(waiting.ticket, Reply::Refused(why)));
        }
        waiting.refused = true;
        if waiting.generation == self.generation && matches!(self.stage, Stage::Ready { .. }) {
            self.renew_by_login(now);
        }
        match self.stage {
            Stage::Ready { .. } => self.send_order(waiting, now),
            _ => self.held.push_back(waiting),
        }
    }

    /// Nobody knows whether the intercom did it.
    pub(super) fn unknown(&mut self, waiting: Waiting, why: &str) {
        let also = if waiting.opened { "; the relay was heard to open meanwhile" } else { "" };
        let reply = Reply::Unknown(format!("{why}{also}"));
        self.out.push(Output::Answer(waiting.ticket, reply));
    }

    /// It did not leave, or left once and was certainly refused.
    pub(super) fn not_sent(&mut self, waiting: Waiting, why: &str) {
        let reply = match waiting.refused {
            true => {
                Reply::Refused(format!("its token had run out, and it was not sent again: {why}"))
            }
            false => Reply::Unsent(why.to_string()),
        };
        self.out.push(Output::Answer(waiting.ticket, reply));
    }

    /// A relay opened: those who asked for just that and wait may be told.
    pub(super) fn note_opening(&mut self, signal: Signal, params: &Map<String, Value>) {
        if signal != Signal::Relay || wire::is_open(params) != Some(true) {
            return;
        }
        let relay = params.get("relay").and_then(wire::whole);
        for pending in self.pending.values_mut() {
            if let Purpose::Order(waiting) = &mut pending.what
                && waiting.call == "relay.open"
                && waiting.params.get("relay").and_then(wire::whole) == relay
            {
                waiting.opened = true;
            }
        }
    }
}

/// The order, checked once more against the vendor's limits.
fn waiting(ask: Ask, now: Moment) -> Result<Waiting, String> {
    let spec = command::find(COMMANDS, &ask.call).map_err(|mistake| mistake.to_string())?;
    if spec.name == TRUST_CERTIFICATE {
        return Err("nothing that an intercom is told".into());
    }
    let params = commands::params(spec.name, &ask.args, &ask.secrets)?;
    Ok(Waiting {
        ticket: ask.ticket,
        call: spec.name,
        opens: spec.opens,
        params,
        deadline: ask.deadline,
        came: now.up,
        refused: false,
        generation: 0,
        opened: false,
    })
}
