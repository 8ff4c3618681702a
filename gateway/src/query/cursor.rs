//! Cursors: the place of the next page as an opaque text. A digest in the cursor binds it to its query, so that a
//! cursor of another query, or a changed one, is rejected. A reader that sees everything may read its cursors. Those of a
//! limited reader are sealed with a key of its own, since a page may end at an event that it may not see. It can neither
//! read a cursor nor make one.

use chrono::{DateTime, Datelike as _};
use eye_event::hex::{self, Hex};
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::{aead, digest};
use uuid::Uuid;

use crate::parameters::bad;
use crate::response::Refusal;
use crate::store::{AuditCursor, CategoryPosition, CountPosition, JobCursor, LetterCursor, Position, SessionPosition};
use crate::trust::visible::{CursorKey, Visible};

/// The version of the notation. A gateway rejects cursors of other versions.
const VERSION: char = '1';
/// The version of sealed cursors.
const SEALED: char = '2';
/// Bytes of the digest in a cursor.
const CHECK_BYTES: usize = 8;

/// The key of the last row of a page.
pub(super) trait Place: Sized {
    fn write(&self) -> String;
    fn read(text: &str) -> Option<Self>;
}

impl Place for Position {
    fn write(&self) -> String {
        format!("{} {} {}", self.timestamp_us, self.received_at_us, self.id.simple())
    }

    fn read(text: &str) -> Option<Self> {
        let mut parts = text.split(' ');
        let timestamp_us = parts.next()?.parse().ok()?;
        let received_at_us = parts.next()?.parse().ok()?;
        Some(Self { timestamp_us, received_at_us, id: Uuid::try_parse(parts.next()?).ok()? })
    }
}

impl Place for SessionPosition {
    fn write(&self) -> String {
        format!("{} {}", self.as_of_us, self.last.write())
    }

    fn read(text: &str) -> Option<Self> {
        let (as_of_us, last) = text.split_once(' ')?;
        Some(Self { as_of_us: as_of_us.parse().ok()?, last: Position::read(last)? })
    }
}

impl Place for LetterCursor {
    fn write(&self) -> String {
        format!("{} {}", self.received_at.timestamp_micros(), self.id.simple())
    }

    fn read(text: &str) -> Option<Self> {
        let (us, id) = text.split_once(' ')?;
        // Postgres cannot hold such a time, so no cursor has it.
        let received_at = DateTime::from_timestamp_micros(us.parse().ok()?)?;
        let held = (0..=9_999).contains(&received_at.year());
        held.then_some(Self { received_at, id: Uuid::try_parse(id).ok()? })
    }
}

impl Place for AuditCursor {
    fn write(&self) -> String {
        LetterCursor { received_at: self.at, id: self.id }.write()
    }

    fn read(text: &str) -> Option<Self> {
        LetterCursor::read(text).map(|place| Self { at: place.received_at, id: place.id })
    }
}

impl Place for JobCursor {
    fn write(&self) -> String {
        LetterCursor { received_at: self.requested_at, id: self.id }.write()
    }

    fn read(text: &str) -> Option<Self> {
        LetterCursor::read(text).map(|place| Self { requested_at: place.received_at, id: place.id })
    }
}

impl Place for CategoryPosition {
    fn write(&self) -> String {
        format!("{}\0{}\0{}", self.category, self.name, self.category_stored)
    }

    fn read(text: &str) -> Option<Self> {
        let mut parts = text.split('\0');
        let (category, name) = (parts.next()?.to_owned(), parts.next()?.to_owned());
        Some(Self { category, name, category_stored: parts.next()?.parse().ok()? })
    }
}

impl Place for CountPosition {
    fn write(&self) -> String {
        format!("{} {} {} {}", self.start_us, self.event_type_id, self.application_id, self.outcome)
    }

    fn read(text: &str) -> Option<Self> {
        let mut parts = text.split(' ');
        let start_us = parts.next()?.parse().ok()?;
        let event_type_id = parts.next()?.parse().ok()?;
        let application_id = parts.next()?.parse().ok()?;
        Some(Self { start_us, event_type_id, application_id, outcome: parts.next()?.to_owned() })
    }
}

