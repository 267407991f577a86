//! What one feed is asked for, and when: everything after connecting and every few hours, folders
//! as a sign of life, single objects whose patches did not apply. Keeps a broken server or a lost
//! patch from becoming a storm of requests. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Feed;
use super::wire::{self, Refresh};

/// How often folders are asked for: a cheap question that shows whether anybody is there behind
/// the socket, and the only way to learn of new folders.
const FOLDERS_EVERY: Duration = Duration::from_secs(20);
/// A question unanswered for so long means that nobody is there. With [`FOLDERS_EVERY`] that is
/// noticed within 50 s; a list of thousands of objects takes a few seconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Objects waiting to be asked for one by one; from here on the whole list is cheaper.
const ONES_WAITING_MAX: usize = 64;
/// Single objects asked for at the same time.
const ONES_PENDING_MAX: usize = 4;
/// The longest wait before the list is asked for again because of something odd.
const ALL_WAIT_MAX: Duration = Duration::from_secs(10);
/// The longest wait before one object is asked for again because of something odd.
const ONE_WAIT_MAX: Duration = Duration::from_secs(300);
/// Waits after a list that could not be had: the whole of it may be bad for days.
const LIST_WAIT: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(600));
/// So many connections in a row that end while the list is awaited are no accident: it may be the
/// list that ends them.
const LISTS_LOST_MAX: u32 = 2;
/// Quiet for so long, and the next oddity is answered at once again.
const CALM_AFTER: Duration = Duration::from_secs(600);
/// Objects whose oddities are remembered.
const REMEMBERED_MAX: usize = 1_000;

/// The questions of one feed. Times are since the start of the driver.
#[derive(Debug)]
pub struct Requests {
    feed: Feed,
    asked: u64,
    pending: BTreeMap<String, Pending>,
    /// How often everything is asked for.
    every: Duration,
    all_at: Option<Duration>,
    folders_at: Option<Duration>,
    ones: BTreeMap<i64, Duration>,
    all_patience: Patience,
    one_patience: BTreeMap<i64, Patience>,
    /// How often in a row the list could not be had.
    lists_failed: u32,
    /// How many connections in a row ended while the list was awaited.
    lists_lost: u32,
    /// Not before this moment is the list asked for.
    list_hold: Duration,
    /// When the latest of the answered questions was asked: then somebody was there.
    alive: Duration,
}

/// A question without an answer yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pending {
    /// What was asked for.
    pub what: Refresh,
    /// When.
    pub sent: Duration,
    /// How many steps were on record then.
    pub mark: u64,
}

/// Waits that double while the same thing goes wrong again and again.
#[derive(Debug, Clone, Copy, Default)]
struct Patience {
    times: u32,
    last: Duration,
}

// === impl Requests ===

impl Requests {
    /// No questions yet; everything is asked for again `every` so often.
    pub fn new(feed: Feed, every: Duration) -> Requests {
        Requests {
            feed,
            asked: 0,
            pending: BTreeMap::new(),
            every,
            all_at: None,
            folders_at: None,
            ones: BTreeMap::new(),
            all_patience: Patience::default(),
            one_patience: BTreeMap::new(),
            lists_failed: 0,
            lists_lost: 0,
            list_hold: Duration::ZERO,
            alive: Duration::ZERO,
        }
    }

    /// A new connection: folders and everything are due.
    pub fn connected(&mut self, now: Duration) {
        self.closed();
        self.all_at = Some(now);
        self.folders_at = Some(now);
        self.alive = now;
        if self.lists_lost >= LISTS_LOST_MAX {
            self.list_failed(now);
        }
    }

    /// No connection: nothing is due or pending.
    pub fn closed(&mut self) {
        self.lists_lost += u32::from(self.is_asked(Refresh::All));
        self.pending.clear();
        self.ones.clear();
        self.all_at = None;
        self.folders_at = None;
    }

    /// Everything must be fetched, soon.
    pub fn want_all(&mut self, now: Duration) {
        let is_soon = self.all_at.is_some_and(|at| at <= now + ALL_WAIT_MAX);
        if !is_soon {
            self.all_at = Some(now + self.all_patience.wait(now, ALL_WAIT_MAX));
        }
    }

    /// The list could not be had; it is asked for again, ever more slowly.
    pub fn list_failed(&mut self, now: Duration) {
        let (least, most) = LIST_WAIT;
        let wait = least.saturating_mul(1 << self.lists_failed.min(16)).min(most);
        self.lists_failed = self.lists_failed.saturating_add(1);
        self.list_hold = now + wait;
        self.all_at = Some(self.list_hold);
    }

    /// The list came and could be read.
    pub fn list_read(&mut self) {
        (self.lists_failed, self.lists_lost, self.list_hold) = (0, 0, Duration::ZERO);
    }

    /// Whether the list is not asked for now because it could not be had.
    pub fn is_list_held(&self, now: Duration) -> bool {
        now < self.list_hold
    }

