//! The notations of time that an event may use: RFC 3339, and `YYYY-MM-DD HH:MM:SS[.ffffff]` without a zone, which
//! means UTC. [`parse`] cuts digits beyond the microsecond.

use chrono::NaiveDate;

/// The instants in UTC that the gateway can write again: from the year 0001 on, and before the year 10000.
const INSTANTS_US: std::ops::Range<i64> = -62_135_596_800_000_000..253_402_300_800_000_000;

/// Returns microseconds since 1970. Returns `None` if `text` is in neither notation, or if its instant lies outside the
/// years 0001 to 9999 of UTC.
pub fn parse(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    if bytes.len() < 19 || bytes[4] != b'-' || bytes[7] != b'-' || bytes[13] != b':' || bytes[16] != b':' {
        return None;
    }
    let date = NaiveDate::from_ymd_opt(number(&bytes[..4])?, number(&bytes[5..7])?, number(&bytes[8..10])?)?;
    let (hour, minute, second): (i64, i64, i64) =
        (number(&bytes[11..13])?, number(&bytes[14..16])?, number(&bytes[17..19])?);
    // Second 60 is a leap second; it becomes the first of the next minute, as in Postgres.
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let (fraction_us, rest) = fraction(&bytes[19..])?;
    let offset_minutes = match rest {
        [] if bytes[10] == b' ' => 0,
        [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), zone @ ..] if zone.len() == 5 && zone[2] == b':' => {
            let (hours, minutes): (i64, i64) = (number(&zone[..2])?, number(&zone[3..])?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            (hours * 60 + minutes) * if *sign == b'-' { -1 } else { 1 }
        }
        _ => return None,
    };
    if !matches!(bytes[10], b'T' | b't' | b' ') {
        return None;
    }
    let days = i64::from(date.to_epoch_days());
    let seconds = days * 86_400 + hour * 3_600 + (minute - offset_minutes) * 60 + second;
    Some(seconds * 1_000_000 + fraction_us).filter(|instant| INSTANTS_US.contains(instant))
}

fn number<T: TryFrom<u32>>(digits: &[u8]) -> Option<T> {
    let mut value = 0_u32;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        value = value * 10 + u32::from(digit - b'0');
    }
    T::try_from(value).ok()
}

/// The microseconds of `.fff`, or 0 without a fraction, and the rest of the bytes.
fn fraction(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let [b'.', digits @ ..] = bytes else { return Some((0, bytes)) };
    let length = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let kept: i64 = number(&digits[..length.min(6)])?;
    let scale = 10_i64.pow(6 - u32::try_from(length.min(6)).expect("at most six"));
    (length > 0).then_some((kept * scale, &digits[length..]))
}

#[cfg(test)]
mod tests {
    use super::{INSTANTS_US, parse};

    #[test]
    fn both_notations_are_read_to_the_microsecond() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1970-01-01 00:00:01", 1_000_000),
            ("1970-01-01 00:00:00.000001", 1),
            ("1970-01-01T00:00:00.1234567Z", 123_456),
            ("1970-01-01T01:00:00+01:00", 0),
            ("1969-12-31t23:59:59.5z", -500_000),
            ("2000-02-29T00:00:00-00:30", 951_784_200_000_000),
            ("2016-12-31T23:59:60Z", 1_483_228_800_000_000),
            ("0001-01-01T00:00:00Z", INSTANTS_US.start),
            ("0001-01-01 00:00:00", INSTANTS_US.start),
            ("0000-12-31T23:00:00-01:00", INSTANTS_US.start),
            ("9999-12-31T23:59:59.999999Z", INSTANTS_US.end - 1),
        ] {
            assert_eq!(parse(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for text in [
            "",
            "now",
            "1609492527",
            "2021-01-01",
            "2021-01-01T00:00:00",
            "2021-02-30T00:00:00Z",
            "2021-01-01T24:00:00Z",
            "2021-01-01T00:00:00.Z",
            "2021-01-01T00:00:00+0100",
            "2021-01-01T00:00:00 Z",
            "01/01/2021 00:00:00",
            "2021-01-01T00:00:61Z",
            "+021-01-01T00:00:00Z",
            "2021-01-01T00:00:00é",
            "2021-01-01é00:00:00",
            "0000-01-01T00:00:00+14:00",
            "0000-12-31 23:59:59.999999",
            "0001-01-01T00:00:00+00:01",
            "0001-01-01T13:59:59+14:00",
            "9999-12-31T23:59:60Z",
            "9999-12-31T23:59:59-00:01",
            "9999-12-31T10:00:00-14:00",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
