//! What the EMM's answers mean: notifications become events and state, and after a gap the inbox
//! and the alarms are compared with what was told.

use serde_json::{Map, Value, json};

use jiff::Timestamp;

use super::{Due, LATE_SLACK, LOOK_AGAIN, Moment, Output, PAGES_IN_A_ROW_MAX, Session, What};
use crate::event::{Event, EventId};
use crate::systems::emm::alarms::{Change, State};
use crate::systems::emm::inbox::{self, Mark, PAGE_MAX, PAGES_MAX};
use crate::systems::emm::notification::{self, Alarm, Message, Notification};
use crate::systems::emm::orders::{Request, list_page};
use crate::systems::emm::wire::{self, Problem, Read};
use crate::systems::http::Answer;
use crate::systems::link::{self, News, UnreadBody};

/// Bytes of an event's raw form; a notification has below one thousand.
const RAW_BYTES_MAX: usize = 64 * 1024;

/// Under these names a subscription's moment has been guessed; the document gives none.
const SINCE: [&str; 4] = ["time", "subscribed", "since", "status_time"];

/// A look at inbox and alarms under way.
#[derive(Debug, Default)]
pub(super) struct Look {
    messages: Vec<Message>,
    /// Whether the inbox is through.
    is_inbox_done: bool,
    alarms: Vec<Alarm>,
    /// Entries read of the list under way: where its next page begins.
    offset: i64,
    /// Something could not be read, so nothing may be concluded from what is missing.
    is_partial: bool,
}

/// Where an event comes from.
struct Origin<'a> {
    received: Timestamp,
    caught_up: bool,
    raw: &'a [u8],
}

