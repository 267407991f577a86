//! `POST /control/drill`: begins a drill. Who is told how it went asks for the phones.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};

use super::Face;
use super::admin::{allow, unknown_person};
use super::session::ApiError;
use crate::action::{ActionId, PhoneId};
use crate::builtin::drill;
use crate::secret::random_name;

/// Asks for a drill.
#[derive(Debug, Serialize, Deserialize)]
pub struct DrillAsk {
    /// Whose phones; everybody's if none.
    pub person: Option<String>,
    /// How long the notification is worth showing.
    pub wait_s: u32,
}

/// One phone of a drill.
#[derive(Debug, Serialize, Deserialize)]
pub struct Drilled {
    /// The phone.
    pub phone: PhoneId,
    /// Whose it is.
    pub person: String,
    /// What it is called.
    pub name: String,
    /// Its notification; none if it cannot be pushed to.
    pub action: Option<ActionId>,
}

/// `POST /control/drill`.
pub async fn control_drill(
    request: HttpRequest,
    ask: web::Json<DrillAsk>,
    face: web::Data<Face>,
) -> Result<HttpResponse, ApiError> {
    allow(&request, &face)?;
    if let Some(person) = ask.person.as_ref().filter(|person| !face.people.contains(person)) {
        return Err(ApiError::Bad(unknown_person(person, &face.people)));
    }
    let view = face.view.borrow().clone();
    let meant = |person: &String| ask.person.as_ref().is_none_or(|wanted| wanted == person);
    let phones: Vec<_> = view.phones.iter().filter(|(_, phone)| meant(&phone.person)).collect();
    let reached = phones.iter().filter(|(_, phone)| phone.subscription.is_some());
    let reached: Vec<PhoneId> = reached.map(|(id, _)| id.clone()).collect();
    let data = drill::data(&reached, ask.wait_s);
    let mut event = face.intake.own_event(drill::EVENT, &random_name(), data);
    event.marks.test = true;
    event.subject = ask.person.clone();
    let id = event.id;
    if !reached.is_empty() {
        face.intake.take(vec![event.into()]).await;
    }
    let drilled = phones.into_iter().map(|(phone, entry)| Drilled {
        phone: phone.clone(),
        person: entry.person.clone(),
        name: entry.name.clone(),
        action: reached.contains(phone).then(|| drill::action(id, phone)),
    });
    Ok(HttpResponse::Ok().json(drilled.collect::<Vec<_>>()))
}
