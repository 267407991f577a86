//! How a browser becomes a person's phone: a code, used once, for a session cookie.

use std::sync::{Mutex, PoisonError};

use actix_web::{HttpResponse, web};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;

use super::Face;
use super::session::{ApiError, Me, cookie, no_cookie};
use crate::action::PhoneId;
use crate::phones::Ask;
use crate::secret::{fingerprint, normal_code, random_name, random_token};

/// Wrong codes a minute, from everybody together. A code has 50 bits and lives 15 minutes, so
/// even at this rate a guess succeeds once in millions of years.
const WRONG_CODES_PER_MINUTE_MAX: u32 = 20;

/// What the page sends to pair.
#[derive(Deserialize)]
pub struct PairForm {
    code: String,
    #[serde(default)]
    name: String,
}

/// Counts wrong codes; short lock.
#[derive(Debug, Default)]
pub struct Tries(Mutex<(i64, u32)>);

impl Tries {
    fn exhausted(&self, now: Timestamp) -> bool {
        let tries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tries.0 == now.as_second() / 60 && tries.1 >= WRONG_CODES_PER_MINUTE_MAX
    }

    fn wrong(&self, now: Timestamp) {
        let mut tries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let minute = now.as_second() / 60;
        *tries = if tries.0 == minute { (minute, tries.1 + 1) } else { (minute, 1) };
    }
}

/// `POST /api/pair`.
pub async fn pair(
    form: web::Json<PairForm>,
    face: web::Data<Face>,
) -> Result<HttpResponse, ApiError> {
    let now = face.intake.clock().now();
    if face.tries.exhausted(now) {
        return Err(ApiError::TooMany);
    }
    let (id, token) = (PhoneId(random_name()), random_token());
    let ask = Ask::Pair {
        id: id.clone(),
        code: fingerprint(&normal_code(&form.code)),
        name: form.name.clone(),
        session: fingerprint(token.expose()),
    };
    if let Err(denied) = face.ask(ask).await {
        face.tries.wrong(now);
        return Err(denied.into());
    }
    let person = face.view.borrow().phone(&id).map(|phone| phone.person.clone());
    tracing::info!(person, phone = %id, "paired");
    Ok(HttpResponse::Ok()
        .cookie(cookie(&token, face.secure()))
        .json(json!({ "person": person, "phone": id })))
}

/// `POST /api/logout`: the phone is forgotten, here and in the browser.
pub async fn logout(me: Me, face: web::Data<Face>) -> Result<HttpResponse, ApiError> {
    face.ask(Ask::Remove { id: me.id }).await?;
    Ok(HttpResponse::NoContent().cookie(no_cookie()).finish())
}
