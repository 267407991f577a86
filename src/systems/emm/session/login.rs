//! The token: asked for, kept over a crash, asked for anew once when it is refused, and released
//! at the end. Licences count sessions, so none may be left behind.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Moment, Output, Phase, Session, What, act};
use crate::secret::{Secret, fingerprint};
use crate::systems::emm::Config;
use crate::systems::emm::orders::Request;
use crate::systems::emm::wire::{self, Problem};
use crate::systems::http::{self, Answer, Fault};

/// Waits after a refused login: a licence with few sessions must not be hammered, and a wrong
/// password must not lock the user out.
pub(super) const RETRY: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(300));

/// So often in a row it may remain unknown whether an old token was released before a new one is
/// asked for all the same.
const RELEASE_FAULTS_MAX: u32 = 2;

/// A session as it is kept over a crash, so that it can be used again or released.
#[derive(Clone, Serialize, Deserialize)]
pub struct Kept {
    /// The token.
    token: String,
    /// Whose: a fingerprint of address and user.
    of: String,
}

/// The token must not be seen.
impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Kept(hidden)")
    }
}

impl Kept {
    /// The token, if it is of this address and user, and can be sent.
    pub(super) fn token_for(self, config: &Config) -> Option<Secret> {
        http::token(&self.token).filter(|_| self.of == whose(config))
    }
}

impl Session {
    pub(super) fn log_in(&mut self, now: Moment) {
        let Some(password) = self.password.clone() else {
            return self.out_for(now, RETRY.1, "the config has no password".into());
        };
        let form = vec![
            ("username".into(), self.config.username.clone()),
            ("password".into(), password.expose().to_string()),
        ];
        self.phase = Phase::LoggingIn;
        let request = Request { form, ..act("tokens/generatetoken") };
        self.ask(What::Login, &request);
    }

    pub(super) fn logged_in(&mut self, answer: Result<Answer, Fault>, now: Moment) {
        let answer = match answer {
            Ok(answer) => answer,
            Err(fault) => return self.fail(now, format!("login: {fault}")),
        };
        let read = wire::answer(answer.status, &answer.content_type, &answer.body);
        let why = match read {
            Ok(read) => match read.value.get("token").and_then(wire::text) {
                Some(text) if !text.trim().is_empty() => match http::token(&text) {
                    Some(token) => return self.has_token(token),
                    None => {
                        // Nothing of it is kept: it is a secret all the same.
                        let why = "login: the token is none that a header can carry";
                        self.out.push(Output::Bad(why.into(), Vec::new()));
                        why.to_string()
                    }
                },
                _ => "login: the answer has no token".to_string(),
            },
            Err(Problem::Status(status @ 500.., _)) => {
                return self.fail(now, format!("login: HTTP {status}"));
            }
            Err(problem) => format!("login: {problem}"),
        };
        let wait = self.refused.next_wait().max(answer.retry_after.unwrap_or_default());
        self.out_for(now, wait, why);
    }

    fn has_token(&mut self, token: Secret) {
        let kept = Kept { token: token.expose().to_string(), of: whose(&self.config) };
        self.out.push(Output::Keep(Some(kept)));
        self.token = Some(token);
        self.generation += 1;
        (self.may_relogin, self.has_worked) = (false, false);
        self.phase = Phase::In;
        // Nobody knows what happened to the old session's changes.
        self.gap = true;
        (self.due.check, self.due.look) = (Duration::ZERO, Duration::ZERO);
        self.doubts_end();
    }

    /// The token is refused: the old one is released, since it may be good all the same and count
    /// as a session, and once a new one is asked for; if that is refused too, it is not the token,
    /// and the session is given back instead of using up the licence.
    pub(super) fn token_refused(&mut self, what: What, why: &str, now: Moment) {
        self.look = None;
        if what == What::Changes {
            // A token that lives shorter than the time between two polls must not miss them all.
            self.due.changes = now.since;
        }
        if self.may_relogin {
            (self.may_relogin, self.refused_for) = (false, Some(what));
            self.phase = Phase::LoggingIn;
            return self.release();
        }
        self.give_back();
        let wait = self.refused.next_wait();
        self.out_for(now, wait, format!("refused right after login: {why}"));
    }

    /// Releases the session and forgets it.
    pub(super) fn give_back(&mut self) {
        if self.token.is_some() {
            self.ask(What::Release, &act("tokens/releaseToken"));
            self.token = None;
            self.out.push(Output::Keep(None));
        }
    }

    pub(super) fn stop(&mut self) {
        if std::mem::replace(&mut self.is_stopping, true) {
            self.release();
        }
        self.give_up_waiting("Portero stops");
    }

    /// Releases the session; it is forgotten only when there is an answer.
    pub(super) fn release(&mut self) {
        let is_asked = self.calls.values().any(|(what, _)| *what == What::Release);
        if self.token.is_some() && !is_asked {
            self.ask(What::Release, &act("tokens/releaseToken"));
        }
    }

    pub(super) fn released(&mut self, answer: Result<Answer, Fault>, now: Moment) {
        if self.is_stopping {
            self.token = None;
            // A refused token is no session either. Otherwise the next start uses it again.
            if answer.is_ok_and(|answer| answer.status < 500) {
                self.out.push(Output::Keep(None));
            }
            return;
        }
        // Otherwise the session was given back, and nothing waits for it.
        if self.phase == Phase::LoggingIn && self.token.is_some() {
            self.released_for_login(answer, now);
        }
    }

    fn released_for_login(&mut self, answer: Result<Answer, Fault>, now: Moment) {
        if let Err(fault) = answer
            && self.release_faults < RELEASE_FAULTS_MAX
        {
            // The same token is tried again after a while, so that none is forgotten.
            self.release_faults += 1;
            self.may_relogin = true;
            return self.fail(now, format!("the old session cannot be released: {fault}"));
        }
        self.release_faults = 0;
        self.token = None;
        self.out.push(Output::Keep(None));
        self.log_in(now);
    }
}

fn whose(config: &Config) -> String {
    fingerprint(&format!("{} {}", config.url, config.username))
}
