//! Replaces the strings and numbers of real data by others of their kind, so that a fixture shows the shape of an event and
//! nothing of a person. Lengths, formats, keys and the order of everything stay; values that are equal stay equal.

use std::collections::HashMap;
use std::fmt::Write as _;

use anyhow::Context as _;
use eye_event::envelope::timestamp;
use ring::rand::{SecureRandom, SystemRandom};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// Levels of nesting. A gateway takes 64.
const NESTING_MAX: usize = 128;

/// Where the last digit of the seconds stands behind the day of a time.
const SECONDS_AT: usize = 8;

/// Makes disguises. What it has replaced once, it replaces by the same.
pub(super) struct Disguise {
    random: SystemRandom,
    /// Pointers whose values stay, with all that is within.
    keep: Vec<String>,
    known: HashMap<String, String>,
}

/// The members of an object in their order.
struct Members(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Members;
            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// The formats that a text may have, of those that rules ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Uuid,
    Email,
    Url,
    Host,
    Address,
    Time,
    Date,
    /// An amount of money is often sent as text.
    Number,
    Other,
}

fn format_of(text: &str) -> Format {
    let is_host = |text: &str| {
        text.contains('.')
            && text.split('.').all(|label| {
                !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            })
            && text
                .rsplit('.')
                .next()
                .is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_alphabetic()) && last.len() > 1)
    };
    if text.len() == 36 && text.parse::<uuid::Uuid>().is_ok() {
        return Format::Uuid;
    }
    if text.parse::<std::net::IpAddr>().is_ok() {
        return Format::Address;
    }
    if text.len() == 10 && timestamp::parse(&format!("{text} 00:00:00")).is_some() {
        return Format::Date;
    }
    if timestamp::parse(text).is_some() {
        return Format::Time;
    }
    if text.contains("://") && !text.contains(char::is_whitespace) {
        return Format::Url;
    }
    match text.rsplit_once('@') {
        Some((local, host)) if !local.is_empty() && is_host(host) && !text.contains(char::is_whitespace) => {
            Format::Email
        }
        _ if is_host(text) => Format::Host,
        _ if serde_json::from_str::<&RawValue>(text).is_ok_and(|raw| raw.get() == text && is_number(text)) => {
            Format::Number
        }
        _ => Format::Other,
    }
}

/// Whether JSON text is that of a number.
fn is_number(json: &str) -> bool {
    json.starts_with(|first: char| first == '-' || first.is_ascii_digit())
}

impl Disguise {
    pub(super) fn new(keep: Vec<String>) -> Self {
        Self { random: SystemRandom::new(), keep, known: HashMap::new() }
    }

    /// The text of data in disguise.
    pub(super) fn data(&mut self, data: &RawValue) -> anyhow::Result<Box<RawValue>> {
        let mut text = String::with_capacity(data.get().len());
        self.value(data, &mut String::new(), 0, &mut text)?;
        RawValue::from_string(text).context("the data in disguise")
    }

    fn value(&mut self, value: &RawValue, at: &mut String, depth: usize, text: &mut String) -> anyhow::Result<()> {
        anyhow::ensure!(depth <= NESTING_MAX, "data is nested more than {NESTING_MAX} deep");
        let raw = value.get();
        if self.keep.contains(at) {
            text.push_str(raw);
            return Ok(());
        }
        match raw.as_bytes().first() {
            Some(b'{') => self.object(raw, at, depth, text),
            Some(b'[') => {
                let list: Vec<Box<RawValue>> = serde_json::from_str(raw)?;
                text.push('[');
                for (index, element) in list.iter().enumerate() {
                    if index > 0 {
                        text.push(',');
                    }
                    let length = at.len();
                    write!(at, "/{index}")?;
                    self.value(element, at, depth + 1, text)?;
                    at.truncate(length);
                }
                text.push(']');
                Ok(())
            }
            Some(b'"') => {
                let content: String = serde_json::from_str(raw)?;
                let other = self.text(&content);
                text.push_str(&serde_json::to_string(&other)?);
                Ok(())
            }
            _ if is_number(raw) => {
                let other = self.known_or(raw, |own, raw| own.number(raw));
                text.push_str(&other);
                Ok(())
            }
            // true, false and null are of one kind each.
            _ => {
                text.push_str(raw);
                Ok(())
            }
        }
    }

    fn object(&mut self, raw: &str, at: &mut String, depth: usize, text: &mut String) -> anyhow::Result<()> {
        let Members(members) = serde_json::from_str(raw)?;
        text.push('{');
        for (index, (key, value)) in members.iter().enumerate() {
            if index > 0 {
                text.push(',');
            }
            let length = at.len();
            write!(at, "/{}", key.replace('~', "~0").replace('/', "~1"))?;
            // A key that looks like a value is one: a table by e-mail address or id.
            let is_plain = matches!(format_of(key), Format::Number | Format::Other);
            let is_value = !is_plain && !self.keep.contains(at);
            let shown = if is_value { self.text(key) } else { key.clone() };
            write!(text, "{}:", serde_json::to_string(&shown)?)?;
            self.value(value, at, depth + 1, text)?;
            at.truncate(length);
        }
        text.push('}');
        Ok(())
    }

