//! Numbers by their decimal digits, so that no comparison rounds: 19.99 is a multiple of 0.01, and two numbers of forty
//! digits that differ in the last one differ.

use std::cmp::Ordering;

/// A number: its digits, the first of them not 0, times ten to the power of the exponent. Zero has no digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decimal {
    is_negative: bool,
    digits: Vec<u8>,
    exponent: i64,
}

/// Digits of a divisor. A remainder of it and one digit more fit into 128 bits.
const DIVISOR_DIGITS_MAX: usize = 36;

/// A number to divide by.
#[derive(Debug, Clone)]
pub(crate) struct Divisor {
    digits: u128,
    exponent: i64,
}

impl Decimal {
    /// Reads a number as JSON writes it.
    pub(crate) fn read(text: &str) -> Self {
        let (text, is_negative) = text.strip_prefix('-').map_or((text, false), |text| (text, true));
        let (mantissa, power) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let mut exponent = power_of(power);
        let (whole, part) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        exponent = exponent.saturating_sub(i64::try_from(part.len()).unwrap_or(i64::MAX));
        let mut digits: Vec<u8> = whole.bytes().chain(part.bytes()).skip_while(|digit| *digit == b'0').collect();
        while digits.last() == Some(&b'0') {
            digits.pop();
            exponent = exponent.saturating_add(1);
        }
        if digits.is_empty() {
            return Self { is_negative: false, digits, exponent: 0 };
        }
        Self { is_negative, digits, exponent }
    }

    /// Whether it has no part behind the point.
    pub(crate) fn is_whole(&self) -> bool {
        self.exponent >= 0
    }

    pub(crate) fn is_positive(&self) -> bool {
        !self.is_negative && !self.digits.is_empty()
    }

    /// The number, if it is a whole one from 0 on.
    pub(crate) fn to_count(&self) -> Option<u64> {
        if self.is_negative || !self.is_whole() {
            return None;
        }
        let digits = str::from_utf8(&self.digits).ok().filter(|digits| !digits.is_empty()).unwrap_or("0");
        let power = 10_u64.checked_pow(u32::try_from(self.exponent).ok()?)?;
        digits.parse::<u64>().ok()?.checked_mul(power)
    }

    /// The power of ten of the first digit.
    fn magnitude(&self) -> i64 {
        self.exponent.saturating_add(i64::try_from(self.digits.len()).unwrap_or(i64::MAX))
    }

    /// This as a divisor; `None` if it is not above zero or has too many digits.
    pub(crate) fn to_divisor(&self) -> Option<Divisor> {
        if !self.is_positive() || self.digits.len() > DIVISOR_DIGITS_MAX {
            return None;
        }
        let digits = str::from_utf8(&self.digits).ok()?.parse().ok()?;
        Some(Divisor { digits, exponent: self.exponent })
    }

    /// Whether it is a whole number of times `divisor`.
    pub(crate) fn is_multiple_of(&self, divisor: &Divisor) -> bool {
        if self.digits.is_empty() {
            return true;
        }
        // Its last digit is not 0, so no multiple of a number with fewer digits behind the point has more of them.
        let Some(zeros) = self.exponent.checked_sub(divisor.exponent).and_then(|zeros| u64::try_from(zeros).ok())
        else {
            return false;
        };
        let modulus = divisor.digits;
        let digits = self.digits.iter().map(|digit| u128::from(digit - b'0'));
        let mut rest = digits.fold(0, |rest, digit| (rest * 10 + digit) % modulus);
        // From some power of ten on, the rest stays 0 or begins a circle. A divisor of 128 bits has at most 128 twos.
        for _ in 0..zeros.min(128) {
            rest = rest * 10 % modulus;
        }
        rest == 0
    }
}

/// Reads the power of ten of a number. One that fits nowhere is as good as the largest that does.
fn power_of(text: &str) -> i64 {
    const MOST: i64 = 1 << 40;
    let (digits, sign) = match text.strip_prefix('-') {
        Some(digits) => (digits, -1),
        None => (text.strip_prefix('+').unwrap_or(text), 1),
    };
    digits.parse::<i64>().unwrap_or(MOST).min(MOST) * sign
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        let sign = |number: &Self| match (number.digits.is_empty(), number.is_negative) {
            (true, _) => 0,
            (false, true) => -1,
            (false, false) => 1,
        };
        let by_size = || {
            let sizes = self.magnitude().cmp(&other.magnitude()).then_with(|| self.digits.cmp(&other.digits));
            if self.is_negative { sizes.reverse() } else { sizes }
        };
        sign(self).cmp(&sign(other)).then_with(by_size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> Decimal {
        Decimal::read(text)
    }

    #[test]
    fn numbers_compare_by_their_value_however_they_are_written() {
        for (one, other) in [("1", "1.0"), ("100", "1e2"), ("0", "-0.0"), ("0.0025", "25E-4"), ("1e400", "10e399")] {
            assert_eq!(number(one).cmp(&number(other)), Ordering::Equal, "{one} {other}");
            assert_eq!(number(one), number(other));
        }
        for (one, other) in [
            ("-1", "0"),
            ("0.1", "0.11"),
            ("-2", "-1.5"),
            ("9", "10"),
            ("9.99", "1e1"),
            ("12345678901234567890123", "12345678901234567890124"),
            ("1e-5", "1e-4"),
            ("1e400", "1e99999999999999999999"),
        ] {
            assert_eq!(number(one).cmp(&number(other)), Ordering::Less, "{one} {other}");
        }
    }

    #[test]
    fn a_multiple_is_one_to_the_last_digit() {
        for (of, by, is) in [
            ("19.99", "0.01", true),
            ("19.995", "0.01", false),
            ("4.35", "0.01", true),
            ("0", "7", true),
            ("1e308", "0.123456789", false),
            ("1e400", "5", true),
            ("35", "2e1", false),
            ("400", "2e1", true),
            ("0.0075", "0.0001", true),
            ("-9", "3", true),
            ("12391239123", "0.5", true),
            ("1e200", "1267650600228229401496703205376", true),
        ] {
            assert_eq!(number(of).is_multiple_of(&number(by).to_divisor().expect("a divisor")), is, "{of} of {by}");
        }
        assert!(number("0").to_divisor().is_none() && number("-1").to_divisor().is_none());
    }

    #[test]
    fn counts_are_whole_numbers_from_zero_on() {
        assert_eq!(number("2.0").to_count(), Some(2));
        assert_eq!(number("0").to_count(), Some(0));
        assert_eq!(number("3e2").to_count(), Some(300));
        for none in ["-1", "0.5", "1e30"] {
            assert_eq!(number(none).to_count(), None);
        }
    }
}
