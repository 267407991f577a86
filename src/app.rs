//! Wiring: takes a config, puts the parts together in the order in which they depend on each
//! other, and takes them down in the opposite one. No part knows this file.

mod indexer;

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::web::Data;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::action::{Action, Lane};
use indexer::Indexer;

use crate::clock::Clock;
use crate::config::Config;
use crate::delivery;
use crate::delivery::push::client::{self, PushClient};
use crate::delivery::push::endpoint::Policy;
use crate::delivery::push::payload::Composer;
use crate::delivery::push::vapid::{Contact, Vapid, VapidKeys};
use crate::disk::OsDisk;
use crate::event::Event;
use crate::index::{Condition, Index, StateRow};
use crate::intake::Intake;
use crate::journal::{Entry, Journal, Reader};
use crate::ledger::Ledger;
use crate::node::Problems;
use crate::record::{Checkpoint, Position, Record};
use crate::reload::{Reloader, RulesStatus, Started};
use crate::router::{Inbox, Message, Router, View};
use crate::rules::RuleSet;
use crate::secret::{Secret, fingerprint, hex, random_token};
use crate::systems::netatmo::health::{BadSignatures, BanWatch};
use crate::systems::netatmo::session::Session;
use crate::systems::tls;
use crate::telemetry;
use crate::web::hooks::NetatmoHook;
use crate::web::timeline::{Change, Latest, Timeline};
use crate::web::{self, Face};

/// Messages to the router under way; a page that asks waits for its turn.
const MESSAGES_MAX: usize = 256;

/// Events under way that the journal could not take.
const DIRECT_MAX: usize = 4_096;

/// How long pushes under way may take to be answered when the server stops; what is not answered
/// is sent again after the restart.
const DELIVERY_GRACE: Duration = Duration::from_secs(3);

/// How often a checkpoint is written and old segments are looked for, beside every new segment.
const KEEP_HOUSE_EVERY: Duration = Duration::from_secs(3600);

/// A running doorkeeper.
pub struct App {
    /// Where webhooks and the page are served.
    pub listen: SocketAddr,
    /// Where health, metrics and control are served.
    pub admin: SocketAddr,
    /// What the handlers see.
    pub face: Data<Face>,
    router: mpsc::Sender<Message>,
    delivery: delivery::Handle,
    journal: Journal,
    servers: [ServerHandle; 2],
    ready: watch::Sender<bool>,
    stopping: CancellationToken,
    indexing: CancellationToken,
    indexer: JoinHandle<()>,
    store: PathBuf,
    _lock: StoreLock,
}

/// Why it did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Bad rules and no earlier good ones.
    #[error("the rules are bad")]
    Rules(Problems),
    /// Secrets that the config names are not there.
    #[error("{}", .0.join("\n"))]
    Secrets(Vec<String>),
    /// Another one works on the same data.
    #[error("{0} is in use by another portero")]
    InUse(PathBuf),
    /// Something that the system refuses.
    #[error("{0}")]
    System(String),
}

/// Says what could not be done, with the system's reason.
fn system(what: impl std::fmt::Display) -> impl FnOnce(Box<dyn std::error::Error>) -> StartError {
    move |error| StartError::System(format!("{what}: {error}"))
}

/// `error.map_err(cannot("open the journal"))?`
macro_rules! cannot {
    ($result:expr, $($what:tt)*) => {
        $result.map_err(|error| system(format_args!($($what)*))(error.into()))
    };
}

