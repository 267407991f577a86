//! The loop that runs a [`Session`]: asks what it wants asked, each question in a task of its own,
//! and hands on what it wants told. Decides nothing.

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::{self, JoinSet};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::Config;
use super::commands::TRUST_CERTIFICATE;
use super::session::{Kept, Now, Output, Session};
use crate::secret::{hex, random};
use crate::systems::certificate::Watch;
use crate::systems::http::{Answer, Ask, Fault, Http};
use crate::systems::link::{Link, Order, Reply};
use crate::systems::tls::{Tls, TlsError};

/// What [`Kept`] is kept as.
const KEPT_AS: &str = "session";
/// A timer is set no further ahead: far above anything that comes due.
const SLEEP_MOST: Duration = Duration::from_secs(3600);
/// How long commands under way and a logout may take when Portero stops.
const STOP_WITHIN: Duration = Duration::from_millis(1500);

type Got = (u64, Result<Answer, Fault>);

struct Client {
    link: Link,
    session: Session,
    /// For polls, over connections that stay open.
    polls: Http,
    /// For commands, each over a connection of its own: one that the server has just closed would
    /// leave it unknown whether a door opened.
    commands: Http,
    asks: JoinSet<Got>,
    /// Which question a task asks, in case it ends without an answer.
    tasks: HashMap<task::Id, u64>,
    replies: HashMap<u64, oneshot::Sender<Reply>>,
    next_order: u64,
    start: Instant,
    /// Whether the last token lies in its file.
    is_kept: bool,
    certificate: Watch,
}

/// Runs until Portero stops.
pub async fn run(config: Config, mut link: Link) {
    let (polls, commands) = match clients(&config, &link) {
        Ok(clients) => clients,
        Err(error) => return never(link, &error.to_string()).await,
    };
    let kept = link.keep.read(KEPT_AS).unwrap_or_else(|| Kept::new(fresh_uuid()));
    let is_kept = link.keep.write(KEPT_AS, &kept).is_ok();
    let known = std::mem::take(&mut link.known);
    let seed = u64::from_le_bytes(random());
    let session = Session::new(&link.source, link.trust, config, kept, &known, seed);
    let client = Client {
        link,
        session,
        polls,
        commands,
        asks: JoinSet::new(),
        tasks: HashMap::new(),
        replies: HashMap::new(),
        next_order: 0,
        start: Instant::now(),
        is_kept,
        certificate: Watch::default(),
    };
    client.run().await;
}

fn clients(config: &Config, link: &Link) -> Result<(Http, Http), TlsError> {
    let tls = Tls::new(&config.certificate, &link.keep)?;
    Ok((Http::new(&config.url, tls.clone(), true)?, Http::new(&config.url, tls, false)?))
}

/// Without TLS there is nothing to do but to say so.
async fn never(mut link: Link, why: &str) {
    link.set_up(false, why).await;
    loop {
        tokio::select! {
            biased; // To stop goes first.
            () = link.stopping.cancelled() => return,
            order = link.orders.recv() => match order {
                Some(order) => drop(order.reply.send(Reply::Unsent(format!("not connected: {why}")))),
                None => return link.stopping.cancelled().await,
            }
        }
    }
}

/// A random UUID (RFC 9562, version 4).
fn fresh_uuid() -> String {
    let mut bytes: [u8; 16] = random();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let digits = hex(&bytes);
    let parts = [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]];
    parts.join("-")
}

impl Client {
    async fn run(mut self) {
        let stopping = self.link.stopping.clone();
        let mut has_orders = true;
        loop {
            let wake = self.start + self.session.next_tick().min(self.start.elapsed() + SLEEP_MOST);
            let outputs = tokio::select! {
                biased; // To stop goes first, then doors, then what was answered.
                () = stopping.cancelled() => break,
                order = self.link.orders.recv(), if has_orders => match order {
                    Some(order) => self.order(order),
                    None => {
                        has_orders = false;
                        continue;
                    }
                },
                Some(got) = self.asks.join_next_with_id() => {
                    self.certificate.look(self.polls.tls(), &mut self.link).await;
                    self.answered(got)
                }
                () = sleep_until(wake) => self.session.tick(self.now()),
            };
            self.act(outputs).await;
        }
        self.stop().await;
    }

