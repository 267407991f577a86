//! Phones as the index keeps them: the ledger's fold of what happened to each, one row a phone.

use super::{Index, IndexError};
use crate::action::PhoneId;
use crate::ledger::Phone;
use crate::record::PhoneChange;

impl Index {
    /// A phone.
    pub fn phone(&self, id: &PhoneId) -> Result<Option<Phone>, IndexError> {
        Ok(self.phones.get(&id.0)?.map(|bytes| serde_json::from_slice(&bytes)).transpose()?)
    }

    /// All phones, by id.
    pub fn phones(&self) -> Result<Vec<(PhoneId, Phone)>, IndexError> {
        let row = |item: sled::Result<(sled::IVec, sled::IVec)>| {
            let (id, row) = item?;
            let id = PhoneId(String::from_utf8_lossy(&id).into_owned());
            Ok((id, serde_json::from_slice(&row)?))
        };
        self.phones.iter().map(row).collect()
    }

    pub(super) fn put_phone(&self, id: &PhoneId, phone: &Phone) -> Result<(), IndexError> {
        self.phones.insert(&id.0, serde_json::to_vec(phone)?)?;
        Ok(())
    }

    /// Folds one change in.
    pub(super) fn change_phone(&self, change: &PhoneChange) -> Result<(), IndexError> {
        let Some(id) = change.phone() else { return Ok(()) };
        match Phone::after(self.phone(id)?, change) {
            Some(phone) => self.put_phone(id, &phone),
            None => Ok(self.phones.remove(&id.0).map(drop)?),
        }
    }
}