    /// This object must be fetched, soon.
    pub fn want_one(&mut self, id: i64, now: Duration) {
        if self.ones.contains_key(&id) || self.is_asked(Refresh::One(id)) {
            return;
        }
        if self.ones.len() >= ONES_WAITING_MAX {
            self.ones.clear();
            return self.want_all(now);
        }
        if self.one_patience.len() >= REMEMBERED_MAX {
            self.one_patience.retain(|_, patience| !patience.is_calm(now));
        }
        if self.one_patience.len() >= REMEMBERED_MAX {
            return self.want_all(now);
        }
        let wait = self.one_patience.entry(id).or_default().wait(now, ONE_WAIT_MAX);
        self.ones.insert(id, now + wait);
    }

    /// The questions to send now. `mark` is how many steps are on record.
    pub fn due(&mut self, now: Duration, mark: u64) -> Vec<String> {
        let mut texts = Vec::new();
        // Folders first, so that their names are there when objects are told about.
        if is_due(self.folders_at, now) && !self.is_asked(Refresh::Folders) {
            self.folders_at = Some(now + FOLDERS_EVERY);
            texts.push(self.ask(Refresh::Folders, now, mark));
        }
        let may_list = !self.is_list_held(now) && !self.is_asked(Refresh::All);
        if is_due(self.all_at, now) && may_list {
            self.all_at = Some(now + self.every);
            self.ones.clear();
            texts.push(self.ask(Refresh::All, now, mark));
        }
        let busy = |p: &&Pending| matches!(p.what, Refresh::One(_));
        let room = ONES_PENDING_MAX.saturating_sub(self.pending.values().filter(busy).count());
        let ready = self.ones.iter().filter(|(_, at)| **at <= now).map(|(id, _)| *id);
        for id in ready.take(room).collect::<Vec<_>>() {
            self.ones.remove(&id);
            texts.push(self.ask(Refresh::One(id), now, mark));
        }
        texts
    }

    /// The question that this answers, by its id or, where that is missing, by what it asked for.
    pub fn answered(
        &mut self,
        id: Option<&str>,
        fits: impl Fn(Refresh) -> bool,
    ) -> Option<Pending> {
        let by_id = id.filter(|id| self.pending.get(*id).is_some_and(|p| fits(p.what)));
        let key = match (by_id, id) {
            (Some(id), _) => id.to_string(),
            (None, Some(_)) => return None,
            (None, None) => {
                let mut pending = self.pending.iter();
                pending.find(|(_, pending)| fits(pending.what)).map(|(key, _)| key.clone())?
            }
        };
        let pending = self.pending.remove(&key)?;
        self.alive = self.alive.max(pending.sent);
        Some(pending)
    }

    /// The question that this frame answers, although it cannot be read: its id stands there, or
    /// it looks like the list.
    pub fn answered_badly(&mut self, text: &str) -> Option<Refresh> {
        let quoted = |id: &String| text.contains(&format!("\"{id}\""));
        let by_id = self.pending.keys().find(|id| quoted(id)).cloned();
        let key = by_id.or_else(|| {
            let is_list = text.contains("\"refresh\"") && text.contains("\"list\"");
            let mut lists = self.pending.iter().filter(|(_, p)| p.what == Refresh::All);
            lists.next().map(|(id, _)| id.clone()).filter(|_| is_list)
        });
        let pending = self.pending.remove(&key?)?;
        self.alive = self.alive.max(pending.sent);
        Some(pending.what)
    }

    /// Takes the overdue questions that nobody will answer, since a later one was answered.
    pub fn take_overlooked(&mut self, now: Duration) -> Vec<Refresh> {
        let alive = self.alive;
        let is_it = |p: &Pending| now.saturating_sub(p.sent) >= ANSWER_WITHIN && p.sent < alive;
        let all = self.pending.values().filter(|p| is_it(p)).map(|p| p.what).collect();
        self.pending.retain(|_, p| !is_it(p));
        all
    }

    /// Whether an answer is overdue.
    pub fn is_overdue(&self, now: Duration) -> bool {
        self.pending.values().any(|pending| now.saturating_sub(pending.sent) >= ANSWER_WITHIN)
    }

    /// The oldest mark that an answer may still need.
    pub fn oldest_mark(&self) -> Option<u64> {
        let lists = self.pending.values().filter(|p| p.what != Refresh::Folders);
        lists.map(|pending| pending.mark).min()
    }

    fn is_asked(&self, what: Refresh) -> bool {
        self.pending.values().any(|pending| pending.what == what)
    }

    fn ask(&mut self, what: Refresh, now: Duration, mark: u64) -> String {
        self.asked += 1;
        let id = format!("portero-{}-{}", self.feed.as_str(), self.asked);
        let text = wire::refresh(self.feed, &id, what);
        self.pending.insert(id, Pending { what, sent: now, mark });
        text
    }
}

