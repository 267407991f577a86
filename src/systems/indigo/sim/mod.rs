//! An Indigo server that is not there: the seven feeds and the HTTP service on one loopback port,
//! with the truth to compare with, and bad manners on demand. For the demo and for tests.

mod house;
mod server;
mod story;
mod world;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Config, Feed};
use crate::clock::Clock;
use crate::secret::Secret;
use crate::systems::Certificate;

pub use house::{dim, measure, set, turn};
use world::{Word, World};

/// The key that the simulator accepts.
pub const KEY: &str = "simulated-key";
/// Frames waiting for one listener; one that takes none is cut off.
const FRAMES_WAITING_MAX: usize = 4_096;

/// A running simulator; it ends when dropped. What can be done with it is on [`Stage`].
#[derive(Debug)]
pub struct Sim {
    stage: Arc<Stage>,
    address: SocketAddr,
}

/// What is played, shared by the port, the story and whoever holds the [`Sim`].
#[derive(Debug)]
pub struct Stage {
    play: Mutex<Play>,
    clock: Clock,
    stop: CancellationToken,
}

/// Everything that changes; short lock, never held across an await. Words are queued under it, so
/// a listener hears them in the order in which they became true.
#[derive(Debug)]
struct Play {
    world: World,
    mischief: Mischief,
    listeners: Vec<Listener>,
    /// Patches held back to come in the wrong order.
    held: Option<Word>,
    commands: Vec<Value>,
    questions: u64,
}

#[derive(Debug)]
struct Listener {
    feed: Feed,
    queue: mpsc::Sender<Out>,
}

/// What a listener's connection does next.
#[derive(Debug, Clone)]
enum Out {
    Text(String),
    Binary(Vec<u8>),
    /// Ends without a goodbye.
    Drop,
    /// Keeps the socket and never answers again.
    Freeze,
}

/// Bad manners. The numbers count down with each patch.
#[derive(Debug, Clone, Default)]
pub struct Mischief {
    /// Patches that are not sent.
    pub lose: u32,
    /// Patches that are sent twice.
    pub duplicate: u32,
    /// Patches that are sent after the one that follows them.
    pub reorder: u32,
    /// Patches without `objectId`.
    pub no_id: u32,
    /// Patches that say `{}`, as the documentation's samples do.
    pub empty: u32,
    /// Frames of rubbish before each patch.
    pub garbage: u32,
    /// How long a list takes.
    pub slow_refresh: Duration,
    /// A slow list is as things were when it was asked for, not as they are when it is sent.
    pub stale_refresh: bool,
    /// Refresh requests that are never answered.
    pub deaf: bool,
    /// The HTTP status that every upgrade is answered with.
    pub refuse: Option<u16>,
    /// A feed that this server does not have.
    pub absent: Option<Feed>,
    /// The HTTP status, without JSON, that every command is answered with.
    pub no_http: Option<u16>,
}

// === impl Sim ===

impl Sim {
    /// A simulator on a free port. Its house lies in UTC.
    pub async fn start(clock: Clock) -> io::Result<Sim> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let world = World::new(local(&clock));
        let play = Play {
            world,
            mischief: Mischief::default(),
            listeners: Vec::new(),
            held: None,
            commands: Vec::new(),
            questions: 0,
        };
        let stop = CancellationToken::new();
        let stage = Arc::new(Stage { play: Mutex::new(play), clock, stop });
        tokio::spawn(server::serve(listener, stage.clone()));
        Ok(Sim { stage, address })
    }

    /// Where it is: `ws://127.0.0.1:…`.
    pub fn url(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// A config that leads to it; none if its address is no URL, which cannot be.
    pub fn config(&self) -> Option<Config> {
        Some(Config {
            url: self.url().parse().ok()?,
            api_key: Some(Secret::new(KEY)),
            key_in_query: false,
            certificate: Certificate::System,
            time_zone: TimeZone::UTC,
            feeds: Feed::ALL.to_vec(),
            refresh: Duration::from_secs(4 * 3600),
        })
    }

    /// Makes plausible things happen, one every `pace`, until told to stop.
    pub fn spawn_story(&self, pace: Duration, stop: CancellationToken) -> JoinHandle<()> {
        tokio::spawn(story::tell(self.stage.clone(), pace, stop))
    }
}

impl Deref for Sim {
    type Target = Stage;

    fn deref(&self) -> &Stage {
        &self.stage
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        self.stage.stop.cancel();
    }
}

// === impl Stage ===

