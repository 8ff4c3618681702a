//! The words of `format`, each with the rule of the standard that defines it.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::pattern;

/// Characters of one label of a host name, and of the whole name.
const LABEL_MAX: usize = 63;
const HOST_MAX: usize = 253;

/// Whether a text is of some format.
pub(crate) type Check = fn(&str) -> bool;

/// All formats.
pub(crate) const FORMATS: [(&str, Check); 19] = [
    ("date", is_date),
    ("date-time", is_date_time),
    ("duration", is_duration),
    ("email", is_email),
    ("hostname", is_host),
    ("idn-email", is_idn_email),
    ("idn-hostname", is_idn_host),
    ("ipv4", is_ipv4),
    ("ipv6", is_ipv6),
    ("iri", |text| is_uri(text, true, false)),
    ("iri-reference", |text| is_uri(text, true, true)),
    ("json-pointer", is_json_pointer),
    ("regex", pattern::is_pattern),
    ("relative-json-pointer", is_relative_json_pointer),
    ("time", is_time),
    ("uri", |text| is_uri(text, false, false)),
    ("uri-reference", |text| is_uri(text, false, true)),
    ("uri-template", is_uri_template),
    ("uuid", is_uuid),
];

fn is_digits(text: &str, count: usize) -> bool {
    text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// RFC 3339.
fn is_date(text: &str) -> bool {
    let mut parts = text.split('-');
    let (Some(year), Some(month), Some(day), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    if !(is_digits(year, 4) && is_digits(month, 2) && is_digits(day, 2)) {
        return false;
    }
    let number = |text: &str| text.parse::<u32>().unwrap_or(0);
    let year = number(year);
    let is_leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let days = match number(month) {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if is_leap => 29,
        2 => 28,
        _ => return false,
    };
    (1..=days).contains(&number(day))
}

fn is_time(text: &str) -> bool {
    let Some((clock, rest)) = text.split_at_checked(8) else { return false };
    let mut parts = clock.split(':');
    let (Some(hour), Some(minute), Some(second), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    if ![hour, minute, second].into_iter().all(|part| is_digits(part, 2)) {
        return false;
    }
    let zone = rest.strip_prefix('.').map_or(Some(rest), |part| {
        let zone = part.trim_start_matches(|character: char| character.is_ascii_digit());
        (zone.len() < part.len()).then_some(zone)
    });
    let number = |text: &str| text.parse::<i32>().unwrap_or(99);
    let offset = match zone.map(|zone| (zone, zone.as_bytes())) {
        Some(("Z" | "z", _)) => 0,
        Some((zone, [sign @ (b'+' | b'-'), ..])) => {
            let Some((hours, minutes)) = zone[1..].split_once(':') else { return false };
            if !is_digits(hours, 2) || !is_digits(minutes, 2) || number(hours) > 23 || number(minutes) > 59 {
                return false;
            }
            (number(hours) * 60 + number(minutes)) * if *sign == b'+' { 1 } else { -1 }
        }
        _ => return false,
    };
    let (hour, minute, second) = (number(hour), number(minute), number(second));
    // A leap second comes at the end of a day in UTC.
    let is_last_minute = (hour * 60 + minute - offset).rem_euclid(24 * 60) == 23 * 60 + 59;
    hour < 24 && minute < 60 && (second < 60 || second == 60 && is_last_minute)
}

fn is_date_time(text: &str) -> bool {
    let Some((date, rest)) = text.split_at_checked(10) else { return false };
    is_date(date) && rest.strip_prefix(['T', 't']).is_some_and(is_time)
}

/// ISO 8601 as RFC 3339 has it: weeks, or a date and a time whose parts come in order.
fn is_duration(text: &str) -> bool {
    let Some(text) = text.strip_prefix('P') else { return false };
    let (date, time) = text.split_once('T').map_or((text, None), |(date, time)| (date, Some(time)));
    if let Some(weeks) = date.strip_suffix('W') {
        return time.is_none() && !weeks.is_empty() && is_digits(weeks, weeks.len());
    }
    let is_there = !date.is_empty() || time.is_some();
    is_there
        && (date.is_empty() || are_parts(date, "YMD"))
        && time.is_none_or(|time| !time.is_empty() && are_parts(time, "HMS"))
}

/// Whether a text is of numbers with units, which follow each other without a gap.
fn are_parts(text: &str, units: &str) -> bool {
    let mut last = None;
    let mut rest = text;
    while !rest.is_empty() {
        let number = rest.trim_start_matches(|character: char| character.is_ascii_digit());
        let Some(place) = number.chars().next().and_then(|unit| units.find(unit)) else { return false };
        if number.len() == rest.len() || last.is_some_and(|last: usize| last + 1 != place) {
            return false;
        }
        last = Some(place);
        rest = &number[1..];
    }
    true
}

fn is_email(text: &str) -> bool {
    text.is_ascii() && is_idn_email(text)
}

/// RFC 5321 and RFC 6531.
fn is_idn_email(text: &str) -> bool {
    let Some((local, domain)) = text.rsplit_once('@') else { return false };
    let is_atom = |atom: &str| {
        let may_be = |character: char| {
            character.is_ascii_alphanumeric() || !character.is_ascii() || "!#$%&'*+-/=?^_`{|}~".contains(character)
        };
        !atom.is_empty() && atom.chars().all(may_be)
    };
    let quoted = local.strip_prefix('"').and_then(|local| local.strip_suffix('"'));
    let is_local = match quoted {
        Some(quoted) => is_quoted(quoted),
        None => local.split('.').all(is_atom),
    };
    let literal = domain.strip_prefix('[').and_then(|domain| domain.strip_suffix(']'));
    let is_domain = match literal {
        Some(literal) => literal.strip_prefix("IPv6:").map_or_else(|| is_ipv4(literal), is_ipv6),
        None if domain.is_ascii() => is_host(domain),
        None => is_idn_host(domain),
    };
    is_local && local.len() <= 64 && is_domain
}

fn is_quoted(text: &str) -> bool {
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        let is_escaped = character == '\\';
        let last = if is_escaped { characters.next() } else { Some(character) };
        if !last.is_some_and(|last| !last.is_control() && (is_escaped || last != '"')) {
            return false;
        }
    }
    true
}

/// RFC 1123, with the labels of RFC 5891 where they begin with `xn--`.
fn is_host(text: &str) -> bool {
    let is_label = |label: &str| {
        let may_be = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        let plain = (1..=LABEL_MAX).contains(&label.len())
            && label.bytes().all(may_be)
            && !label.starts_with('-')
            && !label.ends_with('-');
        let encoded = label.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("xn--"));
        let hyphens = label.get(2..4) == Some("--");
        plain && if encoded { decoded(&label[4..]).is_some_and(|label| is_idn_label(&label)) } else { !hyphens }
    };
    text.len() <= HOST_MAX && text.split('.').all(is_label)
}

/// RFC 5890 without the tables of its code points: letters, digits and marks, and the characters that depend on their
/// neighbors.
fn is_idn_host(text: &str) -> bool {
    let is_label = |label: &str| if label.is_ascii() { is_host(label) } else { is_idn_label(label) };
    text.chars().count() <= HOST_MAX && text.split(['.', '\u{3002}', '\u{ff0e}', '\u{ff61}']).all(is_label)
}

fn is_idn_label(label: &str) -> bool {
    let characters: Vec<char> = label.chars().collect();
    let hyphens = characters.get(2..4).is_some_and(|two| two == ['-', '-']);
    let (Some(first), Some(last)) = (characters.first(), characters.last()) else { return false };
    if hyphens || *first == '-' || *last == '-' || is_mark(*first) || encoded_bytes(&characters) + 4 > LABEL_MAX {
        return false;
    }
    let among = |range: std::ops::RangeInclusive<char>| characters.iter().any(|character| range.contains(character));
    let of_kana = |character: &char| matches!(character, '\u{3041}'..='\u{3096}' | '\u{30a1}'..='\u{30fa}' | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{3005}'..='\u{3007}');
    characters.iter().enumerate().all(|(place, character)| {
        let before = place.checked_sub(1).map(|place| characters[place]);
        let after = characters.get(place + 1).copied();
        match *character {
            '\u{b7}' => before == Some('l') && after == Some('l'),
            '\u{375}' => after.is_some_and(|after| matches!(after, '\u{370}'..='\u{3ff}' | '\u{1f00}'..='\u{1fff}')),
            '\u{5f3}' | '\u{5f4}' => before.is_some_and(|before| matches!(before, '\u{590}'..='\u{5ff}')),
            '\u{30fb}' => characters.iter().any(of_kana),
            '\u{660}'..='\u{669}' => !among('\u{6f0}'..='\u{6f9}'),
            '\u{6f0}'..='\u{6f9}' => !among('\u{660}'..='\u{669}'),
            '\u{200c}' | '\u{200d}' => before.is_some_and(is_virama),
            '\u{302e}' | '\u{302f}' | '\u{640}' | '\u{7fa}' | '\u{3031}'..='\u{3035}' | '\u{303b}' => false,
            // Exceptions of RFC 5892 that are no letters.
            '-' | '\u{6fd}' | '\u{6fe}' | '\u{f0b}' => true,
            character if character.is_ascii() => character.is_ascii_lowercase() || character.is_ascii_digit(),
            character => character.is_alphanumeric() && !character.is_uppercase() || is_mark(character),
        }
    })
}

/// Marks of the scripts that host names are written in.
fn is_mark(character: char) -> bool {
    matches!(character,
        '\u{300}'..='\u{36f}' | '\u{483}'..='\u{487}' | '\u{591}'..='\u{5bd}' | '\u{610}'..='\u{61a}'
        | '\u{64b}'..='\u{65f}' | '\u{900}'..='\u{903}' | '\u{93a}'..='\u{94f}' | '\u{981}'..='\u{983}'
        | '\u{9bc}'..='\u{9cd}' | '\u{a01}'..='\u{a03}' | '\u{a3c}'..='\u{a4d}' | '\u{b01}'..='\u{b03}'
        | '\u{b3c}'..='\u{b4d}' | '\u{bbe}'..='\u{bcd}' | '\u{c3e}'..='\u{c4d}' | '\u{cbc}'..='\u{ccd}'
        | '\u{d3e}'..='\u{d4d}' | '\u{dca}'..='\u{ddf}' | '\u{e31}' | '\u{e34}'..='\u{e3a}' | '\u{e47}'..='\u{e4e}'
        | '\u{1dc0}'..='\u{1dff}' | '\u{20d0}'..='\u{20dc}' | '\u{302a}'..='\u{302f}' | '\u{3099}'..='\u{309a}')
}

fn is_virama(character: char) -> bool {
    matches!(
        character,
        '\u{94d}'
            | '\u{9cd}'
            | '\u{a4d}'
            | '\u{acd}'
            | '\u{b4d}'
            | '\u{bcd}'
            | '\u{c4d}'
            | '\u{ccd}'
            | '\u{d4d}'
            | '\u{dca}'
    )
}

/// The steps of RFC 3492 between two differences.
struct Bias(u32);

impl Bias {
    fn threshold(&self, place: u32) -> u32 {
        place.saturating_sub(self.0).clamp(1, 26)
    }

    fn adapt(&mut self, delta: u32, count: u32, is_first: bool) {
        let mut delta = if is_first { delta / 700 } else { delta / 2 };
        delta += delta / count;
        let mut steps = 0;
        while delta > 455 {
            delta /= 35;
            steps += 36;
        }
        self.0 = steps + 36 * delta / (delta + 38);
    }
}

/// The text of a label that was encoded by RFC 3492, if it was.
fn decoded(label: &str) -> Option<String> {
    let (basic, coded) = label.rsplit_once('-').unwrap_or(("", label));
    let mut text: Vec<char> = basic.chars().collect();
    let (mut code, mut at, mut bias) = (128_u32, 0_u32, Bias(72));
    let mut digits = coded.bytes();
    while digits.len() > 0 {
        let (before, mut weight) = (at, 1_u32);
        for place in (36..).step_by(36) {
            let digit = match digits.next()?.to_ascii_lowercase() {
                letter @ b'a'..=b'z' => u32::from(letter - b'a'),
                digit @ b'0'..=b'9' => u32::from(digit - b'0') + 26,
                _ => return None,
            };
            at = at.checked_add(digit.checked_mul(weight)?)?;
            let threshold = bias.threshold(place);
            if digit < threshold {
                break;
            }
            weight = weight.checked_mul(36 - threshold)?;
        }
        let count = u32::try_from(text.len()).ok()? + 1;
        bias.adapt(at - before, count, before == 0);
        code = code.checked_add(at / count)?;
        at %= count;
        text.insert(at as usize, char::from_u32(code)?);
        at += 1;
    }
    (!coded.is_empty()).then(|| text.into_iter().collect())
}

/// The bytes of a label when it is encoded by RFC 3492.
fn encoded_bytes(label: &[char]) -> usize {
    let basic = label.iter().filter(|character| character.is_ascii()).count();
    let mut bytes = basic + usize::from(basic > 0);
    let mut done = u32::try_from(basic).unwrap_or(u32::MAX);
    let (mut code, mut delta, mut bias) = (128_u32, 0_u32, Bias(72));
    while let Some(next) = label.iter().map(|character| u32::from(*character)).filter(|next| *next >= code).min() {
        delta = delta.saturating_add((next - code).saturating_mul(done + 1));
        for character in label.iter().map(|character| u32::from(*character)) {
            delta = delta.saturating_add(u32::from(character < next));
            if character == next {
                let mut rest = delta;
                for place in (36..).step_by(36) {
                    bytes += 1;
                    let threshold = bias.threshold(place);
                    if rest < threshold {
                        break;
                    }
                    rest = (rest - threshold) / (36 - threshold);
                }
                bias.adapt(delta, done + 1, done as usize == basic);
                (delta, done) = (0, done + 1);
            }
        }
        (delta, code) = (delta.saturating_add(1), next + 1);
    }
    bytes
}

fn is_ipv4(text: &str) -> bool {
    text.parse::<Ipv4Addr>().is_ok()
}

fn is_ipv6(text: &str) -> bool {
    text.parse::<Ipv6Addr>().is_ok()
}

fn is_json_pointer(text: &str) -> bool {
    let escapes = || text.match_indices('~').all(|(at, _)| matches!(text.as_bytes().get(at + 1), Some(b'0' | b'1')));
    text.is_empty() || text.starts_with('/') && escapes()
}

fn is_relative_json_pointer(text: &str) -> bool {
    let rest = text.trim_start_matches(|character: char| character.is_ascii_digit());
    let number = &text[..text.len() - rest.len()];
    let is_number = !number.is_empty() && (number == "0" || !number.starts_with('0'));
    is_number && (rest == "#" || is_json_pointer(rest))
}

fn is_uuid(text: &str) -> bool {
    let mut parts = text.split('-');
    let all = [8, 4, 4, 4, 12].into_iter().all(|count| {
        parts.next().is_some_and(|part| part.len() == count && part.bytes().all(|byte| byte.is_ascii_hexdigit()))
    });
    all && parts.next().is_none()
}

/// RFC 3986 and RFC 3987.
fn is_uri(text: &str, international: bool, relative: bool) -> bool {
    let is_scheme = |scheme: &str| {
        let may_be = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
        scheme.starts_with(|first: char| first.is_ascii_alphabetic()) && scheme.bytes().all(may_be)
    };
    let scheme = text.split_once(':').filter(|(scheme, _)| is_scheme(scheme));
    let rest = match scheme {
        Some((_, rest)) => rest,
        None if relative => text,
        None => return false,
    };
    let (rest, fragment) = rest.split_once('#').map_or((rest, ""), |(rest, fragment)| (rest, fragment));
    let (rest, query) = rest.split_once('?').map_or((rest, ""), |(rest, query)| (rest, query));
    let of = |text: &str, more: &str| is_of_uri(text, more, international);
    let (authority, path) = match rest.strip_prefix("//") {
        Some(rest) => {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            (Some(authority), path)
        }
        None => (None, rest),
    };
    // The first part of a relative path would else be a scheme.
    let is_path = of(path, ":@/")
        && (scheme.is_some() || authority.is_some() || !path.split('/').next().unwrap_or("").contains(':'));
    is_path
        && of(query, ":@/?")
        && of(fragment, ":@/?")
        && authority.is_none_or(|authority| is_authority(authority, of))
}

fn is_authority(authority: &str, of: impl Fn(&str, &str) -> bool) -> bool {
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (host, port) = match host.strip_prefix('[') {
        Some(literal) => match literal.split_once(']') {
            Some((address, port)) if is_ipv6(address) || is_future_address(address) => ("", port),
            _ => return false,
        },
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    let is_port = port.is_empty() || port.strip_prefix(':').is_some_and(|port| is_digits(port, port.len()));
    of(user, ":") && of(host, "") && is_port
}

fn is_future_address(text: &str) -> bool {
    let rest = text.strip_prefix(['v', 'V']).and_then(|text| text.split_once('.'));
    rest.is_some_and(|(version, address)| {
        !version.is_empty()
            && version.bytes().all(|byte| byte.is_ascii_hexdigit())
            && !address.is_empty()
            && is_of_uri(address, ":", false)
            && !address.contains('%')
    })
}

/// Whether a part of a URI has only characters that may stand there.
fn is_of_uri(text: &str, more: &str, international: bool) -> bool {
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        let may_be = match character {
            '%' => {
                let digits = [characters.next(), characters.next()];
                digits.into_iter().all(|digit| digit.is_some_and(|digit| digit.is_ascii_hexdigit()))
            }
            character if character.is_ascii() => {
                character.is_ascii_alphanumeric() || "-._~!$&'()*+,;=".contains(character) || more.contains(character)
            }
            character => international && !matches!(character, '\u{80}'..='\u{9f}' | '\u{fff0}'..='\u{ffff}'),
        };
        if !may_be {
            return false;
        }
    }
    true
}

/// RFC 6570.
fn is_uri_template(text: &str) -> bool {
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        let (literal, from) = rest.split_at(at);
        let Some((expression, after)) = from.strip_prefix('{').and_then(|from| from.split_once('}')) else {
            return false;
        };
        if !is_literal(literal) || !is_expression(expression) {
            return false;
        }
        rest = after;
    }
    is_literal(rest)
}

fn is_literal(text: &str) -> bool {
    let percents = || {
        text.match_indices('%').all(|(at, _)| {
            text.get(at + 1..at + 3).is_some_and(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
        })
    };
    !text.contains(|character: char| character.is_control() || " \"'<>\\^`|".contains(character)) && percents()
}

fn is_expression(text: &str) -> bool {
    let list = text.strip_prefix(['+', '#', '.', '/', ';', '?', '&']).unwrap_or(text);
    list.split(',').all(|variable| {
        let (name, prefix) = variable.split_once(':').map_or((variable, None), |(name, prefix)| (name, Some(prefix)));
        let name = if prefix.is_none() { name.strip_suffix('*').unwrap_or(name) } else { name };
        let is_prefix = prefix.is_none_or(|prefix| {
            (1..=4).contains(&prefix.len()) && is_digits(prefix, prefix.len()) && !prefix.starts_with('0')
        });
        let may_be = |character: char| character.is_ascii_alphanumeric() || "_.%".contains(character);
        is_prefix && !name.is_empty() && name.chars().all(may_be) && is_literal(name)
    })
}
