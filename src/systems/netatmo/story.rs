//! What the simulated Netatmo says: an endless, seeded stream of plausible signed webhooks about
//! one household. Pure: the same seed makes the same bytes. It misbehaves when told to, in the
//! ways that have been seen on the wire. [`super::sim`] sends them.

use std::collections::{BTreeMap, VecDeque};

use serde_json::{Map, Value, json};

use crate::secret::Secret;

use super::signature;

const USER: &str = "5e8d0c1a2b3c4d5e6f70da00";
const HOME: &str = "5e8d0c1a2b3c4d5e6f70da01";
const INDOOR: &str = "70:ee:50:da:00:01";
const OUTDOOR: &str = "70:ee:50:da:00:02";
const BELL: &str = "70:ee:50:da:00:03";
const SMOKE: &str = "70:ee:50:da:00:04";
const CO: &str = "70:ee:50:da:00:05";
const WINDOW: &str = "70:ee:50:da:01:01";
const DOOR: &str = "70:ee:50:da:01:02";
const SIREN: &str = "70:ee:50:da:01:03";
const PERSONS: [(&str, &str); 3] = [
    ("e2bf7000-0000-4000-8000-0000000000a1", "Ana"),
    ("e2bf7000-0000-4000-8000-0000000000b2", "Benoit"),
    ("e2bf7000-0000-4000-8000-0000000000c3", "Chloé"),
];

/// The last scene of the opening.
const OPENING: u64 = 5;

/// What the simulated household calls its things and people: for [`super::Config::names`].
pub fn names() -> BTreeMap<String, String> {
    let things = [
        (HOME, "Maple Street 7"),
        (INDOOR, "Living room camera"),
        (OUTDOOR, "Driveway camera"),
        (BELL, "Front door bell"),
        (SMOKE, "Hallway smoke alarm"),
        (CO, "Boiler room CO alarm"),
        (WINDOW, "Kitchen window"),
        (DOOR, "Back door"),
        (SIREN, "Stairs siren"),
    ];
    let all = things.into_iter().chain(PERSONS);
    all.map(|(id, name)| (id.to_owned(), name.to_owned())).collect()
}

/// Which bad manners the simulator has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mischief {
    /// Sends some bodies twice.
    pub duplicates: bool,
    /// Repeats offers until they are answered, and says six times that a call is over.
    pub retransmits: bool,
    /// Sends forged bodies.
    pub bad_signatures: bool,
    /// Sends bodies that are no JSON objects.
    pub garbage: bool,
    /// Sends events that nobody has documented.
    pub unknown_kinds: bool,
    /// Sends bodies that lack fields.
    pub missing_fields: bool,
}

impl Mischief {
    /// All of it.
    pub const ALL: Mischief = Mischief {
        duplicates: true,
        retransmits: true,
        bad_signatures: true,
        garbage: true,
        unknown_kinds: true,
        missing_fields: true,
    };
}

/// One webhook to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shot {
    /// The body's bytes.
    pub body: Vec<u8>,
    /// The value of `X-Netatmo-secret`.
    pub signature: String,
    /// How many beats after the one before it.
    pub beats: u32,
}

/// The endless stream of webhooks of one seed. It opens with a story that shows the house: a
/// ring, a known face, an alarm's test, a window left open, movement.
#[derive(Debug)]
pub struct Story {
    secret: Secret,
    luck: Luck,
    mischief: Mischief,
    scene: u64,
    queue: VecDeque<Shot>,
}

impl Story {
    /// The story of `seed`, signed with `secret`. Ids are unique within a story; another seed
    /// makes others, the same seed the same again, which a journal then takes for repetitions.
    pub fn new(secret: Secret, seed: u64, mischief: Mischief) -> Story {
        Story { secret, luck: Luck(seed), mischief, scene: 0, queue: VecDeque::new() }
    }

    /// The same with these manners from here on.
    pub fn misbehaving(mut self, mischief: Mischief) -> Story {
        self.mischief = mischief;
        self
    }