impl Stage {
    /// All objects of a feed, as they truly are.
    pub fn truth(&self, feed: Feed) -> BTreeMap<i64, Value> {
        self.play().world.objects(feed)
    }

    /// Changes an object, and says so.
    pub fn change(&self, feed: Feed, id: i64, how: impl FnOnce(&mut Value)) {
        let mut play = self.play();
        let word = play.world.change(feed, id, how);
        word.into_iter().for_each(|word| play.say_patch(word));
    }

    /// Changes an object, and says nothing.
    pub fn drift(&self, feed: Feed, id: i64, how: impl FnOnce(&mut Value)) {
        self.play().world.drift(feed, id, how);
    }

    /// Adds an object.
    pub fn add(&self, feed: Feed, object: Value) {
        let mut play = self.play();
        let word = play.world.add(feed, object);
        word.into_iter().for_each(|word| play.say(word));
    }

    /// Deletes an object.
    pub fn delete(&self, feed: Feed, id: i64) {
        let mut play = self.play();
        let word = play.world.delete(feed, id);
        word.into_iter().for_each(|word| play.say(word));
    }

    /// Adds a folder, of which nobody is told.
    pub fn add_folder(&self, feed: Feed, id: i64, name: &str) {
        self.play().world.add_folder(feed, id, name);
    }

    /// Writes into the log.
    pub fn log(&self, kind: &str, level: i64, message: &str) {
        let mut play = self.play();
        let word = play.world.log(kind, level, message);
        play.say(word);
    }

    /// Sends any text over a feed.
    pub fn say_text(&self, feed: Feed, text: &str) {
        self.play().send(feed, Out::Text(text.to_string()));
    }

    /// Sends any bytes over a feed.
    pub fn say_binary(&self, feed: Feed, bytes: &[u8]) {
        self.play().send(feed, Out::Binary(bytes.to_vec()));
    }

    /// Cuts a feed's connections.
    pub fn cut(&self, feed: Feed) {
        self.play().send(feed, Out::Drop);
    }

    /// A feed's connections stay, and nothing ever comes over them again.
    pub fn freeze(&self, feed: Feed) {
        self.play().send(feed, Out::Freeze);
    }

    /// Changes its manners.
    pub fn misbehave(&self, how: impl FnOnce(&mut Mischief)) {
        how(&mut self.play().mischief);
    }

    /// The commands that arrived, over HTTP or a feed.
    pub fn commands(&self) -> Vec<Value> {
        self.play().commands.clone()
    }

    /// How many refresh requests arrived.
    pub fn questions(&self) -> u64 {
        self.play().questions
    }

    /// How many connections a feed has.
    pub fn listeners(&self, feed: Feed) -> usize {
        let play = self.play();
        play.listeners.iter().filter(|l| l.feed == feed && !l.queue.is_closed()).count()
    }

    fn play(&self) -> MutexGuard<'_, Play> {
        let mut play = self.play.lock().unwrap_or_else(PoisonError::into_inner);
        play.world.now = local(&self.clock);
        play
    }
}

fn local(clock: &Clock) -> DateTime {
    TimeZone::UTC.to_datetime(clock.now())
}

// === impl Play ===

impl Play {
    fn say(&mut self, (feed, message): Word) {
        self.send(feed, Out::Text(message.to_string()));
    }

    fn say_patch(&mut self, (feed, mut message): Word) {
        for _ in 0..self.mischief.garbage {
            self.send(feed, Out::Text("{\"message\": \"pat".into()));
            self.send(feed, Out::Binary(vec![0xff, 0x00, 0x7b]));
        }
        if take(&mut self.mischief.lose) {
            return;
        }
        if take(&mut self.mischief.reorder) {
            self.held = Some((feed, message));
            return;
        }
        if take(&mut self.mischief.no_id)
            && let Some(fields) = message.as_object_mut()
        {
            fields.remove("objectId");
        }
        if take(&mut self.mischief.empty) {
            message["patch"] = Value::Object(Default::default());
        }
        if take(&mut self.mischief.duplicate) {
            self.say((feed, message.clone()));
        }
        self.say((feed, message));
        if let Some(held) = self.held.take() {
            self.say(held);
        }
    }

    fn send(&mut self, feed: Feed, out: Out) {
        // A listener that takes nothing any more is cut off by losing its queue.
        self.listeners.retain(|listener| {
            listener.feed != feed || listener.queue.try_send(out.clone()).is_ok()
        });
    }
}

fn take(count: &mut u32) -> bool {
    let is_due = *count > 0;
    *count = count.saturating_sub(1);
    is_due
}
