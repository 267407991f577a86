//! A look at the inbox and the active alarms: both lists are read page by page and compared with
//! what was told. What is found was missed; what is missing is over only where the list proves it.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use super::hearing::Origin;
use super::{LOOK_AGAIN, LOOK_EVERY, Moment, Output, Session, What};
use crate::systems::emm::alarms::Cover;
use crate::systems::emm::inbox::{self, Mark, PAGE_MAX, PAGES_MAX};
use crate::systems::emm::list::{Page, Pages};
use crate::systems::emm::notification::{self, Alarm, Message};
use crate::systems::emm::orders::{Request, list_page};
use crate::systems::emm::wire::Problem;
use crate::systems::http::Answer;
use crate::systems::link::News;

/// When a look left something in doubt that a second one decides.
const LOOK_SOON: Duration = Duration::from_secs(10);

/// A look under way.
#[derive(Debug, Default)]
pub(super) struct Look {
    messages: Vec<Message>,
    /// Whether the inbox is through.
    is_inbox_done: bool,
    /// Nothing in the inbox can have been overlooked.
    is_inbox_whole: bool,
    alarms: Vec<Alarm>,
    /// Of the list under way.
    pages: Pages,
}

impl Session {
    /// The next page of the look under way.
    pub(super) fn look_page(&self) -> Option<(What, Request)> {
        let look = self.look.as_ref()?;
        let offset = look.pages.offset();
        if look.is_inbox_done {
            return Some((What::Alarms, list_page("alarms/active", offset, PAGE_MAX)));
        }
        Some((What::Inbox, inbox_request(offset)))
    }

    /// Asks who has read what, and nothing else: what is new is `/changes`' to tell.
    pub(super) fn ask_unread(&mut self) {
        self.ask(What::Unread, &inbox_request(0));
    }

    pub(super) fn unread_page(&mut self, value: &Value, now: Moment) {
        let read = Page::read(value, "events");
        let message = |entry: &Value| notification::message(entry.as_object()?.clone());
        let page: Vec<Message> = read.entries.iter().filter_map(message).collect();
        let mut pages = Pages::default();
        pages.take(&read);
        if pages.flaw().is_none() {
            self.read_by_now(&page, now);
        }
    }

    pub(super) fn inbox_page(&mut self, value: &Value, now: Moment) {
        let read = Page::read(value, "events");
        let Some(mut look) = self.look.take() else { return };
        let message = |entry: &Value| notification::message(entry.as_object()?.clone());
        let page: Vec<Message> = read.entries.iter().filter_map(message).collect();
        if page.len() < read.entries.len() {
            self.out
                .push(Output::Bad("inbox: an entry without id".into(), value.to_string().into()));
        }
        let is_first = look.pages.offset() == 0;
        let is_more = look.pages.take(&read);
        if is_first && look.pages.flaw().is_none() {
            self.read_by_now(&page, now);
        }
        let goes_on = is_more && inbox::goes_on(&page, self.mark);
        look.messages.extend(page);
        if !goes_on {
            // Who has more than that will not get it by asking again.
            let is_enough = look.pages.offset() >= PAGE_MAX * PAGES_MAX;
            look.is_inbox_whole = look.pages.flaw().is_none() || is_enough;
            self.inbox_read(&look, now);
            look.messages.clear();
            (look.is_inbox_done, look.pages) = (true, Pages::default());
        }
        self.look = Some(look);
    }

    /// Who reads a message has in hand what it says.
    fn read_by_now(&mut self, page: &[Message], now: Moment) {
        let mut news = News::default();
        for message in self.unread.look(page, now.since) {
            let raw = Value::Object(message.data.clone()).to_string();
            let origin = Origin { received: now.wall, caught_up: self.gap, raw: raw.as_bytes() };
            news.events.push(self.read_event(message, &origin).into());
        }
        if !news.is_empty() {
            self.set_inbox(&mut news);
        }
        self.tell(news);
    }