    fn now(&self) -> Now {
        Now { wall: self.link.clock.now(), run: self.start.elapsed() }
    }

    fn order(&mut self, order: Order) -> Vec<Output> {
        if order.command.call == TRUST_CERTIFICATE {
            let given = order.command.args.get("fingerprint").and_then(|text| text.as_str());
            let _ = order
                .reply
                .send(self.certificate.trust(self.polls.tls(), given.unwrap_or_default()));
            return Vec::new();
        }
        self.next_order += 1;
        self.replies.insert(self.next_order, order.reply);
        self.session.order(self.next_order, &order.command, order.deadline, self.now())
    }

    fn answered(&mut self, got: Result<(task::Id, Got), task::JoinError>) -> Vec<Output> {
        let (id, got) = match got {
            Ok((task, (id, got))) => {
                self.tasks.remove(&task);
                (id, got)
            }
            Err(error) => {
                let Some(id) = self.tasks.remove(&error.id()) else { return Vec::new() };
                tracing::error!(source = self.link.source, %error, "a question was given up");
                (id, Err(Fault::Unknown("it was given up".into())))
            }
        };
        self.session.answered(id, got, self.now())
    }

    async fn act(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Ask(id, ask) => self.ask(id, ask),
                Output::Tell(news) => drop(self.link.tell(news).await),
                Output::Bad { reason, raw } => self.link.bad(reason, raw),
                Output::Reply(order, reply) => self.reply(order, reply),
                Output::Up(up, why) => self.link.set_up(up, &why).await,
                Output::Alive => self.link.alive(),
                Output::Keep(kept) => self.keep(&kept),
            }
        }
    }

    fn ask(&mut self, id: u64, ask: Ask) {
        let is_poll = ask.method == reqwest::Method::GET;
        let http = if is_poll { self.polls.clone() } else { self.commands.clone() };
        let task = self.asks.spawn(async move { (id, http.call(ask).await) });
        self.tasks.insert(task.id(), id);
    }

    fn reply(&mut self, order: u64, reply: Reply) {
        if let Some(sender) = self.replies.remove(&order) {
            // Who gave the order may have gone; then nobody wants to know.
            let _ = sender.send(reply);
        }
    }

    fn keep(&mut self, kept: &Kept) {
        let written = self.link.keep.write(KEPT_AS, kept);
        self.is_kept = written.is_ok();
        if let Err(error) = written {
            let source = &self.link.source;
            tracing::error!(source, %error, "the token is not kept; it ends with this run");
        }
    }

    /// Commands under way are waited for, a little; those not sent are said to be so. The session
    /// at the VMS stays open, unless its token would be lost.
    async fn stop(mut self) {
        let until = Instant::now() + STOP_WITHIN;
        self.link.orders.close();
        while let Ok(order) = self.link.orders.try_recv() {
            let _ = order.reply.send(Reply::Unsent("Portero stops".into()));
        }
        while !self.replies.is_empty() {
            match timeout_at(until, self.asks.join_next_with_id()).await {
                Ok(Some(got)) => {
                    let outputs = self.answered(got);
                    self.wind_up(outputs);
                }
                Ok(None) | Err(_) => break,
            }
        }
        for (_, sender) in self.replies.drain() {
            let _ = sender.send(Reply::Unknown("Portero stopped before an answer came".into()));
        }
        if let Some(logout) = self.session.stop(self.is_kept) {
            let _ = timeout_at(until, self.commands.call(logout)).await;
        }
    }

    /// While it stops: replies and tokens, and nothing new.
    fn wind_up(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Reply(order, reply) => self.reply(order, reply),
                Output::Keep(kept) => self.keep(&kept),
                _ => {}
            }
        }
    }
}
