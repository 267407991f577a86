//! Runs a [`Session`] against a real server: one WebSocket per feed, each connecting again by
//! itself, and HTTP for commands. Decides nothing that the session can decide.

use std::collections::HashMap;
use std::time::Duration;

use reqwest::Method;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::orders::Asked;
use super::session::{Closed, Output, Session};
use super::{Config, Feed, Moment};
use crate::secret::{Secret, random};
use crate::systems::backoff::Backoff;
use crate::systems::http::{Ask, Content, Fault, Http};
use crate::systems::link::{Link, News, Order, Reply};
use crate::systems::socket::{Frame, Socket, SocketError};
use crate::systems::tls::{Tls, show};

/// Waits before connecting again.
const WAIT_LEAST: Duration = Duration::from_secs(1);
const WAIT_MOST: Duration = Duration::from_secs(60);
/// A server without a feed may be updated one day.
const ABSENT_WAIT: Duration = Duration::from_secs(600);
/// A connection that lived so long was a good one: the next failure is a first one.
const GOOD_AFTER: Duration = Duration::from_secs(30);
/// How often the session is told that time passes.
const TICK_EVERY: Duration = Duration::from_secs(1);
/// Frames that wait to be read; above it the server waits.
const FRAMES_WAITING_MAX: usize = 256;
/// Frames read before what they say is told together: one write for a burst.
const FRAMES_AT_ONCE_MAX: usize = 64;
/// Texts that wait to be sent over one feed.
const SENDS_WAITING_MAX: usize = 128;
/// As long as goodbyes may take.
const GOODBYE_WITHIN: Duration = Duration::from_secs(1);

/// What a feed's task says.
#[derive(Debug)]
enum Said {
    /// Connected; whoever holds this end can send over it until it ends.
    Opened(mpsc::Sender<String>),
    Heard(Frame),
    /// It ended because the peer broke the protocol.
    Bad(String),
    Closed(Closed),
}

/// What every feed's task needs.
#[derive(Clone)]
struct Dial {
    url: Url,
    key: Option<Secret>,
    key_in_query: bool,
    tls: Tls,
    said: mpsc::Sender<(Feed, Said)>,
    stopping: CancellationToken,
}

/// The loop around one session.
struct Client {
    session: Session,
    link: Link,
    http: Http,
    key: Option<Secret>,
    key_in_query: bool,
    command_url: Url,
    started: Instant,
    feeds: HashMap<Feed, mpsc::Sender<String>>,
    replies: HashMap<u64, oneshot::Sender<Reply>>,
    orders_ever: u64,
    answers: mpsc::Sender<(u64, Asked)>,
    tls: Tls,
}