    fn play(&mut self) {
        match self.scene {
            0 => self.say(json!({ "user": { "id": USER, "email": "ana@example.org" },
                "push_type": "webhook_activation" })),
            1 => self.ring(true),
            2 => self.face(PERSONS[1].0, true),
            3 => self.smoke_test(),
            4 => self.left_open(WINDOW),
            OPENING => self.seen("movement", INDOOR, "NACamera"),
            _ => self.any_scene(),
        }
        self.scene += 1;
        self.misbehave();
    }

    fn any_scene(&mut self) {
        let camera = *self.luck.pick(&[(INDOOR, "NACamera"), (OUTDOOR, "NOC")]);
        let tag = *self.luck.pick(&[WINDOW, DOOR]);
        match self.luck.below(16) {
            0 | 1 => {
                let answered = self.luck.below(2) == 0;
                self.ring(answered);
            }
            2 | 3 => self.any_face(),
            4 => {
                let (id, _) = *self.luck.pick(&PERSONS);
                let event = *self.luck.pick(&["person_away", "person_home"]);
                let person = json!({ "persons": [{ "id": id, "is_known": true }] });
                self.event(event, INDOOR, "NACamera", person);
            }
            5 => self.seen("movement", camera.0, camera.1),
            6 => {
                let what = *self.luck.pick(&["human", "animal", "vehicle"]);
                self.seen(what, OUTDOOR, "NOC");
            }
            7 => self.left_open(tag),
            8 => {
                let how = *self.luck.pick(&["tag_big_move", "tag_small_move", "tag_uninstalled"]);
                self.event(how, INDOOR, "NACamera", json!({ "module_id": tag }));
            }
            9 => self.smoke_test(),
            10 => self.detector(),
            11 => self.camera_health(camera),
            12 => self.siren(),
            13 => self.module(tag),
            14 => self.home(),
            _ => {
                let mode = *self.luck.pick(&["on", "off", "auto"]);
                self.event("light_mode", OUTDOOR, "NOC", json!({ "sub_type": mode }));
            }
        }
    }

    /// Somebody at the door: seen, heard twice over (call and offer, in either order), answered
    /// or missed.
    fn ring(&mut self, answered: bool) {
        let (visit, session) = (self.luck.hex(24), self.luck.uuid());
        let part = |luck: &mut Luck| json!({ "event_id": visit, "subevent_id": luck.uuid() });
        let seen = joined(part(&mut self.luck), self.luck.pictures());
        self.event("human", BELL, "NDB", seen);
        let call = json!({ "session_id": session, "message": "Someone rings at the front door" });
        let call = joined(joined(call, part(&mut self.luck)), self.luck.pictures());
        // The opening shows the ring that has a picture.
        let call_first = self.scene <= OPENING || self.luck.below(2) == 0;
        if call_first {
            self.event("incoming_call", BELL, "NDB", call.clone());
        }
        let repeats = if self.mischief.retransmits { 3 } else { 1 };
        for _ in 0..repeats {
            self.signal("offer", &session);
        }
        if !call_first {
            self.event("incoming_call", BELL, "NDB", call);
        }
        let outcome = if answered { "accepted_call" } else { "missed_call" };
        let fields = joined(json!({ "session_id": session }), part(&mut self.luck));
        self.event(outcome, BELL, "NDB", fields);
        let ends = if self.mischief.retransmits { 6 } else { 1 };
        for _ in 0..ends {
            self.signal("terminate", &session);
        }
    }

    fn signal(&mut self, signal: &str, session: &str) {
        self.say(json!({ "session_id": session, "data": { "type": signal }, "device_id": BELL,
            "home_id": HOME, "push_type": "NDB-rtc" }));
    }

    fn any_face(&mut self) {
        if self.luck.below(3) == 0 {
            let stranger = self.luck.uuid();
            self.face(&stranger, false);
        } else {
            let (id, _) = *self.luck.pick(&PERSONS);
            self.face(id, true);
        }
    }