    fn known_or(&mut self, text: &str, make: impl FnOnce(&Self, &str) -> String) -> String {
        if let Some(known) = self.known.get(text) {
            return known.clone();
        }
        let made = make(self, text);
        self.known.insert(text.to_owned(), made.clone());
        made
    }

    fn text(&mut self, text: &str) -> String {
        self.known_or(text, |own, text| match format_of(text) {
            Format::Uuid => own.hexadecimal(text),
            Format::Email => {
                format!("{}@shop.example", own.letters(text.rsplit_once('@').map_or(text, |(local, _)| local)))
            }
            Format::Url => own.url(text),
            Format::Host => format!("{}.example", own.letters(text.split('.').next().unwrap_or_default())),
            Format::Address if text.contains(':') => format!("2001:db8::{:x}", own.below(0xffff) + 1),
            Format::Address => format!("192.0.2.{}", own.below(254) + 1),
            Format::Time => own.moved(text, 8),
            Format::Date => own.moved(text, 8),
            Format::Number => own.number(text),
            Format::Other => own.letters(text),
        })
    }

    /// A number below `bound`.
    fn below(&self, bound: u32) -> u32 {
        let mut bytes = [0; 4];
        // Without randomness of the system no token could be made either.
        self.random.fill(&mut bytes).expect("the system has randomness");
        u32::from_le_bytes(bytes) % bound.max(1)
    }

    fn of(&self, characters: &[u8]) -> char {
        let place = self.below(u32::try_from(characters.len()).unwrap_or(1)) as usize;
        characters.get(place).copied().map_or('x', char::from)
    }

