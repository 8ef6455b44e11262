//! How fast processors are used: from a counter and what it was some seconds ago.

use std::collections::HashMap;

use parking_lot::Mutex;

/// Two samples nearer than this say too little.
const APART: u64 = 5_000_000_000;
/// A sample of which nobody has heard for this long is forgotten.
const FORGET: u64 = 600_000_000_000;

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: u64,
    counter: u64,
    rate: u64,
}

/// The last samples by what was counted.
#[derive(Debug, Default)]
pub struct Rates(Mutex<HashMap<String, Sample>>);

impl Rates {
    /// Billionths of a processor that were in use until `at`. All times are nanoseconds; `began` is when the counter was zero,
    /// which makes a first answer possible.
    pub fn per_second(&self, what: &str, began: u64, at: u64, counter: u64) -> u64 {
        let mut all = self.0.lock();
        let before = all.get(what).copied().filter(|before| before.counter <= counter && before.at <= at);
        let over = |from: u64, counted: u64| {
            let time = u128::from(at.saturating_sub(from).max(1));
            u64::try_from(u128::from(counted) * 1_000_000_000 / time).unwrap_or(u64::MAX)
        };
        let rate = match before {
            Some(before) if at - before.at < APART => return before.rate,
            Some(before) => over(before.at, counter - before.counter),
            None => over(began, counter),
        };
        all.insert(what.to_owned(), Sample { at, counter, rate });
        if before.is_none() {
            all.retain(|_, sample| at.saturating_sub(sample.at) < FORGET);
        }
        rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rate_is_since_the_beginning_and_later_ones_since_the_last_sample() {
        const SECOND: u64 = 1_000_000_000;
        let rates = Rates::default();
        for (at, counter, expected) in [
            (10, 5, SECOND / 2),
            (12, 7, SECOND / 2),
            (20, 25, 2 * SECOND),
            // Restarted: the counter begins anew.
            (30, 3, SECOND / 10),
        ] {
            assert_eq!(rates.per_second("c", 0, at * SECOND, counter * SECOND), expected, "at {at}");
        }
    }
}
