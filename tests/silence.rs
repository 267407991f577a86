//! The watchdog's loop on a real way in: a source that says nothing is told of, and so is its
//! first word. What counts as silence is tested beside the code.

use std::collections::BTreeMap;
use std::time::Duration;

use portero::clock::Clock;
use portero::silence::{HEARD, SILENT, Watch, watch};
use serde_json::Value;

#[path = "support/link.rs"]
mod link;

#[tokio::test]
async fn a_silent_source_is_told_of_and_so_is_its_return() {
    let house = link::TestHouse::new().await;
    let (link, run) = house.link("vms/block");
    let silent_after = [("vms/block".to_string(), Duration::from_secs(1))];
    let watched = Watch::new(silent_after.into(), BTreeMap::new(), Clock::system().now());
    let watching = tokio::spawn(watch(link.intake.clone(), watched, run.stopping.clone()));
    let silent = house.event(SILENT, 1).await;
    assert_eq!((silent.source.as_str(), silent.subject.as_deref()), ("portero", Some("vms/block")));
    assert_eq!(silent.data["last_heard"], Value::Null);
    link.alive();
    let heard = house.event(HEARD, 1).await;
    assert_eq!(heard.data["source"], "vms/block");
    run.stopping.cancel();
    watching.await.unwrap();
    assert_eq!(house.events_of(SILENT).len(), 1);
}
