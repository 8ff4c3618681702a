//! New events and dead letters are judged in the same way: both are refused with the same code.

use serde_json::{Value, json};

use crate::support::{Gateway, Setup, event, eventually};

/// Sends an event that becomes a dead letter, redrives the letter, and returns both: `(outcome, code, violations)`.
async fn sent_and_redriven(gateway: &Gateway, token: &str, event: &Value) -> [(Value, Value, Value); 2] {
    let request = gateway.request("POST", "/v1/events").bearer_auth(token).header("content-type", "application/json");
    let answer = gateway.answer(request.body(event.to_string())).await;
    let letter = eventually("the dead letter is kept", async || {
        let list = gateway.get("/v1/dead-letters?limit=1").await.json();
        let letter = list["dead_letters"][0].clone();
        (letter["redriven"].is_null() && letter["id"].is_string()).then_some(letter)
    })
    .await;
    let sent = answer.json();
    assert_eq!(sent["code"], letter["code"], "{answer:?}");
    let body = json!({"ids": [letter["id"]], "dry_run": false}).to_string();
    let redrive = gateway.post("/v1/dead-letters/redrive", "application/json", body).await;
    let result = redrive.json()["results"][0].clone();
    gateway.sql("delete from dead_letters");
    let outcome = if answer.status == 202 { json!("quarantined") } else { json!("rejected") };
    [
        (outcome, sent["code"].clone(), letter["violations"].clone()),
        (result["outcome"].clone(), result["code"].clone(), result.get("violations").cloned().unwrap_or(json!([]))),
    ]
}

#[tokio::test]
async fn each_code_is_the_same_for_an_event_that_is_sent_and_for_a_letter_that_is_redriven() {
    let modules = ["rejects", "traps", "recurses", "amends_list", "hoards", "spins"];
    let setup = modules.iter().fold(Setup::default(), |setup, name| setup.with_module(&format!("c/{name}.wasm"), name));
    // Long enough that a slow machine reaches the other limits first.
    let gateway = setup.with("EYE_DEADLINE_MS", 1_000).start().await;
    for name in modules {
        gateway.validator(&format!("c/{name}"), "active").await;
    }
    let (token, digest) = eye::trust::token::make().expect("a token");
    gateway.sql(&format!(
        "insert into applications (name, token_digests, scopes, event_types) \
         values ('shop', array['\\x{digest}'::bytea], '{{ingest}}', '{{c/*}}')"
    ));
    gateway.sql("alter table events add constraint events_free_check check (data::text not like '%forbidden%')");
    eventually("the application is known", async || {
        let request = gateway.request("POST", "/v1/events?dry_run=true").bearer_auth(&token);
        let request = request.header("content-type", "application/json");
        (gateway.answer(request.body(event("c", "free", json!({})).to_string())).await.status == 201).then_some(())
    })
    .await;
    let mut broken = event("c", "free", json!({}));
    broken["surplus"] = json!(1);
    for (code, event) in [
        ("envelope", broken),
        ("not_allowed", event("theft", "free", json!({}))),
        ("rule", event("c", "rejects", json!({"misbehave": true}))),
        ("trap", event("c", "traps", json!({"misbehave": true}))),
        ("stack", event("c", "recurses", json!({"misbehave": true}))),
        ("output", event("c", "amends_list", json!({"misbehave": true}))),
        ("memory", event("c", "hoards", json!({"misbehave": true}))),
        ("deadline", event("c", "spins", json!({"misbehave": true}))),
        ("unstorable", event("c", "free", json!({"word": "forbidden"}))),
    ] {
        let [sent, redriven] = sent_and_redriven(&gateway, &token, &event).await;
        assert_eq!(sent.1, code, "sent");
        assert_eq!((&redriven.0, &redriven.1), (&sent.0, &sent.1), "{code}: redriven");
        if code != "not_allowed" {
            assert_eq!(redriven.2, sent.2, "{code}: the violations");
        }
    }
}

/// A surface of judging, with what it says of an event: its outcome and the code, or pointer and code of each violation.
type Said = (String, Vec<String>);

/// What an answer to one event says; in a dry run, what it would be.
fn said(body: &Value) -> Said {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let outcome = [&body["would"], &body["outcome"]].into_iter().find_map(Value::as_str).unwrap_or("rejected");
    let violations = body["violations"].as_array().into_iter().flatten();
    let mut codes: Vec<String> =
        violations.map(|one| format!("{} {}", text(&one["pointer"]), text(&one["code"]))).collect();
    if outcome == "quarantined" {
        codes.push(format!(" {}", text(&body["code"])));
    }
    codes.sort();
    (outcome.to_owned(), codes)
}

