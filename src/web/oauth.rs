//! Consent at Netatmo: `/oauth/netatmo/<name>` sends a person there, and takes the code that they
//! come back with to the driver. Holds the states of consents that are under way, no tokens.
//!
//! Only a paired device begins one. Coming back is another matter: it is a navigation that another
//! site began, so [`identify`] refuses it, and a browser may leave the cookie out. There the state
//! vouches alone: it is random, known to nobody but the browser that began, good once, for minutes,
//! and for one account. Whoever steals it can at most complete the consent that its owner began;
//! a code of a stranger's account cannot be slipped in without it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use super::Face;
use super::session::{ApiError, identify};
use crate::action::PhoneId;
use crate::secret::{Secret, fingerprint, random_token};
use crate::systems::netatmo::api::{Cloud, Config};

/// How long a person may take at Netatmo's page.
const STATE_LIVES: SignedDuration = SignedDuration::from_mins(10);
/// Consents under way of one account. Only paired devices begin one; the oldest gives way.
const STATES_MAX: usize = 16;
/// A code or a state is far shorter.
const QUERY_BYTES_MAX: usize = 4 * 1024;

/// The consents of one account.
#[derive(Debug)]
pub struct Consents {
    config: Config,
    cloud: Cloud,
    /// By the state's fingerprint; short lock.
    begun: Mutex<HashMap<String, Begun>>,
}

#[derive(Debug)]
struct Begun {
    at: Timestamp,
    /// The device that began it.
    by: PhoneId,
}

/// What Netatmo sends a person back with.
#[derive(Debug, Default, Deserialize)]
struct Back {
    code: Option<String>,
    state: Option<String>,
    error: Option<String>,
}

/// Adds the way to consent.
pub fn routes(app: &mut web::ServiceConfig) {
    app.route("/oauth/netatmo/{name}", web::get().to(netatmo));
}

/// `GET /oauth/netatmo/<name>`: there, and back with `code` and `state`.
async fn netatmo(request: HttpRequest, name: web::Path<String>) -> HttpResponse {
    let Some(face) = request.app_data::<web::Data<Face>>() else {
        return page(StatusCode::SERVICE_UNAVAILABLE, "Portero is stopping.");
    };
    let Some(consents) = face.oauth.get(name.as_str()) else {
        return page(StatusCode::NOT_FOUND, "No Netatmo account of this name has a client_id.");
    };
    let query = request.query_string();
    if query.len() > QUERY_BYTES_MAX {
        return page(StatusCode::BAD_REQUEST, "This address is too long.");
    }
    let Ok(web::Query(back)) = web::Query::<Back>::from_query(query) else {
        return page(StatusCode::BAD_REQUEST, "This address is not understood.");
    };
    let now = face.intake.clock().now();
    if back.code.is_none() && back.error.is_none() && back.state.is_none() {
        return begin(&request, consents, now);
    }
    finish(face, consents, back, now).await
}

fn begin(request: &HttpRequest, consents: &Consents, now: Timestamp) -> HttpResponse {
    let me = match identify(request) {
        Ok(me) => me,
        // A link on another site's page must not begin anything.
        Err(ApiError::OtherSite) => {
            return page(
                StatusCode::FORBIDDEN,
                "Open this address from Portero's own page, or type it in.",
            );
        }
        Err(_) => {
            return page(
                StatusCode::UNAUTHORIZED,
                "This device is not paired with Portero. Pair it first, then open this address \
                 again.",
            );
        }
    };
    let state = consents.begin(me.id, now);
    let to = consents.config.authorize_url(state.expose());
    let mut response = headers(StatusCode::FOUND);
    response.insert_header(("location", to.as_str()));
    response.content_type("text/plain; charset=utf-8").body("To Netatmo.\n")
}

