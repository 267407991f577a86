//! A driver's link to the rest of Portero: what it heard goes out, commands come in, and the few
//! things it must keep over a restart lie in a file. A driver has nothing else.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::action::ActionId;
use crate::clock::Clock;
use crate::command::Command;
use crate::event::{Event, EventId, Heard, Marks, Trust};
use crate::files;
use crate::intake::{Intake, Taken};
use crate::record::{Becomes, Known, KnownChange, Quarantined};
use crate::systems::json::Mends;

/// The most bytes of one value in a system's known state; a value above is left out and counted.
/// Ten times the largest Indigo device. A driver that can meet larger ones tells something in
/// their place.
pub const VALUE_BYTES_MAX: usize = 256 * 1024;

/// One driver's link; `app` makes it.
pub struct Link {
    /// `fibaro/gate`: the source of its events and the beginning of its state's paths.
    pub source: String,
    /// The wall clock.
    pub clock: Clock,
    /// How far the peer is vouched for while the connection is live: [`Trust::Fresh`], or less if
    /// its certificate is not checked.
    pub trust: Trust,
    /// What was known of this system when Portero stopped, by path.
    pub known: Vec<(String, Value)>,
    /// Bodies that were kept and not read before Portero stopped, oldest first.
    pub unread: Vec<UnreadBody>,
    /// What to tell the system. Closed when Portero stops.
    pub orders: mpsc::Receiver<Order>,
    /// What must survive a restart.
    pub keep: Keep,
    /// Portero stops: log out, release the session, end.
    pub stopping: CancellationToken,
    /// The way in.
    pub intake: Intake,
    /// Whether the connection was up when last said, why not, and since when.
    pub is_up: Option<(bool, String, Timestamp)>,
}

/// See [`Link::unread`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadBody {
    /// Names it, for [`Intake::body_read`].
    pub id: EventId,
    /// When it came.
    pub received: Timestamp,
    /// Its bytes.
    pub raw: Vec<u8>,
}

/// A command on its way to a driver.
#[derive(Debug)]
pub struct Order {
    /// The action that it carries out: the same each time it is tried.
    pub id: ActionId,
    /// What to do; its arguments were checked against the system's table.
    pub command: Command,
    /// Arguments that must not be kept ([`crate::command::Kind::Secret`]), by name.
    pub secrets: Map<String, Value>,
    /// After this moment it must not be sent.
    pub deadline: Timestamp,
    /// How it went. Dropping it means that nobody knows.
    pub reply: oneshot::Sender<Reply>,
}

/// How an order went.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// The system did it; what it answered, `null` if nothing.
    Done(Value),
    /// The system, or our own check, said no for good.
    Refused(String),
    /// It may have left the socket, and no answer came.
    Unknown(String),
    /// It certainly never left: not connected, not logged in.
    Unsent(String),
    /// The system does not take it now and says how long it wants to be left alone.
    Later {
        /// What it answered.
        why: String,
        /// How long.
        after: Duration,
    },
}

/// What a session wants told, in one piece: rules that look at these events see that state.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct News {
    /// What changed in the system's state.
    pub known: Vec<KnownChange>,
    /// What happened.
    pub events: Vec<Heard>,
}

impl News {
    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty() && self.events.is_empty()
    }

    /// Sets a path to a value.
    pub fn set(&mut self, path: impl Into<String>, value: Value) {
        self.known.push(KnownChange { path: path.into(), to: Becomes::Is(value) });
    }

    /// Takes a path away.
    pub fn remove(&mut self, path: impl Into<String>) {
        self.known.push(KnownChange { path: path.into(), to: Becomes::Gone });
    }
}

/// An event as a driver makes one. `unique` is what makes the fact unique within its source: the
/// id derives from it, so the same fact heard twice is one event. If it is caught up, its trust is
/// at most authentic.
pub fn event(
    source: &str,
    kind: &str,
    unique: &[&str],
    trust: Trust,
    caught_up: bool,
    received: Timestamp,
) -> Event {
    let id = EventId::derive([source, kind].into_iter().chain(unique.iter().copied()));
    Event {
        id,
        source: source.to_string(),
        kind: kind.to_string(),
        subject: None,
        time: None,
        received,
        trust: if caught_up { trust.min(Trust::Authentic) } else { trust },
        marks: Marks { caught_up, ..Marks::default() },
        hops: 0,
        data: Map::new(),
        raw: Vec::new(),
    }
}

/// Something was no JSON and could be mended: counted, and said in the log.
pub fn mended(source: &str, mends: Mends) {
    if mends.any() {
        metrics::counter!("portero_mended_total", "source" => source.to_string()).increment(1);
        tracing::info!(source, %mends, "no JSON; mended");
    }
}

