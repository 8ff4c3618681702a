//! The header `traceparent` of W3C Trace Context, level 1: the trace of a request, and the step of it that sent the
//! request. An invalid value is no error: the request then has no trace.

use std::fmt;

/// The length of a value with its four parts: version, trace id, parent id, flags.
const BYTES: usize = 55;

/// A valid `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traceparent {
    trace_id: u128,
    parent_id: u64,
    flags: u8,
}

impl Traceparent {
    /// Parses the value of a header. Returns `None` if it is invalid. Of a version newer than `00` only the first four
    /// parts count.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (known, rest) = value.split_at_checked(BYTES)?;
        let version = hex(&known[..2])?;
        let parts_end = |place: usize| known[place] == b'-';
        let ends_there = match version {
            0 => rest.is_empty(),
            0xff => false,
            _ => rest.first().is_none_or(|byte| *byte == b'-'),
        };
        if !ends_there || ![2, 35, 52].into_iter().all(parts_end) {
            return None;
        }
        let trace_id = hex(&known[3..35]).filter(|id| *id != 0)?;
        let parent_id = hex(&known[36..52]).filter(|id| *id != 0)?;
        let flags = hex(&known[53..])?;
        Some(Self { trace_id, parent_id: u64::try_from(parent_id).ok()?, flags: u8::try_from(flags).ok()? })
    }

    /// The id of the trace in its written form.
    pub fn trace_id(&self) -> impl fmt::Display + use<> {
        let id = self.trace_id;
        fmt::from_fn(move |formatter| write!(formatter, "{id:032x}"))
    }
}

/// Writes it as version `00`.
impl fmt::Display for Traceparent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "00-{}-{:016x}-{:02x}", self.trace_id(), self.parent_id, self.flags)
    }
}

/// Parses a hexadecimal number. Only lower-case digits are allowed.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some((number << 4) | u128::from(value))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const VALID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_valid_value_is_read_and_written_as_it_came() {
        let read = Traceparent::parse(VALID.as_bytes()).expect("valid");
        assert_eq!(read.to_string(), VALID);
        assert_eq!(read.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
        for newer in ["01", "cc", "fe"] {
            let rest = &VALID[2..];
            for tail in ["", "-", "-what-the-future-brings"] {
                assert_eq!(Traceparent::parse(format!("{newer}{rest}{tail}").as_bytes()), Some(read), "{newer} {tail}");
            }
        }
    }

    #[test]
    fn whatever_breaks_the_rules_is_no_trace() {
        for invalid in [
            "",
            "00",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0X",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-surplus",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00_0af7651916cd43dd8448eb211c80319c_b7ad6b7169203331_01",
            "0-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-001",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01surplus",
            " 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1",
            "00-0af7651916cd43dd8448eb211c80319\u{e4}-b7ad6b7169203331-01",
        ] {
            assert_eq!(Traceparent::parse(invalid.as_bytes()), None, "{invalid}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Some(read) = Traceparent::parse(&bytes) {
                prop_assert_eq!(Traceparent::parse(read.to_string().as_bytes()), Some(read));
            }
        }

        #[test]
        fn all_that_is_written_is_read(trace_id in 1..=u128::MAX, parent_id in 1..=u64::MAX, flags in any::<u8>()) {
            let written = Traceparent { trace_id, parent_id, flags };
            prop_assert_eq!(Traceparent::parse(written.to_string().as_bytes()), Some(written));
        }

        #[test]
        fn one_other_byte_changes_what_is_read_or_makes_it_invalid(place in 0..BYTES, byte in any::<u8>()) {
            let mut changed = VALID.as_bytes().to_vec();
            prop_assume!(changed[place] != byte);
            changed[place] = byte;
            let read = Traceparent::parse(&changed);
            prop_assert!(place < 2 || read != Traceparent::parse(VALID.as_bytes()));
        }
    }
}
