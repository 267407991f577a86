//! HTTP: webhooks in, the page and its API out, and an admin address for the machine itself.
//! Handlers hold no state of their own: they read views, append to the journal, or ask the router.

pub mod admin;
pub mod alerts;
mod api;
pub mod commands;
pub mod dead;
pub mod doors;
pub mod drill;
pub mod hooks;
pub mod oauth;
mod pair;
mod session;
mod stream;
mod tickets;
pub mod timeline;
mod ui;

use std::collections::{BTreeMap, HashMap};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actix_web::dev::Server;
use actix_web::middleware::{Compress, DefaultHeaders};
use actix_web::{App, HttpServer, web};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::command::Spec;
use crate::delivery::commands::Commands;
use crate::delivery::doors::Doors;
use crate::delivery::push::endpoint::Policy;
use crate::intake::Intake;
use crate::journal::Journal;
use crate::phones::{Ask, Denied};
use crate::reload::RulesStatus;
use crate::router::{Message, View};
use crate::secret::Secret;

use hooks::NetatmoHook;
use oauth::Consents;
use tickets::Tickets;
use timeline::Timeline;

/// How long a connection may take over the head of its first request: a slow-loris sender holds
/// a connection no longer than this.
const HEAD_WITHIN: Duration = Duration::from_secs(5);

/// Connections a worker keeps at once; more wait in the kernel's queue. Bounds what a flood of
/// idle connections can cost, at some 20 KiB each.
const CONNECTIONS_PER_WORKER_MAX: usize = 4_096;

/// Open files that connections leave to the journal, the index, the rules and the pushes: where
/// few are allowed, a flood of connections must not keep us from writing.
const OPEN_FILES_KEPT: usize = 128;

/// How long an idle keep-alive connection is kept: above the 60 s of common reverse proxies.
const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// JSON bodies of the page's API.
const JSON_BYTES_MAX: usize = 16 * 1024;

/// How long requests under way may take to end when the server stops.
const DRAIN_WITHIN_S: u64 = 10;

/// Everything the handlers see; one for the whole process.
pub struct Face {
    /// The way in for events.
    pub intake: Intake,
    /// For reading old events.
    pub journal: Journal,
    /// Commands to systems.
    pub commands: Commands,
    /// Doors, to be opened by people.
    pub doors: Doors,
    /// Which phones were shown a door and may press now.
    pub tickets: Tickets,
    /// Every system that the config names, and what it can be told.
    pub sources: BTreeMap<String, &'static [Spec]>,
    /// The router's ear.
    pub router: mpsc::Sender<Message>,
    /// The router's view of phones and sessions.
    pub view: watch::Receiver<Arc<View>>,
    /// The latest events.
    pub timeline: Arc<Timeline>,
    /// What the rule files are like now.
    pub rules: watch::Receiver<RulesStatus>,
    /// Configured Netatmo webhooks by name.
    pub hooks: HashMap<String, Arc<NetatmoHook>>,
    /// Where people let Portero in at Netatmo, by account.
    pub oauth: HashMap<String, Arc<Consents>>,
    /// Our VAPID public key, base64url.
    pub vapid: String,
    /// Signs and checks delivery receipts.
    pub receipt_key: Secret,
    /// Where the page lives as phones see it.
    pub public_url: url::Url,
    /// The house's time zone, for the page.
    pub time_zone: String,
    /// Which push endpoints are called.
    pub endpoints: Policy,
    /// Whether this is `portero demo`.
    pub demo: bool,
    /// In the demo, the session that a visitor on this machine is given.
    pub demo_session: OnceLock<Secret>,
    /// Wrong pairing codes.
    pub tries: pair::Tries,
    /// Cancelled when the server stops.
    pub stopping: CancellationToken,
    /// Renders the metrics.
    pub metrics: PrometheusHandle,
    /// Whether events can be taken.
    pub ready: watch::Receiver<bool>,
    /// Opens the admin address's control calls.
    pub control_token: Secret,
    /// Whom phones may belong to.
    pub people: Vec<String>,
}

impl Face {
    /// Has the router change the list of phones.
    pub async fn ask(&self, ask: Ask) -> Result<(), Denied> {
        let (reply, answer) = oneshot::channel();
        self.send(Message::Phone(ask, reply)).await?;
        answer.await.map_err(|_| Denied::Stopping)?
    }

