//! Doors by hand: a page that asks before it opens, and the terminal. A press is an event of its
//! own and takes the same way as everything else; here it is only checked who presses and what for,
//! and the answer waits for the end. A press in vain is an event, too.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Face;
use super::admin::allow;
use super::session::{ApiError, Me};
use super::tickets::{self, Denial, Ticket};
use crate::door::{By, Door};
use crate::doors::tell;
use crate::event::{Event, EventId, Heard};
use crate::node::nearest;
use crate::secret::random_name;

/// Longer than a driver may take to answer, and a door to confirm.
const END_WITHIN: Duration = Duration::from_secs(40);
/// Lines of the audit list.
const AUDIT_MAX: usize = 50;

/// How an opening went.
#[derive(Debug, Serialize, Deserialize)]
pub struct OpenAnswer {
    /// `commanded`, `confirmed`, `unconfirmed`, `refused`, `unknown`.
    pub outcome: String,
    /// Why, if it did not simply open.
    #[serde(default)]
    pub why: String,
}

/// What a page asks with.
#[derive(Debug, Deserialize)]
pub struct AskForm {
    #[serde(default)]
    event: Option<EventId>,
}

/// What a press carries.
#[derive(Debug, Deserialize)]
pub struct PressForm {
    token: String,
    #[serde(default)]
    event: Option<EventId>,
}

/// Routes under `/api`.
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/doors", web::get().to(list))
        .route("/doors/{door}/ask", web::post().to(ask))
        .route("/doors/{door}/open", web::post().to(press));
}

/// `GET /api/doors`: the doors that this phone's person may open, and what happened at them.
async fn list(me: Me, face: web::Data<Face>) -> HttpResponse {
    let house = face.doors.house();
    let mine = |door: &&Door| house.may(&me.phone.person, &door.name);
    let doors: Vec<Value> = house.all.values().filter(mine).map(shown).collect();
    let may = |event: &Event| {
        event.subject.as_deref().is_some_and(|door| house.may(&me.phone.person, door))
    };
    let audit: Vec<Value> = told(&face, may).iter().map(|event| line(event)).collect();
    HttpResponse::Ok().json(json!({ "doors": doors, "audit": audit }))
}

/// What happened at doors, the newest first: what is remembered, and what could not be written.
fn told(face: &Face, may: impl Fn(&Event) -> bool) -> Vec<Arc<Event>> {
    let mut all = face.view.borrow().audit.clone();
    let kept: HashSet<EventId> = all.iter().map(|event| event.id).collect();
    all.extend(face.timeline.told(tell::PREFIX, AUDIT_MAX, |event| !kept.contains(&event.id)));
    all.sort_by_key(|event| std::cmp::Reverse(event.received));
    all.retain(|event| may(event));
    all.truncate(AUDIT_MAX);
    all
}

fn shown(door: &Door) -> Value {
    json!({
        "door": door.name,
        "title": door.shown(),
        "system": door.system(),
        "requires": door.requires,
        "reads_back": door.state_path().is_some(),
    })
}

/// One line of the audit list.
fn line(event: &Event) -> Value {
    let mut line = Value::Object(event.data.clone());
    line["id"] = json!(event.id);
    line["at"] = json!(event.received);
    line["what"] = event.kind.strip_prefix(tell::PREFIX).into();
    line
}

/// `POST /api/doors/<door>/ask`: shows a door and an event, and gives the token for one press.
async fn ask(
    me: Me,
    door: web::Path<String>,
    form: web::Json<AskForm>,
    face: web::Data<Face>,
) -> Result<HttpResponse, ApiError> {
    let event = form.event;
    let door = permitted(&face, &me, &door, event).await?;
    if event.is_some_and(|id| !face.intake.knows(id)) {
        return Err(ApiError::NotFound("there is no such event".into()));
    }
    let view = face.view.borrow().clone();
    let shown_event = event.and_then(|id| face.timeline.item(&id, &view));
    let about = shown_event.as_ref().map(|item| &item["event"]);
    let clock = face.intake.clock();
    let received = about.and_then(|event| event["received"].as_str()?.parse().ok());
    let age = received.map(|at| clock.now().duration_since(at).as_secs().max(0));
    let token = face.tickets.issue(ticket(&me, &door.name, event), clock.steady());
    Ok(HttpResponse::Ok().json(json!({
        "door": door.name,
        "title": door.shown(),
        "reads_back": door.state_path().is_some(),
        "event": about,
        "age_s": age,
        "token": token.expose(),
        "expires_in": tickets::LIVES.as_secs(),
    })))
}