impl App {
    /// Starts everything; webhooks are taken when it returns.
    pub async fn start(config: Config, demo: bool) -> Result<App, StartError> {
        if !config.missing.is_empty() {
            return Err(StartError::Secrets(config.missing));
        }
        let metrics = telemetry::metrics();
        let (clock, store) = (Clock::system(), config.store.path.clone());
        let lock = StoreLock::take(&store)?;
        // One that was killed left its word behind; until ours is there, nobody is to be called.
        Control::remove(&store);
        let keys = Keys::load_or_make(&store)?;
        let reloader = Reloader {
            folder: config.rules.clone(),
            kept: store.join("rules.json"),
            house: config.house.clone(),
        };
        let Started { rules, status, stamp } =
            reloader.start(clock.now()).map_err(StartError::Rules)?;
        let Core { journal, intake, timeline, delivery, router, view, index, indexing, indexer } =
            Core::start(&config, &keys, &clock, rules).await?;
        let stopping = CancellationToken::new();
        let (shown, status) = watch::channel(status);
        let reloading =
            reloader.run(stamp, router.clone(), intake.clone(), shown, stopping.clone());
        tokio::spawn(reloading);
        tokio::spawn(keep_house(journal.clone(), index, router.clone(), stopping.clone()));
        tokio::spawn(show_status(timeline.clone(), status.clone()));

        tokio::spawn(telemetry::keep_metrics(metrics.clone(), stopping.clone()));
        let (ready, is_ready) = watch::channel(true);
        let face = Data::new(Face {
            intake,
            journal: journal.clone(),
            router: router.clone(),
            view,
            timeline,
            rules: status,
            hooks: hooks(&config),
            vapid: keys.vapid.public_key().to_string(),
            receipt_key: keys.receipt,
            public_url: config.server.public_url.clone(),
            time_zone: config.house.time_zone.iana_name().unwrap_or("").to_string(),
            endpoints: Policy::from_config(config.push.allow_insecure_endpoints),
            demo,
            demo_session: Default::default(),
            tries: Default::default(),
            stopping: stopping.clone(),
            metrics,
            ready: is_ready,
            control_token: random_token(),
            people: config.house.people.iter().cloned().collect(),
        });
        let (servers, listen, admin) = serve(&config, &face)?;
        let control = Control { admin, token: face.control_token.expose().to_string() };
        cannot!(control.write(&store), "cannot write to {}", store.display())?;
        Ok(App {
            listen,
            admin,
            face,
            router,
            delivery,
            journal,
            servers,
            ready,
            stopping,
            indexing,
            indexer,
            store,
            _lock: lock,
        })
    }

    /// Stops taking events, decides and stores what was taken, and ends. What is not delivered
    /// by then is sent after the next start.
    pub async fn stop(self) {
        self.ready.send_replace(false);
        self.stopping.cancel();
        Control::remove(&self.store);
        for server in &self.servers {
            server.stop(true).await;
        }
        // Whatever was submitted is durable and on its way to the router before it drains.
        if let Err(error) = self.journal.barrier().await {
            tracing::error!(%error, "the journal cannot be written while stopping");
        }
        let (reply, drained) = oneshot::channel();
        if self.router.send(Message::Drain(reply)).await.is_ok() {
            // An error means that the router is gone, which is what is waited for.
            let _ = drained.await;
        }
        let owed = self.delivery.drain(DELIVERY_GRACE).await;
        let _ = self.journal.barrier().await;
        self.indexing.cancel();
        // Whatever it could not write is folded in at the next start.
        let _ = self.indexer.await;
        tracing::info!(owed, "stopped");
    }
}

/// The parts between the way in and the phones, running.
struct Core {
    journal: Journal,
    intake: Intake,
    timeline: Arc<Timeline>,
    delivery: delivery::Handle,
    router: mpsc::Sender<Message>,
    view: watch::Receiver<Arc<View>>,
    index: Arc<Index>,
    indexing: CancellationToken,
    indexer: JoinHandle<()>,
}

impl Core {
    async fn start(
        config: &Config,
        keys: &Keys,
        clock: &Clock,
        rules: Arc<RuleSet>,
    ) -> Result<Core, StartError> {
        let Recovered { journal, ledger, applied, undecided, latest } =
            recover(config, clock).await?;
        let index = open_index(&config.store.path.join("index"), &journal, &ledger)?;
        let index = Arc::new(index);
        let (direct_in, direct) = mpsc::channel(DIRECT_MAX);
        let intake = Intake::new(journal.clone(), index.clone(), clock.clone(), direct_in);
        let indexing = CancellationToken::new();
        let indexer = Indexer::new(index.clone(), intake.clone());
        let indexer = tokio::spawn(indexer.run(journal.subscribe(), indexing.clone()));
        let timeline = Arc::new(Timeline::new(latest));
        tokio::spawn(show_batches(timeline.clone(), journal.subscribe()));
        let delivery = start_delivery(config, keys, &ledger, &journal, clock)?;
        let (show, view) = watch::channel(Arc::new(View::default()));
        let (router, messages) = mpsc::channel(MESSAGES_MAX);
        let inbox = Inbox { entries: journal.subscribe(), direct, messages };
        let task = Router {
            ledger,
            rules,
            journal: journal.clone(),
            delivery: delivery.clone(),
            intake: intake.clone(),
            clock: clock.clone(),
            view: show,
            applied,
        };
        tokio::spawn(task.run(undecided, inbox));
        Ok(Core { journal, intake, timeline, delivery, router, view, index, indexing, indexer })
    }
}

