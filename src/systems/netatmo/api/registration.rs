//! The webhook's registration: when it is due, what the answers mean, and whether Netatmo really
//! calls. Pure. It is never taken back: one registration takes the other's place, and to drop it
//! at a restart would leave a gap and cost calls.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use reqwest::Method;
use serde_json::{Value, json};
use url::{Host, Url};

use super::session::Now;
use super::wire::{About, Asker, Read};
use crate::systems::backoff::Backoff;
use crate::systems::http::Ask;

/// Registered anew so often: cheap, and the only way out of a ban that nobody noticed. Also the
/// longest silence that is believed.
const EVERY: Duration = Duration::from_secs(24 * 3600);
/// A `webhook_activation` comes within seconds; open clients wait as long as this.
const ACTIVATION_WITHIN: Duration = Duration::from_secs(30);
/// After a refusal. Each try costs a call of few.
const REFUSED_LEAST: Duration = Duration::from_secs(10 * 60);
/// See [`REFUSED_LEAST`].
const REFUSED_MOST: Duration = Duration::from_secs(6 * 3600);
/// After a network error.
const FAULT_LEAST: Duration = Duration::from_secs(5);
/// See [`FAULT_LEAST`].
const FAULT_MOST: Duration = Duration::from_secs(10 * 60);
/// After "too many calls".
const THROTTLED_LEAST: Duration = Duration::from_secs(5 * 60);
/// See [`THROTTLED_LEAST`].
const THROTTLED_MOST: Duration = Duration::from_secs(60 * 60);
/// After "another call is under way".
const BUSY_WAIT: Duration = Duration::from_secs(1);
/// When something points at a ban, the next registration comes after so long.
const DOUBT_WAIT: Duration = Duration::from_secs(5 * 60);

/// What is asked next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The documented way.
    Add,
    /// The newer way, where the other is gone.
    Newer,
    /// Something is registered there already: what?
    List,
    /// Something else: away with it.
    Drop,
}

/// The webhook does not work, said once for each reason until it works again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// One word.
    pub reason: &'static str,
    /// Netatmo's number, if it gave one.
    pub code: Option<i64>,
    /// In words.
    pub why: String,
}

/// The registration of one webhook.
#[derive(Debug)]
pub struct Registration {
    url: String,
    /// Why Netatmo could not call that address anyway.
    useless: Option<&'static str>,
    step: Step,
    newer: bool,
    /// Whether another address was taken away in this round.
    dropped: bool,
    due: Duration,
    asked_at: Duration,
    /// When the proof must be there.
    prove_by: Option<Duration>,
    activated_at: Option<Duration>,
    registered: bool,
    active: bool,
    since: Option<Timestamp>,
    why: String,
    told: BTreeSet<&'static str>,
    refused: Backoff,
    faults: Backoff,
    throttled: Backoff,
}

impl Registration {
    /// The webhook `netatmo/<name>` below `public_url`. Netatmo calls https addresses on the
    /// internet only; a simulator on this machine calls any.
    pub fn new(name: &str, public_url: &Url, api: &Url, seed: u64) -> Registration {
        let base = public_url.as_str().trim_end_matches('/');
        let useless = if is_loopback(api) {
            None
        } else if is_loopback(public_url) {
            Some("public_url names this machine only, so Netatmo cannot call it")
        } else if public_url.scheme() != "https" {
            Some("public_url is not https, and Netatmo calls nothing else")
        } else {
            None
        };
        Registration {
            url: format!("{base}/hooks/netatmo/{name}"),
            useless,
            step: Step::Add,
            newer: false,
            dropped: false,
            due: Duration::ZERO,
            asked_at: Duration::ZERO,
            prove_by: None,
            activated_at: None,
            registered: false,
            active: false,
            since: None,
            why: useless.unwrap_or("not registered yet").to_string(),
            told: BTreeSet::new(),
            refused: Backoff::new(REFUSED_LEAST, REFUSED_MOST, seed),
            faults: Backoff::new(FAULT_LEAST, FAULT_MOST, seed ^ 1),
            throttled: Backoff::new(THROTTLED_LEAST, THROTTLED_MOST, seed ^ 2),
        }
    }

