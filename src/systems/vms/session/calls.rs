//! The last calls: the list goes in, what is new in it comes out. A ring is news for seconds, so
//! its age is measured by the server's own clock. Pure.

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
/// Calls that are remembered: two pages, so that one that vanishes and comes back is known.
const REMEMBERED_MAX: usize = 50;

/// The calls that are known.
#[derive(Debug, Default)]
pub struct Calls {
    path: String,
    seen: BTreeMap<String, Seen>,
    /// Whether the list was read at least once, ever: before that nothing in it is news.
    learned: bool,
    /// Pages of the list under way, as far as they came.
    pages: Vec<Call>,
}

#[derive(Debug, Clone, PartialEq)]
struct Seen {
    status: Status,
    created_at: Option<Timestamp>,
    /// Whether its ring was heard.
    rang: bool,
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
            };
            Some((id.clone(), seen))
        });
        Calls { seen: seen.collect(), learned: kept.is_some(), path, pages: Vec::new() }
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
        let overtaken = page.iter().any(|call| self.is_history(call));
        self.pages.extend(page);
        if more && self.learned && all_new && !overtaken {
            return Page::More;
        }
        let mut calls = std::mem::take(&mut self.pages);
        calls.retain(|call| call.intercom.is_none_or(&wanted));
        // The oldest first, as they happened.
        calls.sort_by_key(|call| call.created_at);
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
        let before = self.seen.get(&call.id).cloned();
        if self.learned && before.is_none() && self.is_history(call) {
            return None;
        }
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

    /// Whether it lies before all that is remembered: then it was forgotten, or never news.
    fn is_history(&self, call: &Call) -> bool {
        let oldest = self.seen.values().filter_map(|seen| seen.created_at).min();
        let known = self.seen.contains_key(&call.id);
        !known && oldest.is_some_and(|oldest| call.created_at.is_some_and(|at| at < oldest))
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

    fn prune(&mut self) -> Vec<String> {
        let surplus = self.seen.len().saturating_sub(REMEMBERED_MAX);
        let mut by_age: Vec<_> =
            self.seen.iter().map(|(id, seen)| (seen.created_at, id.clone())).collect();
        by_age.sort();
        let gone: Vec<String> = by_age.into_iter().take(surplus).map(|(_, id)| id).collect();
        gone.iter().for_each(|id| drop(self.seen.remove(id)));
        gone
    }
}

/// Whether what is new about a call is new to the world. Only the server's own clock can say how
/// old a ring is, and it says so after a failed poll as well as before. Any other step of a call
/// that was seen a moment ago is live, however long it lasted.
fn is_live(call: &Call, was_seen: bool, told: &Told) -> bool {
    let is_fresh = |at: Option<Timestamp>| {
        let both = at.zip(told.server);
        both.is_some_and(|(at, server)| is_young(at, server, RING_AGE_MAX))
    };
    match call.status {
        Status::Ring | Status::Other(_) => is_fresh(call.created_at),
        _ => !told.gap && (was_seen || is_fresh(call.created_at)),
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
