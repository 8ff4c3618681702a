//! Replays: a module that serves nothing judges the events of the past, and nothing changes by it.

use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::support::cluster::Server;
use crate::support::{Answer, Gateway, SESSION, Setup, digest_of, event, eventually, module};

/// A range that has all events of these tests.
const ALL: &str = "from=2020-01-01T00:00:00Z";

/// A schema of `data` whose member `n` must meet these keywords. What its `note` says is taken out.
fn schema(keywords: Value) -> Vec<u8> {
    let mut number = keywords;
    number["type"] = json!("integer");
    let note = json!({"type": "string", "writeOnly": true});
    json!({"type": "object", "properties": {"n": number, "note": note}}).to_string().into_bytes()
}

/// A schema of `data` that takes nothing out.
fn plain(keywords: Value) -> Vec<u8> {
    json!({"type": "object", "properties": {"n": keywords}}).to_string().into_bytes()
}

/// A request with a token; an empty one is for a caller that is known by its network.
fn bearing(gateway: &Gateway, method: &str, path: &str, token: &str) -> reqwest::RequestBuilder {
    let request = gateway.request(method, path);
    if token.is_empty() { request } else { request.bearer_auth(token) }
}

async fn ask_as(gateway: &Gateway, token: &str, query: &str, content: &[u8]) -> Answer {
    let is_schema = content.starts_with(b"{");
    let content_type = match is_schema {
        true if content.starts_with(b"{\"digest\"") => "application/json",
        true => "application/schema+json",
        false => "application/wasm",
    };
    let request = bearing(gateway, "POST", &format!("/v1/jobs?kind=replay&{query}"), token);
    gateway.answer(request.header("content-type", content_type).body(content.to_vec())).await
}

fn admin(gateway: &Gateway) -> String {
    gateway.admin_token().expect("it made one")
}

async fn shown(gateway: &Gateway, token: &str, id: &str) -> Answer {
    gateway.answer(bearing(gateway, "GET", &format!("/v1/jobs/{id}"), token)).await
}

/// Waits until the job has ended in this state.
async fn ended(gateway: &Gateway, token: &str, id: &str, state: &str) -> Value {
    eventually(&format!("the replay is {state}"), async || {
        let job = shown(gateway, token, id).await.json();
        let is_over = !job["ended_at"].is_null();
        assert!(!is_over || job["state"] == state, "{job}");
        is_over.then_some(job)
    })
    .await
}

/// Replays as an administrator, and returns the result.
async fn replayed(gateway: &Gateway, query: &str, content: &[u8]) -> Value {
    let token = admin(gateway);
    let asked = ask_as(gateway, &token, query, content).await;
    assert_eq!(asked.status, 202, "{asked:?}");
    let job = ended(gateway, &token, &id_of(&asked.json()), "done").await;
    let progress = &job["progress"];
    let count = |word: &str| progress[word].as_u64().expect("a count");
    let sum: u64 = ["stored", "duplicate", "rejected", "quarantined", "skipped"].into_iter().map(count).sum();
    assert_eq!(sum, count("done"), "{job}");
    let result = job["result"].clone();
    let looked = result["events"].as_u64().expect("a count") + result["letters"].as_u64().expect("a count");
    assert_eq!(looked, count("done"), "{job}");
    assert_eq!(gateway_modules(gateway), 0, "nothing is kept of the module: {job}");
    result
}

/// How many jobs still have a module.
fn gateway_modules(gateway: &Gateway) -> usize {
    match gateway.data_dir().join("postgres").exists() {
        true => gateway.sql("select count(module) from jobs").parse().expect("a number"),
        false => 0,
    }
}

fn id_of(job: &Value) -> String {
    job["id"].as_str().unwrap_or_else(|| panic!("no job: {job}")).to_owned()
}

/// The cells of a table as `old new count`.
fn cells(rows: &Value) -> Vec<String> {
    let cell = |row: &Value| {
        format!("{} {} {}", row["old"].as_str().expect("text"), row["new"].as_str().expect("text"), row["count"])
    };
    rows.as_array().expect("rows").iter().map(cell).collect()
}

/// The groups of changes as `old new pointer code application count`.
fn changes(result: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let group = |one: &Value| {
        let words = ["old", "new", "pointer", "code", "application"].map(|key| text(&one[key]));
        format!("{} {}", words.join(" "), one["count"])
    };
    let mut groups: Vec<String> = result["changes"].as_array().expect("changes").iter().map(group).collect();
    groups.sort();
    groups
}

