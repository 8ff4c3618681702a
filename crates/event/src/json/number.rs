//! Numbers: where one ends in the text, and how Postgres writes it without exponent.

use super::SyntaxError;
use super::text::{byte_at, unexpected};

/// Most digits before the point. Numeric's weight is 16 bits wide and counts groups of four digits: 4 * 2^15 digits.
pub(super) const WHOLE_DIGITS_MAX: i64 = 131_072;

/// Most digits after the point, zeros included. Numeric's display scale is 14 bits wide.
pub(super) const FRACTION_DIGITS_MAX: i64 = 16_383;

/// Postgres rejects an exponent from `INT_MAX / 2` on before it looks at the digits, even those of zero.
const EXPONENT_BOUND: i64 = (i32::MAX / 2) as i64;

/// Where a number ends, and whether it has an exponent.
#[derive(Clone, Copy)]
pub(super) struct Number {
    /// The scan goes on here.
    pub(super) end: usize,
    /// With one, the number may grow when it is written in full, so the scan judges it.
    pub(super) exponent: bool,
}

/// Reads the number that begins, with a sign or a digit, at `at`.
#[inline]
pub(super) fn number_at(bytes: &[u8], mut at: usize) -> Result<Number, SyntaxError> {
    if byte_at(bytes, at) == b'-' {
        at += 1;
    }
    // A number has no leading zeros. A digit after a first 0 is not part of it, and the caller rejects it.
    at = if byte_at(bytes, at) == b'0' { at + 1 } else { digits_end(bytes, at)? };
    if byte_at(bytes, at) == b'.' {
        at = digits_end(bytes, at + 1)?;
    }
    let exponent = matches!(byte_at(bytes, at), b'e' | b'E');
    if exponent {
        at += 1;
        if matches!(byte_at(bytes, at), b'+' | b'-') {
            at += 1;
        }
        at = digits_end(bytes, at)?;
    }
    Ok(Number { end: at, exponent })
}

/// Returns the end of the digits at `at`. There must be one at least.
#[inline]
fn digits_end(bytes: &[u8], mut at: usize) -> Result<usize, SyntaxError> {
    if !byte_at(bytes, at).is_ascii_digit() {
        return Err(unexpected(bytes, at, "expected a digit"));
    }
    while byte_at(bytes, at).is_ascii_digit() {
        at += 1;
    }
    Ok(at)
}

/// A number as Postgres writes its numeric values, without exponent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plain {
    /// Its length in bytes, with sign and point.
    pub(super) bytes: usize,
    /// Its digits on both sides of the point.
    pub(super) digits: usize,
}

impl Plain {
    fn new(is_negative: bool, whole_digits: i64, fraction_digits: i64) -> Option<Self> {
        let digits = usize::try_from(whole_digits + fraction_digits).ok()?;
        Some(Self { bytes: digits + usize::from(is_negative) + usize::from(fraction_digits > 0), digits })
    }
}

/// Returns how a number is written without exponent, or none if numeric cannot hold it.
pub(super) fn plain(number: &[u8]) -> Option<Plain> {
    let mantissa_end = number.iter().position(|byte| matches!(byte, b'e' | b'E')).unwrap_or(number.len());
    let exponent = exponent(number.get(mantissa_end + 1..).unwrap_or_default());
    if exponent.abs() >= EXPONENT_BOUND {
        return None;
    }
    let is_negative = number[0] == b'-';
    let mantissa = &number[usize::from(is_negative)..mantissa_end];
    let point = mantissa.iter().position(|&byte| byte == b'.').unwrap_or(mantissa.len());
    // Zeros at the end of the fraction count: numeric keeps them.
    let fraction_digits = (mantissa.len().saturating_sub(point + 1) as i64 - exponent).max(0);
    if fraction_digits > FRACTION_DIGITS_MAX {
        return None;
    }
    // Leading zeros do not count. A number of zeros alone has no sign either.
    let Some(first) = mantissa.iter().position(|byte| matches!(byte, b'1'..=b'9')) else {
        return Plain::new(false, 1, fraction_digits);
    };
    // Digits before the point, from the first that is not zero on; negative by the zeros after the point.
    let whole_digits = point.saturating_sub(first) as i64 - first.saturating_sub(point + 1) as i64 + exponent;
    if whole_digits > WHOLE_DIGITS_MAX {
        return None;
    }
    Plain::new(is_negative, whole_digits.max(1), fraction_digits)
}

/// Returns the exponent that these digits write, with or without a sign. Beyond 64 bits it stays at the end of that range.
fn exponent(digits: &[u8]) -> i64 {
    let unsigned = digits.strip_prefix(b"+").unwrap_or(digits);
    let (is_negative, unsigned) = match unsigned.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, unsigned),
    };
    let magnitude =
        unsigned.iter().fold(0_i64, |sum, &digit| sum.saturating_mul(10).saturating_add(i64::from(digit - b'0')));
    if is_negative { -magnitude } else { magnitude }
}
