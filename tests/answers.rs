//! The answer to the sender for each kind of event and body, and that nothing but accepted events is stored.

use std::io::Write as _;

use serde_json::{Value, json};

use crate::support::{Gateway, SESSION, Setup, event, eventually, pageview};

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(pointer, code)| ((*pointer).to_owned(), (*code).to_owned())).collect()
}

async fn with_validators() -> Gateway {
    let gateway = Setup::default()
        .with_module("page interaction/pageview.wasm", "pageview")
        .with_module("page interaction/cta click.wasm", "cta_click")
        .with_module("form interaction/submit.wasm", "form_submit")
        .start()
        .await;
    gateway.validator("page interaction/pageview", "active").await;
    gateway.validator("page interaction/cta click", "active").await;
    gateway.validator("form interaction/submit", "active").await;
    gateway
}

#[tokio::test]
async fn an_accepted_event_is_stored_and_read_back_with_its_module() {
    let gateway = with_validators().await;
    let answer = gateway.send(&pageview()).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(answer.json()["outcome"], "stored");
    let events = gateway.session(SESSION).await;
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["id"], answer.json()["id"]);
    assert_eq!(events[0]["timestamp"], "2021-01-01T09:15:27.243860Z");
    assert_eq!(events[0]["application"], "local");
    assert_eq!(events[0]["data"], pageview()["data"]);
    let module = gateway.validator("page interaction/pageview", "active").await;
    assert_eq!(events[0]["validator"], module["digest"]);
    assert_eq!(gateway.sql("select count(*) from events"), "1", "the answer came after the commit");
}

#[tokio::test]
async fn the_older_path_behaves_alike() {
    let gateway = Gateway::start().await;
    let answer = gateway.post("/post/create", "application/json", pageview().to_string()).await;
    assert_eq!((answer.status, gateway.session(SESSION).await.len()), (201, 1));
}

#[tokio::test]
async fn a_second_sending_of_the_same_id_is_a_duplicate() {
    let gateway = Gateway::start().await;
    let mut event = pageview();
    event["id"] = json!("0198c5a4-6f3e-7c1d-9b52-3f0e8a7d6c15");
    assert_eq!(gateway.send(&event).await.status, 201);
    let again = gateway.send(&event).await;
    assert_eq!((again.status, &again.json()["outcome"]), (200, &json!("duplicate")));
    assert_eq!(gateway.session(SESSION).await.len(), 1);
}

#[tokio::test]
async fn a_rule_rejects_with_violations_and_the_module_that_spoke() {
    let gateway = with_validators().await;
    let answer =
        gateway.send(&event("page interaction", "pageview", json!({"host": "not a host", "path": "nowhere"}))).await;
    assert_eq!(answer.status, 422, "{answer:?}");
    assert_eq!(answer.headers["content-type"], "application/problem+json");
    let body = answer.json();
    assert_eq!(body["code"], "rule");
    let pointers: Vec<_> = answer.violations().into_iter().map(|(pointer, _)| pointer).collect();
    assert_eq!(pointers, ["/host", "/path"], "all violations at once");
    let module = gateway.validator("page interaction/pageview", "active").await;
    assert_eq!(body["validator"]["digest"], module["digest"]);
    assert!(gateway.session(SESSION).await.is_empty());
    let letter = eventually("the dead letter is written", async || {
        let row = gateway.sql(
            "select reason, code, category, name, convert_from(raw, 'utf8')::jsonb ->> 'session_id' from dead_letters",
        );
        (!row.is_empty()).then_some(row)
    })
    .await;
    assert_eq!(letter, format!("rejected|rule|page interaction|pageview|{SESSION}"));
}

#[tokio::test]
async fn secrets_of_a_form_are_redacted_and_all_else_is_kept_to_the_digit() {
    let gateway = with_validators().await;
    let body = pageview().to_string().replace("\"pageview\"", "\"submit\"").replace("page interaction", "form interaction").replace(
        "\"path\":\"/\"",
        r#""path":"/","form":{"first_name":"John","password":"hunter2","card":"4111 1111 1111 1111"},"exact":12345678901234567890.123456789"#,
    );
    let answer = gateway.post("/v1/events", "application/json", body).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let stored = gateway.sql("select data from events");
    assert!(stored.contains("12345678901234567890.123456789"), "{stored}");
    assert!(!stored.contains("hunter2") && !stored.contains("4111"), "{stored}");
    assert!(stored.contains("[redacted]") && stored.contains("John"), "{stored}");
}

