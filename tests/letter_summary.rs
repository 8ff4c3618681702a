//! `GET /v1/dead-letters/summary`: dead letters counted in groups and over time, as far as there is time and room.

use serde_json::{Value, json};

use crate::support::{Gateway, Setup, event, eventually};

async fn summary(gateway: &Gateway, query: &str) -> Value {
    let answer = gateway.get(&format!("/v1/dead-letters/summary{query}")).await;
    assert_eq!(answer.status, 200, "{query}: {answer:?}");
    answer.json()
}

/// The members of each group by which it was grouped, its count, and how many of its letters can be redriven and were.
fn groups(summary: &Value) -> Vec<(Vec<Value>, [u64; 3])> {
    let by = summary["by"].as_array().expect("words");
    let number = |group: &Value, name: &str| group[name].as_u64().expect("a count");
    let groups = summary["groups"].as_array().expect("groups").iter();
    groups
        .map(|group| {
            let members = by.iter().map(|word| group[word.as_str().expect("a word")].clone()).collect();
            (members, ["count", "redrivable", "redriven"].map(|name| number(group, name)))
        })
        .collect()
}

async fn letters(gateway: &Gateway, query: &str) -> Vec<Value> {
    let answer = gateway.get(&format!("/v1/dead-letters{query}")).await;
    assert_eq!(answer.status, 200, "{query}: {answer:?}");
    answer.json()["dead_letters"].as_array().expect("a list").clone()
}

