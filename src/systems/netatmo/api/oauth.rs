//! The tokens of one account and what becomes of them. Pure: keeps them in mind only; `session`
//! has them written down before they are used.

use std::fmt;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::session::Now;
use super::wire::{About, Refusal, Token};
use crate::secret::{Secret, fingerprint};
use crate::systems::backoff::Backoff;
use crate::systems::http;

/// A token is renewed so long before its end, so that no call meets it; a short one at half time.
const MARGIN: Duration = Duration::from_secs(5 * 60);
/// A token that is refused sooner was never good.
const EARLY: Duration = Duration::from_secs(60);
/// So many in a row are renewed at once; then something is wrong that tokens do not mend.
const EARLY_MAX: u32 = 3;
/// After a failed renewal.
const WAIT_LEAST: Duration = Duration::from_secs(5);
/// See [`WAIT_LEAST`]: what is wrong with an app is not mended by asking.
const WAIT_MOST: Duration = Duration::from_secs(15 * 60);
/// How often a pair that could not be written is tried again.
const WRITE_AGAIN: Duration = Duration::from_secs(10);

/// What must survive a restart.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Kept {
    #[serde(default, with = "hidden")]
    access: Option<Secret>,
    #[serde(default, with = "hidden")]
    refresh: Option<Secret>,
    /// When the access token ends.
    #[serde(default)]
    ends: Option<Timestamp>,
    /// When it is to be renewed.
    #[serde(default)]
    renew: Option<Timestamp>,
    /// SHA-256 of the config's token: another one there takes the place of what is kept.
    #[serde(default)]
    given: Option<String>,
    /// Why only a person can help, and since when.
    #[serde(default)]
    dead: Option<(String, Timestamp)>,
    /// Whether a person was asked for more scopes.
    #[serde(default)]
    scope_asked: bool,
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").field("dead", &self.dead).finish_non_exhaustive()
    }
}

/// Secrets in a file that only we may read.
mod hidden {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::secret::Secret;

    pub fn serialize<S: Serializer>(secret: &Option<Secret>, to: S) -> Result<S::Ok, S::Error> {
        match secret {
            Some(secret) => to.serialize_some(secret.expose()),
            None => to.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Secret>, D::Error> {
        Ok(Option::<String>::deserialize(from)?.map(Secret::new))
    }
}

/// What a failed renewal means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failed {
    /// It is tried again later.
    Later,
    /// Only a person can help.
    Dead,
}

/// The tokens.
#[derive(Debug)]
pub struct OAuth {
    kept: Kept,
    /// Netatmo has refused the access token.
    refused: bool,
    accepted: Option<Duration>,
    /// New tokens in a row that were refused soon.
    early: u32,
    early_wait: Backoff,
    hold_until: Duration,
    backoff: Backoff,
    /// When the pair that is not written yet is tried again.
    write_at: Option<Duration>,
}

impl OAuth {
    /// Goes on from what was kept, unless the config has a token that is new.
    pub fn new(given: Option<&Secret>, kept: Option<Kept>, now: Now, seed: u64) -> OAuth {
        let given_print = given.map(|token| fingerprint(token.expose()));
        let usable = |kept: &Kept| given_print.is_none() || kept.given == given_print;
        let mut kept = kept.filter(usable).unwrap_or_else(|| Kept {
            refresh: given.cloned(),
            given: given_print,
            ..Kept::default()
        });
        // One that could never be sent is renewed at once.
        kept.access = kept.access.and_then(|token| http::token(token.expose()));
        let backoff = Backoff::new(WAIT_LEAST, WAIT_MOST, seed);
        let hold_until = Duration::ZERO;
        let mut oauth = OAuth {
            kept,
            refused: false,
            accepted: None,
            early: 0,
            early_wait: Backoff::new(WAIT_LEAST, WAIT_MOST, seed ^ 5),
            hold_until,
            backoff,
            write_at: None,
        };
        if oauth.kept.refresh.is_none() && oauth.kept.dead.is_none() {
            oauth.kept.dead = Some(("no_refresh_token".into(), now.wall));
        }
        oauth
    }

    /// What must be kept.
    pub fn kept(&self) -> &Kept {
        &self.kept
    }

