//! The validity of a certificate, read from its DER form. It reads nothing else of the certificate.

use chrono::{DateTime, NaiveDate, Utc};

/// The time in which a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// The first valid moment.
    pub from: DateTime<Utc>,
    /// The last valid moment.
    pub until: DateTime<Utc>,
}

const INTEGER: u8 = 0x02;
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

impl Validity {
    /// Reads the validity of an X.509 certificate. Returns `None` for other bytes.
    pub fn of(certificate: &[u8]) -> Option<Self> {
        let (mut outer, _) = inside(certificate, SEQUENCE)?;
        let mut parts = take(&mut outer, SEQUENCE)?;
        if parts.first() == Some(&VERSION) {
            take(&mut parts, VERSION)?;
        }
        take(&mut parts, INTEGER)?;
        // The algorithm of the signature, and the issuer.
        take(&mut parts, SEQUENCE)?;
        take(&mut parts, SEQUENCE)?;
        let mut times = take(&mut parts, SEQUENCE)?;
        Some(Self { from: time(&mut times)?, until: time(&mut times)? })
    }
}

/// The content of a value of this kind at the beginning of `bytes`, and the bytes after it.
fn inside(bytes: &[u8], kind: u8) -> Option<(&[u8], &[u8])> {
    let (found, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = if first & 0x80 == 0 {
        (usize::from(*first), rest)
    } else {
        let (digits, rest) =
            rest.split_at_checked(usize::from(first & 0x7f)).filter(|(digits, _)| digits.len() <= 4)?;
        (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
    };
    rest.split_at_checked(length).filter(|_| *found == kind)
}

fn take<'a>(bytes: &mut &'a [u8], kind: u8) -> Option<&'a [u8]> {
    let (content, rest) = inside(bytes, kind)?;
    *bytes = rest;
    Some(content)
}

/// Parses `YYMMDDHHMMSSZ`, whose years are 1950 to 2049, or the same with four digits for the year.
fn time(bytes: &mut &[u8]) -> Option<DateTime<Utc>> {
    let (text, digits) = match bytes.first() {
        Some(&UTC_TIME) => (take(bytes, UTC_TIME)?, 2),
        _ => (take(bytes, GENERALIZED_TIME)?, 4),
    };
    let text = std::str::from_utf8(text.strip_suffix(b"Z")?)
        .ok()
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    if text.len() != digits + 10 {
        return None;
    }
    let (year, rest) = text.split_at(digits);
    let year: i32 = year.parse().ok()?;
    let year = match digits {
        2 if year < 50 => 2_000 + year,
        2 => 1_900 + year,
        _ => year,
    };
    let number = |place: usize| rest[place..place + 2].parse::<u32>().ok();
    let date = NaiveDate::from_ymd_opt(year, number(0)?, number(2)?)?;
    Some(date.and_hms_opt(number(4)?, number(6)?, number(8)?)?.and_utc())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn made(from: (i32, u8, u8), until: (i32, u8, u8)) -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["eye.example".to_owned()]).expect("parameters");
        params.not_before = date_time_ymd(from.0, from.1, from.2);
        params.not_after = date_time_ymd(until.0, until.1, until.2);
        let key = KeyPair::generate().expect("a key");
        params.self_signed(&key).expect("a certificate").der().to_vec()
    }

    #[test]
    fn both_ends_are_read_in_either_form_of_a_time() {
        for (from, until) in
            [((2020, 2, 29), (2021, 1, 1)), ((2049, 12, 31), (2050, 1, 1)), ((1999, 1, 1), (4096, 1, 1))]
        {
            let day = |(year, month, day): (i32, u8, u8)| {
                let date = NaiveDate::from_ymd_opt(year, month.into(), day.into()).expect("a day");
                date.and_hms_opt(0, 0, 0).expect("midnight").and_utc()
            };
            assert_eq!(Validity::of(&made(from, until)), Some(Validity { from: day(from), until: day(until) }));
        }
    }

    #[test]
    fn what_is_no_certificate_has_no_validity() {
        let whole = made((2020, 1, 1), (2030, 1, 1));
        for end in 0..whole.len() {
            assert_eq!(Validity::of(&whole[..end]), None, "{end} bytes");
        }
        // A changed byte may make it unreadable, and must not make the reader panic.
        for place in 0..whole.len().min(200) {
            for value in [0, 1, 0x30, 0x7f, 0x80, 0x84, 0x89, 0xff] {
                let mut changed = whole.clone();
                changed[place] = value;
                let _read = Validity::of(&changed);
            }
        }
    }
}
