//! The VMS driver: a transcript played into its session, and the whole driver against the
//! simulated VMS on a real socket, with every mischief.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use portero::clock::Clock;
use portero::event::Trust;
use portero::secret::Secret;
use portero::systems::Certificate;
use portero::systems::http::Answer;
use portero::systems::link::Reply;
use portero::systems::vms::session::{Kept, Now, Output, Session};
use portero::systems::vms::sim::{LOGIN, Mischief, PASSWORD, Sim};
use portero::systems::vms::{self, Config, TYPES};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

#[path = "support/link.rs"]
mod link;

use link::{Run, TestHouse};

const SOURCE: &str = "vms/block";

fn config(url: url::Url) -> Config {
    Config {
        url,
        login: LOGIN.into(),
        password: Some(Secret::new(PASSWORD)),
        certificate: Certificate::System,
        intercoms: Vec::new(),
        poll: Duration::from_millis(200),
        poll_calls: Duration::from_millis(100),
        client: "web".into(),
    }
}

/// A simulated VMS, a house, and the driver between them.
struct Test {
    sim: Sim,
    house: TestHouse,
    run: Run,
    driver: JoinHandle<()>,
    config: Config,
}

impl Test {
    async fn new() -> Test {
        Test::with(|_, _| ()).await
    }

    /// Starts when `prepare` is done; returns when all is learned.
    async fn with(prepare: impl FnOnce(&Sim, &mut Config)) -> Test {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let sim = Sim::start(Clock::system()).await.unwrap();
        let mut config = config(sim.url());
        prepare(&sim, &mut config);
        let house = TestHouse::new().await;
        let (link, run) = house.link(SOURCE);
        let driver = tokio::spawn(vms::run(config.clone(), link));
        let test = Test { sim, house, run, driver, config };
        test.until_learned().await;
        test
    }

    async fn until_learned(&self) {
        let learned = |house: &TestHouse| {
            house.state("vms/block/intercoms").and(house.state("vms/block/calls"))
        };
        self.house.until("all is learned", learned).await;
    }

    /// Stops the driver and starts another one, which knows what the first one told.
    async fn restart(&mut self, meanwhile: impl FnOnce(&Sim)) {
        self.stop().await;
        meanwhile(&self.sim);
        let (link, run) = self.house.link(SOURCE);
        self.run = run;
        self.driver = tokio::spawn(vms::run(self.config.clone(), link));
    }

    async fn stop(&mut self) {
        self.run.stopping.cancel();
        tokio::time::timeout(Duration::from_secs(2), &mut self.driver).await.unwrap().unwrap();
    }

    /// Waits until the state is the simulator's truth, to the last field.
    async fn until_exact(&self) {
        let truth = self.sim.truth();
        let exact = |house: &TestHouse| {
            let known = house.states("vms/block/intercom");
            let same = known.len() == truth.len()
                && truth.iter().all(|(id, fields)| {
                    let path = format!("vms/block/intercom/{id}");
                    known.get(&path) == Some(&Value::Object(fields.clone()))
                });
            same.then_some(())
        };
        self.house.until("the state is exact", exact).await;
    }

    async fn link_is(&self, up: bool) -> Value {
        let link =
            |house: &TestHouse| house.state("vms/block/link").filter(|link| link["up"] == up);
        self.house.until(if up { "up" } else { "down" }, link).await
    }

    async fn polls(&self, count: usize) {
        let from = self.sim.count("GET", "/shows");
        let polled =
            |_: &TestHouse| (self.sim.count("GET", "/shows") >= from + count).then_some(());
        self.house.until("polls", polled).await;
    }

    async fn open(&self, intercom: &str) -> Reply {
        self.run.order(SOURCE, "open_door", json!({ "intercom": intercom })).await
    }
}

