//! The demo's systems: simulators on loopback sockets, the config that leads to them, and the
//! stories they tell.

use std::net::SocketAddr;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::secret::Secret;
use crate::systems::netatmo::api as netatmo;
use crate::systems::{emm, fibaro, indigo, vms};

/// Every system but Netatmo's webhooks of the other household.
pub struct Sims {
    emm: emm::sim::Sim,
    netatmo: netatmo::sim::Sim,
    fibaro: fibaro::sim::Sim,
    indigo: indigo::sim::Sim,
    vms: vms::sim::Sim,
}

impl Sims {
    /// Starts them all. `netatmo_secret` is the client secret of Netatmo's app.
    pub async fn start(netatmo_secret: Secret) -> std::io::Result<Sims> {
        Ok(Sims {
            emm: emm::sim::Sim::start()?,
            netatmo: netatmo::sim::Sim::start_with(Clock::system(), netatmo_secret)?,
            fibaro: fibaro::sim::Sim::start().await?,
            indigo: indigo::sim::Sim::start(Clock::system()).await?,
            vms: vms::sim::Sim::start(Clock::system()).await?,
        })
    }

    /// The keys of `[netatmo.<name>]` that lead to the simulated cloud.
    pub fn netatmo_keys(&self) -> String {
        format!(
            "client_id = \"{}\"\nrefresh_token = \"{}\"\napi = \"{}\"\n",
            netatmo::sim::CLIENT_ID,
            netatmo::sim::REFRESH_TOKEN,
            self.netatmo.url(),
        )
    }

    /// The sections of a config that leads to all others.
    pub fn config(&self) -> String {
        let emm = format!(
            "[emm.block]\nurl = \"{}\"\nusername = \"{}\"\npassword = \"{}\"\npoll = \"3s\"\n",
            self.emm.url(),
            emm::sim::USERNAME,
            emm::sim::PASSWORD,
        );
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
        [emm, fibaro, indigo, vms].concat()
    }

    /// Lets things happen, every `pace` or so, until told to stop. `house` is where Portero
    /// listens for webhooks.
    pub fn tell_stories(&self, house: SocketAddr, pace: Duration, stop: &CancellationToken) {
        self.netatmo.deliver_to(house);
        self.netatmo.spawn_story(pace, stop.clone());
        emm::sim::spawn_story(self.emm.clone(), pace, stop.clone());
        self.fibaro.spawn_story(pace, stop.clone());
        self.indigo.spawn_story(pace, stop.clone());
        self.vms.spawn_story(pace, stop.clone());
    }
}
