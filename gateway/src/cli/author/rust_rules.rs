//! The rules of single values in Rust code that is made from a schema: what a keyword becomes.

use serde_json::Number;

use super::schema_node::Node;

/// Steps of a pattern that the kit compiles, with room for those that hold it together.
const PATTERN_STEPS_MAX: usize = 110;

/// Characters of a pattern that is taken over.
const PATTERN_CHARACTERS_MAX: usize = 200;

/// A rule. In its texts, `{v}` is the value, a reference, and `{at}` its place.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    /// The keyword, for a message of the schema's own.
    pub(super) keyword: &'static str,
    code: &'static str,
    /// The condition.
    holds: String,
    /// The method of the kit for it, and else what is wanted in words.
    says: Says,
}

#[derive(Debug, Clone)]
enum Says {
    Method(String),
    Message(String),
}

impl Rule {
    pub(super) fn method(keyword: &'static str, code: &'static str, holds: String, method: String) -> Self {
        Self { keyword, code, holds, says: Says::Method(method) }
    }

    pub(super) fn message(keyword: &'static str, code: &'static str, holds: String, message: String) -> Self {
        Self { keyword, code, holds, says: Says::Message(message) }
    }

    /// The statement, with the schema's own message if there is one.
    pub(super) fn statement(&self, own: Option<&str>) -> String {
        match (own, &self.says) {
            (None, Says::Method(method)) => format!("violations.{method};"),
            (own, Says::Message(message)) => self.required(own.unwrap_or(message)),
            (Some(message), Says::Method(_)) => self.required(message),
        }
    }

    fn required(&self, message: &str) -> String {
        format!("violations.require({}, {{at}}, {:?}, {});", self.holds, self.code, quoted(message))
    }
}

/// A text in the source. What looks like the place of a value in it is written in another way, so that nothing is filled in.
pub(super) fn quoted(text: &str) -> String {
    format!("{text:?}").replace("{v}", "\\u{7b}v}").replace("{at}", "\\u{7b}at}")
}

/// A decimal number in the source, if the kit's type holds it.
pub(super) fn decimal(number: &Number) -> Option<String> {
    let text = number.to_string();
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((&text, "0"));
    let digits = mantissa.bytes().filter(u8::is_ascii_digit).count();
    let exponent: i64 = exponent.parse().ok()?;
    (digits <= 17 && exponent.abs() <= 18).then(|| format!("Decimal::of(\"{text}\")"))
}

/// The bounds of a count: the least and the most.
pub(super) fn count_rule(schema: &Node, least: &'static str, most: &'static str, unit: &str, list: bool) -> Vec<Rule> {
    let bound = |key: &str| schema.get(key).and_then(Node::count);
    let length = if list { "{v}.len()" } else { "{v}.chars().count()" };
    match (bound(least).filter(|least| *least > 0), bound(most)) {
        (Some(low), Some(high)) => {
            let holds = format!("({low}..={high}).contains(&{length})");
            vec![Rule::method(least, "length", holds, format!("length({{at}}, {{v}}, {low}..={high})"))]
        }
        (None, Some(high)) => {
            let message = format!("Give {high} {unit} at most.");
            vec![Rule::message(most, "length", format!("{length} <= {high}"), message)]
        }
        (Some(1), None) => {
            vec![Rule::message(
                least,
                "length",
                "!{v}.is_empty()".to_owned(),
                format!("Give 1 {} at least.", unit.trim_end_matches('s')),
            )]
        }
        (Some(low), None) => {
            let message = format!("Give {low} {unit} at least.");
            vec![Rule::message(least, "length", format!("{length} >= {low}"), message)]
        }
        (None, None) => Vec::new(),
    }
}

/// The rule of a format, if the code can judge it.
pub(super) fn format_rule(format: &str) -> Option<Rule> {
    let of_kit = |method: &str, function: &str| {
        Rule::method(
            "format",
            "format",
            format!("eye_validator::{function}({{v}})"),
            format!("{method}({{at}}, {{v}})"),
        )
    };
    let own = |function: &str, wanted: &str| {
        Rule::message("format", "format", format!("schema::{function}({{v}})"), format!("Give {wanted}."))
    };
    Some(match format {
        "email" => of_kit("email", "is_email"),
        "uuid" => of_kit("uuid", "is_uuid"),
        "hostname" => of_kit("host", "is_host_name"),
        "date" => own("is_date", "a date, such as 2026-01-05"),
        "time" => own("is_time", "a time with its zone, such as 09:15:27Z"),
        "date-time" => own("is_date_time", "a date and a time with its zone, such as 2026-01-05T09:15:27Z"),
        "ipv4" => own("is_ipv4", "an address of IPv4, such as 192.0.2.1"),
        "ipv6" => own("is_ipv6", "an address of IPv6, such as 2001:db8::1"),
        _ => return None,
    })
}

