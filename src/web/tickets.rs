//! Who was shown a door and may press now: each page that asks carries a token that is good for
//! one press by one phone, for one door and one event, for a minute. Kept in memory only, by the
//! token's fingerprint: a restart takes them all away, and the page asks anew.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::action::PhoneId;
use crate::event::EventId;
use crate::secret::{Secret, fingerprint, random_token};

/// How long a shown page may be pressed.
pub const LIVES: Duration = Duration::from_secs(60);
/// Tokens kept, used and expired ones too, so that a late or second press is called what it is.
const KEPT_MAX: usize = 4_096;
/// Tokens of one phone: nobody looks at more pages at once, and one phone must not push out
/// everybody else's.
const KEPT_PER_PHONE_MAX: usize = 16;
/// Denied presses that become events, a minute: all are counted, but a phone gone mad must not
/// fill the journal.
const DENIED_PER_MINUTE_MAX: u32 = 60;

/// What a token is good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// Whose phone it is.
    pub person: String,
    /// The phone.
    pub phone: PhoneId,
    /// The door that was shown.
    pub door: String,
    /// The event that was shown.
    pub event: Option<EventId>,
}

/// Why a press is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// Nobody was given this token, or it is long forgotten.
    #[error("this page is not known any more; open it anew")]
    Unknown,
    /// It was pressed before.
    #[error("this was pressed already; open the page anew to press again")]
    Used,
    /// Too late.
    #[error("too late: a page can be pressed for 60 seconds; open it anew")]
    Late,
    /// It was shown to somebody else.
    #[error("this page was shown to somebody else")]
    OtherPerson,
    /// It was shown on another device.
    #[error("this page was shown on another device")]
    OtherPhone,
    /// It showed another door.
    #[error("this page showed another door")]
    OtherDoor,
    /// It showed another event.
    #[error("this page showed another event")]
    OtherEvent,
}

/// All tokens.
#[derive(Debug, Default)]
pub struct Tickets(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Oldest first.
    kept: VecDeque<Kept>,
    /// The minute, and how many were denied in it.
    denied: (u64, u32),
}

#[derive(Debug)]
struct Kept {
    fingerprint: String,
    ticket: Ticket,
    until: Duration,
    used: bool,
}

impl Tickets {
    /// A fresh token. `now` is the clock that nobody sets.
    pub fn issue(&self, ticket: Ticket, now: Duration) -> Secret {
        let token = random_token();
        let mut inner = self.lock();
        let of_phone = |kept: &Kept| kept.ticket.phone == ticket.phone;
        if inner.kept.iter().filter(|kept| of_phone(kept)).count() >= KEPT_PER_PHONE_MAX
            && let Some(oldest) = inner.kept.iter().position(of_phone)
        {
            inner.kept.remove(oldest);
        }
        if inner.kept.len() >= KEPT_MAX {
            inner.kept.pop_front();
        }
        let fingerprint = fingerprint(token.expose());
        inner.kept.push_back(Kept { fingerprint, ticket, until: now + LIVES, used: false });
        token
    }

    /// Uses a token up, if it is good for exactly this.
    pub fn redeem(&self, token: &str, press: &Ticket, now: Duration) -> Result<(), Denial> {
        // Found by fingerprint: how long it takes tells nothing about the token.
        let sought = fingerprint(token);
        let mut inner = self.lock();
        let kept = inner.kept.iter_mut().find(|kept| kept.fingerprint == sought);
        let kept = kept.ok_or(Denial::Unknown)?;
        let shown = &kept.ticket;
        if shown.person != press.person {
            return Err(Denial::OtherPerson);
        }
        if shown.phone != press.phone {
            return Err(Denial::OtherPhone);
        }
        if shown.door != press.door {
            return Err(Denial::OtherDoor);
        }
        if shown.event != press.event {
            return Err(Denial::OtherEvent);
        }
        if kept.used {
            return Err(Denial::Used);
        }
        if now >= kept.until {
            return Err(Denial::Late);
        }
        kept.used = true;
        Ok(())
    }

    /// Whether one more denied press may become an event.
    pub fn may_tell(&self, now: Duration) -> bool {
        let mut inner = self.lock();
        let minute = now.as_secs() / 60;
        if inner.denied.0 != minute {
            inner.denied = (minute, 0);
        }
        inner.denied.1 += 1;
        inner.denied.1 <= DENIED_PER_MINUTE_MAX
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket() -> Ticket {
        Ticket {
            person: "ana".into(),
            phone: PhoneId("a1".into()),
            door: "front".into(),
            event: Some(EventId([1; 16])),
        }
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_token_is_good_once() {
        let tickets = Tickets::default();
        let token = tickets.issue(ticket(), at(0));
        assert_eq!(tickets.redeem(token.expose(), &ticket(), at(59)), Ok(()));
        assert_eq!(tickets.redeem(token.expose(), &ticket(), at(59)), Err(Denial::Used));
        assert_eq!(tickets.redeem("", &ticket(), at(0)), Err(Denial::Unknown));
    }

    #[test]
    fn for_a_minute_and_for_what_it_was_given() {
        let tickets = Tickets::default();
        let token = tickets.issue(ticket(), at(0));
        let press = |press: Ticket| tickets.redeem(token.expose(), &press, at(1)).unwrap_err();
        assert_eq!(press(Ticket { person: "ben".into(), ..ticket() }), Denial::OtherPerson);
        let phone = PhoneId("a2".into());
        assert_eq!(press(Ticket { phone, ..ticket() }), Denial::OtherPhone);
        assert_eq!(press(Ticket { door: "back".into(), ..ticket() }), Denial::OtherDoor);
        assert_eq!(press(Ticket { event: None, ..ticket() }), Denial::OtherEvent);
        assert_eq!(tickets.redeem(token.expose(), &ticket(), at(60)), Err(Denial::Late));
    }

    #[test]
    fn one_phone_pushes_out_only_its_own() {
        let tickets = Tickets::default();
        let other = Ticket { phone: PhoneId("b".into()), ..ticket() };
        let kept = tickets.issue(other.clone(), at(0));
        let first = tickets.issue(ticket(), at(0));
        for _ in 0..KEPT_PER_PHONE_MAX {
            tickets.issue(ticket(), at(0));
        }
        assert_eq!(tickets.redeem(first.expose(), &ticket(), at(1)), Err(Denial::Unknown));
        assert_eq!(tickets.redeem(kept.expose(), &other, at(1)), Ok(()));
    }

    #[test]
    fn a_flood_of_denials_is_told_only_in_part() {
        let tickets = Tickets::default();
        let told = (0..1000).filter(|_| tickets.may_tell(at(5))).count();
        assert_eq!(told, DENIED_PER_MINUTE_MAX as usize);
        assert!(tickets.may_tell(at(65)));
    }
}