    /// Why it is left alone.
    pub fn useless(&self) -> Option<&'static str> {
        self.useless
    }

    /// When something is to be asked or to be given up.
    pub fn due(&self) -> Duration {
        if self.useless.is_some() {
            return Duration::MAX;
        }
        self.prove_by.map_or(self.due, |by| by.min(self.due))
    }

    /// The question that is due.
    pub fn ask(&mut self, asker: &Asker, now: Now) -> Option<Ask> {
        if self.useless.is_some() || now.run < self.due {
            return None;
        }
        if matches!(self.step, Step::Add | Step::Newer) {
            self.step = if self.newer { Step::Newer } else { Step::Add };
            self.asked_at = now.run;
        }
        Some(match self.step {
            Step::Add => asker.form("api/addwebhook", &[("url", &self.url)]),
            Step::Newer => asker.webhooks(Method::POST, Some(&self.url)),
            Step::List => asker.webhooks(Method::GET, None),
            Step::Drop => asker.webhooks(Method::DELETE, None),
        })
    }

    /// What became of the question; none is a network error.
    pub fn answered(&mut self, got: Option<&Read>, now: Now) -> Option<Failure> {
        let refusal = match got {
            Some(Read::Good(_)) if self.step == Step::Drop => return self.go_to(Step::Newer, now),
            Some(Read::Good(fields)) if self.step == Step::List => {
                if holds(&Value::Object(fields.clone()), &self.url) {
                    self.registered(true, now);
                    return None;
                }
                return self.go_to(Step::Drop, now);
            }
            Some(Read::Good(_)) => {
                self.registered(false, now);
                return None;
            }
            Some(Read::Refused(refusal)) => refusal,
            Some(Read::Strange(why)) => {
                let wait = self.faults.next_wait();
                return self.later(wait, why.clone(), now);
            }
            None => {
                let wait = self.faults.next_wait();
                return self.later(wait, "Netatmo's cloud is not reached".into(), now);
            }
        };
        match (self.step, refusal.status, refusal.about()) {
            (_, _, About::Busy) => self.later(BUSY_WAIT, refusal.to_string(), now),
            (_, _, About::Throttled) => {
                let asked = refusal.retry_after.unwrap_or_default().min(THROTTLED_MOST);
                let wait = self.throttled.next_wait().max(asked);
                self.later(wait, refusal.to_string(), now)
            }
            // The token is renewed, and then it is asked again.
            (_, _, About::Token) => self.later(Duration::ZERO, refusal.to_string(), now),
            (Step::Add, 404 | 410, _) => {
                self.newer = true;
                self.go_to(Step::Newer, now)
            }
            (Step::Newer, 409, _) => self.go_to(Step::List, now),
            (Step::Drop, 404 | 406, _) | (Step::Drop, _, About::Nothing) => {
                self.go_to(Step::Newer, now)
            }
            _ => {
                let why = refusal.to_string();
                self.fail(Failure { reason: "refused", code: refusal.code, why }, now)
            }
        }
    }

    /// Netatmo called: it can.
    pub fn heard(&mut self, now: Now) {
        self.activated_at = Some(now.run);
        if self.registered || self.prove_by.is_some() {
            self.proven(now);
        }
    }

    /// Time went by: says so if no proof came.
    pub fn tick(&mut self, now: Now) -> Option<Failure> {
        self.prove_by.filter(|by| now.run >= *by)?;
        let why = "Netatmo took the address and did not call it within 30 s: is it reached from \
                   outside?";
        self.fail(Failure { reason: "no_activation", code: None, why: why.into() }, now)
    }

    /// Something points at a ban, or nothing was heard for long.
    pub fn doubt(&mut self, now: Now) {
        if self.prove_by.is_none() {
            self.due = self.due.min(now.run.saturating_add(DOUBT_WAIT));
        }
    }

    /// How it stands, for rules and people.
    pub fn state(&self) -> Value {
        json!({
            "registered": self.registered,
            "active": self.active,
            "since": self.since,
            "why": self.why,
        })
    }

    fn go_to(&mut self, step: Step, now: Now) -> Option<Failure> {
        if step == Step::Drop && std::mem::replace(&mut self.dropped, true) {
            // Whoever registers there registers again and again: no fight about it.
            let why = "another program keeps registering its own address".to_string();
            return self.fail(Failure { reason: "taken", code: None, why }, now);
        }
        self.step = step;
        self.due = now.run;
        None
    }

    fn registered(&mut self, already: bool, now: Now) {
        self.registered = true;
        self.dropped = false;
        self.step = Step::Add;
        self.due = now.run.saturating_add(EVERY);
        self.faults.reset();
        self.throttled.reset();
        // The call may be faster than the answer. To what was there already none comes.
        if already || self.activated_at.is_some_and(|at| at >= self.asked_at) {
            return self.proven(now);
        }
        self.prove_by = Some(now.run.saturating_add(ACTIVATION_WITHIN));
        if !self.active {
            self.why = "registered; Netatmo has not called yet".into();
        }
    }

    fn proven(&mut self, now: Now) {
        self.prove_by = None;
        if !self.active {
            self.since = Some(now.wall);
        }
        (self.registered, self.active) = (true, true);
        self.why.clear();
        self.told.clear();
        self.refused.reset();
        self.due = self.due.max(now.run.saturating_add(EVERY));
    }

    fn later(&mut self, wait: Duration, why: String, now: Now) -> Option<Failure> {
        self.due = now.run.saturating_add(wait);
        self.step = Step::Add;
        if !self.registered {
            self.why = why;
        }
        None
    }

    fn fail(&mut self, failure: Failure, now: Now) -> Option<Failure> {
        self.prove_by = None;
        self.dropped = false;
        self.step = Step::Add;
        if self.active || self.since.is_none() {
            self.since = Some(now.wall);
        }
        self.active = false;
        self.registered &= failure.reason == "no_activation";
        self.why.clone_from(&failure.why);
        self.due = now.run.saturating_add(self.refused.next_wait());
        self.told.insert(failure.reason).then_some(failure)
    }
}

