//! A FIBARO Intercom that is not there: speaks the real protocol on a real socket with a
//! certificate it signed itself, and misbehaves on demand. For tests and the demo.

pub mod house;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::names::Names;
use crate::clock::Clock;
use crate::systems::tls::Fingerprint;
use house::{House, Manners};

/// Who may log in.
pub const USER: &str = "portero";
/// And how.
pub const PASS: &str = "open sesame";

/// By how much a reply is late that is to be overtaken.
const OVERTAKEN_BY: Duration = Duration::from_millis(40);

/// A simulated intercom. Ends with the last handle.
#[derive(Clone)]
pub struct Sim(Arc<Shared>);

struct Shared {
    address: SocketAddr,
    clock: Clock,
    state: Mutex<State>,
    /// Whether nothing is read and nothing written, on sockets that stay open.
    frozen: watch::Sender<bool>,
    stop: CancellationToken,
}

struct State {
    house: House,
    acceptor: TlsAcceptor,
    fingerprint: Fingerprint,
    /// Whether connections are cut before a word.
    away: bool,
    peers: BTreeMap<u64, Peer>,
    /// Counts sockets.
    sockets: u64,
    /// Counts openings of each relay, so that only the last one's end closes it.
    turns: [u64; 2],
}

struct Peer {
    out: mpsc::UnboundedSender<Say>,
    token: Option<String>,
}

enum Say {
    Frame(Message),
    Drop,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Sim {
    /// Starts one on a free port of this machine.
    pub async fn start() -> io::Result<Sim> {
        Sim::start_with(Names::new(&BTreeMap::new())).await
    }

    /// The same with other names for its methods.
    pub async fn start_with(names: Names) -> io::Result<Sim> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let (acceptor, fingerprint) = certificate()?;
        let state = State {
            house: House::new(USER, PASS, names),
            acceptor,
            fingerprint,
            away: false,
            peers: BTreeMap::new(),
            sockets: 0,
            turns: [0; 2],
        };
        let shared = Arc::new(Shared {
            address: listener.local_addr()?,
            clock: Clock::system(),
            state: Mutex::new(state),
            frozen: watch::Sender::new(false),
            stop: CancellationToken::new(),
        });
        tokio::spawn(accept(listener, Arc::downgrade(&shared), shared.stop.clone()));
        Ok(Sim(shared))
    }

    /// Where it listens: `wss://127.0.0.1:…/wsock`.
    pub fn url(&self) -> Url {
        let mut url = Url::parse("wss://127.0.0.1/wsock").expect("a literal address");
        // It cannot fail for this scheme.
        let _ = url.set_port(Some(self.0.address.port()));
        url
    }

    /// The SHA-256 of its certificate.
    pub fn fingerprint(&self) -> Fingerprint {
        self.state().fingerprint
    }

    /// The intercom as it is.
    pub fn truth(&self) -> House {
        self.state().house.clone()
    }

    /// What was asked so far by this name of ours for the method, with its parameters.
    pub fn received(&self, key: &str) -> Vec<Value> {
        let state = self.state();
        let of_key = state.house.received.iter().filter(|(asked, _)| asked == key);
        of_key.map(|(_, params)| params.clone()).collect()
    }

    /// How many sockets are logged in.
    pub fn logged_in(&self) -> usize {
        let (state, now) = (self.state(), Instant::now());
        let live = |peer: &&Peer| peer.token.as_ref().is_some_and(|t| state.house.is_live(t, now));
        state.peers.values().filter(live).count()
    }

    // --- What happens at the door.

    /// Somebody presses a button and lets it go.
    pub fn ring(&self, button: i64) {
        for state in [true, false] {
            self.signal("signal.button", json!({ "button": button, "state": state }));
        }
    }

    /// A relay opens or closes without being asked by a socket: `PIN-ENTERED`, `NO/NC`.
    pub fn turn(&self, relay: usize, open: bool, method: &str, user: &str) {
        let signal = self.state().house.turn(relay, open, method, user);
        self.0.tell(signal.into_iter().collect());
    }

    /// The camera goes to another mode.
    pub fn day_night(&self, mode: &str) {
        self.signal("signal.day_night", json!({ "mode": mode }));
    }

