//! Alerts and their acknowledgement: on the page, from a notification, at the terminal. All end in
//! the same event; before it is taken nothing of the alert leaves any more.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::Face;
use super::admin::allow;
use super::session::{ApiError, Me};
use crate::action::{ActionId, PhoneId};
use crate::alert::{AlertId, ack_event};
use crate::delivery::push::payload::verify_receipt;
use crate::intake::Taken;
use crate::router::{Ack, Message, View};
use crate::rules::{Alert, Told};

/// Routes under `/api`.
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/alerts", web::get().to(list))
        .route("/alerts/{id}/ack", web::post().to(ack))
        .route("/acknowledge", web::post().to(from_notification));
}

async fn list(_: Me, face: web::Data<Face>) -> HttpResponse {
    HttpResponse::Ok().json(json!({ "alerts": all(&face) }))
}

async fn ack(
    me: Me,
    id: web::Path<String>,
    face: web::Data<Face>,
) -> Result<HttpResponse, ApiError> {
    let id = id.parse().map_err(|_| ApiError::NotFound("no such alert".into()))?;
    let (by, phone) = (me.phone.person.as_str(), Some(me.id.0.as_str()));
    acknowledge(&face, Ack::Alert(id), by, "page", phone).await.map(answer)
}

/// What a service worker sends when "I have it" is pressed on a notification.
#[derive(Deserialize)]
struct FromNotification {
    action: ActionId,
    token: String,
}

async fn from_notification(
    form: web::Json<FromNotification>,
    face: web::Data<Face>,
) -> Result<HttpResponse, ApiError> {
    let phone = verify_receipt(&face.receipt_key, &form.action, &form.token)
        .ok_or_else(|| ApiError::Forbidden("this token is not for this notification".into()))?;
    let view = face.view.borrow().clone();
    let owner = view.phone(&phone).map(|phone| phone.person.clone());
    let by = owner.ok_or_else(|| ApiError::Forbidden("this phone was removed".into()))?;
    acknowledge(&face, Ack::Told(form.action), &by, "phone", Some(&phone.0)).await.map(answer)
}

/// `POST /control/ack`: an alert, or everything that is open.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct AckAsk {
    /// Which alert; all if none.
    pub alert: Option<AlertId>,
    /// Who; whoever is at the terminal if nobody is named.
    pub by: Option<String>,
}

/// How many alerts somebody has in hand now.
#[derive(Debug, Serialize, Deserialize)]
pub struct AckAnswer {
    /// Those that were open before.
    pub acknowledged: Vec<AlertId>,
}

/// `POST /control/ack`.
pub async fn control_ack(
    request: HttpRequest,
    ask: web::Json<AckAsk>,
    face: web::Data<Face>,
) -> Result<HttpResponse, ApiError> {
    allow(&request, &face)?;
    let by = ask.by.as_deref().unwrap_or("somebody at the terminal");
    let what = ask.alert.map_or(Ack::All, Ack::Alert);
    let acknowledged = acknowledge(&face, what, by, "terminal", None).await?;
    Ok(HttpResponse::Ok().json(AckAnswer { acknowledged }))
}

/// `GET /control/alerts`.
pub async fn control_list(
    request: HttpRequest,
    face: web::Data<Face>,
) -> Result<HttpResponse, ApiError> {
    allow(&request, &face)?;
    Ok(HttpResponse::Ok().json(all(&face)))
}

/// Ends what is open of this. When it returns, that is durable. Spawned, because whoever hangs up
/// half way must not leave an alert behind that is held back and that nobody has in hand.
async fn acknowledge(
    face: &web::Data<Face>,
    what: Ack,
    by: &str,
    via: &'static str,
    phone: Option<&str>,
) -> Result<Vec<AlertId>, ApiError> {
    let (face, by, phone) = (face.clone(), by.to_string(), phone.map(String::from));
    let whole = actix_web::rt::spawn(async move {
        let (reply, meant) = oneshot::channel();
        face.send(Message::Ack(what, reply)).await?;
        let meant = meant.await.map_err(|_| stopping())?;
        if !meant.is_empty() {
            let now = face.intake.clock().now();
            let event = ack_event(&meant, &by, via, phone.as_deref(), now);
            let taken = face.intake.take(vec![event.into()]).await;
            if taken == Taken::default() {
                face.send(Message::Unack(meant)).await?;
                return Err(ApiError::Unavailable("Portero cannot take it in now".into()));
            }
        }
        Ok(meant)
    });
    whole.await.map_err(|_| stopping())?
}

fn stopping() -> ApiError {
    ApiError::Unavailable("Portero is stopping".into())
}

/// Acknowledging twice is no mistake: somebody else was faster.
fn answer(acknowledged: Vec<AlertId>) -> HttpResponse {
    HttpResponse::Ok().json(AckAnswer { acknowledged })
}

fn all(face: &Face) -> Vec<Value> {
    let view = face.view.borrow().clone();
    view.alerts.iter().map(|(id, alert)| to_json(*id, alert, &view)).collect()
}

fn to_json(id: AlertId, alert: &Alert, view: &View) -> Value {
    let told = |told: &Told| {
        let phone = view.phone(&PhoneId(told.to.clone()));
        json!({
            "to": told.to,
            "person": phone.map(|phone| &phone.person),
            "name": phone.map(|phone| &phone.name),
            "step": told.step,
            "state": told.state.word(),
            "why": told.state.why(),
            "at": told.at,
        })
    };
    json!({
        "id": id,
        "rule": alert.rule,
        "event": alert.event,
        "title": alert.title,
        "begun": alert.begun,
        "acked": alert.acked,
        "told": alert.told.values().map(told).collect::<Vec<_>>(),
    })
}
