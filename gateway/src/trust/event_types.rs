//! The event types that an application may send: `category/name` or `category/*`. Each part is percent-encoded as in
//! the modules directory, so that a `/` is `%2F` and a literal `*` is `%2A`.

use std::collections::{HashMap, HashSet};

use percent_encoding::percent_decode_str;

/// A set of event types.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct EventTypes(HashMap<String, Names>);

#[derive(Debug, PartialEq, Eq)]
enum Names {
    All,
    Some(HashSet<String>),
}

impl EventTypes {
    /// Parses patterns.
    ///
    /// # Errors
    ///
    /// A sentence about the first wrong pattern.
    pub fn parse<T: AsRef<str>>(patterns: &[T]) -> Result<Self, String> {
        let mut types = Self::default();
        for pattern in patterns {
            let pattern = pattern.as_ref();
            let (category, name) = pattern
                .split_once('/')
                .filter(|(category, name)| !category.is_empty() && !name.is_empty() && !name.contains('/'))
                .ok_or_else(|| format!("`{pattern}` is no event type: write category/name or category/*"))?;
            let decode = |part: &str| {
                let text = percent_decode_str(part).decode_utf8().map_err(|_| format!("`{pattern}` is not UTF-8"));
                text.map(std::borrow::Cow::into_owned)
            };
            let names = types.0.entry(decode(category)?).or_insert_with(|| Names::Some(HashSet::new()));
            match names {
                Names::All => {}
                names if name == "*" => *names = Names::All,
                Names::Some(set) => drop(set.insert(decode(name)?)),
            }
        }
        Ok(types)
    }

    /// Each category, with one of its names, or with `None` for all names.
    pub fn each(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.0.iter().flat_map(|(category, names)| {
            let some = match names {
                Names::All => None,
                Names::Some(names) => Some(names.iter().map(|name| (category.as_str(), Some(name.as_str())))),
            };
            let all = some.is_none().then_some((category.as_str(), None));
            some.into_iter().flatten().chain(all)
        })
    }

    /// Whether all event types of a category are in the set.
    pub fn contains_all(&self, category: &str) -> bool {
        self.0.get(category) == Some(&Names::All)
    }

    /// Whether an event type is in the set.
    pub fn contains(&self, category: &str, name: &str) -> bool {
        match self.0.get(category) {
            None => false,
            Some(Names::All) => true,
            Some(Names::Some(names)) => names.contains(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_or_a_whole_category() {
        let types = EventTypes::parse(&["shop/sale", "shop/return", "page%2Fview/*", "stars/%2A"]).expect("patterns");
        for (category, name, expected) in [
            ("shop", "sale", true),
            ("shop", "theft", false),
            ("page/view", "anything", true),
            ("page", "view", false),
            ("stars", "*", true),
            ("stars", "one", false),
        ] {
            assert_eq!(types.contains(category, name), expected, "{category}/{name}");
        }
        let both = EventTypes::parse(&["a/*", "a/b"]).expect("patterns");
        assert!(both.contains("a", "b") && both.contains("a", "c"));
        assert!(both.contains_all("a") && !types.contains_all("shop") && !types.contains_all("none"));
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for pattern in ["", "shop", "shop/", "/sale", "a/b/c", "a/%ff"] {
            assert!(EventTypes::parse(&[pattern]).is_err(), "{pattern}");
        }
    }
}