/// What a replay says of the only event of a session that another module or none took.
fn said_by_replay(result: &Value, session_id: &str) -> Said {
    let has = |one: &&Value| one["examples"].to_string().contains(session_id);
    let groups: Vec<&Value> = result["changes"].as_array().expect("groups").iter().filter(has).collect();
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let mut codes: Vec<String> =
        groups.iter().map(|one| format!("{} {}", text(&one["pointer"]), text(&one["code"]))).collect();
    codes.sort();
    let outcome = match groups.first().map(|one| text(&one["new"])) {
        None => "stored",
        Some(new) if new == "refused" => "rejected",
        Some(new) if new == "faulted" => "quarantined",
        Some(new) => panic!("{new}: {result}"),
    };
    (outcome.to_owned(), codes)
}

async fn replay(gateway: &Gateway, event_type: &str, content_type: &str, content: &[u8]) -> Value {
    let path = format!("/v1/jobs?kind=replay&type={event_type}&from=2000-01-01T00:00:00Z");
    let asked = gateway.post(&path, content_type, content.to_vec()).await;
    assert_eq!(asked.status, 202, "{asked:?}");
    let path = format!("/v1/jobs/{}", asked.json()["id"].as_str().expect("an id"));
    let job = eventually("the replay is done", async || {
        let job = gateway.get(&path).await.json();
        (!job["ended_at"].is_null()).then_some(job)
    })
    .await;
    assert_eq!(job["state"], "done", "{job}");
    job["result"].clone()
}

/// `eye validator test` says the same if it finds no difference to what the fixtures expect.
fn test_of_author(folder: &std::path::Path, file: &str, event_type: &str, cases: &[(Value, Said)]) {
    for (number, (event, (outcome, codes))) in cases.iter().enumerate() {
        // Fixtures have verdicts, and a fault is none.
        if outcome == "quarantined" {
            continue;
        }
        let verdict = if outcome == "stored" { "accept" } else { "reject" };
        let fixture = folder.join("fixtures").join(verdict);
        std::fs::create_dir_all(&fixture).expect("a folder");
        let codes: Vec<&str> = codes.iter().filter_map(|code| Some(code.split_once(' ')?.1)).collect();
        let moment = &event["timestamp"];
        let received_at = if event["late"] == true { json!("2026-01-01T00:00:00Z") } else { moment.clone() };
        let event =
            json!({"data": event["data"], "timestamp": moment, "received_at": received_at, "application": "local"});
        let text = json!({"event": event, "codes": codes}).to_string();
        std::fs::write(fixture.join(format!("{number}.json")), text).expect("written");
    }
    let arguments = ["test", file, "--type", event_type, "--fixtures", "fixtures", "--json"];
    let (_, told, problem) = crate::authoring::author(folder, &arguments);
    let told: Value = serde_json::from_str(&told).unwrap_or_else(|error| panic!("{error}: {told}{problem}"));
    let is_of_fixture = |failure: &&Value| failure.to_string().contains("fixtures/");
    let failures: Vec<&Value> = told["failures"].as_array().expect("a list").iter().filter(is_of_fixture).collect();
    assert!(failures.is_empty(), "{event_type}: eye validator test: {failures:?}");
}

/// A module with events, and what every surface must say of each.
struct Rule {
    event_type: &'static str,
    file: &'static str,
    content: Vec<u8>,
    cases: Vec<(Value, Said)>,
}

