//! A Netatmo that is not there: posts a [`Story`] to one webhook address, for the demo, load tests
//! and end-to-end tests. The only file of this module that touches the network.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::secret::Secret;

use super::signature;
use super::story::{Mischief, Shot, Story};

/// As long as Netatmo waits for an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// The poster: tells a [`Story`] to one webhook address.
#[derive(Debug)]
pub struct Sim {
    url: String,
    story: Story,
}

impl Sim {
    /// A well-behaved simulator that posts to `url`. Take a fresh seed for each run against a
    /// journal that is kept, or it takes the second run for repetitions of the first.
    pub fn new(url: impl Into<String>, secret: Secret, seed: u64) -> Sim {
        Sim { url: url.into(), story: Story::new(secret, seed, Mischief::default()) }
    }

    /// The same with bad manners.
    pub fn misbehaving(mut self, mischief: Mischief) -> Sim {
        self.story = self.story.misbehaving(mischief);
        self
    }

    /// Posts until told to stop, a beat every `pace`. A failed delivery is logged and lost, as
    /// Netatmo's are: nothing is known to be sent again.
    pub async fn run(self, client: reqwest::Client, pace: Duration, stop: CancellationToken) {
        for shot in self.story {
            tokio::select! {
                biased; // To stop goes before the next beat.
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pace * shot.beats) => {}
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = post(&client, &self.url, shot) => {}
            }
        }
    }
}

async fn post(client: &reqwest::Client, url: &str, shot: Shot) {
    let request = client
        .post(url)
        .header("User-Agent", "NetatmoWebhookServer/1.0 (simulated by Portero)")
        .header("Content-Type", "application/json")
        .header(signature::HEADER, shot.signature)
        .timeout(ANSWER_WITHIN)
        .body(shot.body);
    match request.send().await {
        Ok(answer) if answer.status() == 200 => {}
        Ok(answer) => tracing::warn!(status = %answer.status(), "a simulated webhook was refused"),
        Err(why) => tracing::warn!(%why, "a simulated webhook could not be delivered"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use wiremock::{Mock, MockServer, Request, ResponseTemplate};

    use super::*;
    use crate::event::Trust;
    use crate::systems::netatmo::signature::verify;
    use crate::systems::netatmo::{Config, Signature};

    fn config() -> Config {
        let client_secret = Some(Secret::new("demo"));
        Config { client_secret, signature: Signature::Require, ..Config::default() }
    }

    #[tokio::test]
    async fn the_poster_looks_like_netatmo_and_stops_when_told() {
        // Failing to install means that another test already has.
        let _ = rustls::crypto::ring::default_provider().install_default();
        const SHOTS: usize = 20;
        let server = MockServer::start().await;
        let stop = CancellationToken::new();
        let (taken, end) = (Mutex::new(0), stop.clone());
        let answer = move |request: &Request| {
            let header = request.headers.get(signature::HEADER).map(|value| value.as_bytes());
            let agent = request.headers.get("user-agent").unwrap().to_str().unwrap();
            assert!(agent.contains("NetatmoWebhookServer"));
            assert_eq!(verify(&config(), header, &request.body), Ok(Trust::Authentic));
            let mut taken = taken.lock().unwrap();
            *taken += 1;
            if *taken == SHOTS {
                end.cancel();
            }
            ResponseTemplate::new(200)
        };
        Mock::given(wiremock::matchers::method("POST")).respond_with(answer).mount(&server).await;
        let sim = Sim::new(format!("{}/hooks/netatmo/demo", server.uri()), Secret::new("demo"), 4);
        sim.run(reqwest::Client::new(), Duration::ZERO, stop).await;
        assert_eq!(server.received_requests().await.unwrap().len(), SHOTS);
    }
}
