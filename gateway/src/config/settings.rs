//! Every setting: its key, what it may be, its default, and what follows from it.

use std::net::SocketAddr;

use ipnet::IpNet;

use super::origins;
use crate::trust::event_types::EventTypes;

/// Settings by their former names, and their names now. Each stays here for one release.
pub(super) const RENAMED: [(&str, &str); 1] = [("queue_parcels_max", "queue_requests_max")];

/// What a setting may be.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A whole number.
    Integer {
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
    /// An address and a port.
    Address,
    /// An address and a port, or empty for none.
    OptionalAddress,
    /// A path, not empty.
    Path,
    /// A path, or empty for none.
    OptionalPath,
    /// A text that is never shown, or empty for none.
    Secret,
    /// Networks (CIDR), separated by commas.
    Networks,
    /// Origins of pages, separated by commas.
    Origins,
    /// Host names, separated by commas.
    Hosts,
    /// Event types, as applications have them, separated by commas.
    EventTypes,
    /// Yes or no.
    Switch,
    /// One of these.
    Choice(&'static [&'static str]),
}

impl Kind {
    pub(super) fn check(self, text: &str) -> Result<(), String> {
        let fits = match self {
            Self::Integer { min, max } => text.parse::<u64>().is_ok_and(|number| (min..=max).contains(&number)),
            Self::Address => text.parse::<SocketAddr>().is_ok(),
            Self::OptionalAddress => text.is_empty() || text.parse::<SocketAddr>().is_ok(),
            Self::Path => !text.is_empty(),
            Self::OptionalPath | Self::Secret => true,
            Self::Networks => words(text).all(|word| word.parse::<IpNet>().is_ok()),
            Self::Origins => return words(text).find_map(origins::problem).map_or(Ok(()), Err),
            Self::Hosts => words(text).all(is_host),
            Self::EventTypes => EventTypes::parse(&words(text).collect::<Vec<_>>()).is_ok(),
            Self::Switch => matches!(text, "true" | "false"),
            Self::Choice(words) => words.contains(&text),
        };
        if fits { Ok(()) } else { Err(format!("must be {}", self.wanted())) }
    }

    pub(super) fn wanted(self) -> String {
        match self {
            Self::Integer { min, max } => format!("a whole number from {min} to {max}"),
            Self::Address => "an address and a port, such as 127.0.0.1:8000".to_owned(),
            Self::OptionalAddress => "an address and a port, such as 127.0.0.1:9000, or empty".to_owned(),
            Self::Path => "a path".to_owned(),
            Self::OptionalPath => "a path, or empty".to_owned(),
            Self::Secret => "a text".to_owned(),
            Self::Networks => "networks such as 10.0.0.0/8, separated by commas".to_owned(),
            Self::Origins => "origins such as https://shop.example, separated by commas".to_owned(),
            Self::Hosts => "host names such as eye.example, without a port, separated by commas".to_owned(),
            Self::EventTypes => {
                "event types such as shop/sale or shop/*, percent-encoded where a name holds a comma, separated by commas"
                    .to_owned()
            }
            Self::Switch => "true or false".to_owned(),
            Self::Choice(words) => format!("one of {}", words.join(", ")),
        }
    }
}

/// The words of a list.
pub(super) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|word| !word.is_empty())
}

/// A name without scheme, port or path.
fn is_host(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
}

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Its key in the file; `EYE_` and the key in capitals in the environment.
    pub key: &'static str,
    /// What it may be.
    pub kind: Kind,
    /// What it is if nobody says otherwise.
    pub default: &'static str,
    /// What follows from it.
    pub consequence: &'static str,
}

const fn set(key: &'static str, kind: Kind, default: &'static str, consequence: &'static str) -> Setting {
    Setting { key, kind, default, consequence }
}

const fn number(min: u64, max: u64) -> Kind {
    Kind::Integer { min, max }
}

const MIB: u64 = 1 << 20;
const DAY_MS: u64 = 86_400_000;

