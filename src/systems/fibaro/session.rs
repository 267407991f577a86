//! One intercom's conversation as a state machine: inputs and the moment go in, frames, news and
//! answers to orders come out. Owns the login, the token, which reply belongs to what, and when
//! the other side is taken for dead. Does no I/O, and reads no clock. Orders: [`orders`].

mod orders;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::mirror::Mirror;
use super::names::Names;
use super::wire::{self, Incoming, RpcError};
use crate::event::Trust;
use crate::secret::Secret;
use crate::systems::link::{News, Reply, mended};
pub use orders::Ask;
use orders::Waiting;

/// How long an answer may take. Real ones come within a second; a door that opens later than this
/// surprises whoever has walked away.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// After this long without an answer the intercom is asked for one. With [`ANSWER_WITHIN`] a
/// half-open socket is found in 50 s, below the promised 60.
pub const QUIET_MAX: Duration = Duration::from_secs(40);

/// The shortest time between two refreshes, whatever life the intercom gives its tokens.
const REFRESH_LEAST: Duration = Duration::from_secs(5);

/// The relays that are asked for their state after a gap: all an intercom has.
const RELAYS: [i64; 2] = [0, 1];

/// The shortest token or password that is looked for in what is kept; shorter ones would hide
/// half of every frame.
const SCRUB_BYTES_MIN: usize = 4;

/// The most bytes looked at of what is kept unread; far more than is kept of it in the end.
const BAD_BYTES_MAX: usize = 64 * 1024;

/// What a session starts with.
#[derive(Debug, Clone)]
pub struct Setup {
    /// `fibaro/gate`.
    pub source: String,
    /// How far live news are vouched for.
    pub trust: Trust,
    /// Who logs in.
    pub user: String,
    /// And how.
    pub pass: Secret,
    /// What things are called on the wire.
    pub names: Names,
    /// Random: makes the ids of this run's events its own.
    pub boot: u64,
}

/// A moment on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// On the wall: stamps events, ends deadlines.
    pub at: Timestamp,
    /// Since the driver's start, never turned back: ages and timeouts.
    pub up: Duration,
}

