//! Runs one intercom's session: the socket, the timers, the orders, and which certificate is
//! trusted. Decides nothing that the session can decide.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use super::names::Names;
use super::session::{Ask, Input, Moment, Output, Session, Setup};
use super::{Config, TRUST_CERTIFICATE};
use crate::secret::{Secret, random};
use crate::systems::Certificate;
use crate::systems::backoff::Backoff;
use crate::systems::link::{Link, News, Order, Reply};
use crate::systems::socket::{Frame, Socket, SocketError};
use crate::systems::tls::{self, Fingerprint, Tls};

/// The first wait before another attempt; doubled up to [`RETRY_MOST`].
const RETRY_LEAST: Duration = Duration::from_secs(1);

/// An intercom that comes back is heard again within a minute.
const RETRY_MOST: Duration = Duration::from_secs(60);

/// The wait after what trying again will hardly change: a wrong password, another certificate.
const RETRY_SLOWLY: Duration = Duration::from_secs(60);

/// A connection that lasted this long was no accident: the next wait is short again.
const STEADY_AFTER: Duration = Duration::from_secs(10);

/// How long a logout, and commands under way, may take when Portero stops.
const STOP_WITHIN: Duration = Duration::from_millis(1500);

/// The most bytes of a frame that is read. The longest answer, a list of a thousand users, has a
/// third of it.
const FRAME_BYTES_MAX: usize = 1024 * 1024;

/// Runs until Portero stops.
pub async fn run(config: Config, link: Link) {
    match Tls::new(&config.certificate, &link.keep) {
        Ok(tls) => Driver::new(config, link, tls).run().await,
        Err(error) => cannot_run(link, &error.to_string()).await,
    }
}

/// Tells every order why it is not done.
async fn cannot_run(mut link: Link, why: &str) {
    link.set_up(false, why).await;
    let stopping = link.stopping.clone();
    loop {
        tokio::select! {
            biased; // To stop goes first.
            () = stopping.cancelled() => return,
            Some(order) = link.orders.recv() => {
                let _ = order.reply.send(Reply::Unsent(format!("not connected: {why}")));
            }
        }
    }
}

struct Driver {
    config: Config,
    link: Link,
    session: Session,
    tls: Tls,
    backoff: Backoff,
    /// Who waits for which answer.
    tickets: HashMap<u64, oneshot::Sender<Reply>>,
    last_ticket: u64,
    started: Instant,
    /// The certificate that was refused last.
    refused: Option<Fingerprint>,
    /// Somebody did something that is worth an attempt at once.
    hurry: bool,
}

/// Why there is no socket.
struct Ended {
    slow: bool,
}

impl Driver {
    fn new(config: Config, link: Link, tls: Tls) -> Driver {
        let setup = Setup {
            source: link.source.clone(),
            trust: link.trust,
            user: config.user.clone(),
            pass: config.pass.clone().unwrap_or_else(|| Secret::new("")),
            names: Names::new(&config.names),
            boot: u64::from_le_bytes(random()),
        };
        let session = Session::new(setup, &link.known);
        let backoff = Backoff::new(RETRY_LEAST, RETRY_MOST, u64::from_le_bytes(random()));
        let (tickets, started) = (HashMap::new(), Instant::now());
        Driver {
            config,
            link,
            session,
            tls,
            backoff,
            tickets,
            last_ticket: 0,
            started,
            refused: None,
            hurry: false,
        }
    }

    async fn run(mut self) {
        while !self.link.stopping.is_cancelled() {
            let ended = match self.connect().await {
                None => break,
                Some(Ok(socket)) => self.live(socket).await,
                Some(Err(error)) => self.not_connected(&error).await,
            };
            self.pause(&ended).await;
        }
        self.link.orders.close();
        while let Ok(order) = self.link.orders.try_recv() {
            let _ = order.reply.send(Reply::Unsent("Portero stops".into()));
        }
    }

    fn now(&self) -> Moment {
        Moment { at: self.link.clock.now(), up: self.started.elapsed() }
    }

