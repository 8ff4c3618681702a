//! The ids of a request: the gateway's own, since two callers may give theirs the same; the caller's own; and the trace
//! that it belongs to. Answers, log lines and dead letters have them, so that an operator finds one from the other.

use std::fmt;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::task::futures::TaskLocalFuture;
use uuid::Uuid;

use crate::traceparent::Traceparent;

/// The header with the gateway's id in answers, and with the caller's id in requests.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The header of the trace.
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// Most bytes of a caller's id.
const CALLER_BYTES_MAX: usize = 64;

/// Distinguishes this process from all others.
static PROCESS: LazyLock<u64> = LazyLock::new(|| random() & 0xffff_ffff_ffff);
/// Counts requests, from a random number on.
static REQUESTS: LazyLock<AtomicU64> = LazyLock::new(|| AtomicU64::new(random()));

tokio::task_local! {
    /// The request that this task works on. The log reads it, so that no function needs the id as an argument for its
    /// log lines.
    static CURRENT: RequestId;
}

fn random() -> u64 {
    Uuid::now_v7().as_u64_pair().1
}

/// The gateway's id of a request: 29 characters, hexadecimal digits and a hyphen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestId(u64);

impl RequestId {
    /// Makes an id that no other request has and that does not reveal the number of requests. Each step is reversible,
    /// so different numbers stay different (the end of splitmix64).
    fn next() -> Self {
        let mut number = REQUESTS.fetch_add(0x9E37_79B9_7F4A_7C15, Relaxed);
        number = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        Self(number ^ (number >> 31))
    }

    /// The id of the request that this task works on, if any.
    pub fn current() -> Option<Self> {
        CURRENT.try_with(|id| *id).ok()
    }

    /// Runs `work` as a part of this request: all log lines of it have the id.
    pub fn scope<F: Future>(self, work: F) -> TaskLocalFuture<Self, F> {
        CURRENT.scope(self, work)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:012x}-{:016x}", *PROCESS, self.0)
    }
}

/// All ids of a request.
#[derive(Clone, Debug)]
pub struct RequestIds {
    /// The gateway's own id.
    pub id: RequestId,
    /// The caller's id, if it is a short word that is safe in logs.
    pub caller: Option<HeaderValue>,
    /// The trace, if the caller sent a valid one.
    pub trace: Option<Traceparent>,
}

impl RequestIds {
    /// Makes a new id and reads the others from the headers.
    pub fn of(headers: &HeaderMap) -> Self {
        Self { id: RequestId::next(), caller: caller(headers), trace: trace(headers) }
    }

    /// The caller's id as text.
    pub fn caller_id(&self) -> Option<&str> {
        self.caller.as_ref().and_then(|caller| caller.to_str().ok())
    }
}

fn caller(headers: &HeaderMap) -> Option<HeaderValue> {
    let may_be = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
    let fits = |name: &&HeaderValue| (1..=CALLER_BYTES_MAX).contains(&name.len()) && name.as_bytes().iter().all(may_be);
    headers.get(REQUEST_ID).filter(fits).cloned()
}

/// Ignores several values, since none of them is certain to be the right one.
fn trace(headers: &HeaderMap) -> Option<Traceparent> {
    let value = headers.get(&TRACEPARENT)?;
    let is_alone = headers.get_all(&TRACEPARENT).iter().nth(1).is_none();
    Traceparent::parse(value.as_bytes()).filter(|_| is_alone)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(name: HeaderName, values: &[&str]) -> RequestIds {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(&name, HeaderValue::from_bytes(value.as_bytes()).expect("a header"));
        }
        RequestIds::of(&headers)
    }

    #[test]
    fn a_callers_id_is_a_short_word() {
        for good in ["a", "0198c5a4-6f3e-7c1d-9b52-3f0e8a7d6c15", "job.7_b", &"x".repeat(64)] {
            assert_eq!(told(REQUEST_ID, &[good]).caller_id(), Some(good));
        }
        for bad in ["", "two words", "a,b", "\u{e4}", &"x".repeat(65)] {
            assert_eq!(told(REQUEST_ID, &[bad]).caller_id(), None, "{bad}");
        }
        assert!(told(REQUEST_ID, &[]).caller.is_none());
    }

    #[test]
    fn a_trace_is_told_once() {
        let one = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(told(TRACEPARENT, &[one]).trace.expect("valid").to_string(), one);
        assert_eq!(told(TRACEPARENT, &[one, one]).trace, None);
        assert_eq!(told(TRACEPARENT, &["x"]).trace, None);
    }

    #[tokio::test]
    async fn work_of_a_request_knows_its_id_and_other_work_knows_none() {
        let (one, other) = (told(REQUEST_ID, &[]).id, told(REQUEST_ID, &[]).id);
        assert_ne!(one, other);
        assert_eq!(one.to_string().len(), 29);
        let work = async || {
            tokio::task::yield_now().await;
            RequestId::current()
        };
        let (first, second) = tokio::join!(one.scope(work()), other.scope(work()));
        assert_eq!((first, second, RequestId::current()), (Some(one), Some(other), None));
    }
}
