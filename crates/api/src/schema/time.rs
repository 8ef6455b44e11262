//! Times as upstream reads and writes them: RFC 3339 with seconds (`Time`) or microseconds (`MicroTime`), in UTC.

use jiff::Timestamp;
use jiff::fmt::strtime;

/// The instant that an RFC 3339 text with any offset and fraction names.
pub fn parse_time(text: &str) -> Option<Timestamp> {
    // jiff reads more than RFC 3339 (a space for the T, no seconds, bracketed zones); upstream does not.
    let bytes = text.as_bytes();
    let strict = bytes.len() >= 20
        && [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')].iter().all(|(i, c)| bytes[*i] == *c)
        && !text.ends_with(']')
        && bytes[17].is_ascii_digit()
        && (text.ends_with('Z') || bytes[bytes.len() - 3] == b':');
    if strict { text.parse().ok() } else { None }
}

/// `2006-01-02T15:04:05Z`, the fraction cut off.
pub fn format_seconds(time: Timestamp) -> String {
    strtime::format("%Y-%m-%dT%H:%M:%SZ", time).unwrap_or_else(|_| time.to_string())
}

/// `2006-01-02T15:04:05.000000Z`.
pub fn format_micro(time: Timestamp) -> String {
    strtime::format("%Y-%m-%dT%H:%M:%S.%6fZ", time).unwrap_or_else(|_| time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_any_offset_and_written_in_utc() {
        for (text, seconds, micro) in [
            ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05Z", "2026-01-02T03:04:05.000000Z"),
            ("2026-01-02T03:04:05+02:00", "2026-01-02T01:04:05Z", "2026-01-02T01:04:05.000000Z"),
            ("2026-01-02T03:04:05.123456789Z", "2026-01-02T03:04:05Z", "2026-01-02T03:04:05.123456Z"),
        ] {
            let time = parse_time(text).expect(text);
            assert_eq!((format_seconds(time).as_str(), format_micro(time).as_str()), (seconds, micro));
        }
        for text in ["", "now", "2026-01-02", "2026-01-02 03:04:05Z", "2026-01-02T03:04Z", "2026-01-02T03:04:05"] {
            assert!(parse_time(text).is_none(), "{text}");
        }
    }
}