fn serve(
    config: &Config,
    face: &Data<Face>,
) -> Result<([ServerHandle; 2], SocketAddr, SocketAddr), StartError> {
    let public = web::bind(config.server.listen).map_err(StartError::System)?;
    let private = web::bind(config.server.admin).map_err(StartError::System)?;
    let listen = cannot!(public.local_addr(), "no address")?;
    let admin = cannot!(private.local_addr(), "no address")?;
    let workers = config.server.workers;
    let public = cannot!(web::serve(face.clone(), public, workers), "cannot serve on {listen}")?;
    let private = cannot!(web::serve_admin(face.clone(), private), "cannot serve on {admin}")?;
    let handles = [public.handle(), private.handle()];
    tokio::spawn(public);
    tokio::spawn(private);
    Ok((handles, listen, admin))
}

fn hooks(config: &Config) -> HashMap<String, Arc<NetatmoHook>> {
    let hook = |(name, netatmo): (&String, &crate::systems::netatmo::Config)| {
        let hook = NetatmoHook {
            source: format!("netatmo/{name}"),
            config: netatmo.clone(),
            session: Session::new(name, netatmo),
            watch: Mutex::new((BanWatch::default(), BadSignatures::default())),
            seconds: metrics::histogram!("portero_webhook_seconds"),
        };
        (name.clone(), Arc::new(hook))
    };
    config.netatmo.iter().map(hook).collect()
}

fn start_delivery(
    config: &Config,
    keys: &Keys,
    ledger: &Ledger,
    journal: &Journal,
    clock: &Clock,
) -> Result<delivery::Handle, StartError> {
    let contact = cannot!(Contact::parse(&config.push.contact), "[push] contact")?;
    let push = PushClient::new(client::Setup {
        policy: Policy::from_config(config.push.allow_insecure_endpoints),
        composer: Composer::new(config.server.public_url.clone(), keys.receipt.clone()),
        vapid: Vapid::new(keys.vapid.clone(), contact),
        roots: cannot!(tls::system_roots(), "Web Push")?,
        timeouts: client::Timeouts::default(),
        clock: clock.clone(),
    });
    let phones = ledger.phones.iter();
    let mut owed: Vec<Action> = ledger.owed.values().cloned().collect();
    // Alarms first, then what is nearest to its end.
    owed.sort_by_key(|action| (action.lane != Lane::Alarm, action.deadline));
    let settle = journal.clone();
    Ok(delivery::start(delivery::Setup {
        phones: phones.filter_map(|(id, p)| Some((id.clone(), p.subscription.clone()?))).collect(),
        owed,
        push: Arc::new(cannot!(push, "Web Push")?),
        clock: clock.clone(),
        // If the journal refuses, the push is sent again after a restart; same tag, same place.
        settle: Box::new(move |records| drop(settle.submit(records))),
    }))
}

/// What the journal says at start.
struct Recovered {
    journal: Journal,
    ledger: Ledger,
    applied: Position,
    undecided: Vec<(Position, Arc<Event>)>,
    latest: Latest,
}

async fn recover(config: &Config, clock: &Clock) -> Result<Recovered, StartError> {
    let folder = config.store.path.join("journal");
    let disk = cannot!(OsDisk::create(&folder), "cannot make {}", folder.display())?;
    let opened = Journal::open(Arc::new(disk), config.store.journal.clone(), clock.clone()).await;
    let (journal, opened) = cannot!(opened, "cannot open the journal in {}", folder.display())?;
    for damage in &opened.damage {
        tracing::error!(%damage, "the journal is damaged; the rest of it is used");
    }
    let folded =
        Folded::fold(opened.checkpoint.as_ref(), &journal.segments(), |from| journal.read(from));
    Ok(Recovered {
        journal,
        applied: opened.end,
        ledger: folded.ledger,
        undecided: folded.undecided.into(),
        latest: folded.latest,
    })
}