async fn send(gateway: &Gateway, data: Value) -> Answer {
    gateway.send(&event("shop", "sale", data)).await
}

async fn letters(gateway: &Gateway, count: usize) {
    let is_there = async || (gateway.sql("select count(*) from dead_letters") == count.to_string()).then_some(());
    eventually("the letters are kept", is_there).await;
}

async fn serves(gateway: &Gateway, event_type: &str, digest: &str) {
    eventually("the module serves", async || {
        let report = gateway.get("/v1/validators").await.json();
        let list = report["validators"].as_array()?.clone();
        list.into_iter().find(|one| one["event_type"] == event_type && one["digest"] == digest).map(drop)
    })
    .await;
}

/// The text of all events and dead letters.
const EVERYTHING: &str = "select md5(string_agg(row::text, ' ' order by row::text)) \
     from (select events::text as row from events union all select dead_letters::text from dead_letters) all_rows";

/// A gateway with stored, refused and quarantined events of `shop/sale`, and one whose envelope is broken.
async fn house() -> Gateway {
    let gateway = Gateway::start().await;
    for data in [
        json!({"n": 1}),
        json!({"n": 2}),
        json!({"n": 3}),
        json!({"n": 4}),
        json!({"n": 5, "note": "hello"}),
        json!({"n": 6, "misbehave": true}),
    ] {
        assert_eq!(send(&gateway, data).await.status, 201);
    }
    let first = plain(json!({"maximum": 6}));
    gateway.drop_module("shop/sale.schema.json", &first);
    serves(&gateway, "shop/sale", &digest_of(&first)).await;
    for number in [7, 8] {
        assert_eq!(send(&gateway, json!({"n": number})).await.violations()[0].1, "maximum");
    }
    let traps = module("traps");
    gateway.remove_module("shop/sale.schema.json");
    gateway.drop_module("shop/sale.wasm", &traps);
    serves(&gateway, "shop/sale", &digest_of(&traps)).await;
    assert_eq!(send(&gateway, json!({"n": 2, "misbehave": true})).await.status, 202);
    let mut broken = event("shop", "sale", json!({"n": 3}));
    broken["surplus"] = json!(1);
    assert_eq!(gateway.send(&broken).await.status, 422);
    letters(&gateway, 4).await;
    gateway
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_outcome_of_the_past_is_compared_with_that_of_the_module_and_nothing_changes() {
    let gateway = house().await;
    let before = gateway.sql(EVERYTHING);
    let query = format!("type=shop/sale&{ALL}");

    let result = replayed(&gateway, &query, &schema(json!({"minimum": 3, "maximum": 7}))).await;
    assert_eq!(
        cells(&result["rows"]),
        [
            "stored stored 3",
            "stored amended 1",
            "stored refused 2",
            "refused stored 1",
            "refused refused 1",
            "quarantined refused 1"
        ],
        "{result}"
    );
    assert_eq!((&result["not_compared"], &result["unsure"]), (&json!({"envelope": 1}), &json!(0)), "{result}");
    assert_eq!((&result["events"], &result["letters"], &result["sampled"]), (&json!(6), &json!(4), &Value::Null));
    assert_eq!(
        changes(&result),
        [
            "quarantined refused /n minimum local 1",
            "refused stored /n maximum local 1",
            "stored amended /note amended local 1",
            "stored refused /n minimum local 2"
        ],
        "{result}"
    );
    let groups = result["changes"].as_array().expect("groups").clone();
    let example = |old: &str, new: &str| {
        let group = groups.iter().find(|group| group["old"] == old && group["new"] == new).expect("the group");
        assert!(group["first"].as_str() <= group["last"].as_str(), "{group}");
        group["examples"][0].clone()
    };
    let stored = example("stored", "refused");
    let path = format!("/v1/sessions/{SESSION}/events/{}", stored["event_id"].as_str().expect("an id"));
    assert_eq!(
        (gateway.get(&path).await.json()["data"]["n"].as_i64() < Some(3), &stored["dead_letter_id"]),
        (true, &Value::Null)
    );
    let letter = example("refused", "stored")["dead_letter_id"].as_str().expect("an id").to_owned();
    assert_eq!(gateway.get(&format!("/v1/dead-letters/{letter}")).await.json()["code"], "rule");
    let amendment = &result["amendments"][0];
    assert_eq!(
        (&amendment["changes"], &amendment["application"]),
        (&json!([{"pointer": "/note", "old": "hello", "new": "[redacted]"}]), &json!("local")),
        "{result}"
    );
    assert!(!groups.iter().any(|group| group.to_string().contains("hello")), "values are in amendments alone");

    let result = replayed(&gateway, &query, &module("traps")).await;
    assert_eq!(
        cells(&result["rows"]),
        ["stored stored 5", "stored faulted 1", "refused stored 2", "quarantined faulted 1"],
        "{result}"
    );
    assert_eq!(changes(&result), ["refused stored /n maximum local 2", "stored faulted  trap local 1"], "{result}");
    assert_eq!(gateway.sql(EVERYTHING), before, "no row of an event or a letter changes");

    // A version that served is named by its digest, and so is a candidate.
    by_the_digest_of_a_candidate(&gateway, &query).await;
    let named = json!({"digest": digest_of(&plain(json!({"maximum": 6})))}).to_string();
    let result = replayed(&gateway, &query, named.as_bytes()).await;
    assert_eq!(cells(&result["rows"]), ["stored stored 6", "refused refused 2", "quarantined stored 1"], "{result}");
    noted(&gateway, &result).await;
}

async fn by_the_digest_of_a_candidate(gateway: &Gateway, query: &str) {
    let candidate = plain(json!({"maximum": 2}));
    gateway.drop_module(".candidates/shop/sale.schema.json", &candidate);
    let named = json!({"digest": digest_of(&candidate)}).to_string();
    let is_kept = async || {
        let asked = ask_as(gateway, &admin(gateway), query, named.as_bytes()).await;
        (asked.status == 202).then(|| id_of(&asked.json()))
    };
    let job = eventually("the candidate is kept", is_kept).await;
    let job = ended(gateway, &admin(gateway), &job, "done").await;
    assert_eq!(cells(&job["result"]["rows"])[1], "stored refused 4", "{job}");
}

/// Four replays are in the list, the audit trail and the metrics; the last one found `result`.
async fn noted(gateway: &Gateway, result: &Value) {
    let list = gateway.get("/v1/jobs?kind=replay").await.json();
    let listed = &list["jobs"][0]["result"];
    assert_eq!(
        (&listed["rows"], listed.get("changes"), listed.get("amendments")),
        (&result["rows"], None, None),
        "{list}"
    );
    let entries =
        gateway.sql("select distinct action || ' ' || subject from audit where action like 'job_%' order by 1");
    assert_eq!(entries, "job_ask replay\njob_end replay");
    let figures = gateway.figures().await;
    assert_eq!(figures.value("eye_jobs_ended_total", &[("kind", "replay"), ("state", "done")]), Some(4.0));
}

/// A statement that inserts a letter of `shop/sale` with this data.
fn letter(code: &str, data: &Value, columns: &str) -> String {
    let raw = event("shop", "sale", data.clone()).to_string();
    let reason = if ["rule", "not_allowed"].contains(&code) { "rejected" } else { "quarantined" };
    format!(
        "insert into dead_letters (received_at, id, reason, code, detail, violations, application_id, event_id, session_id, \
             category, name, raw, raw_bytes) values (now() - interval '1 hour', gen_random_uuid(), '{reason}', '{code}', '', '[]', \
             (select min(id) from applications), gen_random_uuid(), '{SESSION}', 'shop', 'sale', convert_to('{raw}', 'UTF8'), \
             octet_length('{raw}')); update dead_letters set {columns} where id = (select id from dead_letters order by xmin::text::bigint desc limit 1)"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_compared_is_said_with_its_reason() {
    let setup = Setup::default().with("EYE_REJUDGE_EVENTS_PER_SECOND_MAX", 0).with_module("shop/sale.wasm", "redacts");
    // So that the gateway does not rewrite the letters of this test.
    let settings = ("shop/sale.toml".to_owned(), b"keep_raw = true".to_vec());
    let modules = setup.modules.iter().cloned().chain([settings]).collect();
    let gateway = Setup { modules, ..setup }.start().await;
    gateway.validator("shop/sale", "active").await;
    for secret in ["hush", "mum"] {
        assert_eq!(send(&gateway, json!({"do": "accept", "secret": secret})).await.status, 201);
    }
    // As if one of them had been judged by a module of long ago.
    gateway.sql(
        "with old as (insert into modules (digest) values (decode(repeat('0f', 32), 'hex')) returning id) \
         update events set module_id = old.id from old where events.id = (select max(id::text)::uuid from events)",
    );
    let (good, bad) = (json!({"n": 1}), json!({"n": 9}));
    let letters = [
        letter("rule", &good, "kept = 'redacted'"),
        letter("rule", &bad, "kept = 'redacted'"),
        letter("rule", &good, "kept = 'nothing', raw = ''"),
        letter("trap", &good, "raw = substring(raw for 20)"),
        letter("off_path", &good, "detail = 'unseen'"),
        letter("not_allowed", &good, "detail = 'no right'"),
        letter("unstorable", &good, "detail = 'a constraint'"),
        letter("trap", &good, "redriven_at = now(), redriven_as = 'stored'"),
    ];
    letters.iter().for_each(|statement| drop(gateway.sql(statement)));
    let result = replayed(&gateway, &format!("type=shop/sale&{ALL}"), &plain(json!({"maximum": 5}))).await;
    assert_eq!(
        result["not_compared"],
        json!({"amended": 1, "not_allowed": 1, "not_kept": 1, "cut": 1, "unstorable": 1}),
        "{result}"
    );
    assert_eq!(cells(&result["rows"]), ["stored stored 1", "quarantined stored 1"], "{result}");
    assert_eq!(cells(&result["redacted"]), ["refused stored 1", "refused refused 1"], "{result}");
    assert_eq!(
        (&result["unsure"], &result["events"], &result["letters"]),
        (&json!(1), &json!(2), &json!(7)),
        "{result}"
    );
}

/// Statements that insert so many stored events, and a tenth of that of refused ones.
fn many(count: u32) -> String {
    format!(
        "insert into event_types (category, name) values ('shop', 'sale') on conflict do nothing; \
         insert into events (session_id, timestamp, id, received_at, event_type_id, application_id, data) \
         select md5('session' || n % 100)::uuid, '2026-01-01T00:00:00Z'::timestamptz + n * interval '1 second', \
             md5(n::text)::uuid, '2026-01-01T00:00:00Z'::timestamptz + n * interval '1 second', \
             (select id from event_types where category = 'shop' and name = 'sale'), (select min(id) from applications), \
             jsonb_build_object('n', n % 10, 'note', 'x' || n) \
         from generate_series(1, {count}) n; \
         insert into dead_letters (received_at, id, reason, code, detail, violations, application_id, event_id, session_id, \
             category, name, raw, raw_bytes) \
         select '2026-01-02T00:00:00Z'::timestamptz + n * interval '1 second', md5('letter' || n)::uuid, 'rejected', 'rule', '', \
             '[{{\"pointer\":\"/n\",\"code\":\"old\",\"message\":\"\"}}]', (select min(id) from applications), \
             md5('event' || n)::uuid, '{SESSION}', 'shop', 'sale', convert_to(text, 'UTF8'), octet_length(text) \
         from generate_series(1, {count} / 10) n cross join lateral (select json_build_object('session_id', '{SESSION}', \
             'category', 'shop', 'name', 'sale', 'timestamp', '2021-01-01T00:00:00Z', 'data', json_build_object('n', n % 10))::text \
             as text) raw"
    )
}

/// The result without the times that it took.
fn timeless(mut result: Value) -> Value {
    for member in ["elapsed_ms", "processor_ms"] {
        assert!(result[member].as_u64().is_some(), "{result}");
        result[member] = Value::Null;
    }
    result
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_gateway_goes_on_with_a_replay_and_finds_the_same() {
    let server = Server::start();
    server.prepare();
    server.sql(&many(20_000));
    let mut gateway = Setup::default().with("EYE_DATABASE_URL", server.url()).start().await;
    let token = String::new();
    let replay = async |gateway: &Gateway| {
        let query = format!("type=shop/sale&{ALL}");
        let asked = ask_as(gateway, &token, &query, &schema(json!({"maximum": 4}))).await;
        assert_eq!(asked.status, 202, "{asked:?}");
        id_of(&asked.json())
    };
    let whole = replay(&gateway).await;
    let whole = ended(&gateway, &token, &whole, "done").await;
    assert_eq!(
        cells(&whole["result"]["rows"]),
        ["stored amended 10000", "stored refused 10000", "refused stored 1000", "refused refused 1000"],
        "{whole}"
    );
    assert_eq!((&whole["progress"]["total"], &whole["progress"]["done"]), (&json!(22_000), &json!(22_000)));

    let broken = replay(&gateway).await;
    eventually("it has begun", async || {
        let done = shown(&gateway, &token, &broken).await.json()["progress"]["done"].as_u64();
        (done > Some(0)).then_some(())
    })
    .await;
    gateway.signal("KILL");
    gateway.ended().await;
    assert_eq!(server.sql("select state, octet_length(module) > 0 from jobs where ended_at is null"), "running|t");
    // Nobody waits for the lease of the one that is gone.
    server.sql("update duties set until = now() - interval '1 second'");
    gateway.restart().await;
    let broken = ended(&gateway, &token, &broken, "done").await;
    assert_eq!(server.sql("select max(run) from jobs"), "2");
    assert_eq!(timeless(broken["result"].clone()), timeless(whole["result"].clone()));
    assert_eq!(broken["progress"], whole["progress"]);
    assert_eq!(server.sql("select count(module) from jobs"), "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sample_is_spread_and_the_same_each_time() {
    let gateway = Gateway::start().await;
    gateway.sql(&many(10_000));
    let query = format!("type=shop/sale&{ALL}&sample=1100");
    let first = replayed(&gateway, &query, &plain(json!({"maximum": 4}))).await;
    assert_eq!(first["sampled"], json!({"wanted": 1_100, "events": 10_000, "letters": 1_000}), "{first}");
    let events = first["events"].as_u64().expect("a count");
    let letters = first["letters"].as_u64().expect("a count");
    assert!((850..1_150).contains(&events) && (60..140).contains(&letters), "{first}");
    let again = replayed(&gateway, &query, &plain(json!({"maximum": 4}))).await;
    assert_eq!(timeless(again), timeless(first));
    let all = replayed(&gateway, &format!("type=shop/sale&{ALL}&sample=20000"), &plain(json!({}))).await;
    assert_eq!((&all["events"], &all["letters"]), (&json!(10_000), &json!(1_000)), "more than there are is all");
    let some = "type=shop/sale&from=2026-01-01T00:00:01Z&to=2026-01-01T00:00:11Z";
    let some = replayed(&gateway, some, &plain(json!({}))).await;
    assert_eq!((&some["events"], &some["letters"]), (&json!(10), &json!(0)), "{some}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wildcard_takes_the_events_that_no_other_module_judges() {
    let gateway = Setup::default().with_module("shop/own.wasm", "accepts").start().await;
    gateway.validator("shop/own", "active").await;
    for (category, name) in [("shop", "sale"), ("shop", "return"), ("shop", "own"), ("page", "view")] {
        assert_eq!(gateway.send(&event(category, name, json!({"n": 1}))).await.status, 201);
    }
    for (event_type, wanted) in [("shop/*", 2), ("*", 3), ("shop/own", 1), ("shop/nothing", 0)] {
        let result = replayed(&gateway, &format!("type={event_type}&{ALL}"), &module("rejects")).await;
        let expected: Vec<String> = (wanted > 0).then(|| format!("stored refused {wanted}")).into_iter().collect();
        assert_eq!((cells(&result["rows"]), &result["events"]), (expected, &json!(wanted)), "{event_type}: {result}");
    }
}

/// Adds an application by the command, and returns its token once the gateway knows it.
async fn add(gateway: &Gateway, arguments: &[&str]) -> String {
    let output = gateway.command_beside(&[&["app", "add", "--token"], arguments].concat());
    let output = { output }.args(["--data-dir", "data"]).output().expect("the built program");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let token = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let asks = || gateway.answer(gateway.request("GET", "/openapi.json").bearer_auth(&token));
    eventually("the token is known", async || (asks().await.status != 401).then_some(())).await;
    token
}

fn code(answer: &Answer) -> (u16, String) {
    (answer.status, answer.json()["code"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_ships_an_event_type_may_replay_it_and_no_other() {
    let gateway = Gateway::start().await;
    let admin = admin(&gateway);
    let shipper = add(&gateway, &["shipper", "--scope", "ship", "--ship-event-type", "shop/*"]).await;
    let reader = add(&gateway, &["reader", "--scope", "read"]).await;
    for (category, name) in [("shop", "sale"), ("page", "view")] {
        assert_eq!(gateway.send(&event(category, name, json!({"note": "mine"}))).await.status, 201);
    }
    let candidate = schema(json!({}));
    let ask = async |token: &str, event_type: &str| {
        ask_as(&gateway, token, &format!("type={event_type}&{ALL}"), &candidate).await
    };
    let refused = ask(&reader, "shop/sale").await;
    assert_eq!((code(&refused), &refused.json()["scope"]), ((403, "not_allowed".to_owned()), &json!("ship")));
    for event_type in ["page/view", "page/*", "*"] {
        let refused = ask(&shipper, event_type).await;
        assert_eq!((code(&refused), &refused.json()["scope"]), ((403, "not_allowed".to_owned()), &json!("ship")));
    }
    let own = ask(&shipper, "shop/sale").await;
    assert_eq!(own.status, 202, "{own:?}");
    let own = ended(&gateway, &shipper, &id_of(&own.json()), "done").await;
    assert_eq!(own["result"]["amendments"][0]["changes"][0]["old"], "mine", "{own}");
    assert_eq!(own["requested_by"]["name"], "shipper");
    let others = ask(&admin, "page/view").await;
    let others = id_of(&ended(&gateway, &admin, &id_of(&others.json()), "done").await);
    let cancel = async |token: &str, id: &str| {
        gateway.answer(gateway.request("DELETE", &format!("/v1/jobs/{id}")).bearer_auth(token)).await
    };
    assert_eq!(code(&shown(&gateway, &shipper, &others).await), (404, "not_found".to_owned()));
    assert_eq!(code(&cancel(&shipper, &others).await), (404, "not_found".to_owned()));
    assert_eq!(cancel(&shipper, &id_of(&own)).await.status, 200);
    for id in [&others, &id_of(&own)] {
        assert_eq!(code(&shown(&gateway, &reader, id).await), (403, "not_allowed".to_owned()));
    }
    let list = gateway.answer(gateway.request("GET", "/v1/jobs").bearer_auth(&shipper)).await;
    assert_eq!(code(&list), (403, "not_allowed".to_owned()), "the list is for administrators");
    let redrive = gateway.request("POST", "/v1/jobs").bearer_auth(&shipper).header("content-type", "application/json");
    let redrive = gateway.answer(redrive.body(json!({"kind": "redrive", "filter": {}}).to_string())).await;
    assert_eq!((code(&redrive), &redrive.json()["scope"]), ((403, "not_allowed".to_owned()), &json!("admin")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_request_says_what_is_wrong_and_a_second_one_waits() {
    let gateway = Gateway::start().await;
    let token = admin(&gateway);
    let good = plain(json!({}));
    for (query, content, wanted, parameter) in [
        (format!("type=shop&{ALL}"), &good[..], (400, "bad_parameter"), json!("type")),
        (ALL.to_owned(), &good, (400, "bad_parameter"), json!("type")),
        ("type=shop/sale".to_owned(), &good, (400, "bad_parameter"), json!("last")),
        ("type=shop/sale&last=7".to_owned(), &good, (400, "bad_parameter"), json!("last")),
        ("type=shop/sale&last=7d&sample=0".to_owned(), &good, (400, "bad_parameter"), json!("sample")),
        ("type=shop/sale&last=7d&settings=x".to_owned(), &good, (400, "bad_parameter"), json!("settings")),
        ("type=shop/sale&last=7d&colour=red".to_owned(), &good, (400, "bad_parameter"), json!("colour")),
        ("type=shop/sale&last=7d".to_owned(), b"no module", (422, "module_refused"), Value::Null),
        ("type=shop/sale&last=7d".to_owned(), b"{\"requird\":[]}", (422, "module_refused"), Value::Null),
        ("type=shop/sale&last=7d".to_owned(), b"", (400, "empty"), Value::Null),
        ("type=shop/sale&last=7d".to_owned(), b"{\"digest\":\"x\"}", (400, "bad_parameter"), json!("digest")),
        ("type=shop/sale&last=7d".to_owned(), b"{\"digest\":1}", (400, "bad_parameter"), json!("body")),
    ] {
        let answer = ask_as(&gateway, &token, &query, content).await;
        assert_eq!(code(&answer), (wanted.0, wanted.1.to_owned()), "{query}: {answer:?}");
        assert_eq!(answer.json()["parameter"], parameter, "{query}: {answer:?}");
    }
    let unknown = json!({"digest": "0f".repeat(32)}).to_string();
    let answer = ask_as(&gateway, &token, "type=shop/sale&last=7d", unknown.as_bytes()).await;
    assert_eq!(code(&answer), (409, "no_version".to_owned()), "{answer:?}");
    let in_body = gateway.post("/v1/jobs", "application/json", json!({"kind": "replay"}).to_string()).await;
    assert!(in_body.status == 400 && in_body.text.contains("kind=replay&type=T"), "{in_body:?}");
    assert_eq!(gateway.sql("select count(*) from jobs"), "0");

    gateway.sql(&many(50_000));
    let asked = ask_as(&gateway, &token, &format!("type=shop/sale&{ALL}"), &good).await;
    let job = id_of(&asked.json());
    let second = ask_as(&gateway, &token, &format!("type=shop/sale&{ALL}"), &good).await;
    assert_eq!((code(&second), &second.json()["job"]), ((409, "job_running".to_owned()), &json!(job)));
    let cancel = gateway.request("DELETE", &format!("/v1/jobs/{job}")).bearer_auth(&token);
    assert!([200, 202].contains(&gateway.answer(cancel).await.status));
    let job = ended(&gateway, &token, &job, "cancelled").await;
    assert_eq!((&job["result"], gateway_modules(&gateway)), (&Value::Null, 0), "{job}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_in_the_database_is_replayed_by_its_digest_and_says_whether_it_amends() {
    let server = Server::start();
    server.prepare();
    let setup = Setup::default().with("EYE_DATABASE_URL", server.url()).with("EYE_MODULES_FROM", "database");
    let gateway = setup.start().await;
    let push = async |content: &[u8]| {
        let request = bearing(&gateway, "PUT", "/v1/validators/shop/sale?force=true", "");
        let request = request.header("content-type", "application/schema+json").header("prefer", "wait=60");
        let answer = gateway.answer(request.body(content.to_vec())).await;
        assert_eq!((answer.status, &answer.json()["state"]), (200, &json!("active")), "{answer:?}");
    };
    let amends = json!({
        "type": "object", "properties": {"note": {"type": "string", "writeOnly": true}}, "examples": [{"note": "a secret"}],
    });
    let (first, second) = (plain(json!({"maximum": 3})), amends.to_string().into_bytes());
    push(&first).await;
    assert_eq!(send(&gateway, json!({"n": 1})).await.status, 201);
    push(&second).await;
    for number in [2, 4] {
        assert_eq!(send(&gateway, json!({"n": number, "note": "x"})).await.status, 201);
    }
    push(&plain(json!({"maximum": 9}))).await;
    let named = json!({"digest": digest_of(&first)}).to_string();
    let asked = ask_as(&gateway, "", &format!("type=shop/sale&{ALL}"), named.as_bytes()).await;
    assert_eq!(asked.status, 202, "{asked:?}");
    let result = ended(&gateway, "", &id_of(&asked.json()), "done").await["result"].clone();
    assert_eq!(
        (cells(&result["rows"]), &result["not_compared"]),
        (vec!["stored stored 1".to_owned()], &json!({"amended": 2})),
        "{result}"
    );
    let other = ask_as(&gateway, "", &format!("type=shop/other&{ALL}"), named.as_bytes()).await;
    assert_eq!(code(&other), (409, "no_version".to_owned()), "it is no version of that type: {other:?}");
}

/// Runs the command in the gateway's folder, on its embedded database.
fn command(gateway: &Gateway, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = gateway.command_beside(&[&["validator", "replay"], arguments].concat());
    let Output { status, stdout, stderr } = command.args(["--data-dir", "data"]).output().expect("the built program");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (status.code(), text(stdout), text(stderr))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_prints_what_would_change_and_its_exit_code_says_if_it_is_too_much() {
    let gateway = house().await;
    let file = gateway.data_dir().join("../candidate.schema.json");
    std::fs::write(&file, schema(json!({"minimum": 3, "maximum": 7}))).expect("written");
    let range = ["--type", "shop/sale", "--from", "2020-01-01T00:00:00Z"];
    let replay = |more: &[&str]| command(&gateway, &[&["candidate.schema.json"], &range[..], more].concat());

    let (exit, told, noted) = replay(&[]);
    assert_eq!(exit, Some(0), "{noted}");
    let first = told.lines().next().unwrap_or_default();
    assert!(first.starts_with("not compared") && first.contains("1  envelope: refused by"), "{told}");
    for line in [
        "looked at             6  stored events, and 4 dead letters",
        "then            stored   amended   refused   faulted",
        "stored               3         1         2         0",
        "refused              1         0         1         0",
        "quarantined          0         0         1         0",
        "  /note: \"hello\" -> \"[redacted]\"",
    ] {
        assert!(told.lines().any(|one| one == line), "{line}\n{told}");
    }
    assert!(told.contains("2  stored -> refused  /n  minimum  local"), "{told}");

    // Two of six stored events.
    let (exit, _, noted) = replay(&["--refuse-max", "33%"]);
    assert!(exit == Some(3) && noted.contains("2 of 6 stored events"), "{exit:?} {noted}");
    let (exit, told, _) = replay(&["--refuse-max", "34%", "--json"]);
    let job: Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!((exit, &job["kind"], &job["result"]["events"]), (Some(0), &json!("replay"), &json!(6)), "{told}");

    let digest = digest_of(&plain(json!({"maximum": 6})));
    let (exit, told, noted) = command(&gateway, &[&["--digest", &digest], &range[..]].concat());
    assert!(exit == Some(0) && told.contains("quarantined          1"), "{told} {noted}");
    for (arguments, wanted) in [
        (&["candidate.schema.json"][..], 64),
        (&["nothing.wasm", "--type", "shop/sale"], 1),
        (&["candidate.schema.json", "--type", "shop/sale", "--digest", &digest], 64),
        (&["candidate.schema.json", "--type", "shop/sale", "--refuse-max", "lots"], 64),
    ] {
        let (exit, _, noted) = command(&gateway, arguments);
        assert_eq!(exit, Some(wanted), "{arguments:?}: {noted}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_command_cancels_its_job() {
    let gateway = Gateway::start().await;
    gateway.sql(&many(50_000));
    std::fs::write(gateway.data_dir().join("../candidate.schema.json"), plain(json!({}))).expect("written");
    let arguments =
        ["validator", "replay", "candidate.schema.json", "--type", "shop/sale", "--from", "2020-01-01T00:00:00Z"];
    let mut command: Command = gateway.command_beside(&arguments);
    let child = command.args(["--data-dir", "data"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.expect("the built program");
    let running = "select count(*) from jobs where state = 'running'";
    eventually("the job runs", async || (gateway.sql(running) == "1").then_some(())).await;
    crate::support::kill(child.id(), "INT");
    let output = child.wait_with_output().expect("its end");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && told.contains("is cancelled"), "{told}");
    eventually("the job is cancelled", async || (gateway.sql("select state from jobs") == "cancelled").then_some(()))
        .await;
}

/// These take long, and belong to the area `fleet`.
mod long {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
    use std::time::Instant;

    use super::*;

    /// Sends arrays until it is told to stop, and counts their events. Each is stored.
    async fn load(gateway: &Gateway, stop: &AtomicBool, sent: &AtomicU64) {
        let body = Value::from(vec![event("load", "any", json!({"n": 1})); 20]).to_string();
        while !stop.load(Relaxed) {
            let answer = gateway.post("/v1/events", "application/json", body.clone()).await;
            assert_eq!((answer.status, &answer.json()["stored"]), (200, &json!(20)), "{answer:?}");
            sent.fetch_add(20, Relaxed);
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_hundred_thousand_events_are_replayed_while_others_arrive() {
        let gateway = Gateway::start().await;
        gateway.sql(&many(100_000));
        let (stop, sent, began) = (AtomicBool::new(false), AtomicU64::new(0), Instant::now());
        let replay = async {
            let result = replayed(&gateway, &format!("type=shop/sale&{ALL}"), &plain(json!({"maximum": 4}))).await;
            let took = began.elapsed();
            stop.store(true, Relaxed);
            (result, took)
        };
        let ((result, took), ()) = tokio::join!(replay, load(&gateway, &stop, &sent));
        assert_eq!(
            cells(&result["rows"]),
            ["stored stored 50000", "stored refused 50000", "refused stored 5000", "refused refused 5000"],
            "{result}"
        );
        let seconds = took.as_secs_f64();
        let sent = sent.load(Relaxed);
        println!(
            "replayed {:.0} events/s while {:.0} events/s were stored; steps {} ms, judging {} ms",
            110_000.0 / seconds,
            sent as f64 / seconds,
            result["elapsed_ms"],
            result["processor_ms"]
        );
        assert!(sent > 0);
    }
}
