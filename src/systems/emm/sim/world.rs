//! What a simulated EMM knows, and what happens in it. No HTTP.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::{Options, PASSWORD, Received};
use crate::clock::Clock;
use crate::secret::random_token;

/// A message in the inbox of our user.
pub(super) struct Row {
    pub id: i64,
    pub message_id: i64,
    pub queued: i64,
    pub text: String,
    pub priority: bool,
    pub status: i64,
    pub cycle: i64,
}

/// An active alarm.
pub(super) struct Active {
    pub alarm_id: i64,
    pub since: i64,
    pub msg_id: i64,
    pub name: String,
    pub text: String,
}

/// Everything.
pub(super) struct World {
    pub options: Options,
    pub password: String,
    /// Tokens, and when each was made.
    pub sessions: HashMap<String, Instant>,
    pub most_sessions: usize,
    pub logins: usize,
    pub polls: usize,
    pub looks: usize,
    pub last_poll: Option<Instant>,
    pub recipients: Vec<(i64, &'static str)>,
    pub contacts: BTreeMap<i64, Map<String, Value>>,
    pub properties: Map<String, Value>,
    pub inbox: Vec<Row>,
    pub alarms: BTreeMap<i64, Active>,
    /// What `/changes` tells next.
    pub changes: Vec<Value>,
    pub subscribed: Option<i64>,
    pub received: Vec<Received>,
    /// Counts answers that have several forms, to show each in turn.
    pub turn: usize,
    next: i64,
    clock: Clock,
}

impl World {
    pub fn new() -> World {
        let contact = |name: &str| {
            let fields = json!({ "name": name, "gateway": 1, "phone": "555" });
            fields.as_object().cloned().unwrap_or_default()
        };
        let properties = json!({ "name": "Portero", "language": "en" });
        World {
            options: Options::default(),
            password: PASSWORD.into(),
            sessions: HashMap::new(),
            most_sessions: 0,
            logins: 0,
            polls: 0,
            looks: 0,
            last_poll: None,
            recipients: vec![
                (12, "Night guard"),
                (15, "Nurses"),
                (16, "Maintenance"),
                (17, "Twin"),
                (18, "Twin"),
            ],
            contacts: BTreeMap::from([(1, contact("Clint")), (2, contact("Damian"))]),
            properties: properties.as_object().cloned().unwrap_or_default(),
            inbox: Vec::new(),
            alarms: BTreeMap::new(),
            changes: Vec::new(),
            subscribed: None,
            received: Vec::new(),
            turn: 0,
            next: 100,
            clock: Clock::system(),
        }
    }

    pub fn now(&self) -> i64 {
        self.clock.now().as_second()
    }

    pub fn number(&mut self) -> i64 {
        self.next += 1;
        self.next
    }

    /// Sessions that have not expired.
    pub fn live_sessions(&mut self) -> usize {
        if let Some(life) = self.options.token_life {
            self.sessions.retain(|_, made| made.elapsed() < life);
        }
        self.sessions.len()
    }

    pub fn log_in(&mut self) -> Option<String> {
        let open = self.live_sessions();
        if self.options.sessions_max.is_some_and(|max| open >= max) {
            return None;
        }
        let token = random_token().expose().to_string();
        self.sessions.insert(token.clone(), Instant::now());
        self.most_sessions = self.most_sessions.max(open + 1);
        Some(token)
    }

    pub fn page(&mut self, text: &str, priority: bool, message_id: i64) -> i64 {
        let message_id = if message_id == 0 { self.number() } else { message_id };
        let (id, queued) = (self.number(), self.now());
        let text = text.to_string();
        let mut notification = json!({ "id": id, "message_id": message_id, "queue_time": queued,
            "message": text, "escalation_cycle": 0, "escalation_step": 0 });
        // One of the vendor's samples has it, one has not.
        if id % 2 == 0 || priority {
            notification["priority"] = priority.into();
        }
        self.tell("user_event", notification);
        self.inbox.push(Row { id, message_id, queued, text, priority, status: 4, cycle: 0 });
        id
    }

    pub fn read(&mut self, id: i64, status: i64) {
        self.inbox.iter_mut().filter(|row| row.id == id).for_each(|row| row.status = status);
    }

    pub fn raise(&mut self, name: &str, text: &str) -> i64 {
        let (id, msg_id, since) = (self.number(), self.number(), self.now());
        let (name, text) = (name.to_string(), text.to_string());
        let alarm = Active { alarm_id: id % 7, since, msg_id, name, text };
        self.tell("active_alarm", pushed(id, &alarm, false, 0, since));
        self.alarms.insert(id, alarm);
        id
    }

    pub fn clear(&mut self, id: i64) -> bool {
        let Some(alarm) = self.alarms.remove(&id) else { return false };
        let (reset, now) = (self.number(), self.now());
        self.tell("active_alarm", pushed(id, &alarm, true, reset, now));
        true
    }

    pub fn raise_again(&mut self, id: i64) {
        let Some(alarm) = self.alarms.get(&id) else { return };
        let (alarm_id, since) = (alarm.alarm_id, alarm.since);
        let (name, text) = (alarm.name.clone(), alarm.text.clone());
        self.clear(id);
        let again = Active { alarm_id, since, msg_id: self.number(), name, text };
        self.tell("active_alarm", pushed(id, &again, false, 0, since));
        self.alarms.insert(id, again);
    }

    pub fn unknown(&mut self) {
        let id = self.number();
        self.tell("gateway_status", json!({ "id": id, "online": false }));
    }

    pub fn subscribe(&mut self, subscribed: bool) {
        self.subscribed = subscribed.then(|| self.now());
    }

    /// For `/changes`, unless a Web Push subscription takes it.
    fn tell(&mut self, kind: &str, notification: Value) {
        if self.subscribed.is_none() {
            self.changes.push(json!({ "type": kind, "notification": notification }));
        }
    }
}

fn pushed(id: i64, alarm: &Active, cleared: bool, reset_msg_id: i64, now: i64) -> Value {
    json!({
        "id": id, "alarm_id": alarm.alarm_id, "cleared": cleared, "active_time": alarm.since,
        "active_duration": now - alarm.since, "msg_id": alarm.msg_id,
        "reset_msg_id": reset_msg_id, "source_gateway_id": 1,
        "source_gateway_name": "Input card", "name": alarm.name, "identifier": "IN-7",
        "recipient_id": 15, "recipient_name": "Nurses", "active_text": alarm.text,
        "reset_text": format!("{} is over", alarm.name), "priority": true, "send_resets": true,
        "total_messages": 0, "total_messages_sent": 0, "total_messages_read": 0
    })
}