/// The index, with everything in it that the journal holds.
fn open_index(path: &Path, journal: &Journal, ledger: &Ledger) -> Result<Index, StartError> {
    let (index, condition) = cannot!(Index::open(path), "cannot open the index")?;
    if let Condition::Damaged { why, moved_to } = condition {
        let moved_to = moved_to.display();
        tracing::warn!(why, %moved_to, "the index is damaged; it is built anew from the journal");
    }
    let done = cannot!(index.catch_up(journal), "cannot bring the index up to date")?;
    if let Some(why) = done.rebuilt {
        tracing::info!(why, entries = done.entries, "the index was built anew");
    }
    if done.is_partial {
        let restored = index.restore(state_rows(ledger), ledger.phones.clone());
        cannot!(restored, "cannot bring the index up to date")?;
    }
    Ok(index)
}

/// State as the checkpoint has it, for an index that is younger than the oldest segment.
fn state_rows(ledger: &Ledger) -> impl Iterator<Item = (String, StateRow)> {
    ledger.memory.states().iter().map(|(path, entry)| {
        let position = Position::default();
        (path.clone(), StateRow { value: entry.value.clone(), trust: entry.trust, position })
    })
}

/// The journal since its newest checkpoint, folded.
pub struct Folded {
    /// What is true now.
    pub ledger: Ledger,
    /// Events that wait for the rules.
    pub undecided: VecDeque<(Position, Arc<Event>)>,
    /// The latest events for the page.
    pub latest: Latest,
}

impl Folded {
    /// Folds the journal from its newest checkpoint on; `read` reads it from a position.
    pub fn fold(
        checkpoint: Option<&(Position, Checkpoint)>,
        segments: &[Position],
        read: impl FnOnce(Position) -> Reader,
    ) -> Folded {
        let first = segments.first().copied().unwrap_or_default();
        let (ledger, as_of) = start_of(checkpoint, first);
        // The page wants some history even right after a checkpoint.
        let from = as_of.min(segments.last().copied().unwrap_or(as_of));
        let mut folded = Folded { ledger, undecided: VecDeque::new(), latest: Latest::default() };
        for entry in read(from) {
            match entry {
                Ok(entry) => folded.entry(&entry, as_of),
                Err(damage) => tracing::error!(%damage, "the journal is damaged here"),
            }
        }
        folded
    }

    fn entry(&mut self, entry: &Entry, as_of: Position) {
        self.latest.apply(entry);
        if entry.position < as_of && !matches!(entry.record, Record::Seen(_)) {
            return;
        }
        match &entry.record {
            Record::Seen(event) if self.ledger.awaits_decision(entry.position) => {
                self.undecided.push_back((entry.position, event.clone()));
            }
            Record::Seen(_) => {}
            other => self.ledger.apply(other),
        }
        let ledger = &self.ledger;
        while self.undecided.front().is_some_and(|(at, _)| !ledger.awaits_decision(*at)) {
            self.undecided.pop_front();
        }
    }
}

fn start_of(checkpoint: Option<&(Position, Checkpoint)>, first: Position) -> (Ledger, Position) {
    let Some((at, checkpoint)) = checkpoint else { return (Ledger::default(), first) };
    match Ledger::from_checkpoint(checkpoint) {
        Ok(ledger) => (ledger, checkpoint.as_of),
        Err(error) => {
            tracing::error!(%at, %error, "the checkpoint cannot be read; reading everything");
            (Ledger::default(), first)
        }
    }
}

async fn show_batches(timeline: Arc<Timeline>, mut batches: mpsc::UnboundedReceiver<Arc<[Entry]>>) {
    while let Some(batch) = batches.recv().await {
        timeline.batch(&batch);
    }
}

/// Tells the pages when rules come into force or are rejected.
async fn show_status(timeline: Arc<Timeline>, mut status: watch::Receiver<RulesStatus>) {
    while status.changed().await.is_ok() {
        timeline.tell(Change::Status);
    }
}

