//! One Indigo server, sans I/O: what its feeds and its command service say goes in; frames,
//! requests, news and replies come out. The caller owns the sockets, the clock and the journal.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::commands;
use super::log::Log;
use super::news::{RAW_BYTES_MAX, Teller};
use super::orders::{Asked, Next, Orders};
use super::stand_in;
use super::sync::{Effects, Heard, Sync};
use super::wire::{self, Message};
use super::{Config, Feed, Moment};
use crate::command::{Command, find};
use crate::event::Trust;
use crate::node::nearest;
use crate::systems::link::{News, Reply, mended};

/// State changes told in one piece; more make several, so that no record gets too large.
const TOLD_AT_ONCE_MAX: usize = 200;

/// One Indigo server.
#[derive(Debug)]
pub struct Session {
    teller: Teller,
    doors: BTreeMap<Feed, Door>,
    syncs: BTreeMap<Feed, Sync>,
    log: Log,
    orders: Orders,
    asked: u64,
    source: String,
    /// Why feeds are not whole, as said last.
    flaws: Vec<String>,
}

/// How a feed's connection stands.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Door {
    /// It works.
    Open,
    /// Not now, and why.
    Closed(String),
    /// The server has no such feed.
    Absent,
}

/// Why a feed is not connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Closed {
    /// The server says that there is no such feed.
    Absent,
    /// Anything else, in words.
    Because(String),
}

/// What the caller must do.
#[derive(Debug, PartialEq)]
pub enum Output {
    /// Send this text over that feed.
    Send(Feed, String),
    /// Post this to the command service, and say what came of it for this order.
    Post(u64, Value),
    /// Tell this.
    Tell(News),
    /// Keep this, which could not be understood.
    Bad(String, Vec<u8>),
    /// That is how the order went.
    Reply(u64, Reply),
    /// End that feed's connection.
    Close(Feed, String),
    /// Whether everything is connected, and why not.
    Link(bool, String),
}

// === impl Session ===

impl Session {
    /// The session of `source`, which is `indigo/<name>`, with what was known of it.
    pub fn new(
        source: &str,
        config: &Config,
        trust: Trust,
        known: &[(String, Value)],
        start: Timestamp,
    ) -> Session {
        let feeds = || config.feeds.iter().copied();
        let closed = || Door::Closed("not yet".into());
        let objects = feeds().filter(|feed| *feed != Feed::Log);
        let sync = |feed| (feed, Sync::new(source, feed, config.refresh, known));
        Session {
            teller: Teller::new(source, trust, config.time_zone.clone(), start),
            doors: feeds().map(|feed| (feed, closed())).collect(),
            syncs: objects.map(sync).collect(),
            log: Log::new(source, known),
            orders: Orders::default(),
            asked: 0,
            source: source.to_string(),
            flaws: Vec::new(),
        }
    }

    /// The objects of a feed.
    pub fn objects(&self, feed: Feed) -> Option<&BTreeMap<i64, Value>> {
        self.syncs.get(&feed).map(|sync| sync.mirror.objects())
    }

    /// A feed is connected.
    pub fn opened(&mut self, feed: Feed, now: Moment) -> Vec<Output> {
        let mut out = Vec::new();
        self.doors.insert(feed, Door::Open);
        match self.syncs.get_mut(&feed) {
            Some(sync) => {
                sync.connected(now);
                out.extend(sync.due(now).into_iter().map(|text| Output::Send(feed, text)));
            }
            None => {
                let known: Vec<_> = self.log.connected(now, &self.teller).into_iter().collect();
                if !known.is_empty() {
                    out.push(Output::Tell(News { known, events: Vec::new() }));
                }
            }
        }
        out.push(self.link());
        out
    }

    /// A feed is not connected, or no more.
    pub fn closed(&mut self, feed: Feed, why: Closed) -> Vec<Output> {
        let door = match why {
            Closed::Absent => Door::Absent,
            Closed::Because(why) => Door::Closed(why),
        };
        self.doors.insert(feed, door);
        if let Some(sync) = self.syncs.get_mut(&feed) {
            sync.disconnected();
        }
        let mut out = replies(self.orders.closed(feed));
        out.push(self.link());
        out
    }

    /// A text came over a feed.
    pub fn frame(&mut self, feed: Feed, text: &str, now: Moment) -> Vec<Output> {
        let (message, mends) = wire::read(feed, text);
        mended(&self.source, mends);
        let mut out = match message {
            Ok(message) if feed == Feed::Log => self.log_message(message, text, now),
            Ok(message) => self.message(feed, message, text, now),
            Err(odd) => self.odd(feed, &odd.to_string(), text, text.as_bytes(), now),
        };
        out.extend(self.new_flaws());
        out
    }

