//! Adds the ids of a request to its answer: as headers, and as members of a problem.

use std::fmt::Write as _;

use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};

use super::{PROBLEM, Refusal, Response};
use crate::request_ids::{REQUEST_ID, RequestIds};

/// The header that returns the caller's id.
const CALLER_REQUEST_ID: HeaderName = HeaderName::from_static("x-caller-request-id");

/// Adds the ids of the request to its answer.
pub fn named(response: Response, ids: RequestIds) -> Response {
    let (mut head, body) = response.into_parts();
    let is_problem = head.headers.get(CONTENT_TYPE) == Some(&PROBLEM);
    let body = if is_problem { body.with_member(&members(&ids)) } else { body };
    // The size is right at once, since each answer makes this allocation.
    let mut id = String::with_capacity(32);
    // Writing to a String cannot fail.
    let _ = write!(id, "{}", ids.id);
    head.headers.insert(REQUEST_ID, HeaderValue::try_from(id).expect("hexadecimal digits"));
    // A browser must not run or render the content of an event as a page, whatever its content type.
    head.headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Some(caller) = ids.caller {
        head.headers.insert(CALLER_REQUEST_ID, caller);
    }
    Response::from_parts(head, body)
}

/// The problem document of a refusal with the ids of its request, for an answer that has begun already.
pub fn named_problem(refusal: &Refusal, ids: &RequestIds) -> Bytes {
    let problem = refusal.problem();
    let rest = problem.strip_prefix(b"{").expect("a problem is a JSON object");
    [b"{", members(ids).as_bytes(), b",", rest].concat().into()
}

/// The ids as members of a JSON object.
fn members(ids: &RequestIds) -> String {
    match ids.trace {
        None => format!("\"request_id\":\"{}\"", ids.id),
        Some(trace) => format!("\"request_id\":\"{}\",\"trace_id\":\"{}\"", ids.id, trace.trace_id()),
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test reads the answers that it made")]
mod tests {
    use http_body_util::BodyExt as _;
    use hyper::{HeaderMap, StatusCode};
    use serde_json::Value;

    use super::*;
    use crate::response::json;

    fn ids(trace: Option<&'static str>) -> RequestIds {
        let headers = trace.map(|trace| (HeaderName::from_static("traceparent"), HeaderValue::from_static(trace)));
        RequestIds::of(&headers.into_iter().collect::<HeaderMap>())
    }

    #[tokio::test]
    async fn a_problem_bears_the_ids_of_its_request_and_is_as_long_as_it_says() {
        let long = || Refusal::NotJson { line: 1, column: 1, message: "x".repeat(100_000) };
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        for (refusal, trace) in
            [(Refusal::NotFound, None), (long(), None), (Refusal::NotFound, Some(trace)), (long(), Some(trace))]
        {
            let response = named(refusal.into_response(), ids(trace));
            let name = response.headers()["x-request-id"].to_str().expect("text").to_owned();
            let whole = response.body().whole_bytes();
            let body = response.into_body().collect().await.expect("whole").to_bytes();
            assert_eq!(body.len(), whole);
            let body: Value = serde_json::from_slice(&body).expect("JSON");
            assert_eq!(body["request_id"], *name);
            assert_eq!(body.get("trace_id").and_then(Value::as_str), trace.map(|trace| &trace[3..35]));
        }
        let answer = || named(json(StatusCode::OK, "{}"), ids(Some(trace)));
        let (one, other) = (answer(), answer());
        assert_ne!(one.headers()["x-request-id"], other.headers()["x-request-id"]);
        assert_eq!(one.into_body().collect().await.expect("whole").to_bytes(), "{}");
    }
}
