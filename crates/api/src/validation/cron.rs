//! The syntax of schedules: five fields, or `@hourly` and its like.

/// A field's least and greatest value and the names that stand for numbers.
struct Bounds {
    least: u32,
    most: u32,
    names: &'static [&'static str],
    /// What the first name stands for.
    first: u32,
}

const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

const FIELDS: [Bounds; 5] = [
    Bounds { least: 0, most: 59, names: &[], first: 0 },
    Bounds { least: 0, most: 23, names: &[], first: 0 },
    Bounds { least: 1, most: 31, names: &[], first: 0 },
    Bounds { least: 1, most: 12, names: MONTHS, first: 1 },
    Bounds { least: 0, most: 6, names: DAYS, first: 0 },
];

const DESCRIPTORS: &[&str] = &["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];

/// Whether the schedule can be understood, or why not in the words of upstream's parser.
pub fn check(schedule: &str) -> Result<(), String> {
    let mut schedule = schedule;
    if let Some(rest) = schedule.strip_prefix("TZ=").or_else(|| schedule.strip_prefix("CRON_TZ=")) {
        let (zone, after) = rest.split_once(' ').unwrap_or((rest, ""));
        if !super::names::time_zone(zone) {
            return Err(format!("provided bad location {zone}: unknown time zone {zone}"));
        }
        schedule = after.trim();
    }
    if schedule.starts_with('@') {
        return match schedule.strip_prefix("@every ") {
            Some(duration) if is_duration(duration) => Ok(()),
            Some(_) => Err(format!("failed to parse duration {schedule}")),
            None if DESCRIPTORS.contains(&schedule) => Ok(()),
            None => Err(format!("unrecognized descriptor: {schedule}")),
        };
    }
    let fields: Vec<&str> = schedule.split_whitespace().collect();
    if fields.len() != FIELDS.len() {
        return Err(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
    }
    for (field, bounds) in fields.iter().zip(&FIELDS) {
        for range in field.split(',').filter(|range| !range.is_empty()) {
            check_range(range, bounds)?;
        }
    }
    Ok(())
}

fn check_range(range: &str, bounds: &Bounds) -> Result<(), String> {
    let mut parts = range.split('/');
    let (span, step, more) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
    let mut ends = span.split('-');
    let (from, to, beyond) = (ends.next().unwrap_or_default(), ends.next(), ends.next());
    let (start, mut end) = if matches!(from, "*" | "?") {
        (bounds.least, bounds.most)
    } else {
        let start = value(from, bounds)?;
        if beyond.is_some() {
            return Err(format!("too many hyphens: {range}"));
        }
        (start, to.map_or(Ok(start), |to| value(to, bounds))?)
    };
    if more.is_some() {
        return Err(format!("too many slashes: {range}"));
    }
    if let Some(step) = step {
        if number(step)? == 0 {
            return Err(format!("step of range should be a positive number: {range}"));
        }
        if to.is_none() {
            end = bounds.most;
        }
    }
    if start < bounds.least {
        return Err(format!("beginning of range ({start}) below minimum ({}): {range}", bounds.least));
    }
    if end > bounds.most {
        return Err(format!("end of range ({end}) above maximum ({}): {range}", bounds.most));
    }
    if start > end {
        return Err(format!("beginning of range ({start}) beyond end of range ({end}): {range}"));
    }
    Ok(())
}

fn value(text: &str, bounds: &Bounds) -> Result<u32, String> {
    let lower = text.to_ascii_lowercase();
    match (bounds.first..).zip(bounds.names).find(|(_, name)| **name == lower) {
        Some((number, _)) => Ok(number),
        None => number(text),
    }
}

fn number(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax"))
}

/// A duration as Go writes it: `1h30m`.
fn is_duration(text: &str) -> bool {
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        let unit = ["ns", "us", "ms", "h", "m", "s"].into_iter().find(|unit| digits.starts_with(unit));
        match unit {
            Some(unit) if digits.len() < rest.len() => rest = &digits[unit.len()..],
            _ => return false,
        }
    }
    !text.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_are_understood_or_refused_in_upstreams_words() {
        for schedule in
            ["* * * * *", "*/5 0-6/2 1,15 JAN-MAR mon", "0 0 ? * 0", "@hourly", "@every 1h30m", "5/15 * * * *"]
        {
            assert_eq!(check(schedule), Ok(()), "{schedule}");
        }
        for (schedule, why) in [
            ("* * *", "expected exactly 5 fields, found 3: [* * *]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("x * * * *", "failed to parse int from x: strconv.Atoi: parsing \"x\": invalid syntax"),
            ("@never", "unrecognized descriptor: @never"),
            ("@every 5", "failed to parse duration @every 5"),
        ] {
            assert_eq!(check(schedule), Err(why.to_owned()), "{schedule}");
        }
    }
}