impl Rule {
    fn content_type(&self) -> &'static str {
        if self.file.ends_with(".json") { "application/schema+json" } else { "application/wasm" }
    }

    /// The event of a case, in a session of its own.
    fn event(&self, round: u32, number: usize) -> Value {
        let (category, name) = self.event_type.split_once('/').expect("two parts");
        let (case, _) = &self.cases[number];
        let mut sent = event(category, name, case["data"].clone());
        sent["timestamp"] = case["timestamp"].clone();
        sent["session_id"] = json!(format!("00000000-0000-4000-8000-{round:06}{number:06}"));
        sent
    }

    fn all(now: &str) -> [Self; 3] {
        let stored = || ("stored".to_owned(), Vec::new());
        let rejected = |codes: &[&str]| ("rejected".to_owned(), codes.iter().map(|code| (*code).to_owned()).collect());
        let trapped = || ("quarantined".to_owned(), vec![" trap".to_owned()]);
        let at = |moment: &str, data: Value| json!({"timestamp": moment, "data": data});
        let old = |data: Value| at("2021-01-01T00:00:00Z", data);
        let mut late = old(json!({}));
        late["late"] = json!(true);
        let schema = json!({
            "type": "object", "required": ["total"], "additionalProperties": false,
            "properties": {"total": {"type": "number", "maximum": 100}, "lines": {"type": "array", "items": {"type": "integer"}}},
        });
        let orders = vec![
            (old(json!({"total": 1.5, "lines": [1, 2]})), stored()),
            (old(json!({})), rejected(&["/total required"])),
            (old(json!({"total": 101, "surplus": 1})), rejected(&["/surplus additional_properties", "/total maximum"])),
        ];
        let traps = vec![(old(json!({"n": 1})), stored()), (old(json!({"misbehave": true})), trapped())];
        let moments = vec![(at(now, json!({})), stored()), (late, rejected(&[" late"]))];
        let rule = |event_type, file, content, cases| Self { event_type, file, content, cases };
        [
            rule("schema/order", "order.schema.json", schema.to_string().into_bytes(), orders),
            rule("guests/traps", "traps.wasm", crate::support::module("traps"), traps),
            rule("guests/b", "judges_at.wasm", crate::support::module("judges_at"), moments),
        ]
    }
}

/// Sends the event of a case in each way, and redrives its letter.
async fn sent_in_each_way(gateway: &Gateway, rule: &Rule, number: usize) {
    let (case, expected) = &rule.cases[number];
    let what = format!("{} {case}", rule.event_type);
    let dry = rule.event(2, number).to_string();
    let dry = gateway.post("/v1/events?dry_run=true", "application/json", dry).await;
    assert_eq!(&said(&dry.json()), expected, "dry run: {what}: {dry:?}");
    let array = json!([rule.event(3, number)]).to_string();
    let array = gateway.post("/v1/events?dry_run=true", "application/json", array).await.json();
    let of_array = array["results"].get(0).map_or_else(|| said(&json!({"would": "stored"})), said);
    assert_eq!(&of_array, expected, "array: {what}: {array}");
    let one = rule.event(4, number);
    let sent = gateway.send(&one).await;
    assert_eq!(&said(&sent.json()), expected, "one: {what}: {sent:?}");
    if expected.0 == "stored" {
        return;
    }
    let letter = eventually("the letter is kept", async || {
        let letter = gateway.get("/v1/dead-letters?limit=1").await.json()["dead_letters"][0].clone();
        (letter["session_id"] == one["session_id"] && letter["name"] == one["name"]).then_some(letter)
    })
    .await;
    let body = json!({"ids": [letter["id"]]}).to_string();
    let redriven = gateway.post("/v1/dead-letters/redrive", "application/json", body).await.json();
    assert_eq!(&said(&redriven["results"][0]), expected, "redrive: {what}: {redriven}");
}

/// Tries the module beside one that takes all, as a shadow and as a canary on all sessions.
async fn tried_in_each_way(gateway: &Gateway, rule: &Rule) {
    let beside = format!("{}.wasm", rule.event_type);
    gateway.drop_module(&beside, &crate::support::module("accepts"));
    gateway.validator(rule.event_type, "active").await;
    let path = format!("/v1/validators/{}", rule.event_type);
    for (round, query) in [(5, "mode=shadow"), (6, "mode=canary&percent=100")] {
        // What breaks would be taken back.
        let request = gateway.as_admin(gateway.request("PUT", &format!("{path}?{query}&settings=guard%3Dfalse")));
        let request = request.header("content-type", rule.content_type()).body(rule.content.clone());
        let tried = gateway.answer(request).await;
        assert_eq!((tried.status, &tried.json()["state"]), (200, &json!("active")), "{tried:?}");
        let stored = || ("stored".to_owned(), Vec::new());
        let cases = || rule.cases.iter().enumerate();
        for (number, (case, expected)) in cases() {
            let sent = gateway.send(&rule.event(round, number)).await;
            // A shadow judges nothing, and what a canary breaks on is judged by the module that serves.
            let is_judged = round == 6 && expected.0 == "rejected";
            let answer = if is_judged { expected.clone() } else { stored() };
            assert_eq!(said(&sent.json()), answer, "{query}: {} {case}: {sent:?}", rule.event_type);
            let dry = rule.event(7, number).to_string();
            let dry = gateway.post("/v1/events?dry_run=true&candidate=true", "application/json", dry).await;
            assert_eq!(&said(&dry.json()), expected, "{query}: dry run: {} {case}: {dry:?}", rule.event_type);
        }
        let found = eventually("all are compared", async || {
            let candidate = gateway.get(&format!("{path}/candidate")).await.json();
            (candidate["compared"] == rule.cases.len()).then_some(candidate)
        })
        .await;
        for (number, (case, expected)) in cases() {
            let session_id = &rule.event(round, number)["session_id"];
            let samples = found["samples"].as_array().expect("samples");
            let sample = samples.iter().find(|sample| sample["session_id"] == *session_id);
            let told = sample.map_or_else(stored, said_by_sample);
            assert_eq!(&told, expected, "{query}: {} {case}: {found}", rule.event_type);
        }
    }
    let discarded = gateway.as_admin(gateway.request("DELETE", &format!("{path}/candidate")));
    assert_eq!(gateway.answer(discarded).await.status, 200);
    gateway.remove_module(&beside);
    eventually("it is gone", async || {
        let report = gateway.get(&path).await.json();
        report["digest"].is_null().then_some(())
    })
    .await;
}