/// Whether a text stands anywhere in a value.
fn holds(value: &Value, text: &str) -> bool {
    match value {
        Value::String(found) => found == text,
        Value::Array(items) => items.iter().any(|item| holds(item, text)),
        Value::Object(fields) => fields.values().any(|field| holds(field, text)),
        _ => false,
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Map;

    use super::super::wire::Refusal;
    use super::*;

    fn at(s: u64) -> Now {
        let run = Duration::from_secs(s);
        Now { wall: Timestamp::constant(1_795_000_000, 0) + run, run }
    }

    fn url(text: &str) -> Url {
        text.parse().unwrap()
    }

    fn registration() -> Registration {
        let api = url("https://api.netatmo.com");
        Registration::new("home", &url("https://door.example.org/"), &api, 1)
    }

    fn asker() -> Asker {
        Asker { base: url("https://api.netatmo.com") }
    }

    fn refused(status: u16, code: Option<i64>) -> Read {
        Read::Refused(Refusal { status, code, said: String::new(), retry_after: None })
    }

    fn asked(registration: &mut Registration, s: u64) -> Option<String> {
        let ask = registration.ask(&asker(), at(s))?;
        Some(format!("{ask:?}"))
    }

    #[test]
    fn a_call_within_thirty_seconds_proves_it_and_a_day_later_it_is_renewed() {
        let mut it = registration();
        assert_eq!(asked(&mut it, 0).as_deref(), Some("POST /api/addwebhook"));
        assert_eq!(it.answered(Some(&Read::Good(Map::new())), at(1)), None);
        assert_eq!(it.state()["active"], false);
        it.heard(at(5));
        assert_eq!((it.state()["active"].clone(), it.due()), (true.into(), at(86_405).run));
        assert_eq!(asked(&mut it, 80_000), None);
        assert!(asked(&mut it, 86_405).is_some());
        // The call may come before the answer.
        it.heard(at(86_406));
        assert_eq!(it.answered(Some(&Read::Good(Map::new())), at(86_407)), None);
        assert_eq!(it.due(), at(86_407 + 86_400).run);
    }

    #[test]
    fn silence_after_it_is_told_once_until_it_works() {
        let mut it = registration();
        it.ask(&asker(), at(0));
        it.answered(Some(&Read::Good(Map::new())), at(1));
        assert_eq!(it.tick(at(30)), None);
        assert_eq!(it.tick(at(31)).map(|failure| failure.reason), Some("no_activation"));
        assert_eq!(it.tick(at(32)), None);
        let again = it.due();
        assert!(again >= at(5 * 60).run && again <= at(31 + 600).run, "{again:?}");
        it.ask(&asker(), at(700));
        it.answered(Some(&Read::Good(Map::new())), at(701));
        assert_eq!(it.tick(at(731)), None); // Told already.
        it.heard(at(740)); // Late, but it works.
        assert_eq!(it.state()["active"], true);
        it.ask(&asker(), at(90_000));
        it.answered(Some(&Read::Good(Map::new())), at(90_001));
        assert!(it.tick(at(90_031)).is_some());
    }

    #[test]
    fn throttling_waits_for_minutes_and_concurrency_for_a_second() {
        let mut it = registration();
        it.ask(&asker(), at(0));
        assert_eq!(it.answered(Some(&refused(429, Some(11))), at(0)), None);
        assert_eq!(it.due(), at(1).run);
        let mut last = Duration::ZERO;
        for _ in 0..6 {
            it.ask(&asker(), at(10_000));
            assert_eq!(it.answered(Some(&refused(403, Some(26))), at(10_000)), None);
            let wait = it.due() - at(10_000).run;
            assert!(wait >= last / 2 && wait <= THROTTLED_MOST);
            last = wait;
        }
        assert!(last >= THROTTLED_MOST / 2);
        it.ask(&asker(), at(20_000));
        let told = it.answered(Some(&refused(400, Some(21))), at(20_000)).unwrap();
        assert_eq!((told.reason, told.code), ("refused", Some(21)));
        assert_eq!(it.answered(Some(&refused(400, Some(21))), at(20_001)), None);
    }

    #[test]
    fn where_the_old_way_is_gone_the_newer_is_taken() {
        let mut it = registration();
        it.ask(&asker(), at(0));
        it.answered(Some(&refused(404, None)), at(0));
        assert_eq!(asked(&mut it, 0).as_deref(), Some("POST /webhooks/v1"));
        it.answered(Some(&refused(409, None)), at(0));
        assert_eq!(asked(&mut it, 0).as_deref(), Some("GET /webhooks/v1"));
        let other = serde_json::from_str(r#"{"body":[{"url":"https://other"}]}"#).unwrap();
        it.answered(Some(&Read::Good(other)), at(0));
        assert_eq!(asked(&mut it, 0).as_deref(), Some("DELETE /webhooks/v1"));
        it.answered(Some(&Read::Good(Map::new())), at(0));
        assert_eq!(asked(&mut it, 0).as_deref(), Some("POST /webhooks/v1"));
        it.answered(Some(&refused(409, None)), at(0));
        it.ask(&asker(), at(0));
        let ours = r#"{"url":"https://door.example.org/hooks/netatmo/home"}"#;
        it.answered(Some(&Read::Good(serde_json::from_str(ours).unwrap())), at(0));
        assert_eq!(it.state()["active"], true);
    }

    #[test]
    fn an_address_that_netatmo_cannot_call_is_not_registered() {
        let (api, sim) = (url("https://api.netatmo.com"), url("http://127.0.0.1:9/"));
        for (public, api, useless) in [
            ("http://127.0.0.1:8080", &api, true),
            ("https://localhost", &api, true),
            ("http://door.example.org", &api, true),
            ("https://door.example.org", &api, false),
            ("http://127.0.0.1:8080", &sim, false),
        ] {
            let mut it = Registration::new("home", &url(public), api, 1);
            assert_eq!(it.useless().is_some(), useless, "{public}");
            assert_eq!(it.ask(&asker(), at(0)).is_none(), useless, "{public}");
        }
    }
}
