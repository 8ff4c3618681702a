//! Reads from outside: lists and filters, pages and cursors while rows arrive, streams, compression, counts that equal
//! the rows, and readers that do not delay senders.

use std::collections::{HashMap, HashSet};
use std::io::Read as _;

use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _, PgConnection};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::support::cluster::Server;
use crate::support::load::WRONG_COUNTS;
use crate::support::{Answer, Gateway, SESSION, Setup, eventually, openapi};

const OTHER: &str = "0198c5a4-6f3e-7c1d-9b52-3f0e8a7d6c15";

/// Event `number`: two categories of two names, two sessions, a minute between two events, in three months.
fn numbered(number: u64) -> Value {
    json!({
        "id": format!("00000000-0000-4000-8000-{number:012}"),
        "session_id": if number.is_multiple_of(3) { OTHER } else { SESSION },
        "category": if number.is_multiple_of(2) { "shop/basket" } else { "page" },
        "name": if number.is_multiple_of(4) { "open" } else { "close" },
        "timestamp": format!("2021-{:02}-01T{:02}:{:02}:00Z", 1 + number % 3, number / 60 % 24, number % 60),
        "data": {"n": number},
    })
}

async fn with_events(count: u64) -> Gateway {
    let gateway = Gateway::start().await;
    let events: Vec<Value> = (0..count).map(numbered).collect();
    let answer = gateway.send(&Value::Array(events)).await;
    assert_eq!((answer.status, answer.json()["stored"].as_u64()), (200, Some(count)), "{answer:?}");
    gateway
}

async fn read(gateway: &Gateway, path: &str) -> Value {
    let answer = gateway.get(path).await;
    assert_eq!(answer.status, 200, "{path}: {answer:?}");
    answer.json()
}

/// All pages of a list, one after the other.
async fn all_pages(gateway: &Gateway, path: &str, list: &str) -> Vec<Value> {
    let mut items = Vec::new();
    let mut page = read(gateway, path).await;
    loop {
        items.extend(page[list].as_array().expect("a list").iter().cloned());
        let Some(next) = page["next"].as_str() else { return items };
        page = read(gateway, &format!("{path}{}cursor={next}", if path.contains('?') { "&" } else { "?" })).await;
    }
}

fn numbers(events: &[Value]) -> Vec<u64> {
    events.iter().map(|event| event["data"]["n"].as_u64().expect("a number")).collect()
}

/// The numbers of the events that fit, ordered by time.
fn expected(count: u64, fits: impl Fn(u64) -> bool) -> Vec<u64> {
    let mut wanted: Vec<u64> = (0..count).filter(|number| fits(*number)).collect();
    wanted.sort_by_key(|number| (numbered(*number)["timestamp"].to_string(), *number));
    wanted
}

#[tokio::test]
async fn filters_combine_and_pages_give_every_event_once_in_order() {
    let gateway = with_events(240).await;
    let in_february = |number: u64| number % 3 == 1;
    let cases: [(&str, &dyn Fn(u64) -> bool); 9] = [
        ("/v1/events?limit=7", &|_| true),
        ("/v1/events?limit=50&from=2021-02-01T00:00:00Z&to=2021-03-01T00:00:00Z", &in_february),
        ("/v1/events?limit=7&category=shop%2Fbasket", &|number| number % 2 == 0),
        ("/v1/events?limit=7&name=open", &|number| number % 4 == 0),
        ("/v1/events?limit=9&category=page&name=open", &|_| false),
        ("/v1/events?limit=7&application=local&category=page", &|number| number % 2 == 1),
        ("/v1/events?limit=7&application=nobody", &|_| false),
        ("/v1/categories/shop%2Fbasket?limit=7&name=close", &|number| number % 4 == 2),
        ("/v1/sessions/0198c5a4-6f3e-7c1d-9b52-3f0e8a7d6c15?limit=7&category=page&application=local", &|number| {
            number % 6 == 3
        }),
    ];
    for (path, fits) in cases {
        let mut wanted = expected(240, fits);
        assert_eq!(numbers(&all_pages(&gateway, path, "events").await), wanted, "{path}");
        wanted.reverse();
        let path = format!("{path}{}order=desc", if path.contains('?') { "&" } else { "?" });
        assert_eq!(numbers(&all_pages(&gateway, &path, "events").await), wanted, "{path}");
    }
    let session = read(&gateway, &format!("/v1/sessions/{SESSION}?limit=1000")).await;
    assert_eq!(session["session_id"], SESSION);
    assert_eq!(session["events"].as_array().expect("events").len(), 160);
}

