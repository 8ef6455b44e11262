//! Durations as Go writes them.

/// The seconds of a duration such as `1m30s` or `100ms`.
pub(crate) fn parse(text: &str) -> Option<f64> {
    let (sign, mut rest) = text.strip_prefix('-').map_or((1.0, text), |rest| (-1.0, rest));
    if rest == "0" {
        return Some(0.0);
    }
    let mut total = 0.0;
    loop {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        let units = [("ns", 1e-9), ("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
        let (unit, seconds) = units.into_iter().find(|(unit, _)| rest[digits..].starts_with(unit))?;
        total += number * seconds;
        rest = &rest[digits + unit.len()..];
        if rest.is_empty() {
            return Some(sign * total);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn durations_are_read_as_go_does() {
        let table = [
            ("5s", Some(5.0)),
            ("1m30s", Some(90.0)),
            ("100ms", Some(0.1)),
            ("0", Some(0.0)),
            ("0s", Some(0.0)),
            ("-1.5h", Some(-5400.0)),
            ("5", None),
            ("", None),
            ("s", None),
            ("5 s", None),
        ];
        for (text, seconds) in table {
            assert_eq!(parse(text), seconds, "{text}");
        }
    }
}