fn is_due(at: Option<Duration>, now: Duration) -> bool {
    at.is_some_and(|at| at <= now)
}

// === impl Patience ===

impl Patience {
    fn is_calm(&self, now: Duration) -> bool {
        self.times == 0 || now.saturating_sub(self.last) > CALM_AFTER
    }

    /// None at first, then a second, doubling up to `most`.
    fn wait(&mut self, now: Duration, most: Duration) -> Duration {
        if self.is_calm(now) {
            self.times = 0;
        }
        let wait = match self.times {
            0 => Duration::ZERO,
            times => Duration::from_secs(1 << (times - 1).min(16)).min(most),
        };
        self.times = self.times.saturating_add(1);
        self.last = now;
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn everything_is_asked_for_at_first_and_every_so_often() {
        let mut requests = Requests::new(Feed::Device, HOUR);
        assert!(requests.due(at(0), 0).is_empty(), "not connected");
        requests.connected(at(1));
        let texts = requests.due(at(1), 0);
        assert!(texts[0].contains("indigo.Device.Folder") && texts.len() == 2);
        assert!(requests.due(at(1), 0).is_empty());
        assert!(requests.answered(Some("other"), |_| true).is_none());
        let all = requests.answered(None, |what| what == Refresh::All).unwrap();
        assert_eq!(all.what, Refresh::All);
        assert!(requests.is_overdue(at(31)), "the folders");
        assert!(requests.answered(Some("portero-device-1"), |_| true).is_some());
        assert!(!requests.is_overdue(at(31)));
        assert_eq!(requests.due(at(3601), 0).len(), 2);
    }

    #[test]
    fn oddities_of_one_object_are_asked_about_ever_more_slowly() {
        let mut requests = Requests::new(Feed::Device, HOUR);
        requests.connected(at(0));
        requests.due(at(0), 0);
        let mut asked = Vec::new();
        for second in 0..600 {
            requests.want_one(7, at(second));
            for _ in requests.due(at(second), 0).iter().filter(|text| text.contains("objectId")) {
                asked.push(second);
                requests.answered(None, |what| what == Refresh::One(7));
            }
        }
        assert!(asked.len() < 12 && asked[0] == 0, "{asked:?}");
    }

    #[test]
    fn a_list_that_cannot_be_had_is_asked_for_ever_more_slowly() {
        let mut requests = Requests::new(Feed::Device, HOUR);
        requests.connected(at(0));
        let mut asked = Vec::new();
        for second in 0..3_600 {
            let texts = requests.due(at(second), 0);
            if texts.iter().any(|text| text.contains("\"indigo.Device\"")) {
                asked.push(second);
                requests.answered_badly(r#"{"message": "refresh", "list": [{"name": }]}"#).unwrap();
                requests.list_failed(at(second));
            }
            requests.answered(None, |what| what == Refresh::Folders);
            requests.want_all(at(second));
            assert!(!requests.is_overdue(at(second)));
        }
        assert_eq!(asked, [0, 10, 30, 70, 150, 310, 630, 1230, 1830, 2430, 3030]);
        requests.list_read();
        requests.list_failed(at(3_600));
        assert!(requests.is_list_held(at(3_609)) && !requests.is_list_held(at(3_610)));
    }

    #[test]
    fn a_list_that_ends_connections_is_left_alone_for_a_while() {
        let mut requests = Requests::new(Feed::Device, HOUR);
        for (second, questions) in [(0, 2), (1, 2), (2, 1), (11, 0), (12, 1)] {
            if second < 3 {
                requests.connected(at(second));
            }
            assert_eq!(requests.due(at(second), 0).len(), questions, "{second}");
        }
    }

    #[test]
    fn a_question_that_is_passed_over_is_no_sign_of_death() {
        let mut requests = Requests::new(Feed::Device, HOUR);
        requests.connected(at(0));
        requests.due(at(0), 0);
        requests.answered(None, |what| what == Refresh::Folders).unwrap();
        requests.due(at(20), 0);
        assert!(requests.is_overdue(at(30)) && requests.take_overlooked(at(30)).is_empty());
        requests.answered(None, |what| what == Refresh::Folders).unwrap();
        assert_eq!(requests.take_overlooked(at(30)), [Refresh::All]);
        assert!(!requests.is_overdue(at(30)));
    }

    #[test]
    fn many_odd_objects_are_one_question() {
        let mut requests = Requests::new(Feed::Device, HOUR);
        requests.connected(at(0));
        requests.due(at(0), 0);
        requests.answered(None, |what| what == Refresh::All);
        (0..1_000).for_each(|id| requests.want_one(id, at(1)));
        let texts = requests.due(at(1), 0);
        assert_eq!(texts.len(), 1, "{texts:?}");
        assert!(!texts[0].contains("objectId"));
    }
}