    /// Bytes that are no text came over a feed.
    pub fn binary(&mut self, feed: Feed, bytes: &[u8], now: Moment) -> Vec<Output> {
        self.odd(feed, "a binary frame", "", bytes, now)
    }

    /// Something is to be done.
    pub fn order(
        &mut self,
        order: u64,
        command: &Command,
        deadline: Timestamp,
        now: Moment,
    ) -> Vec<Output> {
        match self.prepare(command, deadline, now) {
            Err(reply) => vec![Output::Reply(order, reply)],
            Ok(message) => {
                let feed = match command.call.as_str() {
                    "log" => Some(Feed::Log),
                    call => commands::feed_of(call),
                };
                match self.orders.begin(order, feed, message.clone(), deadline) {
                    Ok(()) => vec![Output::Post(order, message.into())],
                    Err(reply) => vec![Output::Reply(order, reply)],
                }
            }
        }
    }

    /// What came of [`Output::Post`].
    pub fn asked(&mut self, order: u64, asked: Asked, now: Moment) -> Vec<Output> {
        let doors = &self.doors;
        let is_up = |feed| doors.get(&feed) == Some(&Door::Open);
        match self.orders.asked(order, asked, is_up, now) {
            None => Vec::new(),
            Some(Next::Reply(reply)) => vec![Output::Reply(order, reply)],
            Some(Next::Send(feed, text)) => vec![Output::Send(feed, text)],
        }
    }

    /// Time passed. To be called every second or so.
    pub fn tick(&mut self, now: Moment) -> Vec<Output> {
        let mut out = replies(self.orders.tick(now));
        let mut all = Vec::new();
        for (feed, sync) in &mut self.syncs {
            let mut effects = Effects::default();
            sync.tick(now, &mut effects);
            if sync.is_overdue(now) {
                out.push(Output::Close(*feed, "a question was not answered".into()));
            }
            out.extend(sync.due(now).into_iter().map(|text| Output::Send(*feed, text)));
            all.push((*feed, effects));
        }
        all.into_iter().for_each(|(feed, effects)| self.tell(feed, effects, now, &mut out));
        out.extend(self.new_flaws());
        out
    }

    fn message(&mut self, feed: Feed, message: Message, text: &str, now: Moment) -> Vec<Output> {
        let Some(sync) = self.syncs.get_mut(&feed) else { return Vec::new() };
        let failed = match &message {
            Message::Failed { id, why } => Some((id.clone(), why.clone())),
            _ => None,
        };
        let mut effects = Effects::default();
        if !sync.message(message, heard(text, now), now, &mut effects)
            && let Some((id, why)) = failed
        {
            return self.failed(id.as_deref(), &why, text);
        }
        let mut out: Vec<Output> =
            effects.bad.iter().map(|why| Output::Bad(why.clone(), text.into())).collect();
        out.extend(sync.due(now).into_iter().map(|text| Output::Send(feed, text)));
        self.tell(feed, effects, now, &mut out);
        out
    }

    fn tell(&mut self, feed: Feed, effects: Effects, now: Moment, out: &mut Vec<Output>) {
        let Some(sync) = self.syncs.get(&feed) else { return };
        let folder = |id| sync.folder(id).map(String::from);
        let mut news = News::default();
        for (known, change) in effects.pieces {
            news.known.extend(known);
            if let Some(change) = change {
                out.extend(replies(self.orders.changed(feed, change.id)));
                let event = self.teller.event(feed, change, folder, now.at);
                news.events.extend(event.map(Into::into));
            }
            if news.known.len() >= TOLD_AT_ONCE_MAX {
                out.push(Output::Tell(std::mem::take(&mut news)));
            }
        }
        if !news.is_empty() {
            out.push(Output::Tell(news));
        }
    }

    fn failed(&mut self, id: Option<&str>, why: &str, text: &str) -> Vec<Output> {
        match id.and_then(|id| self.orders.failed(id, why)) {
            Some(over) => replies(vec![over]),
            None => vec![Output::Bad(format!("Indigo says: {why}"), text.into())],
        }
    }

    fn log_message(&mut self, message: Message, text: &str, now: Moment) -> Vec<Output> {
        match message {
            Message::Added(entry) => {
                match self.log.entry(&entry, heard(text, now), now, &self.teller) {
                    Err(lacks) => vec![Output::Bad(lacks.into(), text.into())],
                    Ok(None) => Vec::new(),
                    Ok(Some(event)) => {
                        let events = vec![event.into()];
                        vec![Output::Tell(News { known: Vec::new(), events })]
                    }
                }
            }
            Message::Failed { id, why } => self.failed(id.as_deref(), &why, text),
            _ => vec![Output::Bad("not a log entry".into(), text.into())],
        }
    }

