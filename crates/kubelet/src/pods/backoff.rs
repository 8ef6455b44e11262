//! Exponential back-off as upstream's `flowcontrol.Backoff`: doubled at each failure, forgotten after a quiet time.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

const INITIAL: Duration = Duration::from_secs(10);
/// The longest delay that upstream has without being told otherwise.
pub const MAXIMUM: Duration = Duration::from_secs(300);
/// A failure later than this after the last one starts anew.
const FORGET: SignedDuration = SignedDuration::from_secs(600);

/// The back-off of one container's restarts or one image's pulls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    last: Option<(Duration, Timestamp)>,
}

impl Backoff {
    /// Until when the failure at `event` forbids another try; `None` when it may be tried at once.
    pub fn until(&self, event: Timestamp) -> Option<Timestamp> {
        let (delay, updated) = self.last?;
        (event.duration_since(updated) <= FORGET).then(|| event + delay)
    }

    /// Counts one more failure, after which nobody waits longer than `maximum`.
    pub fn next(&mut self, now: Timestamp, maximum: Duration) {
        let delay = match self.last {
            Some((delay, updated)) if now.duration_since(updated) <= FORGET => (delay * 2).min(maximum),
            _ => INITIAL.min(maximum),
        };
        self.last = Some((delay, now));
    }

    pub fn delay(&self) -> Duration {
        self.last.map_or(Duration::ZERO, |(delay, _)| delay)
    }
}

/// A duration of whole seconds as Go prints it: `10s`, `1m20s`, `5m0s`.
pub fn go_seconds(duration: Duration) -> String {
    let secs = duration.as_secs();
    match (secs / 3600, secs / 60 % 60, secs % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, s) => format!("{h}h{m}m{s}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_wait_ten_seconds_doubling_to_five_minutes_and_forget_after_ten() {
        let mut backoff = Backoff::default();
        let mut now = Timestamp::UNIX_EPOCH;
        assert_eq!(backoff.until(now), None);
        let mut seen = Vec::new();
        for _ in 0..7 {
            backoff.next(now, MAXIMUM);
            let until = backoff.until(now).unwrap();
            seen.push(until.duration_since(now).as_secs());
            now = until;
        }
        assert_eq!(seen, [10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(backoff.until(now + SignedDuration::from_secs(601)), None);
        backoff.next(now + SignedDuration::from_secs(601), MAXIMUM);
        assert_eq!(backoff.delay(), INITIAL);
    }

    #[test]
    fn durations_print_as_go_prints_them() {
        let shown: Vec<_> = [10, 80, 300, 3661].map(|s| go_seconds(Duration::from_secs(s))).into();
        assert_eq!(shown, ["10s", "1m20s", "5m0s", "1h1m1s"]);
    }
}
