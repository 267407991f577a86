//! Dead letters on the page and at the terminal: what they are, and sending them again by hand.

use std::sync::Arc;
use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Face;
use super::admin::allow;
use super::session::{ApiError, Me};
use crate::action::{ActionId, PhoneId, Task};
use crate::builtin::resend;
use crate::ledger::DeadLetter;
use crate::router::View;

/// The decision is a matter of milliseconds; a disk that stands still is told in the answer.
const DECIDED_WITHIN: Duration = Duration::from_secs(5);

/// Routes under `/api`.
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/dead", web::get().to(list))
        .route("/dead/{id}/resend", web::post().to(resend_one));
}

async fn list(_: Me, face: web::Data<Face>) -> HttpResponse {
    HttpResponse::Ok().json(json!({ "dead": all(&face) }))
}

async fn resend_one(
    me: Me,
    id: web::Path<String>,
    face: web::Data<Face>,
) -> Result<HttpResponse, ApiError> {
    let id = id.parse().map_err(|_| not_there())?;
    let answer = resend(&face, Some(id), &me.phone.person).await?;
    match answer.refused.into_iter().next() {
        Some(refused) => Err(ApiError::Conflict(refused.why)),
        None => Ok(HttpResponse::Ok().json(json!({ "resent": answer.resent }))),
    }
}

/// `POST /control/dead/resend`: a letter, or all.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct ResendAsk {
    /// Which; all if none.
    pub action: Option<ActionId>,
    /// Who; whoever is at the terminal if nobody is named.
    pub by: Option<String>,
}

/// What became of it.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct ResendAnswer {
    /// Letters that are none any more: decided anew.
    pub resent: Vec<ActionId>,
    /// Letters that stay.
    pub refused: Vec<NotResent>,
}

/// A letter that cannot be sent again.
#[derive(Debug, Serialize, Deserialize)]
pub struct NotResent {
    /// Which.
    pub id: ActionId,
    /// Why.
    pub why: String,
}

/// `POST /control/dead/resend`.
pub async fn control_resend(
    request: HttpRequest,
    ask: web::Json<ResendAsk>,
    face: web::Data<Face>,
) -> Result<HttpResponse, ApiError> {
    allow(&request, &face)?;
    let by = ask.by.as_deref().unwrap_or("somebody at the terminal");
    Ok(HttpResponse::Ok().json(resend(&face, ask.action, by).await?))
}

/// `GET /control/dead`.
pub async fn control_list(
    request: HttpRequest,
    face: web::Data<Face>,
) -> Result<HttpResponse, ApiError> {
    allow(&request, &face)?;
    Ok(HttpResponse::Ok().json(all(&face)))
}

fn all(face: &Face) -> Vec<Value> {
    let view = face.view.borrow().clone();
    view.dead.iter().map(|letter| letter.to_json()).collect()
}

fn not_there() -> ApiError {
    ApiError::NotFound("no such dead letter: it was sent again already, or forgotten".into())
}

async fn resend(face: &Face, which: Option<ActionId>, by: &str) -> Result<ResendAnswer, ApiError> {
    if !face.journal.is_writable() {
        return Err(ApiError::Unavailable("the journal cannot be written".into()));
    }
    let view = face.view.borrow().clone();
    let meant = |letter: &&Arc<DeadLetter>| which.is_none_or(|id| letter.action.id == id);
    let letters: Vec<&Arc<DeadLetter>> = view.dead.iter().filter(meant).collect();
    if which.is_some() && letters.is_empty() {
        return Err(not_there());
    }
    let (mut answer, mut events) = (ResendAnswer::default(), Vec::new());
    for letter in letters {
        let id = letter.action.id;
        match targets(letter, &view) {
            Ok(phones) => {
                let now = face.intake.clock().now();
                events.push(resend::event(letter, &phones, by, now).into());
                answer.resent.push(id);
            }
            Err(why) => answer.refused.push(NotResent { id, why }),
        }
    }
    if !events.is_empty() {
        face.intake.take(events).await;
        let is_left = |view: &View| view.dead.iter().any(|l| answer.resent.contains(&l.action.id));
        let mut views = face.view.clone();
        let decided = views.wait_for(|view| !is_left(view));
        if tokio::time::timeout(DECIDED_WITHIN, decided).await.is_err() {
            return Err(ApiError::Unavailable("it is taken, but not decided yet".into()));
        }
    }
    Ok(answer)
}

/// The phones that a push goes to now: its own, or its owner's others if that is gone. None for
/// what a system carries. Else why nobody can be told.
fn targets(letter: &DeadLetter, view: &View) -> Result<Vec<PhoneId>, String> {
    let alert = letter.action.alert;
    let alert = view.alerts.iter().find(|(id, _)| Some(*id) == alert);
    if let Some(acked) = alert.and_then(|(_, alert)| alert.acked.as_ref()) {
        return Err(format!("{} has it in hand", acked.by));
    }
    let Task::Push { phone: own, .. } = &letter.action.task else { return Ok(Vec::new()) };
    let reached = view.phones.iter().filter(|(_, phone)| phone.subscription.is_some());
    let reached: Vec<_> = reached.collect();
    if reached.iter().any(|(id, _)| id == own) {
        return Ok(vec![own.clone()]);
    }
    let person = letter.sent.person.as_deref();
    let others = reached.iter().filter(|(_, phone)| Some(phone.person.as_str()) == person);
    let others: Vec<PhoneId> = others.map(|(id, _)| id.clone()).collect();
    match (others.is_empty(), person) {
        (false, _) => Ok(others),
        (true, Some(person)) if own.0.is_empty() => Err(format!("{person} has no phone yet")),
        (true, Some(person)) => {
            let name = letter.sent.name.as_deref().unwrap_or(&own.0);
            Err(format!("{name} is gone, and {person} has no other phone"))
        }
        (true, None) => Err(format!("the phone {own} is gone")),
    }
}
