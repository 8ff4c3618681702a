//! The built program, tried from outside: real sockets, a real Postgres, real modules.

mod answers;
mod away;
mod crash_loop;
mod disk_full;
mod json_against_postgres;
mod modules;
mod overload;
mod program;
mod stop;
mod store_writer;
mod support;
mod tidy;