    /// The inbox as far as it may hold something new. The first time ever, everything in it is
    /// old.
    fn inbox_read(&mut self, look: &Look, now: Moment) {
        let (mut news, messages) = (News::default(), &look.messages);
        if let Some(mark) = self.mark {
            let mut new: Vec<&Message> = messages.iter().filter(|m| mark.is_new(m)).collect();
            new.sort_by_key(|message| (message.queued, message.id));
            for message in new {
                let raw = Value::Object(message.data.clone()).to_string();
                let origin = Origin { received: now.wall, caught_up: true, raw: raw.as_bytes() };
                news.events.push(self.message_event(message, &origin).into());
            }
        }
        // Past what may have been overlooked the mark does not go; what is told twice is one event.
        if look.is_inbox_whole {
            self.inbox_marked(messages, &mut news);
        }
        self.tell(news);
    }

    fn inbox_marked(&mut self, messages: &[Message], news: &mut News) {
        let before = self.mark;
        let newest = Mark::of(messages);
        self.mark = Some(before.map_or(newest, |mark| Mark {
            id: if messages.is_empty() { mark.id } else { newest.id },
            queued: newest.queued.max(mark.queued),
        }));
        if before != self.mark
            || !news.is_empty()
            || self.told_unread.as_ref() != Some(&self.unread)
        {
            self.set_inbox(news);
        }
    }

    pub(super) fn alarms_page(&mut self, value: &Value, now: Moment) {
        let page = Page::read(value, "alarms");
        let Some(mut look) = self.look.take() else { return };
        for entry in &page.entries {
            match entry.as_object().and_then(|fields| notification::alarm(fields.clone())) {
                Some(alarm) => look.alarms.push(alarm),
                None => {
                    look.pages.note(Some("an entry has no id"));
                    let reason = "active alarms: an entry without id".to_string();
                    self.out.push(Output::Bad(reason, entry.to_string().into()));
                }
            }
        }
        if look.pages.take(&page) {
            self.look = Some(look);
            return;
        }
        let ids: BTreeSet<i64> = look.alarms.iter().map(|alarm| alarm.id).collect();
        let is_twice = ids.len() < look.alarms.len();
        look.pages.note(is_twice.then_some("the list has the same alarm twice"));
        self.alarms_flawed(look.pages.flaw(), value);
        let cover = look.pages.cover();
        let (changes, is_doubtful) = self.alarms.listed(&look.alarms, cover, now);
        let mut news = News::default();
        let origin = Origin { received: now.wall, caught_up: true, raw: &[] };
        self.alarm_changes(&mut news, changes, &origin);
        self.tell(news);
        if is_doubtful {
            self.look_within(LOOK_SOON, now);
        }
        self.looked(&look, cover == Cover::Partial, now);
    }

    /// A list that proves nothing is kept, once as long as the reason is the same.
    fn alarms_flawed(&mut self, flaw: Option<&'static str>, value: &Value) {
        let before = std::mem::replace(&mut self.list_flaw, flaw);
        if let Some(why) = flaw.filter(|_| before != flaw) {
            self.out.push(Output::Bad(format!("active alarms: {why}"), value.to_string().into()));
        }
    }

    fn looked(&mut self, look: &Look, is_partial: bool, now: Moment) {
        self.gap &= !look.is_inbox_whole;
        if is_partial || !look.is_inbox_whole {
            self.look_within(LOOK_AGAIN, now);
        }
    }

    fn look_within(&mut self, wait: Duration, now: Moment) {
        self.due.look = self.due.look.min(now.since + wait);
    }

    /// A part of a look that the EMM does not give: the rest is worth having all the same.
    pub(super) fn skip(&mut self, what: What, problem: &Problem, answer: &Answer, now: Moment) {
        let reason = if what == What::Alarms { "active alarms" } else { "inbox" };
        self.out.push(Output::Bad(format!("{reason}: {problem}"), answer.body.clone()));
        if what == What::Unread {
            self.due.unread = now.since + LOOK_EVERY;
            return;
        }
        let Some(mut look) = self.look.take() else { return };
        if what == What::Inbox {
            (look.is_inbox_done, look.pages) = (true, Pages::default());
            self.look = Some(look);
        } else {
            self.looked(&look, true, now);
        }
    }
}

/// A page of the inbox, the newest first.
fn inbox_request(offset: i64) -> Request {
    let mut request = list_page("users/self/events", offset, PAGE_MAX);
    request.query.push(("orderby", "MQ.QueueTM DESC".into()));
    request
}
