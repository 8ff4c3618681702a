//! Readers that are limited to event types, to applications, or to both. What they may not see does not exist for them, on
//! every path: not in rows, counts, cursors or streams. The reader without limits is the measure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use reqwest::RequestBuilder;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Answer, Gateway, Setup, eventually, module, openapi};

const APPLICATIONS: [&str; 2] = ["checkout", "kiosk"];
const TYPES: [(&str, &str); 3] = [("shop", "sale"), ("shop", "return"), ("page view", "open")];

/// Every path that needs the scope `read`. A new one must be held to its limits here.
const PATHS: [&str; 18] = [
    "/v1/events",
    "/v1/sessions",
    "/v1/sessions/{session_id}",
    "/v1/sessions/{session_id}/events/{id}",
    "/v1/categories",
    "/v1/categories/{category}",
    "/v1/stats",
    "/v1/dead-letters",
    "/v1/dead-letters/summary",
    "/v1/dead-letters/{id}",
    "/v1/live",
    "/v1/validators",
    "/v1/validators/{category}/{name}",
    "/v1/validators/{category}/{name}/candidate",
    "/v1/gateways",
    "/v1/generations",
    "/v1/generations/{number}",
    "/metrics",
];

/// An application that reads, with its token.
struct Reader {
    name: &'static str,
    token: String,
    types: Option<&'static [&'static str]>,
    applications: Option<&'static [&'static str]>,
}

impl Reader {
    /// Whether it may see an event or a letter, or what is counted of them.
    fn sees(&self, row: &Value) -> bool {
        let (application, category, name) = (&row["application"], &row["category"], &row["name"]);
        let pattern = |pattern: &&str| {
            let (wanted, any) = pattern.split_once('/').expect("a pattern");
            *category == wanted.replace("%20", " ") && (any == "*" && !name.is_null() || *name == any)
        };
        self.types.is_none_or(|types| types.iter().any(pattern))
            && self.applications.is_none_or(|names| names.iter().any(|one| application == one))
    }

    fn sees_all(&self) -> bool {
        self.types.is_none() && self.applications.is_none()
    }
}

/// A gateway with events and dead letters of each application and event type, and its readers; the first sees everything.
struct House {
    gateway: Gateway,
    senders: BTreeMap<&'static str, String>,
    readers: Vec<Reader>,
}

async fn add(gateway: &Gateway, body: Value) -> String {
    let answer = gateway.post("/v1/applications", "application/json", body.to_string()).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.json()["token"].as_str().expect("a token").to_owned()
}

/// The session of an event: one has everything, the others have one application's events, or one type's.
fn session(number: usize) -> String {
    format!("e2085be5-9137-4e4e-80b5-{number:012}")
}

impl House {
    async fn open() -> House {
        let setup = Setup::default().with_module("shop/sale.wasm", "accepts").with_module("other/_.wasm", "accepts");
        let gateway = setup.with_module("page view/open.wasm", "traps").start().await;
        for event_type in ["shop/sale", "other/_", "page view/open"] {
            gateway.validator(event_type, "active").await;
        }
        gateway.drop_module("shop/retrun.WASM", &module("accepts"));
        let mut senders = BTreeMap::new();
        for name in APPLICATIONS {
            senders.insert(name, add(&gateway, json!({ "name": name })).await);
        }
        let mut readers = Vec::new();
        for (name, types, applications) in [
            ("all", None, None),
            ("by type", Some(&["shop/sale", "page%20view/*"][..]), None),
            ("by category", Some(&["shop/*"][..]), None),
            ("by application", None, Some(&["checkout"][..])),
            ("by both", Some(&["shop/*"][..]), Some(&["kiosk", "unknown"][..])),
        ] {
            let mut body = json!({"name": name, "scopes": ["raw"]});
            if let Some(types) = types {
                body["read_event_types"] = json!(types);
            }
            if let Some(applications) = applications {
                body["read_applications"] = json!(applications);
            }
            readers.push(Reader { name, token: add(&gateway, body).await, types, applications });
        }
        let house = House { gateway, senders, readers };
        house.fill().await;
        house
    }

