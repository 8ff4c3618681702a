//! Events, and the words for what becomes of them. [`envelope`] reads events out of bytes by the gateway's own rules, with
//! [`json`] for what Postgres can hold and [`legible`] for what people can read. [`verdict`] has the words of judging,
//! [`event`] the rows and dead letters, [`outcome`] the answers to senders. [`figures`] counts and measures.
//!
//! Nothing here waits, reads a file or knows a database: bytes and values alone.

pub mod envelope;
pub mod event;
pub mod figures;
pub mod json;
pub mod legible;
pub mod outcome;
pub mod verdict;
