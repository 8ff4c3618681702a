//! Write a validator for The Eye: one function over a serde type, and a few examples.
//!
//! ```
//! use std::borrow::Cow;
//!
//! use eye_validator::{Event, Verdict, Violations};
//!
//! #[derive(serde::Deserialize)]
//! struct Pageview<'a> {
//!     #[serde(borrow)]
//!     path: Cow<'a, str>,
//! }
//!
//! fn judge(event: &Event<Pageview>) -> Verdict {
//!     let mut violations = Violations::new();
//!     let absolute = event.data.path.starts_with('/');
//!     violations.require(absolute, "/path", "bad_path", "Give the path of the page, beginning with `/`.");
//!     violations.verdict()
//! }
//!
//! eye_validator::validator! {
//!     judge,
//!     summary: "A page was seen.",
//!     examples: [
//!         accept "a page": r#"{"path":"/"}"#,
//!         reject "a path without slash": r#"{"path":"home"}"#,
//!     ],
//! }
//! # fn main() { eye_validator::testing::run_examples::<EyeValidator>(); }
//! ```
//!
//! Data that does not fit the type never reaches the function: it is rejected, with a violation for each field that is
//! missing (`required`) or wrong (`type`, `value`, ...). Fields of type `Option` may be missing, and fields that the
//! type does not name are let pass. `String` and `Cow<str>` (with `#[serde(borrow)]`, which spares a copy) take every
//! JSON string; `&str` takes only those without escapes. To change data, see [`Object`]; it keeps what is not changed
//! to the last digit.
//!
//! [`Violations`] has a method for each rule that many validators need: `required`, `one_of`, `length`, `range`,
//! `decimals`, `pattern`, `email`, `url`, `uuid`, `host`, `currency`, `country`, and `each` for lists. [`Decimal`] holds
//! amounts exactly; a float does not hold 19.99.
//!
//! A validator may say more, by functions that are named before the summary and after the examples:
//!
//! ```
//! # use eye_validator::{Event, Expectation, MoreExample, Object, Verdict, Violations};
//! # #[derive(serde::Deserialize)]
//! # struct SignIn { attempts: u32 }
//! # fn judge(event: &Event<SignIn>) -> Verdict { judge_at(event, event.timestamp) }
//! # fn judge_at(event: &Event<SignIn>, received_at: i64) -> Verdict {
//! #     let mut violations = Violations::new();
//! #     violations.require(received_at - event.timestamp < 86_400_000_000, "", "late", "Send it within a day.");
//! #     violations.verdict()
//! # }
//! /// What may be kept of an event that is refused: nothing else of it is, be it by a message.
//! fn redact(mut data: Object<'_>) -> Object<'_> {
//!     data.remove("password");
//!     data
//! }
//!
//! eye_validator::validator! {
//!     judge,
//!     redact: redact,
//!     judge_at: judge_at, // in place of `judge`, with the time at which the gateway received the event first
//!     summary: "Somebody signed in.",
//!     examples: [accept "at the first attempt": r#"{"attempts":1}"#],
//!     more_examples: [
//!         MoreExample::new(Expectation::Reject, "no number", r#"{"attempts":"one"}"#).with_codes(&["type"]),
//!     ],
//! }
//! # fn main() { eye_validator::testing::run_examples::<EyeValidator>(); }
//! ```
//!
//! With the feature `bump-allocator`, what a validator takes of its memory (64 MiB unless its settings say otherwise) comes
//! back after the event and not before, which makes it judge in less time. It suits types that borrow from the data; lists
//! of owned values, which a hostile sender makes long, do better without.
//!
//! A panic ends the event as a fault, and the gateway keeps its message beside the dead letter for those with the scope `raw`,
//! unless the module takes something out of events or judges by the time of receipt (`judge_at`). A self-test that fails by a
//! panic says the message too.
//!
//! `cargo build --target wasm32-unknown-unknown` makes the module (the crate is a `cdylib`), and `cargo test` runs the
//! examples on the host. The same event must get the same verdict whatever was judged before, so keep nothing between
//! calls.

