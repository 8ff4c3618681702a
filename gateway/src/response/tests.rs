//! Outcomes and refusals as answers.

use futures_util::FutureExt as _;
use http_body_util::BodyExt as _;
use hyper::header::{ALLOW, WWW_AUTHENTICATE};
use serde_json::{Value, json};

use super::*;
use crate::share::Full;
use eye_event::verdict::Digest;

const ID: Uuid = Uuid::from_u128(0x0192_0000_0000_7000_8000_0000_0000_0001);

fn parts(response: Response) -> (StatusCode, hyper::HeaderMap, Value) {
    let (head, mut body) = response.into_parts();
    let frame = body.frame().now_or_never().expect("it is there").expect("a piece").expect("it does not end early");
    let bytes = frame.into_data().expect("bytes");
    let body = serde_json::from_slice(&bytes).expect("answers are JSON");
    (head.status, head.headers, body)
}

fn rejection(id: Option<Uuid>, judged: bool) -> Outcome {
    Outcome::Rejected {
        id,
        code: if judged { RejectionCode::Rule } else { RejectionCode::Envelope },
        violations: vec![Violation {
            pointer: "/price".to_owned(),
            code: "negative".into(),
            message: "must not be negative".into(),
        }],
        omitted: 0,
        validator: judged.then(|| JudgedBy { event_type: "shop/sale".to_owned(), digest: Digest([0xab; 32]) }),
    }
}

#[test]
fn one_event() {
    let (status, headers, body) = parts(one(&Outcome::Stored { id: ID }, false));
    assert_eq!((status, &headers[CONTENT_TYPE]), (StatusCode::CREATED, &JSON));
    assert_eq!(body, json!({"id": ID, "outcome": "stored"}));
    let (status, _, body) = parts(one(&Outcome::Duplicate { id: ID }, false));
    assert_eq!(status, StatusCode::OK);
    assert_eq!(body, json!({"id": ID, "outcome": "duplicate"}));
    let code = "deadline".into();
    let (status, _, body) = parts(one(&Outcome::Quarantined { id: ID, code }, false));
    assert_eq!(status, StatusCode::ACCEPTED);
    assert_eq!(body, json!({"id": ID, "outcome": "quarantined", "code": "deadline"}));
}

#[test]
fn an_event_without_an_outcome_is_to_be_sent_again() {
    for code in UnfinishedCode::ALL {
        let why = Unfinished { code, retry_after_seconds: 7 };
        let (status, headers, body) = parts(one(&Outcome::Unfinished { id: Some(ID), why }, false));
        assert_eq!((status, &headers[CONTENT_TYPE]), (StatusCode::SERVICE_UNAVAILABLE, &PROBLEM));
        assert_eq!(headers[RETRY_AFTER], "7");
        assert_eq!((&body["code"], &body["id"]), (&json!(code.as_str()), &json!(ID)));
        assert_eq!(body["type"], format!("/problems/{}", code.as_str()));
        let detail = body["detail"].as_str().expect("a text");
        assert!(detail.contains("nothing of it is kept") && !detail.contains("  "), "{detail}");
    }
    let why = Unfinished::of(UnfinishedCode::ModuleLoading);
    let mixed = [Outcome::Stored { id: ID }, Outcome::Unfinished { id: Some(ID), why }];
    let (status, _, body) = parts(many(&mixed, false));
    assert_eq!(status, StatusCode::MULTI_STATUS);
    let expected = json!({"stored": 1, "duplicate": 0, "rejected": 0, "quarantined": 0, "unfinished": 1, "results": [
        {"index": 1, "id": ID, "outcome": null, "code": "module_loading", "retry_after": 1},
    ]});
    assert_eq!(body, expected);
}