/// All settings, in the order in which they are shown.
pub const SETTINGS: &[Setting] = &[
    set("listen", Kind::Address, "127.0.0.1:8000", "Where the gateway listens. Port 0 takes a free one and logs it."),
    set(
        "metrics_listen",
        Kind::OptionalAddress,
        "",
        "Where /metrics, /healthz and /readyz are answered without a token, and nothing else. Empty: nowhere.",
    ),
    set(
        "metrics_event_types_max",
        number(1, 100_000),
        "500",
        "Event types that are counted apart in /metrics. Further ones are counted together, as other.",
    ),
    set(
        "database_url",
        Kind::Secret,
        "",
        "postgres://user:password@host:port/database, as libpq has it: several hosts, sslmode and the like; what is not understood in it is a problem. On a server with max_locks_per_transaction = 512: a read across years locks each month. Empty: the gateway runs a Postgres of its own under data_dir.",
    ),
    set(
        "postgres_bin",
        Kind::OptionalPath,
        "",
        "Where the programs of Postgres are, for the embedded one. Empty: PATH and the usual system folders.",
    ),
    set("modules", Kind::Path, "./modules", "The watched directory of validators: <category>/<name>.wasm."),
    set("data_dir", Kind::Path, "./eye-data", "The gateway's own data, the embedded database among them."),
    set(
        "connections_max",
        number(1, 1_000_000),
        "10000",
        "Connections at once. More wait in the kernel until one ends.",
    ),
    set("header_read_ms", number(1, DAY_MS), "10000", "Time for a request's head. A slower sender is cut off."),
    set(
        "connections_per_peer_max",
        number(1, 1_000_000),
        "1000",
        "Connections at once of one address, or of an IPv6 network of 64 bits. More are closed. Proxies of trusted_proxies are not counted.",
    ),
    set(
        "header_bytes_max",
        number(8_192, 16 * MIB),
        "65536",
        "Largest head of a request. A larger one is answered 431.",
    ),
    set("headers_max", number(1, 10_000), "100", "Most headers of a request. More are answered 431."),
    set("idle_ms", number(1, DAY_MS), "60000", "How long a connection may stay open without a request."),
    set(
        "write_ms",
        number(1, DAY_MS),
        "30000",
        "How long a peer may take for each 64 KiB of its answers. Then the answer is given up: its stream is reset over HTTP/2, its connection is cut over HTTP/1.",
    ),
    set(
        "linger_ms",
        number(0, DAY_MS),
        "1000",
        "How long a peer that was refused may go on sending, so that it gets to read why.",
    ),
    set("linger_bytes_max", number(0, 1024 * MIB), "67108864", "How much a peer that was refused may go on sending."),
    set("http2_streams_max", number(1, 100_000), "250", "Requests at once of one HTTP/2 connection."),
    set(
        "http2_resets_max",
        number(1, 100_000),
        "20",
        "Requests that an HTTP/2 peer may take back before they were looked at. One more ends its connection.",
    ),
    set(
        "http2_control_frames_per_second_max",
        number(10, 1_000_000),
        "1000",
        "Frames of one HTTP/2 connection in a second that are no request and no body, over ten seconds; each request and each piece of an answer allows four more. One more ends the connection with ENHANCE_YOUR_CALM.",
    ),
    set(
        "http2_stream_window_bytes",
        number(65_535, 1024 * MIB),
        "262144",
        "What an HTTP/2 peer may send of one body before it is read.",
    ),
    set(
        "http2_connection_window_bytes",
        number(65_535, 1024 * MIB),
        "1048576",
        "What an HTTP/2 peer may send of all its bodies before they are read.",
    ),
    set(
        "http2_ping_ms",
        number(10, DAY_MS),
        "20000",
        "How often an HTTP/2 peer is asked whether it is there, and how long it has to answer.",
    ),
    set("tls_handshake_ms", number(1, DAY_MS), "10000", "Time for the TLS handshake. A slower peer is cut off."),
    set(
        "proxy_header_bytes_max",
        number(107, 65_551),
        "1024",
        "Longest PROXY header. A longer one ends the connection.",
    ),
    set(
        "tls_certificate",
        Kind::OptionalPath,
        "",
        "The certificate and those between it and the root, in PEM. Read again when it changes. Empty: no TLS.",
    ),
    set("tls_key", Kind::OptionalPath, "", "The private key of tls_certificate, in PEM."),
    set(
        "tls_client_ca",
        Kind::OptionalPath,
        "",
        "The roots of client certificates, in PEM; `eye app add --certificate-sha256` knows an application by one. Empty: none are asked for.",
    ),
    set(
        "tls_client_auth",
        Kind::Choice(&["optional", "required"]),
        "optional",
        "Whether every connection must show a certificate that comes from tls_client_ca. Optional: a caller without one may show a token.",
    ),
    set(
        "trusted_proxies",
        Kind::Networks,
        "",
        "The networks (CIDR) of proxies that are believed who calls. An address that only they can claim must not be in an application's networks.",
    ),
    set(
        "forwarded_header",
        Kind::Choice(&["x-forwarded-for", "forwarded"]),
        "x-forwarded-for",
        "Where trusted proxies tell who calls: the one header that they write themselves. The other one is ignored.",
    ),
    set(
        "proxy_protocol",
        Kind::Choice(&["off", "required"]),
        "off",
        "Whether each connection must begin with a PROXY header, version 1 or 2. It is believed from trusted_proxies, which must be named, and refused from others.",
    ),
    set(
        "applications_poll_ms",
        number(10, DAY_MS),
        "1000",
        "How often the applications are read anew, whatever notification was lost. So long a change may stay unseen then.",
    ),
    set(
        "cors_origins",
        Kind::Origins,
        "",
        "Origins whose pages may send events from the browser, such as https://shop.example. Their text/plain is taken as JSON. Empty: none.",
    ),
    set(
        "hosts",
        Kind::Hosts,
        "",
        "The host names by which the gateway is called. Given, who is known by a network or a certificate must have asked for one of them, for localhost or for an address, or is answered 403: a page can have its own name resolved to the gateway. Empty: only callers from this machine are asked for that.",
    ),
    set("body_read_ms", number(1, DAY_MS), "30000", "Time for a request's body. A slower sender is answered 408."),
    set(
        "answer_ms",
        number(1, DAY_MS),
        "5000",
        "Time to answer once the body is read. After it the answer is 503; a retry with ids is safe.",
    ),
    set(
        "drain_ms",
        number(0, DAY_MS),
        "30000",
        "Time to finish what was taken when the gateway stops. Then connections are cut.",
    ),
    set(
        "request_bytes_max",
        number(1, 1024 * MIB),
        "8388608",
        "Largest body, also after decompression. A larger one is answered 413.",
    ),
    set("events_per_request_max", number(1, 1_000_000), "10000", "Most events of one request. More are answered 413."),
    set("data_bytes_max", number(2, 64 * MIB), "262144", "Largest `data` of an event. A larger one is a violation."),
    set("nesting_max", number(1, 1_000), "64", "Deepest nesting of `data`. A deeper one is a violation."),
    set(
        "number_digits_max",
        number(20, 147_455),
        "1000",
        "Most digits of a number in `data`, written without exponent. One that has more is a violation: many programs cannot read it.",
    ),
    set(
        "event_types_max",
        number(1, 1_000_000),
        "10000",
        "Event types of one application, whatever became of their events. A new one beyond is a violation; those that are known go on. Several gateways tell each other within a minute.",
    ),
    set(
        "future_seconds_max",
        number(0, 10 * 366 * 86_400),
        "60",
        "How far a timestamp may lie ahead of the gateway's clock.",
    ),
    set(
        "in_flight_bytes_max",
        number(MIB, 64 * 1024 * MIB),
        "67108864",
        "Bytes of all bodies that are being read, judged or written. More are answered 503.",
    ),
    set(
        "queue_requests_max",
        number(1, 10_000_000),
        "16384",
        "Requests that may wait for a writer. More are answered 503.",
    ),
    set(
        "queue_wait_percent",
        number(1, 45),
        "25",
        "How much of answer_ms a request may wait for a writer while others are written. Once one has waited longer, more are answered 503, first to the application that fills the queue, and after twice that wait to all.",
    ),
    set(
        "application_share_percent",
        number(1, 100),
        "75",
        "How much of in_flight_bytes_max, queue_requests_max, dead_letter_queue_bytes_max, slow_waiting_max, slow_waiting_bytes_max, answers_bytes_max, read_connections, streams_max and live_readers_max an application may fill alone. Several get less each. 100 lets one take it all.",
    ),
    set(
        "batch_events_max",
        number(1, 100_000),
        "1000",
        "Most events of a batch. Larger batches cost less each, and more when they fail.",
    ),
    set("batch_bytes_max", number(1024, 1024 * MIB), "8388608", "Most bytes of a batch."),
    set(
        "batch_age_ms",
        number(0, 60_000),
        "5",
        "Longest wait of an event for others while another batch is being written. An idle writer never waits.",
    ),
    set("writers", number(1, 64), "2", "Batches that are written at once, each on a connection of its own."),
    set(
        "flush_ms",
        number(10, DAY_MS),
        "5000",
        "Longest time for writing one batch on a database that is slow; one that was fast so far gets a second. After it the connection is given up, and the batch written again.",
    ),
    set(
        "dead_letter_raw_bytes_max",
        number(0, 64 * MIB),
        "1048576",
        "Bytes of an event that a dead letter keeps. The rest is cut.",
    ),
    set(
        "scrub_grace_days",
        number(0, 3_650),
        "7",
        "Days that older dead letters keep their bytes once the validator of their type takes secrets out of events and cannot redact them. Then nothing but their size and digest is left.",
    ),
    set(
        "scrub_seconds",
        number(1, 86_400),
        "60",
        "Pause between two looks for older dead letters that are to be redacted.",
    ),
    set(
        "scrub_letters_max",
        number(1_000, 100_000_000),
        "100000",
        "Dead letters that one such look goes over for each event type. The next one goes on.",
    ),
    set(
        "dead_letter_queue_bytes_max",
        number(1024, 1024 * MIB),
        "16777216",
        "Bytes of rejected events that may wait to be kept. What does not fit is answered all the same, and counted.",
    ),
    set(
        "dead_letters_bytes_max",
        number(MIB, 1 << 50),
        "10737418240",
        "Bytes of all dead letters on disk. Beyond it the oldest are trimmed, and counted.",
    ),
    set(
        "dead_letters_days",
        number(0, 36_500),
        "30",
        "Days that dead letters are kept. Older ones are trimmed, and counted. 0 keeps them for ever.",
    ),
    set(
        "events_days",
        number(0, 36_500),
        "0",
        "Days that events are kept: a month goes when all of it is older. 0 keeps them for ever.",
    ),
    set(
        "counts_minute_days",
        number(0, 36_500),
        "90",
        "Days that counts by the minute are kept; those by the hour and by the day stay. 0 keeps them for ever.",
    ),
    set(
        "partitions_ahead_months",
        number(1, 120),
        "2",
        "Months after this one whose partitions are made before they begin.",
    ),
    set(
        "event_partitions_max",
        number(4, 10_000),
        "240",
        "Partitions of events, one for each month that has any. Events of more months share the default partition.",
    ),
    set(
        "retention_seconds",
        number(1, 86_400),
        "60",
        "How often the tables are looked at for what is too old or too much. One of several gateways does so.",
    ),
    set(
        "clock_skew_max_s",
        number(1, 86_400),
        "60",
        "Seconds by which this gateway's clock and the database's may differ. Beyond that nothing is trimmed, and /readyz is degraded.",
    ),
    set("live_readers_max", number(0, 100_000), "256", "Readers of outcomes as they happen. More are answered 503."),
    set(
        "live_heartbeat_ms",
        number(100, DAY_MS),
        "10000",
        "Time without news after which such a reader is told that the gateway lives.",
    ),
    set(
        "live_events_per_second_max",
        number(10, 100_000),
        "1000",
        "Outcomes told in a second: of stored and duplicate events, and as many of all others. The rest is counted.",
    ),
    set(
        "read_connections",
        number(1, 1_000),
        "8",
        "Database connections for reading. They are not those of the writers.",
    ),
    set("read_ms", number(1, DAY_MS), "5000", "Longest time for one read from the database."),
    set(
        "read_wait_ms",
        number(1, DAY_MS),
        "1000",
        "Longest wait of a read for one of those connections. After it the answer is 503.",
    ),
    set(
        "page_bytes_max",
        number(1024, 1024 * MIB),
        "8388608",
        "Bytes of data after which a page ends, however many events were asked for; `next` goes on from there.",
    ),
    set(
        "answers_bytes_max",
        number(8_192, 1 << 40),
        "134217728",
        "Bytes of answers to reads that are not sent yet. What does not fit is answered 503.",
    ),
    set(
        "answer_violations_bytes_max",
        number(0, 1024 * MIB),
        "1048576",
        "Bytes of violations that the answer to many events tells. Further ones are counted in `violations_omitted`, and the dead letters have them. The answer to a single event has all.",
    ),
    set("streams_max", number(1, 100_000), "32", "Results that are streamed as lines at once. More are answered 503."),
    set(
        "stream_stall_ms",
        number(1, DAY_MS),
        "30000",
        "How long the reader of a stream may take nothing of it. Then its connection is cut.",
    ),
    set(
        "unknown_event_type",
        Kind::Choice(&["accept", "reject"]),
        "accept",
        "What happens to events that no validator serves.",
    ),
    set(
        "require_module",
        Kind::EventTypes,
        "",
        "Event types that must have a validator, such as shop/sale or shop/*. While none is there, their events are answered 503 instead of being accepted. Empty: none.",
    ),
    set(
        "ready_requires_modules",
        Kind::Switch,
        "false",
        "Whether /readyz is 503 while a file in the modules directory was refused with nothing in its place, or an event type of require_module has no validator, so that a rollout stops. Otherwise it is told as degraded.",
    ),
    set(
        "deadline_ms",
        number(1, 60_000),
        "50",
        "Longest time for judging one event. After it the event is quarantined.",
    ),
    set(
        "memory_bytes_max",
        number(65_536, 4096 * MIB),
        "67108864",
        "Most memory of a validator. An event for which it needs more is quarantined.",
    ),
    set(
        "output_bytes_max",
        number(2, 64 * MIB),
        "262144",
        "Largest amended data, or violations together, that a validator may return.",
    ),
    set("violations_max", number(1, 10_000), "100", "Most violations that a validator may return."),
    set(
        "modules_memory_bytes_max",
        number(16 * MIB, 1 << 50),
        "1073741824",
        "Memory that all validators take together between calls: compiled code, what `describe` left, instances that are kept. A module that does not fit is refused, after the instances of others that rest have made room; fewer instances cost time and no event.",
    ),
    set(
        "slow_calls_max",
        number(0, 10_000),
        "0",
        "Calls at once of validators that take long, each on a thread of its own, so that they hold no request thread. 0: two for each processor.",
    ),
    set(
        "slow_module_share_percent",
        number(1, 100),
        "75",
        "How much of slow_calls_max one validator may hold alone. Several get less each; one whose calls take longer than 5 ms gets fewer.",
    ),
    set(
        "slow_waiting_max",
        number(1, 1_000_000),
        "4096",
        "Events that may wait for validators that take long. More are unfinished (503 alone, `module_busy`), first those of the application that has the most.",
    ),
    set("slow_waiting_bytes_max", number(1024, 1024 * MIB), "33554432", "Bytes of the data of those events."),
    set(
        "judge_wait_percent",
        number(1, 80),
        "50",
        "How much of answer_ms the events of a request may wait for validators that take long. Half of the rest is for judging, and what was not judged then is unfinished; the other half is for the write.",
    ),
    set(
        "rejudge_events_per_second_max",
        number(0, 100_000),
        "200",
        "Events a second that the gateway judges again by itself, of those that were quarantined while their validator was off the path. They are judged in order once it is back, one at a time. 0: none.",
    ),
    set(
        "loader_memory_bytes",
        number(64 * MIB, 64 * 1024 * MIB),
        "268435456",
        "Most memory of the process that loads a module's file, beside loader_memory_per_byte for each byte of it. A file that takes more is refused.",
    ),
    set("loader_memory_per_byte", number(0, 10_000), "32", "Memory of that process for each byte of the file."),
    set(
        "loader_processor_ms",
        number(100, DAY_MS),
        "5000",
        "Longest processor time for loading a module's file, beside loader_processor_ms_per_mib for each MiB of it. A file that takes longer is refused.",
    ),
    set("loader_processor_ms_per_mib", number(0, DAY_MS), "4000", "Processor time for each MiB of the file."),
    set(
        "loader_quick_ms",
        number(10, DAY_MS),
        "2000",
        "Processor time of a file's first try. One that takes longer is begun anew beside others of its kind, so that no small file waits for it.",
    ),
    set(
        "loader_wall_factor",
        number(1, 1_000),
        "10",
        "How many times its processor time loading a file may take, beside the time for which no processor is free. After it the file is tried again later.",
    ),
    set(
        "loader_self_test_ms",
        number(10, DAY_MS),
        "5000",
        "Longest processor time of all examples of a module. One that takes longer is refused.",
    ),
    set(
        "loader_stack_bytes",
        number(256 * 1024, 1024 * MIB),
        "8388608",
        "Stack for reading a module's file. A file whose parts are nested too deeply for it is refused.",
    ),
    set(
        "loader_bounds_percent",
        number(1, 100_000),
        "100",
        "All bounds of loading a module's file, in percent of what the settings above say. Raise it on a slow machine, or for large modules.",
    ),
    set(
        "rescan_seconds",
        number(1, 86_400),
        "30",
        "How often the modules directory is read anew, whatever the watch tells.",
    ),
    set("log_format", Kind::Choice(&["text", "json"]), "text", "How log lines are written, to standard error."),
    set(
        "log_level",
        Kind::Choice(&["error", "warn", "info", "debug", "trace"]),
        "info",
        "The least important lines that are logged.",
    ),
];