#[doc(hidden)]
pub mod bindings;
mod decimal;
mod json;
#[cfg(target_family = "wasm")]
mod last_words;
mod pattern;
mod place;
mod read;
mod rules;
#[cfg(not(target_family = "wasm"))]
pub mod testing;
mod violations;

use serde::Deserialize;

pub use bindings::validator::eye::validator::types::{Expectation, Violation};
pub use bindings::validator::{Description, Verdict};
pub use decimal::Decimal;
pub use json::{Json, Malformed, Object, Part};
pub use pattern::Pattern;
pub use place::{Place, pointer};
pub use rules::{is_country, is_currency, is_email, is_host_name, is_url, is_uuid};
pub use violations::{Length, Violations};

/// The gateway has every event find the module in one and the same state, so what an event took is back when the next one
/// comes, and giving it back before is work for nothing.
#[cfg(all(target_family = "wasm", feature = "bump-allocator"))]
#[global_allocator]
static ALLOCATOR: mini_alloc::MiniAlloc = mini_alloc::MiniAlloc::INIT;

/// One fact that an application reported, with its data read as `T`.
#[derive(Clone, Debug)]
pub struct Event<'a, T> {
    /// The event's UUID in lower case with hyphens.
    pub id: &'a str,
    /// The name of the application that sent the event.
    pub application: &'a str,
    /// The session's UUID in lower case with hyphens.
    pub session_id: &'a str,
    /// The first half of the event type.
    pub category: &'a str,
    /// The second half of the event type.
    pub name: &'a str,
    /// When the event occurred, in microseconds since 1970-01-01T00:00:00Z.
    pub timestamp: i64,
    /// The event's data, as far as `T` names it.
    pub data: T,
    /// The text of the whole data, as the sender wrote it.
    pub text: &'a str,
}

impl<'a, T> Event<'a, T> {
    /// The whole data, to be edited and given to [`Violations::verdict_with`].
    pub fn object(&self) -> Object<'a> {
        Object::parse(self.text).expect("an event's data is an object, and was read as `T` before")
    }
}

/// An example by which the gateway tries a module before it trusts it.
#[derive(Clone, Copy, Debug)]
pub struct Example {
    /// What the example shows, for people.
    pub title: &'static str,
    /// The `data` of the example event: the text of a JSON object.
    pub data: &'static str,
    /// The verdict that the validator must give.
    pub expect: Expectation,
}

/// An example that says more than others do; what is left out is made up.
#[derive(Clone, Copy, Debug)]
pub struct MoreExample {
    /// What every example says.
    pub example: Example,
    /// The second half of the event type, for a module that serves several names.
    pub name: Option<&'static str>,
    /// When the event occurs, in microseconds since 1970-01-01T00:00:00Z.
    pub timestamp: Option<i64>,
    /// The application that sends it.
    pub application: Option<&'static str>,
    /// The codes of the violations, in any order; none means any.
    pub codes: &'static [&'static str],
}

impl MoreExample {
    /// An example that says no more than others.
    pub const fn new(expect: Expectation, title: &'static str, data: &'static str) -> Self {
        let example = Example { title, data, expect };
        Self { example, name: None, timestamp: None, application: None, codes: &[] }
    }

    /// With the codes of the violations, in any order.
    #[must_use]
    pub const fn with_codes(self, codes: &'static [&'static str]) -> Self {
        Self { codes, ..self }
    }

    /// With the second half of the event type.
    #[must_use]
    pub const fn with_name(self, name: &'static str) -> Self {
        Self { name: Some(name), ..self }
    }

    /// With the time at which the event occurs, in microseconds since 1970-01-01T00:00:00Z.
    #[must_use]
    pub const fn with_timestamp(self, timestamp: i64) -> Self {
        Self { timestamp: Some(timestamp), ..self }
    }

    /// With the application that sends it.
    #[must_use]
    pub const fn with_application(self, application: &'static str) -> Self {
        Self { application: Some(application), ..self }
    }
}

