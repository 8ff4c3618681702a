//! Every setting: its key, what it may be, its default, and what follows from it.

use std::net::SocketAddr;

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
    /// A path, not empty.
    Path,
    /// A path, or empty for none.
    OptionalPath,
    /// A text that is never shown, or empty for none.
    Secret,
    /// One of these.
    Choice(&'static [&'static str]),
}

impl Kind {
    pub(super) fn check(self, text: &str) -> Result<(), String> {
        let fits = match self {
            Self::Integer { min, max } => text.parse::<u64>().is_ok_and(|number| (min..=max).contains(&number)),
            Self::Address => text.parse::<SocketAddr>().is_ok(),
            Self::Path => !text.is_empty(),
            Self::OptionalPath | Self::Secret => true,
            Self::Choice(words) => words.contains(&text),
        };
        if fits { Ok(()) } else { Err(format!("must be {}", self.wanted())) }
    }

    pub(super) fn wanted(self) -> String {
        match self {
            Self::Integer { min, max } => format!("a whole number from {min} to {max}"),
            Self::Address => "an address and a port, such as 127.0.0.1:8000".to_owned(),
            Self::Path => "a path".to_owned(),
            Self::OptionalPath => "a path, or empty".to_owned(),
            Self::Secret => "a text".to_owned(),
            Self::Choice(words) => format!("one of {}", words.join(", ")),
        }
    }
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
        "database_url",
        Kind::Secret,
        "",
        "postgres://user:password@host:port/database. Empty: the gateway runs a Postgres of its own under data_dir.",
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
        "queue_parcels_max",
        number(1, 10_000_000),
        "16384",
        "Requests that may wait for a writer. More are answered 503.",
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
        "Longest time for writing one batch. After it the connection is given up, and the batch written again.",
    ),
    set(
        "dead_letter_raw_bytes_max",
        number(0, 64 * MIB),
        "1048576",
        "Bytes of an event that a dead letter keeps. The rest is cut.",
    ),
    set(
        "dead_letter_queue_bytes_max",
        number(1024, 1024 * MIB),
        "16777216",
        "Bytes of rejected events that may wait to be kept. What does not fit is answered all the same, and counted.",
    ),
    set(
        "read_connections",
        number(1, 1_000),
        "8",
        "Database connections for reading. They are not those of the writers.",
    ),
    set("read_ms", number(1, DAY_MS), "5000", "Longest time for one read from the database."),
    set(
        "unknown_event_type",
        Kind::Choice(&["accept", "reject"]),
        "accept",
        "What happens to events that no validator serves.",
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
