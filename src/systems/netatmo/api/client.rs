//! The loop that runs a [`Session`]: asks what it wants asked, one question at a time, and hands on
//! what it wants told. Decides nothing.

use std::collections::HashMap;
use std::future::pending;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::Config;
use super::cloud::{CloudInbox, Consent};
use super::gap::Marks;
use super::session::{Earlier, Now, Output, Past, Session};
use crate::event::Heard;
use crate::secret::random;
use crate::systems::Certificate;
use crate::systems::http::{Answer, Fault, Http};
use crate::systems::link::{Link, News, Order, Reply};
use crate::systems::tls::{Tls, TlsError};

/// What the tokens are kept as.
const TOKENS: &str = "oauth";
/// What is known of the history is kept as this.
const HISTORY: &str = "history";
/// A timer is set no further ahead, so that a wall clock that jumps is noticed.
const SLEEP_MOST: Duration = Duration::from_secs(60);
/// How long a command under way may take when Portero stops. A renewal gets as long: a pair of
/// tokens that nobody reads locks us out.
const STOP_WITHIN: Duration = Duration::from_millis(1500);
/// Events told in one piece.
const TOLD_AT_ONCE_MAX: usize = 50;

struct Client {
    link: Link,
    inbox: CloudInbox,
    session: Session,
    http: Http,
    asking: Option<(u64, JoinHandle<Result<Answer, Fault>>)>,
    replies: HashMap<u64, oneshot::Sender<Reply>>,
    consents: HashMap<u64, oneshot::Sender<Result<(), String>>>,
    next: u64,
    start: Instant,
    /// What is known of the history, as it lies in its file.
    history: Marks,
}

/// Runs until Portero stops.
pub async fn run(config: Config, mut inbox: CloudInbox, mut link: Link) {
    if config.client_secret.is_none() {
        return never(link, inbox, "the app's client_secret is not in the config").await;
    }
    let http = match client(&config, &link) {
        Ok(http) => http,
        Err(error) => return never(link, inbox, &error.to_string()).await,
    };
    let known = std::mem::take(&mut link.known);
    let history: Marks = link.keep.read(HISTORY).unwrap_or_default();
    let earlier = Earlier {
        kept: link.keep.read(TOKENS),
        marks: history.clone(),
        names: std::mem::take(&mut inbox.owner),
    };
    let now = Now { wall: link.clock.now(), run: Duration::ZERO };
    let seed = u64::from_le_bytes(random());
    let session = Session::new(&link.source, link.trust, config, earlier, &known, now, seed);
    if let Some(why) = session.unregistered() {
        tracing::warn!(source = link.source, why, "the webhook is not registered by Portero");
    }
    let client = Client {
        link,
        inbox,
        session,
        http,
        asking: None,
        replies: HashMap::new(),
        consents: HashMap::new(),
        next: 0,
        start: Instant::now(),
        history,
    };
    client.run().await;
}

/// Every call over a connection of its own: one that the server has just closed would leave it
/// unknown whether a lock opened, and calls are minutes apart.
fn client(config: &Config, link: &Link) -> Result<Http, TlsError> {
    Http::new(&config.api, Tls::new(&Certificate::System, &link.keep)?, false)
}

/// There is nothing to do but to say so.
async fn never(mut link: Link, mut inbox: CloudInbox, why: &str) {
    link.set_up(false, why).await;
    let stopping = link.stopping.clone();
    loop {
        tokio::select! {
            biased; // To stop goes first.
            () = stopping.cancelled() => return,
            order = link.orders.recv() => match order {
                Some(order) => drop(order.reply.send(Reply::Unsent(format!("not connected: {why}")))),
                None => return stopping.cancelled().await,
            },
            Some(consent) = inbox.codes.recv() => drop(consent.reply.send(Err(why.to_string()))),
        }
    }
}

impl Client {
    async fn run(mut self) {
        let stopping = self.link.stopping.clone();
        let shared = self.inbox.shared.clone();
        let (mut has_orders, mut has_codes) = (true, true);
        loop {
            let now = self.now();
            let wake = self.session.next_tick(now).min(now.run + SLEEP_MOST);
            let outputs = tokio::select! {
                biased; // To stop goes first, then doors, then people, then what was answered.
                () = stopping.cancelled() => break,
                order = self.link.orders.recv(), if has_orders => match order {
                    Some(order) => self.order(order),
                    None => {
                        has_orders = false;
                        continue;
                    }
                },
                consent = self.inbox.codes.recv(), if has_codes => match consent {
                    Some(consent) => self.consent(consent),
                    None => {
                        has_codes = false;
                        continue;
                    }
                },
                (id, got) = answer(&mut self.asking) => {
                    self.asking = None;
                    self.look();
                    self.session.answered(id, got, self.now())
                }
                () = shared.woken.notified() => self.woken(),
                () = sleep_until(self.start + wake) => {
                    self.look();
                    self.session.tick(self.now())
                }
            };
            self.act(outputs).await;
        }
        self.stop().await;
    }

