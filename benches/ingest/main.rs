//! What durable, decided events cost: signed Netatmo webhooks per second over 64 keep-alive
//! connections, against whole processes, in one run:
//!
//! * `bare`: actix that reads, verifies and parses the body, and answers.
//! * `durable`: the same, and the body is on the disk (group commit, fdatasync) before the answer:
//!   the most that any server may reach that keeps the promise.
//! * `portero`: the release binary with 1, 100 and 10 000 rules, one of which fires.
//!
//! Servers run on the first core, the load generator on the second, as far as `taskset` is there.
//! All take turns for [`ROUNDS`] rounds, each time as a new process on an empty folder below
//! `target/`, which must be on a real disk. Where other work shares the machine, requests per
//! second tell about that work too; the processor time of the server per request does so less.
//!
//! Then: latency at half of the reached load, memory, and the time from start to the first 200.

mod bare;
mod load;
mod process;

use std::time::Duration;

use load::{Latency, Requests};
use process::{Kind, Server};

/// Turns of each server; the median counts.
const ROUNDS: usize = 3;
/// Requests of one turn: some seconds for the slowest.
const REQUESTS: usize = 60_000;
/// Sent before a turn is measured, so that buffers have grown and files exist.
const WARM_UP: usize = 3_000;
/// How long the load is held for the latencies.
const HALF_LOAD_FOR: Duration = Duration::from_secs(4);
/// More requests than that are not made, however fast the server is.
const HALF_LOAD_REQUESTS_MAX: usize = 80_000;
/// Starts whose time to the first 200 is taken; the median counts.
const STARTS: usize = 5;

/// The servers of each round, in order.
const KINDS: [Kind; 5] =
    [Kind::Bare, Kind::Durable, Kind::Rules(1), Kind::Rules(100), Kind::Rules(10_000)];

/// What one turn gave.
#[derive(Debug, Clone, Copy)]
struct Turn {
    /// Requests answered in a second.
    per_second: f64,
    /// The server's processor time for one request, in microseconds.
    cpu_us: f64,
    latency: Latency,
}

fn main() {
    if let Some(kind) = bare::asked_for() {
        return bare::serve(&kind);
    }
    process::take_core(process::LOAD_CORE);
    let requests = Requests::make(WARM_UP + REQUESTS.max(HALF_LOAD_REQUESTS_MAX));
    let mut turns: Vec<Vec<Turn>> = vec![Vec::new(); KINDS.len()];
    for round in 1..=ROUNDS {
        for (kind, turns) in KINDS.iter().zip(&mut turns) {
            turns.push(full_load(*kind, &requests));
            eprintln!("round {round}: {kind:<22} {:>8.0}/s", turns[round - 1].per_second);
        }
    }
    let medians: Vec<Turn> = turns.into_iter().map(median).collect();
    print_loads(&medians);
    print_half_load(&half_load(medians[2].per_second / 2.0, &requests));
    print_small(&requests);
}

fn full_load(kind: Kind, requests: &Requests) -> Turn {
    let server = Server::start(kind);
    load::closed(server.address, requests, 0..WARM_UP);
    let cpu = server.cpu();
    let (took, latency) = load::closed(server.address, requests, WARM_UP..WARM_UP + REQUESTS);
    let cpu = server.cpu() - cpu;
    Turn {
        per_second: REQUESTS as f64 / took.as_secs_f64(),
        cpu_us: cpu.as_secs_f64() * 1e6 / REQUESTS as f64,
        latency,
    }
}

fn half_load(per_second: f64, requests: &Requests) -> (f64, Latency) {
    let count = (per_second * HALF_LOAD_FOR.as_secs_f64()) as usize;
    let server = Server::start(Kind::Rules(1));
    load::closed(server.address, requests, 0..WARM_UP);
    let range = WARM_UP..WARM_UP + count.min(HALF_LOAD_REQUESTS_MAX);
    (per_second, load::open(server.address, requests, range, per_second))
}

/// The turn in the middle by its throughput.
fn median(mut turns: Vec<Turn>) -> Turn {
    turns.sort_by(|a, b| a.per_second.total_cmp(&b.per_second));
    turns[turns.len() / 2]
}

fn print_loads(turns: &[Turn]) {
    let durable = turns[1];
    println!(
        "\n{:<22} {:>9} {:>9} {:>8} {:>8} {:>9} {:>11}",
        "server", "per s", "CPU us", "p50 ms", "p99 ms", "of limit", "CPU, limit"
    );
    for (kind, turn) in KINDS.iter().zip(turns) {
        println!(
            "{kind:<22} {:>9.0} {:>9.1} {:>8.2} {:>8.2} {:>8.0}% {:>10.0}%",
            turn.per_second,
            turn.cpu_us,
            turn.latency.p50,
            turn.latency.p99,
            turn.per_second / durable.per_second * 100.0,
            durable.cpu_us / turn.cpu_us * 100.0,
        );
    }
    let many = |of: fn(&Turn) -> f64| of(&turns[4]) / of(&turns[2]);
    println!(
        "10 000 rules cost {:.2} x 1 rule by time, {:.2} x by CPU (aim 1.1)",
        1.0 / many(|turn| turn.per_second),
        many(|turn| turn.cpu_us)
    );
}

fn print_half_load((per_second, latency): &(f64, Latency)) {
    let Latency { p50, p99, p999, max } = latency;
    println!(
        "half load ({per_second:.0}/s, 1 rule): p50 {p50:.2} ms, p99 {p99:.2} ms, \
         p99.9 {p999:.2} ms (aim 20), longest {max:.2} ms"
    );
}

fn print_small(requests: &Requests) {
    let first_200 = |kind| {
        let mut times: Vec<Duration> =
            (0..STARTS).map(|n| process::first_200(kind, requests.get(n))).collect();
        times.sort();
        times[STARTS / 2].as_secs_f64() * 1e3
    };
    let (sample, many) = (first_200(Kind::Sample), first_200(Kind::Rules(10_000)));
    println!(
        "first 200 after {sample:.0} ms with the sample rules (aim 300), {many:.0} ms with 10 000"
    );
    let server = Server::start(Kind::Sample);
    load::closed(server.address, requests, 0..1);
    let idle = server.rss_mb();
    load::closed(server.address, requests, 1..REQUESTS);
    let burst = server.rss_mb();
    std::thread::sleep(process::SETTLE);
    println!(
        "memory with the sample rules: {idle:.1} MB idle (aim 30), {burst:.1} MB at the end of a \
         burst of {REQUESTS}, {:.1} MB {:?} later",
        server.rss_mb(),
        process::SETTLE
    );
}
