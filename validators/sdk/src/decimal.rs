//! Decimal numbers, for amounts of money: 19.99 is 19.99 and no binary fraction near it.

use std::cmp::Ordering;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, Unexpected};

use crate::json::{RAW_NUMBER, raw_text, unescape};

/// Digits of a decimal number, before and after the point together.
const DIGITS_MAX: u32 = 38;

/// A decimal number of up to 38 digits, exact. As a field it takes a JSON number (`19.99`) or a string of one
/// (`"19.99"`), and never goes by way of a float.
///
/// ```
/// use eye_validator::Decimal;
///
/// let price = Decimal::parse("19.990").expect("a decimal number");
/// assert_eq!(price, Decimal::of("19.99"));
/// assert_eq!((price.places(), price.units(2)), (2, Some(1999)));
/// assert!(price < Decimal::of("20"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Decimal {
    /// The number is `units` / 10^`places`. The last digit after the point is not 0.
    units: i128,
    places: u32,
}

impl Decimal {
    /// Zero.
    pub const ZERO: Self = Self { units: 0, places: 0 };

    /// The number of a text in the source: a wrong one does not compile where the result is a constant.
    ///
    /// # Panics
    ///
    /// If the text is no decimal number.
    pub const fn of(text: &str) -> Self {
        match Self::parse(text) {
            Some(decimal) => decimal,
            None => panic!("this is no decimal number"),
        }
    }

    /// Reads a number such as `-1234.50` or `1.5e3`: as JSON writes numbers, 38 digits at most.
    pub const fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let negative = !bytes.is_empty() && bytes[0] == b'-';
        let start = if negative { 1 } else { 0 };
        let (mut at, mut units, mut digits, mut places) = (start, 0i128, 0u32, 0i32);
        let (mut point, mut any) = (usize::MAX, false);
        while at < bytes.len() && (bytes[at].is_ascii_digit() || (bytes[at] == b'.' && point == usize::MAX)) {
            if bytes[at] == b'.' {
                point = at;
                if !any {
                    return None;
                }
            } else {
                if at == start + 1 && bytes[start] == b'0' {
                    return None;
                }
                any = true;
                digits += (units != 0 || bytes[at] != b'0') as u32;
                if digits > DIGITS_MAX {
                    return None;
                }
                units = units * 10 + (bytes[at] - b'0') as i128;
                places += (point != usize::MAX) as i32;
                if places > DIGITS_MAX as i32 {
                    return None;
                }
            }
            at += 1;
        }
        if !any || point == at - 1 {
            return None;
        }
        let Some(exponent) = exponent(bytes, at) else { return None };
        if negative {
            units = -units;
        }
        Self::scaled(units, places - exponent)
    }

    /// The number `units` / 10^`places`, if it has 38 digits at most.
    const fn scaled(mut units: i128, mut places: i32) -> Option<Self> {
        while units != 0 && units % 10 == 0 && places > 0 {
            units /= 10;
            places -= 1;
        }
        if units == 0 {
            return Some(Self::ZERO);
        }
        while places < 0 {
            match units.checked_mul(10) {
                Some(more) if more.unsigned_abs() < 10u128.pow(DIGITS_MAX) => units = more,
                _ => return None,
            }
            places += 1;
        }
        if places > DIGITS_MAX as i32 {
            return None;
        }
        Some(Self { units, places: places.unsigned_abs() })
    }

    /// Digits after the point, without zeros at the end: 2 for 19.99, 0 for 20.00.
    pub const fn places(self) -> u32 {
        self.places
    }

    /// The number in parts of 10^`places`, such as cents for 2. `None` if it has more places, or is too large.
    pub const fn units(self, places: u32) -> Option<i128> {
        if places < self.places || places > DIGITS_MAX {
            return None;
        }
        self.units.checked_mul(10i128.pow(places - self.places))
    }
}

