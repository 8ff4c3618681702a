//! Schema files: one engine, and a state for each of them.

use std::time::Instant;

use super::*;

const ORDER: &str = r#"{"title":"An order","type":"object","required":["total"],"properties":{
    "total":{"type":"number","multipleOf":0.01,"exclusiveMinimum":0},
    "card":{"type":"string","writeOnly":true}},
    "examples":[{"total":19.99}],"x-eye-rejects":[{"total":"x"},{}]}"#;

/// Loading in this process, where nothing is optimized, must not run out of time.
async fn house(files: &[(&str, &[u8])]) -> House {
    House::start(files, |options| options.limits.deadline_ms = 5_000).await
}

fn rejected(judgement: &Judgement) -> Vec<(String, String)> {
    let Ok(Verdict::Reject(violations)) = &judgement.outcome else { panic!("not rejected: {judgement:?}") };
    violations.iter().map(|one| (one.pointer.clone(), one.code.to_string())).collect()
}

#[tokio::test]
async fn a_schema_file_judges_like_a_module_and_is_set_back_after_each_event() {
    let house = house(&[("shop/order.schema.json", ORDER.as_bytes())]).await;
    let report = house.until("shop/order", |report| report.digest.is_some()).await;
    assert_eq!((report.kind, report.engine.as_deref(), report.examples), (Kind::Schema, Some("1"), 3));
    assert_eq!((report.redacts, report.isolation), (true, Some(Isolation::SetBack)));
    assert_eq!(report.summary.as_deref(), Some("JSON Schema (2020-12): An order"));
    let of = ("shop", "order");
    for _ in 0..3 {
        assert_eq!(house.judge(of, r#"{"total":19.99}"#).await.outcome, Ok(Verdict::Accept));
        let secret = house.judge(of, r#"{"total":1,"card":"4111"}"#).await.outcome;
        assert_eq!(secret, Ok(Verdict::Amend(r#"{"total":1,"card":"[redacted]"}"#.into())));
        let wrong = house.judge(of, r#"{"total":1.999}"#).await;
        assert_eq!(rejected(&wrong), [("/total".to_owned(), "multiple_of".to_owned())]);
        assert_eq!(rejected(&house.judge(of, "{}").await), [("/total".to_owned(), "required".to_owned())]);
    }
    let kept = house.validators.begin().keep("shop", "order", r#"{"total":"x","card":"4111"}"#).await;
    assert_eq!(kept, Keep::Redacted(r#"{"total":"x","card":"[redacted]"}"#.into()));
}

#[tokio::test]
async fn a_hundred_schemas_share_one_engine() {
    let schema = |number: usize| ORDER.replace("An order", &format!("Order {number}"));
    let contents: Vec<(String, String)> =
        (0..100).map(|number| (format!("shop/order{number}.schema.json"), schema(number))).collect();
    let files: Vec<(&str, &[u8])> = contents.iter().map(|(file, text)| (&**file, text.as_bytes())).collect();
    let one = house(&files[..1]).await;
    one.until("shop/order0", |report| report.digest.is_some()).await;
    let with_one = one.validators.memory_bytes().0;
    let began = Instant::now();
    for (file, text) in &files[1..] {
        one.put(file, text);
    }
    for number in 0..100 {
        one.until(&format!("shop/order{number}"), |report| report.digest.is_some()).await;
    }
    let with_all = one.validators.memory_bytes().0;
    let each = (with_all - with_one) / 99;
    println!(
        "the engine with one schema takes {with_one} bytes, each other schema {each}; 99 took {:?}",
        began.elapsed()
    );
    assert!(each < 256 << 10, "{each} bytes for each schema");
    assert_eq!(rejected(&one.judge(("shop", "order99"), "{}").await).len(), 1);
    let began = Instant::now();
    for _ in 0..2_000 {
        one.judge(("shop", "order99"), r#"{"total":19.99,"lines":[{"sku":"abc","n":2},{"sku":"abd","n":1}]}"#).await;
    }
    println!("an event takes {:?}, where the gateway's own code is not optimized", began.elapsed() / 2_000);
}

#[tokio::test]
async fn a_schema_that_is_refused_is_told_with_its_place_and_the_last_good_one_serves() {
    let house = house(&[("shop/order.schema.json", ORDER.as_bytes())]).await;
    let good = house.until("shop/order", |report| report.digest.is_some()).await;
    let many = format!(
        "{{\"properties\":{{{}}},\"x-eye-rejects\":[{{}}]}}",
        (0..10_000).map(|number| format!("\"p{number}\":{{\"type\":\"string\"}}")).collect::<Vec<_>>().join(",")
    );
    for (broken, words) in [
        ("{\n \"type\": \"object\"\n", "line 3, column 1"),
        ("{\"requred\":[]}", "nearly `required`"),
        ("{\"$ref\":\"https://example.com/order.json\"}", "outside"),
        ("{\"$ref\":\"#\"}", "refers to itself"),
        ("{\"pattern\":\"(?=a)\"}", "looks around"),
        ("{\"pattern\":\"((a{999}){999}){999}\"}", "bytes"),
        ("{\"type\":\"object\",\"examples\":[{\"a\":1}],\"required\":[\"b\"]}", "/b"),
        ("[1]", "line 1, column 1"),
        (&"{\"not\":".repeat(100_000), "deeply"),
        (&many, "accept"),
    ] {
        house.put("shop/order.schema.json", broken.as_bytes());
        let report = house.until("shop/order", |report| refused(report) && report.last_error.is_some()).await;
        let error = report.last_error.expect("it was waited for").refusal;
        assert!(error.found.contains(words), "{broken:.60}: {error:?}");
        assert_eq!(report.digest, good.digest);
        house.put("shop/order.schema.json", ORDER.as_bytes());
        house.until("shop/order", |report| report.last_error.is_none()).await;
    }
}

#[tokio::test]
async fn data_as_deep_as_it_may_be_is_judged_by_a_schema_that_is_deep_too() {
    let data = format!("{}{}", "{\"c\":".repeat(63), "{}".to_owned() + &"}".repeat(63));
    let deep = |by: usize| {
        format!("{}{}{}", "{\"allOf\":[".repeat(by), r##"{"properties":{"c":{"$ref":"#"}}}"##, "]}".repeat(by))
    };
    let house = house(&[("shop/order.schema.json", deep(2).as_bytes())]).await;
    for (by, judged) in [(1, true), (7, true), (12, false)] {
        house.put("shop/order.schema.json", deep(by).as_bytes());
        let digest = Digest::of(deep(by).as_bytes());
        house.until("shop/order", |report| report.digest == Some(digest)).await;
        let judgement = house.judge(("shop", "order"), &data).await;
        assert_eq!((judgement.outcome == Ok(Verdict::Accept), code(&judgement).is_none()), (judged, judged), "{by}");
    }
}

#[tokio::test]
async fn of_two_files_neither_is_taken_and_a_rollback_goes_from_one_kind_to_the_other() {
    let module = guests::judges(guests::ACCEPT);
    let plain = ORDER.replace(",\"writeOnly\":true", "");
    let house = house(&[("shop/order.schema.json", plain.as_bytes())]).await;
    let schema = house.until("shop/order", |report| report.digest.is_some()).await.digest;
    house.put("shop/order.wasm", &module);
    let report = house.until("shop/order", refused).await;
    assert_eq!(report.digest, schema, "what served last serves on");
    let error = report.last_error.expect("it is refused").refusal.to_string();
    assert!(error.contains("order.wasm") && error.contains("order.schema.json"), "{error}");
    assert_eq!(house.problems().len(), 2, "{:?}", house.problems());
    house.remove("shop/order.schema.json");
    let report = house.until("shop/order", |report| report.kind == Kind::Module && report.digest.is_some()).await;
    assert!(report.last_error.is_none() && report.file == "shop/order.wasm", "{report:?}");
    let slot = Slot::parse("shop/order").expect("a slot");
    let history = History::under(&house.root.path().join("data"));
    let version = history.rollback(&house.modules(), &slot, None).expect("the schema is kept");
    assert_eq!(Some(version.digest), schema);
    let report = house.until("shop/order", |report| report.kind == Kind::Schema).await;
    assert_eq!((report.digest, &*report.file), (schema, "shop/order.schema.json"));
    assert!(!house.modules().join("shop/order.wasm").exists(), "the other file went");
}