#[test]
fn the_page_describes_every_type_and_no_other() {
    let page = include_str!("../docs/events.md");
    let described = page.lines().filter_map(|line| line.strip_prefix("| `vms."));
    let described: Vec<String> =
        described.filter_map(|line| Some(format!("vms.{}", line.split_once('`')?.0))).collect();
    assert_eq!(described, TYPES);
}

#[test]
fn a_transcript_of_a_day() {
    let start: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
    let mut config = config("https://vms.local".parse().unwrap());
    (config.poll, config.poll_calls) = (Duration::from_secs(10), Duration::from_secs(5));
    config.intercoms = vec![180];
    let kept = Kept::new("u".into());
    let mut session = Session::new(SOURCE, Trust::Fresh, config, kept, &[], 1);
    let mut now = Now { wall: start, run: Duration::ZERO };
    let mut asked: Vec<(u64, String)> = Vec::new();
    let ask = |asked: &mut Vec<(u64, String)>, outputs: &[Output]| {
        asked.extend(outputs.iter().filter_map(|output| match output {
            Output::Ask(id, ask) => Some((*id, format!("{} {}", ask.method, ask.url.path()))),
            _ => None,
        }));
    };
    for line in include_str!("../fixtures/vms/day.jsonl").lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let after = line["after"].as_u64().unwrap_or(0);
        now.run += Duration::from_secs(after);
        now.wall += SignedDuration::from_secs(i64::try_from(after).unwrap());
        ask(&mut asked, &session.tick(now));
        let at = asked.iter().position(|(_, asked)| *asked == line["ask"].as_str().unwrap());
        let at = at.unwrap_or_else(|| panic!("{asked:?} is asked before {line}"));
        let (id, _) = asked.remove(at);
        let body = line["text"].as_str().map_or(line["body"].to_string(), String::from);
        let answer = Answer {
            status: u16::try_from(line["status"].as_u64().unwrap()).unwrap(),
            content_type: String::new(),
            retry_after: None,
            date: Some(now.wall),
            location: None,
            body: body.into_bytes(),
        };
        let outputs = session.answered(id, Ok(answer), now);
        ask(&mut asked, &outputs);
        let told = outputs.iter().filter_map(|output| match output {
            Output::Tell(news) => Some(&news.events),
            _ => None,
        });
        let heard: Vec<String> = told
            .flatten()
            .map(|heard| {
                let mark = if heard.event.marks.caught_up { " caught up" } else { "" };
                format!("{}{mark}", heard.event.kind)
            })
            .collect();
        assert_eq!(json!(heard), line["hears"], "{line}");
    }
}

#[tokio::test]
async fn everything_is_heard() {
    let test = Test::new().await;
    test.until_exact().await;
    assert_eq!(test.house.events(), [], "a first start tells nothing");
    let call = test.sim.ring(180);
    let ring = test.house.event("vms.ring", 1).await;
    assert_eq!((ring.subject.as_deref(), ring.trust), (Some("180"), Trust::Fresh));
    assert_eq!(ring.data["call_id"], call.to_string());
    assert_eq!(ring.data["title"], "Home");
    test.sim.step(call, "answered");
    test.house.event("vms.call.answered", 1).await;
    test.sim.step(call, "ended");
    test.house.event("vms.call.ended", 1).await;
    let call = test.sim.ring(181);
    test.house.event("vms.ring", 2).await;
    test.sim.step(call, "missed");
    assert_eq!(test.house.event("vms.call.missed", 1).await.data["rang"], true);
    test.sim.set(181, "is_online", false);
    test.house.event("vms.intercom.offline", 1).await;
    test.sim.set(181, "is_online", true);
    test.house.event("vms.intercom.online", 1).await;
    test.sim.set(181, "is_enabled", false);
    test.house.event("vms.intercom.disabled", 1).await;
    test.sim.set(181, "is_enabled", true);
    test.house.event("vms.intercom.enabled", 1).await;
    test.sim.set(181, "title", "Barn");
    assert_eq!(test.house.event("vms.intercom.renamed", 1).await.data["old_title"], "Garage");
    test.sim.remove(181);
    assert_eq!(test.house.event("vms.intercom.gone", 1).await.data["title"], "Barn");
    test.until_exact().await;
    assert_eq!(test.house.state("vms/block/intercom/Barn"), None);
    assert_eq!(test.house.state("vms/block/intercom/Home").unwrap()["id"], 180);
    assert!(test.house.events().iter().all(|event| !event.marks.caught_up));
    let asked = test.sim.received().pop().unwrap();
    assert_eq!(asked.headers["x-client"], "web");
    assert_eq!(asked.headers["x-uuid"].len(), 36);
    assert_eq!(asked.headers["accept"], "application/json");
}

