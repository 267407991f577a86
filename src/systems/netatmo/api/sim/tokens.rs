//! The simulated Netatmo's tokens: one pair at a time, and every refresh kills the pair before.
//! Pure.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::answers::Said;
use super::{CLIENT_ID, REFRESH_TOKEN};

/// As Netatmo's.
const LIFE: SignedDuration = SignedDuration::from_secs(10_800);

/// What an app of ours asks for.
const SCOPES: [&str; 9] = [
    "read_camera",
    "write_camera",
    "read_presence",
    "write_presence",
    "read_smokedetector",
    "read_carbonmonoxidedetector",
    "read_doorbell",
    "read_mx",
    "write_mx",
];

/// Which tokens are good.
#[derive(Debug)]
pub(super) struct Tokens {
    /// How long an access token lives that is given from now on.
    pub life: SignedDuration,
    /// Whether whoever is asked for consent declines.
    pub declines: bool,
    /// How many refreshes were granted.
    pub refreshes: usize,
    /// How many were not.
    pub refused: usize,
    secret: String,
    access: Option<(String, Timestamp)>,
    refresh: Option<String>,
    /// A code that nobody has used yet, and the address it was sent to.
    code: Option<(String, String)>,
    given: u64,
}

/// What is wrong with an access token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bad {
    Missing,
    Invalid,
    Expired,
}

impl Tokens {
    pub fn new(secret: &str) -> Tokens {
        Tokens {
            life: LIFE,
            declines: false,
            refreshes: 0,
            refused: 0,
            secret: secret.to_string(),
            access: None,
            refresh: Some(REFRESH_TOKEN.to_string()),
            code: None,
            given: 0,
        }
    }

    /// Whether a call with this access token may go on.
    pub fn check(&self, bearer: Option<&str>, now: Timestamp) -> Result<(), Bad> {
        match (bearer, &self.access) {
            (None, _) => Err(Bad::Missing),
            (Some(given), Some((good, until))) if given == good => {
                if now < *until {
                    Ok(())
                } else {
                    Err(Bad::Expired)
                }
            }
            (Some(_), _) => Err(Bad::Invalid),
        }
    }

    /// The access token is over; the refresh token stays good.
    pub fn expire(&mut self, now: Timestamp) {
        if let Some((_, until)) = &mut self.access {
            *until = now;
        }
    }

    /// Both are void: only a human can help.
    pub fn revoke(&mut self) {
        (self.access, self.refresh) = (None, None);
    }

    /// The refresh token that is good now.
    pub fn refresh_token(&self) -> Option<String> {
        self.refresh.clone()
    }

    /// `POST /oauth2/token`
    pub fn token(&mut self, form: &BTreeMap<String, String>, now: Timestamp) -> Said {
        let get = |name: &str| form.get(name).map_or("", String::as_str);
        if get("client_id") != CLIENT_ID || get("client_secret") != self.secret {
            return Said::json(400, &json!({ "error": "invalid_client" }));
        }
        let is_good = match get("grant_type") {
            "refresh_token" => {
                let is_good = self.refresh.as_deref() == Some(get("refresh_token"));
                *(if is_good { &mut self.refreshes } else { &mut self.refused }) += 1;
                is_good
            }
            "authorization_code" => {
                let given = (get("code").to_string(), get("redirect_uri").to_string());
                // A code is good for one try.
                self.code.take() == Some(given)
            }
            _ => return Said::json(400, &json!({ "error": "unsupported_grant_type" })),
        };
        if is_good { self.pair(now) } else { Said::json(400, &json!({ "error": "invalid_grant" })) }
    }

    fn pair(&mut self, now: Timestamp) -> Said {
        self.given += 1;
        let access = format!("sim-user|access-{}", self.given);
        let refresh = format!("sim-user|refresh-{}", self.given);
        let seconds = self.life.as_secs();
        let said = json!({ "access_token": access, "refresh_token": refresh,
            "expires_in": seconds, "expire_in": seconds, "scope": SCOPES });
        self.access = Some((access, now + self.life));
        self.refresh = Some(refresh);
        Said::json(200, &said)
    }

    /// `GET /oauth2/authorize`: the person agrees at once, or declines.
    pub fn authorize(&mut self, query: &BTreeMap<String, String>) -> Said {
        let get = |name: &str| query.get(name).map_or("", String::as_str);
        let Ok(mut back) = url::Url::parse(get("redirect_uri")) else {
            return Said::json(400, &json!({ "error": "redirect_uri_mismatch" }));
        };
        if get("client_id") != CLIENT_ID || !["", "code"].contains(&get("response_type")) {
            return Said::json(400, &json!({ "error": "invalid_client" }));
        }
        if self.declines {
            back.query_pairs_mut().append_pair("error", "access_denied");
        } else {
            self.given += 1;
            let code = format!("code-{}", self.given);
            back.query_pairs_mut().append_pair("code", &code);
            self.code = Some((code, get("redirect_uri").to_string()));
        }
        back.query_pairs_mut().append_pair("state", get("state"));
        let mut said = Said::json(302, &json!({}));
        said.headers.push(("location", back.to_string()));
        said
    }
}
