//! Cron expressions, as upstream's parser understands them: five fields, in each `*` or `?`, numbers, names, ranges, steps and
//! lists. A day must match both of its fields, but where neither of them is a star either of them. Functions of values.

use k8s_openapi::jiff::{
    Timestamp, ToSpan,
    civil::Date,
    tz::{AmbiguousOffset, TimeZone},
};

const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
/// Least and greatest value of each field, and its names.
const FIELDS: [(u32, u32, &[&str]); 5] = [(0, 59, &[]), (0, 23, &[]), (1, 31, &[]), (1, 12, MONTHS), (0, 6, DAYS)];
const DESCRIPTORS: &[(&str, &str)] = &[
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];
/// As far ahead and back times are looked for: the 29th of February comes again within eight years.
const HORIZON_DAYS: i32 = 366 * 8 + 1;

/// A field's values as bits, and whether it is a star.
#[derive(Clone, Copy, Debug)]
struct Field {
    values: u64,
    star: bool,
}

impl Field {
    fn has(self, value: i8) -> bool {
        u32::try_from(value).is_ok_and(|value| self.values >> value & 1 == 1)
    }
}

#[derive(Clone, Debug)]
pub(super) struct Cron([Field; 5]);

impl Cron {
    pub fn parse(text: &str) -> Result<Cron, String> {
        let text = match DESCRIPTORS.iter().find(|(name, _)| *name == text) {
            Some((_, fields)) => fields,
            None if text.starts_with('@') => return Err(format!("unrecognized descriptor: {text}")),
            None => text,
        };
        let fields: Vec<&str> = text.split_whitespace().collect();
        let fields: [&str; 5] = fields.try_into().map_err(|fields: Vec<_>| {
            format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" "))
        })?;
        let mut parsed = [Field { values: 0, star: false }; 5];
        for ((field, text), bounds) in parsed.iter_mut().zip(fields).zip(FIELDS) {
            for range in text.split(',') {
                let (values, star) = parse_range(range, bounds)?;
                field.values |= values;
                field.star |= star;
            }
        }
        Ok(Cron(parsed))
    }

    fn matches(&self, date: Date) -> bool {
        let [_, _, days, months, weekdays] = self.0;
        let (day, weekday) = (days.has(date.day()), weekdays.has(date.weekday().to_sunday_zero_offset()));
        let on_day = if days.star || weekdays.star { day && weekday } else { day || weekday };
        months.has(date.month()) && on_day
    }

    /// The times of a day, in order. An hour that the clocks skip has none; one that comes twice has them twice.
    fn on(&self, date: Date, zone: &TimeZone) -> Vec<Timestamp> {
        if !self.matches(date) {
            return Vec::new();
        }
        let [minutes, hours, ..] = self.0;
        let mut times = Vec::new();
        for hour in (0..24).filter(|hour| hours.has(*hour)) {
            for minute in (0..60).filter(|minute| minutes.has(*minute)) {
                let civil = date.at(hour, minute, 0, 0);
                let offsets = match zone.to_ambiguous_timestamp(civil).offset() {
                    AmbiguousOffset::Unambiguous { offset } => vec![offset],
                    AmbiguousOffset::Gap { .. } => Vec::new(),
                    AmbiguousOffset::Fold { before, after } => vec![before, after],
                };
                times.extend(offsets.into_iter().filter_map(|offset| offset.to_timestamp(civil).ok()));
            }
        }
        times.sort_unstable();
        times
    }

    /// All times after `after`, in order.
    pub fn after(&self, after: Timestamp, zone: &TimeZone) -> impl Iterator<Item = Timestamp> {
        let first = after.to_zoned(zone.clone()).date();
        let days = (0..HORIZON_DAYS).map_while(move |days| first.checked_add(days.days()).ok());
        days.flat_map(move |date| self.on(date, zone)).filter(move |at| *at > after)
    }

    /// The last time that is not after `until`.
    pub fn last(&self, until: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let first = until.to_zoned(zone.clone()).date();
        let days = (0..HORIZON_DAYS).map_while(|days| first.checked_sub(days.days()).ok());
        days.filter_map(|date| self.on(date, zone).into_iter().rfind(|at| *at <= until)).next()
    }
}