    fn face(&mut self, id: &str, known: bool) {
        let face = self.luck.hex(24);
        let person = json!({ "id": id, "is_known": known, "face_id": face,
            "face_key": self.luck.hex(32), "face_url": picture(&face) });
        let fields = joined(json!({ "persons": [person] }), self.luck.pictures());
        self.event("person", INDOOR, "NACamera", fields);
    }

    fn seen(&mut self, what: &str, camera: &str, product: &str) {
        let fields = joined(json!({ "subevent_id": self.luck.uuid() }), self.luck.pictures());
        self.event(what, camera, product, fields);
    }

    /// The smoke alarm is tested: it sounds, reports smoke, is hushed and clears.
    fn smoke_test(&mut self) {
        for (event, number) in
            [("sound_test", 0), ("smoke", 1), ("hush", 1), ("smoke", 0), ("hush", 0)]
        {
            self.event(event, SMOKE, "NSD", json!({ "sub_type": number }));
        }
    }

    fn left_open(&mut self, tag: &str) {
        self.event("tag_big_move", INDOOR, "NACamera", json!({ "module_id": tag }));
        let message = "It was left open";
        let open = json!({ "module_id": tag, "message": message });
        self.event("tag_open", INDOOR, "NACamDoorTag", open);
    }

    fn detector(&mut self) {
        let (device, product) = *self.luck.pick(&[(SMOKE, "NSD"), (CO, "NCO")]);
        let events: &[&str] = match product {
            "NCO" => &["wifi_status", "battery_status", "sound_test", "co_detected"],
            _ => &["wifi_status", "battery_status", "detection_chamber_status", "tampered"],
        };
        let (event, number) = (*self.luck.pick(events), self.luck.below(2));
        self.event(event, device, product, json!({ "sub_type": number }));
    }

    fn camera_health(&mut self, (camera, product): (&str, &str)) {
        let event =
            *self.luck.pick(&["off", "on", "disconnection", "connection", "boot", "sd", "alim"]);
        let fields = match event {
            "sd" => json!({ "sub_type": 1 + self.luck.below(7) }),
            "alim" => json!({ "sub_type": 1 + self.luck.below(2) }),
            _ => json!({}),
        };
        self.event(event, camera, product, fields);
    }

    fn siren(&mut self) {
        self.event("alarm_started", INDOOR, "NACamera", json!({}));
        for number in [1, 0] {
            let fields = json!({ "module_id": SIREN, "sub_type": number });
            self.event("siren_sounding", INDOOR, "NIS", fields);
        }
    }

    fn module(&mut self, tag: &str) {
        let events =
            ["module_disconnect", "module_connect", "module_low_battery", "module_end_update"];
        let event = *self.luck.pick(&events);
        self.event(event, INDOOR, "NACamera", json!({ "module_id": tag }));
    }

    /// The home's heating: bodies without an id of their own.
    fn home(&mut self) {
        let mode = *self.luck.pick(&["away", "schedule", "hg"]);
        self.say(json!({ "event_type": "therm_mode", "mode": mode, "home_id": HOME,
            "home": { "id": HOME, "therm_mode": mode }, "push_type": "home_event_changed" }));
    }

    /// A body with the fields that most have.
    fn event(&mut self, event: &str, device: &str, product: &str, fields: Value) {
        let usual = json!({ "event_type": event, "device_id": device, "camera_id": device,
            "home_id": HOME, "home_name": "Maple Street 7", "event_id": self.luck.hex(24),
            "push_type": format!("{product}-{event}") });
        self.say(joined(usual, fields));
    }

    fn say(&mut self, fields: Value) {
        let body = joined(json!({ "user_id": USER }), fields);
        self.send(php(&body));
    }

    fn send(&mut self, body: Vec<u8>) {
        let signature = signature::sign(&self.secret, &body);
        let beats = 1 + u32::from(self.luck.below(4) == 0);
        self.queue.push_back(Shot { body, signature, beats });
    }

