//! `/metrics`: its format, its documented metrics, who may read it, and that its counts match the answers.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use crate::support::cluster::Server;
use crate::support::figures::{FORMAT, Figures};
use crate::support::proxy::{At, Fault, How, Proxy};
use crate::support::{Gateway, Setup, event, eventually, pageview};

/// The names and types in the documentation.
fn documented() -> BTreeMap<String, String> {
    let list =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/monitoring/METRICS.md")).expect("the list");
    let rows = list.lines().filter(|line| line.starts_with("| `"));
    let cell =
        |row: &str, place: usize| row.split(" | ").nth(place).expect("a cell").trim_matches(['|', ' ', '`']).into();
    rows.map(|row| (cell(row, 0), cell(row, 1))).collect()
}

#[tokio::test]
async fn what_is_told_is_what_is_documented_in_the_right_format() {
    let setup = Setup::default().with_module("guests/traps.wasm", "traps");
    let gateway = setup.with_module(".candidates/guests/traps.wasm", "accepts").start().await;
    gateway.validator("guests/traps", "active").await;
    assert_eq!(gateway.send(&event("guests", "traps", json!({"misbehave": true}))).await.status, 202);
    eventually("the candidate is tried", async || {
        (gateway.figures().await.value("eye_candidates", &[("trial", "shadow")]) == Some(1.0)).then_some(())
    })
    .await;
    assert_eq!(gateway.send(&pageview()).await.status, 201);
    // A caller from this machine is no administrator, so one of its requests is refused and counted.
    assert_eq!(gateway.answer(gateway.request("GET", "/v1/applications")).await.status, 403);
    eventually("the tables were looked at", async || {
        gateway.figures().await.told("eye_unfolded_count_rows").then_some(())
    })
    .await;
    let answer = gateway.answer(gateway.request("GET", "/metrics").header("accept", FORMAT)).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["content-type"], "application/openmetrics-text; version=1.0.0; charset=utf-8");
    // The reader checks the format of each line.
    let figures = Figures::read(&answer.text);
    assert_eq!(answer.headers["vary"], "Accept");
    let documented = documented();
    assert!(documented.len() > 60);
    let told: BTreeMap<String, String> = figures.types.clone();
    assert_eq!(told, documented);
    let silent: Vec<_> = documented.keys().filter(|name| !figures.told(name)).collect();
    assert!(silent.is_empty(), "no figures of {silent:?}");
}

