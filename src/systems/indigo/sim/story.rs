//! What happens in the simulated house, a little every few seconds: for the demo.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinHandle;

use super::{Sim, house};
use crate::systems::indigo::Feed;

const DIMMER: i64 = 1_508_839_119;
const LOCK: i64 = 1_508_839_120;
const PORCH: i64 = 1_508_839_121;
const MOTION: i64 = 1_508_839_122;
const LIGHT_LEVEL: i64 = 1_508_839_123;
const HOUSE_STATUS: i64 = 345_633_244;
const GUESTS: i64 = 345_633_246;

/// Scenes after which the story begins anew.
const SCENES: u64 = 12;

/// Tells the story, a scene every `pace`, until the simulator is dropped or the task aborted.
pub fn spawn_story(sim: &Arc<Sim>, pace: Duration) -> JoinHandle<()> {
    let sim = Arc::downgrade(sim);
    tokio::spawn(async move {
        let mut told = 0;
        loop {
            tokio::time::sleep(pace).await;
            let Some(sim) = sim.upgrade() else { return };
            scene(&sim, told);
            told += 1;
        }
    })
}

fn scene(sim: &Sim, told: u64) {
    let round = (told / SCENES) as i64;
    let device = |id, how: fn(&mut Value)| sim.change(Feed::Device, id, how);
    match told % SCENES {
        0 => device(MOTION, |motion| house::turn(motion, true)),
        1 => device(DIMMER, |dimmer| house::dim(dimmer, 40)),
        2 => {
            sim.change(Feed::Device, LIGHT_LEVEL, |sensor| house::measure(sensor, 58 + round % 40))
        }
        3 => device(MOTION, |motion| house::turn(motion, false)),
        4 => say(sim, HOUSE_STATUS, "away"),
        5 => device(DIMMER, |dimmer| house::turn(dimmer, false)),
        6 => device(LOCK, |lock| house::turn(lock, true)),
        7 => sim.log("Z-Wave", 3, "\"Hall Motion\" battery is low"),
        8 => device(PORCH, |porch| house::turn(porch, true)),
        9 => say(sim, HOUSE_STATUS, "home"),
        10 => say(sim, GUESTS, &(round % 5).to_string()),
        _ => device(PORCH, |porch| house::turn(porch, false)),
    }
}

fn say(sim: &Sim, variable: i64, value: &str) {
    sim.change(Feed::Variable, variable, |object| house::set(object, &["value"], value.into()));
}
