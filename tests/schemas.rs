//! Schema files in a running gateway: dropped, replaced, refused, shipped and taken back.

use serde_json::{Value, json};

use crate::support::cluster::Server;
use crate::support::{Answer, Gateway, Setup, digest_of, event, eventually, module};

const ORDER: &str = r#"{"type":"object","required":["total"],"properties":{
    "total":{"type":"number","multipleOf":0.01,"x-eye-message":"Give the total in euros."},
    "card":{"type":"string","writeOnly":true}},"examples":[{"total":19.99}],"x-eye-rejects":[{}],"owner":"shop"}"#;

/// The same, but that it takes no order without a number.
fn stricter() -> String {
    ORDER.replace("[\"total\"]", "[\"total\",\"number\"]").replace("{\"total\":19.99}", "{\"total\":1,\"number\":1}")
}

fn order(data: Value) -> Value {
    event("shop", "order", data)
}

async fn send(gateway: &Gateway, data: Value) -> Answer {
    gateway.send(&order(data)).await
}

/// The report of the slot once it satisfies `wanted`.
async fn until(gateway: &Gateway, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    eventually(what, async || {
        let report = gateway.get("/v1/validators").await.json();
        let list = report["validators"].as_array()?.clone();
        list.into_iter().find(|one| one["event_type"] == "shop/order" && wanted(one))
    })
    .await
}

async fn put(gateway: &Gateway, token: &str, path: &str, content_type: &str, content: &[u8]) -> Answer {
    let request = gateway.request("PUT", &format!("/v1/validators/{path}")).bearer_auth(token);
    let request = request.header("content-type", content_type).header("prefer", "wait=60");
    gateway.answer(request.body(content.to_vec())).await
}

#[tokio::test]
async fn a_dropped_schema_judges_a_stricter_one_takes_over_and_a_broken_one_is_told() {
    let gateway = Gateway::start().await;
    gateway.drop_module("shop/order.schema.json", ORDER.as_bytes());
    let first = gateway.validator("shop/order", "active").await;
    assert_eq!((&first["kind"], &first["engine"]), (&json!("schema"), &json!("1")), "{first}");
    assert_eq!((&first["digest"], &first["examples"]), (&json!(digest_of(ORDER.as_bytes())), &json!(2)));
    let warnings = first["warnings"].as_array().expect("a list").clone();
    assert!(warnings.len() == 1 && warnings[0].as_str().is_some_and(|one| one.contains("`owner`")), "{warnings:?}");

    assert_eq!(send(&gateway, json!({"total": 19.99})).await.status, 201);
    let refused = send(&gateway, json!({"total": 19.999})).await;
    assert_eq!(refused.status, 422);
    assert_eq!(refused.violations(), [("/total".to_owned(), "multiple_of".to_owned())]);
    assert_eq!(refused.json()["violations"][0]["message"], "Give the total in euros.");
    assert_eq!(send(&gateway, json!({})).await.violations(), [("/total".to_owned(), "required".to_owned())]);

    gateway.drop_module("shop/order.schema.json", stricter().as_bytes());
    until(&gateway, "the stricter one serves", |one| one["digest"] != first["digest"]).await;
    assert_eq!(send(&gateway, json!({"total": 1})).await.violations(), [("/number".to_owned(), "required".to_owned())]);

    for (broken, place) in
        [("{\n  \"type\": \"object\",\n  oops", "line 3, column 3"), ("{\"requird\":[]}", "nearly `required`")]
    {
        gateway.drop_module("shop/order.schema.json", broken.as_bytes());
        let report =
            until(&gateway, "it is refused", |one| one["last_error"]["digest"] == digest_of(broken.as_bytes())).await;
        let found = report["last_error"]["found"].as_str().expect("words");
        assert!(found.contains(place) && found.contains("line"), "{report}");
        assert_eq!(report["digest"], digest_of(stricter().as_bytes()), "the last good one serves");
        assert_eq!(send(&gateway, json!({"total": 1})).await.status, 422);
    }
}

#[tokio::test]
async fn a_schema_and_a_module_for_one_type_are_both_refused() {
    let setup = Setup { modules: vec![("shop/order.schema.json".into(), ORDER.into())], ..Setup::default() };
    let gateway = setup.start().await;
    let first = gateway.validator("shop/order", "active").await;
    gateway.drop_module("shop/order.wasm", &module("accepts"));
    let report = until(&gateway, "both are refused", |one| !one["last_error"].is_null()).await;
    let found = report["last_error"]["found"].as_str().expect("words");
    assert!(found.contains("order.wasm") && found.contains("order.schema.json"), "{report}");
    assert_eq!(report["digest"], first["digest"]);
    assert_eq!(send(&gateway, json!({})).await.status, 422, "the last good one serves");
    gateway.remove_module("shop/order.wasm");
    until(&gateway, "the error is gone", |one| one["last_error"].is_null()).await;
}