/// Writes the cursor of a place for a reader. `query` identifies the query, without the size of its pages.
///
/// # Errors
///
/// [`Refusal::Internal`] if the machine gives no random numbers for a sealed cursor.
pub(super) fn write(query: &str, place: &impl Place, visible: &Visible) -> Result<String, Refusal> {
    let place = place.write();
    match visible.cursor_key() {
        None => Ok(format!("{VERSION}{}{}", Hex(&check(query, &place)), Hex(place.as_bytes()))),
        Some(key) => {
            let sealed = seal(key, query, place).ok_or(Refusal::Internal)?;
            Ok(format!("{SEALED}{}", Hex(&sealed)))
        }
    }
}

/// Reads the place from a cursor of this query and reader.
pub(super) fn read<P: Place>(query: &str, text: &str, visible: &Visible) -> Result<P, Refusal> {
    let place = match visible.cursor_key() {
        None => plain(query, text),
        Some(key) => text.strip_prefix(SEALED).and_then(hex::read).and_then(|sealed| open(key, query, sealed)),
    };
    place.as_deref().and_then(P::read).ok_or_else(|| {
        bad(
            "cursor",
            "is not the `next` of a page of this very query; send it with the same path and filters as that page, or \
             leave it out to begin anew",
        )
    })
}

/// The place in a cursor that is not sealed.
fn plain(query: &str, text: &str) -> Option<String> {
    let bytes = hex::read(text.strip_prefix(VERSION)?)?;
    let (given, place) = bytes.split_at_checked(CHECK_BYTES)?;
    let place = std::str::from_utf8(place).ok()?;
    (check(query, place) == given).then(|| place.to_owned())
}

/// Encrypts and signs the place with the key. Returns a random number and the result.
fn seal(CursorKey(key): &CursorKey, query: &str, place: String) -> Option<Vec<u8>> {
    let key = aead::LessSafeKey::new(aead::UnboundKey::new(&aead::CHACHA20_POLY1305, key).ok()?);
    let mut nonce = [0; aead::NONCE_LEN];
    SystemRandom::new().fill(&mut nonce).ok()?;
    let mut place = place.into_bytes();
    let unique = aead::Nonce::assume_unique_for_key(nonce);
    key.seal_in_place_append_tag(unique, aead::Aad::from(query.as_bytes()), &mut place).ok()?;
    Some([&nonce[..], &place].concat())
}

/// The place in a sealed cursor; `None` unless [`seal`] made it with the same key and query.
fn open(CursorKey(key): &CursorKey, query: &str, mut sealed: Vec<u8>) -> Option<String> {
    let key = aead::LessSafeKey::new(aead::UnboundKey::new(&aead::CHACHA20_POLY1305, key).ok()?);
    let (nonce, place) = sealed.split_at_mut_checked(aead::NONCE_LEN)?;
    let nonce = aead::Nonce::try_assume_unique_for_key(nonce).ok()?;
    let place = key.open_in_place(nonce, aead::Aad::from(query.as_bytes()), place).ok()?;
    String::from_utf8(place.to_vec()).ok()
}

fn check(query: &str, place: &str) -> [u8; CHECK_BYTES] {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in [query, "\n", place] {
        context.update(part.as_bytes());
    }
    let mut check = [0; CHECK_BYTES];
    check.copy_from_slice(&context.finish().as_ref()[..CHECK_BYTES]);
    check
}

