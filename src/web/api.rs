//! What the page asks for, each call as one function. All but the delivery receipt need the
//! paired device's session ([`Me`]).

use actix_web::cookie::Cookie;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::oneshot;

use super::Face;
use super::session::{self, ApiError, Me};
use super::timeline::{ITEMS_MAX, Latest};
use crate::action::{ActionId, PhoneId};
use crate::builtin::TEST_EVENT;
use crate::delivery;
use crate::event::Heard;
use crate::phones::{Ask, Denied};
use crate::record::{Position, Receipt, Shown, Subscription};
use crate::router::Message;
use crate::secret::{Secret, random_name};

/// Events in one page of the timeline.
const PAGE_ITEMS: usize = 50;

/// Routes under `/api`.
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/pair", web::post().to(super::pair::pair))
        .route("/logout", web::post().to(super::pair::logout))
        .route("/me", web::get().to(me))
        .route("/alive", web::post().to(alive))
        .route("/subscription", web::post().to(subscribe))
        .route("/subscription", web::delete().to(unsubscribe))
        .route("/test", web::post().to(test))
        .route("/timeline", web::get().to(timeline))
        .route("/stream", web::get().to(super::stream::stream))
        .route("/status", web::get().to(status))
        .route("/phones", web::get().to(phones))
        .route("/phones/{id}", web::delete().to(remove))
        .configure(super::alerts::routes)
        .configure(super::dead::routes)
        .route("/receipt", web::post().to(receipt))
        .configure(super::doors::routes)
        .default_service(web::to(|| async {
            HttpResponse::NotFound().json(json!({ "error": "no such call" }))
        }));
}

async fn me(me: Me, request: HttpRequest, face: web::Data<Face>) -> HttpResponse {
    let mut response = HttpResponse::Ok();
    // Each visit renews the cookie; its value is already the browser's.
    if let Some(cookie) = request.cookie(session::COOKIE) {
        let cookie: Cookie<'static> = session::cookie(&Secret::new(cookie.value()), face.secure());
        response.cookie(cookie);
    }
    response.json(json!({
        "person": me.phone.person,
        "phone": me.id,
        "name": me.phone.name,
        "vapid": face.vapid,
        "subscribed": me.phone.subscription.is_some(),
        "vapid_changed": me.phone.has_other_vapid_key(&face.vapid),
        "demo": face.demo,
        "version": env!("CARGO_PKG_VERSION"),
        "time_zone": face.time_zone,
    }))
}