    /// Something is near, or no longer.
    pub fn near(&self, near: bool) {
        self.signal("signal.proximity", json!({ "state": near }));
    }

    /// Any signal, by our name for it or by its own.
    pub fn signal(&self, key: &str, params: Value) {
        let signal = self.state().house.signal(key, params);
        self.0.tell(vec![signal]);
    }

    // --- Mischief.

    /// Changes how it behaves.
    pub fn behave(&self, change: impl FnOnce(&mut Manners)) {
        change(&mut self.state().house.manners);
    }

    /// Voids all tokens; sockets stay open.
    pub fn expire_tokens(&self) {
        self.state().house.expire_tokens();
    }

    /// Cuts all sockets without a goodbye.
    pub fn drop_sockets(&self) {
        self.say(|| Say::Drop);
    }

    /// Cuts every connection from now on before a word, or takes them again.
    pub fn go_away(&self, away: bool) {
        self.state().away = away;
        if away {
            self.drop_sockets();
        }
    }

    /// Reads and writes nothing from now on, with sockets left open; or goes on where it was.
    pub fn freeze(&self, frozen: bool) {
        self.0.frozen.send_replace(frozen);
    }

    /// Sends every socket a text that may be anything.
    pub fn say_text(&self, text: &str) {
        self.say(|| Say::Frame(Message::text(text)));
    }

    /// Sends every socket a binary frame.
    pub fn say_bytes(&self, bytes: &[u8]) {
        self.say(|| Say::Frame(Message::binary(bytes.to_vec())));
    }

    /// Sends every socket a text frame of bytes that are no text.
    pub fn say_broken(&self, bytes: &[u8]) {
        let text = OpCode::Data(Data::Text);
        self.say(|| Say::Frame(Message::Frame(Frame::message(bytes.to_vec(), text, true))));
    }

    /// Another certificate from now on, as after a reset or with somebody in between.
    pub fn change_certificate(&self) -> io::Result<Fingerprint> {
        let (acceptor, fingerprint) = certificate()?;
        let mut state = self.state();
        (state.acceptor, state.fingerprint) = (acceptor, fingerprint);
        Ok(fingerprint)
    }

    /// A visitor every few beats, in an endless round; ends with the token.
    pub fn spawn_story(&self, beat: Duration, stop: CancellationToken) -> JoinHandle<()> {
        let sim = self.clone();
        tokio::spawn(async move {
            for scene in (0..8_u8).cycle() {
                tokio::select! {
                    biased; // To stop goes first.
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(beat) => sim.scene(scene),
                }
            }
        })
    }

    fn scene(&self, scene: u8) {
        match scene {
            0 => self.near(true),
            1 => self.ring(2),
            2 => self.near(false),
            3 => self.turn(0, true, "PIN-ENTERED", "ana"),
            4 => self.turn(0, false, "TIMEOUT", ""),
            5 => self.day_night("night"),
            6 => self.turn(1, true, "BLE", "ben"),
            _ => {
                self.turn(1, false, "TIMEOUT", "");
                self.day_night("day");
            }
        }
    }

    fn say(&self, what: impl Fn() -> Say) {
        for peer in self.state().peers.values() {
            // One that has just gone hears nothing.
            let _ = peer.out.send(what());
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends signals to whoever is logged in.
    fn tell(&self, signals: Vec<Value>) {
        let (state, now) = (self.state(), Instant::now());
        for signal in signals {
            for peer in state.peers.values() {
                if peer.token.as_ref().is_some_and(|token| state.house.is_live(token, now)) {
                    send(peer, &signal, state.house.manners.twice);
                }
            }
        }
    }

    /// Answers one text of one socket.
    fn hear(self: &Arc<Shared>, number: u64, text: &str) {
        let (answer, manners) = {
            let mut state = self.state();
            let answer = state.house.answer(text, self.clock.now(), Instant::now());
            let token = answer.token.clone();
            if let (Some(peer), Some(token)) = (state.peers.get_mut(&number), token) {
                peer.token = Some(token);
            }
            (answer, state.house.manners.clone())
        };
        if manners.signal_first {
            self.tell(answer.signals.clone());
        }
        if let Some(reply) = answer.reply {
            let late = manners.reorder
                && reply.get("id").and_then(super::wire::whole).is_some_and(|id| id % 2 == 1);
            self.reply(number, reply, if late { OVERTAKEN_BY } else { Duration::ZERO });
        }
        if !manners.signal_first {
            self.tell(answer.signals);
        }
        if let Some((relay, ms)) = answer.opened {
            self.close_later(relay, Duration::from_millis(ms));
        }
    }

    fn reply(self: &Arc<Shared>, number: u64, reply: Value, after: Duration) {
        let shared = self.clone();
        let send_it = move || {
            let state = shared.state();
            if let Some(peer) = state.peers.get(&number) {
                send(peer, &reply, state.house.manners.twice);
            }
        };
        if after.is_zero() {
            return send_it();
        }
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            send_it();
        });
    }