    /// Each application sends two events of each type into each of its sessions, and some that are not stored.
    async fn fill(&self) {
        let mut number = 0;
        for (place, application) in APPLICATIONS.into_iter().enumerate() {
            for (category, name) in TYPES {
                let of_type = 3 + TYPES.iter().position(|one| *one == (category, name)).expect("a type");
                for session in [0, 0, 1 + place, of_type] {
                    number += 1;
                    let event = numbered(session, number, category, name);
                    assert_eq!(self.send(application, &event.to_string()).await.status, 201, "{event}");
                }
            }
            let mut refused = numbered(0, 900 + place, "shop", "return");
            refused["surplus"] = json!(1);
            assert_eq!(self.send(application, &refused.to_string()).await.status, 422);
            let mut refused = numbered(0, 910 + place, "shop", "sale");
            refused["surplus"] = json!(1);
            assert_eq!(self.send(application, &refused.to_string()).await.status, 422);
            let mut trapped = numbered(0, 920 + place, "page view", "open");
            trapped["data"]["misbehave"] = json!(true);
            assert_eq!(self.send(application, &trapped.to_string()).await.status, 202);
            assert_eq!(self.send(application, "[{\"category\": \"shop\"}]").await.status, 207);
            assert_eq!(self.send(application, "[7]").await.status, 207);
        }
        eventually("the dead letters are kept", async || {
            (self.list(self.all(), "/v1/dead-letters", "dead_letters").await.len() == 10).then_some(())
        })
        .await;
    }

    fn all(&self) -> &Reader {
        &self.readers[0]
    }

    fn reader(&self, name: &str) -> &Reader {
        self.readers.iter().find(|one| one.name == name).expect("a reader")
    }

    async fn send(&self, application: &str, body: &str) -> Answer {
        let request = self.gateway.request("POST", "/v1/events").header("content-type", "application/json");
        self.gateway.answer(request.bearer_auth(&self.senders[application]).body(body.to_owned())).await
    }

    fn request(&self, reader: &Reader, path: &str) -> RequestBuilder {
        self.gateway.request("GET", path).bearer_auth(&reader.token)
    }

    async fn get(&self, reader: &Reader, path: &str) -> Answer {
        self.gateway.answer(self.request(reader, path)).await
    }

    async fn read(&self, reader: &Reader, path: &str) -> Value {
        let answer = self.get(reader, path).await;
        assert_eq!(answer.status, 200, "{path} for {}: {answer:?}", reader.name);
        answer.json()
    }

    async fn list(&self, reader: &Reader, path: &str, list: &str) -> Vec<Value> {
        self.read(reader, path).await[list].as_array().expect("a list").clone()
    }

    /// All pages of a list, with at most one row on each.
    async fn pages(&self, reader: &Reader, path: &str, list: &str) -> Vec<Value> {
        let path = format!("{path}{}limit=1", if path.contains('?') { "&" } else { "?" });
        let (mut rows, mut next) = (Vec::new(), String::new());
        for _ in 0..100 {
            let page = self.read(reader, &format!("{path}{next}")).await;
            rows.extend(page[list].as_array().expect("a list").iter().cloned());
            let Some(cursor) = page["next"].as_str() else { return rows };
            assert_eq!(cursor.starts_with('2'), !reader.sees_all(), "the cursor of {} is sealed", reader.name);
            next = format!("&cursor={cursor}");
        }
        panic!("{path} has no end for {}", reader.name);
    }

