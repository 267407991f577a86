//! Wiring: takes a config, puts the parts together in the order in which they depend on each
//! other, and takes them down in the opposite one. No part knows this file.

mod indexer;
mod keep;
mod recover;
mod store;
mod systems;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::web::Data;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::action::{Action, Lane};
use crate::alert::AlertId;
use indexer::Indexer;
pub use recover::Folded;
use recover::{Recovered, open_index, recover};
use store::Keys;
pub use store::{Control, StoreLock, vapid_public_key};
use systems::{Drivers, Running};

use crate::clock::Clock;
use crate::config::Config;
use crate::delivery;
use crate::delivery::commands::{self, Commands};
use crate::delivery::doors::{self, Doors};
use crate::delivery::push::client::{self, PushClient};
use crate::delivery::push::endpoint::Policy;
use crate::delivery::push::payload::Composer;
use crate::delivery::push::vapid::{Contact, Vapid};
use crate::disk::wants_space;
use crate::index::Index;
use crate::intake::Intake;
use crate::journal::{Entry, Journal};
use crate::ledger::Ledger;
use crate::node::Problems;
use crate::record::Position;
use crate::reload::{Reloader, RulesStatus, Started};
use crate::router::{Backlog, Inbox, Message, Router, View};
use crate::rules::RuleSet;
use crate::secret::random_token;
use crate::silence;
use crate::systems::netatmo::api::{CallHeard, Cloud, CloudInbox};
use crate::systems::netatmo::health::{BadSignatures, BanWatch};
use crate::systems::netatmo::session::Session;
use crate::systems::tls;
use crate::telemetry;
use crate::web::hooks::NetatmoHook;
use crate::web::oauth::Consents;
use crate::web::timeline::{Change, Timeline};
use crate::web::{self, Face};

/// Messages to the router under way; a page that asks waits for its turn.
const MESSAGES_MAX: usize = 256;

/// Events under way that the journal could not take.
const DIRECT_MAX: usize = 4_096;

/// How long pushes under way may take to be answered when the server stops; what is not answered
/// is sent again after the restart.
const DELIVERY_GRACE: Duration = Duration::from_secs(3);

/// More than the small files take that are written at the start.
const SMALL_BYTES: u64 = 64 << 10;

