//! Collects the reasons why an event is rejected, so that the sender is told all of them at once. Each rule has a method,
//! with a code of its own and a message that says how to mend the event. No message quotes a value of the event, which
//! may be a secret.

use std::borrow::Cow;
use std::fmt::{Display, Write as _};
use std::ops::RangeInclusive;

use crate::{Decimal, Object, Pattern, Place, Verdict, Violation, rules};

/// The gateway takes no more violations than this of one event.
const VIOLATIONS_MAX: usize = 100;

/// The reasons found so far. Allocates nothing while there are none.
///
/// ```
/// use eye_validator::{Decimal, Pattern, Violations};
///
/// struct Item { sku: String, quantity: u32 }
/// const SKU: Pattern = Pattern::new("[A-Z]{3}-\\d+");
///
/// let items = [Item { sku: "ABC-1".into(), quantity: 2 }, Item { sku: "abc".into(), quantity: 0 }];
/// let mut violations = Violations::new();
/// violations.email("/email", "ada@shop.example");
/// violations.decimals("/total", Decimal::of("19.99"), 2);
/// violations.length("/items", &items[..], 1..=100);
/// violations.each("/items", &items, |violations, at, item| {
///     violations.pattern(at.key("sku"), &item.sku, &SKU);
///     violations.range(at.key("quantity"), item.quantity, 1..=1_000);
/// });
/// let found: Vec<_> = violations.iter().map(|one| (&*one.pointer, &*one.code)).collect();
/// assert_eq!(found, [("/items/1/sku", "pattern"), ("/items/1/quantity", "range")]);
/// ```
#[derive(Debug, Default)]
pub struct Violations(Vec<Violation>);

/// What has a length: a text in characters, a list in elements.
pub trait Length {
    /// The length.
    fn length(&self) -> usize;
    /// What is counted, for people.
    const UNIT: &'static str;
}

impl Length for str {
    fn length(&self) -> usize {
        self.chars().count()
    }
    const UNIT: &'static str = "characters";
}

impl Length for String {
    fn length(&self) -> usize {
        self.chars().count()
    }
    const UNIT: &'static str = "characters";
}

impl Length for Cow<'_, str> {
    fn length(&self) -> usize {
        self.chars().count()
    }
    const UNIT: &'static str = "characters";
}

impl<T> Length for [T] {
    fn length(&self) -> usize {
        self.len()
    }
    const UNIT: &'static str = "elements";
}

impl<T> Length for Vec<T> {
    fn length(&self) -> usize {
        self.len()
    }
    const UNIT: &'static str = "elements";
}