#[tokio::test]
async fn a_scraper_that_does_not_ask_for_openmetrics_gets_the_older_text() {
    let gateway = Setup::default().with("EYE_METRICS_LISTEN", "127.0.0.1:0").start().await;
    assert_eq!(gateway.send(&pageview()).await.status, 201);
    let plain = gateway.get("/metrics").await;
    assert_eq!(plain.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let heads: BTreeMap<&str, &str> = plain
        .text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .map(|line| line.split_once(' ').expect("a type"))
        .collect();
    let documented = documented();
    let told: BTreeMap<String, String> =
        heads.iter().map(|(name, kind)| ((*name).to_owned(), (*kind).to_owned())).collect();
    assert_eq!(told, documented, "each with its full name");
    assert!(plain.text.lines().all(|line| !line.starts_with("# EOF") && !line.starts_with("# UNIT")));
    assert!(plain.text.contains("\neye_events_total{application=\"local\",outcome=\"stored\"} 1\n"), "{}", plain.text);
    let monitoring = gateway.announced("monitoring is answered").expect("its address");
    let client = reqwest::Client::new();
    let (older, newer) = ("text/plain; version=0.0.4", "application/openmetrics-text; version=1.0.0");
    let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
        application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
        text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
    for (accept, wanted) in [
        ("*/*", older),
        ("text/html, application/xhtml+xml, */*;q=0.8", older),
        ("image/png", older),
        ("application/openmetrics-text;q=0, */*", older),
        ("application/openmetrics-text;q=0.2, text/plain;q=0.3", older),
        ("application/openmetrics-text", newer),
        ("application/openmetrics-text;q=0.3, text/plain;q=0.2", newer),
        (prometheus, newer),
    ] {
        let request = client.get(format!("http://{monitoring}/metrics")).header("accept", accept);
        let told =
            request.send().await.expect("an answer").headers()["content-type"].to_str().expect("text").to_owned();
        assert!(told.starts_with(wanted), "{accept}: {told}");
    }
}

#[tokio::test]
async fn each_event_is_counted_once_by_its_outcome() {
    let gateway = Setup::default()
        .with("EYE_METRICS_EVENT_TYPES_MAX", 3)
        .with_module("page interaction/pageview.wasm", "pageview")
        .with_module("guests/traps.wasm", "traps")
        .start()
        .await;
    gateway.validator("page interaction/pageview", "active").await;
    gateway.validator("guests/traps", "active").await;
    let mut known = pageview();
    known["id"] = json!("0198c5a4-6f3e-7c1d-9b52-3f0e8a7d6c15");
    let bad = event("page interaction", "pageview", json!({"host": "a.example", "path": "nowhere"}));
    let trap = event("guests", "traps", json!({"misbehave": true}));
    let other = |number: u32| event("other types", &number.to_string(), json!({}));
    let no_event = json!({"category": "page interaction", "name": "pageview"});
    let many = json!([known, known, pageview(), bad, no_event, other(1), other(2), other(3)]);
    assert_eq!(gateway.send(&trap).await.status, 202);
    let answer = gateway.send(&many).await;
    assert_eq!(answer.status, 207, "{answer:?}");
    assert_eq!(gateway.send(&known).await.status, 200);
    assert_eq!(gateway.post("/v1/events", "application/json", "[").await.status, 400);
    assert_eq!(gateway.get("/nowhere").await.status, 404);

    let figures = gateway.figures().await;
    let events = |outcome| figures.value("eye_events_total", &[("application", "local"), ("outcome", outcome)]);
    assert_eq!(["stored", "duplicate", "rejected", "quarantined"].map(events), [5.0, 2.0, 2.0, 1.0].map(Some));
    let of_type = |category, name, outcome| {
        figures.value("eye_event_type_events_total", &[("category", category), ("name", name), ("outcome", outcome)])
    };
    assert_eq!(of_type("page interaction", "pageview", "stored"), Some(2.0));
    assert_eq!(of_type("page interaction", "pageview", "duplicate"), Some(2.0));
    assert_eq!(of_type("page interaction", "pageview", "rejected"), Some(1.0));
    assert_eq!(of_type("guests", "traps", "quarantined"), Some(1.0));
    let sum: f64 = figures.all("eye_event_type_events_total").map(|(_, value)| value).sum();
    assert_eq!(sum, 10.0, "and each is counted under some type");
    let types: BTreeSet<_> = figures.all("eye_event_type_events_total").map(|(labels, _)| &labels["name"]).collect();
    assert_eq!(types.len(), 4, "three types, and the rest as other: {types:?}");

    let requests = |route, status| figures.value("eye_requests_total", &[("route", route), ("status", status)]);
    assert_eq!(requests("events", "207"), Some(1.0));
    assert_eq!(requests("events", "400"), Some(1.0));
    assert_eq!(requests("unknown", "404"), Some(1.0));
    assert_eq!(figures.value("eye_request_seconds_count", &[("route", "events")]), Some(4.0));
    assert_eq!(figures.value("eye_database_up", &[]), Some(1.0));
    assert_eq!(figures.value("eye_ready", &[]), Some(1.0));
    let partitions = gateway.sql("select count(*) from pg_inherits where inhparent = 'events'::regclass");
    assert_eq!(
        figures.value("eye_partitions", &[("table", "events")]).map(|count| count.to_string()),
        Some(partitions)
    );

    // Rejected events are kept after the answer.
    eventually("all dead letters are counted", async || {
        let figures = gateway.figures().await;
        (figures.value("eye_dead_letters_kept_total", &[]) == Some(3.0)).then_some(())
    })
    .await;
    assert_eq!(gateway.sql("select count(*) from dead_letters"), "3");
}

#[tokio::test]
async fn counters_of_known_labels_are_there_before_anything_happens() {
    let gateway = Setup::default().with_module("guests/traps.wasm", "traps").start().await;
    gateway.validator("guests/traps", "active").await;
    let figures = gateway.figures().await;
    let none =
        |name: &str, labels: &[(&str, &str)]| assert_eq!(figures.value(name, labels), Some(0.0), "{name} {labels:?}");
    // The test asked whether the gateway is ready, and was answered 503 meanwhile.
    for route in ["events", "read", "running", "unknown"] {
        for status in ["500", "422", "none", "other"] {
            none("eye_requests_total", &[("route", route), ("status", status)]);
        }
    }
    for outcome in ["stored", "duplicate", "rejected", "quarantined", "unfinished"] {
        none("eye_events_total", &[("application", "local"), ("outcome", outcome)]);
    }
    for skew in ["past", "future"] {
        none("eye_skewed_events_total", &[("application", "local"), ("skew", skew)]);
    }
    for kind in ["scope", "revoked_token", "expired_token", "rate_limited", "event_type", "unnamed_proxy"] {
        none("eye_callers_refused_total", &[("application", "local"), ("kind", kind)]);
    }
    let digest = gateway.validator("guests/traps", "active").await["digest"].as_str().expect("a digest").to_owned();
    for code in ["trap", "deadline", "memory", "stack", "output", "off_path", "busy"] {
        none("eye_slot_faults_total", &[("event_type", "guests/traps"), ("code", code)]);
        none("eye_module_faults_total", &[("event_type", "guests/traps"), ("digest", &digest), ("code", code)]);
    }
    for reason in ["database", "schema", "applications", "modules_loading", "draining"] {
        none("eye_unready", &[("reason", reason)]);
    }
    for reason in ["refused_modules", "missing_modules", "lost_modules", "unreadable_modules", "clock_skew"] {
        none("eye_degraded", &[("reason", reason)]);
    }
}

#[tokio::test]
async fn events_whose_timestamps_are_far_from_their_receipt_are_counted_by_application() {
    let gateway = Gateway::start().await;
    let at = |time: String| {
        let mut event = pageview();
        event["timestamp"] = json!(time);
        event
    };
    let ago = |interval: &str| {
        gateway
            .sql(&format!("select to_char(now() at time zone 'utc' - interval '{interval}', 'YYYY-MM-DD HH24:MI:SS')"))
    };
    let times = [ago("0"), ago("10 minutes"), ago("20 minutes"), ago("3 years"), ago("-1 hour")];
    let events: Vec<_> = times.into_iter().map(at).collect();
    assert_eq!(gateway.send(&json!(events)).await.status, 207);
    // Of a dry run nothing is counted, and of one that has other faults as much as of any.
    let dry = gateway.post("/v1/events?dry_run=true", "application/json", json!(events).to_string()).await;
    assert_eq!(dry.status, 207);
    let broken = json!({"session_id": "nobody", "timestamp": "2999-01-01T00:00:00Z"});
    assert_eq!(gateway.send(&broken).await.status, 422);
    let figures = gateway.figures().await;
    let skewed = |skew| figures.value("eye_skewed_events_total", &[("application", "local"), ("skew", skew)]);
    assert_eq!((skewed("past"), skewed("future")), (Some(2.0), Some(2.0)));
}

#[tokio::test]
async fn the_condition_of_the_tables_is_told() {
    let mut gateway = Setup::default().with("EYE_EVENT_PARTITIONS_MAX", 5).start().await;
    // Last month, this one and the next two have partitions, and one more may. An event from before 1970 is right where it is.
    for time in ["1960-01-01T00:00:00Z", "2020-01-01T00:00:00Z", "2021-01-01T00:00:00Z", "2021-02-01T00:00:00Z"] {
        let mut event = pageview();
        event["timestamp"] = json!(time);
        assert_eq!(gateway.send(&event).await.status, 201);
    }
    // It looks at once when it starts, and then now and then.
    gateway.signal("TERM");
    gateway.ended().await;
    gateway.restart().await;
    let days_ahead = "select round(extract(epoch from date_trunc('month', now() at time zone 'utc') + interval '3 months' \
        - now() at time zone 'utc') / 86400)";
    let figures = eventually("the tables were looked at since", async || {
        let figures = gateway.figures().await;
        let has_rows = figures.value("eye_default_partition_rows", &[("table", "events")]) == Some(2.0);
        let had_round = figures.value("eye_retention_round_seconds", &[]).is_some_and(|at| at > 0.0);
        (has_rows && had_round).then_some(figures)
    })
    .await;
    assert_eq!(figures.value("eye_default_partition_rows", &[("table", "dead_letters")]), Some(0.0));
    for table in ["events", "dead_letters"] {
        let ahead = figures.value("eye_partitions_ahead_seconds", &[("table", table)]).expect("it is known");
        assert_eq!((ahead / 86_400.0).round().to_string(), gateway.sql(days_ahead), "{table}");
        let bytes = figures.value("eye_table_bytes", &[("table", table)]).expect("it is known").to_string();
        let there = format!(
            "select sum(pg_total_relation_size(inhrelid)) from pg_inherits where inhparent = '{table}'::regclass"
        );
        assert_eq!(bytes, gateway.sql(&there));
    }
    let round = figures.value("eye_retention_round_seconds", &[]).expect("it is known");
    let age: f64 = gateway.sql(&format!("select extract(epoch from now()) - {round}")).parse().expect("a number");
    assert!((-1.0..60.0).contains(&age), "a round ran {age} s ago");
    assert!(figures.value("eye_unfolded_count_rows", &[]).is_some_and(|rows| rows <= 4.0));
    assert_eq!(figures.value("eye_dead_letters_max_bytes", &[]), Some(10_737_418_240.0));
    let room = ["eye_data_dir_free_bytes", "eye_data_dir_max_bytes"]
        .map(|name| figures.value(name, &[]).expect("it is known"));
    assert!(room[0] <= room[1] && room[1] > 0.0, "{room:?}");
}

#[tokio::test]
async fn only_readers_may_ask_and_anybody_on_the_address_for_monitoring() {
    let gateway = Setup::default().with("EYE_METRICS_LISTEN", "127.0.0.1:0").with("EYE_LOCAL", "ingest").start().await;
    let unknown = gateway.request("GET", "/metrics").header("authorization", "Bearer eye_nobody");
    assert_eq!(gateway.answer(unknown).await.status, 401);
    assert_eq!(gateway.get("/metrics").await.status, 403);

    let address = gateway.announced("monitoring is answered").expect("it is announced");
    // openapi.json describes the other address.
    let ask = async |method: &str, path: &str| {
        let method = method.parse().expect("a method");
        let request =
            reqwest::Client::new().request(method, format!("http://{address}{path}")).header("accept", FORMAT);
        let response = request.send().await.expect("an answer");
        (response.status().as_u16(), response.text().await.expect("text"))
    };
    let (status, text) = ask("GET", "/metrics").await;
    assert_eq!(status, 200);
    assert!(Figures::read(&text).value("eye_ready", &[]) == Some(1.0));
    assert_eq!(ask("GET", "/healthz").await.0, 200);
    assert_eq!(ask("GET", "/readyz").await.0, 200);
    assert_eq!(ask("POST", "/metrics").await.0, 405);
    for path in ["/v1/validators", "/v1/events", "/v1/sessions/e2085be5-9137-4e4e-80b5-f1ffddc25423", "/"] {
        assert_eq!(ask("GET", path).await.0, 404, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_away_is_told_and_so_are_writes_that_were_tried_again() {
    let server = Server::start();
    server.prepare();
    let proxy = Proxy::start(server.socket()).await;
    let gateway = Setup::default().with("EYE_DATABASE_URL", proxy.url()).with("EYE_WRITERS", 1).start().await;
    let of_queue = |figures: &Figures, name| figures.value(name, &[("queue", "events")]);
    let figures = gateway.figures().await;
    assert_eq!(of_queue(&figures, "eye_write_retries_total"), Some(0.0));
    let mut sent = 0.0;
    // The fault may hit a connection that is no writer's, which is also in use now and then.
    let figures = eventually("a write is tried again", async || {
        proxy.arm(Fault { at: At::Up(1), how: How::Cut });
        assert_eq!(gateway.send(&pageview()).await.status, 201);
        sent += 1.0;
        let figures = gateway.figures().await;
        (of_queue(&figures, "eye_write_retries_total") >= Some(1.0)).then_some(figures)
    })
    .await;
    assert_eq!(of_queue(&figures, "eye_commit_seconds_count"), Some(sent));
    assert_eq!(of_queue(&figures, "eye_flush_seconds_count"), Some(sent));
    assert_eq!(of_queue(&figures, "eye_batch_items_sum"), Some(sent));

    proxy.freeze(true);
    let figures = gateway.figures().await;
    assert_eq!(figures.value("eye_database_up", &[]), Some(0.0));
    assert_eq!(figures.value("eye_ready", &[]), Some(0.0));
    proxy.freeze(false);
    eventually("it is back", async || (gateway.figures().await.value("eye_ready", &[]) == Some(1.0)).then_some(()))
        .await;
}