/// The bounds of a number: each with the sign that compares, and whether it is the least.
pub(super) fn bounds(schema: &Node) -> Vec<(&'static str, &'static str, &Number)> {
    let keys = [("minimum", ">="), ("exclusiveMinimum", ">"), ("maximum", "<="), ("exclusiveMaximum", "<")];
    let bound = |(key, sign): (&'static str, &'static str)| match schema.get(key) {
        Some(Node::Number(number)) => Some((key, sign, number)),
        _ => None,
    };
    keys.into_iter().filter_map(bound).collect()
}

/// The rules of whole numbers, if all bounds are whole and far from those of 64 bits.
pub(super) fn whole_rules(schema: &Node) -> Option<Vec<Rule>> {
    let (mut least, mut most) = (None, None);
    for (key, _, number) in bounds(schema) {
        let number = number.as_i64().filter(|number| number.unsigned_abs() < 1 << 62)?;
        match key {
            "minimum" => least = Some(least.unwrap_or(i64::MIN).max(number)),
            "exclusiveMinimum" => least = Some(least.unwrap_or(i64::MIN).max(number + 1)),
            "maximum" => most = Some(most.unwrap_or(i64::MAX).min(number)),
            _ => most = Some(most.unwrap_or(i64::MAX).min(number - 1)),
        }
    }
    Some(match (least, most) {
        (Some(least), Some(most)) => {
            let holds = format!("({least}..={most}).contains(&{{v}}.0)");
            vec![Rule::method("minimum", "range", holds, format!("range({{at}}, {{v}}.0, {least}..={most})"))]
        }
        (Some(least), None) => {
            let message = format!("Give a whole number of {least} or more.");
            vec![Rule::message("minimum", "range", format!("{{v}}.0 >= {least}"), message)]
        }
        (None, Some(most)) => {
            let message = format!("Give a whole number of {most} or less.");
            vec![Rule::message("maximum", "range", format!("{{v}}.0 <= {most}"), message)]
        }
        (None, None) => Vec::new(),
    })
}

/// The rules of other numbers, and the keywords whose numbers the kit's type does not hold.
pub(super) fn number_rules(schema: &Node) -> (Vec<Rule>, Vec<&'static str>) {
    let (mut rules, mut left) = (Vec::new(), Vec::new());
    let bounds = bounds(schema);
    if let [("minimum", _, low), ("maximum", _, high)] = &bounds[..]
        && let (Some(low), Some(high)) = (decimal(low), decimal(high))
    {
        let holds = format!("({low}..={high}).contains(&{{v}}.0)");
        rules.push(Rule::method("minimum", "range", holds, format!("range({{at}}, {{v}}.0, {low}..={high})")));
    } else {
        for (key, sign, number) in bounds {
            let Some(bound) = decimal(number) else {
                left.push(key);
                continue;
            };
            let words = match sign {
                ">=" => format!("of {number} or more"),
                ">" => format!("above {number}"),
                "<=" => format!("of {number} or less"),
                _ => format!("below {number}"),
            };
            rules.push(Rule::message(
                key,
                "range",
                format!("{{v}}.0 {sign} {bound}"),
                format!("Give a number {words}."),
            ));
        }
    }
    if let Some(Node::Number(step)) = schema.get("multipleOf") {
        match (places(step), decimal(step)) {
            (Some(places), _) => {
                let holds = format!("{{v}}.0.places() <= {places}");
                rules.push(Rule::method(
                    "multipleOf",
                    "decimals",
                    holds,
                    format!("decimals({{at}}, {{v}}.0, {places})"),
                ));
            }
            (None, Some(of)) => {
                let holds = format!("schema::is_multiple({{v}}.0, {of})");
                rules.push(Rule::message("multipleOf", "multiple", holds, format!("Give a multiple of {step}.")));
            }
            (None, None) => left.push("multipleOf"),
        }
    }
    (rules, left)
}

/// The digits after the point, if a step is 1, 0.1, 0.01 and so on.
fn places(step: &Number) -> Option<usize> {
    let text = step.to_string();
    if text == "1" || text == "1.0" {
        return Some(0);
    }
    let part = text.strip_prefix("0.")?;
    (part.trim_start_matches('0') == "1").then_some(part.len())
}