/// What happened outside.
#[derive(Debug)]
pub enum Input<'a> {
    /// The socket is open.
    Connected,
    /// A text frame came.
    Frame(&'a [u8]),
    /// A frame came that is none of an intercom's, and what is odd about it.
    Odd(&'static str, &'a [u8]),
    /// The socket is gone, and why.
    Closed(&'a str),
    /// Somebody wants something.
    Order(Ask),
    /// Time passed; see [`Session::due`].
    Tick,
    /// Portero stops.
    Stop,
}

/// What is to be done outside, in this order.
#[derive(Debug)]
pub enum Output {
    /// Send a text frame; it holds a token or a password.
    Send(Secret),
    /// Tell news.
    News(News),
    /// Keep what was not understood; it holds no secret.
    Bad(&'static str, Vec<u8>),
    /// Answer the order of this ticket.
    Answer(u64, Reply),
    /// Logged in: the link is up.
    Up,
    /// The link is down, and why; the socket is to be closed if it is not.
    Down {
        /// For people.
        why: String,
        /// Whether trying again soon does no good: a wrong password.
        slow: bool,
    },
}

/// See the module.
#[derive(Debug)]
pub struct Session {
    setup: Setup,
    mirror: Mirror,
    stage: Stage,
    /// Never used twice in a run, so that a late reply of an earlier socket matches nothing.
    last_id: u64,
    /// Sent and not answered.
    pending: BTreeMap<u64, Pending>,
    /// Orders that wait for the login, or for a sign of life.
    held: VecDeque<Waiting>,
    /// Methods that this intercom said that it lacks. Kept in memory only:
    /// a restart asks again.
    lacks: BTreeSet<&'static str>,
    /// This socket did not answer how a relay is: not asked again before the next one.
    is_mute_on_relays: bool,
    /// The token in use; empty before the first login. Kept after it to be found in bad frames.
    token: Secret,
    /// Counts tokens: a request refused with an older one is sent again with the newer.
    generation: u64,
    /// When the intercom last answered something. Signals do not count: they say nothing about
    /// whether it hears us.
    answered_at: Duration,
    out: Vec<Output>,
}

#[derive(Debug)]
enum Stage {
    /// No socket, and why.
    Off(String),
    /// A login is on its way.
    LoggingIn,
    /// There is a token. It is renewed at `refresh`.
    Ready { refresh: Duration, half_life: Duration },
    /// A logout is on its way.
    Stopping,
}

/// A request under way.
#[derive(Debug)]
struct Pending {
    sent: Duration,
    what: Purpose,
}

#[derive(Debug)]
enum Purpose {
    Login,
    /// Of this generation's token.
    Refresh(u64),
    Logout,
    /// After a gap; and how many signals had come about the relay when it was asked.
    RelayState {
        relay: i64,
        signals: u64,
    },
    Order(Waiting),
}

impl Session {
    /// A session that is not connected. `known` is the system's state as of the last run.
    pub fn new(setup: Setup, known: &[(String, Value)]) -> Session {
        let mirror = Mirror::new(&setup.source, setup.trust, setup.boot, known);
        Session {
            setup,
            mirror,
            stage: Stage::Off("not tried yet".into()),
            last_id: 0,
            pending: BTreeMap::new(),
            held: VecDeque::new(),
            lacks: BTreeSet::new(),
            is_mute_on_relays: false,
            token: Secret::new(""),
            generation: 0,
            answered_at: Duration::ZERO,
            out: Vec::new(),
        }
    }

    /// What is to be done now that this happened.
    pub fn handle(&mut self, input: Input<'_>, now: Moment) -> Vec<Output> {
        match input {
            Input::Connected => {
                self.answered_at = now.up;
                self.is_mute_on_relays = false;
                self.login(now);
            }
            Input::Frame(frame) => self.frame(frame, now),
            Input::Odd(reason, frame) => self.bad(reason, frame),
            Input::Closed(why) => self.down(why, false),
            Input::Order(ask) => self.order(ask, now),
            Input::Tick => self.tick(now),
            Input::Stop => self.stop(now),
        }
        std::mem::take(&mut self.out)
    }

    /// When [`Input::Tick`] is wanted next; none while nothing is waited for.
    pub fn due(&self) -> Option<Duration> {
        let answers = self.pending.values().map(|pending| pending.sent + ANSWER_WITHIN);
        let held = self.held.iter().map(Waiting::held_until);
        let refresh = match &self.stage {
            Stage::Ready { refresh, .. } if !self.is_renewing() => {
                Some((*refresh).min(self.answered_at + QUIET_MAX))
            }
            _ => None,
        };
        answers.chain(held).chain(refresh).min()
    }

    /// The certificate was refused; news for rules.
    pub fn certificate_changed(&self, expected: &str, seen: &str, now: Timestamp) -> News {
        self.mirror.certificate_changed(expected, seen, now)
    }

    fn frame(&mut self, frame: &[u8], now: Moment) {
        let (messages, mends) = wire::read(frame);
        mended(&self.setup.source, mends);
        for message in messages {
            if matches!(self.stage, Stage::Off(_)) {
                return;
            }
            match message {
                Incoming::Reply { id, result } => self.reply(id, result, frame, now),
                Incoming::Signal { method, params } => self.signal(&method, &params, frame, now),
                Incoming::Bad(reason) => self.bad(reason, frame),
            }
        }
    }

    fn signal(&mut self, method: &str, params: &Map<String, Value>, frame: &[u8], now: Moment) {
        let Some(signal) = self.setup.names.signal(method) else {
            return self.bad("an unknown signal", frame);
        };
        let raw = self.scrubbed(frame);
        match self.mirror.signal(signal, params, &raw, now.at) {
            Ok(news) => {
                self.note_opening(signal, params);
                self.out.push(Output::News(news));
            }
            Err(reason) => self.bad(reason, frame),
        }
    }

    fn reply(
        &mut self,
        id: Option<u64>,
        result: Result<Value, RpcError>,
        frame: &[u8],
        now: Moment,
    ) {
        let Some(id) = id.filter(|id| *id >= 1 && *id <= self.last_id) else {
            return self.bad("a reply to nothing that was asked", frame);
        };
        let Some(pending) = self.pending.remove(&id) else {
            // A reply sent twice, or one that came after its time.
            tracing::debug!(source = self.setup.source, id, "a reply that nobody waits for");
            return;
        };
        self.answered_at = now.up;
        if result.as_ref().is_err_and(|error| error.is_silent) {
            self.bad("a reply with neither result nor error", frame);
        }
        match pending.what {
            Purpose::Login => self.logged_in(result, now),
            Purpose::Refresh(generation) => self.refreshed(generation, result, now),
            Purpose::Logout => {}
            Purpose::RelayState { relay, signals } => {
                self.relay_state(relay, signals, result, frame, now);
            }
            Purpose::Order(waiting) => self.answered(waiting, result, now),
        }
        if matches!(self.stage, Stage::Ready { .. }) {
            self.send_held(now);
        }
        self.end_if_stopped();
    }

    fn tick(&mut self, now: Moment) {
        let late = |pending: &Pending| pending.sent + ANSWER_WITHIN <= now.up;
        let ids: Vec<u64> =
            self.pending.iter().filter(|(_, p)| late(p)).map(|(id, _)| *id).collect();
        for id in ids {
            if let Some(pending) = self.pending.remove(&id) {
                self.unanswered(pending.what, now);
            }
        }
        self.let_go_of_held(now);
        if let Stage::Ready { refresh, .. } = &self.stage
            && (*refresh <= now.up || self.answered_at + QUIET_MAX <= now.up)
        {
            self.renew(now);
        }
        self.end_if_stopped();
    }

    fn unanswered(&mut self, what: Purpose, now: Moment) {
        match what {
            Purpose::Login => self.down("no answer to the login", false),
            Purpose::Refresh(_) => self.down("no answer to a token refresh", false),
            Purpose::Logout => {}
            Purpose::RelayState { .. } => {
                // Some firmware may not answer what it does not know; a dead socket answers nothing.
                self.is_mute_on_relays = true;
                self.renew(now);
            }
            Purpose::Order(waiting) => {
                let seconds = ANSWER_WITHIN.as_secs();
                self.unknown(waiting, &format!("no answer within {seconds} s"));
                self.renew(now);
            }
        }
    }

    // --- The token.

    fn login(&mut self, now: Moment) {
        let mut params = Map::new();
        params.insert("user".into(), self.setup.user.clone().into());
        params.insert("pass".into(), self.setup.pass.expose().into());
        self.stage = Stage::LoggingIn;
        self.send("account.login", params, Purpose::Login, now);
    }

    fn logged_in(&mut self, result: Result<Value, RpcError>, now: Moment) {
        if !matches!(self.stage, Stage::LoggingIn) {
            return;
        }
        match result {
            Ok(result) if self.take_token(&result, now) => {
                self.out.push(Output::Up);
                self.ask_relays(now);
            }
            Ok(_) => self.down("the login was answered without a token", true),
            Err(error) => {
                let error = self.scrubbed_text(&error.to_string());
                self.down(&format!("the login was refused: {error}"), true);
            }
        }
    }

    /// Asks for a new life of the token, which is also the sign of life that an open socket does
    /// not give. Not while one is asked for already.
    fn renew(&mut self, now: Moment) {
        if !matches!(self.stage, Stage::Ready { .. }) || self.is_renewing() {
            return;
        }
        if self.lacks.contains("account.refresh") {
            return self.login(now);
        }
        let generation = self.generation;
        self.send("account.refresh", Map::new(), Purpose::Refresh(generation), now);
    }

    fn is_renewing(&self) -> bool {
        self.pending.values().any(|p| matches!(p.what, Purpose::Refresh(_) | Purpose::Login))
    }

    fn refreshed(&mut self, generation: u64, result: Result<Value, RpcError>, now: Moment) {
        let Stage::Ready { refresh, half_life } = &mut self.stage else { return };
        if generation != self.generation {
            return;
        }
        // Without a token in the answer the old one lives on.
        *refresh = now.up + *half_life;
        match result {
            Ok(result) => {
                self.take_token(&result, now);
            }
            Err(error) => {
                if error.is_missing_method() {
                    self.lacks.insert("account.refresh");
                }
                self.login(now);
            }
        }
    }

    fn take_token(&mut self, result: &Value, now: Moment) -> bool {
        let Some(token) = wire::token(result, now.at) else { return false };
        let half_life = Duration::from_millis(token.lives_ms / 2).max(REFRESH_LEAST);
        self.token = Secret::new(token.text);
        self.generation += 1;
        self.stage = Stage::Ready { refresh: now.up + half_life, half_life };
        true
    }

    fn stop(&mut self, now: Moment) {
        if let Stage::Off(_) = self.stage {
            return self.down("Portero stops", false);
        }
        let logged_in = matches!(self.stage, Stage::Ready { .. });
        self.stage = Stage::Stopping;
        for waiting in std::mem::take(&mut self.held) {
            self.not_sent(waiting, "Portero stops");
        }
        if logged_in {
            self.send("account.logout", Map::new(), Purpose::Logout, now);
        }
        self.pending.retain(|_, p| !matches!(p.what, Purpose::Login | Purpose::Refresh(_)));
        self.end_if_stopped();
    }

    fn end_if_stopped(&mut self) {
        if matches!(self.stage, Stage::Stopping) && self.pending.is_empty() {
            self.down("Portero stops", false);
        }
    }

    // --- After a gap.

    fn ask_relays(&mut self, now: Moment) {
        if self.lacks.contains("relay.state") || self.is_mute_on_relays {
            return;
        }
        for relay in RELAYS {
            let signals = self.mirror.signals(relay);
            let params = Map::from_iter([("relay".to_string(), Value::from(relay))]);
            self.send("relay.state", params, Purpose::RelayState { relay, signals }, now);
        }
    }

    fn relay_state(
        &mut self,
        relay: i64,
        signals: u64,
        result: Result<Value, RpcError>,
        frame: &[u8],
        now: Moment,
    ) {
        match result {
            // A signal that came meanwhile is at least as new.
            Ok(_) if self.mirror.signals(relay) != signals => {}
            Ok(result) => match result.as_object().and_then(wire::is_open) {
                Some(open) => {
                    let news = self.mirror.caught_up(relay, open, now.at);
                    if !news.is_empty() {
                        self.out.push(Output::News(news));
                    }
                }
                None => self.bad("a relay's state without the state", frame),
            },
            Err(error) if error.is_missing_method() => {
                self.lacks.insert("relay.state");
            }
            // Right after a login the token is not the trouble, whatever it says; logging in for
            // it again would go round in circles.
            Err(error) => {
                let (source, error) = (&self.setup.source, self.scrubbed_text(&error.to_string()));
                tracing::warn!(source, relay, error, "the relay's state is not told");
            }
        }
    }

    /// The token is void. One login at a time: a second trouble waits for the first's end.
    fn renew_by_login(&mut self, now: Moment) {
        if matches!(self.stage, Stage::Ready { .. }) {
            self.login(now);
        }
    }

    // --- Sending and ending.

    fn send(
        &mut self,
        key: &'static str,
        mut params: Map<String, Value>,
        what: Purpose,
        now: Moment,
    ) {
        let Some(method) = self.setup.names.method(key) else { return };
        if !matches!(what, Purpose::Login) {
            params.insert("token".into(), self.token.expose().into());
        }
        self.last_id += 1;
        let frame = wire::request(self.last_id, method, &params);
        self.pending.insert(self.last_id, Pending { sent: now.up, what });
        self.out.push(Output::Send(Secret::new(frame)));
    }

    /// The socket is gone or given up: every order gets its answer.
    fn down(&mut self, why: &str, slow: bool) {
        for (_, pending) in std::mem::take(&mut self.pending) {
            if let Purpose::Order(waiting) = pending.what {
                self.unknown(waiting, &format!("the connection ended before its answer: {why}"));
            }
        }
        for waiting in std::mem::take(&mut self.held) {
            self.not_sent(waiting, &format!("not connected: {why}"));
        }
        let was_off = matches!(self.stage, Stage::Off(_));
        self.stage = Stage::Off(why.to_string());
        if !was_off {
            self.out.push(Output::Down { why: why.to_string(), slow });
        }
    }

    fn bad(&mut self, reason: &'static str, frame: &[u8]) {
        let raw = self.scrubbed(&frame[..frame.len().min(BAD_BYTES_MAX)]);
        self.out.push(Output::Bad(reason, raw));
    }

    /// The frame without the secrets that are known to us, nor those in fields of that name.
    fn scrubbed(&self, frame: &[u8]) -> Vec<u8> {
        let mut clean = wire::without_secrets(frame);
        for secret in [self.token.expose(), self.setup.pass.expose()] {
            if secret.len() >= SCRUB_BYTES_MIN {
                clean = wire::replaced(&clean, secret.as_bytes());
            }
        }
        clean
    }

    fn scrubbed_text(&self, text: &str) -> String {
        String::from_utf8_lossy(&self.scrubbed(text.as_bytes())).into_owned()
    }
}