#[tokio::test]
async fn commands_reach_the_vms() {
    let test = Test::new().await;
    assert_eq!(test.open("Home").await, Reply::Done(Value::Null));
    assert_eq!(test.open("181").await, Reply::Done(Value::Null));
    assert_eq!(test.sim.opened(), [180, 181]);
    let order = |call, args| test.run.order(SOURCE, call, args);
    let renamed = order("rename", json!({ "intercom": "Garage", "title": "Barn" })).await;
    assert!(matches!(renamed, Reply::Done(_)), "{renamed:?}");
    test.house.event("vms.intercom.renamed", 1).await;
    let disabled = order("enable", json!({ "intercom": "Barn", "enabled": false })).await;
    assert!(matches!(disabled, Reply::Done(_)), "{disabled:?}");
    test.house.event("vms.intercom.disabled", 1).await;
    let table = json!({ "days": [], "intervals": [{ "from": "08:00:00", "to": "20:00:00" }] });
    order("timetable", json!({ "intercom": "Barn", "timetable": table })).await;
    test.until_exact().await;
    assert_eq!(test.sim.truth()[&181]["timetable"], table);
    let long = order("rename", json!({ "intercom": "181", "title": "x".repeat(101) })).await;
    let why = "422: `title` The title may not be greater than 100 characters.";
    assert_eq!(long, Reply::Refused(why.into()));
    let Reply::Done(all) = order("intercoms", json!({})).await else { panic!("no list") };
    assert_eq!(all["data"].as_array().unwrap().len(), 2);
    let args = json!({ "intercom": "Home", "types": ["missed_intercom_call"], "per_page": 5 });
    let Reply::Done(calls) = order("calls", args).await else { panic!("no calls") };
    let id = calls["data"][0]["id"].to_string();
    let Reply::Done(call) = order("call", json!({ "id": id })).await else { panic!("no call") };
    assert_eq!(call["status"], "missed");
    assert!(matches!(order("events", json!({})).await, Reply::Done(_)));
}

#[tokio::test]
async fn a_door_never_opens_twice_or_where_it_may_not() {
    let test = Test::new().await;
    // The answer is lost after the door opened: nobody knows, and nobody tries again.
    test.sim.misbehave(Mischief::Drop, "open-door", 1);
    assert!(matches!(test.open("Home").await, Reply::Unknown(_)));
    assert_eq!(test.sim.opened(), [180]);
    test.sim.misbehave(Mischief::ErrorPage, "open-door", 1);
    let reply = test.open("Home").await;
    assert_eq!(reply, Reply::Unknown("500: an HTML page, Server Error".into()));
    for (mischief, why) in [
        (Mischief::Throttle(0), "429: Too Many Attempts."),
        (Mischief::Invalid, "422: `intercom` no such"),
        (Mischief::InvalidPlain, "422: no such intercom"),
        (Mischief::PageExpired, "419: an HTML page, Page Expired"),
    ] {
        test.sim.misbehave(mischief, "open-door", 1);
        assert_eq!(test.open("Home").await, Reply::Refused(why.into()));
    }
    assert_eq!(test.sim.opened(), [180]);
    // A refused token is certain not to have opened it: once more, with a new one.
    test.sim.misbehave(Mischief::Expired, "open-door", 1);
    assert_eq!(test.open("Home").await, Reply::Done(Value::Null));
    assert_eq!(test.sim.opened(), [180, 180]);
    test.sim.set(180, "is_open_door_app", false);
    test.polls(2).await;
    assert!(matches!(test.open("Home").await, Reply::Refused(_)));
    assert_eq!(test.sim.count("POST", "/open-door"), 8);
}