#[tokio::test]
async fn events_of_one_moment_come_in_the_order_of_arrival() {
    let gateway = Gateway::start().await;
    // Ids in the opposite order of arrival.
    let same: Vec<Value> = (0..30)
        .map(|number| {
            let mut event = numbered(1);
            event["id"] = json!(format!("00000000-0000-4000-8000-{:012}", 1_000 - number));
            event["data"]["n"] = json!(number);
            event
        })
        .collect();
    for event in &same {
        assert_eq!(gateway.send(event).await.status, 201);
    }
    let wanted: Vec<u64> = (0..30).collect();
    for path in
        [format!("/v1/sessions/{SESSION}?limit=4"), "/v1/events?limit=4".into(), "/v1/categories/page?limit=4".into()]
    {
        assert_eq!(numbers(&all_pages(&gateway, &path, "events").await), wanted, "{path}");
    }
}

#[tokio::test]
async fn pages_stay_right_while_rows_arrive() {
    let gateway = with_events(90).await;
    let first = read(&gateway, "/v1/events?limit=10&order=desc").await;
    let cursor = first["next"].as_str().expect("more");
    // Later and earlier than the place of the cursor.
    for (number, timestamp) in [(500, "2021-03-28T00:00:00Z"), (501, "2021-01-01T00:00:00.5Z")] {
        let mut event = numbered(number);
        event["timestamp"] = json!(timestamp);
        assert_eq!(gateway.send(&event).await.status, 201);
    }
    let mut seen = numbers(first["events"].as_array().expect("events"));
    let mut page = read(&gateway, &format!("/v1/events?order=desc&limit=10&cursor={cursor}")).await;
    loop {
        seen.extend(numbers(page["events"].as_array().expect("events")));
        let Some(next) = page["next"].as_str() else { break };
        page = read(&gateway, &format!("/v1/events?order=desc&limit=10&cursor={next}")).await;
    }
    let mut wanted = expected(90, |_| true);
    wanted.insert(1, 501);
    wanted.reverse();
    assert_eq!(seen, wanted, "the later one is before the cursor, the earlier one is met");
}

#[tokio::test]
async fn bad_parameters_are_told_by_name() {
    let gateway = with_events(20).await;
    let cursor = read(&gateway, "/v1/events?limit=5").await["next"].as_str().expect("more").to_owned();
    let cases = [
        ("/v1/events?limit=1001".to_owned(), "limit", "1 to 1000"),
        ("/v1/events?page=2".to_owned(), "page", "`cursor`"),
        ("/v1/events?order=down".to_owned(), "order", "asc"),
        ("/v1/events?from=2021-02-01T00:00:00Z&to=2021-01-01T00:00:00Z".to_owned(), "to", "later"),
        ("/v1/events?session_id=7".to_owned(), "session_id", "UUID"),
        ("/v1/events?cursor=abc".to_owned(), "cursor", "next"),
        (format!("/v1/events?order=desc&cursor={cursor}"), "cursor", "very query"),
        (format!("/v1/categories/page?cursor={cursor}"), "cursor", "very query"),
        (format!("/v1/sessions?cursor={cursor}"), "cursor", "very query"),
        ("/v1/sessions/seven".to_owned(), "session_id", "UUID"),
        (format!("/v1/sessions/{SESSION}/events/seven"), "id", "UUID"),
        ("/v1/stats?bucket=week".to_owned(), "bucket", "`hour`, `minute` and `day`"),
        ("/v1/stats?bucket=minute&from=2021-01-01T00:00:00Z&to=2022-01-01T00:00:00Z".to_owned(), "bucket", "10000"),
        ("/v1/stats?outcome=lost".to_owned(), "outcome", "quarantined"),
        ("/v1/categories?name=a".to_owned(), "name", "`limit` and `cursor`"),
    ];
    for (path, parameter, words) in cases {
        let answer = gateway.get(&path).await;
        let problem = answer.json();
        assert_eq!((answer.status, problem["parameter"].as_str()), (400, Some(parameter)), "{path}: {answer:?}");
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains(words)), "{path}: {problem}");
    }
    assert_eq!(gateway.get("/v1/sessions/").await.status, 404);
    let answer = gateway.answer(gateway.request("DELETE", "/v1/events")).await;
    assert_eq!((answer.status, answer.headers["allow"].to_str().ok()), (405, Some("GET, HEAD, POST")));
}

