//! What happens in the simulated house, a little every few seconds: for the demo.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{Stage, house};
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

/// Tells the story, a scene every `pace`, until told to stop or the simulator ends.
pub(super) async fn tell(stage: Arc<Stage>, pace: Duration, stop: CancellationToken) {
    for told in 0.. {
        tokio::select! {
            biased; // To stop goes before the next scene.
            () = stop.cancelled() => return,
            () = stage.stop.cancelled() => return,
            () = tokio::time::sleep(pace) => scene(&stage, told),
        }
    }
}

fn scene(stage: &Stage, told: u64) {
    let round = (told / SCENES) as i64;
    let device = |id, how: fn(&mut Value)| stage.change(Feed::Device, id, how);
    match told % SCENES {
        0 => device(MOTION, |motion| house::turn(motion, true)),
        1 => device(DIMMER, |dimmer| house::dim(dimmer, 40)),
        2 => stage
            .change(Feed::Device, LIGHT_LEVEL, |sensor| house::measure(sensor, 58 + round % 40)),
        3 => device(MOTION, |motion| house::turn(motion, false)),
        4 => say(stage, HOUSE_STATUS, "away"),
        5 => device(DIMMER, |dimmer| house::turn(dimmer, false)),
        6 => device(LOCK, |lock| house::turn(lock, true)),
        7 => stage.log("Z-Wave", 3, "\"Hall Motion\" battery is low"),
        8 => device(PORCH, |porch| house::turn(porch, true)),
        9 => say(stage, HOUSE_STATUS, "home"),
        10 => say(stage, GUESTS, &(round % 5).to_string()),
        _ => device(PORCH, |porch| house::turn(porch, false)),
    }
}

fn say(stage: &Stage, variable: i64, value: &str) {
    stage.change(Feed::Variable, variable, |object| house::set(object, &["value"], value.into()));
}