/// For fuzzing: a place that some text names survives being written and read, and so does its cursor.
#[cfg(fuzzing)]
pub fn hold_cursors(query: &str, text: &str) {
    fn hold<P: Place>(query: &str, text: &str) {
        // No made-up text has the right digest, so this only checks that the reader does not panic.
        drop(read::<P>(query, text, &Visible::ALL));
        let limited = Visible::limited(&["a/b".to_owned()], &[], &[7; 32]);
        drop(read::<P>(query, text, &limited));
        let Some(place) = P::read(text) else { return };
        let again = P::read(&place.write()).expect("what was written can be read");
        assert_eq!(again.write(), place.write());
        for visible in [&Visible::ALL, &limited] {
            let cursor = write(query, &place, visible).expect("random numbers");
            assert_eq!(read::<P>(query, &cursor, visible).expect("its own").write(), place.write());
        }
    }
    hold::<Position>(query, text);
    hold::<CategoryPosition>(query, text);
    hold::<CountPosition>(query, text);
    hold::<SessionPosition>(query, text);
    hold::<LetterCursor>(query, text);
    hold::<AuditCursor>(query, text);
    hold::<JobCursor>(query, text);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reader that sees everything, and a limited one.
    fn readers() -> [Visible; 2] {
        [Visible::ALL, Visible::limited(&["a/b".to_owned()], &[], &[7; 32])]
    }

    fn read<P: Place>(query: &str, text: &str, visible: &Visible) -> Result<P, Refusal> {
        super::read(query, text, visible)
    }

    fn write(query: &str, place: &impl Place, visible: &Visible) -> String {
        super::write(query, place, visible).expect("random numbers")
    }

    #[test]
    fn a_cursor_names_the_place_that_it_was_made_of_and_only_for_its_query() {
        for visible in &readers() {
            let place = Position { timestamp_us: -5, received_at_us: 7, id: Uuid::now_v7() };
            let text = write("events asc", &place, visible);
            assert_eq!(read::<Position>("events asc", &text, visible).expect("its own"), place);
            assert!(read::<Position>("events desc", &text, visible).is_err(), "of another query");
            assert!(read::<CountPosition>("events asc", &text, visible).is_err(), "of another kind");
            for (at, _) in text.char_indices() {
                let mut changed = text.clone();
                let other = if &text[at..=at] == "0" { "1" } else { "0" };
                changed.replace_range(at..=at, other);
                assert!(read::<Position>("events asc", &changed, visible).is_err(), "changed at {at}");
                assert!(read::<Position>("events asc", &text[..at], visible).is_err(), "cut at {at}");
            }
            let place = SessionPosition { last: place, as_of_us: 9 };
            assert_eq!(read::<SessionPosition>("s", &write("s", &place, visible), visible).expect("its own"), place);
            let received_at = "2026-11-23T09:15:27.000001Z".parse().expect("a time");
            let place = LetterCursor { received_at, id: Uuid::now_v7() };
            assert_eq!(read::<LetterCursor>("d", &write("d", &place, visible), visible).expect("its own"), place);
            let place = CategoryPosition { category: "a b".to_owned(), name: "\u{fc}".to_owned(), category_stored: 7 };
            assert_eq!(read::<CategoryPosition>("c", &write("c", &place, visible), visible).expect("its own"), place);
            let place =
                CountPosition { start_us: 1, event_type_id: 0, application_id: 3, outcome: "stored".to_owned() };
            assert_eq!(read::<CountPosition>("s", &write("s", &place, visible), visible).expect("its own"), place);
        }
    }

    #[test]
    fn the_cursor_of_a_limited_reader_is_closed_to_it_and_to_all_others() {
        let [all, limited] = readers();
        let other = Visible::limited(&["a/b".to_owned()], &[], &[8; 32]);
        let place = Position { timestamp_us: 5, received_at_us: 7, id: Uuid::from_u128(0xfeed_beef) };
        let open = write("q", &place, &all);
        let sealed = write("q", &place, &limited);
        assert!(open.contains(&Hex(b"feedbeef").to_string()) && !sealed.contains(&Hex(b"feedbeef").to_string()));
        assert_ne!(sealed, write("q", &place, &limited), "the same place looks different each time");
        for (text, visible) in [(&open, &limited), (&sealed, &all), (&sealed, &other)] {
            assert!(read::<Position>("q", text, visible).is_err(), "{text}");
        }
        // A reader whose limits change goes on where it was.
        let wider = Visible::limited(&["a/*".to_owned()], &[], &[7; 32]);
        assert_eq!(read::<Position>("q", &sealed, &wider).expect("its own"), place);
    }
}
