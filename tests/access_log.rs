//! The access log is off by default. When it is on, each request that it covers has a line, without any text that the
//! sender can choose.

use serde_json::{Value, json};

use crate::support::{Answer, Gateway, SESSION, Setup, event, eventually};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
/// Texts that no line may contain.
const SECRETS: [&str; 5] = ["hunter2", "eye_hush", "s3cret-path", "s3cret-query", "S3CRET"];

fn id(answer: &Answer) -> String {
    answer.headers["x-request-id"].to_str().expect("text").to_owned()
}

/// The lines of the access log, as JSON.
fn lines(gateway: &Gateway) -> Vec<Value> {
    let log = gateway.log();
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line of JSON"));
    lines.filter(|line| line["fields"]["message"] == "access").map(|line| line["fields"].clone()).collect()
}

/// Sends requests of each kind, with secrets wherever a sender may write. Returns the ids of those without a problem
/// and those with one.
async fn requests(gateway: &Gateway) -> (Vec<String>, Vec<String>) {
    let (mut well, mut problems) = (Vec::new(), Vec::new());
    let post =
        |path: &str, body: String| gateway.request("POST", path).header("content-type", "application/json").body(body);
    let secret = event("a", "b", json!({"password": "hunter2"}));
    let sent = post("/v1/events", secret.to_string()).header("x-request-id", "job.7");
    well.push(id(&gateway.answer(sent.header("traceparent", format!("00-{TRACE}-b7ad6b7169203331-01"))).await));
    well.push(id(&gateway.get(&format!("/v1/sessions/{SESSION}")).await));
    well.push(id(&gateway.get("/healthz").await));
    let broken = json!([secret, {"hunter2": "hunter2"}]);
    problems.push(id(&gateway.answer(post("/post/create", broken.to_string())).await));
    let unknown =
        gateway.request("GET", "/v1/events").bearer_auth("eye_hush").header("x-request-id", "not fit: hunter2");
    problems.push(id(&gateway.answer(unknown).await));
    problems.push(id(&gateway.get("/v1/s3cret-path").await));
    problems.push(id(&gateway.get("/v1/events?s3cret-query=1").await));
    problems.push(id(&gateway.answer(gateway.request("S3CRET", "/v1/events")).await));
    (well, problems)
}

/// A gateway with this access log. It waits until the log has `count` lines.
async fn logged(mode: &str, count: impl Fn(usize, usize) -> usize) -> (Gateway, Vec<Value>, Vec<String>, Vec<String>) {
    let setup = Setup::default().with("EYE_LOG_FORMAT", "json").with("EYE_ACCESS_LOG", mode);
    let mut gateway = setup.start().await;
    let (well, problems) = requests(&gateway).await;
    let wanted = count(well.len(), problems.len());
    let ours = |lines: Vec<Value>| -> Vec<Value> {
        let known = |line: &Value| well.iter().chain(&problems).any(|id| line["request_id"] == **id);
        lines.into_iter().filter(known).collect()
    };
    eventually("the lines are written", async || (ours(lines(&gateway)).len() >= wanted).then_some(())).await;
    gateway.signal("TERM");
    assert_eq!(gateway.ended().await.code(), Some(0));
    let found = ours(lines(&gateway));
    for secret in SECRETS {
        assert!(!gateway.log().contains(secret), "{secret} is in the log");
    }
    (gateway, found, well, problems)
}

fn ids(lines: &[Value]) -> Vec<String> {
    lines.iter().map(|line| line["request_id"].as_str().expect("an id").to_owned()).collect()
}

#[tokio::test]
async fn without_the_setting_there_is_no_line() {
    let (gateway, found, ..) = logged("off", |_, _| 0).await;
    assert!(found.is_empty() && lines(&gateway).is_empty(), "{found:?}");
}

#[tokio::test]
async fn problems_are_the_requests_that_were_refused_or_hold_events_that_were() {
    let (_, found, _, problems) = logged("problems", |_, problems| problems).await;
    assert_eq!(ids(&found), problems);
    let statuses: Vec<&Value> = found.iter().map(|line| &line["status"]).collect();
    assert_eq!(statuses, [207, 401, 404, 400, 405]);
}

#[tokio::test]
async fn all_has_one_line_for_each_request_with_what_is_known_of_it() {
    let (_, found, well, problems) = logged("all", |well, problems| well + problems).await;
    assert_eq!(ids(&found), [well, problems].concat());
    let mut sent = found[0].clone();
    let fields = sent.as_object_mut().expect("fields");
    assert!(fields.remove("duration_us").is_some_and(|us| us.as_u64().is_some_and(|us| us > 0)));
    assert!(fields.remove("bytes_in").is_some_and(|bytes| bytes.as_u64().is_some_and(|bytes| bytes > 100)));
    fields.remove("request_id");
    let wanted = json!({
        "message": "access", "caller_id": "job.7", "trace_id": TRACE, "application": "local", "peer": "127.0.0.1",
        "method": "POST", "route": "/v1/events", "status": 201,
        "stored": 1, "duplicate": 0, "rejected": 0, "quarantined": 0, "unfinished": 0
    });
    assert_eq!(sent, wanted);
    assert_eq!((&found[1]["route"], &found[1]["method"]), (&json!("/v1/sessions/{session_id}"), &json!("GET")));
    assert_eq!(found[2].get("application"), None, "nobody is asked who calls /healthz");
    assert_eq!(
        (&found[3]["stored"], &found[3]["rejected"], &found[3]["route"]),
        (&json!(1), &json!(1), &json!("/post/create"))
    );
    assert_eq!((found[4].get("caller_id"), found[4].get("application")), (None, None), "what is not known is left out");
    assert_eq!((found[5].get("route"), found[5].get("stored")), (None, None));
    assert_eq!(found[7]["method"], "other");
}

#[tokio::test]
async fn lines_come_as_text_too() {
    let gateway = Setup::default().with("EYE_ACCESS_LOG", "all").start().await;
    let answer = gateway.send(&event("a", "b", json!({}))).await;
    let named = format!("request_id={}", id(&answer));
    let line = eventually("the line is written", async || {
        gateway.log().lines().find(|line| line.contains(&named)).map(str::to_owned)
    })
    .await;
    for part in [" INFO access ", "application=\"local\"", "route=\"/v1/events\"", "status=201", "stored=1"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    assert!(!line.contains("caller_id"), "{line}");
}