#[tokio::test]
async fn each_bad_event_is_rejected_with_every_violation_and_its_place() {
    let gateway = Gateway::start().await;
    let change = |key: &str, value: Value| {
        let mut event = pageview();
        event[key] = value;
        event.to_string()
    };
    let data = |text: &str| change("data", json!("DATA")).replace("\"DATA\"", text);
    let twice = pageview().to_string().replacen('{', "{\"category\":\"first\",", 1);
    let deep = format!("{{\"a\":{}1{}}}", "[".repeat(64), "]".repeat(64));
    let wide = format!("{{\"a\":\"{}\"}}", "x".repeat(256 * 1024));
    let cases: Vec<(String, Vec<(String, String)>)> = vec![
        (
            "{}".to_owned(),
            pairs(&[
                ("/session_id", "required"),
                ("/category", "required"),
                ("/name", "required"),
                ("/timestamp", "required"),
                ("/data", "required"),
            ]),
        ),
        ("7".to_owned(), pairs(&[("", "type")])),
        (change("session_id", json!("not-a-uuid")), pairs(&[("/session_id", "uuid")])),
        (change("session_id", json!(7)), pairs(&[("/session_id", "type")])),
        (change("id", json!("{e2085be5-9137-4e4e-80b5-f1ffddc25423}")), pairs(&[("/id", "uuid")])),
        (change("category", json!("")), pairs(&[("/category", "length")])),
        (change("name", json!("x".repeat(201))), pairs(&[("/name", "length")])),
        (change("name", json!("a\nb")), pairs(&[("/name", "control_character")])),
        (change("name", json!(" a")), pairs(&[("/name", "space")])),
        (change("timestamp", json!("2999-01-01T00:00:00Z")), pairs(&[("/timestamp", "future")])),
        (change("timestamp", json!("01/02/2021")), pairs(&[("/timestamp", "timestamp")])),
        (change("timestamp", json!(1_609_492_527)), pairs(&[("/timestamp", "type")])),
        (change("data", json!([1])), pairs(&[("/data", "type")])),
        (change("data", Value::Null), pairs(&[("/data", "type")])),
        (change("user", json!(1)), pairs(&[("/user", "unknown_field")])),
        (twice, pairs(&[("/category", "duplicate_key")])),
        (data(r#"{"a":{"b":1,"b":2}}"#), pairs(&[("/data/a/b", "duplicate_key")])),
        (data(r#"{"a":"x\u0000"}"#), pairs(&[("/data/a", "nul")])),
        (data(r#"{"a":["\ud83d"]}"#), pairs(&[("/data/a/0", "surrogate")])),
        (change("name", json!("a\u{202e}b")), pairs(&[("/name", "control_character")])),
        (change("category", json!("a\u{200b}b")), pairs(&[("/category", "control_character")])),
        (change("timestamp", json!("0000-01-01T00:00:00+14:00")), pairs(&[("/timestamp", "timestamp")])),
        (change("timestamp", json!("0001-01-01T00:00:00+14:00")), pairs(&[("/timestamp", "timestamp")])),
        (data(r#"{"a":1e5000}"#), pairs(&[("/data/a", "number_digits")])),
        (
            data(r#"{"a":[{"b":-1e-5000}],"c":0e-1000}"#),
            pairs(&[("/data/a/0/b", "number_digits"), ("/data/c", "number_digits")]),
        ),
        (data(&format!(r#"{{"a":0.{}}}"#, "0".repeat(1_000))), pairs(&[("/data/a", "number_digits")])),
        (data(r#"{"a":1e131073}"#), pairs(&[("/data/a", "number_range")])),
        (data(r#"{"a":1e-16384}"#), pairs(&[("/data/a", "number_range")])),
        (data(&wide), pairs(&[("/data", "size")])),
    ];
    for (body, expected) in cases {
        let answer = gateway.post("/v1/events", "application/json", body.clone()).await;
        let shown = &body[..body.len().min(300)];
        assert_eq!((answer.status, &answer.json()["code"]), (422, &json!("envelope")), "{shown}: {answer:?}");
        assert_eq!(answer.violations(), expected, "{shown}");
    }
    let answer = gateway.post("/v1/events", "application/json", data(&deep)).await;
    assert_eq!((answer.status, answer.violations()[0].1.as_str()), (422, "depth"));
    assert_eq!(gateway.sql("select count(*) from events"), "0");
}

#[tokio::test]
async fn bodies_that_are_no_events_are_refused_as_a_whole() {
    let gateway = Gateway::start().await;
    let refused = async |content_type: &str, body: Vec<u8>| {
        let answer = gateway.post("/v1/events", content_type, body).await;
        assert_eq!(answer.headers["content-type"], "application/problem+json");
        (answer.status, answer.json())
    };
    let (status, problem) = refused("application/json", b"{\n  \"category\": nope\n}".to_vec()).await;
    assert_eq!((status, &problem["line"], &problem["column"]), (400, &json!(2), &json!(15)), "{problem}");
    assert_eq!(refused("application/json", Vec::new()).await.0, 400);
    assert_eq!(refused("application/json", b"{\"a\":\"\xff\"}".to_vec()).await.0, 400);
    assert_eq!(refused("application/json", vec![b' '; 20 << 20]).await.0, 413);
    assert_eq!(refused("text/csv", b"a,b".to_vec()).await.0, 415);
    let many = format!("[{}]", vec!["{}"; 10_001].join(","));
    assert_eq!(refused("application/json", many.into_bytes()).await.0, 413);
}

#[tokio::test]
async fn one_byte_order_mark_is_skipped_in_any_form() {
    let gateway = Gateway::start().await;
    let (one, many) = (pageview().to_string(), json!([pageview(), pageview()]).to_string());
    let lines = format!("{one}\n{one}\n");
    for (kind, body, status) in
        [("application/json", &one, 201), ("application/json", &many, 200), ("application/x-ndjson", &lines, 200)]
    {
        let marked = format!("\u{feff}{body}").into_bytes();
        assert_eq!(gateway.post("/v1/events", kind, marked.clone()).await.status, status, "{kind}");
        let packed = zstd::encode_all(&marked[..], 3).expect("memory takes it");
        let request =
            gateway.request("POST", "/post/create").header("content-type", kind).header("content-encoding", "zstd");
        assert_eq!(gateway.answer(request.body(packed)).await.status, status, "{kind}");
    }
    let twice = gateway.post("/v1/events", "application/json", format!("\u{feff}\u{feff}{one}")).await;
    assert_eq!((twice.status, &twice.json()["column"]), (400, &json!(1)), "{twice:?}");
    assert_eq!(gateway.sql("select count(*) from events"), "10");
}

#[tokio::test]
async fn a_request_without_events_is_answered_alike_and_costs_one() {
    let gateway = Gateway::start().await;
    let application = json!({"name": "empty", "events_per_second": 1, "burst_events": 40}).to_string();
    let token = gateway.post("/v1/applications", "application/json", application).await.json();
    let token = token["token"].as_str().expect("a token").to_owned();
    let send = async |kind: &str, body: String| {
        let request = gateway.request("POST", "/v1/events").header("content-type", kind).bearer_auth(&token);
        gateway.answer(request.body(body)).await
    };
    let none = json!({"stored": 0, "duplicate": 0, "rejected": 0, "quarantined": 0, "unfinished": 0, "results": []});
    for (kind, body) in [
        ("application/json", "[]".to_owned()),
        ("application/json", format!("[{}]", " ".repeat(1 << 20))),
        ("application/x-ndjson", String::new()),
        ("application/x-ndjson", "\n".repeat(1 << 20)),
        ("application/x-ndjson", "\u{feff} \r\n".to_owned()),
    ] {
        let answer = send(kind, body).await;
        assert_eq!((answer.status, answer.json()), (200, none.clone()), "{kind}");
    }
    let flood = eventually("a flood of nothing is refused", async || {
        let answer = send("application/json", format!("[{}]", " ".repeat(1_000))).await;
        (answer.status != 200).then_some(answer)
    })
    .await;
    assert_eq!((flood.status, &flood.json()["code"]), (429, &json!("rate_limited")));
}

#[tokio::test]
async fn an_application_makes_so_many_event_types_and_no_more() {
    let mut gateway =
        Setup::default().with("EYE_EVENT_TYPES_MAX", 3).with_module("guests/rejects.wasm", "rejects").start().await;
    gateway.validator("guests/rejects", "active").await;
    let kind = |name: &str| event("kinds", name, json!({}));
    assert_eq!(gateway.send(&json!([kind("a"), kind("b"), kind("a")])).await.status, 200);
    assert_eq!(gateway.send(&event("guests", "rejects", json!({}))).await.status, 422, "a refused one counts as well");
    let over = gateway.send(&kind("c")).await;
    assert_eq!((over.status, &over.json()["code"]), (422, &json!("envelope")), "{over:?}");
    assert_eq!(over.violations(), pairs(&[("/name", "too_many_event_types")]));
    let mixed = gateway.send(&json!([kind("a"), kind("d"), {"category": "kinds", "name": "e"}, kind("b")])).await;
    let mixed = mixed.json();
    assert_eq!((&mixed["stored"], &mixed["rejected"]), (&json!(2), &json!(2)), "known ones go on: {mixed}");
    // Other applications have types of their own.
    let other = gateway.post("/v1/applications", "application/json", json!({"name": "other"}).to_string()).await.json();
    let request = gateway.request("POST", "/v1/events").header("content-type", "application/json");
    let request = request.bearer_auth(other["token"].as_str().expect("a token")).body(kind("f").to_string());
    assert_eq!(gateway.answer(request).await.status, 201);
    // An event beyond the bound leaves no row, and a restart changes nothing.
    let rows = "select string_agg(category || '/' || name, ' ' order by name) from event_types";
    eventually("all that was counted is folded", async || {
        let open = "select (select count(*) from count_deltas) + (select 6 - sum(count) from counts where bucket = 'ever' and outcome = 'stored')";
        (gateway.sql(open) == "0").then_some(())
    })
    .await;
    assert_eq!(gateway.sql(rows), "kinds/a kinds/b kinds/f guests/rejects");
    gateway.signal("TERM");
    gateway.ended().await;
    gateway.restart().await;
    gateway.validator("guests/rejects", "active").await;
    assert_eq!(gateway.send(&kind("c")).await.status, 422);
    assert_eq!(gateway.send(&json!([kind("a"), kind("b")])).await.status, 200);
    eventually("each refused event is kept", async || {
        (gateway.sql("select count(*) from dead_letters where code = 'envelope'") == "4").then_some(())
    })
    .await;
    let again = json!({"filter": {"code": "envelope"}, "dry_run": false}).to_string();
    let again = gateway.post("/v1/dead-letters/redrive", "application/json", again).await.json();
    assert_eq!(
        (&again["stored"], &again["rejected"]),
        (&json!(0), &json!(4)),
        "judging again is no way around it: {again}"
    );
    assert_eq!(again.to_string().matches("too_many_event_types").count(), 3, "{again}");
    assert_eq!(gateway.sql(rows), "kinds/a kinds/b kinds/f guests/rejects");
}

#[tokio::test]
async fn an_empty_value_chooses_nothing_on_any_path() {
    let gateway = Gateway::start().await;
    assert_eq!(gateway.send(&pageview()).await.status, 201);
    let session = format!("/v1/sessions/{SESSION}");
    for (path, parameters) in [
        (
            "/v1/events",
            &["from", "to", "category", "name", "session_id", "application", "order", "limit", "cursor"][..],
        ),
        (&session, &["from", "to", "category", "name", "application", "order", "limit", "cursor"]),
        ("/v1/sessions", &["from", "to", "limit", "cursor"]),
        ("/v1/categories", &["limit", "cursor"]),
        ("/v1/categories/page%20interaction", &["from", "to", "name", "session_id", "application", "limit", "cursor"]),
        ("/v1/stats", &["from", "to", "bucket", "application", "category", "name", "outcome", "limit", "cursor"]),
        ("/v1/dead-letters", &["reason", "code", "application", "category", "name", "from", "to", "limit", "cursor"]),
        ("/v1/live", &["outcome", "application", "category", "name"]),
    ] {
        for parameter in parameters {
            for query in [format!("{parameter}="), (*parameter).to_owned(), format!("{parameter}=&{parameter}=x")] {
                let answer = gateway.get(&format!("{path}?{query}")).await;
                assert_eq!((answer.status, &answer.json()["parameter"]), (400, &json!(parameter)), "{path}?{query}");
            }
        }
    }
}

#[tokio::test]
async fn wrong_methods_and_paths_are_told_apart() {
    let gateway = Gateway::start().await;
    let wrong = gateway.get("/post/create").await;
    assert_eq!((wrong.status, wrong.headers["allow"].to_str().ok()), (405, Some("POST")));
    let unknown = gateway.get("/v1/nothing").await;
    assert_eq!(
        (unknown.status, unknown.headers["content-type"].to_str().ok()),
        (404, Some("application/problem+json"))
    );
    let parameter = gateway.get(&format!("/v1/sessions/{SESSION}?limit=0")).await;
    assert_eq!((parameter.status, parameter.text.contains("limit")), (400, true));
    assert_eq!(gateway.get("/v1/sessions/nobody").await.status, 400);
    assert_eq!(gateway.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn a_batch_tells_the_outcome_of_each_and_stores_the_good() {
    let gateway = with_validators().await;
    let mut known = pageview();
    known["id"] = json!("0198c5a4-6f3e-7c1d-9b52-3f0e8a7d6c15");
    let bad = event("page interaction", "pageview", json!({}));
    let batch = json!([pageview(), known, known, bad, 7, pageview()]);
    let answer = gateway.send(&batch).await;
    assert_eq!(answer.status, 207, "{answer:?}");
    let body = answer.json();
    let counts = ["stored", "duplicate", "rejected", "quarantined", "unfinished"].map(|outcome| &body[outcome]);
    assert_eq!(counts, [3, 1, 2, 0, 0]);
    let index: Vec<_> = body["results"]
        .as_array()
        .expect("results")
        .iter()
        .map(|one| (one["index"].as_u64(), one["outcome"].as_str()))
        .collect();
    assert_eq!(index, [(Some(2), Some("duplicate")), (Some(3), Some("rejected")), (Some(4), Some("rejected"))]);
    assert_eq!(gateway.session(SESSION).await.len(), 3);

    let lines = format!("{}\n{{oops\n\n{}\n", pageview(), pageview());
    let answer = gateway.post("/v1/events", "application/x-ndjson", lines).await;
    assert_eq!((answer.status, &answer.json()["stored"], &answer.json()["rejected"]), (207, &json!(2), &json!(1)));
    let answer = gateway.send(&json!([pageview(), pageview()])).await;
    assert_eq!((answer.status, answer.json()["results"].as_array().map(Vec::len)), (200, Some(0)));
}

#[tokio::test]
async fn compressed_bodies_are_read_and_bombs_are_not() {
    let gateway = Gateway::start().await;
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("memory takes it")
    };
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 19).expect("memory takes it");
    let batch = json!([pageview(), pageview()]).to_string().into_bytes();
    let bomb = vec![b' '; 64 << 20];
    let send = async |encoding: &str, body: Vec<u8>| {
        let request = gateway.request("POST", "/v1/events").header("content-type", "application/json");
        gateway.answer(request.header("content-encoding", encoding).body(body)).await.status
    };
    assert_eq!(send("gzip", gzip(&batch)).await, 200);
    assert_eq!(send("zstd", zstd(&batch)).await, 200);
    assert_eq!(send("gzip", gzip(&bomb)).await, 413);
    assert_eq!(send("zstd", zstd(&bomb)).await, 413);
    assert_eq!(send("gzip", batch).await, 400, "not what the header says");
    assert_eq!(gateway.session(SESSION).await.len(), 4);
}

#[tokio::test]
async fn a_session_is_read_page_by_page_in_the_order_of_its_events() {
    let gateway = Gateway::start().await;
    let at = |second: usize, number: usize| {
        let mut event = event("a", "b", json!({"number": number}));
        event["timestamp"] = json!(format!("2021-01-01T00:00:{second:02}Z"));
        event
    };
    // Two events share each second. Events of the same second keep the order of arrival.
    let batch: Vec<_> = (0..20).map(|number| at(9 - number / 2, number)).collect();
    assert_eq!(gateway.send(&json!(batch)).await.status, 200);
    let mut numbers = Vec::new();
    let mut path = format!("/v1/sessions/{SESSION}?limit=7");
    loop {
        let page = gateway.get(&path).await.json();
        numbers.extend(
            page["events"]
                .as_array()
                .expect("events")
                .iter()
                .map(|event| event["data"]["number"].as_u64().expect("a number")),
        );
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/v1/sessions/{SESSION}?limit=7&cursor={next}");
    }
    let expected: Vec<u64> = (0..10).rev().flat_map(|second| [second * 2, second * 2 + 1]).collect();
    assert_eq!(numbers, expected);
}

/// An array of events that each break the gateway's rules a hundred times, at long pointers.
fn breaking_much(count: usize) -> String {
    let data = json!({"x".repeat(200): vec!["\0"; 100]});
    Value::Array(vec![event("page", "view", data); count]).to_string()
}

#[tokio::test]
async fn an_answer_to_many_has_a_bound_for_violations_and_says_what_it_leaves_out() {
    const EVENTS: usize = 200;
    let gateway = Setup::default().with("EYE_ANSWER_VIOLATIONS_BYTES_MAX", 500_000).start().await;
    let answer = gateway.post("/v1/events", "application/json", breaking_much(EVENTS)).await;
    assert_eq!((answer.status, &answer.json()["rejected"]), (207, &json!(EVENTS)), "{}", answer.text.len());
    assert!((400_000..700_000).contains(&answer.text.len()), "{} bytes", answer.text.len());
    let results = answer.json()["results"].as_array().expect("results").clone();
    let told = |line: &Value| line["violations"].as_array().expect("a list").len();
    let whole = results.iter().take_while(|line| told(line) == 100).count();
    assert!((5..50).contains(&whole), "{whole} are told");
    for (index, line) in results.iter().enumerate() {
        assert_eq!((&line["index"], &line["outcome"]), (&json!(index), &json!("rejected")));
        let omitted = if index < whole { Value::Null } else { json!(100) };
        assert_eq!(
            (told(line), &line["violations_omitted"]),
            (if index < whole { 100 } else { 0 }, &omitted),
            "{index}"
        );
    }
    eventually("every dead letter has its violations", async || {
        let kept = "select count(*) from dead_letters where jsonb_array_length(violations) = 100";
        (gateway.sql(kept) == EVENTS.to_string()).then_some(())
    })
    .await;
    let one = breaking_much(1).trim_matches(['[', ']']).to_owned();
    let none = Setup::default().with("EYE_ANSWER_VIOLATIONS_BYTES_MAX", 0).start().await;
    let single = none.post("/v1/events", "application/json", one).await;
    assert_eq!((single.status, single.violations().len()), (422, 100), "the answer to a single event has all");
}

#[tokio::test]
async fn dead_letters_of_one_request_find_room_or_are_counted() {
    const EVENTS: usize = 200;
    let gateway = Setup::default().with("EYE_DEAD_LETTER_QUEUE_BYTES_MAX", 2 << 20).start().await;
    assert_eq!(gateway.post("/v1/events", "application/json", breaking_much(EVENTS)).await.status, 207);
    let (kept, dropped) = eventually("each is kept or counted", async || {
        let kept: usize = gateway.sql("select count(*) from dead_letters").parse().expect("a number");
        let dropped = gateway.figures().await.value("eye_dead_letters_dropped_total", &[])?;
        (kept + dropped as usize == EVENTS).then_some((kept, dropped))
    })
    .await;
    assert!((20..150).contains(&kept), "{kept} were kept, {dropped} were not");
}

#[tokio::test]
async fn every_answer_names_its_request_and_a_problem_says_what_may_be_done_again() {
    let gateway = Gateway::start().await;
    let mut names = std::collections::HashSet::new();
    for (method, path, body, status, retry) in [
        ("POST", "/v1/events", "{}", 422, "never"),
        ("POST", "/v1/events", "{", 400, "never"),
        ("POST", "/v1/events?x=1", "{}", 400, "never"),
        ("GET", "/v1/nothing", "", 404, "never"),
        ("PUT", "/v1/events", "", 405, "never"),
        ("GET", "/v1/events?limit=", "", 400, "never"),
        ("GET", "/healthz", "", 200, ""),
        ("GET", "/v1/events", "", 200, ""),
    ] {
        let request = gateway.request(method, path).header("content-type", "application/json");
        let request = request.header("x-request-id", "the-caller.7").body(body);
        let answer = gateway.answer(request).await;
        let name = answer.headers["x-request-id"].to_str().expect("text").to_owned();
        assert!(name.len() <= 64 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'), "{name}");
        assert_eq!(answer.status, status, "{path}: {answer:?}");
        assert_eq!(answer.headers["x-caller-request-id"], "the-caller.7", "{path}");
        if !retry.is_empty() {
            let problem = answer.json();
            assert_eq!((&problem["request_id"], &problem["retry"]), (&json!(name), &json!(retry)), "{path}");
            let code = problem["code"].as_str().expect("a code");
            assert_eq!(problem["type"], format!("/problems/{code}"));
        }
        assert!(names.insert(name), "no two are named alike");
    }
    let told = gateway.answer(gateway.request("GET", "/healthz").header("x-request-id", "no name;")).await;
    assert!(
        !told.headers.contains_key("x-caller-request-id")
            && names.insert(told.headers["x-request-id"].to_str().expect("text").to_owned())
    );
}