/// The values of `a`, `a-b`, `a/step` or `a-b/step`, `a` being a number, a name or a star; and whether it is a star.
fn parse_range(range: &str, (least, most, names): (u32, u32, &[&str])) -> Result<(u64, bool), String> {
    let (span, step) = range.split_once('/').map_or((range, None), |(span, step)| (span, Some(step)));
    let number = |text: &str| text.parse::<u32>().map_err(|error| format!("failed to parse int from {text}: {error}"));
    let value = |text: &str| match names.iter().position(|name| text.eq_ignore_ascii_case(name)) {
        Some(place) => Ok(u32::try_from(place).unwrap_or(0) + least),
        None => number(text),
    };
    let star = matches!(span, "*" | "?");
    let (from, to) = match span.split_once('-') {
        _ if star => (least, most),
        Some((from, to)) => (value(from)?, value(to)?),
        None if step.is_some() => (value(span)?, most),
        None => (value(span)?, value(span)?),
    };
    let by = step.map_or(Ok(1), number)?;
    if from < least || to > most || from > to || by == 0 {
        return Err(format!("not within {least}-{most}: {range}"));
    }
    let values = (from..=to).step_by(by as usize).fold(0, |values, value| values | 1 << value);
    // As upstream has it, a star with a step is none.
    Ok((values, star && by == 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(text: &str, zone: &str, after: &str) -> Vec<String> {
        let zone = TimeZone::get(zone).unwrap();
        let cron = Cron::parse(text).unwrap();
        cron.after(after.parse().unwrap(), &zone).take(3).map(|at| at.to_string()).collect()
    }

    #[test]
    fn expressions_mean_what_upstreams_mean() {
        let cases = [
            ("* */1 * * ?", "2026-01-01T00:01:00Z"),
            ("5/20 * * * *", "2026-01-01T00:05:00Z"),
            ("0 0 ? * mon-fri", "2026-01-02T00:00:00Z"),
            ("0 0 13 * 5", "2026-01-02T00:00:00Z"),
            ("0 0 */5 * 1", "2026-01-05T00:00:00Z"),
            ("0 12 * * SUN,6", "2026-01-03T12:00:00Z"),
            ("10-50/20,3 * * * *", "2026-01-01T00:03:00Z"),
            ("0 0 29 feb *", "2028-02-29T00:00:00Z"),
            ("@weekly", "2026-01-04T00:00:00Z"),
        ];
        for (text, expected) in cases {
            assert_eq!(times(text, "UTC", "2026-01-01T00:00:00Z")[0], expected, "{text}");
        }
        for bad in ["* * * *", "60 * * * *", "* * * * 7", "5-1 * * * *", "*/0 * * * *", "@reboot", "a * * * *"] {
            assert!(Cron::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn clocks_that_are_changed_skip_times_or_repeat_them() {
        // At 02:00 on the 8th of March the clocks of New York go to 03:00, at 02:00 on the 1st of November to 01:00.
        let skipped = times("30 2 * * *", "America/New_York", "2026-03-07T12:00:00Z");
        assert_eq!(skipped[0], "2026-03-09T06:30:00Z");
        let repeated = times("30 1 * * *", "America/New_York", "2026-11-01T00:00:00Z");
        assert_eq!(repeated[..2], ["2026-11-01T05:30:00Z", "2026-11-01T06:30:00Z"]);
    }

    #[test]
    fn the_last_time_is_found_backwards() {
        let cron = Cron::parse("0 0 29 2 *").unwrap();
        let last = cron.last("2027-01-01T00:00:00Z".parse().unwrap(), &TimeZone::UTC).unwrap();
        assert_eq!(last.to_string(), "2024-02-29T00:00:00Z");
    }
}
