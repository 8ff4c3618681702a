//! Rules for browsers. Pages of allowed origins may send events: the gateway answers their preflights and sets the
//! headers without which a browser hides the answer from the page. It refuses writes that any other page makes a
//! browser send. By default no origin is allowed. An allowed origin gives no rights: the application of the caller
//! decides those.

use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, HeaderMap,
    HeaderName, HeaderValue, ORIGIN, VARY,
};
use hyper::{Method, Request, StatusCode};

use crate::response::{Body, Refusal, Response};
use crate::trust;

/// How many seconds a browser keeps the answer to a preflight. A change of the origins takes this long to reach it.
const PREFLIGHT_SECONDS: &str = "600";

/// The header in which a browser reports whose page makes the request.
static SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The paths to which pages of other sites may send. All other paths are for pages from this gateway.
const SENDING: [&str; 2] = ["/v1/events", "/post/create"];

/// The allowed origins.
#[derive(Clone, Debug, Default)]
pub struct Cors(Vec<String>);

impl Cors {
    /// Allows these origins, each as browsers write it: `https://shop.example`.
    pub fn new(origins: Vec<String>) -> Self {
        Self(origins)
    }

    /// The origin in the headers of a sending request, if it is allowed.
    pub fn origin(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        if self.0.is_empty() {
            return None;
        }
        let origin = headers.get(ORIGIN)?;
        self.0.iter().any(|own| own.as_bytes() == origin.as_bytes()).then(|| origin.clone())
    }

    /// The origin of a request, if it is allowed and the request sends events.
    pub fn sending_origin<B>(&self, request: &Request<B>) -> Option<HeaderValue> {
        let sends = request.method() == Method::POST && SENDING.contains(&request.uri().path());
        if sends { self.origin(request.headers()) } else { None }
    }

    /// Refuses a write that a page of another site makes a browser send. A caller known by its network or certificate
    /// is known in its browser too, although the person there did not intend the request. A browser never adds a token
    /// by itself.
    ///
    /// # Errors
    ///
    /// [`Refusal::ForeignOrigin`].
    pub fn admit<B>(&self, request: &Request<B>, allowed: bool) -> Result<(), Refusal> {
        let headers = request.headers();
        let reads = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
        if reads || allowed || headers.contains_key(AUTHORIZATION) {
            return Ok(());
        }
        let own = match (headers.get(ORIGIN), headers.get(&SEC_FETCH_SITE)) {
            (Some(origin), _) => is_own(origin, trust::host(request)),
            // The browser sets this header; a page cannot change it.
            (None, Some(site)) => matches!(site.as_bytes(), b"same-origin" | b"none"),
            (None, None) => true,
        };
        if own { Ok(()) } else { Err(Refusal::ForeignOrigin) }
    }

    /// The answer to a preflight, or `None` if the request is none.
    pub fn preflight<B>(&self, request: &Request<B>) -> Option<Response> {
        if request.method() != Method::OPTIONS {
            return None;
        }
        let asked = request.headers().get(ACCESS_CONTROL_REQUEST_METHOD)?;
        let asks = asked == "POST" && SENDING.contains(&request.uri().path());
        let origin = self.origin(request.headers()).filter(|_| asks)?;
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let headers = response.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST"));
        let allowed = HeaderValue::from_static("authorization, content-type, content-encoding");
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, allowed);
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(PREFLIGHT_SECONDS));
        self.mark(Some(origin), &mut response);
        Some(response)
    }

    /// Lets the page see the answer if its origin is allowed, and keeps caches from serving it to another origin.
    pub fn mark(&self, origin: Option<HeaderValue>, response: &mut Response) {
        if self.0.is_empty() {
            return;
        }
        let headers = response.headers_mut();
        headers.append(VARY, HeaderValue::from_static("origin"));
        if let Some(origin) = origin {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("retry-after"));
        }
    }
}

