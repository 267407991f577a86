//! Netatmo's cloud, and its webhooks.

use std::ops::Deref;
use std::time::Duration;

use portero::clock::Clock;
use portero::secret::Secret;
use portero::systems::netatmo::api::sim::{CLIENT_ID, Mischief, REFRESH_TOKEN, Received, Sim, ids};
use portero::systems::netatmo::api::{COMMANDS, TYPES};
use portero::systems::netatmo::names::{KINDS, Role};
use serde_json::{Value, json};

use super::{Estate, NOTES, PATIENCE};
use crate::support::{SECRET, http, within};

const SOURCE: &str = "netatmo/home";

/// A simulated cloud and a house with an account there.
struct Account {
    sim: Sim,
    estate: Estate,
}

impl Deref for Account {
    type Target = Estate;

    fn deref(&self) -> &Estate {
        &self.estate
    }
}

impl Account {
    fn new() -> Account {
        Account::with(NOTES, "", |_| ())
    }

    /// Connected; `prepare` is done to the cloud before anybody asks it.
    fn with(rules: &str, sections: &str, prepare: impl FnOnce(&Sim)) -> Account {
        let sim = Sim::start_with(Clock::system(), Secret::new(SECRET)).unwrap();
        prepare(&sim);
        // Goes on with the section of the test home's account.
        let keys = format!(
            "client_id = \"{CLIENT_ID}\"\nrefresh_token = \"{REFRESH_TOKEN}\"\napi = \"{}\"\n",
            sim.url()
        );
        let estate = Estate::start_with(&(keys + sections), rules);
        let account = Account { sim, estate };
        account.moved_in();
        account
    }

    /// Webhooks find the house, and the first looks are done.
    fn moved_in(&self) {
        self.sim.deliver_to(self.server().listen);
        self.until_up(SOURCE);
        let (status, events) = self.looks();
        within(PATIENCE, "the first looks", || {
            let (s, e) = self.looks();
            (s > 0 && e > 0 && (s, e) >= (status, events)).then_some(())
        });
        self.until_value("netatmo/home/module/Garden camera", |known| !known.is_null());
    }

    fn looks(&self) -> (usize, usize) {
        (self.sim.calls("/api/homestatus"), self.sim.calls("/api/getevents"))
    }

    /// SIGTERM, what happens meanwhile, and a new start, which looks at the history.
    fn away(&mut self, meanwhile: impl FnOnce(&Sim)) {
        self.estate.stop();
        // Or a webhook that waits for its turn would find the next run.
        self.sim.deaf(true);
        meanwhile(&self.sim);
        self.sim.deaf(false);
        let before = self.sim.calls("/api/getevents");
        self.estate.go_on();
        self.moved_in();
        within(PATIENCE, "a look at the history", || {
            (self.sim.calls("/api/getevents") > before).then_some(())
        });
    }

    fn crash(&mut self) {
        self.estate.crash();
        self.moved_in();
    }

    /// Waits until the registration is proved.
    fn until_registered(&self) {
        self.until_value("netatmo/home/webhook", |webhook| webhook["active"] == true);
    }

    fn command(&self, call: &str, args: Value) -> Value {
        self.tell(SOURCE, call, args)
    }

    /// Asks for the state now and waits until all that is known is the cloud's truth.
    fn until_exact(&self) {
        within(PATIENCE, "the mirror", || {
            let asked = self.command("status", json!({}));
            if asked["outcome"] != "done" {
                return None;
            }
            let (truth, known) = (self.sim.truth(), self.state(SOURCE));
            let same = |kind: &str, thing: &Value| {
                let id = thing["id"].as_str().unwrap_or_default();
                let ours = known.get(&format!("netatmo/home/{kind}/{id}"));
                let fields = thing.as_object().into_iter().flatten();
                // Addresses of pictures are not kept.
                let mut fields = fields.filter(|(name, _)| *name != "url");
                ours.is_some_and(|ours| fields.all(|(name, value)| ours.get(name) == Some(value)))
            };
            let all = |list: &str| truth[list].as_array().cloned().unwrap_or_default();
            let modules = all("modules").iter().all(|module| same("module", module));
            let persons = all("persons").iter().all(|person| same("person", person));
            let rooms = all("rooms").iter().all(|room| same("room", room));
            (modules && persons && rooms).then_some(())
        });
    }