/// A regular expression of ECMA-262, which may match anywhere, as a pattern of the kit, which matches the whole text.
///
/// # Errors
///
/// Why it cannot be taken over.
pub(super) fn pattern(text: &str) -> Result<String, &'static str> {
    if text.chars().count() > PATTERN_CHARACTERS_MAX {
        return Err("the pattern is long");
    }
    let (begins, rest) = text.strip_prefix('^').map_or((false, text), |rest| (true, rest));
    let is_end = rest.ends_with('$') && !rest.ends_with("\\$");
    let body = if is_end { &rest[..rest.len() - 1] } else { rest };
    let body = translated(body)?;
    let is_alternative = body.contains('|');
    if is_alternative && (begins || is_end) && !(body.starts_with('(') && body.find(')') == Some(body.len() - 1)) {
        return Err("alternatives beside `^` or `$`");
    }
    let body = if is_alternative { format!("({body})") } else { body };
    Ok(format!("{}{body}{}", if begins { "" } else { ".*" }, if is_end { "" } else { ".*" }))
}

/// What stands between braces, and the most repetitions that it asks for.
fn repetition(characters: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<(String, usize)> {
    let count: String = std::iter::from_fn(|| characters.next_if(|next| *next != '}')).collect();
    let is_plain = count.chars().all(|next| next.is_ascii_digit() || next == ',');
    let numbers = || count.split(',').filter(|number| !number.is_empty());
    if characters.next().is_none() || !is_plain || count.is_empty() || count.starts_with(',') {
        return None;
    }
    let most = numbers().map(|number| number.parse::<usize>().unwrap_or(usize::MAX)).max()?;
    Some((count, most))
}

/// The pattern without anchors in the kit's words: what means the same in both.
fn translated(body: &str) -> Result<String, &'static str> {
    const NOT_TAKEN: &str = "the kit's patterns have no such sign";
    let (mut out, mut steps, mut in_class) = (String::new(), 0, false);
    let mut characters = body.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\\' => {
                let next = characters.next().ok_or(NOT_TAKEN)?;
                let is_taken = matches!(next, 'd' | 'w') || matches!(next, 'D' | 'W') && !in_class;
                if !is_taken && next.is_alphanumeric() {
                    return Err(NOT_TAKEN);
                }
                out.extend(['\\', next]);
                steps += usize::from(!in_class);
                continue;
            }
            '[' if in_class => out.push_str("\\["),
            '[' => {
                in_class = true;
                steps += 1;
                out.push('[');
                if characters.next_if_eq(&'^').is_some() {
                    out.push('^');
                }
                if characters.peek() == Some(&']') {
                    return Err(NOT_TAKEN);
                }
            }
            ']' if in_class => {
                in_class = false;
                out.push(']');
            }
            _ if in_class => out.push(character),
            '.' => {
                steps += 1;
                out.push_str("[^\n\r\u{2028}\u{2029}]");
            }
            '^' | '$' | ']' | '}' => return Err(NOT_TAKEN),
            '(' if characters.peek() == Some(&'?') => return Err("groups with `?`"),
            '{' => {
                let (count, most) = repetition(&mut characters).filter(|_| !out.ends_with(')')).ok_or(NOT_TAKEN)?;
                steps += most.saturating_mul(2);
                out.push_str(&format!("{{{count}}}"));
            }
            '*' | '+' | '?' => {
                if characters.peek() == Some(&'?') {
                    return Err("repetitions with `?`");
                }
                if character == '+' && out.ends_with(')') {
                    steps *= 2;
                }
                steps += 3;
                out.push(character);
            }
            '(' | ')' | '|' => {
                steps += 2;
                out.push(character);
            }
            _ => {
                steps += 1;
                out.push(character);
            }
        }
        if steps > PATTERN_STEPS_MAX {
            return Err("the pattern has many steps");
        }
    }
    if in_class { Err(NOT_TAKEN) } else { Ok(out) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_taken_over_where_they_mean_the_same() {
        for (given, taken) in [
            ("^[A-Z]{2}-[0-9]{4,8}$", "[A-Z]{2}-[0-9]{4,8}"),
            ("a\\d+", ".*a\\d+.*"),
            ("^/", "/.*"),
            ("a|b", ".*(a|b).*"),
            ("^(a|b)$", "((a|b))"),
        ] {
            assert_eq!(pattern(given).as_deref(), Ok(taken), "{given}");
        }
        for given in ["^a|b$", "\\s", "(?=a)", "a{500}", "\\u0041", "a*?", "a$b", "\\bx", "[\\D]", "(ab){3}"] {
            assert!(pattern(given).is_err(), "{given}");
        }
    }

    #[test]
    fn steps_of_money_are_decimals() {
        let step = |text: &str| places(&serde_json::from_str(text).expect("a number"));
        assert_eq!([step("0.01"), step("1"), step("0.25"), step("5")], [Some(2), Some(0), None, None]);
    }
}
