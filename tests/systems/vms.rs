//! The VMS.

use portero::clock::Clock;
use portero::systems::vms::sim::{LOGIN, Mischief, PASSWORD, Sim};
use serde_json::json;

use super::Estate;

fn section(sim: &Sim) -> String {
    format!(
        "[vms.block]\nurl = \"{}\"\nlogin = \"{LOGIN}\"\npassword = \"{PASSWORD}\"\n\
         poll = \"200ms\"\npoll_calls = \"200ms\"\n",
        sim.url()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_of_an_intercom_and_every_call_reaches_a_rule() {
    let sim = Sim::start(Clock::system()).await.unwrap();
    let ids: Vec<String> = sim.truth().keys().map(u64::to_string).collect();
    let named = format!("intercoms = [{}, 999]\n", ids.join(", "));
    let estate = Estate::start(&(section(&sim) + &named));
    estate.until_up("vms/block");
    let intercom = *sim.truth().keys().next().unwrap();
    estate.until_value(&format!("vms/block/intercom/{intercom}"), |known| !known.is_null());
    sim.set(intercom, "is_online", false);
    estate.until_told("vms.intercom.offline");
    sim.set(intercom, "is_online", true);
    estate.until_told("vms.intercom.online");
    sim.set(intercom, "is_enabled", false);
    estate.until_told("vms.intercom.disabled");
    sim.set(intercom, "is_enabled", true);
    estate.until_told("vms.intercom.enabled");
    sim.set(intercom, "title", "Back door");
    estate.until_told("vms.intercom.renamed");
    sim.add(999, "New gate");
    estate.until_told("vms.intercom.appeared");
    sim.remove(999);
    estate.until_told("vms.intercom.gone");
    let call = sim.ring(intercom);
    estate.until_told("vms.ring");
    sim.step(call, "answered");
    estate.until_told("vms.call.answered");
    let call = sim.ring(intercom);
    estate.until_events("vms.ring", 2);
    sim.step(call, "missed");
    estate.until_told("vms.call.missed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_door_opens_once_and_only_where_it_may() {
    let sim = Sim::start(Clock::system()).await.unwrap();
    let estate = Estate::start(&section(&sim));
    estate.until_up("vms/block");
    let ids: Vec<u64> = sim.truth().keys().copied().collect();
    estate.until_value(&format!("vms/block/intercom/{}", ids[1]), |known| !known.is_null());
    sim.set(ids[1], "is_open_door_app", false);
    estate.until_value(&format!("vms/block/intercom/{}", ids[1]), |intercom| {
        intercom["is_open_door_app"] == false
    });
    estate.done("vms/block", "open_door", json!({ "intercom": ids[0] }));
    assert_eq!(sim.opened(), [ids[0]]);
    let answer = estate.tell("vms/block", "open_door", json!({ "intercom": ids[1] }));
    assert_eq!(answer["outcome"], "refused", "{answer}");
    // It arrives, and the answer is lost: nobody knows, and nobody tries again.
    sim.misbehave(Mischief::Drop, "open-door", 1);
    let answer = estate.tell("vms/block", "open_door", json!({ "intercom": ids[0] }));
    assert_eq!(answer["outcome"], "unknown", "{answer}");
    assert_eq!(sim.opened(), [ids[0], ids[0]]);
}
