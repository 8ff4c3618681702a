//! The name of a request, in its answer and in what is told of it. It is always the gateway's own, so that two callers cannot
//! give theirs the same; a caller's own name for it goes back beside it.

use std::fmt::Write as _;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use uuid::Uuid;

use super::{PROBLEM, Response};

/// The header of the gateway's name for a request; a caller's name comes in the same.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The header in which a caller's name for it goes back.
const CALLER_REQUEST_ID: HeaderName = HeaderName::from_static("x-caller-request-id");
/// Longest name of a caller.
const CALLER_BYTES_MAX: usize = 64;

/// Tells this process from all others.
static PROCESS: LazyLock<u64> = LazyLock::new(|| random() & 0xffff_ffff_ffff);
/// Requests so far, from somewhere on.
static REQUESTS: LazyLock<AtomicU64> = LazyLock::new(|| AtomicU64::new(random()));

fn random() -> u64 {
    Uuid::now_v7().as_u64_pair().1
}

/// A number for a request that no other of this process has, and that does not tell how many there were: each step can be taken
/// back, so different numbers stay different (the end of splitmix64).
fn number() -> u64 {
    let mut number = REQUESTS.fetch_add(0x9E37_79B9_7F4A_7C15, Relaxed);
    number = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    number ^ (number >> 31)
}

/// A caller's own name for its request, if it is one that can be told everywhere.
pub fn caller_request_id(headers: &HeaderMap) -> Option<HeaderValue> {
    let may_be = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
    let fits = |name: &&HeaderValue| (1..=CALLER_BYTES_MAX).contains(&name.len()) && name.as_bytes().iter().all(may_be);
    headers.get(REQUEST_ID).filter(fits).cloned()
}

/// Names the request that is answered, in a header and, where the answer is a problem, in it.
pub fn named(response: Response, caller: Option<HeaderValue>) -> Response {
    let mut name = String::with_capacity(32);
    // Writing to a String cannot fail.
    let _ = write!(name, "{:012x}-{:016x}", *PROCESS, number());
    let (mut head, body) = response.into_parts();
    let is_problem = head.headers.get(CONTENT_TYPE) == Some(&PROBLEM);
    let body = if is_problem { body.with_member(&format!("\"request_id\":\"{name}\"")) } else { body };
    head.headers.insert(REQUEST_ID, HeaderValue::try_from(name).expect("hexadecimal digits"));
    // A browser must not take what an event holds for a page or a script, whatever its content type.
    head.headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Some(caller) = caller {
        head.headers.insert(CALLER_REQUEST_ID, caller);
    }
    Response::from_parts(head, body)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test reads the answers that it made")]
mod tests {
    use http_body_util::BodyExt as _;
    use hyper::StatusCode;
    use serde_json::Value;

    use super::*;
    use crate::response::{Refusal, json};

    #[tokio::test]
    async fn a_problem_bears_the_name_of_its_header_and_is_as_long_as_it_says() {
        let long = Refusal::NotJson { line: 1, column: 1, message: "x".repeat(100_000) };
        for refusal in [Refusal::NotFound, long] {
            let response = named(refusal.into_response(), None);
            let name = response.headers()["x-request-id"].to_str().expect("text").to_owned();
            let whole = response.body().whole_bytes();
            let body = response.into_body().collect().await.expect("whole").to_bytes();
            assert_eq!(body.len(), whole);
            let body: Value = serde_json::from_slice(&body).expect("JSON");
            assert_eq!(body["request_id"], *name);
        }
        let (one, other) = (named(json(StatusCode::OK, "{}"), None), named(json(StatusCode::OK, "{}"), None));
        assert_ne!(one.headers()["x-request-id"], other.headers()["x-request-id"]);
        assert_eq!(one.into_body().collect().await.expect("whole").to_bytes(), "{}");
    }

    #[test]
    fn a_callers_name_is_a_short_word() {
        let told = |name: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_bytes(name.as_bytes()).expect("a header"));
            caller_request_id(&headers).is_some()
        };
        for good in ["a", "0198c5a4-6f3e-7c1d-9b52-3f0e8a7d6c15", "job.7_b", &"x".repeat(64)] {
            assert!(told(good), "{good}");
        }
        for bad in ["", "two words", "a,b", "\u{e4}", &"x".repeat(65)] {
            assert!(!told(bad), "{bad}");
        }
        assert!(caller_request_id(&HeaderMap::new()).is_none());
    }
}