#[tokio::test]
async fn one_event_is_read_with_the_module_that_judged_it() {
    let gateway = Setup::default().with_module("page/_.wasm", "accepts").start().await;
    gateway.validator("page/_", "active").await;
    let event = numbered(1);
    assert_eq!(gateway.send(&event).await.status, 201);
    let path = format!("/v1/sessions/{SESSION}/events/{}", event["id"].as_str().expect("text"));
    let found = read(&gateway, &path).await;
    assert_eq!((&found["id"], &found["data"], &found["application"]), (&event["id"], &event["data"], &json!("local")));
    let digest = found["validator"].as_str().expect("a digest");
    let report = read(&gateway, "/v1/validators").await;
    assert!(report.to_string().contains(digest), "{digest} is what serves: {report}");
    assert_eq!(gateway.get(&format!("/v1/sessions/{OTHER}/events/{OTHER}")).await.status, 404);
}

#[tokio::test]
async fn recent_sessions_come_latest_first_each_once() {
    let gateway = Gateway::start().await;
    // Session s has s + 1 events, and its last one is at minute 100 - s.
    let mut events = Vec::new();
    for session in 0..40_u64 {
        for back in 0..=session {
            let minute = 100 - session + 60 - back.min(20);
            events.push(json!({
                "session_id": format!("00000000-0000-4000-8000-{session:012}"),
                "category": "page", "name": if back == 0 { "last" } else { "other" },
                "timestamp": format!("2021-01-01T{:02}:{:02}:00Z", minute / 60, minute % 60), "data": {},
            }));
        }
    }
    assert_eq!(gateway.send(&Value::Array(events)).await.status, 200);
    let range = "/v1/sessions?from=2021-01-01T00:00:00Z&to=2021-01-02T00:00:00Z&limit=7";
    for path in [range, "/v1/sessions?limit=7"] {
        let sessions = all_pages(&gateway, path, "sessions").await;
        let counts: Vec<u64> = sessions.iter().map(|session| session["count"].as_u64().expect("a count")).collect();
        assert_eq!(counts, (1..=40).collect::<Vec<u64>>(), "{path}");
        for session in &sessions {
            assert_eq!((&session["last"]["name"], &session["applications"]), (&json!("last"), &json!(["local"])));
            assert!(session["first"]["timestamp"].as_str() <= session["last"]["timestamp"].as_str(), "{session}");
            assert_eq!(session["count_is_exact"], true);
        }
    }
    let none = read(&gateway, "/v1/sessions?from=2022-01-01T00:00:00Z").await;
    assert_eq!((&none["sessions"], &none["next"]), (&json!([]), &Value::Null));
}

#[tokio::test]
async fn sessions_that_go_on_between_pages_are_shown_once() {
    let gateway = Gateway::start().await;
    let of_session = |session: u64, minute: u64| {
        json!({
            "session_id": format!("00000000-0000-4000-8000-{session:012}"), "category": "page", "name": "view",
            "timestamp": format!("2021-01-01T{:02}:{:02}:00Z", minute / 60, minute % 60), "data": {},
        })
    };
    let events: Vec<Value> = (0..40).map(|session| of_session(session, 100 + session)).collect();
    assert_eq!(gateway.send(&Value::Array(events)).await.status, 200);
    let path = "/v1/sessions?from=2021-01-01T00:00:00Z&to=2021-01-02T00:00:00Z&limit=7";
    let (mut seen, mut page) = (Vec::new(), read(&gateway, path).await);
    for minute in 200.. {
        seen.extend(page["sessions"].as_array().expect("a list").iter().map(|one| one["session_id"].to_string()));
        // One that was shown, one that was not, and a new one get another event each, later than all.
        for session in [39, minute % 20, minute] {
            assert_eq!(gateway.send(&of_session(session, minute)).await.status, 201);
        }
        let Some(next) = page["next"].as_str() else { break };
        page = read(&gateway, &format!("{path}&cursor={next}")).await;
    }
    let wanted: Vec<String> =
        (0..40).rev().map(|session| json!(format!("00000000-0000-4000-8000-{session:012}")).to_string()).collect();
    assert_eq!(seen, wanted, "each once, in the order in which they were when the first page was read");
}

#[tokio::test]
async fn the_longest_words_are_found_by_path_and_what_is_no_text_is_not() {
    let gateway = Gateway::start().await;
    let (category, mut event) = ("\u{1f441}".repeat(200), numbered(1));
    event["category"] = json!(category);
    assert_eq!(gateway.send(&event).await.status, 201);
    let encoded = "%F0%9F%91%81".repeat(200);
    let page = read(&gateway, &format!("/v1/categories/{encoded}")).await;
    assert_eq!((&page["category"], page["events"].as_array().map(Vec::len)), (&json!(category), Some(1)));
    for path in [
        "/v1/categories/%FF".to_owned(),
        "/v1/sessions/%FF".to_owned(),
        format!("/v1/categories/{}", "x".repeat(5_000)),
    ] {
        assert_eq!(gateway.get(&path).await.status, 404, "{path}");
    }
}

