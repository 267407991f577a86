//! Sends one push request and reads the answer. What an answer means is a pure function; whether
//! and when to try again is not decided here.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _};
use jiff::Timestamp;
use reqwest::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use reqwest::{Method, Request, Response, redirect, retry};
use rustls::{ClientConfig, RootCertStore};
use url::Url;

use super::encrypt::{self, ReceiverKeys};
use super::endpoint::{self, Policy, PublicResolver};
use super::payload::{self, Composer};
use super::vapid::{Vapid, VapidKeys};
use super::{PushRequest, Transport, Verdict};
use crate::clock::Clock;
use crate::record::Subscription;

/// How long to wait for TCP and TLS; a healthy service needs well under a second.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one attempt may take in all. A doorbell's push lives about a minute: there must be
/// room for several attempts.
pub const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(15);
/// Idle connections are dropped early: one that a router has silently forgotten would cost an
/// alarm a whole attempt.
const POOL_IDLE: Duration = Duration::from_secs(20);
/// Idle connections kept per service; four phones' worth, more would only age.
const POOL_IDLE_MAX: usize = 16;
/// A shared HTTP/2 connection that is dead without saying so is found out by a ping, before an
/// attempt's own time is over: else every later attempt would be lost on it as well.
const PING_EVERY: Duration = Duration::from_secs(5);
/// How long a ping's answer may take.
const PONG_TIMEOUT: Duration = Duration::from_secs(4);
/// How much of an answer is read; the longest real error texts are a few hundred bytes.
const ANSWER_BYTES_MAX: usize = 4096;
/// How much of an answer is shown to people.
const WHY_BYTES_MAX: usize = 200;
/// The longest TTL that services take (RFC 8030 section 5.2 lets them shorten more): 30 days.
const TTL_S_MAX: i64 = 30 * 24 * 3600;
/// A service's wish to wait is honoured up to this; then it is asked again, so that a nonsense
/// date cannot silence a phone for good.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);
/// The pause after 401 and 403. Only a changed key, contact or clock mends these, so there is no
/// hurry; but a person may mend it before an alarm's deadline, so trying goes on.
pub const VAPID_FAULT_PAUSE: Duration = Duration::from_secs(30);

/// How long to wait for the far side; tests make it short.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// See [`CONNECT_TIMEOUT`].
    pub connect: Duration,
    /// See [`ATTEMPT_TIMEOUT`].
    pub attempt: Duration,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts { connect: CONNECT_TIMEOUT, attempt: ATTEMPT_TIMEOUT }
    }
}

/// What a [`PushClient`] is made of.
pub struct Setup {
    /// Which endpoints are called.
    pub policy: Policy,
    /// Makes payloads.
    pub composer: Composer,
    /// Signs requests.
    pub vapid: Vapid,
    /// Whom TLS trusts: [`crate::systems::tls::system_roots`].
    pub roots: RootCertStore,
    /// How long to wait.
    pub timeouts: Timeouts,
    /// For TTLs, tokens and dates in answers.
    pub clock: Clock,
}

/// The client cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// TLS cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
    /// The HTTP client cannot be set up, for example because of a malformed proxy variable.
    #[error("the HTTP client cannot be set up: {0}")]
    Http(#[from] reqwest::Error),
}

/// The one who calls push services.
pub struct PushClient {
    http: reqwest::Client,
    resolver: PublicResolver,
    policy: Policy,
    composer: Composer,
    vapid: Vapid,
    timeouts: Timeouts,
    clock: Clock,
}

