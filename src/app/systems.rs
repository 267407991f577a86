//! The drivers of all systems: each gets its link and a task of its own, so that one that fails
//! leaves the others alone.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::Duration;

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{StartError, cannot, system};
use crate::clock::Clock;
use crate::config::Config;
use crate::event::Trust;
use crate::intake::Intake;
use crate::ledger::Ledger;
use crate::silence::{self, Watch};
use crate::systems::link::{Keep, Link, Order, UnreadBody};
use crate::systems::netatmo::api::{Cloud, CloudInbox};
use crate::systems::{Certificate, emm, fibaro, indigo, netatmo, vms, webhook};

/// Orders under way to one driver; its lane sends one at a time.
const ORDERS_MAX: usize = 16;
/// How long a driver may take to log out.
const STOP_WITHIN: Duration = Duration::from_secs(3);

/// Drivers that are not running yet.
pub struct Drivers(Vec<Driver>);

struct Driver {
    source: String,
    trust: Trust,
    orders: mpsc::Sender<Order>,
    inbox: mpsc::Receiver<Order>,
    run: Box<dyn FnOnce(Link) -> BoxFuture<'static, ()> + Send>,
}

/// Running drivers.
pub struct Running {
    stopping: CancellationToken,
    tasks: JoinSet<()>,
}

/// Both sides of every Netatmo account whose cloud is used.
pub fn clouds(config: &Config) -> (HashMap<String, Cloud>, HashMap<String, CloudInbox>) {
    let both = config.systems.netatmo.keys().map(|name| {
        let names = config.netatmo.get(name).map(|account| &account.names);
        let (cloud, inbox) = names.map_or_else(Cloud::new, Cloud::with_names);
        ((name.clone(), cloud), (name.clone(), inbox))
    });
    both.unzip()
}

impl Drivers {
    /// A driver for each system in the config.
    pub fn new(config: &Config, mut clouds: HashMap<String, CloudInbox>) -> Drivers {
        let mut drivers = Drivers(Vec::new());
        let systems = &config.systems;
        for (name, config) in systems.netatmo.clone() {
            let Some(inbox) = clouds.remove(&name) else { continue };
            drivers.add("netatmo", &name, &Certificate::System, |link| {
                Box::pin(netatmo::api::run(config, inbox, link))
            });
        }
        for (name, config) in systems.fibaro.clone() {
            let certificate = config.certificate.clone();
            drivers.add("fibaro", &name, &certificate, |link| Box::pin(fibaro::run(config, link)));
        }
        for (name, config) in systems.indigo.clone() {
            let certificate = config.certificate.clone();
            drivers.add("indigo", &name, &certificate, |link| Box::pin(indigo::run(config, link)));
        }
        for (name, config) in systems.emm.clone() {
            let certificate = config.certificate.clone();
            drivers.add("emm", &name, &certificate, |link| Box::pin(emm::run(config, link)));
        }
        for (name, config) in systems.vms.clone() {
            let certificate = config.certificate.clone();
            drivers.add("vms", &name, &certificate, |link| Box::pin(vms::run(config, link)));
        }
        for (name, config) in systems.webhooks.clone() {
            drivers.add("webhook", &name, &Certificate::System, |link| {
                Box::pin(webhook::run(config, link))
            });
        }
        drivers
    }

    fn add(
        &mut self,
        system: &str,
        name: &str,
        certificate: &Certificate,
        run: impl FnOnce(Link) -> BoxFuture<'static, ()> + Send + 'static,
    ) {
        let (orders, inbox) = mpsc::channel(ORDERS_MAX);
        // Whoever may pose as the system is not to be trusted with a door.
        let trust = match certificate {
            Certificate::Insecure => Trust::Unverified,
            Certificate::System | Certificate::PinFirst | Certificate::Pin(_) => Trust::Fresh,
        };
        let source = format!("{system}/{name}");
        self.0.push(Driver { source, trust, orders, inbox, run: Box::new(run) });
    }

    /// Where each driver takes its orders.
    pub fn orders(&self) -> HashMap<String, mpsc::Sender<Order>> {
        self.0.iter().map(|driver| (driver.source.clone(), driver.orders.clone())).collect()
    }

    /// Starts them with what is known of their systems.
    pub fn start(
        self,
        store: &Path,
        ledger: &Ledger,
        intake: &Intake,
    ) -> Result<Running, StartError> {
        let (stopping, mut tasks) = (CancellationToken::new(), JoinSet::new());
        let folder = store.join("systems");
        for driver in self.0 {
            let Driver { source, trust, inbox, run, .. } = driver;
            let keep = Keep::new(&folder, &source);
            let keep = cannot!(keep, "cannot make {}", folder.display())?;
            let known = ledger.memory.known().below(&source);
            let mut unread: Vec<UnreadBody> = ledger
                .unread
                .iter()
                .filter(|(_, body)| body.source == source)
                .map(|(id, body)| UnreadBody { id: *id, received: body.received, raw: body.raw() })
                .collect();
            unread.sort_by_key(|body| body.received);
            let mut link = Link {
                clock: intake.clock().clone(),
                trust,
                known: known.map(|(path, entry)| (path.into(), entry.value.clone())).collect(),
                unread,
                orders: inbox,
                keep,
                stopping: stopping.clone(),
                intake: intake.clone(),
                is_up: None,
                source,
            };
            let source = link.source.clone();
            let run = async move {
                link.begin().await;
                run(link).await;
            };
            tasks.spawn(watched(source, Box::pin(run)));
        }
        Ok(Running { stopping, tasks })
    }
}

/// A watch over the sources whose silence the config asks about. `heard` is when each last made an
/// event before the start.
pub fn silence(config: &Config, ledger: &Ledger, heard: &[(String, Timestamp)]) -> Watch {
    let known = ledger.memory.known();
    let mut last: BTreeMap<String, Timestamp> = BTreeMap::new();
    let mut silent = Vec::new();
    for source in config.systems.silent_after.keys() {
        let events = heard.iter().filter(|(name, _)| name == source).map(|(_, at)| *at);
        let states = known.below(source).map(|(_, entry)| entry.at);
        let mut newest = events.chain(states).max();
        if let Some(entry) = known.get(&silence::path(source)) {
            silent.push(source.clone());
            newest = entry.value["last_heard"].as_str().and_then(|at| at.parse().ok());
        }
        last.extend(newest.map(|at| (source.clone(), at)));
    }
    let start = Clock::system().now();
    let watch = Watch::new(config.systems.silent_after.clone(), last, start);
    watch.still_silent(silent.iter().map(String::as_str))
}

/// A driver that ends before it is told to has failed, which is said aloud; its orders are then
/// answered as never sent.
async fn watched(source: String, run: BoxFuture<'static, ()>) {
    use futures_util::FutureExt as _;
    if std::panic::AssertUnwindSafe(run).catch_unwind().await.is_err() {
        tracing::error!(source, "its driver failed (a bug); restart Portero to hear it again");
        metrics::counter!("portero_driver_failures_total", "source" => source).increment(1);
    }
}

impl Running {
    /// Runs something else beside the drivers, which ends with them.
    pub fn spawn<F>(&mut self, task: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tasks.spawn(task(self.stopping.clone()));
    }

    /// Has every driver log out and end.
    pub async fn stop(mut self) {
        self.stopping.cancel();
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_WITHIN, all).await.is_err() {
            tracing::warn!("a system's driver does not end; it is left behind");
        }
    }
}
