//! What happens at the simulated block of flats: people ring and are let in or not, an intercom
//! fails and comes back. For the demo.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::Sim;

/// The two intercoms of the block.
const DOORS: [u64; 2] = [180, 181];

/// One beat of the story.
#[derive(Debug, Clone, Copy)]
enum Beat {
    Ring(usize),
    Answer,
    End,
    Miss,
    Set(usize, &'static str, bool),
    Rename(&'static str),
    Pause,
}

const STORY: [Beat; 14] = [
    Beat::Ring(0),
    Beat::Answer,
    Beat::End,
    Beat::Pause,
    Beat::Set(1, "is_online", false),
    Beat::Ring(0),
    Beat::Miss,
    Beat::Set(1, "is_online", true),
    Beat::Rename("Garage door"),
    Beat::Ring(1),
    Beat::Answer,
    Beat::End,
    Beat::Set(1, "is_enabled", false),
    Beat::Set(1, "is_enabled", true),
];

impl Sim {
    /// Tells the story, a beat every `pace`, again and again until told to stop.
    pub fn spawn_story(&self, pace: Duration, stop: CancellationToken) -> JoinHandle<()> {
        let sim = self.clone();
        tokio::spawn(async move {
            let mut call = 0;
            for beat in STORY.iter().cycle() {
                tokio::select! {
                    biased; // To stop goes before the next beat.
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(pace) => sim.beat(*beat, &mut call),
                }
            }
        })
    }

    fn beat(&self, beat: Beat, call: &mut u64) {
        match beat {
            Beat::Ring(door) => *call = self.ring(DOORS[door]),
            Beat::Answer => self.step(*call, "answered"),
            Beat::End => self.step(*call, "ended"),
            Beat::Miss => self.step(*call, "missed"),
            Beat::Set(door, field, to) => self.set(DOORS[door], field, to),
            Beat::Rename(title) => self.set(DOORS[1], "title", title),
            Beat::Pause => {}
        }
    }
}
