//! A VMS that is not there: speaks the vendor's API on a real socket of this machine, and
//! misbehaves when told to. For the demo and for tests.

mod mischief;
mod story;
mod world;

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use actix_web::dev::ServerHandle;
use actix_web::http::StatusCode;
use actix_web::web::{Bytes, Data};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer};
use jiff::SignedDuration;
use serde_json::{Map, Value, json};
use url::Url;

pub use self::mischief::Mischief;
use self::mischief::Plan;
use self::world::World;
pub use self::world::{LOGIN, PASSWORD, Received};
use crate::clock::Clock;

/// Requests that are remembered; the oldest go.
const RECEIVED_MAX: usize = 10_000;

/// A running simulator; it ends when [`Sim::stop`] is called.
#[derive(Clone)]
pub struct Sim {
    shared: Arc<Shared>,
    address: SocketAddr,
    server: ServerHandle,
}

struct Shared {
    world: Mutex<World>,
    plan: Mutex<Plan>,
    received: Mutex<Vec<Received>>,
    clock: Clock,
}

impl Sim {
    /// Starts one on a free port of this machine.
    pub async fn start(clock: Clock) -> io::Result<Sim> {
        let shared = Arc::new(Shared {
            world: Mutex::new(World::new(clock.now())),
            plan: Mutex::default(),
            received: Mutex::default(),
            clock,
        });
        Sim::listen(shared, "127.0.0.1:0".parse().map_err(io::Error::other)?)
    }

    fn listen(shared: Arc<Shared>, address: SocketAddr) -> io::Result<Sim> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let data = Data::from(shared.clone());
        let app =
            move || App::new().app_data(data.clone()).default_service(actix_web::web::to(handle));
        let server = HttpServer::new(app).workers(1).disable_signals().shutdown_timeout(0);
        let server = server.listen(listener)?.run();
        let handle = server.handle();
        tokio::spawn(server);
        Ok(Sim { shared, address, server: handle })
    }

    /// Where it listens: `http://127.0.0.1:1234`.
    pub fn url(&self) -> Url {
        Url::parse(&format!("http://{}", self.address)).expect("an address makes a URL")
    }

    /// Breaks all connections and refuses new ones.
    pub async fn stop(&self) {
        self.server.stop(false).await;
    }

    /// Listens again after [`Sim::stop`], at the same address and with the same memory.
    pub async fn restart(&self) -> io::Result<Sim> {
        Sim::listen(self.shared.clone(), self.address)
    }

    /// Misbehaves for the next `times` requests whose path contains `place`.
    pub fn misbehave(&self, mischief: Mischief, place: &'static str, times: usize) {
        lock(&self.shared.plan).add(mischief, place, times);
    }

    /// No more mischief.
    pub fn behave(&self) {
        *lock(&self.shared.plan) = Plan::default();
    }

    /// Somebody rings; returns the call's id.
    pub fn ring(&self, intercom: u64) -> u64 {
        self.ring_since(intercom, SignedDuration::ZERO)
    }

    /// Somebody has been ringing for a while already.
    pub fn ring_since(&self, intercom: u64, ago: SignedDuration) -> u64 {
        self.world().call(intercom, "ring", self.shared.clock.now() - ago)
    }

    /// A call comes to `answered`, `ended` or `missed`.
    pub fn step(&self, call: u64, status: &str) {
        self.world().step(call, status, self.shared.clock.now());
    }

    /// Sets a field of an intercom.
    pub fn set(&self, intercom: u64, field: &str, value: impl Into<Value>) {
        if let Some(fields) = self.world().intercoms.get_mut(&intercom) {
            fields.insert(field.into(), value.into());
        }
    }

    /// A new intercom.
    pub fn add(&self, intercom: u64, title: &str) {
        self.world().add(intercom, title, self.shared.clock.now());
    }

    /// An intercom is no longer the account's.
    pub fn remove(&self, intercom: u64) {
        self.world().intercoms.remove(&intercom);
    }

    /// Its clock goes wrong by this much.
    pub fn skew(&self, by: SignedDuration) {
        self.world().skew = by;
    }

    /// All tokens are void from now on.
    pub fn expire_tokens(&self) {
        self.world().sessions.clear();
    }

    /// Others hold this many sessions, of so many that fit.
    pub fn fill_sessions(&self, others: usize, most: usize) {
        let mut world = self.world();
        world.sessions_max = most;
        for n in 0..others {
            world.open_session(&format!("somebody-{n}"));
        }
    }

    /// A token is void while its session still counts.
    pub fn void_tokens(&self) {
        self.world().sessions.iter_mut().for_each(|(token, _)| token.push_str("-void"));
    }

    /// Whether 419 has the bare array for its body, and whether a login needs a captcha.
    pub fn be_strict(&self, bare_sessions: bool, wants_captcha: bool) {
        let mut world = self.world();
        (world.bare_sessions, world.wants_captcha) = (bare_sessions, wants_captcha);
    }

    /// How many sessions are open.
    pub fn sessions(&self) -> usize {
        self.world().sessions.len()
    }

    /// The truth: intercoms by id, as printed.
    pub fn truth(&self) -> BTreeMap<u64, Map<String, Value>> {
        self.world().intercoms.clone()
    }

    /// The doors that opened, in order.
    pub fn opened(&self) -> Vec<u64> {
        self.world().opened.clone()
    }

    /// Every request that came, in order.
    pub fn received(&self) -> Vec<Received> {
        lock(&self.shared.received).clone()
    }

    /// How many requests with this method came to paths that end like this.
    pub fn count(&self, method: &str, end: &str) -> usize {
        let received = lock(&self.shared.received);
        received.iter().filter(|r| r.method == method && r.path.ends_with(end)).count()
    }

    fn world(&self) -> MutexGuard<'_, World> {
        lock(&self.shared.world)
    }
}