async fn finish(face: &Face, consents: &Consents, back: Back, now: Timestamp) -> HttpResponse {
    let Some(by) = back.state.and_then(|state| consents.take(&state, now)) else {
        return page(
            StatusCode::BAD_REQUEST,
            "This consent was not begun here, is too old, or was used already. Begin again.",
        );
    };
    // The device that began may have been removed meanwhile.
    let view = face.view.borrow().clone();
    if !view.phone(&by).is_some_and(|phone| face.people.contains(&phone.person)) {
        return page(StatusCode::FORBIDDEN, "The device that began this is no longer paired.");
    }
    if let Some(error) = back.error {
        let denied = error == "access_denied";
        let text = if denied {
            "You did not let Portero in. Nothing has changed."
        } else {
            "Netatmo could not ask for your consent. Look at client_id and the redirect address of \
             the app at dev.netatmo.com."
        };
        tracing::warn!(account = consents.config.name, denied, "no consent at Netatmo");
        return page(StatusCode::OK, text);
    }
    let Some(code) = back.code.filter(|code| !code.is_empty()) else {
        return page(StatusCode::BAD_REQUEST, "Netatmo sent no code. Begin again.");
    };
    match consents.cloud.consent(Secret::new(code)).await {
        Ok(()) => {
            tracing::info!(account = consents.config.name, "a person let Portero in at Netatmo");
            page(StatusCode::OK, "Done: Portero may speak with Netatmo again.")
        }
        Err(why) => {
            let why = format!("That did not work: {why}. Begin again.");
            page(StatusCode::BAD_GATEWAY, &why)
        }
    }
}

/// A short text. No secret gets into caches or further addresses: this page's address holds one.
fn page(status: StatusCode, text: &str) -> HttpResponse {
    headers(status).content_type("text/plain; charset=utf-8").body(format!("{text}\n"))
}

fn headers(status: StatusCode) -> actix_web::HttpResponseBuilder {
    let mut response = HttpResponse::build(status);
    response
        .insert_header(("cache-control", "no-store"))
        .insert_header(("referrer-policy", "no-referrer"))
        .insert_header(("x-content-type-options", "nosniff"))
        .insert_header(("content-security-policy", "default-src 'none'; frame-ancestors 'none'"));
    response
}

// === impl Consents ===

impl Consents {
    /// No consent is under way yet.
    pub fn new(config: Config, cloud: Cloud) -> Consents {
        Consents { config, cloud, begun: Mutex::default() }
    }

    fn begin(&self, by: PhoneId, now: Timestamp) -> Secret {
        let state = random_token();
        let mut begun = self.lock(now);
        if begun.len() >= STATES_MAX {
            let oldest = begun.iter().min_by_key(|(_, begun)| begun.at).map(|(s, _)| s.clone());
            oldest.and_then(|oldest| begun.remove(&oldest));
        }
        begun.insert(fingerprint(state.expose()), Begun { at: now, by });
        state
    }

    /// Who began it, if somebody did; only once.
    fn take(&self, state: &str, now: Timestamp) -> Option<PhoneId> {
        self.lock(now).remove(&fingerprint(state)).map(|begun| begun.by)
    }

    fn lock(&self, now: Timestamp) -> MutexGuard<'_, HashMap<String, Begun>> {
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        begun.retain(|_, begun| now.duration_since(begun.at).abs() <= STATE_LIVES);
        begun
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::constant(1_795_000_000, 0);

    fn consents() -> Consents {
        let config = Config {
            name: "home".into(),
            client_id: "id".into(),
            client_secret: None,
            refresh_token: None,
            api: "https://api.netatmo.com".parse().unwrap(),
            public_url: "https://door.example.org/".parse().unwrap(),
        };
        Consents::new(config, Cloud::new().0)
    }

    #[test]
    fn a_state_is_good_once_and_for_ten_minutes() {
        let all = consents();
        let by = PhoneId("p1".into());
        let state = all.begin(by.clone(), START);
        assert_eq!(all.take("guessed", START), None);
        assert_eq!(all.take(state.expose(), START + STATE_LIVES), Some(by.clone()));
        assert_eq!(all.take(state.expose(), START), None);
        let state = all.begin(by, START);
        let late = START + STATE_LIVES + SignedDuration::from_secs(1);
        assert_eq!(all.take(state.expose(), late), None);
    }

    #[test]
    fn only_so_many_are_under_way() {
        let all = consents();
        let first = all.begin(PhoneId("p".into()), START);
        for s in 1..=STATES_MAX {
            let at = START + SignedDuration::from_secs(i64::try_from(s).unwrap());
            all.begin(PhoneId("p".into()), at);
        }
        assert_eq!(all.take(first.expose(), START), None);
        assert_eq!(all.begun.lock().unwrap().len(), STATES_MAX);
    }

    #[test]
    fn netatmos_page_is_told_where_to_come_back_to() {
        let url = consents().config.authorize_url("s1");
        let query: HashMap<_, _> = url.query_pairs().into_owned().collect();
        assert_eq!(url.path(), "/oauth2/authorize");
        assert_eq!(query["redirect_uri"], "https://door.example.org/oauth/netatmo/home");
        assert_eq!((query["client_id"].as_str(), query["state"].as_str()), ("id", "s1"));
        assert!(query["scope"].starts_with("read_camera write_camera "));
    }
}
