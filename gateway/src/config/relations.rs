//! Relations between settings. A relation is not checked if one of its settings has a problem of its own.

use std::net::SocketAddr;

use super::{Config, Settings};
use crate::store::Role;

/// A rule: the settings of the relation, whether it holds, and the message if it does not.
type Rule<'a> = (&'a [&'a str], bool, &'a str);

/// The messages of broken relations. `is_wrong` says which settings have a problem of their own.
pub(super) fn broken(settings: &Settings, config: &Config, is_wrong: impl Fn(&str) -> bool) -> Vec<String> {
    let rules = of_bounds(config).into_iter().chain(of_connections(settings, config));
    let holds_or_unknown = |(keys, holds, _): &Rule<'_>| *holds || keys.iter().any(|key| is_wrong(key));
    rules.filter(|rule| !holds_or_unknown(rule)).map(|(_, _, words)| words.to_owned()).collect()
}

/// The messages of relations that do not hold between settings of which those in `waiting` keep their former value until a
/// restart.
pub(super) fn broken_until_restart(settings: &Settings, config: &Config, waiting: &[&str]) -> Vec<String> {
    let rules = of_bounds(config).into_iter().chain(of_connections(settings, config));
    let told = |(keys, _, words): Rule<'_>| {
        let waiting: Vec<&str> = keys.iter().copied().filter(|key| waiting.contains(key)).collect();
        format!("{words}; until a restart this is about the former value of {}", waiting.join(" and "))
    };
    rules.filter(|(_, holds, _)| !holds).map(told).collect()
}

fn of_bounds(config: &Config) -> [Rule<'static>; 9] {
    [
        (
            &["data_bytes_max", "request_bytes_max"],
            config.data_bytes_max <= config.request_bytes_max,
            "data_bytes_max must not exceed request_bytes_max: such data could never arrive",
        ),
        (
            &["request_bytes_max", "in_flight_bytes_max"],
            config.request_bytes_max <= config.in_flight_bytes_max,
            "request_bytes_max must not exceed in_flight_bytes_max: such a request could never be taken",
        ),
        (
            &["data_bytes_max", "batch_bytes_max"],
            config.data_bytes_max <= config.batch_bytes_max,
            "data_bytes_max must not exceed batch_bytes_max: such an event would fit into no batch",
        ),
        (
            &["batch_age_ms", "answer_ms"],
            config.batch_age_ms < config.answer_ms,
            "batch_age_ms must be less than answer_ms: no answer would be in time",
        ),
        (
            &["deadline_ms", "answer_ms"],
            config.deadline_ms < config.answer_ms,
            "deadline_ms must be less than answer_ms: no answer would be in time",
        ),
        (
            &["output_bytes_max", "memory_bytes_max"],
            config.output_bytes_max <= config.memory_bytes_max,
            "output_bytes_max must not exceed memory_bytes_max: a validator could never return so much",
        ),
        (
            &["data_bytes_max", "slow_waiting_bytes_max"],
            config.data_bytes_max <= config.slow_waiting_bytes_max,
            "data_bytes_max must not exceed slow_waiting_bytes_max: such an event could never wait for a slow module",
        ),
        (
            &["dead_letter_raw_bytes_max", "dead_letter_queue_bytes_max"],
            config.dead_letter_raw_bytes_max <= config.dead_letter_queue_bytes_max,
            "dead_letter_raw_bytes_max must not exceed dead_letter_queue_bytes_max: such a dead letter would never be kept",
        ),
        (
            &["page_bytes_max", "answers_bytes_max"],
            config.page_bytes_max <= config.answers_bytes_max / 2,
            "page_bytes_max must be at most half of answers_bytes_max: such a page could never be answered",
        ),
    ]
}

fn of_connections(settings: &Settings, config: &Config) -> [Rule<'static>; 8] {
    let given = |key: &str| settings.path(key).is_some();
    let required = config.tls_client_auth;
    [
        (
            &["proxy_protocol", "trusted_proxies"],
            !config.proxy_protocol || !config.trusted_proxies.is_empty(),
            "proxy_protocol needs trusted_proxies: otherwise every caller could say who it is",
        ),
        (
            &["tls_certificate", "tls_key"],
            given("tls_certificate") == given("tls_key"),
            "tls_certificate and tls_key must be given both or not at all",
        ),
        (
            &["tls_client_ca", "tls_certificate", "tls_key"],
            !given("tls_client_ca") || given("tls_certificate") || given("tls_key"),
            "tls_client_ca needs tls_certificate and tls_key: without TLS there are no client certificates",
        ),
        (
            &["tls_client_auth", "tls_client_ca"],
            !required || given("tls_client_ca"),
            "tls_client_auth = \"required\" needs tls_client_ca: no certificate could be proved",
        ),
        (
            &["listen", "metrics_listen"],
            !config.metrics_listen.is_some_and(|other| is_taken_by(other, config.listen)),
            "metrics_listen must be another address or port than listen: only one of them could listen there",
        ),
        (
            &["admin_listen", "listen", "metrics_listen"],
            config.admin_listen.is_none_or(|admin| {
                !is_taken_by(admin, config.listen)
                    && !config.metrics_listen.is_some_and(|other| is_taken_by(admin, other))
            }),
            "admin_listen must be another address than listen and metrics_listen",
        ),
        (
            &["role", "database_url"],
            config.role == Role::Full || config.database_url.is_some(),
            "role = \"reader\" needs database_url: with a Postgres of its own nothing would ever be there to read",
        ),
        (
            &["admin_token_file", "database_url"],
            config.admin_token_file.is_none() || config.database_url.is_some(),
            "admin_token_file is for a database of one's own (database_url): a gateway with a Postgres of its own has the file admin.token in data_dir",
        ),
    ]
}

/// Whether a listener on `first` takes the address `second`. Port 0 is a different port each time.
fn is_taken_by(second: SocketAddr, first: SocketAddr) -> bool {
    let (one, other) = (first.ip(), second.ip());
    // The unspecified address of IPv6 covers all addresses of IPv4 too.
    let covers =
        |all: std::net::IpAddr, one: std::net::IpAddr| all.is_unspecified() && (all.is_ipv6() || one.is_ipv4());
    first.port() == second.port() && first.port() != 0 && (one == other || covers(one, other) || covers(other, one))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_taken_by_itself_and_by_that_of_all() {
        let taken = |one: &str, other: &str| is_taken_by(other.parse().expect("one"), one.parse().expect("another"));
        for (one, other) in [
            ("127.0.0.1:8000", "127.0.0.1:8000"),
            ("0.0.0.0:8000", "127.0.0.1:8000"),
            ("127.0.0.1:8000", "0.0.0.0:8000"),
            ("[::]:8000", "127.0.0.1:8000"),
            ("[::]:8000", "[::1]:8000"),
        ] {
            assert!(taken(one, other), "{one} {other}");
        }
        for (one, other) in [
            ("127.0.0.1:8000", "127.0.0.1:9000"),
            ("127.0.0.1:0", "127.0.0.1:0"),
            ("127.0.0.1:8000", "127.0.0.2:8000"),
            ("0.0.0.0:8000", "[::1]:8000"),
        ] {
            assert!(!taken(one, other), "{one} {other}");
        }
    }
}
