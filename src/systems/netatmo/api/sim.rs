//! A Netatmo cloud that is not there: OAuth, the calls of the API and signed webhooks on a
//! loopback port, about one home, with bad manners on demand. For the demo and for tests.

mod answers;
mod mischief;
mod poster;
mod routes;
mod story;
#[cfg(test)]
mod tests;
mod tokens;
mod world;

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::web::{Data, to};
use actix_web::{App, HttpServer};
use jiff::SignedDuration;
use serde_json::{Map, Value};
use tokio::sync::mpsc;
use url::Url;

pub use self::mischief::Mischief;
use self::mischief::Plan;
pub use self::poster::Delivery;
use self::poster::Poster;
pub use self::world::ids;
use self::world::{World, fields};
use crate::clock::Clock;
use crate::secret::Secret;

/// The app's id.
pub const CLIENT_ID: &str = "6a1f0c1a2b3c4d5e6f70c1d0";
/// The app's secret, unless another is given: the key of the webhooks' signatures, too.
pub const CLIENT_SECRET: &str = "a simulated client secret";
/// The first refresh token.
pub const REFRESH_TOKEN: &str = "sim-user|refresh-0";

/// Commands that are remembered; the oldest go.
const RECEIVED_MAX: usize = 10_000;

/// A command as it arrived.
#[derive(Debug, Clone, PartialEq)]
pub struct Received {
    /// `/api/setstate`
    pub path: String,
    /// Its JSON, or its form as an object of texts.
    pub body: Value,
}

/// One visit at a door.
#[derive(Debug, Clone)]
pub struct Visit {
    /// Whose bell.
    pub device: String,
    /// Its `event_id`, which all its webhooks share.
    pub event: String,
    /// Its `session_id`.
    pub session: String,
}

/// The simulator. Clones are the same one.
#[derive(Clone)]
pub struct Sim {
    shared: Arc<Shared>,
    address: SocketAddr,
    server: ServerHandle,
}

struct Shared {
    world: Mutex<World>,
    plan: Mutex<Plan>,
    seen: Mutex<Seen>,
    poster: Poster,
    in_flight: AtomicUsize,
    in_flight_max: AtomicUsize,
    clock: Clock,
}

/// What has come so far.
#[derive(Default)]
struct Seen {
    calls: BTreeMap<String, usize>,
    received: Vec<Received>,
}

impl Sim {
    /// Serves on a free loopback port.
    pub fn start(clock: Clock) -> io::Result<Sim> {
        Sim::start_with(clock, Secret::new(CLIENT_SECRET))
    }