    /// A text of the same length: each letter and digit becomes another of its kind, signs and spaces stay.
    fn letters(&self, text: &str) -> String {
        let other = |character: char| match character {
            'a'..='z' => self.of(b"abcdefghijklmnopqrstuvwxyz"),
            'A'..='Z' => self.of(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
            '0'..='9' => self.of(b"0123456789"),
            _ if character.is_alphabetic() || character.is_numeric() => {
                // A letter with as many bytes, since limits may count those.
                match character.len_utf8() {
                    2 => '\u{e9}',
                    3 => '\u{4e2d}',
                    _ => '\u{20000}',
                }
            }
            other => other,
        };
        text.chars().map(other).collect()
    }

    fn hexadecimal(&self, text: &str) -> String {
        let other = |(place, character): (usize, char)| match character {
            // These say which version and variant of a UUID it is.
            '0'..='9' | 'a'..='f' if place == 14 || place == 19 => character,
            '0'..='9' | 'a'..='f' => self.of(b"0123456789abcdef"),
            'A'..='F' => self.of(b"ABCDEF"),
            other => other,
        };
        text.chars().enumerate().map(other).collect()
    }

    fn url(&self, text: &str) -> String {
        let (scheme, rest) = text.split_once("://").unwrap_or(("https", text));
        let path = rest.find(['/', '?', '#']).map_or("", |at| &rest[at..]);
        // Escapes of a path would become others that are none.
        let path: String = path.chars().filter(|character| *character != '%').collect();
        format!("{scheme}://shop.example{}", self.letters(&path))
    }

    /// A date or a time with another day, and other digits behind the minutes.
    fn moved(&self, text: &str, day_at: usize) -> String {
        let mut moved = String::with_capacity(text.len());
        let day = format!("{:02}", self.below(28) + 1);
        moved.push_str(text.get(..day_at).unwrap_or_default());
        moved.push_str(&day);
        let mut in_fraction = false;
        for (place, character) in text.get(day_at + 2..).unwrap_or_default().chars().enumerate() {
            in_fraction = character == '.' || (in_fraction && character.is_ascii_digit());
            let is_other = character.is_ascii_digit() && (place == SECONDS_AT || in_fraction);
            moved.push(if is_other { self.of(b"0123456789") } else { character });
        }
        moved
    }

    /// A number of the same length: sign, point and exponent stay, and a digit at either end is 0 only if it was, so that the
    /// number has as many digits and places.
    fn number(&self, raw: &str) -> String {
        let exponent = raw.find(['e', 'E']).unwrap_or(raw.len());
        let is_digit = |byte: &u8| byte.is_ascii_digit();
        let digits = raw.as_bytes().get(..exponent).unwrap_or_default();
        let (first, last) = (digits.iter().position(is_digit), digits.iter().rposition(is_digit));
        let other = |(place, character): (usize, char)| match character {
            '0'..='9' if place < exponent => match (Some(place) == first || Some(place) == last, character) {
                (true, '0') => '0',
                (true, _) => self.of(b"123456789"),
                (false, _) => self.of(b"0123456789"),
            },
            other => other,
        };
        raw.chars().enumerate().map(other).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disguised(data: &str, keep: &[&str]) -> serde_json::Value {
        let raw = RawValue::from_string(data.to_owned()).expect("JSON");
        let mut disguise = Disguise::new(keep.iter().map(|&one| one.to_owned()).collect());
        serde_json::from_str(disguise.data(&raw).expect("disguised").get()).expect("JSON")
    }

    #[test]
    fn every_value_becomes_another_of_its_kind() {
        let data = r#"{"name":"Ada Lovelace","mail":"ada@corp.test.org","id":"0198c8b2-41d7-7e0a-9c35-7d2f60a1b9e4",
            "page":"https://corp.test/a/b?c=d","host":"www.corp.test","from":"198.51.100.7","day":"2026-01-31",
            "at":"2026-01-05T09:15:27.358383Z","sku":"ABC-1234","n":-120.50,"zero":0,"big":12345678901234567890,"ok":true,"no":null,
            "list":["Ada Lovelace",{"deep":"secret words"}],"e":""}"#;
        let (before, after) = (serde_json::from_str::<serde_json::Value>(data).expect("JSON"), disguised(data, &[]));
        let text = after.to_string();
        for secret in ["Ada", "Lovelace", "corp", "secret", "198.51", "41d7", "358383"] {
            assert!(!text.contains(secret), "{secret}: {text}");
        }
        let format = |key: &str| format_of(after[key].as_str().expect("a text"));
        assert_eq!(
            ["id", "mail", "page", "host", "from", "day", "at"].map(format),
            [Format::Uuid, Format::Email, Format::Url, Format::Host, Format::Address, Format::Date, Format::Time]
        );
        let length = |value: &serde_json::Value, key: &str| value[key].as_str().map(str::len);
        for key in ["name", "id", "day", "at", "sku", "e"] {
            assert_eq!(length(&before, key), length(&after, key), "{key}");
        }
        let sku = after["sku"].as_str().expect("a text");
        assert!(sku[..3].bytes().all(|byte| byte.is_ascii_uppercase()) && sku.as_bytes()[3] == b'-', "{sku}");
        assert_eq!(
            (&after["zero"], &after["ok"], &after["no"], &after["e"]),
            (&0.into(), &true.into(), &serde_json::Value::Null, &"".into())
        );
        assert!(after["n"].as_f64().is_some_and(|n| n <= -100.0 && n > -1000.0), "{}", after["n"]);
        assert_eq!(after["list"][0], after["name"], "equal values stay equal");
        assert_eq!(
            before.as_object().map(|all| all.keys().collect::<Vec<_>>()),
            after.as_object().map(|all| all.keys().collect::<Vec<_>>())
        );
    }

    #[test]
    fn what_is_kept_stays_to_the_letter_and_keys_that_are_values_do_not() {
        let data = r#"{"currency":"EUR","lines":[{"n":1.50},{"n":7}],"by":{"ada@corp.test":1}}"#;
        let raw = RawValue::from_string(data.to_owned()).expect("JSON");
        let keep = vec!["/currency".to_owned(), "/lines/0".to_owned()];
        let text = Disguise::new(keep).data(&raw).expect("disguised").get().to_owned();
        assert!(text.starts_with(r#"{"currency":"EUR","lines":[{"n":1.50},{"n":"#), "{text}");
        assert!(!text.contains("ada@corp"), "{text}");
    }

    #[test]
    fn a_number_as_text_stays_one_whatever_is_drawn() {
        for _ in 0..200 {
            let other = disguised(r#"{"total":"4711.25","same":4711.25,"by":{"12":"-0.5","x":"0012"}}"#, &[]);
            let text = other["total"].as_str().expect("a text");
            assert!(text.len() == 7 && !text.starts_with('0') && text.parse::<f64>().is_ok(), "{text}");
            assert_eq!(other["same"].to_string(), text, "equal values stay equal");
            assert!(other["by"]["12"].as_str().is_some_and(|text| text.starts_with("-0.")), "{other}");
        }
    }

    #[test]
    fn a_time_stays_one_whatever_is_drawn() {
        for _ in 0..200 {
            for time in [
                "2026-02-28T23:59:59Z",
                "2026-01-05 09:15:27",
                "2026-01-05T09:15:27.5+02:00",
                "2024-02-29T00:00:00.123456Z",
            ] {
                let disguise = Disguise::new(Vec::new());
                let moved = disguise.moved(time, 8);
                assert!(timestamp::parse(&moved).is_some() && moved.len() == time.len(), "{time}: {moved}");
            }
        }
    }
}