impl Session {
    /// The next page of the look under way.
    pub(super) fn look_page(&self) -> Option<(What, Request)> {
        let look = self.look.as_ref()?;
        if look.is_inbox_done {
            return Some((What::Alarms, list_page("alarms/active", look.offset, PAGE_MAX)));
        }
        let mut request = list_page("users/self/events", look.offset, PAGE_MAX);
        request.query.push(("orderby", "MQ.QueueTM DESC".into()));
        Some((What::Inbox, request))
    }

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
                self.changes(read, &name, &origin);
            }
            What::Subscription => self.subscription(&read.value, now),
            What::Inbox => self.inbox_page(&read.value, now),
            What::Alarms => self.alarms_page(&read.value, now),
            What::Login | What::Release | What::Recipients | What::Order(_) => {}
        }
    }

    /// A body that an earlier run kept and did not read: old news by now.
    pub(super) fn unread_body(&mut self, body: &UnreadBody) {
        let origin = Origin { received: body.received, caught_up: true, raw: &body.raw };
        if wire::is_page("", &body.raw) {
            return;
        }
        match wire::body_value(&body.raw) {
            Ok(read) => self.changes(read, &body.id.to_string(), &origin),
            Err(why) => self.unparsed(&why, &body.id.to_string(), &origin),
        }
    }

    /// All notifications of one body, whose name is `body`.
    fn changes(&mut self, read: Read, body: &str, origin: &Origin<'_>) {
        if read.value.get("error").is_some() {
            return;
        }
        if let Some(fixes) = read.fixes {
            self.out.push(Output::Mended(format!("/changes is no JSON; mended: {fixes}")));
            if fixes.cut {
                self.unparsed("the body ends early", body, origin);
            }
        }
        let Some(list) = notification::notifications(read.value) else {
            return self.unparsed("it has no list of notifications", body, origin);
        };
        let is_alone = list.len() == 1;
        let mut news = News::default();
        for (n, (notification, json)) in list.into_iter().enumerate() {
            let json = json.to_string();
            let raw = if is_alone { origin.raw } else { json.as_bytes() };
            let origin = Origin { raw, ..*origin };
            let name = format!("{body}:{n}");
            match notification {
                Notification::Message(message) => self.message(&mut news, &message, &origin),
                Notification::Alarm(alarm) => {
                    let changes = self.alarms.pushed(&alarm, origin.received);
                    self.alarm_changes(&mut news, changes, &origin);
                }
                Notification::Unknown { kind, fields } => {
                    let mut event = self.event("emm.unknown", &[&name], &origin, fields);
                    event.data.insert("notification_type".into(), kind.clone().into());
                    event.subject = Some(kind);
                    news.events.push(event.into());
                }
                Notification::Broken { why } => {
                    self.out.push(Output::Bad(why.into(), raw.to_vec()));
                    news.events.push(self.unparsed_event(why, &name, &origin).into());
                    self.lost();
                }
            }
        }
        self.tell(news);
    }

    fn message(&mut self, news: &mut News, message: &Message, origin: &Origin<'_>) {
        news.events.push(self.message_event(message, origin).into());
        // While something may be missing, the mark must not jump over it.
        if let Some(mark) = self.mark
            && !self.gap
            && mark.is_new(message)
        {
            self.mark = Some(mark.with(message));
            self.unread += 1;
            self.set_inbox(news);
        }
    }

    fn set_inbox(&mut self, news: &mut News) {
        self.told_unread = Some(self.unread);
        if let Some(mark) = self.mark {
            news.set(format!("{}/inbox", self.source), inbox::state(mark, self.unread));
        }
    }

    fn message_event(&self, message: &Message, origin: &Origin<'_>) -> Event {
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

    fn alarm_changes(&self, news: &mut News, changes: Vec<Change>, origin: &Origin<'_>) {
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
    fn lost(&mut self) {
        self.gap = true;
        self.due.look = Due::default().look;
    }

    fn tell(&mut self, news: News) {
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

    fn inbox_page(&mut self, value: &Value, now: Moment) {
        let (entries, _) = entries(value, "events");
        let Some(mut look) = self.look.take() else { return };
        let read = |entry: &Value| notification::message(entry.as_object()?.clone());
        let page: Vec<Message> = entries.iter().filter_map(read).collect();
        if page.len() < entries.len() {
            self.out
                .push(Output::Bad("inbox: an entry without id".into(), value.to_string().into()));
        }
        look.offset += entries.len() as i64;
        let goes_on = inbox::goes_on(&page, self.mark) && look.offset < PAGE_MAX * PAGES_MAX;
        if look.messages.is_empty() {
            // The newest page counts the unread.
            self.unread = inbox::unread(&page);
        }
        look.messages.extend(page);
        if !goes_on {
            self.inbox_read(&look.messages, now);
            look.messages.clear();
            (look.is_inbox_done, look.offset) = (true, 0);
        }
        self.look = Some(look);
    }

    /// The inbox as far as it may hold something new. The first time ever, everything in it is
    /// old.
    fn inbox_read(&mut self, messages: &[Message], now: Moment) {
        let mut news = News::default();
        if let Some(mark) = self.mark {
            let mut new: Vec<&Message> = messages.iter().filter(|m| mark.is_new(m)).collect();
            new.sort_by_key(|message| (message.queued, message.id));
            for message in new {
                let raw = Value::Object(message.data.clone()).to_string();
                let origin = Origin { received: now.wall, caught_up: true, raw: raw.as_bytes() };
                news.events.push(self.message_event(message, &origin).into());
            }
        }
        let before = (self.mark, self.unread);
        let newest = Mark::of(messages);
        self.mark = Some(self.mark.map_or(newest, |mark| Mark {
            id: if messages.is_empty() { mark.id } else { newest.id },
            queued: newest.queued.max(mark.queued),
        }));
        if before.0 != self.mark || !news.is_empty() || self.told_unread != Some(self.unread) {
            self.set_inbox(&mut news);
        }
        self.tell(news);
    }

    fn alarms_page(&mut self, value: &Value, now: Moment) {
        let (entries, total) = entries(value, "alarms");
        let Some(mut look) = self.look.take() else { return };
        for entry in &entries {
            match entry.as_object().and_then(|fields| notification::alarm(fields.clone())) {
                Some(alarm) => look.alarms.push(alarm),
                None => {
                    look.is_partial = true;
                    let reason = "active alarms: an entry without id".to_string();
                    self.out.push(Output::Bad(reason, entry.to_string().into()));
                }
            }
        }
        look.offset += entries.len() as i64;
        let is_more = !entries.is_empty() && total.is_some_and(|total| total > look.offset);
        if is_more && look.offset < PAGE_MAX * PAGES_MAX {
            self.look = Some(look);
            return;
        }
        look.is_partial |= is_more;
        let changes = self.alarms.listed(&look.alarms, !look.is_partial, now.wall);
        let mut news = News::default();
        let origin = Origin { received: now.wall, caught_up: true, raw: &[] };
        self.alarm_changes(&mut news, changes, &origin);
        self.tell(news);
        self.looked(look.is_partial, now);
    }

    fn looked(&mut self, is_partial: bool, now: Moment) {
        self.gap = false;
        if is_partial {
            self.due.look = now.since + LOOK_AGAIN;
        }
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
                self.works();
                self.last_changes = Some(now.since);
                let name = kept.map_or_else(|| now.wall.to_string(), |id| id.to_string());
                let origin = Origin { received: now.wall, caught_up: false, raw: &answer.body };
                self.unparsed(why, &name, &origin);
            }
            (What::Changes, Problem::Throttled) => {
                // Turned away before anything was drained.
                let wait = answer.retry_after.unwrap_or_default().max(self.config.poll * 2);
                self.due.changes = now.since + wait;
            }
            (_, Problem::Throttled) => {
                self.look = None;
                self.doubts_unsent(&problem.to_string());
                self.due.check = now.since + LOOK_AGAIN;
                self.due.look = now.since + LOOK_AGAIN;
            }
            (What::Subscription, _) if said_no || matches!(problem, Problem::NotJson(_)) => {
                // An EMM without Web Push has no subscription to silence it.
                self.works();
                self.doubts_refused();
            }
            (What::Inbox | What::Alarms, Problem::NotJson(_)) => {
                self.skip(what, problem, answer, now)
            }
            (What::Inbox | What::Alarms, _) if said_no => self.skip(what, problem, answer, now),
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

    /// A part of a look that the EMM does not give: the rest is worth having all the same.
    fn skip(&mut self, what: What, problem: &Problem, answer: &Answer, now: Moment) {
        let reason = if what == What::Inbox { "inbox" } else { "active alarms" };
        self.out.push(Output::Bad(format!("{reason}: {problem}"), answer.body.clone()));
        let Some(mut look) = self.look.take() else { return };
        look.is_partial = true;
        if what == What::Inbox {
            (look.is_inbox_done, look.offset) = (true, 0);
            self.look = Some(look);
        } else {
            self.looked(true, now);
        }
    }
}

/// The entries of a list, which may also be bare, or a single object; and how many there are in
/// all, if it says so.
fn entries(value: &Value, name: &str) -> (Vec<Value>, Option<i64>) {
    let total = value.get("total").and_then(wire::int);
    let list = match value.get(name).unwrap_or(value) {
        Value::Array(list) => list.clone(),
        one @ Value::Object(fields) if fields.contains_key("id") => vec![one.clone()],
        _ => Vec::new(),
    };
    (list, total)
}
