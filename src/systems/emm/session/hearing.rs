//! What the EMM's answers mean: notifications become events and state, and what cannot be read is
//! kept and looked for elsewhere.

use serde_json::{Map, Value, json};

use jiff::Timestamp;

use super::{Due, LATE_SLACK, LOOK_AGAIN, Moment, Output, PAGES_IN_A_ROW_MAX, Session, What};
use crate::alert::READ_EVENT;
use crate::event::{Event, EventId};
use crate::systems::emm::alarms::{Change, State};
use crate::systems::emm::inbox;
use crate::systems::emm::notification::{self, Message, Notification};
use crate::systems::emm::wire::{self, Problem, Read, Status};
use crate::systems::http::Answer;
use crate::systems::link::{self, News, UnreadBody};

/// Bytes of an event's raw form; a notification has below one thousand.
const RAW_BYTES_MAX: usize = 64 * 1024;

/// Why a body may be cut.
const ENDS_EARLY: &str = "the body ends early";

/// So many entries of one body that cannot be read are told one by one, and the rest together: a
/// body of nothing else must not become a flood. One gateway breaks one entry.
const BROKEN_TOLD_MAX: usize = 5;

/// The same for entries of types that nobody described.
const UNKNOWN_TOLD_MAX: usize = 50;

/// Events told in one piece; what else there is to do goes on between two.
const TOLD_AT_ONCE_MAX: usize = 100;

/// Under these names a subscription's moment has been guessed; the document gives none.
const SINCE: [&str; 4] = ["time", "subscribed", "since", "status_time"];

/// Where an event comes from.
pub(super) struct Origin<'a> {
    pub received: Timestamp,
    pub caught_up: bool,
    pub raw: &'a [u8],
}

impl Session {
    pub(super) fn heard(
        &mut self,
        what: What,
        read: Read,
        body: &[u8],
        kept: Option<EventId>,
        now: Moment,
    ) {
        match what {
            What::Changes => {
                let late = self.config.poll * 2 + LATE_SLACK;
                let caught_up = self.last_changes.is_none_or(|last| last + late < now.since);
                self.last_changes = Some(now.since);
                let name = kept.map_or_else(|| now.wall.to_string(), |id| id.to_string());
                let origin = Origin { received: now.wall, caught_up, raw: body };
                self.changes(read, &name, &origin, now);
                if std::mem::take(&mut self.was_throttled) {
                    self.lost();
                }
            }
            What::Subscription => self.subscription(&read.value, now),
            What::Inbox => self.inbox_page(&read.value, now),
            What::Unread => self.unread_page(&read.value, now),
            What::Alarms => self.alarms_page(&read.value, now),
            What::Login | What::Release | What::Recipients | What::Order(_) => {}
        }
    }

    /// What came of a body whose rest is lost: the EMM has forgotten it, so what can be read of it
    /// is told, and the rest looked for elsewhere.
    pub(super) fn cut_short(
        &mut self,
        what: What,
        answer: &Answer,
        kept: Option<EventId>,
        now: Moment,
    ) {
        let is_something = answer.status == 200 && !answer.body.trim_ascii().is_empty();
        if what != What::Changes || !is_something {
            return;
        }
        match wire::answer(answer.status, &answer.content_type, &answer.body) {
            Ok(mut read) => {
                read.fixes.get_or_insert_default().cut = true;
                self.heard(what, read, &answer.body, kept, now);
            }
            Err(Problem::NotJson(_)) => {
                let name = kept.map_or_else(|| now.wall.to_string(), |id| id.to_string());
                let origin = Origin { received: now.wall, caught_up: false, raw: &answer.body };
                self.unparsed(ENDS_EARLY, &name, &origin);
            }
            Err(_) => {}
        }
    }

    /// A body that an earlier run kept and did not read: old news by now.
    pub(super) fn unread_body(&mut self, body: &UnreadBody, now: Moment) {
        let origin = Origin { received: body.received, caught_up: true, raw: &body.raw };
        if wire::is_page("", &body.raw) {
            return;
        }
        match wire::body_value(&body.raw) {
            Ok(read) => self.changes(read, &body.id.to_string(), &origin, now),
            Err(why) => self.unparsed(&why, &body.id.to_string(), &origin),
        }
    }