#[test]
fn a_dry_run_says_what_would_be_with_the_same_status() {
    let quarantined = || Outcome::Quarantined { id: ID, code: "trap".into() };
    for (outcome, would) in [
        (Outcome::Stored { id: ID }, json!({"id": ID, "would": "stored"})),
        (Outcome::Duplicate { id: ID }, json!({"id": ID, "would": "duplicate"})),
        (quarantined(), json!({"id": ID, "would": "quarantined", "code": "trap"})),
    ] {
        let (real, dry) = (parts(one(&outcome, false)), parts(one(&outcome, true)));
        assert_eq!((real.0, dry.2), (dry.0, would));
    }
    let (status, _, body) = parts(one(&rejection(Some(ID), true), true));
    assert_eq!((status, &body["would"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("rejected")));
    let why = Unfinished::of(UnfinishedCode::ModuleBusy);
    let all = [Outcome::Stored { id: ID }, quarantined(), Outcome::Unfinished { id: Some(ID), why }];
    let (status, _, body) = parts(many(&all, true));
    assert_eq!(status, StatusCode::MULTI_STATUS);
    let expected = json!({"dry_run": true, "stored": 1, "duplicate": 0, "rejected": 0, "quarantined": 1, "unfinished": 1,
    "results": [
        {"index": 1, "id": ID, "would": "quarantined", "code": "trap"},
        {"index": 2, "id": ID, "would": null, "code": "module_busy", "retry_after": 1},
    ]});
    assert_eq!(body, expected);
}

#[test]
fn one_event_rejected() {
    let (status, headers, body) = parts(one(&rejection(Some(ID), true), false));
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(headers[CONTENT_TYPE], PROBLEM);
    assert_eq!(body["type"], "/problems/rule");
    assert_eq!((&body["code"], &body["id"]), (&json!("rule"), &json!(ID)));
    assert_eq!(
        body["violations"],
        json!([{"pointer": "/price", "code": "negative", "message": "must not be negative"}])
    );
    let digest = "ab".repeat(32);
    assert_eq!(body["validator"], json!({"event_type": "shop/sale", "digest": digest}));
    let (_, _, body) = parts(one(&rejection(None, false), false));
    assert_eq!(body["code"], "envelope");
    let object = body.as_object().expect("an object");
    assert_eq!((&object["id"], &object["validator"]), (&Value::Null, &Value::Null));
}

#[test]
fn many_events() {
    let fine = [Outcome::Stored { id: ID }, Outcome::Duplicate { id: ID }];
    let (status, _, body) = parts(many(&fine, false));
    assert_eq!(status, StatusCode::OK);
    let expected = json!({"stored": 1, "duplicate": 1, "rejected": 0, "quarantined": 0, "unfinished": 0,
        "results": [{"index": 1, "id": ID, "outcome": "duplicate"}]});
    assert_eq!(body, expected);
    let mixed =
        [Outcome::Stored { id: ID }, rejection(None, false), Outcome::Quarantined { id: ID, code: "trap".into() }];
    let (status, _, body) = parts(many(&mixed, false));
    assert_eq!(status, StatusCode::MULTI_STATUS);
    let violation = json!({"pointer": "/price", "code": "negative", "message": "must not be negative"});
    let expected = json!({"stored": 1, "duplicate": 0, "rejected": 1, "quarantined": 1, "unfinished": 0, "results": [
        {"index": 1, "id": null, "outcome": "rejected", "code": "envelope", "violations": [violation]},
        {"index": 2, "id": ID, "outcome": "quarantined", "code": "trap"},
    ]});
    assert_eq!(body, expected);
}

#[test]
fn violations_that_are_left_out_are_counted() {
    let code = RejectionCode::Rule;
    let cut = Outcome::Rejected { id: Some(ID), code, violations: Vec::new(), omitted: 37, validator: None };
    let (status, _, body) = parts(many(&[cut], false));
    assert_eq!(status, StatusCode::MULTI_STATUS);
    let line = json!({"index": 0, "id": ID, "outcome": "rejected", "code": "rule", "violations": [],
        "violations_omitted": 37});
    assert_eq!(body["results"], json!([line]));
}

/// One of each refusal, with the values of its page in `docs/problems`. The tests of the pages use it too.
/// Those of the path of modules.
fn refusals_of_shipping() -> Vec<Refusal> {
    vec![
        Refusal::NotAModule { found: "application/json".to_owned() },
        Refusal::NotShipped {
            message: "The application may ship shop/*, and not page/view. Ask for that event type to be given to it."
                .to_owned(),
        },
        Refusal::ModuleRefused {
            expected: "a component without imports".to_owned(),
            found: "an import of wasi:cli/environment@0.2.0".to_owned(),
            mend: "build it for wasm32-unknown-unknown".to_owned(),
        },
        Refusal::FleetRefused {
            gateways: json!([{
                "gateway": "eye-2",
                "id": "0198c5a4-6f3e-7c1d-9b52-3f0e8a7d6c15",
                "refusal": {
                    "event_type": "shop/sale",
                    "digest": "ab".repeat(32),
                    "expected": "room for the module",
                    "found": "none: 1073741824 bytes are taken",
                    "mend": "raise modules_memory_bytes_max",
                    "passing": true,
                },
            }]),
        },
        Refusal::ModulesElsewhere {
            message: "Nothing was changed: /modules is a link, which whoever fills it swaps. Ship with what fills the \
                      directory, or set modules_from = \"database\" at all gateways, so that a push reaches all of them."
                .to_owned(),
        },
        Refusal::ChangedMeanwhile {
            message: format!(
                "Nothing was changed: the module {} serves there now, by a change that came first. Look at it, and push again.",
                "ab".repeat(32)
            ),
            digest: Some("ab".repeat(32)),
        },
        Refusal::PushesMany {
            message: "too many changes of modules wait for gateways (10 of one application, 100 of all): wait until they \
                      have ended, and push again."
                .to_owned(),
        },
        Refusal::NoCandidate { message: "shop/sale has no candidate.".to_owned() },
        Refusal::TakenBack {
            message: format!(
                "Nothing was changed: the guard took {} back from shop/sale at 2026-11-23T09:15:27Z, since it refused 34 of 210 \
                 events, and the module before 2 of the same. Mend it, or ship it with force.",
                "ab".repeat(32)
            ),
            digest: "ab".repeat(32),
        },
        Refusal::NoVersion {
            message: "shop/sale has no other version that served, so there is none to go back to.".to_owned(),
        },
    ]
}

pub(crate) fn refusals() -> Vec<Refusal> {
    let exists = "there is already an application named shop. Choose another name.";
    let revoked = "shop was revoked, and stays so: add an application of another name";
    let in_use = "shop has two tokens that were both used within a day, and a third would end one of them: end the older \
                  one first, with `eye app rotate shop --expire-old`";
    let mut refusals = vec![
        Refusal::NotJson { line: 1, column: 16, message: "expected a value".to_owned() },
        Refusal::Empty,
        Refusal::TooLarge { limit_bytes: 8 << 20 },
        Refusal::TooManyEvents { limit: 10_000 },
        Refusal::WrongType { found: "text/csv".to_owned() },
        Refusal::WrongEncoding { found: "br".to_owned() },
        Refusal::BodyCorrupt { encoding: "gzip", message: "invalid gzip header".to_owned() },
        Refusal::Unknown,
        Refusal::TokenExpired,
        Refusal::UnnamedProxy,
        Refusal::NotAllowed { scope: "read" },
        Refusal::NotAllowedHere { scope: "admin" },
        Refusal::TooManyHeaders { limit: 100 },
        Refusal::BadHost { found: "has more than one `Host`" },
        Refusal::WrongTransferEncoding { found: "gzip, chunked".to_owned() },
        Refusal::ForeignOrigin,
        Refusal::ForeignHost,
        Refusal::RateLimited { retry_after_seconds: 2 },
        Refusal::BadConfiguration {
            problems: vec!["/etc/eye.toml:3: log_level must be one of error, warn, info, debug, trace".to_owned()],
        },
        Refusal::Exists { message: exists.to_owned() },
        Refusal::JobRunning { id: Uuid::from_u128(0x0198_c5a4_6f3e_7c1d_9b52_3f0e_8a7d_6c15), kind: "redrive" },
        Refusal::Revoked { message: revoked.to_owned() },
        Refusal::TokensInUse { message: in_use.to_owned() },
        Refusal::NoSession,
        Refusal::UnknownCode,
        Refusal::TokenNeeded,
        Refusal::TooManyAttempts {
            message: "Too many wrong codes came from this address, or from all together.".into(),
            retry_after_seconds: 6,
        },
        Refusal::SignInAway,
        Refusal::ShipAway { message: "Nothing was changed.".to_owned() },
        Refusal::NotFound,
        Refusal::MethodNotAllowed { allowed: "GET, HEAD, POST" },
        Refusal::BadParameter { name: "limit".into(), message: "must be a whole number from 1 to 1000".into() },
        Refusal::BodyTimeout,
        Refusal::BodyBroken,
        Refusal::TooManyReaders { limit: 256, full: Full::All },
        Refusal::Overloaded,
        Refusal::DatabaseAway,
        Refusal::ReadAway,
        Refusal::DatabaseRefused { state: "0A000".to_owned() },
        Refusal::NoDescriptors,
        Refusal::ReadsFull { full: Full::Application },
        Refusal::ReadsFull { full: Full::All },
        Refusal::ReadSlow { limit_ms: 5_000 },
        Refusal::ReadsOnly,
        Refusal::Draining,
        Refusal::Internal,
    ];
    refusals.extend(refusals_of_shipping());
    refusals
}

#[test]
fn refusals_are_problems_that_say_how_to_mend_them() {
    for refusal in refusals() {
        let (expected, code) = (refusal.status(), refusal.code());
        let (status, headers, body) = parts(refusal.into_response());
        assert_eq!(status, expected);
        assert_eq!(headers[CONTENT_TYPE], PROBLEM);
        assert_eq!(body["status"], status.as_u16());
        assert_eq!((&body["code"], &body["type"]), (&json!(code), &json!(format!("/problems/{code}"))));
        assert!(body["title"].is_string());
        let detail = body["detail"].as_str().expect("a text");
        assert!(detail.len() > 10 && !detail.contains("  "), "{detail}");
        let passing = [StatusCode::SERVICE_UNAVAILABLE, StatusCode::TOO_MANY_REQUESTS].contains(&status);
        assert_eq!(headers.contains_key(RETRY_AFTER), passing);
        if code == "rate_limited" {
            assert_eq!(headers[RETRY_AFTER], "2");
        }
        assert_eq!(headers.contains_key(ALLOW), status == StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(headers.contains_key(WWW_AUTHENTICATE), status == StatusCode::UNAUTHORIZED);
        if code == "not_json" {
            assert_eq!((&body["line"], &body["column"]), (&json!(1), &json!(16)));
        }
    }
}
