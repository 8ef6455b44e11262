//! Quantities: fixed-point numbers with a decimal, binary or exponent suffix, as upstream's `resource.Quantity`. The smallest unit
//! is 1n (finer input rounds up, away from zero), and what exceeds 2^63-1 is capped.

use std::cmp::Ordering;
use std::fmt;
use std::ops::{Add, AddAssign, Neg, Sub, SubAssign};

/// How a quantity is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Format {
    /// `12e6`
    DecimalExponent,
    /// `12Mi`
    BinarySi,
    /// `12M`
    #[default]
    DecimalSi,
}

/// Text that is no quantity, in upstream's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Wrong,
    #[error("unable to parse numeric part of quantity")]
    Number,
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// An amount. Two quantities are equal when their amounts are, however they are written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantity {
    /// In units of 10^-9; always within [`MAX`].
    nano: i128,
    format: Format,
}

const NANO: i128 = 1_000_000_000;
const MAX: i128 = i64::MAX as i128 * NANO;

/// Suffixes of powers of ten, by exponent.
const DECIMAL: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];

/// Suffixes of powers of two, by exponent.
const BINARY: [(&str, u32); 6] = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];

impl Quantity {
    /// Parses `500m`, `1.5Gi`, `12e6`.
    pub fn parse(text: &str) -> Result<Quantity, ParseError> {
        if text.is_empty() {
            return Err(ParseError::Wrong);
        }
        let (negative, rest) = match text.as_bytes()[0] {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (whole, rest) = rest.split_at(end);
        let (fraction, suffix) = match rest.strip_prefix('.') {
            Some(after) => after.split_at(after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len())),
            None => ("", rest),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(if rest.starts_with('.') { ParseError::Number } else { ParseError::Wrong });
        }
        let (unit, format) = unit(suffix)?;
        let nano = scale(whole, fraction, unit).min(MAX);
        Ok(Quantity { nano: if negative { -nano } else { nano }, format })
    }

    /// A whole number.
    pub fn new(value: i64, format: Format) -> Quantity {
        Quantity { nano: i128::from(value) * NANO, format }
    }

    /// A number of thousandths.
    pub fn from_milli(milli: i64, format: Format) -> Quantity {
        Quantity { nano: i128::from(milli) * (NANO / 1000), format }
    }

    pub fn is_zero(&self) -> bool {
        self.nano == 0
    }

    /// -1, 0 or 1.
    pub fn sign(&self) -> i128 {
        self.nano.signum()
    }

    pub fn format(&self) -> Format {
        self.format
    }

    /// The whole number, rounded away from zero.
    pub fn value(&self) -> i64 {
        clamp(round_up(self.nano, NANO))
    }

    /// Thousandths, rounded away from zero and capped.
    pub fn milli_value(&self) -> i64 {
        clamp(round_up(self.nano, NANO / 1000))
    }

    /// As a floating-point number, for comparing shares.
    pub fn as_f64(&self) -> f64 {
        self.nano as f64 / NANO as f64
    }

    fn with(self, nano: i128, other: Quantity) -> Quantity {
        // As upstream: a zero takes the other's way of writing.
        let format = if self.nano == 0 { other.format } else { self.format };
        Quantity { nano: nano.clamp(-MAX, MAX), format }
    }
}

/// What a suffix multiplies by.
enum Unit {
    Ten(i32),
    Two(u32),
}

fn unit(suffix: &str) -> Result<(Unit, Format), ParseError> {
    if let Some((_, power)) = DECIMAL.iter().find(|(s, _)| *s == suffix) {
        return Ok((Unit::Ten(*power), Format::DecimalSi));
    }
    if let Some((_, power)) = BINARY.iter().find(|(s, _)| *s == suffix) {
        return Ok((Unit::Two(*power), Format::BinarySi));
    }
    let known = |c: char| c.is_ascii_digit() || "eEinumkKMGTP+-".contains(c);
    match suffix.strip_prefix(['e', 'E']) {
        Some(power) if power.strip_prefix(['+', '-']).unwrap_or(power).bytes().all(|b| b.is_ascii_digit()) => {
            // Beyond the range of any amount the exact power does not matter.
            let power = power.parse::<i64>().map_err(|_| ParseError::Suffix)?.clamp(-1000, 1000);
            Ok((Unit::Ten(power as i32), Format::DecimalExponent))
        }
        _ if suffix.chars().all(known) => Err(ParseError::Suffix),
        _ => Err(ParseError::Wrong),
    }
}

