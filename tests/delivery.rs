//! Delivery over real sockets on loopback: services that hang, fail, throttle, redirect, talk
//! rubbish or show a certificate nobody trusts. Time-outs are real but short; nothing sleeps.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use portero::action::{Action, ActionId, Lane, Message, Outcome, PhoneId, Task, Urgency};
use portero::clock::Clock;
use portero::delivery::push::client::{PushClient, Setup as ClientSetup, Timeouts};
use portero::delivery::push::endpoint::Policy;
use portero::delivery::push::payload::Composer;
use portero::delivery::push::vapid::{Contact, Vapid, VapidKeys};
use portero::delivery::{self, Handle, Setup};
use portero::record::{PhoneChange, Record, Settled, Subscription};
use portero::secret::Secret;
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

const P256DH: &str =
    "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4";
const AUTH: &str = "BTBZMqHH6r4Tts7J_aSIgg";
const CREATED: &str = "HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n";
const TIMEOUTS: Timeouts =
    Timeouts { connect: Duration::from_millis(400), attempt: Duration::from_millis(400) };
/// Far longer than anything here takes; only a broken test waits so long.
const PATIENCE: Duration = Duration::from_secs(20);

/// How a scripted service treats each request in turn; the last goes on for ever.
#[derive(Clone)]
enum Does {
    Answers(String),
    Hangs,
    /// 500 with a body that never ends.
    PoursOut,
}

fn answers(text: &str) -> Does {
    Does::Answers(text.to_owned())
}

fn status(code: u16, headers: &str) -> Does {
    Does::Answers(format!("HTTP/1.1 {code} X\r\n{headers}Content-Length: 0\r\n\r\n"))
}

/// One request as it came over the wire.
#[derive(Clone)]
struct Seen {
    head: String,
    body: Vec<u8>,
}

struct Service {
    endpoint: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Service {
    async fn start(does: Vec<Does>) -> Service {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}/push/secret-path", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let list = seen.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(converse(stream, does.clone(), list.clone()));
            }
        });
        Service { endpoint, seen }
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

async fn converse(mut stream: TcpStream, does: Vec<Does>, seen: Arc<Mutex<Vec<Seen>>>) {
    while let Some(request) = read_request(&mut stream).await {
        let turn = {
            let mut seen = seen.lock().unwrap();
            seen.push(request);
            seen.len() - 1
        };
        match does.get(turn).or(does.last()).unwrap() {
            Does::Answers(text) => stream.write_all(text.as_bytes()).await.unwrap(),
            Does::Hangs => std::future::pending().await,
            Does::PoursOut => {
                let head = "HTTP/1.1 500 X\r\nTransfer-Encoding: chunked\r\n\r\n";
                let mut bytes = head.as_bytes().to_vec();
                while stream.write_all(&bytes).await.is_ok() {
                    bytes =
                        b"400\r\n".iter().chain(&[b'x'; 1024]).chain(b"\r\n").copied().collect();
                }
                return;
            }
        }
    }
}

async fn read_request(stream: &mut TcpStream) -> Option<Seen> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
            let length: usize = header(&head, "content-length").unwrap().parse().unwrap();
            if bytes.len() >= end + 4 + length {
                return Some(Seen { head, body: bytes[end + 4..end + 4 + length].to_vec() });
            }
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}

fn header(head: &str, name: &str) -> Option<String> {
    let mut lines = head.lines().skip(1).filter_map(|line| line.split_once(": "));
    lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
}

/// A TLS service on a thread of its own that answers every request with 201.
fn start_tls(certificate: CertificateDer<'static>, key: PrivateKeyDer<'static>) -> String {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key);
    let config = Arc::new(config.unwrap());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("https://localhost:{}/x", listener.local_addr().unwrap().port());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut connection = rustls::ServerConnection::new(config.clone()).unwrap();
            let mut stream = stream.unwrap();
            let mut tls = rustls::Stream::new(&mut connection, &mut stream);
            let mut request = [0; 8192];
            if tls.read(&mut request).is_ok_and(|read| read > 0) {
                let _ = tls.write_all(CREATED.as_bytes());
            }
        }
    });
    endpoint
}

fn certificate() -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    (made.cert.der().clone(), PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into()))
}

fn client(policy: Policy, roots: RootCertStore) -> PushClient {
    let contact = Contact::parse("mailto:ana@example.org").unwrap();
    let setup = ClientSetup {
        policy,
        composer: Composer::new("https://home.example.org".parse().unwrap(), Secret::new("k")),
        vapid: Vapid::new(Arc::new(VapidKeys::generate().unwrap().0), contact),
        roots,
        timeouts: TIMEOUTS,
        clock: Clock::system(),
    };
    PushClient::new(setup).unwrap()
}