    /// The events of a type about one `event_id`.
    fn about(&self, kind: &str, id: &str) -> Vec<Value> {
        let all = self.events(kind).into_iter();
        all.filter(|event| event["data"]["event_id"] == id).collect()
    }

    /// A paired person's cookie.
    fn pair(&self) -> String {
        let output = self.home.run(&["pair", "ana"]);
        let text = String::from_utf8(output.stdout).unwrap();
        let code = text.split_once("#pair=").unwrap().1.split_whitespace().next().unwrap();
        let body = json!({ "code": code, "name": "a phone" }).to_string();
        let headers = [("Content-Type", "application/json")];
        let answer =
            http::ask(self.server().listen, "POST", "/api/pair", &headers, body.as_bytes());
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.header("set-cookie").split(';').next().unwrap().to_string()
    }

    /// A browser goes through Netatmo's page and comes back; the page at the end.
    fn consent(&self, cookie: &str) -> http::Answer {
        let (house, cloud) = (self.server().listen, self.sim.url());
        let cloud = format!("127.0.0.1:{}", cloud.port().unwrap()).parse().unwrap();
        let cookie = [("Cookie", cookie)];
        let there = http::ask(house, "GET", "/oauth/netatmo/home", &cookie, b"");
        assert!([302, 303, 307].contains(&there.status), "{} {}", there.status, there.text());
        let asked = http::ask(cloud, "GET", &path_of(there.header("location")), &[], b"");
        assert_eq!(asked.status, 302, "{}", asked.text());
        http::ask(house, "GET", &path_of(asked.header("location")), &cookie, b"")
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(self.sim.in_flight_max(), 1, "Netatmo allows one call at a time");
        }
    }
}