    /// Sends the router a message.
    pub async fn send(&self, message: Message) -> Result<(), Denied> {
        self.router.send(message).await.map_err(|_| Denied::Stopping)
    }

    /// Lets every visitor from this machine in as the demo's phone.
    pub fn set_demo_session(&self, token: Secret) {
        // Set once, by the demo; a second phone would not be shown anyway.
        let _ = self.demo_session.set(token);
    }

    /// Whether browsers reach the page over TLS.
    pub fn secure(&self) -> bool {
        self.public_url.scheme() == "https"
    }

    /// The link that pairs a phone; the code stands behind `#`, which no server ever sees.
    pub fn pair_link(&self, code: &Secret) -> String {
        pair_link(&self.public_url, code)
    }
}

/// See [`Face::pair_link`].
pub fn pair_link(public_url: &url::Url, code: &Secret) -> String {
    format!("{}/#pair={}", public_url.as_str().trim_end_matches('/'), code.expose())
}

/// The limits that both servers share; signals are the app's business.
macro_rules! limits {
    ($server:expr, $workers:expr) => {
        $server
            .workers($workers)
            .client_request_timeout(HEAD_WITHIN)
            .keep_alive(KEEP_ALIVE)
            .max_connections(connections_per_worker_max(open_files_max(), $workers))
            .shutdown_timeout(DRAIN_WITHIN_S)
            .disable_signals()
    };
}

/// How many files this process may have open, where the system tells (proc(5), `limits`).
fn open_files_max() -> Option<usize> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn connections_per_worker_max(open_files: Option<usize>, workers: usize) -> usize {
    let by_files = open_files.map_or(usize::MAX, |all| all.saturating_sub(OPEN_FILES_KEPT));
    (by_files / workers.max(1)).clamp(1, CONNECTIONS_PER_WORKER_MAX)
}

/// Serves webhooks and the page on `listener` until stopped.
pub fn serve(
    face: web::Data<Face>,
    listener: TcpListener,
    workers: usize,
) -> std::io::Result<Server> {
    let server = HttpServer::new(move || {
        App::new()
            .app_data(face.clone())
            .app_data(web::JsonConfig::default().limit(JSON_BYTES_MAX).error_handler(bad_json))
            .configure(|app| hooks::routes(&face.hooks, app))
            .configure(oauth::routes)
            .app_data(web::QueryConfig::default().error_handler(bad_query))
            .service(web::scope("/api").wrap(private()).configure(api::routes))
            .service(
                web::scope("").wrap(Compress::default()).default_service(web::get().to(ui::file)),
            )
    });
    Ok(limits!(server, workers).listen(listener)?.run())
}

/// Serves health, metrics and control on the admin listener until stopped.
pub fn serve_admin(face: web::Data<Face>, listener: TcpListener) -> std::io::Result<Server> {
    let server = HttpServer::new(move || {
        App::new()
            .app_data(face.clone())
            .app_data(web::JsonConfig::default().limit(JSON_BYTES_MAX).error_handler(bad_json))
            .configure(admin::routes)
    });
    Ok(limits!(server, 1).listen(listener)?.run())
}

/// Binds, with the address in the error.
pub fn bind(address: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(address).map_err(|error| format!("cannot listen on {address}: {error}"))
}

/// What the API answers is for this browser and this moment, and is nothing but JSON.
fn private() -> DefaultHeaders {
    DefaultHeaders::new()
        .add(("cache-control", "no-store"))
        .add(("x-content-type-options", "nosniff"))
        .add(("content-security-policy", "default-src 'none'; frame-ancestors 'none'"))
}

fn bad_query(
    error: actix_web::error::QueryPayloadError,
    _: &actix_web::HttpRequest,
) -> actix_web::Error {
    session::ApiError::Bad(error.to_string()).into()
}

fn bad_json(
    error: actix_web::error::JsonPayloadError,
    _: &actix_web::HttpRequest,
) -> actix_web::Error {
    session::ApiError::Bad(error.to_string()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_files_to_the_journal() {
        assert_eq!(connections_per_worker_max(None, 4), CONNECTIONS_PER_WORKER_MAX);
        assert_eq!(connections_per_worker_max(Some(1 << 20), 4), CONNECTIONS_PER_WORKER_MAX);
        assert_eq!(connections_per_worker_max(Some(1024), 4), 224);
        assert_eq!(connections_per_worker_max(Some(64), 4), 1);
        assert!(open_files_max().is_none_or(|files| files > 0));
    }
}