    /// The same with this client secret.
    pub fn start_with(clock: Clock, secret: Secret) -> io::Result<Sim> {
        let world = World::new(secret.expose(), clock.now());
        let (sender, queue) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            world: Mutex::new(world),
            plan: Mutex::default(),
            seen: Mutex::default(),
            poster: Poster::new(sender),
            in_flight: AtomicUsize::new(0),
            in_flight_max: AtomicUsize::new(0),
            clock,
        });
        tokio::spawn(poster::run(Arc::downgrade(&shared), queue, secret));
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let data = Data::from(shared.clone());
        let app = move || App::new().app_data(data.clone()).default_service(to(routes::answer));
        let server = HttpServer::new(app).workers(1).disable_signals().shutdown_timeout(0);
        let server = server.listen(listener)?.run();
        let handle = server.handle();
        tokio::spawn(server);
        Ok(Sim { shared, address, server: handle })
    }

    /// For `api` in the config.
    pub fn url(&self) -> Url {
        Url::parse(&format!("http://{}", self.address)).expect("an address makes a URL")
    }

    /// Breaks all connections and refuses new ones.
    pub async fn stop(&self) {
        self.server.stop(false).await;
    }

    /// Where the house is, whatever host the registered address names: loopback knows no public
    /// names. Until then webhooks to a name wait.
    pub fn deliver_to(&self, house: SocketAddr) {
        self.shared.poster.deliver_to(house);
    }

    /// Something happens to a thing: in the history, and by webhook with the same ids. `more` are
    /// further fields of the webhook; `event_id` continues a visit, `time` (Unix seconds) puts it
    /// elsewhere in the history. The event's id.
    pub fn happen(&self, kind: &str, module: &str, more: Value) -> String {
        let now = self.shared.clock.now();
        self.change(|world| world.happen(kind, module, fields(more), now))
    }

    /// Somebody rings, told as a call and as an offer.
    pub fn ring(&self, device: &str) -> Visit {
        self.ring_since(device, SignedDuration::ZERO)
    }

    /// Somebody rang a while ago, by the history's clock.
    pub fn ring_since(&self, device: &str, ago: SignedDuration) -> Visit {
        let session = self.change(World::uuid);
        let pictures = "https://images.example.org/production/";
        let time = (self.shared.clock.now() - ago).as_second();
        let more = serde_json::json!({ "time": time,
            "session_id": session, "message": "Quelqu'un sonne",
            "snapshot_url": format!("{pictures}{session}"),
            "vignette_url": format!("{pictures}{session}-small") });
        let event = self.happen("incoming_call", device, more);
        let visit = Visit { device: device.into(), event, session };
        self.signal(&visit, "offer");
        visit
    }

    /// A visit goes on: `accepted_call`, `missed_call`, `human`.
    pub fn go_on(&self, visit: &Visit, kind: &str) {
        let more = serde_json::json!({ "session_id": visit.session, "event_id": visit.event });
        self.happen(kind, &visit.device, more);
    }

    /// A frame of a call's signalling, which only a webhook tells: `offer`, `terminate`.
    pub fn signal(&self, visit: &Visit, what: &str) {
        let product = self.world().product_and_device(&visit.device).0;
        self.post(serde_json::json!({ "user_id": ids::USER, "session_id": visit.session,
            "data": { "type": what }, "device_id": visit.device, "home_id": ids::HOME,
            "push_type": format!("{product}-rtc") }));
    }

    /// Sends a webhook that the history knows nothing of.
    pub fn post(&self, body: Value) {
        self.change(|world| world.post(body));
    }

    /// Changes what `homestatus` says of a thing, or its name.
    pub fn set_status(&self, module: &str, field: &str, value: impl Into<Value>) {
        let value = value.into();
        self.change(|world| {
            if let Some(module) = world.modules.get_mut(module) {
                let part = if field == "name" { &mut module.data } else { &mut module.status };
                part.insert(field.into(), value);
            }
        });
    }

    /// A thing can be reached, or not.
    pub fn set_reachable(&self, module: &str, reachable: bool) {
        self.change(|world| {
            if let Some(module) = world.modules.get_mut(module) {
                module.reachable = reachable;
            }
        });
    }

    /// A person comes or goes.
    pub fn set_away(&self, person: &str, away: bool) {
        let now = self.shared.clock.now().as_second();
        self.change(|world| {
            for fields in world.persons.iter_mut().filter(|fields| fields["id"] == person) {
                fields.insert("out_of_sight".into(), away.into());
                fields.insert("last_seen".into(), now.into());
            }
        });
    }

    /// Misbehaves for the next `times` requests whose path contains `place`.
    pub fn misbehave(&self, mischief: Mischief, place: &'static str, times: usize) {
        lock(&self.shared.plan).add(mischief, place, times);
    }

    /// No more of [`Sim::misbehave`].
    pub fn behave(&self) {
        *lock(&self.shared.plan) = Plan::default();
    }

    /// Nothing that happens is told by webhook, as after a ban.
    pub fn deaf(&self, deaf: bool) {
        self.change(|world| world.deaf = deaf);
    }

    /// Registrations are never proved by `webhook_activation`.
    pub fn never_activate(&self, never: bool) {
        self.change(|world| world.mute = never);
    }

    /// Whether the history names the sessions of calls; it does until told otherwise.
    pub fn tell_sessions(&self, tells: bool) {
        self.change(|world| world.tells_sessions = tells);
    }

    /// Every webhook is sent this many times more.
    pub fn repeat_webhooks(&self, times: usize) {
        self.shared.poster.repeat(times);
    }

    /// Whoever is asked for consent declines.
    pub fn decline(&self, declines: bool) {
        self.change(|world| world.tokens.declines = declines);
    }

    /// The access token expires now.
    pub fn expire_access(&self) {
        let now = self.shared.clock.now();
        self.change(|world| world.tokens.expire(now));
    }

    /// Both tokens are void now: only consent helps.
    pub fn revoke(&self) {
        self.change(|world| world.tokens.revoke());
    }

    /// Access tokens live this long from now on.
    pub fn access_life(&self, life: Duration) {
        let life = SignedDuration::try_from(life).unwrap_or(SignedDuration::MAX);
        self.change(|world| world.tokens.life = life);
    }

    /// The registration is gone, as after a day's ban or a drop by hand.
    pub fn forget_webhook(&self) {
        self.change(|world| world.webhook = None);
    }

    /// The truth: the home with all its modules, persons and rooms, `homesdata` and `homestatus`
    /// in one, and whether each module is `reachable`.
    pub fn truth(&self) -> Value {
        self.world().truth()
    }

    /// What a module is told that can never be read back.
    pub fn hidden(&self, module: &str) -> Map<String, Value> {
        let world = self.world();
        world.modules.get(module).map(|module| module.hidden.clone()).unwrap_or_default()
    }

    /// The history's ids, newest first.
    pub fn history(&self) -> Vec<String> {
        let events = &self.world().events;
        events.iter().filter_map(|event| event["id"].as_str().map(String::from)).collect()
    }

    /// The commands that arrived, in order; those that mischief kept from arriving are not here.
    pub fn commands(&self) -> Vec<Received> {
        lock(&self.shared.seen).received.clone()
    }

    /// How many refreshes were granted.
    pub fn refreshes(&self) -> usize {
        self.world().tokens.refreshes
    }

    /// How many refreshes were refused.
    pub fn refused_refreshes(&self) -> usize {
        self.world().tokens.refused
    }

    /// The refresh token that is good now.
    pub fn refresh_token(&self) -> Option<String> {
        self.world().tokens.refresh_token()
    }

    /// Every address that was registered, in order.
    pub fn registrations(&self) -> Vec<String> {
        self.world().registrations.clone()
    }

    /// Where webhooks go now.
    pub fn registered(&self) -> Option<String> {
        self.world().webhook.clone()
    }

    /// Every webhook that was sent, in order, and how it was answered.
    pub fn deliveries(&self) -> Vec<Delivery> {
        self.shared.poster.deliveries()
    }

    /// How many requests came to a path.
    pub fn calls(&self, path: &str) -> usize {
        lock(&self.shared.seen).calls.get(path).copied().unwrap_or_default()
    }

    /// The most calls that were ever in flight at once; Netatmo allows one. Those that hang half
    /// open do not count.
    pub fn in_flight_max(&self) -> usize {
        self.shared.in_flight_max.load(Ordering::SeqCst)
    }

    fn change<T>(&self, change: impl FnOnce(&mut World) -> T) -> T {
        self.shared.change(change)
    }

    fn world(&self) -> MutexGuard<'_, World> {
        lock(&self.shared.world)
    }
}

impl Shared {
    /// Changes the world and hands on what is to be told of it.
    fn change<T>(&self, change: impl FnOnce(&mut World) -> T) -> T {
        let mut world = lock(&self.world);
        let changed = change(&mut world);
        // Within the lock, so that webhooks leave in the order in which things happened.
        world.outbox.drain(..).for_each(|post| self.poster.take(post));
        changed
    }

    fn note(&self, path: &str) {
        *lock(&self.seen).calls.entry(path.to_string()).or_default() += 1;
    }

    fn remember(&self, received: Received) {
        let mut seen = lock(&self.seen);
        if seen.received.len() == RECEIVED_MAX {
            seen.received.remove(0);
        }
        seen.received.push(received);
    }
}

/// A panic elsewhere leaves plain collections behind that are still whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
