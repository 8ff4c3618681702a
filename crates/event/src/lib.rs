//! Events, and the words for how each event ends. [`envelope`] reads events from bytes by the gateway's own rules; it
//! uses [`json`] to find what Postgres cannot store and [`legible`] to find what people cannot read. [`verdict`] has
//! the words of judging, [`event`] the rows and dead letters, [`outcome`] the answers to senders. [`figures`] counts
//! and measures, [`hex`] writes and reads digits.
//!
//! This crate works on bytes and values alone: it never waits, reads no file and knows no database.

pub mod envelope;
pub mod event;
pub mod figures;
pub mod hex;
pub mod json;
pub mod legible;
pub mod outcome;
pub mod verdict;