impl Violations {
    /// Starts with none.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a violation unless `held` is true, and gives `held` back.
    ///
    /// `at` is the RFC 6901 pointer of the value within the data, or its [`Place`]; `code` a stable word for programs,
    /// `message` a sentence for people that says how to mend the event.
    pub fn require<'p>(&mut self, held: bool, at: impl Into<Place<'p>>, code: &str, message: &str) -> bool {
        if !held {
            self.add(at, code, message);
        }
        held
    }

    /// Adds a violation; see [`Violations::require`]. After the hundredth, nothing is added: the gateway takes no more.
    pub fn add<'p>(&mut self, at: impl Into<Place<'p>>, code: impl Into<String>, message: impl Into<String>) {
        if self.0.len() < VIOLATIONS_MAX {
            self.0.push(Violation { pointer: at.into().pointer(), code: code.into(), message: message.into() });
        }
    }

    /// A rule with a message that is only made if it does not hold.
    fn rule<'p>(&mut self, held: bool, at: impl Into<Place<'p>>, code: &str, message: impl FnOnce() -> String) -> bool {
        if !held && self.0.len() < VIOLATIONS_MAX {
            self.add(at, code, message());
        }
        held
    }

    /// A value that may be missing by its type and must be there by a rule. Gives it back. Code `required`.
    pub fn required<'p, 'v, T>(&mut self, at: impl Into<Place<'p>>, value: &'v Option<T>) -> Option<&'v T> {
        self.require(value.is_some(), at, "required", "Add this field.");
        value.as_ref()
    }

    /// A text is one of these. Code `one_of`.
    pub fn one_of<'p>(&mut self, at: impl Into<Place<'p>>, text: &str, allowed: &[&str]) -> bool {
        self.rule(allowed.contains(&text), at, "one_of", || {
            let mut message = "Give one of ".to_owned();
            for (index, word) in allowed.iter().enumerate() {
                // Writing to a text cannot fail.
                let _ = write!(message, "{}`{word}`", if index > 0 { ", " } else { "" });
            }
            message + "."
        })
    }

    /// A text has so many characters, or a list so many elements. Code `length`.
    pub fn length<'p, T: Length + ?Sized>(
        &mut self,
        at: impl Into<Place<'p>>,
        value: &T,
        allowed: RangeInclusive<usize>,
    ) -> bool {
        self.rule(allowed.contains(&value.length()), at, "length", || {
            format!("Give {} to {} {}.", allowed.start(), allowed.end(), T::UNIT)
        })
    }

    /// A number is within these bounds: a whole number or a [`Decimal`]. Code `range`.
    pub fn range<'p, N: PartialOrd + Display>(
        &mut self,
        at: impl Into<Place<'p>>,
        number: N,
        allowed: RangeInclusive<N>,
    ) -> bool {
        self.rule(allowed.contains(&number), at, "range", || {
            format!("Give a number from {} to {}.", allowed.start(), allowed.end())
        })
    }

    /// A decimal number has so many digits after the point at most: 2 for most currencies. Code `decimals`.
    pub fn decimals<'p>(&mut self, at: impl Into<Place<'p>>, number: Decimal, places_max: u32) -> bool {
        self.rule(number.places() <= places_max, at, "decimals", || {
            format!("Give a number with {places_max} digits after the point at most.")
        })
    }

    /// The whole of a text matches a pattern. Code `pattern`.
    pub fn pattern<'p>(&mut self, at: impl Into<Place<'p>>, text: &str, pattern: &Pattern) -> bool {
        self.rule(pattern.matches(text), at, "pattern", || format!("Give a text of the form `{}`.", pattern.text()))
    }

    /// A text is an e-mail address, see [`is_email`](crate::is_email). Code `email`.
    pub fn email<'p>(&mut self, at: impl Into<Place<'p>>, text: &str) -> bool {
        self.require(rules::is_email(text), at, "email", "Give an e-mail address, such as `ada@shop.example`.")
    }

    /// A text is the address of a page, see [`is_url`](crate::is_url). Code `url`.
    pub fn url<'p>(&mut self, at: impl Into<Place<'p>>, text: &str) -> bool {
        let message = "Give an address such as `https://shop.example/shoes`, without a password in it.";
        self.require(rules::is_url(text), at, "url", message)
    }

    /// A text is a UUID. Code `uuid`.
    pub fn uuid<'p>(&mut self, at: impl Into<Place<'p>>, text: &str) -> bool {
        let message = "Give a UUID, such as `0198c8b2-41d7-7e0a-9c35-7d2f60a1b9e4`.";
        self.require(rules::is_uuid(text), at, "uuid", message)
    }

    /// A text is a host name, see [`is_host_name`](crate::is_host_name). Code `host`.
    pub fn host<'p>(&mut self, at: impl Into<Place<'p>>, text: &str) -> bool {
        let message = "Give the host name alone, such as `shop.example`: no scheme, port or path.";
        self.require(rules::is_host_name(text), at, "host", message)
    }

    /// A text is a currency by ISO 4217. Code `currency`.
    pub fn currency<'p>(&mut self, at: impl Into<Place<'p>>, text: &str) -> bool {
        let message = "Give the three letters of a currency by ISO 4217, such as `EUR`.";
        self.require(rules::is_currency(text), at, "currency", message)
    }

    /// A text is a country by ISO 3166-1. Code `country`.
    pub fn country<'p>(&mut self, at: impl Into<Place<'p>>, text: &str) -> bool {
        let message = "Give the two letters of a country by ISO 3166-1, such as `DE`.";
        self.require(rules::is_country(text), at, "country", message)
    }

    /// Holds each element of a list to rules, with its place. Ends early once no more violations are kept.
    pub fn each<'p, T>(
        &mut self,
        at: impl Into<Place<'p>>,
        list: &[T],
        mut judge: impl FnMut(&mut Self, &Place<'_>, &T),
    ) {
        let at = at.into();
        for (index, item) in list.iter().enumerate() {
            if self.0.len() >= VIOLATIONS_MAX {
                return;
            }
            judge(self, &at.item(index), item);
        }
    }

    /// The violations found so far.
    pub fn iter(&self) -> impl Iterator<Item = &Violation> {
        self.0.iter()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Accepts the event as it was sent if there are no violations, else rejects it.
    pub fn verdict(self) -> Verdict {
        if self.is_empty() { Verdict::Accept } else { Verdict::Reject(self.0) }
    }

    /// Accepts the event with changed data if there are no violations, else rejects it.
    pub fn verdict_with(self, data: &Object<'_>) -> Verdict {
        if self.is_empty() { Verdict::Amend(data.to_text()) } else { Verdict::Reject(self.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_a_hundred_are_kept() {
        let mut violations = Violations::new();
        assert!(violations.is_empty());
        for _ in 0..1000 {
            violations.require(false, "", "code", "message");
        }
        violations.each("/list", &[0; 1000], |_, _, _| panic!("no more is kept"));
        let Verdict::Reject(kept) = violations.verdict() else { panic!("violations reject") };
        assert_eq!(kept.len(), 100);
    }

    #[test]
    fn every_rule_has_its_code_and_none_quotes_the_value() {
        const DIGITS: Pattern = Pattern::new("\\d+");
        let mut violations = Violations::new();
        let secret = "hunter2 is no such thing";
        violations.required("/a", &None::<u8>);
        violations.one_of("/b", secret, &["open", "closed"]);
        violations.length("/c", secret, 1..=3);
        violations.length("/d", &vec![1, 2], 3..=4);
        violations.range("/e", 424_242, 1..=10);
        violations.range("/f", Decimal::of("424242.42"), Decimal::of("0.01")..=Decimal::of("99.5"));
        violations.decimals("/g", Decimal::of("424242.123"), 2);
        violations.pattern("/h", secret, &DIGITS);
        violations.email("/i", secret);
        violations.url("/j", secret);
        violations.uuid("/k", secret);
        violations.host("/l", secret);
        violations.currency("/m", secret);
        violations.country("/n", secret);
        let codes: Vec<&str> = violations.iter().map(|one| one.code.as_str()).collect();
        assert_eq!(
            codes,
            [
                "required", "one_of", "length", "length", "range", "range", "decimals", "pattern", "email", "url",
                "uuid", "host", "currency", "country"
            ]
        );
        for one in violations.iter() {
            assert!(!one.message.contains("hunter2") && !one.message.contains("4242"), "{}", one.message);
            assert!(one.message.ends_with('.'), "{}", one.message);
        }
        let messages: Vec<&str> = violations.iter().map(|one| one.message.as_str()).collect();
        assert_eq!(messages[1], "Give one of `open`, `closed`.");
        assert_eq!(messages[3], "Give 3 to 4 elements.");
        assert_eq!(messages[5], "Give a number from 0.01 to 99.5.");
    }

    #[test]
    fn what_holds_adds_nothing() {
        let mut violations = Violations::new();
        assert_eq!(violations.required("/a", &Some(7)), Some(&7));
        assert!(violations.one_of("/b", "open", &["open"]));
        assert!(violations.length("/c", "\u{e9}\u{1F600}", 2..=2));
        assert!(violations.range("/d", 3u8, 3..=3));
        assert!(violations.decimals("/e", Decimal::of("1.10"), 1));
        assert!(violations.is_empty());
    }

    #[test]
    fn elements_of_lists_within_lists_have_their_pointers() {
        let mut violations = Violations::new();
        violations.each("/orders", &[vec!["a", ""], vec!["b"]], |violations, at, lines| {
            violations.each(at.key("lines"), lines, |violations, at, line| {
                violations.length(at, *line, 1..=1);
            });
        });
        let pointers: Vec<&str> = violations.iter().map(|one| one.pointer.as_str()).collect();
        assert_eq!(pointers, ["/orders/0/lines/1"]);
    }
}
