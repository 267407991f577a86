//! The demo's systems: simulators on loopback sockets, the config that leads to them, and the
//! stories they tell.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::systems::{fibaro, indigo, vms};

/// Every system but Netatmo's webhooks.
pub struct Sims {
    fibaro: fibaro::sim::Sim,
    indigo: indigo::sim::Sim,
    vms: vms::sim::Sim,
}

impl Sims {
    /// Starts them all.
    pub async fn start() -> std::io::Result<Sims> {
        Ok(Sims {
            fibaro: fibaro::sim::Sim::start().await?,
            indigo: indigo::sim::Sim::start(Clock::system()).await?,
            vms: vms::sim::Sim::start(Clock::system()).await?,
        })
    }

    /// The sections of a config that leads to them.
    pub fn config(&self) -> String {
        let fibaro = format!(
            "[fibaro.gate]\nurl = \"{}\"\nuser = \"{}\"\npass = \"{}\"\n",
            self.fibaro.url(),
            fibaro::sim::USER,
            fibaro::sim::PASS,
        );
        let indigo = format!(
            "[indigo.house]\nurl = \"{}\"\napi_key = \"{}\"\ntime_zone = \"UTC\"\n",
            self.indigo.url(),
            indigo::sim::KEY,
        );
        let vms = format!(
            "[vms.block]\nurl = \"{}\"\nlogin = \"{}\"\npassword = \"{}\"\npoll = \"3s\"\n",
            self.vms.url(),
            vms::sim::LOGIN,
            vms::sim::PASSWORD,
        );
        let lobby = self.vms.truth().keys().next().copied().unwrap_or_default();
        let doors = format!(
            "[doors.front]\ntitle = \"Front gate\"\nfibaro = {{ relay = 0 }}\n\
             [doors.lobby]\ntitle = \"Lobby\"\nvms = {{ intercom = {lobby} }}\n"
        );
        [fibaro, indigo, vms, doors].concat()
    }

    /// Lets things happen, every `pace` or so, until told to stop.
    pub fn tell_stories(&self, pace: Duration, stop: &CancellationToken) {
        self.fibaro.spawn_story(pace, stop.clone());
        self.indigo.spawn_story(pace, stop.clone());
        self.vms.spawn_story(pace, stop.clone());
    }
}