struct World {
    handle: Handle,
    records: mpsc::UnboundedReceiver<Record>,
}

impl World {
    fn start(client: PushClient, phones: &[(&str, &str)]) -> World {
        let (into, records) = mpsc::unbounded_channel();
        let phones = phones.iter().map(|(phone, endpoint)| {
            let subscription = Subscription {
                endpoint: (*endpoint).to_owned(),
                p256dh: P256DH.into(),
                auth: AUTH.into(),
                vapid: String::new(),
            };
            (PhoneId((*phone).to_owned()), subscription)
        });
        let handle = delivery::start(Setup {
            held: Vec::new(),
            phones: phones.collect(),
            owed: Vec::new(),
            push: Arc::new(client),
            clock: Clock::system(),
            settle: Box::new(move |records| records.into_iter().for_each(|r| drop(into.send(r)))),
        });
        World { handle, records }
    }

    async fn next(&mut self) -> Record {
        tokio::time::timeout(PATIENCE, self.records.recv()).await.unwrap().unwrap()
    }

    async fn settled(&mut self) -> Settled {
        loop {
            if let Record::Settled(settled) = self.next().await {
                return settled;
            }
        }
    }
}

fn push(phone: &str, message: Message, ttl: SignedDuration) -> Action {
    let task = Task::Push { phone: PhoneId(phone.to_owned()), message: Box::new(message) };
    let deadline: Timestamp = Clock::system().now() + ttl;
    let (rule, step) = ("r".to_owned(), "do[0]".to_owned());
    Action {
        id: id(phone),
        rule,
        step,
        deadline,
        not_before: None,
        lane: Lane::Normal,
        alert: None,
        task,
    }
}

