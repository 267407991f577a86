//! Phones as the index keeps them: the fold of what happened to each.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Index, IndexError};
use crate::action::PhoneId;
use crate::record::{PhoneChange, Subscription};

/// What is known of one phone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PhoneRow {
    /// Whose it is.
    pub person: String,
    /// What the person sees in the list.
    pub name: String,
    /// SHA-256 of its session cookie, as hexadecimal digits; none when added by hand.
    pub session: Option<String>,
    /// How to push to it; none before it subscribed and after that ended.
    pub subscription: Option<Subscription>,
    /// Who ended its last subscription, and why; none while it has one.
    pub ended: Option<String>,
    /// When it was added.
    pub added: Timestamp,
    /// When it was last alive or subscribed.
    pub alive: Timestamp,
}

impl Index {
    /// A phone.
    pub fn phone(&self, id: &PhoneId) -> Result<Option<PhoneRow>, IndexError> {
        Ok(self.phones.get(&id.0)?.map(|bytes| serde_json::from_slice(&bytes)).transpose()?)
    }

    /// All phones, by id.
    pub fn phones(&self) -> Result<Vec<(PhoneId, PhoneRow)>, IndexError> {
        let row = |item: sled::Result<(sled::IVec, sled::IVec)>| {
            let (id, row) = item?;
            let id = PhoneId(String::from_utf8_lossy(&id).into_owned());
            Ok((id, serde_json::from_slice(&row)?))
        };
        self.phones.iter().map(row).collect()
    }

    pub(super) fn put_phone(&self, id: &PhoneId, row: &PhoneRow) -> Result<(), IndexError> {
        self.phones.insert(&id.0, serde_json::to_vec(row)?)?;
        Ok(())
    }

    /// Folds one change in.
    pub(super) fn change_phone(&self, change: &PhoneChange) -> Result<(), IndexError> {
        match change {
            // An invitation is no phone yet.
            PhoneChange::Invited { .. } => Ok(()),
            PhoneChange::Added { id, person, name, session, at, .. } => {
                let (person, name, session) = (person.clone(), name.clone(), session.clone());
                let (subscription, ended, added, alive) = (None, None, *at, *at);
                let row = PhoneRow { person, name, session, subscription, ended, added, alive };
                self.put_phone(id, &row)
            }
            PhoneChange::Subscribed { id, subscription, at } => self.update(id, |row| {
                row.subscription = Some(subscription.clone());
                row.ended = None;
                row.alive = *at;
            }),
            PhoneChange::Unsubscribed { id, why, .. } => self.update(id, |row| {
                row.subscription = None;
                row.ended = Some(why.clone());
            }),
            PhoneChange::Alive { id, at } => self.update(id, |row| row.alive = *at),
            PhoneChange::Removed { id, .. } => {
                self.phones.remove(&id.0)?;
                Ok(())
            }
        }
    }

    /// Changes a phone that is known. One that is not was removed, or was added before the
    /// journal's first record; then [`Index::restore`] brings it back as it is.
    fn update(&self, id: &PhoneId, change: impl FnOnce(&mut PhoneRow)) -> Result<(), IndexError> {
        let Some(mut row) = self.phone(id)? else { return Ok(()) };
        change(&mut row);
        self.put_phone(id, &row)
    }
}