impl PushClient {
    /// Sets up TLS, proxy (`HTTPS_PROXY`, `NO_PROXY`) and connection pool; calls nobody yet.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn new(setup: Setup) -> Result<PushClient, ClientError> {
        let Setup { policy, composer, vapid, roots, timeouts, clock } = setup;
        let proxies = endpoint::proxy_hosts(|name| std::env::var(name).ok());
        let resolver = PublicResolver::new(policy, proxies);
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls(roots)?)
            .dns_resolver(resolver.clone())
            .redirect(redirect::Policy::none())
            .retry(retry::never())
            .referer(false)
            .user_agent(concat!("Portero/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(timeouts.connect)
            .timeout(timeouts.attempt)
            .pool_idle_timeout(POOL_IDLE)
            .pool_max_idle_per_host(POOL_IDLE_MAX)
            .http2_keep_alive_interval(PING_EVERY)
            .http2_keep_alive_timeout(PONG_TIMEOUT)
            .build()?;
        Ok(PushClient { http, resolver, policy, composer, vapid, timeouts, clock })
    }

    /// The key pair that requests are signed with.
    pub fn vapid_keys(&self) -> &VapidKeys {
        self.vapid.keys()
    }

    /// Everything up to the wire: payload, encryption, signature, headers.
    ///
    /// # Errors
    /// The verdict, if this request can never be made, or not now.
    pub fn prepare(
        &self,
        to: &Subscription,
        request: &PushRequest,
        now: Timestamp,
    ) -> Result<Request, Verdict> {
        let refused = |why: &dyn std::fmt::Display| Verdict::Refused { why: why.to_string() };
        let url = endpoint::check(&to.endpoint, self.policy).map_err(|error| refused(&error))?;
        let host = url.host_str().unwrap_or_default();
        if self.policy == Policy::Public && self.resolver.exempts(host) {
            return Err(refused(&format_args!("`{host}` is our proxy, not a push service")));
        }
        let keys = ReceiverKeys::read(&to.p256dh, &to.auth).map_err(|error| refused(&error))?;
        let PushRequest { action, phone, message, form, .. } = request;
        let payload = self.composer.compose(action, phone, message, *form);
        let body = encrypt::encrypt(&keys, payload.as_bytes()).map_err(|error| refused(&error))?;
        let authorization = self.vapid.authorization(&url, now);
        let authorization = authorization.map_err(|error| Verdict::retry(error.to_string()))?;
        build(url, request, &authorization, body, now).map_err(|error| refused(&error))
    }

    async fn attempt(&self, to: &Subscription, request: PushRequest) -> Verdict {
        let prepared = match self.prepare(to, &request, self.clock.now()) {
            Ok(prepared) => prepared,
            Err(verdict) => return verdict,
        };
        let url = prepared.url().clone();
        let response = match self.http.execute(prepared).await {
            Ok(response) => response,
            Err(error) => return Verdict::retry(fault(error, self.timeouts)),
        };
        let status = response.status().as_u16();
        let wait = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let wait = wait.map(str::to_owned);
        let text = if response.status().is_success() {
            String::new()
        } else {
            sanitise(&beginning(response).await, url.path())
        };
        let mut verdict = answer(status, wait.as_deref(), &text, self.clock.now());
        if matches!(status, 401 | 403) {
            self.vapid.forget(&url);
            self.say_if_key_changed(to, &mut verdict);
        }
        verdict
    }

    fn say_if_key_changed(&self, to: &Subscription, verdict: &mut Verdict) {
        let known = to.vapid.trim_end_matches('=');
        let changed = !known.is_empty() && known != self.vapid.keys().public_key();
        if let Verdict::Retry { why, .. } = verdict
            && changed
        {
            why.push_str("; the phone subscribed with another VAPID key and must subscribe again");
        }
    }
}

impl Transport for PushClient {
    fn send<'a>(&'a self, to: &'a Subscription, request: PushRequest) -> BoxFuture<'a, Verdict> {
        self.attempt(to, request).boxed()
    }
}