/// Writes checkpoints, and lets old segments go once a checkpoint stands for them.
async fn keep_house(
    journal: Journal,
    index: Arc<Index>,
    router: mpsc::Sender<Message>,
    stopping: CancellationToken,
) {
    let mut first = journal.first();
    let mut rolled = journal.segments_rolled();
    loop {
        tokio::select! {
            () = stopping.cancelled() => return,
            changed = rolled.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(KEEP_HOUSE_EVERY) => {}
        }
        let (reply, answer) = oneshot::channel();
        if router.send(Message::Checkpoint(reply)).await.is_err() {
            return;
        }
        let Ok(Some(as_of)) = answer.await else { continue };
        match journal.retain(as_of).await {
            Ok(retained) if retained.first > first => {
                first = retained.first;
                tracing::info!(%first, "old segments were forgotten");
                if let Err(error) = index.forget_before(first) {
                    tracing::error!(%error, "the index cannot forget");
                }
            }
            Ok(_) => {}
            Err(error) => tracing::error!(%error, "old segments cannot be removed"),
        }
    }
}

/// Our keys, made at first start and kept with the data.
struct Keys {
    vapid: Arc<VapidKeys>,
    receipt: Secret,
}

impl Keys {
    fn load_or_make(store: &Path) -> Result<Keys, StartError> {
        let path = store.join("vapid.pk8");
        let (vapid, bytes) = match std::fs::read(&path) {
            Ok(bytes) => (cannot!(VapidKeys::from_pkcs8(&bytes), "{}", path.display())?, bytes),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let (keys, bytes) = cannot!(VapidKeys::generate(), "cannot make VAPID keys")?;
                cannot!(crate::files::replace(&path, &bytes), "cannot write {}", path.display())?;
                (keys, bytes)
            }
            Err(error) => cannot!(Err(error), "cannot read {}", path.display())?,
        };
        // One file to back up: the receipts' key follows from the VAPID key.
        let receipt = Secret::new(fingerprint(&format!("portero receipts {}", hex(&bytes))));
        Ok(Keys { vapid: Arc::new(vapid), receipt })
    }
}

/// The public key of the VAPID keys that are there already; empty before the first start.
pub fn vapid_public_key(store: &Path) -> String {
    let keys = std::fs::read(store.join("vapid.pk8")).ok();
    let keys = keys.and_then(|bytes| VapidKeys::from_pkcs8(&bytes).ok());
    keys.map_or(String::new(), |keys| keys.public_key().to_string())
}

/// How the command line reaches the running server: readable by the owner only.
#[derive(Serialize, Deserialize)]
pub struct Control {
    /// The admin address.
    pub admin: SocketAddr,
    /// Opens the control calls.
    pub token: String,
}

impl Control {
    /// The running server's, if there is one.
    pub fn read(store: &Path) -> Option<Control> {
        serde_json::from_slice(&std::fs::read(store.join("control.json")).ok()?).ok()
    }

    fn write(&self, store: &Path) -> std::io::Result<()> {
        crate::files::replace(&store.join("control.json"), &serde_json::to_vec(self)?)
    }

    fn remove(store: &Path) {
        // The file is useless without the server; a leftover is overwritten at the next start.
        let _ = std::fs::remove_file(store.join("control.json"));
    }
}

/// Only one process may write the data; the system lets go of the lock when it dies.
pub struct StoreLock(#[expect(dead_code, reason = "held, not read")] std::fs::File);

impl StoreLock {
    /// Whether a process works on the data right now.
    pub fn is_held(store: &Path) -> bool {
        // No file, no process; one that cannot be read belongs to somebody else's server.
        match std::fs::File::open(store.join("lock")) {
            Ok(file) => file.try_lock_shared().is_err(),
            Err(error) => error.kind() != std::io::ErrorKind::NotFound,
        }
    }

    /// Takes the lock, making the data folder if it is missing.
    pub fn take(store: &Path) -> Result<StoreLock, StartError> {
        cannot!(OsDisk::create(store), "cannot make {}", store.display())?;
        let path = store.join("lock");
        let file = std::fs::File::options().create(true).append(true).open(&path);
        let file = cannot!(file, "cannot open {}", path.display())?;
        match file.try_lock() {
            Ok(()) => Ok(StoreLock(file)),
            Err(std::fs::TryLockError::WouldBlock) => Err(StartError::InUse(store.into())),
            Err(std::fs::TryLockError::Error(error)) => {
                cannot!(Err(error), "cannot lock {}", path.display())
            }
        }
    }
}
