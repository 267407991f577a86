//! `portero run`: the doorkeeper itself.

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{At, BadConfig};
use crate::app::{App, StartError};
use crate::config::Config;
use crate::telemetry;

/// Threads for everything but HTTP and the journal, which have their own. On one core a second
/// one would only take turns with the first.
const CORE_THREADS_MAX: usize = 2;

/// `portero run`.
pub fn run(at: &At) -> anyhow::Result<u8> {
    let config = super::config(&at.config)?;
    telemetry::logs(config.log);
    runtime()?.block_on(async {
        let mut signals = Signals::listen()?;
        let app = start(config, false).await?;
        tracing::info!(listen = %app.listen, admin = %app.admin, "ready");
        signals.asked().await;
        stop(app, signals).await
    })
}

/// The runtime that the server's tasks run on.
pub fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder
        .worker_threads(threads.min(CORE_THREADS_MAX))
        .enable_all()
        .build()
        .context("cannot start threads")
}

/// Starts the app; bad rules are drawn like a bad config.
pub async fn start(config: Config, demo: bool) -> anyhow::Result<App> {
    match App::start(config, demo).await {
        Ok(app) => Ok(app),
        Err(StartError::Rules(problems)) => Err(BadConfig::from(&problems).into()),
        Err(error @ StartError::Secrets(_)) => Err(BadConfig(error.to_string()).into()),
        Err(error) => Err(error.into()),
    }
}

/// SIGTERM and SIGINT, listened for before anything starts: one that comes early is not lost.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Begins to listen.
    pub fn listen() -> anyhow::Result<Signals> {
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        Ok(Signals { terminate, interrupt })
    }

    /// Returns when somebody asks the process to stop.
    pub async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Stops in order; a second signal stops at once, which loses nothing that was acknowledged.
pub async fn stop(app: App, mut signals: Signals) -> anyhow::Result<u8> {
    tracing::info!("stopping");
    tokio::select! {
        () = app.stop() => Ok(0),
        () = signals.asked() => Ok(super::FAILED),
    }
}
