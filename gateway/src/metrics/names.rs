//! All metrics: names, kinds, labels and help texts. `monitoring/METRICS.md` documents them; a test compares the two.

/// The kind of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows while the process lives.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts values by size.
    Histogram,
}

impl Kind {
    /// The word in the text format.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A metric.
#[derive(Debug)]
pub struct Metric {
    /// The name, with the unit last.
    pub name: &'static str,
    /// How it behaves.
    pub kind: Kind,
    /// The names of the labels.
    pub labels: &'static [&'static str],
    /// The help text, one sentence.
    pub help: &'static str,
}

macro_rules! metrics {
    ($($constant:ident = $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(
            #[doc = $help]
            pub const $constant: Metric = Metric {
                name: $name,
                kind: Kind::$kind,
                labels: &[$($label),*],
                help: $help,
            };
        )*

        /// All metrics, in the order of the output.
        pub const METRICS: &[&Metric] = &[$(&$constant),*];
    };
}

metrics! {
    REQUESTS = Counter "eye_requests_total" ["route", "status"]
        "Requests by kind of path and status of the answer.";
    REQUEST_SECONDS = Histogram "eye_request_seconds" ["route"]
        "Time from a request's head to the start of its answer.";
    EVENTS = Counter "eye_events_total" ["application", "outcome"]
        "Events by application and outcome; unfinished ones have none yet.";
    EVENT_TYPE_EVENTS = Counter "eye_event_type_events_total" ["category", "name", "outcome"]
        "Events by event type and outcome; unfinished ones have none yet.";
    SKEWED_EVENTS = Counter "eye_skewed_events_total" ["application", "skew"]
        "Events whose timestamp is far from their receipt: more than 15 minutes in the past, or rejected as in the future.";
    UNFINISHED_EVENTS = Counter "eye_unfinished_events_total" ["code"]
        "Events that had no outcome, by cause: the gateway kept nothing of them, and their senders have to send them again.";
    DEAD_LETTERS_KEPT = Counter "eye_dead_letters_kept_total" []
        "Dead letters that were committed.";
    LETTERS_JUDGED_AGAIN = Counter "eye_dead_letters_judged_again_total" ["outcome"]
        "Dead letters that the gateway judged again by itself, because no module had judged them.";
    ACCESS_LOG_DROPPED = Counter "eye_access_log_dropped_total" []
        "Lines of the access log that found no room, since the log's reader was too slow.";
    AUDIT_OMITTED = Counter "eye_audit_omitted_total" []
        "Entries of the audit trail that were left out: more came than may be, or than may wait for the database.";
    DEAD_LETTERS_DROPPED = Counter "eye_dead_letters_dropped_total" []
        "Rejected events that were not kept as dead letters: for lack of room, refused by Postgres, or lost with their batch or the drain.";
    TRIMMED_ROWS = Counter "eye_trimmed_rows_total" ["table", "cause"]
        "Rows that this gateway removed, because they were too old or took too much room.";
    TRIMMED_BYTES = Counter "eye_trimmed_bytes_total" ["table"]
        "Bytes of the rows that this gateway removed.";
    DEAD_LETTERS_MAX_BYTES = Gauge "eye_dead_letters_max_bytes" []
        "Most bytes of dead letters.";
    TRIMMING_ANNOUNCED = Gauge "eye_trimming_announced" ["rule"]
        "1 while a rule of retention has announced a removal that waits for its time or for a confirmation.";
    DUTY_HELD = Gauge "eye_duty_held" ["duty"]
        "1 if this gateway does this work for all gateways of its database.";
    JOBS_ENDED = Counter "eye_jobs_ended_total" ["kind", "state"]
        "Jobs that ended at this gateway, by kind and end.";
    CLOCK_SKEW_SECONDS = Gauge "eye_clock_skew_seconds" []
        "By how much the database's clock is ahead of this gateway's.";
    RETENTION_ROUND_SECONDS = Gauge "eye_retention_round_seconds" []
        "When a round of retention ran last, in seconds since 1970; 0 before the first.";
    QUEUE_REQUESTS = Gauge "eye_queue_requests" ["queue"]
        "Requests whose items wait for a writer.";
    QUEUE_REQUESTS_FORMER = Gauge "eye_queue_parcels" ["queue"]
        "The former name of eye_queue_requests; the next release leaves it out.";
    QUEUE_REFUSED_FORMER = Counter "eye_queue_refused_parcels_total" ["queue"]
        "The former name of eye_queue_refused_requests_total; the next release leaves it out.";
    QUEUE_OLDEST_SECONDS = Gauge "eye_queue_oldest_seconds" ["queue"]
        "How long the oldest of them has waited.";
    QUEUE_REFUSED = Counter "eye_queue_refused_requests_total" ["queue"]
        "Requests whose items were not taken, because the queue was full or slow.";
    BATCH_ITEMS = Histogram "eye_batch_items" ["queue"]
        "Items of each batch.";
    FLUSH_SECONDS = Histogram "eye_flush_seconds" ["queue"]
        "Time from taking a batch to the fate of its last item, all tries included.";
    COMMIT_SECONDS = Histogram "eye_commit_seconds" ["queue"]
        "Time of each write that was committed.";
    WRITE_RETRIES = Counter "eye_write_retries_total" ["queue"]
        "Writes that failed for a passing reason and were tried again.";
    BATCH_SPLITS = Counter "eye_batch_splits_total" ["queue"]
        "Times that a batch was refused and split in halves.";
    BATCHES_REFUSED = Counter "eye_refused_batches_total" ["queue"]
        "Batches of which every item was refused for its data.";
    ITEMS_NOT_NOW = Counter "eye_unwritable_items_total" ["queue"]
        "Items that the database refused for a reason of its own; their senders have to send them again.";
    FOLDS_FAILED = Counter "eye_fold_failures_total" []
        "Folds of the counts that the database refused or did not finish.";
    UNFOLDED_COUNT_ROWS = Gauge "eye_unfolded_count_rows" []
        "Rows of counts that are not folded yet, up to 100,000.";
    BATCHES_BROKEN = Counter "eye_broken_batches_total" ["queue"]
        "Batches that a fault of the gateway ended.";
    IN_FLIGHT_BYTES = Gauge "eye_in_flight_bytes" []
        "Bytes of the bodies that are being read, judged or written.";
    IN_FLIGHT_BYTES_MAX = Gauge "eye_in_flight_max_bytes" []
        "Most bytes of them.";
    UNSENT_BYTES = Gauge "eye_unsent_answers_bytes" []
        "Bytes of answers to reads that their callers have not taken yet.";
    MODULES = Gauge "eye_modules" ["state"]
        "Module files by the state of the newest one.";
    MODULES_STANDING = Gauge "eye_modules_serving" ["standing"]
        "Modules that serve, by standing.";
    MODULE_FILES_REFUSED = Gauge "eye_module_files_refused" []
        "Module files that were refused, whether or not an older module serves.";
    MODULES_HELD = Gauge "eye_modules_held" ["code"]
        "Module files and folders whose events are not judged, since nothing serves: by the code of the answer.";
    MODULES_LOST = Gauge "eye_modules_lost" []
        "Modules that serve on though their files were lost with most others.";
    MODULE_ACCIDENTS = Counter "eye_module_accidents_total" []
        "Times that most files of the modules directory were lost at once.";
    MODULE_VERDICTS = Counter "eye_module_verdicts_total" ["event_type", "digest", "verdict"]
        "Verdicts of each module that serves.";
    MODULE_FAULTS = Counter "eye_module_faults_total" ["event_type", "digest", "code"]
        "Faults of each module that serves.";
    SLOT_FAULTS = Counter "eye_slot_faults_total" ["event_type", "code"]
        "Faults over all versions of a module, since its file is there.";
    MODULE_JUDGING_SECONDS = Gauge "eye_module_judging_seconds" ["event_type", "digest", "quantile"]
        "How long judging took since the module serves.";
    MODULES_MEMORY_BYTES = Gauge "eye_modules_memory_bytes" []
        "Bytes that modules take together between calls: code, what describe left, instances that are kept.";
    MODULES_MEMORY_BYTES_MAX = Gauge "eye_modules_memory_max_bytes" []
        "Most bytes of them.";
    SLOW_WAITING_EVENTS = Gauge "eye_slow_waiting_events" []
        "Events that wait for modules that take long.";
    JUDGING_SECONDS = Histogram "eye_judging_seconds" []
        "How long judging took, over all modules.";
    CANDIDATES = Gauge "eye_candidates" ["trial"]
        "Modules that are compared with the one that serves: candidates, and for a while those that were replaced.";
    CANDIDATE_PAIRS = Counter "eye_candidate_pairs_total" ["event_type", "outcome"]
        "Events on which this gateway compared a new module with the old one, by what came of it.";
    CANDIDATE_PAIRS_DROPPED = Counter "eye_candidate_pairs_dropped_total" []
        "Compared events that are in no count, since the database was away for too long.";
    CANDIDATE_STEP = Gauge "eye_candidate_step" ["event_type"]
        "The step of a candidate that is promoted by itself, from 1, at the gateway with the duty; 0 where there is none.";
    MODULES_TAKEN_BACK = Counter "eye_modules_taken_back_total" ["reason"]
        "Modules that the guard took back at this gateway.";
    NOTIFICATIONS = Counter "eye_notifications_total" ["state"]
        "Messages to notify_url that were taken, and that nobody took.";
    MODULE_STRAYS = Gauge "eye_module_strays" []
        "Files and folders in the modules directory that serve nothing.";
    CONNECTIONS = Gauge "eye_connections" []
        "Open connections.";
    CONNECTIONS_MAX = Gauge "eye_connections_max" []
        "Most open connections.";
    CONNECTIONS_ACCEPTED = Counter "eye_connections_accepted_total" []
        "Connections that were accepted.";
    CONNECTIONS_FULL = Counter "eye_connections_full_total" []
        "Times that all allowed connections were open, so that new ones had to wait.";
    CONNECTIONS_REFUSED = Counter "eye_connections_refused_total" ["class"]
        "Connections that were closed before they spoke HTTP, or for a flood of HTTP/2 frames.";
    CALLERS_REFUSED = Counter "eye_callers_refused_total" ["application", "kind"]
        "Refusals of known applications.";
    STRANGERS_REFUSED = Counter "eye_strangers_refused_total" ["kind"]
        "Refusals of callers that are no known application.";
    TOKEN_EXPIRES = Gauge "eye_token_expires_seconds" ["application"]
        "When a token that the application uses ends, in seconds since 1970; 0 when none does.";
    APPLICATIONS_AGE = Gauge "eye_applications_age_seconds" []
        "How long ago the gateway read the applications last.";
    CONNECTIONS_FAILED = Counter "eye_connections_failed_total" []
        "Times that accepting failed for lack of descriptors or memory.";
    TLS_EXPIRES = Gauge "eye_tls_certificate_expires_seconds" []
        "When the TLS certificate in force ends, in seconds since 1970; 0 without TLS.";
    LIVE_READERS = Gauge "eye_live_readers" []
        "Readers of /v1/live.";
    LIVE_LEFT_OUT = Counter "eye_live_left_out_outcomes_total" []
        "Outcomes that no reader of /v1/live got, because there were too many.";
    LIVE_MISSED = Counter "eye_live_missed_outcomes_total" []
        "Outcomes that readers of /v1/live missed because they read too slowly, summed over readers.";
    DATABASE_UP = Gauge "eye_database_up" []
        "1 when the database answered at this scrape, else 0.";
    REPLAYED_COMMIT_AGE = Gauge "eye_replayed_commit_age_seconds" []
        "Age of the last commit that the standby of a reader has replayed, at the last check; 0 on a primary.";
    READY = Gauge "eye_ready" []
        "1 when the gateway takes requests, as /readyz says, else 0.";
    UNREADY = Gauge "eye_unready" ["reason"]
        "1 while the reason keeps the gateway from being ready, else 0.";
    DEGRADED = Gauge "eye_degraded" ["reason"]
        "1 while the gateway is degraded for the reason, else 0.";
    GENERATION = Gauge "eye_generation" []
        "The generation of modules that this gateway serves; 0 where they come from a directory.";
    GATEWAYS = Gauge "eye_gateways" []
        "Gateways on this database that are alive, this one among them.";
    BUILD_INFO = Gauge "eye_build_info" ["version"]
        "Always 1; the version of the program.";
    START_TIME = Gauge "process_start_time_seconds" []
        "When the process began, in seconds since 1970.";
    PARTITIONS = Gauge "eye_partitions" ["table"]
        "Partitions of each partitioned table, the default one among them.";
    PARTITIONS_AHEAD_SECONDS = Gauge "eye_partitions_ahead_seconds" ["table"]
        "How long from now on each month has its partition; 0 when this month has none.";
    DEFAULT_PARTITION_ROWS = Gauge "eye_default_partition_rows" ["table"]
        "Rows in the default partition that belong into the partition of a month, up to 10,000.";
    TABLE_BYTES = Gauge "eye_table_bytes" ["table"]
        "Bytes of each partitioned table on disk, with indexes.";
    DATA_DIR_FREE_BYTES = Gauge "eye_data_dir_free_bytes" []
        "Bytes that are free on the disk of the data directory.";
    DATA_DIR_MAX_BYTES = Gauge "eye_data_dir_max_bytes" []
        "The size of that disk in bytes.";
    PROCESS_CPU = Counter "process_cpu_seconds_total" []
        "Processor time of the process.";
    PROCESS_MEMORY = Gauge "process_resident_memory_bytes" []
        "Resident memory of the process.";
    PROCESS_FDS = Gauge "process_open_fds" []
        "Open file descriptors.";
    PROCESS_FDS_MAX = Gauge "process_max_fds" []
        "Most open file descriptors.";
}