#[tokio::test]
async fn a_secret_is_in_no_row_and_in_no_dead_letter() {
    let setup = Setup { modules: vec![("shop/order.schema.json".into(), ORDER.into())], ..Setup::default() };
    let gateway = setup.start().await;
    gateway.validator("shop/order", "active").await;
    assert_eq!(send(&gateway, json!({"total": 1, "card": "4111-stored"})).await.status, 201);
    assert_eq!(send(&gateway, json!({"total": "x", "card": "4111-refused"})).await.status, 422);
    assert_eq!(send(&gateway, json!({"card": {"deep": "4111-deep"}})).await.status, 422);
    let events = gateway.session(crate::support::SESSION).await;
    assert_eq!(events[0]["data"], json!({"total": 1, "card": "[redacted]"}));
    let letters = eventually("both letters are kept", async || {
        let letters = gateway.sql("select count(*) from dead_letters where raw is not null");
        (letters == "2").then(|| gateway.sql("select convert_from(raw, 'UTF8') from dead_letters"))
    })
    .await;
    assert!(letters.contains("[redacted]") && !letters.contains("4111"), "{letters}");
    assert!(!gateway.sql("select data::text from events").contains("4111"));
}

#[tokio::test]
async fn a_schema_is_shipped_rolled_back_and_read_over_http() {
    let gateway = Gateway::start().await;
    let admin = gateway.admin_token().expect("it made one");
    let schema = "application/schema+json";
    let (first, second) = (digest_of(ORDER.as_bytes()), digest_of(&module("accepts")));
    let pushed = put(&gateway, &admin, "shop/order", schema, ORDER.as_bytes()).await;
    assert_eq!((pushed.status, &pushed.json()["digest"]), (200, &json!(first)), "{pushed:?}");
    assert_eq!(send(&gateway, json!({})).await.status, 422);

    // It has no `redact`, so it must be forced; here the letters of the type have no secret yet.
    let refused = put(&gateway, &admin, "shop/order", "application/wasm", &module("accepts")).await;
    assert_eq!(refused.status, 422, "{refused:?}");
    for (content_type, content, words) in [
        (schema, &b"{\"propertis\":{}}"[..], "nearly `properties`"),
        (schema, b"{\"type\"", "line 1, column 8"),
        (schema, b"[]", "line 1, column 1"),
        ("application/wasm", ORDER.as_bytes(), "JSON"),
    ] {
        let refused = put(&gateway, &admin, "shop/order?dry_run=true", content_type, content).await;
        assert_eq!((refused.status, &refused.json()["code"]), (422, &json!("module_refused")), "{refused:?}");
        assert!(refused.json()["found"].as_str().is_some_and(|found| found.contains(words)), "{refused:?}");
    }
    let plain = ORDER.replace(",\"writeOnly\":true", "");
    let pushed = put(&gateway, &admin, "shop/plain", schema, plain.as_bytes()).await;
    assert_eq!(pushed.status, 200, "{pushed:?}");
    let pushed = put(&gateway, &admin, "shop/plain", "application/wasm", &module("accepts")).await;
    assert_eq!((pushed.status, &pushed.json()["digest"]), (200, &json!(second)), "{pushed:?}");
    assert!(!gateway.data_dir().join("../modules/shop/plain.schema.json").exists(), "the other file went");
    let back = gateway.request("POST", "/v1/validators/shop/plain/rollback").bearer_auth(&admin);
    let back = gateway.answer(back.header("prefer", "wait=60")).await;
    assert_eq!((back.status, &back.json()["digest"]), (200, &json!(digest_of(plain.as_bytes()))), "{back:?}");
    for (digest, wanted) in [(&second, "application/wasm"), (&digest_of(plain.as_bytes()), schema)] {
        let path = format!("/v1/validators/shop/plain/versions/{digest}");
        let answer = gateway.answer(gateway.request("GET", &path).bearer_auth(&admin)).await;
        assert_eq!((answer.status, &answer.headers["content-type"]), (200, &wanted.parse().expect("a value")));
    }
    let file = gateway.data_dir().join("../strict.schema.json");
    std::fs::write(&file, stricter()).expect("written");
    let mut command = gateway.command_beside(&["validator", "push", "strict.schema.json", "--type", "shop/order"]);
    command.env("EYE_GATEWAY", format!("http://{}", gateway.address())).env("EYE_TOKEN", &admin);
    let output = command.output().expect("the built program");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(told.contains(&digest_of(stricter().as_bytes())), "{told}");
    assert_eq!(send(&gateway, json!({"total": 1})).await.status, 422);
}