async fn handle(request: HttpRequest, body: Bytes, shared: Data<Shared>) -> HttpResponse {
    let mut asked = read(&request, &body);
    let bad = lock(&shared.plan).take(&asked.path);
    if bad == Some(Mischief::HalfOpen) {
        remember(&shared, asked);
        return std::future::pending().await;
    }
    let now = shared.clock.now();
    let said = match bad.and_then(|bad| bad.instead(&asked)) {
        Some(instead) => instead,
        None => {
            let mut world = lock(&shared.world);
            if bad == Some(Mischief::Expired) {
                world.sessions.clear();
            }
            let said = world.answer(&asked, now);
            mischief::Answer::from(said, asked.headers.get("accept"))
        }
    };
    let said = match bad {
        Some(bad) => bad.spoil(said),
        None => said,
    };
    asked.status = said.status;
    remember(&shared, asked);
    let date = now + lock(&shared.world).skew;
    respond(said, &date.to_zoned(jiff::tz::TimeZone::UTC).strftime(HTTP_DATE).to_string())
}

/// RFC 9110, section 5.6.7.
const HTTP_DATE: &str = "%a, %d %b %Y %H:%M:%S GMT";

fn respond(said: mischief::Answer, date: &str) -> HttpResponse {
    let status = StatusCode::from_u16(said.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = HttpResponse::build(status);
    response.insert_header(("date", date)).content_type(said.content_type);
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

fn read(request: &HttpRequest, body: &[u8]) -> Received {
    let query = url::form_urlencoded::parse(request.query_string().as_bytes());
    let headers = request.headers().iter();
    Received {
        method: request.method().to_string(),
        path: request.path().to_string(),
        query: query.into_owned().collect(),
        headers: headers
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap_or("").to_string()))
            .collect(),
        body: serde_json::from_slice(body).unwrap_or_else(|_| json!(null)),
        status: 0,
    }
}

fn remember(shared: &Shared, asked: Received) {
    let mut received = lock(&shared.received);
    if received.len() == RECEIVED_MAX {
        received.remove(0);
    }
    received.push(asked);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