    /// All notifications of one body, whose name is `body`.
    fn changes(&mut self, read: Read, body: &str, origin: &Origin<'_>, now: Moment) {
        if read.value.get("error").is_some() {
            return;
        }
        if let Some(fixes) = read.fixes {
            self.out.push(Output::Mended(format!("/changes is no JSON; mended: {fixes}")));
            if fixes.cut {
                self.unparsed(ENDS_EARLY, body, origin);
            }
        }
        let Some(list) = notification::notifications(read.value) else {
            return self.unparsed("it has no list of notifications", body, origin);
        };
        let is_alone = list.len() == 1;
        let mut news = News::default();
        let (mut broken, mut unknown) = (0_usize, 0_usize);
        for (n, (notification, json)) in list.into_iter().enumerate() {
            let json = json.to_string();
            let raw = if is_alone { origin.raw } else { json.as_bytes() };
            let origin = Origin { raw, ..*origin };
            let name = format!("{body}:{n}");
            match notification {
                Notification::Message(message) => self.message(&mut news, &message, &origin, now),
                Notification::Alarm(alarm) => {
                    let changes = self.alarms.pushed(&alarm, origin.received, now);
                    self.alarm_changes(&mut news, changes, &origin);
                }
                Notification::Unknown { .. } if unknown >= UNKNOWN_TOLD_MAX => unknown += 1,
                Notification::Unknown { kind, fields } => {
                    unknown += 1;
                    let mut event = self.event("emm.unknown", &[&name], &origin, fields);
                    event.data.insert("notification_type".into(), kind.clone().into());
                    event.subject = Some(kind);
                    news.events.push(event.into());
                }
                Notification::Broken { .. } if broken >= BROKEN_TOLD_MAX => broken += 1,
                Notification::Broken { why } => {
                    broken += 1;
                    self.out.push(Output::Bad(why.into(), raw.to_vec()));
                    news.events.push(self.unparsed_event(why, &name, &origin).into());
                    self.lost();
                }
            }
            if news.events.len() >= TOLD_AT_ONCE_MAX {
                self.tell(std::mem::take(&mut news));
            }
        }
        self.tell(news);
        let left_out = broken.saturating_sub(BROKEN_TOLD_MAX);
        let left_out = left_out + unknown.saturating_sub(UNKNOWN_TOLD_MAX);
        if left_out > 0 {
            let why = format!("{left_out} more of its entries cannot be read");
            self.unparsed(&why, &format!("{body}:rest"), origin);
        }
    }

    fn message(&mut self, news: &mut News, message: &Message, origin: &Origin<'_>, now: Moment) {
        let is_known = self.mark.is_some_and(|mark| !mark.is_new(message));
        if message.is_read() && (self.unread.read(message.id) || is_known) {
            news.events.push(self.read_event(message, origin).into());
            return self.set_inbox(news);
        }
        news.events.push(self.message_event(message, origin).into());
        self.unread.came(message, now.since);
        // While something may be missing, the mark must not jump over it.
        if let Some(mark) = self.mark
            && !self.gap
            && mark.is_new(message)
        {
            self.mark = Some(mark.with(message));
            self.set_inbox(news);
        }
    }

    pub(super) fn set_inbox(&mut self, news: &mut News) {
        self.told_unread = Some(self.unread.clone());
        if let Some(mark) = self.mark {
            news.set(format!("{}/inbox", self.source), inbox::state(mark, &self.unread));
        }
    }

    pub(super) fn message_event(&self, message: &Message, origin: &Origin<'_>) -> Event {
        let text = |number: Option<i64>| number.map_or(String::new(), |n| n.to_string());
        let (id, in_system) = (message.id.to_string(), text(message.message_id));
        // The moment is in both forms, and tells apart what a database made anew numbers alike.
        let queued = text(message.queued.map(Timestamp::as_second));
        let unique = [id.as_str(), &in_system, &queued];
        let mut event = self.event("emm.user_event", &unique, origin, message.data.clone());
        event.time = message.queued;
        event.subject = Some(id);
        event
    }

    /// Somebody has read it, accepted it, or answered: how far it is makes it another event.
    pub(super) fn read_event(&self, message: &Message, origin: &Origin<'_>) -> Event {
        let text = |number: Option<i64>| number.map_or(String::new(), |n| n.to_string());
        let (id, queued) = (message.id.to_string(), text(message.queued.map(Timestamp::as_second)));
        let status = message.status.as_ref().map_or("", Status::name);
        let unique = [id.as_str(), &text(message.message_id), &queued, status];
        let mut event = self.event(READ_EVENT, &unique, origin, message.data.clone());
        event.subject = Some(id);
        event
    }

    pub(super) fn alarm_changes(
        &mut self,
        news: &mut News,
        changes: Vec<Change>,
        origin: &Origin<'_>,
    ) {
        if self.told_ends != self.alarms.ends() {
            self.told_ends = self.alarms.ends();
            let value = json!({ "ended": self.told_ends });
            news.set(format!("{}/alarms", self.source), value);
        }
        for change in changes {
            let path = format!("{}/alarm/{}", self.source, change.id);
            match &change.state {
                Some(State::Is(value)) => news.set(path, value.clone()),
                Some(State::Gone) => news.remove(path),
                None => {}
            }
            if !change.is_news {
                continue;
            }
            let origin = Origin {
                caught_up: origin.caught_up || change.is_concluded,
                raw: if change.is_concluded { &[] } else { origin.raw },
                ..*origin
            };
            let kind = if change.is_cleared { "emm.alarm_cleared" } else { "emm.active_alarm" };
            let mut event = self.event(kind, &[&change.key], &origin, change.data);
            let since = event.data.get("active_time").and_then(Value::as_str);
            let since = since.and_then(|at| at.parse().ok());
            event.subject = Some(change.id.to_string());
            // An end has no moment of its own.
            event.time = since.filter(|_| !change.is_cleared);
            news.events.push(event.into());
        }
    }