/// Counts by outcome, from `/v1/stats` for all time around now.
async fn counted(gateway: &Gateway, bucket: &str) -> HashMap<String, i64> {
    let mut sums = HashMap::new();
    for row in all_pages(gateway, &format!("/v1/stats?bucket={bucket}&limit=3"), "counts").await {
        *sums.entry(row["outcome"].as_str().expect("text").to_owned()).or_default() +=
            row["count"].as_i64().expect("a number");
    }
    sums
}

#[tokio::test]
async fn counts_equal_the_rows_folded_or_not() {
    let gateway =
        Setup::default().with_module("bad/_.wasm", "rejects").with_module("trap/_.wasm", "traps").start().await;
    gateway.validator("bad/_", "active").await;
    gateway.validator("trap/_", "active").await;
    let mut events: Vec<Value> = (0..60).map(numbered).collect();
    events.extend((0..5).map(numbered));
    for number in 100..110 {
        let mut event = numbered(number);
        event["category"] = json!(if number < 107 { "bad" } else { "trap" });
        event["data"]["misbehave"] = json!(true);
        events.push(event);
    }
    events.push(json!({"no": "event"}));
    assert_eq!(gateway.send(&Value::Array(events)).await.status, 207);
    // The straight path, then the conflict path.
    assert_eq!(gateway.send(&numbered(200)).await.status, 201);
    assert_eq!(gateway.send(&numbered(200)).await.status, 200);
    eventually("the rejected events are kept", async || {
        (gateway.sql("select count(*) from dead_letters where reason = 'rejected'") == "8").then_some(())
    })
    .await;
    let wanted: HashMap<String, i64> = [("stored", 61), ("duplicate", 6), ("rejected", 8), ("quarantined", 3)]
        .map(|(word, n)| (word.to_owned(), n))
        .into();
    for bucket in ["minute", "hour", "day"] {
        assert_eq!(counted(&gateway, bucket).await, wanted, "{bucket}, before or after a fold");
    }
    assert_eq!(gateway.sql(WRONG_COUNTS), "");
    eventually("the counts are folded", async || {
        (gateway.sql("select count(*) from count_deltas") == "0").then_some(())
    })
    .await;
    for bucket in ["minute", "hour", "day"] {
        assert_eq!(counted(&gateway, bucket).await, wanted, "{bucket}, folded");
    }
    assert_eq!(gateway.send(&numbered(201)).await.status, 201);
    let categories = all_pages(&gateway, "/v1/categories?limit=1", "categories").await;
    let words: Vec<(String, i64, String)> = categories
        .iter()
        .map(|one| {
            let names = one["names"].as_array().expect("names");
            assert_eq!(names.len(), 1, "limit counts names");
            (
                one["category"].as_str().expect("text").to_owned(),
                one["count"].as_i64().expect("a number"),
                names[0].to_string(),
            )
        })
        .collect();
    let name = |name: &str, count, rejected, quarantined| {
        json!({"name": name, "count": count, "rejected": rejected, "quarantined": quarantined}).to_string()
    };
    let wanted = vec![
        ("bad".to_owned(), 0, name("close", 0, 5, 0)),
        ("bad".to_owned(), 0, name("open", 0, 2, 0)),
        ("page".to_owned(), 31, name("close", 31, 0, 0)),
        ("shop/basket".to_owned(), 31, name("close", 15, 0, 0)),
        ("shop/basket".to_owned(), 31, name("open", 16, 0, 0)),
        ("trap".to_owned(), 0, name("close", 0, 0, 2)),
        ("trap".to_owned(), 0, name("open", 0, 0, 1)),
    ];
    assert_eq!(words, wanted);
    let filtered = read(&gateway, "/v1/stats?outcome=rejected&category=bad&name=open&application=local").await;
    assert_eq!(
        filtered["counts"].as_array().expect("counts").iter().map(|row| row["count"].as_i64()).collect::<Vec<_>>(),
        [Some(2)]
    );
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

async fn stream(gateway: &Gateway, path: &str, encoding: &str) -> (Answer, Vec<u8>) {
    let request =
        gateway.request("GET", path).header("accept", "application/x-ndjson").header("accept-encoding", encoding);
    let response = request.send().await.expect("an answer");
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let bytes = response.bytes().await.expect("a whole body").to_vec();
    (Answer { status, headers, text: String::new() }, bytes)
}

fn plain(encoding: &str, bytes: &[u8]) -> String {
    let mut text = String::new();
    match encoding {
        "gzip" => drop(flate2::read::GzDecoder::new(bytes).read_to_string(&mut text).expect("gzip")),
        "zstd" => drop(zstd::stream::read::Decoder::new(bytes).expect("zstd").read_to_string(&mut text).expect("zstd")),
        _ => text.push_str(std::str::from_utf8(bytes).expect("UTF-8")),
    }
    text
}

#[tokio::test]
async fn any_list_streams_whole_as_lines_and_compressed_when_asked() {
    let gateway = with_events(2_500).await;
    let wanted: HashSet<u64> = (0..2_500).collect();
    for encoding in ["identity", "gzip", "zstd"] {
        let (answer, bytes) = stream(&gateway, "/v1/events?order=desc", encoding).await;
        openapi::check_lines("/v1/events", &plain(encoding, &bytes));
        assert_eq!((answer.status, answer.headers["content-type"].to_str().ok()), (200, Some("application/x-ndjson")));
        assert_eq!(answer.headers["vary"], "Accept, Accept-Encoding");
        let events = lines(&plain(encoding, &bytes));
        assert_eq!(events.len(), 2_500, "{encoding}");
        assert_eq!(numbers(&events).into_iter().collect::<HashSet<_>>(), wanted);
        let request = gateway.request("GET", "/v1/events?limit=1000").header("accept-encoding", encoding);
        let response = request.send().await.expect("an answer");
        let said = response.headers().get("content-encoding").map(|value| value.to_str().expect("text").to_owned());
        assert_eq!(said.as_deref(), Some(encoding).filter(|encoding| *encoding != "identity"));
        let page: Value =
            serde_json::from_str(&plain(encoding, &response.bytes().await.expect("a body"))).expect("JSON");
        assert_eq!(page["events"].as_array().expect("events").len(), 1_000);
    }
    for (path, count) in
        [("/v1/categories", 2), ("/v1/sessions", 2), ("/v1/stats", 3), (&format!("/v1/sessions/{OTHER}"), 834)]
    {
        let (answer, bytes) = stream(&gateway, path, "identity").await;
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(lines(&plain("identity", &bytes)).len(), count, "{path}");
        openapi::check_lines(path, &plain("identity", &bytes));
    }
    let (answer, _) = stream(&gateway, "/v1/events?limit=5", "identity").await;
    assert_eq!(answer.status, 400, "a limit is for pages");
}

/// Requests lines on a bare socket, reads a little, and stops.
async fn slow_reader(gateway: &Gateway, path: &str) -> TcpStream {
    let mut socket = TcpStream::connect(gateway.address()).await.expect("connected");
    let head = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\naccept: application/x-ndjson\r\n\r\n");
    socket.write_all(head.as_bytes()).await.expect("sent");
    let mut start = [0; 1_024];
    socket.read_exact(&mut start).await.expect("the beginning");
    assert!(start.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&start));
    socket
}