/// What [`validator!`] makes of a function, a summary and examples.
pub trait Validator {
    /// One line for people: which events this judges, and by which rules.
    const SUMMARY: &'static str;

    /// The self-test.
    const EXAMPLES: &'static [Example];

    /// More of it.
    const MORE_EXAMPLES: &'static [MoreExample] = &[];

    /// Judges one event as the gateway gives it.
    fn judge(event: &RawEvent) -> Verdict;

    /// Judges one event by the time of its receipt, in microseconds since 1970-01-01T00:00:00Z, if the validator wants it.
    fn judge_at(event: &RawEvent, _received_at: i64) -> Verdict {
        Self::judge(event)
    }

    /// What may be kept of an event with this data that is not stored, if the validator says it.
    fn redact(_data: &str) -> Option<String> {
        None
    }
}

/// One event as the gateway gives it, before its data is read.
pub type RawEvent = bindings::validator::eye::validator::types::Event;

/// Reads an event's data and judges it. Data that does not fit `T` is rejected.
pub fn judge<'a, T: Deserialize<'a>>(event: &'a RawEvent, judge: impl Fn(&Event<'a, T>) -> Verdict) -> Verdict {
    match read::read(&event.data) {
        Ok(data) => judge(&Event {
            id: &event.id,
            application: &event.application,
            session_id: &event.session_id,
            category: &event.category,
            name: &event.name,
            timestamp: event.timestamp,
            data,
            text: &event.data,
        }),
        Err(violations) => Verdict::Reject(violations),
    }
}

/// Gives the data of an event that is not stored to a function that takes out what nobody is to read.
pub fn redact<'a>(data: &'a str, redact: impl Fn(Object<'a>) -> Object<'a>) -> String {
    // What is no object is no event, so there is nothing to be kept.
    Object::parse(data).map_or_else(|_| "{}".to_owned(), |data| redact(data).to_text())
}

/// More examples, in the gateway's words.
#[doc(hidden)]
pub fn more_examples<V: Validator>() -> Vec<bindings::examples::Example2> {
    let example = |more: &MoreExample| bindings::examples::Example2 {
        title: more.example.title.to_owned(),
        name: more.name.map(str::to_owned),
        timestamp: more.timestamp,
        application: more.application.map(str::to_owned),
        data: more.example.data.to_owned(),
        expect: more.example.expect,
        codes: more.codes.iter().map(|code| (*code).to_owned()).collect(),
    };
    V::MORE_EXAMPLES.iter().map(example).collect()
}

/// What a validator says of itself, in the gateway's words.
#[doc(hidden)]
pub fn describe<V: Validator>() -> Description {
    // The gateway calls this first, and what it leaves is what every event finds. An event for which memory must grow costs a
    // new instance, and how much is free in the last page is chance. Only before anything is taken does the allocator notice.
    #[cfg(all(target_family = "wasm", feature = "bump-allocator"))]
    core::arch::wasm32::memory_grow::<0>(2);
    #[cfg(target_family = "wasm")]
    last_words::keep();
    let example = |example: &Example| bindings::validator::eye::validator::types::Example {
        title: example.title.to_owned(),
        data: example.data.to_owned(),
        expect: example.expect,
    };
    Description { summary: V::SUMMARY.to_owned(), examples: V::EXAMPLES.iter().map(example).collect() }
}

#[doc(hidden)]
pub use bindings::examples::{Guest as ExamplesGuest, export_examples};
#[doc(hidden)]
pub use bindings::redact::{Guest as RedactGuest, export_redact};
#[doc(hidden)]
pub use bindings::validate_at::{Guest as ValidateAtGuest, export_validate_at};
#[doc(hidden)]
pub use bindings::validator::{Guest, export_validator};

