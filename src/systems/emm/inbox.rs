//! The inbox: which of its messages were told, by a mark that only moves when nothing can lie
//! behind it untold, and how many are unread. Pure.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::notification::Message;

/// How many of the newest messages are looked at to count the unread ones: one page.
pub const PAGE_MAX: i64 = 100;

/// Pages looked at after a gap, at most: ten thousand messages are no inbox any more.
pub const PAGES_MAX: i64 = 100;

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

/// The inbox's state.
pub fn state(mark: Mark, unread: usize) -> Value {
    json!({ "unread": unread, "newest_id": mark.id, "newest": mark.queued })
}

/// The unread among these.
pub fn unread(messages: &[Message]) -> usize {
    messages.iter().filter(|m| m.status.as_ref().is_some_and(|status| !status.is_read())).count()
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
        assert_eq!(Mark::restore(&state(mark, 3)), Some(mark));
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
    fn unread_is_what_nobody_looked_at() {
        assert_eq!(unread(&[message(1, 1), message(4, 1), message(5, 1), message(9, 1)]), 2);
    }
}