/// What a candidate says of the event of a sample.
fn said_by_sample(sample: &Value) -> Said {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    if sample["what"] == "faulted" {
        return ("quarantined".to_owned(), vec![format!(" {}", text(&sample["fault"]))]);
    }
    assert_eq!(sample["what"], "would_refuse", "{sample}");
    let violations = sample["new"].as_array().expect("violations").iter();
    let mut codes: Vec<String> =
        violations.map(|one| format!("{} {}", text(&one["pointer"]), text(&one["code"]))).collect();
    codes.sort();
    ("rejected".to_owned(), codes)
}

/// The same event, time of receipt and module give the same verdict, codes and pointers, whatever asks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_surface_says_the_same_of_the_same_event() {
    let gateway = Setup::default().with("EYE_DEADLINE_MS", 1_000).start().await;
    let now = gateway.sql("select to_char(now() at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')");
    for rule in Rule::all(&now) {
        // No module serves, so all of them are stored.
        for number in 0..rule.cases.len() {
            assert_eq!(gateway.send(&rule.event(1, number)).await.status, 201);
        }
        let result = replay(&gateway, rule.event_type, rule.content_type(), &rule.content).await;
        for (number, (case, expected)) in rule.cases.iter().enumerate() {
            let sent = rule.event(1, number);
            let session_id = sent["session_id"].as_str().expect("text");
            assert_eq!(&said_by_replay(&result, session_id), expected, "replay: {} {case}: {result}", rule.event_type);
        }
        tried_in_each_way(&gateway, &rule).await;
        let (_, ending) = rule.file.split_once('.').expect("an ending");
        gateway.drop_module(&format!("{}.{ending}", rule.event_type), &rule.content);
        gateway.validator(rule.event_type, "active").await;
        for number in 0..rule.cases.len() {
            sent_in_each_way(&gateway, &rule, number).await;
        }
        let again = replay(&gateway, rule.event_type, rule.content_type(), &rule.content).await;
        let mut kept = again["rows"].as_array().expect("rows").iter().filter(|row| row["old"] != "stored").peekable();
        let same = |row: &Value| {
            [("refused", "refused"), ("quarantined", "faulted")]
                .iter()
                .any(|(old, new)| row["old"] == *old && row["new"] == *new)
        };
        assert!(kept.peek().is_some() && kept.all(same), "replay of letters: {}: {again}", rule.event_type);
        let folder = crate::support::folder();
        std::fs::write(folder.path().join(rule.file), &rule.content).expect("written");
        test_of_author(folder.path(), rule.file, rule.event_type, &rule.cases);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_judges_by_the_time_of_receipt() {
    let gateway = Gateway::start().await;
    assert_eq!(gateway.send(&event("guests", "b", json!({}))).await.status, 201);
    let judges_at = crate::support::module("judges_at");
    let result = replay(&gateway, "guests/b", "application/wasm", &judges_at).await;
    assert_eq!(result["changes"][0]["code"], "late", "{result}");
    gateway.sql("update events set received_at = timestamp + interval '30 seconds'");
    let result = replay(&gateway, "guests/b", "application/wasm", &judges_at).await;
    assert_eq!(result["rows"], json!([{"old": "stored", "new": "stored", "count": 1}]), "{result}");
}
