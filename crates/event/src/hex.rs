//! Bytes as hexadecimal digits, two for each byte. Digests and cursors are written and read in this form.

use std::fmt;

/// Writes bytes as digits of lower case.
#[derive(Clone, Copy, Debug)]
pub struct Hex<'a>(pub &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

/// Returns the bytes that digits of either case write; none if the text holds anything else, or an odd number of digits.
pub fn read(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_back_from_digits_of_either_case() {
        let bytes: Vec<u8> = (0..=255).collect();
        let text = Hex(&bytes).to_string();
        assert!(text.starts_with("000102") && text.ends_with("fdfeff"), "{text}");
        assert_eq!(read(&text).as_ref(), Some(&bytes));
        assert_eq!(read(&text.to_uppercase()), Some(bytes));
        assert_eq!(read(""), Some(Vec::new()));
        for wrong in ["0", "0g", "+f", " 00", "0\u{e9}"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
