//! Webhooks in. Netatmo is answered 200 whatever it sent, and within milliseconds: it bans a URL
//! for 24 hours after more than five other answers in a row (`protocols/netatmo.md`, "Answer and
//! ban"). What cannot be vouched for is quarantined, never routed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix_web::http::header::{CONTENT_LENGTH, HeaderMap};
use actix_web::{HttpRequest, HttpResponse, web};
use futures_util::{FutureExt, StreamExt};
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::Face;
use crate::event::Heard;
use crate::intake::Intake;
use crate::record::Quarantined;
use crate::systems::netatmo;
use crate::systems::netatmo::api::{CallHeard, Cloud};
use crate::systems::netatmo::health::{BadSignatures, BanWatch};
use crate::systems::netatmo::session::Session;
use crate::systems::netatmo::signature::verify;

/// Bytes of one webhook body. The largest real ones, with several persons, stay below 4 KiB.
pub const BODY_BYTES_MAX: usize = 64 * 1024;

/// How long a sender may take over its body; Netatmo itself gives up after 10 s.
const BODY_WITHIN: Duration = Duration::from_secs(8);

/// The header that carries the signature (`protocols/netatmo.md`, "Webhook HTTP request").
const SIGNATURE_HEADER: &str = "x-netatmo-secret";

/// One configured `[netatmo.<name>]`, as its webhook needs it.
pub struct NetatmoHook {
    /// `netatmo/<name>`.
    pub source: String,
    /// Key and strictness of the signature.
    pub config: netatmo::Config,
    /// The account's cloud, if it is used.
    pub cloud: Option<Cloud>,
    /// Remembers calls between their frames.
    pub session: Session,
    /// Counts our own bad answers; short lock.
    pub watch: Mutex<(BanWatch, BadSignatures)>,
    /// How long answers take; kept, because finding it by name costs more than the count.
    pub seconds: metrics::Histogram,
}

/// Adds the configured webhooks, each under its whole path: those are compared, not matched as
/// patterns, on the one way in that must be fast.
pub fn routes(hooks: &HashMap<String, Arc<NetatmoHook>>, app: &mut web::ServiceConfig) {
    for (name, hook) in hooks {
        let resource = web::resource(format!("/hooks/netatmo/{name}"));
        let resource = resource.app_data(web::Data::from(hook.clone()));
        app.service(resource.route(web::post().to(netatmo)));
    }
    app.route("/hooks/netatmo/{name}", web::post().to(unknown));
}

async fn unknown() -> HttpResponse {
    HttpResponse::NotFound().body("no such webhook is configured\n")
}

/// `POST /hooks/netatmo/<name>`.
async fn netatmo(
    hook: web::Data<NetatmoHook>,
    request: HttpRequest,
    payload: web::Payload,
    face: web::Data<Face>,
) -> HttpResponse {
    let body = read(payload, request.headers()).await;
    // Counted from here: how long a sender takes over its body is its own doing, and strangers
    // must not be able to cry wolf by being slow.
    let started = Instant::now();
    let close = body.is_err();
    // Spawned, so that a sender who hangs up cannot stop an event half way.
    let signature = header(request.headers());
    let (taker, intake) = (hook.clone(), face.intake.clone());
    let taken = actix_web::rt::spawn(async move { taker.take(&intake, signature, body).await });
    let mut response = match taken.await {
        Ok(()) => HttpResponse::Ok(),
        Err(_) => HttpResponse::InternalServerError(),
    };
    let status = if close { response.force_close() } else { &mut response }.finish();
    hook.answered(&face.intake, status.status().as_u16(), started.elapsed());
    status
}

/// Why a body is not whole; what came of it is kept.
#[derive(Debug)]
struct Unread {
    why: &'static str,
    came: Vec<u8>,
}

// === impl NetatmoHook ===

impl NetatmoHook {
    /// Takes a body in, or keeps it apart. Returns when the answer may be sent.
    async fn take(
        &self,
        intake: &Intake,
        signature: Option<Vec<u8>>,
        body: Result<web::Bytes, Unread>,
    ) {
        let now = intake.clock().now();
        let body = match body {
            Ok(body) => body,
            Err(Unread { why, came }) => {
                return intake.quarantine(self.kept(why.into(), &came, now));
            }
        };
        match verify(&self.config, signature.as_deref(), &body) {
            Ok(trust) => {
                let heard = self.session.webhook(&body, trust, now);
                self.lock().1.good();
                if let Some(cloud) = &self.cloud {
                    note(cloud, &heard);
                }
                intake.take(heard).await;
            }
            Err(reject) => {
                intake.quarantine(self.kept(reject.to_string(), &body, now));
                if self.lock().1.bad(now) {
                    self.raise(intake, "portero.netatmo.bad_signatures", &reject.to_string());
                }
            }
        }
    }