    /// Adds bad manners to the scene just queued; it stays complete.
    fn misbehave(&mut self) {
        let mischief = self.mischief;
        let last = self.queue.back().cloned();
        if mischief.duplicates && self.luck.below(4) == 0 {
            self.queue.extend(last.clone());
        }
        if mischief.garbage && self.luck.below(12) == 0 {
            let junk = ["", "null", "[]", "{\"user_id\":\"5e8d", "<html>502</html>", "\u{0}"];
            let junk = self.luck.pick(&junk).as_bytes().to_vec();
            self.send(junk);
        }
        if mischief.unknown_kinds && self.luck.below(12) == 0 {
            self.event("garden_gnome_moved", OUTDOOR, "NOC", json!({ "gnomeCount": 3 }));
        }
        if mischief.missing_fields && self.luck.below(12) == 0 {
            self.say(json!({ "event_type": "movement" }));
        }
        if let (true, Some(shot)) = (mischief.bad_signatures && self.luck.below(12) == 0, last) {
            let forger = Secret::new("not the app's secret");
            let signature = signature::sign(&forger, &shot.body);
            self.queue.push_back(Shot { signature, ..shot });
        }
    }
}

impl Iterator for Story {
    type Item = Shot;

    fn next(&mut self) -> Option<Shot> {
        while self.queue.is_empty() {
            self.play();
        }
        self.queue.pop_front()
    }
}

fn picture(id: &str) -> String {
    format!("https://images.example.org/production/{id}")
}

/// The fields of both, `fields` before `usual`.
fn joined(usual: Value, fields: Value) -> Value {
    let mut all = Map::new();
    for part in [usual, fields] {
        if let Value::Object(part) = part {
            all.extend(part);
        }
    }
    Value::Object(all)
}

/// The body as Netatmo's PHP writes it: slashes escaped, letters not.
fn php(body: &Value) -> Vec<u8> {
    body.to_string().replace('/', "\\/").into_bytes()
}

/// A seeded die (SplitMix64, Steele, Lea and Flood 2014): plausible variety, no secrecy.
#[derive(Debug)]
struct Luck(u64);