async fn alive(me: Me, face: web::Data<Face>) -> Result<HttpResponse, ApiError> {
    face.ask(Ask::Alive { id: me.id }).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// `PushSubscription.toJSON()` and the key it was made with.
#[derive(Deserialize)]
struct SubscriptionForm {
    endpoint: String,
    keys: SubscriptionKeys,
    #[serde(default)]
    vapid: String,
}

#[derive(Deserialize)]
struct SubscriptionKeys {
    p256dh: String,
    auth: String,
}

async fn subscribe(
    me: Me,
    form: web::Json<SubscriptionForm>,
    face: web::Data<Face>,
) -> Result<HttpResponse, ApiError> {
    let SubscriptionForm { endpoint, keys, vapid } = form.into_inner();
    let vapid = if vapid.is_empty() { face.vapid.clone() } else { vapid };
    let subscription = Subscription { endpoint, p256dh: keys.p256dh, auth: keys.auth, vapid };
    delivery::push::check_subscription(&subscription, face.endpoints)
        .map_err(|error| ApiError::Bad(error.to_string()))?;
    face.ask(Ask::Subscribe { id: me.id, subscription }).await?;
    Ok(HttpResponse::NoContent().finish())
}

async fn unsubscribe(me: Me, face: web::Data<Face>) -> Result<HttpResponse, ApiError> {
    face.ask(Ask::Unsubscribe { id: me.id }).await?;
    Ok(HttpResponse::NoContent().finish())
}

async fn test(me: Me, face: web::Data<Face>) -> HttpResponse {
    let mut data = Map::new();
    data.insert("phone".into(), json!(me.id));
    let mut event = face.intake.own_event(TEST_EVENT, &random_name(), data);
    event.marks.test = true;
    face.intake.take(vec![Heard::from(event)]).await;
    HttpResponse::Accepted().finish()
}

#[derive(Deserialize)]
struct PageQuery {
    before: Option<Position>,
}

async fn timeline(
    _: Me,
    query: web::Query<PageQuery>,
    face: web::Data<Face>,
) -> Result<HttpResponse, ApiError> {
    let view = face.view.borrow().clone();
    let mut items = face.timeline.page(query.before, PAGE_ITEMS, &view);
    if let Some(before) = query.before
        && items.is_empty()
    {
        let journal = face.journal.clone();
        let older = move || Latest::before(&journal, before).page(Some(before), PAGE_ITEMS, &view);
        items = web::block(older).await.map_err(|e| ApiError::Unavailable(e.to_string()))?;
    }
    let more = items.len() == PAGE_ITEMS
        || face.timeline.oldest().is_some_and(|oldest| oldest > face.journal.first());
    Ok(HttpResponse::Ok().json(json!({ "items": items, "more": more && !items.is_empty() })))
}

async fn status(_: Me, face: web::Data<Face>) -> HttpResponse {
    let rules = face.rules.borrow().clone();
    let quarantine: Vec<Value> = face
        .intake
        .quarantined()
        .into_iter()
        .map(|kept| {
            let raw = String::from_utf8_lossy(&kept.raw).into_owned();
            json!({ "source": kept.source, "reason": kept.reason, "received": kept.received,
                    "raw": raw })
        })
        .collect();
    let mut heard = face.timeline.sources();
    let view = face.view.borrow().clone();
    let hooks = face.hooks.values().map(|hook| &hook.source);
    // Whom we only tell is no source.
    let systems = face.sources.keys().filter(|source| !source.starts_with("webhook/"));
    for source in hooks.chain(systems) {
        if !heard.iter().any(|(name, ..)| name == source) {
            heard.push((source.clone(), jiff::Timestamp::UNIX_EPOCH, 0));
        }
    }
    let sources: Vec<Value> = heard
        .into_iter()
        .map(|(source, last, count)| {
            let quarantined = face.intake.quarantined_of(&source);
            let last = (count > 0).then_some(last);
            let link = view.links.iter().find(|(name, _)| *name == source).map(|(_, link)| link);
            let link = link.filter(|_| face.sources.contains_key(&source));
            json!({ "source": source, "last": last, "count": count, "quarantined": quarantined,
                    "link": link })
        })
        .collect();
    let writable = face.journal.is_writable();
    let detail = if writable { "" } else { "the journal cannot be written; is the disk full?" };
    HttpResponse::Ok().json(json!({
        "rules": rules,
        "journal": { "writable": writable, "detail": detail },
        "sources": sources,
        "quarantine": quarantine,
        "events_in_memory_max": ITEMS_MAX,
    }))
}

async fn phones(me: Me, face: web::Data<Face>) -> HttpResponse {
    let (view, now) = (face.view.borrow().clone(), face.intake.clock().now());
    let list: Vec<Value> = view
        .phones
        .iter()
        .map(|(id, phone)| {
            let mut json = phone.to_json(id, &face.vapid, now);
            json["me"] = json!(*id == me.id);
            json
        })
        .collect();
    HttpResponse::Ok().json(json!({ "phones": list }))
}

async fn remove(
    me: Me,
    id: web::Path<String>,
    face: web::Data<Face>,
) -> Result<HttpResponse, ApiError> {
    let id = PhoneId(id.into_inner());
    let view = face.view.borrow().clone();
    let phone = view.phone(&id).ok_or_else(|| ApiError::NotFound("no such phone".into()))?;
    if phone.person != me.phone.person {
        return Err(ApiError::Forbidden("this phone is somebody else's".into()));
    }
    face.ask(Ask::Remove { id }).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// What a service worker reports of one notification.
#[derive(Deserialize)]
struct ReceiptForm {
    action: ActionId,
    token: String,
    what: Shown,
}

async fn receipt(
    form: web::Json<ReceiptForm>,
    face: web::Data<Face>,
) -> Result<HttpResponse, ApiError> {
    let phone =
        delivery::push::payload::verify_receipt(&face.receipt_key, &form.action, &form.token)
            .ok_or_else(|| ApiError::Forbidden("this token is not for this notification".into()))?;
    let view = face.view.borrow().clone();
    if view.phone(&phone).is_none() {
        return Err(ApiError::Forbidden("this phone was removed".into()));
    }
    if face.timeline.has_receipt(&form.action, form.what) {
        // Said before: a token must not be a way to fill the journal.
        return Ok(HttpResponse::NoContent().finish());
    }
    let receipt =
        Receipt { action: form.action, phone, what: form.what, at: face.intake.clock().now() };
    if !face.journal.is_writable() {
        // The service worker keeps it and says it again.
        return Err(ApiError::Unavailable("the journal cannot be written".into()));
    }
    let (reply, answer) = oneshot::channel();
    face.send(Message::Receipt(receipt, reply)).await?;
    answer.await.map_err(|_| Denied::Stopping)??;
    Ok(HttpResponse::NoContent().finish())
}