    fn now(&self) -> Now {
        Now { wall: self.link.clock.now(), run: self.start.elapsed() }
    }

    /// What webhooks told meanwhile.
    fn look(&mut self) {
        let shared = &self.inbox.shared;
        self.session.webhooks(shared.heard(), shared.calls());
    }

    fn woken(&mut self) -> Vec<Output> {
        let shared = self.inbox.shared.clone();
        self.look();
        let mut outputs = Vec::new();
        if shared.take_activated() {
            outputs.extend(self.session.activated(self.now()));
        }
        if shared.take_doubted() {
            outputs.extend(self.session.doubt(self.now()));
        }
        if shared.take_changed() {
            outputs.extend(self.session.changed(self.now()));
        }
        if shared.take_moved() {
            outputs.extend(self.session.moved(self.now()));
        }
        outputs
    }

    fn order(&mut self, order: Order) -> Vec<Output> {
        self.next += 1;
        self.replies.insert(self.next, order.reply);
        self.session.order(self.next, &order.command, order.deadline, self.now())
    }

    fn consent(&mut self, consent: Consent) -> Vec<Output> {
        self.next += 1;
        self.consents.insert(self.next, consent.reply);
        self.session.consent(self.next, consent.code, self.now())
    }

    async fn act(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Ask(id, ask) => {
                    let http = self.http.clone();
                    let task = tokio::spawn(async move { http.call(ask).await });
                    self.asking = Some((id, task));
                }
                Output::Tell(news) => drop(self.link.tell(news).await),
                Output::Found(past, marks) => self.found(past, marks).await,
                Output::Bad { reason, raw } => self.link.bad(reason, raw),
                Output::Up(up, why) => self.link.set_up(up, &why).await,
                Output::Alive => self.link.alive(),
                Output::Names(names) => self.inbox.shared.learn(names),
                done => self.wind_up(done),
            }
        }
    }

    /// What also counts while it stops: replies, and what must be kept.
    fn wind_up(&mut self, output: Output) {
        match output {
            Output::Reply(order, reply) => {
                // Who gave the order may have gone; then nobody wants to know.
                self.replies.remove(&order).map(|sender| sender.send(reply));
            }
            Output::Consented(number, done) => {
                self.consents.remove(&number).map(|sender| sender.send(done));
            }
            Output::Keep(kept) => {
                let written = self.link.keep.write(TOKENS, &kept);
                if let Err(error) = &written {
                    let source = &self.link.source;
                    tracing::error!(source, %error, "the new tokens are not kept: if Portero ends \
                        before they are, a person must consent again; it is tried again and again");
                }
                self.session.written(written.is_ok(), self.now());
            }
            _ => {}
        }
    }

    /// Tells of the history what no webhook has told, then keeps how far it is known: after a
    /// crash between the two the same is told again, under the same ids.
    async fn found(&mut self, past: Vec<Past>, marks: Marks) {
        let intake = &self.link.intake;
        let unheard =
            past.into_iter().filter(|past| !past.alike.iter().any(|id| intake.knows(*id)));
        let events: Vec<Heard> = unheard.map(|past| past.heard).collect();
        for part in events.chunks(TOLD_AT_ONCE_MAX) {
            self.link.tell(News { known: Vec::new(), events: part.to_vec() }).await;
        }
        if marks == self.history {
            return;
        }
        if let Err(error) = self.link.keep.write(HISTORY, &marks) {
            let source = &self.link.source;
            tracing::warn!(source, %error, "how far the history is known is not kept");
        }
        self.history = marks;
    }

    /// A call under way is waited for, a little; orders not sent are said to be so.
    async fn stop(mut self) {
        let until = Instant::now() + STOP_WITHIN;
        self.link.orders.close();
        while let Ok(order) = self.link.orders.try_recv() {
            let _ = order.reply.send(Reply::Unsent("Portero stops".into()));
        }
        if self.asking.is_some()
            && let Ok((id, got)) = timeout_at(until, answer(&mut self.asking)).await
        {
            self.asking = None;
            let outputs = self.session.answered(id, got, self.now());
            outputs.into_iter().for_each(|output| self.wind_up(output));
        }
        for output in self.session.stop() {
            self.wind_up(output);
        }
    }
}

/// The answer to the question under way; never, if none is.
async fn answer(
    asking: &mut Option<(u64, JoinHandle<Result<Answer, Fault>>)>,
) -> (u64, Result<Answer, Fault>) {
    match asking {
        Some((id, task)) => {
            let got = task.await;
            (*id, got.unwrap_or_else(|_| Err(Fault::Unknown("it was given up".into()))))
        }
        None => pending().await,
    }
}
