//! A night in a building, told by a simulated EMM over and over, for the demo.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Form, Options, Sim};

/// Makes something happen every `pace` until told to stop: messages, alarms that come and go, and
/// now and then bad manners.
pub fn spawn_story(sim: Sim, pace: Duration, stop: CancellationToken) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut active = Vec::new();
        for beat in 0_usize.. {
            tokio::select! {
                biased; // To stop goes before the next beat.
                () = stop.cancelled() => break,
                () = tokio::time::sleep(pace) => {}
            }
            tell(&sim, beat, &mut active);
        }
        sim.stop().await;
    })
}

fn tell(sim: &Sim, beat: usize, active: &mut Vec<i64>) {
    match beat % 10 {
        0 => drop(sim.page("Delivery at the loading bay", false)),
        1 => active.push(sim.raise("Lift 2", "Lift 2 is stuck between floors")),
        2 => {
            sim.set(|options| options.form = Form::AsPrinted);
            sim.page("Technician is on the way", true);
            sim.page("Please keep the stairs clear", false);
        }
        3 => active.drain(..).for_each(|id| sim.clear(id)),
        4 => {
            sim.set(|options| *options = Options { literal_alarms: true, ..Options::default() });
            active.push(sim.raise("Cold room", "Cold room above 8 degrees"));
        }
        5 => sim.expire_tokens(),
        6 => {
            sim.set(|options| options.cut_changes = 1);
            sim.page("This one is lost on the way and found again", false);
        }
        7 => active.drain(..).for_each(|id| sim.clear(id)),
        8 => sim.unknown(),
        _ => sim.set(|options| *options = Options::default()),
    }
}
