//! What an EMM may answer wrongly without an alarm being ended, hidden or told twice, and without
//! its sessions being used up.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn an_odd_list_ends_no_alarm_and_a_false_end_hides_none() {
    let world = World::new().await;
    for name in ["Lift", "Gas", "Door"] {
        world.sim.raise(name, "on");
    }
    world.house.event("emm.active_alarm", 3).await;
    let list = |list: &str| world.sim.set(|options| options.alarm_list = Some(list.to_string()));
    for odd in [
        r#"{"offset":0,"count":0,"total":3,"alarms":[]}"#,
        r#"{"offset":0,"count":3,"total":3}"#,
        r#"{"offset":0,"count":0,"total":3,"alarms":null}"#,
        "{}",
        "",
        "[]",
    ] {
        list(odd);
        world.looked().await;
        assert_eq!(world.alarms_told(), (3, 0), "{odd}");
    }
    world.same_alarms().await;
    // The list may say what is not so: whoever was told an end is told again.
    for round in 1..=2 {
        list(r#"{"offset":0,"count":0,"total":0,"alarms":[]}"#);
        world.looked().await;
        assert_eq!(world.alarms_told(), (3 * round, 3 * round));
        world.sim.set(|options| options.alarm_list = None);
        world.looked().await;
        assert_eq!(world.alarms_told(), (3 * round + 3, 3 * round));
        world.same_alarms().await;
    }
    // A duration that stands still ends nothing either.
    world.sim.set(|options| options.duration = Some(5));
    world.looked().await;
    world.looked().await;
    assert_eq!(world.alarms_told(), (9, 6));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alarm_that_is_raised_again_within_its_second_is_told() {
    let world = World::new().await;
    let id = world.sim.raise("Lift", "stuck");
    world.house.event("emm.active_alarm", 1).await;
    world.sim.raise_again(id);
    world.house.event("emm.active_alarm", 2).await;
    world.settled().await;
    assert_eq!(world.alarms_told(), (2, 1));
    world.same_alarms().await;
    world.sim.clear(id);
    world.house.event("emm.alarm_cleared", 2).await;
    world.same_alarms().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_403_now_and_then_uses_up_no_sessions() {
    let world = World::with(|options| options.sessions_max = Some(3)).await;
    for n in 0..6 {
        world.sim.set(|options| options.refuse_changes = 1);
        let again = |_: &TestHouse| (world.sim.logins() == n + 2).then_some(());
        world.house.until("another login", again).await;
        world.sim.page("after", false);
        world.house.event("emm.user_event", n + 1).await;
        assert_eq!((world.sim.sessions(), world.sim.most_sessions()), (1, 1));
    }
    world.each_message_once();
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_429_swallows_is_found_when_polls_work_again() {
    let world = World::new().await;
    world.sim.set(|options| options.throttle_changes = 1);
    world.sim.raise("Lift", "stuck");
    assert!(world.house.event("emm.active_alarm", 1).await.marks.caught_up);
    world.same_alarms().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_whose_answer_is_lost_may_have_arrived() {
    let world = World::new().await;
    world.sim.set(|options| options.cut_sends = 1);
    let reply = world.order("send", json!({ "text": "x", "to": ["12"] })).await;
    assert!(matches!(reply, Reply::Unknown(_)), "{reply:?}");
    // Whether it goes again is not the driver's to decide.
    assert_eq!(world.sim.received().len(), 1);
    world.stop().await;
}