/// The amount of `whole.fraction` in units, in billionths, rounded up; anything above [`MAX`] is some number above it.
fn scale(whole: &str, fraction: &str, unit: Unit) -> i128 {
    let (power, factor) = match unit {
        Unit::Ten(power) => (power + 9, 1),
        Unit::Two(power) => (9, 1_i128 << power),
    };
    // Digits beyond the point of billionths only say whether to round up; with a binary factor they count, so that thirty of
    // them are kept.
    let digits = || whole.bytes().chain(fraction.bytes()).map(|b| i128::from(b - b'0'));
    let point = whole.len() as i64 + i64::from(power);
    let mut amount: i128 = 0;
    let mut remainder: (i128, i128) = (0, 1);
    let mut inexact = false;
    for (i, digit) in digits().enumerate() {
        if (i as i64) < point {
            amount = amount.saturating_mul(10).saturating_add(digit);
            if amount > MAX {
                return amount;
            }
        } else if remainder.1 < 1_000_000_000_000_000_000 {
            remainder = (remainder.0 * 10 + digit, remainder.1 * 10);
        } else {
            inexact |= digit != 0;
        }
    }
    let given = (whole.len() + fraction.len()) as i64;
    for _ in given..point {
        if amount == 0 || amount > MAX {
            break;
        }
        amount = amount.saturating_mul(10);
    }
    // Leading zeros that the point lies before.
    for _ in point..0 {
        inexact |= remainder.0 != 0;
        if remainder.1 >= 1_000_000_000_000_000_000 {
            remainder = (0, 1);
            break;
        }
        remainder.1 *= 10;
    }
    let below = remainder.0 * factor;
    amount.saturating_mul(factor).saturating_add(below / remainder.1) + i128::from(below % remainder.1 != 0 || inexact)
}

/// Division that rounds away from zero.
fn round_up(amount: i128, by: i128) -> i128 {
    amount / by + if amount % by == 0 { 0 } else { amount.signum() }
}

fn clamp(value: i128) -> i64 {
    value.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
}

impl fmt::Display for Quantity {
    /// The canonical form: no fraction, and the largest suffix that needs none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nano == 0 {
            return f.write_str("0");
        }
        // Binary suffixes are for whole numbers of at least 1024; upstream writes anything else in decimals.
        if self.format == Format::BinarySi && self.nano.abs() >= 1024 * NANO && self.nano % NANO == 0 {
            let whole = self.nano / NANO;
            let power = BINARY.iter().rev().find(|(_, power)| whole % (1_i128 << power) == 0);
            return match power {
                Some((suffix, power)) => write!(f, "{}{suffix}", whole >> power),
                None => write!(f, "{whole}"),
            };
        }
        let mut amount = self.nano;
        let mut power = -9;
        while amount % 1000 == 0 && power < 18 {
            amount /= 1000;
            power += 3;
        }
        match self.format {
            Format::DecimalExponent if power == 0 => write!(f, "{amount}"),
            Format::DecimalExponent => write!(f, "{amount}e{power}"),
            _ => write!(f, "{amount}{}", DECIMAL[(power / 3 + 3) as usize].0),
        }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Quantity) -> bool {
        self.nano == other.nano
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Quantity) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Quantity) -> Ordering {
        self.nano.cmp(&other.nano)
    }
}

impl Add for Quantity {
    type Output = Quantity;
    fn add(self, other: Quantity) -> Quantity {
        self.with(self.nano + other.nano, other)
    }
}

impl Sub for Quantity {
    type Output = Quantity;
    fn sub(self, other: Quantity) -> Quantity {
        self.with(self.nano - other.nano, other)
    }
}

impl AddAssign for Quantity {
    fn add_assign(&mut self, other: Quantity) {
        *self = *self + other;
    }
}

impl SubAssign for Quantity {
    fn sub_assign(&mut self, other: Quantity) {
        *self = *self - other;
    }
}

