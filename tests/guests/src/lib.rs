//! What the test modules in `examples/` share. Each of them is one way to break the gateway's rules, and does nothing
//! else. Built by `cargo build --profile guest --target wasm32-unknown-unknown -p guests --examples`.
//!
//! Most misbehave only on data that holds `"misbehave": true`, so that they pass their self-test and healthy events
//! can be sent in between. Those that need a contract of their own do not use this crate.

#[doc(hidden)]
pub mod bindings;

pub use bindings::eye::validator::types::{Example, Expectation, Violation};
pub use bindings::{Description, Event, Verdict};

/// Whether the event tells the guest to misbehave.
pub fn misbehaves(event: &Event) -> bool {
    let data: String = event.data.split_whitespace().collect();
    data.contains("\"misbehave\":true")
}

/// The description of a guest that gives this verdict to `{}`.
pub fn describe_with(expect: Expectation) -> Description {
    let example = Example { title: "nothing".to_owned(), data: "{}".to_owned(), expect };
    Description { summary: "A guest of the gateway's tests.".to_owned(), examples: vec![example] }
}

/// Exports a function `fn(&str) -> String` as `redact` of a guest besides.
#[macro_export]
macro_rules! redacts {
    ($redact:path) => {
        impl $crate::bindings::redact::Guest for Guest {
            fn redact(data: String) -> String {
                $redact(&data)
            }
        }

        $crate::bindings::redact::export_redact!(Guest with_types_in $crate::bindings::redact);
    };
}

/// Exports a function `fn(&Event) -> Verdict` as a validator. Without a function that describes it, it says that it
/// accepts `{}`.
#[macro_export]
macro_rules! guest {
    ($validate:path) => {
        $crate::guest!($validate, || $crate::describe_with($crate::Expectation::Accept));
    };
    ($validate:path, $describe:expr) => {
        struct Guest;

        impl $crate::bindings::Guest for Guest {
            fn describe() -> $crate::Description {
                let describe: fn() -> $crate::Description = $describe;
                describe()
            }

            fn validate(event: $crate::Event) -> $crate::Verdict {
                $validate(&event)
            }
        }

        $crate::bindings::export_guest!(Guest with_types_in $crate::bindings);
    };
}
