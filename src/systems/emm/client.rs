//! The loop that runs a session: sends its requests, keeps what drains before it is read, passes
//! orders in and replies out. Decides nothing.

use std::collections::HashMap;
use std::future::{Future, pending};
use std::pin::Pin;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::oneshot;
use tokio::task::block_in_place;
use tokio::time::Instant;

use super::Config;
use super::commands::TRUST_CERTIFICATE;
use super::session::{Call, Input, Moment, Output, Session, Setup};
use super::wire;
use crate::secret::random;
use crate::systems::certificate::Watch;
use crate::systems::http::{Answer, Fault, Http};
use crate::systems::link::{Link, Order, Reply};
use crate::systems::tls::Tls;

/// What the session is kept as.
const KEPT_AS: &str = "session";

/// Orders under way at once; an EMM is a small server.
const ORDERS_MAX: usize = 8;

/// How long requests under way may take when Portero stops, and then the release of the session.
const STOP_WITHIN: Duration = Duration::from_millis(800);

/// A longer answer takes more than some milliseconds to read: what else runs on this thread moves
/// to another one first.
const BYTES_AT_ONCE_MAX: usize = 64 * 1024;

type Calls = FuturesUnordered<Pin<Box<dyn Future<Output = Answered> + Send>>>;

struct Answered {
    call: u64,
    drains: bool,
    /// What came, and what cut it off.
    answer: Result<(Answer, Option<Fault>), Fault>,
}

struct Client {
    link: Link,
    session: Session,
    http: Http,
    certificate: Watch,
    calls: Calls,
    replies: HashMap<u64, oneshot::Sender<Reply>>,
    next_order: u64,
    start: Instant,
}

/// Runs until Portero stops.
pub(super) async fn run(config: Config, mut link: Link) {
    // A connection of its own for each call: one that the server has just closed would leave in
    // doubt whether `/changes` was drained.
    let http = Tls::new(&config.certificate, &link.keep)
        .and_then(|tls| Http::new(&config.url, tls, false));
    match http {
        Ok(http) => Client::new(config, link, http).run().await,
        Err(error) => {
            link.set_up(false, &error.to_string()).await;
            refuse_all(link, &error.to_string()).await;
        }
    }
}

/// Without TLS there is nothing to do but to say so.
async fn refuse_all(mut link: Link, why: &str) {
    loop {
        tokio::select! {
            biased; // To stop goes first.
            () = link.stopping.cancelled() => return,
            order = link.orders.recv() => match order {
                Some(order) => drop(order.reply.send(Reply::Unsent(format!("not connected: {why}")))),
                None => return,
            },
        }
    }
}

impl Client {
    fn new(config: Config, mut link: Link, http: Http) -> Client {
        let session = Session::new(Setup {
            source: link.source.clone(),
            config,
            trust: link.trust,
            known: std::mem::take(&mut link.known),
            kept: link.keep.read(KEPT_AS),
            seed: u64::from_le_bytes(random()),
        });
        Client {
            link,
            session,
            http,
            certificate: Watch::default(),
            calls: FuturesUnordered::new(),
            replies: HashMap::new(),
            next_order: 0,
            start: Instant::now(),
        }
    }

    async fn run(mut self) {
        for body in std::mem::take(&mut self.link.unread) {
            let id = body.id;
            self.input(Input::Unread(body)).await;
            self.link.intake.body_read(id);
        }
        self.input(Input::Tick).await;
        loop {
            let wake = self.session.wake().map(|at| self.start + at);
            let tick = async {
                match wake {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => pending().await,
                }
            };
            let has_room = self.session.orders() < ORDERS_MAX;
            tokio::select! {
                // To stop goes first; an answer may hold an alarm, so it goes before orders.
                biased;
                () = self.link.stopping.cancelled() => break,
                Some(answered) = self.calls.next() => self.answered(answered).await,
                order = self.link.orders.recv(), if has_room => match order {
                    Some(order) => self.order(order).await,
                    // Nobody commands any more: Portero stops.
                    None => break,
                },
                () = tick => self.input(Input::Tick).await,
            }
        }
        self.stop().await;
    }

