//! Who is asking: the paired phone behind a request's cookie. Without one, nobody sees anything.

use std::future::{Ready, ready};

use actix_web::cookie::{Cookie, SameSite, time};
use actix_web::http::{StatusCode, header};
use actix_web::{FromRequest, HttpRequest, HttpResponse, ResponseError, dev, web};
use serde_json::json;

use super::Face;
use crate::action::PhoneId;
use crate::ledger::Phone;
use crate::phones::Denied;
use crate::secret::{Secret, fingerprint};

/// The cookie's name.
pub const COOKIE: &str = "portero";

/// How long a browser keeps the session without a visit: the longest that browsers allow.
const COOKIE_LIVES: time::Duration = time::Duration::days(400);

/// The paired phone that asks.
pub struct Me {
    /// Its id.
    pub id: PhoneId,
    /// Its entry as it was when the request came.
    pub phone: Phone,
}

/// What goes wrong with a request, as the page is told.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// No cookie, or one that names no phone.
    #[error("this device is not paired")]
    NotPaired,
    /// A request that another site's page made.
    #[error("requests from other sites are not taken")]
    OtherSite,
    /// The request's content is wrong.
    #[error("{0}")]
    Bad(String),
    /// It is somebody else's.
    #[error("{0}")]
    Forbidden(String),
    /// No such thing.
    #[error("{0}")]
    NotFound(String),
    /// It was done before.
    #[error("{0}")]
    Conflict(String),
    /// Its time is over.
    #[error("{0}")]
    Gone(String),
    /// Too many tries.
    #[error("too many tries; wait a minute")]
    TooMany,
    /// Ours to mend.
    #[error("{0}")]
    Unavailable(String),
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        match self {
            ApiError::NotPaired => StatusCode::UNAUTHORIZED,
            ApiError::OtherSite | ApiError::Forbidden(_) => StatusCode::FORBIDDEN,
            ApiError::Bad(_) => StatusCode::BAD_REQUEST,
            ApiError::NotFound(_) => StatusCode::NOT_FOUND,
            ApiError::Conflict(_) => StatusCode::CONFLICT,
            ApiError::Gone(_) => StatusCode::GONE,
            ApiError::TooMany => StatusCode::TOO_MANY_REQUESTS,
            ApiError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn error_response(&self) -> HttpResponse {
        HttpResponse::build(self.status_code()).json(json!({ "error": self.to_string() }))
    }
}

impl From<Denied> for ApiError {
    fn from(denied: Denied) -> ApiError {
        match denied {
            Denied::Code => ApiError::Forbidden(denied.to_string()),
            Denied::NoPhone(_) => ApiError::NotFound(denied.to_string()),
            Denied::TooMany => ApiError::Bad(denied.to_string()),
            Denied::Journal(_) | Denied::Stopping => ApiError::Unavailable(denied.to_string()),
        }
    }
}

impl FromRequest for Me {
    type Error = ApiError;
    type Future = Ready<Result<Me, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut dev::Payload) -> Self::Future {
        ready(identify(request))
    }
}

/// The phone behind a request's cookie.
pub fn identify(request: &HttpRequest) -> Result<Me, ApiError> {
    // Browsers say where a request comes from (Fetch Metadata). The cookie is SameSite besides,
    // but that lets in what a neighbour under the same domain serves.
    let site = request.headers().get("sec-fetch-site").map(|value| value.as_bytes());
    if matches!(site, Some(b"cross-site" | b"same-site")) {
        return Err(ApiError::OtherSite);
    }
    let face = request.app_data::<web::Data<Face>>().ok_or(ApiError::NotPaired)?;
    if !is_from_here(request, &face.public_url) {
        return Err(ApiError::OtherSite);
    }
    let cookie = request.cookie(COOKIE).ok_or(ApiError::NotPaired)?;
    let view = face.view.borrow().clone();
    // Looked up by fingerprint: how long it takes tells nothing about the token.
    let id = view.sessions.get(&fingerprint(cookie.value())).ok_or(ApiError::NotPaired)?;
    let phone = view.phone(id).ok_or(ApiError::NotPaired)?.clone();
    // Whoever is no longer in the config sees no more, whatever their phone remembers.
    if !face.people.contains(&phone.person) {
        return Err(ApiError::NotPaired);
    }
    Ok(Me { id: id.clone(), phone })
}

/// Older browsers only say which page asks, and only if it may change something. That page is ours
/// under the public address, or under the one that the browser used.
fn is_from_here(request: &HttpRequest, public_url: &url::Url) -> bool {
    let Some(origin) = request.headers().get(header::ORIGIN) else { return true };
    let Some(origin) = origin.to_str().ok().and_then(|text| url::Url::parse(text).ok()) else {
        return false;
    };
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let asked =
        host.and_then(|host| url::Url::parse(&format!("{}://{host}", origin.scheme())).ok());
    origin.origin() == public_url.origin()
        || asked.is_some_and(|url| url.origin() == origin.origin())
}

/// The cookie that makes a browser this phone.
pub fn cookie(token: &Secret, secure: bool) -> Cookie<'static> {
    Cookie::build(COOKIE, token.expose().to_string())
        .path("/")
        .http_only(true)
        .secure(secure)
        .same_site(SameSite::Lax)
        .max_age(COOKIE_LIVES)
        .finish()
}

/// The cookie that ends the session in the browser.
pub fn no_cookie() -> Cookie<'static> {
    let mut cookie = Cookie::build(COOKIE, "").path("/").finish();
    cookie.make_removal();
    cookie
}