    fn kept(&self, reason: String, raw: &[u8], received: jiff::Timestamp) -> Quarantined {
        let raw = raw[..raw.len().min(crate::intake::QUARANTINE_BYTES_MAX)].to_vec();
        Quarantined { source: self.source.clone(), reason, received, raw }
    }

    /// Counts one answer and warns before Netatmo bans us.
    fn answered(&self, intake: &Intake, status: u16, took: Duration) {
        self.seconds.record(took);
        if self.lock().0.answered(status, took) {
            self.raise(intake, "portero.netatmo.ban_risk", "two slow or failed answers in a row");
            if let Some(cloud) = &self.cloud {
                cloud.doubt();
            }
        }
    }

    fn raise(&self, intake: &Intake, kind: &str, why: &str) {
        tracing::error!(source = self.source, kind, why, "raised");
        let mut data = Map::new();
        data.insert("why".into(), Value::from(why));
        data.insert("source".into(), Value::from(self.source.as_str()));
        let unique = format!("{} {}", self.source, intake.clock().now());
        let mut event = intake.own_event(kind, &unique, data);
        event.subject = Some(self.source.clone());
        let intake = intake.clone();
        actix_web::rt::spawn(async move { intake.take(vec![Heard::from(event)]).await });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (BanWatch, BadSignatures)> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// After these, what the cloud says of a thing's state is another.
const MOVING: [&str; 12] = [
    "netatmo.tag_big_move",
    "netatmo.tag_small_move",
    "netatmo.tag_open",
    "netatmo.module_connect",
    "netatmo.module_disconnect",
    "netatmo.connection",
    "netatmo.disconnection",
    "netatmo.on",
    "netatmo.off",
    "netatmo.light_mode",
    "netatmo.person_away",
    "netatmo.person_home",
];

/// Tells the cloud's driver what it wants to know of a webhook; an account that has none of this
/// pays for one comparison of a text.
fn note(cloud: &Cloud, heard: &[Heard]) {
    let Some(Heard { event, .. }) = heard.first() else { return };
    cloud.webhook(event.received, event.kind == "netatmo.webhook_activation");
    match event.kind.as_str() {
        "netatmo.topology_changed" | "netatmo.new_module" | "netatmo.new_device" => {
            cloud.topology()
        }
        kind if MOVING.contains(&kind) => cloud.moved(),
        _ => {}
    }
    if let Some(call) = CallHeard::of(event) {
        cloud.call(call);
    }
}

fn header(headers: &HeaderMap) -> Option<Vec<u8>> {
    headers.get(SIGNATURE_HEADER).map(|value| value.as_bytes().to_vec())
}

/// Reads a body within its limits of size and time.
async fn read(mut payload: web::Payload, headers: &HeaderMap) -> Result<web::Bytes, Unread> {
    let announced = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
    if announced.is_some_and(|bytes: u64| bytes > BODY_BYTES_MAX as u64) {
        return Err(Unread { why: "the body is too large", came: Vec::new() });
    }
    // Nearly always the whole body came with the head: no timer and no copy for those.
    let first = match payload.next().now_or_never() {
        Some(Some(Ok(chunk))) if announced == Some(chunk.len() as u64) => return Ok(chunk),
        Some(Some(Ok(chunk))) => chunk,
        Some(Some(Err(_))) => return Err(Unread { why: "the body broke off", came: Vec::new() }),
        Some(None) => return Ok(web::Bytes::new()),
        None => web::Bytes::new(),
    };
    let mut body = first.to_vec();
    match tokio::time::timeout(BODY_WITHIN, rest(&mut payload, &mut body)).await {
        Ok(Ok(())) => Ok(body.into()),
        Ok(Err(why)) => Err(Unread { why, came: body }),
        Err(_) => Err(Unread { why: "the body came too slowly", came: body }),
    }
}

async fn rest(payload: &mut web::Payload, body: &mut Vec<u8>) -> Result<(), &'static str> {
    while let Some(chunk) = payload.next().await {
        body.extend(chunk.map_err(|_| "the body broke off")?);
        if body.len() > BODY_BYTES_MAX {
            return Err("the body is too large");
        }
    }
    Ok(())
}