    /// What could not be read; the text is empty if it is none.
    fn odd(&mut self, feed: Feed, why: &str, text: &str, raw: &[u8], now: Moment) -> Vec<Output> {
        let mut out = vec![Output::Bad(format!("{}-feed: {why}", feed.as_str()), raw.to_vec())];
        let mut effects = Effects::default();
        if let Some(sync) = self.syncs.get_mut(&feed) {
            sync.unreadable(text, why, now, &mut effects);
            out.extend(sync.due(now).into_iter().map(|text| Output::Send(feed, text)));
        }
        self.tell(feed, effects, now, &mut out);
        out
    }

    /// Says so if other feeds are not whole than before, or for another reason.
    fn new_flaws(&mut self) -> Option<Output> {
        let flaws = self.syncs.values().filter_map(|sync| sync.flaw().map(String::from)).collect();
        let is_new = self.flaws != flaws;
        self.flaws = flaws;
        is_new.then(|| self.link())
    }

    fn prepare(
        &mut self,
        command: &Command,
        deadline: Timestamp,
        now: Moment,
    ) -> Result<Map<String, Value>, Reply> {
        find(commands::COMMANDS, &command.call)
            .map_err(|mistake| Reply::Refused(mistake.to_string()))?;
        if !self.doors.values().any(|door| *door == Door::Open) {
            return Err(Reply::Unsent(format!("not connected: {}", self.why_down())));
        }
        if now.at >= deadline {
            return Err(Reply::Unsent("its time was over before it was sent".into()));
        }
        self.asked += 1;
        let id = format!("portero-{}-{}", now.at.as_millisecond(), self.asked);
        let find = |feed, name: &str| self.find(feed, name);
        let message = commands::message(&command.call, &command.args, &id, find);
        let message = message.map_err(Reply::Refused)?;
        self.check_lock(command, &message).map_err(Reply::Refused)?;
        Ok(message)
    }

    /// An object's id, by name or by the id itself.
    fn find(&self, feed: Feed, name: &str) -> Result<i64, String> {
        let kind = feed.as_str();
        let sync = self.syncs.get(&feed);
        if let Some(id) = sync.and_then(|sync| sync.mirror.named(name)) {
            return Ok(id);
        }
        let id = name.trim().parse::<i64>().ok();
        let Some(sync) = sync.filter(|sync| sync.has_snapshot()) else {
            let unknown = "names are not known without its feed; give its id";
            return id.ok_or_else(|| format!("the {kind} `{name}`: {unknown}"));
        };
        if let Some(id) = id.filter(|id| sync.mirror.get(*id).is_some()) {
            return Ok(id);
        }
        let near = nearest(name, sync.mirror.names());
        let near = near.map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
        Err(format!("there is no {kind} `{name}`{near}"))
    }

    /// Only `device.unlock`, which is checked for it, opens anything.
    fn check_lock(&self, command: &Command, message: &Map<String, Value>) -> Result<(), String> {
        if !["device.turnOff", "device.toggle"].contains(&command.call.as_str()) {
            return Ok(());
        }
        let id = message.get("objectId").and_then(Value::as_i64);
        let device = id.and_then(|id| self.syncs.get(&Feed::Device)?.mirror.get(id));
        let call = &command.call;
        match device {
            Some(device) if commands::is_lock(device) => {
                Err(format!("it is a lock: `{call}` might open it; use `device.unlock`"))
            }
            Some(device) if stand_in::is(device) => {
                Err(format!("it is not known yet whether it is a lock that `{call}` might open"))
            }
            _ => Ok(()),
        }
    }

    fn link(&self) -> Output {
        let is_up = self.doors.values().all(|door| !matches!(door, Door::Closed(_)))
            && self.doors.values().any(|door| *door == Door::Open)
            && self.syncs.values().all(|sync| sync.flaw().is_none());
        Output::Link(is_up, if is_up { String::new() } else { self.why_down() })
    }

    fn why_down(&self) -> String {
        let closed = self.doors.iter().find_map(|(feed, door)| match door {
            Door::Closed(why) => Some(format!("{}-feed: {why}", feed.as_str())),
            _ => None,
        });
        let flaw = self.syncs.iter().find_map(|(feed, sync)| {
            let why = sync.flaw().filter(|_| self.doors.get(feed) == Some(&Door::Open))?;
            Some(format!("{}-feed: {why}; only changes are heard", feed.as_str()))
        });
        closed.or(flaw).unwrap_or_else(|| "the server has none of the feeds".into())
    }
}

fn replies(over: Vec<(u64, Reply)>) -> Vec<Output> {
    over.into_iter().map(|(order, reply)| Output::Reply(order, reply)).collect()
}

fn heard(text: &str, now: Moment) -> Heard {
    let raw = &text.as_bytes()[..text.len().min(RAW_BYTES_MAX)];
    Heard { at: now.at, raw: raw.to_vec() }
}

#[cfg(test)]
#[path = "session/tests.rs"]
mod tests;