    /// The access token, while it lives.
    pub fn access(&self, now: Now) -> Option<&Secret> {
        let lives = !self.refused && self.kept.ends.is_some_and(|ends| now.wall < ends);
        self.kept.access.as_ref().filter(|_| lives)
    }

    /// The refresh token, if it is time to use it.
    pub fn renewal(&self, now: Now) -> Option<&Secret> {
        let is_due = now.run >= self.due(now);
        self.kept.refresh.as_ref().filter(|_| is_due)
    }

    /// When the next renewal is due; never while only a person can help.
    pub fn due(&self, now: Now) -> Duration {
        if self.kept.dead.is_some() || self.kept.refresh.is_none() {
            return Duration::MAX;
        }
        let left = match (&self.kept.access, self.kept.renew) {
            (Some(_), Some(renew)) if !self.refused => renew.duration_since(now.wall),
            _ => SignedDuration::ZERO,
        };
        let wait = Duration::try_from(left).unwrap_or(Duration::ZERO);
        now.run.saturating_add(wait).max(self.hold_until)
    }

    /// Why only a person can help, and since when.
    pub fn dead(&self) -> Option<&(String, Timestamp)> {
        self.kept.dead.as_ref()
    }

    /// A new pair came.
    pub fn accept(&mut self, token: Token, by_person: bool, now: Now) {
        let renew = token.lives.saturating_sub(MARGIN).max(token.lives / 2);
        self.kept.access = Some(token.access);
        self.kept.refresh = token.refresh.or_else(|| self.kept.refresh.take());
        self.kept.ends = now.wall.checked_add(token.lives).ok();
        self.kept.renew = now.wall.checked_add(renew).ok();
        self.accepted = Some(now.run);
        self.kept.dead = None;
        if by_person {
            self.kept.scope_asked = false;
        }
        self.refused = false;
        self.hold_until = Duration::ZERO;
        self.backoff.reset();
    }

    /// A new refresh token came, without an access token that is good for anything.
    pub fn rotated(&mut self, refresh: Secret) {
        self.kept.refresh = Some(refresh);
    }

    /// Netatmo refused the access token.
    pub fn access_refused(&mut self, now: Now) {
        if std::mem::replace(&mut self.refused, true) {
            return;
        }
        let is_early = self.accepted.is_some_and(|at| now.run.saturating_sub(at) < EARLY);
        self.early = if is_early { self.early.saturating_add(1) } else { 0 };
        if self.early > EARLY_MAX {
            self.hold_until = now.run.saturating_add(self.early_wait.next_wait());
        } else {
            self.early_wait.reset();
        }
    }

    /// No new pair came: Netatmo's reason, if it gave one.
    pub fn failed(&mut self, refusal: Option<&Refusal>, now: Now) -> Failed {
        match refusal.map(Refusal::about) {
            Some(About::Grant) => {
                self.kept.dead = Some(("invalid_grant".into(), now.wall));
                self.kept.access = None;
                Failed::Dead
            }
            _ => {
                let asked = refusal.and_then(|refusal| refusal.retry_after).unwrap_or_default();
                let wait = self.backoff.next_wait().max(asked.min(WAIT_MOST));
                self.hold_until = now.run.saturating_add(wait);
                Failed::Later
            }
        }
    }

    /// The token is not allowed to do something; true if a person is to be asked, which is once.
    pub fn scope_missing(&mut self) -> bool {
        !std::mem::replace(&mut self.kept.scope_asked, true)
    }

    /// Whether the last pair lies in its file now.
    pub fn written(&mut self, is_written: bool, now: Now) {
        self.write_at = (!is_written).then(|| now.run.saturating_add(WRITE_AGAIN));
    }

    /// When the file is tried again; never if all is written.
    pub fn write_due(&self) -> Duration {
        self.write_at.unwrap_or(Duration::MAX)
    }

