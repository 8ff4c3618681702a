//! How JSON Schema reads values, where a plain Rust type would read them in another way. What the code does not use may go.

#![allow(dead_code, reason = "a schema uses some of it")]

use std::collections::BTreeSet;

use eye_validator::{Decimal, Json, Object, Verdict, Violations};
use serde::de::{Deserialize, Deserializer, Error};

/// A number with 38 digits at most. More digits are cut off, and larger ones end at the largest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Number(pub Decimal);

/// A whole number, also where it is written `3.0` or `3e2`. Larger ones end at the largest of 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Whole(pub i64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Json::deserialize(deserializer)?;
        match decimal(value.text()) {
            Some(number) => Ok(Self(number)),
            None => Err(D::Error::invalid_type(kind_of(value.text()), &"a number")),
        }
    }
}

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Json::deserialize(deserializer)?;
        let units = decimal(value.text()).map(|number| number.units(0));
        match units {
            Some(Some(units)) => Ok(Self(units.clamp(i64::MIN.into(), i64::MAX.into()) as i64)),
            _ => Err(D::Error::invalid_type(kind_of(value.text()), &"a whole number")),
        }
    }
}

/// What stands there instead, for the message.
fn kind_of(text: &str) -> serde::de::Unexpected<'static> {
    use serde::de::Unexpected;
    match text.as_bytes().first() {
        Some(b'{') => Unexpected::Map,
        Some(b'[') => Unexpected::Seq,
        Some(b'"') => Unexpected::Str(""),
        Some(b't' | b'f') => Unexpected::Bool(true),
        Some(b'n') => Unexpected::Unit,
        _ => Unexpected::Float(0.5),
    }
}

/// The number of a JSON text. Rounding is towards zero, and never makes a whole number of one that is none.
fn decimal(text: &str) -> Option<Decimal> {
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    if !digits.starts_with(|first: char| first.is_ascii_digit()) {
        return None;
    }
    if let Some(exact) = Decimal::parse(text) {
        return Some(exact);
    }
    let (mantissa, exponent) = digits.split_once(['e', 'E']).unwrap_or((digits, "0"));
    let (whole, part) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let exponent = exponent.parse::<i64>().unwrap_or(if exponent.starts_with('-') { -100_000 } else { 100_000 });
    let all = format!("{whole}{part}");
    let significant = all.trim_start_matches('0');
    // The power of ten in front of which the first significant digit stands.
    let size = exponent.clamp(-100_000, 100_000) + whole.len() as i64 - (all.len() - significant.len()) as i64;
    let sign = if negative { "-" } else { "" };
    let number = match size {
        _ if significant.trim_end_matches('0').is_empty() => "0".to_owned(),
        38.. => format!("{sign}{}", "9".repeat(38)),
        // All that is lost is less than the last digit that is kept, and a 1 there says that something was.
        size if size <= -36 => format!("{sign}0.{}1", "0".repeat(36)),
        size if size <= 0 => {
            let zeros = "0".repeat(size.unsigned_abs() as usize);
            let kept: String = significant.chars().take((36 + size) as usize).collect();
            format!("{sign}0.{zeros}{kept}1")
        }
        size => {
            let size = size as usize;
            let padded = format!("{significant:0<size$}");
            let (whole, part) = padded.split_at(size);
            let kept: String = part.chars().take(37 - size.min(37)).collect();
            match part.trim_end_matches('0') {
                "" => format!("{sign}{whole}"),
                _ => format!("{sign}{whole}.{kept}1"),
            }
        }
    };
    Decimal::parse(&number)
}

/// A field that may be missing, and is not null: with `default` and `deserialize_with`.
pub fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// A field that may be null, and is not missing: with `deserialize_with` alone.
pub fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    Option::deserialize(deserializer)
}

/// Whether a text is what the gateway keeps in the place of a secret. It fits wherever a secret does.
pub fn is_redacted(text: &str) -> bool {
    text == "[redacted]"
}

/// The verdict, with `[redacted]` in place of the secrets that are there.
pub fn verdict_without(violations: Violations, data: Object<'_>, secrets: &[&str]) -> Verdict {
    let mut kept = data.clone();
    kept.redact(secrets);
    if kept == data { violations.verdict() } else { violations.verdict_with(&kept) }
}

/// Whether no element comes twice.
pub fn all_differ<T: Ord>(list: &[T]) -> bool {
    let mut seen = BTreeSet::new();
    list.iter().all(|one| seen.insert(one))
}

/// Whether a number is a whole multiple of another.
pub fn is_multiple(number: Decimal, of: Decimal) -> bool {
    let places = number.places().max(of.places());
    match (number.units(places), of.units(places)) {
        (Some(number), Some(of)) => of != 0 && number % of == 0,
        // So large a number has no digits after the point that could be wrong.
        _ => number.places() == 0,
    }
}

/// A date by RFC 3339.
pub fn is_date(text: &str) -> bool {
    let bytes = text.as_bytes();
    if bytes.len() != 10 || bytes[4] != b'-' || bytes[7] != b'-' {
        return false;
    }
    let (Some(year), Some(month), Some(day)) = (number(&bytes[..4]), number(&bytes[5..7]), number(&bytes[8..])) else {
        return false;
    };
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = [31, if is_leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    (1..=12).contains(&month) && (1..=days[month as usize - 1]).contains(&day)
}

/// A time of the day with its zone by RFC 3339. A second 60 is let pass where it is the last of a day in UTC.
pub fn is_time(text: &str) -> bool {
    let bytes = text.as_bytes();
    if bytes.len() < 9 || bytes[2] != b':' || bytes[5] != b':' {
        return false;
    }
    let (Some(hour), Some(minute), Some(second)) = (number(&bytes[..2]), number(&bytes[3..5]), number(&bytes[6..8])) else {
        return false;
    };
    let mut rest = &bytes[8..];
    if let Some(part) = rest.strip_prefix(b".") {
        let digits = part.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits == 0 {
            return false;
        }
        rest = &part[digits..];
    }
    let minutes_ahead = match rest {
        [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), hours @ .., b':', tens, ones] if hours.len() == 2 => {
            let (Some(hours), Some(minutes)) = (number(hours), number(&[*tens, *ones])) else { return false };
            if hours > 23 || minutes > 59 {
                return false;
            }
            (hours * 60 + minutes) * if *sign == b'+' { 1 } else { -1 }
        }
        _ => return false,
    };
    let ends_a_day = (hour * 60 + minute - minutes_ahead).rem_euclid(24 * 60) == 24 * 60 - 1;
    hour < 24 && minute < 60 && (second < 60 || second == 60 && ends_a_day)
}

/// A date and a time by RFC 3339.
pub fn is_date_time(text: &str) -> bool {
    let Some((date, rest)) = text.split_at_checked(10) else { return false };
    is_date(date) && rest.strip_prefix(['T', 't']).is_some_and(is_time)
}

/// An address of IPv4.
pub fn is_ipv4(text: &str) -> bool {
    text.parse::<std::net::Ipv4Addr>().is_ok()
}

/// An address of IPv6.
pub fn is_ipv6(text: &str) -> bool {
    text.parse::<std::net::Ipv6Addr>().is_ok()
}

fn number(digits: &[u8]) -> Option<i32> {
    let all = digits.iter().all(u8::is_ascii_digit);
    all.then(|| digits.iter().fold(0, |number, digit| number * 10 + i32::from(digit - b'0')))
}
