//! The record of a request: the span of its log lines, and its line in the access log. Without either the gateway records and
//! allocates nothing. No line holds a payload, a token, a path or a query. Of the caller's own text a line holds the request id
//! and the trace alone, after the gateway has checked that both are short words.

use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::time::Instant;

use eye_event::outcome::{Outcome, OutcomeKind};
use hyper::{Method, StatusCode};
use tracing::Span;
use tracing::field::{DisplayValue, Empty, display};

use crate::request_ids::RequestIds;
use crate::telemetry::ACCESS;

/// The target of a request's span. A target of this module's name would count as the access log's, which it begins with.
const REQUEST: &str = "eye::request";

/// Which requests have a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessLogMode {
    /// None.
    Off,
    /// Those that were refused, and those with events that were refused, quarantined or left unfinished.
    Problems,
    /// All.
    All,
}

impl AccessLogMode {
    const ALL: [Self; 3] = [Self::Off, Self::Problems, Self::All];
    /// The words of the setting.
    pub const WORDS: [&str; 3] = ["off", "problems", "all"];

    /// The mode of a word; off for any other.
    pub fn of(word: &str) -> Self {
        let place = Self::WORDS.iter().position(|known| *known == word);
        place.map_or(Self::Off, |place| Self::ALL[place])
    }
}

/// The access log: which requests have a line in it, now.
#[derive(Debug)]
pub struct AccessLog(AtomicU8);

impl AccessLog {
    /// Begins with this mode.
    pub fn new(mode: AccessLogMode) -> Self {
        Self(AtomicU8::new(mode as u8))
    }

    /// Requests that begin from now on follow this mode.
    pub fn set(&self, mode: AccessLogMode) {
        self.0.store(mode as u8, Relaxed);
    }

    fn mode(&self) -> AccessLogMode {
        AccessLogMode::ALL[usize::from(self.0.load(Relaxed))]
    }

    /// Begins the record of a request, if its span or the access log asks for one. It calls `address` only then.
    pub fn begin(&self, ids: &RequestIds, method: &Method, address: impl FnOnce() -> Option<IpAddr>) -> Record {
        let (mode, trace_id) = (self.mode(), trace_id(ids));
        let span = tracing::debug_span!(
            target: REQUEST,
            "request",
            request_id = %ids.id,
            caller_id = ids.caller_id(),
            trace_id,
            method = known(method),
            route = Empty,
            application = Empty,
            stored = Empty,
            duplicate = Empty,
            rejected = Empty,
            quarantined = Empty,
            unfinished = Empty,
        );
        if mode == AccessLogMode::Off && span.is_disabled() {
            return Record(None);
        }
        Record(Some(Box::new(Noted {
            ids: ids.clone(),
            mode,
            span,
            began: Instant::now(),
            method: known(method),
            address: address(),
            route: None,
            application: None,
            bytes_in: None,
            counts: None,
            status: None,
        })))
    }
}

fn trace_id(ids: &RequestIds) -> Option<DisplayValue<impl fmt::Display + use<>>> {
    ids.trace.map(|trace| display(trace.trace_id()))
}

/// The method for the log: the caller's own text may be anything, so it logs only known methods.
fn known(method: &Method) -> &'static str {
    const KNOWN: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    KNOWN.into_iter().find(|known| method == *known).unwrap_or("other")
}

/// The record of one request. Its drop writes it, so that no way out is missed.
#[derive(Debug)]
pub struct Record(Option<Box<Noted>>);

#[derive(Debug)]
struct Noted {
    ids: RequestIds,
    mode: AccessLogMode,
    span: Span,
    began: Instant,
    method: &'static str,
    address: Option<IpAddr>,
    /// The row of the router's table.
    route: Option<&'static str>,
    application: Option<String>,
    /// Bytes of the body of a sending request, decompressed.
    bytes_in: Option<usize>,
    /// Events by outcome, in the order of [`OutcomeKind::ALL`], then those without one.
    counts: Option<[u64; OutcomeKind::ALL.len() + 1]>,
    /// `None` until the answer, and for a request whose caller left before it.
    status: Option<StatusCode>,
}

