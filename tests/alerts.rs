//! Alerts with the real binary: told one phone after the other over a `kill -9`, until somebody
//! acknowledges; after that nothing leaves any more.

mod support;

use std::time::Duration;

use serde_json::Value;
use support::push::{Does, Phone, Service};
use support::{Home, Netatmo, Server, within};

/// As long as a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(30);

const RULES: &str = r#"
rules:
  - name: smoke
    when: { type: netatmo.smoke, data: { sub_type: 1 } }
    lane: alarm
    do:
      - escalate:
          - { after: 0s, push: { to: ana, title: "SMOKE", urgency: high } }
          - { after: 1s, repeat: { every: 1s, times: 1000 }, push: { to: ben, title: "SMOKE, Ana has not answered" } }
  - name: later
    when: { type: portero.ack }
    for: 3s
    do: [ set: { house/later: 1 } ]
"#;

struct Scene {
    home: Home,
    server: Option<Server>,
    service: Service,
    phones: [Phone; 2],
}

impl Scene {
    fn start() -> Scene {
        let (home, service) = (Home::new(RULES), Service::start());
        let phones = [("ana", 1), ("ben", 2)].map(|(person, seed)| {
            let phone = Phone::new(format!("http://{}/{person}", service.at), seed);
            home.write("phone.json", &phone.subscription().to_string());
            let file = home.path("phone.json");
            let added =
                home.run(&["phone", "add", person, "--subscription", file.to_str().unwrap()]);
            assert!(added.status.success());
            phone
        });
        let server = Some(home.start());
        Scene { home, server, service, phones }
    }

    fn smoke(&self) {
        let body = r#"{"event_type":"smoke","push_type":"NSD-smoke","event_id":"s1","sub_type":1,"device_id":"70:ee:50:00:00:02","home_id":"h1"}"#;
        let server = self.server.as_ref().unwrap();
        assert_eq!(Netatmo::connect(server.listen).unwrap().post(body.as_bytes()).unwrap(), 200);
    }

    fn crash(&mut self) {
        self.server.take().unwrap().kill();
        self.server = Some(self.home.start());
    }

    /// The titles that a phone was sent so far.
    fn told(&self, phone: usize) -> Vec<Value> {
        let path = ["/ana", "/ben"][phone];
        let seen = self.service.seen(path);
        let open = |body: &[u8]| self.phones[phone].open(body);
        seen.iter().map(|seen| open(&seen.body)).collect()
    }

    fn until_told(&self, phone: usize, count: usize) -> Vec<Value> {
        let what = format!("{count} for phone {phone}");
        within(PATIENCE, &what, || Some(self.told(phone)).filter(|told| told.len() >= count))
    }

    fn alert(&self) -> Value {
        let output = self.home.run(&["alerts"]);
        let text = String::from_utf8(output.stdout).unwrap();
        serde_json::from_str(text.lines().next().unwrap_or("null")).unwrap()
    }

    /// A wait of the house's own has passed since.
    fn until_later(&self) {
        within(PATIENCE, "later", || {
            let output = self.home.run(&["state", "house/later"]);
            let all: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
            (all["house/later"]["value"] == 1).then_some(())
        });
    }
}

#[test]
fn an_alert_goes_on_over_a_crash_until_somebody_has_it_in_hand() {
    let mut scene = Scene::start();
    scene.smoke();
    scene.until_told(0, 1);
    scene.crash();
    scene.until_told(1, 2);
    let alert = scene.alert();
    assert_eq!((&alert["title"], &alert["acked"]), (&"SMOKE".into(), &Value::Null));
    let acked = scene.home.run(&["ack", "--by", "ana"]);
    assert!(acked.status.success());
    // It is durable: from here on only the note that somebody has it.
    let is_alarm = |push: &&Value| push["portero"]["alert"].is_string();
    let before = scene.told(1).iter().filter(is_alarm).count();
    scene.crash();
    scene.until_later();
    let after = scene.told(1);
    assert_eq!(after.iter().filter(is_alarm).count(), before);
    assert_eq!(after.last().unwrap()["notification"]["body"], "ana has it in hand");
    assert_eq!(scene.alert()["acked"]["by"], "ana");
    assert!(!scene.home.run(&["ack"]).status.success(), "nothing is open any more");
}

#[test]
fn a_phone_whose_push_service_fails_delays_nobody_and_stops_trying_when_acknowledged() {
    let scene = Scene::start();
    scene.service.tell("/ana", &[Does::Answers(503, "")]);
    scene.smoke();
    let told = scene.until_told(1, 1);
    // Pressed on Ben's notification.
    let portero = &told[0]["portero"];
    let body = serde_json::json!({ "action": portero["action"], "token": portero["token"] });
    let ask = |body: &Value| {
        let (server, body) = (scene.server.as_ref().unwrap(), body.to_string());
        let headers = [("content-type", "application/json")];
        support::http::ask(server.listen, "POST", "/api/acknowledge", &headers, body.as_bytes())
    };
    let answer = ask(&body);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json()["acknowledged"].as_array().unwrap().len(), 1);
    let tried = scene.service.seen("/ana").len();
    scene.until_later();
    let alert = scene.alert();
    assert_eq!((&alert["acked"]["by"], &alert["acked"]["via"]), (&"ben".into(), &"phone".into()));
    // At most one note for Ana's phone is tried after that, never the alarm.
    let states: Vec<&str> = alert["told"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|t| t["person"] == "ana")
        .map(|t| t["state"].as_str().unwrap())
        .collect();
    assert_eq!(states, ["failed"]);
    let alarms =
        scene.told(0).into_iter().skip(tried).filter(|push| push["portero"]["alert"].is_string());
    assert_eq!(alarms.count(), 0);
    // A token for another notification, or none, acknowledges nothing.
    let mut wrong = body.clone();
    wrong["token"] = "x".into();
    assert_eq!(ask(&wrong).status, 403);
    assert_eq!(ask(&body).json()["acknowledged"].as_array().unwrap().len(), 0);
}
