//! The binary format of `copy ... from stdin`: the form of each row of `events` and `dead_letters` on the wire.
//!
//! Rows are encoded from the items into one buffer, so that a row allocates nothing.

use std::borrow::Cow;

use eye_event::event::{DeadLetter, EventRow};
use eye_event::verdict::Violation;
use uuid::Uuid;

/// Signature, flags, and the length of the header extension.
pub const HEADER: &[u8; 19] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// A field count of -1 ends the rows.
pub const TRAILER: [u8; 2] = (-1_i16).to_be_bytes();

/// Microseconds from the epoch of Unix (1970) to that of Postgres (2000).
pub(super) const EPOCH_US: i64 = 946_684_800_000_000;
/// The only version of the binary form of `jsonb`. The JSON text follows it.
pub(super) const JSONB_VERSION: u8 = 1;

/// The ids of a row, which the tables have in place of words.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ids {
    /// The id in `event_types`; 0 if the table has no event type.
    pub event_type: i32,
    /// The id in `modules`, if a module judged the item.
    pub module: Option<i32>,
}

/// Encodes a row of `events`, in the order of the columns in `table.rs`. All but `data` is collected first, so that the
/// buffer grows twice and not for each field.
pub fn event(row: &EventRow, ids: Ids, out: &mut Vec<u8>) {
    let data = row.data.as_bytes();
    let mut head = Head { bytes: [0; HEAD_BYTES], filled: 0 };
    head.put(8_i16.to_be_bytes());
    head.field(row.session_id.into_bytes());
    head.field(since_epoch(row.timestamp_us).to_be_bytes());
    head.field(row.id.into_bytes());
    head.field(since_epoch(row.received_at_us).to_be_bytes());
    head.field(ids.event_type.to_be_bytes());
    head.field(row.application_id.to_be_bytes());
    match ids.module {
        Some(module) => head.field(module.to_be_bytes()),
        None => head.put((-1_i32).to_be_bytes()),
    }
    head.put(sized(data.len() + 1).to_be_bytes());
    head.put([JSONB_VERSION]);
    out.extend_from_slice(&head.bytes[..head.filled]);
    out.extend_from_slice(data);
}

/// The bytes of the field count, two ids, two times, three numbers, the length of the data, and its version.
const HEAD_BYTES: usize = 2 + 2 * (4 + 16) + 2 * (4 + 8) + 3 * (4 + 4) + 4 + 1;

/// A row of `events` up to its data.
struct Head {
    bytes: [u8; HEAD_BYTES],
    filled: usize,
}

impl Head {
    #[inline]
    fn put<const N: usize>(&mut self, bytes: [u8; N]) {
        self.bytes[self.filled..self.filled + N].copy_from_slice(&bytes);
        self.filled += N;
    }

    #[inline]
    fn field<const N: usize>(&mut self, bytes: [u8; N]) {
        self.put(sized(N).to_be_bytes());
        self.put(bytes);
    }
}

/// Encodes a row of `dead_letters`, in the order of the columns in `table.rs`.
pub(super) fn dead_letter(row: &DeadLetter, ids: Ids, out: &mut Vec<u8>) {
    fields(out, 19);
    timestamp(out, row.received_at_us);
    uuid(out, row.id);
    bytes(out, row.reason.as_str().as_bytes());
    text(out, &row.code);
    text(out, &row.detail);
    jsonb(out, violations(&row.violations).as_bytes());
    integer(out, row.application_id);
    optional(out, ids.module, integer);
    optional(out, row.event_id, uuid);
    optional(out, row.session_id, uuid);
    optional(out, row.category.as_deref(), text);
    optional(out, row.name.as_deref(), text);
    bytes(out, &row.raw);
    integer(out, i32::try_from(row.raw_bytes).unwrap_or(i32::MAX));
    bytes(out, row.kept.as_str().as_bytes());
    optional(out, row.raw_digest, |out, digest| bytes(out, &digest.0));
    optional(out, row.last_words.as_deref(), text);
    optional(out, row.request_id.as_deref(), text);
    optional(out, row.traceparent.as_deref(), text);
}

/// The violations as JSON. They may quote the refused event, and so contain characters that `jsonb` may not.
pub(super) fn violations(violations: &[Violation]) -> String {
    let rows = violations.iter().map(|violation| {
        serde_json::json!({
            "pointer": clean(&violation.pointer),
            "code": clean(&violation.code),
            "message": clean(&violation.message),
        })
    });
    serde_json::Value::Array(rows.collect()).to_string()
}

/// Replaces NUL, which Postgres cannot hold in text, since every dead letter must be storable. The raw bytes stay as
/// they are.
pub(super) fn clean(text: &str) -> Cow<'_, str> {
    if text.as_bytes().contains(&0) { Cow::Owned(text.replace('\0', "\u{fffd}")) } else { Cow::Borrowed(text) }
}

