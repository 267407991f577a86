//! Sends the simulated cloud's webhooks, one after the other, signed.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, Weak};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::watch;
use url::{Host, Url};

use super::world::Post;
use super::{Shared, lock};
use crate::secret::Secret;
use crate::systems::netatmo::signature;

/// As long as Netatmo waits for an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// The proof of a registration comes a moment after its answer.
const ACTIVATION_AFTER: Duration = Duration::from_millis(100);
/// Deliveries that are remembered; the oldest go.
const DELIVERIES_MAX: usize = 10_000;

/// A webhook that was sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Delivery {
    /// What it said.
    pub body: Value,
    /// How it was answered; none if it was not.
    pub status: Option<u16>,
}

/// What the sender and its users share.
pub(super) struct Poster {
    queue: UnboundedSender<Post>,
    house: watch::Sender<Option<SocketAddr>>,
    repeats: AtomicUsize,
    deliveries: Mutex<Vec<Delivery>>,
}

impl Poster {
    pub fn new(queue: UnboundedSender<Post>) -> Poster {
        let house = watch::Sender::new(None);
        Poster { queue, house, repeats: AtomicUsize::new(0), deliveries: Mutex::default() }
    }

    pub fn take(&self, post: Post) {
        // Nobody reads any more when the runtime ends: then nothing is to be told either.
        let _ = self.queue.send(post);
    }

    pub fn deliver_to(&self, house: SocketAddr) {
        self.house.send_replace(Some(house));
    }

    pub fn repeat(&self, times: usize) {
        self.repeats.store(times, Ordering::SeqCst);
    }

    pub fn deliveries(&self) -> Vec<Delivery> {
        lock(&self.deliveries).clone()
    }

    fn delivered(&self, delivery: Delivery) {
        let mut deliveries = lock(&self.deliveries);
        if deliveries.len() == DELIVERIES_MAX {
            deliveries.remove(0);
        }
        deliveries.push(delivery);
    }
}

/// Sends until the simulator is gone.
pub(super) async fn run(shared: Weak<Shared>, mut queue: UnboundedReceiver<Post>, secret: Secret) {
    // Failing to install means that another has already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().no_proxy().timeout(ANSWER_WITHIN).build();
    let Ok(client) = client else { return };
    while let Some(post) = queue.recv().await {
        if post.is_activation {
            tokio::time::sleep(ACTIVATION_AFTER).await;
        }
        let Some((repeats, house)) = shared.upgrade().map(|shared| {
            let poster = &shared.poster;
            (poster.repeats.load(Ordering::SeqCst), poster.house.subscribe())
        }) else {
            return;
        };
        let Some(url) = reach(&post.url, house).await else { continue };
        for _ in 0..=repeats {
            let status = send(&client, url.clone(), &post.body, &secret).await;
            let Some(shared) = shared.upgrade() else { return };
            shared.poster.delivered(Delivery { body: post.body.clone(), status });
        }
    }
}

/// The address that is really asked: a name is the house.
async fn reach(url: &str, mut house: watch::Receiver<Option<SocketAddr>>) -> Option<Url> {
    let mut url = Url::parse(url).ok()?;
    let is_known = match url.host()? {
        Host::Ipv4(ip) => ip.is_loopback() && url.port() != Some(0),
        Host::Ipv6(ip) => ip.is_loopback(),
        Host::Domain(_) => false,
    };
    let given = *house.borrow();
    if given.is_none() && is_known {
        return Some(url);
    }
    let house = *house.wait_for(Option::is_some).await.ok()?;
    let house = house?;
    url.set_scheme("http").ok()?;
    url.set_ip_host(house.ip()).ok()?;
    url.set_port(Some(house.port())).ok()?;
    Some(url)
}

async fn send(client: &reqwest::Client, url: Url, body: &Value, secret: &Secret) -> Option<u16> {
    // Netatmo writes with PHP: slashes escaped, letters not.
    let body = body.to_string().replace('/', "\\/").into_bytes();
    let request = client
        .post(url)
        .header("User-Agent", "NetatmoWebhookServer/1.0 (simulated by Portero)")
        .header("Content-Type", "application/json")
        .header(signature::HEADER, signature::sign(secret, &body))
        .body(body);
    let answer = request.send().await.ok()?;
    Some(answer.status().as_u16())
}
