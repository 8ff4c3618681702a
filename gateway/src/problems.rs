//! Serves the pages to which the `type` of a problem leads: one page of `docs/problems/` for each code, as Markdown or
//! HTML. The program contains them, so it serves them while the database is away. They hold no data, so anybody may
//! read them.

use std::sync::LazyLock;

use bytes::Bytes;
use eye_event::verdict::Digest;
use pulldown_cmark::{CowStr, Event, Options, Parser, Tag, html};

use crate::base64::base64;
use crate::response::{self, Refusal, Response};

macro_rules! pages {
    ($($code:ident)*) => {
        /// Every code of a problem or of an event that was not stored, with its page in Markdown.
        pub const PAGES: &[(&str, &str)] =
            &[$((stringify!($code), include_str!(concat!("../../docs/problems/", stringify!($code), ".md")))),*];
    };
}

pages! {
    bad_configuration
    bad_host
    bad_parameter
    body_broken
    body_corrupt
    body_timeout
    changed_meanwhile
    database_away
    database_refused
    deadline
    draining
    empty
    envelope
    exists
    fleet_refused
    foreign_host
    foreign_origin
    internal
    job_running
    memory
    method_not_allowed
    module_busy
    module_loading
    module_refused
    module_unavailable
    modules_elsewhere
    no_candidate
    no_descriptors
    no_session
    no_version
    not_allowed
    not_found
    not_json
    not_kept
    off_path
    output
    overloaded
    rate_limited
    read_slow
    reads_full
    reads_only
    revoked
    rule
    stack
    taken_back
    token_expired
    token_needed
    tokens_in_use
    too_large
    too_many_attempts
    too_many_events
    too_many_headers
    too_many_readers
    trap
    unknown_code
    unknown_sender
    unnamed_proxy
    unstorable
    wrong_encoding
    wrong_transfer_encoding
    wrong_type
}

/// The style of the pages. The policy below allows this text only.
const STYLE: &str = "body{max-width:46rem;margin:2rem auto;padding:0 1rem;font:1rem/1.5 system-ui,sans-serif}\
    :root{color-scheme:light dark}h1{font-size:1.5rem;line-height:1.25}\
    pre,code{font-family:ui-monospace,monospace;font-size:.9em}\
    pre{overflow-x:auto;padding:.75rem;border:1px solid gray;border-radius:.25rem}\
    table{border-collapse:collapse}th,td{padding:.1rem .75rem .1rem 0;text-align:left;vertical-align:top}";

/// The Content Security Policy: a browser may apply [`STYLE`] and follow links, and nothing else.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let style = base64(&Digest::of(STYLE.as_bytes()).0);
    format!(
        "default-src 'none'; style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
});

/// The pages in HTML. They are rendered once, since anybody may ask for them often.
static HTML: LazyLock<Vec<Bytes>> =
    LazyLock::new(|| PAGES.iter().map(|(_, markdown)| html_of(markdown).into()).collect());

/// Returns the page of `code`: as HTML if the `Accept` header prefers it, as a browser's does, otherwise as Markdown.
///
/// # Errors
///
/// [`Refusal::NotFound`] if the word is no code.
pub fn page(code: &str, accept: &str) -> Result<Response, Refusal> {
    let place = PAGES.iter().position(|(own, _)| *own == code).ok_or(Refusal::NotFound)?;
    let (_, markdown) = PAGES[place];
    Ok(match response::preferred(accept, &["text/markdown", "text/html"]) {
        Some(1) => response::page("text/html; charset=utf-8", HTML[place].clone(), &POLICY),
        _ => response::page("text/markdown; charset=utf-8", markdown, &POLICY),
    })
}

fn html_of(markdown: &str) -> String {
    let title = markdown.lines().next().unwrap_or_default().trim_start_matches("# ").replace('`', "");
    let mut page = String::with_capacity(markdown.len() * 2 + STYLE.len());
    page.push_str("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>");
    html::push_html(&mut page, std::iter::once(Event::Text(title.into())));
    page.push_str("</title>\n<meta name=\"viewport\" content=\"width=device-width\">\n<style>");
    page.push_str(STYLE);
    page.push_str("</style>\n</head>\n<body>\n<main>\n");
    html::push_html(&mut page, Parser::new_ext(markdown, Options::ENABLE_TABLES).map(served));
    page.push_str("</main>\n</body>\n</html>\n");
    page
}

