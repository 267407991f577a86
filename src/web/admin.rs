//! The admin address, for the machine itself and never for the public: health, metrics, and the
//! control calls by which the command line reaches the running server. Control calls need the
//! token that lies, readable by the owner only, beside the journal.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Face;
use super::session::ApiError;
use crate::action::PhoneId;
use crate::delivery;
use crate::phones::Ask;
use crate::record::Subscription;
use crate::secret::{fingerprint, random_code, random_name};

/// Routes of the admin address.
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/healthz", web::get().to(healthz))
        .route("/readyz", web::get().to(readyz))
        .route("/metrics", web::get().to(metrics))
        .route("/control/commands", web::post().to(super::commands::command))
        .route("/control/alerts", web::get().to(super::alerts::control_list))
        .route("/control/ack", web::post().to(super::alerts::control_ack))
        .route("/control/dead", web::get().to(super::dead::control_list))
        .route("/control/dead/resend", web::post().to(super::dead::control_resend))
        .route("/control/drill", web::post().to(super::drill::control_drill))
        .route("/control/doors/{door}/open", web::post().to(super::doors::by_terminal))
        .route("/control/pair", web::post().to(pair))
        .route("/control/phones", web::get().to(list))
        .route("/control/phones", web::post().to(add))
        .route("/control/phones/{id}", web::delete().to(remove));
}

/// The process runs and answers.
async fn healthz() -> HttpResponse {
    HttpResponse::Ok().body("ok\n")
}

/// Events can be taken and made durable.
async fn readyz(face: web::Data<Face>) -> HttpResponse {
    match (*face.ready.borrow(), face.journal.is_writable()) {
        (true, true) => HttpResponse::Ok().body("ready\n"),
        (false, _) => HttpResponse::ServiceUnavailable().body("starting or stopping\n"),
        (_, false) => HttpResponse::ServiceUnavailable().body("the journal cannot be written\n"),
    }
}

async fn metrics(face: web::Data<Face>) -> HttpResponse {
    let view = face.view.borrow().clone();
    metrics::gauge!("portero_phones").set(view.phones.len() as f64);
    metrics::gauge!("portero_dead_letters").set(view.dead.len() as f64);
    let one_if = |flag: bool| if flag { 1.0 } else { 0.0 };
    metrics::gauge!("portero_journal_writable").set(one_if(face.journal.is_writable()));
    metrics::gauge!("portero_journal_full").set(one_if(face.journal.is_full()));
    metrics::gauge!("portero_journal_reserve_bytes").set(face.journal.reserve() as f64);
    HttpResponse::Ok().content_type("text/plain; version=0.0.4").body(face.metrics.render())
}

/// Asks for a pairing code.
#[derive(Debug, Serialize, Deserialize)]
pub struct PairAsk {
    /// Whose phone it will be.
    pub person: String,
}

/// A fresh pairing code.
#[derive(Debug, Serialize, Deserialize)]
pub struct PairAnswer {
    /// The code, to be typed.
    pub code: String,
    /// The link, to be opened on the phone.
    pub link: String,
}

/// Asks for a phone by its subscription.
#[derive(Debug, Serialize, Deserialize)]
pub struct AddAsk {
    /// Whose phone it is.
    pub person: String,
    /// What to call it.
    pub name: String,
    /// What its browser gave.
    pub subscription: Subscription,
}

async fn pair(
    request: HttpRequest,
    ask: web::Json<PairAsk>,
    face: web::Data<Face>,
) -> Result<HttpResponse, ApiError> {
    allow(&request, &face)?;
    let person = known(&face, ask.into_inner().person)?;
    let code = random_code();
    face.ask(Ask::Invite { person, code: fingerprint(code.expose()) }).await?;
    let link = face.pair_link(&code);
    Ok(HttpResponse::Ok().json(PairAnswer { code: code.expose().into(), link }))
}

async fn list(request: HttpRequest, face: web::Data<Face>) -> Result<HttpResponse, ApiError> {
    allow(&request, &face)?;
    let (view, now) = (face.view.borrow().clone(), face.intake.clock().now());
    let phones: Vec<_> =
        view.phones.iter().map(|(id, phone)| phone.to_json(id, &face.vapid, now)).collect();
    Ok(HttpResponse::Ok().json(phones))
}

async fn add(
    request: HttpRequest,
    ask: web::Json<AddAsk>,
    face: web::Data<Face>,
) -> Result<HttpResponse, ApiError> {
    allow(&request, &face)?;
    let AddAsk { person, name, subscription } = ask.into_inner();
    let person = known(&face, person)?;
    delivery::push::check_subscription(&subscription, face.endpoints)
        .map_err(|error| ApiError::Bad(error.to_string()))?;
    let id = PhoneId(random_name());
    face.ask(Ask::Add { id: id.clone(), person, name, subscription }).await?;
    Ok(HttpResponse::Ok().json(json!({ "id": id })))
}

async fn remove(
    request: HttpRequest,
    id: web::Path<String>,
    face: web::Data<Face>,
) -> Result<HttpResponse, ApiError> {
    allow(&request, &face)?;
    face.ask(Ask::Remove { id: PhoneId(id.into_inner()) }).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Whether the request shows the control token.
pub(super) fn allow(request: &HttpRequest, face: &Face) -> Result<(), ApiError> {
    let header = request.headers().get("authorization").and_then(|value| value.to_str().ok());
    let token = header.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or("");
    match face.control_token.matches(token) {
        true => Ok(()),
        false => Err(ApiError::Forbidden("this call needs the control token".into())),
    }
}

fn known(face: &Face, person: String) -> Result<String, ApiError> {
    match face.people.contains(&person) {
        true => Ok(person),
        false => Err(ApiError::Bad(unknown_person(&person, &face.people))),
    }
}

/// The text for a person whom the config does not name.
pub fn unknown_person(person: &str, people: &[String]) -> String {
    let known = if people.is_empty() { "nobody yet".into() } else { people.join(", ") };
    format!("nobody is called `{person}`; [people.*] in the config names {known}")
}
