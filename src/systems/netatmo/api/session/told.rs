//! The part of the session that says how things stand: whether the cloud works, whether webhooks
//! come, and when a person must help.

use serde_json::Value;

use super::{Now, Output, Session};
use crate::event::{Event, Trust};
use crate::systems::link::{self, News};
use crate::systems::netatmo::api::registration::Failure;

impl Session {
    /// The cloud works.
    pub(super) fn works(&mut self, out: &mut Vec<Output>) {
        self.backoff.reset();
        if self.homes.is_learned() && self.up != Some(true) {
            self.up = Some(true);
            self.why.clear();
            out.push(Output::Up(true, String::new()));
        }
    }

    /// It does not. What was under way is begun anew, and what happens meanwhile counts as unheard.
    pub(super) fn fails(&mut self, why: String, now: Now, out: &mut Vec<Output>) {
        self.round = None;
        for due in self.due.values_mut() {
            due.stale = true;
            due.gap = due.gap.min(now.run);
        }
        if self.up != Some(false) || self.why != why {
            self.up = Some(false);
            self.why.clone_from(&why);
            out.push(Output::Up(false, why));
        }
    }

    /// Says how the webhook stands, if that has changed.
    pub(super) fn tell_webhook(&mut self, out: &mut Vec<Output>) {
        let state = self.registration.state();
        if state == self.webhook {
            return;
        }
        let mut news = News::default();
        news.set(format!("{}/webhook", self.source), state.clone());
        self.webhook = state;
        out.push(Output::Tell(news));
    }

    pub(super) fn tell_webhook_failed(
        &mut self,
        failure: &Failure,
        now: Now,
        out: &mut Vec<Output>,
    ) {
        let unique = [failure.reason, &now.wall.to_string()];
        let mut event = self.own_event("netatmo.webhook_failed", &unique, now);
        event.data.insert("reason".into(), failure.reason.into());
        event.data.insert("code".into(), failure.code.map_or(Value::Null, Value::from));
        event.data.insert("why".into(), failure.why.clone().into());
        // With the state, so that rules that look at it see both.
        let state = self.registration.state();
        let mut news = News { known: Vec::new(), events: vec![event.into()] };
        news.set(format!("{}/webhook", self.source), state.clone());
        self.webhook = state;
        out.push(Output::Tell(news));
    }

    /// Says once that only a person can help; the moment since when makes it one event, also over
    /// a restart.
    pub(super) fn tell_consent(&mut self, now: Now, out: &mut Vec<Output>) {
        let Some(dead) = self.oauth.dead().cloned() else {
            self.asked = None;
            return;
        };
        if self.asked.as_ref() == Some(&dead) {
            return;
        }
        let (reason, since) = dead.clone();
        self.asked = Some(dead);
        // First the file: after a crash the same moment makes the same event.
        out.push(Output::Keep(self.oauth.kept().clone()));
        self.ask_person(&reason, &since.to_string(), now, out);
        let url = self.config.consent_url();
        let why = format!("a person must let Portero in ({reason}): {url}");
        self.release_jobs(&why, out);
        self.fails(why, now, out);
    }

    /// The tokens are good for other things only.
    pub(super) fn scope_missing(&mut self, now: Now, out: &mut Vec<Output>) {
        if self.oauth.scope_missing() {
            self.ask_person("scope", &now.wall.to_string(), now, out);
            out.push(Output::Keep(self.oauth.kept().clone()));
        }
    }

    fn ask_person(&mut self, reason: &str, since: &str, now: Now, out: &mut Vec<Output>) {
        let mut event = self.own_event("netatmo.consent_needed", &[reason, since], now);
        let url = self.config.consent_url();
        event.data.insert("reason".into(), reason.into());
        event.data.insert("link".into(), url.clone().into());
        event.data.insert("url".into(), url.into());
        out.push(Output::Tell(News { known: Vec::new(), events: vec![event.into()] }));
    }

    fn own_event(&self, kind: &str, unique: &[&str], now: Now) -> Event {
        // Whoever cuts the connection can cause it.
        let trust = Trust::Unverified;
        let mut event = link::event(&self.source, kind, unique, trust, false, now.wall);
        event.subject = Some(self.source.clone());
        event.data.insert("account".into(), self.config.name.clone().into());
        event
    }

    /// Keeps what was not understood, but never a token.
    pub(super) fn bad(&self, reason: String, raw: &[u8], out: &mut Vec<Output>) {
        let raw = if self.holds_secret(raw) { Vec::new() } else { raw.to_vec() };
        out.push(Output::Bad { reason, raw });
    }
}
