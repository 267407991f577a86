//! The part of the session that gets a token and keeps it. Sessions are few and logins are
//! counted, so a token lives as long as the VMS takes it, over restarts too.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Now, Output, Pending, Purpose, Session, asked_wait, refused};
use crate::secret::{Secret, fingerprint};
use crate::systems::http::{self, Answer, Fault};
use crate::systems::link::mended;
use crate::systems::vms::Config;
use crate::systems::vms::wire::token::{Full, full, opened, token};
use crate::systems::vms::wire::{self, refusal::Refusal};

/// A login that was refused is tried again seldom: every try brings the captcha nearer.
const REFUSED_WAIT: Duration = Duration::from_secs(5 * 60);
/// A captcha is asked of everybody who logs in too often; after a while it is not.
const CAPTCHA_WAIT: Duration = Duration::from_secs(15 * 60);
/// How soon an account without room for a session is tried again.
const FULL_WAIT: Duration = Duration::from_secs(5 * 60);
/// Sessions of our own that are remembered; an account has room for fewer.
const OWN_SESSIONS_MAX: usize = 16;

/// What must survive a restart.
#[derive(Clone)]
pub struct Kept {
    /// This installation's name, the same for ever.
    pub uuid: String,
    /// Whose token it is: another login or another address makes it useless.
    pub account: String,
    /// The token, if there is one.
    pub token: Option<Secret>,
    /// Ids of sessions that were opened for us, oldest first; the last is the token's.
    pub sessions: Vec<String>,
}

/// [`Kept`] as it lies in its file.
#[derive(Serialize, Deserialize)]
struct Written {
    uuid: String,
    #[serde(default)]
    account: String,
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    sessions: Vec<String>,
}

impl Session {
    /// Logs in.
    pub(super) fn login(&mut self, now: Now, out: &mut Vec<Output>) {
        self.login_instead_of(None, now, out);
    }

    fn login_instead_of(
        &mut self,
        session: Option<&serde_json::Value>,
        now: Now,
        out: &mut Vec<Output>,
    ) {
        let Some(password) = self.config.password.clone() else {
            return self.login_failed(
                "no password is configured".into(),
                Some(REFUSED_WAIT),
                now,
                out,
            );
        };
        let ask = self.asker.login(&self.config.login, &password, session);
        self.ask(Pending { purpose: Purpose::Login, ask, redirects: 0, began: None }, out);
    }

    /// The token is no good any more.
    pub(super) fn drop_token(&mut self, out: &mut Vec<Output>) {
        if self.kept.token.take().is_some() {
            out.push(Output::Keep(self.kept.clone()));
        }
    }

    pub(super) fn login_answered(
        &mut self,
        got: Result<Answer, Fault>,
        now: Now,
        out: &mut Vec<Output>,
    ) {
        let answer = match got {
            Ok(answer) => answer,
            Err(fault) => return self.login_failed(fault.to_string(), None, now, out),
        };
        match answer.status {
            200..=299 => self.logged_in(&answer, now, out),
            419 => self.no_room(&full(&answer.body), now, out),
            _ => {
                let refusal = refused(&answer);
                let (why, wait) = login_refusal(&refusal, &answer);
                self.login_failed(why, wait, now, out);
            }
        }
    }

    fn logged_in(&mut self, answer: &Answer, now: Now, out: &mut Vec<Output>) {
        let Some(got) = token(&answer.body) else {
            // Its body is not kept: it may hold the token in a form that was not expected. The
            // session is open all the same, and takes up room until a later login ends it.
            let reason = "the login brought no token that can be sent".to_string();
            out.push(Output::Bad { reason: reason.clone(), raw: Vec::new() });
            self.kept.own(opened(&answer.body));
            out.push(Output::Keep(self.kept.clone()));
            return self.login_failed(reason, None, now, out);
        };
        mended(&self.source, got.mends);
        self.kept.token = Some(got.token);
        self.kept.own(got.session);
        self.token_is_new = true;
        self.login_lane.worked();
        out.push(Output::Keep(self.kept.clone()));
        self.send_parked(now, out);
    }

    /// There is no room for another session. One of our own from before makes room, the oldest
    /// first; nobody else is thrown out.
    fn no_room(&mut self, full: &Full, now: Now, out: &mut Vec<Output>) {
        let open = &full.sessions;
        let listed = |own| open.iter().find(|session| wire::text(session).as_ref() == Some(own));
        let ours = self.kept.sessions.iter().find_map(listed);
        if let Some(ours) = ours.cloned() {
            // Whatever comes of it, it is not tried twice.
            let text = wire::text(&ours);
            self.kept.sessions.retain(|own| Some(own) != text.as_ref());
            return self.login_instead_of(Some(&ours), now, out);
        }
        let count = full.sessions.len();
        let limit = full.limit.map_or_else(String::new, |limit| format!(" of {limit}"));
        let why = format!(
            "the account has no room for another session: {count}{limit} are open and none is \
             ours; end one at the VMS"
        );
        self.login_failed(why, Some(FULL_WAIT), now, out);
    }
}

/// Why a login was refused, and how long to wait.
fn login_refusal(refusal: &Refusal, answer: &Answer) -> (String, Option<Duration>) {
    if refusal.is_about("captcha") {
        let why = "the VMS wants a captcha, after too many logins; log in once by hand or wait";
        return (why.into(), Some(CAPTCHA_WAIT));
    }
    let why = format!("the login was refused, {refusal}");
    match answer.status {
        429 | 500.. => (why, asked_wait(answer)),
        409 => (
            format!("{why}; the VMS wants a newer client: see `client` in the config"),
            Some(REFUSED_WAIT),
        ),
        _ => (why, Some(REFUSED_WAIT)),
    }
}

// === impl Kept ===

impl Kept {
    /// Nothing but a name.
    pub fn new(uuid: String) -> Kept {
        Kept { uuid, account: String::new(), token: None, sessions: Vec::new() }
    }

    /// Forgets what belongs to another account, and a token that could never be sent.
    pub(super) fn of(mut self, config: &Config) -> Kept {
        let account = fingerprint(&format!("{} {}", config.url, config.login));
        if self.account != account {
            self = Kept { account, ..Kept::new(self.uuid) };
        }
        self.token = self.token.and_then(|token| http::token(token.expose()));
        self
    }

    fn own(&mut self, session: Option<String>) {
        let Some(session) = session else { return };
        self.sessions.retain(|own| *own != session);
        self.sessions.push(session);
        let surplus = self.sessions.len().saturating_sub(OWN_SESSIONS_MAX);
        self.sessions.drain(..surplus);
    }
}

/// The token stays unseen.
impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kept(token: {}, sessions: {:?})", self.token.is_some(), self.sessions)
    }
}

impl Serialize for Kept {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let Kept { uuid, account, token, sessions } = self.clone();
        let token = token.map(|token| token.expose().to_string());
        Written { uuid, account, token, sessions }.serialize(to)
    }
}

impl<'de> Deserialize<'de> for Kept {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Kept, D::Error> {
        let Written { uuid, account, token, sessions } = Written::deserialize(from)?;
        Ok(Kept { uuid, account, token: token.map(Secret::new), sessions })
    }
}
