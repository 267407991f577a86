//! What happens in the simulated home: people come and go, a door stands open, a call is missed
//! while nobody listens. For the demo.

use std::time::Duration;

use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Mischief, Sim, ids};

/// How many beats until it begins anew.
const BEATS: usize = 12;

impl Sim {
    /// Tells the story, a beat every `pace`, again and again until told to stop.
    pub fn spawn_story(&self, pace: Duration, stop: CancellationToken) -> JoinHandle<()> {
        let sim = self.clone();
        tokio::spawn(async move {
            for beat in 0_usize.. {
                tokio::select! {
                    biased; // To stop goes before the next beat.
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(pace) => sim.beat(beat % BEATS),
                }
            }
        })
    }

    fn beat(&self, beat: usize) {
        match beat {
            0 => {
                let visit = self.ring(ids::BELL);
                self.go_on(&visit, "accepted_call");
                self.signal(&visit, "terminate");
            }
            1 => self.set_away(ids::ANA, true),
            2 => self.set_status(ids::TAG, "status", "open"),
            3 => drop(self.happen("movement", ids::INDOOR, json!({}))),
            4 => self.expire_access(),
            5 => self.set_reachable(ids::SIREN, false),
            6 => {
                // Nobody hears it; the history tells it later.
                self.deaf(true);
                let visit = self.ring(ids::BELL);
                self.go_on(&visit, "missed_call");
                self.deaf(false);
            }
            7 => self.set_status(ids::TAG, "status", "closed"),
            8 => self.set_reachable(ids::SIREN, true),
            9 => self.misbehave(Mischief::ThrottledAs403, "/api/homestatus", 1),
            10 => self.set_away(ids::ANA, false),
            _ => self.set_status(ids::OUTDOOR, "floodlight", "auto"),
        }
    }
}
