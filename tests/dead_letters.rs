//! Events that were not stored can be read and judged again by the current modules. Each is stored at most once.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::cluster::Server;
use crate::support::{Answer, Gateway, SESSION, Setup, event, eventually, module, openapi};

async fn list(gateway: &Gateway, query: &str) -> Vec<Value> {
    let answer = gateway.get(&format!("/v1/dead-letters{query}")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["dead_letters"].as_array().expect("a list").clone()
}

/// Waits for the letters of rejected events, which are written after the answer.
async fn kept(gateway: &Gateway, count: usize) -> Vec<Value> {
    eventually("the dead letters are kept", async || {
        let letters = list(gateway, "").await;
        (letters.len() == count).then_some(letters)
    })
    .await
}

async fn redrive(gateway: &Gateway, body: Value) -> Answer {
    gateway.post("/v1/dead-letters/redrive", "application/json", body.to_string()).await
}

async fn redriven(gateway: &Gateway, body: Value) -> Value {
    let answer = redrive(gateway, body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

/// The counts of stored, duplicate, rejected, quarantined and skipped letters.
fn counts(report: &Value) -> Vec<u64> {
    ["stored", "duplicate", "rejected", "quarantined", "skipped"]
        .iter()
        .map(|word| report[word].as_u64().expect("a count"))
        .collect()
}

/// Sends events without ids to a module that traps. Returns their ids in order.
async fn quarantined(gateway: &Gateway, count: u32) -> Vec<String> {
    let mut ids = Vec::new();
    for n in 0..count {
        let answer = gateway.send(&event("a", "b", json!({ "n": n, "misbehave": true }))).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        ids.push(answer.json()["id"].as_str().expect("an id").to_owned());
    }
    ids
}

async fn with_trap() -> Gateway {
    let gateway = Setup::default().with_module("a/b.wasm", "traps").start().await;
    gateway.validator("a/b", "active").await;
    gateway
}

async fn mended(gateway: &Gateway) {
    let before = gateway.validator("a/b", "active").await;
    gateway.drop_module("a/b.wasm", &module("accepts"));
    eventually("the mended module serves", async || {
        (gateway.validator("a/b", "active").await["digest"] != before["digest"]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn dead_letters_are_listed_filtered_and_shown_whole() {
    let gateway = with_trap().await;
    quarantined(&gateway, 1).await;
    let mut broken = event("gr\u{fc}n & blau", "c", json!({}));
    broken["surplus"] = json!(1);
    assert_eq!(gateway.send(&broken).await.status, 422);
    let lines: &[u8] = b"{\"session_id\": \xff}\n";
    assert_eq!(gateway.post("/v1/events", "application/x-ndjson", lines).await.status, 207);
    let letters = kept(&gateway, 3).await;
    let times: Vec<&str> = letters.iter().map(|letter| letter["received_at"].as_str().expect("a time")).collect();
    assert!(times.is_sorted_by(|one, next| one > next), "the latest first: {times:?}");
    let (trap, envelope, bytes) = (&letters[2], &letters[1], &letters[0]);
    assert_eq!((&trap["reason"], &trap["code"]), (&json!("quarantined"), &json!("trap")));
    assert_eq!(trap["validator"], gateway.validator("a/b", "active").await["digest"]);
    assert_eq!((&trap["application"], &trap["session_id"]), (&json!("local"), &json!(SESSION)));
    assert_eq!(envelope["violations"][0]["pointer"], "/surplus");

    for (query, wanted) in [
        ("?reason=quarantined".to_owned(), vec![trap]),
        ("?reason=rejected".to_owned(), vec![bytes, envelope]),
        ("?code=envelope&category=gr%C3%BCn%20%26%20blau".to_owned(), vec![envelope]),
        ("?name=b&application=local".to_owned(), vec![trap]),
        ("?application=nobody".to_owned(), vec![]),
        (format!("?from={}", times[1]), vec![bytes, envelope]),
        (format!("?to={}", times[1]), vec![trap]),
    ] {
        assert_eq!(list(&gateway, &query).await.iter().collect::<Vec<_>>(), wanted, "{query}");
    }

    let shown = gateway.get(&format!("/v1/dead-letters/{}", envelope["id"].as_str().expect("an id"))).await.json();
    let raw: Value = serde_json::from_str(shown["raw"].as_str().expect("text")).expect("the event as it came");
    assert_eq!((raw, &shown["raw_encoding"]), (broken, &json!("utf8")));
    let shown = gateway.get(&format!("/v1/dead-letters/{}", bytes["id"].as_str().expect("an id"))).await.json();
    assert_eq!((&shown["raw_encoding"], &shown["raw"]), (&json!("base64"), &json!("eyJzZXNzaW9uX2lkIjog/30=")));
    assert_eq!(gateway.get(&format!("/v1/dead-letters/{}", Uuid::now_v7())).await.status, 404);
}

#[tokio::test]
async fn pages_go_on_where_the_last_one_ended_while_letters_arrive() {
    let gateway = with_trap().await;
    let mut ids = quarantined(&gateway, 5).await;
    ids.reverse();
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = gateway.get(&format!("/v1/dead-letters?limit=2{cursor}")).await.json();
        for letter in page["dead_letters"].as_array().expect("a list") {
            seen.push(letter["event_id"].as_str().expect("an id").to_owned());
        }
        quarantined(&gateway, 1).await;
        let Some(next) = page["next"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen, ids);
}

#[tokio::test]
async fn wrong_parameters_are_named() {
    let gateway = Gateway::start().await;
    for (path, parameter) in [
        ("?limit=0", "limit"),
        ("?limit=1001", "limit"),
        ("?cursor=12", "cursor"),
        ("?reason=stored", "reason"),
        ("?from=yesterday", "from"),
        ("?surplus=1", "surplus"),
        ("?name=%00", "name"),
        ("?name=%ff", "name"),
        ("/nobody", "id"),
    ] {
        let answer = gateway.get(&format!("/v1/dead-letters{path}")).await;
        assert_eq!((answer.status, &answer.json()["parameter"]), (400, &json!(parameter)), "{path}");
    }
    for (body, parameter) in [
        (json!({}), "body"),
        (json!({"ids": [SESSION], "filter": {}}), "body"),
        (json!({"filter": {"colour": "red"}}), "colour"),
        (json!({"filter": {}, "surplus": 1}), "body"),
        (json!({"ids": []}), "ids"),
    ] {
        let answer = redrive(&gateway, body.clone()).await;
        assert_eq!((answer.status, &answer.json()["parameter"]), (400, &json!(parameter)), "{body}");
    }
    assert_eq!(gateway.get("/v1/dead-letters/redrive").await.status, 405);
}

#[tokio::test]
async fn a_reader_learns_what_would_come_of_letters_and_stores_none() {
    let gateway = with_trap().await;
    quarantined(&gateway, 2).await;
    mended(&gateway).await;
    let request = gateway.as_admin(gateway.request("POST", "/v1/applications"));
    let body = json!({"name": "reader", "scopes": ["read"]}).to_string();
    let added = gateway.answer(request.header("content-type", "application/json").body(body)).await.json();
    let token = added["token"].as_str().expect("a token");
    let ask = async |dry_run: bool| {
        let request = gateway.request("POST", "/v1/dead-letters/redrive").bearer_auth(token);
        let body = json!({"filter": {}, "dry_run": dry_run}).to_string();
        gateway.answer(request.header("content-type", "application/json").body(body)).await
    };
    let dry = eventually("the token is known", async || Some(ask(true).await).filter(|dry| dry.status != 401)).await;
    assert_eq!((dry.status, counts(&dry.json())), (200, vec![2, 0, 0, 0, 0]), "{dry:?}");
    let refused = ask(false).await;
    let problem = refused.json();
    assert_eq!((refused.status, &problem["code"]), (403, &json!("not_allowed")), "{refused:?}");
    assert_eq!(problem["scope"], "admin");
    assert_eq!(gateway.sql("select count(*) from events"), "0");
    eventually("the attempt is in the trail", async || {
        (gateway.sql("select count(*) from audit where action = 'admin_refused' and subject = 'reader'") == "1")
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_mended_module_takes_what_the_broken_one_did_not_once() {
    let gateway = with_trap().await;
    let ids = quarantined(&gateway, 5).await;
    let report = redriven(&gateway, json!({"filter": {"code": "trap"}})).await;
    assert_eq!((&report["dry_run"], counts(&report)), (&json!(true), vec![0, 0, 0, 5, 0]), "the module is as it was");
    mended(&gateway).await;
    let report = redriven(&gateway, json!({"filter": {"code": "trap"}})).await;
    assert_eq!(counts(&report), [5, 0, 0, 0, 0], "what would be stored");
    assert!(gateway.session(SESSION).await.is_empty(), "a dry run changes nothing");

    let report = redriven(&gateway, json!({"filter": {"code": "trap"}, "dry_run": false})).await;
    assert_eq!((counts(&report), &report["next"]), (vec![5, 0, 0, 0, 0], &Value::Null));
    let events = gateway.session(SESSION).await;
    let stored: Vec<&str> = events.iter().map(|event| event["id"].as_str().expect("an id")).collect();
    assert_eq!(stored, ids, "under the ids that their senders were told, in the order in which they came");
    assert_eq!(events[0]["validator"], gateway.validator("a/b", "active").await["digest"]);
    let letters = list(&gateway, "").await;
    assert_eq!(events[0]["received_at"], letters[4]["received_at"]);
    assert_eq!(letters[0]["redriven"]["outcome"], "stored");

    let report = redriven(&gateway, json!({"filter": {}, "dry_run": false})).await;
    assert_eq!(counts(&report), [0; 5], "nothing is left");
    let report = redriven(&gateway, json!({"ids": [letters[0]["id"], SESSION], "dry_run": false})).await;
    assert_eq!(counts(&report), [0, 0, 0, 0, 2]);
    let codes: Vec<&Value> =
        report["results"].as_array().expect("results").iter().map(|result| &result["code"]).collect();
    assert_eq!(codes, ["unknown", "redriven"]);
}

#[tokio::test]
async fn a_redrive_that_was_cut_off_goes_on_and_stores_nothing_twice() {
    let gateway = with_trap().await;
    let ids = quarantined(&gateway, 7).await;
    mended(&gateway).await;
    let first = redriven(&gateway, json!({"filter": {}, "limit": 3, "dry_run": false})).await;
    assert_eq!(counts(&first), [3, 0, 0, 0, 0]);
    // Like a kill between the commit of the events and the marks on their letters.
    gateway.sql("update dead_letters set redriven_at = null, redriven_as = null");
    let again = redriven(&gateway, json!({"filter": {}, "limit": 4, "dry_run": false})).await;
    assert_eq!(counts(&again), [1, 3, 0, 0, 0]);
    let rest = redriven(&gateway, json!({"filter": {}, "cursor": again["next"], "dry_run": false})).await;
    assert_eq!((counts(&rest), &rest["next"]), (vec![3, 0, 0, 0, 0], &Value::Null));
    let events = gateway.session(SESSION).await;
    assert_eq!(events.iter().map(|event| event["id"].as_str().expect("an id")).collect::<Vec<_>>(), ids);
    assert_eq!(gateway.sql("select count(*) from dead_letters where redriven_as = 'duplicate'"), "3");
    let duplicates = "select count(*) from (select outcome from counts union all select outcome from count_deltas) figures \
        where outcome = 'duplicate'";
    assert_eq!(gateway.sql(duplicates), "0", "no event came a second time");
}

#[tokio::test]
async fn slow_modules_are_given_few_letters_at_a_time_and_all_in_the_end() {
    // Each call takes a twentieth of the time to answer, and there are more letters than that. Each has a module of its
    // own, since a module with so many would be taken off the path.
    const LETTERS: u64 = 24;
    let mut setup = Setup::default().with("EYE_DEADLINE_MS", 100).with("EYE_ANSWER_MS", 2_000);
    for n in 0..LETTERS {
        setup = setup.with_module(&format!("slow/{n}.wasm"), "spins");
    }
    let gateway = setup.start().await;
    for n in 0..LETTERS {
        gateway.validator(&format!("slow/{n}"), "active").await;
        let answer = gateway.send(&event("slow", &n.to_string(), json!({"misbehave": true}))).await;
        assert_eq!((answer.status, &answer.json()["code"]), (202, &json!("deadline")));
    }
    let mut report = redriven(&gateway, json!({"filter": {}})).await;
    let mut sum = counts(&report)[3];
    assert!((1..LETTERS).contains(&sum), "some, and not all: {report}");
    while let Some(next) = report["next"].as_str() {
        report = redriven(&gateway, json!({"filter": {}, "cursor": next})).await;
        sum += counts(&report)[3];
    }
    assert_eq!(sum, LETTERS);
}

#[tokio::test]
async fn ids_that_no_letter_has_are_told_whatever_the_limit() {
    let gateway = with_trap().await;
    quarantined(&gateway, 3).await;
    let mut ids: Vec<Value> = kept(&gateway, 3).await.iter().map(|letter| letter["id"].clone()).collect();
    ids.push(json!(SESSION));
    let first = redriven(&gateway, json!({"ids": ids, "limit": 1})).await;
    assert_eq!(counts(&first), [0, 0, 0, 1, 1], "{first}");
    assert_eq!((&first["results"][0]["id"], &first["results"][0]["code"]), (&json!(SESSION), &json!("unknown")));
    let rest = redriven(&gateway, json!({"ids": ids, "cursor": first["next"]})).await;
    assert_eq!((counts(&rest), &rest["next"]), (vec![0, 0, 0, 2, 0], &Value::Null));
}

/// 25,000 letters, of which every 10,000th, and the oldest, has another code.
const MANY: &str = "
    insert into dead_letters (received_at, id, reason, code, detail, violations, application_id, raw, raw_bytes)
    select now() - n * interval '1 second', gen_random_uuid(), 'rejected',
        case when n % 10000 = 0 or n = 25000 then 'rare' else 'rule' end, '', '[]', 1, '', 0
    from generate_series(1, 25000) n;
    update dead_letters set redriven_at = now(), redriven_as = 'stored' where received_at < now() - interval '24000 seconds';
    vacuum analyze dead_letters;";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rare_filter_is_walked_along_the_key_in_stretches() {
    let server = Server::start_with(
        "-c fsync=off -c session_preload_libraries=auto_explain -c auto_explain.log_min_duration=0 \
         -c auto_explain.log_analyze=on -c auto_explain.log_timing=off",
    );
    server.prepare();
    let gateway = Setup::default().with("EYE_DATABASE_URL", server.url()).start().await;
    server.sql(MANY);
    let before = std::fs::read_to_string(server.path().join("log")).expect("the server's log").len();
    let (mut found, mut path) = (0, "?code=rare&limit=2".to_owned());
    loop {
        let page = gateway.get(&format!("/v1/dead-letters{path}")).await.json();
        found += page["dead_letters"].as_array().expect("a list").len();
        let Some(next) = page["next"].as_str() else { break };
        path = format!("?code=rare&limit=2&cursor={next}");
    }
    assert_eq!(found, 3);
    assert_eq!(counts(&redriven(&gateway, json!({"filter": {"code": "rare"}})).await).iter().sum::<u64>(), 2);
    let counted = gateway.get("/v1/dead-letters/summary?code=rare&by=code&from=2020-01-01T00:00:00Z").await.json();
    let rare = &counted["groups"][0];
    assert_eq!((&rare["count"], &rare["redrivable"], &rare["redriven"]), (&json!(3), &json!(2), &json!(1)));
    let log = std::fs::read_to_string(server.path().join("log")).expect("the server's log");
    let plans = log[before..].split("LOG:  duration: ").filter(|entry| entry.contains("from dead_letters where"));
    let plans: Vec<&str> = plans.collect();
    assert!(plans.len() >= 7, "in stretches: {plans:?}");
    for plan in plans {
        let scans = plan.lines().filter(|line| line.contains("on dead_letters_2") && !line.contains("never executed"));
        for line in scans {
            let rows = line.rsplit("rows=").next().and_then(|rest| rest.split(' ').next()?.parse::<u64>().ok());
            // A scan of an empty partition does not count.
            assert!(line.contains("Index") || rows == Some(0), "along the key: {plan}");
            assert!(rows.is_some_and(|rows| rows <= 10_001), "no more than a stretch: {plan}");
        }
    }
    assert!(log[before..].contains("dead_letters_left_idx") || log[before..].contains("received_at_id_idx"), "{log}");
}

#[tokio::test]
async fn dead_letters_stream_as_lines_and_their_cursors_are_bound() {
    let gateway = with_trap().await;
    quarantined(&gateway, 3).await;
    let request = gateway.request("GET", "/v1/dead-letters?reason=quarantined");
    let request = request.header("accept", "application/x-ndjson").header("accept-encoding", "zstd");
    let response = request.send().await.expect("an answer");
    assert_eq!((response.status().as_u16(), response.headers()["content-encoding"].to_str().ok()), (200, Some("zstd")));
    let bytes = response.bytes().await.expect("a whole body");
    let text = String::from_utf8(zstd::decode_all(&bytes[..]).expect("zstd")).expect("UTF-8");
    assert_eq!(text.lines().count(), 3);
    openapi::check_lines("/v1/dead-letters", &text);
    let page = gateway.get("/v1/dead-letters?limit=1").await.json();
    let next = page["next"].as_str().expect("more");
    let answer = gateway.get(&format!("/v1/dead-letters?limit=1&reason=rejected&cursor={next}")).await;
    assert_eq!((answer.status, &answer.json()["parameter"]), (400, &json!("cursor")));
    let answer = redrive(&gateway, json!({"filter": {}, "cursor": next})).await;
    assert_eq!((answer.status, &answer.json()["parameter"]), (400, &json!("cursor")));
}

#[tokio::test]
async fn a_redrive_ends_early_when_its_answer_is_large_and_goes_on_with_the_rest() {
    const LETTERS: usize = 300;
    let gateway = Setup::default().with("EYE_ANSWER_MS", 60_000).start().await;
    // A hundred violations with long pointers in each, about 10 MiB of them.
    let breaking = event("page", "view", json!({"x".repeat(200): vec!["\0"; 100]}));
    assert_eq!(gateway.send(&Value::Array(vec![breaking; LETTERS])).await.status, 207);
    let all = async || (gateway.sql("select count(*) from dead_letters") == LETTERS.to_string()).then_some(());
    eventually("the dead letters are kept", all).await;
    // As if the earlier rules had found little.
    gateway.sql("update dead_letters set violations = '[]'");
    let first = redriven(&gateway, json!({"filter": {}, "limit": 1000})).await;
    let told = first["results"].as_array().expect("results").len();
    assert!((100..LETTERS).contains(&told), "{told} of {LETTERS}");
    let rest = redriven(&gateway, json!({"filter": {}, "limit": 1000, "cursor": first["next"]})).await;
    assert_eq!(rest["results"].as_array().map(Vec::len), Some(LETTERS - told));
    assert_eq!((&first["rejected"], &rest["next"]), (&json!(told), &Value::Null));
}

#[tokio::test]
async fn what_still_breaks_a_rule_stays_and_what_was_cut_is_left() {
    let setup = Setup::default().with("EYE_DEAD_LETTER_RAW_BYTES_MAX", 300);
    let gateway = setup.with_module("a/b.wasm", "rejects").start().await;
    gateway.validator("a/b", "active").await;
    assert_eq!(gateway.send(&event("a", "b", json!({}))).await.status, 422);
    kept(&gateway, 1).await;
    assert_eq!(gateway.send(&event("a", "b", json!({"long": "x".repeat(300)}))).await.status, 422);
    kept(&gateway, 2).await;
    let report = redriven(&gateway, json!({"filter": {}, "dry_run": false})).await;
    assert_eq!(counts(&report), [0, 0, 1, 0, 1]);
    let results = report["results"].as_array().expect("results");
    assert_eq!((&results[0]["code"], &results[1]["code"]), (&json!("rule"), &json!("cut")));
    assert!(results[0]["violations"][0]["code"].is_string(), "{report}");
    mended(&gateway).await;
    let report = redriven(&gateway, json!({"filter": {}, "dry_run": false})).await;
    assert_eq!(counts(&report), [1, 0, 0, 0, 1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_envelope_that_keeps_the_rules_of_now_is_stored_under_the_letters_id() {
    let server = Server::start();
    server.prepare();
    let strict = Setup::default().with("EYE_DATABASE_URL", server.url()).with("EYE_NESTING_MAX", 1).start().await;
    assert_eq!(strict.send(&event("a", "b", json!({"deep": {"er": []}}))).await.status, 422);
    let letters = kept(&strict, 1).await;
    assert_eq!(letters[0]["event_id"], Value::Null);
    assert_eq!(counts(&redriven(&strict, json!({"filter": {}})).await), [0, 0, 1, 0, 0]);
    let lenient = Setup::default().with("EYE_DATABASE_URL", server.url()).start().await;
    for wanted in [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0]] {
        assert_eq!(counts(&redriven(&lenient, json!({"filter": {}, "dry_run": false})).await), wanted);
        server.sql("update dead_letters set redriven_at = null");
    }
    let events = lenient.session(SESSION).await;
    assert_eq!((events.len(), &events[0]["id"]), (1, &letters[0]["id"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reading_and_dry_runs_need_read_and_redriving_needs_admin() {
    let server = Server::start();
    server.prepare();
    server.sql("update applications set scopes = '{read}'");
    let gateway = Setup::default().with("EYE_DATABASE_URL", server.url()).start().await;
    assert_eq!(gateway.get("/v1/dead-letters").await.status, 200);
    assert_eq!(redrive(&gateway, json!({"filter": {}})).await.status, 200, "it is a dry run");
    assert_eq!(redrive(&gateway, json!({"filter": {}, "dry_run": false})).await.json()["scope"], "admin");
    server.sql("update applications set scopes = '{ingest}'");
    eventually("the change is in force", async || (gateway.get("/v1/dead-letters").await.status == 403).then_some(()))
        .await;
    assert_eq!(gateway.get(&format!("/v1/dead-letters/{SESSION}")).await.json()["scope"], "read");
    server.sql("update applications set scopes = '{admin}'");
    eventually("the change is in force", async || (gateway.get("/v1/dead-letters").await.status == 200).then_some(()))
        .await;
    let stores = redrive(&gateway, json!({"filter": {}, "dry_run": false})).await;
    assert_eq!(stores.status, 200, "admin includes all others");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_lists_shows_and_redrives() {
    let server = Server::start();
    server.prepare();
    let setup = Setup::default().with("EYE_DATABASE_URL", server.url()).with_module("a/b.wasm", "traps");
    let gateway = setup.start().await;
    gateway.validator("a/b", "active").await;
    let ids = quarantined(&gateway, 3).await;
    let url = server.url();
    let eye = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_eye"));
        let output = command.arg("dead-letters").args(arguments).args(["--database-url", &url, "--data-dir"]);
        let output = output.arg(gateway.data_dir().join("of-the-command")).output().expect("the built program");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    };
    let digest = gateway.validator("a/b", "active").await["digest"].as_str().expect("a digest").to_owned();
    for (validator, count) in [(digest, 3), ("0f".repeat(32), 0)] {
        assert_eq!(eye(&["list", "--validator", &validator]).lines().count(), count);
    }
    let listed: Vec<Value> = eye(&["list", "--reason", "quarantined", "--limit", "2"])
        .lines()
        .map(|line| serde_json::from_str(line).expect("a JSON line"))
        .collect();
    assert_eq!(listed.iter().map(|letter| &letter["event_id"]).collect::<Vec<_>>(), [&json!(ids[2]), &json!(ids[1])]);
    let shown: Value = serde_json::from_str(&eye(&["show", listed[0]["id"].as_str().expect("an id")])).expect("JSON");
    assert_eq!(shown["raw_encoding"], "utf8");

    let modules = crate::support::folder();
    std::fs::create_dir(modules.path().join("a")).expect("a folder");
    std::fs::write(modules.path().join("a/b.wasm"), module("accepts")).expect("a module");
    let modules = modules.path().to_str().expect("a path");
    let dry = eye(&["redrive", "--code", "trap", "--modules", modules]);
    assert!(dry.ends_with("dry run: stored 3, duplicate 0, rejected 0, quarantined 0, skipped 0\n"), "{dry}");
    assert_eq!(server.sql("select count(*) from events"), "0");
    let real = eye(&["redrive", "--code", "trap", "--modules", modules, "--store"]);
    assert!(real.ends_with("\nstored 3, duplicate 0, rejected 0, quarantined 0, skipped 0\n"), "{real}");
    assert_eq!(gateway.session(SESSION).await.len(), 3);
}
