//! The last calls: the list goes in, what is new in it comes out. What is new is told by its
//! number, since a server's clock may be wrong for hours; a ring is news for seconds, so its age is
//! measured by the server's own clock. Pure.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use super::Told;
use super::house::{House, is_young};
use crate::event::Heard;
use crate::record::{Becomes, KnownChange};
use crate::systems::link::News;
use crate::systems::vms::wire::{Bad, Call, Status};

/// A ring older than this is history: whoever rang has left or was let in. A little more than the
/// longest time an intercom rings.
const RING_AGE_MAX: SignedDuration = SignedDuration::from_secs(30);
/// Calls that are remembered: two pages, so that one that vanishes and comes back is known. What
/// the list has just shown is remembered in any case, or it would be new each time.
const REMEMBERED_MAX: usize = 50;
/// The most calls of one list that are looked at, the newest: all pages that are asked for.
const LISTED_MAX: usize = 250;

/// The calls that are known.
#[derive(Debug, Default)]
pub struct Calls {
    path: String,
    seen: BTreeMap<String, Seen>,
    /// Whether the list was read at least once, ever: before that nothing in it is news.
    learned: bool,
    /// Pages of the list under way, as far as they came.
    pages: Vec<Call>,
    /// Counts the lists that were read in this run.
    lists: u64,
}

#[derive(Debug, Clone, PartialEq)]
struct Seen {
    status: Status,
    created_at: Option<Timestamp>,
    /// Whether its ring was heard.
    rang: bool,
    /// The last list that had it; 0 if that was before the start.
    list: u64,
}

/// What one page of the list means.
pub enum Page {
    /// Older calls may be news too: ask for the next page.
    More,
    /// That is all.
    Read {
        /// What to tell.
        news: News,
        /// What was not understood.
        bad: Vec<Bad>,
    },
}

impl Calls {
    /// The calls as they were when Portero stopped.
    pub fn new(source: &str, known: &[(String, Value)]) -> Calls {
        let path = format!("{source}/calls");
        let kept = known.iter().find(|(at, _)| *at == path).and_then(|(_, v)| v.as_object());
        let seen = kept.into_iter().flatten().filter_map(|(id, fields)| {
            let created_at = fields.get("created_at").and_then(Value::as_str);
            let seen = Seen {
                status: Status::new(fields.get("status")?.as_str()?),
                created_at: created_at.and_then(|at| at.parse().ok()),
                rang: fields.get("rang") == Some(&true.into()),
                list: 0,
            };
            Some((id.clone(), seen))
        });
        let (seen, learned) = (seen.collect(), kept.is_some());
        Calls { seen, learned, path, pages: Vec::new(), lists: 0 }
    }

    /// Whether the list was read at least once, ever.
    pub fn is_learned(&self) -> bool {
        self.learned
    }

    /// Forgets pages under way: the list is asked for from its beginning again.
    pub fn restart(&mut self) {
        self.pages.clear();
    }

    /// One page, and whether another may be asked for. `wanted` says of which intercoms.
    pub fn hear(
        &mut self,
        page: Vec<Call>,
        more: bool,
        wanted: impl Fn(u64) -> bool,
        house: &House,
        told: &Told,
    ) -> Page {
        let all_new = !page.is_empty() && page.iter().all(|call| !self.seen.contains_key(&call.id));
        let overtaken = page.iter().any(|call| self.is_history(call, told));
        self.pages.extend(page);
        if more && self.learned && all_new && !overtaken {
            return Page::More;
        }
        let mut calls = std::mem::take(&mut self.pages);
        calls.retain(|call| call.intercom.is_none_or(&wanted));
        // The oldest first, as they happened.
        calls.sort_by_key(|call| (number(&call.id), call.created_at));
        calls.drain(..calls.len().saturating_sub(LISTED_MAX));
        self.lists += 1;
        let (mut news, mut bad, mut set) = (News::default(), Vec::new(), Map::new());
        for call in calls {
            if let Some(heard) = self.one(&call, house, told, &mut set, &mut bad) {
                news.events.push(heard);
            }
        }
        self.tell(set, &mut news);
        Page::Read { news, bad }
    }

    fn one(
        &mut self,
        call: &Call,
        house: &House,
        told: &Told,
        set: &mut Map<String, Value>,
        bad: &mut Vec<Bad>,
    ) -> Option<Heard> {
        if let Some(seen) = self.seen.get_mut(&call.id) {
            seen.list = self.lists;
        } else if self.learned && self.is_history(call, told) {
            return None;
        }
        let before = self.seen.get(&call.id).cloned();
        if let Some(before) = &before
            && (before.status == call.status || call.status.rank() < before.status.rank())
        {
            return None;
        }
        let rang = before.as_ref().is_some_and(|before| before.rang);
        let is_ring = call.status == Status::Ring;
        let seen = Seen {
            status: call.status.clone(),
            created_at: call.created_at,
            rang: rang || (is_ring && self.learned),
            list: self.lists,
        };
        set.insert(call.id.clone(), kept(call, &seen, house));
        self.seen.insert(call.id.clone(), seen);
        if !self.learned {
            return None;
        }
        if let Status::Other(_) = call.status {
            let reason = "a call has a status that is not known".to_string();
            bad.push(Bad { reason, raw: call.raw.clone() });
            return None;
        }
        let caught_up = told.first || !is_live(call, before.is_some(), told);
        Some(event(call, rang, house, told, caught_up))
    }