    /// The same result as lines.
    async fn lines(&self, reader: &Reader, path: &str) -> Vec<Value> {
        let answer = self.gateway.answer(self.request(reader, path).header("accept", "application/x-ndjson")).await;
        assert_eq!(answer.status, 200, "{path} for {}: {answer:?}", reader.name);
        openapi::check_lines(path, &answer.text);
        answer.text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    /// Compares a list, in every form, with the rows that the reader may see.
    async fn hold(&self, reader: &Reader, path: &str, list: &str, wanted: &[Value]) {
        let who = format!("{path} for {}", reader.name);
        assert_eq!(self.list(reader, path, list).await, wanted, "{who}");
        assert_eq!(self.pages(reader, path, list).await, wanted, "the pages of {who}");
        assert_eq!(self.lines(reader, path).await, wanted, "the lines of {who}");
    }
}

/// Event `number` of a session. Later numbers are later.
fn numbered(session_number: usize, number: usize, category: &str, name: &str) -> Value {
    json!({
        "id": format!("00000000-0000-4000-8000-{number:012}"),
        "session_id": session(session_number),
        "category": category,
        "name": name,
        "timestamp": format!("2021-01-01T{:02}:{:02}:00Z", number / 60, number % 60),
        "data": {"n": number},
    })
}

/// The text of an answer, without the id of the request and with other words for `names`.
fn plain(answer: &Answer, names: &[&str]) -> (u16, String) {
    let id = answer.headers["x-request-id"].to_str().expect("text").to_owned();
    let text = answer.text.replace(&id, "REQUEST");
    (answer.status, names.iter().fold(text, |text, name| text.replace(name, "NAME")))
}

#[test]
fn every_path_of_readers_is_held_to_the_limits() {
    let open = ["/healthz", "/readyz", "/openapi.json", "/problems/{code}", "/", "/panel/{file}", "/v1/panel/session"];
    let of_administrators = |path: &str| {
        ["/v1/applications", "/v1/jobs"].iter().any(|start| path.starts_with(start))
            || ["/v1/audit", "/v1/settings"].contains(&path)
            || path.ends_with("/versions/{digest}")
    };
    let routes = eye::router::ROUTES.iter().filter(|(_, methods)| methods.starts_with("GET"));
    let routes: BTreeSet<&str> =
        routes.map(|(path, _)| *path).filter(|path| !open.contains(path) && !of_administrators(path)).collect();
    assert_eq!(routes, PATHS.into_iter().collect());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limited_reader_gets_the_rows_that_it_may_see_and_no_others() {
    let house = House::open().await;
    let everything = house.list(house.all(), "/v1/events", "events").await;
    assert_eq!(everything.len(), 24);
    let letters = house.list(house.all(), "/v1/dead-letters", "dead_letters").await;
    let day = "from=2020-01-01T00:00:00Z&to=2020-01-02T00:00:00Z";
    for reader in &house.readers {
        let seen = |rows: &[Value]| rows.iter().filter(|row| reader.sees(row)).cloned().collect::<Vec<_>>();
        assert!(reader.sees_all() || seen(&everything).len() < 24 && !seen(&everything).is_empty(), "{}", reader.name);
        for path in [
            "/v1/events",
            "/v1/events?order=desc",
            "/v1/events?category=shop",
            "/v1/events?name=return",
            "/v1/events?application=kiosk",
            "/v1/events?category=shop&name=sale&application=checkout",
            "/v1/events?to=2021-01-01T00:09:00Z",
            "/v1/categories/shop",
            "/v1/categories/page%20view?application=checkout",
        ] {
            let all = house.list(house.all(), path, "events").await;
            house.hold(reader, path, "events", &seen(&all)).await;
        }
        for number in 0..6 {
            let path = format!("/v1/sessions/{}", session(number));
            let all = house.list(house.all(), &path, "events").await;
            assert!(!all.is_empty());
            house.hold(reader, &path, "events", &seen(&all)).await;
        }
        for path in ["/v1/dead-letters", "/v1/dead-letters?reason=rejected", "/v1/dead-letters?category=shop"] {
            let all = house.list(house.all(), path, "dead_letters").await;
            house.hold(reader, path, "dead_letters", &seen(&all)).await;
        }
        let by = "by=reason,code,category,name,application";
        let summary = house.read(reader, &format!("/v1/dead-letters/summary?{by}")).await;
        assert_eq!((&summary["count"], &summary["whole"]), (&json!(seen(&letters).len()), &json!(true)));
        assert_eq!(grouped(&summary), groups(&seen(&letters)), "{}", reader.name);
        house.hold(reader, "/v1/sessions", "sessions", &sessions(&seen(&everything))).await;
        let counts = house.list(house.all(), "/v1/stats?bucket=day", "counts").await;
        assert!(counts.iter().any(|row| row["category"].is_null()), "some letters have no type");
        house.hold(reader, "/v1/stats?bucket=day", "counts", &seen(&counts)).await;
        house.hold(reader, &format!("/v1/stats?bucket=day&{day}"), "counts", &[]).await;
        let categories = categories(&seen(&counts));
        assert_eq!(house.list(reader, "/v1/categories", "categories").await, categories, "{}", reader.name);
        let paged: i64 = house.pages(reader, "/v1/categories", "categories").await.iter().map(names).sum();
        assert_eq!(paged, categories.iter().map(names).sum::<i64>(), "{}", reader.name);
        let raw = seen(&letters).iter().filter(|letter| letter["reason"] == "quarantined").count();
        let mut shown = 0;
        for letter in seen(&letters) {
            let one = house.read(reader, &format!("/v1/dead-letters/{}", letter["id"].as_str().expect("an id"))).await;
            shown += usize::from(one["raw"].as_str().is_some_and(|raw| raw.contains("misbehave")));
        }
        assert_eq!(shown, raw, "raw bytes for {}", reader.name);
    }
}

/// The words by which this test groups dead letters, as one text.
fn group(row: &Value) -> String {
    ["reason", "code", "category", "name", "application"].map(|word| row[word].to_string()).join(" ")
}

/// The letters of each group, by a summary.
fn grouped(summary: &Value) -> BTreeMap<String, u64> {
    let groups = summary["groups"].as_array().expect("groups").iter();
    groups.map(|row| (group(row), row["count"].as_u64().expect("a count"))).collect()
}

/// The groups that these letters make.
fn groups(letters: &[Value]) -> BTreeMap<String, u64> {
    let mut groups = BTreeMap::new();
    for letter in letters {
        *groups.entry(group(letter)).or_default() += 1;
    }
    groups
}

fn names(category: &Value) -> i64 {
    i64::try_from(category["names"].as_array().expect("names").len()).expect("few")
}

/// The rows of `/v1/sessions` that these events make.
fn sessions(events: &[Value]) -> Vec<Value> {
    let mut by_session: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for event in events {
        by_session.entry(event["session_id"].as_str().expect("a session")).or_default().push(event);
    }
    let edge = |event: &Value| json!({"id": event["id"], "category": event["category"], "name": event["name"], "timestamp": event["timestamp"]});
    let mut rows: Vec<Value> = by_session
        .into_iter()
        .map(|(session_id, events)| {
            let applications: BTreeSet<&str> =
                events.iter().map(|event| event["application"].as_str().expect("a name")).collect();
            json!({
                "session_id": session_id,
                "first": edge(events[0]),
                "last": edge(events[events.len() - 1]),
                "count": events.len(),
                "count_is_exact": true,
                "applications": applications,
            })
        })
        .collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row["last"]["timestamp"].as_str().expect("a time").to_owned()));
    rows
}