/// A gateway with three letters of a module that rejects, two of one that traps, and one of a broken envelope; the first
/// of the module that traps is redriven.
async fn with_letters() -> Gateway {
    let setup = Setup::default().with_module("a/no.wasm", "rejects").with_module("a/trap.wasm", "traps");
    let gateway = setup.start().await;
    gateway.validator("a/no", "active").await;
    gateway.validator("a/trap", "active").await;
    for n in 0..3 {
        assert_eq!(gateway.send(&event("a", "no", json!({ "n": n }))).await.status, 422);
    }
    for _ in 0..2 {
        assert_eq!(gateway.send(&event("a", "trap", json!({"misbehave": true}))).await.status, 202);
    }
    assert_eq!(gateway.post("/v1/events", "application/json", r#"[{"surplus": 1}]"#).await.status, 207);
    eventually("the dead letters are kept", async || (letters(&gateway, "").await.len() == 6).then_some(())).await;
    gateway.sql(
        "update dead_letters set redriven_at = now(), redriven_as = 'stored'
         where id = (select id from dead_letters where code = 'trap' order by received_at limit 1)",
    );
    gateway
}

#[tokio::test]
async fn dead_letters_are_counted_in_groups() {
    let gateway = with_letters().await;
    let all = summary(&gateway, "").await;
    assert_eq!((&all["count"], &all["whole"], &all["reached"]), (&json!(6), &json!(true), &Value::Null));
    assert_eq!(all["by"], json!(["reason", "code", "violation", "category", "name"]));
    let rule = letters(&gateway, "?code=rule").await;
    let envelope = letters(&gateway, "?code=envelope").await;
    let violation = |letter: &Value| letter["violations"][0]["code"].clone();
    let wanted = [
        (vec![json!("rejected"), json!("rule"), violation(&rule[0]), json!("a"), json!("no")], [3, 3, 0]),
        (vec![json!("quarantined"), json!("trap"), Value::Null, json!("a"), json!("trap")], [2, 1, 1]),
        (vec![json!("rejected"), json!("envelope"), violation(&envelope[0]), Value::Null, Value::Null], [1, 1, 0]),
    ];
    assert_eq!(groups(&all), wanted);
    let first = &all["groups"][0];
    assert_eq!(first["latest_id"], rule[0]["id"]);
    assert_eq!(
        (&first["last_received_at"], &first["first_received_at"]),
        (&rule[0]["received_at"], &rule[2]["received_at"])
    );

    let digest = gateway.validator("a/no", "active").await["digest"].clone();
    let by = summary(&gateway, "?by=validator,application&reason=rejected").await;
    let wanted = [(vec![digest.clone(), json!("local")], [3, 3, 0]), (vec![Value::Null, json!("local")], [1, 1, 0])];
    assert_eq!(groups(&by), wanted);
    assert_eq!(by["groups"][0].get("code"), None, "only what it is grouped by");

    for (query, count) in [
        (format!("?validator={}", digest.as_str().expect("a digest")), 3),
        (format!("?validator={}", "0f".repeat(32)), 0),
        (format!("?violation={}", text(&violation(&rule[0]))), 3),
        ("?violation=nothing".to_owned(), 0),
        ("?name=trap".to_owned(), 2),
        ("?application=nobody".to_owned(), 0),
        (format!("?from={}", text(&rule[0]["received_at"])), 4),
        (format!("?from=2020-01-01T00:00:00Z&to={}", text(&rule[0]["received_at"])), 2),
        ("?to=2021-01-01T00:00:00Z".to_owned(), 0),
    ] {
        let counted = summary(&gateway, &query).await;
        assert_eq!((&counted["count"], &counted["whole"]), (&json!(count), &json!(true)), "{query}");
        if query.contains("from") || !query.contains("to") {
            assert_eq!(letters(&gateway, &query).await.len(), count, "{query}");
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().expect("text")
}

#[tokio::test]
async fn the_filter_by_validator_is_one_of_lists_and_redrives_too() {
    let gateway = with_letters().await;
    let digest = gateway.validator("a/trap", "active").await["digest"].clone();
    let listed = letters(&gateway, &format!("?validator={}", text(&digest))).await;
    assert_eq!(listed.iter().map(|letter| &letter["validator"]).collect::<Vec<_>>(), [&digest, &digest]);
    let body = json!({"filter": {"validator": digest}, "dry_run": false}).to_string();
    let answer = gateway.post("/v1/dead-letters/redrive", "application/json", body).await;
    assert_eq!((answer.status, &answer.json()["quarantined"]), (200, &json!(1)), "one is left of it: {answer:?}");
    assert_eq!(
        gateway.sql("select details #>> '{filter,validator}' from audit where action = 'redrive'"),
        text(&digest)
    );
    let answer = gateway.get("/v1/dead-letters?validator=12").await;
    assert_eq!((answer.status, &answer.json()["parameter"]), (400, &json!("validator")), "{answer:?}");
    let body = json!({"filter": {"validator": "12"}}).to_string();
    let answer = gateway.post("/v1/dead-letters/redrive", "application/json", body).await;
    assert_eq!((answer.status, &answer.json()["parameter"]), (400, &json!("validator")), "{answer:?}");
}

/// 120,000 letters, each in a minute of its own, the last at noon of 2021-06-01; each hundredth has another code, and each
/// of the newest 1,200 a name of its own.
const MANY: &str = "
    insert into dead_letters
        (received_at, id, reason, code, detail, violations, application_id, category, name, raw, raw_bytes)
    select timestamptz '2021-06-01T12:00:00Z' - n * interval '1 minute', gen_random_uuid(), 'rejected',
        case when n % 100 = 0 then 'rare' else 'rule' end, '', '[]', 1, 'a', case when n < 1200 then 'n' || n else 'n' end,
        '', 0
    from generate_series(0, 119999) n;
    analyze dead_letters;";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_summary_holds_so_many_buckets_and_groups_and_says_where_it_ended() {
    // So much time that it decides nothing.
    let gateway = Setup::default().with("EYE_READ_MS", 120_000).with("EYE_DEAD_LETTERS_DAYS", 0).start().await;
    gateway.sql(MANY);
    let range = "from=2020-01-01T00:00:00Z&to=2022-01-01T00:00:00Z";
    let days = summary(&gateway, &format!("?{range}&by=code")).await;
    assert_eq!((&days["bucket"], &days["count"]), (&json!("day"), &json!(120_000)));
    assert_eq!((&days["whole"], &days["reached"]), (&json!(true), &Value::Null));
    assert_eq!(groups(&days), [(vec![json!("rule")], [118_800, 118_800, 0]), (vec![json!("rare")], [1_200, 1_200, 0])]);
    let buckets = days["groups"][1]["buckets"].as_array().expect("buckets");
    assert!(buckets.is_sorted_by_key(|bucket| text(&bucket["start"])));
    let last = json!({"start": "2021-06-01T00:00:00.000000Z", "count": 8});
    assert_eq!((buckets.len(), buckets.last()), (84, Some(&last)));
    assert_eq!(buckets.iter().map(|bucket| bucket["count"].as_u64().expect("a count")).sum::<u64>(), 1_200);

    let minutes = summary(&gateway, &format!("?{range}&by=code&bucket=minute")).await;
    assert_eq!((&minutes["whole"], &minutes["count"]), (&json!(false), &json!(100_000)));
    let reached = text(&minutes["reached"]).to_owned();
    assert_eq!(
        reached,
        gateway.sql(
            "select to_char(received_at at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') from dead_letters
         order by received_at desc offset 99999 limit 1",
        )
    );
    let rest = summary(&gateway, &format!("?from=2020-01-01T00:00:00Z&to={reached}&by=code&bucket=minute")).await;
    assert_eq!(
        (&rest["whole"], &rest["count"]),
        (&json!(true), &json!(20_000)),
        "it goes on where the first one ended"
    );

    let names = summary(&gateway, &format!("?{range}&by=name")).await;
    assert_eq!(names["groups"].as_array().map(Vec::len), Some(1_000));
    assert_eq!((&names["more_groups"], &names["count"]), (&json!(true), &json!(120_000)));
    assert_eq!(groups(&names)[0], (vec![json!("n")], [118_800, 118_800, 0]));
}

#[tokio::test]
async fn wrong_parameters_are_named_and_the_answer_is_compressed() {
    let gateway = with_letters().await;
    for (query, parameter) in [
        ("?by=colour", "by"),
        ("?by=code,code", "by"),
        ("?by=", "by"),
        ("?bucket=week", "bucket"),
        ("?limit=1", "limit"),
        ("?validator=12", "validator"),
        ("?from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", "to"),
    ] {
        let answer = gateway.get(&format!("/v1/dead-letters/summary{query}")).await;
        assert_eq!((answer.status, &answer.json()["parameter"]), (400, &json!(parameter)), "{query}");
    }
    let request = gateway.request("GET", "/v1/dead-letters/summary").header("accept-encoding", "zstd");
    let response = request.send().await.expect("an answer");
    assert_eq!(response.headers()["content-encoding"], "zstd");
    let bytes = response.bytes().await.expect("a whole body");
    let whole: Value = serde_json::from_slice(&zstd::decode_all(&bytes[..]).expect("zstd")).expect("JSON");
    assert_eq!(whole["count"], 6);
}
