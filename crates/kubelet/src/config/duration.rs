//! Durations as Go writes them: `300ms`, `1m30s`, `1.5h`.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A duration that is read and written in Go's form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Duration(pub std::time::Duration);

const UNITS: [(&str, f64); 8] =
    [("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("μs", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 6e10), ("h", 3.6e12)];

impl Duration {
    pub const fn from_secs(secs: u64) -> Duration {
        Duration(std::time::Duration::from_secs(secs))
    }

    /// `None` where it is no duration that is zero or more.
    pub fn parse(text: &str) -> Option<Duration> {
        if text == "0" {
            return Some(Duration::default());
        }
        let mut rest = text.strip_prefix('+').unwrap_or(text);
        let mut nanoseconds = 0.0;
        while !rest.is_empty() || text.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
            let number: f64 = rest[..digits].parse().ok()?;
            rest = &rest[digits..];
            let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
            let (_, factor) = UNITS.iter().find(|(name, _)| *name == &rest[..unit])?;
            nanoseconds += number * factor;
            rest = &rest[unit..];
        }
        (nanoseconds <= u64::MAX as f64).then(|| Duration(std::time::Duration::from_nanos(nanoseconds as u64)))
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (secs, nanos) = (self.0.as_secs(), self.0.subsec_nanos());
        let fraction = |number: u64, digits: usize| {
            let text = format!("{number:0digits$}");
            let text = text.trim_end_matches('0');
            if text.is_empty() { String::new() } else { format!(".{text}") }
        };
        match (secs / 3600, secs / 60 % 60, secs % 60) {
            (0, 0, 0) if nanos == 0 => f.write_str("0s"),
            (0, 0, 0) if nanos < 1_000_000 => {
                write!(f, "{}{}µs", nanos / 1000, fraction(u64::from(nanos % 1000), 3))
            }
            (0, 0, 0) => write!(f, "{}{}ms", nanos / 1_000_000, fraction(u64::from(nanos % 1_000_000), 6)),
            (0, 0, s) => write!(f, "{s}{}s", fraction(nanos.into(), 9)),
            (0, m, s) => write!(f, "{m}m{s}{}s", fraction(nanos.into(), 9)),
            (h, m, s) => write!(f, "{h}h{m}m{s}{}s", fraction(nanos.into(), 9)),
        }
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        let parsed = value.as_str().and_then(Duration::parse);
        parsed.ok_or_else(|| de::Error::custom(format!("expected a duration such as \"1m30s\", found {value}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written_as_go_does() {
        for (text, nanos, shown) in [
            ("1m30s", 90_000_000_000, "1m30s"),
            ("1.5h", 5_400_000_000_000, "1h30m0s"),
            ("300ms", 300_000_000, "300ms"),
            ("0", 0, "0s"),
            ("1.25s", 1_250_000_000, "1.25s"),
            ("7us", 7000, "7µs"),
        ] {
            let read = Duration::parse(text).unwrap();
            assert_eq!((read.0.as_nanos(), read.to_string().as_str()), (nanos, shown), "{text}");
        }
        for text in ["", "5", "-1s", "s", "1x", "1s2"] {
            assert_eq!(Duration::parse(text), None, "{text}");
        }
    }
}