/// Changes a part of a page for serving: links lead to the served pages, and HTML becomes text.
fn served(event: Event<'_>) -> Event<'_> {
    match event {
        Event::Start(Tag::Link { link_type, dest_url, title, id }) => {
            let dest_url = dest_url.strip_suffix(".md").map(|code| CowStr::from(code.to_owned())).unwrap_or(dest_url);
            Event::Start(Tag::Link { link_type, dest_url, title, id })
        }
        Event::Html(text) | Event::InlineHtml(text) => Event::Text(text),
        event => event,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::path::Path;

    use eye_event::outcome::{JudgedBy, Outcome, RejectionCode};
    use eye_event::verdict::{FaultCode, Unfinished, UnfinishedCode, Violation};
    use futures_util::FutureExt as _;
    use http_body_util::BodyExt as _;
    use hyper::StatusCode;
    use hyper::header::HeaderMap;
    use serde_json::Value;
    use uuid::Uuid;

    use super::*;
    use crate::response::tests::refusals;

    const ID: Uuid = Uuid::from_u128(0x0198_c5a4_6f3e_7c1d_9b52_3f0e_8a7d_6c15);

    fn parts(response: Response) -> (StatusCode, HeaderMap, String) {
        let (head, mut body) = response.into_parts();
        let frame = body.frame().now_or_never().expect("it is there").expect("a piece").expect("it does not end early");
        let bytes = frame.into_data().expect("bytes");
        (head.status, head.headers, String::from_utf8(bytes.to_vec()).expect("text"))
    }

    fn rejected(code: RejectionCode, pointer: &str, violation: &'static str, message: &'static str) -> Outcome {
        let judged = || JudgedBy { event_type: "page interaction/pageview".to_owned(), digest: Digest([0xab; 32]) };
        Outcome::Rejected {
            id: (code != RejectionCode::Envelope).then_some(ID),
            code,
            violations: vec![Violation {
                pointer: pointer.to_owned(),
                code: violation.into(),
                message: message.into(),
            }],
            omitted: 0,
            validator: (code == RejectionCode::Rule).then(judged),
        }
    }

    /// One of each outcome of an event that is not stored, with the values of its page.
    fn outcomes() -> Vec<Outcome> {
        let not_allowed = "The application may not send this event type. Ask for it to be allowed.";
        let mut outcomes = vec![
            rejected(RejectionCode::Envelope, "/data", "type", "must be a JSON object"),
            rejected(RejectionCode::Rule, "/path", "bad_path", "Give the path of the page, beginning with `/`."),
            rejected(RejectionCode::NotAllowed, "", "not_allowed", not_allowed),
            Outcome::Quarantined { id: ID, code: "unstorable".into() },
        ];
        // A busy module makes an event unfinished, not quarantined.
        let faults = FaultCode::ALL.into_iter().filter(|code| *code != FaultCode::Busy);
        outcomes.extend(faults.map(|code| Outcome::Quarantined { id: ID, code: code.as_str().into() }));
        outcomes
            .extend(UnfinishedCode::ALL.map(|code| Outcome::Unfinished { id: Some(ID), why: Unfinished::of(code) }));
        outcomes
    }

    /// The answers of the gateway, by code.
    fn answers() -> BTreeMap<String, Vec<(StatusCode, Value)>> {
        let outcomes = outcomes();
        let responses = refusals().into_iter().map(Refusal::into_response);
        let responses = responses.chain(outcomes.iter().map(|outcome| response::one(outcome, false)));
        let mut answers: BTreeMap<String, Vec<_>> = BTreeMap::new();
        for response in responses {
            let (status, _, body) = parts(response);
            let body: Value = serde_json::from_str(&body).expect("answers are JSON");
            let code = body["code"].as_str().expect("a code").to_owned();
            answers.entry(code).or_default().push((status, body));
        }
        answers
    }

    /// The JSON blocks of a page.
    fn examples(page: &str) -> Vec<&str> {
        let blocks = page.split("```json\n").skip(1);
        blocks.map(|rest| rest.split("```").next().unwrap_or_default()).collect()
    }

    /// Every code that `refusal.rs` writes, read from its source, so that the test finds a new code without a page.
    fn written_codes() -> BTreeSet<String> {
        let source = include_str!("response/refusal.rs");
        let (_, words) = source.split_once("fn words(").expect("the table of words");
        let (words, _) = words.split_once("fn detail(").expect("its end");
        let quoted = words.split('"').skip(1).step_by(2);
        let codes = quoted.filter(|text| text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'));
        codes.map(str::to_owned).collect()
    }

    #[test]
    fn every_code_has_a_page_and_every_page_is_a_code() {
        let answers = answers();
        let pages: Vec<&str> = PAGES.iter().map(|(code, _)| *code).collect();
        assert_eq!(pages, answers.keys().map(String::as_str).collect::<Vec<_>>());
        for code in written_codes() {
            assert!(answers.contains_key(&code), "{code} is not among the refusals of this test");
        }
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/problems");
        let files = std::fs::read_dir(folder).expect("the pages").map(|entry| entry.expect("a page").file_name());
        let files: BTreeSet<String> = files.map(|name| name.to_string_lossy().into_owned()).collect();
        assert_eq!(files, pages.iter().map(|code| format!("{code}.md")).collect::<BTreeSet<_>>());
    }

    /// With `EYE_UPDATE_PAGES` set, it rewrites the examples of the pages from the answers.
    #[test]
    fn every_page_shows_what_is_answered() {
        let answers = answers();
        let mut wrong = Vec::new();
        for (code, page) in PAGES {
            let known = &answers[*code];
            let shown = examples(page);
            assert!(!shown.is_empty(), "{code} shows no answer");
            for text in shown {
                let mut example: Value =
                    serde_json::from_str(text).unwrap_or_else(|error| panic!("{code}: {error}: {text}"));
                let request_id = example.as_object_mut().expect("an object").remove("request_id");
                if known.iter().any(|(_, body)| *body == example) {
                    continue;
                }
                let [(_, body)] = &known[..] else {
                    wrong.push(format!("{code}: {text}\nis none of {known:#?}"));
                    continue;
                };
                wrong.push(format!("{code}: {text}\nis {body:#}"));
                if std::env::var_os("EYE_UPDATE_PAGES").is_some() {
                    update(code, page, text, body, request_id);
                }
            }
            let first = page.lines().next().unwrap_or_default();
            let retry = page.lines().nth(2).unwrap_or_default();
            for (status, body) in known {
                if let Some(title) = body["title"].as_str() {
                    assert!(
                        first == format!("# `{code}`: {title}") || known.len() > 1,
                        "{code}: {first} is not {title}"
                    );
                }
                let said = body["retry"].as_str().unwrap_or("never");
                let expected = format!("Status {}, `retry` is `{said}`", status.as_u16());
                assert!(retry.starts_with(&expected) || known.len() > 1 || body["retry"].is_null(), "{code}: {retry}");
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    fn update(code: &str, page: &str, text: &str, body: &Value, request_id: Option<Value>) {
        let mut body = body.clone();
        if let Some(request_id) = request_id {
            body["request_id"] = request_id;
        }
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../docs/problems/{code}.md"));
        std::fs::write(file, page.replace(text, &format!("{body:#}\n"))).expect("the page");
    }

    #[test]
    fn a_page_is_short_and_leads_only_to_other_pages() {
        for (code, page) in PAGES {
            let lines = page.lines().count();
            assert!((10..=50).contains(&lines), "{code} has {lines} lines");
            for event in Parser::new_ext(page, Options::ENABLE_TABLES) {
                match event {
                    Event::Start(Tag::Link { dest_url, .. }) => {
                        let target = dest_url.strip_suffix(".md").unwrap_or_default();
                        assert!(PAGES.iter().any(|(code, _)| *code == target), "{code} leads to {dest_url}");
                    }
                    Event::Html(text) | Event::InlineHtml(text) => panic!("{code} has HTML: {text}"),
                    _ => {}
                }
            }
        }
    }

    #[test]
    fn a_browser_gets_html_that_can_do_nothing_and_programs_get_markdown() {
        let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,image/webp,*/*;q=0.8";
        let (status, headers, text) = parts(page("not_kept", browser).expect("a page"));
        assert_eq!(status, StatusCode::OK);
        assert_eq!(headers["content-type"], "text/html; charset=utf-8");
        assert!(text.contains("<h1><code>not_kept</code>:"), "{text}");
        assert!(text.contains("href=\"unstorable\""), "links lead to where pages are served: {text}");
        let policy = headers["content-security-policy"].to_str().expect("text");
        assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
        for accept in ["", "*/*", "text/markdown", "text/markdown, text/html;q=0.9", "text/plain", "application/json"] {
            let (_, headers, text) = parts(page("not_kept", accept).expect("a page"));
            assert_eq!(headers["content-type"], "text/markdown; charset=utf-8", "{accept}");
            assert!(text.starts_with("# `not_kept`:"), "{text}");
        }
        for unknown in ["", "nothing", "busy", "NOT_KEPT", "../README", "not_kept.md"] {
            assert_eq!(page(unknown, "").err(), Some(Refusal::NotFound), "{unknown}");
        }
    }

    #[test]
    fn what_a_page_says_is_text() {
        let page =
            html_of("# `x`: a < b & \"c\"\n\nSend `<token>` <b>now</b> [rule](rule.md)\n\n<script>alert(1)</script>\n");
        assert!(page.contains("<title>x: a &lt; b &amp; "), "{page}");
        assert!(page.contains("<code>&lt;token&gt;</code> &lt;b&gt;now&lt;/b&gt; <a href=\"rule\">"), "{page}");
        assert!(!page.contains("<script>") && page.contains("&lt;script&gt;"), "{page}");
    }
}
