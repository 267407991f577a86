//! `kill -9` at random moments under load, with the real binary on a real disk: every webhook
//! that was answered 200 is in the journal once and was decided once.

mod support;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use portero::disk::{Disk, OsDisk};
use portero::journal::read_dir;
use portero::record::{Position, Record};
use proptest::prelude::Rng;
use proptest::test_runner::{RngAlgorithm, TestRng};
use support::{Home, Netatmo};

/// How often the server is killed.
const KILLS: usize = 50;
/// Connections that post at once.
const SENDERS: usize = 8;
/// The most acknowledgements before a kill.
const ACKNOWLEDGED_MAX: u64 = 120;

const RULES: &str = r#"
rules:
  - name: everything that moves
    when: { type: "netatmo.*" }
    do:
      - set: { "last/kind": "{{ event.type }}" }
"#;

#[test]
fn what_was_answered_200_is_journaled_once_and_decided_once() {
    let seed: [u8; 32] = *b"kill it at any moment, any time!";
    println!("seed {}", String::from_utf8_lossy(&seed));
    let mut random = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let home = Home::new(RULES);
    let next = Arc::new(AtomicUsize::new(0));
    let mut acknowledged = Vec::new();
    for round in 0..KILLS {
        let server = home.start();
        let (said, hear) = mpsc::channel();
        let senders: Vec<_> = (0..SENDERS)
            .map(|_| {
                let (to, next, said) = (server.listen, next.clone(), said.clone());
                std::thread::spawn(move || send(to, &next, &said))
            })
            .collect();
        drop(said);
        // The moment of the kill is so many acknowledgements away, not so many milliseconds.
        let until = 1 + random.next_u64() % ACKNOWLEDGED_MAX;
        acknowledged.extend(hear.iter().take(usize::try_from(until).unwrap()));
        server.kill();
        for sender in senders {
            sender.join().unwrap();
        }
        acknowledged.extend(hear.iter());
        assert!(!acknowledged.is_empty(), "round {round} acknowledged nothing");
    }
    // The last start decides what the last kill left undecided.
    let (code, log) = home.start().terminate();
    assert_eq!(code, Some(0), "{log}");
    check(&home, &acknowledged);
}

/// Posts until the connection breaks; names what was answered 200.
fn send(to: std::net::SocketAddr, next: &AtomicUsize, said: &mpsc::Sender<usize>) {
    let Ok(mut netatmo) = Netatmo::connect(to) else { return };
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let body = format!(
            r#"{{"event_type":"movement","push_type":"NACamera-movement","event_id":"e{number}","camera_id":"70:ee:50:00:00:01","home_id":"h1"}}"#
        );
        match netatmo.post(body.as_bytes()) {
            Ok(200) => drop(said.send(number)),
            Ok(other) => panic!("answered {other}"),
            Err(_) => return,
        }
    }
}

fn check(home: &Home, acknowledged: &[usize]) {
    let disk: Arc<dyn Disk> = Arc::new(OsDisk::existing(home.path("data/journal")));
    let (mut seen, mut decided) = (HashMap::new(), HashMap::new());
    let mut names = HashMap::new();
    for entry in read_dir(disk, Position::default()) {
        match entry.expect("no damage").record {
            Record::Seen(event) => {
                *seen.entry(event.id).or_insert(0) += 1;
                let body: serde_json::Value = serde_json::from_slice(&event.raw).unwrap();
                let name = body["event_id"].as_str().unwrap()[1..].parse::<usize>().unwrap();
                names.insert(name, event.id);
            }
            Record::Decided(decision) => *decided.entry(decision.event).or_insert(0) += 1,
            _ => {}
        }
    }
    println!("{} acknowledged, {} journaled", acknowledged.len(), seen.len());
    for name in acknowledged {
        let id = names.get(name).unwrap_or_else(|| panic!("e{name} was lost"));
        assert_eq!(seen[id], 1, "e{name} is in the journal more than once");
    }
    for (id, times) in &seen {
        assert_eq!(*times, 1, "{id} is in the journal more than once");
        assert_eq!(decided.get(id), Some(&1), "{id} was not decided exactly once");
    }
}