    fn close_later(self: &Arc<Shared>, relay: usize, after: Duration) {
        let turn = {
            let mut state = self.state();
            state.turns[relay] += 1;
            state.turns[relay]
        };
        let shared = Arc::downgrade(self);
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            let Some(shared) = shared.upgrade() else { return };
            let signal = {
                let mut state = shared.state();
                let is_last = state.turns[relay] == turn;
                if is_last { state.house.turn(relay, false, "TIMEOUT", "") } else { None }
            };
            shared.tell(signal.into_iter().collect());
        });
    }
}

fn send(peer: &Peer, value: &Value, twice: bool) {
    for _ in 0..=u8::from(twice) {
        let _ = peer.out.send(Say::Frame(Message::text(value.to_string())));
    }
}

/// Fresh, signed by itself, as intercoms have them.
fn certificate() -> io::Result<(TlsAcceptor, Fingerprint)> {
    let made = rcgen::generate_simple_self_signed(vec!["fibaro-intercom".to_string()]);
    let made = made.map_err(io::Error::other)?;
    let der = made.cert.der().clone();
    let mut fingerprint = [0; 32];
    fingerprint.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, &der).as_ref());
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_single_cert(vec![der], key)
        .map_err(io::Error::other)?;
    Ok((TlsAcceptor::from(Arc::new(config)), fingerprint))
}

async fn accept(listener: TcpListener, shared: std::sync::Weak<Shared>, stop: CancellationToken) {
    loop {
        let tcp = tokio::select! {
            biased; // To stop goes first.
            () = stop.cancelled() => return,
            tcp = listener.accept() => tcp,
        };
        let (Ok((tcp, _)), Some(shared)) = (tcp, shared.upgrade()) else { continue };
        if shared.state().away {
            continue;
        }
        let acceptor = shared.state().acceptor.clone();
        tokio::spawn(talk(tcp, acceptor, Arc::downgrade(&shared), stop.clone()));
    }
}

/// One socket from its first byte to its last.
async fn talk(
    tcp: TcpStream,
    acceptor: TlsAcceptor,
    shared: std::sync::Weak<Shared>,
    stop: CancellationToken,
) {
    let Ok(tls) = acceptor.accept(tcp).await else { return };
    let Ok(mut socket) = tokio_tungstenite::accept_async(tls).await else { return };
    let (out, mut says) = mpsc::unbounded_channel();
    let Some((number, mut frozen)) = shared.upgrade().map(|shared| {
        let mut state = shared.state();
        state.sockets += 1;
        let number = state.sockets;
        state.peers.insert(number, Peer { out, token: None });
        (number, shared.frozen.subscribe())
    }) else {
        return;
    };
    loop {
        let is_frozen = *frozen.borrow();
        tokio::select! {
            biased; // To stop goes first; what was said to a socket before what it says.
            () = stop.cancelled() => break,
            changed = frozen.changed() => if changed.is_err() { break },
            say = says.recv(), if !is_frozen => match say {
                Some(Say::Frame(frame)) => if socket.send(frame).await.is_err() { break },
                Some(Say::Drop) | None => break,
            },
            heard = socket.next(), if !is_frozen => match (heard, shared.upgrade()) {
                (Some(Ok(Message::Text(text))), Some(shared)) => shared.hear(number, &text),
                (Some(Ok(Message::Close(_)) | Err(_)) | None, _) | (_, None) => break,
                (Some(Ok(_)), _) => {}
            },
        }
    }
    if let Some(shared) = shared.upgrade() {
        shared.state().peers.remove(&number);
    }
}