/// Whether no page of another origin made a browser send a request, as far as its headers tell. A page that came by plain
/// HTTP has another origin than a gateway with TLS.
pub fn is_same_origin<B>(request: &Request<B>, secure: bool) -> bool {
    let headers = request.headers();
    let site = headers.get(&SEC_FETCH_SITE).map(HeaderValue::as_bytes);
    let origin = headers.get(ORIGIN);
    matches!(site, None | Some(b"same-origin" | b"none"))
        && origin.is_none_or(|origin| is_own(origin, trust::host(request)))
        && origin.is_none_or(|origin| !secure || origin.as_bytes().starts_with(b"https://"))
}

/// Whether an origin is the host of the request: then the page came from this gateway.
fn is_own(origin: &HeaderValue, host: Option<&str>) -> bool {
    let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    origin.zip(host).is_some_and(|((_, own), host)| own.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, path: &str, headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().method(method).uri(path).header("host", "127.0.0.1:8000");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a request")
    }

    #[test]
    fn only_own_pages_and_programs_change_anything() {
        let cors = Cors::new(vec!["https://shop.example".to_owned()]);
        let admitted = |path: &str, headers: &[(&str, &str)]| {
            let request = request("POST", path, headers);
            cors.admit(&request, cors.sending_origin(&request).is_some()).is_ok()
        };
        for headers in [
            &[][..],
            &[("origin", "http://127.0.0.1:8000")],
            &[("origin", "http://127.0.0.1:8000"), ("sec-fetch-site", "same-origin")],
            &[("sec-fetch-site", "none")],
            &[("origin", "https://evil.example"), ("authorization", "Bearer eye_0")],
        ] {
            assert!(admitted("/v1/applications", headers), "{headers:?}");
        }
        for headers in [
            &[("origin", "https://evil.example")][..],
            &[("origin", "null")],
            &[("origin", "http://127.0.0.1:3000"), ("sec-fetch-site", "same-site")],
            &[("sec-fetch-site", "cross-site")],
            &[("origin", "https://shop.example")],
        ] {
            assert!(!admitted("/v1/applications", headers), "{headers:?}");
            let read = request("GET", "/v1/applications", headers);
            assert!(cors.admit(&read, false).is_ok(), "a page cannot see what it reads");
        }
        assert!(admitted("/v1/events", &[("origin", "https://shop.example")]), "allowed pages may send, and only that");
    }

    #[test]
    fn the_panel_is_for_pages_of_its_own_origin() {
        let own = ("origin", "http://127.0.0.1:8000");
        for (headers, secure, same) in [
            (&[][..], false, true),
            (&[own], false, true),
            (&[own, ("sec-fetch-site", "same-origin")], false, true),
            (&[("sec-fetch-site", "none")], false, true),
            (&[own], true, false),
            (&[("origin", "https://127.0.0.1:8000")], true, true),
            (&[("origin", "http://127.0.0.1:8001")], false, false),
            (&[("origin", "http://127.0.0.1")], false, false),
            (&[("origin", "null")], false, false),
            (&[own, ("sec-fetch-site", "same-site")], false, false),
            (&[("sec-fetch-site", "cross-site")], false, false),
        ] {
            let request = request("POST", "/v1/panel/session", headers);
            assert_eq!(is_same_origin(&request, secure), same, "{headers:?} {secure}");
        }
    }

    #[test]
    fn preflights_are_answered_for_sending_alone() {
        let cors = Cors::new(vec!["https://shop.example".to_owned()]);
        for (path, method, answered) in [
            ("/v1/events", "POST", true),
            ("/post/create", "POST", true),
            ("/v1/events", "GET", false),
            ("/v1/events", "PATCH", false),
            ("/v1/applications", "POST", false),
        ] {
            let headers = [("origin", "https://shop.example"), ("access-control-request-method", method)];
            let answer = cors.preflight(&request("OPTIONS", path, &headers));
            assert_eq!(answer.is_some(), answered, "{method} {path}");
        }
    }
}