/// The exponent at a place of a number, if what stands there is one or nothing.
const fn exponent(bytes: &[u8], mut at: usize) -> Option<i32> {
    if at == bytes.len() {
        return Some(0);
    }
    if bytes[at] != b'e' && bytes[at] != b'E' {
        return None;
    }
    at += 1;
    let negative = at < bytes.len() && bytes[at] == b'-';
    if at < bytes.len() && (bytes[at] == b'-' || bytes[at] == b'+') {
        at += 1;
    }
    if at == bytes.len() {
        return None;
    }
    let mut exponent = 0;
    while at < bytes.len() {
        if !bytes[at].is_ascii_digit() {
            return None;
        }
        // No number of 38 digits has such an exponent.
        if exponent < 1_000 {
            exponent = exponent * 10 + (bytes[at] - b'0') as i32;
        }
        at += 1;
    }
    Some(if negative { -exponent } else { exponent })
}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        let whole = |one: &Self| one.units / 10i128.pow(one.places);
        let part = |one: &Self| (one.units % 10i128.pow(one.places)) * 10i128.pow(DIGITS_MAX - one.places);
        whole(self).cmp(&whole(other)).then_with(|| part(self).cmp(&part(other)))
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places = self.places as usize;
        let digits = format!("{:0>1$}", self.units.unsigned_abs(), places + 1);
        let (whole, part) = digits.split_at(digits.len() - places);
        let sign = if self.units < 0 { "-" } else { "" };
        write!(f, "{sign}{whole}{}{part}", if places > 0 { "." } else { "" })
    }
}

impl<'de> Deserialize<'de> for Decimal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = raw_text(deserializer, RAW_NUMBER)?;
        let expected = &"a decimal number such as 19.99";
        let found = match text.as_bytes().first() {
            Some(b'"') => {
                let wrong = || D::Error::invalid_value(Unexpected::Other("another text"), expected);
                return Self::parse(&unescape(text)).ok_or_else(wrong);
            }
            Some(b'-' | b'0'..=b'9') => {
                let wrong = || D::Error::invalid_value(Unexpected::Other("another number"), expected);
                return Self::parse(text).ok_or_else(wrong);
            }
            Some(b'{') => Unexpected::Map,
            Some(b'[') => Unexpected::Seq,
            Some(b'n') => Unexpected::Unit,
            _ => Unexpected::Bool(text == "true"),
        };
        Err(D::Error::invalid_type(found, expected))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_exact_and_shown_as_people_write_them() {
        for (text, shown) in [
            ("19.99", "19.99"),
            ("-0.10", "-0.1"),
            ("0.00", "0"),
            ("-0", "0"),
            ("1.5e3", "1500"),
            ("12E-4", "0.0012"),
            ("99999999999999999999999999999999999999", "99999999999999999999999999999999999999"),
            ("0.00000000000000000000000000000000000001", "0.00000000000000000000000000000000000001"),
        ] {
            assert_eq!(Decimal::parse(text).map(|it| it.to_string()).as_deref(), Some(shown), "{text}");
        }
    }

    #[test]
    fn what_is_no_number_or_has_too_many_digits_is_none() {
        let long = "1".repeat(39);
        let tiny = format!("0.{}1", "0".repeat(38));
        for text in [
            "",
            "-",
            ".",
            ".5",
            "5.",
            "1.2.3",
            "01",
            "-01.5",
            "+1",
            "1e",
            "1e+",
            "1e1x",
            "19,99",
            " 1",
            "1 ",
            "NaN",
            "1e99",
            "1e-99",
            "1e999999999999",
            "0x10",
            "\u{661}",
            &long,
            &tiny,
        ] {
            assert_eq!(Decimal::parse(text), None, "{text:?}");
        }
        assert_eq!(Decimal::parse("0e999999999999"), Some(Decimal::ZERO));
    }

    #[test]
    fn order_is_that_of_the_numbers() {
        let numbers = [
            "-99999999999999999999999999999999999999",
            "-1.01",
            "-1",
            "-0.5",
            "0",
            "0.00000000000000000000000000000000000001",
            "0.5",
            "1",
            "1.01",
            "99999999999999999999999999999999999999",
        ];
        for (at, one) in numbers.iter().enumerate() {
            for (other_at, other) in numbers.iter().enumerate() {
                assert_eq!(Decimal::of(one).cmp(&Decimal::of(other)), at.cmp(&other_at), "{one} {other}");
            }
        }
    }

    #[test]
    fn units_are_whole_or_none() {
        assert_eq!(Decimal::of("19.99").units(2), Some(1999));
        assert_eq!(Decimal::of("19.99").units(1), None);
        assert_eq!(Decimal::of("20").units(2), Some(2000));
        assert_eq!(Decimal::of("99999999999999999999999999999999999999").units(3), None);
    }

    #[test]
    fn every_decimal_fraction_of_cents_is_read_as_itself() {
        for cents in 0..20_000 {
            let text = format!("{}.{:02}", cents / 100, cents % 100);
            assert_eq!(Decimal::parse(&text).and_then(|it| it.units(2)), Some(cents), "{text}");
        }
    }
}
