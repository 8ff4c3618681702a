//! References within a file, by RFC 3986: a reference against the base where it stands.

/// Resolves a reference against a base. Both may have a fragment; that of the base is left out.
pub(crate) fn resolve(base: &str, reference: &str) -> String {
    let base = base.split('#').next().unwrap_or_default();
    if scheme(reference).is_some() {
        return reference.to_owned();
    }
    if reference.is_empty() || reference.starts_with('#') {
        return format!("{base}{reference}");
    }
    let (prefix, path) = split(base);
    if let Some(rest) = reference.strip_prefix("//") {
        let scheme = scheme(base).map(|scheme| format!("{scheme}:")).unwrap_or_default();
        return format!("{scheme}//{rest}");
    }
    let path = path.split('?').next().unwrap_or_default();
    let (own, after) = reference.split_at(reference.find(['?', '#']).unwrap_or(reference.len()));
    let path = match own {
        "" => path.to_owned(),
        own if own.starts_with('/') => without_dots(own),
        own => without_dots(&format!("{}{own}", &path[..path.rfind('/').map_or(0, |at| at + 1)])),
    };
    let slash = if !prefix.is_empty() && prefix.contains("//") && !path.starts_with('/') { "/" } else { "" };
    format!("{prefix}{slash}{path}{after}")
}

/// The scheme of a URI that has one.
fn scheme(uri: &str) -> Option<&str> {
    let (scheme, _) = uri.split_once(':')?;
    let may_be = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic()) && scheme.bytes().all(may_be);
    is_scheme.then_some(scheme)
}

/// The scheme and authority of a URI, and the rest.
fn split(uri: &str) -> (&str, &str) {
    let after_scheme = scheme(uri).map_or(0, |scheme| scheme.len() + 1);
    match uri[after_scheme..].strip_prefix("//") {
        Some(rest) => {
            let authority = rest.find(['/', '?']).unwrap_or(rest.len());
            uri.split_at(after_scheme + 2 + authority)
        }
        None => uri.split_at(after_scheme),
    }
}

fn without_dots(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let mut last = "";
    for part in path.split('/') {
        match part {
            "." => {}
            ".." if parts.len() > 1 => drop(parts.pop()),
            ".." => {}
            part => parts.push(part),
        }
        last = part;
    }
    let ends_in_folder = matches!(last, "." | "..");
    let joined = parts.join("/");
    if ends_in_folder { format!("{joined}/") } else { joined }
}

/// A part of a URI without its percent signs; `None` if that is no text.
pub(crate) fn decode(part: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_resolve_as_in_the_rfc() {
        let base = "http://a/b/c/d;p?q";
        for (reference, whole) in [
            ("g", "http://a/b/c/g"),
            ("./g", "http://a/b/c/g"),
            ("/g", "http://a/g"),
            ("//g", "http://g"),
            ("?y", "http://a/b/c/d;p?y"),
            ("g#s", "http://a/b/c/g#s"),
            ("../g", "http://a/b/g"),
            ("../../../g", "http://a/g"),
            ("..", "http://a/b/"),
            ("#s", "http://a/b/c/d;p?q#s"),
            ("urn:x:y", "urn:x:y"),
        ] {
            assert_eq!(resolve(base, reference), whole, "{reference}");
        }
        assert_eq!(resolve("", "node.json"), "node.json");
        assert_eq!(resolve("urn:uuid:1#x", "#y"), "urn:uuid:1#y");
        assert_eq!(resolve("http://a", "g"), "http://a/g");
    }
}