fn tls(roots: RootCertStore) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// The request of RFC 8030 section 5 with the headers of RFC 8188 and RFC 8292.
fn build(
    url: Url,
    request: &PushRequest,
    authorization: &str,
    body: Vec<u8>,
    now: Timestamp,
) -> Result<Request, reqwest::header::InvalidHeaderValue> {
    let mut built = Request::new(Method::POST, url);
    let headers = built.headers_mut();
    headers.insert("ttl", HeaderValue::from(ttl_s(request.deadline, now)));
    headers.insert("urgency", HeaderValue::from_static(request.urgency.as_str()));
    if let Some(tag) = &request.message.tag {
        headers.insert("topic", HeaderValue::from_str(&payload::topic(tag))?);
    }
    headers.insert(CONTENT_ENCODING, HeaderValue::from_static("aes128gcm"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    let mut authorization = HeaderValue::from_str(authorization)?;
    authorization.set_sensitive(true);
    headers.insert(AUTHORIZATION, authorization);
    *built.body_mut() = Some(body.into());
    Ok(built)
}

/// Whole seconds until the deadline, begun ones counted: a TTL of 0 would mean "now or never".
fn ttl_s(deadline: Timestamp, now: Timestamp) -> i64 {
    let left_ms = deadline.as_millisecond() - now.as_millisecond();
    (left_ms.max(0) as u64).div_ceil(1000).min(TTL_S_MAX as u64) as i64
}

/// The beginning of an answer's body; whatever goes wrong with it, the status is what counts.
async fn beginning(mut response: Response) -> Vec<u8> {
    let mut read = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        let room = ANSWER_BYTES_MAX - read.len();
        read.extend(&chunk[..chunk.len().min(room)]);
        if read.len() == ANSWER_BYTES_MAX {
            break;
        }
    }
    read
}

/// One printable line of at most [`WHY_BYTES_MAX`] bytes, without the endpoint's secret path.
fn sanitise(body: &[u8], path: &str) -> String {
    let text = String::from_utf8_lossy(body);
    let text = if path.len() > 1 { text.replace(path, "/…") } else { text.into_owned() };
    let printable: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let mut line = printable.split_whitespace().collect::<Vec<_>>().join(" ");
    line.truncate(line.floor_char_boundary(WHY_BYTES_MAX));
    line
}

/// What a failed call says for itself; the URL is taken out.
fn fault(error: reqwest::Error, timeouts: Timeouts) -> String {
    let error = error.without_url();
    if error.is_timeout() && !error.is_connect() {
        return format!("no answer within {:?}", timeouts.attempt);
    }
    let mut deepest: &dyn std::error::Error = &error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    let what = if error.is_connect() { "no connection" } else { "the connection failed" };
    format!("{what}: {deepest}")
}

/// What an answer means. `retry_after` is the header as it came, `text` what the body said.
pub fn answer(status: u16, retry_after: Option<&str>, text: &str, now: Timestamp) -> Verdict {
    let colon = if text.is_empty() { "" } else { ": " };
    let why = format!("the push service answered {status}{colon}{text}");
    let after = || retry_after.and_then(|value| wait_wished(value, now));
    match status {
        200..=299 => Verdict::Done,
        // Only these two say that the subscription is no more; anything else may pass.
        404 | 410 => Verdict::Gone { why },
        413 => Verdict::TooBig,
        // Our signature, contact or clock is wrong. The message is good and nothing is lost yet.
        401 | 403 => {
            let why = format!("{why} (VAPID key, contact or clock)");
            Verdict::Retry { after: Some(after().unwrap_or(VAPID_FAULT_PAUSE)), why }
        }
        // 406 is how Microsoft's service says 429. Redirects are not followed: an endpoint must
        // not lead elsewhere, but a gateway in between may answer so for a while.
        300..=399 | 406 | 408 | 425 | 429 | 500..=599 => Verdict::Retry { after: after(), why },
        _ => Verdict::Refused { why },
    }
}

/// `Retry-After` as a duration from now: seconds or an HTTP date (RFC 9110 section 10.2.3). What
/// is neither, or has passed, is no wish.
fn wait_wished(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    let wait = if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        Duration::from_secs(value.parse().unwrap_or(u64::MAX))
    } else {
        let date = jiff::fmt::rfc2822::DateTimeParser::new().relaxed_weekday(true);
        let until = date.parse_timestamp(value).ok()?;
        Duration::try_from(until.duration_since(now)).ok()?
    };
    (!wait.is_zero()).then_some(wait.min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-11-20T10:00:00Z".parse().unwrap()
    }

    fn check(status: u16, retry_after: Option<&str>) -> Verdict {
        answer(status, retry_after, "", now())
    }

    fn waits(verdict: Verdict) -> Option<u64> {
        match verdict {
            Verdict::Retry { after, .. } => after.map(|after| after.as_secs()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_answer_means_one_thing() {
        for status in [200, 201, 202, 204] {
            assert_eq!(check(status, None), Verdict::Done, "{status}");
        }
        for status in [404, 410] {
            assert!(matches!(check(status, None), Verdict::Gone { .. }), "{status}");
        }
        assert_eq!(check(413, None), Verdict::TooBig);
        for status in [302, 307, 406, 408, 429, 500, 502, 503, 504, 507, 599] {
            assert_eq!(waits(check(status, None)), None, "{status}");
        }
        for status in [401, 403] {
            assert_eq!(waits(check(status, None)), Some(30), "{status}");
        }
        for status in [100, 400, 402, 405, 411, 415, 422, 600, 999] {
            assert!(matches!(check(status, None), Verdict::Refused { .. }), "{status}");
        }
    }

    #[test]
    fn a_wish_to_wait_is_seconds_or_a_date() {
        let wish = |value: &str| waits(check(429, Some(value)));
        assert_eq!(wish("120"), Some(120));
        assert_eq!(wish(" 7 "), Some(7));
        assert_eq!(wish("0"), None);
        assert_eq!(wish("-3"), None);
        assert_eq!(wish("soon"), None);
        assert_eq!(wish(""), None);
        assert_eq!(wish("Fri, 20 Nov 2026 10:00:30 GMT"), Some(30));
        assert_eq!(wish("Mon, 20 Nov 2026 10:00:30 GMT"), Some(30));
        assert_eq!(wish("Fri, 20 Nov 2026 09:59:59 GMT"), None);
        assert_eq!(wish("99999999999999999999999"), Some(RETRY_AFTER_MAX.as_secs()));
        assert_eq!(wish("Fri, 20 Nov 2099 10:00:30 GMT"), Some(RETRY_AFTER_MAX.as_secs()));
        assert_eq!(waits(check(403, Some("90"))), Some(90));
    }

    #[test]
    fn a_reason_is_one_short_line_without_the_endpoint() {
        let body = b"\x1b[31m{\"reason\":\n \"BadJwtToken\"}\xff /wpush/v2/SECRET";
        let text = sanitise(body, "/wpush/v2/SECRET");
        assert_eq!(text, "[31m{\"reason\": \"BadJwtToken\"}\u{fffd} /…");
        assert_eq!(sanitise("é".repeat(500).as_bytes(), "/").len(), WHY_BYTES_MAX);
        match answer(400, None, "bad TTL", now()) {
            Verdict::Refused { why } => assert_eq!(why, "the push service answered 400: bad TTL"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_ttl_is_what_is_left() {
        let ttl = |deadline: &str| ttl_s(deadline.parse().unwrap(), now());
        assert_eq!(ttl("2026-11-20T10:01:00Z"), 60);
        assert_eq!(ttl("2026-11-20T10:00:00.001Z"), 1);
        assert_eq!(ttl("2026-11-20T09:00:00Z"), 0);
        assert_eq!(ttl("2027-11-20T10:00:00Z"), TTL_S_MAX);
    }
}