/// A running doorkeeper.
pub struct App {
    /// Where webhooks and the page are served.
    pub listen: SocketAddr,
    /// Where health, metrics and control are served.
    pub admin: SocketAddr,
    /// What the handlers see.
    pub face: Data<Face>,
    core: Core,
    servers: [ServerHandle; 2],
    ready: watch::Sender<bool>,
    stopping: CancellationToken,
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

use cannot;

impl App {
    /// Starts everything; webhooks are taken when it returns.
    pub async fn start(config: Config, demo: bool) -> Result<App, StartError> {
        if !config.missing.is_empty() {
            return Err(StartError::Secrets(config.missing));
        }
        let metrics = telemetry::metrics();
        let (clock, store) = (Clock::system(), config.store.path.clone());
        cannot!(clock.keep_beating(), "cannot start a thread")?;
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
        let (clouds, inboxes) = systems::clouds(&config);
        let core = Core::start(&config, &keys, &clock, rules, inboxes).await?;
        let stopping = CancellationToken::new();
        let (shown, status) = watch::channel(status);
        let (router, intake) = (core.router.clone(), core.intake.clone());
        tokio::spawn(reloader.run(stamp, router, intake, shown, stopping.clone()));
        let (journal, index) = (core.journal.clone(), core.index.clone());
        tokio::spawn(keep::keep_house(journal, index, core.router.clone(), stopping.clone()));
        tokio::spawn(show_status(core.timeline.clone(), status.clone()));

        tokio::spawn(telemetry::keep_metrics(metrics.clone(), stopping.clone()));
        let (ready, is_ready) = watch::channel(true);
        let face = Data::new(Face {
            intake: core.intake.clone(),
            journal: core.journal.clone(),
            commands: core.commands.clone(),
            doors: core.doors.clone(),
            tickets: Default::default(),
            sources: config.systems.sources(),
            router: core.router.clone(),
            view: core.view.clone(),
            timeline: core.timeline.clone(),
            rules: status,
            hooks: hooks(&config, &clouds),
            oauth: oauth(&config, &clouds),
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
        show_the_way(&control, &store, &core.journal).await?;
        Ok(App { listen, admin, face, core, servers, ready, stopping, store, _lock: lock })
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
        let owed = self.core.stop().await;
        tracing::info!(owed, "stopped");
    }
}

/// Says how the command line reaches us. On a full disk alarms matter more.
async fn show_the_way(
    control: &Control,
    store: &Path,
    journal: &Journal,
) -> Result<(), StartError> {
    let mut written = control.write(store);
    if written.as_ref().is_err_and(wants_space) && journal.make_room(SMALL_BYTES).await {
        written = control.write(store);
    }
    match written {
        Err(error) if wants_space(&error) => {
            tracing::error!(%error, "the command line cannot reach this server");
            Ok(())
        }
        written => cannot!(written, "cannot write to {}", store.display()),
    }
}

/// The parts between the way in and the phones, running.
struct Core {
    journal: Journal,
    intake: Intake,
    timeline: Arc<Timeline>,
    delivery: delivery::Handle,
    commands: Commands,
    doors: Doors,
    drivers: Running,
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
        clouds: HashMap<String, CloudInbox>,
    ) -> Result<Core, StartError> {
        let Recovered { journal, ledger, applied, undecided, latest } =
            recover(config, clock).await?;
        let index = open_index(&config.store.path.join("index"), &journal, &ledger).await?;
        let index = Arc::new(index);
        let (direct_in, direct) = mpsc::channel(DIRECT_MAX);
        let intake = Intake::new(journal.clone(), index.clone(), clock.clone(), direct_in);
        let indexing = CancellationToken::new();
        let indexer = Indexer::new(index.clone(), intake.clone());
        let indexer = tokio::spawn(indexer.run(journal.subscribe(), indexing.clone()));
        let timeline = Arc::new(Timeline::new(latest));
        for (name, cloud) in &clouds {
            let heard = timeline.events_of(&format!("netatmo/{name}"));
            heard.iter().filter_map(|e| CallHeard::of(e)).for_each(|call| cloud.recall(call));
        }
        let heard = timeline.sources().into_iter().map(|(name, at, _)| (name, at));
        let watch = systems::silence(config, &ledger, &heard.collect::<Vec<_>>());
        tokio::spawn(show_batches(timeline.clone(), journal.subscribe()));
        let held = ledger.acknowledged(undecided.iter().map(|(_, event)| &**event));
        // Before anything settles what is owed: the router must hear of that, too.
        let entries = journal.subscribe();
        let delivery = start_delivery(config, keys, &ledger, &held, &journal, clock)?;
        let drivers = Drivers::new(config, clouds);
        let commands = start_commands(&drivers, &ledger, held, &journal, clock);
        end_acknowledged(&ledger, &delivery, &commands);
        let doors = start_doors(config, &drivers, &ledger, applied, &intake);
        let mut drivers = drivers.start(&config.store.path, &ledger, &intake)?;
        drivers.spawn(|stopping| silence::watch(intake.clone(), watch, stopping));
        let (show, view) = watch::channel(Arc::new(View::default()));
        let (router, messages) = mpsc::channel(MESSAGES_MAX);
        let inbox = Inbox { entries, direct, messages };
        let task = Router {
            ledger,
            rules,
            journal: journal.clone(),
            delivery: delivery.clone(),
            commands: commands.clone(),
            doors: doors.clone(),
            intake: intake.clone(),
            clock: clock.clone(),
            view: show,
            applied,
            backlog: Backlog::default(),
        };
        tokio::spawn(task.run(undecided, inbox));
        Ok(Core {
            journal,
            intake,
            timeline,
            delivery,
            commands,
            doors,
            drivers,
            router,
            view,
            index,
            indexing,
            indexer,
        })
    }

    /// Ends all parts in the order of an event's way; how many actions are still owed.
    async fn stop(self) -> usize {
        tokio::join!(self.commands.close(DELIVERY_GRACE), self.doors.close(DELIVERY_GRACE));
        self.drivers.stop().await;
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
        owed
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

fn hooks(config: &Config, clouds: &HashMap<String, Cloud>) -> HashMap<String, Arc<NetatmoHook>> {
    let hook = |(name, netatmo): (&String, &crate::systems::netatmo::Config)| {
        let hook = NetatmoHook {
            source: format!("netatmo/{name}"),
            config: netatmo.clone(),
            session: Session::new(name, netatmo).with_cloud(clouds.get(name).cloned()),
            cloud: clouds.get(name).cloned(),
            watch: Mutex::new((BanWatch::default(), BadSignatures::default())),
            seconds: metrics::histogram!("portero_webhook_seconds"),
        };
        (name.clone(), Arc::new(hook))
    };
    config.netatmo.iter().map(hook).collect()
}

fn start_commands(
    drivers: &Drivers,
    ledger: &Ledger,
    held: Vec<AlertId>,
    journal: &Journal,
    clock: &Clock,
) -> Commands {
    let settle = journal.clone();
    Commands::start(commands::Setup {
        drivers: drivers.orders(),
        owed: ledger.owed.values().cloned().collect(),
        held,
        clock: clock.clone(),
        settle: Box::new(move |records| drop(settle.submit(records))),
    })
}

/// What was owed for alerts that somebody has in hand ends as that.
fn end_acknowledged(ledger: &Ledger, delivery: &delivery::Handle, commands: &Commands) {
    for (id, alert) in ledger.memory.alerts().iter() {
        if let Some(acked) = &alert.acked {
            let why = format!("{} has it in hand ({})", acked.by, acked.via);
            delivery.withdraw(id, &why);
            commands.withdraw(id, &why);
        }
    }
}

/// Where people let Portero in at Netatmo.
fn oauth(config: &Config, clouds: &HashMap<String, Cloud>) -> HashMap<String, Arc<Consents>> {
    let accounts = config.systems.netatmo.iter();
    let known = accounts.filter_map(|(name, api)| {
        let consents = Consents::new(api.clone(), clouds.get(name)?.clone());
        Some((name.clone(), Arc::new(consents)))
    });
    known.collect()
}

fn start_doors(
    config: &Config,
    drivers: &Drivers,
    ledger: &Ledger,
    since: Position,
    intake: &Intake,
) -> Doors {
    let tell = intake.clone();
    Doors::start(doors::Setup {
        doors: config.house.doors.clone(),
        drivers: drivers.orders(),
        owed: ledger.owed.values().cloned().collect(),
        opened: ledger.opened.clone(),
        commanded: ledger.commanded.values().cloned().collect(),
        since,
        clock: intake.clock().clone(),
        report: Box::new(move |event, settled| tell.conclude(event, settled)),
    })
}

fn start_delivery(
    config: &Config,
    keys: &Keys,
    ledger: &Ledger,
    held: &[AlertId],
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
        held: held.to_vec(),
        push: Arc::new(cannot!(push, "Web Push")?),
        clock: clock.clone(),
        // If the journal refuses, the push is sent again after a restart; same tag, same place.
        settle: Box::new(move |records| drop(settle.submit(records))),
    }))
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
