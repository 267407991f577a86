//! An EMM that is not there: the vendor's REST interface on a loopback port, below a prefix, with
//! the quirks of its document and bad manners on demand. For the demo and end-to-end tests.

mod bodies;
mod routes;
mod story;
mod world;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::web::{Data, to};
use actix_web::{App, HttpServer};
use serde_json::{Map, Value};
use url::Url;

pub use bodies::Form;
pub use story::spawn_story;
use world::World;

/// Who may log in.
pub const USERNAME: &str = "portero";

/// With this password, until it is changed.
pub const PASSWORD: &str = "a simulated password";

/// Under which path it is served, as in the vendor's sample.
pub const PREFIX: &str = "/FusionEnterpriseTest";

/// How it behaves. By default well, with the quirks that the document shows for every reply.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// How `/changes` is printed.
    pub form: Form,
    /// Alarms are printed as the vendor's code would if it is as printed: without a key for the
    /// recipient, so that everything after it pairs wrongly.
    pub literal_alarms: bool,
    /// Lists lack the commas that they lack in the document.
    pub sloppy_lists: bool,
    /// States are words.
    pub status_words: bool,
    /// So many next `/changes` are drained and the connection cut.
    pub cut_changes: u32,
    /// So many next `/changes` lose the end of their bodies with the connection.
    pub cut_bodies: u32,
    /// So many next `/changes` are drained into garbage.
    pub garbage_changes: u32,
    /// So many next `/changes` are refused with 403, although the token is good.
    pub refuse_changes: u32,
    /// So many next `/changes` are turned away with 429, after they were drained.
    pub throttle_changes: u32,
    /// The list of active alarms is this, whatever is active.
    pub alarm_list: Option<String>,
    /// Every active alarm is listed with this duration.
    pub duration: Option<i64>,
    /// So many next messages are taken, and the connection cut.
    pub cut_sends: u32,
    /// So many next calls of any kind are cut before anything happens.
    pub drop_calls: u32,
    /// So many next calls end as `error` inside 200.
    pub errors: u32,
    /// Every change is told twice.
    pub duplicates: bool,
    /// Changes are told last first.
    pub reorder: bool,
    /// Accepts and never answers.
    pub half_open: bool,
    /// Answers everything with a page for people.
    pub html: bool,
    /// Answers everything but logins with 403.
    pub forbidden: bool,
    /// Commands are not allowed, everything else is.
    pub read_only: bool,
    /// Answers everything with 429 and this `Retry-After` in seconds.
    pub throttle: Option<u64>,
    /// `/changes` asked for faster than this is a 429.
    pub pace_least: Option<Duration>,
    /// The licence's `Max API Sessions`; none for no limit.
    pub sessions_max: Option<usize>,
    /// How long a token lives; none for ever.
    pub token_life: Option<Duration>,
    /// `events/send` takes only flat fields.
    pub flat_only: bool,
    /// Own properties are below `/users/self` only.
    pub plural_user_only: bool,
}

/// A command as it arrived.
#[derive(Debug, Clone, PartialEq)]
pub struct Received {
    /// `POST users/self/events/send`.
    pub call: String,
    /// Its parameters, of query and body; an `event` is already read.
    pub params: Map<String, Value>,
}

/// The simulator. Clones are the same one.
#[derive(Clone)]
pub struct Sim {
    world: Arc<Mutex<World>>,
    address: SocketAddr,
    server: ServerHandle,
}

impl Sim {
    /// Serves on a free loopback port.
    pub fn start() -> io::Result<Sim> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let world = Arc::new(Mutex::new(World::new()));
        let data = Data::from(world.clone());
        let app = move || App::new().app_data(data.clone()).default_service(to(routes::answer));
        let server = HttpServer::new(app).workers(1).disable_signals().listen(listener)?.run();
        let handle = server.handle();
        tokio::spawn(server);
        Ok(Sim { world, address, server: handle })
    }

    /// Stops at once, leaving calls unanswered.
    pub async fn stop(&self) {
        self.server.stop(false).await;
    }

    /// For `url` in the config.
    pub fn url(&self) -> Url {
        let mut url = Url::parse("http://127.0.0.1").expect("a constant address");
        url.set_path(PREFIX);
        // Cannot fail for an address with a host.
        let _ = url.set_port(Some(self.address.port()));
        url
    }

    /// Changes how it behaves.
    pub fn set(&self, change: impl FnOnce(&mut Options)) {
        change(&mut self.world().options);
    }

    /// A message to our user; its number in the inbox.
    pub fn page(&self, text: &str, priority: bool) -> i64 {
        self.world().page(text, priority, 0)
    }

    /// Somebody reads (5), accepts (7) or answers (9) a message of the inbox.
    pub fn read(&self, id: i64, status: i64) {
        self.world().read(id, status);
    }

    /// An alarm is raised; its number.
    pub fn raise(&self, name: &str, text: &str) -> i64 {
        self.world().raise(name, text)
    }

    /// An alarm ends.
    pub fn clear(&self, id: i64) {
        self.world().clear(id);
    }

    /// An alarm ends and is raised again within the same second, by another message.
    pub fn raise_again(&self, id: i64) {
        self.world().raise_again(id);
    }

    /// A change of a type that nobody has documented.
    pub fn unknown(&self) {
        self.world().unknown();
    }

    /// Somebody subscribes our user to Web Push, or ends that.
    pub fn subscribe(&self, subscribed: bool) {
        self.world().subscribe(subscribed);
    }

    /// All tokens expire now.
    pub fn expire_tokens(&self) {
        self.world().sessions.clear();
    }

    /// How many sessions are open.
    pub fn sessions(&self) -> usize {
        self.world().live_sessions()
    }

    /// The most sessions that were ever open at once.
    pub fn most_sessions(&self) -> usize {
        self.world().most_sessions
    }

    /// How many logins were tried.
    pub fn logins(&self) -> usize {
        self.world().logins
    }

    /// How many times `/changes` was asked for.
    pub fn polls(&self) -> usize {
        self.world().polls
    }

    /// How many times the list of active alarms was asked for.
    pub fn looks(&self) -> usize {
        self.world().looks
    }

    /// The commands that arrived, in order.
    pub fn received(&self) -> Vec<Received> {
        self.world().received.clone()
    }

    /// The truth about alarms: number and name of the active ones.
    pub fn active(&self) -> Vec<(i64, String)> {
        self.world().alarms.iter().map(|(id, alarm)| (*id, alarm.name.clone())).collect()
    }

    /// The truth about the inbox: numbers and texts.
    pub fn inbox(&self) -> Vec<(i64, String)> {
        self.world().inbox.iter().map(|row| (row.id, row.text.clone())).collect()
    }

    /// How many changes wait to be drained.
    pub fn waiting(&self) -> usize {
        self.world().changes.len()
    }

    fn world(&self) -> MutexGuard<'_, World> {
        lock(&self.world)
    }
}

/// A panic elsewhere leaves plain collections behind that are still whole.
fn lock(world: &Mutex<World>) -> MutexGuard<'_, World> {
    world.lock().unwrap_or_else(PoisonError::into_inner)
}
