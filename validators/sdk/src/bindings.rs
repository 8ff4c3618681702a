//! What `wit/validator.wit` becomes in Rust, and what 1.1.0 adds to it: a function each, that a module may export besides.
//! A generator made these files; `tests/bindings.rs` holds them to `wit` and makes them anew.

#![allow(
    clippy::allow_attributes,
    reason = "an expectation must hold in each file, and the files differ in which of these they need"
)]
#![allow(
    missing_docs,
    unreachable_pub,
    unsafe_code,
    unused_qualifications,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::too_many_lines,
    clippy::undocumented_unsafe_blocks,
    clippy::unwrap_used,
    reason = "a generator wrote these files"
)]

#[rustfmt::skip]
pub mod validator;

#[doc(hidden)]
#[rustfmt::skip]
pub mod redact;

#[doc(hidden)]
#[rustfmt::skip]
pub mod examples;

#[doc(hidden)]
#[rustfmt::skip]
pub mod validate_at;
