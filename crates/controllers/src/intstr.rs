//! Numbers that may be given in percent.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// The number meant by `value` where the whole is `total`. A percentage that cannot be read counts as none.
pub(crate) fn scaled(value: &IntOrString, total: i32, round_up: bool) -> i32 {
    let text = match value {
        IntOrString::Int(number) => return *number,
        IntOrString::String(text) => text,
    };
    let percent: i64 = text.strip_suffix('%').and_then(|number| number.parse().ok()).unwrap_or(0);
    let hundredfold = percent * i64::from(total);
    let scaled = if round_up { (hundredfold + 99).div_euclid(100) } else { hundredfold.div_euclid(100) };
    i32::try_from(scaled).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_are_rounded_as_asked() {
        let percent = |text: &str| IntOrString::String(text.to_owned());
        let cases = [
            (IntOrString::Int(3), 10, true, 3),
            (percent("25%"), 10, true, 3),
            (percent("25%"), 10, false, 2),
            (percent("100%"), 7, false, 7),
            (percent("0%"), 7, true, 0),
            (percent("50"), 7, true, 0),
        ];
        for (value, total, up, expected) in cases {
            assert_eq!(scaled(&value, total, up), expected, "{value:?} of {total}");
        }
    }
}
