//! The built program, tried from outside: real sockets, a real Postgres, real modules.

mod answers;
mod applications;
mod attacks;
mod away;
mod clocks;
mod crash_loop;
mod dead_letters;
mod disk_full;
mod doors;
mod hostile;
mod json_against_postgres;
mod live;
mod metrics;
mod modules;
mod neighbour;
mod openapi;
mod overload;
mod program;
mod reading;
mod retention;
mod stop;
mod store_writer;
mod support;
mod swaps;
mod tidy;
mod upgrade;