fn id(phone: &str) -> ActionId {
    let mut id = [0; 16];
    id[..phone.len()].copy_from_slice(phone.as_bytes());
    ActionId(id)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_service_delays_no_other_phone_and_says_what_is_wrong() {
    let elsewhere = Service::start(vec![answers(CREATED)]).await;
    let redirect = status(307, &format!("Location: {}\r\n", elsewhere.endpoint));
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (untrusted, key) = certificate();
    let bad = [
        ("hang", Service::start(vec![Does::Hangs]).await, "no answer within 400ms"),
        ("500", Service::start(vec![status(500, "")]).await, "answered 500"),
        ("429", Service::start(vec![status(429, "Retry-After: 1\r\n")]).await, "answered 429"),
        ("406", Service::start(vec![status(406, "")]).await, "answered 406"),
        ("403", Service::start(vec![status(403, "")]).await, "answered 403 (VAPID"),
        ("redirect", Service::start(vec![redirect]).await, "answered 307"),
        ("garbage", Service::start(vec![answers("220 smtp ready\r\n")]).await, "connection failed"),
        ("endless", Service::start(vec![Does::PoursOut]).await, "answered 500: xxxx"),
    ];
    let good = Service::start(vec![answers(CREATED)]).await;
    let gone = Service::start(vec![status(410, "")]).await;
    let (closed, tls) = (format!("http://{closed}/x"), start_tls(untrusted, key));
    let mut phones: Vec<(&str, &str)> =
        bad.iter().map(|(phone, service, _)| (*phone, service.endpoint.as_str())).collect();
    phones.extend([("closed", closed.as_str()), ("tls", tls.as_str())]);
    phones.extend([("good", good.endpoint.as_str()), ("gone", gone.endpoint.as_str())]);
    let mut world = World::start(client(Policy::Insecure, RootCertStore::empty()), &phones);

    let ttl = SignedDuration::from_secs(3);
    let action = |phone: &str| push(phone, Message::default(), ttl);
    world.handle.act(phones.iter().map(|(phone, _)| action(phone)).collect());
    let mut order = Vec::new();
    let mut ended = HashMap::new();
    while ended.len() < phones.len() {
        match world.next().await {
            Record::Settled(settled) => {
                order.push(settled.action);
                ended.insert(settled.action, settled);
            }
            Record::Phone(PhoneChange::Unsubscribed { id, why, .. }) => {
                assert_eq!(id.0, "gone", "{why}");
            }
            other => panic!("{other:?}"),
        }
    }
    let place = |phone: &str| order.iter().position(|action| *action == id(phone)).unwrap();
    assert_eq!(ended[&id("good")].outcome, Outcome::Delivered);
    assert_eq!(ended[&id("gone")].outcome.label(), "gone");
    let texts = bad.iter().map(|(phone, _, says)| (*phone, *says));
    for (phone, says) in texts.chain([("closed", "no connection"), ("tls", "certificate")]) {
        // A 403 asks for a longer wait than is left: that ends with the first answer.
        let at_once = phone == "403";
        assert!(at_once || place("good") < place(phone), "{phone} delayed the good one");
        let Settled { outcome, attempts, .. } = &ended[&id(phone)];
        let Outcome::Expired { last } = outcome else { panic!("{phone}: {outcome:?}") };
        assert!(last.contains(says), "{phone}: {last}");
        assert!(!last.contains("secret-path"), "{phone}: {last}");
        assert!(at_once || *attempts >= 2, "{phone}: {attempts}");
    }
    assert_eq!(elsewhere.seen().len(), 0, "a redirect was followed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_carries_every_header_the_standards_ask_for() {
    let service = Service::start(vec![answers(CREATED)]).await;
    let client = client(Policy::Insecure, RootCertStore::empty());
    let key = client.vapid_keys().public_key().to_owned();
    let mut world = World::start(client, &[("p", &service.endpoint)]);
    let message = Message {
        title: "Ring".into(),
        tag: Some("ring-17".into()),
        urgency: Urgency::High,
        ..Message::default()
    };
    world.handle.act(vec![push("p", message, SignedDuration::from_secs(60))]);
    assert_eq!(world.settled().await.outcome, Outcome::Delivered);
    let [Seen { head, body }] = &service.seen()[..] else { panic!("one request") };
    assert!(head.starts_with("POST /push/secret-path HTTP/1.1\r\n"), "{head}");
    let of = |name: &str| header(head, name).unwrap_or_default();
    let ttl: u32 = of("ttl").parse().unwrap();
    assert!((55..=60).contains(&ttl), "{ttl}");
    assert_eq!(of("urgency"), "high");
    assert_eq!(of("topic"), "ring-17");
    assert_eq!(of("content-encoding"), "aes128gcm");
    assert_eq!(of("content-type"), "application/octet-stream");
    assert!(of("authorization").starts_with("vapid t=ey"), "{head}");
    assert!(of("authorization").ends_with(&format!(", k={key}")), "{head}");
    assert_eq!(header(head, "encryption"), None);
    assert_eq!(header(head, "crypto-key"), None);
    assert!(body.len() > 86 + 17 && body.len() < 4096);
}

#[tokio::test(flavor = "multi_thread")]
async fn too_big_is_sent_again_in_short_form() {
    let service = Service::start(vec![status(413, ""), answers(CREATED)]).await;
    let client = client(Policy::Insecure, RootCertStore::empty());
    let mut world = World::start(client, &[("p", &service.endpoint)]);
    let message = Message { body: "long ".repeat(400), ..Message::default() };
    world.handle.act(vec![push("p", message, SignedDuration::from_secs(60))]);
    let settled = world.settled().await;
    assert_eq!((settled.outcome, settled.attempts), (Outcome::Delivered, 2));
    let sizes: Vec<usize> = service.seen().iter().map(|seen| seen.body.len()).collect();
    assert!(sizes[0] > 2000 && sizes[1] <= 1000 + 103, "{sizes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_endpoint_is_never_called() {
    let service = Service::start(vec![answers(CREATED)]).await;
    let mut world = World::start(
        client(Policy::Public, RootCertStore::empty()),
        &[("http", &service.endpoint), ("https", &service.endpoint.replace("http:", "https:"))],
    );
    let action = |phone| push(phone, Message::default(), SignedDuration::from_secs(60));
    world.handle.act(vec![action("http"), action("https")]);
    for _ in 0..2 {
        let Settled { action, outcome, .. } = world.settled().await;
        let Outcome::Refused { why } = outcome else { panic!("{outcome:?}") };
        let http = action == id("http");
        let says = if http { "must begin with https://" } else { "127.0.0.1 is private" };
        assert!(why.contains(says), "{why}");
    }
    assert_eq!(service.seen().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_certificate_is_enough_for_tls() {
    let (trusted, key) = certificate();
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let endpoint = start_tls(trusted, key);
    let mut world = World::start(client(Policy::Insecure, roots), &[("p", &endpoint)]);
    world.handle.act(vec![push("p", Message::default(), SignedDuration::from_secs(5))]);
    assert_eq!(world.settled().await.outcome, Outcome::Delivered);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_leaves_what_a_hanging_service_got_owed() {
    let slow = Service::start(vec![Does::Hangs]).await;
    let client = client(Policy::Insecure, RootCertStore::empty());
    let world = World::start(client, &[("p", &slow.endpoint)]);
    world.handle.act(vec![push("p", Message::default(), SignedDuration::from_secs(60))]);
    // Whether or not the attempt has begun, nothing is lost: it stays owed.
    assert_eq!(world.handle.drain(PATIENCE).await, 1);
}
