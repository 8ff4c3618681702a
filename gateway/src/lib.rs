//! The Eye: an event ingestion gateway whose rules are WebAssembly components.
//!
//! The path of an event, which is also the order in which to read the modules: [`server`] accepts a connection,
//! [`router`] finds the handler, [`ingest`] takes the request through its steps. [`trust`] says who calls, [`body`] reads
//! the bytes, [`envelope`] makes events of them by way of [`json`], [`validator`] has each judged in the words of
//! [`verdict`], [`batch`] gathers [`event`] rows and gives receipts, [`store`] writes them to Postgres; [`dead_letters`]
//! keeps the rest. [`outcome`] and [`response`] say what became of it. [`query`] reads back.
//!
//! Around that path: [`config`] proves the settings, [`gateway`] builds, runs and drains, [`postgres`] is the embedded
//! default, [`clock`] tells the time, [`telemetry`] sets up the log, and [`cli`] has a file for each command.

#![forbid(unsafe_code)]

pub mod batch;
pub mod body;
pub mod cli;
pub mod clock;
pub mod config;
pub mod dead_letters;
pub mod envelope;
pub mod event;
pub mod gateway;
pub mod ingest;
pub mod json;
pub mod outcome;
pub mod postgres;
pub mod query;
pub mod response;
pub mod router;
pub mod server;
pub mod store;
pub mod telemetry;
pub mod trust;
pub mod validator;
pub mod verdict;
