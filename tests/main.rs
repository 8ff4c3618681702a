//! The built program, tried from outside: real sockets, a real Postgres, real modules.

mod answers;
mod json_against_postgres;
mod modules;
mod program;
mod store_writer;
mod support;
mod tidy;