    /// Every secret that must not be seen.
    pub fn secrets(&self) -> impl Iterator<Item = &Secret> {
        [&self.kept.access, &self.kept.refresh].into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::constant(1_795_000_000, 0);

    fn at(s: u64) -> Now {
        let run = Duration::from_secs(s);
        Now { wall: START + run, run }
    }

    fn token(access: &str, refresh: &str) -> Token {
        Token {
            access: Secret::new(access),
            refresh: Some(Secret::new(refresh)),
            lives: Duration::from_secs(10_800),
            scopes: Vec::new(),
        }
    }

    fn renewed(oauth: &OAuth, s: u64) -> Option<String> {
        oauth.renewal(at(s)).map(|token| token.expose().to_string())
    }

    #[test]
    fn a_token_is_renewed_five_minutes_before_its_end() {
        let given = Secret::new("first");
        let mut oauth = OAuth::new(Some(&given), None, at(0), 1);
        assert_eq!(renewed(&oauth, 0).as_deref(), Some("first"));
        oauth.accept(token("a", "second"), false, at(0));
        assert_eq!(renewed(&oauth, 10_499), None);
        assert_eq!(renewed(&oauth, 10_500).as_deref(), Some("second"));
        assert!(oauth.access(at(10_799)).is_some());
        assert!(oauth.access(at(10_800)).is_none());
        oauth.access_refused(at(1));
        assert!(oauth.access(at(1)).is_none());
        assert_eq!(renewed(&oauth, 1).as_deref(), Some("second"));
    }

    #[test]
    fn new_tokens_that_are_never_good_are_not_asked_for_over_and_over() {
        let given = Secret::new("first");
        let mut oauth = OAuth::new(Some(&given), None, at(0), 1);
        let (mut s, mut renewals) = (0, 0);
        while s < 3600 {
            if oauth.renewal(at(s)).is_some() {
                renewals += 1;
                oauth.accept(
                    Token { lives: Duration::from_secs(60), ..token("a", "b") },
                    false,
                    at(s),
                );
                oauth.access_refused(at(s));
            }
            s += 1;
        }
        assert!(renewals < 20, "{renewals}");
    }

    #[test]
    fn a_short_token_is_renewed_at_half_time() {
        let mut oauth = OAuth::new(Some(&Secret::new("first")), None, at(0), 1);
        oauth.accept(Token { lives: Duration::from_secs(60), ..token("a", "b") }, false, at(0));
        assert_eq!((renewed(&oauth, 29), renewed(&oauth, 30).as_deref()), (None, Some("b")));
    }

    #[test]
    fn the_configs_token_wins_only_when_it_is_new() {
        let given = Secret::new("first");
        let mut oauth = OAuth::new(Some(&given), None, at(0), 1);
        oauth.accept(token("a", "second"), false, at(0));
        let text = serde_json::to_string(oauth.kept()).unwrap();
        let kept = || serde_json::from_str::<Kept>(&text).ok();
        let again = OAuth::new(Some(&given), kept(), at(0), 1);
        assert_eq!(again.access(at(1)).map(Secret::expose), Some("a"));
        let other = Secret::new("other");
        let changed = OAuth::new(Some(&other), kept(), at(0), 1);
        assert!(changed.access(at(1)).is_none());
        assert_eq!(renewed(&changed, 1).as_deref(), Some("other"));
        let without = OAuth::new(None, kept(), at(0), 1);
        assert_eq!(without.access(at(1)).map(Secret::expose), Some("a"));
    }

    #[test]
    fn a_dead_grant_is_not_tried_again_until_a_person_helps() {
        let given = Secret::new("first");
        let mut oauth = OAuth::new(Some(&given), None, at(0), 1);
        let refusal = |code| Refusal { status: 400, code, said: String::new(), retry_after: None };
        assert_eq!(oauth.failed(Some(&refusal(Some(5))), at(0)), Failed::Later);
        assert!(oauth.renewal(at(0)).is_none());
        assert!(oauth.renewal(at(6)).is_some());
        assert_eq!(oauth.failed(Some(&refusal(Some(30))), at(6)), Failed::Dead);
        assert_eq!(oauth.due(at(7)), Duration::MAX);
        let kept = oauth.kept().clone();
        let mut again = OAuth::new(Some(&given), Some(kept), at(9), 1);
        assert_eq!(again.dead().map(|(_, since)| *since), Some(at(6).wall));
        assert!(again.renewal(at(9_999)).is_none());
        again.accept(token("b", "c"), true, at(10));
        assert_eq!((again.dead(), again.access(at(11)).is_some()), (None, true));
        assert!(OAuth::new(None, None, at(0), 1).dead().is_some());
    }

    #[test]
    fn nothing_secret_is_shown() {
        let given = Secret::new("sesame");
        let oauth = OAuth::new(Some(&given), None, at(0), 1);
        assert!(!format!("{oauth:?}").contains("sesame"));
    }
}
