//! What may be kept of events that are not stored: whoever serves, however it is run, and when nobody does any more.

use super::guests::{AMEND, CONTRACT, Guest, REJECT};
use super::*;

const T: (&str, &str) = ("page", "view");
/// An export `redact` that says `{"amended":true}`, whatever it is given.
pub(super) const REDACT: &str = r#"(func (export "redact") (param i32 i32) (result i32) (i32.const 2200))
    (data (i32.const 2200) "\60\08\00\00\10\00\00\00")"#;

/// The contract with one export more.
fn with_export(export: &str) -> String {
    let world = CONTRACT.trim_end().strip_suffix('}').expect("it ends with its world");
    format!("{world}\n    export {export};\n}}\n")
}

pub(super) fn redacting(more: &str, salt: &str) -> Vec<u8> {
    let wit = with_export("redact: func(data: string) -> string");
    Guest { validate: REJECT, more, salt, wit: &wit, ..Guest::default() }.core()
}

async fn keep(house: &House) -> Keep {
    house.validators.begin().keep(T.0, T.1, r#"{"secret":"hush"}"#).await
}

#[tokio::test]
async fn redact_says_what_is_kept_whichever_way_the_module_is_run() {
    let table = format!(
        "{REDACT} (table $t 1 funcref) (func $f) (elem declare func $f) (func (export \"x\") \
        (table.set $t (i32.const 0) (ref.func $f)))"
    );
    for more in [REDACT, &table] {
        let house = House::with(&[("page/view.wasm", &redacting(more, ""))]).await;
        let report = house.until("page/view", |report| report.state == State::Active).await;
        assert!(report.redacts && !report.amends);
        assert_eq!(keep(&house).await, Keep::Redacted(r#"{"amended":true}"#.to_owned()));
        assert!(!house.validators.begin().keeps_unread());
    }
}

#[tokio::test]
async fn an_export_of_another_type_is_refused() {
    let wit = with_export("redact: func(data: string) -> u32");
    let guest = Guest {
        more: r#"(func (export "redact") (param i32 i32) (result i32) (i32.const 0))"#,
        wit: &wit,
        ..Guest::default()
    };
    let house = House::with(&[("page/view.wasm", &guest.core())]).await;
    let report = house.until("page/view", refused).await;
    let told = report.last_error.expect("refused").refusal;
    assert!(told.expected.contains("redact: func(data: string) -> string"), "{told:?}");
    assert!(told.found.contains("u32 instead of string"), "{told:?}");
}

#[tokio::test]
async fn a_module_that_only_amends_lets_nothing_be_kept() {
    let amends = Guest { validate: AMEND, example: Some(("{}", 1)), ..Guest::default() }.core();
    let house = House::with(&[("page/view.wasm", &amends)]).await;
    house.until("page/view", |report| report.amends).await;
    house.validators.know_taking(HashSet::new());
    assert_eq!(keep(&house).await, Keep::Nothing);
    assert!(!house.validators.begin().keeps_unread());
    house.put("page/view.toml", b"keep_raw = true");
    house.until("page/view", |report| report.keep_raw == Some(true)).await;
    assert_eq!(keep(&house).await, Keep::Whole);
    assert!(house.validators.begin().keeps_unread());
}

#[tokio::test]
async fn where_no_module_serves_it_must_be_known_that_none_took_anything_out() {
    let house = House::with(&[]).await;
    assert_eq!(keep(&house).await, Keep::Nothing, "not known yet");
    assert!(!house.validators.begin().keeps_unread());
    house.validators.know_taking(HashSet::new());
    assert_eq!(keep(&house).await, Keep::Whole);
    assert!(house.validators.begin().keeps_unread());
    for slot in ["page/view", "page/_", "_"] {
        house.validators.know_taking(HashSet::from([Slot::parse(slot).expect("a slot")]));
        assert_eq!(keep(&house).await, Keep::Nothing, "{slot}: no version is kept here");
        assert!(!house.validators.begin().keeps_unread());
    }
}

#[tokio::test]
async fn a_module_that_is_gone_still_redacts_by_its_kept_version() {
    let house = House::with(&[("page/view.wasm", &redacting(REDACT, ""))]).await;
    house.until("page/view", |report| report.state == State::Active).await;
    house.remove("page/view.wasm");
    house.until_gone("page/view").await;
    house.validators.know_taking(HashSet::from([Slot::parse("page/view").expect("a slot")]));
    assert_eq!(keep(&house).await, Keep::Redacted(r#"{"amended":true}"#.to_owned()));
}

#[tokio::test]
async fn a_version_that_redacts_no_more_is_refused_across_a_restart_too() {
    let house = House::with(&[("page/view.wasm", &redacting(REDACT, ""))]).await;
    let first = house.until("page/view", |report| report.state == State::Active).await.digest;
    let plain = Guest { salt: "plain", ..Guest::default() }.core();
    house.put("page/view.wasm", &plain);
    assert_eq!(house.until("page/view", refused).await.digest, first);
    let house = house.restart();
    let report = house.until("page/view", refused).await;
    assert_eq!(report.digest, first, "the version before serves on");
    house.put("page/view.wasm", &redacting(REDACT, "newer"));
    house.until("page/view", |report| report.digest != first && report.redacts).await;
    house.put("page/view.toml", format!("force = \"{}\"", Digest::of(&plain)).as_bytes());
    house.put("page/view.wasm", &plain);
    house.until("page/view", |report| report.digest == Some(Digest::of(&plain))).await;
}
