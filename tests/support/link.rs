//! A house around one driver, without rules: a real journal and way in, orders by hand, and a look
//! at what the driver told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use portero::action::ActionId;
use portero::clock::Clock;
use portero::command::{Command, Repeat};
use portero::disk::OsDisk;
use portero::event::{Event, Heard, Trust};
use portero::index::Index;
use portero::intake::Intake;
use portero::journal::Journal;
use portero::ledger::Ledger;
use portero::record::{Quarantined, Record};
use portero::systems::link::{Keep, Link, Order, Reply, UnreadBody};
use serde_json::{Map, Value};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// As long as a test waits for something that must come.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct TestHouse {
    folder: tempfile::TempDir,
    journal: Journal,
    intake: Intake,
}

/// One run of a driver.
#[allow(dead_code)] // Not every test uses all of it.
pub struct Run {
    pub orders: mpsc::Sender<Order>,
    pub stopping: CancellationToken,
}

#[allow(dead_code)] // Not every test uses all of it.
impl TestHouse {
    pub async fn new() -> TestHouse {
        let folder = tempfile::tempdir().unwrap();
        let disk = OsDisk::create(folder.path().join("journal")).unwrap();
        let opened = Journal::open(Arc::new(disk), Default::default(), Clock::system()).await;
        let (journal, _) = opened.unwrap();
        let (index, _) = Index::open(folder.path().join("index")).unwrap();
        let (direct, mut dropped) = mpsc::channel(16);
        tokio::spawn(async move { while dropped.recv().await.is_some() {} });
        let intake = Intake::new(journal.clone(), Arc::new(index), Clock::system(), direct);
        TestHouse { folder, journal, intake }
    }

    /// A link for the next run of a driver: it knows what earlier runs told.
    pub fn link(&self, source: &str) -> (Link, Run) {
        let ledger = self.ledger();
        let (sender, orders) = mpsc::channel(64);
        let stopping = CancellationToken::new();
        let known = ledger.memory.known().below(source);
        let unread = ledger.unread.iter().filter(|(_, body)| body.source == source);
        let link = Link {
            source: source.into(),
            clock: Clock::system(),
            trust: Trust::Fresh,
            known: known.map(|(path, entry)| (path.into(), entry.value.clone())).collect(),
            unread: unread
                .map(|(id, body)| UnreadBody { id: *id, received: body.received, raw: body.raw() })
                .collect(),
            orders,
            keep: Keep::new(&self.folder.path().join("systems"), source).unwrap(),
            stopping: stopping.clone(),
            intake: self.intake.clone(),
            is_up: None,
        };
        (link, Run { orders: sender, stopping })
    }

    fn ledger(&self) -> Ledger {
        let mut ledger = Ledger::default();
        self.records().iter().for_each(|record| ledger.apply(record));
        ledger
    }

    fn records(&self) -> Vec<Record> {
        let entries = self.journal.read(self.journal.first());
        entries.map(|entry| entry.unwrap().record).collect()
    }

    /// Takes in what came another way than by the driver.
    pub async fn take(&self, heard: Vec<Heard>) {
        self.intake.take(heard).await;
    }

    /// All events so far.
    pub fn events(&self) -> Vec<Arc<Event>> {
        let seen = |record| match record {
            Record::Seen(event) => Some(event),
            _ => None,
        };
        self.records().into_iter().filter_map(seen).collect()
    }

    /// All events of one type so far.
    pub fn events_of(&self, kind: &str) -> Vec<Arc<Event>> {
        self.events().into_iter().filter(|event| event.kind == kind).collect()
    }

    /// What is known at a path.
    pub fn state(&self, path: &str) -> Option<Value> {
        self.ledger().memory.state(path).map(|entry| entry.value.clone())
    }

    /// Everything known below a path.
    pub fn states(&self, path: &str) -> BTreeMap<String, Value> {
        let ledger = self.ledger();
        let below = ledger.memory.known().below(path);
        below.map(|(path, entry)| (path.into(), entry.value.clone())).collect()
    }

    /// Messages that were kept because they could not be understood.
    pub fn bad(&self) -> Vec<Quarantined> {
        self.intake.quarantined()
    }

    /// Waits until `found` finds something.
    pub async fn until<T>(&self, what: &str, mut found: impl FnMut(&TestHouse) -> Option<T>) -> T {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            if let Some(found) = found(self) {
                return found;
            }
            if tokio::time::Instant::now() > deadline {
                let events: Vec<_> = self.events().iter().map(|e| e.kind.clone()).collect();
                panic!("waited for {what}; events so far: {events:?}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits for the `count`-th event of a type.
    pub async fn event(&self, kind: &str, count: usize) -> Arc<Event> {
        self.until(kind, |house| house.events_of(kind).get(count - 1).cloned()).await
    }
}

#[allow(dead_code)] // Not every test uses all of it.
impl Run {
    /// Orders something and waits for how it went.
    pub async fn order(&self, to: &str, call: &str, args: Value) -> Reply {
        self.secret_order(to, call, args, Map::new()).await
    }

    /// The same with secrets.
    pub async fn secret_order(
        &self,
        to: &str,
        call: &str,
        args: Value,
        secrets: Map<String, Value>,
    ) -> Reply {
        let Value::Object(args) = args else { panic!("arguments are an object") };
        let command = Command {
            to: to.into(),
            call: call.into(),
            args,
            repeat: Repeat::Never,
            trust: Trust::Human,
        };
        let (reply, answer) = oneshot::channel();
        let deadline = Clock::system().now() + PATIENCE;
        self.orders
            .send(Order { id: ActionId([0; 16]), command, secrets, deadline, reply })
            .await
            .unwrap();
        let answered = tokio::time::timeout(PATIENCE, answer).await.expect("no reply");
        answered.unwrap_or_else(|_| Reply::Unknown("the driver dropped it".into()))
    }
}
