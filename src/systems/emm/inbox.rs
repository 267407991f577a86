//! The inbox: which of its messages were told, by a mark that only moves when nothing can lie
//! behind it untold, and which of them nobody has read yet. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::notification::Message;

/// How many of the newest messages are looked at to know the unread ones: one page.
pub const PAGE_MAX: i64 = 100;

/// Pages looked at after a gap, at most: ten thousand messages are no inbox any more.
pub const PAGES_MAX: i64 = 100;

/// `/changes` does not say that a message was read, so while one is unread and younger than this,
/// the inbox is looked at with every poll: whoever reads it has what it says in hand.
pub const WATCH_FOR: Duration = Duration::from_secs(3600);

/// Up to where the inbox was told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mark {
    /// The highest number.
    pub id: i64,
    /// The latest moment, in seconds since 1970; 0 if none was said.
    pub queued: i64,
}

impl Mark {
    /// The mark as it was told before a restart.
    pub fn restore(value: &Value) -> Option<Mark> {
        Some(Mark { id: value.get("newest_id")?.as_i64()?, queued: value.get("newest")?.as_i64()? })
    }

    /// Whether a message lies behind the mark. By number or by moment: a database that was made
    /// anew counts from 1 again.
    pub fn is_new(&self, message: &Message) -> bool {
        message.id > self.id || seconds(message.queued) > self.queued
    }

    /// The mark with this message told.
    pub fn with(self, message: &Message) -> Mark {
        Mark { id: self.id.max(message.id), queued: self.queued.max(seconds(message.queued)) }
    }

    /// The mark of a whole inbox.
    pub fn of(messages: &[Message]) -> Mark {
        messages.iter().fold(Mark::default(), |mark, message| mark.with(message))
    }
}

/// The newest messages that nobody has read, by number, and since when we know each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unread(BTreeMap<i64, Duration>);

impl Unread {
    /// As they were told before a restart.
    pub fn restore(value: &Value) -> Unread {
        let ids = value.get("unread_ids").and_then(Value::as_array);
        let ids = ids.into_iter().flatten().filter_map(Value::as_i64);
        Unread(ids.map(|id| (id, Duration::ZERO)).collect())
    }

    /// A new message, which nobody can have read yet.
    pub fn came(&mut self, message: &Message, since: Duration) {
        if !message.is_read() && self.0.len() < PAGE_MAX as usize {
            self.0.insert(message.id, since);
        }
    }

    /// Takes in the inbox's newest page; those of it that were unread and are not any more.
    pub fn look<'p>(&mut self, page: &'p [Message], since: Duration) -> Vec<&'p Message> {
        let before = std::mem::take(&mut self.0);
        for message in page.iter().filter(|m| m.status.is_some() && !m.is_read()) {
            self.0.insert(message.id, before.get(&message.id).copied().unwrap_or(since));
        }
        page.iter().filter(|m| m.is_read() && before.contains_key(&m.id)).collect()
    }

    /// One of them was read; whether it was one.
    pub fn read(&mut self, id: i64) -> bool {
        self.0.remove(&id).is_some()
    }

    /// Whether one of them is young enough that somebody may read it soon.
    pub fn is_watched(&self, since: Duration) -> bool {
        self.0.values().any(|known| since.saturating_sub(*known) < WATCH_FOR)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

/// The inbox's state.
pub fn state(mark: Mark, unread: &Unread) -> Value {
    let ids: Vec<i64> = unread.0.keys().copied().collect();
    json!({ "unread": unread.len(), "unread_ids": ids, "newest_id": mark.id, "newest": mark.queued })
}

/// Whether the next page, if there is one, is worth asking for: nothing in this one was told yet,
/// or the server did not put the newest first.
pub fn goes_on(page: &[Message], mark: Option<Mark>) -> bool {
    let is_all_new = mark.is_some_and(|mark| page.iter().all(|m| mark.is_new(m)));
    let newest_first = page.is_sorted_by_key(|m| std::cmp::Reverse(seconds(m.queued)));
    !newest_first || is_all_new
}

fn seconds(at: Option<Timestamp>) -> i64 {
    at.map_or(0, Timestamp::as_second)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(id: i64, queued: i64) -> Message {
        let fields = json!({ "id": id, "queue_time": queued, "status": id % 10 });
        super::super::notification::message(fields.as_object().unwrap().clone()).unwrap()
    }

    #[test]
    fn the_mark_knows_new_messages_even_when_numbers_begin_anew() {
        let mark = Mark::of(&[message(7, 100), message(6, 120)]);
        assert_eq!(mark, Mark { id: 7, queued: 120 });
        assert!(mark.is_new(&message(8, 90)));
        assert!(mark.is_new(&message(1, 121)));
        assert!(!mark.is_new(&message(7, 120)));
        assert_eq!(Mark::restore(&state(mark, &Unread::default())), Some(mark));
    }

    #[test]
    fn pages_are_read_until_one_brings_nothing_new() {
        let page: Vec<Message> = (0..PAGE_MAX).map(|n| message(500 - n, 5000 - n)).collect();
        assert!(goes_on(&page, Some(Mark { id: 10, queued: 10 })));
        assert!(!goes_on(&page, Some(Mark { id: 450, queued: 4950 })));
        assert!(!goes_on(&page, None));
        let mut shuffled = page;
        shuffled.reverse();
        assert!(goes_on(&shuffled, Some(Mark { id: 450, queued: 4950 })));
    }

    #[test]
    fn what_was_unread_and_is_read_is_told_once_over_a_restart() {
        let second = Duration::from_secs;
        let mut unread = Unread::default();
        // The number's last digit is the status: 5 and above is read.
        let read = |unread: &mut Unread, ids: &[i64], at: u64| -> Vec<i64> {
            let page: Vec<Message> = ids.iter().map(|id| message(*id, 1)).collect();
            unread.look(&page, second(at)).iter().map(|message| message.id).collect()
        };
        assert!(read(&mut unread, &[1, 14, 5, 9], 10).is_empty());
        assert_eq!(unread.len(), 2);
        assert!(unread.is_watched(second(3609)) && !unread.is_watched(second(3610)));
        let mut unread = Unread::restore(&state(Mark::default(), &unread));
        let now_read = [Message { id: 14, ..message(5, 1) }, message(1, 1)];
        let told: Vec<i64> = unread.look(&now_read, second(1)).iter().map(|m| m.id).collect();
        assert_eq!((told, unread.len()), (vec![14], 1));
        // What is gone from the inbox was perhaps never read.
        assert!(read(&mut unread, &[], 2).is_empty());
        assert_eq!(unread.len(), 0);
    }
}
