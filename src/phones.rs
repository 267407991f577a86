//! How phones come and go: what is asked, and the records that follow from it. Pure: fresh ids,
//! codes and the time are inputs, so the running server and the command line without one make the
//! same records.

use jiff::{SignedDuration, Timestamp};

use crate::action::PhoneId;
use crate::ledger::Ledger;
use crate::record::{PhoneChange, Subscription};

/// How long a pairing code lives: long enough to walk to the phone, short enough to be left lying.
pub const INVITE_LIVES: SignedDuration = SignedDuration::from_mins(15);

/// Phones in all. A building has hundreds; a list without end would be somebody's mistake.
pub const PHONES_MAX: usize = 10_000;

/// Characters of a phone's name.
const NAME_CHARS_MAX: usize = 60;

/// `Alive` is worth a record only this long after the last sign of life.
const ALIVE_EVERY: SignedDuration = SignedDuration::from_hours(12);

/// What somebody wants of the list of phones.
#[derive(Debug, Clone)]
pub enum Ask {
    /// A code for a new phone of this person; the code's fingerprint comes along.
    Invite {
        /// Whose phone it will be.
        person: String,
        /// SHA-256 of the code.
        code: String,
    },
    /// Use a code up and become a phone.
    Pair {
        /// The new phone's id.
        id: PhoneId,
        /// SHA-256 of the code.
        code: String,
        /// What to call it.
        name: String,
        /// SHA-256 of its session cookie.
        session: String,
    },
    /// Add a phone by its subscription alone, from the command line.
    Add {
        /// The new phone's id.
        id: PhoneId,
        /// Whose it is.
        person: String,
        /// What to call it.
        name: String,
        /// What its browser gave.
        subscription: Subscription,
    },
    /// Push to it from now on.
    Subscribe {
        /// Which phone.
        id: PhoneId,
        /// What its browser gave.
        subscription: Subscription,
    },
    /// Stop pushing to it.
    Unsubscribe {
        /// Which phone.
        id: PhoneId,
    },
    /// It spoke to us.
    Alive {
        /// Which phone.
        id: PhoneId,
    },
    /// Forget it.
    Remove {
        /// Which phone.
        id: PhoneId,
    },
}

/// Why a wish was not granted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Never made, used up, or older than [`INVITE_LIVES`].
    #[error("this code is not valid (any more); ask for a new one with `portero pair`")]
    Code,
    /// No phone has this id.
    #[error("there is no phone `{0}`; `portero phone list` shows them all")]
    NoPhone(PhoneId),
    /// [`PHONES_MAX`].
    #[error("there are {PHONES_MAX} phones already; remove some")]
    TooMany,
    /// The change could not be made durable.
    #[error("the journal cannot be written: {0}")]
    Journal(String),
    /// The server is going down.
    #[error("portero is shutting down; try again in a moment")]
    Stopping,
}

/// The records that grant what is asked, or why it is denied. No records: nothing to change.
pub fn plan(ask: Ask, ledger: &Ledger, now: Timestamp) -> Result<Vec<PhoneChange>, Denied> {
    let known = |id: &PhoneId| ledger.phones.get(id).ok_or_else(|| Denied::NoPhone(id.clone()));
    Ok(match ask {
        Ask::Invite { person, code } => {
            vec![PhoneChange::Invited { person, code, expires: now + INVITE_LIVES }]
        }
        Ask::Pair { id, code, name, session } => {
            let invite = ledger.invites.get(&code).filter(|invite| invite.expires > now);
            let person = invite.ok_or(Denied::Code)?.person.clone();
            vec![added(ledger, id, person, name, Some(session), Some(code), now)?]
        }
        Ask::Add { id, person, name, subscription } => {
            let phone = added(ledger, id.clone(), person, name, None, None, now)?;
            vec![phone, PhoneChange::Subscribed { id, subscription, at: now }]
        }
        Ask::Subscribe { id, subscription } => {
            known(&id)?;
            vec![PhoneChange::Subscribed { id, subscription, at: now }]
        }
        Ask::Unsubscribe { id } => match known(&id)?.subscription {
            Some(_) => {
                vec![PhoneChange::Unsubscribed { id, why: "ended on the phone".into(), at: now }]
            }
            None => Vec::new(),
        },
        Ask::Alive { id } => match now.duration_since(known(&id)?.seen) >= ALIVE_EVERY {
            true => vec![PhoneChange::Alive { id, at: now }],
            false => Vec::new(),
        },
        Ask::Remove { id } => {
            known(&id)?;
            vec![PhoneChange::Removed { id, at: now }]
        }
    })
}

fn added(
    ledger: &Ledger,
    id: PhoneId,
    person: String,
    name: String,
    session: Option<String>,
    code: Option<String>,
    at: Timestamp,
) -> Result<PhoneChange, Denied> {
    if ledger.phones.len() >= PHONES_MAX {
        return Err(Denied::TooMany);
    }
    let clean: String = name.chars().filter(|c| !c.is_control()).take(NAME_CHARS_MAX).collect();
    let name = match clean.trim() {
        "" => format!("{person}'s phone"),
        given => given.to_string(),
    };
    Ok(PhoneChange::Added { id, person, name, session, code, at })
}
