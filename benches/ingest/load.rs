//! The load: requests made and signed beforehand, each body another fact, sent over
//! [`CONNECTIONS`] plain TCP connections by one thread. What a request costs here is a write, a
//! read and a look at the first line of the answer.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use portero::secret::Secret;
use portero::systems::netatmo::signature::sign;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Keep-alive connections.
pub const CONNECTIONS: usize = 64;
/// The client secret on both sides.
pub const SECRET: &str = "the benchmark's client secret";
/// The answers of all servers are shorter.
const ANSWER_BYTES_MAX: usize = 1024;

/// A camera saw somebody; 750 bytes, as Netatmo sends it.
const BODY: &str = include_str!("../../fixtures/netatmo/human.json");
/// In [`BODY`], what makes each one another fact.
const EVENT_ID: &str = "6a1f0c1a2b3c4d5e6f700110";

/// Requests, one behind the other and all of one length.
pub struct Requests {
    bytes: Vec<u8>,
    each: usize,
}

impl Requests {
    /// Makes and signs them.
    pub fn make(count: usize) -> Requests {
        assert!(BODY.contains(EVENT_ID), "the fixture has changed");
        let secret = Secret::new(SECRET);
        let mut requests = Requests { bytes: Vec::new(), each: 0 };
        for n in 0..count {
            let body = BODY.replace(EVENT_ID, &format!("{n:024x}"));
            let head = format!(
                "POST /hooks/netatmo/home HTTP/1.1\r\nhost: localhost\r\n\
                 content-type: application/json\r\nx-netatmo-secret: {}\r\n\
                 content-length: {}\r\n\r\n",
                sign(&secret, body.as_bytes()),
                body.len()
            );
            requests.each = head.len() + body.len();
            if n == 0 {
                requests.bytes.reserve_exact(requests.each * count);
            }
            requests.bytes.extend(head.as_bytes());
            requests.bytes.extend(body.as_bytes());
        }
        requests
    }

    /// The request of this number.
    pub fn get(&self, n: usize) -> &[u8] {
        &self.bytes[n * self.each..][..self.each]
    }
}

/// How long answers took, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct Latency {
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

impl Latency {
    fn of(mut times: Vec<Duration>) -> Latency {
        times.sort_unstable();
        let at = |share: f64| {
            let place = (times.len() as f64 * share) as usize;
            times[place.min(times.len() - 1)].as_secs_f64() * 1e3
        };
        Latency { p50: at(0.5), p99: at(0.99), p999: at(0.999), max: at(1.0) }
    }
}

/// Each connection sends its next request when its last one is answered.
pub fn closed(to: SocketAddr, requests: &Requests, range: Range<usize>) -> (Duration, Latency) {
    run(to, requests, range, |_| None)
}

/// Requests are due at this rate, whether the server keeps up or not. A request that has to wait
/// for its connection was due all the same: the wait counts. That this thread wakes late does not.
pub fn open(to: SocketAddr, requests: &Requests, range: Range<usize>, per_second: f64) -> Latency {
    let first = range.start;
    let due = |n: usize| Some(Duration::from_secs_f64((n - first) as f64 / per_second));
    run(to, requests, range, due).1
}

fn run(
    to: SocketAddr,
    requests: &Requests,
    range: Range<usize>,
    due: impl Fn(usize) -> Option<Duration> + Copy,
) -> (Duration, Latency) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut streams = Vec::new();
        for _ in 0..CONNECTIONS {
            streams.push(connect(to).await);
        }
        let begun = now();
        let connections = streams.into_iter().enumerate().map(|(k, stream)| {
            let mine = range.clone().skip(k).step_by(CONNECTIONS);
            connection(stream, mine.map(move |n| (requests.get(n), due(n).map(|d| begun + d))))
        });
        let times = futures_util::future::join_all(connections).await;
        (begun.elapsed(), Latency::of(times.concat()))
    })
}

async fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

async fn connection<'r>(
    mut stream: TcpStream,
    requests: impl Iterator<Item = (&'r [u8], Option<Instant>)>,
) -> Vec<Duration> {
    let mut times = Vec::new();
    for (request, due) in requests {
        let mut from = now();
        match due {
            Some(due) if due > from => {
                tokio::time::sleep_until(due.into()).await;
                from = now();
            }
            Some(due) => from = due,
            None => {}
        }
        stream.write_all(request).await.unwrap();
        answer(&mut stream).await;
        times.push(from.elapsed());
    }
    times
}

/// Reads one answer, which must be a 200 without a body.
async fn answer(stream: &mut TcpStream) {
    let mut bytes = [0; ANSWER_BYTES_MAX];
    let mut got = 0;
    while !bytes[..got].ends_with(b"\r\n\r\n") {
        let more = stream.read(&mut bytes[got..]).await.unwrap();
        assert!(more > 0, "the server hung up");
        got += more;
    }
    assert!(bytes.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&bytes[..got]));
}

#[allow(clippy::disallowed_methods)] // A benchmark measures real time.
pub fn now() -> Instant {
    Instant::now()
}
