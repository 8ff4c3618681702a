//! The parameters of a read. The gateway decodes each, rejects those that the path does not know or that come twice,
//! and checks the values. A refusal names the parameter and the values that it may have.

use eye_event::envelope::timestamp;
use percent_encoding::percent_decode;
use serde_json::Value;
use uuid::Uuid;

use crate::response::Refusal;

/// Most characters of a category, a name or an application.
const WORD_CHARACTERS_MAX: usize = 200;

/// The parameters of a query string, decoded.
#[derive(Debug)]
pub(crate) struct Parameters(Vec<(&'static str, String)>);

impl Parameters {
    /// Reads a query string that may have the parameters in `known`. It rejects an empty value: such a value would
    /// select everything, which a reader who wrote it did not want.
    pub(crate) fn read(query: Option<&str>, known: &[&'static str]) -> Result<Self, Refusal> {
        let mut read: Vec<(&'static str, String)> = Vec::new();
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (key, value) = (decoded(key, key)?, decoded(key, value)?);
            let Some(name) = known.iter().find(|name| **name == key) else {
                return Err(bad(&key, &format!("is not known here; this path takes {}", listed(known))));
            };
            if read.iter().any(|(given, _)| given == name) {
                return Err(bad(name, "is given twice; give it once"));
            }
            if value.is_empty() {
                return Err(bad(name, "is empty; give it a value, or leave it out to choose all"));
            }
            read.push((name, value));
        }
        Ok(Self(read))
    }

    /// Reads the same from the members of a JSON object, each of which must be a string.
    pub(crate) fn of(members: serde_json::Map<String, Value>, known: &[&'static str]) -> Result<Self, Refusal> {
        let mut read = Vec::new();
        for (key, value) in members {
            let Some(name) = known.iter().find(|name| **name == key) else {
                return Err(bad(&key, &format!("is not known here; known are {}", listed(known))));
            };
            match value {
                Value::String(value) if !value.is_empty() => read.push((*name, value)),
                _ => return Err(bad(name, "must be a text that is not empty; leave it out to choose all")),
            }
        }
        Ok(Self(read))
    }

    /// Identifies the query among others, for cursors: all parameters except the size and the place of the page.
    pub(crate) fn told(&self) -> String {
        let mut told: Vec<String> = self
            .0
            .iter()
            .filter(|(name, _)| !matches!(*name, "limit" | "cursor"))
            .map(|(name, value)| format!("{name}={value}\0"))
            .collect();
        told.sort();
        told.concat()
    }

    /// The text of a parameter, or `None` if the query does not have it.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(given, _)| *given == name).map(|(_, value)| value.as_str())
    }

    /// A category, a name or an application.
    pub(crate) fn word(&self, name: &str) -> Result<Option<String>, Refusal> {
        self.text(name).map(|text| word(name, text)).transpose()
    }

    /// A time, in microseconds since 1970.
    pub(crate) fn time(&self, name: &str) -> Result<Option<i64>, Refusal> {
        let wanted = "must be a time such as 2026-11-23T18:00:00Z (with a `+` of its zone written as %2B)";
        self.text(name).map(|text| timestamp::parse(text).ok_or_else(|| bad(name, wanted))).transpose()
    }

    /// The two ends of a range. Both are optional.
    pub(crate) fn range(&self) -> Result<(Option<i64>, Option<i64>), Refusal> {
        let (from_us, to_us) = (self.time("from")?, self.time("to")?);
        if let (Some(from_us), Some(to_us)) = (from_us, to_us)
            && from_us >= to_us
        {
            return Err(bad("to", "must be later than `from`; the range holds what is from `from` on and before `to`"));
        }
        Ok((from_us, to_us))
    }

    /// A UUID.
    pub(crate) fn id(&self, name: &str) -> Result<Option<Uuid>, Refusal> {
        self.text(name).map(|text| id(name, text)).transpose()
    }

    /// The number of rows to return: `usual` without the parameter, and at most `most`.
    pub(crate) fn limit(&self, usual: u32, most: u32) -> Result<u32, Refusal> {
        let Some(text) = self.text("limit") else { return Ok(usual) };
        let number = text.parse().ok().filter(|number| (1..=most).contains(number));
        number.ok_or_else(|| bad("limit", &format!("must be a whole number from 1 to {most}")))
    }

    /// One of several words. The first is the default.
    pub(crate) fn choice<T: Copy>(&self, name: &str, choices: &[(&'static str, T)]) -> Result<T, Refusal> {
        let words: Vec<&'static str> = choices.iter().map(|(word, _)| *word).collect();
        let wanted = self.text(name).or(words.first().copied()).unwrap_or_default();
        let found = choices.iter().find(|(word, _)| *word == wanted);
        found.map(|(_, choice)| *choice).ok_or_else(|| bad(name, &format!("must be one of {}", listed(&words))))
    }
}

/// Parses a UUID in a path or a query.
pub(crate) fn id(name: &str, text: &str) -> Result<Uuid, Refusal> {
    Uuid::try_parse(text).map_err(|_| bad(name, "must be a UUID, such as e2085be5-9137-4e4e-80b5-f1ffddc25423"))
}

/// Checks a category, a name or an application in a path or a query. No event has one that fails this check.
pub(crate) fn word(name: &str, text: &str) -> Result<String, Refusal> {
    let fits = text.chars().count() <= WORD_CHARACTERS_MAX && !text.chars().any(char::is_control);
    let wanted = "must be 1 to 200 characters without control characters";
    if fits { Ok(text.to_owned()) } else { Err(bad(name, wanted)) }
}

/// The refusal of a parameter.
pub(crate) fn bad(name: &str, message: &str) -> Refusal {
    Refusal::BadParameter { name: name.chars().take(100).collect(), message: message.to_owned().into() }
}

fn listed(words: &[&str]) -> String {
    match words {
        [] => "no parameters".to_owned(),
        [one] => format!("`{one}`"),
        [most @ .., last] => format!("`{}` and `{last}`", most.join("`, `")),
    }
}

/// Undoes the encoding that forms and links apply to text.
fn decoded(name: &str, text: &str) -> Result<String, Refusal> {
    let spaced = text.replace('+', " ");
    let text = percent_decode(spaced.as_bytes()).decode_utf8();
    text.map(Into::into).map_err(|_| bad(name, "must be UTF-8, percent-encoded"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(query: &str) -> (String, String) {
        let read = |query| {
            let parameters = Parameters::read(Some(query), &["limit", "from", "to", "order", "name", "id"])?;
            parameters.limit(1, 5)?;
            parameters.range()?;
            parameters.word("name")?;
            parameters.id("id")?;
            parameters.choice("order", &[("asc", 1), ("desc", 2)])
        };
        match read(query) {
            Err(Refusal::BadParameter { name, message }) => (name.into_owned(), message.into_owned()),
            other => panic!("{query}: {other:?}"),
        }
    }

    #[test]
    fn values_are_decoded() {
        let read = Parameters::read(
            Some("name=page+inter%61ction%26%C3%BC&&from=2026-01-01T00:00:00Z"),
            &["name", "limit", "from"],
        );
        let read = read.expect("good");
        assert_eq!(read.word("name").expect("good").as_deref(), Some("page inter\u{61}ction&\u{fc}"));
        assert_eq!(read.limit(7, 9).expect("good"), 7);
        assert_eq!(read.time("from").expect("good"), Some(1_767_225_600_000_000));
        assert_eq!(read.choice("order", &[("asc", 1), ("desc", 2)]).expect("good"), 1);
    }

    #[test]
    fn what_is_wrong_is_told_with_the_parameter_and_what_it_may_be() {
        for (query, name, message) in [
            ("limit=6", "limit", "from 1 to 5"),
            ("limit=-1", "limit", "from 1 to 5"),
            ("lim%69t=1&limit=1", "limit", "twice"),
            ("limit=", "limit", "leave it out"),
            ("name", "name", "leave it out"),
            ("from=&limit=1", "from", "leave it out"),
            ("colour=1", "colour", "`limit`, `from`, `to`, `order`, `name` and `id`"),
            ("from=yesterday", "from", "must be a time"),
            ("from=2026-01-02T00:00:00Z&to=2026-01-02T00:00:00Z", "to", "later"),
            ("order=up", "order", "`asc` and `desc`"),
            ("name=%FF", "name", "UTF-8"),
            ("name=%00", "name", "control"),
            ("id=7", "id", "UUID"),
        ] {
            let (found, words) = problem(query);
            assert_eq!(found, name, "{query}");
            assert!(words.contains(message), "{query}: {words}");
        }
    }
}
