//! How long to wait before the next attempt: doubling, with jitter, so that many clients of a
//! server that comes back do not come back all at once. Pure: the jitter comes from a seed.

use std::time::Duration;

/// Waits between attempts.
#[derive(Debug, Clone)]
pub struct Backoff {
    least: Duration,
    most: Duration,
    failures: u32,
    random: u64,
}

impl Backoff {
    /// Waits of about `least` that double up to about `most`.
    pub fn new(least: Duration, most: Duration, seed: u64) -> Backoff {
        Backoff { least, most, failures: 0, random: seed }
    }

    /// The wait after one more failure: between half of the doubled time and all of it.
    pub fn next_wait(&mut self) -> Duration {
        let doubled = self.least.saturating_mul(1 << self.failures.min(20)).min(self.most);
        self.failures = self.failures.saturating_add(1);
        let half = doubled / 2;
        let share = (self.draw() >> 40) as f64 / (1u64 << 24) as f64;
        half + half.mul_f64(share)
    }

    /// How many attempts failed in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// It worked: the next failure waits the least again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// SplitMix64: good enough to spread clients, and no more is asked.
    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_most_and_start_anew() {
        let (least, most) = (Duration::from_secs(1), Duration::from_secs(60));
        let mut backoff = Backoff::new(least, most, 7);
        let waits: Vec<Duration> = (0..40).map(|_| backoff.next_wait()).collect();
        for (n, wait) in waits.iter().enumerate() {
            let doubled = least.saturating_mul(1 << n.min(20)).min(most);
            assert!(*wait >= doubled / 2 && *wait <= doubled, "{n}: {wait:?}");
        }
        backoff.reset();
        assert!(backoff.next_wait() <= least);
        let mut other = Backoff::new(least, most, 8);
        assert_ne!(other.next_wait(), waits[0]);
    }
}