impl Neg for Quantity {
    type Output = Quantity;
    fn neg(self) -> Quantity {
        Quantity { nano: -self.nano, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn q(text: &str) -> Quantity {
        Quantity::parse(text).expect(text)
    }

    #[test]
    fn quantities_have_one_canonical_form() {
        for (text, canonical, value, milli) in [
            ("0", "0", 0, 0),
            ("0Mi", "0", 0, 0),
            ("1", "1", 1, 1000),
            ("0.5", "500m", 1, 500),
            (".5", "500m", 1, 500),
            ("5.", "5", 5, 5000),
            ("100m", "100m", 1, 100),
            ("1000m", "1", 1, 1000),
            ("1500m", "1500m", 2, 1500),
            ("1024Ki", "1Mi", 1 << 20, 1000 << 20),
            ("1.5Gi", "1536Mi", 3 << 29, 3000 << 29),
            ("512Mi", "512Mi", 512 << 20, 512_000 << 20),
            ("1000Ki", "1000Ki", 1_024_000, 1_024_000_000),
            ("0.5Ki", "512", 512, 512_000),
            ("1k", "1k", 1000, 1_000_000),
            ("1000k", "1M", 1_000_000, 1_000_000_000),
            ("12e6", "12e6", 12_000_000, 12_000_000_000),
            ("1e3", "1e3", 1000, 1_000_000),
            ("1E", "1E", 1_000_000_000_000_000_000, i64::MAX),
            ("1E3", "1e3", 1000, 1_000_000),
            ("-1.5", "-1500m", -2, -1500),
            ("+7", "7", 7, 7000),
            ("1n", "1n", 1, 1),
            ("0.1n", "1n", 1, 1),
            ("1.0000000001", "1000000001n", 2, 1001),
            ("100000000000000000000", "9223372036854775807", i64::MAX, i64::MAX),
            ("0.0001Ki", "102400u", 1, 103),
        ] {
            let parsed = q(text);
            assert_eq!(parsed.to_string(), canonical, "{text}");
            assert_eq!((parsed.value(), parsed.milli_value()), (value, milli), "{text}");
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for (text, error) in [
            ("", ParseError::Wrong),
            ("x", ParseError::Wrong),
            ("1x", ParseError::Wrong),
            ("-", ParseError::Wrong),
            (".", ParseError::Number),
            ("1 Gi", ParseError::Wrong),
            ("1ki", ParseError::Suffix),
            ("1mm", ParseError::Suffix),
            ("1e", ParseError::Suffix),
            ("1e+", ParseError::Suffix),
            ("1.2.3", ParseError::Wrong),
        ] {
            assert_eq!(Quantity::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn sums_keep_the_way_of_writing_of_the_first_that_is_not_zero() {
        assert_eq!((q("1Gi") + q("1G")).to_string(), "2073741824");
        assert_eq!((q("0") + q("1Gi")).to_string(), "1Gi");
        assert_eq!((q("2") - q("500m")).to_string(), "1500m");
        assert!(q("1000m") == q("1") && q("1Ki") > q("1k"));
    }

    proptest! {
        #[test]
        fn the_canonical_form_is_the_same_amount(nano in -MAX..MAX, format in 0..3_usize) {
            let format = [Format::DecimalSi, Format::BinarySi, Format::DecimalExponent][format];
            let one = Quantity { nano, format };
            let text = one.to_string();
            let again = q(&text);
            prop_assert_eq!(again, one);
            prop_assert_eq!(again.to_string(), text);
        }

        #[test]
        fn parsing_never_panics(text in "[+-]?[0-9.]{0,40}[eEinumkKMGTP]{0,3}[-+]?[0-9]{0,12}") {
            if let Ok(parsed) = Quantity::parse(&text) {
                prop_assert_eq!(q(&parsed.to_string()).to_string(), parsed.to_string());
            }
        }

        #[test]
        fn adding_and_taking_away_undo_each_other(a in any::<i32>(), b in any::<i32>()) {
            let (a, b) = (Quantity::from_milli(a.into(), Format::DecimalSi), Quantity::from_milli(b.into(), Format::DecimalSi));
            prop_assert_eq!(a + b - b, a);
        }
    }
}
