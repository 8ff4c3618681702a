//! The settings: one row for each. A row makes the field in [`Config`], the default, the bounds, the documentation, and a
//! part of the example file. The type of the field decides how its text is read.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use eye_judge::ModulesFrom;
use ipnet::IpNet;

use super::kind::{Kind, bytes, count, days, milliseconds, months, optional_milliseconds, percent, seconds, words};
use super::{Secret, UnknownEventType};
use crate::access_log::AccessLogMode;
use crate::store::Role;
use crate::telemetry::LogFormat;
use crate::trust::event_types::EventTypes;
use crate::trust::{self, forwarded::Told, own::Local};

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The key in the file. In the environment it is `EYE_` and the key in capitals.
    pub key: &'static str,
    /// Former keys. The gateway knows each for one more release, with a warning.
    pub former: &'static [&'static str],
    /// The heading under which the example file lists it.
    pub group: &'static str,
    /// The kind of its texts.
    pub kind: Kind,
    /// The text that counts if no source gives one.
    pub default: &'static str,
    /// The documentation for operators: the consequence of the setting.
    pub consequence: &'static str,
    /// Whether a reload applies a change while the gateway runs. Otherwise a change needs a restart.
    pub reload: bool,
}

/// Parses the text of a setting. The text was checked against its kind before.
trait Value: Sized {
    fn read(text: &str) -> Option<Self>;
}

macro_rules! parsed {
    ($($type:ty),+) => {
        $(impl Value for $type {
            fn read(text: &str) -> Option<Self> {
                text.parse().ok()
            }
        })+
    };
}

parsed!(SocketAddr, String, PathBuf, i64, u32, u64, usize);

impl<T: Value> Value for Option<T> {
    fn read(text: &str) -> Option<Self> {
        if text.is_empty() { Some(None) } else { T::read(text).map(Some) }
    }
}

impl<T: Value> Value for Vec<T> {
    fn read(text: &str) -> Option<Self> {
        words(text).map(T::read).collect()
    }
}

impl Value for bool {
    fn read(text: &str) -> Option<Self> {
        match text {
            "true" | "required" => Some(true),
            "false" | "off" | "optional" => Some(false),
            _ => None,
        }
    }
}

impl Value for Secret {
    fn read(text: &str) -> Option<Self> {
        Some(Self(text.to_owned()))
    }
}

impl Value for IpNet {
    fn read(text: &str) -> Option<Self> {
        text.parse().ok().map(trust::canonical)
    }
}

impl Value for Arc<EventTypes> {
    fn read(text: &str) -> Option<Self> {
        EventTypes::parse(&words(text).collect::<Vec<_>>()).ok().map(Arc::new)
    }
}

impl Value for Told {
    fn read(text: &str) -> Option<Self> {
        match text {
            "x-forwarded-for" => Some(Self::XForwardedFor),
            "forwarded" => Some(Self::Forwarded),
            _ => None,
        }
    }
}

impl Value for Local {
    fn read(text: &str) -> Option<Self> {
        ["off", "ingest", "read"].contains(&text).then(|| Self::of_word(text))
    }
}

impl Value for Role {
    fn read(text: &str) -> Option<Self> {
        Self::of_word(text)
    }
}

impl Value for ModulesFrom {
    fn read(text: &str) -> Option<Self> {
        [Self::Directory, Self::Database].into_iter().find(|from| from.as_str() == text)
    }
}

impl Value for UnknownEventType {
    fn read(text: &str) -> Option<Self> {
        match text {
            "accept" => Some(Self::Accept),
            "reject" => Some(Self::Reject),
            _ => None,
        }
    }
}

impl Value for LogFormat {
    fn read(text: &str) -> Option<Self> {
        match text {
            "text" => Some(Self::Text),
            "json" => Some(Self::Json),
            _ => None,
        }
    }
}

impl Value for AccessLogMode {
    fn read(text: &str) -> Option<Self> {
        Self::WORDS.contains(&text).then(|| Self::of(text))
    }
}

/// Whether a reload applies a change, from the last word of a row.
macro_rules! applies {
    (reload) => {
        true
    };
    (restart) => {
        false
    };
}