fn fields(out: &mut Vec<u8>, count: i16) {
    out.extend_from_slice(&count.to_be_bytes());
}

fn optional<T>(out: &mut Vec<u8>, value: Option<T>, write: fn(&mut Vec<u8>, T)) {
    match value {
        Some(value) => write(out, value),
        None => out.extend_from_slice(&(-1_i32).to_be_bytes()),
    }
}

fn sized(length: usize) -> i32 {
    i32::try_from(length).expect("no field is larger than a request, which is far below 2 GiB")
}

fn length(out: &mut Vec<u8>, length: usize) {
    out.extend_from_slice(&sized(length).to_be_bytes());
}

fn bytes(out: &mut Vec<u8>, value: &[u8]) {
    length(out, value.len());
    out.extend_from_slice(value);
}

fn text(out: &mut Vec<u8>, value: &str) {
    bytes(out, clean(value).as_bytes());
}

fn jsonb(out: &mut Vec<u8>, value: &[u8]) {
    length(out, value.len() + 1);
    out.push(JSONB_VERSION);
    out.extend_from_slice(value);
}

fn uuid(out: &mut Vec<u8>, value: Uuid) {
    bytes(out, value.as_bytes());
}

fn integer(out: &mut Vec<u8>, value: i32) {
    bytes(out, &value.to_be_bytes());
}

fn timestamp(out: &mut Vec<u8>, value_us: i64) {
    bytes(out, &since_epoch(value_us).to_be_bytes());
}

/// Converts microseconds to those of Postgres.
pub(super) fn since_epoch(value_us: i64) -> i64 {
    value_us.saturating_sub(EPOCH_US)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use eye_event::event::{KeptAs, Reason, Text};

    #[test]
    fn an_event_is_encoded_field_by_field() {
        let row = EventRow {
            id: Uuid::from_u128(2),
            session_id: Uuid::from_u128(1),
            timestamp_us: EPOCH_US + 5,
            received_at_us: EPOCH_US - 1,
            category: Text::from("a"),
            name: Text::from("b"),
            application_id: 7,
            module: None,
            data: Text::from("{}"),
            raw: Bytes::new(),
            redriven: false,
        };
        let mut out = Vec::new();
        event(&row, Ids { event_type: 9, module: None }, &mut out);
        let mut wanted = vec![0, 8, 0, 0, 0, 16];
        wanted.extend(1_u128.to_be_bytes());
        wanted.extend([0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 16]);
        wanted.extend(2_u128.to_be_bytes());
        wanted.extend([0, 0, 0, 8, 255, 255, 255, 255, 255, 255, 255, 255]);
        wanted.extend([0, 0, 0, 4, 0, 0, 0, 9, 0, 0, 0, 4, 0, 0, 0, 7]);
        wanted.extend([255, 255, 255, 255, 0, 0, 0, 3, 1, b'{', b'}']);
        assert_eq!(out, wanted);
    }

    #[test]
    fn a_dead_letter_loses_its_nul_and_keeps_its_raw_bytes() {
        let row = DeadLetter {
            id: Uuid::from_u128(3),
            received_at_us: EPOCH_US,
            reason: Reason::Rejected,
            code: "rule".to_owned(),
            detail: "a\0b".to_owned(),
            violations: vec![Violation { pointer: "/\0".to_owned(), code: "x".into(), message: "y\0".into() }],
            application_id: 1,
            module: None,
            event_id: None,
            session_id: None,
            category: Some("c\0".to_owned()),
            name: None,
            kept: KeptAs::Whole,
            raw: Bytes::from_static(b"\0raw"),
            raw_bytes: usize::MAX,
            raw_digest: None,
            last_words: None,
            request_id: Some("request".to_owned()),
            traceparent: None,
        };
        let mut out = Vec::new();
        dead_letter(&row, Ids::default(), &mut out);
        assert_eq!(&out[..2], &[0, 19]);
        let text = String::from_utf8_lossy(&out);
        assert!(text.contains("a\u{fffd}b") && text.contains("c\u{fffd}"), "cleaned");
        assert!(!text.contains("\\u0000"), "no NUL escape in the violations");
        assert!(out.windows(8).any(|window| window == b"\0\0\0\x04\0raw"), "raw is kept");
        let size = [0, 0, 0, 4, 127, 255, 255, 255];
        assert!(out.windows(8).any(|window| window == size), "a size that fits no integer is the largest one");
        assert!(
            out.ends_with(b"\0\0\0\x05whole\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\x07request\xff\xff\xff\xff"),
            "what is kept; no digest, no last words; the request, and no trace"
        );
    }

    #[test]
    fn the_header_is_what_postgres_expects() {
        assert_eq!(&HEADER[..11], b"PGCOPY\n\xff\r\n\0");
        assert_eq!(TRAILER, [255, 255]);
    }
}