impl Record {
    /// The span of the request; `None` if the log's level leaves spans out.
    pub fn span(&self) -> Option<Span> {
        self.0.as_ref().map(|noted| noted.span.clone()).filter(|span| !span.is_disabled())
    }

    /// Records the row of the router's table.
    pub fn route(&mut self, route: &'static str) {
        if let Some(noted) = &mut self.0 {
            noted.span.record("route", route);
            noted.route = Some(route);
        }
    }

    /// Records the application of the caller.
    pub fn application(&mut self, name: &str) {
        if let Some(noted) = &mut self.0 {
            noted.span.record("application", name);
            noted.application = Some(name.to_owned());
        }
    }

    /// Records the bytes of the body.
    pub fn bytes_in(&mut self, bytes: usize) {
        if let Some(noted) = &mut self.0 {
            noted.bytes_in = Some(bytes);
        }
    }

    /// Records the outcomes of the events.
    pub fn outcomes(&mut self, outcomes: &[Outcome]) {
        let Some(noted) = &mut self.0 else { return };
        let mut counts = [0; OutcomeKind::ALL.len() + 1];
        for outcome in outcomes {
            counts[outcome.kind().map_or(OutcomeKind::ALL.len(), |kind| kind as usize)] += 1;
        }
        let words = OutcomeKind::ALL.map(OutcomeKind::as_str).into_iter().chain(["unfinished"]);
        for (word, count) in words.zip(counts) {
            noted.span.record(word, count);
        }
        noted.counts = Some(counts);
    }

    /// Records the status of the answer.
    pub fn status(&mut self, status: StatusCode) {
        if let Some(noted) = &mut self.0 {
            noted.status = Some(status);
        }
    }
}

impl Noted {
    fn has_problem(&self) -> bool {
        let [_, _, refused @ ..] = self.counts.unwrap_or_default();
        self.status.is_none_or(|status| status.as_u16() >= 400) || refused.iter().any(|count| *count > 0)
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        // The server answers 500 when a handler panics.
        if self.status.is_none() && std::thread::panicking() {
            self.status = Some(StatusCode::INTERNAL_SERVER_ERROR);
        }
        let status = self.status.map(|status| status.as_u16());
        let duration_us = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        tracing::debug!(target: REQUEST, parent: &self.span, status, duration_us, "the request is answered");
        let is_told = match self.mode {
            AccessLogMode::Off => false,
            AccessLogMode::Problems => self.has_problem(),
            AccessLogMode::All => true,
        };
        if !is_told {
            return;
        }
        let peer = self.address.map(display);
        let [stored, duplicate, rejected, quarantined, unfinished] =
            self.counts.map_or([None; OutcomeKind::ALL.len() + 1], |counts| counts.map(Some));
        tracing::info!(
            target: ACCESS,
            parent: None,
            request_id = %self.ids.id,
            caller_id = self.ids.caller_id(),
            trace_id = trace_id(&self.ids),
            application = self.application,
            peer,
            method = self.method,
            route = self.route,
            status,
            duration_us,
            bytes_in = self.bytes_in,
            stored,
            duplicate,
            rejected,
            quarantined,
            unfinished,
            "access"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mode_has_its_word_and_other_words_are_off() {
        for (word, mode) in AccessLogMode::WORDS.into_iter().zip(AccessLogMode::ALL) {
            assert_eq!(AccessLogMode::of(word), mode);
        }
        assert_eq!(AccessLogMode::of("some"), AccessLogMode::Off);
    }

    #[test]
    fn a_method_is_told_only_if_it_is_a_known_one() {
        assert_eq!(known(&Method::POST), "POST");
        assert_eq!(known(&Method::from_bytes(b"MY-TOKEN").expect("a method")), "other");
    }

    #[test]
    fn nothing_is_noted_while_nobody_asks() {
        let log = AccessLog::new(AccessLogMode::Off);
        let ids = RequestIds::of(&hyper::HeaderMap::new());
        let record = log.begin(&ids, &Method::GET, || panic!("the address is not asked for"));
        assert!(record.0.is_none());
        log.set(AccessLogMode::Problems);
        let mut record = log.begin(&ids, &Method::GET, || None);
        record.status(StatusCode::OK);
        let noted = record.0.as_ref().expect("noted");
        assert!(!noted.has_problem());
    }
}
