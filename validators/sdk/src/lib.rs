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
//! With the feature `bump-allocator`, what a validator takes of its memory (64 MiB unless its settings say otherwise) comes
//! back after the event and not before, which makes it judge in less time. It suits types that borrow from the data; lists
//! of owned values, which a hostile sender makes long, do better without.
//!
//! `cargo build --target wasm32-unknown-unknown` makes the module (the crate is a `cdylib`), and `cargo test` runs the
//! examples on the host. The same event must get the same verdict whatever was judged before, so keep nothing between
//! calls.

#[doc(hidden)]
pub mod bindings;
mod json;
mod read;
mod rules;
#[cfg(not(target_family = "wasm"))]
pub mod testing;
mod violations;

use serde::Deserialize;

pub use bindings::eye::validator::types::{Expectation, Violation};
pub use bindings::{Description, Verdict};
pub use json::{Json, Malformed, Object, Part};
pub use rules::is_host_name;
pub use violations::{Violations, pointer};

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

/// What [`validator!`] makes of a function, a summary and examples.
pub trait Validator {
    /// One line for people: which events this judges, and by which rules.
    const SUMMARY: &'static str;

    /// The self-test.
    const EXAMPLES: &'static [Example];

    /// Judges one event as the gateway gives it.
    fn judge(event: &RawEvent) -> Verdict;
}

/// One event as the gateway gives it, before its data is read.
pub type RawEvent = bindings::eye::validator::types::Event;

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

/// What a validator says of itself, in the gateway's words.
#[doc(hidden)]
pub fn describe<V: Validator>() -> Description {
    // The gateway calls this first, and what it leaves is what every event finds. An event for which memory must grow costs a
    // new instance, and how much is free in the last page is chance. Only before anything is taken does the allocator notice.
    #[cfg(all(target_family = "wasm", feature = "bump-allocator"))]
    core::arch::wasm32::memory_grow::<0>(2);
    let example = |example: &Example| bindings::eye::validator::types::Example {
        title: example.title.to_owned(),
        data: example.data.to_owned(),
        expect: example.expect,
    };
    Description { summary: V::SUMMARY.to_owned(), examples: V::EXAMPLES.iter().map(example).collect() }
}

#[doc(hidden)]
pub use bindings::{Guest, export_validator};

/// Makes a validator of a function `fn(&Event<T>) -> Verdict`, a summary, and examples: `accept`, `amend` or `reject`,
/// a title, and data. Also makes a test that gives each example to the function.
#[macro_export]
macro_rules! validator {
    (
        $judge:path,
        summary: $summary:expr,
        examples: [$($(#[$condition:meta])* $expect:ident $title:literal : $data:expr),+ $(,)?] $(,)?
    ) => {
        /// The validator of this crate.
        pub struct EyeValidator;

        impl $crate::Validator for EyeValidator {
            const SUMMARY: &'static str = $summary;
            const EXAMPLES: &'static [$crate::Example] = &[$(
                $(#[$condition])*
                $crate::Example { title: $title, data: $data, expect: $crate::expectation!($expect) },
            )+];

            fn judge(event: &$crate::RawEvent) -> $crate::Verdict {
                $crate::judge(event, $judge)
            }
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

        #[cfg(test)]
        #[test]
        fn every_example_gets_its_verdict() {
            $crate::testing::run_examples::<EyeValidator>();
        }
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
