//! What everybody but the router sees of the ledger: a value that is made anew when it changes.

use std::collections::HashMap;
use std::sync::Arc;

use crate::action::PhoneId;
use crate::alert::AlertId;
use crate::event::Event;
use crate::ledger::{DeadLetter, Ledger, Phone};
use crate::rules::Alert;

/// What the page, the webhooks and the command line may see of the ledger.
#[derive(Debug, Default)]
pub struct View {
    /// All phones.
    pub phones: Vec<(PhoneId, Phone)>,
    /// Session fingerprints and whose they are.
    pub sessions: HashMap<String, PhoneId>,
    /// Systems by source, with what is known of their connection (`<source>/link`).
    pub links: Vec<(String, serde_json::Value)>,
    /// Alerts, the newest first.
    pub alerts: Vec<(AlertId, Alert)>,
    /// What somebody was to be told and was not, the newest first.
    pub dead: Vec<Arc<DeadLetter>>,
    /// What happened at doors, the newest first.
    pub audit: Vec<Arc<Event>>,
}

impl View {
    /// The phone of this id.
    pub fn phone(&self, id: &PhoneId) -> Option<&Phone> {
        self.phones.iter().find(|(other, _)| other == id).map(|(_, phone)| phone)
    }

    /// As the ledger is now.
    pub(super) fn of(ledger: &Ledger) -> View {
        let phones: Vec<_> =
            ledger.phones.iter().map(|(id, phone)| (id.clone(), phone.clone())).collect();
        let sessions = phones
            .iter()
            .filter_map(|(id, phone)| Some((phone.session.clone()?, id.clone())))
            .collect();
        let known = ledger.memory.known().iter();
        let links = known
            .filter_map(|(path, entry)| Some((path.strip_suffix("/link")?, &entry.value)))
            .map(|(source, link)| (source.to_string(), link.clone()))
            .collect();
        let alerts = ledger.memory.alerts().iter();
        let mut alerts: Vec<_> = alerts.map(|(id, alert)| (id, alert.clone())).collect();
        alerts.sort_by_key(|(_, alert)| std::cmp::Reverse(alert.begun));
        let (dead, audit) = (ledger.dead.newest_first(), ledger.audit.newest_first());
        View { phones, sessions, links, alerts, dead, audit }
    }
}
