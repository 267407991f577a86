//! A driver's link: what it tells is durable and readable, also for the next run.

#[path = "support/link.rs"]
mod link;

use link::TestHouse;
use portero::event::Trust;
use portero::systems::link::{News, event};
use serde_json::json;

#[tokio::test]
async fn state_and_events_of_one_piece_of_news_are_durable() {
    let house = TestHouse::new().await;
    let (mut link, _run) = house.link("indigo/house");
    let mut news = News::default();
    news.set("indigo/house/variable/mode", json!("away"));
    let now = link.clock.now();
    let changed =
        event("indigo/house", "indigo.variable.changed", &["1"], Trust::Fresh, false, now);
    news.events.push(changed.clone().into());
    assert_eq!(link.tell(news.clone()).await.new, 1);
    assert_eq!(link.tell(news).await.duplicates, 1);
    link.set_up(true, "").await;
    link.bad("no JSON", "{");
    assert_eq!(house.events().len(), 1);
    assert_eq!(house.state("indigo/house/variable/mode"), Some(json!("away")));
    assert_eq!(house.bad().len(), 1);
    let (next, _run) = house.link("indigo/house");
    assert_eq!(next.known[0].0, "indigo/house/link");
    assert_eq!(next.known[1], ("indigo/house/variable/mode".into(), json!("away")));
}

#[tokio::test]
async fn a_body_that_nobody_read_is_there_for_the_next_run() {
    let house = TestHouse::new().await;
    let (link, _run) = house.link("emm/block");
    let body = link.intake.keep_body("emm/block", b"{\"notifications\":[]}").await;
    let (next, _run) = house.link("emm/block");
    assert_eq!(next.unread[0].raw, b"{\"notifications\":[]}");
    assert_eq!(next.unread[0].id, body);
    link.intake.body_read(body);
    house
        .until("the body to be read", |house| {
            house.link("emm/block").0.unread.is_empty().then_some(())
        })
        .await;
}

#[tokio::test]
async fn what_is_caught_up_is_never_fresh() {
    let now = "2026-11-21T10:00:00Z".parse().unwrap();
    let event = event("vms/block", "vms.ring", &["7"], Trust::Fresh, true, now);
    assert_eq!(event.trust, Trust::Authentic);
    assert!(event.marks.caught_up);
}