    /// A socket, or why there is none; nothing if Portero stops.
    async fn connect(&mut self) -> Option<Result<Socket, SocketError>> {
        let (url, tls, stopping) =
            (self.config.url.clone(), self.tls.clone(), self.link.stopping.clone());
        let connecting = Socket::connect(&url, &[], &tls);
        tokio::pin!(connecting);
        loop {
            tokio::select! {
                biased; // To stop goes first, and a socket before orders that need one.
                () = stopping.cancelled() => return None,
                socket = &mut connecting => return Some(socket),
                Some(order) = self.link.orders.recv() => self.order(order, &mut None).await,
            }
        }
    }

    async fn not_connected(&mut self, error: &SocketError) -> Ended {
        let refused = self.tls.take_refused();
        let why = match refused {
            None => error.to_string(),
            Some(seen) => {
                self.refused = Some(seen);
                let expected = self.tls.wanted().map(|pin| tls::show(&pin)).unwrap_or_default();
                let (seen, at) = (tls::show(&seen), self.link.clock.now());
                let news = self.session.certificate_changed(&expected, &seen, at);
                self.tell(news).await;
                format!("its certificate changed to {seen}")
            }
        };
        self.step(Input::Closed(&why), &mut None).await;
        self.link.set_up(false, &why).await;
        Ended { slow: refused.is_some() }
    }

    /// Waits for the next attempt.
    async fn pause(&mut self, ended: &Ended) {
        let wait = self.backoff.next_wait();
        let wait = if ended.slow { wait.max(RETRY_SLOWLY) } else { wait };
        let (until, stopping) = (Instant::now() + wait, self.link.stopping.clone());
        while !std::mem::take(&mut self.hurry) {
            tokio::select! {
                biased; // To stop goes first; the next attempt before orders that need it.
                () = stopping.cancelled() => return,
                () = sleep_until(until) => return,
                Some(order) = self.link.orders.recv() => self.order(order, &mut None).await,
            }
        }
    }

    /// Runs the session on a socket until it ends.
    async fn live(&mut self, socket: Socket) -> Ended {
        let (began, stopping) = (Instant::now(), self.link.stopping.clone());
        self.refused = None;
        let mut socket = Some(socket);
        let mut end_by = None;
        let mut slow = self.step(Input::Connected, &mut socket).await;
        while let Some(open) = &mut socket {
            let due = self.session.due().map(|due| self.started + due);
            let wake = due.into_iter().chain(end_by).min();
            let wake = wake.unwrap_or_else(|| Instant::now() + RETRY_MOST);
            // To stop goes first. A flood of frames holds up neither timeouts nor orders, which
            // are few.
            let ended = tokio::select! {
                biased;
                () = stopping.cancelled(), if end_by.is_none() => {
                    end_by = Some(Instant::now() + STOP_WITHIN);
                    self.step(Input::Stop, &mut socket).await
                }
                () = sleep_until(wake) => match end_by.filter(|end| *end <= Instant::now()) {
                    Some(_) => self.step(Input::Closed("Portero stops"), &mut socket).await,
                    None => self.step(Input::Tick, &mut socket).await,
                },
                Some(order) = self.link.orders.recv() => {
                    self.order(order, &mut socket).await;
                    false
                }
                frame = open.next() => self.frame(frame, &mut socket).await,
            };
            slow |= ended;
        }
        if began.elapsed() >= STEADY_AFTER {
            self.backoff.reset();
        }
        Ended { slow }
    }

    async fn frame(
        &mut self,
        frame: Result<Frame, SocketError>,
        socket: &mut Option<Socket>,
    ) -> bool {
        if frame.is_ok() {
            self.link.alive();
        }
        match frame {
            Ok(Frame::Alive) => false,
            Ok(Frame::Binary(bytes)) => {
                self.step(Input::Odd("a binary frame", &bytes), socket).await
            }
            Ok(Frame::Text(text)) if text.len() > FRAME_BYTES_MAX => {
                self.step(Input::Odd("a huge frame", text.as_bytes()), socket).await
            }
            Ok(Frame::Text(text)) => self.step(Input::Frame(text.as_bytes()), socket).await,
            Err(error) => {
                if let SocketError::Broken(_) = error {
                    // Its bytes are gone with the connection.
                    self.link.bad(error.to_string(), Vec::new());
                }
                self.step(Input::Closed(&error.to_string()), socket).await
            }
        }
    }