/// `POST /api/doors/<door>/open`: the press.
async fn press(
    me: Me,
    door: web::Path<String>,
    form: web::Json<PressForm>,
    face: web::Data<Face>,
) -> Result<HttpResponse, ApiError> {
    let PressForm { token, event } = form.into_inner();
    let door = permitted(&face, &me, &door, event).await?;
    let now = face.intake.clock().steady();
    if let Err(denial) = face.tickets.redeem(&token, &ticket(&me, &door.name, event), now) {
        denied(&face, &me, &door.name, event, &denial.to_string()).await;
        return Err(match denial {
            Denial::Used => ApiError::Conflict(denial.to_string()),
            Denial::Late | Denial::Unknown => ApiError::Gone(denial.to_string()),
            _ => ApiError::Forbidden(denial.to_string()),
        });
    }
    let answer = open(&face, &door.name, &by(&me), event).await;
    Ok(HttpResponse::Ok().json(answer))
}

/// `POST /control/doors/<door>/open`: by whoever stands at the terminal.
pub async fn by_terminal(
    request: HttpRequest,
    door: web::Path<String>,
    face: web::Data<Face>,
) -> Result<HttpResponse, ApiError> {
    allow(&request, &face)?;
    let door = found(&face, &door)?;
    let answer = open(&face, &door.name, &By::Terminal, None).await;
    Ok(HttpResponse::Ok().json(answer))
}

async fn open(face: &Face, door: &str, by: &By, about: Option<EventId>) -> OpenAnswer {
    let now = face.intake.clock().now();
    let event = tell::pressed(door, by, about, &random_name(), now);
    let action = tell::press_action(event.id, door);
    // Before the event, or the answer may be there before anybody waits for it.
    let answer = face.doors.expect(action);
    face.intake.take(vec![Heard::from(event)]).await;
    let ended = tokio::time::timeout(END_WITHIN, answer).await;
    face.doors.forget(action);
    match ended {
        Ok(Ok(ended)) => OpenAnswer { outcome: ended.step.word().into(), why: ended.why },
        Ok(Err(_)) | Err(_) => {
            OpenAnswer { outcome: "unknown".into(), why: "nothing was heard of it in time".into() }
        }
    }
}

/// The door, if it is there and this person may open it.
async fn permitted<'f>(
    face: &'f Face,
    me: &Me,
    door: &str,
    event: Option<EventId>,
) -> Result<&'f Door, ApiError> {
    let door = found(face, door)?;
    if !face.doors.house().may(&me.phone.person, &door.name) {
        let why = format!("{} may not open {}", me.phone.person, door.shown());
        denied(face, me, &door.name, event, &why).await;
        return Err(ApiError::Forbidden(why));
    }
    Ok(door)
}

fn found<'f>(face: &'f Face, name: &str) -> Result<&'f Door, ApiError> {
    let doors = face.doors.house();
    doors.get(name).ok_or_else(|| {
        let known = || doors.all.keys().map(String::as_str);
        ApiError::NotFound(match nearest(name, known()) {
            Some(near) => format!("there is no door `{name}`; did you mean `{near}`?"),
            None if known().next().is_none() => "the config names no door".into(),
            None => format!(
                "there is no such door; there are {}",
                known().collect::<Vec<_>>().join(", ")
            ),
        })
    })
}

async fn denied(face: &Face, me: &Me, door: &str, about: Option<EventId>, why: &str) {
    tracing::warn!(door, person = me.phone.person, phone = %me.id, why, "a press is denied");
    let name = door.to_string();
    metrics::counter!("portero_doors_total", "door" => name, "outcome" => "denied").increment(1);
    let clock = face.intake.clock();
    if face.tickets.may_tell(clock.steady()) {
        let event = tell::denied(door, &by(me), about, why, &random_name(), clock.now());
        face.intake.take(vec![Heard::from(event)]).await;
    }
}

fn by(me: &Me) -> By {
    let (person, device) = (me.phone.person.clone(), me.phone.name.clone());
    By::Person { person, phone: me.id.clone(), device }
}

fn ticket(me: &Me, door: &str, event: Option<EventId>) -> Ticket {
    let (person, door) = (me.phone.person.clone(), door.to_string());
    Ticket { person, phone: me.id.clone(), door, event }
}