    /// Lets what is under way end, releases the session, and ends in any case.
    async fn stop(mut self) {
        for _ in 0..2 {
            self.input(Input::Stop).await;
            let end = Instant::now() + STOP_WITHIN;
            while !self.session.is_done() {
                match tokio::time::timeout_at(end, self.calls.next()).await {
                    Ok(Some(answered)) => self.answered(answered).await,
                    Ok(None) | Err(_) => break,
                }
            }
        }
    }

    async fn order(&mut self, order: Order) {
        if order.command.call == TRUST_CERTIFICATE {
            let given = order.command.args.get("fingerprint").and_then(|text| text.as_str());
            let reply = self.certificate.trust(self.http.tls(), given.unwrap_or_default());
            // Whoever asked may have gone.
            return drop(order.reply.send(reply));
        }
        let n = self.next_order;
        self.next_order += 1;
        let Order { command, secrets, deadline, reply, .. } = order;
        self.replies.insert(n, reply);
        self.input(Input::Order { n, command, secrets, deadline }).await;
    }

    async fn answered(&mut self, answered: Answered) {
        let Answered { call, drains, answer } = answered;
        let mut kept = None;
        self.certificate.look(self.http.tls(), &mut self.link).await;
        if let Ok((answer, _)) = &answer {
            self.link.alive();
            let is_worth_it = drains && answer.status == 200 && !wire::is_nothing(&answer.body);
            if is_worth_it {
                let source = self.link.source.clone();
                kept = Some(self.link.intake.keep_body(&source, &answer.body).await);
            }
        }
        self.input(match answer {
            Ok((answer, Some(fault))) => Input::Cut { call, answer, fault, kept },
            Ok((answer, None)) => Input::Answer { call, answer: Ok(answer), kept },
            Err(fault) => Input::Answer { call, answer: Err(fault), kept },
        })
        .await;
        if let Some(id) = kept {
            self.link.intake.body_read(id);
        }
    }

    async fn input(&mut self, input: Input) {
        let now = Moment { wall: self.link.clock.now(), since: self.start.elapsed() };
        let is_long = input.bytes() > BYTES_AT_ONCE_MAX;
        let may_move = Handle::current().runtime_flavor() == RuntimeFlavor::MultiThread;
        let outputs = match is_long && may_move {
            true => block_in_place(|| self.session.handle(input, now)),
            false => self.session.handle(input, now),
        };
        for output in outputs {
            self.output(output).await;
        }
    }

    async fn output(&mut self, output: Output) {
        match output {
            Output::Call(call) => self.call(call),
            Output::Tell(news) => drop(self.link.tell(news).await),
            Output::Bad(reason, raw) => self.link.bad(reason, raw),
            Output::Mended(what) => {
                let source = &self.link.source;
                metrics::counter!("portero_mended_total", "source" => source.clone()).increment(1);
                tracing::info!(source, what);
            }
            Output::Reply(n, reply) => {
                // Whoever asked may have gone.
                drop(self.replies.remove(&n).map(|to| to.send(reply)));
            }
            Output::Keep(kept) => {
                let done = match kept {
                    Some(kept) => self.link.keep.write(KEPT_AS, &kept),
                    None => self.link.keep.remove(KEPT_AS),
                };
                if let Err(error) = done {
                    let source = &self.link.source;
                    tracing::warn!(source, %error, "after a crash a session may stay behind");
                }
            }
            Output::Up(up, why) => self.link.set_up(up, &why).await,
        }
    }

    fn call(&mut self, call: Call) {
        let Call { id, ask, drains } = call;
        let http = self.http.clone();
        let answer = async move {
            let answer = match drains {
                true => http.drain(ask).await,
                false => http.call(ask).await.map(|answer| (answer, None)),
            };
            Answered { call: id, drains, answer }
        };
        self.calls.push(Box::pin(answer));
    }
}
