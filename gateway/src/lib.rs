//! The Eye: an event ingestion gateway whose rules are WebAssembly components.
//!
//! The path of an event, which is also the order in which to read the modules: [`server`] accepts a connection,
//! [`router`] finds the handler, [`ingest`] takes the request through its steps, [`judging`] decides what each event becomes. [`trust`] says who calls, [`body`] reads
//! the bytes, [`eye_event::envelope`] makes events of them, [`eye_judge`] judges each in the words of
//! [`eye_event::verdict`], [`batch`] gathers rows and gives receipts, [`store`] writes them to Postgres, [`dead_letters`]
//! keeps the rest, and [`response`] says what became of each; [`problems`] explains every code. [`query`] reads back, [`redrive`] judges dead letters again,
//! [`unseen`] those that no module has looked at, and [`live`] shows outcomes as they happen.
//!
//! Around that path: [`applications`] manages who may call, [`first_admin`] makes the first who may manage it, [`share`] keeps one of them from taking all the room,
//! [`log_limit`] keeps a flood out of the log, [`descriptors`] says how many files may be open, [`tls`] (by whose [`certificate`]) and [`cors`] are what some callers need besides, [`config`] proves the
//! settings, [`reload`] reads them again, [`gateway`] builds, runs and drains, [`tending`] looks after the database, [`readiness`] says whether requests should come, [`postgres`] is the embedded default, [`retention`] keeps the tables
//! within their bounds, [`clock`] tells the time, [`telemetry`] sets up the log, [`request_ids`] names each request and [`access_log`] notes it, and [`cli`] has a file for each command.
//! [`tally`] counts events, and [`metrics`] shows all figures.

pub mod access_log;
pub mod applications;
mod base64;
pub mod batch;
pub mod body;
pub mod certificate;
pub mod cli;
pub mod clock;
pub mod config;
pub mod cors;
pub mod dead_letters;
pub mod descriptors;
pub mod first_admin;
pub mod gateway;
pub mod ingest;
pub mod judging;
pub mod live;
pub mod log_limit;
mod log_queue;
pub mod metrics;
pub mod parameters;
pub mod postgres;
pub mod problems;
pub mod query;
pub mod readiness;
pub mod redrive;
pub mod reload;
pub mod request_ids;
pub mod requests;
pub mod response;
pub mod retention;
pub mod router;
pub mod scrub;
pub mod secrets;
pub mod server;
pub mod share;
pub mod store;
pub mod tally;
pub mod telemetry;
pub mod tending;
pub mod tls;
pub mod traceparent;
pub mod trust;
pub mod turns;
pub mod unseen;
