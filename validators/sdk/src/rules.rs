//! Rules about text that several validators need.

/// Whether this is a host name by RFC 1123: labels of letters, digits and inner hyphens, 63 bytes at most each, 253
/// bytes at most in all. Names in other scripts are sent as the browser has them, in their `xn--` form.
pub fn is_host_name(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_are_told_from_other_text() {
        let longest = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(61)].join(".");
        for host in ["a", "localhost", "shop.example", "xn--bcher-kva.example", "1.2.3.4", &longest] {
            assert!(is_host_name(host), "{host}");
        }
        let too_long = format!("{longest}d");
        let long_label = "a".repeat(64);
        for host in
            ["", ".", "a.", "a..b", "-a", "a-", "a b", "a:80", "a/b", "b\u{fc}cher", "a_b", &too_long, &long_label]
        {
            assert!(!is_host_name(host), "{host}");
        }
    }
}