/// The rows of `/v1/categories` that these counts make.
fn categories(counts: &[Value]) -> Vec<Value> {
    let mut by_category: BTreeMap<&str, BTreeMap<&str, BTreeMap<&str, i64>>> = BTreeMap::new();
    for row in counts {
        let (Some(category), Some(name)) = (row["category"].as_str(), row["name"].as_str()) else { continue };
        let outcomes = by_category.entry(category).or_default().entry(name).or_default();
        *outcomes.entry(row["outcome"].as_str().expect("a word")).or_default() +=
            row["count"].as_i64().expect("a count");
    }
    let count = |outcomes: &BTreeMap<&str, i64>, word: &str| outcomes.get(word).copied().unwrap_or_default();
    let rows = by_category.into_iter().map(|(category, names)| {
        let stored: i64 = names.values().map(|outcomes| count(outcomes, "stored")).sum();
        let names: Vec<Value> = names
            .into_iter()
            .map(|(name, outcomes)| {
                json!({
                    "name": name,
                    "count": count(&outcomes, "stored"),
                    "rejected": count(&outcomes, "rejected"),
                    "quarantined": count(&outcomes, "quarantined"),
                })
            })
            .collect();
        json!({"category": category, "count": stored, "names": names})
    });
    rows.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_hidden_gets_the_answer_of_what_does_not_exist() {
    let house = House::open().await;
    let nothing = Uuid::now_v7().to_string();
    let everything = house.list(house.all(), "/v1/events", "events").await;
    let letters = house.list(house.all(), "/v1/dead-letters", "dead_letters").await;
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    for reader in &house.readers {
        for event in &everything {
            let (session_id, id) = (text(&event["session_id"]), text(&event["id"]));
            let path = format!("/v1/sessions/{session_id}/events/{id}");
            let answer = house.get(reader, &path).await;
            if reader.sees(event) {
                assert_eq!((answer.status, &answer.json()), (200, event), "{path} for {}", reader.name);
            } else {
                let unknown = house.get(reader, &format!("/v1/sessions/{session_id}/events/{nothing}")).await;
                assert_eq!(plain(&answer, &[]), plain(&unknown, &[]), "{path} for {}", reader.name);
                assert_eq!(answer.status, 404);
            }
        }
        let unknown = house.get(reader, &format!("/v1/dead-letters/{nothing}")).await;
        assert_eq!(unknown.status, 404);
        for letter in &letters {
            let answer = house.get(reader, &format!("/v1/dead-letters/{}", text(&letter["id"]))).await;
            if reader.sees(letter) {
                assert_eq!(answer.status, 200, "{letter} for {}", reader.name);
            } else {
                assert_eq!(plain(&answer, &[]), plain(&unknown, &[]), "{letter} for {}", reader.name);
            }
        }
    }
    // A filter by what is hidden is like one by what is unknown, also in the forms of the answer.
    let day = "from=2020-01-01T00:00:00Z&to=2030-01-01T00:00:00Z&bucket=day";
    let stats = format!("/v1/stats?{day}");
    for (reader, hidden, unknown, filter) in [
        ("by type", "return", "nothing", "name"),
        ("by category", "page%20view", "nothing", "category"),
        ("by application", "kiosk", "nobody", "application"),
        ("by both", "checkout", "nobody", "application"),
        ("by both", "open", "nothing", "name"),
    ] {
        let reader = house.reader(reader);
        let summary = format!("/v1/dead-letters/summary?{day}&");
        for path in ["/v1/events?", "/v1/dead-letters?", &format!("{stats}&"), &summary] {
            let asked = async |value: &str| house.get(reader, &format!("{path}{filter}={value}")).await;
            let (hidden, unknown) = (asked(hidden).await, asked(unknown).await);
            assert_eq!(hidden.status, 200, "{hidden:?}");
            assert_eq!(plain(&hidden, &[]), plain(&unknown, &[]), "{path}{filter} for {}", reader.name);
        }
    }
    // Sessions and categories of which nothing is visible.
    let by_both = house.reader("by both");
    for (hidden, unknown) in [
        (format!("/v1/sessions/{}", session(1)), format!("/v1/sessions/{nothing}")),
        ("/v1/categories/page%20view".to_owned(), "/v1/categories/nothing".to_owned()),
    ] {
        let (hidden, unknown) = (house.get(by_both, &hidden).await, house.get(by_both, &unknown).await);
        let names = [session(1), nothing.clone(), "page view".to_owned(), "nothing".to_owned()];
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert_eq!(plain(&hidden, &names), plain(&unknown, &names));
    }
    for name in ["by type", "by category", "by application", "by both"] {
        let reader = house.reader(name);
        let (metrics, unknown) = (house.get(reader, "/metrics").await, house.get(reader, "/v1/nothing").await);
        assert_eq!((metrics.status, plain(&metrics, &[])), (404, plain(&unknown, &[])), "{name}");
    }
    assert_eq!(house.get(house.all(), "/metrics").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_report_on_modules_has_the_event_types_that_are_visible() {
    let house = House::open().await;
    let slots = |report: &Value| -> Vec<String> {
        let list = report["validators"].as_array().expect("a list").iter();
        list.map(|one| one["event_type"].as_str().expect("text").to_owned()).collect()
    };
    let all = eventually("the problem is found", async || {
        let all = house.read(house.all(), "/v1/validators").await;
        (!all["problems"].as_array().expect("a list").is_empty()).then_some(all)
    })
    .await;
    assert_eq!(slots(&all), ["other/_", "page view/open", "shop/sale"]);
    assert_eq!(all["without_validator"][0]["name"], "return");
    let by_type = house.read(house.reader("by type"), "/v1/validators").await;
    assert_eq!(slots(&by_type), ["page view/open", "shop/sale"]);
    assert_eq!(by_type["validators"][1], all["validators"][2]);
    assert_eq!((&by_type["problems"], &by_type["without_validator"]), (&json!([]), &json!([])));
    let by_category = house.read(house.reader("by category"), "/v1/validators").await;
    assert_eq!(slots(&by_category), ["shop/sale"]);
    let unserved = json!([{"category": "shop", "name": "return", "stored": 8, "nearest": null}]);
    assert_eq!((&by_category["problems"], &by_category["without_validator"]), (&json!([]), &unserved));
    let candidate = async |name: &str, path: &str| {
        let answer = house.get(house.reader(name), &format!("/v1/validators/{path}/candidate")).await;
        (answer.status, answer.json()["code"].clone())
    };
    assert_eq!(candidate("by type", "shop/sale").await, (404, json!("no_candidate")));
    assert_eq!(candidate("by type", "other/*").await, (404, json!("not_found")));
    // The counts are those of all applications.
    for name in ["by application", "by both"] {
        assert_eq!(candidate(name, "shop/sale").await, (404, json!("not_found")));
        assert_eq!(house.get(house.reader(name), "/v1/validators").await.status, 404, "{name}");
    }
}

/// A stream of live outcomes.
struct Watching {
    response: reqwest::Response,
    text: String,
}

impl Watching {
    async fn open(house: &House, reader: &Reader, query: &str) -> Watching {
        let response = house.request(reader, &format!("/v1/live{query}")).send().await.expect("an answer");
        assert_eq!(response.status(), 200);
        let mut watching = Watching { response, text: String::new() };
        watching.until("retry: ").await;
        watching
    }

    async fn until(&mut self, wanted: &str) {
        while !self.text.contains(wanted) {
            let chunk = tokio::time::timeout(Duration::from_secs(60), self.response.chunk()).await.expect("in time");
            let chunk = chunk.expect("a chunk").unwrap_or_else(|| panic!("ended without {wanted}: {}", self.text));
            self.text.push_str(str::from_utf8(&chunk).expect("text"));
        }
    }

    fn outcomes(&self) -> Vec<Value> {
        let parts = self.text.split("\n\n").filter_map(|part| part.strip_prefix("event: outcome\ndata: "));
        parts.map(|data| serde_json::from_str(data).expect("JSON")).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_stream_shows_visible_outcomes_and_ends_when_the_limits_change() {
    let house = House::open().await;
    let mut streams = Vec::new();
    for reader in &house.readers {
        streams.push((reader, Watching::open(&house, reader, "").await));
    }
    let by_type = house.reader("by type");
    let mut filtered = Watching::open(&house, by_type, "?application=kiosk").await;
    // Of each kind one event, then one that every reader sees.
    house.fill_live().await;
    for event in [("kiosk", "shop", "sale"), ("checkout", "shop", "sale")] {
        let (application, category, name) = event;
        let answer = house.send(application, &numbered(7, 800, category, name).to_string()).await;
        assert!([200, 201].contains(&answer.status), "{answer:?}");
    }
    let last = |reader: &Reader| if reader.name == "by both" { "kiosk" } else { "checkout" };
    for (reader, stream) in &mut streams {
        let end = format!("\"application\":\"{}\"", last(reader));
        stream.until("\"session_id\":\"e2085be5-9137-4e4e-80b5-000000000007\"").await;
        stream.until(&end).await;
    }
    let all = {
        let (_, stream) = &mut streams[0];
        stream.until("\"outcome\":\"duplicate\"").await;
        stream.outcomes()
    };
    assert_eq!(all.len(), 10, "{all:?}");
    for (reader, stream) in &mut streams[1..] {
        let wanted: Vec<&Value> = all.iter().filter(|outcome| reader.sees(outcome)).collect();
        assert!(!wanted.is_empty() && wanted.len() < all.len());
        while stream.outcomes().len() < wanted.len() {
            let seen = stream.text.len();
            let chunk = stream.response.chunk().await.expect("a chunk").expect("more");
            stream.text.push_str(str::from_utf8(&chunk).expect("text"));
            assert!(stream.text.len() > seen);
        }
        assert_eq!(stream.outcomes().iter().collect::<Vec<_>>(), wanted, "{}", reader.name);
    }
    filtered.until("\"application\":\"kiosk\"").await;
    assert!(!filtered.text.contains("checkout") && !filtered.text.contains("return"), "{}", filtered.text);

    // A change of the limits ends the streams of that reader at their next message, and no others.
    let change = json!({"read_event_types": ["shop/sale"]}).to_string();
    let request = house.gateway.as_admin(house.gateway.request("PATCH", "/v1/applications/by%20type"));
    let answer = house.gateway.answer(request.header("content-type", "application/json").body(change)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(house.send("kiosk", &numbered(7, 801, "shop", "sale").to_string()).await.status, 201);
    filtered.until("event: end").await;
    for (reader, stream) in &mut streams {
        match reader.name {
            "by type" => stream.until("event: end").await,
            "by application" => {}
            _ => stream.until("000000000801").await,
        }
        assert_eq!(stream.text.contains("event: end"), reader.name == "by type", "{}", reader.name);
    }
    assert!(!filtered.text.contains("000000000801"), "{}", filtered.text);

    // So does a revocation.
    let request = house.gateway.as_admin(house.gateway.request("DELETE", "/v1/applications/by%20both"));
    assert_eq!(house.gateway.answer(request).await.status, 200);
    assert_eq!(house.send("kiosk", &numbered(7, 802, "shop", "sale").to_string()).await.status, 201);
    let (_, stream) = streams.last_mut().expect("by both");
    stream.until("event: end").await;
    assert!(!stream.text.contains("000000000802"), "{}", stream.text);
}

impl House {
    /// Eight outcomes: of each application one of each type, and one whose type cannot be read.
    async fn fill_live(&self) {
        let mut number = 700;
        for application in APPLICATIONS {
            for (category, name) in TYPES {
                number += 1;
                assert_eq!(self.send(application, &numbered(6, number, category, name).to_string()).await.status, 201);
            }
            assert_eq!(self.send(application, "[7]").await.status, 207);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_ends_among_hidden_events_tells_nothing_of_them() {
    let house = House::open().await;
    // More than one page walks: each in a session of its own, and later than all others.
    house.gateway.sql(
        "insert into events (session_id, timestamp, id, received_at, event_type_id, application_id, data) \
         select gen_random_uuid(), '2021-06-01'::timestamptz + number * interval '1 second', \
             ('0beefbee-0000-4000-8000-' || lpad(number::text, 12, '0'))::uuid, now() - interval '1 minute', \
             (select id from event_types where category = 'shop' and name = 'return'), \
             (select id from applications where name = 'kiosk'), '{}' \
         from generate_series(1, 25000) number",
    );
    let reader = house.reader("by application");
    let wanted = {
        let all = house.list(house.all(), "/v1/events?application=checkout", "events").await;
        sessions(&all)
    };
    let first = house.read(reader, "/v1/sessions").await;
    let cursor = first["next"].as_str().expect("the page ends early").to_owned();
    assert_eq!(first["sessions"], json!([]), "hidden events make no row");
    let in_the_clear = |text: &str| text.contains("0beefbee") || text.contains("3062656566626565");
    assert!(cursor.starts_with('2') && !in_the_clear(&cursor), "{cursor}");
    let (mut rows, mut next) = (Vec::new(), json!(cursor));
    while let Some(cursor) = next.as_str() {
        let page = house.read(reader, &format!("/v1/sessions?cursor={cursor}")).await;
        rows.extend(page["sessions"].as_array().expect("a list").iter().cloned());
        next = page["next"].clone();
    }
    assert_eq!(rows, wanted);
    assert_eq!(house.lines(reader, "/v1/sessions").await, wanted);
    // No other reader can use the cursor, and this reader none of another.
    let of_all = house.read(house.all(), "/v1/sessions?limit=1").await["next"].as_str().expect("more").to_owned();
    assert!(in_the_clear(&of_all), "the cursor of a reader that sees everything names an event: {of_all}");
    let last = if cursor.ends_with('0') { "1" } else { "0" };
    let changed = format!("{}{last}", &cursor[..cursor.len() - 1]);
    for (name, cursor) in
        [("all", &cursor), ("by category", &cursor), ("by application", &of_all), ("by application", &changed)]
    {
        let answer = house.get(house.reader(name), &format!("/v1/sessions?cursor={cursor}")).await;
        assert_eq!((answer.status, &answer.json()["parameter"]), (400, &json!("cursor")), "{name}: {answer:?}");
    }
    // Event types lead past hidden events, so a reader of types finds its sessions on the first page.
    let by_type = house.list(house.reader("by type"), "/v1/sessions", "sessions").await;
    assert_eq!(by_type.len(), 5);
    let events = house.list(reader, "/v1/events?order=desc&limit=3", "events").await;
    assert!(events.len() == 3 && events.iter().all(|event| event["application"] == "checkout"), "{events:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_of_many_event_types_sees_these_and_no_others() {
    let house = House::open().await;
    // More than are walked by an index each.
    house.gateway.sql(
        "insert into event_types (category, name) select 'many', number::text from generate_series(1, 100) number",
    );
    let body = json!({"name": "many", "scopes": ["read"], "read_event_types": ["many/*", "shop/sale"]});
    let token = add(&house.gateway, body).await;
    let reader = Reader { name: "many", token, types: Some(&["many/*", "shop/sale"]), applications: None };
    let everything = house.list(house.all(), "/v1/events", "events").await;
    let seen: Vec<Value> = everything.iter().filter(|event| reader.sees(event)).cloned().collect();
    assert_eq!(seen.len(), 8);
    house.hold(&reader, "/v1/events", "events", &seen).await;
    house.hold(&reader, "/v1/sessions", "sessions", &sessions(&seen)).await;
    let mut reversed = seen;
    reversed.reverse();
    house.hold(&reader, "/v1/events?order=desc", "events", &reversed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_lines_ends_when_the_limits_change() {
    const ROWS: usize = 40_000;
    let house = House::open().await;
    // More than fits into the buffers on the way.
    house.gateway.sql(&format!(
        "insert into events (session_id, timestamp, id, received_at, event_type_id, application_id, data) \
         select gen_random_uuid(), '2021-06-01'::timestamptz + number * interval '1 second', gen_random_uuid(), now(), \
             (select id from event_types where category = 'shop' and name = 'return'), \
             (select id from applications where name = 'kiosk'), jsonb_build_object('text', repeat('x', 1000)) \
         from generate_series(1, {ROWS}) number"
    ));
    let reader = house.reader("by category");
    let request = house.request(reader, "/v1/events").header("accept", "application/x-ndjson");
    let mut response = request.send().await.expect("an answer");
    assert_eq!(response.status(), 200);
    let mut bytes = response.chunk().await.expect("a chunk").expect("more").to_vec();
    let change = json!({"read_event_types": ["shop/sale"]}).to_string();
    let request = house.gateway.as_admin(house.gateway.request("PATCH", "/v1/applications/by%20category"));
    let answer = house.gateway.answer(request.header("content-type", "application/json").body(change)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    while let Some(chunk) = response.chunk().await.expect("a chunk") {
        bytes.extend_from_slice(&chunk);
    }
    let text = String::from_utf8(bytes).expect("text");
    let last: Value = serde_json::from_str(text.lines().last().expect("a line")).expect("JSON");
    assert_eq!(last["error"]["code"], "unknown_sender", "{last}");
    assert!(text.lines().count() < ROWS, "{} lines", text.lines().count());
    let again = house.lines(reader, "/v1/events").await;
    assert_eq!((again.len(), again.iter().all(|event| event["name"] == "sale")), (8, true));
}

#[tokio::test]
async fn limits_are_kept_shown_and_noted_and_an_older_program_shows_a_limited_reader_nothing() {
    let gateway = Gateway::start().await;
    let run = |arguments: &[&str]| {
        let output = gateway.command_beside(arguments).args(["--data-dir", "data"]).output().expect("the program");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stdout), text(&output.stderr))
    };
    let eye = |arguments: &[&str]| {
        let (is_done, said, problem) = run(arguments);
        assert!(is_done, "{arguments:?}: {problem}");
        said
    };
    let token = eye(&[
        "app",
        "add",
        "analyst",
        "--token",
        "--scope",
        "read",
        "--scope",
        "ingest",
        "--read-event-type",
        "shop/*",
        "--read-event-type",
        "page%20view/open",
        "--read-application",
        "checkout",
        "--read-application",
        "kiosk",
    ]);
    let token = token.trim();
    let shown = async || gateway.get("/v1/applications/analyst").await.json();
    let limits = |shown: &Value| (shown["read_event_types"].clone(), shown["read_applications"].clone());
    assert_eq!(limits(&shown().await), (json!(["shop/*", "page%20view/open"]), json!(["checkout", "kiosk"])));
    assert_eq!(shown().await["scopes"], json!(["read", "ingest"]));
    let listed = eye(&["app", "list"]);
    assert!(listed.contains("\treads shop/* page%20view/open of checkout kiosk\t"), "{listed}");
    assert!(listed.lines().any(|line| line.starts_with("local") && line.contains("\treads all\t")), "{listed}");

    // The row has scopes that an older program does not know, whoever sets them.
    let scopes = || gateway.sql("select scopes from applications where name = 'analyst'");
    assert_eq!(scopes(), "{limited_read,ingest}");
    gateway.sql("update applications set scopes = '{raw}' where name = 'analyst'");
    assert_eq!((scopes().as_str(), &shown().await["scopes"]), ("{limited_raw}", &json!(["raw"])));
    let refused = "do $$ begin update applications set scopes = '{admin}' where name = 'analyst'; \
                   exception when check_violation then raise notice 'refused'; end $$; select 'there'";
    assert_eq!(gateway.sql(refused), "there");
    assert_eq!(scopes(), "{limited_raw}");

    // Single ones are taken away, all only in so many words.
    eye(&["app", "change", "analyst", "--remove-read-application", "kiosk"]);
    eye(&["app", "change", "analyst", "--remove-read-event-type", "page%20view/open"]);
    assert_eq!(limits(&shown().await), (json!(["shop/*"]), json!(["checkout"])));
    for (arguments, said) in [
        (&["--remove-read-application", "checkout"][..], "--any-read-application"),
        (&["--remove-read-event-type", "shop/*"], "--any-read-event-type"),
        (&["--remove-read-event-type", "shop/sale"], "has no event type to read"),
        (&["--scope", "admin"], "would not hold"),
        (&["--scope", "ingest"], "may not read"),
        (&["--read-event-type", "shop"], "category/name or category/*"),
    ] {
        let (is_done, _, text) = run(&[&["app", "change", "analyst"], arguments].concat());
        assert!(!is_done && text.contains(said), "{arguments:?}: {text}");
    }
    let change = async |body: Value| {
        let request = gateway.as_admin(gateway.request("PATCH", "/v1/applications/analyst"));
        gateway.answer(request.header("content-type", "application/json").body(body.to_string())).await
    };
    for body in [json!({"scopes": ["admin"]}), json!({"scopes": ["ingest"]}), json!({"scopes": []})] {
        let answer = change(body).await;
        assert_eq!((answer.status, &answer.json()["parameter"]), (400, &json!("scopes")), "{answer:?}");
    }
    let limited = gateway.request("GET", "/metrics").bearer_auth(token);
    eventually("the limits are in force", async || {
        (gateway.answer(limited.try_clone().expect("no body")).await.status == 404).then_some(())
    })
    .await;
    eye(&["app", "change", "analyst", "--any-read-event-type", "--any-read-application"]);
    assert_eq!((scopes().as_str(), limits(&shown().await)), ("{raw}", (json!([]), json!([]))));
    let unlimited = gateway.request("GET", "/metrics").bearer_auth(token);
    eventually("the limits are gone", async || {
        (gateway.answer(unlimited.try_clone().expect("no body")).await.status == 200).then_some(())
    })
    .await;

    let trail = gateway.get("/v1/audit?subject=analyst").await.json();
    let entries = trail["entries"].as_array().expect("a list");
    let added = &entries.last().expect("the first")["details"];
    assert_eq!(added["read_event_types"], json!(["shop/*", "page%20view/open"]), "{added}");
    assert_eq!(
        (&added["read_applications"], &added["scopes"]),
        (&json!(["checkout", "kiosk"]), &json!(["read", "ingest"]))
    );
    let last = &entries[0]["details"];
    assert_eq!(last["read_event_types"], json!({"before": ["shop/*"], "after": []}), "{last}");
    assert_eq!(last.get("scopes"), None, "the scopes are the same: {last}");
}