#[tokio::test]
async fn an_opening_never_follows_a_redirect() {
    let test = Test::new().await;
    // Whether it acts before it redirects or not: one order is one request, to one door.
    let mut asked = 0;
    for status in [301, 302, 303, 307, 308] {
        for to in ["", "/api/v1/intercom/181/open-door"] {
            test.sim.misbehave(Mischief::ActsAndMoves(status, to), "open-door", usize::MAX);
            let reply = test.open("Home").await;
            let Reply::Unknown(why) = reply else { panic!("{status} {to}: {reply:?}") };
            assert!(why.contains("answered with a redirect to http"), "{why}");
            asked += 1;
            test.sim.behave();
        }
    }
    test.sim.misbehave(Mischief::Moved, "open-door", 1);
    assert!(matches!(test.open("Home").await, Reply::Unknown(_)));
    assert_eq!(test.sim.opened(), vec![180; asked]);
    assert_eq!(test.sim.count("POST", "/open-door"), asked + 1);
}

#[tokio::test]
async fn bad_manners_are_survived_and_the_state_is_exact_afterwards() {
    let test = Test::new().await;
    for (at, mischief) in [
        Mischief::WrongTypes,
        Mischief::Duplicates,
        Mischief::Reversed,
        Mischief::Wrapped,
        Mischief::Nulls,
        Mischief::OddTimes,
        Mischief::Expired,
        Mischief::Moved,
        Mischief::Garbage,
        Mischief::WrongShape,
    ]
    .into_iter()
    .enumerate()
    {
        // A list and the calls; but a token that is refused right after its login would mean that
        // logins do not help.
        let times = if mischief == Mischief::Expired { 1 } else { 2 };
        test.sim.misbehave(mischief, "/intercom", times);
        let call = test.sim.ring(180);
        let ring = test.house.event("vms.ring", at + 1).await;
        assert_eq!(ring.data["call_id"], call.to_string(), "{mischief:?}");
        test.polls(2).await;
    }
    test.sim.behave();
    test.polls(2).await;
    test.until_exact().await;
    let kinds: Vec<_> = test.house.events().iter().map(|event| event.kind.clone()).collect();
    assert_eq!(kinds, vec!["vms.ring"; 10], "nothing else happened");
    assert!(!test.house.bad().is_empty());
    assert!(test.house.bad().iter().all(|kept| !kept.reason.contains("token")));
}

#[tokio::test]
async fn breaks_are_found_and_what_happened_meanwhile_is_caught_up() {
    let mut test = Test::new().await;
    let mut rings = 0;
    for mischief in [
        Mischief::Drop,
        Mischief::Throttle(1),
        Mischief::Maintenance(1),
        Mischief::ErrorPage,
        Mischief::LoginPage,
        Mischief::PageExpired,
    ] {
        test.sim.misbehave(mischief, "/api", usize::MAX);
        let why = test.link_is(false).await;
        test.sim.ring_since(180, SignedDuration::from_mins(1));
        test.sim.ring(180);
        test.sim.behave();
        test.link_is(true).await;
        rings += 2;
        // By the server's own clock one is old and the other is not, whatever broke meanwhile.
        let old = test.house.event("vms.ring", rings - 1).await;
        assert!(old.marks.caught_up, "{mischief:?} {why}");
        assert_eq!(old.trust, Trust::Authentic);
        let live = test.house.event("vms.ring", rings).await;
        assert_eq!((live.marks.caught_up, live.trust), (false, Trust::Fresh), "{mischief:?}");
    }
    // The whole server goes, and comes back at the same place.
    test.sim.stop().await;
    test.link_is(false).await;
    let reply = test.open("Home").await;
    assert!(
        matches!(&reply, Reply::Unsent(why) if why.starts_with("not connected: ")),
        "{reply:?}"
    );
    test.sim.ring_since(181, SignedDuration::from_mins(1));
    test.sim.set(181, "is_online", false);
    test.sim = test.sim.restart().await.unwrap();
    assert!(test.house.event("vms.ring", rings + 1).await.marks.caught_up);
    assert!(test.house.event("vms.intercom.offline", 1).await.marks.caught_up);
    test.until_exact().await;
}