impl Luck {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.roll() % n
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len() as u64) as usize]
    }

    fn hex(&mut self, digits: usize) -> String {
        let mut text = String::new();
        while text.len() < digits {
            text.push_str(&format!("{:016x}", self.roll()));
        }
        text.truncate(digits);
        text
    }

    fn uuid(&mut self) -> String {
        let hex = self.hex(32);
        format!("{}-{}-4{}-8{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..])
    }

    fn pictures(&mut self) -> Value {
        let (snapshot, vignette) = (self.hex(24), self.hex(24));
        json!({ "snapshot_id": snapshot, "snapshot_key": self.hex(32),
            "snapshot_url": picture(&snapshot), "vignette_id": vignette,
            "vignette_key": self.hex(32), "vignette_url": picture(&vignette) })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use jiff::Timestamp;

    use super::*;
    use crate::event::Heard;
    use crate::event::Trust;
    use crate::systems::netatmo::session::Session;
    use crate::systems::netatmo::signature::{Reject, verify};
    use crate::systems::netatmo::{Config, Signature};

    fn config() -> Config {
        let client_secret = Some(Secret::new("demo"));
        Config { client_secret, signature: Signature::Require, names: names(), api: None }
    }

    fn story(seed: u64, mischief: Mischief) -> Story {
        Story::new(Secret::new("demo"), seed, mischief)
    }

    fn trust(shot: &Shot) -> Result<Trust, Reject> {
        verify(&config(), Some(shot.signature.as_bytes()), &shot.body)
    }

    /// What is heard of the first `shots`, a second apart; forged ones left out.
    fn heard(story: Story, shots: usize) -> Vec<Heard> {
        let session = Session::new("demo", &config());
        let mut now = Timestamp::from_second(1_790_000_000).unwrap();
        let mut all = Vec::new();
        for shot in story.take(shots) {
            now += jiff::SignedDuration::from_secs(1);
            if let Ok(trust) = trust(&shot) {
                all.extend(session.webhook(&shot.body, trust, now));
            }
        }
        all
    }

    #[test]
    fn it_opens_with_a_story() {
        let title = |heard: Heard| {
            let data = &heard.event.data;
            let who = ["person", "module_name", "device_name"].map(|name| data.get(name));
            let who = who.into_iter().flatten().next().and_then(Value::as_str).unwrap_or("");
            let word = data.get("sub_type_name").and_then(Value::as_str).unwrap_or("");
            format!("{} {who} {word}", heard.event.kind).trim_end().to_owned()
        };
        let lines: Vec<_> =
            heard(story(1, Mischief::default()), 16).into_iter().map(title).collect();
        insta::assert_snapshot!(lines.join("\n"), @r"
        netatmo.webhook_activation
        netatmo.human Front door bell
        netatmo.ring Front door bell
        netatmo.ring Front door bell
        netatmo.accepted_call Front door bell
        netatmo.call_ended Front door bell
        netatmo.person Benoit
        netatmo.sound_test Hallway smoke alarm ok
        netatmo.smoke Hallway smoke alarm detected
        netatmo.hush Hallway smoke alarm muted
        netatmo.smoke Hallway smoke alarm cleared
        netatmo.hush Hallway smoke alarm active
        netatmo.tag_big_move Kitchen window
        netatmo.tag_open Kitchen window
        netatmo.movement Living room camera
        netatmo.human Front door bell
        ");
    }

    #[test]
    fn one_seed_is_one_story() {
        let bodies = |seed| story(seed, Mischief::ALL).take(300).collect::<Vec<_>>();
        assert_eq!(bodies(7), bodies(7));
        assert_ne!(bodies(7), bodies(8));
    }

    #[test]
    fn a_well_behaved_story_is_all_known_signed_and_new() {
        assert!(
            story(2, Mischief::default())
                .take(1_000)
                .all(|shot| trust(&shot) == Ok(Trust::Authentic))
        );
        let heard = heard(story(2, Mischief::default()), 1_000);
        let kinds: BTreeSet<_> = heard.iter().map(|heard| heard.event.kind.as_str()).collect();
        assert!(kinds.len() >= 30, "{kinds:?}");
        assert!(!kinds.contains("netatmo.unknown") && !kinds.contains("netatmo.unparsable"));
        let mut ids = BTreeSet::new();
        let again: Vec<_> = heard.iter().filter(|heard| !ids.insert(heard.event.id)).collect();
        // A ring is told as an offer and as a call; the heating says nothing of its own.
        let again: BTreeSet<_> = again.iter().map(|heard| heard.event.kind.as_str()).collect();
        assert_eq!(again, BTreeSet::from(["netatmo.home_event_changed", "netatmo.ring"]));
    }

    #[test]
    fn bad_manners_are_shown_on_demand() {
        let mut rejects = BTreeSet::new();
        let shots: Vec<_> = story(3, Mischief::ALL).take(1_000).collect();
        rejects.extend(shots.iter().filter_map(|shot| trust(shot).err()).map(Reject::as_str));
        assert_eq!(rejects, BTreeSet::from(["wrong"]));
        let heard = heard(story(3, Mischief::ALL), 1_000);
        let count = |kind: &str| heard.iter().filter(|heard| heard.event.kind == kind).count();
        assert!(count("netatmo.unknown") > 0 && count("netatmo.unparsable") > 0);
        let ends: BTreeSet<_> = heard
            .iter()
            .filter(|heard| heard.event.kind == "netatmo.call_ended")
            .map(|heard| heard.event.id)
            .collect();
        assert!(count("netatmo.call_ended") >= 5 * ends.len());
    }
}