    async fn order(&mut self, order: Order, socket: &mut Option<Socket>) {
        if order.command.call == TRUST_CERTIFICATE {
            let reply = self.trust(&order.command.args, socket.is_some());
            let _ = order.reply.send(reply);
            return;
        }
        self.last_ticket += 1;
        let ticket = self.last_ticket;
        self.tickets.insert(ticket, order.reply);
        let ask = Ask {
            ticket,
            call: order.command.call,
            args: order.command.args,
            secrets: order.secrets,
            deadline: order.deadline,
        };
        self.step(Input::Order(ask), socket).await;
    }

    /// Gives the session an input and does what it says. Without a socket nothing can be sent,
    /// and the session knows. Says whether the socket is given up for long.
    async fn step(&mut self, input: Input<'_>, socket: &mut Option<Socket>) -> bool {
        let now = self.now();
        let mut slow_end = false;
        let mut failed = None;
        for output in self.session.handle(input, now) {
            match output {
                Output::Send(text) => {
                    if let (Some(open), None) = (socket.as_mut(), &failed) {
                        failed = open.send(text.expose().to_string()).await.err();
                    }
                }
                Output::News(news) => self.tell(news).await,
                Output::Bad(reason, raw) => self.link.bad(reason, raw),
                Output::Answer(ticket, reply) => self.answer(ticket, reply),
                Output::Up => self.link.set_up(true, "").await,
                Output::Down { why, slow } => {
                    slow_end = slow;
                    self.end(socket, &why).await;
                }
            }
        }
        if let Some(error) = failed {
            let why = error.to_string();
            for output in self.session.handle(Input::Closed(&why), now) {
                if let Output::Answer(ticket, reply) = output {
                    self.answer(ticket, reply);
                }
            }
            self.end(socket, &why).await;
        }
        slow_end
    }

    async fn end(&mut self, socket: &mut Option<Socket>, why: &str) {
        if let Some(open) = socket.take()
            && self.link.stopping.is_cancelled()
        {
            open.close().await;
        }
        self.link.set_up(false, why).await;
    }

    fn answer(&mut self, ticket: u64, reply: Reply) {
        if let Some(asker) = self.tickets.remove(&ticket) {
            // Whoever asked may have gone.
            let _ = asker.send(reply);
        }
    }

    async fn tell(&mut self, news: News) {
        self.link.tell(news).await;
    }

    /// Takes the certificate that was refused last. It is the one that a person was shown, not
    /// whichever comes next.
    fn trust(&mut self, args: &serde_json::Map<String, Value>, is_connected: bool) -> Reply {
        if self.config.certificate != Certificate::PinFirst {
            return Reply::Refused("only `certificate = \"pin-first\"` remembers one".into());
        }
        let given = args.get("fingerprint").and_then(Value::as_str);
        let given = match given.map(super::fingerprint) {
            Some(None) => return Reply::Refused("`fingerprint` is no SHA-256".into()),
            given => given.flatten(),
        };
        let Some(seen) = self.refused else {
            return match is_connected && given.is_none_or(|pin| self.tls.wanted() == Some(pin)) {
                true => Reply::Done(json!("its certificate is the trusted one already")),
                false => Reply::Refused("no other certificate has been shown so far".into()),
            };
        };
        let shown = tls::show(&seen);
        if given.is_some_and(|given| given != seen) {
            return Reply::Refused(format!("the intercom shows another one: {shown}"));
        }
        if let Err(error) = self.tls.remember(seen) {
            return Reply::Refused(format!("it cannot be kept: {error}"));
        }
        tracing::warn!(source = self.link.source, shown, "a new certificate is trusted by hand");
        (self.refused, self.hurry) = (None, true);
        Reply::Done(json!({ "fingerprint": shown }))
    }
}
