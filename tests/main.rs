//! The built program, tried from outside: real sockets, a real Postgres, real modules.

mod answers;
mod away;
mod crash_loop;
mod disk_full;
mod hostile;
mod json_against_postgres;
mod metrics;
mod modules;
mod neighbour;
mod overload;
mod program;
mod stop;
mod store_writer;
mod support;
mod swaps;
mod tidy;
