//! Waiting longer after each failure.

use std::time::Duration;

use rand::Rng;

/// Exponential delays with jitter, from `first` doubling to `most`.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    failures: u32,
}

impl Backoff {
    /// Delays that start at `first` and never exceed `most` by more than the jitter (a tenth).
    pub const fn new(first: Duration, most: Duration) -> Backoff {
        Backoff { first, most, failures: 0 }
    }

    /// The delay after one more failure.
    pub fn next_delay(&mut self) -> Duration {
        let plain = exponential(self.first, self.most, self.failures);
        self.failures = self.failures.saturating_add(1);
        plain.mul_f64(rand::rng().random_range(1.0..1.1))
    }

    /// Starts over, after a success.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Sleeps for the delay after one more failure.
    pub async fn wait(&mut self) {
        tokio::time::sleep(self.next_delay()).await;
    }
}

/// `first` doubled `times` times, at most `most`.
pub(crate) fn exponential(first: Duration, most: Duration, times: u32) -> Duration {
    first.checked_mul(1u32.checked_shl(times).unwrap_or(u32::MAX)).map_or(most, |delay| delay.min(most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_limit_and_starts_over() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        let delays: Vec<u128> = (0..6).map(|_| backoff.next_delay().as_millis() / 100).collect();
        assert_eq!(delays[..3], [1, 2, 4]);
        assert!(delays[5] >= 10 && delays[5] <= 11);
        backoff.reset();
        assert_eq!(backoff.next_delay().as_millis() / 100, 1);
        assert_eq!(exponential(Duration::from_millis(5), Duration::from_secs(1000), 60), Duration::from_secs(1000));
    }
}