/// Runs until Portero stops.
pub async fn run(config: Config, mut link: Link) {
    let tls = Tls::new(&config.certificate, &link.keep);
    let made = tls.and_then(|tls| Ok((Http::new(&config.url, tls.clone(), false)?, tls)));
    let (http, tls) = match made {
        Ok(made) => made,
        Err(error) => {
            link.set_up(false, &error.to_string()).await;
            return refuse_all(link, &error.to_string()).await;
        }
    };
    let (said, hear) = mpsc::channel(FRAMES_WAITING_MAX);
    let (answers, answered) = mpsc::channel(FRAMES_WAITING_MAX);
    let stopping = link.stopping.child_token();
    let dial = Dial {
        url: config.url.clone(),
        key: config.api_key.clone(),
        key_in_query: config.key_in_query,
        tls: tls.clone(),
        said,
        stopping: stopping.clone(),
    };
    let mut tasks = JoinSet::new();
    for feed in &config.feeds {
        tasks.spawn(dial.clone().run(*feed));
    }
    drop(dial);
    let known = std::mem::take(&mut link.known);
    let session = Session::new(&link.source, &config, link.trust, &known, link.clock.now());
    let client = Client {
        session,
        http,
        key: config.api_key.clone(),
        key_in_query: config.key_in_query,
        command_url: address(&config.url, "http", "command"),
        started: Instant::now(),
        feeds: HashMap::new(),
        replies: HashMap::new(),
        orders_ever: 0,
        answers,
        tls,
        link,
    };
    client.run(hear, answered).await;
    stopping.cancel();
    let goodbyes = async { while tasks.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(GOODBYE_WITHIN, goodbyes).await;
}

async fn refuse_all(mut link: Link, why: &str) {
    loop {
        tokio::select! {
            biased;
            () = link.stopping.cancelled() => return,
            order = link.orders.recv() => match order {
                Some(order) => drop(order.reply.send(Reply::Unsent(format!("not connected: {why}")))),
                None => return,
            },
        }
    }
}

/// The address of a feed or of the command service, below wherever Indigo is served.
fn address(base: &Url, scheme: &str, what: &str) -> Url {
    let secure = matches!(base.scheme(), "wss" | "https");
    let mut url = base.clone();
    // Cannot fail between these schemes.
    let _ = url.set_scheme(&format!("{scheme}{}", if secure { "s" } else { "" }));
    url.set_path(&format!("{}/v2/api/{what}", base.path().trim_end_matches('/')));
    url.set_query(None);
    url
}

fn add_key(url: &mut Url, key: Option<&Secret>) {
    if let Some(key) = key {
        url.query_pairs_mut().append_pair("api-key", key.expose());
    }
}

// === impl Client ===

impl Client {
    async fn run(
        mut self,
        mut hear: mpsc::Receiver<(Feed, Said)>,
        mut answered: mpsc::Receiver<(u64, Asked)>,
    ) {
        let mut tick = tokio::time::interval(TICK_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let stopping = self.link.stopping.clone();
        loop {
            // Commands before frames: a flood of frames must not keep a person waiting.
            let outputs = tokio::select! {
                biased;
                () = stopping.cancelled() => return,
                order = self.link.orders.recv() => match order {
                    Some(order) => self.order(order),
                    None => return,
                },
                Some((order, asked)) = answered.recv() => {
                    let now = self.now();
                    self.session.asked(order, asked, now)
                }
                _ = tick.tick() => {
                    let now = self.now();
                    self.session.tick(now)
                }
                Some((feed, said)) = hear.recv() => self.said_at_once(feed, said, &mut hear),
            };
            self.act(outputs).await;
        }
    }

    fn now(&self) -> Moment {
        Moment { at: self.link.clock.now(), up: self.started.elapsed() }
    }

    fn order(&mut self, order: Order) -> Vec<Output> {
        self.orders_ever += 1;
        let number = self.orders_ever;
        self.replies.insert(number, order.reply);
        let now = self.now();
        self.session.order(number, &order.command, order.deadline, now)
    }

    /// This and what else is there already.
    fn said_at_once(
        &mut self,
        feed: Feed,
        said: Said,
        hear: &mut mpsc::Receiver<(Feed, Said)>,
    ) -> Vec<Output> {
        let mut outputs = self.said(feed, said);
        for _ in 1..FRAMES_AT_ONCE_MAX {
            match hear.try_recv() {
                Ok((feed, said)) => outputs.extend(self.said(feed, said)),
                Err(_) => break,
            }
        }
        outputs
    }

    fn said(&mut self, feed: Feed, said: Said) -> Vec<Output> {
        let now = self.now();
        match said {
            Said::Opened(sender) => {
                self.feeds.insert(feed, sender);
                self.link.alive();
                self.session.opened(feed, now)
            }
            Said::Heard(frame) => {
                self.link.alive();
                match frame {
                    Frame::Text(text) => self.session.frame(feed, &text, now),
                    Frame::Binary(bytes) => self.session.binary(feed, &bytes, now),
                    Frame::Alive => Vec::new(),
                }
            }
            Said::Bad(why) => vec![Output::Bad(why, Vec::new())],
            Said::Closed(why) => {
                self.feeds.remove(&feed);
                if let Some(other) = self.tls.take_refused() {
                    let other = show(&other);
                    tracing::error!(
                        source = self.link.source,
                        other,
                        "another certificate; refused"
                    );
                }
                self.session.closed(feed, why)
            }
        }
    }

    async fn act(&mut self, outputs: Vec<Output>) {
        let mut news = News::default();
        let mut link = None;
        for output in outputs {
            match output {
                Output::Send(feed, text) => self.send(feed, text),
                Output::Post(order, message) => self.post(order, message),
                Output::Bad(why, raw) => self.link.bad(why, raw),
                Output::Reply(order, reply) => {
                    if let Some(sender) = self.replies.remove(&order) {
                        let _ = sender.send(reply);
                    }
                }
                Output::Close(feed, why) => {
                    tracing::warn!(source = self.link.source, feed = feed.as_str(), why, "closed");
                    // Its task notices, ends the connection and says so.
                    self.feeds.remove(&feed);
                }
                Output::Link(up, why) => link = Some((up, why)),
                Output::Tell(more) => {
                    news.known.extend(more.known);
                    news.events.extend(more.events);
                    // A snapshot comes in pieces so that no record gets too large.
                    if news.known.len() >= FRAMES_WAITING_MAX {
                        self.link.tell(std::mem::take(&mut news)).await;
                    }
                }
            }
        }
        if !news.is_empty() {
            self.link.tell(news).await;
        }
        if let Some((up, why)) = link {
            self.link.set_up(up, &why).await;
        }
    }

    fn send(&mut self, feed: Feed, text: String) {
        // A peer that takes nothing any more: what waits is lost with the connection.
        let full = self.feeds.get(&feed).is_some_and(|sender| sender.try_send(text).is_err());
        if full {
            self.feeds.remove(&feed);
        }
    }

    fn post(&self, order: u64, message: Value) {
        let mut url = self.command_url.clone();
        let mut ask = Ask::new(Method::POST, url.clone()).with(Content::Json(message));
        match &self.key {
            Some(key) if !self.key_in_query => ask = ask.bearer(key),
            key => {
                add_key(&mut url, key.as_ref());
                ask.url = url;
            }
        }
        let (http, answers) = (self.http.clone(), self.answers.clone());
        tokio::spawn(async move {
            let asked = match http.call(ask).await {
                Ok(answer) => Asked::Answer(answer.status, answer.body),
                Err(Fault::Unsent(why)) => Asked::Unsent(why),
                Err(Fault::Unknown(why)) => Asked::Unknown(why),
            };
            let _ = answers.send((order, asked)).await;
        });
    }
}

// === impl Dial ===

impl Dial {
    /// Keeps one feed connected.
    async fn run(self, feed: Feed) {
        let mut backoff = Backoff::new(WAIT_LEAST, WAIT_MOST, u64::from_le_bytes(random()));
        let stopping = self.stopping.clone();
        loop {
            let began = Instant::now();
            let closed = tokio::select! {
                biased;
                () = stopping.cancelled() => return,
                connected = self.connect(feed) => match connected {
                    Ok(socket) => self.talk(feed, socket).await,
                    Err(error) => Some(error),
                },
            };
            let Some(error) = closed else { return };
            if began.elapsed() >= GOOD_AFTER {
                backoff.reset();
            }
            let why = self.why(&error);
            let wait = if why == Closed::Absent { ABSENT_WAIT } else { backoff.next_wait() };
            if let SocketError::Broken(_) = error {
                let bad = Said::Bad(format!("{}-feed: {error}", feed.as_str()));
                let _ = self.said.send((feed, bad)).await;
            }
            if self.said.send((feed, Said::Closed(why))).await.is_err() {
                return;
            }
            tokio::select! {
                biased;
                () = stopping.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn connect(&self, feed: Feed) -> Result<Socket, SocketError> {
        let mut url = address(&self.url, "ws", &format!("ws/{}-feed", feed.as_str()));
        let mut headers = Vec::new();
        match &self.key {
            Some(key) if !self.key_in_query => {
                headers.push(("authorization", format!("Bearer {}", key.expose())));
            }
            key => add_key(&mut url, key.as_ref()),
        }
        Socket::connect(&url, &headers, &self.tls).await
    }

    /// Carries frames both ways until the connection ends, and says why; None to stop.
    async fn talk(&self, feed: Feed, mut socket: Socket) -> Option<SocketError> {
        let (sender, mut sends) = mpsc::channel(SENDS_WAITING_MAX);
        self.said.send((feed, Said::Opened(sender))).await.ok()?;
        loop {
            tokio::select! {
                biased;
                () = self.stopping.cancelled() => {
                    socket.close().await;
                    return None;
                }
                text = sends.recv() => {
                    let Some(text) = text else {
                        socket.close().await;
                        return Some(SocketError::Dead);
                    };
                    if let Err(error) = socket.send(text).await {
                        return Some(error);
                    }
                }
                frame = socket.next() => match frame {
                    Ok(frame) => self.said.send((feed, Said::Heard(frame))).await.ok()?,
                    Err(error) => return Some(error),
                },
            }
        }
    }

    fn why(&self, error: &SocketError) -> Closed {
        match error {
            SocketError::Refused(404) => Closed::Absent,
            SocketError::Refused(status @ (401 | 403)) => {
                Closed::Because(format!("the API key is refused: HTTP {status}"))
            }
            other => Closed::Because(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_lie_below_wherever_indigo_is_served() {
        let check = |base: &str, scheme: &str, what: &str, expect: &str| {
            assert_eq!(address(&base.parse().unwrap(), scheme, what).as_str(), expect);
        };
        check("ws://10.0.0.5:8176", "ws", "ws/log-feed", "ws://10.0.0.5:8176/v2/api/ws/log-feed");
        check("ws://10.0.0.5:8176/", "http", "command", "http://10.0.0.5:8176/v2/api/command");
        let house = "https://house.indigodomo.net/x/?y";
        check(house, "http", "command", "https://house.indigodomo.net/x/v2/api/command");
        check(house, "ws", "ws/page-feed", "wss://house.indigodomo.net/x/v2/api/ws/page-feed");
    }
}
