//! Figures with their units, a line each, and whether each reaches its goal.

use std::time::Duration;

use crate::goals::Goal;

/// Prints figures as they come.
#[derive(Default)]
pub struct Report {
    met: usize,
    missed: Vec<String>,
}

impl Report {
    pub fn value(&mut self, what: &str, value: f64, unit: &str) {
        let shown = match value.abs() {
            v if v >= 1000.0 => format!("{value:.0}"),
            v if v >= 10.0 => format!("{value:.1}"),
            _ => format!("{value:.3}"),
        };
        let judged = match Goal::of(what) {
            None => String::new(),
            Some(goal) => {
                let met = goal.is_met(value);
                match met {
                    true => self.met += 1,
                    false => self.missed.push(what.trim().to_owned()),
                }
                format!("  {:<16} {}", goal.shown(), if met { "met" } else { "MISSED" })
            }
        };
        println!("{}", format!("{what:<58} {shown:>10} {unit:<12}{judged}").trim_end());
    }

    /// How many goals were met, and which were not.
    pub fn summary(&self) {
        println!("{} goals met, {} missed", self.met, self.missed.len());
        self.missed.iter().for_each(|what| println!("  missed: {what}"));
    }

    pub fn time(&mut self, what: &str, time: Duration) {
        self.value(what, time.as_secs_f64() * 1e3, "ms");
    }

    /// Median, 99th percentile and maximum.
    pub fn times(&mut self, what: &str, times: &mut [Duration]) {
        times.sort_unstable();
        for (name, share) in [("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
            if let Some(time) = percentile(times, share) {
                self.time(&format!("{what}, {name}"), time);
            }
        }
    }
}

/// The smallest value that at least this share of the sorted values does not exceed.
fn percentile(sorted: &[Duration], share: f64) -> Option<Duration> {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_seen() {
        let times: Vec<_> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(percentile(&times, 0.5), Some(Duration::from_millis(50)));
        assert_eq!(percentile(&times, 0.99), Some(Duration::from_millis(99)));
        assert_eq!(percentile(&times, 1.0), Some(Duration::from_millis(100)));
        assert_eq!(percentile(&times[..1], 0.5), Some(Duration::from_millis(1)));
        assert_eq!(percentile(&[], 0.5), None);
    }
}