#[tokio::test]
async fn a_list_that_hangs_or_is_refused_delays_no_ring() {
    for mischief in [Mischief::HalfOpen, Mischief::Invalid, Mischief::LoginPage] {
        let test = Test::new().await;
        test.sim.misbehave(mischief, "/shows", usize::MAX);
        let asked = test.sim.count("GET", "/shows");
        let again = |_: &TestHouse| (test.sim.count("GET", "/shows") > asked).then_some(());
        test.house.until("a list asked for", again).await;
        let start = tokio::time::Instant::now();
        test.sim.ring(180);
        let ring = test.house.event("vms.ring", 1).await;
        assert!(!ring.marks.caught_up, "{mischief:?}");
        assert!(start.elapsed() < Duration::from_secs(5), "{mischief:?}");
        assert_eq!(test.house.state("vms/block/link").unwrap()["up"], true, "{mischief:?}");
    }
}

#[tokio::test]
async fn one_refusal_of_calls_delays_no_ring() {
    let test = Test::new().await;
    test.sim.misbehave(Mischief::NotFound, "/calls", 1);
    let found = |_: &TestHouse| {
        let received = test.sim.received();
        received.iter().any(|asked| asked.status == 404).then_some(())
    };
    test.house.until("a refusal", found).await;
    test.sim.ring(180);
    assert!(!test.house.event("vms.ring", 1).await.marks.caught_up);
    assert_eq!(test.house.state("vms/block/link").unwrap()["up"], true);
}

#[tokio::test]
async fn a_page_from_something_in_between_opens_no_door() {
    let test = Test::new().await;
    test.sim.misbehave(Mischief::LoginPage, "/open-door", 1);
    let reply = test.open("Home").await;
    assert!(matches!(&reply, Reply::Unknown(why) if why.contains("Sign in")), "{reply:?}");
    assert_eq!(test.sim.opened(), [0; 0]);
}

#[tokio::test]
async fn a_connection_that_went_dead_is_found() {
    let test = Test::new().await;
    let start = tokio::time::Instant::now();
    test.sim.misbehave(Mischief::HalfOpen, "/api", usize::MAX);
    let link = test.link_is(false).await;
    assert!(link["why"].as_str().unwrap().starts_with("no answer"), "{link}");
    assert!(start.elapsed() < Duration::from_secs(60));
    test.sim.behave();
    test.link_is(true).await;
}

#[tokio::test]
async fn a_restart_keeps_the_session_and_tells_what_changed() {
    let mut test = Test::new().await;
    test.restart(|sim| {
        let call = sim.ring(180);
        sim.step(call, "missed");
        sim.set(181, "title", "Barn");
        sim.add(182, "Cellar");
    })
    .await;
    let missed = test.house.event("vms.call.missed", 1).await;
    assert_eq!((missed.marks.caught_up, &missed.data["rang"]), (true, &json!(false)));
    assert!(test.house.event("vms.intercom.renamed", 1).await.marks.caught_up);
    assert_eq!(test.house.event("vms.intercom.appeared", 1).await.data["title"], "Cellar");
    test.until_exact().await;
    assert_eq!(test.sim.count("POST", "/token"), 1, "one login for both runs");
    assert_eq!(test.sim.count("POST", "/logout"), 0);
    let uuids = test.sim.received().iter().map(|asked| asked.headers["x-uuid"].clone()).collect();
    assert_eq!(std::collections::BTreeSet::<String>::len(&uuids), 1);
    test.stop().await;
    assert_eq!(test.house.events().len(), 3);
}

