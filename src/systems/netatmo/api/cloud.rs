//! What the web and the driver tell each other: webhooks heard, consents given, names learned. The
//! webhook's way is the hot one: it stores a number and goes on.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::{Notify, mpsc, oneshot};

use crate::event::Event;
use crate::secret::Secret;

/// Codes that wait for the driver; people consent one at a time.
const CODES_MAX: usize = 4;
/// How long the page waits for the driver: one call that is under way, and one for the code.
const CONSENT_WITHIN: Duration = Duration::from_secs(15);
/// Frames of calls that are remembered: a few busy days of one bell.
const CALLS_MAX: usize = 256;

/// Names by ids in small letters.
pub type Names = BTreeMap<String, String>;

/// The web's side. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Cloud {
    shared: Arc<Shared>,
    codes: mpsc::Sender<Consent>,
}

/// The driver's side.
#[derive(Debug)]
pub struct CloudInbox {
    pub(super) shared: Arc<Shared>,
    pub(super) codes: mpsc::Receiver<Consent>,
    /// The owner's names.
    pub(super) owner: Names,
}

/// A code from Netatmo's page, and who waits to hear how it went.
#[derive(Debug)]
pub(super) struct Consent {
    pub(super) code: Secret,
    pub(super) reply: oneshot::Sender<Result<(), String>>,
}

/// A frame of a call that a webhook told of. The cloud's history knows no session, so a ring heard
/// live is found again by these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallHeard {
    /// Its event type.
    pub kind: String,
    /// Netatmo's id of the visit; an offer has none.
    pub event_id: Option<String>,
    /// And of the part.
    pub subevent_id: Option<String>,
    /// The bell.
    pub device_id: Option<String>,
    /// When it was heard.
    pub at: Timestamp,
}

impl CallHeard {
    /// What matters of an event, if it is a frame of a call that names its session.
    pub fn of(event: &Event) -> Option<CallHeard> {
        let own = |name: &str| event.data.get(name).and_then(Value::as_str).map(String::from);
        own("session_id")?;
        Some(CallHeard {
            kind: event.kind.clone(),
            event_id: own("event_id"),
            subevent_id: own("subevent_id"),
            device_id: own("device_id"),
            at: event.received,
        })
    }
}

impl CloudInbox {
    /// A frame of a call that was heard before this start: the history may tell of it only now.
    pub fn recall(&self, call: CallHeard) {
        self.shared.hear(call);
    }
}

#[derive(Debug, Default)]
pub(super) struct Shared {
    /// When a webhook was last heard, in milliseconds since 1970.
    heard: AtomicI64,
    activated: AtomicBool,
    doubted: AtomicBool,
    changed: AtomicBool,
    moved: AtomicBool,
    pub(super) woken: Notify,
    names: RwLock<Arc<Names>>,
    calls: Mutex<VecDeque<CallHeard>>,
}

impl Cloud {
    /// Both sides of one account.
    pub fn new() -> (Cloud, CloudInbox) {
        Cloud::with_names(&Names::new())
    }

    /// The same for an account whose owner names things.
    pub fn with_names(owner: &Names) -> (Cloud, CloudInbox) {
        let shared = Arc::new(Shared::default());
        let (sender, codes) = mpsc::channel(CODES_MAX);
        let cloud = Cloud { shared: shared.clone(), codes: sender };
        (cloud, CloudInbox { shared, codes, owner: owner.clone() })
    }

    /// A webhook was heard; one of them says that Netatmo has registered us.
    pub fn webhook(&self, now: Timestamp, is_activation: bool) {
        self.shared.heard.store(now.as_millisecond(), Ordering::Relaxed);
        if is_activation {
            self.shared.activated.store(true, Ordering::Release);
            self.shared.woken.notify_one();
        }
    }

    /// A frame of a call was heard.
    pub fn call(&self, call: CallHeard) {
        self.shared.hear(call);
    }

    /// Modules, rooms or homes are no longer what they were.
    pub fn topology(&self) {
        self.shared.changed.store(true, Ordering::Release);
        self.shared.woken.notify_one();
    }

    /// A thing is no longer as it was: its state is asked for soon.
    pub fn moved(&self) {
        self.shared.moved.store(true, Ordering::Release);
        self.shared.woken.notify_one();
    }

    /// Something points at a ban: what was missed is looked for.
    pub fn doubt(&self) {
        self.shared.doubted.store(true, Ordering::Release);
        self.shared.woken.notify_one();
    }

    /// What Netatmo calls this, if the cloud was asked.
    pub fn name(&self, id: &str) -> Option<String> {
        let names = self.shared.names.read().unwrap_or_else(PoisonError::into_inner).clone();
        if names.is_empty() { None } else { names.get(&id.to_lowercase()).cloned() }
    }

    /// Hands over a code from Netatmo's page; how it went, in words for a person.
    pub async fn consent(&self, code: Secret) -> Result<(), String> {
        let (reply, answer) = oneshot::channel();
        let sent = self.codes.try_send(Consent { code, reply });
        sent.map_err(|_| "Portero is busy or stopping; try again".to_string())?;
        match tokio::time::timeout(CONSENT_WITHIN, answer).await {
            Ok(Ok(done)) => done,
            Ok(Err(_)) => Err("Portero is stopping".into()),
            Err(_) => Err("Netatmo does not answer; see whether it went well, or try again".into()),
        }
    }
}

impl Shared {
    fn hear(&self, call: CallHeard) {
        let mut calls = lock(&self.calls);
        if calls.len() == CALLS_MAX {
            calls.pop_front();
        }
        calls.push_back(call);
    }

    pub(super) fn heard(&self) -> Option<Timestamp> {
        let at = self.heard.load(Ordering::Relaxed);
        Timestamp::from_millisecond(at).ok().filter(|_| at != 0)
    }

    pub(super) fn take_activated(&self) -> bool {
        self.activated.swap(false, Ordering::AcqRel)
    }

    pub(super) fn take_doubted(&self) -> bool {
        self.doubted.swap(false, Ordering::AcqRel)
    }

    pub(super) fn take_changed(&self) -> bool {
        self.changed.swap(false, Ordering::AcqRel)
    }

    pub(super) fn take_moved(&self) -> bool {
        self.moved.swap(false, Ordering::AcqRel)
    }

    pub(super) fn learn(&self, names: Names) {
        *self.names.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(names);
    }

    pub(super) fn calls(&self) -> Vec<CallHeard> {
        lock(&self.calls).iter().cloned().collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
