//! The times of a schedule. Functions of values.

use std::time::Duration;

use k8s_openapi::jiff::{SignedDuration, Timestamp, tz::TimeZone};

use super::cron::Cron;

/// More missed times than this are not counted.
const MOST_COUNTED: usize = 101;

/// Why a schedule cannot be followed, as an event says it.
#[derive(Debug)]
pub(super) struct Problem {
    pub reason: &'static str,
    pub message: String,
}

pub(super) struct Schedule {
    times: Times,
    zone: TimeZone,
}

enum Times {
    Cron(Cron),
    /// `@every 90s`: at this interval since the last time.
    Every(Duration),
}

/// Which times have passed since the last Job.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Due {
    pub latest: Option<Timestamp>,
    pub missed: usize,
}

impl Schedule {
    pub fn new(text: &str, zone: Option<&str>) -> Result<Schedule, Problem> {
        let unparseable = |error: String| Problem {
            reason: "UnparseableSchedule",
            message: format!("unparseable schedule: {text:?} : {error}"),
        };
        let zone = match zone {
            // The clock of the control plane, which is UTC.
            None => TimeZone::UTC,
            Some(name) => TimeZone::get(name).map_err(|error| Problem {
                reason: "UnknownTimeZone",
                message: format!("invalid timeZone: {name:?}: {error}"),
            })?,
        };
        let times = match text.strip_prefix("@every ") {
            Some(every) => {
                let span: SignedDuration = every.trim().parse().map_err(|error| unparseable(format!("{error}")))?;
                // Like upstream's, no shorter than a second.
                let every = Duration::try_from(span).unwrap_or_default().max(Duration::from_secs(1));
                Times::Every(every)
            }
            None => Times::Cron(Cron::parse(text).map_err(unparseable)?),
        };
        Ok(Schedule { times, zone })
    }

    /// The first time after `after`.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        match &self.times {
            Times::Cron(cron) => cron.after(after, &self.zone).next(),
            Times::Every(every) => after.checked_add(SignedDuration::try_from(*every).ok()?).ok(),
        }
    }

    /// The times after `since`, but not before the starting deadline, that have passed.
    pub fn due(&self, since: Timestamp, deadline: Option<i64>, now: Timestamp) -> Due {
        let earliest = deadline.and_then(|seconds| now.checked_sub(SignedDuration::from_secs(seconds)).ok());
        let since = earliest.map_or(since, |earliest| earliest.max(since));
        let passed = |at: &Timestamp| *at <= now;
        match &self.times {
            Times::Cron(cron) => {
                let mut times = cron.after(since, &self.zone).take_while(passed);
                let missed = times.by_ref().take(MOST_COUNTED).count();
                let latest = if missed == 0 { None } else { cron.last(now, &self.zone) };
                Due { latest, missed }
            }
            Times::Every(every) => {
                let every = i64::try_from(every.as_secs()).unwrap_or(i64::MAX).max(1);
                let count = (now.as_second() - since.as_second()).max(0) / every;
                let span = SignedDuration::from_secs(count.saturating_mul(every));
                let latest = (count > 0).then(|| since.checked_add(span).ok()).flatten();
                Due { latest, missed: usize::try_from(count).unwrap_or(MOST_COUNTED).min(MOST_COUNTED) }
            }
        }
    }
}

/// A time as the annotation of a Job writes it, in the schedule's zone.
pub(super) fn local(at: Timestamp, zone: Option<&str>) -> String {
    let zone = zone.and_then(|name| TimeZone::get(name).ok());
    match zone {
        Some(zone) => at.to_zoned(zone).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string(),
        None => at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn times_are_found_in_their_zone() {
        let cases = [
            ("*/5 * * * *", None, "2026-01-01T00:05:00Z"),
            ("@hourly", None, "2026-01-01T01:00:00Z"),
            ("0 3 * * *", Some("America/New_York"), "2026-01-01T08:00:00Z"),
            ("30 2 1 2 *", None, "2026-02-01T02:30:00Z"),
            ("@every 90s", None, "2026-01-01T00:01:30Z"),
        ];
        for (text, zone, expected) in cases {
            let schedule = Schedule::new(text, zone).unwrap();
            assert_eq!(schedule.next(at("2026-01-01T00:00:00Z")), Some(at(expected)), "{text}");
        }
        assert!(Schedule::new("not a schedule", None).is_err());
        assert_eq!(Schedule::new("* * * * *", Some("Nowhere/Land")).err().unwrap().reason, "UnknownTimeZone");
    }

    #[test]
    fn only_the_latest_of_the_missed_times_is_due() {
        let schedule = Schedule::new("*/10 * * * *", None).unwrap();
        let due = |since: &str, deadline| schedule.due(at(since), deadline, at("2026-01-01T01:05:00Z"));
        assert_eq!(due("2026-01-01T01:00:00Z", None), Due { latest: None, missed: 0 });
        assert_eq!(due("2026-01-01T00:30:00Z", None), Due { latest: Some(at("2026-01-01T01:00:00Z")), missed: 3 });
        assert_eq!(due("2026-01-01T00:30:00Z", Some(400)), Due { latest: Some(at("2026-01-01T01:00:00Z")), missed: 1 });
        assert_eq!(due("2026-01-01T00:30:00Z", Some(60)), Due { latest: None, missed: 0 });
        let long = due("2025-01-01T00:00:00Z", None);
        assert_eq!((long.latest, long.missed), (Some(at("2026-01-01T01:00:00Z")), 101));
    }
}