/// Makes a validator of a function `fn(&Event<T>) -> Verdict`, a summary, and examples: `accept`, `amend` or `reject`,
/// a title, and data. Also makes a test that gives each example to the function. The functions `redact` and `judge_at`, and a
/// list of [`MoreExample`], may be given besides; a gateway of an older release does not ask for them.
#[macro_export]
macro_rules! validator {
    (
        $judge:path,
        $(redact: $redact:path,)?
        $(judge_at: $judge_at:path,)?
        summary: $summary:expr,
        examples: [$($(#[$condition:meta])* $expect:ident $title:literal : $data:expr),+ $(,)?]
        $(, more_examples: [$($more:expr),+ $(,)?])? $(,)?
    ) => {
        /// The validator of this crate.
        pub struct EyeValidator;

        impl $crate::Validator for EyeValidator {
            const SUMMARY: &'static str = $summary;
            const EXAMPLES: &'static [$crate::Example] = &[$(
                $(#[$condition])*
                $crate::Example { title: $title, data: $data, expect: $crate::expectation!($expect) },
            )+];

            $(const MORE_EXAMPLES: &'static [$crate::MoreExample] = &[$($more),+];)?

            fn judge(event: &$crate::RawEvent) -> $crate::Verdict {
                $crate::judge(event, $judge)
            }

            $(fn judge_at(event: &$crate::RawEvent, received_at: i64) -> $crate::Verdict {
                $crate::judge(event, |event| $judge_at(event, received_at))
            })?

            $(fn redact(data: &str) -> Option<String> {
                Some($crate::redact(data, $redact))
            })?
        }

        #[cfg(target_family = "wasm")]
        const _: () = {
            impl $crate::Guest for EyeValidator {
                fn describe() -> $crate::Description {
                    $crate::describe::<Self>()
                }

                fn validate(event: $crate::RawEvent) -> $crate::Verdict {
                    <Self as $crate::Validator>::judge(&event)
                }
            }

            $crate::export_validator!(EyeValidator);
        };

        $($crate::export_besides!(redact $redact);)?
        $($crate::export_besides!(judge_at $judge_at);)?
        $($crate::export_besides!(examples $($more),+);)?

        #[cfg(test)]
        #[test]
        fn every_example_gets_its_verdict() {
            $crate::testing::run_examples::<EyeValidator>();
        }
    };
}

/// Exports what a validator says besides. What follows the word is there so that nothing is exported without it.
#[doc(hidden)]
#[macro_export]
macro_rules! export_besides {
    (redact $redact:path) => {
        #[cfg(target_family = "wasm")]
        const _: () = {
            impl $crate::RedactGuest for EyeValidator {
                fn redact(data: String) -> String {
                    $crate::redact(&data, $redact)
                }
            }

            $crate::export_redact!(EyeValidator);
        };
    };
    (judge_at $judge_at:path) => {
        #[cfg(target_family = "wasm")]
        const _: () = {
            impl $crate::ValidateAtGuest for EyeValidator {
                fn validate_at(event: $crate::RawEvent, received_at: i64) -> $crate::Verdict {
                    <Self as $crate::Validator>::judge_at(&event, received_at)
                }
            }

            $crate::export_validate_at!(EyeValidator);
        };
    };
    (examples $($more:expr),+) => {
        #[cfg(target_family = "wasm")]
        const _: () = {
            impl $crate::ExamplesGuest for EyeValidator {
                fn examples() -> Vec<$crate::bindings::examples::Example2> {
                    $crate::more_examples::<Self>()
                }
            }

            $crate::export_examples!(EyeValidator);
        };
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! expectation {
    (accept) => {
        $crate::Expectation::Accept
    };
    (amend) => {
        $crate::Expectation::Amend
    };
    (reject) => {
        $crate::Expectation::Reject
    };
}