#[tokio::test]
async fn sessions_of_others_stay_and_our_own_makes_room() {
    // There is room for one, and afterwards somebody takes all that is left.
    let test = Test::new().await;
    test.sim.fill_sessions(2, 3);
    test.sim.void_tokens();
    let logins = |_: &TestHouse| (test.sim.count("POST", "/token") == 3).then_some(());
    test.house.until("a login in our own place", logins).await;
    test.polls(1).await;
    assert_eq!(test.sim.sessions(), 3);
    // Now all are somebody else's.
    let other = Test::with(|sim, _| sim.be_strict(true, false)).await;
    other.sim.expire_tokens();
    other.sim.fill_sessions(3, 3);
    let link = other.link_is(false).await;
    assert!(link["why"].as_str().unwrap().contains("no room for another session"), "{link}");
    assert_eq!(other.sim.sessions(), 3);
}

#[tokio::test]
async fn a_clock_that_is_wrong_does_not_make_a_ring_old() {
    let test = Test::with(|sim, _| sim.skew(SignedDuration::from_hours(-3))).await;
    test.sim.ring(180);
    let ring = test.house.event("vms.ring", 1).await;
    assert!(!ring.marks.caught_up);
    test.sim.ring_since(181, SignedDuration::from_mins(2));
    let ring = test.house.event("vms.ring", 2).await;
    assert!(ring.marks.caught_up);
}

/// TLS in front of a simulator, with a certificate that nobody signed.
async fn tls_front(address: std::net::SocketAddr, sim: &Sim) -> (std::net::SocketAddr, String) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let der = made.cert.der().clone();
    let sum = ring::digest::digest(&ring::digest::SHA256, &der);
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![der], key.into())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(tls));
    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    let (at, url) = (listener.local_addr().unwrap(), sim.url());
    let inner = format!("127.0.0.1:{}", url.port().unwrap());
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let (acceptor, inner) = (acceptor.clone(), inner.clone());
            tokio::spawn(async move {
                let Ok(mut outside) = acceptor.accept(socket).await else { return };
                let Ok(mut inside) = tokio::net::TcpStream::connect(inner).await else { return };
                let _ = tokio::io::copy_bidirectional(&mut outside, &mut inside).await;
            });
        }
    });
    (at, format!("sha256:{}", portero::secret::hex(sum.as_ref())))
}

#[tokio::test]
async fn another_certificate_is_refused_told_and_taken_by_hand() {
    let any = "127.0.0.1:0".parse().unwrap();
    let sim = Sim::start(Clock::system()).await.unwrap();
    let (first, _) = tls_front(any, &sim).await;
    let mut test = Test::with(|_, config| {
        config.certificate = Certificate::PinFirst;
        config.url = format!("https://localhost:{}", first.port()).parse().unwrap();
    })
    .await;
    // Somebody else answers from now on, at another port since the first is taken.
    let (second, pin) = tls_front(any, &sim).await;
    test.config.url = format!("https://localhost:{}", second.port()).parse().unwrap();
    test.restart(|_| ()).await;
    let told = test.house.event("vms.certificate_changed", 1).await;
    assert_eq!(told.data["seen"], pin);
    assert_ne!(told.data["expected"], pin);
    let link = test.link_is(false).await;
    assert!(link["why"].as_str().unwrap().contains("another certificate"), "{link}");
    let trust =
        |pin: String| test.run.order(SOURCE, "trust_certificate", json!({ "fingerprint": pin }));
    let wrong = trust(format!("sha256:{}", "00".repeat(32))).await;
    assert!(matches!(wrong, Reply::Refused(_)), "{wrong:?}");
    assert!(matches!(trust(pin).await, Reply::Done(_)));
    test.link_is(true).await;
    assert_eq!(test.house.events_of("vms.certificate_changed").len(), 1);
}
