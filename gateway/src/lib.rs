//! The Eye: an event ingestion gateway whose rules are WebAssembly components.
//!
//! The path of an event, in the order in which to read the modules: [`server`] accepts a connection, [`router`] finds
//! the handler, and [`ingest`] takes the request through its steps. [`trust`] finds the application of the caller,
//! [`body`] reads the bytes, and [`eye_event::envelope`] makes events of them. [`judging`] makes a row or a dead letter
//! of each event; it calls [`eye_judge`], whose answers are in [`eye_event::verdict`]. [`batch`] gathers rows and
//! returns receipts, [`store`] writes the rows to Postgres, and [`dead_letters`] keeps the events that were not stored.
//! [`response`] makes the answer to the sender, and [`problems`] explains each of its codes.
//!
//! Around that path: [`applications`] manages who may call, [`audit`] has the words of what was changed by whom and [`trail`] keeps what is changed elsewhere than in Postgres, [`first_admin`] makes the first who may manage it, [`share`] keeps one of them from taking all the room,
//! Readers and operators use these: [`query`] reads events back, with the parameters of [`parameters`]. [`redrive`]
//! judges dead letters again, [`jobs`] does long work step by step, and [`live`] shows outcomes
//! as they happen. [`candidates`] counts what modules that are tried say beside those that serve, [`taken_back`] keeps what was taken back in the data dir too, [`trials`] begins the counts of files anew, and [`webhook`] tells the operator what was taken back. [`promotion`] promotes them
//! step by step. [`applications`] manages applications, and [`first_admin`] makes the first administrator. [`audit`]
//! has the entries of the audit trail, and [`trail`] writes those of changes outside the database.
//!
//! Bounds: [`share`] keeps one application from taking all the room, [`turns`] does so for reads, [`log_limit`] keeps a
//! flood out of the log, and [`descriptors`] raises the limit of open files.
//!
//! Around the path: [`config`] reads and proves the settings, [`reload`] reads them again, [`secrets`] and [`tls`] read
//! the files of secrets and certificates, and [`certificate`] finds when a certificate ends. [`cors`] admits browsers,
//! and [`panel`] signs them in.
//! [`sockets`] opens the addresses. [`gateway`] builds, runs and drains all parts, and [`shutdown`] tells them when to
//! stop. [`tending`] looks after the database, [`duties`] says which of that this gateway does for all, [`readiness`] answers whether
//! requests should come, [`postgres`] runs the embedded database, [`retention`] keeps the tables within their bounds,
//! and [`scrub`] takes secrets out of older dead letters. [`clock`] gives the time.
//!
//! For operators: [`telemetry`] sets up the log, [`request_ids`] and [`traceparent`] name each request, [`access_log`]
//! writes a line for each, [`requests`] counts requests, [`tally`] counts events, and [`metrics`] serves all figures.
//! [`systemd`] reports to the service manager. [`cli`] has a file for each command.

pub mod access_log;
pub mod applications;
pub mod audit;
mod base64;
pub mod batch;
pub mod body;
pub mod candidates;
pub mod certificate;
pub mod cli;
pub mod clock;
pub mod config;
pub mod cors;
pub mod dead_letters;
pub mod descriptors;
pub mod duties;
pub mod first_admin;
pub mod fleet;
pub mod gateway;
pub mod ingest;
pub mod jobs;
pub mod judging;
pub mod live;
pub mod log_limit;
mod log_queue;
pub mod metrics;
pub mod panel;
pub mod panel_address;
pub mod parameters;
pub mod postgres;
pub mod problems;
pub mod promotion;
pub mod query;
pub mod readiness;
pub mod redrive;
pub mod reload;
pub mod replacements;
pub mod request_ids;
pub mod requests;
pub mod response;
pub mod retention;
pub mod router;
pub mod scrub;
pub mod secrets;
pub mod server;
pub mod share;
pub mod shipping;
pub mod shutdown;
pub mod sockets;
pub mod store;
pub mod systemd;
pub mod taken_back;
pub mod tally;
pub mod telemetry;
pub mod tending;
pub mod tls;
pub mod traceparent;
pub mod trail;
pub mod trials;
pub mod trust;
pub mod turns;
pub mod unsent;
pub mod webhook;