/// 24 MB of events: more than sockets hold.
async fn with_large_events(setup: Setup) -> Gateway {
    let gateway = setup.start().await;
    for part in 0..8_u64 {
        let large = |number| {
            let mut event = numbered(number);
            event["data"]["text"] = json!("x".repeat(100_000));
            event
        };
        let events: Vec<Value> = (part * 30..part * 30 + 30).map(large).collect();
        assert_eq!(gateway.send(&Value::Array(events)).await.status, 200);
    }
    gateway
}

#[tokio::test]
async fn a_page_ends_with_its_bytes_and_goes_on_with_the_next() {
    let gateway = with_large_events(Setup::default().with("EYE_PAGE_BYTES_MAX", 1_000_000)).await;
    let page = read(&gateway, "/v1/events").await;
    assert_eq!(page["events"].as_array().expect("events").len(), 10);
    assert_eq!(numbers(&all_pages(&gateway, "/v1/events", "events").await), expected(240, |_| true));
}

#[tokio::test]
async fn slow_readers_are_bounded_hold_no_connection_and_are_cut() {
    let setup = Setup::default()
        .with("EYE_STREAMS_MAX", 3)
        .with("EYE_READ_CONNECTIONS", 1)
        .with("EYE_READ_WAIT_MS", 30_000)
        .with("EYE_STREAM_STALL_MS", 1_500);
    let gateway = with_large_events(setup).await;
    let mut one = slow_reader(&gateway, "/v1/events").await;
    let two = slow_reader(&gateway, "/v1/events").await;
    let refused = gateway.answer(gateway.request("GET", "/v1/events").header("accept", "application/x-ndjson")).await;
    assert_eq!((refused.status, refused.json()["code"].as_str()), (503, Some("reads_full")), "{refused:?}");
    assert!(refused.headers.contains_key("retry-after"));
    let body = json!({"name": "other", "scopes": ["read"]}).to_string();
    let other = gateway.post("/v1/applications", "application/json", body).await.json();
    let token = other["token"].as_str().expect("a token");
    let request = gateway.request("GET", "/v1/categories").header("accept", "application/x-ndjson").bearer_auth(token);
    assert_eq!(gateway.answer(request).await.status, 200, "there is always a stream left for another application");
    assert_eq!(gateway.get("/v1/events?limit=1").await.status, 200, "the only connection is free");
    // A reader that leaves makes room at once. A reader that stays and reads nothing is cut.
    drop(two);
    eventually("there is room for another stream", async || {
        let request = gateway.request("GET", "/v1/categories").header("accept", "application/x-ndjson");
        (gateway.answer(request).await.status == 200).then_some(())
    })
    .await;
    eventually("both are over", async || {
        let first = gateway
            .request("GET", "/v1/events")
            .header("accept", "application/x-ndjson")
            .send()
            .await
            .expect("an answer");
        let second = gateway
            .request("GET", "/v1/events")
            .header("accept", "application/x-ndjson")
            .send()
            .await
            .expect("an answer");
        (first.status() == 200 && second.status() == 200).then_some(())
    })
    .await;
    let mut rest = Vec::new();
    let ended = one.read_to_end(&mut rest).await;
    assert!(!rest.ends_with(b"0\r\n\r\n"), "a cut answer looks cut: {ended:?}");
}

