//! Sends one push through the real delivery block, for `tests/push/run.sh`, where independent
//! implementations receive it. Not part of the product.
//!
//! * `push_once KEY` prints the VAPID public key of the file `KEY`, which is made if absent.
//! * `push_once KEY send SUBSCRIPTION MESSAGE TTL_S` sends one message; both files are JSON, the
//!   first as `PushSubscription.toJSON()` writes it. Prints how it ended as one JSON line. Only an
//!   `http://` endpoint lifts the checks on endpoints.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use portero::action::{Action, ActionId, Lane, Message, PhoneId, Task};
use portero::clock::Clock;
use portero::delivery::push::client::{PushClient, Setup as ClientSetup, Timeouts};
use portero::delivery::push::endpoint::Policy;
use portero::delivery::push::payload::Composer;
use portero::delivery::push::vapid::{Contact, Vapid, VapidKeys};
use portero::delivery::{self, Setup};
use portero::event::EventId;
use portero::record::{Record, Subscription};
use portero::secret::Secret;
use serde::Deserialize;
use tokio::sync::mpsc;

/// What a browser gives (W3C Push API).
#[derive(Deserialize)]
struct Given {
    endpoint: String,
    keys: Keys,
}

#[derive(Deserialize)]
struct Keys {
    p256dh: String,
    auth: String,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [key] => println!("{}", keys(key)?.public_key()),
        [key, "send", subscription, message, ttl_s] => {
            let given: Given = serde_json::from_slice(&std::fs::read(subscription)?)?;
            let message: Message = serde_json::from_slice(&std::fs::read(message)?)?;
            let ttl = SignedDuration::from_secs(ttl_s.parse()?);
            println!("{}", send(keys(key)?, given, message, ttl).await?);
        }
        _ => return Err("usage: push_once KEY [send SUBSCRIPTION MESSAGE TTL_S]".into()),
    }
    Ok(())
}

fn keys(path: &str) -> Result<VapidKeys, Box<dyn Error>> {
    if Path::new(path).exists() {
        return Ok(VapidKeys::from_pkcs8(&std::fs::read(path)?)?);
    }
    let (keys, bytes) = VapidKeys::generate()?;
    std::fs::write(path, bytes)?;
    Ok(keys)
}

async fn send(
    keys: VapidKeys,
    given: Given,
    message: Message,
    ttl: SignedDuration,
) -> Result<String, Box<dyn Error>> {
    let clock = Clock::system();
    let contact = Contact::parse("mailto:ana@example.org")?;
    let push = PushClient::new(ClientSetup {
        policy: Policy::from_config(given.endpoint.starts_with("http://")),
        composer: Composer::new("https://home.example.org".parse()?, Secret::new("receipts")),
        vapid: Vapid::new(Arc::new(keys), contact),
        roots: portero::systems::tls::system_roots()?,
        timeouts: Timeouts::default(),
        clock: clock.clone(),
    })?;
    let phone = PhoneId("00112233aabbccdd".into());
    let Keys { p256dh, auth } = given.keys;
    let vapid = push.vapid_keys().public_key().to_owned();
    let subscription = Subscription { endpoint: given.endpoint, p256dh, auth, vapid };
    let action = Action {
        id: ActionId::derive(EventId::derive(["push_once"]), "rule", "do[0]", &phone.0),
        rule: "rule".into(),
        step: "do[0]".into(),
        deadline: clock.now() + ttl,
        not_before: None,
        lane: Lane::Normal,
        alert: None,
        task: Task::Push { phone: phone.clone(), message: Box::new(message) },
    };
    let (into, mut records) = mpsc::unbounded_channel();
    let handle = delivery::start(Setup {
        held: Vec::new(),
        phones: vec![(phone, subscription)],
        owed: vec![action],
        push: Arc::new(push),
        clock,
        settle: Box::new(move |made| made.into_iter().for_each(|record| drop(into.send(record)))),
    });
    let settled = loop {
        match records.recv().await.ok_or("delivery stopped")? {
            Record::Settled(settled) => break settled,
            _ => continue,
        }
    };
    handle.drain(Duration::from_secs(1)).await;
    Ok(serde_json::to_string(&settled)?)
}
