//! Tells secrets from other values of a form: by the name of the field, and card numbers by their digits.

use eye_validator::{Json, Part};

pub(crate) const REDACTED: &str = "[redacted]";

/// A field whose name has one of these in it, written in any way (`Card-Number`, `cardNumber`), holds a secret.
const SECRET_PARTS: [&str; 13] = [
    "password",
    "passwd",
    "passphrase",
    "passcode",
    "secret",
    "token",
    "apikey",
    "privatekey",
    "cardnumber",
    "creditcard",
    "debitcard",
    "ccnumber",
    "securitycode",
];

/// So does a field that has one of these names; as parts of others (`shipping`, `company`) they mean nothing.
const SECRET_NAMES: [&str; 10] = ["pwd", "pin", "otp", "cvv", "cvv2", "cvc", "cvc2", "csc", "pan", "cardno"];

/// What to store in place of a value within the form, if it is a secret.
pub(crate) fn redaction(key: Option<&str>, value: Part) -> Option<Json<'static>> {
    let secret = key.is_some_and(is_secret_name);
    let redact = match &value {
        Part::Text(text) => *text != REDACTED && !text.is_empty() && (secret || holds_card_number(text)),
        Part::Other("true" | "false" | "null") => false,
        Part::Other(number) => secret || holds_card_number(number),
        Part::Object | Part::List => secret,
    };
    redact.then(|| REDACTED.into())
}

fn is_secret_name(key: &str) -> bool {
    let name: String = key.chars().filter(char::is_ascii_alphanumeric).map(|char| char.to_ascii_lowercase()).collect();
    SECRET_NAMES.contains(&name.as_str()) || SECRET_PARTS.iter().any(|part| name.contains(part))
}

/// Whether some digits in the text, alone or in groups, could be the number of a payment card.
fn holds_card_number(text: &str) -> bool {
    let mut digits = String::new();
    let mut separated = true;
    for char in text.chars().chain(['.']) {
        if char.is_ascii_digit() {
            digits.push(char);
            separated = false;
        } else if matches!(char, ' ' | '-') && !separated {
            separated = true;
        } else {
            if is_card_number(&digits) {
                return true;
            }
            digits.clear();
            separated = true;
        }
    }
    false
}

/// 13 to 19 digits that begin as payment cards do (which times in milliseconds do not) and meet the Luhn check.
fn is_card_number(digits: &str) -> bool {
    let luhn = |(index, digit): (usize, u8)| match u32::from(digit - b'0') << (index % 2) {
        sum @ 10.. => sum - 9,
        sum => sum,
    };
    (13..=19).contains(&digits.len())
        && matches!(digits.as_bytes().first(), Some(b'2'..=b'6'))
        && digits.bytes().rev().enumerate().map(luhn).sum::<u32>() % 10 == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn card_numbers_are_found_in_other_text() {
        for text in ["4111111111111111", "5555 5555 5555 4444", "card: 3782-822463-10005.", "6011111111111117, thanks"]
        {
            assert!(holds_card_number(text), "{text}");
        }
        for text in ["", "4111111111111112", "1700000000000", "0000000000000000", "4111.1111.1111.1111", "411111111111"]
        {
            assert!(!holds_card_number(text), "{text}");
        }
    }

    #[test]
    fn secrets_are_known_by_name() {
        for name in ["password", "New-Password", "accessToken", "CVV", "credit_card.number", "cardNo"] {
            assert!(is_secret_name(name), "{name}");
        }
        for name in ["", "shipping", "company", "pandemic", "name", "card_holder", "email"] {
            assert!(!is_secret_name(name), "{name}");
        }
    }
}