/// Path and query of an address.
fn path_of(url: &str) -> String {
    let url: url::Url = url.parse().unwrap();
    format!("{}?{}", url.path(), url.query().unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_of_the_cloud_reaches_a_rule() {
    let account = Account::with(NOTES, "", |sim| sim.never_activate(true));
    let sim = &account.sim;
    for kind in TYPES {
        match *kind {
            "netatmo.module_unreachable" => sim.set_reachable(ids::SIREN, false),
            "netatmo.module_reachable" => sim.set_reachable(ids::SIREN, true),
            "netatmo.tag_status" => sim.set_status(ids::TAG, "status", "open"),
            // Half a minute after the registration without a word.
            "netatmo.webhook_failed" => {}
            "netatmo.consent_needed" => {
                sim.revoke();
                account.command("status", json!({}));
                account.until_told(kind);
                let page = account.consent(&account.pair());
                assert!(page.status < 400, "{} {}", page.status, page.text());
                account.until_up(SOURCE);
            }
            other => panic!("{other} is new: make it happen here"),
        }
        account.command("status", json!({}));
        account.until_told(kind);
    }
    let failed = &account.events("netatmo.webhook_failed")[0];
    assert_eq!(failed["data"]["reason"], "no_activation", "{failed}");
    let tag = &account.events("netatmo.tag_status")[0]["data"];
    assert_eq!((&tag["status"], &tag["previous"]), (&json!("open"), &json!("closed")));
    account.until_exact();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_of_webhook_reaches_a_rule() {
    let account = Account::new();
    account.until_registered();
    for (n, kind) in KINDS.iter().enumerate() {
        let device = json!({ "device_id": ids::BELL, "home_id": ids::HOME });
        let mut body = device.clone();
        body["session_id"] = json!(format!("call {n}"));
        match (kind.name, kind.role) {
            ("netatmo.unparsable", _) => body = json!(["no object"]),
            ("netatmo.unknown", _) => body["push_type"] = json!("NOC-gnome_moved"),
            ("netatmo.webhook_activation", _) => {
                body = json!({ "push_type": "webhook_activation", "user_id": ids::USER });
            }
            (_, Role::Ended | Role::Rtc) => {
                let what = if kind.role == Role::Ended { "terminate" } else { "answer" };
                body["push_type"] = json!("NDB-rtc");
                body["data"] = json!({ "type": what });
            }
            _ => {
                body["push_type"] = json!(format!("NACamera-{}", kind.vendor));
                body["event_type"] = json!(kind.vendor);
                body["event_id"] = json!(format!("6a30{n:020x}"));
            }
        }
        account.sim.post(body);
    }
    for kind in &KINDS {
        account.until_told(kind.name);
    }
    assert!(account.sim.deliveries().iter().all(|delivery| delivery.status == Some(200)));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_reaches_the_cloud() {
    let account = Account::new();
    let sim = &account.sim;
    let set = |module: Value| {
        let body = json!({ "home": { "id": ids::HOME, "modules": [module] } });
        Some(Received { path: "/api/setstate".into(), body })
    };
    for spec in COMMANDS {
        let (args, wanted) = match spec.name {
            "floodlight" => (
                json!({ "module": "Garden camera", "mode": "on" }),
                set(json!({ "id": ids::OUTDOOR, "floodlight": "on" })),
            ),
            "staircase_light" => (
                json!({ "module": "Staircase" }),
                set(json!({ "id": ids::STAIRS, "bridge": ids::GATEWAY, "on": true })),
            ),
            "monitoring" => (
                json!({ "module": ids::INDOOR, "on": false }),
                set(json!({ "id": ids::INDOOR, "monitoring": "off" })),
            ),
            "unlock" => (
                json!({ "module": "Street door" }),
                set(json!({ "id": ids::LOCK, "bridge": ids::GATEWAY, "lock": false })),
            ),
            "persons_away" => {
                let body = json!({ "home_id": ids::HOME, "person_id": ids::ANA });
                let path = "/api/setpersonsaway".into();
                (json!({ "person": "Ana" }), Some(Received { path, body }))
            }
            "persons_home" => {
                let list = json!([ids::BENOIT]).to_string();
                let body = json!({ "home_id": ids::HOME, "person_ids": list });
                let path = "/api/setpersonshome".into();
                (json!({ "persons": "Benoît" }), Some(Received { path, body }))
            }
            "homes" | "status" | "events" => (json!({}), None),
            other => panic!("{other} is new: give it here"),
        };
        let before = sim.commands().len();
        let result = account.done(SOURCE, spec.name, args);
        let arrived = sim.commands()[before..].to_vec();
        match wanted {
            Some(wanted) => assert_eq!(arrived, [wanted], "{}", spec.name),
            None => assert!(arrived.is_empty() && result.is_object(), "{}: {result}", spec.name),
        }
    }
    account.until_exact();
    assert_eq!(sim.truth()["persons"][0]["out_of_sight"], true);
    // Everybody, and a light that is on already.
    account.done(SOURCE, "persons_away", json!({}));
    assert_eq!(sim.truth()["persons"][1]["out_of_sight"], true);
    account.done(SOURCE, "staircase_light", json!({ "module": ids::STAIRS }));
    // What cannot be reached is refused inside 200.
    sim.set_reachable(ids::OUTDOOR, false);
    let args = json!({ "module": ids::OUTDOOR, "mode": "off" });
    let answer = account.command("floodlight", args);
    assert_eq!(answer["outcome"], "refused", "{answer}");
    account.until_exact();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_switches_the_light_and_a_webhook_never_opens_a_door() {
    let rules = format!(
        "{NOTES}  - name: light
    when: {{ type: netatmo.ring }}
    do:
      - netatmo: {{ account: home, call: unlock, module: Street door }}
      - netatmo: {{ account: home, call: floodlight, module: Garden camera, mode: \"on\" }}
"
    );
    let account = Account::with(&rules, "", |_| ());
    account.until_registered();
    account.sim.ring(ids::BELL);
    within(PATIENCE, "the light", || (!account.sim.commands().is_empty()).then_some(()));
    account.until_exact();
    let commands = account.sim.commands();
    assert_eq!(commands.len(), 1, "{commands:?}");
    assert_eq!(commands[0].body["home"]["modules"][0]["floodlight"], "on");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_rotate_over_restarts_and_crashes() {
    let mut account = Account::new();
    for round in 0..6 {
        account.sim.expire_access();
        match round % 3 {
            0 => account.away(|_| ()),
            1 => account.crash(),
            _ => {}
        }
        // Refused once in the middle of an order, which goes again.
        account.done(SOURCE, "floodlight", json!({ "module": ids::OUTDOOR, "mode": "on" }));
        account.crash();
    }
    let sim = &account.sim;
    assert!(sim.refreshes() >= 6, "{}", sim.refreshes());
    assert_eq!(sim.refused_refreshes(), 0);
    assert_eq!(account.events("netatmo.consent_needed").len(), 0);
    // After a crash one that changes nothing a second time may come twice.
    assert!(sim.commands().len() >= 6);
    account.until_exact();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_pair_needs_a_person_who_brings_it_back_by_the_browser() {
    let mut account = Account::new();
    let cookie = account.pair();
    let strangers = http::get(account.server().listen, "/oauth/netatmo/home");
    assert!([401, 403].contains(&strangers.status), "{}", strangers.status);
    account.sim.misbehave(Mischief::LostAnswer, "/oauth2/token", 1);
    account.sim.expire_access();
    account.command("status", json!({}));
    account.until_told("netatmo.consent_needed");
    account.until_down(SOURCE);
    let answer = account.post(&json!({ "to": SOURCE, "call": "status", "ttl": "2s" })).json();
    assert_eq!(answer["outcome"], "expired", "{answer}");
    // Once, and it stays so over a restart without another word.
    account.estate.restart();
    account.sim.deliver_to(account.server().listen);
    account.until_down(SOURCE);
    let asked = account.events("netatmo.consent_needed");
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert!(asked[0]["data"]["link"].as_str().unwrap().ends_with("/oauth/netatmo/home"));
    account.sim.decline(true);
    let page = account.consent(&cookie);
    assert!(page.text().contains("did not let Portero in"), "{}", page.text());
    account.sim.decline(false);
    // A forged return is not believed.
    let forged = "/oauth/netatmo/home?code=x&state=y";
    let answer = http::ask(account.server().listen, "GET", forged, &[("Cookie", &cookie)], b"");
    assert!(answer.status >= 400, "{} {}", answer.status, answer.text());
    let page = account.consent(&cookie);
    assert!(page.status < 400, "{} {}", page.status, page.text());
    account.moved_in();
    account.until_exact();
    account.crash();
    account.until_exact();
    assert_eq!(account.events("netatmo.consent_needed").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_missed_is_caught_up_once_and_what_was_heard_is_not_told_again() {
    for sessions in [true, false] {
        println!("with sessions: {sessions}");
        let mut account = Account::with(NOTES, "", |sim| sim.tell_sessions(sessions));
        account.until_registered();
        account.sim.repeat_webhooks(1);
        let moved = account.sim.happen("movement", ids::INDOOR, json!({}));
        let smoke = account.sim.happen("smoke", ids::SMOKE, json!({ "sub_type": 1 }));
        let tag = account.sim.happen("tag_open", ids::TAG, json!({}));
        let persons = json!([{ "id": ids::ANA, "is_known": true }]);
        let face = account.sim.happen("person", ids::INDOOR, json!({ "persons": persons }));
        let heard = account.sim.ring(ids::BELL);
        account.sim.go_on(&heard, "accepted_call");
        account.until_events("netatmo.accepted_call", 1);
        assert_eq!(account.events("netatmo.ring").len(), 1);
        let mut missed = String::new();
        account.away(|sim| {
            // More than a page, among them a page that comes again and again.
            // Old enough that no webhook is waited for.
            let time = Clock::system().now().as_second() - 60;
            for _ in 0..40 {
                sim.happen("animal", ids::OUTDOOR, json!({ "time": time - 60 }));
            }
            missed = sim.ring_since(ids::BELL, jiff::SignedDuration::from_mins(1)).event;
            sim.happen("smoke", ids::SMOKE, json!({ "sub_type": 0, "time": time }));
            sim.misbehave(Mischief::SamePage, "/api/getevents", 2);
        });
        let rings = account.until_events("netatmo.ring", 2);
        account.until_events("netatmo.smoke", 2);
        assert_eq!(rings[1]["data"]["event_id"], missed.as_str());
        assert_eq!(
            (&rings[1]["caughtup"], &rings[1]["trust"]),
            (&json!(true), &json!("authentic"))
        );
        for (kind, id) in
            [("movement", &moved), ("smoke", &smoke), ("tag_open", &tag), ("person", &face)]
        {
            let told = account.about(&format!("netatmo.{kind}"), id);
            assert_eq!(told.len(), 1, "{kind}: {told:?}");
            assert_eq!(told[0].get("caughtup"), None, "{kind}");
        }
        // Looked at again by a crash and a restart: nothing is new.
        let count = |account: &Account| account.home.events(&["--type", "netatmo.*"]).len();
        let before = count(&account);
        account.crash();
        account.until_registered();
        account.away(|_| ());
        account.until_exact();
        let news: Vec<Value> = account.home.events(&["--type", "netatmo.*"]).split_off(before);
        let own =
            |e: &&Value| e["type"] != "netatmo.webhook_activation" && e["type"] != "netatmo.animal";
        let news: Vec<&Value> = news.iter().filter(own).collect();
        assert!(news.is_empty(), "{news:#?}");
        assert_eq!(account.events("netatmo.accepted_call").len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_pages_and_garbage_leave_no_command_twice_and_the_state_exact() {
    let account = Account::new();
    let sim = &account.sim;
    let light = |mode: &str| json!({ "module": ids::OUTDOOR, "mode": mode });
    for (mischief, outcomes, arrives) in [
        (Mischief::Expired, &["done"][..], true),
        (Mischief::Concurrent, &["done"], true),
        (Mischief::Forbidden, &["refused"], false),
        (Mischief::ErrorInside(6), &["refused"], false),
        (Mischief::ErrorPage, &["unknown", "done"], false),
        (Mischief::Html, &["unknown", "done"], false),
        (Mischief::Empty, &["unknown", "done"], false),
        (Mischief::Garbage, &["unknown", "done"], false),
        (Mischief::WrongShape, &["unknown", "done"], false),
        (Mischief::Drop, &["unknown", "done"], false),
        (Mischief::LostAnswer, &["unknown", "done"], true),
        (Mischief::Slow(Duration::from_secs(2)), &["done"], true),
    ] {
        let before = sim.commands().len();
        sim.misbehave(mischief, "/api/setstate", 1);
        let answer = account.command("floodlight", light("off"));
        let outcome = answer["outcome"].as_str().unwrap();
        assert!(outcomes.contains(&outcome), "{mischief:?}: {answer}");
        let came = sim.commands().len() - before;
        assert_eq!(came > 0, arrives || outcome == "done", "{mischief:?}: {came} came");
        sim.behave();
        let answer = account.command("floodlight", light("on"));
        assert_eq!(answer["outcome"], "done", "after {mischief:?}: {answer}");
        assert_eq!(sim.truth()["modules"].as_array().unwrap().len(), 9);
    }
    // What opens goes out once at most, whatever comes of it.
    for mischief in [Mischief::LostAnswer, Mischief::ErrorPage, Mischief::Html, Mischief::Drop] {
        let opened = |sim: &Sim| {
            let all = sim.commands();
            all.iter().filter(|c| c.body["home"]["modules"][0].get("lock").is_some()).count()
        };
        let before = opened(sim);
        let calls = sim.calls("/api/setstate");
        sim.misbehave(mischief, "/api/setstate", 1);
        let answer = account.command("unlock", json!({ "module": ids::LOCK }));
        assert_eq!(answer["outcome"], "unknown", "{mischief:?}: {answer}");
        assert_eq!(sim.calls("/api/setstate"), calls + 1, "{mischief:?}");
        assert!(opened(sim) <= before + 1);
        sim.behave();
    }
    account.until_exact();
}

#[tokio::test(flavor = "multi_thread")]
async fn looks_survive_what_the_cloud_answers() {
    let mut account = Account::new();
    account.until_registered();
    let mischiefs = [
        Mischief::Html,
        Mischief::Empty,
        Mischief::Garbage,
        Mischief::WrongShape,
        Mischief::WrongTypes,
        Mischief::Duplicates,
        Mischief::Reversed,
        Mischief::ErrorPage,
        Mischief::Drop,
        Mischief::Expired,
    ];
    for (n, mischief) in mischiefs.into_iter().enumerate() {
        println!("{mischief:?} {}", Clock::system().now());
        let mut id = String::new();
        account.away(|sim| {
            // Old enough that no webhook is waited for.
            let time = Clock::system().now().as_second() - 60;
            id = sim.happen("movement", ids::INDOOR, json!({ "time": time }));
            sim.set_status(ids::INDOOR, "wifi_strength", 40 + n);
            sim.misbehave(mischief, "/api/home", 1);
            sim.misbehave(mischief, "/api/getevents", 1);
        });
        account.sim.behave();
        account.until_exact();
        if !matches!(mischief, Mischief::WrongShape) {
            within(PATIENCE, "the movement", || {
                (account.about("netatmo.movement", &id).len() == 1).then_some(())
            });
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn throttling_holds_looks_and_not_doors_and_tokens_that_are_never_good_are_not_hammered() {
    let account = Account::new();
    let sim = &account.sim;
    for mischief in [Mischief::Throttled, Mischief::ThrottledAs403] {
        sim.misbehave(mischief, "/api/setstate", 1);
        let answer = account.command("unlock", json!({ "module": ids::LOCK }));
        assert_eq!(answer["outcome"], "refused", "{answer}");
        let (status, events) = account.looks();
        let refreshes = sim.refreshes();
        account.done(SOURCE, "unlock", json!({ "module": ids::LOCK }));
        assert_eq!((sim.refreshes(), account.looks()), (refreshes, (status, events)));
    }
    // A token that ends sooner than it is renewed, and one that is never taken.
    sim.access_life(Duration::from_secs(120));
    sim.expire_access();
    account.command("status", json!({}));
    sim.misbehave(Mischief::Expired, "/api/", usize::MAX);
    let answer = account.command("floodlight", json!({ "module": ids::OUTDOOR, "mode": "on" }));
    assert_ne!(answer["outcome"], "done", "{answer}");
    let refreshes = sim.refreshes();
    let answer = account.post(&json!({ "to": SOURCE, "call": "status", "ttl": "5s" })).json();
    assert_ne!(answer["outcome"], "done", "{answer}");
    let more = sim.refreshes() - refreshes;
    assert!(more <= 4, "{more} refreshes for one order");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newer_interface_is_found_and_a_restart_never_drops() {
    let mut account =
        Account::with(NOTES, "", |sim| sim.misbehave(Mischief::Missing, "/api/addwebhook", 9));
    account.until_registered();
    account.until_told("netatmo.webhook_activation");
    let registered = account.sim.registered().unwrap();
    assert!(registered.ends_with("/hooks/netatmo/home"), "{registered}");
    account.away(|_| ());
    account.crash();
    account.until_registered();
    assert_eq!(account.sim.calls("/api/dropwebhook"), 0);
    assert_eq!(account.sim.registered(), Some(registered));
    account.sim.ring(ids::BELL);
    account.until_told("netatmo.ring");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_open_cloud_is_found_and_a_silent_one_is_told() {
    let section = "[sources.\"netatmo/home\"]\nsilent_after = \"4s\"\n";
    let account = Account::with(NOTES, section, |_| ());
    account.sim.misbehave(Mischief::HalfOpen, "", usize::MAX);
    let answer = account.command("floodlight", json!({ "module": ids::OUTDOOR, "mode": "on" }));
    assert_eq!(answer["outcome"], "unknown", "{answer}");
    account.until_down(SOURCE);
    account.until_told("portero.source.silent");
    account.sim.behave();
    account.until_up(SOURCE);
    account.until_exact();
}