#[tokio::test]
async fn a_hostile_schema_is_refused_in_words_and_harms_nobody() {
    let gateway = Gateway::start().await;
    let admin = gateway.admin_token().expect("it made one");
    let schema = "application/schema+json";
    let list = |item: &dyn Fn(usize) -> String, count: usize| (0..count).map(item).collect::<Vec<_>>().join(",");
    let large_patterns = list(&|number| format!("\"^[\\\\p{{L}}]{{1,20}}x{number}$\":{{}}"), 1_000);
    for (content, words) in [
        (format!("{{\"$comment\":\"{}\"}}", "x".repeat(2 << 20)), "bytes"),
        ("{\"not\":".repeat(100_000), "nested too deeply"),
        ("{\"$ref\":\"#\"}".to_owned(), "refers to itself"),
        ("{\"$ref\":\"https://example.com/x\"}".to_owned(), "outside"),
        ("{\"$ref\":\"file:///etc/passwd\"}".to_owned(), "outside"),
        ("{\"pattern\":\"((a{999}){999}){999}\"}".to_owned(), "bytes"),
        ("{\"pattern\":\"(?=a)b\"}".to_owned(), "looks around"),
        (format!("{{\"anyOf\":[{}]}}", list(&|_| "{}".to_owned(), 30_000)), "more than 20000"),
        (format!("{{\"patternProperties\":{{{large_patterns}}}}}"), "fault"),
    ] {
        let refused = put(&gateway, &admin, "shop/order?dry_run=true", schema, content.as_bytes()).await;
        assert_eq!((refused.status, &refused.json()["code"]), (422, &json!("module_refused")), "{refused:?}");
        assert!(refused.json()["found"].as_str().is_some_and(|found| found.contains(words)), "{words}: {refused:?}");
    }
    let many = list(&|number| format!("\"p{number}\":{{\"type\":\"string\"}}"), 10_000);
    let pushed = put(&gateway, &admin, "shop/order", schema, format!("{{\"properties\":{{{many}}}}}").as_bytes()).await;
    assert_eq!(pushed.status, 200, "{pushed:?}");
    assert_eq!(send(&gateway, json!({"p9999": 1})).await.violations(), [("/p9999".to_owned(), "type".to_owned())]);
}

#[tokio::test]
async fn gateways_on_one_database_serve_a_schema_together() {
    let server = Server::start();
    let start = async |name: &str| {
        let setup = Setup::default().with("EYE_DATABASE_URL", server.url()).with("EYE_MODULES_FROM", "database");
        setup.with("EYE_GATEWAY_NAME", name).start().await
    };
    let (one, two) = (start("one").await, start("two").await);
    let mut command = one.command_beside(&["app", "add", "admin", "--token", "--scope", "admin"]);
    let output = command.env("EYE_DATABASE_URL", server.url()).output().expect("the built program");
    let token = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    for gateway in [&one, &two] {
        eventually("the token is known", async || {
            let answer = gateway.answer(gateway.request("GET", "/v1/gateways").bearer_auth(&token)).await;
            (answer.status == 200).then_some(())
        })
        .await;
    }
    let pushed = put(&one, &token, "shop/order", "application/schema+json", ORDER.as_bytes()).await;
    assert_eq!((pushed.status, &pushed.json()["state"]), (200, &json!("active")), "{pushed:?}");
    for gateway in [&one, &two] {
        let shown = eventually("it serves here", async || {
            let request = gateway.request("GET", "/v1/validators/shop/order").bearer_auth(&token);
            let shown = gateway.answer(request).await.json();
            (shown["digest"] == digest_of(ORDER.as_bytes())).then_some(shown)
        })
        .await;
        assert_eq!((&shown["kind"], &shown["file"]), (&json!("schema"), &json!("shop/order.schema.json")));
        let request = gateway.request("POST", "/v1/events").bearer_auth(&token);
        let request = request.header("content-type", "application/json").body(order(json!({})).to_string());
        assert_eq!(gateway.answer(request).await.status, 422);
    }
}