/// Makes [`Config`] and [`SETTINGS`] of the same rows: `name (formerly "name"): Type = "default", kind, reload;`
/// below the documentation. The last word is `reload` or `restart`: what a change needs.
macro_rules! settings {
    ($($group:literal {
        $(
            $(#[doc = $doc:literal])+
            $key:ident $((formerly $former:literal))?: $type:ty = $default:literal, $kind:expr, $change:ident;
        )+
    })+) => {
        /// The proved settings. Keys of settings with a unit end in it.
        #[derive(Clone, Debug)]
        pub struct Config {
            $($(#[doc = concat!("```text\n", $($doc, "\n",)+ "```")] pub $key: $type,)+)+
        }

        /// All settings, in the order of the example file.
        pub const SETTINGS: &[Setting] = &[
            $($(Setting {
                key: stringify!($key),
                former: &[$($former)?],
                group: $group,
                kind: $kind,
                default: $default,
                consequence: concat!($($doc),+).trim_ascii(),
                reload: applies!($change),
            },)+)+
        ];

        impl Config {
            /// Parses each field from the text of its setting. Returns `None` if a text is not of its kind.
            pub(super) fn read<'a>(text: impl Fn(&str) -> &'a str) -> Option<Self> {
                Some(Self { $($($key: Value::read(text(stringify!($key)))?,)+)+ })
            }
        }
    };
}

const MIB: u64 = 1 << 20;
const DAY_MS: u64 = 86_400_000;

settings! {
    "Addresses and folders" {
        /// Where the gateway listens. Port 0 takes a free one and logs it.
        listen: SocketAddr = "127.0.0.1:8000", Kind::Address, restart;
        /// The address that answers /metrics, /healthz and /readyz without a token, and nothing else. Empty: none.
        metrics_listen: Option<SocketAddr> = "", Kind::OptionalAddress, restart;
        /// The address that answers all paths. `listen` then answers POST /v1/events, POST /post/create, /healthz,
        /// /readyz and /problems/CODE alone, and all else with 404. TLS, PROXY headers and tokens work as on `listen`.
        /// Empty: `listen` answers all paths.
        admin_listen: Option<SocketAddr> = "", Kind::OptionalAddress, restart;
        /// Whether browsers can sign in to the panel. If not, the paths below /v1/panel are 404 and no session is open.
        panel: bool = "true", Kind::Switch, restart;
        /// Event types with metrics of their own in /metrics. Further ones are counted together, as other.
        metrics_event_types_max: usize = "500", count(1, 100_000), restart;
        /// The URL of the database as libpq reads it: postgres://user:password@host:port/database, several hosts,
        /// sslmode and so on. A parameter that the gateway does not understand is a problem. The server needs
        /// max_locks_per_transaction = 512, since a read across years locks each month. Empty: the gateway runs a
        /// Postgres of its own under data_dir.
        database_url: Option<Secret> = "", Kind::Secret, restart;
        /// The work of the gateway. A reader serves reads, usually from a standby: it takes no events and changes nothing.
        /// Gateways with the role full migrate and tend the database. Of several hosts a reader takes a standby if there
        /// is one.
        role: Role = "full", Kind::Choice(&Role::WORDS), restart;
        /// The folder with the programs of Postgres, for the embedded one. Empty: PATH and the usual system folders.
        postgres_bin: Option<PathBuf> = "", Kind::OptionalPath, restart;
        /// The watched directory of validators: <category>/<name>.wasm or <category>/<name>.schema.json.
        modules: PathBuf = "./modules", Kind::Path, restart;
        /// Where validators come from. With directory, each gateway serves its own modules directory. With database, all
        /// gateways on one database serve the same generation, which pushes change, and the directory is not read.
        modules_from: ModulesFrom = "directory", Kind::Choice(&ModulesFrom::WORDS), restart;
        /// The name of this gateway among those on its database. Empty: the name of the machine.
        gateway_name: String = "", Kind::OptionalName, restart;
        /// The gateway's own data, the embedded database among them.
        data_dir: PathBuf = "./eye-data", Kind::Path, restart;
    }
    "Connections" {
        /// Connections at once. More wait in the kernel until one ends.
        connections_max: usize = "10000", count(1, 1_000_000), reload;
        /// Time for a request's head. A slower sender is cut off.
        header_read_ms: u64 = "10000", milliseconds(1, DAY_MS), reload;
        /// Connections at once of one address, or of an IPv6 network of 64 bits. More are closed. Proxies of
        /// trusted_proxies are not counted.
        connections_per_peer_max: usize = "1000", count(1, 1_000_000), reload;
        /// Largest head of a request. A larger one is answered 431.
        header_bytes_max: usize = "65536", bytes(8_192, 16 * MIB), reload;
        /// Most headers of a request. More are answered 431.
        headers_max: usize = "100", count(1, 10_000), reload;
        /// How long a connection may stay open without a request.
        idle_ms: u64 = "60000", milliseconds(1, DAY_MS), reload;
        /// How long a peer may take for each 64 KiB of its answers. Then the gateway gives the answer up: it resets the
        /// stream over HTTP/2, and cuts the connection over HTTP/1.
        write_ms: u64 = "30000", milliseconds(1, DAY_MS), reload;
        /// How long a refused peer may still send, so that it can read the answer. Then its connection is closed.
        linger_ms: u64 = "1000", milliseconds(0, DAY_MS), reload;
        /// Most bytes that a refused peer may still send.
        linger_bytes_max: usize = "67108864", bytes(0, 1024 * MIB), reload;
        /// Requests at once of one HTTP/2 connection.
        http2_streams_max: u32 = "250", count(1, 100_000), reload;
        /// Requests that an HTTP/2 peer may reset before the gateway has read them. One more ends its connection.
        http2_resets_max: usize = "20", count(1, 100_000), reload;
        /// Most bytes of one body that an HTTP/2 peer may send before the gateway reads them.
        http2_stream_window_bytes: u32 = "262144", bytes(65_535, 1024 * MIB), reload;
        /// Most bytes of all its bodies that an HTTP/2 peer may send before the gateway reads them.
        http2_connection_window_bytes: u32 = "1048576", bytes(65_535, 1024 * MIB), reload;
        /// Frames of one HTTP/2 connection in a second that are no request and no body, over ten seconds; each request and
        /// each piece of an answer allows four more. One more ends the connection with ENHANCE_YOUR_CALM.
        http2_control_frames_per_second_max: u64 = "1000", count(10, 1_000_000), reload;
        /// Time between two pings to an HTTP/2 peer, and the time for its answer.
        http2_ping_ms: u64 = "20000", milliseconds(10, DAY_MS), reload;
        /// Time for the TLS handshake. A slower peer is cut off.
        tls_handshake_ms: u64 = "10000", milliseconds(1, DAY_MS), reload;
        /// Longest PROXY header. A longer one ends the connection.
        proxy_header_bytes_max: usize = "1024", bytes(107, 65_551), reload;
    }
    "TLS, proxies and callers" {
        /// A file with the certificate and the intermediate ones, in PEM. It is read again when it changes. Empty: no
        /// TLS.
        tls_certificate: Option<PathBuf> = "", Kind::OptionalPath, reload;
        /// The private key of tls_certificate, in PEM.
        tls_key: Option<PathBuf> = "", Kind::OptionalPath, reload;
        /// A file with the roots of client certificates, in PEM. `eye app add --certificate-sha256` identifies an
        /// application by its certificate. Empty: the gateway asks for none.
        tls_client_ca: Option<PathBuf> = "", Kind::OptionalPath, reload;
        /// Whether every connection must show a certificate of tls_client_ca. Optional: a caller without one may show a
        /// token.
        tls_client_auth: bool = "optional", Kind::Choice(&["optional", "required"]), reload;
        /// What callers from this machine may do without a token, as the application `local`, where the gateway runs a
        /// Postgres of its own: nothing, send, or send and read. More than that needs a token, such as that of the file
        /// admin.token in data_dir. With a database of your own no caller is `local`.
        local: Local = "read", Kind::Choice(&["off", "ingest", "read"]), reload;
        /// A file with a token of 32 characters or more, which the gateway registers at its start as the application
        /// `bootstrap` with the scope `admin` while no other application has that scope. For a database of your own.
        /// Empty: none.
        admin_token_file: Option<PathBuf> = "", Kind::OptionalPath, restart;
        /// The networks (CIDR) of proxies whose report of a caller's address is trusted. The gateway never takes an
        /// address in these networks for a caller, so they must not be an application's networks.
        trusted_proxies: Vec<IpNet> = "", Kind::Networks, reload;
        /// The header in which trusted proxies report the caller's address. They must write it themselves. The gateway
        /// ignores the other one.
        forwarded_header: Told = "x-forwarded-for", Kind::Choice(&["x-forwarded-for", "forwarded"]), reload;
        /// Whether each connection must start with a PROXY header, version 1 or 2. The gateway trusts it from
        /// trusted_proxies, which must be set, and refuses it from others.
        proxy_protocol: bool = "off", Kind::Choice(&["off", "required"]), reload;
        /// How often the gateway reads the applications even without a notification. If a notification is lost, a
        /// change takes this long.
        applications_poll_ms: u64 = "1000", milliseconds(10, DAY_MS), reload;
        /// Origins whose pages may send events from the browser, such as https://shop.example. The gateway reads their
        /// text/plain as JSON. Empty: none.
        cors_origins: Vec<String> = "", Kind::Origins, reload;
        /// The host names of the gateway. If set, a caller that its network or its certificate identifies must use one
        /// of them, localhost or an address, or is answered 403: a page can have its own name resolved to the gateway.
        /// Empty: only callers from this machine must do so.
        hosts: Vec<String> = "", Kind::Hosts, reload;
    }
    "Requests" {
        /// Time for a request's body. A slower sender is answered 408.
        body_read_ms: u64 = "30000", milliseconds(1, DAY_MS), reload;
        /// Time to answer once the body is read. After it the answer is 503; a retry with ids is safe.
        answer_ms: u64 = "5000", milliseconds(1, DAY_MS), reload;
        /// How long a stopping gateway still accepts connections and requests. Meanwhile /readyz is 503 and each answer
        /// closes its connection, so that a load balancer moves senders to other gateways before the gateway refuses
        /// any. Empty: 5000 with database_url; 0 with an embedded Postgres, since such a gateway is alone.
        drain_delay_ms: Option<u64> = "", optional_milliseconds(0, DAY_MS), reload;
        /// Time to finish accepted requests when the gateway stops, after drain_delay_ms. Then it cuts connections.
        drain_ms: u64 = "30000", milliseconds(0, DAY_MS), reload;
        /// Largest body, also after decompression. A larger one is answered 413.
        request_bytes_max: usize = "8388608", bytes(1, 1024 * MIB), reload;
        /// Most events of one request. More are answered 413.
        events_per_request_max: usize = "10000", count(1, 1_000_000), reload;
    }
    "Rules for events" {
        /// Largest `data` of an event. A larger one is a violation.
        data_bytes_max: usize = "262144", bytes(2, 64 * MIB), reload;
        /// Deepest nesting of `data`. A deeper one is a violation.
        nesting_max: usize = "64", count(1, 1_000), reload;
        /// Most digits of a number in `data`, written without exponent. One that has more is a violation: many programs
        /// cannot read it.
        number_digits_max: usize = "1000", count(20, 147_455), reload;
        /// Event types of one application, whatever the outcomes of their events. A new one beyond is a violation;
        /// known ones go on. Several gateways learn of new ones within a minute.
        event_types_max: usize = "10000", count(1, 1_000_000), reload;
        /// How far a timestamp may lie ahead of the gateway's clock.
        future_seconds_max: u64 = "60", seconds(0, 10 * 366 * 86_400), reload;
    }
    "Queue and writers" {
        /// Bytes of all bodies that are being read, judged or written. More are answered 503.
        in_flight_bytes_max: usize = "67108864", bytes(MIB, 64 * 1024 * MIB), reload;
        /// Requests that may wait for a writer. More are answered 503.
        queue_requests_max (formerly "queue_parcels_max"): usize = "16384", count(1, 10_000_000), reload;
        /// How much of answer_ms a request may wait for a writer while others are written. Once one has waited longer,
        /// more are answered 503, first to the application that fills the queue, and after twice that wait to all.
        queue_wait_percent: u32 = "25", percent(1, 45), reload;
        /// How much of in_flight_bytes_max, queue_requests_max, dead_letter_queue_bytes_max, slow_waiting_max,
        /// slow_waiting_bytes_max, answers_bytes_max, read_connections, streams_max and live_readers_max an application
        /// may fill alone. Several get less each. 100 lets one take it all.
        application_share_percent: usize = "75", percent(1, 100), reload;
        /// Most events of a batch. Larger batches cost less per event, and more when they fail.
        batch_events_max: usize = "1000", count(1, 100_000), reload;
        /// Most bytes of a batch.
        batch_bytes_max: usize = "8388608", bytes(1024, 1024 * MIB), reload;
        /// Longest wait of an event for others while another batch is being written. An idle writer never waits.
        batch_age_ms: u64 = "5", milliseconds(0, 60_000), reload;
        /// Batches that are written at once, each on a connection of its own.
        writers: usize = "2", count(1, 64), restart;
        /// Longest time for writing one batch to a slow database; one that was fast so far gets a second. After it the
        /// gateway drops the connection and writes the batch again.
        flush_ms: u64 = "5000", milliseconds(10, DAY_MS), restart;
    }
    "Dead letters" {
        /// Bytes of an event that a dead letter keeps. The rest is cut.
        dead_letter_raw_bytes_max: usize = "1048576", bytes(0, 64 * MIB), reload;
        /// Days that older dead letters keep their bytes once the validator of their type takes secrets out of events
        /// and cannot redact them. Then nothing but their size and digest is left.
        scrub_grace_days: u64 = "7", days(0, 3_650), reload;
        /// Pause between two rounds that redact older dead letters.
        scrub_seconds: u64 = "60", seconds(1, 86_400), reload;
        /// Most dead letters of one such round for each event type. The next round continues.
        scrub_letters_max: u32 = "100000", count(1_000, 100_000_000), reload;
        /// Bytes of rejected events that may wait until they are kept. Those that do not fit are answered, and counted,
        /// and not kept.
        dead_letter_queue_bytes_max: usize = "16777216", bytes(1024, 1024 * MIB), reload;
        /// Bytes of all dead letters on disk. Beyond it the oldest are trimmed, and counted.
        dead_letters_bytes_max: i64 = "10737418240", bytes(MIB, 1 << 50), reload;
        /// Days that dead letters are kept. Older ones are trimmed, and counted. 0 keeps them forever.
        dead_letters_days: u64 = "30", days(0, 36_500), reload;
    }
    "Retention" {
        /// Days that events are kept. A month is removed when all of it is older. 0 keeps them forever.
        events_days: u64 = "0", days(0, 36_500), reload;
        /// Days that counts by the minute are kept; those by the hour and by the day stay. 0 keeps them forever.
        counts_minute_days: u64 = "90", days(0, 36_500), reload;
        /// Days that entries of the audit trail are kept (GET /v1/audit). 0 keeps them for ever.
        audit_days: u64 = "400", days(0, 36_500), reload;
        /// Months after this one whose partitions are made before they begin.
        partitions_ahead_months: u32 = "2", months(1, 120), reload;
        /// Partitions of events, one for each month that has any. Events of more months share the default partition.
        event_partitions_max: usize = "240", count(4, 10_000), reload;
        /// Pause between two rounds that remove rows that are too old or too many. One of several gateways makes them.
        retention_seconds: u64 = "60", seconds(1, 86_400), reload;
        /// Seconds by which this gateway's clock and the database's may differ. Beyond that nothing is trimmed, and
        /// /readyz is degraded.
        clock_skew_max_s: u64 = "60", seconds(1, 86_400), reload;
    }
    "Live outcomes" {
        /// Readers of the live stream. More are answered 503.
        live_readers_max: usize = "256", count(0, 100_000), reload;
        /// Time without outcomes after which such a reader gets a heartbeat.
        live_heartbeat_ms: u64 = "10000", milliseconds(100, DAY_MS), reload;
        /// Outcomes that they get in a second: of stored and duplicate events, and as many of all others. The rest is
        /// counted.
        live_events_per_second_max: usize = "1000", count(10, 100_000), reload;
    }
    "Reading" {
        /// Database connections for reading. They are not those of the writers.
        read_connections: u32 = "8", count(1, 1_000), restart;
        /// Longest time for one read from the database.
        read_ms: u64 = "5000", milliseconds(1, DAY_MS), restart;
        /// Longest wait of a read for one of those connections. After it the answer is 503.
        read_wait_ms: u64 = "1000", milliseconds(1, DAY_MS), reload;
        /// Bytes of data after which a page ends, however many events were requested. `next` continues from there.
        page_bytes_max: usize = "8388608", bytes(1024, 1024 * MIB), reload;
        /// Bytes of answers to reads that are not sent yet. A read whose answer does not fit is answered 503.
        answers_bytes_max: usize = "134217728", bytes(8_192, 1 << 40), reload;
        /// Bytes of violations in the answer to several events. Further ones are counted in `violations_omitted`, and
        /// the dead letters have them. The answer to a single event has all.
        answer_violations_bytes_max: usize = "1048576", bytes(0, 1024 * MIB), reload;
        /// Results that are streamed as lines at once. More are answered 503.
        streams_max: usize = "32", count(1, 100_000), reload;
        /// How long the reader of a stream may read nothing. Then its connection is cut.
        stream_stall_ms: u64 = "30000", milliseconds(1, DAY_MS), reload;
    }
    "Modules" {
        /// The treatment of events that no validator serves.
        unknown_event_type: UnknownEventType = "accept", Kind::Choice(&["accept", "reject"]), reload;
        /// Event types that must have a validator, such as shop/sale or shop/*. While one has none, its events are
        /// answered 503 instead of being accepted. Empty: none.
        require_module: Arc<EventTypes> = "", Kind::EventTypes, reload;
        /// Whether /readyz is 503 while a file in the modules directory was refused with nothing in its place, or an
        /// event type of require_module has no validator, so that a rollout stops. Otherwise `degraded` lists it.
        ready_requires_modules: bool = "false", Kind::Switch, reload;
        /// Longest time for judging one event. After it the event is quarantined.
        deadline_ms: u64 = "50", milliseconds(1, 60_000), restart;
        /// Most memory of a validator. An event for which it needs more is quarantined.
        memory_bytes_max: usize = "67108864", bytes(65_536, 4096 * MIB), restart;
        /// Largest amended data, or violations together, that a validator may return.
        output_bytes_max: usize = "262144", bytes(2, 64 * MIB), restart;
        /// Most violations that a validator may return.
        violations_max: usize = "100", count(1, 10_000), restart;
        /// Memory of all validators together between calls: compiled code, the state that `describe` left, and kept
        /// instances. A module that does not fit is refused, after idle instances of others were dropped. Fewer
        /// instances cost time and no event.
        modules_memory_bytes_max: usize = "1073741824", bytes(16 * MIB, 1 << 50), restart;
        /// Calls of slow validators at once. Each has a thread of its own, so that it blocks no request thread. 0: two
        /// for each processor.
        slow_calls_max: usize = "0", count(0, 10_000), restart;
        /// How much of slow_calls_max one validator may hold alone. Several get less each; one whose calls take longer
        /// than 5 ms gets fewer.
        slow_module_share_percent: usize = "75", percent(1, 100), reload;
        /// Events that may wait for slow validators. More are unfinished (503 alone, `module_busy`), first those of the
        /// application that has the most.
        slow_waiting_max: usize = "4096", count(1, 1_000_000), reload;
        /// Bytes of the data of those events.
        slow_waiting_bytes_max: usize = "33554432", bytes(1024, 1024 * MIB), reload;
        /// How much of answer_ms the events of a request may wait for slow validators. Half of the rest is for judging,
        /// and an event that is not judged by then is unfinished; the other half is for the write.
        judge_wait_percent: u32 = "50", percent(1, 80), reload;
        /// Events per second that the gateway judges again by itself, after they were quarantined while their validator
        /// was off the path. It judges them in order once that is back, one at a time. 0: none.
        rejudge_events_per_second_max: u32 = "200", count(0, 100_000), reload;
        /// Events that may wait until a candidate, or the version that was replaced, judges them too. More are not
        /// compared, and no answer waits for them.
        compare_waiting_max: usize = "4096", count(1, 1_000_000), reload;
        /// Bytes of the data of those events and of the verdicts on them.
        compare_waiting_bytes_max: usize = "33554432", bytes(1024, 1024 * MIB), reload;
        /// How many minutes a new version of a validator is compared with the one that it replaced. If it breaks, refuses
        /// many more of the same events, or is too slow, the version before is put back. 0: not at all. Candidates are
        /// always guarded, unless their settings say otherwise.
        guard_minutes: u64 = "10", count(0, 1_440), reload;
        /// The gateway posts a JSON message to this URL when the guard takes a module back. It is https, or on this machine. Empty: none.
        notify_url: Option<Secret> = "", Kind::Secret, reload;
        /// Signs these messages as Standard Webhooks has it: `whsec_` and base64, or any text of 16 bytes or more.
        notify_secret: Option<Secret> = "", Kind::Secret, reload;
    }
    "Loading of modules" {
        /// Most memory of the process that loads a module's file, beside loader_memory_per_byte for each byte of it. A
        /// file that takes more is refused.
        loader_memory_bytes: u64 = "268435456", bytes(64 * MIB, 64 * 1024 * MIB), restart;
        /// Memory of that process for each byte of the file.
        loader_memory_per_byte: u64 = "32", bytes(0, 10_000), restart;
        /// Longest processor time for loading a module's file, beside loader_processor_ms_per_mib for each MiB of it. A
        /// file that takes longer is refused.
        loader_processor_ms: u64 = "5000", milliseconds(100, DAY_MS), restart;
        /// Processor time for each MiB of the file.
        loader_processor_ms_per_mib: u64 = "4000", milliseconds(0, DAY_MS), restart;
        /// Processor time of a file's first attempt. A file that takes longer starts again beside others of its kind,
        /// so that no small file waits for it.
        loader_quick_ms: u64 = "2000", milliseconds(10, DAY_MS), restart;
        /// How many times its processor time the loading of a file may take, beside the time for which no processor is
        /// free. After it the file is tried again later.
        loader_wall_factor: u32 = "10", count(1, 1_000), restart;
        /// Longest processor time of all examples of a module. One that takes longer is refused.
        loader_self_test_ms: u64 = "5000", milliseconds(10, DAY_MS), restart;
        /// Stack for reading a module's file. A file whose parts are nested too deeply for it is refused.
        loader_stack_bytes: u64 = "8388608", bytes(256 * 1024, 1024 * MIB), restart;
        /// Factor for all bounds of loading a module's file, in percent. Raise it on a slow machine, or for large
        /// modules.
        loader_bounds_percent: u64 = "100", percent(1, 100_000), restart;
        /// How often the gateway reads the modules directory even if the watch reports no change.
        rescan_seconds: u64 = "30", seconds(1, 86_400), restart;
    }
    "Logs" {
        /// The format of log lines, which go to standard error.
        log_format: LogFormat = "text", Kind::Choice(&["text", "json"]), restart;
        /// The least severe level that is logged.
        log_level: String = "info", Kind::Choice(&["error", "warn", "info", "debug", "trace"]), reload;
        /// Which requests get a line in the log: none, those that were refused or hold refused events (problems), or
        /// all.
        access_log: AccessLogMode = "off", Kind::Choice(&AccessLogMode::WORDS), reload;
        /// Bytes of those lines that may wait to be written. Lines beyond it are dropped, counted and reported.
        access_log_bytes_max: usize = "1048576", bytes(4096, 1024 * MIB), restart;
    }
}