    /// Whether it lies before all that is remembered: then it was forgotten, or never news. By its
    /// number, as the VMS counts them: moments lie where its clock was wrong. But numbers begin
    /// anew with the VMS's database, so one that is later than all, or began just now, is news.
    fn is_history(&self, call: &Call, told: &Told) -> bool {
        if self.seen.contains_key(&call.id) || began_now(call, told) {
            return false;
        }
        let moments = || self.seen.values().filter_map(|seen| seen.created_at);
        let first = self.seen.keys().filter_map(|id| number(id)).min();
        match number(&call.id).zip(first) {
            Some((number, first)) => number < first && call.created_at <= moments().max(),
            None => call.created_at.zip(moments().min()).is_some_and(|(at, first)| at < first),
        }
    }

    /// Makes the state say what is remembered.
    fn tell(&mut self, set: Map<String, Value>, news: &mut News) {
        let gone = self.prune();
        if !self.learned {
            self.learned = true;
            let kept = set.into_iter().filter(|(id, _)| self.seen.contains_key(id)).collect();
            news.set(self.path.clone(), Value::Object(kept));
        } else if !set.is_empty() || !gone.is_empty() {
            let to = Becomes::Fields { set, gone };
            news.known.push(KnownChange { path: self.path.clone(), to });
        }
    }

    /// Forgets those that were not listed for longest, and of these the first.
    fn prune(&mut self) -> Vec<String> {
        let surplus = self.seen.len().saturating_sub(REMEMBERED_MAX);
        let unlisted = self.seen.iter().filter(|(_, seen)| seen.list < self.lists);
        let mut by_age: Vec<_> = unlisted
            .map(|(id, seen)| (seen.list, number(id), seen.created_at, id.clone()))
            .collect();
        by_age.sort();
        let gone: Vec<String> = by_age.into_iter().take(surplus).map(|(.., id)| id).collect();
        gone.iter().for_each(|id| drop(self.seen.remove(id)));
        gone
    }
}

/// A call's number, by which the VMS counts.
fn number(id: &str) -> Option<u64> {
    id.trim().parse().ok()
}

/// Whether it began a moment ago, by the server's own clock.
fn began_now(call: &Call, told: &Told) -> bool {
    let both = call.created_at.zip(told.server);
    both.is_some_and(|(at, server)| is_young(at, server, RING_AGE_MAX))
}

/// Whether what is new about a call is new to the world. Only the server's own clock can say how
/// old a ring is, and it says so after a failed poll as well as before. Any other step of a call
/// that was seen a moment ago is live, however long it lasted.
fn is_live(call: &Call, was_seen: bool, told: &Told) -> bool {
    match call.status {
        Status::Ring | Status::Other(_) => began_now(call, told),
        _ => !told.gap && (was_seen || began_now(call, told)),
    }
}

fn place(call: &Call, house: &House) -> Option<String> {
    call.title
        .clone()
        .filter(|title| !title.is_empty())
        .or_else(|| call.intercom.map(|id| house.title(id)))
}

/// What the state says of a call.
fn kept(call: &Call, seen: &Seen, house: &House) -> Value {
    let at = |at: Option<Timestamp>| at.map(|at| at.to_string());
    json!({
        "status": call.status.as_str(),
        "intercom_id": call.intercom,
        "title": place(call, house),
        "created_at": at(call.created_at),
        "started_at": at(call.started_at),
        "ended_at": at(call.ended_at),
        "rang": seen.rang,
    })
}

fn event(call: &Call, rang: bool, house: &House, told: &Told, caught_up: bool) -> Heard {
    let (kind, time) = match call.status {
        Status::Ring | Status::Other(_) => ("vms.ring", call.created_at),
        Status::Answered => ("vms.call.answered", call.started_at),
        Status::Ended => ("vms.call.ended", call.ended_at),
        Status::Missed => ("vms.call.missed", call.ended_at),
    };
    let mut event = told.event(kind, &[&call.id, call.status.as_str()], caught_up);
    event.time = time;
    event.subject = call.intercom.map(|id| id.to_string());
    if let Some(id) = call.intercom {
        house.describe(id, &mut event);
    }
    let data = &mut event.data;
    data.insert("call_id".into(), call.id.clone().into());
    data.insert("status".into(), call.status.as_str().into());
    data.insert("title".into(), place(call, house).unwrap_or_else(|| "intercom".into()).into());
    if let Some(address) = &call.address {
        data.insert("address".into(), address.clone().into());
    }
    for (name, at) in [
        ("created_at", call.created_at),
        ("started_at", call.started_at),
        ("ended_at", call.ended_at),
    ] {
        data.extend(at.map(|at| (name.to_string(), at.to_string().into())));
    }
    if call.status != Status::Ring {
        data.insert("rang".into(), rang.into());
    }
    event.raw = call.raw.clone();
    event.into()
}