// === impl Link ===

impl Link {
    /// Tells news. Returns when they are durable, or go on from memory.
    pub async fn tell(&mut self, mut news: News) -> Taken {
        news.known.retain(|change| self.fits(change));
        let known = Known {
            source: self.source.clone(),
            trust: self.trust,
            at: self.clock.now(),
            changes: news.known,
        };
        self.intake.report(Some(known), news.events).await
    }

    /// The system gave a sign of life: an answer, a pong, a frame.
    pub fn alive(&self) {
        self.intake.contact(&self.source);
    }

    /// Nobody is connected at a start: what a killed process said of it is not true any more.
    pub async fn begin(&mut self) {
        let path = format!("{}/link", self.source);
        let stale = self.known.iter().any(|(known, link)| *known == path && link["up"] == true);
        if stale {
            let mut news = News::default();
            let since = self.clock.now();
            news.set(
                path,
                json!({ "up": false, "since": since, "why": "Portero has just started" }),
            );
            self.tell(news).await;
        }
    }

    /// The connection works, or does not and why. Known as `<source>/link`, and a gauge.
    pub async fn set_up(&mut self, up: bool, why: &str) {
        metrics::gauge!("portero_link_up", "source" => self.source.clone()).set(if up {
            1.0
        } else {
            0.0
        });
        let before = self.is_up.take().filter(|(was, ..)| *was == up);
        let since = before.as_ref().map_or_else(|| self.clock.now(), |(.., since)| *since);
        self.is_up = Some((up, why.to_string(), since));
        if before.as_ref().is_some_and(|(_, said, _)| up || said == why) {
            return;
        }
        if before.is_some() {
            tracing::debug!(source = self.source, why, "still not connected");
        } else if up {
            tracing::info!(source = self.source, "connected");
        } else {
            tracing::warn!(source = self.source, why, "not connected");
        }
        let mut news = News::default();
        news.set(format!("{}/link", self.source), json!({ "up": up, "since": since, "why": why }));
        self.tell(news).await;
    }

    /// Keeps what cannot be understood: counted, visible, and in the journal as far as its rate
    /// allows. It must not hold secrets.
    pub fn bad(&self, reason: impl Into<String>, raw: impl Into<Vec<u8>>) {
        let (source, reason, raw) = (self.source.clone(), reason.into(), raw.into());
        tracing::warn!(source, reason, bytes = raw.len(), "not understood; kept");
        let received = self.clock.now();
        self.intake.quarantine(Quarantined { source, reason, received, raw });
    }

    fn fits(&self, change: &KnownChange) -> bool {
        let bytes = match &change.to {
            Becomes::Is(value) => value.to_string().len(),
            Becomes::Fields { set, .. } => set.values().map(|v| v.to_string().len()).sum(),
            Becomes::SameAs(_) | Becomes::Gone => 0,
        };
        if bytes > VALUE_BYTES_MAX {
            let path = &change.path;
            tracing::warn!(path, bytes, "a value is too large to be kept as state");
        }
        bytes <= VALUE_BYTES_MAX
    }
}

/// Small things that a driver keeps over a restart: tokens, a pinned certificate. Files readable
/// by their owner only, replaced whole and durably.
#[derive(Debug, Clone)]
pub struct Keep {
    folder: PathBuf,
    prefix: String,
}

impl Keep {
    /// Keeps things for `source` below `folder`, which is made if it is missing.
    pub fn new(folder: &Path, source: &str) -> io::Result<Keep> {
        std::fs::create_dir_all(folder)?;
        Ok(Keep { folder: folder.to_path_buf(), prefix: source.replace('/', "-") })
    }

    /// What was kept under this name; nothing if it is not there or cannot be read.
    pub fn read<T: DeserializeOwned>(&self, what: &str) -> Option<T> {
        let path = self.path(what);
        let bytes = std::fs::read(&path).ok()?;
        match serde_json::from_slice(&bytes) {
            Ok(kept) => Some(kept),
            Err(error) => {
                // serde's message may quote the content, which may be a token.
                let (line, column) = (error.line(), error.column());
                tracing::error!(path = %path.display(), line, column, "cannot be read; ignored");
                None
            }
        }
    }

    /// Keeps it; durable when this returns.
    pub fn write<T: Serialize>(&self, what: &str, kept: &T) -> io::Result<()> {
        files::replace(&self.path(what), &serde_json::to_vec(kept)?)
    }

    /// Forgets it.
    pub fn remove(&self, what: &str) -> io::Result<()> {
        match std::fs::remove_file(self.path(what)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn path(&self, what: &str) -> PathBuf {
        self.folder.join(format!("{}-{what}.json", self.prefix))
    }
}
