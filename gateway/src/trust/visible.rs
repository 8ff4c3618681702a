//! What a reader may see of all events: event types, applications, or both. An event that is not visible must look to the
//! reader as if it did not exist. The store applies this in every read, and takes it as an argument of each.

use std::collections::BTreeSet;
use std::fmt;

use eye_event::verdict::Digest;

use super::event_types::EventTypes;

/// The events that a reader may see.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Visible(Option<Limits>);

/// The limits of a reader. An event must meet both.
#[derive(Debug, PartialEq, Eq)]
struct Limits {
    event_types: Option<EventTypes>,
    applications: Option<BTreeSet<String>>,
    key: CursorKey,
}

/// The key that seals the cursors of a limited reader. Such a cursor may hold the place of a hidden event.
#[derive(PartialEq, Eq)]
pub struct CursorKey(pub [u8; 32]);

impl fmt::Debug for CursorKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("CursorKey")
    }
}

impl Visible {
    /// Everything.
    pub const ALL: Self = Self(None);

    /// What the limits of a row show. Empty lists are no limits. `secret` is the row's secret for cursors.
    pub fn limited(event_types: &[String], applications: &[String], secret: &[u8]) -> Self {
        if event_types.is_empty() && applications.is_empty() {
            return Self::ALL;
        }
        Self(Some(Limits {
            // A pattern that cannot be read shows nothing: to show everything would be the worse mistake.
            event_types: (!event_types.is_empty()).then(|| EventTypes::parse(event_types).unwrap_or_default()),
            applications: (!applications.is_empty()).then(|| applications.iter().cloned().collect()),
            key: CursorKey(Digest::of(&[b"the key of the cursors ", secret].concat()).0),
        }))
    }

    /// Whether the reader sees everything.
    pub fn is_all(&self) -> bool {
        self.0.is_none()
    }

    /// The event types of which it sees events; `None` for all.
    pub fn event_types(&self) -> Option<&EventTypes> {
        self.0.as_ref()?.event_types.as_ref()
    }

    /// The names of the applications whose events it sees; `None` for all.
    pub fn applications(&self) -> Option<&BTreeSet<String>> {
        self.0.as_ref()?.applications.as_ref()
    }

    /// The key of its cursors; `None` if nothing is hidden from it.
    pub fn cursor_key(&self) -> Option<&CursorKey> {
        Some(&self.0.as_ref()?.key)
    }

    /// Whether it sees an event. A reader that is limited to event types sees none whose type could not be read.
    pub fn shows(&self, application: &str, category: Option<&str>, name: Option<&str>) -> bool {
        self.applications().is_none_or(|applications| applications.contains(application))
            && self
                .event_types()
                .is_none_or(|types| category.zip(name).is_some_and(|(category, name)| types.contains(category, name)))
    }

    /// Whether it sees facts about all events of a slot of modules, whichever application sent them: those of one event
    /// type, of all names of a category (`name` is `None`), or of everything.
    pub fn shows_slot(&self, category: Option<&str>, name: Option<&str>) -> bool {
        self.applications().is_none()
            && self.event_types().is_none_or(|types| match (category, name) {
                (Some(category), Some(name)) => types.contains(category, name),
                (Some(category), None) => types.contains_all(category),
                (None, _) => false,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limited(event_types: &[&str], applications: &[&str]) -> Visible {
        let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        Visible::limited(&owned(event_types), &owned(applications), &[7; 32])
    }

    #[test]
    fn an_event_is_visible_if_it_meets_every_limit() {
        let (types, applications) = (["shop/sale", "page/*"], ["shop", "kiosk"]);
        let (all, by_type) = (limited(&[], &[]), limited(&types, &[]));
        let (by_application, by_both) = (limited(&[], &applications), limited(&types, &applications));
        for (application, category, name, expected) in [
            ("shop", Some("shop"), Some("sale"), [true, true, true, true]),
            ("shop", Some("shop"), Some("theft"), [true, false, true, false]),
            ("other", Some("page"), Some("view"), [true, true, false, false]),
            ("kiosk", None, Some("sale"), [true, false, true, false]),
            ("kiosk", Some("page"), None, [true, false, true, false]),
            ("", Some("page"), Some("view"), [true, true, false, false]),
        ] {
            let shows = [&all, &by_type, &by_application, &by_both].map(|one| one.shows(application, category, name));
            assert_eq!(shows, expected, "{application} {category:?} {name:?}");
        }
        assert!(all.is_all() && all == Visible::ALL && all.cursor_key().is_none());
        assert!(!by_type.is_all() && by_type.cursor_key().is_some());
    }

    #[test]
    fn a_slot_is_visible_if_all_of_its_events_are() {
        let by_type = limited(&["shop/sale", "page/*"], &[]);
        for (category, name, expected) in [
            (Some("shop"), Some("sale"), true),
            (Some("shop"), Some("theft"), false),
            (Some("shop"), None, false),
            (Some("page"), None, true),
            (None, None, false),
        ] {
            assert_eq!(by_type.shows_slot(category, name), expected, "{category:?} {name:?}");
            assert!(Visible::ALL.shows_slot(category, name));
            assert!(!limited(&[], &["shop"]).shows_slot(category, name), "its counts are those of all applications");
        }
    }

    #[test]
    fn a_pattern_that_cannot_be_read_shows_nothing() {
        let broken = limited(&["shop/sale", "nonsense"], &[]);
        assert!(!broken.shows("shop", Some("shop"), Some("sale")) && !broken.is_all());
    }

    #[test]
    fn each_secret_makes_a_key_of_its_own_that_is_not_printed() {
        let of = |secret: &[u8]| Visible::limited(&["a/b".to_owned()], &[], secret);
        assert_eq!(of(&[1; 32]), of(&[1; 32]));
        assert_ne!(of(&[1; 32]), of(&[2; 32]));
        assert!(!format!("{:?}", of(&[1; 32])).contains('['), "{:?}", of(&[1; 32]));
    }
}