    fn event(
        &self,
        kind: &str,
        unique: &[&str],
        origin: &Origin<'_>,
        data: Map<String, Value>,
    ) -> Event {
        let (caught_up, received) = (origin.caught_up, origin.received);
        let mut event = link::event(&self.source, kind, unique, self.trust, caught_up, received);
        event.data = data;
        event.raw = origin.raw[..origin.raw.len().min(RAW_BYTES_MAX)].to_vec();
        event
    }

    /// A body that may hold an alarm and cannot be read: kept, told, and looked for elsewhere.
    fn unparsed(&mut self, why: &str, body: &str, origin: &Origin<'_>) {
        self.out.push(Output::Bad(format!("/changes: {why}"), origin.raw.to_vec()));
        let event = self.unparsed_event(why, body, origin);
        self.tell(News { known: Vec::new(), events: vec![event.into()] });
        self.lost();
    }

    fn unparsed_event(&self, why: &str, name: &str, origin: &Origin<'_>) -> Event {
        let text: String = String::from_utf8_lossy(origin.raw).chars().take(500).collect();
        let data = json!({ "error": why, "text": text });
        let data = data.as_object().cloned().unwrap_or_default();
        self.event("emm.unparsed", &[name], origin, data)
    }

    /// Something may be missing from what was told.
    pub(super) fn lost(&mut self) {
        self.gap = true;
        self.due.look = Due::default().look;
    }

    pub(super) fn tell(&mut self, news: News) {
        if !news.is_empty() {
            self.out.push(Output::Tell(news));
        }
    }

    fn subscription(&mut self, value: &Value, now: Moment) {
        let is_subscribed = value.get("status").and_then(wire::flag).unwrap_or(false);
        if is_subscribed != self.silenced.is_some() {
            self.silence(is_subscribed.then_some(value), now);
        }
        self.doubts_refused();
    }

    fn silence(&mut self, subscribed: Option<&Value>, now: Moment) {
        let mut news = News::default();
        self.silenced = subscribed.map(|value| {
            let since = SINCE.iter().find_map(|name| value.get(*name).and_then(wire::time));
            since.unwrap_or(now.wall).to_string()
        });
        let value = json!({ "silenced": subscribed.is_some(), "since": self.silenced });
        news.set(format!("{}/changes", self.source), value);
        if let Some(since) = &self.silenced {
            let origin = Origin { received: now.wall, caught_up: false, raw: &[] };
            let why = "this user has a Web Push subscription, so the EMM queues no changes for it";
            let data = json!({ "since": since, "why": why });
            let data = data.as_object().cloned().unwrap_or_default();
            let mut event = self.event("emm.changes_silenced", &[since], &origin, data);
            event.subject = Some(self.config.username.clone());
            news.events.push(event.into());
        }
        self.tell(news);
        // What happened around the change may be in neither.
        self.lost();
    }

    /// An answer that is none, to a question of our own.
    pub(super) fn problem(
        &mut self,
        what: What,
        problem: &Problem,
        answer: &Answer,
        kept: Option<EventId>,
        now: Moment,
    ) {
        let said_no = matches!(problem, Problem::Said(_) | Problem::Status(400..=499, _));
        match (what, problem) {
            (What::Changes, Problem::NotJson(why)) => {
                self.works(what);
                self.last_changes = Some(now.since);
                let name = kept.map_or_else(|| now.wall.to_string(), |id| id.to_string());
                let origin = Origin { received: now.wall, caught_up: false, raw: &answer.body };
                self.unparsed(why, &name, &origin);
            }
            (What::Changes, Problem::Throttled) => {
                // Turned away, one hopes, before anything was drained; meanwhile only the lists
                // tell, and afterwards they are compared.
                let wait = answer.retry_after.unwrap_or_default().max(self.config.poll * 2);
                self.due.changes = now.since + wait;
                self.due.look = self.due.look.min(now.since + LOOK_AGAIN);
                (self.gap, self.was_throttled) = (true, true);
            }
            (_, Problem::Throttled) => {
                self.look = None;
                self.doubts_unsent(&problem.to_string());
                self.due.check = now.since + LOOK_AGAIN;
                self.due.look = now.since + LOOK_AGAIN;
            }
            (What::Subscription, _) if said_no || matches!(problem, Problem::NotJson(_)) => {
                // An EMM without Web Push has no subscription to silence it.
                self.works(what);
                self.doubts_refused();
            }
            (What::Inbox | What::Alarms | What::Unread, Problem::NotJson(_)) => {
                self.skip(what, problem, answer, now)
            }
            (What::Inbox | What::Alarms | What::Unread, _) if said_no => {
                self.skip(what, problem, answer, now)
            }
            (_, Problem::Sessions(_)) => {
                let wait = self.refused.next_wait();
                self.out_for(now, wait, problem.to_string());
            }
            (_, Problem::Html) => {
                self.pages_in_a_row += 1;
                if self.pages_in_a_row >= PAGES_IN_A_ROW_MAX {
                    self.pages_in_a_row = 0;
                    self.give_back();
                }
                self.fail(now, problem.to_string());
            }
            _ => self.fail(now, problem.to_string()),
        }
    }
}
