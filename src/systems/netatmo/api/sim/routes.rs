//! The simulated cloud's HTTP: reads requests, lets mischief have its way, counts what is in
//! flight.

use std::io;
use std::sync::atomic::Ordering;

use actix_web::http::StatusCode;
use actix_web::web::{Bytes, Data};
use actix_web::{HttpRequest, HttpResponse};

use super::answers::{Asked, Said};
use super::mischief::Mischief;
use super::{Received, Shared, lock};

/// What tells the home to do something.
const COMMANDS: [&str; 3] = ["/api/setstate", "/api/setpersonsaway", "/api/setpersonshome"];

/// Answers one request.
pub(super) async fn answer(
    request: HttpRequest,
    body: Bytes,
    shared: Data<Shared>,
) -> HttpResponse {
    let asked = read(&request, &body);
    shared.note(&asked.path);
    let bad = lock(&shared.plan).take(&asked.path);
    if bad == Some(Mischief::HalfOpen) {
        return std::future::pending().await;
    }
    let flight = Flight::new(&shared, &asked.path);
    let said = match bad.and_then(|bad| bad.instead(&asked)) {
        Some(said) => said,
        None if flight.others > 0 => Said::error(429, 11, "Failed to enter concurrency limited"),
        None => carry_out(&shared, &asked, bad),
    };
    if let Some(Mischief::Slow(time)) = bad {
        tokio::time::sleep(time).await;
    }
    drop(flight);
    respond(bad.map_or(said.clone(), |bad| bad.spoil(said)))
}

fn carry_out(shared: &Shared, asked: &Asked, bad: Option<Mischief>) -> Said {
    let now = shared.clock.now();
    shared.change(|world| {
        match bad {
            Some(Mischief::Expired) => world.tokens.expire(now),
            Some(Mischief::Revoked) => world.tokens.revoke(),
            _ => {}
        }
        let is_command = COMMANDS.contains(&asked.path.as_str());
        if is_command && world.tokens.check(asked.bearer.as_deref(), now).is_ok() {
            shared.remember(Received { path: asked.path.clone(), body: asked.content() });
        }
        if bad == Some(Mischief::SamePage) {
            let mut asked = asked.clone();
            asked.params.remove("event_id");
            return world.answer(&asked, now);
        }
        world.answer(asked, now)
    })
}

fn read(request: &HttpRequest, body: &[u8]) -> Asked {
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let pairs = |text: &[u8]| url::form_urlencoded::parse(text).into_owned().collect::<Vec<_>>();
    let is_json = header("content-type").is_some_and(|kind| kind.starts_with("application/json"));
    let mut params = pairs(request.query_string().as_bytes());
    let mut json = serde_json::Value::Null;
    if is_json {
        json = serde_json::from_slice(body).unwrap_or_default();
    } else {
        params.extend(pairs(body));
    }
    Asked {
        method: request.method().to_string(),
        path: request.path().to_string(),
        params: params.into_iter().collect(),
        json,
        bearer: header("authorization")
            .and_then(|value| value.strip_prefix("Bearer "))
            .map(String::from),
    }
}

fn respond(said: Said) -> HttpResponse {
    let status = StatusCode::from_u16(said.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = HttpResponse::build(status);
    response.content_type(said.content_type);
    for (name, value) in said.headers {
        response.insert_header((name, value));
    }
    if said.cut {
        // The connection ends where a body was promised.
        let end = io::Error::from(io::ErrorKind::ConnectionReset);
        let stream = futures_util::stream::once(async move { Err::<Bytes, _>(end) });
        return response.streaming(stream);
    }
    response.body(said.body)
}

/// A call that is being answered.
struct Flight<'a> {
    shared: Option<&'a Shared>,
    others: usize,
}

impl Flight<'_> {
    /// A person who consents is no call of the app's.
    fn new<'a>(shared: &'a Shared, path: &str) -> Flight<'a> {
        if path == "/oauth2/authorize" {
            return Flight { shared: None, others: 0 };
        }
        let others = shared.in_flight.fetch_add(1, Ordering::SeqCst);
        shared.in_flight_max.fetch_max(others + 1, Ordering::SeqCst);
        Flight { shared: Some(shared), others }
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        if let Some(shared) = self.shared {
            shared.in_flight.fetch_sub(1, Ordering::SeqCst);
        }
    }
}
