//! Which calls are new when the server's clock, or its count, cannot be believed.

use super::*;

impl Play {
    /// The next answer for calls; what it told.
    fn list(&mut self, listed: &[Value]) -> Vec<String> {
        self.wait(5);
        while self.asks.iter().any(|(_, ask)| ask.url.path().ends_with("/shows")) {
            self.answer("/shows", 200, json!([home(true)]));
        }
        self.answer("/calls", 200, calls(listed));
        self.kinds()
    }

    fn ring(&self, id: u64, ahead: i64) -> Value {
        let at = self.now.wall + SignedDuration::from_secs(5 + ahead);
        call(id, "ring", &at.strftime("%F %T").to_string())
    }
}

fn empty() -> Play {
    let mut play = Play::new(&[180]);
    play.begin(calls(&[]), json!([home(true)]));
    play
}

#[test]
fn a_call_from_the_future_hides_none_that_comes_after_it() {
    let mut play = empty();
    let odd = play.ring(10, 2 * 3600);
    assert_eq!(play.list(std::slice::from_ref(&odd)), ["vms.ring caught up"]);
    let ring = play.ring(11, 0);
    assert_eq!(play.list(&[ring, odd]), ["vms.ring"]);
}

#[test]
fn a_clock_put_right_after_many_calls_costs_no_ring_not_even_over_a_restart() {
    const WRONG: i64 = 5 * 3600;
    let mut play = begun();
    for id in 100..160 {
        let ring = play.ring(id, WRONG);
        assert_eq!(play.list(&[ring]).len(), 1, "{id}");
    }
    let mut again = Play::again(&[180], play.known, play.kept, "2026-11-21T12:10:00Z");
    again.answer("/calls", 200, calls(&[]));
    let ring = again.ring(160, 0);
    assert_eq!(again.list(&[ring]), ["vms.ring"]);
    // One that was forgotten and is listed again is history, whatever its moment.
    let old = again.ring(100, -3600);
    let ring = again.ring(161, 0);
    assert_eq!(again.list(&[ring, old]), ["vms.ring"]);
}

#[test]
fn numbers_that_begin_anew_are_news() {
    let mut play = begun();
    for id in 100..160 {
        let ring = play.ring(id, 0);
        assert_eq!(play.list(&[ring]), ["vms.ring"]);
    }
    let first = play.ring(1, 0);
    assert_eq!(play.list(std::slice::from_ref(&first)), ["vms.ring"]);
    assert_eq!(play.list(&[first]), [""; 0]);
    let second = play.ring(2, 0);
    assert_eq!(play.list(&[second]), ["vms.ring"]);
    assert!(play.known["vms/block/calls"].as_object().unwrap().len() <= 50);
}

#[test]
fn what_is_listed_is_told_once_however_long_the_list() {
    let mut play = begun();
    let listed: Vec<Value> = (2..302).map(|id| play.ring(id, -600)).collect();
    assert_eq!(play.list(&listed).len(), 250);
    assert_eq!(play.list(&listed), [""; 0]);
    play.list(&listed[290..]);
    assert_eq!(play.known["vms/block/calls"].as_object().unwrap().len(), 50);
}