#[tokio::test]
async fn a_stream_that_ends_early_says_so_in_its_last_line() {
    let mut gateway = with_large_events(Setup::default()).await;
    let mut socket = slow_reader(&gateway, "/v1/events").await;
    gateway.signal("TERM");
    let mut rest = Vec::new();
    socket.read_to_end(&mut rest).await.expect("read to its end");
    let text = String::from_utf8_lossy(&rest);
    let last = text.lines().rfind(|line| line.starts_with('{')).expect("a line");
    openapi::check_lines("/v1/events", last);
    let last: Value = serde_json::from_str(last).expect("JSON");
    assert_eq!((&last["error"]["code"], &last["error"]["status"]), (&json!("draining"), &json!(503)));
    assert!(text.ends_with("0\r\n\r\n"), "and ends in order");
    gateway.ended().await;
}

#[tokio::test]
async fn the_reads_of_one_application_do_not_stand_before_those_of_another() {
    let server = Server::start();
    server.prepare();
    let setup = Setup::default().with("EYE_DATABASE_URL", server.url()).with("EYE_READ_MS", 20_000);
    let gateway = setup.start().await;
    assert_eq!(gateway.send(&numbered(0)).await.status, 201);
    let other = json!({"name": "other", "scopes": ["read"]}).to_string();
    let other = gateway.post("/v1/applications", "application/json", other).await.json();
    let other = other["token"].as_str().expect("a token").to_owned();
    // From here on every read of events waits, and no other.
    let mut slow = PgConnection::connect(&server.url()).await.expect("connected");
    slow.execute("begin; lock table modules in access exclusive mode").await.expect("locked");
    let mut reads = JoinSet::new();
    for number in 0..24 {
        let request = gateway.request("GET", "/v1/events");
        let request = if number % 2 == 0 { request } else { request.header("accept", "application/x-ndjson") };
        reads.spawn(async move {
            let response = request.send().await.expect("an answer");
            let problem: Value = response.json().await.expect("a problem");
            (problem["code"].clone(), problem["full"].clone())
        });
    }
    // Reads beyond its share are refused; those within it wait for the table.
    for _ in 0..18 {
        let (code, full) = reads.join_next().await.expect("a read").expect("no panic");
        assert_eq!((code, full), (json!("reads_full"), json!("application")));
    }
    for _ in 0..20 {
        let answer = gateway.answer(gateway.request("GET", "/v1/categories").bearer_auth(&other)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    slow.execute("rollback").await.expect("released");
    reads.abort_all();
}

#[tokio::test]
async fn a_flood_of_slow_reads_is_refused_in_time_and_starves_no_writer() {
    let server = Server::start();
    server.prepare();
    let setup = Setup::default()
        .with("EYE_DATABASE_URL", server.url())
        .with("EYE_READ_CONNECTIONS", 3)
        .with("EYE_READ_MS", 3_000)
        .with("EYE_READ_WAIT_MS", 200);
    let gateway = setup.start().await;
    assert_eq!(gateway.send(&numbered(0)).await.status, 201);
    // From here on every read of events waits, as on a slow database.
    let mut slow = PgConnection::connect(&server.url()).await.expect("connected");
    slow.execute("begin; lock table modules in access exclusive mode").await.expect("locked");
    let mut reads = JoinSet::new();
    for _ in 0..20 {
        let request = gateway.request("GET", "/v1/events");
        reads.spawn(async move {
            let response = request.send().await.expect("an answer");
            let retry = response.headers().contains_key("retry-after");
            (response.status().as_u16(), retry, response.text().await.expect("a body"))
        });
    }
    for number in 1..50 {
        assert_eq!(gateway.send(&numbered(number)).await.status, 201, "writers have their own connections");
    }
    assert_eq!(gateway.get("/readyz").await.status, 200, "readers do not make it look unready");
    let mut codes: HashMap<String, u32> = HashMap::new();
    while let Some(read) = reads.join_next().await {
        let (status, retry, text) = read.expect("no panic");
        assert_eq!((status, retry), (503, true), "{text}");
        let problem: Value = serde_json::from_str(&text).expect("a problem");
        *codes.entry(problem["code"].as_str().expect("a code").to_owned()).or_default() += 1;
    }
    assert!(codes["reads_full"] >= 10 && codes["read_slow"] >= 2, "{codes:?}");
    assert_eq!(codes.values().sum::<u32>(), 20, "{codes:?}");
    slow.execute("rollback").await.expect("released");
    eventually("reads work again", async || (gateway.get("/v1/events").await.status == 200).then_some(())).await;
}

/// 80,000 events of 4,000 sessions, 40 names and 2 applications in four months, 20,000 of them at one moment. The
/// server makes them. A fifth month and the default partition stay empty. It also makes their counts by the hour.
const MANY: &str = "
    select make_partitions('2021-01-15', '2021-05-15');
    insert into applications (name) values ('shop');
    insert into event_types (category, name) select 'category ' || c, 'name ' || n
        from generate_series(0, 3) c, generate_series(0, 9) n;
    insert into events (session_id, timestamp, id, received_at, event_type_id, application_id, data)
        select md5((n % 4000)::text)::uuid, '2021-01-01Z'::timestamptz + n * interval '119 days' / 80000, gen_random_uuid(),
            '2021-05-01Z'::timestamptz + n * interval '1 microsecond', 1 + n % 40, 1 + (n % 100 = 0)::int,
            jsonb_build_object('n', n)
        from generate_series(0, 79999) n;
    insert into events (session_id, timestamp, id, received_at, event_type_id, application_id, data)
        select md5((n % 4000)::text)::uuid, '2021-02-10Z', gen_random_uuid(),
            '2021-05-02Z'::timestamptz + n * interval '1 microsecond', 1 + n % 40, 1, jsonb_build_object('n', n)
        from generate_series(0, 19999) n;
    insert into counts (bucket, start, event_type_id, application_id, outcome, count)
        select bucket, '2021-01-01Z'::timestamptz + hour * interval '1 hour', type, 1, 'stored', 1
        from unnest(array['minute', 'hour', 'day']) bucket, generate_series(0, 999) hour, generate_series(1, 40) type;
    insert into counts (bucket, start, event_type_id, application_id, outcome, count)
        select 'ever', '-infinity', type, 1, 'stored', 1 from generate_series(1, 40) type;
    vacuum analyze;";

/// The plans of statements on a table that the server has logged since the last call, each with its statement.
fn plans(server: &Server, seen: &mut usize, table: &str) -> Vec<String> {
    let log = std::fs::read_to_string(server.path().join("log")).expect("the server's log");
    let fresh = log[*seen..].to_owned();
    *seen = log.len();
    let table = format!(" {table} ");
    let plans =
        fresh.split("LOG:  duration: ").filter(|entry| entry.contains("Query Text: ") && entry.contains(&table));
    plans.map(str::to_owned).collect()
}

/// `rows` of the node on this line of a plan.
fn rows(line: &str) -> u64 {
    let rows = line.rsplit("rows=").next().expect("rows").split(' ').next().expect("a number");
    rows.parse().unwrap_or_else(|error| panic!("{error}: {line}"))
}

#[tokio::test]
async fn every_read_walks_indexes_and_sorts_no_more_than_a_page() {
    let server = Server::start_with(
        "-c fsync=off -c session_preload_libraries=auto_explain -c auto_explain.log_min_duration=0 \
         -c auto_explain.log_analyze=on -c auto_explain.log_timing=off",
    );
    server.prepare();
    server.sql(MANY);
    let gateway = Setup::default().with("EYE_DATABASE_URL", server.url()).start().await;
    let session = server.sql("select md5('7')::uuid");
    let mut seen = 0;
    plans(&server, &mut seen, "events");
    let wide = "from=2021-01-01T00:00:00Z&to=2021-06-01T00:00:00Z";
    let paths = [
        // The path, and how many of the four months it may read.
        (format!("/v1/sessions/{session}"), 4),
        (format!("/v1/sessions/{session}?order=desc&category=category%201&application=shop"), 4),
        ("/v1/events".to_owned(), 1),
        ("/v1/events?order=desc&to=2021-04-20T00:00:00Z".to_owned(), 1),
        (format!("/v1/events?{wide}"), 1),
        (format!("/v1/events?{wide}&order=desc&limit=1000"), 2),
        (format!("/v1/events?{wide}&application=shop"), 4),
        (format!("/v1/events?{wide}&name=name%203"), 1),
        ("/v1/categories/category%202?limit=20".to_owned(), 1),
        (format!("/v1/categories/category%202?{wide}&name=name%201&order=desc"), 2),
        (format!("/v1/sessions?{wide}&limit=10"), 4),
        (format!("/v1/sessions/{session}/events/{SESSION}"), 4),
    ];
    let moment = "from=2021-02-10T00:00:00Z&to=2021-02-10T00:00:01Z";
    let of_a_moment = [
        format!("/v1/events?{moment}"),
        format!("/v1/events?{moment}&order=desc"),
        format!("/v1/categories/category%202?{moment}&name=name%201"),
    ];
    let paths = paths.into_iter().map(|(path, months_max)| {
        let rows_max = if path.contains("application=") { 10_100 } else { 2_100 };
        (path, months_max, rows_max)
    });
    // A page among events of one moment reads only a few more of them than it shows.
    let of_a_moment = of_a_moment.into_iter().map(|path| (path, 1, 200));
    for (path, months_max, rows_max) in paths.chain(of_a_moment) {
        // Skips the plans of the path before.
        plans(&server, &mut seen, "events");
        let mut page = gateway.get(&path).await;
        for _ in 0..2 {
            assert!(matches!(page.status, 200 | 404), "{path}: {page:?}");
            let plans = plans(&server, &mut seen, "events");
            assert!(!plans.is_empty(), "{path} reads events");
            for plan in &plans {
                hold(&path, plan, months_max, rows_max);
            }
            let Some(next) = page.json()["next"].as_str().map(str::to_owned) else { break };
            page = gateway.get(&format!("{path}{}cursor={next}", if path.contains('?') { "&" } else { "?" })).await;
        }
    }
    hold_counts(&gateway, &server, &mut seen, wide).await;
}

/// Counts are read by an index, without reading events.
async fn hold_counts(gateway: &Gateway, server: &Server, seen: &mut usize, range: &str) {
    for path in [
        format!("/v1/stats?bucket=day&{range}"),
        format!("/v1/stats?bucket=hour&{range}&category=category%202"),
        format!("/v1/stats?bucket=hour&{range}&category=category%202&name=name%201&application=machine&outcome=stored"),
        "/v1/categories".to_owned(),
    ] {
        let page = gateway.get(&path).await;
        assert_eq!(page.status, 200, "{path}: {page:?}");
        let plans = plans(server, seen, "counts");
        assert!(!plans.is_empty(), "{path} reads counts");
        for plan in &plans {
            assert!(!plan.contains(" on events"), "{path} reads no events: {plan}");
            assert!(!plan.contains("Seq Scan on counts"), "{path}: {plan}");
            for line in plan.lines().filter(|line| line.contains("Scan using counts")) {
                assert!(rows(line) <= 1_100, "{path} reads more than a page: {plan}");
            }
        }
    }
}

fn hold(path: &str, plan: &str, months_max: usize, rows_max: u64) {
    let mut months = HashSet::new();
    for line in plan.lines().filter(|line| line.contains("rows=") && !line.contains("never executed")) {
        assert!(!line.contains("Seq Scan on events_2021") || line.contains("events_2021_05"), "{path}: {plan}");
        assert!(!line.contains("on events_2021") || rows(line) <= rows_max, "{path} reads more than a page: {plan}");
        // An incremental sort only sorts events with the same timestamp and receipt, and here no two have both.
        let sorts = line.contains("Sort  (") && !line.contains("Incremental Sort");
        assert!(!sorts || rows(line) <= 1_001, "{path} sorts more than a page: {plan}");
        let month = line.split("events_2021_0").nth(1).and_then(|rest| rest.chars().next());
        months.extend(month.filter(|month| ('1'..='4').contains(month)));
    }
    assert!(months.len() <= months_max, "{path} looks into {months:?}: {plan}");
}
